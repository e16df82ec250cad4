/* api/template_render.c - a template's tree over the messages of a chat. Values live in an arena as long as
 * the rendering; strings carry a mark per byte: 1 when it came from a message. */
#include "config.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/json_write.h"
#include "api/template_ast.h"

#define MAX_STEPS 2000000
#define MAX_VARIABLES 256
#define ARENA_SPARE (16u << 20)

enum type { T_UNDEFINED, T_NONE, T_BOOL, T_INT, T_STRING, T_JSON, T_LIST, T_LOOP };

struct value {
    enum type type;
    long i; /* bool, int; items of a list; index of a loop */
    const char *s;
    const unsigned char *mark;
    size_t n;                  /* bytes; length of a loop */
    const cJSON *json;         /* object, list, number with a fraction */
    const struct value *items; /* T_LIST */
};

struct variable {
    const char *name;
    size_t n_bytes;
    struct value v;
    int level;
};

struct run {
    struct arena *arena;
    struct variable vars[MAX_VARIABLES];
    int n_vars, level;
    long steps;
    char *text;
    unsigned char *mark;
    size_t n, cap, max;
    int r;
    struct err *e;
};

static struct value fail(struct run *x, int code, int line, const char *what)
{
    if (x->r == 0)
        x->r = err_set_param(x->e, code, "messages", "chat template, line %d: %s", line, what);
    return (struct value){T_UNDEFINED, 0, NULL, NULL, 0, NULL, NULL};
}

/* --- values --------------------------------------------------------------------------------------- */

static struct value boolean(bool b)
{
    return (struct value){.type = T_BOOL, .i = b};
}

/* Bytes of the template itself: no mark. */
static struct value plain(struct run *x, const char *s, size_t n)
{
    struct value v = {.type = T_STRING, .s = s, .n = n, .mark = arena_alloc(x->arena, n + 1)};
    return v.mark ? v : fail(x, ERR_LIMIT, 0, "the text grows too large");
}

static struct value from_json(struct run *x, const cJSON *j)
{
    if (!j)
        return (struct value){.type = T_UNDEFINED};
    if (cJSON_IsNull(j))
        return (struct value){.type = T_NONE};
    if (cJSON_IsBool(j))
        return boolean(cJSON_IsTrue(j));
    if (cJSON_IsNumber(j) && j->valuedouble == (double)(long)j->valueint)
        return (struct value){.type = T_INT, .i = j->valueint};
    if (!cJSON_IsString(j))
        return (struct value){.type = T_JSON, .json = j};
    size_t n = strlen(j->valuestring);
    unsigned char *mark = arena_alloc(x->arena, n + 1);
    if (!mark)
        return fail(x, ERR_LIMIT, 0, "the text grows too large");
    memset(mark, 1, n);
    return (struct value){.type = T_STRING, .s = j->valuestring, .n = n, .mark = mark};
}

static bool truth(const struct value *v)
{
    switch (v->type) {
    case T_BOOL:
    case T_INT:
        return v->i != 0;
    case T_STRING:
        return v->n > 0;
    case T_LIST:
        return v->i > 0;
    case T_JSON:
        return cJSON_IsNumber(v->json) || v->json->child;
    case T_LOOP:
        return true;
    case T_UNDEFINED:
    case T_NONE:
        break;
    }
    return false;
}

static bool equal(const struct value *a, const struct value *b)
{
    bool na = a->type == T_INT || a->type == T_BOOL, nb = b->type == T_INT || b->type == T_BOOL;
    if (na && nb)
        return a->i == b->i;
    if (a->type != b->type)
        return false;
    if (a->type == T_STRING)
        return a->n == b->n && !memcmp(a->s, b->s, a->n);
    if (a->type == T_JSON)
        return cJSON_Compare(a->json, b->json, 1);
    return a->type == T_NONE || a->type == T_UNDEFINED;
}

/* What {{ v }} writes. */
static struct value text_of(struct run *x, const struct value *v, int line)
{
    char digits[32];
    switch (v->type) {
    case T_STRING:
        return *v;
    case T_UNDEFINED:
        return plain(x, "", 0);
    case T_NONE:
        return plain(x, "None", 4);
    case T_BOOL:
        return v->i ? plain(x, "True", 4) : plain(x, "False", 5);
    case T_INT: {
        int n = snprintf(digits, sizeof(digits), "%ld", v->i);
        char *s = arena_strndup(x->arena, digits, (size_t)n);
        return s ? plain(x, s, (size_t)n) : fail(x, ERR_LIMIT, line, "the text grows too large");
    }
    default:
        return fail(x, ERR_INVAL, line, "a list or an object cannot be written as text");
    }
}

static struct value concat(struct run *x, struct value a, struct value b, int line)
{
    char *s = arena_alloc(x->arena, a.n + b.n + 1);
    unsigned char *mark = arena_alloc(x->arena, a.n + b.n + 1);
    if (x->r || !s || !mark)
        return fail(x, ERR_LIMIT, line, "the text grows too large");
    memcpy(s, a.s, a.n);
    memcpy(s + a.n, b.s, b.n);
    memcpy(mark, a.mark, a.n);
    memcpy(mark + a.n, b.mark, b.n);
    return (struct value){.type = T_STRING, .s = s, .mark = mark, .n = a.n + b.n};
}

static long length_of(const struct value *v)
{
    if (v->type == T_STRING) {
        long n = 0;
        for (size_t i = 0; i < v->n; i++)
            n += ((unsigned char)v->s[i] & 0xc0) != 0x80;
        return n;
    }
    return v->type == T_LIST ? v->i : v->type == T_JSON ? cJSON_GetArraySize(v->json) : -1;
}

/* --- expressions ---------------------------------------------------------------------------------- */

static struct value eval(struct run *x, const struct expr *ex);

static struct variable *find(struct run *x, const char *name, size_t n_bytes)
{
    for (int i = x->n_vars - 1; i >= 0; i--)
        if (x->vars[i].n_bytes == n_bytes && !memcmp(x->vars[i].name, name, n_bytes))
            return &x->vars[i];
    return NULL;
}

static void assign(struct run *x, const char *name, size_t n_bytes, struct value v)
{
    struct variable *var = find(x, name, n_bytes);
    if (!var || var->level != x->level) {
        if (x->n_vars == MAX_VARIABLES) {
            fail(x, ERR_LIMIT, 0, "too many variables");
            return;
        }
        var = &x->vars[x->n_vars++];
        *var = (struct variable){.name = name, .n_bytes = n_bytes, .level = x->level};
    }
    var->v = v;
}

static bool is(const struct expr *ex, const char *word)
{
    return strlen(word) == ex->n_bytes && !memcmp(ex->text, word, ex->n_bytes);
}

static struct value member(struct run *x, const struct value *o, const char *key, size_t n)
{
    char name[128];
    if (o->type != T_JSON || !cJSON_IsObject(o->json) || n >= sizeof(name))
        return (struct value){.type = T_UNDEFINED};
    memcpy(name, key, n);
    name[n] = 0;
    return from_json(x, cJSON_GetObjectItemCaseSensitive(o->json, name));
}

static struct value eval_attr(struct run *x, const struct expr *ex)
{
    struct value o = eval(x, ex->a);
    if (o.type != T_LOOP)
        return member(x, &o, ex->text, ex->n_bytes);
    if (is(ex, "index"))
        return (struct value){.type = T_INT, .i = o.i + 1};
    if (is(ex, "index0"))
        return (struct value){.type = T_INT, .i = o.i};
    if (is(ex, "length"))
        return (struct value){.type = T_INT, .i = (long)o.n};
    if (is(ex, "first"))
        return boolean(o.i == 0);
    if (is(ex, "last"))
        return boolean((size_t)o.i + 1 == o.n);
    return fail(x, ERR_UNSUPPORTED, ex->line, "loop has no such attribute here");
}

static struct value item(struct run *x, const struct value *o, long i)
{
    long n = length_of(o);
    i += i < 0 ? n : 0;
    if (i < 0 || i >= n)
        return (struct value){.type = T_UNDEFINED};
    return o->type == T_LIST ? o->items[i] : from_json(x, cJSON_GetArrayItem(o->json, (int)i));
}

static struct value eval_index(struct run *x, const struct expr *ex)
{
    struct value o = eval(x, ex->a), k = eval(x, ex->b);
    if (k.type == T_STRING)
        return member(x, &o, k.s, k.n);
    if (k.type == T_INT && (o.type == T_LIST || (o.type == T_JSON && cJSON_IsArray(o.json))))
        return item(x, &o, k.i);
    return fail(x, ERR_INVAL, ex->line, "this value cannot be indexed so");
}

static struct value eval_list(struct run *x, const struct expr *ex)
{
    long n = 0, i = 0;
    for (const struct expr *a = ex->args; a; a = a->next)
        n++;
    struct value *items = arena_array(x->arena, (size_t)n + 1, sizeof(*items));
    if (!items)
        return fail(x, ERR_LIMIT, ex->line, "the lists grow too large");
    for (const struct expr *a = ex->args; a; a = a->next)
        items[i++] = eval(x, a);
    return (struct value){.type = T_LIST, .i = n, .items = items};
}

static bool contains(struct run *x, const struct value *o, const struct value *v, int line)
{
    if (o->type == T_STRING && v->type == T_STRING)
        return v->n == 0 || memmem(o->s, o->n, v->s, v->n);
    if (o->type == T_JSON && cJSON_IsObject(o->json) && v->type == T_STRING) {
        struct value m = member(x, o, v->s, v->n);
        return m.type != T_UNDEFINED;
    }
    if (o->type == T_LIST || o->type == T_JSON) {
        for (long i = 0, n = length_of(o); i < n; i++) {
            struct value it = item(x, o, i);
            if (equal(&it, v))
                return true;
        }
        return false;
    }
    fail(x, ERR_INVAL, line, "`in` needs a text, a list or an object");
    return false;
}

static struct value change_case(struct run *x, struct value v, int (*f)(int))
{
    char *s = arena_memdup(x->arena, v.s, v.n);
    if (v.n && !s)
        return fail(x, ERR_LIMIT, 0, "the text grows too large");
    for (size_t i = 0; i < v.n; i++)
        if ((unsigned char)s[i] < 0x80)
            s[i] = (char)f((unsigned char)s[i]);
    v.s = v.n ? s : "";
    return v;
}

static struct value join(struct run *x, const struct value *list, struct value between, int line)
{
    struct value all = plain(x, "", 0);
    for (long i = 0, n = length_of(list); i < n && x->r == 0; i++) {
        struct value it = item(x, list, i);
        it = text_of(x, &it, line);
        if (i > 0)
            all = concat(x, all, between, line);
        all = concat(x, all, it, line);
    }
    return all;
}

/* A JSON string of a text; marked wholly when any of it is. */
static struct value tojson(struct run *x, struct value v, int line)
{
    struct jw w;
    if (v.type != T_STRING)
        return text_of(x, &v, line);
    jw_init(&w, x->max);
    jw_string(&w, v.s, v.n);
    char *s = w.err ? NULL : arena_strndup(x->arena, w.b.data, w.b.n_bytes);
    struct value ret = s ? plain(x, s, w.b.n_bytes) : fail(x, ERR_LIMIT, line, "the text grows too large");
    jw_done(&w);
    if (s && ret.type == T_STRING && v.n && memchr(v.mark, 1, v.n))
        memset((unsigned char *)(uintptr_t)ret.mark, 1, ret.n);
    return ret;
}

static struct value eval_filter(struct run *x, const struct expr *ex)
{
    struct value v = eval(x, ex->a);
    struct value arg = ex->args ? eval(x, ex->args) : plain(x, "", 0);
    if (is(ex, "default"))
        return v.type == T_UNDEFINED ? arg : v;
    if (is(ex, "length") || is(ex, "count")) {
        long n = length_of(&v);
        return n >= 0 ? (struct value){.type = T_INT, .i = n}
                      : fail(x, ERR_INVAL, ex->line, "this value has no length");
    }
    if (is(ex, "join"))
        return join(x, &v, text_of(x, &arg, ex->line), ex->line);
    if (is(ex, "tojson"))
        return tojson(x, v, ex->line);
    v = text_of(x, &v, ex->line);
    if (x->r)
        return v;
    if (is(ex, "trim")) {
        while (v.n && isspace((unsigned char)v.s[v.n - 1]))
            v.n--;
        for (; v.n && isspace((unsigned char)*v.s); v.n--) {
            v.s++;
            v.mark++;
        }
    } else if (is(ex, "upper")) {
        v = change_case(x, v, toupper);
    } else if (is(ex, "lower")) {
        v = change_case(x, v, tolower);
    }
    return v;
}

static bool test(const struct expr *ex, const struct value *v)
{
    if (is(ex, "defined"))
        return v->type != T_UNDEFINED;
    if (is(ex, "undefined"))
        return v->type == T_UNDEFINED;
    if (is(ex, "string"))
        return v->type == T_STRING;
    if (is(ex, "true") || is(ex, "True"))
        return v->type == T_BOOL && v->i;
    if (is(ex, "false") || is(ex, "False"))
        return v->type == T_BOOL && !v->i;
    return v->type == T_NONE;
}

static struct value eval_numbers(struct run *x, const struct expr *ex, long a, long b)
{
    struct value v = {.type = T_INT};
    bool over = false;
    switch (ex->kind) {
    case EX_ADD:
        over = __builtin_add_overflow(a, b, &v.i);
        break;
    case EX_SUB:
        over = __builtin_sub_overflow(a, b, &v.i);
        break;
    case EX_MUL:
        over = __builtin_mul_overflow(a, b, &v.i);
        break;
    case EX_MOD: /* the sign of the divisor, as in Python */
        over = b == 0 || b == -1;
        v.i = over ? 0 : ((a % b) + b) % b;
        if (b == -1)
            over = false;
        break;
    case EX_LT:
        return boolean(a < b);
    case EX_LE:
        return boolean(a <= b);
    case EX_GT:
        return boolean(a > b);
    default:
        return boolean(a >= b);
    }
    return over ? fail(x, ERR_INVAL, ex->line, "a number is out of range") : v;
}

static struct value eval_binary(struct run *x, const struct expr *ex)
{
    struct value a = eval(x, ex->a), b = eval(x, ex->b);
    switch (ex->kind) {
    case EX_EQ:
        return boolean(equal(&a, &b));
    case EX_NE:
        return boolean(!equal(&a, &b));
    case EX_IN:
        return boolean(contains(x, &b, &a, ex->line));
    case EX_CONCAT: {
        struct value left = text_of(x, &a, ex->line);
        return concat(x, left, text_of(x, &b, ex->line), ex->line);
    }
    default:
        break;
    }
    if (a.type == T_INT && b.type == T_INT)
        return eval_numbers(x, ex, a.i, b.i);
    if (ex->kind == EX_ADD && a.type == T_STRING && b.type == T_STRING)
        return concat(x, a, b, ex->line);
    return fail(x, ERR_INVAL, ex->line, "the two sides of an operator do not go together");
}

static struct value raise(struct run *x, const struct expr *ex)
{
    char text[300];
    struct value v = eval(x, ex->a);
    v = text_of(x, &v, ex->line);
    if (x->r)
        return v;
    snprintf(text, sizeof(text), "%.*s", (int)(v.n < 280 ? v.n : 280), v.s);
    return fail(x, ERR_INVAL, ex->line, text);
}

static struct value eval(struct run *x, const struct expr *ex)
{
    struct value v = {.type = T_UNDEFINED};
    struct variable *var;
    if (x->r)
        return v;
    if (++x->steps > MAX_STEPS)
        return fail(x, ERR_LIMIT, ex->line, "the template does too much work");
    switch (ex->kind) {
    case EX_STRING:
        return plain(x, ex->text, ex->n_bytes);
    case EX_INT:
        return (struct value){.type = T_INT, .i = ex->value};
    case EX_BOOL:
        return boolean(ex->value);
    case EX_NONE:
        v.type = T_NONE;
        return v;
    case EX_LIST:
        return eval_list(x, ex);
    case EX_NAME:
        var = find(x, ex->text, ex->n_bytes);
        return var ? var->v : v;
    case EX_ATTR:
        return eval_attr(x, ex);
    case EX_INDEX:
        return eval_index(x, ex);
    case EX_FILTER:
        return eval_filter(x, ex);
    case EX_TEST:
        v = eval(x, ex->a);
        return boolean(test(ex, &v));
    case EX_RAISE:
        return raise(x, ex);
    case EX_NOT:
        v = eval(x, ex->a);
        return boolean(!truth(&v));
    case EX_NEG:
        v = eval(x, ex->a);
        v.i = -v.i;
        return v.type == T_INT ? v : fail(x, ERR_INVAL, ex->line, "only a number can be negated");
    case EX_AND:
        v = eval(x, ex->a);
        return truth(&v) ? eval(x, ex->b) : v;
    case EX_OR:
        v = eval(x, ex->a);
        return truth(&v) ? v : eval(x, ex->b);
    case EX_CHOOSE:
        v = eval(x, ex->b);
        if (truth(&v))
            return eval(x, ex->a);
        return ex->c ? eval(x, ex->c) : (struct value){.type = T_UNDEFINED};
    default:
        return eval_binary(x, ex);
    }
}

/* --- statements ----------------------------------------------------------------------------------- */

static void out(struct run *x, const char *s, const unsigned char *mark, size_t n)
{
    if (x->r || n == 0)
        return;
    if (n > x->max - x->n) {
        fail(x, ERR_LIMIT, 0, "the rendered text is too long");
        return;
    }
    if (x->n + n + 1 > x->cap) {
        size_t cap = (x->n + n + 1) * 2;
        char *text = realloc(x->text, cap);
        x->text = text ? text : x->text;
        unsigned char *m = realloc(x->mark, cap);
        x->mark = m ? m : x->mark;
        if (!text || !m) {
            fail(x, ERR_NOMEM, 0, "out of memory");
            return;
        }
        x->cap = cap;
    }
    memcpy(x->text + x->n, s, n);
    if (mark)
        memcpy(x->mark + x->n, mark, n);
    else
        memset(x->mark + x->n, 0, n);
    x->n += n;
}

static void run_body(struct run *x, const struct stmt *s);

static void run_for(struct run *x, const struct stmt *s)
{
    struct value list = eval(x, s->e);
    long n = list.type == T_UNDEFINED ? 0 : list.type == T_STRING ? -1 : length_of(&list);
    if (n < 0 || (list.type == T_JSON && !cJSON_IsArray(list.json))) {
        fail(x, ERR_INVAL, s->e->line, "for needs a list");
        return;
    }
    int n_vars = x->n_vars;
    const cJSON *at = list.type == T_JSON ? list.json->child : NULL;
    x->level++;
    for (long i = 0; i < n && x->r == 0; i++) {
        struct value it = list.type == T_LIST ? list.items[i] : from_json(x, at);
        at = at ? at->next : NULL;
        x->n_vars = n_vars;
        assign(x, s->text, s->n_bytes, it);
        assign(x, "loop", 4, (struct value){.type = T_LOOP, .i = i, .n = (size_t)n});
        run_body(x, s->body);
    }
    x->n_vars = n_vars;
    x->level--;
    if (n == 0)
        run_body(x, s->orelse);
}

static void run_body(struct run *x, const struct stmt *s)
{
    for (; s && x->r == 0; s = s->next) {
        struct value v;
        if (++x->steps > MAX_STEPS)
            fail(x, ERR_LIMIT, 0, "the template does too much work");
        switch (s->kind) {
        case ST_TEXT:
            out(x, s->text, NULL, s->n_bytes);
            break;
        case ST_PRINT:
            v = eval(x, s->e);
            v = text_of(x, &v, s->e->line);
            if (x->r == 0)
                out(x, v.s, v.mark, v.n);
            break;
        case ST_IF:
            v = eval(x, s->e);
            run_body(x, truth(&v) ? s->body : s->orelse);
            break;
        case ST_FOR:
            run_for(x, s);
            break;
        case ST_SET:
            assign(x, s->text, s->n_bytes, eval(x, s->e));
            break;
        }
    }
}

int template_render(const struct template *t, const struct template_input *in, size_t max_bytes,
                    struct template_output *ret, struct err *e)
{
    struct run *x = calloc(1, sizeof(*x));
    int r;
    if (!x || !(x->arena = arena_new(8 * max_bytes + ARENA_SPARE)) || !(x->text = malloc(1)) ||
        !(x->mark = malloc(1))) {
        r = err_set(e, ERR_NOMEM, "out of memory for the chat");
    } else {
        x->cap = 1;
        x->max = max_bytes;
        x->e = e;
        assign(x, "messages", 8, (struct value){.type = T_JSON, .json = in->messages});
        assign(x, "add_generation_prompt", 21, boolean(in->add_generation_prompt));
        assign(x, "bos_token", 9, plain(x, in->bos_token, strlen(in->bos_token)));
        assign(x, "eos_token", 9, plain(x, in->eos_token, strlen(in->eos_token)));
        run_body(x, t->root);
        r = x->r;
    }
    if (r == 0) {
        x->text[x->n] = 0;
        *ret = (struct template_output){x->text, x->mark, x->n};
    } else if (x) {
        free(x->text);
        free(x->mark);
    }
    if (x)
        arena_free(x->arena);
    free(x);
    return r;
}
