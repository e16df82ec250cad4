/* api/api.c - routing, errors and the life of the API object. */
#include "config.h"

#include "api/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "api/internal.h"
#include "api/resume.h"
#include "api/routes.h"
#include "api/store.h"
#include "base/clock.h"
#include "base/utf8.h"

/* --- errors --------------------------------------------------------------------------------------- */

static const char *type_of(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 408:
        return "timeout_error";
    case 429:
        return "rate_limit_error";
    case 503:
        return "unavailable_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

int error_status(const struct err *e)
{
    switch (e->code) {
    case ERR_NOTFOUND:
        return 404;
    case ERR_DENIED:
        return 403;
    case ERR_TIMEOUT:
        return 408;
    case ERR_BUSY:
        return 429;
    case ERR_STATE:
    case ERR_CANCELED:
    case ERR_NOMEM:
    case ERR_NOSPACE:
        return 503;
    case ERR_INVAL:
    case ERR_LIMIT:
    case ERR_UNSUPPORTED:
        return 400;
    default:
        return 500;
    }
}

const char *error_code(const struct err *e)
{
    switch (e->code) {
    case ERR_NOTFOUND:
        return !strcmp(e->param, "model") ? "model_not_found" : "not_found";
    case ERR_TIMEOUT:
        return !strcmp(e->param, "max_queue_time") ? "queue_timeout" : "timeout";
    case ERR_BUSY:
        return "queue_full";
    case ERR_LIMIT:
        return !strcmp(e->param, "prompt") || !strcmp(e->param, "messages") || !strcmp(e->param, "input")
                   ? "context_length_exceeded"
                   : NULL;
    case ERR_DENIED:
        return "not_allowed";
    case ERR_UNSUPPORTED:
        return "unsupported";
    case ERR_STATE:
        return "unavailable";
    default:
        return NULL;
    }
}

/* Anthropic's names. */
static const char *anthropic_type(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 408:
        return "timeout_error";
    case 413:
        return "request_too_large";
    case 429:
        return "rate_limit_error";
    case 503:
        return "overloaded_error";
    default:
        return status >= 500 ? "api_error" : "invalid_request_error";
    }
}

/* What a message quotes of a client's may be cut in the middle of a character, or be no text (a path). */
static void write_quoting(struct jw *w, const char *s)
{
    size_t n = s ? strlen(s) : 0;
    if (!s || utf8_valid(s, n)) {
        jw_cstring(w, s);
        return;
    }
    char *whole = malloc(3 * n);
    if (whole)
        jw_string(w, whole, utf8_sanitize(s, n, whole));
    else
        w->err = ERR_NOMEM;
    free(whole);
}

void error_json(struct jw *w, enum dialect dialect, int status, const char *code, const char *param,
                const char *message)
{
    if (dialect == DIALECT_OLLAMA) {
        jw_raw(w, "{\"error\":");
        write_quoting(w, message);
        jw_raw(w, "}");
        return;
    }
    if (dialect == DIALECT_ANTHROPIC) {
        jw_printf(w, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", anthropic_type(status));
        write_quoting(w, message);
        jw_raw(w, "}}");
        return;
    }
    jw_raw(w, "{\"error\":{\"message\":");
    write_quoting(w, message);
    jw_printf(w, ",\"type\":\"%s\",\"param\":", type_of(status));
    write_quoting(w, param && *param ? param : NULL);
    jw_raw(w, ",\"code\":");
    jw_cstring(w, code);
    jw_raw(w, "}}");
}

/* What the server itself refuses with. */
static const char *code_of(int status)
{
    switch (status) {
    case 401:
        return "invalid_api_key";
    case 403:
        return "not_allowed";
    case 429:
        return "rate_limit_exceeded";
    default:
        return NULL;
    }
}

/* In whose words mistakes are told. */
static enum dialect dialect_of(const char *path)
{
    return !strncmp(path, "/v1/messages", 12) ? DIALECT_ANTHROPIC
           : !strncmp(path, "/api/", 5)       ? DIALECT_OLLAMA
                                              : DIALECT_OPENAI;
}

int api_error_body(int status, const char *path, const char *message, struct buf *out)
{
    struct jw w;
    jw_init(&w, 65536);
    error_json(&w, dialect_of(path ? path : ""), status, code_of(status), NULL, message);
    int r = w.err ? w.err : buf_append(out, w.b.data, w.b.n_bytes);
    jw_done(&w);
    return r;
}

/* --- replies -------------------------------------------------------------------------------------- */

/* In the shapes of OpenAI and of Anthropic at once, without memory. */
static const char lost_answer[] =
    "{\"type\":\"error\",\"error\":{\"message\":\"out of memory\",\"type\":\"overloaded_error\","
    "\"param\":null,\"code\":null}}";

static void reply_bytes(const struct reply *r, int status, const struct api_header *more, int n_more,
                        const struct jw *body, const struct api_log_facts *facts)
{
    struct api_header headers[4] = {{"Content-Type", "application/json"}};
    for (int i = 0; i < n_more; i++)
        headers[1 + i] = more[i];
    const char *data = body->b.data;
    size_t n = body->b.n_bytes;
    if (body->err) { /* half an answer, or none, must not look like one */
        status = 503;
        data = r->dialect == DIALECT_OLLAMA ? "{\"error\":\"out of memory\"}" : lost_answer;
        n = strlen(data);
    }
    r->ops->begin(r->host, status, headers, 1 + n_more, (int64_t)n);
    if (n)
        r->ops->write(r->host, data, n);
    r->ops->end(r->host, facts);
}

void reply_json(const struct reply *r, int status, const struct jw *body,
                const struct api_log_facts *facts)
{
    static const struct api_log_facts none = API_NO_FACTS;
    reply_bytes(r, status, NULL, 0, body, facts ? facts : &none);
}

void reply_typed(const struct reply *r, const char *type, const struct api_header *more, int n_more,
                 const char *body, size_t n_bytes)
{
    static const struct api_log_facts none = API_NO_FACTS;
    struct api_header headers[4] = {{"Content-Type", type}};
    for (int i = 0; i < n_more && i < 3; i++)
        headers[1 + i] = more[i];
    r->ops->begin(r->host, 200, headers, 1 + n_more, (int64_t)n_bytes);
    r->ops->write(r->host, body, n_bytes);
    r->ops->end(r->host, &none);
}

void reply_error_full(const struct reply *r, int status, const char *code, const char *param,
                      const char *message, int retry_after, const char *allow)
{
    static const struct api_log_facts none = API_NO_FACTS;
    struct api_header more[2] = {{NULL, NULL}};
    char seconds[16];
    struct jw w;
    int n = 0;
    jw_init(&w, 65536);
    error_json(&w, r->dialect, status, code, param, message);
    if (retry_after > 0) {
        snprintf(seconds, sizeof(seconds), "%d", retry_after);
        more[n++] = (struct api_header){"Retry-After", seconds};
    }
    if (allow)
        more[n++] = (struct api_header){"Allow", allow};
    reply_bytes(r, status, more, n, &w, &none);
    jw_done(&w);
}

void reply_error(const struct reply *r, const struct api *a, const struct err *e)
{
    int status = error_status(e);
    int after = status == 429 || status == 503 ? engine_retry_after(a->cfg.engine) : 0;
    reply_error_full(r, status, error_code(e), e->param, e->text, after, NULL);
}

/* --- state of the engine -------------------------------------------------------------------------- */

const struct engine_info *ready_or_reply(struct api *a, const struct reply *r)
{
    const struct engine *eng = a->cfg.engine;
    char text[512];
    switch (engine_state(eng)) {
    case ENGINE_READY:
        if (a->draining)
            break;
        return engine_info(eng);
    case ENGINE_LOADING:
        snprintf(text, sizeof(text), "the model is being loaded (%.0f %%)",
                 (double)engine_load_progress(eng) * 100);
        reply_error_full(r, 503, "model_loading", NULL, text, engine_retry_after(eng), NULL);
        return NULL;
    case ENGINE_FAILED:
        snprintf(text, sizeof(text), "the model could not be loaded: %s", engine_load_error(eng)->text);
        reply_error_full(r, 503, "model_failed", NULL, text, 60, NULL);
        return NULL;
    case ENGINE_DRAINING:
    case ENGINE_STOPPED:
        break;
    }
    reply_error_full(r, 503, "shutting_down", NULL, "the server is shutting down",
                     engine_retry_after(eng), NULL);
    return NULL;
}

const char *api_chat_template_text(const struct api *a, bool tools)
{
    const struct engine_info *info = engine_info(a->cfg.engine);
    return a->cfg.chat_template ? a->cfg.chat_template : tools && info->tool_template ? info->tool_template
                                                                                      : info->chat_template;
}

struct template *api_chat_template(struct api *a, bool tools, struct err *e)
{
    bool second = tools && !a->cfg.chat_template && engine_info(a->cfg.engine)->tool_template;
    const char *text = api_chat_template_text(a, tools);
    struct err *why = &a->chat_error[second];
    struct template **t = &a->chat[second];
    if (!*t && why->code == 0) {
        if (!text)
            err_set_param(why, ERR_UNSUPPORTED, "messages",
                          "this model has no chat template; use /v1/completions");
        else if (template_new(text, strlen(text), t, why) < 0)
            *t = NULL;
    }
    if (!*t)
        *e = *why;
    if (why->code == ERR_NOMEM)
        why->code = 0; /* the next request tries again */
    return *t;
}

/* --- models --------------------------------------------------------------------------------------- */

static void write_model(const struct api *a, const char *name, struct jw *w)
{
    const struct engine_info *info = engine_info(a->cfg.engine);
    jw_raw(w, "{\"id\":");
    jw_cstring(w, name);
    jw_printf(w, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"latentd\",\"max_model_len\":%d,",
              (long long)a->started_s, info->max_model_len);
    jw_raw(w, "\"meta\":{\"architecture\":");
    jw_cstring(w, info->config.architecture);
    jw_printf(w, ",\"n_params\":%lld,\"n_vocab\":%d,\"n_ctx_train\":%d,\"size\":%llu,\"weight_types\":",
              (long long)info->n_params, info->config.vocab_size, info->config.max_position_embeddings,
              (unsigned long long)info->file_bytes);
    jw_cstring(w, info->weight_types);
    jw_raw(w, "}}");
}

struct api_exchange *handle_models(struct api *a, const struct api_request *req, const struct reply *r)
{
    struct jw w;
    const char *sep = "", *at = a->cfg.model_aliases;
    char name[256];
    jw_init(&w, 1u << 20);
    jw_raw(&w, "{\"object\":\"list\",\"data\":[");
    if (grant_has_model(req->grant, api_model_name(a))) {
        write_model(a, api_model_name(a), &w);
        sep = ",";
    }
    while (at && *(at += strspn(at, ", \t"))) { /* the same model by its other names */
        size_t n = strcspn(at, ", \t");
        snprintf(name, sizeof(name), "%.*s", (int)n, at);
        at += n;
        if (!grant_has_model(req->grant, name))
            continue;
        jw_raw(&w, sep);
        write_model(a, name, &w);
        sep = ",";
    }
    jw_raw(&w, "]}");
    reply_json(r, 200, &w, NULL);
    jw_done(&w);
    return NULL;
}

struct api_exchange *handle_model(struct api *a, const struct api_request *req, const struct reply *r)
{
    struct params p = {.model = req->path + strlen("/v1/models/")};
    struct err e = {0};
    struct jw w;
    if (check_model(a, &p, &e) < 0 || !*p.model || !grant_has_model(req->grant, p.model)) {
        reply_error_full(r, 404, "model_not_found", "model", *e.text ? e.text : "no model is named", 0,
                         NULL);
        return NULL;
    }
    jw_init(&w, 65536);
    write_model(a, p.model, &w);
    reply_json(r, 200, &w, NULL);
    jw_done(&w);
    return NULL;
}

/* --- routes --------------------------------------------------------------------------------------- */

#define SSE "text/event-stream"
#define LINES "application/x-ndjson"

const struct route api_routes[] = {
    {"/v1/completions", HTTP_M_POST, handle_completions, IN_COMPLETIONS, "\"prompt\"", SSE, NULL,
     "/v1/completions", "text completions"},
    {"/v1/chat/completions", HTTP_M_POST, handle_chat, IN_CHAT, "\"messages\"", SSE, NULL,
     "/v1/chat/completions", "chat completions, with tools and reasoning"},
    {"/v1/responses", HTTP_M_POST, handle_responses, IN_RESPONSES, "\"input\"", SSE, NULL, "/v1/responses",
     "the Responses API"},
    {"/v1/responses/input_tokens", HTTP_M_POST, handle_input_tokens, IN_RESPONSES, "\"input\"", NULL, NULL,
     "/v1/responses/input_tokens", "how many tokens a response's input has"},
    {"/v1/responses/", HTTP_M_GET, handle_response_get, 0, NULL, NULL, NULL, "/v1/responses/{id}",
     "a response kept; with /input_items what it was asked with"},
    {"/v1/responses/", HTTP_M_DELETE, handle_response_delete, 0, NULL, NULL, NULL, "/v1/responses/{id}",
     "forgets a response; one that runs ends"},
    {"/v1/responses/", HTTP_M_POST, handle_response_cancel, 0, NULL, NULL, NULL,
     "/v1/responses/{id}/cancel", "ends a response that is being generated"},
    {"/v1/streams/", HTTP_M_GET, handle_stream_get, 0, NULL, NULL, SSE, "/v1/streams/{id}",
     "a resumable stream, from the event after Last-Event-ID or ?starting_after"},
    {"/v1/streams/", HTTP_M_DELETE, handle_stream_delete, 0, NULL, NULL, NULL, "/v1/streams/{id}",
     "ends a resumable stream"},
    {"/v1/messages", HTTP_M_POST, handle_messages, IN_MESSAGES, "\"messages\",\"max_tokens\"", SSE, NULL,
     "/v1/messages", "Anthropic's messages"},
    {"/v1/messages/count_tokens", HTTP_M_POST, handle_count_tokens, IN_COUNT, "\"messages\"", NULL, NULL,
     "/v1/messages/count_tokens", "how many tokens a message has"},
    {"/v1/embeddings", HTTP_M_POST, handle_embeddings, IN_EMBEDDINGS, "\"input\"", NULL, NULL,
     "/v1/embeddings", "texts as vectors"},
    {"/v1/models", HTTP_M_GET, handle_models, 0, NULL, NULL, NULL, "/v1/models", "the model served"},
    {"/v1/models/", HTTP_M_GET, handle_model, 0, NULL, NULL, NULL, "/v1/models/{id}", "the same, by name"},
    {"/v1/cache", HTTP_M_GET, handle_cache_stats, 0, NULL, NULL, NULL, "/v1/cache", "what the cache holds"},
    {"/v1/cache", HTTP_M_DELETE, handle_cache_drop, IN_CACHE, NULL, NULL, NULL, "/v1/cache", "drops it"},
    {"/v1/cache/save", HTTP_M_POST, handle_cache_save, IN_CACHE, NULL, NULL, NULL, "/v1/cache/save",
     "writes what is cached to disk"},
    {"/v1/cache/restore", HTTP_M_POST, handle_cache_restore, IN_CACHE, NULL, NULL, NULL,
     "/v1/cache/restore", "reads a prefix from disk"},
    {"/v1/cache/pin", HTTP_M_POST, handle_cache_pin, IN_CACHE, NULL, NULL, NULL, "/v1/cache/pin",
     "keeps a prefix in memory"},
    {"/v1/cache/unpin", HTTP_M_POST, handle_cache_unpin, IN_CACHE, "\"id\"", NULL, NULL, "/v1/cache/unpin",
     "and no longer"},
    {"/api/generate", HTTP_M_POST, handle_ollama_generate, IN_GENERATE, NULL, LINES, NULL, "/api/generate",
     "Ollama's completions"},
    {"/api/chat", HTTP_M_POST, handle_ollama_chat, IN_OLLAMA_CHAT, NULL, LINES, NULL, "/api/chat",
     "Ollama's chats"},
    {"/api/embed", HTTP_M_POST, handle_ollama_embed, IN_EMBED, "\"input\"", NULL, NULL, "/api/embed",
     "Ollama's embeddings"},
    {"/api/embeddings", HTTP_M_POST, handle_ollama_embedding, IN_OLD_EMBED, NULL, NULL, NULL,
     "/api/embeddings", "the same as it was before: one text, one vector"},
    {"/api/tags", HTTP_M_GET, handle_ollama_tags, 0, NULL, NULL, NULL, "/api/tags",
     "Ollama's list of models"},
    {"/api/ps", HTTP_M_GET, handle_ollama_ps, 0, NULL, NULL, NULL, "/api/ps",
     "Ollama's list of loaded models"},
    {"/api/show", HTTP_M_POST, handle_ollama_show, IN_SHOW, "\"model\"", NULL, NULL, "/api/show",
     "facts of the model"},
    {"/api/version", HTTP_M_GET, handle_ollama_version, 0, NULL, NULL, NULL, "/api/version", "the version"},
    {"/completion", HTTP_M_POST, handle_native, IN_NATIVE, "\"prompt\"", SSE, NULL, "/completion",
     "llama-server's completions"},
    {"/completions", HTTP_M_POST, handle_native, IN_NATIVE, "\"prompt\"", SSE, NULL, "/completions",
     "the same"},
    {"/infill", HTTP_M_POST, handle_infill, IN_INFILL, "\"input_prefix\",\"input_suffix\"", SSE, NULL,
     "/infill", "llama-server's filling in of the middle, for models with tokens for it"},
    {"/tokenize", HTTP_M_POST, handle_tokenize, IN_TOKENIZE, NULL, NULL, NULL, "/tokenize", "text to ids"},
    {"/v1/tokenize", HTTP_M_POST, handle_tokenize, IN_TOKENIZE, NULL, NULL, NULL, "/v1/tokenize",
     "the same"},
    {"/detokenize", HTTP_M_POST, handle_detokenize, IN_DETOKENIZE, "\"tokens\"", NULL, NULL, "/detokenize",
     "ids to text"},
    {"/v1/detokenize", HTTP_M_POST, handle_detokenize, IN_DETOKENIZE, "\"tokens\"", NULL, NULL,
     "/v1/detokenize", "the same"},
    {"/apply-template", HTTP_M_POST, handle_apply_template, IN_TEMPLATE, "\"messages\"", NULL, NULL,
     "/apply-template", "messages as the prompt that the model sees"},
    {"/version", HTTP_M_GET, handle_ollama_version, 0, NULL, NULL, NULL, "/version", "the version"},
    {"/props", HTTP_M_GET, handle_props, 0, NULL, NULL, NULL, "/props",
     "facts of server and model, as llama-server tells them"},
    {"/slots", HTTP_M_GET, handle_slots, 0, NULL, NULL, NULL, "/slots",
     "what runs; ?fail_on_no_slot=1 gives 503 when all are taken"},
    {"/openapi.json", HTTP_M_GET, handle_openapi, 0, NULL, NULL, NULL, "/openapi.json",
     "this API, as OpenAPI 3.1"},
    {"/", HTTP_M_GET, handle_page, 0, NULL, NULL, "text/html; charset=utf-8", "/",
     "a page to talk to the model"},
};

const size_t api_n_routes = sizeof(api_routes) / sizeof(*api_routes);

static bool route_is(const struct route *r, const char *path)
{
    size_t n = strlen(r->path);
    return n > 1 && r->path[n - 1] == '/' ? !strncmp(path, r->path, n) : !strcmp(path, r->path);
}

static bool has_route(const char *path)
{
    for (size_t i = 0; i < api_n_routes; i++)
        if (route_is(&api_routes[i], path))
            return true;
    return false;
}

static const char *method_name(enum http_method m)
{
    return m == HTTP_M_GET ? "GET, HEAD" : m == HTTP_M_DELETE ? "DELETE" : "POST";
}

/* The route of path and method; NULL: none, and `allow` lists the methods of the path. */
static const struct route *find_route(const char *path, enum http_method method, char *allow, size_t n)
{
    size_t at = 0;
    *allow = 0;
    for (size_t i = 0; i < api_n_routes; i++) {
        const struct route *r = &api_routes[i];
        if (!route_is(r, path))
            continue;
        if (r->method == method || (r->method == HTTP_M_GET && method == HTTP_M_HEAD))
            return r;
        at += (size_t)snprintf(allow + at, n - at, "%s%s", at ? ", " : "", method_name(r->method));
    }
    return NULL;
}

const char *api_route(const char *path, enum http_method method)
{
    char allow[64];
    const struct route *r = find_route(path, method, allow, sizeof(allow));
    for (size_t i = 0; i < api_n_routes && !r; i++)
        if (route_is(&api_routes[i], path))
            r = &api_routes[i];
    return r ? r->openapi_path : NULL;
}

bool api_owns_path(const char *path)
{
    return !strncmp(path, "/v1/", 4) || !strncmp(path, "/api/", 5) || has_route(path);
}

struct api_exchange *api_handle(struct api *a, const struct api_request *req,
                                const struct api_reply_ops *ops, void *reply)
{
    char text[256], allow[64];
    const struct route *route = find_route(req->path, req->method, allow, sizeof(allow));
    const struct reply r = {ops, reply, dialect_of(req->path)};
    if (!route && !*allow) {
        snprintf(text, sizeof(text), "there is no %.120s here", req->path);
        reply_error_full(&r, 404, "not_found", NULL, text, 0, NULL);
        return NULL;
    }
    if (!route) {
        snprintf(text, sizeof(text), "%.120s takes %s", req->path, allow);
        reply_error_full(&r, 405, "method_not_allowed", NULL, text, 0, allow);
        return NULL;
    }
    if (!ready_or_reply(a, &r))
        return NULL;
    return route->handle(a, req, &r);
}

/* --- life ----------------------------------------------------------------------------------------- */

static int open_store(struct api *a, struct err *e)
{
    const struct api_config *cfg = &a->cfg;
    const struct store_config sc = {
        .path = cfg->store_path,
        .max_entries = cfg->store_entries,
        .max_bytes = cfg->store_bytes,
        .max_waiting_bytes = cfg->store_waiting_bytes,
        .metrics = cfg->metrics,
        .wake = cfg->wake,
        .log = cfg->log,
        .host = cfg->host,
    };
    return store_open(&sc, &a->store, e);
}

int api_new(const struct api_config *cfg, struct api **ret, struct err *e)
{
    struct api *a = calloc(1, sizeof(*a));
    if (!a)
        return err_set(e, ERR_NOMEM, "out of memory");
    a->cfg = *cfg;
    a->engine = cfg->engine;
    /* Ids of one start differ from those of the next. */
    if (getrandom(&a->id_seed, sizeof(a->id_seed), GRND_NONBLOCK) != sizeof(a->id_seed))
        a->id_seed = (uint64_t)clock_wall_ns();
    a->started_s = clock_wall_ns() / NS_PER_SEC;
    int r = resumables_new(a, e);
    if (r == 0)
        r = open_store(a, e);
    if (r < 0) {
        resumables_free(a);
        free(a);
        return r;
    }
    *ret = a;
    return 0;
}

void api_stop(struct api *a)
{
    if (a)
        store_close(&a->store);
}

void api_free(struct api **ap)
{
    struct api *a = *ap;
    *ap = NULL;
    if (!a)
        return;
    api_stop(a);
    resumables_free(a);
    api__free_exchanges(a);
    template_free(&a->chat[0]);
    template_free(&a->chat[1]);
    free(a);
}

void api_set_limits(struct api *a, const struct api_config *cfg)
{
    struct api_config now = *cfg;
    now.engine = a->cfg.engine;
    now.metrics = a->cfg.metrics;
    now.model_id = a->cfg.model_id;
    now.chat_template = a->cfg.chat_template;
    a->cfg = now;
}

int api_active(const struct api *a)
{
    return a->n_exchanges;
}
