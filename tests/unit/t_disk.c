/* tests/unit/t_disk.c - the disk tier: written behind, found after a restart, and every way in which a
 * folder can be bad. Whatever happens, a page that comes back has the rows that belong to its tokens. */
#include "config.h"

#include "disk_rig.h"

START_TEST(test_restart)
{
    struct kv_disk_config c = config();
    struct kv *kv = cache(64, &c);
    int32_t t[200], u[200];
    const uint32_t ways[2][KV_WAYS] = {{3 * P, 0}, {0, 2 * P + 3}};
    prompt(t, 100, 200);
    prompt(u, 100, 200);
    u[5 * P] = 9999;
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 10 * P + 3), 0);
    ck_assert_uint_eq(run(kv, 7, no_ways, u, 10 * P), 5 * P);
    ck_assert_uint_eq(run(kv, 8, ways[0], t, 5 * P), 0);
    ck_assert_uint_eq(run(kv, 8, ways[1], t, 5 * P), 0);
    all_written(kv);
    ck_assert_uint_eq(stats(kv).pages, 25);
    ck_assert_uint_eq(stats(kv).writes, 25);
    kv_close(&kv);

    kv = known(64, &c);
    ck_assert_uint_eq(stats(kv).pages, 25);
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 10 * P + 3), 10 * P);
    ck_assert_uint_eq(run(kv, 7, no_ways, u, 10 * P), 10 * P);
    ck_assert_uint_eq(stats(kv).hits_tokens, 15 * P);
    ck_assert_uint_eq(run(kv, 8, ways[0], t, 7 * P), 5 * P);
    ck_assert_uint_eq(run(kv, 8, ways[1], t, 5 * P), 5 * P);
    ck_assert_uint_eq(run(kv, 8, no_ways, t, 5 * P), 0);
    ck_assert_uint_eq(run(kv, 9, no_ways, t, 5 * P), 0);
    /* what came from the disk is not written again; what is new goes into the same file */
    all_written(kv);
    ck_assert_uint_eq(stats(kv).writes, 2 + 5 + 5);
    ck_assert_uint_eq(stats(kv).errors, 0);
    ck_assert_int_eq(sys.log_lines, 0);
    kv_close(&kv);
}
END_TEST

/* Pages of no power of two, with rows of several tokens, are found again as they were. */
START_TEST(test_odd_pages)
{
    enum { PAGE = 30, N = 7 * PAGE };
    const struct kv_plane rows[] = {{24, 2, 64}, {20, 3, 4}, {8, 1, 8}, {4, PAGE, 4}};
    struct kv_config kc = {.page_tokens = PAGE, .n_planes = 4, .planes = rows, .max_seqs = 2,
                           .max_seq_tokens = 4096, .pool_bytes = 1 << 16};
    struct kv_disk_config c = config();
    int32_t t[N];
    prompt(t, 50, N);
    for (uint32_t again = 0; again < 2; again++) {
        struct kv *kv = NULL;
        struct kv_seq *s = NULL;
        ck_assert(kv_open(&kc, &kv, NULL) == 0 && kv_disk_open(kv, &c, NULL) == 0);
        UNTIL(kv, stats(kv).state == KV_DISK_ON && !kv_fetch(kv, 3, no_ways, t, N, false));
        ck_assert_int_eq(kv_seq_new(kv, 3, &s), 0);
        ck_assert_uint_eq(kv_seq_match(kv, s, t, N, N), again * N);
        ck_assert_int_eq(kv_seq_reserve(kv, s, N - again * N), 0);
        for (size_t i = 0; i < N / PAGE * kv_page_bytes(kv); i++) {
            unsigned char *at = kv_seq_pages(s, NULL)[i / kv_page_bytes(kv)] + i % kv_page_bytes(kv);
            *at = again ? *at : (unsigned char)(i * 7 + i / 256);
            ck_assert_uint_eq(*at, (unsigned char)(i * 7 + i / 256));
        }
        kv_seq_commit(kv, s, t, N - again * N);
        kv_seq_free(kv, &s);
        all_written(kv);
        kv_close(&kv);
    }
}
END_TEST

/* Longer than a piece that is read at once, in a pool that others use. */
START_TEST(test_long)
{
    struct kv_disk_config c = config();
    struct kv *kv = known(600, &c);
    int32_t *t = malloc(4000 * sizeof(*t)), v[40 * P];
    prompt(t, 0, 4000);
    prompt(v, 7777, 40 * P);
    run(kv, 0, no_ways, t, 4000);
    run(kv, 0, no_ways, v, 40 * P);
    all_written(kv);
    kv_close(&kv);
    kv = known(520, &c);
    ck_assert_uint_eq(run(kv, 0, no_ways, v, 40 * P), 40 * P);
    ck_assert_uint_eq(run(kv, 0, no_ways, t, 4000), 4000);
    kv_close(&kv);
    /* a pool that is too small for all of it: what fits is read */
    kv = known(60, &c);
    ck_assert_uint_eq(run(kv, 0, no_ways, t, 50 * P), 50 * P);
    ck_assert_uint_eq(run(kv, 0, no_ways, v, 40 * P), 40 * P);
    kv_close(&kv);
    free(t);
}
END_TEST

/* Every byte of a file flipped, and a file cut at every length: what is not as it was is not used. */
START_TEST(test_damage)
{
    struct kv_disk_config c = config();
    char path[400];
    int32_t t[4 * P];
    struct stat st;
    prompt(t, 3, 4 * P);
    fill(3, 4 * P);
    ck_assert_int_eq(files(path), 1);
    ck_assert_int_eq(stat(path, &st), 0);
    size_t n = (size_t)st.st_size;
    unsigned char *good = malloc(n);
    FILE *f = fopen(path, "rb");
    ck_assert_uint_eq(fread(good, 1, n, f), n);
    fclose(f);
    size_t found[5] = {0};
    for (size_t at = 0; at < 2 * n; at += 37) {
        size_t flip = at < n ? at : n, cut = at < n ? n : at - n;
        f = fopen(path, "wb");
        if (flip < n)
            good[flip] ^= 0x10;
        ck_assert_uint_eq(fwrite(good, 1, cut, f), cut);
        if (flip < n)
            good[flip] ^= 0x10;
        fclose(f);
        struct kv *kv = cache(16, &c);
        UNTIL(kv, stats(kv).state == KV_DISK_ON);
        uint32_t had = run(kv, 7, no_ways, t, 4 * P);
        ck_assert_uint_le(had, 4 * P);
        found[had / P]++;
        struct kv_disk_stats ds = stats(kv);
        if (flip < n && had < 4 * P)
            ck_assert(ds.errors > 0 || flip < DISK_FILE_HEADER);
        ck_assert_uint_eq(kv_disk_drop(kv), 1);
        UNTIL(kv, kv_disk_dropped(kv, 1));
        kv_close(&kv);
    }
    for (int i = 0; i <= 3; i++) /* each block was the first bad one */
        ck_assert_uint_gt(found[i], 5);
    ck_assert_uint_gt(found[4], 5); /* the file's padding */
    free(good);
}
END_TEST

static void put_file(const char *name, const void *data, size_t n)
{
    char path[400];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, n, f), n);
    fclose(f);
}

static bool there(const char *name)
{
    char path[400];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

/* Files that are not what they should be: each one line, a miss, and left to eviction. */
START_TEST(test_foreign)
{
    struct kv_disk_config c = config();
    char path[400], other[400];
    int32_t t[4 * P];
    unsigned char h[DISK_FILE_HEADER];
    prompt(t, 3, 4 * P);
    fill(3, 4 * P);
    ck_assert_int_eq(files(path), 1);
    c.fingerprint[1] = 3; /* another model */
    struct kv *kv = known(16, &c);
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 4 * P), 0);
    all_written(kv);
    ck_assert_uint_eq(stats(kv).files, 2);
    ck_assert_uint_eq(stats(kv).pages, 4);
    ck_assert_uint_eq(stats(kv).errors, 0);
    kv_close(&kv);
    ck_assert_int_eq(files(other), 2);

    c = config();
    struct disk_layout l = {.page_tokens = P, .page_bytes = 448};
    disk__layout(&l);
    disk__put_header(h, &l, 0x50);
    put_file("pages-0000000000000050.kv", h, sizeof(h)); /* another fingerprint */
    h[8] = DISK_VERSION + 1;
    put_file("pages-0000000000000051.kv", h, sizeof(h));
    put_file("pages-0000000000000052.kv", "", 0);
    put_file("pages-0000000000000053.kv", "hello", 5);
    put_file("pages-0000000000000054.tmp", "hello", 5);
    put_file("pages-55.kv", "not ours", 8);
    put_file("letters.txt", "not ours", 8);
    snprintf(path, sizeof(path), "%s/pages-0000000000000056.kv", folder);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    kv = known(16, &c);
    ck_assert_uint_eq(stats(kv).files, 6);
    ck_assert_uint_eq(stats(kv).pages, 4);
    ck_assert_int_eq(sys.log_lines, 2); /* empty, hello; the rest is no trouble */
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 4 * P), 4 * P);
    ck_assert(!there("pages-0000000000000054.tmp"));
    uint64_t n = kv_disk_drop(kv);
    UNTIL(kv, kv_disk_dropped(kv, n));
    ck_assert_uint_eq(stats(kv).bytes, 0);
    ck_assert(there("pages-55.kv") && there("letters.txt") && !there("pages-0000000000000050.kv"));
    kv_close(&kv);
}
END_TEST

/* Files that go away under the daemon. */
START_TEST(test_missing)
{
    struct kv_disk_config c = config();
    char path[400];
    int32_t t[4 * P];
    prompt(t, 3, 4 * P);
    fill(3, 4 * P);
    struct kv *kv = known(16, &c);
    kv_close(&kv);
    kv = known(16, &c);
    ck_assert_int_eq(files(path), 1);
    ck_assert_int_eq(truncate(path, 700), 0); /* under the reader's eyes */
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 4 * P), 0);
    ck_assert_int_eq(sys.log_lines, 1);
    all_written(kv);
    kv_close(&kv);
    kv = known(16, &c);
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 4 * P), 4 * P);
    kv_close(&kv);
}
END_TEST

START_TEST(test_disk_full)
{
    struct kv_disk_config c = config();
    struct kv *kv = known(64, &c);
    int32_t t[20 * P];
    struct err e = {0};
    struct kv_save *save = NULL;
    prompt(t, 3, 20 * P);
    static const int errors[] = {ENOSPC, EIO, EROFS, EDQUOT};
    for (int i = 0; i < 4; i++) {
        sys.torn_after = i == 1 ? 100 : i == 2 ? 700 : -1;
        sys.write_errno = errors[i];
        int lines = sys.log_lines;
        run(kv, 100 + (uint64_t)i, no_ways, t, 3 * P);
        UNTIL(kv, stats(kv).state == KV_DISK_READING);
        ck_assert_ptr_nonnull(strstr(stats(kv).trouble, strerror(errors[i])));
        ck_assert_int_eq(kv_save_begin(kv, 0, NULL, NULL, 0, &save, &e), ERR_STATE);
        ck_assert_ptr_nonnull(strstr(e.text, strerror(errors[i])));
        uint64_t failures = stats(kv).errors;
        UNTIL(kv, stats(kv).errors >= failures + 2); /* it tries again */
        ck_assert_int_eq(sys.log_lines, lines + 1);  /* and is told once */
        ck_assert_uint_eq(run(kv, 100 + (uint64_t)i, no_ways, t, 3 * P), 3 * P);
        sys.write_errno = 0;
        all_written(kv);
    }
    ck_assert_uint_eq(stats(kv).pages, 12);
    ck_assert_uint_eq(stats(kv).dropped, 0);
    kv_close(&kv);
    kv = known(64, &c);
    for (int i = 0; i < 4; i++)
        ck_assert_uint_eq(run(kv, 100 + (uint64_t)i, no_ways, t, 3 * P), 3 * P);
    ck_assert_uint_eq(stats(kv).errors, 0);
    kv_close(&kv);
}
END_TEST

START_TEST(test_short_writes)
{
    struct kv_disk_config c = config();
    sys.short_writes = 97;
    fill(3, 9 * P);
    int32_t t[9 * P];
    prompt(t, 3, 9 * P);
    struct kv *kv = known(16, &c);
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 9 * P), 9 * P);
    kv_close(&kv);
}
END_TEST

START_TEST(test_read_errors)
{
    struct kv_disk_config c = config();
    int32_t t[4 * P];
    prompt(t, 3, 4 * P);
    fill(3, 4 * P);
    struct kv *kv = known(16, &c);
    sys.read_errno = EIO;
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 4 * P), 0);
    ck_assert_int_eq(sys.log_lines, 1);
    sys.read_errno = 0;
    kv_close(&kv);
    sys.read_errno = EIO; /* while the folder is looked through */
    kv = known(16, &c);
    ck_assert_uint_eq(stats(kv).pages, 0);
    ck_assert_uint_gt(stats(kv).errors, 0);
    sys.read_errno = 0;
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 4 * P), 0);
    all_written(kv);
    kv_close(&kv);
    kv = known(16, &c);
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 4 * P), 4 * P);
    kv_close(&kv);
}
END_TEST

START_TEST(test_sync_error)
{
    struct kv_disk_config c = config();
    struct kv *kv = cache(64, &c);
    struct kv_save *save = NULL;
    struct kv_saved saved;
    struct err e = {0};
    int32_t t[9 * P];
    int r = 0;
    prompt(t, 3, 9 * P);
    run(kv, 7, no_ways, t, 9 * P);
    all_written(kv);
    ck_assert_int_eq(kv_save_begin(kv, 0, NULL, NULL, 0, &save, &e), 0);
    run(kv, 8, no_ways, t, 9 * P);
    sys.sync_errno = EIO;
    UNTIL(kv, (r = kv_save_poll(kv, save, &saved, &e)) != 0);
    ck_assert_int_eq(r, ERR_STATE);
    kv_save_end(kv, &save);
    sys.sync_errno = 0;
    UNTIL(kv, stats(kv).state == KV_DISK_ON); /* by itself: nothing else is to be written */
    run(kv, 9, no_ways, t, 9 * P);
    all_written(kv);
    /* asked again only when all is well again: what the failed sync was for may be lost all the same */
    ck_assert_int_eq(kv_save_begin(kv, 0, NULL, NULL, 0, &save, &e), 0);
    run(kv, 10, no_ways, t, 9 * P);
    all_written(kv);
    sys.sync_errno = EIO;
    ck_assert_int_eq(kv_save_poll(kv, save, &saved, &e), 0);
    UNTIL(kv, stats(kv).state == KV_DISK_READING);
    sys.sync_errno = 0;
    UNTIL(kv, stats(kv).state == KV_DISK_ON);
    UNTIL(kv, (r = kv_save_poll(kv, save, &saved, &e)) != 0);
    ck_assert_int_eq(r, ERR_STATE);
    kv_save_end(kv, &save);
    kv_close(&kv);
}
END_TEST

/* A folder that cannot be used, and then can. */
START_TEST(test_down)
{
    struct kv_disk_config c = config();
    int32_t t[4 * P];
    prompt(t, 3, 4 * P);
    sys.open_errno = EROFS;
    struct kv *kv = cache(16, &c);
    UNTIL(kv, stats(kv).state == KV_DISK_DOWN);
    UNTIL(kv, stats(kv).errors >= 2);
    ck_assert_int_eq(sys.log_lines, 1);
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 4 * P), 0);
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 4 * P), 4 * P);
    uint64_t n = kv_disk_drop(kv);
    UNTIL(kv, kv_disk_dropped(kv, n));
    ck_assert_int_eq(kv_disk_dropped(kv, n), ERR_IO); /* who knows what is in it */
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 4 * P), 4 * P);
    sys.open_errno = 0;
    all_written(kv);
    ck_assert_uint_eq(stats(kv).pages, 4);
    kv_close(&kv);
    char deep[80];
    snprintf(deep, sizeof(deep), "%s/a/b", folder);
    c.path = deep;
    kv = cache(16, &c);
    UNTIL(kv, stats(kv).state == KV_DISK_DOWN);
    ck_assert_ptr_nonnull(strstr(stats(kv).trouble, deep));
    kv_close(&kv);
}
END_TEST

START_TEST(test_two_on_one_folder)
{
    struct kv_disk_config c = config();
    int32_t t[4 * P];
    prompt(t, 3, 4 * P);
    struct kv *a = cache(16, &c);
    UNTIL(a, stats(a).state == KV_DISK_ON);
    struct kv *b = cache(16, &c);
    UNTIL(b, stats(b).state == KV_DISK_DOWN);
    ck_assert_ptr_nonnull(strstr(stats(b).trouble, "another daemon"));
    ck_assert_int_eq(sys.log_lines, 1);
    ck_assert_uint_eq(run(a, 7, no_ways, t, 4 * P), 0);
    ck_assert_uint_eq(run(b, 7, no_ways, t, 2 * P), 0);
    kv_close(&a);
    UNTIL(b, stats(b).state == KV_DISK_ON); /* it takes over */
    ck_assert_uint_eq(run(b, 7, no_ways, t, 4 * P), 4 * P);
    kv_close(&b);
}
END_TEST

/* Somebody deletes the lock, and another daemon takes the folder: they do not write the same files. */
START_TEST(test_lock_deleted)
{
    struct kv_disk_config c = config();
    char path[400];
    int32_t t[4 * P];
    prompt(t, 3, 4 * P);
    struct kv *a = known(16, &c);
    run(a, 7, no_ways, t, 4 * P);
    all_written(a);
    snprintf(path, sizeof(path), "%s/lock", folder);
    ck_assert_int_eq(unlink(path), 0);
    struct kv *b = known(16, &c);
    ck_assert_uint_eq(stats(b).pages, 4);
    run(a, 8, no_ways, t, 4 * P); /* it writes, and notices */
    UNTIL(a, stats(a).state == KV_DISK_DOWN && strstr(stats(a).trouble, "another daemon"));
    ck_assert_uint_eq(stats(a).bytes, 0);
    ck_assert_int_eq(sys.log_lines, 2);
    ck_assert_uint_eq(run(b, 7, no_ways, t, 4 * P), 4 * P);
    kv_close(&b);
    all_written(a); /* it takes over again */
    ck_assert_uint_eq(stats(a).pages, 8);
    kv_close(&a);
}
END_TEST

/* Somebody deletes the folder: it is made again, and what is written is found. */
START_TEST(test_folder_deleted)
{
    struct kv_disk_config c = config();
    char path[400];
    int32_t t[4 * P];
    prompt(t, 3, 4 * P);
    struct kv *kv = known(16, &c);
    run(kv, 7, no_ways, t, 4 * P);
    all_written(kv);
    teardown();
    run(kv, 8, no_ways, t, 4 * P);
    UNTIL(kv, files(path) == 1 && stats(kv).queue == 0 && stats(kv).state == KV_DISK_ON);
    ck_assert_uint_eq(stats(kv).pages, 4);
    ck_assert_int_eq(sys.log_lines, 1);
    kv_close(&kv);
    kv = known(16, &c);
    ck_assert_uint_eq(run(kv, 8, no_ways, t, 4 * P), 4 * P);
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 4 * P), 0);
    kv_close(&kv);
}
END_TEST

static _Atomic int wakes;

static void count_wake(void *arg)
{
    (void)arg;
    wakes++;
}

/* Who tells of the tier learns of a change when nothing else happens. */
START_TEST(test_changes_wake)
{
    struct kv_disk_config c = config();
    int32_t t[4 * P];
    c.wake = count_wake;
    prompt(t, 3, 4 * P);
    fill(3, 4 * P);
    struct kv *a = known(16, &c);
    UNTIL(a, wakes >= 2); /* opened, looked through */
    wakes = 0;
    struct kv *b = known_as(KV_DISK_DOWN, 16, &c);
    UNTIL(b, wakes >= 1);
    kv_close(&a);
    wakes = 0;
    UNTIL(b, wakes >= 2 && stats(b).state == KV_DISK_ON);
    wakes = 0;
    sys.write_errno = ENOSPC;
    run(b, 8, no_ways, t, 4 * P);
    UNTIL(b, stats(b).state == KV_DISK_READING && wakes >= 1);
    sys.write_errno = 0;
    all_written(b);
    wakes = 0;
    sys.sync_errno = EIO;
    UNTIL(b, stats(b).state == KV_DISK_READING && wakes >= 1);
    wakes = 0;
    sys.sync_errno = 0;
    UNTIL(b, stats(b).state == KV_DISK_ON && wakes >= 1);
    kv_close(&b);
}
END_TEST

/* A disk that does not answer holds up no end. What comes of it later finds nobody to tell. */
START_TEST(test_hangs)
{
    struct kv_disk_config c = config();
    int32_t t[4 * P];
    c.wake = count_wake;
    prompt(t, 3, 4 * P);
    struct kv *kv = known(16, &c);
    run(kv, 7, no_ways, t, 4 * P);
    all_written(kv);
    sys.hangs = 1;
    UNTIL(kv, sys.hangs > 1);
    int64_t began = clock_now_ns();
    kv_close(&kv);
    ck_assert_int_lt(clock_now_ns() - began, 12 * NS_PER_SEC);
    ck_assert_ptr_nonnull(strstr(sys.last_log, "does not answer"));
    int woken = wakes, lines = sys.log_lines;
    sys.sync_errno = EIO;
    sys.hangs = 0;
    nanosleep(&(struct timespec){0, 300000000}, NULL);
    ck_assert_int_eq(wakes, woken);
    ck_assert_int_eq(sys.log_lines, lines);
    sys.sync_errno = 0;
    kv = known(16, &c); /* whose lock it was */
    ck_assert_uint_eq(run(kv, 7, no_ways, t, 4 * P), 4 * P);
    kv_close(&kv);
}
END_TEST

/* Nor do those wait without end who have asked for something to be saved, dropped or read. */
START_TEST(test_hangs_in_use)
{
    struct kv_disk_config c = config();
    struct kv_save *save = NULL;
    struct kv_saved saved;
    struct err e = {0};
    int32_t t[4 * P];
    int r = 0;
    c.answer_ms = 100;
    prompt(t, 3, 4 * P);
    fill(3, 4 * P);
    struct kv *kv = known(16, &c);
    run(kv, 8, no_ways, t, 4 * P);
    all_written(kv);
    sys.hangs = 1;
    run(kv, 9, no_ways, t, 2 * P);
    ck_assert_int_eq(kv_save_begin(kv, 0, NULL, NULL, 0, &save, &e), 0);
    UNTIL(kv, (r = kv_save_poll(kv, save, &saved, &e)) != 0);
    ck_assert_int_eq(r, ERR_STATE);
    ck_assert_ptr_nonnull(strstr(e.text, "does not answer"));
    kv_save_end(kv, &save);
    ck_assert_int_eq(stats(kv).state, KV_DISK_DOWN);
    ck_assert(!kv_fetch(kv, 7, no_ways, t, 4 * P, true));
    uint64_t n = kv_disk_drop(kv);
    UNTIL(kv, (r = kv_disk_dropped(kv, n)) != 0);
    ck_assert_int_eq(r, ERR_IO);
    ck_assert_int_eq(sys.log_lines, 1);
    sys.hangs = 0;
    UNTIL(kv, kv_disk_dropped(kv, n) == 1 && stats(kv).state == KV_DISK_ON);
    ck_assert_uint_eq(stats(kv).pages, 0);
    kv_close(&kv);
}
END_TEST

/* A record is compared in every part of its key. */
START_TEST(test_check_record)
{
    struct disk_layout l = {.fingerprint = {5, 6}, .page_tokens = P, .page_bytes = 100};
    int32_t t[P] = {1, 2, 3, 4, 5, 6, 7, 8}, u[P] = {1, 2, 3, 4, 5, 6, 7, 9};
    const char *why = "";
    disk__layout(&l);
    unsigned char *r = calloc(1, l.record_bytes);
    struct disk_key k = {.parent = {3, 4}, .salt = 9, .ways = {{P, 3}}, .tokens = t}, w;
    k.hash = kv__chain_hash(k.parent, k.ways, t, P);
    disk__put_key(r, &l, &k);
    memset(r + l.head_bytes, 0x5a, 100);
    disk__finish_record(r, &l, 11, 12);
    ck_assert_int_eq(disk__check_record(r, &l, 11, 12, &k, &why), 0);
#define WRONG(field, value)                                                        \
    do {                                                                           \
        w = k;                                                                     \
        w.field = value;                                                           \
        ck_assert_int_eq(disk__check_record(r, &l, 11, 12, &w, &why), ERR_FORMAT); \
        ck_assert_str_eq(why, "its key is not the one asked for");                 \
    } while (0)
    WRONG(hash.lo, 1);
    WRONG(hash.hi, 1);
    WRONG(parent.lo, 1);
    WRONG(parent.hi, 1);
    WRONG(salt, 1);
    WRONG(ways.rows[0], 1);
    WRONG(ways.rows[1], 1);
    WRONG(tokens, u); /* a hash that collides shares nothing */
    ck_assert_int_eq(disk__check_record(r, &l, 11, 13, &k, &why), ERR_FORMAT);
    ck_assert_int_eq(disk__check_record(r, &l, 10, 12, &k, &why), ERR_FORMAT);
    w = k; /* another key under this hash, with good checksums */
    w.tokens = u;
    disk__put_key(r, &l, &w);
    disk__finish_record(r, &l, 11, 12);
    ck_assert_int_eq(disk__check_record(r, &l, 11, 12, &k, &why), ERR_FORMAT);
    ck_assert_int_eq(disk__check_record(r, &l, 11, 12, &w, &why), ERR_FORMAT);
    free(r);
}
END_TEST

static uint32_t below(uint64_t *rng, uint32_t n)
{
    *rng ^= *rng << 13;
    *rng ^= *rng >> 7;
    *rng ^= *rng << 17;
    return (uint32_t)((*rng >> 11) % n);
}

/* Everything at once, at random: prompts of common beginnings, faults that come and go, a small pool and
 * budget, restarts. Every row that comes from the cache is compared. */
START_TEST(test_random)
{
    uint64_t rng = 88172645463325252ull + (uint64_t)_i;
    uint64_t had = 0, asked = 0;
    struct kv_disk_config c = config();
    c.max_bytes = 200 << 10;
    struct kv *kv = cache(40, &c);
    for (int op = 0; op < 1500; op++) {
        int32_t t[30 * P];
        uint32_t n = 1 + below(&rng, 30 * P), ends[KV_WAYS] = {0}, fork = below(&rng, 30 * P);
        prompt(t, (int32_t)below(&rng, 3) * 1000, 30 * P);
        for (uint32_t i = fork; i < 30 * P; i++)
            t[i] += (int32_t)below(&rng, 2) * 100000;
        if (below(&rng, 4) == 0)
            ends[below(&rng, KV_WAYS)] = below(&rng, 10 * P);
        had += run(kv, below(&rng, 3), ends, t, n);
        asked += n;
        if (below(&rng, 10) == 0)
            sys.write_errno = below(&rng, 2) ? ENOSPC : 0;
        if (below(&rng, 10) == 0)
            sys.torn_after = (int)below(&rng, 1200) - 1;
        if (below(&rng, 30) == 0)
            sys.read_errno = below(&rng, 3) ? 0 : EIO;
        if (below(&rng, 20) == 0)
            sys.short_writes = (int)below(&rng, 2000);
        if (below(&rng, 40) == 0) {
            kv_close(&kv);
            if (below(&rng, 4) == 0)
                sys.write_errno = sys.read_errno = sys.open_errno = 0;
            kv = cache(40, &c);
        }
        if (below(&rng, 200) == 0)
            (void)kv_disk_drop(kv);
        turn(kv);
        ck_assert_uint_le(stats(kv).bytes, c.max_bytes);
    }
    ck_assert_uint_gt(had, asked / 10);
    kv_close(&kv);
}
END_TEST

static void add(TCase *t)
{
    tcase_add_test(t, test_restart);
    tcase_add_test(t, test_odd_pages);
    tcase_add_test(t, test_long);
    tcase_add_test(t, test_damage);
    tcase_add_test(t, test_foreign);
    tcase_add_test(t, test_missing);
    tcase_add_test(t, test_disk_full);
    tcase_add_test(t, test_short_writes);
    tcase_add_test(t, test_read_errors);
    tcase_add_test(t, test_sync_error);
    tcase_add_test(t, test_down);
    tcase_add_test(t, test_two_on_one_folder);
    tcase_add_test(t, test_lock_deleted);
    tcase_add_test(t, test_folder_deleted);
    tcase_add_test(t, test_changes_wake);
    tcase_add_test(t, test_hangs);
    tcase_add_test(t, test_hangs_in_use);
    tcase_add_test(t, test_check_record);
    tcase_add_loop_test(t, test_random, 0, 4);
}

int main(void)
{
    return run_suite("disk", add);
}
