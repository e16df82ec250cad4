/* kvcache/disk_kv.c - the disk tier as the engine thread sees it. See disk.h and kvcache.h.
 *
 * Writing: a page that is sealed, or found in memory again while the disk lacks it, joins the list of dirty
 * pages. kv_disk_pump copies pages from there into free records, which go to the tier's thread; how fast
 * they become free again is the rate budget. So the list waits in memory that is there anyway, and a page
 * that is evicted meanwhile is lost to the disk and counted.
 *
 * Reading: kv_fetch follows the chain of hashes beyond what memory has, as far as the disk knows it, and
 * queues one piece. The thread reads it into records, checks them, and kv_disk_pump copies them into pages
 * like any others: a page is never visible before it is whole, and no page of the pool is tied up by a
 * disk that is slow. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "kvcache/disk.h"

#define WRITE_BYTES ((size_t)16 << 20) /* of records on their way to the disk, and from it */
#define READ_BYTES ((size_t)64 << 20)
#define MAX_RECORDS 256
#define MAX_FETCHES 8
#define PUMP_BYTES ((size_t)64 << 20)  /* copied into pages at once */
#define ASSUMED_READ_NS (200000 + 5)   /* before the first read was measured: and 200 MB/s */
#define MIN_WAIT_NS (50 * NS_PER_MS)
#define MAX_WAIT_NS (30 * NS_PER_SEC)
#define ALWAYS_WAIT_NS (120 * NS_PER_SEC)
#define ANSWER_MS 120000
#define CLOSE_NS (5 * NS_PER_SEC)

/* --- opening and closing ------------------------------------------------------------------------------ */

static void no_wake(void *arg)
{
    (void)arg;
}

/* The layout is part of what decides about a page's bytes. */
static struct hash128 fingerprint(const struct kv *kv, const uint64_t model[2])
{
    struct hash128 h = {model[0], model[1]};
    for (uint32_t i = 0; i < kv->n_planes; i++) {
        const uint64_t plane[4] = {h.lo, h.hi, kv->plane_offset[i], kv->plane_row_bytes[i]};
        h = hash128_bytes(plane, sizeof(plane), 0);
    }
    return h;
}

static size_t clamp(size_t n, size_t min, size_t max)
{
    return n < min ? min : n > max ? max : n;
}

static unsigned char *record_new(const struct kv_disk *d)
{
    unsigned char *p = aligned_alloc(512, d->layout.record_bytes);
    if (p) /* what lies behind the page is written too */
        memset(p + d->layout.record_bytes - 512, 0, 512);
    return p;
}

static bool make_records(struct kv_disk *d)
{
    size_t bytes = d->layout.record_bytes, n_write = clamp(WRITE_BYTES / bytes, 2, 64);
    d->n_records = (uint32_t)clamp(READ_BYTES / bytes, 4, MAX_RECORDS);
    d->spare_records = calloc(d->n_records, sizeof(*d->spare_records));
    d->record = record_new(d);
    if (!d->spare_records || !d->record)
        return false;
    for (size_t i = 0; i < n_write; i++) {
        struct disk_write *w = calloc(1, sizeof(*w));
        if (!w || !(w->record = record_new(d))) {
            free(w);
            return false;
        }
        w->next = d->spare;
        d->spare = w;
    }
    while (d->n_spare_records < d->n_records) {
        if (!(d->spare_records[d->n_spare_records] = record_new(d)))
            return false;
        d->n_spare_records++;
    }
    return true;
}

static void fetch_free(struct kv_disk *d, struct disk_fetch *f)
{
    if (!f)
        return;
    for (uint32_t i = 0; f->records && i < f->n; i++)
        d->spare_records[d->n_spare_records++] = f->records[i];
    free(f->records);
    free(f->hashes);
    free(f->tokens);
    free(f);
}

static void free_writes(struct disk_write *w)
{
    for (struct disk_write *next; w; w = next) {
        next = w->next;
        free(w->record);
        free(w);
    }
}

void disk__free(struct kv_disk *d)
{
    for (struct disk_fetch *f = d->fetches, *next; f; f = next) {
        next = f->next;
        fetch_free(d, f);
    }
    free_writes(d->queue);
    free_writes(d->spare);
    while (d->n_spare_records > 0)
        free(d->spare_records[--d->n_spare_records]);
    free(d->spare_records);
    free(d->record);
    free(d->segments);
    disk__index_done(&d->index);
    free(d->path);
    free(d);
}

int kv_disk_open(struct kv *kv, const struct kv_disk_config *c, struct err *e)
{
    struct kv_disk *d = calloc(1, sizeof(*d));
    int r = ERR_NOMEM;
    if (!d || !(d->path = strdup(c->path)))
        goto fail;
    d->io = c->io ? *c->io : disk__system_io;
    d->max_bytes = c->max_bytes;
    d->bytes_per_s = c->bytes_per_s;
    d->always = c->always;
    d->retry_ns = (c->retry_ms ? c->retry_ms : 10000) * NS_PER_MS;
    d->answer_ns = (c->answer_ms ? c->answer_ms : ANSWER_MS) * NS_PER_MS;
    d->wake = c->wake ? c->wake : no_wake;
    d->wake_arg = c->wake_arg;
    d->log = c->log;
    d->log_arg = c->log_arg;
    d->dirty_head = d->dirty_tail = NO_PAGE;
    d->layout = (struct disk_layout){.fingerprint = fingerprint(kv, c->fingerprint),
                                     .page_tokens = kv->page_tokens, .page_bytes = kv->page_bytes};
    disk__layout(&d->layout);
    if (c->max_bytes < 4 * (DISK_FILE_HEADER + (uint64_t)d->layout.record_bytes)) {
        r = err_set_param(e, ERR_INVAL, "cache_disk_size",
                          "cache_disk_size %llu: at least four pages of %zu bytes must fit",
                          (unsigned long long)c->max_bytes, d->layout.record_bytes + DISK_FILE_HEADER);
        goto fail;
    }
    if (!make_records(d))
        goto fail;
    if ((r = disk__start(d, e)) < 0)
        goto fail;
    kv->disk = d;
    return 0;
fail:
    if (d)
        disk__free(d);
    return r == ERR_NOMEM ? err_set(e, r, "out of memory for the disk tier") : r;
}

void kv__disk_close(struct kv *kv)
{
    struct kv_disk *d = kv->disk;
    int64_t until = clock_now_ns() + CLOSE_NS;
    if (!d)
        return;
    for (bool more = true; more && clock_now_ns() < until;) {
        struct kv_disk_stats st;
        pthread_mutex_lock(&d->lock);
        d->urgent = true;
        pthread_cond_signal(&d->work);
        pthread_mutex_unlock(&d->lock);
        kv_disk_pump(kv);
        kv_disk_stats_read(kv, &st);
        more = st.queue > 0 && (st.state == KV_DISK_ON || st.state == KV_DISK_STARTING);
        if (more)
            nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    kv->disk = NULL;
    if (disk__stop(d))
        disk__free(d);
}

/* --- writing ---------------------------------------------------------------------------------------- */

bool disk__hangs(const struct kv_disk *d)
{
    return d->busy_since_ns && clock_now_ns() - d->busy_since_ns > d->answer_ns;
}

bool disk__has(struct kv_disk *d, struct hash128 hash)
{
    pthread_mutex_lock(&d->lock);
    uint32_t e = disk__index_find(&d->index, hash);
    if (e != DISK_NONE)
        d->segments[d->index.entries[e].segment].used_ns = clock_wall_ns();
    pthread_mutex_unlock(&d->lock);
    return e != DISK_NONE;
}

void disk__dirty(struct kv *kv, uint32_t id)
{
    struct kv_disk *d = kv->disk;
    struct page *p = &kv->pages[id];
    if (p->dirty)
        return;
    p->dirty = 1;
    p->dirty_prev = d->dirty_tail;
    p->dirty_next = NO_PAGE;
    if (p->dirty_prev != NO_PAGE)
        kv->pages[p->dirty_prev].dirty_next = id;
    else
        d->dirty_head = id;
    d->dirty_tail = id;
    d->n_dirty++;
}

void disk__clean(struct kv *kv, uint32_t id)
{
    struct kv_disk *d = kv->disk;
    struct page *p = &kv->pages[id];
    if (!p->dirty)
        return;
    if (p->dirty_prev != NO_PAGE)
        kv->pages[p->dirty_prev].dirty_next = p->dirty_next;
    else
        d->dirty_head = p->dirty_next;
    if (p->dirty_next != NO_PAGE)
        kv->pages[p->dirty_next].dirty_prev = p->dirty_prev;
    else
        d->dirty_tail = p->dirty_prev;
    p->dirty = 0;
    d->n_dirty--;
}

/* Copies a page into a free record and queues it. False: none is free. */
static bool stage(struct kv *kv, uint32_t id)
{
    struct kv_disk *d = kv->disk;
    const struct page *p = &kv->pages[id];
    pthread_mutex_lock(&d->lock);
    struct disk_write *w = d->spare;
    if (w)
        d->spare = w->next;
    pthread_mutex_unlock(&d->lock);
    if (!w)
        return false;
    const struct disk_key key = {p->hash, p->parent == NO_PAGE ? kv__root_hash(p->salt)
                                                               : kv->pages[p->parent].hash,
                                 p->salt, p->ways, page_tokens_of(kv, id)};
    disk__put_key(w->record, &d->layout, &key);
    memcpy(w->record + d->layout.head_bytes, page_address(kv, id), kv->page_bytes);
    w->hash = p->hash;
    w->next = NULL;
    pthread_mutex_lock(&d->lock);
    *d->queue_end = w;
    d->queue_end = &w->next;
    d->n_queued++;
    pthread_cond_signal(&d->work);
    pthread_mutex_unlock(&d->lock);
    return true;
}

void kv__disk_sealed(struct kv *kv, uint32_t id)
{
    if (kv->disk && !disk__has(kv->disk, kv->pages[id].hash))
        disk__dirty(kv, id);
}

void kv__disk_used(struct kv *kv, uint32_t id)
{
    if (kv->disk && !kv->pages[id].dirty && !disk__has(kv->disk, kv->pages[id].hash))
        disk__dirty(kv, id);
}

void kv__disk_evicting(struct kv *kv, uint32_t id)
{
    struct kv_disk *d = kv->disk;
    if (!d || !kv->pages[id].dirty)
        return;
    if (!stage(kv, id)) { /* a last chance */
        pthread_mutex_lock(&d->lock);
        d->stats.dropped++;
        pthread_mutex_unlock(&d->lock);
    }
    disk__clean(kv, id);
}

static void write_dirty(struct kv *kv)
{
    struct kv_disk *d = kv->disk;
    while (d->dirty_head != NO_PAGE) {
        uint32_t id = d->dirty_head;
        if (!disk__has(d, kv->pages[id].hash) && !stage(kv, id))
            return;
        disk__clean(kv, id);
    }
}

/* --- reading ---------------------------------------------------------------------------------------- */

/* Follows blocks [0, n) of tokens in memory. Returns how many are there; *ret_last is the last one's page. */
static uint32_t in_memory(const struct kv *kv, uint64_t salt, const uint32_t ends[KV_WAYS],
                          const int32_t *tokens, uint32_t n, uint32_t *ret_last)
{
    uint32_t p = kv->page_tokens, parent = NO_PAGE, i = 0;
    for (; i < n; i++) {
        struct block_key key = kv__block_key(kv, salt, ends, i * p, parent, tokens + (size_t)i * p);
        uint32_t id = kv__index_find(kv, &key, kv__block_hash(kv, &key));
        if (id == NO_PAGE)
            break;
        parent = id;
    }
    *ret_last = parent;
    return i;
}

static int64_t block_ns(const struct kv_disk *d)
{
    return d->block_read_ns ? d->block_read_ns
                            : ASSUMED_READ_NS + (int64_t)d->layout.record_bytes * 5;
}

/* Blocks that are being read for others. Under the lock; *ret_late: the disk is slower than was expected. */
static uint32_t reading_now(const struct kv_disk *d, int64_t now, uint32_t *ret_fetches, bool *ret_late)
{
    uint32_t n = 0;
    *ret_fetches = 0;
    *ret_late = false;
    for (const struct disk_fetch *f = d->fetches; f; f = f->next) {
        (*ret_fetches)++;
        n += f->done ? 0 : f->n;
        *ret_late |= !f->done && now - f->began_ns > f->limit_ns;
    }
    return n;
}

/* A fetch of n blocks from `first` on; takes its records from the spare ones. NULL: out of memory. */
static struct disk_fetch *fetch_new(struct kv *kv, uint64_t salt, const uint32_t ends[KV_WAYS],
                                    const int32_t *tokens, uint32_t first, uint32_t n,
                                    const struct hash128 *hashes)
{
    struct kv_disk *d = kv->disk;
    size_t n_tokens = (size_t)(first + n) * kv->page_tokens;
    struct disk_fetch *f = calloc(1, sizeof(*f));
    if (!f)
        return NULL;
    f->tokens = malloc(n_tokens * sizeof(*tokens));
    f->hashes = malloc((n + 1) * sizeof(*hashes));
    f->records = calloc(n, sizeof(*f->records));
    if (!f->tokens || !f->hashes || !f->records) {
        fetch_free(d, f);
        return NULL;
    }
    f->salt = salt;
    memcpy(f->ends, ends, sizeof(f->ends));
    memcpy(f->tokens, tokens, n_tokens * sizeof(*tokens));
    memcpy(f->hashes, hashes, (n + 1) * sizeof(*hashes));
    f->first = first;
    for (f->n = 0; f->n < n; f->n++)
        f->records[f->n] = d->spare_records[--d->n_spare_records];
    return f;
}

/* Queues the fetch of what the disk has behind block `first`; false: nothing, or not worth while. */
static bool start_fetch(struct kv *kv, uint64_t salt, const uint32_t ends[KV_WAYS], const int32_t *tokens,
                        uint32_t first, uint32_t n, struct hash128 parent, bool always)
{
    struct kv_disk *d = kv->disk;
    uint32_t p = kv->page_tokens, known = 0, most = d->n_spare_records / 2, n_fetches;
    struct hash128 hashes[MAX_RECORDS + 1];
    bool late;
    hashes[0] = parent;
    most = most < 1 ? 1 : most;
    most = most < n ? most : n;
    pthread_mutex_lock(&d->lock);
    while (known < most) {
        struct hash128 h = kv__chain_hash(hashes[known], kv__ways_at(ends, (first + known) * p, p),
                                          tokens + (size_t)(first + known) * p, p);
        if (disk__index_find(&d->index, h) == DISK_NONE)
            break;
        hashes[++known] = h;
    }
    int64_t now = clock_now_ns();
    uint32_t ahead = reading_now(d, now, &n_fetches, &late);
    int64_t read_ns = block_ns(d) * (ahead + known);
    if (disk__hangs(d))
        known = 0;
    pthread_mutex_unlock(&d->lock);
    double compute_ns = d->tokens_per_s > 0 ? (double)known * p / d->tokens_per_s * 1e9 : 1e18;
    if (known == 0 || (!always && (late || (double)read_ns > compute_ns)))
        return false;
    if (n_fetches >= MAX_FETCHES || d->n_spare_records < known)
        return !late; /* its turn comes */
    struct disk_fetch *f = fetch_new(kv, salt, ends, tokens, first, known, hashes);
    if (!f)
        return false;
    double limit = compute_ns < (double)MIN_WAIT_NS ? (double)MIN_WAIT_NS
                   : compute_ns > (double)MAX_WAIT_NS ? (double)MAX_WAIT_NS : compute_ns;
    f->began_ns = now;
    f->limit_ns = always ? ALWAYS_WAIT_NS : (int64_t)limit;
    pthread_mutex_lock(&d->lock);
    struct disk_fetch **end = &d->fetches;
    while (*end)
        end = &(*end)->next;
    *end = f;
    pthread_cond_signal(&d->work);
    pthread_mutex_unlock(&d->lock);
    return true;
}

/* Pages that could be had for what follows page `last`, which keep it and those before it. */
static uint32_t room_behind(const struct kv *kv, uint32_t last)
{
    uint32_t n = kv_pages_available(kv);
    for (uint32_t id = last; id != NO_PAGE; id = kv->pages[id].parent)
        n -= kv__could_go(kv, id);
    return n;
}

bool kv_fetch(struct kv *kv, uint64_t salt, const uint32_t ends[KV_WAYS], const int32_t *tokens,
              uint32_t n_tokens, bool always)
{
    struct kv_disk *d = kv->disk;
    uint32_t p = kv->page_tokens, n = n_tokens / p, last;
    if (!d || n == 0)
        return false;
    uint32_t have = in_memory(kv, salt, ends, tokens, n, &last);
    if (have == n)
        return false;
    /* Not before there is room for all that it needs, or others would push out what was read; and never what
     * could not be put anywhere. */
    uint32_t room = room_behind(kv, last), more = n - have;
    if (!always && kv->n_held > 0 && more + 1 > room)
        return false;
    struct hash128 parent = last == NO_PAGE ? kv__root_hash(salt) : kv->pages[last].hash;
    struct hash128 next = kv__chain_hash(parent, kv__ways_at(ends, have * p, p),
                                         tokens + (size_t)have * p, p);
    for (const struct disk_fetch *f = d->fetches; f; f = f->next)
        if (!f->dropped && have >= f->first && have - f->first < f->n &&
            !memcmp(&f->hashes[have - f->first + 1], &next, sizeof(next)))
            return clock_now_ns() - f->began_ns <= f->limit_ns;
    return start_fetch(kv, salt, ends, tokens, have, more < room ? more : room, parent, always || d->always);
}

void kv_disk_computed(struct kv *kv, uint32_t n_tokens, int64_t ns)
{
    if (!kv->disk || ns <= 0 || n_tokens < kv->page_tokens)
        return;
    double rate = (double)n_tokens / (double)ns * 1e9, *mean = &kv->disk->tokens_per_s;
    *mean = *mean > 0 ? *mean + (rate - *mean) / 8 : rate;
}

/* Puts blocks of a fetch into pages until `budget` bytes are copied. False: none is left to put. */
static bool put_blocks(struct kv *kv, struct disk_fetch *f, size_t *budget)
{
    uint32_t p = kv->page_tokens, last, upto = f->first + f->n_put, n = f->first + f->n_read;
    /* The beginning may have been evicted meanwhile, or computed by somebody. */
    uint32_t at = in_memory(kv, f->salt, f->ends, f->tokens, n, &last);
    if (at < upto || at >= n || f->dropped)
        return false;
    if (last != NO_PAGE)
        kv__page_ref(kv, last); /* or taking a page for its child could evict it */
    uint32_t began = at;
    bool room = true;
    while (at < n && room && *budget > 0) {
        struct block_key key = kv__block_key(kv, f->salt, f->ends, at * p, last, f->tokens + (size_t)at * p);
        uint32_t id = kv__page_take(kv);
        if (!(room = id != NO_PAGE))
            break;
        memcpy(page_address(kv, id), disk__page(f->records[at - f->first], &kv->disk->layout),
               kv->page_bytes);
        kv__page_seal(kv, id, &key, f->hashes[at - f->first + 1]);
        if (last != NO_PAGE)
            kv__page_unref(kv, last);
        last = id;
        at++;
        *budget = *budget > kv->page_bytes ? *budget - kv->page_bytes : 0;
    }
    if (last != NO_PAGE)
        kv__page_unref(kv, last);
    pthread_mutex_lock(&kv->disk->lock);
    kv->disk->stats.hits_tokens += (uint64_t)(at - began) * p;
    pthread_mutex_unlock(&kv->disk->lock);
    f->n_put = at - f->first;
    return room && at < n;
}

static void take_fetches(struct kv *kv)
{
    struct kv_disk *d = kv->disk;
    size_t budget = PUMP_BYTES;
    for (struct disk_fetch *f = d->fetches, *next; f; f = next) {
        next = f->next;
        pthread_mutex_lock(&d->lock);
        bool done = f->done;
        pthread_mutex_unlock(&d->lock);
        if (!done || (budget > 0 ? put_blocks(kv, f, &budget) : true))
            continue;
        pthread_mutex_lock(&d->lock);
        struct disk_fetch **at = &d->fetches;
        while (*at != f)
            at = &(*at)->next;
        *at = next;
        pthread_mutex_unlock(&d->lock);
        fetch_free(d, f);
    }
    if (budget == 0)
        d->wake(d->wake_arg); /* more of it after the next step */
}

static void tell_hang(struct kv_disk *d)
{
    pthread_mutex_lock(&d->lock);
    bool hangs = disk__hangs(d);
    pthread_mutex_unlock(&d->lock);
    if (hangs && !d->hang_told)
        disk__log(d, LOG_LVL_WARN, "disk tier: %s does not answer; without it until it does", d->path);
    else if (!hangs && d->hang_told)
        disk__log(d, LOG_LVL_INFO, "disk tier: %s answers again", d->path);
    d->hang_told = hangs;
}

void kv_disk_pump(struct kv *kv)
{
    if (!kv->disk || kv->in_step)
        return;
    tell_hang(kv->disk);
    take_fetches(kv);
    write_dirty(kv);
    kv__publish(kv);
}

void kv_disk_stats_read(struct kv *kv, struct kv_disk_stats *ret)
{
    struct kv_disk *d = kv->disk;
    *ret = (struct kv_disk_stats){.state = KV_DISK_NONE};
    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    *ret = d->stats;
    bool hangs = disk__hangs(d);
    ret->state = hangs || d->state == DISK_DOWN ? KV_DISK_DOWN
                 : d->state != DISK_ON ? KV_DISK_STARTING
                 : d->write_failed     ? KV_DISK_READING
                                       : KV_DISK_ON;
    snprintf(ret->trouble, sizeof(ret->trouble), "%s", hangs ? "the disk does not answer" : d->trouble);
    ret->max_bytes = d->max_bytes;
    ret->queue = d->n_queued + d->n_dirty;
    pthread_mutex_unlock(&d->lock);
}
