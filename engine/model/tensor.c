/* engine/model/tensor.c - element types and views; see tensor.h. Pure functions, any thread.
 *
 * Tensors lie in files at any byte offset (safetensors headers have any length), so values are read
 * through memcpy, never through a cast pointer. */
#include "config.h"

#include "engine/model/tensor.h"

#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "model files are little-endian and read in place"
#endif

#define Q8_0_ELEMS 32
#define Q8_0_BYTES 34 /* f16 scale, 32 int8 */

static float f32_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static float f16_value(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1fu, mantissa = h & 0x3ffu;
    if (exponent == 0) { /* zero and subnormal: mantissa * 2^-24, exact in float32 */
        float f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    if (exponent == 0x1f)
        return f32_from_bits(sign | 0x7f800000u | mantissa << 13);
    return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

static uint16_t load_u16(const unsigned char *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static void f32_to_f32(const void *src, float *dst, int64_t n)
{
    if (n > 0)
        memcpy(dst, src, (size_t)n * sizeof(float));
}

static void f16_to_f32(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i++)
        dst[i] = f16_value(load_u16(p + 2 * i));
}

static void bf16_to_f32(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i++)
        dst[i] = f32_from_bits((uint32_t)load_u16(p + 2 * i) << 16);
}

static void i32_to_f32(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i++) {
        int32_t v;
        memcpy(&v, p + 4 * i, sizeof(v));
        dst[i] = (float)v;
    }
}

static void q8_0_to_f32(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i += Q8_0_ELEMS, p += Q8_0_BYTES) {
        float d = f16_value(load_u16(p));
        for (int j = 0; j < Q8_0_ELEMS; j++)
            dst[i + j] = d * (float)(int8_t)p[2 + j];
    }
}

static const struct tensor_type_info types[] = {
    {TT_F32, "F32", 1, 4, f32_to_f32},
    {TT_F16, "F16", 1, 2, f16_to_f32},
    {TT_Q8_0, "Q8_0", Q8_0_ELEMS, Q8_0_BYTES, q8_0_to_f32},
    {TT_I32, "I32", 1, 4, i32_to_f32},
    {TT_BF16, "BF16", 1, 2, bf16_to_f32},
};

const struct tensor_type_info *tensor_type_info(uint32_t type)
{
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if ((uint32_t)types[i].type == type)
            return &types[i];
    return NULL;
}

size_t tensor_row_bytes(enum tensor_type type, int64_t n)
{
    const struct tensor_type_info *info = tensor_type_info((uint32_t)type);
    if (!info || n <= 0 || n % info->block_elems)
        return 0;
    uint64_t n_blocks = (uint64_t)n / (uint64_t)info->block_elems;
    if (n_blocks > SIZE_MAX / (size_t)info->block_bytes)
        return 0;
    return (size_t)n_blocks * (size_t)info->block_bytes;
}

void tensor_row_f32(const struct tensor *t, int64_t r, float *dst)
{
    const struct tensor_type_info *info = tensor_type_info((uint32_t)t->type);
    const unsigned char *p = t->data;
    info->to_f32(p + (size_t)r * tensor_row_bytes(t->type, t->ne[0]), dst, t->ne[0]);
}

struct tensor tensor_slice(const struct tensor *t, int64_t i)
{
    struct tensor s = *t;
    int outer = t->n_dims - 1;
    s.n_bytes = t->n_bytes / (size_t)t->ne[outer];
    s.data = (const unsigned char *)t->data + (size_t)i * s.n_bytes;
    s.ne[outer] = 1;
    s.n_dims = outer;
    return s;
}

struct tensor tensor_rows(const struct tensor *t, int64_t r0, int64_t n)
{
    struct tensor s = *t;
    size_t row_bytes = tensor_row_bytes(t->type, t->ne[0]);
    s.data = (const unsigned char *)t->data + (size_t)r0 * row_bytes;
    s.ne[1] = n;
    s.n_bytes = (size_t)n * row_bytes;
    return s;
}
