/* server/trace.h - the trace that a request belongs to: W3C Trace Context, level 1. Ids are lowercase hex, as
 * they are told everywhere. Thread safe. */
#ifndef LATENT_SERVER_TRACE_H
#define LATENT_SERVER_TRACE_H

#include <stdbool.h>

#define TRACE_STATE_MAX 512

struct trace_context {
    char trace_id[33], parent_id[17], span_id[17]; /* span_id: ours; "" where nothing is traced */
    bool given;                                    /* by the client: parent_id is its span */
    bool repeated;                                 /* there were two traceparents, which is none */
    bool sampled;
    char state[TRACE_STATE_MAX + 1]; /* tracestate, passed on as it is; "" when longer */
    bool state_lost;
};

void trace_reset(struct trace_context *t);
/* A traceparent header: false, and nothing is changed, where it is malformed. */
bool trace_read_parent(struct trace_context *t, const char *value);
/* A line of tracestate; several are one list. */
void trace_read_state(struct trace_context *t, const char *value);

#endif
