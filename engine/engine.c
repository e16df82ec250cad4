/* engine/engine.c - the engine thread: loads the model, then runs steps and takes messages; see
 * engine.h. Owns checkpoint, tokenizer, model, cache, scheduler and pool. */
#include "config.h"

#include "engine/engine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mailbox.h"
#include "engine/cache.h"
#include "engine/engine_metrics.h"
#include "engine/events.h"
#include "engine/forward.h"
#include "engine/kernels/kern.h"
#include "engine/pool.h"
#include "engine/profile.h"
#include "engine/sched.h"

#define EVENT_CAPACITY 16384
#define DEFAULT_CACHE_BYTES ((uint64_t)256 << 20)
#define POLL_NS (20 * NS_PER_MS) /* work is there, but none of it may run now: all paused */
#define MIN_LOGIT_ROWS 64
#define MAX_CACHE_TASKS 64
#define EXPERTS_EVERY_NS NS_PER_SEC

/* A message down is one word, so that cancelling can never fail for want of memory: a job's address,
 * or a request id or the address of a command for the cache with its kind in the low bits. */
enum { MSG_JOB = 0, MSG_CANCEL = 1, MSG_PAUSE = 2, MSG_RESUME = 3, MSG_CACHE = 4, MSG_BITS = 3 };
_Static_assert(sizeof(void *) == sizeof(uint64_t), "a message carries a request id");

struct engine {
    struct engine_config cfg; /* strings are ours */
    pthread_t thread;
    struct mailbox *down;
    struct events *events;
    _Atomic int state, stopping, draining;
    _Atomic float progress;
    struct err load_error;
    struct engine_info info;

    /* Loop thread counts what went down, engine thread what it took. */
    uint64_t next_id;
    _Atomic int64_t sent_choices, sent_tokens, taken_choices, taken_tokens;
    _Atomic int running, waiting;
    _Atomic int cache_sent; /* commands for the cache that are not answered */
    _Atomic int64_t waiting_tokens, waits_since_ns, service_ns, step_began_ns;

    struct engine_metrics metrics;
    struct profile profile;
    int64_t experts_told_ns;
    char *name, *chat_template, *tool_template, *types;
    struct pool *pool;
    struct model *model;
    struct kv *kv;
    struct tokenizer *tokenizer;
    struct grammars *grammars;
    struct sched *sched;
    struct cache_desk *desk;
    struct scheme scheme;
};

/* --- loading: engine thread -------------------------------------------------------------------- */

static void wake(struct engine *eng)
{
    if (eng->cfg.wake)
        eng->cfg.wake(eng->cfg.wake_arg);
}

static void set_state(struct engine *eng, enum engine_state state)
{
    atomic_store(&eng->state, (int)state);
    wake(eng);
}

static int on_progress(void *arg, float fraction)
{
    struct engine *eng = arg;
    atomic_store(&eng->progress, fraction);
    return atomic_load(&eng->stopping) || atomic_load(&eng->draining);
}

static int check_sizes(struct engine *eng, const struct model_config *mc, struct err *e)
{
    struct engine_config *c = &eng->cfg;
    if (c->max_model_len == 0)
        c->max_model_len = mc->max_position_embeddings;
    if (c->max_model_len > mc->max_position_embeddings)
        return err_set_param(e, ERR_INVAL, "max_model_len",
                             "max_model_len %d: the model has %d positions", c->max_model_len,
                             mc->max_position_embeddings);
    return 0;
}

static int open_cache(struct engine *eng, struct err *e)
{
    struct engine_config *c = &eng->cfg;
    struct kv_config kc = {.page_tokens = model_page_tokens(eng->model),
                           .pool_bytes = c->cache_bytes,
                           .max_seqs = (uint32_t)c->max_num_seqs + 1,
                           .max_seq_tokens = (uint32_t)c->max_model_len,
                           .pinned_percent = (uint32_t)c->cache_pinned,
                           .huge_pages = true};
    kc.planes = model_planes(eng->model, &kc.n_planes);
    if (kc.pool_bytes == 0) { /* no more than every sequence at full length could fill */
        uint64_t page = 0, per_seq = ((uint64_t)c->max_model_len + kc.page_tokens - 1) / kc.page_tokens;
        for (uint32_t p = 0; p < kc.n_planes; p++)
            page += (uint64_t)kc.planes[p].row_bytes * kc.page_tokens + kc.planes[p].align;
        uint64_t all = page * (per_seq + 1) * (uint64_t)c->max_num_seqs;
        kc.pool_bytes = all < DEFAULT_CACHE_BYTES ? all : DEFAULT_CACHE_BYTES;
    }
    int r = kv_open(&kc, &eng->kv, e);
    return r < 0 ? r : model_bind_cache(eng->model, eng->kv, e);
}

static int forward(void *model, const struct forward_batch *batch)
{
    return model_forward(model, batch);
}

static int begin(void *model, const struct forward_batch *batch)
{
    return model_begin(model, batch);
}

static int go_on(void *model, int64_t until_ns)
{
    return model_continue(model, until_ns);
}

static bool stops(void *model, int part)
{
    return model_part_stops(model, part);
}

static const float *hidden(void *model)
{
    return model_hidden(model);
}

static void poke(void *arg)
{
    struct engine *eng = arg;
    mailbox_poke(eng->down);
}

static const enum cache_type cache_types[] = {
    [ENGINE_CACHE_BF16] = CACHE_BF16,
    [ENGINE_CACHE_F32] = CACHE_F32,
    [ENGINE_CACHE_INT8] = CACHE_INT8,
    [ENGINE_CACHE_FP8] = CACHE_FP8,
    [ENGINE_CACHE_INT4] = CACHE_INT4,
};

/* Rows of wrong drafts are written over; one that stands for several tokens could not go back. */
static bool can_draft(const struct model *m)
{
    uint32_t n;
    const struct kv_plane *planes = model_planes(m, &n);
    for (uint32_t i = 0; i < n; i++)
        if (planes[i].tokens_per_row > 1)
            return false;
    return true;
}

static int load_model(struct engine *eng, const struct checkpoint *ck, struct err *e)
{
    struct engine_config *c = &eng->cfg;
    int r = check_sizes(eng, &ck->config, e);
    if (r < 0)
        return r;
    r = tokenizer_new(&ck->tokenizer, ck->config.vocab_size, &eng->tokenizer, e);
    if (r < 0 && r != ERR_NOTFOUND) /* without one the model still serves ids */
        return r;
    eng->scheme = scheme_choose(c->mla_scheme, c->mla_block, c->level, ck);
    eng->scheme.rounded = scheme_rounded(c->prompt_products, c->level, ck);
    struct model_options opt = {
        .level = c->level,
        .cache_type = cache_types[c->cache_type],
        .page_tokens = c->page_tokens,
        .max_batch_tokens = c->max_num_batched_tokens,
        .max_logit_rows = c->max_num_seqs > MIN_LOGIT_ROWS ? c->max_num_seqs : MIN_LOGIT_ROWS,
        .max_seqs = c->max_num_seqs,
        .max_position = c->max_model_len,
        .decompressed = eng->scheme.block > 0,
        .mla_product = eng->scheme.product,
        .progress = on_progress,
        .progress_arg = eng};
    if (opt.max_logit_rows > opt.max_batch_tokens)
        opt.max_logit_rows = opt.max_batch_tokens;
    if ((r = model_new(ck, &opt, eng->pool, &eng->model, e)) < 0 || (r = open_cache(eng, e)) < 0)
        return r;
    if (c->metrics)
        model_profile(eng->model, &eng->profile);
    scheme_measure(&eng->scheme, c->level, ck, cache_row_type(opt.cache_type));
    struct sched_config sc = {.vocab_size = ck->config.vocab_size,
                              .max_model_len = c->max_model_len,
                              .max_num_seqs = c->max_num_seqs,
                              .max_num_batched_tokens = c->max_num_batched_tokens,
                              .prefill_chunk = c->prefill_chunk,
                              .max_logit_rows = opt.max_logit_rows,
                              .num_speculative_tokens = can_draft(eng->model) ? c->num_speculative_tokens : 0,
                              .prefix_cache = c->prefix_cache,
                              .max_fair_keys = c->max_fair_keys,
                              .max_step_ns = c->max_step_ns,
                              .max_priority_wait_ns = c->max_priority_wait_ns,
                              .park_bytes = c->park_bytes,
                              .now = clock_now_ns,
                              .decompress_block = eng->scheme.block,
                              .rounded_prompts = eng->scheme.rounded,
                              .forward = forward,
                              .begin = begin,
                              .go_on = go_on,
                              .stops = stops,
                              .n_parts = model_parts(eng->model),
                              .hidden = hidden,
                              .hidden_size = model_config(eng->model)->hidden_size,
                              .model = eng->model,
                              .kv = eng->kv,
                              .pool = eng->pool,
                              .kern = kern_table(c->level),
                              .tokenizer = eng->tokenizer,
                              .events = eng->events,
                              .metrics = &eng->metrics,
                              .profile = c->metrics ? &eng->profile : NULL,
                              .stopping = &eng->stopping};
    if ((r = cache_open_disk(eng->kv, ck, c, &eng->scheme, poke, eng, e)) < 0 ||
        (r = sched_new(&sc, &eng->sched, e)) < 0)
        return r;
    r = grammars_new(eng->tokenizer, sc.vocab_size, &c->grammar, &eng->grammars);
    if (r < 0)
        return err_set(e, r, "out of memory");
    const struct cache_desk_config dc = {eng->kv, eng->sched, eng->events, &eng->metrics, &eng->stopping,
                                         &eng->cache_sent};
    r = cache_desk_new(&dc, &eng->desk);
    return r < 0 ? err_set(e, r, "out of memory") : 0;
}

static int describe_model(struct engine *eng, const struct checkpoint *ck, int64_t began_ns, struct err *e)
{
    struct engine_config *c = &eng->cfg;
    uint32_t n_planes;
    const struct kv_plane *planes = model_planes(eng->model, &n_planes);
    double row_bytes = 0;
    eng->name = strdup(c->model_id ? c->model_id : ck->config.name);
    eng->chat_template = ck->chat_template ? strdup(ck->chat_template) : NULL;
    eng->tool_template = ck->tool_template ? strdup(ck->tool_template) : NULL;
    eng->types = strdup(ck->weight_types);
    if (!eng->name || !eng->types || (ck->chat_template && !eng->chat_template) ||
        (ck->tool_template && !eng->tool_template))
        return err_set(e, ERR_NOMEM, "out of memory");
    eng->info = (struct engine_info){
        .config = *model_config(eng->model),
        .max_model_len = sched_max_tokens(eng->sched),
        .max_choices = c->max_num_seqs + c->max_queue_requests,
        .model_id = eng->name,
        .chat_template = eng->chat_template,
        .tool_template = eng->tool_template,
        .tokenizer = eng->tokenizer,
        .tokenizer_warning = eng->tokenizer ? tokenizer_warning(eng->tokenizer) : NULL,
        .format = ck->format,
        .level = c->level,
        .n_threads = pool_threads(eng->pool),
        .weight_bytes = model_weight_bytes(eng->model),
        .cache_bytes = kv_page_bytes(eng->kv) * kv_n_pages(eng->kv),
        .page_bytes = kv_page_bytes(eng->kv),
        .file_bytes = ck->file_bytes,
        .n_params = ck->n_params,
        .n_pages = kv_n_pages(eng->kv),
        .page_tokens = kv_page_tokens(eng->kv),
        .scheme = eng->scheme,
        .load_seconds = (double)(clock_now_ns() - began_ns) / 1e9,
        .weight_types = eng->types};
    engine_metrics_register(&eng->metrics, c->metrics, eng->name, eng->info.max_model_len);
    for (uint32_t p = 0; p < n_planes; p++)
        row_bytes += (double)planes[p].row_bytes / planes[p].tokens_per_row;
    metric_set(eng->metrics.bytes_per_token, row_bytes);
    metric_set(eng->metrics.load_seconds, eng->info.load_seconds);
    metric_set(eng->metrics.weight_bytes, (double)eng->info.weight_bytes);
    engine_metrics_cache_info(c->metrics, eng->info.page_tokens, eng->info.n_pages,
                              cache_type_name(cache_types[c->cache_type]), c->prefix_cache);
    engine_metrics_scheme(&eng->metrics, &eng->scheme);
    engine_metrics_scheme_info(c->metrics, &eng->scheme, cpu_level_name(c->level));
    engine_metrics_cache(&eng->metrics, eng->kv);
    return 0;
}

static int load(struct engine *eng, struct err *e)
{
    struct engine_config *c = &eng->cfg;
    struct checkpoint *ck = NULL;
    int64_t began = clock_now_ns();
    int n_threads = c->n_threads > 0 ? c->n_threads : pool_default_threads();
    int r = pool_new(n_threads, c->pin_threads, &eng->pool, e);
    if (r == 0)
        r = checkpoint_open(c->model_path, &ck, e);
    if (r == 0)
        r = load_model(eng, ck, e);
    if (r == 0)
        r = describe_model(eng, ck, began, e);
    checkpoint_close(&ck);
    return r;
}

/* --- serving: engine thread -------------------------------------------------------------------- */

static void publish(struct engine *eng)
{
    struct sched_counts n;
    sched_counts_read(eng->sched, &n);
    atomic_store(&eng->running, n.running);
    atomic_store(&eng->waiting, n.waiting);
    atomic_store(&eng->waiting_tokens, n.waiting_tokens);
    atomic_store(&eng->waits_since_ns, n.waits_since_ns);
    atomic_store(&eng->service_ns, sched_mean_service_ns(eng->sched));
    int64_t now = clock_now_ns();
    if (now - eng->experts_told_ns < EXPERTS_EVERY_NS && !sched_idle(eng->sched))
        return;
    double mean, max;
    eng->experts_told_ns = now;
    model_expert_load(eng->model, &mean, &max);
    metric_set(eng->metrics.expert_load[0], mean);
    metric_set(eng->metrics.expert_load[1], max);
}

static void take(struct engine *eng, void *msg)
{
    uint64_t word = (uint64_t)(uintptr_t)msg, id = word >> MSG_BITS;
    switch (word & ((1 << MSG_BITS) - 1)) {
    case MSG_JOB: {
        struct job *j = msg;
        int n, n_prompt;
        job_size(j, &n, &n_prompt);
        sched_add(eng->sched, j);
        publish(eng); /* before `taken`: counted twice for a moment rather than not at all */
        atomic_fetch_add(&eng->taken_choices, n);
        atomic_fetch_add(&eng->taken_tokens, (int64_t)n * n_prompt);
        break;
    }
    case MSG_CANCEL:
        sched_cancel(eng->sched, id);
        break;
    case MSG_PAUSE:
        sched_pause(eng->sched, id, true);
        break;
    case MSG_RESUME:
        sched_pause(eng->sched, id, false);
        break;
    case MSG_CACHE:
        cache_desk_take(eng->desk, (struct cache_task *)(uintptr_t)(id << MSG_BITS));
        break;
    }
}

static void serve(struct engine *eng)
{
    while (!atomic_load(&eng->stopping)) {
        void *msg;
        while ((msg = mailbox_pop(eng->down)))
            take(eng, msg);
        cache_desk_work(eng->desk);
        events_flush(eng->events); /* ends of what was cancelled need not wait for the step */
        atomic_store(&eng->step_began_ns, clock_now_ns());
        int worked = sched_step(eng->sched);
        atomic_store(&eng->step_began_ns, 0);
        publish(eng);
        events_flush(eng->events); /* one wake for all tokens of a step */
        if (worked)
            continue;
        bool idle = sched_idle(eng->sched) && cache_desk_idle(eng->desk);
        if (idle && atomic_load(&eng->draining) && mailbox_count(eng->down) == 0 &&
            atomic_load(&eng->state) != ENGINE_STOPPED)
            set_state(eng, ENGINE_STOPPED);
        if ((msg = mailbox_wait(eng->down, idle ? -1 : POLL_NS)))
            take(eng, msg);
    }
    sched_cancel_all(eng->sched);
    events_flush(eng->events);
}

static void *engine_main(void *arg)
{
    struct engine *eng = arg;
    pthread_setname_np(pthread_self(), "engine");
    int r = load(eng, &eng->load_error);
    if (r < 0) {
        bool asked = r == ERR_CANCELED;
        set_state(eng, asked ? ENGINE_STOPPED : ENGINE_FAILED);
        return NULL;
    }
    atomic_store(&eng->progress, 1.0f);
    int loading = ENGINE_LOADING;
    atomic_compare_exchange_strong(&eng->state, &loading, ENGINE_READY);
    wake(eng);
    serve(eng);
    return NULL;
}

/* --- callers: loop thread ---------------------------------------------------------------------- */

static int check_config(const struct engine_config *c, struct err *e)
{
    static const char text[] = "%s %lld must be in %lld..%lld";
    const struct {
        const char *name;
        long long value, min, max;
    } rows[] = {
        {"threads", c->n_threads, 0, 1024},
        {"max_model_len", c->max_model_len, 0, 1 << 24},
        {"max_num_seqs", c->max_num_seqs, 1, 65536},
        {"max_num_batched_tokens", c->max_num_batched_tokens, 1, 1 << 20},
        {"prefill_chunk", c->prefill_chunk, 1, 1 << 20},
        {"max_queue_requests", c->max_queue_requests, 0, 1 << 20},
        {"max_queue_tokens", c->max_queue_tokens, 0, (long long)1 << 40},
        {"max_fair_keys", c->max_fair_keys, 1, 1 << 20},
        {"page_tokens", c->page_tokens, 8, 256},
        {"cache_pinned", c->cache_pinned, 0, 90},
        {"mla_block", c->mla_block, 512, 1 << 20},
    };
    if (!c->model_path || !*c->model_path)
        return err_set_param(e, ERR_INVAL, "model", "model: a path is needed");
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
        if (rows[i].value < rows[i].min || rows[i].value > rows[i].max)
            return err_set_param(e, ERR_INVAL, rows[i].name, text, rows[i].name, rows[i].value,
                                 rows[i].min, rows[i].max);
    if (c->page_tokens & (c->page_tokens - 1))
        return err_set_param(e, ERR_INVAL, "page_tokens", "page_tokens %u must be a power of two",
                             c->page_tokens);
    if (c->mla_block & (c->mla_block - 1))
        return err_set_param(e, ERR_INVAL, "mla_block", "mla_block %d must be a power of two", c->mla_block);
    if (c->prompt_products == PRODUCTS_BF16 && kern_table(c->level)->level != CPU_AMX)
        return err_set_param(e, ERR_INVAL, "prompt_products",
                             "prompt_products = bf16 needs cpu amx, which is not in use here; "
                             "auto takes it where it is");
    if (c->max_num_batched_tokens < c->max_num_seqs) /* or a step could not serve all that run */
        return err_set_param(e, ERR_INVAL, "max_num_batched_tokens",
                             "max_num_batched_tokens %d must be at least max_num_seqs %d",
                             c->max_num_batched_tokens, c->max_num_seqs);
    return 0;
}

static void engine_destroy(struct engine *eng)
{
    cache_desk_free(&eng->desk);
    sched_free(&eng->sched);
    if (eng->kv)
        kv_close(&eng->kv);
    model_free(&eng->model);
    grammars_free(&eng->grammars);
    tokenizer_free(&eng->tokenizer);
    if (eng->pool)
        pool_free(&eng->pool);
    events_free(&eng->events);
    if (eng->down)
        mailbox_free(&eng->down);
    free((char *)eng->cfg.model_path);
    free((char *)eng->cfg.model_id);
    free((char *)eng->cfg.disk_path);
    free(eng->name);
    free(eng->chat_template);
    free(eng->tool_template);
    free(eng->types);
    free(eng);
}

int engine_start(const struct engine_config *cfg, struct engine **ret, struct err *e)
{
    int r = check_config(cfg, e);
    if (r < 0)
        return r;
    struct engine *eng = calloc(1, sizeof(*eng));
    if (!eng)
        return err_set(e, ERR_NOMEM, "out of memory");
    eng->cfg = *cfg;
    eng->cfg.model_path = strdup(cfg->model_path);
    eng->cfg.model_id = cfg->model_id ? strdup(cfg->model_id) : NULL;
    eng->cfg.disk_path = cfg->disk_path ? strdup(cfg->disk_path) : NULL;
    uint32_t room = 8 * ((uint32_t)cfg->max_num_seqs + (uint32_t)cfg->max_queue_requests) + 64;
    if (!eng->cfg.model_path || (cfg->model_id && !eng->cfg.model_id) ||
        (cfg->disk_path && !eng->cfg.disk_path) ||
        mailbox_new(room, NULL, NULL, &eng->down) < 0 ||
        events_new(EVENT_CAPACITY, cfg->wake, cfg->wake_arg, &eng->events) < 0) {
        engine_destroy(eng);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    if ((r = pthread_create(&eng->thread, NULL, engine_main, eng)) != 0) {
        engine_destroy(eng);
        return err_set(e, ERR_IO, "cannot start the engine thread: %s", strerror(r));
    }
    *ret = eng;
    return 0;
}

enum engine_state engine_state(const struct engine *eng)
{
    return (enum engine_state)atomic_load(&eng->state);
}

float engine_load_progress(const struct engine *eng)
{
    return atomic_load(&eng->progress);
}

const struct err *engine_load_error(const struct engine *eng)
{
    return &eng->load_error;
}

const struct engine_info *engine_info(const struct engine *eng)
{
    enum engine_state s = engine_state(eng);
    return s == ENGINE_LOADING || s == ENGINE_FAILED || !eng->sched ? NULL : &eng->info;
}

void engine_drain(struct engine *eng)
{
    int ready = ENGINE_READY;
    atomic_store(&eng->draining, 1);
    atomic_compare_exchange_strong(&eng->state, &ready, ENGINE_DRAINING);
    mailbox_poke(eng->down);
}

void engine_stop(struct engine **engp)
{
    struct engine *eng = *engp;
    void *msg;
    *engp = NULL;
    if (!eng)
        return;
    atomic_store(&eng->stopping, 1);
    mailbox_poke(eng->down);
    pthread_join(eng->thread, NULL);
    while ((msg = mailbox_pop(eng->down))) {
        uintptr_t word = (uintptr_t)msg, kind = word & ((1 << MSG_BITS) - 1);
        if (kind == MSG_JOB)
            job_free(msg);
        else if (kind == MSG_CACHE)
            cache_task_free(eng->events, (struct cache_task *)(word - kind));
    }
    engine_destroy(eng);
}

void engine_counts_read(const struct engine *eng, struct engine_counts *ret)
{
    int64_t taken_choices = atomic_load(&eng->taken_choices);
    int64_t taken_tokens = atomic_load(&eng->taken_tokens), since = atomic_load(&eng->waits_since_ns);
    *ret = (struct engine_counts){
        .running = atomic_load(&eng->running),
        .waiting = atomic_load(&eng->waiting) + (int)(atomic_load(&eng->sent_choices) - taken_choices),
        .waiting_tokens = atomic_load(&eng->waiting_tokens) + atomic_load(&eng->sent_tokens) - taken_tokens,
        .longest_wait_ns = since ? clock_now_ns() - since : 0};
    if (engine_info(eng)) {
        struct kv_stats st;
        kv_stats_read(eng->kv, &st);
        ret->pages_held = st.pages_held;
        ret->pages_cached = st.pages_cached;
        ret->pages_free = st.pages_free;
        ret->n_pages = st.n_pages;
    }
}

int engine_submit(struct engine *eng, struct gen_request *req, uint64_t *ret_id, struct err *e)
{
    const struct engine_config *c = &eng->cfg;
    enum engine_state state = engine_state(eng);
    struct engine_counts now;
    struct job *j;
    if (state != ENGINE_READY)
        return err_set(e, ERR_STATE, state == ENGINE_LOADING ? "the model is still loading"
                                     : state == ENGINE_FAILED ? "the model could not be loaded"
                                                              : "the server is shutting down");
    engine_counts_read(eng, &now);
    int64_t tokens = (int64_t)req->n * req->n_prompt;
    if ((int64_t)now.running + now.waiting + req->n > (int64_t)c->max_num_seqs + c->max_queue_requests)
        return err_set(e, ERR_BUSY, "the queue is full: %d sequences run and %d wait", now.running,
                       now.waiting);
    if (now.waiting > 0 && now.waiting_tokens + tokens > c->max_queue_tokens)
        return err_set(e, ERR_BUSY, "the queue is full: %lld prompt tokens wait",
                       (long long)now.waiting_tokens);
    uint64_t id = ++eng->next_id;
    int n = req->n;
    int r = job_new(eng->sched, req, id, &j, e);
    if (r < 0)
        return r;
    atomic_fetch_add(&eng->sent_choices, n);
    atomic_fetch_add(&eng->sent_tokens, tokens);
    if (mailbox_push(eng->down, j) < 0) {
        atomic_fetch_sub(&eng->sent_choices, n);
        atomic_fetch_sub(&eng->sent_tokens, tokens);
        job_release(j); /* the request stays the caller's */
        return err_set(e, ERR_BUSY, "the queue is full");
    }
    *ret_id = id;
    return 0;
}

/* The mailbox has room for several messages of every request there can be; should a flood of pauses
 * have filled it, the engine empties it at its next step. */
static void send(struct engine *eng, uint64_t id, int kind)
{
    void *msg = (void *)(uintptr_t)(id << MSG_BITS | (uint64_t)kind);
    while (mailbox_push(eng->down, msg) < 0 && engine_state(eng) != ENGINE_STOPPED)
        nanosleep(&(struct timespec){0, 200000}, NULL);
}

int engine_grammar(struct engine *eng, enum grammar_kind kind, const char *source, size_t n_bytes,
                   struct grammar **ret, struct err *e)
{
    return grammars_get(eng->grammars, kind, source, n_bytes, ret, e);
}

void engine_cancel(struct engine *eng, uint64_t request_id)
{
    send(eng, request_id, MSG_CANCEL);
}

void engine_pause(struct engine *eng, uint64_t request_id, bool paused)
{
    send(eng, request_id, paused ? MSG_PAUSE : MSG_RESUME);
}

int engine_cache(struct engine *eng, const struct engine_cache_request *req, struct err *e)
{
    enum engine_state state = engine_state(eng);
    if (state != ENGINE_READY)
        return err_set(e, ERR_STATE, "the model is not ready");
    for (int i = 0; req->tokens && i < req->n_tokens; i++)
        if (req->tokens[i] < 0 || req->tokens[i] >= eng->info.config.vocab_size)
            return err_set_param(e, ERR_INVAL, "prompt", "prompt: token id %d is out of range 0..%d",
                                 req->tokens[i], eng->info.config.vocab_size - 1);
    if (atomic_fetch_add(&eng->cache_sent, 1) >= MAX_CACHE_TASKS) {
        atomic_fetch_sub(&eng->cache_sent, 1);
        return err_set(e, ERR_BUSY, "%d commands for the cache wait already", MAX_CACHE_TASKS);
    }
    struct cache_task *t = cache_task_new(eng->events, req);
    int r = t ? mailbox_push(eng->down, (void *)((uintptr_t)t | MSG_CACHE)) : ERR_NOMEM;
    if (r == 0)
        return 0;
    atomic_fetch_sub(&eng->cache_sent, 1);
    if (t)
        cache_task_free(eng->events, t);
    return t ? err_set(e, ERR_BUSY, "the queue is full") : err_set(e, r, "out of memory");
}

struct gen_event *engine_next_event(struct engine *eng)
{
    return events_next(eng->events);
}

void engine_event_free(struct engine *eng, struct gen_event *ev)
{
    events_put(eng->events, ev);
}

int engine_retry_after(const struct engine *eng)
{
    struct engine_counts now;
    if (engine_state(eng) == ENGINE_LOADING)
        return 2;
    engine_counts_read(eng, &now);
    /* With max_num_seqs places, a place becomes free every service time / max_num_seqs. */
    double seconds = (double)atomic_load(&eng->service_ns) / 1e9 * (double)(now.waiting + 1) /
                     (double)eng->cfg.max_num_seqs;
    return seconds < 1 ? 1 : seconds > 60 ? 60 : (int)(seconds + 0.999);
}

int64_t engine_step_age_ns(const struct engine *eng)
{
    int64_t began = atomic_load(&eng->step_began_ns);
    return began ? clock_now_ns() - began : 0;
}
