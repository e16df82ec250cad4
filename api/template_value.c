/* api/template_value.c - making and comparing values, dictionaries, and the stack on which texts
 * grow. */
#include "config.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/template_text.h"
#include "api/template_value.h"
#include "base/hash.h"

#define SMALL_DICT 8

struct value tpl__fail(struct run *x, int code, const char *fmt, ...)
{
    char text[300];
    va_list ap;
    if (x->r == 0) {
        va_start(ap, fmt);
        vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        x->r = x->line ? err_set_param(x->e, code, "messages", "chat template, line %d: %s",
                                       x->line, text)
                       : err_set_param(x->e, code, "messages", "%s", text);
    }
    return tpl__undefined(NULL);
}

bool tpl__charge(struct run *x, size_t units)
{
    if (x->r)
        return false;
    x->work += units + 1;
    if (units <= TPL_MAX_WORK && x->work <= TPL_MAX_WORK)
        return true;
    tpl__fail(x, ERR_LIMIT, "the template does too much work on these messages");
    return false;
}

void *tpl__alloc(struct run *x, size_t n, size_t elem_bytes)
{
    void *p = x->r ? NULL : arena_array(x->arena, n ? n : 1, elem_bytes);
    if (!p && arena_starved(x->arena))
        tpl__fail(x, ERR_NOMEM, "out of memory");
    else if (!p)
        tpl__fail(x, ERR_LIMIT, "the rendering needs too much memory");
    return p;
}

/* --- making values -------------------------------------------------------------------------------- */

struct value tpl__string(struct run *x, const char *s, size_t n, const unsigned char *mark)
{
    struct str *str = tpl__alloc(x, 1, sizeof(*str));
    if (!str)
        return tpl__undefined(NULL);
    *str = (struct str){s, mark, n};
    return (struct value){.type = V_STRING, .str = str};
}

struct value tpl__cstring(struct run *x, const char *s)
{
    size_t n = strlen(s);
    char *copy = tpl__alloc(x, n + 1, 1);
    if (!copy)
        return tpl__undefined(NULL);
    memcpy(copy, s, n);
    return tpl__string(x, copy, n, NULL);
}

struct value tpl__list(struct run *x, enum type type, size_t cap)
{
    struct list *l = tpl__alloc(x, 1, sizeof(*l));
    struct value *items = l && cap ? tpl__alloc(x, cap, sizeof(*items)) : NULL;
    if (!l || (cap && !items) || !tpl__charge(x, cap / 4))
        return tpl__undefined(NULL);
    *l = (struct list){.items = items, .cap = cap};
    return (struct value){.type = type, .list = l};
}

void tpl__append(struct run *x, struct list *l, struct value v)
{
    if (x->r)
        return;
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 8;
        struct value *items = tpl__alloc(x, cap, sizeof(*items));
        if (!items || !tpl__charge(x, cap / 4))
            return;
        if (l->n)
            memcpy(items, l->items, l->n * sizeof(*items));
        l->items = items;
        l->cap = cap;
    }
    l->items[l->n++] = v;
}

struct value tpl__pair(struct run *x, struct value a, struct value b)
{
    struct value t = tpl__list(x, V_TUPLE, 2);
    if (x->r == 0) {
        tpl__append(x, t.list, a);
        tpl__append(x, t.list, b);
    }
    return t;
}

struct value tpl__dict(struct run *x, enum type type)
{
    struct dict *d = tpl__alloc(x, 1, sizeof(*d));
    return d ? (struct value){.type = type, .dict = d} : tpl__undefined(NULL);
}

/* --- dictionaries --------------------------------------------------------------------------------- */

static bool key_hash(struct run *x, const struct value *k, uint64_t *ret)
{
    double f;
    switch (k->type) {
    case V_STRING:
        *ret = hash64_bytes(k->str->s, k->str->n, x->hash_seed);
        return true;
    case V_BOOL:
    case V_INT:
    case V_FLOAT: /* 1, 1.0 and true are one key */
        f = tpl__double(k) + 0.0;
        *ret = hash64_bytes(&f, sizeof(f), x->hash_seed);
        return true;
    case V_NONE:
    case V_UNDEFINED:
        *ret = x->hash_seed;
        return true;
    case V_TUPLE:
        *ret = k->list->n;
        return true;
    default:
        tpl__fail(x, ERR_INVAL, "a %s cannot be a key", tpl__type_name(k));
        return false;
    }
}

static void put_index(struct dict *d, uint64_t hash, uint32_t entry)
{
    size_t at = hash & (d->index_cap - 1);
    while (d->index[at])
        at = (at + 1) & (d->index_cap - 1);
    d->index[at] = entry + 1;
}

static bool make_index(struct run *x, struct dict *d)
{
    size_t cap = 32;
    uint64_t hash;
    while (cap < 2 * d->cap)
        cap *= 2;
    d->index = tpl__alloc(x, cap, sizeof(*d->index));
    if (!d->index || !tpl__charge(x, cap / 8))
        return false;
    d->index_cap = cap;
    for (size_t i = 0; i < d->n; i++)
        if (key_hash(x, &d->entries[i].key, &hash))
            put_index(d, hash, (uint32_t)i);
    return true;
}

static struct entry *find(struct run *x, const struct dict *d, const struct value *key)
{
    uint64_t hash;
    if (x->r || !key_hash(x, key, &hash))
        return NULL;
    if (!d->index) {
        for (size_t i = 0; i < d->n; i++)
            if (tpl__equal(x, &d->entries[i].key, key))
                return &d->entries[i];
        return NULL;
    }
    for (size_t at = hash & (d->index_cap - 1); d->index[at] && tpl__charge(x, 0);
         at = (at + 1) & (d->index_cap - 1)) {
        struct entry *en = &d->entries[d->index[at] - 1];
        if (tpl__equal(x, &en->key, key))
            return en;
    }
    return NULL;
}

struct value *tpl__dict_find(struct run *x, const struct dict *d, const struct value *key)
{
    struct entry *en = find(x, d, key);
    return en ? &en->value : NULL;
}

struct value *tpl__dict_find_name(struct run *x, const struct dict *d, const char *s, size_t n)
{
    const struct str str = {s, NULL, n};
    const struct value key = {.type = V_STRING, .str = &str};
    return tpl__dict_find(x, d, &key);
}

void tpl__dict_set(struct run *x, struct dict *d, struct value key, struct value v)
{
    uint64_t hash;
    struct entry *en = find(x, d, &key);
    if (x->r)
        return;
    if (en) {
        en->value = v;
        return;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 4;
        struct entry *entries = tpl__alloc(x, cap, sizeof(*entries));
        if (!entries || !tpl__charge(x, cap / 4))
            return;
        if (d->n)
            memcpy(entries, d->entries, d->n * sizeof(*entries));
        d->entries = entries;
        d->cap = cap;
        d->index = NULL;
    }
    d->entries[d->n++] = (struct entry){key, v};
    if (d->n <= SMALL_DICT)
        return;
    if (!d->index)
        make_index(x, d);
    else if (key_hash(x, &key, &hash))
        put_index(d, hash, (uint32_t)d->n - 1);
}

void tpl__dict_remove(struct run *x, struct dict *d, const struct value *key)
{
    struct entry *en = find(x, d, key);
    if (!en || !tpl__charge(x, d->n / 4))
        return;
    size_t i = (size_t)(en - d->entries);
    memmove(en, en + 1, (d->n - i - 1) * sizeof(*en));
    d->n--;
    d->index = NULL;
    if (d->n > SMALL_DICT)
        make_index(x, d);
}

/* --- text ----------------------------------------------------------------------------------------- */

size_t tpl__text_begin(const struct run *x)
{
    return x->n;
}

static bool room(struct run *x, size_t n)
{
    if (!tpl__charge(x, n / 32))
        return false;
    /* texts in the making lie above the output: they may be larger, within reason */
    if (n > 4 * x->max + 65536 || x->n > 4 * x->max + 65536 - n) {
        tpl__fail(x, ERR_LIMIT, "the rendered text is too long");
        return false;
    }
    if (x->n + n + 1 > x->cap) {
        size_t cap = (x->n + n + 1) * 2;
        char *text = realloc(x->text, cap);
        x->text = text ? text : x->text;
        unsigned char *mark = text ? realloc(x->mark, cap) : NULL;
        x->mark = mark ? mark : x->mark;
        if (!mark) {
            tpl__fail(x, ERR_NOMEM, "out of memory");
            return false;
        }
        x->cap = cap;
    }
    return true;
}

void tpl__put(struct run *x, const char *s, const unsigned char *mark, size_t n)
{
    if (n == 0 || !room(x, n))
        return;
    memcpy(x->text + x->n, s, n);
    if (mark)
        memcpy(x->mark + x->n, mark, n);
    else
        memset(x->mark + x->n, 0, n);
    x->n += n;
}

void tpl__put_as(struct run *x, const char *s, size_t n, bool client)
{
    size_t at = x->n;
    tpl__put(x, s, NULL, n);
    if (client && x->n == at + n)
        memset(x->mark + at, 1, n);
}

void tpl__put_cstring(struct run *x, const char *s)
{
    tpl__put(x, s, NULL, strlen(s));
}

void tpl__put_part(struct run *x, const struct str *s, size_t from, size_t to)
{
    tpl__put(x, s->s + from, s->mark ? s->mark + from : NULL, to - from);
}

struct value tpl__text_end(struct run *x, size_t begin)
{
    size_t n = x->n - begin;
    x->n = begin;
    bool marked = x->r == 0 && n && memchr(x->mark + begin, 1, n);
    char *s = tpl__alloc(x, n + 1, 1);
    unsigned char *mark = marked ? tpl__alloc(x, n, 1) : NULL;
    if (!s || (marked && !mark))
        return tpl__undefined(NULL);
    if (n)
        memcpy(s, x->text + begin, n);
    if (mark)
        memcpy(mark, x->mark + begin, n);
    return tpl__string(x, s, n, mark);
}

struct value tpl__sub(struct run *x, const struct str *s, size_t from, size_t to)
{
    return tpl__string(x, s->s + from, to - from, s->mark ? s->mark + from : NULL);
}

struct value tpl__to_string(struct run *x, struct value v)
{
    if (v.type == V_STRING)
        return v;
    size_t begin = tpl__text_begin(x);
    tpl__put_value(x, &v);
    return tpl__text_end(x, begin);
}

/* --- asking values -------------------------------------------------------------------------------- */

bool tpl__number(const struct value *v)
{
    return v->type == V_INT || v->type == V_FLOAT || v->type == V_BOOL;
}

double tpl__double(const struct value *v)
{
    return v->type == V_FLOAT ? v->f : v->type == V_BOOL ? (double)v->b : (double)v->i;
}

bool tpl__integer(const struct value *v, int64_t *ret)
{
    if (v->type != V_INT && v->type != V_BOOL)
        return false;
    *ret = v->type == V_INT ? v->i : v->b;
    return true;
}

const char *tpl__type_name(const struct value *v)
{
    static const char *const names[] = {
        [V_ABSENT] = "Undefined",
        [V_UNDEFINED] = "Undefined",
        [V_NONE] = "NoneType",
        [V_BOOL] = "bool",
        [V_INT] = "int",
        [V_FLOAT] = "float",
        [V_STRING] = "str",
        [V_LIST] = "list",
        [V_TUPLE] = "tuple",
        [V_DICT] = "dict",
        [V_NAMESPACE] = "namespace",
        [V_LOOP] = "LoopContext",
        [V_MACRO] = "macro",
        [V_BUILTIN] = "function",
        [V_CYCLER] = "cycler",
        [V_JOINER] = "joiner",
    };
    return names[v->type];
}

bool tpl__truth(const struct value *v)
{
    switch (v->type) {
    case V_ABSENT:
    case V_UNDEFINED:
    case V_NONE:
        return false;
    case V_BOOL:
        return v->b;
    case V_INT:
        return v->i != 0;
    case V_FLOAT:
        return v->f != 0;
    case V_STRING:
        return v->str->n > 0;
    case V_LIST:
    case V_TUPLE:
        return v->list->n > 0;
    case V_DICT:
        return v->dict->n > 0;
    default:
        return true;
    }
}

static bool equal_at(struct run *x, const struct value *a, const struct value *b, int depth)
{
    if (tpl__number(a) && tpl__number(b)) {
        int64_t i, k;
        if (tpl__integer(a, &i) && tpl__integer(b, &k))
            return i == k;
        return tpl__double(a) == tpl__double(b);
    }
    if ((a->null && b->type == V_NONE) || (b->null && a->type == V_NONE))
        return true;
    if (a->type != b->type || !tpl__charge(x, 0))
        return false;
    if (depth > TPL_MAX_REPR_DEPTH) {
        tpl__fail(x, ERR_LIMIT, "values are nested too deep to be compared");
        return false;
    }
    switch (a->type) {
    case V_UNDEFINED:
    case V_NONE:
        return true;
    case V_STRING:
        return a->str->n == b->str->n && tpl__charge(x, a->str->n / 32) &&
               !memcmp(a->str->s, b->str->s, a->str->n);
    case V_LIST:
    case V_TUPLE:
        if (a->list == b->list || a->list->n != b->list->n)
            return a->list == b->list;
        for (size_t i = 0; i < a->list->n; i++)
            if (!equal_at(x, &a->list->items[i], &b->list->items[i], depth + 1))
                return false;
        return true;
    case V_DICT:
        if (a->dict == b->dict || a->dict->n != b->dict->n)
            return a->dict == b->dict;
        for (size_t i = 0; i < a->dict->n; i++) {
            const struct value *other = tpl__dict_find(x, b->dict, &a->dict->entries[i].key);
            if (!other || !equal_at(x, &a->dict->entries[i].value, other, depth + 1))
                return false;
        }
        return true;
    case V_BUILTIN:
        return a->bound->builtin == b->bound->builtin;
    default:
        return a->dict == b->dict; /* the same thing */
    }
}

bool tpl__equal(struct run *x, const struct value *a, const struct value *b)
{
    return equal_at(x, a, b, 0);
}

static int compare_at(struct run *x, const struct value *a, const struct value *b, int depth)
{
    int64_t i, k;
    if (!tpl__charge(x, 0))
        return 0;
    if (tpl__integer(a, &i) && tpl__integer(b, &k))
        return (i > k) - (i < k);
    if (tpl__number(a) && tpl__number(b)) {
        double f = tpl__double(a), g = tpl__double(b);
        return (f > g) - (f < g);
    }
    if (a->type == V_STRING && b->type == V_STRING) {
        size_t n = a->str->n < b->str->n ? a->str->n : b->str->n;
        int c = tpl__charge(x, n / 32) && n ? memcmp(a->str->s, b->str->s, n) : 0;
        return c ? c : (a->str->n > b->str->n) - (a->str->n < b->str->n);
    }
    if (tpl__is_list(a) && a->type == b->type && depth < TPL_MAX_REPR_DEPTH) {
        for (size_t at = 0; at < a->list->n && at < b->list->n; at++)
            if (!equal_at(x, &a->list->items[at], &b->list->items[at], depth))
                return compare_at(x, &a->list->items[at], &b->list->items[at], depth + 1);
        return (a->list->n > b->list->n) - (a->list->n < b->list->n);
    }
    tpl__fail(x, ERR_INVAL, "a %s and a %s have no order", tpl__type_name(a), tpl__type_name(b));
    return 0;
}

int tpl__compare(struct run *x, const struct value *a, const struct value *b)
{
    return compare_at(x, a, b, 0);
}

bool tpl__contains(struct run *x, const struct value *o, const struct value *v)
{
    switch (o->type) {
    case V_UNDEFINED:
        return false;
    case V_STRING:
        if (v->type != V_STRING)
            break;
        if (!tpl__charge(x, o->str->n / 32))
            return false;
        return v->str->n == 0 || memmem(o->str->s, o->str->n, v->str->s, v->str->n);
    case V_LIST:
    case V_TUPLE:
        for (size_t i = 0; i < o->list->n && x->r == 0; i++)
            if (tpl__equal(x, &o->list->items[i], v))
                return true;
        return false;
    case V_DICT:
        return tpl__dict_find(x, o->dict, v) != NULL;
    default:
        break;
    }
    tpl__fail(x, ERR_INVAL, "`in` cannot look for a %s in a %s", tpl__type_name(v),
              tpl__type_name(o));
    return false;
}

struct value tpl__iterate(struct run *x, const struct value *v)
{
    struct value l;
    switch (v->type) {
    case V_LIST:
    case V_TUPLE:
        return *v;
    case V_UNDEFINED:
        return tpl__list(x, V_LIST, 0);
    case V_DICT:
        l = tpl__list(x, V_LIST, v->dict->n);
        for (size_t i = 0; i < v->dict->n && x->r == 0; i++)
            tpl__append(x, l.list, v->dict->entries[i].key);
        return l;
    case V_STRING:
        l = tpl__list(x, V_LIST, 0);
        for (size_t at = 0, k; at < v->str->n && x->r == 0; at += k) {
            k = text_char_bytes(v->str->s + at, v->str->n - at);
            tpl__append(x, l.list, tpl__sub(x, v->str, at, at + k));
        }
        return l;
    default:
        return tpl__fail(x, ERR_INVAL, "a %s cannot be iterated over", tpl__type_name(v));
    }
}

int64_t tpl__length(struct run *x, const struct value *v)
{
    switch (v->type) {
    case V_UNDEFINED:
        return 0;
    case V_STRING:
        tpl__charge(x, v->str->n / 32);
        return (int64_t)text_chars(v->str->s, v->str->n);
    case V_LIST:
    case V_TUPLE:
        return (int64_t)v->list->n;
    case V_DICT:
        return (int64_t)v->dict->n;
    case V_LOOP:
        return (int64_t)v->loop->items->n;
    default:
        return -1;
    }
}
