/* api/ollama.c - Ollama's API: /api/generate and /api/chat (lines of JSON), /api/tags, /api/show, /api/ps and
 * /api/version. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/internal.h"
#include "base/clock.h"
#include "base/hash.h"

static void write_time(int64_t seconds, struct jw *w)
{
    time_t t = (time_t)seconds;
    struct tm tm;
    char text[40];
    gmtime_r(&t, &tm);
    strftime(text, sizeof(text), "\"%Y-%m-%dT%H:%M:%SZ\"", &tm);
    jw_raw(w, text);
}

static bool is_chat(const struct api_exchange *x)
{
    return x->ops->id_prefix[0] == 'c';
}

static void head(const struct api *a, struct jw *w)
{
    jw_raw(w, "{\"model\":");
    jw_cstring(w, api_model_name(a));
    jw_raw(w, ",\"created_at\":");
    write_time(clock_wall_ns() / NS_PER_SEC, w);
}

/* Calls whose arguments are complete and which were not told. */
static void write_calls(struct choice *c, struct jw *w)
{
    bool any = false;
    for (int i = 0; i < c->parts.n; i++) {
        struct part *p = &c->parts.list[i];
        if (p->kind != PART_CALL || !p->closed || p->over)
            continue;
        jw_raw(w, any ? "," : ",\"tool_calls\":[");
        any = true;
        jw_printf(w, "{\"function\":{\"index\":%d,\"name\":", p->call);
        jw_cstring(w, p->name);
        jw_raw(w, ",\"arguments\":");
        write_arguments(p, w);
        jw_raw(w, "}}");
        p->over = true;
    }
    if (any)
        jw_raw(w, "]");
}

static void write_thought(const struct choice *c, struct jw *w)
{
    if (!parts_has(&c->parts, PART_REASONING))
        return;
    jw_raw(w, ",\"thinking\":\"");
    parts_join(&c->parts, PART_REASONING, w);
    jw_raw(w, "\"");
}

static void write_body(struct api_exchange *x, struct choice *c, struct jw *w)
{
    if (is_chat(x)) {
        jw_raw(w, ",\"message\":{\"role\":\"assistant\",\"content\":\"");
        parts_join(&c->parts, PART_TEXT, w);
        jw_raw(w, "\"");
        write_thought(c, w);
        write_calls(c, w);
        jw_raw(w, "}");
        return;
    }
    jw_raw(w, ",\"response\":\"");
    jw_join(w, &c->text);
    parts_join(&c->parts, PART_TEXT, w);
    jw_raw(w, "\"");
    write_thought(c, w);
}

static void write_end(const struct api_exchange *x, struct jw *w)
{
    const struct choice *c = &x->choices[0];
    int64_t total = clock_now_ns() - x->received_ns, prompt = x->ttft_ns > 0 ? x->ttft_ns : 0;
    jw_printf(w, ",\"done\":true,\"done_reason\":\"%s\",\"total_duration\":%lld,\"load_duration\":0,",
              c->finish == FINISH_LENGTH ? "length" : "stop", (long long)total);
    jw_printf(
        w,
        "\"prompt_eval_count\":%d,\"prompt_eval_duration\":%lld,\"eval_count\":%d,\"eval_duration\":%lld}",
        x->prompt_tokens, (long long)prompt, x->completion_tokens, (long long)(total - prompt));
}

static void chunk(struct api_exchange *x, struct choice *c, bool final, struct jw *w)
{
    bool calls = false;
    for (int i = 0; i < c->parts.n; i++)
        calls |= c->parts.list[i].kind == PART_CALL && c->parts.list[i].closed && !c->parts.list[i].over;
    if (!calls && !c->text.b.n_bytes && !parts_has(&c->parts, PART_TEXT) &&
        !parts_has(&c->parts, PART_REASONING))
        return; /* the end is told by `closing` */
    (void)final;
    head(x->a, w);
    write_body(x, c, w);
    jw_raw(w, ",\"done\":false}\n");
}

static void closing(struct api_exchange *x, struct jw *w)
{
    head(x->a, w);
    jw_raw(w, is_chat(x) ? ",\"message\":{\"role\":\"assistant\",\"content\":\"\"}" : ",\"response\":\"\"");
    write_end(x, w);
    jw_raw(w, "\n");
}

static void failed(struct api_exchange *x, const struct err *e, struct jw *w)
{
    error_json(w, x->reply.dialect, error_status(e), NULL, NULL, e->text);
    jw_raw(w, "\n");
}

static void whole(struct api_exchange *x, struct jw *w)
{
    head(x->a, w);
    write_body(x, &x->choices[0], w);
    write_end(x, w);
}

#define COMMON \
    .stream_type = "application/x-ndjson", .chunk = chunk, .closing = closing, .failed = failed, \
    .whole = whole

static const struct answer_ops chat_ops = {.id_prefix = "chat-",
                                           .assistant = true,
                                           .keeps_parts = true,
                                           COMMON};
static const struct answer_ops generate_ops = {.id_prefix = "gen-", .assistant = true, COMMON};
static const struct answer_ops raw_ops = {.id_prefix = "gen-", COMMON};

/* Where nothing else is asked for, the model must be. */
static int check_named(const struct api *a, const struct params *p, struct err *e)
{
    return p->model ? check_model(a, p, e) : err_set_param(e, ERR_INVAL, "model", "model is missing");
}

/* keep_alive and an empty prompt, or no messages, ask that the model be there; it is. Takes p over. */
static struct api_exchange *reply_loaded(struct api *a, const struct reply *r, struct params *p,
                                         const char *nothing)
{
    struct err e = {0};
    struct jw w;
    jw_init(&w, 4096);
    head(a, &w);
    jw_raw(&w, nothing);
    jw_raw(&w, ",\"done\":true,\"done_reason\":\"load\"}");
    if (check_named(a, p, &e) < 0)
        reply_error(r, a, &e);
    else
        reply_json(r, 200, &w, NULL);
    params_done(p);
    jw_done(&w);
    return NULL;
}

static struct api_exchange *start(struct api *a, const struct api_request *req, const struct reply *r,
                                  struct params *p, const struct answer_ops *ops)
{
    struct err e = {0};
    struct api_exchange *x = exchange_new(a, r, req, p, 1, ops);
    if (!x)
        return NULL;
    int n = check_model(a, &x->p, &e);
    if (n == 0 && ops == &raw_ops)
        n = set_prompts(x, &e);
    else if (n == 0 && ops == &generate_ops)
        n = ollama_prompt_to_chat(&x->p, &e);
    else if (n == 0)
        n = ollama_to_chat(&x->p, &e);
    if (n == 0 && ops != &raw_ops)
        n = chat_prompt(a, x, &e);
    return exchange_start_if(x, n, &e);
}

struct api_exchange *handle_ollama_generate(struct api *a, const struct api_request *req,
                                            const struct reply *r)
{
    struct params p;
    struct err e = {0};
    if (params_read(&a->cfg, IN_GENERATE, req->body, req->body_bytes, &p, &e) < 0) {
        reply_error(r, a, &e);
        return NULL;
    }
    if (!p.prompt || !*p.prompt->valuestring)
        return reply_loaded(a, r, &p, ",\"response\":\"\"");
    bool raw = p.raw || p.suffix || !api_chat_template_text(a, false);
    return start(a, req, r, &p, raw ? &raw_ops : &generate_ops);
}

struct api_exchange *handle_ollama_chat(struct api *a, const struct api_request *req, const struct reply *r)
{
    struct params p;
    struct err e = {0};
    if (params_read(&a->cfg, IN_OLLAMA_CHAT, req->body, req->body_bytes, &p, &e) < 0) {
        reply_error(r, a, &e);
        return NULL;
    }
    if (!p.messages || (cJSON_IsArray(p.messages) && !p.messages->child))
        return reply_loaded(a, r, &p, ",\"message\":{\"role\":\"assistant\",\"content\":\"\"}");
    return start(a, req, r, &p, &chat_ops);
}

/* --- models ----------------------------------------------------------------------------------------- */

static void write_details(const struct api *a, struct jw *w)
{
    const struct engine_info *info = engine_info(a->cfg.engine);
    double n = (double)info->n_params;
    jw_raw(w, "\"details\":{\"parent_model\":\"\",\"format\":");
    bool gguf = !strncmp(info->format, "GGUF", 4); /* Ollama's words */
    jw_cstring(w, gguf ? "gguf" : "safetensors");
    jw_raw(w, ",\"family\":");
    jw_cstring(w, info->config.architecture);
    jw_raw(w, ",\"families\":[");
    jw_cstring(w, info->config.architecture);
    jw_printf(w, "],\"parameter_size\":\"%.1f%s\",\"quantization_level\":", n >= 1e9 ? n / 1e9 : n / 1e6,
              n >= 1e9 ? "B" : "M");
    jw_cstring(w, info->weight_types);
    jw_raw(w, "}");
}

/* Clients take a model that has another digest for another. Ours is of what is known of it without reading
 * all of its files. */
static void write_digest(const struct api *a, struct jw *w)
{
    const struct engine_info *info = engine_info(a->cfg.engine);
    char text[1024];
    int n = snprintf(text, sizeof(text), "%.200s %.100s %.400s %d %d %lld %llu", info->model_id,
                     info->config.architecture, info->weight_types, info->config.num_hidden_layers,
                     info->config.vocab_size, (long long)info->n_params,
                     (unsigned long long)info->file_bytes);
    jw_raw(w, "\"digest\":\"");
    for (uint64_t seed = 0; seed < 2; seed++) {
        struct hash128 h = hash128_bytes(text, (size_t)n, seed);
        jw_printf(w, "%016llx%016llx", (unsigned long long)h.hi, (unsigned long long)h.lo);
    }
    jw_raw(w, "\"");
}

static void write_model(const struct api *a, struct jw *w)
{
    const struct engine_info *info = engine_info(a->cfg.engine);
    jw_raw(w, "{\"models\":[{\"name\":");
    jw_cstring(w, api_model_name(a));
    jw_raw(w, ",\"model\":");
    jw_cstring(w, api_model_name(a));
    jw_raw(w, ",\"modified_at\":");
    write_time(a->started_s, w);
    jw_printf(w, ",\"size\":%llu,", (unsigned long long)info->file_bytes);
    write_digest(a, w);
    jw_printf(w, ",\"context_length\":%d,", info->max_model_len);
    write_details(a, w);
}

static struct api_exchange *finish(const struct reply *r, struct jw *w)
{
    reply_json(r, 200, w, NULL);
    jw_done(w);
    return NULL;
}

struct api_exchange *handle_ollama_tags(struct api *a, const struct api_request *req, const struct reply *r)
{
    struct jw w;
    (void)req;
    jw_init(&w, 65536);
    write_model(a, &w);
    jw_raw(&w, "}]}");
    return finish(r, &w);
}

struct api_exchange *handle_ollama_ps(struct api *a, const struct api_request *req, const struct reply *r)
{
    struct jw w;
    (void)req;
    jw_init(&w, 65536);
    write_model(a, &w);
    jw_raw(&w, ",\"size_vram\":0,\"expires_at\":");
    write_time(a->started_s + 100LL * 365 * 86400, &w); /* it stays */
    jw_raw(&w, "}]}");
    return finish(r, &w);
}

struct api_exchange *handle_ollama_version(struct api *a, const struct api_request *req,
                                           const struct reply *r)
{
    struct jw w;
    (void)a;
    (void)req;
    jw_init(&w, 4096);
    jw_raw(&w, "{\"version\":\"" PACKAGE_VERSION "\"}");
    return finish(r, &w);
}

struct api_exchange *handle_ollama_show(struct api *a, const struct api_request *req, const struct reply *r)
{
    const struct engine_info *info = engine_info(a->cfg.engine);
    const struct model_config *c = &info->config;
    const char *template = api_chat_template_text(a, false), *tools = api_chat_template_text(a, true);
    struct params p;
    struct err e = {0};
    struct jw w;
    if (params_read(&a->cfg, IN_SHOW, req->body, req->body_bytes, &p, &e) < 0) {
        reply_error(r, a, &e);
        return NULL;
    }
    int n = check_named(a, &p, &e);
    params_done(&p);
    if (n < 0) {
        reply_error(r, a, &e);
        return NULL;
    }
    jw_init(&w, API_MAX_ANSWER_BYTES);
    jw_raw(&w, "{\"modelfile\":\"\",\"parameters\":\"\",\"template\":");
    jw_cstring(&w, template ? template : "");
    jw_raw(&w, ",");
    write_details(a, &w);
    jw_raw(&w, ",\"model_info\":{\"general.architecture\":");
    jw_cstring(&w, c->architecture);
    jw_printf(&w, ",\"general.parameter_count\":%lld,\"%.60s.context_length\":%d",
              (long long)info->n_params, c->architecture, info->max_model_len);
    jw_printf(&w, ",\"%.60s.embedding_length\":%d,\"%.60s.block_count\":%d,\"%.60s.vocab_size\":%d}",
              c->architecture, c->hidden_size, c->architecture, c->num_hidden_layers, c->architecture,
              c->vocab_size);
    jw_raw(&w, ",\"capabilities\":[\"completion\"");
    jw_raw(&w, call_format_of(tools) ? ",\"tools\"" : "");
    jw_raw(&w, thought_marks_of(template) ? ",\"thinking\"" : "");
    jw_raw(&w, infill_possible(info->tokenizer) ? ",\"insert\"" : "");
    jw_raw(&w, "],\"modified_at\":");
    write_time(a->started_s, &w);
    jw_raw(&w, "}");
    return finish(r, &w);
}
