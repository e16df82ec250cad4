/* tests/convert/t_convert.c - folders become GGUF files that say the same: every family of tests/data/hf
 * in F16 (the reference's greedy ids), Q8_0 and the other types (error of the logits), through the same
 * code as latent-convert. Then parts, copies, and what must fail.
 *
 * Q8_0 leaves 0.53 % of a normal matrix, and a product with it another 0.4 % for its activations: dense
 * models stay within 1 % of the logits. Where experts are chosen a token may get others, and its row is
 * then far off; there the row in the middle is looked at. */
#include "config.h"

#include <check.h>
#include <cjson/cJSON.h>
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/kernels/kern.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/forward/rig.h"
#include "tools/convert/emit.h"
#include "tools/convert/plan.h"

#define MAX_LEN 512
#define N_GREEDY 16
#define PATH_BYTES 4096

static const char *const folders[] = {
    "deepseek_v2", "deepseek_v2_group", "deepseek_v3", "deepseek_v32",
    "glm4_moe_lite", "longcat_flash", "minicpm3", "youtu",
};
#define N_FOLDERS ((int)(sizeof(folders) / sizeof(folders[0])))

static char scratch[] = "t_convert.XXXXXX";

static void folder_path(const char *folder, const char *file, char dst[PATH_BYTES])
{
    const char *top = getenv("top_srcdir");
    snprintf(dst, PATH_BYTES, "%s/tests/data/hf/%s%s%s", top ? top : ".", folder, file[0] ? "/" : "", file);
}

/* --- converting -------------------------------------------------------------------------------- */

static int convert_with(const char *in, const char *out, const char *type, struct plan_options o, bool force,
                        struct err *e)
{
    struct source s = {0};
    struct plan p = {0};
    struct emit_options eo = {.path = out, .n_threads = 2, .quiet = true, .force = force};
    o.recipe = recipe_find(type);
    ck_assert(o.recipe != NULL);
    int r = source_open(in, &s, e);
    if (r == 0)
        r = plan_make(&s, &o, &p, e);
    if (r == 0)
        r = emit_run(&p, &eo, e);
    plan_done(&p);
    source_close(&s);
    return r;
}

static void convert(const char *in, const char *out, const char *type)
{
    struct err e = {0};
    ck_assert_msg(convert_with(in, out, type, (struct plan_options){0}, true, &e) == 0, "%s", e.text);
}

/* --- running ----------------------------------------------------------------------------------- */

static void open_generic(struct rig *r, const char *path)
{
    struct rig_options o = {.level = CPU_GENERIC, .cache_type = CACHE_F32, .page_tokens = 16,
                            .max_len = MAX_LEN, .pool_bytes = 16u << 20};
    rig_open(r, path, &o);
}

static cJSON *golden(const char *folder)
{
    char path[PATH_BYTES], *text = malloc(1 << 20);
    folder_path(folder, "golden.json", path);
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f && text, "cannot open %s", path);
    size_t n = fread(text, 1, (1 << 20) - 1, f);
    text[n] = 0;
    fclose(f);
    cJSON *json = cJSON_Parse(text);
    ck_assert(json != NULL);
    free(text);
    return json;
}

static int ids_of(const cJSON *array, int32_t *out)
{
    int n = 0;
    const cJSON *v;
    cJSON_ArrayForEach(v, array)
    {
        ck_assert_int_lt(n, RIG_MAX_ROWS);
        out[n++] = v->valueint;
    }
    return n;
}

static int best(const float *v, int n)
{
    int at = 0;
    for (int i = 1; i < n; i++)
        if (v[i] > v[at])
            at = i;
    return at;
}

static void check_greedy(struct rig *r, const cJSON *g, const char *what)
{
    const cJSON *one;
    cJSON_ArrayForEach(one, cJSON_GetObjectItem(g, "greedy"))
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

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

struct distance {
    double all, middle; /* rms of the difference over the rms of a's logits: of all rows, of the median row */
};

static struct distance distance(struct rig *a, struct rig *b, const cJSON *g)
{
    double diff = 0, sum = 0, rows[8 * RIG_MAX_ROWS];
    int n_rows = 0;
    const cJSON *prompt;
    cJSON_ArrayForEach(prompt, cJSON_GetObjectItem(g, "prompts"))
    {
        int32_t ids[MAX_LEN];
        int n = ids_of(prompt, ids);
        struct rig *rigs[2] = {a, b};
        for (int k = 0; k < 2; k++) {
            struct kv_seq *seq = NULL;
            ck_assert_int_eq(kv_seq_new(rigs[k]->kv, 0, &seq), 0);
            rig_step(rigs[k], seq, ids, n, n);
            kv_seq_free(rigs[k]->kv, &seq);
        }
        for (int row = 0; row < n; row++) {
            double row_diff = 0, row_sum = 0;
            for (int i = row * a->vocab; i < (row + 1) * a->vocab; i++) {
                row_diff += ((double)a->logits[i] - b->logits[i]) * ((double)a->logits[i] - b->logits[i]);
                row_sum += (double)a->logits[i] * a->logits[i];
            }
            ck_assert_int_lt(n_rows, 8 * RIG_MAX_ROWS);
            rows[n_rows++] = sqrt(row_diff / row_sum);
            diff += row_diff;
            sum += row_sum;
        }
    }
    qsort(rows, (size_t)n_rows, sizeof(*rows), by_value);
    return (struct distance){sqrt(diff / sum), rows[n_rows / 2]};
}

/* --- the tests --------------------------------------------------------------------------------- */

static struct distance folder_against(const char *folder, const char *out, const char *type, bool greedy)
{
    char in[PATH_BYTES], what[96];
    struct rig a, b;
    cJSON *g = golden(folder);
    folder_path(folder, "", in);
    convert(in, out, type);
    open_generic(&a, in);
    open_generic(&b, out);
    struct distance d = distance(&a, &b, g);
    printf("# %s as %s: relative logit error %.2e, median row %.2e\n", folder, type, d.all, d.middle);
    fflush(stdout);
    snprintf(what, sizeof(what), "%s as %s", folder, type);
    if (greedy)
        check_greedy(&b, g, what);
    rig_close(&a);
    rig_close(&b);
    cJSON_Delete(g);
    return d;
}

static void out_path(const char *name, char dst[PATH_BYTES])
{
    snprintf(dst, PATH_BYTES, "%s/%s.gguf", scratch, name);
}

START_TEST(f16)
{
    char out[PATH_BYTES];
    out_path(folders[_i], out);
    struct distance d = folder_against(folders[_i], out, "f16", true);
    ck_assert_msg(d.all < 1e-4, "%s: %.3e", folders[_i], d.all);
    unlink(out);
}
END_TEST

START_TEST(q8_0)
{
    char out[PATH_BYTES];
    out_path(folders[_i], out);
    struct distance d = folder_against(folders[_i], out, "q8_0", false);
    bool dense = !strcmp(folders[_i], "minicpm3") || !strcmp(folders[_i], "youtu");
    ck_assert_msg(dense ? d.all < 0.01 : d.middle < 0.015, "%s: %.3e, median row %.3e", folders[_i], d.all,
                  d.middle);
    unlink(out);
}
END_TEST

static const struct {
    const char *name;
    double most; /* relative logit error of random weights, which forgive nothing */
} others[] = {
    {"f32", 1e-6},    {"bf16", 1e-6},    {"q6_k", 0.03},    {"q5_1", 0.1},    {"q5_0", 0.12},
    {"q5_k_m", 0.06}, {"q4_1", 0.2},     {"q4_0", 0.25},    {"q4_k_m", 0.08}, {"iq4_nl", 0.2},
    {"iq4_xs", 0.2},  {"q3_k_m", 0.1},   {"q2_k", 0.25},
};

START_TEST(types)
{
    char out[PATH_BYTES];
    out_path(others[_i].name, out);
    struct distance d = folder_against("deepseek_v2", out, others[_i].name, false);
    ck_assert_msg(d.all < others[_i].most, "%s: %.3e", others[_i].name, d.all);
    unlink(out);
}
END_TEST

static int n_files(void)
{
    int n = 0;
    DIR *d = opendir(scratch);
    ck_assert(d != NULL);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static void same_bytes(const char *a, const char *b)
{
    struct source x = {0}, y = {0};
    struct err e = {0};
    ck_assert_msg(source_open(a, &x, &e) == 0 && source_open(b, &y, &e) == 0, "%s", e.text);
    ck_assert_int_eq(x.n_tensors, y.n_tensors);
    for (int i = 0; i < x.n_tensors; i++) {
        const struct source_tensor *t = &x.tensors[i], *u = &y.tensors[i];
        ck_assert_str_eq(t->name, u->name);
        ck_assert_int_eq(t->parts->type, u->parts->type);
        ck_assert_uint_eq(t->parts->n_bytes, u->parts->n_bytes);
        ck_assert_msg(memcmp(t->parts->data, u->parts->data, t->parts->n_bytes) == 0, "%s", t->name);
    }
    ck_assert_str_eq(x.ck->config.name, y.ck->config.name);
    source_close(&x);
    source_close(&y);
}

/* A copy of a copy is the same; parts are the same; another number of threads too, by the way. */
START_TEST(copies_and_parts)
{
    char in[PATH_BYTES], one[PATH_BYTES], two[PATH_BYTES], part[PATH_BYTES];
    struct err e = {0};
    folder_path("deepseek_v3", "", in);
    out_path("one", one);
    out_path("two", two);
    convert(in, one, "q4_k_m");
    convert(one, two, "q4_k_m");
    same_bytes(one, two);
    convert(one, one, "q4_k_m"); /* onto itself */
    same_bytes(one, two);
    struct plan_options o = {.split_bytes = 500000};
    ck_assert_msg(convert_with(in, two, "q4_k_m", o, true, &e) == 0, "%s", e.text);
    int parts = n_files() - 2;
    ck_assert_int_ge(parts, 2);
    emit_part_path(two, 0, parts, part, sizeof(part));
    same_bytes(one, part);
    for (int i = 0; i < parts; i++) {
        emit_part_path(two, i, parts, part, sizeof(part));
        ck_assert_int_eq(unlink(part), 0);
    }
    unlink(one);
    unlink(two);
}
END_TEST

START_TEST(own_types)
{
    char in[PATH_BYTES], out[PATH_BYTES];
    struct source s = {0};
    struct err e = {0};
    struct plan_options o = {.n_overrides = 2,
                             .overrides = {{"blk.1.ffn_down_exps*", TT_Q8_0}, {"*attn_q.*", TT_BF16}}};
    folder_path("deepseek_v2", "", in);
    out_path("own", out);
    ck_assert_msg(convert_with(in, out, "q4_k", o, true, &e) == 0, "%s", e.text);
    ck_assert_msg(source_open(out, &s, &e) == 0, "%s", e.text);
    for (int i = 0; i < s.n_tensors; i++) {
        const struct source_tensor *t = &s.tensors[i];
        enum tensor_type type = t->parts->type;
        if (!strcmp(t->name, "blk.1.ffn_down_exps.weight"))
            ck_assert_int_eq(type, TT_Q8_0);
        else if (strstr(t->name, "attn_q.weight"))
            ck_assert_int_eq(type, TT_BF16);
        else if (strstr(t->name, "norm") || strstr(t->name, "gate_inp"))
            ck_assert_int_eq(type, TT_F32);
        else if (t->ne[0] % 256 == 0)
            ck_assert_int_eq(type, TT_Q4_K);
        else
            ck_assert_int_eq(type, TT_Q5_0);
    }
    source_close(&s);
    unlink(out);
    o.overrides[0].pattern = "no.such.tensor";
    ck_assert_int_eq(convert_with(in, out, "q4_k", o, true, &e), ERR_NOTFOUND);
    ck_assert_msg(strstr(e.text, "no.such.tensor") != NULL, "%s", e.text);
}
END_TEST

static void put_file(const char *folder, const char *name, const char *text, char dst[PATH_BYTES])
{
    snprintf(dst, PATH_BYTES, "%.2000s/%.100s", folder, name);
    FILE *f = fopen(dst, "wb");
    ck_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

/* Both of a folder's chat templates are in the file, and what ends a text: its name's token (templates mean
 * that) and the configuration's, here 1. */
START_TEST(templates)
{
    static const char *const linked[] = {"config.json", "model.safetensors"};
    char folder[PATH_BYTES], from[PATH_BYTES], paths[4][PATH_BYTES], out[PATH_BYTES];
    struct checkpoint *c;
    struct err e = {0};
    out_path("templates", out);
    snprintf(folder, sizeof(folder), "%.2000s/folder", scratch);
    ck_assert_int_eq(mkdir(folder, 0700), 0);
    for (int i = 0; i < 2; i++) {
        folder_path("youtu", linked[i], from);
        char *whole = realpath(from, NULL);
        snprintf(paths[i], PATH_BYTES, "%.2000s/%s", folder, linked[i]);
        ck_assert(whole && symlink(whole, paths[i]) == 0);
        free(whole);
    }
    put_file(folder, "tokenizer.json",
             "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2},\"merges\":[]},"
             "\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"}}",
             paths[2]);
    put_file(folder, "tokenizer_config.json",
             "{\"eos_token\":{\"content\":\"c\"},"
             "\"chat_template\":[{\"name\":\"default\",\"template\":\"plain\"},"
             "{\"name\":\"tool_use\",\"template\":\"tools\"}]}",
             paths[3]);
    convert(folder, out, "q8_0");
    ck_assert_msg(checkpoint_open(out, &c, &e) == 0, "%s", e.text);
    ck_assert_str_eq(c->chat_template, "plain");
    ck_assert_ptr_nonnull(c->tool_template);
    ck_assert_str_eq(c->tool_template, "tools");
    ck_assert_int_eq(c->tokenizer.eos_token_id, 2);
    ck_assert_int_eq(c->tokenizer.eot_token_id, 1);
    checkpoint_close(&c);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(unlink(paths[i]), 0);
    ck_assert_int_eq(rmdir(folder), 0);
    unlink(out);
}
END_TEST

/* --- made folders ------------------------------------------------------------------------------ */

struct made {
    const char *name;
    int rows, cols; /* cols 0: a vector */
    bool fp8;
    int matrices; /* 0: one, and no third dimension */
};

static int made_values(const struct made *m)
{
    return m->rows * (m->cols ? m->cols : 1) * (m->matrices ? m->matrices : 1);
}

/* Element i of a float32 tensor is i modulo 7, less 3; FP8 values are 1, scales 2 and up. */
static void put_made(const char *folder, const struct made *list, int n)
{
    char path[PATH_BYTES], header[8192];
    size_t h = 0, at = 0;
    uint64_t bytes;
    for (int i = 0; i < n; i++) {
        size_t end = at + (size_t)made_values(&list[i]) * (list[i].fp8 ? 1 : 4);
        h += (size_t)snprintf(header + h, sizeof(header) - h, "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[",
                              i ? ',' : '{', list[i].name, list[i].fp8 ? "F8_E4M3" : "F32");
        if (list[i].matrices)
            h += (size_t)snprintf(header + h, sizeof(header) - h, "%d,", list[i].matrices);
        h += (size_t)snprintf(header + h, sizeof(header) - h, "%d", list[i].rows);
        h += (size_t)snprintf(header + h, sizeof(header) - h, list[i].cols ? ",%d" : "", list[i].cols);
        h += (size_t)snprintf(header + h, sizeof(header) - h, "],\"data_offsets\":[%zu,%zu]}", at, end);
        at = end;
    }
    h += (size_t)snprintf(header + h, sizeof(header) - h, "}");
    ck_assert_uint_lt(h, sizeof(header));
    snprintf(path, sizeof(path), "%.2000s/model.safetensors", folder);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    bytes = h;
    ck_assert(fwrite(&bytes, 8, 1, f) == 1 && fwrite(header, h, 1, f) == 1);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < made_values(&list[i]); k++) {
            float v = strstr(list[i].name, "scale_inv") ? (float)(2 + k) : (float)(k % 7 - 3);
            unsigned char one = 0x38;
            ck_assert(list[i].fp8 ? fwrite(&one, 1, 1, f) == 1 : fwrite(&v, 4, 1, f) == 1);
        }
    ck_assert_int_eq(fclose(f), 0);
}

static void make_folder(const char *config, const struct made *list, int n, char dst[PATH_BYTES])
{
    char path[PATH_BYTES];
    snprintf(dst, PATH_BYTES, "%.2000s/made.%d", scratch, (int)getpid());
    ck_assert_int_eq(mkdir(dst, 0700), 0);
    put_file(dst, "config.json", config, path);
    put_made(dst, list, n);
}

static void remove_folder(const char *folder)
{
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json",
                                        "tokenizer_config.json", "generation_config.json"};
    char path[PATH_BYTES];
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%.2000s/%s", folder, names[i]);
        unlink(path);
    }
    ck_assert_int_eq(rmdir(folder), 0);
}

#define FIRST "model.layers.0."

static const char family_config[] =
    "{\"model_type\":\"latent_family\",\"vocab_size\":64,\"hidden_size\":32,\"num_hidden_layers\":1,"
    "\"intermediate_size\":32,\"max_position_embeddings\":128,\"tie_word_embeddings\":true,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"attention_mechanism\":\"gqa\","
    "\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]}}";
static const struct made family_tensors[] = {
    {"model.embed_tokens.weight", 64, 32, false, 0},
    {FIRST "input_layernorm.weight", 32, 0, false, 0},
    {FIRST "mlp.down_proj.weight", 32, 32, false, 0},
    {FIRST "mlp.gate_proj.weight", 32, 32, false, 0},
    {FIRST "mlp.up_proj.weight", 32, 32, true, 0},
    {FIRST "mlp.up_proj.weight_scale_inv", 1, 1, false, 0},
    {FIRST "post_attention_layernorm.weight", 32, 0, false, 0},
    {FIRST "self_attn.k_proj.weight", 32, 32, false, 0},
    {FIRST "self_attn.o_proj.weight", 32, 64, false, 0},
    {FIRST "self_attn.q_proj.weight", 64, 32, false, 0},
    {FIRST "self_attn.v_proj.weight", 32, 32, false, 0},
    {"model.norm.weight", 32, 0, false, 0},
};

/* The family's files keep their tensors' names; FP8 weights come into them multiplied by their scales. */
START_TEST(fp8_of_the_family)
{
    char folder[PATH_BYTES], out[PATH_BYTES];
    struct checkpoint *c;
    struct err e = {0};
    float row[32];
    out_path("family", out);
    make_folder(family_config, family_tensors, (int)(sizeof(family_tensors) / sizeof(family_tensors[0])),
                folder);
    convert(folder, out, "bf16");
    ck_assert_msg(checkpoint_open(out, &c, &e) == 0, "%s", e.text);
    tensor_row_f32(&c->layers[0].dense.up, 31, row);
    ck_assert(row[0] == 2.0f && row[31] == 2.0f);
    checkpoint_close(&c);
    remove_folder(folder);
    unlink(out);
}
END_TEST

/* All experts of a layer in one tensor, as Step-3 has them, and their scales in one. */
START_TEST(fp8_experts)
{
    static const char config[] =
        "{\"model_type\":\"step3_text\",\"vocab_size\":64,\"hidden_size\":32,\"num_hidden_layers\":1,"
        "\"intermediate_size\":32,\"max_position_embedding\":128,\"num_attention_heads\":4,"
        "\"num_attention_groups\":1,\"head_dim\":16,\"share_q_dim\":32,\"share_expert_dim\":32,"
        "\"moe_layers_enum\":\"0\",\"moe_num_experts\":2,\"moe_top_k\":1,\"moe_intermediate_size\":128,"
        "\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]}}";
    static const struct made list[] = {
        {"lm_head.weight", 64, 32, false, 0},
        {"model.embed_tokens.weight", 64, 32, false, 0},
        {FIRST "input_layernorm.weight", 32, 0, false, 0},
        {FIRST "moe.down_proj.weight", 32, 128, false, 2},
        {FIRST "moe.gate.weight", 2, 32, false, 0},
        {FIRST "moe.gate_proj.weight", 128, 32, true, 2},
        {FIRST "moe.gate_proj.weight_scale_inv", 1, 1, false, 2},
        {FIRST "moe.up_proj.weight", 128, 32, false, 2},
        {FIRST "post_attention_layernorm.weight", 32, 0, false, 0},
        {FIRST "self_attn.inter_norm.weight", 32, 0, false, 0},
        {FIRST "self_attn.k_proj.weight", 16, 32, false, 0},
        {FIRST "self_attn.o_proj.weight", 32, 64, false, 0},
        {FIRST "self_attn.q_proj.weight", 32, 32, false, 0},
        {FIRST "self_attn.v_proj.weight", 16, 32, false, 0},
        {FIRST "self_attn.wq.weight", 64, 32, false, 0},
        {FIRST "share_expert.down_proj.weight", 32, 32, false, 0},
        {FIRST "share_expert.gate_proj.weight", 32, 32, false, 0},
        {FIRST "share_expert.up_proj.weight", 32, 32, false, 0},
        {"model.norm.weight", 32, 0, false, 0},
    };
    char folder[PATH_BYTES], out[PATH_BYTES];
    out_path("experts", out);
    make_folder(config, list, (int)(sizeof(list) / sizeof(list[0])), folder);
    convert(folder, out, "bf16");
    for (int turn = 0; turn < 2; turn++)
        for (int x = 0; x < 2; x++) {
            struct checkpoint *c;
            struct err e = {0};
            float row[32];
            ck_assert_msg(checkpoint_open(turn ? out : folder, &c, &e) == 0, "%s", e.text);
            tensor_row_f32(&c->layers[0].experts[x].gate, 127, row);
            ck_assert_msg(row[31] == (float)(2 + x), "%s, expert %d: %g", turn ? out : folder, x,
                          (double)row[31]);
            checkpoint_close(&c);
        }
    remove_folder(folder);
    unlink(out);
}
END_TEST

/* A head of attn_k_b may be larger than what is compared at a time. */
START_TEST(side_by_side)
{
    static const char config[] =
        "{\"model_type\":\"deepseek_v3\",\"vocab_size\":8,\"hidden_size\":32,\"intermediate_size\":32,"
        "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"q_lora_rank\":null,\"kv_lora_rank\":512,"
        "\"qk_nope_head_dim\":640,\"qk_rope_head_dim\":32,\"v_head_dim\":32,"
        "\"max_position_embeddings\":64,\"tie_word_embeddings\":true}";
    static const struct made list[] = {
        {"model.embed_tokens.weight", 8, 32, false, 0},
        {"model.norm.weight", 32, 0, false, 0},
        {FIRST "input_layernorm.weight", 32, 0, false, 0},
        {FIRST "self_attn.q_proj.weight", 2 * 672, 32, false, 0},
        {FIRST "self_attn.kv_a_proj_with_mqa.weight", 544, 32, false, 0},
        {FIRST "self_attn.kv_a_layernorm.weight", 512, 0, false, 0},
        {FIRST "self_attn.kv_b_proj.weight", 2 * 672, 512, false, 0},
        {FIRST "self_attn.o_proj.weight", 32, 64, false, 0},
        {FIRST "post_attention_layernorm.weight", 32, 0, false, 0},
        {FIRST "mlp.gate_proj.weight", 32, 32, false, 0},
        {FIRST "mlp.up_proj.weight", 32, 32, false, 0},
        {FIRST "mlp.down_proj.weight", 32, 32, false, 0},
    };
    char folder[PATH_BYTES], out[PATH_BYTES], command[3 * PATH_BYTES], line[512];
    const char *built = getenv("top_builddir");
    out_path("heads", out);
    make_folder(config, list, (int)(sizeof(list) / sizeof(list[0])), folder);
    convert(folder, out, "f32");
    for (int turn = 0; turn < 2; turn++) {
        int n = 0;
        snprintf(command, sizeof(command), "%s/latent-convert verify %s %s", built ? built : ".",
                 turn ? out : folder, turn ? folder : out);
        FILE *f = popen(command, "r");
        ck_assert_ptr_nonnull(f);
        while (fgets(line, sizeof(line), f))
            if (strstr(line, "F32")) {
                n++;
                ck_assert_msg(strstr(line, " 0.0000e+00   0.0000e+00   0.0000e+00") != NULL, "%s", line);
            }
        ck_assert_int_eq(pclose(f), 0);
        ck_assert_int_gt(n, 10);
    }
    remove_folder(folder);
    unlink(out);
}
END_TEST

#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":%s}"

static void put_tokenizer(const char *folder, const char *prefix_space, const char *normalizer)
{
    char text[1024], path[PATH_BYTES];
    snprintf(text, sizeof(text),
             "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"e\":4,"
             "\"ab\":5},\"merges\":[\"a b\"]},\"normalizer\":%s,\"pre_tokenizer\":" BYTE_LEVEL
             ",\"decoder\":{\"type\":\"ByteLevel\"}}",
             normalizer, prefix_space);
    put_file(folder, "tokenizer.json", text, path);
}

/* All that ends a generation ends it in the file; what would make other tokens of a text is refused. */
START_TEST(tokenizers)
{
    char folder[PATH_BYTES], out[PATH_BYTES], path[PATH_BYTES];
    struct checkpoint *c;
    struct tokenizer *t;
    struct err e = {0};
    out_path("tokenizer", out);
    make_folder(family_config, family_tensors, (int)(sizeof(family_tensors) / sizeof(family_tensors[0])),
                folder);
    put_file(folder, "generation_config.json", "{\"eos_token_id\":[4,0,1,3]}", path);
    put_tokenizer(folder, "false", "{\"type\":\"NFC\"}");
    convert(folder, out, "bf16");
    ck_assert_msg(checkpoint_open(out, &c, &e) == 0, "%s", e.text);
    ck_assert_msg(tokenizer_new(&c->tokenizer, c->config.vocab_size, &t, &e) == 0, "%s", e.text);
    ck_assert_int_eq(tokenizer_eos(t), 4);
    for (int i = 0; i < 5; i++)
        ck_assert_msg(tokenizer_is_eog(t, i) == (i != 2), "token %d", i);
    tokenizer_free(&t);
    checkpoint_close(&c);
    put_tokenizer(folder, "true", "null");
    ck_assert_int_eq(convert_with(folder, out, "bf16", (struct plan_options){0}, true, &e), ERR_UNSUPPORTED);
    ck_assert_str_eq(e.param, "pre_tokenizer");
    put_tokenizer(folder, "false", "{\"type\":\"Lowercase\"}");
    ck_assert_int_eq(convert_with(folder, out, "bf16", (struct plan_options){0}, true, &e), ERR_UNSUPPORTED);
    ck_assert_str_eq(e.param, "normalizer");
    remove_folder(folder);
    unlink(out);
}
END_TEST

static void check_ids(const char *path, const char *text, int n, const int32_t *want)
{
    struct checkpoint *c;
    struct tokenizer *t;
    struct token_list l = {0};
    struct err e = {0};
    ck_assert_msg(checkpoint_open(path, &c, &e) == 0, "%s", e.text);
    ck_assert_msg(tokenizer_new(&c->tokenizer, c->config.vocab_size, &t, &e) == 0, "%s", e.text);
    ck_assert_int_eq(tokenizer_encode(t, text, strlen(text), 0, 100, &l, &e), 0);
    ck_assert_msg((int)l.n == n && memcmp(l.ids, want, (size_t)n * sizeof(*want)) == 0, "%s: %s", path, text);
    free(l.ids);
    tokenizer_free(&t);
    checkpoint_close(&c);
}

/* Gemma's runs of spaces are added tokens and made by merges as well: only these find them in a text. */
START_TEST(runs_of_spaces)
{
    static const int32_t want[] = {1, 2, 1, 0, 1};
    char folder[PATH_BYTES], out[PATH_BYTES], path[PATH_BYTES];
    out_path("spaces", out);
    make_folder(family_config, family_tensors, (int)(sizeof(family_tensors) / sizeof(family_tensors[0])),
                folder);
    put_file(folder, "tokenizer.json",
             "{\"model\":{\"type\":\"BPE\","
             "\"vocab\":{\"\xe2\x96\x81\":0,\"a\":1,\"\xe2\x96\x81\xe2\x96\x81\":2},"
             "\"merges\":[[\"\xe2\x96\x81\",\"\xe2\x96\x81\"]]},"
             "\"added_tokens\":[{\"id\":2,\"content\":\"\xe2\x96\x81\xe2\x96\x81\",\"normalized\":false}],"
             "\"normalizer\":{\"type\":\"Replace\","
             "\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"},"
             "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"
             "\"\xe2\x96\x81\"},\"content\":\" \"},{\"type\":\"Fuse\"}]}}",
             path);
    check_ids(folder, "a  a a", 5, want);
    convert(folder, out, "bf16");
    check_ids(out, "a  a a", 5, want);
    remove_folder(folder);
    unlink(out);
}
END_TEST

/* What a killed run has left is no hindrance; what another is writing is left alone. */
START_TEST(left_behind)
{
    char in[PATH_BYTES], out[PATH_BYTES], left[PATH_BYTES + 8], path[PATH_BYTES];
    struct err e = {0};
    folder_path("youtu", "", in);
    out_path("left", out);
    snprintf(left, sizeof(left), "%s.tmp", out);
    put_file(scratch, "left.gguf.tmp", "half of a file", path);
    convert(in, out, "f32");
    ck_assert_int_eq(n_files(), 1);
    put_file(scratch, "left.gguf.tmp", "another's", path);
    int fd = open(left, O_RDONLY);
    ck_assert(fd >= 0 && flock(fd, LOCK_EX) == 0);
    ck_assert_int_eq(convert_with(in, out, "f16", (struct plan_options){0}, true, &e), ERR_INVAL);
    ck_assert_msg(strstr(e.text, "another run") != NULL, "%s", e.text);
    ck_assert_int_eq(n_files(), 2);
    close(fd);
    convert(in, out, "f16");
    ck_assert_int_eq(n_files(), 1);
    unlink(out);
}
END_TEST

START_TEST(failures)
{
    char in[PATH_BYTES], out[PATH_BYTES], bad[PATH_BYTES];
    struct plan_options o = {0};
    struct source s = {0};
    struct err e = {0};
    folder_path("youtu", "", in);
    out_path("there", out);
    out_path("bad", bad);
    convert(in, out, "f32");
    ck_assert_int_eq(convert_with(in, out, "f16", o, false, &e), ERR_INVAL);
    ck_assert_msg(strstr(e.text, "--force") != NULL, "%s", e.text);
    /* one value of one tensor becomes NaN: the tensor is named, nothing is left */
    ck_assert_int_eq(source_open(out, &s, &e), 0);
    const struct source_tensor *t = &s.tensors[s.n_tensors - 1];
    long at = (long)((const unsigned char *)t->parts->data - s.ck->priv->maps[0]->data);
    char name[128];
    snprintf(name, sizeof(name), "%s", t->name);
    source_close(&s);
    FILE *f = fopen(out, "r+b");
    uint32_t nan = 0x7fc00000u;
    ck_assert(f && fseek(f, at + 40, SEEK_SET) == 0 && fwrite(&nan, 4, 1, f) == 1);
    fclose(f);
    ck_assert_int_eq(convert_with(out, bad, "q8_0", o, true, &e), ERR_FORMAT);
    ck_assert_msg(strstr(e.text, name) != NULL, "%s", e.text);
    ck_assert_int_eq(n_files(), 1);
    unlink(out);
    ck_assert_int_lt(convert_with(in, "no/such/folder/x.gguf", "f16", o, true, &e), 0);
    ck_assert_int_eq(n_files(), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("convert");
    TCase *tc = tcase_create("folders");
    if (!mkdtemp(scratch))
        return EXIT_FAILURE;
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, f16, 0, N_FOLDERS);
    tcase_add_loop_test(tc, q8_0, 0, N_FOLDERS);
    tcase_add_loop_test(tc, types, 0, (int)(sizeof(others) / sizeof(others[0])));
    tcase_add_test(tc, copies_and_parts);
    tcase_add_test(tc, own_types);
    tcase_add_test(tc, templates);
    tcase_add_test(tc, fp8_of_the_family);
    tcase_add_test(tc, fp8_experts);
    tcase_add_test(tc, side_by_side);
    tcase_add_test(tc, tokenizers);
    tcase_add_test(tc, runs_of_spaces);
    tcase_add_test(tc, left_behind);
    tcase_add_test(tc, failures);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    rmdir(scratch);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
