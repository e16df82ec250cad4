/* engine/attention/family/mfa.c - multi-matrix factorization attention (MFA, arXiv 2412.19255): many
 * wide heads through a query of low rank, one key and one value for all.
 *
 *     q = RMSNorm(x W_qa) W_qb    k = x W_k    v = x W_v     q, k rotated over the whole head
 *     o_h = softmax(q_h k / sqrt(dh)) v        cache row = [k | v] */
#include "config.h"

#include "engine/attention/family/query.h"

#include <math.h>
#include <string.h>

enum { HEADS, DIM, RANK };
enum { O = FAMILY_OUT, K, V, Q };

static const struct family_key keys[] = {
    [HEADS] = {FAMILY_INT, "num_attention_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [DIM] = {FAMILY_INT, "head_dim", 2, ROPE_MAX_DIM, FAMILY_NEEDED, NULL},
    [RANK] = {FAMILY_INT, "share_q_dim", 1, MAX_DIM, FAMILY_NEEDED, NULL},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

static struct low_query queries(const struct family_layer *l)
{
    return (struct low_query){Q, l->n[RANK], l->n[HEADS] * l->n[DIM], true};
}

static void check(struct keys *k, struct family_layer *l)
{
    if (l->n[DIM] % 2)
        keys__fail(k, ERR_FORMAT, "head_dim", "is %d; even numbers are accepted", l->n[DIM]);
}

static void bind(struct family_bind *b)
{
    const int *n = b->l->n;
    struct low_query q = queries(b->l);
    low_query_bind(b, &q);
    family_matrix(b, K, "k_proj.weight", b->l->hidden, n[DIM]);
    family_matrix(b, V, "v_proj.weight", b->l->hidden, n[DIM]);
    family_matrix(b, O, "o_proj.weight", (int64_t)n[HEADS] * n[DIM], b->l->hidden);
}

static int plan(const struct family_layer *l, struct family_plan *p)
{
    int dh = l->n[DIM];
    struct low_query q = queries(l);
    p->row_elems = p->write_floats = 2 * dh;
    p->query_floats = low_query_plan(p, &q);
    p->out_at = -1;
    p->rope_dims[0] = dh;
    p->shape = (struct paged_shape){.n_heads = l->n[HEADS], .dk = dh, .dv = dh, .v_off = dh,
                                    .scale = 1.0f / sqrtf((float)dh)};
    return 0;
}

static void pack(struct family_pack *p)
{
    struct low_query q = queries(p->from);
    low_query_pack(p, &q);
    family_pack_matrix(p, K);
    family_pack_matrix(p, V);
    family_pack_matrix(p, O);
}

static void store_row(struct family_call *c, int i)
{
    family_rotate(c, 0, i, family_written(c, i));
    family_store(c, i, family_written(c, i));
}

static void write_rows(struct family_call *c)
{
    int dh = c->l->l.n[DIM];
    family_project(c, c->all, K, 1, c->norm, family_vecs(c->written, 0, 0));
    family_project(c, c->all, V, 1, c->norm, family_vecs(c->written, dh, 0));
    family_rows(c, c->all->n_rows, 6 * dh, store_row);
}

static void query_row(struct family_call *c, int i)
{
    struct family_vecs lanes = family_queries(c, 0);
    size_t dh = (size_t)c->l->l.n[DIM];
    for (int h = 0; h < c->l->l.n[HEADS]; h++) {
        float *q = family_at(&lanes, i, h);
        memcpy(q, family_record(c, i) + (size_t)h * dh, dh * sizeof(float));
        family_rotate(c, 0, c->part.rows[i], q);
    }
}

static void query(struct family_call *c)
{
    struct low_query q = queries(&c->l->l);
    low_query_run(c, &q, 0);
    family_rows(c, c->part.n_rows, 4 * q.width, query_row);
}

const struct family_mechanism family_mfa = {
    .name = "mfa",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
};
