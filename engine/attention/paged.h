/* engine/attention/paged.h - softmax attention of many query heads over paged cache rows, the core
 * that mechanisms share: o_h = softmax(q_h . key(row_t)) value(row_t), key and value being segments
 * of the row.
 *
 * A lane is one (token, head). Lanes of a span are numbered token-major and taken 16 at a time. The
 * context is cut at fixed absolute positions: blocks of one page, pieces of PAGED_PIECE_TOKENS. Each
 * piece is computed from scratch and merged into the sum of those before it, in order, so that a
 * lane's result depends on its query, its position and the rows alone: not on the batch, the chunk,
 * the number of threads, or whether pieces were computed side by side.
 *
 * Where a mechanism chooses the rows that a token sees, its span is that token alone and names them
 * (struct paged_choice); they are gathered block by block and taken like a context of that length. */
#ifndef LATENT_ENGINE_ATTENTION_PAGED_H
#define LATENT_ENGINE_ATTENTION_PAGED_H

#include "engine/step.h"

/* Long enough that merging is noise, short enough to spread one long sequence over threads. */
#define PAGED_PIECE_TOKENS 512

struct paged_shape {
    int n_heads;
    int dk, dv, k_off, v_off; /* elements of a row */
    int row_elems;
    size_t row_bytes;
    float scale; /* of the scores */
};

/* The rows of a span: NULL says all up to each token's own. */
struct paged_choice {
    const int32_t *positions; /* [n] ascending; the span has one token */
    int32_t n;
};

/* Writes the cache row of row i of the set, one element per value. */
void paged_store(const struct step *step, const struct row_set *set, int i, size_t plane_offset,
                 const float *row, int elems);

struct paged_work; /* per-thread scratch and partial sums */

int paged_work_new(const struct paged_shape *s, const struct step_limits *lim,
                   struct paged_work **ret) LATENT_MUST_CHECK;
void paged_work_free(struct paged_work *w);
uint64_t paged_work_bytes(const struct paged_work *w);

/* q: [set->n_rows][n_heads][dk]; out: [set->n_rows][n_heads][dv], both float32. The rows of the new
 * tokens are in the cache already; a token sees positions up to its own, or those chosen for its span:
 * choices is [set->n_spans], or NULL. At most step_limits.max_seqs spans. */
void paged_attention(struct paged_work *w, const struct step *step, const struct row_set *set,
                     size_t plane_offset, const struct paged_choice *choices, const float *q,
                     float *out);

#endif
