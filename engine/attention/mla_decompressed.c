/* engine/attention/mla_decompressed.c - attention over multiplied-out heads; see mla_decompressed.h.
 *
 * A work item is a span and some neighbouring heads. It walks the pieces of the context: reads the latents
 * of a piece once, prepared as activations, then for each head multiplies them out into rows [k_h | v_h] of
 * its own scratch (half a megabyte: the second-level cache) and runs all tokens of the span over them, 256
 * at a time. Running sums stand in the output rows, not yet divided by l; m and l beside them in scratch.
 * How many heads an item takes is a question of balance only. */
#include "config.h"

#include "engine/attention/mla_decompressed.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define CALL_LANES (ATTN_MAX_GROUPS * KERN_LANES)
/* Most heads of an item: more would share the reading of latents still better, but it is small by then. */
#define MAX_HEADS 16
/* Rows multiplied out at a time before they are rounded: their float32 form stays in the first caches. */
#define PART_ROWS 64
/* What reading and preparing one value of a latent costs, in multiply-adds of a product. */
#define READ_COST 64

struct thread_scratch {
    float *latents;          /* [ATTN_PIECE][rank] */
    unsigned char *act;      /* the same, quantised */
    const void **x, **x_q8;  /* [ATTN_PIECE] where they are */
    const unsigned char **pe; /* [ATTN_PIECE] where k_pe lies in the cache */
    float *parts;            /* [PART_ROWS][max(nope, v)] */
    float **y;               /* [ATTN_PIECE] */
    unsigned char *rows;     /* [ATTN_PIECE] multiplied out */
    float *m, *l;            /* [MAX_HEADS][lanes] running */
    float *pm, *pl, *po;     /* a piece's: [CALL_LANES], [CALL_LANES], [CALL_LANES][v] */
    void *kernel;            /* kern_attn_scratch_bytes */
};

struct decompressed_work {
    struct decompressed_shape shape;
    struct row_format expanded; /* rows of a head */
    int n_threads;
    size_t max_lanes;
    uint64_t n_bytes;
    struct thread_scratch *threads;
    int32_t *group_at;  /* [max_seqs + 1] first lane group of a span; all heads have as many */
    /* the call in hand */
    const struct decompressed_args *args;
    int heads_per_item, items_per_span;
    int first_head; /* of the first item */
};

static int head_dim(const struct decompressed_shape *s)
{
    return s->nope + s->rope;
}

static int groups_of(int lanes)
{
    return (lanes + KERN_LANES - 1) / KERN_LANES;
}

size_t decompressed__query_bytes(const struct decompressed_shape *s, int n_rows, int n_spans)
{
    return ((size_t)n_rows / KERN_LANES + (size_t)n_spans) * (size_t)s->n_heads *
           kern_attn_query_bytes(head_dim(s));
}

/* --- work space -------------------------------------------------------------------------------- */

static void *bytes_new(struct decompressed_work *w, size_t n_bytes)
{
    n_bytes = (n_bytes + 64) & ~(size_t)63;
    w->n_bytes += n_bytes;
    return aligned_alloc(64, n_bytes);
}

static bool thread_new(struct decompressed_work *w, struct thread_scratch *ts)
{
    const struct decompressed_shape *s = &w->shape;
    size_t f = sizeof(float), rank = (size_t)s->rank, v = (size_t)s->v;
    size_t wide = (size_t)(s->nope > s->v ? s->nope : s->v);
    ts->latents = bytes_new(w, ATTN_PIECE * rank * f);
    ts->act = bytes_new(w, ATTN_PIECE * act_room(s->rank));
    ts->x = bytes_new(w, ATTN_PIECE * sizeof(*ts->x));
    ts->x_q8 = bytes_new(w, ATTN_PIECE * sizeof(*ts->x_q8));
    ts->pe = bytes_new(w, ATTN_PIECE * sizeof(*ts->pe));
    ts->parts = bytes_new(w, PART_ROWS * wide * f);
    ts->y = bytes_new(w, ATTN_PIECE * sizeof(*ts->y));
    ts->rows = bytes_new(w, ATTN_PIECE * w->expanded.row_bytes);
    ts->m = bytes_new(w, MAX_HEADS * w->max_lanes * f);
    ts->l = bytes_new(w, MAX_HEADS * w->max_lanes * f);
    ts->pm = bytes_new(w, CALL_LANES * f);
    ts->pl = bytes_new(w, CALL_LANES * f);
    ts->po = bytes_new(w, CALL_LANES * v * f);
    ts->kernel = bytes_new(w, kern_attn_scratch_bytes(w->expanded.elems, head_dim(s), s->v));
    return ts->latents && ts->act && ts->x && ts->x_q8 && ts->pe && ts->parts && ts->y && ts->rows &&
           ts->m && ts->l && ts->pm && ts->pl && ts->po && ts->kernel;
}

int decompressed__work_new(const struct decompressed_shape *s, const struct step_limits *lim, int max_rows,
                           struct decompressed_work **ret)
{
    struct decompressed_work *w = calloc(1, sizeof(*w));
    bool ok = w != NULL;
    if (ok) {
        w->shape = *s;
        w->expanded = (struct row_format){.type = s->format.type == TT_F32 ? TT_F32 : TT_BF16,
                                          .elems = head_dim(s) + s->v};
        w->expanded.row_bytes = kern_row_bytes(w->expanded.type, w->expanded.elems, 0);
        w->n_threads = lim->n_threads;
        w->max_lanes = (size_t)groups_of(max_rows) * KERN_LANES;
        w->group_at = bytes_new(w, ((size_t)lim->max_seqs + 1) * sizeof(*w->group_at));
        w->threads = calloc((size_t)w->n_threads, sizeof(*w->threads));
        ok = w->group_at && w->threads;
        for (int t = 0; ok && t < w->n_threads; t++)
            ok = thread_new(w, &w->threads[t]);
    }
    if (!ok) {
        decompressed__work_free(w);
        return ERR_NOMEM;
    }
    *ret = w;
    return 0;
}

void decompressed__work_free(struct decompressed_work *w)
{
    if (!w)
        return;
    for (int t = 0; w->threads && t < w->n_threads; t++) {
        struct thread_scratch *ts = &w->threads[t];
        free(ts->latents);
        free(ts->act);
        free(ts->x);
        free(ts->x_q8);
        free(ts->pe);
        free(ts->parts);
        free(ts->y);
        free(ts->rows);
        free(ts->m);
        free(ts->l);
        free(ts->pm);
        free(ts->pl);
        free(ts->po);
        free(ts->kernel);
    }
    free(w->threads);
    free(w->group_at);
    free(w);
}

uint64_t decompressed__work_bytes(const struct decompressed_work *w)
{
    return w->n_bytes;
}

/* --- queries ----------------------------------------------------------------------------------- */

/* Packed queries of lane group g of a head. */
static unsigned char *group_queries(const struct decompressed_work *w, int head, int g)
{
    size_t at = (size_t)head * (size_t)w->group_at[w->args->set->n_spans] + (size_t)g;
    return w->args->packed + at * kern_attn_query_bytes(head_dim(&w->shape));
}

static void pack_span_item(void *arg, int item, int thread)
{
    const struct decompressed_work *w = arg;
    const struct decompressed_shape *s = &w->shape;
    const struct decompressed_args *a = w->args;
    int span = item / s->n_heads, head = item % s->n_heads;
    const struct span *sp = &a->set->spans[span];
    size_t dk = (size_t)head_dim(s), row = (size_t)s->n_heads * dk;
    const float *first = a->q + (size_t)sp->first * row + (size_t)head * dk;
    (void)thread;
    for (int g = 0; g < groups_of(sp->n_tokens); g++) {
        const float *q[KERN_LANES];
        for (int i = 0; i < KERN_LANES; i++) {
            int t = g * KERN_LANES + i;
            q[i] = t < sp->n_tokens ? first + (size_t)t * row : NULL;
        }
        a->step->kern->attn_pack(q, (int)dk, s->scale, group_queries(w, head, w->group_at[span] + g));
    }
}

/* --- a piece ----------------------------------------------------------------------------------- */

/* Latents of n rows from position t0 on, as activations. */
static void read_latents(const struct decompressed_work *w, struct thread_scratch *ts,
                         const struct span *sp, int t0, int n)
{
    const struct decompressed_shape *s = &w->shape;
    const struct decompressed_args *a = w->args;
    const struct row_format *f = &s->format;
    size_t page_tokens = a->step->page_tokens, pe_at = kern_row_tail_at(f, s->rope);
    bool quantised = act_is_quantised(a->w_uk[0].type) || act_is_quantised(a->w_uv[0].type);
    for (int i = 0; i < n; i++) {
        size_t t = (size_t)(t0 + i);
        const unsigned char *row =
            sp->pages[t / page_tokens] + a->plane_offset + t % page_tokens * f->row_bytes;
        float *x = ts->latents + (size_t)i * (size_t)s->rank;
        unsigned char *act = ts->act + (size_t)i * act_room(s->rank);
        kern_row_read(f, row, s->rank, x);
        if (quantised)
            act_store(a->step->kern, a->set->n_rounded > 0, x, s->rank, act);
        ts->x[i] = x;
        ts->x_q8[i] = act;
        ts->pe[i] = row + pe_at;
    }
}

/* y = W x for n rows from i on; their outputs begin at element `at` of the rows multiplied out. */
static void expand(const struct decompressed_work *w, struct thread_scratch *ts, const struct matrix *m,
                   int i, int n, int at)
{
    const struct kernels *k = w->args->step->kern;
    const void *const *x = (act_is_quantised(m->type) ? ts->x_q8 : ts->x) + i;
    size_t row_bytes = w->expanded.row_bytes;
    unsigned char *rows = ts->rows + (size_t)i * row_bytes;
    bool floats = w->expanded.type == TT_F32;
    for (int j = 0; j < n; j++)
        ts->y[j] = floats ? (float *)(void *)(rows + (size_t)j * row_bytes) + at
                          : ts->parts + (size_t)j * (size_t)m->n_out;
    if (act_is_quantised(m->type) && w->args->set->n_rounded > 0)
        k->mul_rounded(m->type, m->packed, m->top, m->n_out, m->n_in, 0, matrix_groups(m), x, ts->y, n);
    else
        kern_mul(k, m->type)(m->packed, m->n_out, m->n_in, 0, matrix_groups(m), x, ts->y, n);
    for (int j = 0; j < n && !floats; j++)
        k->f32_to_bf16(ts->y[j], m->n_out, rows + (size_t)j * row_bytes + 2 * (size_t)at);
}

/* n rows [k_h | v_h] of a head. */
static void expand_head(const struct decompressed_work *w, struct thread_scratch *ts, int head, int n)
{
    const struct decompressed_shape *s = &w->shape;
    size_t elem = w->expanded.type == TT_F32 ? 4 : 2;
    for (int i = 0; i < n; i += PART_ROWS) {
        int m = n - i < PART_ROWS ? n - i : PART_ROWS;
        expand(w, ts, &w->args->w_uk[head], i, m, 0);
        expand(w, ts, &w->args->w_uv[head], i, m, head_dim(s));
    }
    for (int i = 0; i < n; i++)
        memcpy(ts->rows + (size_t)i * w->expanded.row_bytes + (size_t)s->nope * elem, ts->pe[i],
               (size_t)s->rope * elem);
}

/* Lanes [lane0, lane0 + n) of a head over the rows in hand, whose first is position t0. */
static void attend_lanes(const struct decompressed_work *w, struct thread_scratch *ts, int span, int head,
                         int slot, int lane0, int n, int t0, int n_rows)
{
    const struct decompressed_shape *s = &w->shape;
    const struct decompressed_args *a = w->args;
    const struct span *sp = &a->set->spans[span];
    const unsigned char *rows = ts->rows;
    size_t v = (size_t)s->v, stride = (size_t)s->n_heads * v;
    float *m = ts->m + (size_t)slot * w->max_lanes + lane0, *l = ts->l + (size_t)slot * w->max_lanes + lane0;
    float *o = a->out + ((size_t)sp->first + (size_t)lane0) * stride + (size_t)head * v;
    bool first = t0 == 0;
    int32_t limit[CALL_LANES];
    int n_groups = groups_of(n);
    for (int i = 0; i < n_groups * KERN_LANES; i++)
        limit[i] = i < n ? sp->position + lane0 + i + 1 - t0 : 0;
    if (limit[n - 1] <= 0)
        return;
    struct attn_piece p = {
        .pages = &rows,
        .page_tokens = ATTN_PIECE,
        .n_rows = n_rows < limit[n - 1] ? n_rows : limit[n - 1],
        .fetched = 1, /* they have just been made */
        .format = w->expanded,
        .dk = head_dim(s),
        .dv = s->v,
        .v_off = head_dim(s),
        .n_groups = n_groups,
        .q = group_queries(w, head, w->group_at[span] + lane0 / KERN_LANES),
        .limit = limit,
        .m = ts->pm,
        .l = ts->pl,
        .o = first ? o : ts->po, /* every lane sees the first piece: it is the sum as it stands */
        .o_stride = first ? stride : v,
        .scratch = ts->kernel,
    };
    a->step->kern->attn_piece(&p);
    if (first) {
        memcpy(m, ts->pm, (size_t)n * sizeof(*m));
        memcpy(l, ts->pl, (size_t)n * sizeof(*l));
        return;
    }
    float *to[CALL_LANES];
    for (int i = 0; i < n; i++)
        to[i] = o + (size_t)i * stride;
    a->step->kern->attn_fold(n, s->v, m, l, to, ts->pm, ts->pl, ts->po);
}

static void attend_item(void *arg, int item, int thread)
{
    const struct decompressed_work *w = arg;
    const struct decompressed_shape *s = &w->shape;
    struct thread_scratch *ts = &w->threads[thread];
    int span = item / w->items_per_span, head0 = item % w->items_per_span * w->heads_per_item + w->first_head;
    int n_heads = s->n_heads - head0 < w->heads_per_item ? s->n_heads - head0 : w->heads_per_item;
    const struct span *sp = &w->args->set->spans[span];
    int seen = sp->position + sp->n_tokens;
    for (int t0 = 0; t0 < seen; t0 += ATTN_PIECE) {
        int n_rows = seen - t0 < ATTN_PIECE ? seen - t0 : ATTN_PIECE;
        read_latents(w, ts, sp, t0, n_rows);
        for (int i = 0; i < n_heads; i++) {
            expand_head(w, ts, head0 + i, n_rows);
            for (int lane = 0; lane < sp->n_tokens; lane += CALL_LANES) {
                int n = sp->n_tokens - lane < CALL_LANES ? sp->n_tokens - lane : CALL_LANES;
                attend_lanes(w, ts, span, head0 + i, i, lane, n, t0, n_rows);
            }
        }
    }
    for (int i = 0; i < n_heads; i++) {
        for (int t = 0; t < sp->n_tokens; t++) {
            float *o = w->args->out +
                       (((size_t)sp->first + (size_t)t) * (size_t)s->n_heads + (size_t)(head0 + i)) *
                           (size_t)s->v;
            float inv = 1.0f / ts->l[(size_t)i * w->max_lanes + (size_t)t];
            for (int r = 0; r < s->v; r++)
                o[r] *= inv;
        }
    }
}

/* --- a call ------------------------------------------------------------------------------------ */

/* Heads of an item for the least time of the slowest thread. */
static int heads_per_item(const struct decompressed_work *w, const struct row_set *set)
{
    const struct decompressed_shape *s = &w->shape;
    int64_t lanes = set->n_rows / set->n_spans, best_cost = INT64_MAX;
    int64_t head = (int64_t)s->rank * (s->nope + s->v) + lanes * (head_dim(s) + s->v);
    int best = 1;
    for (int n = 1; n <= MAX_HEADS && n <= s->n_heads; n++) {
        int64_t items = (int64_t)((s->n_heads + n - 1) / n) * set->n_spans;
        int64_t cost = (items + w->n_threads - 1) / w->n_threads * (n * head + (int64_t)READ_COST * s->rank);
        if (cost < best_cost) {
            best_cost = cost;
            best = n;
        }
    }
    return best;
}

/* A head for each thread at a time, as long as there is time. */
static bool attend_some(struct decompressed_work *w, struct attention_stop *stop)
{
    int n_heads = w->shape.n_heads, done = stop->heads_done;
    int64_t now = clock_now_ns(), took;
    w->heads_per_item = 1;
    w->items_per_span = n_heads;
    do {
        int n = n_heads - done < w->n_threads ? n_heads - done : w->n_threads;
        w->first_head = done;
        pool_run(w->args->step->pool, n, attend_item, w);
        done += n;
        took = clock_now_ns() - now;
        now += took;
    } while (done < n_heads && now + took <= stop->until_ns);
    stop->heads_done = done < n_heads ? done : 0;
    return done == n_heads;
}

bool decompressed__attend(struct decompressed_work *w, const struct decompressed_args *a)
{
    const struct row_set *set = a->set;
    w->args = a;
    w->group_at[0] = 0;
    for (int i = 0; i < set->n_spans; i++)
        w->group_at[i + 1] = w->group_at[i] + groups_of(set->spans[i].n_tokens);
    pool_run(a->step->pool, set->n_spans * w->shape.n_heads, pack_span_item, w);
    if (a->stop)
        return attend_some(w, a->stop);
    w->first_head = 0;
    w->heads_per_item = heads_per_item(w, set);
    w->items_per_span = (w->shape.n_heads + w->heads_per_item - 1) / w->heads_per_item;
    pool_run(a->step->pool, set->n_spans * w->items_per_span, attend_item, w);
    return true;
}
