/* kvcache/seq.c - sequences: a list of pages each, the last one open. Finding their beginnings in the index
 * is match.c's. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "kvcache/internal.h"

int kv_seq_new(struct kv *kv, uint64_t salt, struct kv_seq **ret)
{
    if (kv->n_seqs >= kv->max_seqs)
        return ERR_LIMIT;
    struct kv_seq *s = calloc(1, sizeof(*s));
    if (!s)
        return ERR_NOMEM;
    s->tail = calloc(kv->page_tokens, sizeof(*s->tail));
    if (!s->tail) {
        free(s);
        return ERR_NOMEM;
    }
    s->salt = salt;
    kv->n_seqs++;
    *ret = s;
    return 0;
}

void kv_seq_set_ways(struct kv *kv, struct kv_seq *s, const uint32_t ends[KV_WAYS])
{
    (void)kv;
    memcpy(s->ends, ends, sizeof(s->ends));
}

void kv__seq_drop(struct kv *kv, struct kv_seq *s, uint32_t keep)
{
    /* From the end, so that a block is released after those that follow it. */
    while (s->n_pages > keep)
        kv__page_unref(kv, s->page_ids[--s->n_pages]);
}

void kv_seq_free(struct kv *kv, struct kv_seq **sp)
{
    struct kv_seq *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    kv__seq_drop(kv, s, 0);
    free(s->page_ids);
    free(s->addresses);
    free(s->tail);
    free(s);
    kv->n_seqs--;
    kv__publish(kv);
}

int kv__seq_room(struct kv_seq *s, uint32_t n_pages)
{
    if (n_pages <= s->cap_pages)
        return 0;
    uint32_t cap = s->cap_pages ? s->cap_pages : 8;
    while (cap < n_pages)
        cap *= 2;
    uint32_t *ids = realloc(s->page_ids, cap * sizeof(*ids));
    if (!ids)
        return ERR_NOMEM;
    s->page_ids = ids;
    unsigned char **at = realloc(s->addresses, cap * sizeof(*at));
    if (!at)
        return ERR_NOMEM;
    s->addresses = at;
    s->cap_pages = cap;
    return 0;
}

void kv__seq_push(struct kv *kv, struct kv_seq *s, uint32_t id)
{
    s->page_ids[s->n_pages] = id;
    s->addresses[s->n_pages++] = page_address(kv, id);
}

int kv_seq_reserve(struct kv *kv, struct kv_seq *s, uint32_t n_tokens)
{
    if (n_tokens > kv->max_seq_tokens || s->n_tokens > kv->max_seq_tokens - n_tokens)
        return ERR_LIMIT;
    uint32_t want = kv_pages_for(kv, s->n_tokens + n_tokens), had = s->n_pages;
    if (want <= had)
        return 0;
    if (want - had > kv_pages_available(kv))
        return ERR_NOSPACE;
    int r = kv__seq_room(s, want);
    if (r < 0)
        return r;
    while (s->n_pages < want) {
        uint32_t id = kv__page_take(kv);
        if (id == NO_PAGE) { /* available said otherwise: give back, change nothing */
            kv__seq_drop(kv, s, had);
            return ERR_NOSPACE;
        }
        kv__seq_push(kv, s, id);
    }
    kv__publish(kv);
    return 0;
}

void kv__page_seal(struct kv *kv, uint32_t id, const struct block_key *key, struct hash128 hash)
{
    struct page *p = &kv->pages[id];
    p->state = PAGE_SEALED;
    p->parent = key->parent;
    p->salt = key->salt;
    p->ways = key->ways;
    p->hash = hash;
    memcpy(page_tokens_of(kv, id), key->tokens, kv->page_tokens * sizeof(*key->tokens));
    if (key->parent != NO_PAGE)
        kv->pages[key->parent].children++;
    kv__index_add(kv, id);
}

/* The page at index i is full: it becomes immutable and findable, or gives way to its equal. */
static void seal(struct kv *kv, struct kv_seq *s, uint32_t i)
{
    uint32_t id = s->page_ids[i], parent = i ? s->page_ids[i - 1] : NO_PAGE;
    struct block_key key = kv__block_key(kv, s->salt, s->ends, i * kv->page_tokens, parent, s->tail);
    struct hash128 h = kv__block_hash(kv, &key);
    uint32_t same = kv__index_find(kv, &key, h);
    if (same != NO_PAGE) {
        kv__page_ref(kv, same);
        s->page_ids[i] = same;
        s->addresses[i] = page_address(kv, same);
        kv__page_unref(kv, id);
        return;
    }
    kv__page_seal(kv, id, &key, h);
    kv__evict_probation(kv, id, s->found < s->asked - s->asked / 2 || s->asked == 0);
    kv__disk_sealed(kv, id);
}

void kv_seq_commit(struct kv *kv, struct kv_seq *s, const int32_t *tokens, uint32_t n_tokens)
{
    for (uint32_t i = 0; i < n_tokens; i++) {
        uint32_t in_page = s->n_tokens % kv->page_tokens;
        s->tail[in_page] = tokens[i];
        s->n_tokens++;
        if (in_page + 1 == kv->page_tokens)
            seal(kv, s, s->n_tokens / kv->page_tokens - 1);
    }
    kv__publish(kv);
}

int kv_seq_truncate(struct kv *kv, struct kv_seq *s, uint32_t n_tokens)
{
    n_tokens = n_tokens < s->n_tokens ? n_tokens : s->n_tokens;
    n_tokens -= n_tokens % kv->tail_unit;
    if (n_tokens == s->n_tokens)
        return 0;
    uint32_t p = kv->page_tokens, keep = kv_pages_for(kv, n_tokens);
    if (n_tokens % p) {
        uint32_t id = s->page_ids[keep - 1];
        if (kv->pages[id].state == PAGE_SEALED) {
            uint32_t copy = kv__page_take(kv);
            if (copy == NO_PAGE)
                return ERR_NOSPACE;
            memcpy(page_address(kv, copy), page_address(kv, id), kv->page_bytes);
            memcpy(s->tail, page_tokens_of(kv, id), p * sizeof(*s->tail));
            kv__seq_drop(kv, s, keep - 1);
            kv__seq_push(kv, s, copy);
        }
    }
    kv__seq_drop(kv, s, keep);
    s->n_tokens = n_tokens;
    s->asked = s->asked < n_tokens ? s->asked : n_tokens;
    s->found = s->found < n_tokens ? s->found : n_tokens;
    kv__publish(kv);
    return 0;
}

int kv_seq_fork(struct kv *kv, const struct kv_seq *s, struct kv_seq **ret)
{
    uint32_t p = kv->page_tokens, full = s->n_tokens / p, open = s->n_tokens % p;
    struct kv_seq *f = NULL;
    int r = kv_seq_new(kv, s->salt, &f);
    if (r < 0)
        return r;
    if ((r = kv__seq_room(f, full + 1)) < 0) {
        kv_seq_free(kv, &f);
        return r;
    }
    /* Held first: taking a page for the copy must not evict what is being shared. */
    for (uint32_t i = 0; i < full; i++) {
        kv__page_ref(kv, s->page_ids[i]);
        kv__seq_push(kv, f, s->page_ids[i]);
    }
    if (open) {
        uint32_t id = kv__page_take(kv);
        if (id == NO_PAGE) {
            kv_seq_free(kv, &f);
            return ERR_NOSPACE;
        }
        memcpy(page_address(kv, id), page_address(kv, s->page_ids[full]), kv->page_bytes);
        memcpy(f->tail, s->tail, p * sizeof(*f->tail));
        kv__seq_push(kv, f, id);
    }
    f->n_tokens = s->n_tokens;
    f->found = s->found;
    f->asked = s->asked;
    memcpy(f->ends, s->ends, sizeof(f->ends));
    kv__publish(kv);
    *ret = f;
    return 0;
}

uint32_t kv_seq_length(const struct kv_seq *s)
{
    return s->n_tokens;
}

unsigned char *const *kv_seq_pages(const struct kv_seq *s, uint32_t *ret_n_pages)
{
    if (ret_n_pages)
        *ret_n_pages = s->n_pages;
    return s->addresses;
}

uint32_t kv_seqs_keep(struct kv *kv, struct kv_seq *const *seqs, uint32_t n)
{
    uint32_t keep = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < seqs[i]->n_pages; k++) {
            struct page *p = &kv->pages[seqs[i]->page_ids[k]];
            keep += ++p->counted == p->refs && p->pins == 0;
        }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < seqs[i]->n_pages; k++)
            kv->pages[seqs[i]->page_ids[k]].counted = 0;
    return keep;
}
