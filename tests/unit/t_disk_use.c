/* tests/unit/t_disk_use.c - the disk tier in use: its budgets, saving and dropping by hand, when pages
 * are worth waiting for. */
#include "config.h"

#include "disk_rig.h"

/* The budget holds at every moment, and what is used stays. */
START_TEST(test_budget)
{
    struct kv_disk_config c = config();
    int32_t t[40 * P], hot[2 * P];
    c.max_bytes = 64 << 10; /* of 1 KiB records */
    struct kv *kv = cache(48, &c);
    prompt(hot, 50000, 2 * P);
    for (int i = 0; i < 30; i++) {
        prompt(t, i * 1000, 8 * P);
        run(kv, 7, no_ways, t, 8 * P);
        run(kv, 7, no_ways, hot, 2 * P);
        UNTIL(kv, stats(kv).queue == 0);
        ck_assert_uint_le(stats(kv).bytes, c.max_bytes);
    }
    ck_assert_uint_gt(stats(kv).evicted_files, 50);
    ck_assert_uint_gt(stats(kv).pages, 30);
    kv_close(&kv);
    kv = known(48, &c);
    ck_assert_uint_le(stats(kv).bytes, c.max_bytes);
    ck_assert_uint_eq(run(kv, 7, no_ways, hot, 2 * P), 2 * P);
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 8 * P), 8 * P); /* the last */
    prompt(t, 0, 8 * P);
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 8 * P), 0); /* the first */
    kv_close(&kv);
    c.max_bytes = 1000;
    struct err e = {0};
    kv = cache(16, NULL);
    ck_assert_int_eq(kv_disk_open(kv, &c, &e), ERR_INVAL);
    ck_assert_str_eq(e.param, "cache_disk_size");
    kv_close(&kv);
}
END_TEST

/* Each file to do(path); returns how many there were. */
static int each_file(void (*each)(const char *path))
{
    char path[400];
    DIR *dir = opendir(folder);
    struct dirent *f;
    int n = 0;
    while (dir && (f = readdir(dir)))
        if (strstr(f->d_name, ".kv")) {
            snprintf(path, sizeof(path), "%s/%s", folder, f->d_name);
            each(path);
            n++;
        }
    closedir(dir);
    return n;
}

static void into_2100(const char *path)
{
    const struct timespec t[2] = {{4102444800, 0}, {4102444800, 0}};
    ck_assert_int_eq(utimensat(AT_FDCWD, path, t, 0), 0);
}

/* Files of a clock that was ahead are no longer kept than those that were used last. */
START_TEST(test_clock_was_ahead)
{
    struct kv_disk_config c = config();
    int32_t t[8 * P];
    c.max_bytes = 64 << 10;
    struct kv *kv = cache(48, &c);
    for (int old = 1; old >= 0; old--) {
        for (int i = 0; i < 12; i++) {
            prompt(t, (old * 100 + i) * 100, 8 * P);
            run(kv, 7, no_ways, t, 8 * P);
            UNTIL(kv, stats(kv).queue == 0);
        }
        kv_close(&kv);
        if (old)
            ck_assert_int_gt(each_file(into_2100), 10);
        kv = known(48, &c);
    }
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 8 * P), 8 * P); /* the last */
    prompt(t, 1000, 8 * P);
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 8 * P), 8 * P); /* and the one before */
    kv_close(&kv);
}
END_TEST

/* What cannot be deleted counts still: the budget holds. */
START_TEST(test_cannot_be_deleted)
{
    struct kv_disk_config c = config();
    int32_t t[8 * P];
    char one[400];
    c.max_bytes = 64 << 10;
    struct kv *kv = cache(48, &c);
    for (int i = 0; i < 20; i++) {
        prompt(t, i * 1000, 8 * P);
        run(kv, 7, no_ways, t, 8 * P);
        UNTIL(kv, stats(kv).queue == 0);
        if (i == 2) {
            files(one);
            ck_assert(unlink(one) == 0 && mkdir(one, 0700) == 0);
        }
    }
    ck_assert_uint_gt(stats(kv).evicted_files, 20);
    ck_assert_uint_eq(stats(kv).files, (unsigned)files(one));
    ck_assert_ptr_nonnull(strstr(sys.last_log, "cannot be deleted"));
    ck_assert_int_eq(sys.log_lines, 1);
    kv_close(&kv);
}
END_TEST

/* A rate so low that nothing but the first page is written behind. */
START_TEST(test_rate_and_save)
{
    struct kv_disk_config c = config();
    struct kv *kv = cache(32, &c);
    struct kv_save *save = NULL;
    struct kv_saved saved = {0};
    struct err e = {0};
    int32_t t[12 * P], u[30 * P];
    int r = 0;
    kv_close(&kv);
    c.bytes_per_s = 1;
    kv = cache(32, &c);
    prompt(t, 3, 12 * P);
    prompt(u, 3000, 30 * P);
    run(kv, 7, no_ways, t, 12 * P);
    UNTIL(kv, stats(kv).writes == 1);
    ck_assert_uint_eq(stats(kv).queue, 11);
    ck_assert_int_eq(kv_save_begin(kv, 7, no_ways, t, 12 * P, &save, &e), 0);
    UNTIL(kv, (r = kv_save_poll(kv, save, &saved, &e)) != 0);
    ck_assert_int_eq(r, 1);
    ck_assert_uint_eq(saved.pages, 12);
    ck_assert_uint_eq(saved.evicted, 0);
    kv_save_end(kv, &save);
    ck_assert_ptr_null(save);
    ck_assert_uint_eq(stats(kv).pages, 12);
    /* more than records on their way: some are evicted before they are written */
    for (int i = 0; i < 20; i++)
        run(kv, 100 + (uint64_t)i, no_ways, u, 30 * P);
    ck_assert_uint_gt(stats(kv).dropped, 0);
    ck_assert_int_eq(kv_save_begin(kv, 0, NULL, NULL, 0, &save, &e), 0);
    UNTIL(kv, (r = kv_save_poll(kv, save, &saved, &e)) != 0);
    ck_assert_uint_eq(saved.pages, 32);
    kv_save_end(kv, &save);
    kv_save_end(kv, &save);
    /* a prefix that nobody has */
    prompt(u, 9999, 30 * P);
    ck_assert_int_eq(kv_save_begin(kv, 7, no_ways, u, 30 * P, &save, &e), 0);
    UNTIL(kv, (r = kv_save_poll(kv, save, &saved, &e)) != 0);
    ck_assert_uint_eq(saved.pages, 0);
    kv_save_end(kv, &save);
    kv_close(&kv);
    kv = cache(32, NULL);
    ck_assert_int_eq(kv_save_begin(kv, 7, no_ways, u, 30 * P, &save, &e), ERR_STATE);
    ck_assert_uint_eq(kv_disk_drop(kv), 0);
    ck_assert(kv_disk_dropped(kv, 0));
    ck_assert_int_eq(stats(kv).state, KV_DISK_NONE);
    kv_disk_pump(kv);
    ck_assert(!kv_fetch(kv, 7, no_ways, u, 30 * P, false));
    kv_close(&kv);
}
END_TEST

/* More pages than cache_disk_size has room for: what is told is what is there at the end. */
START_TEST(test_save_too_much)
{
    struct kv_disk_config c = config();
    struct kv_save *save = NULL;
    struct kv_saved saved = {0};
    struct err e = {0};
    int32_t t[30 * P];
    int r = 0;
    c.bytes_per_s = 1;
    c.max_bytes = 10 * (1024 + DISK_FILE_HEADER);
    struct kv *kv = known(64, &c);
    prompt(t, 3, 30 * P);
    run(kv, 7, no_ways, t, 30 * P);
    ck_assert_int_eq(kv_save_begin(kv, 7, no_ways, t, 30 * P, &save, &e), 0);
    UNTIL(kv, (r = kv_save_poll(kv, save, &saved, &e)) != 0);
    ck_assert_int_eq(r, 1);
    ck_assert_uint_eq(saved.pages, stats(kv).pages);
    ck_assert_uint_le(saved.pages, 10);
    ck_assert_uint_eq(saved.evicted, 0); /* from memory */
    kv_save_end(kv, &save);
    kv_close(&kv);
}
END_TEST

/* Dropping takes also what waits and what is being read. */
START_TEST(test_drop)
{
    struct kv_disk_config c = config();
    int32_t t[12 * P];
    prompt(t, 3, 12 * P);
    fill(3, 12 * P);
    c.bytes_per_s = 1;
    struct kv *kv = known(32, &c);
    run(kv, 8, no_ways, t, 12 * P);
    ck_assert(kv_fetch(kv, 7, no_ways, t, 12 * P, false));
    uint64_t n = kv_disk_drop(kv);
    kv_drop_cached(kv);
    UNTIL(kv, kv_disk_dropped(kv, n));
    UNTIL(kv, stats(kv).queue == 0);
    ck_assert_uint_eq(stats(kv).pages, 0);
    ck_assert_uint_eq(stats(kv).files, 0);
    ck_assert(!kv_fetch(kv, 7, no_ways, t, 12 * P, false));
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 12 * P), 0);
    ck_assert_int_eq(kv_disk_dropped(kv, n), 1);
    kv_close(&kv);
    /* a file that cannot be deleted: a folder of its name, which root cannot either */
    char one[400];
    fill(3, 12 * P);
    kv = known(32, &c);
    ck_assert_int_eq(files(one), 1);
    ck_assert(unlink(one) == 0 && mkdir(one, 0700) == 0);
    n = kv_disk_drop(kv);
    UNTIL(kv, kv_disk_dropped(kv, n));
    ck_assert_int_eq(kv_disk_dropped(kv, n), ERR_IO);
    ck_assert_uint_eq(stats(kv).pages, 0);
    ck_assert_uint_eq(stats(kv).files, 1);
    ck_assert_int_eq(rmdir(one), 0);
    n = kv_disk_drop(kv);
    UNTIL(kv, kv_disk_dropped(kv, n));
    ck_assert_uint_eq(stats(kv).files, 0);
    ck_assert_int_eq(kv_disk_dropped(kv, n), 1);
    kv_close(&kv);
}
END_TEST

/* Of a prefix the beginning is in memory and the rest on disk. The rest needs other pages than those of the
 * beginning: where there are none, nobody waits for what could not be put anywhere. */
START_TEST(test_no_room)
{
    struct kv_disk_config c = config();
    struct kv_seq *s = NULL;
    int32_t t[8 * P];
    prompt(t, 3, 8 * P);
    fill(3, 8 * P);
    struct kv *kv = known(10, &c);
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 8 * P), 8 * P);
    ck_assert_int_eq(kv_seq_new(kv, 1, &s), 0);
    ck_assert_int_eq(kv_seq_reserve(kv, s, 5 * P), 0);
    ck_assert_uint_eq(kv_probe(kv, 7, no_ways, t, 8 * P), 5 * P);
    for (int always = 0; always < 2; always++) {
        int64_t until = clock_now_ns() + 5 * NS_PER_SEC;
        while (kv_fetch(kv, 7, no_ways, t, 8 * P, always)) {
            turn(kv);
            ck_assert_msg(clock_now_ns() < until, "a fetch without an end, always %d", always);
        }
    }
    ck_assert_uint_eq(stats(kv).reads, 8);
    kv_seq_free(kv, &s); /* by hand what fits is read */
    ck_assert_int_eq(kv_seq_new(kv, 1, &s), 0);
    ck_assert_int_eq(kv_seq_reserve(kv, s, 3 * P), 0);
    UNTIL(kv, !kv_fetch(kv, 7, no_ways, t, 8 * P, true));
    ck_assert_uint_eq(kv_probe(kv, 7, no_ways, t, 8 * P), 7 * P);
    kv_seq_free(kv, &s);
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 8 * P), 8 * P);
    kv_close(&kv);
}
END_TEST

/* Reading is left when computing is quicker, as far as known. */
START_TEST(test_cheaper)
{
    struct kv_disk_config c = config();
    int32_t t[4 * P];
    prompt(t, 3, 4 * P);
    fill(3, 4 * P);
    c.always = false;
    struct kv *kv = known(16, &c);
    for (int i = 0; i < 100; i++)
        kv_disk_computed(kv, 1000000, 1);
    ck_assert(!kv_fetch(kv, 7, no_ways, t, 4 * P, false));
    for (int i = 0; i < 400; i++)
        kv_disk_computed(kv, P, 1000 * NS_PER_SEC);
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 4 * P), 4 * P);
    kv_close(&kv);
}
END_TEST

static void add(TCase *t)
{
    tcase_add_test(t, test_budget);
    tcase_add_test(t, test_clock_was_ahead);
    tcase_add_test(t, test_cannot_be_deleted);
    tcase_add_test(t, test_rate_and_save);
    tcase_add_test(t, test_save_too_much);
    tcase_add_test(t, test_drop);
    tcase_add_test(t, test_no_room);
    tcase_add_test(t, test_cheaper);
}

int main(void)
{
    return run_suite("disk_use", add);
}
