/* tests/forward/t_family.c - every folder of tests/data/family and tests/data/layout: logits against the
 * float64 reference that made it (tests/reference), and the same bits whichever way the
 * rows came to be in the cache.
 *
 * Programs walk the folder: a new mechanism needs a folder there, and no line here. */
#include "config.h"

#include <cjson/cJSON.h>
#include <check.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/kernels/kern.h"
#include "tests/forward/rig.h"

#define PAGE 8
#define MAX_LEN 128
#define MAX_FOLDERS 256

static char folders[MAX_FOLDERS][700];
static int n_folders;

struct golden {
    int n_tokens, n_positions, vocab;
    int32_t tokens[MAX_LEN];
    int positions[MAX_LEN];
    double *logits; /* [n_positions][vocab] */
};

static char *read_text(const char *path)
{
    FILE *f = fopen(path, "re");
    ck_assert_msg(f != NULL, "%s cannot be opened", path);
    size_t room = 1 << 22;
    char *text = calloc(1, room);
    ck_assert_uint_lt(fread(text, 1, room - 1, f), room - 1);
    fclose(f);
    return text;
}

static void golden_read(const char *folder, struct golden *g)
{
    char path[800];
    snprintf(path, sizeof(path), "%s/golden.json", folder);
    char *text = read_text(path);
    cJSON *o = cJSON_Parse(text);
    const cJSON *tokens = cJSON_GetObjectItem(o, "tokens"), *positions = cJSON_GetObjectItem(o, "positions");
    const cJSON *logits = cJSON_GetObjectItem(o, "logits"), *at, *row;
    int i = 0;
    g->n_tokens = cJSON_GetArraySize(tokens);
    g->n_positions = cJSON_GetArraySize(positions);
    ck_assert_msg(g->n_tokens > 2 * PAGE && g->n_tokens <= MAX_LEN, "%s: %d tokens", path, g->n_tokens);
    ck_assert_msg(g->n_positions > 0 && g->n_positions == cJSON_GetArraySize(logits), "%s: logits", path);
    g->vocab = cJSON_GetArraySize(cJSON_GetArrayItem(logits, 0));
    g->logits = calloc((size_t)g->n_positions * (size_t)g->vocab, sizeof(double));
    cJSON_ArrayForEach(at, tokens) g->tokens[i++] = at->valueint;
    i = 0;
    cJSON_ArrayForEach(at, positions) g->positions[i++] = at->valueint;
    i = 0;
    cJSON_ArrayForEach(row, logits) cJSON_ArrayForEach(at, row) g->logits[i++] = at->valuedouble;
    ck_assert_int_eq(i, g->n_positions * g->vocab);
    cJSON_Delete(o);
    free(text);
}

static void open_rig(struct rig *r, int i, enum cpu_level level, enum cache_type type)
{
    rig_open(r, folders[i], &(struct rig_options){level, type, PAGE, MAX_LEN, (uint64_t)8 << 20});
}

/* All logits of a prompt computed in chunks, as a sequence of its own. */
static float *compute(struct rig *r, const struct golden *g, struct kv_seq *seq, int chunk)
{
    size_t vocab = (size_t)r->vocab;
    float *all = calloc((size_t)g->n_tokens * vocab, sizeof(float));
    for (int at = (int)kv_seq_length(seq); at < g->n_tokens; at += chunk) {
        int n = g->n_tokens - at < chunk ? g->n_tokens - at : chunk;
        rig_step(r, seq, g->tokens + at, n, n);
        memcpy(all + (size_t)at * vocab, r->logits, (size_t)n * vocab * sizeof(float));
    }
    return all;
}

static struct kv_seq *new_seq(struct rig *r, uint64_t salt)
{
    struct kv_seq *s;
    ck_assert_int_eq(kv_seq_new(r->kv, salt, &s), 0);
    return s;
}

/* Largest difference over the largest value, at the golden positions; and both in the square mean. */
static double error_of(const struct golden *g, const float *logits, double *ret_square)
{
    double worst = 0, largest = 0, off = 0, size = 0;
    for (int i = 0; i < g->n_positions; i++) {
        for (int v = 0; v < g->vocab; v++) {
            double want = g->logits[i * g->vocab + v];
            double got = (double)logits[(size_t)g->positions[i] * (size_t)g->vocab + (size_t)v];
            ck_assert(isfinite(got));
            worst = fmax(worst, fabs(got - want));
            largest = fmax(largest, fabs(want));
            off += (got - want) * (got - want);
            size += want * want;
        }
    }
    *ret_square = sqrt(off / size);
    return worst / largest;
}

static const char *name_of(int i)
{
    return strrchr(folders[i], '/') + 1;
}

START_TEST(test_golden)
{
    struct golden g;
    struct rig r;
    golden_read(folders[_i], &g);
    for (int level = 0; level <= CPU_AMX; level++) {
        if (!kern_level_built((enum cpu_level)level))
            continue;
        open_rig(&r, _i, (enum cpu_level)level, CACHE_F32);
        ck_assert_int_eq(r.vocab, g.vocab);
        struct kv_seq *s = new_seq(&r, 1);
        float *all = compute(&r, &g, s, MAX_LEN);
        double square, e = error_of(&g, all, &square);
        double most = kern_table((enum cpu_level)level)->attn_bf16 ? 4e-2 : 1e-5;
        printf("# %s, level %d: %.2g\n", name_of(_i), level, e);
        fflush(stdout);
        ck_assert_msg(e < most, "%s, level %d: off by %g of the largest logit", name_of(_i), level, e);
        free(all);
        kv_seq_free(r.kv, &s);
        rig_close(&r);
    }
    free(g.logits);
}
END_TEST

static void same(const char *what, const char *name, const struct golden *g, const float *a,
                 const float *b, int from)
{
    for (int t = from; t < g->n_tokens; t++)
        ck_assert_msg(!memcmp(a + (size_t)t * (size_t)g->vocab, b + (size_t)t * (size_t)g->vocab,
                              (size_t)g->vocab * sizeof(float)),
                      "%s: %s: logits of token %d have other bits", name, what, t);
}

/* All ways in which the rows of a sequence may come to be. */
static void ways_of(struct rig *r, const struct golden *g, const char *name)
{
    int page = r->page_tokens;
    struct kv_seq *whole = new_seq(r, 1), *s;
    float *want = compute(r, g, whole, MAX_LEN), *got;
    int chunks[] = {1, 3, 8, 13};
    for (int i = 0; i < 4; i++) {
        s = new_seq(r, 2 + (uint64_t)i);
        got = compute(r, g, s, chunks[i]);
        same("in chunks", name, g, want, got, 0);
        free(got);
        kv_seq_free(r->kv, &s);
    }
    /* the prefix that another sequence has */
    s = new_seq(r, 1);
    int n = (int)kv_seq_match(r->kv, s, g->tokens, (uint32_t)g->n_tokens, (uint32_t)g->n_tokens - 1);
    ck_assert_int_ge(n, (g->n_tokens - 1) / page * page);
    got = compute(r, g, s, 5);
    same("after a shared prefix", name, g, want, got, n);
    free(got);
    kv_seq_free(r->kv, &s);
    /* a fork inside a page, and both go on */
    struct kv_seq *f = NULL;
    s = new_seq(r, 9);
    n = g->n_tokens / 2 / page * page + 3;
    rig_step(r, s, g->tokens, n, 1);
    ck_assert_int_eq(kv_seq_fork(r->kv, s, &f), 0);
    for (int i = 0; i < 2; i++) {
        got = compute(r, g, i ? s : f, i ? 1 : 4);
        same(i ? "after it was forked" : "after a fork", name, g, want, got, n);
        free(got);
    }
    kv_seq_free(r->kv, &f);
    /* cut inside a page, by as much more as rows of several tokens ask for; and parked */
    n = g->n_tokens / 2 / page * page + 5;
    ck_assert_int_eq(kv_seq_truncate(r->kv, s, (uint32_t)n), 0);
    ck_assert((int)kv_seq_length(s) <= n && (int)kv_seq_length(s) + page > n);
    n = (int)kv_seq_length(s);
    got = compute(r, g, s, 7);
    same("after it was cut", name, g, want, got, n);
    free(got);
    /* parked while a call of which some layers had run is given up */
    n = g->n_tokens - 6;
    kv_seq_free(r->kv, &s);
    s = new_seq(r, 11);
    rig_step(r, s, g->tokens, n, 1);
    ck_assert_int_eq(kv_seq_reserve(r->kv, s, 5), 0);
    struct forward_seq more = {kv_seq_pages(s, NULL), n, 5, g->tokens + n, 1, false, false};
    struct forward_batch begun = {1, &more, r->logits};
    ck_assert_int_eq(model_begin(r->model, &begun), 0);
    ck_assert_int_ge(model_continue(r->model, 0), 0);
    ck_assert_int_eq(kv_seq_truncate(r->kv, s, (uint32_t)n), 0);
    n = (int)kv_seq_length(s);
    struct kv_parked *parked = NULL;
    ck_assert_int_eq(kv_seq_park(r->kv, s, &parked), 0);
    kv_seq_free(r->kv, &s);
    kv_drop_cached(r->kv);
    s = new_seq(r, 11);
    int held = (int)kv_seq_match(r->kv, s, g->tokens, (uint32_t)n, (uint32_t)n);
    ck_assert_int_eq(held, 0); /* its pages were dropped: the parked ones are all */
    ck_assert_int_eq(kv_seq_unpark(r->kv, s, parked, g->tokens), 0);
    ck_assert_int_eq(kv_seq_length(s), n);
    got = compute(r, g, s, 2);
    same("after it was parked", name, g, want, got, n);
    free(got);
    kv_parked_free(&parked);
    kv_seq_free(r->kv, &s);
    kv_seq_free(r->kv, &whole);
    free(want);
}

static void check_ways(int folder, enum cpu_level level, enum cache_type type)
{
    struct golden g;
    struct rig r;
    golden_read(folders[folder], &g);
    open_rig(&r, folder, level, type);
    ways_of(&r, &g, name_of(folder));
    free(g.logits);
    rig_close(&r);
}

/* Sequences that begin at different times, some tokens of each in one call; the second one a call in
 * slices. */
static void check_batches(int folder, enum cpu_level level, enum cache_type type)
{
    struct golden g;
    struct rig r;
    struct kv_seq *seqs[3];
    int at[3] = {0}, turn = 0;
    golden_read(folders[folder], &g);
    open_rig(&r, folder, level, type);
    struct kv_seq *alone = new_seq(&r, 1);
    float *want = compute(&r, &g, alone, MAX_LEN);
    for (int i = 0; i < 3; i++)
        seqs[i] = new_seq(&r, 2 + (uint64_t)i);
    for (; at[0] < g.n_tokens || at[1] < g.n_tokens || at[2] < g.n_tokens; turn++) {
        struct forward_seq list[3];
        int n = 0, of[3], row = 0;
        for (int i = 0; i < 3; i++) {
            int tokens = 1 + (turn * 3 + i * 5) % 11, left = g.n_tokens - at[i];
            if (turn < 2 * i || left == 0)
                continue;
            tokens = tokens < left ? tokens : left;
            ck_assert_int_eq(kv_seq_reserve(r.kv, seqs[i], (uint32_t)tokens), 0);
            list[n] = (struct forward_seq){kv_seq_pages(seqs[i], NULL), at[i], tokens, g.tokens + at[i], 1,
                                           false, false};
            of[n++] = i;
        }
        if (n == 0)
            continue;
        struct forward_batch b = {n, list, r.logits};
        kv_step_begin(r.kv);
        if (turn % 2) {
            ck_assert_int_eq(model_begin(r.model, &b), 0);
            while (model_continue(r.model, 0) > 0)
                ;
        } else {
            ck_assert_int_eq(model_forward(r.model, &b), 0);
        }
        for (int k = 0; k < n; k++, row++) {
            int i = of[k];
            kv_seq_commit(r.kv, seqs[i], list[k].tokens, (uint32_t)list[k].n_tokens);
            at[i] += list[k].n_tokens;
            ck_assert_msg(!memcmp(want + (size_t)(at[i] - 1) * (size_t)g.vocab,
                                  r.logits + (size_t)row * (size_t)g.vocab, (size_t)g.vocab * sizeof(float)),
                          "%s: in a batch: logits of token %d have other bits", name_of(folder), at[i] - 1);
        }
        kv_step_end(r.kv);
    }
    for (int i = 0; i < 3; i++)
        kv_seq_free(r.kv, &seqs[i]);
    kv_seq_free(r.kv, &alone);
    free(want);
    free(g.logits);
    rig_close(&r);
}

/* Rows of 8 and 4 bits: refused by name, or near the truth and the same bits in chunks. */
static void check_narrow(int folder, enum cache_type type)
{
    struct golden g;
    struct rig r;
    struct err e = {0};
    struct checkpoint *ck = NULL;
    struct pool *pool = NULL;
    struct model *m = NULL;
    struct model_options mo = {.level = cpu_detect(),
                               .cache_type = type,
                               .page_tokens = PAGE,
                               .max_batch_tokens = 8,
                               .max_logit_rows = 8,
                               .max_seqs = 2,
                               .max_position = MAX_LEN};
    ck_assert_int_eq(checkpoint_open(folders[folder], &ck, &e), 0);
    ck_assert_int_eq(pool_new(1, 0, &pool, &e), 0);
    int refused = model_new(ck, &mo, pool, &m, &e);
    bool routed = ck->config.n_routed_experts > 0; /* a token near a tie may choose another expert */
    model_free(&m);
    pool_free(&pool);
    checkpoint_close(&ck);
    if (refused < 0) {
        ck_assert_int_eq(refused, ERR_UNSUPPORTED);
        ck_assert_str_eq(e.param, "cache_type");
        ck_assert_ptr_nonnull(strstr(e.text, "bf16 and f32 are accepted"));
        printf("# %s: %s is refused\n", name_of(folder), cache_type_name(type));
        return;
    }
    golden_read(folders[folder], &g);
    open_rig(&r, folder, cpu_detect(), type);
    struct kv_seq *a = new_seq(&r, 1), *b = new_seq(&r, 2);
    float *whole = compute(&r, &g, a, MAX_LEN), *chunks = compute(&r, &g, b, 3);
    double square, worst = error_of(&g, whole, &square);
    double most = type == CACHE_INT4 ? 0.9 : type == CACHE_FP8 ? 0.3 : 0.1;
    printf("# %s: %s: %.2g, %.2g in the square mean\n", name_of(folder), cache_type_name(type), worst,
           square);
    ck_assert_msg(square < most && (routed || worst < most), "%s: %s: off by %g, %g in the square mean",
                  name_of(folder), cache_type_name(type), worst, square);
    same("narrow rows in chunks", name_of(folder), &g, whole, chunks, 0);
    free(whole);
    free(chunks);
    free(g.logits);
    kv_seq_free(r.kv, &a);
    kv_seq_free(r.kv, &b);
    rig_close(&r);
}

START_TEST(test_batches)
{
    check_batches(_i, CPU_GENERIC, CACHE_BF16);
    check_batches(_i, cpu_detect(), CACHE_F32);
}
END_TEST

START_TEST(test_narrow)
{
    check_narrow(_i, CACHE_INT8);
    check_narrow(_i, CACHE_FP8);
    check_narrow(_i, CACHE_INT4);
    fflush(stdout);
}
END_TEST

START_TEST(test_ways)
{
    check_ways(_i, CPU_GENERIC, CACHE_F32);
    check_ways(_i, cpu_detect(), CACHE_BF16);
}
END_TEST

/* --- folders that are refused -------------------------------------------------------------------- */

static const struct {
    const char *folder, *patch, *param, *text;
} refusals[] = {
    {"gqa", "{\"attention_mechanism\": \"nope\"}", "attention_mechanism", "served are gqa"},
    {"gqa", "{\"attention_mechanism\": [\"gqa\"]}", "attention_mechanism", "list of 1"},
    {"gqa", "{\"attention_sink\": 4}", "attention_sink", "not known"},
    {"gqa", "{\"temporal_stride\": 2}", "temporal_stride", "mtla"},
    {"gqa", "{\"rotary_dim\": 7}", "rotary_dim", "even"},
    {"gqa", "{\"head_dim\": 0}", "head_dim", "2..16384"},
    {"gqa", "{\"num_attention_heads\": \"four\"}", "num_attention_heads", "integer"},
    {"gqa", "{\"knocking_heads\": \"cubic\"}", "knocking_heads", "none|linear|mlp"},
    {"qcqa", "{\"kv_head_map\": [[0, 1], [0, 1]]}", "kv_head_map", "one group for each"},
    {"qcqa", "{\"kv_head_map\": [0, 1, 99, 0, 1, 1]}", "kv_head_map", "99"},
    {"cla", "{\"kv_layer\": [1, 1, 2, 2]}", "kv_layer", "0..0"},
    {"mfa", "{\"kv_share_factor\": 2}", "kv_share_factor", "cannot share"},
    {"mtla", "{\"temporal_stride\": 0}", "temporal_stride", "1..64"},
    {"mtla", "{\"temporal_stride\": 65}", "temporal_stride", "1..64"},
    {"mtla_2_3", "{\"temporal_stride\": [3, 65]}", "temporal_stride", "1..64"},
    {"mlra_4", "{\"latent_branches\": 3}", "latent_branches", "2 and 4"},
    {"gla", "{\"latent_groups\": 3}", "latent_groups", "does not divide"},
    {"tucker", "{\"tucker_rank_k\": 9}", "tucker_rank_k", "even"},
    {"eg_mla", "{\"gate_norm\": \"none\"}", "gate_norm", "head|all"},
    {"mka", "{\"memory_decay\": 2}", "memory_decay", "0..1"},
    {"cca", "{\"rope_scaling\": {\"type\": \"yarn\"}}", "rope_scaling", "null"},
    {"mha", "{\"head_dim\": 8}", "", "shapes other"},
    {"gqa", "{\"qk_norm\": \"before\"}", "qk_norm", "none|rotated"},
    {"hunyuan_v1_moe", "{\"cla_share_factor\": 0}", "cla_share_factor", "1..1024"},
    {"hunyuan_v1_moe", "{\"use_mla\": true}", "use_mla", "false"},
    {"hunyuan_v1_moe", "{\"attention_bias\": true}", "attention_bias", "false"},
    {"hunyuan_v1_moe", "{\"moe_topk\": [1, 2, 2, 2]}", "moe_topk", "one number for all layers"},
    {"hunyuan_v1_moe", "{\"moe_topk\": 5}", "moe_topk", "1..4"},
    {"hunyuan_v1_moe", "{\"num_key_value_heads\": 3}", "", "shapes other"},
    {"hunyuan_v1_moe", "{\"rope_scaling/type\": \"linear\"}", "rope_scaling.type", "dynamic are served"},
    {"hunyuan_v1_moe", "{\"rope_scaling/alpha\": null}", "rope_scaling.alpha", "missing"},
    {"hunyuan_v1_moe", "{\"routed_scaling_factor\": 2.5}", "routed_scaling_factor", "must be 1"},
    {"hunyuan_v1_dense", "{\"num_experts\": 3}", "moe_topk", "list of 4"},
    {"step3_text", "{\"num_attention_groups\": 2}", "num_attention_groups", "must be 1"},
    {"step3_text", "{\"moe_layers_enum\": \"1,9\"}", "moe_layers_enum", "0..3"},
    {"step3_text", "{\"moe_layers_enum\": null}", "moe_layers_enum", "missing"},
    {"step3_text", "{\"max_position_embedding\": 0}", "max_position_embedding", "is 0"},
    {"step3_text", "{\"share_q_dim\": \"a\"}", "share_q_dim", "integer"},
    {"step3_text", "{\"moe_top_k\": 5}", "moe_top_k", "1..4"},
    {"llama_mtla", "{\"down_rate\": 0}", "down_rate", "1..64"},
    {"llama_mtla", "{\"down_rate\": 65}", "down_rate", "1..64"},
    {"llama_mtla", "{\"q_lora_rank\": 8}", "q_lora_rank", "must be 0"},
    {"llama_mtla", "{\"recompute_prompt_attn\": false}", "recompute_prompt_attn", "must be true"},
    {"llama_mtla", "{\"qk_nope_head_dim\": 4}", "qk_nope_head_dim", "size of a head, 8"},
    {"llama_mtla", "{\"rope_scaling/rope_type\": \"dynamic\"}", "rope_scaling.rope_type", "llama3 and yarn"},
    {"llama_mtla", "{\"rope_scaling/high_freq_factor\": 1}", "rope_scaling.high_freq_factor", "more than"},
    {"mha2mla", "{\"mha2mla_args\": null}", "model_type", "mla_layer_config.json"},
    {"mha2mla", "{\"mha2mla_args/svd_init_method\": \"split\"}", "mha2mla_args.svd_init_method", "joint"},
    {"mha2mla", "{\"mha2mla_args/partial_rope_version\": \"2-norm\"}", "mha2mla_args.partial_rope_version",
     "rope_freqs"},
    {"mha2mla", "{\"mha2mla_args/partial_rope_version\": \"x\"}", "mha2mla_args.partial_rope_version",
     "high, low, uniform"},
    {"mha2mla", "{\"mha2mla_args/rope_dim_for_mla\": 16}", "mha2mla_args.rope_dim_for_mla", "2..15"},
    {"mha2mla", "{\"mha2mla_args/is_gqa2mha2mla\": true}", "mha2mla_args.is_gqa2mha2mla", "false"},
    {"mha2mla", "{\"mha2mla_args/low_rank\": -1}", "mha2mla_args.low_rank", "1..16384"},
    {"mha2mla", "{\"rope_scaling\": {\"type\": \"linear\"}}", "rope_scaling.type", "llama3 and yarn"},
    {"mlra_published_4", "{\"kv_lora_rank\": null}", "model_type", "kv_lora_rank"},
    {"mlra_published_4", "{\"n_head\": 0}", "n_head", "1..1024"},
    {"mlra_published_2", "{\"n_embd\": 16}", "", "shapes other"},
    {"zaya", "{\"layer_types\": [\"hybrid\", \"hybrid_sliding\", \"hybrid\"]}", "layer_types", "layer 1"},
    {"zaya", "{\"num_experts_per_tok\": 2}", "num_experts_per_tok", "must be 1"},
    {"zaya", "{\"cca_time1\": 3}", "cca_time1", "must be 2"},
    {"zaya", "{\"ffn_hidden_size\": 4096}", "ffn_hidden_size", "older form"},
    {"zaya", "{\"rope_parameters/hybrid/rope_type\": \"yarn\"}", "rope_parameters.hybrid.rope_type",
     "default"},
    {"zaya", "{\"moe_intermediate_size\": null}", "moe_intermediate_size", "missing"},
    {"zaya", "{\"router_hidden_size\": 13}", "", "shapes other"},
    {"zaya", "{\"lm_head_bias\": true}", "lm_head_bias", "false"},
    {"hunyuan", "{\"num_shared_expert\": 64}", "", "shapes other"},
};

static void copy_file(const char *from, const char *to)
{
    char text[1 << 16];
    size_t n;
    FILE *in = fopen(from, "re"), *out = fopen(to, "we");
    ck_assert(in && out);
    while ((n = fread(text, 1, sizeof(text), in)) > 0)
        ck_assert_uint_eq(fwrite(text, 1, n, out), n);
    fclose(in);
    fclose(out);
}

/* Sets the item at a path of names with '/' between. */
static void patch_item(cJSON *config, const cJSON *item)
{
    char path[200], *save = NULL;
    snprintf(path, sizeof(path), "%s", item->string);
    char *name = strtok_r(path, "/", &save);
    for (char *next; (next = strtok_r(NULL, "/", &save)); name = next)
        ck_assert_ptr_nonnull(config = cJSON_GetObjectItemCaseSensitive(config, name));
    cJSON_DeleteItemFromObjectCaseSensitive(config, name);
    cJSON_AddItemToObject(config, name, cJSON_Duplicate(item, 1));
}

/* A folder with the weights of another and its configuration, patched; dir: the template of its name. */
static void patched_folder(const char *name, const char *patch, char *dir)
{
    char from[900], to[200];
    int at = 0;
    while (at < n_folders && strcmp(name_of(at), name))
        at++;
    ck_assert_msg(at < n_folders, "there is no folder %s", name);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(from, sizeof(from), "%s/model.safetensors", folders[at]);
    snprintf(to, sizeof(to), "%s/model.safetensors", dir);
    copy_file(from, to);
    snprintf(from, sizeof(from), "%s/config.json", folders[at]);
    char *text = read_text(from);
    cJSON *config = cJSON_Parse(text), *items = cJSON_Parse(patch);
    patch_item(config, items->child);
    char *out = cJSON_Print(config);
    snprintf(to, sizeof(to), "%s/config.json", dir);
    FILE *f = fopen(to, "we");
    ck_assert(f && fputs(out, f) >= 0);
    fclose(f);
    cJSON_free(out);
    cJSON_Delete(config);
    cJSON_Delete(items);
    free(text);
}

static void remove_patched(const char *dir)
{
    char path[200];
    snprintf(path, sizeof(path), "%s/config.json", dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    unlink(path);
    rmdir(dir);
}

START_TEST(test_refused)
{
    char dir[] = "/tmp/latentd-family-XXXXXX";
    struct checkpoint *ck = NULL;
    struct err e = {0};
    patched_folder(refusals[_i].folder, refusals[_i].patch, dir);
    int r = checkpoint_open(dir, &ck, &e);
    remove_patched(dir);
    ck_assert_msg(r < 0, "%s with %s was opened", refusals[_i].folder, refusals[_i].patch);
    if (*refusals[_i].param)
        ck_assert_str_eq(e.param, refusals[_i].param);
    ck_assert_msg(strstr(e.text, refusals[_i].text) != NULL, "%s: %s", refusals[_i].patch, e.text);
}
END_TEST

/* --- strides -------------------------------------------------------------------------------------- */

/* Every number of tokens that may share a row: pages are made of whole rows, and bits do not depend on how
 * rows came to be. */
START_TEST(test_strides)
{
    char dir[] = "/tmp/latentd-family-XXXXXX", patch[64], name[32];
    struct golden g = {.n_tokens = MAX_LEN, .vocab = 64};
    struct rig r;
    for (int i = 0; i < g.n_tokens; i++)
        g.tokens[i] = (i * 37 + i / 5 * _i) % g.vocab;
    snprintf(patch, sizeof(patch), "{\"temporal_stride\": %d}", _i);
    snprintf(name, sizeof(name), "a stride of %d", _i);
    patched_folder("mtla_5", patch, dir);
    rig_open(&r, dir, &(struct rig_options){cpu_detect(), _i % 2 ? CACHE_BF16 : CACHE_F32, PAGE, MAX_LEN,
                                            (uint64_t)8 << 20});
    remove_patched(dir);
    ck_assert_int_eq(r.vocab, g.vocab);
    ck_assert_int_eq(r.page_tokens % _i, 0);
    ck_assert_int_ge(r.page_tokens, PAGE);
    ck_assert_int_lt(r.page_tokens, _i > PAGE ? _i + 1 : 2 * PAGE);
    ways_of(&r, &g, name);
    rig_close(&r);
}
END_TEST

static const struct {
    const char *strides;
    uint32_t asked, page; /* 0: there is none */
} pages[] = {
    {"[2, 3]", 8, 12},    {"[2, 3]", 32, 48},    {"[3, 3]", 32, 48},   {"[2, 4]", 32, 32},
    {"[64, 64]", 32, 64}, {"[5, 3]", 256, 480},  {"[1, 7]", 32, 56},   {"[2, 3]", 96, 96},
    {"[33, 31]", 8, 1023}, {"[32, 31]", 32, 992}, {"[63, 64]", 32, 0}, {"[31, 34]", 256, 0},
};

START_TEST(test_pages)
{
    char dir[] = "/tmp/latentd-family-XXXXXX", patch[64];
    struct checkpoint *ck = NULL;
    struct pool *pool = NULL;
    struct model *m = NULL;
    struct err e = {0};
    struct model_options o = {.level = CPU_GENERIC, .cache_type = CACHE_F32, .page_tokens = pages[_i].asked,
                              .max_batch_tokens = 1, .max_logit_rows = 1, .max_seqs = 1, .max_position = 8};
    snprintf(patch, sizeof(patch), "{\"temporal_stride\": %s}", pages[_i].strides);
    patched_folder("mtla_2_3", patch, dir);
    ck_assert_msg(checkpoint_open(dir, &ck, &e) == 0, "%s", e.text);
    ck_assert_int_eq(pool_new(1, 0, &pool, &e), 0);
    int r = model_new(ck, &o, pool, &m, &e);
    remove_patched(dir);
    if (pages[_i].page) {
        ck_assert_msg(r == 0, "%s: %s", pages[_i].strides, e.text);
        ck_assert_uint_eq(model_page_tokens(m), pages[_i].page);
    } else {
        ck_assert_int_eq(r, ERR_UNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(e.text, "layer 1"));
        ck_assert_ptr_nonnull(strstr(e.text, "1024 tokens"));
    }
    model_free(&m);
    pool_free(&pool);
    checkpoint_close(&ck);
}
END_TEST

static void walk(const char *top, const char *below)
{
    char path[400];
    struct dirent **list;
    snprintf(path, sizeof(path), "%s%s", top, below);
    int n = scandir(path, &list, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        if (list[i]->d_name[0] != '.' && n_folders < MAX_FOLDERS)
            snprintf(folders[n_folders++], sizeof(folders[0]), "%s/%s", path, list[i]->d_name);
        free(list[i]);
    }
    if (n >= 0)
        free(list);
}

int main(void)
{
    const char *src = getenv("top_srcdir");
    const char *at = getenv("FAMILY_DATA");
    walk(at ? at : src ? src : ".", at ? "" : "/tests/data/family");
    if (!at)
        walk(src ? src : ".", "/tests/data/layout");
    Suite *s = suite_create("family");
    TCase *t = tcase_create("family");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, test_golden, 0, n_folders);
    tcase_add_loop_test(t, test_ways, 0, n_folders);
    tcase_add_loop_test(t, test_batches, 0, n_folders);
    tcase_add_loop_test(t, test_narrow, 0, n_folders);
    if (!at) {
        tcase_add_loop_test(t, test_refused, 0, (int)(sizeof(refusals) / sizeof(*refusals)));
        tcase_add_loop_test(t, test_strides, 1, 65);
        tcase_add_loop_test(t, test_pages, 0, (int)(sizeof(pages) / sizeof(*pages)));
    }
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed || n_folders == 0 ? 1 : 0;
}
