/* engine/kernels/kern.c - which table a level gets. A level takes what its own library has and the
 * rest from the level below; a level that build or machine lack is lowered. */
#include "config.h"

#include "engine/kernels/kern.h"

#include <pthread.h>

#include "engine/kernels/kern_internal.h"

static struct kernels tables[CPU_LEVEL_MAX];
static enum cpu_level lowered[CPU_LEVEL_MAX];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void build_tables(void)
{
    struct kernels t;
    enum cpu_level have = CPU_GENERIC;
    kern__init_generic(&t);
    for (int level = 0; level < CPU_LEVEL_MAX; level++) {
        /* An x86 machine never reaches NEON, nor the reverse: unavailable levels add nothing. */
#ifdef HAVE_SIMD_AVX2
        if (level == CPU_AVX2 && cpu_level_available(CPU_AVX2)) {
            kern__init_avx2(&t);
            have = CPU_AVX2;
        }
#endif
#ifdef HAVE_SIMD_AVX512
        if (level == CPU_AVX512 && cpu_level_available(CPU_AVX512)) {
            kern__init_avx512(&t);
#ifdef HAVE_SIMD_AVX512_BF16
            if (cpu_prefers_avx512_bf16())
                kern__init_avx512_attention(&t);
#endif
            have = CPU_AVX512;
        }
#endif
#ifdef HAVE_SIMD_AMX
        if (level == CPU_AMX && have == CPU_AVX512 && cpu_level_available(CPU_AMX)) {
            kern__init_amx_products(&t);
            kern__init_amx_attention(&t);
            kern__init_amx_index(&t);
            have = CPU_AMX;
        }
#endif
#ifdef HAVE_SIMD_NEON
        if (level == CPU_NEON && cpu_level_available(CPU_NEON)) {
            kern__init_neon(&t);
            have = CPU_NEON;
        }
#endif
        t.level = have;
        tables[level] = t;
        lowered[level] = have;
    }
}

const struct kernels *kern_table(enum cpu_level level)
{
    pthread_once(&once, build_tables);
    return &tables[level < CPU_LEVEL_MAX ? level : CPU_GENERIC];
}

int kern_level_built(enum cpu_level level)
{
    pthread_once(&once, build_tables);
    return level < CPU_LEVEL_MAX && lowered[level] == level;
}

kern_mul_fn *kern_mul(const struct kernels *k, enum tensor_type type)
{
    switch ((int)type) {
#define KERN(name, ret, args, check_class)
#define KERN_MUL(name, type) case type: return k->name;
#include "engine/kernels/kern.def"
#undef KERN
    default: return NULL;
    }
}

int kern_weight_type_ok(enum tensor_type type)
{
    return kern_mul(kern_table(CPU_GENERIC), type) != NULL;
}
