/* kvcache/pin.c - prefixes that stay in the cache until they are let go, within a share of the pool. A pin
 * is a chain of sealed pages named by its last one; a page counts once however many pins go through it. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "kvcache/internal.h"

static int room_for_pin(struct kv *kv)
{
    if (kv->n_pins < kv->cap_pins)
        return 0;
    uint32_t cap = kv->cap_pins ? kv->cap_pins * 2 : 8;
    struct pin *pins = realloc(kv->pins, cap * sizeof(*pins));
    if (!pins)
        return ERR_NOMEM;
    kv->pins = pins;
    kv->cap_pins = cap;
    return 0;
}

int kv_pin(struct kv *kv, uint64_t salt, const uint32_t ends[KV_WAYS], const int32_t *tokens,
           uint32_t n_tokens, uint64_t *ret_id, uint32_t *ret_tokens, struct err *e)
{
    static const uint32_t none[KV_WAYS];
    uint32_t p = kv->page_tokens, n_pages = 0, more = 0, last = NO_PAGE;
    for (; n_tokens - n_pages * p >= p; n_pages++) {
        struct block_key key =
            kv__block_key(kv, salt, ends ? ends : none, n_pages * p, last, tokens + (size_t)n_pages * p);
        uint32_t id = kv__index_find(kv, &key, kv__block_hash(kv, &key));
        if (id == NO_PAGE)
            break;
        more += kv->pages[id].pins == 0;
        last = id;
    }
    if (n_pages == 0)
        return err_set(e, ERR_NOTFOUND, "no whole page (%u tokens) of this prefix is in the cache", p);
    if (more > kv->max_pinned - kv->n_pinned)
        return err_set_param(e, ERR_LIMIT, "cache_pinned",
                             "pinning %u pages beside the %u pinned ones is above the %u that cache_pinned "
                             "allows", more, kv->n_pinned, kv->max_pinned);
    uint32_t i = 0;
    while (i < kv->n_pins && kv->pins[i].last != last)
        i++;
    if (i == kv->n_pins) {
        if (room_for_pin(kv) < 0)
            return err_set(e, ERR_NOMEM, "out of memory");
        kv->pins[kv->n_pins++] = (struct pin){++kv->last_pin_id, last, n_pages};
        for (uint32_t id = last; id != NO_PAGE; id = kv->pages[id].parent)
            kv__page_pin(kv, id);
        kv__publish(kv);
    }
    *ret_id = kv->pins[i].id;
    *ret_tokens = n_pages * p;
    return 0;
}

static uint64_t salt_of(const struct kv *kv, const struct pin *p)
{
    return kv->pages[p->last].salt;
}

int kv_unpin(struct kv *kv, uint64_t id, const uint64_t *salt, struct err *e)
{
    uint32_t i = 0;
    while (i < kv->n_pins && kv->pins[i].id != id)
        i++;
    if (i == kv->n_pins || (salt && salt_of(kv, &kv->pins[i]) != *salt))
        return err_set(e, ERR_NOTFOUND, "there is no pin %llu", (unsigned long long)id);
    uint32_t page = kv->pins[i].last;
    memmove(&kv->pins[i], &kv->pins[i + 1], (--kv->n_pins - i) * sizeof(*kv->pins));
    for (; page != NO_PAGE; page = kv->pages[page].parent) /* from the end, as sequences release theirs */
        kv__page_unpin(kv, page);
    kv__publish(kv);
    return 0;
}

uint32_t kv_pins(const struct kv *kv, const uint64_t *salt, struct kv_pinned *ret, uint32_t max)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < kv->n_pins; i++) {
        const struct pin *p = &kv->pins[i];
        if (salt && salt_of(kv, p) != *salt)
            continue;
        if (n < max)
            ret[n] = (struct kv_pinned){p->id, salt_of(kv, p), p->n_pages * kv->page_tokens};
        n++;
    }
    return n;
}

uint32_t kv_max_pinned(const struct kv *kv)
{
    return kv->max_pinned;
}
