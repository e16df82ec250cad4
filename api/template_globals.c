/* api/template_globals.c - the functions that a template finds: range, namespace, dict,
 * raise_exception and strftime_now as transformers has them, cycler, joiner; and Python's two ways
 * to format. */
#include "config.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "api/template_builtin.h"
#include "api/template_text.h"
#include "base/utf8.h"

#define COUNT(a) (sizeof(a) / sizeof(*(a)))
#define MAX_WIDTH 1000

/* --- functions ------------------------------------------------------------------------------------ */

static struct value g_range(struct run *x, struct value self, struct call *c)
{
    int64_t a[3] = {0, 0, 1}, n = 0;
    (void)self;
    for (int i = 0; i < 3; i++)
        if (c->bound[i].type != V_ABSENT && !tpl__integer(&c->bound[i], &a[i]))
            return tpl__fail(x, ERR_INVAL, "range needs whole numbers, not a %s",
                             tpl__type_name(&c->bound[i]));
    if (c->n_args == 1) {
        a[1] = a[0];
        a[0] = 0;
    }
    if (a[2] == 0)
        return tpl__fail(x, ERR_INVAL, "range: the step must not be 0");
    __int128 span = a[2] > 0 ? (__int128)a[1] - a[0] : (__int128)a[0] - a[1];
    __int128 step = a[2] > 0 ? a[2] : -(__int128)a[2];
    __int128 count = span > 0 ? (span + step - 1) / step : 0;
    if (count > TPL_MAX_RANGE)
        return tpl__fail(x, ERR_LIMIT, "range: more than %d numbers", TPL_MAX_RANGE);
    struct value l = tpl__list(x, V_LIST, (size_t)count);
    for (n = 0; n < (int64_t)count && x->r == 0; n++)
        tpl__append(x, l.list, tpl__int(a[0] + n * a[2]));
    return l;
}

static struct value make_dict(struct run *x, struct call *c, enum type type)
{
    struct value d = tpl__dict(x, type);
    if (x->r == 0 && c->n_args > 1)
        return tpl__fail(x, ERR_INVAL, "dict and namespace take one object");
    if (x->r == 0 && c->n_args)
        builtin__update(x, d.dict, &c->args[0]);
    for (int i = 0; i < c->n_kwargs && x->r == 0; i++)
        tpl__dict_set(x, d.dict, (struct value){.type = V_STRING, .str = c->names[i]},
                      c->kwargs[i]);
    return d;
}

static struct value g_dict(struct run *x, struct value self, struct call *c)
{
    (void)self;
    return make_dict(x, c, V_DICT);
}

static struct value g_namespace(struct run *x, struct value self, struct call *c)
{
    (void)self;
    return make_dict(x, c, V_NAMESPACE);
}

static struct value g_raise(struct run *x, struct value self, struct call *c)
{
    struct value text = tpl__to_string(x, c->bound[0]);
    (void)self;
    return x->r ? text
                : tpl__fail(x, ERR_INVAL, "%.*s", text.str->n < 250 ? (int)text.str->n : 250,
                            text.str->s);
}

static struct value g_strftime_now(struct run *x, struct value self, struct call *c)
{
    char format[128], text[512];
    time_t t = (time_t)x->now;
    struct tm tm;
    (void)self;
    const struct value *f = &c->bound[0];
    if (f->type != V_STRING || f->str->n + 2 > sizeof(format) || memchr(f->str->s, 0, f->str->n))
        return tpl__fail(x, ERR_INVAL, "strftime_now needs a format of at most %zu bytes",
                         sizeof(format) - 2);
    if (!localtime_r(&t, &tm))
        return tpl__fail(x, ERR_INVAL, "strftime_now: the clock is beyond the calendar");
    /* a byte more, so that 0 means failure only */
    int n = snprintf(format, sizeof(format), "%.*s ", (int)f->str->n, f->str->s);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    size_t len = n > 0 ? strftime(text, sizeof(text), format, &tm) : 0;
#pragma GCC diagnostic pop
    if (len == 0 || !utf8_valid(text, len))
        return tpl__fail(x, ERR_INVAL, "strftime_now: this format gives no text");
    text[len - 1] = 0;
    return tpl__cstring(x, text);
}

static struct value g_cycler(struct run *x, struct value self, struct call *c)
{
    struct cycler *cy = tpl__alloc(x, 1, sizeof(*cy));
    (void)self;
    if (!cy || c->n_args == 0)
        return tpl__fail(x, ERR_INVAL, "cycler needs values");
    cy->items = tpl__list(x, V_LIST, (size_t)c->n_args);
    for (int i = 0; i < c->n_args && x->r == 0; i++)
        tpl__append(x, cy->items.list, c->args[i]);
    return (struct value){.type = V_CYCLER, .cycler = cy};
}

static struct value g_joiner(struct run *x, struct value self, struct call *c)
{
    struct cycler *cy = tpl__alloc(x, 1, sizeof(*cy));
    (void)self;
    if (!cy)
        return tpl__undefined(NULL);
    cy->items = c->bound[0].type == V_ABSENT ? tpl__cstring(x, ", ") : c->bound[0];
    return (struct value){.type = V_JOINER, .cycler = cy};
}

static const struct builtin globals[] = {
    {"range", "start! stop step", g_range}, {"dict", "*", g_dict}, {"namespace", "*", g_namespace},
    {"raise_exception", "message!", g_raise}, {"strftime_now", "format!", g_strftime_now},
    {"cycler", "*", g_cycler}, {"joiner", "sep", g_joiner},
};

const struct builtin *tpl__find_global(const char *s, size_t n)
{
    return tpl__find(globals, COUNT(globals), s, n);
}

/* --- formats -------------------------------------------------------------------------------------- */

struct spec {
    char flags[8];
    int width, precision; /* precision -1: none */
    char kind;
};

/* Text of a number by a C format of the spec; false when v is none. */
static bool number_text(const struct value *v, const struct spec *s, char *dst, size_t dst_bytes)
{
    char format[32];
    int64_t i;
    if (!tpl__number(v))
        return false;
    bool whole = strchr("dixXo", s->kind) != NULL;
    if (whole && !tpl__integer(v, &i)) {
        if (v->type != V_FLOAT || !(v->f > -9e18 && v->f < 9e18) ||
            (s->kind != 'd' && s->kind != 'i'))
            return false;
        i = (int64_t)v->f;
    }
    snprintf(format, sizeof(format), "%%%s*%s%s%c", s->flags, s->precision >= 0 ? ".*" : "",
             whole ? "ll" : "", s->kind);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    if (whole && s->precision >= 0)
        snprintf(dst, dst_bytes, format, s->width, s->precision, (long long)i);
    else if (whole)
        snprintf(dst, dst_bytes, format, s->width, (long long)i);
    else if (s->precision >= 0)
        snprintf(dst, dst_bytes, format, s->width, s->precision, tpl__double(v));
    else
        snprintf(dst, dst_bytes, format, s->width, tpl__double(v));
#pragma GCC diagnostic pop
    return true;
}

static size_t read_number(const struct str *f, size_t at, int *ret)
{
    int n = 0;
    for (; at < f->n && isdigit((unsigned char)f->s[at]); at++)
        n = n < MAX_WIDTH ? n * 10 + (f->s[at] - '0') : n;
    *ret = n < MAX_WIDTH ? n : MAX_WIDTH;
    return at;
}

/* A text in its width, cut to its precision. */
static void put_padded(struct run *x, struct value v, const struct spec *s, char align)
{
    if (x->r)
        return;
    size_t end =
        s->precision >= 0 ? text_offset(v.str->s, v.str->n, (size_t)s->precision) : v.str->n;
    int n = (int)text_chars(v.str->s, end), fill = s->width > n ? s->width - n : 0;
    int left = align == '<' ? 0 : align == '^' ? fill / 2 : fill;
    for (int i = 0; i < left; i++)
        tpl__put(x, " ", NULL, 1);
    tpl__put_part(x, v.str, 0, end);
    for (int i = left; i < fill; i++)
        tpl__put(x, " ", NULL, 1);
}

static void put_percent(struct run *x, struct value v, const struct spec *s)
{
    char text[MAX_WIDTH * 2 + 400];
    size_t begin = tpl__text_begin(x);
    if (strchr("dixXofeEgG", s->kind)) {
        if (s->width > MAX_WIDTH || s->precision > MAX_WIDTH ||
            !number_text(&v, s, text, sizeof(text)))
            tpl__fail(x, ERR_INVAL, "%%%c needs a number, not a %s", s->kind, tpl__type_name(&v));
        else
            tpl__put_as(x, text, strlen(text), v.client);
        return;
    }
    if (s->kind == 's')
        tpl__put_value(x, &v);
    else
        tpl__put_repr(x, &v, 1);
    put_padded(x, tpl__text_end(x, begin), s, strchr(s->flags, '-') ? '<' : '>');
}

struct value tpl__format_percent(struct run *x, const struct str *f, struct value args)
{
    size_t begin = tpl__text_begin(x), used = 0, from = 0;
    const size_t n_args = args.type == V_TUPLE ? args.list->n : 1;
    for (size_t at = 0; at < f->n && x->r == 0;) {
        if (f->s[at] != '%') {
            at++;
            continue;
        }
        struct spec s = {.precision = -1};
        struct value v = tpl__undefined(NULL);
        tpl__put_part(x, f, from, at++);
        bool named = at < f->n && f->s[at] == '(';
        if (named) {
            const char *close = memchr(f->s + at, ')', f->n - at);
            size_t end = close ? (size_t)(close - f->s) : f->n;
            const struct value *found =
                close && args.type == V_DICT
                    ? tpl__dict_find_name(x, args.dict, f->s + at + 1, end - at - 1)
                    : NULL;
            if (!found)
                return tpl__fail(x, ERR_INVAL, "the format names a value that is not there");
            v = *found;
            at = end + 1;
        }
        for (size_t k = 0; at < f->n && strchr("-+ #0", f->s[at]) && k + 1 < sizeof(s.flags); at++)
            s.flags[k++] = f->s[at];
        at = read_number(f, at, &s.width);
        if (at < f->n && f->s[at] == '.')
            at = read_number(f, at + 1, &s.precision);
        if (at >= f->n || !strchr("diouxXeEfFgGsra%", f->s[at]))
            return tpl__fail(x, ERR_INVAL, "the format has a %% without a kind");
        s.kind = f->s[at] == 'F' ? 'f' : f->s[at] == 'u' ? 'd' : f->s[at];
        from = ++at;
        if (s.kind == '%') {
            tpl__put(x, "%", NULL, 1);
            continue;
        }
        if (!named && used >= n_args)
            return tpl__fail(x, ERR_INVAL, "the format wants more values than there are");
        if (!named)
            v = args.type == V_TUPLE ? args.list->items[used] : args;
        used += !named;
        put_percent(x, v, &s);
    }
    tpl__put_part(x, f, from, f->n);
    /* as Python: only what cannot be indexed by a name must be used up */
    bool indexed = args.type == V_DICT || args.type == V_LIST || args.type == V_UNDEFINED;
    if (x->r == 0 && used < n_args && !indexed)
        return tpl__fail(x, ERR_INVAL, "the format wants fewer values than there are");
    return tpl__text_end(x, begin);
}

/* [[fill]align][0][width][.precision][kind] */
static void put_braced(struct run *x, struct value v, const struct str *spec, bool repr)
{
    struct spec s = {.precision = -1};
    char align = 0, text[MAX_WIDTH * 2 + 400];
    size_t at = 0, begin = tpl__text_begin(x);
    if (spec->n && strchr("<>^", spec->s[0]))
        align = spec->s[at++];
    if (at < spec->n && strchr("+ ", spec->s[at]))
        s.flags[0] = spec->s[at++];
    if (at < spec->n && spec->s[at] == '0' && !align)
        s.flags[strlen(s.flags)] = spec->s[at++];
    at = read_number(spec, at, &s.width);
    if (at < spec->n && spec->s[at] == '.')
        at = read_number(spec, at + 1, &s.precision);
    s.kind = at < spec->n ? spec->s[at++] : 0;
    if (at < spec->n || (s.kind && !strchr("sdxXofeEgG", s.kind))) {
        tpl__fail(x, ERR_UNSUPPORTED, "the format \"%.*s\" is not served",
                  spec->n < 40 ? (int)spec->n : 40, spec->s);
        return;
    }
    bool number = tpl__number(&v) && v.type != V_BOOL && !repr;
    if (number && (s.kind ? s.kind != 's' : s.precision >= 0 || *s.flags)) {
        s.kind = s.kind ? s.kind : v.type == V_INT ? 'd' : 'g';
        if (align)
            s.width += 0;
        struct spec bare = s;
        bare.width = align ? 0 : s.width;
        if (!number_text(&v, &bare, text, sizeof(text))) {
            tpl__fail(x, ERR_INVAL, "a %s has no format %c", tpl__type_name(&v), s.kind);
            return;
        }
        tpl__put_as(x, text, strlen(text), v.client);
    } else if (s.kind && s.kind != 's') {
        tpl__fail(x, ERR_INVAL, "a %s has no format %c", tpl__type_name(&v), s.kind);
        return;
    } else if (repr) {
        tpl__put_repr(x, &v, 1);
    } else {
        tpl__put_value(x, &v);
    }
    struct value made = tpl__text_end(x, begin);
    if (number)
        s.precision = -1;
    put_padded(x, made, &s, align ? align : number ? '>' : '<');
}

/* The value that "name.attr[0]" or "" or "1" names. */
static struct value braced_value(struct run *x, const struct str *s, size_t from, size_t to,
                                 struct call *c, int *next)
{
    size_t end = from;
    int i = 0;
    struct value v = tpl__undefined(NULL);
    while (end < to && s->s[end] != '.' && s->s[end] != '[')
        end++;
    bool number = end > from;
    for (size_t k = from; k < end; k++)
        number = number && isdigit((unsigned char)s->s[k]);
    if (end == from)
        i = (*next)++;
    else if (number)
        read_number(s, from, &i);
    if (end == from || number) {
        if (i >= c->n_args)
            return tpl__fail(x, ERR_INVAL, "format: there is no value %d", i);
        v = c->args[i];
    } else {
        int k = 0;
        while (k < c->n_kwargs && (c->names[k]->n != end - from ||
                                   memcmp(c->names[k]->s, s->s + from, end - from) != 0))
            k++;
        if (k == c->n_kwargs)
            return tpl__fail(x, ERR_INVAL, "format: there is no value %.*s",
                             (int)(end - from < 40 ? end - from : 40), s->s + from);
        v = c->kwargs[k];
    }
    if (end < to && s->s[end] == '.')
        v = tpl__attribute(x, v, tpl__sub(x, s, end + 1, to));
    else if (end < to)
        return tpl__fail(x, ERR_UNSUPPORTED, "format: [ ] is not served");
    return v;
}

struct value builtin__format_braces(struct run *x, const struct str *s, struct call *c)
{
    size_t begin = tpl__text_begin(x);
    int next = 0;
    for (size_t at = 0; at < s->n && x->r == 0;) {
        char ch = s->s[at];
        if (ch != '{' && ch != '}') {
            const char *stop = s->s + at;
            while (stop < s->s + s->n && *stop != '{' && *stop != '}')
                stop++;
            tpl__put_part(x, s, at, (size_t)(stop - s->s));
            at = (size_t)(stop - s->s);
            continue;
        }
        if (at + 1 < s->n && s->s[at + 1] == ch) {
            tpl__put_part(x, s, at, at + 1);
            at += 2;
            continue;
        }
        const char *close = ch == '{' ? memchr(s->s + at, '}', s->n - at) : NULL;
        if (!close)
            return tpl__fail(x, ERR_INVAL, "format: a single brace");
        size_t end = (size_t)(close - s->s), name_end = at + 1;
        while (name_end < end && s->s[name_end] != ':' && s->s[name_end] != '!')
            name_end++;
        struct value v = braced_value(x, s, at + 1, name_end, c, &next);
        bool repr = name_end + 1 < end && s->s[name_end] == '!' && s->s[name_end + 1] == 'r';
        if (name_end < end && s->s[name_end] == '!')
            name_end += 2;
        struct str spec = {"", NULL, 0};
        if (name_end < end && s->s[name_end] == ':')
            spec = (struct str){s->s + name_end + 1, NULL, end - name_end - 1};
        put_braced(x, v, &spec, repr);
        at = end + 1;
    }
    return tpl__text_end(x, begin);
}
