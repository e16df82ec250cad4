/* engine/attention/mla.c - multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).
 *
 *     cq = RMSNorm(x W_qa)                       q_h = [q_nope_h | q_pe_h] = cq W_qb,h
 *     [c | k_pe] = x W_kva     c = RMSNorm(c)    q_pe_h, k_pe rotated by their position
 *     cache row = [c | k_pe]                     kv_lora_rank + qk_rope_head_dim values, no more
 *     q'_h = [q_nope_h W_UK,h | q_pe_h]          scale = (nope + rope)^-0.5 * mscale^2
 *     z_h = softmax(q'_h . row) c                o_h = z_h W_UV,h        y = [o_1 .. o_H] W_o
 *
 * Key = whole row, value = its first kv_lora_rank elements: this is the absorbed scheme. Spans that say so
 * go by the other one, in which the rows are multiplied out (mla_decompressed.h) and attended by q_h itself.
 * Absorbed queries may also be made by the product of W_qb and W_UK (mla_product.h).
 * W_UK^T and W_UV are kept per head, W_UK only where the second scheme may be asked for. Factors of the
 * latents (mla_scale_q_lora, mla_scale_kv_lora) are folded into the weights of their norms.
 *
 * Rows go to the cache all at once; queries, attention and outputs follow a part of the rows at a time,
 * since what belongs to a row and a head is large. The parts change no result. */
#include "config.h"

#include "engine/attention/mla.h"
#include "engine/attention/mla_decompressed.h"
#include "engine/attention/mla_product.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct mla_layer {
    struct matrix q_proj;      /* q_lora_rank == 0 */
    struct matrix q_a, q_b;    /* otherwise */
    struct matrix kv_a, o;
    struct matrix *w_uk, *w_uv; /* [heads]: nope -> kv_lora_rank, kv_lora_rank -> v_head_dim */
    struct matrix *w_k;         /* [heads]: kv_lora_rank -> nope; NULL: absorbed only */
    struct mla_product *product; /* of absorbed queries, or NULL: by the factors */
    float *q_a_norm, *kv_a_norm;
    int n_heads;
};

struct mla_work {
    struct paged_work *paged;
    struct decompressed_work *decompressed; /* NULL: absorbed only */
    struct decompressed_shape shape;
    const struct model_config *config;
    const struct scratch *scratch;
    int max_rows;
    int part_rows[2];          /* rows of a part: absorbed, decompressed */
    struct row_format format;
    uint64_t n_bytes;
    struct span *spans;        /* of a part */
    const void **px;           /* row pointers of the products in hand */
    float **py;
    struct product *list;
    /* In the step's scratch, all rows: */
    float *norm;               /* [rows][hidden] normalised residual */
    unsigned char *norm_act;   /* prepared for kv_a and q */
    float *q_lora, *kv;        /* [rows][q_lora_rank], [rows][kv_lora_rank + rope] */
    unsigned char *q_act;      /* prepared q_lora */
    /* and behind them those of a part: */
    float *q;                  /* [rows][heads][nope + rope], then [rows][heads][v_head_dim] outputs */
    float *q_abs;              /* [rows][heads][kv_lora_rank + rope] */
    unsigned char *head_act;   /* prepared q_nope, then prepared z, per row and head */
    float *z;                  /* [rows][heads][kv_lora_rank] */
    struct mla_product_work *making; /* NULL: no layer makes products */
    unsigned char *packed;     /* queries of the decompressed scheme */
    unsigned char *out_act;
    float *y;                  /* [rows][hidden] */
    /* the call in hand */
    const struct mla_layer *layer;
    const struct attention_args *args;
    struct row_set part;
    int part_first;            /* active row that the part begins with */
    const float *out;          /* [rows][heads][v_head_dim] of the part */
    struct attention_stop *stop;
};

/* Bytes that a part's rows may take, unless that were fewer rows than the least. */
#define PART_BYTES ((size_t)24 << 20)
static const int least_rows[2] = {64, 512};
/* Most spans of a decompressed part: each may leave a group of lanes nearly empty. */
#define DECOMPRESSED_SPANS 8

static int mla_row_elems(const struct model_config *c)
{
    return c->kv_lora_rank + c->qk_rope_head_dim;
}

static struct row_format row_format_of(const struct model_config *c, enum tensor_type row_type)
{
    return paged_format(row_type, mla_row_elems(c), c->qk_rope_head_dim);
}

static int mla_planes(const struct model_config *c, const struct layer_tensors *t, enum tensor_type row_type,
                      struct kv_plane *ret)
{
    (void)t;
    ret[0] = (struct kv_plane){(uint32_t)row_format_of(c, row_type).row_bytes, 1, 64};
    return 1;
}

/* --- weights ----------------------------------------------------------------------------------- */

static void mla_layer_free(void *p)
{
    struct mla_layer *l = p;
    if (!l)
        return;
    matrix_done(&l->q_proj);
    matrix_done(&l->q_a);
    matrix_done(&l->q_b);
    matrix_done(&l->kv_a);
    matrix_done(&l->o);
    mla_product__free(l->product);
    for (int h = 0; h < l->n_heads; h++) {
        if (l->w_uk)
            matrix_done(&l->w_uk[h]);
        if (l->w_uv)
            matrix_done(&l->w_uv[h]);
        if (l->w_k)
            matrix_done(&l->w_k[h]);
    }
    free(l->w_uk);
    free(l->w_uv);
    free(l->w_k);
    free(l->q_a_norm);
    free(l->kv_a_norm);
    free(l);
}

static uint64_t mla_layer_bytes(const void *p)
{
    const struct mla_layer *l = p;
    uint64_t n = l->q_proj.n_bytes + l->q_a.n_bytes + l->q_b.n_bytes + l->kv_a.n_bytes + l->o.n_bytes;
    n += mla_product__bytes(l->product);
    for (int h = 0; h < l->n_heads; h++)
        n += l->w_uk[h].n_bytes + l->w_uv[h].n_bytes + (l->w_k ? l->w_k[h].n_bytes : 0);
    return n;
}

/* n rows of a tensor from row r0 on as the columns of a matrix. */
static int pack_transposed(const struct tensor *from, int64_t r0, int n, bool keep_bf16, struct matrix *ret,
                           struct err *e)
{
    int width = (int)from->ne[0];
    float *row = malloc((size_t)width * sizeof(float));
    float *t = malloc((size_t)width * (size_t)n * sizeof(float));
    int r = ERR_NOMEM;
    if (row && t) {
        for (int i = 0; i < n; i++) {
            tensor_row_f32(from, r0 + i, row);
            for (int j = 0; j < width; j++)
                t[(size_t)j * (size_t)n + (size_t)i] = row[j];
        }
        enum tensor_type type = matrix_store_type(from->type, t, (size_t)width * (size_t)n);
        if (keep_bf16 && type != from->type)
            type = TT_BF16;
        r = matrix_pack_f32(ret, from->name, t, width, n, type, e);
    } else {
        err_set(e, r, "tensor %s: out of memory", from->name);
    }
    free(row);
    free(t);
    return r;
}

/* Both directions of W_UK, and W_UV. In a kv_b as folders have it rows are outputs, nope and value of a head
 * after each other; GGUF has W_UK^T (k_b) and W_UV apart. What has to be turned is stored anew: quantised
 * types in 16 bits, for W_k bf16, since its products are rounded to that anyway. */
static int pack_heads(struct mla_layer *l, const struct model_config *c,
                      const struct layer_tensors *t, struct pool *pool,
                      const struct load_progress *lp, struct err *e)
{
    int nope = c->qk_nope_head_dim, r;
    for (int h = 0; h < l->n_heads; h++) {
        struct tensor uk, uv;
        if (t->kv_b.data) {
            int64_t row = (int64_t)h * (nope + c->v_head_dim);
            uk = tensor_rows(&t->kv_b, row, nope);
            uv = tensor_rows(&t->kv_b, row + nope, c->v_head_dim);
            if ((r = pack_transposed(&t->kv_b, row, nope, false, &l->w_uk[h], e)) < 0 ||
                (l->w_k && (r = matrix_pack(&l->w_k[h], &uk, pool, lp, e)) < 0))
                return r;
        } else {
            uk = tensor_slice(&t->k_b, h);
            uv = tensor_slice(&t->v_b, h);
            if ((r = matrix_pack(&l->w_uk[h], &uk, pool, lp, e)) < 0 ||
                (l->w_k && (r = pack_transposed(&uk, 0, (int)uk.ne[1], true, &l->w_k[h], e)) < 0))
                return r;
        }
        if ((r = matrix_pack(&l->w_uv[h], &uv, pool, lp, e)) < 0)
            return r;
    }
    return 0;
}

/* A latent's norm with its factor folded in. */
static float *latent_norm(const struct tensor *t, float factor)
{
    float *w = malloc((size_t)t->ne[0] * sizeof(float));
    if (!w)
        return NULL;
    tensor_row_f32(t, 0, w);
    for (int64_t i = 0; factor != 0.0f && i < t->ne[0]; i++)
        w[i] *= factor;
    return w;
}

static int mla_layer_new(const struct model_config *c, const struct layer_tensors *t,
                         const struct step_limits *lim, struct pool *pool,
                         const struct load_progress *lp, void **ret, struct err *e)
{
    struct mla_layer *l = calloc(1, sizeof(*l));
    int r = ERR_NOMEM;
    if (!l)
        goto fail;
    l->n_heads = c->num_attention_heads;
    l->w_uk = calloc((size_t)l->n_heads, sizeof(*l->w_uk));
    l->w_uv = calloc((size_t)l->n_heads, sizeof(*l->w_uv));
    if (lim->decompressed)
        l->w_k = calloc((size_t)l->n_heads, sizeof(*l->w_k));
    l->kv_a_norm = latent_norm(&t->kv_a_norm, c->mla_scale_kv_lora);
    if (!l->w_uk || !l->w_uv || (lim->decompressed && !l->w_k) || !l->kv_a_norm)
        goto fail;
    if (c->q_lora_rank > 0) {
        l->q_a_norm = latent_norm(&t->q_a_norm, c->mla_scale_q_lora);
        if (!l->q_a_norm)
            goto fail;
        if ((r = matrix_pack(&l->q_a, &t->q_a, pool, lp, e)) < 0 ||
            (r = matrix_pack(&l->q_b, &t->q_b, pool, lp, e)) < 0)
            goto out;
    } else if ((r = matrix_pack(&l->q_proj, &t->q_proj, pool, lp, e)) < 0) {
        goto out;
    }
    if ((r = matrix_pack(&l->kv_a, &t->kv_a, pool, lp, e)) < 0 ||
        (r = matrix_pack(&l->o, &t->o, pool, lp, e)) < 0 ||
        (r = pack_heads(l, c, t, pool, lp, e)) < 0 ||
        (lim->product != MLA_FACTORS && (r = mla_product__new(c, t, lim->product, &l->product, e)) < 0))
        goto out;
    *ret = l;
    return 0;
fail:
    err_set(e, r, "out of memory while loading an attention layer");
out:
    mla_layer_free(l);
    return r;
}

/* --- work space -------------------------------------------------------------------------------- */

static void *bytes_new(struct mla_work *w, size_t n_bytes)
{
    n_bytes = (n_bytes + 64) & ~(size_t)63;
    w->n_bytes += n_bytes;
    return aligned_alloc(64, n_bytes);
}

static void mla_work_free(void *p)
{
    struct mla_work *w = p;
    if (!w)
        return;
    paged_work_free(w->paged);
    decompressed__work_free(w->decompressed);
    free(w->spans);
    free(w->px);
    free(w->py);
    free(w->list);
    mla_product__work_free(w->making);
    free(w);
}

static int head_dim(const struct model_config *c)
{
    return c->qk_nope_head_dim + c->qk_rope_head_dim;
}

/* One stride serves prepared q_nope and prepared z. */
static size_t head_act_bytes(const struct model_config *c)
{
    size_t a = act_room(c->qk_nope_head_dim), b = act_room(c->kv_lora_rank);
    return a > b ? a : b;
}

static void place_all(struct mla_work *w, struct scratch_place *p)
{
    const struct model_config *c = w->config;
    size_t rows = (size_t)w->max_rows, f = sizeof(float);
    w->norm = scratch_take(p, rows * (size_t)c->hidden_size * f);
    w->norm_act = scratch_take(p, rows * act_room(c->hidden_size));
    w->q_lora = scratch_take(p, rows * (size_t)c->q_lora_rank * f);
    w->q_act = scratch_take(p, rows * act_room(c->q_lora_rank));
    w->kv = scratch_take(p, rows * (size_t)mla_row_elems(c) * f);
}

static void place_part(struct mla_work *w, struct scratch_place *p, bool decompressed, int n_rows,
                       int n_spans)
{
    const struct model_config *c = w->config;
    size_t heads = (size_t)c->num_attention_heads, rows = (size_t)n_rows, rh = rows * heads;
    size_t f = sizeof(float), v = (size_t)c->v_head_dim, hd = (size_t)head_dim(c);
    w->q = scratch_take(p, rh * (v > hd ? v : hd) * f);
    /* what the outputs need, in the place of the queries as attention took them */
    struct scratch_place last = *p;
    w->out_act = scratch_take(&last, rows * act_room(c->num_attention_heads * c->v_head_dim));
    w->y = scratch_take(&last, rows * (size_t)c->hidden_size * f);
    if (decompressed) {
        w->packed = scratch_take(p, decompressed__query_bytes(&w->shape, n_rows, n_spans));
    } else {
        w->q_abs = scratch_take(p, rh * (size_t)mla_row_elems(c) * f);
        w->head_act = scratch_take(p, rh * head_act_bytes(c));
        w->z = scratch_take(p, rh * (size_t)c->kv_lora_rank * f);
    }
    p->used = p->used > last.used ? p->used : last.used;
}

/* Sizes of the parts, and the scratch they ask for. */
static void plan_parts(struct mla_work *w, const struct step_limits *lim)
{
    size_t most = 0;
    for (int d = 0; d < (lim->decompressed ? 2 : 1); d++) {
        struct scratch_place one = {0}, part = {0};
        place_part(w, &one, d == 1, KERN_LANES, 0);
        size_t n = PART_BYTES / one.used * KERN_LANES;
        n = n < (size_t)least_rows[d] ? (size_t)least_rows[d] : n;
        w->part_rows[d] = n < (size_t)lim->max_rows ? (int)n : lim->max_rows;
        place_part(w, &part, d == 1, w->part_rows[d], DECOMPRESSED_SPANS);
        most = part.used > most ? part.used : most;
    }
    struct scratch_place all = {0};
    place_all(w, &all);
    scratch_need(lim->scratch, all.used + most);
}

static int mla_work_new(const struct model_config *c, const struct layer_tensors *layers, int n,
                        const struct step_limits *lim, void **ret)
{
    struct mla_work *w = calloc(1, sizeof(*w));
    (void)layers;
    (void)n;
    if (!w)
        return ERR_NOMEM;
    size_t rows = (size_t)lim->max_rows, heads = (size_t)c->num_attention_heads;
    struct paged_shape s = {
        .n_heads = c->num_attention_heads,
        .dk = mla_row_elems(c),
        .dv = c->kv_lora_rank,
        .k_off = 0,
        .v_off = 0,
        .format = row_format_of(c, lim->row_type),
        .scale = rope_score_scale(c) / sqrtf((float)head_dim(c)),
    };
    w->config = c;
    w->scratch = lim->scratch;
    w->max_rows = lim->max_rows;
    w->format = s.format;
    w->shape = (struct decompressed_shape){
        .n_heads = c->num_attention_heads,
        .rank = c->kv_lora_rank,
        .nope = c->qk_nope_head_dim,
        .rope = c->qk_rope_head_dim,
        .v = c->v_head_dim,
        .format = s.format,
        .scale = s.scale,
    };
    plan_parts(w, lim);
    struct step_limits part = *lim;
    part.max_rows = w->part_rows[0];
    size_t rh = (size_t)part.max_rows * heads, n_ptr = rh > 2 * rows ? rh : 2 * rows;
    w->spans = bytes_new(w, (size_t)lim->max_seqs * sizeof(*w->spans));
    w->px = bytes_new(w, n_ptr * sizeof(*w->px));
    w->py = bytes_new(w, n_ptr * sizeof(*w->py));
    w->list = bytes_new(w, (heads + 2) * sizeof(*w->list));
    if (!w->spans || !w->px || !w->py || !w->list || paged_work_new(&s, &part, &w->paged) < 0 ||
        (lim->product == MLA_PRODUCT_MADE && mla_product__work_new(c, lim, &w->making) < 0) ||
        (lim->decompressed &&
         decompressed__work_new(&w->shape, lim, w->part_rows[1], &w->decompressed) < 0)) {
        mla_work_free(w);
        return ERR_NOMEM;
    }
    *ret = w;
    return 0;
}

static uint64_t mla_work_bytes(const void *p)
{
    const struct mla_work *w = p;
    return w->n_bytes + paged_work_bytes(w->paged) +
           (w->decompressed ? decompressed__work_bytes(w->decompressed) : 0) +
           mla_product__work_bytes(w->making);
}

static int mla_max_products(const struct model_config *c, const struct layer_tensors *t)
{
    (void)t;
    return c->num_attention_heads + 2;
}

/* --- a layer ----------------------------------------------------------------------------------- */

static float latent_eps(const struct model_config *c)
{
    return c->latent_norm_eps > 0.0f ? c->latent_norm_eps : c->rms_norm_eps;
}

static const float *angles(const float *table, const struct step *st, int row)
{
    return table + (size_t)row * (size_t)(st->config->qk_rope_head_dim / 2);
}

/* The first projection of the queries. */
static const struct matrix *query_in(const struct mla_layer *l)
{
    return l->q_a.packed ? &l->q_a : &l->q_proj;
}

static void norm_rows(void *arg, int r0, int r1, int thread)
{
    struct mla_work *w = arg;
    const struct step *st = w->args->step;
    int hidden = st->config->hidden_size;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        float *n = w->norm + (size_t)i * (size_t)hidden;
        st->kern->rms_norm(st->x + (size_t)i * (size_t)hidden, w->args->norm_w, hidden,
                           st->config->rms_norm_eps, n);
        unsigned char *act = w->norm_act + (size_t)i * act_room(hidden);
        if (act_is_quantised(w->layer->kv_a.type) || act_is_quantised(query_in(w->layer)->type))
            act_store(st->kern, i < w->args->all->n_rounded, n, hidden, act);
        w->px[i] = act_view(w->layer->kv_a.type, n, act);
    }
}

/* Latent normalised, rope key rotated, row stored in the cache. */
static void store_rows(void *arg, int r0, int r1, int thread)
{
    struct mla_work *w = arg;
    const struct step *st = w->args->step;
    const struct model_config *c = st->config;
    int elems = mla_row_elems(c);
    (void)thread;
    for (int i = r0; i < r1; i++) {
        float *kv = w->kv + (size_t)i * (size_t)elems;
        st->kern->rms_norm(kv, w->layer->kv_a_norm, c->kv_lora_rank, latent_eps(c), kv);
        rope_apply(st->kern, st->rope, angles(st->rope_cos, st, i), angles(st->rope_sin, st, i),
                   kv + c->kv_lora_rank);
        paged_store(st, w->args->all, i, w->args->plane_offsets[0], &w->format, kv);
    }
}

static void q_lora_rows(void *arg, int r0, int r1, int thread)
{
    struct mla_work *w = arg;
    const struct step *st = w->args->step;
    int n = st->config->q_lora_rank;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        float *q = w->q_lora + (size_t)i * (size_t)n;
        st->kern->rms_norm(q, w->layer->q_a_norm, n, latent_eps(st->config), q);
        w->px[i] = act_prepare(st->kern, w->layer->q_b.type, i < w->args->active->n_rounded, q, n,
                               w->q_act + (size_t)i * act_room(n));
    }
}

/* Rotates q_pe where it is. */
static void q_rotate_rows(void *arg, int r0, int r1, int thread)
{
    struct mla_work *w = arg;
    const struct step *st = w->args->step;
    const struct model_config *c = st->config;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        int row = w->part.rows[i];
        for (int h = 0; h < c->num_attention_heads; h++)
            rope_apply(st->kern, st->rope, angles(st->rope_cos, st, row), angles(st->rope_sin, st, row),
                       w->q + ((size_t)i * (size_t)c->num_attention_heads + (size_t)h) *
                                  (size_t)head_dim(c) +
                           c->qk_nope_head_dim);
    }
}

/* Rotates q_pe into its place behind q', and prepares q_nope for W_UK. Pointers are ordered by head,
 * then row, as the products take them. */
static void q_head_rows(void *arg, int r0, int r1, int thread)
{
    struct mla_work *w = arg;
    const struct step *st = w->args->step;
    const struct model_config *c = st->config;
    const struct row_set *set = &w->part;
    int heads = c->num_attention_heads, elems = mla_row_elems(c);
    size_t act_bytes = head_act_bytes(c);
    (void)thread;
    for (int i = r0; i < r1; i++) {
        int row = set->rows[i];
        for (int h = 0; h < heads; h++) {
            size_t ih = (size_t)i * (size_t)heads + (size_t)h;
            const float *q = w->q + ih * (size_t)head_dim(c);
            float *abs = w->q_abs + ih * (size_t)elems;
            size_t slot = (size_t)h * (size_t)set->n_rows + (size_t)i;
            memcpy(abs + c->kv_lora_rank, q + c->qk_nope_head_dim,
                   (size_t)c->qk_rope_head_dim * sizeof(float));
            rope_apply(st->kern, st->rope, angles(st->rope_cos, st, row), angles(st->rope_sin, st, row),
                       abs + c->kv_lora_rank);
            w->px[slot] = act_prepare(st->kern, w->layer->w_uk[h].type, i < set->n_rounded, q,
                                      c->qk_nope_head_dim, w->head_act + ih * act_bytes);
            w->py[slot] = abs;
        }
    }
}

static void z_head_rows(void *arg, int r0, int r1, int thread)
{
    struct mla_work *w = arg;
    const struct step *st = w->args->step;
    const struct model_config *c = st->config;
    const struct row_set *set = &w->part;
    int heads = c->num_attention_heads;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        for (int h = 0; h < heads; h++) {
            size_t ih = (size_t)i * (size_t)heads + (size_t)h;
            size_t slot = (size_t)h * (size_t)set->n_rows + (size_t)i;
            w->px[slot] = act_prepare(st->kern, w->layer->w_uv[h].type, i < set->n_rounded,
                                      w->z + ih * (size_t)c->kv_lora_rank, c->kv_lora_rank,
                                      w->head_act + ih * head_act_bytes(c));
            w->py[slot] = w->q + ih * (size_t)c->v_head_dim;
        }
    }
}

static void out_rows(void *arg, int r0, int r1, int thread)
{
    struct mla_work *w = arg;
    const struct step *st = w->args->step;
    int n = st->config->num_attention_heads * st->config->v_head_dim;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        w->px[i] = act_prepare(st->kern, w->layer->o.type, i < w->part.n_rounded,
                               w->out + (size_t)i * (size_t)n, n, w->out_act + (size_t)i * act_room(n));
        w->py[i] = w->y + (size_t)i * (size_t)st->config->hidden_size;
    }
}

static void residual_rows(void *arg, int r0, int r1, int thread)
{
    struct mla_work *w = arg;
    const struct step *st = w->args->step;
    size_t hidden = (size_t)st->config->hidden_size;
    (void)thread;
    for (int i = r0; i < r1; i++)
        st->kern->axpy(model_residual_scale(st->config), w->y + (size_t)i * hidden, (int)hidden,
                       st->x + (size_t)w->part.rows[i] * hidden);
}

static void head_products(struct mla_work *w, const struct matrix *per_head)
{
    int heads = w->layer->n_heads, n = w->part.n_rows;
    for (int h = 0; h < heads; h++) {
        size_t slot = (size_t)h * (size_t)n;
        w->list[h] = (struct product){&per_head[h], w->px + slot, w->py + slot, n, w->part.n_rounded};
    }
    products_run(w->args->step->products, w->list, heads);
}

static size_t query_width(const struct model_config *c)
{
    return (size_t)c->num_attention_heads * (size_t)head_dim(c);
}

static const void *normed_act(const struct mla_work *w, const struct matrix *m, int row)
{
    size_t hidden = (size_t)w->config->hidden_size;
    return act_view(m->type, w->norm + (size_t)row * hidden,
                    w->norm_act + (size_t)row * act_room(w->config->hidden_size));
}

void mla__rows(const void *layer, void *work, const struct attention_args *a)
{
    const struct mla_layer *l = layer;
    struct mla_work *w = work;
    const struct step *st = a->step;
    const struct model_config *c = st->config;
    const struct row_set *all = a->all, *act = a->active;
    const void **qx = w->px + all->n_rows;
    float **qy = w->py + all->n_rows;
    int n_products = 1;
    struct scratch_place p = {w->scratch->base, 0};

    w->layer = l;
    w->args = a;
    w->stop = NULL;
    place_all(w, &p);
    rows_run_light(st->pool, all->n_rows, 3 * c->hidden_size, norm_rows, w);
    for (int i = 0; i < all->n_rows; i++)
        w->py[i] = w->kv + (size_t)i * (size_t)mla_row_elems(c);
    w->list[0] = (struct product){&l->kv_a, w->px, w->py, all->n_rows, all->n_rounded};
    if (c->q_lora_rank > 0 && act->n_rows > 0) {
        for (int i = 0; i < act->n_rows; i++) {
            qx[i] = normed_act(w, &l->q_a, act->rows[i]);
            qy[i] = w->q_lora + (size_t)i * (size_t)c->q_lora_rank;
        }
        w->list[n_products++] = (struct product){&l->q_a, qx, qy, act->n_rows, act->n_rounded};
    }
    products_run(st->products, w->list, n_products);
    rows_run_light(st->pool, all->n_rows, 4 * mla_row_elems(c), store_rows, w);
    if (n_products > 1)
        rows_run_light(st->pool, act->n_rows, 3 * c->q_lora_rank, q_lora_rows, w);
}

/* Queries of the part's rows. */
static void project_queries(struct mla_work *w)
{
    const struct mla_layer *l = w->layer;
    const struct model_config *c = w->config;
    const struct matrix *m = c->q_lora_rank > 0 ? &l->q_b : &l->q_proj;
    for (int i = 0; i < w->part.n_rows; i++) {
        size_t at = (size_t)(w->part_first + i), n = (size_t)c->q_lora_rank;
        w->px[i] = c->q_lora_rank > 0 ? act_view(m->type, w->q_lora + at * n,
                                                 w->q_act + at * act_room(c->q_lora_rank))
                                      : normed_act(w, m, w->part.rows[i]);
        w->py[i] = w->q + (size_t)i * query_width(c);
    }
    w->list[0] = (struct product){m, w->px, w->py, w->part.n_rows, w->part.n_rounded};
    products_run(w->args->step->products, w->list, 1);
}

/* --- queries by a product of their matrices ------------------------------------------------------ */

/* The input of the products: the query's latent, or the hidden row. */
static const void *product_input(const struct mla_work *w, const struct matrix *m, int i)
{
    size_t at = (size_t)(w->part_first + i), n = (size_t)w->config->q_lora_rank;
    return n > 0 ? act_view(m->type, w->q_lora + at * n, w->q_act + at * act_room((int)n))
                 : normed_act(w, m, w->part.rows[i]);
}

static void project_rope(struct mla_work *w)
{
    const struct matrix *m = mla_product__rope(w->layer->product);
    for (int i = 0; i < w->part.n_rows; i++) {
        w->px[i] = product_input(w, m, i);
        w->py[i] = w->q + (size_t)i * (size_t)m->n_out;
    }
    w->list[0] = (struct product){m, w->px, w->py, w->part.n_rows, 0};
    products_run(w->args->step->products, w->list, 1);
}

static void rope_rows(void *arg, int r0, int r1, int thread)
{
    struct mla_work *w = arg;
    const struct step *st = w->args->step;
    const struct model_config *c = st->config;
    int heads = c->num_attention_heads, rope = c->qk_rope_head_dim, elems = mla_row_elems(c);
    (void)thread;
    for (int i = r0; i < r1; i++) {
        int row = w->part.rows[i];
        for (int h = 0; h < heads; h++) {
            float *abs = w->q_abs + ((size_t)i * (size_t)heads + (size_t)h) * (size_t)elems;
            memcpy(abs + c->kv_lora_rank, w->q + ((size_t)i * (size_t)heads + (size_t)h) * (size_t)rope,
                   (size_t)rope * sizeof(float));
            rope_apply(st->kern, st->rope, angles(st->rope_cos, st, row), angles(st->rope_sin, st, row),
                       abs + c->kv_lora_rank);
        }
    }
}

static void project_by_products(struct mla_work *w)
{
    const struct mla_layer *l = w->layer;
    const struct step *st = w->args->step;
    int heads = l->n_heads, n = w->part.n_rows, elems = mla_row_elems(w->config);
    bool kept = mla_product__kept(l->product);
    project_rope(w);
    rows_run(st->pool, n, rope_rows, w);
    for (int h = 0; h < heads; h++) {
        const struct matrix *m = mla_product__of(l->product, w->making, st, h);
        for (int i = 0; i < n; i++) {
            w->px[h * n + i] = product_input(w, m, i);
            w->py[h * n + i] = w->q_abs + ((size_t)i * (size_t)heads + (size_t)h) * (size_t)elems;
        }
        w->list[h] = (struct product){m, w->px + h * n, w->py + h * n, n, 0};
        if (!kept)
            products_run(st->products, &w->list[h], 1);
    }
    if (kept)
        products_run(st->products, w->list, heads);
}

/* The part's rows from queries to the residual stream. */
static void run_part(struct mla_work *w, bool decompressed, const struct paged_choice *choices)
{
    const struct mla_layer *l = w->layer;
    const struct step *st = w->args->step;
    const struct model_config *c = w->config;
    size_t plane = w->args->plane_offsets[0];
    int n = w->part.n_rows;
    struct scratch_place p = {w->scratch->base, 0};
    place_all(w, &p);
    place_part(w, &p, decompressed, n, w->part.n_spans);
    bool by_product = !decompressed && l->product;
    w->out = decompressed && w->stop ? w->stop->kept : w->q;
    if (by_product)
        project_by_products(w);
    else
        project_queries(w);
    if (decompressed) {
        struct decompressed_args a = {st, &w->part, plane, l->w_k, l->w_uv, w->q, w->packed,
                                      w->stop ? w->stop->kept : w->q, w->stop};
        rows_run_light(st->pool, n, 3 * c->num_attention_heads * c->qk_rope_head_dim, q_rotate_rows, w);
        if (!decompressed__attend(w->decompressed, &a))
            return;
    } else {
        if (!by_product) {
            rows_run(st->pool, n, q_head_rows, w);
            head_products(w, l->w_uk);
        }
        paged_attention(w->paged, st, &w->part, plane, choices, w->q_abs, w->z);
        rows_run_light(st->pool, n, 2 * c->num_attention_heads * c->kv_lora_rank, z_head_rows, w);
        head_products(w, l->w_uv);
    }
    rows_run_light(st->pool, n, 2 * c->num_attention_heads * c->v_head_dim, out_rows, w);
    w->list[0] = (struct product){&l->o, w->px, w->py, n, w->part.n_rounded};
    products_run(st->products, w->list, 1);
    rows_run_light(st->pool, n, 3 * c->hidden_size, residual_rows, w);
}

void mla__attend(void *work, const struct row_set *set, const struct paged_choice *choices)
{
    struct mla_work *w = work;
    int done = 0; /* tokens of span s */
    for (int s = 0; s < set->n_spans;) {
        bool decompressed = set->spans[s].decompressed;
        int first = s, room = w->part_rows[decompressed], n_spans = 0, n = 0;
        w->part_first = set->spans[s].first + done;
        while (s < set->n_spans && set->spans[s].decompressed == decompressed && n < room &&
               (!decompressed || n_spans < DECOMPRESSED_SPANS)) {
            const struct span *sp = &set->spans[s];
            int m = sp->n_tokens - done < room - n ? sp->n_tokens - done : room - n;
            w->spans[n_spans++] = (struct span){sp->pages, sp->position + done, m, n, decompressed};
            n += m;
            done += m;
            if (done == sp->n_tokens) {
                s++;
                done = 0;
            }
        }
        int rounded = set->n_rounded - w->part_first;
        rounded = rounded < 0 ? 0 : rounded < n ? rounded : n;
        w->part = (struct row_set){n, set->rows + w->part_first, n_spans, w->spans, rounded};
        run_part(w, decompressed, choices ? choices + first : NULL);
    }
}

static void mla_run(const void *layer, void *work, const struct attention_args *a)
{
    struct mla_work *w = work;
    mla__rows(layer, work, a);
    /* Called again it makes rows and queries once more, from the same residual rows: so only in one part,
     * whose end adds to them. */
    if (a->active->n_spans == 1 && a->active->n_rows <= w->part_rows[1])
        w->stop = a->stop;
    mla__attend(work, a->active, NULL);
}

static int mla_stop_rows(const void *work)
{
    const struct mla_work *w = work;
    return w->decompressed ? w->part_rows[1] : 0;
}

const float *mla__normed(const void *work)
{
    return ((const struct mla_work *)work)->norm;
}

const float *mla__query_latents(const void *work)
{
    return ((const struct mla_work *)work)->q_lora;
}

const struct attention_ops attention_mla = {
    .name = "mla",
    .planes = mla_planes,
    .layer_new = mla_layer_new,
    .layer_free = mla_layer_free,
    .layer_bytes = mla_layer_bytes,
    .work_new = mla_work_new,
    .work_free = mla_work_free,
    .work_bytes = mla_work_bytes,
    .max_products = mla_max_products,
    .run = mla_run,
    .stop_rows = mla_stop_rows,
};
