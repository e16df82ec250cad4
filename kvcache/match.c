/* kvcache/match.c - what is known already of the tokens of a sequence: whole pages are attached, and where
 * the tokens leave them inside a page, the rows up to there are copied to the open page of the sequence. */
#include "config.h"

#include <string.h>

#include "kvcache/internal.h"

static void count_asked(struct kv_seq *s, uint32_t limit)
{
    uint32_t from = s->asked > s->n_tokens ? s->asked : s->n_tokens;
    if (limit <= from)
        return;
    s->more_asked += limit - from;
    s->asked = limit;
}

static void count(struct kv *kv, struct kv_seq *s)
{
    if (s->trial)
        return;
    atomic_fetch_add_explicit(&kv->s_queries, s->more_asked, memory_order_relaxed);
    atomic_fetch_add_explicit(&kv->s_hits, s->more_found, memory_order_relaxed);
    atomic_fetch_add_explicit(&kv->s_copied, s->more_copied, memory_order_relaxed);
    s->more_asked = s->more_found = s->more_copied = 0;
}

void kv_seq_trial(struct kv *kv, struct kv_seq *s, bool on)
{
    s->trial = on;
    count(kv, s);
}

static void use(struct kv *kv, uint32_t id)
{
    kv__evict_probation(kv, id, false);
    kv__disk_used(kv, id);
}

/* Rows [from, to) of a page, for every plane. A row of several tokens that `from` lies in is copied too. */
static void copy_rows(const struct kv *kv, uint32_t into, uint32_t out_of, uint32_t from, uint32_t to)
{
    for (uint32_t i = 0; i < kv->n_planes; i++) {
        size_t row = kv->plane_row_bytes[i], first = from / kv->plane_tokens_per_row[i];
        size_t at = kv->plane_offset[i] + first * row, n = to / kv->plane_tokens_per_row[i] - first;
        memcpy(page_address(kv, into) + at, page_address(kv, out_of) + at, n * row);
    }
}

/* Adds rows to the open page of s, or gives it one. No page can be had: does nothing. */
static void copy_tail(struct kv *kv, struct kv_seq *s, const struct block_key *key, uint32_t most)
{
    uint32_t p = kv->page_tokens, in_page = s->n_tokens % p, rows;
    uint32_t source = kv__index_find_tail(kv, key, in_page + 1, most, &rows);
    if (source == NO_PAGE || kv__seq_room(s, s->n_tokens / p + 1) < 0)
        return;
    if (in_page == 0) {
        kv__page_ref(kv, source); /* the page to be had must not be this one */
        uint32_t id = kv__page_take(kv);
        if (id != NO_PAGE)
            use(kv, source);
        kv__page_unref(kv, source);
        if (id == NO_PAGE)
            return;
        kv__seq_push(kv, s, id);
    }
    copy_rows(kv, s->page_ids[s->n_tokens / p], source, in_page, rows);
    memcpy(s->tail, key->tokens, rows * sizeof(*s->tail));
    s->n_tokens += rows - in_page;
    s->more_copied += rows - in_page;
}

uint32_t kv_seq_match(struct kv *kv, struct kv_seq *s, const int32_t *tokens, uint32_t n_tokens,
                      uint32_t limit)
{
    uint32_t p = kv->page_tokens, before = s->n_tokens, at = before - before % p;
    if (limit > n_tokens)
        limit = n_tokens;
    if (limit <= before)
        return before;
    count_asked(s, limit);
    if (before == at)
        kv__seq_drop(kv, s, at / p); /* reserved, nothing written yet */
    uint32_t parent = at ? s->page_ids[at / p - 1] : NO_PAGE;
    struct block_key key;
    for (; at < limit; at += p) {
        key = kv__block_key(kv, s->salt, s->ends, at, parent, tokens + at);
        uint32_t id = at + p <= limit ? kv__index_find(kv, &key, kv__block_hash(kv, &key)) : NO_PAGE;
        if (id == NO_PAGE || kv__seq_room(s, at / p + 1) < 0)
            break;
        kv__page_ref(kv, id);
        use(kv, id);
        kv__seq_drop(kv, s, at / p); /* the open page, and what was reserved after it */
        kv__seq_push(kv, s, id);
        s->n_tokens = at + p;
        parent = id;
    }
    if (at < limit)
        copy_tail(kv, s, &key, limit - at < p ? limit - at : p - 1);
    s->found += s->n_tokens - before;
    s->more_found += s->n_tokens - before;
    count(kv, s);
    kv__publish(kv);
    return s->n_tokens;
}

uint32_t kv_probe(const struct kv *kv, uint64_t salt, const uint32_t ends[KV_WAYS], const int32_t *tokens,
                  uint32_t n_tokens)
{
    static const uint32_t none[KV_WAYS];
    uint32_t p = kv->page_tokens, at = 0, parent = NO_PAGE, rows = 0;
    uint32_t available = kv_pages_available(kv), kept = 0; /* of these, what matching itself would keep */
    while (at < n_tokens) {
        struct block_key key = kv__block_key(kv, salt, ends ? ends : none, at, parent, tokens + at);
        uint32_t left = n_tokens - at;
        uint32_t id = left >= p ? kv__index_find(kv, &key, kv__block_hash(kv, &key)) : NO_PAGE;
        if (id == NO_PAGE) {
            id = kv__index_find_tail(kv, &key, 1, left < p ? left : p - 1, &rows);
            kept += id != NO_PAGE && !kv->in_step && kv__could_go(kv, id);
            break;
        }
        kept += !kv->in_step && kv__could_go(kv, id);
        parent = id;
        at += p;
    }
    return at + (available > kept ? rows : 0);
}
