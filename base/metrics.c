/* base/metrics.c - metric registry and its Prometheus text; see metrics.h. Values are doubles kept as
 * 64-bit patterns, so that updates are lock-free on every machine.
 *
 * The text is made on the loop thread while tokens wait there, every few seconds by every Prometheus. So
 * all of it that never changes is written once, when a series is added: a scrape copies it and puts numbers
 * between. */
#include "config.h"

#include "base/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum metric_type { COUNTER, GAUGE, HISTOGRAM };

/* Series of one name, which are told together. */
struct family {
    struct family *next;
    char *name, *help;
    enum metric_type type;
    struct metric *first, *last;
};

struct metric {
    struct metric *next;    /* of the family */
    enum metric_type type;
    _Atomic uint64_t value; /* bits of a double; histogram: the sum */
    int n_buckets;          /* without +Inf */
    double *bounds;
    _Atomic uint64_t *counts; /* n_buckets + 1 */
    /* What stands before each of its numbers: one text, and where each part ends in it. A histogram has one
     * for every bucket, then its sum and its count. */
    char *text;
    uint32_t *ends;
    int n_parts;
};

struct metrics {
    pthread_mutex_t lock; /* guards the lists; values are atomics */
    struct family *first, *last;
    size_t bytes; /* of the last text, and a little more */
};

const double metrics_buckets_ttft[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75,
                                       1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560};
const double metrics_buckets_itl[] = {.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75,
                                      1, 2.5, 5, 7.5, 10, 20, 40, 80};
const double metrics_buckets_e2e[] = {.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20,
                                      30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
const int metrics_n_buckets_ttft = (int)(sizeof(metrics_buckets_ttft) / sizeof(double));
const int metrics_n_buckets_itl = (int)(sizeof(metrics_buckets_itl) / sizeof(double));
const int metrics_n_buckets_e2e = (int)(sizeof(metrics_buckets_e2e) / sizeof(double));

static double of_bits(uint64_t u)
{
    double d;
    memcpy(&d, &u, sizeof(d));
    return d;
}

static uint64_t to_bits(double d)
{
    uint64_t u;
    memcpy(&u, &d, sizeof(u));
    return u;
}

struct metrics *metrics_new(void)
{
    struct metrics *m = calloc(1, sizeof(*m));
    if (m)
        pthread_mutex_init(&m->lock, NULL);
    return m;
}

static void metric_free(struct metric *s)
{
    if (!s)
        return;
    free(s->bounds);
    free(s->counts);
    free(s->text);
    free(s->ends);
    free(s);
}

static void family_free(struct family *f)
{
    if (!f)
        return;
    while (f->first) {
        struct metric *next = f->first->next;
        metric_free(f->first);
        f->first = next;
    }
    free(f->name);
    free(f->help);
    free(f);
}

void metrics_free(struct metrics **p)
{
    struct metrics *m = *p;
    *p = NULL;
    if (!m)
        return;
    while (m->first) {
        struct family *next = m->first->next;
        family_free(m->first);
        m->first = next;
    }
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static struct family *family_of(struct metrics *m, enum metric_type type, const char *name, const char *help)
{
    struct family *f;
    for (f = m->first; f; f = f->next)
        if (!strcmp(f->name, name))
            return f;
    if (!(f = calloc(1, sizeof(*f))))
        return NULL;
    f->type = type;
    f->name = strdup(name);
    f->help = strdup(help);
    if (!f->name || !f->help) {
        family_free(f);
        return NULL;
    }
    if (m->last)
        m->last->next = f;
    else
        m->first = f;
    m->last = f;
    return f;
}

/* `name_bucket{labels,le="0.5"} `: what stands before one number. */
static int write_part(struct buf *b, const char *name, const char *suffix, const char *labels, const char *le)
{
    int r = buf_printf(b, "%s%s", name, suffix);
    if (r == 0 && (*labels || *le))
        r = buf_printf(b, "{%s%s%s%s%s}", labels, *labels && *le ? "," : "", *le ? "le=\"" : "", le,
                       *le ? "\"" : "");
    return r < 0 ? r : buf_puts(b, " ");
}

static int write_parts(struct metric *s, const char *name, const char *labels)
{
    struct buf b;
    char le[32];
    int n = 0, r = 0;
    s->n_parts = s->type == HISTOGRAM ? s->n_buckets + 3 : 1;
    s->ends = calloc((size_t)s->n_parts, sizeof(*s->ends));
    if (!s->ends)
        return ERR_NOMEM;
    buf_init(&b, UINT32_MAX);
    if (s->type != HISTOGRAM)
        r = write_part(&b, name, "", labels, "");
    for (int i = 0; s->type == HISTOGRAM && i <= s->n_buckets && r == 0; i++) {
        if (i < s->n_buckets)
            snprintf(le, sizeof(le), s->bounds[i] == floor(s->bounds[i]) ? "%.1f" : "%.9g", s->bounds[i]);
        else
            snprintf(le, sizeof(le), "+Inf");
        r = write_part(&b, name, "_bucket", labels, le);
        s->ends[n++] = (uint32_t)b.n_bytes;
    }
    if (s->type == HISTOGRAM && r == 0) {
        r = write_part(&b, name, "_sum", labels, "");
        s->ends[n++] = (uint32_t)b.n_bytes;
        r = r < 0 ? r : write_part(&b, name, "_count", labels, "");
    }
    s->ends[n] = (uint32_t)b.n_bytes;
    s->text = buf_take(&b, NULL);
    return r;
}

static struct metric *add(struct metrics *m, enum metric_type type, const char *name,
                          const char *help, const char *labels, const double *buckets,
                          int n_buckets)
{
    if (!m)
        return NULL;
    struct metric *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->type = type;
    s->n_buckets = n_buckets;
    if (type == HISTOGRAM) {
        s->bounds = calloc((size_t)n_buckets + 1, sizeof(*s->bounds));
        s->counts = calloc((size_t)n_buckets + 1, sizeof(*s->counts));
        if (s->bounds)
            memcpy(s->bounds, buckets, (size_t)n_buckets * sizeof(*buckets));
    }
    if ((type == HISTOGRAM && (!s->bounds || !s->counts)) || write_parts(s, name, labels ? labels : "") < 0) {
        metric_free(s);
        return NULL;
    }
    pthread_mutex_lock(&m->lock);
    struct family *f = family_of(m, type, name, help);
    if (f && f->last)
        f->last->next = s;
    else if (f)
        f->first = s;
    if (f)
        f->last = s;
    pthread_mutex_unlock(&m->lock);
    if (!f) {
        metric_free(s);
        return NULL;
    }
    return s;
}

struct metric *metrics_counter(struct metrics *m, const char *name, const char *help,
                               const char *labels)
{
    return add(m, COUNTER, name, help, labels, NULL, 0);
}

struct metric *metrics_gauge(struct metrics *m, const char *name, const char *help,
                             const char *labels)
{
    return add(m, GAUGE, name, help, labels, NULL, 0);
}

struct metric *metrics_histogram(struct metrics *m, const char *name, const char *help,
                                 const char *labels, const double *buckets, int n_buckets)
{
    return add(m, HISTOGRAM, name, help, labels, buckets, n_buckets);
}

void metric_add(struct metric *c, double v)
{
    if (!c)
        return;
    uint64_t old = atomic_load_explicit(&c->value, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&c->value, &old, to_bits(of_bits(old) + v),
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

void metric_set(struct metric *g, double v)
{
    if (g)
        atomic_store_explicit(&g->value, to_bits(v), memory_order_relaxed);
}

void metric_observe(struct metric *h, double v)
{
    if (!h || isnan(v))
        return;
    int i = 0;
    while (i < h->n_buckets && v > h->bounds[i])
        i++;
    atomic_fetch_add_explicit(&h->counts[i], 1, memory_order_relaxed);
    metric_add(h, v);
}

double metric_value(const struct metric *c)
{
    if (!c)
        return 0;
    if (c->type != HISTOGRAM)
        return of_bits(atomic_load_explicit(&c->value, memory_order_relaxed));
    uint64_t n = 0;
    for (int i = 0; i <= c->n_buckets; i++)
        n += atomic_load_explicit(&c->counts[i], memory_order_relaxed);
    return (double)n;
}

/* --- text -------------------------------------------------------------------------------------- */

#define NUMBER_BYTES 32 /* of a number and its end of line, at most */

/* Most values are counts, and most of those 0: printf is ten times as much as all the rest. */
static size_t write_number(char *dst, double v)
{
    if (v >= 0 && v < 9007199254740992.0 && v == floor(v) && !signbit(v)) {
        char digits[20];
        size_t n = 0, len = 0;
        uint64_t u = (uint64_t)v;
        do
            digits[n++] = (char)('0' + u % 10);
        while ((u /= 10) > 0);
        while (n > 0)
            dst[len++] = digits[--n];
        dst[len++] = '\n';
        return len;
    }
    if (!isfinite(v))
        return (size_t)snprintf(dst, NUMBER_BYTES, "%s\n", isnan(v) ? "NaN" : v > 0 ? "+Inf" : "-Inf");
    bool whole = v == floor(v) && fabs(v) < 9007199254740992.0;
    return (size_t)snprintf(dst, NUMBER_BYTES, whole ? "%.0f\n" : "%.12g\n", v);
}

/* Of part i of a histogram: counts add up in *total. */
static double part_value(const struct metric *s, int i, uint64_t *total)
{
    if (s->type != HISTOGRAM || i == s->n_buckets + 1)
        return of_bits(atomic_load_explicit(&s->value, memory_order_relaxed));
    if (i <= s->n_buckets)
        *total += atomic_load_explicit(&s->counts[i], memory_order_relaxed);
    return (double)*total;
}

static int put_series(struct buf *out, const struct metric *s)
{
    uint64_t total = 0;
    uint32_t from = 0;
    int r = buf_reserve(out, s->ends[s->n_parts - 1] + (size_t)s->n_parts * NUMBER_BYTES);
    if (r < 0)
        return r;
    char *at = out->data + out->n_bytes;
    for (int i = 0; i < s->n_parts; i++) {
        memcpy(at, s->text + from, s->ends[i] - from);
        at += s->ends[i] - from;
        at += write_number(at, part_value(s, i, &total));
        from = s->ends[i];
    }
    *at = 0;
    out->n_bytes = (size_t)(at - out->data);
    return 0;
}

/* OpenMetrics names the family of a counter without its _total. */
static int put_head(struct buf *out, const struct family *f, enum metrics_format format)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    const char *type = types[f->type];
    int n = (int)strlen(f->name);
    if (format == METRICS_OPENMETRICS && f->type == COUNTER) {
        bool total = n > 6 && !strcmp(f->name + n - 6, "_total");
        n -= total ? 6 : 0;
        type = total ? type : "unknown";
    }
    return buf_printf(out, "# HELP %.*s %s\n# TYPE %.*s %s\n", n, f->name, f->help, n, f->name, type);
}

int metrics_render(const struct metrics *cm, enum metrics_format format, struct buf *out)
{
    struct metrics *m = (struct metrics *)(uintptr_t)cm;
    pthread_mutex_lock(&m->lock);
    int r = 0;
    (void)!buf_reserve(out, m->bytes); /* a guess: what does not fit shows below */
    for (const struct family *f = m->first; f && r == 0; f = f->next) {
        r = put_head(out, f, format);
        for (const struct metric *s = f->first; s && r == 0; s = s->next)
            r = put_series(out, s);
    }
    m->bytes = r == 0 ? out->n_bytes + out->n_bytes / 16 : 0;
    pthread_mutex_unlock(&m->lock);
    return r == 0 && format == METRICS_OPENMETRICS ? buf_puts(out, "# EOF\n") : r;
}

const char *metrics_content_type(enum metrics_format format)
{
    return format == METRICS_OPENMETRICS ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                         : "text/plain; version=0.0.4; charset=utf-8";
}

void metrics_escape_label(const char *value, char *dst, int dst_bytes)
{
    int n = 0;
    for (; *value && n < dst_bytes - 2; value++) {
        if (*value == '\\' || *value == '"' || *value == '\n')
            dst[n++] = '\\';
        dst[n++] = *value == '\n' ? 'n' : *value;
    }
    dst[n] = 0;
}
