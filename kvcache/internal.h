/* kvcache/internal.h - the structures of the cache, shared by its files. */
#ifndef LATENT_KVCACHE_INTERNAL_H
#define LATENT_KVCACHE_INTERNAL_H

#include <stdatomic.h>

#include "base/hash.h"
#include "kvcache/kvcache.h"

#define NO_PAGE UINT32_MAX

enum page_state {
    PAGE_FREE = 0, /* on the free list */
    PAGE_OPEN,     /* one reference, rows being written */
    PAGE_SEALED,   /* full, immutable, in the index */
    PAGE_DYING,    /* unreferenced duplicate, free at kv_step_end */
};

/* How many rows of a page, from its first, are computed in each way (kv_seq_set_ways). */
struct ways {
    uint16_t rows[KV_WAYS];
};

struct page {
    uint32_t refs;      /* sequences that hold it */
    uint32_t counted;   /* of them, those that kv_seqs_keep has come by; else 0 */
    uint32_t state;     /* enum page_state */
    uint32_t parent;    /* page of the block before, NO_PAGE for the first; sealed pages only */
    uint32_t children;  /* sealed pages whose parent this is */
    uint32_t pins;      /* pins that keep it (kv_pin); those before it have as many or more */
    uint32_t next_hash; /* chain of its index bucket */
    uint32_t prev_head, next_head; /* chain of the pages found by parent and first token, youngest first */
    uint32_t next;      /* free and dying pages */
    uint32_t heap_at;   /* place among those that may be evicted (evict.c), NO_PAGE: it may not */
    uint32_t probation; /* 1: sealed by a prompt of which little was known, and not matched since */
    uint64_t let_go;    /* kv->clock when its last reference went */
    struct ways ways;
    uint32_t dirty;     /* in the list of pages that are to be written to disk */
    uint32_t dirty_prev, dirty_next;
    uint64_t salt;
    struct hash128 hash; /* chain hash up to and with this block */
};

struct pin {
    uint64_t id;
    uint32_t last;    /* page: this and all before it are kept; a pin of its own for each last page */
    uint32_t n_pages;
};

struct heap {
    uint32_t *ids; /* [n_pages] of which n */
    uint32_t n;
};

struct kv_seq {
    uint64_t salt;
    uint32_t n_tokens;
    uint32_t ends[KV_WAYS];  /* rows from the beginning that are computed in each way */
    uint32_t found;          /* tokens that kv_seq_match attached */
    bool trial;              /* what follows is not in the statistics yet */
    uint32_t more_asked, more_found, more_copied;
    uint32_t asked;          /* tokens that kv_seq_match was asked for, as counted in the statistics */
    uint32_t n_pages;        /* reserved */
    uint32_t cap_pages;
    uint32_t *page_ids;
    unsigned char **addresses; /* addresses[i] is where page_ids[i] lies */
    int32_t *tail;           /* [page_tokens] tokens of the open page */
};

struct kv {
    uint32_t page_tokens, n_pages, n_planes;
    uint64_t page_bytes;
    size_t *plane_offset;
    uint32_t *plane_row_bytes, *plane_tokens_per_row;
    unsigned char *pool;
    size_t pool_bytes;
    struct page *pages;
    int32_t *tokens;      /* [n_pages][page_tokens] of sealed pages */
    uint32_t *buckets;    /* [n_buckets], power of two */
    uint32_t *heads;      /* [n_buckets]: sealed pages by parent and first token */
    uint32_t n_buckets;
    uint32_t tail_unit;   /* the least that every tokens_per_row divides: copied tails are a multiple of it */
    uint32_t free_head, n_free;
    /* Sealed, unreferenced, not pinned, without children: [probation]. Pages with cached children are
     * reached when these are gone. */
    struct heap evictable[2];
    uint64_t clock;       /* counts references that went */
    uint32_t n_probation; /* sealed pages on probation, held or not */
    uint32_t n_cached;    /* sealed and unreferenced, with or without children */
    uint32_t n_held, n_shared;
    uint32_t n_pinned;      /* pages with pins */
    uint32_t n_pinned_idle; /* those of them that n_cached counts too */
    uint32_t max_pinned;
    struct pin *pins;       /* [cap_pins] of which n_pins, oldest first */
    uint32_t n_pins, cap_pins;
    uint64_t last_pin_id;
    uint32_t max_seqs, n_seqs, max_seq_tokens;
    bool in_step;
    struct kv_disk *disk; /* NULL: none */
    uint32_t dying_head;  /* through next */
    /* read by any thread */
    _Atomic uint64_t s_free, s_held, s_cached, s_shared, s_pinned, s_hits, s_queries, s_copied, s_evictions;
    _Atomic uint64_t s_evicted_probation, s_dropped;
};

static inline unsigned char *page_address(const struct kv *kv, uint32_t id)
{
    return kv->pool + (size_t)id * kv->page_bytes;
}

/* Nothing keeps the page from eviction but what follows it. */
static inline bool kv__could_go(const struct kv *kv, uint32_t id)
{
    return kv->pages[id].refs == 0 && kv->pages[id].pins == 0;
}

static inline int32_t *page_tokens_of(const struct kv *kv, uint32_t id)
{
    return kv->tokens + (size_t)id * kv->page_tokens;
}

/* pages.c: the pool, references and eviction */
uint32_t kv__page_take(struct kv *kv);               /* an open page with one reference, or NO_PAGE */
void kv__page_ref(struct kv *kv, uint32_t id);
void kv__page_unref(struct kv *kv, uint32_t id);     /* open: freed; sealed: stays findable */
void kv__page_evict(struct kv *kv, uint32_t id);
void kv__page_pin(struct kv *kv, uint32_t id);
void kv__page_unpin(struct kv *kv, uint32_t id);
void kv__publish(struct kv *kv);

/* evict.c: those that may be evicted */
int kv__evict_open(struct kv *kv);
void kv__evict_close(struct kv *kv);
void kv__evict_add(struct kv *kv, uint32_t id);
void kv__evict_remove(struct kv *kv, uint32_t id);
void kv__evict_probation(struct kv *kv, uint32_t id, bool on); /* of a page that may not be evicted now */
uint32_t kv__evict_first(const struct kv *kv);                 /* or NO_PAGE */

/* seq.c: the list of pages of a sequence */
int kv__seq_room(struct kv_seq *s, uint32_t n_pages);             /* for so many pages in all; ERR_NOMEM */
void kv__seq_push(struct kv *kv, struct kv_seq *s, uint32_t id);  /* needs room; takes over the reference */
void kv__seq_drop(struct kv *kv, struct kv_seq *s, uint32_t keep); /* unreferences the pages after those */

/* index.c: sealed pages by content */
struct block_key {
    uint64_t salt;
    uint32_t parent; /* page of the block before, or NO_PAGE */
    struct ways ways;
    const int32_t *tokens;
};
static inline struct ways kv__ways_at(const uint32_t ends[KV_WAYS], uint32_t at, uint32_t page_tokens)
{
    struct ways ways;
    for (int w = 0; w < KV_WAYS; w++) {
        uint32_t n = ends[w] > at ? ends[w] - at : 0;
        ways.rows[w] = (uint16_t)(n < page_tokens ? n : page_tokens);
    }
    return ways;
}
/* The key of the block at `at` of a sequence: ends as kv_seq_set_ways has them, tokens of the block. */
struct block_key kv__block_key(const struct kv *kv, uint64_t salt, const uint32_t ends[KV_WAYS], uint32_t at,
                               uint32_t parent, const int32_t *tokens);
uint32_t kv__index_find(const struct kv *kv, const struct block_key *key, struct hash128 hash);
/* The sealed page after key->parent that shares most rows with the block: at least `least` and at most
 * `most` of its first tokens, in the same ways. *ret_rows is how many. NO_PAGE when there is none. */
uint32_t kv__index_find_tail(const struct kv *kv, const struct block_key *key, uint32_t least, uint32_t most,
                             uint32_t *ret_rows);
void kv__index_add(struct kv *kv, uint32_t id);
void kv__index_remove(struct kv *kv, uint32_t id);
struct hash128 kv__block_hash(const struct kv *kv, const struct block_key *key);
/* The same from the hash of the block before; for a first block that is kv__root_hash. */
struct hash128 kv__chain_hash(struct hash128 before, struct ways ways, const int32_t *tokens, uint32_t n);
static inline struct hash128 kv__root_hash(uint64_t salt)
{
    return (struct hash128){salt, 0x6c6174656e74ull};
}

/* seq.c: an open page with its rows in becomes sealed and enters the index */
void kv__page_seal(struct kv *kv, uint32_t id, const struct block_key *key, struct hash128 hash);

/* disk_kv.c: what happens to sealed pages. Nothing without a disk tier. */
void kv__disk_sealed(struct kv *kv, uint32_t id);
void kv__disk_used(struct kv *kv, uint32_t id);     /* found in memory by a sequence */
void kv__disk_evicting(struct kv *kv, uint32_t id);
void kv__disk_close(struct kv *kv);

#endif
