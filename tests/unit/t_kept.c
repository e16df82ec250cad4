/* tests/unit/t_kept.c - prompts with a suffix, and the store of responses. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/internal.h"
#include "api/store.h"

/* --- infill ----------------------------------------------------------------------------------------- */

/* A tokenizer of the letters a to d whose added tokens are these. */
static struct tokenizer *tokenizer(const char *const added[], int n)
{
    static const struct tokenizer_source blank = {.pre = "",
                                                  .bos_token_id = -1,
                                                  .eos_token_id = -1,
                                                  .eot_token_id = -1,
                                                  .eom_token_id = -1,
                                                  .add_bos_token = -1,
                                                  .add_eos_token = -1};
    struct tokenizer_source src = blank;
    struct tokenizer *t = NULL;
    struct err e = {0};
    char path[64];
    snprintf(path, sizeof(path), "t_kept.%d.json", (int)getpid());
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs("{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"use_regex\":false},\"decoder\":{\"type\":"
          "\"ByteLevel\"},\"added_tokens\":[",
          f);
    for (int i = 0; i < n; i++)
        fprintf(f, "%s{\"id\":%d,\"content\":\"%s\",\"special\":true}", i ? "," : "", 10 + i, added[i]);
    fputs("],\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"<\":4,\"|\":5,\">\":"
          "6,\"m\":7},\"merges\":[]}}",
          f);
    fclose(f);
    src.json_path = path;
    ck_assert_msg(tokenizer_new(&src, 20, &t, &e) == 0, "%s", e.text);
    unlink(path);
    return t;
}

static void check_built(const struct tokenizer *t, struct prompt *pr, const char *want)
{
    struct token_list ids = {0};
    struct err e = {0};
    char got[400] = "";
    ck_assert_int_eq(tokenizer_encode_masked(t, pr->text, pr->literal, pr->text_bytes, TOKENIZE_PARSE_SPECIAL,
                                             100, &ids, &e),
                     0);
    for (size_t i = 0, at = 0; i < ids.n; i++)
        at += (size_t)snprintf(got + at, sizeof(got) - at, "%d ", ids.ids[i]);
    ck_assert_str_eq(got, want);
    free(ids.ids);
    free(pr->owned);
    free(pr->literal);
}

static void check_ids(const struct tokenizer *t, const char *prompt, const char *suffix, const char *want)
{
    struct prompt pr = {.text = prompt, .text_bytes = strlen(prompt)};
    struct err e = {0};
    ck_assert_msg(infill_prompt(&pr, t, suffix, &e) == 0, "%s", e.text);
    check_built(t, &pr, want);
}

/* The same of a request to /infill with ab, prompt c, a gap and d, and these other files. */
static void check_files(const struct tokenizer *t, const char *extra, const char *want)
{
    cJSON *prompt = cJSON_CreateString("c"), *files = extra ? cJSON_Parse(extra) : NULL;
    const struct params p = {
        .prompt = prompt, .input_prefix = "ab", .input_suffix = "d", .input_extra = files};
    struct prompt pr = {0};
    struct err e = {0};
    ck_assert_msg(infill_files(&pr, t, &p, 1000, &e) == 0, "%s", e.text);
    const size_t n = pr.text_bytes;
    check_built(t, &pr, want);
    struct prompt again = {0};
    ck_assert_int_eq(infill_files(&again, t, &p, n - 1, &e), ERR_LIMIT);
    cJSON_Delete(prompt);
    cJSON_Delete(files);
}

START_TEST(test_kept)
{
    static const char *const qwen[] = {"<|m|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"};
    static const char *const deepseek[] = {"<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"};
    struct tokenizer *t = tokenizer(qwen, 4);
    ck_assert(infill_possible(t));
    check_ids(t, "ab", "cd", "11 0 1 12 2 3 13 ");
    check_ids(t, "", "c", "11 12 2 13 ");
    check_ids(t, "<|m|>", "a", "11 4 5 7 5 6 12 0 13 "); /* the client's text holds no control token */
    tokenizer_free(&t);
    t = tokenizer(deepseek, 3);
    check_ids(t, "a", "b", "10 0 11 1 12 ");
    tokenizer_free(&t);
    t = tokenizer(qwen, 3); /* one is missing */
    struct prompt pr = {.text = "a", .text_bytes = 1};
    struct err e = {0};
    ck_assert(!infill_possible(t));
    ck_assert_int_eq(infill_prompt(&pr, t, "b", &e), ERR_UNSUPPORTED);
    ck_assert_str_eq(e.param, "suffix");
    tokenizer_free(&t);
}
END_TEST

START_TEST(test_infill_files)
{
    static const char *const qwen[] = {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>",
                                       "<|file_sep|>"};
    static const char files[] = "[{\"filename\":\"m\",\"text\":\"aa\"},{\"text\":\"<|file_sep|>b\"}]";
    /* there are tokens for the letters a to d and m: "myproject" is m and c, "filename" a and m, "tmp" m */
    struct tokenizer *t = tokenizer(qwen, 5);
    check_files(t, files, "13 7 2 14 7 0 0 14 7 4 5 5 6 1 14 0 7 10 0 1 2 11 3 12 ");
    check_files(t, NULL, "13 7 2 14 0 7 10 0 1 2 11 3 12 ");
    tokenizer_free(&t);
    t = tokenizer(qwen, 3);
    check_files(t, files, "0 0 4 5 5 6 1 10 0 1 2 11 3 12 ");
    tokenizer_free(&t);
    t = tokenizer(qwen, 2);
    const struct params p = {.input_prefix = "a", .input_suffix = "b"};
    struct prompt pr = {0};
    struct err e = {0};
    ck_assert_int_eq(infill_files(&pr, t, &p, 1000, &e), ERR_UNSUPPORTED);
    ck_assert_msg(strstr(e.text, "<|fim_middle|>") && !strstr(e.text, "<|fim_prefix|>"), "%s", e.text);
    tokenizer_free(&t);
}
END_TEST

/* --- the store -------------------------------------------------------------------------------------- */

static bool has(struct store *s, const char *id, uint64_t client)
{
    char *body = NULL, *items = NULL;
    int r = store_get(s, id, client, &body, &items);
    ck_assert(r == 0 || r == ERR_NOTFOUND);
    if (r == 0) {
        ck_assert_int_eq(strncmp(body, "body", 4), 0);
        ck_assert_int_eq(strncmp(items, "items", 5), 0);
    }
    free(body);
    free(items);
    return r == 0;
}

static void check_store(const char *path)
{
    struct store *s = NULL;
    struct err e = {0};
    char id[32], large[2001];
    ck_assert_msg(store_open(path, 3, 4000, &s, &e) == 0, "%s", e.text);
    for (int i = 0; i < 5; i++) {
        snprintf(id, sizeof(id), "resp_%d", i);
        ck_assert_int_eq(store_put(s, id, 7, "body", "items"), 0);
    }
    ck_assert(!has(s, "resp_0", 7) && !has(s, "resp_1", 7)); /* the oldest went */
    ck_assert(has(s, "resp_2", 7) && has(s, "resp_3", 7) && has(s, "resp_4", 7));
    ck_assert(!has(s, "resp_4", 8)); /* another's */
    ck_assert_int_eq(store_delete(s, "resp_4", 8), ERR_NOTFOUND);
    ck_assert_int_eq(store_delete(s, "resp_4", 7), 0);
    ck_assert_int_eq(store_delete(s, "resp_4", 7), ERR_NOTFOUND);
    ck_assert(!has(s, "resp_4", 7));
    memset(large, 'x', sizeof(large) - 1);
    memcpy(large, "body", 4);
    large[sizeof(large) - 1] = 0;
    ck_assert_int_eq(store_put(s, "big", 7, large, "items"), 0); /* beside the others */
    ck_assert_int_eq(store_put(s, "bigger", 7, large, "items"), 0);
    ck_assert(has(s, "bigger", 7) && !has(s, "big", 7) && !has(s, "resp_2", 7));
    ck_assert_int_eq(store_put(s, "huge", 7, large, large), 0); /* more than there is room for: not kept */
    ck_assert(!has(s, "huge", 7) && has(s, "bigger", 7));
    store_close(&s);
}

START_TEST(test_store)
{
    struct store *s = NULL;
    struct err e = {0};
    char path[64], more[80];
    check_store(NULL);
    snprintf(path, sizeof(path), "t_kept.%d.sqlite", (int)getpid());
    check_store(path);
    ck_assert_int_eq(store_open(path, 3, 4000, &s, &e), 0); /* it outlives the process */
    ck_assert(has(s, "bigger", 7));
    ck_assert_int_eq(store_put(s, "one", 7, "body", "items"), 0);
    store_close(&s);
    ck_assert_int_eq(store_open(path, 0, 4000, &s, &e), 0);
    ck_assert_int_eq(store_put(s, "none", 7, "body", "items"), 0);
    ck_assert(!has(s, "none", 7));
    store_close(&s);
    FILE *f = fopen(path, "w"); /* not a database */
    fputs("something else, and long enough that it is no empty file", f);
    fclose(f);
    ck_assert_int_lt(store_open(path, 3, 4000, &s, &e), 0);
    ck_assert_ptr_nonnull(strstr(e.text, path));
    ck_assert_int_lt(store_open("no/such/folder/x", 3, 4000, &s, &e), 0);
    for (int i = 0; i < 3; i++) {
        snprintf(more, sizeof(more), "%s%s", path, i == 0 ? "" : i == 1 ? "-wal" : "-shm");
        unlink(more);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kept");
    TCase *tc = tcase_create("infill");
    tcase_add_test(tc, test_kept);
    tcase_add_test(tc, test_infill_files);
    tcase_add_test(tc, test_store);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
