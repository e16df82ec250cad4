/* engine/forward.c - the forward pass over a mixed batch; see forward.h. Engine thread.
 *
 *     x = embedding[token]
 *     for each layer:  x += attention(RMSNorm(x));  x += ffn(RMSNorm(x))
 *     logits = RMSNorm(x) W_out                      for the rows that asked
 *
 * Each layer names its attention mechanism, and a mechanism declares the streams of cache rows that
 * it keeps. Where a model has several attentions in one of its layers (attentions_per_layer), each is
 * a layer here, with its dense ffn; the experts of the first are the shortcut of LongCat-Flash
 * (arXiv 2509.01322), computed from what its dense ffn reads and added behind the last ffn:
 *
 *     x += attention_1(RMSNorm(x));  s = experts(RMSNorm(x));  x += ffn_1(RMSNorm(x))
 *     x += attention_2(RMSNorm(x));                            x += ffn_2(RMSNorm(x));  x += s
 *
 * In the last layer every row still writes its cache row, but only rows whose logits are wanted go
 * on from there. */
#include "config.h"

#include "engine/forward.h"

#include <stdlib.h>
#include <string.h>

#include "engine/attention/attention.h"
#include "engine/ffn.h"
#include "engine/router.h"
#include "engine/step.h"

/* Mechanisms that the layers of one model may name. */
#define MAX_MECHANISMS 8

struct mechanism {
    const struct attention_ops *ops;
    void *work;
};

struct layer {
    float *attn_norm;
    const struct mechanism *mechanism;
    void *attention;
    struct ffn_layer *ffn;
    struct ffn_layer *shortcut; /* experts that join behind the last layer of the group, or NULL */
    bool ends_group;            /* the last of attentions_per_layer */
    uint32_t first_plane, n_planes;
    int rows_from;              /* as in layer_tensors */
    size_t *plane_offsets;      /* in a page; set by model_bind_cache */
};

/* What a call keeps from layer to layer. */
struct stream {
    float *x, *rope_cos, *rope_sin; /* [rows][hidden], [rows][rope / 2] */
    float *shortcut; /* [rows][hidden], zero between groups; NULL: no layer has one */
    float *router_state; /* [rows][router_hidden_size] */
    struct rope_tables ropes; /* of layers that rotate by widths of their own */
    struct attention_stop stop; /* of a call in slices; kept == NULL: nothing stops */
};

struct model {
    struct model_config config;
    const struct kernels *kern;
    struct pool *pool;
    struct mechanism mechanisms[MAX_MECHANISMS];
    int n_mechanisms;
    struct rope rope;
    struct rope_tables ropes; /* as layers asked; streams have the tables */
    struct step_limits limits;
    struct scratch scratch;
    int max_logit_rows, max_position;
    enum tensor_type row_type;
    struct layer *layers;
    struct slab *slab;          /* packed weights */
    struct matrix embd, output; /* output.packed == NULL when tied to embd */
    float *output_norm;
    float *embd_scale, *embd_bias; /* [hidden], or NULL */
    struct kv_plane *planes;
    uint32_t n_planes;
    bool bound;
    uint64_t weight_bytes, step_bytes;
    /* work space of a step */
    struct products products;
    struct ffn_work *ffn_work;
    struct stream whole, sliced; /* of model_forward and of model_begin */
    const struct forward_batch *slices; /* the call begun; NULL: none */
    int next_part;               /* of it */
    float *final;
    unsigned char *final_act;
    int32_t *all_rows, *active_rows, *positions;
    const int32_t **row_tokens; /* where row i's token id is */
    struct span *all_spans, *active_spans;
    const void **px;
    float **py;
};

static void *zalloc64(size_t n_bytes)
{
    n_bytes = (n_bytes + 64) & ~(size_t)63;
    void *p = aligned_alloc(64, n_bytes);
    if (p)
        memset(p, 0, n_bytes);
    return p;
}

/* --- loading ----------------------------------------------------------------------------------- */

struct progress {
    const struct model_options *opt;
    uint64_t done, total;
};

static int report(void *arg, uint64_t n_bytes)
{
    struct progress *p = arg;
    p->done += n_bytes;
    if (!p->opt->progress)
        return 0;
    float f = p->total ? (float)p->done / (float)p->total : 1.0f;
    return p->opt->progress(p->opt->progress_arg, f > 1.0f ? 1.0f : f);
}

static const enum tensor_type row_types[] = {
    [CACHE_BF16] = TT_BF16, [CACHE_F32] = TT_F32, [CACHE_INT8] = TT_I8, [CACHE_FP8] = TT_F8_E4M3,
    [CACHE_INT4] = TT_I4,
};

enum tensor_type cache_row_type(enum cache_type type)
{
    return row_types[type];
}

static const char *const type_names[] = {
    [CACHE_BF16] = "bf16", [CACHE_F32] = "f32", [CACHE_INT8] = "int8", [CACHE_FP8] = "fp8",
    [CACHE_INT4] = "int4",
};

int cache_type_parse(const char *name)
{
    for (int i = 0; i < (int)(sizeof(type_names) / sizeof(*type_names)); i++)
        if (!strcmp(name, type_names[i]))
            return i;
    return -1;
}

const char *cache_type_name(enum cache_type type)
{
    return type_names[type];
}

static int check_served(const struct model_config *c, enum cache_type cache_type, struct err *e)
{
    if (c->kv_lora_rank % 2 && cache_type != CACHE_F32 && cache_type != CACHE_BF16)
        return err_set_param(e, ERR_UNSUPPORTED, "cache_type",
                             "kv_lora_rank %d is odd: its cache rows cannot have 8 or 4 bits",
                             c->kv_lora_rank);
    if (router_experts(c) > ROUTER_MAX_EXPERTS)
        return err_set_param(e, ERR_UNSUPPORTED, "n_routed_experts",
                             "%d experts are out of range 0..%d", router_experts(c),
                             ROUTER_MAX_EXPERTS);
    if (c->qk_rope_head_dim > ROPE_MAX_DIM || c->qk_rope_head_dim % 2)
        return err_set_param(e, ERR_UNSUPPORTED, "qk_rope_head_dim",
                             "qk_rope_head_dim %d must be even and at most %d", c->qk_rope_head_dim,
                             ROPE_MAX_DIM);
    return 0;
}

/* The mechanism that a layer names; the model's list grows with new names. */
static int find_mechanism(struct model *m, const char *name, const struct mechanism **ret,
                          struct err *e)
{
    const struct attention_ops *ops = attention_find(name);
    int i = 0;
    if (!ops)
        return err_set_param(e, ERR_UNSUPPORTED, name, "attention mechanism %s is not served", name);
    while (i < m->n_mechanisms && m->mechanisms[i].ops != ops)
        i++;
    if (i == MAX_MECHANISMS)
        return err_set(e, ERR_LIMIT, "a model has more than %d attention mechanisms", MAX_MECHANISMS);
    if (i == m->n_mechanisms)
        m->mechanisms[m->n_mechanisms++].ops = ops;
    *ret = &m->mechanisms[i];
    return 0;
}

/* A row lies in one page: pages hold a multiple of unit tokens, the least that rows of all layers make up. It
 * is doubled rather than added to, so that for one stride of any size a page has 1, 2, 4 .. rows, and blocks
 * of rows that are computed together lie in one. */
static uint32_t page_size(uint32_t least, uint32_t unit)
{
    uint32_t n = unit;
    while (n < least && n <= KV_MAX_PAGE_TOKENS)
        n *= 2;
    return least % unit ? n : least;
}

static int too_long_pages(int layer, uint32_t tokens_per_row, struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED,
                   "layer %d: its rows stand for %u tokens, those of layers before it for others: no page of "
                   "up to %d tokens is made of whole rows of all", layer, tokens_per_row, KV_MAX_PAGE_TOKENS);
}

/* Mechanisms and streams of all layers, and how many tokens a page has. */
static int plan_layers(struct model *m, const struct checkpoint *ck, struct err *e)
{
    const struct model_config *c = &m->config;
    int n = c->num_hidden_layers, group = c->attentions_per_layer > 1 ? c->attentions_per_layer : 1;
    uint32_t unit = 1; /* of tokens, which whole rows of all streams make up */
    struct kv_plane planes[ATTENTION_MAX_PLANES];
    m->layers = calloc((size_t)n, sizeof(*m->layers));
    if (!m->layers)
        return err_set(e, ERR_NOMEM, "out of memory while loading the model");
    for (int i = 0; i < n; i++) {
        struct layer *l = &m->layers[i];
        const char *name = ck->layers[i].attention;
        int r = find_mechanism(m, name ? name : "mla", &l->mechanism, e);
        if (r < 0)
            return r;
        r = l->mechanism->ops->planes(c, &ck->layers[i], m->row_type, planes);
        if (r < 0)
            return err_set(e, r, "out of memory while loading the model");
        uint32_t k = (uint32_t)r;
        struct kv_plane *all = realloc(m->planes, ((size_t)m->n_planes + k + 1) * sizeof(*all));
        l->rows_from = ck->layers[i].rows_from;
        size_t visible = l->rows_from ? m->layers[l->rows_from - 1].n_planes : k;
        l->plane_offsets = calloc(visible + 1, sizeof(*l->plane_offsets));
        m->planes = all ? all : m->planes;
        if (!all || !l->plane_offsets)
            return err_set(e, ERR_NOMEM, "out of memory while loading the model");
        for (uint32_t p = 0; p < k; p++) {
            m->planes[m->n_planes + p] = planes[p];
            if (planes[p].tokens_per_row != ATTENTION_WHOLE_PAGE)
                unit = kv_common_tokens(unit, planes[p].tokens_per_row);
            if (unit == 0)
                return too_long_pages(i, planes[p].tokens_per_row, e);
        }
        l->first_plane = m->n_planes;
        l->n_planes = k;
        l->ends_group = i % group == group - 1;
        m->n_planes += k;
    }
    m->limits.page_tokens = page_size(m->limits.page_tokens, unit);
    for (uint32_t p = 0; p < m->n_planes; p++)
        if (m->planes[p].tokens_per_row == ATTENTION_WHOLE_PAGE)
            m->planes[p].tokens_per_row = m->limits.page_tokens;
    return 0;
}

/* A layer has a dense ffn or experts; where it has both, the experts are the shortcut. */
static int load_ffn(struct model *m, struct layer *l, const struct layer_tensors *t,
                    const struct load_progress *lp, struct err *e)
{
    const struct model_config *c = &m->config;
    bool dense = t->dense.gate.data != NULL, routed = t->experts != NULL;
    int r = ffn_layer_new(c, t, dense, m->pool, lp, &l->ffn, e);
    if (r < 0)
        return r;
    m->weight_bytes += ffn_layer_bytes(l->ffn);
    if (!dense || !routed)
        return 0;
    if ((r = ffn_layer_new(c, t, false, m->pool, lp, &l->shortcut, e)) < 0)
        return r;
    m->weight_bytes += ffn_layer_bytes(l->shortcut);
    return 0;
}

static int load_weights(struct model *m, const struct checkpoint *ck, struct progress *p,
                        struct err *e)
{
    const struct model_config *c = &m->config;
    struct load_progress lp = {report, p, m->slab, ck};
    int r;
    if ((r = matrix_pack(&m->embd, &ck->token_embd, m->pool, &lp, e)) < 0)
        return r;
    if (ck->output.data != ck->token_embd.data &&
        (r = matrix_pack(&m->output, &ck->output, m->pool, &lp, e)) < 0)
        return r;
    m->output_norm = tensor_vector_f32(&ck->output_norm);
    if (!m->output_norm)
        return err_set(e, ERR_NOMEM, "out of memory while loading the model");
    if (ck->embd_scale.data && (!(m->embd_scale = tensor_vector_f32(&ck->embd_scale)) ||
                                !(m->embd_bias = tensor_vector_f32(&ck->embd_bias))))
        return err_set(e, ERR_NOMEM, "out of memory while loading the model");
    m->weight_bytes = m->embd.n_bytes + m->output.n_bytes;
    for (int i = 0; i < c->num_hidden_layers; i++) {
        struct layer *l = &m->layers[i];
        const struct layer_tensors *t = &ck->layers[i];
        const struct attention_ops *ops = l->mechanism->ops;
        l->attn_norm = tensor_vector_f32(&t->attn_norm);
        if (!l->attn_norm)
            return err_set(e, ERR_NOMEM, "out of memory while loading the model");
        if ((r = ops->layer_new(c, t, &m->limits, m->pool, &lp, &l->attention, e)) < 0 ||
            (r = load_ffn(m, l, t, &lp, e)) < 0)
            return r;
        m->weight_bytes += ops->layer_bytes(l->attention);
    }
    return 0;
}

static int stream_new(const struct model *m, struct stream *ret)
{
    size_t rows = (size_t)m->limits.max_rows, hidden = (size_t)m->config.hidden_size;
    size_t half = (size_t)m->config.qk_rope_head_dim / 2, f = sizeof(float);
    ret->x = zalloc64(rows * hidden * f);
    ret->rope_cos = zalloc64(rows * half * f);
    ret->rope_sin = zalloc64(rows * half * f);
    if (m->config.attentions_per_layer > 1 && !(ret->shortcut = zalloc64(rows * hidden * f)))
        return ERR_NOMEM;
    ret->router_state = zalloc64(rows * (size_t)m->config.router_hidden_size * f);
    ret->ropes = m->ropes;
    for (int i = 0; i < ret->ropes.n; i++) {
        struct rope_table *t = &ret->ropes.t[i];
        t->cos = zalloc64(rows * (size_t)(t->rope.dim / 2) * f);
        t->sin = zalloc64(rows * (size_t)(t->rope.dim / 2) * f);
        if (!t->cos || !t->sin)
            return ERR_NOMEM;
    }
    return ret->x && ret->rope_cos && ret->rope_sin && ret->router_state ? 0 : ERR_NOMEM;
}

static void stream_done(struct stream *s)
{
    free(s->x);
    free(s->rope_cos);
    free(s->rope_sin);
    free(s->shortcut);
    free(s->router_state);
    free(s->stop.kept);
    for (int i = 0; i < s->ropes.n; i++) {
        free(s->ropes.t[i].cos);
        free(s->ropes.t[i].sin);
    }
}

/* Work space of the mechanism for the layers that name it. */
static int mechanism_work(struct model *m, const struct checkpoint *ck, struct mechanism *mech)
{
    int n = 0, r = ERR_NOMEM;
    struct layer_tensors *of = calloc((size_t)m->config.num_hidden_layers, sizeof(*of));
    for (int i = 0; of && i < m->config.num_hidden_layers; i++)
        if (m->layers[i].mechanism == mech)
            of[n++] = ck->layers[i];
    if (of)
        r = mech->ops->work_new(&m->config, of, n, &m->limits, &mech->work);
    free(of);
    return r;
}

/* Rows of a call in slices whose attention may stop in the middle. */
static int stop_rows(const struct mechanism *mech)
{
    return mech->ops->stop_rows ? mech->ops->stop_rows(mech->work) : 0;
}

static int make_work(struct model *m, const struct checkpoint *ck, struct err *e)
{
    const struct model_config *c = &m->config;
    size_t rows = (size_t)m->limits.max_rows, seqs = (size_t)m->limits.max_seqs;
    size_t logit_rows = (size_t)m->max_logit_rows, hidden = (size_t)c->hidden_size;
    size_t half = (size_t)c->qk_rope_head_dim / 2, f = sizeof(float);
    int n_products = ffn_max_products(c), kept = 0, r = 0;
    for (int i = 0; i < c->num_hidden_layers; i++) {
        int n = m->layers[i].mechanism->ops->max_products(c, &ck->layers[i]);
        n_products = n > n_products ? n : n_products;
    }
    m->final = zalloc64(logit_rows * hidden * f);
    m->final_act = zalloc64(logit_rows * act_room(c->hidden_size));
    m->all_rows = calloc(rows, sizeof(*m->all_rows));
    m->active_rows = calloc(rows, sizeof(*m->active_rows));
    m->positions = calloc(rows, sizeof(*m->positions));
    m->row_tokens = calloc(rows, sizeof(*m->row_tokens));
    m->all_spans = calloc(seqs, sizeof(*m->all_spans));
    m->active_spans = calloc(seqs, sizeof(*m->active_spans));
    m->px = calloc(logit_rows, sizeof(*m->px));
    m->py = calloc(logit_rows, sizeof(*m->py));
    if (stream_new(m, &m->whole) < 0 || stream_new(m, &m->sliced) < 0 || !m->final || !m->final_act ||
        !m->all_rows || !m->active_rows || !m->positions || !m->row_tokens || !m->all_spans ||
        !m->active_spans || !m->px || !m->py || ffn_work_new(c, &m->limits, &m->ffn_work) < 0 ||
        products_init(&m->products, m->kern, m->pool, n_products) < 0)
        r = ERR_NOMEM;
    for (int i = 0; r == 0 && i < m->n_mechanisms; i++)
        r = mechanism_work(m, ck, &m->mechanisms[i]);
    for (int i = 0; i < m->n_mechanisms; i++) {
        int n = r == 0 ? stop_rows(&m->mechanisms[i]) : 0;
        kept = n > kept ? n : kept;
    }
    size_t kept_bytes = (size_t)kept * (size_t)c->num_attention_heads * (size_t)c->v_head_dim * f;
    if (r == 0 && (!(m->scratch.base = zalloc64(m->scratch.n_bytes)) ||
                   (kept > 0 && !(m->sliced.stop.kept = zalloc64(kept_bytes)))))
        r = ERR_NOMEM;
    if (r < 0)
        return err_set(e, ERR_NOMEM, "out of memory for the work space of %d tokens a step",
                       m->limits.max_rows);
    for (size_t i = 0; i < rows; i++)
        m->all_rows[i] = (int32_t)i;
    m->step_bytes = 2 * rows * ((m->whole.shortcut ? 2 : 1) * hidden + 2 * half +
                                (size_t)c->router_hidden_size) * f +
                    logit_rows * hidden * f + m->scratch.n_bytes + ffn_work_bytes(m->ffn_work) + kept_bytes;
    for (int i = 0; i < m->ropes.n; i++)
        m->step_bytes += 2 * rows * (uint64_t)m->ropes.t[i].rope.dim * f;
    for (int i = 0; i < m->n_mechanisms; i++)
        m->step_bytes += m->mechanisms[i].ops->work_bytes(m->mechanisms[i].work);
    return 0;
}

int model_new(const struct checkpoint *ckpt, const struct model_options *opt, struct pool *pool,
              struct model **ret, struct err *e)
{
    struct progress p = {.opt = opt, .total = ckpt->file_bytes};
    int r;
    if (opt->max_batch_tokens < 1 || opt->max_seqs < 1 || opt->max_logit_rows < 1 ||
        opt->max_position < 1)
        return err_set(e, ERR_INVAL, "a limit of the model's work space is below 1");
    if ((r = check_served(&ckpt->config, opt->cache_type, e)) < 0)
        return r;
    struct model *m = calloc(1, sizeof(*m));
    if (!m)
        return err_set(e, ERR_NOMEM, "out of memory");
    m->config = ckpt->config;
    m->kern = kern_table(opt->level);
    m->pool = pool;
    m->row_type = cache_row_type(opt->cache_type);
    m->limits = (struct step_limits){
        .max_rows = opt->max_batch_tokens,
        .max_seqs = opt->max_seqs,
        .n_threads = pool_threads(pool),
        .max_position = opt->max_position,
        .page_tokens = opt->page_tokens,
        .row_type = m->row_type,
        .kern = m->kern,
        .decompressed = opt->decompressed,
        .product = (enum mla_product_kind)opt->mla_product,
        .scratch = &m->scratch,
        .ropes = &m->ropes,
    };
    m->max_logit_rows = opt->max_logit_rows;
    m->max_position = opt->max_position;
    rope_init(&m->rope, &m->config, opt->max_position);
    m->slab = slab_new(pool);
    if (!m->slab) {
        r = err_set(e, ERR_NOMEM, "out of memory");
        goto fail;
    }
    if ((r = plan_layers(m, ckpt, e)) < 0 || (r = load_weights(m, ckpt, &p, e)) < 0 ||
        (r = make_work(m, ckpt, e)) < 0)
        goto fail;
    *ret = m;
    return 0;
fail:
    model_free(&m);
    return r;
}

void model_free(struct model **mp)
{
    struct model *m = *mp;
    *mp = NULL;
    if (!m)
        return;
    for (int i = 0; m->layers && i < m->config.num_hidden_layers; i++) {
        struct layer *l = &m->layers[i];
        free(l->attn_norm);
        free(l->plane_offsets);
        if (l->mechanism)
            l->mechanism->ops->layer_free(l->attention);
        ffn_layer_free(l->ffn);
        ffn_layer_free(l->shortcut);
    }
    for (int i = 0; i < m->n_mechanisms; i++)
        m->mechanisms[i].ops->work_free(m->mechanisms[i].work);
    free(m->layers);
    matrix_done(&m->embd);
    matrix_done(&m->output);
    slab_free(m->slab);
    free(m->output_norm);
    free(m->embd_scale);
    free(m->embd_bias);
    free(m->planes);
    products_done(&m->products);
    ffn_work_free(m->ffn_work);
    stream_done(&m->whole);
    stream_done(&m->sliced);
    free(m->scratch.base);
    free(m->final);
    free(m->final_act);
    free(m->all_rows);
    free(m->active_rows);
    free(m->positions);
    free(m->row_tokens);
    free(m->all_spans);
    free(m->active_spans);
    free(m->px);
    free(m->py);
    free(m);
}

const struct model_config *model_config(const struct model *m)
{
    return &m->config;
}

const struct kv_plane *model_planes(const struct model *m, uint32_t *ret_n_planes)
{
    *ret_n_planes = m->n_planes;
    return m->planes;
}

uint32_t model_page_tokens(const struct model *m)
{
    return m->limits.page_tokens;
}

uint64_t model_weight_bytes(const struct model *m)
{
    return m->weight_bytes;
}

uint64_t model_workspace_bytes(const struct model *m)
{
    return m->step_bytes;
}

int model_bind_cache(struct model *m, const struct kv *kv, struct err *e)
{
    if (kv_page_tokens(kv) != m->limits.page_tokens)
        return err_set_param(e, ERR_INVAL, "page_tokens", "the cache has %u tokens a page, not %u",
                             kv_page_tokens(kv), m->limits.page_tokens);
    for (int i = 0; i < m->config.num_hidden_layers; i++) {
        struct layer *l = &m->layers[i];
        const struct layer *from = l->rows_from ? &m->layers[l->rows_from - 1] : l;
        for (uint32_t p = 0; p < from->n_planes; p++)
            l->plane_offsets[p] = kv_plane_offset(kv, from->first_plane + p);
    }
    m->bound = true;
    return 0;
}

void model_profile(struct model *m, struct profile *p)
{
    m->products.profile = p;
}

void model_expert_load(const struct model *m, double *ret_mean, double *ret_max)
{
    double sum = 0, max = 0;
    int n_layers = 0;
    for (int i = 0; i < m->config.num_hidden_layers; i++) {
        const struct layer *l = &m->layers[i];
        int n;
        const uint64_t *tokens = ffn_layer_expert_tokens(l->shortcut ? l->shortcut : l->ffn, &n);
        uint64_t all = 0, most = 0;
        for (int k = 0; tokens && k < n; k++) {
            all += tokens[k];
            most = tokens[k] > most ? tokens[k] : most;
        }
        if (all == 0)
            continue;
        double ratio = (double)most * n / (double)all;
        sum += ratio;
        max = ratio > max ? ratio : max;
        n_layers++;
    }
    *ret_mean = n_layers ? sum / n_layers : 0;
    *ret_max = max;
}

/* --- a step ------------------------------------------------------------------------------------ */

static int check_batch(const struct model *m, const struct forward_batch *b)
{
    int64_t rows = 0, logits = 0;
    bool rounded = true;
    if (!m->bound || b->n_seqs < 1 || b->n_seqs > m->limits.max_seqs)
        return ERR_INVAL;
    for (int i = 0; i < b->n_seqs; i++) {
        const struct forward_seq *s = &b->seqs[i];
        if (s->n_tokens < 1 || s->n_logits < 0 || s->n_logits > s->n_tokens || s->position < 0 ||
            (int64_t)s->position + s->n_tokens > m->max_position ||
            (s->decompressed && !m->limits.decompressed) || (s->rounded && !rounded))
            return ERR_INVAL;
        rounded = s->rounded;
        for (int t = 0; t < s->n_tokens; t++)
            if (s->tokens[t] < 0 || s->tokens[t] >= m->config.vocab_size)
                return ERR_INVAL;
        rows += s->n_tokens;
        logits += s->n_logits;
    }
    return rows <= m->limits.max_rows && logits <= m->max_logit_rows ? 0 : ERR_INVAL;
}

/* All rows, and those whose logits are wanted, as two row sets. */
static void lay_out(struct model *m, const struct forward_batch *b, struct row_set *all,
                    struct row_set *active)
{
    int row = 0, n_active = 0, n_active_spans = 0, n_rounded = 0, n_active_rounded = 0;
    for (int i = 0; i < b->n_seqs; i++) {
        const struct forward_seq *s = &b->seqs[i];
        int skip = s->n_tokens - s->n_logits;
        m->all_spans[i] = (struct span){s->pages, s->position, s->n_tokens, row, s->decompressed};
        if (s->n_logits > 0)
            m->active_spans[n_active_spans++] =
                (struct span){s->pages, s->position + skip, s->n_logits, n_active, s->decompressed};
        for (int t = 0; t < s->n_tokens; t++, row++) {
            m->positions[row] = s->position + t;
            m->row_tokens[row] = &s->tokens[t];
            if (t >= skip)
                m->active_rows[n_active++] = row;
        }
        if (s->rounded) {
            n_rounded = row;
            n_active_rounded = n_active;
        }
    }
    *all = (struct row_set){row, m->all_rows, b->n_seqs, m->all_spans, n_rounded};
    *active = (struct row_set){n_active, m->active_rows, n_active_spans, m->active_spans, n_active_rounded};
}

static void scale_row(float scale, float *x, int n)
{
    for (int i = 0; i < n && scale != 0.0f; i++)
        x[i] *= scale;
}

struct rows_job {
    struct model *m;
    struct stream *of;
};

static void embed_rows(void *arg, int r0, int r1, int thread)
{
    const struct rows_job *j = arg;
    const struct model *m = j->m;
    size_t hidden = (size_t)m->config.hidden_size, half = (size_t)m->config.qk_rope_head_dim / 2;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        float *x = j->of->x + (size_t)i * hidden;
        matrix_row_f32(&m->embd, *m->row_tokens[i], x);
        scale_row(m->config.scale_emb, x, m->config.hidden_size);
        for (size_t d = 0; d < hidden && m->embd_scale; d++)
            x[d] = (x[d] + m->embd_bias[d]) * m->embd_scale[d];
        rope_angles(&m->rope, m->positions[i], j->of->rope_cos + (size_t)i * half,
                    j->of->rope_sin + (size_t)i * half);
        for (int k = 0; k < j->of->ropes.n; k++) {
            const struct rope_table *t = &j->of->ropes.t[k];
            size_t at = (size_t)i * (size_t)(t->rope.dim / 2);
            rope_angles(&t->rope, m->positions[i], t->cos + at, t->sin + at);
        }
    }
}

static void final_rows(void *arg, int r0, int r1, int thread)
{
    const struct rows_job *j = arg;
    struct model *m = j->m;
    int hidden = m->config.hidden_size;
    const struct matrix *w = m->output.packed ? &m->output : &m->embd;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        float *n = m->final + (size_t)i * (size_t)hidden;
        m->kern->rms_norm(j->of->x + (size_t)m->active_rows[i] * (size_t)hidden, m->output_norm, hidden,
                          m->config.rms_norm_eps, n);
        scale_row(m->config.logit_scale, n, hidden);
        m->px[i] = act_prepare(m->kern, w->type, false, n, hidden,
                               m->final_act + (size_t)i * act_room(hidden));
    }
}

struct shortcut_job {
    const struct model *m;
    const struct stream *of;
    const struct row_set *set;
};

/* x += s, and s = 0 for the next group. */
static void shortcut_rows(void *arg, int r0, int r1, int thread)
{
    const struct shortcut_job *j = arg;
    size_t hidden = (size_t)j->m->config.hidden_size;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        size_t at = (size_t)j->set->rows[i] * hidden;
        j->m->kern->axpy(1.0f, j->of->shortcut + at, (int)hidden, j->of->x + at);
        memset(j->of->shortcut + at, 0, hidden * sizeof(float));
    }
}

/* Half of a layer: attention, or what is fed forward. Nothing but the stream lives on behind it. False: it
 * stopped in the middle. */
static bool run_part(struct model *m, struct stream *of, const struct step *step, int part,
                     const struct row_set *all, const struct row_set *active)
{
    int i = part / 2, n = m->config.num_hidden_layers, last_group = n - m->config.attentions_per_layer;
    struct layer *l = &m->layers[i];
    const struct row_set *wanted = i == n - 1 ? active : all;
    if (part % 2 == 0) {
        struct attention_args a = {step, all, wanted, l->attn_norm, l->plane_offsets,
                                   of->stop.kept ? &of->stop : NULL};
        l->mechanism->ops->run(l->attention, l->mechanism->work, &a);
        return of->stop.heads_done == 0;
    }
    if (l->shortcut && (i < last_group || active->n_rows > 0))
        ffn_run(l->shortcut, m->ffn_work, step, i < last_group ? all : active, of->shortcut);
    if (wanted->n_rows > 0)
        ffn_run(l->ffn, m->ffn_work, step, wanted, of->x);
    if (of->shortcut && l->ends_group) {
        struct shortcut_job j = {m, of, wanted};
        rows_run(m->pool, wanted->n_rows, shortcut_rows, &j);
    }
    return true;
}

const float *model_hidden(const struct model *m)
{
    return m->final;
}

int model_parts(const struct model *m)
{
    return 2 * m->config.num_hidden_layers;
}

/* Parts [from, to) of a batch that passed check_batch, with embeddings before the first and logits behind
 * the last. Returns how many were done. */
static int run(struct model *m, struct stream *of, const struct forward_batch *batch, int from, int to)
{
    const struct model_config *c = &m->config;
    struct row_set all, active;
    struct step step = {
        .kern = m->kern,
        .pool = m->pool,
        .products = &m->products,
        .profile = m->products.profile,
        .config = c,
        .rope = &m->rope,
        .page_tokens = m->limits.page_tokens,
        .row_type = m->row_type,
        .x = of->x,
        .rope_cos = of->rope_cos,
        .rope_sin = of->rope_sin,
        .ropes = &of->ropes,
        .positions = m->positions,
        .tokens = m->row_tokens,
        .router_state = of->router_state,
    };
    struct rows_job job = {m, of};
    lay_out(m, batch, &all, &active);
    if (from == 0)
        rows_run(m->pool, all.n_rows, embed_rows, &job);
    for (int part = from; part < to; part++)
        if (!run_part(m, of, &step, part, &all, &active))
            return part - from;
    if (to < model_parts(m) || active.n_rows == 0)
        return to - from;
    rows_run(m->pool, active.n_rows, final_rows, &job);
    for (int i = 0; i < active.n_rows; i++)
        m->py[i] = batch->logits + (size_t)i * (size_t)c->vocab_size;
    struct product out = {m->output.packed ? &m->output : &m->embd, m->px, m->py, active.n_rows, 0};
    products_run(&m->products, &out, 1);
    return to - from;
}

bool model_part_stops(const struct model *m, int part)
{
    const struct forward_batch *b = m->slices;
    return part % 2 == 0 && b && b->n_seqs == 1 && b->seqs[0].decompressed &&
           b->seqs[0].n_tokens <= stop_rows(m->layers[part / 2].mechanism);
}

int model_forward(struct model *m, const struct forward_batch *batch)
{
    int r = check_batch(m, batch);
    if (r == 0)
        run(m, &m->whole, batch, 0, model_parts(m));
    return r;
}

int model_begin(struct model *m, const struct forward_batch *batch)
{
    int r = check_batch(m, batch);
    m->slices = r == 0 ? batch : NULL;
    m->next_part = 0;
    m->sliced.stop.heads_done = 0;
    if (r == 0 && m->sliced.shortcut) /* a call given up may have left some */
        memset(m->sliced.shortcut, 0,
               (size_t)m->limits.max_rows * (size_t)m->config.hidden_size * sizeof(float));
    return r;
}

int model_continue(struct model *m, int64_t until_ns)
{
    if (!m->slices)
        return ERR_INVAL;
    m->sliced.stop.until_ns = until_ns;
    m->next_part += run(m, &m->sliced, m->slices, m->next_part, m->next_part + 1);
    int left = model_parts(m) - m->next_part;
    if (left == 0)
        m->slices = NULL;
    return left;
}
