/* api/template_ast.h - the tree between template_parse.c and template_render.c. All in one arena. */
#ifndef LATENT_API_TEMPLATE_AST_H
#define LATENT_API_TEMPLATE_AST_H

#include "api/template.h"
#include "base/arena.h"

enum expr_kind {
    EX_STRING, EX_INT, EX_BOOL, EX_NONE, EX_LIST, EX_NAME,
    EX_ATTR,   /* a.text */
    EX_INDEX,  /* a[b] */
    EX_FILTER, /* a | text(args) */
    EX_TEST,   /* a is text */
    EX_RAISE,  /* raise_exception(a) */
    EX_NOT, EX_NEG, EX_AND, EX_OR,
    EX_ADD, EX_SUB, EX_MUL, EX_MOD, EX_CONCAT,
    EX_EQ, EX_NE, EX_LT, EX_LE, EX_GT, EX_GE, EX_IN,
    EX_CHOOSE, /* a if b else c */
};

struct expr {
    enum expr_kind kind;
    int line;
    const char *text; /* string, name */
    size_t n_bytes;
    long value;       /* int, bool */
    struct expr *a, *b, *c;
    struct expr *args, *next; /* of a list or a filter */
};

enum stmt_kind { ST_TEXT, ST_PRINT, ST_IF, ST_FOR, ST_SET };

struct stmt {
    enum stmt_kind kind;
    const char *text; /* text; name of for and set */
    size_t n_bytes;
    struct expr *e;   /* printed, condition, iterated, assigned */
    struct stmt *body, *orelse, *next; /* elif is an if in orelse */
};

struct template {
    struct arena *arena;
    struct stmt *root;
};

#endif
