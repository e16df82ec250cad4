/* api/anthropic.c - POST /v1/messages and /v1/messages/count_tokens, in Anthropic's shape. A request
 * becomes a chat (anthropic_chat.c); its answer is written as blocks: thoughts, text and uses of tools in
 * their order. */
#include "config.h"

#include <string.h>

#include "api/internal.h"

static const char *stop_reason(const struct choice *c)
{
    if (c->finish == FINISH_LENGTH)
        return "max_tokens";
    if (c->parts.n_calls > 0)
        return "tool_use";
    return c->stop_string ? "stop_sequence" : c->finish == FINISH_REPETITION ? "repetition" : "end_turn";
}

static void usage(const struct api_exchange *x, struct jw *w)
{
    jw_printf(
        w,
        "\"usage\":{\"input_tokens\":%d,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":%d,"
        "\"output_tokens\":%d}",
        x->prompt_tokens - x->cached_tokens, x->cached_tokens, x->completion_tokens);
}

static void head(const struct api_exchange *x, struct jw *w)
{
    jw_printf(w, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", x->id);
    jw_cstring(w, api_model_name(x->a));
}

/* Blocks that clients did not ask for are not told: thoughts. */
static bool shown(const struct api_exchange *x, const struct part *p)
{
    return p->kind != PART_REASONING || x->p.include_reasoning;
}

static void opening(struct api_exchange *x, struct jw *w)
{
    x->prompt_tokens = (int)x->prompts[0].ids.n; /* told at once; set again at the end */
    jw_raw(w, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":");
    head(x, w);
    jw_raw(w, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,");
    usage(x, w);
    jw_raw(w, "}}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n");
    x->prompt_tokens = 0;
}

static void block_start(const struct part *p, int index, struct jw *w)
{
    jw_printf(w, "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":%d,", index);
    if (p->kind == PART_TEXT) {
        jw_raw(w, "\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n");
    } else if (p->kind == PART_REASONING) {
        jw_raw(w, "\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\n");
    } else {
        jw_raw(w, "\"content_block\":{\"type\":\"tool_use\",\"id\":");
        jw_cstring(w, p->id);
        jw_raw(w, ",\"name\":");
        jw_cstring(w, p->name);
        jw_raw(w, ",\"input\":{}}}\n\n");
    }
}

static void block_delta(const struct part *p, int index, struct jw *w)
{
    static const char *const types[][2] = {
        [PART_TEXT] = {"text_delta", "text"},
        [PART_REASONING] = {"thinking_delta", "thinking"},
        [PART_CALL] = {"input_json_delta", "partial_json"},
    };
    jw_printf(w, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":%d,", index);
    jw_printf(w, "\"delta\":{\"type\":\"%s\",\"%s\":\"", types[p->kind][0], types[p->kind][1]);
    jw_bytes(w, p->text.b.data + p->told, p->text.b.n_bytes - p->told);
    jw_raw(w, "\"}}\n\n");
}

static void chunk(struct api_exchange *x, struct choice *c, bool final, struct jw *w)
{
    int index = 0;
    (void)final; /* by then every part is closed */
    for (int i = 0; i < c->parts.n; i++) {
        struct part *p = &c->parts.list[i];
        if (!shown(x, p))
            continue;
        if (!p->opened)
            block_start(p, index, w);
        if (p->text.b.n_bytes > p->told)
            block_delta(p, index, w);
        if (p->closed && !p->over) {
            jw_printf(w,
                      "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":%d}\n\n",
                      index);
            p->over = true;
        }
        index++;
    }
}

static void write_stop(const struct choice *c, struct jw *w)
{
    jw_printf(w, "\"stop_reason\":\"%s\",\"stop_sequence\":", stop_reason(c));
    jw_cstring(w, c->stop_string);
}

static void closing(struct api_exchange *x, struct jw *w)
{
    jw_raw(w, "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{");
    write_stop(&x->choices[0], w);
    jw_raw(w, "},");
    usage(x, w);
    jw_raw(w, "}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
}

static void failed(struct api_exchange *x, const struct err *e, struct jw *w)
{
    jw_raw(w, "event: error\ndata: ");
    error_json(w, x->reply.dialect, error_status(e), NULL, NULL, e->text);
    jw_raw(w, "\n\n");
}

static void whole(struct api_exchange *x, struct jw *w)
{
    const struct choice *c = &x->choices[0];
    bool any = false;
    head(x, w);
    jw_raw(w, ",\"content\":[");
    for (int i = 0; i < c->parts.n; i++) {
        const struct part *p = &c->parts.list[i];
        if (!shown(x, p))
            continue;
        jw_raw(w, any ? "," : "");
        any = true;
        if (p->kind == PART_CALL) {
            jw_raw(w, "{\"type\":\"tool_use\",\"id\":");
            jw_cstring(w, p->id);
            jw_raw(w, ",\"name\":");
            jw_cstring(w, p->name);
            jw_raw(w, ",\"input\":");
            write_arguments(p, w);
            jw_raw(w, "}");
        } else {
            jw_raw(w, p->kind == PART_TEXT ? "{\"type\":\"text\",\"text\":\""
                                           : "{\"type\":\"thinking\",\"signature\":\"\",\"thinking\":\"");
            jw_join(w, &p->text);
            jw_raw(w, "\"}");
        }
    }
    jw_raw(w, "],");
    write_stop(c, w);
    jw_raw(w, ",");
    usage(x, w);
    jw_raw(w, "}");
}

static void counted(struct api_exchange *x)
{
    struct jw *w = &x->out;
    jw_reset(w);
    jw_printf(w, "{\"input_tokens\":%zu}", x->prompts[0].ids.n);
    x->prompt_tokens = x->cached_tokens = x->completion_tokens = -1; /* no generation, for the log */
    exchange_finish(x, w);
}

static const struct answer_ops message_ops = {
    .id_prefix = "msg_",
    .call_prefix = "toolu_",
    .keepalive = "event: ping\ndata: {\"type\":\"ping\"}\n\n",
    .assistant = true,
    .opening = opening,
    .chunk = chunk,
    .closing = closing,
    .failed = failed,
    .whole = whole,
};

static const struct answer_ops count_ops = {.id_prefix = "msg_", .tokenized = counted};

static struct api_exchange *handle(struct api *a, const struct api_request *req, const struct reply *r,
                                   enum field_where where, const struct answer_ops *ops)
{
    struct params p;
    struct err e = {0};
    if (params_read(&a->cfg, where, req->body, req->body_bytes, &p, &e) < 0) {
        reply_error(r, a, &e);
        return NULL;
    }
    struct api_exchange *x = exchange_new(a, r, req, &p, 1, ops);
    if (!x)
        return NULL;
    int n = check_model(a, &x->p, &e);
    if (n == 0)
        n = anthropic_to_chat(&x->p, &e);
    if (n == 0)
        n = chat_prompt(a, x, &e);
    return exchange_start_if(x, n, &e);
}

struct api_exchange *handle_messages(struct api *a, const struct api_request *req, const struct reply *r)
{
    return handle(a, req, r, IN_MESSAGES, &message_ops);
}

struct api_exchange *handle_count_tokens(struct api *a, const struct api_request *req, const struct reply *r)
{
    return handle(a, req, r, IN_COUNT, &count_ops);
}
