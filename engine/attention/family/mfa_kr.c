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

#include "engine/attention/family/query.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS, DIM, RANK };
enum { O = FAMILY_OUT, K, MAP, Q, ANGLES = Q + 4 };

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
    family_matrix(b, MAP, "kr_map.weight", n[DIM], n[DIM]);
    family_matrix(b, O, "o_proj.weight", (int64_t)n[HEADS] * n[DIM], b->l->hidden);
}

static void rotate_keys(void *arg, int group, const struct paged_rows *from, int thread, unsigned char *dst)
{
    const struct family_call *c = arg;
    const struct row_format *f = &c->l->plan.make.format;
    int dh = c->l->l.n[DIM], half = dh / 2;
    float *k = c->make_floats + (size_t)thread * (size_t)c->l->plan.make_floats, *cos = k + dh,
          *sin = cos + half;
    size_t plain = (size_t)dh * family_row_size(f);
    (void)group;
    for (int i = 0; i < from->n; i++, dst += f->row_bytes) {
        const unsigned char *row = paged_row(from, i);
        family_row_read(f, row, 0, dh, k);
        family_angles(c->l, ANGLES, dh, from->t0 + i, cos, sin);
        c->st->kern->rotate(cos, sin, half, c->l->l.interleave, k);
        family_row_write(c->st->kern, f, k, 0, dh, dst);
        memcpy(dst + plain, row, plain);
    }
}

static int plan(const struct family_layer *l, struct family_plan *p)
{
    int dh = l->n[DIM];
    struct low_query q = queries(l);
    p->row_elems = p->write_floats = dh;
    p->query_floats = low_query_plan(p, &q) + dh;
    p->out_at = -1;
    p->make.rows = rotate_keys;
    p->make_elems = p->make_floats = 2 * dh;
    p->shape = (struct paged_shape){.n_heads = l->n[HEADS], .dk = dh, .dv = dh, .v_off = dh,
                                    .scale = 1.0f / sqrtf((float)dh)};
    return 0;
}

/* W_o,h M for every head: rows of o_proj are outputs, and each holds dh inputs of every head. */
static void pack_outputs(struct family_pack *p)
{
    const struct tensor *t = &p->from->t[O];
    int dh = p->from->n[DIM], heads = p->from->n[HEADS], hidden = p->from->hidden;
    float *o = family_floats(p, t), *map = family_floats(p, &p->from->t[MAP]);
    float *folded = family_multiply(p, o, map, hidden * heads, dh, dh);
    family_pack_room(p, O, 1);
    family_pack_folded(p, O, t, folded, hidden, heads * dh);
    free(o);
    free(map);
    free(folded);
}

static void pack(struct family_pack *p)
{
    struct low_query q = queries(p->from);
    low_query_pack(p, &q);
    family_pack_matrix(p, K);
    family_pack_angles(p, ANGLES, p->from->n[DIM]);
    pack_outputs(p);
}

static void store_row(struct family_call *c, int i)
{
    family_store(c, i, family_written(c, i));
}

static void write_rows(struct family_call *c)
{
    family_project(c, c->all, K, 1, c->norm, c->written);
    family_rows(c, c->all->n_rows, 2 * c->l->l.n[DIM], store_row);
}

static void query_row(struct family_call *c, int i)
{
    struct low_query q = queries(&c->l->l);
    struct family_vecs lanes = family_queries(c, 0);
    size_t dh = (size_t)c->l->l.n[DIM];
    float *cos = family_record(c, i) + q.width + q.rank, *sin = cos + dh / 2;
    family_angles(c->l, ANGLES, (int)dh, c->st->positions[c->part.rows[i]], cos, sin);
    for (int h = 0; h < c->l->l.n[HEADS]; h++) {
        float *to = family_at(&lanes, i, h);
        memcpy(to, family_record(c, i) + (size_t)h * dh, dh * sizeof(float));
        c->st->kern->rotate(cos, sin, (int)dh / 2, c->l->l.interleave, to);
    }
}

static void query(struct family_call *c)
{
    struct low_query q = queries(&c->l->l);
    low_query_run(c, &q, 0);
    family_rows(c, c->part.n_rows, 4 * q.width, query_row);
}

const struct family_mechanism family_mfa_kr = {
    .name = "mfa_kr",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
};
