/* tests/unit/held_engine.c - see held_engine.h. */
#include "config.h"

#include "held_engine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"

struct request {
    uint64_t id;
    int first, n_prompt;
    void *user;
    bool cancelled;
};

struct engine {
    struct request list[HELD_MAX];
    int n;
    uint64_t ids;
    struct engine_info info;
    struct err error;
    void (*wake)(void *arg);
    void *wake_arg;
};

struct held held;
static struct engine engine;
static atomic_bool released;

int engine_start(const struct engine_config *cfg, struct engine **ret, struct err *e)
{
    (void)e;
    engine = (struct engine){.wake = cfg->wake, .wake_arg = cfg->wake_arg};
    engine.info.config.vocab_size = 1000;
    engine.info.max_model_len = 100;
    engine.info.model_id = engine.info.format = engine.info.weight_types = "held";
    *ret = &engine;
    engine.wake(engine.wake_arg);
    return 0;
}

void engine_stop(struct engine **eng)
{
    *eng = NULL;
    engine.n = 0;
}

void held_release(void)
{
    atomic_store(&released, true);
    engine.wake(engine.wake_arg);
}

static void *release_later(void *arg)
{
    usleep((useconds_t)(intptr_t)arg * 1000);
    held_release();
    return NULL;
}

void held_release_soon(int ms)
{
    pthread_t t;
    if (pthread_create(&t, NULL, release_later, (void *)(intptr_t)ms) != 0)
        abort();
    pthread_detach(t);
}

int engine_submit(struct engine *eng, struct gen_request *g, uint64_t *ret_id, struct err *e)
{
    if (held.fail && g->prompt[0] == held.fail)
        return err_set(e, ERR_INTERNAL, "it is to fail");
    if (eng->n >= (held.room ? held.room : HELD_MAX) || held.n_submitted == HELD_MAX) {
        held.n_refused++;
        return err_set(e, ERR_BUSY, "the queue is full");
    }
    eng->list[eng->n++] = (struct request){
        .id = *ret_id = ++eng->ids, .first = g->prompt[0], .n_prompt = g->n_prompt, .user = g->user};
    held.first[held.n_submitted++] = g->prompt[0];
    arena_free(g->arena);
    if (eng->n == held.release_at)
        held_release();
    if (held.submitted)
        held.submitted(held.n_submitted);
    return 0;
}

void engine_cancel(struct engine *eng, uint64_t id)
{
    for (int i = 0; i < eng->n; i++)
        if (eng->list[i].id == id) {
            eng->list[i].cancelled = true;
            held.n_cancelled++;
            eng->wake(eng->wake_arg);
        }
}

struct gen_event *engine_next_event(struct engine *eng)
{
    int at = -1;
    for (int i = 0; i < eng->n; i++)
        if (eng->list[i].cancelled ||
            (atomic_load(&released) && (at < 0 || eng->list[i].first < eng->list[at].first)))
            at = i;
    if (at < 0) {
        atomic_store(&released, false);
        return NULL;
    }
    struct gen_event *ev = calloc(1, sizeof(*ev));
    if (!ev)
        abort();
    const struct request r = eng->list[at];
    memmove(&eng->list[at], &eng->list[at + 1], (size_t)(--eng->n - at) * sizeof(r));
    *ev = (struct gen_event){.type = GEN_DONE,
                             .request_id = r.id,
                             .user = r.user,
                             .text = "n",
                             .text_bytes = 1,
                             .finish_reason = r.cancelled ? FINISH_ABORT : FINISH_STOP,
                             .stop_token_id = -1,
                             .prompt_tokens = r.n_prompt,
                             .completion_tokens = 1};
    return ev;
}

void engine_event_free(struct engine *eng, struct gen_event *ev)
{
    (void)eng;
    free(ev);
}

void engine_drain(struct engine *eng)
{
    (void)eng;
}

enum engine_state engine_state(const struct engine *eng)
{
    (void)eng;
    return ENGINE_READY;
}

float engine_load_progress(const struct engine *eng)
{
    (void)eng;
    return 1;
}

const struct err *engine_load_error(const struct engine *eng)
{
    return &eng->error;
}

const struct engine_info *engine_info(const struct engine *eng)
{
    return &eng->info;
}

int engine_grammar(struct engine *eng, enum grammar_kind kind, const char *source, size_t n_bytes,
                   struct grammar **ret, struct err *e)
{
    (void)eng, (void)kind, (void)source, (void)n_bytes, (void)ret;
    return err_set(e, ERR_UNSUPPORTED, "there are no grammars");
}

void engine_pause(struct engine *eng, uint64_t id, bool paused)
{
    (void)eng, (void)id, (void)paused;
}

int engine_cache(struct engine *eng, const struct engine_cache_request *req, struct err *e)
{
    (void)eng, (void)req;
    return err_set(e, ERR_STATE, "there is no cache");
}

int engine_retry_after(const struct engine *eng)
{
    (void)eng;
    return 1;
}

int64_t engine_step_age_ns(const struct engine *eng)
{
    (void)eng;
    return 0;
}

void engine_counts_read(const struct engine *eng, struct engine_counts *ret)
{
    (void)eng;
    *ret = (struct engine_counts){0};
}
