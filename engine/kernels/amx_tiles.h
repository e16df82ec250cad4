/* engine/kernels/amx_tiles.h - operands and sums of bfloat16 tiles for attention and index keys. All
 * static.
 *
 * A left operand is 16 rows of 32 elements; a right one 16 pairs of rows of 16 elements, the two of a
 * pair side by side. Tiles 0 to 5 hold sums, 6 and 7 operands (4 to 7 where four sums are enough). */
#ifndef LATENT_ENGINE_KERNELS_AMX_TILES_H
#define LATENT_ENGINE_KERNELS_AMX_TILES_H

#include "engine/kernels/amx.h"

/* A row of operands: at, its rows of 64 bytes stride apart, the next one step bytes on. */
struct operand {
    const unsigned char *at;
    size_t stride, step;
};

static inline const unsigned char *operand_at(const struct operand *o, int k)
{
    return o->at + (size_t)k * o->step;
}

/* The first n sums, 2, 4 or 6. */
INLINE void sums_clear(const int n)
{
    _tile_zero(0);
    _tile_zero(1);
    if (n > 2) {
        _tile_zero(2);
        _tile_zero(3);
    }
    if (n > 4) {
        _tile_zero(4);
        _tile_zero(5);
    }
}

INLINE void sums_load(const int n, float *const *from, const size_t *stride)
{
    _tile_loadd(0, from[0], stride[0]);
    _tile_loadd(1, from[1], stride[1]);
    if (n > 2) {
        _tile_loadd(2, from[2], stride[2]);
        _tile_loadd(3, from[3], stride[3]);
    }
    if (n > 4) {
        _tile_loadd(4, from[4], stride[4]);
        _tile_loadd(5, from[5], stride[5]);
    }
}

INLINE void sums_store(const int n, float *const *to, const size_t *stride)
{
    _tile_stored(0, to[0], stride[0]);
    _tile_stored(1, to[1], stride[1]);
    if (n > 2) {
        _tile_stored(2, to[2], stride[2]);
        _tile_stored(3, to[3], stride[3]);
    }
    if (n > 4) {
        _tile_stored(4, to[4], stride[4]);
        _tile_stored(5, to[5], stride[5]);
    }
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
