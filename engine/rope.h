/* engine/rope.h - rotary position embedding, with YaRN scaling (arXiv 2309.00071). Pure functions. */
#ifndef LATENT_ENGINE_ROPE_H
#define LATENT_ENGINE_ROPE_H

#include "engine/model/checkpoint.h"

#define ROPE_MAX_DIM 512

struct rope {
    int dim;         /* qk_rope_head_dim, even */
    bool interleave; /* pairs (x0,x1) or halves (x_i, x_{i+dim/2}) */
    float inv_freq[ROPE_MAX_DIM / 2];
    float amplitude;   /* of cos and sin */
    float score_scale; /* factor of the softmax scale: mscale^2 with YaRN, else 1 */
};

void rope_init(struct rope *r, const struct model_config *c);
/* cos and sin of one position, dim / 2 values each. */
void rope_angles(const struct rope *r, int position, float *cos_out, float *sin_out);
/* Rotates one head's dim values in place. */
void rope_apply(const struct rope *r, const float *cos_t, const float *sin_t, float *x);

#endif
