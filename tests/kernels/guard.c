/* tests/kernels/guard.c - guarded blocks, each in a mapping of its own that is used again after
 * guard_reset. One thread. */
#include "config.h"

#include "tests/kernels/guard.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAX_BLOCKS 1024
#define SLACK 128 /* bytes checked before a block; behind it all up to the forbidden page */
#define PATTERN 0xa5
#define PAGE_BYTES 4096u

static struct block {
    unsigned char *map, *p;
    size_t map_bytes; /* without the forbidden page */
    size_t n_bytes;
} blocks[MAX_BLOCKS];
static int n_blocks;

void *guard_new(size_t n_bytes, size_t align)
{
    if (n_blocks == MAX_BLOCKS)
        abort();
    struct block *b = &blocks[n_blocks++];
    size_t want = (n_bytes + align + SLACK + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
    if (b->map_bytes < want) {
        if (b->map)
            munmap(b->map, b->map_bytes + PAGE_BYTES);
        b->map = mmap(NULL, want + PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                      0);
        if (b->map == MAP_FAILED || mprotect(b->map + want, PAGE_BYTES, PROT_NONE) < 0)
            abort();
        b->map_bytes = want;
    }
    unsigned char *end = b->map + b->map_bytes;
    b->p = (unsigned char *)((uintptr_t)(end - n_bytes) & ~(uintptr_t)(align - 1));
    b->n_bytes = n_bytes;
    memset(b->p - SLACK, PATTERN, (size_t)(end - b->p) + SLACK);
    memset(b->p, 0, n_bytes);
    return b->p;
}

int guard_damaged(void)
{
    int n = 0;
    for (int i = 0; i < n_blocks; i++) {
        const struct block *b = &blocks[i];
        int bad = 0;
        for (const unsigned char *p = b->p - SLACK; p < b->p; p++)
            bad |= *p != PATTERN;
        for (const unsigned char *p = b->p + b->n_bytes; p < b->map + b->map_bytes; p++)
            bad |= *p != PATTERN;
        n += bad;
    }
    return n;
}

uint64_t guard_digest(uint64_t start)
{
    for (int i = 0; i < n_blocks; i++) {
        for (size_t at = 0; at < blocks[i].n_bytes; at += 4) {
            uint32_t word = 0;
            memcpy(&word, blocks[i].p + at, blocks[i].n_bytes - at < 4 ? blocks[i].n_bytes - at : 4);
            if ((word & 0x7fffffff) > 0x7f800000)
                word = 0x7fc00000;
            start = (start ^ word) * 0x9e3779b97f4a7c15ull;
            start ^= start >> 29;
        }
    }
    return start;
}

void guard_reset(void)
{
    n_blocks = 0;
}
