/* api/responses_kept.c - /v1/responses/{id}: retrieve, delete, cancel, and its items of input. Those that
 * run are found among the exchanges, those that are over in the store. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/responses.h"
#include "api/resume.h"

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

/* store_get has failed with `got`. */
static void not_got(const struct api *a, const struct reply *r, const char *id, int got)
{
    struct err e = {0};
    if (got == ERR_NOTFOUND)
        no_such(r, id);
    else
        reply_error(r, a, (err_set(&e, got, "the store of responses cannot be read"), &e));
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
    size_t n = strlen(name);
    for (const char *s = req->query; s && *s; s = strchr(s, '&') ? strchr(s, '&') + 1 : NULL)
        if (!strncmp(s, name, n) && s[n] == '=') {
            size_t k = strcspn(s + n + 1, "&");
            k = k < sizeof(value) - 1 ? k : sizeof(value) - 1;
            memcpy(value, s + n + 1, k);
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

/* Takes the list over. NULL: there was no memory for it. */
static void list_items(const struct api_request *req, const struct reply *r, cJSON *list)
{
    int n = cJSON_GetArraySize(list), limit = 20, shown = 0;
    const char *order = query_value(req, "order");
    bool ascending = order && !strcmp(order, "asc"), skipping = false;
    const char *s = query_value(req, "limit");
    char after[160] = "", name[40], last[40] = "", first[40] = "";
    if (s)
        limit = atoi(s);
    limit = limit < 1 ? 1 : limit > MAX_LIST ? MAX_LIST : limit;
    if ((s = query_value(req, "after"))) {
        snprintf(after, sizeof(after), "%s", s);
        skipping = true;
    }
    struct jw w;
    jw_init(&w, API_MAX_ANSWER_BYTES);
    w.err = list ? 0 : ERR_NOMEM;
    jw_raw(&w, "{\"object\":\"list\",\"data\":[");
    int i = 0;
    for (; i < n && shown < limit; i++) {
        int at = ascending ? i : n - 1 - i;
        cJSON *item = cJSON_GetArrayItem(list, at);
        const char *own = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "id"));
        snprintf(name, sizeof(name), "item_%d", at);
        if (skipping) {
            skipping = strcmp(after, own ? own : name) != 0;
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
        snprintf(last, sizeof(last), "%s", own ? own : name);
        if (!shown++)
            snprintf(first, sizeof(first), "%s", last);
    }
    jw_raw(&w, "],\"first_id\":");
    jw_cstring(&w, shown ? first : NULL);
    jw_raw(&w, ",\"last_id\":");
    jw_cstring(&w, shown ? last : NULL);
    jw_printf(&w, ",\"has_more\":%s}", i < n ? "true" : "false");
    reply_json(r, 200, &w, NULL);
    jw_done(&w);
    cJSON_Delete(list);
}

struct api_exchange *handle_response_get(struct api *a, const struct api_request *req, const struct reply *r)
{
    char id[160], *body = NULL, *items = NULL;
    bool input = id_of(req, "/input_items", id);
    struct api_exchange *x;
    const char *stream = query_value(req, "stream");
    bool streams = stream && !strcmp(stream, "true");
    if (!input && !id_of(req, "", id)) {
        no_such(r, req->path + strlen(PREFIX));
        return NULL;
    }
    if (streams && !input && stream_again(a, id, req, r, &x))
        return x;
    x = running(a, id, req->client);
    if (x) {
        if (streams)
            not_streamed(r);
        else if (input)
            list_items(req, r, cJSON_Duplicate(((struct response *)x->extra)->items, true));
        else
            reply_running(x, r, "in_progress");
        return NULL;
    }
    int got = store_get(a->store, id, req->client, &body, &items);
    if (got < 0)
        not_got(a, r, id, got);
    else if (streams)
        not_streamed(r);
    else if (input)
        list_items(req, r, cJSON_Parse(items));
    else
        reply_text(r, body);
    free(body);
    free(items);
    return NULL;
}

struct api_exchange *handle_response_delete(struct api *a, const struct api_request *req,
                                            const struct reply *r)
{
    char id[160];
    struct jw w;
    if (!id_of(req, "", id) || store_delete(a->store, id, req->client) < 0) {
        no_such(r, req->path + strlen(PREFIX));
        return NULL;
    }
    (void)resume_delete(a, id, req->client);
    jw_init(&w, 4096);
    jw_raw(&w, "{\"id\":");
    jw_cstring(&w, id);
    jw_raw(&w, ",\"object\":\"response\",\"deleted\":true}");
    reply_json(r, 200, &w, NULL);
    jw_done(&w);
    return NULL;
}

/* A running one ends within a step, its stream with the event response.cancelled. */
struct api_exchange *handle_response_cancel(struct api *a, const struct api_request *req,
                                            const struct reply *r)
{
    char id[160], *body = NULL;
    if (!id_of(req, "/cancel", id)) {
        no_such(r, req->path + strlen(PREFIX));
        return NULL;
    }
    struct api_exchange *x = running(a, id, req->client);
    if (x) {
        exchange_cancel(x);
        reply_running(x, r, "cancelled");
        return NULL;
    }
    int got = store_get(a->store, id, req->client, &body, NULL);
    if (got < 0)
        not_got(a, r, id, got);
    else
        reply_error_full(r, 400, NULL, "response_id", "the response is over: it cannot be cancelled", 0,
                         NULL);
    free(body);
    return NULL;
}
