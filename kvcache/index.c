/* kvcache/index.c - sealed pages found by content. The key of a block is a hash chained from the
 * salt through all blocks before it; a find also compares the tokens and the page of the block
 * before, which was found the same way, so that a hash collision can never share wrong rows. */
#include "config.h"

#include <string.h>

#include "kvcache/internal.h"

struct hash128 kv__block_hash(const struct kv *kv, uint64_t salt, uint32_t parent,
                              const int32_t *tokens)
{
    struct hash128 root = {salt, 0x6c6174656e74ull};
    return hash128_chain(parent == NO_PAGE ? root : kv->pages[parent].hash, tokens, kv->page_tokens);
}

uint32_t kv__index_find(const struct kv *kv, uint64_t salt, uint32_t parent, struct hash128 hash,
                        const int32_t *tokens)
{
    uint32_t id = kv->buckets[hash.lo & (kv->n_buckets - 1)];
    for (; id != NO_PAGE; id = kv->pages[id].next_hash) {
        const struct page *p = &kv->pages[id];
        if (p->hash.lo == hash.lo && p->hash.hi == hash.hi && p->parent == parent &&
            p->salt == salt &&
            !memcmp(page_tokens_of(kv, id), tokens, kv->page_tokens * sizeof(*tokens)))
            return id;
    }
    return NO_PAGE;
}

void kv__index_add(struct kv *kv, uint32_t id)
{
    uint32_t *bucket = &kv->buckets[kv->pages[id].hash.lo & (kv->n_buckets - 1)];
    kv->pages[id].next_hash = *bucket;
    *bucket = id;
}

void kv__index_remove(struct kv *kv, uint32_t id)
{
    uint32_t *at = &kv->buckets[kv->pages[id].hash.lo & (kv->n_buckets - 1)];
    while (*at != id)
        at = &kv->pages[*at].next_hash;
    *at = kv->pages[id].next_hash;
    kv->pages[id].next_hash = NO_PAGE;
}
