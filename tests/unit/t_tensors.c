/* tests/unit/t_tensors.c - folders whose tensors are missing, too many, of another shape or type, in the
 * wrong shard, or FP8: what the error says, and what is taken in silence. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/model/checkpoint.h"
#include "tests/forward/gguf_file.h"

#define CONFIG                                                                                              \
    "{\"model_type\":\"deepseek_v3\",\"vocab_size\":8,\"hidden_size\":32,\"intermediate_size\":32,"        \
    "\"num_hidden_layers\":1,\"num_attention_heads\":1,\"q_lora_rank\":null,\"kv_lora_rank\":32,"          \
    "\"qk_nope_head_dim\":32,\"qk_rope_head_dim\":32,\"v_head_dim\":32,\"max_position_embeddings\":64%s}"
#define LAYER "model.layers.0."

struct spec {
    const char *name;
    const char *dtype;
    int rows, cols; /* cols 0: a vector */
    int shard;
};

static const struct spec whole[] = {
    {"model.embed_tokens.weight", "F32", 8, 32, 1},
    {"model.norm.weight", "F32", 32, 0, 1},
    {"lm_head.weight", "BF16", 8, 32, 1},
    {LAYER "input_layernorm.weight", "F32", 32, 0, 1},
    {LAYER "self_attn.q_proj.weight", "F16", 64, 32, 1},
    {LAYER "self_attn.kv_a_proj_with_mqa.weight", "F32", 64, 32, 1},
    {LAYER "self_attn.kv_a_layernorm.weight", "F32", 32, 0, 2},
    {LAYER "self_attn.kv_b_proj.weight", "F32", 64, 32, 2},
    {LAYER "self_attn.o_proj.weight", "F32", 32, 32, 2},
    {LAYER "post_attention_layernorm.weight", "F32", 32, 0, 2},
    {LAYER "mlp.gate_proj.weight", "F32", 32, 32, 2},
    {LAYER "mlp.up_proj.weight", "F32", 32, 32, 2},
    {LAYER "mlp.down_proj.weight", "F32", 32, 32, 2},
};
#define N_WHOLE ((int)(sizeof(whole) / sizeof(whole[0])))
#define MAX_SPECS 24

static char dir[] = "/tmp/latentd-tensors-XXXXXX";
static struct spec specs[MAX_SPECS];
static int n_specs;
static const char *more_config;
static struct err e;

static void setup(void)
{
    memcpy(dir + sizeof(dir) - 7, "XXXXXX", 6);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    memcpy(specs, whole, sizeof(whole));
    n_specs = N_WHOLE;
    more_config = "";
}

static void put(const char *name, const void *data, size_t n)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, n, f), n);
    fclose(f);
}

static void teardown(void)
{
    static const char *const names[] = {"config.json", "model.safetensors", "a.safetensors",
                                        "b.safetensors", "model.safetensors.index.json",
                                        "generation_config.json"};
    char path[256];
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

static int width(const char *dtype)
{
    return strcmp(dtype, "F32") == 0 || strcmp(dtype, "I32") == 0 ? 4 : strncmp(dtype, "F8", 2) ? 2 : 1;
}

/* The tensors of a shard (0: all). Values are bytes 0x38: 1 as F8_E4M3, small numbers otherwise. */
static void put_weights(const char *name, int shard)
{
    static char header[16384], file[1 << 20];
    size_t n = 0, data = 0;
    for (int i = 0; i < n_specs; i++) {
        const struct spec *s = &specs[i];
        if (shard && s->shard != shard)
            continue;
        size_t bytes = (size_t)s->rows * (size_t)(s->cols ? s->cols : 1) * (size_t)width(s->dtype);
        char shape[32];
        snprintf(shape, sizeof(shape), s->cols ? "%d,%d" : "%d", s->rows, s->cols);
        n += (size_t)snprintf(header + n, sizeof(header) - n,
                              "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                              n ? ',' : '{', s->name, s->dtype, shape, data, data + bytes);
        data += bytes;
    }
    n += (size_t)snprintf(header + n, sizeof(header) - n, "}");
    ck_assert_uint_lt(8 + n + data, sizeof(file));
    memset(file, 0x38, sizeof(file));
    for (int i = 0; i < 8; i++)
        file[i] = (char)(n >> (8 * i));
    memcpy(file + 8, header, n);
    put(name, file, 8 + n + data);
}

static struct checkpoint *open_folder(void)
{
    static const char format[] = CONFIG;
    char config[2048];
    struct checkpoint *c = NULL;
    snprintf(config, sizeof(config), format, more_config);
    put("config.json", config, strlen(config));
    memset(&e, 0, sizeof(e));
    if (checkpoint_open(dir, &c, &e) < 0)
        ck_assert_ptr_null(c);
    return c;
}

static struct spec *of(const char *name)
{
    for (int i = 0; i < n_specs; i++)
        if (strcmp(specs[i].name, name) == 0)
            return &specs[i];
    ck_abort_msg("no tensor %s", name);
    return NULL;
}

static void add(const char *name, const char *dtype, int rows, int cols)
{
    ck_assert_int_lt(n_specs, MAX_SPECS);
    specs[n_specs++] = (struct spec){name, dtype, rows, cols, 1};
}

static void drop(const char *name)
{
    struct spec *s = of(name);
    memmove(s, s + 1, (size_t)(specs + n_specs - (s + 1)) * sizeof(*s));
    n_specs--;
}

static void opens(void)
{
    put_weights("model.safetensors", 0);
    struct checkpoint *c = open_folder();
    ck_assert_msg(c != NULL, "%s", e.text);
    checkpoint_close(&c);
}

/* The error must have this code and contain all of these. */
static void fails(int code, const char *a, const char *b)
{
    struct checkpoint *c = open_folder();
    ck_assert_msg(c == NULL, "it opened; wanted %s", a);
    ck_assert_msg(e.code == code, "code %d: %s", e.code, e.text);
    ck_assert_msg(strstr(e.text, a) != NULL, "\"%s\" is not in: %s", a, e.text);
    ck_assert_msg(strstr(e.text, b) != NULL, "\"%s\" is not in: %s", b, e.text);
}

START_TEST(test_whole)
{
    put_weights("model.safetensors", 0);
    struct checkpoint *c = open_folder();
    ck_assert_msg(c != NULL, "%s", e.text);
    ck_assert_str_eq(c->weight_types, "F32 79 %, F16 19 %, BF16 2 %");
    checkpoint_close(&c);
}
END_TEST

START_TEST(test_missing)
{
    drop(LAYER "mlp.up_proj.weight");
    put_weights("model.safetensors", 0);
    fails(ERR_FORMAT, "1 tensor is missing: " LAYER "mlp.up_proj.weight", "");
    ck_assert_str_eq(e.param, LAYER "mlp.up_proj.weight");
    drop(LAYER "mlp.down_proj.weight");
    drop(LAYER "self_attn.o_proj.weight");
    drop("model.norm.weight");
    drop("lm_head.weight");
    put_weights("model.safetensors", 0);
    fails(ERR_FORMAT, "5 tensors are missing: model.norm.weight, lm_head.weight", " and 2 more");
    /* a configuration may ask for far more than there is */
    more_config = ",\"n_routed_experts\":8000,\"moe_intermediate_size\":32,\"num_experts_per_tok\":1,"
                  "\"first_k_dense_replace\":0,\"n_group\":1,\"topk_group\":1,\"n_shared_experts\":0,"
                  "\"routed_scaling_factor\":1";
    fails(ERR_FORMAT, "at least 20000 tensors are missing", "more");
}
END_TEST

START_TEST(test_shape_and_type)
{
    of(LAYER "self_attn.o_proj.weight")->rows = 33;
    put_weights("model.safetensors", 0);
    fails(ERR_FORMAT, "self_attn.o_proj.weight is {32, 33}, wanted {32, 32}", "1 tensor has a shape");
    of(LAYER "mlp.up_proj.weight")->dtype = "I32";
    put_weights("model.safetensors", 0);
    fails(ERR_FORMAT, "1 tensor has a shape", "up_proj.weight is I32");
    of(LAYER "self_attn.o_proj.weight")->rows = 32;
    put_weights("model.safetensors", 0);
    fails(ERR_UNSUPPORTED, "up_proj.weight is I32", "served are F32");
}
END_TEST

START_TEST(test_extra)
{
    add(LAYER "self_attn.q_proj.bias", "F32", 64, 0);
    add("model.layers.1.input_layernorm.weight", "F32", 32, 0);
    put_weights("model.safetensors", 0);
    fails(ERR_FORMAT, "2 tensors are not part of this model", LAYER "self_attn.q_proj.bias");
}
END_TEST

/* What does not change the result: some of it only where the configuration says so. */
START_TEST(test_ignored)
{
    add(LAYER "self_attn.rotary_emb.inv_freq", "F32", 16, 0);
    opens();
    add("model.layers.1.mlp.up_proj.weight", "F32", 4, 4);
    put_weights("model.safetensors", 0);
    fails(ERR_FORMAT, "model.layers.1.mlp.up_proj.weight", "not part of this model");
    more_config = ",\"num_nextn_predict_layers\":1";
    opens();
    more_config = ",\"num_nextn_predict_layers\":1,\"tie_word_embeddings\":true";
    opens();
}
END_TEST

START_TEST(test_shards)
{
    char index[4096];
    size_t n = (size_t)snprintf(index, sizeof(index), "{\"weight_map\":{");
    for (int i = 0; i < n_specs; i++)
        n += (size_t)snprintf(index + n, sizeof(index) - n, "%s\"%s\":\"%c.safetensors\"", i ? "," : "",
                              specs[i].name, specs[i].shard == 1 ? 'a' : 'b');
    snprintf(index + n, sizeof(index) - n, "}}");
    put("model.safetensors.index.json", index, strlen(index));
    put_weights("a.safetensors", 1);
    fails(ERR_NOTFOUND, "file b.safetensors", "is missing");
    put_weights("b.safetensors", 2);
    struct checkpoint *c = open_folder();
    ck_assert_msg(c != NULL, "%s", e.text);
    checkpoint_close(&c);
    of("model.norm.weight")->shard = 2;
    put_weights("a.safetensors", 1);
    put_weights("b.safetensors", 2);
    fails(ERR_FORMAT, "model.norm.weight, said to be in a.safetensors, is in b.safetensors", "");
    of("model.norm.weight")->shard = 3;
    put_weights("b.safetensors", 2);
    fails(ERR_FORMAT, "model.norm.weight, said to be in a.safetensors, is in none", "");
    of("model.norm.weight")->shard = 1;
    put_weights("a.safetensors", 1);
    add("lm_head.weight", "F32", 8, 32);
    specs[n_specs - 1].shard = 2;
    put_weights("b.safetensors", 2);
    fails(ERR_FORMAT, "tensor lm_head.weight occurs twice", "a.safetensors");
}
END_TEST

#define FP8(size) ",\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":" size "}"

START_TEST(test_fp8)
{
    float row[32], scale;
    unsigned char bytes[4] = {0x38, 0x38, 0x38, 0x38};
    memcpy(&scale, bytes, sizeof(scale));
    of(LAYER "mlp.up_proj.weight")->dtype = "F8_E4M3";
    more_config = FP8("[128,128]");
    put_weights("model.safetensors", 0);
    fails(ERR_FORMAT, "1 tensor is missing: " LAYER "mlp.up_proj.weight_scale_inv", "");
    add(LAYER "mlp.up_proj.weight_scale_inv", "F32", 2, 1);
    put_weights("model.safetensors", 0);
    fails(ERR_FORMAT, "weight_scale_inv is {1, 2}, wanted {1, 1}", "128x128");
    specs[n_specs - 1].rows = 1;
    put_weights("model.safetensors", 0);
    struct checkpoint *c = open_folder();
    ck_assert_msg(c != NULL, "%s", e.text);
    tensor_row_f32(&c->layers[0].dense.up, 31, row); /* 0x38 is 1 */
    ck_assert(row[0] == scale && row[31] == scale);
    ck_assert_ptr_nonnull(strstr(c->weight_types, "F8_E4M3"));
    checkpoint_close(&c);
    more_config = FP8("[64,128]");
    fails(ERR_UNSUPPORTED, "weight_block_size is [64, 128]", "[128, 128] is served");
    more_config = FP8("null");
    fails(ERR_UNSUPPORTED, "weight_block_size is missing", "");
    more_config = ",\"quantization_config\":{\"quant_method\":\"awq\"}";
    fails(ERR_UNSUPPORTED, "awq", "fp8");
}
END_TEST

/* --- split GGUF -------------------------------------------------------------------------------------- */

static float temperature_scale; /* below 0: the key is not there */
static const char *general_name;

static void part_name(int no, int count, char *dst, size_t n)
{
    snprintf(dst, n, "%s/m-%05d-of-%05d.gguf", dir, no, count);
}

/* A part of a dense model of one layer: tensors [from, to) of the list. The first part has the keys. */
static void put_part(int file_no, int no, int count, int from, int to, int n_tensors)
{
    static const struct {
        const char *name;
        int64_t ne[2];
    } list[] = {{"token_embd.weight", {32, 8}},          {"output_norm.weight", {32, 1}},
                {"blk.0.attn_norm.weight", {32, 1}},     {"blk.0.attn_q.weight", {32, 64}},
                {"blk.0.attn_kv_a_mqa.weight", {32, 64}}, {"blk.0.attn_kv_a_norm.weight", {32, 1}},
                {"blk.0.attn_kv_b.weight", {32, 64}},    {"blk.0.attn_output.weight", {32, 32}},
                {"blk.0.ffn_norm.weight", {32, 1}},      {"blk.0.ffn_gate.weight", {32, 32}},
                {"blk.0.ffn_up.weight", {32, 32}},       {"blk.0.ffn_down.weight", {32, 32}}};
    static const float values[32 * 64];
    static const struct {
        const char *key;
        int value;
    } keys[] = {{"block_count", 1}, {"context_length", 64}, {"embedding_length", 32},
                {"feed_forward_length", 32}, {"attention.head_count", 1}, {"attention.kv_lora_rank", 32},
                {"attention.key_length", 64}, {"attention.value_length", 32},
                {"rope.dimension_count", 32}};
    char path[256];
    struct gguf_file *g = gguf_file_new("deepseek2");
    gguf_file_plain_u32(g, "split.no", no);
    gguf_file_plain_u32(g, "split.count", count);
    gguf_file_plain_u32(g, "split.tensors.count", n_tensors);
    for (size_t i = 0; no == 0 && i < sizeof(keys) / sizeof(*keys); i++)
        gguf_file_u32(g, keys[i].key, keys[i].value);
    if (no == 0)
        gguf_file_f32(g, "attention.layer_norm_rms_epsilon", 1e-6f);
    if (no == 0 && temperature_scale >= 0)
        gguf_file_f32(g, "attention.temperature_scale", temperature_scale);
    if (no == 0 && general_name)
        gguf_file_plain_string(g, "general.name", general_name);
    for (int i = from; i < to; i++) {
        struct tensor t = {.type = TT_F32, .n_dims = list[i].ne[1] > 1 ? 2 : 1, .data = values,
                           .ne = {list[i].ne[0], list[i].ne[1], 1, 1}};
        t.n_bytes = (size_t)(t.ne[0] * t.ne[1]) * sizeof(float);
        gguf_file_tensor(g, list[i].name, &t);
    }
    part_name(file_no, count, path, sizeof(path));
    gguf_file_write(g, path);
}

/* Opens part `no`; code 0: it must open. */
static void open_split(int no, int code, const char *text)
{
    char path[256];
    struct checkpoint *c = NULL;
    part_name(no, 2, path, sizeof(path));
    memset(&e, 0, sizeof(e));
    int r = checkpoint_open(path, &c, &e);
    ck_assert_msg(r == code, "%d, not %d: %s", r, code, e.text);
    ck_assert_msg(strstr(e.text, text) != NULL, "\"%s\" is not in: %s", text, e.text);
    checkpoint_close(&c);
}

START_TEST(test_split)
{
    char path[256], other[256];
    temperature_scale = -1;
    put_part(1, 0, 2, 0, 5, 12);
    open_split(1, ERR_NOTFOUND, "00002-of-00002.gguf");
    put_part(2, 1, 2, 5, 12, 12);
    open_split(1, 0, "");
    open_split(2, ERR_FORMAT, "split.no"); /* not the first */
    put_part(2, 0, 2, 5, 12, 12);
    open_split(1, ERR_FORMAT, "split.no"); /* another part under its name */
    put_part(2, 1, 3, 5, 12, 12);
    part_name(2, 3, other, sizeof(other));
    part_name(2, 2, path, sizeof(path));
    ck_assert_int_eq(rename(other, path), 0);
    open_split(1, ERR_FORMAT, "split.count"); /* of a model in three parts */
    put_part(2, 1, 2, 4, 12, 12);
    open_split(1, ERR_FORMAT, "tensors.count"); /* of a model cut elsewhere */
    put_part(1, 0, 2, 0, 5, 13);
    open_split(1, ERR_FORMAT, "occurs twice");
    put_part(2, 1, 2, 5, 11, 11);
    put_part(1, 0, 2, 0, 5, 11);
    open_split(1, ERR_FORMAT, "1 tensor is missing: blk.0.ffn_down.weight");
    unlink(path);
    part_name(1, 2, path, sizeof(path));
    unlink(path);
}
END_TEST

/* Mistral-Large-3's layers are DeepSeek's, but its queries grow with their position: without that it would
 * write other text behind its first 8192 positions, in silence. */
START_TEST(test_tempered)
{
    char path[256];
    put_part(2, 1, 2, 5, 12, 12);
    temperature_scale = 0;
    put_part(1, 0, 2, 0, 5, 12);
    open_split(1, 0, "");
    temperature_scale = 0.1f;
    put_part(1, 0, 2, 0, 5, 12);
    open_split(1, ERR_UNSUPPORTED, "deepseek2.attention.temperature_scale");
    for (int i = 1; i <= 2; i++) {
        part_name(i, 2, path, sizeof(path));
        unlink(path);
    }
    put_weights("model.safetensors", 0);
    more_config = ",\"llama_4_scaling\":{\"original_max_position_embeddings\":8192,\"beta\":0.1}";
    fails(ERR_UNSUPPORTED, "llama_4_scaling", "");
    more_config = ",\"rope_parameters\":{\"rope_theta\":10000,\"llama_4_scaling_beta\":0.1}";
    fails(ERR_UNSUPPORTED, "rope_parameters.llama_4_scaling_beta", "");
    more_config = ",\"llama_4_scaling\":null,\"rope_parameters\":{\"llama_4_scaling_beta\":0}";
    opens();
}
END_TEST

/* What ends a generation: generation_config.json has the last word, and of a model within another the part
 * that is served speaks too. */
START_TEST(test_ends)
{
    static char names[N_WHOLE][96], config[2048];
    put_weights("model.safetensors", 0);
    more_config = ",\"bos_token_id\":7,\"eos_token_id\":[1,2]";
    struct checkpoint *c = open_folder();
    ck_assert_msg(c != NULL, "%s", e.text);
    ck_assert(c->tokenizer.eos_token_id == 1 && c->tokenizer.n_eos_extra == 2);
    checkpoint_close(&c);
    put("generation_config.json", "{\"eos_token_id\":3}", 18);
    ck_assert_ptr_nonnull(c = open_folder());
    ck_assert(c->tokenizer.eos_token_id == 3 && c->tokenizer.n_eos_extra == 0);
    ck_assert_int_eq(c->tokenizer.bos_token_id, 7);
    checkpoint_close(&c);
    for (int i = 0; i < N_WHOLE; i++) {
        snprintf(names[i], sizeof(names[i]), "language_model.%s", specs[i].name);
        specs[i].name = names[i];
    }
    put_weights("model.safetensors", 0);
    put("generation_config.json", "{}", 2);
    int n = snprintf(config, sizeof(config),
                     "{\"model_type\":\"kimi_vl\",\"pad_token_id\":6,\"text_config\":");
    snprintf(config + n, sizeof(config) - (size_t)n, CONFIG "}", more_config);
    put("config.json", config, strlen(config));
    ck_assert_msg(checkpoint_open(dir, &c, &e) == 0, "%s", e.text);
    ck_assert_int_eq(c->tokenizer.bos_token_id, 7);
    ck_assert(c->tokenizer.eos_token_id == 1 && c->tokenizer.n_eos_extra == 2);
    ck_assert_int_eq(c->tokenizer.pad_token_id, 6);
    checkpoint_close(&c);
}
END_TEST

/* Which of the two places of the rotary embedding counts: rope_scaling, as in transformers, where both say
 * something. */
START_TEST(test_rope)
{
    static const char yarn[] = ",\"rope_parameters\":{\"rope_theta\":500,\"rope_type\":\"default\"},"
                               "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}";
    put_weights("model.safetensors", 0);
    more_config = yarn;
    struct checkpoint *c = open_folder();
    ck_assert_msg(c != NULL, "%s", e.text);
    ck_assert_int_eq(c->config.rope_scaling.type, ROPE_SCALING_YARN);
    ck_assert(c->config.rope_scaling.factor == 4.0f && c->config.rope_theta == 500.0f);
    checkpoint_close(&c);
    more_config = ",\"rope_scaling\":{},\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":8}";
    ck_assert_ptr_nonnull(c = open_folder());
    ck_assert(c->config.rope_scaling.type == ROPE_SCALING_YARN && c->config.rope_scaling.factor == 8.0f);
    checkpoint_close(&c);
    more_config = ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}";
    fails(ERR_UNSUPPORTED, "rope_parameters.partial_rotary_factor", "must be 1");
    more_config = ",\"rope_parameters\":{\"partial_rotary_factor\":1.0}";
    opens();
}
END_TEST

/* null is "none" where the reference takes it so, not "left out". */
START_TEST(test_null)
{
    struct checkpoint *c = NULL;
    char config[2048];
    more_config = ",\"n_routed_experts\":2,\"moe_intermediate_size\":32,\"num_experts_per_tok\":1,"
                  "\"first_k_dense_replace\":1,\"n_group\":1,\"topk_group\":1,"
                  "\"routed_scaling_factor\":1,\"n_shared_experts\":null";
    put_weights("model.safetensors", 0);
    c = open_folder();
    ck_assert_msg(c != NULL, "%s", e.text);
    ck_assert_int_eq(c->config.n_shared_experts, 0);
    checkpoint_close(&c);
    snprintf(config, sizeof(config), CONFIG, ",\"scale_depth\":null,\"dim_model_base\":null");
    memcpy(strstr(config, "deepseek_v3\""), "minicpm3\"   ", 12);
    put("config.json", config, strlen(config));
    ck_assert_msg(checkpoint_open(dir, &c, &e) == 0, "%s", e.text);
    ck_assert(c->config.residual_scale == 1.0f && c->config.logit_scale == 1.0f);
    checkpoint_close(&c);
}
END_TEST

/* A folder that is named by where it is has its own name all the same; one that is too long is cut, between
 * characters. */
START_TEST(test_name)
{
    struct checkpoint *c = NULL;
    char here[4096], path[256], name[201] = "";
    for (int i = 0; i < 100; i++)
        memcpy(name + 2 * i, "\xc3\xa9", 3);
    general_name = name;
    temperature_scale = -1;
    put_part(1, 0, 1, 0, 12, 12);
    part_name(1, 1, path, sizeof(path));
    ck_assert_msg(checkpoint_open(path, &c, &e) == 0, "%s", e.text);
    ck_assert_uint_eq(strlen(c->config.name), 126);
    checkpoint_close(&c);
    unlink(path);
    opens();
    ck_assert(getcwd(here, sizeof(here)) && chdir(dir) == 0);
    ck_assert_msg(checkpoint_open(".", &c, &e) == 0, "%s", e.text);
    ck_assert_str_eq(c->config.name, strrchr(dir, '/') + 1);
    checkpoint_close(&c);
    ck_assert_int_eq(chdir(here), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tensors");
    TCase *tc = tcase_create("tensors");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_whole);
    tcase_add_test(tc, test_missing);
    tcase_add_test(tc, test_shape_and_type);
    tcase_add_test(tc, test_extra);
    tcase_add_test(tc, test_ignored);
    tcase_add_test(tc, test_shards);
    tcase_add_test(tc, test_fp8);
    tcase_add_test(tc, test_split);
    tcase_add_test(tc, test_tempered);
    tcase_add_test(tc, test_ends);
    tcase_add_test(tc, test_rope);
    tcase_add_test(tc, test_null);
    tcase_add_test(tc, test_name);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
