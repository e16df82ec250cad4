/* engine/kernels/amx_dequant.h - a block of 32 values of 16 packed quantised rows as a right operand
 * of bfloat16, scales and minima included. All static. Types without minima have a shorter way,
 * amx_dequant_half.h.
 *
 * With one a value is a u + c for its unsigned integer u: a is the scale, c the minimum. u reaches float32
 * without a conversion, as bits 15 to 22 of 256 + u, whose fused product with a and c is rounded once. The
 * sum is cut off to bfloat16, which takes half a unit on average: a and c are as much larger, for mantissas
 * spread evenly on a logarithmic scale. So the errors are spread as those of rounding are, around zero, for
 * two operations of ten less. */
#ifndef LATENT_ENGINE_KERNELS_AMX_DEQUANT_H
#define LATENT_ENGINE_KERNELS_AMX_DEQUANT_H

#include "engine/kernels/amx_dequant_half.h"
#include "engine/kernels/quants_avx512.h"
#include "engine/kernels/quants_unpack_template.h"

#define DEQUANT_BASE 256.0f
#define DEQUANT_CUT (1.0f + 0x1.715p-9f) /* 1 + 2^-8 (1 / ln 2) / 2 */
#define DEQUANT_FETCH 3072

/* Of both halves of a block. */
struct dequant_scales {
    vf a[2], c[2];
};

INLINE struct dequant_scales dequant_scales(const struct quant_layout l, const unsigned char *head,
                                            const unsigned char *side)
{
    vf d = vf_load_f16(head), m = vf_load_f16(head + 32), b[2] = {m, m};
    struct dequant_scales s = {{d, d}, {d, d}};
    if (l.form == QUANT_SUBMIN) {
        s.a[0] = s.a[1] = vf_mul(d, vf_cvt(vi_u8(side)));
        b[0] = b[1] = vf_fnma(m, vf_cvt(vi_u8(side + KERN_LANES)), vf_set1(0.0f));
    }
    if (l.form == QUANT_SUBMIN16) { /* a half's byte: scale | minimum << 4 */
        vi both = vi_and(vi_pairs(side), vi_set1_16(255));
        UNROLL
        for (int h = 0; h < 2; h++) {
            vi one = _mm512_srli_epi32(both, 16 * h), low = _mm512_set1_epi32(15);
            s.a[h] = vf_mul(d, vf_cvt(vi_and(one, low)));
            b[h] = vf_fnma(m, vf_cvt(vi_and(_mm512_srli_epi32(one, 4), low)), vf_set1(0.0f));
        }
    }
    UNROLL
    for (int h = 0; h < 2; h++) {
        s.a[h] = vf_mul(s.a[h], vf_set1(DEQUANT_CUT));
        s.c[h] = vf_fnma(vf_set1(DEQUANT_BASE), s.a[h], vf_mul(b[h], vf_set1(DEQUANT_CUT)));
    }
    return s;
}

/* Byte i of each lane as 256 + byte. */
INLINE vf dequant_float(vi w, const int i)
{
    vi moved = i == 0   ? _mm512_slli_epi32(w, 15)
               : i == 1 ? _mm512_slli_epi32(w, 7)
               : i == 2 ? _mm512_srli_epi32(w, 1)
                        : _mm512_srli_epi32(w, 9);
    /* (moved & mask) ^ base */
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(moved, _mm512_set1_epi32(0xff << 15),
                                                         _mm512_set1_epi32(0x43800000), 0x6a));
}

/* Two rows of float32 as bfloat16 side by side, cut off. */
INLINE __m512i dequant_pair(vf even, vf odd)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(_mm512_castps_si512(even), 16),
                                   _mm512_castps_si512(odd));
}

/* A block on its way: [16][16] pairs at dst. */
struct dequant_block {
    const unsigned char *values; /* behind its side scales */
    struct dequant_scales s;     /* of a type with a minimum */
    vi half[2];                  /* of others, both halves' scales */
    unsigned char *dst;
};

/* Block s of the group at wg. enlarged: half_enlarged of the matrix. */
INLINE struct dequant_block dequant_begin(enum tensor_type type, const unsigned char *wg, int s,
                                          float enlarged, unsigned char *dst)
{
    const struct quant_layout l = quant_layout(type);
    const size_t block_bytes = quant_block_bytes(l);
    const unsigned char *head = wg + (size_t)(s / l.blocks) * quant_super_bytes(l);
    const unsigned char *side = head + l.head + (size_t)(s % l.blocks) * block_bytes;
    for (size_t at = 0; at < block_bytes + (l.blocks == 1 ? (size_t)l.head : 0); at += 64)
        _mm_prefetch((const char *)side + at + DEQUANT_FETCH, _MM_HINT_T0);
    struct dequant_block b = {.values = side + l.side, .dst = dst};
    if (quant_is_scaled(l))
        half_scales(l, head, side, enlarged, b.half);
    else
        b.s = dequant_scales(l, head, side);
    return b;
}

/* Four k of it. */
INLINE void dequant_word(enum tensor_type type, const struct dequant_block *b, const int q)
{
    const struct quant_layout l = quant_layout(type);
    vi w = quant_word(l, b->values, q);
    if (quant_is_scaled(l)) {
        half_word(l, w, b->half[q / 4], b->dst + 128 * q);
        return;
    }
    vf v[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        v[i] = vf_fma(dequant_float(w, i), b->s.a[q / 4], b->s.c[q / 4]);
    _mm512_store_si512(b->dst + 128 * q, dequant_pair(v[0], v[1]));
    _mm512_store_si512(b->dst + 128 * q + 64, dequant_pair(v[2], v[3]));
}

#endif
