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
    /* Which k of the n_seen rows a token attends to (keep[i] = 1), of n_total in the prompt; NULL: the
     * largest scores, the later of equal ones. */
    void (*choose)(const double *scores, int n_seen, int n_total, int k, char *keep);
    double least_gap; /* least difference between a chosen and another score that is not a tie */
};

/* Fills sizes from cfg (a deepseek_v3, deepseek_v32 or longcat_flash configuration) with random F32
 * weights of unit-ish gain.
 * split_kv_b: k_b and v_b as GGUF has them, else one kv_b as folders have it. */
void tiny_new(struct tiny *t, const struct model_config *cfg, int split_kv_b,
              unsigned long long seed);
/* The model of a checkpoint, its weights as F32. */
void tiny_copy(struct tiny *t, const struct checkpoint *from);
void tiny_free(struct tiny *t);
double tiny_uniform(struct tiny *t); /* -1 .. 1 */

/* Stores the matrices of t in types that change from one to the next (F32, Q8_0, BF16, Q4_0), also inside
 * a block and from expert to expert, as *ret; t keeps the values that these have, as F32. ret's tensors
 * live as long as t. Input sizes must be multiples of 32. */
void tiny_mix(struct tiny *t, struct checkpoint *ret);

/* logits[n_tokens][vocab_size] of a prompt. */
void tiny_reference(struct tiny *t, const int *tokens, int n_tokens, double *logits);

#endif
