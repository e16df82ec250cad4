/* tests/unit/t_kv_replay.c - a day of a chat server (tests/load/chat_trace.h) against the cache, without a
 * model: how much of its prompts is served, beside the most that could be.
 *
 * Ideal: each prompt has the longest beginning that any earlier prompt with its answer has, less the last
 * token. The best eviction for a pool is Belady's: of the pages that the request at hand does not need, the
 * one goes whose next use is farthest. A use counts where it can be served (whole pages, one token left to
 * compute). A page before another is used whenever that one is, so that to evict the later one first where
 * both are equal keeps the order of the tree; what is computed is the optimum, or an upper bound in the
 * rare case that a prompt ends exactly with a page. Compared with it are whole pages only, without copied
 * rows.
 *
 * LATENT_REPLAY=1 (`make replay`) goes through more days and busier ones. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "kvcache/kvcache.h"
#include "tests/load/chat_trace.h"

#define P 32
#define NEVER INT32_MAX

struct day {
    struct chat_trace trace;
    uint64_t prompt_tokens, ideal_tokens, ideal_pages;
    int32_t n_pages;   /* different ones */
    int32_t **path;    /* [request]: its pages, by number */
    int32_t *n_path, *n_useful; /* of which the first so many may be served */
};

/* Numbers the pages by what they hold and all before it. */
static void number_pages(struct day *d)
{
    size_t cap = 1 << 18; /* far more than there are pages */
    struct hash128 *keys = calloc(cap, sizeof(*keys));
    int32_t *ids = calloc(cap, sizeof(*ids));
    for (int i = 0; i < d->trace.n; i++) {
        const struct chat_request *r = &d->trace.requests[i];
        int32_t n = (int32_t)(r->n_tokens - 1) / P, found = 0; /* the last token's row is never made */
        struct hash128 h = {1, 1};
        d->path[i] = malloc((size_t)(n + 1) * sizeof(**d->path));
        d->n_path[i] = n;
        d->n_useful[i] = (int32_t)(r->n_prompt - 1) / P;
        for (int32_t j = 0; j < n; j++) {
            h = hash128_chain(h, r->tokens + (size_t)j * P, P);
            size_t at = h.lo & (cap - 1);
            while ((keys[at].lo || keys[at].hi) && (keys[at].lo != h.lo || keys[at].hi != h.hi))
                at = (at + 1) & (cap - 1);
            if (!keys[at].lo && !keys[at].hi) {
                keys[at] = h;
                ids[at] = d->n_pages++;
            } else if (found == j && j < d->n_useful[i]) {
                found++;
            }
            d->path[i][j] = ids[at];
        }
        d->ideal_pages += (uint64_t)found;
    }
    ck_assert_int_lt(d->n_pages, (int32_t)cap / 2);
    free(keys);
    free(ids);
}

static void make_ideal(struct day *d)
{
    const struct chat_request *r = d->trace.requests;
    for (int i = 0; i < d->trace.n; i++) {
        uint32_t best = 0, limit = r[i].n_prompt - 1;
        for (int o = 0; o < i && best < limit; o++) {
            uint32_t n = r[o].n_tokens - 1 < limit ? r[o].n_tokens - 1 : limit;
            if (best >= n || r[o].tokens[best] != r[i].tokens[best])
                continue;
            uint32_t k = 0;
            while (k < n && r[o].tokens[k] == r[i].tokens[k])
                k++;
            best = k > best ? k : best;
        }
        d->prompt_tokens += r[i].n_prompt;
        d->ideal_tokens += best;
    }
}

static void day_make(struct day *d, const struct chat_shape *shape)
{
    *d = (struct day){0};
    chat_trace_make(&d->trace, shape);
    d->path = calloc((size_t)d->trace.n, sizeof(*d->path));
    d->n_path = calloc((size_t)d->trace.n, sizeof(*d->n_path));
    d->n_useful = calloc((size_t)d->trace.n, sizeof(*d->n_useful));
    number_pages(d);
    make_ideal(d);
}

static void day_free(struct day *d)
{
    for (int i = 0; i < d->trace.n; i++)
        free(d->path[i]);
    free(d->path);
    free(d->n_path);
    free(d->n_useful);
    chat_trace_free(&d->trace);
}

/* Pages that the best eviction serves with a pool of so many; lru: that strict recency does. */
static uint64_t best_pages(const struct day *d, int32_t pool, bool lru)
{
    size_t n = (size_t)d->n_pages;
    int32_t **next = calloc((size_t)d->trace.n, sizeof(*next)); /* [request][page of its path]: next use */
    int32_t *upcoming = malloc(n * sizeof(*upcoming)), *held = calloc(n, sizeof(*held));
    int32_t *key = calloc(n, sizeof(*key)), *depth = calloc(n, sizeof(*depth));
    int32_t *cached = malloc((size_t)pool * sizeof(*cached)), n_cached = 0;
    bool *in = calloc(n, sizeof(*in));
    uint64_t hits = 0;
    for (size_t i = 0; i < n; i++)
        upcoming[i] = NEVER;
    for (int i = d->trace.n - 1; i >= 0; i--) {
        next[i] = malloc((size_t)(d->n_path[i] + 1) * sizeof(**next));
        for (int32_t j = 0; j < d->n_path[i]; j++) {
            next[i][j] = upcoming[d->path[i][j]];
            upcoming[d->path[i][j]] = j < d->n_useful[i] ? i : NEVER;
        }
    }
    for (int i = 0; i < d->trace.n; i++) {
        const int32_t *path = d->path[i];
        for (int32_t j = 0; j < d->n_useful[i] && in[path[j]]; j++)
            hits++;
        for (int32_t j = 0; j < d->n_path[i]; j++)
            held[path[j]] = i + 1;
        for (int32_t j = 0; j < d->n_path[i]; j++) {
            int32_t id = path[j];
            key[id] = lru ? NEVER - i : next[i][j];
            depth[id] = j;
            if (in[id])
                continue;
            int32_t victim = -1;
            for (int32_t k = 0; n_cached == pool && k < n_cached; k++) {
                int32_t c = cached[k], v = victim < 0 ? -1 : cached[victim];
                if (held[c] != i + 1 &&
                    (v < 0 || key[c] > key[v] || (key[c] == key[v] && depth[c] > depth[v])))
                    victim = k;
            }
            ck_assert(n_cached < pool || victim >= 0);
            if (victim >= 0)
                in[cached[victim]] = false;
            cached[victim >= 0 ? victim : n_cached++] = id;
            in[id] = true;
        }
    }
    for (int i = 0; i < d->trace.n; i++)
        free(next[i]);
    free(next);
    free(upcoming);
    free(held);
    free(key);
    free(depth);
    free(cached);
    free(in);
    return hits;
}

static struct kv_stats replay(const struct day *d, uint64_t n_pages)
{
    const struct kv_plane plane = {.row_bytes = 2, .tokens_per_row = 1, .align = 1};
    struct kv_config c = {.page_tokens = P, .n_planes = 1, .planes = &plane, .pool_bytes = n_pages * 2 * P,
                          .max_seqs = 1, .max_seq_tokens = 1 << 20};
    struct kv_stats st;
    struct kv *kv = NULL;
    struct err e = {0};
    ck_assert_msg(kv_open(&c, &kv, &e) == 0, "%s", e.text);
    ck_assert_uint_eq(kv_n_pages(kv), n_pages);
    for (int i = 0; i < d->trace.n; i++) {
        const struct chat_request *r = &d->trace.requests[i];
        struct kv_seq *s = NULL;
        ck_assert_int_eq(kv_seq_new(kv, 0, &s), 0);
        uint32_t n = kv_seq_match(kv, s, r->tokens, r->n_prompt, r->n_prompt - 1);
        ck_assert_int_eq(kv_seq_reserve(kv, s, r->n_tokens - 1 - n), 0);
        kv_seq_commit(kv, s, r->tokens + n, r->n_tokens - 1 - n);
        kv_seq_free(kv, &s);
    }
    kv_check(kv);
    kv_stats_read(kv, &st);
    kv_close(&kv);
    return st;
}

static void check_day(const struct chat_shape *shape, bool promised)
{
    struct day d;
    day_make(&d, shape);
    int32_t pool = d.n_pages / 10;
    double ideal = (double)d.ideal_tokens, pages = (double)d.ideal_pages / 100;
    struct kv_stats all = replay(&d, (uint64_t)d.n_pages + 1), tenth = replay(&d, (uint64_t)pool);
    double served = (double)(tenth.hits_tokens - tenth.copied_tokens) / P / pages;
    double best = (double)best_pages(&d, pool, false) / pages;
    printf("# seed %llu, sitting %.2f, %d one-off: an unlimited cache serves %.2f %% of what is ideal "
           "(%.1f %% of the prompts), %d pages; a tenth of them %.2f %%, the best eviction %.2f %%, "
           "strict LRU %.2f %%\n",
           (unsigned long long)shape->seed, shape->sitting, shape->n_one_off,
           100 * (double)all.hits_tokens / ideal, 100 * ideal / (double)d.prompt_tokens, d.n_pages, served,
           best, (double)best_pages(&d, pool, true) / pages);
    fflush(stdout);
    ck_assert_uint_eq(all.evictions, 0);
    ck_assert_double_ge((double)all.hits_tokens / ideal, 0.98);
    ck_assert_double_le((double)all.hits_tokens / ideal, 1);
    ck_assert_double_le(served, best);
    if (promised)
        ck_assert_double_ge(served, best - 10);
    day_free(&d);
}

START_TEST(test_days)
{
    struct chat_shape shape = CHAT_SHAPE_DEFAULT;
    shape.seed = (uint64_t)_i + 1;
    check_day(&shape, true);
}
END_TEST

/* Shorter and longer sittings, few and many prompts that come once: told, and promised for none. */
START_TEST(test_others)
{
    static const double sittings[] = {0.15, 0.3, 1, 2};
    struct chat_shape shape = CHAT_SHAPE_DEFAULT;
    shape.sitting = sittings[_i % 4];
    shape.n_one_off = _i / 4 ? 20 : shape.n_one_off;
    check_day(&shape, false);
}
END_TEST

int main(void)
{
    bool more = getenv("LATENT_REPLAY") != NULL;
    Suite *suite = suite_create("kv_replay");
    TCase *tc = tcase_create("kv_replay");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, test_days, 0, more ? 10 : 2);
    if (more)
        tcase_add_loop_test(tc, test_others, 0, 8);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
