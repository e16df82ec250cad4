/* tests/unit/t_readers.c - checkpoints that are damaged: the shipped model with bytes changed or missing,
 * and folders whose files say wrong things. Every one is either refused with a text or harmless. */
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/model/checkpoint.h"
#include "engine/tokenizer/tokenizer.h"

static char shipped[4096], copy[] = "/tmp/latentd-readers-XXXXXX";
static volatile unsigned char sink;
static int rounds = 1200;

static void touch(const struct tensor *t)
{
    if (!t->data || !t->n_bytes)
        return;
    sink ^= ((const unsigned char *)t->data)[0] ^ ((const unsigned char *)t->data)[t->n_bytes - 1];
}

/* Opens, and uses what a server would use first. 1: it opened. */
static int try(const char *path)
{
    struct checkpoint *c = NULL;
    struct err e = {0};
    if (checkpoint_open(path, &c, &e) < 0) {
        ck_assert_ptr_null(c);
        ck_assert_msg(*e.text != 0, "no text");
        return 0;
    }
    touch(&c->token_embd);
    touch(&c->output);
    touch(&c->output_norm);
    for (int i = 0; i < c->config.num_hidden_layers; i++) {
        const struct layer_tensors *l = &c->layers[i];
        touch(&l->attn_norm);
        touch(&l->kv_a);
        touch(&l->o);
        touch(&l->dense.down);
        touch(&l->router);
        for (int k = 0; l->experts && k < c->config.n_routed_experts; k++)
            touch(&l->experts[k].down);
    }
    struct tokenizer *t = NULL;
    if (tokenizer_new(&c->tokenizer, c->config.vocab_size, &t, &e) < 0)
        ck_assert_msg(*e.text != 0, "no text");
    tokenizer_free(&t);
    checkpoint_close(&c);
    return 1;
}

static void setup(void)
{
    char piece[65536];
    size_t n;
    FILE *from = fopen(shipped, "rb");
    ck_assert_ptr_nonnull(from);
    memcpy(copy + sizeof(copy) - 7, "XXXXXX", 6);
    int fd = mkstemp(copy);
    ck_assert_int_ge(fd, 0);
    while ((n = fread(piece, 1, sizeof(piece), from)) > 0)
        ck_assert_int_eq(write(fd, piece, n), (ssize_t)n);
    fclose(from);
    close(fd);
}

static void teardown(void)
{
    unlink(copy);
}

START_TEST(test_shipped)
{
    ck_assert_int_eq(try(copy), 1);
}
END_TEST

/* A few bytes anywhere in what is not weights. */
START_TEST(test_changed)
{
    int fd = open(copy, O_RDWR), opened = 0;
    const off_t head = 512 << 10;
    for (int i = 0; i < rounds; i++) {
        off_t at[4];
        unsigned char old[4];
        int n = 1 + rand() % 4;
        for (int k = 0; k < n; k++) {
            /* the first kilobytes hold the keys, the last of them the tensors */
            off_t range = rand() % 2 ? 4096 : head;
            unsigned char b = rand() % 3 ? (unsigned char)rand() : rand() % 2 ? 0xff : 0;
            at[k] = rand() % range;
            ck_assert_int_eq(pread(fd, &old[k], 1, at[k]), 1);
            ck_assert_int_eq(pwrite(fd, &b, 1, at[k]), 1);
        }
        opened += try(copy);
        while (n-- > 0)
            ck_assert_int_eq(pwrite(fd, &old[n], 1, at[n]), 1);
    }
    close(fd);
    printf("# %d of %d changed files still open\n", opened, rounds);
    ck_assert_int_lt(opened, rounds);
    ck_assert_int_eq(try(copy), 1);
}
END_TEST

START_TEST(test_cut)
{
    struct stat st;
    ck_assert_int_eq(stat(copy, &st), 0);
    off_t n = st.st_size;
    ck_assert_int_eq(truncate(copy, n - 1), 0);
    ck_assert_int_eq(try(copy), 0);
    for (int i = 0; i < rounds / 4 && n > 0; i++) {
        n -= 1 + (i % 2 ? rand() % (1 + n / 20) : rand() % 64);
        if (i == rounds / 8 && n > 100000)
            n = 100000;
        ck_assert_int_eq(truncate(copy, n > 0 ? n : 0), 0);
        ck_assert_int_eq(try(copy), 0);
    }
    ck_assert_int_eq(truncate(copy, 0), 0);
    ck_assert_int_eq(try(copy), 0);
}
END_TEST

/* --- folders -------------------------------------------------------------------------------------- */

static void put(const char *dir, const char *name, const void *data, size_t n)
{
    char path[4200];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, n, f), n);
    fclose(f);
}

static void put_text(const char *dir, const char *name, const char *text)
{
    put(dir, name, text, strlen(text));
}

/* A safetensors file: header's length, header, some data. */
static void put_tensors(const char *dir, const char *header, long long claimed)
{
    char file[4096] = {0};
    unsigned long long n = claimed >= 0 ? (unsigned long long)claimed : strlen(header);
    for (int i = 0; i < 8; i++)
        file[i] = (char)(n >> (8 * i));
    memcpy(file + 8, header, strlen(header));
    put(dir, "model.safetensors", file, 8 + strlen(header) + 64);
}

#define CONFIG                                                                                              \
    "{\"architectures\":[\"DeepseekV3ForCausalLM\"],\"model_type\":\"deepseek_v3\",\"vocab_size\":8,"      \
    "\"hidden_size\":32,\"intermediate_size\":32,\"moe_intermediate_size\":32,\"num_hidden_layers\":1,"    \
    "\"num_attention_heads\":1,\"q_lora_rank\":null,\"kv_lora_rank\":32,\"qk_nope_head_dim\":32,"          \
    "\"qk_rope_head_dim\":32,\"v_head_dim\":32,\"n_routed_experts\":0,\"num_experts_per_tok\":0,"          \
    "\"first_k_dense_replace\":1,\"max_position_embeddings\":64,\"rms_norm_eps\":1e-6,\"rope_theta\":1e4}"

START_TEST(test_folders)
{
    static const char *const configs[] = {
        "", "{", "[]", "null", "{}", "{\"model_type\":\"llama\"}", "{\"model_type\":5}",
        "{\"model_type\":\"deepseek_v3\",\"hidden_size\":-1}",
        "{\"model_type\":\"deepseek_v3\",\"hidden_size\":1e300}",
        "{\"model_type\":\"deepseek_v3\",\"num_hidden_layers\":2000000000,\"hidden_size\":32}",
    };
    static const char *const headers[] = {
        "", "{", "[]", "{}", "5",
        "{\"model.embed_tokens.weight\":5}",
        "{\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":[8,32],\"data_offsets\":[0,1024]}}",
        "{\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":[8,-32],\"data_offsets\":[0,64]}}",
        "{\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],"
        "\"data_offsets\":[0,64]}}",
        "{\"model.embed_tokens.weight\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,64]}}",
        "{\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[64,0]}}",
        "{\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[1e18,2e18]}}",
        "{\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":\"x\",\"data_offsets\":null}}",
    };
    static const char *const indexes[] = {
        "{", "{\"weight_map\":5}", "{\"weight_map\":{\"a\":5}}", "{\"weight_map\":{\"a\":\"../x\"}}",
        "{\"weight_map\":{\"a\":\"missing.safetensors\"}}", "{\"weight_map\":{}}",
    };
    char dir[] = "/tmp/latentd-readers-XXXXXX", path[4200];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(try(dir), 0);
    put_tensors(dir, "{}", -1);
    for (size_t i = 0; i < sizeof(configs) / sizeof(*configs); i++) {
        put_text(dir, "config.json", configs[i]);
        ck_assert_int_eq(try(dir), 0);
    }
    put_text(dir, "config.json", CONFIG);
    for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); i++) {
        put_tensors(dir, headers[i], -1);
        ck_assert_int_eq(try(dir), 0);
    }
    for (long long claimed = 1; claimed < 0x7fffffffffff; claimed *= 3) {
        put_tensors(dir, headers[6], claimed);
        ck_assert_int_eq(try(dir), 0);
    }
    put(dir, "model.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    ck_assert_int_eq(try(dir), 0);
    put(dir, "model.safetensors", "\1\0", 2);
    ck_assert_int_eq(try(dir), 0);
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    unlink(path);
    for (size_t i = 0; i < sizeof(indexes) / sizeof(*indexes); i++) {
        put_text(dir, "model.safetensors.index.json", indexes[i]);
        ck_assert_int_eq(try(dir), 0);
    }
    snprintf(path, sizeof(path), "%s/model.safetensors.index.json", dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/config.json", dir);
    unlink(path);
    rmdir(dir);
}
END_TEST

START_TEST(test_no_files)
{
    ck_assert_int_eq(try("/nonexistent/model.gguf"), 0);
    ck_assert_int_eq(try("/dev/null"), 0);
    ck_assert_int_eq(try(""), 0);
}
END_TEST

int main(void)
{
    const char *src = getenv("top_srcdir"), *s = getenv("LATENT_TEST_SEED");
    unsigned seed = s ? (unsigned)strtoul(s, NULL, 10) : (unsigned)time(NULL);
    snprintf(shipped, sizeof(shipped), "%s/models/latent-mini.q8_0.gguf", src ? src : ".");
    srand(seed);
    if (getenv("LATENT_SLOW"))
        rounds = 200;
    printf("# seed %u (LATENT_TEST_SEED)\n", seed);
    fflush(stdout);
    Suite *suite = suite_create("readers");
    TCase *tc = tcase_create("readers");
    tcase_set_timeout(tc, 200);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_shipped);
    tcase_add_test(tc, test_changed);
    tcase_add_test(tc, test_cut);
    tcase_add_test(tc, test_folders);
    tcase_add_test(tc, test_no_files);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
