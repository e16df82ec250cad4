/* engine/attention/family/cca.c - compressed convolutional attention (CCA and CCGQA, arXiv 2510.04476):
 * queries and keys go through two short causal convolutions, values are half the token's and half those
 * of the one before.
 *
 *     u = [x W_q | x W_k]                      m_q = (q + k of its group) / 2      m_k = mean of m_q
 *     over its group
 *     h_t = a0 u_t-1 + a1 u_t + a              by channel
 *     y_t = B0 h_t-1 + B1 h_t + b              [dh, dh] in each of H + G heads
 *     q = rope(l2norm(y_q + m_q) sqrt(dh))     k_g = rope(l2norm(y_k + m_k) sqrt(dh) temp_g)
 *     v_g = [x_t W_v1 | x_t-1 W_v2]            cache row = [k_g | v_g] a group
 *
 * In ZAYA the two halves are those of the values of all groups, one after the other (cca_value_halves).
 *
 * The state of a sequence after a token: its u, the one before, and its x W_v2. Both convolutions are
 * computed from these, so that u is 0 before the first token and h is what that gives. */
#include "config.h"

#include "engine/attention/family.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS, GROUPS, DIM, ROTARY, HALVES };
enum { HALVES_HEAD, HALVES_ALL };
enum { O = FAMILY_OUT, Q, K, V_NOW, V_LATE, CONV1, CONV1_BIAS, CONV2, CONV2_BIAS, TEMP, ONES };

static const struct family_key keys[] = {
    [HEADS] = {FAMILY_INT, "num_attention_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [GROUPS] = {FAMILY_INT, "num_key_value_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [DIM] = {FAMILY_INT, "head_dim", 4, MAX_HEAD_DIM, FAMILY_NEEDED, NULL},
    [ROTARY] = {FAMILY_INT, "rotary_dim", 0, ROPE_MAX_DIM, -1, NULL},
    [HALVES] = {FAMILY_WORD, "cca_value_halves", 0, 0, HALVES_HEAD, "head|all"},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

/* Records, by plan.d: [keys | values | u | both taps of h for each head | y | x W_v1 | x W_v2 | that of
 * the token before | a row] */
enum { U_AT, TAPS_AT, Y_AT, NOW_AT, LATE_AT, BEFORE_AT };

static void check(struct keys *k, struct family_layer *l)
{
    int *n = l->n;
    n[ROTARY] = n[ROTARY] < 0 ? n[DIM] / 2 : n[ROTARY];
    if (n[ROTARY] % 2 || n[ROTARY] > n[DIM] || n[ROTARY] > ROPE_MAX_DIM)
        keys__fail(k, ERR_FORMAT, "rotary_dim", "is %d; even numbers up to head_dim (%d) and %d are accepted",
                   n[ROTARY], n[DIM], ROPE_MAX_DIM);
    if (n[DIM] % 2)
        keys__fail(k, ERR_FORMAT, "head_dim", "is %d; even numbers are accepted", n[DIM]);
    if (n[HEADS] % n[GROUPS])
        keys__fail(k, ERR_FORMAT, "num_key_value_heads", "is %d and does not divide %d heads", n[GROUPS],
                   n[HEADS]);
}

static int channels(const struct family_layer *l)
{
    return (l->n[HEADS] + l->n[GROUPS]) * l->n[DIM];
}

static int late_dim(const struct family_layer *l)
{
    return l->n[GROUPS] * l->n[DIM] / 2;
}

static void bind(struct family_bind *b)
{
    const int *n = b->l->n;
    int64_t hidden = b->l->hidden, dh = n[DIM], c = channels(b->l);
    family_matrix(b, Q, "q_proj.weight", hidden, n[HEADS] * dh);
    family_matrix(b, K, "k_proj.weight", hidden, n[GROUPS] * dh);
    family_matrix(b, V_NOW, "v_proj_current.weight", hidden, late_dim(b->l));
    family_matrix(b, V_LATE, "v_proj_delayed.weight", hidden, late_dim(b->l));
    family_cube(b, CONV1, "conv_qk_depthwise.weight", 2, 1, c);
    family_vector(b, CONV1_BIAS, "conv_qk_depthwise.bias", c);
    family_cube(b, CONV2, "conv_qk_grouped.weight", 2, dh, c);
    family_vector(b, CONV2_BIAS, "conv_qk_grouped.bias", c);
    family_vector(b, TEMP, "k_temp", n[GROUPS]);
    family_matrix(b, O, "o_proj.weight", n[HEADS] * dh, hidden);
}

static int plan(const struct family_layer *l, struct family_plan *p)
{
    int dh = l->n[DIM], g = l->n[GROUPS], c = channels(l), late = late_dim(l);
    p->state_floats = 2 * c + late;
    p->d[U_AT] = 2 * g * dh;
    p->d[TAPS_AT] = p->d[U_AT] + c;
    p->d[Y_AT] = p->d[TAPS_AT] + 2 * c;
    p->d[NOW_AT] = p->d[Y_AT] + c;
    p->d[LATE_AT] = p->d[NOW_AT] + late;
    p->d[BEFORE_AT] = p->d[LATE_AT] + late;
    p->write_floats = p->d[BEFORE_AT] + late + 2 * dh;
    p->out_at = -1;
    p->rope_dims[0] = l->n[ROTARY];
    p->shape = (struct paged_shape){
        .n_heads = l->n[HEADS], .dk = dh, .dv = dh, .scale = 1.0f / sqrtf((float)dh)};
    family_plan_vecs(p, l->n[HEADS] + g, 2 * dh, l->n[HEADS] + g);
    return family_plan_streams(p, g);
}

/* Taps of a convolution stand together in the file; here each tap is a row of all channels. */
static void pack_depthwise(struct family_pack *p)
{
    int c = channels(p->from);
    float *w = family_floats(p, &p->from->t[CONV1]), *taps = malloc((size_t)c * 2 * sizeof(float));
    if (!taps)
        family_pack_nomem(p);
    for (int i = 0; w && taps && i < 2 * c; i++)
        taps[i % 2 * c + i / 2] = w[i];
    free(w);
    p->to->part[CONV1].v = taps;
}

/* One matrix a head: [dh][2 dh], inputs of the tap before, then of the token's own. */
static void pack_grouped(struct family_pack *p)
{
    const struct tensor *t = &p->from->t[CONV2];
    int dh = p->from->n[DIM], heads = p->from->n[HEADS] + p->from->n[GROUPS];
    float *w = family_floats(p, t), *m = malloc((size_t)dh * (size_t)dh * 2 * sizeof(float));
    family_pack_room(p, CONV2, heads);
    if (!m)
        family_pack_nomem(p);
    for (int h = 0; h < heads && p->r == 0; h++) {
        const float *from = w + (size_t)h * (size_t)dh * (size_t)dh * 2;
        for (int o = 0; o < dh; o++)
            for (int i = 0; i < 2 * dh; i++)
                m[o * 2 * dh + i % 2 * dh + i / 2] = from[o * 2 * dh + i];
        family_pack_floats(p, CONV2, h, t->name, m, dh, 2 * dh, t->type);
    }
    free(w);
    free(m);
}

/* Weights of the norms: ones for queries, a group's temperature for its key. */
static void pack_norms(struct family_pack *p)
{
    int dh = p->from->n[DIM], n = p->from->n[GROUPS] + 1;
    float *temp = family_floats(p, &p->from->t[TEMP]), *v = malloc((size_t)n * (size_t)dh * sizeof(float));
    if (!v)
        family_pack_nomem(p);
    for (int i = 0; v && temp && i < n * dh; i++)
        v[i] = i < dh ? 1.0f : temp[i / dh - 1];
    free(temp);
    p->to->part[TEMP].v = v;
}

static void pack(struct family_pack *p)
{
    for (int i = O; i <= V_LATE; i++)
        family_pack_matrix(p, i);
    pack_depthwise(p);
    pack_grouped(p);
    family_pack_vector(p, CONV1_BIAS);
    family_pack_vector(p, CONV2_BIAS);
    pack_norms(p);
}

/* --- rows -------------------------------------------------------------------------------------- */

/* u of token t of a span, which may be one or two before it; NULL: before the first of all. */
static const float *u_of(const struct family_call *c, const struct span *sp, int t)
{
    if (t >= 0)
        return family_written(c, sp->first + t) + c->l->plan.d[U_AT];
    if (sp->position + t < 0)
        return NULL;
    return family_state(c, sp, sp->position - 1) + (-1 - t) * channels(&c->l->l);
}

/* h from two u's, to place `tap` of each head. */
static void depthwise(const struct family_call *c, const float *before, const float *u, int tap, float *taps)
{
    const struct family_layer *l = &c->l->l;
    const float *w = c->l->part[CONV1].v, *bias = c->l->part[CONV1_BIAS].v;
    int dh = l->n[DIM], n = channels(l);
    for (int g = 0; g < l->n[HEADS] + l->n[GROUPS]; g++) {
        float *to = taps + (2 * g + tap) * dh;
        for (int d = 0; d < dh; d++) {
            int at = g * dh + d;
            to[d] = (before ? before[at] * w[at] : 0.0f) + (u ? u[at] * w[n + at] : 0.0f) + bias[at];
        }
    }
}

/* The state after token t, which may take the place of the one before the span. */
static void keep_state(struct family_call *c, const struct span *sp, int t)
{
    const struct family_layer *l = &c->l->l;
    size_t n = (size_t)channels(l), f = sizeof(float);
    float *state = family_state(c, sp, sp->position + t);
    const float *before = u_of(c, sp, t - 1);
    if (before)
        memmove(state + n, before, n * f);
    else
        memset(state + n, 0, n * f);
    memcpy(state, u_of(c, sp, t), n * f);
    memcpy(state + 2 * n, family_written(c, sp->first + t) + c->l->plan.d[LATE_AT], (size_t)late_dim(l) * f);
}

static void convolve_span(struct family_call *c, const struct span *sp)
{
    const struct family_layer *l = &c->l->l;
    size_t late_bytes = (size_t)late_dim(l) * sizeof(float);
    for (int t = 0; t < sp->n_tokens; t++) {
        float *r = family_written(c, sp->first + t), *before = r + c->l->plan.d[BEFORE_AT];
        depthwise(c, u_of(c, sp, t - 2), u_of(c, sp, t - 1), 0, r + c->l->plan.d[TAPS_AT]);
        depthwise(c, u_of(c, sp, t - 1), u_of(c, sp, t), 1, r + c->l->plan.d[TAPS_AT]);
        if (t > 0)
            memcpy(before, family_written(c, sp->first + t - 1) + c->l->plan.d[LATE_AT], late_bytes);
        else if (sp->position > 0)
            memcpy(before, family_state(c, sp, sp->position - 1) + 2 * channels(l), late_bytes);
        else
            memset(before, 0, late_bytes);
    }
    for (int t = 0; t < sp->n_tokens; t++)
        if (sp->position + t == family_page_end(c, sp, sp->position + t))
            keep_state(c, sp, t);
}

/* y plus its means, norms, rotation: queries stay at y, keys and values go to the row. */
static void finish_row(struct family_call *c, int i)
{
    const struct family_layer *l = &c->l->l;
    const int *at = c->l->plan.d;
    int dh = l->n[DIM], groups = l->n[GROUPS], each = l->n[HEADS] / groups, half = dh / 2;
    float eps = 1e-12f / (float)dh, *row = family_written(c, i), *y = row + at[Y_AT];
    const float *u = row + at[U_AT], *norms = c->l->part[TEMP].v, *bias = c->l->part[CONV2_BIAS].v;
    for (int d = 0; d < channels(l); d++)
        y[d] += bias[d];
    for (int g = 0; g < groups; g++) {
        const float *k = u + (l->n[HEADS] + g) * dh;
        float *key = y + (l->n[HEADS] + g) * dh;
        for (int h = g * each; h < (g + 1) * each; h++) {
            for (int d = 0; d < dh; d++) {
                float mean = 0.5f * (u[h * dh + d] + k[d]);
                y[h * dh + d] += mean;
                key[d] += mean / (float)each;
            }
            c->st->kern->rms_norm(y + h * dh, norms, dh, eps, y + h * dh);
            if (l->n[ROTARY])
                family_rotate(c, 0, i, y + h * dh);
        }
        c->st->kern->rms_norm(key, norms + (g + 1) * dh, dh, eps, row + g * dh);
        if (l->n[ROTARY])
            family_rotate(c, 0, i, row + g * dh);
        float *v = row + (groups + g) * dh;
        for (int h = 0; h < 2; h++) {
            int piece = l->n[HALVES] == HALVES_ALL ? 2 * g + h : h * groups + g; /* of [now | before] */
            const float *from = row + (piece < groups ? at[NOW_AT] : at[BEFORE_AT]);
            memcpy(v + h * half, from + piece % groups * half, (size_t)half * sizeof(float));
        }
        family_store_pair(c, i, g, row + g * dh, v, row + at[BEFORE_AT] + late_dim(l));
    }
}

static void write_rows(struct family_call *c)
{
    const struct family_layer *l = &c->l->l;
    const int *at = c->l->plan.d;
    int dh = l->n[DIM], heads = l->n[HEADS] + l->n[GROUPS];
    struct family_vecs w = c->written;
    family_project(c, c->all, Q, 1, c->norm, family_vecs(w, at[U_AT], 0));
    family_project(c, c->all, K, 1, c->norm, family_vecs(w, at[U_AT] + l->n[HEADS] * dh, 0));
    family_project(c, c->all, V_NOW, 1, c->norm, family_vecs(w, at[NOW_AT], 0));
    family_project(c, c->all, V_LATE, 1, c->norm, family_vecs(w, at[LATE_AT], 0));
    family_spans(c, convolve_span);
    family_project(c, c->all, CONV2, heads, family_vecs(w, at[TAPS_AT], 2 * dh),
                   family_vecs(w, at[Y_AT], dh));
    family_rows(c, c->all->n_rows, 4 * channels(l), finish_row);
}

static void query_row(struct family_call *c, int i)
{
    struct family_vecs lanes = family_queries(c, 0);
    memcpy(family_at(&lanes, i, 0), family_written(c, c->part.rows[i]) + c->l->plan.d[Y_AT],
           (size_t)(c->l->l.n[HEADS] * c->l->l.n[DIM]) * sizeof(float));
}

static void query(struct family_call *c)
{
    family_rows(c, c->part.n_rows, 2 * c->l->l.n[HEADS] * c->l->l.n[DIM], query_row);
}

const struct family_mechanism family_cca = {
    .name = "cca",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
};
