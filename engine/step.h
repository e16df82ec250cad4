/* engine/step.h - what all layers of one forward call share: which rows there are, whose they are,
 * where they stand, and the residual stream. Built by forward.c, read by attention/ and ffn.c. */
#ifndef LATENT_ENGINE_STEP_H
#define LATENT_ENGINE_STEP_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/kernels/kern.h"
#include "engine/matrix.h"
#include "engine/model/checkpoint.h"
#include "engine/pool.h"
#include "engine/profile.h"
#include "engine/rope.h"

/* Consecutive new tokens of one sequence. */
struct span {
    unsigned char *const *pages; /* of its sequence: pages[t / page_tokens] */
    int32_t position;            /* of its first token */
    int32_t n_tokens;
    int32_t first;               /* index of its first token in the list of rows it belongs to */
    bool decompressed;           /* latent attention over multiplied-out heads (mla_decompressed.h) */
};

/* The rows of a step, or those of them that a later part still needs. */
struct row_set {
    int n_rows;
    const int32_t *rows; /* [n_rows] indices into the residual stream, ascending */
    int n_spans;
    const struct span *spans;
    int n_rounded; /* the first rows: their products round to bfloat16 (kern.h, mul_rounded) */
};

struct step {
    const struct kernels *kern;
    struct pool *pool;
    struct products *products;
    struct profile *profile; /* NULL: none */
    const struct model_config *config;
    const struct rope *rope;
    uint32_t page_tokens;
    enum tensor_type row_type; /* of cache rows: TT_BF16, TT_F32, TT_I8, TT_F8_E4M3, TT_I4 */
    float *x;                  /* [rows][hidden_size]: the residual stream */
    const float *rope_cos, *rope_sin; /* [rows][qk_rope_head_dim / 2] */
    const struct rope_tables *ropes;  /* of other widths */
    const int32_t *positions;         /* [rows] */
    const int32_t *const *tokens;     /* [rows]: where each row's token is */
    float *router_state; /* [rows][router_hidden_size]: what routers hand on from layer to layer */
};

/* What a block's output is multiplied with before it joins the residual stream. */
static inline float model_residual_scale(const struct model_config *c)
{
    return c->residual_scale == 0.0f ? 1.0f : c->residual_scale;
}

/* Memory that parts of a layer use one after the other: nobody finds there what he left in an earlier call of
 * his. Parts ask while their work space is made; it is there when they run. */
struct scratch {
    unsigned char *base; /* 64-aligned */
    size_t n_bytes;      /* the most that anybody asked for */
};
static inline void scratch_need(struct scratch *s, size_t n_bytes)
{
    s->n_bytes = n_bytes > s->n_bytes ? n_bytes : s->n_bytes;
}

/* How absorbed queries of latent attention are made (arXiv 2506.02523): by the two factors in turn, or
 * by their product, kept as weights or made anew in every step. */
enum mla_product_kind { MLA_FACTORS = 0, MLA_PRODUCT_KEPT, MLA_PRODUCT_MADE };

/* Pieces of such memory, one after the other; without a base only their sizes count. */
struct scratch_place {
    unsigned char *base;
    size_t used;
};
static inline void *scratch_take(struct scratch_place *p, size_t n_bytes)
{
    void *at = p->base ? p->base + p->used : NULL;
    p->used += (n_bytes + 63) & ~(size_t)63;
    return at;
}

/* Limits that work space is allocated for. */
struct step_limits {
    int max_rows, max_seqs, n_threads;
    int max_position; /* positions of one sequence */
    uint32_t page_tokens;
    enum tensor_type row_type;
    const struct kernels *kern;
    bool decompressed; /* spans may say so */
    enum mla_product_kind product;
    struct scratch *scratch;
    struct rope_tables *ropes;
};

#endif
