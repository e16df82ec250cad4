/* base/arena.c - allocations that go together; see arena.h. */
#include "config.h"

#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES ((size_t)4096)
#define ALIGN_BYTES ((size_t)16)

struct chunk {
    struct chunk *next;
    size_t used, cap;
    _Alignas(16) unsigned char data[];
};

struct arena {
    struct chunk *chunks;
    size_t total_bytes, max_bytes;
    bool starved;
};

struct arena *arena_new(size_t max_bytes)
{
    struct arena *a = calloc(1, sizeof(*a));
    if (a)
        a->max_bytes = max_bytes;
    return a;
}

void arena_free(struct arena *a)
{
    if (!a)
        return;
    while (a->chunks) {
        struct chunk *next = a->chunks->next;
        free(a->chunks);
        a->chunks = next;
    }
    free(a);
}

void *arena_alloc(struct arena *a, size_t n_bytes)
{
    if (n_bytes > SIZE_MAX - ALIGN_BYTES)
        return NULL;
    n_bytes = (n_bytes + ALIGN_BYTES - 1) & ~(ALIGN_BYTES - 1);
    if (n_bytes == 0)
        n_bytes = ALIGN_BYTES;
    if (n_bytes > a->max_bytes || a->total_bytes > a->max_bytes - n_bytes)
        return NULL;
    struct chunk *c = a->chunks;
    if (!c || c->cap - c->used < n_bytes) {
        size_t cap = n_bytes > CHUNK_BYTES ? n_bytes : CHUNK_BYTES;
        if (cap > SIZE_MAX - sizeof(*c))
            return NULL;
        c = malloc(sizeof(*c) + cap);
        if (!c) {
            a->starved = true;
            return NULL;
        }
        c->used = 0;
        c->cap = cap;
        /* A chunk made to measure is full at once: the one with room stays in front. */
        if (a->chunks && n_bytes > CHUNK_BYTES) {
            c->next = a->chunks->next;
            a->chunks->next = c;
        } else {
            c->next = a->chunks;
            a->chunks = c;
        }
    }
    void *p = c->data + c->used;
    c->used += n_bytes;
    a->total_bytes += n_bytes;
    return memset(p, 0, n_bytes);
}

bool arena_starved(const struct arena *a)
{
    return a->starved;
}

void *arena_array(struct arena *a, size_t n, size_t elem_bytes)
{
    if (elem_bytes && n > SIZE_MAX / elem_bytes)
        return NULL;
    return arena_alloc(a, n * elem_bytes);
}

char *arena_strndup(struct arena *a, const char *s, size_t n_bytes)
{
    if (n_bytes == SIZE_MAX)
        return NULL;
    char *p = arena_alloc(a, n_bytes + 1);
    if (p && n_bytes)
        memcpy(p, s, n_bytes);
    return p;
}

void *arena_memdup(struct arena *a, const void *src, size_t n_bytes)
{
    void *p = arena_alloc(a, n_bytes);
    if (p && n_bytes)
        memcpy(p, src, n_bytes);
    return p;
}
