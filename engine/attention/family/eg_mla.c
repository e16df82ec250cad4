/* engine/attention/family/eg_mla.c - embedding-gated latent attention (EG-MLA, arXiv 2509.16686): what a
 * latent is multiplied out to is gated by an embedding of the token, and normalised.
 *
 *     c = norm(x W_kva)    r = rope(x W_kr)    e = E[token]
 *     kv = LayerNorm((c W_kvb) * (e W_ue))     over each head, or over all (gate_norm)
 *     k_h = [kv_h first nope values | r]       v_h = the rest of kv_h
 *     cache row = [c | r], beside it the token; with gate_norm all also mean and 1 / deviation of its product
 *
 * The gate stands between latent and head, so that nothing can be absorbed: a head's keys and values are made
 * when rows are read, [k_h | v_h], by a kernel for some rows at a time (gated_rows). */
#include "config.h"

#include "engine/attention/family/latent.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { EMBED_DIM = LATENT_KEYS, SPAN, NORM };
enum { SPAN_HEAD, SPAN_ALL };
enum { NORM_RMS, NORM_NONE };
enum { EMBED = LATENT_SLOTS, GATE_UP, ALL_KV, ALL_GATE };

static const struct family_key keys[] = {
    LATENT_KEY_ROWS,
    [EMBED_DIM] = {FAMILY_INT, "gate_embed_dim", 1, MAX_DIM, FAMILY_NEEDED, NULL},
    [SPAN] = {FAMILY_WORD, "gate_norm", 0, 0, SPAN_HEAD, "head|all"},
    [NORM] = {FAMILY_WORD, "latent_norm", 0, 0, NORM_RMS, "rms|none"},
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

static void check(struct keys *k, struct family_layer *l)
{
    latent_check(k, l);
}

static void bind(struct family_bind *b)
{
    struct latent s = shape(b->l);
    latent_bind(b, &s);
    family_matrix(b, EMBED, "gate_embed", b->l->n[EMBED_DIM], b->l->vocab);
    family_matrix(b, GATE_UP, "gate_up.weight", b->l->n[EMBED_DIM], (int64_t)s.heads * (s.nope + s.v));
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
        uint32_t at = (uint32_t)(from->t0 + i);
        struct side side;
        memcpy(&side, from->pages[at / from->page_rows] + c->a->plane_offsets[1] +
                          (size_t)(at % from->page_rows) * (size_t)l->plan.side_bytes,
               (size_t)l->plan.side_bytes);
        x[i] = paged_row(from, i);
        e[i] = l->part[EMBED].v + (size_t)side.token * (size_t)l->l.n[EMBED_DIM];
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
    p->make.rows = make_rows;
    p->make_macs = (double)wide * (s.width + l->n[EMBED_DIM]);
    p->make_elems = s.nope + s.rope + s.v;
    p->make_floats = (int)kern_gated_floats(s.width, l->n[EMBED_DIM], s.nope + s.v);
    p->shape = (struct paged_shape){.n_heads = s.heads, .dk = s.nope + s.rope, .dv = s.v, .scale = s.scale};
    family_plan_vecs(p, 1, s.width, 1);
    family_plan_vecs(p, 1, l->n[EMBED_DIM], 1);
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
    pack_turned(p, LATENT_UV, LATENT_KV_B, s.heads, s.nope + s.v);
    pack_turned(p, GATE_UP, GATE_UP, s.heads, s.nope + s.v);
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
    for (int h = 0; h < s.heads; h++)
        family_rotate(c, 0, c->part.rows[i], family_lane(c, i, h) + s.nope);
}

static void query(struct family_call *c)
{
    struct latent s = shape(&c->l->l);
    struct low_query q = queries(&s);
    low_query_rows(c, &q, query_row);
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
};
