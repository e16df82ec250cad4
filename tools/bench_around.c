/* tools/bench_around.c - see bench_around.h. */
#include "config.h"

#include "tools/bench_around.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/sampler.h"

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

/* --- sampling ---------------------------------------------------------------------------------- */

#define SAMPLING_ROUNDS 7

struct sampling {
    int n_seqs, vocab, n_threads;
    float *logits; /* [n_seqs][vocab] */
    struct sampler **samplers;
    struct sampler_scratch **scratch; /* [n_threads] */
    int round;
    _Atomic int failed;
};

static void pick(void *arg, int item, int thread)
{
    struct sampling *s = arg;
    int32_t token;
    if (sampler_pick(s->samplers[item], s->scratch[thread], s->logits + (size_t)item * (size_t)s->vocab, NULL,
                     0, s->round, &token) < 0)
        atomic_store(&s->failed, 1);
}

/* About normal, deviation 2, and ten likely tokens in each row: the shape that models give. */
static void make_logits(struct sampling *s)
{
    uint64_t state = 88172645463325252ull;
    for (size_t i = 0; i < (size_t)s->n_seqs * (size_t)s->vocab; i++) {
        int sum = 0;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        for (int b = 0; b < 64; b += 8)
            sum += (int)(state >> b & 255) - 127;
        s->logits[i] = (float)sum * 0.0096f + (state % (uint64_t)s->vocab < 10 ? 10.0f : 0.0f);
    }
}

static double time_sampling(struct sampling *s, struct pool *pool, const struct sampling_params *p)
{
    int64_t best = INT64_MAX;
    for (int i = 0; i < s->n_seqs; i++)
        if (sampler_new(p, i, s->vocab, NULL, 0, SAMPLING_ROUNDS, NULL, &s->samplers[i]) < 0)
            atomic_store(&s->failed, 1);
    for (s->round = 0; s->round < SAMPLING_ROUNDS && !atomic_load(&s->failed); s->round++) {
        int64_t t0 = clock_now_ns();
        pool_run(pool, s->n_seqs, pick, s);
        int64_t t = clock_now_ns() - t0;
        best = t < best ? t : best;
    }
    for (int i = 0; i < s->n_seqs; i++)
        sampler_free(&s->samplers[i]);
    return (double)best / 1e3;
}

int bench_sampling(struct pool *pool, const struct kernels *kern, int n_seqs, int vocab,
                   struct bench_sampling ret[BENCH_SAMPLINGS])
{
    static const struct {
        const char *name;
        struct sampling_params p;
    } rows[BENCH_SAMPLINGS] = {
        {"sampling: greedy", {.top_p = 1}},
        {"sampling: temperature 1", {.temperature = 1, .top_p = 1}},
        {"sampling: top_k 40", {.temperature = 1, .top_p = 1, .top_k = 40}},
        {"sampling: top_p 0.95", {.temperature = 1, .top_p = 0.95f}},
        {"sampling: top_k 40, top_p 0.95", {.temperature = 1, .top_p = 0.95f, .top_k = 40}},
        {"sampling: min_p 0.05", {.temperature = 1, .top_p = 1, .min_p = 0.05f}},
    };
    struct sampling s = {.n_seqs = n_seqs, .vocab = vocab, .n_threads = pool_threads(pool)};
    s.logits = malloc((size_t)n_seqs * (size_t)vocab * sizeof(float));
    s.samplers = calloc((size_t)n_seqs, sizeof(*s.samplers));
    s.scratch = calloc((size_t)s.n_threads, sizeof(*s.scratch));
    bool ok = s.logits && s.samplers && s.scratch;
    for (int t = 0; ok && t < s.n_threads; t++)
        ok = (s.scratch[t] = sampler_scratch_new(kern, vocab)) != NULL;
    if (ok)
        make_logits(&s);
    for (int i = 0; ok && i < BENCH_SAMPLINGS; i++) {
        struct sampling_params p = rows[i].p;
        p.repetition_penalty = 1;
        p.seed = 1;
        ret[i] = (struct bench_sampling){rows[i].name, time_sampling(&s, pool, &p)};
        ok = !atomic_load(&s.failed);
    }
    for (int t = 0; s.scratch && t < s.n_threads; t++)
        sampler_scratch_free(s.scratch[t]);
    free(s.scratch);
    free(s.samplers);
    free(s.logits);
    return ok ? 0 : -1;
}
