/* tests/unit/t_router.c - gates and rotary frequencies against plain float64 formulas. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/rope.h"
#include "engine/router.h"

#define MAX_N 64

static double uniform(void)
{
    return (double)rand() / RAND_MAX;
}

/* --- the gates --------------------------------------------------------------------------------- */

/* The worth of a group, by sorting its choice scores. */
static double group_worth(const double *choice, int n, enum topk_method method)
{
    double v[MAX_N];
    memcpy(v, choice, (size_t)n * sizeof(*v));
    for (int i = 0; i < n; i++)
        for (int j = i + 1; j < n; j++)
            if (v[j] > v[i]) {
                double t = v[i];
                v[i] = v[j];
                v[j] = t;
            }
    return method == TOPK_NOAUX_TC && n > 1 ? v[0] + v[1] : v[0];
}

/* True when fewer than k of the n values beat value i. */
static bool among_best(const double *v, int n, int i, int k)
{
    int better = 0;
    for (int j = 0; j < n; j++)
        better += v[j] > v[i] || (v[j] == v[i] && j < i);
    return better < k;
}

/* Rounding must not decide what is among the k best: is the next one clearly worse? */
static bool clear_cut(const double *v, int n, int k)
{
    double least = INFINITY, next = -INFINITY;
    for (int i = 0; i < n; i++) {
        if (among_best(v, n, i, k))
            least = fmin(least, v[i]);
        else
            next = fmax(next, v[i]);
    }
    return k == n || least - next > 1e-5;
}

/* false: a choice too close to call. */
static bool reference(const struct model_config *c, const float *logits, const float *bias,
                      bool *chosen, double *weights)
{
    int n = c->n_routed_experts, per = n / c->n_group;
    double score[MAX_N], choice[MAX_N], worth[MAX_N], z = 0, sum = 0;
    for (int i = 0; i < n; i++)
        z += exp((double)logits[i]);
    for (int i = 0; i < n; i++) {
        score[i] = c->gating == GATING_SIGMOID ? 1 / (1 + exp(-(double)logits[i]))
                                               : exp((double)logits[i]) / z;
        choice[i] = score[i] + (bias ? (double)bias[i] : 0);
    }
    for (int g = 0; g < c->n_group; g++)
        worth[g] = group_worth(choice + g * per, per, c->topk_method);
    if (!clear_cut(worth, c->n_group, c->topk_group))
        return false;
    for (int i = 0; i < n; i++)
        if (!among_best(worth, c->n_group, i / per, c->topk_group))
            choice[i] = -1e9;
    if (!clear_cut(choice, n, c->num_experts_per_tok))
        return false;
    for (int i = 0; i < n; i++) {
        chosen[i] = among_best(choice, n, i, c->num_experts_per_tok);
        sum += chosen[i] ? score[i] : 0;
    }
    for (int i = 0; i < n; i++)
        weights[i] = score[i] * (double)c->routed_scaling_factor / (c->norm_topk_prob ? sum : 1);
    return true;
}

static void check_gate(const struct model_config *c, bool with_bias)
{
    float logits[MAX_N], copy[MAX_N], bias[MAX_N], weights[MAX_N];
    int32_t experts[MAX_N];
    int n_checked = 0;
    for (int turn = 0; turn < 200; turn++) {
        bool want[MAX_N];
        double want_weights[MAX_N];
        for (int i = 0; i < c->n_routed_experts; i++) {
            copy[i] = logits[i] = (float)(6 * uniform() - 3);
            bias[i] = (float)(0.4 * uniform() - 0.2);
        }
        if (!reference(c, logits, with_bias ? bias : NULL, want, want_weights))
            continue;
        n_checked++;
        router_choose(c, copy, with_bias ? bias : NULL, experts, weights);
        bool seen[MAX_N] = {false};
        for (int k = 0; k < c->num_experts_per_tok; k++) {
            int e = experts[k];
            ck_assert(e >= 0 && e < c->n_routed_experts && !seen[e]);
            seen[e] = true;
            ck_assert_msg(want[e], "expert %d is not among the best", e);
            ck_assert_double_le(fabs((double)weights[k] / want_weights[e] - 1), 1e-5);
        }
    }
    ck_assert_int_gt(n_checked, 150);
}

START_TEST(greedy)
{
    struct model_config c = {.n_routed_experts = 8, .num_experts_per_tok = 3, .n_group = 1,
                             .topk_group = 1, .gating = GATING_SOFTMAX, .topk_method = TOPK_GREEDY,
                             .routed_scaling_factor = 1};
    check_gate(&c, false);
    c.norm_topk_prob = true;
    c.routed_scaling_factor = 2.5f;
    check_gate(&c, true);
}
END_TEST

START_TEST(group_limited)
{
    struct model_config c = {.n_routed_experts = 32, .num_experts_per_tok = 6, .n_group = 8,
                             .topk_group = 3, .gating = GATING_SOFTMAX,
                             .topk_method = TOPK_GROUP_LIMITED_GREEDY, .routed_scaling_factor = 16};
    check_gate(&c, false);
    c.topk_group = 8;
    check_gate(&c, false);
}
END_TEST

START_TEST(noaux_tc)
{
    struct model_config c = {.n_routed_experts = 64, .num_experts_per_tok = 8, .n_group = 8,
                             .topk_group = 4, .gating = GATING_SIGMOID, .norm_topk_prob = true,
                             .topk_method = TOPK_NOAUX_TC, .routed_scaling_factor = 2.5f};
    check_gate(&c, true);
    c.n_group = c.topk_group = 1;
    check_gate(&c, true);
    c.n_group = c.topk_group = 64; /* groups of one expert */
    c.topk_group = 9;
    check_gate(&c, true);
}
END_TEST

/* --- rotary frequencies ------------------------------------------------------------------------ */

static double angle_of(const struct rope *r, int i)
{
    float cos_t[ROPE_MAX_FACTORS], sin_t[ROPE_MAX_FACTORS];
    rope_angles(r, 1, cos_t, sin_t);
    return atan2((double)sin_t[i], (double)cos_t[i]);
}

START_TEST(longrope)
{
    struct model_config c = {.qk_rope_head_dim = 16, .rope_theta = 10000,
                             .rope_scaling = {.type = ROPE_SCALING_LONGROPE, .factor = 4,
                                              .original_max_position_embeddings = 512}};
    for (int i = 0; i < 8; i++) {
        c.rope_scaling.short_factor[i] = 1.0f + 0.125f * (float)i;
        c.rope_scaling.long_factor[i] = 2.0f + (float)i;
    }
    double amplitude = sqrt(1 + log(4) / log(512));
    for (int turn = 0; turn < 2; turn++) {
        struct rope r;
        rope_init(&r, &c, turn ? 513 : 512);
        ck_assert_double_le(fabs((double)r.amplitude - amplitude), 1e-6);
        const float *by = turn ? c.rope_scaling.long_factor : c.rope_scaling.short_factor;
        for (int i = 0; i < 8; i++) {
            double want = pow(10000, -2.0 * i / 16) / (double)by[i];
            ck_assert_double_le(fabs(angle_of(&r, i) / want - 1), 1e-5);
        }
    }
    ck_assert_float_eq(rope_score_scale(&c), 1.0f);
    c.rope_scaling.attention_factor = 1.25f; /* said by the configuration */
    struct rope r;
    rope_init(&r, &c, 100);
    ck_assert_float_eq(r.amplitude, 1.25f);
    c.rope_scaling.attention_factor = 0;
    c.rope_scaling.factor = 1; /* MiniCPM3-4B: both lengths are equal */
    rope_init(&r, &c, 100);
    ck_assert_float_eq(r.amplitude, 1.0f);
}
END_TEST

/* Frequencies that turn more than beta_fast times over the original context stay, those that turn less
 * than beta_slow times are divided by the factor, those between lie between. */
START_TEST(yarn)
{
    struct model_config c = {.qk_rope_head_dim = 64, .rope_theta = 10000,
                             .rope_scaling = {.type = ROPE_SCALING_YARN, .factor = 40,
                                              .original_max_position_embeddings = 4096,
                                              .beta_fast = 32, .beta_slow = 1, .mscale = 0.707f,
                                              .mscale_all_dim = 0.707f}};
    struct rope r;
    rope_init(&r, &c, 100000);
    for (int i = 0; i < 32; i++) {
        double plain = pow(10000, -2.0 * i / 64), got = (double)r.inv_freq[i] / plain;
        double turns = 4096 * plain / (2 * M_PI);
        if (turns > 40)
            ck_assert_double_le(fabs(got - 1), 1e-5);
        else if (turns < 0.8)
            ck_assert_double_le(fabs(got * 40 - 1), 1e-5);
        else
            ck_assert(got > 1.0 / 41 && got < 1.0001);
    }
    double m = 0.1 * 0.707 * log(40) + 1;
    ck_assert_double_le(fabs((double)rope_score_scale(&c) / (m * m) - 1), 1e-6);
    ck_assert_float_eq(r.amplitude, 1.0f);
}
END_TEST

int main(void)
{
    const char *seed = getenv("LATENT_TEST_SEED");
    unsigned s = seed ? (unsigned)strtoul(seed, NULL, 10) : (unsigned)time(NULL);
    srand(s);
    printf("# seed %u (LATENT_TEST_SEED)\n", s);
    fflush(stdout);
    Suite *suite = suite_create("router");
    TCase *gates = tcase_create("gates"), *rope = tcase_create("rope");
    tcase_set_timeout(gates, 60);
    tcase_add_test(gates, greedy);
    tcase_add_test(gates, group_limited);
    tcase_add_test(gates, noaux_tc);
    tcase_add_test(rope, longrope);
    tcase_add_test(rope, yarn);
    suite_add_tcase(suite, gates);
    suite_add_tcase(suite, rope);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
