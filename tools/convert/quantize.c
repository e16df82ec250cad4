/* tools/convert/quantize.c - see quantize.h: scales and codes of quantize_fit.c put into the layouts that
 * engine/model/tensor_quants.c reads. */
#include "config.h"

#include "tools/convert/quantize.h"

#include <math.h>
#include <string.h>

#include "tools/convert/quantize_fit.h"

#define MAX_HALF 65504.0f

uint16_t quantize__half(float f)
{
    uint32_t bits, sign;
    memcpy(&bits, &f, sizeof(bits));
    sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (bits >= 0x477ff000u) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (bits < 0x38800000u) { /* below 2^-14: a multiple of 2^-24, rounded by an addition */
        float magnitude, sum;
        memcpy(&magnitude, &bits, sizeof(magnitude));
        sum = magnitude + 0.5f; /* the last bit of 0.5f is worth 2^-24 */
        memcpy(&bits, &sum, sizeof(bits));
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    uint32_t odd = bits >> 13 & 1;
    return (uint16_t)(sign | ((bits - 0x38000000u + 0xfffu + odd) >> 13));
}

uint16_t quantize__half_scale(float d)
{
    return quantize__half(fminf(fmaxf(d, -MAX_HALF), MAX_HALF));
}

static float half_value(uint16_t h)
{
    float f;
    tensor_type_info(TT_F16)->to_f32(&h, &f, 1);
    return f;
}

static void put_half(unsigned char *p, uint16_t h)
{
    memcpy(p, &h, sizeof(h));
}

/* --- plain types ------------------------------------------------------------------------------- */

static void to_f32(const float *x, unsigned char *p, int64_t n)
{
    memcpy(p, x, (size_t)n * sizeof(*x));
}

static void to_f16(const float *x, unsigned char *p, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        put_half(p + 2 * i, quantize__half(x[i]));
}

/* Round to nearest even. Finite values near the end may become infinite: quantize_max says so. */
static void to_bf16(const float *x, unsigned char *p, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof(bits));
        put_half(p + 2 * i, (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16));
    }
}

/* --- blocks of 32 ------------------------------------------------------------------------------ */

/* Largest magnitude to 127, halves away from zero, as every writer of Q8_0 does. */
static void to_q8_0(const float *x, unsigned char *p, int64_t n)
{
    for (int64_t i = 0; i < n; i += 32, x += 32, p += 34) {
        float max = 0;
        for (int j = 0; j < 32; j++)
            max = fmaxf(max, fabsf(x[j]));
        float d = max / 127.0f, inverse = d > 1e-37f ? 1.0f / d : 0.0f;
        put_half(p, quantize__half(d));
        for (int j = 0; j < 32; j++)
            p[2 + j] = (unsigned char)(int8_t)roundf(x[j] * inverse);
    }
}

static void put_nibbles(unsigned char *p, const uint8_t *code)
{
    for (int j = 0; j < 16; j++)
        p[j] = (unsigned char)((code[j] & 15) | (code[j + 16] & 15) << 4);
}

static void put_fifth_bits(unsigned char *p, const uint8_t *code)
{
    uint32_t bits = 0;
    for (int j = 0; j < 32; j++)
        bits |= (uint32_t)(code[j] >> 4) << j;
    memcpy(p, &bits, sizeof(bits));
}

/* Q4_0 and Q5_0: d, then fifth bits if any, then nibbles. */
static void symmetric_32(const float *x, unsigned char *p, int64_t n, int bits)
{
    int zero = 1 << (bits - 1), at = bits == 5 ? 6 : 2;
    const struct fit_grid g = {-zero, zero - 1, NULL};
    for (int64_t i = 0; i < n; i += 32, x += 32, p += at + 16) {
        int8_t q[32];
        uint8_t code[32];
        uint16_t d = quantize__half_scale(fit_scale(x, 32, &g, q));
        fit_codes(x, 32, half_value(d), &g, q);
        for (int j = 0; j < 32; j++)
            code[j] = (uint8_t)(q[j] + zero);
        put_half(p, d);
        if (bits == 5)
            put_fifth_bits(p + 2, code);
        put_nibbles(p + at, code);
    }
}

static void to_q4_0(const float *x, unsigned char *p, int64_t n)
{
    symmetric_32(x, p, n, 4);
}

static void to_q5_0(const float *x, unsigned char *p, int64_t n)
{
    symmetric_32(x, p, n, 5);
}

static float mean_32(const float *x)
{
    float sum = 0;
    for (int j = 0; j < 32; j++)
        sum += x[j] / 32;
    return sum;
}

/* Q4_1 and Q5_1: d, m, fifth bits if any, nibbles. */
static void affine_32(const float *x, unsigned char *p, int64_t n, int bits)
{
    int hi = (1 << bits) - 1, at = bits == 5 ? 8 : 4;
    for (int64_t i = 0; i < n; i += 32, x += 32, p += at + 16) {
        int8_t q[32];
        uint8_t code[32];
        float m_found;
        uint16_t d = quantize__half_scale(fit_affine(x, 32, hi, 0, q, &m_found));
        if (half_value(d) == 0) /* too small for steps: their mean */
            m_found = mean_32(x);
        uint16_t m = quantize__half(m_found);
        float step = half_value(d), least = half_value(m);
        for (int j = 0; j < 32; j++) {
            float v = step > 0 ? (x[j] - least) / step : 0;
            code[j] = (uint8_t)(v <= 0 ? 0 : v >= (float)hi ? hi : (int)(v + 0.5f));
        }
        put_half(p, d);
        put_half(p + 2, m);
        if (bits == 5)
            put_fifth_bits(p + 4, code);
        put_nibbles(p + at, code);
    }
}

static void to_q4_1(const float *x, unsigned char *p, int64_t n)
{
    affine_32(x, p, n, 4);
}

static void to_q5_1(const float *x, unsigned char *p, int64_t n)
{
    affine_32(x, p, n, 5);
}

static uint8_t iq4_code(int8_t level)
{
    uint8_t i = 0;
    while (fit_iq4.levels[i] < level)
        i++;
    return i;
}

static void put_iq4(unsigned char *p, const int8_t *q)
{
    uint8_t code[32];
    for (int j = 0; j < 32; j++)
        code[j] = iq4_code(q[j]);
    put_nibbles(p, code);
}

static void to_iq4_nl(const float *x, unsigned char *p, int64_t n)
{
    for (int64_t i = 0; i < n; i += 32, x += 32, p += 18) {
        int8_t q[32];
        uint16_t d = quantize__half_scale(fit_scale(x, 32, &fit_iq4, q));
        fit_codes(x, 32, half_value(d), &fit_iq4, q);
        put_half(p, d);
        put_iq4(p + 2, q);
    }
}

/* --- blocks of 256 ----------------------------------------------------------------------------- */

/* Two bits each of four sub-block pairs share a byte, for each half of the block. */
static void put_pairs_of_bits(unsigned char *p, const uint8_t *code)
{
    for (int half = 0; half < 2; half++)
        for (int j = 0; j < 32; j++) {
            const uint8_t *c = code + 128 * half + j;
            p[32 * half + j] = (unsigned char)((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 |
                                               (c[96] & 3) << 6);
        }
}

static void to_q2_k(const float *x, unsigned char *p, int64_t n)
{
    for (int64_t i = 0; i < n; i += FIT_SUPER, x += FIT_SUPER, p += 84) {
        struct fit_super s;
        fit_super_affine(x, 16, 3, 15, &s);
        for (int k = 0; k < 16; k++)
            p[k] = (unsigned char)(s.scale[k] | s.min[k] << 4);
        put_pairs_of_bits(p + 16, (const uint8_t *)s.q);
        put_half(p + 80, s.d);
        put_half(p + 82, s.dmin);
    }
}

static void to_q3_k(const float *x, unsigned char *p, int64_t n)
{
    const struct fit_grid g = {-4, 3, NULL};
    for (int64_t i = 0; i < n; i += FIT_SUPER, x += FIT_SUPER, p += 110) {
        struct fit_super s;
        uint8_t code[FIT_SUPER];
        fit_super_scale(x, 16, &g, -32, 31, &s);
        memset(p, 0, 110);
        for (int j = 0; j < FIT_SUPER; j++) {
            code[j] = (uint8_t)(s.q[j] + 4);
            p[j % 32] |= (unsigned char)((code[j] >> 2) << (j / 32));
        }
        put_pairs_of_bits(p + 32, code);
        for (int k = 0; k < 16; k++) {
            int six = s.scale[k] + 32;
            p[96 + k % 8] |= (unsigned char)((six & 15) << (k < 8 ? 0 : 4));
            p[104 + k % 4] |= (unsigned char)((six >> 4) << k / 4 * 2);
        }
        put_half(p + 108, s.d);
    }
}

/* Eight scales and eight minima of six bits in twelve bytes; see scale_min in tensor_quants.c. */
static void put_scale_min(unsigned char *b, const int *scale, const int *min)
{
    for (int k = 0; k < 4; k++) {
        b[k] = (unsigned char)(scale[k] | (scale[k + 4] >> 4) << 6);
        b[k + 4] = (unsigned char)(min[k] | (min[k + 4] >> 4) << 6);
        b[k + 8] = (unsigned char)((scale[k + 4] & 15) | (min[k + 4] & 15) << 4);
    }
}

/* Low nibbles of sub-block 2 k, high ones of 2 k + 1. */
static void put_nibble_pairs(unsigned char *p, const int8_t *q)
{
    for (int k = 0; k < 4; k++)
        for (int j = 0; j < 32; j++)
            p[32 * k + j] = (unsigned char)((q[64 * k + j] & 15) | (q[64 * k + 32 + j] & 15) << 4);
}

static void to_q4_k(const float *x, unsigned char *p, int64_t n)
{
    for (int64_t i = 0; i < n; i += FIT_SUPER, x += FIT_SUPER, p += 144) {
        struct fit_super s;
        fit_super_affine(x, 32, 15, 63, &s);
        put_half(p, s.d);
        put_half(p + 2, s.dmin);
        put_scale_min(p + 4, s.scale, s.min);
        put_nibble_pairs(p + 16, s.q);
    }
}

static void to_q5_k(const float *x, unsigned char *p, int64_t n)
{
    for (int64_t i = 0; i < n; i += FIT_SUPER, x += FIT_SUPER, p += 176) {
        struct fit_super s;
        fit_super_affine(x, 32, 31, 63, &s);
        put_half(p, s.d);
        put_half(p + 2, s.dmin);
        put_scale_min(p + 4, s.scale, s.min);
        memset(p + 16, 0, 32);
        for (int j = 0; j < FIT_SUPER; j++)
            p[16 + j % 32] |= (unsigned char)((s.q[j] >> 4) << (j / 32));
        put_nibble_pairs(p + 48, s.q);
    }
}

static void to_q6_k(const float *x, unsigned char *p, int64_t n)
{
    const struct fit_grid g = {-32, 31, NULL};
    for (int64_t i = 0; i < n; i += FIT_SUPER, x += FIT_SUPER, p += 210) {
        struct fit_super s;
        uint8_t code[FIT_SUPER], high[FIT_SUPER];
        fit_super_scale(x, 16, &g, -128, 127, &s);
        for (int j = 0; j < FIT_SUPER; j++) {
            code[j] = (uint8_t)(s.q[j] + 32);
            high[j] = code[j] >> 4;
        }
        for (int half = 0; half < 2; half++)
            for (int j = 0; j < 64; j++) {
                const uint8_t *c = code + 128 * half + j;
                p[64 * half + j] = (unsigned char)((c[0] & 15) | (c[64] & 15) << 4);
            }
        put_pairs_of_bits(p + 128, high);
        for (int k = 0; k < 16; k++)
            p[192 + k] = (unsigned char)(int8_t)s.scale[k];
        put_half(p + 208, s.d);
    }
}

static void to_iq4_xs(const float *x, unsigned char *p, int64_t n)
{
    for (int64_t i = 0; i < n; i += FIT_SUPER, x += FIT_SUPER, p += 136) {
        struct fit_super s;
        fit_super_scale(x, 32, &fit_iq4, -32, 31, &s);
        put_half(p, s.d);
        memset(p + 2, 0, 6);
        for (int k = 0; k < 8; k++) {
            int six = s.scale[k] + 32;
            p[2 + k / 4] |= (unsigned char)((six >> 4) << k % 4 * 2);
            p[4 + k / 2] |= (unsigned char)((six & 15) << k % 2 * 4);
            put_iq4(p + 8 + 16 * k, s.q + 32 * k);
        }
    }
}

/* --- the list ---------------------------------------------------------------------------------- */

/* max: half precision's range times the smallest number of steps that the largest value is put on. */
static const struct {
    enum tensor_type type;
    float max;
    void (*encode)(const float *x, unsigned char *p, int64_t n);
} encoders[] = {
    {TT_F32, 3.4e38f, to_f32},
    {TT_F16, MAX_HALF, to_f16},
    {TT_BF16, 3.38e38f, to_bf16},
    {TT_Q8_0, MAX_HALF * 127, to_q8_0},
    {TT_Q4_0, MAX_HALF * 6, to_q4_0},
    {TT_Q5_0, MAX_HALF * 14, to_q5_0},
    {TT_Q4_1, MAX_HALF / 2, to_q4_1},
    {TT_Q5_1, MAX_HALF / 2, to_q5_1},
    {TT_IQ4_NL, MAX_HALF * 100, to_iq4_nl},
    {TT_Q2_K, MAX_HALF * 8, to_q2_k},
    {TT_Q3_K, MAX_HALF * 64, to_q3_k},
    {TT_Q4_K, MAX_HALF * 32, to_q4_k},
    {TT_Q5_K, MAX_HALF * 32, to_q5_k},
    {TT_Q6_K, MAX_HALF * 1024, to_q6_k},
    {TT_IQ4_XS, MAX_HALF * 2048, to_iq4_xs},
};
#define N_ENCODERS ((int)(sizeof(encoders) / sizeof(encoders[0])))

static int find(enum tensor_type type)
{
    for (int i = 0; i < N_ENCODERS; i++)
        if (encoders[i].type == type)
            return i;
    return -1;
}

float quantize_max(enum tensor_type type)
{
    int i = find(type);
    return i < 0 ? 0 : encoders[i].max;
}

bool quantize_row(enum tensor_type type, const float *src, void *dst, int64_t n)
{
    int i = find(type);
    bool fits = i >= 0;
    for (int64_t j = 0; fits && j < n; j++)
        fits = fabsf(src[j]) <= encoders[i].max; /* false for NaN */
    if (fits)
        encoders[i].encode(src, dst, n);
    return fits;
}
