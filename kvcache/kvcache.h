/* kvcache/kvcache.h - the paged latent cache: pages, sequences, prefix index, eviction, disk.
 *
 * The cache knows bytes and tokens only. A page holds `page_tokens` token positions for every plane;
 * a plane is one (layer, stream) of the model: MLA declares one stream per layer whose row is
 * [latent | rope key]. Rows of one plane lie contiguously inside a page:
 *
 *     page:  | plane 0: row 0, row 1 ... row P-1 | pad | plane 1: row 0 ... | ...
 *
 * A row may stand for several tokens; every page begins and ends with whole rows of every plane.
 *
 * A page is OPEN (one writer: the tail of one sequence) or SEALED (full, immutable, shareable). Only
 * sealed pages enter the prefix index, keyed by a chain hash of their token blocks that starts from
 * the salt; a hit is verified by comparing tokens, block by block up the chain. Where a prompt leaves
 * what is known inside a page, the rows up to there are copied. References belong to sequences. Sealed
 * pages without references stay in the index until evicted: least recently used first, but what prompts
 * leave behind that nobody asked about again has a quarter of the pool. Pinned prefixes are never evicted.
 *
 * Thread: the engine thread only; no locks, but for the disk tier's own thread. kv_stats_read may be called
 * from any thread. */
#ifndef LATENT_KVCACHE_KVCACHE_H
#define LATENT_KVCACHE_KVCACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

/* Ways in which rows of equal tokens may differ (schemes of computing them, roundings): independent of
 * each other, and each covers a beginning of a sequence. What they are is the caller's business. */
#define KV_WAYS 2
#define KV_MIN_PAGE_TOKENS 8
#define KV_MAX_PAGE_TOKENS 1024

struct kv;
struct kv_seq;
struct kv_save;
struct disk_io;

/* One plane, as an attention mechanism declares it for one layer. */
struct kv_plane {
    uint32_t row_bytes;      /* > 0 */
    uint32_t tokens_per_row; /* 1 for most; s where one row stands for s tokens (divides page_tokens) */
    uint32_t align;          /* power of two, at most 4096; the plane starts on it in every page */
};

struct kv_config {
    uint32_t page_tokens;          /* KV_MIN_PAGE_TOKENS to KV_MAX_PAGE_TOKENS, no power of two needed */
    uint32_t n_planes;             /* > 0 */
    const struct kv_plane *planes; /* copied */
    uint64_t pool_bytes;           /* page memory; at least one page must fit */
    uint32_t max_seqs;             /* sequences alive at once */
    uint32_t max_seq_tokens;       /* positions of one sequence */
    bool huge_pages;               /* ask for transparent huge pages */
    uint32_t pinned_percent;       /* most of the pool that kv_pin may keep, 0 to 90 (`cache_pinned`) */
};

/* The least number of tokens that rows of a tokens and rows of b tokens both make up: what a page that has
 * both is a multiple of. 0 where that is more than KV_MAX_PAGE_TOKENS. a and b are above 0. */
uint32_t kv_common_tokens(uint32_t a, uint32_t b);

struct kv_stats {
    uint64_t page_bytes, n_pages;
    uint64_t pages_free;       /* never used, or evicted */
    uint64_t pages_held;       /* referenced by at least one sequence */
    uint64_t pages_cached;     /* sealed, unreferenced, findable */
    uint64_t pages_shared;     /* referenced by two sequences or more */
    uint64_t pages_pinned;     /* kept by a pin, whether referenced or not */
    uint64_t hits_tokens;      /* counter: tokens attached by kv_seq_match */
    uint64_t queries_tokens;   /* counter: tokens asked for in kv_seq_match, each of a sequence once */
    uint64_t copied_tokens;    /* counter: those of hits_tokens whose rows were copied from inside a page */
    uint64_t evictions;        /* counter: pages that made room for others */
    uint64_t evicted_probation; /* ... of them, those on probation: never matched since they were sealed */
    uint64_t dropped;          /* counter: pages forgotten by kv_drop_cached */
};

/* Maps the pool (lazily backed). Errors: ERR_INVAL naming the field, ERR_NOMEM. */
int kv_open(const struct kv_config *cfg, struct kv **ret, struct err *e) LATENT_MUST_CHECK;
void kv_close(struct kv **kv); /* all sequences must be freed; NULL-safe */

uint32_t kv_page_tokens(const struct kv *kv);
uint64_t kv_page_bytes(const struct kv *kv);
uint32_t kv_n_pages(const struct kv *kv);
/* Byte offset of a plane from a page's address. Constant for the cache's life. */
size_t kv_plane_offset(const struct kv *kv, uint32_t plane);
/* Pages that n tokens need. */
uint32_t kv_pages_for(const struct kv *kv, uint32_t n_tokens);
/* Pages that could be had right now for new rows: free plus, outside a step, evictable. */
uint32_t kv_pages_available(const struct kv *kv);
/* Pages that pins may keep at most: so many fewer can one sequence count on. */
uint32_t kv_max_pinned(const struct kv *kv);

/* An empty sequence. salt separates tenants: equal tokens under different salts never share.
 * ERR_LIMIT beyond max_seqs, ERR_NOMEM. */
int kv_seq_new(struct kv *kv, uint64_t salt, struct kv_seq **ret) LATENT_MUST_CHECK;
/* Says of an empty sequence that its rows [0, ends[w]) are computed in way w, any number of them. Equal
 * tokens then share a page only where both have the same numbers of rows in each way there, a page that
 * begins in a way and ends outside it included. To begin with all ends are 0. */
void kv_seq_set_ways(struct kv *kv, struct kv_seq *seq, const uint32_t ends[KV_WAYS]);
/* Drops all references (sealed pages stay findable) and clears *seq. NULL-safe. */
void kv_seq_free(struct kv *kv, struct kv_seq **seq);
/* On trial, what kv_seq_match is asked for and finds is not counted; when the trial is over it is, and
 * one that is freed before was never there for kv_stats. */
void kv_seq_trial(struct kv *kv, struct kv_seq *seq, bool on);

/* Extends a sequence with what is known of tokens[length..]; tokens[0..length) must be what the sequence
 * already holds. Sealed pages that hold exactly these tokens are attached (an open page gives way to one).
 * Where there is no further one, rows of a sealed page that begins with the next k tokens, in the same
 * ways, are copied to the open page: of the KV_TAIL_SEARCH youngest that begin with the next token, the one
 * with most; k is a multiple of every plane's tokens_per_row. Without a page for the copy none is made. At
 * most `limit` tokens in total are had (callers pass n_tokens - 1 so that one token is left to compute).
 * May be called again later, when other sequences have sealed more. Returns the new length; pages reserved
 * beyond it may have been given back. */
#define KV_TAIL_SEARCH 64
uint32_t kv_seq_match(struct kv *kv, struct kv_seq *seq, const int32_t *tokens, uint32_t n_tokens,
                      uint32_t limit);
/* Tokens that kv_seq_match would attach to a new sequence with these ways (NULL: none), without attaching. */
uint32_t kv_probe(const struct kv *kv, uint64_t salt, const uint32_t ends[KV_WAYS], const int32_t *tokens,
                  uint32_t n_tokens);

/* Makes sure that rows [length, length + n_tokens) have pages, evicting if needed. All or nothing:
 * ERR_NOSPACE changes nothing visible; ERR_LIMIT beyond max_seq_tokens; ERR_NOMEM. */
int kv_seq_reserve(struct kv *kv, struct kv_seq *seq, uint32_t n_tokens) LATENT_MUST_CHECK;
/* Declares rows of tokens[0..n) after the current length written (they were reserved). Pages that
 * become full are sealed and enter the prefix index; when an equal sealed page is already there the
 * sequence switches to that one and its own copy becomes free at kv_step_end. */
void kv_seq_commit(struct kv *kv, struct kv_seq *seq, const int32_t *tokens, uint32_t n_tokens);
/* Cuts to n_tokens, or the length where that is less, and then to a multiple of every plane's
 * tokens_per_row: a row of several tokens stands for the last one that was written, committed or not,
 * and cannot go back. kv_seq_length tells. Also for rows that were written and are given up. An open
 * tail page that came from a sealed one is copied, so that sealed pages never change; that copy may fail
 * with ERR_NOSPACE (nothing changed). */
int kv_seq_truncate(struct kv *kv, struct kv_seq *seq, uint32_t n_tokens) LATENT_MUST_CHECK;
/* A new sequence with the same contents: sealed pages shared, the open page copied. ERR_NOSPACE,
 * ERR_LIMIT, ERR_NOMEM; on failure nothing changed. */
int kv_seq_fork(struct kv *kv, const struct kv_seq *seq, struct kv_seq **ret) LATENT_MUST_CHECK;

uint32_t kv_seq_length(const struct kv_seq *seq);
/* Page addresses covering the reserved rows: pages[t / page_tokens]. Valid until the next call that
 * changes this sequence. ret_n_pages may be NULL. */
unsigned char *const *kv_seq_pages(const struct kv_seq *seq, uint32_t *ret_n_pages);
/* How many pages nothing but these sequences keeps, no pin either: what could be had if all of them went. */
uint32_t kv_seqs_keep(struct kv *kv, struct kv_seq *const *seqs, uint32_t n);

/* Keeps from eviction, until kv_unpin, those whole pages of tokens[0..n_tokens) that are in the index now,
 * from the first without a gap. *ret_id names the pin, never 0; the same prefix pinned again has the same
 * id. *ret_tokens: how many tokens it covers. ERR_NOTFOUND where not even the first page is there, ERR_LIMIT
 * naming cache_pinned where all pins together would keep more than kv_max_pinned pages, ERR_NOMEM; nothing
 * changed. */
int kv_pin(struct kv *kv, uint64_t salt, const uint32_t ends[KV_WAYS], const int32_t *tokens,
           uint32_t n_tokens, uint64_t *ret_id, uint32_t *ret_tokens, struct err *e) LATENT_MUST_CHECK;
/* ERR_NOTFOUND for an id that is not pinned or, where `salt` is not NULL, not under that salt. */
int kv_unpin(struct kv *kv, uint64_t id, const uint64_t *salt, struct err *e) LATENT_MUST_CHECK;
struct kv_pinned {
    uint64_t id, salt;
    uint32_t n_tokens; /* covered: a multiple of page_tokens */
};
/* Fills at most `max` and returns how many pins there are (of the salt, where it is not NULL), at most
 * kv_max_pinned, oldest first. */
uint32_t kv_pins(const struct kv *kv, const uint64_t *salt, struct kv_pinned *ret, uint32_t max);

/* Parking: rows of a sequence that gives its pages back, copied outside the pool and written back later with
 * the same bytes. Copied are the pages from the first that only this sequence holds; kv_park_bytes tells how
 * much that is and how many rows it has. Outside a step. ERR_NOMEM. */
struct kv_parked;
uint64_t kv_park_bytes(const struct kv *kv, const struct kv_seq *seq, uint32_t *ret_n_tokens);
int kv_seq_park(const struct kv *kv, const struct kv_seq *seq, struct kv_parked **ret) LATENT_MUST_CHECK;
/* Into a new sequence with the same salt and ways, after kv_seq_match; `tokens` are those that it had.
 * Then it is as long as it was. ERR_NOTFOUND: rows before the parked ones are missing; ERR_NOSPACE,
 * ERR_NOMEM as kv_seq_reserve. Nothing changed then. */
int kv_seq_unpark(struct kv *kv, struct kv_seq *seq, const struct kv_parked *parked, const int32_t *tokens)
    LATENT_MUST_CHECK;
void kv_parked_free(struct kv_parked **parked); /* NULL-safe */

/* A step: between kv_step_begin and kv_step_end no page changes its address or is reused, so that views
 * taken inside stay good while the compute pool reads them. */
void kv_step_begin(struct kv *kv);
void kv_step_end(struct kv *kv);

/* Forgets every sealed page that no sequence holds and no pin keeps. Returns how many; none inside a step. */
uint32_t kv_drop_cached(struct kv *kv);
/* --- disk ------------------------------------------------------------------------------------------
 *
 * With a disk tier sealed pages are also written to files of a folder, by a thread of its own, and are
 * found there when they are no longer in memory, after a restart too. What is read is believed only when
 * its checksums are right and it was written for the same key, by the same model, layout, program and
 * instruction set; anything else is as if it were not there. The tier never makes a call below fail: in
 * trouble it turns itself off, says so, and tries again later. */
struct kv_disk_config {
    const char *path;         /* folder, made if it is missing; one process at a time */
    uint64_t max_bytes;       /* of all files in it */
    uint64_t bytes_per_s;     /* of writing; 0: no limit */
    uint64_t fingerprint[2];  /* of what decides about bits, except the cache's own layout */
    bool always;              /* read whatever it costs; else only where computing takes longer */
    uint32_t retry_ms;        /* after trouble; 0: 10 s. Doubles with each failure, up to 32 times that */
    uint32_t answer_ms;       /* longer than this for one piece of work: it is down; 0: 120 s */
    void (*wake)(void *arg);  /* from the tier's thread: kv_disk_pump has something to do, or what
                               * kv_disk_stats_read tells has changed */
    void *wake_arg;
    void (*log)(void *arg, int level, const char *text); /* from any thread; level: enum log_level */
    void *log_arg;
    const struct disk_io *io; /* NULL: the system's (kvcache/disk.h) */
};
/* ERR_INVAL names the field, ERR_NOMEM, ERR_IO (no thread). A folder that cannot be used is no error here.
 * kv_close writes what waits to be written, for a few seconds at most, and ends the tier. */
int kv_disk_open(struct kv *kv, const struct kv_disk_config *cfg, struct err *e) LATENT_MUST_CHECK;
/* Hands over what is to be written and puts what was read into the cache. Outside steps, often. */
void kv_disk_pump(struct kv *kv);

/* For a sequence that is about to be matched: true while pages that memory lacks are being read for it, and
 * it should wait and ask again when kv_disk_pump has run. False: match now, compute the rest; nothing is on
 * disk, or reading it takes longer than computing it, as far as both were measured (unless `always`), or
 * took too long. */
bool kv_fetch(struct kv *kv, uint64_t salt, const uint32_t ends[KV_WAYS], const int32_t *tokens,
              uint32_t n_tokens, bool always);
/* So many tokens of prompts took so long to compute: what reading is compared with. */
void kv_disk_computed(struct kv *kv, uint32_t n_tokens, int64_t ns);

/* Writes all cached pages, or those of one prefix (tokens not NULL), without the rate budget, and syncs
 * them. ERR_STATE: there is no disk tier, or it cannot write now; ERR_NOMEM. */
int kv_save_begin(struct kv *kv, uint64_t salt, const uint32_t ends[KV_WAYS], const int32_t *tokens,
                  uint32_t n_tokens, struct kv_save **ret, struct err *e) LATENT_MUST_CHECK;
struct kv_saved {
    uint64_t pages;   /* on disk now */
    uint64_t evicted; /* left memory before they were written */
};
/* 1: done, *ret is filled; 0: ask again after kv_disk_pump; ERR_STATE: the tier got into trouble. */
int kv_save_poll(struct kv *kv, struct kv_save *s, struct kv_saved *ret, struct err *e) LATENT_MUST_CHECK;
void kv_save_end(struct kv *kv, struct kv_save **s); /* any time; NULL-safe */

/* Deletes all files of the tier, and what waits to be written or was read for them. Returns a number for
 * kv_disk_dropped; 0 without a disk tier. */
uint64_t kv_disk_drop(struct kv *kv);
/* 1: done; 0: not yet; ERR_IO: over, but files are still there, since the folder cannot be used or they
 * cannot be deleted. */
int kv_disk_dropped(struct kv *kv, uint64_t number);

enum kv_disk_state { KV_DISK_NONE = 0, KV_DISK_STARTING, KV_DISK_ON, KV_DISK_READING /* not writing */,
                     KV_DISK_DOWN };
struct kv_disk_stats {
    enum kv_disk_state state;
    char trouble[200];                 /* why it does not read or write, or "" */
    uint64_t max_bytes, bytes, pages;
    uint32_t files, evicted_files;
    uint32_t queue;                    /* pages that wait to be written */
    uint64_t writes, reads;            /* pages; counters, as the rest */
    uint64_t hits_tokens;              /* put into memory from disk */
    uint64_t dropped;                  /* pages evicted from memory before they were written */
    uint64_t errors;
};
void kv_disk_stats_read(struct kv *kv, struct kv_disk_stats *ret);

/* Any thread: a consistent-enough snapshot (relaxed atomics). */
void kv_stats_read(const struct kv *kv, struct kv_stats *ret);
/* Walks every structure and aborts with a message on a broken invariant. Tests only. */
void kv_check(const struct kv *kv);

#endif
