/* api/template_lists.c - filters on lists. Where Jinja2 makes a generator these make a list. */
#include "config.h"

#include "api/template_lists.h"

#include <stdlib.h>
#include <string.h>

#include "api/template_ast.h"
#include "api/template_builtin.h"

static int64_t int_arg(struct run *x, const struct value *v)
{
    int64_t i = 0;
    if (!tpl__integer(v, &i))
        tpl__fail(x, ERR_INVAL, "a whole number is expected, not a %s", tpl__type_name(v));
    return i;
}

struct value f_join(struct run *x, struct value v, struct call *c)
{
    struct value l = tpl__iterate(x, &v);
    size_t begin = tpl__text_begin(x);
    for (size_t i = 0; x->r == 0 && i < l.list->n; i++) {
        struct value it = l.list->items[i];
        if (i && c->bound[0].type != V_ABSENT)
            tpl__put_value(x, &c->bound[0]);
        if (c->bound[1].type != V_ABSENT && c->bound[1].type != V_NONE)
            it = tpl__attribute(x, it, c->bound[1]);
        tpl__put_value(x, &it);
    }
    return tpl__text_end(x, begin);
}

struct value f_first(struct run *x, struct value v, struct call *c)
{
    struct value l = tpl__iterate(x, &v);
    (void)c;
    return x->r || l.list->n == 0 ? tpl__undefined(NULL) : l.list->items[0];
}

struct value f_last(struct run *x, struct value v, struct call *c)
{
    struct value l = tpl__iterate(x, &v);
    (void)c;
    return x->r || l.list->n == 0 ? tpl__undefined(NULL) : l.list->items[l.list->n - 1];
}

static struct value copy_list(struct run *x, struct value v, bool backwards)
{
    struct value l = tpl__iterate(x, &v), made = tpl__list(x, V_LIST, x->r ? 0 : l.list->n);
    for (size_t i = 0; x->r == 0 && i < l.list->n; i++)
        tpl__append(x, made.list, l.list->items[backwards ? l.list->n - 1 - i : i]);
    made.client = l.client;
    return made;
}

struct value f_list(struct run *x, struct value v, struct call *c)
{
    (void)c;
    return copy_list(x, v, false);
}

struct value f_reverse(struct run *x, struct value v, struct call *c)
{
    struct value l = copy_list(x, v, true);
    size_t begin = tpl__text_begin(x);
    (void)c;
    if (v.type != V_STRING)
        return l;
    for (size_t i = 0; x->r == 0 && i < l.list->n; i++)
        tpl__put_value(x, &l.list->items[i]);
    return tpl__text_end(x, begin);
}

/* --- by a key ------------------------------------------------------------------------------------- */

/* What an item is ordered or grouped by. */
static struct value key_of(struct run *x, struct value v, const struct value *attribute,
                           bool case_sensitive)
{
    if (attribute->type != V_ABSENT && attribute->type != V_NONE)
        v = tpl__attribute(x, v, *attribute);
    return x->r == 0 && v.type == V_STRING && !case_sensitive ? builtin__case(x, v.str, CASE_LOWER)
                                                              : v;
}

/* "a,b": several attributes. A list also of one: lists are compared only where they differ, so that what has
 * no order (undefined, none) may be in all of them. */
static struct value keys_of(struct run *x, struct value v, const struct value *attribute,
                            bool case_sensitive)
{
    struct value t = tpl__list(x, V_LIST, 1);
    if (attribute->type != V_STRING) {
        tpl__append(x, t.list, key_of(x, v, attribute, case_sensitive));
        return t;
    }
    for (size_t at = 0; at <= attribute->str->n && x->r == 0;) {
        const char *comma = memchr(attribute->str->s + at, ',', attribute->str->n - at);
        size_t end = comma ? (size_t)(comma - attribute->str->s) : attribute->str->n;
        struct value part = tpl__sub(x, attribute->str, at, end);
        tpl__append(x, t.list, key_of(x, v, &part, case_sensitive));
        at = end + 1;
    }
    return t;
}

struct keyed {
    struct value key, item;
    size_t at;
};

/* qsort is not stable by itself: equal keys stay in their order by position. */
static int by_key(const void *a, const void *b, void *x)
{
    const struct keyed *p = a, *q = b;
    int c = tpl__compare(x, &p->key, &q->key);
    return c ? c : p->at < q->at ? -1 : 1;
}

static int by_key_down(const void *a, const void *b, void *x)
{
    const struct keyed *p = a, *q = b;
    int c = tpl__compare(x, &q->key, &p->key);
    return c ? c : p->at < q->at ? -1 : 1;
}

static struct keyed *sorted(struct run *x, const struct value *l, const struct value *attribute,
                            bool case_sensitive, bool down)
{
    struct keyed *k = x->r ? NULL : tpl__alloc(x, l->list->n, sizeof(*k));
    if (!k)
        return NULL;
    for (size_t i = 0; i < l->list->n && x->r == 0; i++)
        k[i] = (struct keyed){keys_of(x, l->list->items[i], attribute, case_sensitive),
                              l->list->items[i], i};
    if (x->r == 0 && l->list->n > 1)
        qsort_r(k, l->list->n, sizeof(*k), down ? by_key_down : by_key, x);
    return x->r ? NULL : k;
}

struct value f_sort(struct run *x, struct value v, struct call *c)
{
    struct value l = tpl__iterate(x, &v), made = tpl__list(x, V_LIST, x->r ? 0 : l.list->n);
    const struct keyed *k =
        sorted(x, &l, &c->bound[2], tpl__truth(&c->bound[1]), tpl__truth(&c->bound[0]));
    for (size_t i = 0; k && i < l.list->n; i++)
        tpl__append(x, made.list, k[i].item);
    made.client = l.client;
    return made;
}

struct value f_unique(struct run *x, struct value v, struct call *c)
{
    struct value l = tpl__iterate(x, &v), made = tpl__list(x, V_LIST, 0),
                 seen = tpl__dict(x, V_DICT);
    for (size_t i = 0; x->r == 0 && i < l.list->n; i++) {
        struct value key = key_of(x, l.list->items[i], &c->bound[1], tpl__truth(&c->bound[0]));
        if (x->r || tpl__dict_find(x, seen.dict, &key))
            continue;
        tpl__dict_set(x, seen.dict, key, tpl__bool(true));
        tpl__append(x, made.list, l.list->items[i]);
    }
    return made;
}

static struct value extreme(struct run *x, struct value v, struct call *c, int sign)
{
    struct value l = tpl__iterate(x, &v), best = tpl__undefined(NULL), best_key = best;
    for (size_t i = 0; x->r == 0 && i < l.list->n; i++) {
        struct value key = key_of(x, l.list->items[i], &c->bound[1], tpl__truth(&c->bound[0]));
        if (x->r == 0 && (i == 0 || sign * tpl__compare(x, &key, &best_key) > 0)) {
            best = l.list->items[i];
            best_key = key;
        }
    }
    return best;
}

struct value f_min(struct run *x, struct value v, struct call *c)
{
    return extreme(x, v, c, -1);
}

struct value f_max(struct run *x, struct value v, struct call *c)
{
    return extreme(x, v, c, 1);
}

struct value f_sum(struct run *x, struct value v, struct call *c)
{
    struct value l = tpl__iterate(x, &v),
                 sum = c->bound[1].type == V_ABSENT ? tpl__int(0) : c->bound[1];
    for (size_t i = 0; x->r == 0 && i < l.list->n; i++) {
        struct value it = l.list->items[i];
        if (c->bound[0].type != V_ABSENT && c->bound[0].type != V_NONE)
            it = tpl__attribute(x, it, c->bound[0]);
        sum = tpl__binary(x, OP_ADD, sum, it);
    }
    return sum;
}

struct value f_groupby(struct run *x, struct value v, struct call *c)
{
    struct value l = tpl__iterate(x, &v), made = tpl__list(x, V_LIST, 0), group = made;
    const struct value *fallback = &c->bound[1];
    bool sensitive = tpl__truth(&c->bound[2]);
    struct keyed *k = x->r ? NULL : tpl__alloc(x, l.list->n, sizeof(*k));
    if (!k)
        return made;
    for (size_t i = 0; i < l.list->n && x->r == 0; i++) {
        struct value key = tpl__attribute(x, l.list->items[i], c->bound[0]);
        if (key.type == V_UNDEFINED && fallback->type != V_ABSENT)
            key = *fallback;
        if (x->r == 0 && key.type == V_STRING && !sensitive)
            key = builtin__case(x, key.str, CASE_LOWER);
        k[i] = (struct keyed){key, l.list->items[i], i};
    }
    if (x->r == 0 && l.list->n > 1)
        qsort_r(k, l.list->n, sizeof(*k), by_key, x);
    for (size_t i = 0; x->r == 0 && i < l.list->n; i++) {
        if (i == 0 || !tpl__equal(x, &k[i - 1].key, &k[i].key)) {
            struct value named = tpl__attribute(x, k[i].item, c->bound[0]);
            group = tpl__list(x, V_LIST, 0);
            struct value pair = tpl__pair(x, named.type == V_UNDEFINED ? k[i].key : named, group);
            if (x->r)
                break;
            pair.list->group = true;
            tpl__append(x, made.list, pair);
        }
        tpl__append(x, group.list, k[i].item);
    }
    return made;
}

struct value f_dictsort(struct run *x, struct value v, struct call *c)
{
    const struct value *by = &c->bound[1];
    bool by_value = by->type == V_STRING && tpl__is(by->str, "value");
    if (v.type != V_DICT)
        return tpl__fail(x, ERR_INVAL, "dictsort needs an object, not a %s", tpl__type_name(&v));
    if (by->type != V_ABSENT && !by_value && !(by->type == V_STRING && tpl__is(by->str, "key")))
        return tpl__fail(x, ERR_INVAL, "dictsort: by is key or value");
    struct value l = builtin__items(x, v.dict), made = tpl__list(x, V_LIST, v.dict->n);
    const struct value part = tpl__int(by_value);
    const struct keyed *k =
        sorted(x, &l, &part, tpl__truth(&c->bound[0]), tpl__truth(&c->bound[2]));
    for (size_t i = 0; k && i < l.list->n; i++)
        tpl__append(x, made.list, k[i].item);
    return made;
}

/* --- through filters and tests -------------------------------------------------------------------- */

static const struct value *kwarg(const struct call *c, const char *name)
{
    for (int i = 0; i < c->n_kwargs; i++)
        if (tpl__is(c->names[i], name))
            return &c->kwargs[i];
    return NULL;
}

/* These do not look into what counts as false: none passes for an empty list. */
static struct value some(struct run *x, struct value v)
{
    return tpl__truth(&v) ? tpl__iterate(x, &v) : tpl__list(x, V_LIST, 0);
}

struct value f_map(struct run *x, struct value v, struct call *c)
{
    struct value l = some(x, v), made = tpl__list(x, V_LIST, 0);
    const struct value *attribute = kwarg(c, "attribute"), *fallback = kwarg(c, "default");
    const struct builtin *filter = NULL;
    if (x->r)
        return made;
    if (!attribute || c->n_args) {
        attribute = NULL;
        if (c->n_args == 0 || c->args[0].type != V_STRING)
            return tpl__fail(x, ERR_INVAL, "map needs the name of a filter, or attribute=");
        filter = tpl__find_filter(c->args[0].str->s, c->args[0].str->n);
        if (!filter)
            return tpl__fail(x, ERR_UNSUPPORTED, "the filter \"%.40s\" is not known",
                             c->args[0].str->s);
    }
    for (size_t i = 0; i < l.list->n && x->r == 0; i++) {
        struct value it = l.list->items[i];
        if (attribute) {
            it = tpl__attribute(x, it, *attribute);
            if (it.type == V_UNDEFINED && fallback)
                it = *fallback;
        } else {
            struct call inner = {.args = c->args + 1, .n_args = c->n_args - 1, .names = c->names,
                                 .kwargs = c->kwargs, .n_kwargs = c->n_kwargs};
            it = tpl__deeper(x) ? tpl__call_builtin(x, filter, it, &inner) : it;
            x->depth--;
        }
        tpl__append(x, made.list, it);
    }
    return made;
}

/* Those that pass the test, or do not; by_attr: an attribute of theirs. */
static struct value pick(struct run *x, struct value v, struct call *c, bool by_attr, bool want)
{
    struct value l = some(x, v), made = tpl__list(x, V_LIST, 0);
    int at = by_attr; /* where the test's name is */
    if (x->r == 0 && c->n_args < at)
        return tpl__fail(x, ERR_INVAL, "selectattr and rejectattr need the name of an attribute");
    for (size_t i = 0; x->r == 0 && i < l.list->n; i++) {
        struct value it = l.list->items[i],
                     asked = by_attr ? tpl__attribute(x, it, c->args[0]) : it;
        bool yes = c->n_args > at ? builtin__passes(x, asked, &c->args[at], c->args + at + 1,
                                                    c->n_args - at - 1)
                                  : tpl__truth(&asked);
        if (yes == want)
            tpl__append(x, made.list, it);
    }
    return made;
}

struct value f_select(struct run *x, struct value v, struct call *c)
{
    return pick(x, v, c, false, true);
}

struct value f_reject(struct run *x, struct value v, struct call *c)
{
    return pick(x, v, c, false, false);
}

struct value f_selectattr(struct run *x, struct value v, struct call *c)
{
    return pick(x, v, c, true, true);
}

struct value f_rejectattr(struct run *x, struct value v, struct call *c)
{
    return pick(x, v, c, true, false);
}

/* --- in parts ------------------------------------------------------------------------------------- */

struct value f_batch(struct run *x, struct value v, struct call *c)
{
    struct value l = tpl__iterate(x, &v), made = tpl__list(x, V_LIST, 0), row = made;
    int64_t n = int_arg(x, &c->bound[0]);
    if (x->r || n < 1)
        return tpl__fail(x, ERR_INVAL, "batch needs a number of at least 1");
    for (size_t i = 0; x->r == 0 && i < l.list->n; i++) {
        if (i % (size_t)n == 0) {
            row = tpl__list(x, V_LIST, 0);
            tpl__append(x, made.list, row);
        }
        tpl__append(x, row.list, l.list->items[i]);
    }
    if (c->bound[1].type != V_ABSENT && c->bound[1].type != V_NONE && x->r == 0 && l.list->n)
        while (x->r == 0 && row.list->n < (size_t)n)
            tpl__append(x, row.list, c->bound[1]);
    return made;
}

struct value f_slice(struct run *x, struct value v, struct call *c)
{
    struct value l = tpl__iterate(x, &v), made = tpl__list(x, V_LIST, 0);
    int64_t slices = int_arg(x, &c->bound[0]);
    bool fill = c->bound[1].type != V_ABSENT && c->bound[1].type != V_NONE;
    if (x->r || slices < 1 || slices > TPL_MAX_RANGE)
        return tpl__fail(x, ERR_INVAL, "slice needs a number from 1 to %d", TPL_MAX_RANGE);
    size_t per = l.list->n / (size_t)slices, more = l.list->n % (size_t)slices, at = 0;
    for (size_t k = 0; k < (size_t)slices && x->r == 0; k++) {
        struct value row = tpl__list(x, V_LIST, 0);
        for (size_t i = 0; i < per + (k < more) && x->r == 0; i++)
            tpl__append(x, row.list, l.list->items[at++]);
        if (fill && k >= more && x->r == 0)
            tpl__append(x, row.list, c->bound[1]);
        tpl__append(x, made.list, row);
    }
    return made;
}
