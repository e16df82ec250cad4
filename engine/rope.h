/* engine/rope.h - rotary position embedding, with YaRN (arXiv 2309.00071), longrope (arXiv 2402.13753)
 * and Llama 3's scaling. Pure functions. */
#ifndef LATENT_ENGINE_ROPE_H
#define LATENT_ENGINE_ROPE_H

#include "engine/kernels/kern.h"
#include "engine/model/checkpoint.h"

#define ROPE_MAX_DIM (2 * ROPE_MAX_FACTORS)

struct rope {
    int dim;         /* qk_rope_head_dim, even */
    bool interleave; /* pairs (x0,x1) or halves (x_i, x_{i+dim/2}) */
    float inv_freq[ROPE_MAX_DIM / 2];
    float amplitude;   /* of cos and sin */
};

/* Tables of a step where layers rotate by widths of their own: cosines and sines of all rows. Layers ask
 * while they are made. */
#define ROPE_MAX_TABLES 8
struct rope_tables {
    int n;
    struct rope_table {
        struct rope rope;
        float theta;
        struct rope_scaling scaling;
        float *cos, *sin; /* [rows][dim / 2] */
    } t[ROPE_MAX_TABLES];
};
/* The table of that width, even and at most ROPE_MAX_DIM; -1: there are too many. */
int rope_tables_need(struct rope_tables *r, int dim, float theta, bool interleave,
                     const struct rope_scaling *scaling); /* NULL: none; not longrope */

/* max_position: the most positions that will be served. With longrope it decides, once for all
 * requests, between the short and the long factors: cached keys are rotated already, so a sequence
 * cannot change over while it grows. */
void rope_init(struct rope *r, const struct model_config *c, int max_position);
/* Factor of the softmax scale: mscale^2 with YaRN, else 1. */
float rope_score_scale(const struct model_config *c);
/* cos and sin of one position, dim / 2 values each. */
void rope_angles(const struct rope *r, int position, float *cos_out, float *sin_out);
/* Rotates one head's dim values in place. */
void rope_apply(const struct kernels *k, const struct rope *r, const float *cos_t, const float *sin_t,
                float *x);

#endif
