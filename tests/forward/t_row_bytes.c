/* tests/forward/t_row_bytes.c - what a token of each published checkpoint takes in the cache: the family's
 * own reader and binding say which streams its layers keep, a cache with these streams holds 32,768
 * tokens, and its pages are counted. They must come to what the papers' formula says, and docs/cache.md
 * to the same.
 *
 * tests/data/checkpoints.json has the sizes of config.json, and beside them what the formula is made from.
 * The attention family's layers must take what their formulas say, to the byte a row; rows of several tokens
 * in pages of whole rows.
 * Those without a config are of families that are not served: their streams are laid out by hand. */
#include "config.h"

#include <cjson/cJSON.h>
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/family.h"
#include "engine/forward.h"
#include "engine/model/arch.h"
#include "engine/model/keys.h"
#include "kvcache/kvcache.h"

#define CONTEXT 32768
#define PAGE 32
#define MAX_PLANES (1024 * ATTENTION_MAX_PLANES)

struct shape {
    const char *name;
    int attentions, latent, rope, index;
    const cJSON *config; /* NULL: not served */
};

static char *read_text(const char *path)
{
    char name[4096];
    const char *src = getenv("top_srcdir");
    ck_assert_msg(src != NULL, "top_srcdir is not set");
    snprintf(name, sizeof(name), "%s/%s", src, path);
    FILE *f = fopen(name, "re");
    ck_assert_msg(f != NULL, "%s cannot be opened", name);
    char *text = calloc(1, 1 << 20);
    ck_assert_uint_lt(fread(text, 1, 1 << 20, f), (1 << 20) - 1);
    fclose(f);
    return text;
}

static int number(const cJSON *o, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
    return v ? v->valueint : 0;
}

static struct shape shape_of(const cJSON *o)
{
    return (struct shape){cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, "name")),
                          number(o, "attentions"), number(o, "latent"), number(o, "rope"), number(o, "index"),
                          cJSON_GetObjectItemCaseSensitive(o, "config")};
}

/* Bytes of a token in all layers: latents with a scale for each 128 or 32 of them, the rest in bfloat16; rows
 * of 8 and 4 bits are multiples of 16 bytes (kern.h). */
static int64_t formula(const struct shape *s, enum cache_type type)
{
    int64_t r = s->latent, rope = 2 * s->rope, index = 2 * s->index;
    int64_t row = type == CACHE_F32    ? 4 * r + 2 * (rope + index)
                  : type == CACHE_BF16 ? 2 * r + rope + index
                  : type == CACHE_INT4 ? (r / 2 + 2 * r / 32 + rope + 15) / 16 * 16 + index
                                       : (r + 4 * r / 128 + rope + 15) / 16 * 16 + index;
    return s->attentions * row;
}

static int planes_of_layers(const struct checkpoint *ck, enum tensor_type row_type, struct kv_plane *ret)
{
    int n = 0;
    for (int i = 0; i < ck->config.num_hidden_layers; i++) {
        const char *name = ck->layers[i].attention;
        const struct attention_ops *ops = attention_find(name ? name : "mla");
        ck_assert_ptr_nonnull(ops);
        n += ops->planes(&ck->config, &ck->layers[i], row_type, ret + n);
    }
    return n;
}

/* As a folder is read, but for its tensors: binding a file that has none still tells each layer's
 * mechanism. */
static int served_planes(const struct shape *s, enum tensor_type row_type, struct kv_plane *ret)
{
    struct checkpoint *ck = calloc(1, sizeof(*ck));
    struct tix *tix = calloc(1, sizeof(*tix));
    struct arena *arena = arena_new(1 << 22);
    struct err e = {0};
    struct keys k;
    const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(s->config, "model_type"));
    const struct arch *a = arch__by_hf_model_type(type);
    ck_assert_msg(a != NULL, "%s: %s is not served", s->name, type);
    keys__from_json(&k, s->config, "config.json", &e);
    a->config_hf(&k, tix, &ck->config);
    ck_assert_msg(k.r == 0, "%s: %s", s->name, e.text);
    if (ck->config.n_routed_experts) /* binding gives up where too much is missing; experts keep no rows */
        ck->config.n_routed_experts = 1;
    struct binder b = {.ck = ck, .tix = tix, .arena = arena, .format = FORMAT_HF, .label = "t", .e = &e};
    a->bind(&b);
    ck_assert_msg(b.r == 0 && ck->layers, "%s: %s", s->name, e.text);
    int n = planes_of_layers(ck, row_type, ret);
    arena_free(arena);
    free(tix);
    free(ck);
    return n;
}

static int laid_out_planes(const struct shape *s, enum tensor_type row_type, struct kv_plane *ret)
{
    struct model_config c = {.kv_lora_rank = s->latent, .qk_rope_head_dim = s->rope,
                             .index_head_dim = s->index};
    int n = 0;
    for (int i = 0; i < s->attentions; i++)
        n += attention_find(s->index ? "dsa" : "mla")->planes(&c, NULL, row_type, ret + n);
    return n;
}

/* Bytes of the pages that a sequence of CONTEXT tokens holds. */
static uint64_t held_bytes(const char *name, const struct kv_plane *planes, int n_planes, uint32_t page,
                           double a_token)
{
    struct kv *kv;
    struct kv_seq *seq;
    struct kv_stats st;
    struct err e = {0};
    const struct kv_config c = {.page_tokens = page, .n_planes = (uint32_t)n_planes, .planes = planes,
                                .pool_bytes = (uint64_t)(a_token * (CONTEXT + CONTEXT / 32)), .max_seqs = 2,
                                .max_seq_tokens = CONTEXT};
    ck_assert_msg(kv_open(&c, &kv, &e) == 0, "%s: %s", name, e.text);
    ck_assert_int_eq(kv_seq_new(kv, 0, &seq), 0);
    ck_assert_int_eq(kv_seq_reserve(kv, seq, CONTEXT), 0);
    kv_stats_read(kv, &st);
    ck_assert_uint_eq(st.pages_held, (CONTEXT + page - 1) / page);
    uint64_t bytes = st.pages_held * st.page_bytes;
    kv_seq_free(kv, &seq);
    kv_close(&kv);
    return bytes;
}

static const enum cache_type types[] = {CACHE_BF16, CACHE_INT8, CACHE_FP8, CACHE_INT4, CACHE_F32};

static void measure(const struct shape *s, char *row, size_t n_row)
{
    static struct kv_plane planes[MAX_PLANES];
    double a_token[5];
    for (int t = 0; t < 5; t++) {
        enum tensor_type row_type = cache_row_type(types[t]);
        int n = s->config ? served_planes(s, row_type, planes) : laid_out_planes(s, row_type, planes);
        int64_t want = formula(s, types[t]);
        ck_assert_int_eq(n, s->attentions * (s->index ? 2 : 1));
        uint64_t bytes = held_bytes(s->name, planes, n, PAGE, (double)want);
        a_token[t] = (double)bytes / CONTEXT;
        ck_assert_msg(a_token[t] >= (double)want && a_token[t] < 1.02 * (double)want,
                      "%s, cache type %d: %.1f bytes a token, %lld by the formula", s->name, (int)types[t],
                      a_token[t], (long long)want);
    }
    ck_assert(a_token[1] == a_token[2]); /* one column */
    snprintf(row, n_row, "| %s%s | %d x %d%s | %.0f | %.0f | %.0f | %.0f | %.2f |", s->name,
             s->config ? "" : " *", s->attentions, s->latent + s->rope, s->index ? " + 128" : "", a_token[0],
             a_token[1], a_token[3], a_token[4], a_token[0] * CONTEXT / (1 << 30));
}

START_TEST(test_checkpoints)
{
    char *json = read_text("tests/data/checkpoints.json"), *doc = read_text("docs/cache.md");
    cJSON *list = cJSON_Parse(json);
    const cJSON *at;
    int stale = 0, n = 0;
    ck_assert(cJSON_IsArray(list));
    cJSON_ArrayForEach(at, list)
    {
        struct shape s = shape_of(at);
        char row[256];
        measure(&s, row, sizeof(row));
        bool found = strstr(doc, row) != NULL;
        printf("%s %s\n", found ? "#" : "# not in docs/cache.md:", row);
        stale += !found;
        n++;
    }
    fflush(stdout);
    ck_assert_int_ge(n, 12);
    ck_assert_msg(stale == 0, "%d rows of the table in docs/cache.md are not what was measured", stale);
    cJSON_Delete(list);
    free(json);
    free(doc);
}
END_TEST

/* --- the attention family ---------------------------------------------------------------------- */

/* A number of layer i: the value of a key, or item i of its list. */
static double of_layer(const cJSON *config, const char *key, int i, double absent)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(config, key);
    if (cJSON_IsArray(v))
        v = cJSON_GetArrayItem(v, i);
    return cJSON_IsNumber(v) ? cJSON_GetNumberValue(v) : absent;
}

/* What a layer's tokens take, as the papers count: values of a row, and bytes besides; a state once a
 * page. */
struct family_row {
    double values, bytes, state;
};

static struct family_row family_formula(const cJSON *config, int i, const char *name)
{
    double h = of_layer(config, "num_attention_heads", i, 0),
           g = of_layer(config, "num_key_value_heads", i, h);
    double dh = of_layer(config, "head_dim", i, 0), d = of_layer(config, "hidden_size", i, 0);
    double r = of_layer(config, "kv_lora_rank", i, 0), rope = of_layer(config, "qk_rope_head_dim", i, 0);
    const cJSON *all = cJSON_GetObjectItemCaseSensitive(config, "gate_norm");
    if (!strcmp(name, "gqa"))
        return (struct family_row){2 * g * dh, 0, 0};
    if (!strcmp(name, "mfa"))
        return (struct family_row){2 * dh, 0, 0};
    if (!strcmp(name, "mfa_kr"))
        return (struct family_row){dh, 0, 0};
    if (!strcmp(name, "gta"))
        return (struct family_row){g * dh + dh / 2, 0, 0};
    if (!strcmp(name, "mla") || !strcmp(name, "mlra"))
        return (struct family_row){r + rope, 0, 0};
    if (!strcmp(name, "mtla"))
        return (struct family_row){(r + rope) / of_layer(config, "temporal_stride", i, 2), 0, 0};
    if (!strcmp(name, "mla_kvr"))
        return (struct family_row){r + g * rope, 0, 0};
    if (!strcmp(name, "mla_vlm"))
        return (struct family_row){r + g * rope, 1, 0};
    if (!strcmp(name, "gla"))
        return (struct family_row){of_layer(config, "latent_groups", i, 2) * r + rope, 0, 0};
    if (!strcmp(name, "lrkv"))
        return (struct family_row){2 * (dh + h * of_layer(config, "kv_residual_rank", i, 0)), 0, 0};
    if (!strcmp(name, "tucker"))
        return (struct family_row){
            of_layer(config, "tucker_rank_k", i, 0) + of_layer(config, "tucker_rank_v", i, 0), 0, 0};
    if (!strcmp(name, "tpa"))
        return (struct family_row){
            (of_layer(config, "tpa_rank_k", i, 0) + of_layer(config, "tpa_rank_v", i, 0)) * (h + dh), 0, 0};
    if (!strcmp(name, "eg_mla")) /* the token; mean and deviation where the norm is over all heads */
        return (struct family_row){r + rope, all && !strcmp(all->valuestring, "all") ? 12 : 4, 0};
    if (!strcmp(name, "moas"))
        return (struct family_row){2 * dh * (h + g + 1), 0, 0};
    if (!strcmp(name, "mka"))
        return (struct family_row){4 * g * dh, 0, 4 * d};
    if (!strcmp(name, "fast_mka"))
        return (struct family_row){2 * g * dh, 0, 4 * d};
    if (!strcmp(name, "cca")) /* two columns before the convolutions, one late value */
        return (struct family_row){2 * g * dh, 0, 4 * (2 * (h + g) * dh + g * dh / 2)};
    ck_abort_msg("no formula for %s", name);
}

static void measure_family(const char *folder, const char *name)
{
    struct checkpoint *ck = NULL;
    struct err e = {0};
    char path[512];
    snprintf(path, sizeof(path), "tests/data/family/%s/config.json", name);
    char *text = read_text(path);
    cJSON *config = cJSON_Parse(text);
    const cJSON *mechanism = cJSON_GetObjectItemCaseSensitive(config, "attention_mechanism");
    ck_assert_msg(checkpoint_open(folder, &ck, &e) == 0, "%s", e.text);
    for (int type = 0; type < 2; type++) {
        for (int i = 0; i < ck->config.num_hidden_layers; i++) {
            struct kv_plane planes[ATTENTION_MAX_PLANES];
            double token = 0, state = 0, size = type ? 4 : 2;
            const char *of = cJSON_GetStringValue(cJSON_IsArray(mechanism) ? cJSON_GetArrayItem(mechanism, i)
                                                                           : mechanism);
            struct family_row want = family_formula(config, i, of);
            int n = attention_find("family")->planes(&ck->config, &ck->layers[i], type ? TT_F32 : TT_BF16,
                                                     planes);
            for (int p = 0; p < n; p++) {
                if (planes[p].tokens_per_row == ATTENTION_WHOLE_PAGE)
                    state += planes[p].row_bytes;
                else
                    token += (double)planes[p].row_bytes / planes[p].tokens_per_row;
            }
            if (ck->layers[i].rows_from) /* rows of another layer: none of its own */
                want = (struct family_row){0, 0, 0};
            ck_assert_msg(token == want.values * size + want.bytes && state == want.state,
                          "%s, layer %d: %g bytes a token and %g a page, %g and %g by the formula", name,
                          i, token, state, want.values * size + want.bytes, want.state);
        }
    }
    checkpoint_close(&ck);
    cJSON_Delete(config);
    free(text);
}

START_TEST(test_family)
{
    char path[512];
    struct dirent **list;
    snprintf(path, sizeof(path), "%s/tests/data/family", getenv("top_srcdir"));
    int n = scandir(path, &list, NULL, alphasort);
    ck_assert_int_ge(n, 30);
    for (int i = 0; i < n; i++) {
        char folder[800];
        snprintf(folder, sizeof(folder), "%s/%s", path, list[i]->d_name);
        if (list[i]->d_name[0] != '.')
            measure_family(folder, list[i]->d_name);
        free(list[i]);
    }
    free(list);
}
END_TEST

/* --- rows of several tokens -------------------------------------------------------------------- */

static void set_number(struct family_layer *l, const char *key, int value)
{
    int i = 0;
    while (strcmp(l->mechanism->keys[i].name, key))
        i++;
    l->n[i] = value;
}

/* Both layers of a folder, with latents of published sizes: a token takes (r + rope) / s values of each, and
 * pages, made of whole rows of both, have no slack to speak of. */
static void measure_strides(struct checkpoint *ck, int a, int b, int latent, int rope, enum tensor_type type)
{
    struct kv_plane planes[2 * ATTENTION_MAX_PLANES];
    double size = type == TT_F32 ? 4 : 2, want = 0;
    uint32_t unit = kv_common_tokens((uint32_t)a, (uint32_t)b), page = unit;
    char name[100];
    int n = 0;
    snprintf(name, sizeof(name), "strides %d and %d, rows of %d + %d", a, b, latent, rope);
    for (int i = 0; i < 2; i++) {
        set_number(ck->layers[i].family, "temporal_stride", i ? b : a);
        set_number(ck->layers[i].family, "kv_lora_rank", latent);
        set_number(ck->layers[i].family, "qk_rope_head_dim", rope);
        n += attention_find("family")->planes(&ck->config, &ck->layers[i], type, planes + n);
        want += (latent + rope) * size / (i ? b : a);
    }
    ck_assert_int_eq(n, 2);
    for (int i = 0; i < 2; i++) {
        ck_assert_uint_eq(planes[i].row_bytes, (latent + rope) * size);
        ck_assert_uint_eq(planes[i].tokens_per_row, i ? b : a);
    }
    while (page < PAGE) /* as model_page_tokens has it */
        page *= 2;
    double is = (double)held_bytes(name, planes, n, page, want) / CONTEXT;
    ck_assert_msg(is >= want && is < 1.02 * want, "%s: %g bytes a token, %g by the formula", name, is, want);
}

START_TEST(test_strides)
{
    static const int mixed[][2] = {{2, 3}, {3, 4}, {5, 2}, {1, 7}, {6, 10}};
    struct checkpoint *ck = NULL;
    struct err e = {0};
    char path[512];
    snprintf(path, sizeof(path), "%s/tests/data/family/mtla", getenv("top_srcdir"));
    ck_assert_msg(checkpoint_open(path, &ck, &e) == 0, "%s", e.text);
    for (int type = 0; type < 2; type++) {
        for (int s = 1; s <= 64; s++) {
            measure_strides(ck, s, s, 512, 64, type ? TT_F32 : TT_BF16);
            measure_strides(ck, s, s, 256, 32, type ? TT_F32 : TT_BF16);
        }
        for (size_t i = 0; i < sizeof(mixed) / sizeof(*mixed); i++)
            measure_strides(ck, mixed[i][0], mixed[i][1], 512, 64, type ? TT_F32 : TT_BF16);
    }
    checkpoint_close(&ck);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("row_bytes");
    TCase *t = tcase_create("row_bytes");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, test_checkpoints);
    tcase_add_test(t, test_family);
    tcase_add_test(t, test_strides);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
