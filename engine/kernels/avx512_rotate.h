/* engine/kernels/avx512_rotate.h - rotate_rows where an instruction rounds to bfloat16. All static. */
#ifndef LATENT_ENGINE_KERNELS_AVX512_ROTATE_H
#define LATENT_ENGINE_KERNELS_AVX512_ROTATE_H

#include <immintrin.h>

#include "engine/kernels/kern_internal.h"

static void (*rotate_any)(const struct row_rotation *r); /* AVX-512's */

INLINE __m512 bf16_values(const unsigned char *p, unsigned char *copy)
{
    __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)p);
    _mm256_storeu_si256((__m256i *)(void *)copy, h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* Pairs i .. i + 16 of a row, whose halves are rotated together. */
INLINE void rotate_pairs(const float *near, const float *far, int half, int i, const unsigned char *from,
                         unsigned char *to)
{
    __m512 ac = _mm512_loadu_ps(near + i), as = _mm512_loadu_ps(near + half + i);
    __m512 bc = _mm512_loadu_ps(far + i), bs = _mm512_loadu_ps(far + half + i);
    __m512 c = _mm512_fmsub_ps(ac, bc, _mm512_mul_ps(as, bs));
    __m512 s = _mm512_fmadd_ps(as, bc, _mm512_mul_ps(ac, bs));
    __m512 x = bf16_values(from + 2 * i, to + 2 * (2 * half + i));
    __m512 y = bf16_values(from + 2 * (half + i), to + 2 * (3 * half + i));
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(_mm512_fmadd_ps(y, c, _mm512_mul_ps(x, s)),
                                                _mm512_fmsub_ps(x, c, _mm512_mul_ps(y, s)));
    _mm256_storeu_si256((__m256i *)(void *)(to + 2 * i), _mm512_castsi512_si256(both));
    _mm256_storeu_si256((__m256i *)(void *)(to + 2 * (half + i)), _mm512_extracti64x4_epi64(both, 1));
}

static void rotate_rows(const struct row_rotation *r)
{
    int half = r->dim / 2;
    const float *near = r->near;
    const unsigned char *from = r->rows;
    unsigned char *to = r->dst;
    if (r->type != TT_BF16 || r->interleaved || half % 16) {
        rotate_any(r);
        return;
    }
    for (int i = 0; i < r->n; i++, near += r->dim, from += r->row_bytes, to += r->dst_bytes)
        for (int d = 0; d < half; d += 16)
            rotate_pairs(near, r->far, half, d, from, to);
}

static inline void set_rotation(struct kernels *t)
{
    rotate_any = t->rotate_rows;
    t->rotate_rows = rotate_rows;
}

#endif
