/* engine/attention/paged.c - attention over pages; see paged.h.
 *
 * Segments of one round (stack.h) are cut into work items and run as one job. Running sums live where the
 * result will be: a lane's output row holds its values, not yet divided by l; m and l stand beside them.
 * A segment continues the sums of the rounds before. There are two ways to do one, and which is taken is a
 * question of balance only (balance.h): in a row, an item owning some lanes and walking the pieces; or
 * spread, an item being some lanes and a few pieces whose results go to a bounded store, and a second job
 * folding the store into the sums in order. What does not fit the store follows in further waves. */
#include "config.h"

#include "engine/attention/paged.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/balance.h"
#include "engine/attention/stack.h"

#define CALL_LANES (ATTN_MAX_GROUPS * KERN_LANES)
/* Bytes of the store of partial sums, per thread. */
#define STORE_BYTES ((size_t)4 << 20)
/* Jobs are flushed when they have this many items. */
#define MAX_ITEMS 4096
/* Rows that are made at a time: a multiple of what mechanisms take together. */
#define MAKE_ROWS 64
/* Lanes of one item of the fold. */
#define FOLD_LANES 8

/* Some lanes of a segment and some of its pieces; lanes of a group are numbered slot * its heads + head.
 * Where groups read the same rows and have few lanes, an item takes all lanes of some groups. */
struct item {
    int32_t segment, group;
    int32_t n_groups;        /* from `group` on; lanes are counted where it is 1 */
    int32_t lane0, n_lanes;
    int32_t p0, p1;
    int32_t partial; /* place in the store of its first lane and piece; -1: folded on the way */
};

/* The lanes of an item's group; their places among those of the item begin at 16 * slot. */
struct lanes {
    int group, lane0, n, slot;
};

struct fold {
    int32_t group, lane0, n_lanes;
    int32_t p0, n_pieces;
    int32_t partial, stride; /* of its first lane at p0; lanes from piece to piece */
};

struct thread_scratch {
    unsigned char *q;  /* packed queries */
    struct item q_of;  /* whose; n_groups 0: none */
    float *m, *l, *o;  /* a piece's result: [CALL_LANES], [CALL_LANES], [CALL_LANES][dv] */
    void *kernel;      /* kern_attn_scratch_bytes */
    unsigned char *gathered; /* ATTN_PIECE rows, chosen or made */
    const unsigned char **x; /* [ATTN_PIECE] rows that are gated, */
    const float **e;         /* their embeddings */
    float *factors;          /* and factors */
};

struct paged_work {
    struct paged_shape first; /* of those it was made for */
    int n_threads;
    int max_rows;
    size_t partial_floats; /* of the store of values: how many lanes it holds depends on their width */
    uint64_t n_bytes;
    struct thread_scratch *threads;
    float *m, *l;     /* running sums of all lanes */
    float *partial_m, *partial_l, *partials; /* [lanes], [lanes], [lanes][dv] */
    struct stack stack;
    struct balance balance;
    struct item *items;
    struct fold *folds;
    int n_items, n_folds, n_partials;
    /* the call in hand */
    const struct step *step;
    const struct paged_call *call;
    struct paged_shape shape;
    struct paged_group whole; /* the group of a shape without groups */
    bool same_rows;           /* groups read the same */
    uint32_t page_rows;
};

struct row_format paged_format(enum tensor_type type, int elems, int tail)
{
    bool narrow = type == TT_I8 || type == TT_F8_E4M3 || type == TT_I4;
    struct row_format f = {.type = type, .elems = elems, .tail = narrow ? tail : 0};
    f.row_bytes = kern_row_bytes(type, elems, f.tail);
    return f;
}

/* Span that holds row i; spans are in order of their rows. */
static const struct span *row_span(const struct row_set *set, int i)
{
    int lo = 0, hi = set->n_spans - 1;
    while (lo < hi) {
        int mid = (lo + hi + 1) / 2;
        if (set->spans[mid].first <= i)
            lo = mid;
        else
            hi = mid - 1;
    }
    return &set->spans[lo];
}

void paged_store(const struct step *st, const struct row_set *set, int i, size_t plane_offset,
                 const struct row_format *format, const float *row)
{
    const struct span *sp = row_span(set, i);
    uint32_t pos = (uint32_t)(sp->position + (i - sp->first));
    st->kern->row_store(format, row, sp->pages[pos / st->page_tokens] + plane_offset +
                                         (size_t)(pos % st->page_tokens) * format->row_bytes);
}

/* Of a page: where n is known, a copy is a few moves. */
static void copy_rows(const unsigned char *from, size_t step, int n_rows, size_t n, unsigned char *to,
                      size_t stride)
{
    for (int i = 0; i < n_rows; i++, from += step, to += stride) {
        switch (n) {
        case 8: memcpy(to, from, 8); break;
        case 16: memcpy(to, from, 16); break;
        case 32: memcpy(to, from, 32); break;
        case 64: memcpy(to, from, 64); break;
        case 128: memcpy(to, from, 128); break;
        default: memcpy(to, from, n);
        }
    }
}

void paged_copy(const struct paged_rows *r, size_t at, size_t n, unsigned char *dst, size_t stride)
{
    for (int i = 0, m; i < r->n; i += m, dst += (size_t)m * stride) {
        int left = (int)(r->page_rows - (uint32_t)(r->t0 + i) % r->page_rows);
        m = r->n - i < left ? r->n - i : left;
        copy_rows(paged_row(r, i) + at, r->row_bytes, m, n, dst, stride);
    }
}

/* --- work space -------------------------------------------------------------------------------- */

static size_t max(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void *bytes_new(struct paged_work *w, size_t n_bytes)
{
    n_bytes = (n_bytes + 63) & ~(size_t)63;
    w->n_bytes += n_bytes;
    return aligned_alloc(64, n_bytes);
}

/* Of 16 lanes. */
static size_t query_bytes(const struct paged_shape *s)
{
    return s->gate ? kern_gate_query_bytes(&s->gate->shape) : kern_attn_query_bytes(s->dk);
}

int paged_work_new_for(const struct paged_shape *shapes, int n_shapes, const struct step_limits *lim,
                       struct paged_work **ret)
{
    struct paged_work *w = calloc(1, sizeof(*w));
    if (!w)
        return ERR_NOMEM;
    size_t f = sizeof(float), dv = 1, heads = 1, groups = 1, least = (size_t)-1;
    size_t query = 0, kernel = 0, row = 0, gates = 0;
    for (int i = 0; i < n_shapes; i++) {
        const struct paged_shape *s = &shapes[i];
        const struct row_format *format = s->make ? &s->make->format : &s->format;
        dv = max(dv, (size_t)s->dv);
        least = (size_t)s->dv < least ? (size_t)s->dv : least;
        heads = max(heads, (size_t)s->n_heads);
        groups = max(groups, (size_t)s->n_groups);
        query = max(query, query_bytes(s));
        kernel = max(kernel, s->gate ? kern_gate_scratch_bytes(&s->gate->shape)
                                     : kern_attn_scratch_bytes(format->elems, s->dk, s->dv));
        gates = max(gates, s->gate ? kern_gate_stride(s->gate->shape.heads) : 0);
        row = max(row, format->row_bytes);
    }
    size_t lanes = (size_t)lim->max_rows * heads;
    w->first = shapes[0];
    w->n_threads = lim->n_threads;
    w->max_rows = lim->max_rows;
    size_t n = STORE_BYTES * (size_t)lim->n_threads / f;
    w->partial_floats = n < CALL_LANES * dv ? CALL_LANES * dv : n;
    size_t partials = w->partial_floats / least; /* lanes of the narrowest */
    w->m = bytes_new(w, lanes * f);
    w->l = bytes_new(w, lanes * f);
    w->partial_m = bytes_new(w, partials * f);
    w->partial_l = bytes_new(w, partials * f);
    w->partials = bytes_new(w, w->partial_floats * f);
    w->items = bytes_new(w, MAX_ITEMS * sizeof(*w->items));
    w->folds = bytes_new(w, MAX_ITEMS * sizeof(*w->folds));
    w->threads = calloc((size_t)w->n_threads, sizeof(*w->threads));
    if (stack__init(&w->stack, lim->max_seqs, lim->max_rows) < 0 ||
        balance__init(&w->balance, 2 * lim->max_seqs * (int)groups, lim->n_threads) < 0 || !w->m || !w->l ||
        !w->partial_m || !w->partial_l || !w->partials || !w->items || !w->folds || !w->threads)
        goto fail;
    for (int t = 0; t < w->n_threads; t++) {
        struct thread_scratch *ts = &w->threads[t];
        ts->q = bytes_new(w, ATTN_MAX_GROUPS * query);
        ts->m = bytes_new(w, CALL_LANES * f);
        ts->l = bytes_new(w, CALL_LANES * f);
        ts->o = bytes_new(w, CALL_LANES * dv * f);
        ts->kernel = bytes_new(w, kernel);
        ts->gathered = bytes_new(w, ATTN_PIECE * row);
        if (!ts->q || !ts->m || !ts->l || !ts->o || !ts->kernel || !ts->gathered)
            goto fail;
        if (gates == 0)
            continue;
        ts->x = bytes_new(w, ATTN_PIECE * sizeof(*ts->x));
        ts->e = bytes_new(w, ATTN_PIECE * sizeof(*ts->e));
        ts->factors = bytes_new(w, ATTN_PIECE * gates * f);
        if (!ts->x || !ts->e || !ts->factors)
            goto fail;
    }
    *ret = w;
    return 0;
fail:
    paged_work_free(w);
    return ERR_NOMEM;
}

void paged_work_free(struct paged_work *w)
{
    if (!w)
        return;
    for (int t = 0; w->threads && t < w->n_threads; t++) {
        free(w->threads[t].q);
        free(w->threads[t].m);
        free(w->threads[t].l);
        free(w->threads[t].o);
        free(w->threads[t].kernel);
        free(w->threads[t].gathered);
        free(w->threads[t].x);
        free(w->threads[t].e);
        free(w->threads[t].factors);
    }
    free(w->threads);
    stack__done(&w->stack);
    balance__done(&w->balance);
    free(w->m);
    free(w->l);
    free(w->partial_m);
    free(w->partial_l);
    free(w->partials);
    free(w->items);
    free(w->folds);
    free(w);
}

uint64_t paged_work_bytes(const struct paged_work *w)
{
    return w->n_bytes;
}

/* --- lanes ------------------------------------------------------------------------------------- */

static int groups_of(int lanes)
{
    return (lanes + KERN_LANES - 1) / KERN_LANES;
}

static const struct paged_group *group_of(const struct paged_work *w, int group)
{
    return w->shape.n_groups ? &w->shape.groups[group] : &w->whole;
}

static const struct stack_slot *slot_of(const struct paged_work *w, int group, int lane)
{
    return &w->stack.slots[lane / group_of(w, group)->n];
}

/* Where a lane's query and output are, counted in heads of the rows of the set. */
static size_t lane_at(const struct paged_work *w, int group, int lane)
{
    const struct paged_group *g = group_of(w, group);
    return (size_t)w->stack.slots[lane / g->n].row * (size_t)w->shape.n_heads +
           (size_t)(g->first + lane % g->n);
}

static float *lane_out(const struct paged_work *w, int group, int lane)
{
    return w->call->out + lane_at(w, group, lane) * (size_t)w->shape.dv;
}

/* Where a lane's running m and l are. */
static size_t sum_at(const struct paged_work *w, int group, int lane)
{
    return (size_t)group_of(w, group)->first * (size_t)w->max_rows + (size_t)lane;
}

static struct lanes lanes_of(const struct paged_work *w, const struct item *it, int k)
{
    const struct stack_segment *g = &w->stack.segments[it->segment];
    struct lanes l = {it->group, it->lane0, it->n_lanes, 0};
    for (int i = 0; it->n_groups > 1; i++) {
        int heads = group_of(w, it->group + i)->n;
        l = (struct lanes){it->group + i, g->slot0 * heads, g->n_slots * heads, l.slot};
        if (i == k)
            break;
        l.slot += groups_of(l.n);
    }
    return l;
}

/* Lane groups of an item. */
static int width_of(const struct paged_work *w, const struct item *it)
{
    struct lanes last = lanes_of(w, it, it->n_groups - 1);
    return last.slot + groups_of(last.n);
}

static unsigned char *packed(const struct paged_work *w, const struct thread_scratch *ts, int slot)
{
    return ts->q + (size_t)slot * query_bytes(&w->shape);
}

static void pack_queries(const struct paged_work *w, struct thread_scratch *ts, const struct item *it)
{
    size_t dk = (size_t)w->shape.dk;
    const struct item *q = &ts->q_of;
    if (q->n_groups == it->n_groups && q->segment == it->segment && q->group == it->group &&
        q->lane0 == it->lane0 && q->n_lanes == it->n_lanes)
        return; /* other pieces of the same lanes */
    for (int k = 0; k < it->n_groups; k++) {
        struct lanes l = lanes_of(w, it, k);
        for (int g = 0; g < groups_of(l.n); g++) {
            const float *q_of[KERN_LANES];
            for (int i = 0; i < KERN_LANES; i++) {
                int lane = g * KERN_LANES + i;
                q_of[i] = lane < l.n ? w->call->q + lane_at(w, l.group, l.lane0 + lane) * dk : NULL;
            }
            void *to = packed(w, ts, l.slot + g);
            if (w->shape.gate)
                w->step->kern->gate_query(&w->shape.gate->shape, q_of, w->shape.scale, to);
            else
                w->step->kern->attn_pack(q_of, w->shape.dk, w->shape.scale, to);
        }
    }
    ts->q_of = *it;
}

/* Lanes that start have no sum yet. */
static void start_lanes(const struct paged_work *w, int group, int lane0, int n)
{
    size_t at = sum_at(w, group, lane0);
    for (int i = 0; i < n; i++) {
        w->m[at + (size_t)i] = -INFINITY;
        w->l[at + (size_t)i] = 0.0f;
    }
}

/* Some lanes of one group; pieces of them are folded in order. */
struct fold_to {
    int n;
    float *m, *l, *o[KERN_LANES];
};

static struct fold_to fold_lanes(const struct paged_work *w, int group, int lane0, int n)
{
    size_t at = sum_at(w, group, lane0);
    struct fold_to to = {.n = n < KERN_LANES ? n : KERN_LANES, .m = w->m + at, .l = w->l + at};
    for (int i = 0; i < to.n; i++)
        to.o[i] = lane_out(w, group, lane0 + i);
    return to;
}

static void fold_piece(const struct paged_work *w, const struct fold_to *to, const float *m, const float *l,
                       const float *o)
{
    w->step->kern->attn_fold(to->n, w->shape.dv, to->m, to->l, to->o, m, l, o);
}

typedef float four __attribute__((vector_size(16), aligned(4), may_alias));

static void divide_lane(const struct paged_work *w, int group, int lane)
{
    float *o = lane_out(w, group, lane), inv = 1.0f / w->l[sum_at(w, group, lane)];
    int r = 0;
    for (; r + 4 <= w->shape.dv; r += 4)
        *(four *)(o + r) *= inv;
    for (; r < w->shape.dv; r++)
        o[r] *= inv;
}

/* Divides by l where no piece is left; a row of the token's own would still follow. */
static void finish_lanes(const struct paged_work *w, int group, int lane0, int n, int p1)
{
    for (int i = lane0; i < lane0 + n && !w->call->own; i++)
        if (slot_of(w, group, i)->pieces == p1)
            divide_lane(w, group, i);
}

/* In a fixed order of additions, as everything else. */
static float dot(const float *a, const float *b, int n)
{
    four sum = {0};
    float rest = 0;
    int i = 0;
    for (; i + 4 <= n; i += 4)
        sum += *(const four *)(a + i) * *(const four *)(b + i);
    for (; i < n; i++)
        rest += a[i] * b[i];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
}

/* The row that each token has of its own, behind all others. */
static void own_rows(void *arg, int r0, int r1, int thread)
{
    struct paged_work *w = arg;
    const struct paged_call *c = w->call;
    int n_groups = w->shape.n_groups ? w->shape.n_groups : 1;
    (void)thread;
    for (int slot = r0; slot < r1; slot++) {
        const struct stack_slot *s = &w->stack.slots[slot];
        const float *row = c->own + (size_t)s->row * (size_t)w->shape.format.elems;
        for (int g = 0; g < n_groups; g++) {
            const struct paged_group *group = group_of(w, g);
            for (int i = 0; i < group->n; i++) {
                int lane = slot * group->n + i;
                const float *q = c->q + lane_at(w, g, lane) * (size_t)w->shape.dk;
                if (s->pieces == 0)
                    start_lanes(w, g, lane, 1);
                struct fold_to to = fold_lanes(w, g, lane, 1);
                float m = w->shape.scale * dot(q, row + group->k_off, w->shape.dk), one = 1.0f;
                fold_piece(w, &to, &m, &one, row + group->v_off);
                divide_lane(w, g, lane);
            }
        }
    }
}

/* --- a piece ----------------------------------------------------------------------------------- */

/* Copies n chosen rows side by side. */
static void gather(const struct paged_work *w, const struct span *sp, size_t offset,
                   const int32_t *positions, int n, unsigned char *dst)
{
    uint32_t page_tokens = w->step->page_tokens;
    size_t row_bytes = w->shape.format.row_bytes;
    for (int i = 0; i < n; i++) {
        uint32_t t = (uint32_t)positions[i];
        memcpy(dst + (size_t)i * row_bytes,
               sp->pages[t / page_tokens] + offset + (size_t)(t % page_tokens) * row_bytes,
               row_bytes);
    }
}

/* Rows [lo, hi), counted from those of r, come into the nearer caches. */
static void fetch_rows(const struct paged_rows *r, int lo, int hi)
{
    for (int m; lo < hi; lo += m) {
        int left = (int)(r->page_rows - (uint32_t)(r->t0 + lo) % r->page_rows);
        const unsigned char *at = paged_row(r, lo), *end;
        m = hi - lo < left ? hi - lo : left;
        end = at + (size_t)m * r->row_bytes;
        for (at -= (uintptr_t)at & 127; at < end; at += 128) /* lines come in pairs */
            __builtin_prefetch(at, 0, 2);
    }
}

/* MAKE_ROWS of a piece's rows from t on, or what is left. While they are made those that come next may be
 * fetched: no hardware does so across pages. n_ahead: rows of the next piece. */
static struct paged_rows some_rows(const struct paged_rows *all, int t, bool fetch, int n_ahead)
{
    struct paged_rows some = *all;
    int end = all->n + n_ahead, ahead = t + 2 * MAKE_ROWS < end ? t + 2 * MAKE_ROWS : end;
    some.t0 += t;
    some.n = all->n - t < MAKE_ROWS ? all->n - t : MAKE_ROWS;
    if (fetch)
        fetch_rows(all, t ? t + MAKE_ROWS : 0, ahead);
    return some;
}

/* Makes a piece's rows, some at a time. */
static void make_rows(const struct paged_work *w, int thread, int group, const struct paged_rows *all,
                      bool fetch, int n_ahead)
{
    const struct paged_make *make = w->shape.make;
    unsigned char *dst = w->threads[thread].gathered;
    size_t step = MAKE_ROWS * make->format.row_bytes;
    for (int t = 0; t < all->n; t += MAKE_ROWS, dst += step) {
        struct paged_rows some = some_rows(all, t, fetch, n_ahead);
        make->rows(w->call->make_arg, group, &some, thread, dst);
    }
}

/* The same for rows that are not multiplied out. */
static void gate_rows(const struct paged_work *w, int thread, const struct paged_rows *all, int n_ahead)
{
    const struct paged_gate *gate = w->shape.gate;
    const struct thread_scratch *ts = &w->threads[thread];
    for (int i = 0; i < all->n; i++)
        ts->x[i] = paged_row(all, i);
    for (int t = 0; t < all->n; t += MAKE_ROWS) {
        struct paged_rows some = some_rows(all, t, true, n_ahead);
        gate->rows(w->call->make_arg, &some, thread, ts->x + t, ts->e + t,
                   ts->factors + (size_t)t * kern_gate_stride(gate->shape.heads));
    }
}

/* One piece against packed lanes of an item, from scratch. false: none of them sees a row of it. */
static bool run_piece(const struct paged_work *w, int thread, const struct item *it,
                      const struct lanes *lanes, int piece, float *m, float *l, float *o)
{
    const struct paged_shape *s = &w->shape;
    const struct thread_scratch *ts = &w->threads[thread];
    const struct paged_group *group = group_of(w, lanes->group);
    size_t offset = w->call->plane_offsets[group->plane];
    int span = w->stack.order[w->stack.segments[it->segment].first], t0 = piece * ATTN_PIECE;
    const struct span *sp = &w->call->set->spans[span];
    const struct paged_choice *chosen = stack__choice(&w->stack, span);
    const unsigned char *gathered = ts->gathered;
    int32_t limit[CALL_LANES];
    int n_groups = groups_of(lanes->n), most = 0; /* rows from here on that a lane sees */

    for (int i = 0; i < n_groups * KERN_LANES; i++) {
        limit[i] = i < lanes->n ? slot_of(w, lanes->group, lanes->lane0 + i)->seen - t0 : 0;
        most = limit[i] > most ? limit[i] : most;
    }
    if (most == 0)
        return false;
    int n_rows = most < ATTN_PIECE ? most : ATTN_PIECE;
    /* The item's next piece, which the kernel may fetch meanwhile; its first group does so for all. */
    bool copied = chosen || s->make, first = lanes->group == it->group;
    int n_ahead = chosen || piece + 1 == it->p1 || !first ? 0 : most - n_rows;
    n_ahead = n_ahead < ATTN_PIECE ? n_ahead : ATTN_PIECE;
    struct paged_rows from = {sp->pages, offset, s->format.row_bytes, w->page_rows, t0, n_rows};
    if (chosen)
        gather(w, sp, offset, chosen->positions + t0, n_rows, ts->gathered);
    else if (s->make)
        make_rows(w, thread, lanes->group, &from, first, n_ahead);
    if (s->gate) {
        gate_rows(w, thread, &from, n_ahead);
        struct gate_piece p = {
            .shape = s->gate->shape,
            .n_rows = n_rows,
            .n_groups = n_groups,
            .type = s->format.type,
            .x = ts->x,
            .e = ts->e,
            .factors = ts->factors,
            .first = lanes->lane0 % s->n_heads,
            .q = packed(w, ts, lanes->slot),
            .limit = limit,
            .m = m,
            .l = l,
            .o = o,
            .o_stride = (size_t)s->dv,
            .scratch = ts->kernel,
        };
        w->step->kern->gate_piece(&p);
        return true;
    }
    struct attn_piece p = {
        .pages = copied ? &gathered : (const unsigned char *const *)sp->pages,
        .offset = copied ? 0 : offset,
        .page_tokens = copied ? ATTN_PIECE : (int)w->page_rows,
        .first = copied ? 0 : t0,
        .n_rows = n_rows,
        .n_ahead = copied ? 0 : n_ahead,
        .fetched = copied || !first || piece > it->p0,
        .format = s->make ? s->make->format : s->format,
        .dk = s->dk,
        .dv = s->dv,
        .k_off = group->k_off,
        .v_off = group->v_off,
        .n_groups = n_groups,
        .q = packed(w, ts, lanes->slot),
        .limit = limit,
        .m = m,
        .l = l,
        .o = o,
        .o_stride = (size_t)s->dv,
        .scratch = ts->kernel,
    };
    w->step->kern->attn_piece(&p);
    return true;
}

/* Whether the outputs of some lanes lie one behind the other. */
static bool are_neighbours(const struct paged_work *w, const struct lanes *l)
{
    int heads = group_of(w, l->group)->n;
    int first = l->lane0 / heads, last = (l->lane0 + l->n - 1) / heads;
    for (int i = first; i < last; i++)
        if (heads != w->shape.n_heads || w->stack.slots[i + 1].row != w->stack.slots[i].row + 1)
            return false;
    return true;
}

/* A piece of an item, folded into the sums. The first piece of lanes whose outputs are neighbours is the sum
 * as it stands. */
static void walk_piece(const struct paged_work *w, int thread, const struct item *it, const struct lanes *l,
                       int p)
{
    const struct thread_scratch *ts = &w->threads[thread];
    size_t at = sum_at(w, l->group, l->lane0);
    bool straight = p == 0 && are_neighbours(w, l);
    if (!run_piece(w, thread, it, l, p, ts->m, ts->l, straight ? lane_out(w, l->group, l->lane0) : ts->o))
        return;
    if (straight) {
        memcpy(w->m + at, ts->m, (size_t)l->n * sizeof(float));
        memcpy(w->l + at, ts->l, (size_t)l->n * sizeof(float));
        return;
    }
    for (int i = 0; i < l->n; i += KERN_LANES) {
        struct fold_to to = fold_lanes(w, l->group, l->lane0 + i, l->n - i);
        fold_piece(w, &to, ts->m + i, ts->l + i, ts->o + (size_t)i * (size_t)w->shape.dv);
    }
}

/* The pieces of an item in order. */
static void walk(const struct paged_work *w, int thread, const struct item *it)
{
    for (int p = it->p0; p < it->p1; p++) {
        for (int k = 0; k < it->n_groups; k++) {
            struct lanes l = lanes_of(w, it, k);
            if (p == 0)
                start_lanes(w, l.group, l.lane0, l.n);
            walk_piece(w, thread, it, &l, p);
            if (p + 1 == it->p1)
                finish_lanes(w, l.group, l.lane0, l.n, it->p1);
        }
    }
}

static void attend_item(void *arg, int index, int thread)
{
    struct paged_work *w = arg;
    const struct item *it = &w->items[index];
    pack_queries(w, &w->threads[thread], it);
    if (it->partial < 0) {
        walk(w, thread, it);
        return;
    }
    int stride = width_of(w, it) * KERN_LANES;
    for (int p = it->p0; p < it->p1; p++) {
        for (int k = 0; k < it->n_groups; k++) {
            struct lanes l = lanes_of(w, it, k);
            size_t at = (size_t)(it->partial + (p - it->p0) * stride + l.slot * KERN_LANES);
            if (!run_piece(w, thread, it, &l, p, w->partial_m + at, w->partial_l + at,
                           w->partials + at * (size_t)w->shape.dv))
                memset(w->partial_l + at, 0, (size_t)l.n * sizeof(float));
        }
    }
}

static void fold_item(void *arg, int index, int thread)
{
    struct paged_work *w = arg;
    const struct fold *f = &w->folds[index];
    (void)thread;
    if (f->p0 == 0)
        start_lanes(w, f->group, f->lane0, f->n_lanes);
    struct fold_to to = fold_lanes(w, f->group, f->lane0, f->n_lanes);
    for (int p = 0; p < f->n_pieces; p++) {
        size_t at = (size_t)(f->partial + p * f->stride);
        fold_piece(w, &to, w->partial_m + at, w->partial_l + at, w->partials + at * (size_t)w->shape.dv);
    }
    finish_lanes(w, f->group, f->lane0, f->n_lanes, f->p0 + f->n_pieces);
}

/* --- jobs -------------------------------------------------------------------------------------- */

static void flush(struct paged_work *w)
{
    if (w->n_items)
        pool_run(w->step->pool, w->n_items, attend_item, w);
    if (w->n_folds)
        pool_run(w->step->pool, w->n_folds, fold_item, w);
    w->n_items = w->n_folds = w->n_partials = 0;
}

static void add_in_a_row(struct paged_work *w, const struct item *it)
{
    if (w->n_items == MAX_ITEMS)
        flush(w);
    w->items[w->n_items++] = *it;
}

/* How many pieces in a row an item takes when n are spread: more than one where that costs no balance, as
 * the kernel may then fetch the next one ahead. */
static int run_length(int n, int n_threads)
{
    int least = (n + n_threads - 1) / n_threads, length = n / (2 * n_threads);
    for (; length > 1; length--)
        if (((n + length - 1) / length + n_threads - 1) / n_threads * length <= least)
            return length;
    return 1;
}

/* Folds of n pieces from p on, whose results come next in the store. */
static void add_folds(struct paged_work *w, const struct item *it, int p, int n, int stride)
{
    for (int k = 0; k < it->n_groups; k++) {
        struct lanes l = lanes_of(w, it, k);
        for (int lane = 0; lane < l.n; lane += FOLD_LANES)
            w->folds[w->n_folds++] = (struct fold){
                .group = l.group,
                .lane0 = l.lane0 + lane,
                .n_lanes = l.n - lane < FOLD_LANES ? l.n - lane : FOLD_LANES,
                .p0 = p,
                .n_pieces = n,
                .partial = w->n_partials + l.slot * KERN_LANES + lane,
                .stride = stride,
            };
    }
}

/* A thread's share of an item's pieces, of which the last may be short: the nearest whole number. */
static int share_of(const struct paged_work *w, const struct item *it)
{
    const struct lanes l = lanes_of(w, it, 0);
    int n = it->p1 - it->p0, rows = slot_of(w, l.group, l.lane0 + l.n - 1)->seen - it->p0 * ATTN_PIECE;
    rows = rows < n * ATTN_PIECE ? rows : n * ATTN_PIECE;
    int share = (rows + w->n_threads * ATTN_PIECE / 2) / (w->n_threads * ATTN_PIECE);
    return share < 1 ? 1 : share < n ? share : n;
}

/* A thread's share of the pieces is folded on the way, as the first ones can be; then items of `length`
 * pieces, as many at a time as there is room for. What goes through the store may come from another core. */
static void add_spread(struct paged_work *w, const struct item *it, int length)
{
    int stride = width_of(w, it) * KERN_LANES;
    int n_folds = stride / FOLD_LANES; /* at most */
    int max_partials = (int)(w->partial_floats / (size_t)w->shape.dv); /* lanes of this call's width */
    struct item first = *it;
    first.p1 = it->p0 + share_of(w, it);
    add_in_a_row(w, &first);
    for (int p = first.p1; p < it->p1;) {
        int room = (max_partials - w->n_partials) / stride, left = it->p1 - p;
        if (room == 0 || w->n_items == MAX_ITEMS || w->n_folds + n_folds > MAX_ITEMS) {
            flush(w);
            continue;
        }
        int n = left < room ? left : room, items = (MAX_ITEMS - w->n_items) * length;
        n = n < items ? n : items; /* all that fit: two folds of a lane in one job would run side by side */
        add_folds(w, it, p, n, stride);
        for (int end = p + n; p < end;) {
            struct item one = *it;
            one.p0 = p;
            one.p1 = p = p + length < end ? p + length : end;
            one.partial = w->n_partials;
            w->n_partials += stride * (one.p1 - one.p0);
            w->items[w->n_items++] = one;
        }
    }
}

/* Lane groups of all groups of a segment, where they go together; or 0. */
static int together(const struct paged_work *w, int segment)
{
    struct item all = {.segment = segment, .n_groups = w->shape.n_groups};
    int width = w->same_rows ? width_of(w, &all) : 0;
    return width <= ATTN_MAX_GROUPS ? width : 0;
}

/* The items of a segment and group, its last lanes first: they see most. Or all groups of a segment. */
static void add_segment(struct paged_work *w, int segment, int group, const struct balance_plan *plan)
{
    const struct stack_segment *g = &w->stack.segments[segment];
    int heads = group_of(w, group)->n, lane0 = g->slot0 * heads, n_lanes = g->n_slots * heads;
    int n_groups = groups_of(n_lanes), length = run_length((g->p1 - g->p0) * plan->n_parts, w->n_threads);
    bool all = together(w, segment) > 0;
    for (int i = plan->n_parts - 1; i >= 0; i--) {
        int n = all ? w->shape.n_groups : n_groups;
        int from = (int)((int64_t)n * i / plan->n_parts), to = (int)((int64_t)n * (i + 1) / plan->n_parts);
        struct item it = {.segment = segment, .group = group, .n_groups = 1, .p0 = g->p0, .p1 = g->p1,
                          .partial = -1};
        it.lane0 = lane0 + from * KERN_LANES;
        it.n_lanes = (to * KERN_LANES < n_lanes ? to * KERN_LANES : n_lanes) - from * KERN_LANES;
        if (all) {
            heads = group_of(w, from)->n;
            it.group = from;
            it.n_groups = to - from;
            it.lane0 = g->slot0 * heads;
            it.n_lanes = g->n_slots * heads;
        }
        if (it.n_groups == 0)
            continue;
        if (plan->spread)
            add_spread(w, &it, length);
        else
            add_in_a_row(w, &it);
    }
}

/* Segments [first, end) are those of one round. */
static void run_round(struct paged_work *w, int first, int end)
{
    struct balance *b = &w->balance;
    int n_groups = w->shape.n_groups ? w->shape.n_groups : 1;
    b->n_jobs = 0;
    for (int i = first; i < end; i++) {
        const struct stack_segment *g = &w->stack.segments[i];
        int all = together(w, i);
        if (all)
            balance__add(b, i * n_groups, all, g->p1 - g->p0);
        for (int k = 0; k < n_groups && !all; k++)
            balance__add(b, i * n_groups + k, groups_of(g->n_slots * group_of(w, k)->n), g->p1 - g->p0);
    }
    balance__plan(b);
    for (int spread = 0; spread < 2; spread++) {
        for (int i = 0; i < b->n_jobs; i++) {
            const struct balance_job *j = &b->jobs[b->order[i]];
            if (j->plan.spread == (spread == 1))
                add_segment(w, j->id / n_groups, j->id % n_groups, &j->plan);
        }
    }
    flush(w);
}

void paged_attend(struct paged_work *w, const struct step *step, const struct paged_call *call)
{
    int64_t start = profile_start(step->profile);
    w->step = step;
    w->call = call;
    w->shape = *call->shape;
    w->whole = (struct paged_group){0, w->shape.n_heads, 0, w->shape.k_off, w->shape.v_off};
    w->page_rows = step->page_tokens / (uint32_t)(w->shape.tokens_per_row ? w->shape.tokens_per_row : 1);
    for (int t = 0; t < w->n_threads; t++)
        w->threads[t].q_of.n_groups = 0;
    w->same_rows = w->shape.n_groups > 1;
    for (int i = 1; i < w->shape.n_groups; i++)
        w->same_rows = w->same_rows && w->shape.groups[i].plane == w->shape.groups[0].plane;
    w->stack.tokens_per_row = w->shape.tokens_per_row;
    stack__build(&w->stack, call->set, call->choices, (int)w->page_rows);
    const struct stack_segment *list = w->stack.segments;
    for (int i = 0, j; i < w->stack.n_segments; i = j) {
        for (j = i + 1; j < w->stack.n_segments && list[j].round == list[i].round; j++)
            ;
        run_round(w, i, j);
    }
    if (call->own)
        rows_run(step->pool, call->set->n_rows, own_rows, w);
    profile_stop(step->profile, PROFILE_ATTENTION, start);
}

void paged_attention(struct paged_work *w, const struct step *step, const struct row_set *set,
                     size_t plane_offset, const struct paged_choice *choices, const float *q,
                     float *out)
{
    struct paged_call call = {&w->first, set, &plane_offset, choices, q, out, NULL, NULL};
    paged_attend(w, step, &call);
}
