/* tests/kernels/values.h - random and hostile numbers, and the small types read back in float64;
 * shares no code with the kernels. A seed gives the same numbers on every machine: no two draws in an
 * expression whose order the compiler may choose. One thread. */
#ifndef LATENT_TESTS_KERNELS_VALUES_H
#define LATENT_TESTS_KERNELS_VALUES_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/kernels/formats.h"

void values_seed(unsigned long long seed);
uint32_t values_bits(void);
int values_below(int n);       /* 0 .. n - 1 */
float values_uniform(void);    /* -1 .. 1 */
float values_special(void);    /* NaN, infinities, zeros, the smallest, the largest */
void values_spoil(float *x, int n, int times); /* special values at random places */
/* n finite values of one kind: uniform, zeros of both signs, denormals, huge, equal, any size,
 * small integers. */
void values_fill(float *x, int n);
void values_half(void *dst, int n, bool bf16); /* finite float16 or bfloat16 */
/* Blocks of any bits whose half-precision scales are finite; FP8 with few NaN. */
void values_blocks(void *dst, const struct format *f, int n_blocks);
double values_f16(const void *p);
double values_bf16(const void *p);

#endif
