/* tests/unit/t_conf.c - the configuration: every key from every source, and what wrong values are told. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/conf.h"

static struct server_config c;
static struct err e;

static void setup(void)
{
    ck_assert_int_eq(config_init(&c), 0);
    e = (struct err){0};
}

static void teardown(void)
{
    config_done(&c);
}

static int read_text(const char *text)
{
    char path[] = "/tmp/latentd-conf-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    int r = config_read_file(&c, path, &e);
    unlink(path);
    return r;
}

START_TEST(test_defaults)
{
    ck_assert_str_eq(c.listen, "127.0.0.1:8080");
    ck_assert_int_eq(c.page_tokens, 32);
    ck_assert_int_eq(c.max_body_size, 8 << 20);
    ck_assert_int_eq(c.header_timeout, 10000);
    ck_assert_int_eq(c.socket_mode, 0660);
    ck_assert(c.prefix_cache && !c.strict);
    ck_assert_int_eq(config_check(&c, &e), 0);
}
END_TEST

START_TEST(test_units)
{
    static const struct {
        const char *key, *value;
        long long want; /* -1: refused */
    } rows[] = {
        {"cache_size", "64M", 64ll << 20},
        {"cache_size", "1.5G", -1},
        {"cache_size", "2GiB", 2ll << 30},
        {"cache_size", "2g", 2ll << 30},
        {"cache_size", "3 M", -1},
        {"cache_size", "-1", -1},
        {"cache_size", "", -1},
        {"cache_size", "99999999999999999999", -1},
        {"cache_size", "9999999999T", -1},
        {"header_timeout", "250ms", 250},
        {"header_timeout", "2s", 2000},
        {"header_timeout", "1m", 60000},
        {"header_timeout", "2h", -1},
        {"header_timeout", "99", 99000},
        {"header_timeout", "99ms", -1},
        {"threads", "12", 12},
        {"threads", "12K", -1},
        {"threads", "1025", -1},
        {"threads", "0x10", -1},
        {"socket_mode", "0600", 0600},
        {"socket_mode", "0800", -1},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        e = (struct err){0};
        int r = config_set(&c, rows[i].key, rows[i].value, &e);
        long long got = !strcmp(rows[i].key, "cache_size")       ? c.cache_size
                        : !strcmp(rows[i].key, "header_timeout") ? c.header_timeout
                        : !strcmp(rows[i].key, "threads")        ? c.threads
                                                                 : c.socket_mode;
        if (rows[i].want >= 0) {
            ck_assert_msg(r == 0, "%s = %s: %s", rows[i].key, rows[i].value, e.text);
            ck_assert_int_eq(got, rows[i].want);
        } else {
            ck_assert_msg(r == ERR_INVAL, "%s = %s was taken", rows[i].key, rows[i].value);
            ck_assert_str_eq(e.param, rows[i].key);
            ck_assert_ptr_nonnull(strstr(e.text, rows[i].key));
        }
    }
}
END_TEST

START_TEST(test_words)
{
    ck_assert_int_eq(config_set(&c, "strict", "yes", &e), 0);
    ck_assert(c.strict);
    ck_assert_int_eq(config_set(&c, "strict", "off", &e), 0);
    ck_assert(!c.strict);
    ck_assert_int_eq(config_set(&c, "strict", "maybe", &e), ERR_INVAL);
    ck_assert_int_eq(config_set(&c, "cpu", "avx2", &e), 0);
    ck_assert_int_eq(config_set(&c, "cpu", "av", &e), ERR_INVAL);
    ck_assert_str_eq(c.cpu, "avx2");
    ck_assert_ptr_nonnull(strstr(e.text, "generic"));
    ck_assert_int_eq(config_set(&c, "max_num_seq", "3", &e), ERR_NOTFOUND);
    ck_assert_ptr_nonnull(strstr(e.text, "max_num_seqs"));
    ck_assert_int_eq(config_set(&c, "Network", "3", &e), ERR_NOTFOUND); /* a title is no key */
}
END_TEST

START_TEST(test_file)
{
    ck_assert_int_eq(read_text("# a comment\n\n  threads = 3   # three\nmodel=\"a b#c \\\" d\"\r\n"
                               "model_id =  x y  \nmax_uri_size = 1K"),
                     0);
    ck_assert_int_eq(c.threads, 3);
    ck_assert_str_eq(c.model, "a b#c \" d");
    ck_assert_str_eq(c.model_id, "x y");
    ck_assert_int_eq(c.max_uri_size, 1024);
    ck_assert_int_eq(read_text("threads = 1\nthreads 2\n"), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(e.text, "line 2"));
    ck_assert_int_eq(read_text("\nmodel = \"open\n"), ERR_FORMAT);
    ck_assert_int_eq(read_text("a = 1\n"), ERR_NOTFOUND);
    ck_assert_ptr_nonnull(strstr(e.text, "line 1"));
    ck_assert_int_eq(config_read_file(&c, "/nonexistent/latentd.conf", &e), ERR_IO);
    char *line = malloc(20001);
    memset(line, 'a', 20000);
    line[20000] = 0;
    ck_assert_int_eq(read_text(line), ERR_LIMIT);
    free(line);
}
END_TEST

/* What begins with the mark of UTF-8; what is said twice, which is told; what is no file. */
START_TEST(test_odd_files)
{
    char told[1000] = "";
    ck_assert_int_eq(read_text("\xef\xbb\xbfthreads = 5\n"), 0);
    ck_assert_int_eq(c.threads, 5);
    FILE *f = tmpfile();
    int before = dup(STDERR_FILENO);
    ck_assert(f && before >= 0 && dup2(fileno(f), STDERR_FILENO) >= 0);
    int r = read_text("listen = 127.0.0.1:1\nthreads = 2\n# listen = x\nlisten = 127.0.0.1:2\n");
    ck_assert(dup2(before, STDERR_FILENO) >= 0 && close(before) == 0);
    rewind(f);
    ck_assert_uint_gt(fread(told, 1, sizeof(told) - 1, f), 0);
    fclose(f);
    ck_assert_int_eq(r, 0);
    ck_assert_str_eq(c.listen, "127.0.0.1:2");
    ck_assert_ptr_nonnull(strstr(told, "line 4: listen is in line 1 already"));
    ck_assert_ptr_eq(strchr(told, '\n'), told + strlen(told) - 1);
    ck_assert_int_eq(config_read_file(&c, "/tmp", &e), ERR_IO);
    ck_assert_str_eq(e.text, "/tmp: Is a directory");
}
END_TEST

START_TEST(test_environment)
{
    char one[] = "LATENTD_THREADS=5", other[] = "PATH=/bin", bad[] = "LATENTD_THREAD=5";
    char *const good[] = {one, other, NULL}, *const wrong[] = {bad, NULL};
    ck_assert_int_eq(config_read_env(&c, good, &e), 0);
    ck_assert_int_eq(c.threads, 5);
    ck_assert_int_eq(config_read_env(&c, wrong, &e), ERR_NOTFOUND);
    ck_assert_ptr_nonnull(strstr(e.text, "threads"));
}
END_TEST

START_TEST(test_check)
{
    ck_assert_int_eq(config_set(&c, "page_tokens", "48", &e), 0);
    ck_assert_int_eq(config_check(&c, &e), ERR_INVAL);
    ck_assert_str_eq(e.param, "page_tokens");
    ck_assert_int_eq(config_set(&c, "page_tokens", "64", &e), 0);
    ck_assert_int_eq(config_set(&c, "write_low", "1M", &e), 0);
    ck_assert_int_eq(config_check(&c, &e), ERR_INVAL);
    ck_assert_str_eq(e.param, "write_low");
    ck_assert_int_eq(config_set(&c, "write_low", "1K", &e), 0);
    ck_assert_int_eq(config_set(&c, "cache_pin_files", "prompts", &e), 0);
    ck_assert_int_eq(config_check(&c, &e), ERR_INVAL);
    ck_assert_str_eq(e.param, "cache_pin_files");
    ck_assert_int_eq(config_set(&c, "cache_pinned", "10", &e), 0);
    ck_assert_int_eq(config_check(&c, &e), 0);
    ck_assert_int_eq(config_set(&c, "prefix_cache", "false", &e), 0);
    ck_assert_int_eq(config_check(&c, &e), ERR_INVAL);
    ck_assert_str_eq(e.param, "cache_pin_files");
}
END_TEST

/* What is printed reads back as the same. */
START_TEST(test_print)
{
    char *text = NULL, *again = NULL;
    size_t n = 0;
    ck_assert_int_eq(config_set(&c, "threads", "7", &e), 0);
    ck_assert_int_eq(config_set(&c, "model", "a \"b\" \\ # c", &e), 0);
    ck_assert_int_eq(config_set(&c, "cache_size", "12345", &e), 0);
    FILE *f = open_memstream(&text, &n);
    config_print(&c, false, f);
    fclose(f);
    teardown();
    setup();
    ck_assert_msg(read_text(text) == 0, "%s", e.text);
    ck_assert_int_eq(c.threads, 7);
    ck_assert_str_eq(c.model, "a \"b\" \\ # c");
    ck_assert_int_eq(c.cache_size, 12345);
    f = open_memstream(&again, &n);
    config_print(&c, false, f);
    fclose(f);
    ck_assert_str_eq(text, again);
    free(text);
    free(again);
}
END_TEST

START_TEST(test_secret)
{
    char *text = NULL;
    size_t n = 0;
    ck_assert_int_eq(config_set(&c, "api_key", "a-key-that-nobody-shall-see", &e), 0);
    ck_assert_str_eq(c.api_key, "a-key-that-nobody-shall-see");
    for (int with_help = 0; with_help < 2; with_help++) {
        FILE *f = open_memstream(&text, &n);
        config_print(&c, with_help, f);
        fclose(f);
        ck_assert_ptr_null(strstr(text, "nobody"));
        ck_assert_ptr_nonnull(strstr(text, "api_key = ********\n"));
        ck_assert_ptr_nonnull(strstr(text, "admin_key = \"\"\n"));
        free(text);
    }
}
END_TEST

static bool may_change(const char *key)
{
    return strcmp(key, "listen") && strcmp(key, "threads") && strcmp(key, "strict");
}

static void tell(void *arg, const char *key, bool taken)
{
    strcat(strcat(strcat(arg, key), taken ? "+" : "-"), " ");
}

START_TEST(test_take)
{
    struct server_config fresh;
    char told[300] = "";
    ck_assert_int_eq(config_init(&fresh), 0);
    config_take(&c, &fresh, may_change, tell, told);
    ck_assert_str_eq(told, "");
    static const char *const sets[][2] = {{"listen", "unix:/x"}, {"threads", "3"}, {"strict", "true"},
                                          {"max_n", "7"}, {"model_id", "m"}, {"access_log", "false"}};
    for (size_t i = 0; i < sizeof(sets) / sizeof(*sets); i++)
        ck_assert_int_eq(config_set(&fresh, sets[i][0], sets[i][1], &e), 0);
    config_take(&c, &fresh, may_change, tell, told);
    config_done(&fresh); /* what was taken is c's own */
    ck_assert_str_eq(told, "model_id+ threads- listen- max_n+ strict- access_log+ ");
    ck_assert(c.max_n == 7 && !c.access_log && !c.strict && c.threads == 0);
    ck_assert_str_eq(c.model_id, "m");
    ck_assert_str_eq(c.listen, "127.0.0.1:8080");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("conf");
    TCase *tc = tcase_create("conf");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_defaults);
    tcase_add_test(tc, test_secret);
    tcase_add_test(tc, test_take);
    tcase_add_test(tc, test_units);
    tcase_add_test(tc, test_words);
    tcase_add_test(tc, test_file);
    tcase_add_test(tc, test_odd_files);
    tcase_add_test(tc, test_environment);
    tcase_add_test(tc, test_check);
    tcase_add_test(tc, test_print);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
