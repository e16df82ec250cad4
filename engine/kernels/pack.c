/* engine/kernels/pack.c - the packed weight layout "x16" (kern.h): sizes, packing, and a row back as
 * float32. Plain C; runs once at load. Quantised types are in pack_quants.c. */
#include "config.h"

#include <math.h>
#include <string.h>

#include "engine/kernels/gate.h"
#include "engine/kernels/pack.h"

static size_t elem_bytes(enum tensor_type type)
{
    return type == TT_F32 ? 4 : type == TT_F8_E4M3 ? 1 : 2;
}

int kern_act_is_q8(enum tensor_type type)
{
    return quant_layout(type).blocks > 0;
}

size_t kern_group_bytes(enum tensor_type type, int n_in)
{
    if (kern_act_is_q8(type))
        return quant_group_bytes(type, n_in);
    size_t n = (size_t)n_in * KERN_LANES * elem_bytes(type);
    if (type == TT_F8_E4M3)
        n += f8_blocks(n_in) * KERN_LANES * sizeof(float);
    return n;
}

size_t kern_packed_bytes(enum tensor_type type, int n_out, int n_in)
{
    return (size_t)((n_out + KERN_LANES - 1) / KERN_LANES) * kern_group_bytes(type, n_in);
}

size_t kern_act_bytes(enum tensor_type type, int n_in)
{
    size_t n = (size_t)n_in * sizeof(float);
    if (kern_act_is_q8(type))
        n = (size_t)(n_in / Q8_BLOCK) * ACT_BLOCK_BYTES;
    return (n + 63) & ~(size_t)63;
}

size_t kern_index_scratch_floats(int dim, int n_rows)
{
    /* Rows as float32, and the scores of one group of lanes. */
    size_t row = ((size_t)dim + KERN_LANES - 1) & ~(size_t)(KERN_LANES - 1);
    return row * ((size_t)n_rows + 1) + (size_t)n_rows * KERN_LANES + KERN_LANES;
}

size_t kern_row_bytes(enum tensor_type type, int elems, int tail)
{
    if (type == TT_F32)
        return (size_t)elems * 4;
    if (type == TT_BF16)
        return (size_t)elems * 2;
    if (type == TT_I4)
        return (row_groups(elems - tail) * (ROW_NIBBLE_GROUP / 2 + 2) + 2 * (size_t)tail + 15) & ~(size_t)15;
    size_t bytes = (size_t)(elems - tail), blocks = (bytes + ROW_SCALE_BLOCK - 1) / ROW_SCALE_BLOCK;
    return (bytes + 2 * (size_t)tail + 4 * blocks + 15) & ~(size_t)15;
}

size_t kern_row_tail_at(const struct row_format *f, int tail)
{
    if (f->type == TT_F32 || f->type == TT_BF16)
        return (size_t)(f->elems - tail) * (f->type == TT_F32 ? 4 : 2);
    return row_tail_at(f);
}

void kern_row_read(const struct row_format *f, const void *row, int n, float *dst)
{
    const unsigned char *bytes = row;
    if (f->type == TT_F32) {
        memcpy(dst, row, (size_t)n * sizeof(*dst));
        return;
    }
    if (f->type == TT_BF16) {
        for (int i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, bytes + 2 * (size_t)i, 2);
            uint32_t u = (uint32_t)h << 16;
            memcpy(&dst[i], &u, sizeof(u));
        }
        return;
    }
    for (int i = 0; f->type == TT_I4 && i < n; i++) {
        int byte = row_nibbles(bytes, i)[i % 16], code = i % ROW_NIBBLE_GROUP < 16 ? byte & 15 : byte >> 4;
        dst[i] = (float)quant_iq4_table[code] * row_nibble_scale(f, row, i);
    }
    for (int i0 = 0; f->type != TT_I4 && i0 < n; i0 += ROW_SCALE_BLOCK) {
        int end = n - i0 < ROW_SCALE_BLOCK ? n : i0 + ROW_SCALE_BLOCK;
        float scale;
        memcpy(&scale, bytes + row_scales_at(f) + 4 * (size_t)(i0 / ROW_SCALE_BLOCK), 4);
        for (int i = i0; i < end; i++)
            dst[i] = (f->type == TT_F8_E4M3 ? f32_of_f8(bytes[i]) : (float)(int8_t)bytes[i]) * scale;
    }
}

size_t kern_attn_query_bytes(int dk)
{
    return ((size_t)dk + 31) / 32 * 32 * KERN_LANES * sizeof(float);
}

size_t kern_attn_scratch_bytes(int row_elems, int dk, int dv)
{
    /* Room for what a level makes of a piece: its rows as float32 or twice as bfloat16 (as they are and
     * pairs of tokens side by side), scores and weights of all lanes, and a result of each lane. */
    size_t elems = ((size_t)row_elems + 63) / 64 * 64, values = ((size_t)dv + 63) / 64 * 64;
    (void)dk;
    return ATTN_PIECE * elems * 4 + ATTN_PIECE * (size_t)ATTN_MAX_GROUPS * KERN_LANES * 8 +
           (size_t)ATTN_MAX_GROUPS * KERN_LANES * values * 4 + 65536;
}

size_t kern_gated_floats(int width, int embed, int each)
{
    /* Sixteen rows of inputs and of both products, and weights as pairs of bfloat16, all filled up. */
    size_t inputs = ((size_t)width + 31) / 32 * 32 + ((size_t)embed + 31) / 32 * 32;
    size_t stride = kern_gated_stride(each);
    return KERN_LANES * (inputs + 2 * stride) + inputs * stride / 2 + 64;
}

size_t kern_gate_bytes(const struct gate_shape *s)
{
    /* In float32, or as pairs of bfloat16 filled up to 32 inputs. */
    size_t inputs = (size_t)gate_filled(s->width, 32) + (size_t)gate_filled(s->embed, 32);
    return (size_t)(gate_blocks(s) * gate_columns(s)) * KERN_LANES * inputs * sizeof(float);
}

size_t kern_gate_factor_floats(const struct gate_shape *s)
{
    /* Four times sixteen rows of inputs, and both products of sixteen rows and two runs of eight columns. */
    size_t inputs = (size_t)gate_filled(s->width, 32) + (size_t)gate_filled(s->embed, 32);
    return 4 * KERN_LANES * inputs + 4 * 8 * KERN_LANES * KERN_LANES;
}

size_t kern_gate_query_bytes(const struct gate_shape *s)
{
    size_t inputs = (size_t)(s->embed * gate_filled(s->width, 32) + gate_filled(s->rope, 32));
    return 64 + KERN_LANES * inputs * sizeof(float);
}

size_t kern_gate_scratch_bytes(const struct gate_shape *s)
{
    /* Scores of all lanes and their results, filled up; rows as operands, as they are and turned; or some
     * rows times their embeddings. */
    size_t lanes = ATTN_MAX_GROUPS * KERN_LANES, wide = (size_t)gate_filled(s->width, 32);
    size_t rope = (size_t)gate_filled(s->rope, 32), row = (size_t)s->embed * wide + rope;
    return lanes * (ATTN_PIECE + row) * sizeof(float) + ATTN_PIECE * 4 * (wide + rope) +
           KERN_LANES * (row + 64) * sizeof(float) + 65536;
}

/* Exchanges the bits of a that lie `shift` above the mask with those of b under it. */
INLINE void swap64(uint64_t *a, uint64_t *b, int shift, uint64_t mask)
{
    uint64_t t = ((*a >> shift) ^ *b) & mask;
    *b ^= t;
    *a ^= t << shift;
}

/* Four columns of 16 rows at a time, four rows by four: `size` is 1 or 2. */
INLINE void pack_four(const unsigned char *src, size_t row_bytes, size_t size, unsigned char *dst)
{
    for (int r = 0; r < KERN_LANES; r += 4) {
        uint64_t w[4];
        UNROLL
        for (int i = 0; i < 4; i++) {
            const unsigned char *at = src + (size_t)(r + i) * row_bytes;
            uint32_t four;
            memcpy(&four, at, 4);
            w[i] = four;
            if (size == 2)
                memcpy(&w[i], at, 8);
        }
        if (size == 2) {
            swap64(&w[0], &w[2], 32, 0xffffffff);
            swap64(&w[1], &w[3], 32, 0xffffffff);
            swap64(&w[0], &w[1], 16, 0x0000ffff0000ffff);
            swap64(&w[2], &w[3], 16, 0x0000ffff0000ffff);
        } else {
            swap64(&w[0], &w[2], 16, 0xffff);
            swap64(&w[1], &w[3], 16, 0xffff);
            swap64(&w[0], &w[1], 8, 0x00ff00ff);
            swap64(&w[2], &w[3], 8, 0x00ff00ff);
        }
        UNROLL
        for (int i = 0; i < 4; i++)
            memcpy(dst + ((size_t)i * KERN_LANES + (size_t)r) * size, &w[i], 4 * size);
    }
}

/* Columns [k0, k1) of a group, `size` bytes a value, to dst[k][16]. */
INLINE void pack_columns(const unsigned char *src, size_t row_bytes, int rows, int k0, int k1, size_t size,
                         unsigned char *dst)
{
    int k = k0, chunk = 64 / (int)size;
    unsigned char near[KERN_LANES][64];
    for (; size < 4 && rows == KERN_LANES && k + chunk <= k1; k += chunk) {
        /* Whole lines first: rows are often a power of two apart, and share few places in the cache. */
        for (int r = 0; r < KERN_LANES; r++) {
            const unsigned char *at = src + (size_t)r * row_bytes + (size_t)k * size;
            __builtin_prefetch(at + PACK_PREFETCH);
            memcpy(near[r], at, sizeof(near[r]));
        }
        for (int i = 0; i < chunk; i += 4, dst += 4 * KERN_LANES * size)
            pack_four(&near[0][0] + (size_t)i * size, sizeof(near[0]), size, dst);
    }
    for (; k < k1; k++, dst += KERN_LANES * size) {
        const unsigned char *at = src + (size_t)k * size;
        if (rows < KERN_LANES)
            memset(dst, 0, KERN_LANES * size);
        for (int r = 0; r < rows; r++)
            memcpy(dst + (size_t)r * size, at + (size_t)r * row_bytes, size);
    }
}

static int f8_has_nan(const unsigned char *p, int n)
{
    uint64_t found = 0;
    int i = 0;
    for (; i + 8 <= n; i += 8) { /* 0x7f is the only seven bits that a one carries out of */
        uint64_t w;
        memcpy(&w, p + i, 8);
        found |= ((w & 0x7f7f7f7f7f7f7f7f) + 0x0101010101010101) & 0x8080808080808080;
    }
    for (; i < n; i++)
        found |= (p[i] & 0x7f) == 0x7f;
    return found != 0;
}

static void pack_f8(const struct kern_source *src, const unsigned char *from, int row0, int rows, int n_in,
                    unsigned char *dst)
{
    for (int k = 0; k < n_in; k += F8_BLOCK) {
        float scale[KERN_LANES] = {0};
        int end = n_in - k < F8_BLOCK ? n_in : k + F8_BLOCK;
        for (int r = 0; r < rows; r++)
            scale[r] = !src->scale ? 1.0f
                                   : src->scale[(src->scale_row0 + row0 + r) / F8_BLOCK * src->scale_cols +
                                                k / F8_BLOCK];
        for (int r = 0; r < rows; r++) /* kernels do not look for NaN: the block's scale says it */
            if (f8_has_nan(from + (size_t)r * src->row_bytes + k, end - k))
                scale[r] = NAN;
        memcpy(dst, scale, sizeof(scale));
        dst += sizeof(scale);
        pack_columns(from, src->row_bytes, rows, k, end, 1, dst);
        dst += (size_t)(end - k) * KERN_LANES;
    }
}

void kern_pack(enum tensor_type type, const struct kern_source *src, int n_out, int n_in, int g0,
               int g1, void *dst)
{
    for (int g = g0; g < g1; g++) {
        int r0 = g * KERN_LANES, rows = n_out - r0 < KERN_LANES ? n_out - r0 : KERN_LANES;
        unsigned char *d = (unsigned char *)dst + (size_t)g * kern_group_bytes(type, n_in);
        const unsigned char *from = (const unsigned char *)src->rows + (size_t)r0 * src->row_bytes;
        if (kern_act_is_q8(type))
            kern__pack_quants(type, from, src->row_bytes, rows, n_in, d);
        else if (type == TT_F8_E4M3)
            pack_f8(src, from, r0, rows, n_in, d);
        else if (type == TT_F32)
            pack_columns(from, src->row_bytes, rows, 0, n_in, 4, d);
        else
            pack_columns(from, src->row_bytes, rows, 0, n_in, 2, d);
    }
}

int kern_weights_top(enum tensor_type type, const void *packed, int n_in, int g0, int g1)
{
    struct quant_layout l = quant_layout(type);
    if (!kern_act_is_q8(type) || !quant_is_scaled(l))
        return 0;
    int largest = l.b8 || l.table ? 128 : l.offset, size = 0, top;
    int side = l.form == QUANT_PLAIN ? 1 : l.n4 && !l.table ? 128 : 32; /* Q3_K and IQ4_XS have six bits */
    const unsigned char *super = (const unsigned char *)packed + (size_t)g0 * quant_group_bytes(type, n_in);
    const unsigned char *end = super + (size_t)(g1 - g0) * quant_group_bytes(type, n_in);
    for (; super < end; super += quant_super_bytes(l))
        for (int i = 0; i < KERN_LANES; i++) {
            uint16_t d;
            memcpy(&d, super + 2 * i, 2);
            size = (d & 0x7fff) > size ? d & 0x7fff : size; /* halves are ordered as their bits are */
        }
    if (size >= 0x7c00)
        return KERN_TOP_NAN;
    frexpf(f32_of_f16((uint16_t)size) * (float)(largest * side), &top);
    return top;
}

static void unpack_quants(enum tensor_type type, const unsigned char *group, int n_in, int r, float *dst)
{
    struct quant_layout l = quant_layout(type);
    struct quant_block q;
    for (int b = 0; b < n_in / Q8_BLOCK; b++) {
        quant_block_read(type, group + (size_t)(b / l.blocks) * quant_super_bytes(l), b % l.blocks, r, &q);
        for (int k = 0; k < Q8_BLOCK; k++)
            dst[b * Q8_BLOCK + k] = quant_block_value(type, &q, k);
    }
}

void kern_unpack_row(enum tensor_type type, const void *packed, int n_in, int r, float *dst)
{
    const unsigned char *g =
        (const unsigned char *)packed + (size_t)(r / KERN_LANES) * kern_group_bytes(type, n_in);
    size_t lane = (size_t)(r % KERN_LANES);
    if (kern_act_is_q8(type)) {
        unpack_quants(type, g, n_in, (int)lane, dst);
        return;
    }
    for (int k = 0; k < n_in; k++) {
        size_t i = (size_t)k * KERN_LANES + lane;
        if (type == TT_F32) {
            memcpy(&dst[k], g + 4 * i, 4);
        } else if (type == TT_F8_E4M3) {
            const unsigned char *block = g + (size_t)(k / F8_BLOCK) * F8_GROUP_BLOCK;
            float scale;
            memcpy(&scale, block + 4 * lane, 4);
            dst[k] = f32_of_f8(block[64 + (size_t)(k % F8_BLOCK) * KERN_LANES + lane]) * scale;
        } else {
            uint16_t h;
            memcpy(&h, g + 2 * i, 2);
            uint32_t u = (uint32_t)h << 16;
            if (type == TT_F16)
                dst[k] = f32_of_f16(h);
            else
                memcpy(&dst[k], &u, 4);
        }
    }
}
