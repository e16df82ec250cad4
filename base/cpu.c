/* base/cpu.c - which instruction sets may be used: the CPU must have them (CPUID), the system must
 * save their registers (XGETBV), and for AMX Linux must have granted tile data to the process. */
#include "config.h"

#include "base/cpu.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18
#define XCR0_YMM 0x06u
#define XCR0_ZMM 0xe6u
#define XCR0_TILES 0x60000u

static unsigned long long xcr0(void)
{
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((unsigned long long)hi << 32) | lo;
}

struct leaves {
    unsigned c1, b7, c7, d7, a71;
    unsigned long long xcr0;
};

static int read_leaves(struct leaves *l)
{
    unsigned a, b, c, d;
    memset(l, 0, sizeof(*l));
    if (!__get_cpuid(1, &a, &b, &l->c1, &d) || !(l->c1 & bit_OSXSAVE))
        return 0;
    l->xcr0 = xcr0();
    if (!__get_cpuid_count(7, 0, &a, &l->b7, &l->c7, &l->d7))
        return 0;
    if (a >= 1)
        __get_cpuid_count(7, 1, &l->a71, &b, &c, &d);
    return 1;
}

static int has(unsigned reg, int bit)
{
    return (int)(reg >> bit & 1);
}

enum cpu_level cpu_detect(void)
{
    struct leaves l;
    if (!read_leaves(&l))
        return CPU_GENERIC;
    int avx2 = (l.xcr0 & XCR0_YMM) == XCR0_YMM && has(l.c1, 12) /* FMA */ &&
               has(l.c1, 29) /* F16C */ && has(l.b7, 5) && has(l.b7, 8) /* BMI2 */;
    int avx512 = avx2 && (l.xcr0 & XCR0_ZMM) == XCR0_ZMM && has(l.b7, 16) /* F */ &&
                 has(l.b7, 17) /* DQ */ && has(l.b7, 30) /* BW */ && has(l.b7, 31) /* VL */ &&
                 has(l.c7, 11) /* VNNI */;
    int amx = avx512 && has(l.c7, 1) /* VBMI */ && has(l.a71, 5) /* BF16 */ &&
              (l.xcr0 & XCR0_TILES) == XCR0_TILES && has(l.d7, 24) /* tile */ && has(l.d7, 25) /* int8 */ &&
              has(l.d7, 22) /* bf16 */ && has(l.d7, 23) /* AVX512-FP16 */;
    if (amx && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0)
        return CPU_AMX;
    return avx512 ? CPU_AVX512 : avx2 ? CPU_AVX2 : CPU_GENERIC;
}

int cpu_has_avx512_bf16(void)
{
    struct leaves l;
    return cpu_detect() >= CPU_AVX512 && read_leaves(&l) && has(l.a71, 5) && has(l.c7, 1) /* VBMI */;
}

int cpu_prefers_avx512_bf16(void)
{
    unsigned a, b, c, d;
    return cpu_has_avx512_bf16() && __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx &&
           c == signature_AMD_ecx && d == signature_AMD_edx;
}

const char *cpu_brand(void)
{
    static _Thread_local char brand[49];
    unsigned *r = (unsigned *)brand, max = __get_cpuid_max(0x80000000, NULL);
    if (max < 0x80000004)
        return "x86-64";
    for (unsigned i = 0; i < 3; i++)
        __get_cpuid(0x80000002 + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]);
    const char *s = brand;
    while (*s == ' ')
        s++;
    for (size_t n = strlen(brand); n > 0 && brand[n - 1] == ' '; n--)
        brand[n - 1] = 0;
    return s;
}
#else
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

enum cpu_level cpu_detect(void)
{
#if defined(__aarch64__)
    if (getauxval(AT_HWCAP) & (1ul << 20)) /* HWCAP_ASIMDDP */
        return CPU_NEON;
#endif
    return CPU_GENERIC;
}

int cpu_has_avx512_bf16(void)
{
    return 0;
}

int cpu_prefers_avx512_bf16(void)
{
    return 0;
}

const char *cpu_brand(void)
{
    return "unknown";
}
#endif

static const char *const names[CPU_LEVEL_MAX] = {"generic", "avx2", "avx512", "amx", "neon"};

int cpu_level_available(enum cpu_level level)
{
    enum cpu_level best = cpu_detect();
    if (level == CPU_NEON || best == CPU_NEON)
        return level == best || level == CPU_GENERIC;
    return level <= best;
}

const char *cpu_level_name(enum cpu_level level)
{
    return level < CPU_LEVEL_MAX ? names[level] : "unknown";
}

int cpu_level_parse(const char *s)
{
    for (int i = 0; i < CPU_LEVEL_MAX; i++)
        if (!strcmp(s, names[i]))
            return i;
    return -1;
}
