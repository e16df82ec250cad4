/* api/generation.c - a generation request from its tokens to its last byte.
 *
 * An exchange lives until its reply has ended and every submitted choice has had its final event, whichever
 * comes last: a client may leave at any point, and events on their way must still find something. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/beam.h"
#include "api/internal.h"
#include "api/resume.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/utf8.h"

#define OFFLOAD_BYTES 32768 /* texts beyond it are tokenized off the loop thread, and tokens told */
#define REQUEST_ARENA_SPARE ((size_t)4 << 20)

/* --- life ----------------------------------------------------------------------------------------- */

void make_id(struct api *a, const char *prefix, char *dst, size_t n)
{
    snprintf(dst, n, "%s%016llx%08llx", prefix, (unsigned long long)a->id_seed,
             (unsigned long long)++a->id_count);
}

/* Requests find each other's rows only under the same salt: the client's own, and its key's where keys
 * share nothing. Requests without a key are one tenant then. */
static uint64_t salt_of(const struct api *a, uint64_t key, uint64_t cache_salt)
{
    const uint64_t both[2] = {key, cache_salt};
    return a->cfg.cache_by_key ? hash64_bytes(both, sizeof(both), 0x74656e616e74) : cache_salt;
}

static struct api_exchange *make(struct api *a, const struct reply *r, const struct api_request *req,
                                 struct params *p, int n_prompts, const struct answer_ops *ops)
{
    struct api_exchange *x = calloc(1, sizeof(*x));
    int n = p->n;
    struct err e = {0};
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
    x->salt = salt_of(a, req->key, p->cache_salt);
    x->ttft_ns = -1;
    make_id(a, ops->id_prefix, x->id, sizeof(x->id)); /* counts: ids of calls differ by it */
    if (p->request_id)
        snprintf(x->id, sizeof(x->id), "%s%s", ops->id_prefix, p->request_id);
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
        parts_init(&c->parts, API_MAX_ANSWER_BYTES, ops->call_prefix ? ops->call_prefix : "call_",
                   a->id_seed + (a->id_count << 8) + (unsigned)i);
        jw_init(&c->ids, API_MAX_ANSWER_BYTES);
        for (int k = 0; k < 4; k++)
            jw_init(&c->lp[k], API_MAX_ANSWER_BYTES);
    }
    x->next = a->exchanges;
    if (x->next)
        x->next->prev = x;
    a->exchanges = x;
    a->n_exchanges++;
    a->n_lots += ops->lots;
    return x;
}

struct api_exchange *exchange_new(struct api *a, const struct reply *r, const struct api_request *req,
                                  struct params *p, int n_prompts, const struct answer_ops *ops)
{
    struct err e = {0};
    if (apply_grant(a, req->grant, p, &e) == 0)
        return make(a, r, req, p, n_prompts, ops);
    reply_error(r, a, &e);
    params_done(p);
    return NULL;
}

struct api_exchange *exchange_new_plain(struct api *a, const struct reply *r, const struct api_request *req,
                                        const struct answer_ops *ops)
{
    struct params none = {.n = 1};
    struct api_exchange *x = make(a, r, req, &none, 1, ops);
    if (x) /* for the log */
        x->prompt_tokens = x->cached_tokens = x->completion_tokens = -1;
    return x;
}

static void exchange_free(struct api_exchange *x)
{
    struct api *a = x->a;
    resumable_forget(x);
    beam_free(x);
    a->n_lots -= x->ops->lots;
    if (x->ops->freed)
        x->ops->freed(x);
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
        parts_done(&c->parts);
        assistant_done(&c->assistant);
        jw_done(&c->ids);
        for (int k = 0; k < 4; k++)
            jw_done(&c->lp[k]);
        free(c->stop_string);
        free(c->vector);
    }
    free(x->prompts);
    free(x->choices);
    free(x->prediction.ids);
    grammar_put(&x->grammar);
    params_done(&x->p);
    jw_done(&x->out);
    free(x);
}

static int n_live(const struct api_exchange *x)
{
    int n = 0;
    for (int i = 0; i < x->n_prompts; i++)
        n += x->prompts[i].n_live;
    return n + beam_live(x->beam);
}

void exchange_free_if_over(struct api_exchange *x)
{
    if ((x->state == X_ENDED || x->gone) && !x->offloaded && n_live(x) == 0)
        exchange_free(x);
}

void exchange_cancel(struct api_exchange *x)
{
    beam_cancel(x);
    for (int i = 0; i < x->n_prompts; i++)
        if (x->prompts[i].n_live > 0 && x->prompts[i].request_id) /* 0: a command for the cache */
            engine_cancel(x->a->cfg.engine, x->prompts[i].request_id);
}

static void facts_of(const struct api_exchange *x, struct api_log_facts *f)
{
    *f = (struct api_log_facts){
        .prompt_tokens = x->prompt_tokens,
        .cached_tokens = x->cached_tokens,
        .completion_tokens = x->completion_tokens - x->told_tokens,
        .ttft_ns = x->ttft_ns,
        .finish = x->n_done ? finish_name(x->choices[0].finish) : NULL,
        .asked = {.n = x->p.n, .max_tokens = x->p.max_tokens, .temperature = x->p.temperature,
                  .top_p = x->p.top_p},
        .stages = x->stages,
    };
    snprintf(f->asked.model, sizeof(f->asked.model), "%s", x->p.model ? x->p.model : "");
}

void api_exchange_facts(const struct api_exchange *x, struct api_log_facts *f)
{
    facts_of(x, f);
    if (x->ops->tokenized) /* generates nothing */
        *f = (struct api_log_facts)API_NO_FACTS;
    else if (x->n_done == 0)
        for (int i = 0; i < x->n_prompts; i++)
            f->prompt_tokens += (int)x->prompts[i].ids.n;
}

void exchange_end(struct api_exchange *x)
{
    struct api_log_facts facts;
    facts_of(x, &facts);
    x->state = X_ENDED;
    resumable_end(x);
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
    exchange_cancel(x);
    if (x->begun) {
        stream_fail(x, e);
    } else {
        x->state = X_ENDED;
        resumable_forget(x); /* x may have to wait for its events, and nobody may come to it meanwhile */
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
    size_t n_ids = pr->ids.n * sizeof(int32_t), n_predicted = x->prediction.n * sizeof(int32_t);
    struct arena *arena = arena_new(n_ids + n_predicted + REQUEST_ARENA_SPARE +
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
        .prediction = copy(arena, x->prediction.ids, n_predicted),
        .n_prediction = (int)x->prediction.n,
        .max_tokens = p->max_tokens,
        .min_tokens = p->min_tokens,
        .n = p->n,
        .ignore_eos = p->ignore_eos,
        .skip_special_tokens =
            p->skip_special_tokens && !x->calls && !x->thinks, /* marks may be such tokens */
        .thought = {x->thinks ? p->thought_budget : 0, x->thought_begun, x->think_id, x->unthink_id},
        .grammar = x->grammar,
        .grammar_after_thought = x->thinks && x->unthink_id >= 0,
        .sampling =
            {
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
        .pooling = p->pooling,
        .include_stop = p->include_stop,
        .repetition = p->repetition,
        .logprobs = p->logprobs < 0 && p->best_of > 1 ? 0 : p->logprobs, /* best_of compares them */
        .prompt_logprobs = scores && p->logprobs > p->prompt_logprobs ? p->logprobs : p->prompt_logprobs,
        .cache_salt = x->salt,
        .priority = p->priority,
        .fair_key = x->client,
        .timeout_ns = p->timeout_ns,
        .max_queue_ns = p->max_queue_ns,
        .progress = p->stream && p->return_progress,
        .user = pr,
    };
    struct stop_string *stop = copy(arena, p->stop, (size_t)p->n_stop * sizeof(*stop));
    bool ok = g->prompt && (g->prediction || !g->n_prediction) && (stop || !p->n_stop) &&
              (g->stop_token_ids || !p->n_stop_token_ids) &&
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
    const char *asked = params_asked(&x->p);
    if (pr->ids.n == 0)
        return err_set_param(e, ERR_INVAL, asked, "%s %d has no tokens", asked, pr->index);
    if (pr->ids.n + (size_t)need > (size_t)max)
        return err_set_param(e, ERR_LIMIT, asked,
                             "This model's maximum context length is %d tokens. However, your %s resulted "
                             "in %zu tokens%s. Please reduce its length.",
                             max, asked, pr->ids.n,
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
    pr->cut = true;
}

/* What the queue can never hold must not be told to come again. */
static int check_choices(const struct api_exchange *x, struct err *e)
{
    int max = engine_info(x->a->cfg.engine)->max_choices;
    if (max <= 0 || x->n_choices <= max || x->p.use_beam_search || x->ops->lots)
        return 0;
    return err_set_param(e, ERR_INVAL, x->n_prompts > 1 ? params_asked(&x->p) : "n",
                         "the request asks for %d choices; this server takes at most %d at a time",
                         x->n_choices, max);
}

static int check_prompts(const struct api_exchange *x, struct err *e)
{
    int r = check_choices(x, e);
    for (int i = 0; i < x->n_prompts && r == 0; i++) {
        truncate_prompt(x, &x->prompts[i]);
        r = check_prompt(x, &x->prompts[i], e);
    }
    return r;
}

static int send_prompt(struct api_exchange *x, struct prompt *pr, struct err *e)
{
    struct gen_request *g = make_request(x, pr);
    if (!g)
        return err_set(e, ERR_NOMEM, "out of memory for the request");
    if (g->timeout_ns && pr->index > 0) /* of all lots together */
        g->timeout_ns -= clock_now_ns() - x->stages.submitted_ns;
    if (x->n_done > 0) /* it runs already */
        g->max_queue_ns = 0;
    int r = x->p.timeout_ns && g->timeout_ns <= 0
                ? err_set_param(e, ERR_TIMEOUT, "timeout", "the request did not end within its timeout")
                : engine_submit(x->a->cfg.engine, g, &pr->request_id, e);
    if (r < 0) {
        arena_free(g->arena);
        return r;
    }
    pr->n_live = x->p.n;
    x->n_sent++;
    return 0;
}

/* Prompts that the engine has at a time: of lots a part of what it takes, so that others find a place too. */
static int lot(const struct api_exchange *x)
{
    int max = engine_info(x->a->cfg.engine)->max_choices / 4;
    return x->ops->lots ? (max > 0 ? max : 1) : x->n_prompts;
}

int exchange_send(struct api_exchange *x, struct err *e)
{
    int r = 0, most = lot(x);
    while (x->n_sent < x->n_prompts && x->n_sent - x->n_done < most && r == 0)
        r = send_prompt(x, &x->prompts[x->n_sent], e);
    return r == ERR_BUSY && x->ops->lots && x->n_sent > 0 ? 0 : r; /* others fill the queue: later */
}

/* The prompts are checked. */
static int submit(struct api_exchange *x, struct err *e)
{
    if (x->p.use_beam_search)
        return beam_start(x, e);
    x->stages = (struct api_stages){clock_now_ns(), -1, -1, -1, 0, 0};
    return exchange_send(x, e);
}

int exchange_submit(struct api_exchange *x, struct err *e)
{
    int r = check_prompts(x, e);
    return r < 0 ? r : submit(x, e);
}

/* May the key of the request use so many tokens? Otherwise answers 429. */
static bool admitted(struct api_exchange *x)
{
    const struct api_config *cfg = &x->a->cfg;
    long long n_tokens = 0;
    struct err e = {0};
    for (int i = 0; i < x->n_prompts; i++)
        n_tokens += (long long)x->prompts[i].ids.n;
    int seconds = cfg->admit ? cfg->admit(x->reply.host, n_tokens, &e) : 0;
    if (seconds == 0)
        return true;
    x->state = X_ENDED;
    reply_error_full(&x->reply, 429, "rate_limit_exceeded", NULL, e.text, seconds, NULL);
    return false;
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
        r = check_prompts(x, &e); /* first: what can never be served counts for no key */
    if (r == 0 && x->p.resumable && x->p.stream && !resumable_begin(x))
        return;
    if (r == 0 && !admitted(x))
        return;
    if (r == 0)
        r = submit(x, &e);
    if (r < 0) {
        exchange_fail(x, &e);
        return;
    }
    x->state = X_RUNNING;
    if (x->p.stream)
        stream_begin(x);
}

/* The grammar that the request asks for, if any. */
static int compile_structure(struct api_exchange *x, struct err *e)
{
    const struct params *p = &x->p;
    struct err why = {0};
    if (!p->structure_field)
        return 0;
    if (x->thinks && x->thought_begun && x->unthink_id < 0)
        return err_set_param(
            e, ERR_UNSUPPORTED, p->structure_field,
            "%s: where this model's thoughts end is no token, so that no grammar can begin there",
            p->structure_field);
    int r = engine_grammar(x->a->engine, p->structure_kind, p->structure, p->n_structure, &x->grammar,
                           &why);
    if (r < 0)
        return err_set_param(e, r, p->structure_field, "%s: %s", p->structure_field, why.text);
    return 0;
}

static void tokenize_work(void *arg)
{
    struct api_exchange *x = arg;
    const struct engine_info *info = engine_info(x->a->engine);
    size_t max =
        x->ops->tokenized || x->p.truncate_prompt ? (size_t)INT32_MAX : (size_t)info->max_model_len + 1;
    for (int i = 0; i < x->n_prompts; i++) {
        struct prompt *pr = &x->prompts[i];
        int r;
        if (!pr->text)
            continue;
        r = tokenizer_encode_masked(info->tokenizer, pr->text, pr->literal, pr->text_bytes, pr->flags, max,
                                    &pr->ids, &x->tokenize_error);
        if (r == ERR_LIMIT)
            err_set_param(&x->tokenize_error, r, params_asked(&x->p),
                          "This model's maximum context length is %d tokens. However, your %s resulted in "
                          "more. Please reduce its length.", info->max_model_len,
                          params_asked(&x->p));
        if (r < 0)
            return;
    }
    if (x->ops->write_tokens)
        x->ops->write_tokens(x);
    else if (tokenize_prediction(x, &x->tokenize_error) == 0)
        (void)!compile_structure(x, &x->tokenize_error);
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
    size_t n_bytes = x->p.prediction ? strlen(x->p.prediction) : 0, n_told = 0;
    bool text = false; /* of any length: nothing may look for a tokenizer that is not there */
    struct err e = {0};
    for (int i = 0; i < x->n_prompts; i++) {
        n_bytes += x->prompts[i].text_bytes;
        text |= x->prompts[i].text != NULL;
        n_told += x->ops->write_tokens ? x->prompts[i].ids.n * sizeof(int32_t) : 0;
    }
    if (text && !engine_info(cfg->engine)->tokenizer) {
        err_set_param(&e, ERR_UNSUPPORTED, params_asked(&x->p),
                      "this model has no tokenizer: prompts must be token ids");
        exchange_fail(x, &e);
        exchange_free_if_over(x);
        return NULL;
    }
    if ((n_bytes > OFFLOAD_BYTES || n_told > OFFLOAD_BYTES || x->p.structure_field) && cfg->offload) {
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

struct api_exchange *exchange_start_if(struct api_exchange *x, int r, const struct err *e)
{
    if (r >= 0)
        return exchange_start(x);
    exchange_fail(x, e);
    exchange_free_if_over(x);
    return NULL;
}

void api_exchange_gone(struct api_exchange *x)
{
    x->gone = true;
    resumable_forget(x);
    exchange_cancel(x);
    exchange_free_if_over(x);
}

/* Exchanges whose events will never come: the engine is gone. */
void api__free_exchanges(struct api *a)
{
    while (a->exchanges)
        exchange_free(a->exchanges);
}
