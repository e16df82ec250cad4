/* engine/attention/stack.c - see stack.h.
 *
 * A set of spans is followed piece by piece while all of them share the pages; where they part, or where
 * one of them ends, the set is sorted by its page pointers and each run of equal ones goes on as a set of
 * its own, one round later. Sets are ranges of one array and only ever reordered inside, so a parent's
 * range stays the union of its children's. Each set is smaller than the one it came from, so that there
 * are at most twice as many as spans. Segments are worked off as a queue, which puts them in order of
 * their rounds. */
#include "config.h"

#include "engine/attention/stack.h"

#include <stdlib.h>
#include <string.h>

int stack__init(struct stack *s, int max_spans, int max_rows)
{
    memset(s, 0, sizeof(*s));
    s->order = calloc((size_t)max_spans, sizeof(*s->order));
    s->segments = calloc(2 * (size_t)max_spans, sizeof(*s->segments));
    s->slots = calloc((size_t)max_rows, sizeof(*s->slots));
    s->slot_at = calloc((size_t)max_spans + 1, sizeof(*s->slot_at));
    return s->order && s->segments && s->slots && s->slot_at ? 0 : ERR_NOMEM;
}

void stack__done(struct stack *s)
{
    free(s->order);
    free(s->segments);
    free(s->slots);
    free(s->slot_at);
}

void stack__sort(int32_t *list, int n, bool (*before)(const void *arg, int32_t a, int32_t b),
                 const void *arg)
{
    int gap = 1;
    while (gap < n / 3)
        gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3) {
        for (int i = gap; i < n; i++) {
            int32_t v = list[i];
            int j = i;
            for (; j >= gap && before(arg, v, list[j - gap]); j -= gap)
                list[j] = list[j - gap];
            list[j] = v;
        }
    }
}

/* Rows that a token at a position sees, where it does not choose them. */
static int seen_at(const struct stack *s, int position)
{
    return s->tokens_per_row ? position / s->tokens_per_row : position + 1;
}

int stack__rows_seen(const struct stack *s, int span)
{
    const struct paged_choice *c = stack__choice(s, span);
    const struct span *sp = &s->set->spans[span];
    return c ? c->n : seen_at(s, sp->position + sp->n_tokens - 1);
}

static int pieces_of(const struct stack *s, int span)
{
    return (stack__rows_seen(s, span) + ATTN_PIECE - 1) / ATTN_PIECE;
}

/* Pieces that every token of the span sees whole. */
static int whole_pieces(const struct stack *s, int span)
{
    return seen_at(s, s->set->spans[span].position) / ATTN_PIECE;
}

/* Compares the pages under a piece that both spans see whole. */
static int compare_pages(const struct stack *s, int piece, int a, int b)
{
    unsigned char *const *pa = s->set->spans[a].pages, *const *pb = s->set->spans[b].pages;
    int i = piece * ATTN_PIECE / s->page_tokens;
    int last = ((piece + 1) * ATTN_PIECE - 1) / s->page_tokens;
    while (i < last && pa[i] == pb[i])
        i++;
    uintptr_t x = (uintptr_t)pa[i], y = (uintptr_t)pb[i];
    return x < y ? -1 : x > y;
}

struct at_piece {
    const struct stack *s;
    int piece;
};

/* Spans that see the piece whole, by its pages; then the others. */
static bool before(const void *arg, int32_t a, int32_t b)
{
    const struct at_piece *at = arg;
    bool wa = whole_pieces(at->s, a) > at->piece, wb = whole_pieces(at->s, b) > at->piece;
    if (wa != wb)
        return wa;
    int c = wa ? compare_pages(at->s, at->piece, a, b) : 0;
    return c ? c < 0 : a < b;
}

static void push(struct stack *s, int first, int n, int p0, int round)
{
    s->segments[s->n_segments++] =
        (struct stack_segment){.first = first, .n = n, .p0 = p0, .p1 = p0, .round = round};
}

/* Pushes what follows at a piece for the spans in order[first .. first + n). */
static void split(struct stack *s, int first, int n, int piece, int round)
{
    struct at_piece at = {s, piece};
    int end = first + n;
    stack__sort(s->order + first, n, before, &at);
    for (int i = first; i < end;) {
        int j = i + 1, span = s->order[i];
        if (whole_pieces(s, span) > piece) {
            while (j < end && whole_pieces(s, s->order[j]) > piece &&
                   compare_pages(s, piece, span, s->order[j]) == 0)
                j++;
            push(s, i, j - i, piece, round);
        } else if (pieces_of(s, span) > piece) {
            push(s, i, 1, piece, round);
        }
        i = j;
    }
}

/* How far the spans of a segment go on together. */
static void extend(const struct stack *s, struct stack_segment *g)
{
    const int32_t *spans = s->order + g->first;
    if (g->n == 1) {
        g->p1 = pieces_of(s, spans[0]);
        return;
    }
    int whole = whole_pieces(s, spans[0]);
    for (int i = 1; i < g->n; i++) {
        int w = whole_pieces(s, spans[i]);
        whole = w < whole ? w : whole;
    }
    for (g->p1 = g->p0 + 1; g->p1 < whole; g->p1++)
        for (int i = 1; i < g->n; i++)
            if (compare_pages(s, g->p1, spans[0], spans[i]))
                return;
}

static void fill_slots(struct stack *s)
{
    int n = 0;
    for (int i = 0; i < s->set->n_spans; i++) {
        int span = s->order[i];
        const struct span *sp = &s->set->spans[span];
        const struct paged_choice *c = stack__choice(s, span);
        int pieces = pieces_of(s, span);
        s->slot_at[i] = n;
        for (int t = 0; t < sp->n_tokens; t++)
            s->slots[n++] =
                (struct stack_slot){sp->first + t, c ? c->n : seen_at(s, sp->position + t), pieces};
    }
    s->slot_at[s->set->n_spans] = n;
    for (int i = 0; i < s->n_segments; i++) {
        struct stack_segment *g = &s->segments[i];
        g->slot0 = s->slot_at[g->first];
        g->n_slots = s->slot_at[g->first + g->n] - g->slot0;
    }
}

void stack__build(struct stack *s, const struct row_set *set, const struct paged_choice *choices,
                  int page_tokens)
{
    int n = 0, last = set->n_spans;
    s->set = set;
    s->choices = choices;
    s->page_tokens = page_tokens;
    s->n_segments = 0;
    for (int i = 0; i < set->n_spans; i++) {
        if (!stack__choice(s, i)) {
            s->order[n++] = i;
            continue;
        }
        s->order[--last] = i;
        push(s, last, 1, 0, 0);
    }
    split(s, 0, n, 0, 0);
    for (int i = 0; i < s->n_segments; i++) {
        struct stack_segment *g = &s->segments[i];
        extend(s, g);
        if (g->n > 1)
            split(s, g->first, g->n, g->p1, g->round + 1);
    }
    fill_slots(s);
}
