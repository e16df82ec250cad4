/* engine/model/tensor_quants.c - GGUF's block types as float32, plainly; see tensor_quants.h.
 *
 * Types of 32 values have one half-precision scale d (and a least value m, _1 types) and small
 * integers q; types of 256 (_K, IQ4_XS) have d (and dmin) and smaller integer scales for 16 or 32
 * values each. Every float32 operation is written in the order that it is rounded in:
 *     Q4_0, Q5_0, Q8_0   d * q                  Q4_1, Q5_1         d * q + m
 *     Q3_K, Q6_K         (d * s) * q            Q2_K, Q4_K, Q5_K   (d * s) * q - dmin * t
 *     IQ4_NL             d * level[q]           IQ4_XS             (d * s) * level[q]
 * Blocks may lie at any address. */
#include "config.h"

#include "engine/model/tensor_quants.h"

#include <string.h>

/* The values of IQ4's sixteen codes. */
static const int8_t iq4_level[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};

static float f32_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

float tensor__f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1fu, mantissa = h & 0x3ffu;
    if (exponent == 0) { /* zero and subnormal: mantissa * 2^-24, exact in float32 */
        float f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    if (exponent == 0x1f)
        return f32_from_bits(sign | 0x7f800000u | mantissa << 13);
    return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

float tensor__f8(uint8_t v)
{
    uint32_t sign = (uint32_t)(v & 0x80u) << 24;
    uint32_t exponent = (v >> 3) & 15u, mantissa = v & 7u;
    if ((v & 0x7f) == 0x7f)
        return f32_from_bits(sign | 0x7fc00000u);
    if (exponent == 0) {
        float f = (float)mantissa * 0x1p-9f;
        return sign ? -f : f;
    }
    return f32_from_bits(sign | (exponent + 120) << 23 | mantissa << 20);
}

static float half_at(const unsigned char *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return tensor__f16(v);
}

/* --- blocks of 32: low nibbles are values 0..15, high nibbles 16..31 --------------------------- */

static uint32_t bits_at(const unsigned char *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

void tensor__q4_0(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i += 32, p += 18) {
        float d = half_at(p);
        for (int j = 0; j < 16; j++) {
            dst[i + j] = d * (float)((p[2 + j] & 15) - 8);
            dst[i + j + 16] = d * (float)((p[2 + j] >> 4) - 8);
        }
    }
}

void tensor__q4_1(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i += 32, p += 20) {
        float d = half_at(p), m = half_at(p + 2);
        for (int j = 0; j < 16; j++) {
            dst[i + j] = d * (float)(p[4 + j] & 15) + m;
            dst[i + j + 16] = d * (float)(p[4 + j] >> 4) + m;
        }
    }
}

void tensor__q5_0(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i += 32, p += 22) {
        float d = half_at(p);
        uint32_t fifth = bits_at(p + 2);
        for (int j = 0; j < 16; j++) {
            int lo = (p[6 + j] & 15) | (int)(fifth >> j & 1) << 4;
            int hi = (p[6 + j] >> 4) | (int)(fifth >> (j + 16) & 1) << 4;
            dst[i + j] = d * (float)(lo - 16);
            dst[i + j + 16] = d * (float)(hi - 16);
        }
    }
}

void tensor__q5_1(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i += 32, p += 24) {
        float d = half_at(p), m = half_at(p + 2);
        uint32_t fifth = bits_at(p + 4);
        for (int j = 0; j < 16; j++) {
            int lo = (p[8 + j] & 15) | (int)(fifth >> j & 1) << 4;
            int hi = (p[8 + j] >> 4) | (int)(fifth >> (j + 16) & 1) << 4;
            dst[i + j] = d * (float)lo + m;
            dst[i + j + 16] = d * (float)hi + m;
        }
    }
}

void tensor__q8_0(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i += 32, p += 34) {
        float d = half_at(p);
        for (int j = 0; j < 32; j++)
            dst[i + j] = d * (float)(int8_t)p[2 + j];
    }
}

void tensor__iq4_nl(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i += 32, p += 18) {
        float d = half_at(p);
        for (int j = 0; j < 16; j++) {
            dst[i + j] = d * (float)iq4_level[p[2 + j] & 15];
            dst[i + j + 16] = d * (float)iq4_level[p[2 + j] >> 4];
        }
    }
}

/* --- blocks of 256 ----------------------------------------------------------------------------- */

/* scales[16]: low nibble scale, high nibble minimum, each for 16 values; qs[64]; d; dmin. */
void tensor__q2_k(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i += 256, p += 84) {
        float d = half_at(p + 80), dmin = half_at(p + 82);
        for (int s = 0; s < 16; s++) {
            /* eight sub-blocks take two bits each of the same 32 bytes */
            const unsigned char *q = p + 16 + s / 8 * 32 + s % 2 * 16;
            int shift = s % 8 / 2 * 2;
            float scale = d * (float)(p[s] & 15), min = dmin * (float)(p[s] >> 4);
            for (int j = 0; j < 16; j++)
                dst[i + 16 * s + j] = scale * (float)(q[j] >> shift & 3) - min;
        }
    }
}

/* hmask[32]: bit 2 of all, set means that 4 is not taken away; qs[64]: bits 0..1; scales[12]: sixteen
 * six-bit scales + 32; d. */
void tensor__q3_k(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i += 256, p += 110) {
        float d = half_at(p + 108);
        const unsigned char *sc = p + 96;
        for (int s = 0; s < 16; s++) {
            const unsigned char *q = p + 32 + s / 8 * 32 + s % 2 * 16, *high = p + s % 2 * 16;
            int shift = s % 8 / 2 * 2, bit = s / 2;
            int low4 = s < 8 ? sc[s] & 15 : sc[s - 8] >> 4;
            float scale = d * (float)((low4 | (sc[8 + s % 4] >> s / 4 * 2 & 3) << 4) - 32);
            for (int j = 0; j < 16; j++) {
                int v = (q[j] >> shift & 3) - (high[j] >> bit & 1 ? 0 : 4);
                dst[i + 16 * s + j] = scale * (float)v;
            }
        }
    }
}

/* Q4_K and Q5_K: twelve bytes hold eight scales and eight minima of six bits. The first four of each
 * lie whole in the low bits of bytes 0..3 and 4..7; of the last four, bytes 8..11 have the low nibbles
 * and the free top bits of the first eight bytes the rest. */
static void scale_min(const unsigned char *b, int s, int *ret_scale, int *ret_min)
{
    if (s < 4) {
        *ret_scale = b[s] & 63;
        *ret_min = b[s + 4] & 63;
    } else {
        *ret_scale = (b[s + 4] & 15) | b[s - 4] >> 6 << 4;
        *ret_min = b[s + 4] >> 4 | b[s] >> 6 << 4;
    }
}

/* d; dmin; scales[12]; qs[128]. */
void tensor__q4_k(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i += 256, p += 144) {
        float d = half_at(p), dmin = half_at(p + 2);
        for (int s = 0; s < 8; s++) {
            const unsigned char *q = p + 16 + s / 2 * 32;
            int shift = s % 2 * 4, sc, m;
            scale_min(p + 4, s, &sc, &m);
            float scale = d * (float)sc, min = dmin * (float)m;
            for (int j = 0; j < 32; j++)
                dst[i + 32 * s + j] = scale * (float)(q[j] >> shift & 15) - min;
        }
    }
}

/* d; dmin; scales[12]; qh[32]: bit s of byte j is the fifth bit of value 32 s + j; qs[128]. */
void tensor__q5_k(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i += 256, p += 176) {
        float d = half_at(p), dmin = half_at(p + 2);
        for (int s = 0; s < 8; s++) {
            const unsigned char *q = p + 48 + s / 2 * 32;
            int shift = s % 2 * 4, sc, m;
            scale_min(p + 4, s, &sc, &m);
            float scale = d * (float)sc, min = dmin * (float)m;
            for (int j = 0; j < 32; j++) {
                int v = (q[j] >> shift & 15) | (p[16 + j] >> s & 1) << 4;
                dst[i + 32 * s + j] = scale * (float)v - min;
            }
        }
    }
}

/* ql[128]: low nibbles; qh[64]: upper two bits; scales[16] int8; d. */
void tensor__q6_k(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i += 256, p += 210) {
        float d = half_at(p + 208);
        for (int s = 0; s < 16; s++) {
            /* of each half's 128 values, 32 at a time: nibbles of bytes 0.., 32.., then the high ones */
            int quarter = s % 8 / 2;
            const unsigned char *ql = p + s / 8 * 64 + quarter % 2 * 32 + s % 2 * 16;
            const unsigned char *qh = p + 128 + s / 8 * 32 + s % 2 * 16;
            float scale = d * (float)(int8_t)p[192 + s];
            for (int j = 0; j < 16; j++) {
                int v = (ql[j] >> quarter / 2 * 4 & 15) | (qh[j] >> quarter * 2 & 3) << 4;
                dst[i + 16 * s + j] = scale * (float)(v - 32);
            }
        }
    }
}

/* d; scales_h: 8 x 2 bits; scales_l[4]: 8 nibbles; qs[128], each 32 values as in IQ4_NL. */
void tensor__iq4_xs(const void *src, float *dst, int64_t n)
{
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i += 256, p += 136) {
        float d = half_at(p);
        int high = p[2] | p[3] << 8;
        for (int s = 0; s < 8; s++) {
            int six = (p[4 + s / 2] >> s % 2 * 4 & 15) | (high >> 2 * s & 3) << 4;
            float scale = d * (float)(six - 32);
            for (int j = 0; j < 16; j++) {
                int q = p[8 + 16 * s + j];
                dst[i + 32 * s + j] = scale * (float)iq4_level[q & 15];
                dst[i + 32 * s + j + 16] = scale * (float)iq4_level[q >> 4];
            }
        }
    }
}
