/* engine/attention/family/eg_mla.c - embedding-gated latent attention (EG-MLA, arXiv 2509.16686): what a
 * latent is multiplied out to is gated by an embedding of the token, and normalised.
 *
 *     c = norm(x W_kva)    r = rope(x W_kr)    e = E[token]
 *     kv = LayerNorm((c W_kvb) * (e W_ue))     over each head, or over all (gate_norm)
 *     k_h = [kv_h first nope values | r]       v_h = the rest of kv_h
 *     cache row = [c | r], beside it the token; with gate_norm all also mean and 1 / deviation of its product
 *
 * There are two plans of execution (gate_plan). Multiplied: a head's keys and values are made when rows are
 * read, [k_h | v_h], by a kernel for some rows at a time (gated_rows). Absorbed: with U and E the rows of
 * W_kvb and W_ue, output d of a head is a product with c times each value of e,
 *     kv_d = f sum over b, k of A_d[b][k] e[b] c[k]    A_d[b][k] = E_d[b] U_d[k], less its mean over the span
 * where f = 1 / deviation. So A moves to the query and to what was found, and what is left to do for a row is
 * f, which is one number a head (gate_factors): less by far with small e and c, and not with large ones. */
#include "config.h"

#include "engine/attention/family/latent.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { EMBED_DIM = LATENT_KEYS, SPAN, NORM, PLAN };
enum { SPAN_HEAD, SPAN_ALL };
enum { NORM_RMS, NORM_NONE };
enum { PLAN_AUTO, PLAN_ABSORBED, PLAN_MULTIPLIED };
/* GATES: as gate_factors takes them; LATENT_UK, LATENT_UV: of the multiplied plan nothing and floats, of the
 * absorbed one a matrix for each head. */
enum { EMBED = LATENT_SLOTS, GATE_UP, ALL_KV, ALL_GATE, GATES };

static const struct family_key keys[] = {
    LATENT_KEY_ROWS,
    [EMBED_DIM] = {FAMILY_INT, "gate_embed_dim", 1, MAX_DIM, FAMILY_NEEDED, NULL},
    [SPAN] = {FAMILY_WORD, "gate_norm", 0, 0, SPAN_HEAD, "head|all"},
    [NORM] = {FAMILY_WORD, "latent_norm", 0, 0, NORM_RMS, "rms|none"},
    [PLAN] = {FAMILY_WORD, "gate_plan", 0, 0, PLAN_AUTO, "auto|absorbed|multiplied"},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

struct side {
    int32_t token;
    float mean, inverse; /* with SPAN_ALL */
};

static struct latent shape(const struct family_layer *l)
{
    struct latent s = latent_of(l);
    s.norm = l->n[NORM] == NORM_RMS;
    return s;
}

static struct low_query queries(const struct latent *s)
{
    return (struct low_query){LATENT_Q, s->q_rank, s->heads * (s->nope + s->rope), true, 0.0f};
}

/* Values of a latent times those of an embedding: a query's of the absorbed plan, but for the rotary ones. */
static int both(const struct family_layer *l)
{
    return l->n[LATENT_RANK] * l->n[EMBED_DIM];
}

#define MAX_BOTH 4096

/* What a query and a key cost must be little beside what making the key does. */
static bool absorbed(const struct family_layer *l)
{
    int made = (l->n[LATENT_NOPE] + l->n[LATENT_V]) * (l->n[LATENT_RANK] + l->n[EMBED_DIM]);
    if (l->n[PLAN] == PLAN_AUTO)
        return both(l) <= MAX_BOTH && 4 * both(l) <= made;
    return l->n[PLAN] == PLAN_ABSORBED;
}

static struct gate_shape gates(const struct family_layer *l)
{
    return (struct gate_shape){l->n[LATENT_HEADS], l->n[LATENT_NOPE] + l->n[LATENT_V], l->n[LATENT_RANK],
                               l->n[EMBED_DIM], l->n[LATENT_ROPE]};
}

static void check(struct keys *k, struct family_layer *l)
{
    latent_check(k, l);
    if (l->n[PLAN] == PLAN_ABSORBED && (int64_t)l->n[LATENT_RANK] * l->n[EMBED_DIM] > MAX_BOTH)
        keys__fail(k, ERR_FORMAT, "gate_plan",
                   "is absorbed; with kv_lora_rank * gate_embed_dim above %d only multiplied is accepted",
                   MAX_BOTH);
}

static void bind(struct family_bind *b)
{
    struct latent s = shape(b->l);
    latent_bind(b, &s);
    family_matrix(b, EMBED, "gate_embed", b->l->n[EMBED_DIM], b->l->vocab);
    family_matrix(b, GATE_UP, "gate_up.weight", b->l->n[EMBED_DIM], (int64_t)s.heads * (s.nope + s.v));
}

static struct side side_of(const struct family_call *c, const struct paged_rows *from, int i)
{
    uint32_t at = (uint32_t)(from->t0 + i);
    size_t n = (size_t)c->l->plan.side_bytes;
    struct side side;
    memcpy(&side, from->pages[at / from->page_rows] + c->a->plane_offsets[1] +
                      (size_t)(at % from->page_rows) * n,
           n);
    return side;
}

static const float *embedding(const struct family_call *c, int32_t token)
{
    return c->l->part[EMBED].v + (size_t)token * (size_t)c->l->l.n[EMBED_DIM];
}

static void gate_rows(void *arg, const struct paged_rows *from, int thread, const unsigned char *const *x,
                      const float **e, float *factors)
{
    const struct family_call *c = arg;
    const struct family_packed *l = c->l;
    size_t stride = kern_gate_stride(l->l.n[LATENT_HEADS]);
    bool all = l->l.n[SPAN] == SPAN_ALL;
    for (int i = 0; i < from->n; i++) {
        struct side side = side_of(c, from, i);
        e[i] = embedding(c, side.token);
        for (size_t h = 0; all && h < stride; h++)
            factors[(size_t)i * stride + h] = side.inverse;
    }
    struct gate_factors g = {.shape = gates(&l->l),
                             .n = from->n,
                             .type = l->plan.shape.format.type,
                             .x = x,
                             .e = e,
                             .weights = l->part[GATES].v,
                             .eps = l->l.eps,
                             .factors = factors,
                             .scratch = c->make_floats + (size_t)thread * (size_t)l->plan.make_floats};
    if (!all)
        c->st->kern->gate_factors(&g);
}

/* Rows that are made at a time. */
#define TILE 64

static void make_tile(const struct family_call *c, int head, const struct paged_rows *from, int thread,
                      unsigned char *dst)
{
    const struct family_packed *l = c->l;
    struct latent s = shape(&l->l);
    const unsigned char *x[TILE];
    const float *e[TILE];
    float mean[TILE], inverse[TILE];
    size_t stride = kern_gated_stride(s.nope + s.v);
    bool all = l->l.n[SPAN] == SPAN_ALL;
    for (int i = 0; i < from->n; i++) {
        struct side side = side_of(c, from, i);
        x[i] = paged_row(from, i);
        e[i] = embedding(c, side.token);
        if (all) {
            mean[i] = side.mean;
            inverse[i] = side.inverse;
        }
    }
    struct gated_rows g = {.n = from->n,
                           .width = s.width,
                           .embed = l->l.n[EMBED_DIM],
                           .each = s.nope + s.v,
                           .type = l->plan.shape.format.type,
                           .x = x,
                           .e = e,
                           .up = l->part[LATENT_UV].v + (size_t)head * (size_t)s.width * stride,
                           .gate = l->part[GATE_UP].v + (size_t)head * (size_t)l->l.n[EMBED_DIM] * stride,
                           .eps = l->l.eps,
                           .mean = all ? mean : NULL,
                           .inverse = all ? inverse : NULL,
                           .dst = dst,
                           .dst_bytes = l->plan.make.format.row_bytes,
                           .first = s.nope,
                           .rest_at = s.nope + s.rope,
                           .scratch = c->make_floats + (size_t)thread * (size_t)l->plan.make_floats};
    c->st->kern->gated_rows(&g);
}

static void make_rows(void *arg, int head, const struct paged_rows *from, int thread, unsigned char *dst)
{
    const struct family_call *c = arg;
    const struct row_format *out = &c->l->plan.make.format;
    struct latent s = shape(&c->l->l);
    size_t size = family_row_size(out);
    struct paged_rows some = *from;
    paged_copy(from, (size_t)s.width * size, (size_t)s.rope * size, dst + (size_t)s.nope * size,
               out->row_bytes);
    for (int t = 0; t < from->n; t += TILE, some.t0 += TILE, dst += TILE * out->row_bytes) {
        some.n = from->n - t < TILE ? from->n - t : TILE;
        make_tile(c, head, &some, thread, dst);
    }
}

static void plan_absorbed(const struct family_layer *l, const struct latent *s, struct family_plan *p)
{
    struct gate_shape g = gates(l);
    p->gate = (struct paged_gate){g, gate_rows};
    p->make_floats = (int)kern_gate_factor_floats(&g);
    p->shape = (struct paged_shape){
        .n_heads = s->heads, .dk = both(l) + s->rope, .dv = both(l), .scale = s->scale};
    if (l->n[SPAN] == SPAN_ALL)
        p->make_macs = 0;
    p->out_at = p->query_floats;
    p->n_out = s->heads * s->v;
    p->query_floats += p->n_out;
    family_plan_vecs(p, s->heads, s->nope, s->heads);
    family_plan_vecs(p, s->heads, both(l), s->heads);
}

/* Records: written [row | latents as read back, all products, all gates, with SPAN_ALL]; of a query
 * [queries, then outputs]. */
static int plan(const struct family_layer *l, struct family_plan *p)
{
    struct latent s = shape(l);
    struct low_query q = queries(&s);
    int all = l->n[SPAN] == SPAN_ALL, wide = s.heads * (s.nope + s.v);
    p->row_elems = latent_raw(&s);
    p->row_tail = s.rope;
    p->side_bytes = all ? (int)sizeof(struct side) : (int)sizeof(int32_t);
    p->write_floats = p->row_elems + (all ? s.width + 2 * wide : 0);
    p->query_floats = low_query_plan(p, &q);
    p->out_at = -1;
    p->rope_dims[0] = s.rope;
    p->make_macs = (double)wide * (s.width + l->n[EMBED_DIM]);
    family_plan_vecs(p, 1, s.width, 1);
    family_plan_vecs(p, 1, l->n[EMBED_DIM], 1);
    if (absorbed(l)) {
        plan_absorbed(l, &s, p);
        return 0;
    }
    p->make.rows = make_rows;
    p->make_elems = s.nope + s.rope + s.v;
    p->make_floats = (int)kern_gated_floats(s.width, l->n[EMBED_DIM], s.nope + s.v);
    p->shape = (struct paged_shape){.n_heads = s.heads, .dk = s.nope + s.rope, .dv = s.v, .scale = s.scale};
    return family_plan_groups(p, s.heads, 0, s.nope + s.rope, 0);
}

/* A matrix as gated_rows takes it: of each head, outputs of an input side by side. */
static void pack_turned(struct family_pack *p, int slot, int tensor, int heads, int each)
{
    const struct tensor *t = &p->from->t[tensor];
    size_t width = (size_t)t->ne[0], stride = kern_gated_stride(each), n = (size_t)heads * width * stride;
    float *row = p->r < 0 ? NULL : malloc(width * sizeof(float));
    float *v = p->r < 0 ? NULL : calloc(n, sizeof(float));
    if (!row || !v)
        family_pack_nomem(p);
    for (int i = 0; row && v && i < heads * each; i++) {
        float *to = v + (size_t)(i / each) * width * stride + (size_t)(i % each);
        tensor_row_f32(t, i, row);
        for (size_t k = 0; k < width; k++)
            to[k * stride] = row[k];
    }
    free(row);
    p->to->part[slot].v = v;
    p->to->n_bytes += v ? n * sizeof(float) : 0;
}

/* A_d of n outputs from row0 on, [n][both]; mean[both] is taken off. */
static void gate_rows_of(const struct family_layer *l, const float *up, const float *gate, int row0, int n,
                         const float *mean, float *to)
{
    int width = l->n[LATENT_RANK], embed = l->n[EMBED_DIM];
    for (int d = row0; d < row0 + n; d++)
        for (int b = 0; b < embed; b++)
            for (int k = 0; k < width; k++, to++)
                *to = gate[(size_t)d * (size_t)embed + (size_t)b] *
                          up[(size_t)d * (size_t)width + (size_t)k] -
                      mean[b * width + k];
}

/* The mean of A_d over n outputs, in float64: others are what is left beside it. */
static void mean_of(const struct family_layer *l, const float *up, const float *gate, int row0, int n,
                    float *to)
{
    int width = l->n[LATENT_RANK], embed = l->n[EMBED_DIM];
    for (int i = 0; i < both(l); i++) {
        double sum = 0;
        for (int d = row0; d < row0 + n; d++)
            sum += (double)gate[(size_t)d * (size_t)embed + (size_t)(i / width)] *
                   (double)up[(size_t)d * (size_t)width + (size_t)(i % width)];
        to[i] = (float)(sum / n);
    }
}

/* A of a head's keys from queries to [both], and of its values from there. */
static void pack_head(struct family_pack *p, int head, const float *up, const float *gate, float *room)
{
    const struct family_layer *l = p->from;
    const struct tensor *t = &l->t[LATENT_KV_B];
    enum tensor_type like = family_folded_type(p, t);
    int nope = l->n[LATENT_NOPE], v = l->n[LATENT_V], each = nope + v, n = both(l);
    float *mean = room, *rows = mean + n, *turned = rows + (size_t)each * (size_t)n;
    if (l->n[SPAN] == SPAN_HEAD)
        mean_of(l, up, gate, head * each, each, mean);
    gate_rows_of(l, up, gate, head * each, each, mean, rows);
    for (int d = 0; d < nope; d++)
        for (int i = 0; i < n; i++)
            turned[i * nope + d] = rows[d * n + i];
    family_pack_floats(p, LATENT_UK, head, t->name, turned, n, nope, like);
    family_pack_floats(p, LATENT_UV, head, t->name, rows + (size_t)nope * (size_t)n, v, n, like);
}

static void pack_absorbed(struct family_pack *p)
{
    const struct family_layer *l = p->from;
    struct gate_shape g = gates(l);
    size_t rows = (size_t)(2 * g.each + 1) * (size_t)both(l), n_bytes = (kern_gate_bytes(&g) + 63) / 64 * 64;
    float *up = family_floats(p, &l->t[LATENT_KV_B]), *gate = family_floats(p, &l->t[GATE_UP]);
    float *room = p->r < 0 ? NULL : malloc(rows * sizeof(float));
    void *packed = p->r < 0 ? NULL : aligned_alloc(64, n_bytes);
    if (!room || !packed)
        family_pack_nomem(p);
    family_pack_room(p, LATENT_UK, g.heads);
    family_pack_room(p, LATENT_UV, g.heads);
    if (p->r == 0 && l->n[SPAN] == SPAN_ALL)
        mean_of(l, up, gate, 0, g.heads * g.each, room);
    for (int h = 0; h < g.heads && p->r == 0; h++)
        pack_head(p, h, up, gate, room);
    if (p->r == 0)
        p->lim->kern->gate_pack(&g, up, gate, packed);
    p->to->part[GATES].v = packed;
    p->to->n_bytes += packed ? n_bytes : 0;
    free(up);
    free(gate);
    free(room);
}

static void pack(struct family_pack *p)
{
    struct latent s = shape(p->from);
    struct low_query q = queries(&s);
    low_query_pack(p, &q);
    family_pack_matrix(p, LATENT_O);
    family_pack_matrix(p, LATENT_KV);
    if (s.norm)
        family_pack_vector(p, LATENT_NORM);
    family_pack_vector(p, EMBED);
    if (absorbed(p->from)) {
        pack_absorbed(p);
    } else {
        pack_turned(p, LATENT_UV, LATENT_KV_B, s.heads, s.nope + s.v);
        pack_turned(p, GATE_UP, GATE_UP, s.heads, s.nope + s.v);
    }
    if (p->from->n[SPAN] == SPAN_HEAD)
        return;
    family_pack_room(p, ALL_KV, 1);
    family_pack_room(p, ALL_GATE, 1);
    family_pack_rows(p, ALL_KV, 0, &p->from->t[LATENT_KV_B], 0, s.heads * (s.nope + s.v));
    family_pack_rows(p, ALL_GATE, 0, &p->from->t[GATE_UP], 0, s.heads * (s.nope + s.v));
}

static void store_row(struct family_call *c, int i)
{
    struct latent s = shape(&c->l->l);
    const struct span *sp = family_span(c, i);
    const struct row_format *f = &c->l->plan.shape.format;
    float *row = family_written(c, i);
    int position = c->st->positions[i], page = (int)c->st->page_tokens;
    if (s.norm)
        family_rms(c, row, c->l->part[LATENT_NORM].v, s.width, row);
    family_rotate(c, 0, i, row + s.width);
    family_store(c, i, row);
    memcpy(family_side(c, sp, position), c->st->tokens[i], sizeof(int32_t));
    if (c->l->l.n[SPAN] == SPAN_ALL) /* what readers will have */
        family_row_read(f, sp->pages[position / page] + c->a->plane_offsets[0] +
                               (size_t)(position % page) * f->row_bytes,
                        0, s.width, row + latent_raw(&s));
}

static void statistics_row(struct family_call *c, int i)
{
    struct latent s = shape(&c->l->l);
    int wide = s.heads * (s.nope + s.v), count;
    float *kv = family_written(c, i) + latent_raw(&s) + s.width, *g = kv + wide, sum = 0;
    struct side side = {.token = *c->st->tokens[i]};
    for (int d = 0; d < wide; d++)
        kv[d] *= g[d];
    side.mean = c->st->kern->sum_from(kv, wide, -INFINITY, &count) / (float)wide;
    for (int d = 0; d < wide; d++)
        g[d] = (kv[d] - side.mean) * (kv[d] - side.mean);
    sum = c->st->kern->sum_from(g, wide, -INFINITY, &count);
    side.inverse = 1.0f / sqrtf(sum / (float)wide + c->l->l.eps);
    memcpy(family_side(c, family_span(c, i), c->st->positions[i]), &side, sizeof(side));
}

static void write_rows(struct family_call *c)
{
    struct latent s = shape(&c->l->l);
    int raw = latent_raw(&s), wide = s.heads * (s.nope + s.v);
    latent_project(c, &s);
    family_rows(c, c->all->n_rows, 4 * raw, store_row);
    if (c->l->l.n[SPAN] == SPAN_HEAD)
        return;
    struct family_vecs e = {.base = c->l->part[EMBED].v, .row = (size_t)c->l->l.n[EMBED_DIM],
                            .indirect = c->st->tokens};
    family_project(c, c->all, ALL_KV, 1, family_vecs(c->written, raw, 0),
                   family_vecs(c->written, raw + s.width, 0));
    family_project(c, c->all, ALL_GATE, 1, e, family_vecs(c->written, raw + s.width + wide, 0));
    family_rows(c, c->all->n_rows, 6 * wide, statistics_row);
}

static void query_row(struct family_call *c, int i)
{
    struct latent s = shape(&c->l->l);
    struct family_vecs lanes = family_queries(c, 0);
    for (int h = 0; h < s.heads; h++) {
        if (!absorbed(&c->l->l)) {
            family_rotate(c, 0, c->part.rows[i], family_lane(c, i, h) + s.nope);
            continue;
        }
        float *pe = family_at(&lanes, i, h) + both(&c->l->l);
        memcpy(pe, family_record(c, i) + h * (s.nope + s.rope) + s.nope, (size_t)s.rope * sizeof(*pe));
        family_rotate(c, 0, c->part.rows[i], pe);
    }
}

static void query(struct family_call *c)
{
    struct latent s = shape(&c->l->l);
    struct low_query q = queries(&s);
    low_query_rows(c, &q, query_row);
    if (absorbed(&c->l->l))
        family_project(c, &c->part, LATENT_UK, s.heads, family_vecs(c->record, 0, s.nope + s.rope),
                       family_queries(c, 0));
}

static void output(struct family_call *c)
{
    struct latent s = shape(&c->l->l);
    if (absorbed(&c->l->l))
        family_project(c, &c->part, LATENT_UV, s.heads, family_found(c, 0),
                       family_vecs(c->record, c->l->plan.out_at, s.v));
}

const struct family_mechanism family_eg_mla = {
    .name = "eg_mla",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
    .output = output,
};
