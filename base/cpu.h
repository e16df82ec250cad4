/* base/cpu.h - instruction-set levels. Each level includes those below it on the same machine type.
 * Detection asks CPUID and XGETBV, and the kernel for AMX tile permission. */
#ifndef LATENT_BASE_CPU_H
#define LATENT_BASE_CPU_H

enum cpu_level {
    CPU_GENERIC = 0, /* plain C, the definition */
    CPU_AVX2,        /* AVX2, FMA, F16C, BMI2 */
    CPU_AVX512,      /* F, BW, DQ, VL, VNNI; BF16 is a separate question: cpu_has_avx512_bf16 */
    CPU_AMX,         /* CPU_AVX512 plus tile, int8, bf16 */
    CPU_NEON,        /* aarch64 with dotprod */
    CPU_LEVEL_MAX,
};

enum cpu_level cpu_detect(void);                 /* the highest level of this machine */
int cpu_level_available(enum cpu_level level);   /* 1 when this machine can run it */
int cpu_has_avx512_bf16(void);
/* 1 when vdpbf16ps does more products than float32's do: AMD's does twice as many, Intel's half. */
int cpu_prefers_avx512_bf16(void);
const char *cpu_level_name(enum cpu_level level);
/* Level named by s ("generic", "avx2", ...), or -1. */
int cpu_level_parse(const char *s);
/* Brand string of the processor, for reports. */
const char *cpu_brand(void);

#endif
