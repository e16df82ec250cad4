/* api/calls_json.c - a call that is one JSON object, {"name": ..., "arguments": {...}}. Nothing is given out
 * before its name and the beginning of its arguments are there; from then on arguments pass through. */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "api/calls.h"

enum { AT_OBJECT, IN_ARGUMENTS, AFTER_ARGUMENTS };

/* Offset behind the JSON string at i (its quote), or -1: not complete. */
static long string_end(const struct buf *b, size_t i)
{
    for (i++; i < b->n_bytes; i++) {
        if (b->data[i] == '\\')
            i++;
        else if (b->data[i] == '"')
            return (long)i + 1;
    }
    return -1;
}

/* Offset behind the value at i, or -1. */
static long value_end(const struct buf *b, size_t i)
{
    int depth = 0;
    for (; i < b->n_bytes; i++) {
        char c = b->data[i];
        if (c == '"') {
            long end = string_end(b, i);
            if (end < 0)
                return -1;
            i = (size_t)end - 1;
        } else if (c == '{' || c == '[') {
            depth++;
            continue;
        } else if (c == '}' || c == ']') {
            if (depth == 0)
                return (long)i;
            depth--;
        } else if (depth == 0 && (c == ',' || strchr(" \t\r\n", c))) {
            return (long)i;
        } else {
            continue;
        }
        if (depth == 0)
            return (long)i + 1;
    }
    return -1;
}

static size_t skip_space(const struct buf *b, size_t i)
{
    while (i < b->n_bytes && strchr(" \t\r\n", b->data[i]))
        i++;
    return i;
}

enum found { FOUND_MORE, FOUND_PLAIN, FOUND_ARGUMENTS, FOUND_NONE };

/* Walks the keys: the name, and where arguments begin. */
static enum found look(const struct buf *b, size_t mark, size_t name[2], size_t *args)
{
    size_t i = skip_space(b, mark);
    if (i == b->n_bytes)
        return FOUND_MORE;
    if (b->data[i++] != '{')
        return FOUND_PLAIN;
    for (;;) {
        i = skip_space(b, i);
        if (i == b->n_bytes)
            return FOUND_MORE;
        if (b->data[i] == '}') {
            *args = i;
            return name[1] ? FOUND_NONE : FOUND_PLAIN;
        }
        if (b->data[i] != '"')
            return FOUND_PLAIN;
        long key_end = string_end(b, i);
        size_t key = i + 1, n_key = key_end < 0 ? 0 : (size_t)key_end - 1 - key;
        if (key_end < 0)
            return FOUND_MORE;
        i = skip_space(b, (size_t)key_end);
        if (i == b->n_bytes)
            return FOUND_MORE;
        if (b->data[i++] != ':')
            return FOUND_PLAIN;
        i = skip_space(b, i);
        if (i == b->n_bytes)
            return FOUND_MORE;
        bool is_args = (n_key == 9 && !memcmp(b->data + key, "arguments", 9)) ||
                       (n_key == 10 && !memcmp(b->data + key, "parameters", 10));
        if (is_args && name[1]) {
            *args = i;
            return FOUND_ARGUMENTS;
        }
        long end = value_end(b, i);
        if (n_key == 4 && !memcmp(b->data + key, "name", 4)) {
            if (b->data[i] != '"')
                return FOUND_PLAIN;
            if (end < 0)
                return FOUND_MORE;
            name[0] = i + 1;
            name[1] = (size_t)end - 1;
        } else if (end < 0) {
            return FOUND_MORE;
        }
        i = skip_space(b, (size_t)end);
        if (i < b->n_bytes && b->data[i] == ',')
            i++;
    }
}

/* The name between quotes, as it is meant: it may have escapes. */
static void begin_named(struct call_text *t, size_t from, size_t to)
{
    const char *raw = t->in.data + from;
    errno = 0;
    cJSON *s = memchr(raw, '\\', to - from) ? cJSON_ParseWithLength(raw - 1, to - from + 2) : NULL;
    if (!s && errno == ENOMEM)
        t->out->err = ERR_NOMEM;
    const char *name = cJSON_GetStringValue(s);
    call_begin(t, name ? name : raw, name ? strlen(name) : to - from, NULL, 0);
    cJSON_Delete(s);
}

/* Arguments that are null are none: 1; 0: they are something else; -1: not to be told yet. */
static int no_arguments(const struct buf *b)
{
    static const char null[] = "null";
    size_t n = b->n_bytes < 4 ? b->n_bytes : 4;
    if (memcmp(b->data, null, n) != 0)
        return 0;
    if (b->n_bytes < 5)
        return -1;
    return strchr(",} \t\r\n", b->data[4]) ? 1 : 0;
}

enum call_step call_json_object(struct call_text *t, size_t mark, bool end, bool *ret_plain)
{
    size_t name[2] = {0, 0}, args = 0;
    int null;
    *ret_plain = false;
    if (t->state == AT_OBJECT) {
        enum found f = look(&t->in, mark, name, &args);
        if (f == FOUND_PLAIN || (f == FOUND_MORE && end)) {
            *ret_plain = true;
            return CALL_OUT;
        }
        if (f == FOUND_MORE)
            return CALL_MORE;
        begin_named(t, name[0], name[1]);
        if (f == FOUND_NONE) { /* no arguments, or they came first */
            errno = 0;
            cJSON *o = cJSON_ParseWithLength(t->in.data + mark, args + 1 - mark);
            const cJSON *a = cJSON_GetObjectItemCaseSensitive(o, "arguments");
            a = a ? a : cJSON_GetObjectItemCaseSensitive(o, "parameters");
            a = cJSON_IsNull(a) ? NULL : a;
            char *text = cJSON_IsString(a) ? strdup(a->valuestring) : cJSON_PrintUnformatted(a);
            if (!text && errno == ENOMEM)
                t->out->err = ERR_NOMEM;
            call_args(t, text ? text : "{}", text ? strlen(text) : 2);
            cJSON_free(text);
            cJSON_Delete(o);
            call_end(t);
            buf_consume(&t->in, args + 1);
            return CALL_OUT;
        }
        buf_consume(&t->in, args);
        t->state = IN_ARGUMENTS;
    }
    if (t->state == IN_ARGUMENTS) {
        if (t->n_args == 0 && t->in.n_bytes && t->in.data[0] == '"') { /* JSON in a string */
            long n = string_end(&t->in, 0);
            if (n < 0 && !end)
                return CALL_MORE;
            errno = 0;
            cJSON *s = n < 0 ? NULL : cJSON_ParseWithLength(t->in.data, (size_t)n);
            if (!s && errno == ENOMEM)
                t->out->err = ERR_NOMEM;
            const char *text = cJSON_GetStringValue(s);
            call_args(t, text ? text : "{}", text ? strlen(text) : 2);
            cJSON_Delete(s);
            buf_consume(&t->in, n < 0 ? t->in.n_bytes : (size_t)n);
        } else if (t->n_args == 0 && t->in.n_bytes && (null = no_arguments(&t->in)) != 0) {
            if (null < 0 && !end)
                return CALL_MORE;
            call_args(t, "{}", 2);
            buf_consume(&t->in, t->in.n_bytes < 4 ? t->in.n_bytes : 4);
        } else {
            t->n_args = 1; /* has begun */
            if (!call_json_value(t) && !end)
                return CALL_MORE;
        }
        call_end(t);
        t->state = AFTER_ARGUMENTS;
    }
    for (;;) { /* other keys, and the end of the object */
        text_skip_space(t);
        if (t->in.n_bytes == 0)
            return end ? CALL_OUT : CALL_MORE;
        if (t->in.data[0] == '}') {
            buf_consume(&t->in, 1);
            t->state = AT_OBJECT;
            return CALL_OUT;
        }
        long n = value_end(&t->in, strchr(",:", t->in.data[0]) ? 1 : 0);
        if (n < 0)
            return end ? CALL_OUT : CALL_MORE;
        if (n == 0 || t->in.data[0] == '<') { /* not JSON any more: a mark */
            t->state = AT_OBJECT;
            return CALL_OUT;
        }
        buf_consume(&t->in, (size_t)n);
    }
}
