/* tests/unit/t_samplers.c - the samplers of engine/sample.h, each against its definition written plainly. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/kernels/kern.h"
#include "engine/sample.h"
#include "engine/sampler.h"
#include "tests/unit/shipped_tokenizer.h"

#define N 150
#define DRAWS 6000

static unsigned seed;
static struct sampler_scratch *scratch;
static const struct sampling_params neutral = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};

static void setup(void)
{
    scratch = sampler_scratch_new(kern_table(CPU_LEVEL_MAX - 1), N);
    ck_assert_ptr_nonnull(scratch);
}

static void teardown(void)
{
    sampler_scratch_free(scratch);
}

static double uniform(void)
{
    return rand() / (RAND_MAX + 1.0);
}

static bool one_in(int n)
{
    return rand() % n == 0;
}

static void random_logits(float *x)
{
    for (int i = 0; i < N; i++)
        x[i] = (float)(6 * uniform() - 3 + (one_in(12) ? 4 : 0));
}

/* --- a distribution, cut down as the fields say ------------------------------------------------------ */

static const double *by;
static int larger_first(const void *a, const void *b)
{
    int i = *(const int *)a, k = *(const int *)b;
    return by[i] > by[k] ? -1 : by[i] < by[k] ? 1 : i - k;
}

/* Keeps the best by key until n of them or the mass is there; prob of others becomes 0. */
static void keep_best(double *prob, const double *key, int n, double mass)
{
    int order[N], k = 0;
    double sum = 0;
    for (int i = 0; i < N; i++)
        order[i] = i;
    by = key;
    qsort(order, N, sizeof(*order), larger_first);
    for (; k < N && (k == 0 || (k < n && sum < mass)); k++)
        sum += prob[order[k]];
    for (; k < N; k++)
        prob[order[k]] = 0;
}

static void normalise(double *prob)
{
    double sum = 0;
    for (int i = 0; i < N; i++)
        sum += prob[i];
    for (int i = 0; i < N; i++)
        prob[i] /= sum;
}

static void cut(const float *x, const struct sampling_params *p, double *prob)
{
    double mean = 0, var = 0, max = -INFINITY, entropy = 0, key[N];
    for (int i = 0; i < N; i++) {
        mean += (double)x[i] / N;
        max = (double)x[i] > max ? (double)x[i] : max;
    }
    for (int i = 0; i < N; i++)
        var += ((double)x[i] - mean) * ((double)x[i] - mean) / N;
    for (int i = 0; i < N; i++) {
        bool out = p->top_n_sigma > 0 && (double)x[i] < max - (double)p->top_n_sigma * sqrt(var);
        prob[i] = out ? 0 : exp(((double)x[i] - max) / (double)p->temperature);
    }
    if (p->top_k)
        keep_best(prob, prob, p->top_k, INFINITY);
    normalise(prob);
    if (p->typical_p > 0) {
        for (int i = 0; i < N; i++)
            entropy -= prob[i] > 0 ? prob[i] * log(prob[i]) : 0;
        for (int i = 0; i < N; i++)
            key[i] = prob[i] > 0 ? -fabs(-log(prob[i]) - entropy) : -INFINITY;
        keep_best(prob, key, N, (double)p->typical_p);
        normalise(prob);
    }
    if (p->top_p < 1) {
        keep_best(prob, prob, N, (double)p->top_p);
        normalise(prob);
    }
    double most = 0;
    for (int i = 0; i < N; i++)
        most = prob[i] > most ? prob[i] : most;
    for (int i = 0; i < N; i++)
        if (prob[i] < (double)p->min_p * most)
            prob[i] = 0;
    normalise(prob);
}

/* What is left where the chance falls so: of those over the threshold the least likely. */
static void exclude(double *prob, double threshold)
{
    int least = -1, over = 0;
    for (int i = 0; i < N; i++)
        if (prob[i] >= threshold) {
            over++;
            least = least < 0 || prob[i] <= prob[least] ? i : least;
        }
    for (int i = 0; i < N; i++)
        if (over > 1 && prob[i] >= threshold && i != least)
            prob[i] = 0;
    normalise(prob);
}

START_TEST(test_lists)
{
    struct sampling_params p = neutral;
    double prob[N], without[N], chi = 0;
    int count[N] = {0}, cells = 0, stray = 0;
    struct sampler *s = NULL;
    float x[N], copy[N];
    srand(seed + (unsigned)_i); /* each runs in a process of its own, which begins as the others do */
    p.seed = (uint64_t)rand();
    p.temperature = (float)(0.4 + uniform());
    if (_i % 4 == 0 || one_in(4))
        p.top_n_sigma = (float)(0.5 + 2 * uniform());
    if (_i % 4 == 1 || one_in(4))
        p.typical_p = (float)(0.1 + 0.85 * uniform());
    if (_i % 4 >= 2) {
        p.xtc_probability = _i % 4 == 2 ? 1 : (float)uniform();
        p.xtc_threshold = (float)(0.3 * uniform());
    }
    if (one_in(3))
        p.top_k = 1 + rand() % 60;
    if (one_in(3))
        p.top_p = (float)(0.3 + 0.65 * uniform());
    if (one_in(3))
        p.min_p = (float)(0.1 * uniform());
    random_logits(x);
    cut(x, &p, prob);
    memcpy(without, prob, sizeof(prob));
    if (p.xtc_probability > 0) {
        exclude(without, (double)p.xtc_threshold);
        for (int i = 0; i < N; i++)
            prob[i] += (double)p.xtc_probability * (without[i] - prob[i]);
    }
    ck_assert_int_eq(sampler_new(&p, 0, N, NULL, 0, DRAWS, NULL, &s), 0);
    memcpy(copy, x, sizeof(x));
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = -1, again = -1;
        ck_assert_int_eq(sampler_pick(s, scratch, x, NULL, 0, i, &id), 0);
        ck_assert_int_eq(sampler_pick(s, scratch, x, NULL, 0, i, &again), 0);
        ck_assert_int_eq(id, again); /* a function of seed and index */
        ck_assert_mem_eq(copy, x, sizeof(x));
        count[id]++;
    }
    sampler_free(&s);
    for (int i = 0; i < N; i++) {
        double want = prob[i] * DRAWS;
        stray += want == 0 ? count[i] : 0;
        if (want >= 5) {
            chi += (count[i] - want) * (count[i] - want) / want;
            cells++;
        }
    }
    /* a token on the edge of a bound may fall either way by rounding; then others move too */
    ck_assert_msg(stray < DRAWS / 50, "%d draws of what was left out", stray);
    ck_assert_msg(stray || chi < cells + 6 * sqrt(2.0 * cells) + 12, "chi^2 %.1f over %d cells", chi, cells);
}
END_TEST

/* --- mirostat ---------------------------------------------------------------------------------------- */

static void mirostat_cut(int version, double mu, double *prob)
{
    double sorted[N], top = 0, bottom = 0;
    int order[N], k = 0;
    for (int i = 0; i < N; i++)
        order[i] = i;
    by = prob;
    qsort(order, N, sizeof(*order), larger_first);
    for (int i = 0; i < N; i++)
        sorted[i] = prob[order[i]];
    if (version == 1) {
        for (int i = 0; i < 99; i++) {
            double t = log((i + 2.0) / (i + 1.0));
            top += t * log(sorted[i] / sorted[i + 1]);
            bottom += t * t;
        }
        double s = top / bottom, eps = s - 1;
        double d = pow(eps * exp2(mu) / (1 - pow(N, -eps)), 1 / s);
        k = d < 1 ? 1 : d > N ? N : (int)d;
    } else {
        while (k < N && (k == 0 || -log2(sorted[k]) <= mu))
            k++;
    }
    for (; k < N; k++)
        prob[order[k]] = 0;
    normalise(prob);
}

START_TEST(test_mirostat)
{
    struct sampling_params p = neutral;
    srand(seed + (unsigned)_i);
    double mu, surprise = 0, tau = 2 + 2 * uniform();
    int version = 1 + _i % 2, edge = 0, n = 2000;
    struct sampler *s = NULL;
    p.mirostat = version;
    p.mirostat_tau = (float)tau;
    p.mirostat_eta = 0.1f;
    p.seed = (uint64_t)rand();
    p.top_k = 1; /* has no say */
    ck_assert_int_eq(sampler_new(&p, 0, N, NULL, 0, n, NULL, &s), 0);
    mu = 2 * (double)p.mirostat_tau;
    for (int i = 0; i < n; i++) {
        float x[N];
        double prob[N];
        int32_t id = -1;
        random_logits(x);
        for (int k = 0; k < N; k++)
            prob[k] = exp((double)x[k]);
        normalise(prob);
        mirostat_cut(version, mu, prob);
        ck_assert_int_eq(sampler_pick(s, scratch, x, NULL, 0, i, &id), 0);
        sampler_accept(s, id);
        if (prob[id] == 0) { /* the last token that may be in: rounding */
            ck_assert_int_lt(++edge, 3);
            break;
        }
        surprise += -log2(prob[id]) / n;
        mu -= (double)p.mirostat_eta * (-log2(prob[id]) - (double)p.mirostat_tau);
    }
    ck_assert_msg(edge || fabs(surprise - tau) < 0.2, "tau %.2f, surprise %.2f", tau, surprise);
    sampler_free(&s);
}
END_TEST

/* --- sequences of tokens ----------------------------------------------------------------------------- */

static bool holds(int32_t token, const char *s)
{
    size_t n;
    const char *bytes = tokenizer_token_bytes(tok, token, &n);
    return memmem(bytes, n, s, strlen(s)) != NULL;
}

/* The longest end of text that stands before an earlier `token`, without breakers. */
static int dry_length(const int32_t *text, int n, int window, int32_t token, const char *breaker)
{
    int longest = 0;
    for (int at = n - window + 1; at < n; at++) {
        int k = 0;
        while (text[at] == token && at - 1 - k >= n - window && n - 1 - k > 0 &&
               text[at - 1 - k] == text[n - 1 - k] && !holds(text[n - 1 - k], breaker))
            k++;
        longest = k > longest ? k : longest;
    }
    return holds(token, breaker) ? 0 : longest;
}

START_TEST(test_dry)
{
    static const struct stop_string breakers[] = {{"\n", 1}};
    int32_t words[4], text[120];
    for (int i = 0; i < 4; i++)
        words[i] = tokenizer_find(tok, i == 3 ? "\n" : i == 0 ? "a" : i == 1 ? "b" : "c", 1);
    for (int round = 0; round < 400; round++) {
        struct sampling_params p = neutral;
        const struct dry_loss *loss;
        struct dry *d = NULL;
        int n = rand() % 120, told[4] = {0};
        p.dry_multiplier = 0.8f;
        p.dry_base = 1.75f;
        p.dry_allowed_length = 1 + rand() % 4;
        p.dry_penalty_last_n = one_in(2) ? -1 : rand() % 130;
        p.dry_breakers = breakers;
        p.n_dry_breakers = 1;
        for (int i = 0; i < n; i++)
            text[i] = words[one_in(12) ? 3 : rand() % (round % 3 + 1)];
        ck_assert_int_eq(dry_new(&p, tok, 120, &d), 0);
        int window = p.dry_penalty_last_n < 0 || p.dry_penalty_last_n > n ? n : p.dry_penalty_last_n;
        int m = dry_losses(d, text, n, &loss);
        for (int i = 0; i < m; i++) {
            int at = 0;
            while (at < 4 && words[at] != loss[i].token)
                at++;
            ck_assert_int_lt(at, 3); /* a breaker loses nothing */
            ck_assert_int_eq(told[at]++, 0);
            int want = dry_length(text, n, window, loss[i].token, "\n");
            ck_assert_int_eq(loss[i].length, want);
            double f = 0.8 * pow(1.75, want - p.dry_allowed_length);
            ck_assert(fabs((double)loss[i].loss - fmin(f, 1000)) <= 1e-4 * f);
        }
        for (int i = 0; i < 3; i++)
            ck_assert_int_eq(told[i], dry_length(text, n, window, words[i], "\n") >= p.dry_allowed_length);
        dry_free(&d);
    }
}
END_TEST

/* A text that was told twice is not told a third time. */
START_TEST(test_dry_sampler)
{
    const int32_t text[] = {1, 2, 3, 4, 9, 1, 2, 3};
    struct sampling_params p = neutral;
    struct sampler *s = NULL;
    float x[N] = {0};
    int32_t id;
    x[4] = 3, x[5] = 1;
    p.temperature = 0;
    p.dry_multiplier = 1;
    p.dry_base = 2;
    p.dry_allowed_length = 2;
    p.dry_penalty_last_n = -1;
    ck_assert_int_eq(sampler_new(&p, 0, N, text, 6, 10, NULL, &s), 0);
    ck_assert_int_eq(sampler_pick(s, scratch, x, NULL, 0, 1, &id), 0); /* 1 2: one before is too short */
    ck_assert_int_eq(id, 4);
    ck_assert_int_eq(sampler_pick(s, scratch, x, NULL, 0, 2, &id), 0); /* 1 2 3: 3 - 1 * 2^1 = 1, a tie */
    ck_assert_int_eq(id, 4);
    x[5] = 1.1f;
    ck_assert_int_eq(sampler_pick(s, scratch, x, NULL, 0, 2, &id), 0);
    ck_assert_int_eq(id, 5);
    sampler_free(&s);
}
END_TEST

START_TEST(test_words_and_allowed)
{
    static const int32_t one[] = {7}, three[] = {1, 2, 3}, allowed[] = {3, 7, 20, 21};
    const struct token_word words[] = {{one, 1}, {three, 3}};
    const int32_t text[] = {1, 2, 5, 1, 2};
    struct sampling_params p = neutral;
    struct sampler *s = NULL;
    float x[N], copy[N];
    int32_t id;
    p.bad_words = words;
    p.n_bad_words = 2;
    p.allowed = allowed;
    p.n_allowed = 4;
    ck_assert_int_eq(sampler_new(&p, 0, N, text, 2, 10, NULL, &s), 0);
    int three_seen = 0;
    for (int i = 0; i < 400; i++) {
        random_logits(x);
        memcpy(copy, x, sizeof(x));
        ck_assert_int_eq(sampler_pick(s, scratch, x, NULL, 0, i % 4, &id), 0);
        ck_assert_mem_eq(copy, x, sizeof(x));
        ck_assert(id == 3 || id == 20 || id == 21);
        ck_assert(id != 3 || i % 4 == 1 || i % 4 == 2); /* not after 1 2 */
        three_seen += id == 3;
    }
    ck_assert_int_gt(three_seen, 0);
    sampler_free(&s);
}
END_TEST

static bool plain_repeats(const struct repetition_detection *r, const int32_t *t, int n)
{
    for (int size = r->min_pattern_size ? r->min_pattern_size : 1; size <= r->max_pattern_size; size++) {
        bool all = size * r->min_count <= n;
        for (int i = 0; all && i < size; i++)
            for (int k = 1; k < r->min_count; k++)
                all &= t[n - 1 - i] == t[n - 1 - i - k * size];
        if (all)
            return true;
    }
    return false;
}

START_TEST(test_repeats)
{
    int yes = 0;
    for (int round = 0; round < 20000; round++) {
        struct repetition_detection r = {1 + rand() % 6, rand() % 3, 2 + rand() % 4};
        int32_t t[40];
        int n = rand() % 41;
        for (int i = 0; i < n; i++)
            t[i] = i >= r.max_pattern_size && rand() % 8 ? t[i - r.max_pattern_size] : rand() % 3;
        ck_assert_int_eq(repeats(&r, t, n), plain_repeats(&r, t, n));
        yes += repeats(&r, t, n);
    }
    ck_assert(yes > 2000 && yes < 18000);
}
END_TEST

int main(void)
{
    const char *s = getenv("LATENT_TEST_SEED");
    seed = s ? (unsigned)strtoul(s, NULL, 10) : (unsigned)time(NULL);
    srand(seed);
    printf("# seed %u (LATENT_TEST_SEED)\n", seed);
    fflush(stdout);
    Suite *suite = suite_create("samplers");
    TCase *tc = tcase_create("lists"), *text = tcase_create("sequences");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, test_lists, 0, 40);
    tcase_add_loop_test(tc, test_mirostat, 0, 6);
    tcase_add_test(tc, test_dry_sampler);
    tcase_add_test(tc, test_words_and_allowed);
    tcase_add_test(tc, test_repeats);
    tcase_add_checked_fixture(text, open_tokenizer, close_tokenizer);
    tcase_add_test(text, test_dry);
    suite_add_tcase(suite, tc);
    suite_add_tcase(suite, text);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
