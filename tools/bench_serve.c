/* tools/bench_serve.c - mode serve: requests through the engine, with its scheduler, sampling and text, but
 * without HTTP. Streams arrive together, round after round, with prompts of random ids that share nothing. */
#include "config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "tools/bench.h"

struct rig {
    const struct bench_options *o;
    const struct bench_machine *machine;
    struct checkpoint *ck; /* for the bounds */
    struct engine *eng;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool wake;
    uint64_t salt;
};

/* Results of the rounds of one row. */
struct tally {
    double rate[BENCH_MAX_REPEAT], *ttft, *between;
    int n_rates, n_requests;
};

static void wake(void *arg)
{
    struct rig *r = arg;
    pthread_mutex_lock(&r->lock);
    r->wake = true;
    pthread_cond_signal(&r->woken);
    pthread_mutex_unlock(&r->lock);
}

static void wait_for_wake(struct rig *r)
{
    pthread_mutex_lock(&r->lock);
    while (!r->wake)
        pthread_cond_wait(&r->woken, &r->lock);
    r->wake = false;
    pthread_mutex_unlock(&r->lock);
}

static int submit(struct rig *r, int n_prompt, int n_out, struct err *e)
{
    struct arena *a = arena_new((size_t)n_prompt * 4 + 65536);
    struct gen_request *g = a ? arena_alloc(a, sizeof(*g)) : NULL;
    int32_t *ids = a ? arena_array(a, (size_t)n_prompt, sizeof(*ids)) : NULL;
    int vocab = engine_info(r->eng)->config.vocab_size;
    uint64_t id;
    if (!g || !ids) {
        arena_free(a);
        return err_set(e, ERR_NOMEM, "out of memory for a request");
    }
    r->salt++;
    for (int i = 0; i < n_prompt; i++) {
        uint64_t n = (r->salt * 1000003u + (uint64_t)i) * 0x9e3779b97f4a7c15ull;
        ids[i] = (int32_t)((n >> 33) % (uint64_t)vocab);
    }
    *g = (struct gen_request){
        .arena = a, .prompt = ids, .n_prompt = n_prompt, .max_tokens = n_out, .n = 1, .ignore_eos = true,
        .skip_special_tokens = true, .logprobs = -1, .prompt_logprobs = -1,
        .sampling = {.temperature = 0, .top_p = 1, .repetition_penalty = 1, .seed = r->salt}};
    int err = engine_submit(r->eng, g, &id, e);
    if (err < 0)
        arena_free(a);
    return err;
}

/* n streams that arrive together. t == NULL: a warm-up. */
static int round_run(struct rig *r, int n, int n_prompt, int n_out, struct tally *t, struct err *e)
{
    int64_t t0 = clock_now_ns(), out = 0;
    int err = 0;
    for (int i = 0; i < n; i++)
        if ((err = submit(r, n_prompt, n_out, e)) < 0)
            return err;
    for (int left = n; left > 0;) {
        struct gen_event *ev = engine_next_event(r->eng);
        if (!ev) {
            wait_for_wake(r);
            continue;
        }
        if (ev->type == GEN_FAILED) {
            *e = ev->error;
            err = ev->error.code < 0 ? ev->error.code : ERR_STATE;
        }
        if (ev->type == GEN_DONE) {
            out += ev->completion_tokens;
            if (t) {
                t->ttft[t->n_requests] = (double)ev->ttft_ns / 1e6;
                t->between[t->n_requests++] =
                    (double)ev->decode_ns / 1e6 / (ev->completion_tokens > 1 ? ev->completion_tokens - 1 : 1);
            }
        }
        left -= ev->type == GEN_DONE || ev->type == GEN_FAILED;
        engine_event_free(r->eng, ev);
    }
    if (t)
        t->rate[t->n_rates++] = (double)out * 1e9 / (double)(clock_now_ns() - t0);
    return err;
}

static void report(const struct rig *r, int n, int n_prompt, int n_out, const char *what, const char *unit,
                   double *v, int n_v, double bound, const char *limit)
{
    struct bench_row row = {
        .mode = "serve",
        .fields = {{"measure", what, 0}, {"batch", NULL, n}, {"context", NULL, n_prompt},
                   {"tokens", NULL, n_out}, {"chunk", NULL, r->o->chunk},
                   {"cache_type", bench_cache_type_name(r->o->cache_type), 0},
                   {"cpu", cpu_level_name(r->machine->level), 0}, {"threads", NULL, r->machine->threads}},
        .unit = unit, .bound = bound, .limit = limit, .less_is_better = !strcmp(unit, "ms")};
    bench_row_values(&row, v, n_v);
    bench_report_row(&row);
}

static int row_run(struct rig *r, int n, int n_prompt, int n_out, struct err *e)
{
    size_t most = (size_t)n * (size_t)r->o->repeat;
    struct tally t = {.ttft = calloc(most, sizeof(double)), .between = calloc(most, sizeof(double))};
    int err = t.ttft && t.between ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    for (int i = -1; err == 0 && i < r->o->repeat; i++)
        err = round_run(r, n, n_prompt, n_out, i < 0 ? NULL : &t, e);
    if (err == 0) {
        const struct engine_info *info = engine_info(r->eng);
        double token_bytes = (double)info->page_bytes / info->page_tokens;
        const char *prefill_limit = "memory", *limit;
        double prefill = bench_prefill_seconds(r->ck, token_bytes, n_prompt, 0, r->o->chunk, r->machine,
                                               &prefill_limit);
        struct bench_step s = {n, 1, n_prompt + n_out / 2, 0, 1, 0};
        struct bench_cost c = bench_cost_of(r->ck, token_bytes, &s, r->machine);
        double step = bench_cost_seconds(&c, r->machine, &limit), whole = n * prefill + (n_out - 1) * step;
        report(r, n, n_prompt, n_out, "output", "tokens/s", t.rate, t.n_rates, n * n_out / whole,
               n * prefill > whole / 2 ? prefill_limit : limit);
        report(r, n, n_prompt, n_out, "first token", "ms", t.ttft, t.n_requests,
               n == 1 ? prefill * 1e3 : 0, prefill_limit);
        if (n_out > 1)
            report(r, n, n_prompt, n_out, "between tokens", "ms", t.between, t.n_requests, step * 1e3, limit);
    }
    free(t.ttft);
    free(t.between);
    return err;
}

static int list_max(const struct bench_list *l)
{
    int max = l->v[0];
    for (int i = 1; i < l->n; i++)
        max = l->v[i] > max ? l->v[i] : max;
    return max;
}

static int start(struct rig *r, struct err *e)
{
    const struct bench_options *o = r->o;
    const struct model_config *c = &r->ck->config;
    int streams = list_max(&o->batch), len = list_max(&o->context) + list_max(&o->tokens);
    uint64_t row = 4 * (uint64_t)(c->kv_lora_rank + c->qk_rope_head_dim + c->index_head_dim);
    int seqs = bench_conf_int("max_num_seqs"), budget = bench_conf_int("max_num_batched_tokens");
    seqs = seqs > streams ? seqs : streams;
    const struct engine_config ec = {
        .model_path = o->model, .level = r->machine->level, .n_threads = r->machine->threads,
        .pin_threads = true, .mla_block = bench_conf_int("mla_block"),
            .cache_type = (enum engine_cache_type)o->cache_type,
        .cache_bytes = row * (uint64_t)c->num_hidden_layers * (uint64_t)(len + 256) * (uint64_t)(streams + 1),
        .page_tokens = (uint32_t)bench_conf_int("page_tokens"), .max_model_len = len,
        .max_num_seqs = seqs, .max_num_batched_tokens = budget > o->chunk ? budget : o->chunk,
        .prefill_chunk = o->chunk, .max_queue_requests = streams + 1, .max_fair_keys = 1,
        .max_priority_wait_ns = NS_PER_SEC * 3600,
        .max_queue_tokens = (int64_t)len * (streams + 1), .wake = wake, .wake_arg = r};
    int err = engine_start(&ec, &r->eng, e);
    if (err < 0)
        return err;
    for (;;) {
        enum engine_state s = engine_state(r->eng);
        if (s == ENGINE_FAILED) {
            *e = *engine_load_error(r->eng);
            return e->code < 0 ? e->code : ERR_STATE;
        }
        if (s == ENGINE_READY)
            return 0;
        wait_for_wake(r);
    }
}

int bench_serve_run(const struct bench_options *o, const struct bench_machine *m, struct err *e)
{
    struct rig r = {.o = o, .machine = m, .lock = PTHREAD_MUTEX_INITIALIZER,
                    .woken = PTHREAD_COND_INITIALIZER};
    int err = checkpoint_open(o->model, &r.ck, e);
    if (err == 0)
        err = start(&r, e);
    if (err == 0)
        bench_report_model(r.ck, (double)engine_info(r.eng)->page_bytes / engine_info(r.eng)->page_tokens);
    for (int c = 0; err == 0 && c < o->context.n; c++)
        for (int b = 0; err == 0 && b < o->batch.n; b++)
            for (int t = 0; err == 0 && t < o->tokens.n; t++)
                err = row_run(&r, o->batch.v[b], o->context.v[c], o->tokens.v[t], e);
    engine_stop(&r.eng);
    checkpoint_close(&r.ck);
    return err;
}
