/* engine/pool.h - the compute pool: one fork-join job at a time over persistent, pinned threads.
 *
 * The caller (engine thread) takes part in every job. Workers spin briefly after a job, then sleep,
 * so that hundreds of small jobs a step cost little and an idle daemon costs nothing. Which thread
 * runs which item never changes a result: items write to places of their own. */
#ifndef LATENT_ENGINE_POOL_H
#define LATENT_ENGINE_POOL_H

#include "base/err.h"

struct pool;

/* n_threads >= 1 counts the caller; pin says whether workers are bound to CPUs (the caller's own
 * affinity mask is respected). ERR_NOMEM, ERR_IO (thread could not start). */
int pool_new(int n_threads, int pin, struct pool **ret, struct err *e) LATENT_MUST_CHECK;
void pool_free(struct pool **p);
int pool_threads(const struct pool *p);
/* Calls fn(arg, item, thread) once for each item in [0, n_items), thread in [0, pool_threads).
 * Items are handed out in ascending order, one at a time; returns when all are done, with their
 * writes visible. Not reentrant; one calling thread at a time. */
void pool_run(struct pool *p, int n_items, void (*fn)(void *arg, int item, int thread), void *arg);
/* CPUs this process may use (affinity and cgroup quota), at least 1. */
int pool_default_threads(void);

#endif
