/* server/metrics.c - GET /metrics: Prometheus' text, or OpenMetrics for who prefers it; and the series of the
 * process itself, which are read when they are asked for. Loop thread. */
#include "config.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/internal.h"

#define METRICS_MAX (16u << 20) /* five series for each of 8192 names of keys (limits.c) are 6 MiB */

/* Of a list of media ranges (RFC 9110, 12.5.1), how much `type` is wanted: 0 .. 1000, -1 where it is not
 * named. */
static int quality(const char *accept, const char *type)
{
    size_t n = strlen(type);
    for (const char *at = accept; *at; at += strcspn(at, ","), at += *at == ',') {
        at += strspn(at, " \t");
        if (strncasecmp(at, type, n) != 0 || !strchr(" \t;,", at[n]))
            continue;
        const char *end = at + strcspn(at, ",");
        for (const char *p = at; (p = memchr(p, ';', (size_t)(end - p))) != NULL;) {
            p++;
            p += strspn(p, " \t");
            if ((*p == 'q' || *p == 'Q') && p[1] == '=') {
                double q = strtod(p + 2, NULL);
                return q >= 0 && q <= 1 ? (int)(q * 1000) : 0;
            }
        }
        return 1000;
    }
    return -1;
}

void metrics_header(struct conn *c, const char *value)
{
    int open = quality(value, "application/openmetrics-text");
    c->openmetrics = open > 0 && open >= quality(value, "text/plain");
}

int metrics_start(struct server *s, struct err *e)
{
    struct process_metrics *p = &s->process;
    struct timespec now;
    if (!(s->metrics = metrics_new()))
        return err_set(e, ERR_NOMEM, "out of memory");
    s->m_connections = metrics_gauge(s->metrics, "http_connections", "Open connections.", NULL);
    s->m_rejected = metrics_counter(s->metrics, "http_connections_rejected_total",
                                    "Connections refused because of max_connections.", NULL);
    s->m_displaced = metrics_counter(s->metrics, "latentd_connections_displaced_total",
                                     "Waiting connections closed for new ones because of max_connections.",
                                     NULL);
    s->m_handshakes = metrics_counter(s->metrics, "latentd_tls_handshakes_total", "TLS handshakes.",
                                      "result=\"ok\"");
    s->m_handshakes_failed =
        metrics_counter(s->metrics, "latentd_tls_handshakes_total", "TLS handshakes.", "result=\"failed\"");
    p->cpu = metrics_counter(s->metrics, "process_cpu_seconds_total", "User and system time.", NULL);
    p->resident = metrics_gauge(s->metrics, "process_resident_memory_bytes", "Resident memory.", NULL);
    p->virt = metrics_gauge(s->metrics, "process_virtual_memory_bytes", "Virtual memory.", NULL);
    p->fds = metrics_gauge(s->metrics, "process_open_fds", "Open file descriptors.", NULL);
    p->max_fds = metrics_gauge(s->metrics, "process_max_fds", "Most file descriptors.", NULL);
    p->start = metrics_gauge(s->metrics, "process_start_time_seconds", "When it started, in Unix time.",
                             NULL);
    p->step_age = metrics_gauge(s->metrics, "latentd_step_age_seconds",
                                "How long the step that runs has run; 0: none does.", NULL);
    clock_gettime(CLOCK_REALTIME, &now);
    p->start_s = now.tv_sec;
    metric_set(p->start, (double)now.tv_sec + (double)(now.tv_nsec / 10000000) / 100); /* not rounded up */
    metric_set(metrics_gauge(s->metrics, "latentd_build_info", "The program's version; always 1.",
                             "version=\"" PACKAGE_VERSION "\""), 1);
    return 0;
}

static int count_fds(void)
{
    struct stat st;
    if (stat("/proc/self/fd", &st) == 0 && st.st_size > 0) /* since Linux 6.2; before, 0 */
        return (int)st.st_size;
    DIR *d = opendir("/proc/self/fd");
    int n = -3; /* ".", ".." and the folder itself */
    if (!d)
        return 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void read_process(struct server *s)
{
    struct process_metrics *p = &s->process;
    struct rusage u;
    struct rlimit limit;
    if (getrusage(RUSAGE_SELF, &u) == 0) {
        double t = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                   (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
        metric_add(p->cpu, t - metric_value(p->cpu));
    }
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long total, resident;
    if (f && fscanf(f, "%lu %lu", &total, &resident) == 2) {
        double page = (double)sysconf(_SC_PAGESIZE);
        metric_set(p->virt, (double)total * page);
        metric_set(p->resident, (double)resident * page);
    }
    if (f)
        fclose(f);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        metric_set(p->max_fds, (double)limit.rlim_cur);
    metric_set(p->fds, count_fds());
    metric_set(p->step_age, (double)engine_step_age_ns(s->engine) / 1e9);
}

void metrics_answer(struct conn *c)
{
    struct buf text;
    char started[64];
    enum metrics_format format = c->openmetrics ? METRICS_OPENMETRICS : METRICS_TEXT;
    read_process(c->s);
    snprintf(started, sizeof(started), "Process-Start-Time-Unix: %lld\r\n", (long long)c->s->process.start_s);
    buf_init(&text, METRICS_MAX);
    if (metrics_render(c->s->metrics, format, &text) < 0)
        reply_refusal(c, 503, "out of memory");
    else
        reply_simple(c, 200, metrics_content_type(format), started, text.data ? text.data : "", text.n_bytes);
    buf_done(&text);
}
