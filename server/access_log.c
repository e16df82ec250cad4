/* server/access_log.c - one line for each request, and the counters of HTTP.
 *
 * Lines are key=value. They hold sizes, times and counts, never a prompt or an answer. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/internal.h"

#define MAX_SERIES 256 /* handlers x methods x statuses that occur */

static const double duration_buckets[] = {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300};
#define N_DURATION_BUCKETS ((int)(sizeof(duration_buckets) / sizeof(*duration_buckets)))

struct access_log {
    FILE *file;
    bool failing; /* and what was written last may be no whole line */
    struct metric *m_lost;
    int n_series;
    struct series {
        const char *handler, *method;
        int status;
        struct metric *count;
    } series[MAX_SERIES];
    int n_handlers;
    struct {
        const char *handler;
        struct metric *seconds;
    } handlers[16];
};

int log_file_open(const char *path, mode_t mode)
{
    int how = O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK;
    int fd = open(path, O_WRONLY | how, mode);
    return fd < 0 && errno == ENXIO ? open(path, O_RDWR | how, mode) : fd;
}

static FILE *open_log(const char *path)
{
    int fd = log_file_open(path, 0666);
    FILE *f = fd >= 0 ? fdopen(fd, "a") : NULL;
    if (!f && fd >= 0)
        close(fd);
    return f;
}

int access_log_open(struct server *s, struct err *e)
{
    static char pending[4096]; /* of stderr, which has no buffer: each word would be a write of its own */
    const char *path = s->cfg->access_log_file;
    if (!s->access_log && !(s->access_log = calloc(1, sizeof(*s->access_log))))
        return err_set(e, ERR_NOMEM, "out of memory");
    if (!s->access_log->m_lost)
        s->access_log->m_lost = metrics_counter(s->metrics, "latentd_access_log_lost_total",
                                                "Lines of the access log that could not be written.", NULL);
    FILE *f = !s->cfg->access_log ? NULL : *path ? open_log(path) : stderr;
    if (!f && s->cfg->access_log)
        return err_set_param(e, ERR_IO, "access_log_file", "access_log_file %s: %s", path,
                             strerror(errno));
    if (f)
        setvbuf(f, f == stderr ? pending : NULL, _IOLBF, f == stderr ? sizeof(pending) : 0);
    if (s->access_log->file && s->access_log->file != stderr)
        fclose(s->access_log->file);
    s->access_log->file = f;
    return 0;
}

void access_log_close(struct server *s)
{
    if (s->access_log && s->access_log->file && s->access_log->file != stderr)
        fclose(s->access_log->file);
    free(s->access_log);
    s->access_log = NULL;
}

/* Methods come from the parser's fixed list, but a label is kept for those that we serve only. */
static const char *method_label(const struct conn *c)
{
    switch (c->log.handler ? c->parser.method : 0) {
    case HTTP_GET:
        return "GET";
    case HTTP_POST:
        return "POST";
    case HTTP_HEAD:
        return "HEAD";
    case HTTP_OPTIONS:
        return "OPTIONS";
    case HTTP_DELETE:
        return "DELETE";
    default:
        return "other";
    }
}

static void count(struct conn *c, double seconds)
{
    struct access_log *a = c->s->access_log;
    const char *method = method_label(c);
    char labels[160];
    int i;
    /* names are string literals: comparing pointers is enough, and a miss only costs a look-up */
    for (i = 0; i < a->n_series; i++)
        if (a->series[i].handler == c->log.handler && a->series[i].method == method &&
            a->series[i].status == c->log.status)
            break;
    if (i == a->n_series) {
        if (i == MAX_SERIES)
            return;
        snprintf(labels, sizeof(labels), "handler=\"%s\",method=\"%s\",status=\"%d\"", c->log.handler, method,
                 c->log.status);
        a->series[a->n_series++] = (struct series){
            c->log.handler, method, c->log.status,
            metrics_counter(c->s->metrics, "http_requests_total", "HTTP requests answered.", labels)};
    }
    metric_add(a->series[i].count, 1);
    for (i = 0; i < a->n_handlers; i++)
        if (a->handlers[i].handler == c->log.handler)
            break;
    if (i == a->n_handlers) {
        if (i == (int)(sizeof(a->handlers) / sizeof(*a->handlers)))
            return;
        snprintf(labels, sizeof(labels), "handler=\"%s\"", c->log.handler);
        a->handlers[i].handler = c->log.handler;
        a->handlers[i].seconds =
            metrics_histogram(c->s->metrics, "http_request_duration_seconds",
                              "From a request's first byte to its answer's last.", labels,
                              duration_buckets, N_DURATION_BUCKETS);
        a->n_handlers++;
    }
    metric_observe(a->handlers[i].seconds, seconds);
}

/* A target as one word of the line. */
static void write_quoted(FILE *f, const char *s, size_t max)
{
    fputc('"', f);
    for (size_t i = 0; s[i] && i < max; i++) {
        unsigned char ch = (unsigned char)s[i];
        if (ch == '"' || ch == '\\')
            fprintf(f, "\\%c", ch);
        else if (ch < 32 || ch > 126)
            fprintf(f, "\\x%02x", ch);
        else
            fputc(ch, f);
    }
    fputc('"', f);
}

/* Once until it works again. */
static void tell_lost(struct server *s, bool lost)
{
    struct access_log *a = s->access_log;
    if (lost) {
        int reason = errno;
        metric_add(a->m_lost, 1);
        clearerr(a->file);
        if (!a->failing)
            LOG_ERROR("access", "access_log_file %s cannot be written: %s",
                      a->file == stderr ? "(standard error)" : s->cfg->access_log_file, strerror(reason));
    }
    a->failing = lost;
}

void access_log_write(struct conn *c)
{
    const struct request_log *l = &c->log;
    FILE *f = c->s->access_log->file;
    double seconds = (double)(clock_now_ns() - l->begin_ns) * 1e-9;
    count(c, seconds);
    if (!f)
        return;
    char when[40];
    time_t now = (time_t)(clock_wall_ns() / 1000000000);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
    fprintf(f, "%stime=%s peer=%s", c->s->access_log->failing ? "\n" : "", when, c->peer);
    if (c->client_text[0])
        fprintf(f, " client=%s", c->client_text);
    fprintf(f, " method=%s path=", c->path || c->target ? llhttp_method_name(c->parser.method) : "-");
    write_quoted(f, c->path ? c->path : "-", 200);
    fprintf(f, " status=%d bytes=%llu ms=%.1f id=%s", l->status, (unsigned long long)l->bytes, seconds * 1e3,
            c->request_id);
    if (c->trace.sampled)
        fprintf(f, " trace=%s", c->trace.trace_id);
    if (access_key_name(c))
        fprintf(f, " key=%s", access_key_name(c));
    if (l->facts.prompt_tokens >= 0)
        fprintf(f, " prompt=%d cached=%d completion=%d", l->facts.prompt_tokens, l->facts.cached_tokens,
                l->facts.completion_tokens);
    if (l->facts.ttft_ns >= 0)
        fprintf(f, " ttft_ms=%.1f", (double)l->facts.ttft_ns * 1e-6);
    if (l->facts.finish)
        fprintf(f, " finish=%s", l->facts.finish);
    fputc('\n', f); /* here it is written */
    tell_lost(c->s, ferror(f) != 0);
}
