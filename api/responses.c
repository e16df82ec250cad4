/* api/responses.c - POST /v1/responses: the object, its items of output, and the events of its stream.
 * Retrieving and the rest: responses_kept.c. */
#include "config.h"

#include "api/responses.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/json_read.h"

/* --- the object ------------------------------------------------------------------------------------- */

static void write_json(const cJSON *v, const char *otherwise, struct jw *w)
{
    char *text = v ? cJSON_PrintUnformatted(v) : NULL;
    if (v && !text && !w->err)
        w->err = ERR_NOMEM;
    jw_raw(w, text ? text : otherwise);
    cJSON_free(text);
}

static void write_field(const struct api_exchange *x, const char *name, const char *otherwise, struct jw *w)
{
    jw_printf(w, ",\"%s\":", name);
    write_json(json_get(x->p.root, name), otherwise, w); /* null asks for nothing */
}

static void item_id(const struct api_exchange *x, const struct part *p, int index, struct jw *w)
{
    static const char *const prefixes[] = {[PART_TEXT] = "msg", [PART_REASONING] = "rs", [PART_CALL] = "fc"};
    jw_printf(w, "\"%s_%s_%d\"", prefixes[p->kind], x->id + strlen("resp_"), index);
}

static void write_part(const struct part *p, bool empty, struct jw *w)
{
    jw_raw(w, p->kind == PART_TEXT
                  ? "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\""
                  : "{\"type\":\"reasoning_text\",\"text\":\"");
    if (!empty)
        jw_join(w, &p->text);
    jw_raw(w, "\"}");
}

/* One item of output; begun: as it is when nothing of it is told. */
static void write_item(const struct api_exchange *x, const struct part *p, int index, bool begun,
                       struct jw *w)
{
    const struct choice *c = &x->choices[0];
    bool cut = c->done ? c->finish != FINISH_STOP : !p->closed; /* not done: it failed */
    const char *status = begun                            ? "in_progress"
                         : cut && index == c->parts.n - 1 ? "incomplete"
                                                          : "completed";
    jw_raw(w, "{\"id\":");
    item_id(x, p, index, w);
    if (p->kind == PART_CALL) {
        jw_printf(w, ",\"type\":\"function_call\",\"status\":\"%s\",\"call_id\":", status);
        jw_cstring(w, p->id);
        jw_raw(w, ",\"name\":");
        jw_cstring(w, p->name);
        jw_raw(w, ",\"arguments\":\"");
        if (!begun)
            jw_join(w, &p->text);
        jw_raw(w, "\"}");
        return;
    }
    if (p->kind == PART_TEXT)
        jw_printf(w, ",\"type\":\"message\",\"role\":\"assistant\",\"status\":\"%s\",\"content\":[", status);
    else
        jw_printf(w, ",\"type\":\"reasoning\",\"status\":\"%s\",\"summary\":[],\"content\":[", status);
    if (!begun)
        write_part(p, false, w);
    jw_raw(w, "]}");
}

static void write_output(const struct api_exchange *x, struct jw *w)
{
    const struct parts *parts = &x->choices[0].parts;
    jw_raw(w, "[");
    for (int i = 0; i < parts->n; i++) {
        jw_raw(w, i ? "," : "");
        write_item(x, &parts->list[i], i, false, w);
    }
    jw_raw(w, "]");
}

static const char *end_status(const struct api_exchange *x)
{
    switch (x->choices[0].finish) {
    case FINISH_STOP:
        return "completed";
    case FINISH_ABORT:
        return "cancelled";
    case FINISH_ERROR:
        return "failed";
    default:
        return "incomplete";
    }
}

void write_response(struct api_exchange *x, const char *status, const struct err *failure, struct jw *w)
{
    const char *is = status ? status : failure ? "failed" : end_status(x);
    bool over = !status;
    jw_printf(
        w,
        "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"background\":%s",
        x->id, (long long)x->created, is, x->p.background ? "true" : "false");
    jw_raw(w, ",\"error\":");
    if (failure) {
        jw_printf(w, "{\"code\":\"%s\",\"message\":",
                  failure->code == ERR_BUSY ? "rate_limit_exceeded" : "server_error");
        jw_cstring(w, failure->text);
        jw_raw(w, "}");
    } else {
        jw_raw(w, "null");
    }
    jw_raw(w, ",\"incomplete_details\":");
    if (!strcmp(is, "incomplete"))
        jw_printf(w, "{\"reason\":\"%s\"}",
                  x->choices[0].finish == FINISH_LENGTH ? "max_output_tokens" : "repetition");
    else
        jw_raw(w, "null");
    jw_raw(w, ",\"model\":");
    jw_cstring(w, api_model_name(x->a));
    jw_raw(w, ",\"output\":");
    if (over)
        write_output(x, w);
    else
        jw_raw(w, "[]");
    write_field(x, "instructions", "null", w);
    write_field(x, "max_output_tokens", "null", w);
    write_field(x, "parallel_tool_calls", "true", w);
    write_field(x, "previous_response_id", "null", w);
    write_field(x, "reasoning", "{\"effort\":null,\"summary\":null}", w);
    write_field(x, "temperature", "1", w);
    write_field(x, "top_p", "1", w);
    write_field(x, "text", "{\"format\":{\"type\":\"text\"}}", w);
    write_field(x, "tool_choice", "\"auto\"", w);
    write_field(x, "tools", "[]", w);
    write_field(x, "metadata", "{}", w);
    write_field(x, "user", "null", w);
    jw_printf(w, ",\"store\":%s,\"service_tier\":\"default\",\"truncation\":\"disabled\",\"usage\":",
              x->p.store ? "true" : "false");
    if (over) {
        /* who fails is told no count at its end */
        int n_prompt = x->n_done ? x->prompt_tokens : (int)x->prompts[0].ids.n;
        jw_printf(
            w, "{\"input_tokens\":%d,\"input_tokens_details\":{\"cached_tokens\":%d},\"output_tokens\":%d,",
            n_prompt, x->cached_tokens, x->completion_tokens);
        jw_printf(w, "\"output_tokens_details\":{\"reasoning_tokens\":%d},\"total_tokens\":%d}",
                  x->reasoning_tokens, n_prompt + x->completion_tokens);
    } else {
        jw_raw(w, "null");
    }
    jw_raw(w, "}");
}

/* Keeps what is over for those who ask again. A store that fails keeps nothing, and tells so; the answer
 * stands. */
static void keep(struct api_exchange *x, const struct jw *body)
{
    struct response *own = x->extra;
    char *items = x->p.store && !own->kept ? cJSON_PrintUnformatted(own->items) : NULL;
    own->kept = true;
    if (items && body->err == 0)
        store_put(x->a->store, x->id, x->client, body->b.data, items);
    cJSON_free(items);
}

static void whole(struct api_exchange *x, struct jw *w)
{
    write_response(x, NULL, NULL, w);
    keep(x, w);
}

/* --- the stream ------------------------------------------------------------------------------------- */

/* event: NAME, data: {"type":"NAME","sequence_number":N */
static void event(struct api_exchange *x, const char *name, struct jw *w)
{
    struct response *own = x->extra;
    jw_printf(w, "event: response.%s\ndata: {\"type\":\"response.%s\",\"sequence_number\":%d", name, name,
              own->sequence++);
}

static void event_end(struct jw *w)
{
    jw_raw(w, "}\n\n");
}

static void response_event(struct api_exchange *x, const char *name, const char *status,
                           const struct err *e, struct jw *w)
{
    event(x, name, w);
    jw_raw(w, ",\"response\":");
    write_response(x, status, e, w);
    event_end(w);
}

static void opening(struct api_exchange *x, struct jw *w)
{
    response_event(x, "created", "in_progress", NULL, w);
    response_event(x, "in_progress", "in_progress", NULL, w);
}

static void where(const struct api_exchange *x, const struct part *p, int i, struct jw *w)
{
    jw_raw(w, ",\"item_id\":");
    item_id(x, p, i, w);
    jw_printf(w, ",\"output_index\":%d", i);
    if (p->kind != PART_CALL)
        jw_raw(w, ",\"content_index\":0");
}

static void item_event(struct api_exchange *x, const struct part *p, int i, bool begun, struct jw *w)
{
    event(x, begun ? "output_item.added" : "output_item.done", w);
    jw_printf(w, ",\"output_index\":%d,\"item\":", i);
    write_item(x, p, i, begun, w);
    event_end(w);
}

static void part_event(struct api_exchange *x, const struct part *p, int i, bool begun, struct jw *w)
{
    event(x, begun ? "content_part.added" : "content_part.done", w);
    where(x, p, i, w);
    jw_raw(w, ",\"part\":");
    write_part(p, begun, w);
    event_end(w);
}

static void text_event(struct api_exchange *x, const struct part *p, int i, bool done, struct jw *w)
{
    static const char *const names[][2] = {
        [PART_TEXT] = {"output_text.delta", "output_text.done"},
        [PART_REASONING] = {"reasoning_text.delta", "reasoning_text.done"},
        [PART_CALL] = {"function_call_arguments.delta", "function_call_arguments.done"},
    };
    size_t from = done ? 0 : p->told;
    event(x, names[p->kind][done], w);
    where(x, p, i, w);
    if (p->kind == PART_TEXT)
        jw_raw(w, ",\"logprobs\":[]");
    if (p->kind == PART_CALL && done) {
        jw_raw(w, ",\"name\":");
        jw_cstring(w, p->name);
    }
    jw_printf(w, ",\"%s\":\"", !done ? "delta" : p->kind == PART_CALL ? "arguments" : "text");
    if (p->text.b.n_bytes > from)
        jw_bytes(w, p->text.b.data + from, p->text.b.n_bytes - from);
    jw_raw(w, "\"");
    event_end(w);
}

static void chunk(struct api_exchange *x, struct choice *c, bool final, struct jw *w)
{
    (void)final; /* by then every part is closed */
    for (int i = 0; i < c->parts.n; i++) {
        struct part *p = &c->parts.list[i];
        if (p->over)
            continue;
        if (!p->opened) {
            item_event(x, p, i, true, w);
            if (p->kind != PART_CALL)
                part_event(x, p, i, true, w);
        }
        if (p->text.b.n_bytes > p->told)
            text_event(x, p, i, false, w);
        if (!p->closed)
            continue;
        text_event(x, p, i, true, w);
        if (p->kind != PART_CALL)
            part_event(x, p, i, false, w);
        item_event(x, p, i, false, w);
        p->over = true;
    }
}

static void end_event(struct api_exchange *x, const char *name, const struct err *e, struct jw *w)
{
    struct jw body;
    jw_init(&body, API_MAX_ANSWER_BYTES);
    write_response(x, NULL, e, &body);
    keep(x, &body);
    event(x, name, w);
    jw_raw(w, ",\"response\":");
    jw_join(w, &body);
    event_end(w);
    jw_done(&body);
}

static void closing(struct api_exchange *x, struct jw *w)
{
    end_event(x, end_status(x), NULL, w);
}

static void failed(struct api_exchange *x, const struct err *e, struct jw *w)
{
    end_event(x, "failed", e, w);
}

static void freed(struct api_exchange *x)
{
    struct response *own = x->extra;
    if (own)
        cJSON_Delete(own->items);
    free(own);
}

static const struct answer_ops response_ops = {
    .id_prefix = "resp_",
    .assistant = true,
    .keeps_parts = true,
    .opening = opening,
    .chunk = chunk,
    .closing = closing,
    .failed = failed,
    .whole = whole,
    .freed = freed,
};

static void counted(struct api_exchange *x)
{
    struct jw *w = &x->out;
    jw_reset(w);
    jw_printf(w, "{\"object\":\"response.input_tokens\",\"input_tokens\":%zu}", x->prompts[0].ids.n);
    x->prompt_tokens = x->cached_tokens = x->completion_tokens = -1; /* no generation, for the log */
    exchange_finish(x, w);
}

static const struct answer_ops count_ops = {.id_prefix = "count_", .tokenized = counted, .freed = freed};

/* --- the request ------------------------------------------------------------------------------------ */

/* Items of a list move to another. */
static void move_items(cJSON *to, cJSON *from)
{
    for (cJSON *at; from && (at = cJSON_DetachItemFromArray(from, 0));)
        cJSON_AddItemToArray(to, at);
}

/* All items before this request: what the previous response was asked with, and what it said. */
static int previous_items(const char *body, const char *before, cJSON *items)
{
    cJSON *list = cJSON_Parse(before), *response = cJSON_Parse(body);
    int r = list && response ? 0 : ERR_NOMEM; /* we wrote them */
    move_items(items, list);
    move_items(items, cJSON_GetObjectItemCaseSensitive(response, "output"));
    cJSON_Delete(list);
    cJSON_Delete(response);
    return r;
}

/* The chat that the request asks to go on with. body, before: the previous response; NULL: there is none. */
static int gather(struct api_exchange *x, const char *body, const char *before, struct err *e)
{
    struct response *own = x->extra;
    struct params *p = &x->p;
    cJSON *items = own->items = cJSON_CreateArray(), *one = NULL;
    int r = items ? 0 : ERR_NOMEM;
    if (r == 0 && body)
        r = previous_items(body, before, items);
    p->n_items_before = cJSON_GetArraySize(items);
    if (cJSON_IsString(p->prompt)) {
        one = cJSON_CreateObject();
        if (!one || !cJSON_AddStringToObject(one, "type", "message") ||
            !cJSON_AddStringToObject(one, "role", "user") ||
            !cJSON_AddStringToObject(one, "content", p->prompt->valuestring) ||
            !cJSON_AddItemToArray(items, one)) {
            cJSON_Delete(one);
            r = ERR_NOMEM;
        }
    } else {
        cJSON *copy = cJSON_Duplicate(p->prompt, true);
        r = copy ? r : ERR_NOMEM;
        move_items(items, copy);
        cJSON_Delete(copy);
    }
    if (r < 0)
        return err_set(e, r, "out of memory for the request");
    if ((r = responses_to_chat(p, items, e)) < 0)
        return r;
    r = chat_prompt(x->a, x, e);
    if (r < 0 && !strcmp(e->param, "messages")) /* of all of them, or of the template; here they are items */
        snprintf(e->param, sizeof(e->param), "input");
    return r;
}

/* The store has looked for the response that comes before. */
static void on_previous(void *arg, int found, const char *body, const char *items)
{
    struct api_exchange *x = arg;
    struct err e = {0};
    x->offloaded = false;
    if (x->gone) {
        exchange_free_if_over(x);
        return;
    }
    int r = found == 0              ? gather(x, body, items, &e)
            : found == ERR_NOTFOUND ? err_set_param(&e, found, "previous_response_id",
                                                    "previous_response_id: there is no response \"%.100s\"",
                                                    x->p.previous)
                                    : store_failed(found, &e);
    exchange_start_if(x, r, &e); /* the host has it already */
}

static struct api_exchange *handle(struct api *a, const struct api_request *req, const struct reply *r,
                                   const struct answer_ops *ops)
{
    struct params p;
    struct err e = {0};
    if (params_read(&a->cfg, IN_RESPONSES, req->body, req->body_bytes, &p, &e) < 0) {
        reply_error(r, a, &e);
        return NULL;
    }
    struct api_exchange *x = exchange_new(a, r, req, &p, 1, ops);
    if (!x)
        return NULL;
    struct response *own = x->extra = calloc(1, sizeof(*own));
    int n = own ? check_model(a, &x->p, &e) : err_set(&e, ERR_NOMEM, "out of memory for the request");
    if (n == 0 && !x->p.prompt)
        n = err_set_param(&e, ERR_INVAL, "input", "input is missing");
    if (n == 0 && x->p.previous) {
        n = store_get(a->store, x->p.previous, x->client, on_previous, x);
        x->offloaded = n == 0;
        if (n == 0)
            return x;
        n = store_failed(n, &e);
    }
    if (n == 0)
        n = gather(x, NULL, NULL, &e);
    return exchange_start_if(x, n, &e);
}

struct api_exchange *handle_responses(struct api *a, const struct api_request *req, const struct reply *r)
{
    return handle(a, req, r, &response_ops);
}

struct api_exchange *handle_input_tokens(struct api *a, const struct api_request *req, const struct reply *r)
{
    return handle(a, req, r, &count_ops);
}
