/* tests/forward/t_row_bytes.c - what a token of each published checkpoint takes in the cache: the family's
 * own reader and binding say which streams its layers keep, a cache with these streams holds 32,768
 * tokens, and its pages are counted. They must come to what the papers' formula says, and docs/cache.md
 * to the same.
 *
 * tests/data/checkpoints.json has the sizes of config.json, and beside them what the formula is made from.
 * Those without a config are of families that are not served: their streams are laid out by hand. */
#include "config.h"

#include <cjson/cJSON.h>
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/attention.h"
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
static uint64_t held_bytes(const struct shape *s, const struct kv_plane *planes, int n_planes,
                           int64_t a_token)
{
    struct kv *kv;
    struct kv_seq *seq;
    struct kv_stats st;
    struct err e = {0};
    const struct kv_config c = {.page_tokens = PAGE, .n_planes = (uint32_t)n_planes, .planes = planes,
                                .pool_bytes = (uint64_t)a_token * (CONTEXT + CONTEXT / 32), .max_seqs = 2,
                                .max_seq_tokens = CONTEXT};
    ck_assert_msg(kv_open(&c, &kv, &e) == 0, "%s: %s", s->name, e.text);
    ck_assert_int_eq(kv_seq_new(kv, 0, &seq), 0);
    ck_assert_int_eq(kv_seq_reserve(kv, seq, CONTEXT), 0);
    kv_stats_read(kv, &st);
    ck_assert_uint_eq(st.pages_held, CONTEXT / PAGE);
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
        uint64_t bytes = held_bytes(s, planes, n, want);
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

int main(void)
{
    Suite *s = suite_create("row_bytes");
    TCase *t = tcase_create("row_bytes");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, test_checkpoints);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
