/* tests/kernels/bench.c - how fast each kernel is at each level: one table, for people. A kernel
 * added to kern.def without a line here does not compile. */
#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/kernels/kern.h"
#include "tests/kernels/values.h"

enum { N_IN = 2048, ROWS = 64, DK = 576, DV = 512, GROUPS = 1 };

static struct {
    void *act, *rows, *packed, *piece;
    float *x, *y, *scratch, *q, *m, *l, *acc, *m2, *l2, *acc2;
    int32_t limit[GROUPS * KERN_LANES], places[N_IN];
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

static struct attn_piece piece_of(enum tensor_type type)
{
    static const unsigned char *pages[1];
    pages[0] = d.rows;
    return (struct attn_piece){
        .pages = pages, .page_tokens = ROWS, .n_rows = ROWS,
        .format = {type, DK, DK - DV, kern_row_bytes(type, DK, DK - DV)}, .dk = DK, .dv = DV,
        .n_groups = GROUPS, .q = d.packed, .limit = d.limit, .m = d.m2, .l = d.l2, .o = d.acc2,
        .o_stride = DV, .scratch = d.piece,
    };
}

static void time_attn_pack(const struct kernels *k)
{
    const float *q[KERN_LANES];
    for (int i = 0; i < KERN_LANES; i++)
        q[i] = d.q + i * DK;
    k->attn_pack(q, DK, 0.1f, d.packed);
}

static void time_attn_piece(const struct kernels *k)
{
    struct attn_piece p = piece_of(TT_BF16);
    time_attn_pack(k);
    k->attn_piece(&p);
}

static void time_attn_fold(const struct kernels *k)
{
    k->attn_fold(DV, d.m, d.l, d.acc, d.m2[0], d.l2[0], d.acc2);
}

static void time_row_store(const struct kernels *k)
{
    struct row_format f = {TT_I8, DK, DK - DV, kern_row_bytes(TT_I8, DK, DK - DV)};
    k->row_store(&f, d.q, d.packed);
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

static void time_lane_max(const struct kernels *k)
{
    k->lane_max(d.x, N_IN, d.y);
}

static void time_collect(const struct kernels *k)
{
    k->collect(d.x, N_IN, 0.9f, INFINITY, d.places);
}

static void time_soft_weights(const struct kernels *k)
{
    k->soft_weights(d.x, N_IN, 1.0f, 1.0f, d.y);
}

static void time_sum_from(const struct kernels *k)
{
    int count;
    d.y[0] = k->sum_from(d.x, N_IN, 0.5f, &count);
}

static void time_rotate(const struct kernels *k)
{
    k->rotate(d.x, d.scratch, 32, 1, d.y);
}

static void time_index_scores(const struct kernels *k)
{
    struct index_block b = {
        .rows = d.rows, .row_bytes = DK * 2, .row_type = TT_BF16, .n_rows = ROWS, .dim = 128,
        .n_groups = 4, .q = d.q, .w = d.x, .scores = d.y, .scratch = d.scratch,
    };
    k->index_scores(&b);
}

/* Best of many short rounds: what the machine does when nobody disturbs. */
static double microseconds(void (*f)(const struct kernels *), const struct kernels *k)
{
    double best = INFINITY;
    int64_t end = clock_now_ns() + 150 * NS_PER_MS;
    f(k);
    for (int round = 0; round < 3 || clock_now_ns() < end; round++) {
        int64_t start = clock_now_ns(), now = start;
        int n = 0;
        for (; now - start < NS_PER_MS / 20; n++, now = clock_now_ns())
            f(k);
        best = fmin(best, (double)(now - start) / 1000.0 / n);
    }
    return best;
}

/* --- products ---------------------------------------------------------------------------------- */

enum { P_IN = 2048, P_ROWS = 32, P_NEAR = 256, P_FAR_BYTES = 96 << 20 };

static struct {
    kern_mul_fn *mul;
    unsigned char *w, *file;
    size_t w_bytes, row_bytes;
    const struct format *format;
    int n_out, m;
    const void *x[P_ROWS];
    float *y[P_ROWS];
} p;

static void time_product(const struct kernels *k)
{
    (void)k;
    p.mul(p.w, p.n_out, P_IN, 0, p.n_out / KERN_LANES, p.x, p.y, p.m);
}

static void time_pack(const struct kernels *k)
{
    struct kern_source src = {.rows = p.file, .row_bytes = p.row_bytes};
    (void)k;
    kern_pack(p.format->type, &src, p.n_out, P_IN, 0, p.n_out / KERN_LANES, p.w);
}

static void time_read(const struct kernels *k)
{
    const uint64_t *q = (const uint64_t *)(const void *)p.w;
    uint64_t sum[8] = {0};
    (void)k;
    for (size_t i = 0; i + 8 <= p.w_bytes / 8; i += 8)
        for (int j = 0; j < 8; j++)
            sum[j] += q[i + (size_t)j];
    for (int j = 1; j < 8; j++)
        sum[0] ^= sum[j];
    *(volatile uint64_t *)(void *)p.y[0] = sum[0];
}

static void one_type(const struct format *f, enum cpu_level l)
{
    const struct kernels *k = kern_table(l);
    size_t group = kern_group_bytes(f->type, P_IN);
    int far = (int)(P_FAR_BYTES / group) * KERN_LANES;
    double t[4];
    p.format = f;
    p.mul = kern_mul(k, f->type);
    p.row_bytes = (size_t)(P_IN / f->elems) * (size_t)f->n_bytes;
    p.n_out = far;
    values_blocks(p.file, f, KERN_LANES * (P_IN / f->elems));
    for (int r = KERN_LANES; r < far; r += KERN_LANES) /* random enough: nothing depends on values */
        memcpy(p.file + (size_t)r * p.row_bytes, p.file, KERN_LANES * p.row_bytes);
    for (int i = 0; i < P_ROWS; i++) {
        p.x[i] = d.x;
        if (kern_act_is_q8(f->type))
            k->act_q8(d.x, P_IN, d.act), p.x[i] = d.act;
    }
    double pack = microseconds(time_pack, k);
    p.m = 1;
    t[0] = microseconds(time_product, k);
    p.n_out = P_NEAR;
    t[1] = microseconds(time_product, k);
    p.m = 8;
    t[2] = microseconds(time_product, k);
    p.m = 32;
    t[3] = microseconds(time_product, k);
    double near_macs = (double)P_NEAR * P_IN / 1000;
    printf("%-8s %-8s %6.1f %9.1f %9.1f %10.1f %10.1f %10.1f\n", f->name, cpu_level_name(l),
           (double)group * 8 / 16 / P_IN, (double)(far / KERN_LANES) * (double)group / t[0] / 1000,
           (double)(P_NEAR / KERN_LANES) * (double)group / t[1] / 1000, 8 * near_macs / t[2],
           32 * near_macs / t[3], (double)far * (double)p.row_bytes / pack / 1000);
    fflush(stdout);
}

static void bench_products(const char *only)
{
    int most = P_FAR_BYTES / P_IN * 8;
    p.w_bytes = P_FAR_BYTES;
    p.w = aligned(p.w_bytes);
    p.file = aligned((size_t)P_FAR_BYTES + 4096);
    for (int i = 0; i < P_ROWS; i++)
        p.y[i] = aligned((size_t)most * 4);
    printf("\nProducts, one core, %d values a row; memory reads at %.1f GB/s\n", P_IN,
           (double)p.w_bytes / microseconds(time_read, NULL) / 1000);
    printf("%-8s %-8s %6s %9s %9s %10s %10s %10s\n", "weights", "level", "bits", "m 1 GB/s", "in cache",
           "m 8 GMAC/s", "m 32", "pack GB/s");
    for (int l = 0; l < CPU_LEVEL_MAX; l++)
        for (int i = 0; kern_level_built((enum cpu_level)l) && i < N_FORMATS; i++)
            if (l > CPU_GENERIC && (!only || strcmp(only, formats[i].name) == 0))
                one_type(&formats[i], (enum cpu_level)l);
    free(p.w), free(p.file);
    for (int i = 0; i < P_ROWS; i++)
        free(p.y[i]);
}

int bench_kernels(const char *only)
{
    static const struct {
        const char *name;
        void (*time)(const struct kernels *);
    } rows[] = {
#define KERN(name, ret, args, check_class) {#name, time_##name},
#define KERN_MUL(name, type)
#include "engine/kernels/kern.def"
#undef KERN
    };
    d.act = aligned(kern_act_bytes(TT_Q8_0, N_IN));
    d.rows = aligned((size_t)ROWS * DK * 2);
    d.packed = aligned(kern_attn_query_bytes(DK) + 4096);
    d.piece = aligned(kern_attn_scratch_bytes(DK, DK, DV));
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
    printf("%s. Microseconds a call, best of many; %d values; attention %d rows of %d\n", cpu_brand(),
           N_IN, ROWS, DK);
    printf("%-15s", "kernel");
    for (int l = 0; l < CPU_LEVEL_MAX; l++)
        if (kern_level_built((enum cpu_level)l))
            printf("%12s", cpu_level_name((enum cpu_level)l));
    printf("\n");
    for (size_t i = 0; !only && i < sizeof(rows) / sizeof(rows[0]); i++) {
        printf("%-15s", rows[i].name);
        for (int l = 0; l < CPU_LEVEL_MAX; l++)
            if (kern_level_built((enum cpu_level)l))
                printf("%12.3f", microseconds(rows[i].time, kern_table((enum cpu_level)l)));
        printf("\n");
        fflush(stdout);
    }
    bench_products(only);
    free(d.act), free(d.rows), free(d.packed), free(d.piece), free(d.x), free(d.y), free(d.scratch), free(d.q);
    free(d.m), free(d.l), free(d.acc), free(d.m2), free(d.l2), free(d.acc2);
    return 0;
}
