/* tests/unit/t_kv_model.c - the cache against a naive model: long random runs of every operation.
 * The model keeps, for each sequence, its tokens and a tag of each row that follows from all that determines
 * the row in a real model: the salt, the tokens up to it and the ways they are computed in. Rows are filled
 * from their tags, so a row of another sequence, plane or place shows; two pages are the same page where the
 * tags of their last rows are equal, so counts of shared and pinned pages follow from tags alone. It also
 * remembers which pages were held during a step, to see that none of them is handed out inside it. Every
 * operation is followed by kv_check and the model's own counts. A run is reproduced by LATENT_TEST_SEED;
 * LATENT_MODEL_OPS is how many operations there are in all (`make check-kv-model`: 1,000,000). */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kvcache/kvcache.h"

#define MAX_SEQS 12
#define MAX_TOKENS 4096
#define MAX_PAGES 64
#define MAX_PINS 6
#define N_SALTS 3
#define PINNED_PERCENT 20
#define DEFAULT_OPS 400000

static unsigned long long seed, n_ops;

struct shape {
    uint32_t page_tokens, n_pages, n_planes;
    uint32_t vocab; /* few tokens: prefixes meet often */
    uint32_t unit;  /* the least that all tokens_per_row divide */
    struct kv_plane planes[4];
};

static const struct shape shapes[] = {
    {8, 24, 1, 2, 1, {{16, 1, 64}}},
    {8, 7, 2, 2, 8, {{5, 1, 1}, {12, 8, 16}}},
    {16, 40, 3, 3, 4, {{96, 1, 64}, {8, 4, 8}, {33, 2, 32}}},
    {64, 12, 4, 2, 64, {{16, 1, 64}, {16, 1, 64}, {4, 64, 4}, {2, 1, 4096}}},
    {1024, 5, 1, 2, 1, {{4, 1, 4}}},
    {9, 24, 2, 2, 3, {{16, 1, 64}, {7, 3, 1}}},
    {12, 30, 4, 2, 12, {{16, 2, 64}, {7, 3, 1}, {5, 4, 4}, {3, 1, 1}}},
    {35, 20, 2, 2, 5, {{16, 5, 64}, {8, 1, 8}}},
    {48, 12, 3, 2, 6, {{16, 2, 64}, {16, 3, 64}, {1, 6, 1}}},
    {1023, 5, 2, 2, 33, {{4, 33, 4}, {2, 11, 2}}},
};
#define N_SHAPES ((int)(sizeof(shapes) / sizeof(shapes[0])))

struct naive {
    struct kv_seq *seq; /* NULL: not alive */
    uint64_t salt;
    uint32_t ends[KV_WAYS]; /* rows from the beginning that are made in each way */
    uint32_t n, reserved;   /* tokens; tokens that have a page */
    int32_t tokens[MAX_TOKENS];
    uint64_t tags[MAX_TOKENS];
};

struct naive_pin {
    uint64_t id;
    uint32_t n_pages;
    uint64_t tags[MAX_PAGES]; /* of the last row of each page */
};

struct run {
    const struct shape *shape;
    struct kv *kv;
    struct naive s[MAX_SEQS], wanted; /* wanted: what an operation asks for */
    struct naive_pin pins[MAX_PINS];
    uint32_t n_pins;
    uint64_t rng, ops, committed, no_space, no_pins, pinned, dropped;
    bool in_step;
    unsigned char *pool;           /* address of the first page */
    bool held_in_step[MAX_PAGES]; /* at some moment of the step */
};

static uint32_t below(struct run *r, uint32_t n)
{
    r->rng ^= r->rng << 13;
    r->rng ^= r->rng >> 7;
    r->rng ^= r->rng << 17;
    return (uint32_t)((r->rng * 0x2545f4914f6cdd1dull) >> 32) % n;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Not ck_assert: that reports each passed check to the parent process. */
#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        if (!(cond))                                                                               \
            ck_abort_msg("%s after %llu operations, seed %llu", #cond, (unsigned long long)r->ops, \
                         seed);                                                                    \
    } while (0)

/* Tags of rows [from, to), after their tokens and the ways are set. */
static void tag_rows(struct naive *s, uint32_t from, uint32_t to)
{
    for (uint32_t at = from; at < to; at++) {
        uint64_t h = at ? s->tags[at - 1] : s->salt * 0x9e3779b97f4a7c15ull + 1;
        uint64_t here = (uint64_t)s->tokens[at];
        for (int w = 0; w < KV_WAYS; w++)
            here = here * 2 + (at < s->ends[w]);
        h = (h ^ here) * 0xff51afd7ed558ccdull;
        s->tags[at] = h ^ h >> 32;
    }
}

static unsigned char row_byte(uint64_t tag, uint32_t plane, uint32_t i)
{
    return (unsigned char)((tag >> (i % 5 * 8)) + plane * 31 + i);
}

/* One row of a plane stands for tokens_per_row tokens; it is written with the last of them. */
static void each_row(struct run *r, struct naive *s, uint32_t from, uint32_t to, bool write)
{
    uint32_t p = r->shape->page_tokens;
    unsigned char *const *pages = kv_seq_pages(s->seq, NULL);
    for (uint32_t at = from; at < to; at++)
        for (uint32_t k = 0; k < r->shape->n_planes; k++) {
            const struct kv_plane *pl = &r->shape->planes[k];
            if ((at + 1) % pl->tokens_per_row)
                continue;
            unsigned char *row = pages[at / p] + kv_plane_offset(r->kv, k) +
                                 (size_t)(at % p / pl->tokens_per_row) * pl->row_bytes;
            unsigned char wanted[96];
            for (uint32_t i = 0; i < pl->row_bytes; i++)
                wanted[i] = row_byte(s->tags[at], k, i);
            if (write)
                memcpy(row, wanted, pl->row_bytes);
            else
                REQUIRE(memcmp(row, wanted, pl->row_bytes) == 0);
        }
}

static uint32_t index_of(const struct run *r, const unsigned char *page)
{
    size_t i = (size_t)(page - r->pool) / kv_page_bytes(r->kv);
    REQUIRE(page >= r->pool && i < r->shape->n_pages && page == r->pool + i * kv_page_bytes(r->kv));
    return (uint32_t)i;
}

/* Rows: all of them now and then, else the last two pages and some anywhere. */
static void check_seq(struct run *r, struct naive *s)
{
    uint32_t n_pages, recent = least(s->n, 2 * least(r->shape->page_tokens, 64));
    kv_seq_pages(s->seq, &n_pages);
    REQUIRE(kv_seq_length(s->seq) == s->n);
    REQUIRE(n_pages == kv_pages_for(r->kv, s->reserved));
    if (r->ops % 64 == 0) {
        each_row(r, s, 0, s->n, false);
        return;
    }
    each_row(r, s, s->n - recent, s->n, false);
    for (int i = 0; i < 8 && s->n > 0; i++) {
        uint32_t at = below(r, s->n);
        each_row(r, s, at, at + 1, false);
    }
}

static struct naive *any_alive(struct run *r)
{
    uint32_t at = below(r, MAX_SEQS);
    for (uint32_t i = 0; i < MAX_SEQS; i++)
        if (r->s[(at + i) % MAX_SEQS].seq)
            return &r->s[(at + i) % MAX_SEQS];
    return NULL;
}

static struct naive *any_dead(struct run *r)
{
    for (uint32_t i = 0; i < MAX_SEQS; i++)
        if (!r->s[i].seq)
            return &r->s[i];
    return NULL;
}

static void op_new(struct run *r)
{
    struct naive *s = any_dead(r);
    struct kv_seq *seq = NULL;
    uint64_t salt = below(r, 4) ? 0 : below(r, N_SALTS);
    int got = kv_seq_new(r->kv, salt, &seq);
    REQUIRE(got == (s ? 0 : ERR_LIMIT));
    if (!s)
        return;
    s->seq = seq;
    s->salt = salt;
    s->n = s->reserved = 0;
    for (int w = 0; w < KV_WAYS; w++) {
        s->ends[w] = below(r, 4) ? 0 : below(r, 4) * r->shape->page_tokens;
        if (s->ends[w] && below(r, 2)) /* or an end inside a page, of few so that some are equal */
            s->ends[w] -= 1 + below(r, 2);
    }
    kv_seq_set_ways(r->kv, seq, s->ends);
}

/* r->wanted: what s holds and up to `more` tokens, like another sequence's for a while, then random. */
static void want(struct run *r, const struct naive *s, uint32_t more)
{
    const struct naive *o = any_alive(r);
    struct naive *q = &r->wanted;
    uint32_t same = o ? below(r, o->n + 1) : 0;
    q->n = least(s->n + below(r, more + 1), MAX_TOKENS);
    q->salt = s->salt;
    memcpy(q->ends, s->ends, sizeof(q->ends));
    memcpy(q->tokens, s->tokens, s->n * sizeof(*s->tokens));
    memcpy(q->tags, s->tags, s->n * sizeof(*s->tags));
    for (uint32_t i = s->n; i < q->n; i++)
        q->tokens[i] = o && i < same ? o->tokens[i] : (int32_t)below(r, r->shape->vocab);
    tag_rows(q, s->n, q->n);
}

/* How much of the first n tokens of r->wanted living sequences guarantee: whole pages, and the rows that
 * may be copied from inside one. What is cached may only add to it. */
static uint32_t known(const struct run *r, uint32_t n, bool copied)
{
    uint32_t p = r->shape->page_tokens, best = 0;
    for (int i = 0; i < MAX_SEQS; i++) {
        const struct naive *s = &r->s[i];
        uint32_t k = 0, most = s->seq ? least(n, s->n - s->n % p) : 0;
        while (k < most && s->tags[k] == r->wanted.tags[k])
            k++;
        k -= copied ? k % r->shape->unit : k % p;
        best = k > best ? k : best;
    }
    return best;
}

static void op_match(struct run *r)
{
    struct naive *s = any_alive(r), *q = &r->wanted;
    uint32_t p = r->shape->page_tokens;
    if (!s)
        return;
    want(r, s, 6 * p);
    uint32_t limit = q->n + below(r, 3) - (q->n > 0), had = s->n, most = least(limit, q->n);
    uint32_t probe = kv_probe(r->kv, s->salt, s->ends, q->tokens, most);
    bool room = kv_pages_available(r->kv) > kv_pages_for(r->kv, most);
    uint32_t sure = known(r, most, room);
    bool idle = s->reserved == had && had % p == 0; /* nothing to give back that the probe did not see */
    REQUIRE(probe >= sure && probe <= most && probe % p % r->shape->unit == 0);
    uint32_t got = kv_seq_match(r->kv, s->seq, q->tokens, q->n, limit);
    if (most <= had) {
        REQUIRE(got == had);
        return;
    }
    REQUIRE(got >= had && got >= sure && got <= most);
    REQUIRE(got >= probe && (got == had || got % p % r->shape->unit == 0));
    if (idle || room)
        REQUIRE(got == (probe > had ? probe : had));
    memcpy(s->tokens, q->tokens, got * sizeof(*q->tokens));
    memcpy(s->tags, q->tags, got * sizeof(*q->tags));
    s->n = got;
    if (had % p == 0 || got / p > had / p) /* a reservation is given back */
        s->reserved = kv_pages_for(r->kv, got) * p;
    check_seq(r, s);
}

static void op_reserve(struct run *r)
{
    struct naive *s = any_alive(r);
    uint32_t p = r->shape->page_tokens, free_pages = kv_pages_available(r->kv);
    if (!s)
        return;
    uint32_t n = below(r, below(r, 6) ? 3 * p : MAX_TOKENS + 100);
    uint32_t want = kv_pages_for(r->kv, s->n + n), have = kv_pages_for(r->kv, s->reserved);
    int got = kv_seq_reserve(r->kv, s->seq, n);
    int expected = s->n + n > MAX_TOKENS                       ? ERR_LIMIT
                   : want > have && want - have > free_pages ? ERR_NOSPACE
                                                               : 0;
    REQUIRE(got == expected);
    r->no_space += got == ERR_NOSPACE;
    if (got == 0 && want > have)
        s->reserved = want * p;
    if (got == 0 && r->in_step) {
        uint32_t n_pages;
        unsigned char *const *pages = kv_seq_pages(s->seq, &n_pages);
        for (uint32_t i = have; i < n_pages; i++)
            REQUIRE(!r->held_in_step[index_of(r, pages[i])]);
    }
    check_seq(r, s);
}

static void op_commit(struct run *r)
{
    struct naive *s = any_alive(r);
    if (!s || s->reserved == s->n)
        return;
    uint32_t n = 1 + below(r, s->reserved - s->n);
    if (below(r, 2)) { /* the likely continuation, so that equal pages meet */
        want(r, s, n);
        n = r->wanted.n - s->n;
        memcpy(s->tokens + s->n, r->wanted.tokens + s->n, n * sizeof(*s->tokens));
    } else {
        for (uint32_t i = 0; i < n; i++)
            s->tokens[s->n + i] = (int32_t)below(r, r->shape->vocab);
    }
    tag_rows(s, s->n, s->n + n);
    each_row(r, s, s->n, s->n + n, true);
    kv_seq_commit(r->kv, s->seq, s->tokens + s->n, n);
    s->n += n;
    r->committed += n;
    check_seq(r, s);
}

static void op_truncate(struct run *r)
{
    struct naive *s = any_alive(r);
    if (!s)
        return;
    uint32_t n = below(r, 8) ? below(r, s->n + 2) : s->n - s->n % r->shape->page_tokens;
    uint32_t available = kv_pages_available(r->kv);
    int got = kv_seq_truncate(r->kv, s->seq, n);
    n = n < s->n ? n : s->n;
    n -= n % r->shape->unit;
    if (n < s->n) {
        REQUIRE(got == 0 || (got == ERR_NOSPACE && available == 0));
        if (got == 0) {
            s->n = n;
            s->reserved = kv_pages_for(r->kv, n) * r->shape->page_tokens;
        }
    } else {
        REQUIRE(got == 0);
    }
    check_seq(r, s);
}

static void op_fork(struct run *r)
{
    struct naive *s = any_alive(r), *f = any_dead(r);
    struct kv_seq *seq = NULL;
    if (!s)
        return;
    uint32_t available = kv_pages_available(r->kv), p = r->shape->page_tokens;
    int got = kv_seq_fork(r->kv, s->seq, &seq);
    REQUIRE(got == (!f ? ERR_LIMIT : s->n % p && !available ? ERR_NOSPACE : 0));
    if (got != 0) {
        REQUIRE(seq == NULL);
        return;
    }
    f->seq = seq;
    f->salt = s->salt;
    memcpy(f->ends, s->ends, sizeof(f->ends));
    f->n = s->n;
    f->reserved = kv_pages_for(r->kv, s->n) * p;
    memcpy(f->tokens, s->tokens, s->n * sizeof(*s->tokens));
    memcpy(f->tags, s->tags, s->n * sizeof(*s->tags));
    check_seq(r, f);
    check_seq(r, s);
}

static void op_free(struct run *r)
{
    struct naive *s = any_alive(r);
    if (!s)
        return;
    check_seq(r, s);
    kv_seq_free(r->kv, &s->seq);
    REQUIRE(s->seq == NULL);
}

static bool in_pins(const struct run *r, uint32_t n_pins, uint32_t page, uint64_t tag)
{
    for (uint32_t i = 0; i < n_pins; i++)
        if (page < r->pins[i].n_pages && r->pins[i].tags[page] == tag)
            return true;
    return false;
}

/* Pages that pins keep; idle: those that no sequence holds. */
static uint32_t pinned_pages(const struct run *r, bool idle)
{
    uint32_t p = r->shape->page_tokens, n = 0;
    for (uint32_t i = 0; i < r->n_pins; i++)
        for (uint32_t j = 0; j < r->pins[i].n_pages; j++) {
            uint64_t tag = r->pins[i].tags[j];
            bool counts = !in_pins(r, i, j, tag);
            for (int k = 0; idle && counts && k < MAX_SEQS; k++)
                counts = !r->s[k].seq || r->s[k].n < (j + 1) * p || r->s[k].tags[(j + 1) * p - 1] != tag;
            n += counts;
        }
    return n;
}

static void op_pin(struct run *r)
{
    struct naive *s = any_alive(r), *q = &r->wanted;
    uint32_t p = r->shape->page_tokens, more = 0, same = MAX_PINS, tokens = 77;
    struct err e = {0};
    uint64_t id = 77;
    if (!s || r->n_pins == MAX_PINS)
        return;
    want(r, s, p);
    uint32_t n = below(r, 2) ? q->n : below(r, q->n + 1);
    uint32_t n_pages = kv_probe(r->kv, s->salt, s->ends, q->tokens, n) / p;
    for (uint32_t j = 0; j < n_pages; j++)
        more += !in_pins(r, r->n_pins, j, q->tags[(j + 1) * p - 1]);
    for (uint32_t i = 0; i < r->n_pins && n_pages > 0; i++)
        if (r->pins[i].n_pages == n_pages && r->pins[i].tags[n_pages - 1] == q->tags[n_pages * p - 1])
            same = i;
    int got = kv_pin(r->kv, s->salt, s->ends, q->tokens, n, &id, &tokens, &e);
    REQUIRE(got == (n_pages == 0                                                      ? ERR_NOTFOUND
                    : pinned_pages(r, false) + more > kv_max_pinned(r->kv) ? ERR_LIMIT
                                                                                      : 0));
    r->no_pins += got == ERR_LIMIT;
    if (got != 0) {
        REQUIRE(id == 77 && tokens == 77 && e.code == got && e.text[0]);
        return;
    }
    REQUIRE(tokens == n_pages * p && id != 0);
    if (same < MAX_PINS) {
        REQUIRE(id == r->pins[same].id);
        return;
    }
    struct naive_pin *pin = &r->pins[r->n_pins++];
    *pin = (struct naive_pin){.id = id, .n_pages = n_pages};
    for (uint32_t j = 0; j < n_pages; j++)
        pin->tags[j] = q->tags[(j + 1) * p - 1];
    r->pinned++;
}

static void op_unpin(struct run *r)
{
    struct err e = {0};
    if (below(r, 4)) /* pins stay for a while */
        return;
    if (r->n_pins == 0) {
        REQUIRE(kv_unpin(r->kv, below(r, 3), NULL, &e) == ERR_NOTFOUND && e.text[0]);
        return;
    }
    uint32_t i = below(r, r->n_pins);
    REQUIRE(kv_unpin(r->kv, r->pins[i].id, NULL, &e) == 0);
    REQUIRE(kv_unpin(r->kv, r->pins[i].id, NULL, &e) == ERR_NOTFOUND);
    memmove(&r->pins[i], &r->pins[i + 1], (--r->n_pins - i) * sizeof(r->pins[0]));
}

static void op_drop(struct run *r)
{
    struct kv_stats before, after;
    kv_stats_read(r->kv, &before);
    uint32_t n = kv_drop_cached(r->kv);
    kv_stats_read(r->kv, &after);
    REQUIRE(n == (r->in_step ? 0 : before.pages_cached - pinned_pages(r, true)));
    REQUIRE(after.pages_held == before.pages_held && after.pages_pinned == before.pages_pinned);
    REQUIRE(after.pages_free == before.pages_free + n);
    r->dropped += n;
}

static void op_step(struct run *r)
{
    if (r->in_step)
        kv_step_end(r->kv);
    else
        kv_step_begin(r->kv);
    memset(r->held_in_step, 0, sizeof(r->held_in_step));
    r->in_step = !r->in_step;
}

/* What one sequence keeps alone, and that with all before it. */
static void check_keep(struct run *r, const uint32_t *uses, const uint64_t *tags, int upto)
{
    for (int from = upto; from >= 0; from -= upto ? upto : 1) {
        struct kv_seq *seqs[MAX_SEQS];
        uint32_t of[MAX_PAGES] = {0}, at[MAX_PAGES], n = 0, n_pages, keep = 0;
        for (int i = from; i <= upto; i++) {
            if (!r->s[i].seq)
                continue;
            unsigned char *const *pages = kv_seq_pages(r->s[i].seq, &n_pages);
            seqs[n++] = r->s[i].seq;
            for (uint32_t j = 0; j < n_pages; j++) {
                uint32_t id = index_of(r, pages[j]);
                of[id]++;
                at[id] = j;
            }
        }
        for (uint32_t i = 0; i < r->shape->n_pages; i++)
            keep += of[i] > 0 && of[i] == uses[i] && !(tags[i] && in_pins(r, r->n_pins, at[i], tags[i]));
        REQUIRE(kv_seqs_keep(r->kv, seqs, n) == keep);
    }
}

/* All that can be counted from outside, at every operation. */
static void check_all(struct run *r)
{
    struct kv_stats st;
    struct kv_pinned pins[MAX_PINS];
    uint32_t p = r->shape->page_tokens, uses[MAX_PAGES] = {0}, held = 0, shared = 0;
    uint64_t tags[MAX_PAGES] = {0}; /* of the last row of full pages, 0 for open ones */
    kv_check(r->kv);
    kv_stats_read(r->kv, &st);
    for (int i = 0; i < MAX_SEQS; i++) {
        struct naive *s = &r->s[i];
        uint32_t n_pages;
        if (!s->seq)
            continue;
        unsigned char *const *pages = kv_seq_pages(s->seq, &n_pages);
        for (uint32_t j = 0; j < n_pages; j++) {
            uint32_t at = index_of(r, pages[j]);
            uint64_t tag = (j + 1) * p <= s->n ? s->tags[(j + 1) * p - 1] : 0;
            REQUIRE(uses[at] == 0 || (tag != 0 && tags[at] == tag)); /* an open page is of one sequence */
            tags[at] = tag;
            uses[at]++;
            r->held_in_step[at] |= r->in_step;
        }
    }
    for (uint32_t i = 0; i < r->shape->n_pages; i++) {
        held += uses[i] > 0;
        shared += uses[i] > 1;
        for (uint32_t j = 0; j < i && tags[i]; j++)
            REQUIRE(tags[i] != tags[j]); /* equal pages are stored once */
    }
    for (int i = 0; i < MAX_SEQS && r->ops % 8 == 0; i++)
        check_keep(r, uses, tags, i);
    REQUIRE(st.pages_held == held && st.pages_shared == shared);
    REQUIRE(st.pages_held + st.pages_cached + st.pages_free <= st.n_pages);
    REQUIRE(r->in_step || st.pages_held + st.pages_cached + st.pages_free == st.n_pages);
    REQUIRE(st.pages_pinned == pinned_pages(r, false));
    REQUIRE(kv_pages_available(r->kv) ==
            st.pages_free + (r->in_step ? 0 : st.pages_cached - pinned_pages(r, true)));
    REQUIRE(st.copied_tokens <= st.hits_tokens && st.hits_tokens <= st.queries_tokens);
    REQUIRE(kv_pins(r->kv, NULL, pins, MAX_PINS) == r->n_pins);
    for (uint32_t i = 0; i < r->n_pins; i++)
        REQUIRE(pins[i].id == r->pins[i].id && pins[i].n_tokens == r->pins[i].n_pages * p);
}

static void open_cache(struct run *r)
{
    struct err e = {0};
    struct kv_seq *first = NULL;
    struct kv_config c = {.page_tokens = r->shape->page_tokens, .n_planes = r->shape->n_planes,
                          .planes = r->shape->planes, .pool_bytes = (uint64_t)64 << 20,
                          .max_seqs = MAX_SEQS, .max_seq_tokens = MAX_TOKENS,
                          .pinned_percent = PINNED_PERCENT};
    /* opened twice: once to learn the size of a page */
    ck_assert_msg(kv_open(&c, &r->kv, &e) == 0, "%s", e.text);
    c.pool_bytes = kv_page_bytes(r->kv) * r->shape->n_pages;
    kv_close(&r->kv);
    ck_assert_msg(kv_open(&c, &r->kv, &e) == 0, "%s", e.text);
    ck_assert_uint_eq(kv_n_pages(r->kv), r->shape->n_pages);
    ck_assert_int_eq(kv_seq_new(r->kv, 0, &first), 0);
    ck_assert_int_eq(kv_seq_reserve(r->kv, first, 1), 0);
    r->pool = kv_seq_pages(first, NULL)[0]; /* low addresses are handed out first */
    kv_seq_free(r->kv, &first);
}

static void close_cache(struct run *r)
{
    struct kv_stats st;
    for (int i = 0; i < MAX_SEQS; i++)
        kv_seq_free(r->kv, &r->s[i].seq);
    if (r->in_step)
        op_step(r);
    check_all(r);
    while (r->n_pins > 0)
        op_unpin(r);
    op_drop(r);
    check_all(r);
    kv_stats_read(r->kv, &st);
    ck_assert_uint_eq(st.pages_free, r->shape->n_pages);
    printf("# pages of %u: %llu operations, %llu tokens committed, %llu hit of which %llu copied, "
           "%llu evictions, %llu pins, %llu too many, %llu times out of pages\n",
           r->shape->page_tokens, (unsigned long long)r->ops, (unsigned long long)r->committed,
           (unsigned long long)st.hits_tokens, (unsigned long long)st.copied_tokens,
           (unsigned long long)st.evictions, (unsigned long long)r->pinned, (unsigned long long)r->no_pins,
           (unsigned long long)r->no_space);
    fflush(stdout);
    if (n_ops < DEFAULT_OPS) {
        kv_close(&r->kv);
        return;
    }
    /* a run that never came to the interesting places proves nothing */
    ck_assert_uint_gt(st.hits_tokens, st.copied_tokens);
    ck_assert_uint_gt(st.evictions, 0);
    ck_assert_uint_gt(r->no_space, 0);
    ck_assert_uint_gt(r->pinned, 0);
    ck_assert_uint_gt(r->no_pins, 0);
    ck_assert_uint_gt(r->dropped, 0);
    if (r->shape->unit < r->shape->page_tokens)
        ck_assert_uint_gt(st.copied_tokens, 0);
    kv_close(&r->kv);
}

START_TEST(test_against_model)
{
    static void (*const ops[])(struct run *) = {
        op_new, op_new, op_new, op_match, op_match, op_match, op_reserve, op_reserve, op_reserve,
        op_reserve, op_commit, op_commit, op_commit, op_commit, op_commit, op_truncate, op_fork,
        op_fork, op_free, op_free, op_free, op_step, op_step, op_step, op_pin, op_unpin,
    };
    struct run *r = calloc(1, sizeof(*r));
    r->shape = &shapes[_i];
    r->rng = (seed + 1) * 0x9e3779b97f4a7c15ull + (uint64_t)_i + 1;
    open_cache(r);
    for (; r->ops < n_ops / N_SHAPES; r->ops++) {
        if (below(r, 400) == 0)
            op_drop(r);
        else
            ops[below(r, sizeof(ops) / sizeof(ops[0]))](r);
        check_all(r);
    }
    close_cache(r);
    free(r);
}
END_TEST

int main(void)
{
    const char *s = getenv("LATENT_TEST_SEED"), *n = getenv("LATENT_MODEL_OPS");
    seed = s ? strtoull(s, NULL, 10) : (unsigned long long)time(NULL);
    n_ops = n ? strtoull(n, NULL, 10) : DEFAULT_OPS;
    printf("# seed %llu (LATENT_TEST_SEED), %llu operations (LATENT_MODEL_OPS)\n", seed, n_ops);
    fflush(stdout);
    Suite *suite = suite_create("kv_model");
    TCase *tc = tcase_create("kv_model");
    tcase_set_timeout(tc, 120 + (double)n_ops / 500);
    tcase_add_loop_test(tc, test_against_model, 0, N_SHAPES);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
