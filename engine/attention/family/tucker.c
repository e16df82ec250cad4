/* engine/attention/family/tucker.c - Tucker attention (arXiv 2603.30033): all heads' query-key forms as
 * one core tensor between shared bases, and their value-output forms as another.
 *
 *     qa = x U2            q_h = rope(C_h qa)         k = rope(x U3)      v = x U3'
 *     z_h = softmax(q_h k / sqrt(dh)) v               y = U2' sum over h of C'_h z_h
 *     cache row = [k | v]     RoPE over all r3 values of q_h and k
 *
 * The sum over heads is one matrix [r2', H r3'] times what all heads found. */
#include "config.h"

#include "engine/attention/family.h"

#include <math.h>
#include <stdlib.h>

enum { HEADS, DIM, RANK_Q, RANK_K, RANK_V, RANK_O };
enum { O = FAMILY_OUT, QA, Q_CORE, K, V, O_CORE };

static const struct family_key keys[] = {
    [HEADS] = {FAMILY_INT, "num_attention_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [DIM] = {FAMILY_INT, "head_dim", 1, MAX_HEAD_DIM, FAMILY_NEEDED, NULL},
    [RANK_Q] = {FAMILY_INT, "tucker_rank_q", 1, MAX_DIM, FAMILY_NEEDED, NULL},
    [RANK_K] = {FAMILY_INT, "tucker_rank_k", 2, ROPE_MAX_DIM, FAMILY_NEEDED, NULL},
    [RANK_V] = {FAMILY_INT, "tucker_rank_v", 1, MAX_HEAD_DIM, FAMILY_NEEDED, NULL},
    [RANK_O] = {FAMILY_INT, "tucker_rank_o", 1, MAX_DIM, FAMILY_NEEDED, NULL},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

static void check(struct keys *k, struct family_layer *l)
{
    if (l->n[RANK_K] % 2)
        keys__fail(k, ERR_FORMAT, "tucker_rank_k", "is %d; even numbers are accepted", l->n[RANK_K]);
}

static void bind(struct family_bind *b)
{
    const int *n = b->l->n;
    int64_t hidden = b->l->hidden;
    family_matrix(b, QA, "q_a_proj.weight", hidden, n[RANK_Q]);
    family_cube(b, Q_CORE, "q_core", n[RANK_Q], n[RANK_K], n[HEADS]);
    family_matrix(b, K, "k_proj.weight", hidden, n[RANK_K]);
    family_matrix(b, V, "v_proj.weight", hidden, n[RANK_V]);
    family_cube(b, O_CORE, "o_core", n[RANK_V], n[RANK_O], n[HEADS]);
    family_matrix(b, O, "o_proj.weight", n[RANK_O], hidden);
}

/* Query records: [queries | qa], then [the sum | ..]. */
static int plan(const struct family_layer *l, struct family_plan *p)
{
    const int *n = l->n;
    p->row_elems = p->write_floats = n[RANK_K] + n[RANK_V];
    p->query_floats = n[HEADS] * n[RANK_K] + n[RANK_Q] + n[RANK_O];
    p->out_at = n[HEADS] * n[RANK_K] + n[RANK_Q];
    p->n_out = n[RANK_O];
    p->rope_dims[0] = n[RANK_K];
    p->shape = (struct paged_shape){.n_heads = n[HEADS], .dk = n[RANK_K], .dv = n[RANK_V], .v_off = n[RANK_K],
                                    .scale = 1.0f / sqrtf((float)n[DIM])};
    family_plan_vecs(p, 1, n[RANK_Q], 1);
    family_plan_vecs(p, 1, n[HEADS] * n[RANK_V], 1);
    return 0;
}

static void pack(struct family_pack *p)
{
    const int *n = p->from->n;
    const struct tensor *t = &p->from->t[O_CORE];
    int wide = n[HEADS] * n[RANK_V];
    float *w = malloc((size_t)n[RANK_O] * (size_t)wide * sizeof(float));
    if (!w)
        family_pack_nomem(p);
    for (int h = 0; w && h < n[HEADS]; h++)
        for (int r = 0; r < n[RANK_O]; r++)
            tensor_row_f32(t, (int64_t)h * n[RANK_O] + r,
                           w + (size_t)r * (size_t)wide + (size_t)h * (size_t)n[RANK_V]);
    family_pack_room(p, O_CORE, 1);
    family_pack_floats(p, O_CORE, 0, t->name, w, n[RANK_O], wide, t->type);
    free(w);
    family_pack_room(p, Q_CORE, 1);
    family_pack_rows(p, Q_CORE, 0, &p->from->t[Q_CORE], 0, n[HEADS] * n[RANK_K]);
    family_pack_matrix(p, QA);
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
    family_project(c, c->all, K, 1, c->norm, c->written);
    family_project(c, c->all, V, 1, c->norm, family_vecs(c->written, c->l->l.n[RANK_K], 0));
    family_rows(c, c->all->n_rows, 4 * c->l->plan.row_elems, store_row);
}

static void query_row(struct family_call *c, int i)
{
    for (int h = 0; h < c->l->l.n[HEADS]; h++)
        family_rotate(c, 0, c->part.rows[i], family_lane(c, i, h));
}

static void query(struct family_call *c)
{
    const int *n = c->l->l.n;
    struct family_vecs a = family_vecs(c->record, n[HEADS] * n[RANK_K], 0);
    family_project(c, &c->part, QA, 1, family_part_norm(c), a);
    family_project(c, &c->part, Q_CORE, 1, a, c->record);
    family_rows(c, c->part.n_rows, 4 * n[HEADS] * n[RANK_K], query_row);
}

static void output(struct family_call *c)
{
    family_project(c, &c->part, O_CORE, 1, family_found(c, 0), family_vecs(c->record, c->l->plan.out_at, 0));
}

const struct family_mechanism family_tucker = {
    .name = "tucker",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
    .output = output,
};
