/* api/beam.h - beam search: of all answers that w beams can reach, those with the best log-probability.
 * Each step asks the engine for the likeliest next tokens of every beam, as so many requests of one token;
 * beams share their pages through the prefix cache. One prompt, no stream. Loop thread. */
#ifndef LATENT_API_BEAM_H
#define LATENT_API_BEAM_H

#include "api/internal.h"

struct beam_search;

/* In place of submitting the prompt; sets x->beam. On failure the caller answers. */
int beam_start(struct api_exchange *x, struct err *e) LATENT_MUST_CHECK;
/* An event of one of its requests. */
void beam_event(struct api_exchange *x, struct prompt *slot, const struct gen_event *ev);
/* Goes on with what the queue had no room for. NULL-safe as to x->beam; may end x. */
void beam_poll(struct api_exchange *x);
int beam_live(const struct beam_search *b); /* requests without their last event; NULL-safe */
void beam_cancel(struct api_exchange *x);
void beam_free(struct api_exchange *x);

#endif
