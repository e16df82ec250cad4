/* engine/attention/family/lrkv.c - low-rank key-value attention (LRKV, arXiv 2601.11471): one full key
 * and value for all heads, and a residual of low rank for each.
 *
 *     k = x W_k   v = x W_v   a_h = x A_h   b_h = x B_h (r values)      k_h = k + U_h a_h    v_h = v +
 *     U'_h b_h
 *     cache row = [k | a_0 .. | v | b_0 ..]         o_h = p v + U'_h (p b_h) with p = softmax(q_h k_h /
 *     sqrt(dh))
 *
 * lrkv_rope full: k_h is rotated as a whole. That does not commute with U_h, so a_h is kept as it is and a
 * head's keys are made when they are read: rows [rope(k) + rope(U_h a_h) | v | b_h].
 * latent: a_h is rotated as a vector of r values and k by itself, and the score is rope(q) rope(k) +
 * (U_h^T rope(q)) rope(a_h). While all heads' residuals are no wider than a head, rows are read whole: a
 * query is zero where other heads' a are, and a head takes its own b from what it finds. Else rows are put
 * together as [k | a_h | v | b_h]. */
#include "config.h"

#include "engine/attention/family.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS, DIM, RANK, MODE };
enum { FULL, LATENT };
enum { O = FAMILY_OUT, Q, K, V, K_RES, V_RES, K_UP, V_UP, ANGLES };

static const struct family_key keys[] = {
    [HEADS] = {FAMILY_INT, "num_attention_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [DIM] = {FAMILY_INT, "head_dim", 2, ROPE_MAX_DIM, FAMILY_NEEDED, NULL},
    [RANK] = {FAMILY_INT, "kv_residual_rank", 1, MAX_HEAD_DIM, FAMILY_NEEDED, NULL},
    [MODE] = {FAMILY_WORD, "lrkv_rope", 0, 0, FULL, "full|latent"},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

static void check(struct keys *k, struct family_layer *l)
{
    const int *n = l->n;
    if (n[DIM] % 2)
        keys__fail(k, ERR_FORMAT, "head_dim", "is %d; even numbers are accepted", n[DIM]);
    if (n[MODE] == LATENT && (n[RANK] % 2 || n[RANK] > ROPE_MAX_DIM))
        keys__fail(k, ERR_FORMAT, "kv_residual_rank",
                   "is %d; with lrkv_rope latent even numbers up to %d are accepted", n[RANK], ROPE_MAX_DIM);
}

static void bind(struct family_bind *b)
{
    const int *n = b->l->n;
    int64_t hidden = b->l->hidden, dh = n[DIM], heads = n[HEADS], r = n[RANK];
    family_matrix(b, Q, "q_proj.weight", hidden, heads * dh);
    family_matrix(b, K, "k_proj.weight", hidden, dh);
    family_matrix(b, V, "v_proj.weight", hidden, dh);
    family_matrix(b, K_RES, "k_res_proj.weight", hidden, heads * r);
    family_matrix(b, V_RES, "v_res_proj.weight", hidden, heads * r);
    family_cube(b, K_UP, "k_res_up", r, dh, heads);
    family_cube(b, V_UP, "v_res_up", r, dh, heads);
    family_matrix(b, O, "o_proj.weight", heads * dh, hidden);
}

static bool takes_whole(const int *n)
{
    return n[MODE] == LATENT && n[HEADS] * n[RANK] <= n[DIM];
}

/* Keys that are made by products: so many at a time. */
#define TILE 32

static void make_full(void *arg, int head, const struct paged_rows *from, int thread, unsigned char *dst)
{
    const struct family_call *c = arg;
    const struct family_packed *l = c->l;
    const struct row_format *f = &l->plan.make.format;
    const struct matrix *up = &l->part[K_UP].m[head];
    int dh = l->l.n[DIM], r = l->l.n[RANK], heads = l->l.n[HEADS], half = dh / 2;
    float *res = c->make_floats + (size_t)thread * (size_t)l->plan.make_floats, *made = res + TILE * r;
    int v_at = dh + heads * r;
    float *k = made + TILE * dh, *cos = k + dh, *sin = cos + half;
    size_t size = family_row_size(f), key = (size_t)dh * size;
    paged_copy(from, (size_t)v_at * size, key, dst + key, f->row_bytes);
    paged_copy(from, (size_t)(v_at + dh + head * r) * size, (size_t)r * size, dst + 2 * key, f->row_bytes);
    const void *x[TILE];
    float *y[TILE];
    for (int i = 0; i < TILE; i++) {
        x[i] = res + (size_t)i * (size_t)r;
        y[i] = made + (size_t)i * (size_t)dh;
    }
    for (int t = 0; t < from->n; t += TILE) {
        int n = from->n - t < TILE ? from->n - t : TILE;
        for (int i = 0; i < n; i++)
            family_row_read(f, paged_row(from, t + i), dh + head * r, r, res + (size_t)i * (size_t)r);
        kern_mul(c->st->kern, up->type)(up->packed, dh, r, 0, matrix_groups(up), x, y, n);
        for (int i = 0; i < n; i++, dst += f->row_bytes) {
            family_angles(l, ANGLES, dh, from->t0 + t + i, cos, sin);
            c->st->kern->rotate(cos, sin, half, l->l.interleave, y[i]);
            family_row_read(f, paged_row(from, t + i), 0, dh, k);
            c->st->kern->axpy(1.0f, k, dh, y[i]);
            family_row_write(c->st->kern, f, y[i], 0, dh, dst);
        }
    }
}

static void make_latent(void *arg, int head, const struct paged_rows *from, int thread, unsigned char *dst)
{
    const struct family_call *c = arg;
    const int *n = c->l->l.n;
    const struct row_format *f = &c->l->plan.make.format;
    size_t size = family_row_size(f), dh = (size_t)n[DIM] * size, r = (size_t)n[RANK] * size;
    size_t v_at = dh + (size_t)n[HEADS] * r;
    (void)thread;
    paged_copy(from, 0, dh, dst, f->row_bytes);
    paged_copy(from, dh + (size_t)head * r, r, dst + dh, f->row_bytes);
    paged_copy(from, v_at, dh, dst + dh + r, f->row_bytes);
    paged_copy(from, v_at + dh + (size_t)head * r, r, dst + 2 * dh + r, f->row_bytes);
}

/* Query records: [queries, then outputs of heads | angles]. */
static int plan(const struct family_layer *l, struct family_plan *p)
{
    const int *n = l->n;
    int dh = n[DIM], full = n[MODE] == FULL, whole = takes_whole(n), r = whole ? n[HEADS] * n[RANK] : n[RANK];
    int dk = full ? dh : dh + r;
    p->row_elems = 2 * (dh + n[HEADS] * n[RANK]);
    p->write_floats = p->row_elems + dh;
    p->query_floats = n[HEADS] * dh + dh;
    p->out_at = 0;
    p->n_out = n[HEADS] * dh;
    p->rope_dims[0] = full ? 0 : dh;
    p->rope_dims[1] = full ? 0 : n[RANK];
    p->make.rows = full ? make_full : whole ? NULL : make_latent;
    p->pair_macs = n[HEADS] * (double)(2 * dh + (full ? 1 : 2) * n[RANK]);
    p->make_macs = full ? (double)n[HEADS] * dh * r : 0;
    p->make_elems = dk + dh + r;
    p->make_floats = full ? TILE * (r + dh) + 2 * dh : 0;
    p->shape = (struct paged_shape){
        .n_heads = n[HEADS], .dk = dk, .dv = dh + r, .v_off = dk, .scale = 1.0f / sqrtf((float)dh)};
    family_plan_vecs(p, n[HEADS], dh, n[HEADS]);
    family_plan_vecs(p, n[HEADS], n[RANK], n[HEADS]);
    return whole ? 0 : family_plan_groups(p, n[HEADS], 0, dk, 0);
}

/* U_h for make_full, whose inputs are float32: quantised ones are stored in 16 bits. */
static void pack_up(struct family_pack *p, int head)
{
    struct tensor t = tensor_slice(&p->from->t[K_UP], head);
    float *w = family_floats(p, &t);
    family_pack_floats(p, K_UP, head, t.name, w, p->from->n[DIM], p->from->n[RANK], t.type);
    free(w);
}

static void pack(struct family_pack *p)
{
    const int *n = p->from->n;
    for (int i = O; i <= V_RES; i++)
        family_pack_matrix(p, i);
    family_pack_room(p, K_UP, n[HEADS]);
    family_pack_room(p, V_UP, n[HEADS]);
    for (int h = 0; h < n[HEADS] && p->r == 0; h++) {
        if (n[MODE] == LATENT)
            family_pack_turned(p, K_UP, h, &p->from->t[K_UP], (int64_t)h * n[DIM], n[DIM]);
        else
            pack_up(p, h);
        family_pack_rows(p, V_UP, h, &p->from->t[V_UP], (int64_t)h * n[DIM], n[DIM]);
    }
    if (n[MODE] == FULL)
        family_pack_angles(p, ANGLES, n[DIM]);
}

static void store_row(struct family_call *c, int i)
{
    const int *n = c->l->l.n;
    int dh = n[DIM];
    float *row = family_written(c, i), *cos = row + c->l->plan.row_elems, *sin = cos + dh / 2;
    if (n[MODE] == FULL) {
        family_angles(c->l, ANGLES, dh, c->st->positions[i], cos, sin);
        c->st->kern->rotate(cos, sin, dh / 2, c->l->l.interleave, row);
    } else {
        family_rotate(c, 0, i, row);
        for (int h = 0; h < n[HEADS]; h++)
            family_rotate(c, 1, i, row + dh + h * n[RANK]);
    }
    family_store(c, i, row);
}

static void write_rows(struct family_call *c)
{
    const int *n = c->l->l.n;
    int v_at = n[DIM] + n[HEADS] * n[RANK];
    family_project(c, c->all, K, 1, c->norm, c->written);
    family_project(c, c->all, K_RES, 1, c->norm, family_vecs(c->written, n[DIM], 0));
    family_project(c, c->all, V, 1, c->norm, family_vecs(c->written, v_at, 0));
    family_project(c, c->all, V_RES, 1, c->norm, family_vecs(c->written, v_at + n[DIM], 0));
    family_rows(c, c->all->n_rows, 3 * c->l->plan.row_elems, store_row);
}

static void query_row(struct family_call *c, int i)
{
    const int *n = c->l->l.n;
    struct family_vecs lanes = family_queries(c, 0);
    int dh = n[DIM];
    float *cos = family_record(c, i) + n[HEADS] * dh, *sin = cos + dh / 2;
    if (n[MODE] == FULL)
        family_angles(c->l, ANGLES, dh, c->st->positions[c->part.rows[i]], cos, sin);
    for (int h = 0; h < n[HEADS]; h++) {
        float *q = family_record(c, i) + h * dh;
        if (n[MODE] == FULL)
            c->st->kern->rotate(cos, sin, dh / 2, c->l->l.interleave, q);
        else
            family_rotate(c, 0, c->part.rows[i], q);
        float *to = family_at(&lanes, i, h);
        memcpy(to, q, (size_t)dh * sizeof(float));
        memset(to + dh, 0, (size_t)(c->l->plan.shape.dk - dh) * sizeof(float));
    }
}

/* What belongs to a head's residual, behind the first values of its query or of what it found. */
static struct family_vecs residuals(const struct family_call *c, struct family_vecs v)
{
    v.step += takes_whole(c->l->l.n) ? (size_t)c->l->l.n[RANK] : 0;
    return v;
}

static void query(struct family_call *c)
{
    const int *n = c->l->l.n;
    family_project(c, &c->part, Q, 1, family_part_norm(c), c->record);
    family_rows(c, c->part.n_rows, 4 * n[HEADS] * n[DIM], query_row);
    if (n[MODE] == LATENT)
        family_project(c, &c->part, K_UP, n[HEADS], family_vecs(c->record, 0, n[DIM]),
                       residuals(c, family_queries(c, n[DIM])));
}

static void output_row(struct family_call *c, int i)
{
    const int *n = c->l->l.n;
    struct family_vecs found = family_found(c, 0);
    for (int h = 0; h < n[HEADS]; h++)
        c->st->kern->axpy(1.0f, family_at(&found, i, h), n[DIM], family_record(c, i) + h * n[DIM]);
}

static void output(struct family_call *c)
{
    const int *n = c->l->l.n;
    family_project(c, &c->part, V_UP, n[HEADS], residuals(c, family_found(c, n[DIM])),
                   family_vecs(c->record, 0, n[DIM]));
    family_rows(c, c->part.n_rows, 2 * c->l->plan.n_out, output_row);
}

const struct family_mechanism family_lrkv = {
    .name = "lrkv",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
    .output = output,
};
