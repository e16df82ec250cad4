/* tools/peak.h - loops that do nothing but multiply, or nothing but read, with one instruction set's own
 * instructions: what the machine could do at best, whatever the engine's kernels reach. */
#ifndef LATENT_TOOLS_PEAK_H
#define LATENT_TOOLS_PEAK_H

#include <stddef.h>
#include <stdint.h>
#include "base/cpu.h"

enum peak_unit {
    PEAK_I8 = 0, /* 8-bit integers */
    PEAK_F32,
    PEAK_BF16,
    PEAK_UNITS,
};

/* Returns the multiply-adds done: about `turns` times those of a register file of sums. All operands stay in
 * registers. */
typedef int64_t peak_mul_fn(int64_t turns);
/* NULL when the level has no such unit of its own, or it is unknown how to reach it. */
peak_mul_fn *peak_mul(enum cpu_level level, enum peak_unit unit);

/* Reads n_bytes (a multiple of 512, 64-aligned) and returns something made of them, so that the loads
 * stay. ahead: distance of the prefetches in bytes; 0: none. */
typedef uint64_t peak_read_fn(const void *p, size_t n_bytes, size_t ahead);
peak_read_fn *peak_read(enum cpu_level level);

#endif
