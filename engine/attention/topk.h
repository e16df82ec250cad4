/* engine/attention/topk.h - the k largest of n scores. A pure function of the scores: ties go to the
 * later position, NaN is below everything, zeros of both signs are equal. */
#ifndef LATENT_ENGINE_ATTENTION_TOPK_H
#define LATENT_ENGINE_ATTENTION_TOPK_H

#include <stdint.h>

/* Writes the k positions, ascending. 1 <= k <= n. */
void topk__select(const float *scores, int n, int k, int32_t *ret_positions);

#endif
