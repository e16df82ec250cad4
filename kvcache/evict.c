/* kvcache/evict.c - which cached page goes first.
 *
 * A page is evicted only when no sequence holds it, no pin keeps it and no sealed page follows it, so that
 * the index never holds a block whose beginning is gone. Such pages stand in two heaps, each by when they
 * were last let go, which for the pages of one sequence is from its end to its beginning.
 *
 * Pages on probation were sealed by a prompt of which less than half was known, and were never matched
 * since: a conversation that begins, or a prompt that comes once. They may have a quarter of the pool;
 * beyond that the oldest of them goes, whatever its age. Else the oldest page of all goes. So recency
 * decides between conversations, which no count of uses did as well as (figures in README.md), and long
 * prompts that come once turn over in their quarter. */
#include "config.h"

#include <stdlib.h>

#include "kvcache/internal.h"

static bool older(const struct kv *kv, uint32_t a, uint32_t b)
{
    return kv->pages[a].let_go < kv->pages[b].let_go;
}

static void put(struct kv *kv, struct heap *h, uint32_t at, uint32_t id)
{
    h->ids[at] = id;
    kv->pages[id].heap_at = at;
}

/* The page at `at` moves to where it belongs. */
static void settle(struct kv *kv, struct heap *h, uint32_t at)
{
    uint32_t id = h->ids[at];
    for (; at > 0 && older(kv, id, h->ids[(at - 1) / 2]); at = (at - 1) / 2)
        put(kv, h, at, h->ids[(at - 1) / 2]);
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child + 1 < h->n && older(kv, h->ids[child + 1], h->ids[child]))
            child++;
        if (child >= h->n || !older(kv, h->ids[child], id))
            break;
        put(kv, h, at, h->ids[child]);
        at = child;
    }
    put(kv, h, at, id);
}

static struct heap *heap_of(struct kv *kv, uint32_t id)
{
    return &kv->evictable[kv->pages[id].probation];
}

int kv__evict_open(struct kv *kv)
{
    for (int i = 0; i < 2; i++)
        if (!(kv->evictable[i].ids = calloc(kv->n_pages, sizeof(uint32_t))))
            return ERR_NOMEM;
    return 0;
}

void kv__evict_close(struct kv *kv)
{
    free(kv->evictable[0].ids);
    free(kv->evictable[1].ids);
}

void kv__evict_add(struct kv *kv, uint32_t id)
{
    struct heap *h = heap_of(kv, id);
    put(kv, h, h->n++, id);
    settle(kv, h, h->n - 1);
}

void kv__evict_remove(struct kv *kv, uint32_t id)
{
    struct heap *h = heap_of(kv, id);
    uint32_t at = kv->pages[id].heap_at, last = h->ids[--h->n];
    kv->pages[id].heap_at = NO_PAGE;
    if (last == id)
        return;
    put(kv, h, at, last);
    settle(kv, h, at);
}

void kv__evict_probation(struct kv *kv, uint32_t id, bool on)
{
    struct page *p = &kv->pages[id];
    if (p->probation == on)
        return;
    p->probation = on;
    kv->n_probation += on ? 1 : -1u;
}

uint32_t kv__evict_first(const struct kv *kv)
{
    const struct heap *known = &kv->evictable[0], *fresh = &kv->evictable[1];
    if (known->n == 0 && fresh->n == 0)
        return NO_PAGE;
    if (known->n == 0 || fresh->n == 0)
        return known->n ? known->ids[0] : fresh->ids[0];
    if (kv->n_probation > kv->n_pages / 4 || older(kv, fresh->ids[0], known->ids[0]))
        return fresh->ids[0];
    return known->ids[0];
}
