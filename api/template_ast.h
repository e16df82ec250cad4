/* api/template_ast.h - tokens and the tree of a template. All in the template's arena, immutable.
 */
#ifndef LATENT_API_TEMPLATE_AST_H
#define LATENT_API_TEMPLATE_AST_H

#include "api/template_value.h"

#define TPL_MAX_TEXT_BYTES (1u << 20)
#define TPL_MAX_TREE_BYTES (256u << 20)
#define TPL_MAX_PARSE_DEPTH 100 /* of brackets and of statements */

enum token_kind {
    TOK_DATA, TOK_PRINT, TOK_PRINT_END, TOK_BLOCK, TOK_BLOCK_END,
    TOK_NAME, TOK_STRING, TOK_INT, TOK_FLOAT, TOK_OP, TOK_EOF,
};

struct token {
    enum token_kind kind;
    int line;
    const char *s; /* strings without their quotes */
    size_t n;
};

/* *ret_tokens: free(); ends with TOK_EOF. Tokens point into text, which the caller keeps. */
int tpl__lex(const char *text, size_t n_bytes, struct token **ret_tokens, size_t *ret_n,
             struct err *e) LATENT_MUST_CHECK;

enum expr_kind {
    EX_CONST, EX_NAME, EX_LIST, EX_TUPLE, EX_DICT,
    EX_ATTR,    /* a.text */
    EX_ITEM,    /* a[b] */
    EX_SLICE,   /* [a:b:c], below an EX_ITEM */
    EX_CALL,    /* a(args) */
    EX_FILTER,  /* a | builtin(args); a NULL: the body of a filter block */
    EX_TEST,    /* a is builtin(args) */
    EX_NOT, EX_NEG, EX_POS, EX_AND, EX_OR,
    EX_BINARY,  /* a op b */
    EX_COMPARE, /* a, then items: each its op and b */
    EX_CHOOSE,  /* a if b else c */
};

enum op {
    OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_POW, OP_CONCAT,
    OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_IN, OP_NOT_IN,
};

enum arg_kind { ARG_PLAIN, ARG_NAMED, ARG_SPREAD, ARG_SPREAD_NAMED };

struct expr {
    enum expr_kind kind;
    enum op op;
    int line;
    const struct str *text; /* name, attribute */
    struct value value;     /* EX_CONST */
    const struct builtin *builtin;
    struct expr *a, *b, *c;
    struct expr *items, *next; /* of a list; of a dict key and value in turn; of a comparison */
    struct arg *args;          /* call, filter, test */
    int n_items;               /* or args */
};

struct arg {
    enum arg_kind kind;
    const struct str *name; /* ARG_NAMED */
    struct expr *e;
    struct arg *next;
};

enum stmt_kind {
    ST_TEXT,
    ST_PRINT,
    ST_IF,
    ST_FOR,
    ST_SET,
    ST_SET_BLOCK,
    ST_MACRO,
    ST_CALL,
    ST_FILTER,
    ST_WITH,
    ST_BODY,
    ST_BREAK,
    ST_CONTINUE,
};

struct param {
    const struct str *name;
    struct expr *fallback; /* or NULL */
    struct param *next;
};

struct stmt {
    enum stmt_kind kind;
    int line;
    struct str text;     /* ST_TEXT */
    struct expr *target; /* for, set: EX_NAME, EX_ATTR (of a namespace), EX_TUPLE. with: a tuple */
    struct expr *e;      /* printed, condition, iterated, assigned, call; filters of a block */
    struct expr *filter; /* for ... if */
    bool recursive;
    struct stmt *body, *orelse, *next; /* elif is an ST_IF alone in orelse */
    const struct str *name; /* macro */
    struct param *params;
    bool uses_varargs, uses_kwargs;
};

struct template {
    struct arena *arena;
    struct stmt *root;
};

/* --- the parser's state, template_parse.c and template_expr.c ------------------------------------- */

struct parser {
    struct arena *arena;
    const struct token *at; /* never moves past TOK_EOF */
    int depth, loops;
    struct stmt *macro; /* the innermost */
    int r; /* first failure; the parser then finds TOK_EOF everywhere */
    struct token end;
    struct err *e;
};

void tpl__parse_fail(struct parser *p, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void tpl__parse_full(struct parser *p); /* the arena gave nothing */
void *tpl__parse_alloc(struct parser *p, size_t n_bytes); /* never NULL: a spare one on failure */
const struct str *tpl__parse_str(struct parser *p, const char *s, size_t n);
bool tpl__at_op(const struct parser *p, const char *op);
bool tpl__at_name(const struct parser *p, const char *name);
bool tpl__take_op(struct parser *p, const char *op);
bool tpl__take_name(struct parser *p, const char *name);
void tpl__expect_op(struct parser *p, const char *op);
const struct str *tpl__expect_name(struct parser *p); /* any */
bool tpl__enter(struct parser *p); /* one deeper; with tpl__leave */
void tpl__leave(struct parser *p);
struct expr *tpl__node(struct parser *p, enum expr_kind kind, struct expr *a, struct expr *b);

struct expr *tpl__parse_expr(struct parser *p);
struct expr *tpl__parse_tuple(struct parser *p); /* a, b without brackets; one alone is itself */
struct expr *tpl__parse_iterated(struct parser *p); /* the same without `if` */
struct expr *tpl__parse_target(struct parser *p, bool namespaces);
struct expr *tpl__parse_filters(struct parser *p, struct expr *a, bool inline_first);
struct expr *tpl__parse_primary(struct parser *p);
struct expr *tpl__parse_postfix(struct parser *p, struct expr *x);

#endif
