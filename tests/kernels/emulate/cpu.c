/* tests/kernels/emulate/cpu.c - stands in for base/cpu.c where levels are emulated: all of them can run. */
#include "config.h"

#include "base/cpu.h"

#include <stdlib.h>
#include <string.h>

static const char *const names[CPU_LEVEL_MAX] = {"generic", "avx2", "avx512", "amx", "neon"};

enum cpu_level cpu_detect(void)
{
    return CPU_AMX;
}

int cpu_level_available(enum cpu_level level)
{
    return level != CPU_NEON;
}

int cpu_has_avx512_bf16(void)
{
    return 1;
}

/* Without it the level avx512 has its float32 attention. */
int cpu_prefers_avx512_bf16(void)
{
    return !getenv("EMULATE_FLOAT32");
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

const char *cpu_brand(void)
{
    return "emulated";
}
