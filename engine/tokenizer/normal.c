/* engine/tokenizer/normal.c - see normal.h. Normal forms are utf8proc's, but for characters that are
 * younger than the reference implementation's tables (later.def): those end a run and stay as they
 * are, as the model saw them in training. */
#include "config.h"

#include "engine/tokenizer/normal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/tokenizer/pattern.h"

struct step {
    enum normal_kind kind;
    char *content, *pattern;
    struct pattern *regex;
};

struct normal {
    int n;
    struct step step[NORMAL_MAX_STEPS];
};

int normal_new(const struct normal_step *steps, int n_steps, struct normal **ret, struct err *e)
{
    struct normal *n = calloc(1, sizeof(*n));
    int r = n ? 0 : err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    if (r == 0 && n_steps > NORMAL_MAX_STEPS)
        r = err_set_param(e, ERR_LIMIT, "normalizer", "normalizer: %d steps; at most %d", n_steps,
                          NORMAL_MAX_STEPS);
    for (int i = 0; i < n_steps && r == 0; i++) {
        struct step *s = &n->step[n->n++];
        s->kind = steps[i].kind;
        if (steps[i].kind == NORMAL_REPLACE && !*steps[i].pattern)
            r = err_set_param(e, ERR_FORMAT, "normalizer",
                              "normalizer: Replace has an empty pattern");
        else if (steps[i].is_regex)
            r = pattern_new(steps[i].pattern, "normalizer", &s->regex, e);
        else if (steps[i].pattern && !(s->pattern = strdup(steps[i].pattern)))
            r = err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
        if (r == 0 && steps[i].content && !(s->content = strdup(steps[i].content)))
            r = err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    }
    if (r < 0) {
        normal_free(&n);
        return r;
    }
    *ret = n;
    return 0;
}

void normal_free(struct normal **np)
{
    struct normal *n = *np;
    *np = NULL;
    if (!n)
        return;
    for (int i = 0; i < n->n; i++) {
        free(n->step[i].content);
        free(n->step[i].pattern);
        pattern_free(&n->step[i].regex);
    }
    free(n);
}

bool normal_is_identity(const struct normal *n)
{
    return n->n == 0;
}

static bool is_ascii(const char *s, size_t n)
{
    unsigned char all = 0;
    for (size_t i = 0; i < n; i++)
        all |= (unsigned char)s[i];
    return all < 0x80;
}

static const struct {
    utf8proc_int32_t first, last;
} later[] = {
#define LATER(first, last) {first, last},
#include "engine/tokenizer/later.def"
#undef LATER
};

static bool is_later(utf8proc_int32_t c)
{
    int lo = 0, hi = (int)(sizeof(later) / sizeof(*later));
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (later[mid].last < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < (int)(sizeof(later) / sizeof(*later)) && later[lo].first <= c;
}

static int form_run(const char *s, size_t n, enum normal_kind kind, struct buf *out)
{
    if (n == 0)
        return 0;
    utf8proc_option_t options = UTF8PROC_STABLE;
    utf8proc_uint8_t *made = NULL;
    options |= kind == NORMAL_NFC || kind == NORMAL_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    options |= kind == NORMAL_NFKC || kind == NORMAL_NFKD ? UTF8PROC_COMPAT : 0;
    utf8proc_ssize_t k = utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &made,
                                      options);
    if (k < 0)
        return k == UTF8PROC_ERROR_NOMEM ? ERR_NOMEM : ERR_LIMIT;
    int r = buf_append(out, made, (size_t)k);
    free(made);
    return r;
}

static int normal_form(const char *s, size_t n, enum normal_kind kind, struct buf *out)
{
    size_t done = 0;
    int r = 0;
    for (size_t i = 0; i < n && r == 0;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t k =
            utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i), &c);
        if (k <= 0)
            return ERR_FORMAT;
        if (c >= 0x300 && is_later(c)) {
            if ((r = form_run(s + done, i - done, kind, out)) == 0)
                r = buf_append(out, s + i, (size_t)k);
            done = i + (size_t)k;
        }
        i += (size_t)k;
    }
    return r == 0 ? form_run(s + done, n - done, kind, out) : r;
}

/* With the capitals of Unicode 16 and 17. */
static utf8proc_int32_t lower(utf8proc_int32_t c)
{
    if (c >= 0x10d50 && c <= 0x10d65)
        return c + 0x20;
    if (c >= 0x16ea0 && c <= 0x16eb8)
        return c + 0x1b;
    if (c == 0x1c89 || c == 0xa7cc || c == 0xa7ce || c == 0xa7d2 || c == 0xa7d4 || c == 0xa7da)
        return c + 1;
    return c == 0xa7cb ? 0x264 : c == 0xa7dc ? 0x19b : utf8proc_tolower(c);
}

static int lowercase(const char *s, size_t n, struct buf *out)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0;) {
        utf8proc_int32_t c;
        utf8proc_uint8_t to[4];
        utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)s + i,
                                              (utf8proc_ssize_t)(n - i), &c);
        if (k <= 0)
            return ERR_FORMAT;
        i += (size_t)k;
        if (c == 0x130) /* the one letter whose lower case is two */
            r = buf_append(out, "i\xcc\x87", 3);
        else
            r = buf_append(out, to, (size_t)utf8proc_encode_char(lower(c), to));
    }
    return r;
}

static int replace_text(const struct step *st, const char *s, size_t n, struct buf *out)
{
    size_t n_pattern = strlen(st->pattern), n_content = strlen(st->content);
    int r = 0;
    for (;;) {
        const char *hit = n >= n_pattern ? memmem(s, n, st->pattern, n_pattern) : NULL;
        size_t before = hit ? (size_t)(hit - s) : n;
        if ((r = buf_append(out, s, before)) < 0 || !hit)
            return r;
        if ((r = buf_append(out, st->content, n_content)) < 0)
            return r;
        s = hit + n_pattern;
        n -= before + n_pattern;
    }
}

static int replace_regex(const struct step *st, const char *s, size_t n, struct buf *out)
{
    struct pattern_run run;
    size_t done = 0, begin, end;
    int r = pattern_begin(&run);
    while (r == 0 && (r = pattern_next(st->regex, &run, s, n, &begin, &end)) == 1) {
        if ((r = buf_append(out, s + done, begin - done)) == 0)
            r = buf_append(out, st->content, strlen(st->content));
        done = end;
    }
    pattern_end(&run);
    return r < 0 ? r : buf_append(out, s + done, n - done);
}

static int apply(const struct step *st, const char *s, size_t n, struct buf *out)
{
    size_t k;
    switch (st->kind) {
    case NORMAL_NFC:
    case NORMAL_NFD:
    case NORMAL_NFKC:
    case NORMAL_NFKD:
        return is_ascii(s, n) ? buf_append(out, s, n) : normal_form(s, n, st->kind, out);
    case NORMAL_LOWERCASE:
        return lowercase(s, n, out);
    case NORMAL_PREPEND:
        return n == 0 || buf_puts(out, st->content) == 0 ? buf_append(out, s, n) : ERR_NOMEM;
    case NORMAL_REPLACE:
        return st->regex ? replace_regex(st, s, n, out) : replace_text(st, s, n, out);
    case NORMAL_STRIP_LEFT:
        k = normal_spaces_after(s, n);
        return buf_append(out, s + k, n - k);
    case NORMAL_STRIP_RIGHT:
        return buf_append(out, s, normal_spaces_before(s, 0, n));
    }
    return ERR_UNSUPPORTED;
}

int normal_apply(const struct normal *n, const char *text, size_t n_bytes, struct buf *out)
{
    struct buf other;
    buf_reset(out);
    int r = buf_append(out, text, n_bytes);
    buf_init(&other, out->max_bytes);
    for (int i = 0; i < n->n && r == 0; i++) {
        struct buf t;
        buf_reset(&other);
        if ((r = apply(&n->step[i], out->n_bytes ? out->data : "", out->n_bytes, &other)) < 0)
            break;
        t = *out;
        *out = other;
        other = t;
    }
    buf_done(&other);
    return r;
}

/* --- places in a text ------------------------------------------------------------------------ */

static bool is_space(utf8proc_int32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

static bool is_word(utf8proc_int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NL) || k == UTF8PROC_CATEGORY_PC ||
           c == 0x200c || c == 0x200d;
}

static size_t char_before(const char *s, size_t from, size_t at, utf8proc_int32_t *ret)
{
    size_t k = at;
    while (k > from && at - k < 4) {
        k--;
        if (((unsigned char)s[k] & 0xc0) != 0x80)
            break;
    }
    utf8proc_ssize_t n = k < at ? utf8proc_iterate((const utf8proc_uint8_t *)s + k,
                                                   (utf8proc_ssize_t)(at - k), ret)
                                : 0;
    return n > 0 && (size_t)n == at - k ? at - k : 0;
}

static size_t char_after(const char *s, size_t n, utf8proc_int32_t *ret)
{
    utf8proc_ssize_t k = n ? utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, ret)
                           : 0;
    return k > 0 ? (size_t)k : 0;
}

bool normal_word_before(const char *text, size_t at)
{
    utf8proc_int32_t c;
    return char_before(text, 0, at, &c) > 0 && is_word(c);
}

bool normal_word_after(const char *text, size_t n_bytes)
{
    utf8proc_int32_t c;
    return char_after(text, n_bytes, &c) > 0 && is_word(c);
}

size_t normal_spaces_before(const char *text, size_t from, size_t at)
{
    utf8proc_int32_t c;
    for (size_t k; (k = char_before(text, from, at, &c)) > 0 && is_space(c);)
        at -= k;
    return at;
}

size_t normal_spaces_after(const char *text, size_t n_bytes)
{
    utf8proc_int32_t c;
    size_t at = 0;
    for (size_t k; (k = char_after(text + at, n_bytes - at, &c)) > 0 && is_space(c);)
        at += k;
    return at;
}
