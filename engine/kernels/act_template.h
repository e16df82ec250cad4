/* engine/kernels/act_template.h - the quantisation of activations four blocks at a time, for x86 levels.
 * What is left over, and blocks with NaN or infinities, are their act_q8_blocks's. All static. */

/* Four whole blocks from b on; 0: one of them has a value that is not finite. Magnitudes are compared as
 * integers, whose order is theirs and puts infinities and NaN at the end; then no value is out of range. */
static inline int act_q8_four(const float *x, int n, int b, void *dst)
{
    int blocks = n / Q8_BLOCK;
    float *d = (float *)dst + b, *t = (float *)dst + (size_t)blocks * 11 + b;
    int16_t *h = (int16_t *)dst + (size_t)blocks * 20 + 2 * b;
    int32_t *s = (int32_t *)dst + blocks + b;
    int8_t *q = (int8_t *)dst + (size_t)blocks * 8 + (size_t)b * Q8_BLOCK;
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff), ones = _mm256_set1_epi8(1);
    const __m128 most = _mm_set1_ps(3.0e38f);
    __m128i m[4];
    __m256i sums[4];
    float by[4];
    x += (size_t)b * Q8_BLOCK;
    UNROLL
    for (int i = 0; i < 4; i++) {
        __m256i max = _mm256_setzero_si256();
        UNROLL
        for (int j = 0; j < 4; j++) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(x + i * Q8_BLOCK + 8 * j));
            max = _mm256_max_epi32(max, _mm256_and_si256(v, magnitude));
        }
        m[i] = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256(max, 1));
    }
    __m128i ab = _mm_max_epi32(_mm_unpacklo_epi32(m[0], m[1]), _mm_unpackhi_epi32(m[0], m[1]));
    __m128i cd = _mm_max_epi32(_mm_unpacklo_epi32(m[2], m[3]), _mm_unpackhi_epi32(m[2], m[3]));
    __m128i all = _mm_max_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
    if (_mm_movemask_epi8(_mm_cmpgt_epi32(all, _mm_castps_si128(most))))
        return 0;
    __m128 dv = _mm_div_ps(_mm_castsi128_ps(all), _mm_set1_ps(127.0f));
    __m128 inv = _mm_div_ps(_mm_set1_ps(1.0f), dv);
    inv = _mm_and_ps(inv, _mm_cmple_ps(inv, most)); /* a scale of 0, or too small to invert */
    _mm_storeu_ps(d, dv);
    _mm_storeu_ps(by, inv);
    UNROLL
    for (int i = 0; i < 4; i++) {
        __m256 scale = _mm256_set1_ps(by[i]);
        __m256i z[4];
        UNROLL
        for (int j = 0; j < 4; j++)
            z[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i * Q8_BLOCK + 8 * j), scale));
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(z[0], z[1]), _mm256_packs_epi32(z[2], z[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)(void *)(q + i * Q8_BLOCK), bytes);
        sums[i] = _mm256_madd_epi16(_mm256_maddubs_epi16(ones, bytes), _mm256_set1_epi16(1));
    }
    /* low half: the first 16 values of each block, high half: the others */
    __m256i halves = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]),
                                       _mm256_hadd_epi32(sums[2], sums[3]));
    __m128i first = _mm256_castsi256_si128(halves), second = _mm256_extracti128_si256(halves, 1);
    __m128i both = _mm_add_epi32(first, second);
    _mm_storeu_si128((__m128i *)(void *)h, _mm_packs_epi32(_mm_unpacklo_epi32(first, second),
                                                           _mm_unpackhi_epi32(first, second)));
    _mm_storeu_si128((__m128i *)(void *)s, _mm_slli_epi32(_mm_sub_epi32(_mm_setzero_si128(), both), 7));
    _mm_storeu_ps(t, _mm_mul_ps(dv, _mm_cvtepi32_ps(both)));
    return 1;
}

static void act_q8(const float *x, int n, void *dst)
{
    int blocks = n / Q8_BLOCK, b = 0;
    for (; b + 4 <= blocks; b += 4)
        if (!act_q8_four(x, n, b, dst))
            act_q8_blocks(x, n, b, b + 4, dst);
    act_q8_blocks(x, n, b, blocks, dst);
}
