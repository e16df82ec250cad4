/* api/template_value.h - the values of a rendering and the state they live in.
 *
 * Values live in the rendering's arena until its end; lists and objects are shared by reference, as
 * in Python. The first failure sticks in `r`: from then on every function returns undefined and
 * writes nothing, so that callers need not look at each step. Text is built on one stack of bytes
 * with their marks, which is also the output: text_begin, put..., text_end. */
#ifndef LATENT_API_TEMPLATE_VALUE_H
#define LATENT_API_TEMPLATE_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "api/template.h"
#include "base/arena.h"

enum type {
    V_ABSENT, /* an argument that was not given; never seen by a template */
    V_UNDEFINED, V_NONE, V_BOOL, V_INT, V_FLOAT, V_STRING, V_LIST, V_TUPLE, V_DICT,
    V_NAMESPACE, V_LOOP, V_MACRO, V_BUILTIN, V_CYCLER, V_JOINER,
};

struct str {
    const char *s; /* valid UTF-8 */
    const unsigned char *mark; /* NULL: no byte is the client's */
    size_t n;
};

struct value {
    enum type type;
    bool client; /* a number or a container as the client sent it: its text is marked */
    bool null;   /* an empty string in place of null: `is none` holds for it */
    union {
        bool b;
        int64_t i;
        double f;
        const struct str *str; /* V_STRING; V_UNDEFINED: what is undefined, or NULL */
        struct list *list;     /* V_LIST, V_TUPLE */
        struct dict *dict;     /* V_DICT, V_NAMESPACE */
        struct loop *loop;
        struct macro *macro;
        struct bound *bound;   /* V_BUILTIN */
        struct cycler *cycler; /* V_CYCLER, V_JOINER */
    };
};

struct list {
    struct value *items;
    size_t n, cap;
    bool group; /* a pair of groupby: has .grouper and .list */
};

struct entry {
    struct value key, value;
};

struct dict { /* in the order of insertion */
    struct entry *entries;
    size_t n, cap;
    uint32_t *index; /* open addressing, entry + 1; NULL while small */
    size_t index_cap;
    const struct str *source; /* arguments of a tool call: their JSON text */
};

struct cycler { /* also a joiner: its separator, then nothing the first time */
    struct value items;
    size_t at;
};

/* What a call was given. */
struct call {
    struct value *args;
    int n_args, n_kwargs;
    const struct str **names; /* of kwargs */
    struct value *kwargs;
    struct value bound[8]; /* by the parameters of a builtin; V_ABSENT: not given */
};

struct run;

/* A filter, test, method or function. params: names, "*" takes any arguments (unbound), "chars!"
 * must be given. */
struct builtin {
    const char *name, *params;
    struct value (*fn)(struct run *x, struct value self, struct call *c);
};

struct bound {
    const struct builtin *builtin;
    struct value self;
};

struct stmt;
struct expr;

struct variable {
    const struct str *name;
    struct value value;
};

struct scope { /* a loop's turn, a macro's call, a with block, or the template itself */
    struct scope *parent;
    struct variable *vars;
    int n, cap;
};

struct macro {
    const struct stmt *stmt;
    struct scope *scope; /* where it was defined */
};

struct loop {
    const struct stmt *stmt;
    struct scope *scope; /* around it */
    struct list *items;
    size_t at;
    int depth0;
    struct value changed; /* what loop.changed() last saw; V_ABSENT: nothing yet */
};

struct run {
    const struct template *t;
    struct arena *arena;
    struct scope *scope;
    char *text; /* the output, and on top of it texts in the making */
    unsigned char *mark;
    size_t n, cap, max;
    uint64_t work, hash_seed;
    int depth, line;
    int64_t now;
    int r;
    struct err *e;
};

#ifndef TPL_MAX_WORK /* fuzzers, whose every step is slower, take less */
#define TPL_MAX_WORK 10000000u /* a node of the tree, 32 bytes or 4 items moved */
#endif
#define TPL_MAX_RUN_DEPTH 600
#define TPL_MAX_RANGE 100000
#define TPL_MAX_REPR_DEPTH 100

struct value tpl__fail(struct run *x, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Counts work; false when it is too much. */
bool tpl__charge(struct run *x, size_t units);
void *tpl__alloc(struct run *x, size_t n, size_t elem_bytes); /* NULL: has failed */

/* --- making values -------------------------------------------------------------------------------- */

static inline struct value tpl__undefined(const struct str *what)
{
    return (struct value){.type = V_UNDEFINED, .str = what};
}

static inline struct value tpl__bool(bool b)
{
    return (struct value){.type = V_BOOL, .b = b};
}

static inline struct value tpl__int(int64_t i)
{
    return (struct value){.type = V_INT, .i = i};
}

struct value tpl__string(struct run *x, const char *s, size_t n, const unsigned char *mark);
struct value tpl__cstring(struct run *x, const char *s); /* copied; not marked */
struct value tpl__list(struct run *x, enum type type, size_t cap);
void tpl__append(struct run *x, struct list *l, struct value v);
struct value tpl__pair(struct run *x, struct value a, struct value b); /* a tuple */
struct value tpl__dict(struct run *x, enum type type);
/* The client's JSON as values, marked. */
struct value tpl__from_json(struct run *x, const cJSON *j);
struct value tpl__parse_json(struct run *x, const struct str *s);
/* The same for messages; adapt: see template_input. */
struct value tpl__from_messages(struct run *x, const cJSON *j, bool adapt);

/* --- dictionaries --------------------------------------------------------------------------------- */

struct value *tpl__dict_find(struct run *x, const struct dict *d,
                             const struct value *key); /* or NULL */
struct value *tpl__dict_find_name(struct run *x, const struct dict *d, const char *s, size_t n);
void tpl__dict_set(struct run *x, struct dict *d, struct value key, struct value v);
void tpl__dict_remove(struct run *x, struct dict *d, const struct value *key);

/* --- text ----------------------------------------------------------------------------------------- */

size_t tpl__text_begin(const struct run *x);
void tpl__put(struct run *x, const char *s, const unsigned char *mark, size_t n);
void tpl__put_as(struct run *x, const char *s, size_t n, bool client); /* all or none marked */
void tpl__put_cstring(struct run *x, const char *s);
void tpl__put_part(struct run *x, const struct str *s, size_t from, size_t to);
/* What was put since becomes a string and leaves the stack. */
struct value tpl__text_end(struct run *x, size_t begin);
/* What {{ v }} writes; repr is the form inside of lists. */
void tpl__put_value(struct run *x, const struct value *v);
void tpl__put_repr(struct run *x, const struct value *v, int depth);
struct value tpl__to_string(struct run *x, struct value v);
struct value tpl__sub(struct run *x, const struct str *s, size_t from, size_t to); /* bytes */
/* Shortest text that reads back, as Python's repr. dst has 40 bytes. */
int tpl__float_text(double f, char *dst);
/* json.dumps. indent NULL: one line. */
struct json_style {
    bool ascii, sort_keys, lines;
    struct str indent, item_sep, key_sep;
};
void tpl__put_json(struct run *x, const struct value *v, const struct json_style *st, int depth);

/* --- asking values -------------------------------------------------------------------------------- */

bool tpl__truth(const struct value *v);
bool tpl__equal(struct run *x, const struct value *a, const struct value *b);
/* <0, 0, >0; fails when the two have no order. */
int tpl__compare(struct run *x, const struct value *a, const struct value *b);
bool tpl__contains(struct run *x, const struct value *o, const struct value *v);
const char *tpl__type_name(const struct value *v);
/* Items of a list, keys of an object, characters of a string; fails for others. */
struct value tpl__iterate(struct run *x, const struct value *v);
int64_t tpl__length(struct run *x, const struct value *v); /* -1: has none */
bool tpl__number(const struct value *v); /* int, float or bool */
double tpl__double(const struct value *v);
bool tpl__integer(const struct value *v, int64_t *ret); /* int or bool */
static inline bool tpl__is_list(const struct value *v)
{
    return v->type == V_LIST || v->type == V_TUPLE;
}
static inline bool tpl__is(const struct str *s, const char *word)
{
    return __builtin_strlen(word) == s->n && !__builtin_memcmp(s->s, word, s->n);
}

/* --- calling -------------------------------------------------------------------------------------- */

/* Binds c's arguments to the builtin's parameters and calls it. */
struct value tpl__call_builtin(struct run *x, const struct builtin *b, struct value self,
                               struct call *c);
struct value tpl__call(struct run *x, struct value f, struct call *c);
struct value tpl__call_macro(struct run *x, struct macro *m, struct call *c);
struct value tpl__call_loop(struct run *x, struct loop *l, struct call *c);
struct value tpl__eval(struct run *x, const struct expr *ex);
/* The arguments of a call, filter or test. */
void tpl__eval_args(struct run *x, const struct expr *ex, struct call *ret);
struct value *tpl__lookup(struct run *x, const struct str *name); /* a variable, or NULL */
void tpl__assign(struct run *x, struct scope *s, const struct str *name, struct value v);
bool tpl__deeper(struct run *x); /* one level of recursion more; x->depth-- afterwards */
struct value tpl__getattr(struct run *x, struct value o, const struct str *name);
struct value tpl__getitem(struct run *x, struct value o, struct value key);
/* "a.b.0" as the filters understand attribute=. */
struct value tpl__attribute(struct run *x, struct value o, struct value path);
struct value tpl__binary(struct run *x, int op, struct value a, struct value b);
struct value tpl__format_percent(struct run *x, const struct str *format, struct value args);
struct value tpl__loop_attr(struct run *x, struct loop *l, const struct str *name);

const struct builtin *tpl__find_filter(const char *s, size_t n);
const struct builtin *tpl__find_test(const char *s, size_t n);
const struct builtin *tpl__find_method(const struct value *o, const char *s, size_t n);
const struct builtin *tpl__find_global(const char *s, size_t n);
const struct builtin *tpl__find(const struct builtin *table, size_t n_rows, const char *s,
                                size_t n);

#endif
