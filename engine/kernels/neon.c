/* engine/kernels/neon.c - the NEON level (aarch64 with the dot product): the templates at 16 lanes in four
 * registers, int8 products in tiles of registers, and the quantisation of activations. */
#include "config.h"

#include "engine/kernels/kern.h"
#include "engine/kernels/vec_neon.h"

#include "engine/kernels/simd_template.h"

#include "engine/kernels/attn_template.h"

#include "engine/kernels/small_template.h"
#include "engine/kernels/gate_template.h"

#include "engine/kernels/quants_neon.h"

#include "engine/kernels/quants_template.h"

/* How far ahead of a product of few rows weights are fetched: it runs at the speed of memory. */
#define PREFETCH_BYTES 1088

/* Rows x groups of 16 outputs. The integer sums of a block (at most 16 registers of the 32) and its four
 * weights live in registers; the float sums of large tiles may go to the stack, once per 32 values. */
INLINE void q8_tile(const unsigned char *wg, size_t group_bytes, int n_out, int n_in, int g,
                    const void *const *x, float *const *y, const int rows, const int groups)
{
    v16 acc[4][2];
    const float *dx[4];
    const int8_t *qx[4];
    UNROLL
    for (int i = 0; i < rows; i++) {
        dx[i] = act_scales(x[i]);
        qx[i] = act_values(x[i], n_in);
        UNROLL
        for (int j = 0; j < groups; j++)
            acc[i][j] = v16_set1(0.0f);
    }
    for (int b = 0; b < n_in / Q8_BLOCK; b++) {
        int32x4_t sum[4][2][4];
        const unsigned char *blk = wg + (size_t)b * Q8_GROUP_BLOCK;
        UNROLL
        for (int i = 0; i < rows; i++)
            UNROLL
            for (int j = 0; j < 4 * groups; j++)
                sum[i][j / 4][j % 4] = vdupq_n_s32(0);
        UNROLL
        for (int half = 0; half < 2; half++) {
            int8x16_t xk[4];
            UNROLL
            for (int i = 0; i < rows; i++)
                xk[i] = vld1q_s8(qx[i] + b * Q8_BLOCK + 16 * half);
/* Word K of the half; the lane of an activation must be a constant even before inlining. */
#define WORD(K)                                                                                    \
    UNROLL                                                                                         \
    for (int j = 0; j < groups; j++) {                                                             \
        const unsigned char *at = blk + (size_t)j * group_bytes + 32 + 64 * (4 * half + K);        \
        if (rows <= 2)                                                                             \
            __builtin_prefetch(at + PREFETCH_BYTES);                                               \
        UNROLL                                                                                     \
        for (int v = 0; v < 4; v++) {                                                              \
            int8x16_t wk = vld1q_s8((const int8_t *)at + 16 * v);                                  \
            UNROLL                                                                                 \
            for (int i = 0; i < rows; i++)                                                         \
                sum[i][j][v] = vdotq_laneq_s32(sum[i][j][v], wk, xk[i], K);                        \
        }                                                                                          \
    }
            WORD(0)
            WORD(1)
            WORD(2)
            WORD(3)
#undef WORD
        }
        UNROLL
        for (int j = 0; j < groups; j++) {
            v16 dw = v16_load_f16(blk + (size_t)j * group_bytes);
            UNROLL
            for (int i = 0; i < rows; i++) {
                v16 s = V16(vcvtq_f32_s32(sum[i][j][0]), vcvtq_f32_s32(sum[i][j][1]),
                            vcvtq_f32_s32(sum[i][j][2]), vcvtq_f32_s32(sum[i][j][3]));
                acc[i][j] = v16_fma(s, v16_mul(dw, v16_set1(dx[i][b])), acc[i][j]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < groups; j++)
            store_lanes(y[i], acc[i][j], g + j, n_out);
}

static void mul_q8_0(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
                     float *const *y, int m)
{
    size_t group_bytes = (size_t)(n_in / Q8_BLOCK) * Q8_GROUP_BLOCK;
    const unsigned char *wg = (const unsigned char *)w + (size_t)g0 * group_bytes;
    int g = g0;
    if (m == 1)
        for (; g + 2 <= g1; g += 2, wg += 2 * group_bytes)
            q8_tile(wg, group_bytes, n_out, n_in, g, x, y, 1, 2);
    for (; g < g1; g++, wg += group_bytes) {
        int i = 0;
        for (; i + 4 <= m; i += 4)
            q8_tile(wg, group_bytes, n_out, n_in, g, x + i, y + i, 4, 1);
        switch (m - i) {
        case 3: q8_tile(wg, group_bytes, n_out, n_in, g, x + i, y + i, 3, 1); break;
        case 2: q8_tile(wg, group_bytes, n_out, n_in, g, x + i, y + i, 2, 1); break;
        case 1: q8_tile(wg, group_bytes, n_out, n_in, g, x + i, y + i, 1, 1); break;
        default: break;
        }
    }
}

static void act_q8(const float *x, int n, void *dst)
{
    float *d = dst, *t = (float *)dst + (size_t)(n / Q8_BLOCK) * 11;
    int16_t *h = (int16_t *)dst + (size_t)(n / Q8_BLOCK) * 20;
    int32_t *s = (int32_t *)dst + n / Q8_BLOCK;
    int8_t *q = (int8_t *)dst + (size_t)(n / Q8_BLOCK) * 8;
    const float32x4_t top = vdupq_n_f32(127.0f), bottom = vdupq_n_f32(-127.0f);
    for (int b = 0; b < n / Q8_BLOCK; b++) {
        float32x4_t v[8], max[2] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
        UNROLL
        for (int i = 0; i < 8; i++) {
            v[i] = vld1q_f32(x + b * Q8_BLOCK + 4 * i);
            max[i % 2] = v4_max(vabsq_f32(v[i]), max[i % 2]); /* NaN leaves max as it is */
        }
        float top_abs = vmaxvq_f32(vmaxq_f32(max[0], max[1]));
        d[b] = (top_abs > 3.0e38f ? 3.0e38f : top_abs) / 127.0f;
        float inv = d[b] > 0.0f ? 1.0f / d[b] : 0.0f;
        float32x4_t scale = vdupq_n_f32(inv > 3.0e38f ? 0.0f : inv);
        int first = 0, sum = 0;
        UNROLL
        for (int half = 0; half < 2; half++) {
            int16x8_t z[2];
            UNROLL
            for (int i = 0; i < 2; i++) {
                int32x4_t p[2];
                UNROLL
                for (int j = 0; j < 2; j++) { /* FMAX keeps NaN, and the conversion makes it 0 */
                    float32x4_t f = vmulq_f32(v[4 * half + 2 * i + j], scale);
                    p[j] = vcvtnq_s32_f32(vmaxq_f32(vminq_f32(f, top), bottom));
                }
                z[i] = vcombine_s16(vmovn_s32(p[0]), vmovn_s32(p[1]));
            }
            vst1q_s8(q + b * Q8_BLOCK + 16 * half, vcombine_s8(vmovn_s16(z[0]), vmovn_s16(z[1])));
            first = sum;
            sum += vaddvq_s16(vaddq_s16(z[0], z[1]));
        }
        h[2 * b] = (int16_t)first;
        h[2 * b + 1] = (int16_t)(sum - first);
        s[b] = -128 * sum;
        t[b] = d[b] * (float)sum;
    }
}

void kern__init_neon(struct kernels *t)
{
    set_template_kernels(t);
    set_attention_kernels(t);
    set_gate_kernels(t);
    set_small_kernels(t);
    set_quant_kernels(t);
    t->mul_q8_0 = mul_q8_0;
    t->act_q8 = act_q8;
}
