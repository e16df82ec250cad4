/* engine/attention/mla_decompressed.h - latent attention over per-head keys and values: the latents of a
 * piece of the context are multiplied out for one head at a time, attended by all tokens of a span, and
 * forgotten.
 *
 *     k_h,t = [c_t W_UK,h | k_pe,t]     v_h,t = c_t W_UV,h     o_h = softmax(q_h . k_h) v_h
 *
 * Cheaper than attention over latents (paged.h) where many tokens of one sequence look at the same rows.
 * The context is cut into pieces of ATTN_PIECE positions as there; each is computed from scratch and folded
 * into the sum of those before it, in order. A token's result depends on its query, its position and the
 * rows alone. */
#ifndef LATENT_ENGINE_ATTENTION_MLA_DECOMPRESSED_H
#define LATENT_ENGINE_ATTENTION_MLA_DECOMPRESSED_H

#include "engine/attention/attention.h"
#include "engine/step.h"

struct decompressed_shape {
    int n_heads, rank, nope, rope, v; /* rank: values of a latent */
    struct row_format format;         /* of the cache: [latent | k_pe] */
    float scale;                      /* of the scores */
};

struct decompressed_work; /* per-thread scratch */

/* max_rows: tokens of one call. */
int decompressed__work_new(const struct decompressed_shape *s, const struct step_limits *lim, int max_rows,
                           struct decompressed_work **ret) LATENT_MUST_CHECK;
void decompressed__work_free(struct decompressed_work *w); /* NULL-safe */
uint64_t decompressed__work_bytes(const struct decompressed_work *w);

/* Bytes of packed queries that one call over n rows in so many spans needs. */
size_t decompressed__query_bytes(const struct decompressed_shape *s, int n_rows, int n_spans);

struct decompressed_args {
    const struct step *step;
    const struct row_set *set;
    size_t plane_offset;
    const struct matrix *w_uk; /* [heads]: rank -> nope */
    const struct matrix *w_uv; /* [heads]: rank -> v */
    const float *q;            /* [rows][heads][nope + rope], rotated */
    unsigned char *packed;     /* decompressed__query_bytes, 64-aligned */
    float *out;                /* [rows][heads][v]; without `stop` it may be q: that is packed first */
    struct attention_stop *stop; /* or NULL; with one span only */
};
/* The rows of the new tokens are in the cache already; a token sees positions up to its own. False: stopped
 * before the last head. */
bool decompressed__attend(struct decompressed_work *w, const struct decompressed_args *a);

#endif
