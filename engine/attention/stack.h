/* engine/attention/stack.h - which queries of a step can go through one product, since their sequences
 * keep the same pages.
 *
 * The context is cut at multiples of ATTN_PIECE positions. Spans whose pages of a piece are the same ones,
 * and whose tokens all see the whole of it, form a tree of prefixes; a node of it is a segment: a set of
 * spans and a range of pieces. What only one span sees is a segment too, with that span alone. The segments
 * that a span is in cover its pieces in order, and lie in ascending rounds: those of one round do not depend
 * on each other. Nothing is known beforehand: the tree is read off the block tables at every call.
 *
 * Tokens are numbered anew as slots, so that the tokens of a segment's spans are neighbours. */
#ifndef LATENT_ENGINE_ATTENTION_STACK_H
#define LATENT_ENGINE_ATTENTION_STACK_H

#include <stdbool.h>
#include "engine/attention/paged.h"

struct stack_segment {
    int32_t first, n;   /* of stack.order */
    int32_t p0, p1;     /* pieces [p0, p1) */
    int32_t round;
    int32_t slot0, n_slots;
};

struct stack_slot {
    int32_t row;    /* of the set: queries and outputs */
    int32_t seen;   /* rows that the token sees */
    int32_t pieces; /* of its span */
};

struct stack {
    int32_t *order; /* [spans] indices of spans; all that choose their rows come last */
    struct stack_segment *segments; /* [2 * spans], ascending rounds */
    struct stack_slot *slots;       /* [max_rows] */
    int32_t *slot_at;               /* [spans + 1] first slot of order[i] */
    int n_segments;
    /* the call in hand */
    const struct row_set *set;
    const struct paged_choice *choices;
    int page_tokens;    /* rows of a page */
    int tokens_per_row; /* as in paged_shape; set before stack__build */
};

int stack__init(struct stack *s, int max_spans, int max_rows) LATENT_MUST_CHECK;
void stack__done(struct stack *s);
/* choices as for paged_attention: such a span is a segment of its own, whose pieces are those of its list. */
void stack__build(struct stack *s, const struct row_set *set, const struct paged_choice *choices,
                  int page_tokens);
/* Rows of the context that a span's last token sees. */
int stack__rows_seen(const struct stack *s, int span);
static inline const struct paged_choice *stack__choice(const struct stack *s, int span)
{
    return s->choices && s->choices[span].positions ? &s->choices[span] : NULL;
}

/* Sorts n indices, without allocating; before(arg, a, b): a belongs in front of b, a total order. */
void stack__sort(int32_t *list, int n, bool (*before)(const void *arg, int32_t a, int32_t b),
                 const void *arg);

#endif
