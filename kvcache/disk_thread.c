/* kvcache/disk_thread.c - the thread of the disk tier. See disk.h.
 *
 * It takes, in this order: dropping everything, reading what requests wait for, looking through the folder
 * after the start, writing (as fast as the rate budget lets it), syncing what was written. Each is done in
 * small parts, so that a read waits for one page's write at most.
 *
 * When the folder cannot be opened the tier is down; when a write fails it goes on reading and does not
 * write. Both are told once, and tried again after retry_ns, twice that, and so on up to 32 times it.
 * When the lock was deleted under it, or the folder, the tier opens it anew before it writes again. */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "kvcache/disk.h"

#define SYNC_NS NS_PER_SEC      /* at most this much of the time's writing is lost with the machine */
#define TOUCH_EVERY_NS (60 * NS_PER_SEC)
#define MAX_DOUBLINGS 5
#define STOP_NS (5 * NS_PER_SEC) /* for the thread to come to its end */

/* The engine has something to do, or to tell: a state that changed while nothing else happens, too. */
static void wake(struct kv_disk *d)
{
    pthread_mutex_lock(&d->tell);
    if (!d->left)
        d->wake(d->wake_arg);
    pthread_mutex_unlock(&d->tell);
}

static int64_t next_try(struct kv_disk *d)
{
    int64_t wait = d->retry_ns << (d->n_failed < MAX_DOUBLINGS ? d->n_failed : MAX_DOUBLINGS);
    d->n_failed++;
    return clock_now_ns() + wait;
}

static void open_folder(struct kv_disk *d)
{
    struct err e = {0};
    int r = disk__store_open(d, &e);
    pthread_mutex_lock(&d->lock);
    bool told = !strcmp(d->trouble, e.text);
    d->state = r == 0 ? DISK_SCANNING : DISK_DOWN;
    snprintf(d->trouble, sizeof(d->trouble), "%.199s", e.text);
    d->stats.errors += r < 0 && r != ERR_BUSY;
    pthread_mutex_unlock(&d->lock);
    wake(d);
    if (r == 0) {
        d->n_failed = 0;
        return;
    }
    d->retry_at = next_try(d);
    if (!told)
        disk__log(d, LOG_LVL_WARN, "without its disk tier: %s; trying again from time to time", e.text);
}

static void scan(struct kv_disk *d)
{
    if (disk__store_scan(d))
        return;
    pthread_mutex_lock(&d->lock);
    d->state = DISK_ON;
    struct kv_disk_stats s = d->stats;
    pthread_mutex_unlock(&d->lock);
    wake(d);
    disk__log(d, LOG_LVL_INFO, "disk tier in %s: %llu pages found, %.1f of %.1f MiB in %u files",
              d->path, (unsigned long long)s.pages, (double)s.bytes / 1048576,
              (double)d->max_bytes / 1048576, s.files);
}

/* Without the lock that others look for, they may write the same files: what is known of these goes. */
static bool lost_lock(struct kv_disk *d)
{
    if (disk__store_locked(d))
        return false;
    disk__store_close(d);
    pthread_mutex_lock(&d->lock);
    d->state = DISK_DOWN;
    d->write_failed = false; /* that was there */
    d->stats.errors++;
    snprintf(d->trouble, sizeof(d->trouble), "the lock of the folder was deleted");
    pthread_mutex_unlock(&d->lock);
    wake(d);
    d->retry_at = clock_now_ns();
    disk__log(d, LOG_LVL_WARN, "disk tier: somebody deleted %s/lock, or the folder; it is opened again",
              d->path);
    return true;
}

static void touch(struct kv_disk *d)
{
    if (!lost_lock(d))
        disk__store_touch(d);
}

/* A write failed: what waits goes on waiting, here and in memory. */
static void stop_writing(struct kv_disk *d, const struct err *e)
{
    pthread_mutex_lock(&d->lock);
    bool told = d->write_failed && !strcmp(d->trouble, e->text);
    d->write_failed = true;
    snprintf(d->trouble, sizeof(d->trouble), "%.199s", e->text);
    d->stats.errors++;
    pthread_mutex_unlock(&d->lock);
    wake(d);
    d->write_retry_at = next_try(d);
    if (!told)
        disk__log(d, LOG_LVL_WARN, "disk tier: %s; nothing is written until that works again", e->text);
}

static void wrote(struct kv_disk *d)
{
    pthread_mutex_lock(&d->lock);
    bool again = d->write_failed;
    d->write_failed = false;
    if (again)
        d->trouble[0] = 0;
    pthread_mutex_unlock(&d->lock);
    d->n_failed = 0;
    if (again) {
        wake(d);
        disk__log(d, LOG_LVL_INFO, "disk tier: writes to %s work again", d->path);
    }
}

static void write_one(struct kv_disk *d, struct disk_write *w)
{
    struct err e = {0};
    int64_t now = clock_now_ns();
    if (lost_lock(d))
        return;
    pthread_mutex_lock(&d->lock);
    bool known = disk__index_find(&d->index, w->hash) != DISK_NONE;
    pthread_mutex_unlock(&d->lock);
    if (!known && disk__store_write(d, w->record, w->hash, &e) < 0) {
        stop_writing(d, &e);
        return;
    }
    if (!known)
        wrote(d);
    if (!known && d->bytes_per_s) {
        double ns = (double)d->layout.record_bytes / (double)d->bytes_per_s * 1e9;
        d->next_write_at = (d->next_write_at > now ? d->next_write_at : now) + (int64_t)ns;
    }
    if (d->active_dirty && !d->sync_at)
        d->sync_at = now + SYNC_NS;
    pthread_mutex_lock(&d->lock);
    d->queue = w->next; /* it was the first */
    if (!d->queue)
        d->queue_end = &d->queue;
    d->n_queued--;
    w->next = d->spare;
    d->spare = w;
    pthread_mutex_unlock(&d->lock);
    wake(d);
}

static void sync_now(struct kv_disk *d, uint64_t asked)
{
    struct err e = {0};
    d->sync_at = 0;
    if (disk__store_sync(d, &e) < 0)
        stop_writing(d, &e);
    pthread_mutex_lock(&d->lock);
    bool waited = d->sync_done != asked;
    d->sync_done = asked;
    pthread_mutex_unlock(&d->lock);
    if (waited)
        wake(d);
}

/* Nothing waits whose writing would show whether that works again: a sync of what is left does. */
static void try_again(struct kv_disk *d)
{
    struct err e = {0};
    if (disk__store_sync(d, &e) < 0)
        stop_writing(d, &e);
    else
        wrote(d);
}

static void fetch_one(struct kv_disk *d, struct disk_fetch *f)
{
    uint32_t p = d->layout.page_tokens, n = 0;
    for (; n < f->n; n++) {
        uint32_t at = (f->first + n) * p;
        struct disk_key want = {f->hashes[n + 1], f->hashes[n], f->salt, kv__ways_at(f->ends, at, p),
                                f->tokens + at};
        if (disk__store_read(d, &want, f->records[n]) < 0)
            break;
    }
    pthread_mutex_lock(&d->lock);
    f->n_read = n;
    f->done = true;
    pthread_mutex_unlock(&d->lock);
    wake(d);
}

static void drop(struct kv_disk *d, uint64_t asked)
{
    bool gone = disk__store_drop(d);
    pthread_mutex_lock(&d->lock);
    d->drop_done = asked;
    d->drop_failed = !gone || d->state == DISK_DOWN;
    if (d->queue) { /* what waits to be written was cached before */
        d->stats.dropped += d->n_queued;
        *d->queue_end = d->spare;
        d->spare = d->queue;
        d->queue = NULL;
        d->queue_end = &d->queue;
        d->n_queued = 0;
    }
    pthread_mutex_unlock(&d->lock);
    wake(d);
}

/* Sleeps until there is work or the clock says `until`. Under the lock. */
static void sleep_until(struct kv_disk *d, int64_t until)
{
    struct timespec t = {until / NS_PER_SEC, until % NS_PER_SEC};
    pthread_cond_timedwait(&d->work, &d->lock, &t);
}

static struct disk_fetch *first_to_read(const struct kv_disk *d)
{
    struct disk_fetch *f = d->fetches;
    while (f && f->done)
        f = f->next;
    return f;
}

/* One piece of work, or sleep until there may be some. Enters and leaves with the lock held. */
static void turn(struct kv_disk *d)
{
    int64_t now = clock_now_ns(), until = now + TOUCH_EVERY_NS;
    struct disk_fetch *f = first_to_read(d);
    bool up = d->state == DISK_SCANNING || d->state == DISK_ON;
    uint64_t asked;
#define EARLIER(t) (until = (t) < until ? (t) : until)
#define UNLOCKED(call)                   \
    do {                                 \
        d->busy_since_ns = now;          \
        pthread_mutex_unlock(&d->lock);  \
        call;                            \
        pthread_mutex_lock(&d->lock);    \
        d->busy_since_ns = 0;            \
        return;                          \
    } while (0)
    if (d->state == DISK_OPENING || (d->state == DISK_DOWN && now >= d->retry_at))
        UNLOCKED(open_folder(d));
    if (d->state == DISK_DOWN)
        EARLIER(d->retry_at);
    if ((asked = d->drop_asked) != d->drop_done)
        UNLOCKED(drop(d, asked));
    if (f)
        UNLOCKED(fetch_one(d, f));
    if (d->state == DISK_SCANNING)
        UNLOCKED(scan(d));
    asked = d->sync_asked;
    if (asked != d->sync_done || (d->sync_at && now >= d->sync_at))
        UNLOCKED(sync_now(d, asked));
    if (d->sync_at)
        EARLIER(d->sync_at);
    if (d->state == DISK_ON && d->queue) {
        int64_t at = d->urgent ? now : d->next_write_at;
        if (d->write_failed && d->write_retry_at > at)
            at = d->write_retry_at;
        if (at <= now)
            UNLOCKED(write_one(d, d->queue));
        EARLIER(at);
    } else if (d->state == DISK_ON && d->write_failed) {
        if (d->write_retry_at <= now)
            UNLOCKED(try_again(d));
        EARLIER(d->write_retry_at);
    }
    if (up && now >= d->touch_at) {
        d->touch_at = now + TOUCH_EVERY_NS;
        UNLOCKED(touch(d));
    }
#undef UNLOCKED
#undef EARLIER
    sleep_until(d, until);
}

static void done(struct kv_disk *d)
{
    pthread_cond_destroy(&d->work);
    pthread_mutex_destroy(&d->lock);
    pthread_mutex_destroy(&d->tell);
}

static void *disk_main(void *arg)
{
    struct kv_disk *d = arg;
    struct err e = {0};
    pthread_setname_np(pthread_self(), "cache-disk");
    d->touch_at = clock_now_ns() + TOUCH_EVERY_NS;
    pthread_mutex_lock(&d->lock);
    while (!d->stop)
        turn(d);
    pthread_mutex_unlock(&d->lock);
    if (disk__store_sync(d, &e) < 0)
        disk__log(d, LOG_LVL_WARN, "disk tier: %s", e.text);
    disk__store_touch(d);
    disk__store_close(d);
    pthread_mutex_lock(&d->lock);
    d->ended = true;
    bool left = d->left;
    pthread_cond_signal(&d->work);
    pthread_mutex_unlock(&d->lock);
    if (left) {
        done(d);
        disk__free(d);
    }
    return NULL;
}

void disk__init(struct kv_disk *d)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_init(&d->tell, NULL);
    pthread_cond_init(&d->work, &attr);
    pthread_condattr_destroy(&attr);
    d->lock_fd = d->active_fd = d->read_fd = -1;
    d->active = d->reading = DISK_NONE;
    d->queue_end = &d->queue;
}

int disk__start(struct kv_disk *d, struct err *e)
{
    disk__init(d);
    int r = pthread_create(&d->thread, NULL, disk_main, d);
    if (r != 0)
        return err_set(e, ERR_IO, "cannot start the thread of the disk cache: %s", strerror(r));
    return 0;
}

bool disk__stop(struct kv_disk *d)
{
    int64_t until = clock_now_ns() + STOP_NS;
    pthread_mutex_lock(&d->lock);
    d->stop = true;
    pthread_cond_signal(&d->work);
    while (!d->ended && clock_now_ns() < until)
        sleep_until(d, until);
    bool ended = d->ended;
    if (!ended) {
        disk__log(d, LOG_LVL_WARN, "disk tier: %s does not answer; what was not written yet is lost",
                  d->path);
        pthread_mutex_lock(&d->tell);
        d->left = true;
        pthread_mutex_unlock(&d->tell);
        pthread_detach(d->thread);
    }
    pthread_mutex_unlock(&d->lock); /* if the thread was left, d is its own from here on */
    if (ended) {
        pthread_join(d->thread, NULL);
        done(d);
    }
    return ended;
}
