/* engine/attention/family_parts.c - what mechanisms of the family are made of: binding, packing,
 * products, rows; see family.h. */
#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/family_work.h"

#define NAME_BYTES 160

typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(8), aligned(2), may_alias));
typedef uint32_t words __attribute__((vector_size(16), aligned(4), may_alias));

/* --- tensors ----------------------------------------------------------------------------------- */

static const char *full_name(const struct family_bind *b, int layer, const char *name, char dst[NAME_BYTES])
{
    const struct family_files *f = b->l->files;
    for (const struct family_file *t = f->tensors; t && t->ours; t++)
        if (!strcmp(t->ours, name)) {
            name = t->theirs;
            break;
        }
    snprintf(dst, NAME_BYTES, "%s%d.%s%s", f->layer, layer, f->attention, name);
    return dst;
}

static void bind_as(struct family_bind *b, int layer, int i, const char *name, int n_dims,
                    const int64_t ne[3])
{
    char full[NAME_BYTES];
    bind__tensor(b->b, &b->l->t[i], n_dims, ne, full_name(b, layer, name, full));
}

void family_matrix(struct family_bind *b, int i, const char *name, int64_t n_in, int64_t n_out)
{
    bind_as(b, b->l->index, i, name, 2, (const int64_t[3]){n_in, n_out, 1});
}

void family_vector(struct family_bind *b, int i, const char *name, int64_t n)
{
    bind_as(b, b->l->index, i, name, 1, (const int64_t[3]){n, 1, 1});
}

void family_cube(struct family_bind *b, int i, const char *name, int64_t n0, int64_t n1, int64_t n2)
{
    family_cube_of(b, b->l->index, i, name, n0, n1, n2);
}

void family_cube_of(struct family_bind *b, int layer, int i, const char *name, int64_t n0, int64_t n1,
                    int64_t n2)
{
    bind_as(b, layer, i, name, 3, (const int64_t[3]){n0, n1, n2});
}

int64_t family_inputs(const struct family_bind *b, const char *name)
{
    char full[NAME_BYTES];
    const struct tix_entry *t = tix__find(b->b->tix, full_name(b, b->l->index, name, full));
    return t ? t->t.ne[0] : 0;
}

int64_t family_outputs(const struct family_bind *b, const char *name)
{
    char full[NAME_BYTES];
    const struct tix_entry *t = tix__find(b->b->tix, full_name(b, b->l->index, name, full));
    return t && t->t.ne[1] <= MAX_DIM ? t->t.ne[1] : 0;
}

bool family_has(const struct family_bind *b, const char *name)
{
    char full[NAME_BYTES];
    return bind__has(b->b, full_name(b, b->l->index, name, full));
}

/* --- weights ----------------------------------------------------------------------------------- */

void family_pack_nomem(struct family_pack *p)
{
    if (p->r == 0)
        p->r = err_set(p->e, ERR_NOMEM, "out of memory while loading an attention layer");
}

void family_pack_room(struct family_pack *p, int i, int n)
{
    struct family_part *part = &p->to->part[i];
    if (p->r < 0)
        return;
    part->m = calloc((size_t)n, sizeof(*part->m));
    if (part->m)
        part->n = n;
    else
        family_pack_nomem(p);
}

void family_pack_matrix(struct family_pack *p, int i)
{
    family_pack_room(p, i, 1);
    if (p->r == 0)
        p->r = matrix_pack(p->to->part[i].m, &p->from->t[i], p->pool, p->lp, p->e);
}

void family_pack_rows(struct family_pack *p, int i, int k, const struct tensor *t, int64_t row0, int n)
{
    struct tensor flat = *t, rows;
    if (p->r < 0)
        return;
    flat.n_dims = 2;
    flat.ne[1] = t->ne[1] * t->ne[2];
    flat.ne[2] = 1;
    rows = tensor_rows(&flat, row0, n);
    p->r = matrix_pack(&p->to->part[i].m[k], &rows, p->pool, p->lp, p->e);
}

void family_pack_floats(struct family_pack *p, int i, int k, const char *name, const float *rows, int n_out,
                        int n_in, enum tensor_type like)
{
    if (p->r == 0)
        p->r = matrix_pack_f32(&p->to->part[i].m[k], name, rows, n_out, n_in,
                               matrix_store_type(like, rows, (size_t)n_out * (size_t)n_in), p->e);
}

enum tensor_type family_folded_type(const struct family_pack *p, const struct tensor *from)
{
    return p->lim->kern->attn_bf16 || act_is_quantised(from->type) ? from->type : TT_F32;
}

void family_pack_folded(struct family_pack *p, int i, const struct tensor *from, const float *rows, int n_out,
                        int n_in)
{
    family_pack_floats(p, i, 0, from->name, rows, n_out, n_in, family_folded_type(p, from));
}

float *family_floats(struct family_pack *p, const struct tensor *t)
{
    size_t rows = (size_t)t->ne[1] * (size_t)t->ne[2], width = (size_t)t->ne[0];
    float *v = p->r < 0 ? NULL : malloc(rows * width * sizeof(float));
    if (!v)
        family_pack_nomem(p);
    for (size_t i = 0; v && i < rows; i++)
        tensor_row_f32(t, (int64_t)i, v + i * width);
    return v;
}

void family_pack_turned(struct family_pack *p, int i, int k, const struct tensor *t, int64_t row0, int n)
{
    size_t width = (size_t)t->ne[0], rows = (size_t)n;
    float *row = p->r < 0 ? NULL : malloc(width * sizeof(float));
    float *turned = p->r < 0 ? NULL : malloc(width * rows * sizeof(float));
    if (!row || !turned)
        family_pack_nomem(p);
    for (size_t a = 0; p->r == 0 && a < rows; a++) {
        tensor_row_f32(t, row0 + (int64_t)a, row);
        for (size_t b = 0; b < width; b++)
            turned[b * rows + a] = row[b];
    }
    family_pack_floats(p, i, k, t->name, turned, (int)width, n, t->type);
    free(row);
    free(turned);
}

/* Angles of position p are those of p / ANGLES * ANGLES and of p % ANGLES added. */
#define ANGLES 64 /* the table of one side stays in the first-level cache */

void family_pack_angles(struct family_pack *p, int i, int dim)
{
    int half = dim / 2, n = ANGLES + p->lim->max_position / ANGLES + 1;
    float *v = p->r < 0 ? NULL : malloc((size_t)n * (size_t)dim * sizeof(float));
    if (!v) {
        family_pack_nomem(p);
        return;
    }
    for (int a = 0; a < n; a++) {
        double position = a < ANGLES ? a : (double)(a - ANGLES) * ANGLES;
        for (int d = 0; d < half; d++) {
            double angle = position * pow((double)p->from->rope_theta, -2.0 * d / dim);
            v[(size_t)a * (size_t)dim + (size_t)d] = (float)cos(angle);
            v[(size_t)a * (size_t)dim + (size_t)(half + d)] = (float)sin(angle);
        }
    }
    p->to->part[i].v = v;
    p->to->n_bytes += (uint64_t)n * (uint64_t)dim * sizeof(float);
}

void family_angles(const struct family_packed *l, int part, int dim, int position, float *cos, float *sin)
{
    int half = dim / 2, d = 0;
    const float *a = l->part[part].v + (size_t)(position % ANGLES) * (size_t)dim;
    const float *b = l->part[part].v + (size_t)(ANGLES + position / ANGLES) * (size_t)dim;
    for (; d + 4 <= half; d += 4) {
        four ac = *(const four *)(a + d), as = *(const four *)(a + half + d);
        four bc = *(const four *)(b + d), bs = *(const four *)(b + half + d);
        *(four *)(cos + d) = ac * bc - as * bs;
        *(four *)(sin + d) = as * bc + ac * bs;
    }
    for (; d < half; d++) {
        cos[d] = a[d] * b[d] - a[half + d] * b[half + d];
        sin[d] = a[half + d] * b[d] + a[d] * b[half + d];
    }
}

/* In runs of rows that lie in one page and share an angle. */
void family_rotate_rows(const struct family_call *c, int part, int dim, const struct paged_rows *from,
                        unsigned char *dst, size_t stride)
{
    const float *angles = c->l->part[part].v;
    struct row_rotation r = {.row_bytes = from->row_bytes, .dst = dst, .dst_bytes = stride, .dim = dim,
                             .type = c->l->plan.shape.format.type, .interleaved = c->l->l.interleave};
    for (int i = 0; i < from->n; i += r.n, r.dst += (size_t)r.n * stride) {
        int position = from->t0 + i, in_page = (int)((uint32_t)position % from->page_rows);
        int page_left = (int)from->page_rows - in_page, angle_left = ANGLES - position % ANGLES;
        r.n = page_left < angle_left ? page_left : angle_left;
        r.n = from->n - i < r.n ? from->n - i : r.n;
        r.rows = paged_row(from, i);
        r.near = angles + (size_t)(position % ANGLES) * (size_t)dim;
        r.far = angles + (size_t)(ANGLES + position / ANGLES) * (size_t)dim;
        c->st->kern->rotate_rows(&r);
    }
}

void family_pack_vector(struct family_pack *p, int i)
{
    const struct tensor *t = &p->from->t[i];
    p->to->part[i].v = family_floats(p, t);
    p->to->n_bytes += (uint64_t)(t->ne[0] * t->ne[1] * t->ne[2]) * sizeof(float);
}

float *family_multiply(struct family_pack *p, const float *x, const float *w, int n_a, int n_b, int n_c)
{
    float *y = p->r < 0 ? NULL : calloc((size_t)n_a * (size_t)n_c, sizeof(float));
    if (!y)
        family_pack_nomem(p);
    for (int a = 0; y && x && w && a < n_a; a++) {
        float *row = y + (size_t)a * (size_t)n_c;
        for (int b = 0; b < n_b; b++)
            for (int c = 0; c < n_c; c++)
                row[c] += x[(size_t)a * (size_t)n_b + (size_t)b] * w[(size_t)b * (size_t)n_c + (size_t)c];
    }
    return y;
}

/* --- products ---------------------------------------------------------------------------------- */

struct act_job {
    struct family_call *c;
    const struct row_set *set;
    const struct family_part *part;
    int n_vecs;
    struct family_vecs x, y;
};

/* Pointers in the order of matrices, then rows: slot of vector k of row i. */
static size_t slot_of(const struct act_job *j, int i, int k)
{
    int each = j->n_vecs / j->part->n, m = k / each;
    return ((size_t)m * (size_t)j->set->n_rows + (size_t)i) * (size_t)each + (size_t)(k % each);
}

static void act_rows(void *arg, int r0, int r1, int thread)
{
    const struct act_job *j = arg;
    struct family_work *w = j->c->w;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        for (int k = 0; k < j->n_vecs; k++) {
            const struct matrix *m = &j->part->m[k / (j->n_vecs / j->part->n)];
            size_t at = slot_of(j, i, k), room = act_room(m->n_in);
            w->px[at] = act_prepare(j->c->st->kern, m->type, i < j->set->n_rounded, family_at(&j->x, i, k),
                                    m->n_in, w->acts + ((size_t)i * (size_t)j->n_vecs + (size_t)k) * room);
            w->py[at] = family_at(&j->y, i, k);
        }
    }
}

void family_project(struct family_call *c, const struct row_set *set, int part, int n_vecs,
                    struct family_vecs x, struct family_vecs y)
{
    struct act_job j = {c, set, &c->l->part[part], n_vecs, x, y};
    struct family_work *w = c->w;
    int each = n_vecs / j.part->n, n = set->n_rows * each;
    rows_run_light(c->st->pool, set->n_rows, n_vecs * j.part->m[0].n_in, act_rows, &j);
    for (int m = 0; m < j.part->n; m++) {
        size_t at = (size_t)m * (size_t)n;
        w->list[m] = (struct product){&j.part->m[m], w->px + at, w->py + at, n, set->n_rounded * each};
    }
    products_run(c->st->products, w->list, j.part->n);
}

/* --- rows -------------------------------------------------------------------------------------- */

struct row_job {
    struct family_call *c;
    void (*fn)(struct family_call *c, int i);
    struct family_vecs x; /* of a norm, with its weights */
    const float *w;
    int n;
    void (*span)(struct family_call *c, const struct span *sp);
};

static void call_rows(void *arg, int r0, int r1, int thread)
{
    const struct row_job *j = arg;
    (void)thread;
    for (int i = r0; i < r1; i++)
        j->fn(j->c, i);
}

void family_rows(struct family_call *c, int n, int values, void (*fn)(struct family_call *c, int i))
{
    struct row_job j = {.c = c, .fn = fn};
    rows_run_light(c->st->pool, n, values, call_rows, &j);
}

static void call_span(void *arg, int index, int thread)
{
    const struct row_job *j = arg;
    (void)thread;
    j->span(j->c, &j->c->all->spans[index]);
}

void family_spans(struct family_call *c, void (*fn)(struct family_call *c, const struct span *sp))
{
    struct row_job j = {.c = c, .span = fn};
    pool_run(c->st->pool, c->all->n_spans, call_span, &j);
}

struct family_vecs family_part_norm(const struct family_call *c)
{
    struct family_vecs v = c->norm;
    v.index = c->part.rows;
    return v;
}

float *family_lane(const struct family_call *c, int i, int h)
{
    struct family_vecs lanes = family_queries(c, 0);
    size_t dk = (size_t)c->l->plan.shape.dk;
    float *q = family_at(&lanes, i, h);
    memcpy(q, family_record(c, i) + (size_t)h * dk, dk * sizeof(float));
    return q;
}

void family_rotate(const struct family_call *c, int k, int i, float *x)
{
    const struct rope_table *t = &c->st->ropes->t[c->l->rope[k]];
    size_t at = (size_t)i * (size_t)(t->rope.dim / 2);
    rope_apply(c->st->kern, &t->rope, t->cos + at, t->sin + at, x);
}

void family_rms(const struct family_call *c, const float *x, const float *w, int n, float *y)
{
    c->st->kern->rms_norm(x, w, n, c->l->l.eps, y);
}

static void norm_rows(void *arg, int r0, int r1, int thread)
{
    const struct row_job *j = arg;
    (void)thread;
    for (int i = r0; i < r1; i++)
        family_rms(j->c, family_at(&j->x, i, 0), j->w, j->n, family_at(&j->x, i, 0));
}

void family_rms_all(struct family_call *c, struct family_vecs x, const float *w, int n)
{
    struct row_job j = {.c = c, .x = x, .w = w, .n = n};
    rows_run_light(c->st->pool, c->part.n_rows, 3 * n, norm_rows, &j);
}

void family_softmax(float *x, const float *bias, int n)
{
    float top = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) {
        x[i] += bias[i];
        top = x[i] > top ? x[i] : top;
    }
    for (int i = 0; i < n; i++)
        sum += x[i] = expf(x[i] - top);
    for (int i = 0; i < n; i++)
        x[i] /= sum;
}

static int row_planes(const struct family_call *c)
{
    return c->l->plan.row_planes ? c->l->plan.row_planes : 1;
}

void family_store_pair(const struct family_call *c, int i, int plane, const float *k, const float *v,
                       float *row)
{
    const struct paged_shape *s = &c->l->plan.shape;
    memcpy(row, k, (size_t)s->dk * sizeof(float));
    memcpy(row + s->dk, v, (size_t)s->dv * sizeof(float));
    paged_store(c->st, c->all, i, c->a->plane_offsets[plane], &s->format, row);
}

void family_store(const struct family_call *c, int i, const float *row)
{
    paged_store(c->st, c->all, i, c->a->plane_offsets[0], &c->l->plan.shape.format, row);
}

const struct span *family_span(const struct family_call *c, int i)
{
    int lo = 0, hi = c->all->n_spans - 1;
    while (lo < hi) {
        int mid = (lo + hi + 1) / 2;
        if (c->all->spans[mid].first <= i)
            lo = mid;
        else
            hi = mid - 1;
    }
    return &c->all->spans[lo];
}

unsigned char *family_side(const struct family_call *c, const struct span *sp, int position)
{
    uint32_t t = (uint32_t)position, page = c->st->page_tokens;
    return sp->pages[t / page] + c->a->plane_offsets[row_planes(c)] +
           (size_t)(t % page) * (size_t)c->l->plan.side_bytes;
}

float *family_state(const struct family_call *c, const struct span *sp, int position)
{
    if (position < 0)
        return NULL;
    int plane = row_planes(c) + (c->l->plan.side_bytes > 0);
    return (float *)(void *)(sp->pages[(uint32_t)position / c->st->page_tokens] + c->a->plane_offsets[plane]);
}

void family_row_read(const struct row_format *f, const unsigned char *row, int at, int n, float *dst)
{
    int i = 0;
    if (f->type == TT_F32) {
        memcpy(dst, row + 4 * (size_t)at, (size_t)n * sizeof(float));
        return;
    }
    const unsigned char *from = row + 2 * (size_t)at;
    for (; i + 4 <= n; i += 4)
        *(words *)(void *)(dst + i) =
            __builtin_convertvector(*(const halves *)(const void *)(from + 2 * i), words) << 16;
    for (; i < n; i++) {
        uint16_t h;
        memcpy(&h, from + 2 * i, 2);
        uint32_t u = (uint32_t)h << 16;
        memcpy(dst + i, &u, 4);
    }
}

void family_row_write(const struct kernels *k, const struct row_format *f, const float *x, int at, int n,
                      unsigned char *row)
{
    if (f->type == TT_F32)
        memcpy(row + 4 * (size_t)at, x, (size_t)n * sizeof(float));
    else
        k->f32_to_bf16(x, n, row + 2 * (size_t)at);
}

void family_times(float *y, const float *x, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        *(four *)(y + i) *= *(const four *)(x + i);
    for (; i < n; i++)
        y[i] *= x[i];
}

void family_centre(float *y, float mean, float factor, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        *(four *)(y + i) = (*(four *)(y + i) - mean) * factor;
    for (; i < n; i++)
        y[i] = (y[i] - mean) * factor;
}
