/* engine/kernels/pack.c - the packed weight layout "x16" (kern.h): sizes and packing. Plain C; runs
 * once at load. */
#include "config.h"

#include <string.h>

#include "engine/kernels/kern.h"
#include "engine/kernels/kern_internal.h"

static size_t elem_bytes(enum tensor_type type)
{
    return type == TT_F32 ? 4 : 2;
}

int kern_weight_type_ok(enum tensor_type type)
{
    return type == TT_F32 || type == TT_F16 || type == TT_BF16 || type == TT_Q8_0;
}

size_t kern_group_bytes(enum tensor_type type, int n_in)
{
    if (type == TT_Q8_0)
        return (size_t)(n_in / Q8_BLOCK) * Q8_GROUP_BLOCK;
    return (size_t)n_in * KERN_LANES * elem_bytes(type);
}

size_t kern_packed_bytes(enum tensor_type type, int n_out, int n_in)
{
    return (size_t)((n_out + KERN_LANES - 1) / KERN_LANES) * kern_group_bytes(type, n_in);
}

size_t kern_act_bytes(enum tensor_type type, int n_in)
{
    size_t n = (size_t)n_in * sizeof(float);
    if (type == TT_Q8_0)
        n = (size_t)(n_in / Q8_BLOCK) * 8 + (size_t)n_in;
    return (n + 63) & ~(size_t)63;
}

size_t kern_attn_scratch_floats(int row_elems, int n_rows)
{
    /* Rows as float32, and the scores of one group of lanes. */
    size_t row = ((size_t)row_elems + KERN_LANES - 1) & ~(size_t)(KERN_LANES - 1);
    return row * ((size_t)n_rows + 1) + (size_t)n_rows * KERN_LANES + KERN_LANES;
}

static void pack_q8_0(const unsigned char *src, size_t row_bytes, int rows, int n_in,
                      unsigned char *dst)
{
    for (int b = 0; b < n_in / Q8_BLOCK; b++, dst += Q8_GROUP_BLOCK) {
        for (int r = 0; r < KERN_LANES; r++) {
            if (r >= rows) {
                memset(dst + 2 * r, 0, 2);
                for (int j = 0; j < 8; j++)
                    memset(dst + 32 + 64 * j + 4 * r, 0, 4);
                continue;
            }
            const unsigned char *s = src + (size_t)r * row_bytes + (size_t)b * 34;
            memcpy(dst + 2 * r, s, 2);
            for (int j = 0; j < 8; j++)
                memcpy(dst + 32 + 64 * j + 4 * r, s + 2 + 4 * j, 4);
        }
    }
}

void kern_pack(enum tensor_type type, const void *src, size_t src_row_bytes, int n_out, int n_in,
               int g0, int g1, void *dst)
{
    const unsigned char *s = src;
    unsigned char *base = dst;
    size_t size = elem_bytes(type);
    for (int g = g0; g < g1; g++) {
        int r0 = g * KERN_LANES, rows = n_out - r0 < KERN_LANES ? n_out - r0 : KERN_LANES;
        unsigned char *d = base + (size_t)g * kern_group_bytes(type, n_in);
        const unsigned char *from = s + (size_t)r0 * src_row_bytes;
        if (type == TT_Q8_0) {
            pack_q8_0(from, src_row_bytes, rows, n_in, d);
            continue;
        }
        for (int k = 0; k < n_in; k++) {
            unsigned char *at = d + (size_t)k * KERN_LANES * size;
            for (int r = 0; r < KERN_LANES; r++) {
                if (r < rows)
                    memcpy(at + (size_t)r * size, from + (size_t)r * src_row_bytes + (size_t)k * size,
                           size);
                else
                    memset(at + (size_t)r * size, 0, size);
            }
        }
    }
}
