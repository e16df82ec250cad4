/* engine/kernels/quants_avx2.h - integers of eight rows in a register, for quants_template.h: dot products
 * by maddubs (unsigned times signed bytes, pairs added in int16). How many of its results may be added in
 * int16 follows from the largest weight: top * 127 * 2 each. */
#ifndef LATENT_ENGINE_KERNELS_QUANTS_AVX2_H
#define LATENT_ENGINE_KERNELS_QUANTS_AVX2_H

#include <string.h>

#include "engine/kernels/kern_internal.h"
#include "engine/kernels/vec_avx2.h"

#define VI_LANES 8
#define QUANT_PREFETCH 1024

typedef __m256i vi;
typedef __m256 vf;

INLINE vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE vi vi_set1_8(int x) { return _mm256_set1_epi8((char)x); }
INLINE vi vi_set1_16(int x) { return _mm256_set1_epi16((short)x); }
INLINE vi vi_set1_32(int x) { return _mm256_set1_epi32(x); }
INLINE vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
INLINE vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
INLINE vi vi_add32(vi a, vi b) { return _mm256_add_epi32(a, b); }
INLINE vi vi_sub32(vi a, vi b) { return _mm256_sub_epi32(a, b); }
INLINE vi vi_madd16(vi a, vi b) { return _mm256_madd_epi16(a, b); }
INLINE vi vi_sll32(vi a, const int n) { return _mm256_slli_epi32(a, n); }
INLINE vi vi_sra32(vi a, const int n) { return _mm256_srai_epi32(a, n); }
INLINE vi vi_sll16(vi a, const int n) { return _mm256_slli_epi16(a, n); }
INLINE vi vi_srl16(vi a, const int n) { return _mm256_srli_epi16(a, n); }
INLINE vi vi_i8(const void *p) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
INLINE vi vi_u8(const void *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
/* 16 int8 as int16: a pair for each row */
INLINE vi vi_pairs(const void *p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p)); }
INLINE vi vi_table16(const int8_t *p)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
}
INLINE vi vi_lookup(vi table, vi codes) { return _mm256_shuffle_epi8(table, codes); }
INLINE vf vf_set1(float x) { return _mm256_set1_ps(x); }
INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
INLINE vf vf_cvt(vi a) { return _mm256_cvtepi32_ps(a); }
INLINE vf vf_load_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
INLINE v16 v16_of_halves(const vf *h) { return V16(h[0], h[1]); }

/* Integer scales of the halves: as they come, and each twice in its lane. */
struct subs {
    vi pair, a, b;
};
INLINE struct subs subs_of(vi pair)
{
    const vi first = _mm256_set1_epi32(0x01000100), second = _mm256_set1_epi32(0x03020302);
    const vi lane = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808,
                                      0x0c0c0c0c);
    return (struct subs){pair, _mm256_shuffle_epi8(pair, _mm256_add_epi8(first, lane)),
                         _mm256_shuffle_epi8(pair, _mm256_add_epi8(second, lane))};
}

/* Four k of an activation row, in every lane. */
INLINE vi quad(const int8_t *x, int q)
{
    int32_t v;
    memcpy(&v, x + 4 * q, 4);
    return _mm256_set1_epi32(v);
}

/* Sum of w x over quads [q0, q0 + n) in int16. */
INLINE vi dot_16(const vi *w, const int8_t *x, const int q0, const int n)
{
    vi sum = _mm256_maddubs_epi16(w[q0], quad(x, q0));
    UNROLL
    for (int q = q0 + 1; q < q0 + n; q++)
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[q], quad(x, q)));
    return sum;
}

INLINE vi dot_unsigned(const vi *w, const int8_t *x, const int top)
{
    const vi one = _mm256_set1_epi16(1);
    if (top <= 15)
        return _mm256_madd_epi16(dot_16(w, x, 0, 8), one);
    return _mm256_add_epi32(_mm256_madd_epi16(dot_16(w, x, 0, 4), one),
                            _mm256_madd_epi16(dot_16(w, x, 4, 4), one));
}

INLINE vi dot_subs(const vi *w, const int8_t *x, const struct subs *s, const int top)
{
    if (top <= 15)
        return _mm256_add_epi32(_mm256_madd_epi16(dot_16(w, x, 0, 4), s->a),
                                _mm256_madd_epi16(dot_16(w, x, 4, 4), s->b));
    vi a = _mm256_add_epi32(_mm256_madd_epi16(dot_16(w, x, 0, 2), s->a),
                            _mm256_madd_epi16(dot_16(w, x, 2, 2), s->a));
    vi b = _mm256_add_epi32(_mm256_madd_epi16(dot_16(w, x, 4, 2), s->b),
                            _mm256_madd_epi16(dot_16(w, x, 6, 2), s->b));
    return _mm256_add_epi32(a, b);
}

/* Signed weights: their size times an activation that took their sign. -128 has the size 128. Taking
 * the size again for each row is cheaper than a second load: eight weights and eight sizes outgrow
 * the registers. */
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
    const vi one = _mm256_set1_epi16(1);
    vi dot[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    (void)sum;
    (void)sw;
    UNROLL
    for (int q = 0; q < 8; q++) {
        vi p = _mm256_maddubs_epi16(_mm256_abs_epi8(w[q]), _mm256_sign_epi8(quad(x, q), w[q]));
        dot[q % 2] = _mm256_add_epi32(dot[q % 2], _mm256_madd_epi16(p, one));
    }
    return _mm256_add_epi32(dot[0], dot[1]);
}

#endif
