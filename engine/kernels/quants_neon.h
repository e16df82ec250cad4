/* engine/kernels/quants_neon.h - integers of four rows in a register, for quants_template.h: dot products by
 * SDOT (signed times signed bytes, four k added in int32), the activations taken from lanes. Weights are at
 * most 63 as unsigned integers, so signed bytes hold both kinds. */
#ifndef LATENT_ENGINE_KERNELS_QUANTS_NEON_H
#define LATENT_ENGINE_KERNELS_QUANTS_NEON_H

#include <string.h>

#include "engine/kernels/kern_internal.h"
#include "engine/kernels/vec_neon.h"

#define VI_LANES 4
#define QUANT_PREFETCH 1024

typedef int32x4_t vi;
typedef float32x4_t vf;

#define VI_8(v) vreinterpretq_s8_s32(v)
#define VI_16(v) vreinterpretq_s16_s32(v)
#define VI_OF_8(v) vreinterpretq_s32_s8(v)
#define VI_OF_16(v) vreinterpretq_s32_s16(v)

INLINE vi vi_load(const void *p) { return VI_OF_8(vld1q_s8((const int8_t *)p)); }
INLINE vi vi_set1_8(int x) { return VI_OF_8(vdupq_n_s8((int8_t)x)); }
INLINE vi vi_set1_16(int x) { return VI_OF_16(vdupq_n_s16((int16_t)x)); }
INLINE vi vi_set1_32(int x) { return vdupq_n_s32(x); }
INLINE vi vi_and(vi a, vi b) { return vandq_s32(a, b); }
INLINE vi vi_or(vi a, vi b) { return vorrq_s32(a, b); }
INLINE vi vi_add32(vi a, vi b) { return vaddq_s32(a, b); }
INLINE vi vi_sub32(vi a, vi b) { return vsubq_s32(a, b); }
/* Products of int16, neighbours added. */
INLINE vi vi_madd16(vi a, vi b)
{
    int32x4_t lo = vmull_s16(vget_low_s16(VI_16(a)), vget_low_s16(VI_16(b)));
    return vpaddq_s32(lo, vmull_high_s16(VI_16(a), VI_16(b)));
}
/* Shifts by a count that is constant once inlined; the shift by register also goes right. */
INLINE vi vi_sll32(vi a, const int n) { return vshlq_s32(a, vdupq_n_s32(n)); }
INLINE vi vi_sra32(vi a, const int n) { return vshlq_s32(a, vdupq_n_s32(-n)); }
INLINE vi vi_sll16(vi a, const int n) { return VI_OF_16(vshlq_s16(VI_16(a), vdupq_n_s16((int16_t)n))); }
INLINE vi vi_srl16(vi a, const int n)
{
    uint16x8_t u = vreinterpretq_u16_s32(a);
    return vreinterpretq_s32_u16(vshlq_u16(u, vdupq_n_s16((int16_t)-n)));
}
INLINE uint8x8_t vi__four_bytes(const void *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return vreinterpret_u8_u32(vdup_n_u32(v));
}
INLINE vi vi_i8(const void *p)
{
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(vi__four_bytes(p)))));
}
INLINE vi vi_u8(const void *p)
{
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vi__four_bytes(p)))));
}
/* 8 int8 as int16: a pair for each row */
INLINE vi vi_pairs(const void *p) { return VI_OF_16(vmovl_s8(vld1_s8((const int8_t *)p))); }
INLINE vi vi_table16(const int8_t *p) { return VI_OF_8(vld1q_s8(p)); }
INLINE vi vi_lookup(vi table, vi codes)
{
    return VI_OF_8(vqtbl1q_s8(VI_8(table), vreinterpretq_u8_s32(codes)));
}
INLINE vf vf_set1(float x) { return vdupq_n_f32(x); }
INLINE vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
INLINE vf vf_fnma(vf a, vf b, vf c) { return vfmsq_f32(c, a, b); }
INLINE vf vf_cvt(vi a) { return vcvtq_f32_s32(a); }
INLINE vf vf_load_f16(const void *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t *)p)));
}
INLINE v16 v16_of_halves(const vf *h) { return V16(h[0], h[1], h[2], h[3]); }

/* Integer scales of the halves: as they come, and each as int32. */
struct subs {
    vi pair, a, b;
};
INLINE struct subs subs_of(vi pair)
{
    return (struct subs){pair, vshrq_n_s32(vshlq_n_s32(pair, 16), 16), vshrq_n_s32(pair, 16)};
}

/* start + sum of w x over four quads of 16 activations */
INLINE vi dot_half(vi start, const vi *w, const int8_t *x)
{
    int8x16_t v = vld1q_s8(x);
    start = vdotq_laneq_s32(start, VI_8(w[0]), v, 0);
    start = vdotq_laneq_s32(start, VI_8(w[1]), v, 1);
    start = vdotq_laneq_s32(start, VI_8(w[2]), v, 2);
    return vdotq_laneq_s32(start, VI_8(w[3]), v, 3);
}

INLINE vi dot_unsigned(const vi *w, const int8_t *x, const int top)
{
    (void)top;
    return dot_half(dot_half(vdupq_n_s32(0), w, x), w + 4, x + 16);
}

INLINE vi dot_subs(const vi *w, const int8_t *x, const struct subs *s, const int top)
{
    (void)top;
    vi first = vmulq_s32(dot_half(vdupq_n_s32(0), w, x), s->a);
    return vmlaq_s32(first, dot_half(vdupq_n_s32(0), w + 4, x + 16), s->b);
}

/* Signed weights need nothing else. */
struct signed_w {
    char none;
};
INLINE void signed_prepare(const vi *w, struct signed_w *ret)
{
    (void)w;
    ret->none = 0;
}
INLINE vi dot_signed(const vi *w, const struct signed_w *sw, const int8_t *x, const int32_t *sum)
{
    (void)sw;
    (void)sum;
    return dot_unsigned(w, x, 127);
}

#endif
