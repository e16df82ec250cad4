/* engine/forward.h - weights packed for the machine, and the forward pass over a mixed batch.
 *
 * A batch is some sequences, each with new tokens (one when decoding, a chunk in prefill) whose rows
 * are written to the cache pages given and attended to in the same pass. The result for a token does
 * not depend on what else is in the batch, on chunking or on the thread count, bit for bit.
 * Thread: the engine thread only. */
#ifndef LATENT_ENGINE_FORWARD_H
#define LATENT_ENGINE_FORWARD_H

#include <stdint.h>
#include "base/cpu.h"
#include "base/err.h"
#include "engine/model/checkpoint.h"
#include "engine/pool.h"
#include "kvcache/kvcache.h"

struct model;

/* Of cache rows; in those of 8 and 4 bits the rope keys stay bf16. */
enum cache_type { CACHE_BF16 = 0, CACHE_F32, CACHE_INT8, CACHE_FP8, CACHE_INT4 };

/* "bf16", "f32", "int8", "fp8", "int4"; another name: -1. */
int cache_type_parse(const char *name);
const char *cache_type_name(enum cache_type type);
enum tensor_type cache_row_type(enum cache_type type); /* of its latent rows */

struct model_options {
    enum cpu_level level;
    enum cache_type cache_type;
    uint32_t page_tokens; /* at least; model_page_tokens tells how many it is */
    int max_batch_tokens; /* new tokens of one forward call */
    int max_logit_rows;   /* rows of logits of one forward call */
    int max_seqs;         /* sequences of one forward call */
    int max_position;     /* positions served; at most the model's max_position_embeddings */
    bool decompressed;    /* sequences may be marked so in a batch; costs memory for weights */
    int mla_product;      /* enum mla_product_kind (step.h): how absorbed queries are made */
    /* Called now and then while weights are packed; fraction 0..1. May be NULL. Returning non-zero
     * stops the load with ERR_CANCELED. */
    int (*progress)(void *arg, float fraction);
    void *progress_arg;
};

/* Packs the weights (the checkpoint may be closed afterwards) and allocates all work space.
 * Errors name the tensor: ERR_FORMAT shapes, ERR_UNSUPPORTED types, ERR_NOMEM; or the layer: ERR_UNSUPPORTED
 * where no page holds whole rows of all layers. */
int model_new(const struct checkpoint *ckpt, const struct model_options *opt, struct pool *pool,
              struct model **ret, struct err *e) LATENT_MUST_CHECK;
void model_free(struct model **m);

const struct model_config *model_config(const struct model *m);
/* Tokens of a page; the cache must have as many. It is model_options.page_tokens where that is a multiple of
 * the tokens that the rows of each layer stand for, else the least common multiple of these, doubled until it
 * is enough: where 32 were asked for, 48 with rows of 3 tokens, or with rows of 2 and of 3. */
uint32_t model_page_tokens(const struct model *m);
/* The cache planes that the layers' mechanisms declare, for kv_open. Owned by the model. */
const struct kv_plane *model_planes(const struct model *m, uint32_t *ret_n_planes);
uint64_t model_weight_bytes(const struct model *m);    /* packed */
uint64_t model_workspace_bytes(const struct model *m);

struct forward_seq {
    unsigned char *const *pages; /* cover [0, position + n_tokens) */
    int32_t position;            /* tokens already in the cache */
    int32_t n_tokens;            /* >= 1 */
    const int32_t *tokens;       /* each in [0, vocab_size) */
    int32_t n_logits;            /* logits for the last n_logits of them: 0 .. n_tokens */
    /* Two ways to compute these tokens; logits and rows differ in rounding, so who shares rows must
     * ask for the same. decompressed: latent attention in that scheme. rounded: products of
     * quantised weights by mul_rounded, which is faster for many rows; not those that make logits.
     * Rounded sequences come first in a batch. */
    bool decompressed, rounded;
};

struct forward_batch {
    int n_seqs;
    const struct forward_seq *seqs;
    float *logits; /* [sum of n_logits][vocab_size], rows in order of sequence and token */
};

/* Where pages put their planes: as kv_plane_offset of the cache the pages come from. Called once,
 * before the first forward. */
int model_bind_cache(struct model *m, const struct kv *kv, struct err *e) LATENT_MUST_CHECK;
/* Where the time of the steps to come is counted; borrowed, NULL: nowhere. */
struct profile;
void model_profile(struct model *m, struct profile *p);
/* Tokens of each layer's busiest expert over the layer's mean, since the start: mean and largest of the
 * layers that have experts and computed something; 0 without any. */
void model_expert_load(const struct model *m, double *ret_mean, double *ret_max);
/* ERR_INVAL when a limit of model_options is exceeded (a caller's mistake), else 0. */
int model_forward(struct model *m, const struct forward_batch *batch) LATENT_MUST_CHECK;
/* The same in parts, two for each layer (attention, what is fed forward), between which model_forward may
 * be called for other sequences (layered prefill, arXiv 2510.08055). One such call at a time: another
 * model_begin gives the one before up. The batch and what it points to are borrowed, and unchanged, until
 * its last part is done, but for the pages of its sequences: they are read anew for each slice. Errors as
 * model_forward. */
int model_begin(struct model *m, const struct forward_batch *batch) LATENT_MUST_CHECK;
/* Computes the next part, or as much of it as is done by until_ns (of clock_now_ns) where it can stop.
 * Returns how many are left, the one that was stopped among them; with 0 the logits are there. ERR_INVAL:
 * none was begun. */
int model_continue(struct model *m, int64_t until_ns) LATENT_MUST_CHECK;
int model_parts(const struct model *m);
/* Can this part of the call begun stop in the middle? */
bool model_part_stops(const struct model *m, int part);
/* What the logits of the last call were made from: a row of hidden_size for each row of them, after the last
 * norm. Valid until the next call. */
const float *model_hidden(const struct model *m);

#endif
