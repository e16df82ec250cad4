/* tests/unit/t_kept.c - prompts with a suffix, and the store of responses with its thread. */
#include "config.h"

#include <check.h>
#include <pthread.h>
#include <semaphore.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/internal.h"
#include "api/store.h"
#include "api/store_db.h"

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

/* --- the database of the store ---------------------------------------------------------------------- */

static bool has(struct store_db *s, const char *id, uint64_t client)
{
    char *body = NULL, *items = NULL;
    int r = store_db_get(s, id, client, &body, &items);
    ck_assert(r == 0 || r == ERR_NOTFOUND);
    if (r == 0) {
        ck_assert_int_eq(strncmp(body, "body", 4), 0);
        ck_assert_int_eq(strncmp(items, "items", 5), 0);
    }
    free(body);
    free(items);
    return r == 0;
}

static void check_use(const struct store_db *s, int64_t n, int64_t n_bytes)
{
    int64_t got, got_bytes;
    store_db_use(s, &got, &got_bytes);
    ck_assert_int_eq(got, n);
    ck_assert_int_eq(got_bytes, n_bytes);
}

static void check_db(const char *path)
{
    struct store_db *s = NULL;
    struct err e = {0};
    char id[32], large[2001];
    ck_assert_msg(store_db_open(path, 3, 4000, &s, &e) == 0, "%s", e.text);
    for (int i = 0; i < 5; i++) {
        snprintf(id, sizeof(id), "resp_%d", i);
        ck_assert_int_eq(store_db_put(s, id, 7, "body", "items"), 0);
    }
    ck_assert(!has(s, "resp_0", 7) && !has(s, "resp_1", 7)); /* the oldest went */
    ck_assert(has(s, "resp_2", 7) && has(s, "resp_3", 7) && has(s, "resp_4", 7));
    ck_assert(!has(s, "resp_4", 8)); /* another's */
    ck_assert_int_eq(store_db_delete(s, "resp_4", 8), ERR_NOTFOUND);
    ck_assert_int_eq(store_db_delete(s, "resp_4", 7), 0);
    ck_assert_int_eq(store_db_delete(s, "resp_4", 7), ERR_NOTFOUND);
    ck_assert(!has(s, "resp_4", 7));
    memset(large, 'x', sizeof(large) - 1);
    memcpy(large, "body", 4);
    large[sizeof(large) - 1] = 0;
    ck_assert_int_eq(store_db_put(s, "big", 7, large, "items"), 0); /* beside the others */
    ck_assert_int_eq(store_db_put(s, "bigger", 7, large, "items"), 0);
    ck_assert(has(s, "bigger", 7) && !has(s, "big", 7) && !has(s, "resp_2", 7));
    ck_assert_int_eq(store_db_put(s, "huge", 7, large, large), 0); /* more than there is room for: not kept */
    ck_assert(!has(s, "huge", 7) && has(s, "bigger", 7));
    check_use(s, 1, 2000 + 5 + 6 + 64);
    ck_assert_int_eq(store_db_put(s, "bigger", 7, "body", "items"), 0); /* in the place of the other */
    check_use(s, 1, 4 + 5 + 6 + 64);
    ck_assert_int_eq(store_db_put(s, "bigger", 8, "another", "items"), ERR_DENIED); /* another's stays */
    ck_assert(has(s, "bigger", 7) && !has(s, "bigger", 8));
    check_use(s, 1, 4 + 5 + 6 + 64);
    ck_assert_int_eq(store_db_put(s, "more", 7, "body", "items"), 0);
    check_use(s, 2, 4 + 5 + 6 + 64 + 4 + 5 + 4 + 64);
    ck_assert_int_eq(store_db_delete(s, "more", 7), 0);
    check_use(s, 1, 4 + 5 + 6 + 64);
    store_db_close(&s);
}

static void remove_db(const char *path)
{
    char more[80];
    for (int i = 0; i < 3; i++) {
        snprintf(more, sizeof(more), "%s%s", path, i == 0 ? "" : i == 1 ? "-wal" : "-shm");
        unlink(more);
    }
}

START_TEST(test_db)
{
    struct store_db *s = NULL;
    struct err e = {0};
    char path[64];
    check_db(NULL);
    snprintf(path, sizeof(path), "t_kept.%d.sqlite", (int)getpid());
    check_db(path);
    ck_assert_int_eq(store_db_open(path, 3, 4000, &s, &e), 0); /* it outlives the process */
    ck_assert(has(s, "bigger", 7));
    check_use(s, 1, 4 + 5 + 6 + 64);
    ck_assert_int_eq(store_db_put(s, "one", 7, "body", "items"), 0);
    store_db_close(&s);
    ck_assert_int_eq(store_db_open(path, 0, 4000, &s, &e), 0);
    ck_assert_int_eq(store_db_put(s, "none", 7, "body", "items"), 0);
    ck_assert(!has(s, "none", 7));
    store_db_close(&s);
    FILE *f = fopen(path, "w"); /* not a database */
    fputs("something else, and long enough that it is no empty file", f);
    fclose(f);
    ck_assert_int_lt(store_db_open(path, 3, 4000, &s, &e), 0);
    ck_assert_ptr_nonnull(strstr(e.text, path));
    ck_assert_int_lt(store_db_open("no/such/folder/x", 3, 4000, &s, &e), 0);
    remove_db(path);
}
END_TEST

/* --- the store and its thread ----------------------------------------------------------------------- */

/* What the store has told, in order. */
struct heard {
    sem_t woken;
    int n, n_lines;
    struct {
        int result;
        char body[16], items[16];
    } list[8];
    char line[256]; /* of the log, the last */
};

static void on_wake(void *host)
{
    struct heard *h = host;
    sem_post(&h->woken);
}

static void on_log(void *host, const char *text)
{
    struct heard *h = host;
    h->n_lines++;
    snprintf(h->line, sizeof(h->line), "%s", text);
}

static void on_told(void *arg, int result, const char *body, const char *items)
{
    struct heard *h = arg;
    const int i = h->n++ % 8;
    h->list[i].result = result;
    ck_assert_int_eq(result != 0 && body, 0);
    snprintf(h->list[i].body, sizeof(h->list[i].body), "%s", body ? body : "");
    snprintf(h->list[i].items, sizeof(h->list[i].items), "%s", items ? items : "");
}

static struct store *open_store(const char *path, int entries, uint64_t waiting, struct heard *h,
                                struct metrics *m)
{
    const struct store_config cfg = {.path = path,
                                     .max_entries = entries,
                                     .max_bytes = 100000,
                                     .max_waiting_bytes = waiting,
                                     .metrics = m,
                                     .wake = on_wake,
                                     .log = on_log,
                                     .host = h};
    struct store *s = NULL;
    struct err e = {0};
    *h = (struct heard){.n = 0};
    sem_init(&h->woken, 0, 0);
    ck_assert_msg(store_open(&cfg, &s, &e) == 0, "%s", e.text);
    return s;
}

/* Until n answers have come, as the loop does it. */
static void hear(struct store *s, struct heard *h, int n)
{
    for (store_poll(s); h->n < n; store_poll(s))
        sem_wait(&h->woken);
    ck_assert_int_eq(h->n, n);
}

static void check_metric(const struct metrics *m, const char *line)
{
    struct buf text;
    buf_init(&text, 1u << 20);
    ck_assert_int_eq(metrics_render(m, METRICS_TEXT, &text), 0);
    ck_assert_msg(strstr(text.data, line) != NULL, "no %s in %s", line, text.data);
    buf_done(&text);
}

/* Another process's hold on the file, or a change of it. */
static sqlite3 *do_beside(const char *path, const char *sql)
{
    sqlite3 *db = NULL;
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    return db;
}

START_TEST(test_store)
{
    struct heard h;
    struct metrics *m = metrics_new();
    struct store *s = open_store(NULL, 3, 100000, &h, m);
    store_put(s, "one", 7, "body", "items");
    ck_assert_int_eq(store_get(s, "one", 7, on_told, &h), 0); /* finds what was put just before it */
    ck_assert_int_eq(store_get(s, "one", 8, on_told, &h), 0);
    ck_assert_int_eq(store_delete(s, "one", 8, on_told, &h), 0);
    ck_assert_int_eq(store_delete(s, "one", 7, on_told, &h), 0);
    ck_assert_int_eq(store_get(s, "one", 7, on_told, &h), 0);
    store_put(s, "one", 7, "again", "more");
    ck_assert_int_eq(store_get(s, "one", 7, on_told, &h), 0);
    ck_assert_int_eq(h.n, 0); /* nothing is told but by store_poll */
    hear(s, &h, 6);
    ck_assert_int_eq(h.list[0].result, 0);
    ck_assert_str_eq(h.list[0].body, "body");
    ck_assert_str_eq(h.list[0].items, "items");
    ck_assert_int_eq(h.list[1].result, ERR_NOTFOUND);
    ck_assert_int_eq(h.list[2].result, ERR_NOTFOUND);
    ck_assert_int_eq(h.list[3].result, 0);
    ck_assert_int_eq(h.list[4].result, ERR_NOTFOUND);
    ck_assert_str_eq(h.list[5].body, "again");
    check_metric(m, "\nlatentd_responses_kept 1\n");
    check_metric(m, "\nlatentd_response_store_queue 0\n");
    check_metric(m, "\nlatentd_response_store_queue_bytes 0\n");
    ck_assert_int_eq(h.n_lines, 0);
    store_close(&s);
    ck_assert_ptr_null(s);
    store_close(&s);
    s = open_store(NULL, 0, 100000, &h, NULL); /* keeps nothing, and needs no metrics */
    store_put(s, "none", 7, "body", "items");
    ck_assert_int_eq(store_get(s, "none", 7, on_told, &h), 0);
    hear(s, &h, 1);
    ck_assert_int_eq(h.list[0].result, ERR_NOTFOUND);
    store_close(&s);
    metrics_free(&m);
}
END_TEST

/* Somebody holds the file: what waits is bounded, and done when it is let go. */
START_TEST(test_store_waits)
{
    struct heard h;
    struct metrics *m = metrics_new();
    char path[64], large[1501];
    snprintf(path, sizeof(path), "t_kept.%d.waits", (int)getpid());
    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = 0;
    struct store *s = open_store(path, 100, 2000, &h, m);
    sqlite3 *other = do_beside(path, "BEGIN IMMEDIATE");
    store_put(s, "one", 7, large, large); /* more than may wait, but alone */
    store_put(s, "two", 7, "body", "items");
    store_put(s, "three", 7, "body", "items");
    ck_assert_int_eq(store_get(s, "one", 7, on_told, &h), ERR_BUSY);
    ck_assert_int_eq(store_delete(s, "one", 7, on_told, &h), ERR_BUSY);
    check_metric(m, "\nlatentd_responses_lost_total{reason=\"queue_full\"} 2\n");
    check_metric(m, "\nlatentd_response_store_queue 1\n");
    ck_assert_int_eq(h.n_lines, 1); /* not one for each */
    ck_assert_ptr_nonnull(strstr(h.line, "response_store_queue"));
    store_poll(s);
    ck_assert_int_eq(h.n, 0);
    ck_assert_int_eq(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    while (store_get(s, "one", 7, on_told, &h) == ERR_BUSY) {
        sem_wait(&h.woken);
        store_poll(s);
    }
    ck_assert_int_eq(store_get(s, "two", 7, on_told, &h), 0);
    hear(s, &h, 2);
    ck_assert_int_eq(h.list[0].result, 0);
    ck_assert_int_eq(h.list[1].result, ERR_NOTFOUND);
    store_close(&s);

    /* of small things their number is bounded */
    s = open_store(path, 100, 1u << 30, &h, NULL);
    ck_assert_int_eq(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    store_put(s, "four", 7, "body", "items");
    int n = 0;
    while (n < 100000 && store_get(s, "four", 7, on_told, &h) == 0)
        n++;
    ck_assert_int_gt(n, 1000);
    ck_assert_int_lt(n, 100000);
    ck_assert_int_eq(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    hear(s, &h, n);
    ck_assert_int_eq(h.list[0].result, 0);
    ck_assert_str_eq(h.list[0].body, "body");
    store_close(&s);
    sqlite3_close(other);
    remove_db(path);
    metrics_free(&m);
}
END_TEST

static void *let_go(void *db)
{
    usleep(100000);
    ck_assert_int_eq(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    return NULL;
}

/* The end waits for the disk: what was put is there afterwards, and who asked is not called any more. */
START_TEST(test_store_end)
{
    struct heard h;
    pthread_t helper;
    char path[64], id[16];
    snprintf(path, sizeof(path), "t_kept.%d.end", (int)getpid());
    struct store *s = open_store(path, 100, 1u << 20, &h, NULL);
    sqlite3 *other = do_beside(path, "BEGIN IMMEDIATE");
    for (int i = 0; i < 50; i++) {
        snprintf(id, sizeof(id), "resp_%d", i);
        store_put(s, id, 7, "body", "items");
        ck_assert_int_eq(store_get(s, id, 7, on_told, &h), 0);
    }
    ck_assert_int_eq(pthread_create(&helper, NULL, let_go, other), 0);
    store_close(&s);
    pthread_join(helper, NULL);
    ck_assert_int_eq(h.n, 0);
    sqlite3_close(other);
    s = open_store(path, 100, 1u << 20, &h, NULL);
    for (int i = 0; i < 50; i++) {
        snprintf(id, sizeof(id), "resp_%d", i);
        ck_assert_int_eq(store_get(s, id, 7, on_told, &h), 0);
        hear(s, &h, i + 1);
        ck_assert_int_eq(h.list[i % 8].result, 0);
    }
    store_close(&s);
    remove_db(path);
}
END_TEST

/* The database does not work: questions are told so, losses are counted, the operator is told once. */
START_TEST(test_store_fails)
{
    struct heard h;
    struct metrics *m = metrics_new();
    char path[64];
    snprintf(path, sizeof(path), "t_kept.%d.fails", (int)getpid());
    struct store *s = open_store(path, 100, 100000, &h, m);
    sqlite3_close(do_beside(path, "ALTER TABLE responses RENAME TO hidden"));
    store_put(s, "one", 7, "body", "items");
    store_put(s, "two", 7, "body", "items");
    ck_assert_int_eq(store_get(s, "one", 7, on_told, &h), 0);
    ck_assert_int_eq(store_delete(s, "one", 7, on_told, &h), 0);
    hear(s, &h, 2);
    ck_assert_int_eq(h.list[0].result, ERR_IO);
    ck_assert_int_eq(h.list[1].result, ERR_IO);
    check_metric(m, "\nlatentd_responses_lost_total{reason=\"failed\"} 2\n");
    check_metric(m, "\nlatentd_responses_kept 0\n");
    ck_assert_int_eq(h.n_lines, 1);
    ck_assert_ptr_nonnull(strstr(h.line, "no such table"));
    sqlite3_close(do_beside(path, "ALTER TABLE hidden RENAME TO responses"));
    store_put(s, "three", 7, "body", "items");
    ck_assert_int_eq(store_get(s, "three", 7, on_told, &h), 0);
    hear(s, &h, 3);
    ck_assert_int_eq(h.list[2].result, 0);
    store_close(&s);
    remove_db(path);
    metrics_free(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kept");
    TCase *tc = tcase_create("infill");
    tcase_add_test(tc, test_kept);
    tcase_add_test(tc, test_infill_files);
    tcase_add_test(tc, test_db);
    tcase_add_test(tc, test_store);
    tcase_add_test(tc, test_store_waits);
    tcase_add_test(tc, test_store_end);
    tcase_add_test(tc, test_store_fails);
    tcase_set_timeout(tc, 60);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
