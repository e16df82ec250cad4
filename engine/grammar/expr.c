/* engine/grammar/expr.c - expressions of characters, and how they become bytes; see rules.h. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/grammar/rules.h"

#define FIRST_SURROGATE 0xd800u
#define LAST_SURROGATE 0xdfffu

bool char_next(const char *s, size_t n_bytes, size_t *at, uint32_t *ret)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (*at >= n_bytes)
        return false;
    unsigned char c = (unsigned char)s[*at];
    int n = c < 0x80                ? 1
            : c >= 0xc2 && c < 0xe0 ? 2
            : c >= 0xe0 && c < 0xf0 ? 3
            : c >= 0xf0 && c < 0xf5 ? 4
                                    : 0;
    if (n == 0 || *at + (size_t)n > n_bytes)
        return false;
    uint32_t v = n == 1 ? c : c & (0x7fu >> n);
    for (int i = 1; i < n; i++) {
        unsigned char d = (unsigned char)s[*at + (size_t)i];
        if ((d & 0xc0) != 0x80)
            return false;
        v = v << 6 | (d & 0x3f);
    }
    if (v < least[n] || v > CHAR_MAX_CODE || (v >= FIRST_SURROGATE && v <= LAST_SURROGATE))
        return false;
    *at += (size_t)n;
    *ret = v;
    return true;
}

bool hex_next(const char *s, size_t n_bytes, size_t *at, int n_digits, uint32_t *ret)
{
    uint32_t v = 0;
    if (*at + (size_t)n_digits > n_bytes)
        return false;
    for (int i = 0; i < n_digits; i++) {
        char c = s[*at + (size_t)i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0)
            return false;
        v = v << 4 | (uint32_t)d;
    }
    *at += (size_t)n_digits;
    *ret = v;
    return true;
}

/* --- sets of characters ---------------------------------------------------------------------------- */

void charset_add(struct rules *b, struct charset *s, uint32_t lo, uint32_t hi)
{
    if (!rules_tick(b))
        return;
    if (s->n == s->cap) {
        int cap = s->cap ? 2 * s->cap : 4;
        struct range *r = rules_alloc(b, (size_t)cap * sizeof(*r));
        if (!r)
            return;
        if (s->n)
            memcpy(r, s->r, (size_t)s->n * sizeof(*r));
        s->r = r;
        s->cap = cap;
    }
    s->r[s->n++] = (struct range){lo, hi};
}

static int by_start(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

static void sort_ranges(struct charset *s)
{
    int n = 0;
    if (s->n)
        qsort(s->r, (size_t)s->n, sizeof(*s->r), by_start);
    for (int i = 0; i < s->n; i++) {
        if (n > 0 && s->r[i].lo <= s->r[n - 1].hi + 1) {
            if (s->r[i].hi > s->r[n - 1].hi)
                s->r[n - 1].hi = s->r[i].hi;
        } else {
            s->r[n++] = s->r[i];
        }
    }
    s->n = n;
}

/* What is in [lo, hi] and not a surrogate. */
static void add_characters(struct rules *b, struct charset *s, uint32_t lo, uint32_t hi)
{
    if (lo < FIRST_SURROGATE && hi >= FIRST_SURROGATE)
        charset_add(b, s, lo, FIRST_SURROGATE - 1);
    if (lo <= LAST_SURROGATE && hi > LAST_SURROGATE)
        charset_add(b, s, LAST_SURROGATE + 1, hi);
    if (hi < FIRST_SURROGATE || lo > LAST_SURROGATE)
        charset_add(b, s, lo, hi);
}

void charset_close(struct rules *b, struct charset *s, bool negated)
{
    struct charset out = {0};
    uint32_t from = 0;
    sort_ranges(s);
    if (!negated) {
        for (int i = 0; i < s->n; i++)
            add_characters(b, &out, s->r[i].lo, s->r[i].hi);
    } else {
        for (int i = 0; i < s->n; i++) {
            if (s->r[i].lo > from)
                add_characters(b, &out, from, s->r[i].lo - 1);
            from = s->r[i].hi + 1;
        }
        if (from <= CHAR_MAX_CODE)
            add_characters(b, &out, from, CHAR_MAX_CODE);
    }
    *s = out;
}

/* --- UTF-8 ----------------------------------------------------------------------------------------- */

struct writer {
    struct rules *b;
    int32_t from, to;
    int32_t tail[4]; /* so many bytes of a character follow, any of them; -1: not made yet */
};

static int encode(uint32_t c, uint8_t *d)
{
    if (c < 0x80)
        return d[0] = (uint8_t)c, 1;
    if (c < 0x800) {
        d[0] = (uint8_t)(0xc0 | c >> 6);
        d[1] = (uint8_t)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        d[0] = (uint8_t)(0xe0 | c >> 12);
        d[1] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
        d[2] = (uint8_t)(0x80 | (c & 0x3f));
        return 3;
    }
    d[0] = (uint8_t)(0xf0 | c >> 18);
    d[1] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
    d[2] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
    d[3] = (uint8_t)(0x80 | (c & 0x3f));
    return 4;
}

/* The state from which n bytes of any continuation lead to the end. */
static int32_t any_tail(struct writer *w, int n)
{
    if (n == 0)
        return w->to;
    if (w->tail[n] < 0) {
        int32_t to = any_tail(w, n - 1), s = rules_state(w->b);
        rules_bytes(w->b, s, to, 0x80, 0xbf);
        w->tail[n] = s;
    }
    return w->tail[n];
}

/* Characters lo .. hi have n bytes and agree in those before `from`, where i bytes are written. */
static void write_range(struct writer *w, int32_t from, uint32_t lo, uint32_t hi, int i, int n)
{
    uint8_t a[4], z[4];
    int rest = n - 1 - i;
    uint32_t low = (1u << 6 * rest) - 1; /* the bits of the bytes after this one */
    if (!rules_tick(w->b))
        return;
    encode(lo, a);
    encode(hi, z);
    if (rest == 0 || ((lo & low) == 0 && (hi & low) == low)) {
        rules_bytes(w->b, from, any_tail(w, rest), a[i], z[i]);
        return;
    }
    if (a[i] == z[i]) {
        int32_t s = rules_state(w->b);
        rules_bytes(w->b, from, s, a[i], a[i]);
        write_range(w, s, lo, hi, i + 1, n);
        return;
    }
    if (lo & low) {
        write_range(w, from, lo, lo | low, i, n);
        write_range(w, from, (lo | low) + 1, hi, i, n);
    } else {
        write_range(w, from, lo, (hi & ~low) - 1, i, n);
        write_range(w, from, hi & ~low, hi, i, n);
    }
}

static void write_characters(struct writer *w, uint32_t lo, uint32_t hi)
{
    static const uint32_t last[] = {0x7f, 0x7ff, 0xffff, CHAR_MAX_CODE};
    for (int n = 1; n <= 4 && lo <= hi; n++) {
        if (lo > last[n - 1])
            continue;
        uint32_t end = hi < last[n - 1] ? hi : last[n - 1];
        write_range(w, w->from, lo, end, 0, n);
        lo = end + 1;
    }
}

/* One character as JSON must escape it. */
static void write_escape(struct writer *w, uint32_t c)
{
    static const char *const shorter[128] = {['"'] = "\\\"", ['\\'] = "\\\\", ['\b'] = "\\b", ['\f'] = "\\f",
                                             ['\n'] = "\\n", ['\r'] = "\\r",  ['\t'] = "\\t"};
    char text[8];
    snprintf(text, sizeof(text), "\\u%04x", c);
    const char *s = shorter[c] ? shorter[c] : text;
    rules_join(w->b, rules_text(w->b, w->from, s, strlen(s)), w->to);
}

static bool must_escape(uint32_t c)
{
    return c < 0x20 || c == '"' || c == '\\';
}

void expr_without(struct rules *b, struct expr *x, uint32_t c)
{
    if (x->kind == EXPR_SET) {
        struct charset out = {0};
        for (int i = 0; i < x->set.n; i++) {
            struct range r = x->set.r[i];
            if (r.lo < c && r.hi >= c)
                charset_add(b, &out, r.lo, c - 1);
            if (r.hi > c && r.lo <= c)
                charset_add(b, &out, c + 1, r.hi);
            if (r.hi < c || r.lo > c)
                charset_add(b, &out, r.lo, r.hi);
        }
        x->set = out;
    }
    for (struct expr *at = x->first; at && rules_tick(b); at = at->next)
        expr_without(b, at, c);
}

int32_t charset_write(struct rules *b, int32_t from, const struct charset *s, enum spelling spelling)
{
    struct writer w = {b, from, rules_state(b), {-1, -1, -1, -1}};
    for (int i = 0; i < s->n && !b->failed; i++) {
        uint32_t lo = s->r[i].lo, hi = s->r[i].hi;
        if (spelling == SPELL_JSON)
            for (uint32_t c = lo; c <= hi && c <= '\\'; c++)
                if (must_escape(c)) {
                    if (c > lo)
                        write_characters(&w, lo, c - 1);
                    write_escape(&w, c);
                    lo = c + 1;
                }
        if (lo <= hi)
            write_characters(&w, lo, hi);
    }
    return w.to;
}

/* --- expressions ----------------------------------------------------------------------------------- */

struct expr *expr_new(struct rules *b, enum expr_kind kind)
{
    struct expr *x = rules_tick(b) ? rules_alloc(b, sizeof(*x)) : NULL;
    if (!x)
        return b->dead;
    x->kind = kind;
    return x;
}

void expr_add(struct expr *parent, struct expr *child)
{
    if (parent->last)
        parent->last->next = child;
    else
        parent->first = child;
    parent->last = child;
}

struct expr *expr_char(struct rules *b, uint32_t c)
{
    struct expr *x = expr_new(b, EXPR_SET);
    charset_add(b, &x->set, c, c);
    return x;
}

#define LENGTH_MOST ((int64_t)1 << 40)

void expr_length(const struct expr *x, int64_t *ret_min, int64_t *ret_max)
{
    int64_t min = 0, max = 0, lo, hi;
    if (x->kind == EXPR_SET) {
        min = max = 1;
    } else if (x->kind == EXPR_CALL) {
        max = -1;
    } else if (x->kind == EXPR_REPEAT) {
        expr_length(x->first, &lo, &hi);
        min = lo * x->min;
        max = hi == 0 ? 0 : hi < 0 || x->max < 0 ? -1 : hi * x->max;
        max = x->max == 0 ? 0 : max;
    } else {
        for (const struct expr *c = x->first; c; c = c->next) {
            expr_length(c, &lo, &hi);
            if (x->kind == EXPR_SEQ) {
                min += lo;
                max = max < 0 || hi < 0 ? -1 : max + hi;
            } else {
                min = c == x->first || lo < min ? lo : min;
                max = max < 0 || hi < 0 ? -1 : hi > max ? hi : max;
            }
        }
    }
    *ret_min = min < LENGTH_MOST ? min : LENGTH_MOST;
    *ret_max = max < LENGTH_MOST ? max : LENGTH_MOST;
}

static int32_t write_repeat(struct rules *b, int32_t from, const struct expr *x, enum spelling spelling)
{
    for (int i = 0; i < x->min && rules_tick(b); i++)
        from = expr_write(b, from, x->first, spelling);
    if (x->max < 0) {
        int32_t loop = rules_state(b);
        rules_join(b, from, loop);
        rules_join(b, expr_write(b, loop, x->first, spelling), loop);
        return loop;
    }
    int32_t end = rules_state(b);
    for (int i = x->min; i < x->max && rules_tick(b); i++) {
        rules_join(b, from, end);
        from = expr_write(b, from, x->first, spelling);
    }
    rules_join(b, from, end);
    return end;
}

int32_t expr_write(struct rules *b, int32_t from, const struct expr *x, enum spelling spelling)
{
    int32_t end;
    if (!rules_tick(b))
        return 0;
    switch (x->kind) {
    case EXPR_SEQ:
        for (const struct expr *c = x->first; c && !b->failed; c = c->next)
            from = expr_write(b, from, c, spelling);
        return from;
    case EXPR_ALT:
        end = rules_state(b);
        for (const struct expr *c = x->first; c && !b->failed; c = c->next) {
            int32_t begin = rules_state(b); /* a loop at the beginning must not lead into the others */
            rules_join(b, from, begin);
            rules_join(b, expr_write(b, begin, c, spelling), end);
        }
        return end;
    case EXPR_SET:
        return charset_write(b, from, &x->set, spelling);
    case EXPR_REPEAT:
        return write_repeat(b, from, x, spelling);
    case EXPR_CALL:
        return rules_use(b, from, x->rule);
    }
    return from;
}
