/* engine/grammar/rules.h - rules while they are written: states joined by bytes, by nothing, or by calls.
 *
 * The first error sticks: later calls do nothing and give state 0, so that front ends need not ask after
 * each; their loops do. Every function that adds something counts it against the limits. */
#ifndef LATENT_ENGINE_GRAMMAR_RULES_H
#define LATENT_ENGINE_GRAMMAR_RULES_H

#include "base/arena.h"
#include "engine/grammar/grammar.h"

enum { EDGE_NOTHING = -1, EDGE_BYTES = -2 }; /* other values of `call`: a rule */

struct edge {
    int32_t to, next; /* next: of the same state, or -1 */
    int32_t call;
    uint8_t lo, hi;
};

struct rule {
    const char *name; /* in the arena */
    int32_t start, end;
    bool defined;
};

struct rules {
    const struct grammar_limits *lim;
    const struct tokenizer *tokenizer; /* borrowed; for control tokens */
    struct arena *arena;
    struct edge *edges;
    int32_t *head; /* first edge of a state, or -1 */
    struct rule *rules;
    int n_edges, cap_edges, n_states, cap_states, n_rules, cap_rules;
    int64_t deadline_ns, work;
    const char *place; /* what is in hand, in front of messages: a path, a rule; or NULL */
    void *dead;    /* an expression for whoever asks after a failure */
    int failed;    /* ERR_* of the first error */
    struct err err;
};

#define RULES_ARENA_BYTES ((size_t)64 << 20)
#define RULES_MAX_NESTING 200

int rules_init(struct rules *b, const struct grammar_limits *lim);
void rules_done(struct rules *b);

/* Keeps the first error; returns its code. */
int rules_fail(struct rules *b, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Units of work, one or several. False: stop. */
bool rules_tick(struct rules *b);
bool rules_spend(struct rules *b, int64_t units);
void *rules_alloc(struct rules *b, size_t n_bytes); /* NULL: failed */

int32_t rules_state(struct rules *b);
void rules_join(struct rules *b, int32_t from, int32_t to);
void rules_bytes(struct rules *b, int32_t from, int32_t to, uint8_t lo, uint8_t hi);
void rules_call(struct rules *b, int32_t from, int32_t to, int32_t rule);
/* A rule with both its states. name is copied. */
int32_t rules_rule(struct rules *b, const char *name, size_t n_bytes);
int32_t rules_find(const struct rules *b, const char *name, size_t n_bytes); /* -1: none */

/* These write from a state on and return where they end. */
int32_t rules_text(struct rules *b, int32_t from, const char *s, size_t n_bytes);
int32_t rules_use(struct rules *b, int32_t from, int32_t rule);

/* --- expressions: what is read before it is written ------------------------------------------------ */

struct range {
    uint32_t lo, hi; /* characters */
};

struct charset { /* ascending, apart, after charset_close */
    struct range *r;
    int n, cap;
};

#define CHAR_MAX_CODE 0x10ffffu

void charset_add(struct rules *b, struct charset *s, uint32_t lo, uint32_t hi);
/* Sorts and joins; negated: all other characters. Surrogates are no characters. */
void charset_close(struct rules *b, struct charset *s, bool negated);

enum expr_kind { EXPR_SEQ = 0, EXPR_ALT, EXPR_SET, EXPR_REPEAT, EXPR_CALL };

struct expr {
    enum expr_kind kind;
    struct expr *first, *last, *next; /* children; the next sibling */
    int min, max;                     /* of repetitions; max -1: no bound */
    int32_t rule;
    struct charset set;
};

struct expr *expr_new(struct rules *b, enum expr_kind kind); /* never NULL: a dead one after a failure */
void expr_add(struct expr *parent, struct expr *child);
struct expr *expr_char(struct rules *b, uint32_t c);
/* Bounds on the number of characters; *ret_max -1: none. Calls count as anything. */
void expr_length(const struct expr *x, int64_t *ret_min, int64_t *ret_max);

/* Takes a character out of all its classes. */
void expr_without(struct rules *b, struct expr *x, uint32_t c);

/* How characters are written: as UTF-8, or as inside a JSON string. */
enum spelling { SPELL_PLAIN = 0, SPELL_JSON };
int32_t expr_write(struct rules *b, int32_t from, const struct expr *x, enum spelling spelling);
int32_t charset_write(struct rules *b, int32_t from, const struct charset *s, enum spelling spelling);

/* A character from UTF-8; *at moves behind it. False: ill-formed. */
bool char_next(const char *s, size_t n_bytes, size_t *at, uint32_t *ret);
/* Four, or n, hexadecimal digits. */
bool hex_next(const char *s, size_t n_bytes, size_t *at, int n_digits, uint32_t *ret);

#endif
