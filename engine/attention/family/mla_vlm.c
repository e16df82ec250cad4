/* engine/attention/family/mla_vlm.c - modality-split latents (MHA2MLA-VLM, arXiv 2601.11464): image
 * tokens and text tokens go through projections of their own, down and up, into one row of the same size.
 *
 *     c = x W_kva of the token's modality       r_g = rope(x W_kr,g)      k_h = [c W_UK of its modality
 *     | r_g(h)]
 *     cache row = [c | r_0 .. r_G-1], beside it a byte: which modality
 *
 * A query has two absorbed forms and meets each key in the form of its modality: rows are made when they
 * are read as [c or 0 | 0 or c | r_0 ..], so that one product does both and what was found comes apart
 * by modality. */
#include "config.h"

#include "engine/attention/family/latent.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GROUPS = LATENT_KEYS, NORM, IMAGES };
enum { TEXT, IMAGE, N_MODALITIES };
/* Slots: those of latent.h are text's; UK and UV hold both. */
enum { KV_IMAGE = LATENT_SLOTS, KV_B_IMAGE };

static const struct family_key keys[] = {
    LATENT_KEY_ROWS,
    [GROUPS] = {FAMILY_INT, "num_key_value_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [NORM] = {FAMILY_WORD, "latent_norm", 0, 0, 0, "none"},
    [IMAGES] = {FAMILY_LIST, "image_token_ids", 0, MAX_VOCAB, 0, NULL},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

static struct latent shape(const struct family_layer *l)
{
    struct latent s = latent_of(l);
    s.rope_keys = l->n[GROUPS];
    s.rope_apart = true;
    s.norm = false;
    return s;
}

static struct low_query queries(const struct latent *s)
{
    return (struct low_query){LATENT_Q, 0, s->heads * (s->nope + s->rope), true, 0.0f};
}

static void check(struct keys *k, struct family_layer *l)
{
    latent_check(k, l);
    if (l->n[LATENT_HEADS] % l->n[GROUPS])
        keys__fail(k, ERR_FORMAT, "num_key_value_heads", "is %d and does not divide %d heads", l->n[GROUPS],
                   l->n[LATENT_HEADS]);
    if (l->n[LATENT_Q_RANK])
        keys__fail(k, ERR_UNSUPPORTED, "q_lora_rank", "must be null");
}

static void bind(struct family_bind *b)
{
    struct latent s = shape(b->l);
    latent_bind(b, &s);
    family_matrix(b, KV_IMAGE, "kv_a_proj_img.weight", b->l->hidden, s.width);
    family_matrix(b, KV_B_IMAGE, "kv_b_proj_img.weight", s.width, (int64_t)s.heads * (s.nope + s.v));
}

static void make_rows(void *arg, int group, const struct paged_rows *from, int thread, unsigned char *dst)
{
    const struct family_call *c = arg;
    const struct row_format *f = &c->l->plan.make.format;
    size_t width = (size_t)c->l->l.n[LATENT_RANK] * family_row_size(f);
    size_t ropes = (size_t)c->l->plan.row_elems * family_row_size(f) - width;
    (void)group;
    (void)thread;
    for (int i = 0; i < from->n; i++, dst += f->row_bytes) {
        const unsigned char *row = paged_row(from, i);
        uint32_t at = (uint32_t)(from->t0 + i);
        bool image = from->pages[at / from->page_rows][c->a->plane_offsets[1] + at % from->page_rows];
        memcpy(dst + (image ? width : 0), row, width);
        memset(dst + (image ? 0 : width), 0, width);
        memcpy(dst + 2 * width, row + width, ropes);
    }
}

/* Records: written [row | the other modality's latent]; of a query [queries | outputs]. */
static int plan(const struct family_layer *l, struct family_plan *p)
{
    struct latent s = shape(l);
    struct low_query q = queries(&s);
    p->row_elems = latent_raw(&s);
    p->side_bytes = 1;
    p->write_floats = p->row_elems + s.width;
    p->out_at = low_query_plan(p, &q);
    p->n_out = s.heads * s.v;
    p->query_floats = p->out_at + p->n_out;
    p->rope_dims[0] = s.rope;
    p->make.rows = make_rows;
    p->make_elems = p->row_elems + s.width;
    p->shape = (struct paged_shape){
        .n_heads = s.heads, .dk = p->make_elems, .dv = 2 * s.width, .scale = s.scale};
    family_plan_vecs(p, s.heads, s.nope, s.heads);
    family_plan_vecs(p, s.heads, 2 * s.width, s.heads);
    return 0;
}

/* Both modalities' W_UK^T of a head, one above the other; both W_UV side by side. */
static void pack_head(struct family_pack *p, const struct latent *s, int head)
{
    const struct tensor *from[N_MODALITIES] = {&p->from->t[LATENT_KV_B], &p->from->t[KV_B_IMAGE]};
    int each = s->nope + s->v, wide = 2 * s->width;
    float *w = malloc((size_t)wide * (size_t)each * sizeof(float)),
          *row = malloc((size_t)s->width * sizeof(float));
    if (!w || !row)
        family_pack_nomem(p);
    for (int m = 0; p->r == 0 && m < N_MODALITIES; m++) {
        for (int d = 0; d < each; d++) {
            float *value = w + wide * s->nope + (d - s->nope) * wide + m * s->width;
            tensor_row_f32(from[m], (int64_t)head * each + d, row);
            for (int i = 0; i < s->width; i++) {
                if (d < s->nope)
                    w[(m * s->width + i) * s->nope + d] = row[i];
                else
                    value[i] = row[i];
            }
        }
    }
    family_pack_floats(p, LATENT_UK, head, from[0]->name, w, wide, s->nope, from[0]->type);
    family_pack_floats(p, LATENT_UV, head, from[0]->name, w + wide * s->nope, s->v, wide, from[0]->type);
    free(w);
    free(row);
}

static void pack(struct family_pack *p)
{
    struct latent s = shape(p->from);
    struct low_query q = queries(&s);
    low_query_pack(p, &q);
    family_pack_matrix(p, LATENT_O);
    family_pack_matrix(p, LATENT_KV);
    family_pack_matrix(p, LATENT_ROPE_K);
    family_pack_matrix(p, KV_IMAGE);
    if (p->from->t[LATENT_FREQS].data)
        family_pack_vector(p, LATENT_FREQS);
    family_pack_room(p, LATENT_UK, s.heads);
    family_pack_room(p, LATENT_UV, s.heads);
    for (int h = 0; h < s.heads && p->r == 0; h++)
        pack_head(p, &s, h);
}

static bool is_image(const struct family_call *c, int i)
{
    for (int k = 0; k < c->l->l.n_list; k++)
        if (c->l->l.list[k] == *c->st->tokens[i])
            return true;
    return false;
}

static void store_row(struct family_call *c, int i)
{
    struct latent s = shape(&c->l->l);
    float *row = family_written(c, i);
    bool image = is_image(c, i);
    if (image)
        memcpy(row, row + latent_raw(&s), (size_t)s.width * sizeof(float));
    for (int g = 0; g < s.rope_keys; g++)
        latent_rotate(c, &s, g, i, row + s.width + g * s.rope);
    family_store(c, i, row);
    *family_side(c, family_span(c, i), c->st->positions[i]) = image;
}

static void write_rows(struct family_call *c)
{
    struct latent s = shape(&c->l->l);
    latent_project(c, &s);
    family_project(c, c->all, KV_IMAGE, 1, c->norm, family_vecs(c->written, latent_raw(&s), 0));
    family_rows(c, c->all->n_rows, 4 * latent_raw(&s), store_row);
}

static void query_row(struct family_call *c, int i)
{
    struct latent s = shape(&c->l->l);
    struct family_vecs lanes = family_queries(c, 2 * s.width);
    for (int h = 0; h < s.heads; h++) {
        const float *q = family_record(c, i) + h * (s.nope + s.rope) + s.nope;
        float *to = family_at(&lanes, i, h);
        int g = h * s.rope_keys / s.heads;
        memset(to, 0, (size_t)(s.rope_keys * s.rope) * sizeof(float));
        memcpy(to + g * s.rope, q, (size_t)s.rope * sizeof(float));
        latent_rotate(c, &s, g, c->part.rows[i], to + g * s.rope);
    }
}

static void query(struct family_call *c)
{
    struct latent s = shape(&c->l->l);
    struct low_query q = queries(&s);
    low_query_rows(c, &q, query_row);
    family_project(c, &c->part, LATENT_UK, s.heads, family_vecs(c->record, 0, s.nope + s.rope),
                   family_queries(c, 0));
}

static void output(struct family_call *c)
{
    struct latent s = shape(&c->l->l);
    family_project(c, &c->part, LATENT_UV, s.heads, family_found(c, 0),
                   family_vecs(c->record, c->l->plan.out_at, s.v));
}

const struct family_mechanism family_mla_vlm = {
    .name = "mla_vlm",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
    .output = output,
};
