/* tools/bench_around.h - measurements of what surrounds the products: the pool's barrier, and sampling over
 * a large vocabulary. Functions for the modes of latent-bench. */
#ifndef LATENT_TOOLS_BENCH_AROUND_H
#define LATENT_TOOLS_BENCH_AROUND_H

#include "engine/kernels/kern.h"
#include "engine/pool.h"

/* Nanoseconds that a job takes whose items, one for each thread, only wait for each other; jobs follow
 * each other, the best of many rounds. shares: handed out by pool_run_shares, else by pool_run. */
double bench_barrier_ns(struct pool *pool, int shares);

enum { BENCH_SAMPLINGS = 6 };
struct bench_sampling {
    const char *name;       /* of the parameters */
    double us;              /* to choose a token for each sequence, on all threads: the best of some rounds */
};
/* Samples n_seqs rows of vocab logits (as a step leaves them: in memory) under common parameters, as the
 * scheduler does. -1: out of memory. */
int bench_sampling(struct pool *pool, const struct kernels *kern, int n_seqs, int vocab,
                   struct bench_sampling ret[BENCH_SAMPLINGS]);

#endif
