/* engine/events.h - events on their way from the engine thread to the loop thread.
 *
 * An event and all it points to is one block; blocks come back through engine_event_free and are used
 * again, so that the token loop does not allocate once it runs. */
#ifndef LATENT_ENGINE_EVENTS_H
#define LATENT_ENGINE_EVENTS_H

#include "base/mailbox.h"
#include "engine/engine.h"

struct events;
struct event_block;

int events_new(uint32_t capacity, void (*wake)(void *arg), void *wake_arg, struct events **ret)
    LATENT_MUST_CHECK;
void events_free(struct events **ev); /* frees what was not taken */

/* A zeroed event with room for text_bytes of text, n_tokens tokens and n_top entries over all of
 * them; the arrays are reachable through the accessors. NULL: out of memory. Any thread. */
struct gen_event *events_get(struct events *ev, size_t text_bytes, int n_tokens, int n_top);
char *event_text(struct gen_event *e);
struct gen_token *event_tokens(struct gen_event *e);
struct token_logprob *event_top(struct gen_event *e);
void events_put(struct events *ev, struct gen_event *e); /* gives a block back; NULL-safe */

/* Posts an event; waits for room while `stopping` is false. The receiver is not woken before events_flush:
 * once for all that a step brings. */
void events_post(struct events *ev, struct gen_event *e, const _Atomic int *stopping);
void events_flush(struct events *ev);
struct gen_event *events_next(struct events *ev);

#endif
