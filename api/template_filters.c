/* api/template_filters.c - filters on text and single values. Those on lists: template_lists.c. */
#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/template_builtin.h"
#include "api/template_lists.h"
#include "api/template_text.h"

#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static int64_t int_arg(struct run *x, const struct value *v, int64_t fallback)
{
    int64_t i = fallback;
    if (v->type != V_ABSENT && v->type != V_NONE && !tpl__integer(v, &i))
        tpl__fail(x, ERR_INVAL, "a whole number is expected, not a %s", tpl__type_name(v));
    return i;
}

static struct str str_arg(struct run *x, const struct value *v, const char *fallback)
{
    if (v->type == V_ABSENT || v->type == V_NONE)
        return (struct str){fallback, NULL, strlen(fallback)};
    if (v->type == V_STRING)
        return *v->str;
    tpl__fail(x, ERR_INVAL, "a string is expected, not a %s", tpl__type_name(v));
    return (struct str){"", NULL, 0};
}

/* --- text ----------------------------------------------------------------------------------------- */

static struct value f_string(struct run *x, struct value v, struct call *c)
{
    (void)c;
    return tpl__to_string(x, v);
}

static struct value f_safe(struct run *x, struct value v, struct call *c)
{
    (void)c;
    return tpl__to_string(x, v);
}

static struct value f_trim(struct run *x, struct value v, struct call *c)
{
    v = tpl__to_string(x, v);
    return x->r ? v : builtin__strip(x, v.str, &c->bound[0], true, true);
}

static struct value change_case(struct run *x, struct value v, enum text_case k)
{
    v = tpl__to_string(x, v);
    return x->r ? v : builtin__case(x, v.str, k);
}

static struct value f_upper(struct run *x, struct value v, struct call *c)
{
    (void)c;
    return change_case(x, v, CASE_UPPER);
}

static struct value f_lower(struct run *x, struct value v, struct call *c)
{
    (void)c;
    return change_case(x, v, CASE_LOWER);
}

static struct value f_title(struct run *x, struct value v, struct call *c)
{
    (void)c;
    return change_case(x, v, CASE_WORDS);
}

static struct value f_capitalize(struct run *x, struct value v, struct call *c)
{
    (void)c;
    return change_case(x, v, CASE_CAPITAL);
}

static struct value f_replace(struct run *x, struct value v, struct call *c)
{
    v = tpl__to_string(x, v);
    struct value from = tpl__to_string(x, c->bound[0]), to = tpl__to_string(x, c->bound[1]);
    return x->r ? v : builtin__replace(x, v.str, &from, &to, int_arg(x, &c->bound[2], -1));
}

static struct value f_center(struct run *x, struct value v, struct call *c)
{
    v = tpl__to_string(x, v);
    if (c->bound[0].type == V_ABSENT)
        c->bound[0] = tpl__int(80);
    return x->r ? v : builtin__center(x, v, c);
}

static struct value f_escape(struct run *x, struct value v, struct call *c)
{
    size_t begin = tpl__text_begin(x), from = 0, i = 0;
    (void)c;
    v = tpl__to_string(x, v);
    for (; x->r == 0 && i < v.str->n; i++) {
        char ch = v.str->s[i];
        const char *to = ch == '&'    ? "&amp;"
                         : ch == '<'  ? "&lt;"
                         : ch == '>'  ? "&gt;"
                         : ch == '\'' ? "&#39;"
                         : ch == '"'  ? "&#34;"
                                      : NULL;
        if (!to)
            continue;
        tpl__put_part(x, v.str, from, i);
        tpl__put_as(x, to, strlen(to), v.str->mark && v.str->mark[i]);
        from = i + 1;
    }
    if (x->r == 0)
        tpl__put_part(x, v.str, from, v.str->n);
    return tpl__text_end(x, begin);
}

/* Every line but the first, unless asked, and not those that are empty, unless asked. */
static struct value f_indent(struct run *x, struct value v, struct call *c)
{
    static const struct str space = {" ", NULL, 1};
    bool first = tpl__truth(&c->bound[1]), blank = tpl__truth(&c->bound[2]);
    struct str by = space;
    int64_t width = 1;
    if (c->bound[0].type == V_STRING)
        by = *c->bound[0].str;
    else
        width = int_arg(x, &c->bound[0], 4);
    if (v.type != V_STRING)
        return tpl__fail(x, ERR_INVAL, "indent needs a string, not a %s", tpl__type_name(&v));
    size_t begin = tpl__text_begin(x);
    for (size_t at = 0, k = 1; x->r == 0 && k; at += k) {
        size_t n = text_line(v.str->s + at, v.str->n - at, &k), end = at + n;
        if (at ? blank || n : first)
            for (int64_t i = 0; i < width && x->r == 0; i++)
                tpl__put(x, by.s, by.mark, by.n + (by.n == 0 && !tpl__charge(x, 0)));
        tpl__put_part(x, v.str, at, end);
        at = end;
        if (k == 1 && v.str->s[end] == '\r' && end + 1 == v.str->n)
            break; /* Jinja adds an end of a line to the text: the two are one */
        if (k)
            tpl__put_as(x, "\n", 1, v.str->mark && v.str->mark[end]);
    }
    return tpl__text_end(x, begin);
}

static struct value f_truncate(struct run *x, struct value v, struct call *c)
{
    if (v.type != V_STRING)
        return tpl__fail(x, ERR_INVAL, "truncate needs a string, not a %s", tpl__type_name(&v));
    int64_t length = int_arg(x, &c->bound[0], 255), leeway = int_arg(x, &c->bound[3], 5);
    struct str end = str_arg(x, &c->bound[2], "...");
    int64_t n_end = (int64_t)text_chars(end.s, end.n), n = x->r ? 0 : tpl__length(x, &v);
    if (x->r == 0 && (length < n_end || leeway < 0))
        return tpl__fail(x, ERR_INVAL, "truncate: the length is below that of its end");
    if (x->r || n <= length || n - length <= leeway)
        return v;
    size_t cut = text_offset(v.str->s, v.str->n, (size_t)(length - n_end));
    if (!tpl__truth(&c->bound[1])) { /* not within a word, if there is a blank before */
        const char *blank = memrchr(v.str->s, ' ', cut);
        cut = blank ? (size_t)(blank - v.str->s) : cut;
    }
    size_t begin = tpl__text_begin(x);
    tpl__put_part(x, v.str, 0, cut);
    tpl__put(x, end.s, end.mark, end.n);
    return tpl__text_end(x, begin);
}

static struct value f_wordcount(struct run *x, struct value v, struct call *c)
{
    int64_t words = 0;
    bool in_word = false;
    (void)c;
    v = tpl__to_string(x, v);
    for (size_t at = 0, n; x->r == 0 && at < v.str->n; at += n) {
        uint32_t ch = text_code_point(v.str->s + at, v.str->n - at, &n);
        bool word = ch == '_' || text_is(ch, TEXT_ALNUM);
        words += word && !in_word;
        in_word = word;
        tpl__charge(x, 0);
    }
    return tpl__int(words);
}

static struct value f_format(struct run *x, struct value v, struct call *c)
{
    v = tpl__to_string(x, v);
    struct value args = tpl__list(x, V_TUPLE, 0), named = tpl__dict(x, V_DICT);
    for (int i = 0; i < c->n_args && x->r == 0; i++)
        tpl__append(x, args.list, c->args[i]);
    for (int i = 0; i < c->n_kwargs && x->r == 0; i++)
        tpl__dict_set(x, named.dict, (struct value){.type = V_STRING, .str = c->names[i]},
                      c->kwargs[i]);
    if (x->r == 0 && c->n_args && c->n_kwargs)
        return tpl__fail(x, ERR_INVAL, "format takes positions or names, not both");
    return x->r ? v : tpl__format_percent(x, v.str, c->n_kwargs ? named : args);
}

static struct value f_tojson(struct run *x, struct value v, struct call *c)
{
    static char blanks[] = "                ";
    struct json_style st = {.ascii = tpl__truth(&c->bound[0]),
                            .sort_keys = tpl__truth(&c->bound[3])};
    const struct value *indent = &c->bound[1], *seps = &c->bound[2];
    int64_t width = 0;
    st.lines = indent->type != V_ABSENT && indent->type != V_NONE;
    if (st.lines && indent->type == V_STRING) {
        st.indent = *indent->str;
    } else if (st.lines) {
        width = int_arg(x, indent, 0);
        width = width < 0 ? 0 : width > 16 ? 16 : width;
        st.indent = (struct str){blanks, NULL, (size_t)width};
    }
    st.item_sep = str_arg(x, &(struct value){.type = V_ABSENT}, st.lines ? "," : ", ");
    st.key_sep = str_arg(x, &(struct value){.type = V_ABSENT}, ": ");
    if (tpl__is_list(seps) && seps->list->n == 2) {
        st.item_sep = str_arg(x, &seps->list->items[0], "");
        st.key_sep = str_arg(x, &seps->list->items[1], "");
    } else if (seps->type != V_ABSENT && seps->type != V_NONE) {
        return tpl__fail(x, ERR_INVAL, "tojson: separators are two strings");
    }
    size_t begin = tpl__text_begin(x);
    tpl__put_json(x, &v, &st, 0);
    return tpl__text_end(x, begin);
}

/* Not Jinja2's, but templates made for other engines use it. */
static struct value f_from_json(struct run *x, struct value v, struct call *c)
{
    (void)c;
    if (v.type != V_STRING)
        return tpl__fail(x, ERR_INVAL, "from_json needs a string, not a %s", tpl__type_name(&v));
    struct value made = tpl__parse_json(x, v.str);
    return made.type == V_UNDEFINED ? tpl__fail(x, ERR_INVAL, "from_json: the string is not JSON")
                                    : made;
}

/* --- numbers and the rest ------------------------------------------------------------------------- */

static struct value f_int(struct run *x, struct value v, struct call *c)
{
    struct value fallback = c->bound[0].type == V_ABSENT ? tpl__int(0) : c->bound[0];
    int64_t base = int_arg(x, &c->bound[1], 10), i;
    char text[80], *end = text;
    if (v.type == V_FLOAT && fabs(v.f) < 9e18)
        return (struct value){.type = V_INT, .client = v.client, .i = (int64_t)v.f};
    if (tpl__integer(&v, &i))
        return (struct value){.type = V_INT, .client = v.client, .i = i};
    if (v.type == V_UNDEFINED)
        return tpl__fail(x, ERR_INVAL, "int of something undefined");
    if (v.type != V_STRING || base < 2 || base > 36)
        return fallback;
    size_t from = text_lstrip(v.str->s, v.str->n), to = text_rstrip(v.str->s, v.str->n);
    if (to <= from || to - from >= sizeof(text))
        return fallback;
    memcpy(text, v.str->s + from, to - from);
    text[to - from] = 0;
    long long n = strtoll(text, &end, (int)base);
    if (*end) { /* as int(float(text)) */
        double f = strtod(text, &end);
        if (*end || !(fabs(f) < 9e18))
            return fallback;
        n = (long long)f;
    }
    return (struct value){.type = V_INT, .client = v.str->mark != NULL, .i = n};
}

static struct value f_float(struct run *x, struct value v, struct call *c)
{
    struct value zero = {.type = V_FLOAT, .f = 0};
    struct value fallback = c->bound[0].type == V_ABSENT ? zero : c->bound[0];
    char text[80], *end = text;
    if (tpl__number(&v))
        return (struct value){.type = V_FLOAT, .client = v.client, .f = tpl__double(&v)};
    if (v.type == V_UNDEFINED)
        return tpl__fail(x, ERR_INVAL, "float of something undefined");
    if (v.type != V_STRING)
        return fallback;
    size_t from = text_lstrip(v.str->s, v.str->n), to = text_rstrip(v.str->s, v.str->n);
    if (to <= from || to - from >= sizeof(text))
        return fallback;
    memcpy(text, v.str->s + from, to - from);
    text[to - from] = 0;
    double f = strtod(text, &end);
    return *end ? fallback : (struct value){.type = V_FLOAT, .client = v.str->mark != NULL, .f = f};
}

static struct value f_abs(struct run *x, struct value v, struct call *c)
{
    int64_t i;
    (void)c;
    if (v.type == V_FLOAT)
        return (struct value){.type = V_FLOAT, .client = v.client, .f = fabs(v.f)};
    if (!tpl__integer(&v, &i) || i == INT64_MIN)
        return tpl__fail(x, ERR_INVAL, "abs needs a number");
    return (struct value){.type = V_INT, .client = v.client, .i = i < 0 ? -i : i};
}

static struct value f_round(struct run *x, struct value v, struct call *c)
{
    int64_t digits = int_arg(x, &c->bound[0], 0);
    struct str method = str_arg(x, &c->bound[1], "common");
    char text[400];
    if (!tpl__number(&v))
        return tpl__fail(x, ERR_INVAL, "round needs a number");
    if (digits < -300 || digits > 300)
        return tpl__fail(x, ERR_INVAL, "round: too many digits");
    double f = tpl__double(&v), scale = pow(10, (double)digits);
    if (tpl__is(&method, "ceil"))
        f = ceil(f * scale) / scale;
    else if (tpl__is(&method, "floor"))
        f = floor(f * scale) / scale;
    else if (!tpl__is(&method, "common"))
        return tpl__fail(x, ERR_INVAL, "round: the method is common, ceil or floor");
    else if (digits >= 0 &&
             fabs(f) < 1e17) { /* to the nearest decimal, as Python does it: by the digits */
        snprintf(text, sizeof(text), "%.*f", (int)(digits > 40 ? 40 : digits), f);
        f = strtod(text, NULL);
    } else if (digits < 0) {
        f = nearbyint(f * scale) / scale;
    }
    /* round(3, 0) is 3 and round(3.0) is 3.0; Jinja gives a number with a point for "common" only
     * then */
    if (v.type != V_FLOAT && tpl__is(&method, "common"))
        return (struct value){.type = V_INT, .client = v.client, .i = (int64_t)f};
    return (struct value){.type = V_FLOAT, .client = v.client, .f = f};
}

static struct value f_default(struct run *x, struct value v, struct call *c)
{
    bool take = v.type == V_UNDEFINED || (tpl__truth(&c->bound[1]) && !tpl__truth(&v));
    if (!take)
        return v;
    return c->bound[0].type == V_ABSENT ? tpl__cstring(x, "") : c->bound[0];
}

static struct value f_length(struct run *x, struct value v, struct call *c)
{
    int64_t n = tpl__length(x, &v);
    (void)c;
    return n < 0 ? tpl__fail(x, ERR_INVAL, "a %s has no length", tpl__type_name(&v)) : tpl__int(n);
}

static struct value f_items(struct run *x, struct value v, struct call *c)
{
    (void)c;
    if (v.type == V_UNDEFINED)
        return tpl__list(x, V_LIST, 0);
    return v.type == V_DICT
               ? builtin__items(x, v.dict)
               : tpl__fail(x, ERR_INVAL, "items needs an object, not a %s", tpl__type_name(&v));
}

static struct value f_attr(struct run *x, struct value v, struct call *c)
{
    struct str name = str_arg(x, &c->bound[0], "");
    struct str *kept = tpl__alloc(x, 1, sizeof(*kept));
    if (!kept)
        return v;
    *kept = name;
    /* attributes only, not keys */
    return v.type == V_DICT && !tpl__find_method(&v, name.s, name.n) ? tpl__undefined(kept)
                                                                     : tpl__getattr(x, v, kept);
}

static struct value f_random(struct run *x, struct value v, struct call *c)
{
    (void)v;
    (void)c;
    return tpl__fail(x, ERR_UNSUPPORTED,
                     "the filter random is not served: a prompt has no chance in it");
}

static const struct builtin filters[] = {
    {"tojson", "ensure_ascii indent separators sort_keys", f_tojson},
    {"from_json", "", f_from_json},
    {"length", "", f_length},
    {"count", "", f_length},
    {"trim", "chars", f_trim},
    {"string", "", f_string},
    {"safe", "", f_safe},
    {"default", "default_value boolean", f_default},
    {"d", "default_value boolean", f_default},
    {"join", "d attribute", f_join},
    {"upper", "", f_upper},
    {"lower", "", f_lower},
    {"title", "", f_title},
    {"capitalize", "", f_capitalize},
    {"replace", "old! new! count", f_replace},
    {"center", "width", f_center},
    {"escape", "", f_escape},
    {"e", "", f_escape},
    {"forceescape", "", f_escape},
    {"indent", "width first blank", f_indent},
    {"truncate", "length killwords end leeway", f_truncate},
    {"wordcount", "", f_wordcount},
    {"format", "*", f_format},
    {"int", "default base", f_int},
    {"float", "default", f_float},
    {"abs", "", f_abs},
    {"round", "precision method", f_round},
    {"items", "", f_items},
    {"attr", "name!", f_attr},
    {"random", "", f_random},
    {"first", "", f_first},
    {"last", "", f_last},
    {"list", "", f_list},
    {"reverse", "", f_reverse},
    {"sort", "reverse case_sensitive attribute", f_sort},
    {"unique", "case_sensitive attribute", f_unique},
    {"min", "case_sensitive attribute", f_min},
    {"max", "case_sensitive attribute", f_max},
    {"sum", "attribute start", f_sum},
    {"map", "*", f_map},
    {"select", "*", f_select},
    {"reject", "*", f_reject},
    {"selectattr", "*", f_selectattr},
    {"rejectattr", "*", f_rejectattr},
    {"groupby", "attribute! default case_sensitive", f_groupby},
    {"dictsort", "case_sensitive by reverse", f_dictsort},
    {"batch", "linecount! fill_with", f_batch},
    {"slice", "slices! fill_with", f_slice},
};

const struct builtin *tpl__find(const struct builtin *table, size_t n_rows, const char *s, size_t n)
{
    for (size_t i = 0; i < n_rows; i++)
        if (!strncmp(table[i].name, s, n) && table[i].name[n] == 0)
            return &table[i];
    return NULL;
}

const struct builtin *tpl__find_filter(const char *s, size_t n)
{
    return tpl__find(filters, COUNT(filters), s, n);
}
