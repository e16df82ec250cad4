/* engine/tokenizer/pretok.c - see pretok.h. */
#include "config.h"

#include "engine/tokenizer/pretok.h"

#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/pattern.h"

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

struct rule {
    struct pattern *pattern;
    enum pretok_behaviour behaviour;
    bool invert;
};

struct pretok {
    int n;
    struct rule rule[PRETOK_MAX_PATTERNS];
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

static bool same_pattern(const char *a, const char *b)
{
    char *x = NULL, *y = NULL;
    struct err e;
    bool same = pattern_rewrite(a, "", &x, &e) == 0 && pattern_rewrite(b, "", &y, &e) == 0 &&
                !strcmp(x, y);
    free(x);
    free(y);
    return same;
}

const char *pretok_name_of(const struct pretok_rule *rules, int n_rules, int whole_words)
{
    for (size_t i = 0; i < N_TABLE; i++) {
        const char *const *p = table[i].patterns;
        int k = 0;
        /* Keeping only what an exhaustive pattern matches is the same as isolating it. */
        while (k < n_rules && p[k] && same_pattern(rules[k].pattern, p[k]) &&
               (rules[k].behaviour == PRETOK_ISOLATED ||
                (rules[k].behaviour == PRETOK_REMOVED && rules[k].invert && n_rules == 1)))
            k++;
        if (k == n_rules && !p[k] && table[i].whole_words == whole_words)
            return table[i].name;
    }
    return NULL;
}

int pretok_new(const struct pretok_rule *rules, int n_rules, struct pretok **ret, struct err *e)
{
    struct pretok *p;
    if (n_rules > PRETOK_MAX_PATTERNS)
        return err_set_param(e, ERR_LIMIT, "pre_tokenizer",
                             "pre_tokenizer: %d patterns; at most %d", n_rules,
                             PRETOK_MAX_PATTERNS);
    p = calloc(1, sizeof(*p));
    if (!p)
        return err_set(e, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n_rules; i++) {
        int r = pattern_new(rules[i].pattern, "pre_tokenizer", &p->rule[i].pattern, e);
        if (r < 0) {
            pretok_free(&p);
            return r;
        }
        p->rule[i].behaviour = rules[i].behaviour;
        p->rule[i].invert = rules[i].invert;
        p->n = i + 1;
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
        pattern_free(&p->rule[i].pattern);
    free(p);
}

struct splitter {
    const struct pretok *p;
    struct pattern_run *runs; /* one a level */
    int (*piece)(void *arg, const char *text, size_t n_bytes);
    void *arg;
};

/* Spans of one level come in order; those that may still join their neighbour wait in `held`. */
struct level {
    const struct splitter *s;
    int number;
    const char *text;
    size_t begin, end; /* held */
    bool holds, last_match;
};

static int split(const struct splitter *s, int number, const char *text, size_t n);

static int give(struct level *l, size_t begin, size_t end)
{
    return split(l->s, l->number + 1, l->text + begin, end - begin);
}

static int release(struct level *l)
{
    bool holds = l->holds;
    l->holds = false;
    return holds ? give(l, l->begin, l->end) : 0;
}

static int span(struct level *l, size_t begin, size_t end, bool match)
{
    const struct rule *rule = &l->s->p->rule[l->number];
    bool joins = false, last = l->last_match;
    if (begin == end)
        return 0;
    match ^= rule->invert;
    l->last_match = match;
    switch (rule->behaviour) {
    case PRETOK_ISOLATED:
        return give(l, begin, end);
    case PRETOK_REMOVED:
        return match ? 0 : give(l, begin, end);
    case PRETOK_WITH_PREVIOUS:
        joins = match && !last;
        break;
    case PRETOK_WITH_NEXT:
        joins = !match && last;
        break;
    case PRETOK_CONTIGUOUS:
        joins = match == last;
        break;
    }
    if (l->holds && joins) {
        l->end = end;
        return 0;
    }
    int r = release(l);
    l->holds = true;
    l->begin = begin;
    l->end = end;
    return r;
}

static int split(const struct splitter *s, int number, const char *text, size_t n)
{
    if (n == 0)
        return 0;
    if (number == s->p->n)
        return s->piece(s->arg, text, n);
    struct level l = {.s = s, .number = number, .text = text};
    struct pattern_run *run = &s->runs[number];
    size_t done = 0, begin, end;
    int r;
    run->at = 0;
    while ((r = pattern_next(s->p->rule[number].pattern, run, text, n, &begin, &end)) == 1) {
        if ((r = span(&l, done, begin, false)) != 0 || (r = span(&l, begin, end, true)) != 0)
            return r;
        done = end;
    }
    if (r != 0 || (r = span(&l, done, n, false)) != 0)
        return r;
    return release(&l);
}

int pretok_split(const struct pretok *p, const char *text, size_t n_bytes,
                 int (*piece)(void *arg, const char *text, size_t n_bytes), void *arg)
{
    struct pattern_run runs[PRETOK_MAX_PATTERNS];
    struct splitter s = {p, runs, piece, arg};
    int r = 0, made = 0;
    while (made < p->n && r == 0)
        r = pattern_begin(&runs[made++]);
    if (r == 0)
        r = split(&s, 0, text, n_bytes);
    while (made > 0)
        pattern_end(&runs[--made]);
    return r;
}
