/* server/systemd.c - what goes on, told to the service manager, and the sockets it hands over; nothing
 * without one. */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "base/clock.h"
#include "server/internal.h"

static void notify(const char *state, const char *text)
{
#ifdef HAVE_SYSTEMD
    sd_notifyf(0, "%s\nSTATUS=%s", state, text);
#else
    (void)state;
    (void)text;
#endif
}

void systemd_ready(void)
{
    notify("READY=1", "serving");
}

/* A long load would else run into the unit's start timeout. */
void systemd_loading(int percent)
{
    char text[64];
    snprintf(text, sizeof(text), "loading the model: %d %%", percent);
    notify("EXTEND_TIMEOUT_USEC=60000000", text);
}

void systemd_reloading(void)
{
    char state[64];
    snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)(clock_now_ns() / 1000));
    notify(state, "reading the configuration again");
}

/* drain_timeout may have been changed and the unit's TimeoutStopSec not; less than that it does not
 * become. */
void systemd_stopping(long long timeout_ms)
{
    char state[64];
    snprintf(state, sizeof(state), "STOPPING=1\nEXTEND_TIMEOUT_USEC=%lld", timeout_ms * 1000);
    notify(state, "finishing what runs");
}

int64_t systemd_watchdog_ns(void)
{
#ifdef HAVE_SYSTEMD
    uint64_t usec = 0;
    return sd_watchdog_enabled(0, &usec) > 0 ? (int64_t)usec * 1000 : 0;
#else
    return 0;
#endif
}

void systemd_alive(void)
{
#ifdef HAVE_SYSTEMD
    sd_notify(0, "WATCHDOG=1");
#endif
}

int systemd_sockets(struct passed_socket *ret, int most, struct err *e)
{
#ifdef HAVE_SYSTEMD
    char **names = NULL;
    int n = sd_listen_fds_with_names(1, &names), r = 0;
    if (n < 0)
        return err_set(e, ERR_IO, "sockets of the service manager: %s", strerror(-n));
    for (int i = 0; i < n; i++) {
        int fd = SD_LISTEN_FDS_START + i;
        if (r == 0 && n > most)
            r = err_set(e, ERR_LIMIT, "the service manager hands over %d sockets, at most %d are taken", n,
                        most);
        else if (r == 0 && sd_is_socket(fd, 0, SOCK_STREAM, 1) <= 0)
            r = err_set(e, ERR_INVAL,
                        "socket \"%.64s\" of the service manager is not a listening stream socket", names[i]);
        else if (r == 0)
            ret[i] = (struct passed_socket){.fd = fd,
                                            .is_unix = sd_is_socket(fd, AF_UNIX, SOCK_STREAM, 1) > 0,
                                            .tls = strstr(names[i], "tls") != NULL,
                                            .proxy = strstr(names[i], "proxy") != NULL};
        free(names[i]);
    }
    free(names);
    return r < 0 ? r : n;
#else
    (void)ret;
    (void)most;
    (void)e;
    return 0;
#endif
}
