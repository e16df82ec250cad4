/* server/systemd.c - tells the service manager what goes on; nothing without one. */
#include "config.h"

#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

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

void systemd_stopping(void)
{
    notify("STOPPING=1", "finishing what runs");
}
