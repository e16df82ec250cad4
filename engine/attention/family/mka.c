/* engine/attention/family/mka.c - memory-keyed attention (MKA, arXiv 2603.20586), whole and fast: keys
 * and values of the token itself and of a running mean of the tokens so far, weighted by a router.
 *
 *     L1_t = x_t    L2_t = decay L2_t-1 + (1 - decay) x_t      lambda = softmax(B act(A q_t + a) + b)
 *     mka:       out = sum over l of lambda_t,l attention(q_t, L_l W_k, L_l W_v)   lambda of the query's
 *     token
 *                cache rows = [k | v] for each group and level        act = gelu
 *     fast_mka:  f_t = sum over l of lambda_t,l L_l,t    attention(q, f W_k, f W_v)     lambda of the
 *     key's own
 *                cache rows = [k | v] for each group                  act = silu
 *
 * The running mean is the state of a sequence: hidden_size values after the last token of each page. */
#include "config.h"

#include "engine/attention/family.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS, GROUPS, DIM, DECAY, LEVELS, ROTARY };
enum { O = FAMILY_OUT, Q, K, V, A, A_BIAS, B, B_BIAS };

static const struct family_key keys[] = {
    [HEADS] = {FAMILY_INT, "num_attention_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [GROUPS] = {FAMILY_INT, "num_key_value_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [DIM] = {FAMILY_INT, "head_dim", 2, ROPE_MAX_DIM, FAMILY_NEEDED, NULL},
    [DECAY] = {FAMILY_NUMBER, "memory_decay", 0, 1, 0.9, NULL},
    [LEVELS] = {FAMILY_INT, "memory_levels", 2, 2, 2, NULL},
    [ROTARY] = {FAMILY_INT, "rotary_dim", 0, ROPE_MAX_DIM, -1, NULL},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

/* Sizes by plan.d */
enum { MEAN_AT, QUERY_AT, ROUTER_AT };

static void check(struct keys *k, struct family_layer *l)
{
    int *n = l->n;
    n[ROTARY] = n[ROTARY] < 0 ? n[DIM] : n[ROTARY];
    if (n[DIM] % 2)
        keys__fail(k, ERR_FORMAT, "head_dim", "is %d; even numbers are accepted", n[DIM]);
    if (n[ROTARY] % 2 || n[ROTARY] > n[DIM])
        keys__fail(k, ERR_FORMAT, "rotary_dim", "is %d; even numbers up to head_dim (%d) are accepted",
                   n[ROTARY], n[DIM]);
    if (n[HEADS] % n[GROUPS])
        keys__fail(k, ERR_FORMAT, "num_key_value_heads", "is %d and does not divide %d heads", n[GROUPS],
                   n[HEADS]);
    if (l->hidden % 2)
        keys__fail(k, ERR_FORMAT, "hidden_size", "is %d; even numbers are accepted", l->hidden);
}

static int router_dim(const struct family_layer *l)
{
    return l->hidden / 2;
}

static void bind(struct family_bind *b)
{
    const int *n = b->l->n;
    int64_t hidden = b->l->hidden, wide = (int64_t)n[HEADS] * n[DIM], kv = (int64_t)n[GROUPS] * n[DIM];
    family_matrix(b, Q, "q_proj.weight", hidden, wide);
    family_matrix(b, K, "k_proj.weight", hidden, kv);
    family_matrix(b, V, "v_proj.weight", hidden, kv);
    family_matrix(b, O, "o_proj.weight", wide, hidden);
    family_matrix(b, A, "router_a.weight", wide, router_dim(b->l));
    family_vector(b, A_BIAS, "router_a.bias", router_dim(b->l));
    family_matrix(b, B, "router_b.weight", router_dim(b->l), 2);
    family_vector(b, B_BIAS, "router_b.bias", 2);
}

static void pack(struct family_pack *p)
{
    for (int i = O; i <= A; i++)
        family_pack_matrix(p, i);
    family_pack_matrix(p, B);
    family_pack_vector(p, A_BIAS);
    family_pack_vector(p, B_BIAS);
}

/* --- what both share --------------------------------------------------------------------------- */

static void plan_common(const struct family_layer *l, struct family_plan *p)
{
    const int *n = l->n;
    p->state_floats = l->hidden;
    p->n_out = n[HEADS] * n[DIM];
    p->rope_dims[0] = n[ROTARY];
    p->shape = (struct paged_shape){.n_heads = n[HEADS], .dk = n[DIM], .dv = n[DIM],
                                    .scale = 1.0f / sqrtf((float)n[DIM])};
    family_plan_vecs(p, 1, p->n_out, 1);
    family_plan_vecs(p, 1, router_dim(l), 1);
}

/* The mean of each token in its record, and where a page ends. */
static void scan_span(struct family_call *c, const struct span *sp)
{
    const struct family_layer *l = &c->l->l;
    const float *mean = family_state(c, sp, sp->position - 1);
    float decay = l->f[DECAY], rest = 1.0f - decay;
    for (int t = 0; t < sp->n_tokens; t++) {
        const float *x = family_at(&c->norm, sp->first + t, 0);
        float *to = family_written(c, sp->first + t) + c->l->plan.d[MEAN_AT];
        for (int d = 0; d < l->hidden; d++)
            to[d] = decay * (mean ? mean[d] : 0.0f) + rest * x[d];
        mean = to;
        if (sp->position + t == family_page_end(c, sp, sp->position + t))
            memcpy(family_state(c, sp, sp->position + t), to, (size_t)l->hidden * sizeof(float));
    }
}

/* Router of a set of rows whose queries, as projected, are at d[QUERY_AT] of v. */
static void route(struct family_call *c, const struct row_set *set, struct family_vecs v, int n,
                  void (*act)(struct family_call *c, int i))
{
    int q = c->l->plan.d[QUERY_AT], at = c->l->plan.d[ROUTER_AT];
    family_project(c, set, A, 1, family_vecs(v, q, 0), family_vecs(v, at, 0));
    family_rows(c, n, 8 * router_dim(&c->l->l), act);
    family_project(c, set, B, 1, family_vecs(v, at, 0), family_vecs(v, at + router_dim(&c->l->l), 0));
}

static void rotated_queries(struct family_call *c, int i, const float *q)
{
    struct family_vecs lanes = family_queries(c, 0);
    size_t dh = (size_t)c->l->l.n[DIM];
    int heads = c->l->l.n[HEADS];
    for (int v = 0; v < c->l->plan.shape.n_heads; v++) {
        float *to = family_at(&lanes, i, v);
        memcpy(to, q + (size_t)(v % heads) * dh, dh * sizeof(float));
        if (c->l->l.n[ROTARY])
            family_rotate(c, 0, c->part.rows[i], to);
    }
}

/* Keys and values of all groups, to streams from `plane` on; row: room for one. */
static void store_keys(struct family_call *c, int i, int plane, float *k, float *row)
{
    int dh = c->l->l.n[DIM], n = c->l->l.n[GROUPS];
    for (int g = 0; g < n; g++) {
        if (c->l->l.n[ROTARY])
            family_rotate(c, 0, i, k + g * dh);
        family_store_pair(c, i, plane + g, k + g * dh, k + (n + g) * dh, row);
    }
}

/* --- mka --------------------------------------------------------------------------------------- */

/* Records: written [keys, values of both | mean | a row]; of a query [queries, then outputs | router's
 * hidden values | lambda] */
static int plan_whole(const struct family_layer *l, struct family_plan *p)
{
    const int *n = l->n;
    int kv = n[GROUPS] * n[DIM];
    plan_common(l, p);
    p->shape.n_heads = 2 * n[HEADS];
    p->d[MEAN_AT] = 4 * kv;
    p->d[QUERY_AT] = 0;
    p->d[ROUTER_AT] = p->n_out;
    p->write_floats = 4 * kv + l->hidden + 2 * n[DIM];
    p->query_floats = p->n_out + router_dim(l) + 2;
    return family_plan_streams(p, 2 * n[GROUPS]);
}

static void store_whole(struct family_call *c, int i)
{
    int n = c->l->l.n[GROUPS];
    float *all = family_written(c, i), *row = all + c->l->plan.write_floats - 2 * c->l->l.n[DIM];
    store_keys(c, i, 0, all, row);
    store_keys(c, i, n, all + 2 * n * c->l->l.n[DIM], row);
}

static void write_whole(struct family_call *c)
{
    int kv = c->l->l.n[GROUPS] * c->l->l.n[DIM];
    family_spans(c, scan_span);
    for (int level = 0; level < 2; level++) {
        struct family_vecs x = level ? family_vecs(c->written, c->l->plan.d[MEAN_AT], 0) : c->norm;
        family_project(c, c->all, K, 1, x, family_vecs(c->written, 2 * level * kv, 0));
        family_project(c, c->all, V, 1, x, family_vecs(c->written, (2 * level + 1) * kv, 0));
    }
    family_rows(c, c->all->n_rows, 12 * kv, store_whole);
}

static void gelu_row(struct family_call *c, int i)
{
    float *a = family_record(c, i) + c->l->plan.d[ROUTER_AT];
    for (int d = 0; d < router_dim(&c->l->l); d++) {
        float x = a[d] + c->l->part[A_BIAS].v[d];
        a[d] = 0.5f * x * (1.0f + erff(x * (float)M_SQRT1_2));
    }
    rotated_queries(c, i, family_record(c, i));
}

static void query_whole(struct family_call *c)
{
    family_project(c, &c->part, Q, 1, family_part_norm(c), c->record);
    route(c, &c->part, c->record, c->part.n_rows, gelu_row);
}

static void output_row(struct family_call *c, int i)
{
    struct family_vecs found = family_found(c, 0);
    float *out = family_record(c, i), *lambda = out + c->l->plan.d[ROUTER_AT] + router_dim(&c->l->l);
    const float *first = family_at(&found, i, 0), *second = family_at(&found, i, c->l->l.n[HEADS]);
    family_softmax(lambda, c->l->part[B_BIAS].v, 2);
    for (int d = 0; d < c->l->plan.n_out; d++)
        out[d] = lambda[0] * first[d] + lambda[1] * second[d];
}

static void output_whole(struct family_call *c)
{
    family_rows(c, c->part.n_rows, 3 * c->l->plan.n_out, output_row);
}

const struct family_mechanism family_mka = {
    .name = "mka",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan_whole,
    .pack = pack,
    .write = write_whole,
    .query = query_whole,
    .output = output_whole,
};

/* --- fast_mka ---------------------------------------------------------------------------------- */

/* Records: written [keys, values | mean, then the mixture | queries | router's hidden values | lambda |
 * a row] */
static int plan_fast(const struct family_layer *l, struct family_plan *p)
{
    int kv = l->n[GROUPS] * l->n[DIM];
    plan_common(l, p);
    p->d[MEAN_AT] = 2 * kv;
    p->d[QUERY_AT] = p->d[MEAN_AT] + l->hidden;
    p->d[ROUTER_AT] = p->d[QUERY_AT] + p->n_out;
    p->write_floats = p->d[ROUTER_AT] + router_dim(l) + 2 + 2 * l->n[DIM];
    p->out_at = -1;
    return family_plan_streams(p, l->n[GROUPS]);
}

static void silu_row(struct family_call *c, int i)
{
    float *a = family_written(c, i) + c->l->plan.d[ROUTER_AT];
    for (int d = 0; d < router_dim(&c->l->l); d++) {
        float x = a[d] + c->l->part[A_BIAS].v[d];
        a[d] = x / (1.0f + expf(-x));
    }
}

static void mix_row(struct family_call *c, int i)
{
    const float *x = family_at(&c->norm, i, 0);
    float *mean = family_written(c, i) + c->l->plan.d[MEAN_AT];
    float *lambda = family_written(c, i) + c->l->plan.d[ROUTER_AT] + router_dim(&c->l->l);
    family_softmax(lambda, c->l->part[B_BIAS].v, 2);
    for (int d = 0; d < c->l->l.hidden; d++)
        mean[d] = lambda[0] * x[d] + lambda[1] * mean[d];
}

static void store_fast(struct family_call *c, int i)
{
    float *all = family_written(c, i);
    store_keys(c, i, 0, all, all + c->l->plan.write_floats - 2 * c->l->l.n[DIM]);
}

static void write_fast(struct family_call *c)
{
    int kv = c->l->l.n[GROUPS] * c->l->l.n[DIM], n = c->all->n_rows;
    struct family_vecs mixture = family_vecs(c->written, c->l->plan.d[MEAN_AT], 0);
    family_spans(c, scan_span);
    family_project(c, c->all, Q, 1, c->norm, family_vecs(c->written, c->l->plan.d[QUERY_AT], 0));
    route(c, c->all, c->written, n, silu_row);
    family_rows(c, n, 3 * c->l->l.hidden, mix_row);
    family_project(c, c->all, K, 1, mixture, c->written);
    family_project(c, c->all, V, 1, mixture, family_vecs(c->written, kv, 0));
    family_rows(c, n, 6 * kv, store_fast);
}

static void query_fast_row(struct family_call *c, int i)
{
    rotated_queries(c, i, family_written(c, c->part.rows[i]) + c->l->plan.d[QUERY_AT]);
}

static void query_fast(struct family_call *c)
{
    family_rows(c, c->part.n_rows, 3 * c->l->plan.n_out, query_fast_row);
}

const struct family_mechanism family_fast_mka = {
    .name = "fast_mka",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan_fast,
    .pack = pack,
    .write = write_fast,
    .query = query_fast,
};
