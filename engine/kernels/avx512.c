/* engine/kernels/avx512.c - the AVX-512 level: the templates at 16 lanes a register, and int8 products
 * by VNNI in tiles of registers. */
#include "config.h"

#include "engine/kernels/kern.h"
#include "engine/kernels/vec_avx512.h"

#include "engine/kernels/simd_template.h"

#include "engine/kernels/small_template.h"
#include "engine/kernels/attn_template.h"
#include "engine/kernels/gate_template.h"

#include "engine/kernels/quants_avx512.h"

#include "engine/kernels/quants_template.h"

/* How far ahead of a one-row product weights are fetched: it runs at the speed of memory, and the
 * hardware's own streams stop at page ends. */
#define PREFETCH_BYTES 2176

/* Rows x groups of 16 outputs, all sums in registers. Weights become unsigned by flipping the sign
 * bit; the prepared row holds what that adds too much, as the start of the integer sum. */
INLINE void q8_tile(const unsigned char *wg, size_t group_bytes, int n_out, int n_in, int g,
                    const void *const *x, float *const *y, const int rows, const int groups)
{
    __m512 acc[6][4];
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    const float *dx[6];
    const int32_t *sx[6];
    const int8_t *qx[6];
    UNROLL
    for (int i = 0; i < rows; i++) {
        dx[i] = act_scales(x[i]);
        sx[i] = act_sums(x[i], n_in);
        qx[i] = act_values(x[i], n_in);
        UNROLL
        for (int j = 0; j < groups; j++)
            acc[i][j] = _mm512_setzero_ps();
    }
    for (int b = 0; b < n_in / Q8_BLOCK; b++) {
        __m512i sum[6][4];
        UNROLL
        for (int i = 0; i < rows; i++)
            UNROLL
            for (int j = 0; j < groups; j++)
                sum[i][j] = _mm512_set1_epi32(sx[i][b]);
        const unsigned char *blk = wg + (size_t)b * Q8_GROUP_BLOCK;
        for (int k = 0; k < 8; k++) {
            __m512i wk[4];
            UNROLL
            for (int j = 0; j < groups; j++) {
                const unsigned char *at = blk + (size_t)j * group_bytes + 32 + 64 * k;
                wk[j] = _mm512_xor_si512(_mm512_loadu_si512(at), flip);
                if (rows <= 2)
                    _mm_prefetch((const char *)at + PREFETCH_BYTES, _MM_HINT_T0);
            }
            UNROLL
            for (int i = 0; i < rows; i++) {
                int32_t quad;
                memcpy(&quad, qx[i] + b * Q8_BLOCK + 4 * k, 4);
                __m512i xk = _mm512_set1_epi32(quad);
                UNROLL
                for (int j = 0; j < groups; j++)
                    sum[i][j] = _mm512_dpbusd_epi32(sum[i][j], wk[j], xk);
            }
        }
        UNROLL
        for (int j = 0; j < groups; j++) {
            __m512 dw = v16_load_f16(blk + (size_t)j * group_bytes);
            UNROLL
            for (int i = 0; i < rows; i++)
                acc[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][j]),
                                            _mm512_mul_ps(dw, _mm512_set1_ps(dx[i][b])), acc[i][j]);
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < groups; j++)
            store_lanes(y[i], acc[i][j], g + j, n_out);
}

/* Some rows against one or two groups. Two groups share each broadcast of an activation: the tile is
 * else bound by loads. Six rows of them fill the registers. */
INLINE int q8_rows(const unsigned char *wg, size_t group_bytes, int n_out, int n_in, int g,
                   const void *const *x, float *const *y, int m, const int groups)
{
    switch (m == 7 || m == 8 ? 4 : m < 6 ? m : 6) {
    case 6: q8_tile(wg, group_bytes, n_out, n_in, g, x, y, 6, groups); return 6;
    case 5: q8_tile(wg, group_bytes, n_out, n_in, g, x, y, 5, groups); return 5;
    case 4: q8_tile(wg, group_bytes, n_out, n_in, g, x, y, 4, groups); return 4;
    case 3: q8_tile(wg, group_bytes, n_out, n_in, g, x, y, 3, groups); return 3;
    case 2: q8_tile(wg, group_bytes, n_out, n_in, g, x, y, 2, groups); return 2;
    default: q8_tile(wg, group_bytes, n_out, n_in, g, x, y, 1, groups); return 1;
    }
}

static void mul_q8_0(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
                     float *const *y, int m)
{
    size_t group_bytes = (size_t)(n_in / Q8_BLOCK) * Q8_GROUP_BLOCK;
    const unsigned char *wg = (const unsigned char *)w + (size_t)g0 * group_bytes;
    int g = g0;
    if (m == 1)
        for (; g + 4 <= g1; g += 4, wg += 4 * group_bytes)
            q8_tile(wg, group_bytes, n_out, n_in, g, x, y, 1, 4);
    for (; g + 2 <= g1; g += 2, wg += 2 * group_bytes)
        for (int i = 0; i < m;)
            i += q8_rows(wg, group_bytes, n_out, n_in, g, x + i, y + i, m - i, 2);
    for (int i = 0; g < g1 && i < m;)
        i += q8_rows(wg, group_bytes, n_out, n_in, g, x + i, y + i, m - i, 1);
}

static void act_q8_blocks(const float *x, int n, int b0, int b1, void *dst)
{
    float *d = dst, *t = (float *)dst + (size_t)(n / Q8_BLOCK) * 11;
    int16_t *h = (int16_t *)dst + (size_t)(n / Q8_BLOCK) * 20;
    int32_t *s = (int32_t *)dst + n / Q8_BLOCK;
    int8_t *q = (int8_t *)dst + (size_t)(n / Q8_BLOCK) * 8;
    const __m512 top = _mm512_set1_ps(127.0f), bottom = _mm512_set1_ps(-127.0f);
    for (int b = b0; b < b1; b++) {
        __m512 v[2], max = _mm512_setzero_ps();
        int sum = 0;
        for (int i = 0; i < 2; i++) {
            v[i] = _mm512_loadu_ps(x + b * Q8_BLOCK + 16 * i);
            max = _mm512_max_ps(_mm512_abs_ps(v[i]), max); /* NaN leaves max as it is */
        }
        float top_abs = _mm512_reduce_max_ps(max);
        d[b] = (top_abs > 3.0e38f ? 3.0e38f : top_abs) / 127.0f;
        float inv = d[b] > 0.0f ? 1.0f / d[b] : 0.0f;
        __m512 scale = _mm512_set1_ps(inv > 3.0e38f ? 0.0f : inv);
        for (int i = 0; i < 2; i++) {
            __m512 p = _mm512_mul_ps(v[i], scale);
            p = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(p, p, _CMP_ORD_Q), p);
            p = _mm512_max_ps(_mm512_min_ps(p, top), bottom);
            __m512i z = _mm512_cvtps_epi32(p);
            h[2 * b + i] = (int16_t)_mm512_reduce_add_epi32(z);
            sum += h[2 * b + i];
            _mm_storeu_si128((__m128i *)(void *)(q + b * Q8_BLOCK + 16 * i), _mm512_cvtepi32_epi8(z));
        }
        s[b] = -128 * sum;
        t[b] = d[b] * (float)sum;
    }
}

#include "engine/kernels/act_template.h"

void kern__init_avx512(struct kernels *t)
{
    set_template_kernels(t);
    set_small_kernels(t);
    set_attention_kernels(t);
    set_gate_kernels(t);
    set_quant_kernels(t);
    t->mul_q8_0 = mul_q8_0;
    t->act_q8 = act_q8;
}
