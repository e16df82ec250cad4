/* engine/attention/family/mfa.c - multi-matrix factorization attention (MFA, arXiv 2412.19255): many
 * wide heads through a query of low rank, one key and one value for all.
 *
 *     q = RMSNorm(x W_qa) W_qb    k = x W_k    v = x W_v     q, k rotated over the whole head
 *     o_h = softmax(q_h k / sqrt(dh)) v        cache row = [k | v] */
#include "config.h"

#include "engine/attention/family/mfa.h"

#include <math.h>

const struct family_key mfa_keys[] = {
    [MFA_HEADS] = {FAMILY_INT, "num_attention_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [MFA_DIM] = {FAMILY_INT, "head_dim", 2, ROPE_MAX_DIM, FAMILY_NEEDED, NULL},
    [MFA_RANK] = {FAMILY_INT, "share_q_dim", 1, MAX_DIM, FAMILY_NEEDED, NULL},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

void mfa_check(struct keys *k, struct family_layer *l)
{
    if (l->n[MFA_DIM] % 2)
        keys__fail(k, ERR_FORMAT, "head_dim", "is %d; even numbers are accepted", l->n[MFA_DIM]);
}

struct low_query mfa_queries(const struct family_layer *l)
{
    return (struct low_query){MFA_Q, l->n[MFA_RANK], l->n[MFA_HEADS] * l->n[MFA_DIM], true, 0.0f};
}

void mfa_bind(struct family_bind *b)
{
    const int *n = b->l->n;
    struct low_query q = mfa_queries(b->l);
    low_query_bind(b, &q);
    family_matrix(b, MFA_K, "k_proj.weight", b->l->hidden, n[MFA_DIM]);
    family_matrix(b, MFA_O, "o_proj.weight", (int64_t)n[MFA_HEADS] * n[MFA_DIM], b->l->hidden);
}

struct paged_shape mfa_shape(const struct family_layer *l)
{
    int dh = l->n[MFA_DIM];
    return (struct paged_shape){.n_heads = l->n[MFA_HEADS], .dk = dh, .dv = dh, .v_off = dh,
                                .scale = 1.0f / sqrtf((float)dh)};
}

static void bind(struct family_bind *b)
{
    mfa_bind(b);
    family_matrix(b, MFA_VALUE, "v_proj.weight", b->l->hidden, b->l->n[MFA_DIM]);
}

static int plan(const struct family_layer *l, struct family_plan *p)
{
    int dh = l->n[MFA_DIM];
    struct low_query q = mfa_queries(l);
    p->row_elems = p->write_floats = 2 * dh;
    p->query_floats = low_query_plan(p, &q);
    p->out_at = -1;
    p->rope_dims[0] = dh;
    p->shape = mfa_shape(l);
    return 0;
}

static void pack(struct family_pack *p)
{
    struct low_query q = mfa_queries(p->from);
    low_query_pack(p, &q);
    family_pack_matrix(p, MFA_K);
    family_pack_matrix(p, MFA_VALUE);
    family_pack_matrix(p, MFA_O);
}

static void store_row(struct family_call *c, int i)
{
    family_rotate(c, 0, i, family_written(c, i));
    family_store(c, i, family_written(c, i));
}

static void write_rows(struct family_call *c)
{
    int dh = c->l->l.n[MFA_DIM];
    family_project(c, c->all, MFA_K, 1, c->norm, family_vecs(c->written, 0, 0));
    family_project(c, c->all, MFA_VALUE, 1, c->norm, family_vecs(c->written, dh, 0));
    family_rows(c, c->all->n_rows, 6 * dh, store_row);
}

static void query_row(struct family_call *c, int i)
{
    for (int h = 0; h < c->l->l.n[MFA_HEADS]; h++)
        family_rotate(c, 0, c->part.rows[i], family_lane(c, i, h));
}

static void query(struct family_call *c)
{
    struct low_query q = mfa_queries(&c->l->l);
    low_query_rows(c, &q, query_row);
}

const struct family_mechanism family_mfa = {
    .name = "mfa",
    .keys = mfa_keys,
    .check = mfa_check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
};
