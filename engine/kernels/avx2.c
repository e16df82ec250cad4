/* engine/kernels/avx2.c - the AVX2 level: the templates at 16 lanes in two registers, and the quantisation
 * of activations. */
#include "config.h"

#include "engine/kernels/kern.h"
#include "engine/kernels/vec_avx2.h"

#include "engine/kernels/simd_template.h"

#include "engine/kernels/quants_avx2.h"

#include "engine/kernels/quants_template.h"

static void act_q8(const float *x, int n, void *dst)
{
    float *d = dst, *t = (float *)dst + (size_t)(n / Q8_BLOCK) * 11;
    int16_t *h = (int16_t *)dst + (size_t)(n / Q8_BLOCK) * 20;
    int32_t *s = (int32_t *)dst + n / Q8_BLOCK;
    int8_t *q = (int8_t *)dst + (size_t)(n / Q8_BLOCK) * 8;
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    for (int b = 0; b < n / Q8_BLOCK; b++) {
        __m256 v[4], max = _mm256_setzero_ps();
        float lane[8], top_abs = 0.0f;
        int sum[2] = {0, 0};
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(x + b * Q8_BLOCK + 8 * i);
            max = _mm256_max_ps(_mm256_and_ps(v[i], magnitude), max); /* NaN leaves max as it is */
        }
        _mm256_storeu_ps(lane, max);
        for (int i = 0; i < 8; i++)
            top_abs = lane[i] > top_abs ? lane[i] : top_abs;
        d[b] = (top_abs > 3.0e38f ? 3.0e38f : top_abs) / 127.0f;
        float inv = d[b] > 0.0f ? 1.0f / d[b] : 0.0f;
        __m256 scale = _mm256_set1_ps(inv > 3.0e38f ? 0.0f : inv);
        for (int i = 0; i < 4; i++) {
            __m256 p = _mm256_mul_ps(v[i], scale);
            p = _mm256_and_ps(p, _mm256_cmp_ps(p, p, _CMP_ORD_Q));
            p = _mm256_max_ps(_mm256_min_ps(p, _mm256_set1_ps(127.0f)), _mm256_set1_ps(-127.0f));
            int32_t z[8];
            _mm256_storeu_si256((__m256i *)(void *)z, _mm256_cvtps_epi32(p));
            for (int j = 0; j < 8; j++) {
                q[b * Q8_BLOCK + 8 * i + j] = (int8_t)z[j];
                sum[i / 2] += z[j];
            }
        }
        h[2 * b] = (int16_t)sum[0];
        h[2 * b + 1] = (int16_t)sum[1];
        s[b] = -128 * (sum[0] + sum[1]);
        t[b] = d[b] * (float)(sum[0] + sum[1]);
    }
}

void kern__init_avx2(struct kernels *t)
{
    set_template_kernels(t);
    set_quant_kernels(t);
    t->act_q8 = act_q8;
}
