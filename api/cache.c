/* api/cache.c - /v1/cache: what the cache holds; saving, restoring and pinning prefixes; dropping.
 *
 * A prefix is named as a prompt is: `prompt` (text or token ids) as in /v1/completions, or `messages` as in
 * /v1/chat/completions, with `cache_salt`. The engine does the work between its steps and answers by an
 * event; an exchange waits for that as for a generation. */
#include "config.h"

#include <string.h>

#include "api/internal.h"

#define LLU(v) ((unsigned long long)(v))

static void write_memory(const struct engine_cache_report *c, struct jw *w)
{
    jw_printf(w, "\"memory\":{\"bytes\":%llu,\"pages\":%llu,\"free\":%llu,\"held\":%llu,\"cached\":%llu,",
              LLU(c->page_bytes * c->n_pages), LLU(c->n_pages), LLU(c->pages_free), LLU(c->pages_held),
              LLU(c->pages_cached));
    jw_printf(w, "\"shared\":%llu,\"pinned\":%llu,\"max_pinned\":%u,\"evictions\":%llu}",
              LLU(c->pages_shared), LLU(c->pages_pinned), c->max_pinned, LLU(c->evictions));
}

static void write_disk(const struct engine_cache_report *c, struct jw *w)
{
    jw_printf(w, "\"disk\":{\"state\":\"%s\",\"trouble\":", c->disk_state);
    jw_cstring(w, *c->disk_trouble ? c->disk_trouble : NULL);
    jw_printf(w, ",\"max_bytes\":%llu,\"bytes\":%llu,\"pages\":%llu,\"files\":%llu,\"queue\":%llu,",
              LLU(c->disk_max_bytes), LLU(c->disk_bytes), LLU(c->disk_pages), LLU(c->disk_files),
              LLU(c->disk_queue));
    jw_printf(w, "\"writes\":%llu,\"reads\":%llu,\"hit_tokens\":%llu,\"dropped\":%llu,\"errors\":%llu}",
              LLU(c->disk_writes), LLU(c->disk_reads), LLU(c->disk_hits_tokens), LLU(c->disk_dropped),
              LLU(c->disk_errors));
}

static void write_report(const struct api_exchange *x, const struct engine_cache_report *c, struct jw *w)
{
    switch (c->command) {
    case ENGINE_CACHE_STATS:
        jw_printf(w, "{\"object\":\"cache\",\"page_tokens\":%u,\"page_bytes\":%llu,\"query_tokens\":%llu,",
                  c->page_tokens, LLU(c->page_bytes), LLU(c->queries_tokens));
        jw_printf(w, "\"hit_tokens\":%llu,\"copied_tokens\":%llu,\"pins\":[", LLU(c->hits_tokens),
                  LLU(c->copied_tokens));
        for (int i = 0; i < c->n_pins; i++)
            jw_printf(w, "%s{\"id\":%llu,\"tokens\":%d}", i ? "," : "", LLU(c->pins[i].id),
                      c->pins[i].n_tokens);
        jw_raw(w, "],");
        write_memory(c, w);
        jw_raw(w, ",");
        write_disk(c, w);
        break;
    case ENGINE_CACHE_SAVE:
        jw_printf(w, "{\"object\":\"cache.save\",\"pages\":%llu,\"evicted\":%llu", LLU(c->pages),
                  LLU(c->evicted));
        break;
    case ENGINE_CACHE_RESTORE:
        jw_printf(w, "{\"object\":\"cache.restore\",\"prompt_tokens\":%zu,\"cached_tokens\":%d,"
                     "\"restored_tokens\":%d", x->prompts[0].ids.n, c->cached_tokens, c->restored_tokens);
        break;
    case ENGINE_CACHE_PIN:
        jw_printf(w, "{\"object\":\"cache.pin\",\"id\":%llu,\"prompt_tokens\":%zu,\"pinned_tokens\":%d",
                  LLU(c->pin), x->prompts[0].ids.n, c->cached_tokens);
        break;
    case ENGINE_CACHE_UNPIN:
        jw_printf(w, "{\"object\":\"cache.unpin\",\"id\":%llu", LLU(c->pin));
        break;
    case ENGINE_CACHE_DROP:
        jw_printf(w, "{\"object\":\"cache.drop\",\"pages\":%llu,\"disk\":%s", LLU(c->pages),
                  x->p.disk ? "true" : "false");
        break;
    }
    jw_raw(w, "}");
}

static void on_report(struct api_exchange *x, const struct engine_cache_report *c)
{
    jw_reset(&x->out);
    write_report(x, c, &x->out);
    x->prompt_tokens = x->cached_tokens = x->completion_tokens = -1; /* no generation, for the log */
    exchange_finish(x, &x->out);
}

static void ask(struct api_exchange *x, enum engine_cache_command command)
{
    struct prompt *pr = &x->prompts[0];
    int max = engine_info(x->a->cfg.engine)->max_model_len;
    struct err e = {0};
    const struct engine_cache_request req = {.command = command,
                                             .tokens = pr->ids.n ? pr->ids.ids : NULL,
                                             .n_tokens = (int)pr->ids.n,
                                             .salt = x->salt,
                                             .own_pins = x->a->cfg.cache_by_key,
                                             .disk = x->p.disk,
                                             .pin = (uint64_t)x->p.pin_id,
                                             .user = pr};
    bool none = (x->p.prompt || x->p.messages) && pr->ids.n == 0;
    int r = none ? err_set_param(&e, ERR_INVAL, "prompt", "the prompt has no tokens")
            : pr->ids.n > (size_t)max
                ? err_set_param(&e, ERR_LIMIT, "prompt", "the prompt has %zu tokens; the context holds %d",
                                pr->ids.n, max)
                : engine_cache(x->a->cfg.engine, &req, &e);
    if (r < 0) {
        exchange_fail(x, &e);
        return;
    }
    x->state = X_RUNNING;
    pr->request_id = 0;
    pr->n_live = 1; /* one event will come */
}

static void save(struct api_exchange *x)
{
    ask(x, ENGINE_CACHE_SAVE);
}

static void restore(struct api_exchange *x)
{
    ask(x, ENGINE_CACHE_RESTORE);
}

static void pin_cached(struct api_exchange *x)
{
    ask(x, ENGINE_CACHE_PIN);
}

/* Where it shall be computed first: a request for no tokens leaves its rows in the cache. */
static void pin(struct api_exchange *x)
{
    struct err e = {0};
    if (!x->p.compute) {
        pin_cached(x);
        return;
    }
    x->p.max_tokens = 0;
    if (exchange_submit(x, &e) < 0)
        exchange_fail(x, &e);
    else
        x->state = X_RUNNING;
}

static void unpin(struct api_exchange *x)
{
    struct err e = {0};
    if (x->p.pin_id > 0) {
        ask(x, ENGINE_CACHE_UNPIN);
        return;
    }
    err_set_param(&e, ERR_INVAL, "id", "id is missing: the number that /v1/cache/pin answered");
    exchange_fail(x, &e);
}

static void stats(struct api_exchange *x)
{
    ask(x, ENGINE_CACHE_STATS);
}

static void drop(struct api_exchange *x)
{
    ask(x, ENGINE_CACHE_DROP);
}

enum prefix { PREFIX_NONE, PREFIX_MAY, PREFIX_MUST };

static int set_prefix(struct api *a, struct api_exchange *x, enum prefix prefix, struct err *e)
{
    int n = 0, r = check_model(a, &x->p, e);
    if (r < 0 || (prefix == PREFIX_MAY && !x->p.prompt && !x->p.messages))
        return r;
    if (prefix == PREFIX_NONE)
        return !x->p.prompt && !x->p.messages
                   ? 0
                   : err_set_param(e, ERR_INVAL, x->p.prompt ? "prompt" : "messages",
                                   "%s means nothing here",
                                   x->p.prompt ? "prompt" : "messages");
    if (x->p.messages && !x->p.prompt)
        return chat_prompt(a, x, e);
    if ((r = count_prompts(&x->p, a->cfg.max_prompts, &n, e)) < 0)
        return r;
    return n == 1 ? set_prompts(x, e) : err_set_param(e, ERR_INVAL, "prompt", "prompt must be one prompt");
}

static struct api_exchange *handle(struct api *a, const struct api_request *req, const struct reply *r,
                                   enum prefix prefix, const struct answer_ops *ops)
{
    struct params p;
    struct err e = {0};
    bool empty = req->body_bytes == 0; /* asks for nothing in particular */
    if (params_read(&a->cfg, IN_CACHE, empty ? "{}" : req->body, empty ? 2 : req->body_bytes, &p, &e) < 0) {
        reply_error(r, a, &e);
        return NULL;
    }
    struct api_exchange *x = exchange_new(a, r, req, &p, 1, ops);
    if (!x)
        return NULL;
    int n = set_prefix(a, x, prefix, &e);
    return exchange_start_if(x, n, &e);
}

struct api_exchange *handle_cache_stats(struct api *a, const struct api_request *req, const struct reply *r)
{
    static const struct answer_ops ops = {.id_prefix = "cache-", .tokenized = stats, .cache = on_report};
    return handle(a, req, r, PREFIX_NONE, &ops);
}

struct api_exchange *handle_cache_save(struct api *a, const struct api_request *req, const struct reply *r)
{
    static const struct answer_ops ops = {.id_prefix = "cache-", .tokenized = save, .cache = on_report};
    return handle(a, req, r, PREFIX_MAY, &ops);
}

struct api_exchange *handle_cache_restore(struct api *a, const struct api_request *req,
                                          const struct reply *r)
{
    static const struct answer_ops ops = {.id_prefix = "cache-", .tokenized = restore, .cache = on_report};
    return handle(a, req, r, PREFIX_MUST, &ops);
}

struct api_exchange *handle_cache_pin(struct api *a, const struct api_request *req, const struct reply *r)
{
    static const struct answer_ops ops = {.id_prefix = "cache-", .tokenized = pin, .generated = pin_cached,
                                          .cache = on_report};
    return handle(a, req, r, PREFIX_MUST, &ops);
}

struct api_exchange *handle_cache_unpin(struct api *a, const struct api_request *req, const struct reply *r)
{
    static const struct answer_ops ops = {.id_prefix = "cache-", .tokenized = unpin, .cache = on_report};
    return handle(a, req, r, PREFIX_NONE, &ops);
}

struct api_exchange *handle_cache_drop(struct api *a, const struct api_request *req, const struct reply *r)
{
    static const struct answer_ops ops = {.id_prefix = "cache-", .tokenized = drop, .cache = on_report};
    return handle(a, req, r, PREFIX_NONE, &ops);
}
