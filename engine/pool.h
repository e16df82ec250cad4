/* engine/pool.h - the compute pool: one fork-join job at a time over persistent, pinned threads.
 *
 * The caller (engine thread) takes part in every job. Workers spin briefly after a job, then let others
 * run, then sleep, so that hundreds of small jobs a step cost little and an idle daemon costs nothing.
 * A job is over when its items are: a worker that did not come in time is not waited for, so that more
 * threads than processors, or a busy neighbour, cost speed in proportion and no more. Which thread runs
 * which item never changes a result: items write to places of their own. */
#ifndef LATENT_ENGINE_POOL_H
#define LATENT_ENGINE_POOL_H

#include "base/err.h"

#define POOL_MAX_THREADS 1024

struct pool;

/* n_threads >= 1 counts the caller; pin says whether threads are bound to processors, the caller to the
 * first (within its own affinity mask, which pool_free gives back to it). ERR_NOMEM, ERR_IO (thread could
 * not start). */
int pool_new(int n_threads, int pin, struct pool **ret, struct err *e) LATENT_MUST_CHECK;
void pool_free(struct pool **p);
int pool_threads(const struct pool *p);
/* Calls fn(arg, item, thread) once for each item in [0, n_items), thread in [0, pool_threads).
 * Items are handed out in ascending order, one at a time; returns when all are done, with their
 * writes visible. Not reentrant; one calling thread at a time. */
void pool_run(struct pool *p, int n_items, void (*fn)(void *arg, int item, int thread), void *arg);
/* The same with shares: thread t begins with items [first[t], first[t + 1]), first[pool_threads] in all, and
 * helps the others when it is done with them. No two threads meet at a counter until then, and what one
 * thread reads in one job it mostly reads in the next, from its own caches and its own node's memory. */
void pool_run_shares(struct pool *p, const int *first, void (*fn)(void *arg, int item, int thread),
                     void *arg);
/* CPUs that the calling thread may use (affinity and cgroup quota), at least 1: ask before pool_new binds
 * it. */
int pool_default_threads(void);
/* What the quotas of a process's control groups, and of those above them, allow: CPUs, rounded up; 0: there
 * is none. groups: its /proc/PID/cgroup; mount: where the hierarchies are. */
int pool_quota(const char *groups, const char *mount);

#endif
