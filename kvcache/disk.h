/* kvcache/disk.h - the disk tier of the cache, from inside the folder: format, folder of files, thread.
 *
 *   disk_format.c  what lies in a file, and what is checked before it is believed
 *   disk_index.c   which page lies where
 *   disk_store.c   the folder: lock, recovery, appending, reading, eviction
 *   disk_thread.c  the thread that owns the folder: queues, budgets, turning off and trying again
 *   disk_kv.c      the engine thread's side: which pages are written, what is read and put in (kvcache.h)
 *   disk_save.c    the same: saving and dropping because somebody asks for it
 *
 * Pages are kept in append-only files of equal records, one a page. A record stands alone: its head has
 * checksums of itself and of the page's bytes, and its place follows from its number, so that what a crash
 * tore is one record that is not believed, wherever it lies; nothing behind it is lost. Few large files
 * rather than one file a page: no million of names, a page costs one sequential write, eviction is one
 * unlink. A file begins with a header that is written under another name, synced and renamed. */
#ifndef LATENT_KVCACHE_DISK_H
#define LATENT_KVCACHE_DISK_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/hash.h"
#include "kvcache/internal.h"
#include "kvcache/kvcache.h"

#define DISK_FILE_HEADER 512 /* bytes before the first record */
#define DISK_VERSION 1
#define DISK_NONE UINT32_MAX

/* What is asked of the system, so that tests can make it fail. Results and errno as the system's calls. */
struct disk_io {
    int (*open)(void *arg, const char *path, int flags, mode_t mode);
    ssize_t (*pread)(void *arg, int fd, void *p, size_t n, off_t at);
    ssize_t (*pwrite)(void *arg, int fd, const void *p, size_t n, off_t at);
    int (*sync)(void *arg, int fd);
    int (*rename)(void *arg, const char *from, const char *to);
    void *arg;
};
extern const struct disk_io disk__system_io;

/* --- format ------------------------------------------------------------------------------------- */

struct disk_layout {
    struct hash128 fingerprint; /* of model, layout, arithmetic */
    uint32_t page_tokens;
    size_t page_bytes, head_bytes, record_bytes;
};

/* What a page is found by and checked against. */
struct disk_key {
    struct hash128 hash, parent; /* parent: kv__root_hash for a first block */
    uint64_t salt;
    struct ways ways;
    const int32_t *tokens; /* [page_tokens] */
};

/* Sizes from page_tokens and page_bytes. */
void disk__layout(struct disk_layout *l);
void disk__put_header(unsigned char out[DISK_FILE_HEADER], const struct disk_layout *l, uint64_t number);
/* 0, ERR_FORMAT (damaged), ERR_UNSUPPORTED (of another version, model or layout); *ret_why tells. */
int disk__check_header(const unsigned char *in, size_t n_bytes, const struct disk_layout *l,
                       uint64_t number, const char **ret_why);
/* A record is its head, the page, and padding. Key and tokens go in first, checksums and place last. */
void disk__put_key(unsigned char *record, const struct disk_layout *l, const struct disk_key *key);
void disk__finish_record(unsigned char *record, const struct disk_layout *l, uint64_t number, uint64_t slot);
/* The key of a head that is whole and in its place; tokens point into it. ERR_FORMAT, and why. */
int disk__check_head(const unsigned char *record, const struct disk_layout *l, uint64_t number,
                     uint64_t slot, struct disk_key *ret, const char **ret_why);
/* Is the record all that `want` says, and are the page's bytes those that were written? */
int disk__check_record(const unsigned char *record, const struct disk_layout *l, uint64_t number,
                       uint64_t slot, const struct disk_key *want, const char **ret_why);

static inline const unsigned char *disk__page(const unsigned char *record, const struct disk_layout *l)
{
    return record + l->head_bytes;
}

/* --- index -------------------------------------------------------------------------------------- */

struct disk_entry {
    struct hash128 hash;
    uint32_t segment, slot;
    uint32_t next, next_in_segment;
};

struct disk_index {
    struct disk_entry *entries;
    uint32_t *buckets;
    uint32_t n_buckets, cap, used, n, free_head; /* free ones through next */
};

void disk__index_done(struct disk_index *x);
uint32_t disk__index_find(const struct disk_index *x, struct hash128 hash); /* DISK_NONE: not there */
/* The entry, or DISK_NONE without memory. The hash must not be in it. */
uint32_t disk__index_add(struct disk_index *x, struct hash128 hash, uint32_t segment, uint32_t slot);
void disk__index_remove(struct disk_index *x, uint32_t entry);

/* --- the tier ----------------------------------------------------------------------------------- */

struct disk_segment {
    uint64_t number;
    uint64_t bytes;
    int64_t used_ns, told_ns; /* wall clock; told to the file system as the file's time */
    uint32_t n_slots;
    uint32_t first_entry;
    bool live, ours;          /* ours: header believed; others only wait for their eviction */
    bool complained;          /* one line for a file, however many of its records are bad */
    bool stuck;               /* it could not be deleted: not tried again before the times are told */
};

/* A page on its way to the disk: a record without its checksums. */
struct disk_write {
    struct disk_write *next;
    struct hash128 hash;
    unsigned char *record;
};

/* Consecutive blocks on their way to memory. */
struct disk_fetch {
    struct disk_fetch *next;
    bool done;                    /* by the thread; under the lock */
    uint64_t salt;
    uint32_t ends[KV_WAYS];
    int32_t *tokens;              /* of the sequence up to the last block */
    uint32_t first, n;            /* blocks [first, first + n) */
    int64_t began_ns, limit_ns;   /* nobody waits longer than limit_ns for it */
    bool dropped;                 /* the engine thread's: not wanted any more */
    uint32_t n_read;              /* good ones from the beginning, once done */
    uint32_t n_put;               /* of them in memory */
    struct hash128 *hashes;       /* [n + 1]; the first is the parent's */
    unsigned char **records;      /* [n] */
};

enum disk_state { DISK_OPENING, DISK_SCANNING, DISK_ON, DISK_DOWN };

struct kv_disk {
    struct disk_io io;
    char *path;
    uint64_t max_bytes, bytes_per_s;
    int64_t retry_ns, answer_ns;
    bool always;
    void (*wake)(void *arg);
    void *wake_arg;
    void (*log)(void *arg, int level, const char *text);
    void *log_arg;
    struct disk_layout layout;
    pthread_t thread;
    pthread_mutex_t tell; /* held while wake and log are called by the thread; after d->lock */
    bool left;            /* they may not be called any more; guarded by both locks */

    pthread_mutex_t lock; /* guards from here to the thread's own part */
    pthread_cond_t work;
    bool stop, urgent;    /* urgent: without the rate budget */
    bool ended;           /* the thread has nothing more to do with it */
    enum disk_state state;
    bool write_failed;
    int64_t busy_since_ns; /* the thread's piece of work; 0: it has none */
    char trouble[200];    /* why it is down, or does not write; "" */
    struct disk_index index;
    struct disk_segment *segments;
    uint32_t n_segments, cap_segments;
    struct disk_write *queue, **queue_end, *spare;
    uint32_t n_queued;
    struct disk_fetch *fetches; /* all, oldest first; taken out by the engine thread */
    unsigned char **spare_records; /* for reading */
    uint32_t n_spare_records, n_records;
    uint64_t sync_asked, sync_done, drop_asked, drop_done;
    uint64_t sync_failures;
    bool drop_failed;     /* the last one left files */
    struct kv_disk_stats stats; /* counters, and bytes, pages, files of the folder */
    int64_t block_read_ns;      /* moving mean, 0: none yet */

    /* the thread's own */
    int lock_fd, active_fd, read_fd;
    uint32_t active, reading;   /* segments, or DISK_NONE */
    bool active_dirty;
    uint32_t scan_at, scan_slot; /* segments in the order of `order` */
    uint32_t *order, n_order;
    int64_t retry_at, write_retry_at, next_write_at, sync_at, touch_at, scan_told_at;
    int n_failed;               /* in a row, for the time until the next try */
    uint64_t next_number;
    unsigned char *record;      /* scratch of the scan */

    /* the engine thread's own */
    bool hang_told;
    uint32_t n_saves;
    uint32_t dirty_head, dirty_tail, n_dirty;
    double tokens_per_s;        /* computing prompts */
};

/* disk_store.c: the thread only; what it changes of the guarded part it changes under the lock. Results
 * 0 or ERR_IO, ERR_BUSY (another process has the folder), ERR_NOMEM, ERR_LIMIT with e set. */
int disk__store_open(struct kv_disk *d, struct err *e) LATENT_MUST_CHECK;
void disk__store_close(struct kv_disk *d);
/* Is the lock still where others look for it? Not where somebody deleted it, or the folder. */
bool disk__store_locked(const struct kv_disk *d);
bool disk__store_scan(struct kv_disk *d); /* a part of it; false: all is known */
int disk__store_write(struct kv_disk *d, unsigned char *record, struct hash128 hash, struct err *e)
    LATENT_MUST_CHECK;
/* ERR_NOTFOUND: not there or not good; it is forgotten then. */
int disk__store_read(struct kv_disk *d, const struct disk_key *want, unsigned char *record)
    LATENT_MUST_CHECK;
int disk__store_sync(struct kv_disk *d, struct err *e) LATENT_MUST_CHECK;
bool disk__store_drop(struct kv_disk *d);  /* every file of the cache in the folder; false: not all went */
void disk__store_touch(struct kv_disk *d); /* the times of files that were used */
void disk__log(struct kv_disk *d, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* disk_thread.c */
void disk__init(struct kv_disk *d); /* lock, and what is not zero to begin with */
int disk__start(struct kv_disk *d, struct err *e) LATENT_MUST_CHECK;
/* False: the thread hangs in its disk. It was left behind, and frees d should it ever come out of it. */
bool disk__stop(struct kv_disk *d);

/* disk_kv.c */
void disk__free(struct kv_disk *d); /* no thread has it; NULL is not safe */
/* To be written, unless it waits for that already. */
void disk__dirty(struct kv *kv, uint32_t id);
void disk__clean(struct kv *kv, uint32_t id);
/* Has the disk not come back from what it was asked for too long? Under the lock. */
bool disk__hangs(const struct kv_disk *d);
/* Is the page on disk? Then it counts as used. */
bool disk__has(struct kv_disk *d, struct hash128 hash);

#endif
