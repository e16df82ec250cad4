/* server/traces.h - traces on their way to a collector: OTLP over HTTP, as JSON.
 *
 * Spans come as text, wait in a queue of bounded size, and go in batches, one at a time. A collector that is
 * down, slow or says that it is busy is asked again, later and later; nobody else waits for it. What finds no
 * room, or is refused, is dropped and counted. Loop thread. */
#ifndef LATENT_SERVER_TRACES_H
#define LATENT_SERVER_TRACES_H

#include <stdbool.h>
#include <uv.h>
#include "base/buf.h"
#include "base/err.h"
#include "base/metrics.h"

struct server_config;
struct trace_settings;
struct traces;

/* Of the keys that begin with otlp_; *ret NULL where no endpoint is named. The error names the key. */
int traces_read(const struct server_config *cfg, struct trace_settings **ret,
                struct err *e) LATENT_MUST_CHECK;
void trace_settings_free(struct trace_settings **t); /* NULL-safe */

int traces_new(uv_loop_t *loop, struct metrics *m, struct traces **ret, struct err *e) LATENT_MUST_CHECK;
/* Takes the settings over, also in place of others; NULL: nothing is traced, and what waits is dropped. */
void traces_use(struct traces *t, struct trace_settings *settings);
bool traces_on(const struct traces *t);
/* Is one of the part that is traced? `random` is spread evenly. */
bool traces_sample(const struct traces *t, uint64_t random);
/* Spans of one request, objects of JSON with a comma between. Takes the memory. */
void traces_add(struct traces *t, struct buf *spans, int n_spans);
/* A request whose spans could not be made. */
void traces_lost(struct traces *t);
/* The loop ends: what waits is delivered (`deliver`) as far as otlp_timeout allows, and dropped else. Its
 * handles are closed by the loop afterwards. NULL-safe. */
void traces_end(struct traces *t, bool deliver);
void traces_free(struct traces **t); /* once the loop has run out; NULL-safe */

#endif
