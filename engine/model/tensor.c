/* engine/model/tensor.c - element types and views; see tensor.h. Pure functions, any thread.
 *
 * Tensors lie in files at any byte offset (safetensors headers have any length), so values are read
 * through memcpy, never through a cast pointer. */
#include "config.h"

#include "engine/model/tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/tensor_quants.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "model files are little-endian and read in place"
#endif

static float f32_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
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
        dst[i] = tensor__f16(load_u16(p + 2 * i));
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

static void f8_to_f32(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i++)
        dst[i] = tensor__f8(p[i]);
}

static const struct tensor_type_info types[] = {
    {TT_F32, "F32", 1, 4, true, f32_to_f32},
    {TT_F16, "F16", 1, 2, true, f16_to_f32},
    {TT_BF16, "BF16", 1, 2, true, bf16_to_f32},
    {TT_F8_E4M3, "F8_E4M3", 1, 1, true, f8_to_f32},
    {TT_Q8_0, "Q8_0", 32, 34, true, tensor__q8_0},
    {TT_Q4_0, "Q4_0", 32, 18, true, tensor__q4_0},
    {TT_Q4_1, "Q4_1", 32, 20, true, tensor__q4_1},
    {TT_Q5_0, "Q5_0", 32, 22, true, tensor__q5_0},
    {TT_Q5_1, "Q5_1", 32, 24, true, tensor__q5_1},
    {TT_Q2_K, "Q2_K", 256, 84, true, tensor__q2_k},
    {TT_Q3_K, "Q3_K", 256, 110, true, tensor__q3_k},
    {TT_Q4_K, "Q4_K", 256, 144, true, tensor__q4_k},
    {TT_Q5_K, "Q5_K", 256, 176, true, tensor__q5_k},
    {TT_Q6_K, "Q6_K", 256, 210, true, tensor__q6_k},
    {TT_IQ4_NL, "IQ4_NL", 32, 18, true, tensor__iq4_nl},
    {TT_IQ4_XS, "IQ4_XS", 256, 136, true, tensor__iq4_xs},
    {TT_I32, "I32", 1, 4, false, i32_to_f32},
};
#define N_TYPES ((int)(sizeof(types) / sizeof(types[0])))

const struct tensor_type_info *tensor_type_info(uint32_t type)
{
    for (int i = 0; i < N_TYPES; i++)
        if ((uint32_t)types[i].type == type)
            return &types[i];
    return NULL;
}

const struct tensor_type_info *tensor_type_at(int i)
{
    return i >= 0 && i < N_TYPES ? &types[i] : NULL;
}

void tensor_weight_types(char *dst, size_t dst_bytes)
{
    size_t n = 0;
    if (dst_bytes > 0)
        dst[0] = '\0';
    for (int i = 0; i < N_TYPES && n < dst_bytes; i++)
        if (types[i].weight)
            n += (size_t)snprintf(dst + n, dst_bytes - n, "%s%s", n ? ", " : "", types[i].name);
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
    if (t->scale) {
        const float *scale = t->scale + (r + t->scale_row0) / TENSOR_SCALE_BLOCK * t->scale_cols;
        for (int64_t k = 0; k < t->ne[0]; k++)
            dst[k] *= scale[k / TENSOR_SCALE_BLOCK];
    }
}

float *tensor_vector_f32(const struct tensor *t)
{
    float *v = aligned_alloc(64, ((size_t)t->ne[0] * sizeof(*v) + 63) & ~(size_t)63);
    if (v)
        tensor_row_f32(t, 0, v);
    return v;
}

struct tensor tensor_slice(const struct tensor *t, int64_t i)
{
    struct tensor s = *t;
    int outer = t->n_dims - 1;
    s.n_bytes = t->n_bytes / (size_t)t->ne[outer];
    s.data = (const unsigned char *)t->data + (size_t)i * s.n_bytes;
    s.ne[outer] = 1;
    s.n_dims = outer;
    s.scale_row0 += i * (outer > 1 ? t->ne[1] : 1);
    return s;
}

struct tensor tensor_rows(const struct tensor *t, int64_t r0, int64_t n)
{
    struct tensor s = *t;
    size_t row_bytes = tensor_row_bytes(t->type, t->ne[0]);
    s.data = (const unsigned char *)t->data + (size_t)r0 * row_bytes;
    s.ne[1] = n;
    s.scale_row0 += r0;
    s.n_bytes = (size_t)n * row_bytes;
    return s;
}
