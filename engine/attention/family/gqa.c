/* engine/attention/family/gqa.c - heads in groups that share keys and values: multi-head (MHA), multi-query
 * (arXiv 1911.02150), grouped-query (2305.13245), sparse-query (SQA, 2510.01817) and ragged groups (QCQA,
 * 2406.10247); with it knocking heads (KHA, 2510.23052) and groups compressed in a basis (2406.07056).
 *
 *     q_h = rope(x W_q,h)   k_g = rope(x W_k,g)   v_g = x W_v,g
 *     o_h = softmax(q_h k_g(h) / sqrt(dh)) v_g(h)
 *     cache row = [k_g | v_g] for each group, a stream of its own
 *
 * g(h) is h G / H or listed (kv_head_map). With more groups than heads (reverse SQA) queries are
 * repeated: group g meets query g H / G. Heads of a group stand together in the queries that attention
 * gets, whatever the map says.
 * KHA: q, k, v of every head times one matrix before rotation, folded into the projections; mlp:
 * values instead go through v' = 2 down(up(v) sigmoid(gate(v))). Basis: keys of t heads, rotated, times
 * a [t dh, dh] matrix of their group are its key; rotated queries times their head's rows of it.
 * Norms of queries and keys after rotation (qk_norm): rows hold keys of length sqrt(dh), and queries meet
 * both norms' weights, so that layers which share rows may have weights of their own. */
#include "config.h"

#include "engine/attention/family.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS, GROUPS, DIM, ROTARY, KNOCK, HEADS_BEFORE, MAP, QK_NORM, KNOCK_DIM };
enum { KNOCK_NONE, KNOCK_LINEAR, KNOCK_MLP };
/* tensors */
enum { O = FAMILY_OUT, Q, K, V, Q_KNOCK, K_KNOCK, V_KNOCK, V_UP, V_GATE, V_DOWN, BASIS, Q_BASIS, Q_NORM,
       K_NORM };

static const struct family_key keys[] = {
    [HEADS] = {FAMILY_INT, "num_attention_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [GROUPS] = {FAMILY_INT, "num_key_value_heads", 1, MAX_HEADS, 0, NULL},
    [DIM] = {FAMILY_INT, "head_dim", 2, MAX_HEAD_DIM, FAMILY_NEEDED, NULL},
    [ROTARY] = {FAMILY_INT, "rotary_dim", 0, ROPE_MAX_DIM, -1, NULL},
    [KNOCK] = {FAMILY_WORD, "knocking_heads", 0, 0, KNOCK_NONE, "none|linear|mlp"},
    [HEADS_BEFORE] = {FAMILY_INT, "kv_heads_before", 1, MAX_HEADS, 0, NULL},
    [MAP] = {FAMILY_LIST, "kv_head_map", 0, MAX_HEADS - 1, 0, NULL},
    [QK_NORM] = {FAMILY_WORD, "qk_norm", 0, 0, 0, "none|rotated"},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

static void check(struct keys *k, struct family_layer *l)
{
    int *n = l->n;
    n[GROUPS] = n[GROUPS] ? n[GROUPS] : n[HEADS];
    n[ROTARY] = n[ROTARY] < 0 ? n[DIM] : n[ROTARY];
    if (n[ROTARY] % 2 || n[ROTARY] > n[DIM] || n[ROTARY] > ROPE_MAX_DIM)
        keys__fail(k, ERR_FORMAT, "rotary_dim", "is %d; even numbers up to head_dim (%d) and %d are accepted",
                   n[ROTARY], n[DIM], ROPE_MAX_DIM);
    if (n[HEADS] < n[GROUPS] && n[GROUPS] % n[HEADS])
        keys__fail(k, ERR_FORMAT, "num_key_value_heads", "is %d, more than and no multiple of %d heads",
                   n[GROUPS], n[HEADS]);
    if (n[HEADS_BEFORE] && (n[HEADS_BEFORE] % n[GROUPS] || n[HEADS] % n[HEADS_BEFORE] || l->n_list))
        keys__fail(k, ERR_FORMAT, "kv_heads_before",
                   "is %d; a multiple of num_key_value_heads (%d) that divides the heads (%d) is accepted, "
                   "without kv_head_map",
                   n[HEADS_BEFORE], n[GROUPS], n[HEADS]);
    if (l->n_list && (l->n_list != n[HEADS] || n[HEADS] < n[GROUPS]))
        keys__fail(k, ERR_FORMAT, "kv_head_map",
                   "is a list of %d; one group for each of %d heads is accepted", l->n_list, n[HEADS]);
    if (n[QK_NORM] && n[HEADS_BEFORE])
        keys__fail(k, ERR_UNSUPPORTED, "qk_norm", "cannot go with kv_heads_before");
    for (int i = 0; i < l->n_list; i++)
        if (l->list[i] >= n[GROUPS])
            keys__fail(k, ERR_FORMAT, "kv_head_map", "has group %d; 0..%d is accepted", l->list[i],
                       n[GROUPS] - 1);
}

static void bind(struct family_bind *b)
{
    int *n = b->l->n;
    int64_t hidden = b->l->hidden, dh = n[DIM], lanes = n[HEADS] > n[GROUPS] ? n[HEADS] : n[GROUPS];
    int64_t k_heads = n[HEADS_BEFORE] ? n[HEADS_BEFORE] : n[GROUPS];
    bool plain = !n[KNOCK] && !n[HEADS_BEFORE] && !b->l->n_list && n[HEADS] % n[GROUPS] == 0;
    bool fused = plain && family_writes(b->l) && family_has(b, "qkv_proj.weight");
    if (fused) /* of each group: its queries, key, value */
        family_matrix(b, Q, "qkv_proj.weight", hidden, (n[HEADS] + 2 * n[GROUPS]) * dh);
    else
        family_matrix(b, Q, "q_proj.weight", hidden, n[HEADS] * dh);
    if (n[QK_NORM]) {
        family_vector(b, Q_NORM, "q_norm.weight", dh);
        family_vector(b, K_NORM, "k_norm.weight", dh);
    }
    family_matrix(b, O, "o_proj.weight", lanes * dh, hidden);
    if (n[KNOCK])
        family_matrix(b, Q_KNOCK, "q_knock.weight", dh, dh);
    if (n[HEADS_BEFORE]) /* queries meet rows in the basis that these were made with */
        family_cube_of(b, b->l->kv_layer, BASIS, "k_basis", dh, k_heads / n[GROUPS] * dh, n[GROUPS]);
    if (!family_writes(b->l) || fused)
        return;
    family_matrix(b, K, "k_proj.weight", hidden, k_heads * dh);
    family_matrix(b, V, "v_proj.weight", hidden, n[GROUPS] * dh);
    if (n[KNOCK])
        family_matrix(b, K_KNOCK, "k_knock.weight", dh, dh);
    if (n[KNOCK] == KNOCK_LINEAR)
        family_matrix(b, V_KNOCK, "v_knock.weight", dh, dh);
    if (n[KNOCK] == KNOCK_MLP) {
        n[KNOCK_DIM] = (int)family_outputs(b, "v_knock_up.weight");
        family_matrix(b, V_UP, "v_knock_up.weight", dh, n[KNOCK_DIM]);
        family_matrix(b, V_GATE, "v_knock_gate.weight", dh, n[KNOCK_DIM]);
        family_matrix(b, V_DOWN, "v_knock_down.weight", n[KNOCK_DIM], dh);
    }
}

/* Its queries, keys and values are one matrix. */
static bool is_fused(const struct family_layer *l)
{
    return l->t[Q].ne[1] > (int64_t)l->n[HEADS] * l->n[DIM];
}

/* Group of a head, and the query that lane v has: of which head. */
static int group_of(const struct family_layer *l, int head)
{
    return l->n_list ? l->list[head] : head * l->n[GROUPS] / l->n[HEADS];
}

static int head_of(const struct family_layer *l, int lane)
{
    if (l->n[HEADS] < l->n[GROUPS])
        return lane * l->n[HEADS] / l->n[GROUPS];
    if (!l->n_list)
        return lane;
    int at = 0;
    for (int g = 0; g < l->n[GROUPS]; g++)
        for (int h = 0; h < l->n[HEADS]; h++)
            if (l->list[h] == g && at++ == lane)
                return h;
    return 0;
}

/* Records: [keys | values | keys before the basis | values before their mlp, up, gate | a row] */
static int raw_keys_at(const struct family_layer *l)
{
    return 2 * l->n[GROUPS] * l->n[DIM];
}

static int raw_values_at(const struct family_layer *l)
{
    return raw_keys_at(l) + l->n[HEADS_BEFORE] * l->n[DIM];
}

static int pair_at(const struct family_layer *l)
{
    const int *n = l->n;
    return raw_values_at(l) + (n[KNOCK] == KNOCK_MLP ? n[GROUPS] * (n[DIM] + 2 * n[KNOCK_DIM]) : 0);
}

static int plan(const struct family_layer *l, struct family_plan *p)
{
    const int *n = l->n;
    int dh = n[DIM], g = n[GROUPS], lanes = n[HEADS] > g ? n[HEADS] : g, at = 0, used = 0;
    p->row_elems = 2 * dh;
    p->row_planes = g;
    p->write_floats = pair_at(l) + 2 * dh;
    p->query_floats = n[HEADS] * dh;
    p->out_at = l->n_list ? 0 : -1;
    p->n_out = lanes * dh;
    p->rope_dims[0] = n[ROTARY];
    p->shape = (struct paged_shape){.n_heads = lanes, .dk = dh, .dv = dh, .scale = 1.0f / sqrtf((float)dh)};
    if (is_fused(l))
        family_plan_vecs(p, g, l->hidden, g);
    if (n[KNOCK] == KNOCK_MLP) {
        family_plan_vecs(p, g, dh, 1);
        family_plan_vecs(p, g, n[KNOCK_DIM], 1);
    }
    if (n[HEADS_BEFORE]) {
        family_plan_vecs(p, g, n[HEADS_BEFORE] / g * dh, g);
        family_plan_vecs(p, n[HEADS], dh, n[HEADS]);
    }
    p->groups = calloc((size_t)g, sizeof(*p->groups));
    if (!p->groups)
        return ERR_NOMEM;
    for (int i = 0; i < g; i++) {
        int heads = n[HEADS] < g;
        for (int h = 0; n[HEADS] >= g && h < n[HEADS]; h++)
            heads += group_of(l, h) == i;
        if (heads) /* groups that nobody is in have keys, but no queries */
            p->groups[used++] = (struct paged_group){at, heads, i, 0, dh};
        at += heads;
    }
    p->shape.n_groups = used;
    return 0;
}

/* Each head's rows times tensor `knock` (y = T x), a folded projection; 0: as they are. */
static void pack_knocked(struct family_pack *p, int slot, int knock, int heads)
{
    const struct tensor *t = &p->from->t[slot];
    int dh = p->from->n[DIM], hidden = p->from->hidden;
    if (!knock) {
        family_pack_matrix(p, slot);
        return;
    }
    float *w = family_floats(p, t), *k = family_floats(p, &p->from->t[knock]);
    family_pack_room(p, slot, 1);
    for (int h = 0; h < heads && p->r == 0; h++) {
        float *rows = w + (size_t)h * (size_t)dh * (size_t)hidden;
        float *folded = family_multiply(p, k, rows, dh, dh, hidden);
        if (folded)
            memcpy(rows, folded, (size_t)dh * (size_t)hidden * sizeof(float));
        free(folded);
    }
    family_pack_folded(p, slot, t, w, heads * dh, hidden);
    free(w);
    free(k);
}

/* Transposed blocks of the basis: of each group for its keys, of each head for its queries. */
static void pack_basis(struct family_pack *p)
{
    const struct family_layer *l = p->from;
    const struct tensor *t = &l->t[BASIS];
    int dh = l->n[DIM], before = l->n[HEADS_BEFORE], each = before / l->n[GROUPS];
    float *w = family_floats(p, t), *turned = malloc((size_t)each * (size_t)dh * (size_t)dh * sizeof(float));
    family_pack_room(p, BASIS, l->n[GROUPS]);
    family_pack_room(p, Q_BASIS, l->n[HEADS]);
    if (!turned)
        family_pack_nomem(p);
    for (int i = 0; i < l->n[GROUPS] + l->n[HEADS] && p->r == 0; i++) {
        bool query = i >= l->n[GROUPS];
        int head = i - l->n[GROUPS], n_in = query ? dh : each * dh;
        /* rows of the basis [Hk dh, dh] that this one takes */
        int row0 = query ? head * before / l->n[HEADS] * dh : i * each * dh;
        for (int a = 0; a < n_in; a++)
            for (int c = 0; c < dh; c++)
                turned[(size_t)c * (size_t)n_in + (size_t)a] = w[(size_t)(row0 + a) * (size_t)dh + (size_t)c];
        family_pack_floats(p, query ? Q_BASIS : BASIS, query ? head : i, t->name, turned, dh, n_in, t->type);
    }
    free(w);
    free(turned);
}

/* A matrix for each group out of the one for all. */
static void pack_fused(struct family_pack *p)
{
    const int *n = p->from->n;
    int dh = n[DIM], each = n[HEADS] / n[GROUPS];
    for (int slot = Q; slot <= V; slot++)
        family_pack_room(p, slot, n[GROUPS]);
    for (int g = 0; g < n[GROUPS] && p->r == 0; g++) {
        int64_t row = (int64_t)g * (each + 2) * dh;
        family_pack_rows(p, Q, g, &p->from->t[Q], row, each * dh);
        family_pack_rows(p, K, g, &p->from->t[Q], row + (int64_t)each * dh, dh);
        family_pack_rows(p, V, g, &p->from->t[Q], row + (int64_t)(each + 1) * dh, dh);
    }
}

/* Of queries: both norms' weights; of keys: ones. */
static void pack_norms(struct family_pack *p)
{
    family_pack_vector(p, Q_NORM);
    family_pack_vector(p, K_NORM);
    for (int d = 0; d < p->from->n[DIM] && p->r == 0; d++) {
        p->to->part[Q_NORM].v[d] *= p->to->part[K_NORM].v[d];
        p->to->part[K_NORM].v[d] = 1.0f;
    }
}

static void pack(struct family_pack *p)
{
    const struct family_layer *l = p->from;
    const int *n = l->n;
    family_pack_matrix(p, O);
    if (n[QK_NORM])
        pack_norms(p);
    if (is_fused(l)) {
        pack_fused(p);
        return;
    }
    pack_knocked(p, Q, n[KNOCK] ? Q_KNOCK : 0, n[HEADS]);
    if (n[HEADS_BEFORE])
        pack_basis(p);
    if (!family_writes(l))
        return;
    pack_knocked(p, K, n[KNOCK] ? K_KNOCK : 0, n[HEADS_BEFORE] ? n[HEADS_BEFORE] : n[GROUPS]);
    pack_knocked(p, V, n[KNOCK] == KNOCK_LINEAR ? V_KNOCK : 0, n[GROUPS]);
    for (int i = V_UP; n[KNOCK] == KNOCK_MLP && i <= V_DOWN; i++)
        family_pack_matrix(p, i);
}

static void knock_row(struct family_call *c, int i)
{
    const struct family_layer *l = &c->l->l;
    int n = l->n[GROUPS] * l->n[KNOCK_DIM];
    float *up = family_written(c, i) + raw_values_at(l) + l->n[GROUPS] * l->n[DIM], *gate = up + n;
    c->st->kern->soft_weights(gate, n, 0.0f, -1.0f, gate); /* exp(-gate) */
    for (int d = 0; d < n; d++)
        up[d] *= 2.0f / (1.0f + gate[d]);
}

static void store_row(struct family_call *c, int i)
{
    const struct family_layer *l = &c->l->l;
    int dh = l->n[DIM], n = l->n[GROUPS];
    float *k = family_written(c, i);
    for (int g = 0; g < n; g++)
        family_store_pair(c, i, g, k + g * dh, k + (n + g) * dh, k + pair_at(l));
}

static void rotate_row(struct family_call *c, int i)
{
    const struct family_layer *l = &c->l->l;
    int before = l->n[HEADS_BEFORE], n = before ? before : l->n[GROUPS];
    float *k = family_written(c, i) + (before ? raw_keys_at(l) : 0);
    for (int g = 0; g < n && l->n[ROTARY]; g++)
        family_rotate(c, 0, i, k + (size_t)g * (size_t)l->n[DIM]);
    for (int g = 0; g < n && l->n[QK_NORM]; g++)
        family_rms(c, k + g * l->n[DIM], c->l->part[K_NORM].v, l->n[DIM], k + g * l->n[DIM]);
    if (!before)
        store_row(c, i);
}

static void write_rows(struct family_call *c)
{
    const struct family_layer *l = &c->l->l;
    int dh = l->n[DIM], g = l->n[GROUPS], before = l->n[HEADS_BEFORE], m = l->n[KNOCK_DIM];
    int raw = raw_values_at(l), up = raw + g * dh;
    struct family_vecs w = c->written;
    int parts = c->l->part[K].n;
    family_project(c, c->all, K, parts, c->norm, family_vecs(w, before ? raw_keys_at(l) : 0, dh));
    family_project(c, c->all, V, parts, c->norm,
                   family_vecs(w, l->n[KNOCK] == KNOCK_MLP ? raw : g * dh, dh));
    if (l->n[KNOCK] == KNOCK_MLP) {
        family_project(c, c->all, V_UP, g, family_vecs(w, raw, dh), family_vecs(w, up, m));
        family_project(c, c->all, V_GATE, g, family_vecs(w, raw, dh), family_vecs(w, up + g * m, m));
        family_rows(c, c->all->n_rows, 4 * g * m, knock_row);
        family_project(c, c->all, V_DOWN, g, family_vecs(w, up, m), family_vecs(w, g * dh, dh));
    }
    family_rows(c, c->all->n_rows, 4 * g * dh, rotate_row);
    if (!before)
        return;
    family_project(c, c->all, BASIS, g, family_vecs(w, raw_keys_at(l), before / g * dh),
                   family_vecs(w, 0, dh));
    family_rows(c, c->all->n_rows, 2 * g * dh, store_row);
}

static void query_row(struct family_call *c, int i)
{
    const struct family_layer *l = &c->l->l;
    int dh = l->n[DIM];
    float *q = family_record(c, i);
    struct family_vecs lanes = family_queries(c, 0);
    for (int h = 0; h < l->n[HEADS] && l->n[ROTARY]; h++)
        family_rotate(c, 0, c->part.rows[i], q + (size_t)h * (size_t)dh);
    for (int h = 0; h < l->n[HEADS] && l->n[QK_NORM]; h++)
        family_rms(c, q + h * dh, c->l->part[Q_NORM].v, dh, q + h * dh);
    for (int v = 0; v < c->l->plan.shape.n_heads && !l->n[HEADS_BEFORE]; v++)
        memcpy(family_at(&lanes, i, v), q + (size_t)head_of(l, v) * (size_t)dh, (size_t)dh * sizeof(float));
}

static void query(struct family_call *c)
{
    const struct family_layer *l = &c->l->l;
    int dh = l->n[DIM], parts = c->l->part[Q].n;
    family_project(c, &c->part, Q, parts, family_part_norm(c),
                   family_vecs(c->record, 0, l->n[HEADS] / parts * dh));
    family_rows(c, c->part.n_rows, 4 * l->n[HEADS] * dh, query_row);
    if (l->n[HEADS_BEFORE])
        family_project(c, &c->part, Q_BASIS, l->n[HEADS], family_vecs(c->record, 0, dh),
                       family_queries(c, 0));
}

/* Heads in the order of the output projection again. */
static void output_row(struct family_call *c, int i)
{
    const struct family_layer *l = &c->l->l;
    int dh = l->n[DIM], lanes = c->l->plan.shape.n_heads;
    for (int v = 0; v < lanes; v++)
        memcpy(family_record(c, i) + (size_t)head_of(l, v) * (size_t)dh,
               c->z + ((size_t)i * (size_t)lanes + (size_t)v) * (size_t)dh, (size_t)dh * sizeof(float));
}

static void output(struct family_call *c)
{
    if (c->l->l.n_list)
        family_rows(c, c->part.n_rows, 2 * c->l->plan.n_out, output_row);
}

const struct family_mechanism family_gqa = {
    .name = "gqa",
    .keys = keys,
    .shares = true,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
    .output = output,
};
