/* tests/kernels/guard.h - memory whose edges are watched: a block ends at a page that cannot be
 * touched (or at most align - 1 bytes before it), and the bytes around it are checked. */
#ifndef LATENT_TESTS_KERNELS_GUARD_H
#define LATENT_TESTS_KERNELS_GUARD_H

#include <stddef.h>

/* Zeroed; aborts when out of memory. Lives until guard_reset. */
void *guard_new(size_t n_bytes, size_t align);
/* Blocks whose surroundings were written since they were made. */
int guard_damaged(void);
void guard_reset(void);

#endif
