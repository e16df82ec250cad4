/* tools/bench_attention.c - the attention kernels over one long context on one core: pieces and their
 * folding as in a step, for one query token of some sequences that share the context. */
#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tools/bench_time.h"

#define PAGE_TOKENS 32

static const struct shape {
    const char *name;
    int heads, dk, dv, batch, v_off; /* v_off: of the values in a row, behind the key or inside of it */
} shapes[] = {
    {"flash6", 20, 576, 512, 1, 0},
    {"flash6", 20, 576, 512, 16, 0},
    {"v3-heads", 128, 576, 512, 1, 0},
    {"minicpm3", 40, 288, 256, 1, 0},
    {"mha", 1, 128, 128, 1, 128},
    {"gqa", 4, 128, 128, 1, 128},
    {"mqa", 8, 64, 64, 1, 64},
};

static const enum tensor_type row_types[] = {TT_BF16, TT_I8, TT_F8_E4M3, TT_I4};

static struct {
    const struct shape *shape;
    struct row_format format;
    int context, n_groups;
    unsigned char *rows, *q;
    const unsigned char **pages;
    int32_t *limit;
    float *m, *l, *o, *m2, *l2, *o2;
    void *scratch;
} a;

static const char *type_name(enum tensor_type type)
{
    return type == TT_BF16 ? "bf16" : type == TT_I8 ? "int8" : type == TT_I4 ? "int4" : "fp8";
}

static void pass(const struct kernels *k)
{
    int lanes = a.shape->heads * a.shape->batch, dv = a.shape->dv;
    size_t group_bytes = kern_attn_query_bytes(a.shape->dk);
    for (int i = 0; i < lanes; i++) {
        a.m[i] = -INFINITY;
        a.l[i] = 0;
    }
    for (int g = 0; g < a.n_groups; g += ATTN_MAX_GROUPS)
        for (int t = 0; t < a.context; t += ATTN_PIECE) {
            struct attn_piece p = {
                .pages = a.pages, .page_tokens = PAGE_TOKENS, .first = t,
                .n_rows = a.context - t < ATTN_PIECE ? a.context - t : ATTN_PIECE, .format = a.format,
                .n_ahead = a.context - t < 2 * ATTN_PIECE ? 0 : ATTN_PIECE, .fetched = t > 0,
                .dk = a.shape->dk, .dv = dv, .v_off = a.shape->v_off,
                .n_groups = a.n_groups - g < ATTN_MAX_GROUPS ? a.n_groups - g : ATTN_MAX_GROUPS,
                .q = a.q + (size_t)g * group_bytes, .limit = a.limit, .m = a.m2, .l = a.l2, .o = a.o2,
                .o_stride = (size_t)dv, .scratch = a.scratch};
            k->attn_piece(&p);
            int first = g * KERN_LANES, n = p.n_groups * KERN_LANES;
            float *to[ATTN_MAX_GROUPS * KERN_LANES];
            n = n < lanes - first ? n : lanes - first;
            for (int i = 0; i < n; i++)
                to[i] = a.o + (size_t)(first + i) * (size_t)dv;
            k->attn_fold(n, dv, a.m + first, a.l + first, to, a.m2, a.l2, a.o2);
        }
}

static void fill(const struct kernels *k)
{
    const struct shape *s = a.shape;
    float *x = bench_memory(((size_t)a.format.elems + 1024) * sizeof(float));
    for (int t = 0; t < a.context; t++)
        k->row_store(&a.format, x + t % 1024, a.rows + (size_t)t * a.format.row_bytes);
    for (int g = 0; g < a.n_groups; g++) {
        const float *q[KERN_LANES];
        for (int i = 0; i < KERN_LANES; i++)
            q[i] = g * KERN_LANES + i < s->heads * s->batch ? x + (g * KERN_LANES + i) % 1024 : NULL;
        k->attn_pack(q, s->dk, 1.0f / sqrtf((float)s->dk), a.q + (size_t)g * kern_attn_query_bytes(s->dk));
    }
    free(x);
}

static void one(const struct shape *s, enum tensor_type type, const struct bench_machine *m, int context)
{
    const struct kernels *k = kern_table(m->level);
    int elems = s->v_off > 0 ? s->v_off + s->dv : s->dk;
    int tail = type == TT_BF16 || s->v_off > 0 ? 0 : s->dk - s->dv, lanes = s->heads * s->batch;
    int n_pages = (context + PAGE_TOKENS - 1) / PAGE_TOKENS;
    a.shape = s;
    a.format = (struct row_format){type, elems, tail, kern_row_bytes(type, elems, tail)};
    a.context = context;
    a.n_groups = (lanes + KERN_LANES - 1) / KERN_LANES;
    size_t padded = (size_t)a.n_groups * KERN_LANES, dv = (size_t)s->dv;
    size_t page_bytes = (PAGE_TOKENS * a.format.row_bytes + 63) & ~(size_t)63;
    a.rows = bench_memory((size_t)n_pages * page_bytes);
    a.q = bench_memory((size_t)a.n_groups * kern_attn_query_bytes(s->dk));
    a.pages = bench_memory((size_t)n_pages * sizeof(*a.pages));
    a.limit = bench_memory(ATTN_MAX_GROUPS * KERN_LANES * sizeof(*a.limit));
    a.m = bench_memory(padded * sizeof(float));
    a.l = bench_memory(padded * sizeof(float));
    a.o = bench_memory(padded * dv * sizeof(float));
    a.m2 = bench_memory(ATTN_MAX_GROUPS * KERN_LANES * sizeof(float));
    a.l2 = bench_memory(ATTN_MAX_GROUPS * KERN_LANES * sizeof(float));
    a.o2 = bench_memory(ATTN_MAX_GROUPS * KERN_LANES * dv * sizeof(float));
    a.scratch = bench_memory(kern_attn_scratch_bytes(elems, s->dk, s->dv));
    for (int i = 0; i < n_pages; i++)
        a.pages[i] = a.rows + (size_t)i * page_bytes;
    for (int i = 0; i < ATTN_MAX_GROUPS * KERN_LANES; i++) /* the last lanes of a single group may be empty */
        a.limit[i] = a.n_groups > 1 || i < lanes ? ATTN_PIECE : 0;
    fill(k);
    double us = bench_microseconds(pass, k);
    double macs = (double)lanes * (s->dk + s->dv) * context;
    double bytes = (double)context * (double)a.format.row_bytes;
    struct bench_cost c = {.bytes = bytes, .float_macs = macs};
    struct bench_row row = {
        .mode = "kernels",
        .fields = {{"kernel", "attention", 0}, {"shape", s->name, 0}, {"heads", NULL, s->heads},
                   {"batch", NULL, s->batch}, {"context", NULL, context},
                   {"cache_type", type_name(type), 0},
                   {"cpu", cpu_level_name(m->level), 0}},
        .unit = "GMAC/s", .value = macs / us / 1000};
    double seconds = bench_cost_seconds(&c, m, &row.limit);
    row.bound = seconds > 0 ? macs / seconds / 1e9 : 0;
    bench_report_row(&row);
    free(a.rows), free(a.q), free(a.pages), free(a.limit), free(a.m), free(a.l), free(a.o);
    free(a.m2), free(a.l2), free(a.o2), free(a.scratch);
}

void bench_attention(const struct bench_machine *m, int context)
{
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        for (size_t t = 0; t < sizeof(row_types) / sizeof(row_types[0]); t++)
            one(&shapes[i], row_types[t], m, context);
}
