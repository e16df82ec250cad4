/* tools/convert/quantize.h - float32 rows to the element types that a GGUF file may have.
 *
 * Pure functions of their input, any thread. What they write is decoded by engine/model/tensor.h and by
 * every other reader of the format: only the choice of scales is ours (quantize_fit.h). */
#ifndef LATENT_TOOLS_CONVERT_QUANTIZE_H
#define LATENT_TOOLS_CONVERT_QUANTIZE_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/model/tensor.h"

/* Encodes n values, a multiple of the type's block, to dst at any address. False when a value is NaN or
 * infinite, or too large for the type (see quantize_max), or where the type is read but not written (I32,
 * F8_E4M3). dst is then unfinished. */
bool quantize_row(enum tensor_type type, const float *src, void *dst, int64_t n);
/* The largest magnitude that the type surely holds. */
float quantize_max(enum tensor_type type);
/* Nearest half-precision number, ties to even; beyond the range an infinity. */
uint16_t quantize__half(float f);
/* The same within the range. */
uint16_t quantize__half_scale(float d);

#endif
