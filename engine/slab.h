/* engine/slab.h - memory for packed weights: a few large maps in huge pages, given back all at once.
 *
 * A model has thousands of matrices. One allocation each would cost a page fault for every 4 KiB of them
 * while loading, and misses of the translation buffer for ever after. One thread. */
#ifndef LATENT_ENGINE_SLAB_H
#define LATENT_ENGINE_SLAB_H

#include <stddef.h>
#include "engine/pool.h"

struct slab;

/* The pool makes the pages ready, some ahead of use; borrowed. NULL: out of memory. */
struct slab *slab_new(struct pool *pool);
void slab_free(struct slab *s); /* NULL is fine */
/* n_bytes, zeroed, 64-aligned, that live as long as the slab; NULL: out of memory. */
void *slab_alloc(struct slab *s, size_t n_bytes);

#endif
