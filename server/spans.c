/* server/spans.c - what a trace tells of a request: one span for all of it, and below that one each for its
 * waiting, its prompt and its tokens.
 *
 * Names are those of OpenTelemetry's conventions for HTTP and generative models; times that these have no
 * name for have vLLM's (gen_ai.latency.*), what only we have begins with latentd. No span holds a word of a
 * prompt or an answer. Health and metrics are not traced. */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "server/internal.h"
#include "server/json.h"
#include "server/traces.h"

#define SPANS_MAX 65536 /* bytes of one request's */
#define PATH_TOLD 256

enum span_kind { INTERNAL = 1, SERVER = 2 };

/* --- the trace that it belongs to ----------------------------------------------------------------- */

void trace_header(struct conn *c, const char *name, const char *value)
{
    if (!traces_on(c->s->traces))
        return;
    if (!strcasecmp(name, "traceparent"))
        (void)trace_read_parent(&c->trace, value); /* a malformed one is none (Trace Context, 3.2) */
    else if (!strcasecmp(name, "tracestate"))
        trace_read_state(&c->trace, value);
}

static void write_id(char *dst, const unsigned char *bytes, int n)
{
    for (int i = 0; i < n; i++)
        snprintf(dst + 2 * i, 3, "%02x", bytes[i]);
}

void trace_begin(struct conn *c)
{
    struct trace_context *t = &c->trace;
    unsigned char id[24];
    uint64_t draw;
    const char *handler = c->path ? handler_name(c->path) : "other";
    if (!traces_on(c->s->traces) || !strcmp(handler, "health") || !strcmp(handler, "metrics") ||
        uv_random(NULL, NULL, id, sizeof(id), 0, NULL) < 0) {
        trace_reset(t);
        return;
    }
    if (!t->given) {
        t->state[0] = 0;
        write_id(t->trace_id, id, 16);
        memcpy(&draw, id + 8, sizeof(draw));
        t->sampled = traces_sample(c->s->traces, draw);
    }
    write_id(t->span_id, id + 16, 8);
}

int trace_answer_headers(const struct conn *c, struct buf *out)
{
    const struct trace_context *t = &c->trace;
    return t->span_id[0] ? buf_printf(out, "traceresponse: 00-%s-%s-%02x\r\n", t->trace_id, t->span_id,
                                      t->sampled)
                         : 0;
}

/* --- JSON ----------------------------------------------------------------------------------------- */

/* Spans being written; an error stays, and writes nothing more. */
struct spans {
    struct buf b;
    int error, n, n_attributes;
    const struct trace_context *trace;
    int64_t to_wall_ns; /* added to the monotonic clock */
};

static void put(struct spans *s, const char *text)
{
    s->error = s->error ? s->error : buf_puts(&s->b, text);
}

static void attribute(struct spans *s, const char *name)
{
    if (s->error == 0)
        s->error = buf_printf(&s->b, "%s{\"key\":\"%s\",\"value\":", s->n_attributes++ ? "," : "", name);
}

static void put_text(struct spans *s, const char *name, const char *value, size_t n_bytes)
{
    attribute(s, name);
    put(s, "{\"stringValue\":");
    s->error = s->error ? s->error : json_string(&s->b, value, n_bytes);
    put(s, "}}");
}

static void put_string(struct spans *s, const char *name, const char *value)
{
    put_text(s, name, value, strlen(value));
}

static void put_int(struct spans *s, const char *name, long long value)
{
    attribute(s, name);
    if (s->error == 0)
        s->error = buf_printf(&s->b, "{\"intValue\":\"%lld\"}}", value);
}

static void put_double(struct spans *s, const char *name, double value)
{
    attribute(s, name);
    if (s->error == 0)
        s->error = buf_printf(&s->b, "{\"doubleValue\":%.9g}}", value);
}

static void put_seconds(struct spans *s, const char *name, int64_t ns)
{
    put_double(s, name, (double)ns / 1e9);
}

/* Up to its attributes. parent: "" for none. */
static void begin_span(struct spans *s, const char *name, enum span_kind kind, const char *id,
                       const char *parent, int64_t begin_ns, int64_t end_ns)
{
    const struct trace_context *t = s->trace;
    bool remote = kind == SERVER && t->given;
    s->n_attributes = 0;
    put(s, s->n++ ? ",{\"traceId\":\"" : "{\"traceId\":\"");
    put(s, t->trace_id);
    put(s, "\",\"spanId\":\"");
    put(s, id);
    if (*parent) {
        put(s, "\",\"parentSpanId\":\"");
        put(s, parent);
    }
    put(s, "\",\"traceState\":");
    s->error = s->error ? s->error : json_string(&s->b, t->state, strlen(t->state));
    if (s->error == 0) /* flags: sampled; whether the parent is elsewhere is known, and whether it is */
        s->error = buf_printf(&s->b, ",\"flags\":%d,\"name\":\"%s\",\"kind\":%d,"
                                     "\"startTimeUnixNano\":\"%lld\",\"endTimeUnixNano\":\"%lld\","
                                     "\"attributes\":[",
                              remote ? 0x301 : 0x101, name, (int)kind, (long long)(begin_ns + s->to_wall_ns),
                              (long long)(end_ns + s->to_wall_ns));
}

static void end_span(struct spans *s, bool failed)
{
    put(s, failed ? "],\"status\":{\"code\":2}}" : "],\"status\":{}}");
}

/* --- the spans of a request ----------------------------------------------------------------------- */

static const char *operation(const char *route)
{
    static const char *const chats[] = {"/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat"};
    if (strstr(route, "embed"))
        return "embeddings";
    for (size_t i = 0; i < sizeof(chats) / sizeof(*chats); i++)
        if (!strcmp(route, chats[i]))
            return "chat";
    return "text_completion";
}

static void put_http(struct spans *s, const struct conn *c, const char *method, const char *route)
{
    char client[PEER_TEXT];
    conn_client(c, client, sizeof(client));
    put_string(s, "http.request.method", method);
    if (route)
        put_string(s, "http.route", route);
    if (c->path)
        put_text(s, "url.path", c->path, strnlen(c->path, PATH_TOLD));
    put_string(s, "url.scheme", c->tls ? "https" : "http");
    put_string(s, "client.address", client);
    put_string(s, "network.protocol.version", c->http10 ? "1.0" : "1.1");
    put_int(s, "http.response.status_code", c->log.status);
    put_int(s, "http.response.body.size", (long long)c->log.bytes);
}

static void put_generation(struct spans *s, const struct conn *c, const char *route, int64_t end_ns)
{
    const struct api_log_facts *f = &c->log.facts;
    const struct api_stages *g = &f->stages;
    const char *what = operation(route);
    bool generates = strcmp(what, "embeddings") != 0;
    put_string(s, "gen_ai.operation.name", what);
    put_string(s, "gen_ai.provider.name", "latentd");
    put_string(s, "gen_ai.request.id", c->request_id);
    if (f->asked.model[0])
        put_string(s, "gen_ai.request.model", f->asked.model);
    put_string(s, "gen_ai.response.model", engine_info(c->s->engine)->model_id);
    if (generates) {
        put_int(s, "gen_ai.request.n", f->asked.n);
        put_int(s, "gen_ai.request.max_tokens", f->asked.max_tokens);
        put_double(s, "gen_ai.request.temperature", f->asked.temperature);
        put_double(s, "gen_ai.request.top_p", f->asked.top_p);
        put_int(s, "gen_ai.usage.output_tokens", f->completion_tokens);
    }
    put_int(s, "gen_ai.usage.input_tokens", f->prompt_tokens);
    put_int(s, "gen_ai.usage.cache_read.input_tokens", f->cached_tokens);
    if (f->finish) {
        attribute(s, "gen_ai.response.finish_reasons");
        put(s, "{\"arrayValue\":{\"values\":[{\"stringValue\":\"");
        put(s, f->finish);
        put(s, "\"}]}}}");
    }
    put_seconds(s, "gen_ai.latency.e2e", end_ns - c->log.begin_ns);
    if (!g->submitted_ns)
        return;
    if (g->ran_ns >= 0)
        put_seconds(s, "gen_ai.latency.time_in_queue", g->ran_ns);
    if (g->first_ns >= 0) {
        put_seconds(s, "gen_ai.latency.time_to_first_token", g->first_ns);
        put_seconds(s, "gen_ai.latency.time_in_model_prefill", g->first_ns - g->ran_ns);
        put_seconds(s, "gen_ai.latency.time_in_model_decode", g->last_ns - g->first_ns);
        put_seconds(s, "gen_ai.latency.time_in_model_inference", g->last_ns - g->ran_ns);
    }
    put_int(s, "latentd.preemptions", g->preemptions);
    if (g->preemptions)
        put_seconds(s, "latentd.time_preempted", g->preempted_ns);
}

/* A span below the request's; [from, to) from submission, within the request. */
static void stage(struct spans *s, const char *name, int number, int64_t submitted_ns, int64_t from,
                  int64_t to, int64_t end_ns)
{
    char id[17];
    unsigned long long own = strtoull(s->trace->span_id, NULL, 16) + (unsigned long long)number;
    snprintf(id, sizeof(id), "%016llx", own ? own : 4); /* 0 is no id */
    int64_t end = to >= 0 && submitted_ns + to < end_ns ? submitted_ns + to : end_ns;
    int64_t begin = submitted_ns + from < end ? submitted_ns + from : end;
    begin_span(s, name, INTERNAL, id, s->trace->span_id, begin, end);
}

static void put_stages(struct spans *s, const struct conn *c, int64_t end_ns)
{
    const struct api_log_facts *f = &c->log.facts;
    const struct api_stages *g = &f->stages;
    stage(s, "queue", 1, g->submitted_ns, 0, g->ran_ns, end_ns);
    end_span(s, false);
    if (g->ran_ns < 0)
        return;
    stage(s, "prefill", 2, g->submitted_ns, g->ran_ns, g->first_ns, end_ns);
    put_int(s, "gen_ai.usage.input_tokens", f->prompt_tokens);
    put_int(s, "gen_ai.usage.cache_read.input_tokens", f->cached_tokens);
    end_span(s, false);
    if (g->first_ns < 0)
        return;
    stage(s, "decode", 3, g->submitted_ns, g->first_ns, g->last_ns, end_ns);
    put_int(s, "gen_ai.usage.output_tokens", f->completion_tokens);
    end_span(s, false);
}

void trace_write(const struct conn *c)
{
    const struct trace_context *t = &c->trace;
    const struct request_log *l = &c->log;
    struct traces *traces = c->s->traces;
    if (!t->sampled || !t->span_id[0] || !traces_on(traces))
        return;
    int64_t end_ns = clock_now_ns();
    struct spans s = {.trace = t, .to_wall_ns = clock_wall_ns() - end_ns};
    const char *method = c->path ? llhttp_method_name(c->parser.method) : "_OTHER";
    const char *route = c->path ? route_name(c) : NULL;
    bool generated = l->facts.prompt_tokens >= 0 && route;
    bool failed = l->status >= 500;
    char name[96];
    buf_init(&s.b, SPANS_MAX);
    snprintf(name, sizeof(name), "%s%s%s", c->path ? method : "HTTP", route ? " " : "", route ? route : "");
    begin_span(&s, name, SERVER, t->span_id, t->parent_id, l->begin_ns, end_ns);
    put_http(&s, c, method, route);
    if (failed) {
        char type[8];
        snprintf(type, sizeof(type), "%d", l->status);
        put_string(&s, "error.type", type);
    }
    if (access_key_name(c))
        put_string(&s, "latentd.key", access_key_name(c));
    if (generated)
        put_generation(&s, c, route, end_ns);
    end_span(&s, failed);
    if (generated && l->facts.stages.submitted_ns)
        put_stages(&s, c, end_ns);
    if (s.error < 0) {
        buf_done(&s.b);
        traces_lost(traces);
        return;
    }
    traces_add(traces, &s.b, s.n);
}
