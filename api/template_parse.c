/* api/template_parse.c - statements: tokens to the tree, by recursive descent. Expressions:
 * template_expr.c. */
#include "config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/template_ast.h"
#include "base/utf8.h"

/* --- tokens --------------------------------------------------------------------------------------- */

void tpl__parse_fail(struct parser *p, int code, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    if (p->r)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    p->r =
        err_set_param(p->e, code, "chat_template", "chat template, line %d: %s", p->at->line, text);
    p->end = (struct token){TOK_EOF, p->at->line, "", 0};
    p->at = &p->end;
}

void tpl__parse_full(struct parser *p)
{
    if (errno == ENOMEM) /* since template_new began: the arena does not tell this from its own limit */
        tpl__parse_fail(p, ERR_NOMEM, "out of memory");
    else
        tpl__parse_fail(p, ERR_LIMIT, "the template is too large");
}

void *tpl__parse_alloc(struct parser *p, size_t n_bytes)
{
    static _Thread_local union {
        struct expr e;
        struct stmt s;
        struct param p;
        struct arg a;
        struct str str;
    } spare;
    void *m = p->r ? NULL : arena_alloc(p->arena, n_bytes);
    if (m)
        return m;
    tpl__parse_full(p);
    memset(&spare, 0, sizeof(spare));
    return &spare;
}

const struct str *tpl__parse_str(struct parser *p, const char *s, size_t n)
{
    struct str *str = tpl__parse_alloc(p, sizeof(*str));
    char *copy = arena_strndup(p->arena, s, n);
    if (!copy) {
        tpl__parse_full(p);
        n = 0;
    }
    *str = (struct str){copy ? copy : "", NULL, n};
    return str;
}

static bool token_is(const struct token *t, enum token_kind kind, const char *s)
{
    return t->kind == kind && strlen(s) == t->n && !memcmp(t->s, s, t->n);
}

bool tpl__at_op(const struct parser *p, const char *op)
{
    return token_is(p->at, TOK_OP, op);
}

bool tpl__at_name(const struct parser *p, const char *name)
{
    return token_is(p->at, TOK_NAME, name);
}

bool tpl__take_op(struct parser *p, const char *op)
{
    bool yes = tpl__at_op(p, op);
    p->at += yes;
    return yes;
}

bool tpl__take_name(struct parser *p, const char *name)
{
    bool yes = tpl__at_name(p, name);
    p->at += yes;
    return yes;
}

static void unexpected(struct parser *p, const char *wanted)
{
    if (p->at->kind == TOK_EOF)
        tpl__parse_fail(p, ERR_FORMAT, "the template ends where %s is missing", wanted);
    else
        tpl__parse_fail(p, ERR_FORMAT, "%s is missing before \"%.*s\"", wanted,
                        p->at->n < 40 ? (int)p->at->n : 40, p->at->s);
}

void tpl__expect_op(struct parser *p, const char *op)
{
    char wanted[8];
    snprintf(wanted, sizeof(wanted), "\"%s\"", op);
    if (!tpl__take_op(p, op))
        unexpected(p, wanted);
}

const struct str *tpl__expect_name(struct parser *p)
{
    if (p->at->kind != TOK_NAME) {
        unexpected(p, "a name");
        return tpl__parse_str(p, "", 0);
    }
    const struct token *t = p->at++;
    return tpl__parse_str(p, t->s, t->n);
}

bool tpl__enter(struct parser *p)
{
    if (++p->depth > TPL_MAX_PARSE_DEPTH)
        tpl__parse_fail(p, ERR_LIMIT, "the template is nested deeper than %d", TPL_MAX_PARSE_DEPTH);
    return p->r == 0;
}

void tpl__leave(struct parser *p)
{
    p->depth--;
}

/* --- statements ----------------------------------------------------------------------------------- */

static struct stmt *parse_body(struct parser *p, const char *const *ends);

static struct stmt *new_stmt(struct parser *p, enum stmt_kind kind)
{
    struct stmt *s = tpl__parse_alloc(p, sizeof(*s));
    *s = (struct stmt){.kind = kind, .line = p->at->line};
    return s;
}

static void block_end(struct parser *p)
{
    if (p->at->kind == TOK_BLOCK_END)
        p->at++;
    else
        unexpected(p, "\"%}\"");
}

/* A body up to the tag of one word that ends it, with that tag. */
static struct stmt *body_until(struct parser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    block_end(p);
    struct stmt *body = parse_body(p, ends);
    p->at += p->r == 0; /* the word */
    return body;
}

static struct stmt *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct stmt *first = new_stmt(p, ST_IF), *s = first;
    for (;;) {
        s->e = tpl__parse_tuple(p);
        block_end(p);
        s->body = parse_body(p, ends);
        if (!tpl__take_name(p, "elif"))
            break;
        s = s->orelse = new_stmt(p, ST_IF);
    }
    if (tpl__take_name(p, "else"))
        s->orelse = body_until(p, "endif");
    else
        tpl__take_name(p, "endif");
    return first;
}

static struct stmt *parse_for(struct parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct stmt *s = new_stmt(p, ST_FOR);
    s->target = tpl__parse_target(p, false);
    if (!tpl__take_name(p, "in"))
        unexpected(p, "\"in\"");
    s->e = tpl__parse_iterated(p);
    if (tpl__take_name(p, "if"))
        s->filter = tpl__parse_expr(p);
    s->recursive = tpl__take_name(p, "recursive");
    block_end(p);
    p->loops++;
    s->body = parse_body(p, ends);
    p->loops--;
    if (tpl__take_name(p, "else"))
        s->orelse = body_until(p, "endfor");
    else
        tpl__take_name(p, "endfor");
    return s;
}

static struct stmt *parse_set(struct parser *p)
{
    struct stmt *s = new_stmt(p, ST_SET);
    s->target = tpl__parse_target(p, true);
    if (tpl__take_op(p, "=")) {
        s->e = tpl__parse_tuple(p);
        return s;
    }
    s->kind = ST_SET_BLOCK;
    s->e = tpl__parse_filters(p, NULL, false);
    s->body = body_until(p, "endset");
    return s;
}

static void parse_params(struct parser *p, struct stmt *s)
{
    struct param **tail = &s->params, *last = NULL;
    tpl__expect_op(p, "(");
    for (int n = 0; p->r == 0 && !tpl__at_op(p, ")"); n++) {
        if (n)
            tpl__expect_op(p, ",");
        if (n && tpl__at_op(p, ")"))
            break;
        struct param *param = tpl__parse_alloc(p, sizeof(*param));
        *param = (struct param){.name = tpl__expect_name(p)};
        if (tpl__take_op(p, "="))
            param->fallback = tpl__parse_expr(p);
        else if (last && last->fallback)
            tpl__parse_fail(p, ERR_FORMAT, "a parameter without default follows one with");
        if (p->r)
            break;
        *tail = last = param;
        tail = &param->next;
        if (n > 100)
            tpl__parse_fail(p, ERR_LIMIT, "too many parameters");
    }
    tpl__expect_op(p, ")");
}

/* The body of a macro or a call block: which of the special names it reads matters for its calls. */
static void parse_macro_body(struct parser *p, struct stmt *s, const char *end)
{
    struct stmt *outer = p->macro;
    int loops = p->loops;
    p->macro = s;
    p->loops = 0;
    s->body = body_until(p, end);
    p->macro = outer;
    p->loops = loops;
}

static struct stmt *parse_macro(struct parser *p)
{
    struct stmt *s = new_stmt(p, ST_MACRO);
    s->name = tpl__expect_name(p);
    parse_params(p, s);
    parse_macro_body(p, s, "endmacro");
    return s;
}

static struct stmt *parse_call_block(struct parser *p)
{
    struct stmt *s = new_stmt(p, ST_CALL);
    s->name = tpl__parse_str(p, "caller", 6);
    if (tpl__at_op(p, "("))
        parse_params(p, s);
    s->e = tpl__parse_expr(p);
    if (p->r == 0 && s->e->kind != EX_CALL)
        tpl__parse_fail(p, ERR_FORMAT, "call needs a call: {%% call name() %%}");
    parse_macro_body(p, s, "endcall");
    return s;
}

static struct stmt *parse_with(struct parser *p)
{
    struct stmt *s = new_stmt(p, ST_WITH);
    struct expr *targets = tpl__node(p, EX_TUPLE, NULL, NULL),
                *values = tpl__node(p, EX_TUPLE, NULL, NULL);
    struct expr **t = &targets->items, **v = &values->items;
    while (p->r == 0 && p->at->kind != TOK_BLOCK_END) {
        if (t != &targets->items)
            tpl__expect_op(p, ",");
        *t = tpl__parse_target(p, false);
        tpl__expect_op(p, "=");
        *v = tpl__parse_expr(p);
        t = &(*t)->next;
        v = &(*v)->next;
    }
    s->target = targets;
    s->e = values;
    s->body = body_until(p, "endwith");
    return s;
}

static struct stmt *parse_jump(struct parser *p, enum stmt_kind kind)
{
    if (p->loops == 0)
        tpl__parse_fail(p, ERR_FORMAT, "break and continue belong into a loop");
    return new_stmt(p, kind);
}

static struct stmt *parse_statement(struct parser *p)
{
    static const char *const refused[] = {"include",    "import", "from",  "extends", "block",
                                          "autoescape", "do",     "trans", "debug"};
    struct stmt *s;
    if (tpl__take_name(p, "if"))
        return parse_if(p);
    if (tpl__take_name(p, "for"))
        return parse_for(p);
    if (tpl__take_name(p, "set"))
        return parse_set(p);
    if (tpl__take_name(p, "macro"))
        return parse_macro(p);
    if (tpl__take_name(p, "call"))
        return parse_call_block(p);
    if (tpl__take_name(p, "with"))
        return parse_with(p);
    if (tpl__take_name(p, "break"))
        return parse_jump(p, ST_BREAK);
    if (tpl__take_name(p, "continue"))
        return parse_jump(p, ST_CONTINUE);
    if (tpl__take_name(p, "filter")) {
        s = new_stmt(p, ST_FILTER);
        s->e = tpl__parse_filters(p, NULL, true);
        s->body = body_until(p, "endfilter");
        return s;
    }
    if (tpl__take_name(
            p, "generation")) { /* transformers': what the assistant said; nothing to do here */
        s = new_stmt(p, ST_BODY);
        s->body = body_until(p, "endgeneration");
        return s;
    }
    if (tpl__take_name(p, "print")) {
        s = new_stmt(p, ST_PRINT);
        s->e = tpl__parse_tuple(p);
        return s;
    }
    for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++)
        if (tpl__at_name(p, refused[i]))
            tpl__parse_fail(p, ERR_UNSUPPORTED,
                            "the statement \"%s\" is not served in chat templates", refused[i]);
    if (p->at->kind == TOK_NAME)
        tpl__parse_fail(p, ERR_FORMAT, "there is no statement \"%.*s\" that could stand here",
                        p->at->n < 40 ? (int)p->at->n : 40, p->at->s);
    unexpected(p, "a statement");
    return new_stmt(p, ST_BODY);
}

/* Up to a tag whose word is in ends: stops at the word. At the top (ends NULL) up to the end. */
static struct stmt *parse_body(struct parser *p, const char *const *ends)
{
    struct stmt *first = NULL, **tail = &first;
    if (!tpl__enter(p))
        return NULL;
    while (p->r == 0) {
        struct stmt *s;
        if (p->at->kind == TOK_DATA) {
            s = new_stmt(p, ST_TEXT);
            s->text = *tpl__parse_str(p, p->at->s, p->at->n);
            p->at += p->r == 0;
        } else if (p->at->kind == TOK_PRINT) {
            p->at++;
            s = new_stmt(p, ST_PRINT);
            s->e = tpl__parse_tuple(p);
            if (p->at->kind == TOK_PRINT_END)
                p->at++;
            else
                unexpected(p, "\"}}\"");
        } else if (p->at->kind == TOK_BLOCK) {
            p->at++;
            for (const char *const *end = ends; end && *end; end++)
                if (tpl__at_name(p, *end))
                    goto out;
            s = parse_statement(p);
            block_end(p);
        } else {
            if (ends)
                tpl__parse_fail(p, ERR_FORMAT, "the template ends before \"%s\"", ends[0]);
            break;
        }
        if (p->r)
            break;
        *tail = s;
        tail = &s->next;
    }
out:
    tpl__leave(p);
    return first;
}

/* --- templates ------------------------------------------------------------------------------------ */

/* Line ends become \n, and one at the end of the text goes, as in Jinja2. */
static char *normal_lines(const char *text, size_t n, size_t *ret_n)
{
    char *s = malloc(n + 1);
    size_t at = 0;
    for (size_t i = 0; s && i < n; i++) {
        if (text[i] == '\r' && i + 1 < n && text[i + 1] == '\n')
            continue;
        s[at++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (s && at && s[at - 1] == '\n')
        at--;
    *ret_n = at;
    return s;
}

static int read_tokens(struct template *t, const struct token *tokens, struct err *e)
{
    struct parser p = {.arena = t->arena, .at = tokens, .e = e};
    t->root = parse_body(&p, NULL);
    return p.r;
}

int template_new(const char *text, size_t n_bytes, struct template **ret, struct err *e)
{
    struct token *tokens = NULL;
    size_t n_tokens, n = 0;
    if (n_bytes > TPL_MAX_TEXT_BYTES)
        return err_set_param(e, ERR_LIMIT, "chat_template",
                             "the chat template has more than %u bytes", TPL_MAX_TEXT_BYTES);
    if (!utf8_valid(text, n_bytes) || memchr(text, 0, n_bytes))
        return err_set_param(e, ERR_FORMAT, "chat_template", "the chat template is not UTF-8 text");
    errno = 0;
    struct template *t = calloc(1, sizeof(*t));
    char *normal = normal_lines(text, n_bytes, &n);
    if (t)
        t->arena = arena_new(TPL_MAX_TREE_BYTES);
    int r = !t || !t->arena || !normal
                ? err_set(e, ERR_NOMEM, "out of memory for the chat template")
                : tpl__lex(normal, n, &tokens, &n_tokens, e);
    if (r == 0)
        r = read_tokens(t, tokens, e);
    free(tokens);
    free(normal);
    if (r < 0) {
        template_free(&t);
        return r;
    }
    *ret = t;
    return 0;
}

void template_free(struct template **tp)
{
    struct template *t = *tp;
    *tp = NULL;
    if (t)
        arena_free(t->arena);
    free(t);
}
