/* kvcache/park.c - rows of a sequence that gave its pages back, kept outside the pool.
 *
 * Whole pages are copied, from the first that no other sequence holds to the last: the beginning that is
 * shared is left to the index. Coming back the sequence is matched first; if the match reaches the first
 * parked row, the rows after it are written back as they were, byte for byte. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "kvcache/internal.h"

struct kv_parked {
    uint32_t first_page, n_pages, n_tokens; /* of the sequence */
    unsigned char *bytes;
};

static unsigned char *at(const struct kv *kv, const struct kv_parked *p, uint32_t page)
{
    return p->bytes + (size_t)page * kv->page_bytes;
}

static uint32_t first_private(const struct kv *kv, const struct kv_seq *s)
{
    uint32_t n = kv_pages_for(kv, s->n_tokens);
    while (n > 0 && kv->pages[s->page_ids[n - 1]].refs == 1)
        n--;
    return n;
}

uint64_t kv_park_bytes(const struct kv *kv, const struct kv_seq *s, uint32_t *ret_n_tokens)
{
    uint32_t first = first_private(kv, s), n = kv_pages_for(kv, s->n_tokens);
    *ret_n_tokens = first < n ? s->n_tokens - first * kv->page_tokens : 0;
    return (uint64_t)(n - first) * kv->page_bytes;
}

int kv_seq_park(const struct kv *kv, const struct kv_seq *s, struct kv_parked **ret)
{
    uint32_t first = first_private(kv, s), n = kv_pages_for(kv, s->n_tokens) - first;
    struct kv_parked *p = malloc(sizeof(*p) + (size_t)n * kv->page_bytes);
    if (!p)
        return ERR_NOMEM;
    *p = (struct kv_parked){first, n, s->n_tokens, (unsigned char *)(p + 1)};
    for (uint32_t i = 0; i < n; i++)
        memcpy(at(kv, p, i), page_address(kv, s->page_ids[first + i]), kv->page_bytes);
    *ret = p;
    return 0;
}

int kv_seq_unpark(struct kv *kv, struct kv_seq *s, const struct kv_parked *p, const int32_t *tokens)
{
    uint32_t from = s->n_tokens, page = from / kv->page_tokens;
    if (from >= p->n_tokens)
        return 0;
    if (page < p->first_page)
        return ERR_NOTFOUND;
    int r = kv_seq_reserve(kv, s, p->n_tokens - from);
    if (r < 0)
        return r;
    for (; page < p->first_page + p->n_pages; page++)
        memcpy(page_address(kv, s->page_ids[page]), at(kv, p, page - p->first_page), kv->page_bytes);
    kv_seq_commit(kv, s, tokens + from, p->n_tokens - from);
    return 0;
}

void kv_parked_free(struct kv_parked **p)
{
    free(*p);
    *p = NULL;
}
