/* tools/bench_around.h - measurements of what surrounds the products: the pool's barrier, and sampling over
 * a large vocabulary. Functions for the modes of latent-bench. */
#ifndef LATENT_TOOLS_BENCH_AROUND_H
#define LATENT_TOOLS_BENCH_AROUND_H

#include "engine/pool.h"

/* Nanoseconds that a job takes whose items, one for each thread, only wait for each other; jobs follow
 * each other, the best of many rounds. shares: handed out by pool_run_shares, else by pool_run. */
double bench_barrier_ns(struct pool *pool, int shares);

#endif
