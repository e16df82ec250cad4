/* engine/kernels/amx_tiles.h - sums in bfloat16 tiles for attention and index keys. All static.
 *
 * Tiles 0 to 5 hold sums, 6 and 7 operands (4 to 7 where four sums are enough). */
#ifndef LATENT_ENGINE_KERNELS_AMX_TILES_H
#define LATENT_ENGINE_KERNELS_AMX_TILES_H

#include "engine/kernels/amx.h"
#include "engine/kernels/avx512_operands.h"

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

#endif
