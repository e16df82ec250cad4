/* tools/bench_time.c - see bench_time.h. */
#include "config.h"

#include "tools/bench_time.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

#define ROUND_NS (NS_PER_MS / 20)
#define ALL_NS (150 * NS_PER_MS)

void *bench_memory(size_t n_bytes)
{
    uint64_t seed = 0x9e3779b97f4a7c15ull;
    size_t n = (n_bytes + 63) & ~(size_t)63;
    float *f = aligned_alloc(64, n);
    if (!f) {
        fprintf(stderr, "latent-bench: out of memory\n");
        exit(1);
    }
    for (size_t i = 0; i < n / sizeof(*f); i++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        f[i] = (float)(int32_t)(seed >> 32) * 0x1p-31f;
    }
    return f;
}

double bench_microseconds(void (*f)(const struct kernels *), const struct kernels *k)
{
    double best = INFINITY;
    int64_t begin = clock_now_ns(), end = begin + ALL_NS;
    f(k);
    if (clock_now_ns() > end) /* so slow that once says it */
        return (double)(clock_now_ns() - begin) / 1000.0;
    for (int round = 0; round < 3 || clock_now_ns() < end; round++) {
        int64_t start = clock_now_ns(), now = start;
        int n = 0;
        for (; now - start < ROUND_NS; n++, now = clock_now_ns())
            f(k);
        best = fmin(best, (double)(now - start) / 1000.0 / n);
    }
    return best;
}
