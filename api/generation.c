/* api/generation.c - a generation request from its tokens to its last byte.
 *
 * An exchange lives until its reply has ended and every submitted choice has had its final event, whichever
 * comes last: a client may leave at any point, and events on their way must still find something. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"
#include "base/clock.h"
#include "base/utf8.h"

#define OFFLOAD_BYTES 32768 /* texts beyond it are tokenized off the loop thread */
#define REQUEST_ARENA_SPARE ((size_t)4 << 20)
#define CHUNK_BYTES (4u << 20)

/* --- life ----------------------------------------------------------------------------------------- */

static void make_id(struct api *a, const char *prefix, char *dst, size_t n)
{
    snprintf(dst, n, "%s%016llx%08llx", prefix, (unsigned long long)a->id_seed,
             (unsigned long long)++a->id_count);
}

struct api_exchange *exchange_new(struct api *a, const struct reply *r, const struct api_request *req,
                                  struct params *p, int n_prompts, const struct answer_ops *ops)
{
    struct api_exchange *x = calloc(1, sizeof(*x));
    int n = p->n;
    struct err e = {.code = ERR_NOMEM};
    if (x) {
        x->prompts = calloc((size_t)n_prompts, sizeof(*x->prompts));
        x->choices = calloc((size_t)n_prompts * (size_t)n, sizeof(*x->choices));
    }
    if (!x || !x->prompts || !x->choices) {
        err_set(&e, ERR_NOMEM, "out of memory for the request");
        reply_error(r, a, &e);
        params_done(p);
        if (x) {
            free(x->prompts);
            free(x->choices);
        }
        free(x);
        return NULL;
    }
    x->a = a;
    x->reply = *r;
    x->ops = ops;
    x->p = *p;
    x->n_prompts = n_prompts;
    x->n_choices = n_prompts * n;
    x->created = clock_wall_ns() / NS_PER_SEC;
    x->received_ns = req->received_ns;
    x->client = req->client;
    x->ttft_ns = -1;
    if (p->request_id)
        snprintf(x->id, sizeof(x->id), "%s%s", ops->id_prefix, p->request_id);
    else
        make_id(a, ops->id_prefix, x->id, sizeof(x->id));
    jw_init(&x->out, API_MAX_ANSWER_BYTES);
    for (int i = 0; i < n_prompts; i++) {
        x->prompts[i].x = x;
        x->prompts[i].index = i;
        for (int k = 0; k < 4; k++)
            jw_init(&x->prompts[i].lp[k], API_MAX_ANSWER_BYTES);
        jw_init(&x->prompts[i].logprobs, API_MAX_ANSWER_BYTES);
    }
    for (int i = 0; i < x->n_choices; i++) {
        struct choice *c = &x->choices[i];
        c->prompt = &x->prompts[i / n];
        c->index = i;
        c->stop_token_id = -1;
        jw_init(&c->text, API_MAX_ANSWER_BYTES);
        jw_init(&c->ids, API_MAX_ANSWER_BYTES);
        for (int k = 0; k < 4; k++)
            jw_init(&c->lp[k], API_MAX_ANSWER_BYTES);
    }
    x->next = a->exchanges;
    if (x->next)
        x->next->prev = x;
    a->exchanges = x;
    a->n_exchanges++;
    return x;
}

static void exchange_free(struct api_exchange *x)
{
    struct api *a = x->a;
    if (x->prev)
        x->prev->next = x->next;
    else
        a->exchanges = x->next;
    if (x->next)
        x->next->prev = x->prev;
    a->n_exchanges--;
    for (int i = 0; i < x->n_prompts; i++) {
        free(x->prompts[i].ids.ids);
        free(x->prompts[i].owned);
        free(x->prompts[i].literal);
        for (int k = 0; k < 4; k++)
            jw_done(&x->prompts[i].lp[k]);
        jw_done(&x->prompts[i].logprobs);
    }
    for (int i = 0; i < x->n_choices; i++) {
        struct choice *c = &x->choices[i];
        jw_done(&c->text);
        jw_done(&c->ids);
        for (int k = 0; k < 4; k++)
            jw_done(&c->lp[k]);
        free(c->stop_string);
    }
    free(x->prompts);
    free(x->choices);
    params_done(&x->p);
    jw_done(&x->out);
    free(x);
}

static int n_live(const struct api_exchange *x)
{
    int n = 0;
    for (int i = 0; i < x->n_prompts; i++)
        n += x->prompts[i].n_live;
    return n;
}

void exchange_free_if_over(struct api_exchange *x)
{
    if ((x->state == X_ENDED || x->gone) && !x->offloaded && n_live(x) == 0)
        exchange_free(x);
}

static void cancel_all(struct api_exchange *x)
{
    for (int i = 0; i < x->n_prompts; i++)
        if (x->prompts[i].n_live > 0 && x->prompts[i].request_id) /* 0: a command for the cache */
            engine_cancel(x->a->cfg.engine, x->prompts[i].request_id);
}

static void facts_of(const struct api_exchange *x, struct api_log_facts *f)
{
    *f = (struct api_log_facts){
        .prompt_tokens = x->prompt_tokens,
        .cached_tokens = x->cached_tokens,
        .completion_tokens = x->completion_tokens,
        .ttft_ns = x->ttft_ns,
        .finish = x->n_done ? finish_name(x->choices[0].finish) : NULL,
    };
}

static void end(struct api_exchange *x)
{
    struct api_log_facts facts;
    facts_of(x, &facts);
    x->state = X_ENDED;
    x->reply.ops->end(x->reply.host, &facts);
}

void exchange_finish(struct api_exchange *x, const struct jw *body)
{
    struct api_log_facts facts;
    struct err e = {0};
    facts_of(x, &facts);
    x->state = X_ENDED;
    if (body->err == 0) {
        reply_json(&x->reply, 200, body, &facts);
    } else {
        err_set(&e, body->err, "the answer does not fit into memory");
        reply_error(&x->reply, x->a, &e);
    }
}

void exchange_fail(struct api_exchange *x, const struct err *e)
{
    cancel_all(x);
    if (x->begun) {
        struct jw w;
        jw_init(&w, CHUNK_BYTES);
        jw_raw(&w, "data: ");
        error_json(&w, error_status(e), error_code(e), e->param, e->text);
        jw_raw(&w, "\n\ndata: [DONE]\n\n");
        if (w.err == 0)
            x->reply.ops->write(x->reply.host, w.b.data, w.b.n_bytes);
        jw_done(&w);
        end(x);
    } else {
        x->state = X_ENDED;
        reply_error(&x->reply, x->a, e);
    }
}

/* --- from tokens to the engine -------------------------------------------------------------------- */

static void *copy(struct arena *arena, const void *src, size_t n_bytes)
{
    return n_bytes ? arena_memdup(arena, src, n_bytes) : NULL;
}

/* What sampling beyond the usual asks for. */
static bool fill_sampling(const struct params *p, struct arena *arena, struct gen_request *g)
{
    struct sampling_params *s = &g->sampling;
    s->top_n_sigma = (float)p->top_n_sigma;
    s->typical_p = (float)p->typical_p;
    s->xtc_probability = (float)p->xtc_probability;
    s->xtc_threshold = (float)p->xtc_threshold;
    s->mirostat = p->mirostat;
    s->mirostat_tau = (float)p->mirostat_tau;
    s->mirostat_eta = (float)p->mirostat_eta;
    s->dry_multiplier = (float)p->dry_multiplier;
    s->dry_base = (float)p->dry_base;
    s->dry_allowed_length = p->dry_allowed_length;
    s->dry_penalty_last_n = p->dry_penalty_last_n;
    struct stop_string *breakers = copy(arena, p->breakers, (size_t)p->n_breakers * sizeof(*breakers));
    struct token_word *words = copy(arena, p->bad_words, (size_t)p->n_bad_words * sizeof(*words));
    s->allowed = copy(arena, p->allowed, (size_t)p->n_allowed * sizeof(*p->allowed));
    bool ok = (breakers || !p->n_breakers) && (words || !p->n_bad_words) && (s->allowed || !p->n_allowed);
    for (int i = 0; ok && i < p->n_breakers; i++)
        ok = (breakers[i].data = arena_strndup(arena, breakers[i].data, breakers[i].n_bytes)) != NULL;
    for (int i = 0; ok && i < p->n_bad_words; i++)
        ok = (words[i].ids = copy(arena, words[i].ids, (size_t)words[i].n * sizeof(*words[i].ids))) != NULL;
    s->dry_breakers = breakers;
    s->n_dry_breakers = p->n_breakers;
    s->bad_words = words;
    s->n_bad_words = p->n_bad_words;
    s->n_allowed = p->n_allowed;
    return ok;
}

static struct gen_request *make_request(struct api_exchange *x, struct prompt *pr)
{
    const struct params *p = &x->p;
    size_t n_ids = pr->ids.n * sizeof(int32_t);
    struct arena *arena = arena_new(n_ids + REQUEST_ARENA_SPARE +
                                    (size_t)p->n_logit_bias * sizeof(struct logit_bias) +
                                    (size_t)p->n_allowed * sizeof(*p->allowed));
    struct gen_request *g = arena ? arena_alloc(arena, sizeof(*g)) : NULL;
    bool scores = p->echo && p->logprobs >= 0;
    if (!g) {
        arena_free(arena);
        return NULL;
    }
    *g = (struct gen_request){
        .arena = arena,
        .prompt = copy(arena, pr->ids.ids, n_ids),
        .n_prompt = (int)pr->ids.n,
        .max_tokens = p->max_tokens,
        .min_tokens = p->min_tokens,
        .n = p->n,
        .ignore_eos = p->ignore_eos,
        .skip_special_tokens = p->skip_special_tokens,
        .sampling = {
            .temperature = (float)p->temperature,
            .top_p = (float)p->top_p,
            .top_k = p->top_k,
            .min_p = (float)p->min_p,
            .repetition_penalty = (float)p->repetition_penalty,
            .presence_penalty = (float)p->presence_penalty,
            .frequency_penalty = (float)p->frequency_penalty,
            .seed = p->seed,
            .n_logit_bias = p->n_logit_bias,
            .logit_bias = copy(arena, p->logit_bias, (size_t)p->n_logit_bias * sizeof(*p->logit_bias)),
        },
        .n_stop_token_ids = p->n_stop_token_ids,
        .stop_token_ids = copy(arena, p->stop_token_ids, (size_t)p->n_stop_token_ids * 4),
        .include_stop = p->include_stop,
        .repetition = p->repetition,
        .logprobs = p->logprobs < 0 && p->best_of > 1 ? 0 : p->logprobs, /* best_of compares them */
        .prompt_logprobs = scores && p->logprobs > p->prompt_logprobs ? p->logprobs : p->prompt_logprobs,
        .cache_salt = p->cache_salt,
        .priority = p->priority,
        .fair_key = x->client,
        .timeout_ns = p->timeout_ns,
        .max_queue_ns = p->max_queue_ns,
        .user = pr,
    };
    struct stop_string *stop = copy(arena, p->stop, (size_t)p->n_stop * sizeof(*stop));
    bool ok = g->prompt && (stop || !p->n_stop) && (g->stop_token_ids || !p->n_stop_token_ids) &&
              (g->sampling.logit_bias || !p->n_logit_bias) && fill_sampling(p, arena, g);
    for (int i = 0; ok && i < p->n_stop; i++)
        ok = (stop[i].data = arena_strndup(arena, p->stop[i].data, p->stop[i].n_bytes)) != NULL;
    g->stop = stop;
    g->n_stop = p->n_stop;
    if (ok)
        return g;
    arena_free(arena);
    return NULL;
}

static int check_prompt(const struct api_exchange *x, const struct prompt *pr, struct err *e)
{
    int max = engine_info(x->a->cfg.engine)->max_model_len;
    int need = x->p.max_tokens > 0;
    if (pr->ids.n == 0)
        return err_set_param(e, ERR_INVAL, "prompt", "prompt %d has no tokens", pr->index);
    if (pr->ids.n + (size_t)need > (size_t)max)
        return err_set_param(e, ERR_LIMIT, x->p.messages ? "messages" : "prompt",
                             "This model's maximum context length is %d tokens. However, your %s resulted "
                             "in %zu tokens%s. Please reduce its length.",
                             max, x->p.messages ? "messages" : "prompt", pr->ids.n,
                             need ? ", which leaves no room for output" : "");
    return 0;
}

/* truncate_prompt_tokens: the last of them stay. */
static void truncate_prompt(const struct api_exchange *x, struct prompt *pr)
{
    size_t most = (size_t)engine_info(x->a->cfg.engine)->max_model_len - (x->p.max_tokens > 0);
    if (x->p.truncate_prompt > 0 && (size_t)x->p.truncate_prompt < most)
        most = (size_t)x->p.truncate_prompt;
    if (!x->p.truncate_prompt || pr->ids.n <= most)
        return;
    memmove(pr->ids.ids, pr->ids.ids + (pr->ids.n - most), most * sizeof(*pr->ids.ids));
    pr->ids.n = most;
}

static int submit_all(struct api_exchange *x, struct err *e)
{
    for (int i = 0; i < x->n_prompts; i++) {
        truncate_prompt(x, &x->prompts[i]);
        int r = check_prompt(x, &x->prompts[i], e);
        if (r < 0)
            return r;
    }
    for (int i = 0; i < x->n_prompts; i++) {
        struct prompt *pr = &x->prompts[i];
        struct gen_request *g = make_request(x, pr);
        if (!g)
            return err_set(e, ERR_NOMEM, "out of memory for the request");
        int r = engine_submit(x->a->cfg.engine, g, &pr->request_id, e);
        if (r < 0) {
            arena_free(g->arena);
            return r;
        }
        pr->n_live = x->p.n;
    }
    return 0;
}

static void begin_stream(struct api_exchange *x)
{
    static const struct api_header headers[] = {
        {"Content-Type", "text/event-stream; charset=utf-8"},
        {"Cache-Control", "no-cache"},
        {"X-Accel-Buffering", "no"},
    };
    x->begun = true;
    x->reply.ops->begin(x->reply.host, 200, headers, 3, -1);
}

static void tokenized(struct api_exchange *x)
{
    struct err e = x->tokenize_error;
    int r = e.code;
    if (r == 0 && x->ops->tokenized) {
        x->ops->tokenized(x);
        return;
    }
    if (r == 0)
        r = submit_all(x, &e);
    if (r < 0) {
        exchange_fail(x, &e);
        return;
    }
    x->state = X_RUNNING;
    if (x->p.stream)
        begin_stream(x);
}

static void tokenize_work(void *arg)
{
    struct api_exchange *x = arg;
    const struct engine_info *info = engine_info(x->a->cfg.engine);
    size_t max = x->ops->tokenized || x->p.truncate_prompt ? (size_t)INT32_MAX : (size_t)info->max_model_len + 1;
    for (int i = 0; i < x->n_prompts; i++) {
        struct prompt *pr = &x->prompts[i];
        int r;
        if (!pr->text)
            continue;
        r = tokenizer_encode_masked(info->tokenizer, pr->text, pr->literal, pr->text_bytes, pr->flags, max,
                                    &pr->ids, &x->tokenize_error);
        if (r == ERR_LIMIT)
            err_set_param(&x->tokenize_error, r, x->p.messages ? "messages" : "prompt",
                          "This model's maximum context length is %d tokens. However, your %s resulted in "
                          "more. Please reduce its length.", info->max_model_len,
                          x->p.messages ? "messages" : "prompt");
        if (r < 0)
            return;
    }
}

static void tokenize_done(void *arg)
{
    struct api_exchange *x = arg;
    x->offloaded = false;
    if (!x->gone)
        tokenized(x);
    exchange_free_if_over(x);
}

struct api_exchange *exchange_start(struct api_exchange *x)
{
    const struct api_config *cfg = &x->a->cfg;
    size_t n_bytes = 0;
    struct err e = {0};
    for (int i = 0; i < x->n_prompts; i++)
        n_bytes += x->prompts[i].text_bytes;
    if (n_bytes > 0 && !engine_info(cfg->engine)->tokenizer) {
        err_set_param(&e, ERR_UNSUPPORTED, "prompt",
                      "this model has no tokenizer: prompts must be token ids");
        exchange_fail(x, &e);
        exchange_free_if_over(x);
        return NULL;
    }
    if (n_bytes > OFFLOAD_BYTES && cfg->offload) {
        x->offloaded = true;
        cfg->offload(cfg->host, tokenize_work, tokenize_done, x);
        return x;
    }
    tokenize_work(x);
    tokenized(x);
    if (x->state != X_ENDED)
        return x;
    exchange_free_if_over(x);
    return NULL;
}

/* --- events --------------------------------------------------------------------------------------- */

static void send_chunk(struct api_exchange *x, struct choice *c, bool final)
{
    struct jw *w = &x->out;
    jw_reset(w);
    jw_raw(w, "data: ");
    x->ops->chunk(x, c, final, w);
    jw_raw(w, "\n\n");
    jw_reset(&c->text);
    jw_reset(&c->ids);
    for (int k = 0; k < 4; k++)
        jw_reset(&c->lp[k]);
    c->n_lp = 0;
    c->started = true;
    if (w->err == 0)
        x->reply.ops->write(x->reply.host, w->b.data, w->b.n_bytes);
}

static void send_end(struct api_exchange *x)
{
    struct jw *w = &x->out;
    jw_reset(w);
    if (x->p.include_usage) {
        jw_raw(w, "data: ");
        x->ops->usage_chunk(x, w);
        jw_raw(w, "\n\n");
    }
    jw_raw(w, "data: [DONE]\n\n");
    if (w->err == 0)
        x->reply.ops->write(x->reply.host, w->b.data, w->b.n_bytes);
    end(x);
}

/* The prompt's part of a choice's answer, before its first own token. */
static void echo(struct api_exchange *x, struct choice *c)
{
    struct prompt *pr = c->prompt;
    c->echoed = true;
    const struct tokenizer *t = engine_info(x->a->cfg.engine)->tokenizer;
    if (pr->text) {
        jw_escape(&c->text, pr->text, pr->text_bytes);
    } else if (t) {
        struct buf raw;
        buf_init(&raw, API_MAX_ANSWER_BYTES);
        if (tokenizer_decode(t, pr->ids.ids, pr->ids.n, x->p.skip_special_tokens, &raw) == 0)
            jw_escape(&c->text, raw.n_bytes ? raw.data : "", raw.n_bytes);
        else
            c->text.err = ERR_NOMEM;
        buf_done(&raw);
    }
    for (int k = 0; k < 4; k++)
        jw_join(&c->lp[k], &pr->lp[k]);
    c->n_lp = pr->n_lp;
    c->offset = pr->offset;
    if (!pr->n_lp)
        for (size_t i = 0; i < pr->ids.n; i++)
            c->offset += token_chars(x, pr->ids.ids[i]);
}

static void take_tokens(struct api_exchange *x, struct choice *c, const struct gen_event *ev)
{
    jw_escape(&c->text, ev->text ? ev->text : "", ev->text_bytes);
    for (int i = 0; i < ev->n_tokens; i++) {
        const struct gen_token *t = &ev->tokens[i];
        if (x->p.return_token_ids)
            jw_printf(&c->ids, "%s%d", c->ids.b.n_bytes ? "," : "", t->id);
        if (x->p.logprobs >= 0) {
            x->ops->logprob(x, c->lp, c->n_lp++, c->offset, t, false);
            c->offset += token_chars(x, t->id);
        }
        c->n_tokens++;
        c->sum_logprob += (double)t->logprob;
    }
    x->completion_tokens += ev->n_tokens;
}

static void take_prompt(struct api_exchange *x, struct prompt *pr, const struct gen_event *ev)
{
    for (int i = 0; i < ev->n_tokens; i++) {
        struct gen_token t = ev->tokens[i]; /* may have more alternatives than either asked for */
        bool first = ev->prompt_position + i == 0;
        if (x->p.prompt_logprobs >= 0) {
            t.n_top = t.n_top < x->p.prompt_logprobs ? t.n_top : x->p.prompt_logprobs;
            jw_raw(&pr->logprobs, first ? "" : ",");
            write_prompt_logprob(x, &pr->logprobs, &t, first);
        }
        if (!x->p.echo || x->p.logprobs < 0)
            continue;
        t.n_top = ev->tokens[i].n_top < x->p.logprobs ? ev->tokens[i].n_top : x->p.logprobs;
        x->ops->logprob(x, pr->lp, pr->n_lp++, pr->offset, &t, first);
        pr->offset += token_chars(x, t.id);
    }
}

static void take_end(struct api_exchange *x, struct choice *c, const struct gen_event *ev)
{
    c->done = true;
    c->finish = ev->finish_reason;
    c->stop_token_id = ev->stop_token_id;
    c->stop_string = ev->stop_string ? strdup(ev->stop_string) : NULL;
    if (ev->choice == 0) {
        x->prompt_tokens += ev->prompt_tokens;
        x->cached_tokens += ev->cached_tokens;
    }
    if (ev->ttft_ns > 0 && (x->ttft_ns < 0 || ev->ttft_ns < x->ttft_ns))
        x->ttft_ns = ev->ttft_ns;
    x->n_done++;
}

static void on_event(struct api_exchange *x, struct prompt *pr, const struct gen_event *ev)
{
    struct choice *c = &x->choices[pr->index * x->p.n + ev->choice];
    bool stream = x->p.stream;
    if (ev->type == GEN_FAILED || (ev->type == GEN_CACHE && !ev->cache)) {
        exchange_fail(x, &ev->error);
        return;
    }
    if (ev->type == GEN_CACHE) {
        x->ops->cache(x, ev->cache);
        return;
    }
    if (ev->type == GEN_PROMPT) {
        take_prompt(x, pr, ev);
        return;
    }
    if (x->p.echo && !c->echoed)
        echo(x, c);
    if (ev->type == GEN_TOKENS)
        take_tokens(x, c, ev);
    else
        take_end(x, c, ev);
    if (stream && (c->done || c->text.b.n_bytes || c->ids.b.n_bytes || c->n_lp || !c->started))
        send_chunk(x, c, c->done);
    if (x->n_done < x->n_choices)
        return;
    if (stream) {
        send_end(x);
    } else {
        jw_reset(&x->out);
        x->ops->whole(x, &x->out);
        exchange_finish(x, &x->out);
    }
}

static void check_pressure(struct api_exchange *x)
{
    const struct api_config *cfg = &x->a->cfg;
    if (x->gone || x->state != X_RUNNING || !x->p.stream)
        return;
    size_t queued = x->reply.ops->queued_bytes(x->reply.host);
    bool pause = x->paused ? queued > cfg->write_low_bytes : queued > cfg->write_high_bytes;
    if (pause == x->paused)
        return;
    x->paused = pause;
    for (int i = 0; i < x->n_prompts; i++)
        if (x->prompts[i].n_live > 0)
            engine_pause(cfg->engine, x->prompts[i].request_id, pause);
}

void api_poll(struct api *a)
{
    struct gen_event *ev;
    while ((ev = engine_next_event(a->cfg.engine))) {
        struct prompt *pr = ev->user;
        struct api_exchange *x = pr->x;
        if (ev->type == GEN_DONE || ev->type == GEN_FAILED || ev->type == GEN_CACHE)
            pr->n_live--;
        if (!x->gone && x->state == X_RUNNING)
            on_event(x, pr, ev);
        engine_event_free(a->cfg.engine, ev);
        check_pressure(x);
        exchange_free_if_over(x);
    }
}

void api_exchange_writable(struct api_exchange *x)
{
    check_pressure(x);
}

void api_exchange_gone(struct api_exchange *x)
{
    x->gone = true;
    cancel_all(x);
    exchange_free_if_over(x);
}

/* Exchanges whose events will never come: the engine is gone. */
void api__free_exchanges(struct api *a)
{
    while (a->exchanges)
        exchange_free(a->exchanges);
}
