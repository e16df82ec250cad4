/* kvcache/kvcache.c - opening and closing the cache, its layout and statistics. */
#include "config.h"

#include "kvcache/kvcache.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/place.h"
#include "kvcache/internal.h"

#define MAX_PLANES (1u << 20)
#define HUGE_BYTES ((size_t)2 << 20)

uint32_t kv_common_tokens(uint32_t a, uint32_t b)
{
    uint32_t x = a, y = b;
    while (y) {
        uint32_t rest = x % y;
        x = y;
        y = rest;
    }
    uint64_t n = (uint64_t)(a / x) * b;
    return n > KV_MAX_PAGE_TOKENS ? 0 : (uint32_t)n;
}

static int check_config(const struct kv_config *c, struct err *e)
{
    if (c->page_tokens < KV_MIN_PAGE_TOKENS || c->page_tokens > KV_MAX_PAGE_TOKENS)
        return err_set_param(e, ERR_INVAL, "page_tokens", "page_tokens must be in %d..%d, not %u",
                             KV_MIN_PAGE_TOKENS, KV_MAX_PAGE_TOKENS, c->page_tokens);
    if (c->n_planes < 1 || c->n_planes > MAX_PLANES)
        return err_set_param(e, ERR_INVAL, "n_planes", "n_planes must be in 1..%u", MAX_PLANES);
    if (c->max_seqs < 1 || c->max_seq_tokens < 1)
        return err_set_param(e, ERR_INVAL, "max_seqs", "max_seqs and max_seq_tokens must be above 0");
    if (c->pinned_percent > 90)
        return err_set_param(e, ERR_INVAL, "cache_pinned", "cache_pinned must be in 0..90 percent, not %u",
                             c->pinned_percent);
    for (uint32_t i = 0; i < c->n_planes; i++) {
        const struct kv_plane *p = &c->planes[i];
        if (p->row_bytes < 1 || p->row_bytes > (1u << 24))
            return err_set_param(e, ERR_INVAL, "row_bytes", "plane %u: row_bytes %u is out of range",
                                 i, p->row_bytes);
        if (p->tokens_per_row < 1 || c->page_tokens % p->tokens_per_row)
            return err_set_param(e, ERR_INVAL, "tokens_per_row",
                                 "plane %u: tokens_per_row %u must divide page_tokens", i,
                                 p->tokens_per_row);
        if (p->align < 1 || p->align > 4096 || (p->align & (p->align - 1)))
            return err_set_param(e, ERR_INVAL, "align",
                                 "plane %u: align %u must be a power of two up to 4096", i, p->align);
    }
    return 0;
}

/* Plane offsets; returns the bytes of a page, rounded so that every page starts on every alignment. */
static uint64_t lay_out(struct kv *kv, const struct kv_config *c)
{
    uint64_t at = 0, most = 64;
    kv->tail_unit = 1;
    for (uint32_t i = 0; i < c->n_planes; i++) {
        const struct kv_plane *p = &c->planes[i];
        at = (at + p->align - 1) & ~(uint64_t)(p->align - 1);
        most = p->align > most ? p->align : most;
        kv->plane_offset[i] = at;
        kv->plane_row_bytes[i] = p->row_bytes;
        kv->plane_tokens_per_row[i] = p->tokens_per_row;
        kv->tail_unit = kv_common_tokens(kv->tail_unit, p->tokens_per_row); /* divides a page as they do */
        at += (uint64_t)p->row_bytes * (c->page_tokens / p->tokens_per_row);
    }
    return (at + most - 1) & ~(most - 1);
}

static int map_pool(struct kv *kv, bool huge_pages, struct err *e)
{
    if (kv->page_bytes > (SIZE_MAX - HUGE_BYTES) / kv->n_pages)
        return err_set_param(e, ERR_NOMEM, "cache_size", "the cache is larger than memory can be");
    kv->pool_bytes = (size_t)kv->n_pages * kv->page_bytes;
    /* Backed as pages are first written: an idle cache costs address space only. */
    size_t n = kv->pool_bytes + HUGE_BYTES;
    unsigned char *p = mmap(NULL, n, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return err_set_param(e, ERR_NOMEM, "cache_size", "cannot map %zu bytes for the cache: %s",
                             kv->pool_bytes, strerror(errno));
    size_t skip = (HUGE_BYTES - ((uintptr_t)p & (HUGE_BYTES - 1))) & (HUGE_BYTES - 1);
    if (skip)
        munmap(p, skip);
    kv->pool = p + skip;
    size_t used = (kv->pool_bytes + 4095) & ~(size_t)4095;
    if (n - skip > used)
        munmap(kv->pool + used, n - skip - used);
    kv->pool_bytes = used;
    if (huge_pages)
        madvise(kv->pool, kv->pool_bytes, MADV_HUGEPAGE); /* a wish */
    place_interleave(kv->pool, kv->pool_bytes); /* any thread may read any sequence */
    return 0;
}

int kv_open(const struct kv_config *c, struct kv **ret, struct err *e)
{
    int r = check_config(c, e);
    if (r < 0)
        return r;
    struct kv *kv = calloc(1, sizeof(*kv));
    if (!kv)
        return err_set(e, ERR_NOMEM, "out of memory");
    kv->page_tokens = c->page_tokens;
    kv->n_planes = c->n_planes;
    kv->max_seqs = c->max_seqs;
    kv->max_seq_tokens = c->max_seq_tokens;
    kv->free_head = kv->dying_head = NO_PAGE;
    kv->plane_offset = calloc(c->n_planes, sizeof(*kv->plane_offset));
    kv->plane_row_bytes = calloc(c->n_planes, sizeof(*kv->plane_row_bytes));
    kv->plane_tokens_per_row = calloc(c->n_planes, sizeof(*kv->plane_tokens_per_row));
    if (!kv->plane_offset || !kv->plane_row_bytes || !kv->plane_tokens_per_row)
        goto nomem;
    kv->page_bytes = lay_out(kv, c);
    uint64_t n = c->pool_bytes / kv->page_bytes;
    if (n < 1) {
        r = err_set_param(e, ERR_INVAL, "cache_size",
                          "the cache of %llu bytes is below one page of %llu bytes",
                          (unsigned long long)c->pool_bytes, (unsigned long long)kv->page_bytes);
        goto fail;
    }
    kv->n_pages = n > UINT32_MAX - 1 ? UINT32_MAX - 1 : (uint32_t)n;
    kv->max_pinned = (uint32_t)((uint64_t)kv->n_pages * c->pinned_percent / 100);
    kv->n_buckets = 16;
    while (kv->n_buckets < kv->n_pages && kv->n_buckets < (1u << 30))
        kv->n_buckets *= 2;
    if ((r = map_pool(kv, c->huge_pages, e)) < 0)
        goto fail;
    kv->pages = calloc(kv->n_pages, sizeof(*kv->pages));
    kv->tokens = calloc((size_t)kv->n_pages * kv->page_tokens, sizeof(*kv->tokens));
    kv->buckets = malloc((size_t)kv->n_buckets * sizeof(*kv->buckets));
    kv->heads = malloc((size_t)kv->n_buckets * sizeof(*kv->heads));
    if (!kv->pages || !kv->tokens || !kv->buckets || !kv->heads || kv__evict_open(kv) < 0)
        goto nomem;
    for (uint32_t i = 0; i < kv->n_buckets; i++)
        kv->buckets[i] = kv->heads[i] = NO_PAGE;
    for (uint32_t i = kv->n_pages; i-- > 0;) { /* low addresses are handed out first */
        kv->pages[i] = (struct page){.parent = NO_PAGE, .next_hash = NO_PAGE, .prev_head = NO_PAGE,
                                     .next_head = NO_PAGE, .heap_at = NO_PAGE, .next = kv->free_head};
        kv->free_head = i;
    }
    kv->n_free = kv->n_pages;
    kv__publish(kv);
    *ret = kv;
    return 0;
nomem:
    r = err_set_param(e, ERR_NOMEM, "cache_size", "no memory for the bookkeeping of the cache");
fail:
    kv_close(&kv);
    return r;
}

void kv_close(struct kv **kvp)
{
    struct kv *kv = *kvp;
    *kvp = NULL;
    if (!kv)
        return;
    kv__disk_close(kv);
    if (kv->pool)
        munmap(kv->pool, kv->pool_bytes);
    free(kv->plane_offset);
    free(kv->plane_row_bytes);
    free(kv->plane_tokens_per_row);
    free(kv->heads);
    kv__evict_close(kv);
    free(kv->pins);
    free(kv->pages);
    free(kv->tokens);
    free(kv->buckets);
    free(kv);
}

uint32_t kv_page_tokens(const struct kv *kv)
{
    return kv->page_tokens;
}

uint64_t kv_page_bytes(const struct kv *kv)
{
    return kv->page_bytes;
}

uint32_t kv_n_pages(const struct kv *kv)
{
    return kv->n_pages;
}

size_t kv_plane_offset(const struct kv *kv, uint32_t plane)
{
    return kv->plane_offset[plane];
}

uint32_t kv_pages_for(const struct kv *kv, uint32_t n_tokens)
{
    return n_tokens / kv->page_tokens + (n_tokens % kv->page_tokens != 0);
}

void kv__publish(struct kv *kv)
{
    atomic_store_explicit(&kv->s_free, kv->n_free, memory_order_relaxed);
    atomic_store_explicit(&kv->s_held, kv->n_held, memory_order_relaxed);
    atomic_store_explicit(&kv->s_cached, kv->n_cached, memory_order_relaxed);
    atomic_store_explicit(&kv->s_shared, kv->n_shared, memory_order_relaxed);
    atomic_store_explicit(&kv->s_pinned, kv->n_pinned, memory_order_relaxed);
}

void kv_stats_read(const struct kv *kv, struct kv_stats *s)
{
    s->page_bytes = kv->page_bytes;
    s->n_pages = kv->n_pages;
    s->pages_free = atomic_load_explicit(&kv->s_free, memory_order_relaxed);
    s->pages_held = atomic_load_explicit(&kv->s_held, memory_order_relaxed);
    s->pages_cached = atomic_load_explicit(&kv->s_cached, memory_order_relaxed);
    s->pages_shared = atomic_load_explicit(&kv->s_shared, memory_order_relaxed);
    s->pages_pinned = atomic_load_explicit(&kv->s_pinned, memory_order_relaxed);
    s->copied_tokens = atomic_load_explicit(&kv->s_copied, memory_order_relaxed);
    s->hits_tokens = atomic_load_explicit(&kv->s_hits, memory_order_relaxed);
    s->queries_tokens = atomic_load_explicit(&kv->s_queries, memory_order_relaxed);
    s->evictions = atomic_load_explicit(&kv->s_evictions, memory_order_relaxed);
    s->evicted_probation = atomic_load_explicit(&kv->s_evicted_probation, memory_order_relaxed);
    s->dropped = atomic_load_explicit(&kv->s_dropped, memory_order_relaxed);
}
