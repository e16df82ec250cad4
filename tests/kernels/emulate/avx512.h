/* tests/kernels/emulate/avx512.h - AVX-512 and AMX on machines that lack them, so that these levels can be
 * checked anywhere: SIMDe (Debian: libsimde-dev) gives most intrinsics in plain C, this file the rest and
 * the tile instructions. Force-included before the sources of a level (-include); see local.mk.
 *
 * Tiles follow Intel's description: TDPBF16PS keeps the even and the odd products of a dot product apart
 * and adds both at its end, takes subnormals as zero, and rounds each step once. */
#ifndef LATENT_TESTS_KERNELS_EMULATE_AVX512_H
#define LATENT_TESTS_KERNELS_EMULATE_AVX512_H

#pragma GCC optimize("O1") /* the same sources take four times as long at -O2 */
#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#pragma GCC diagnostic pop
#include <math.h>
#include <stdint.h>
#include <string.h>

#define EMULATE static inline __attribute__((unused))
#define EACH for (int i_ = 0; i_ < 16; i_++)

/* --- what SIMDe 0.7 lacks ---------------------------------------------------------------------- */

typedef union {
    simde__m512 f;
    simde__m512i i;
    float f32[16];
    int32_t i32[16];
    uint32_t u32[16];
    uint16_t u16[32];
    int16_t i16[32];
    int8_t i8[64];
} emulate_512;

EMULATE simde__m512 emulate_cvtepi32_ps(simde__m512i a)
{
    emulate_512 x = {.i = a}, r;
    EACH r.f32[i_] = (float)x.i32[i_];
    return r.f;
}
EMULATE simde__m512 emulate_fmaddsub_ps(simde__m512 a, simde__m512 b, simde__m512 c)
{
    emulate_512 x = {.f = a}, y = {.f = b}, z = {.f = c}, r;
    EACH r.f32[i_] = fmaf(x.f32[i_], y.f32[i_], i_ % 2 ? z.f32[i_] : -z.f32[i_]);
    return r.f;
}
#undef _mm512_fmaddsub_ps
#define _mm512_fmaddsub_ps emulate_fmaddsub_ps
/* VREDUCEPS of whole numbers: imm 0 rounds to nearest even, 1 down, 2 up, 3 towards zero (8: no
 * exception). */
EMULATE simde__m512 emulate_reduce_ps(simde__m512 a, int imm)
{
    emulate_512 x = {.f = a}, r;
    if (imm >> 4 || imm & 4)
        __builtin_trap(); /* fractions and MXCSR are not needed */
    EACH {
        float v = x.f32[i_], whole = (imm & 3) == 0   ? rintf(v)
                                     : (imm & 3) == 1 ? floorf(v)
                                     : (imm & 3) == 2 ? ceilf(v)
                                                      : truncf(v);
        r.f32[i_] = isinf(v) ? 0.0f : v - whole;
    }
    return r.f;
}
#undef _mm512_reduce_ps
#define _mm512_reduce_ps emulate_reduce_ps
/* VRNDSCALEPS to whole numbers, imm as above. */
EMULATE simde__m512 emulate_roundscale_ps(simde__m512 a, int imm)
{
    emulate_512 x = {.f = a}, r;
    if (imm >> 4 || imm & 5)
        __builtin_trap(); /* nearest and up are needed */
    EACH r.f32[i_] = imm & 2 ? ceilf(x.f32[i_]) : rintf(x.f32[i_]);
    return r.f;
}
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps emulate_roundscale_ps
EMULATE simde__m512i emulate_cvtps_epi32(simde__m512 a)
{
    emulate_512 x = {.f = a}, r;
    EACH r.i32[i_] = x.f32[i_] >= 2147483648.0f || x.f32[i_] < -2147483648.0f || x.f32[i_] != x.f32[i_]
                         ? INT32_MIN
                         : (int32_t)lrintf(x.f32[i_]);
    return r.i;
}
EMULATE simde__m256i emulate_cvtepi32_epi16(simde__m512i a)
{
    emulate_512 x = {.i = a};
    uint16_t r[16];
    simde__m256i v;
    EACH r[i_] = (uint16_t)x.u32[i_];
    memcpy(&v, r, sizeof(v));
    return v;
}
EMULATE simde__m128i emulate_cvtepi32_epi8(simde__m512i a)
{
    emulate_512 x = {.i = a};
    uint8_t r[16];
    simde__m128i v;
    EACH r[i_] = (uint8_t)x.u32[i_];
    memcpy(&v, r, sizeof(v));
    return v;
}
EMULATE simde__m512i emulate_cvtepi8_epi32(simde__m128i a)
{
    int8_t b[16];
    emulate_512 r;
    memcpy(b, &a, 16);
    EACH r.i32[i_] = b[i_];
    return r.i;
}
EMULATE simde__m512i emulate_cvtepu8_epi32(simde__m128i a)
{
    uint8_t b[16];
    emulate_512 r;
    memcpy(b, &a, 16);
    EACH r.i32[i_] = b[i_];
    return r.i;
}
EMULATE simde__m512i emulate_cvtepu16_epi32(simde__m256i a)
{
    uint16_t b[16];
    emulate_512 r;
    memcpy(b, &a, 32);
    EACH r.i32[i_] = b[i_];
    return r.i;
}
EMULATE simde__m512 emulate_cvtph_ps(simde__m256i a)
{
    emulate_512 r;
    simde__m128i half[2];
    simde__m256 v;
    memcpy(half, &a, 32);
    for (int h = 0; h < 2; h++) {
        v = simde_mm256_cvtph_ps(half[h]);
        memcpy(r.f32 + 8 * h, &v, 32);
    }
    return r.f;
}
EMULATE void emulate_mask_storeu_ps(void *p, simde__mmask16 m, simde__m512 a)
{
    emulate_512 x = {.f = a};
    EACH if (m >> i_ & 1) memcpy((float *)p + i_, &x.f32[i_], 4);
}
EMULATE simde__m512 emulate_maskz_loadu_ps(simde__mmask16 m, const void *p)
{
    emulate_512 r;
    memset(&r, 0, sizeof(r));
    EACH if (m >> i_ & 1) memcpy(&r.f32[i_], (const float *)p + i_, 4);
    return r.f;
}
EMULATE simde__m512i emulate_maskz_loadu_epi16(uint32_t m, const void *p)
{
    emulate_512 r;
    memset(&r, 0, sizeof(r));
    for (int i = 0; i < 32; i++)
        if (m >> i & 1)
            memcpy((char *)&r + 2 * i, (const char *)p + 2 * i, 2);
    return r.i;
}
EMULATE int emulate_reduce_add_epi32(simde__m512i a)
{
    emulate_512 x = {.i = a};
    uint32_t s = 0;
    EACH s += x.u32[i_];
    return (int)s;
}
EMULATE float emulate_reduce_max_ps(simde__m512 a)
{
    emulate_512 x = {.f = a};
    float m = x.f32[0];
    EACH m = x.f32[i_] > m ? x.f32[i_] : m;
    return m;
}
EMULATE simde__m512i emulate_srai_epi32(simde__m512i a, unsigned n)
{
    emulate_512 x = {.i = a};
    EACH x.i32[i_] >>= n > 31 ? 31 : n;
    return x.i;
}
EMULATE simde__m512i emulate_madd_epi16(simde__m512i a, simde__m512i b)
{
    emulate_512 x = {.i = a}, y = {.i = b}, r;
    EACH r.u32[i_] = (uint32_t)(x.i16[2 * i_] * y.i16[2 * i_]) +
                     (uint32_t)(x.i16[2 * i_ + 1] * y.i16[2 * i_ + 1]);
    return r.i;
}
/* Round to nearest even, as the instruction: subnormals become zero, NaN quiet. */
EMULATE uint16_t emulate_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    if ((u & 0x7f800000) == 0)
        return (uint16_t)(u >> 16 & 0x8000);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
/* high half of the result: a, low half: b */
EMULATE simde__m512i emulate_cvtne2ps_pbh(simde__m512 a, simde__m512 b)
{
    emulate_512 x = {.f = a}, y = {.f = b}, r;
    EACH r.u16[i_] = emulate_bf16(y.f32[i_]);
    EACH r.u16[16 + i_] = emulate_bf16(x.f32[i_]);
    return r.i;
}
EMULATE simde__m256i emulate_cvtneps_pbh(simde__m512 a)
{
    emulate_512 x = {.f = a};
    uint16_t r[16];
    simde__m256i v;
    EACH r[i_] = emulate_bf16(x.f32[i_]);
    memcpy(&v, r, 32);
    return v;
}

EMULATE simde__m512i emulate_srai_epi16(simde__m512i a, unsigned n)
{
    emulate_512 x = {.i = a};
    for (int i = 0; i < 32; i++)
        x.i16[i] >>= n > 15 ? 15 : n;
    return x.i;
}
/* Half precision: products and differences of two halves are exact in double; subnormals count. */
EMULATE double emulate_of_half(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 31 ? (m ? (double)NAN : (double)INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}
EMULATE uint16_t emulate_half(double v)
{
    uint16_t sign = signbit(v) ? 0x8000 : 0;
    if (isnan(v))
        return 0x7e00;
    v = fabs(v);
    if (v >= 65520.0)
        return sign | 0x7c00;
    if (v < 0x1p-14)
        return sign | (uint16_t)rint(ldexp(v, 24));
    int e;
    double m = rint(ldexp(frexp(v, &e), 11)); /* 1024 .. 2048, which goes on in the exponent */
    return sign | (uint16_t)((e + 14) * 1024 + (int)m - 1024);
}
EMULATE simde__m512i emulate_sub_ph(simde__m512i a, simde__m512i b)
{
    emulate_512 x = {.i = a}, y = {.i = b};
    for (int i = 0; i < 32; i++)
        x.u16[i] = emulate_half(emulate_of_half(x.u16[i]) - emulate_of_half(y.u16[i]));
    return x.i;
}
EMULATE simde__m512i emulate_mul_ph(simde__m512i a, simde__m512i b)
{
    emulate_512 x = {.i = a}, y = {.i = b};
    for (int i = 0; i < 32; i++)
        x.u16[i] = emulate_half(emulate_of_half(x.u16[i]) * emulate_of_half(y.u16[i]));
    return x.i;
}
EMULATE simde__m256i emulate_cvtps_ph(simde__m512 a, int imm)
{
    emulate_512 x = {.f = a};
    uint16_t r[16];
    simde__m256i v;
    if (imm)
        __builtin_trap(); /* to nearest even is needed */
    EACH r[i_] = emulate_half((double)x.f32[i_]);
    memcpy(&v, r, 32);
    return v;
}

#undef _mm512_srai_epi16
#define _mm512_srai_epi16 emulate_srai_epi16
#undef _mm512_sub_ph
#define _mm512_sub_ph emulate_sub_ph
#undef _mm512_mul_ph
#define _mm512_mul_ph emulate_mul_ph
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph emulate_cvtps_ph
#define __m512h simde__m512i
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps emulate_cvtepi32_ps
#undef _mm512_cvtps_epi32
#define _mm512_cvtps_epi32 emulate_cvtps_epi32
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16 emulate_cvtepi32_epi16
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8 emulate_cvtepi32_epi8
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32 emulate_cvtepi8_epi32
#undef _mm512_cvtepu8_epi32
#define _mm512_cvtepu8_epi32 emulate_cvtepu8_epi32
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32 emulate_cvtepu16_epi32
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps emulate_cvtph_ps
#undef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps emulate_mask_storeu_ps
#undef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps emulate_maskz_loadu_ps
#undef _mm512_maskz_loadu_epi16
#define _mm512_maskz_loadu_epi16 emulate_maskz_loadu_epi16
#undef _mm512_reduce_add_epi32
#define _mm512_reduce_add_epi32 emulate_reduce_add_epi32
#undef _mm512_reduce_max_ps
#define _mm512_reduce_max_ps emulate_reduce_max_ps
#undef _mm512_srai_epi32
#define _mm512_srai_epi32 emulate_srai_epi32
#undef _mm512_madd_epi16 /* takes four arguments in 0.7.4 */
#define _mm512_madd_epi16 emulate_madd_epi16
/* Native vectors of bfloat16 do not exist without the flags; sources cast them to integers anyway. */
#undef _mm512_cvtne2ps_pbh
#define _mm512_cvtne2ps_pbh emulate_cvtne2ps_pbh
#undef _mm512_cvtneps_pbh
#define _mm512_cvtneps_pbh emulate_cvtneps_pbh
#define __m512bh simde__m512i
#define __m256bh simde__m256i

/* --- tiles ------------------------------------------------------------------------------------- */

struct emulate_tile {
    int rows, colsb;
    unsigned char b[16][64];
};
static __thread struct emulate_tile emulate_tiles[8];

EMULATE void emulate_loadconfig(const void *p)
{
    const unsigned char *c = p;
    if (c[0] != 1)
        __builtin_trap();
    for (int t = 0; t < 8; t++) {
        uint16_t colsb;
        memcpy(&colsb, c + 16 + 2 * t, 2);
        memset(&emulate_tiles[t], 0, sizeof(emulate_tiles[t]));
        emulate_tiles[t].rows = c[48 + t];
        emulate_tiles[t].colsb = colsb;
        if (colsb > 64 || c[48 + t] > 16)
            __builtin_trap();
    }
}
EMULATE void emulate_release(void)
{
    memset(emulate_tiles, 0, sizeof(emulate_tiles));
}
EMULATE void emulate_tile_load(int t, const void *base, long stride)
{
    struct emulate_tile *x = &emulate_tiles[t];
    if (!x->rows || !x->colsb)
        __builtin_trap();
    memset(x->b, 0, sizeof(x->b));
    for (int r = 0; r < x->rows; r++)
        memcpy(x->b[r], (const unsigned char *)base + r * stride, (size_t)x->colsb);
}
EMULATE void emulate_tile_store(int t, void *base, long stride)
{
    const struct emulate_tile *x = &emulate_tiles[t];
    if (!x->rows || !x->colsb)
        __builtin_trap();
    for (int r = 0; r < x->rows; r++)
        memcpy((unsigned char *)base + r * stride, x->b[r], (size_t)x->colsb);
}
EMULATE void emulate_tile_zero(int t)
{
    memset(emulate_tiles[t].b, 0, sizeof(emulate_tiles[t].b));
}
/* Shapes must fit each other, else the instruction faults. */
EMULATE void emulate_shapes(int d, int a, int b)
{
    const struct emulate_tile *x = emulate_tiles;
    if (d == a || d == b || a == b || !x[d].rows || x[d].rows != x[a].rows || x[d].colsb != x[b].colsb ||
        x[a].colsb / 4 != x[b].rows)
        __builtin_trap();
}
EMULATE void emulate_dpbssd(int d, int a, int b)
{
    emulate_shapes(d, a, b);
    struct emulate_tile *x = emulate_tiles;
    for (int m = 0; m < x[d].rows; m++)
        for (int n = 0; n < x[d].colsb / 4; n++) {
            int32_t c;
            memcpy(&c, x[d].b[m] + 4 * n, 4);
            for (int k = 0; k < x[a].colsb; k++) {
                c += (int8_t)x[a].b[m][k] * (int8_t)x[b].b[k / 4][4 * n + k % 4];
            }
            memcpy(x[d].b[m] + 4 * n, &c, 4);
        }
}
EMULATE float emulate_of_bf16(const unsigned char *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    uint32_t u = (h & 0x7f80) ? (uint32_t)h << 16 : (uint32_t)(h & 0x8000) << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
EMULATE float emulate_flush(float f)
{
    return fabsf(f) < 0x1p-126f ? 0.0f * f : f;
}
EMULATE void emulate_dpbf16(int d, int a, int b)
{
    emulate_shapes(d, a, b);
    struct emulate_tile *x = emulate_tiles;
    for (int m = 0; m < x[d].rows; m++)
        for (int n = 0; n < x[d].colsb / 4; n++) {
            float even = 0, odd = 0, c;
            for (int k = 0; k < x[a].colsb / 4; k++) {
                even = emulate_flush(fmaf(emulate_of_bf16(x[a].b[m] + 4 * k),
                                          emulate_of_bf16(x[b].b[k] + 4 * n), even));
                odd = emulate_flush(fmaf(emulate_of_bf16(x[a].b[m] + 4 * k + 2),
                                         emulate_of_bf16(x[b].b[k] + 4 * n + 2), odd));
            }
            memcpy(&c, x[d].b[m] + 4 * n, 4);
            c = emulate_flush(emulate_flush(even + odd) + emulate_flush(c));
            memcpy(x[d].b[m] + 4 * n, &c, 4);
        }
}

EMULATE simde__m512 emulate_dpbf16_ps(simde__m512 sum, simde__m512i a, simde__m512i b)
{
    emulate_512 s = {.f = sum}, x = {.i = a}, y = {.i = b};
    const unsigned char *p = (const unsigned char *)&x, *q = (const unsigned char *)&y;
    EACH {
        float odd = emulate_flush(fmaf(emulate_of_bf16(p + 4 * i_ + 2), emulate_of_bf16(q + 4 * i_ + 2),
                                       emulate_flush(s.f32[i_])));
        s.f32[i_] = emulate_flush(fmaf(emulate_of_bf16(p + 4 * i_), emulate_of_bf16(q + 4 * i_), odd));
    }
    return s.f;
}
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps emulate_dpbf16_ps

EMULATE simde__m512i emulate_maskz_permutexvar_epi8(uint64_t m, simde__m512i index, simde__m512i a)
{
    emulate_512 x = {.i = index}, y = {.i = a}, r;
    for (int i = 0; i < 64; i++)
        r.i8[i] = m >> i & 1 ? y.i8[x.i8[i] & 63] : 0;
    return r.i;
}
#undef _mm512_maskz_permutexvar_epi8
#define _mm512_maskz_permutexvar_epi8 emulate_maskz_permutexvar_epi8

#undef _tile_loadconfig
#define _tile_loadconfig emulate_loadconfig
#undef _tile_release
#define _tile_release emulate_release
#undef _tile_loadd
#define _tile_loadd(t, p, s) emulate_tile_load(t, p, (long)(s))
#undef _tile_stream_loadd
#define _tile_stream_loadd(t, p, s) emulate_tile_load(t, p, (long)(s))
#undef _tile_stored
#define _tile_stored(t, p, s) emulate_tile_store(t, p, (long)(s))
#undef _tile_zero
#define _tile_zero(t) emulate_tile_zero(t)
#undef _tile_dpbssd
#define _tile_dpbssd(d, a, b) emulate_dpbssd(d, a, b)
#undef _tile_dpbf16ps
#define _tile_dpbf16ps(d, a, b) emulate_dpbf16(d, a, b)

#ifndef __AVX512F__
#define __AVX512F__ 1
#endif

#endif
