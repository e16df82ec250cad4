/* kvcache/pages.c - the pool: free pages, references, steps. Which cached page goes first is evict.c's. */
#include "config.h"

#include "kvcache/internal.h"

static bool evictable(const struct page *p)
{
    return p->state == PAGE_SEALED && p->refs == 0 && p->children == 0 && p->pins == 0;
}

static void free_page(struct kv *kv, uint32_t id)
{
    struct page *p = &kv->pages[id];
    *p = (struct page){.state = PAGE_FREE, .parent = NO_PAGE, .next_hash = NO_PAGE, .prev_head = NO_PAGE,
                       .next_head = NO_PAGE, .heap_at = NO_PAGE, .next = kv->free_head};
    kv->free_head = id;
    kv->n_free++;
}

void kv__page_evict(struct kv *kv, uint32_t id)
{
    struct page *p = &kv->pages[id];
    uint32_t parent = p->parent;
    kv__disk_evicting(kv, id);
    kv__evict_remove(kv, id);
    kv__index_remove(kv, id);
    kv__evict_probation(kv, id, false);
    kv->n_cached--;
    free_page(kv, id);
    if (parent != NO_PAGE) {
        struct page *up = &kv->pages[parent];
        up->children--;
        if (evictable(up))
            kv__evict_add(kv, parent);
    }
}

static bool evict_one(struct kv *kv)
{
    if (kv->in_step) /* the step may read what a sequence has just let go */
        return false;
    uint32_t id = kv__evict_first(kv);
    if (id == NO_PAGE)
        return false;
    atomic_fetch_add_explicit(&kv->s_evictions, 1, memory_order_relaxed);
    if (kv->pages[id].probation)
        atomic_fetch_add_explicit(&kv->s_evicted_probation, 1, memory_order_relaxed);
    kv__page_evict(kv, id);
    return true;
}

uint32_t kv__page_take(struct kv *kv)
{
    if (kv->n_free == 0 && !evict_one(kv))
        return NO_PAGE;
    uint32_t id = kv->free_head;
    struct page *p = &kv->pages[id];
    kv->free_head = p->next;
    kv->n_free--;
    *p = (struct page){.refs = 1, .state = PAGE_OPEN, .parent = NO_PAGE, .next_hash = NO_PAGE,
                       .prev_head = NO_PAGE, .next_head = NO_PAGE, .heap_at = NO_PAGE, .next = NO_PAGE};
    kv->n_held++;
    return id;
}

void kv__page_ref(struct kv *kv, uint32_t id)
{
    struct page *p = &kv->pages[id];
    if (p->refs == 0) {
        if (evictable(p))
            kv__evict_remove(kv, id);
        kv->n_cached--;
        kv->n_pinned_idle -= p->pins > 0;
        kv->n_held++;
    } else if (p->refs == 1) {
        kv->n_shared++;
    }
    p->refs++;
}

void kv__page_unref(struct kv *kv, uint32_t id)
{
    struct page *p = &kv->pages[id];
    p->refs--;
    if (p->refs == 1)
        kv->n_shared--;
    if (p->refs > 0)
        return;
    kv->n_held--;
    if (p->state == PAGE_SEALED) {
        kv->n_cached++;
        kv->n_pinned_idle += p->pins > 0;
        p->let_go = ++kv->clock;
        if (evictable(p))
            kv__evict_add(kv, id);
        return;
    }
    if (!kv->in_step) {
        free_page(kv, id);
        return;
    }
    p->state = PAGE_DYING; /* the step may still be reading it */
    p->next = kv->dying_head;
    kv->dying_head = id;
}

void kv__page_pin(struct kv *kv, uint32_t id)
{
    struct page *p = &kv->pages[id];
    if (evictable(p))
        kv__evict_remove(kv, id);
    if (p->pins++ == 0) {
        kv->n_pinned++;
        kv->n_pinned_idle += p->refs == 0;
    }
}

void kv__page_unpin(struct kv *kv, uint32_t id)
{
    struct page *p = &kv->pages[id];
    if (--p->pins > 0)
        return;
    kv->n_pinned--;
    kv->n_pinned_idle -= p->refs == 0;
    if (evictable(p))
        kv__evict_add(kv, id);
}

void kv_step_begin(struct kv *kv)
{
    kv->in_step = true;
}

void kv_step_end(struct kv *kv)
{
    kv->in_step = false;
    while (kv->dying_head != NO_PAGE) {
        uint32_t id = kv->dying_head;
        kv->dying_head = kv->pages[id].next;
        free_page(kv, id);
    }
    kv__publish(kv);
}

uint32_t kv_drop_cached(struct kv *kv)
{
    uint32_t n = 0;
    if (kv->in_step)
        return 0;
    for (uint32_t id; (id = kv__evict_first(kv)) != NO_PAGE; n++)
        kv__page_evict(kv, id);
    atomic_fetch_add_explicit(&kv->s_dropped, n, memory_order_relaxed);
    kv__publish(kv);
    return n;
}

uint32_t kv_pages_available(const struct kv *kv)
{
    /* Cached pages whose children are all cached can be had too, one after the other; a cached page
     * above a held one cannot exist: a sequence that holds a page holds all before it. So with pins. */
    return kv->in_step ? kv->n_free : kv->n_free + kv->n_cached - kv->n_pinned_idle;
}
