/* engine/cache.h - the cache apart from requests: its disk tier, and what operators ask of it.
 *
 * Commands (engine_cache) come through the engine's mailbox and are answered by an event. Those that wait for
 * the disk are looked at between steps. Engine thread, except cache_task_new and cache_task_free. */
#ifndef LATENT_ENGINE_CACHE_H
#define LATENT_ENGINE_CACHE_H

#include <stdatomic.h>

#include "engine/engine.h"
#include "engine/engine_metrics.h"
#include "engine/events.h"
#include "engine/sched.h"
#include "kvcache/kvcache.h"

struct cache_desk;
struct cache_task; /* one command */

struct cache_desk_config {
    struct kv *kv;
    struct sched *sched;
    struct events *events;
    struct engine_metrics *metrics;
    const _Atomic int *stopping;
    _Atomic int *n_unanswered; /* counted down with each answer */
};

int cache_desk_new(const struct cache_desk_config *cfg, struct cache_desk **ret) LATENT_MUST_CHECK;
void cache_desk_free(struct cache_desk **desk); /* what is not answered stays so; NULL-safe */

/* Opens the disk tier where the configuration wants one. wake: called from its thread. */
int cache_open_disk(struct kv *kv, const struct checkpoint *ck, const struct engine_config *cfg,
                    const struct scheme *scheme, void (*wake)(void *arg), void *wake_arg,
                    struct err *e) LATENT_MUST_CHECK;

/* Any thread: a command with room for its answer. NULL: out of memory. */
struct cache_task *cache_task_new(struct events *events, const struct engine_cache_request *req);
void cache_task_free(struct events *events, struct cache_task *t);

void cache_desk_take(struct cache_desk *desk, struct cache_task *t); /* takes it over */
/* Between steps: moves pages to and from the disk tier, answers what is done. */
void cache_desk_work(struct cache_desk *desk);
bool cache_desk_idle(const struct cache_desk *desk); /* no command waits */

#endif
