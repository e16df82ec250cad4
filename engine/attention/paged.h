/* engine/attention/paged.h - softmax attention of many query heads over paged cache rows, the core
 * that mechanisms share: o_h = softmax(q_h . key(row_t)) value(row_t), key and value being segments
 * of the row.
 *
 * A lane is one (token, head). The context is cut at fixed absolute positions into pieces of ATTN_PIECE
 * tokens. Each piece is computed from scratch and folded into the sum of those before it, in order, so
 * that a lane's result depends on its query, its position and the rows alone: not on the batch, the
 * chunk, the number of threads, or whether pieces were computed side by side. Lanes of all sequences that
 * keep the same pages of a piece go through one product (stack.h), which reads it once.
 *
 * Where a mechanism chooses the rows that a token sees, its span is that token alone and names them
 * (struct paged_choice); they are gathered piece by piece and taken like a context of that length. */
#ifndef LATENT_ENGINE_ATTENTION_PAGED_H
#define LATENT_ENGINE_ATTENTION_PAGED_H

#include "engine/step.h"

struct paged_shape {
    int n_heads;
    int dk, dv, k_off, v_off; /* elements of a row */
    struct row_format format;
    float scale; /* of the scores */
};

/* The rows of a span: NULL says all up to each token's own. */
struct paged_choice {
    const int32_t *positions; /* [n] ascending; the span has one token */
    int32_t n;
};

/* The form of cache rows of elems values in a cache of this type, the last `tail` of which 8 bits would
 * blur. */
struct row_format paged_format(enum tensor_type type, int elems, int tail);
/* Writes the cache row of row i of the set. */
void paged_store(const struct step *step, const struct row_set *set, int i, size_t plane_offset,
                 const struct row_format *format, const float *row);

struct paged_work; /* per-thread scratch, running sums and a bounded store of partial ones */

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
