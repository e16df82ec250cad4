/* engine/attention/family/latent.c - see latent.h. */
#include "config.h"

#include "engine/attention/family/latent.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct latent latent_of(const struct family_layer *l)
{
    const int *n = l->n;
    return (struct latent){.heads = n[LATENT_HEADS], .nope = n[LATENT_NOPE], .rope = n[LATENT_ROPE],
                           .v = n[LATENT_V], .q_rank = n[LATENT_Q_RANK], .blocks = 1, .width = n[LATENT_RANK],
                           .branches = 1, .rope_keys = 1, .norm = true, .q_norm = true, .factor = 1.0f,
                           .scale = 1.0f / sqrtf((float)(n[LATENT_NOPE] + n[LATENT_ROPE]))};
}

void latent_check(struct keys *k, const struct family_layer *l)
{
    if (l->n[LATENT_ROPE] % 2)
        keys__fail(k, ERR_FORMAT, "qk_rope_head_dim", "is %d; even numbers are accepted", l->n[LATENT_ROPE]);
}

static int lanes_of(const struct latent *s)
{
    return s->branches * s->heads;
}

/* Four blocks of a row no longer than this lie in halves: more products, but no row is made. */
#define HALVES_ELEMS 256

/* Blocks on each side of the rotary key; 0: it does not stand between them. */
static int half_of(const struct latent *s)
{
    bool halves = s->blocks == 2 || (s->blocks == 4 && latent_raw(s) <= HALVES_ELEMS);
    return halves ? s->blocks / 2 : 0;
}

/* Values of latents in a key. */
static int key_width(const struct latent *s)
{
    int half = half_of(s);
    return half ? half * s->width : s->width;
}

static struct low_query queries(const struct latent *s)
{
    return (struct low_query){LATENT_Q, s->q_rank, s->heads * (s->nope + s->rope), s->q_norm, s->q_factor};
}

void latent_bind(struct family_bind *b, const struct latent *s)
{
    int64_t hidden = b->l->hidden, latents = (int64_t)s->blocks * s->width, each = s->nope + s->v;
    int per_block = lanes_of(s) / s->blocks;
    struct low_query q = queries(s);
    low_query_bind(b, &q);
    if (s->apart) {
        family_matrix(b, LATENT_KV_B, "k_up_proj.weight", s->width, (int64_t)s->rope_keys * s->nope);
        family_matrix(b, LATENT_V_B, "v_up_proj.weight", s->width, (int64_t)s->rope_keys * s->v);
    } else if (s->columns)
        family_cube(b, LATENT_KV_B, "kv_b_proj.weight", per_block * each, s->width, s->blocks);
    else if (s->branches > 1)
        family_cube(b, LATENT_KV_B, "kv_b_proj.weight", s->width, per_block * each, s->blocks);
    else
        family_matrix(b, LATENT_KV_B, "kv_b_proj.weight", s->width, s->heads * each);
    family_matrix(b, LATENT_O, "o_proj.weight", (int64_t)s->heads * s->v, hidden);
    if (!family_writes(b->l))
        return;
    if (s->rope_apart) {
        family_matrix(b, LATENT_KV, "kv_a_proj.weight", hidden, latents);
        family_matrix(b, LATENT_ROPE_K, "k_rope_proj.weight", hidden, (int64_t)s->rope_keys * s->rope);
        if (family_has(b, "rope_freqs"))
            family_matrix(b, LATENT_FREQS, "rope_freqs", s->rope / 2, s->rope_keys);
    } else {
        family_matrix(b, LATENT_KV, "kv_a_proj_with_mqa.weight", hidden, latents + s->rope);
    }
    for (int i = 0; i < s->blocks && s->columns; i++) {
        char name[40];
        snprintf(name, sizeof(name), "kv_a_layernorms.%d.weight", i);
        family_vector(b, LATENT_BLOCK_NORMS + i, name, s->width);
    }
    if (s->columns)
        return;
    if (s->norm && s->blocks == 1)
        family_vector(b, LATENT_NORM, "kv_a_layernorm.weight", s->width);
    else if (s->norm)
        family_matrix(b, LATENT_NORM, "kv_a_layernorm.weight", s->width, s->blocks);
}

static void make_rows(void *arg, int group, const struct paged_rows *from, int thread, unsigned char *dst)
{
    const struct family_call *c = arg;
    const struct family_plan *p = &c->l->plan;
    const struct row_format *f = &p->make.format;
    size_t size = family_row_size(f), width = (size_t)p->shape.dv * size;
    size_t rope = (size_t)(p->shape.dk - p->shape.dv) * size, rope_at = (size_t)p->row_elems * size - rope;
    (void)thread;
    paged_copy(from, (size_t)group * width, width, dst, f->row_bytes);
    paged_copy(from, rope_at, rope, dst + width, f->row_bytes);
}

int latent_plan(const struct family_layer *l, const struct latent *s, struct family_plan *p)
{
    struct low_query q = queries(s);
    int lanes = lanes_of(s), half = half_of(s), wide = key_width(s), r = 0;
    (void)l;
    p->row_elems = latent_raw(s);
    p->row_tail = half ? 0 : s->rope_keys * s->rope;
    p->write_floats = 2 * p->row_elems;
    p->d[0] = low_query_plan(p, &q);         /* where the outputs of heads are, in the query's record */
    p->d[1] = p->d[0] + s->heads * s->v;     /* and what their matrices read, where it is a sum */
    p->query_floats = p->d[1] + (s->branches > 1 ? lanes * s->width : 0);
    p->out_at = p->d[0];
    p->n_out = s->heads * s->v;
    p->rope_dims[0] = s->rope;
    p->shape = (struct paged_shape){.n_heads = lanes, .dk = wide + s->rope_keys * s->rope, .dv = wide,
                                    .scale = s->scale};
    p->pair_macs = lanes * (double)(2 * s->width + s->rope);
    family_plan_vecs(p, lanes, s->nope, lanes);
    family_plan_vecs(p, s->heads, s->branches * s->width, s->heads);
    if (s->blocks > 1)
        r = family_plan_groups(p, half ? 2 : s->blocks, 0, 0, 0);
    if (r == 0 && half) {
        p->groups[1].k_off = wide;
        p->groups[1].v_off = wide + s->rope;
    } else if (s->blocks > 1) {
        p->make.rows = make_rows;
        p->make_elems = s->width + s->rope;
    }
    return r;
}

/* W_UV of a head: of all its branches side by side. */
static void pack_value(struct family_pack *p, const struct latent *s, const struct tensor *t, int head)
{
    int each = s->nope + s->v, wide = s->branches * s->width;
    if (s->apart) {
        int64_t row = (int64_t)(head * s->rope_keys / s->heads) * s->v;
        family_pack_rows(p, LATENT_UV, head, &p->from->t[LATENT_V_B], row, s->v);
        return;
    }
    if (s->branches == 1) {
        family_pack_rows(p, LATENT_UV, head, t, (int64_t)head * each + s->nope, s->v);
        return;
    }
    float *w = malloc((size_t)s->v * (size_t)wide * sizeof(float));
    if (!w)
        family_pack_nomem(p);
    for (int b = 0; w && b < s->branches; b++)
        for (int d = 0; d < s->v; d++)
            tensor_row_f32(t, (int64_t)(b * s->heads + head) * each + s->nope + d,
                           w + (size_t)d * (size_t)wide + (size_t)b * (size_t)s->width);
    family_pack_floats(p, LATENT_UV, head, t->name, w, s->v, wide, t->type);
    free(w);
}

/* kv_b_proj of columns as rows, float32; *ret_values is to be freed. */
static struct tensor turn_blocks(struct family_pack *p, const struct latent *s, float **ret_values)
{
    const struct tensor *from = &p->from->t[LATENT_KV_B];
    size_t width = (size_t)s->width, n = (size_t)from->ne[0], blocks = (size_t)s->blocks;
    float *w = family_floats(p, from), *turned = malloc(blocks * n * width * sizeof(float));
    if (!turned)
        family_pack_nomem(p);
    for (size_t b = 0; w && turned && b < blocks; b++)
        for (size_t c = 0; c < width; c++)
            for (size_t o = 0; o < n; o++)
                turned[(b * n + o) * width + c] = w[(b * width + c) * n + o];
    free(w);
    *ret_values = turned;
    struct tensor t = {.name = from->name,
                       .type = TT_F32,
                       .n_dims = 3,
                       .ne = {s->width, from->ne[0], s->blocks, 1},
                       .data = (const unsigned char *)turned,
                       .n_bytes = blocks * n * width * sizeof(float)};
    return t;
}

static void pack_norms(struct family_pack *p, const struct latent *s)
{
    size_t n = (size_t)s->blocks * (size_t)s->width;
    float *v = s->columns && p->r == 0 ? malloc(n * sizeof(float)) : NULL;
    if (!s->columns) {
        family_pack_vector(p, LATENT_NORM);
        return;
    }
    if (!v)
        family_pack_nomem(p);
    for (int b = 0; v && b < s->blocks; b++)
        tensor_row_f32(&p->from->t[LATENT_BLOCK_NORMS + b], 0, v + (size_t)b * (size_t)s->width);
    for (size_t i = 0; v && i < n; i++)
        v[i] *= s->kv_factor;
    p->to->part[LATENT_NORM].v = v;
    p->to->n_bytes += n * sizeof(float);
}

static void pack_freqs(struct family_pack *p, const struct latent *s)
{
    int half = s->rope / 2;
    float *v = p->r == 0 ? malloc((size_t)s->rope_keys * (size_t)half * sizeof(float)) : NULL;
    if (!v)
        family_pack_nomem(p);
    for (int i = 0; v && i < s->rope_keys * half; i++)
        v[i] = powf(p->from->rope_theta,
                    -2.0f * (float)(s->freq_first + i % half * s->freq_step) / (float)s->freq_dim);
    p->to->part[LATENT_FREQS].v = v;
}

void latent_pack(struct family_pack *p, const struct latent *s)
{
    float *turned = NULL;
    struct tensor t = s->columns ? turn_blocks(p, s, &turned) : p->from->t[LATENT_KV_B];
    struct low_query q = queries(s);
    int lanes = lanes_of(s), each = s->nope + s->v;
    low_query_pack(p, &q);
    family_pack_matrix(p, LATENT_O);
    family_pack_room(p, LATENT_UK, lanes);
    family_pack_room(p, LATENT_UV, s->heads);
    for (int v = 0; v < lanes && p->r == 0; v++)
        family_pack_turned(p, LATENT_UK, v, &t,
                           s->apart ? (int64_t)(v * s->rope_keys / s->heads) * s->nope : (int64_t)v * each,
                           s->nope);
    for (int h = 0; h < s->heads && p->r == 0; h++)
        pack_value(p, s, &t, h);
    free(turned);
    if (p->from->t[LATENT_FREQS].data) /* also where rows are another's: queries are rotated */
        family_pack_vector(p, LATENT_FREQS);
    else if (s->freq_dim)
        pack_freqs(p, s);
    if (!family_writes(p->from))
        return;
    family_pack_matrix(p, LATENT_KV);
    if (s->rope_apart)
        family_pack_matrix(p, LATENT_ROPE_K);
    if (s->norm)
        pack_norms(p, s);
}

/* --- rows -------------------------------------------------------------------------------------- */

void latent_rotate(const struct family_call *c, const struct latent *s, int g, int i, float *x)
{
    const float *freqs = c->l->part[LATENT_FREQS].v;
    float cos[ROPE_MAX_DIM / 2], sin[ROPE_MAX_DIM / 2];
    int half = s->rope / 2;
    if (!freqs) {
        family_rotate(c, 0, i, x);
        return;
    }
    for (int d = 0; d < half; d++) {
        float angle = (float)c->st->positions[i] * freqs[g * half + d];
        cos[d] = cosf(angle);
        sin[d] = sinf(angle);
    }
    c->st->kern->rotate(cos, sin, half, c->l->l.interleave, x);
}

void latent_project(struct family_call *c, const struct latent *s)
{
    family_project(c, c->all, LATENT_KV, 1, c->norm, c->written);
    if (s->rope_apart)
        family_project(c, c->all, LATENT_ROPE_K, 1, c->norm,
                       family_vecs(c->written, s->blocks * s->width, 0));
}

struct latent_job {
    struct family_call *c;
    const struct latent *s;
};

static void store_rows(void *arg, int r0, int r1, int thread)
{
    const struct latent_job *j = arg;
    struct family_call *c = j->c;
    const struct latent *s = j->s;
    size_t f = sizeof(float), width = (size_t)s->width, rope = (size_t)s->rope, wide = (size_t)key_width(s);
    (void)thread;
    for (int i = r0; i < r1; i++) {
        float *raw = family_written(c, i), *pe = raw + (size_t)s->blocks * width, *row = raw;
        for (int b = 0; b < s->blocks && s->norm; b++)
            family_rms(c, raw + (size_t)b * width, c->l->part[LATENT_NORM].v + (size_t)b * width, s->width,
                       raw + (size_t)b * width);
        for (int g = 0; g < s->rope_keys; g++)
            latent_rotate(c, s, g, i, pe + (size_t)g * rope);
        if (half_of(s)) {
            row = raw + latent_raw(s);
            memcpy(row, raw, wide * f);
            memcpy(row + wide, pe, rope * f);
            memcpy(row + wide + rope, raw + wide, wide * f);
        }
        family_store(c, i, row);
    }
}

void latent_write(struct family_call *c, const struct latent *s)
{
    struct latent_job j = {c, s};
    latent_project(c, s);
    rows_run_light(c->st->pool, c->all->n_rows, 4 * latent_raw(s), store_rows, &j);
}

/* Rotates q_pe and puts it where the lane's key has its rotary part: behind the latents, or in front of
 * them in the second half. All else is zero until the product comes. */
static void query_rows(void *arg, int r0, int r1, int thread)
{
    const struct latent_job *j = arg;
    struct family_call *c = j->c;
    const struct latent *s = j->s;
    struct family_vecs lanes = family_queries(c, 0);
    int half = half_of(s), per_half = half ? lanes_of(s) / 2 : lanes_of(s);
    size_t dk = (size_t)c->l->plan.shape.dk;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        for (int h = 0; h < s->heads; h++) {
            float *pe = family_record(c, i) + (s->apart ? h * s->rope : h * (s->nope + s->rope) + s->nope);
            int g = h * s->rope_keys / s->heads;
            latent_rotate(c, s, g, c->part.rows[i], pe);
            for (int v = h; v < lanes_of(s); v += s->heads) {
                float *q = family_at(&lanes, i, v);
                float *to = q + (v >= per_half ? 0 : key_width(s));
                if (s->rope_keys > 1 || half > 1)
                    memset(q, 0, dk * sizeof(float));
                memcpy(to + g * s->rope, pe, (size_t)s->rope * sizeof(float));
            }
        }
    }
}

/* Where lanes have the latent of their own block. */
static struct family_vecs in_blocks(const struct latent *s, struct family_vecs v, int rope)
{
    if (!half_of(s))
        return v;
    v.block = lanes_of(s) / s->blocks;
    v.blocks = half_of(s);
    v.block_step = s->width;
    v.row_step = rope;
    return v;
}

void latent_query(struct family_call *c, const struct latent *s)
{
    struct latent_job j = {c, s};
    struct low_query q = queries(s);
    struct family_vecs x = family_vecs(c->record, 0, s->nope + s->rope), y = family_queries(c, 0);
    int lanes = lanes_of(s);
    if (s->apart)
        x = family_vecs(c->record, s->heads * s->rope, s->nope);
    low_query_run(c, &q, 0);
    rows_run(c->st->pool, c->part.n_rows, query_rows, &j);
    x.wrap = s->heads;
    family_project(c, &c->part, LATENT_UK, lanes, x, in_blocks(s, y, s->rope));
}

/* What a head found in its blocks, side by side and times the factor. */
static void gather_rows(void *arg, int r0, int r1, int thread)
{
    const struct latent_job *j = arg;
    const struct latent *s = j->s;
    struct family_vecs found = in_blocks(s, family_found(j->c, 0), 0);
    (void)thread;
    for (int i = r0; i < r1; i++) {
        float *to = family_record(j->c, i) + j->c->l->plan.d[1];
        for (int h = 0; h < s->heads; h++) {
            for (int b = 0; b < s->branches; b++, to += s->width) {
                const float *z = family_at(&found, i, b * s->heads + h);
                for (int d = 0; d < s->width; d++)
                    to[d] = s->factor * z[d];
            }
        }
    }
}

void latent_output(struct family_call *c, const struct latent *s)
{
    struct latent_job j = {c, s};
    struct family_vecs x = in_blocks(s, family_found(c, 0), 0);
    struct family_vecs y = family_vecs(c->record, c->l->plan.d[0], s->v);
    if (s->branches > 1) {
        rows_run_light(c->st->pool, c->part.n_rows, 2 * lanes_of(s) * s->width, gather_rows, &j);
        x = family_vecs(c->record, c->l->plan.d[1], s->branches * s->width);
    }
    family_project(c, &c->part, LATENT_UV, s->heads, x, y);
}
