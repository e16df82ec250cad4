/* tools/bench_kernels.c - mode kernels: how fast each kernel is on one core. A kernel added to kern.def
 * without a line here does not compile. */
#include "config.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/kernels/kern.h"
#include "engine/pool.h"
#include "tools/bench.h"
#include "tools/bench_around.h"
#include "tools/bench_time.h"

enum { N_IN = 2048, ROWS = 64, DK = 576, DV = 512, GROUPS = 1 };

static struct {
    void *act, *rows, *packed, *piece;
    float *x, *y, *scratch, *q, *m, *l, *acc, *m2, *l2, *acc2;
    int32_t limit[GROUPS * KERN_LANES], places[N_IN];
} d;

static void time_act_q8(const struct kernels *k)
{
    k->act_q8(d.x, N_IN, d.act);
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
    float *to = d.acc;
    k->attn_fold(1, DV, d.m, d.l, &to, d.m2, d.l2, d.acc2);
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

static void time_rotate_rows(const struct kernels *k)
{
    struct row_rotation r = {.rows = d.rows, .row_bytes = 2 * DK, .dst = d.act, .dst_bytes = 256,
                             .type = TT_BF16, .n = 32, .dim = 64, .near = d.x, .far = d.y};
    k->rotate_rows(&r);
}

static void time_gated_rows(const struct kernels *k)
{
    const unsigned char *x[32];
    const float *e[32];
    for (int i = 0; i < 32; i++) {
        x[i] = (const unsigned char *)d.rows + 64 * i;
        e[i] = d.x + 8 * i;
    }
    struct gated_rows g = {.n = 32, .width = 32, .embed = 8, .each = 64, .type = TT_BF16, .x = x, .e = e,
                           .up = d.x, .gate = d.x, .eps = 1e-6f, .dst = d.act, .dst_bytes = 160, .first = 32,
                           .rest_at = 48, .scratch = d.piece};
    k->gated_rows(&g);
}

static const struct gate_shape gated = {.heads = 8, .each = 64, .width = 32, .embed = 8, .rope = 16};

static void time_gate_pack(const struct kernels *k)
{
    k->gate_pack(&gated, d.rows, d.x, d.piece);
}

static void time_gate_query(const struct kernels *k)
{
    const float *q[KERN_LANES] = {d.x, d.x, d.x, d.x, d.x, d.x, d.x, d.x};
    k->gate_query(&gated, q, 0.1f, d.packed);
}

static float gated_factors[ATTN_PIECE * KERN_LANES];
static const unsigned char *gated_x[ATTN_PIECE];
static const float *gated_e[ATTN_PIECE];

static void time_gate_factors(const struct kernels *k)
{
    for (int i = 0; i < ATTN_PIECE; i++) {
        gated_x[i] = (const unsigned char *)d.rows + 96 * i;
        gated_e[i] = d.x + gated.embed * (i % 64);
    }
    struct gate_factors g = {.shape = gated, .n = ATTN_PIECE, .type = TT_BF16, .x = gated_x, .e = gated_e,
                             .weights = d.rows, .eps = 1e-6f, .factors = gated_factors, .scratch = d.piece};
    k->gate_factors(&g);
}

/* With the factors and the queries of the two before. */
static void time_gate_piece(const struct kernels *k)
{
    int32_t limit[KERN_LANES] = {0};
    for (int i = 0; i < gated.heads; i++)
        limit[i] = ATTN_PIECE;
    struct gate_piece p = {.shape = gated, .n_rows = ATTN_PIECE, .n_groups = 1, .type = TT_BF16, .x = gated_x,
                           .e = gated_e, .factors = gated_factors, .q = d.packed, .limit = limit, .m = d.m2,
                           .l = d.l2, .o = d.acc2, .o_stride = (size_t)(gated.embed * gated.width),
                           .scratch = d.piece};
    if (!gated_x[0]) {
        time_gate_query(k);
        time_gate_factors(k);
    }
    k->gate_piece(&p);
}

/* One row; `products` has more. */
static void time_mul_rounded(const struct kernels *k)
{
    const void *x = d.act;
    k->mul_rounded(TT_Q8_0, d.rows, 16, KERN_LANES, N_IN, 0, 1, &x, &d.y, 1);
}

static void time_index_scores(const struct kernels *k)
{
    struct index_block b = {
        .rows = d.rows, .row_bytes = DK * 2, .row_type = TT_BF16, .n_rows = ROWS, .dim = 128,
        .n_groups = 4, .q = d.q, .w = d.x, .scores = d.y, .scratch = d.scratch,
    };
    k->index_scores(&b);
}

static void row_time(const struct kernels *k, const char *name, double us)
{
    struct bench_row row = {.mode = "kernels",
                            .fields = {{"kernel", name, 0}, {"cpu", cpu_level_name(k->level), 0},
                                       {"values", NULL, N_IN}},
                            .unit = "us", .value = us};
    bench_report_row(&row);
}

/* --- products ---------------------------------------------------------------------------------- */

enum { P_IN = 2048, P_ROWS = 256, P_NEAR = 256, P_FAR_BYTES = 96 << 20 };

static struct {
    kern_mul_fn *mul;
    unsigned char *w, *file;
    size_t row_bytes; /* of the file */
    enum tensor_type type;
    int n_out, m, top;
    const void *x[P_ROWS];
    float *y[P_ROWS];
} p;

static void time_product(const struct kernels *k)
{
    (void)k;
    p.mul(p.w, p.n_out, P_IN, 0, p.n_out / KERN_LANES, p.x, p.y, p.m);
}

static void time_rounded(const struct kernels *k)
{
    k->mul_rounded(p.type, p.w, p.top, p.n_out, P_IN, 0, p.n_out / KERN_LANES, p.x, p.y, p.m);
}

static void time_pack(const struct kernels *k)
{
    struct kern_source src = {.rows = p.file, .row_bytes = p.row_bytes};
    (void)k;
    kern_pack(p.type, &src, p.n_out, P_IN, 0, p.n_out / KERN_LANES, p.w);
}

static void row_product(const struct kernels *k, const char *type, const char *kernel, int m, double value,
                        const char *unit, double bound, const char *limit)
{
    struct bench_row row = {.mode = "kernels",
                            .fields = {{"kernel", kernel, 0}, {"weights", type, 0}, {"rows", NULL, m},
                                       {"cpu", cpu_level_name(k->level), 0}},
                            .unit = unit, .value = value, .bound = bound, .limit = limit};
    bench_report_row(&row);
}

/* Rows against weights that stay in the caches. */
static void near_rows(const struct kernels *k, const struct tensor_type_info *t, const char *kernel,
                      void (*time)(const struct kernels *), const void *x, double peak)
{
    static const int rows[] = {8, 32, 128, 256};
    p.n_out = P_NEAR;
    for (int i = 0; i < P_ROWS; i++)
        p.x[i] = x;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        p.m = rows[i];
        double us = bench_microseconds(time, k);
        row_product(k, t->name, kernel, p.m, (double)p.m * P_NEAR * P_IN / us / 1000, "GMAC/s", peak / 1e9,
                    "arithmetic");
    }
}

/* One row reads weights from memory. */
static void one_type(const struct tensor_type_info *t, const struct bench_machine *m)
{
    const struct kernels *k = kern_table(m->level);
    enum tensor_type type = t->type;
    bool q8 = kern_act_is_q8(type);
    size_t group = kern_group_bytes(type, P_IN);
    int far = (int)(P_FAR_BYTES / group) * KERN_LANES;
    p.type = type;
    p.mul = kern_mul(k, type);
    p.row_bytes = tensor_row_bytes(type, P_IN);
    p.n_out = far;
    if (q8)
        k->act_q8(d.x, P_IN, d.act);
    p.x[0] = q8 ? d.act : d.x;
    double pack = bench_microseconds(time_pack, k);
    p.top = kern_weights_top(type, p.w, P_IN, 0, far / KERN_LANES);
    p.m = 1;
    double t1 = bench_microseconds(time_product, k);
    row_product(k, t->name, "product", 1, (double)(far / KERN_LANES) * (double)group / t1 / 1000, "GB/s",
                m->read / 1e9, "memory");
    near_rows(k, t, "product", time_product, p.x[0], q8 ? bench_integer_peak(m) : bench_float_peak(m));
    row_product(k, t->name, "pack", 0, (double)far * (double)p.row_bytes / pack / 1000, "GB/s", 0, NULL);
    if (!q8 || k->mul_rounded == kern_table(CPU_GENERIC)->mul_rounded)
        return;
    k->f32_to_bf16(d.x, P_IN, d.act);
    near_rows(k, t, "rounded product", time_rounded, d.act, bench_float_peak(m));
}

static void products(const struct bench_machine *m, const char *only)
{
    static const enum tensor_type types[] = {
#define KERN(name, ret, args, check_class)
#define KERN_MUL(name, type) type,
#include "engine/kernels/kern.def"
#undef KERN
    };
    size_t most = P_FAR_BYTES / P_IN * 8;
    p.w = bench_memory(P_FAR_BYTES);
    p.file = bench_memory((size_t)P_FAR_BYTES + 4096);
    /* Read as half-precision scales these bytes are 0.07 to 0.11: nothing overflows, nothing is denormal. */
    for (size_t i = 0; i < P_FAR_BYTES; i++)
        p.file[i] = (unsigned char)(0x2c + i % 3);
    for (int i = 0; i < P_ROWS; i++)
        p.y[i] = bench_memory((i == 0 ? most : P_NEAR) * sizeof(float));
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        const struct tensor_type_info *t = tensor_type_info((uint32_t)types[i]);
        if (t && (!only || !strcmp(only, t->name)))
            one_type(t, m);
    }
    free(p.w), free(p.file);
    for (int i = 0; i < P_ROWS; i++)
        free(p.y[i]);
}

/* What handing a job to all threads costs, and waiting for them. */
static int barrier(const struct bench_machine *m, struct err *e)
{
    struct pool *pool;
    int threads = pool_default_threads(), r;
    if (threads < 2)
        return 0;
    if ((r = pool_new(threads, 1, &pool, e)) < 0)
        return r;
    for (int shares = 0; shares < 2; shares++) {
        struct bench_row row = {.mode = "kernels",
                                .fields = {{"kernel", shares ? "barrier of shares" : "barrier", 0},
                                           {"cpu", cpu_level_name(m->level), 0}, {"threads", NULL, threads}},
                                .unit = "us", .value = bench_barrier_ns(pool, shares) / 1000};
        bench_report_row(&row);
    }
    pool_free(&pool);
    return 0;
}

/* Choosing a token for each of 64 sequences over a large vocabulary. */
static int sampling(const struct bench_machine *m, struct err *e)
{
    enum { SEQS = 64, VOCAB = 160000 };
    struct bench_sampling found[BENCH_SAMPLINGS];
    struct pool *pool;
    int threads = pool_default_threads(), r = pool_new(threads, 1, &pool, e);
    if (r < 0)
        return r;
    if (bench_sampling(pool, kern_table(m->level), SEQS, VOCAB, found) < 0)
        r = err_set(e, ERR_NOMEM, "out of memory for the logits of %d sequences", SEQS);
    for (int i = 0; i < BENCH_SAMPLINGS && r == 0; i++) {
        struct bench_row row = {.mode = "kernels",
                                .fields = {{"kernel", found[i].name, 0}, {"cpu", cpu_level_name(m->level), 0},
                                           {"threads", NULL, threads}, {"sequences", NULL, SEQS},
                                           {"vocab", NULL, VOCAB}},
                                .unit = "us", .value = found[i].us};
        bench_report_row(&row);
    }
    pool_free(&pool);
    return r;
}

int bench_kernels_run(const struct bench_options *o, const struct bench_machine *m, struct err *e)
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
    const struct kernels *k = kern_table(m->level);
    int r = 0;
    d.act = bench_memory(N_IN * sizeof(float)); /* in either form */
    d.rows = bench_memory((size_t)ROWS * DK * 2);
    d.packed = bench_memory(kern_attn_query_bytes(DK) + 4096);
    d.piece = bench_memory(kern_attn_scratch_bytes(DK, DK, DV));
    d.x = bench_memory(N_IN * 4);
    d.y = bench_memory(N_IN * 4);
    d.scratch = bench_memory(kern_index_scratch_floats(DK, ROWS) * 4);
    d.q = bench_memory((size_t)GROUPS * KERN_LANES * DK * 4);
    d.m = bench_memory(GROUPS * 64);
    d.l = bench_memory(GROUPS * 64);
    d.acc = bench_memory((size_t)GROUPS * DV * 64);
    d.m2 = bench_memory(GROUPS * 64);
    d.l2 = bench_memory(GROUPS * 64);
    d.acc2 = bench_memory((size_t)GROUPS * DV * 64);
    for (int i = 0; i < GROUPS * KERN_LANES; i++)
        d.limit[i] = ROWS;
    for (size_t i = 0; i < (size_t)ROWS * DK; i++)
        ((uint16_t *)d.rows)[i] = (uint16_t)(0x3c00 + i % 64);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (!o->kernel || !strcmp(o->kernel, rows[i].name))
            row_time(k, rows[i].name, bench_microseconds(rows[i].time, k));
    products(m, o->kernel);
    if (!o->kernel || !strcmp(o->kernel, "attention"))
        bench_attention(m, o->context.v[0]);
    if (!o->kernel || !strcmp(o->kernel, "barrier"))
        r = barrier(m, e);
    if (r == 0 && (!o->kernel || !strcmp(o->kernel, "sampling")))
        r = sampling(m, e);
    free(d.act), free(d.rows), free(d.packed), free(d.piece), free(d.x), free(d.y);
    free(d.scratch), free(d.q);
    free(d.m), free(d.l), free(d.acc), free(d.m2), free(d.l2), free(d.acc2);
    return r;
}
