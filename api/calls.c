/* api/calls.c - the table of formats of tool calls, and what they share; see calls.h. */
#include "config.h"

#include "api/calls.h"

#include <stdlib.h>
#include <string.h>

/* Those whose templates have more marks first: several write <tool_call>. */
static const struct call_format *const formats[] = {
    &call_format_dsml,    &call_format_deepseek,   &call_format_kimi,   &call_format_glm,
    &call_format_longcat, &call_format_qwen_coder, &call_format_hermes, &call_format_llama,
};
#define N_FORMATS (sizeof(formats) / sizeof(*formats))

const struct call_format *call_format_find(const char *name)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (!strcmp(formats[i]->name, name))
            return formats[i];
    return NULL;
}

const struct call_format *call_format_of(const char *chat_template)
{
    for (size_t i = 0; i < N_FORMATS && chat_template; i++) {
        const char *const *mark = formats[i]->of_template;
        while (*mark && strstr(chat_template, *mark))
            mark++;
        if (!*mark)
            return formats[i];
    }
    return NULL;
}

/* --- text ----------------------------------------------------------------------------------------- */

bool text_begins(const struct call_text *t, const char *mark)
{
    size_t n = strlen(mark);
    return t->in.n_bytes >= n && !memcmp(t->in.data, mark, n);
}

bool text_may_begin(const struct call_text *t, const char *mark)
{
    size_t n = strlen(mark);
    return t->in.n_bytes < n && (t->in.n_bytes == 0 || !memcmp(t->in.data, mark, t->in.n_bytes));
}

void text_skip_space(struct call_text *t)
{
    size_t n = 0;
    while (n < t->in.n_bytes && strchr(" \t\r\n", t->in.data[n]))
        n++;
    buf_consume(&t->in, n);
}

long text_find(const struct call_text *t, size_t from, const char *mark)
{
    const char *at = from < t->in.n_bytes
                         ? memmem(t->in.data + from, t->in.n_bytes - from, mark, strlen(mark)) : NULL;
    return at ? at - t->in.data : -1;
}

enum call_step text_is_plain(struct call_text *t)
{
    size_t n = t->in.n_bytes ? 1 : 0;
    while (n && n < t->in.n_bytes && ((unsigned char)t->in.data[n] & 0xc0) == 0x80)
        n++;
    parts_add(t->out, PART_TEXT, t->before.data ? t->before.data : "", t->before.n_bytes);
    parts_add(t->out, PART_TEXT, t->in.data ? t->in.data : "", n);
    buf_reset(&t->before);
    buf_consume(&t->in, n);
    t->plain = true;
    t->state = 0;
    return CALL_OUT;
}

/* --- calls ---------------------------------------------------------------------------------------- */

void call_begin(struct call_text *t, const char *name, size_t n_name, const char *id, size_t n_id)
{
    size_t n = n_name < sizeof(t->name) ? n_name : sizeof(t->name) - 1;
    memcpy(t->name, name, n);
    t->name[n] = 0;
    t->n_args = t->depth = 0;
    t->in_string = t->escaped = false;
    buf_reset(&t->before);
    t->mute = t->only_one && t->out->n_calls > 0;
    if (!t->mute)
        parts_call(t->out, name, n_name, id, n_id);
}

void call_args(struct call_text *t, const char *text, size_t n_bytes)
{
    if (!t->mute)
        parts_add(t->out, PART_CALL, text, n_bytes);
}

void call_end(struct call_text *t)
{
    if (!t->mute)
        parts_close(t->out);
    t->mute = false;
}

/* The type that the tool's schema gives the argument, or NULL. */
static const char *type_of(const struct call_text *t, const char *key)
{
    const cJSON *at;
    cJSON_ArrayForEach(at, t->tools)
    {
        const cJSON *f = cJSON_GetObjectItemCaseSensitive(at, "function");
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(f, "name"));
        if (!name || strcmp(name, t->name) != 0)
            continue;
        const cJSON *props = cJSON_GetObjectItemCaseSensitive(
            cJSON_GetObjectItemCaseSensitive(f, "parameters"), "properties");
        return cJSON_GetStringValue(
            cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(props, key), "type"));
    }
    return NULL;
}

/* Bytes of a number as JSON has it, or 0. */
static size_t number_bytes(const char *s)
{
    static const char digits[] = "0123456789";
    const char *at = s + (*s == '-'), *from = at;
    at += strspn(at, digits);
    if (at == from || (*from == '0' && at > from + 1))
        return 0;
    if (*at == '.') {
        from = ++at;
        at += strspn(at, digits);
        if (at == from)
            return 0;
    }
    if (*at == 'e' || *at == 'E') {
        at += at[1] == '+' || at[1] == '-' ? 2 : 1;
        from = at;
        at += strspn(at, digits);
        if (at == from)
            return 0;
    }
    return (size_t)(at - s);
}

/* The parser takes more for JSON than clients' parsers do: line ends in strings, 007 and 1. for numbers. */
static bool is_strict(const char *s)
{
    for (bool in_string = false; *s; s++) {
        if ((unsigned char)*s < 0x20 && (in_string || !strchr("\t\r\n", *s)))
            return false;
        if (*s == '"') {
            in_string = !in_string;
        } else if (in_string) {
            s += *s == '\\' && s[1];
        } else if (*s == '-' || (*s >= '0' && *s <= '9')) {
            size_t n = number_bytes(s);
            if (n == 0)
                return false;
            s += n - 1;
        } else if ((unsigned char)*s >= 0x80) { /* a byte order mark */
            return false;
        }
    }
    return true;
}

void call_arg(struct call_text *t, const char *key, size_t n_key, const char *value, size_t n_value,
              int is_string)
{
    char *name = strndup(key, n_key), *text = strndup(value, n_value);
    struct jw w;
    jw_init(&w, t->out->max_bytes);
    if (name && text) {
        const char *type = is_string < 0 ? type_of(t, name) : NULL, *end = NULL;
        cJSON *json = is_string > 0 || (type && !strcmp(type, "string"))
                          ? NULL : cJSON_ParseWithOpts(text, &end, true);
        jw_raw(&w, t->n_args++ ? ", " : "{");
        jw_string(&w, key, n_key);
        jw_raw(&w, ": ");
        bool strict = json && is_strict(text);
        char *other = json && !strict && !cJSON_IsNumber(json) ? cJSON_PrintUnformatted(json) : NULL;
        if (other)
            jw_raw(&w, other);
        else if (strict)
            jw_bytes(&w, value, n_value);
        else
            jw_string(&w, value, n_value);
        cJSON_free(other);
        cJSON_Delete(json);
        if (w.err == 0)
            call_args(t, w.b.data, w.b.n_bytes);
    }
    if (!name || !text || w.err)
        t->out->err = w.err ? w.err : ERR_NOMEM;
    jw_done(&w);
    free(name);
    free(text);
}

long call_value_end(const struct call_text *t, const char *key, size_t n_key, size_t from, const char *mark,
                    int is_string, bool end)
{
    long first = text_find(t, from, mark), at = first;
    char *name = is_string < 0 && first >= 0 ? strndup(key, n_key) : NULL;
    const char *type = name ? type_of(t, name) : NULL, *in = t->in.data;
    bool plain = is_string > 0 || (type && !strcmp(type, "string")), in_string = false;
    free(name);
    size_t i = from;
    while (i < t->in.n_bytes && strchr(" \t\r\n", in[i]))
        i++;
    if (first < 0 || plain || !strchr("\"[{", in[i]))
        return first;
    for (; at >= 0; at = text_find(t, (size_t)at + 1, mark)) {
        for (; i < (size_t)at; i++)
            if (in_string && in[i] == '\\')
                i++;
            else if (in[i] == '"')
                in_string = !in_string;
        if (!in_string)
            break;
    }
    if (at == first || (at < 0 && !end))
        return at;
    char *text = at < 0 ? NULL : strndup(in + from, (size_t)at - from);
    cJSON *json = text ? cJSON_ParseWithOpts(text, NULL, true) : NULL;
    at = json ? at : first; /* what only looked like JSON ends where others would end it */
    cJSON_Delete(json);
    free(text);
    return at;
}

void call_args_end(struct call_text *t)
{
    call_args(t, t->n_args ? "}" : "{}", t->n_args ? 1 : 2);
    call_end(t);
}

enum call_step call_args_wait(struct call_text *t, bool end)
{
    if (!end)
        return CALL_MORE;
    call_args_end(t);
    buf_reset(&t->in);
    return CALL_OUT;
}

bool call_json_value(struct call_text *t)
{
    size_t i = 0;
    bool complete = false;
    while (i < t->in.n_bytes && !complete) {
        char c = t->in.data[i];
        if (t->in_string) {
            t->in_string = t->escaped || c != '"';
            t->escaped = !t->escaped && c == '\\';
            complete = !t->in_string && t->depth == 0;
        } else if (c == '"') {
            t->in_string = true;
        } else if (c == '{' || c == '[') {
            t->depth++;
        } else if (c == '}' || c == ']') {
            if (t->depth == 0) /* of what it stands in: the value was a number or a name */
                break;
            complete = --t->depth == 0;
        } else if (t->depth == 0 && c == ',') {
            break;
        }
        i++;
    }
    bool stopped = !complete && i < t->in.n_bytes;
    call_args(t, t->in.data ? t->in.data : "", i);
    buf_consume(&t->in, i);
    return complete || stopped;
}
