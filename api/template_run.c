/* api/template_run.c - statements: scopes, loops, macros, and the rendering as a whole. */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "api/template_ast.h"

#define ARENA_BASE (32u << 20)
#define MAX_VARIABLES 1000 /* of one scope */

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

static enum flow run_body(struct run *x, const struct stmt *s);

/* --- variables ------------------------------------------------------------------------------------ */

struct value *tpl__lookup(struct run *x, const struct str *name)
{
    for (struct scope *s = x->scope; s; s = s->parent)
        for (int i = 0; i < s->n; i++)
            if (s->vars[i].name->n == name->n && !memcmp(s->vars[i].name->s, name->s, name->n))
                return &s->vars[i].value;
    return NULL;
}

void tpl__assign(struct run *x, struct scope *s, const struct str *name, struct value v)
{
    if (!tpl__charge(x, 0))
        return;
    for (int i = 0; i < s->n; i++)
        if (s->vars[i].name->n == name->n && !memcmp(s->vars[i].name->s, name->s, name->n)) {
            s->vars[i].value = v;
            return;
        }
    if (s->n == s->cap) {
        int cap = s->cap ? 2 * s->cap : 8;
        struct variable *vars =
            s->n < MAX_VARIABLES ? tpl__alloc(x, (size_t)cap, sizeof(*vars)) : NULL;
        if (!vars) {
            tpl__fail(x, ERR_LIMIT, "too many variables");
            return;
        }
        if (s->n)
            memcpy(vars, s->vars, (size_t)s->n * sizeof(*vars));
        s->vars = vars;
        s->cap = cap;
    }
    s->vars[s->n++] = (struct variable){name, v};
}

/* NULL: has failed, and the scope is the old one. */
static struct scope *push_scope(struct run *x, struct scope *parent)
{
    struct scope *s = tpl__alloc(x, 1, sizeof(*s));
    if (s) {
        s->parent = parent;
        x->scope = s;
    }
    return s;
}

/* An unpacking assignment, or one to a name or to a namespace's attribute. */
static void assign_target(struct run *x, const struct expr *target, struct value v)
{
    if (x->r || !tpl__charge(x, 0))
        return;
    if (target->kind == EX_NAME) {
        tpl__assign(x, x->scope, target->text, v);
        return;
    }
    if (target->kind == EX_ATTR) {
        struct value ns = tpl__eval(x, target->a);
        if (x->r == 0 && ns.type == V_NAMESPACE)
            tpl__dict_set(x, ns.dict, (struct value){.type = V_STRING, .str = target->text}, v);
        else
            tpl__fail(x, ERR_INVAL, "only attributes of a namespace can be assigned to");
        return;
    }
    v = tpl__iterate(x, &v);
    if (x->r)
        return;
    if (v.list->n != (size_t)target->n_items) {
        tpl__fail(x, ERR_INVAL, "%zu values cannot be unpacked into %d names", v.list->n,
                  target->n_items);
        return;
    }
    size_t i = 0;
    for (const struct expr *a = target->items; a && x->r == 0; a = a->next)
        assign_target(x, a, v.list->items[i++]);
}

/* --- loops ---------------------------------------------------------------------------------------- */

struct value tpl__loop_attr(struct run *x, struct loop *l, const struct str *name)
{
    static const char *const methods[] = {"cycle", "changed"};
    size_t n = l->items->n;
    if (tpl__is(name, "index"))
        return tpl__int((int64_t)l->at + 1);
    if (tpl__is(name, "index0"))
        return tpl__int((int64_t)l->at);
    if (tpl__is(name, "revindex"))
        return tpl__int((int64_t)(n - l->at));
    if (tpl__is(name, "revindex0"))
        return tpl__int((int64_t)(n - l->at) - 1);
    if (tpl__is(name, "first"))
        return tpl__bool(l->at == 0);
    if (tpl__is(name, "last"))
        return tpl__bool(l->at + 1 == n);
    if (tpl__is(name, "length"))
        return tpl__int((int64_t)n);
    if (tpl__is(name, "depth"))
        return tpl__int(l->depth0 + 1);
    if (tpl__is(name, "depth0"))
        return tpl__int(l->depth0);
    if (tpl__is(name, "previtem"))
        return l->at > 0 ? l->items->items[l->at - 1] : tpl__undefined(name);
    if (tpl__is(name, "nextitem"))
        return l->at + 1 < n ? l->items->items[l->at + 1] : tpl__undefined(name);
    const struct value self = {.type = V_LOOP, .loop = l};
    for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++)
        if (tpl__is(name, methods[i])) {
            struct bound *b = tpl__alloc(x, 1, sizeof(*b));
            if (!b)
                break;
            *b = (struct bound){tpl__find_method(&self, name->s, name->n), self};
            return (struct value){.type = V_BUILTIN, .bound = b};
        }
    return tpl__undefined(name);
}

/* The items that pass the loop's own condition, which sees the loop's variables. */
static struct value filtered(struct run *x, const struct stmt *s, struct value items)
{
    struct value kept = tpl__list(x, V_LIST, 0);
    struct scope *outer = x->scope;
    for (size_t i = 0; x->r == 0 && i < items.list->n; i++) {
        if (!push_scope(x, outer))
            break;
        assign_target(x, s->target, items.list->items[i]);
        struct value v = tpl__eval(x, s->filter);
        if (tpl__truth(&v))
            tpl__append(x, kept.list, items.list->items[i]);
    }
    x->scope = outer;
    return kept;
}

/* Returns what ends the loop around it: break or continue in `else` are that one's. */
static enum flow run_for(struct run *x, const struct stmt *s, struct value items, int depth0)
{
    static const struct str loop_name = {"loop", NULL, 4};
    struct scope *outer = x->scope;
    bool ended = false; /* a round did */
    items = tpl__iterate(x, &items);
    if (x->r == 0 && s->filter)
        items = filtered(x, s, items);
    struct loop *loop = tpl__alloc(x, 1, sizeof(*loop));
    struct scope *scope = loop ? push_scope(x, outer) : NULL;
    if (!scope)
        return FLOW_NEXT;
    /* the list may grow while it is walked: what was there at first counts */
    struct list *fixed = tpl__alloc(x, 1, sizeof(*fixed));
    if (!fixed)
        return FLOW_NEXT;
    *fixed = *items.list;
    *loop = (struct loop){.stmt = s, .scope = outer, .items = fixed, .depth0 = depth0};
    for (; loop->at < fixed->n && x->r == 0; loop->at++) {
        scope->n = 0;
        assign_target(x, s->target, fixed->items[loop->at]);
        tpl__assign(x, scope, &loop_name, (struct value){.type = V_LOOP, .loop = loop});
        enum flow flow = run_body(x, s->body);
        ended |= flow == FLOW_NEXT;
        if (flow == FLOW_BREAK)
            break;
    }
    x->scope = outer;
    enum flow flow = FLOW_NEXT;
    if (!ended && push_scope(x, outer)) /* as in Jinja2 also where break or continue cut every round short */
        flow = run_body(x, s->orelse);
    x->scope = outer;
    return flow;
}

struct value tpl__call_loop(struct run *x, struct loop *l, struct call *c)
{
    if (!l->stmt->recursive || c->n_args != 1 || c->n_kwargs)
        return tpl__fail(x, ERR_INVAL, "loop() needs a recursive loop and one list");
    struct scope *outer = x->scope;
    size_t begin = tpl__text_begin(x);
    x->scope = l->scope;
    if (tpl__deeper(x))
        run_for(x, l->stmt, c->args[0], l->depth0 + 1);
    x->depth--;
    x->scope = outer;
    return tpl__text_end(x, begin);
}

/* --- macros --------------------------------------------------------------------------------------- */

static struct value take_kwarg(struct call *c, bool *used, const struct str *name)
{
    for (int i = 0; i < c->n_kwargs; i++)
        if (c->names[i]->n == name->n && !memcmp(c->names[i]->s, name->s, name->n)) {
            used[i] = true;
            return c->kwargs[i];
        }
    return (struct value){.type = V_ABSENT};
}

static void bind_rest(struct run *x, const struct stmt *s, struct call *c, const bool *used,
                      int n_params)
{
    static const struct str varargs_name = {"varargs", NULL, 7}, kwargs_name = {"kwargs", NULL, 6};
    static const struct str caller_name = {"caller", NULL, 6};
    struct value varargs = tpl__list(x, V_TUPLE, 0), kwargs = tpl__dict(x, V_DICT);
    for (int i = n_params; i < c->n_args && x->r == 0; i++)
        tpl__append(x, varargs.list, c->args[i]);
    for (int i = 0; i < c->n_kwargs && x->r == 0; i++) {
        const struct str *name = c->names[i];
        if (used[i])
            continue;
        if (tpl__is(name, "caller"))
            tpl__assign(x, x->scope, &caller_name, c->kwargs[i]);
        else if (s->uses_kwargs)
            tpl__dict_set(x, kwargs.dict, (struct value){.type = V_STRING, .str = name},
                          c->kwargs[i]);
        else
            tpl__fail(x, ERR_INVAL, "the macro %s takes no argument \"%.40s\"", s->name->s,
                      name->s);
    }
    if (x->r == 0 && c->n_args > n_params && !s->uses_varargs)
        tpl__fail(x, ERR_INVAL, "the macro %s takes at most %d arguments", s->name->s, n_params);
    if (s->uses_varargs)
        tpl__assign(x, x->scope, &varargs_name, varargs);
    if (s->uses_kwargs)
        tpl__assign(x, x->scope, &kwargs_name, kwargs);
}

static void bind_macro(struct run *x, const struct stmt *s, struct call *c)
{
    bool *used = tpl__alloc(x, (size_t)c->n_kwargs, sizeof(*used));
    int i = 0;
    if (!used)
        return;
    for (const struct param *p = s->params; p && x->r == 0; p = p->next, i++) {
        struct value v = i < c->n_args ? c->args[i] : take_kwarg(c, used, p->name);
        if (v.type == V_ABSENT)
            v = p->fallback ? tpl__eval(x, p->fallback) : tpl__undefined(p->name);
        tpl__assign(x, x->scope, p->name, v);
    }
    bind_rest(x, s, c, used, i);
}

struct value tpl__call_macro(struct run *x, struct macro *m, struct call *c)
{
    struct scope *outer = x->scope;
    size_t begin = tpl__text_begin(x);
    if (tpl__deeper(x) && push_scope(x, m->scope)) {
        bind_macro(x, m->stmt, c);
        run_body(x, m->stmt->body);
    }
    x->scope = outer;
    x->depth--;
    return tpl__text_end(x, begin);
}

static struct value new_macro(struct run *x, const struct stmt *s)
{
    struct macro *m = tpl__alloc(x, 1, sizeof(*m));
    if (!m)
        return tpl__undefined(NULL);
    *m = (struct macro){s, x->scope};
    return (struct value){.type = V_MACRO, .macro = m};
}

/* {% call f(x) %}: f gets the body as its argument caller. */
static struct value run_call(struct run *x, const struct stmt *s)
{
    static const struct str caller_name = {"caller", NULL, 6};
    struct call c;
    struct value f = tpl__eval(x, s->e->a), caller = new_macro(x, s);
    tpl__eval_args(x, s->e, &c);
    struct value *kwargs = tpl__alloc(x, (size_t)c.n_kwargs + 1, sizeof(*kwargs));
    const struct str **names = tpl__alloc(x, (size_t)c.n_kwargs + 1, sizeof(*names));
    if (!kwargs || !names)
        return tpl__undefined(NULL);
    for (int i = 0; i < c.n_kwargs; i++) {
        kwargs[i] = c.kwargs[i];
        names[i] = c.names[i];
    }
    kwargs[c.n_kwargs] = caller;
    names[c.n_kwargs++] = &caller_name;
    c.kwargs = kwargs;
    c.names = names;
    x->line = s->line;
    return tpl__call(x, f, &c);
}

/* --- statements ----------------------------------------------------------------------------------- */

/* A chain of filters that begins with no expression, on v. */
static struct value apply_filters(struct run *x, const struct expr *ex, struct value v)
{
    struct call c;
    if (!ex)
        return v;
    if (tpl__deeper(x)) {
        v = apply_filters(x, ex->a, v);
        tpl__eval_args(x, ex, &c);
        x->line = ex->line;
        v = x->r ? v : tpl__call_builtin(x, ex->builtin, v, &c);
    }
    x->depth--;
    return v;
}

static struct value capture(struct run *x, const struct stmt *s)
{
    struct scope *outer = x->scope;
    size_t begin = tpl__text_begin(x);
    if (push_scope(x, outer))
        run_body(x, s->body);
    x->scope = outer;
    struct value v = tpl__text_end(x, begin);
    return x->r ? v : apply_filters(x, s->e, v);
}

static enum flow run_with(struct run *x, const struct stmt *s)
{
    struct scope *outer = x->scope;
    struct value values = tpl__list(x, V_LIST, 0);
    for (const struct expr *e = s->e->items; e && x->r == 0; e = e->next)
        tpl__append(x, values.list, tpl__eval(x, e));
    enum flow flow = FLOW_NEXT;
    if (push_scope(x, outer)) {
        size_t i = 0;
        for (const struct expr *t = s->target->items; t && x->r == 0; t = t->next)
            assign_target(x, t, values.list->items[i++]);
        flow = run_body(x, s->body);
    }
    x->scope = outer;
    return flow;
}

static enum flow run_if(struct run *x, const struct stmt *s)
{
    for (;;) {
        struct value v = tpl__eval(x, s->e);
        if (x->r)
            return FLOW_NEXT;
        if (tpl__truth(&v))
            return run_body(x, s->body);
        /* elif: an if alone, and on its own line of the tree, so that long chains do not recurse */
        if (!s->orelse || s->orelse->kind != ST_IF || s->orelse->next)
            return run_body(x, s->orelse);
        s = s->orelse;
    }
}

static enum flow run_statement(struct run *x, const struct stmt *s)
{
    struct value v;
    switch (s->kind) {
    case ST_TEXT:
        tpl__put(x, s->text.s, NULL, s->text.n);
        break;
    case ST_PRINT:
        v = tpl__eval(x, s->e);
        tpl__put_value(x, &v);
        break;
    case ST_IF:
        return run_if(x, s);
    case ST_FOR:
        v = tpl__eval(x, s->e);
        return run_for(x, s, v, 0);
    case ST_SET:
        v = tpl__eval(x, s->e);
        assign_target(x, s->target, v);
        break;
    case ST_SET_BLOCK:
        assign_target(x, s->target, capture(x, s));
        break;
    case ST_MACRO:
        tpl__assign(x, x->scope, s->name, new_macro(x, s));
        break;
    case ST_CALL:
        v = run_call(x, s);
        tpl__put_value(x, &v);
        break;
    case ST_FILTER:
        v = capture(x, s);
        tpl__put_value(x, &v);
        break;
    case ST_WITH:
        return run_with(x, s);
    case ST_BODY:
        return run_body(x, s->body);
    case ST_BREAK:
        return FLOW_BREAK;
    case ST_CONTINUE:
        return FLOW_CONTINUE;
    }
    return FLOW_NEXT;
}

static enum flow run_body(struct run *x, const struct stmt *s)
{
    enum flow flow = FLOW_NEXT;
    if (tpl__deeper(x))
        for (; s && x->r == 0 && flow == FLOW_NEXT && tpl__charge(x, 0); s = s->next) {
            x->line = s->line;
            flow = run_statement(x, s);
        }
    x->depth--;
    return flow;
}

/* --- renderings ----------------------------------------------------------------------------------- */

static void set(struct run *x, const char *name, struct value v)
{
    struct str *s = tpl__alloc(x, 1, sizeof(*s));
    if (!s)
        return;
    *s = (struct str){name, NULL, strlen(name)};
    tpl__assign(x, x->scope, s, v);
}

static void set_inputs(struct run *x, const struct template_input *in)
{
    const struct value none = {.type = V_NONE};
    const cJSON *at;
    cJSON_ArrayForEach(at, in->kwargs)
        set(x, at->string, tpl__from_json(x, at));
    for (int i = 0; i < in->n_texts; i++)
        set(x, in->texts[i].name, tpl__cstring(x, in->texts[i].text));
    set(x, "messages", tpl__from_messages(x, in->messages, in->adapt_messages));
    set(x, "tools", in->tools ? tpl__from_json(x, in->tools) : none);
    set(x, "documents", in->documents ? tpl__from_json(x, in->documents) : none);
    set(x, "add_generation_prompt", tpl__bool(in->add_generation_prompt));
}

int template_render(const struct template *t, const struct template_input *in, size_t max_bytes,
                    struct template_output *ret, struct err *e)
{
    struct run *x = calloc(1, sizeof(*x));
    if (!x || !(x->arena = arena_new(ARENA_BASE + 24 * max_bytes))) {
        free(x);
        return err_set(e, ERR_NOMEM, "out of memory for the chat");
    }
    x->t = t;
    x->max = max_bytes;
    x->now = in->now;
    x->e = e;
    if (getrandom(&x->hash_seed, sizeof(x->hash_seed), GRND_NONBLOCK) != sizeof(x->hash_seed))
        x->hash_seed = (uint64_t)(uintptr_t)x;
    if (push_scope(x, NULL)) {
        set_inputs(x, in);
        run_body(x, t->root);
    }
    if (x->r == 0 && x->n > max_bytes)
        tpl__fail(x, ERR_LIMIT, "the rendered text is longer than %zu bytes", max_bytes);
    if (x->r == 0 && !x->text) { /* nothing was written */
        x->text = malloc(1);
        x->mark = malloc(1);
        if (!x->text || !x->mark)
            tpl__fail(x, ERR_NOMEM, "out of memory");
    }
    int r = x->r;
    if (r == 0) {
        x->text[x->n] = 0;
        *ret = (struct template_output){x->text, x->mark, x->n};
    } else {
        free(x->text);
        free(x->mark);
    }
    arena_free(x->arena);
    free(x);
    return r;
}
