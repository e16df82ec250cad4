/* server/audit.c - the audit log: one JSON line a request, for accounting and for questions afterwards.
 *
 *   {"time":"2026-01-31T12:00:00.123Z","key":"alice","client":"10.0.0.7","method":"POST",
 *    "route":"/v1/completions","model":"latent-mini","status":200,"prompt_tokens":5,"cached_tokens":0,
 *    "completion_tokens":16,"duration_ms":81.2,"request_id":"req-...","finish":"stop"}
 *
 * key is null where none was needed or the one sent is not known; token counts are null for what generates
 * nothing. Prompts are told only with audit_prompts, as "body". Keys never are. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/internal.h"
#include "server/json.h"

#define LINE_SPARE 8192 /* beside the body: a path, names, numbers */

struct audit {
    int fd; /* -1: none */
    bool failing;
    bool torn; /* what was written last is no whole line */
    struct metric *m_lost;
};

/* The disk was full, now or when another process wrote: what comes next must not join that line. */
static bool ends_within_line(const char *path, int fd)
{
    struct stat st;
    char last = '\n';
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
        return false;
    int in = open(path, O_RDONLY | O_CLOEXEC);
    if (in >= 0) {
        (void)!pread(in, &last, 1, st.st_size - 1);
        close(in);
    }
    return last != '\n';
}

int audit_open(struct server *s, struct err *e)
{
    const char *path = s->cfg->audit_log_file;
    if (!s->audit) {
        s->audit = calloc(1, sizeof(*s->audit));
        if (!s->audit)
            return err_set(e, ERR_NOMEM, "out of memory");
        s->audit->fd = -1;
    }
    if (!s->audit->m_lost && *path)
        s->audit->m_lost = metrics_counter(s->metrics, "latentd_audit_lost_total",
                                           "Lines of the audit log that could not be written.", NULL);
    int fd = -1;
    /* who asked what is not everybody's to read */
    if (*path && (fd = log_file_open(path, 0600)) < 0)
        return err_set_param(e, ERR_IO, "audit_log_file", "audit_log_file %s: %s", path, strerror(errno));
    if (s->audit->fd >= 0)
        close(s->audit->fd);
    s->audit->fd = fd;
    s->audit->torn = fd >= 0 && ends_within_line(path, fd);
    return 0;
}

void audit_close(struct server *s)
{
    if (s->audit && s->audit->fd >= 0)
        close(s->audit->fd);
    free(s->audit);
    s->audit = NULL;
}

bool audit_wants_body(const struct server *s)
{
    return s->audit->fd >= 0 && s->cfg->audit_prompts > 0;
}

/* ,"name":"value", or null. */
static int put(struct buf *b, const char *name, const char *value, size_t n_bytes)
{
    int r = buf_printf(b, ",\"%s\":", name);
    if (r < 0 || !value)
        return r < 0 ? r : buf_puts(b, "null");
    return json_string(b, value, n_bytes);
}

static int put_text(struct buf *b, const char *name, const char *value)
{
    return put(b, name, value, value ? strlen(value) : 0);
}

static int put_count(struct buf *b, const char *name, int n)
{
    return n < 0 ? buf_printf(b, ",\"%s\":null", name) : buf_printf(b, ",\"%s\":%d", name, n);
}

static int build(const struct conn *c, struct buf *b)
{
    const struct request_log *l = &c->log;
    const struct server *s = c->s;
    char when[40], client[sizeof(c->peer)];
    int64_t now = clock_wall_ns();
    time_t seconds = (time_t)(now / NS_PER_SEC);
    struct tm tm;
    bool generates = l->facts.prompt_tokens >= 0;
    gmtime_r(&seconds, &tm);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
    conn_client(c, client, sizeof(client));
    int r = buf_printf(b, "%s{\"time\":\"%s.%03dZ\"", s->audit->torn ? "\n" : "", when,
                       (int)(now / NS_PER_MS % 1000));
    r = r < 0 ? r : put_text(b, "key", access_key_name(c));
    r = r < 0 ? r : put_text(b, "client", client);
    r = r < 0 ? r : put_text(b, "method", c->path || c->target ? llhttp_method_name(c->parser.method) : NULL);
    r = r < 0 ? r : put(b, "route", c->path, c->path ? strnlen(c->path, 512) : 0);
    r = r < 0 ? r : put_text(b, "model", generates ? engine_info(s->engine)->model_id : NULL);
    r = r < 0 ? r : buf_printf(b, ",\"status\":%d", l->status);
    r = r < 0 ? r : put_count(b, "prompt_tokens", l->facts.prompt_tokens);
    r = r < 0 ? r : put_count(b, "cached_tokens", l->facts.cached_tokens);
    r = r < 0 ? r : put_count(b, "completion_tokens", l->facts.completion_tokens);
    r = r < 0 ? r : buf_printf(b, ",\"duration_ms\":%.1f", (double)(clock_now_ns() - l->begin_ns) * 1e-6);
    r = r < 0 ? r : put_text(b, "request_id", c->request_id);
    r = r < 0 ? r : put_text(b, "finish", l->facts.finish);
    if (r == 0 && c->audited.n_bytes)
        r = put(b, "body", c->audited.data, c->audited.n_bytes);
    return r < 0 ? r : buf_puts(b, "}\n");
}

void audit_write(const struct conn *c)
{
    struct audit *a = c->s->audit;
    struct buf b;
    if (a->fd < 0)
        return;
    buf_init(&b, LINE_SPARE + 6 * 3 * c->audited.n_bytes);
    /* one write a line: lines of several processes do not mix */
    bool built = build(c, &b) == 0;
    ssize_t n = built ? write(a->fd, b.data, b.n_bytes) : -1;
    bool ok = n == (ssize_t)b.n_bytes;
    if (!built)
        errno = ENOMEM;
    else if (n >= 0 && !ok)
        errno = ENOSPC; /* it does not say why */
    if (n > 0)
        a->torn = !ok;
    buf_done(&b);
    if (!ok)
        metric_add(a->m_lost, 1);
    if (!ok && !a->failing)
        LOG_ERROR("access", "audit_log_file %s cannot be written: %s", c->s->cfg->audit_log_file,
                  strerror(errno));
    a->failing = !ok;
}
