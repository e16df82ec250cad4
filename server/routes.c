/* server/routes.c - what the server answers itself: health for people and orchestrators.
 *
 *   /livez     the process works: 503 when a step runs longer than step_stall_timeout, or loading failed
 *   /readyz    send traffic: the model is loaded, no drain has begun, the queue is below ready_queue and
 *              ready_queue_age, and no step is stalled
 *   /startupz  loading has ended; until then 503 with the progress
 *   /health    the model is loaded and no drain has begun, in the words that llama.cpp's clients expect
 *   /metrics   in metrics.c */
#include "config.h"

#include <string.h>

#include "base/clock.h"
#include "server/internal.h"

static void reply_status(struct conn *c, int status, const char *text)
{
    char body[512];
    int n = status == 200 ? snprintf(body, sizeof(body), "{\"status\":\"%s\"}", text)
                          : snprintf(body, sizeof(body),
                                     "{\"status\":\"%s\",\"progress\":%.3f,\"error\":{\"message\":\"%s\","
                                     "\"type\":\"unavailable_error\",\"param\":null,\"code\":%d}}",
                                     text, (double)engine_load_progress(c->s->engine), text, status);
    reply_simple(c, status, "application/json", status == 503 ? "Retry-After: 1\r\n" : "", body, (size_t)n);
}

static const char *state_text(const struct server *s)
{
    switch (engine_state(s->engine)) {
    case ENGINE_LOADING:
        return "loading model";
    case ENGINE_READY:
        return s->draining ? "draining" : "ok";
    case ENGINE_FAILED:
        return "the model could not be loaded";
    case ENGINE_DRAINING:
        return "draining";
    case ENGINE_STOPPED:
        return "stopped";
    }
    return "unknown";
}

static bool serves(const struct server *s)
{
    return engine_state(s->engine) == ENGINE_READY && !s->draining;
}

static void health(struct conn *c)
{
    reply_status(c, serves(c->s) ? 200 : 503, state_text(c->s));
}

/* Why nobody should be sent here now, or NULL. Who is sent all the same is still served, or gets a 429. */
static const char *saturation(const struct server *s, char *dst, size_t n)
{
    const struct server_config *c = s->cfg;
    struct engine_counts now;
    engine_counts_read(s->engine, &now);
    /* a queue of 1 has no quarter: some is at least one */
    long long most = (c->max_queue_requests * c->ready_queue + 99) / 100;
    long long most_tokens = (c->max_queue_tokens * c->ready_queue + 99) / 100;
    if (c->ready_queue && now.waiting >= most)
        snprintf(dst, n, "saturated: %d requests wait, ready_queue allows fewer than %lld", now.waiting,
                 most);
    else if (c->ready_queue && now.waiting_tokens >= most_tokens)
        snprintf(dst, n, "saturated: %lld prompt tokens wait, ready_queue allows fewer than %lld",
                 (long long)now.waiting_tokens, most_tokens);
    else if (c->ready_queue_age && now.longest_wait_ns >= c->ready_queue_age * NS_PER_MS)
        snprintf(dst, n, "saturated: a request has waited for %.1f s, ready_queue_age is %.1f s",
                 (double)now.longest_wait_ns / 1e9, (double)c->ready_queue_age / 1e3);
    else
        return NULL;
    return dst;
}

static void ready(struct conn *c)
{
    char text[160];
    const char *why = !serves(c->s)             ? state_text(c->s)
                      : step_is_stalled(c->s)   ? "a step is stalled"
                                                : saturation(c->s, text, sizeof(text));
    reply_status(c, why ? 503 : 200, why ? why : "ok");
}

bool step_is_stalled(const struct server *s)
{
    return engine_step_age_ns(s->engine) > s->cfg->step_stall_timeout * NS_PER_MS;
}

static void live(struct conn *c)
{
    bool stalled = step_is_stalled(c->s);
    bool failed = engine_state(c->s->engine) == ENGINE_FAILED;
    const char *text = stalled ? "a step is stalled" : failed ? state_text(c->s) : "ok";
    reply_status(c, stalled || failed ? 503 : 200, text);
}

static void startup(struct conn *c)
{
    enum engine_state st = engine_state(c->s->engine);
    bool ok = st != ENGINE_LOADING && st != ENGINE_FAILED;
    reply_status(c, ok ? 200 : 503, ok ? "ok" : state_text(c->s));
}

static const struct route {
    const char *path, *name; /* name: the handler label of metrics */
    void (*handle)(struct conn *c); /* NULL: the API's */
} routes[] = {
    {"/health", "health", health},
    {"/livez", "health", live},
    {"/readyz", "health", ready},
    {"/startupz", "health", startup},
    {"/metrics", "metrics", metrics_answer},
    {"/v1/completions", "completions", NULL},
    {"/v1/chat/completions", "chat", NULL},
    {"/completion", "completions", NULL},
    {"/completions", "completions", NULL},
    {"/infill", "completions", NULL},
    {"/v1/models", "models", NULL},
    {"/v1/cache", "cache", NULL},
    {"/v1/cache/save", "cache", NULL},
    {"/v1/cache/restore", "cache", NULL},
    {"/v1/cache/pin", "cache", NULL},
    {"/v1/cache/unpin", "cache", NULL},
    {"/v1/responses", "responses", NULL},
    {"/v1/responses/input_tokens", "tokenize", NULL},
    {"/v1/messages", "messages", NULL},
    {"/v1/messages/count_tokens", "tokenize", NULL},
    {"/v1/embeddings", "embeddings", NULL},
    {"/api/generate", "ollama", NULL},
    {"/api/chat", "ollama", NULL},
    {"/api/embed", "embeddings", NULL},
    {"/api/embeddings", "embeddings", NULL},
    {"/api/tags", "models", NULL},
    {"/api/ps", "models", NULL},
    {"/api/show", "models", NULL},
    {"/v1/tokenize", "tokenize", NULL},
    {"/v1/detokenize", "tokenize", NULL},
    {"/apply-template", "tokenize", NULL},
    {"/tokenize", "tokenize", NULL},
    {"/detokenize", "tokenize", NULL},
};

static const struct route *find(const char *path)
{
    for (size_t i = 0; i < sizeof(routes) / sizeof(*routes); i++)
        if (!strcmp(routes[i].path, path))
            return &routes[i];
    return NULL;
}

const char *handler_name(const char *path)
{
    const struct route *r = find(path);
    if (r)
        return r->name;
    return !strncmp(path, "/v1/models/", 11)      ? "models"
           : !strncmp(path, "/v1/responses/", 14) ? "responses"
           : !strncmp(path, "/v1/streams/", 12)   ? "streams"
                                                  : "other";
}

const char *route_name(const struct conn *c)
{
    const struct route *r = find(c->path);
    return r ? r->path : api_route(c->path, conn_method(c));
}

void route_request(struct conn *c)
{
    static const char get_only[] = "Allow: GET, HEAD\r\n";
    const struct route *r = find(c->path);
    struct buf body;
    if (r && r->handle && (c->parser.method == HTTP_GET || c->parser.method == HTTP_HEAD)) {
        r->handle(c);
        return;
    }
    char text[200];
    int status = r ? 405 : 404;
    if (r)
        snprintf(text, sizeof(text), "%s answers GET and HEAD only", c->path);
    else
        snprintf(text, sizeof(text),
                 "there is nothing at this path; the API is below /v1/, and /openapi.json lists it");
    buf_init(&body, 4096);
    (void)api_error_body(status, c->path, text, &body);
    reply_simple(c, status, "application/json", r ? get_only : "", body.data ? body.data : "", body.n_bytes);
    buf_done(&body);
}
