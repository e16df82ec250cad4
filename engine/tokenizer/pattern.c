/* engine/tokenizer/pattern.c - see pattern.h. */
#include "config.h"

#include "engine/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/buf.h"

#define MATCH_LIMIT 20000000u /* a run of a megabyte needs a few steps a byte */
#define DEPTH_LIMIT 4000u
#define HEAP_LIMIT_KIB (64u * 1024u)
#define MAX_PATTERN_BYTES 65536
#define MAX_NESTING 4

#define SPACE_SET "\\t-\\r \\x{85}\\p{Z}"

struct pattern {
    pcre2_code *code;
};

/* --- rewriting ------------------------------------------------------------------------------- */

struct rewriter {
    const char *s; /* what is left */
    const char *what;
    struct buf out;
    struct err *e;
};

static int refuse(struct rewriter *w, const char *text)
{
    return err_set_param(w->e, ERR_UNSUPPORTED, w->what,
                         "%s: the pattern has %s, which is not served", w->what, text);
}

static const struct newer {
    const char *property;
    utf8proc_int32_t first, last;
} newer[] = {
#define NEWER(property, first, last) {#property, first, last},
#include "engine/tokenizer/newer.def"
#undef NEWER
};

/* The characters with a property that PCRE2 may not know yet, as ranges of a class. */
static int put_newer(struct buf *out, const char *name, size_t n)
{
    int r = 0;
    for (size_t i = 0; i < sizeof(newer) / sizeof(*newer) && r == 0; i++) {
        utf8proc_uint8_t utf8[9];
        utf8proc_ssize_t k;
        if (strncmp(newer[i].property, name, n) != 0 || (n == 1 && strlen(newer[i].property) > 2))
            continue;
        k = utf8proc_encode_char(newer[i].first, utf8);
        utf8[k++] = '-';
        k += utf8proc_encode_char(newer[i].last, utf8 + k);
        r = buf_append(out, utf8, (size_t)k);
    }
    return r;
}

/* \p{Name}: categories stay, long names of them are shortened, anything else is a script. */
static int property(struct rewriter *w, bool in_class)
{
    static const char *const same[][2] = {{"Letter", "L"},
                                          {"Mark", "M"},
                                          {"Number", "N"},
                                          {"Punctuation", "P"},
                                          {"Symbol", "S"},
                                          {"Separator", "Z"},
                                          {"Any", "Any"},
                                          {"Decimal_Number", "Nd"},
                                          {"Uppercase_Letter", "Lu"},
                                          {"Lowercase_Letter", "Ll"}};
    const char *end = strchr(w->s, '}'), *name = w->s + 3;
    bool negated = name[0] == '^';
    if (!end || end - name > 60)
        return refuse(w, "an unfinished property");
    name += negated;
    size_t n = (size_t)(end - name);
    const char *sub = NULL;
    for (size_t i = 0; i < sizeof(same) / sizeof(*same); i++)
        if (strlen(same[i][0]) == n && !memcmp(same[i][0], name, n))
            sub = same[i][1];
    if (sub) {
        name = sub;
        n = strlen(sub);
    }
    negated ^= w->s[1] == 'P';
    int r = in_class ? 0 : buf_puts(&w->out, negated ? "[^" : "[");
    if (r == 0)
        r = buf_printf(&w->out, "\\%c{%s%.*s}", in_class && negated ? 'P' : 'p',
                       n > 2 && !sub && !memchr(name, ':', n) ? "sc:" : "", (int)n, name);
    if (r == 0 && !(in_class && negated))
        r = put_newer(&w->out, name, n);
    if (r == 0 && !in_class)
        r = buf_puts(&w->out, "]");
    w->s = end + 1;
    return r;
}

/* One escape, outside or inside a class. */
static int escape(struct rewriter *w, bool in_class)
{
    char c = w->s[1];
    int r;
    if ((c == 'p' || c == 'P') && w->s[2] == '{')
        return property(w, in_class);
    switch (c) {
    case 0:
        return refuse(w, "a backslash at its end");
    case 's':
        r = buf_puts(&w->out, in_class ? SPACE_SET : "[" SPACE_SET "]");
        break;
    case 'S': /* inside a class there is no spelling for it but PCRE2's own */
        r = buf_puts(&w->out, in_class ? "\\S" : "[^" SPACE_SET "]");
        break;
    case 'h':
        r = buf_puts(&w->out, in_class ? "0-9A-Fa-f" : "[0-9A-Fa-f]");
        break;
    case 'd':
        if ((r = buf_puts(&w->out, in_class ? "\\p{Nd}" : "[\\p{Nd}")) == 0 &&
            (r = put_newer(&w->out, "Nd", 2)) == 0 && !in_class)
            r = buf_puts(&w->out, "]");
        break;
    case 'u': { /* \uHHHH */
        char *end, hex[5] = {0};
        for (int i = 0; i < 4 && w->s[2 + i]; i++)
            hex[i] = w->s[2 + i];
        unsigned long v = strtoul(hex, &end, 16);
        if (end != hex + 4)
            return refuse(w, "an unfinished \\u");
        w->s += 4;
        r = buf_printf(&w->out, "\\x{%lx}", v);
        break;
    }
    case 'x': { /* characters beyond ASCII as themselves: so one set has one spelling */
        char *end = NULL;
        unsigned long v = w->s[2] == '{' ? strtoul(w->s + 3, &end, 16) : 0;
        unsigned char utf8[4];
        if (v >= 0x80 && v <= 0x10ffff && *end == '}' && !(v >= 0xd800 && v < 0xe000)) {
            r = buf_append(&w->out, utf8, (size_t)utf8proc_encode_char((utf8proc_int32_t)v, utf8));
            w->s = end - 1;
        } else {
            r = buf_append(&w->out, w->s, 2);
        }
        break;
    }
    default:
        r = buf_append(&w->out, w->s, 2);
    }
    w->s += 2;
    return r;
}

static int plain(struct rewriter *w)
{
    char c = *w->s++;
    return c == '\r'   ? buf_puts(&w->out, "\\r")
           : c == '\n' ? buf_puts(&w->out, "\\n")
                       : buf_append(&w->out, &c, 1);
}

/* A class. [A&&[^B]] has no spelling in PCRE2: it becomes (?:(?=[^B])[A]). */
static int class(struct rewriter *w, int level)
{
    struct buf tests, outer;
    bool intersects = false;
    int r;
    if (level > MAX_NESTING)
        return refuse(w, "classes nested too deeply");
    buf_init(&tests, MAX_PATTERN_BYTES);
    outer = w->out;
    buf_init(&w->out, MAX_PATTERN_BYTES);
    r = buf_append(&w->out, w->s, w->s[1] == '^' ? 2 : 1);
    w->s += w->s[1] == '^' ? 2 : 1;
    if (r == 0 && *w->s == ']') { /* literal in the first place */
        r = buf_puts(&w->out, "\\]");
        w->s++;
    }
    while (r == 0 && *w->s != ']') {
        if (!*w->s) {
            r = refuse(w, "an unfinished class");
        } else if (w->s[0] == '&' && w->s[1] == '&') {
            w->s += 2;
            if (*w->s != '[') {
                r = refuse(w, "an intersection with something that is no class");
                break;
            }
            struct buf mine = w->out;
            buf_init(&w->out, MAX_PATTERN_BYTES);
            intersects = true;
            if ((r = class(w, level + 1)) == 0 && (r = buf_puts(&tests, "(?=")) == 0 &&
                (r = buf_append(&tests, w->out.data, w->out.n_bytes)) == 0)
                r = buf_puts(&tests, ")");
            buf_done(&w->out);
            w->out = mine;
        } else if (intersects) {
            r = refuse(w, "something after an intersection");
        } else if (w->s[0] == '[' && w->s[1] == ':') {
            r = refuse(w, "a POSIX class");
        } else if (w->s[0] == '[') {
            r = refuse(w, "a class inside a class");
        } else if (w->s[0] == '\\') {
            r = escape(w, true);
        } else {
            r = plain(w);
        }
    }
    if (r == 0) {
        w->s++;
        r = buf_puts(&w->out, "]");
    }
    if (r == 0 && intersects && w->out.n_bytes > 1 && w->out.data[1] == '^')
        r = refuse(w, "a negated intersection");
    struct buf made = w->out;
    w->out = outer;
    if (r == 0 && intersects)
        r = buf_printf(&w->out, "(?:%s", tests.data);
    if (r == 0)
        r = buf_append(&w->out, made.data, made.n_bytes);
    if (r == 0 && intersects)
        r = buf_puts(&w->out, ")");
    buf_done(&made);
    buf_done(&tests);
    return r;
}

int pattern_rewrite(const char *regex, const char *what, char **ret, struct err *e)
{
    struct rewriter w = {.s = regex, .what = what, .e = e};
    size_t n;
    int r = 0;
    if (strlen(regex) > MAX_PATTERN_BYTES / 8)
        return err_set_param(e, ERR_LIMIT, what, "%s: a pattern has %zu bytes; at most %d", what,
                             strlen(regex), MAX_PATTERN_BYTES / 8);
    buf_init(&w.out, MAX_PATTERN_BYTES);
    while (r == 0 && *w.s) {
        if (*w.s == '[')
            r = class(&w, 0);
        else if (*w.s == '\\')
            r = escape(&w, false);
        else if (*w.s == '$' || *w.s == '^') /* of lines */
            r = buf_printf(&w.out, "(?m:%c)", *w.s++);
        else
            r = plain(&w);
    }
    if (r == 0)
        r = buf_append(&w.out, "", 1);
    if (r == 0)
        *ret = buf_take(&w.out, &n);
    else if (r == ERR_NOMEM || r == ERR_LIMIT)
        r = err_set_param(e, r, what, "%s: no room for a pattern", what);
    buf_done(&w.out);
    return r;
}

/* --- matching -------------------------------------------------------------------------------- */

int pattern_new(const char *regex, const char *what, struct pattern **ret, struct err *e)
{
    char *text = NULL;
    int code = 0, r = pattern_rewrite(regex, what, &text, e);
    PCRE2_SIZE at = 0;
    if (r < 0)
        return r;
    struct pattern *p = calloc(1, sizeof(*p));
    if (p)
        /* \C, half a character, would make the next search begin inside one */
        p->code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED,
                                PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
    if (!p) {
        r = err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    } else if (!p->code) {
        PCRE2_UCHAR message[160] = "";
        pcre2_get_error_message(code, message, sizeof(message));
        r = err_set_param(e, ERR_FORMAT, what, "%s: the pattern \"%.60s\" does not compile: %s",
                          what, regex, (const char *)message);
    } else {
        /* Without a JIT for this machine the interpreter does the same. */
        (void)pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE);
        *ret = p;
        p = NULL;
    }
    pattern_free(&p);
    free(text);
    return r;
}

void pattern_free(struct pattern **pp)
{
    struct pattern *p = *pp;
    *pp = NULL;
    if (!p)
        return;
    pcre2_code_free(p->code);
    free(p);
}

int pattern_begin(struct pattern_run *run)
{
    run->at = 0;
    run->match = pcre2_match_data_create(1, NULL);
    run->context = pcre2_match_context_create(NULL);
    if (!run->match || !run->context)
        return ERR_NOMEM;
    pcre2_set_match_limit(run->context, MATCH_LIMIT);
    pcre2_set_depth_limit(run->context, DEPTH_LIMIT);
    pcre2_set_heap_limit(run->context, HEAP_LIMIT_KIB);
    return 0;
}

void pattern_end(struct pattern_run *run)
{
    pcre2_match_data_free(run->match);
    pcre2_match_context_free(run->context);
}

int pattern_next(const struct pattern *p, struct pattern_run *run, const char *text, size_t n,
                 size_t *ret_begin, size_t *ret_end)
{
    if (run->at > n)
        return 0;
    int r = pcre2_match(p->code, (PCRE2_SPTR)text, n, run->at, PCRE2_NO_UTF_CHECK, run->match,
                        run->context);
    if (r == PCRE2_ERROR_NOMATCH)
        return 0;
    if (r < 0)
        return r == PCRE2_ERROR_NOMEMORY ? ERR_NOMEM : ERR_LIMIT;
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(run->match);
    if (o[1] < o[0] || o[0] < run->at) /* \K in a look-around */
        return ERR_LIMIT;
    *ret_begin = o[0];
    *ret_end = run->at = o[1];
    if (o[0] == o[1]) {
        run->at++;
        while (run->at < n && ((unsigned char)text[run->at] & 0xc0) == 0x80)
            run->at++;
    }
    return 1;
}
