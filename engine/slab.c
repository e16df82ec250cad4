/* engine/slab.c - see slab.h. Memory is taken from the front of the newest map; what is left at the end of
 * an older one was never touched, so it is address space and not memory. */
#include "config.h"

#include "engine/slab.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/place.h"

#define HUGE_PAGE ((size_t)2 << 20)
#define CHUNK_BYTES ((size_t)256 << 20)
#define AHEAD_BYTES ((size_t)32 << 20)

struct chunk {
    struct chunk *next;
    unsigned char *data;
    size_t used, ready, n_bytes; /* ready: pages before it are there */
};

struct slab {
    struct chunk *chunks; /* newest first */
    struct pool *pool;
    size_t total; /* made ready, all chunks */
};

struct slab *slab_new(struct pool *pool)
{
    struct slab *s = calloc(1, sizeof(*s));
    if (s)
        s->pool = pool;
    return s;
}

void slab_free(struct slab *s)
{
    if (!s)
        return;
    while (s->chunks) {
        struct chunk *c = s->chunks;
        s->chunks = c->next;
        munmap(c->data, c->n_bytes);
        free(c);
    }
    free(s);
}

static struct chunk *chunk_new(size_t n_bytes)
{
    struct chunk *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    /* one huge page more, to begin at a boundary of them */
    unsigned char *p = mmap(NULL, n_bytes + HUGE_PAGE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        free(c);
        return NULL;
    }
    size_t before = -(uintptr_t)p % HUGE_PAGE, after = HUGE_PAGE - before;
    if (before)
        munmap(p, before);
    if (after)
        munmap(p + before + n_bytes, after);
    c->data = p + before;
    c->n_bytes = n_bytes;
#ifdef MADV_HUGEPAGE
    madvise(c->data, n_bytes, MADV_HUGEPAGE); /* without them it is only slower */
#endif
    /* Who will read an expert is not known before a token chooses it: all nodes share the reading. */
    place_interleave(c->data, n_bytes);
    return c;
}

static void ready_item(void *arg, int item, int thread)
{
    const struct chunk *c = arg;
    (void)thread;
#ifdef MADV_POPULATE_WRITE
    /* a hint: where it fails the pages come when they are written */
    (void)madvise(c->data + c->ready + (size_t)item * HUGE_PAGE, HUGE_PAGE, MADV_POPULATE_WRITE);
#else
    (void)c;
    (void)item;
#endif
}

/* The system clears pages before it gives them: all threads at once, not one while the others wait for its
 * piece of a matrix. Ahead by as much as there is already, so that small models stay small. */
static void make_ready(struct slab *s, struct chunk *c)
{
    size_t ahead = s->total < AHEAD_BYTES ? s->total : AHEAD_BYTES;
    size_t end = (c->used + ahead + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    if (end > c->n_bytes)
        end = c->n_bytes;
    pool_run(s->pool, (int)((end - c->ready) / HUGE_PAGE), ready_item, c);
    s->total += end - c->ready;
    c->ready = end;
}

void *slab_alloc(struct slab *s, size_t n_bytes)
{
    struct chunk *c = s->chunks;
    if (n_bytes > SIZE_MAX / 2)
        return NULL;
    n_bytes = (n_bytes + 63) & ~(size_t)63;
    if (!c || c->n_bytes - c->used < n_bytes) {
        size_t whole = (n_bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
        c = chunk_new(whole > CHUNK_BYTES ? whole : CHUNK_BYTES);
        if (!c)
            return NULL;
        c->next = s->chunks;
        s->chunks = c;
    }
    void *p = c->data + c->used;
    c->used += n_bytes;
    if (c->used > c->ready)
        make_ready(s, c);
    return p;
}
