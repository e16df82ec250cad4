/* tests/forward/rig.h - one model with a pool of two threads and a cache, run a call at a time. */
#ifndef LATENT_TESTS_FORWARD_RIG_H
#define LATENT_TESTS_FORWARD_RIG_H

#include "engine/forward.h"

#define RIG_MAX_ROWS 128 /* tokens, and rows of logits, of one step */

struct rig {
    struct pool *pool;
    struct model *model;
    struct kv *kv;
    int vocab, page_tokens; /* of the model: rig_options say how many at least */
    float *logits; /* [RIG_MAX_ROWS][vocab]: of the last step */
};

struct rig_options {
    enum cpu_level level;
    enum cache_type cache_type;
    uint32_t page_tokens;
    int max_len; /* tokens of a sequence */
    uint64_t pool_bytes;
};

/* All of them fail the running test on an error. */
void rig_open(struct rig *r, const char *path, const struct rig_options *o);
void rig_close(struct rig *r);
/* Appends n tokens to seq; logits of the last n_logits of them go to r->logits. */
void rig_step(struct rig *r, struct kv_seq *seq, const int32_t *tokens, int n, int n_logits);

#endif
