/* engine/residual.h - how a block's output joins the residual stream where a layer has weights for it. */
#ifndef LATENT_ENGINE_RESIDUAL_H
#define LATENT_ENGINE_RESIDUAL_H

#include "engine/step.h"

/* Weights of t, n values each, as residual_add takes them; *ret NULL: there are none. ERR_NOMEM. */
int residual_new(const struct residual_tensors *t, int n, float **ret) LATENT_MUST_CHECK;

/* x += scale y, or with weights x = (y + b) a + (x + d) c. */
static inline void residual_add(const struct kernels *k, const float *weights, float scale, const float *y,
                                int n, float *x)
{
    if (!weights) {
        k->axpy(scale, y, n, x);
        return;
    }
    const float *out = weights, *stream = weights + n, *bias = weights + 2 * (size_t)n;
    for (int i = 0; i < n; i++)
        x[i] = y[i] * out[i] + x[i] * stream[i] + bias[i];
}

#endif
