/* kvcache/index.c - sealed pages found by content. The key of a block is a hash chained from the
 * salt through all blocks before it and their ways; a find also compares the tokens, the ways and
 * the page of the block before, which was found the same way, so that a hash collision can never
 * share wrong rows. A second table lists pages by the page before and their first token, for those that
 * share only a beginning with what is looked for. */
#include "config.h"

#include <string.h>

#include "kvcache/internal.h"

struct block_key kv__block_key(const struct kv *kv, uint64_t salt, const uint32_t ends[KV_WAYS], uint32_t at,
                               uint32_t parent, const int32_t *tokens)
{
    return (struct block_key){salt, parent, kv__ways_at(ends, at, kv->page_tokens), tokens};
}

struct hash128 kv__chain_hash(struct hash128 before, struct ways ways, const int32_t *tokens, uint32_t n)
{
    for (int w = 0; w < KV_WAYS; w++)
        before.hi ^= (uint64_t)ways.rows[w] << 16 * w;
    return hash128_chain(before, tokens, n);
}

struct hash128 kv__block_hash(const struct kv *kv, const struct block_key *key)
{
    struct hash128 before = key->parent == NO_PAGE ? kv__root_hash(key->salt) : kv->pages[key->parent].hash;
    return kv__chain_hash(before, key->ways, key->tokens, kv->page_tokens);
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

/* Where the pages after `parent` (or, after none, of the salt) that begin with `token` are listed. */
static uint32_t *head_of(const struct kv *kv, uint64_t salt, uint32_t parent, int32_t token)
{
    uint64_t h = parent == NO_PAGE ? salt : kv->pages[parent].hash.lo;
    h = (h ^ (uint32_t)token) * 0x9e3779b97f4a7c15ull;
    return &kv->heads[(h >> 32) & (kv->n_buckets - 1)];
}

/* Of the first `most` rows, those that a page and a block have in common. */
static uint32_t common_rows(const struct kv *kv, uint32_t id, const struct block_key *key, uint32_t most)
{
    const struct page *p = &kv->pages[id];
    for (int w = 0; w < KV_WAYS; w++) { /* where one has left the way and the other not, they differ */
        uint16_t a = p->ways.rows[w], b = key->ways.rows[w], end = a < b ? a : b;
        if (a != b && end < most)
            most = end;
    }
    const int32_t *t = page_tokens_of(kv, id);
    uint32_t n = 0;
    while (n < most && t[n] == key->tokens[n])
        n++;
    return n - n % kv->tail_unit;
}

uint32_t kv__index_find_tail(const struct kv *kv, const struct block_key *key, uint32_t least, uint32_t most,
                             uint32_t *ret_rows)
{
    uint32_t best = NO_PAGE, rows = least - 1, left = KV_TAIL_SEARCH;
    uint32_t id = *head_of(kv, key->salt, key->parent, key->tokens[0]);
    for (; id != NO_PAGE && left > 0; id = kv->pages[id].next_head, left--) {
        if (kv->pages[id].parent != key->parent || kv->pages[id].salt != key->salt)
            continue;
        uint32_t n = common_rows(kv, id, key, most);
        if (n > rows) {
            rows = n;
            best = id;
        }
    }
    if (best != NO_PAGE)
        *ret_rows = rows;
    return best;
}

void kv__index_add(struct kv *kv, uint32_t id)
{
    struct page *p = &kv->pages[id];
    uint32_t *bucket = &kv->buckets[p->hash.lo & (kv->n_buckets - 1)];
    p->next_hash = *bucket;
    *bucket = id;
    uint32_t *head = head_of(kv, p->salt, p->parent, page_tokens_of(kv, id)[0]);
    p->prev_head = NO_PAGE;
    p->next_head = *head;
    if (*head != NO_PAGE)
        kv->pages[*head].prev_head = id;
    *head = id;
}

void kv__index_remove(struct kv *kv, uint32_t id)
{
    struct page *p = &kv->pages[id];
    uint32_t *at = &kv->buckets[p->hash.lo & (kv->n_buckets - 1)];
    while (*at != id)
        at = &kv->pages[*at].next_hash;
    *at = p->next_hash;
    if (p->prev_head != NO_PAGE)
        kv->pages[p->prev_head].next_head = p->next_head;
    else
        *head_of(kv, p->salt, p->parent, page_tokens_of(kv, id)[0]) = p->next_head;
    if (p->next_head != NO_PAGE)
        kv->pages[p->next_head].prev_head = p->prev_head;
    p->next_hash = p->prev_head = p->next_head = NO_PAGE;
}
