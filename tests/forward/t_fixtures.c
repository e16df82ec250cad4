/* tests/forward/t_fixtures.c - every family that is served against transformers: tiny checkpoints with
 * random weights in tests/data/hf, each with the float32 logits of some prompts and greedy continuations.
 *
 * At the generic level every logit lies within 2e-3 of the reference logits' standard deviation; at each
 * level of this machine the mean KL divergence is below 1e-4; the greedy ids are equal at all of them.
 * Rounding to bfloat16, in the cache or of the operands of attention at the level amx, may choose another
 * expert: then single logits are further off, here and there.
 * DeepSeek-V3.2's logits are compared in t_sparse.c: the reference breaks ties between index scores in a
 * way that depends on the tokens that follow, which float64 there repeats and no engine should. */
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

#define MAX_LEN 512
#define N_GREEDY 16

static const char *const folders[] = {
    "deepseek_v2", "deepseek_v2_group", "deepseek_v3", "deepseek_v32",
    "glm4_moe_lite", "longcat_flash", "minicpm3", "youtu",
};
#define N_FOLDERS ((int)(sizeof(folders) / sizeof(folders[0])))

static const char *path_of(const char *folder, const char *file)
{
    static char path[4][4096];
    static int turn;
    const char *top = getenv("top_srcdir");
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof(path[0]), "%s/tests/data/hf/%s/%s", top ? top : ".", folder, file);
    return path[turn];
}

static void open_path(struct rig *r, const char *path, enum cpu_level level, enum cache_type type)
{
    struct rig_options o = {.level = level, .cache_type = type, .page_tokens = 16, .max_len = MAX_LEN,
                            .pool_bytes = 16u << 20};
    rig_open(r, path, &o);
}

static void open_folder(struct rig *r, const char *folder, enum cpu_level level, enum cache_type type)
{
    open_path(r, path_of(folder, ""), level, type);
}

static int best(const float *v, int n)
{
    int at = 0;
    for (int i = 1; i < n; i++)
        if (v[i] > v[at])
            at = i;
    return at;
}

/* --- the reference ----------------------------------------------------------------------------- */

static char *read_file(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "cannot open %s", path);
    ck_assert_int_eq(fseek(f, 0, SEEK_END), 0);
    long n = ftell(f);
    rewind(f);
    char *data = malloc((size_t)n + 1);
    ck_assert_int_eq(fread(data, 1, (size_t)n, f), n);
    data[n] = 0;
    fclose(f);
    *ret_n = (size_t)n;
    return data;
}

struct golden {
    cJSON *json, *header;
    char *file; /* golden.safetensors */
    const char *data;
};

static void golden_open(struct golden *g, const char *folder)
{
    size_t n;
    uint64_t header_bytes;
    char *text = read_file(path_of(folder, "golden.json"), &n);
    g->json = cJSON_Parse(text);
    free(text);
    g->file = read_file(path_of(folder, "golden.safetensors"), &n);
    memcpy(&header_bytes, g->file, 8);
    g->header = cJSON_ParseWithLength(g->file + 8, header_bytes);
    g->data = g->file + 8 + header_bytes;
    ck_assert(g->json && g->header);
}

static void golden_close(struct golden *g)
{
    cJSON_Delete(g->json);
    cJSON_Delete(g->header);
    free(g->file);
}

/* [n][vocab] of prompt i; copied, since files align nothing. */
static float *golden_logits(const struct golden *g, int i, int n, int vocab)
{
    char name[32];
    snprintf(name, sizeof(name), "logits_%d", i);
    const cJSON *at = cJSON_GetObjectItem(cJSON_GetObjectItem(g->header, name), "data_offsets");
    double from = cJSON_GetArrayItem(at, 0)->valuedouble, to = cJSON_GetArrayItem(at, 1)->valuedouble;
    size_t bytes = (size_t)n * (size_t)vocab * sizeof(float);
    ck_assert_uint_eq((size_t)(to - from), bytes);
    float *v = malloc(bytes);
    memcpy(v, g->data + (size_t)from, bytes);
    return v;
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

static double deviation(const float *v, size_t n)
{
    double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++)
        sum += v[i];
    for (size_t i = 0; i < n; i++)
        square += (v[i] - sum / (double)n) * (v[i] - sum / (double)n);
    return sqrt(square / (double)n);
}

static double log_sum_exp(const float *v, int n)
{
    double max = v[best(v, n)], sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp(v[i] - max);
    return max + log(sum);
}

static double divergence(const float *p, const float *q, int n)
{
    double zp = log_sum_exp(p, n), zq = log_sum_exp(q, n), kl = 0;
    for (int i = 0; i < n; i++)
        kl += exp(p[i] - zp) * ((p[i] - zp) - (q[i] - zq));
    return kl;
}

/* --- the checks -------------------------------------------------------------------------------- */

/* Logits of all prompts, computed in chunks of `chunk` tokens. */
static void check_logits(struct rig *r, const struct golden *g, int chunk, double max_sigmas,
                         const char *what)
{
    double worst = 0, kl = 0;
    int rows = 0, i = 0;
    const cJSON *prompt;
    cJSON_ArrayForEach(prompt, cJSON_GetObjectItem(g->json, "prompts"))
    {
        int32_t ids[MAX_LEN];
        int n = ids_of(prompt, ids);
        float *want = golden_logits(g, i++, n, r->vocab);
        double sigma = deviation(want, (size_t)n * (size_t)r->vocab);
        struct kv_seq *seq = NULL;
        ck_assert_int_eq(kv_seq_new(r->kv, 0, &seq), 0);
        for (int at = 0; at < n; at += chunk) {
            int m = n - at < chunk ? n - at : chunk;
            rig_step(r, seq, ids + at, m, m);
            for (int t = 0; t < m; t++, rows++) {
                const float *p = want + (size_t)(at + t) * (size_t)r->vocab;
                const float *q = r->logits + (size_t)t * (size_t)r->vocab;
                kl += divergence(p, q, r->vocab);
                for (int k = 0; k < r->vocab; k++)
                    worst = fmax(worst, fabs((double)p[k] - q[k]) / sigma);
            }
        }
        kv_seq_free(r->kv, &seq);
        free(want);
    }
    printf("# %s: worst logit %.2e sigma, mean KL %.2e over %d rows\n", what, worst, kl / rows, rows);
    fflush(stdout);
    ck_assert_msg(worst <= max_sigmas, "%s: a logit is %.3e sigma off", what, worst);
    ck_assert_msg(kl / rows < 1e-4, "%s: mean KL %.3e", what, kl / rows);
}

static void check_greedy(struct rig *r, const struct golden *g, const char *what)
{
    const cJSON *one;
    cJSON_ArrayForEach(one, cJSON_GetObjectItem(g->json, "greedy"))
    {
        int32_t ids[MAX_LEN];
        int n = ids_of(one, ids), prompt = n - N_GREEDY;
        struct kv_seq *seq = NULL;
        ck_assert_int_eq(kv_seq_new(r->kv, 0, &seq), 0);
        rig_step(r, seq, ids, prompt, 1);
        for (int i = prompt; i < n; i++) {
            int id = best(r->logits, r->vocab);
            ck_assert_msg(id == ids[i], "%s: greedy token %d of a prompt of %d is %d, not %d", what,
                          i - prompt, prompt, id, ids[i]);
            if (i + 1 < n)
                rig_step(r, seq, &ids[i], 1, 1);
        }
        kv_seq_free(r->kv, &seq);
    }
}

static bool ties(int folder)
{
    return strcmp(folders[folder], "deepseek_v32") == 0;
}

START_TEST(generic)
{
    struct rig r;
    struct golden g;
    golden_open(&g, folders[_i]);
    open_folder(&r, folders[_i], CPU_GENERIC, CACHE_F32);
    char what[64];
    snprintf(what, sizeof(what), "%s, generic", folders[_i]);
    check_logits(&r, &g, RIG_MAX_ROWS, ties(_i) ? 1.0 : 2e-3, what);
    check_greedy(&r, &g, what);
    rig_close(&r);
    golden_close(&g);
}
END_TEST

/* Chunks of a size that fits nothing; also the cache's own row type. */
START_TEST(levels)
{
    struct golden g;
    golden_open(&g, folders[_i]);
    for (int level = CPU_AVX2; level < CPU_LEVEL_MAX; level++) {
        struct rig r;
        char what[64];
        if (!cpu_level_available((enum cpu_level)level))
            continue;
        snprintf(what, sizeof(what), "%s, %s", folders[_i], cpu_level_name((enum cpu_level)level));
        open_folder(&r, folders[_i], (enum cpu_level)level, CACHE_F32);
        check_logits(&r, &g, 13, ties(_i) || kern_table((enum cpu_level)level)->attn_bf16 ? 1.0 : 2e-2, what);
        check_greedy(&r, &g, what);
        rig_close(&r);
        snprintf(what, sizeof(what), "%s, %s, bfloat16 cache", folders[_i],
                 cpu_level_name((enum cpu_level)level));
        open_folder(&r, folders[_i], (enum cpu_level)level, CACHE_BF16);
        check_logits(&r, &g, RIG_MAX_ROWS, 1.0, what);
        rig_close(&r);
    }
    golden_close(&g);
}
END_TEST

/* --- a text model inside another --------------------------------------------------------------- */

static void write_file(const char *dir, const char *name, const void *a, size_t n_a, const void *b,
                       size_t n_b)
{
    char path[4200];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(a, 1, n_a, f), n_a);
    ck_assert_uint_eq(fwrite(b, 1, n_b, f), n_b);
    ck_assert_int_eq(fclose(f), 0);
}

/* deepseek_v3 as the text part of kimi_k25: every tensor behind "language_model.". */
static void wrap(const char *dir)
{
    size_t n;
    uint64_t header_bytes;
    char *text = read_file(path_of("deepseek_v3", "config.json"), &n);
    cJSON *config = cJSON_CreateObject(), *part = cJSON_Parse(text), *v;
    cJSON_ReplaceItemInObject(part, "model_type", cJSON_CreateString("kimi_k2"));
    cJSON_AddStringToObject(config, "model_type", "kimi_k25");
    cJSON_AddItemToObject(config, "text_config", part);
    free(text);
    text = cJSON_PrintUnformatted(config);
    write_file(dir, "config.json", text, strlen(text), "", 0);
    cJSON_free(text);
    cJSON_Delete(config);

    char *file = read_file(path_of("deepseek_v3", "model.safetensors"), &n);
    memcpy(&header_bytes, file, 8);
    cJSON *header = cJSON_ParseWithLength(file + 8, header_bytes), *renamed = cJSON_CreateObject();
    cJSON_ArrayForEach(v, header)
    {
        char name[256];
        snprintf(name, sizeof(name), "%s%s", v->string[0] == '_' ? "" : "language_model.", v->string);
        cJSON_AddItemToObject(renamed, name, cJSON_Duplicate(v, 1));
    }
    char *out = cJSON_PrintUnformatted(renamed);
    uint64_t out_bytes = strlen(out);
    char *head = malloc(8 + out_bytes);
    memcpy(head, &out_bytes, 8);
    memcpy(head + 8, out, out_bytes);
    write_file(dir, "model.safetensors", head, 8 + out_bytes, file + 8 + header_bytes,
               n - 8 - header_bytes);
    free(head);
    cJSON_free(out);
    cJSON_Delete(header);
    cJSON_Delete(renamed);
    free(file);
}

START_TEST(wrapper)
{
    struct rig r;
    struct golden g;
    char dir[] = "/tmp/latentd-wrapper-XXXXXX", path[4200];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    wrap(dir);
    golden_open(&g, "deepseek_v3");
    open_path(&r, dir, CPU_GENERIC, CACHE_F32);
    check_logits(&r, &g, RIG_MAX_ROWS, 2e-3, "kimi_k25 around deepseek_v3");
    rig_close(&r);
    golden_close(&g);
    static const char *const names[] = {"config.json", "model.safetensors"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        ck_assert_int_eq(unlink(path), 0);
    }
    ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("fixtures");
    TCase *tc = tcase_create("families");
    tcase_set_timeout(tc, 600);
    tcase_add_loop_test(tc, generic, 0, N_FOLDERS);
    tcase_add_loop_test(tc, levels, 0, N_FOLDERS);
    tcase_add_test(tc, wrapper);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
