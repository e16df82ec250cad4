/* engine/tokenizer/pretok.c - see pretok.h. */
#include "config.h"

#include "engine/tokenizer/pretok.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define MATCH_LIMIT 20000000u /* a run of a megabyte needs a few steps a byte */
#define DEPTH_LIMIT 4000u
#define HEAP_LIMIT_KIB (64u * 1024u)

struct named {
    const char *name;
    int whole_words;
    const char *patterns[PRETOK_MAX_PATTERNS];
};

static const struct named table[] = {
#define PRETOK(name, whole_words, ...) {name, whole_words, {__VA_ARGS__, NULL}},
#include "engine/tokenizer/pretok.def"
#undef PRETOK
};
#define N_TABLE (sizeof(table) / sizeof(*table))

struct pretok {
    int n;
    pcre2_code *code[PRETOK_MAX_PATTERNS];
};

const char *const *pretok_patterns(const char *name, int *ret_whole_words)
{
    for (size_t i = 0; i < N_TABLE; i++)
        if (!strcmp(table[i].name, name)) {
            *ret_whole_words = table[i].whole_words;
            return table[i].patterns;
        }
    return NULL;
}

const char *pretok_names(void)
{
    static const char names[] =
#define PRETOK(name, whole_words, ...) name " "
#include "engine/tokenizer/pretok.def"
#undef PRETOK
        "";
    return names;
}

int pretok_new(const char *const *patterns, int n_patterns, struct pretok **ret, struct err *e)
{
    struct pretok *p;
    if (n_patterns > PRETOK_MAX_PATTERNS)
        return err_set_param(e, ERR_LIMIT, "pre_tokenizer", "pre_tokenizer: %d patterns; at most %d",
                             n_patterns, PRETOK_MAX_PATTERNS);
    p = calloc(1, sizeof(*p));
    if (!p)
        return err_set(e, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n_patterns; i++) {
        int code;
        PCRE2_SIZE at;
        p->code[i] = pcre2_compile((PCRE2_SPTR)patterns[i], PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &code, &at, NULL);
        if (!p->code[i]) {
            PCRE2_UCHAR text[160] = "";
            pcre2_get_error_message(code, text, sizeof(text));
            pretok_free(&p);
            return err_set_param(e, ERR_FORMAT, "pre_tokenizer",
                                 "pre_tokenizer: pattern %d does not compile: %s at byte %zu", i,
                                 (const char *)text, (size_t)at);
        }
        p->n = i + 1;
        /* Without a JIT for this machine the interpreter does the same. */
        (void)pcre2_jit_compile(p->code[i], PCRE2_JIT_COMPLETE);
    }
    *ret = p;
    return 0;
}

void pretok_free(struct pretok **pp)
{
    struct pretok *p = *pp;
    *pp = NULL;
    if (!p)
        return;
    for (int i = 0; i < p->n; i++)
        pcre2_code_free(p->code[i]);
    free(p);
}

struct splitter {
    const struct pretok *p;
    pcre2_match_data *match;
    pcre2_match_context *context;
    int (*piece)(void *arg, const char *text, size_t n_bytes);
    void *arg;
};

static int split(const struct splitter *s, int level, const char *text, size_t n)
{
    if (n == 0)
        return 0;
    if (level == s->p->n)
        return s->piece(s->arg, text, n);
    size_t done = 0, at = 0;
    while (at < n) {
        int r = pcre2_match(s->p->code[level], (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, s->match,
                            s->context);
        if (r == PCRE2_ERROR_NOMATCH)
            break;
        if (r < 0)
            return r == PCRE2_ERROR_NOMEMORY ? ERR_NOMEM : ERR_LIMIT;
        const PCRE2_SIZE *o = pcre2_get_ovector_pointer(s->match);
        size_t begin = o[0], end = o[1];
        if (end == begin) { /* an empty match splits nothing: on to the next character */
            at = end + 1;
            while (at < n && ((unsigned char)text[at] & 0xc0) == 0x80)
                at++;
            continue;
        }
        if ((r = split(s, level + 1, text + done, begin - done)) != 0 ||
            (r = split(s, level + 1, text + begin, end - begin)) != 0)
            return r;
        done = at = end;
    }
    return split(s, level + 1, text + done, n - done);
}

int pretok_split(const struct pretok *p, const char *text, size_t n_bytes,
                 int (*piece)(void *arg, const char *text, size_t n_bytes), void *arg)
{
    struct splitter s = {p, pcre2_match_data_create(1, NULL), pcre2_match_context_create(NULL), piece,
                         arg};
    int r = ERR_NOMEM;
    if (s.match && s.context) {
        pcre2_set_match_limit(s.context, MATCH_LIMIT);
        pcre2_set_depth_limit(s.context, DEPTH_LIMIT);
        pcre2_set_heap_limit(s.context, HEAP_LIMIT_KIB);
        r = split(&s, 0, text, n_bytes);
    }
    pcre2_match_data_free(s.match);
    pcre2_match_context_free(s.context);
    return r;
}
