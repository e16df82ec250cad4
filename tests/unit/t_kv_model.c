/* tests/unit/t_kv_model.c - the cache against a naive model: long random runs of every operation.
 * The model keeps the tokens of each sequence and the tag that was written with each row; rows are
 * filled from (token, tag, plane), so a row of another sequence, plane or place shows. It also
 * remembers what each page held at the beginning of a step, to see that pins hold. A run is
 * reproduced by LATENT_TEST_SEED. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "kvcache/kvcache.h"

#define MAX_SEQS 12
#define MAX_TOKENS 4096
#define MAX_PAGES 512
#define N_SALTS 3
#define RUN_SECONDS 1.5

static unsigned long long seed;

struct shape {
    uint32_t page_tokens, n_pages, n_planes;
    uint32_t vocab; /* few tokens: prefixes meet often */
    struct kv_plane planes[4];
};

static const struct shape shapes[] = {
    {8, 24, 1, 2, {{16, 1, 64}}},
    {8, 7, 2, 2, {{5, 1, 1}, {12, 8, 16}}},
    {16, 40, 3, 3, {{96, 1, 64}, {8, 4, 8}, {33, 2, 32}}},
    {64, 12, 4, 2, {{16, 1, 64}, {16, 1, 64}, {4, 64, 4}, {2, 1, 4096}}},
    {1024, 5, 1, 2, {{4, 1, 4}}},
};
#define N_SHAPES ((int)(sizeof(shapes) / sizeof(shapes[0])))

struct naive {
    struct kv_seq *seq; /* NULL: not alive */
    uint64_t salt;
    uint32_t ends[KV_WAYS]; /* rows from the beginning that are made in each way */
    uint32_t n, reserved; /* tokens; tokens that have a page */
    int32_t tokens[MAX_TOKENS];
};

struct run {
    const struct shape *shape;
    struct kv *kv;
    struct naive s[MAX_SEQS];
    uint64_t rng, ops, counts[10];
    bool in_step;
    unsigned char *pinned[MAX_PAGES]; /* pages held at some moment of the step */
    int n_pinned;
};

static uint32_t below(struct run *r, uint32_t n)
{
    r->rng ^= r->rng << 13;
    r->rng ^= r->rng >> 7;
    r->rng ^= r->rng << 17;
    return (uint32_t)((r->rng * 0x2545f4914f6cdd1dull) >> 32) % n;
}

/* Not ck_assert: that reports each passed check to the parent process. */
#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        if (!(cond))                                                                               \
            ck_abort_msg("%s after %llu operations, seed %llu", #cond, (unsigned long long)r->ops, \
                         seed);                                                                    \
    } while (0)

/* Row content follows from everything that determines it in a real model: the tokens up to and with
 * the row's last one, how many of them are in each way, and the salt. Equal prefixes have equal rows, whoever
 * wrote them. */
static uint64_t prefix_tag(const struct naive *s, uint32_t at)
{
    uint64_t h = s->salt;
    for (int w = 0; w < KV_WAYS; w++)
        h = h * (MAX_TOKENS + 1) + (at < s->ends[w] ? at + 1 : s->ends[w]);
    h = h * 0x9e3779b97f4a7c15ull + 1;
    uint32_t from = at > 64 ? at - 64 : 0; /* enough to tell rows apart, cheap enough for long ones */
    for (uint32_t i = from; i <= at; i++)
        h = (h ^ (uint64_t)s->tokens[i]) * 0x100000001b3ull;
    return h ^ ((uint64_t)at << 20);
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
    for (uint32_t at = from; at < to; at++) {
        uint64_t tag = prefix_tag(s, at);
        for (uint32_t k = 0; k < r->shape->n_planes; k++) {
            const struct kv_plane *pl = &r->shape->planes[k];
            if ((at + 1) % pl->tokens_per_row)
                continue;
            unsigned char *row = pages[at / p] + kv_plane_offset(r->kv, k) +
                                 (size_t)(at % p / pl->tokens_per_row) * pl->row_bytes;
            for (uint32_t i = 0; i < pl->row_bytes; i++) {
                if (write)
                    row[i] = row_byte(tag, k, i);
                else
                    REQUIRE(row[i] == row_byte(tag, k, i));
            }
        }
    }
}

static void pin(struct run *r, const struct naive *s)
{
    uint32_t n;
    unsigned char *const *pages = kv_seq_pages(s->seq, &n);
    for (uint32_t i = 0; i < n; i++) {
        bool known = false;
        for (int j = 0; j < r->n_pinned && !known; j++)
            known = r->pinned[j] == pages[i];
        if (!known) {
            REQUIRE(r->n_pinned < MAX_PAGES);
            r->pinned[r->n_pinned++] = pages[i];
        }
    }
}

static void check_seq(struct run *r, struct naive *s, bool rows)
{
    uint32_t n_pages;
    kv_seq_pages(s->seq, &n_pages);
    REQUIRE(kv_seq_length(s->seq) == s->n);
    REQUIRE(n_pages == kv_pages_for(r->kv, s->reserved));
    if (rows)
        each_row(r, s, 0, s->n, false);
}

static uint32_t rows_in(uint32_t end, uint32_t from, uint32_t p)
{
    return end < from ? 0 : end - from > p ? p : end - from;
}

/* Do the pages at `from` of both have the same numbers of rows in each way? */
static bool same_ways(const struct naive *a, const struct naive *b, uint32_t from, uint32_t p)
{
    for (int w = 0; w < KV_WAYS; w++)
        if (rows_in(a->ends[w], from, p) != rows_in(b->ends[w], from, p))
            return false;
    return true;
}

/* The longest sealed prefix that a living sequence guarantees; what is cached may only add to it. */
static uint32_t held_prefix(struct run *r, const struct naive *as, const int32_t *t, uint32_t n)
{
    uint32_t best = 0, p = r->shape->page_tokens;
    for (int i = 0; i < MAX_SEQS; i++) {
        const struct naive *s = &r->s[i];
        if (!s->seq || s->salt != as->salt)
            continue;
        uint32_t k = 0;
        while (k + p <= n && k + p <= s->n && !memcmp(s->tokens + k, t + k, p * sizeof(*t)) &&
               same_ways(s, as, k, p))
            k += p;
        best = k > best ? k : best;
    }
    return best;
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
    uint64_t salt = below(r, N_SALTS);
    int got = kv_seq_new(r->kv, salt, &seq);
    REQUIRE(got == (s ? 0 : ERR_LIMIT));
    if (!s)
        return;
    s->seq = seq;
    s->salt = salt;
    s->n = s->reserved = 0;
    for (int w = 0; w < KV_WAYS; w++) {
        s->ends[w] = below(r, 2) ? 0 : below(r, 4) * r->shape->page_tokens;
        if (s->ends[w] && below(r, 2)) /* or an end inside a page, of few so that some are equal */
            s->ends[w] -= 1 + below(r, 2);
    }
    kv_seq_set_ways(r->kv, seq, s->ends);
}

/* Tokens like those of another sequence for a while, then random. */
static uint32_t likely_tokens(struct run *r, const struct naive *s, int32_t *t, uint32_t max)
{
    const struct naive *o = any_alive(r);
    uint32_t n = s->n + below(r, max), same = o ? below(r, o->n + 1) : 0;
    n = n > MAX_TOKENS ? MAX_TOKENS : n;
    memcpy(t, s->tokens, s->n * sizeof(*t));
    for (uint32_t i = s->n; i < n; i++)
        t[i] = o && i < same ? o->tokens[i] : (int32_t)below(r, r->shape->vocab);
    return n;
}

static void op_match(struct run *r)
{
    static int32_t t[MAX_TOKENS];
    struct naive *s = any_alive(r);
    uint32_t p = r->shape->page_tokens;
    if (!s)
        return;
    uint32_t n = likely_tokens(r, s, t, 6 * p), limit = n + below(r, 3) - (n > 0);
    uint32_t had = s->n, most = limit < n ? limit : n, probe = kv_probe(r->kv, s->salt, s->ends, t, n);
    uint32_t least = held_prefix(r, s, t, most);
    uint32_t got = kv_seq_match(r->kv, s->seq, t, n, limit);
    REQUIRE(probe >= held_prefix(r, s, t, n) && probe <= n && probe % p == 0);
    if (had % p || most <= had) {
        REQUIRE(got == had);
        return;
    }
    REQUIRE(got >= had && got <= most && got % p == 0);
    REQUIRE(got >= least);
    REQUIRE(got == (probe < most - most % p ? probe : most - most % p));
    memcpy(s->tokens, t, got * sizeof(*t));
    s->n = s->reserved = got; /* a reservation is given back */
    check_seq(r, s, true);
}

static void op_reserve(struct run *r)
{
    struct naive *s = any_alive(r);
    uint32_t p = r->shape->page_tokens, free_pages = kv_pages_available(r->kv);
    if (!s)
        return;
    uint32_t n = below(r, below(r, 6) ? 3 * p : MAX_TOKENS + 100);
    uint32_t want = kv_pages_for(r->kv, s->n + n), have = kv_pages_for(r->kv, s->reserved);
    uint32_t before = have;
    int got = kv_seq_reserve(r->kv, s->seq, n);
    int expected = s->n + n > MAX_TOKENS                       ? ERR_LIMIT
                   : want > have && want - have > free_pages ? ERR_NOSPACE
                                                               : 0;
    REQUIRE(got == expected);
    r->counts[0] += got == ERR_NOSPACE;
    if (got == 0 && want > have)
        s->reserved = want * p;
    if (got == 0 && r->in_step) {
        uint32_t n_pages;
        unsigned char *const *pages = kv_seq_pages(s->seq, &n_pages);
        for (uint32_t i = before; i < n_pages; i++)
            for (int j = 0; j < r->n_pinned; j++)
                REQUIRE(pages[i] != r->pinned[j]);
    }
    check_seq(r, s, got != 0);
}

static void op_commit(struct run *r)
{
    struct naive *s = any_alive(r);
    if (!s || s->reserved == s->n)
        return;
    uint32_t n = 1 + below(r, s->reserved - s->n);
    if (below(r, 2)) { /* the likely continuation, so that equal pages meet */
        static int32_t t[MAX_TOKENS];
        uint32_t m = likely_tokens(r, s, t, n + 1);
        memcpy(s->tokens + s->n, t + s->n, (m - s->n) * sizeof(*t));
        n = m - s->n;
    } else {
        for (uint32_t i = 0; i < n; i++)
            s->tokens[s->n + i] = (int32_t)below(r, r->shape->vocab);
    }
    each_row(r, s, s->n, s->n + n, true);
    kv_seq_commit(r->kv, s->seq, s->tokens + s->n, n);
    s->n += n;
    r->counts[1] += n;
    check_seq(r, s, true);
}

static void op_truncate(struct run *r)
{
    struct naive *s = any_alive(r);
    if (!s)
        return;
    uint32_t n = below(r, 8) ? below(r, s->n + 2) : s->n - s->n % r->shape->page_tokens;
    uint32_t available = kv_pages_available(r->kv);
    int got = kv_seq_truncate(r->kv, s->seq, n);
    if (n < s->n) {
        REQUIRE(got == 0 || (got == ERR_NOSPACE && available == 0));
        if (got == 0) {
            s->n = n;
            s->reserved = kv_pages_for(r->kv, n) * r->shape->page_tokens;
        }
    } else {
        REQUIRE(got == 0);
    }
    check_seq(r, s, true);
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
    check_seq(r, f, true);
    check_seq(r, s, false);
}

static void op_free(struct run *r)
{
    struct naive *s = any_alive(r);
    if (!s)
        return;
    check_seq(r, s, true);
    kv_seq_free(r->kv, &s->seq);
    REQUIRE(s->seq == NULL);
}

static void op_drop(struct run *r)
{
    struct kv_stats before, after;
    kv_stats_read(r->kv, &before);
    uint32_t n = kv_drop_cached(r->kv);
    kv_stats_read(r->kv, &after);
    REQUIRE(n == (r->in_step ? 0 : before.pages_cached));
    REQUIRE(after.pages_held == before.pages_held);
    REQUIRE(after.pages_free == before.pages_free + n);
}

static void op_step(struct run *r)
{
    if (r->in_step) {
        kv_step_end(r->kv);
        r->n_pinned = 0;
    } else {
        kv_step_begin(r->kv);
    }
    r->in_step = !r->in_step;
}

static void check_stats(struct run *r)
{
    struct kv_stats st;
    unsigned char *all[MAX_PAGES];
    int uses[MAX_PAGES], n = 0, shared = 0;
    kv_check(r->kv);
    kv_stats_read(r->kv, &st);
    for (int i = 0; i < MAX_SEQS; i++) {
        uint32_t n_pages, own = 0;
        if (!r->s[i].seq)
            continue;
        unsigned char *const *pages = kv_seq_pages(r->s[i].seq, &n_pages);
        for (uint32_t k = 0; k < n_pages; k++) {
            int j = 0;
            while (j < n && all[j] != pages[k])
                j++;
            if (j == n) {
                all[n] = pages[k];
                uses[n++] = 0;
            }
            uses[j]++;
            own++;
        }
        REQUIRE(kv_seq_private_pages(r->kv, r->s[i].seq) <= own);
    }
    for (int j = 0; j < n; j++)
        shared += uses[j] > 1;
    REQUIRE(st.pages_held == (uint64_t)n);
    REQUIRE(st.pages_shared == (uint64_t)shared);
    REQUIRE(st.pages_held + st.pages_cached + st.pages_free <= st.n_pages);
    REQUIRE(r->in_step || st.pages_held + st.pages_cached + st.pages_free == st.n_pages);
    REQUIRE(st.hits_tokens <= st.queries_tokens);
}

START_TEST(test_against_model)
{
    struct run *r = calloc(1, sizeof(*r));
    struct err e = {0};
    static void (*const ops[])(struct run *) = {
        op_new, op_new, op_new, op_match, op_match, op_match, op_reserve, op_reserve, op_reserve,
        op_reserve, op_commit, op_commit, op_commit, op_commit, op_commit, op_truncate, op_fork,
        op_fork, op_free, op_free, op_free, op_step, op_step, op_step,
    };
    const uint32_t n_ops = sizeof(ops) / sizeof(ops[0]);
    r->shape = &shapes[_i];
    r->rng = (seed + 1) * 0x9e3779b97f4a7c15ull + (uint64_t)_i + 1;
    struct kv_config c = {.page_tokens = r->shape->page_tokens, .n_planes = r->shape->n_planes,
                          .planes = r->shape->planes, .pool_bytes = (uint64_t)64 << 20,
                          .max_seqs = MAX_SEQS, .max_seq_tokens = MAX_TOKENS};
    /* opened twice: once to learn the size of a page */
    ck_assert_msg(kv_open(&c, &r->kv, &e) == 0, "%s", e.text);
    c.pool_bytes = kv_page_bytes(r->kv) * r->shape->n_pages;
    kv_close(&r->kv);
    ck_assert_msg(kv_open(&c, &r->kv, &e) == 0, "%s", e.text);
    ck_assert_uint_eq(kv_n_pages(r->kv), r->shape->n_pages);
    int64_t end = clock_now_ns() + (int64_t)(RUN_SECONDS * (double)NS_PER_SEC);
    while (clock_now_ns() < end || r->ops < 4000) {
        for (int i = 0; i < 16; i++, r->ops++) {
            if (below(r, 400) == 0)
                op_drop(r);
            else
                ops[below(r, n_ops)](r);
            if (r->in_step)
                for (int k = 0; k < MAX_SEQS; k++)
                    if (r->s[k].seq)
                        pin(r, &r->s[k]);
            check_stats(r);
        }
    }
    for (int i = 0; i < MAX_SEQS; i++)
        kv_seq_free(r->kv, &r->s[i].seq);
    if (r->in_step)
        op_step(r);
    check_stats(r);
    struct kv_stats st;
    kv_stats_read(r->kv, &st);
    ck_assert_uint_eq(st.pages_held, 0);
    kv_drop_cached(r->kv);
    kv_check(r->kv);
    kv_stats_read(r->kv, &st);
    ck_assert_uint_eq(st.pages_free, r->shape->n_pages);
    printf("# pages of %u: %llu operations, %llu tokens committed, %llu hit, %llu evictions, "
           "%llu times out of pages\n",
           r->shape->page_tokens, (unsigned long long)r->ops, (unsigned long long)r->counts[1],
           (unsigned long long)st.hits_tokens, (unsigned long long)st.evictions,
           (unsigned long long)r->counts[0]);
    fflush(stdout);
    /* a run that never came to the interesting places proves nothing */
    ck_assert_uint_gt(st.hits_tokens, 0);
    ck_assert_uint_gt(st.evictions, 0);
    ck_assert_uint_gt(r->counts[0], 0);
    kv_close(&r->kv);
    free(r);
}
END_TEST

int main(void)
{
    const char *s = getenv("LATENT_TEST_SEED");
    seed = s ? strtoull(s, NULL, 10) : (unsigned long long)time(NULL);
    printf("# seed %llu (LATENT_TEST_SEED)\n", seed);
    fflush(stdout);
    Suite *suite = suite_create("kv_model");
    TCase *tc = tcase_create("kv_model");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, test_against_model, 0, N_SHAPES);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
