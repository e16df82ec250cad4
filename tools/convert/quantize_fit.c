/* tools/convert/quantize_fit.c - see quantize_fit.h.
 *
 * Codes are floats with whole values until they are done, and sums run in LANES parallel lanes that are
 * added at the end: loops without a branch over 16 or 32 values, which compilers turn into SIMD, with one
 * order of additions whatever they do. */
#include "config.h"

#include "tools/convert/quantize_fit.h"

#include <math.h>
#include <string.h>

#include "engine/model/tensor.h"
#include "tools/convert/quantize.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3") /* the loops below, whatever the build has */
#endif

#define MAX_BLOCK 32
#define LANES 8
/* Starting scales put the largest value on the end of the grid, give or take a step, in so many steps. */
#define SCALE_TRIES 9
#define AFFINE_TRIES 20
#define ROUNDS 3

static const int8_t iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};
const struct fit_grid fit_iq4 = {-127, 113, iq4_levels};

static float half_value(uint16_t h)
{
    float f;
    tensor_type_info(TT_F16)->to_f32(&h, &f, 1);
    return f;
}

/* To the nearest whole number, ties to even, for |v| below 2^22: the sum's last bit is worth one. */
static inline float whole(float v)
{
    return (v + 12582912.0f) - 12582912.0f;
}

static inline float clampf(float v, float lo, float hi)
{
    v = v < lo ? lo : v;
    return v > hi ? hi : v;
}

static float lane_sum(const float *v)
{
    return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]));
}

/* The nearest of sixteen levels: the first whose middle to the next lies above v. Middles are multiples
 * of a half, so that the floor of 2 v, from -256 on, finds it in a table. */
#define LEVEL_STEPS 512

static float level_table[LEVEL_STEPS];

__attribute__((constructor)) static void make_level_table(void)
{
    for (int i = 0, at = 0; i < LEVEL_STEPS; i++) {
        while (at < 15 && i - 256 >= iq4_levels[at] + iq4_levels[at + 1])
            at++;
        level_table[i] = (float)iq4_levels[at];
    }
}

static void codes_by_inverse(const float *x, int n, float inverse, const struct fit_grid *g, float *q)
{
    if (g->levels) {
        for (int i = 0; i < n; i++)
            q[i] = level_table[(int)clampf(2 * (x[i] * inverse) + 256.0f, 0, LEVEL_STEPS - 1)];
        return;
    }
    float lo = (float)g->lo, hi = (float)g->hi;
    for (int i = 0; i < n; i++)
        q[i] = whole(clampf(x[i] * inverse, lo, hi));
}

/* 1 / d, or 0 where that would overflow: such blocks are all but zero. */
static float inverse_of(float d)
{
    return fabsf(d) > 1e-37f ? 1.0f / d : 0.0f;
}

static void store(const float *q, int n, int8_t *dst)
{
    for (int i = 0; i < n; i++)
        dst[i] = (int8_t)q[i];
}

void fit_codes(const float *x, int n, float d, const struct fit_grid *g, int8_t *q)
{
    float codes[MAX_BLOCK];
    codes_by_inverse(x, n, inverse_of(d), g, codes);
    store(codes, n, q);
}

/* The least squares of x ~ d q: d = xq / qq, and xq^2 / qq is what it takes from the sum of x^2. */
static float gain(const float *x, int n, const float *q, float *ret_d)
{
    float xq_lanes[LANES] = {0}, qq_lanes[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            xq_lanes[k] += x[i + k] * q[i + k];
            qq_lanes[k] += q[i + k] * q[i + k];
        }
    float xq = lane_sum(xq_lanes), qq = lane_sum(qq_lanes);
    *ret_d = qq > 0 ? xq / qq : 0;
    return qq > 0 ? xq * (xq / qq) : 0;
}

static float unit_scale(const float *x, int n, const struct fit_grid *g, float *q)
{
    float max = 0, best = -1, best_d = 0, d;
    float trial[MAX_BLOCK];
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(max))
            max = x[i];
    float spread = g->levels ? 0.1f : 0.95f / (float)-g->lo;
    for (int end = 0; end < 2; end++)
        for (int t = -SCALE_TRIES; t <= SCALE_TRIES; t++) {
            float target = (float)(end ? g->hi : g->lo) * (1 + spread * (float)t / SCALE_TRIES);
            codes_by_inverse(x, n, target / max, g, trial);
            float got = gain(x, n, trial, &d);
            if (got > best) {
                best = got;
                best_d = d;
                memcpy(q, trial, (size_t)n * sizeof(*q));
            }
        }
    for (int r = 0; r < ROUNDS; r++) {
        codes_by_inverse(x, n, inverse_of(best_d), g, trial);
        float got = gain(x, n, trial, &d);
        if (!(got > best))
            break;
        best = got;
        best_d = d;
        memcpy(q, trial, (size_t)n * sizeof(*q));
    }
    return best_d;
}

/* Sums of squares of tiny or huge values leave float32: blocks are brought to 1 first, by a power of
 * two, which changes no digit. */
static float normalise(const float *x, int n, float *y)
{
    float max = 0;
    int e;
    for (int i = 0; i < n; i++)
        max = fmaxf(max, fabsf(x[i]));
    if (!(max > 0))
        return 0;
    frexpf(max, &e);
    e = e < -120 ? -120 : e; /* the factor must be a number itself */
    float up = ldexpf(1.0f, -e);
    for (int i = 0; i < n; i++)
        y[i] = x[i] * up;
    return ldexpf(1.0f, e);
}

float fit_scale(const float *x, int n, const struct fit_grid *g, int8_t *q)
{
    float y[MAX_BLOCK], codes[MAX_BLOCK], unit = normalise(x, n, y);
    if (unit == 0) {
        fit_codes(x, n, 0, g, q);
        return 0;
    }
    float d = unit_scale(y, n, g, codes) * unit;
    store(codes, n, q);
    return d;
}

/* --- with a least value ------------------------------------------------------------------------ */

static void codes_from(const float *x, int n, float inverse, float min, int hi, float *q)
{
    float top = (float)hi;
    for (int i = 0; i < n; i++)
        q[i] = whole(clampf((x[i] - min) * inverse, 0, top));
}

static float error_of(const float *x, int n, const float *q, float d, float m)
{
    float lanes[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            float diff = d * q[i + k] + m - x[i + k];
            lanes[k] += diff * diff;
        }
    return lane_sum(lanes);
}

/* Least squares of x ~ d q + m for given q; returns the sum of squares. */
static float solve_affine(const float *x, int n, const float *q, int nonpositive, float *ret_d,
                          float *ret_m)
{
    float q_lanes[LANES] = {0}, qq_lanes[LANES] = {0}, x_lanes[LANES] = {0}, xq_lanes[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            q_lanes[k] += q[i + k];
            qq_lanes[k] += q[i + k] * q[i + k];
            x_lanes[k] += x[i + k];
            xq_lanes[k] += x[i + k] * q[i + k];
        }
    float sq = lane_sum(q_lanes), sqq = lane_sum(qq_lanes);
    float sx = lane_sum(x_lanes), sxq = lane_sum(xq_lanes);
    float det = (float)n * sqq - sq * sq;
    float d = det > 0 ? ((float)n * sxq - sx * sq) / det : 0;
    float m = (sx - d * sq) / (float)n;
    if (nonpositive && m > 0) {
        m = 0;
        d = sqq > 0 ? sxq / sqq : 0;
    }
    *ret_d = d;
    *ret_m = m;
    return error_of(x, n, q, d, m);
}

static float unit_affine(const float *x, int n, int hi, int nonpositive, float *q, float *ret_m)
{
    float lo = x[0], top = x[0], best, best_d, best_m, d, m;
    float trial[MAX_BLOCK];
    for (int i = 1; i < n; i++) {
        lo = fminf(lo, x[i]);
        top = fmaxf(top, x[i]);
    }
    if (nonpositive && lo > 0)
        lo = 0;
    if (!(top > lo)) { /* one value: it is the least one */
        memset(q, 0, (size_t)n * sizeof(*q));
        *ret_m = lo;
        return 0;
    }
    best = INFINITY;
    best_d = best_m = 0;
    for (int t = 0; t <= AFFINE_TRIES; t++) {
        float steps = (float)hi - 1.0f + 2.0f * (float)t / AFFINE_TRIES;
        codes_from(x, n, steps / (top - lo), lo, hi, trial);
        float error = solve_affine(x, n, trial, nonpositive, &d, &m);
        if (d > 0 && error < best) {
            best = error;
            best_d = d;
            best_m = m;
            memcpy(q, trial, (size_t)n * sizeof(*q));
        }
    }
    for (int r = 0; r < ROUNDS && best_d > 0; r++) {
        codes_from(x, n, inverse_of(best_d), best_m, hi, trial);
        float error = solve_affine(x, n, trial, nonpositive, &d, &m);
        if (!(d > 0 && error < best))
            break;
        best = error;
        best_d = d;
        best_m = m;
        memcpy(q, trial, (size_t)n * sizeof(*q));
    }
    if (best == INFINITY) { /* no try had a rising slope */
        memset(q, 0, (size_t)n * sizeof(*q));
        best_m = lo;
    }
    *ret_m = best_m;
    return best_d;
}

float fit_affine(const float *x, int n, int hi, int nonpositive, int8_t *q, float *ret_m)
{
    float y[MAX_BLOCK], codes[MAX_BLOCK], m = 0, unit = normalise(x, n, y);
    if (unit == 0) {
        memset(q, 0, (size_t)n);
        *ret_m = 0;
        return 0;
    }
    float d = unit_affine(y, n, hi, nonpositive, codes, &m);
    store(codes, n, q);
    *ret_m = m * unit;
    return d * unit;
}

/* --- super-blocks ------------------------------------------------------------------------------ */

static int clampi(int v, int lo, int hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

static int ratio(float a, float b, int lo, int hi)
{
    return (int)whole(clampf(a * inverse_of(b), (float)lo, (float)hi));
}

/* The best of three integer scales about the current one. */
static float polish_scale(const float *x, int len, const struct fit_grid *g, float d, int lo, int hi,
                          int *scale, int8_t *q)
{
    int first = *scale;
    float trial[MAX_BLOCK];
    float best = INFINITY;
    for (int delta = -1; delta <= 1; delta++) {
        int s = clampi(first + delta, lo, hi);
        codes_by_inverse(x, len, inverse_of(d * (float)s), g, trial);
        float error = error_of(x, len, trial, d * (float)s, 0);
        if (error < best) {
            best = error;
            *scale = s;
            store(trial, len, q);
        }
    }
    return best;
}

static float polish_scales(const float *x, int len, const struct fit_grid *g, int lo, int hi,
                           struct fit_super *s)
{
    float d = half_value(s->d), error = 0;
    for (int i = 0; i < FIT_SUPER / len; i++)
        error += polish_scale(x + i * len, len, g, d, lo, hi, &s->scale[i], s->q + i * len);
    return error;
}

/* The d that fits best when scales and codes stay. */
static uint16_t best_d(const float *x, int len, const struct fit_super *s)
{
    float xc = 0, cc = 0;
    for (int i = 0; i < FIT_SUPER; i++) {
        float c = (float)(s->scale[i / len] * s->q[i]);
        xc += x[i] * c;
        cc += c * c;
    }
    return quantize__half_scale(cc > 0 ? xc / cc : 0);
}

void fit_super_scale(const float *x, int len, const struct fit_grid *g, int scale_lo, int scale_hi,
                     struct fit_super *ret)
{
    float sub[16], max = 0;
    int n = FIT_SUPER / len;
    struct fit_super s;
    memset(&s, 0, sizeof(s));
    for (int i = 0; i < n; i++) {
        sub[i] = fit_scale(x + i * len, len, g, s.q + i * len);
        if (fabsf(sub[i]) > fabsf(max))
            max = sub[i];
    }
    s.d = quantize__half_scale(max / (float)scale_lo);
    float d = half_value(s.d);
    for (int i = 0; i < n; i++)
        s.scale[i] = ratio(sub[i], d, scale_lo, scale_hi);
    float best = polish_scales(x, len, g, scale_lo, scale_hi, &s);
    *ret = s;
    for (int r = 0; r < ROUNDS; r++) {
        s.d = best_d(x, len, &s);
        float error = polish_scales(x, len, g, scale_lo, scale_hi, &s);
        if (!(error < best))
            break;
        best = error;
        *ret = s;
    }
}

static float polish_pair(const float *x, int len, int hi, float d, float dmin, int scale_hi, int *scale,
                         int *min, int8_t *q)
{
    int s0 = *scale, m0 = *min;
    float trial[MAX_BLOCK];
    float best = INFINITY;
    for (int t = 0; t < 9; t++) {
        int s = s0 + t / 3 - 1, m = m0 + t % 3 - 1;
        if (s < 0 || s > scale_hi || m < 0 || m > scale_hi)
            continue;
        float step = d * (float)s, least = -dmin * (float)m;
        codes_from(x, len, inverse_of(step), least, hi, trial);
        float error = error_of(x, len, trial, step, least);
        if (error < best) {
            best = error;
            *scale = s;
            *min = m;
            store(trial, len, q);
        }
    }
    return best;
}

static float polish_pairs(const float *x, int len, int hi, int scale_hi, struct fit_super *s)
{
    float d = half_value(s->d), dmin = half_value(s->dmin), error = 0;
    for (int i = 0; i < FIT_SUPER / len; i++)
        error += polish_pair(x + i * len, len, hi, d, dmin, scale_hi, &s->scale[i], &s->min[i],
                             s->q + i * len);
    return error;
}

/* d and dmin that fit best when everything else stays: two unknowns. */
static void best_pair(const float *x, int len, struct fit_super *s)
{
    double cc = 0, cm = 0, mm = 0, xc = 0, xm = 0;
    for (int i = 0; i < FIT_SUPER; i++) {
        double c = (double)(s->scale[i / len] * s->q[i]), m = (double)-s->min[i / len], v = (double)x[i];
        cc += c * c;
        cm += c * m;
        mm += m * m;
        xc += v * c;
        xm += v * m;
    }
    double det = cc * mm - cm * cm, d, dmin = 0;
    if (det > 1e-9 * cc * mm) {
        d = (xc * mm - xm * cm) / det;
        dmin = (xm * cc - xc * cm) / det;
    } else {
        d = cc > 0 ? xc / cc : 0;
    }
    if (d > 0 && dmin >= 0) {
        s->d = quantize__half_scale((float)d);
        s->dmin = quantize__half_scale((float)dmin);
    }
}

void fit_super_affine(const float *x, int len, int hi, int scale_hi, struct fit_super *ret)
{
    float sub[16], least[16], max = 0, max_least = 0;
    int n = FIT_SUPER / len;
    struct fit_super s;
    memset(&s, 0, sizeof(s));
    for (int i = 0; i < n; i++) {
        sub[i] = fit_affine(x + i * len, len, hi, 1, s.q + i * len, &least[i]);
        max = fmaxf(max, sub[i]);
        max_least = fmaxf(max_least, -least[i]);
    }
    s.d = quantize__half_scale(max / (float)scale_hi);
    s.dmin = quantize__half_scale(max_least / (float)scale_hi);
    float d = half_value(s.d), dmin = half_value(s.dmin);
    for (int i = 0; i < n; i++) {
        s.scale[i] = ratio(sub[i], d, 0, scale_hi);
        s.min[i] = ratio(-least[i], dmin, 0, scale_hi);
    }
    float best = polish_pairs(x, len, hi, scale_hi, &s);
    *ret = s;
    for (int r = 0; r < ROUNDS; r++) {
        best_pair(x, len, &s);
        float error = polish_pairs(x, len, hi, scale_hi, &s);
        if (!(error < best))
            break;
        best = error;
        *ret = s;
    }
}
