/* engine/grammar/grammars.c - compiled grammars, found again by their source; see grammar.h.
 *
 * Compiling happens outside the lock: two threads may compile the same, and one of the results is kept. A
 * grammar that nobody uses stays until the cache is over its bytes; then the least recently used go. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "engine/grammar/compiled.h"

struct grammars {
    const struct tokenizer *tokenizer;
    int n_vocab;
    struct grammar_limits lim;
    pthread_mutex_t lock; /* of what follows, and of the first use of vocab */
    struct vocab *vocab;  /* made when the first grammar is */
    struct grammar *first, *last;
};

int grammars_new(const struct tokenizer *tokenizer, int n_vocab, const struct grammar_limits *lim,
                 struct grammars **ret)
{
    struct grammars *g = calloc(1, sizeof(*g));
    if (!g)
        return ERR_NOMEM;
    if (pthread_mutex_init(&g->lock, NULL) != 0) {
        free(g);
        return ERR_NOMEM;
    }
    g->tokenizer = tokenizer;
    g->n_vocab = n_vocab;
    g->lim = *lim;
    *ret = g;
    return 0;
}

static void take_out(struct grammars *g, struct grammar *x)
{
    if (x->prev)
        x->prev->next = x->next;
    else
        g->first = x->next;
    if (x->next)
        x->next->prev = x->prev;
    else
        g->last = x->prev;
    x->next = x->prev = NULL;
}

static void put_first(struct grammars *g, struct grammar *x)
{
    x->next = g->first;
    if (x->next)
        x->next->prev = x;
    else
        g->last = x;
    g->first = x;
}

static void destroy(struct grammar *g)
{
    grammar__done(g);
    program_free(&g->program);
    pthread_mutex_destroy(&g->lock);
    free(g->source);
    free(g);
}

struct grammar *grammar_ref(struct grammar *g)
{
    atomic_fetch_add(&g->refs, 1);
    return g;
}

void grammar_put(struct grammar **gp)
{
    struct grammar *g = *gp;
    *gp = NULL;
    if (g && atomic_fetch_sub(&g->refs, 1) == 1)
        destroy(g);
}

static size_t size_of(const struct grammar *g)
{
    return sizeof(*g) + g->n_source + g->program->n_mem +
           atomic_load_explicit(&g->n_mem, memory_order_relaxed);
}

/* The cache has one reference of each; others may have more. */
static void forget_old(struct grammars *g)
{
    uint64_t sum = 0;
    for (struct grammar *x = g->first, *next; x; x = next) {
        next = x->next;
        sum += size_of(x);
        if (sum <= g->lim.cache_bytes || x == g->first)
            continue;
        sum -= size_of(x);
        take_out(g, x);
        grammar_put(&x);
    }
}

void grammars_free(struct grammars **gp)
{
    struct grammars *g = *gp;
    *gp = NULL;
    if (!g)
        return;
    while (g->first) {
        struct grammar *x = g->first;
        take_out(g, x);
        grammar_put(&x);
    }
    vocab_free(&g->vocab);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

/* Under the lock. */
static struct grammar *find(struct grammars *g, enum grammar_kind kind, struct hash128 h, const char *source,
                            size_t n)
{
    for (struct grammar *x = g->first; x; x = x->next)
        if (x->kind == kind && x->hash.lo == h.lo && x->hash.hi == h.hi && x->n_source == n &&
            !memcmp(x->source, source, n))
            return x;
    return NULL;
}

static int32_t read_source(struct rules *b, enum grammar_kind kind, const char *s, size_t n)
{
    struct expr *x;
    int32_t rule;
    switch (kind) {
    case GRAMMAR_GBNF:
        return gbnf_read(b, s, n);
    case GRAMMAR_REGEX:
        x = regex_read(b, s, n, false);
        rule = rules_rule(b, "regex", 5);
        if (!b->failed) {
            b->rules[rule].defined = true;
            rules_join(b, expr_write(b, b->rules[rule].start, x, SPELL_PLAIN), b->rules[rule].end);
        }
        return rule;
    case GRAMMAR_CHOICE:
        return choice_read(b, s, n);
    case GRAMMAR_SCHEMA:
        return schema_read(b, s, n);
    case GRAMMAR_OBJECT:
        return object_read(b);
    case GRAMMAR_TAG:
        return tag_read(b, s, n);
    case GRAMMAR_CALLS:
        return calls_read(b, s, n);
    }
    return 0;
}

static int compile(struct grammars *g, enum grammar_kind kind, const char *source, size_t n,
                   struct program **ret, struct err *e)
{
    struct rules b;
    if (rules_init(&b, &g->lim) == 0) {
        b.tokenizer = g->tokenizer;
        int32_t root = read_source(&b, kind, source, n);
        if (!b.failed)
            (void)!program_new(&b, root, ret);
    }
    int r = b.failed;
    if (r < 0)
        err_set(e, r, "%s", b.err.text);
    rules_done(&b);
    return r;
}

static struct grammar *wrap(struct grammars *g, enum grammar_kind kind, struct hash128 h, const char *source,
                            size_t n, struct program *p)
{
    struct grammar *x = calloc(1, sizeof(*x));
    if (!x || pthread_mutex_init(&x->lock, NULL) != 0) {
        free(x);
        program_free(&p);
        return NULL;
    }
    atomic_store(&x->refs, 1);
    x->kind = kind;
    x->hash = h;
    x->source = malloc(n + 1);
    x->n_source = n;
    x->vocab = g->vocab;
    x->program = p;
    x->most_mem = g->lim.cache_bytes / 4;
    if (!x->source || grammar__ready(x) < 0) {
        destroy(x);
        return NULL;
    }
    memcpy(x->source, source, n);
    return x;
}

int grammars_get(struct grammars *g, enum grammar_kind kind, const char *source, size_t n_bytes,
                 struct grammar **ret, struct err *e)
{
    struct program *p = NULL;
    int r = 0;
    if (!g->tokenizer)
        return err_set(e, ERR_UNSUPPORTED, "this model has no tokenizer: its output cannot be structured");
    if (n_bytes > g->lim.max_source_bytes)
        return err_set(e, ERR_LIMIT, "it has %zu bytes; at most %zu are accepted", n_bytes,
                       g->lim.max_source_bytes);
    struct hash128 h = hash128_bytes(source, n_bytes, (uint64_t)kind);
    pthread_mutex_lock(&g->lock);
    struct grammar *x = find(g, kind, h, source, n_bytes);
    if (x) {
        take_out(g, x);
        put_first(g, x);
        *ret = grammar_ref(x);
    } else if (!g->vocab) {
        r = vocab_new(g->tokenizer, g->n_vocab, PROGRAM_ALIKE, &g->vocab);
    }
    pthread_mutex_unlock(&g->lock);
    if (x)
        return 0;
    if (r < 0)
        return err_set(e, r, "out of memory for the vocabulary");
    r = compile(g, kind, source, n_bytes, &p, e);
    if (r < 0)
        return r;
    if (!(x = wrap(g, kind, h, source, n_bytes, p)))
        return err_set(e, ERR_NOMEM, "out of memory for the grammar");
    pthread_mutex_lock(&g->lock);
    if (!find(g, kind, h, source, n_bytes)) {
        put_first(g, grammar_ref(x));
        forget_old(g);
    }
    pthread_mutex_unlock(&g->lock);
    *ret = x;
    return 0;
}
