/* engine/draft.h - a guess at the tokens that come next, from those of the sequence itself (prompt lookup
 * decoding; inference with reference, arXiv 2304.04487) or from a text that it is expected to be like. */
#ifndef LATENT_ENGINE_DRAFT_H
#define LATENT_ENGINE_DRAFT_H

#include <stdint.h>

/* Shortest end of a sequence that is looked for, the longest that makes a difference, and how far back. */
#define DRAFT_LEAST 2
#define DRAFT_MOST 16
#define DRAFT_WINDOW 65536

/* What followed where the longest end of tokens[0..n) stood before, of equally long ones the last, written
 * behind tokens, where there is room for max. Where that place is so near that the draft reaches its own
 * beginning, it goes on as a repetition. Returns how many: max, or 0 where no end of DRAFT_LEAST tokens was
 * there before. Any thread. */
int draft_lookup(int32_t *tokens, int n, int max);
/* Where text[0..n_text) goes on behind the longest end of tokens[0..n), of equally long ones the first from
 * `from` on, then from the beginning; -1: no end of DRAFT_LEAST tokens is in it. Any thread. */
int draft_place(const int32_t *text, int from, int n_text, const int32_t *tokens, int n);

#endif
