/* kvcache/disk_save.c - saving and dropping because somebody asks for it. See kvcache.h. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "kvcache/disk.h"

struct saved_page {
    struct hash128 hash;
    uint32_t id;
};

struct kv_save {
    struct saved_page *pages;
    uint32_t n, at;
    struct kv_saved counts;
    uint64_t sync;          /* 0: not asked yet */
    uint64_t sync_failures; /* that there were before */
};

static int check_writing(struct kv *kv, struct err *e)
{
    struct kv_disk_stats st;
    kv_disk_stats_read(kv, &st);
    if (st.state == KV_DISK_NONE)
        return err_set(e, ERR_STATE, "there is no disk tier: cache_disk_path is not set");
    if (st.state == KV_DISK_DOWN || st.state == KV_DISK_READING)
        return err_set(e, ERR_STATE, "the disk tier does not write now: %s", st.trouble);
    return 0;
}

static void add(struct kv *kv, struct kv_save *s, uint32_t id)
{
    s->pages[s->n++] = (struct saved_page){kv->pages[id].hash, id};
    if (!disk__has(kv->disk, kv->pages[id].hash))
        disk__dirty(kv, id);
}

static void set_urgent(struct kv_disk *d, bool urgent)
{
    pthread_mutex_lock(&d->lock);
    d->urgent = urgent;
    pthread_cond_signal(&d->work);
    pthread_mutex_unlock(&d->lock);
}

int kv_save_begin(struct kv *kv, uint64_t salt, const uint32_t ends[KV_WAYS], const int32_t *tokens,
                  uint32_t n_tokens, struct kv_save **ret, struct err *e)
{
    uint32_t p = kv->page_tokens, parent = NO_PAGE;
    int r = check_writing(kv, e);
    if (r < 0)
        return r;
    struct kv_save *s = calloc(1, sizeof(*s));
    uint32_t most = tokens ? n_tokens / p : kv->n_pages;
    if (!s || !(s->pages = calloc(most + 1, sizeof(*s->pages)))) {
        free(s);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    for (uint32_t i = 0; i < most; i++)
        if (!tokens) { /* all of them; those before others were sealed before others, but need not lie so */
            if (kv->pages[i].state == PAGE_SEALED)
                add(kv, s, i);
        } else {
            struct block_key key = kv__block_key(kv, salt, ends, i * p, parent, tokens + (size_t)i * p);
            parent = kv__index_find(kv, &key, kv__block_hash(kv, &key));
            if (parent == NO_PAGE)
                break;
            add(kv, s, parent);
        }
    pthread_mutex_lock(&kv->disk->lock);
    s->sync_failures = kv->disk->sync_failures;
    pthread_mutex_unlock(&kv->disk->lock);
    kv->disk->n_saves++;
    set_urgent(kv->disk, true);
    *ret = s;
    return 0;
}

/* Is a page with this hash on its way to the disk? */
static bool queued(struct kv_disk *d, struct hash128 hash)
{
    pthread_mutex_lock(&d->lock);
    const struct disk_write *w = d->queue;
    while (w && (w->hash.lo != hash.lo || w->hash.hi != hash.hi))
        w = w->next;
    pthread_mutex_unlock(&d->lock);
    return w != NULL;
}

int kv_save_poll(struct kv *kv, struct kv_save *s, struct kv_saved *ret, struct err *e)
{
    struct kv_disk *d = kv->disk;
    int r = check_writing(kv, e);
    if (r < 0)
        return r;
    for (; s->at < s->n; s->at++) {
        const struct saved_page *w = &s->pages[s->at];
        const struct page *p = &kv->pages[w->id];
        bool there = !memcmp(&p->hash, &w->hash, sizeof(w->hash));
        /* In this order: what leaves the queue is on disk before. */
        if ((p->dirty && there) || queued(d, w->hash))
            return 0;
        if (!disk__has(d, w->hash) && !there)
            s->counts.evicted++;
    }
    pthread_mutex_lock(&d->lock);
    if (!s->sync) {
        s->sync = ++d->sync_asked;
        pthread_cond_signal(&d->work);
    }
    bool synced = d->sync_done >= s->sync, failed = d->sync_failures != s->sync_failures;
    pthread_mutex_unlock(&d->lock);
    if (failed) /* though the tier may have recovered since */
        return err_set(e, ERR_STATE, "what the disk tier wrote meanwhile could not be synced");
    if (!synced)
        return 0;
    for (uint32_t i = 0; i < s->n; i++) /* where cache_disk_size is small, first ones went for the last */
        s->counts.pages += disk__has(d, s->pages[i].hash);
    *ret = s->counts;
    return 1;
}

void kv_save_end(struct kv *kv, struct kv_save **sp)
{
    struct kv_save *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    free(s->pages);
    free(s);
    if (--kv->disk->n_saves == 0)
        set_urgent(kv->disk, false);
}

uint64_t kv_disk_drop(struct kv *kv)
{
    struct kv_disk *d = kv->disk;
    if (!d)
        return 0;
    while (d->dirty_head != NO_PAGE)
        disk__clean(kv, d->dirty_head);
    for (struct disk_fetch *f = d->fetches; f; f = f->next)
        f->dropped = true;
    pthread_mutex_lock(&d->lock);
    uint64_t number = ++d->drop_asked;
    pthread_cond_signal(&d->work);
    pthread_mutex_unlock(&d->lock);
    return number;
}

int kv_disk_dropped(struct kv *kv, uint64_t number)
{
    if (!kv->disk)
        return 1;
    pthread_mutex_lock(&kv->disk->lock);
    bool over = kv->disk->drop_done >= number;
    int done = over ? (kv->disk->drop_failed ? ERR_IO : 1) : disk__hangs(kv->disk) ? ERR_IO : 0;
    pthread_mutex_unlock(&kv->disk->lock);
    return done;
}
