/* engine/kernels/vec_avx2.h - sixteen float lanes in two registers, for simd_template.h. */
#ifndef LATENT_ENGINE_KERNELS_VEC_AVX2_H
#define LATENT_ENGINE_KERNELS_VEC_AVX2_H

#ifndef __AVX2__
#error "compile with the AVX2 flags"
#endif
#include <immintrin.h>

#define SCORE_TILE 4
#define ROW_TILE 4
#define GROUP_TILE 4
#define ATTN_LANES 4 /* of a tile of attention: twelve sums, three vectors, one scalar */
#define ATTN_VECS 3
#define ATTN_ROWS 72
#define ATTN_FEW 1 /* few lanes have scores of their own: va_turn, attn_few_template.h */

typedef struct {
    __m256 a, b;
} v16;

#define V16(x, y) ((v16){x, y})
static inline v16 v16_load(const float *p) { return V16(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
static inline void v16_store(float *p, v16 v)
{
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}
static inline __m256i v8_first(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline v16 v16_load_n(const float *p, int n)
{
    return V16(_mm256_maskload_ps(p, v8_first(n)), _mm256_maskload_ps(p + 8, v8_first(n - 8)));
}
static inline void v16_store_n(float *p, v16 v, int n)
{
    _mm256_maskstore_ps(p, v8_first(n), v.a);
    _mm256_maskstore_ps(p + 8, v8_first(n - 8), v.b);
}
static inline v16 v16_set1(float x) { return V16(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
static inline v16 v16_add(v16 x, v16 y) { return V16(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
static inline v16 v16_sub(v16 x, v16 y) { return V16(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
static inline v16 v16_mul(v16 x, v16 y) { return V16(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
static inline v16 v16_div(v16 x, v16 y) { return V16(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
static inline v16 v16_fma(v16 x, v16 y, v16 z)
{
    return V16(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}
static inline v16 v16_max(v16 x, v16 y) { return V16(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
static inline float v16_hmax(v16 x)
{
    __m256 m = _mm256_max_ps(x.a, x.b);
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}
static inline v16 v16_min(v16 x, v16 y) { return V16(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }
static inline v16 v16_round(v16 x)
{
    return V16(_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
               _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline __m256 v8_pow2(__m256 n)
{
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
static inline v16 v16_scale2(v16 x, v16 n)
{
    return V16(_mm256_mul_ps(x.a, v8_pow2(n.a)), _mm256_mul_ps(x.b, v8_pow2(n.b)));
}
/* x 2^n for x in [1/2, 2) and whole n, the product being a normal number. */
static inline __m256 v8_raise(__m256 x, __m256i n)
{
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(n, 23)));
}
static inline v16 v16_raise(v16 x, v16 n)
{
    return V16(v8_raise(x.a, _mm256_cvtps_epi32(n.a)), v8_raise(x.b, _mm256_cvtps_epi32(n.b)));
}
/* x, but 0 where y < z. */
static inline v16 v16_unless_lt(v16 x, v16 y, v16 z)
{
    return V16(_mm256_andnot_ps(_mm256_cmp_ps(y.a, z.a, _CMP_LT_OQ), x.a),
               _mm256_andnot_ps(_mm256_cmp_ps(y.b, z.b, _CMP_LT_OQ), x.b));
}
static inline v16 v16_select_lt(v16 x, v16 y, v16 s, v16 t)
{
    return V16(_mm256_blendv_ps(t.a, s.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
               _mm256_blendv_ps(t.b, s.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)));
}
static inline v16 v16_select_eq(v16 x, v16 y, v16 s, v16 t)
{
    return V16(_mm256_blendv_ps(t.a, s.a, _mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ)),
               _mm256_blendv_ps(t.b, s.b, _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)));
}
static inline int v16_all_eq(v16 x, v16 y)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ)) == 0xff &&
           _mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)) == 0xff;
}
static inline __m256 v8_of_bf16(__m128i h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
static inline v16 v16_load_bf16(const void *p)
{
    const __m128i *h = p;
    return V16(v8_of_bf16(_mm_loadu_si128(h)), v8_of_bf16(_mm_loadu_si128(h + 1)));
}
static inline v16 v16_load_f16(const void *p)
{
    const __m128i *h = p;
    return V16(_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1)));
}
/* Sixteen FP8 e4m3, each times 2^-8: as half precision they have the same fields but a bias 8 larger. NaN
 * becomes a number (kern.h). */
static inline __m256i v16_f8_as_f16(const void *p)
{
    __m256i v = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p)), 7);
    return _mm256_and_si256(v, _mm256_set1_epi16((short)0xbf80));
}
static inline v16 v16_load_f8(const void *p)
{
    __m256i h = v16_f8_as_f16(p);
    return V16(_mm256_cvtph_ps(_mm256_castsi256_si128(h)), _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)));
}
static inline v16 v16_load_i8(const void *p)
{
    __m128i v = _mm_loadu_si128((const __m128i *)p);
    return V16(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)),
               _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))));
}
/* Values of a table for the low halves of 16 bytes, or the high ones. */
static inline __m128i v16_nibbles(const void *p, int high, const int8_t *table)
{
    __m128i v = _mm_loadu_si128((const __m128i *)p);
    __m128i t = _mm_loadu_si128((const __m128i *)(const void *)table);
    v = _mm_and_si128(high ? _mm_srli_epi16(v, 4) : v, _mm_set1_epi8(15));
    return _mm_shuffle_epi8(t, v);
}
static inline v16 v16_load_nibbles(const void *p, int high, const int8_t *table)
{
    __m128i v = v16_nibbles(p, high, table);
    return V16(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)),
               _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))));
}
/* The low bytes of sixteen int32 in 0 .. 255 or -128 .. 127. */
static inline void v16_store_low8(void *p, __m256i a, __m256i b)
{
    const __m256i low = _mm256_set1_epi32(0xff);
    __m256i h = _mm256_packus_epi32(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
    h = _mm256_permute4x64_epi64(h, 0xd8);
    _mm_storeu_si128((__m128i *)p,
                     _mm_packus_epi16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
}
/* Values in -128 .. 255, to nearest even. */
static inline void v16_store_i8(void *p, v16 v)
{
    v16_store_low8(p, _mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b));
}
static inline __m256i v8_f8_bits(__m256 x)
{
    __m256i u = _mm256_castps_si256(x);
    __m256i sign = _mm256_and_si256(_mm256_srli_epi32(u, 24), _mm256_set1_epi32(0x80));
    u = _mm256_and_si256(u, _mm256_set1_epi32(0x7fffffff));
    /* below 2^-6 a multiple of 2^-9: the grid of the sum with 2^14 */
    __m256 grid = _mm256_add_ps(_mm256_castsi256_ps(u), _mm256_set1_ps(16384.0f));
    __m256i small = _mm256_sub_epi32(_mm256_castps_si256(grid), _mm256_set1_epi32(0x46800000));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 20), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, odd), _mm256_set1_epi32(0x7ffff - (120 << 23)));
    __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x3c800000), u);
    return _mm256_or_si256(sign, _mm256_blendv_epi8(_mm256_srli_epi32(r, 20), small, is_small));
}
/* FP8 e4m3 of values in [-448, 448], to nearest even. */
static inline void v16_store_f8(void *p, v16 v)
{
    v16_store_low8(p, v8_f8_bits(v.a), v8_f8_bits(v.b));
}
static inline __m256i v8_bf16_bits(__m256 x)
{
    __m256i u = _mm256_castps_si256(x);
    __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)),
                                 _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1)));
    __m256i q = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(r, q, nan), 16);
}
static inline void v16_store_bf16(void *p, v16 v)
{
    __m256i w = _mm256_packus_epi32(v8_bf16_bits(v.a), v8_bf16_bits(v.b));
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(w, 0xd8));
}

/* Bit i: x[i] >= y[i]. */
static inline unsigned v16_mask_ge(v16 x, v16 y)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ)) |
           (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ)) << 8;
}
static inline unsigned v16_mask_lt(v16 x, v16 y)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)) |
           (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)) << 8;
}
/* Eight values, each in two neighbouring lanes. */
static inline v16 v16_load_twice(const float *p)
{
    __m256 v = _mm256_loadu_ps(p);
    return V16(_mm256_permutevar8x32_ps(v, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)),
               _mm256_permutevar8x32_ps(v, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7)));
}
/* Neighbours change places. */
static inline v16 v16_swap(v16 x) { return V16(_mm256_permute_ps(x.a, 0xb1), _mm256_permute_ps(x.b, 0xb1)); }
/* x y - z in even lanes, x y + z in odd ones. */
static inline v16 v16_fmaddsub(v16 x, v16 y, v16 z)
{
    return V16(_mm256_fmaddsub_ps(x.a, y.a, z.a), _mm256_fmaddsub_ps(x.b, y.b, z.b));
}
/* --- one register, for attn_template.h */
#define VA 8
typedef __m256 va;
static inline va va_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void va_store(float *p, va v) { _mm256_storeu_ps(p, v); }
static inline va va_set1(float x) { return _mm256_set1_ps(x); }
static inline va va_mul(va x, va y) { return _mm256_mul_ps(x, y); }
static inline va va_fma(va x, va y, va z) { return _mm256_fmadd_ps(x, y, z); }
static inline __m256 v8_halves(const void *lo, const void *hi)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(lo)), _mm_loadu_ps(hi), 1);
}
/* Four 32-bit values of each of 8 rows, turned around. */
static inline void va_turn(const unsigned char *const *rows, size_t at, va turned[4])
{
    __m256 r0 = v8_halves(rows[0] + at, rows[4] + at), r1 = v8_halves(rows[1] + at, rows[5] + at);
    __m256 r2 = v8_halves(rows[2] + at, rows[6] + at), r3 = v8_halves(rows[3] + at, rows[7] + at);
    __m256 a = _mm256_unpacklo_ps(r0, r1), b = _mm256_unpackhi_ps(r0, r1);
    __m256 c = _mm256_unpacklo_ps(r2, r3), d = _mm256_unpackhi_ps(r2, r3);
    turned[0] = _mm256_shuffle_ps(a, c, 0x44);
    turned[1] = _mm256_shuffle_ps(a, c, 0xee);
    turned[2] = _mm256_shuffle_ps(b, d, 0x44);
    turned[3] = _mm256_shuffle_ps(b, d, 0xee);
}
static inline void va_transpose(const unsigned char *const *rows, size_t at, float *dst, size_t dst_stride)
{
    va turned[4];
    for (int half = 0; half < 2; half++, at += 16, dst += 4 * dst_stride) {
        va_turn(rows, at, turned);
        va_store(dst, turned[0]);
        va_store(dst + dst_stride, turned[1]);
        va_store(dst + 2 * dst_stride, turned[2]);
        va_store(dst + 3 * dst_stride, turned[3]);
    }
}
/* Of pairs of bfloat16. */
static inline va va_even(va pairs)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pairs), 16));
}
static inline va va_odd(va pairs)
{
    return _mm256_and_ps(pairs, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xffff0000)));
}
/* x0 y0 x1 y1 .. */
static inline va va_zip_low(va x, va y)
{
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y), 0x20);
}
static inline va va_zip_high(va x, va y)
{
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y), 0x31);
}
/* A pair of values is turned around as one, then parted. */
static inline void v8_part_bf16(__m256 pairs, float *dst, size_t dst_stride)
{
    _mm256_storeu_ps(dst, va_even(pairs));
    _mm256_storeu_ps(dst + dst_stride, va_odd(pairs));
}
static inline void va_transpose_bf16(const unsigned char *const *rows, size_t at, float *dst,
                                     size_t dst_stride)
{
    va turned[4];
    for (int half = 0; half < 2; half++, at += 16, dst += 8 * dst_stride) {
        va_turn(rows, at, turned);
        v8_part_bf16(turned[0], dst, dst_stride);
        v8_part_bf16(turned[1], dst + 2 * dst_stride, dst_stride);
        v8_part_bf16(turned[2], dst + 4 * dst_stride, dst_stride);
        v8_part_bf16(turned[3], dst + 6 * dst_stride, dst_stride);
    }
}

#endif
