/* engine/sampler.h - from logits to a token id. One sampler per choice; its draws depend only on the
 * logits, the parameters and the index of the output token, so that a choice is the same alone, in a
 * batch, and after preemption. */
#ifndef LATENT_ENGINE_SAMPLER_H
#define LATENT_ENGINE_SAMPLER_H

#include "engine/engine.h"
#include "engine/kernels/kern.h"

struct sampler;

/* Work space for one thread; vocab_size entries. */
struct sampler_scratch;
struct sampler_scratch *sampler_scratch_new(const struct kernels *kern,
                                            int vocab_size); /* NULL: out of memory */
void sampler_scratch_free(struct sampler_scratch *s);

/* Counts prompt tokens if a repetition penalty wants them. tokens: the prompt, where the output follows as
 * it is accepted; read by what looks at sequences of tokens (DRY, bad words). room: output tokens to come.
 * tokenizer may be NULL. Parameters, tokens and tokenizer are borrowed. ERR_NOMEM. */
int sampler_new(const struct sampling_params *p, int choice, int vocab_size, const int32_t *tokens,
                int n_prompt, int room, const struct tokenizer *tokenizer,
                struct sampler **ret) LATENT_MUST_CHECK;
void sampler_free(struct sampler **s);

/* Chooses the token that follows. logits [vocab_size] are written to, and afterwards as they were. banned
 * (n_banned ids) cannot be chosen. index: how many output tokens came before. ERR_INTERNAL when a logit
 * is not finite, ERR_LIMIT where nothing may be chosen, ERR_NOMEM. */
int sampler_pick(const struct sampler *s, struct sampler_scratch *scratch, float *logits,
                 const int32_t *banned, int n_banned, int index, int32_t *ret_token)
    LATENT_MUST_CHECK;
/* The same of the tokens with a bit in mask only (id i: bit i % 32 of word i / 32), whatever else is asked
 * for: the others are taken out before bias, penalties and all that follows. logits stay as they are. Errors:
 * as above. */
int sampler_pick_masked(const struct sampler *s, struct sampler_scratch *scratch, const float *logits,
                        const uint32_t *mask, const int32_t *banned, int n_banned, int index,
                        int32_t *ret_token) LATENT_MUST_CHECK;
/* Room for a mask in the work space. */
uint32_t *sampler_scratch_mask(struct sampler_scratch *scratch);
/* Tells the penalties about a token of the output. */
void sampler_accept(struct sampler *s, int32_t token);

/* The k best of logits, best first (ties: lower id), as log-probabilities under logsumexp. Returns how
 * many were written: min(k, vocab_size). */
int logprobs_top(struct sampler_scratch *scratch, const float *logits, float logsumexp, int k,
                 struct token_logprob *ret);
/* 1 + how many logits are larger. */
int logprobs_rank(const struct sampler_scratch *scratch, const float *logits, int32_t token);

#endif
