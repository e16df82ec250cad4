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
    uint32_t i = 0, n_free = 0, held = 0, cached = 0, shared = 0, evictable = 0, dying = 0, sealed = 0;
    uint32_t pinned = 0, pinned_idle = 0, leaves = 0, probation = 0;
    uint32_t *children = calloc(kv->n_pages, 2 * sizeof(*children)), *pins = children + kv->n_pages;
    CHECK(children != NULL);
    CHECK(kv->n_pins <= kv->max_pinned && kv->n_pinned <= kv->max_pinned);
    for (uint32_t k = 0; k < kv->n_pins; k++) {
        uint32_t n = 0;
        for (i = kv->pins[k].last; i != NO_PAGE; i = kv->pages[i].parent, n++)
            pins[i]++;
        CHECK(n == kv->pins[k].n_pages);
    }
    for (i = 0; i < kv->n_pages; i++) {
        const struct page *p = &kv->pages[i];
        n_free += p->state == PAGE_FREE;
        dying += p->state == PAGE_DYING;
        held += p->refs > 0;
        shared += p->refs > 1;
        cached += p->state == PAGE_SEALED && p->refs == 0;
        CHECK(p->state != PAGE_FREE || p->refs == 0);
        CHECK(p->state != PAGE_OPEN || p->refs == 1);
        CHECK(p->state != PAGE_DYING || p->refs == 0);
        CHECK(p->pins == pins[i] && (p->pins == 0 || p->state == PAGE_SEALED));
        pinned += p->pins > 0;
        pinned_idle += p->pins > 0 && p->refs == 0;
        if (p->state != PAGE_SEALED)
            continue;
        sealed++;
        struct block_key key = {p->salt, p->parent, p->ways, page_tokens_of(kv, i)};
        CHECK(kv__index_find(kv, &key, p->hash) == i);
        struct hash128 h = kv__block_hash(kv, &key);
        CHECK(h.lo == p->hash.lo && h.hi == p->hash.hi);
        if (p->parent != NO_PAGE) {
            CHECK(kv->pages[p->parent].state == PAGE_SEALED);
            CHECK(p->refs == 0 || kv->pages[p->parent].refs > 0);
            CHECK(p->pins <= kv->pages[p->parent].pins);
            children[p->parent]++;
        }
    }
    for (i = 0; i < kv->n_pages; i++)
        CHECK(kv->pages[i].children == children[i]);
    free(children);
    for (uint32_t h = 0; h < 2; h++)
        for (uint32_t k = 0; k < kv->evictable[h].n; k++) {
            i = kv->evictable[h].ids[k];
            const struct page *p = &kv->pages[i];
            CHECK(p->state == PAGE_SEALED && p->refs == 0 && p->children == 0 && p->pins == 0);
            CHECK(p->heap_at == k && p->probation == h);
            CHECK(kv->pages[kv->evictable[h].ids[(k ? k - 1 : 0) / 2]].let_go <= p->let_go);
            evictable++;
        }
    for (i = 0; i < kv->n_pages; i++) {
        const struct page *p = &kv->pages[i];
        CHECK(p->probation == 0 || p->state == PAGE_SEALED);
        probation += p->probation;
        leaves += p->state == PAGE_SEALED && p->refs == 0 && p->children == 0 && p->pins == 0;
    }
    CHECK(leaves == evictable && probation == kv->n_probation);
    uint32_t indexed = 0, listed = 0, on_list = 0, before;
    for (uint32_t b = 0; b < kv->n_buckets; b++) {
        for (i = kv->buckets[b]; i != NO_PAGE; i = kv->pages[i].next_hash) {
            CHECK(kv->pages[i].state == PAGE_SEALED);
            indexed++;
        }
        for (before = NO_PAGE, i = kv->heads[b]; i != NO_PAGE; before = i, i = kv->pages[i].next_head) {
            CHECK(kv->pages[i].state == PAGE_SEALED && kv->pages[i].prev_head == before);
            listed++;
        }
    }
    CHECK(indexed == sealed && listed == sealed);
    for (i = kv->free_head; i != NO_PAGE; i = kv->pages[i].next)
        on_list++;
    CHECK(on_list == n_free && n_free == kv->n_free);
    CHECK(held == kv->n_held && cached == kv->n_cached && shared == kv->n_shared);
    CHECK(n_free + held + cached + dying == kv->n_pages);
    CHECK(pinned == kv->n_pinned && pinned_idle == kv->n_pinned_idle);
}
