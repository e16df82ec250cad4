/* engine/job.h - a request inside the engine: its choices as sequences, and how they end. Shared by
 * job.c (life and output of a sequence) and sched.c (which of them run). Engine thread. */
#ifndef LATENT_ENGINE_JOB_H
#define LATENT_ENGINE_JOB_H

#include "engine/sampler.h"
#include "engine/sched.h"
#include "engine/textout.h"

enum seq_state { SEQ_WAITING = 0, SEQ_RUNNING, SEQ_ENDED };

struct seq {
    struct job *job;
    int choice;
    enum seq_state state;
    uint64_t order;       /* of arrival: the smaller, the older */
    int32_t *tokens;      /* prompt, then output */
    int n_tokens, cap_tokens;
    struct kv_seq *kv;    /* NULL while waiting */
    int n_output;
    bool thought_over;    /* or there is none */
    double *pooled;       /* sum of the prompt's hidden rows, or NULL */
    int n_pooled;         /* rows in it */
    double drafts_right;  /* how often a token drafted is what comes, smoothed */
    int n_drafted, n_accepted; /* tokens of drafts that were computed, and of these those that came */
    int n_foretold, n_foretold_right; /* of both those of the answer predicted */
    int predicted, n_followed; /* place in the answer predicted, behind so many tokens of the output; */
    bool follows;              /* and whether the last of these was there */
    int lp_done;          /* prompt positions whose log-probabilities were sent */
    int cached;           /* prompt tokens found in the cache at first admission */
    bool admitted_before;
    bool eats_step;       /* takes part in the step being built */
    bool held;            /* passed over in the step being built */
    bool overdue;         /* has waited too long: arrival decides (queue.h) */
    int64_t wait_began_ns, waited_ns; /* for a place: since when it waits; all waits before */
    int64_t queued_ns;    /* since when it is in the queue */
    int n_preempted;
    int64_t preempted_ns; /* waits after preemption that are over */
    struct kv_parked *parked; /* its rows while it waits after preemption, or NULL */
    uint64_t parked_bytes;
    struct sampler *sampler;
    struct matcher *matcher; /* how far its grammar is, or NULL */
    struct textout text;
    struct buf shown;     /* text of the event being made */
    struct gen_event *last_event; /* made at admission, so that an end can always be told */
    int64_t admitted_ns, first_token_ns, last_token_ns;
    struct seq *next, *prev; /* the waiting list */
};

struct job {
    uint64_t id;
    struct gen_request *req; /* lies in req->arena */
    struct events *events;
    int64_t submitted_ns;
    int64_t timeout_ns, queue_timeout_ns; /* when it must have ended, been admitted; INT64_MAX: never */
    int key;                 /* its place in struct fair, once added */
    int n_seqs;              /* choices */
    int n_live;              /* of them not ended */
    bool paused;
    struct grammar *grammar; /* a reference, or NULL */
    int n_banned;            /* ids that min_tokens bans */
    int32_t *banned;
    struct job *next, *prev;
    struct seq seqs[];       /* n_seqs */
};

/* The scheduler's configuration, for job_new. */
const struct sched_config *sched__config(const struct sched *s);

/* What output processing needs of the scheduler. */
struct job_env {
    int vocab_size, hidden_size;
    const struct kernels *kern;
    struct sampler_scratch *scratch; /* of the engine thread */
    const struct tokenizer *tokenizer;
    struct events *events;
    struct engine_metrics *metrics;
    const _Atomic int *stopping;
    int64_t (*now)(void);
};

/* Log-probabilities of prompt positions [lp_done, upto): logits row i belongs to position first + i,
 * which predicts the next token. */
void seq_prompt_logprobs(struct seq *q, const struct job_env *env, const float *logits, int first,
                         int n_rows);
/* The prompt is in the cache up to `computed`: tells it, where asked for. */
void seq_progress(struct seq *q, const struct job_env *env, int computed);
/* The token that comes next by force, or -1. */
int32_t seq_forced(const struct seq *q);
/* The tokens that may follow, for sampler_pick_masked, into `bits`. 0: any may; 1: those; an error:
 * none may (ERR_LIMIT), or matcher_mask's. Any thread, one at a time for a sequence. */
int seq_mask(struct seq *q, uint32_t *bits) LATENT_MUST_CHECK;
/* The next token of q under its grammar, bans and sampling; errors are sampler_pick's, and ERR_LIMIT where
 * nothing is left that all of them allow. */
int seq_pick(struct seq *q, struct sampler_scratch *scratch, float *row, int32_t *ret) LATENT_MUST_CHECK;
/* Does it need all rows of its prompt: log-probabilities, or the mean? Such prompts are not taken from the
 * cache. */
bool seq_wants_rows(const struct seq *q);
/* Hidden rows of prompt positions [first, first + n_rows). */
void seq_pool(struct seq *q, const float *hidden, int hidden_size, int first, int n_rows);
/* A token was chosen (lse: log-sum-exp of the raw logits, raw: those logits or NULL). Sends the event;
 * ends the sequence when it is the last. */
void seq_accept(struct seq *q, const struct job_env *env, int32_t token, const float *raw, float lse);
/* Sends the final event. The caller takes it out of its lists. Idempotent. */
void seq_end(struct seq *q, const struct job_env *env, enum finish_reason why, const struct err *e);

#endif
