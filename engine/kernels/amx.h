/* engine/kernels/amx.h - the tile configuration that both AMX files use. All static.
 *
 * Tiles 0 to 3 hold sums (16 x 16 of 32 bits); 4 and 5 the left operands, 6 and 7 the right ones, all 16 rows of 64
 * bytes. A kernel configures at its start and releases at its end: tile state then costs nothing at
 * context switches between kernels. */
#ifndef LATENT_ENGINE_KERNELS_AMX_H
#define LATENT_ENGINE_KERNELS_AMX_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "engine/kernels/kern_internal.h"

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
};

#endif
