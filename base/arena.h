/* base/arena.h - one allocation lifetime: everything taken from an arena goes when it goes.
 * Used one per request. Not thread safe; ownership may pass between threads with the arena. */
#ifndef LATENT_BASE_ARENA_H
#define LATENT_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

struct arena;

/* max_bytes bounds the sum of all allocations. NULL when out of memory. */
struct arena *arena_new(size_t max_bytes);
void arena_free(struct arena *a); /* NULL is fine */
/* 16-byte aligned, zeroed. NULL when out of memory or beyond max_bytes. */
void *arena_alloc(struct arena *a, size_t n_bytes);
bool arena_starved(const struct arena *a); /* one NULL was for want of memory, not for max_bytes */
void *arena_array(struct arena *a, size_t n, size_t elem_bytes); /* overflow-checked */
char *arena_strndup(struct arena *a, const char *s, size_t n_bytes); /* adds a NUL */
void *arena_memdup(struct arena *a, const void *p, size_t n_bytes);

#endif
