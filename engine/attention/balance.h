/* engine/attention/balance.h - how the segments of a round are cut into work items: a question of speed
 * alone, never of results. */
#ifndef LATENT_ENGINE_ATTENTION_BALANCE_H
#define LATENT_ENGINE_ATTENTION_BALANCE_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"

struct balance_plan {
    int32_t n_parts; /* parts of about equally many lane groups, at most ATTN_MAX_GROUPS each */
    bool spread;     /* the pieces of a part are items of their own */
};

struct balance_job {
    int32_t id; /* the caller's */
    int32_t n_groups, n_pieces;
    struct balance_plan plan;
};

struct balance {
    int n_threads;
    struct balance_job *jobs; /* [max_jobs] */
    int32_t *order;           /* of jobs, the longest items first */
    int n_jobs;
};

int balance__init(struct balance *b, int max_jobs, int n_threads) LATENT_MUST_CHECK;
void balance__done(struct balance *b);
/* A job of n_groups lane groups and n_pieces pieces. */
void balance__add(struct balance *b, int id, int n_groups, int n_pieces);
/* Sets the plans of all jobs. */
void balance__plan(struct balance *b);

#endif
