/* engine/attention/family/mtla.c - multi-head temporal latent attention (MTLA, arXiv 2505.13544): s
 * neighbouring tokens share one row, the weighted sum of their latents and the rotary key of the last of
 * them.
 *
 *     c_i = LayerNorm(x W_kva)     w_i = sigmoid(P(PE_j) C(c_i))      j = i / s, PE_j sinusoidal in j
 *     row_j = [sum over the i of chunk j so far of w_i c_i | rope(r_i) of the latest]
 *     token i sees the rows of chunks before its own and its own as it was after i      cache row / s a token
 *
 * The row of a chunk is rewritten by each of its tokens, so what it was after token i goes along with
 * i's query (paged_call.own). Each sum is made from the row as the cache holds it: one rounding a token,
 * whatever the chunks of a prompt. A row is whole at multiples of s, which pages and copied beginnings
 * of pages are: the first token of a page is the first of a chunk, for any s (model_page_tokens). */
#include "config.h"

#include "engine/attention/family/latent.h"

#include <math.h>
#include <string.h>

enum { STRIDE = LATENT_KEYS };
enum { NORM_BIAS = LATENT_SLOTS, PE, PE_BIAS, C, C_BIAS };
/* by plan.d, after those of latent.c: [raw c and r | the row after this token | PE_j | P(PE_j) | C(c)] */
enum { OWN_AT = 8, PE_AT, P_AT, C_AT };

#define NORM_EPS 1e-5f

static const struct family_key keys[] = {
    LATENT_KEY_ROWS,
    [STRIDE] = {FAMILY_INT, "temporal_stride", 1, 64, 2, NULL},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

static void check(struct keys *k, struct family_layer *l)
{
    latent_check(k, l);
    if (l->n[LATENT_RANK] % 4)
        keys__fail(k, ERR_FORMAT, "kv_lora_rank", "is %d; multiples of 4 are accepted", l->n[LATENT_RANK]);
}

static void bind(struct family_bind *b)
{
    struct latent s = latent_of(b->l);
    latent_bind(b, &s);
    family_vector(b, NORM_BIAS, "kv_a_layernorm.bias", s.width);
    family_matrix(b, PE, "temporal_pe_proj.weight", s.width, s.width / 4);
    family_vector(b, PE_BIAS, "temporal_pe_proj.bias", s.width / 4);
    family_matrix(b, C, "temporal_c_proj.weight", s.width, s.width / 4);
    family_vector(b, C_BIAS, "temporal_c_proj.bias", s.width / 4);
}

static int plan(const struct family_layer *l, struct family_plan *p)
{
    struct latent s = latent_of(l);
    int r = latent_plan(l, &s, p);
    p->d[OWN_AT] = p->row_elems;
    p->d[PE_AT] = p->d[OWN_AT] + p->row_elems;
    p->d[P_AT] = p->d[PE_AT] + s.width;
    p->d[C_AT] = p->d[P_AT] + s.width / 4;
    p->write_floats = p->d[C_AT] + s.width / 4;
    p->shape.tokens_per_row = l->n[STRIDE];
    family_plan_vecs(p, 1, s.width, 1);
    return r;
}

static void pack(struct family_pack *p)
{
    struct latent s = latent_of(p->from);
    latent_pack(p, &s);
    family_pack_matrix(p, PE);
    family_pack_matrix(p, C);
    family_pack_vector(p, NORM_BIAS);
    family_pack_vector(p, PE_BIAS);
    family_pack_vector(p, C_BIAS);
}

/* LayerNorm of the latent, the rotary key, the sinusoid of the chunk. */
static void prepare_row(struct family_call *c, int i)
{
    int r = c->l->l.n[LATENT_RANK], chunk = c->st->positions[i] / c->l->l.n[STRIDE], count;
    float *x = family_written(c, i), *pe = x + c->l->plan.d[PE_AT];
    const float *bias = c->l->part[NORM_BIAS].v;
    float mean = c->st->kern->sum_from(x, r, -INFINITY, &count) / (float)r;
    for (int d = 0; d < r; d++)
        x[d] -= mean;
    c->st->kern->rms_norm(x, c->l->part[LATENT_NORM].v, r, NORM_EPS, x);
    for (int d = 0; d < r; d++)
        x[d] += bias[d];
    family_rotate(c, 0, i, x + r);
    for (int d = 0; d < r / 2; d++) {
        double angle = chunk * pow(10000.0, -2.0 * d / r);
        pe[2 * d] = (float)sin(angle);
        pe[2 * d + 1] = (float)cos(angle);
    }
}

static float weight_of(const struct family_call *c, int i)
{
    const float *p = family_written(c, i) + c->l->plan.d[P_AT],
                *x = family_written(c, i) + c->l->plan.d[C_AT];
    const float *p_bias = c->l->part[PE_BIAS].v, *x_bias = c->l->part[C_BIAS].v;
    float sum = 0;
    for (int d = 0; d < c->l->l.n[LATENT_RANK] / 4; d++)
        sum += (p[d] + p_bias[d]) * (x[d] + x_bias[d]);
    return 1.0f / (1.0f + expf(-sum));
}

/* Adds the tokens of a span to their chunks' rows in turn. */
static void merge_span(struct family_call *c, const struct span *sp)
{
    const struct row_format *f = &c->l->plan.shape.format;
    int r = c->l->l.n[LATENT_RANK], stride = c->l->l.n[STRIDE], elems = c->l->plan.row_elems;
    int page = (int)c->st->page_tokens;
    for (int t = 0; t < sp->n_tokens; t++) {
        int position = sp->position + t;
        float *x = family_written(c, sp->first + t), *own = x + c->l->plan.d[OWN_AT];
        unsigned char *row = sp->pages[position / page] + c->a->plane_offsets[0] +
                             (size_t)(position % page / stride) * f->row_bytes;
        if (position % stride)
            family_row_read(f, row, 0, r, own);
        else
            memset(own, 0, (size_t)r * sizeof(float));
        c->st->kern->axpy(weight_of(c, sp->first + t), x, r, own);
        memcpy(own + r, x + r, (size_t)(elems - r) * sizeof(float));
        c->st->kern->row_store(f, own, row);
        family_row_read(f, row, 0, elems, own);
    }
}

static void write_rows(struct family_call *c)
{
    struct latent s = latent_of(&c->l->l);
    latent_project(c, &s);
    family_rows(c, c->all->n_rows, 32 * s.width, prepare_row);
    family_project(c, c->all, PE, 1, family_vecs(c->written, c->l->plan.d[PE_AT], 0),
                   family_vecs(c->written, c->l->plan.d[P_AT], 0));
    family_project(c, c->all, C, 1, c->written, family_vecs(c->written, c->l->plan.d[C_AT], 0));
    family_spans(c, merge_span);
}

static void own_row(struct family_call *c, int i)
{
    size_t n = (size_t)c->l->plan.row_elems;
    memcpy(c->own + (size_t)i * n, family_written(c, c->part.rows[i]) + c->l->plan.d[OWN_AT],
           n * sizeof(float));
}

static void query(struct family_call *c)
{
    struct latent s = latent_of(&c->l->l);
    latent_query(c, &s);
    family_rows(c, c->part.n_rows, 2 * c->l->plan.row_elems, own_row);
}

static void output(struct family_call *c)
{
    struct latent s = latent_of(&c->l->l);
    latent_output(c, &s);
}

const struct family_mechanism family_mtla = {
    .name = "mtla",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
    .output = output,
};
