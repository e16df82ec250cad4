/* tests/unit/t_keys.c - keys files, finding keys, and what the limits of a key let through. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/keys.h"
#include "server/limits.h"

static const char key_a[] = "0123456789abcdef-a", key_b[] = "0123456789abcdef-b";
static char hash_a[KEY_HASH_TEXT], hash_b[KEY_HASH_TEXT];
static struct keyring *ring;
static struct err e;

static void setup(void)
{
    e = (struct err){0};
    ring = calloc(1, sizeof(*ring));
    ck_assert_ptr_nonnull(ring);
    ring->refs = 1;
    ck_assert_int_eq(key_hash_text(key_a, strlen(key_a), hash_a, &e), 0);
    ck_assert_int_eq(key_hash_text(key_b, strlen(key_b), hash_b, &e), 0);
}

static void teardown(void)
{
    keyring_unref(&ring);
}

static int line(const char *fmt, const char *hash)
{
    char text[1000];
    e = (struct err){0};
    snprintf(text, sizeof(text), fmt, hash);
    return keyring_read_line(ring, text, &e);
}

static const struct api_key *find(const char *key)
{
    unsigned char digest[KEY_DIGEST_BYTES];
    ck_assert_int_eq(key_digest(key, strlen(key), digest), 0);
    return keyring_find(ring, digest);
}

START_TEST(test_hash)
{
    /* printf 0123456789abcdef-a | sha256sum */
    ck_assert_str_eq(hash_a, "sha256:d59433a5d34913c9177099fd47ec0db05b66bf301f1941e523b2816a4b088c6a");
    char text[KEY_HASH_TEXT];
    ck_assert_int_eq(key_hash_text("tooshort", 8, text, &e), ERR_INVAL);
    ck_assert_ptr_nonnull(strstr(e.text, "16 to 512"));
    ck_assert_int_eq(key_hash_text("0123456789 abcdef", 17, text, &e), ERR_INVAL);
    ck_assert_int_eq(key_hash_text("0123456789\x80" "bcdefgh", 18, text, &e), ERR_INVAL);
}
END_TEST

START_TEST(test_lines)
{
    ck_assert_int_eq(line("  # nothing\n", ""), 0);
    ck_assert_int_eq(line("\n", ""), 0);
    ck_assert_int_eq(ring->n, 0);
    ck_assert_int_eq(line("alice %s requests_per_minute=60 tokens_per_minute=1000 concurrent=4 priority=3 "
                          "models=a,b  # hers\n", hash_a), 0);
    ck_assert_int_eq(line("root %s admin best_priority=-5", hash_b), 0);
    ck_assert_int_eq(ring->n, 2);
    const struct api_key *k = find(key_a);
    ck_assert_ptr_nonnull(k);
    ck_assert_str_eq(k->name, "alice");
    ck_assert_int_eq(k->requests_per_minute, 60);
    ck_assert_int_eq(k->tokens_per_minute, 1000);
    ck_assert_int_eq(k->concurrent, 4);
    ck_assert_int_eq(k->grant.priority, 3);
    ck_assert_int_eq(k->grant.best_priority, 3); /* not said: nobody goes before others */
    ck_assert_str_eq(k->grant.models, "a,b");
    ck_assert(!k->admin);
    k = find(key_b);
    ck_assert(k && k->admin && k->grant.best_priority == -5 && k->grant.priority == 0 && !k->grant.models);
    ck_assert_ptr_null(find("0123456789abcdef-c"));
    ck_assert_ptr_null(find(""));
}
END_TEST

START_TEST(test_bad_lines)
{
    static const struct {
        const char *line, *told;
    } rows[] = {
        {"alice", "no hash"},
        {"alice 0123456789abcdef0123456789abcdef", "sha256:"},
        {"alice sha256:00", "64 hexadecimal"},
        {"alice sha256:zz23456789012345678901234567890123456789012345678901234567890123", "64 hexadecimal"},
        {"al/ce %s", "a name has"},
        {"a234567890123456789012345678901234567890123456789012345678901234x %s", "a name has"},
        {"alice %s concurrent", "concurrent wants a whole number from 1 to 1000000"},
        {"alice %s concurrent=0", "concurrent wants"},
        {"alice %s concurrent=1x", "concurrent wants"},
        {"alice %s requests_per_minute=-1", "from 1 to 1000000000"},
        {"alice %s requests_per_minute=99999999999999999999", "from 1 to 1000000000"},
        {"alice %s priority=1000001", "from -1000000 to 1000000"},
        {"alice %s priority=1 best_priority=2", "must not be above priority"},
        {"alice %s models=", "names, separated by commas"},
        {"alice %s admin=yes", "admin wants no value"},
        {"alice %s sudo", "there is no option \"sudo\""},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        ck_assert_msg(line(rows[i].line, hash_a) < 0, "%s was taken", rows[i].line);
        ck_assert_msg(strstr(e.text, rows[i].told), "%s: %s", rows[i].line, e.text);
        ck_assert_int_eq(ring->n, 0);
    }
    ck_assert_int_eq(line("alice %s", hash_a), 0);
    ck_assert_int_lt(line("alice %s", hash_b), 0);
    ck_assert_ptr_nonnull(strstr(e.text, "two keys named alice"));
    ck_assert_int_lt(line("bob %s models=x", hash_a), 0);
    ck_assert_ptr_nonnull(strstr(e.text, "the same key"));
}
END_TEST

START_TEST(test_many)
{
    char text[200], hash[KEY_HASH_TEXT], key[40];
    for (int i = 0; i <= KEYS_MAX; i++) {
        snprintf(key, sizeof(key), "key-number-%08d", i);
        ck_assert_int_eq(key_hash_text(key, strlen(key), hash, &e), 0);
        snprintf(text, sizeof(text), "k%d %s", i, hash);
        int r = keyring_read_line(ring, text, &e);
        ck_assert_int_eq(r, i < KEYS_MAX ? 0 : ERR_LIMIT);
    }
    ck_assert_str_eq(find("key-number-00000000")->name, "k0");
    ck_assert_str_eq(find("key-number-00002777")->name, "k2777");
    ck_assert_str_eq(find("key-number-00004095")->name, "k4095");
    ck_assert_ptr_null(find("key-number-00004096"));
}
END_TEST

static void write_file(char path[], const char *text)
{
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

START_TEST(test_sources)
{
    char path[] = "/tmp/latentd-keys-XXXXXX", text[400], name[100];
    struct key_sources src = {"", "", ""};
    struct keyring *r = NULL;
    ck_assert_int_eq(keyring_read(&src, &r, &e), 0);
    ck_assert(!r->required && r->n == 0);
    keyring_unref(&r);

    src.admin_key = key_a; /* alone: the rest stays open */
    ck_assert_int_eq(keyring_read(&src, &r, &e), 0);
    ck_assert(!r->required && r->n == 1 && r->keys[0].admin);
    keyring_unref(&r);

    src.api_key = hash_b; /* hashed already */
    ck_assert_int_eq(keyring_read(&src, &r, &e), 0);
    ck_assert(r->required && r->n == 2 && !strcmp(r->keys[0].name, "default"));
    unsigned char digest[KEY_DIGEST_BYTES];
    ck_assert_int_eq(key_digest(key_b, strlen(key_b), digest), 0);
    ck_assert_ptr_eq(keyring_find(r, digest), &r->keys[0]);
    keyring_unref(&r);

    src = (struct key_sources){"", "short", ""};
    ck_assert_int_eq(keyring_read(&src, &r, &e), ERR_INVAL);
    ck_assert_str_eq(e.param, "api_key");
    ck_assert_ptr_null(strstr(e.text, "short")); /* keys are not told */

    snprintf(text, sizeof(text), "# keys\nalice %s\nbob %s admin\nbad\n", hash_a, hash_b);
    write_file(path, text);
    src = (struct key_sources){path, "", ""};
    ck_assert_int_eq(keyring_read(&src, &r, &e), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(e.text, "line 4"));
    ck_assert_str_eq(e.param, "api_keys_file");
    text[strlen(text) - 4] = 0;
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
    ck_assert_int_eq(keyring_read(&src, &r, &e), 0);
    ck_assert(r->required && r->n == 2);
    keyring_unref(&r);

    unsetenv("CREDENTIALS_DIRECTORY");
    snprintf(name, sizeof(name), "credential:%s", strrchr(path, '/') + 1);
    src.file = name;
    ck_assert_int_eq(keyring_read(&src, &r, &e), ERR_NOTFOUND);
    setenv("CREDENTIALS_DIRECTORY", "/tmp", 1);
    ck_assert_int_eq(keyring_read(&src, &r, &e), 0);
    ck_assert_int_eq(r->n, 2);
    keyring_unref(&r);
    src.file = "credential:../etc/passwd";
    ck_assert_int_eq(keyring_read(&src, &r, &e), ERR_INVAL);
    unlink(path);
    src.file = path;
    ck_assert_int_eq(keyring_read(&src, &r, &e), ERR_IO); /* a file that is gone lets nobody in */
    ck_assert_ptr_null(r);
}
END_TEST

#define AT(seconds) (1000 * NS_PER_SEC + (int64_t)((seconds) * 1e9))

START_TEST(test_limits)
{
    struct limits *l = limits_new(NULL);
    ck_assert_int_eq(line("alice %s requests_per_minute=3 tokens_per_minute=600 concurrent=2", hash_a), 0);
    ck_assert_int_eq(limits_bind(l, ring, &e), 0);
    const struct api_key *k = find(key_a);
    /* at the same time */
    ck_assert_int_eq(limits_begin(k, true, AT(0), &e), 0);
    ck_assert_int_eq(limits_begin(k, true, AT(0), &e), 0);
    ck_assert_int_eq(limits_begin(k, true, AT(0), &e), 1);
    ck_assert_ptr_nonnull(strstr(e.text, "2 requests of this key are running"));
    limits_end(k, 0, 0, false, AT(0));
    /* a minute */
    ck_assert_int_eq(limits_begin(k, true, AT(0), &e), 0);
    limits_end(k, 0, 0, false, AT(0));
    ck_assert_int_eq(limits_begin(k, true, AT(0), &e), 20);
    ck_assert_int_eq(limits_begin(k, true, AT(12), &e), 8);
    ck_assert_int_eq(limits_begin(k, true, AT(20), &e), 0);
    limits_end(k, 0, 0, false, AT(20));
    /* never more than a minute's worth is saved up */
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(limits_begin(k, true, AT(10000), &e), 0);
        limits_end(k, 0, 0, false, AT(10000));
    }
    ck_assert_int_gt(limits_begin(k, true, AT(10000), &e), 0);
    limits_end(k, 0, 0, false, AT(10000));
    ck_assert_int_eq(k->use->running, 0);
    limits_free(&l);
}
END_TEST

START_TEST(test_tokens)
{
    struct limits *l = limits_new(NULL);
    ck_assert_int_eq(line("alice %s tokens_per_minute=600", hash_a), 0);
    ck_assert_int_eq(limits_bind(l, ring, &e), 0);
    const struct api_key *k = find(key_a);
    ck_assert_int_eq(limits_begin(k, true, AT(0), &e), 0);
    ck_assert_int_eq(limits_take_prompt(k, 400, AT(0), &e), 0);
    ck_assert_int_eq(limits_take_prompt(k, 300, AT(0), &e), 10); /* 100 are missing, ten a second */
    ck_assert_ptr_nonnull(strstr(e.text, "of which 200 are left"));
    /* what was refused later on is given back */
    limits_end(k, 400, 0, true, AT(0));
    ck_assert_int_eq(limits_begin(k, true, AT(0), &e), 0);
    ck_assert_int_eq(limits_take_prompt(k, 600, AT(0), &e), 0);
    limits_end(k, 600, 600, false, AT(0)); /* an answer is counted when it is there: below zero */
    ck_assert_int_eq(limits_begin(k, true, AT(0), &e), 61);
    ck_assert_int_eq(limits_begin(k, true, AT(60), &e), 1);
    ck_assert_int_eq(limits_begin(k, true, AT(61), &e), 0);
    limits_end(k, 0, 0, false, AT(61));
    /* longer than a minute's worth: with a full bucket, and paid for afterwards */
    ck_assert_int_eq(limits_take_prompt(k, 1200, AT(61), &e), 59);
    ck_assert_int_eq(limits_take_prompt(k, 1200, AT(120), &e), 0);
    ck_assert_int_eq(limits_begin(k, true, AT(120), &e), 61);
    limits_free(&l);
}
END_TEST

START_TEST(test_use_survives)
{
    struct limits *l = limits_new(NULL);
    ck_assert_int_eq(line("alice %s requests_per_minute=1", hash_a), 0);
    ck_assert_int_eq(limits_bind(l, ring, &e), 0);
    ck_assert_int_eq(limits_begin(find(key_a), true, AT(0), &e), 0);
    struct keyring *old = keyring_ref(ring);
    keyring_unref(&ring); /* a reload, with another hash for the same name */
    ring = calloc(1, sizeof(*ring));
    ring->refs = 1;
    ck_assert_int_eq(line("alice %s requests_per_minute=1", hash_b), 0);
    ck_assert_int_eq(limits_bind(l, ring, &e), 0);
    ck_assert_int_eq(find(key_b)->use->running, 1);
    ck_assert_int_gt(limits_begin(find(key_b), true, AT(0), &e), 0);
    limits_end(&old->keys[0], 0, 0, false, AT(0)); /* the request that holds the old ring */
    ck_assert_int_eq(find(key_b)->use->running, 0);
    keyring_unref(&old);
    limits_free(&l);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("keys");
    TCase *t = tcase_create("keys");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_hash);
    tcase_add_test(t, test_lines);
    tcase_add_test(t, test_bad_lines);
    tcase_add_test(t, test_many);
    tcase_add_test(t, test_sources);
    tcase_add_test(t, test_limits);
    tcase_add_test(t, test_tokens);
    tcase_add_test(t, test_use_survives);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
