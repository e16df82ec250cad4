/* engine/kernels/vec_avx512.h - sixteen float lanes in one register, for simd_template.h. */
#ifndef LATENT_ENGINE_KERNELS_VEC_AVX512_H
#define LATENT_ENGINE_KERNELS_VEC_AVX512_H

#ifndef __AVX512F__
#error "compile with the AVX-512 flags"
#endif
#include <immintrin.h>

#define SCORE_TILE 16 /* tokens whose scores are in flight: registers allow 31 */
#define ROW_TILE 8    /* activation rows of a float product */
#define GROUP_TILE 4  /* weight groups of a one-row product, to cover FMA latency */
#define ATTN_LANES 8  /* of a tile of attention: 24 sums, three vectors, one scalar */
#define ATTN_VECS 3
#define ATTN_ROWS 96

typedef __m512 v16;

static inline v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v16_store(float *p, v16 a) { _mm512_storeu_ps(p, a); }
static inline __mmask16 v16_first(int n) { return (__mmask16)((1u << n) - 1u); }
static inline v16 v16_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(v16_first(n), p); }
static inline void v16_store_n(float *p, v16 a, int n) { _mm512_mask_storeu_ps(p, v16_first(n), a); }
static inline v16 v16_set1(float x) { return _mm512_set1_ps(x); }
static inline v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
static inline v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
static inline v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
static inline v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
static inline v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
static inline v16 v16_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
static inline float v16_hmax(v16 a) { return _mm512_reduce_max_ps(a); }
static inline v16 v16_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
static inline v16 v16_round(v16 a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a * 2^n for integral n in -126 .. 127 */
static inline v16 v16_scale2(v16 a, v16 n) { return _mm512_scalef_ps(a, n); }
/* x 2^n for x in [1/2, 2) and whole n, the product being a normal number. */
static inline v16 v16_raise(v16 x, v16 n) { return _mm512_scalef_ps(x, n); }
/* x, but 0 where y < z. */
static inline v16 v16_unless_lt(v16 x, v16 y, v16 z)
{
    return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(y, z, _CMP_LT_OQ), _mm512_setzero_ps());
}
/* a < b ? x : y */
static inline v16 v16_select_lt(v16 a, v16 b, v16 x, v16 y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
static inline v16 v16_select_eq(v16 a, v16 b, v16 x, v16 y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), y, x);
}
static inline int v16_all_eq(v16 a, v16 b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ) == 0xffff;
}
static inline v16 v16_load_bf16(const void *p)
{
    __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}
static inline v16 v16_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
/* Sixteen FP8 e4m3, each times 2^-8: as half precision they have the same fields but a bias 8 larger. NaN
 * becomes a number (kern.h). */
static inline v16 v16_load_f8(const void *p)
{
    __m256i v = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p)), 7);
    return _mm512_cvtph_ps(_mm256_and_si256(v, _mm256_set1_epi16((short)0xbf80)));
}
static inline v16 v16_load_i8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
/* Values of a table for the low halves of 16 bytes, or the high ones. */
static inline v16 v16_load_nibbles(const void *p, int high, const int8_t *table)
{
    __m128i v = _mm_loadu_si128((const __m128i *)p);
    __m128i t = _mm_loadu_si128((const __m128i *)(const void *)table);
    v = _mm_and_si128(high ? _mm_srli_epi16(v, 4) : v, _mm_set1_epi8(15));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_shuffle_epi8(t, v)));
}
/* Values in -128 .. 255, to nearest even. */
static inline void v16_store_i8(void *p, v16 v)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}
/* FP8 e4m3 of values in [-448, 448], to nearest even. */
static inline void v16_store_f8(void *p, v16 v)
{
    __m512i u = _mm512_castps_si512(v);
    __m512i sign = _mm512_and_si512(_mm512_srli_epi32(u, 24), _mm512_set1_epi32(0x80));
    u = _mm512_and_si512(u, _mm512_set1_epi32(0x7fffffff));
    /* below 2^-6 a multiple of 2^-9: the grid of the sum with 2^14 */
    __m512 grid = _mm512_add_ps(_mm512_castsi512_ps(u), _mm512_set1_ps(16384.0f));
    __m512i small = _mm512_sub_epi32(_mm512_castps_si512(grid), _mm512_set1_epi32(0x46800000));
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 20), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, odd), _mm512_set1_epi32(0x7ffff - (120 << 23)));
    __mmask16 is_small = _mm512_cmpgt_epi32_mask(_mm512_set1_epi32(0x3c800000), u);
    r = _mm512_mask_blend_epi32(is_small, _mm512_srli_epi32(r, 20), small);
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_or_si512(sign, r)));
}
/* round to nearest even; NaN made quiet */
static inline void v16_store_bf16(void *p, v16 a)
{
    __m512i u = _mm512_castps_si512(a);
    __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)),
                                 _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1)));
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
}

/* Bit i: x[i] >= y[i]. */
static inline unsigned v16_mask_ge(v16 x, v16 y) { return _mm512_cmp_ps_mask(x, y, _CMP_GE_OQ); }
static inline unsigned v16_mask_lt(v16 x, v16 y) { return _mm512_cmp_ps_mask(x, y, _CMP_LT_OQ); }
/* Eight values, each in two neighbouring lanes. */
static inline v16 v16_load_twice(const float *p)
{
    __m512i at = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(at, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}
/* Neighbours change places. */
static inline v16 v16_swap(v16 x) { return _mm512_shuffle_ps(x, x, 0xb1); }
/* x y - z in even lanes, x y + z in odd ones. */
static inline v16 v16_fmaddsub(v16 x, v16 y, v16 z) { return _mm512_fmaddsub_ps(x, y, z); }
/* --- for attn_template.h */
#define VA 16
typedef __m512 va;
static inline va va_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void va_store(float *p, va v) { _mm512_storeu_ps(p, v); }
static inline va va_set1(float x) { return _mm512_set1_ps(x); }
static inline va va_mul(va x, va y) { return _mm512_mul_ps(x, y); }
static inline va va_fma(va x, va y, va z) { return _mm512_fmadd_ps(x, y, z); }
/* 128 bits each of four rows. Inserting from memory needs no shuffle. */
static inline __m512 v16_quarters(const void *a, const void *b, const void *c, const void *d)
{
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(a));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(b), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(c), 2);
    return _mm512_insertf32x4(v, _mm_loadu_ps(d), 3);
}
static inline void va_transpose(const unsigned char *const *rows, size_t at, float *dst, size_t dst_stride)
{
    for (int quarter = 0; quarter < 4; quarter++, at += 16, dst += 4 * dst_stride) {
        __m512 r0 = v16_quarters(rows[0] + at, rows[4] + at, rows[8] + at, rows[12] + at);
        __m512 r1 = v16_quarters(rows[1] + at, rows[5] + at, rows[9] + at, rows[13] + at);
        __m512 r2 = v16_quarters(rows[2] + at, rows[6] + at, rows[10] + at, rows[14] + at);
        __m512 r3 = v16_quarters(rows[3] + at, rows[7] + at, rows[11] + at, rows[15] + at);
        __m512 a = _mm512_unpacklo_ps(r0, r1), b = _mm512_unpackhi_ps(r0, r1);
        __m512 c = _mm512_unpacklo_ps(r2, r3), d = _mm512_unpackhi_ps(r2, r3);
        _mm512_storeu_ps(dst, _mm512_shuffle_ps(a, c, 0x44));
        _mm512_storeu_ps(dst + dst_stride, _mm512_shuffle_ps(a, c, 0xee));
        _mm512_storeu_ps(dst + 2 * dst_stride, _mm512_shuffle_ps(b, d, 0x44));
        _mm512_storeu_ps(dst + 3 * dst_stride, _mm512_shuffle_ps(b, d, 0xee));
    }
}
/* Of pairs of bfloat16. */
static inline va va_even(va pairs)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16));
}
static inline va va_odd(va pairs)
{
    __m512i high = _mm512_set1_epi32((int)0xffff0000);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs), high));
}
/* x0 y0 x1 y1 .. */
static inline va va_zip_low(va x, va y)
{
    __m512i at = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_permutex2var_ps(x, at, y);
}
static inline va va_zip_high(va x, va y)
{
    __m512i at = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return _mm512_permutex2var_ps(x, at, y);
}
/* A pair of values is turned around as one, then parted. */
static inline void v16_part_bf16(__m512 pairs, float *dst, size_t dst_stride)
{
    _mm512_storeu_ps(dst, va_even(pairs));
    _mm512_storeu_ps(dst + dst_stride, va_odd(pairs));
}
static inline void va_transpose_bf16(const unsigned char *const *rows, size_t at, float *dst,
                                     size_t dst_stride)
{
    for (int quarter = 0; quarter < 4; quarter++, at += 16, dst += 8 * dst_stride) {
        __m512 r0 = v16_quarters(rows[0] + at, rows[4] + at, rows[8] + at, rows[12] + at);
        __m512 r1 = v16_quarters(rows[1] + at, rows[5] + at, rows[9] + at, rows[13] + at);
        __m512 r2 = v16_quarters(rows[2] + at, rows[6] + at, rows[10] + at, rows[14] + at);
        __m512 r3 = v16_quarters(rows[3] + at, rows[7] + at, rows[11] + at, rows[15] + at);
        __m512 a = _mm512_unpacklo_ps(r0, r1), b = _mm512_unpackhi_ps(r0, r1);
        __m512 c = _mm512_unpacklo_ps(r2, r3), d = _mm512_unpackhi_ps(r2, r3);
        v16_part_bf16(_mm512_shuffle_ps(a, c, 0x44), dst, dst_stride);
        v16_part_bf16(_mm512_shuffle_ps(a, c, 0xee), dst + 2 * dst_stride, dst_stride);
        v16_part_bf16(_mm512_shuffle_ps(b, d, 0x44), dst + 4 * dst_stride, dst_stride);
        v16_part_bf16(_mm512_shuffle_ps(b, d, 0xee), dst + 6 * dst_stride, dst_stride);
    }
}

#endif
