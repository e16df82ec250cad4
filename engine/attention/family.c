/* engine/attention/family.c - what all mechanisms of the family have in common: one const struct
 * attention_ops that goes from a layer's normalised rows to the residual stream through the mechanism's
 * three parts.
 *
 * Cache rows of all new tokens are written first. Queries, attention and outputs then follow some wanted
 * rows at a time, since what belongs to a row and a head is large; the parts change no result. */
#include "config.h"

#include "engine/attention/family.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/family_work.h"
#include "engine/residual.h"

#define FAMILY(row) &row,
static const struct family_mechanism *const table[] = {
#include "engine/attention/family.def"
};
#undef FAMILY
#define N_ROWS ((int)(sizeof(table) / sizeof(table[0])))

const struct family_mechanism *family_at_row(int i)
{
    return i < N_ROWS ? table[i] : NULL;
}

const struct family_mechanism *family_find(const char *name)
{
    for (int i = 0; i < N_ROWS; i++)
        if (!strcmp(table[i]->name, name))
            return table[i];
    return NULL;
}

void family_names(char *dst, size_t dst_bytes)
{
    size_t n = 0;
    dst[0] = 0;
    for (int i = 0; i < N_ROWS && n < dst_bytes; i++)
        n += (size_t)snprintf(dst + n, dst_bytes - n, "%s%s", i ? ", " : "", table[i]->name);
}

int family_number(const struct family_layer *l, const char *key)
{
    for (int i = 0; l->mechanism->keys[i].kind; i++)
        if (!strcmp(l->mechanism->keys[i].name, key))
            return l->n[i];
    return 0;
}

uint64_t family_hash(const struct family_layer *l)
{
    uint64_t h = hash64_bytes(l->mechanism->name, strlen(l->mechanism->name), (uint64_t)l->kv_layer);
    const float numbers[3] = {l->eps, l->rope_theta, (float)l->interleave};
    h = hash64_bytes(l->f, sizeof(l->f), h);
    h = hash64_bytes(numbers, sizeof(numbers), h);
    h = l->scaling ? hash64_bytes(l->scaling, sizeof(*l->scaling), h) : h;
    return l->n_list ? hash64_bytes(l->list, (size_t)l->n_list * sizeof(*l->list), h) : h;
}

/* --- sizes ------------------------------------------------------------------------------------- */

void family_plan_vecs(struct family_plan *p, int n, int width, int n_matrices)
{
    size_t bytes = (size_t)n * act_room(width);
    p->n_vecs = n > p->n_vecs ? n : p->n_vecs;
    p->act_bytes = bytes > p->act_bytes ? bytes : p->act_bytes;
    p->max_matrices = n_matrices > p->max_matrices ? n_matrices : p->max_matrices;
}

int family_plan_groups(struct family_plan *p, int n, int k_off, int v_off, int step)
{
    p->groups = calloc((size_t)n, sizeof(*p->groups));
    if (!p->groups)
        return ERR_NOMEM;
    int each = p->shape.n_heads / n;
    p->shape.n_groups = n;
    for (int g = 0; g < n; g++)
        p->groups[g] = (struct paged_group){g * each, each, 0, k_off + g * step, v_off + g * step};
    return 0;
}

int family_plan_streams(struct family_plan *p, int n)
{
    if (family_plan_groups(p, n, 0, p->shape.dk, 0) < 0)
        return ERR_NOMEM;
    p->row_elems = p->shape.dk + p->shape.dv;
    p->row_planes = n;
    for (int g = 0; g < n; g++)
        p->groups[g].plane = g;
    return 0;
}

/* The mechanism's plan, completed. Freed by plan_done; it must stay where it is while it is used. */
static int plan_of(const struct family_layer *l, enum tensor_type row_type, struct family_plan *p)
{
    memset(p, 0, sizeof(*p));
    int r = l->mechanism->plan(l, p);
    p->shape.format = paged_format(row_type, p->row_elems, p->row_tail);
    if (p->make.rows)
        p->make.format = paged_format(row_type, p->make_elems, 0);
    p->make_floats = (p->make_floats + 15) / 16 * 16; /* each thread's begin a cache line */
    family_plan_vecs(p, 1, l->hidden, 1);
    family_plan_vecs(p, 1, p->out_at < 0 ? p->shape.n_heads * p->shape.dv : p->n_out, 1);
    return r;
}

/* Pointers of the plan into itself, at its place. */
static void plan_settle(struct family_plan *p)
{
    p->shape.groups = p->groups;
    p->shape.make = p->make.rows ? &p->make : NULL;
    p->shape.gate = p->gate.rows ? &p->gate : NULL;
}

static void plan_done(struct family_plan *p)
{
    free(p->groups);
    p->groups = NULL;
}

struct family_cost family_cost(const struct family_layer *l)
{
    struct family_plan p;
    (void)!plan_of(l, TT_F32, &p);
    double each = p.shape.tokens_per_row ? p.shape.tokens_per_row : 1;
    double pair = p.pair_macs > 0 ? p.pair_macs : p.shape.n_heads * (double)(p.shape.dk + p.shape.dv);
    struct family_cost c = {pair / each, p.make_macs};
    plan_done(&p);
    return c;
}

static int family_planes(const struct model_config *c, const struct layer_tensors *t,
                         enum tensor_type row_type, struct kv_plane *ret)
{
    struct family_plan p;
    int n = 0;
    (void)c;
    if (!family_writes(t->family))
        return 0;
    int r = plan_of(t->family, row_type, &p);
    if (r < 0) {
        plan_done(&p);
        return r;
    }
    uint32_t each = (uint32_t)(p.shape.tokens_per_row ? p.shape.tokens_per_row : 1);
    while (n == 0 || n < p.row_planes)
        ret[n++] = (struct kv_plane){(uint32_t)p.shape.format.row_bytes, each, 64};
    if (p.side_bytes)
        ret[n++] = (struct kv_plane){(uint32_t)p.side_bytes, 1, 64};
    if (p.state_floats)
        ret[n++] = (struct kv_plane){(uint32_t)p.state_floats * 4, ATTENTION_WHOLE_PAGE, 64};
    plan_done(&p);
    return n;
}

/* --- layers ------------------------------------------------------------------------------------ */

static void family_layer_free(void *layer)
{
    struct family_packed *l = layer;
    if (!l)
        return;
    for (int i = 0; i < FAMILY_MAX_TENSORS; i++) {
        for (int k = 0; k < l->part[i].n; k++)
            matrix_done(&l->part[i].m[k]);
        free(l->part[i].m);
        free(l->part[i].v);
    }
    plan_done(&l->plan);
    free(l->residual);
    free((void *)(uintptr_t)l->l.list);
    free(l);
}

static uint64_t family_layer_bytes(const void *layer)
{
    const struct family_packed *l = layer;
    uint64_t n = l->n_bytes;
    for (int i = 0; i < FAMILY_MAX_TENSORS; i++)
        for (int k = 0; k < l->part[i].n; k++)
            n += l->part[i].m[k].n_bytes;
    return n;
}

/* What rows of less than 16 bits cannot hold, or what would read them. */
static int check_rows(const struct family_packed *l, enum tensor_type row_type, struct err *e)
{
    const struct family_plan *p = &l->plan;
    const char *name = l->l.mechanism->name;
    if (row_type == TT_F32 || row_type == TT_BF16)
        return 0;
    if (p->make.rows || p->gate.rows || p->shape.tokens_per_row)
        return err_set_param(e, ERR_UNSUPPORTED, "cache_type",
                             "the rows of %s attention (layer %d) are computed with when they are read: bf16 "
                             "and f32 are accepted", name, l->l.index);
    if (p->row_elems % 2 || p->row_tail % 2)
        return err_set_param(
            e, ERR_UNSUPPORTED, "cache_type",
            "a row of %s attention (layer %d) has %d values, an odd number: bf16 and f32 are "
            "accepted",
            name, l->l.index, p->row_elems);
    return 0;
}

static int find_ropes(struct family_packed *l, const struct family_layer *from,
                      const struct step_limits *lim, struct err *e)
{
    for (int i = 0; i < FAMILY_ROPES; i++) {
        int dim = l->plan.rope_dims[i];
        if (dim == 0)
            continue;
        l->rope[i] = rope_tables_need(lim->ropes, dim, from->rope_theta, from->interleave, from->scaling);
        if (l->rope[i] < 0)
            return err_set(e, ERR_LIMIT, "layers rotate by more than %d different widths", ROPE_MAX_TABLES);
    }
    return 0;
}

static int family_layer_new(const struct model_config *c, const struct layer_tensors *t,
                            const struct step_limits *lim, struct pool *pool, const struct load_progress *lp,
                            void **ret, struct err *e)
{
    const struct family_layer *from = t->family;
    struct family_packed *l = calloc(1, sizeof(*l));
    struct family_pack p = {from, l, lim, pool, lp, e, 0};
    (void)c;
    if (!l)
        return err_set(e, ERR_NOMEM, "out of memory while loading an attention layer");
    l->l = *from;
    memset(l->l.t, 0, sizeof(l->l.t));
    l->l.list = NULL;
    l->l.scaling = NULL;
    if (from->n_list > 0) {
        int32_t *list = malloc((size_t)from->n_list * sizeof(*list));
        if (list)
            memcpy(list, from->list, (size_t)from->n_list * sizeof(*list));
        else
            family_pack_nomem(&p);
        l->l.list = list;
    }
    if (p.r == 0 && plan_of(from, lim->row_type, &l->plan) < 0)
        family_pack_nomem(&p);
    plan_settle(&l->plan);
    if (p.r == 0 && residual_new(&t->attn_residual, from->hidden, &l->residual) < 0)
        family_pack_nomem(&p);
    if (p.r == 0)
        p.r = check_rows(l, lim->row_type, e);
    if (p.r == 0)
        p.r = find_ropes(l, from, lim, e);
    if (p.r == 0)
        from->mechanism->pack(&p);
    if (p.r < 0) {
        family_layer_free(l);
        return p.r;
    }
    *ret = l;
    return 0;
}

/* --- work space -------------------------------------------------------------------------------- */

/* Bytes that a part's rows may take, unless that were fewer rows than the least. */
#define PART_BYTES ((size_t)24 << 20)
#define LEAST_ROWS 64

/* Memory of a call, laid out for a layer; rows: of a part. Without a base only the size counts. */
static void place_all(struct family_call *c, const struct family_layer *l, const struct family_plan *p,
                      size_t all_rows, size_t rows, struct scratch_place *at)
{
    size_t f = sizeof(float), heads = (size_t)p->shape.n_heads, hidden = (size_t)l->hidden;
    struct family_work *w = c->w;
    c->norm = (struct family_vecs){.base = scratch_take(at, all_rows * hidden * f), .row = hidden};
    c->written = (struct family_vecs){.base = scratch_take(at, all_rows * (size_t)p->write_floats * f),
                                      .row = (size_t)p->write_floats};
    size_t mark = at->used;
    w->acts = scratch_take(at, all_rows * p->act_bytes); /* while rows are written, and then: */
    size_t end = at->used;
    at->used = mark;
    w->acts = scratch_take(at, rows * p->act_bytes);
    c->record = (struct family_vecs){.base = scratch_take(at, rows * (size_t)p->query_floats * f),
                                     .row = (size_t)p->query_floats};
    c->q = scratch_take(at, rows * heads * (size_t)p->shape.dk * f);
    c->z = scratch_take(at, rows * heads * (size_t)p->shape.dv * f);
    c->own = p->shape.tokens_per_row ? scratch_take(at, rows * (size_t)p->row_elems * f) : NULL;
    w->y = scratch_take(at, rows * hidden * f);
    at->used = at->used > end ? at->used : end;
}

static int part_rows(const struct family_layer *l, const struct family_plan *p, int max_rows)
{
    size_t each = p->act_bytes + sizeof(float) *
                                     ((size_t)p->query_floats + (size_t)p->row_elems + (size_t)l->hidden +
                                      (size_t)p->shape.n_heads * (size_t)(p->shape.dk + p->shape.dv));
    size_t n = PART_BYTES / each;
    n = n < LEAST_ROWS ? LEAST_ROWS : n;
    return n < (size_t)max_rows ? (int)n : max_rows;
}

static void family_work_free(void *work)
{
    struct family_work *w = work;
    if (!w)
        return;
    paged_work_free(w->paged);
    free(w->spans);
    free(w->px);
    free(w->py);
    free(w->list);
    free(w->make_floats);
    free(w);
}

static void *bytes_new(struct family_work *w, size_t n_bytes)
{
    n_bytes = (n_bytes + 64) & ~(size_t)63;
    w->n_bytes += n_bytes;
    return aligned_alloc(64, n_bytes);
}

static int family_work_new(const struct model_config *c, const struct layer_tensors *layers, int n,
                           const struct step_limits *lim, void **ret)
{
    struct family_work *w = calloc(1, sizeof(*w));
    struct family_plan *plans = calloc((size_t)n, sizeof(*plans));
    struct paged_shape *shapes = calloc((size_t)n, sizeof(*shapes));
    size_t vecs = 1, products = 1, floats = 0;
    int r = w && plans && shapes ? 0 : ERR_NOMEM;
    (void)c;
    for (int i = 0; r == 0 && i < n; i++) {
        const struct family_layer *l = layers[i].family;
        struct family_plan *p = &plans[i];
        if ((r = plan_of(l, lim->row_type, p)) < 0)
            break;
        plan_settle(p);
        shapes[i] = p->shape;
        struct scratch_place at = {0};
        struct family_call call = {.w = w};
        place_all(&call, l, p, (size_t)lim->max_rows, (size_t)part_rows(l, p, lim->max_rows), &at);
        scratch_need(lim->scratch, at.used);
        vecs = (size_t)p->n_vecs > vecs ? (size_t)p->n_vecs : vecs;
        products = (size_t)p->max_matrices > products ? (size_t)p->max_matrices : products;
        floats = (size_t)p->make_floats > floats ? (size_t)p->make_floats : floats;
    }
    if (r == 0) {
        w->scratch = lim->scratch;
        w->max_rows = lim->max_rows;
        w->px = bytes_new(w, (size_t)lim->max_rows * vecs * sizeof(*w->px));
        w->py = bytes_new(w, (size_t)lim->max_rows * vecs * sizeof(*w->py));
        w->list = bytes_new(w, products * sizeof(*w->list));
        w->spans = bytes_new(w, (size_t)lim->max_seqs * sizeof(*w->spans));
        w->make_floats = bytes_new(w, (size_t)lim->n_threads * floats * sizeof(float));
        if (!w->px || !w->py || !w->list || !w->spans || !w->make_floats ||
            paged_work_new_for(shapes, n, lim, &w->paged) < 0)
            r = ERR_NOMEM;
    }
    for (int i = 0; plans && i < n; i++)
        plan_done(&plans[i]);
    free(plans);
    free(shapes);
    if (r < 0)
        family_work_free(w);
    else
        *ret = w;
    return r;
}

static uint64_t family_work_bytes(const void *work)
{
    const struct family_work *w = work;
    return w->n_bytes + paged_work_bytes(w->paged);
}

static int family_max_products(const struct model_config *c, const struct layer_tensors *t)
{
    struct family_plan p;
    (void)c;
    (void)!plan_of(t->family, TT_F32, &p);
    plan_done(&p);
    return p.max_matrices;
}

/* --- a layer ----------------------------------------------------------------------------------- */

static void norm_row(struct family_call *c, int i)
{
    int hidden = c->l->l.hidden;
    c->st->kern->rms_norm(c->st->x + (size_t)i * (size_t)hidden, c->a->norm_w, hidden,
                          c->st->config->rms_norm_eps, family_at(&c->norm, i, 0));
}

static void residual_row(struct family_call *c, int i)
{
    size_t hidden = (size_t)c->l->l.hidden;
    residual_add(c->st->kern, c->l->residual, model_residual_scale(c->st->config),
                 c->w->y + (size_t)i * hidden, (int)hidden, c->st->x + (size_t)c->part.rows[i] * hidden);
}

/* The part's rows from queries to the residual stream. */
static void run_part(struct family_call *c)
{
    const struct family_mechanism *m = c->l->l.mechanism;
    const struct family_plan *p = &c->l->plan;
    size_t found = (size_t)p->shape.n_heads * (size_t)p->shape.dv, hidden = (size_t)c->l->l.hidden;
    m->query(c);
    struct paged_call pc = {&p->shape, &c->part, c->a->plane_offsets, NULL, c->q, c->z, c->own, c};
    paged_attend(c->w->paged, c->st, &pc);
    if (m->output)
        m->output(c);
    family_project(c, &c->part, FAMILY_OUT, 1,
                   p->out_at < 0 ? (struct family_vecs){.base = c->z, .row = found}
                                 : family_vecs(c->record, p->out_at, 0),
                   (struct family_vecs){.base = c->w->y, .row = hidden});
    family_rows(c, c->part.n_rows, 3 * (int)hidden, residual_row);
}

static void family_run(const void *layer, void *work, const struct attention_args *a)
{
    const struct family_packed *l = layer;
    struct family_work *w = work;
    const struct row_set *set = a->active;
    struct scratch_place at = {w->scratch->base, 0};
    struct family_call c = {
        .l = l, .st = a->step, .a = a, .w = w, .all = a->all, .make_floats = w->make_floats};
    int room = part_rows(&l->l, &l->plan, w->max_rows), done = 0; /* tokens of span s */
    place_all(&c, &l->l, &l->plan, (size_t)a->all->n_rows, (size_t)room, &at);
    family_rows(&c, a->all->n_rows, 3 * l->l.hidden, norm_row);
    if (family_writes(&l->l))
        l->l.mechanism->write(&c);
    for (int s = 0; s < set->n_spans;) {
        int n_spans = 0, n = 0, first = set->spans[s].first + done;
        while (s < set->n_spans && n < room) {
            const struct span *sp = &set->spans[s];
            int m = sp->n_tokens - done < room - n ? sp->n_tokens - done : room - n;
            w->spans[n_spans++] = (struct span){sp->pages, sp->position + done, m, n, sp->decompressed};
            n += m;
            done += m;
            if (done == sp->n_tokens) {
                s++;
                done = 0;
            }
        }
        int rounded = set->n_rounded - first;
        rounded = rounded < 0 ? 0 : rounded < n ? rounded : n;
        c.part = (struct row_set){n, set->rows + first, n_spans, w->spans, rounded};
        run_part(&c);
    }
}

const struct attention_ops attention_family = {
    .name = "family",
    .planes = family_planes,
    .layer_new = family_layer_new,
    .layer_free = family_layer_free,
    .layer_bytes = family_layer_bytes,
    .work_new = family_work_new,
    .work_free = family_work_free,
    .work_bytes = family_work_bytes,
    .max_products = family_max_products,
    .run = family_run,
};
