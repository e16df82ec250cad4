/* tests/unit/t_sampler.c - sampling against plain float64 formulas, and the text of a choice against a
 * search over the whole of it. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "engine/sampler.h"
#include "engine/textout.h"
#include "tests/unit/shipped_tokenizer.h"

#define N 200

static struct sampler_scratch *scratch;
static const struct sampling_params neutral = {
    .temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 1};

static void setup(void)
{
    scratch = sampler_scratch_new(kern_table(CPU_LEVEL_MAX - 1), N);
    ck_assert_ptr_nonnull(scratch);
}

static void teardown(void)
{
    sampler_scratch_free(scratch);
}

static float uniform(void)
{
    return (float)rand() / (float)RAND_MAX;
}

static void random_logits(float *x)
{
    for (int i = 0; i < N; i++)
        x[i] = 8 * uniform() - 4 + (rand() % 20 ? 0.0f : 4.0f);
}

static int32_t pick(const struct sampler *s, const float *logits, int index)
{
    float copy[N];
    int32_t id = -1;
    memcpy(copy, logits, sizeof(copy));
    ck_assert_int_eq(sampler_pick(s, scratch, copy, NULL, 0, index, &id), 0);
    ck_assert_int_ge(id, 0);
    ck_assert_int_lt(id, N);
    return id;
}

static struct sampler *make(const struct sampling_params *p)
{
    struct sampler *s = NULL;
    ck_assert_int_eq(sampler_new(p, 0, N, NULL, 0, 1000000, NULL, &s), 0);
    return s;
}

START_TEST(test_greedy)
{
    struct sampling_params p = neutral;
    float x[N];
    p.temperature = 0;
    struct sampler *s = make(&p);
    for (int i = 0; i < 1000; i++) {
        random_logits(x);
        int best = 0;
        for (int k = 1; k < N; k++)
            best = x[k] > x[best] ? k : best;
        ck_assert_int_eq(pick(s, x, i), best);
        x[(best + 7) % N] = x[best]; /* a tie: the lower id */
        ck_assert_int_eq(pick(s, x, i), (best + 7) % N < best ? (best + 7) % N : best);
    }
    sampler_free(&s);
}
END_TEST

static const float *by; /* for compare */
static int compare(const void *a, const void *b)
{
    int i = *(const int *)a, k = *(const int *)b;
    return by[i] > by[k] ? -1 : by[i] < by[k] ? 1 : i - k;
}

/* The distribution that the parameters ask for, in the order top_k, top_p, min_p. */
static void reference(const float *x, const struct sampling_params *p, double *prob)
{
    int order[N], keep = N;
    double sum = 0, part = 0;
    for (int i = 0; i < N; i++)
        order[i] = i;
    by = x;
    qsort(order, N, sizeof(*order), compare);
    if (p->top_k > 0)
        keep = p->top_k < N ? p->top_k : N;
    memset(prob, 0, N * sizeof(*prob));
    for (int i = 0; i < keep; i++)
        sum += prob[order[i]] = exp(((double)x[order[i]] - x[order[0]]) / p->temperature);
    int n = 0;
    while (n < keep && (n == 0 || part < p->top_p * sum))
        part += prob[order[n++]];
    for (int i = 0; i < N; i++)
        if (i >= n || prob[order[i]] < p->min_p * prob[order[0]])
            prob[order[i]] = 0;
    sum = 0;
    for (int i = 0; i < N; i++)
        sum += prob[i];
    for (int i = 0; i < N; i++)
        prob[i] /= sum;
}

START_TEST(test_distribution)
{
    const int draws = 20000;
    for (int round = 0; round < 24; round++) {
        struct sampling_params p = neutral;
        float x[N];
        double prob[N], chi = 0;
        int count[N] = {0}, cells = 0;
        p.seed = (uint64_t)rand();
        p.temperature = 0.3f + 1.4f * uniform();
        if (round & 1)
            p.top_k = 1 + rand() % 60;
        if (round & 2)
            p.top_p = 0.2f + 0.79f * uniform();
        if (round & 4)
            p.min_p = 0.2f * uniform();
        random_logits(x);
        reference(x, &p, prob);
        struct sampler *s = make(&p);
        for (int i = 0; i < draws; i++)
            count[pick(s, x, i)]++;
        sampler_free(&s);
        int stray = 0;
        for (int i = 0; i < N; i++) {
            double want = prob[i] * draws;
            if (prob[i] == 0)
                stray += count[i];
            if (want >= 5) {
                chi += (count[i] - want) * (count[i] - want) / want;
                cells++;
            }
        }
        /* one token at the edge of top_p may fall either way by rounding */
        ck_assert_msg(stray == 0 || stray < draws / 20, "%d draws outside the kept set", stray);
        /* mean `cells`, deviation sqrt(2 cells): 6 deviations are no accident */
        ck_assert_msg(chi < cells + 6 * sqrt(2.0 * cells) + 10, "chi^2 %.1f over %d cells", chi, cells);
    }
}
END_TEST

START_TEST(test_seed)
{
    struct sampling_params p = neutral;
    float x[N];
    int same = 0;
    random_logits(x);
    struct sampler *a = make(&p), *b = make(&p), *c = NULL;
    ck_assert_int_eq(sampler_new(&p, 1, N, NULL, 0, 100, NULL, &c), 0);
    for (int i = 0; i < 200; i++) {
        int32_t id = pick(a, x, i);
        ck_assert_int_eq(pick(b, x, i), id);
        same += pick(c, x, i) == id;
    }
    ck_assert_int_lt(same, 150); /* another choice draws otherwise */
    sampler_free(&a);
    sampler_free(&b);
    sampler_free(&c);
}
END_TEST

/* With temperature 0 a penalty shows in which token wins. */
START_TEST(test_penalties)
{
    float x[N] = {0};
    const int32_t prompt[] = {3};
    struct sampling_params p = neutral;
    struct sampler *s = NULL;
    p.temperature = 0;
    x[3] = 2, x[4] = 1.5f, x[5] = -1;
    p.repetition_penalty = 1.5f; /* 2 / 1.5 < 1.5 */
    ck_assert_int_eq(sampler_new(&p, 0, N, prompt, 1, 10, NULL, &s), 0);
    ck_assert_int_eq(pick(s, x, 0), 4);
    sampler_accept(s, 4); /* 1.5 / 1.5 = 1 < 2 / 1.5 */
    ck_assert_int_eq(pick(s, x, 1), 3);
    sampler_free(&s);

    p = neutral;
    p.temperature = 0;
    p.presence_penalty = 0.6f;
    ck_assert_int_eq(sampler_new(&p, 0, N, prompt, 1, 10, NULL, &s), 0);
    ck_assert_int_eq(pick(s, x, 0), 3); /* the prompt does not count */
    sampler_accept(s, 3);
    ck_assert_int_eq(pick(s, x, 1), 4);
    sampler_accept(s, 3); /* twice is as once */
    sampler_accept(s, 4);
    ck_assert_int_eq(pick(s, x, 3), 3);
    sampler_free(&s);

    p.presence_penalty = 0;
    p.frequency_penalty = 0.3f;
    ck_assert_int_eq(sampler_new(&p, 0, N, NULL, 0, 10, NULL, &s), 0);
    sampler_accept(s, 3);
    ck_assert_int_eq(pick(s, x, 1), 3);
    sampler_accept(s, 3);
    ck_assert_int_eq(pick(s, x, 2), 4); /* 2 - 0.6 < 1.5 */
    sampler_free(&s);

    const struct logit_bias bias[] = {{3, -100}, {5, 10}};
    p = neutral;
    p.temperature = 0;
    p.logit_bias = bias;
    p.n_logit_bias = 2;
    s = make(&p);
    ck_assert_int_eq(pick(s, x, 0), 5);
    sampler_free(&s);
}
END_TEST

START_TEST(test_banned)
{
    float x[N];
    struct sampling_params p = neutral;
    int32_t id, all[N];
    struct sampler *s = make(&p);
    for (int i = 0; i < N; i++)
        all[i] = i;
    for (int i = 0; i < 500; i++) {
        random_logits(x);
        ck_assert_int_eq(sampler_pick(s, scratch, x, all, N - 1, i, &id), 0);
        ck_assert_int_eq(id, N - 1);
    }
    random_logits(x);
    ck_assert_int_eq(sampler_pick(s, scratch, x, all, N, 0, &id), ERR_LIMIT);
    random_logits(x);
    x[5] = NAN;
    ck_assert_int_eq(sampler_pick(s, scratch, x, NULL, 0, 0, &id), ERR_INTERNAL);
    sampler_free(&s);
}
END_TEST

/* A mask leaves the draw of what it allows as it is; nothing left and not finite are two errors. */
START_TEST(test_masked)
{
    float x[N], y[N];
    int32_t id, only, all[N];
    uint32_t mask[N / 32 + 1];
    for (int kind = 0; kind < 3; kind++) {
        struct sampling_params p = neutral;
        p.temperature = kind == 0 ? 0 : 0.8f;
        p.top_k = kind == 2 ? 5 : 0;
        struct sampler *s = make(&p);
        for (int i = 0; i < 300; i++) {
            random_logits(x);
            memcpy(y, x, sizeof(x));
            memset(mask, 0, sizeof(mask));
            for (int k = 0; k < N; k++) {
                all[k] = k;
                if (k % 7 == i % 7)
                    mask[k / 32] |= 1u << (k % 32);
                else
                    y[k] = -1e30f;
            }
            ck_assert_int_eq(sampler_pick_masked(s, scratch, x, mask, NULL, 0, i, &id), 0);
            ck_assert_int_eq(id % 7, i % 7);
            ck_assert_int_eq(sampler_pick(s, scratch, y, NULL, 0, i, &only), 0);
            ck_assert_int_eq(id, only);
        }
        ck_assert_int_eq(sampler_pick_masked(s, scratch, x, mask, all, N, 0, &id), ERR_LIMIT);
        memset(mask, 0, sizeof(mask));
        ck_assert_int_eq(sampler_pick_masked(s, scratch, x, mask, NULL, 0, 0, &id), ERR_LIMIT);
        x[5] = NAN; /* allowed or not */
        ck_assert_int_eq(sampler_pick_masked(s, scratch, x, mask, NULL, 0, 0, &id), ERR_INTERNAL);
        x[5] = INFINITY;
        ck_assert_int_eq(sampler_pick_masked(s, scratch, x, mask, NULL, 0, 0, &id), ERR_INTERNAL);
        sampler_free(&s);
    }
}
END_TEST

/* --- a large vocabulary ----------------------------------------------------------------------------- */

enum { LARGE = 20011, DRAWS = 200 };

static float large[LARGE], copy_of_large[LARGE];
static int order[LARGE];

static const struct shape {
    const char *name;
    struct sampling_params p;
} shapes[] = {
    {"all", {.temperature = 1, .top_p = 1}},
    {"hot", {.temperature = 3, .top_p = 1}},
    {"top_p", {.temperature = 1, .top_p = 0.95f}},
    {"small top_p", {.temperature = 1, .top_p = 0.01f}},
    {"top_p and min_p", {.temperature = 1, .top_p = 0.9f, .min_p = 0.02f}},
    {"min_p", {.temperature = 1, .top_p = 1, .min_p = 0.05f}},
    {"top_k", {.temperature = 1, .top_p = 1, .top_k = 40}},
    {"top_k and top_p", {.temperature = 1, .top_p = 0.8f, .top_k = 500}},
    {"large top_k", {.temperature = 1, .top_p = 0.99f, .top_k = 15000}},
};
#define N_SHAPES (int)(sizeof(shapes) / sizeof(shapes[0]))

/* Logits of several kinds: flat, peaked, equal ones. */
static void large_logits(int kind)
{
    for (int i = 0; i < LARGE; i++) {
        float u = uniform();
        large[i] = kind == 0 ? u : kind == 1 ? 12 * u * u * u : kind == 2 ? (float)(rand() % 5) : 1.0f;
    }
    for (int i = 0; kind == 1 && i < 5; i++)
        large[rand() % LARGE] = 14 + 2 * uniform();
}

/* Every draw is one that the parameters leave, and they are as often as they should be: the distribution of
 * a draw's place in the cumulated probabilities is uniform (Kolmogorov and Smirnov). */
START_TEST(test_large)
{
    const struct shape *sh = &shapes[_i % N_SHAPES];
    struct sampling_params p = sh->p;
    const struct kernels *k = kern_table(_i % 2 ? CPU_GENERIC : CPU_LEVEL_MAX - 1);
    struct sampler_scratch *sc = sampler_scratch_new(k, LARGE);
    static double prob[LARGE], edge[LARGE], below[LARGE + 1], place[DRAWS];
    struct sampler *s = NULL;
    double total = 0, part = 0, sum = 0;
    int keep = p.top_k > 0 ? p.top_k : LARGE, n = 0, same = 0;
    p.repetition_penalty = 1;
    p.seed = (uint64_t)rand();
    large_logits(_i / N_SHAPES);
    for (int i = 0; i < LARGE; i++)
        order[i] = i;
    by = large;
    qsort(order, LARGE, sizeof(*order), compare);
    memset(prob, 0, sizeof(prob));
    memset(edge, 0, sizeof(edge));
    for (int i = 0; i < keep; i++)
        total += exp((double)(large[order[i]] - large[order[0]]) / (double)p.temperature);
    for (; n < keep && (n == 0 || part < (double)p.top_p * total * (1 + 1e-4)); n++) {
        double e = exp((double)(large[order[n]] - large[order[0]]) / (double)p.temperature);
        /* whether these are in is a matter of rounding */
        edge[order[n]] = (n && fabs(part - (double)p.top_p * total) < 1e-4 * total) ||
                         fabs(e - (double)p.min_p) < 1e-5 * e;
        part += e;
        prob[order[n]] = e < (double)p.min_p * (1 - 1e-5) ? 0 : e;
    }
    for (int i = 0; i < LARGE; i++) {
        below[i] = sum;
        sum += prob[i];
    }
    ck_assert_int_eq(sampler_new(&p, 0, LARGE, NULL, 0, DRAWS, NULL, &s), 0);
    memcpy(copy_of_large, large, sizeof(large));
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = -1;
        ck_assert_int_eq(sampler_pick(s, sc, large, NULL, 0, i, &id), 0);
        ck_assert(id >= 0 && id < LARGE);
        ck_assert_msg(prob[id] > 0, "%s, logits %d: token %d was left out", sh->name, _i / N_SHAPES, id);
        same += edge[id] != 0;
        place[i] = (below[id] + prob[id] * (double)uniform()) / sum;
    }
    ck_assert_mem_eq(copy_of_large, large, sizeof(large));
    for (double at = 0.05; at < 1 && same == 0; at += 0.05) {
        int count = 0;
        for (int i = 0; i < DRAWS; i++)
            count += place[i] < at;
        double off = fabs(count - at * DRAWS) / sqrt(DRAWS * at * (1 - at));
        ck_assert_msg(off < 6, "%s, logits %d: %d of %d draws below %.2f", sh->name, _i / N_SHAPES, count,
                      DRAWS, at);
    }
    sampler_free(&s);
    sampler_scratch_free(sc);
}
END_TEST

/* Equal logits: top_p keeps the lower ids. */
START_TEST(test_large_equal)
{
    struct sampling_params p = neutral;
    struct sampler_scratch *sc = sampler_scratch_new(kern_table(CPU_LEVEL_MAX - 1), LARGE);
    struct sampler *s = NULL;
    int most = 0;
    p.top_p = 0.25f;
    large_logits(3);
    ck_assert_int_eq(sampler_new(&p, 0, LARGE, NULL, 0, DRAWS, NULL, &s), 0);
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = -1;
        ck_assert_int_eq(sampler_pick(s, sc, large, NULL, 0, i, &id), 0);
        ck_assert_int_le(id, LARGE / 4 + 1);
        most = id > most ? id : most;
    }
    ck_assert_int_gt(most, LARGE / 5);
    sampler_free(&s);
    sampler_scratch_free(sc);
}
END_TEST

/* The best and their ranks, among equal ones too; logits come back as they were. */
START_TEST(test_large_logprobs)
{
    struct sampler_scratch *sc = sampler_scratch_new(kern_table(CPU_LEVEL_MAX - 1), LARGE);
    const struct logit_bias bias[] = {{3, 2.5f}, {17, -INFINITY}, {3, 1.0f}};
    const int32_t prompt[] = {3, 4, 4}, banned[] = {3, 5, -1, LARGE};
    struct sampling_params p = neutral;
    struct token_logprob top[64];
    struct sampler *s = NULL;
    p.repetition_penalty = 1.3f;
    p.presence_penalty = 0.5f;
    p.n_logit_bias = 3;
    p.logit_bias = bias;
    ck_assert_int_eq(sampler_new(&p, 0, LARGE, prompt, 3, 100, NULL, &s), 0);
    for (int kind = 0; kind < 4; kind++) {
        int32_t id;
        large_logits(kind);
        memcpy(copy_of_large, large, sizeof(large));
        ck_assert_int_eq(sampler_pick(s, sc, large, banned, 4, kind, &id), 0);
        ck_assert(id != 3 && id != 5 && id != 17);
        sampler_accept(s, id);
        ck_assert_mem_eq(copy_of_large, large, sizeof(large));
        for (int i = 0; i < LARGE; i++)
            order[i] = i;
        by = large;
        qsort(order, LARGE, sizeof(*order), compare);
        for (int k = 0; k <= 64; k += 16) {
            ck_assert_int_eq(logprobs_top(sc, large, 2.0f, k, top), k);
            for (int i = 0; i < k; i++) {
                ck_assert_int_eq(top[i].token_id, order[i]);
                ck_assert(top[i].logprob == large[order[i]] - 2.0f);
                ck_assert_int_eq(top[i].rank, i + 1);
            }
        }
        for (int k = 0; k < 50; k++) {
            int at = rand() % LARGE, rank = 1;
            for (int i = 0; i < LARGE; i++)
                rank += large[i] > large[at];
            ck_assert_int_eq(logprobs_rank(sc, large, at), rank);
        }
    }
    sampler_free(&s);
    sampler_scratch_free(sc);
}
END_TEST

/* --- text ----------------------------------------------------------------------------------------- */

/* Is s whole UTF-8 characters? Its bytes come from whole strings, so looking at the ends suffices. */
static bool whole(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        unsigned char ch = (unsigned char)s[i];
        i += ch < 0x80 ? 1 : ch < 0xe0 ? 2 : ch < 0xf0 ? 3 : 4;
    }
    return i == n && (n == 0 || ((unsigned char)s[0] & 0xc0) != 0x80);
}

static void check_text(const char *text, const struct stop_string *stop, int n_stop)
{
    struct textout t;
    struct buf out, piece;
    size_t n = strlen(text);
    int hit = -1;
    buf_init(&out, 1 << 20);
    buf_init(&piece, 1 << 20);
    ck_assert_int_eq(textout_init(&t, tok, stop, n_stop, true, false, true), 0);
    /* the earliest end of a stop string wins, and its beginning is where the text ends */
    size_t first_end = SIZE_MAX;
    for (int i = 0; i < n_stop; i++) {
        const char *at = strstr(text, stop[i].data);
        if (at && (size_t)(at - text) + stop[i].n_bytes < first_end)
            first_end = (size_t)(at - text) + stop[i].n_bytes;
    }
    struct err e = {0};
    struct token_list list = {0};
    ck_assert_msg(tokenizer_encode(tok, text, n, 0, 100000, &list, &e) == 0, "%s", e.text);
    for (size_t i = 0; i < (size_t)list.n && hit < 0; i++) {
        buf_reset(&piece);
        hit = textout_push(&t, list.ids[i], true, &piece);
        ck_assert_int_ge(hit, -1);
        ck_assert_msg(whole(piece.data ? piece.data : "", piece.n_bytes), "half a character: %s", text);
        ck_assert_int_eq(buf_append(&out, piece.data, piece.n_bytes), 0);
    }
    if (hit < 0)
        ck_assert_int_eq(textout_finish(&t, true, &out), -1);
    const char *got = out.data ? out.data : "";
    if (first_end == SIZE_MAX) {
        ck_assert_int_eq(hit, -1);
        ck_assert_str_eq(got, text);
    } else {
        ck_assert_int_ge(hit, 0);
        ck_assert_int_eq(strncmp(got, text, out.n_bytes), 0);
        for (int i = 0; i < n_stop; i++)
            ck_assert_msg(!strstr(got, stop[i].data), "\"%s\" leaked", stop[i].data);
        ck_assert_int_eq(strncmp(text + out.n_bytes, stop[hit].data, stop[hit].n_bytes), 0);
    }
    free(list.ids);
    textout_done(&t);
    buf_done(&out);
    buf_done(&piece);
}

START_TEST(test_text)
{
    static const char *const pieces[] = {"a", "b", "ab", " the", "é", "東", "👩‍👩‍👧", "\n", "<", ">", " "};
    const size_t n_pieces = sizeof(pieces) / sizeof(*pieces);
    for (int round = 0; round < 4000; round++) {
        char text[2000] = "", words[4][64];
        struct stop_string stop[4];
        int n = rand() % 60, n_stop = rand() % 5;
        for (int i = 0, at = 0; i < n; i++)
            at += snprintf(text + at, sizeof(text) - (size_t)at, "%s",
                           pieces[(size_t)rand() % n_pieces]);
        for (int i = 0; i < n_stop; i++) {
            words[i][0] = 0;
            for (int k = 1 + rand() % 3, at = 0; k > 0; k--)
                at += snprintf(words[i] + at, sizeof(words[i]) - (size_t)at, "%s",
                               pieces[(size_t)rand() % n_pieces]);
            stop[i] = (struct stop_string){words[i], strlen(words[i])};
        }
        check_text(text, stop, n_stop);
    }
}
END_TEST

int main(void)
{
    const char *s = getenv("LATENT_TEST_SEED");
    unsigned seed = s ? (unsigned)strtoul(s, NULL, 10) : (unsigned)time(NULL);
    srand(seed);
    printf("# seed %u (LATENT_TEST_SEED)\n", seed);
    fflush(stdout);
    Suite *suite = suite_create("sampler");
    TCase *tc = tcase_create("sampler"), *text = tcase_create("text");
    tcase_set_timeout(tc, 120);
    tcase_set_timeout(text, 120);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_greedy);
    tcase_add_test(tc, test_distribution);
    tcase_add_test(tc, test_seed);
    tcase_add_test(tc, test_penalties);
    tcase_add_test(tc, test_banned);
    tcase_add_test(tc, test_masked);
    tcase_add_loop_test(tc, test_large, 0, 4 * N_SHAPES);
    tcase_add_test(tc, test_large_equal);
    tcase_add_test(tc, test_large_logprobs);
    tcase_add_checked_fixture(text, open_tokenizer, close_tokenizer);
    tcase_add_test(text, test_text);
    suite_add_tcase(suite, tc);
    suite_add_tcase(suite, text);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
