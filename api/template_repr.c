/* api/template_repr.c - values as text: as Python prints them, and as JSON the way json.dumps
 * writes it. The marks follow: bytes of a string keep theirs, what surrounds them in a container
 * that the client sent is the client's too. */
#include "config.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/template_text.h"
#include "api/template_value.h"

int tpl__float_text(double f, char *dst)
{
    char digits[32], shown[40];
    int precision = 0;
    if (isnan(f) || isinf(f))
        return snprintf(dst, 40, "%s", isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
    do
        snprintf(digits, sizeof(digits), "%.*e", precision, f);
    while (strtod(digits, NULL) != f && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        *strchr(digits, 'e') = 0;
        return snprintf(dst, 40, "%se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent));
    }
    snprintf(shown, sizeof(shown), "%.*f", precision > exponent ? precision - exponent : 1, f);
    return snprintf(dst, 40, "%s", shown);
}

static void put_number(struct run *x, const struct value *v, bool client)
{
    char text[40];
    int n = v->type == V_INT ? snprintf(text, sizeof(text), "%lld", (long long)v->i)
                             : tpl__float_text(v->f, text);
    tpl__put_as(x, text, (size_t)n, client);
}

/* A string between quotes, as repr writes it. */
static void put_quoted(struct run *x, const struct str *s)
{
    char quote = memchr(s->s, '\'', s->n) && !memchr(s->s, '"', s->n) ? '"' : '\'';
    char escape[12];
    bool client = s->mark && s->n && s->mark[0];
    size_t from = 0;
    tpl__put_as(x, &quote, 1, client);
    for (size_t i = 0; i < s->n && x->r == 0;) {
        size_t k, n = 0;
        uint32_t c = text_code_point(s->s + i, s->n - i, &k);
        if (c == (unsigned char)quote || c == '\\')
            n = (size_t)snprintf(escape, sizeof(escape), "\\%c", (char)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            n = (size_t)snprintf(escape, sizeof(escape), "\\%c",
                                 c == '\n'   ? 'n'
                                 : c == '\r' ? 'r'
                                             : 't');
        else if (c < 0x20 || c == 0x7f || (c >= 0x80 && c <= 0xa0) || c == 0xad)
            n = (size_t)snprintf(escape, sizeof(escape), "\\x%02x", c);
        else if (c > 0xff && c < 0x10000 &&
                 (text_is(c, TEXT_SPACE) || (c >= 0x200b && c <= 0x200f) ||
                  (c >= 0x202a && c <= 0x202e) || c == 0xfeff || (c >= 0xe000 && c <= 0xf8ff)))
            n = (size_t)snprintf(escape, sizeof(escape), "\\u%04x", c);
        if (n) {
            tpl__put_part(x, s, from, i);
            tpl__put_as(x, escape, n, s->mark && s->mark[i]);
            from = i + k;
        }
        i += k;
    }
    tpl__put_part(x, s, from, s->n);
    tpl__put_as(x, &quote, 1, client);
}

static void put_items(struct run *x, const struct value *v, int depth)
{
    const struct list *l = v->list;
    bool tuple = v->type == V_TUPLE, client = v->client;
    tpl__put_as(x, tuple ? "(" : "[", 1, client);
    for (size_t i = 0; i < l->n && x->r == 0; i++) {
        if (i)
            tpl__put_as(x, ", ", 2, client);
        tpl__put_repr(x, &l->items[i], depth + 1);
    }
    if (tuple && l->n == 1)
        tpl__put_as(x, ",", 1, client);
    tpl__put_as(x, tuple ? ")" : "]", 1, client);
}

static void put_entries(struct run *x, const struct value *v, int depth)
{
    const struct dict *d = v->dict;
    tpl__put_as(x, "{", 1, v->client);
    for (size_t i = 0; i < d->n && x->r == 0; i++) {
        if (i)
            tpl__put_as(x, ", ", 2, v->client);
        tpl__put_repr(x, &d->entries[i].key, depth + 1);
        tpl__put_as(x, ": ", 2, v->client);
        tpl__put_repr(x, &d->entries[i].value, depth + 1);
    }
    tpl__put_as(x, "}", 1, v->client);
}

void tpl__put_repr(struct run *x, const struct value *v, int depth)
{
    if (!tpl__charge(x, 0))
        return;
    if (depth > TPL_MAX_REPR_DEPTH) {
        tpl__fail(x, ERR_LIMIT, "values are nested too deep to be written");
        return;
    }
    switch (v->type) {
    case V_ABSENT:
    case V_UNDEFINED:
        tpl__put_cstring(x, depth ? "Undefined" : "");
        break;
    case V_NONE:
        tpl__put_as(x, "None", 4, v->client);
        break;
    case V_BOOL:
        tpl__put_as(x, v->b ? "True" : "False", v->b ? 4 : 5, v->client);
        break;
    case V_INT:
    case V_FLOAT:
        put_number(x, v, v->client);
        break;
    case V_STRING:
        put_quoted(x, v->str);
        break;
    case V_LIST:
    case V_TUPLE:
        put_items(x, v, depth);
        break;
    case V_DICT:
        put_entries(x, v, depth);
        break;
    default:
        tpl__put_cstring(x, "<");
        tpl__put_cstring(x, tpl__type_name(v));
        tpl__put_cstring(x, ">");
    }
}

void tpl__put_value(struct run *x, const struct value *v)
{
    if (v->type == V_STRING)
        tpl__put(x, v->str->s, v->str->mark, v->str->n);
    else if (v->type == V_DICT && v->dict->source) /* no template wants an object's repr there */
        tpl__put(x, v->dict->source->s, v->dict->source->mark, v->dict->source->n);
    else
        tpl__put_repr(x, v, 0);
}

/* --- JSON ----------------------------------------------------------------------------------------- */

/* 0: the character is written as it is. */
static size_t json_escape(uint32_t c, bool ascii, char dst[16])
{
    char letter = 0;
    switch (c) {
    case '"':
    case '\\':
        letter = (char)c;
        break;
    case '\n':
        letter = 'n';
        break;
    case '\r':
        letter = 'r';
        break;
    case '\t':
        letter = 't';
        break;
    case '\f':
        letter = 'f';
        break;
    case '\b':
        letter = 'b';
        break;
    default:
        if (c >= 0x20 && (!ascii || c <= 0x7e))
            return 0;
        if (c >= 0x10000)
            return (size_t)snprintf(dst, 16, "\\u%04x\\u%04x", 0xd7c0 + (c >> 10),
                                    0xdc00 | (c & 0x3ff));
        return (size_t)snprintf(dst, 16, "\\u%04x", c);
    }
    dst[0] = '\\';
    dst[1] = letter;
    return 2;
}

static void put_json_string(struct run *x, const struct str *s, const struct json_style *st)
{
    char escape[16];
    bool client = s->mark && s->n && s->mark[0];
    size_t from = 0;
    tpl__put_as(x, "\"", 1, client);
    for (size_t i = 0; i < s->n && x->r == 0;) {
        size_t k, n;
        uint32_t c = text_code_point(s->s + i, s->n - i, &k);
        n = json_escape(c, st->ascii, escape);
        if (n) {
            tpl__put_part(x, s, from, i);
            tpl__put_as(x, escape, n, s->mark && s->mark[i]);
            from = i + k;
        }
        i += k;
    }
    tpl__put_part(x, s, from, s->n);
    tpl__put_as(x, "\"", 1, client);
}

static void new_line(struct run *x, const struct json_style *st, int depth, bool client)
{
    if (!st->lines)
        return;
    tpl__put_as(x, "\n", 1, client);
    for (int i = 0; i < depth && x->r == 0; i++)
        tpl__put_as(x, st->indent.s, st->indent.n, client);
}

static void put_json_key(struct run *x, const struct value *k, const struct json_style *st)
{
    if (k->type == V_STRING) {
        put_json_string(x, k->str, st);
    } else if (k->type == V_NONE || tpl__number(k)) {
        tpl__put_as(x, "\"", 1, k->client);
        tpl__put_json(x, k, st, 0);
        tpl__put_as(x, "\"", 1, k->client);
    } else {
        tpl__fail(x, ERR_INVAL, "a %s cannot be a key in JSON", tpl__type_name(k));
    }
}

static int by_key(const void *a, const void *b, void *x)
{
    const struct entry *p = *(const struct entry *const *)a, *q = *(const struct entry *const *)b;
    return tpl__compare(x, &p->key, &q->key);
}

static void put_json_object(struct run *x, const struct value *v, const struct json_style *st,
                            int depth)
{
    const struct dict *d = v->dict;
    const struct entry **order = tpl__alloc(x, d->n, sizeof(*order));
    if (!order)
        return;
    for (size_t i = 0; i < d->n; i++)
        order[i] = &d->entries[i];
    if (st->sort_keys && d->n > 1)
        qsort_r(order, d->n, sizeof(*order), by_key, x);
    tpl__put_as(x, "{", 1, v->client);
    for (size_t i = 0; i < d->n && x->r == 0; i++) {
        if (i)
            tpl__put_as(x, st->item_sep.s, st->item_sep.n, v->client);
        new_line(x, st, depth + 1, v->client);
        put_json_key(x, &order[i]->key, st);
        tpl__put_as(x, st->key_sep.s, st->key_sep.n, v->client);
        tpl__put_json(x, &order[i]->value, st, depth + 1);
    }
    if (d->n)
        new_line(x, st, depth, v->client);
    tpl__put_as(x, "}", 1, v->client);
}

static void put_json_list(struct run *x, const struct value *v, const struct json_style *st,
                          int depth)
{
    const struct list *l = v->list;
    tpl__put_as(x, "[", 1, v->client);
    for (size_t i = 0; i < l->n && x->r == 0; i++) {
        if (i)
            tpl__put_as(x, st->item_sep.s, st->item_sep.n, v->client);
        new_line(x, st, depth + 1, v->client);
        tpl__put_json(x, &l->items[i], st, depth + 1);
    }
    if (l->n)
        new_line(x, st, depth, v->client);
    tpl__put_as(x, "]", 1, v->client);
}

void tpl__put_json(struct run *x, const struct value *v, const struct json_style *st, int depth)
{
    if (!tpl__charge(x, 0))
        return;
    if (depth > TPL_MAX_REPR_DEPTH) {
        tpl__fail(x, ERR_LIMIT, "values are nested too deep to be written");
        return;
    }
    switch (v->type) {
    case V_NONE:
        tpl__put_as(x, "null", 4, v->client);
        break;
    case V_BOOL:
        tpl__put_as(x, v->b ? "true" : "false", v->b ? 4 : 5, v->client);
        break;
    case V_FLOAT:
        if (isnan(v->f) || isinf(v->f))
            tpl__put_cstring(x, isnan(v->f) ? "NaN" : v->f > 0 ? "Infinity" : "-Infinity");
        else
            put_number(x, v, v->client);
        break;
    case V_INT:
        put_number(x, v, v->client);
        break;
    case V_STRING:
        if (v->null)
            tpl__put_as(x, "null", 4, true);
        else
            put_json_string(x, v->str, st);
        break;
    case V_LIST:
    case V_TUPLE:
        put_json_list(x, v, st, depth);
        break;
    case V_DICT:
        put_json_object(x, v, st, depth);
        break;
    case V_UNDEFINED:
        tpl__fail(x, ERR_INVAL, "tojson of something undefined%s%.*s", v->str ? ": " : "",
                  v->str ? (int)v->str->n : 0, v->str ? v->str->s : "");
        break;
    default:
        tpl__fail(x, ERR_INVAL, "a %s has no JSON form", tpl__type_name(v));
    }
}

/* --- the client's JSON ---------------------------------------------------------------------------- */

/* copy: the tree goes before the rendering ends. */
static struct value client_string(struct run *x, const char *s, bool copy)
{
    size_t n = strlen(s);
    unsigned char *mark = n ? tpl__alloc(x, n, 1) : NULL;
    char *copied = n && copy ? tpl__alloc(x, n, 1) : NULL;
    if (mark)
        memset(mark, 1, n);
    if (copied)
        memcpy(copied, s, n);
    if (!tpl__charge(x, n / 32))
        return tpl__undefined(NULL);
    return tpl__string(x, copied ? copied : n ? s : "", n, mark);
}

static struct value from_json(struct run *x, const cJSON *j, bool copy, int depth)
{
    struct value v = {.type = V_NONE, .client = true};
    const cJSON *at;
    if (!tpl__charge(x, 0))
        return tpl__undefined(NULL);
    if (depth > TPL_MAX_REPR_DEPTH)
        return tpl__fail(x, ERR_LIMIT, "the messages are nested too deep");
    if (cJSON_IsString(j)) {
        v = client_string(x, j->valuestring, copy);
    } else if (cJSON_IsBool(j)) {
        v.type = V_BOOL;
        v.b = cJSON_IsTrue(j);
    } else if (cJSON_IsNumber(j)) {
        /* the tree does not tell 1 from 1.0 */
        bool whole = j->valuedouble == floor(j->valuedouble) && fabs(j->valuedouble) < 1e18;
        v.type = whole ? V_INT : V_FLOAT;
        if (whole)
            v.i = (int64_t)j->valuedouble;
        else
            v.f = j->valuedouble;
    } else if (cJSON_IsArray(j)) {
        v = tpl__list(x, V_LIST, 0);
        cJSON_ArrayForEach(at, j)
        {
            struct value item = from_json(x, at, copy, depth + 1);
            if (x->r)
                break;
            tpl__append(x, v.list, item);
        }
    } else if (cJSON_IsObject(j)) {
        v = tpl__dict(x, V_DICT);
        cJSON_ArrayForEach(at, j)
        {
            struct value key = client_string(x, at->string, copy),
                         item = from_json(x, at, copy, depth + 1);
            if (x->r)
                break;
            tpl__dict_set(x, v.dict, key, item);
        }
    }
    v.client = true;
    return v;
}

struct value tpl__from_json(struct run *x, const cJSON *j)
{
    return from_json(x, j, false, 0);
}

/* Text of JSON to values that are the client's; undefined when it is none. */
struct value tpl__parse_json(struct run *x, const struct str *s)
{
    struct value v = tpl__undefined(NULL);
    errno = 0;
    cJSON *j = x->r || !tpl__charge(x, s->n / 8) ? NULL : cJSON_ParseWithLength(s->s, s->n);
    if (!j && !x->r && errno == ENOMEM)
        tpl__fail(x, ERR_NOMEM, "out of memory");
    if (j)
        v = from_json(x, j, true, 0);
    cJSON_Delete(j);
    return v;
}

/* Arguments as an object; none at all are an empty one, since templates walk through them. */
static void parse_call(struct run *x, struct value *call)
{
    static const unsigned char marks[2] = {1, 1};
    static const struct str key = {"arguments", NULL, 9}, none = {"{}", marks, 2};
    struct value *f = call->type == V_DICT ? tpl__dict_find_name(x, call->dict, "function", 8) : NULL;
    if (!f || f->type != V_DICT)
        return;
    struct value *args = tpl__dict_find_name(x, f->dict, "arguments", 9), v;
    if (!args || args->type == V_NONE ||
        (args->type == V_STRING && text_rstrip(args->str->s, args->str->n) == 0)) {
        v = tpl__dict(x, V_DICT);
        if (x->r)
            return;
        v.client = true;
        v.dict->source = &none;
        tpl__dict_set(x, f->dict, (struct value){.type = V_STRING, .str = &key}, v);
        return;
    }
    if (args->type != V_STRING)
        return;
    v = tpl__parse_json(x, args->str);
    if (v.type == V_DICT) {
        v.dict->source = args->str;
        *args = v;
    }
}

/* Roles are words of a fixed list: templates make control tokens of them ("<|" + role + "|>"), which a mark
 * would forbid. */
static void unmark_role(struct run *x, const struct dict *m)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    struct value *role = tpl__dict_find_name(x, m, "role", 4);
    for (size_t i = 0; role && role->type == V_STRING && i < sizeof(roles) / sizeof(*roles); i++)
        if (tpl__is(role->str, roles[i])) {
            *role = tpl__string(x, roles[i], strlen(roles[i]), NULL);
            return;
        }
}

static void adapt_message(struct run *x, struct dict *m)
{
    static const struct str content_name = {"content", NULL, 7}, empty = {"", NULL, 0};
    const struct value null = {.type = V_STRING, .null = true, .str = &empty};
    unmark_role(x, m);
    struct value *calls = tpl__dict_find_name(x, m, "tool_calls", 10);
    if (!calls || !tpl__is_list(calls))
        return;
    for (size_t i = 0; i < calls->list->n && x->r == 0; i++)
        parse_call(x, &calls->list->items[i]);
    struct value *content = tpl__dict_find_name(x, m, "content", 7);
    if (!content)
        tpl__dict_set(x, m, (struct value){.type = V_STRING, .str = &content_name}, null);
    else if (content->type == V_NONE)
        *content = null;
}

struct value tpl__from_messages(struct run *x, const cJSON *j, bool adapt)
{
    struct value messages = from_json(x, j, false, 0);
    for (size_t i = 0; adapt && tpl__is_list(&messages) && x->r == 0 && i < messages.list->n; i++)
        if (messages.list->items[i].type == V_DICT)
            adapt_message(x, messages.list->items[i].dict);
    return messages;
}
