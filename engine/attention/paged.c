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
/* Lanes of one item of the fold. */
#define FOLD_LANES 8

/* Some lanes of a segment and some of its pieces; lanes are numbered slot * heads + head. */
struct item {
    int32_t segment;
    int32_t lane0, n_lanes;
    int32_t p0, p1;
    int32_t partial; /* place in the store of its first lane and piece; -1: folded on the way */
};

struct fold {
    int32_t segment;
    int32_t lane0, n_lanes;
    int32_t p0, n_pieces;
    int32_t partial, stride; /* of its first lane at p0; lanes from piece to piece */
};

struct thread_scratch {
    unsigned char *q;  /* packed queries of the lanes below */
    int32_t q_lane0, q_lanes; /* n 0: none */
    float *m, *l, *o;  /* a piece's result: [CALL_LANES], [CALL_LANES], [CALL_LANES][dv] */
    void *kernel;      /* kern_attn_scratch_bytes */
    unsigned char *gathered; /* ATTN_PIECE chosen rows */
};

struct paged_work {
    struct paged_shape shape;
    int n_threads;
    int max_partials; /* lanes */
    uint64_t n_bytes;
    struct thread_scratch *threads;
    float *m, *l;     /* running sums of all lanes */
    float *partial_m, *partial_l, *partials; /* [max_partials], [..], [..][dv] */
    struct stack stack;
    struct balance balance;
    struct item *items;
    struct fold *folds;
    int n_items, n_folds, n_partials;
    /* the call in hand */
    const struct step *step;
    const struct row_set *set;
    size_t plane_offset;
    const float *q_in;
    float *out;
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

/* --- work space -------------------------------------------------------------------------------- */

static void *bytes_new(struct paged_work *w, size_t n_bytes)
{
    n_bytes = (n_bytes + 63) & ~(size_t)63;
    w->n_bytes += n_bytes;
    return aligned_alloc(64, n_bytes);
}

int paged_work_new(const struct paged_shape *s, const struct step_limits *lim,
                   struct paged_work **ret)
{
    struct paged_work *w = calloc(1, sizeof(*w));
    if (!w)
        return ERR_NOMEM;
    size_t f = sizeof(float), dv = (size_t)s->dv, lanes = (size_t)lim->max_rows * (size_t)s->n_heads;
    w->shape = *s;
    w->n_threads = lim->n_threads;
    size_t n = STORE_BYTES * (size_t)lim->n_threads / (dv * f);
    w->max_partials = n < CALL_LANES ? CALL_LANES : (int)n / CALL_LANES * CALL_LANES;
    size_t partials = (size_t)w->max_partials;
    w->m = bytes_new(w, lanes * f);
    w->l = bytes_new(w, lanes * f);
    w->partial_m = bytes_new(w, partials * f);
    w->partial_l = bytes_new(w, partials * f);
    w->partials = bytes_new(w, partials * dv * f);
    w->items = bytes_new(w, MAX_ITEMS * sizeof(*w->items));
    w->folds = bytes_new(w, MAX_ITEMS * sizeof(*w->folds));
    w->threads = calloc((size_t)w->n_threads, sizeof(*w->threads));
    if (stack__init(&w->stack, lim->max_seqs, lim->max_rows) < 0 ||
        balance__init(&w->balance, 2 * lim->max_seqs, lim->n_threads) < 0 || !w->m || !w->l ||
        !w->partial_m || !w->partial_l || !w->partials || !w->items || !w->folds || !w->threads)
        goto fail;
    for (int t = 0; t < w->n_threads; t++) {
        struct thread_scratch *ts = &w->threads[t];
        ts->q = bytes_new(w, ATTN_MAX_GROUPS * kern_attn_query_bytes(s->dk));
        ts->m = bytes_new(w, CALL_LANES * f);
        ts->l = bytes_new(w, CALL_LANES * f);
        ts->o = bytes_new(w, CALL_LANES * dv * f);
        ts->kernel = bytes_new(w, kern_attn_scratch_bytes(s->format.elems, s->dk, s->dv));
        ts->gathered = bytes_new(w, ATTN_PIECE * s->format.row_bytes);
        if (!ts->q || !ts->m || !ts->l || !ts->o || !ts->kernel || !ts->gathered)
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

static const struct stack_slot *slot_of(const struct paged_work *w, int lane)
{
    return &w->stack.slots[lane / w->shape.n_heads];
}

/* Where a lane's query and output are, counted in heads of the rows of the set. */
static size_t lane_at(const struct paged_work *w, int lane)
{
    int heads = w->shape.n_heads;
    return (size_t)w->stack.slots[lane / heads].row * (size_t)heads + (size_t)(lane % heads);
}

static float *lane_out(const struct paged_work *w, int lane)
{
    return w->out + lane_at(w, lane) * (size_t)w->shape.dv;
}

static void pack_queries(const struct paged_work *w, struct thread_scratch *ts, int lane0, int n)
{
    size_t dk = (size_t)w->shape.dk;
    if (ts->q_lanes == n && ts->q_lane0 == lane0)
        return; /* the next piece of the same lanes */
    for (int g = 0; g < groups_of(n); g++) {
        const float *q[KERN_LANES];
        for (int i = 0; i < KERN_LANES; i++) {
            int lane = g * KERN_LANES + i;
            q[i] = lane < n ? w->q_in + lane_at(w, lane0 + lane) * dk : NULL;
        }
        w->step->kern->attn_pack(q, w->shape.dk, w->shape.scale,
                                 ts->q + (size_t)g * kern_attn_query_bytes(w->shape.dk));
    }
    ts->q_lane0 = lane0;
    ts->q_lanes = n;
}

/* Lanes that start have no sum yet. */
static void start_lanes(const struct paged_work *w, int lane0, int n)
{
    for (int i = 0; i < n; i++) {
        w->m[lane0 + i] = -INFINITY;
        w->l[lane0 + i] = 0.0f;
    }
}

static void fold_lane(const struct paged_work *w, int lane, float m, float l, const float *o)
{
    w->step->kern->attn_fold(w->shape.dv, &w->m[lane], &w->l[lane], lane_out(w, lane), m, l, o);
}

typedef float four __attribute__((vector_size(16), aligned(4), may_alias));

/* Divides by l where no piece is left. */
static void finish_lanes(const struct paged_work *w, int lane0, int n, int p1)
{
    for (int i = lane0; i < lane0 + n; i++) {
        if (slot_of(w, i)->pieces != p1)
            continue;
        float *o = lane_out(w, i), inv = 1.0f / w->l[i];
        int r = 0;
        for (; r + 4 <= w->shape.dv; r += 4)
            *(four *)(o + r) *= inv;
        for (; r < w->shape.dv; r++)
            o[r] *= inv;
    }
}

/* --- a piece ----------------------------------------------------------------------------------- */

/* Copies n chosen rows side by side. */
static void gather(const struct paged_work *w, const struct span *sp, const int32_t *positions, int n,
                   unsigned char *dst)
{
    uint32_t page_tokens = w->step->page_tokens;
    size_t row_bytes = w->shape.format.row_bytes;
    for (int i = 0; i < n; i++) {
        uint32_t t = (uint32_t)positions[i];
        memcpy(dst + (size_t)i * row_bytes,
               sp->pages[t / page_tokens] + w->plane_offset + (size_t)(t % page_tokens) * row_bytes,
               row_bytes);
    }
}

/* One piece against packed lanes, from scratch. false: none of them sees a row of it. */
static bool run_piece(const struct paged_work *w, const struct thread_scratch *ts,
                      const struct item *it, int piece, float *m, float *l, float *o)
{
    const struct paged_shape *s = &w->shape;
    int span = w->stack.order[w->stack.segments[it->segment].first], t0 = piece * ATTN_PIECE;
    const struct span *sp = &w->set->spans[span];
    const struct paged_choice *chosen = stack__choice(&w->stack, span);
    const unsigned char *gathered = ts->gathered;
    int32_t limit[CALL_LANES];
    int n_groups = groups_of(it->n_lanes), most = 0; /* rows from here on that a lane sees */

    for (int i = 0; i < n_groups * KERN_LANES; i++) {
        limit[i] = i < it->n_lanes ? slot_of(w, it->lane0 + i)->seen - t0 : 0;
        most = limit[i] > most ? limit[i] : most;
    }
    if (most == 0)
        return false;
    int n_rows = most < ATTN_PIECE ? most : ATTN_PIECE;
    /* The item's next piece, which the kernel may fetch meanwhile. */
    int n_ahead = chosen || piece + 1 == it->p1 ? 0 : most - n_rows;
    if (chosen)
        gather(w, sp, chosen->positions + t0, n_rows, ts->gathered);
    struct attn_piece p = {
        .pages = chosen ? &gathered : (const unsigned char *const *)sp->pages,
        .offset = chosen ? 0 : w->plane_offset,
        .page_tokens = chosen ? ATTN_PIECE : (int)w->step->page_tokens,
        .first = chosen ? 0 : t0,
        .n_rows = n_rows,
        .n_ahead = n_ahead < ATTN_PIECE ? n_ahead : ATTN_PIECE,
        .fetched = chosen || piece > it->p0,
        .format = s->format,
        .dk = s->dk,
        .dv = s->dv,
        .k_off = s->k_off,
        .v_off = s->v_off,
        .n_groups = n_groups,
        .q = ts->q,
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
static bool are_neighbours(const struct paged_work *w, int lane0, int n)
{
    int first = lane0 / w->shape.n_heads, last = (lane0 + n - 1) / w->shape.n_heads;
    for (int i = first; i < last; i++)
        if (w->stack.slots[i + 1].row != w->stack.slots[i].row + 1)
            return false;
    return true;
}

/* The pieces of an item in order. */
static void walk(const struct paged_work *w, const struct thread_scratch *ts, const struct item *it)
{
    size_t dv = (size_t)w->shape.dv;
    /* The first piece of lanes whose outputs are neighbours is the sum as it stands. */
    bool direct = are_neighbours(w, it->lane0, it->n_lanes);
    if (it->p0 == 0)
        start_lanes(w, it->lane0, it->n_lanes);
    for (int p = it->p0; p < it->p1; p++) {
        bool straight = p == 0 && direct;
        if (!run_piece(w, ts, it, p, ts->m, ts->l, straight ? lane_out(w, it->lane0) : ts->o))
            continue;
        for (int i = 0; i < it->n_lanes; i++) {
            if (straight) {
                w->m[it->lane0 + i] = ts->m[i];
                w->l[it->lane0 + i] = ts->l[i];
            } else {
                fold_lane(w, it->lane0 + i, ts->m[i], ts->l[i], ts->o + (size_t)i * dv);
            }
        }
    }
    finish_lanes(w, it->lane0, it->n_lanes, it->p1);
}

static void attend_item(void *arg, int index, int thread)
{
    struct paged_work *w = arg;
    const struct item *it = &w->items[index];
    struct thread_scratch *ts = &w->threads[thread];
    pack_queries(w, ts, it->lane0, it->n_lanes);
    if (it->partial < 0) {
        walk(w, ts, it);
        return;
    }
    size_t at = (size_t)it->partial;
    for (int p = it->p0; p < it->p1; p++, at += (size_t)groups_of(it->n_lanes) * KERN_LANES)
        if (!run_piece(w, ts, it, p, w->partial_m + at, w->partial_l + at,
                       w->partials + at * (size_t)w->shape.dv))
            memset(w->partial_l + at, 0, (size_t)it->n_lanes * sizeof(float));
}

static void fold_item(void *arg, int index, int thread)
{
    struct paged_work *w = arg;
    const struct fold *f = &w->folds[index];
    (void)thread;
    if (f->p0 == 0)
        start_lanes(w, f->lane0, f->n_lanes);
    for (int i = 0; i < f->n_lanes; i++) {
        for (int p = 0; p < f->n_pieces; p++) {
            size_t at = (size_t)(f->partial + p * f->stride + i);
            fold_lane(w, f->lane0 + i, w->partial_m[at], w->partial_l[at],
                      w->partials + at * (size_t)w->shape.dv);
        }
    }
    finish_lanes(w, f->lane0, f->n_lanes, f->p0 + f->n_pieces);
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

/* Items of `length` pieces, as many at a time as there is room for. */
static void add_spread(struct paged_work *w, const struct item *it, int length)
{
    int stride = groups_of(it->n_lanes) * KERN_LANES;
    int n_folds = (it->n_lanes + FOLD_LANES - 1) / FOLD_LANES;
    for (int p = it->p0; p < it->p1;) {
        int room = (w->max_partials - w->n_partials) / stride, left = it->p1 - p;
        if (room == 0 || w->n_items == MAX_ITEMS || w->n_folds + n_folds > MAX_ITEMS) {
            flush(w);
            continue;
        }
        int n = left < room ? left : room;
        n = n < MAX_ITEMS - w->n_items ? n : MAX_ITEMS - w->n_items;
        for (int lane = 0; lane < it->n_lanes; lane += FOLD_LANES)
            w->folds[w->n_folds++] = (struct fold){
                .segment = it->segment,
                .lane0 = it->lane0 + lane,
                .n_lanes = it->n_lanes - lane < FOLD_LANES ? it->n_lanes - lane : FOLD_LANES,
                .p0 = p,
                .n_pieces = n,
                .partial = w->n_partials + lane,
                .stride = stride,
            };
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

/* The items of a segment, its last lanes first: they see most. */
static void add_segment(struct paged_work *w, int segment, const struct balance_plan *plan)
{
    const struct stack_segment *g = &w->stack.segments[segment];
    int lane0 = g->slot0 * w->shape.n_heads, n_lanes = g->n_slots * w->shape.n_heads;
    int n_groups = groups_of(n_lanes), length = run_length((g->p1 - g->p0) * plan->n_parts, w->n_threads);
    for (int i = plan->n_parts - 1; i >= 0; i--) {
        int from = (int)((int64_t)n_groups * i / plan->n_parts) * KERN_LANES;
        int to = (int)((int64_t)n_groups * (i + 1) / plan->n_parts) * KERN_LANES;
        struct item it = {.segment = segment, .lane0 = lane0 + from, .p0 = g->p0, .p1 = g->p1,
                          .partial = -1};
        it.n_lanes = (to < n_lanes ? to : n_lanes) - from;
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
    b->n_jobs = 0;
    for (int i = first; i < end; i++) {
        const struct stack_segment *g = &w->stack.segments[i];
        balance__add(b, i, groups_of(g->n_slots * w->shape.n_heads), g->p1 - g->p0);
    }
    balance__plan(b);
    for (int spread = 0; spread < 2; spread++)
        for (int i = 0; i < b->n_jobs; i++)
            if (b->jobs[b->order[i]].plan.spread == (spread == 1))
                add_segment(w, b->jobs[b->order[i]].id, &b->jobs[b->order[i]].plan);
    flush(w);
}

void paged_attention(struct paged_work *w, const struct step *step, const struct row_set *set,
                     size_t plane_offset, const struct paged_choice *choices, const float *q,
                     float *out)
{
    int64_t start = profile_start(step->profile);
    w->step = step;
    w->set = set;
    w->plane_offset = plane_offset;
    w->q_in = q;
    w->out = out;
    for (int t = 0; t < w->n_threads; t++)
        w->threads[t].q_lanes = 0;
    stack__build(&w->stack, set, choices, (int)step->page_tokens);
    const struct stack_segment *list = w->stack.segments;
    for (int i = 0, j; i < w->stack.n_segments; i = j) {
        for (j = i + 1; j < w->stack.n_segments && list[j].round == list[i].round; j++)
            ;
        run_round(w, i, j);
    }
    profile_stop(step->profile, PROFILE_ATTENTION, start);
}
