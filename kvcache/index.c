/* kvcache/index.c - sealed pages found by content. The key of a block is a hash chained from the
 * salt through all blocks before it and their ways; a find also compares the tokens, the ways and
 * the page of the block before, which was found the same way, so that a hash collision can never
 * share wrong rows. */
#include "config.h"

#include <string.h>

#include "kvcache/internal.h"

struct block_key kv__block_key(const struct kv *kv, uint64_t salt, const uint32_t ends[KV_WAYS], uint32_t at,
                               uint32_t parent, const int32_t *tokens)
{
    struct block_key key = {.salt = salt, .parent = parent, .tokens = tokens};
    for (int w = 0; w < KV_WAYS; w++) {
        uint32_t n = ends[w] > at ? ends[w] - at : 0;
        key.ways.rows[w] = (uint16_t)(n < kv->page_tokens ? n : kv->page_tokens);
    }
    return key;
}

struct hash128 kv__block_hash(const struct kv *kv, const struct block_key *key)
{
    struct hash128 before = {key->salt, 0x6c6174656e74ull};
    if (key->parent != NO_PAGE)
        before = kv->pages[key->parent].hash;
    for (int w = 0; w < KV_WAYS; w++)
        before.hi ^= (uint64_t)key->ways.rows[w] << 16 * w;
    return hash128_chain(before, key->tokens, kv->page_tokens);
}

uint32_t kv__index_find(const struct kv *kv, const struct block_key *key, struct hash128 hash)
{
    uint32_t id = kv->buckets[hash.lo & (kv->n_buckets - 1)];
    for (; id != NO_PAGE; id = kv->pages[id].next_hash) {
        const struct page *p = &kv->pages[id];
        if (p->hash.lo == hash.lo && p->hash.hi == hash.hi && p->parent == key->parent &&
            p->salt == key->salt && !memcmp(&p->ways, &key->ways, sizeof(p->ways)) &&
            !memcmp(page_tokens_of(kv, id), key->tokens, kv->page_tokens * sizeof(*key->tokens)))
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
