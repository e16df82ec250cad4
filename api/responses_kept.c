/* api/responses_kept.c - /v1/responses/{id}: retrieve, delete, cancel, and its items of input. Those that
 * run are found among the exchanges and told at once, for those that are over an exchange waits for what the
 * store says. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/responses.h"
#include "api/resume.h"
#include "base/hex.h"

#define PREFIX "/v1/responses/"
#define MAX_LIST 100

/* The id in the path, which must end with `rest`. */
static bool id_of(const struct api_request *req, const char *rest, char id[160])
{
    const char *s = req->path + strlen(PREFIX);
    size_t n = strlen(s), k = strlen(rest);
    if (n <= k || n - k >= 160 || strcmp(s + n - k, rest) != 0 || memchr(s, '/', n - k))
        return false;
    memcpy(id, s, n - k);
    id[n - k] = 0;
    return true;
}

static void no_such(const struct reply *r, const char *id)
{
    char text[256];
    snprintf(text, sizeof(text), "there is no response \"%.150s\"", id);
    reply_error_full(r, 404, "not_found", "response_id", text, 0, NULL);
}

int store_failed(int code, struct err *e)
{
    if (code == ERR_BUSY) /* not the client's doing: no 429 */
        return err_set(e, ERR_STATE, "too much waits for the store of responses; try again later");
    return err_set(e, code, "the store of responses cannot be read or written");
}

static struct api_exchange *running(const struct api *a, const char *id, uint64_t client)
{
    for (struct api_exchange *x = a->exchanges; x; x = x->next)
        if (x->client == client && x->state == X_RUNNING && !x->gone && x->extra &&
            !strncmp(x->id, "resp_", 5) && !strcmp(x->id, id))
            return x;
    return NULL;
}

static void reply_running(struct api_exchange *x, const struct reply *r, const char *status)
{
    struct jw w;
    jw_init(&w, API_MAX_ANSWER_BYTES);
    write_response(x, status, NULL, &w);
    reply_json(r, 200, &w, NULL);
    jw_done(&w);
}

static void reply_deleted(const struct reply *r, const char *id)
{
    struct jw w;
    jw_init(&w, 4096);
    jw_raw(&w, "{\"id\":");
    jw_cstring(&w, id);
    jw_raw(&w, ",\"object\":\"response\",\"deleted\":true}");
    reply_json(r, 200, &w, NULL);
    jw_done(&w);
}

static void not_streamed(const struct reply *r)
{
    reply_error_full(r, 400, "unsupported", "stream",
                     "this response was not asked for as a resumable stream, or is kept as one no more", 0,
                     NULL);
}

static void reply_text(const struct reply *r, const char *text)
{
    struct jw w;
    jw_init(&w, API_MAX_ANSWER_BYTES);
    jw_raw(&w, text);
    reply_json(r, 200, &w, NULL);
    jw_done(&w);
}

const char *query_value(const struct api_request *req, const char *name)
{
    static char value[160];
    size_t n = strlen(name), k = 0;
    for (const char *s = req->query; s && *s; s = strchr(s, '&') ? strchr(s, '&') + 1 : NULL)
        if (!strncmp(s, name, n) && s[n] == '=') {
            for (s += n + 1; *s && *s != '&' && k < sizeof(value) - 1; s++) {
                int hi = *s == '%' ? hex_value(s[1]) : -1, lo = hi >= 0 ? hex_value(s[2]) : -1;
                value[k++] = lo >= 0 ? (char)(hi * 16 + lo) : *s;
                s += lo >= 0 ? 2 : 0;
            }
            value[k] = 0;
            return value;
        }
    return NULL;
}

/* Its events again. false: this response is no such stream. */
static bool stream_again(struct api *a, const char *id, const struct api_request *req, const struct reply *r,
                         struct api_exchange **ret)
{
    const char *after = *req->last_event_id ? req->last_event_id : query_value(req, "starting_after");
    return resume(a, id, after, req, r, ret);
}

/* Which items of a list are asked for. */
struct page {
    int limit;
    bool ascending, skips; /* skips: all up to the item `after` */
    char after[160];
};

static struct page page_of(const struct api_request *req)
{
    struct page page = {.limit = 20};
    const char *s = query_value(req, "limit");
    if (s)
        page.limit = atoi(s);
    page.limit = page.limit < 1 ? 1 : page.limit > MAX_LIST ? MAX_LIST : page.limit;
    s = query_value(req, "order");
    page.ascending = s && !strcmp(s, "asc");
    if ((s = query_value(req, "after"))) {
        snprintf(page.after, sizeof(page.after), "%s", s);
        page.skips = true;
    }
    return page;
}

/* Takes the list over. NULL: there was no memory for it. */
static void list_items(const struct page *page, const struct reply *r, cJSON *list)
{
    int n = cJSON_GetArraySize(list), shown = 0;
    cJSON *next = !n ? NULL : page->ascending ? list->child : list->child->prev; /* the last */
    bool skipping = page->skips;
    const char *first = NULL, *last = NULL;
    char name[40];
    struct jw w;
    jw_init(&w, API_MAX_ANSWER_BYTES);
    w.err = list ? 0 : ERR_NOMEM;
    jw_raw(&w, "{\"object\":\"list\",\"data\":[");
    int i = 0;
    for (; i < n && shown < page->limit; i++) {
        int at = page->ascending ? i : n - 1 - i;
        cJSON *item = next;
        next = page->ascending ? item->next : item->prev;
        const char *own = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "id"));
        snprintf(name, sizeof(name), "item_%d", at);
        if (skipping) {
            skipping = strcmp(page->after, own ? own : name) != 0;
            continue;
        }
        bool whole = own || cJSON_AddStringToObject(item, "id", name);
        if (whole && !cJSON_HasObjectItem(item, "type"))
            whole = cJSON_AddStringToObject(item, "type", "message") != NULL;
        char *text = whole ? cJSON_PrintUnformatted(item) : NULL;
        if (!text && !w.err)
            w.err = ERR_NOMEM;
        jw_raw(&w, shown ? "," : "");
        jw_raw(&w, text ? text : "null");
        cJSON_free(text);
        last = own ? own : cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "id"));
        first = shown++ ? first : last;
    }
    jw_raw(&w, "],\"first_id\":");
    jw_cstring(&w, first);
    jw_raw(&w, ",\"last_id\":");
    jw_cstring(&w, last);
    jw_printf(&w, ",\"has_more\":%s}", i < n ? "true" : "false");
    reply_json(r, 200, &w, NULL);
    jw_done(&w);
    cJSON_Delete(list);
}

/* --- what the store is asked ------------------------------------------------------------------------ */

/* x->extra of an exchange that asks the store. */
struct question {
    char id[160];
    bool streams;     /* its events are asked for */
    struct page page; /* of its items */
};

static void question_freed(struct api_exchange *x)
{
    free(x->extra);
}

/* The store has answered x: may what it says be told? An error is told here. */
static bool found(struct api_exchange *x, int result)
{
    const struct question *q = x->extra;
    struct err e = {0};
    x->offloaded = false;
    if (x->gone)
        return false;
    x->state = X_ENDED;
    if (result == 0)
        return true;
    if (result == ERR_NOTFOUND)
        no_such(&x->reply, q->id);
    else
        reply_error(&x->reply, x->a, (store_failed(result, &e), &e));
    return false;
}

static void on_response(void *arg, int result, const char *body, const char *items)
{
    struct api_exchange *x = arg;
    const struct question *q = x->extra;
    (void)items;
    if (found(x, result)) {
        if (q->streams)
            not_streamed(&x->reply);
        else
            reply_text(&x->reply, body);
    }
    exchange_free_if_over(x);
}

static void on_items(void *arg, int result, const char *body, const char *items)
{
    struct api_exchange *x = arg;
    const struct question *q = x->extra;
    (void)body;
    if (found(x, result)) {
        if (q->streams)
            not_streamed(&x->reply);
        else
            list_items(&q->page, &x->reply, cJSON_Parse(items));
    }
    exchange_free_if_over(x);
}

static void on_deleted(void *arg, int result, const char *body, const char *items)
{
    struct api_exchange *x = arg;
    const struct question *q = x->extra;
    (void)body, (void)items;
    if (result == 0) /* also where nobody waits for the answer any more */
        (void)resume_delete(x->a, q->id, x->client);
    if (found(x, result))
        reply_deleted(&x->reply, q->id);
    exchange_free_if_over(x);
}

static void on_over(void *arg, int result, const char *body, const char *items)
{
    struct api_exchange *x = arg;
    (void)body, (void)items;
    if (found(x, result))
        reply_error_full(&x->reply, 400, NULL, "response_id", "the response is over: it cannot be cancelled",
                         0, NULL);
    exchange_free_if_over(x);
}

static bool is_true(const char *s)
{
    return s && !strcmp(s, "true");
}

static struct api_exchange *ask(struct api *a, const struct api_request *req, const struct reply *r,
                                const char *id, store_told *told)
{
    static const struct answer_ops ops = {.id_prefix = "question_", .freed = question_freed};
    struct api_exchange *x = exchange_new_plain(a, r, req, &ops);
    struct err e = {0};
    if (!x)
        return NULL;
    struct question *q = x->extra = calloc(1, sizeof(*q));
    int n = q ? 0 : ERR_NOMEM;
    if (n == 0) {
        snprintf(q->id, sizeof(q->id), "%s", id);
        q->streams = is_true(query_value(req, "stream"));
        q->page = page_of(req);
        n = told == on_deleted ? store_delete(a->store, id, x->client, told, x)
                               : store_get(a->store, id, x->client, told, x);
    }
    if (n == 0) {
        x->offloaded = true;
        return x;
    }
    exchange_fail(x, (store_failed(n, &e), &e));
    exchange_free_if_over(x);
    return NULL;
}

struct api_exchange *handle_response_get(struct api *a, const struct api_request *req, const struct reply *r)
{
    char id[160];
    bool input = id_of(req, "/input_items", id);
    bool streams = is_true(query_value(req, "stream"));
    struct api_exchange *x;
    if (!input && !id_of(req, "", id)) {
        no_such(r, req->path + strlen(PREFIX));
        return NULL;
    }
    if (streams && !input && stream_again(a, id, req, r, &x))
        return x;
    x = running(a, id, req->client);
    if (!x)
        return ask(a, req, r, id, input ? on_items : on_response);
    if (streams) {
        not_streamed(r);
    } else if (input) {
        const struct page page = page_of(req);
        list_items(&page, r, cJSON_Duplicate(((struct response *)x->extra)->items, true));
    } else {
        reply_running(x, r, "in_progress");
    }
    return NULL;
}

/* One that runs ends within a step, as if it were cancelled, and is not kept. */
struct api_exchange *handle_response_delete(struct api *a, const struct api_request *req,
                                            const struct reply *r)
{
    char id[160];
    if (!id_of(req, "", id)) {
        no_such(r, req->path + strlen(PREFIX));
        return NULL;
    }
    struct api_exchange *x = running(a, id, req->client);
    if (!x)
        return ask(a, req, r, id, on_deleted);
    struct response *own = x->extra;
    own->kept = true;
    if (!resume_delete(a, id, req->client))
        exchange_cancel(x);
    reply_deleted(r, id);
    return NULL;
}

/* A running one ends within a step, its stream with the event response.cancelled. */
struct api_exchange *handle_response_cancel(struct api *a, const struct api_request *req,
                                            const struct reply *r)
{
    char id[160];
    if (!id_of(req, "/cancel", id)) {
        no_such(r, req->path + strlen(PREFIX));
        return NULL;
    }
    struct api_exchange *x = running(a, id, req->client);
    if (!x)
        return ask(a, req, r, id, on_over);
    exchange_cancel(x);
    reply_running(x, r, "cancelled");
    return NULL;
}
