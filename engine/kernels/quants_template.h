/* engine/kernels/quants_template.h - products of quantised weights, one source for every SIMD level and
 * type. Included by avx2.c, avx512.c and neon.c after simd_template.h and their integer part (quants_*.h).
 * All static.
 *
 * For each block of 32 values the integers of VI_LANES rows are unpacked once into eight vectors of four
 * k a lane, and met by every activation row of the tile; unpacking is shared by up to QUANT_TILE rows.
 * With one row all sums live in registers. Integers are exact, and each output gets its float32 additions
 * in the order of kern.h, so results depend neither on the tile nor, beyond contraction, on the level. */
#include "engine/kernels/quants_unpack_template.h"

#define QUANT_TILE 32
#define HALVES (KERN_LANES / VI_LANES)
#define VI_BYTES (4 * VI_LANES)

/* What the terms of a block are multiplied by, for VI_LANES rows. */
struct quant_scales {
    vf d, m;        /* m: also dmin, times the minimum where that is one for all 32 */
    struct subs s;  /* integer scales of halves */
    vi mins;        /* integer minima of halves, pairs of int16 */
};

/* Scales of block b: head and side at the rows in hand. d and m of the super-block are given. */
INLINE void quant_scales_read(const struct quant_layout l, const unsigned char *side, const int half,
                              vf d, vf m, struct quant_scales *ret)
{
    ret->d = d;
    ret->m = m;
    switch (l.form) {
    case QUANT_SUB32:
        ret->d = vf_mul(d, vf_cvt(vi_i8(side + half * VI_LANES)));
        break;
    case QUANT_SUBMIN:
        ret->d = vf_mul(d, vf_cvt(vi_u8(side + half * VI_LANES)));
        ret->m = vf_mul(m, vf_cvt(vi_u8(side + KERN_LANES + half * VI_LANES)));
        break;
    case QUANT_SUB16:
        ret->s = subs_of(vi_pairs(side + half * 2 * VI_LANES));
        break;
    case QUANT_SUBMIN16: {
        vi both = vi_pairs(side + half * 2 * VI_LANES); /* sign-extended: only the low bytes count */
        ret->s = subs_of(vi_and(both, vi_set1_16(15)));
        ret->mins = vi_and(vi_srl16(both, 4), vi_set1_16(15));
        break;
    }
    case QUANT_PLAIN:
    case QUANT_MIN:
        break;
    }
}

/* acc + the terms of block b of activation row x. */
INLINE vf quant_row(const struct quant_layout l, const vi *w, const struct signed_w *sw,
                    const struct quant_scales *s, const void *x, int n_in, int b, vf acc)
{
    const int8_t *qx = act_values(x, n_in) + b * Q8_BLOCK;
    const int top = (1 << ((l.n4 ? 4 : 0) + l.b2 + l.b1)) - 1; /* largest unsigned integer; b2 is 0 or 2 */
    vf dx = vf_set1(act_scales(x)[b]);
    vi dot;
    if (l.form == QUANT_SUB16 || l.form == QUANT_SUBMIN16) {
        int32_t h;
        memcpy(&h, act_halves(x, n_in) + 2 * b, 4);
        dot = dot_subs(w, qx, &s->s, top);
        if (l.offset == 4 || l.offset == 32) /* exact: below 2^24 */
            dot = vi_sub32(dot, vi_sll32(vi_madd16(s->s.pair, vi_set1_32(h)), l.offset == 4 ? 2 : 5));
        acc = vf_fma(vf_cvt(dot), vf_mul(s->d, dx), acc);
        if (l.form == QUANT_SUBMIN16)
            acc = vf_fnma(vf_cvt(vi_madd16(s->mins, vi_set1_32(h))), vf_mul(s->m, dx), acc);
        return acc;
    }
    if (l.b8 || l.table) {
        dot = dot_signed(w, sw, qx, act_sums(x, n_in) + b);
    } else {
        dot = dot_unsigned(w, qx, top);
        if (l.offset) /* 8 or 16; the row holds -128 times its sum */
            dot = vi_add32(dot, vi_sra32(vi_set1_32(act_sums(x, n_in)[b]), l.offset == 8 ? 4 : 3));
    }
    acc = vf_fma(vf_cvt(dot), vf_mul(s->d, dx), acc);
    if (l.form == QUANT_MIN)
        acc = vf_fma(s->m, vf_set1(act_totals(x, n_in)[b]), acc);
    if (l.form == QUANT_SUBMIN)
        acc = vf_fnma(s->m, vf_set1(act_totals(x, n_in)[b]), acc);
    return acc;
}

/* `rows` activation rows, known to be one when tile is 1, against `groups` neighbouring groups: with one
 * row two groups are read side by side, for two streams of memory. */
INLINE void quant_tile(enum tensor_type type, const unsigned char *wg, size_t group_bytes, int n_out,
                       int n_in, int g, const void *const *x, float *const *y, const int rows,
                       const int tile, const int groups)
{
    const struct quant_layout l = quant_layout(type);
    const size_t block_bytes = quant_block_bytes(l);
    vf acc[QUANT_TILE][2][HALVES];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < groups; j++)
            for (int h = 0; h < HALVES; h++)
                acc[i][j][h] = vf_set1(0.0f);
    for (int b = 0; b < n_in / Q8_BLOCK; wg += quant_super_bytes(l)) {
        vf d[2][HALVES], m[2][HALVES];
        UNROLL
        for (int j = 0; j < groups; j++) {
            const unsigned char *head = wg + (size_t)j * group_bytes;
            UNROLL
            for (int h = 0; h < HALVES; h++) {
                d[j][h] = vf_load_f16(head + h * 2 * VI_LANES);
                m[j][h] = l.head > 32 ? vf_load_f16(head + 32 + h * 2 * VI_LANES) : vf_set1(0.0f);
            }
        }
        for (int e = 0; e < l.blocks; e++, b++) {
            UNROLL
            for (int jh = 0; jh < groups * HALVES; jh++) {
                const int j = jh / HALVES, h = jh % HALVES;
                const unsigned char *side =
                    wg + (size_t)j * group_bytes + l.head + (size_t)e * block_bytes;
                vi w[8];
                struct quant_scales s;
                struct signed_w sw;
                if (tile == 1 && h == 0)
                    for (size_t at = 0; at < block_bytes; at += 64)
                        __builtin_prefetch(side + at + QUANT_PREFETCH);
                quant_unpack(l, side + l.side + h * VI_BYTES, w);
                if (l.b8 || l.table)
                    signed_prepare(w, &sw);
                quant_scales_read(l, side, h, d[j][h], m[j][h], &s);
                if (tile == 1)
                    acc[0][j][h] = quant_row(l, w, &sw, &s, x[0], n_in, b, acc[0][j][h]);
                else
                    for (int i = 0; i < rows; i++)
                        acc[i][j][h] = quant_row(l, w, &sw, &s, x[i], n_in, b, acc[i][j][h]);
            }
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < groups; j++)
            store_lanes(y[i], v16_of_halves(acc[i][j]), g + j, n_out);
}

INLINE void mul_quants(enum tensor_type type, const void *w, int n_out, int n_in, int g0, int g1,
                       const void *const *x, float *const *y, int m)
{
    size_t bytes = quant_group_bytes(type, n_in);
    const unsigned char *wg = (const unsigned char *)w + (size_t)g0 * bytes;
    int g = g0;
    if (m == 1) {
        for (; g + 2 <= g1; g += 2, wg += 2 * bytes)
            quant_tile(type, wg, bytes, n_out, n_in, g, x, y, 1, 1, 2);
        if (g < g1)
            quant_tile(type, wg, bytes, n_out, n_in, g, x, y, 1, 1, 1);
        return;
    }
    for (; g < g1; g++, wg += bytes)
        for (int i = 0; i < m; i += QUANT_TILE)
            quant_tile(type, wg, bytes, n_out, n_in, g, x + i, y + i,
                       m - i < QUANT_TILE ? m - i : QUANT_TILE, QUANT_TILE, 1);
}

#define MUL_QUANTS(name, type)                                                                     \
    static void name(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,     \
                     float *const *y, int m)                                                       \
    {                                                                                              \
        mul_quants(type, w, n_out, n_in, g0, g1, x, y, m);                                         \
    }
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

INLINE void set_quant_kernels(struct kernels *t)
{
    t->mul_q4_0 = mul_q4_0;
    t->mul_q4_1 = mul_q4_1;
    t->mul_q5_0 = mul_q5_0;
    t->mul_q5_1 = mul_q5_1;
    t->mul_q2_k = mul_q2_k;
    t->mul_q3_k = mul_q3_k;
    t->mul_q4_k = mul_q4_k;
    t->mul_q5_k = mul_q5_k;
    t->mul_q6_k = mul_q6_k;
    t->mul_iq4_nl = mul_iq4_nl;
    t->mul_iq4_xs = mul_iq4_xs;
}
