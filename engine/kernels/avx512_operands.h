/* engine/kernels/avx512_operands.h - operands of products of bfloat16, by tiles or by vectors. All static.
 *
 * A left operand is 16 rows of 32 elements; a right one 16 pairs of rows of 16 elements, the two of a
 * pair side by side. */
#ifndef LATENT_ENGINE_KERNELS_AVX512_OPERANDS_H
#define LATENT_ENGINE_KERNELS_AVX512_OPERANDS_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "engine/kernels/kern_internal.h"

#define TILE_BYTES 1024 /* of an operand */

/* A row of operands: at, its rows of 64 bytes stride apart, the next one step bytes on. */
struct operand {
    const unsigned char *at;
    size_t stride, step;
};

static inline const unsigned char *operand_at(const struct operand *o, int k)
{
    return o->at + (size_t)k * o->step;
}

/* Rows and columns of 16 x 16 numbers of 32 bits change places. */
INLINE void transpose_16x16(__m512i *r)
{
    __m512i t[16];
    UNROLL
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    /* r[4 i + j]: in 128 bits l, column 4 l + j of rows 4 i .. 4 i + 3 */
    UNROLL
    for (int j = 0; j < 4; j++) {
        t[j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
        t[4 + j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        t[8 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        t[12 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    }
    UNROLL
    for (int j = 0; j < 4; j++) {
        r[j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0x88);
        r[4 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0x88);
        r[8 + j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0xdd);
        r[12 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0xdd);
    }
}

#endif
