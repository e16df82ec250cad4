/* engine/kernels/kern_internal.h - how the libraries of the instruction sets join the table. Each
 * function overrides the fields it has and leaves the others. */
#ifndef LATENT_ENGINE_KERNELS_KERN_INTERNAL_H
#define LATENT_ENGINE_KERNELS_KERN_INTERNAL_H

#include "engine/kernels/kern.h"

void kern__init_generic(struct kernels *t); /* sets every field */
void kern__init_avx2(struct kernels *t);
void kern__init_avx512(struct kernels *t);

/* Bytes of one 32-value block of a packed Q8_0 group: 16 half-precision scales, 16 x 32 values. */
#define Q8_GROUP_BLOCK 544
#define Q8_BLOCK 32

/* Prepared activations of n values (kern.h): scales, sums, values. */
static inline const float *act_scales(const void *act)
{
    return (const float *)act;
}
static inline const int32_t *act_sums(const void *act, int n)
{
    return (const int32_t *)act + n / Q8_BLOCK;
}
static inline const int8_t *act_values(const void *act, int n)
{
    return (const int8_t *)act + (size_t)(n / Q8_BLOCK) * 8;
}

#endif
