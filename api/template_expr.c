/* api/template_expr.c - expressions: tokens to the tree, with the precedence of Jinja2. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/template_ast.h"
#include "api/template_text.h"

#define MAX_NUMBER_BYTES 60

static struct expr *parse_math1(struct parser *p);
static struct expr *parse_unary(struct parser *p, bool with_filters);

struct expr *tpl__node(struct parser *p, enum expr_kind kind, struct expr *a, struct expr *b)
{
    struct expr *x = tpl__parse_alloc(p, sizeof(*x));
    *x = (struct expr){.kind = kind, .a = a, .b = b, .line = p->at->line};
    return x;
}

/* --- literals ------------------------------------------------------------------------------------- */

static int hex_digits(const char *s, const char *end, int n, uint32_t *ret)
{
    uint32_t v = 0;
    for (int i = 0; i < n; i++) {
        char c = s + i < end ? s[i] : 0;
        int d = c >= '0' && c <= '9'                 ? c - '0'
                : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                     : -1;
        if (d < 0)
            return -1;
        v = v << 4 | (uint32_t)d;
    }
    *ret = v;
    return 0;
}

/* One escape after its backslash, as Python reads it; returns where it ends, or NULL. */
static const char *unescape(const char *s, const char *end, char *dst, size_t *ret_n)
{
    static const char from[] = "ntrabfv\\'\"", to[] = "\n\t\r\a\b\f\v\\'\"";
    const char *found = *s ? strchr(from, *s) : NULL;
    uint32_t c = 0;
    if (found) {
        dst[0] = to[found - from];
        *ret_n = 1;
        return s + 1;
    }
    if (*s == '\n') {
        *ret_n = 0;
        return s + 1;
    }
    if (*s >= '0' && *s <= '7') {
        int n = 0;
        for (; n < 3 && s + n < end && s[n] >= '0' && s[n] <= '7'; n++)
            c = c * 8 + (uint32_t)(s[n] - '0');
        s += n;
    } else if (*s == 'x' || *s == 'u' || *s == 'U') {
        int n = *s == 'x' ? 2 : *s == 'u' ? 4 : 8;
        if (hex_digits(s + 1, end, n, &c) < 0)
            return NULL;
        s += 1 + n;
    } else {
        dst[0] = '\\'; /* as Python: kept */
        *ret_n = 1;
        return s;
    }
    if (c == 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return NULL;
    *ret_n = text_encode(c, dst);
    return s;
}

/* A string token, and those right after it, which belong to it. */
static struct expr *parse_string(struct parser *p)
{
    struct expr *x = tpl__node(p, EX_CONST, NULL, NULL);
    struct str *str = tpl__parse_alloc(p, sizeof(*str));
    size_t n = 0;
    for (const struct token *t = p->at; t->kind == TOK_STRING; t++)
        n += t->n;
    char *d = arena_alloc(p->arena, n + 4), *begin = d;
    if (!d)
        tpl__parse_full(p);
    for (; p->at->kind == TOK_STRING; p->at++) {
        const char *s = p->at->s, *end = s + p->at->n;
        while (s && s < end) {
            size_t k = 1;
            if (*s == '\\' && s + 1 < end)
                s = unescape(s + 1, end, d, &k);
            else
                *d = *s++;
            d += k;
        }
        if (!s) {
            tpl__parse_fail(p, ERR_FORMAT, "a string has an escape that is no character");
            break;
        }
    }
    *str = (struct str){p->r ? "" : begin, NULL, p->r ? 0 : (size_t)(d - begin)};
    x->value = (struct value){.type = V_STRING, .str = str};
    return x;
}

static struct expr *parse_number(struct parser *p)
{
    struct expr *x = tpl__node(p, EX_CONST, NULL, NULL);
    char text[MAX_NUMBER_BYTES + 1], *end = text;
    size_t n = 0;
    for (size_t i = 0; i < p->at->n && n < MAX_NUMBER_BYTES; i++)
        if (p->at->s[i] != '_')
            text[n++] = p->at->s[i];
    text[n] = 0;
    errno = 0;
    if (p->at->kind == TOK_FLOAT) {
        x->value = (struct value){.type = V_FLOAT, .f = strtod(text, &end)};
    } else {
        char kind = text[0] == '0' ? (char)(text[1] | 32) : 0;
        int base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
        x->value = tpl__int(strtoll(base == 10 ? text : text + 2, &end, base));
        if (base != 10 && end == text + 2)
            end = text;
    }
    if (n == MAX_NUMBER_BYTES || *end || end == text || errno == ERANGE)
        tpl__parse_fail(p, ERR_FORMAT, "\"%.40s\" is no number of 64 bits", text);
    p->at += p->r == 0;
    return x;
}

static bool parse_constant(struct parser *p, struct value *ret)
{
    if (tpl__take_name(p, "true") || tpl__take_name(p, "True"))
        *ret = tpl__bool(true);
    else if (tpl__take_name(p, "false") || tpl__take_name(p, "False"))
        *ret = tpl__bool(false);
    else if (tpl__take_name(p, "none") || tpl__take_name(p, "None"))
        *ret = (struct value){.type = V_NONE};
    else
        return false;
    return true;
}

/* A variable that is read: what the innermost macro takes beyond its parameters depends on it. */
static void note_read(struct parser *p, const struct str *name)
{
    if (p->r || !p->macro)
        return;
    p->macro->uses_varargs |= tpl__is(name, "varargs");
    p->macro->uses_kwargs |= tpl__is(name, "kwargs");
}

/* Items up to the closing bracket, which is taken. */
static void parse_items(struct parser *p, struct expr *x, const char *close)
{
    struct expr **tail = &x->items;
    while (p->r == 0 && !tpl__at_op(p, close)) {
        if (x->n_items)
            tpl__expect_op(p, ",");
        if (tpl__at_op(p, close))
            break;
        *tail = tpl__parse_expr(p);
        tail = &(*tail)->next;
        x->n_items++;
        if (close[0] != '}')
            continue;
        tpl__expect_op(p, ":");
        *tail = tpl__parse_expr(p);
        tail = &(*tail)->next;
        x->n_items++;
    }
    tpl__expect_op(p, close);
}

static struct expr *parse_brackets(struct parser *p)
{
    if (tpl__take_op(p, ")"))
        return tpl__node(p, EX_TUPLE, NULL, NULL);
    struct expr *x = tpl__parse_tuple(p);
    tpl__expect_op(p, ")");
    return x;
}

struct expr *tpl__parse_primary(struct parser *p)
{
    struct expr *x = tpl__node(p, EX_CONST, NULL, NULL);
    if (!tpl__enter(p))
        return x;
    if (p->at->kind == TOK_STRING) {
        x = parse_string(p);
    } else if (p->at->kind == TOK_INT || p->at->kind == TOK_FLOAT) {
        x = parse_number(p);
    } else if (tpl__take_op(p, "(")) {
        x = parse_brackets(p);
    } else if (tpl__take_op(p, "[")) {
        x->kind = EX_LIST;
        parse_items(p, x, "]");
    } else if (tpl__take_op(p, "{")) {
        x->kind = EX_DICT;
        parse_items(p, x, "}");
    } else if (p->at->kind == TOK_NAME) {
        if (!parse_constant(p, &x->value)) {
            x->kind = EX_NAME;
            x->text = tpl__expect_name(p);
            note_read(p, x->text);
        }
    } else if (p->at->kind == TOK_EOF) {
        tpl__parse_fail(p, ERR_FORMAT, "an expression is missing");
    } else {
        tpl__parse_fail(p, ERR_FORMAT, "an expression is missing before \"%.*s\"", (int)p->at->n,
                        p->at->s);
    }
    tpl__leave(p);
    return x;
}

/* --- what follows a primary ----------------------------------------------------------------------- */

static void parse_args(struct parser *p, struct expr *call)
{
    struct arg **tail = &call->args;
    enum arg_kind last = ARG_PLAIN;
    while (p->r == 0 && !tpl__at_op(p, ")")) {
        if (call->n_items)
            tpl__expect_op(p, ",");
        if (tpl__at_op(p, ")"))
            break;
        struct arg *arg = tpl__parse_alloc(p, sizeof(*arg));
        *arg = (struct arg){.kind = ARG_PLAIN};
        if (tpl__take_op(p, "*")) {
            arg->kind = ARG_SPREAD;
        } else if (tpl__take_op(p, "**")) {
            arg->kind = ARG_SPREAD_NAMED;
        } else if (p->at->kind == TOK_NAME && p->at[1].kind == TOK_OP && p->at[1].n == 1 &&
                   p->at[1].s[0] == '=') {
            arg->kind = ARG_NAMED;
            arg->name = tpl__expect_name(p);
            p->at += p->r == 0;
        }
        if (arg->kind == ARG_PLAIN ? last != ARG_PLAIN : last == ARG_SPREAD_NAMED)
            tpl__parse_fail(p, ERR_FORMAT, "arguments without a name come first");
        last = arg->kind;
        arg->e = tpl__parse_expr(p);
        if (p->r)
            return;
        *tail = arg;
        tail = &arg->next;
        call->n_items++;
    }
    tpl__expect_op(p, ")");
}

static struct expr *parse_subscribed(struct parser *p)
{
    struct expr *from = tpl__at_op(p, ":") ? NULL : tpl__parse_expr(p);
    if (!tpl__take_op(p, ":"))
        return from;
    struct expr *x = tpl__node(p, EX_SLICE, from, NULL);
    if (!tpl__at_op(p, ":") && !tpl__at_op(p, "]"))
        x->b = tpl__parse_expr(p);
    if (tpl__take_op(p, ":") && !tpl__at_op(p, "]"))
        x->c = tpl__parse_expr(p);
    return x;
}

struct expr *tpl__parse_postfix(struct parser *p, struct expr *x)
{
    while (p->r == 0) {
        if (tpl__take_op(p, ".")) {
            if (p->at->kind == TOK_INT) {
                x = tpl__node(p, EX_ITEM, x, parse_number(p));
            } else {
                x = tpl__node(p, EX_ATTR, x, NULL);
                x->text = tpl__expect_name(p);
            }
        } else if (tpl__take_op(p, "[")) {
            x = tpl__node(p, EX_ITEM, x, parse_subscribed(p));
            tpl__expect_op(p, "]");
        } else if (tpl__take_op(p, "(")) {
            x = tpl__node(p, EX_CALL, x, NULL);
            parse_args(p, x);
        } else {
            break;
        }
    }
    return x;
}

struct expr *tpl__parse_filters(struct parser *p, struct expr *a, bool inline_first)
{
    while (p->r == 0 && (inline_first || tpl__take_op(p, "|"))) {
        struct expr *x = tpl__node(p, EX_FILTER, a, NULL);
        inline_first = false;
        x->text = tpl__expect_name(p);
        x->builtin = tpl__find_filter(x->text->s, x->text->n);
        if (!x->builtin)
            tpl__parse_fail(p, ERR_UNSUPPORTED, "the filter \"%.*s\" is not known",
                            x->text->n < 40 ? (int)x->text->n : 40, x->text->s);
        if (tpl__take_op(p, "("))
            parse_args(p, x);
        a = x;
    }
    return a;
}

static struct expr *parse_test(struct parser *p, struct expr *a)
{
    bool negated = tpl__take_name(p, "not");
    struct expr *x = tpl__node(p, EX_TEST, a, NULL);
    x->text = tpl__expect_name(p);
    x->builtin = tpl__find_test(x->text->s, x->text->n);
    if (!x->builtin)
        tpl__parse_fail(p, ERR_UNSUPPORTED, "the test \"%.*s\" is not known",
                        x->text->n < 40 ? (int)x->text->n : 40, x->text->s);
    if (tpl__take_op(p, "(")) {
        parse_args(p, x);
    } else if (tpl__at_op(p, "[") || tpl__at_op(p, "{") || p->at->kind == TOK_STRING ||
               p->at->kind == TOK_INT || p->at->kind == TOK_FLOAT ||
               (p->at->kind == TOK_NAME && !tpl__at_name(p, "else") && !tpl__at_name(p, "or") &&
                !tpl__at_name(p, "and") && !tpl__at_name(p, "if") &&
                !tpl__at_name(p, "recursive") && !tpl__at_name(p, "is"))) {
        x->args = tpl__parse_alloc(p, sizeof(*x->args));
        *x->args = (struct arg){.e = tpl__parse_postfix(p, tpl__parse_primary(p))};
        x->n_items = 1;
    } else if (tpl__at_name(p, "is")) {
        tpl__parse_fail(p, ERR_FORMAT, "tests cannot be chained with is");
    }
    return negated ? tpl__node(p, EX_NOT, x, NULL) : x;
}

static struct expr *parse_filter_expr(struct parser *p, struct expr *x)
{
    while (p->r == 0) {
        if (tpl__at_op(p, "|")) {
            x = tpl__parse_filters(p, x, false);
        } else if (tpl__take_name(p, "is")) {
            x = parse_test(p, x);
        } else if (tpl__take_op(p, "(")) {
            x = tpl__node(p, EX_CALL, x, NULL);
            parse_args(p, x);
        } else {
            break;
        }
    }
    return x;
}

/* --- operators ------------------------------------------------------------------------------------ */

static struct expr *parse_unary(struct parser *p, bool with_filters)
{
    struct expr *x;
    if (!tpl__enter(p))
        return tpl__node(p, EX_CONST, NULL, NULL);
    if (tpl__take_op(p, "-"))
        x = tpl__node(p, EX_NEG, parse_unary(p, false), NULL);
    else if (tpl__take_op(p, "+"))
        x = tpl__node(p, EX_POS, parse_unary(p, false), NULL);
    else
        x = tpl__parse_primary(p);
    x = tpl__parse_postfix(p, x);
    if (with_filters)
        x = parse_filter_expr(p, x);
    tpl__leave(p);
    return x;
}

/* Left-associative operators by level, loosest first. */
static const struct {
    int level;
    const char *text;
    enum op op;
} operators[] = {
    {0, "+", OP_ADD}, {0, "-", OP_SUB}, {1, "~", OP_CONCAT}, {2, "*", OP_MUL},
    {2, "/", OP_DIV}, {2, "//", OP_FLOORDIV}, {2, "%", OP_MOD}, {3, "**", OP_POW},
};

static struct expr *parse_level(struct parser *p, int level)
{
    if (level == 4)
        return parse_unary(p, true);
    struct expr *x = parse_level(p, level + 1);
    for (size_t i = 0; p->r == 0 && i < sizeof(operators) / sizeof(*operators); i++) {
        if (operators[i].level != level || !tpl__take_op(p, operators[i].text))
            continue;
        x = tpl__node(p, EX_BINARY, x, NULL);
        x->op = operators[i].op;
        x->b = parse_level(p, level + 1);
        i = (size_t)-1; /* look again from the first */
    }
    return x;
}

static struct expr *parse_math1(struct parser *p)
{
    return parse_level(p, 0);
}

static bool take_comparison(struct parser *p, enum op *ret)
{
    static const struct {
        const char *text;
        enum op op;
    } rows[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<", OP_LT},
                {"<=", OP_LE}, {">", OP_GT},  {">=", OP_GE}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
        if (tpl__take_op(p, rows[i].text)) {
            *ret = rows[i].op;
            return true;
        }
    if (tpl__take_name(p, "in")) {
        *ret = OP_IN;
        return true;
    }
    if (tpl__at_name(p, "not") && p->at[1].kind == TOK_NAME && p->at[1].n == 2 &&
        !memcmp(p->at[1].s, "in", 2)) {
        p->at += 2;
        *ret = OP_NOT_IN;
        return true;
    }
    return false;
}

/* a < b < c: the operands after the first, each with its operator. */
static struct expr *parse_compare(struct parser *p)
{
    struct expr *a = parse_math1(p), *x = NULL, **tail = NULL;
    enum op op;
    while (p->r == 0 && take_comparison(p, &op)) {
        if (!x) {
            x = tpl__node(p, EX_COMPARE, a, NULL);
            tail = &x->items;
        }
        struct expr *link = tpl__node(p, EX_COMPARE, NULL, NULL);
        link->op = op;
        link->b = parse_math1(p);
        *tail = link;
        tail = &link->next;
    }
    return x ? x : a;
}

static struct expr *parse_not(struct parser *p)
{
    if (!tpl__at_name(p, "not"))
        return parse_compare(p);
    struct expr *x = tpl__node(p, EX_NOT, NULL, NULL);
    p->at++;
    if (tpl__enter(p))
        x->a = parse_not(p);
    tpl__leave(p);
    return x;
}

static struct expr *parse_and(struct parser *p)
{
    struct expr *x = parse_not(p);
    while (tpl__take_name(p, "and")) {
        x = tpl__node(p, EX_AND, x, NULL);
        x->b = parse_not(p);
    }
    return x;
}

static struct expr *parse_or(struct parser *p)
{
    struct expr *x = parse_and(p);
    while (tpl__take_name(p, "or")) {
        x = tpl__node(p, EX_OR, x, NULL);
        x->b = parse_and(p);
    }
    return x;
}

struct expr *tpl__parse_expr(struct parser *p)
{
    struct expr *x = NULL;
    if (!tpl__enter(p))
        return tpl__node(p, EX_CONST, NULL, NULL);
    x = parse_or(p);
    while (p->r == 0 && tpl__take_name(p, "if")) {
        x = tpl__node(p, EX_CHOOSE, x, NULL);
        x->b = parse_or(p);
        if (tpl__take_name(p, "else"))
            x->c = tpl__parse_expr(p);
    }
    tpl__leave(p);
    return x;
}

static bool tuple_ends(const struct parser *p)
{
    return p->at->kind == TOK_PRINT_END || p->at->kind == TOK_BLOCK_END || p->at->kind == TOK_EOF ||
           tpl__at_op(p, ")");
}

static struct expr *tuple_of(struct parser *p, struct expr *(*item)(struct parser *p))
{
    struct expr *first = item(p);
    if (!tpl__at_op(p, ","))
        return first;
    struct expr *x = tpl__node(p, EX_TUPLE, NULL, NULL), **tail = &first->next;
    x->items = first;
    x->n_items = 1;
    while (p->r == 0 && tpl__take_op(p, ",") && !tuple_ends(p) && !tpl__at_name(p, "in")) {
        *tail = item(p);
        tail = &(*tail)->next;
        x->n_items++;
    }
    return x;
}

struct expr *tpl__parse_tuple(struct parser *p)
{
    return tuple_of(p, tpl__parse_expr);
}

struct expr *tpl__parse_iterated(struct parser *p)
{
    return tuple_of(p, parse_or);
}

static bool assignable(const struct expr *x)
{
    static const char *const reserved[] = {"loop", "true", "false", "none", "self", "super"};
    for (size_t i = 0; x->kind == EX_NAME && i < sizeof(reserved) / sizeof(*reserved); i++)
        if (i > 0 && tpl__is(x->text, reserved[i]))
            return false;
    return x->kind == EX_NAME;
}

struct expr *tpl__parse_target(struct parser *p, bool namespaces)
{
    struct expr *x;
    if (p->at->kind == TOK_NAME && namespaces && p->at[1].kind == TOK_OP && p->at[1].s[0] == '.') {
        x = tpl__parse_primary(p);
        p->at++;
        x = tpl__node(p, EX_ATTR, x, NULL);
        x->text = tpl__expect_name(p);
        return x;
    }
    x = tuple_of(p, tpl__parse_primary);
    bool good = assignable(x) || x->kind == EX_TUPLE;
    for (const struct expr *a = x->kind == EX_TUPLE ? x->items : NULL; a; a = a->next)
        good = good && (assignable(a) || a->kind == EX_TUPLE);
    if (!good)
        tpl__parse_fail(p, ERR_FORMAT, "this cannot be assigned to");
    return x;
}
