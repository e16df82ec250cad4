/* engine/kernels/vec_neon.h - sixteen float lanes in four registers, for simd_template.h. Where NaN or zeros
 * of both signs meet, max, min and the selections answer as their x86 counterparts do. */
#ifndef LATENT_ENGINE_KERNELS_VEC_NEON_H
#define LATENT_ENGINE_KERNELS_VEC_NEON_H

#ifndef __ARM_FEATURE_DOTPROD
#error "compile with the NEON flags"
#endif
#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* 16 of 32 registers hold sums: as many as cover the latency of four FMA pipes. */
#define SCORE_TILE 4
#define ROW_TILE 4
#define GROUP_TILE 4
#define ATTN_LANES 8 /* of a tile of attention: 24 sums, three vectors, one scalar */
#define ATTN_VECS 3
#define ATTN_ROWS 48

typedef struct {
    float32x4_t a, b, c, d;
} v16;

#define V16(x, y, z, w) ((v16){x, y, z, w})
/* f of each quarter of the arguments */
#define V16_MAP1(f, x) V16(f((x).a), f((x).b), f((x).c), f((x).d))
#define V16_MAP2(f, x, y) V16(f((x).a, (y).a), f((x).b, (y).b), f((x).c, (y).c), f((x).d, (y).d))

static inline v16 v16_load(const float *p)
{
    return V16(vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12));
}
static inline void v16_store(float *p, v16 v)
{
    vst1q_f32(p, v.a);
    vst1q_f32(p + 4, v.b);
    vst1q_f32(p + 8, v.c);
    vst1q_f32(p + 12, v.d);
}
/* The first n lanes, 0 < n < 16; others 0. Only the tails of rows come here. */
static inline v16 v16_load_n(const float *p, int n)
{
    float lane[16] = {0};
    memcpy(lane, p, (size_t)n * sizeof(*p));
    return v16_load(lane);
}
static inline void v16_store_n(float *p, v16 v, int n)
{
    float lane[16];
    v16_store(lane, v);
    memcpy(p, lane, (size_t)n * sizeof(*p));
}
static inline v16 v16_set1(float x)
{
    float32x4_t v = vdupq_n_f32(x);
    return V16(v, v, v, v);
}
static inline v16 v16_add(v16 x, v16 y) { return V16_MAP2(vaddq_f32, x, y); }
static inline v16 v16_sub(v16 x, v16 y) { return V16_MAP2(vsubq_f32, x, y); }
static inline v16 v16_mul(v16 x, v16 y) { return V16_MAP2(vmulq_f32, x, y); }
static inline v16 v16_div(v16 x, v16 y) { return V16_MAP2(vdivq_f32, x, y); }
static inline v16 v16_fma(v16 x, v16 y, v16 z)
{
    return V16(vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c),
               vfmaq_f32(z.d, x.d, y.d));
}
/* The second operand where one of both is NaN: FMAX would keep the NaN, FMAXNM trips over signalling ones. */
static inline float32x4_t v4_max(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
static inline float32x4_t v4_min(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
static inline v16 v16_max(v16 x, v16 y) { return V16_MAP2(v4_max, x, y); }
static inline v16 v16_min(v16 x, v16 y) { return V16_MAP2(v4_min, x, y); }
/* The largest lane; no NaN. */
static inline float v16_hmax(v16 x)
{
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.a, x.b), vmaxq_f32(x.c, x.d)));
}
static inline v16 v16_round(v16 x) { return V16_MAP1(vrndnq_f32, x); }
/* x * 2^n for integral n in -126 .. 127 */
static inline float32x4_t v4_scale2(float32x4_t x, float32x4_t n)
{
    int32x4_t e = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32(e, 23)));
}
static inline v16 v16_scale2(v16 x, v16 n) { return V16_MAP2(v4_scale2, x, n); }
/* x 2^n for x in [1/2, 2) and whole n, the product being a normal number. */
static inline float32x4_t v4_raise(float32x4_t x, float32x4_t n)
{
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), vshlq_n_s32(vcvtq_s32_f32(n), 23)));
}
static inline v16 v16_raise(v16 x, v16 n) { return V16_MAP2(v4_raise, x, n); }
/* x < y ? s : t */
static inline v16 v16_select_lt(v16 x, v16 y, v16 s, v16 t)
{
    return V16(vbslq_f32(vcltq_f32(x.a, y.a), s.a, t.a), vbslq_f32(vcltq_f32(x.b, y.b), s.b, t.b),
               vbslq_f32(vcltq_f32(x.c, y.c), s.c, t.c), vbslq_f32(vcltq_f32(x.d, y.d), s.d, t.d));
}
/* x, but 0 where y < z. */
static inline v16 v16_unless_lt(v16 x, v16 y, v16 z)
{
    return v16_select_lt(y, z, v16_set1(0.0f), x);
}
static inline v16 v16_select_eq(v16 x, v16 y, v16 s, v16 t)
{
    return V16(vbslq_f32(vceqq_f32(x.a, y.a), s.a, t.a), vbslq_f32(vceqq_f32(x.b, y.b), s.b, t.b),
               vbslq_f32(vceqq_f32(x.c, y.c), s.c, t.c), vbslq_f32(vceqq_f32(x.d, y.d), s.d, t.d));
}
static inline int v16_all_eq(v16 x, v16 y)
{
    uint32x4_t ab = vandq_u32(vceqq_f32(x.a, y.a), vceqq_f32(x.b, y.b));
    uint32x4_t cd = vandq_u32(vceqq_f32(x.c, y.c), vceqq_f32(x.d, y.d));
    return vminvq_u32(vandq_u32(ab, cd)) != 0;
}
static inline float32x4_t v4_of_bf16(uint16x4_t h) { return vreinterpretq_f32_u32(vshll_n_u16(h, 16)); }
/* 16-bit values may lie at any address: loaded as bytes */
static inline uint16x8_t v8_load_u16(const void *p)
{
    return vreinterpretq_u16_u8(vld1q_u8((const uint8_t *)p));
}
static inline v16 v16_load_bf16(const void *p)
{
    uint16x8_t lo = v8_load_u16(p), hi = v8_load_u16((const uint8_t *)p + 16);
    return V16(v4_of_bf16(vget_low_u16(lo)), v4_of_bf16(vget_high_u16(lo)),
               v4_of_bf16(vget_low_u16(hi)), v4_of_bf16(vget_high_u16(hi)));
}
static inline v16 v16_of_f16(uint16x8_t lo, uint16x8_t hi)
{
    float16x8_t l = vreinterpretq_f16_u16(lo), h = vreinterpretq_f16_u16(hi);
    return V16(vcvt_f32_f16(vget_low_f16(l)), vcvt_high_f32_f16(l), vcvt_f32_f16(vget_low_f16(h)),
               vcvt_high_f32_f16(h));
}
static inline v16 v16_load_f16(const void *p)
{
    return v16_of_f16(v8_load_u16(p), v8_load_u16((const uint8_t *)p + 16));
}
/* Sixteen FP8 e4m3, each times 2^-8: as half precision they have the same fields but a bias 8 larger. NaN
 * becomes a number (kern.h). */
static inline uint16x8_t v8_f8_as_f16(int8x8_t v)
{
    uint16x8_t h = vreinterpretq_u16_s16(vshlq_n_s16(vmovl_s8(v), 7));
    return vandq_u16(h, vdupq_n_u16(0xbf80));
}
static inline v16 v16_load_f8(const void *p)
{
    int8x16_t v = vld1q_s8((const int8_t *)p);
    return v16_of_f16(v8_f8_as_f16(vget_low_s8(v)), v8_f8_as_f16(vget_high_s8(v)));
}
static inline v16 v16_of_i8(int8x16_t v)
{
    int16x8_t lo = vmovl_s8(vget_low_s8(v)), hi = vmovl_high_s8(v);
    return V16(vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), vcvtq_f32_s32(vmovl_high_s16(lo)),
               vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), vcvtq_f32_s32(vmovl_high_s16(hi)));
}
static inline v16 v16_load_i8(const void *p) { return v16_of_i8(vld1q_s8((const int8_t *)p)); }
/* Values of a table for the low halves of 16 bytes, or the high ones. */
static inline v16 v16_load_nibbles(const void *p, int high, const int8_t *table)
{
    uint8x16_t v = vld1q_u8((const uint8_t *)p);
    v = high ? vshrq_n_u8(v, 4) : vandq_u8(v, vdupq_n_u8(15));
    return v16_of_i8(vqtbl1q_s8(vld1q_s8(table), v));
}
/* The low bytes of sixteen words. */
static inline void v16_store_low8(void *p, uint32x4_t a, uint32x4_t b, uint32x4_t c, uint32x4_t d)
{
    uint16x8_t lo = vcombine_u16(vmovn_u32(a), vmovn_u32(b)), hi = vcombine_u16(vmovn_u32(c), vmovn_u32(d));
    vst1q_u8((uint8_t *)p, vcombine_u8(vmovn_u16(lo), vmovn_u16(hi)));
}
static inline uint32x4_t v4_i8_bits(float32x4_t x) { return vreinterpretq_u32_s32(vcvtnq_s32_f32(x)); }
/* Values in -128 .. 255, to nearest even. */
static inline void v16_store_i8(void *p, v16 v)
{
    v16_store_low8(p, v4_i8_bits(v.a), v4_i8_bits(v.b), v4_i8_bits(v.c), v4_i8_bits(v.d));
}
static inline uint32x4_t v4_f8_bits(float32x4_t x)
{
    uint32x4_t u = vreinterpretq_u32_f32(x), sign = vandq_u32(vshrq_n_u32(u, 24), vdupq_n_u32(0x80));
    u = vandq_u32(u, vdupq_n_u32(0x7fffffff));
    /* below 2^-6 a multiple of 2^-9: the grid of the sum with 2^14 */
    float32x4_t grid = vaddq_f32(vreinterpretq_f32_u32(u), vdupq_n_f32(16384.0f));
    uint32x4_t small = vsubq_u32(vreinterpretq_u32_f32(grid), vdupq_n_u32(0x46800000));
    uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 20), vdupq_n_u32(1));
    uint32x4_t r = vaddq_u32(vaddq_u32(u, odd), vdupq_n_u32(0x7ffffu - (120u << 23)));
    uint32x4_t is_small = vcltq_u32(u, vdupq_n_u32(0x3c800000));
    return vorrq_u32(sign, vbslq_u32(is_small, small, vshrq_n_u32(r, 20)));
}
/* FP8 e4m3 of values in [-448, 448], to nearest even. */
static inline void v16_store_f8(void *p, v16 v)
{
    v16_store_low8(p, v4_f8_bits(v.a), v4_f8_bits(v.b), v4_f8_bits(v.c), v4_f8_bits(v.d));
}
/* round to nearest even; NaN made quiet */
static inline uint16x4_t v4_bf16_bits(float32x4_t x)
{
    uint32x4_t u = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    uint32x4_t r = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd);
    uint32x4_t q = vorrq_u32(u, vdupq_n_u32(0x400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), r, q), 16);
}
static inline void v16_store_bf16(void *p, v16 v)
{
    uint16x8_t lo = vcombine_u16(v4_bf16_bits(v.a), v4_bf16_bits(v.b));
    uint16x8_t hi = vcombine_u16(v4_bf16_bits(v.c), v4_bf16_bits(v.d));
    vst1q_u8((uint8_t *)p, vreinterpretq_u8_u16(lo));
    vst1q_u8((uint8_t *)p + 16, vreinterpretq_u8_u16(hi));
}

/* Bit i: lane i of four masks, each of which is all ones or zero. */
static inline unsigned v16_mask(uint32x4_t a, uint32x4_t b, uint32x4_t c, uint32x4_t d)
{
    static const uint16_t bits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    uint16x8_t bit = vld1q_u16(bits), lo = vcombine_u16(vmovn_u32(a), vmovn_u32(b));
    uint16x8_t hi = vcombine_u16(vmovn_u32(c), vmovn_u32(d));
    return (unsigned)vaddvq_u16(vorrq_u16(vandq_u16(lo, bit), vshlq_n_u16(vandq_u16(hi, bit), 8)));
}
/* Bit i: x[i] >= y[i]. */
static inline unsigned v16_mask_ge(v16 x, v16 y)
{
    return v16_mask(vcgeq_f32(x.a, y.a), vcgeq_f32(x.b, y.b), vcgeq_f32(x.c, y.c), vcgeq_f32(x.d, y.d));
}
static inline unsigned v16_mask_lt(v16 x, v16 y)
{
    return v16_mask(vcltq_f32(x.a, y.a), vcltq_f32(x.b, y.b), vcltq_f32(x.c, y.c), vcltq_f32(x.d, y.d));
}
/* Eight values, each in two neighbouring lanes. */
static inline v16 v16_load_twice(const float *p)
{
    float32x4_t a = vld1q_f32(p), b = vld1q_f32(p + 4);
    return V16(vzip1q_f32(a, a), vzip2q_f32(a, a), vzip1q_f32(b, b), vzip2q_f32(b, b));
}
/* Neighbours change places. */
static inline v16 v16_swap(v16 x) { return V16_MAP1(vrev64q_f32, x); }
/* x y - z in even lanes, x y + z in odd ones. */
static inline float32x4_t v4_flip_even(float32x4_t x)
{
    const uint32x4_t sign = vreinterpretq_u32_u64(vdupq_n_u64(0x80000000));
    return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(x), sign));
}
static inline v16 v16_fmaddsub(v16 x, v16 y, v16 z) { return v16_fma(x, y, V16_MAP1(v4_flip_even, z)); }

/* --- one register, for attn_template.h */
#define VA 4
typedef float32x4_t va;
static inline va va_load(const float *p) { return vld1q_f32(p); }
static inline void va_store(float *p, va v) { vst1q_f32(p, v); }
static inline va va_set1(float x) { return vdupq_n_f32(x); }
static inline va va_mul(va x, va y) { return vmulq_f32(x, y); }
static inline va va_fma(va x, va y, va z) { return vfmaq_f32(z, x, y); }
/* Rows become columns. */
static inline void v4_transpose(const float32x4_t r[4], float32x4_t ret[4])
{
    float32x4_t a = vtrn1q_f32(r[0], r[1]), b = vtrn2q_f32(r[0], r[1]);
    float32x4_t c = vtrn1q_f32(r[2], r[3]), d = vtrn2q_f32(r[2], r[3]);
    ret[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    ret[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    ret[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    ret[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}
static inline void va_transpose(const unsigned char *const *rows, size_t at, float *dst,
                                size_t dst_stride)
{
    float32x4_t row[4], column[4];
    for (int i = 0; i < 4; i++)
        row[i] = vreinterpretq_f32_u8(vld1q_u8(rows[i] + at));
    v4_transpose(row, column);
    for (int i = 0; i < 4; i++)
        vst1q_f32(dst + (size_t)i * dst_stride, column[i]);
}
/* Of pairs of bfloat16. */
static inline va va_even(va pairs)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(pairs), 16));
}
static inline va va_odd(va pairs)
{
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(pairs), vdupq_n_u32(0xffff0000)));
}
/* x0 y0 x1 y1 .. */
static inline va va_zip_low(va x, va y) { return vzip1q_f32(x, y); }
static inline va va_zip_high(va x, va y) { return vzip2q_f32(x, y); }
/* A pair of values is turned around as one, then parted. */
static inline void va_transpose_bf16(const unsigned char *const *rows, size_t at, float *dst,
                                     size_t dst_stride)
{
    float32x4_t row[4], pair[4];
    for (int i = 0; i < 4; i++)
        row[i] = vreinterpretq_f32_u8(vld1q_u8(rows[i] + at));
    v4_transpose(row, pair);
    for (int i = 0; i < 4; i++, dst += 2 * dst_stride) {
        vst1q_f32(dst, va_even(pair[i]));
        vst1q_f32(dst + dst_stride, va_odd(pair[i]));
    }
}

#endif
