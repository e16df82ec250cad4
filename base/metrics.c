/* base/metrics.c - metric registry and its Prometheus text; see metrics.h. Values are doubles kept as
 * 64-bit patterns, so that updates are lock-free on every machine. */
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

struct metric {
    struct metric *next;
    char *name, *help, *labels; /* labels may be "" */
    enum metric_type type;
    _Atomic uint64_t value;     /* bits of a double; histogram: the sum */
    int n_buckets;              /* without +Inf */
    double *bounds;
    _Atomic uint64_t *counts;   /* n_buckets + 1 */
};

struct metrics {
    pthread_mutex_t lock; /* guards the list; values are atomics */
    struct metric *first, *last;
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
    free(s->name);
    free(s->help);
    free(s->labels);
    free(s->bounds);
    free(s->counts);
    free(s);
}

void metrics_free(struct metrics **p)
{
    struct metrics *m = *p;
    *p = NULL;
    if (!m)
        return;
    while (m->first) {
        struct metric *next = m->first->next;
        metric_free(m->first);
        m->first = next;
    }
    pthread_mutex_destroy(&m->lock);
    free(m);
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
    s->name = strdup(name);
    s->help = strdup(help);
    s->labels = strdup(labels ? labels : "");
    s->n_buckets = n_buckets;
    if (type == HISTOGRAM) {
        s->bounds = calloc((size_t)n_buckets + 1, sizeof(*s->bounds));
        s->counts = calloc((size_t)n_buckets + 1, sizeof(*s->counts));
        if (s->bounds)
            memcpy(s->bounds, buckets, (size_t)n_buckets * sizeof(*buckets));
    }
    if (!s->name || !s->help || !s->labels || (type == HISTOGRAM && (!s->bounds || !s->counts))) {
        metric_free(s);
        return NULL;
    }
    pthread_mutex_lock(&m->lock);
    if (m->last)
        m->last->next = s;
    else
        m->first = s;
    m->last = s;
    pthread_mutex_unlock(&m->lock);
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

static int put_number(struct buf *out, double v)
{
    if (v == floor(v) && fabs(v) < 9007199254740992.0)
        return buf_printf(out, " %.0f\n", v);
    if (!isfinite(v))
        return buf_puts(out, isnan(v) ? " NaN\n" : v > 0 ? " +Inf\n" : " -Inf\n");
    return buf_printf(out, " %.12g\n", v);
}

static int put_sample(struct buf *out, const struct metric *s, const char *suffix, const char *le,
                      double v)
{
    int r = buf_printf(out, "%s%s", s->name, suffix);
    if (r == 0 && (s->labels[0] || le))
        r = buf_printf(out, "{%s%s%s%s%s}", s->labels, s->labels[0] && le ? "," : "",
                       le ? "le=\"" : "", le ? le : "", le ? "\"" : "");
    return r < 0 ? r : put_number(out, v);
}

static int put_series(struct buf *out, const struct metric *s)
{
    int r;
    char le[32];
    double total = 0;
    if (s->type != HISTOGRAM)
        return put_sample(out, s, "", NULL, metric_value(s));
    for (int i = 0; i <= s->n_buckets; i++) {
        total += (double)atomic_load_explicit(&s->counts[i], memory_order_relaxed);
        if (i < s->n_buckets)
            snprintf(le, sizeof(le), s->bounds[i] == floor(s->bounds[i]) ? "%.1f" : "%.9g", s->bounds[i]);
        else
            snprintf(le, sizeof(le), "+Inf");
        if ((r = put_sample(out, s, "_bucket", le, total)) < 0)
            return r;
    }
    if ((r = put_sample(out, s, "_sum", NULL,
                        of_bits(atomic_load_explicit(&s->value, memory_order_relaxed)))) < 0)
        return r;
    return put_sample(out, s, "_count", NULL, total);
}

/* OpenMetrics names the family of a counter without its _total. */
static int put_head(struct buf *out, const struct metric *s, enum metrics_format format)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    const char *type = types[s->type];
    int n = (int)strlen(s->name);
    if (format == METRICS_OPENMETRICS && s->type == COUNTER) {
        bool total = n > 6 && !strcmp(s->name + n - 6, "_total");
        n -= total ? 6 : 0;
        type = total ? type : "unknown";
    }
    return buf_printf(out, "# HELP %.*s %s\n# TYPE %.*s %s\n", n, s->name, s->help, n, s->name, type);
}

int metrics_render(const struct metrics *cm, enum metrics_format format, struct buf *out)
{
    struct metrics *m = (struct metrics *)(uintptr_t)cm;
    int r = 0;
    pthread_mutex_lock(&m->lock);
    for (const struct metric *s = m->first; s && r == 0; s = s->next) {
        const struct metric *t = m->first;
        while (strcmp(t->name, s->name))
            t = t->next;
        if (t != s)
            continue; /* printed with the first of its name */
        r = put_head(out, s, format);
        for (t = s; t && r == 0; t = t->next)
            if (!strcmp(t->name, s->name))
                r = put_series(out, t);
    }
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
