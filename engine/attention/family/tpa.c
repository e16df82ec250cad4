/* engine/attention/family/tpa.c - tensor product attention (TPA, arXiv 2501.06425): a token's queries, keys
 * and values of all heads are sums of few products of a vector over heads and one over a head's values, and
 * both come from the token.
 *
 *     q_h = 1/Rq sum_r aq_r[h] rope(bq_r)    k_h = 1/Rk sum_r ak_r[h] rope(bk_r)
 *     v_h = 1/Rv sum_r av_r[h] bv_r
 *     a_r = x A_r (H values)    b_r = x B_r (dh values)        o_h = softmax(q_h k_h / sqrt(dh)) v_h
 *     cache row = [rope(bk_0) .. | bv_0 .. | ak_0[0], ak_1[0] .. av_0[0] .. of each head]
 *
 * Rotation acts on a head's values and so on every b_r by itself. Both factors change with the token, so that
 * nothing of a key can be moved to the query: a head's rows are made as [k_h | v_h] when they are read. The
 * divisors of queries and keys are in the scale of scores. */
#include "config.h"

#include "engine/attention/family.h"

#include <math.h>
#include <string.h>

enum { HEADS, DIM, RANK_Q, RANK_K, RANK_V };
enum { O = FAMILY_OUT, A_Q, B_Q, A_K, B_K, A_V, B_V };

static const struct family_key keys[] = {
    [HEADS] = {FAMILY_INT, "num_attention_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [DIM] = {FAMILY_INT, "head_dim", 2, ROPE_MAX_DIM, FAMILY_NEEDED, NULL},
    [RANK_Q] = {FAMILY_INT, "tpa_rank_q", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [RANK_K] = {FAMILY_INT, "tpa_rank_k", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [RANK_V] = {FAMILY_INT, "tpa_rank_v", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

static void check(struct keys *k, struct family_layer *l)
{
    if (l->n[DIM] % 2)
        keys__fail(k, ERR_FORMAT, "head_dim", "is %d; even numbers are accepted", l->n[DIM]);
}

static void bind(struct family_bind *b)
{
    const int *n = b->l->n;
    int64_t hidden = b->l->hidden, heads = n[HEADS], dh = n[DIM];
    family_matrix(b, A_Q, "a_q_proj.weight", hidden, n[RANK_Q] * heads);
    family_matrix(b, B_Q, "b_q_proj.weight", hidden, n[RANK_Q] * dh);
    family_matrix(b, A_K, "a_k_proj.weight", hidden, n[RANK_K] * heads);
    family_matrix(b, B_K, "b_k_proj.weight", hidden, n[RANK_K] * dh);
    family_matrix(b, A_V, "a_v_proj.weight", hidden, n[RANK_V] * heads);
    family_matrix(b, B_V, "b_v_proj.weight", hidden, n[RANK_V] * dh);
    family_matrix(b, O, "o_proj.weight", heads * dh, hidden);
}

/* y = sum over r of a[r * step] b_r. */
static void sum_up(const struct family_call *c, int rank, const float *a, int step, const float *b, float *y)
{
    int dh = c->l->l.n[DIM];
    memset(y, 0, (size_t)dh * sizeof(float));
    for (int r = 0; r < rank; r++)
        c->st->kern->axpy(a[r * step], b + (size_t)r * (size_t)dh, dh, y);
}

static void make_rows(void *arg, int head, const struct paged_rows *from, int thread, unsigned char *dst)
{
    const struct family_call *c = arg;
    const struct family_plan *p = &c->l->plan;
    const struct row_format *f = &p->make.format;
    const int *n = c->l->l.n;
    int dh = n[DIM], ranks = n[RANK_K] + n[RANK_V];
    float *b = c->make_floats + (size_t)thread * (size_t)p->make_floats, *made = b + ranks * dh;
    float *a = made + 2 * dh, *av = a + n[RANK_K];
    for (int t = 0; t < from->n; t++, dst += f->row_bytes) {
        const unsigned char *row = paged_row(from, t);
        family_row_read(f, row, 0, ranks * dh, b);
        family_row_read(f, row, ranks * (dh + head), ranks, a);
        for (int r = 0; r < n[RANK_V]; r++)
            av[r] /= (float)n[RANK_V];
        sum_up(c, n[RANK_K], a, 1, b, made);
        sum_up(c, n[RANK_V], av, 1, b + n[RANK_K] * dh, made + dh);
        family_row_write(c->st->kern, f, made, 0, 2 * dh, dst);
    }
}

/* Records: written [row | ak, av as projected]; of a query [bq | aq]. */
static int plan(const struct family_layer *l, struct family_plan *p)
{
    const int *n = l->n;
    int dh = n[DIM], heads = n[HEADS], ranks = n[RANK_K] + n[RANK_V];
    p->row_elems = ranks * (dh + heads);
    p->write_floats = p->row_elems + ranks * heads;
    p->query_floats = n[RANK_Q] * (dh + heads);
    p->out_at = -1;
    p->n_out = heads * dh;
    p->rope_dims[0] = dh;
    p->make.rows = make_rows;
    p->make_elems = 2 * dh;
    p->make_macs = (double)heads * ranks * dh;
    p->make_floats = ranks * (dh + 1) + 2 * dh;
    p->shape = (struct paged_shape){.n_heads = heads,
                                    .dk = dh,
                                    .dv = dh,
                                    .scale = 1.0f / (sqrtf((float)dh) * (float)(n[RANK_Q] * n[RANK_K]))};
    return family_plan_groups(p, heads, 0, dh, 0);
}

static void pack(struct family_pack *p)
{
    for (int i = O; i <= B_V; i++)
        family_pack_matrix(p, i);
}

static void store_row(struct family_call *c, int i)
{
    const int *n = c->l->l.n;
    int heads = n[HEADS], ranks = n[RANK_K] + n[RANK_V];
    float *row = family_written(c, i), *a = row + ranks * n[DIM];
    const float *projected = row + c->l->plan.row_elems;
    for (int r = 0; r < n[RANK_K]; r++)
        family_rotate(c, 0, i, row + r * n[DIM]);
    for (int h = 0; h < heads; h++)
        for (int r = 0; r < ranks; r++)
            a[h * ranks + r] = projected[r * heads + h];
    family_store(c, i, row);
}

static void write_rows(struct family_call *c)
{
    const int *n = c->l->l.n;
    int a = c->l->plan.row_elems;
    family_project(c, c->all, B_K, 1, c->norm, c->written);
    family_project(c, c->all, B_V, 1, c->norm, family_vecs(c->written, n[RANK_K] * n[DIM], 0));
    family_project(c, c->all, A_K, 1, c->norm, family_vecs(c->written, a, 0));
    family_project(c, c->all, A_V, 1, c->norm, family_vecs(c->written, a + n[RANK_K] * n[HEADS], 0));
    family_rows(c, c->all->n_rows, 4 * a, store_row);
}

static void query_row(struct family_call *c, int i)
{
    const int *n = c->l->l.n;
    struct family_vecs lanes = family_queries(c, 0);
    float *b = family_record(c, i), *a = b + n[RANK_Q] * n[DIM];
    for (int r = 0; r < n[RANK_Q]; r++)
        family_rotate(c, 0, c->part.rows[i], b + r * n[DIM]);
    for (int h = 0; h < n[HEADS]; h++)
        sum_up(c, n[RANK_Q], a + h, n[HEADS], b, family_at(&lanes, i, h));
}

static void query(struct family_call *c)
{
    const int *n = c->l->l.n;
    family_project(c, &c->part, B_Q, 1, family_part_norm(c), c->record);
    family_project(c, &c->part, A_Q, 1, family_part_norm(c), family_vecs(c->record, n[RANK_Q] * n[DIM], 0));
    family_rows(c, c->part.n_rows, 2 * n[RANK_Q] * n[HEADS] * n[DIM], query_row);
}

const struct family_mechanism family_tpa = {
    .name = "tpa",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
};
