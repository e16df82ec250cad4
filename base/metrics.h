/* base/metrics.h - a registry of counters, gauges and histograms, and its Prometheus text form.
 *
 * Series are registered at start-up by whoever owns them (one thread), updated from any thread with
 * atomics, and rendered by the server. Several series may share a name and differ in labels; help
 * and type come from the first. Names follow vLLM and llama-server where the meaning is the same. */
#ifndef LATENT_BASE_METRICS_H
#define LATENT_BASE_METRICS_H

#include <stdint.h>
#include "base/buf.h"

struct metrics;
struct metric;

struct metrics *metrics_new(void);
void metrics_free(struct metrics **m);

/* `labels` is the text between the braces, already escaped (`model_name="x",engine="0"`), or NULL.
 * All strings are copied. The handle lives as long as the registry; NULL when out of memory, and
 * every update below accepts NULL and does nothing. */
struct metric *metrics_counter(struct metrics *m, const char *name, const char *help,
                               const char *labels);
struct metric *metrics_gauge(struct metrics *m, const char *name, const char *help,
                             const char *labels);
/* buckets: n ascending upper bounds without +Inf (added). */
struct metric *metrics_histogram(struct metrics *m, const char *name, const char *help,
                                 const char *labels, const double *buckets, int n_buckets);

void metric_add(struct metric *c, double v);     /* counter or gauge; relaxed, exact for integers */
void metric_set(struct metric *g, double v);     /* gauge */
void metric_observe(struct metric *h, double v); /* histogram */
double metric_value(const struct metric *c);     /* counter or gauge; histogram: its count */

/* Prometheus' text exposition format 0.0.4, or OpenMetrics 1.0.0; series with the same name together.
 * A counter whose name does not end in _total is of unknown type in OpenMetrics, which has no such
 * counters. */
enum metrics_format { METRICS_TEXT = 0, METRICS_OPENMETRICS };
int metrics_render(const struct metrics *m, enum metrics_format format, struct buf *out);
const char *metrics_content_type(enum metrics_format format);
/* Escapes a label value (backslash, quote, newline) into dst. */
void metrics_escape_label(const char *value, char *dst, int dst_bytes);

/* Bucket sets used by vLLM, see docs. */
extern const double metrics_buckets_ttft[], metrics_buckets_itl[], metrics_buckets_e2e[];
extern const int metrics_n_buckets_ttft, metrics_n_buckets_itl, metrics_n_buckets_e2e;

#endif
