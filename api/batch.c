/* api/batch.c - lines of batch files, in the format of OpenAI's Batch API.
 *
 * A request's body goes to its endpoint byte by byte as it stands in the line: a tree written out again would
 * not have every number as it was. So a line is read twice: as a tree for what it says, and by a scan for
 * where its body lies. Lines of output are scanned only: they can be larger than any tree may be. */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"
#include "api/json_read.h"

/* What answers with one JSON text that depends on nothing but the request. */
static const char *const urls[] = {
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses",
    "/v1/messages", "/v1/messages/count_tokens", "/v1/tokenize", "/v1/detokenize",
};

/* --- where values lie ----------------------------------------------------------------------------- */

struct slice {
    const char *at;
    size_t n;
};

/* What the parser takes for blank. */
static const char *skip_space(const char *p, const char *end)
{
    while (p < end && (unsigned char)*p <= ' ')
        p++;
    return p;
}

/* p: at the opening quote. Behind the closing one, or NULL. */
static const char *skip_string(const char *p, const char *end)
{
    for (p++; p < end && *p != '"'; p++)
        p += *p == '\\';
    return p < end ? p + 1 : NULL;
}

static const char *skip_word(const char *p, const char *end)
{
    const char *from = p;
    while (p < end && (unsigned char)*p > ' ' && !memchr(",:[]{}\"", *p, 7))
        p++;
    return p > from ? p : NULL;
}

/* Behind the value that begins at p; NULL: none ends before `end`. */
static const char *skip_value(const char *p, const char *end)
{
    int depth = 0;
    do {
        p = skip_space(p, end);
        if (p == end)
            return NULL;
        if (*p == '"') {
            p = skip_string(p, end);
        } else if (*p == '{' || *p == '[') {
            depth++;
            p++;
        } else if (*p == '}' || *p == ']') {
            depth--;
            p++;
        } else if (depth > 0 && (*p == ',' || *p == ':')) {
            p++;
        } else {
            p = skip_word(p, end);
        }
        if (!p || depth < 0)
            return NULL;
    } while (depth > 0);
    return p;
}

/* The next member of an object; *at stands behind its '{' first. 1; 0: there is none more, *at is behind the
 * '}'; -1: it is no object. */
static int next_member(const char **at, const char *end, struct slice *key, struct slice *value)
{
    const char *p = skip_space(*at, end);
    if (p < end && *p == ',')
        p = skip_space(p + 1, end);
    if (p < end && *p == '}') {
        *at = p + 1;
        return 0;
    }
    const char *after = p < end && *p == '"' ? skip_string(p, end) : NULL;
    if (!after)
        return -1;
    *key = (struct slice){p + 1, (size_t)(after - p) - 2};
    p = skip_space(after, end);
    if (p == end || *p != ':')
        return -1;
    p = skip_space(p + 1, end);
    after = skip_value(p, end);
    if (!after)
        return -1;
    *value = (struct slice){p, (size_t)(after - p)};
    *at = after;
    return 1;
}

static bool is(const struct slice *s, const char *name)
{
    return s->n == strlen(name) && !memcmp(s->at, name, s->n);
}

static const char *object_begin(const char *p, const char *end)
{
    static const char bom[] = "\xef\xbb\xbf";
    if (end - p >= 3 && !memcmp(p, bom, 3))
        p += 3;
    p = skip_space(p, end);
    return p < end && *p == '{' ? p + 1 : NULL;
}

/* --- input ---------------------------------------------------------------------------------------- */

/* The value of the object's member `item`, by its place: its name may be written with escapes. */
static struct slice slice_of(const char *line, size_t n_bytes, const cJSON *o, const cJSON *item)
{
    const char *end = line + n_bytes, *at = object_begin(line, end);
    struct slice key, value = {NULL, 0};
    for (const cJSON *c = o->child; at && next_member(&at, end, &key, &value) == 1; c = c->next)
        if (c == item)
            return value;
    return (struct slice){NULL, 0};
}

static int wrong(struct api_batch_line *l, const char *code, struct err *e, const char *text)
{
    l->code = code;
    return err_set(e, ERR_INVAL, "%s", text);
}

static int wrong_url(struct api_batch_line *l, struct err *e)
{
    char list[320];
    size_t n = 0;
    for (size_t i = 0; i < sizeof(urls) / sizeof(*urls); i++)
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", i ? ", " : "", urls[i]);
    l->code = "invalid_url";
    return err_set(e, ERR_INVAL, "url must be one of %s", list);
}

static bool url_is_known(const char *url)
{
    for (size_t i = 0; i < sizeof(urls) / sizeof(*urls); i++)
        if (!strcmp(url, urls[i]))
            return true;
    return false;
}

static int check_line(const cJSON *o, struct api_batch_line *l, struct err *e)
{
    const char *id = json_text(o, "custom_id"), *method = json_text(o, "method"), *url = json_text(o, "url");
    const cJSON *body = json_get(o, "body");
    if (!id || !*id)
        return wrong(l, "invalid_custom_id", e, "custom_id must be a text that is not empty");
    if (!(l->custom_id = strdup(id)))
        return err_set(e, ERR_NOMEM, "out of memory");
    if (!method || strcmp(method, "POST") != 0)
        return wrong(l, "invalid_method", e, "method must be \"POST\"");
    if (!url || !url_is_known(url))
        return wrong_url(l, e);
    if (!(l->url = strdup(url)))
        return err_set(e, ERR_NOMEM, "out of memory");
    if (!cJSON_IsObject(body))
        return wrong(l, "invalid_body", e, "body must be a JSON object: what the endpoint takes");
    const cJSON *at;
    cJSON_ArrayForEach(at, body) /* of several the endpoint takes one: none may ask for it */
        if (!strcmp(at->string, "stream") && cJSON_IsTrue(at))
            return wrong(l, "stream_unsupported", e,
                         "body.stream: answers of a batch are whole; leave stream out, or false");
    return 0;
}

int api_batch_read(const char *line, size_t n_bytes, struct api_batch_line *ret, struct err *e)
{
    cJSON *o = NULL;
    *ret = (struct api_batch_line){.custom_id = NULL};
    int r = json_read_as("the line", line, n_bytes, &o, e);
    if (r < 0 && r != ERR_NOMEM) {
        ret->code = "invalid_json_line";
        return ERR_INVAL;
    }
    if (r == 0)
        r = check_line(o, ret, e);
    if (r == 0) {
        struct slice body = slice_of(line, n_bytes, o, json_get(o, "body"));
        ret->body = body.at;
        ret->body_bytes = body.n;
        if (!body.at) /* the parser took what the scan does not */
            r = wrong(ret, "invalid_json_line", e, "the line is not valid JSON");
    }
    cJSON_Delete(o);
    return r;
}

void api_batch_line_done(struct api_batch_line *l)
{
    free(l->custom_id);
    free(l->url);
    l->custom_id = l->url = NULL;
}

/* --- output --------------------------------------------------------------------------------------- */

int api_batch_write(const struct api_batch_answer *a, struct buf *out)
{
    struct jw w = {*out, 0};
    jw_raw(&w, "{\"id\":");
    jw_cstring(&w, a->id);
    jw_raw(&w, ",\"custom_id\":");
    jw_cstring(&w, a->custom_id);
    if (a->status) {
        jw_printf(&w, ",\"response\":{\"status_code\":%d,\"request_id\":", a->status);
        jw_cstring(&w, a->request_id);
        jw_raw(&w, ",\"body\":");
        jw_bytes(&w, a->body, a->body_bytes);
        jw_raw(&w, "},\"error\":null}\n");
    } else {
        jw_raw(&w, ",\"response\":null,\"error\":{\"code\":");
        jw_cstring(&w, a->code);
        jw_raw(&w, ",\"message\":");
        jw_cstring(&w, a->message);
        jw_printf(&w, ",\"line\":%lld}}\n", a->line);
    }
    *out = w.b;
    return w.err;
}

/* A whole number in the member `name` of an object; 0: it has none. */
static long long number_in(const struct slice *o, const char *name)
{
    const char *end = o->at + o->n, *at = object_begin(o->at, end);
    struct slice key, value;
    while (at && next_member(&at, end, &key, &value) == 1)
        if (is(&key, name) && value.n < 20) {
            char text[20];
            memcpy(text, value.at, value.n);
            text[value.n] = 0;
            return strtoll(text, NULL, 10);
        }
    return 0;
}

/* The text of a JSON string; NULL with 0 where it is null. */
static int text_of(const struct slice *s, char **ret)
{
    errno = 0; /* the parser does not tell a mistake from a lack of memory; malloc does */
    cJSON *o = cJSON_ParseWithLength(s->at, s->n);
    const char *text = cJSON_GetStringValue(o);
    int r = text || cJSON_IsNull(o) ? 0 : !o && errno == ENOMEM ? ERR_NOMEM : ERR_FORMAT;
    if (text && !(*ret = strdup(text)))
        r = ERR_NOMEM;
    cJSON_Delete(o);
    return r;
}

int api_batch_read_told(const char *line, size_t n_bytes, struct api_batch_told *ret)
{
    const char *end = line + n_bytes, *at = object_begin(line, end);
    struct slice key, value, id = {NULL, 0}, response = id, error = id;
    int more = at ? 1 : -1;
    while (more == 1 && (more = next_member(&at, end, &key, &value)) == 1) {
        if (is(&key, "custom_id"))
            id = value;
        else if (is(&key, "response"))
            response = value;
        else if (is(&key, "error"))
            error = value;
    }
    if (more < 0 || skip_space(at, end) != end || !id.at || !response.at || !error.at)
        return ERR_FORMAT;
    struct api_batch_told t = {NULL, (int)number_in(&response, "status_code"), number_in(&error, "line")};
    int r = text_of(&id, &t.custom_id);
    if (r == 0)
        *ret = t;
    return r;
}
