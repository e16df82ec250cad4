/* api/pins.c - prefixes that the operator wants kept: a file becomes a request to /v1/cache/pin with
 * `compute`, made by nobody's connection, and what it answers is told by a callback. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "api/internal.h"
#include "base/buf.h"
#include "base/clock.h"

#define MAX_ANSWER_BYTES 65536

struct api_pin {
    api_pinned *done;
    void *arg;
    int status;
    struct buf answer;
};

static void begin(void *reply, int status, const struct api_header *headers, int n_headers,
                  int64_t body_bytes)
{
    struct api_pin *pin = reply;
    (void)headers;
    (void)n_headers;
    (void)body_bytes;
    pin->status = status;
}

static void gather(void *reply, const char *data, size_t n_bytes)
{
    struct api_pin *pin = reply;
    if (buf_append(&pin->answer, data, n_bytes) < 0)
        pin->status = 500;
}

static int number(const cJSON *o, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
    return v ? v->valueint : 0;
}

static void end(void *reply, const struct api_log_facts *facts)
{
    struct api_pin *pin = reply;
    (void)facts;
    cJSON *o = cJSON_ParseWithLength(pin->answer.data ? pin->answer.data : "", pin->answer.n_bytes);
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(o, "error");
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(error, "message"));
    struct api_pin_result r = {.prompt_tokens = number(o, "prompt_tokens"),
                               .pinned_tokens = number(o, "pinned_tokens"),
                               .error = pin->status == 200 ? NULL : text ? text : "out of memory"};
    api_pinned *done = pin->done;
    void *arg = pin->arg;
    buf_done(&pin->answer);
    free(pin);
    done(arg, &r);
    cJSON_Delete(o);
}

static size_t queued(void *reply)
{
    (void)reply;
    return 0;
}

/* The body of the request; NULL: `data` is not one, or there is no memory. */
static char *body_of(const char *data, size_t n_bytes, bool json)
{
    cJSON *o = json ? cJSON_ParseWithLength(data, n_bytes) : cJSON_CreateObject();
    bool ok = cJSON_IsObject(o) && (json || cJSON_AddStringToObject(o, "prompt", data));
    cJSON_DeleteItemFromObjectCaseSensitive(o, "compute");
    ok = ok && cJSON_AddTrueToObject(o, "compute");
    char *body = ok ? cJSON_PrintUnformatted(o) : NULL;
    cJSON_Delete(o);
    return body;
}

struct api_exchange *api_pin(struct api *a, const char *data, size_t n_bytes, bool json,
                             api_pinned *done, void *arg)
{
    static const struct api_reply_ops ops = {begin, gather, end, queued};
    char *body = body_of(data, n_bytes, json);
    struct api_pin *pin = body ? calloc(1, sizeof(*pin)) : NULL;
    if (!pin) {
        const struct api_pin_result r = {.error = json ? "not a JSON object" : "out of memory"};
        free(body);
        done(arg, &r);
        return NULL;
    }
    *pin = (struct api_pin){.done = done, .arg = arg};
    buf_init(&pin->answer, MAX_ANSWER_BYTES);
    const struct api_request req = {.method = HTTP_M_POST,
                                    .path = "/v1/cache/pin",
                                    .query = "",
                                    .content_type = "application/json",
                                    .body = body,
                                    .body_bytes = strlen(body),
                                    .request_id = "pin",
                                    .received_ns = clock_now_ns()};
    struct api_exchange *x = api_handle(a, &req, &ops, pin);
    free(body);
    return x;
}
