/* tools/peak.c - see peak.h. Each function is compiled for its own instruction set; peak_mul and
 * peak_read are asked only for levels that the machine has.
 *
 * A loop keeps as many independent sums as hide the latency of the instruction. KEEP makes an operand
 * new in each turn, so that the compiler cannot take a product out of the loop, and each sum one of its
 * own: sums that begin alike and take the same products are one to a compiler. */
#include "config.h"

#include "tools/peak.h"

/* Sums live in registers only when every loop over them is unrolled. */
#define UNROLL _Pragma("GCC unroll 16")
#define KEEP(reg, v) __asm__ volatile("" : "+" reg(v))

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vnni")))
#define AVX512_BF16 __attribute__((target("avx512f,avx512bf16")))
#define TILES __attribute__((target("amx-tile,amx-int8,amx-bf16")))

enum { SUMS_AVX2 = 10, SUMS_AVX512 = 16 };

/* maddubs multiplies 32 pairs and adds neighbours; sums of 16 bits are added without being widened, which
 * no exact product can do for long: nothing faster exists. */
AVX2 static int64_t avx2_i8(int64_t turns)
{
    __m256i s[8], a[4], b[2];
    UNROLL
    for (int i = 0; i < 8; i++) {
        s[i] = _mm256_setzero_si256();
        KEEP("x", s[i]);
    }
    UNROLL
    for (int i = 0; i < 4; i++)
        a[i] = _mm256_set1_epi8((char)(i + 1));
    b[0] = b[1] = a[0];
    for (int64_t t = 0; t < turns; t++) {
        KEEP("x", b[0]);
        KEEP("x", b[1]);
        UNROLL
        for (int i = 0; i < 8; i++)
            s[i] = _mm256_add_epi16(s[i], _mm256_maddubs_epi16(a[i / 2], b[i % 2]));
    }
    UNROLL
    for (int i = 0; i < 8; i++)
        KEEP("x", s[i]);
    return turns * 8 * 32;
}

AVX2 static int64_t avx2_f32(int64_t turns)
{
    __m256 s[SUMS_AVX2], a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
    UNROLL
    for (int i = 0; i < SUMS_AVX2; i++) {
        s[i] = _mm256_setzero_ps();
        KEEP("x", s[i]);
    }
    for (int64_t t = 0; t < turns; t++) {
        KEEP("x", b);
        UNROLL
        for (int i = 0; i < SUMS_AVX2; i++)
            s[i] = _mm256_fmadd_ps(a, b, s[i]);
    }
    UNROLL
    for (int i = 0; i < SUMS_AVX2; i++)
        KEEP("x", s[i]);
    return turns * SUMS_AVX2 * 8;
}

AVX512 static int64_t avx512_i8(int64_t turns)
{
    __m512i s[SUMS_AVX512], a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(1);
    UNROLL
    for (int i = 0; i < SUMS_AVX512; i++) {
        s[i] = _mm512_setzero_si512();
        KEEP("v", s[i]);
    }
    for (int64_t t = 0; t < turns; t++) {
        KEEP("v", b);
        UNROLL
        for (int i = 0; i < SUMS_AVX512; i++)
            s[i] = _mm512_dpbusd_epi32(s[i], a, b);
    }
    UNROLL
    for (int i = 0; i < SUMS_AVX512; i++)
        KEEP("v", s[i]);
    return turns * SUMS_AVX512 * 64;
}

AVX512 static int64_t avx512_f32(int64_t turns)
{
    __m512 s[SUMS_AVX512], a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
    UNROLL
    for (int i = 0; i < SUMS_AVX512; i++) {
        s[i] = _mm512_setzero_ps();
        KEEP("v", s[i]);
    }
    for (int64_t t = 0; t < turns; t++) {
        KEEP("v", b);
        UNROLL
        for (int i = 0; i < SUMS_AVX512; i++)
            s[i] = _mm512_fmadd_ps(a, b, s[i]);
    }
    UNROLL
    for (int i = 0; i < SUMS_AVX512; i++)
        KEEP("v", s[i]);
    return turns * SUMS_AVX512 * 16;
}

AVX512_BF16 static int64_t avx512_bf16(int64_t turns)
{
    __m512 s[SUMS_AVX512];
    __m512i one = _mm512_set1_epi32(0x3f803f80), bits = one; /* pairs of 1.0 */
    UNROLL
    for (int i = 0; i < SUMS_AVX512; i++) {
        s[i] = _mm512_setzero_ps();
        KEEP("v", s[i]);
    }
    for (int64_t t = 0; t < turns; t++) {
        KEEP("v", bits);
        UNROLL
        for (int i = 0; i < SUMS_AVX512; i++)
            s[i] = _mm512_dpbf16_ps(s[i], (__m512bh)one, (__m512bh)bits);
    }
    UNROLL
    for (int i = 0; i < SUMS_AVX512; i++)
        KEEP("v", s[i]);
    return turns * SUMS_AVX512 * 32;
}

/* Tiles 0 to 3 are sums, 4 and 5 left operands, 6 and 7 right ones: 16 rows of 64 bytes each. */
TILES static void tiles_on(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t colsb[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.colsb[i] = 64;
        config.rows[i] = 16;
    }
    __asm__ volatile("" : : "r"(&config) : "memory"); /* the intrinsic names only its first bytes */
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
}

TILES static int64_t amx_i8(int64_t turns)
{
    tiles_on();
    for (int64_t t = 0; t < turns; t++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_release();
    return turns * 4 * 16 * 16 * 64;
}

TILES static int64_t amx_bf16(int64_t turns)
{
    tiles_on();
    for (int64_t t = 0; t < turns; t++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return turns * 4 * 16 * 16 * 32;
}

peak_mul_fn *peak_mul(enum cpu_level level, enum peak_unit unit)
{
    switch (level) {
    case CPU_AVX2: return unit == PEAK_I8 ? avx2_i8 : unit == PEAK_F32 ? avx2_f32 : NULL;
    case CPU_AVX512:
        if (unit == PEAK_BF16)
            return cpu_has_avx512_bf16() ? avx512_bf16 : NULL;
        return unit == PEAK_I8 ? avx512_i8 : avx512_f32;
    case CPU_AMX: return unit == PEAK_I8 ? amx_i8 : unit == PEAK_F32 ? avx512_f32 : amx_bf16;
    default: return NULL;
    }
}

AVX2 static uint64_t avx2_read(const void *p, size_t n_bytes, size_t ahead)
{
    const char *c = p;
    __m256i s[8];
    UNROLL
    for (int i = 0; i < 8; i++)
        s[i] = _mm256_setzero_si256();
    for (size_t at = 0; at < n_bytes; at += 256) {
        for (size_t i = 0; ahead && i < 256; i += 64)
            _mm_prefetch(c + at + ahead + i, _MM_HINT_T0);
        UNROLL
        for (size_t i = 0; i < 8; i++)
            s[i] = _mm256_or_si256(s[i], _mm256_load_si256((const __m256i *)(const void *)(c + at) + i));
    }
    UNROLL
    for (int i = 1; i < 8; i++)
        s[0] = _mm256_or_si256(s[0], s[i]);
    return (uint64_t)_mm256_extract_epi64(s[0], 0);
}

AVX512 static uint64_t avx512_read(const void *p, size_t n_bytes, size_t ahead)
{
    const char *c = p;
    __m512i s[8];
    UNROLL
    for (int i = 0; i < 8; i++)
        s[i] = _mm512_setzero_si512();
    for (size_t at = 0; at < n_bytes; at += 512) {
        for (size_t i = 0; ahead && i < 512; i += 64)
            _mm_prefetch(c + at + ahead + i, _MM_HINT_T0);
        UNROLL
        for (size_t i = 0; i < 8; i++)
            s[i] = _mm512_or_si512(s[i], _mm512_load_si512(c + at + 64 * i));
    }
    UNROLL
    for (int i = 1; i < 8; i++)
        s[0] = _mm512_or_si512(s[0], s[i]);
    return (uint64_t)_mm_cvtsi128_si64(_mm512_castsi512_si128(s[0]));
}

#elif defined(__aarch64__)
#include <arm_neon.h>

enum { SUMS_NEON = 16 };

__attribute__((target("arch=armv8.2-a+dotprod"))) static int64_t neon_i8(int64_t turns)
{
    int32x4_t s[SUMS_NEON];
    int8x16_t a = vdupq_n_s8(1), b = a;
    UNROLL
    for (int i = 0; i < SUMS_NEON; i++) {
        s[i] = vdupq_n_s32(0);
        KEEP("w", s[i]);
    }
    for (int64_t t = 0; t < turns; t++) {
        KEEP("w", b);
        UNROLL
        for (int i = 0; i < SUMS_NEON; i++)
            s[i] = vdotq_s32(s[i], a, b);
    }
    UNROLL
    for (int i = 0; i < SUMS_NEON; i++)
        KEEP("w", s[i]);
    return turns * SUMS_NEON * 16;
}

static int64_t neon_f32(int64_t turns)
{
    float32x4_t s[SUMS_NEON], a = vdupq_n_f32(0.5f), b = a;
    UNROLL
    for (int i = 0; i < SUMS_NEON; i++) {
        s[i] = vdupq_n_f32(0);
        KEEP("w", s[i]);
    }
    for (int64_t t = 0; t < turns; t++) {
        KEEP("w", b);
        UNROLL
        for (int i = 0; i < SUMS_NEON; i++)
            s[i] = vfmaq_f32(s[i], a, b);
    }
    UNROLL
    for (int i = 0; i < SUMS_NEON; i++)
        KEEP("w", s[i]);
    return turns * SUMS_NEON * 4;
}

peak_mul_fn *peak_mul(enum cpu_level level, enum peak_unit unit)
{
    if (level != CPU_NEON)
        return NULL;
    return unit == PEAK_I8 ? neon_i8 : unit == PEAK_F32 ? neon_f32 : NULL;
}

#else
peak_mul_fn *peak_mul(enum cpu_level level, enum peak_unit unit)
{
    (void)level;
    (void)unit;
    return NULL;
}
#endif

static uint64_t plain_read(const void *p, size_t n_bytes, size_t ahead)
{
    const uint64_t *q = p;
    uint64_t s[16] = {0};
    for (size_t at = 0; at < n_bytes / 8; at += 16) {
        if (ahead) {
            __builtin_prefetch((const char *)(q + at) + ahead);
            __builtin_prefetch((const char *)(q + at) + ahead + 64);
        }
        for (size_t i = 0; i < 16; i++)
            s[i] |= q[at + i];
    }
    UNROLL
    for (int i = 1; i < 16; i++)
        s[0] |= s[i];
    return s[0];
}

peak_read_fn *peak_read(enum cpu_level level)
{
#if defined(__x86_64__)
    if (level == CPU_AVX2)
        return avx2_read;
    if (level == CPU_AVX512 || level == CPU_AMX)
        return avx512_read;
#endif
    (void)level;
    return plain_read;
}
