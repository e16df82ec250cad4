/* api/template_parse.c - a template's text to its tree: recursive descent, without a token list. */
#include "config.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/template_ast.h"

#define MAX_TEXT_BYTES (1u << 20)
#define MAX_DEPTH 60

struct parser {
    struct arena *arena;
    const char *begin, *at, *end;
    int depth;
    int r; /* first failure; the parser then runs to its end without effect */
    struct err *e;
};

static int line_of(const struct parser *p)
{
    int line = 1;
    for (const char *s = p->begin; s < p->at; s++)
        line += *s == '\n';
    return line;
}

static void fail(struct parser *p, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void fail(struct parser *p, int code, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    if (p->r)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    p->r = err_set_param(p->e, code, "chat_template", "chat template, line %d: %s", line_of(p), text);
    p->at = p->end;
}

static void *make(struct parser *p, size_t n_bytes)
{
    static _Thread_local struct expr spare_expr;
    static _Thread_local struct stmt spare_stmt;
    void *m = arena_alloc(p->arena, n_bytes);
    if (m)
        return m;
    fail(p, ERR_NOMEM, "out of memory");
    return n_bytes == sizeof(struct expr) ? (void *)&spare_expr : (void *)&spare_stmt;
}

/* --- tokens --------------------------------------------------------------------------------------- */

static bool word_char(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

static void skip_space(struct parser *p)
{
    while (p->at < p->end && isspace((unsigned char)*p->at))
        p->at++;
}

static bool starts(const struct parser *p, const char *s)
{
    size_t n = strlen(s);
    return (size_t)(p->end - p->at) >= n && !memcmp(p->at, s, n);
}

/* Takes an operator or a word, if it is next. */
static bool take(struct parser *p, const char *s)
{
    size_t n = strlen(s);
    skip_space(p);
    if (!starts(p, s) || (word_char(s[0]) && p->at + n < p->end && word_char(p->at[n])))
        return false;
    p->at += n;
    return true;
}

static void expect(struct parser *p, const char *s)
{
    if (!take(p, s))
        fail(p, ERR_FORMAT, "\"%s\" is missing", s);
}

static size_t take_word(struct parser *p, const char **ret)
{
    skip_space(p);
    const char *s = p->at;
    while (p->at < p->end && word_char(*p->at))
        p->at++;
    *ret = s;
    if (s == p->at || isdigit((unsigned char)*s))
        fail(p, ERR_FORMAT, "a name is missing");
    return (size_t)(p->at - s);
}

/* --- expressions ---------------------------------------------------------------------------------- */

static struct expr *parse_expr(struct parser *p);
static struct expr *parse_unary(struct parser *p);

static struct expr *node(struct parser *p, enum expr_kind kind, struct expr *a, struct expr *b)
{
    struct expr *x = make(p, sizeof(*x));
    *x = (struct expr){.kind = kind, .a = a, .b = b, .line = line_of(p)};
    return x;
}

static struct expr *parse_string(struct parser *p)
{
    struct expr *x = node(p, EX_STRING, NULL, NULL);
    char quote = *p->at++;
    char *s = arena_alloc(p->arena, (size_t)(p->end - p->at) + 1), *d = s;
    if (!s)
        fail(p, ERR_NOMEM, "out of memory");
    while (p->at < p->end && *p->at != quote) {
        char c = *p->at++;
        if (c == '\\' && p->at < p->end) {
            c = *p->at++;
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
        }
        *d++ = c;
    }
    if (p->at >= p->end)
        fail(p, ERR_FORMAT, "a string has no end");
    else
        p->at++;
    x->text = s;
    x->n_bytes = (size_t)(d - s);
    return x;
}

static struct expr *parse_list(struct parser *p, const char *close)
{
    struct expr *x = node(p, EX_LIST, NULL, NULL), **tail = &x->args;
    if (take(p, close))
        return x;
    do {
        if (take(p, close))
            return x;
        *tail = parse_expr(p);
        tail = &(*tail)->next;
    } while (p->r == 0 && take(p, ","));
    expect(p, close);
    return x;
}

static struct expr *parse_word(struct parser *p)
{
    static const struct {
        const char *word;
        enum expr_kind kind;
        long value;
    } constants[] = {{"true", EX_BOOL, 1}, {"True", EX_BOOL, 1}, {"false", EX_BOOL, 0},
                     {"False", EX_BOOL, 0}, {"none", EX_NONE, 0}, {"None", EX_NONE, 0}};
    struct expr *x = node(p, EX_NAME, NULL, NULL);
    for (size_t i = 0; i < sizeof(constants) / sizeof(*constants); i++)
        if (take(p, constants[i].word)) {
            x->kind = constants[i].kind;
            x->value = constants[i].value;
            return x;
        }
    x->n_bytes = take_word(p, &x->text);
    if (take(p, "(")) {
        if (x->n_bytes != 15 || memcmp(x->text, "raise_exception", 15) != 0)
            fail(p, ERR_UNSUPPORTED, "the function %.*s() is not supported", (int)x->n_bytes, x->text);
        x->kind = EX_RAISE;
        x->a = parse_expr(p);
        expect(p, ")");
    }
    return x;
}

static struct expr *parse_primary(struct parser *p)
{
    struct expr *x;
    skip_space(p);
    if (p->at >= p->end) {
        fail(p, ERR_FORMAT, "an expression is missing");
        return node(p, EX_NONE, NULL, NULL);
    }
    if (*p->at == '\'' || *p->at == '"')
        return parse_string(p);
    if (isdigit((unsigned char)*p->at)) {
        x = node(p, EX_INT, NULL, NULL);
        while (p->at < p->end && isdigit((unsigned char)*p->at) && x->value < 1000000000)
            x->value = x->value * 10 + (*p->at++ - '0');
        return x;
    }
    if (take(p, "(")) {
        x = parse_expr(p);
        expect(p, ")");
        return x;
    }
    if (take(p, "["))
        return parse_list(p, "]");
    if (!word_char(*p->at)) {
        fail(p, ERR_UNSUPPORTED, "\"%c\" is not supported here", *p->at);
        return node(p, EX_NONE, NULL, NULL);
    }
    return parse_word(p);
}

static bool known(const char *list, const char *s, size_t n)
{
    char word[32];
    if (n + 3 > sizeof(word))
        return false;
    snprintf(word, sizeof(word), " %.*s ", (int)n, s);
    return strstr(list, word) != NULL;
}

static struct expr *parse_postfix(struct parser *p)
{
    struct expr *x = parse_primary(p);
    while (p->r == 0) {
        if (take(p, "[")) {
            x = node(p, EX_INDEX, x, parse_expr(p));
            if (take(p, ":"))
                fail(p, ERR_UNSUPPORTED, "slices are not supported");
            expect(p, "]");
        } else if (take(p, ".")) {
            x = node(p, EX_ATTR, x, NULL);
            x->n_bytes = take_word(p, &x->text);
            if (take(p, "("))
                fail(p, ERR_UNSUPPORTED, "the method %.*s() is not supported", (int)x->n_bytes, x->text);
        } else if (!starts(p, "||") && take(p, "|")) {
            x = node(p, EX_FILTER, x, NULL);
            x->n_bytes = take_word(p, &x->text);
            if (!known(" trim upper lower length count default join tojson string ", x->text, x->n_bytes))
                fail(p, ERR_UNSUPPORTED, "the filter %.*s is not supported", (int)x->n_bytes, x->text);
            if (take(p, "("))
                x->args = parse_list(p, ")")->args;
        } else {
            break;
        }
    }
    return x;
}

static struct expr *parse_unary(struct parser *p)
{
    struct expr *x;
    if (++p->depth > MAX_DEPTH)
        fail(p, ERR_LIMIT, "expressions are nested deeper than %d", MAX_DEPTH);
    skip_space(p);
    if (p->at < p->end && *p->at == '-' && !starts(p, "-}}") && !starts(p, "-%}")) {
        p->at++;
        x = node(p, EX_NEG, parse_unary(p), NULL);
    } else {
        x = parse_postfix(p);
    }
    p->depth--;
    return x;
}

/* Operators by how tightly they bind, loosest first. */
static const struct {
    int level;
    const char *text;
    enum expr_kind kind;
} operators[] = {
    {0, "or", EX_OR},  {1, "and", EX_AND}, {3, "==", EX_EQ},  {3, "!=", EX_NE}, {3, "<=", EX_LE},
    {3, ">=", EX_GE},  {3, "<", EX_LT},    {3, ">", EX_GT},   {3, "in", EX_IN}, {4, "~", EX_CONCAT},
    {5, "+", EX_ADD},  {5, "-", EX_SUB},   {6, "*", EX_MUL},  {6, "%", EX_MOD},
};

static bool tag_end(struct parser *p)
{
    skip_space(p);
    return starts(p, "-}}") || starts(p, "-%}") || starts(p, "%}");
}

static struct expr *parse_test(struct parser *p, struct expr *x)
{
    bool negated = take(p, "not");
    x = node(p, EX_TEST, x, NULL);
    x->n_bytes = take_word(p, &x->text);
    if (!known(" defined undefined none None string true false True False ", x->text, x->n_bytes))
        fail(p, ERR_UNSUPPORTED, "the test %.*s is not supported", (int)x->n_bytes, x->text);
    return negated ? node(p, EX_NOT, x, NULL) : x;
}

static struct expr *parse_level(struct parser *p, int level)
{
    if (level == 7)
        return parse_unary(p);
    if (level == 2 && take(p, "not"))
        return node(p, EX_NOT, parse_level(p, 2), NULL);
    struct expr *x = parse_level(p, level + 1);
    for (size_t i = 0; p->r == 0 && i < sizeof(operators) / sizeof(*operators); i++) {
        if (operators[i].level != level || tag_end(p) || !take(p, operators[i].text))
            continue;
        x = node(p, operators[i].kind, x, parse_level(p, level + 1));
        i = (size_t)-1; /* look again from the first */
    }
    if (level == 3) {
        if (take(p, "is"))
            return parse_test(p, x);
        if (take(p, "not")) { /* not in */
            expect(p, "in");
            return node(p, EX_NOT, node(p, EX_IN, x, parse_level(p, 4)), NULL);
        }
    }
    return x;
}

static struct expr *parse_expr(struct parser *p)
{
    if (++p->depth > MAX_DEPTH)
        fail(p, ERR_LIMIT, "expressions are nested deeper than %d", MAX_DEPTH);
    struct expr *x = parse_level(p, 0);
    if (take(p, "if")) {
        x = node(p, EX_CHOOSE, x, parse_level(p, 0));
        if (take(p, "else"))
            x->c = parse_expr(p);
    }
    p->depth--;
    return x;
}

/* --- statements ----------------------------------------------------------------------------------- */

/* Where the text before the tag at `tag` ends: before its white space when the tag asks for that. */
static const char *text_end(const struct parser *p, const char *from, const char *tag)
{
    const char *s = tag;
    if (tag + 2 < p->end && tag[2] == '-') {
        while (s > from && isspace((unsigned char)s[-1]))
            s--;
        return s;
    }
    if (tag[1] == '{')
        return tag;
    while (s > from && (s[-1] == ' ' || s[-1] == '\t')) /* lstrip_blocks */
        s--;
    return s == p->begin || s[-1] == '\n' ? s : tag;
}

static void close_tag(struct parser *p, const char *end)
{
    skip_space(p);
    bool strip = p->at < p->end && *p->at == '-';
    p->at += strip;
    if (p->r == 0 && !starts(p, end)) {
        fail(p, ERR_FORMAT, "\"%s\" is missing", end);
        return;
    }
    if (p->r)
        return;
    p->at += 2;
    if (strip)
        skip_space(p);
    else if (end[0] != '}' && p->at < p->end && *p->at == '\n') /* trim_blocks */
        p->at++;
}

static struct stmt *parse_body(struct parser *p);

/* After a body: is the next tag this one? Takes it up to its word. */
static bool take_tag(struct parser *p, const char *word)
{
    const char *before = p->at;
    if (p->r || !starts(p, "{%"))
        return false;
    p->at += 2;
    if (p->at < p->end && *p->at == '-')
        p->at++;
    if (take(p, word))
        return true;
    p->at = before;
    return false;
}

static struct stmt *new_stmt(struct parser *p, enum stmt_kind kind)
{
    struct stmt *s = make(p, sizeof(*s));
    *s = (struct stmt){.kind = kind};
    return s;
}

static struct stmt *parse_if(struct parser *p)
{
    struct stmt *s = new_stmt(p, ST_IF);
    s->e = parse_expr(p);
    close_tag(p, "%}");
    s->body = parse_body(p);
    if (take_tag(p, "elif")) {
        s->orelse = parse_if(p);
        return s;
    }
    if (take_tag(p, "else")) {
        close_tag(p, "%}");
        s->orelse = parse_body(p);
    }
    if (!take_tag(p, "endif"))
        fail(p, ERR_FORMAT, "endif is missing");
    close_tag(p, "%}");
    return s;
}

static struct stmt *parse_for(struct parser *p)
{
    struct stmt *s = new_stmt(p, ST_FOR);
    s->n_bytes = take_word(p, &s->text);
    if (take(p, ","))
        fail(p, ERR_UNSUPPORTED, "for over pairs is not supported");
    expect(p, "in");
    s->e = parse_level(p, 0);
    if (take(p, "if") || take(p, "recursive"))
        fail(p, ERR_UNSUPPORTED, "for with a condition is not supported");
    close_tag(p, "%}");
    s->body = parse_body(p);
    if (take_tag(p, "else")) {
        close_tag(p, "%}");
        s->orelse = parse_body(p);
    }
    if (!take_tag(p, "endfor"))
        fail(p, ERR_FORMAT, "endfor is missing");
    close_tag(p, "%}");
    return s;
}

static struct stmt *parse_set(struct parser *p)
{
    struct stmt *s = new_stmt(p, ST_SET);
    s->n_bytes = take_word(p, &s->text);
    if (take(p, "."))
        fail(p, ERR_UNSUPPORTED, "namespaces are not supported");
    expect(p, "=");
    s->e = parse_expr(p);
    close_tag(p, "%}");
    return s;
}

static void skip_comment(struct parser *p)
{
    while (p->at < p->end && !starts(p, "#}"))
        p->at++;
    if (p->at >= p->end) {
        fail(p, ERR_FORMAT, "a comment has no end");
        return;
    }
    bool strip = p->at[-1] == '-';
    p->at += 2;
    if (strip)
        skip_space(p);
    else if (p->at < p->end && *p->at == '\n')
        p->at++;
}

/* One of {{ }}, {# #} or {% %} with a statement; NULL: a comment, or a tag that ends the body. */
static struct stmt *parse_tag(struct parser *p, bool *ret_end)
{
    struct stmt *s = NULL;
    if (starts(p, "{#")) {
        skip_comment(p);
    } else if (starts(p, "{{")) {
        p->at += starts(p, "{{-") ? 3 : 2;
        s = new_stmt(p, ST_PRINT);
        s->e = parse_expr(p);
        close_tag(p, "}}");
    } else if (take_tag(p, "if")) {
        s = parse_if(p);
    } else if (take_tag(p, "for")) {
        s = parse_for(p);
    } else if (take_tag(p, "set")) {
        s = parse_set(p);
    } else {
        static const char *const ends[] = {"elif", "else", "endif", "endfor"};
        const char *tag = p->at;
        for (size_t i = 0; i < 4; i++)
            if (take_tag(p, ends[i])) {
                p->at = tag;
                *ret_end = true;
                return NULL;
            }
        const char *word;
        p->at += starts(p, "{%-") ? 3 : 2;
        int n = (int)take_word(p, &word);
        fail(p, ERR_UNSUPPORTED, "the statement %.*s is not supported", n, word);
    }
    return s;
}

static struct stmt *parse_body(struct parser *p)
{
    struct stmt *first = NULL, **tail = &first;
    bool ends = false;
    if (++p->depth > MAX_DEPTH)
        fail(p, ERR_LIMIT, "blocks are nested deeper than %d", MAX_DEPTH);
    while (p->r == 0 && p->at < p->end && !ends) {
        const char *tag = p->at;
        while (tag < p->end && !(tag[0] == '{' && tag + 1 < p->end && strchr("{%#", tag[1]) && tag[1]))
            tag++;
        const char *stop = tag < p->end ? text_end(p, p->at, tag) : tag;
        if (stop > p->at) {
            *tail = new_stmt(p, ST_TEXT);
            (*tail)->text = p->at;
            (*tail)->n_bytes = (size_t)(stop - p->at);
            tail = &(*tail)->next;
        }
        p->at = tag;
        if (tag == p->end)
            break;
        *tail = parse_tag(p, &ends);
        if (*tail)
            tail = &(*tail)->next;
    }
    p->depth--;
    return first;
}

int template_new(const char *text, size_t n_bytes, struct template **ret, struct err *e)
{
    struct parser p = {.e = e};
    if (n_bytes > MAX_TEXT_BYTES)
        return err_set_param(e, ERR_LIMIT, "chat_template", "the chat template has more than %u bytes",
                             MAX_TEXT_BYTES);
    struct template *t = calloc(1, sizeof(*t));
    char *own = NULL;
    if (t && (t->arena = arena_new(64u << 20)))
        own = arena_strndup(t->arena, text, n_bytes);
    if (!own) {
        template_free(&t);
        return err_set(e, ERR_NOMEM, "out of memory for the chat template");
    }
    p.arena = t->arena;
    p.begin = p.at = own;
    p.end = own + n_bytes;
    t->root = parse_body(&p);
    if (p.r == 0 && p.at < p.end)
        fail(&p, ERR_FORMAT, "a tag ends a block that was not begun");
    if (p.r) {
        template_free(&t);
        return p.r;
    }
    *ret = t;
    return 0;
}

void template_free(struct template **tp)
{
    struct template *t = *tp;
    *tp = NULL;
    if (!t)
        return;
    arena_free(t->arena);
    free(t);
}
