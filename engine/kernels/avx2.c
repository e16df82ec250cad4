/* engine/kernels/avx2.c - the AVX2 level: the templates at 16 lanes in two registers, int8 products
 * of few rows, and the quantisation of activations. */
#include "config.h"

#include "engine/kernels/kern.h"
#include "engine/kernels/vec_avx2.h"

#include "engine/kernels/simd_template.h"

#include "engine/kernels/small_template.h"
#include "engine/kernels/attn_template.h"
#include "engine/kernels/gate_template.h"

#include "engine/kernels/quants_avx2.h"

#include "engine/kernels/quants_template.h"

/* How far ahead weights are fetched: the hardware's own streams stop at page ends. */
#define Q8_PREFETCH 2048

/* Up to four rows against the two halves of a group: each weight and each broadcast of an activation
 * is loaded once for all of them. In one half at a time, as quants_template.h has it, loads are the
 * limit. */
INLINE void q8_tile(const unsigned char *wg, int n_out, int n_in, int g, const void *const *x,
                    float *const *y, const int rows)
{
    const __m256i ones = _mm256_set1_epi16(1);
    v16 acc[4];
    const float *dx[4];
    const int8_t *qx[4];
    UNROLL
    for (int i = 0; i < rows; i++) {
        dx[i] = act_scales(x[i]);
        qx[i] = act_values(x[i], n_in);
        acc[i] = v16_set1(0.0f);
    }
    for (int b = 0; b < n_in / Q8_BLOCK; b++) {
        const unsigned char *blk = wg + (size_t)b * Q8_GROUP_BLOCK;
        __m256i sum[4][2];
        UNROLL
        for (int i = 0; i < rows; i++)
            sum[i][0] = sum[i][1] = _mm256_setzero_si256();
        for (int k = 0; k < 8; k++) {
            const unsigned char *at = blk + 32 + 64 * k;
            __m256i w[2], size[2];
            _mm_prefetch((const char *)at + Q8_PREFETCH, _MM_HINT_T0);
            UNROLL
            for (int h = 0; h < 2; h++) {
                w[h] = _mm256_loadu_si256((const __m256i *)(const void *)(at + 32 * h));
                size[h] = _mm256_abs_epi8(w[h]);
            }
            UNROLL
            for (int i = 0; i < rows; i++) {
                __m256i x4 = quad(qx[i] + b * Q8_BLOCK, k);
                UNROLL
                for (int h = 0; h < 2; h++) {
                    __m256i pairs = _mm256_maddubs_epi16(size[h], _mm256_sign_epi8(x4, w[h]));
                    sum[i][h] = _mm256_add_epi32(sum[i][h], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        v16 dw = v16_load_f16(blk);
        UNROLL
        for (int i = 0; i < rows; i++) {
            v16 s = V16(_mm256_cvtepi32_ps(sum[i][0]), _mm256_cvtepi32_ps(sum[i][1]));
            acc[i] = v16_fma(s, v16_mul(dw, v16_set1(dx[i][b])), acc[i]);
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++)
        store_lanes(y[i], acc[i], g, n_out);
}

static void mul_q8_0(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
                     float *const *y, int m)
{
    size_t group_bytes = quant_group_bytes(TT_Q8_0, n_in);
    const unsigned char *wg = (const unsigned char *)w + (size_t)g0 * group_bytes;
    for (int g = g0; g < g1; g++, wg += group_bytes) {
        int i = 0;
        for (; i + 4 <= m; i += 4)
            q8_tile(wg, n_out, n_in, g, x + i, y + i, 4);
        switch (m - i) {
        case 3: q8_tile(wg, n_out, n_in, g, x + i, y + i, 3); break;
        case 2: q8_tile(wg, n_out, n_in, g, x + i, y + i, 2); break;
        case 1: q8_tile(wg, n_out, n_in, g, x + i, y + i, 1); break;
        default: break;
        }
    }
}

static void act_q8_blocks(const float *x, int n, int b0, int b1, void *dst)
{
    float *d = dst, *t = (float *)dst + (size_t)(n / Q8_BLOCK) * 11;
    int16_t *h = (int16_t *)dst + (size_t)(n / Q8_BLOCK) * 20;
    int32_t *s = (int32_t *)dst + n / Q8_BLOCK;
    int8_t *q = (int8_t *)dst + (size_t)(n / Q8_BLOCK) * 8;
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    const __m256 top = _mm256_set1_ps(127.0f), bottom = _mm256_set1_ps(-127.0f);
    for (int b = b0; b < b1; b++) {
        __m256 v[4], max = _mm256_setzero_ps();
        __m256i z[4];
        UNROLL
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(x + b * Q8_BLOCK + 8 * i);
            max = _mm256_max_ps(_mm256_and_ps(v[i], magnitude), max); /* NaN leaves max as it is */
        }
        __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps(max, 1));
        m4 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
        float top_abs = _mm_cvtss_f32(_mm_max_ss(m4, _mm_movehdup_ps(m4)));
        d[b] = (top_abs > 3.0e38f ? 3.0e38f : top_abs) / 127.0f;
        float inv = d[b] > 0.0f ? 1.0f / d[b] : 0.0f;
        __m256 scale = _mm256_set1_ps(inv > 3.0e38f ? 0.0f : inv);
        UNROLL
        for (int i = 0; i < 4; i++) {
            __m256 p = _mm256_mul_ps(v[i], scale);
            p = _mm256_and_ps(p, _mm256_cmp_ps(p, p, _CMP_ORD_Q));
            z[i] = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(p, top), bottom));
        }
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(z[0], z[1]), _mm256_packs_epi32(z[2], z[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)(void *)(q + b * Q8_BLOCK), bytes);
        __m256i sums = _mm256_hadd_epi32(_mm256_add_epi32(z[0], z[1]), _mm256_add_epi32(z[2], z[3]));
        sums = _mm256_hadd_epi32(sums, sums); /* both halves of 16 values, in each 128 bits */
        __m128i both = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        int first = _mm_cvtsi128_si32(both), second = _mm_extract_epi32(both, 1);
        h[2 * b] = (int16_t)first;
        h[2 * b + 1] = (int16_t)second;
        s[b] = -128 * (first + second);
        t[b] = d[b] * (float)(first + second);
    }
}

#include "engine/kernels/act_template.h"

void kern__init_avx2(struct kernels *t)
{
    set_template_kernels(t);
    set_small_kernels(t);
    set_attention_kernels(t);
    set_gate_kernels(t);
    set_quant_kernels(t);
    t->mul_q8_0 = mul_q8_0;
    t->act_q8 = act_q8;
}
