/* engine/kernels/generic.c - every kernel in plain C: the definition that the others are tested
 * against. Compiled with -ffp-contract=off. What each computes stands in kern.def and kern.h. */
#include "config.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "engine/kernels/gate.h"
#include "engine/kernels/kern.h"
#include "engine/kernels/pack.h"

static float f32_of_bf16(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

static float weight(enum tensor_type type, const void *w, size_t i)
{
    if (type == TT_F32)
        return ((const float *)w)[i];
    return type == TT_F16 ? f32_of_f16(((const uint16_t *)w)[i])
                          : f32_of_bf16(((const uint16_t *)w)[i]);
}

static void store_group(float *y, const float *acc, int g, int n_out)
{
    int n = n_out - g * KERN_LANES < KERN_LANES ? n_out - g * KERN_LANES : KERN_LANES;
    memcpy(y + g * KERN_LANES, acc, (size_t)n * sizeof(float));
}

static inline void mul_float(enum tensor_type type, const void *w, int n_out, int n_in, int g0,
                             int g1, const void *const *x, float *const *y, int m)
{
    float row[KERN_LANES];
    for (int g = g0; g < g1; g++) {
        const void *wg = (const unsigned char *)w + (size_t)g * kern_group_bytes(type, n_in);
        for (int i = 0; i < m; i++) {
            float acc[KERN_LANES] = {0};
            const float *xi = x[i];
            for (int k = 0; k < n_in; k++) {
                for (int r = 0; r < KERN_LANES; r++)
                    row[r] = weight(type, wg, (size_t)k * KERN_LANES + (size_t)r);
                for (int r = 0; r < KERN_LANES; r++)
                    acc[r] += row[r] * xi[k];
            }
            store_group(y[i], acc, g, n_out);
        }
    }
}

static void mul_f32(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
                    float *const *y, int m)
{
    mul_float(TT_F32, w, n_out, n_in, g0, g1, x, y, m);
}

static void mul_f16(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
                    float *const *y, int m)
{
    mul_float(TT_F16, w, n_out, n_in, g0, g1, x, y, m);
}

static void mul_bf16(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
                     float *const *y, int m)
{
    mul_float(TT_BF16, w, n_out, n_in, g0, g1, x, y, m);
}

static void mul_f8_e4m3(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
                        float *const *y, int m)
{
    for (int g = g0; g < g1; g++) {
        const unsigned char *wg =
            (const unsigned char *)w + (size_t)g * kern_group_bytes(TT_F8_E4M3, n_in);
        for (int i = 0; i < m; i++) {
            float acc[KERN_LANES] = {0};
            const float *xi = x[i];
            for (int k0 = 0; k0 < n_in; k0 += F8_BLOCK) {
                const unsigned char *blk = wg + (size_t)(k0 / F8_BLOCK) * F8_GROUP_BLOCK;
                int n = n_in - k0 < F8_BLOCK ? n_in - k0 : F8_BLOCK;
                for (int r = 0; r < KERN_LANES; r++) {
                    float scale, a = 0.0f;
                    memcpy(&scale, blk + 4 * r, 4);
                    for (int k = 0; k < n; k++)
                        a += f32_of_f8(blk[64 + k * KERN_LANES + r]) * xi[k0 + k];
                    acc[r] += scale * a;
                }
            }
            store_group(y[i], acc, g, n_out);
        }
    }
}

/* One block of weights of one row against 32 prepared values, onto acc. */
static inline float quant_term(enum quant_form form, const struct quant_block *w, const void *x, int n,
                               int b, float acc)
{
    const int8_t *qx = act_values(x, n) + b * Q8_BLOCK;
    const int16_t *h = act_halves(x, n) + 2 * b;
    float dx = act_scales(x)[b], tx = act_totals(x, n)[b];
    int dot[2] = {0, 0};
    for (int k = 0; k < Q8_BLOCK; k++)
        dot[k / 16] += w->q[k] * qx[k];
    switch (form) {
    case QUANT_PLAIN:
        return acc + (float)(dot[0] + dot[1]) * (w->d * dx);
    case QUANT_MIN:
        acc += (float)(dot[0] + dot[1]) * (w->d * dx);
        return acc + w->m * tx;
    case QUANT_SUB32:
        return acc + (float)(dot[0] + dot[1]) * (w->d * (float)w->s[0] * dx);
    case QUANT_SUBMIN:
        acc += (float)(dot[0] + dot[1]) * (w->d * (float)w->s[0] * dx);
        return acc - w->m * (float)w->min[0] * tx;
    case QUANT_SUB16:
        return acc + (float)(w->s[0] * dot[0] + w->s[1] * dot[1]) * (w->d * dx);
    case QUANT_SUBMIN16:
        acc += (float)(w->s[0] * dot[0] + w->s[1] * dot[1]) * (w->d * dx);
        return acc - (float)(w->min[0] * h[0] + w->min[1] * h[1]) * (w->m * dx);
    }
    return acc;
}

static inline void mul_quants(enum tensor_type type, const void *w, int n_out, int n_in, int g0,
                              int g1, const void *const *x, float *const *y, int m)
{
    struct quant_layout l = quant_layout(type);
    struct quant_block q;
    for (int g = g0; g < g1; g++) {
        const unsigned char *wg = (const unsigned char *)w + (size_t)g * quant_group_bytes(type, n_in);
        int rows = n_out - g * KERN_LANES < KERN_LANES ? n_out - g * KERN_LANES : KERN_LANES;
        for (int r = 0; r < rows; r++) {
            for (int i = 0; i < m; i++)
                y[i][g * KERN_LANES + r] = 0.0f;
            for (int b = 0; b < n_in / Q8_BLOCK; b++) {
                quant_block_read(type, wg + (size_t)(b / l.blocks) * quant_super_bytes(l), b % l.blocks,
                                  r, &q);
                for (int i = 0; i < m; i++) {
                    float *out = &y[i][g * KERN_LANES + r];
                    *out = quant_term(l.form, &q, x[i], n_in, b, *out);
                }
            }
        }
    }
}

#define MUL_QUANTS(name, type)                                                                     \
    static void name(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,     \
                     float *const *y, int m)                                                       \
    {                                                                                              \
        mul_quants(type, w, n_out, n_in, g0, g1, x, y, m);                                         \
    }
MUL_QUANTS(mul_q8_0, TT_Q8_0)
MUL_QUANTS(mul_q4_0, TT_Q4_0)
MUL_QUANTS(mul_q4_1, TT_Q4_1)
MUL_QUANTS(mul_q5_0, TT_Q5_0)
MUL_QUANTS(mul_q5_1, TT_Q5_1)
MUL_QUANTS(mul_q2_k, TT_Q2_K)
MUL_QUANTS(mul_q3_k, TT_Q3_K)
MUL_QUANTS(mul_q4_k, TT_Q4_K)
MUL_QUANTS(mul_q5_k, TT_Q5_K)
MUL_QUANTS(mul_q6_k, TT_Q6_K)
MUL_QUANTS(mul_iq4_nl, TT_IQ4_NL)
MUL_QUANTS(mul_iq4_xs, TT_IQ4_XS)

static uint16_t bf16_of_f32(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static void mul_rounded(enum tensor_type type, const void *w, int top, int n_out, int n_in, int g0, int g1,
                        const void *const *x, float *const *y, int m)
{
    (void)top;
    struct quant_layout l = quant_layout(type);
    struct quant_block q;
    for (int r = g0 * KERN_LANES; r < g1 * KERN_LANES && r < n_out; r++) {
        const unsigned char *wg =
            (const unsigned char *)w + (size_t)(r / KERN_LANES) * quant_group_bytes(type, n_in);
        for (int i = 0; i < m; i++)
            y[i][r] = 0.0f;
        for (int b = 0; b < n_in / Q8_BLOCK; b++) {
            float v[Q8_BLOCK];
            quant_block_read(type, wg + (size_t)(b / l.blocks) * quant_super_bytes(l), b % l.blocks,
                             r % KERN_LANES, &q);
            for (int k = 0; k < Q8_BLOCK; k++)
                v[k] = f32_of_bf16(bf16_of_f32(quant_block_value(type, &q, k)));
            for (int i = 0; i < m; i++)
                for (int k = 0; k < Q8_BLOCK; k++)
                    y[i][r] += v[k] * f32_of_bf16(((const uint16_t *)x[i])[b * Q8_BLOCK + k]);
        }
    }
}

static void act_q8(const float *x, int n, void *dst)
{
    float *d = dst, *t = (float *)dst + (size_t)(n / Q8_BLOCK) * 11;
    int32_t *s = (int32_t *)dst + n / Q8_BLOCK;
    int8_t *q = (int8_t *)dst + (size_t)(n / Q8_BLOCK) * 8;
    int16_t *h = (int16_t *)dst + (size_t)(n / Q8_BLOCK) * 20;
    for (int b = 0; b < n / Q8_BLOCK; b++, x += Q8_BLOCK, q += Q8_BLOCK) {
        float max = 0.0f;
        int sum[2] = {0, 0};
        for (int i = 0; i < Q8_BLOCK; i++)
            if (fabsf(x[i]) > max) /* false for NaN */
                max = fabsf(x[i]);
        if (max > 3.0e38f)
            max = 3.0e38f; /* an infinity: the block saturates */
        d[b] = max / 127.0f;
        float inv = d[b] > 0.0f ? 1.0f / d[b] : 0.0f;
        if (inv > 3.0e38f)
            inv = 0.0f; /* scale too small to invert: the block counts as zero */
        for (int i = 0; i < Q8_BLOCK; i++) {
            float v = x[i] * inv;
            if (!(v == v))
                v = 0.0f;
            v = v > 127.0f ? 127.0f : v < -127.0f ? -127.0f : v;
            q[i] = (int8_t)lrintf(v);
            sum[i / 16] += q[i];
        }
        h[2 * b] = (int16_t)sum[0];
        h[2 * b + 1] = (int16_t)sum[1];
        s[b] = -128 * (sum[0] + sum[1]);
        t[b] = d[b] * (float)(sum[0] + sum[1]);
    }
}

static float element(enum tensor_type type, const unsigned char *row, int i)
{
    if (type == TT_F32)
        return ((const float *)(const void *)row)[i];
    return f32_of_bf16(((const uint16_t *)(const void *)row)[i]);
}

static void f32_to_bf16(const float *x, int n, void *dst)
{
    for (int i = 0; i < n; i++)
        ((uint16_t *)dst)[i] = bf16_of_f32(x[i]);
}

/* --- attention over a piece -------------------------------------------------------------------- */

static float row_element(const struct row_format *f, const unsigned char *row, int i)
{
    uint16_t h;
    float v;
    if (f->type == TT_F32) {
        memcpy(&v, row + 4 * (size_t)i, 4);
        return v;
    }
    if (f->type == TT_BF16) {
        memcpy(&h, row + 2 * (size_t)i, 2);
        return f32_of_bf16(h);
    }
    int bytes = f->elems - f->tail; /* or nibbles */
    if (i >= bytes) {
        memcpy(&h, row + row_tail_at(f) + 2 * (size_t)(i - bytes), 2);
        return f32_of_bf16(h);
    }
    if (f->type == TT_I4) {
        int byte = row_nibbles(row, i)[i % 16], code = i % ROW_NIBBLE_GROUP < 16 ? byte & 15 : byte >> 4;
        return (float)quant_iq4_table[code] * row_nibble_scale(f, row, i);
    }
    memcpy(&v, row + row_scales_at(f) + 4 * (size_t)(i / ROW_SCALE_BLOCK), 4);
    return (f->type == TT_F8_E4M3 ? f32_of_f8(row[i]) : (float)(int8_t)row[i]) * v;
}

static void attn_pack(const float *const *q, int dk, float scale, void *dst)
{
    float *to = dst;
    for (int d = 0; d < dk; d++)
        for (int i = 0; i < KERN_LANES; i++)
            to[d * KERN_LANES + i] = q[i] ? q[i][d] * scale : 0.0f;
}

static void attn_lane(const struct attn_piece *p, int lane, float *key, float *score)
{
    int n = p->limit[lane] < p->n_rows ? p->limit[lane] : p->n_rows;
    const float *q = (const float *)(const void *)((const unsigned char *)p->q +
                                                   (size_t)(lane / KERN_LANES) *
                                                       kern_attn_query_bytes(p->dk));
    float *o = p->o + (size_t)lane * p->o_stride, max = -INFINITY, sum = 0.0f;
    for (int t = 0; t < n; t++) {
        const unsigned char *row = attn_row(p, t);
        for (int d = 0; d < p->dk; d++)
            key[d] = row_element(&p->format, row, p->k_off + d);
        score[t] = 0.0f;
        for (int d = 0; d < p->dk; d++)
            score[t] += q[d * KERN_LANES + lane % KERN_LANES] * key[d];
        max = score[t] > max ? score[t] : max;
    }
    p->m[lane] = max;
    p->l[lane] = 0.0f;
    if (n <= 0)
        return;
    for (int r = 0; r < p->dv; r++)
        o[r] = 0.0f;
    for (int t = 0; t < n; t++) {
        float w = expf(score[t] - max);
        const unsigned char *row = attn_row(p, t);
        sum += w;
        for (int r = 0; r < p->dv; r++)
            o[r] += w * row_element(&p->format, row, p->v_off + r);
    }
    p->l[lane] = sum;
}

static void attn_piece(const struct attn_piece *p)
{
    float *key = p->scratch, *score = key + p->dk;
    for (int lane = 0; lane < p->n_groups * KERN_LANES; lane++)
        attn_lane(p, lane, key, score);
}

static void fold_lane(int dv, float *m1, float *l1, float *o1, float m2, float l2, const float *o2)
{
    if (l2 == 0.0f)
        return;
    bool empty = *l1 == 0.0f;
    float m = !empty && *m1 > m2 ? *m1 : m2;
    float c1 = empty ? 0.0f : expf(*m1 - m), c2 = empty ? 1.0f : expf(m2 - m);
    *l1 = empty ? l2 : *l1 * c1 + l2 * c2;
    *m1 = m;
    for (int r = 0; r < dv; r++)
        o1[r] = empty ? o2[r] : o1[r] * c1 + o2[r] * c2;
}

static void attn_fold(int n, int dv, float *m1, float *l1, float *const *o1, const float *m2, const float *l2,
                      const float *o2)
{
    for (int i = 0; i < n; i++)
        fold_lane(dv, m1 + i, l1 + i, o1[i], m2[i], l2[i], o2 + (size_t)i * (size_t)dv);
}

/* The nearest level of each of a group's values, counted in scales; returns by what factor the scale fits
 * these levels better. */
static float nearest_levels(const float *x, float inv, int *code)
{
    float product[KERN_LANES], square[KERN_LANES], products = 0.0f, squares = 0.0f;
    for (int i = 0; i < ROW_NIBBLE_GROUP; i++) {
        float v = x[i] * inv;
        v = v > 127.0f ? 127.0f : v < -127.0f ? -127.0f : v;
        code[i] = 0;
        while (code[i] < 15 && v > 0.5f * (float)(quant_iq4_table[code[i]] + quant_iq4_table[code[i] + 1]))
            code[i]++;
        float level = (float)quant_iq4_table[code[i]], p = v * level, s = level * level;
        product[i % KERN_LANES] = i < KERN_LANES ? p : product[i % KERN_LANES] + p;
        square[i % KERN_LANES] = i < KERN_LANES ? s : square[i % KERN_LANES] + s;
    }
    for (int i = 0; i < KERN_LANES; i++) {
        products += product[i];
        squares += square[i];
    }
    return products / squares;
}

/* 1 / scale; a scale that has none becomes 0. */
static float inverse_of(float *scale)
{
    float inv = *scale != 0.0f ? 1.0f / *scale : 0.0f;
    if (fabsf(inv) > 3.0e38f)
        inv = 0.0f;
    if (inv == 0.0f)
        *scale = 0.0f;
    return inv;
}

static void store_nibbles(const struct row_format *f, const float *x, unsigned char *row)
{
    int n = f->elems - f->tail, code[ROW_NIBBLE_GROUP];
    for (int i0 = 0; i0 < n; i0 += ROW_NIBBLE_GROUP) {
        float group[ROW_NIBBLE_GROUP] = {0}, top = 0.0f, bottom = 0.0f;
        for (int i = 0; i < ROW_NIBBLE_GROUP && i0 + i < n; i++) {
            group[i] = x[i0 + i] == x[i0 + i] ? x[i0 + i] : 0.0f;
            top = group[i] > top ? group[i] : top;
            bottom = -group[i] > bottom ? -group[i] : bottom;
        }
        float most = top > bottom ? top : bottom;
        most = most > 3.0e38f ? 3.0e38f : most;
        float scale = (top > bottom ? most : -most) / -127.0f, inv = inverse_of(&scale);
        uint16_t h;
        scale *= nearest_levels(group, inv, code);
        f32_to_bf16(&scale, 1, &h);
        scale = f32_of_bf16(h);
        inv = inverse_of(&scale);
        nearest_levels(group, inv, code);
        f32_to_bf16(&scale, 1, &h);
        memcpy(row + row_scales_at(f) + 2 * (size_t)(i0 / ROW_NIBBLE_GROUP), &h, 2);
        for (int i = 0; i < 16; i++)
            row[i0 / 2 + i] = (unsigned char)(code[i] | code[16 + i] << 4);
    }
}

static void row_store(const struct row_format *f, const float *x, void *dst)
{
    unsigned char *row = dst;
    int bytes = f->elems - f->tail;
    if (f->type == TT_F32) {
        memcpy(row, x, (size_t)f->elems * sizeof(*x));
        return;
    }
    if (f->type == TT_BF16) {
        f32_to_bf16(x, f->elems, row);
        return;
    }
    f32_to_bf16(x + bytes, f->tail, row + row_tail_at(f));
    if (f->type == TT_I4) {
        store_nibbles(f, x, row);
        return;
    }
    for (int b = 0; b * ROW_SCALE_BLOCK < bytes; b++) {
        int i0 = b * ROW_SCALE_BLOCK;
        int n = bytes - i0 < ROW_SCALE_BLOCK ? bytes - i0 : ROW_SCALE_BLOCK;
        float top = f->type == TT_I8 ? 127.0f : 448.0f, max = 0.0f;
        for (int i = 0; i < n; i++)
            if (fabsf(x[i0 + i]) > max) /* false for NaN */
                max = fabsf(x[i0 + i]);
        if (max > 3.0e38f)
            max = 3.0e38f;
        float scale = max / top, inv = scale > 0.0f ? 1.0f / scale : 0.0f;
        if (inv > 3.0e38f)
            scale = inv = 0.0f;
        memcpy(row + row_scales_at(f) + 4 * (size_t)b, &scale, 4);
        for (int i = 0; i < n; i++) {
            float v = x[i0 + i] * inv;
            v = v == v ? v > top ? top : v < -top ? -top : v : 0.0f;
            row[i0 + i] = f->type == TT_I8 ? (uint8_t)(int8_t)lrintf(v) : f8_of_f32(v);
        }
    }
}

static void rms_norm(const float *x, const float *w, int n, float eps, float *y)
{
    float lane[KERN_LANES] = {0}, sum = 0.0f;
    for (int i = 0; i < n; i++)
        lane[i % KERN_LANES] += x[i] * x[i];
    for (int i = 0; i < KERN_LANES; i++)
        sum += lane[i];
    float scale = 1.0f / sqrtf(sum / (float)n + eps);
    for (int i = 0; i < n; i++)
        y[i] = x[i] * scale * w[i];
}

static void silu_mul(const float *gate, const float *up, int n, float *out)
{
    for (int i = 0; i < n; i++)
        out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static void axpy(float a, const float *x, int n, float *y)
{
    for (int i = 0; i < n; i++)
        y[i] += a * x[i];
}

static void max_logsumexp(const float *x, int n, float *ret_max, float *ret_logsumexp)
{
    float max = x[0], lane[KERN_LANES] = {0}, sum = 0.0f;
    for (int i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (int i = 0; i < n; i++)
        lane[i % KERN_LANES] += expf(x[i] - max);
    for (int i = 0; i < KERN_LANES; i++)
        sum += lane[i];
    *ret_max = max;
    *ret_logsumexp = max + logf(sum);
}

static void index_scores(const struct index_block *b)
{
    float *key = b->scratch;
    for (int t = 0; t < b->n_rows; t++) {
        float lane[KERN_LANES] = {0}, sum = 0.0f;
        for (int d = 0; d < b->dim; d++)
            key[d] = element(b->row_type, (const unsigned char *)b->rows + (size_t)t * b->row_bytes, d);
        for (int g = 0; g < b->n_groups; g++) {
            const float *q = b->q + (size_t)g * (size_t)b->dim * KERN_LANES;
            float s[KERN_LANES] = {0};
            for (int d = 0; d < b->dim; d++)
                for (int i = 0; i < KERN_LANES; i++)
                    s[i] += q[d * KERN_LANES + i] * key[d];
            for (int i = 0; i < KERN_LANES; i++)
                lane[i] += b->w[g * KERN_LANES + i] * (s[i] > 0.0f ? s[i] : 0.0f);
        }
        for (int i = 0; i < KERN_LANES; i++)
            sum += lane[i];
        b->scores[t] = sum;
    }
}

static int lane_max(const float *x, int n, float *ret)
{
    bool finite = true;
    for (int i = 0; i < kern_stretches(n) * KERN_LANES; i++)
        ret[i] = -INFINITY;
    for (int i = 0; i < n; i++) {
        float *max = &ret[i / KERN_STRETCH * KERN_LANES + i % KERN_LANES];
        finite &= isfinite(x[i]) != 0;
        if (x[i] > *max)
            *max = x[i];
    }
    return finite;
}

static int collect(const float *x, int n, float least, float below, int32_t *ret)
{
    int count = 0;
    for (int i = 0; i < n; i++)
        if (x[i] >= least && x[i] < below)
            ret[count++] = i;
    return count;
}

static void soft_weights(const float *x, int n, float top, float scale, float *y)
{
    for (int i = 0; i < n; i++) {
        float l = (x[i] - top) * scale;
        y[i] = l > -KERN_SOFT_NATS ? expf(l) : 0.0f;
    }
}

static float sum_from(const float *x, int n, float least, int *ret_count)
{
    float lane[KERN_LANES] = {0}, sum = 0.0f;
    int count = 0;
    for (int i = 0; i < n; i++) {
        bool in = x[i] >= least;
        lane[i % KERN_LANES] += in ? x[i] : 0.0f;
        count += in;
    }
    for (int i = 0; i < KERN_LANES; i++)
        sum += lane[i];
    *ret_count = count;
    return sum;
}

static void rotate(const float *cos, const float *sin, int half, int interleaved, float *x)
{
    int step = interleaved ? 2 : 1, other = interleaved ? 1 : half;
    for (int i = 0; i < half; i++) {
        float a = x[i * step], b = x[i * step + other];
        x[i * step] = a * cos[i] - b * sin[i];
        x[i * step + other] = b * cos[i] + a * sin[i];
    }
}

static void rotate_rows(const struct row_rotation *r)
{
    int half = r->dim / 2;
    size_t plain = (size_t)r->dim * (r->type == TT_F32 ? 4 : 2);
    const float *near = r->near, *far = r->far;
    float x[KERN_MAX_ROTATION], cos[KERN_MAX_ROTATION / 2], sin[KERN_MAX_ROTATION / 2];
    for (int i = 0; i < r->n; i++, near += r->dim) {
        unsigned char *dst = r->dst + (size_t)i * r->dst_bytes;
        for (int d = 0; d < half; d++) {
            cos[d] = near[d] * far[d] - near[half + d] * far[half + d];
            sin[d] = near[half + d] * far[d] + near[d] * far[half + d];
        }
        for (int d = 0; d < r->dim; d++)
            x[d] = element(r->type, r->rows + (size_t)i * r->row_bytes, d);
        rotate(cos, sin, half, r->interleaved, x);
        memcpy(dst + plain, r->rows + (size_t)i * r->row_bytes, plain);
        if (r->type == TT_F32)
            memcpy(dst, x, (size_t)r->dim * sizeof(*x));
        else
            f32_to_bf16(x, r->dim, dst);
    }
}

static float times(const float *x, const float *w, int n, size_t stride)
{
    float sum = 0;
    for (int k = 0; k < n; k++)
        sum += x[k] * w[(size_t)k * stride];
    return sum;
}

static void gated_rows(const struct gated_rows *g)
{
    size_t stride = kern_gated_stride(g->each), size = g->type == TT_F32 ? 4 : 2;
    float *x = g->scratch, *y = x + g->width;
    for (int i = 0; i < g->n; i++) {
        float mean = 0, square = 0, inverse;
        for (int k = 0; k < g->width; k++)
            x[k] = element(g->type, g->x[i], k);
        for (int d = 0; d < g->each; d++) {
            y[d] = times(x, g->up + d, g->width, stride) * times(g->e[i], g->gate + d, g->embed, stride);
            mean += y[d];
        }
        mean = g->mean ? g->mean[i] : mean / (float)g->each;
        for (int d = 0; d < g->each; d++)
            square += (y[d] - mean) * (y[d] - mean);
        inverse = g->inverse ? g->inverse[i] : 1.0f / sqrtf(square / (float)g->each + g->eps);
        for (int d = 0; d < g->each; d++) {
            unsigned char *to = g->dst + (size_t)i * g->dst_bytes;
            float v = (y[d] - mean) * inverse;
            to += size * (size_t)(d < g->first ? d : g->rest_at + d - g->first);
            if (g->type == TT_F32)
                memcpy(to, &v, size);
            else
                f32_to_bf16(&v, 1, to);
        }
    }
}

/* --- gated latents --------------------------------------------------------------------------------- */

/* [block][column][width, then embed][16] */
static void gate_pack(const struct gate_shape *s, const float *up, const float *gate, void *dst)
{
    float *to = dst;
    for (int b = 0; b < gate_blocks(s); b++)
        for (int j = 0; j < gate_columns(s); j++)
            for (int k = 0; k < s->width + s->embed; k++)
                for (int i = 0; i < KERN_LANES; i++) {
                    int row = gate_output(s, b, j, i);
                    *to++ = row < 0 ? 0.0f
                            : k < s->width ? up[(size_t)row * (size_t)s->width + (size_t)k]
                                           : gate[(size_t)row * (size_t)s->embed + (size_t)(k - s->width)];
                }
}

static void gate_factors(const struct gate_factors *g)
{
    const struct gate_shape *s = &g->shape;
    size_t column = (size_t)(s->width + s->embed) * KERN_LANES;
    int heads = gate_heads(s), columns = gate_columns(s);
    for (int i = 0; i < g->n; i++) {
        for (int b = 0; b < gate_blocks(s); b++) {
            float sum[KERN_LANES] = {0}, square[KERN_LANES] = {0}, *x = g->scratch;
            float *to = g->factors + (size_t)i * kern_gate_stride(s->heads) + b * KERN_LANES;
            const float *w = (const float *)g->weights + (size_t)(b * columns) * column;
            for (int k = 0; k < s->width; k++)
                x[k] = element(g->type, g->x[i], k);
            for (int j = 0; j < columns; j++, w += column)
                for (int l = 0; l < KERN_LANES; l++) {
                    float y = times(x, w + l, s->width, KERN_LANES) *
                              times(g->e[i], w + s->width * KERN_LANES + l, s->embed, KERN_LANES);
                    sum[l % heads] += y;
                    square[l % heads] += y * y;
                }
            for (int h = 0; h < heads; h++) {
                float mean = sum[h] / (float)s->each, v = square[h] / (float)s->each - mean * mean;
                to[h] = 1.0f / sqrtf((v > 0 ? v : 0.0f) + g->eps);
            }
        }
    }
}

static void gate_query(const struct gate_shape *s, const float *const *q, float scale, void *dst)
{
    float *to = dst;
    size_t wide = gate_query_width(s), n = gate_query_floats(s), values = (size_t)s->embed * wide;
    memset(to, 0, KERN_LANES * n * sizeof(*to));
    for (int i = 0; i < KERN_LANES; i++, to += n) {
        for (int b = 0; b < s->embed && q[i]; b++)
            for (int k = 0; k < s->width; k++)
                to[(size_t)b * wide + (size_t)k] = scale * q[i][b * s->width + k];
        for (int k = 0; k < s->rope && q[i]; k++)
            to[values + (size_t)k] = scale * q[i][s->embed * s->width + k];
    }
}

static void gate_lane(const struct gate_piece *p, int lane, float *score)
{
    const struct gate_shape *s = &p->shape;
    size_t wide = gate_query_width(s), stride = kern_gate_stride(s->heads);
    size_t values = (size_t)(s->embed * s->width);
    int n = p->limit[lane] < p->n_rows ? p->limit[lane] : p->n_rows;
    const float *q = (const float *)(const void *)((const unsigned char *)p->q +
                                                   (size_t)(lane / KERN_LANES) * kern_gate_query_bytes(s));
    const float *f = p->factors + (p->first + lane) % s->heads;
    float *o = p->o + (size_t)lane * p->o_stride, max = -INFINITY, sum = 0.0f;
    q += (size_t)(lane % KERN_LANES) * gate_query_floats(s);
    for (int t = 0; t < n; t++) {
        float gated = 0.0f, rope = 0.0f;
        for (int b = 0; b < s->embed; b++)
            for (int k = 0; k < s->width; k++)
                gated += q[(size_t)b * wide + (size_t)k] * (p->e[t][b] * element(p->type, p->x[t], k));
        for (int k = 0; k < s->rope; k++)
            rope += q[(size_t)s->embed * wide + (size_t)k] * element(p->type, p->x[t], s->width + k);
        score[t] = gated * f[(size_t)t * stride] + rope;
        max = score[t] > max ? score[t] : max;
    }
    p->m[lane] = max;
    p->l[lane] = 0.0f;
    if (n <= 0)
        return;
    memset(o, 0, values * sizeof(*o));
    for (int t = 0; t < n; t++) {
        float weight = expf(score[t] - max), w = weight * f[(size_t)t * stride];
        sum += weight;
        for (int b = 0; b < s->embed; b++)
            for (int k = 0; k < s->width; k++)
                o[b * s->width + k] += w * (p->e[t][b] * element(p->type, p->x[t], k));
    }
    p->l[lane] = sum;
}

static void gate_piece(const struct gate_piece *p)
{
    for (int i = 0; i < p->n_groups * KERN_LANES; i++)
        gate_lane(p, i, p->scratch);
}

void kern__init_generic(struct kernels *t)
{
#define KERN(name, ret, args, check_class) t->name = name;
#include "engine/kernels/kern.def"
#undef KERN
    t->attn_bf16 = false;
}
