/* tests/unit/t_kvcache.c - each function of the cache and each of its errors, by hand-written cases.
 * t_kv_model.c does the same at random against a model. */
#include "config.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "kvcache/kvcache.h"

#define P 8 /* tokens of a page */

static const struct kv_plane one_plane = {.row_bytes = 16, .tokens_per_row = 1, .align = 64};

static struct kv *cache(uint32_t n_pages, uint32_t max_seqs)
{
    struct err e = {0};
    struct kv *kv = NULL;
    struct kv_config c = {.page_tokens = P, .n_planes = 1, .planes = &one_plane,
                          .pool_bytes = (uint64_t)n_pages * P * 16, .max_seqs = max_seqs,
                          .max_seq_tokens = 1000, .pinned_percent = 25};
    ck_assert_msg(kv_open(&c, &kv, &e) == 0, "%s", e.text);
    ck_assert_uint_eq(kv_n_pages(kv), n_pages);
    return kv;
}

static struct kv_stats stats(const struct kv *kv)
{
    struct kv_stats s;
    kv_check(kv);
    kv_stats_read(kv, &s);
    return s;
}

static struct kv_seq *new_seq(struct kv *kv, uint64_t salt)
{
    struct kv_seq *s = NULL;
    ck_assert_int_eq(kv_seq_new(kv, salt, &s), 0);
    ck_assert_uint_eq(kv_seq_length(s), 0);
    return s;
}

/* Tokens first, first + 1, ...; the byte of each row is its token. */
static void append(struct kv *kv, struct kv_seq *s, int32_t first, uint32_t n)
{
    int32_t t[1000];
    uint32_t at = kv_seq_length(s);
    ck_assert_int_eq(kv_seq_reserve(kv, s, n), 0);
    unsigned char *const *pages = kv_seq_pages(s, NULL);
    for (uint32_t i = 0; i < n; i++) {
        t[i] = first + (int32_t)i;
        memset(pages[(at + i) / P] + (at + i) % P * 16, t[i], 16);
    }
    kv_seq_commit(kv, s, t, n);
    ck_assert_uint_eq(kv_seq_length(s), at + n);
    kv_check(kv);
}

static void tokens_from(int32_t *t, int32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        t[i] = first + (int32_t)i;
}

static unsigned char row_byte(const struct kv_seq *s, uint32_t at)
{
    return kv_seq_pages(s, NULL)[at / P][at % P * 16];
}

START_TEST(test_config_errors)
{
    struct kv_plane pl = one_plane;
    struct kv_config good = {.page_tokens = P, .n_planes = 1, .planes = &pl, .pool_bytes = 4096,
                             .max_seqs = 1, .max_seq_tokens = 1};
    struct kv *kv = NULL;
#define BAD(field, value, names)                                                                   \
    do {                                                                                           \
        struct kv_config c = good;                                                                 \
        struct err e = {0};                                                                        \
        c.field = value;                                                                           \
        ck_assert_int_eq(kv_open(&c, &kv, &e), ERR_INVAL);                                         \
        ck_assert_ptr_null(kv);                                                                    \
        ck_assert_str_eq(e.param, names);                                                          \
        ck_assert_int_eq(kv_open(&c, &kv, NULL), ERR_INVAL);                                       \
    } while (0)
#define BAD_PLANE(field, value, names)                                                             \
    do {                                                                                           \
        struct err e = {0};                                                                        \
        pl.field = value;                                                                          \
        ck_assert_int_eq(kv_open(&good, &kv, &e), ERR_INVAL);                                      \
        ck_assert_ptr_null(kv);                                                                    \
        ck_assert_str_eq(e.param, names);                                                          \
        pl = one_plane;                                                                            \
    } while (0)
    BAD(page_tokens, 0, "page_tokens");
    BAD(page_tokens, 7, "page_tokens");
    BAD(page_tokens, 1025, "page_tokens");
    BAD(n_planes, 0, "n_planes");
    BAD(n_planes, UINT32_MAX, "n_planes");
    BAD(max_seqs, 0, "max_seqs");
    BAD(max_seq_tokens, 0, "max_seqs");
    BAD(pool_bytes, 0, "cache_size");
    BAD(pool_bytes, P * 16 - 1, "cache_size");
    BAD_PLANE(row_bytes, 0, "row_bytes");
    BAD_PLANE(row_bytes, UINT32_MAX, "row_bytes");
    BAD_PLANE(tokens_per_row, 0, "tokens_per_row");
    BAD_PLANE(tokens_per_row, 3, "tokens_per_row");
    BAD_PLANE(tokens_per_row, 16, "tokens_per_row");
    BAD_PLANE(align, 0, "align");
    BAD_PLANE(align, 3, "align");
    BAD_PLANE(align, 8192, "align");
    ck_assert_int_eq(kv_open(&good, &kv, NULL), 0);
    kv_close(&kv);
    ck_assert_ptr_null(kv);
    kv_close(&kv);
}
END_TEST

/* More memory than there are addresses is an error, not a crash or a small pool. */
START_TEST(test_config_huge)
{
    const uint64_t sizes[] = {UINT64_MAX, UINT64_MAX - (1u << 20), (uint64_t)1 << 63};
    struct kv_plane pl = {.row_bytes = 1u << 24, .tokens_per_row = 1, .align = 1};
    struct kv_plane odd[64];
    struct kv *kv = NULL;
    for (int i = 0; i < 64; i++)
        odd[i] = pl;
    for (int i = 0; i < 3; i++) {
        for (uint32_t n = 1; n <= 64; n += 21) {
            struct kv_config c = {.page_tokens = 1024, .n_planes = n, .planes = odd,
                                  .pool_bytes = sizes[i], .max_seqs = 1, .max_seq_tokens = 1};
            struct err e = {0};
            int r = kv_open(&c, &kv, &e);
            ck_assert_int_eq(r, ERR_NOMEM);
            ck_assert_str_eq(e.param, "cache_size");
            ck_assert_ptr_null(kv);
        }
    }
}
END_TEST

START_TEST(test_layout)
{
    static const struct kv_plane pl[] = {
        {.row_bytes = 3, .tokens_per_row = 1, .align = 1},
        {.row_bytes = 100, .tokens_per_row = 4, .align = 256},
        {.row_bytes = 7, .tokens_per_row = 8, .align = 2},
        {.row_bytes = 64, .tokens_per_row = 1, .align = 4096},
    };
    struct kv_config c = {.page_tokens = P, .n_planes = 4, .planes = pl, .pool_bytes = 100000,
                          .max_seqs = 2, .max_seq_tokens = 1000, .huge_pages = true};
    struct kv *kv = NULL;
    ck_assert_int_eq(kv_open(&c, &kv, NULL), 0);
    ck_assert_uint_eq(kv_page_tokens(kv), P);
    uint64_t end = 0;
    for (uint32_t i = 0; i < 4; i++) {
        uint64_t at = kv_plane_offset(kv, i);
        ck_assert_uint_ge(at, end);
        ck_assert_uint_eq(at % pl[i].align, 0);
        end = at + (uint64_t)pl[i].row_bytes * (P / pl[i].tokens_per_row);
    }
    ck_assert_uint_ge(kv_page_bytes(kv), end);
    ck_assert_uint_eq(kv_page_bytes(kv) % 4096, 0);
    ck_assert_uint_eq(kv_n_pages(kv), 100000 / kv_page_bytes(kv));
    ck_assert_uint_eq(kv_pages_for(kv, 0), 0);
    ck_assert_uint_eq(kv_pages_for(kv, 1), 1);
    ck_assert_uint_eq(kv_pages_for(kv, P), 1);
    ck_assert_uint_eq(kv_pages_for(kv, P + 1), 2);
    ck_assert_uint_eq(kv_pages_for(kv, UINT32_MAX), UINT32_MAX / P + 1);
    struct kv_seq *s = new_seq(kv, 0);
    ck_assert_int_eq(kv_seq_reserve(kv, s, 3 * P), 0);
    uint32_t n = 0;
    unsigned char *const *pages = kv_seq_pages(s, &n);
    ck_assert_uint_eq(n, 3);
    for (uint32_t i = 0; i < n; i++) {
        ck_assert_uint_eq((uintptr_t)pages[i] % 4096, 0);
        memset(pages[i], 0xff, kv_page_bytes(kv));
        for (uint32_t j = 0; j < i; j++)
            ck_assert_ptr_ne(pages[i], pages[j]);
    }
    kv_seq_free(kv, &s);
    kv_close(&kv);
}
END_TEST

START_TEST(test_seq_limits)
{
    struct kv *kv = cache(4, 2);
    struct kv_seq *a = new_seq(kv, 0), *b = new_seq(kv, 0), *c = NULL;
    ck_assert_int_eq(kv_seq_new(kv, 0, &c), ERR_LIMIT);
    ck_assert_int_eq(kv_seq_fork(kv, a, &c), ERR_LIMIT);
    ck_assert_ptr_null(c);
    ck_assert_int_eq(kv_seq_reserve(kv, a, 1001), ERR_LIMIT);
    ck_assert_int_eq(kv_seq_reserve(kv, a, UINT32_MAX), ERR_LIMIT);
    ck_assert_int_eq(kv_seq_reserve(kv, a, 1000), ERR_NOSPACE);
    ck_assert_uint_eq(stats(kv).pages_free, 4);
    append(kv, a, 0, 3 * P);
    ck_assert_int_eq(kv_seq_reserve(kv, a, 1000), ERR_LIMIT);
    ck_assert_int_eq(kv_seq_reserve(kv, a, UINT32_MAX - 3), ERR_LIMIT);
    ck_assert_int_eq(kv_seq_reserve(kv, a, 0), 0);
    ck_assert_int_eq(kv_seq_reserve(kv, b, P + 1), ERR_NOSPACE);
    ck_assert_int_eq(kv_seq_reserve(kv, b, P), 0);
    ck_assert_int_eq(kv_seq_reserve(kv, b, P), 0); /* the same rows again */
    ck_assert_uint_eq(stats(kv).pages_held, 4);
    ck_assert_uint_eq(kv_pages_available(kv), 0);
    kv_seq_free(kv, &b);
    kv_seq_free(kv, &b); /* NULL-safe */
    c = new_seq(kv, 0);  /* its place is free again */
    kv_seq_free(kv, &c);
    kv_seq_free(kv, &a);
    ck_assert_uint_eq(stats(kv).pages_held, 0);
    kv_close(&kv);
}
END_TEST

START_TEST(test_match)
{
    struct kv *kv = cache(32, 8);
    int32_t t[64];
    struct kv_seq *a = new_seq(kv, 1), *b = new_seq(kv, 1), *c = new_seq(kv, 2);
    tokens_from(t, 0, 64);
    append(kv, a, 0, 3 * P + 5);
    ck_assert_uint_eq(kv_probe(kv, 1, NULL, t, 64), 3 * P);
    ck_assert_uint_eq(kv_probe(kv, 1, NULL, t, 2 * P + 7), 2 * P + 7); /* 7 rows to be copied */
    ck_assert_uint_eq(kv_probe(kv, 1, NULL, t, P - 1), P - 1);
    ck_assert_uint_eq(kv_probe(kv, 1, NULL, t + 1, 32), 0);
    ck_assert_uint_eq(kv_probe(kv, 2, NULL, t, 64), 0);
    ck_assert_uint_eq(stats(kv).queries_tokens, 0);
    /* the limit leaves one token to compute */
    ck_assert_uint_eq(kv_seq_match(kv, b, t, 2 * P, 2 * P - 1), 2 * P - 1);
    ck_assert_uint_eq(row_byte(b, 2 * P - 2), 2 * P - 2);
    ck_assert_ptr_ne(kv_seq_pages(a, NULL)[1], kv_seq_pages(b, NULL)[1]);
    ck_assert_uint_eq(kv_seq_match(kv, c, t, 64, 64), 0); /* another tenant */
    ck_assert_uint_eq(stats(kv).hits_tokens, 2 * P - 1);
    ck_assert_uint_eq(stats(kv).copied_tokens, P - 1);
    ck_assert_uint_eq(stats(kv).queries_tokens, 2 * P - 1 + 64);
    ck_assert_uint_eq(stats(kv).pages_shared, 1);
    /* continues, with the page itself instead of the copy; a limit beyond n_tokens means n_tokens */
    ck_assert_uint_eq(kv_seq_match(kv, b, t, 3 * P, 1000), 3 * P);
    ck_assert_uint_eq(kv_seq_match(kv, b, t, 64, 64), 3 * P);
    ck_assert_uint_eq(stats(kv).hits_tokens, 3 * P);
    ck_assert_uint_eq(stats(kv).queries_tokens, 64 + 64); /* each token of a sequence once */
    for (uint32_t i = 0; i < 3 * P; i++)
        ck_assert_uint_eq(row_byte(b, i), i);
    ck_assert_ptr_eq(kv_seq_pages(a, NULL)[2], kv_seq_pages(b, NULL)[2]);
    /* nothing more is known */
    append(kv, b, 24, 3);
    ck_assert_uint_eq(kv_seq_match(kv, b, t, 64, 64), 3 * P + 3);
    /* a reservation does not stand in the way, and a mismatch in the middle ends the match */
    struct kv_seq *d = new_seq(kv, 1);
    const struct kv_stats before = stats(kv);
    ck_assert_int_eq(kv_seq_reserve(kv, d, 10), 0);
    t[P + 3] = 999;
    ck_assert_uint_eq(kv_seq_match(kv, d, t, 64, 64), P + 3);
    ck_assert_uint_eq(kv_seq_match(kv, d, t, 64, 64), P + 3);
    ck_assert_uint_eq(stats(kv).hits_tokens, before.hits_tokens + P + 3);
    ck_assert_uint_eq(stats(kv).copied_tokens, before.copied_tokens + 3);
    kv_seq_free(kv, &d);
    /* counted when the trial is over, and not at all where it ends with the sequence */
    const struct kv_stats all = stats(kv);
    for (int over = 0; over < 2; over++) {
        struct kv_seq *e = new_seq(kv, 1);
        kv_seq_trial(kv, e, true);
        ck_assert_uint_eq(kv_seq_match(kv, e, t, 64, 64), P + 3);
        ck_assert_uint_eq(stats(kv).queries_tokens, all.queries_tokens);
        ck_assert_uint_eq(stats(kv).hits_tokens, all.hits_tokens);
        ck_assert_uint_eq(stats(kv).copied_tokens, all.copied_tokens);
        if (over)
            kv_seq_trial(kv, e, false);
        kv_seq_free(kv, &e);
    }
    ck_assert_uint_eq(stats(kv).queries_tokens, all.queries_tokens + 64);
    ck_assert_uint_eq(stats(kv).hits_tokens, all.hits_tokens + P + 3);
    ck_assert_uint_eq(stats(kv).copied_tokens, all.copied_tokens + 3);
    kv_seq_free(kv, &a);
    kv_seq_free(kv, &b);
    kv_seq_free(kv, &c);
    struct kv_stats s = stats(kv);
    ck_assert_uint_eq(s.pages_held, 0);
    ck_assert_uint_eq(s.pages_cached, 3);
    ck_assert_uint_eq(s.pages_free, 29);
    kv_close(&kv);
}
END_TEST

static uint32_t probe_ways(struct kv *kv, uint32_t way0, uint32_t way1, const int32_t *t, uint32_t n)
{
    return kv_probe(kv, 1, (uint32_t[KV_WAYS]){way0, way1}, t, n);
}

/* Equal tokens are found only where their rows are made in the same ways. */
START_TEST(test_ways)
{
    struct kv *kv = cache(32, 8);
    int32_t t[64];
    struct kv_seq *a = new_seq(kv, 1), *b = new_seq(kv, 1), *c = new_seq(kv, 1), *d = NULL;
    tokens_from(t, 0, 64);
    kv_seq_set_ways(kv, a, (uint32_t[KV_WAYS]){2 * P, 0});
    append(kv, a, 0, 4 * P);
    ck_assert_uint_eq(kv_probe(kv, 1, NULL, t, 4 * P), 0);
    ck_assert_uint_eq(probe_ways(kv, P, 0, t, 4 * P), P);
    ck_assert_uint_eq(probe_ways(kv, 2 * P, 0, t, 4 * P), 4 * P);
    ck_assert_uint_eq(probe_ways(kv, 3 * P, 0, t, 4 * P), 2 * P);
    ck_assert_uint_eq(probe_ways(kv, 0, 2 * P, t, 4 * P), 0);
    ck_assert_uint_eq(probe_ways(kv, 2 * P, 1, t, 4 * P), 0);
    append(kv, b, 0, 2 * P); /* the same tokens beside them */
    ck_assert_uint_eq(stats(kv).pages_held, 6);
    ck_assert_uint_eq(kv_probe(kv, 1, NULL, t, 4 * P), 2 * P);
    kv_seq_set_ways(kv, c, (uint32_t[KV_WAYS]){3 * P, 0});
    ck_assert_uint_eq(kv_seq_match(kv, c, t, 4 * P, 4 * P), 2 * P);
    ck_assert_int_eq(kv_seq_fork(kv, c, &d), 0); /* goes on as c does */
    append(kv, c, 2 * P, P);
    append(kv, d, 2 * P, 2 * P);
    ck_assert_ptr_eq(kv_seq_pages(c, NULL)[2], kv_seq_pages(d, NULL)[2]);
    ck_assert_ptr_ne(kv_seq_pages(a, NULL)[2], kv_seq_pages(d, NULL)[2]);
    ck_assert_uint_eq(probe_ways(kv, 3 * P, 0, t, 4 * P), 4 * P);
    kv_seq_free(kv, &a);
    kv_seq_free(kv, &b);
    kv_seq_free(kv, &c);
    kv_seq_free(kv, &d);
    kv_close(&kv);
}
END_TEST

/* A way that ends inside a page: the page is shared only with those where it ends at the same row. */
START_TEST(test_ways_in_part)
{
    struct kv *kv = cache(32, 8);
    int32_t t[64];
    struct kv_seq *a = new_seq(kv, 1), *b = new_seq(kv, 1), *c = new_seq(kv, 1);
    tokens_from(t, 0, 64);
    kv_seq_set_ways(kv, a, (uint32_t[KV_WAYS]){P + 3, 2 * P - 1});
    append(kv, a, 0, 3 * P);
    ck_assert_uint_eq(probe_ways(kv, P + 3, 2 * P - 1, t, 3 * P), 3 * P);
    /* up to where one has left the way and the other not, its rows can be copied */
    ck_assert_uint_eq(probe_ways(kv, P, 2 * P - 1, t, 3 * P), P);
    ck_assert_uint_eq(probe_ways(kv, P + 4, 2 * P - 1, t, 3 * P), P + 3);
    ck_assert_uint_eq(probe_ways(kv, P + 3, 2 * P, t, 3 * P), 2 * P - 1);
    ck_assert_uint_eq(probe_ways(kv, 2 * P - 1, P + 3, t, 3 * P), P + 3);
    ck_assert_uint_eq(probe_ways(kv, P - 1, 2 * P - 1, t, 3 * P), P - 1);
    kv_seq_set_ways(kv, b, (uint32_t[KV_WAYS]){P + 3, 2 * P - 2});
    append(kv, b, 0, 3 * P);
    kv_seq_set_ways(kv, c, (uint32_t[KV_WAYS]){P + 3, 2 * P - 1});
    append(kv, c, 0, 3 * P);
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_ptr_eq(kv_seq_pages(c, NULL)[i], kv_seq_pages(a, NULL)[i]);
    ck_assert_ptr_eq(kv_seq_pages(b, NULL)[0], kv_seq_pages(a, NULL)[0]);
    ck_assert_ptr_ne(kv_seq_pages(b, NULL)[1], kv_seq_pages(a, NULL)[1]);
    ck_assert_ptr_ne(kv_seq_pages(b, NULL)[2], kv_seq_pages(a, NULL)[2]);
    kv_seq_free(kv, &a);
    kv_seq_free(kv, &b);
    kv_seq_free(kv, &c);
    kv_close(&kv);
}
END_TEST

/* Equal text in another place of the prompt is not the same page. */
START_TEST(test_position_counts)
{
    struct kv *kv = cache(16, 4);
    int32_t t[2 * P];
    struct kv_seq *a = new_seq(kv, 0), *b = new_seq(kv, 0);
    append(kv, a, 0, P);
    append(kv, a, 0, P);
    append(kv, b, 50, P);
    append(kv, b, 0, P);
    ck_assert_ptr_ne(kv_seq_pages(a, NULL)[0], kv_seq_pages(a, NULL)[1]);
    ck_assert_ptr_ne(kv_seq_pages(a, NULL)[1], kv_seq_pages(b, NULL)[1]);
    tokens_from(t, 0, P);
    tokens_from(t + P, 0, P);
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, t, 2 * P), 2 * P);
    tokens_from(t + P, 50, P);
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, t, 2 * P), P);
    kv_seq_free(kv, &a);
    kv_seq_free(kv, &b);
    kv_close(&kv);
}
END_TEST

/* Of the pages that begin as the prompt goes on, the one that goes on longest is copied. */
START_TEST(test_tail_copy)
{
    struct kv *kv = cache(8, 8);
    int32_t t[64];
    struct kv_seq *a = new_seq(kv, 0), *b = new_seq(kv, 0), *c = new_seq(kv, 0), *d = new_seq(kv, 0);
    tokens_from(t, 0, 64);
    append(kv, a, 0, 2 * P);
    append(kv, b, 0, P + 3); /* shares three of a's second page, and one more later */
    append(kv, b, 70, 5);
    append(kv, c, 0, P + 5);
    append(kv, c, 80, 3);
    ck_assert_uint_eq(stats(kv).pages_held, 4);
    t[P + 5] = 80;
    t[P + 6] = 99;
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, t, 64), P + 6);
    ck_assert_uint_eq(kv_seq_match(kv, d, t, 64, P + 2), P + 2); /* the limit counts */
    ck_assert_uint_eq(kv_seq_match(kv, d, t, 64, 63), P + 6);    /* and the copy goes on */
    ck_assert_uint_eq(stats(kv).copied_tokens, 6);
    ck_assert_uint_eq(kv_seqs_keep(kv, &d, 1), 1);
    for (uint32_t i = 0; i < P + 5; i++)
        ck_assert_uint_eq(row_byte(d, i), i);
    ck_assert_uint_eq(row_byte(d, P + 5), 80);
    append(kv, d, 99, 2);
    ck_assert_uint_eq(row_byte(c, P + 6), 81); /* the page that was copied from did not change */
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, t, 2 * P - 1), P + 7);
    /* without a page for it nothing is copied, nor promised */
    struct kv_seq *e = new_seq(kv, 0), *f = new_seq(kv, 0);
    ck_assert_int_eq(kv_seq_reserve(kv, e, 3 * P), 0);
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, t, P + 2), P);
    ck_assert_uint_eq(kv_seq_match(kv, f, t, P + 2, P + 2), P);
    /* the page to be had is not the one that is copied from: the only cached one stays */
    kv_seq_free(kv, &b);
    tokens_from(t + P + 3, 70, 4);
    ck_assert_uint_eq(kv_pages_available(kv), 1);
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, t, P + 5), P);
    ck_assert_uint_eq(kv_seq_match(kv, f, t, P + 5, P + 5), P);
    ck_assert_uint_eq(stats(kv).evictions, 0);
    kv_seq_free(kv, &a);
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, t, P + 5), P + 5);
    ck_assert_uint_eq(kv_seq_match(kv, f, t, P + 5, P + 5), P + 5);
    ck_assert_uint_eq(stats(kv).evictions, 1);
    ck_assert_uint_eq(row_byte(f, P + 4), 71);
    kv_seq_free(kv, &c);
    kv_seq_free(kv, &d);
    kv_seq_free(kv, &e);
    kv_seq_free(kv, &f);
    kv_close(&kv);
}
END_TEST

/* Rows that stand for several tokens are copied whole only. */
START_TEST(test_tail_of_wide_rows)
{
    const struct kv_plane planes[] = {{16, 1, 16}, {16, 4, 16}};
    struct kv_config c = {.page_tokens = P, .n_planes = 2, .planes = planes, .pool_bytes = 1 << 16,
                          .max_seqs = 2, .max_seq_tokens = 100};
    struct err e = {0};
    struct kv *kv = NULL;
    int32_t t[P];
    ck_assert_msg(kv_open(&c, &kv, &e) == 0, "%s", e.text);
    struct kv_seq *a = new_seq(kv, 0), *b = new_seq(kv, 0);
    tokens_from(t, 0, P);
    ck_assert_int_eq(kv_seq_reserve(kv, a, P), 0);
    memset(kv_seq_pages(a, NULL)[0] + kv_plane_offset(kv, 1), 7, 2 * 16);
    kv_seq_commit(kv, a, t, P);
    ck_assert_uint_eq(kv_seq_match(kv, b, t, P, 3), 0);
    ck_assert_uint_eq(kv_seq_match(kv, b, t, P, P - 1), 4);
    unsigned char *wide = kv_seq_pages(b, NULL)[0] + kv_plane_offset(kv, 1);
    ck_assert_uint_eq(wide[0], 7);
    ck_assert_uint_eq(wide[15], 7);
    ck_assert_uint_eq(wide[16], 0);
    kv_seq_free(kv, &a);
    kv_seq_free(kv, &b);
    kv_close(&kv);
}
END_TEST

/* Two kinds of such rows: what is cut or copied ends where rows of both do. */
START_TEST(test_tail_of_two_strides)
{
    enum { PAGE = 24 };
    const struct kv_plane planes[] = {{16, 4, 16}, {16, 6, 16}};
    struct kv_config c = {.page_tokens = PAGE, .n_planes = 2, .planes = planes, .pool_bytes = 1 << 16,
                          .max_seqs = 3, .max_seq_tokens = 200};
    struct err e = {0};
    struct kv *kv = NULL;
    int32_t t[3 * PAGE];
    ck_assert_msg(kv_open(&c, &kv, &e) == 0, "%s", e.text);
    ck_assert_uint_eq(kv_pages_for(kv, PAGE + 1), 2);
    struct kv_seq *a = new_seq(kv, 0), *b = new_seq(kv, 0), *f = NULL;
    tokens_from(t, 0, 3 * PAGE);
    ck_assert_int_eq(kv_seq_reserve(kv, a, 2 * PAGE + 23), 0);
    unsigned char *page = kv_seq_pages(a, NULL)[1];
    memset(page + kv_plane_offset(kv, 0), 7, PAGE / 4 * 16);
    memset(page + kv_plane_offset(kv, 1), 9, PAGE / 6 * 16);
    kv_seq_commit(kv, a, t, 2 * PAGE + 23);
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, t, PAGE + 23), PAGE + 12);
    ck_assert_uint_eq(kv_seq_match(kv, b, t, 3 * PAGE, PAGE + 11), PAGE);
    ck_assert_uint_eq(kv_seq_match(kv, b, t, 3 * PAGE, PAGE + 23), PAGE + 12);
    page = kv_seq_pages(b, NULL)[1];
    for (uint32_t i = 0; i < 2; i++) { /* 12 tokens: 3 rows of one, 2 of the other */
        const unsigned char *plane = page + kv_plane_offset(kv, i);
        ck_assert_uint_eq(plane[(i ? 2 : 3) * 16 - 1], i ? 9 : 7);
        ck_assert_uint_eq(plane[(i ? 2 : 3) * 16], 0);
    }
    ck_assert_int_eq(kv_seq_fork(kv, a, &f), 0);
    ck_assert_uint_eq(kv_seq_length(f), 2 * PAGE + 23);
    ck_assert_int_eq(kv_seq_truncate(kv, f, 2 * PAGE + 22), 0);
    ck_assert_uint_eq(kv_seq_length(f), 2 * PAGE + 12);
    ck_assert_int_eq(kv_seq_truncate(kv, f, 2 * PAGE - 1), 0); /* into a sealed page */
    ck_assert_uint_eq(kv_seq_length(f), PAGE + 12);
    ck_assert_ptr_ne(kv_seq_pages(f, NULL)[1], kv_seq_pages(a, NULL)[1]);
    kv_check(kv);
    kv_seq_free(kv, &a);
    kv_seq_free(kv, &b);
    kv_seq_free(kv, &f);
    kv_close(&kv);
}
END_TEST

START_TEST(test_common_tokens)
{
    ck_assert_uint_eq(kv_common_tokens(1, 1), 1);
    ck_assert_uint_eq(kv_common_tokens(4, 32), 32);
    ck_assert_uint_eq(kv_common_tokens(6, 4), 12);
    ck_assert_uint_eq(kv_common_tokens(1, KV_MAX_PAGE_TOKENS), KV_MAX_PAGE_TOKENS);
    ck_assert_uint_eq(kv_common_tokens(31, 33), 1023);
    ck_assert_uint_eq(kv_common_tokens(25, 41), 0);
    ck_assert_uint_eq(kv_common_tokens(UINT32_MAX, UINT32_MAX - 1), 0);
}
END_TEST

START_TEST(test_pins)
{
    struct kv *kv = cache(16, 4); /* 4 pages may be pinned */
    struct kv_pinned list[4];
    struct err e = {0};
    int32_t t[64];
    uint64_t first = 0, second = 0, again = 0;
    uint32_t n = 0;
    struct kv_seq *s = new_seq(kv, 5);
    tokens_from(t, 0, 64);
    ck_assert_uint_eq(kv_max_pinned(kv), 4);
    ck_assert_int_eq(kv_pin(kv, 5, NULL, t, 64, &first, &n, &e), ERR_NOTFOUND);
    append(kv, s, 0, 6 * P);
    ck_assert_int_eq(kv_pin(kv, 5, NULL, t, P - 1, &first, &n, &e), ERR_NOTFOUND);
    ck_assert_int_eq(kv_pin(kv, 4, NULL, t, 64, &first, &n, &e), ERR_NOTFOUND);
    ck_assert_int_eq(kv_pin(kv, 5, (uint32_t[KV_WAYS]){P, 0}, t, 64, &first, &n, &e), ERR_NOTFOUND);
    ck_assert_int_eq(kv_pin(kv, 5, NULL, t, 5 * P, &first, &n, &e), ERR_LIMIT);
    ck_assert_str_eq(e.param, "cache_pinned");
    ck_assert_ptr_nonnull(strstr(e.text, "above the 4"));
    ck_assert_uint_eq(n, 0);
    ck_assert_int_eq(kv_pin(kv, 5, NULL, t, 3 * P + 1, &first, &n, &e), 0);
    ck_assert_uint_eq(n, 3 * P);
    ck_assert_int_eq(kv_pin(kv, 5, NULL, t, 4 * P, &second, &n, &e), 0); /* one page more */
    ck_assert_uint_ne(first, second);
    ck_assert_int_eq(kv_pin(kv, 5, NULL, t, 3 * P, &again, &n, &e), 0);
    ck_assert_uint_eq(first, again);
    ck_assert_uint_eq(kv_pins(kv, NULL, list, 4), 2);
    ck_assert_uint_eq(list[0].id, first);
    ck_assert_uint_eq(list[1].n_tokens, 4 * P);
    ck_assert_uint_eq(list[1].salt, 5);
    ck_assert_uint_eq(stats(kv).pages_pinned, 4);
    ck_assert_uint_eq(kv_seqs_keep(kv, &s, 1), 2);
    kv_seq_free(kv, &s);
    /* neither pressure nor dropping takes them */
    ck_assert_uint_eq(kv_pages_available(kv), 12);
    s = new_seq(kv, 0);
    ck_assert_int_eq(kv_seq_reserve(kv, s, 13 * P), ERR_NOSPACE);
    ck_assert_int_eq(kv_seq_reserve(kv, s, 12 * P), 0);
    kv_seq_free(kv, &s);
    ck_assert_uint_eq(kv_drop_cached(kv), 0);
    ck_assert_uint_eq(kv_probe(kv, 5, NULL, t, 64), 4 * P);
    /* who asks for one salt sees no other's */
    const uint64_t own = 5, other = 6;
    ck_assert_uint_eq(stats(kv).dropped, 0);
    ck_assert_uint_eq(kv_pins(kv, &own, list, 4), 2);
    ck_assert_uint_eq(kv_pins(kv, &other, list, 4), 0);
    ck_assert_int_eq(kv_unpin(kv, second, &other, &e), ERR_NOTFOUND);
    /* let go, they are as others */
    ck_assert_int_eq(kv_unpin(kv, second, NULL, &e), 0);
    ck_assert_int_eq(kv_unpin(kv, second, NULL, &e), ERR_NOTFOUND);
    ck_assert_uint_eq(stats(kv).pages_pinned, 3);
    ck_assert_uint_eq(kv_drop_cached(kv), 1);
    ck_assert_int_eq(kv_unpin(kv, first, &own, &e), 0);
    ck_assert_uint_eq(kv_pages_available(kv), 16);
    ck_assert_uint_eq(kv_drop_cached(kv), 3);
    ck_assert_uint_eq(stats(kv).dropped, 4);
    ck_assert_uint_eq(stats(kv).pages_free, 16);
    kv_close(&kv);
}
END_TEST

START_TEST(test_equal_pages_merge)
{
    struct kv *kv = cache(16, 4);
    struct kv_seq *a = new_seq(kv, 0), *b = new_seq(kv, 0);
    append(kv, a, 0, P);
    ck_assert_int_eq(kv_seq_reserve(kv, b, P), 0);
    unsigned char *own = kv_seq_pages(b, NULL)[0];
    int32_t t[P];
    tokens_from(t, 0, P);
    for (int i = 0; i < P; i++)
        memset(own + i * 16, i, 16);
    kv_step_begin(kv);
    kv_seq_commit(kv, b, t, P);
    ck_assert_ptr_eq(kv_seq_pages(b, NULL)[0], kv_seq_pages(a, NULL)[0]);
    ck_assert_uint_eq(stats(kv).pages_shared, 1);
    /* its own copy may still be read: nobody gets it before the step ends */
    struct kv_seq *c = new_seq(kv, 0);
    uint32_t n = kv_pages_available(kv);
    ck_assert_int_eq(kv_seq_reserve(kv, c, n * P), 0);
    for (uint32_t i = 0; i < n; i++)
        ck_assert_ptr_ne(kv_seq_pages(c, NULL)[i], own);
    ck_assert_int_eq(kv_seq_reserve(kv, c, (n + 1) * P), ERR_NOSPACE);
    kv_check(kv);
    kv_step_end(kv);
    ck_assert_uint_eq(stats(kv).pages_free, 1);
    ck_assert_int_eq(kv_seq_reserve(kv, c, (n + 1) * P), 0);
    ck_assert_ptr_eq(kv_seq_pages(c, NULL)[n], own);
    kv_seq_free(kv, &a);
    kv_seq_free(kv, &b);
    kv_seq_free(kv, &c);
    kv_close(&kv);
}
END_TEST

/* What a sequence let go inside a step is not written by another before the step ends. */
START_TEST(test_step_pins)
{
    struct kv *kv = cache(4, 4);
    struct kv_seq *a = new_seq(kv, 0), *b = new_seq(kv, 0);
    append(kv, a, 0, 3 * P + 1);
    kv_step_begin(kv);
    kv_seq_free(kv, &a);
    kv_check(kv);
    ck_assert_uint_eq(kv_pages_available(kv), 0);
    ck_assert_int_eq(kv_seq_reserve(kv, b, 1), ERR_NOSPACE);
    ck_assert_uint_eq(kv_drop_cached(kv), 0);
    kv_step_end(kv);
    ck_assert_uint_eq(kv_pages_available(kv), 4);
    ck_assert_int_eq(kv_seq_reserve(kv, b, 4 * P), 0);
    kv_seq_free(kv, &b);
    kv_check(kv);
    kv_close(&kv);
}
END_TEST

START_TEST(test_fork)
{
    struct kv *kv = cache(8, 4);
    struct kv_seq *a = new_seq(kv, 7), *b = NULL, *c = NULL;
    append(kv, a, 0, 2 * P + 3);
    ck_assert_int_eq(kv_seq_fork(kv, a, &b), 0);
    ck_assert_uint_eq(kv_seq_length(b), 2 * P + 3);
    ck_assert_ptr_eq(kv_seq_pages(a, NULL)[1], kv_seq_pages(b, NULL)[1]);
    ck_assert_ptr_ne(kv_seq_pages(a, NULL)[2], kv_seq_pages(b, NULL)[2]);
    ck_assert_uint_eq(stats(kv).pages_shared, 2);
    ck_assert_uint_eq(kv_seqs_keep(kv, &a, 1), 1);
    /* together the shared ones too */
    ck_assert_uint_eq(kv_seqs_keep(kv, (struct kv_seq *const[]){a, b}, 2), 4);
    append(kv, a, 50, 4);
    append(kv, b, 90, 4);
    for (uint32_t i = 0; i < 2 * P + 3; i++)
        ck_assert_uint_eq(row_byte(b, i), i);
    ck_assert_uint_eq(row_byte(a, 2 * P + 3), 50);
    ck_assert_uint_eq(row_byte(b, 2 * P + 3), 90);
    /* both finish their page: different tokens, different pages, of the tenant's own salt */
    append(kv, a, 60, 1);
    append(kv, b, 60, 1);
    ck_assert_ptr_ne(kv_seq_pages(a, NULL)[2], kv_seq_pages(b, NULL)[2]);
    /* at a page's end nothing is copied */
    ck_assert_int_eq(kv_seq_fork(kv, b, &c), 0);
    ck_assert_uint_eq(stats(kv).pages_held, 4);
    ck_assert_uint_eq(kv_seqs_keep(kv, &c, 1), 0);
    kv_seq_free(kv, &b);
    kv_seq_free(kv, &c);
    /* no page for the open rows: nothing changes */
    append(kv, a, 0, 4 * P + 1); /* 8 pages; b's cached one went */
    ck_assert_uint_eq(stats(kv).evictions, 1);
    ck_assert_int_eq(kv_seq_fork(kv, a, &b), ERR_NOSPACE);
    ck_assert_ptr_null(b);
    ck_assert_uint_eq(stats(kv).pages_shared, 0);
    ck_assert_uint_eq(stats(kv).pages_held, 8);
    kv_seq_free(kv, &a);
    kv_close(&kv);
}
END_TEST

START_TEST(test_truncate)
{
    struct kv *kv = cache(4, 4);
    struct kv_seq *a = new_seq(kv, 0), *b = NULL;
    int32_t t[64];
    tokens_from(t, 0, 64);
    append(kv, a, 0, 3 * P);
    ck_assert_int_eq(kv_seq_truncate(kv, a, 3 * P), 0);
    ck_assert_int_eq(kv_seq_truncate(kv, a, 1000), 0);
    ck_assert_uint_eq(kv_seq_length(a), 3 * P);
    unsigned char *third = kv_seq_pages(a, NULL)[2];
    ck_assert_int_eq(kv_seq_fork(kv, a, &b), 0);
    /* inside a sealed page: a copy is cut, the sealed one stays */
    ck_assert_int_eq(kv_seq_truncate(kv, a, 2 * P + 2), 0);
    ck_assert_ptr_ne(kv_seq_pages(a, NULL)[2], third);
    ck_assert_ptr_eq(kv_seq_pages(b, NULL)[2], third);
    append(kv, a, 70, 2);
    ck_assert_uint_eq(row_byte(a, 2 * P + 1), 2 * P + 1);
    ck_assert_uint_eq(row_byte(a, 2 * P + 2), 70);
    ck_assert_uint_eq(row_byte(b, 2 * P + 2), 2 * P + 2);
    /* no page for the copy: nothing changes */
    ck_assert_int_eq(kv_seq_truncate(kv, b, 2 * P + 1), ERR_NOSPACE);
    ck_assert_uint_eq(kv_seq_length(b), 3 * P);
    /* inside the open page nothing is copied, and the tokens before the cut still count */
    unsigned char *open = kv_seq_pages(a, NULL)[2];
    ck_assert_int_eq(kv_seq_truncate(kv, a, 2 * P + 2), 0);
    ck_assert_ptr_eq(kv_seq_pages(a, NULL)[2], open);
    append(kv, a, 2 * P + 2, P - 2);
    ck_assert_ptr_eq(kv_seq_pages(a, NULL)[2], third); /* equal again: one page */
    /* to a page's end, and to nothing */
    ck_assert_int_eq(kv_seq_truncate(kv, a, P), 0);
    ck_assert_int_eq(kv_seq_truncate(kv, b, 0), 0);
    ck_assert_uint_eq(kv_seq_length(b), 0);
    ck_assert_uint_eq(stats(kv).pages_held, 1);
    ck_assert_uint_eq(stats(kv).pages_cached, 2);
    ck_assert_uint_eq(kv_seq_match(kv, a, t, 64, 64), 3 * P);
    kv_seq_free(kv, &a);
    kv_seq_free(kv, &b);
    kv_close(&kv);
}
END_TEST

/* The least recently released goes first, its end before its beginning; used pages stay longer. */
START_TEST(test_eviction_order)
{
    struct kv *kv = cache(32, 8);
    int32_t a[2 * P], b[2 * P];
    struct kv_seq *s = new_seq(kv, 0);
    tokens_from(a, 0, 2 * P);
    tokens_from(b, 40, 2 * P);
    append(kv, s, 0, 2 * P);
    kv_seq_free(kv, &s);
    s = new_seq(kv, 0);
    append(kv, s, 40, 2 * P);
    kv_seq_free(kv, &s);
    ck_assert_uint_eq(stats(kv).pages_cached, 4);
    ck_assert_uint_eq(kv_pages_available(kv), 32);
    s = new_seq(kv, 0);
    ck_assert_int_eq(kv_seq_reserve(kv, s, 29 * P), 0);
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, a, 2 * P), P); /* a's end went */
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, b, 2 * P), 2 * P);
    ck_assert_int_eq(kv_seq_reserve(kv, s, 30 * P), 0);
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, a, 2 * P), 0);
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, b, 2 * P), 2 * P);
    ck_assert_uint_eq(stats(kv).evictions, 2);
    ck_assert_uint_eq(stats(kv).evicted_probation, 2);
    kv_seq_free(kv, &s);
    /* to be matched makes b younger than a, which came after it */
    s = new_seq(kv, 0);
    append(kv, s, 0, 2 * P);
    kv_seq_free(kv, &s);
    s = new_seq(kv, 0);
    ck_assert_uint_eq(kv_seq_match(kv, s, b, 2 * P, 2 * P), 2 * P);
    kv_seq_free(kv, &s);
    s = new_seq(kv, 0);
    ck_assert_int_eq(kv_seq_reserve(kv, s, 30 * P), 0);
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, a, 2 * P), 0);
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, b, 2 * P), 2 * P);
    kv_seq_free(kv, &s);
    ck_assert_uint_eq(kv_drop_cached(kv), 2);
    ck_assert_uint_eq(kv_drop_cached(kv), 0);
    ck_assert_uint_eq(stats(kv).pages_free, 32);
    kv_close(&kv);
}
END_TEST

/* What prompts leave behind of which nothing was known has a quarter of the pool before older pages that were
 * matched; what continues such pages belongs to them. */
START_TEST(test_probation)
{
    struct kv *kv = cache(16, 4);
    int32_t t[64], other[64];
    struct kv_seq *s = new_seq(kv, 0);
    tokens_from(t, 0, 64);
    tokens_from(other, 100, 64);
    append(kv, s, 0, 2 * P);
    kv_seq_free(kv, &s);
    s = new_seq(kv, 0);
    ck_assert_uint_eq(kv_seq_match(kv, s, t, 3 * P, 3 * P - 1), 2 * P);
    append(kv, s, 2 * P, P);
    kv_seq_free(kv, &s);
    s = new_seq(kv, 0);
    append(kv, s, 100, 8 * P);
    kv_seq_free(kv, &s);
    ck_assert_uint_eq(stats(kv).pages_cached, 11);
    s = new_seq(kv, 0);
    ck_assert_int_eq(kv_seq_reserve(kv, s, 9 * P), 0); /* 5 free: 4 of the long one go */
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, t, 64), 3 * P);
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, other, 64), 4 * P);
    ck_assert_int_eq(kv_seq_reserve(kv, s, 10 * P), 0); /* within its quarter age decides */
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, t, 64), 2 * P);
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, other, 64), 4 * P);
    kv_seq_free(kv, &s);
    kv_close(&kv);
}
END_TEST

START_TEST(test_held_pages_stay)
{
    struct kv *kv = cache(4, 4);
    int32_t t[2 * P];
    struct kv_seq *a = new_seq(kv, 0), *b = new_seq(kv, 0);
    tokens_from(t, 0, 2 * P);
    append(kv, a, 0, 2 * P);
    ck_assert_int_eq(kv_seq_reserve(kv, b, 3 * P), ERR_NOSPACE);
    ck_assert_int_eq(kv_seq_reserve(kv, b, 2 * P), 0);
    ck_assert_uint_eq(kv_drop_cached(kv), 0);
    ck_assert_uint_eq(kv_probe(kv, 0, NULL, t, 2 * P), 2 * P);
    kv_seq_free(kv, &b);
    kv_seq_free(kv, &a);
    ck_assert_uint_eq(kv_drop_cached(kv), 2);
    kv_close(&kv);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kvcache");
    TCase *tc = tcase_create("kvcache");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_config_errors);
    tcase_add_test(tc, test_config_huge);
    tcase_add_test(tc, test_layout);
    tcase_add_test(tc, test_seq_limits);
    tcase_add_test(tc, test_match);
    tcase_add_test(tc, test_ways);
    tcase_add_test(tc, test_ways_in_part);
    tcase_add_test(tc, test_position_counts);
    tcase_add_test(tc, test_tail_copy);
    tcase_add_test(tc, test_tail_of_wide_rows);
    tcase_add_test(tc, test_tail_of_two_strides);
    tcase_add_test(tc, test_common_tokens);
    tcase_add_test(tc, test_pins);
    tcase_add_test(tc, test_equal_pages_merge);
    tcase_add_test(tc, test_step_pins);
    tcase_add_test(tc, test_fork);
    tcase_add_test(tc, test_truncate);
    tcase_add_test(tc, test_eviction_order);
    tcase_add_test(tc, test_probation);
    tcase_add_test(tc, test_held_pages_stay);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
