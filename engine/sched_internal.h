/* engine/sched_internal.h - the scheduler's state, shared by sched.c (who computes what in a step),
 * sched_pages.c (who has pages for it), sched_draft.c (which tokens are tried ahead), sched_slice.c (chunks
 * whose parts are spread over steps) and sched_finish.c (what becomes of the rows).
 * Engine thread only. */
#ifndef LATENT_ENGINE_SCHED_INTERNAL_H
#define LATENT_ENGINE_SCHED_INTERNAL_H

#include "engine/budget.h"
#include "engine/job.h"
#include "engine/profile.h"
#include "engine/queue.h"
#include "engine/sched.h"
#include "engine/scheme.h"

struct planned {
    struct seq *q;
    int n_tokens, n_logits;
    int first_row; /* of its logits */
    bool decodes;
    bool guessed;   /* a draft stands behind its tokens, computed or not */
    bool predicted; /* which is of the answer that the request predicts */
    int n_drafts;   /* its last rows, of tokens that are likely to come */
    int n_right;    /* of these, as sampling shows */
};

/* A chunk of one prompt whose parts (model_begin) are spread over steps (layered prefill, arXiv 2510.08055),
 * while others decode. The whole chunk reads each weight once, however little time a step has for it. */
struct slice {
    struct seq *q; /* running; NULL: there is none */
    struct forward_seq seq;
    struct forward_batch batch;
    int parts_left;
    bool stopped;    /* the next part is half done */
    double ns;       /* that this step has for it; not finite: no end of it */
    double part_ns;  /* of a part of weight 1, as it goes */
    double weights;  /* of the parts done */
    int64_t took_ns; /* so far */
};

struct sched {
    struct sched_config c;
    struct job_env env;
    struct job *jobs;          /* all, unordered */
    struct queue waiting;
    struct fair *fair;
    struct seq **running;      /* [max_num_seqs], first in order first */
    int n_running;
    struct kv_seq **giving;    /* [max_num_seqs] scratch of those that might give way */
    int64_t now;               /* of the step */
    int64_t waits_since_ns;    /* the longest wait, at the step; 0: none waits */
    struct budget budget;
    struct slice slice;
    double *part_took;        /* [n_parts] of the chunk in slices */
    double *part_weight;      /* beside their mean, smoothed: they differ */
    bool *part_stops;          /* it could have stopped in the middle */
    bool parts_known;         /* ... after the first such chunk */
    double slice_share;        /* of the time for prompts that a part of the next one is meant to take */
    double prompt_ns;          /* time that prompts may still take in the step being built */
    int plan_decodes, plan_prompt; /* rows that decode, prompt tokens in it */
    bool burst;                /* of short prompts: they go whole, in groups (budget.h) */
    uint64_t burst_end;        /* those that arrived before are its prompts */
    bool without;              /* ... and streams that run do not go along in this step */
    bool plan_short;           /* a short prompt does */
    bool had_prompts;          /* the step before had some */
    bool stuck;                /* none that waits could in the last burst: there are no pages for them */
    int undecoded;             /* tokens computed since they last did */
    double plan_positions;     /* of those tokens, summed */
    double used;               /* part of max_tokens that choices use, smoothed */
    double copy_ns;            /* a byte, smoothed */
    uint64_t parked_bytes;
    uint64_t next_order;
    float *logits;             /* [max_logit_rows][vocab_size] */
    struct planned *plan;      /* [max_num_seqs] */
    struct forward_seq *batch;
    int n_plan, plan_tokens, plan_rows;
    int32_t *picked;           /* [max_num_seqs] */
    int *pick_error;
    float *lse;                /* log-sum-exp of the row, where log-probabilities are wanted */
    int *who;                  /* planned entries that sample */
    struct sampler_scratch **scratch; /* one per pool thread */
    int64_t mean_service_ns;
};

static inline int computed(const struct seq *q)
{
    return q->kv ? (int)kv_seq_length(q->kv) : 0;
}

static inline int to_go(const struct seq *q)
{
    return q->n_tokens - computed(q);
}

/* Joins the running ones at its place in order. */
void sched__run_insert(struct sched *s, struct seq *q);
void sched__run_remove(struct sched *s, struct seq *q);
/* Takes entry i out of the step that is being built. */
void sched__unplan(struct sched *s, int i);
/* After seq_end: takes it out of its list; frees the job with its last choice. */
void sched__leave(struct sched *s, struct seq *q, enum seq_state was);
void sched__end_seq(struct sched *s, struct seq *q, enum finish_reason why, const struct err *e);
void sched__fail_seq(struct sched *s, struct seq *q, int code);
/* sched_pages.c. Makes room for n more rows of q, which runs. False: q itself had to give way, or has failed,
 * since memory is out. */
bool sched__make_room(struct sched *s, struct seq *q, int n);
/* Makes place and pages for q, which waits: those that are paused, or of worse priority and not overdue, give
 * way from the last, if that is enough. */
bool sched__make_way(struct sched *s, struct seq *q);
/* The rows that q had when it gave its pages back. False: no pages for them now. */
bool sched__bring_back(struct sched *s, struct seq *q);
/* Its parked rows are back, or not needed. */
void sched__unpark(struct sched *s, struct seq *q);
/* Computes the parts of the chunk in slices for which there is time: at least one, or a piece of one that can
 * stop. Returns what it took. */
int64_t sched__run_slice(struct sched *s);
/* Adds rows of drafts to a plan of sequences that decode. */
void sched__plan_drafts(struct sched *s);
/* `token` comes next: is it what the next row of the draft was computed for? */
bool sched__draft_right(struct sched *s, struct planned *p, int32_t token);
/* The planned rows are in the cache: commits them, samples, and ends what has ended. */
void sched__finish(struct sched *s);

#endif
