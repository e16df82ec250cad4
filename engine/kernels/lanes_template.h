/* engine/kernels/lanes_template.h - sixteen outputs of a product, over the v16 of a vec_*.h included before.
 * All static. */
#ifndef LATENT_ENGINE_KERNELS_LANES_TEMPLATE_H
#define LATENT_ENGINE_KERNELS_LANES_TEMPLATE_H

#include "engine/kernels/kern_internal.h"

/* To a row's outputs of group g; the last group may have fewer. */
INLINE void store_lanes(float *y, v16 v, int g, int n_out)
{
    int n = n_out - g * KERN_LANES;
    if (n >= KERN_LANES)
        v16_store(y + (size_t)g * KERN_LANES, v);
    else
        v16_store_n(y + (size_t)g * KERN_LANES, v, n);
}

#endif
