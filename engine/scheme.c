/* engine/scheme.c - costs of the two schemes, expected and measured; see scheme.h. */
#include "config.h"

#include "engine/scheme.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/attention/paged.h"
#include "engine/kernels/kern.h"
#include "engine/matrix.h"

/* Queries that share what is made of a key: a chunk of the default step. */
#define CHUNK 512
/* Decompressing must be that much cheaper to be chosen. Chunks are rarely full, the tail of a prompt is
 * computed again when a longer one covers its block, and prompts on both sides of a block's end share
 * nothing. */
#define LEAST_GAIN 1.25
/* Rows and lanes measured. */
#define ROWS 128
#define LANES (ATTN_MAX_GROUPS * KERN_LANES)
#define ROUNDS 3

/* Nanoseconds; only their ratios matter. AVX2: within 20 % of what a Zen 3 core does for the heads of
 * DeepSeek-V3, GLM-4.7-Flash and MiniCPM3. The others are reckoned from instructions and peaks. */
static const struct {
    double attend;   /* a multiply-add of attention */
    double weigh;    /* exp and sum, of a query and key */
    double int8, fp; /* a multiply-add of a weight product, by the form of its activations */
    double row;      /* rounding and packing a value of a row made */
} table[CPU_LEVEL_MAX] = {
    [CPU_GENERIC] = {1.0, 5.0, 0.6, 0.6, 1.0},
    [CPU_AVX2] = {0.030, 0.60, 0.020, 0.030, 0.2},
    [CPU_AVX512] = {0.015, 0.30, 0.006, 0.015, 0.1},
    [CPU_AMX] = {0.0011, 0.25, 0.0008, 0.0011, 0.1},
    [CPU_NEON] = {0.040, 0.80, 0.020, 0.040, 0.3},
};

static double product_ns(enum cpu_level level, enum tensor_type type)
{
    return act_is_quantised(type) ? table[level].int8 : table[level].fp;
}

/* A multiply-add of attention. Where AVX-512 makes it of bfloat16 pairs, twice as many go at once. */
static double attend_ns(enum cpu_level level)
{
    return table[level].attend / (level == CPU_AVX512 && kern_table(level)->attn_bf16 ? 2 : 1);
}

struct scheme_cost scheme_expected(enum cpu_level level, const struct scheme_shape *s)
{
    double make = s->rank * (s->nope * product_ns(level, s->k_type) + s->v * product_ns(level, s->v_type)) +
                  (s->nope + s->rope + s->v) * table[level].row;
    return (struct scheme_cost){
        .absorbed_ns = (2 * s->rank + s->rope) * attend_ns(level) + table[level].weigh,
        .decompressed_ns = (s->nope + s->rope + s->v) * attend_ns(level) + table[level].weigh
            + make / CHUNK,
    };
}

bool scheme_favours_decompressed(const struct scheme_cost *c)
{
    return c->decompressed_ns * LEAST_GAIN < c->absorbed_ns;
}

/* Of the first layer that can be computed either way. */
static bool shape_of(const struct checkpoint *ck, struct scheme_shape *ret)
{
    const struct model_config *c = &ck->config;
    for (int i = 0; i < c->num_hidden_layers; i++) {
        const struct layer_tensors *t = &ck->layers[i];
        if (t->attention && strcmp(t->attention, "mla"))
            continue;
        *ret = (struct scheme_shape){
            .rank = c->kv_lora_rank,
            .nope = c->qk_nope_head_dim,
            .rope = c->qk_rope_head_dim,
            .v = c->v_head_dim,
            .k_type = t->kv_b.data ? t->kv_b.type : t->k_b.type,
            .v_type = t->kv_b.data ? t->kv_b.type : t->v_b.type,
            .row_type = TT_BF16,
        };
        if (!t->kv_b.data && act_is_quantised(ret->k_type))
            ret->k_type = TT_BF16; /* as mla.c packs it */
        return true;
    }
    return false;
}

struct scheme scheme_choose(enum mla_scheme wanted, int block, enum cpu_level level,
                            const struct checkpoint *ck)
{
    struct scheme r = {0};
    struct scheme_shape s;
    if (!shape_of(ck, &s))
        return r;
    r.expected = scheme_expected(kern_table(level)->level, &s); /* of the kernels there are */
    r.product = wanted == MLA_REUSE       ? MLA_PRODUCT_KEPT
                : wanted == MLA_RECOMPUTE ? MLA_PRODUCT_MADE
                                          : MLA_FACTORS;
    if (wanted == MLA_DECOMPRESSED || (wanted == MLA_AUTO && scheme_favours_decompressed(&r.expected)))
        r.block = block;
    return r;
}

bool scheme_rounded(enum prompt_products wanted, enum cpu_level level, const struct checkpoint *ck)
{
    if (wanted == PRODUCTS_INT8 || kern_table(level)->level != CPU_AMX)
        return false;
    for (int i = 0; i < ck->config.num_hidden_layers; i++) { /* or it would be a mark without a difference */
        const struct layer_tensors *t = &ck->layers[i];
        const struct ffn_tensors *ffn = t->experts ? t->experts : &t->dense;
        if (act_is_quantised(t->o.type) || act_is_quantised(ffn->gate.type))
            return true;
    }
    return false;
}

/* --- measuring --------------------------------------------------------------------------------- */

struct bench {
    const struct kernels *k;
    unsigned char *rows, *weights, *queries, *scratch;
    float *x, *out, *m, *l;
    unsigned char *act;
};

static void *zeros(size_t n_bytes)
{
    n_bytes = (n_bytes + 63) & ~(size_t)63;
    void *p = aligned_alloc(64, n_bytes);
    if (p)
        memset(p, 0, n_bytes);
    return p;
}

/* Zeros throughout: the kernels take the same time for all values. */
static bool bench_new(struct bench *b, const struct scheme_shape *s)
{
    int wide = 2 * s->rank + s->nope + s->rope + s->v;
    size_t k = kern_packed_bytes(s->k_type, s->nope, s->rank), v = kern_packed_bytes(s->v_type,
        s->v, s->rank);
    b->rows = zeros((size_t)ROWS * kern_row_bytes(TT_F32, wide, 0));
    b->weights = zeros(k > v ? k : v);
    b->queries = zeros(ATTN_MAX_GROUPS * kern_attn_query_bytes(wide));
    b->scratch = zeros(kern_attn_scratch_bytes(wide, wide, wide));
    b->x = zeros((size_t)ROWS * (size_t)s->rank * sizeof(float));
    b->act = zeros((size_t)ROWS * act_room(s->rank));
    b->out = zeros((size_t)LANES * (size_t)wide * sizeof(float));
    b->m = zeros(LANES * sizeof(float));
    b->l = zeros(LANES * sizeof(float));
    return b->rows && b->weights && b->queries && b->scratch && b->x && b->act && b->out && b->m && b->l;
}

static void bench_free(struct bench *b)
{
    free(b->rows);
    free(b->weights);
    free(b->queries);
    free(b->scratch);
    free(b->x);
    free(b->act);
    free(b->out);
    free(b->m);
    free(b->l);
}

/* Best time of a piece, by query and key. */
static double time_attention(const struct bench *b, struct row_format f, int dk, int dv, int v_off)
{
    const unsigned char *rows = b->rows;
    int32_t limit[LANES];
    int64_t best = INT64_MAX;
    for (int i = 0; i < LANES; i++)
        limit[i] = ROWS;
    struct attn_piece p = {
        .pages = &rows, .page_tokens = ROWS, .n_rows = ROWS, .format = f, .dk = dk, .dv = dv,
        .v_off = v_off, .n_groups = ATTN_MAX_GROUPS, .q = b->queries, .limit = limit, .m = b->m, .l = b->l,
        .o = b->out, .o_stride = (size_t)dv, .scratch = b->scratch,
    };
    for (int i = 0; i < ROUNDS; i++) {
        int64_t t = clock_now_ns();
        b->k->attn_piece(&p);
        t = clock_now_ns() - t;
        best = t < best ? t : best;
    }
    return (double)best / ((double)ROWS * LANES);
}

/* Best time of making ROWS rows of n_out values and rounding them, by row. */
static double time_product(const struct bench *b, enum tensor_type type, int n_out, int n_in)
{
    const void *x[ROWS];
    float *y[ROWS];
    int64_t best = INT64_MAX;
    for (int i = 0; i < ROWS; i++) {
        float *row = b->x + (size_t)i * (size_t)n_in;
        x[i] = act_prepare(b->k, type, false, row, n_in, b->act + (size_t)i * act_room(n_in));
        y[i] = b->out + (size_t)i * (size_t)n_out;
    }
    for (int r = 0; r < ROUNDS; r++) {
        int64_t t = clock_now_ns();
        kern_mul(b->k, type)(b->weights, n_out, n_in, 0, (n_out + KERN_LANES - 1) / KERN_LANES, x, y, ROWS);
        for (int i = 0; i < ROWS; i++)
            b->k->f32_to_bf16(y[i], n_out, b->rows + (size_t)i * 2 * (size_t)n_out);
        t = clock_now_ns() - t;
        best = t < best ? t : best;
    }
    return (double)best / ROWS;
}

void scheme_measure(struct scheme *r, enum cpu_level level, const struct checkpoint *ck,
                    enum tensor_type row_type)
{
    struct scheme_shape s;
    struct bench b = {.k = kern_table(level)};
    if (b.k->level == CPU_GENERIC || !shape_of(ck, &s))
        return;
    if (bench_new(&b, &s)) {
        int head = s.nope + s.rope, elems = s.rank + s.rope;
        struct row_format cached = paged_format(row_type, elems, s.rope);
        struct row_format made = {.type = row_type == TT_F32 ? TT_F32 : TT_BF16, .elems = head + s.v};
        made.row_bytes = kern_row_bytes(made.type, made.elems, 0);
        double make = time_product(&b, s.k_type, s.nope, s.rank) + time_product(&b, s.v_type, s.v, s.rank);
        memset(b.rows, 0, (size_t)ROWS * made.row_bytes);
        r->measured.absorbed_ns = time_attention(&b, cached, elems, s.rank, 0);
        r->measured.decompressed_ns = time_attention(&b, made, head, s.v, head) + make / CHUNK;
    }
    bench_free(&b);
}
