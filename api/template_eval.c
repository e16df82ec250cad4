/* api/template_eval.c - expressions: the tree to values, with the rules of Python where Jinja2
 * leaves them to Python. */
#include "config.h"

#include <math.h>
#include <string.h>

#include "api/template_ast.h"
#include "api/template_text.h"

bool tpl__deeper(struct run *x)
{
    if (++x->depth > TPL_MAX_RUN_DEPTH)
        tpl__fail(x, ERR_LIMIT, "the template calls itself too deep");
    return tpl__charge(x, 0);
}

static struct value undefined_error(struct run *x, const struct value *v)
{
    if (v->str)
        return tpl__fail(x, ERR_INVAL, "'%.*s' is undefined", v->str->n < 60 ? (int)v->str->n : 60,
                         v->str->s);
    return tpl__fail(x, ERR_INVAL, "a value is undefined");
}

/* --- attributes and items ------------------------------------------------------------------------- */

static struct value bind(struct run *x, const struct builtin *b, struct value self)
{
    struct bound *bound = tpl__alloc(x, 1, sizeof(*bound));
    if (!bound)
        return tpl__undefined(NULL);
    *bound = (struct bound){b, self};
    return (struct value){.type = V_BUILTIN, .bound = bound};
}

struct value tpl__getattr(struct run *x, struct value o, const struct str *name)
{
    const struct builtin *method;
    const struct value *found = NULL;
    if (x->r)
        return tpl__undefined(NULL);
    if (o.type == V_UNDEFINED)
        return undefined_error(x, &o);
    if (o.type == V_LOOP)
        return tpl__loop_attr(x, o.loop, name);
    if (tpl__is_list(&o) && o.list->group && o.list->n == 2) {
        if (tpl__is(name, "grouper"))
            return o.list->items[0];
        if (tpl__is(name, "list"))
            return o.list->items[1];
    }
    /* a method hides a key of the same name, as in Python: o.items, but o['items'] */
    method = tpl__find_method(&o, name->s, name->n);
    if (method)
        return bind(x, method, o);
    if (o.type == V_DICT || o.type == V_NAMESPACE)
        found = tpl__dict_find_name(x, o.dict, name->s, name->n);
    return found ? *found : tpl__undefined(name);
}

static struct value list_item(const struct list *l, int64_t i)
{
    i += i < 0 ? (int64_t)l->n : 0;
    return i >= 0 && i < (int64_t)l->n ? l->items[i] : tpl__undefined(NULL);
}

static struct value string_item(struct run *x, const struct str *s, int64_t i)
{
    int64_t n = (int64_t)text_chars(s->s, s->n);
    tpl__charge(x, s->n / 32);
    i += i < 0 ? n : 0;
    if (i < 0 || i >= n)
        return tpl__undefined(NULL);
    size_t at = text_offset(s->s, s->n, (size_t)i);
    return tpl__sub(x, s, at, at + text_char_bytes(s->s + at, s->n - at));
}

struct value tpl__getitem(struct run *x, struct value o, struct value key)
{
    const struct value *found;
    int64_t i;
    if (x->r)
        return tpl__undefined(NULL);
    if (o.type == V_UNDEFINED)
        return undefined_error(x, &o);
    if (o.type == V_DICT) {
        if (key.type == V_LIST || key.type == V_DICT)
            return tpl__undefined(NULL);
        found = tpl__dict_find(x, o.dict, &key);
        if (found)
            return *found;
    } else if (tpl__is_list(&o) && tpl__integer(&key, &i)) {
        return list_item(o.list, i);
    } else if (o.type == V_STRING && tpl__integer(&key, &i)) {
        return string_item(x, o.str, i);
    }
    return key.type == V_STRING ? tpl__getattr(x, o, key.str) : tpl__undefined(NULL);
}

struct value tpl__attribute(struct run *x, struct value o, struct value path)
{
    if (path.type != V_STRING)
        return tpl__getitem(x, o, path);
    for (size_t at = 0; at <= path.str->n && x->r == 0;) {
        const char *dot = memchr(path.str->s + at, '.', path.str->n - at);
        size_t end = dot ? (size_t)(dot - path.str->s) : path.str->n;
        int64_t i = 0;
        bool number = end > at && end - at < 18;
        for (size_t k = at; k < end; k++) {
            number = number && path.str->s[k] >= '0' && path.str->s[k] <= '9';
            i = number ? i * 10 + (path.str->s[k] - '0') : 0;
        }
        o = tpl__getitem(x, o, number ? tpl__int(i) : tpl__sub(x, path.str, at, end));
        at = end + 1;
    }
    return o;
}

/* --- slices --------------------------------------------------------------------------------------- */

/* Python's rules: bounds beyond the ends are the ends. */
static bool slice_bound(struct run *x, const struct expr *ex, int64_t n, int64_t lo, int64_t hi,
                        int64_t fallback, int64_t *ret)
{
    int64_t i;
    *ret = fallback;
    if (!ex)
        return true;
    struct value v = tpl__eval(x, ex);
    if (v.type == V_NONE)
        return true;
    if (x->r || !tpl__integer(&v, &i)) {
        tpl__fail(x, ERR_INVAL, "the bounds of a slice must be whole numbers");
        return false;
    }
    i = i < 0 ? (i < -n ? lo : i + n) : i;
    *ret = i < lo ? lo : i > hi ? hi : i;
    return true;
}

static struct value slice(struct run *x, struct value o, const struct expr *ex)
{
    int64_t from, to, step = 1;
    struct value st = ex->c ? tpl__eval(x, ex->c) : tpl__int(1);
    if (o.type == V_UNDEFINED)
        return undefined_error(x, &o);
    if (st.type != V_NONE && (!tpl__integer(&st, &step) || step == 0))
        return tpl__fail(x, ERR_INVAL, "the step of a slice must be a whole number other than 0");
    if (o.type != V_STRING && !tpl__is_list(&o))
        return tpl__fail(x, ERR_INVAL, "a %s has no slices", tpl__type_name(&o));
    int64_t n = tpl__length(x, &o), lo = step < 0 ? -1 : 0, hi = step < 0 ? n - 1 : n;
    if (!slice_bound(x, ex->a, n, lo, hi, step < 0 ? hi : lo, &from) ||
        !slice_bound(x, ex->b, n, lo, hi, step < 0 ? lo : hi, &to))
        return tpl__undefined(NULL);
    if (o.type == V_STRING && step == 1) {
        size_t a = text_offset(o.str->s, o.str->n, (size_t)from);
        size_t b =
            to <= from ? a : a + text_offset(o.str->s + a, o.str->n - a, (size_t)(to - from));
        return tpl__sub(x, o.str, a, b);
    }
    struct value chars = tpl__iterate(x, &o),
                 part = tpl__list(x, o.type == V_TUPLE ? V_TUPLE : V_LIST, 0);
    if (x->r)
        return part;
    part.client = o.client;
    for (int64_t i = from; step > 0 ? i < to : i > to; i += step) {
        tpl__append(x, part.list, chars.list->items[i]);
        if (x->r || __builtin_add_overflow(i, step, &(int64_t){0}))
            break;
    }
    if (o.type != V_STRING || x->r)
        return part;
    size_t begin = tpl__text_begin(x);
    for (size_t i = 0; i < part.list->n; i++)
        tpl__put_value(x, &part.list->items[i]);
    return tpl__text_end(x, begin);
}

/* --- arithmetic ----------------------------------------------------------------------------------- */

static struct value from_double(double f, bool client)
{
    return (struct value){.type = V_FLOAT, .client = client, .f = f};
}

static struct value int_power(struct run *x, int64_t base, int64_t exponent)
{
    int64_t r = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(r, base, &r))
            return tpl__fail(x, ERR_INVAL, "a number grows beyond 64 bits");
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base))
            return tpl__fail(x, ERR_INVAL, "a number grows beyond 64 bits");
    }
    return tpl__int(r);
}

static struct value int_op(struct run *x, int op, int64_t a, int64_t b)
{
    int64_t r = 0;
    bool over = false;
    if ((op == OP_FLOORDIV || op == OP_MOD || op == OP_DIV) && b == 0)
        return tpl__fail(x, ERR_INVAL, "division by zero");
    switch (op) {
    case OP_ADD:
        over = __builtin_add_overflow(a, b, &r);
        break;
    case OP_SUB:
        over = __builtin_sub_overflow(a, b, &r);
        break;
    case OP_MUL:
        over = __builtin_mul_overflow(a, b, &r);
        break;
    case OP_DIV:
        return from_double((double)a / (double)b, false);
    case OP_POW:
        return b < 0 ? from_double(pow((double)a, (double)b), false) : int_power(x, a, b);
    default: /* division and remainder round down */
        if (b == -1) {
            over = op == OP_FLOORDIV && __builtin_sub_overflow((int64_t)0, a, &r);
            break;
        }
        r = op == OP_MOD ? a % b : a / b;
        if (a % b != 0 && (a < 0) != (b < 0))
            r += op == OP_MOD ? b : -1;
    }
    return over ? tpl__fail(x, ERR_INVAL, "a number grows beyond 64 bits") : tpl__int(r);
}

static struct value float_op(struct run *x, int op, double a, double b)
{
    double r;
    if ((op == OP_FLOORDIV || op == OP_MOD || op == OP_DIV) && b == 0)
        return tpl__fail(x, ERR_INVAL, "division by zero");
    switch (op) {
    case OP_ADD:
        return from_double(a + b, false);
    case OP_SUB:
        return from_double(a - b, false);
    case OP_MUL:
        return from_double(a * b, false);
    case OP_DIV:
        return from_double(a / b, false);
    case OP_POW:
        return from_double(pow(a, b), false);
    case OP_FLOORDIV:
        return from_double(floor(a / b), false);
    default:
        r = fmod(a, b);
        return from_double(r != 0 && (r < 0) != (b < 0) ? r + b : r, false);
    }
}

static struct value repeat(struct run *x, struct value v, int64_t times)
{
    if (v.type == V_STRING) {
        size_t begin = tpl__text_begin(x);
        if (v.str->n)
            for (int64_t i = 0; i < times && x->r == 0; i++) {
                tpl__put_value(x, &v);
                tpl__charge(x, 0);
            }
        return tpl__text_end(x, begin);
    }
    struct value l = tpl__list(x, v.type, 0);
    for (int64_t i = 0; i < times && v.list->n && x->r == 0; i++)
        for (size_t k = 0; k < v.list->n && x->r == 0; k++)
            tpl__append(x, l.list, v.list->items[k]);
    return l;
}

static struct value join_lists(struct run *x, struct value a, struct value b)
{
    struct value l = tpl__list(x, a.type, a.list->n + b.list->n);
    for (size_t i = 0; i < a.list->n && x->r == 0; i++)
        tpl__append(x, l.list, a.list->items[i]);
    for (size_t i = 0; i < b.list->n && x->r == 0; i++)
        tpl__append(x, l.list, b.list->items[i]);
    return l;
}

static bool is_text(const struct value *v)
{
    return v->type == V_STRING || (v->type == V_DICT && v->dict->source);
}

struct value tpl__binary(struct run *x, int op, struct value a, struct value b)
{
    static const char *const names[] = {"+", "-", "*", "/", "//", "%", "**", "~"};
    int64_t i, k;
    struct value v;
    if (!tpl__charge(x, 0))
        return tpl__undefined(NULL);
    if (op == OP_CONCAT || (op == OP_ADD && is_text(&a) && is_text(&b))) {
        size_t begin = tpl__text_begin(x);
        tpl__put_value(x, &a);
        tpl__put_value(x, &b);
        return tpl__text_end(x, begin);
    }
    if (op == OP_MOD && a.type == V_STRING)
        return tpl__format_percent(x, a.str, b);
    if (a.type == V_UNDEFINED || b.type == V_UNDEFINED)
        return undefined_error(x, a.type == V_UNDEFINED ? &a : &b);
    if (tpl__number(&a) && tpl__number(&b)) {
        v = tpl__integer(&a, &i) && tpl__integer(&b, &k)
                ? int_op(x, op, i, k)
                : float_op(x, op, tpl__double(&a), tpl__double(&b));
        v.client = a.client || b.client;
        return v;
    }
    if (op == OP_ADD && tpl__is_list(&a) && a.type == b.type)
        return join_lists(x, a, b);
    if (op == OP_MUL && (a.type == V_STRING || tpl__is_list(&a)) && tpl__integer(&b, &i))
        return repeat(x, a, i);
    if (op == OP_MUL && (b.type == V_STRING || tpl__is_list(&b)) && tpl__integer(&a, &i))
        return repeat(x, b, i);
    return tpl__fail(x, ERR_INVAL, "%s does not work between %s and %s", names[op],
                     tpl__type_name(&a), tpl__type_name(&b));
}

/* The operands of a ~ b ~ c, one after the other. */
static void put_concat(struct run *x, const struct expr *ex)
{
    struct value v;
    if (tpl__deeper(x)) {
        if (ex->a->kind == EX_BINARY && ex->a->op == OP_CONCAT) {
            put_concat(x, ex->a);
        } else {
            v = tpl__eval(x, ex->a);
            tpl__put_value(x, &v);
        }
        v = tpl__eval(x, ex->b);
        tpl__put_value(x, &v);
    }
    x->depth--;
}

static struct value eval_binary(struct run *x, const struct expr *ex)
{
    if (ex->op == OP_CONCAT) {
        size_t begin = tpl__text_begin(x);
        put_concat(x, ex);
        return tpl__text_end(x, begin);
    }
    struct value a = tpl__eval(x, ex->a), b = tpl__eval(x, ex->b);
    x->line = ex->line;
    return tpl__binary(x, ex->op, a, b);
}

static struct value eval_sign(struct run *x, const struct expr *ex)
{
    struct value v = tpl__eval(x, ex->a);
    int64_t i;
    x->line = ex->line;
    if (v.type == V_FLOAT)
        return from_double(ex->kind == EX_NEG ? -v.f : v.f, v.client);
    if (tpl__integer(&v, &i)) {
        struct value r = int_op(x, ex->kind == EX_NEG ? OP_SUB : OP_ADD, 0, i);
        r.client = v.client;
        return r;
    }
    return v.type == V_UNDEFINED ? undefined_error(x, &v)
                                 : tpl__fail(x, ERR_INVAL, "a %s has no sign", tpl__type_name(&v));
}

/* --- comparisons ---------------------------------------------------------------------------------- */

static bool holds(struct run *x, enum op op, struct value *a, struct value *b)
{
    switch (op) {
    case OP_EQ:
        return tpl__equal(x, a, b);
    case OP_NE:
        return !tpl__equal(x, a, b);
    case OP_IN:
        return tpl__contains(x, b, a);
    case OP_NOT_IN:
        return !tpl__contains(x, b, a);
    default:
        break;
    }
    if (a->type == V_UNDEFINED || b->type == V_UNDEFINED) {
        undefined_error(x, a->type == V_UNDEFINED ? a : b);
        return false;
    }
    int c = tpl__compare(x, a, b);
    return op == OP_LT ? c < 0 : op == OP_LE ? c <= 0 : op == OP_GT ? c > 0 : c >= 0;
}

static struct value eval_compare(struct run *x, const struct expr *ex)
{
    struct value a = tpl__eval(x, ex->a);
    for (const struct expr *link = ex->items; link && x->r == 0; link = link->next) {
        struct value b = tpl__eval(x, link->b);
        x->line = ex->line;
        if (x->r || !holds(x, link->op, &a, &b))
            return tpl__bool(false);
        a = b;
    }
    return tpl__bool(true);
}

/* --- calls ---------------------------------------------------------------------------------------- */

static void add_kwarg(struct run *x, struct call *c, int cap, const struct str *name,
                      struct value v)
{
    for (int i = 0; i < c->n_kwargs; i++)
        if (c->names[i]->n == name->n && !memcmp(c->names[i]->s, name->s, name->n))
            tpl__fail(x, ERR_INVAL, "the argument \"%.40s\" is given twice", name->s);
    if (x->r || c->n_kwargs >= cap)
        return;
    c->names[c->n_kwargs] = name;
    c->kwargs[c->n_kwargs++] = v;
}

static void spread(struct run *x, struct call *c, const struct arg *a, int *cap_args,
                   int *cap_kwargs)
{
    struct value v = tpl__eval(x, a->e);
    if (a->kind == ARG_SPREAD) {
        v = tpl__iterate(x, &v);
        size_t n = x->r ? 0 : v.list->n;
        struct value *args = tpl__alloc(x, (size_t)*cap_args + n, sizeof(*args));
        if (!args || !tpl__charge(x, n))
            return;
        if (c->n_args)
            memcpy(args, c->args, (size_t)c->n_args * sizeof(*args));
        c->args = args;
        for (size_t i = 0; i < n; i++)
            c->args[c->n_args++] = v.list->items[i];
        *cap_args += (int)n;
        return;
    }
    if (x->r || v.type != V_DICT || v.dict->n > 1000) {
        tpl__fail(x, ERR_INVAL, "** needs an object");
        return;
    }
    struct value *kwargs = tpl__alloc(x, (size_t)*cap_kwargs + v.dict->n, sizeof(*kwargs));
    const struct str **names = tpl__alloc(x, (size_t)*cap_kwargs + v.dict->n, sizeof(*names));
    if (!kwargs || !names)
        return;
    for (int i = 0; i < c->n_kwargs; i++) {
        names[i] = c->names[i];
        kwargs[i] = c->kwargs[i];
    }
    c->names = names;
    c->kwargs = kwargs;
    *cap_kwargs += (int)v.dict->n;
    for (size_t i = 0; i < v.dict->n && x->r == 0; i++) {
        if (v.dict->entries[i].key.type == V_STRING)
            add_kwarg(x, c, *cap_kwargs, v.dict->entries[i].key.str, v.dict->entries[i].value);
        else
            tpl__fail(x, ERR_INVAL, "** needs an object whose keys are names");
    }
}

void tpl__eval_args(struct run *x, const struct expr *ex, struct call *c)
{
    int cap_args = ex->n_items, cap_kwargs = ex->n_items;
    *c = (struct call){0};
    if (ex->n_items == 0)
        return;
    c->args = tpl__alloc(x, (size_t)cap_args, sizeof(*c->args));
    for (const struct arg *a = ex->args; a && x->r == 0; a = a->next) {
        if (a->kind == ARG_PLAIN) {
            c->args[c->n_args] = tpl__eval(x, a->e);
            c->n_args++;
        } else if (a->kind == ARG_NAMED) {
            if (!c->kwargs) {
                c->kwargs = tpl__alloc(x, (size_t)cap_kwargs, sizeof(*c->kwargs));
                c->names = tpl__alloc(x, (size_t)cap_kwargs, sizeof(*c->names));
            }
            if (x->r == 0)
                add_kwarg(x, c, cap_kwargs, a->name, tpl__eval(x, a->e));
        } else {
            spread(x, c, a, &cap_args, &cap_kwargs);
        }
    }
}

/* The names in params are told apart by spaces; one with "!" must be given. */
static bool bind_params(struct run *x, const struct builtin *b, struct call *c)
{
    int used = 0, i = 0;
    for (int k = 0; k < 8; k++)
        c->bound[k] = (struct value){.type = V_ABSENT};
    for (const char *s = b->params; *s; i++) {
        size_t n = strcspn(s, " !");
        if (i < c->n_args) {
            c->bound[i] = c->args[i];
        } else {
            for (int k = 0; k < c->n_kwargs; k++)
                if (c->names[k]->n == n && !memcmp(c->names[k]->s, s, n)) {
                    c->bound[i] = c->kwargs[k];
                    used++;
                }
        }
        if (s[n] == '!' && c->bound[i].type == V_ABSENT) {
            tpl__fail(x, ERR_INVAL, "%s needs its argument %.*s", b->name, (int)n, s);
            return false;
        }
        s += n;
        s += strspn(s, "! ");
    }
    if (c->n_args > i || used < c->n_kwargs) {
        tpl__fail(x, ERR_INVAL, "%s got an argument that it does not take", b->name);
        return false;
    }
    return true;
}

struct value tpl__call_builtin(struct run *x, const struct builtin *b, struct value self,
                               struct call *c)
{
    if (!tpl__charge(x, 0) || (b->params[0] != '*' && !bind_params(x, b, c)))
        return tpl__undefined(NULL);
    struct value v = b->fn(x, self, c);
    return x->r ? tpl__undefined(NULL) : v;
}

struct value tpl__call(struct run *x, struct value f, struct call *c)
{
    if (x->r)
        return tpl__undefined(NULL);
    switch (f.type) {
    case V_BUILTIN:
        return tpl__call_builtin(x, f.bound->builtin, f.bound->self, c);
    case V_MACRO:
        return tpl__call_macro(x, f.macro, c);
    case V_LOOP:
        return tpl__call_loop(x, f.loop, c);
    case V_JOINER:
        return f.cycler->at++ == 0 ? tpl__cstring(x, "") : f.cycler->items;
    case V_UNDEFINED:
        return undefined_error(x, &f);
    default:
        return tpl__fail(x, ERR_INVAL, "a %s cannot be called", tpl__type_name(&f));
    }
}

static struct value eval_call(struct run *x, const struct expr *ex)
{
    struct call c;
    struct value f = tpl__eval(x, ex->a);
    x->line = ex->line;
    if (f.type == V_UNDEFINED)
        return undefined_error(x, &f);
    tpl__eval_args(x, ex, &c);
    x->line = ex->line;
    return tpl__call(x, f, &c);
}

static struct value eval_builtin(struct run *x, const struct expr *ex)
{
    struct call c;
    struct value self = tpl__eval(x, ex->a);
    if (x->r)
        return self;
    tpl__eval_args(x, ex, &c);
    x->line = ex->line;
    return tpl__call_builtin(x, ex->builtin, self, &c);
}

/* --- expressions ---------------------------------------------------------------------------------- */

static struct value eval_list(struct run *x, const struct expr *ex)
{
    struct value l = tpl__list(x, ex->kind == EX_LIST ? V_LIST : V_TUPLE, (size_t)ex->n_items);
    for (const struct expr *a = ex->items; a && x->r == 0; a = a->next) {
        struct value v = tpl__eval(x, a);
        tpl__append(x, l.list, v);
    }
    return l;
}

static struct value eval_dict(struct run *x, const struct expr *ex)
{
    struct value d = tpl__dict(x, V_DICT);
    for (const struct expr *a = ex->items; a && x->r == 0; a = a->next->next) {
        struct value key = tpl__eval(x, a), v = tpl__eval(x, a->next);
        tpl__dict_set(x, d.dict, key, v);
    }
    return d;
}

static struct value eval_name(struct run *x, const struct expr *ex)
{
    const struct value *v = tpl__lookup(x, ex->text);
    if (v)
        return v->type == V_ABSENT ? tpl__undefined(ex->text) : *v;
    const struct builtin *b = tpl__find_global(ex->text->s, ex->text->n);
    return b ? bind(x, b, (struct value){.type = V_NONE}) : tpl__undefined(ex->text);
}

static struct value eval_item(struct run *x, const struct expr *ex)
{
    struct value o = tpl__eval(x, ex->a);
    if (x->r || ex->b->kind == EX_SLICE)
        return x->r ? o : slice(x, o, ex->b);
    struct value key = tpl__eval(x, ex->b);
    x->line = ex->line;
    struct value v = tpl__getitem(x, o, key);
    if (v.type == V_UNDEFINED && !v.str && key.type == V_STRING)
        v.str = key.str;
    return v;
}

static struct value eval_here(struct run *x, const struct expr *ex)
{
    struct value v;
    switch (ex->kind) {
    case EX_CONST:
        return ex->value;
    case EX_NAME:
        return eval_name(x, ex);
    case EX_LIST:
    case EX_TUPLE:
        return eval_list(x, ex);
    case EX_DICT:
        return eval_dict(x, ex);
    case EX_ATTR:
        v = tpl__eval(x, ex->a);
        x->line = ex->line;
        return tpl__getattr(x, v, ex->text);
    case EX_ITEM:
        return eval_item(x, ex);
    case EX_CALL:
        return eval_call(x, ex);
    case EX_FILTER:
    case EX_TEST:
        return eval_builtin(x, ex);
    case EX_NOT:
        v = tpl__eval(x, ex->a);
        return tpl__bool(!tpl__truth(&v));
    case EX_NEG:
    case EX_POS:
        return eval_sign(x, ex);
    case EX_AND:
        v = tpl__eval(x, ex->a);
        return tpl__truth(&v) ? tpl__eval(x, ex->b) : v;
    case EX_OR:
        v = tpl__eval(x, ex->a);
        return tpl__truth(&v) ? v : tpl__eval(x, ex->b);
    case EX_BINARY:
        return eval_binary(x, ex);
    case EX_COMPARE:
        return eval_compare(x, ex);
    case EX_CHOOSE:
        v = tpl__eval(x, ex->b);
        if (tpl__truth(&v))
            return tpl__eval(x, ex->a);
        return ex->c ? tpl__eval(x, ex->c) : tpl__undefined(NULL);
    case EX_SLICE:
        break;
    }
    return tpl__fail(x, ERR_INTERNAL, "an expression of an unknown kind");
}

struct value tpl__eval(struct run *x, const struct expr *ex)
{
    struct value v = tpl__undefined(NULL);
    if (tpl__deeper(x))
        v = eval_here(x, ex);
    x->depth--;
    return x->r ? tpl__undefined(NULL) : v;
}
