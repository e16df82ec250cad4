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
 * (struct paged_choice); they are gathered piece by piece and taken like a context of that length.
 *
 * Heads may fall into groups, each with its own segments of the row (grouped queries); rows may be made anew
 * when they are read (struct paged_make); and a row may stand for several tokens, each of which has one
 * of its own (paged_call.own). */
#ifndef LATENT_ENGINE_ATTENTION_PAGED_H
#define LATENT_ENGINE_ATTENTION_PAGED_H

#include "engine/step.h"

/* Query heads first .. first + n of a shape, the stream that has their rows, and where keys and values
 * begin in a row of it. Rows that belong to a group alone do best as a stream of their own: then they
 * are neighbours. */
struct paged_group {
    int first, n;
    int plane;
    int k_off, v_off;
};

/* Rows [t0, t0 + n) of a sequence. */
struct paged_rows {
    unsigned char *const *pages;
    size_t offset, row_bytes;
    uint32_t page_rows;
    int t0, n;
};
static inline const unsigned char *paged_row(const struct paged_rows *r, int i)
{
    uint32_t t = (uint32_t)(r->t0 + i);
    return r->pages[t / r->page_rows] + r->offset + (size_t)(t % r->page_rows) * r->row_bytes;
}
/* Bytes [at, at + n) of each row, to dst, dst + stride, .. */
void paged_copy(const struct paged_rows *r, size_t at, size_t n, unsigned char *dst, size_t stride);

/* Rows that are made when they are read: for a group, from at most ATTN_PIECE cache rows, in a format of
 * their own (float32 or bf16). What is made of a row may depend on nothing but the row, its position and
 * the group. */
struct paged_make {
    struct row_format format;
    void (*rows)(void *arg, int group, const struct paged_rows *from, int thread, unsigned char *dst);
};

/* Rows that are met without being multiplied out (struct gate_piece of kern.h): a query has embed * width
 * values and `rope` behind them, a result embed * width. One group. */
struct paged_gate {
    struct gate_shape shape;
    /* Of at most ATTN_PIECE rows: their embeddings, and the factors of all heads (kern_gate_stride apart). */
    void (*rows)(void *arg, const struct paged_rows *from, int thread, const unsigned char *const *x,
                 const float **e, float *factors);
};

struct paged_shape {
    int n_heads;
    int dk, dv, k_off, v_off; /* elements of a row */
    struct row_format format;
    float scale; /* of the scores */
    int n_groups; /* 0: one, all heads at k_off and v_off */
    const struct paged_group *groups;
    const struct paged_make *make; /* offsets are those of made rows; or NULL */
    const struct paged_gate *gate; /* or NULL */
    /* 0: a row a token, which sees its own and those before. s: a row stands for s tokens, and a token sees
     * those of the s before its own, and one that is given with its query. Divides page_tokens. */
    int tokens_per_row;
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

/* For calls with any of n shapes. */
int paged_work_new_for(const struct paged_shape *shapes, int n, const struct step_limits *lim,
                       struct paged_work **ret) LATENT_MUST_CHECK;
static inline int paged_work_new(const struct paged_shape *s, const struct step_limits *lim,
                                 struct paged_work **ret)
{
    return paged_work_new_for(s, 1, lim, ret);
}
void paged_work_free(struct paged_work *w);
uint64_t paged_work_bytes(const struct paged_work *w);

/* The rows of the new tokens are in the cache already; a token sees positions up to its own, or those chosen
 * for its span. At most step_limits.max_seqs spans. */
struct paged_call {
    const struct paged_shape *shape;
    const struct row_set *set;
    const size_t *plane_offsets; /* of the layer's streams; all have the shape's format */
    const struct paged_choice *choices; /* [set->n_spans], or NULL */
    const float *q;                     /* [set->n_rows][n_heads][dk] */
    float *out;                         /* [set->n_rows][n_heads][dv] */
    const float *own;                   /* with tokens_per_row: [set->n_rows][elems of a row] */
    void *make_arg;
};
void paged_attend(struct paged_work *w, const struct step *step, const struct paged_call *call);
/* The same with the first shape of the work space and what most calls need. */
void paged_attention(struct paged_work *w, const struct step *step, const struct row_set *set,
                     size_t plane_offset, const struct paged_choice *choices, const float *q,
                     float *out);

#endif
