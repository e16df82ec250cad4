/* engine/attention/family/moas.c - a mixture of attention schemes (MoAS, arXiv 2512.20650): multi-head,
 * grouped-query and multi-query attention side by side, each with projections of its own, and a gate for
 * each token.
 *
 *     gate = softmax(B gelu(A x + a) + b)      y = sum over the three of gate_s attention_s(x) W_o,s
 *     cache rows = [k | v] for each of the H + G + 1 groups
 *
 * One call does all three: 3 H heads in H + G + 1 groups; the output projections are one matrix over
 * what they found times their gates. */
#include "config.h"

#include "engine/attention/family.h"

#include <math.h>
#include <stdlib.h>

enum { HEADS, GROUPS, DIM, ROTARY, GATE_DIM };
enum { N_SCHEMES = 3 };
enum {
    O = FAMILY_OUT,
    OUTS,
    Q = OUTS + N_SCHEMES,
    K = Q + N_SCHEMES,
    V = K + N_SCHEMES,
    A = V + N_SCHEMES,
    A_BIAS,
    B,
    B_BIAS
};

static const struct family_key keys[] = {
    [HEADS] = {FAMILY_INT, "num_attention_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [GROUPS] = {FAMILY_INT, "num_key_value_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [DIM] = {FAMILY_INT, "head_dim", 2, MAX_HEAD_DIM, FAMILY_NEEDED, NULL},
    [ROTARY] = {FAMILY_INT, "rotary_dim", 0, ROPE_MAX_DIM, -1, NULL},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

static void check(struct keys *k, struct family_layer *l)
{
    int *n = l->n;
    n[ROTARY] = n[ROTARY] < 0 ? n[DIM] : n[ROTARY];
    if (n[ROTARY] % 2 || n[ROTARY] > n[DIM] || n[ROTARY] > ROPE_MAX_DIM)
        keys__fail(k, ERR_FORMAT, "rotary_dim", "is %d; even numbers up to head_dim (%d) and %d are accepted",
                   n[ROTARY], n[DIM], ROPE_MAX_DIM);
    if (n[HEADS] % n[GROUPS])
        keys__fail(k, ERR_FORMAT, "num_key_value_heads", "is %d and does not divide %d heads", n[GROUPS],
                   n[HEADS]);
}

static int groups_of(const struct family_layer *l, int scheme)
{
    return scheme == 0 ? l->n[HEADS] : scheme == 1 ? l->n[GROUPS] : 1;
}

/* Where a scheme's keys begin in a row. */
static int row_at(const struct family_layer *l, int scheme)
{
    int at = 0;
    for (int s = 0; s < scheme; s++)
        at += 2 * groups_of(l, s) * l->n[DIM];
    return at;
}

static void bind(struct family_bind *b)
{
    static const char *const names[N_SCHEMES][4] = {
        {"mha.q_proj.weight", "mha.k_proj.weight", "mha.v_proj.weight", "mha.o_proj.weight"},
        {"gqa.q_proj.weight", "gqa.k_proj.weight", "gqa.v_proj.weight", "gqa.o_proj.weight"},
        {"mqa.q_proj.weight", "mqa.k_proj.weight", "mqa.v_proj.weight", "mqa.o_proj.weight"},
    };
    int *n = b->l->n;
    int64_t hidden = b->l->hidden, wide = (int64_t)n[HEADS] * n[DIM];
    for (int s = 0; s < N_SCHEMES; s++) {
        int64_t kv = (int64_t)groups_of(b->l, s) * n[DIM];
        family_matrix(b, Q + s, names[s][0], hidden, wide);
        family_matrix(b, K + s, names[s][1], hidden, kv);
        family_matrix(b, V + s, names[s][2], hidden, kv);
        family_matrix(b, OUTS + s, names[s][3], wide, hidden);
    }
    n[GATE_DIM] = (int)family_outputs(b, "gate_a.weight");
    family_matrix(b, A, "gate_a.weight", hidden, n[GATE_DIM]);
    family_vector(b, A_BIAS, "gate_a.bias", n[GATE_DIM]);
    family_matrix(b, B, "gate_b.weight", n[GATE_DIM], N_SCHEMES);
    family_vector(b, B_BIAS, "gate_b.bias", N_SCHEMES);
}

/* Query records: [queries of all schemes, then outputs | gate's hidden values | gates] */
static int plan(const struct family_layer *l, struct family_plan *p)
{
    int dh = l->n[DIM], heads = l->n[HEADS], at = 0;
    p->write_floats = row_at(l, N_SCHEMES) + 2 * dh;
    p->n_out = N_SCHEMES * heads * dh;
    p->query_floats = p->n_out + l->n[GATE_DIM] + N_SCHEMES;
    p->rope_dims[0] = l->n[ROTARY];
    p->shape = (struct paged_shape){.n_heads = N_SCHEMES * heads, .dk = dh, .dv = dh,
                                    .scale = 1.0f / sqrtf((float)dh)};
    family_plan_vecs(p, 1, l->n[GATE_DIM], 1);
    if (family_plan_streams(p, heads + l->n[GROUPS] + 1) < 0)
        return ERR_NOMEM;
    for (int s = 0; s < N_SCHEMES; s++) {
        int n = groups_of(l, s), each = heads / n;
        for (int g = 0; g < n; g++, at++)
            p->groups[at] = (struct paged_group){s * heads + g * each, each, at, 0, dh};
    }
    return 0;
}

/* The three output projections side by side. */
static void pack_outputs(struct family_pack *p)
{
    const struct tensor *t = &p->from->t[OUTS];
    int wide = p->from->n[HEADS] * p->from->n[DIM], hidden = p->from->hidden;
    float *w = malloc((size_t)hidden * (size_t)wide * N_SCHEMES * sizeof(float));
    if (!w)
        family_pack_nomem(p);
    for (int r = 0; w && r < hidden; r++)
        for (int s = 0; s < N_SCHEMES; s++)
            tensor_row_f32(&t[s], r, w + ((size_t)r * N_SCHEMES + (size_t)s) * (size_t)wide);
    family_pack_room(p, O, 1);
    family_pack_floats(p, O, 0, t->name, w, hidden, N_SCHEMES * wide, t->type);
    free(w);
}

static void pack(struct family_pack *p)
{
    pack_outputs(p);
    for (int i = Q; i <= A; i++)
        family_pack_matrix(p, i);
    family_pack_matrix(p, B);
    family_pack_vector(p, A_BIAS);
    family_pack_vector(p, B_BIAS);
}

static void store_row(struct family_call *c, int i)
{
    const struct family_layer *l = &c->l->l;
    float *all = family_written(c, i);
    int dh = l->n[DIM], plane = 0;
    for (int s = 0; s < N_SCHEMES; s++) {
        float *k = all + row_at(l, s), *v = k + groups_of(l, s) * dh;
        for (int g = 0; g < groups_of(l, s); g++, k += dh, v += dh) {
            if (l->n[ROTARY])
                family_rotate(c, 0, i, k);
            family_store_pair(c, i, plane++, k, v, all + row_at(l, N_SCHEMES));
        }
    }
}

static void write_rows(struct family_call *c)
{
    const struct family_layer *l = &c->l->l;
    for (int s = 0; s < N_SCHEMES; s++) {
        int k = row_at(l, s), v = k + groups_of(l, s) * l->n[DIM];
        family_project(c, c->all, K + s, 1, c->norm, family_vecs(c->written, k, 0));
        family_project(c, c->all, V + s, 1, c->norm, family_vecs(c->written, v, 0));
    }
    family_rows(c, c->all->n_rows, 3 * c->l->plan.write_floats, store_row);
}

static void query_row(struct family_call *c, int i)
{
    const struct family_layer *l = &c->l->l;
    for (int v = 0; v < N_SCHEMES * l->n[HEADS]; v++) {
        float *q = family_lane(c, i, v);
        if (l->n[ROTARY])
            family_rotate(c, 0, c->part.rows[i], q);
    }
    float *a = family_record(c, i) + c->l->plan.n_out;
    for (int d = 0; d < l->n[GATE_DIM]; d++) {
        float x = a[d] + c->l->part[A_BIAS].v[d];
        a[d] = 0.5f * x * (1.0f + erff(x * (float)M_SQRT1_2));
    }
}

static void query(struct family_call *c)
{
    const struct family_layer *l = &c->l->l;
    int gate = c->l->plan.n_out;
    for (int s = 0; s < N_SCHEMES; s++)
        family_project(c, &c->part, Q + s, 1, family_part_norm(c),
                       family_vecs(c->record, s * l->n[HEADS] * l->n[DIM], 0));
    family_project(c, &c->part, A, 1, family_part_norm(c), family_vecs(c->record, gate, 0));
    family_rows(c, c->part.n_rows, 3 * gate, query_row);
    family_project(c, &c->part, B, 1, family_vecs(c->record, gate, 0),
                   family_vecs(c->record, gate + l->n[GATE_DIM], 0));
}

static void output_row(struct family_call *c, int i)
{
    const struct family_layer *l = &c->l->l;
    struct family_vecs found = family_found(c, 0);
    int wide = l->n[HEADS] * l->n[DIM];
    float *out = family_record(c, i), *gate = out + c->l->plan.n_out + l->n[GATE_DIM];
    family_softmax(gate, c->l->part[B_BIAS].v, N_SCHEMES);
    for (int s = 0; s < N_SCHEMES; s++) {
        const float *z = family_at(&found, i, s * l->n[HEADS]);
        for (int d = 0; d < wide; d++)
            out[s * wide + d] = gate[s] * z[d];
    }
}

static void output(struct family_call *c)
{
    family_rows(c, c->part.n_rows, 2 * c->l->plan.n_out, output_row);
}

const struct family_mechanism family_moas = {
    .name = "moas",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
    .output = output,
};
