/* engine/kernels/amx.h - the tile configuration that both AMX files use. All static.
 *
 * All eight tiles have 16 rows of 64 bytes, so that a kernel may share them out as it likes. A kernel
 * configures at its start and releases at its end: tile state then costs nothing at context switches
 * between kernels.
 *
 * The compiler does not know what tile loads and stores do to memory: tiles_fence stands between them and
 * plain loads and stores of the same bytes. */
#ifndef LATENT_ENGINE_KERNELS_AMX_H
#define LATENT_ENGINE_KERNELS_AMX_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "engine/kernels/avx512_operands.h"

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
};

static inline void tiles_fence(void)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static inline void tiles_configure(void)
{
    static const struct tile_config config = {
        .palette = 1,
        .colsb = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    _tile_loadconfig(&config);
}

#endif
