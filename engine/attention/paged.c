/* engine/attention/paged.c - attention over pages; see paged.h.
 *
 * Work items are (span, range of lane groups), and for long contexts (span, range, piece): pieces
 * then land in a bounded store of partial sums and a second job merges them. Which of the two ways
 * an item goes is a question of balance only. */
#include "config.h"

#include "engine/attention/paged.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Lane groups that share one conversion of a page to float32. */
#define GROUPS_PER_ITEM 8
/* Partial sums kept at once, per thread, when long contexts are cut into pieces. */
#define PARTIALS_PER_THREAD 64

struct item {
    int32_t span, g0, n_groups;
    int32_t piece;   /* -1: all pieces, merged on the way */
    int32_t partial; /* index of its first partial group; -1: none */
    int32_t n_pieces;
};

struct thread_scratch {
    float *q;     /* [GROUPS_PER_ITEM][dk][16] */
    float *sum;   /* m, l, acc of GROUPS_PER_ITEM groups */
    float *piece; /* the same, for the piece in hand */
    float *block; /* kern_attn_scratch_floats */
    unsigned char *gathered; /* page_tokens chosen rows */
};

struct paged_work {
    struct paged_shape shape;
    int n_threads, max_items, max_partials;
    size_t group_floats; /* m[16], l[16], acc[dv][16] of one group */
    uint64_t n_bytes;
    struct thread_scratch *threads;
    float *partials; /* [max_partials][group_floats] */
    struct item *items, *merges;
    /* the call in hand */
    const struct step *step;
    const struct row_set *set;
    const struct paged_choice *choices;
    size_t plane_offset;
    const float *q_in;
    float *out;
};

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
                 const float *row, int elems)
{
    const struct span *sp = row_span(set, i);
    uint32_t pos = (uint32_t)(sp->position + (i - sp->first));
    size_t row_bytes = tensor_row_bytes(st->row_type, elems);
    unsigned char *dst = sp->pages[pos / st->page_tokens] + plane_offset +
                         (size_t)(pos % st->page_tokens) * row_bytes;
    if (st->row_type == TT_BF16)
        st->kern->f32_to_bf16(row, elems, dst);
    else
        memcpy(dst, row, row_bytes);
}

static float *floats_new(struct paged_work *w, size_t n)
{
    size_t n_bytes = (n * sizeof(float) + 63) & ~(size_t)63;
    w->n_bytes += n_bytes;
    float *p = aligned_alloc(64, n_bytes);
    if (p)
        memset(p, 0, n_bytes); /* first touch here; lanes beyond a span stay finite */
    return p;
}

int paged_work_new(const struct paged_shape *s, const struct step_limits *lim,
                   struct paged_work **ret)
{
    struct paged_work *w = calloc(1, sizeof(*w));
    if (!w)
        return ERR_NOMEM;
    w->shape = *s;
    w->n_threads = lim->n_threads;
    w->group_floats = (size_t)KERN_LANES * (2 + (size_t)s->dv);
    w->max_partials = PARTIALS_PER_THREAD * lim->n_threads;
    /* Each span rounds its lanes and its chunks up once; pieces are bounded by the partials. */
    int64_t groups = ((int64_t)lim->max_rows * s->n_heads + KERN_LANES - 1) / KERN_LANES;
    w->max_items = (int)(groups + 2 * lim->max_seqs + w->max_partials);
    w->items = calloc((size_t)w->max_items, sizeof(*w->items));
    w->merges = calloc((size_t)w->max_items, sizeof(*w->merges));
    w->threads = calloc((size_t)w->n_threads, sizeof(*w->threads));
    w->partials = floats_new(w, (size_t)w->max_partials * w->group_floats);
    if (!w->items || !w->merges || !w->threads || !w->partials)
        goto fail;
    for (int t = 0; t < w->n_threads; t++) {
        struct thread_scratch *ts = &w->threads[t];
        ts->q = floats_new(w, (size_t)GROUPS_PER_ITEM * (size_t)s->dk * KERN_LANES);
        ts->sum = floats_new(w, GROUPS_PER_ITEM * w->group_floats);
        ts->piece = floats_new(w, GROUPS_PER_ITEM * w->group_floats);
        ts->block = floats_new(w, kern_attn_scratch_floats(s->row_elems, (int)lim->page_tokens));
        ts->gathered =
            (unsigned char *)floats_new(w, (lim->page_tokens * s->row_bytes + 3) / sizeof(float));
        if (!ts->q || !ts->sum || !ts->piece || !ts->block || !ts->gathered)
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
        free(w->threads[t].sum);
        free(w->threads[t].piece);
        free(w->threads[t].block);
        free(w->threads[t].gathered);
    }
    free(w->threads);
    free(w->partials);
    free(w->items);
    free(w->merges);
    free(w);
}

uint64_t paged_work_bytes(const struct paged_work *w)
{
    return w->n_bytes;
}

/* Sums of n groups laid out as all m, all l, all acc, so that kernels see contiguous arrays. */
static float *sum_m(float *s, int n_groups)
{
    (void)n_groups;
    return s;
}
static float *sum_l(float *s, int n_groups)
{
    return s + (size_t)n_groups * KERN_LANES;
}
static float *sum_acc(float *s, int n_groups)
{
    return s + 2 * (size_t)n_groups * KERN_LANES;
}

static void sum_reset(const struct paged_work *w, float *s, int n_groups)
{
    float *m = sum_m(s, n_groups);
    for (int i = 0; i < n_groups * KERN_LANES; i++)
        m[i] = -INFINITY;
    memset(sum_l(s, n_groups), 0,
           ((size_t)n_groups * w->group_floats - (size_t)n_groups * KERN_LANES) * sizeof(float));
}

/* Packs the queries of a range of lane groups as [group][dk][16], scaled. */
static void pack_queries(const struct paged_work *w, const struct span *sp, int g0, int n_groups,
                         float *dst)
{
    const struct paged_shape *s = &w->shape;
    int n_lanes = sp->n_tokens * s->n_heads;
    const float *base = w->q_in + (size_t)sp->first * (size_t)s->n_heads * (size_t)s->dk;
    for (int g = 0; g < n_groups; g++) {
        float *q = dst + (size_t)g * (size_t)s->dk * KERN_LANES;
        for (int i = 0; i < KERN_LANES; i++) {
            int lane = (g0 + g) * KERN_LANES + i;
            if (lane >= n_lanes) {
                for (int d = 0; d < s->dk; d++)
                    q[(size_t)d * KERN_LANES + (size_t)i] = 0.0f;
                continue;
            }
            const float *src = base + (size_t)lane * (size_t)s->dk;
            for (int d = 0; d < s->dk; d++)
                q[(size_t)d * KERN_LANES + (size_t)i] = src[d] * s->scale;
        }
    }
}

static const struct paged_choice *choice_of(const struct paged_work *w, int span)
{
    return w->choices && w->choices[span].positions ? &w->choices[span] : NULL;
}

/* Rows that token i of a span sees. */
static int rows_seen(const struct paged_work *w, int span, int i)
{
    const struct paged_choice *c = choice_of(w, span);
    return c ? c->n : w->set->spans[span].position + i + 1;
}

/* Copies n chosen rows side by side. */
static void gather(const struct paged_work *w, const struct span *sp, const int32_t *positions, int n,
                   unsigned char *dst)
{
    uint32_t page_tokens = w->step->page_tokens;
    size_t row_bytes = w->shape.row_bytes;
    for (int i = 0; i < n; i++) {
        uint32_t t = (uint32_t)positions[i];
        memcpy(dst + (size_t)i * row_bytes,
               sp->pages[t / page_tokens] + w->plane_offset + (size_t)(t % page_tokens) * row_bytes,
               row_bytes);
    }
}

/* One piece of the context against packed queries, from scratch into `sum`. */
static void run_piece(const struct paged_work *w, int span, int g0, int n_groups, int piece,
                      const struct thread_scratch *ts, float *sum)
{
    const struct paged_shape *s = &w->shape;
    const struct step *st = w->step;
    const struct span *sp = &w->set->spans[span];
    const struct paged_choice *chosen = choice_of(w, span);
    int page_tokens = (int)st->page_tokens;
    int n_lanes = sp->n_tokens * s->n_heads;
    int last_lane = (g0 + n_groups) * KERN_LANES - 1;
    if (last_lane >= n_lanes)
        last_lane = n_lanes - 1;
    int visible = rows_seen(w, span, last_lane / s->n_heads); /* rows that any lane here sees */
    int end = (piece + 1) * PAGED_PIECE_TOKENS;
    if (end > visible)
        end = visible;
    int32_t limit[GROUPS_PER_ITEM * KERN_LANES];

    sum_reset(w, sum, n_groups);
    for (int t0 = piece * PAGED_PIECE_TOKENS; t0 < end; t0 += page_tokens) {
        int n_rows = end - t0 < page_tokens ? end - t0 : page_tokens;
        for (int i = 0; i < n_groups * KERN_LANES; i++) {
            int lane = g0 * KERN_LANES + i;
            limit[i] = lane < n_lanes ? rows_seen(w, span, lane / s->n_heads) - t0 : 0;
        }
        if (chosen)
            gather(w, sp, chosen->positions + t0, n_rows, ts->gathered);
        struct attn_block b = {
            .rows = chosen ? ts->gathered : sp->pages[t0 / page_tokens] + w->plane_offset,
            .row_bytes = s->row_bytes,
            .row_type = st->row_type,
            .n_rows = n_rows,
            .dk = s->dk,
            .dv = s->dv,
            .k_off = s->k_off,
            .v_off = s->v_off,
            .n_groups = n_groups,
            .q = ts->q,
            .limit = limit,
            .m = sum_m(sum, n_groups),
            .l = sum_l(sum, n_groups),
            .acc = sum_acc(sum, n_groups),
            .scratch = ts->block,
        };
        st->kern->attn_block(&b);
    }
}

static void merge_into(const struct paged_work *w, float *sum, float *piece, int n_groups)
{
    w->step->kern->attn_merge(n_groups, w->shape.dv, sum_m(sum, n_groups), sum_l(sum, n_groups),
                              sum_acc(sum, n_groups), sum_m(piece, n_groups),
                              sum_l(piece, n_groups), sum_acc(piece, n_groups));
}

/* Divides by l and writes the lanes' rows. */
static void finish(const struct paged_work *w, const struct span *sp, int g0, int n_groups,
                   float *sum)
{
    const struct paged_shape *s = &w->shape;
    int n_lanes = sp->n_tokens * s->n_heads;
    float *base = w->out + (size_t)sp->first * (size_t)s->n_heads * (size_t)s->dv;
    for (int g = 0; g < n_groups; g++) {
        const float *l = sum_l(sum, n_groups) + g * KERN_LANES;
        const float *acc = sum_acc(sum, n_groups) + (size_t)g * (size_t)s->dv * KERN_LANES;
        for (int i = 0; i < KERN_LANES; i++) {
            int lane = (g0 + g) * KERN_LANES + i;
            if (lane >= n_lanes)
                return;
            float *dst = base + (size_t)lane * (size_t)s->dv;
            float inv = 1.0f / l[i];
            for (int d = 0; d < s->dv; d++)
                dst[d] = acc[(size_t)d * KERN_LANES + (size_t)i] * inv;
        }
    }
}

static void attend_item(void *arg, int index, int thread)
{
    struct paged_work *w = arg;
    const struct item *it = &w->items[index];
    const struct span *sp = &w->set->spans[it->span];
    struct thread_scratch *ts = &w->threads[thread];
    pack_queries(w, sp, it->g0, it->n_groups, ts->q);
    if (it->piece >= 0) {
        run_piece(w, it->span, it->g0, it->n_groups, it->piece, ts,
                  w->partials + (size_t)it->partial * w->group_floats);
        return;
    }
    run_piece(w, it->span, it->g0, it->n_groups, 0, ts, ts->sum);
    for (int p = 1; p < it->n_pieces; p++) {
        run_piece(w, it->span, it->g0, it->n_groups, p, ts, ts->piece);
        merge_into(w, ts->sum, ts->piece, it->n_groups);
    }
    finish(w, sp, it->g0, it->n_groups, ts->sum);
}

static void merge_item(void *arg, int index, int thread)
{
    struct paged_work *w = arg;
    const struct item *it = &w->merges[index];
    float *sum = w->partials + (size_t)it->partial * w->group_floats;
    (void)thread;
    for (int p = 1; p < it->n_pieces; p++)
        merge_into(w, sum, sum + (size_t)p * (size_t)it->n_groups * w->group_floats, it->n_groups);
    finish(w, &w->set->spans[it->span], it->g0, it->n_groups, sum);
}

void paged_attention(struct paged_work *w, const struct step *step, const struct row_set *set,
                     size_t plane_offset, const struct paged_choice *choices, const float *q,
                     float *out)
{
    const struct paged_shape *s = &w->shape;
    int64_t total = 0;
    w->step = step;
    w->set = set;
    w->choices = choices;
    w->plane_offset = plane_offset;
    w->q_in = q;
    w->out = out;
    for (int i = 0; i < set->n_spans; i++) {
        const struct span *sp = &set->spans[i];
        int64_t groups = (sp->n_tokens * s->n_heads + KERN_LANES - 1) / KERN_LANES;
        total += groups * rows_seen(w, i, sp->n_tokens - 1);
    }
    /* An item above this share of the work is worth cutting into pieces. */
    int64_t share = total / (2 * w->n_threads) + 1;
    int n_items = 0, n_merges = 0, n_partials = 0;
    for (int i = 0; i < set->n_spans; i++) {
        const struct span *sp = &set->spans[i];
        int groups = (sp->n_tokens * s->n_heads + KERN_LANES - 1) / KERN_LANES;
        int rows = rows_seen(w, i, sp->n_tokens - 1);
        int per_item = (int)(share / rows);
        per_item = per_item < 1 ? 1 : per_item > GROUPS_PER_ITEM ? GROUPS_PER_ITEM : per_item;
        for (int g = 0; g < groups; g += per_item) {
            struct item it = {.span = i, .g0 = g, .piece = -1, .partial = -1};
            it.n_groups = groups - g < per_item ? groups - g : per_item;
            int last = ((g + it.n_groups) * KERN_LANES - 1) / s->n_heads;
            if (last >= sp->n_tokens)
                last = sp->n_tokens - 1;
            it.n_pieces = (rows_seen(w, i, last) - 1) / PAGED_PIECE_TOKENS + 1;
            bool cut = w->n_threads > 1 && it.n_pieces > 1 &&
                       (int64_t)it.n_groups * rows > share / 2 &&
                       n_partials + it.n_groups * it.n_pieces <= w->max_partials;
            if (!cut) {
                w->items[n_items++] = it;
                continue;
            }
            it.partial = n_partials;
            w->merges[n_merges++] = it;
            n_partials += it.n_groups * it.n_pieces;
            for (int p = 0; p < it.n_pieces; p++) {
                it.piece = p;
                w->items[n_items] = it;
                w->items[n_items++].partial = it.partial + p * it.n_groups;
            }
        }
    }
    pool_run(step->pool, n_items, attend_item, w);
    if (n_merges)
        pool_run(step->pool, n_merges, merge_item, w);
}
