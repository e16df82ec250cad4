/* tests/forward/t_golden.c - latent-mini against golden values of another implementation: perplexity
 * and greedy continuations from Q8_0 at every level, and from the bfloat16 folder where there is one
 * (LATENT_SHARED, or ../shared beside the project). */
#include "config.h"

#include <check.h>
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/kernels/kern.h"
#include "tests/forward/rig.h"

#define MAX_LEN 1024

static cJSON *golden;
static char q8_path[4096], bf16_path[4096];

static void open_level(struct rig *r, const char *path, enum cpu_level level, enum cache_type type)
{
    struct rig_options o = {.level = level, .cache_type = type, .page_tokens = 32, .max_len = 4096,
                            .pool_bytes = 64u << 20};
    rig_open(r, path, &o);
}

static double logprob(const float *logits, int vocab, int id)
{
    double max = -1e300, sum = 0;
    for (int i = 0; i < vocab; i++)
        max = fmax(max, logits[i]);
    for (int i = 0; i < vocab; i++)
        sum += exp(logits[i] - max);
    return logits[id] - max - log(sum);
}

static int ids_of(const cJSON *array, int32_t *out)
{
    int n = 0;
    const cJSON *v;
    cJSON_ArrayForEach(v, array)
    {
        ck_assert_int_lt(n, MAX_LEN);
        out[n++] = v->valueint;
    }
    return n;
}

static double perplexity(struct rig *r)
{
    int vocab = model_config(r->model)->vocab_size, count = 0;
    double nll = 0;
    const cJSON *text;
    cJSON_ArrayForEach(text, cJSON_GetObjectItem(golden, "texts"))
    {
        int32_t ids[MAX_LEN];
        int n = ids_of(cJSON_GetObjectItem(text, "ids"), ids);
        struct kv_seq *seq = NULL;
        ck_assert_int_eq(kv_seq_new(r->kv, 0, &seq), 0);
        for (int at = 0; at < n; at += RIG_MAX_ROWS) {
            int m = n - at < RIG_MAX_ROWS ? n - at : RIG_MAX_ROWS;
            rig_step(r, seq, ids + at, m, m);
            for (int i = 0; i < m; i++) {
                if (at + i + 1 >= n)
                    break;
                nll -= logprob(r->logits + (size_t)i * (size_t)vocab, vocab, ids[at + i + 1]);
                count++;
            }
        }
        kv_seq_free(r->kv, &seq);
    }
    ck_assert_int_eq(count, cJSON_GetObjectItem(golden, "tokens")->valueint);
    return exp(nll / count);
}

static void generations(struct rig *r, double min_gap, double logprob_tolerance)
{
    int vocab = model_config(r->model)->vocab_size;
    const cJSON *g;
    cJSON_ArrayForEach(g, cJSON_GetObjectItem(golden, "generations"))
    {
        int32_t prompt[MAX_LEN], want[MAX_LEN];
        int n = ids_of(cJSON_GetObjectItem(g, "prompt_ids"), prompt);
        int m = ids_of(cJSON_GetObjectItem(g, "greedy_ids"), want);
        struct kv_seq *seq = NULL;
        ck_assert_int_eq(kv_seq_new(r->kv, 0, &seq), 0);
        rig_step(r, seq, prompt, n, 1);
        const cJSON *id, *lp = cJSON_GetObjectItem(g, "first_top_logprobs")->child;
        cJSON_ArrayForEach(id, cJSON_GetObjectItem(g, "first_top_ids"))
        {
            double got = logprob(r->logits, vocab, id->valueint);
            ck_assert_msg(fabs(got - lp->valuedouble) < logprob_tolerance,
                          "log-probability of %d: %f, golden %f", id->valueint, got, lp->valuedouble);
            lp = lp->next;
        }
        bool follow = cJSON_GetObjectItem(g, "smallest_top2_gap")->valuedouble >= min_gap;
        for (int i = 0; follow && i < m; i++) {
            int32_t best = 0;
            for (int v = 1; v < vocab; v++)
                if (r->logits[v] > r->logits[best])
                    best = v;
            ck_assert_msg(best == want[i], "token %d after \"%s\": %d, golden %d", i,
                          cJSON_GetObjectItem(g, "prompt")->valuestring, best, want[i]);
            rig_step(r, seq, &best, 1, 1);
        }
        kv_seq_free(r->kv, &seq);
    }
}

/* Perplexity with the rows of r, and how far its distributions are from those of `exact`: mean KL. */
static double divergence(struct rig *exact, struct rig *r, double *ret_kl)
{
    int vocab = model_config(r->model)->vocab_size, count = 0, rows = 0;
    double nll = 0, kl = 0;
    const cJSON *text;
    cJSON_ArrayForEach(text, cJSON_GetObjectItem(golden, "texts"))
    {
        int32_t ids[MAX_LEN];
        int n = ids_of(cJSON_GetObjectItem(text, "ids"), ids);
        struct kv_seq *a = NULL, *b = NULL;
        ck_assert_int_eq(kv_seq_new(exact->kv, 0, &a), 0);
        ck_assert_int_eq(kv_seq_new(r->kv, 0, &b), 0);
        for (int at = 0; at < n; at += RIG_MAX_ROWS) {
            int m = n - at < RIG_MAX_ROWS ? n - at : RIG_MAX_ROWS;
            rig_step(exact, a, ids + at, m, m);
            rig_step(r, b, ids + at, m, m);
            for (int i = 0; i < m; i++, rows++) {
                const float *x = exact->logits + (size_t)i * (size_t)vocab;
                const float *y = r->logits + (size_t)i * (size_t)vocab;
                double nx = x[0] - logprob(x, vocab, 0), ny = y[0] - logprob(y, vocab, 0);
                for (int v = 0; v < vocab; v++)
                    kl += exp(x[v] - nx) * (x[v] - nx - (y[v] - ny));
                if (at + i + 1 < n) {
                    nll -= y[ids[at + i + 1]] - ny;
                    count++;
                }
            }
        }
        kv_seq_free(exact->kv, &a);
        kv_seq_free(r->kv, &b);
    }
    *ret_kl = kl / rows;
    return exp(nll / count);
}

/* Smaller rows move the results of the same weights so far at most, about twice what they were seen to. */
START_TEST(test_cache_types)
{
    static const struct {
        const char *name;
        double kl, perplexity;
    } types[] = {
        {"f32", 0, 0}, {"bf16", 0.002, 0.006}, {"int8", 0.0025, 0.006}, {"fp8", 0.004, 0.008},
        {"int4", 0.016, 0.02},
    };
    struct rig exact, r;
    double base = 0, kl;
    open_level(&exact, q8_path, cpu_detect(), CACHE_F32);
    for (int i = 0; i < 5; i++) {
        open_level(&r, q8_path, cpu_detect(), (enum cache_type)cache_type_parse(types[i].name));
        double got = divergence(&exact, &r, &kl);
        rig_close(&r);
        printf("# Q8_0 %s, %s rows: perplexity %.4f, mean KL %.2e\n", cpu_level_name(cpu_detect()),
               types[i].name, got, kl);
        fflush(stdout);
        base = i ? base : got;
        ck_assert_msg(kl <= types[i].kl, "%s rows: mean KL %g", types[i].name, kl);
        ck_assert_msg(fabs(got / base - 1.0) <= types[i].perplexity,
                      "%s rows: perplexity %f, float32 rows %f", types[i].name, got, base);
    }
    rig_close(&exact);
}
END_TEST

START_TEST(test_q8_0)
{
    struct rig r;
    double want = cJSON_GetObjectItem(golden, "perplexity")->valuedouble;
    if (!kern_level_built((enum cpu_level)_i))
        return;
    open_level(&r, q8_path, (enum cpu_level)_i, CACHE_BF16);
    double got = perplexity(&r);
    printf("# Q8_0 %s: perplexity %.4f, golden %.4f\n", cpu_level_name((enum cpu_level)_i), got, want);
    fflush(stdout);
    ck_assert_msg(fabs(got / want - 1.0) < 0.01, "perplexity %f, golden %f", got, want);
    /* Quantised weights follow the same path where the two best are well apart. */
    generations(&r, 0.15, 0.2);
    rig_close(&r);
}
END_TEST

START_TEST(test_bf16)
{
    struct rig r;
    double want = cJSON_GetObjectItem(golden, "perplexity")->valuedouble;
    enum cpu_level level = (enum cpu_level)(_i / 2);
    enum cache_type type = _i % 2 ? CACHE_F32 : CACHE_BF16;
    if (!kern_level_built(level))
        return;
    open_level(&r, bf16_path, level, type);
    double got = perplexity(&r);
    printf("# BF16 %s, %s rows: perplexity %.4f, golden %.4f\n", cpu_level_name(level),
           type == CACHE_F32 ? "f32" : "bf16", got, want);
    fflush(stdout);
    ck_assert_msg(fabs(got / want - 1.0) < 0.001, "perplexity %f, golden %f", got, want);
    if (type == CACHE_F32 && !kern_table(level)->attn_bf16)
        generations(&r, 0.0, 0.002);
    else
        generations(&r, 0.06, 0.05); /* rows, or all operands of attention, rounded to 8 bits of mantissa */
    rig_close(&r);
}
END_TEST

static cJSON *read_json(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    static char text[1 << 20];
    size_t n = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[n] = 0;
    return cJSON_Parse(text);
}

int main(void)
{
    char path[4096];
    const char *src = getenv("top_srcdir"), *shared = getenv("LATENT_SHARED");
    if (!src)
        src = ".";
    snprintf(path, sizeof(path), "%s/tests/data/latent-mini-golden.json", src);
    snprintf(q8_path, sizeof(q8_path), "%s/models/latent-mini.q8_0.gguf", src);
    if (shared)
        snprintf(bf16_path, sizeof(bf16_path), "%s/models/latent-mini", shared);
    else
        snprintf(bf16_path, sizeof(bf16_path), "%s/../shared/models/latent-mini", src);
    golden = read_json(path);
    if (!golden) {
        printf("Bail out! cannot read %s\n", path);
        return 1;
    }
    Suite *suite = suite_create("golden");
    TCase *tc = tcase_create("golden");
    tcase_set_timeout(tc, 900);
    /* With sanitizers the generic level takes a quarter of an hour; random tiny models still run it. */
    int first = getenv("LATENT_SLOW") && kern_level_built(CPU_AVX2) ? CPU_AVX2 : CPU_GENERIC;
    tcase_add_loop_test(tc, test_q8_0, first, CPU_LEVEL_MAX);
    tcase_add_test(tc, test_cache_types);
    if (access(bf16_path, R_OK) == 0)
        tcase_add_loop_test(tc, test_bf16, 2 * first, 2 * CPU_LEVEL_MAX);
    else
        printf("# skipped: no bfloat16 folder (set LATENT_SHARED)\n");
    fflush(stdout);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    cJSON_Delete(golden);
    return failed ? 1 : 0;
}
