/* engine/grammar/regex.c - regular expressions of ECMAScript's syntax, without what no automaton has.
 *
 * A regex for an answer matches all of it. One that may match anywhere (JSON schema's patterns) gets any
 * characters before and after, where no ^ and $ stand. */
#include "config.h"

#include <string.h>

#include "engine/grammar/compiled.h"

struct reader {
    struct rules *b;
    const char *s;
    size_t n, at;
    int depth;
};

static struct expr *alternatives(struct reader *r, bool top, bool anywhere);

static bool more(const struct reader *r)
{
    return r->at < r->n && !r->b->failed;
}

static bool next_is(const struct reader *r, char c)
{
    return more(r) && r->s[r->at] == c;
}

static bool take(struct reader *r, char c)
{
    if (!next_is(r, c))
        return false;
    r->at++;
    return true;
}

static void refuse(struct reader *r, const char *what)
{
    rules_fail(r->b, ERR_UNSUPPORTED, "the regex has %s at byte %zu, which is not supported", what, r->at);
}

static void wrong(struct reader *r, const char *what)
{
    rules_fail(r->b, ERR_INVAL, "the regex is malformed at byte %zu: %s", r->at, what);
}

static void add_digits(struct rules *b, struct charset *s)
{
    charset_add(b, s, '0', '9');
}

static void add_word(struct rules *b, struct charset *s)
{
    add_digits(b, s);
    charset_add(b, s, 'a', 'z');
    charset_add(b, s, 'A', 'Z');
    charset_add(b, s, '_', '_');
}

static void add_space(struct rules *b, struct charset *s)
{
    static const struct range spaces[] = {{9, 13},           {32, 32},         {0xa0, 0xa0},
                                          {0x1680, 0x1680},  {0x2000, 0x200a}, {0x2028, 0x2029},
                                          {0x202f, 0x202f},  {0x205f, 0x205f}, {0x3000, 0x3000},
                                          {0xfeff, 0xfeff}};
    for (size_t i = 0; i < sizeof(spaces) / sizeof(*spaces); i++)
        charset_add(b, s, spaces[i].lo, spaces[i].hi);
}

/* \d and the like into a set. False: the letter is none of them. */
static bool add_class(struct rules *b, char letter, struct charset *to)
{
    struct charset s = {0};
    char low = (char)(letter | 0x20);
    if (low == 'd')
        add_digits(b, &s);
    else if (low == 'w')
        add_word(b, &s);
    else if (low == 's')
        add_space(b, &s);
    else
        return false;
    charset_close(b, &s, letter != low);
    for (int i = 0; i < s.n; i++)
        charset_add(b, to, s.r[i].lo, s.r[i].hi);
    return true;
}

/* What stands behind \, as one character. */
static uint32_t escaped(struct reader *r)
{
    static const char letters[] = "ntrfv0", codes[] = "\n\t\r\f\v";
    char c = r->s[r->at];
    uint32_t v = 0;
    const char *p = strchr(letters, c);
    if (c && p) {
        r->at++;
        if (c == '0' && more(r) && r->s[r->at] >= '0' && r->s[r->at] <= '9')
            refuse(r, "an octal escape");
        return (unsigned char)codes[p - letters];
    }
    if (c == 'x' || (c == 'u' && !(r->at + 1 < r->n && r->s[r->at + 1] == '{'))) {
        r->at++;
        if (!hex_next(r->s, r->n, &r->at, c == 'x' ? 2 : 4, &v))
            wrong(r, "hexadecimal digits are missing");
        if (v >= 0xd800 && v < 0xe000)
            refuse(r, "half of a surrogate pair");
        return v;
    }
    if (c == 'u') {
        int digits = 0;
        for (r->at += 2; more(r) && !next_is(r, '}') && digits < 6; digits++) {
            uint32_t d;
            if (!hex_next(r->s, r->n, &r->at, 1, &d)) {
                wrong(r, "hexadecimal digits are missing");
                return 0;
            }
            v = v << 4 | d;
        }
        if (!digits || !take(r, '}') || v > CHAR_MAX_CODE)
            wrong(r, "no character has this number");
        return v;
    }
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '1' && c <= '9')) {
        refuse(r, c >= '1' && c <= '9' ? "a reference back" : "this escape");
        return 0;
    }
    if (!char_next(r->s, r->n, &r->at, &v))
        wrong(r, "not UTF-8");
    return v;
}

static uint32_t one_char(struct reader *r)
{
    uint32_t c = 0;
    if (!char_next(r->s, r->n, &r->at, &c)) {
        wrong(r, "not UTF-8");
        return 0;
    }
    return c;
}

/* One end of a range, or a class (false), inside brackets. */
static bool class_char(struct reader *r, struct charset *set, uint32_t *ret)
{
    if (!take(r, '\\')) {
        *ret = one_char(r);
        return true;
    }
    if (r->at >= r->n) {
        wrong(r, "nothing behind \\");
        return false;
    }
    if (r->s[r->at] == 'b') {
        r->at++;
        *ret = '\b';
        return true;
    }
    if (add_class(r->b, r->s[r->at], set)) {
        r->at++;
        return false;
    }
    *ret = escaped(r);
    return true;
}

static struct expr *brackets(struct reader *r)
{
    struct expr *x = expr_new(r->b, EXPR_SET);
    bool negated = take(r, '^');
    while (more(r) && !next_is(r, ']')) {
        uint32_t lo = 0, hi = 0;
        if (!class_char(r, &x->set, &lo))
            continue;
        hi = lo;
        if (next_is(r, '-') && r->at + 1 < r->n && r->s[r->at + 1] != ']') {
            r->at++;
            if (!class_char(r, &x->set, &hi))
                wrong(r, "a class cannot end a range");
            if (hi < lo)
                wrong(r, "the range is the wrong way round");
        }
        charset_add(r->b, &x->set, lo, hi);
    }
    if (!take(r, ']'))
        wrong(r, "] is missing");
    charset_close(r->b, &x->set, negated);
    return x;
}

static struct expr *any(struct rules *b, bool lines_too)
{
    struct expr *x = expr_new(b, EXPR_SET);
    if (!lines_too) {
        charset_add(b, &x->set, '\n', '\n');
        charset_add(b, &x->set, '\r', '\r');
        charset_add(b, &x->set, 0x2028, 0x2029);
    }
    charset_close(b, &x->set, true);
    return x;
}

static struct expr *repeat_of(struct rules *b, struct expr *child, int min, int max)
{
    struct expr *x = expr_new(b, EXPR_REPEAT);
    expr_add(x, child);
    x->min = min;
    x->max = max;
    return x;
}

static struct expr *group(struct reader *r)
{
    if (take(r, '?')) {
        bool name = next_is(r, '<') && r->at + 1 < r->n && r->s[r->at + 1] != '=' && r->s[r->at + 1] != '!';
        if (next_is(r, 'P')) { /* as Python writes names */
            r->at++;
            name = next_is(r, '<');
        }
        if (name) {
            while (more(r) && !take(r, '>'))
                r->at++;
        } else if (!take(r, ':')) {
            refuse(r, "a group that looks around or sets flags");
        }
    }
    struct expr *x = alternatives(r, false, false);
    if (!take(r, ')'))
        wrong(r, ") is missing");
    return x;
}

static struct expr *atom(struct reader *r)
{
    if (take(r, '('))
        return group(r);
    if (take(r, '['))
        return brackets(r);
    if (take(r, '.'))
        return any(r->b, false);
    if (take(r, '\\')) {
        struct expr *x = expr_new(r->b, EXPR_SET);
        if (r->at >= r->n) {
            wrong(r, "nothing behind \\");
        } else if (add_class(r->b, r->s[r->at], &x->set)) {
            charset_close(r->b, &x->set, false);
            r->at++;
        } else {
            uint32_t c = escaped(r);
            charset_add(r->b, &x->set, c, c);
            charset_close(r->b, &x->set, false);
        }
        return x;
    }
    if (next_is(r, '^') || next_is(r, '$'))
        refuse(r, "^ or $ in the middle");
    else if (next_is(r, '*') || next_is(r, '+') || next_is(r, '?'))
        wrong(r, "nothing to repeat");
    return expr_char(r->b, one_char(r));
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
        rules_fail(r->b, ERR_LIMIT, "the regex repeats more than %d times", r->b->lim->max_states);
    return (int)v;
}

/* Does {m,n} stand here? Otherwise the brace is itself. */
static bool counts(const struct reader *r)
{
    return next_is(r, '{') && r->at + 1 < r->n && r->s[r->at + 1] >= '0' && r->s[r->at + 1] <= '9';
}

static struct expr *repeated(struct reader *r)
{
    struct expr *x = atom(r);
    while (more(r)) {
        int min = 0, max = -1;
        if (take(r, '?')) {
            max = 1;
        } else if (take(r, '+')) {
            min = 1;
        } else if (counts(r)) {
            r->at++;
            min = max = number(r);
            if (take(r, ','))
                max = next_is(r, '}') ? -1 : number(r);
            if (!take(r, '}'))
                wrong(r, "} is missing");
            if (max >= 0 && max < min)
                wrong(r, "the numbers of a repetition are the wrong way round");
        } else if (!take(r, '*')) {
            break;
        }
        x = repeat_of(r->b, x, min, max);
        take(r, '?'); /* lazy: the same texts */
        if (next_is(r, '+'))
            refuse(r, "a possessive repetition");
    }
    return x;
}

static struct expr *sequence(struct reader *r, bool top, bool anywhere)
{
    struct expr *x = expr_new(r->b, EXPR_SEQ);
    bool began = top && take(r, '^'), ended = false;
    if (anywhere && !began)
        expr_add(x, repeat_of(r->b, any(r->b, true), 0, -1));
    while (more(r) && !next_is(r, '|') && !next_is(r, ')')) {
        if (top && next_is(r, '$') && (r->at + 1 == r->n || r->s[r->at + 1] == '|')) {
            r->at++;
            ended = true;
            break;
        }
        expr_add(x, repeated(r));
    }
    if (anywhere && !ended)
        expr_add(x, repeat_of(r->b, any(r->b, true), 0, -1));
    return x;
}

static struct expr *alternatives(struct reader *r, bool top, bool anywhere)
{
    struct expr *x = expr_new(r->b, EXPR_ALT);
    if (++r->depth > RULES_MAX_NESTING)
        rules_fail(r->b, ERR_LIMIT, "the regex nests deeper than %d groups", RULES_MAX_NESTING);
    do
        expr_add(x, sequence(r, top, anywhere));
    while (!r->b->failed && take(r, '|'));
    r->depth--;
    return x;
}

struct expr *regex_read(struct rules *b, const char *s, size_t n_bytes, bool anywhere)
{
    struct reader r = {b, s, n_bytes, 0, 0};
    struct expr *x = alternatives(&r, true, anywhere);
    if (!b->failed && r.at < n_bytes)
        wrong(&r, ") without a group");
    return x;
}
