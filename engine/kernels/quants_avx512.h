/* engine/kernels/quants_avx512.h - integers of sixteen rows in a register, for quants_template.h: dot
 * products by VNNI (unsigned weights times signed activations, four k added in int32). */
#ifndef LATENT_ENGINE_KERNELS_QUANTS_AVX512_H
#define LATENT_ENGINE_KERNELS_QUANTS_AVX512_H

#include <string.h>

#include "engine/kernels/kern_internal.h"
#include "engine/kernels/vec_avx512.h"

#define VI_LANES 16
#define QUANT_PREFETCH 2048

typedef __m512i vi;
typedef __m512 vf;

INLINE vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE vi vi_set1_8(int x) { return _mm512_set1_epi8((char)x); }
INLINE vi vi_set1_16(int x) { return _mm512_set1_epi16((short)x); }
INLINE vi vi_set1_32(int x) { return _mm512_set1_epi32(x); }
INLINE vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
INLINE vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
INLINE vi vi_add32(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE vi vi_sub32(vi a, vi b) { return _mm512_sub_epi32(a, b); }
INLINE vi vi_madd16(vi a, vi b) { return _mm512_madd_epi16(a, b); }
INLINE vi vi_sll32(vi a, const int n) { return _mm512_slli_epi32(a, (unsigned)n); }
INLINE vi vi_sra32(vi a, const int n) { return _mm512_srai_epi32(a, (unsigned)n); }
INLINE vi vi_sll16(vi a, const int n) { return _mm512_slli_epi16(a, (unsigned)n); }
INLINE vi vi_srl16(vi a, const int n) { return _mm512_srli_epi16(a, (unsigned)n); }
INLINE vi vi_i8(const void *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)); }
INLINE vi vi_u8(const void *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)); }
/* 32 int8 as int16: a pair for each row */
INLINE vi vi_pairs(const void *p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p)); }
/* The table as unsigned bytes, 128 more; dot_signed takes that away. */
INLINE vi vi_table16(const int8_t *p)
{
    __m128i t = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(const void *)p), _mm_set1_epi8((char)0x80));
    return _mm512_broadcast_i32x4(t);
}
INLINE vi vi_lookup(vi table, vi codes) { return _mm512_shuffle_epi8(table, codes); }
INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
INLINE vf vf_cvt(vi a) { return _mm512_cvtepi32_ps(a); }
INLINE vf vf_load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE v16 v16_of_halves(const vf *h) { return h[0]; }

/* Integer scales of the halves: as they come, and each as int32. */
struct subs {
    vi pair, a, b;
};
INLINE struct subs subs_of(vi pair)
{
    return (struct subs){pair, _mm512_srai_epi32(_mm512_slli_epi32(pair, 16), 16),
                         _mm512_srai_epi32(pair, 16)};
}

INLINE vi quad(const int8_t *x, int q)
{
    int32_t v;
    memcpy(&v, x + 4 * q, 4);
    return _mm512_set1_epi32(v);
}

/* start + sum of w x over quads [q0, q0 + 4) */
INLINE vi dot_half(vi start, const vi *w, const int8_t *x, const int q0)
{
    UNROLL
    for (int q = q0; q < q0 + 4; q++)
        start = _mm512_dpbusd_epi32(start, w[q], quad(x, q));
    return start;
}

INLINE vi dot_unsigned(const vi *w, const int8_t *x, const int top)
{
    (void)top;
    return _mm512_add_epi32(dot_half(_mm512_setzero_si512(), w, x, 0),
                            dot_half(_mm512_setzero_si512(), w, x, 4));
}

INLINE vi dot_subs(const vi *w, const int8_t *x, const struct subs *s, const int top)
{
    (void)top;
    return _mm512_add_epi32(_mm512_mullo_epi32(dot_half(_mm512_setzero_si512(), w, x, 0), s->a),
                            _mm512_mullo_epi32(dot_half(_mm512_setzero_si512(), w, x, 4), s->b));
}

/* Weights came 128 too large; the prepared row holds what that adds. */
struct signed_w {
    char none;
};
INLINE void signed_prepare(const vi *w, struct signed_w *ret)
{
    (void)w;
    ret->none = 0;
}
INLINE vi dot_signed(const vi *w, const struct signed_w *sw, const int8_t *x, const int32_t *sum)
{
    (void)sw;
    return _mm512_add_epi32(dot_half(_mm512_set1_epi32(*sum), w, x, 0),
                            dot_half(_mm512_setzero_si512(), w, x, 4));
}

#endif
