/* server/watchdog.c - whether the engine gets on. A loop that turns proves nothing: what is watched is
 * the age of the engine's step. */
#include "config.h"

#include <dirent.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/internal.h"

#define MAX_THREADS_SHOWN 64

/* One line for a thread: its name, R, S, D or what it is, and the ticks that it had of the processor. */
static void log_thread(const char *id)
{
    char path[64], line[512];
    snprintf(path, sizeof(path), "/proc/self/task/%.16s/stat", id);
    FILE *f = fopen(path, "r");
    if (!f)
        return;
    size_t n = fread(line, 1, sizeof(line) - 1, f);
    fclose(f);
    line[n] = 0;
    char *name = strchr(line, '('), *end = strrchr(line, ')'), state = '?';
    unsigned long user = 0, system = 0;
    if (!name || !end || end[1] != ' ')
        return;
    *end = 0;
    if (sscanf(end + 2, "%c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &state, &user, &system) == 3)
        LOG_ERROR("watchdog", "thread %s (%s): state %c, %lu ticks of its own, %lu of the system", id,
                  name + 1, state, user, system);
}

static void log_state(const struct server *s)
{
    struct engine_counts n;
    int64_t age_ns = engine_step_age_ns(s->engine);
    engine_counts_read(s->engine, &n);
    LOG_ERROR("watchdog",
              "a step has been running for %.1f s: %d sequences run, %d wait; %d requests, %d connections",
              (double)age_ns / 1e9, n.running, n.waiting, api_active(s->api), s->n_conns);
    LOG_ERROR("watchdog",
              "%lld prompt tokens wait, the longest %.1f s; of %llu cache pages %llu are held, %llu cached, "
              "%llu free",
              (long long)n.waiting_tokens, (double)n.longest_wait_ns / 1e9, (unsigned long long)n.n_pages,
              (unsigned long long)n.pages_held, (unsigned long long)n.pages_cached,
              (unsigned long long)n.pages_free);
    DIR *d = opendir("/proc/self/task");
    int shown = 0;
    for (struct dirent *t; d && shown < MAX_THREADS_SHOWN && (t = readdir(d)) != NULL;)
        if (t->d_name[0] != '.') {
            log_thread(t->d_name);
            shown++;
        }
    if (d)
        closedir(d);
}

void watchdog_tick(struct server *s)
{
    int64_t now = clock_now_ns();
    bool stalled = step_is_stalled(s);
    if (stalled && !s->stall_told)
        log_state(s);
    if (!stalled && s->stall_told)
        LOG_WARN("watchdog", "the step has ended");
    s->stall_told = stalled;
    if (!stalled && s->watchdog_ns && now - s->watchdog_told_ns >= s->watchdog_ns / 4) {
        systemd_alive();
        s->watchdog_told_ns = now;
    }
}
