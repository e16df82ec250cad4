/* engine/attention/family/gta.c - grouped-tied attention (GTA, arXiv 2505.21487): the first half of a group's
 * value is also the first half of its key; the second half of all keys is one rotated vector.
 *
 *     kv_g = x W_kv,g (dh)    r = rope(x W_r) (dh/2)      k_g = [kv_g first half | r]    v_g = kv_g
 *     o_h = softmax([q_nope_h | rope(q_rope_h)] k_g(h) / sqrt(dh)) v_g(h)
 *     cache row = all kv_g and r: G dh + dh/2
 *
 * The score's terms may be taken in any order, so that key and value of a group lie in a row as they are:
 *     G = 1    [r | kv_0]                      key [r | first half]
 *     G = 2    [kv_1, halves changed | r | kv_0]     keys [first half of kv_1 | r] and [r | first half
 *     of kv_0]
 *     more     [r | kv_0 | kv_1 ..]            rows made anew when read: [r | kv_g] */
#include "config.h"

#include "engine/attention/family.h"

#include <math.h>
#include <string.h>

enum { HEADS, GROUPS, DIM };
enum { O = FAMILY_OUT, Q, KV, R };

static const struct family_key keys[] = {
    [HEADS] = {FAMILY_INT, "num_attention_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [GROUPS] = {FAMILY_INT, "num_key_value_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [DIM] = {FAMILY_INT, "head_dim", 4, 2 * ROPE_MAX_DIM, FAMILY_NEEDED, NULL},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

static void check(struct keys *k, struct family_layer *l)
{
    const int *n = l->n;
    if (n[DIM] % 4)
        keys__fail(k, ERR_FORMAT, "head_dim", "is %d; multiples of 4 are accepted", n[DIM]);
    if (n[HEADS] % n[GROUPS])
        keys__fail(k, ERR_FORMAT, "num_key_value_heads", "is %d and does not divide %d heads", n[GROUPS],
                   n[HEADS]);
}

static void bind(struct family_bind *b)
{
    const int *n = b->l->n;
    int64_t hidden = b->l->hidden, dh = n[DIM];
    family_matrix(b, Q, "q_proj.weight", hidden, n[HEADS] * dh);
    family_matrix(b, KV, "kv_proj.weight", hidden, n[GROUPS] * dh);
    family_matrix(b, R, "k_rope_proj.weight", hidden, dh / 2);
    family_matrix(b, O, "o_proj.weight", n[HEADS] * dh, hidden);
}

static void make_rows(void *arg, int group, const struct paged_rows *from, int thread, unsigned char *dst)
{
    const struct family_call *c = arg;
    const struct row_format *f = &c->l->plan.make.format;
    size_t dh = (size_t)c->l->l.n[DIM] * family_row_size(f), half = dh / 2;
    (void)thread;
    paged_copy(from, 0, half, dst, f->row_bytes);
    paged_copy(from, half + (size_t)group * dh, dh, dst + half, f->row_bytes);
}

static int plan(const struct family_layer *l, struct family_plan *p)
{
    int dh = l->n[DIM], g = l->n[GROUPS];
    p->row_elems = g * dh + dh / 2;
    p->write_floats = p->row_elems + dh;
    p->query_floats = l->n[HEADS] * dh;
    p->out_at = g == 2 ? 0 : -1;
    p->n_out = l->n[HEADS] * dh;
    p->rope_dims[0] = dh / 2;
    p->shape = (struct paged_shape){
        .n_heads = l->n[HEADS], .dk = dh, .dv = dh, .scale = 1.0f / sqrtf((float)dh)};
    if (family_plan_groups(p, g, 0, dh / 2, 0) < 0)
        return ERR_NOMEM;
    if (g == 2) {
        p->groups[0].k_off = dh;
        p->groups[0].v_off = 3 * dh / 2;
        p->groups[1].k_off = dh / 2;
        p->groups[1].v_off = 0;
    } else if (g > 2) {
        p->make.rows = make_rows;
        p->make_elems = 3 * dh / 2;
    }
    return 0;
}

static void pack(struct family_pack *p)
{
    for (int i = O; i <= R; i++)
        family_pack_matrix(p, i);
}

/* With two groups, both values are projected behind r; the second one is then moved to the front. */
static void store_row(struct family_call *c, int i)
{
    int dh = c->l->l.n[DIM], half = dh / 2, two = c->l->l.n[GROUPS] == 2;
    float *row = family_written(c, i), *r = row + (two ? dh : 0);
    if (two) {
        const float *second = r + half + dh;
        memcpy(row, second + half, (size_t)half * sizeof(float));
        memcpy(row + half, second, (size_t)half * sizeof(float));
    }
    family_rotate(c, 0, i, r);
    family_store(c, i, row);
}

static void write_rows(struct family_call *c)
{
    int dh = c->l->l.n[DIM], r = c->l->l.n[GROUPS] == 2 ? dh : 0;
    family_project(c, c->all, R, 1, c->norm, family_vecs(c->written, r, 0));
    family_project(c, c->all, KV, 1, c->norm, family_vecs(c->written, r + dh / 2, 0));
    family_rows(c, c->all->n_rows, 4 * c->l->plan.row_elems, store_row);
}

static bool turned(const struct family_layer *l, int h)
{
    return l->n[GROUPS] == 2 && h >= l->n[HEADS] / 2;
}

static void query_row(struct family_call *c, int i)
{
    const struct family_layer *l = &c->l->l;
    struct family_vecs lanes = family_queries(c, 0);
    size_t half = (size_t)l->n[DIM] / 2;
    for (int h = 0; h < l->n[HEADS]; h++) {
        const float *q = family_record(c, i) + (size_t)h * 2 * half;
        float *to = family_at(&lanes, i, h), *rope = to + (turned(l, h) ? half : 0);
        memcpy(to + (turned(l, h) ? 0 : half), q, half * sizeof(float));
        memcpy(rope, q + half, half * sizeof(float));
        family_rotate(c, 0, c->part.rows[i], rope);
    }
}

static void query(struct family_call *c)
{
    family_project(c, &c->part, Q, 1, family_part_norm(c), c->record);
    family_rows(c, c->part.n_rows, 4 * c->l->plan.query_floats, query_row);
}

static void output_row(struct family_call *c, int i)
{
    const struct family_layer *l = &c->l->l;
    struct family_vecs found = family_found(c, 0);
    size_t half = (size_t)l->n[DIM] / 2;
    for (int h = 0; h < l->n[HEADS]; h++) {
        float *to = family_record(c, i) + (size_t)h * 2 * half;
        const float *z = family_at(&found, i, h);
        memcpy(to, z + (turned(l, h) ? half : 0), half * sizeof(float));
        memcpy(to + half, z + (turned(l, h) ? 0 : half), half * sizeof(float));
    }
}

static void output(struct family_call *c)
{
    if (c->l->l.n[GROUPS] == 2)
        family_rows(c, c->part.n_rows, 2 * c->l->plan.n_out, output_row);
}

const struct family_mechanism family_gta = {
    .name = "gta",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
    .output = output,
};
