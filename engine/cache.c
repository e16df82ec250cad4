/* engine/cache.c - see cache.h. */
#include "config.h"

#include "engine/cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/identity.h"

/* Rows of one prompt depend on where its blocks of the decompressed scheme end, which depends on its length:
 * a prefix may be there as its own prompt made it, or as a longer one did. */
#define N_KINDS 2

struct cache_task {
    struct cache_task *next;
    enum engine_cache_command command;
    int32_t *tokens;
    uint32_t n_tokens;
    uint64_t salt;
    bool own_pins;
    bool disk;
    uint64_t pin;
    struct gen_event *event; /* has room for the report */
    /* in work */
    bool begun;
    uint32_t ends[N_KINDS][KV_WAYS];
    int kind;
    uint32_t cached_before;
    struct kv_save *save[N_KINDS];
    uint64_t drop;
};

struct cache_desk {
    struct cache_desk_config c;
    struct cache_task *tasks; /* oldest first */
};

int cache_desk_new(const struct cache_desk_config *cfg, struct cache_desk **ret)
{
    struct cache_desk *desk = calloc(1, sizeof(*desk));
    if (!desk)
        return ERR_NOMEM;
    desk->c = *cfg;
    *ret = desk;
    return 0;
}

static void task_end(struct cache_desk *desk, struct cache_task *t)
{
    for (int k = 0; k < N_KINDS; k++)
        kv_save_end(desk->c.kv, &t->save[k]);
    cache_task_free(desk->c.events, t);
}

void cache_desk_free(struct cache_desk **deskp)
{
    struct cache_desk *desk = *deskp;
    *deskp = NULL;
    if (!desk)
        return;
    while (desk->tasks) {
        struct cache_task *t = desk->tasks;
        desk->tasks = t->next;
        task_end(desk, t);
    }
    free(desk);
}

int cache_open_disk(struct kv *kv, const struct checkpoint *ck, const struct engine_config *cfg,
                    const struct scheme *scheme, void (*wake)(void *arg), void *wake_arg, struct err *e)
{
    struct kv_disk_config c = {.path = cfg->disk_path, .max_bytes = cfg->disk_bytes,
                               .bytes_per_s = cfg->disk_rate, .always = cfg->disk_always,
                               .wake = wake, .wake_arg = wake_arg, .log = cfg->log, .log_arg = cfg->log_arg};
    if (!cfg->disk_path || !cfg->prefix_cache)
        return 0;
    int r = engine_identity(ck, cfg, scheme, c.fingerprint, e);
    return r < 0 ? r : kv_disk_open(kv, &c, e);
}

/* --- commands --------------------------------------------------------------------------------------- */

static struct engine_cache_report *report_of(struct gen_event *ev)
{
    return (struct engine_cache_report *)(void *)event_text(ev);
}

struct cache_task *cache_task_new(struct events *events, const struct engine_cache_request *req)
{
    struct cache_task *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->command = req->command;
    t->n_tokens = (uint32_t)req->n_tokens;
    t->salt = req->salt;
    t->own_pins = req->own_pins;
    t->disk = req->disk;
    t->pin = req->pin;
    t->event = events_get(events, sizeof(struct engine_cache_report), 0, 0);
    if (req->tokens && (t->tokens = malloc((t->n_tokens + 1) * sizeof(*t->tokens))))
        memcpy(t->tokens, req->tokens, t->n_tokens * sizeof(*t->tokens));
    if (!t->event || (req->tokens && !t->tokens)) {
        cache_task_free(events, t);
        return NULL;
    }
    t->event->type = GEN_CACHE;
    t->event->user = req->user;
    memset(report_of(t->event), 0, sizeof(struct engine_cache_report));
    report_of(t->event)->command = req->command;
    return t;
}

void cache_task_free(struct events *events, struct cache_task *t)
{
    events_put(events, t->event);
    free(t->tokens);
    free(t);
}

void cache_desk_take(struct cache_desk *desk, struct cache_task *t)
{
    struct cache_task **end = &desk->tasks;
    while (*end)
        end = &(*end)->next;
    *end = t;
}

bool cache_desk_idle(const struct cache_desk *desk)
{
    return desk->tasks == NULL;
}

static const char *disk_state(enum kv_disk_state s)
{
    switch (s) {
    case KV_DISK_NONE:
        break;
    case KV_DISK_STARTING:
        return "starting";
    case KV_DISK_ON:
        return "on";
    case KV_DISK_READING:
        return "reading";
    case KV_DISK_DOWN:
        return "down";
    }
    return "off";
}

/* Whose pins a command may know of; NULL: everybody's. */
static const uint64_t *pins_of(const struct cache_task *t)
{
    return t->own_pins ? &t->salt : NULL;
}

static void fill_stats(struct cache_desk *desk, const struct cache_task *t, struct engine_cache_report *r)
{
    struct kv_stats m;
    struct kv_disk_stats d;
    kv_stats_read(desk->c.kv, &m);
    kv_disk_stats_read(desk->c.kv, &d);
    struct kv_pinned pins[ENGINE_CACHE_PINS_TOLD];
    r->n_pins = (int)kv_pins(desk->c.kv, pins_of(t), pins, ENGINE_CACHE_PINS_TOLD);
    if (r->n_pins > ENGINE_CACHE_PINS_TOLD)
        r->n_pins = ENGINE_CACHE_PINS_TOLD;
    for (int i = 0; i < r->n_pins; i++) {
        r->pins[i].id = pins[i].id;
        r->pins[i].n_tokens = (int)pins[i].n_tokens;
    }
    r->max_pinned = kv_max_pinned(desk->c.kv);
    r->pages_pinned = m.pages_pinned;
    r->copied_tokens = m.copied_tokens;
    r->page_tokens = kv_page_tokens(desk->c.kv);
    r->page_bytes = m.page_bytes;
    r->n_pages = m.n_pages;
    r->pages_free = m.pages_free;
    r->pages_held = m.pages_held;
    r->pages_cached = m.pages_cached;
    r->pages_shared = m.pages_shared;
    r->queries_tokens = m.queries_tokens;
    r->hits_tokens = m.hits_tokens;
    r->evictions = m.evictions;
    r->disk_state = disk_state(d.state);
    snprintf(r->disk_trouble, sizeof(r->disk_trouble), "%s", d.trouble);
    r->disk_max_bytes = d.max_bytes;
    r->disk_bytes = d.bytes;
    r->disk_pages = d.pages;
    r->disk_files = d.files;
    r->disk_queue = d.queue;
    r->disk_writes = d.writes;
    r->disk_reads = d.reads;
    r->disk_hits_tokens = d.hits_tokens;
    r->disk_dropped = d.dropped;
    r->disk_errors = d.errors;
}

static uint32_t probe(const struct cache_desk *desk, const struct cache_task *t, int kind)
{
    return kv_probe(desk->c.kv, t->salt, t->ends[kind], t->tokens, t->n_tokens);
}

static uint32_t probe_all(const struct cache_desk *desk, const struct cache_task *t)
{
    uint32_t a = probe(desk, t, 0), b = probe(desk, t, 1);
    return a > b ? a : b;
}

/* Each of them: 1 done, 0 not yet, or an error. */
static int save(struct cache_desk *desk, struct cache_task *t, struct engine_cache_report *r, struct err *e)
{
    int n_kinds = t->tokens ? N_KINDS : 1;
    for (; t->kind < n_kinds; t->kind++) {
        struct kv_save **s = &t->save[t->kind];
        struct kv_saved done;
        int k = 0;
        if (!*s)
            k = kv_save_begin(desk->c.kv, t->salt, t->ends[t->kind], t->tokens, t->n_tokens, s, e);
        if (k < 0 || (k = kv_save_poll(desk->c.kv, *s, &done, e)) <= 0)
            return k;
        kv_save_end(desk->c.kv, s);
        /* the second prefix may be the first one, or begin like it */
        r->pages = done.pages > r->pages ? done.pages : r->pages;
        r->evicted += done.evicted;
    }
    return 1;
}

static int restore(struct cache_desk *desk, struct cache_task *t, struct engine_cache_report *r,
                   struct err *e)
{
    struct kv_disk_stats d;
    kv_disk_stats_read(desk->c.kv, &d);
    if (d.state == KV_DISK_NONE)
        return err_set(e, ERR_STATE, "there is no disk tier: cache_disk_path is not set");
    if (d.state == KV_DISK_STARTING || d.state == KV_DISK_DOWN)
        return err_set(e, ERR_STATE, "the disk tier cannot be read now: %s",
                       *d.trouble ? d.trouble : "it looks through its folder");
    for (; t->kind < N_KINDS; t->kind++)
        if (kv_fetch(desk->c.kv, t->salt, t->ends[t->kind], t->tokens, t->n_tokens, true))
            return 0;
    r->cached_tokens = (int)probe_all(desk, t);
    r->restored_tokens = r->cached_tokens > (int)t->cached_before ? r->cached_tokens - (int)t->cached_before
                                                                   : 0;
    return 1;
}

static int pin(struct cache_desk *desk, struct cache_task *t, struct engine_cache_report *r, struct err *e)
{
    int kind = probe(desk, t, 1) > probe(desk, t, 0) ? 1 : 0;
    uint32_t n = 0;
    int k = kv_pin(desk->c.kv, t->salt, t->ends[kind], t->tokens, t->n_tokens, &r->pin, &n, e);
    r->cached_tokens = (int)n;
    return k < 0 ? k : 1;
}

static int unpin(struct cache_desk *desk, struct cache_task *t, struct engine_cache_report *r, struct err *e)
{
    int k = kv_unpin(desk->c.kv, t->pin, pins_of(t), e);
    r->pin = t->pin;
    return k < 0 ? k : 1;
}

static int drop(struct cache_desk *desk, struct cache_task *t, struct engine_cache_report *r, struct err *e)
{
    struct kv_disk_stats d;
    if (!t->begun) { /* the disk first: what is evicted would be written there */
        t->drop = t->disk ? kv_disk_drop(desk->c.kv) : 0;
        r->pages = kv_drop_cached(desk->c.kv);
    }
    int k = t->disk ? kv_disk_dropped(desk->c.kv, t->drop) : 1;
    if (k >= 0)
        return k;
    kv_disk_stats_read(desk->c.kv, &d);
    return err_set(e, ERR_STATE, "what memory had is dropped, but files of the disk tier are still there: %s",
                   *d.trouble ? d.trouble : "they cannot be deleted");
}

static int work(struct cache_desk *desk, struct cache_task *t, struct err *e)
{
    struct engine_cache_report *r = report_of(t->event);
    int done = 1;
    if (!t->begun && t->tokens) {
        sched_ways(desk->c.sched, (int)t->n_tokens, false, t->ends[0]);
        sched_ways(desk->c.sched, (int)t->n_tokens, true, t->ends[1]);
        t->cached_before = probe_all(desk, t);
    }
    switch (t->command) {
    case ENGINE_CACHE_STATS:
        fill_stats(desk, t, r);
        break;
    case ENGINE_CACHE_SAVE:
        done = save(desk, t, r, e);
        break;
    case ENGINE_CACHE_RESTORE:
        done = restore(desk, t, r, e);
        break;
    case ENGINE_CACHE_PIN:
        done = pin(desk, t, r, e);
        break;
    case ENGINE_CACHE_UNPIN:
        done = unpin(desk, t, r, e);
        break;
    case ENGINE_CACHE_DROP:
        done = drop(desk, t, r, e);
        break;
    }
    t->begun = true;
    return done;
}

void cache_desk_work(struct cache_desk *desk)
{
    kv_disk_pump(desk->c.kv);
    for (struct cache_task **at = &desk->tasks, *t; (t = *at);) {
        struct err e = {0};
        int done = work(desk, t, &e);
        if (done == 0) {
            at = &t->next;
            continue;
        }
        struct gen_event *ev = t->event;
        t->event = NULL;
        *at = t->next;
        task_end(desk, t);
        if (done < 0)
            ev->error = e;
        else
            ev->cache = report_of(ev);
        atomic_fetch_sub(desk->c.n_unanswered, 1);
        events_post(desk->c.events, ev, desk->c.stopping);
    }
    engine_metrics_disk(desk->c.metrics, desk->c.kv);
}
