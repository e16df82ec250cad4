/* tools/bench_around.c - see bench_around.h. */
#include "config.h"

#include "tools/bench_around.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/clock.h"

#define BARRIER_ROUNDS 2000
#define BARRIER_JOBS 20

struct barrier {
    _Atomic int met; /* items of this job and those before it */
    int until;
};

/* Nobody leaves before all have come: the worker that the caller could do without is part of the figure. */
static void meet(void *arg, int item, int thread)
{
    struct barrier *b = arg;
    (void)item;
    (void)thread;
    atomic_fetch_add(&b->met, 1);
    for (int i = 1; atomic_load(&b->met) < b->until; i++)
        if (i % 10000 == 0)
            sched_yield();
}

double bench_barrier_ns(struct pool *pool, int shares)
{
    struct barrier b = {0};
    int n = pool_threads(pool);
    int64_t best = INT64_MAX;
    int *first = calloc((size_t)n + 1, sizeof(*first));
    if (!first)
        return 0;
    for (int i = 0; i <= n; i++)
        first[i] = i;
    for (int round = 0; round < BARRIER_ROUNDS; round++) {
        int64_t t0 = clock_now_ns();
        b.met = b.until = 0;
        for (int i = 0; i < BARRIER_JOBS; i++) {
            b.until += n;
            if (shares)
                pool_run_shares(pool, first, meet, &b);
            else
                pool_run(pool, n, meet, &b);
        }
        int64_t t = clock_now_ns() - t0;
        best = t < best ? t : best;
    }
    free(first);
    return (double)best / BARRIER_JOBS;
}
