/* engine/attention/family/mfa_kr.c - multi-matrix factorization with key reuse (MFA-KR, arXiv
 * 2412.19255): values are keys before their rotation, times a matrix.
 *
 *     q = RMSNorm(x W_qa) W_qb    k = x W_k    v = M k       cache row = k, not rotated
 *     o_h = softmax(rope(q_h) rope(k) / sqrt(dh)) v = M (softmax(..) k)
 *
 * M goes into the output projection. Keys are rotated when they are read: rows are made anew as [rope(k)
 * | k], once for all heads, with angles that are computed for any position from two tables
 * (family_angles). */
#include "config.h"

#include "engine/attention/family/mfa.h"

#include <stdlib.h>
#include <string.h>

enum { ANGLES = MFA_SLOTS };

static void bind(struct family_bind *b)
{
    mfa_bind(b);
    family_matrix(b, MFA_VALUE, "kr_map.weight", b->l->n[MFA_DIM], b->l->n[MFA_DIM]);
}

static void rotate_keys(void *arg, int group, const struct paged_rows *from, int thread, unsigned char *dst)
{
    const struct family_call *c = arg;
    (void)group;
    (void)thread;
    family_rotate_rows(c, ANGLES, c->l->l.n[MFA_DIM], from, dst, c->l->plan.make.format.row_bytes);
}

static int plan(const struct family_layer *l, struct family_plan *p)
{
    int dh = l->n[MFA_DIM];
    struct low_query q = mfa_queries(l);
    p->row_elems = p->write_floats = dh;
    p->query_floats = low_query_plan(p, &q) + dh;
    p->out_at = -1;
    p->make.rows = rotate_keys;
    p->make_elems = 2 * dh;
    p->shape = mfa_shape(l);
    return 0;
}

/* W_o,h M for every head: rows of o_proj are outputs, and each holds dh inputs of every head. */
static void pack_outputs(struct family_pack *p)
{
    const struct tensor *t = &p->from->t[MFA_O];
    int dh = p->from->n[MFA_DIM], heads = p->from->n[MFA_HEADS], hidden = p->from->hidden;
    float *o = family_floats(p, t), *map = family_floats(p, &p->from->t[MFA_VALUE]);
    float *folded = family_multiply(p, o, map, hidden * heads, dh, dh);
    family_pack_room(p, MFA_O, 1);
    family_pack_folded(p, MFA_O, t, folded, hidden, heads * dh);
    free(o);
    free(map);
    free(folded);
}

static void pack(struct family_pack *p)
{
    struct low_query q = mfa_queries(p->from);
    low_query_pack(p, &q);
    family_pack_matrix(p, MFA_K);
    family_pack_angles(p, ANGLES, p->from->n[MFA_DIM]);
    pack_outputs(p);
}

static void store_row(struct family_call *c, int i)
{
    family_store(c, i, family_written(c, i));
}

static void write_rows(struct family_call *c)
{
    family_project(c, c->all, MFA_K, 1, c->norm, c->written);
    family_rows(c, c->all->n_rows, 2 * c->l->l.n[MFA_DIM], store_row);
}

static void query_row(struct family_call *c, int i)
{
    struct low_query q = mfa_queries(&c->l->l);
    int dh = c->l->l.n[MFA_DIM];
    float *cos = family_record(c, i) + q.width + q.rank, *sin = cos + dh / 2;
    family_angles(c->l, ANGLES, dh, c->st->positions[c->part.rows[i]], cos, sin);
    for (int h = 0; h < c->l->l.n[MFA_HEADS]; h++)
        c->st->kern->rotate(cos, sin, dh / 2, c->l->l.interleave, family_lane(c, i, h));
}

static void query(struct family_call *c)
{
    struct low_query q = mfa_queries(&c->l->l);
    low_query_rows(c, &q, query_row);
}

const struct family_mechanism family_mfa_kr = {
    .name = "mfa_kr",
    .keys = mfa_keys,
    .check = mfa_check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
};
