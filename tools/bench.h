/* tools/bench.h - what the modes of latent-bench share: options, the machine's bounds, the report. */
#ifndef LATENT_TOOLS_BENCH_H
#define LATENT_TOOLS_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/forward.h"
#include "engine/kernels/kern.h"

#define BENCH_MAX_REPEAT 64

struct bench_options {
    const char *model;
    enum cpu_level level;
    int threads;
    int batch, context, tokens, shared, repeat;
    enum cache_type cache_type;
    bool json;
};

struct bench_rig {
    const struct bench_options *o;
    struct checkpoint *ck;
    struct pool *pool;
    struct model *model;
    struct kv *kv;
    float *logits;
    double read_bytes_per_s; /* of the machine, all threads, measured now */
    double macs_per_s;       /* int8 products of the level, operands in L1, all threads */
    uint64_t active_bytes;   /* weights that one token touches */
    int64_t active_weights;  /* the same, counted in values */
};

/* One line of the result. bound <= 0: no bound is known for it. */
void bench_row(const struct bench_rig *r, const char *mode, const char *params, double value,
               const char *unit, double bound);
double bench_median(double *v, int n);

/* Streams memory far larger than the caches with all threads; bytes a second. */
double bench_read_bandwidth(struct pool *pool);
/* Products of a matrix that stays in L1 by 64 rows, all threads; multiply-adds a second. */
double bench_product_peak(struct pool *pool, const struct kernels *k);

#endif
