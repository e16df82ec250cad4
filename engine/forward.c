/* engine/forward.c - the forward pass over a mixed batch; see forward.h. Engine thread.
 *
 *     x = embedding[token]
 *     for each layer:  x += attention(RMSNorm(x));  x += ffn(RMSNorm(x))
 *     logits = RMSNorm(x) W_out                      for the rows that asked
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

struct layer {
    float *attn_norm;
    void *attention;
    struct ffn_layer *ffn;
    size_t plane_offset; /* of its stream in a page; set by model_bind_cache */
};

struct model {
    struct model_config config;
    const struct kernels *kern;
    struct pool *pool;
    const struct attention_ops *attention;
    struct rope rope;
    struct step_limits limits;
    int max_logit_rows, max_position;
    enum tensor_type row_type;
    struct layer *layers;
    struct matrix embd, output; /* output.packed == NULL when tied to embd */
    float *output_norm;
    struct kv_plane *planes;
    bool bound;
    uint64_t weight_bytes, step_bytes;
    /* work space of a step */
    struct products products;
    void *attention_work;
    struct ffn_work *ffn_work;
    float *x, *rope_cos, *rope_sin, *final;
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

static int check_served(const struct model_config *c, struct err *e)
{
    if (c->n_routed_experts > 0 && c->gating != GATING_SIGMOID)
        return err_set_param(e, ERR_UNSUPPORTED, "expert_gating_func",
                             "expert gating function %d is not served; sigmoid (2) is", c->gating);
    if (c->n_routed_experts > ROUTER_MAX_EXPERTS)
        return err_set_param(e, ERR_UNSUPPORTED, "n_routed_experts",
                             "n_routed_experts %d is out of range 0..%d", c->n_routed_experts,
                             ROUTER_MAX_EXPERTS);
    if (c->qk_rope_head_dim > ROPE_MAX_DIM || c->qk_rope_head_dim % 2)
        return err_set_param(e, ERR_UNSUPPORTED, "qk_rope_head_dim",
                             "qk_rope_head_dim %d must be even and at most %d", c->qk_rope_head_dim,
                             ROPE_MAX_DIM);
    return 0;
}

static float *vector_copy(const struct tensor *t)
{
    float *v = zalloc64((size_t)t->ne[0] * sizeof(float));
    if (v)
        tensor_row_f32(t, 0, v);
    return v;
}

static int load_weights(struct model *m, const struct checkpoint *ck, struct progress *p,
                        struct err *e)
{
    const struct model_config *c = &m->config;
    struct load_progress lp = {report, p};
    int r;
    if ((r = matrix_pack(&m->embd, &ck->token_embd, m->pool, &lp, e)) < 0)
        return r;
    if (ck->output.data != ck->token_embd.data &&
        (r = matrix_pack(&m->output, &ck->output, m->pool, &lp, e)) < 0)
        return r;
    m->output_norm = vector_copy(&ck->output_norm);
    m->layers = calloc((size_t)c->num_hidden_layers, sizeof(*m->layers));
    if (!m->output_norm || !m->layers)
        return err_set(e, ERR_NOMEM, "out of memory while loading the model");
    m->weight_bytes = m->embd.n_bytes + m->output.n_bytes;
    for (int i = 0; i < c->num_hidden_layers; i++) {
        struct layer *l = &m->layers[i];
        const struct layer_tensors *t = &ck->layers[i];
        bool dense = c->n_routed_experts == 0 || i < c->first_k_dense_replace;
        l->attn_norm = vector_copy(&t->attn_norm);
        if (!l->attn_norm)
            return err_set(e, ERR_NOMEM, "out of memory while loading the model");
        if ((r = m->attention->layer_new(c, t, m->pool, &lp, &l->attention, e)) < 0 ||
            (r = ffn_layer_new(c, t, dense, m->pool, &lp, &l->ffn, e)) < 0)
            return r;
        m->weight_bytes += m->attention->layer_bytes(l->attention) + ffn_layer_bytes(l->ffn);
    }
    return 0;
}

static int make_work(struct model *m, struct err *e)
{
    const struct model_config *c = &m->config;
    size_t rows = (size_t)m->limits.max_rows, seqs = (size_t)m->limits.max_seqs;
    size_t logit_rows = (size_t)m->max_logit_rows, hidden = (size_t)c->hidden_size;
    size_t half = (size_t)c->qk_rope_head_dim / 2, f = sizeof(float);
    int n_products = m->attention->max_products(c);
    if (ffn_max_products(c) > n_products)
        n_products = ffn_max_products(c);
    m->x = zalloc64(rows * hidden * f);
    m->rope_cos = zalloc64(rows * half * f);
    m->rope_sin = zalloc64(rows * half * f);
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
    if (!m->x || !m->rope_cos || !m->rope_sin || !m->final || !m->final_act || !m->all_rows ||
        !m->active_rows || !m->positions || !m->row_tokens || !m->all_spans || !m->active_spans ||
        !m->px || !m->py || products_init(&m->products, m->kern, m->pool, n_products) < 0 ||
        m->attention->work_new(c, &m->limits, &m->attention_work) < 0 ||
        ffn_work_new(c, &m->limits, &m->ffn_work) < 0)
        return err_set(e, ERR_NOMEM, "out of memory for the work space of %d tokens a step",
                       m->limits.max_rows);
    for (size_t i = 0; i < rows; i++)
        m->all_rows[i] = (int32_t)i;
    m->step_bytes = rows * (hidden + 2 * half) * f + logit_rows * hidden * f +
                    m->attention->work_bytes(m->attention_work) + ffn_work_bytes(m->ffn_work);
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
    if ((r = check_served(&ckpt->config, e)) < 0)
        return r;
    struct model *m = calloc(1, sizeof(*m));
    if (!m)
        return err_set(e, ERR_NOMEM, "out of memory");
    m->config = ckpt->config;
    m->kern = kern_table(opt->level);
    m->pool = pool;
    m->attention = attention_find("mla");
    m->row_type = opt->cache_type == CACHE_F32 ? TT_F32 : TT_BF16;
    m->limits = (struct step_limits){
        .max_rows = opt->max_batch_tokens,
        .max_seqs = opt->max_seqs,
        .n_threads = pool_threads(pool),
        .page_tokens = opt->page_tokens,
        .row_type = m->row_type,
    };
    m->max_logit_rows = opt->max_logit_rows;
    m->max_position = opt->max_position;
    rope_init(&m->rope, &m->config);
    m->planes = calloc((size_t)m->config.num_hidden_layers, sizeof(*m->planes));
    if (!m->planes) {
        r = err_set(e, ERR_NOMEM, "out of memory");
        goto fail;
    }
    for (int i = 0; i < m->config.num_hidden_layers; i++)
        m->attention->plane(&m->config, m->row_type, &m->planes[i]);
    if ((r = load_weights(m, ckpt, &p, e)) < 0 || (r = make_work(m, e)) < 0)
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
        free(m->layers[i].attn_norm);
        m->attention->layer_free(m->layers[i].attention);
        ffn_layer_free(m->layers[i].ffn);
    }
    free(m->layers);
    matrix_done(&m->embd);
    matrix_done(&m->output);
    free(m->output_norm);
    free(m->planes);
    products_done(&m->products);
    m->attention->work_free(m->attention_work);
    ffn_work_free(m->ffn_work);
    free(m->x);
    free(m->rope_cos);
    free(m->rope_sin);
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
    *ret_n_planes = (uint32_t)m->config.num_hidden_layers;
    return m->planes;
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
    for (int i = 0; i < m->config.num_hidden_layers; i++)
        m->layers[i].plane_offset = kv_plane_offset(kv, (uint32_t)i);
    m->bound = true;
    return 0;
}

/* --- a step ------------------------------------------------------------------------------------ */

static int check_batch(const struct model *m, const struct forward_batch *b)
{
    int64_t rows = 0, logits = 0;
    if (!m->bound || b->n_seqs < 1 || b->n_seqs > m->limits.max_seqs)
        return ERR_INVAL;
    for (int i = 0; i < b->n_seqs; i++) {
        const struct forward_seq *s = &b->seqs[i];
        if (s->n_tokens < 1 || s->n_logits < 0 || s->n_logits > s->n_tokens || s->position < 0 ||
            (int64_t)s->position + s->n_tokens > m->max_position)
            return ERR_INVAL;
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
    int row = 0, n_active = 0, n_active_spans = 0;
    for (int i = 0; i < b->n_seqs; i++) {
        const struct forward_seq *s = &b->seqs[i];
        int skip = s->n_tokens - s->n_logits;
        m->all_spans[i] = (struct span){s->pages, s->position, s->n_tokens, row};
        if (s->n_logits > 0)
            m->active_spans[n_active_spans++] =
                (struct span){s->pages, s->position + skip, s->n_logits, n_active};
        for (int t = 0; t < s->n_tokens; t++, row++) {
            m->positions[row] = s->position + t;
            m->row_tokens[row] = &s->tokens[t];
            if (t >= skip)
                m->active_rows[n_active++] = row;
        }
    }
    *all = (struct row_set){row, m->all_rows, b->n_seqs, m->all_spans};
    *active = (struct row_set){n_active, m->active_rows, n_active_spans, m->active_spans};
}

static void embed_rows(void *arg, int r0, int r1, int thread)
{
    struct model *m = arg;
    size_t hidden = (size_t)m->config.hidden_size, half = (size_t)m->config.qk_rope_head_dim / 2;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        matrix_row_f32(&m->embd, *m->row_tokens[i], m->x + (size_t)i * hidden);
        rope_angles(&m->rope, m->positions[i], m->rope_cos + (size_t)i * half,
                    m->rope_sin + (size_t)i * half);
    }
}

static void final_rows(void *arg, int r0, int r1, int thread)
{
    struct model *m = arg;
    int hidden = m->config.hidden_size;
    const struct matrix *w = m->output.packed ? &m->output : &m->embd;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        float *n = m->final + (size_t)i * (size_t)hidden;
        m->kern->rms_norm(m->x + (size_t)m->active_rows[i] * (size_t)hidden, m->output_norm, hidden,
                          m->config.rms_norm_eps, n);
        m->px[i] = act_prepare(m->kern, w->type, n, hidden,
                               m->final_act + (size_t)i * act_room(hidden));
    }
}

int model_forward(struct model *m, const struct forward_batch *batch)
{
    const struct model_config *c = &m->config;
    struct row_set all, active;
    int r = check_batch(m, batch);
    if (r < 0)
        return r;
    struct step step = {
        .kern = m->kern,
        .pool = m->pool,
        .products = &m->products,
        .config = c,
        .rope = &m->rope,
        .page_tokens = m->limits.page_tokens,
        .row_type = m->row_type,
        .x = m->x,
        .rope_cos = m->rope_cos,
        .rope_sin = m->rope_sin,
    };
    lay_out(m, batch, &all, &active);
    rows_run(m->pool, all.n_rows, embed_rows, m);
    for (int i = 0; i < c->num_hidden_layers; i++) {
        struct layer *l = &m->layers[i];
        const struct row_set *wanted = i == c->num_hidden_layers - 1 ? &active : &all;
        struct attention_args a = {&step, &all, wanted, l->attn_norm, l->plane_offset};
        m->attention->run(l->attention, m->attention_work, &a);
        if (wanted->n_rows > 0)
            ffn_run(l->ffn, m->ffn_work, &step, wanted);
    }
    if (active.n_rows == 0)
        return 0;
    rows_run(m->pool, active.n_rows, final_rows, m);
    for (int i = 0; i < active.n_rows; i++)
        m->py[i] = batch->logits + (size_t)i * (size_t)c->vocab_size;
    struct product out = {m->output.packed ? &m->output : &m->embd, m->px, m->py, active.n_rows};
    products_run(&m->products, &out, 1);
    return 0;
}
