/* tools/bench_rig.h - a model, its threads and a cache, and steps of the forward pass over them: what the
 * modes that measure a model are made of. A failure of a step, whose limits were computed for what is
 * asked, is a mistake of this program, which it ends. */
#ifndef LATENT_TOOLS_BENCH_RIG_H
#define LATENT_TOOLS_BENCH_RIG_H

#include "engine/pool.h"
#include "tools/bench.h"

struct rig {
    const struct bench_options *o;
    const struct bench_machine *machine;
    const char *mode;
    struct checkpoint *ck;
    struct pool *pool;
    struct model *model;
    struct kv *kv;
    float *logits;
    struct profile profile;
    double token_bytes; /* of the cache, all layers */
    int page_tokens, chunk, max_batch;
    int real; /* tokens of a context that are computed: whole pages */
    bool rounded;       /* products of prompts */
};

/* Sequences that decode together. */
struct rig_group {
    struct kv_seq *root, **seq;
    struct forward_seq *fs;
    int32_t *tok;
};

/* r holds options, machine and mode. Room for max_batch sequences of max_len tokens, and so many rows of
 * logits. Errors leave what rig_close ends. */
int rig_open(struct rig *r, const char *path, int max_batch, int max_len, int max_logits,
             struct err *e) LATENT_MUST_CHECK;
void rig_close(struct rig *r);
void rig_must(int r, const char *what);

/* Sequences of max_batch, all with a common beginning. */
void rig_group_begin(struct rig *r, struct rig_group *g, int shared);
void rig_group_end(struct rig *r, struct rig_group *g);
/* Lengthens all to `context` tokens, quickly. */
void rig_group_grow(struct rig *r, struct rig_group *g, int context);
/* The first n of them decode `tokens` each, o->repeat times after a warm-up: tokens a second into rate[].
 * Returns the seconds of all. */
double rig_decode(struct rig *r, struct rig_group *g, int n, int context, int tokens, double *rate);
/* A prompt behind a context, likewise. */
double rig_prefill(struct rig *r, int tokens, int context, double *rate);
/* n tokens of one new sequence, in one step: logits of every one of them into r->logits. */
void rig_score(struct rig *r, const int32_t *tokens, int n);

#endif
