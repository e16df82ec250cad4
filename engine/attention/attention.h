/* engine/attention/attention.h - an attention mechanism: one const struct in one file, one row in
 * attention.def.
 *
 * A mechanism binds its weights of a layer, declares the streams of cache rows it needs, and runs a
 * layer: it reads the normalised residual stream, writes the rows of all new tokens to the cache and
 * adds its output to the residual stream of those rows that are still needed. Decode and prefill are
 * one function over one mixed batch; a token's result may depend on its own sequence only.
 * Nothing is allocated while running: work space is made once per model, for each mechanism that a
 * layer of the model names (layer_tensors.attention). */
#ifndef LATENT_ENGINE_ATTENTION_ATTENTION_H
#define LATENT_ENGINE_ATTENTION_ATTENTION_H

#include "engine/attention/paged.h"
#include "engine/step.h"
#include "kvcache/kvcache.h"

/* tokens_per_row of a stream with one row for each page: the state after its last token so far. */
#define ATTENTION_WHOLE_PAGE 0
/* Streams that one layer may keep. */
#define ATTENTION_MAX_PLANES (2 * 1024 + 4)

/* How a call may stop in the middle, with nothing but this to be kept until it is made again: for the same
 * layer, over the same rows. */
struct attention_stop {
    int64_t until_ns; /* by clock_now_ns: what would not be done by then waits; something is always done */
    int heads_done;   /* 0: it begins, or it is done */
    float *kept;      /* [active rows][heads][v_head_dim] of those heads */
};

struct attention_args {
    const struct step *step;
    const struct row_set *all;    /* rows whose cache rows are written */
    const struct row_set *active; /* rows whose output is wanted: a subset */
    const float *norm_w;          /* [hidden_size] attn_norm, applied by the mechanism */
    const size_t *plane_offsets;  /* of this layer's streams in a page, in the order of `planes` */
    struct attention_stop *stop;  /* NULL: all of it. Most mechanisms do all of it in any case */
};

struct attention_ops {
    const char *name;
    /* Fills in the streams of a layer, at most ATTENTION_MAX_PLANES, and returns how many, or ERR_NOMEM. */
    int (*planes)(const struct model_config *c, const struct layer_tensors *t, enum tensor_type row_type,
                  struct kv_plane *ret);
    /* Packs the layer's weights. Errors name the tensor. *ret is freed by layer_free. */
    int (*layer_new)(const struct model_config *c, const struct layer_tensors *t,
                     const struct step_limits *lim, struct pool *pool, const struct load_progress *lp,
                     void **ret, struct err *e);
    void (*layer_free)(void *layer); /* NULL-safe */
    uint64_t (*layer_bytes)(const void *layer);
    /* Work space for one step, shared by those of n layers that name it, beside what it asks of lim->scratch;
     * ERR_NOMEM. */
    int (*work_new)(const struct model_config *c, const struct layer_tensors *layers, int n,
                    const struct step_limits *lim, void **ret);
    void (*work_free)(void *work);
    uint64_t (*work_bytes)(const void *work);
    /* Most products that a layer hands to products_run at once. */
    int (*max_products)(const struct model_config *c, const struct layer_tensors *t);
    void (*run)(const void *layer, void *work, const struct attention_args *a);
    /* Most rows of a decompressed span that `run` heeds args->stop for; NULL: it never does. */
    int (*stop_rows)(const void *work);
};

/* The mechanism of that name, or NULL. */
const struct attention_ops *attention_find(const char *name);

#define ATTENTION(ops) extern const struct attention_ops ops;
#include "engine/attention/attention.def"
#undef ATTENTION

#endif
