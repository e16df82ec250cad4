/* engine/attention/dsa.c - DeepSeek sparse attention (DeepSeek-V3.2): latent attention over the rows
 * that a small indexer chooses.
 *
 *     iq_h = cq W_iq,h           ik = LayerNorm(x W_ik)       the first rope values of both rotated by
 *     g = x W_iw                                              their position, as halves, not pairs
 *     second cache row = ik      index_head_dim values
 *     score_t = sum_h g_h H^-0.5 relu(D^-0.5 iq_h . ik_t)     for the rows t up to the token's own
 *     the index_topk rows of the largest scores are attended as in mla.c
 *
 * x is the normalised residual, cq mla.c's normalised query latent. Ties go to the later position: rows
 * that no head sees all score 0, and with few heads there may be many. (The reference leaves ties to
 * its library, whose answer changes with what comes after the token.) A token that sees no more than
 * index_topk rows attends to all: it asks no indexer. Scores and choice depend on the token's own
 * sequence alone. The published code also turns iq and ik by one orthogonal matrix, which changes no
 * product, and rounds them to 8 bits; as in transformers, both are left out.
 *
 * Scores of a few tokens are kept at a time (SCORE_ROWS), cut into pieces of the context for the pool. */
#include "config.h"

#include "engine/attention/mla.h"
#include "engine/attention/topk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Tokens scored at once. */
#define SCORE_ROWS 16
/* Rows of the context that one work item scores; whole pages where those are larger. */
#define SCORE_PIECE 1024
#define KEY_NORM_EPS 1e-6f

struct dsa_layer {
    void *mla;
    struct matrix iq, ik, iw;
    float *ik_norm, *ik_norm_bias;
};

/* A token that needs the indexer. */
struct sparse_row {
    int32_t row, span; /* of the active set; span of the set as it came */
    int32_t n_seen;
};

struct dsa_work {
    void *mla;
    uint64_t n_bytes;
    int n_groups;            /* of 16 heads of the indexer */
    int piece;               /* SCORE_PIECE, or a page */
    size_t max_seen;         /* scores of one token */
    unsigned char *act;      /* one quantised row per product row: x for ik and iw, then cq for iq */
    float *ik;               /* [rows][index_head_dim] */
    float *iq, *iw;          /* [rows][heads * index_head_dim], [rows][heads] */
    float *q, *g;            /* [SCORE_ROWS][n_groups][dim][16] and [..][16]: scaled, a head a lane */
    float *scores;           /* [SCORE_ROWS][max_seen] */
    float **scratch;         /* [threads] */
    int n_threads;
    int32_t *chosen;         /* [rows][index_topk] */
    struct sparse_row *sparse;
    struct span *spans;      /* of the active rows: those that choose stand alone */
    struct paged_choice *choices;
    const void **px;         /* [3 * rows] */
    float **py;
    struct rope halves;
    /* the call in hand */
    const struct dsa_layer *layer;
    const struct attention_args *args;
    const struct sparse_row *batch;
    int n_pieces;            /* of each token of the batch */
};

/* Index keys keep bf16 where latents have 8 or 4 bits: which rows are chosen hangs on small differences. */
static struct row_format key_format(const struct model_config *c, enum tensor_type row_type)
{
    return paged_format(row_type == TT_F32 ? TT_F32 : TT_BF16, c->index_head_dim, 0);
}

static int dsa_planes(const struct model_config *c, const struct layer_tensors *t, enum tensor_type row_type,
                      struct kv_plane *ret)
{
    int n = attention_mla.planes(c, t, row_type, ret);
    ret[n] = (struct kv_plane){(uint32_t)key_format(c, row_type).row_bytes, 1, 64};
    return n + 1;
}

/* --- weights ----------------------------------------------------------------------------------- */

static void dsa_layer_free(void *p)
{
    struct dsa_layer *l = p;
    if (!l)
        return;
    attention_mla.layer_free(l->mla);
    matrix_done(&l->iq);
    matrix_done(&l->ik);
    matrix_done(&l->iw);
    free(l->ik_norm);
    free(l->ik_norm_bias);
    free(l);
}

static uint64_t dsa_layer_bytes(const void *p)
{
    const struct dsa_layer *l = p;
    return attention_mla.layer_bytes(l->mla) + l->iq.n_bytes + l->ik.n_bytes + l->iw.n_bytes;
}

/* The rows that a token chooses are its own: nothing to multiply out for many. */
static struct step_limits absorbed(const struct step_limits *lim)
{
    struct step_limits l = *lim;
    l.decompressed = false;
    return l;
}

static int dsa_layer_new(const struct model_config *c, const struct layer_tensors *t,
                         const struct step_limits *lim, struct pool *pool,
                         const struct load_progress *lp, void **ret, struct err *e)
{
    struct step_limits narrow = absorbed(lim);
    struct dsa_layer *l = calloc(1, sizeof(*l));
    int r = ERR_NOMEM;
    if (!l)
        return err_set(e, r, "out of memory while loading an attention layer");
    l->ik_norm = tensor_vector_f32(&t->index_k_norm);
    l->ik_norm_bias = tensor_vector_f32(&t->index_k_norm_bias);
    if (!l->ik_norm || !l->ik_norm_bias)
        err_set(e, r, "out of memory while loading an attention layer");
    else if ((r = attention_mla.layer_new(c, t, &narrow, pool, lp, &l->mla, e)) == 0 &&
             (r = matrix_pack(&l->iq, &t->index_q, pool, lp, e)) == 0 &&
             (r = matrix_pack(&l->ik, &t->index_k, pool, lp, e)) == 0)
        r = matrix_pack(&l->iw, &t->index_weights, pool, lp, e);
    if (r < 0) {
        dsa_layer_free(l);
        return r;
    }
    *ret = l;
    return 0;
}

/* --- work space -------------------------------------------------------------------------------- */

static void *bytes_new(struct dsa_work *w, size_t n_bytes)
{
    n_bytes = (n_bytes + 64) & ~(size_t)63;
    w->n_bytes += n_bytes;
    return aligned_alloc(64, n_bytes);
}

static void dsa_work_free(void *p)
{
    struct dsa_work *w = p;
    if (!w)
        return;
    attention_mla.work_free(w->mla);
    free(w->act);
    free(w->ik);
    free(w->iq);
    free(w->iw);
    free(w->q);
    free(w->g);
    free(w->scores);
    for (int t = 0; w->scratch && t < w->n_threads; t++)
        free(w->scratch[t]);
    free(w->scratch);
    free(w->chosen);
    free(w->sparse);
    free(w->spans);
    free(w->choices);
    free(w->px);
    free(w->py);
    free(w);
}

static size_t act_stride(const struct model_config *c)
{
    size_t x = act_room(c->hidden_size), q = act_room(c->q_lora_rank);
    return x > q ? x : q;
}

static int dsa_work_new(const struct model_config *c, const struct layer_tensors *layers, int n_layers,
                        const struct step_limits *lim, void **ret)
{
    struct dsa_work *w = calloc(1, sizeof(*w));
    if (!w)
        return ERR_NOMEM;
    size_t rows = (size_t)lim->max_rows, f = sizeof(float), dim = (size_t)c->index_head_dim;
    size_t heads = (size_t)c->index_n_heads, spans = rows + (size_t)lim->max_seqs;
    struct step_limits wide = absorbed(lim); /* tokens that choose are spans of their own */
    wide.max_seqs = (int)spans;
    w->n_groups = (c->index_n_heads + KERN_LANES - 1) / KERN_LANES;
    w->piece = (int)lim->page_tokens; /* whole pages */
    if (w->piece < SCORE_PIECE)
        w->piece *= SCORE_PIECE / w->piece;
    w->max_seen = (size_t)lim->max_position;
    w->n_threads = lim->n_threads;
    rope_init(&w->halves, c, lim->max_position);
    w->halves.interleave = false;
    size_t lanes = (size_t)w->n_groups * KERN_LANES;
    w->act = bytes_new(w, rows * act_stride(c));
    w->ik = bytes_new(w, rows * dim * f);
    w->iq = bytes_new(w, rows * heads * dim * f);
    w->iw = bytes_new(w, rows * heads * f);
    w->q = bytes_new(w, SCORE_ROWS * lanes * dim * f);
    w->g = bytes_new(w, SCORE_ROWS * lanes * f);
    w->scores = bytes_new(w, SCORE_ROWS * w->max_seen * f);
    if (c->index_topk < lim->max_position) /* else nobody chooses */
        w->chosen = bytes_new(w, rows * (size_t)c->index_topk * sizeof(*w->chosen));
    w->sparse = calloc(rows, sizeof(*w->sparse));
    w->spans = calloc(spans, sizeof(*w->spans));
    w->choices = calloc(spans, sizeof(*w->choices));
    w->px = calloc(3 * rows, sizeof(*w->px));
    w->py = calloc(3 * rows, sizeof(*w->py));
    w->scratch = calloc((size_t)lim->n_threads, sizeof(*w->scratch));
    if (!w->act || !w->ik || !w->iq || !w->iw || !w->q || !w->g || !w->scores ||
        (c->index_topk < lim->max_position && !w->chosen) || !w->sparse || !w->spans ||
        !w->choices || !w->px || !w->py || !w->scratch)
        goto fail;
    for (int t = 0; t < lim->n_threads; t++) {
        size_t n = kern_index_scratch_floats(c->index_head_dim, (int)lim->page_tokens);
        if (!(w->scratch[t] = bytes_new(w, n * f)))
            goto fail;
    }
    if (attention_mla.work_new(c, layers, n_layers, &wide, &w->mla) < 0)
        goto fail;
    *ret = w;
    return 0;
fail:
    dsa_work_free(w);
    return ERR_NOMEM;
}

static uint64_t dsa_work_bytes(const void *p)
{
    const struct dsa_work *w = p;
    return w->n_bytes + attention_mla.work_bytes(w->mla);
}

static int dsa_max_products(const struct model_config *c, const struct layer_tensors *t)
{
    int n = attention_mla.max_products(c, t);
    return n > 2 ? n : 2;
}

/* --- what the indexer sees --------------------------------------------------------------------- */

/* The quantised form of x where ik or iw reads it. */
static void x_rows(void *arg, int r0, int r1, int thread)
{
    struct dsa_work *w = arg;
    const struct step *st = w->args->step;
    const struct model_config *c = st->config;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        const float *x = mla__normed(w->mla) + (size_t)i * (size_t)c->hidden_size;
        unsigned char *act = w->act + (size_t)i * act_stride(c);
        if (act_is_quantised(w->layer->ik.type) || act_is_quantised(w->layer->iw.type))
            st->kern->act_q8(x, c->hidden_size, act);
        w->px[i] = act_view(w->layer->ik.type, x, act);
        w->py[i] = w->ik + (size_t)i * (size_t)c->index_head_dim;
    }
}

static void layer_norm(const float *w, const float *bias, int n, float *x)
{
    float mean = 0.0f, var = 0.0f;
    for (int i = 0; i < n; i++)
        mean += x[i];
    mean /= (float)n;
    for (int i = 0; i < n; i++)
        var += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(var / (float)n + KEY_NORM_EPS);
    for (int i = 0; i < n; i++)
        x[i] = (x[i] - mean) * scale * w[i] + bias[i];
}

static void rotate(const struct dsa_work *w, int row, float *x)
{
    const struct step *st = w->args->step;
    size_t at = (size_t)row * (size_t)(st->config->qk_rope_head_dim / 2);
    rope_apply(st->kern, &w->halves, st->rope_cos + at, st->rope_sin + at, x);
}

static void key_rows(void *arg, int r0, int r1, int thread)
{
    struct dsa_work *w = arg;
    const struct dsa_layer *l = w->layer;
    int dim = w->args->step->config->index_head_dim;
    struct row_format format = key_format(w->args->step->config, w->args->step->row_type);
    (void)thread;
    for (int i = r0; i < r1; i++) {
        float *ik = w->ik + (size_t)i * (size_t)dim;
        layer_norm(l->ik_norm, l->ik_norm_bias, dim, ik);
        rotate(w, i, ik);
        paged_store(w->args->step, w->args->all, i, w->args->plane_offsets[1], &format, ik);
    }
}

/* Keys of all rows, to the cache. */
static void index_keys(struct dsa_work *w)
{
    const struct step *st = w->args->step;
    int n = w->args->all->n_rows;
    rows_run(st->pool, n, x_rows, w);
    struct product p = {&w->layer->ik, w->px, w->py, n, 0};
    products_run(st->products, &p, 1);
    rows_run(st->pool, n, key_rows, w);
}

/* cq of the tokens that choose, as iq reads it. */
static void cq_rows(void *arg, int r0, int r1, int thread)
{
    struct dsa_work *w = arg;
    const struct model_config *c = w->args->step->config;
    int n = c->q_lora_rank;
    (void)thread;
    for (int i = r0; i < r1; i++)
        w->px[i] = act_prepare(w->args->step->kern, w->layer->iq.type, false,
                               mla__query_latents(w->mla) + (size_t)w->sparse[i].row * (size_t)n, n,
                               w->act + (size_t)i * act_stride(c));
}

/* iq and the weights of the heads for the n tokens that choose. */
static void index_queries(struct dsa_work *w, int n)
{
    const struct step *st = w->args->step;
    const struct model_config *c = st->config;
    const struct dsa_layer *l = w->layer;
    size_t heads = (size_t)c->index_n_heads, dim = (size_t)c->index_head_dim;
    for (int i = 0; i < n; i++) {
        size_t row = (size_t)w->args->active->rows[w->sparse[i].row];
        w->px[i] = act_view(l->iw.type, mla__normed(w->mla) + row * (size_t)c->hidden_size,
                            w->act + row * act_stride(c));
        w->py[i] = w->iw + (size_t)i * heads;
    }
    struct product p = {&l->iw, w->px, w->py, n, 0};
    products_run(st->products, &p, 1);
    rows_run(st->pool, n, cq_rows, w); /* x is no longer needed */
    for (int i = 0; i < n; i++)
        w->py[i] = w->iq + (size_t)i * heads * dim;
    p = (struct product){&l->iq, w->px, w->py, n, 0};
    products_run(st->products, &p, 1);
}

/* --- choosing ---------------------------------------------------------------------------------- */

/* Packs a token's index queries, a head a lane, scaled. */
static void pack_rows(void *arg, int r0, int r1, int thread)
{
    struct dsa_work *w = arg;
    const struct model_config *c = w->args->step->config;
    int heads = c->index_n_heads, dim = c->index_head_dim;
    float q_scale = 1.0f / sqrtf((float)dim), g_scale = 1.0f / sqrtf((float)heads);
    size_t lanes = (size_t)w->n_groups * KERN_LANES;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        size_t at = (size_t)(w->batch - w->sparse) + (size_t)i;
        float *iq = w->iq + at * (size_t)heads * (size_t)dim, *iw = w->iw + at * (size_t)heads;
        float *q = w->q + (size_t)i * lanes * (size_t)dim, *g = w->g + (size_t)i * lanes;
        memset(q, 0, lanes * (size_t)dim * sizeof(*q));
        memset(g, 0, lanes * sizeof(*g));
        for (int h = 0; h < heads; h++) {
            float *from = iq + (size_t)h * (size_t)dim;
            float *to = q + (size_t)(h / KERN_LANES * dim) * KERN_LANES + h % KERN_LANES;
            rotate(w, w->args->active->rows[w->batch[i].row], from);
            for (int d = 0; d < dim; d++)
                to[(size_t)d * KERN_LANES] = from[d] * q_scale;
            g[h] = iw[h] * g_scale;
        }
    }
}

/* One piece of one token's context. */
static void score_item(void *arg, int item, int thread)
{
    struct dsa_work *w = arg;
    const struct step *st = w->args->step;
    int i = item / w->n_pieces, t0 = item % w->n_pieces * w->piece;
    int dim = st->config->index_head_dim;
    const struct sparse_row *s = &w->batch[i];
    const struct span *sp = &w->args->active->spans[s->span];
    size_t lanes = (size_t)w->n_groups * KERN_LANES;
    struct row_format format = key_format(st->config, st->row_type);
    int page = (int)st->page_tokens;
    int end = t0 + w->piece < s->n_seen ? t0 + w->piece : s->n_seen;
    for (int t = t0; t < end; t += page) {
        struct index_block b = {
            .rows = sp->pages[t / page] + w->args->plane_offsets[1],
            .row_bytes = format.row_bytes,
            .row_type = format.type,
            .n_rows = end - t < page ? end - t : page,
            .dim = dim,
            .n_groups = w->n_groups,
            .q = w->q + (size_t)i * lanes * (size_t)dim,
            .w = w->g + (size_t)i * lanes,
            .scores = w->scores + (size_t)i * w->max_seen + t,
            .scratch = w->scratch[thread],
        };
        st->kern->index_scores(&b);
    }
}

static void select_item(void *arg, int i, int thread)
{
    struct dsa_work *w = arg;
    int k = w->args->step->config->index_topk;
    size_t at = (size_t)(w->batch - w->sparse) + (size_t)i;
    (void)thread;
    topk__select(w->scores + (size_t)i * w->max_seen, w->batch[i].n_seen, k,
                 w->chosen + at * (size_t)k);
}

static void choose_rows(struct dsa_work *w, int n)
{
    const struct step *st = w->args->step;
    index_queries(w, n);
    for (int i = 0; i < n; i += SCORE_ROWS) {
        int m = n - i < SCORE_ROWS ? n - i : SCORE_ROWS, longest = 0;
        w->batch = w->sparse + i;
        for (int j = 0; j < m; j++)
            longest = w->batch[j].n_seen > longest ? w->batch[j].n_seen : longest;
        w->n_pieces = (longest + w->piece - 1) / w->piece;
        rows_run(st->pool, m, pack_rows, w);
        pool_run(st->pool, m * w->n_pieces, score_item, w);
        pool_run(st->pool, m, select_item, w);
    }
}

/* Spans of the active rows: tokens that see more than index_topk rows choose, and stand alone. Returns
 * how many those are. */
static int lay_out(struct dsa_work *w, struct row_set *ret)
{
    const struct row_set *act = w->args->active;
    int topk = w->args->step->config->index_topk, n = 0, n_sparse = 0;
    for (int i = 0; i < act->n_spans; i++) {
        struct span sp = act->spans[i];
        sp.decompressed = false;
        int dense = topk - sp.position; /* tokens at its beginning that see all */
        dense = dense < 0 ? 0 : dense > sp.n_tokens ? sp.n_tokens : dense;
        if (dense > 0) {
            w->spans[n] = sp;
            w->spans[n].n_tokens = dense;
            w->choices[n++] = (struct paged_choice){NULL, 0};
        }
        for (int t = dense; t < sp.n_tokens; t++) {
            const int32_t *chosen = w->chosen + (size_t)n_sparse * (size_t)topk; /* to be filled */
            w->spans[n] = (struct span){sp.pages, sp.position + t, 1, sp.first + t, false};
            w->choices[n++] = (struct paged_choice){chosen, topk};
            w->sparse[n_sparse++] = (struct sparse_row){sp.first + t, i, sp.position + t + 1};
        }
    }
    *ret = (struct row_set){act->n_rows, act->rows, n, w->spans, act->n_rounded};
    return n_sparse;
}

static void dsa_run(const void *layer, void *work, const struct attention_args *a)
{
    const struct dsa_layer *l = layer;
    struct dsa_work *w = work;
    struct row_set set;
    w->layer = l;
    w->args = a;
    mla__rows(l->mla, w->mla, a);
    index_keys(w);
    if (a->active->n_rows == 0)
        return;
    int n_sparse = lay_out(w, &set);
    if (n_sparse > 0)
        choose_rows(w, n_sparse);
    mla__attend(w->mla, &set, w->choices);
}

const struct attention_ops attention_dsa = {
    .name = "dsa",
    .planes = dsa_planes,
    .layer_new = dsa_layer_new,
    .layer_free = dsa_layer_free,
    .layer_bytes = dsa_layer_bytes,
    .work_new = dsa_work_new,
    .work_free = dsa_work_free,
    .work_bytes = dsa_work_bytes,
    .max_products = dsa_max_products,
    .run = dsa_run,
};
