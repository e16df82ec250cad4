/* engine/attention/mla_product.c - see mla_product.h. */
#include "config.h"

#include "engine/attention/mla_product.h"

#include <stdlib.h>
#include <string.h>

struct mla_product {
    int n_heads;
    struct matrix rope;  /* the rotary rows of q_b or q_proj */
    struct matrix *w_qk; /* [heads]: kept; or NULL and: */
    struct matrix *w_uk; /* [heads]: nope -> kv_lora_rank, never quantised */
    float *w_uq;         /* [heads][inputs][nope] */
    size_t w_uq_bytes;
};

struct mla_product_work {
    struct matrix made; /* float32: the product of the head in hand */
    const void **x;     /* [threads][inputs] */
    float **y;
    uint64_t n_bytes;
    const struct kernels *kern;
    const struct mla_product *of;
    int head, nope;
};

/* --- weights ----------------------------------------------------------------------------------- */

void mla_product__free(struct mla_product *l)
{
    if (!l)
        return;
    matrix_done(&l->rope);
    for (int h = 0; h < l->n_heads; h++) {
        if (l->w_qk)
            matrix_done(&l->w_qk[h]);
        if (l->w_uk)
            matrix_done(&l->w_uk[h]);
    }
    free(l->w_qk);
    free(l->w_uk);
    free(l->w_uq);
    free(l);
}

uint64_t mla_product__bytes(const struct mla_product *l)
{
    uint64_t n = l ? l->rope.n_bytes + l->w_uq_bytes : 0;
    for (int h = 0; l && h < l->n_heads; h++)
        n += (l->w_qk ? l->w_qk[h].n_bytes : 0) + (l->w_uk ? l->w_uk[h].n_bytes : 0);
    return n;
}

/* W_UQ of a head with inputs as rows, [n_in][nope]; and [nope][kv_lora_rank] of W_UK. */
static void read_factors(const struct model_config *c, const struct layer_tensors *t, int h, float *uq,
                         float *uk, float *row)
{
    const struct tensor *q = c->q_lora_rank > 0 ? &t->q_b : &t->q_proj;
    int nope = c->qk_nope_head_dim, n_in = (int)q->ne[0], rank = c->kv_lora_rank;
    for (int d = 0; d < nope; d++) {
        tensor_row_f32(q, (int64_t)h * (nope + c->qk_rope_head_dim) + d, row);
        for (int i = 0; i < n_in; i++)
            uq[(size_t)i * (size_t)nope + (size_t)d] = row[i];
        if (uk && t->kv_b.data)
            tensor_row_f32(&t->kv_b, (int64_t)h * (nope + c->v_head_dim) + d, uk + (size_t)d * (size_t)rank);
    }
    for (int r = 0; uk && !t->kv_b.data && r < rank; r++) {
        tensor_row_f32(&t->k_b, (int64_t)h * rank + r, row);
        for (int d = 0; d < nope; d++)
            uk[(size_t)d * (size_t)rank + (size_t)r] = row[d];
    }
}

/* The product of a head's two matrices, [kv_lora_rank][n_in], stored like the file's. */
static int pack_product(struct mla_product *l, const struct model_config *c, const struct tensor *q, int h,
                        const float *uq, const float *uk, float *product, struct err *e)
{
    int nope = c->qk_nope_head_dim, n_in = (int)q->ne[0], rank = c->kv_lora_rank;
    memset(product, 0, (size_t)rank * (size_t)n_in * sizeof(float));
    for (int i = 0; i < n_in; i++)
        for (int d = 0; d < nope; d++)
            for (int r = 0; r < rank; r++)
                product[(size_t)r * (size_t)n_in + (size_t)i] +=
                    uq[(size_t)i * (size_t)nope + (size_t)d] * uk[(size_t)d * (size_t)rank + (size_t)r];
    enum tensor_type type = matrix_store_type(q->type, product, (size_t)rank * (size_t)n_in);
    return matrix_pack_f32(&l->w_qk[h], q->name, product, rank, n_in, type, e);
}

/* W_UK of a head, [nope][kv_lora_rank], turned to what makes latents' queries. */
static int pack_uk(struct mla_product *l, const struct model_config *c, const struct tensor *from, int h,
                   const float *uk, float *turned, struct err *e)
{
    int nope = c->qk_nope_head_dim, rank = c->kv_lora_rank;
    for (int d = 0; d < nope; d++)
        for (int r = 0; r < rank; r++)
            turned[(size_t)r * (size_t)nope + (size_t)d] = uk[(size_t)d * (size_t)rank + (size_t)r];
    enum tensor_type type = matrix_store_type(from->type, turned, (size_t)rank * (size_t)nope);
    return matrix_pack_f32(&l->w_uk[h], from->name, turned, rank, nope, type, e);
}

static int fill(struct mla_product *l, const struct model_config *c, const struct layer_tensors *t, bool keep,
                struct err *e)
{
    const struct tensor *q = c->q_lora_rank > 0 ? &t->q_b : &t->q_proj,
                        *k = t->kv_b.data ? &t->kv_b : &t->k_b;
    size_t nope = (size_t)c->qk_nope_head_dim, rope = (size_t)c->qk_rope_head_dim, n_in = (size_t)q->ne[0];
    size_t rank = (size_t)c->kv_lora_rank, heads = (size_t)l->n_heads, f = sizeof(float);
    float *pe = malloc(heads * rope * n_in * f), *row = malloc((n_in > rank ? n_in : rank) * f + nope * f);
    float *uk = malloc(nope * rank * f), *out = malloc(rank * (keep ? n_in : nope) * f);
    float *one = keep ? malloc(n_in * nope * f) : NULL;
    int r = pe && row && uk && out && (one || !keep) ? 0 : ERR_NOMEM;
    for (size_t h = 0; r == 0 && h < heads; h++) {
        float *uq = keep ? one : l->w_uq + h * n_in * nope;
        read_factors(c, t, (int)h, uq, uk, row);
        for (size_t d = 0; d < rope; d++)
            tensor_row_f32(q, (int64_t)(h * (nope + rope) + nope + d), pe + (h * rope + d) * n_in);
        r = keep ? pack_product(l, c, q, (int)h, uq, uk, out, e) : pack_uk(l, c, k, (int)h, uk, out, e);
    }
    if (r == 0)
        r = matrix_pack_f32(&l->rope, q->name, pe, (int)(heads * rope), (int)n_in,
                            matrix_store_type(q->type, pe, heads * rope * n_in), e);
    free(pe);
    free(row);
    free(uk);
    free(out);
    free(one);
    return r;
}

int mla_product__new(const struct model_config *c, const struct layer_tensors *t, enum mla_product_kind kind,
                     struct mla_product **ret, struct err *e)
{
    bool keep = kind == MLA_PRODUCT_KEPT;
    size_t heads = (size_t)c->num_attention_heads, nope = (size_t)c->qk_nope_head_dim;
    size_t n_in = (size_t)(c->q_lora_rank > 0 ? t->q_b : t->q_proj).ne[0];
    struct mla_product *l = calloc(1, sizeof(*l));
    int r = ERR_NOMEM;
    if (l) {
        l->n_heads = (int)heads;
        if (keep)
            l->w_qk = calloc(heads, sizeof(*l->w_qk));
        else
            l->w_uk = calloc(heads, sizeof(*l->w_uk));
        l->w_uq_bytes = keep ? 0 : heads * n_in * nope * sizeof(float);
        l->w_uq = keep ? NULL : malloc(l->w_uq_bytes);
        r = (l->w_qk || l->w_uk) && (keep || l->w_uq) ? fill(l, c, t, keep, e) : ERR_NOMEM;
    }
    if (r == 0) {
        *ret = l;
        return 0;
    }
    mla_product__free(l);
    return r == ERR_NOMEM ? err_set(e, r, "out of memory while loading an attention layer") : r;
}

/* --- a step ------------------------------------------------------------------------------------ */

int mla_product__work_new(const struct model_config *c, const struct step_limits *lim,
                          struct mla_product_work **ret)
{
    struct mla_product_work *w = calloc(1, sizeof(*w));
    int n_in = c->q_lora_rank > 0 ? c->q_lora_rank : c->hidden_size;
    if (!w)
        return ERR_NOMEM;
    size_t pointers = (size_t)lim->n_threads * (size_t)n_in;
    w->made = (struct matrix){.type = TT_F32, .n_out = c->kv_lora_rank, .n_in = n_in};
    w->made.n_bytes = kern_packed_bytes(TT_F32, c->kv_lora_rank, n_in);
    w->made.packed = aligned_alloc(64, w->made.n_bytes);
    w->x = malloc(pointers * sizeof(*w->x));
    w->y = malloc(pointers * sizeof(*w->y));
    w->nope = c->qk_nope_head_dim;
    w->n_bytes = w->made.n_bytes + pointers * (sizeof(*w->x) + sizeof(*w->y));
    if (!w->made.packed || !w->x || !w->y) {
        mla_product__work_free(w);
        return ERR_NOMEM;
    }
    memset(w->made.packed, 0, w->made.n_bytes);
    *ret = w;
    return 0;
}

void mla_product__work_free(struct mla_product_work *w)
{
    if (!w)
        return;
    free(w->made.packed);
    free(w->x);
    free(w->y);
    free(w);
}

uint64_t mla_product__work_bytes(const struct mla_product_work *w)
{
    return w ? w->n_bytes : 0;
}

/* Group g of outputs in the packed form of float32 weights: for each input the 16 values that W_UK makes
 * of its row of W_UQ. */
static void make_group(void *arg, int g, int thread)
{
    struct mla_product_work *w = arg;
    const struct matrix *uk = &w->of->w_uk[w->head];
    size_t n_in = (size_t)w->made.n_in, nope = (size_t)w->nope;
    const void **x = w->x + (size_t)thread * n_in;
    float **y = w->y + (size_t)thread * n_in;
    float *to = (float *)(void *)w->made.packed + (size_t)g * (n_in - 1) * KERN_LANES;
    const float *from = w->of->w_uq + (size_t)w->head * n_in * nope;
    for (size_t k = 0; k < n_in; k++) {
        x[k] = from + k * nope;
        y[k] = to + k * KERN_LANES; /* its outputs 16 g .. are at the group's k-th place */
    }
    kern_mul(w->kern, uk->type)(uk->packed, uk->n_out, uk->n_in, g, g + 1, x, y, (int)n_in);
}

bool mla_product__kept(const struct mla_product *l)
{
    return l->w_qk != NULL;
}

const struct matrix *mla_product__rope(const struct mla_product *l)
{
    return &l->rope;
}

const struct matrix *mla_product__of(const struct mla_product *l, struct mla_product_work *w,
                                     const struct step *st, int head)
{
    if (l->w_qk)
        return &l->w_qk[head];
    w->kern = st->kern;
    w->of = l;
    w->head = head;
    pool_run(st->pool, matrix_groups(&w->made), make_group, w);
    return &w->made;
}
