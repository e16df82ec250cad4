/* engine/kernels/amx_mul.h - what both files of AMX products need. All static. */
#ifndef LATENT_ENGINE_KERNELS_AMX_MUL_H
#define LATENT_ENGINE_KERNELS_AMX_MUL_H

#include <stdbool.h>

#include "engine/kernels/amx.h"
#include "engine/kernels/vec_avx512.h"

#define ALIGN64 __attribute__((aligned(64)))

/* The compiler does not know that tile instructions read memory: what they read must be written before. */
INLINE void tile_fence(void)
{
    __asm__ volatile("" ::: "memory");
}

/* Sixteen outputs of group g of a row; the last group may have fewer. */
INLINE v16 load_lanes(const float *y, int g, int n_out)
{
    int n = n_out - g * KERN_LANES;
    y += (size_t)g * KERN_LANES;
    return n >= KERN_LANES ? v16_load(y) : v16_load_n(y, n);
}

INLINE void store_lanes(float *y, v16 v, int g, int n_out)
{
    int n = n_out - g * KERN_LANES;
    y += (size_t)g * KERN_LANES;
    if (n >= KERN_LANES)
        v16_store(y, v);
    else
        v16_store_n(y, v, n);
}

#endif
