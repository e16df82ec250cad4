/* tests/kernels/bench.c - how fast each kernel is at each level: one table, for people. A kernel
 * added to kern.def without a line here does not compile. */
#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/kernels/kern.h"
#include "tests/kernels/values.h"

enum { N_OUT = 512, N_IN = 2048, ROWS = 64, DK = 576, DV = 512, GROUPS = 1 };

static struct {
    void *w, *act, *rows;
    float *x, *y, *scratch, *q, *m, *l, *acc, *m2, *l2, *acc2;
    int32_t limit[GROUPS * KERN_LANES];
} d;

static void *aligned(size_t n_bytes)
{
    void *p = aligned_alloc(64, (n_bytes + 63) & ~(size_t)63);
    if (!p)
        abort();
    float *f = p;
    for (size_t i = 0; i < n_bytes / 4; i++)
        f[i] = values_uniform();
    return p;
}

static void product(const struct kernels *k, enum tensor_type type)
{
    const void *x = type == TT_Q8_0 ? d.act : d.x;
    void (*f)(const void *, int, int, int, int, const void *const *, float *const *, int) =
        type == TT_F32 ? k->mul_f32 : type == TT_F16 ? k->mul_f16 : type == TT_BF16 ? k->mul_bf16
                                                                                    : k->mul_q8_0;
    f(d.w, N_OUT, N_IN, 0, N_OUT / KERN_LANES, &x, &d.y, 1);
}

static void time_mul_f32(const struct kernels *k)
{
    product(k, TT_F32);
}

static void time_mul_f16(const struct kernels *k)
{
    product(k, TT_F16);
}

static void time_mul_bf16(const struct kernels *k)
{
    product(k, TT_BF16);
}

static void time_mul_q8_0(const struct kernels *k)
{
    product(k, TT_Q8_0);
}

static void time_act_q8(const struct kernels *k)
{
    k->act_q8(d.x, N_IN, d.act);
}

static void time_attn_block(const struct kernels *k)
{
    struct attn_block b = {
        .rows = d.rows, .row_bytes = DK * 2, .row_type = TT_BF16, .n_rows = ROWS, .dk = DK, .dv = DV,
        .n_groups = GROUPS, .q = d.q, .limit = d.limit, .m = d.m, .l = d.l, .acc = d.acc,
        .scratch = d.scratch,
    };
    k->attn_block(&b);
}

static void time_attn_merge(const struct kernels *k)
{
    k->attn_merge(GROUPS, DV, d.m, d.l, d.acc, d.m2, d.l2, d.acc2);
}

static void time_rms_norm(const struct kernels *k)
{
    k->rms_norm(d.x, d.scratch, N_IN, 1e-6f, d.y);
}

static void time_silu_mul(const struct kernels *k)
{
    k->silu_mul(d.x, d.scratch, N_IN, d.y);
}

static void time_axpy(const struct kernels *k)
{
    k->axpy(0.5f, d.x, N_IN, d.y);
}

static void time_f32_to_bf16(const struct kernels *k)
{
    k->f32_to_bf16(d.x, N_IN, d.y);
}

static void time_max_logsumexp(const struct kernels *k)
{
    float max, lse;
    k->max_logsumexp(d.x, N_IN, &max, &lse);
}

static void time_index_scores(const struct kernels *k)
{
    struct index_block b = {
        .rows = d.rows, .row_bytes = DK * 2, .row_type = TT_BF16, .n_rows = ROWS, .dim = 128,
        .n_groups = 4, .q = d.q, .w = d.x, .scores = d.y, .scratch = d.scratch,
    };
    k->index_scores(&b);
}

static double microseconds(void (*f)(const struct kernels *), const struct kernels *k)
{
    double best = INFINITY;
    f(k);
    for (int round = 0; round < 5; round++) {
        int64_t start = clock_now_ns(), now = start;
        int n = 0;
        for (; now - start < 20 * NS_PER_MS; n++, now = clock_now_ns())
            f(k);
        best = fmin(best, (double)(now - start) / 1000.0 / n);
    }
    return best;
}

int bench_kernels(void)
{
    static const struct {
        const char *name;
        void (*time)(const struct kernels *);
    } rows[] = {
#define KERN(name, ret, args, check_class) {#name, time_##name},
#include "engine/kernels/kern.def"
#undef KERN
    };
    d.w = aligned((size_t)N_OUT * N_IN * 4);
    d.act = aligned(kern_act_bytes(TT_F32, N_IN));
    d.rows = aligned((size_t)ROWS * DK * 2);
    d.x = aligned(N_IN * 4);
    d.y = aligned(N_IN * 4);
    d.scratch = aligned(kern_attn_scratch_floats(DK, ROWS) * 4);
    d.q = aligned((size_t)GROUPS * KERN_LANES * DK * 4);
    d.m = aligned(GROUPS * 64);
    d.l = aligned(GROUPS * 64);
    d.acc = aligned((size_t)GROUPS * DV * 64);
    d.m2 = aligned(GROUPS * 64);
    d.l2 = aligned(GROUPS * 64);
    d.acc2 = aligned((size_t)GROUPS * DV * 64);
    for (int i = 0; i < GROUPS * KERN_LANES; i++)
        d.limit[i] = ROWS;
    for (size_t i = 0; i < (size_t)ROWS * DK; i++)
        ((uint16_t *)d.rows)[i] = (uint16_t)(0x3c00 + i % 64);
    printf("%s. Microseconds a call, best of five; products %d x %d, one row; attention %d rows of %d\n",
           cpu_brand(), N_OUT, N_IN, ROWS, DK);
    printf("%-15s", "kernel");
    for (int l = 0; l < CPU_LEVEL_MAX; l++)
        if (kern_level_built((enum cpu_level)l))
            printf("%12s", cpu_level_name((enum cpu_level)l));
    printf("\n");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        printf("%-15s", rows[i].name);
        for (int l = 0; l < CPU_LEVEL_MAX; l++)
            if (kern_level_built((enum cpu_level)l))
                printf("%12.3f", microseconds(rows[i].time, kern_table((enum cpu_level)l)));
        printf("\n");
        fflush(stdout);
    }
    free(d.w), free(d.act), free(d.rows), free(d.x), free(d.y), free(d.scratch), free(d.q);
    free(d.m), free(d.l), free(d.acc), free(d.m2), free(d.l2), free(d.acc2);
    return 0;
}
