/* engine/kernels/amx_dequant_half.h - values of packed quantised rows that are an integer times a scale, as a
 * right operand of bfloat16 by way of half precision (AVX512-FP16), and the left operands that fit. All
 * static.
 *
 * An unsigned byte u becomes a half without a conversion, as the mantissa of 1024 + u. Less 1024 and the
 * type's offset that is the integer, exactly; its product with the scale has 11 bits, of which bfloat16 takes
 * eight: shifted by three the half's exponent lies at the foot of bfloat16's, which makes the value 2^-112
 * of itself. Ten operations for 64 values where float32 takes sixteen, and 32 values a register.
 *
 * What is cut off are seven sixteenths of a unit on average: scales are as much larger, for mantissas
 * spread evenly on a logarithmic scale. They are also multiplied by 2^(15 - top), so that the largest
 * weights just fit; left operands by 2^(97 + top), which takes both back. Subnormal halves become subnormal
 * bfloat16, which tiles take as zero.
 *
 * Halves of a register are bytes 0 and 2 of each four k, or 1 and 3. So a row of the right operand is a
 * pair of these, and left operands have each four k in the order 0, 2, 1, 3. */
#ifndef LATENT_ENGINE_KERNELS_AMX_DEQUANT_HALF_H
#define LATENT_ENGINE_KERNELS_AMX_DEQUANT_HALF_H

#include <math.h>

#include "engine/kernels/quant_layout.h"
#include "engine/kernels/quants_avx512.h"

#define HALF_CUT (1.0f + 0x1.433p-9f) /* 1 + 2^-8 (1 / ln 2) / 2 * 7 / 8 */
#define HALF_1024 0x6400
#define HALF_TOP 15      /* weights are brought below 2 to this */
#define HALF_IN_BF16 112 /* what exponents lose */

/* What scales are multiplied by. */
INLINE float half_enlarged(int top)
{
    return top == KERN_TOP_NAN ? 1.0f : ldexpf(HALF_CUT, HALF_TOP - top);
}

/* Scales of 16 rows as halves, each twice. */
INLINE vi half_scale(vf a, float enlarged)
{
    vi s = _mm512_cvtepu16_epi32(_mm512_cvtps_ph(vf_mul(a, vf_set1(enlarged)), _MM_FROUND_TO_NEAREST_INT));
    return vi_or(s, _mm512_slli_epi32(s, 16));
}

/* Of both halves of a block. */
INLINE void half_scales(const struct quant_layout l, const unsigned char *head, const unsigned char *side,
                        float enlarged, vi ret[2])
{
    vf d = vf_load_f16(head);
    if (l.form == QUANT_SUB16) {
        struct subs sub = subs_of(vi_pairs(side));
        ret[0] = half_scale(vf_mul(d, vf_cvt(sub.a)), enlarged);
        ret[1] = half_scale(vf_mul(d, vf_cvt(sub.b)), enlarged);
    } else {
        vf a = l.form == QUANT_SUB32 ? vf_mul(d, vf_cvt(vi_i8(side))) : d;
        ret[0] = ret[1] = half_scale(a, enlarged);
    }
}

/* 32 unsigned bytes, each in a half's low bits of 1024, as values cut off. */
INLINE __m512i half_values(__m512i u, vi scale, int offset)
{
    __m512h v = _mm512_sub_ph((__m512h)u, (__m512h)_mm512_set1_epi16((short)(HALF_1024 + offset)));
    v = _mm512_mul_ph(v, (__m512h)scale);
    return _mm512_and_si512(_mm512_srai_epi16((__m512i)v, 3), _mm512_set1_epi16((short)0x8fff));
}

/* Four k of a block: two rows of the right operand, at dst. */
INLINE void half_word(const struct quant_layout l, vi w, vi scale, unsigned char *dst)
{
    const int sign = l.b8 ? 128 : 0, offset = l.b8 || l.table ? 128 : l.offset;
    const __m512i base = _mm512_set1_epi16((short)(HALF_1024 ^ sign));
    /* (w & 255) ^ base */
    __m512i even = _mm512_ternarylogic_epi32(w, _mm512_set1_epi16(255), base, 0x6a);
    __m512i odd = _mm512_xor_si512(_mm512_srli_epi16(w, 8), base);
    _mm512_store_si512(dst, half_values(even, scale, offset));
    _mm512_store_si512(dst + 64, half_values(odd, scale, offset));
}

/* What half_left adds to exponents: 2^(97 + top), or enough for none to be finite. */
INLINE __m512i half_raise(int top)
{
    return _mm512_set1_epi16((short)(top == KERN_TOP_NAN ? 0x7fff : (HALF_IN_BF16 - HALF_TOP + top) << 7));
}

/* 32 values of a row as left operand; subnormals become zero, and NaN what is too large. */
INLINE __m512i half_left(__m512i x, __m512i raise)
{
    const __m512i size = _mm512_set1_epi16(0x7fff);
    const __m512i order = _mm512_set4_epi32(0x0f0e0b0a, 0x0d0c0908, 0x07060302, 0x05040100);
    __m512i up = _mm512_maskz_adds_epi16(_mm512_test_epi16_mask(x, _mm512_set1_epi16(0x7f80)),
                                         _mm512_and_si512(x, size), raise);
    /* the sign of x */
    return _mm512_shuffle_epi8(_mm512_ternarylogic_epi32(x, size, up, 0xb8), order);
}

#endif
