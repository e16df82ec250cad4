/* engine/grammar/rules.c - see rules.h. Any thread, one at a time. */
#include "config.h"

#include "engine/grammar/rules.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/utf8.h"

#define WORK_A_STATE 64 /* units of work that a state of the limit is worth */
#define CLOCK_EVERY 4096

int rules_init(struct rules *b, const struct grammar_limits *lim)
{
    *b = (struct rules){.lim = lim, .arena = arena_new(RULES_ARENA_BYTES)};
    b->deadline_ns = clock_now_ns() + lim->max_compile_ns;
    if (!b->arena)
        return rules_fail(b, ERR_NOMEM, "out of memory for the grammar");
    b->dead = rules_alloc(b, sizeof(struct expr));
    rules_state(b); /* 0, where everything goes after a failure */
    return b->failed;
}

void rules_done(struct rules *b)
{
    free(b->edges);
    free(b->head);
    free(b->rules);
    arena_free(b->arena);
    b->edges = NULL;
    b->head = NULL;
    b->rules = NULL;
    b->arena = NULL;
}

int rules_fail(struct rules *b, int code, const char *fmt, ...)
{
    if (b->failed)
        return b->failed;
    va_list ap;
    int n = b->place ? snprintf(b->err.text, sizeof(b->err.text), "%.200s: ", b->place) : 0;
    va_start(ap, fmt);
    vsnprintf(b->err.text + n, sizeof(b->err.text) - (size_t)n, fmt, ap);
    va_end(ap);
    /* parts of the source: what a terminal would obey, or half a character, is not repeated */
    bool valid = utf8_valid(b->err.text, strlen(b->err.text));
    for (char *s = b->err.text; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f || (!valid && (unsigned char)*s >= 0x80))
            *s = '?';
    b->err.code = code;
    return b->failed = code;
}

bool rules_tick(struct rules *b)
{
    return rules_spend(b, 1);
}

bool rules_spend(struct rules *b, int64_t units)
{
    if (b->failed)
        return false;
    int64_t before = b->work;
    b->work += units;
    if (b->work > (int64_t)b->lim->max_states * WORK_A_STATE)
        rules_fail(b, ERR_LIMIT, "the grammar is too large: more than %d states", b->lim->max_states);
    else if (before / CLOCK_EVERY != b->work / CLOCK_EVERY && clock_now_ns() > b->deadline_ns)
        rules_fail(b, ERR_LIMIT, "the grammar takes longer than %g s to compile",
                   (double)b->lim->max_compile_ns / 1e9);
    return !b->failed;
}

/* The arena gave nothing: it is full, or there is no memory. */
static void no_room(struct rules *b)
{
    if (arena_starved(b->arena))
        rules_fail(b, ERR_NOMEM, "out of memory for the grammar");
    else
        rules_fail(b, ERR_LIMIT, "the grammar is too large");
}

void *rules_alloc(struct rules *b, size_t n_bytes)
{
    void *p = b->failed ? NULL : arena_alloc(b->arena, n_bytes ? n_bytes : 1);
    if (!p)
        no_room(b);
    return p;
}

/* Room for one more of n elements. */
static bool grow(struct rules *b, void *list, int n, int *cap, size_t elem_bytes)
{
    void **at = list;
    if (n < *cap)
        return true;
    int more = *cap ? 2 * *cap : 256;
    void *p = realloc(*at, (size_t)more * elem_bytes);
    if (!p) {
        rules_fail(b, ERR_NOMEM, "out of memory for the grammar");
        return false;
    }
    *at = p;
    *cap = more;
    return true;
}

int32_t rules_state(struct rules *b)
{
    if (!rules_tick(b))
        return 0;
    if (b->n_states >= b->lim->max_states) {
        rules_fail(b, ERR_LIMIT, "the grammar is too large: more than %d states", b->lim->max_states);
        return 0;
    }
    if (!grow(b, &b->head, b->n_states, &b->cap_states, sizeof(*b->head)))
        return 0;
    b->head[b->n_states] = -1;
    return b->n_states++;
}

static void add_edge(struct rules *b, int32_t from, struct edge e)
{
    if (!rules_tick(b) || !grow(b, &b->edges, b->n_edges, &b->cap_edges, sizeof(*b->edges)))
        return;
    e.next = b->head[from];
    b->edges[b->n_edges] = e;
    b->head[from] = b->n_edges++;
}

void rules_join(struct rules *b, int32_t from, int32_t to)
{
    add_edge(b, from, (struct edge){.to = to, .call = EDGE_NOTHING});
}

void rules_bytes(struct rules *b, int32_t from, int32_t to, uint8_t lo, uint8_t hi)
{
    add_edge(b, from, (struct edge){.to = to, .call = EDGE_BYTES, .lo = lo, .hi = hi});
}

void rules_call(struct rules *b, int32_t from, int32_t to, int32_t rule)
{
    add_edge(b, from, (struct edge){.to = to, .call = rule});
}

int32_t rules_rule(struct rules *b, const char *name, size_t n_bytes)
{
    int32_t start = rules_state(b), end = rules_state(b);
    char *copy = b->failed ? NULL : arena_strndup(b->arena, name, n_bytes);
    if (!copy)
        no_room(b);
    if (b->failed || !grow(b, &b->rules, b->n_rules, &b->cap_rules, sizeof(*b->rules)))
        return 0;
    b->rules[b->n_rules] = (struct rule){copy, start, end, false};
    return b->n_rules++;
}

int32_t rules_find(const struct rules *b, const char *name, size_t n_bytes)
{
    for (int i = 0; i < b->n_rules; i++)
        if (strlen(b->rules[i].name) == n_bytes && !memcmp(b->rules[i].name, name, n_bytes))
            return i;
    return -1;
}

int32_t rules_text(struct rules *b, int32_t from, const char *s, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes && !b->failed; i++) {
        int32_t to = rules_state(b);
        rules_bytes(b, from, to, (uint8_t)s[i], (uint8_t)s[i]);
        from = to;
    }
    return from;
}

int32_t rules_use(struct rules *b, int32_t from, int32_t rule)
{
    int32_t to = rules_state(b);
    rules_call(b, from, to, rule);
    return to;
}
