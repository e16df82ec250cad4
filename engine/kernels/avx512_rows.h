/* engine/kernels/avx512_rows.h - cache rows of any format as bfloat16. All static. */
#ifndef LATENT_ENGINE_KERNELS_AVX512_ROWS_H
#define LATENT_ENGINE_KERNELS_AVX512_ROWS_H

#include "engine/kernels/avx512_operands.h"
#include "engine/kernels/quant_layout.h"

/* The first n of 16 values, rounded. */
INLINE void bf16_store(uint16_t *to, __m512 x, int n)
{
    __m256i h = (__m256i)_mm512_cvtneps_pbh(x);
    if (n >= KERN_LANES)
        _mm256_storeu_si256((__m256i *)(void *)to, h);
    else
        memcpy(to, &h, (size_t)n * sizeof(*to));
}

INLINE __m512 i8_values(__m128i b)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b));
}

/* FP8 e4m3: as half precision it has the same fields but a bias 8 larger, hence the 256. */
INLINE __m512 f8_values(__m128i b)
{
    __m256i h = _mm256_slli_epi16(_mm256_cvtepi8_epi16(b), 7);
    h = _mm256_and_si256(h, _mm256_set1_epi16((short)0xbf80));
    return _mm512_mul_ps(_mm512_cvtph_ps(h), _mm512_set1_ps(256.0f));
}

/* Bytes [lo, hi) of an 8-bit row, which share a scale. */
INLINE void bytes_to_bf16(enum tensor_type type, const unsigned char *row, float scale, int lo, int hi,
                          uint16_t *to)
{
    __m512 s = _mm512_set1_ps(scale);
    for (; lo < hi; lo += KERN_LANES, to += KERN_LANES) {
        int n = hi - lo;
        __m128i b = _mm_setzero_si128();
        if (n >= KERN_LANES)
            b = _mm_loadu_si128((const __m128i *)(const void *)(row + lo));
        else
            memcpy(&b, row + lo, (size_t)n);
        bf16_store(to, _mm512_mul_ps(type == TT_I8 ? i8_values(b) : f8_values(b), s), n);
    }
}

/* Values [lo, hi) of a 4-bit row; lo may be anywhere. */
INLINE void nibbles_to_bf16(const struct row_format *f, const unsigned char *row, int lo, int hi,
                            uint16_t *to)
{
    const __m128i table = _mm_loadu_si128((const __m128i *)(const void *)quant_iq4_table);
    for (int i = lo & ~(KERN_LANES - 1); i < hi; i += KERN_LANES) {
        __m128i b = _mm_loadu_si128((const __m128i *)(const void *)row_nibbles(row, i));
        b = _mm_and_si128(i % ROW_NIBBLE_GROUP ? _mm_srli_epi16(b, 4) : b, _mm_set1_epi8(15));
        __m512 x = _mm512_mul_ps(i8_values(_mm_shuffle_epi8(table, b)),
                                 _mm512_set1_ps(row_nibble_scale(f, row, i)));
        if (i >= lo) {
            bf16_store(to + (i - lo), x, hi - i);
            continue;
        }
        uint16_t all[KERN_LANES];
        int skip = lo - i, n = (hi - i < KERN_LANES ? hi - i : KERN_LANES) - skip;
        bf16_store(all, x, KERN_LANES);
        memcpy(to, all + skip, (size_t)n * sizeof(*to));
    }
}

/* Elements [lo, hi) of a row. */
static void row_to_bf16(const struct row_format *f, const unsigned char *row, int lo, int hi,
                        uint16_t *to)
{
    if (f->type == TT_BF16) {
        memcpy(to, row + 2 * (size_t)lo, 2 * (size_t)(hi - lo));
        return;
    }
    if (f->type == TT_F32) {
        for (int i = lo; i < hi; i += KERN_LANES) {
            int n = hi - i < KERN_LANES ? hi - i : KERN_LANES;
            __m512 x = _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), row + 4 * (size_t)i);
            bf16_store(to + (i - lo), x, n);
        }
        return;
    }
    int bytes = f->elems - f->tail, i = lo;
    if (f->type == TT_I4 && i < bytes) {
        nibbles_to_bf16(f, row, i, hi < bytes ? hi : bytes, to);
        i = hi < bytes ? hi : bytes;
    }
    while (i < hi && i < bytes) {
        int end = (i / ROW_SCALE_BLOCK + 1) * ROW_SCALE_BLOCK;
        float scale;
        end = end < bytes ? end : bytes;
        end = end < hi ? end : hi;
        memcpy(&scale, row + row_scales_at(f) + 4 * (size_t)(i / ROW_SCALE_BLOCK), 4);
        if (f->type == TT_I8)
            bytes_to_bf16(TT_I8, row, scale, i, end, to + (i - lo));
        else
            bytes_to_bf16(TT_F8_E4M3, row, scale, i, end, to + (i - lo));
        i = end;
    }
    if (i < hi)
        memcpy(to + (i - lo), row + row_tail_at(f) + 2 * (size_t)(i - bytes), 2 * (size_t)(hi - i));
}

#endif
