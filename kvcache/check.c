/* kvcache/check.c - kv_check: walks every structure of a cache. For tests, so it prints and aborts. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvcache/internal.h"

#define CHECK(cond)                                                              \
    do {                                                                         \
        if (!(cond)) {                                                           \
            fprintf(stderr, "kv_check: %s (page %u)\n", #cond, i);               \
            abort();                                                             \
        }                                                                        \
    } while (0)

void kv_check(const struct kv *kv)
{
    uint32_t i = 0, n_free = 0, held = 0, cached = 0, shared = 0, lru = 0, indexed = 0, dying = 0;
    uint32_t *children = calloc(kv->n_pages, sizeof(*children));
    CHECK(children != NULL);
    for (i = 0; i < kv->n_pages; i++) {
        const struct page *p = &kv->pages[i];
        n_free += p->state == PAGE_FREE;
        dying += p->state == PAGE_DYING;
        held += p->refs > 0;
        shared += p->refs > 1;
        cached += p->state == PAGE_SEALED && p->refs == 0;
        CHECK(p->state != PAGE_FREE || p->refs == 0);
        CHECK(p->state != PAGE_OPEN || p->refs == 1);
        if (p->state != PAGE_SEALED)
            continue;
        struct block_key key = {p->salt, p->parent, p->ways, page_tokens_of(kv, i)};
        CHECK(kv__index_find(kv, &key, p->hash) == i);
        struct hash128 h = kv__block_hash(kv, &key);
        CHECK(h.lo == p->hash.lo && h.hi == p->hash.hi);
        if (p->parent != NO_PAGE) {
            CHECK(kv->pages[p->parent].state == PAGE_SEALED);
            CHECK(p->refs == 0 || kv->pages[p->parent].refs > 0);
            children[p->parent]++;
        }
    }
    for (i = 0; i < kv->n_pages; i++)
        CHECK(kv->pages[i].children == children[i]);
    free(children);
    uint32_t prev = NO_PAGE;
    for (i = kv->lru_head; i != NO_PAGE; prev = i, i = kv->pages[i].next) {
        const struct page *p = &kv->pages[i];
        CHECK(p->state == PAGE_SEALED && p->refs == 0 && p->children == 0 && p->prev == prev);
        lru++;
    }
    i = NO_PAGE;
    CHECK(kv->lru_tail == prev);
    uint32_t leaves = 0;
    for (i = 0; i < kv->n_pages; i++) {
        const struct page *p = &kv->pages[i];
        leaves += p->state == PAGE_SEALED && p->refs == 0 && p->children == 0;
    }
    CHECK(leaves == lru);
    for (uint32_t b = 0; b < kv->n_buckets; b++)
        for (i = kv->buckets[b]; i != NO_PAGE; i = kv->pages[i].next_hash) {
            CHECK(kv->pages[i].state == PAGE_SEALED);
            indexed++;
        }
    uint32_t on_list = 0;
    for (i = kv->free_head; i != NO_PAGE; i = kv->pages[i].next)
        on_list++;
    CHECK(on_list == n_free && n_free == kv->n_free);
    CHECK(held == kv->n_held && cached == kv->n_cached && shared == kv->n_shared);
    CHECK(n_free + held + cached + dying == kv->n_pages);
    (void)indexed;
}
