/* engine/sched.h - continuous batching: which tokens of which sequences go through each step.
 *
 * Every step (but some in a burst of short prompts, budget.h) takes one new token of each running
 * sequence that decodes, then fills the budget of time (budget.h) and tokens with chunks of prompts, in
 * the order of queue.h; sequences join and leave at every step. A prompt that would take many steps so
 * is computed in larger chunks, some layers a step. A sequence is its known tokens and how many of them
 * have cache rows: prefill, decode and recomputing after preemption are the same thing with more or
 * fewer rows to go. One is admitted when there are pages for what it and those that run will probably
 * need, by how much of max_tokens is used lately. When pages run out all the same the last in order
 * gives its pages back and waits, its rows parked in host memory where that is cheaper than computing
 * them again. The first never does, so there is always progress. A sequence of better priority takes the
 * place of those of worse. Knows the model through a small table of functions. Engine thread only. */
#ifndef LATENT_ENGINE_SCHED_H
#define LATENT_ENGINE_SCHED_H

#include <stdatomic.h>

#include "engine/engine.h"
#include "engine/engine_metrics.h"
#include "engine/events.h"
#include "engine/forward.h"
#include "engine/kernels/kern.h"
#include "kvcache/kvcache.h"

struct sched;
struct job; /* a submitted request with its choices */

struct sched_config {
    int vocab_size;
    int max_model_len;
    int max_num_seqs, max_num_batched_tokens, prefill_chunk, max_logit_rows;
    /* Most tokens drafted for a sequence in a step; 0: none. Rows of all planes must stand for one token,
     * since those of wrong drafts are written over. */
    int num_speculative_tokens;
    bool prefix_cache;
    int max_fair_keys;
    int64_t max_step_ns, max_priority_wait_ns;
    uint64_t park_bytes;
    int64_t (*now)(void); /* clock_now_ns, but in tests */
    int decompress_block; /* struct scheme's; 0: none */
    bool rounded_prompts; /* struct scheme's */
    /* One forward call, as model_forward. */
    int (*forward)(void *model, const struct forward_batch *batch);
    /* One in slices, as model_begin, model_continue and model_part_stops. */
    int (*begin)(void *model, const struct forward_batch *batch);
    int (*go_on)(void *model, int64_t until_ns);
    bool (*stops)(void *model, int part);
    int n_parts; /* of the model */
    const float *(*hidden)(void *model); /* as model_hidden; NULL: no embeddings */
    int hidden_size;
    void *model;
    struct kv *kv;
    struct pool *pool;
    const struct kernels *kern;
    const struct tokenizer *tokenizer; /* NULL: ids only */
    struct events *events;
    struct engine_metrics *metrics;
    struct profile *profile; /* where the model counts its time (model_profile); NULL: it does not */
    const _Atomic int *stopping;
};

int sched_new(const struct sched_config *cfg, struct sched **ret, struct err *e) LATENT_MUST_CHECK;
/* Every job must have ended. NULL-safe. */
void sched_free(struct sched **s);

/* How the rows of a prompt of n_prompt tokens are computed (kv_seq_set_ways). longer: of one that goes on
 * behind them. */
void sched_ways(const struct sched *s, int n_prompt, bool longer, uint32_t ends[KV_WAYS]);
/* Tokens that one sequence can ever have: max_model_len, or what the whole cache holds. */
int sched_max_tokens(const struct sched *s);

/* Makes the job of a request; any thread. Checks ids and lengths. The request's arena passes to the
 * job on success. ERR_INVAL, ERR_LIMIT, ERR_NOMEM. */
int job_new(const struct sched *s, struct gen_request *req, uint64_t id, struct job **ret,
            struct err *e) LATENT_MUST_CHECK;
void job_free(struct job *j);    /* one that was never added; NULL-safe */
void job_release(struct job *j); /* the same, but its request goes back to the caller */
void job_size(const struct job *j, int *ret_n, int *ret_n_prompt);

void sched_add(struct sched *s, struct job *j); /* takes ownership; ends in one event per choice */
void sched_cancel(struct sched *s, uint64_t id);
void sched_cancel_all(struct sched *s);
void sched_pause(struct sched *s, uint64_t id, bool paused);

/* Runs one step. Returns 1 when something was computed or ended, 0 when there is nothing to do now. */
int sched_step(struct sched *s);
bool sched_idle(const struct sched *s); /* no job left */

struct sched_counts {
    int running, waiting;
    int64_t waiting_tokens;
    int64_t waits_since_ns; /* when the longest wait began, as of the last step; 0: none waited */
};
void sched_counts_read(const struct sched *s, struct sched_counts *ret);
/* Mean time of recent requests from admission to end. */
int64_t sched_mean_service_ns(const struct sched *s);

#endif
