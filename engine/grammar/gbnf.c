/* engine/grammar/gbnf.c - grammars as llama.cpp writes them, and the plain part of Lark and EBNF.
 *
 *   rule  ::= alternatives     or  rule : alternatives; a rule ends with its line, unless a bracket is open
 *                              or the next line begins with |. Comments: # and // to the end of the line
 *   atoms  "text" 'text' [a-z] [^a-z] . (group) name, and /regex/; [group] is no option here but a class
 *   after an atom * + ? {m} {m,} {m,n}; "a".."z" in a rule with a colon is one character
 *
 * The grammar begins at root, or else at start. */
#include "config.h"

#include <string.h>

#include "engine/grammar/compiled.h"

struct reader {
    struct rules *b;
    const char *s;
    size_t n, at;
    int depth;
    bool lark; /* the rule in hand is written as Lark writes it */
};

static struct expr *alternatives(struct reader *r);

static int line_of(const struct reader *r)
{
    int line = 1;
    for (size_t i = 0; i < r->at && i < r->n; i++)
        line += r->s[i] == '\n';
    return line;
}

static void wrong(struct reader *r, const char *what)
{
    rules_fail(r->b, ERR_INVAL, "the grammar is malformed in line %d: %s", line_of(r), what);
}

static bool more(const struct reader *r)
{
    return r->at < r->n && !r->b->failed;
}

static bool take(struct reader *r, char c)
{
    if (!more(r) || r->s[r->at] != c)
        return false;
    r->at++;
    return true;
}

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static size_t name_bytes(const struct reader *r)
{
    size_t n = 0;
    while (r->at + n < r->n && name_char(r->s[r->at + n]))
        n++;
    return n;
}

/* Blanks and comments, and line ends where those mean nothing. */
static void blanks(struct reader *r, bool lines)
{
    while (more(r)) {
        char c = r->s[r->at];
        if (c == '#' || (c == '/' && r->at + 1 < r->n && r->s[r->at + 1] == '/')) {
            while (r->at < r->n && r->s[r->at] != '\n')
                r->at++;
        } else if (c == ' ' || c == '\t' || c == '\r' || (lines && c == '\n')) {
            r->at++;
        } else {
            return;
        }
    }
}

/* Blanks inside a rule: the line may end where a bracket is open, and before |. */
static void inner_blanks(struct reader *r)
{
    blanks(r, r->depth > 1);
    if (more(r) && r->s[r->at] == '\n') {
        size_t here = r->at;
        blanks(r, true);
        if (!more(r) || r->s[r->at] != '|')
            r->at = here;
    }
}

static uint32_t one_char(struct reader *r)
{
    static const char letters[] = "nrtfvb", codes[] = "\n\r\t\f\v\b";
    uint32_t v = 0;
    if (!take(r, '\\')) {
        if (!char_next(r->s, r->n, &r->at, &v))
            wrong(r, "not UTF-8");
        return v;
    }
    if (!more(r)) {
        wrong(r, "nothing behind \\");
        return 0;
    }
    char c = r->s[r->at++];
    const char *p = c ? strchr(letters, c) : NULL;
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits) {
        if (!hex_next(r->s, r->n, &r->at, digits, &v) || v > CHAR_MAX_CODE || (v >= 0xd800 && v < 0xe000))
            wrong(r, "no character has this number");
        return v;
    }
    if (p)
        return (unsigned char)codes[p - letters];
    if (!strchr("\\\"'[]^-/.{}()|*+?$ ", c))
        wrong(r, "this escape is not known");
    return (unsigned char)c;
}

/* Does "a" go on as a range, "a".."z"? In llama.cpp's grammars that is any two characters between them. */
static bool take_range(struct reader *r)
{
    size_t here = r->at;
    blanks(r, false);
    if (r->lark && take(r, '.') && take(r, '.')) {
        blanks(r, false);
        if (more(r) && (r->s[r->at] == '"' || r->s[r->at] == '\''))
            return true;
    }
    r->at = here;
    return false;
}

static struct expr *char_range(struct reader *r, const struct expr *from, const struct expr *to)
{
    const struct expr *ends[2] = {from, to};
    uint32_t c[2] = {0, 0};
    for (int i = 0; i < 2 && !r->b->failed; i++) {
        const struct expr *only = ends[i]->kind == EXPR_SEQ ? ends[i]->first : NULL;
        if (!only || only->next)
            wrong(r, "a range is from one character to another");
        else
            c[i] = only->set.r[0].lo;
    }
    if (c[1] < c[0])
        wrong(r, "a range is the wrong way round");
    struct expr *x = expr_new(r->b, EXPR_SET);
    charset_add(r->b, &x->set, c[0], c[1]);
    charset_close(r->b, &x->set, false);
    return x;
}

static struct expr *literal(struct reader *r, char quote)
{
    struct expr *x = expr_new(r->b, EXPR_SEQ);
    while (more(r) && r->s[r->at] != quote && r->s[r->at] != '\n')
        expr_add(x, expr_char(r->b, one_char(r)));
    if (!take(r, quote))
        wrong(r, "a text has no end");
    if (more(r) && r->s[r->at] == 'i' && !(r->at + 1 < r->n && name_char(r->s[r->at + 1])))
        wrong(r, "texts without case are not supported"); /* Lark's "text"i */
    if (!take_range(r))
        return x;
    char other = r->s[r->at++];
    return char_range(r, x, literal(r, other));
}

static struct expr *brackets(struct reader *r)
{
    struct expr *x = expr_new(r->b, EXPR_SET);
    bool negated = take(r, '^');
    while (more(r) && r->s[r->at] != ']') {
        uint32_t lo = one_char(r), hi = lo;
        if (more(r) && r->s[r->at] == '-' && r->at + 1 < r->n && r->s[r->at + 1] != ']') {
            r->at++;
            hi = one_char(r);
            if (hi < lo)
                wrong(r, "a range is the wrong way round");
        }
        charset_add(r->b, &x->set, lo, hi);
    }
    if (!take(r, ']'))
        wrong(r, "] is missing");
    charset_close(r->b, &x->set, negated);
    return x;
}

static struct expr *regex(struct reader *r)
{
    size_t from = r->at;
    bool in_class = false;
    for (; more(r) && r->s[r->at] != '\n' && (in_class || r->s[r->at] != '/'); r->at++) {
        char c = r->s[r->at];
        in_class = c == '[' ? true : c == ']' ? false : in_class;
        r->at += c == '\\' && r->at + 1 < r->n;
    }
    if (r->at > r->n || !more(r) || r->s[r->at] != '/') {
        wrong(r, "a regex has no end");
        return expr_new(r->b, EXPR_SEQ);
    }
    struct expr *x = regex_read(r->b, r->s + from, r->at - from, false);
    r->at++;
    if (name_bytes(r) > 0)
        wrong(r, "flags of a regex are not supported");
    return x;
}

static int32_t named(struct reader *r, size_t n)
{
    int32_t rule = rules_find(r->b, r->s + r->at, n);
    if (rule < 0)
        rule = rules_rule(r->b, r->s + r->at, n);
    r->at += n;
    return rule;
}

static struct expr *atom(struct reader *r)
{
    struct expr *x;
    size_t n;
    if (take(r, '"'))
        return literal(r, '"');
    if (take(r, '\''))
        return literal(r, '\'');
    if (take(r, '['))
        return brackets(r);
    if (take(r, '/'))
        return regex(r);
    if (take(r, '.')) {
        x = expr_new(r->b, EXPR_SET);
        charset_close(r->b, &x->set, true);
        return x;
    }
    if (take(r, '(')) {
        x = alternatives(r);
        if (!take(r, ')'))
            wrong(r, ") is missing");
        return x;
    }
    if ((n = name_bytes(r)) > 0) {
        x = expr_new(r->b, EXPR_CALL);
        x->rule = named(r, n);
        return x;
    }
    wrong(r, "a text, a class, a name or a group was expected");
    return expr_new(r->b, EXPR_SEQ);
}

static int number(struct reader *r)
{
    long v = 0;
    size_t from = r->at;
    for (; more(r) && r->s[r->at] >= '0' && r->s[r->at] <= '9'; r->at++)
        if (v <= r->b->lim->max_states)
            v = v * 10 + (r->s[r->at] - '0');
    if (r->at == from)
        wrong(r, "a number is missing");
    if (v > r->b->lim->max_states)
        rules_fail(r->b, ERR_LIMIT, "the grammar repeats more than %d times", r->b->lim->max_states);
    return (int)v;
}

static struct expr *repeated(struct reader *r)
{
    struct expr *x = atom(r);
    while (more(r)) {
        int min = 0, max = -1;
        blanks(r, false);
        if (take(r, '?')) {
            max = 1;
        } else if (take(r, '+')) {
            min = 1;
        } else if (take(r, '{')) {
            blanks(r, false);
            min = max = number(r);
            blanks(r, false);
            if (take(r, ',')) {
                blanks(r, false);
                max = more(r) && r->s[r->at] == '}' ? -1 : number(r);
                blanks(r, false);
            }
            if (!take(r, '}'))
                wrong(r, "} is missing");
            if (max >= 0 && max < min)
                wrong(r, "the numbers of a repetition are the wrong way round");
        } else if (!take(r, '*')) {
            break;
        }
        struct expr *rep = expr_new(r->b, EXPR_REPEAT);
        expr_add(rep, x);
        rep->min = min;
        rep->max = max;
        x = rep;
    }
    return x;
}

static struct expr *alternatives(struct reader *r)
{
    struct expr *x = expr_new(r->b, EXPR_ALT);
    if (++r->depth > RULES_MAX_NESTING)
        rules_fail(r->b, ERR_LIMIT, "the grammar nests deeper than %d groups", RULES_MAX_NESTING);
    do {
        struct expr *seq = expr_new(r->b, EXPR_SEQ);
        for (inner_blanks(r); more(r) && !strchr("|)\n;", r->s[r->at]); inner_blanks(r))
            expr_add(seq, repeated(r));
        expr_add(x, seq);
        if (r->b->failed || !take(r, '|'))
            break;
        blanks(r, true); /* a line may end behind | */
    } while (true);
    r->depth--;
    return x;
}

static void one_rule(struct reader *r)
{
    if (more(r) && r->s[r->at] == '%') {
        rules_fail(r->b, ERR_UNSUPPORTED, "line %d of the grammar has a directive, which is not supported",
                   line_of(r));
        return;
    }
    if (more(r) && (r->s[r->at] == '?' || r->s[r->at] == '!')) /* Lark's hints on the tree */
        r->at++;
    size_t n = name_bytes(r);
    if (n == 0) {
        wrong(r, "the name of a rule was expected");
        return;
    }
    int32_t rule = named(r, n);
    blanks(r, false);
    bool colon = take(r, ':');
    if (colon && take(r, ':'))
        colon = take(r, '=');
    if (!colon && !take(r, '=')) {
        wrong(r, "::= or : was expected");
        return;
    }
    if (r->b->failed)
        return;
    if (r->b->rules[rule].defined) {
        rules_fail(r->b, ERR_INVAL, "rule \"%s\" is defined twice", r->b->rules[rule].name);
        return;
    }
    r->b->rules[rule].defined = true;
    r->lark = colon && r->s[r->at - 1] == ':';
    blanks(r, true); /* the body may begin on the next line */
    struct expr *x = alternatives(r);
    take(r, ';');
    blanks(r, false);
    if (!r->b->failed && r->at < r->n && r->s[r->at] != '\n')
        wrong(r, "what follows the rule is not understood");
    int32_t end = expr_write(r->b, r->b->failed ? 0 : r->b->rules[rule].start, x, SPELL_PLAIN);
    if (!r->b->failed)
        rules_join(r->b, end, r->b->rules[rule].end);
}

int32_t gbnf_read(struct rules *b, const char *s, size_t n_bytes)
{
    struct reader r = {b, s, n_bytes, 0, 0, false};
    if (memchr(s, 0, n_bytes)) {
        wrong(&r, "it holds a NUL");
        return 0;
    }
    for (blanks(&r, true); more(&r); blanks(&r, true))
        one_rule(&r);
    int32_t root = rules_find(b, "root", 4);
    if (root < 0 || !b->rules[root].defined)
        root = rules_find(b, "start", 5);
    if (!b->failed && root < 0)
        rules_fail(b, ERR_INVAL, "the grammar has no rule \"root\" or \"start\"");
    return b->failed ? 0 : root;
}
