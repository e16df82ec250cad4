/* api/build.c - see build.h. */
#include "config.h"

#include "api/build.h"
#include "api/json_read.h"
#include "api/params_readers.h"

#include <stdlib.h>
#include <string.h>

static void check(struct build *b, const void *made)
{
    if (!made)
        b->err = ERR_NOMEM;
}

cJSON *build_list(struct build *b, struct params *p, const char *name)
{
    cJSON *list = b->err ? NULL : cJSON_AddArrayToObject(p->root, name);
    check(b, list);
    return list;
}

void build_init(struct build *b, struct params *p)
{
    *b = (struct build){.err = 0};
    b->messages = build_list(b, p, "\1messages");
}

static void add_object(struct build *b, cJSON *list, cJSON *object)
{
    check(b, object);
    if (object && !cJSON_AddItemToArray(list, object)) {
        cJSON_Delete(object);
        b->err = ERR_NOMEM;
    }
}

cJSON *build_message(struct build *b, const char *role)
{
    cJSON *m = b->err ? NULL : cJSON_CreateObject();
    if (m && !cJSON_AddStringToObject(m, "role", role)) {
        cJSON_Delete(m);
        m = NULL;
    }
    if (!b->err)
        add_object(b, b->messages, m);
    return b->err ? NULL : m;
}

void build_text(struct build *b, cJSON *message, const char *name, const char *text)
{
    if (!b->err)
        check(b, cJSON_AddStringToObject(message, name, text));
}

static struct growing *growing(struct build *b, cJSON *text)
{
    for (unsigned i = 0; i < 2; i++)
        if (b->growing[i].text == text)
            return &b->growing[i];
    struct growing *g = &b->growing[b->n_growing++ % 2];
    *g = (struct growing){.text = text, .n_bytes = strlen(text->valuestring)};
    return g;
}

void build_more(struct build *b, cJSON *message, const char *name, const char *text)
{
    cJSON *at = b->err ? NULL : cJSON_GetObjectItemCaseSensitive(message, name);
    if (!at) {
        build_text(b, message, name, text);
        return;
    }
    struct growing *g = growing(b, at);
    size_t n = strlen(text), need = g->n_bytes + 1 + n + 1;
    if (need > g->cap) {
        char *larger = cJSON_malloc(2 * need);
        if (!larger) {
            b->err = ERR_NOMEM;
            return;
        }
        memcpy(larger, at->valuestring, g->n_bytes);
        cJSON_free(at->valuestring);
        at->valuestring = larger;
        g->cap = 2 * need;
    }
    at->valuestring[g->n_bytes] = '\n';
    memcpy(at->valuestring + g->n_bytes + 1, text, n + 1);
    g->n_bytes += 1 + n;
}

void build_call(struct build *b, cJSON *message, const char *id, const char *name, const char *arguments)
{
    cJSON *calls = b->err ? NULL : cJSON_GetObjectItemCaseSensitive(message, "tool_calls");
    if (!b->err && !calls)
        check(b, calls = cJSON_AddArrayToObject(message, "tool_calls"));
    cJSON *call = b->err ? NULL : cJSON_CreateObject();
    if (b->err)
        return;
    add_object(b, calls, call);
    if (!b->err)
        check(b, cJSON_AddStringToObject(call, "id", id));
    if (!b->err)
        check(b, cJSON_AddStringToObject(call, "type", "function"));
    cJSON *f = b->err ? NULL : cJSON_AddObjectToObject(call, "function");
    check(b, f);
    build_text(b, f, "name", name);
    build_text(b, f, "arguments", arguments);
}

void build_tool(struct build *b, cJSON *tools, const char *name, const char *description, const cJSON *schema,
                bool strict)
{
    cJSON *tool = b->err ? NULL : cJSON_CreateObject();
    if (b->err)
        return;
    add_object(b, tools, tool);
    build_text(b, tool, "type", "function");
    cJSON *f = b->err ? NULL : cJSON_AddObjectToObject(tool, "function");
    check(b, f);
    build_text(b, f, "name", name);
    if (description)
        build_text(b, f, "description", description);
    cJSON *copy = b->err || !schema ? NULL : cJSON_Duplicate(schema, true);
    if (schema && !b->err && (!copy || !cJSON_AddItemToObject(f, "parameters", copy))) {
        cJSON_Delete(copy);
        b->err = ERR_NOMEM;
    }
    if (strict && !b->err && !cJSON_AddTrueToObject(f, "strict"))
        b->err = ERR_NOMEM;
}

int build_done(const struct build *b, struct err *e)
{
    return b->err ? err_set(e, b->err, "out of memory for the request") : 0;
}

/* The text of a part of a known type, or NULL. */
static const char *part_text(const cJSON *part, const char *const *types)
{
    const char *type = json_text(part, "type");
    while (type && *types && strcmp(type, *types) != 0)
        types++;
    if (!type || !*types)
        return NULL;
    return json_text(part, !strcmp(type, "refusal") ? "refusal" : "text");
}

int build_joined(const cJSON *v, const char *const *types, const char *field, const char *expected,
                 char **ret, struct err *e)
{
    const cJSON *at;
    struct buf all;
    buf_init(&all, (size_t)1 << 30);
    int r = buf_puts(&all, cJSON_IsString(v) ? v->valuestring : "");
    bool ok = cJSON_IsString(v) || cJSON_IsArray(v);
    if (cJSON_IsArray(v))
        cJSON_ArrayForEach(at, v)
        {
            const char *text = part_text(at, types);
            ok = ok && text;
            if (ok && r == 0)
                r = buf_puts(&all, text);
        }
    if (!ok || r < 0) {
        buf_done(&all);
        return !ok ? params_bad(e, field, expected) : err_set(e, r, "out of memory for the request");
    }
    *ret = buf_take(&all, NULL);
    return 0;
}
