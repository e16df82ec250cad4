/* tests/unit/disk_rig.h - a cache with a disk tier over a system that fails as told, and rows that
 * follow from their tokens. */
#ifndef LATENT_TESTS_DISK_RIG_H
#define LATENT_TESTS_DISK_RIG_H

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "kvcache/disk.h"

#define P 8
#define ROW 48
#define PLENTY ((uint64_t)1 << 20)

static const struct kv_plane planes[2] = {{ROW, 1, 64}, {4, P, 4}};
static const uint32_t no_ways[KV_WAYS];
static char folder[64];

/* --- a system that fails as told ------------------------------------------------------------------------ */

static struct {
    _Atomic int open_errno, write_errno, read_errno, sync_errno;
    _Atomic int short_writes;  /* at most so many bytes at once; 0: all */
    _Atomic int hangs;         /* syncing does not come back; counts those that do not */
    _Atomic int torn_after;    /* bytes that are written before write_errno comes; -1: none */
    _Atomic int log_lines;
    char last_log[512];
} sys;

static inline int fail_with(int e)
{
    errno = e;
    return -1;
}

static inline int t_open(void *arg, const char *path, int flags, mode_t mode)
{
    int e = sys.open_errno;
    return e && (flags & O_ACCMODE) != O_RDONLY ? fail_with(e) : disk__system_io.open(arg, path, flags, mode);
}

static inline ssize_t t_pread(void *arg, int fd, void *p, size_t n, off_t at)
{
    return sys.read_errno ? fail_with(sys.read_errno) : disk__system_io.pread(arg, fd, p, n, at);
}

static inline ssize_t t_pwrite(void *arg, int fd, const void *p, size_t n, off_t at)
{
    if (sys.write_errno) {
        size_t most = sys.torn_after > 0 ? (size_t)sys.torn_after : 0;
        if (most == 0)
            return fail_with(sys.write_errno);
        sys.torn_after = 0;
        return disk__system_io.pwrite(arg, fd, p, n < most ? n : most, at);
    }
    if (sys.short_writes && n > (size_t)sys.short_writes)
        n = (size_t)sys.short_writes;
    return disk__system_io.pwrite(arg, fd, p, n, at);
}

static inline int t_sync(void *arg, int fd)
{
    for (int first = 1; sys.hangs; first = 0) {
        sys.hangs += first;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return sys.sync_errno ? fail_with(sys.sync_errno) : disk__system_io.sync(arg, fd);
}

static inline int t_rename(void *arg, const char *from, const char *to)
{
    return disk__system_io.rename(arg, from, to);
}

static const struct disk_io faulty = {t_open, t_pread, t_pwrite, t_sync, t_rename, NULL};

static inline void on_log(void *arg, int level, const char *text)
{
    (void)arg;
    if (level > LOG_LVL_WARN)
        return;
    sys.log_lines++;
    snprintf(sys.last_log, sizeof(sys.last_log), "%s", text);
}

/* --- a cache with a folder ------------------------------------------------------------------------------ */

static inline void setup(void)
{
    memset(&sys, 0, sizeof(sys));
    sys.torn_after = -1;
    snprintf(folder, sizeof(folder), "%s/t_disk.XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static inline void teardown(void)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

static inline struct kv_disk_config config(void)
{
    return (struct kv_disk_config){.path = folder, .max_bytes = PLENTY, .fingerprint = {1, 2}, .always = true,
                                   .retry_ms = 20, .log = on_log, .io = &faulty};
}

static inline struct kv *cache(uint32_t n_pages, const struct kv_disk_config *dc)
{
    struct err e = {0};
    struct kv *kv = NULL;
    struct kv_config c = {.page_tokens = P, .n_planes = 2, .planes = planes, .max_seqs = 16,
                          .max_seq_tokens = 4096, .pool_bytes = (uint64_t)n_pages * 448};
    ck_assert_msg(kv_open(&c, &kv, &e) == 0, "%s", e.text);
    ck_assert_uint_eq(kv_n_pages(kv), n_pages);
    if (dc)
        ck_assert_msg(kv_disk_open(kv, dc, &e) == 0, "%s", e.text);
    return kv;
}

static inline struct kv_disk_stats stats(struct kv *kv)
{
    struct kv_disk_stats s;
    kv_disk_stats_read(kv, &s);
    return s;
}

static inline bool turn(struct kv *kv)
{
    kv_disk_pump(kv);
    kv_check(kv);
    nanosleep(&(struct timespec){0, 300000}, NULL);
    return true;
}

#define UNTIL(kv, cond)                                                           \
    do {                                                                          \
        int64_t until_ = clock_now_ns() + 20 * NS_PER_SEC;                        \
        while (turn(kv) && !(cond))                                               \
            ck_assert_msg(clock_now_ns() < until_, "still not: %s", #cond);       \
    } while (0)

/* The same, once its folder is known, or not to be had. */
static inline struct kv *known_as(enum kv_disk_state state, uint32_t n_pages, const struct kv_disk_config *dc)
{
    struct kv *kv = cache(n_pages, dc);
    UNTIL(kv, stats(kv).state == state);
    return kv;
}

static inline struct kv *known(uint32_t n_pages, const struct kv_disk_config *dc)
{
    return known_as(KV_DISK_ON, n_pages, dc);
}

static inline void all_written(struct kv *kv)
{
    UNTIL(kv, stats(kv).queue == 0 && stats(kv).state == KV_DISK_ON);
}

static inline void prompt(int32_t *t, int32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        t[i] = first + (int32_t)i;
}

/* What a row must hold follows from everything that its key says. */
static inline void row_of(unsigned char *row, size_t n, uint64_t salt, const uint32_t ends[KV_WAYS],
                   const int32_t *t, uint32_t at, int plane)
{
    uint64_t h = salt + (uint64_t)plane * 77;
    for (int w = 0; w < KV_WAYS; w++)
        h = h * 31 + (at < ends[w] ? at + 1 : ends[w]);
    for (uint32_t i = 0; i <= at; i++)
        h = (h ^ (uint64_t)t[i]) * 0x100000001b3ull;
    for (size_t i = 0; i < n; i++)
        row[i] = (unsigned char)(h >> 8 * (i % 8));
}

static inline void each_row(struct kv *kv, const struct kv_seq *s, uint64_t salt, const uint32_t *ends,
                     const int32_t *t, uint32_t from, uint32_t n, bool write)
{
    unsigned char row[ROW];
    unsigned char *const *pages = kv_seq_pages(s, NULL);
    for (uint32_t at = from; at < n; at++)
        for (int plane = 0; plane < 2; plane++) {
            size_t bytes = plane ? 4 : ROW;
            unsigned char *p = pages[at / P] + kv_plane_offset(kv, (uint32_t)plane) +
                               (plane ? 0 : at % P * ROW);
            if (plane && at % P != P - 1)
                continue;
            row_of(row, bytes, salt, ends, t, at, plane);
            if (write)
                memcpy(p, row, bytes);
            else
                ck_assert_msg(!memcmp(p, row, bytes), "wrong row at %u", at);
        }
}

/* Has n tokens computed where the cache lacks them; returns how many it had. */
static inline uint32_t run(struct kv *kv, uint64_t salt, const uint32_t *ends, const int32_t *t, uint32_t n)
{
    struct kv_seq *s = NULL;
    int64_t until = clock_now_ns() + 20 * NS_PER_SEC;
    while (kv_fetch(kv, salt, ends, t, n, false)) {
        turn(kv);
        ck_assert_msg(clock_now_ns() < until, "a fetch without an end");
    }
    ck_assert_int_eq(kv_seq_new(kv, salt, &s), 0);
    kv_seq_set_ways(kv, s, ends);
    uint32_t had = kv_seq_match(kv, s, t, n, n);
    each_row(kv, s, salt, ends, t, 0, had, false);
    ck_assert_int_eq(kv_seq_reserve(kv, s, n - had), 0);
    kv_step_begin(kv);
    each_row(kv, s, salt, ends, t, had, n, true);
    kv_seq_commit(kv, s, t + had, n - had);
    kv_step_end(kv);
    kv_check(kv);
    kv_seq_free(kv, &s);
    return had;
}

/* A folder with the pages of one prompt in it. */
static inline void fill(int32_t first, uint32_t n)
{
    struct kv_disk_config c = config();
    struct kv *kv = cache(64, &c);
    int32_t t[512];
    prompt(t, first, n);
    run(kv, 7, no_ways, t, n);
    all_written(kv);
    kv_close(&kv);
}

static inline int files(char *ret_one)
{
    DIR *dir = opendir(folder);
    struct dirent *f;
    int n = 0;
    while (dir && (f = readdir(dir)))
        if (strstr(f->d_name, ".kv")) {
            n++;
            snprintf(ret_one, 400, "%s/%s", folder, f->d_name);
        }
    closedir(dir);
    return n;
}

static inline int run_suite(const char *name, void (*add)(TCase *t))
{
    Suite *s = suite_create(name);
    TCase *t = tcase_create(name);
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, teardown);
    add(t);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

#endif
