/* tests/kernels/guard.h - memory whose edges are watched: a block ends at a page that cannot be
 * touched (or at most align - 1 bytes before it), and the bytes around it are checked. */
#ifndef LATENT_TESTS_KERNELS_GUARD_H
#define LATENT_TESTS_KERNELS_GUARD_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed; aborts when out of memory. Lives until guard_reset. */
void *guard_new(size_t n_bytes, size_t align);
/* Blocks whose surroundings were written since they were made. */
int guard_damaged(void);
/* Of the contents of all blocks, joined to `start`. Every word that could be a NaN counts as one and
 * the same: which NaN an operation gives is up to the machine. */
uint64_t guard_digest(uint64_t start);
void guard_reset(void);

#endif
