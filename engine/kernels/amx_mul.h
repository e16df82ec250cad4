/* engine/kernels/amx_mul.h - what both files of AMX products need. All static but where said. */
#ifndef LATENT_ENGINE_KERNELS_AMX_MUL_H
#define LATENT_ENGINE_KERNELS_AMX_MUL_H

#include <stdbool.h>

#include "engine/kernels/amx.h"
#include "engine/kernels/vec_avx512.h"

#include "engine/kernels/lanes_template.h"

void kern__init_amx_halves(struct kernels *t);  /* amx_mul_bf16.c */
void kern__init_amx_rounded(struct kernels *t); /* amx_mul_rounded.c */

#define ALIGN64 __attribute__((aligned(64)))

/* Sixteen outputs of group g of a row; the last group may have fewer. */
INLINE v16 load_lanes(const float *y, int g, int n_out)
{
    int n = n_out - g * KERN_LANES;
    y += (size_t)g * KERN_LANES;
    return n >= KERN_LANES ? v16_load(y) : v16_load_n(y, n);
}

#endif
