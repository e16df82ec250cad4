/* tools/bench_time.h - timing single kernels, and what they work on. */
#ifndef LATENT_TOOLS_BENCH_TIME_H
#define LATENT_TOOLS_BENCH_TIME_H

#include <stddef.h>
#include "engine/kernels/kern.h"
#include "tools/bench.h"

/* 64-aligned memory filled with float32 values in -1..1; ends the program when there is none. */
void *bench_memory(size_t n_bytes);
/* Of one call; best of many short rounds: what the machine does when nobody disturbs. */
double bench_microseconds(void (*f)(const struct kernels *), const struct kernels *k);
/* The kernels of attention over a whole context, in the shapes of published models. */
void bench_attention(const struct bench_machine *m, int context);

#endif
