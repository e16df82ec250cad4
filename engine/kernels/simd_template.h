/* engine/kernels/simd_template.h - float kernels over sixteen lanes, one source for every SIMD level.
 * Included by avx2.c, avx512.c and neon.c after their vec_*.h; everything is static. Per output the order of
 * additions is that of generic.c, whatever the tile (kern.h, bit-for-bit rule). */
#include <math.h>
#include <string.h>

#include "engine/kernels/kern_internal.h"
#include "engine/kernels/lanes_template.h"

#define EXP_LOW (-87.3f) /* e^x is 0 below */

/* A degree-6 polynomial on [-ln2/2, ln2/2] that times 2^n is e^c. */
INLINE v16 v16_exp_series(v16 c, v16 *ret_n)
{
    v16 n = v16_round(v16_mul(c, v16_set1(1.44269504088896341f)));
    v16 r = v16_fma(n, v16_set1(-0.693359375f), c);
    r = v16_fma(n, v16_set1(2.12194440e-4f), r);
    v16 p = v16_set1(1.9875691500e-4f);
    p = v16_fma(p, r, v16_set1(1.3981999507e-3f));
    p = v16_fma(p, r, v16_set1(8.3334519073e-3f));
    p = v16_fma(p, r, v16_set1(4.1665795894e-2f));
    p = v16_fma(p, r, v16_set1(1.6666665459e-1f));
    p = v16_fma(p, r, v16_set1(5.0000001201e-1f));
    p = v16_fma(v16_mul(r, r), p, r);
    *ret_n = n;
    return v16_add(p, v16_set1(1.0f));
}

/* e^x within 2 ulp; exactly 1 at 0 and exactly 0 below -87.3 (so also at -inf); saturates above 88.3. */
INLINE v16 v16_exp(v16 x)
{
    v16 low = v16_set1(EXP_LOW), n;
    v16 p = v16_exp_series(v16_min(v16_max(x, low), v16_set1(88.3f)), &n);
    return v16_select_lt(x, low, v16_set1(0.0f), v16_scale2(p, n));
}

/* --- products of float weights ----------------------------------------------------------------- */

INLINE v16 load_weights(enum tensor_type type, const unsigned char *w, int k)
{
    if (type == TT_F32)
        return v16_load((const float *)(const void *)w + (size_t)k * KERN_LANES);
    w += (size_t)k * KERN_LANES * 2;
    return type == TT_F16 ? v16_load_f16(w) : v16_load_bf16(w);
}

INLINE void float_rows(enum tensor_type type, const unsigned char *wg, int n_out, int n_in, int g,
                       const void *const *x, float *const *y, const int rows)
{
    v16 acc[ROW_TILE];
    const float *xr[ROW_TILE];
    UNROLL
    for (int i = 0; i < rows; i++) {
        acc[i] = v16_set1(0.0f);
        xr[i] = x[i];
    }
    for (int k = 0; k < n_in; k++) {
        v16 w = load_weights(type, wg, k);
        UNROLL
        for (int i = 0; i < rows; i++)
            acc[i] = v16_fma(w, v16_set1(xr[i][k]), acc[i]);
    }
    UNROLL
    for (int i = 0; i < rows; i++)
        store_lanes(y[i], acc[i], g, n_out);
}

INLINE void float_groups(enum tensor_type type, const unsigned char *wg, size_t group_bytes,
                         int n_out, int n_in, int g, const float *x, float *y, const int groups)
{
    v16 acc[GROUP_TILE];
    UNROLL
    for (int i = 0; i < groups; i++)
        acc[i] = v16_set1(0.0f);
    for (int k = 0; k < n_in; k++) {
        v16 xk = v16_set1(x[k]);
        UNROLL
        for (int i = 0; i < groups; i++)
            acc[i] = v16_fma(load_weights(type, wg + (size_t)i * group_bytes, k), xk, acc[i]);
    }
    UNROLL
    for (int i = 0; i < groups; i++)
        store_lanes(y, acc[i], g + i, n_out);
}

INLINE void mul_float(enum tensor_type type, const void *w, int n_out, int n_in, int g0, int g1,
                      const void *const *x, float *const *y, int m)
{
    size_t group_bytes = (size_t)n_in * KERN_LANES * (type == TT_F32 ? 4 : 2);
    const unsigned char *wg = (const unsigned char *)w + (size_t)g0 * group_bytes;
    int g = g0;
    if (m == 1)
        for (; g + GROUP_TILE <= g1; g += GROUP_TILE, wg += GROUP_TILE * group_bytes)
            float_groups(type, wg, group_bytes, n_out, n_in, g, x[0], y[0], GROUP_TILE);
    for (; g < g1; g++, wg += group_bytes) {
        int i = 0;
        for (; i + ROW_TILE <= m; i += ROW_TILE)
            float_rows(type, wg, n_out, n_in, g, x + i, y + i, ROW_TILE);
        for (; i + 2 <= m; i += 2)
            float_rows(type, wg, n_out, n_in, g, x + i, y + i, 2);
        if (i < m)
            float_rows(type, wg, n_out, n_in, g, x + i, y + i, 1);
    }
}

static void mul_f32(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
                    float *const *y, int m)
{
    mul_float(TT_F32, w, n_out, n_in, g0, g1, x, y, m);
}

static void mul_f16(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
                    float *const *y, int m)
{
    mul_float(TT_F16, w, n_out, n_in, g0, g1, x, y, m);
}

static void mul_bf16(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
                     float *const *y, int m)
{
    mul_float(TT_BF16, w, n_out, n_in, g0, g1, x, y, m);
}

/* Rows x groups of FP8 weights, whose values come times 2^-8 (v16_load_f8). */
INLINE void f8_tile(const unsigned char *wg, size_t group_bytes, int n_out, int n_in, int g,
                    const void *const *x, float *const *y, const int rows, const int groups)
{
    v16 acc[ROW_TILE][GROUP_TILE], a[ROW_TILE][GROUP_TILE];
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < groups; j++)
            acc[i][j] = v16_set1(0.0f);
    for (int k0 = 0; k0 < n_in; k0 += F8_BLOCK, wg += F8_GROUP_BLOCK) {
        int n = n_in - k0 < F8_BLOCK ? n_in - k0 : F8_BLOCK;
        UNROLL
        for (int i = 0; i < rows; i++)
            UNROLL
            for (int j = 0; j < groups; j++)
                a[i][j] = v16_set1(0.0f);
        for (int k = 0; k < n; k++) {
            UNROLL
            for (int j = 0; j < groups; j++) {
                v16 w = v16_load_f8(wg + (size_t)j * group_bytes + (size_t)(4 + k) * KERN_LANES);
                UNROLL
                for (int i = 0; i < rows; i++)
                    a[i][j] = v16_fma(w, v16_set1(((const float *)x[i])[k0 + k]), a[i][j]);
            }
        }
        UNROLL
        for (int j = 0; j < groups; j++) {
            v16 scale = v16_load((const float *)(const void *)(wg + (size_t)j * group_bytes));
            UNROLL
            for (int i = 0; i < rows; i++)
                acc[i][j] = v16_fma(scale, v16_mul(a[i][j], v16_set1(256.0f)), acc[i][j]);
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < groups; j++)
            store_lanes(y[i], acc[i][j], g + j, n_out);
}

static void mul_f8_e4m3(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
                        float *const *y, int m)
{
    size_t group_bytes = (size_t)n_in * KERN_LANES + f8_blocks(n_in) * KERN_LANES * sizeof(float);
    const unsigned char *wg = (const unsigned char *)w + (size_t)g0 * group_bytes;
    int g = g0;
    if (m == 1)
        for (; g + GROUP_TILE <= g1; g += GROUP_TILE, wg += GROUP_TILE * group_bytes)
            f8_tile(wg, group_bytes, n_out, n_in, g, x, y, 1, GROUP_TILE);
    for (; g < g1; g++, wg += group_bytes) {
        int i = 0;
        for (; i + ROW_TILE <= m; i += ROW_TILE)
            f8_tile(wg, group_bytes, n_out, n_in, g, x + i, y + i, ROW_TILE, 1);
        for (; i + 2 <= m; i += 2)
            f8_tile(wg, group_bytes, n_out, n_in, g, x + i, y + i, 2, 1);
        if (i < m)
            f8_tile(wg, group_bytes, n_out, n_in, g, x + i, y + i, 1, 1);
    }
}

/* --- index keys -------------------------------------------------------------------------------- */

INLINE void row_to_f32(enum tensor_type type, const unsigned char *row, int lo, int hi, float *dst)
{
    int i = lo;
    if (type == TT_F32) {
        memcpy(dst, row + 4 * (size_t)lo, (size_t)(hi - lo) * 4);
        return;
    }
    for (; i + KERN_LANES <= hi; i += KERN_LANES)
        v16_store(dst + (i - lo), v16_load_bf16(row + 2 * (size_t)i));
    for (; i < hi; i++) {
        uint16_t h;
        memcpy(&h, row + 2 * (size_t)i, 2);
        uint32_t u = (uint32_t)h << 16;
        memcpy(dst + (i - lo), &u, 4);
    }
}

INLINE void score_tile(const float *q, const float *key, size_t stride, int dk, float *score,
                       const int tokens)
{
    v16 s[SCORE_TILE];
    UNROLL
    for (int t = 0; t < tokens; t++)
        s[t] = v16_set1(0.0f);
    for (int d = 0; d < dk; d++) {
        v16 qd = v16_load(q + (size_t)d * KERN_LANES);
        UNROLL
        for (int t = 0; t < tokens; t++)
            s[t] = v16_fma(v16_set1(key[(size_t)t * stride + (size_t)d]), qd, s[t]);
    }
    UNROLL
    for (int t = 0; t < tokens; t++)
        v16_store(score + (size_t)t * KERN_LANES, s[t]);
}

/* --- rows -------------------------------------------------------------------------------------- */

INLINE float sum_lanes(v16 v)
{
    float lane[KERN_LANES], sum = 0.0f;
    v16_store(lane, v);
    for (int i = 0; i < KERN_LANES; i++)
        sum += lane[i];
    return sum;
}

static void rms_norm(const float *x, const float *w, int n, float eps, float *y)
{
    v16 s = v16_set1(0.0f);
    int i = 0;
    for (; i + KERN_LANES <= n; i += KERN_LANES) {
        v16 v = v16_load(x + i);
        s = v16_fma(v, v, s);
    }
    if (i < n) {
        v16 v = v16_load_n(x + i, n - i);
        s = v16_fma(v, v, s);
    }
    v16 scale = v16_set1(1.0f / sqrtf(sum_lanes(s) / (float)n + eps));
    for (i = 0; i + KERN_LANES <= n; i += KERN_LANES)
        v16_store(y + i, v16_mul(v16_mul(v16_load(x + i), scale), v16_load(w + i)));
    if (i < n)
        v16_store_n(y + i, v16_mul(v16_mul(v16_load_n(x + i, n - i), scale), v16_load_n(w + i, n - i)),
                    n - i);
}

INLINE void index_tile(const struct index_block *b, const float *key, size_t stride, float *dots,
                       float *scores, const int tokens)
{
    v16 zero = v16_set1(0.0f), sum[SCORE_TILE];
    UNROLL
    for (int t = 0; t < tokens; t++)
        sum[t] = zero;
    for (int g = 0; g < b->n_groups; g++) {
        v16 w = v16_load(b->w + g * KERN_LANES);
        score_tile(b->q + (size_t)g * (size_t)b->dim * KERN_LANES, key, stride, b->dim, dots, tokens);
        UNROLL
        for (int t = 0; t < tokens; t++)
            sum[t] = v16_fma(w, v16_max(v16_load(dots + (size_t)t * KERN_LANES), zero), sum[t]);
    }
    UNROLL
    for (int t = 0; t < tokens; t++)
        scores[t] = sum_lanes(sum[t]);
}

static void index_scores(const struct index_block *b)
{
    size_t stride = ((size_t)b->dim + KERN_LANES - 1) & ~(size_t)(KERN_LANES - 1);
    float *keys = b->scratch, *dots = keys + stride * (size_t)b->n_rows;
    int t = 0;
    for (int i = 0; i < b->n_rows; i++)
        row_to_f32(b->row_type, (const unsigned char *)b->rows + (size_t)i * b->row_bytes, 0, b->dim,
                   keys + (size_t)i * stride);
    for (; t + SCORE_TILE <= b->n_rows; t += SCORE_TILE)
        index_tile(b, keys + (size_t)t * stride, stride, dots, b->scores + t, SCORE_TILE);
    for (; t < b->n_rows; t++)
        index_tile(b, keys + (size_t)t * stride, stride, dots, b->scores + t, 1);
}

INLINE v16 silu_times(v16 g, v16 u)
{
    v16 zero = v16_set1(0.0f), e = v16_exp(v16_sub(zero, g));
    v16 s = v16_div(g, v16_add(v16_set1(1.0f), e));
    /* v16_exp saturates: g over its largest value would not vanish for huge g */
    return v16_mul(v16_select_lt(g, v16_set1(-88.3f), zero, s), u);
}

static void silu_mul(const float *gate, const float *up, int n, float *out)
{
    int i = 0;
    for (; i + KERN_LANES <= n; i += KERN_LANES)
        v16_store(out + i, silu_times(v16_load(gate + i), v16_load(up + i)));
    if (i < n)
        v16_store_n(out + i, silu_times(v16_load_n(gate + i, n - i), v16_load_n(up + i, n - i)), n - i);
}

static void axpy(float a, const float *x, int n, float *y)
{
    v16 av = v16_set1(a);
    int i = 0;
    for (; i + KERN_LANES <= n; i += KERN_LANES)
        v16_store(y + i, v16_fma(av, v16_load(x + i), v16_load(y + i)));
    if (i < n)
        v16_store_n(y + i, v16_fma(av, v16_load_n(x + i, n - i), v16_load_n(y + i, n - i)), n - i);
}

static void f32_to_bf16(const float *x, int n, void *dst)
{
    uint16_t *d = dst, tail[KERN_LANES];
    int i = 0;
    for (; i + KERN_LANES <= n; i += KERN_LANES)
        v16_store_bf16(d + i, v16_load(x + i));
    if (i < n) {
        v16_store_bf16(tail, v16_load_n(x + i, n - i));
        memcpy(d + i, tail, (size_t)(n - i) * sizeof(*d));
    }
}

static void max_logsumexp(const float *x, int n, float *ret_max, float *ret_logsumexp)
{
    float lane[KERN_LANES], max = x[0];
    v16 m = v16_set1(x[0]), s = v16_set1(0.0f);
    int i = 0;
    for (; i + KERN_LANES <= n; i += KERN_LANES)
        m = v16_max(v16_load(x + i), m);
    v16_store(lane, m);
    for (int j = 0; j < KERN_LANES; j++)
        max = lane[j] > max ? lane[j] : max;
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    v16 top = v16_set1(max);
    for (i = 0; i + KERN_LANES <= n; i += KERN_LANES)
        s = v16_add(s, v16_exp(v16_sub(v16_load(x + i), top)));
    if (i < n) {
        for (int j = 0; j < KERN_LANES; j++)
            lane[j] = i + j < n ? x[i + j] : -INFINITY;
        s = v16_add(s, v16_exp(v16_sub(v16_load(lane), top)));
    }
    *ret_max = max;
    *ret_logsumexp = max + logf(sum_lanes(s));
}

INLINE void set_template_kernels(struct kernels *t)
{
    t->mul_f32 = mul_f32;
    t->mul_f16 = mul_f16;
    t->mul_bf16 = mul_bf16;
    t->mul_f8_e4m3 = mul_f8_e4m3;
    t->rms_norm = rms_norm;
    t->silu_mul = silu_mul;
    t->axpy = axpy;
    t->f32_to_bf16 = f32_to_bf16;
    t->max_logsumexp = max_logsumexp;
    t->index_scores = index_scores;
}
