/* tests/forward/tiny.h - small random latent-attention models in memory, and a reference that
 * computes them the plain way: float64, per-head keys and values decompressed, no cache, one token
 * of one sequence at a time. It shares no code with the engine. */
#ifndef LATENT_TESTS_FORWARD_TINY_H
#define LATENT_TESTS_FORWARD_TINY_H

#include "engine/model/checkpoint.h"

struct tiny {
    struct checkpoint ck;
    void *blocks[4096]; /* everything allocated */
    int n_blocks;
    unsigned long long rng;
};

/* Fills sizes from cfg (a deepseek_v3 configuration) with random F32 weights of unit-ish gain.
 * split_kv_b: k_b and v_b as GGUF has them, else one kv_b as folders have it. */
void tiny_new(struct tiny *t, const struct model_config *cfg, int split_kv_b,
              unsigned long long seed);
void tiny_free(struct tiny *t);
double tiny_uniform(struct tiny *t); /* -1 .. 1 */

/* logits[n_tokens][vocab_size] of a prompt. */
void tiny_reference(const struct tiny *t, const int *tokens, int n_tokens, double *logits);

#endif
