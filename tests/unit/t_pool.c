/* tests/unit/t_pool.c - the compute pool: every item exactly once, writes visible, whatever the number
 * of threads and however small the jobs. Also run under the thread sanitizer. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/place.h"
#include "engine/pool.h"

#define MAX_ITEMS 5000
#define MAX_THREADS 8

struct job {
    int count[MAX_ITEMS];  /* plain memory: each item is one thread's at a time */
    int thread[MAX_ITEMS];
    int order[MAX_THREADS]; /* last item of each thread */
    int n_threads, n_items;
    _Atomic int bad;
    _Atomic int running;
};

/* A machine with room for more than 1,024 processors refuses a mask for so many. */
static bool many_cpus;

int sched_getaffinity(pid_t pid, size_t n, cpu_set_t *set)
{
    memset(set, 0, n);
    if (!many_cpus)
        return syscall(SYS_sched_getaffinity, pid, n, set) < 0 ? -1 : 0;
    errno = EINVAL;
    for (size_t i = 0; i < 1500 && n > sizeof(*set); i++)
        CPU_SET_S(i, n, set);
    return n > sizeof(*set) ? 0 : -1;
}

static void item(void *arg, int i, int thread)
{
    struct job *j = arg;
    atomic_fetch_add(&j->running, 1);
    if (i < 0 || i >= j->n_items || thread < 0 || thread >= j->n_threads || i <= j->order[thread]) {
        atomic_fetch_add(&j->bad, 1);
    } else {
        j->order[thread] = i; /* no two calls at once with the same thread number */
        j->count[i]++;
        j->thread[i] = thread;
    }
    atomic_fetch_sub(&j->running, 1);
}

static void run_job(struct pool *p, struct job *j, int n_items)
{
    j->n_threads = pool_threads(p);
    j->n_items = n_items;
    memset(j->count, 0, (size_t)n_items * sizeof(int));
    for (int t = 0; t < MAX_THREADS; t++)
        j->order[t] = -1;
    pool_run(p, n_items, item, j);
    if (atomic_load(&j->running) != 0 || atomic_load(&j->bad) != 0)
        ck_abort_msg("%d items on %d threads: %d still running, %d bad calls", n_items, j->n_threads,
                     atomic_load(&j->running), atomic_load(&j->bad));
    for (int i = 0; i < n_items; i++)
        if (j->count[i] != 1)
            ck_abort_msg("item %d of %d ran %d times", i, n_items, j->count[i]);
}

static void any_item(void *arg, int i, int thread)
{
    struct job *j = arg;
    atomic_fetch_add(&j->running, 1);
    if (i < 0 || i >= j->n_items || thread < 0 || thread >= j->n_threads)
        atomic_fetch_add(&j->bad, 1);
    else
        j->count[i]++;
    atomic_fetch_sub(&j->running, 1);
}

/* Threads 1 to 8, bound and not: more than this machine's CPUs among them. */
START_TEST(test_every_item_once)
{
    struct pool *p = NULL;
    struct err e = {0};
    struct job *j = calloc(1, sizeof(*j));
    int n_threads = 1 + _i % MAX_THREADS;
    ck_assert_msg(pool_new(n_threads, _i >= MAX_THREADS, &p, &e) == 0, "%s", e.text);
    ck_assert_int_eq(pool_threads(p), n_threads);
    run_job(p, j, 0);
    run_job(p, j, 1);
    for (int k = 0; k < 300; k++)
        run_job(p, j, k % 40);
    for (int k = 0; k < 10; k++)
        run_job(p, j, MAX_ITEMS - k);
    pool_free(&p);
    ck_assert_ptr_null(p);
    pool_free(&p);
    free(j);
}
END_TEST

struct chain {
    uint64_t a[64], b[64];
};

static void forth(void *arg, int i, int thread)
{
    struct chain *c = arg;
    (void)thread;
    c->b[i] = c->a[(i + 7) % 64] * 3 + (uint64_t)i;
}

static void back(void *arg, int i, int thread)
{
    struct chain *c = arg;
    (void)thread;
    c->a[i] = c->b[(i + 11) % 64] ^ (uint64_t)i;
}

/* Each job reads what the one before wrote on other threads; no locks here, only the pool's. */
START_TEST(test_writes_visible)
{
    enum { ROUNDS = 3000 };
    struct chain one = {{1}, {0}}, many = {{1}, {0}};
    struct pool *p = NULL;
    for (int r = 0; r < ROUNDS; r++) {
        for (int i = 0; i < 64; i++)
            forth(&one, i, 0);
        for (int i = 0; i < 64; i++)
            back(&one, i, 0);
    }
    ck_assert_int_eq(pool_new(1 + _i, 0, &p, NULL), 0);
    for (int r = 0; r < ROUNDS; r++) {
        pool_run(p, 64, forth, &many);
        pool_run(p, 64, back, &many);
    }
    pool_free(&p);
    ck_assert_mem_eq(&one, &many, sizeof(one));
}
END_TEST

static void sleep_ms(int ms)
{
    struct timespec t = {0, ms * NS_PER_MS};
    nanosleep(&t, NULL);
}

/* Workers that have gone to sleep come back, at any moment of their falling asleep. */
START_TEST(test_sleep_and_wake)
{
    struct pool *p = NULL;
    struct job *j = calloc(1, sizeof(*j));
    ck_assert_int_eq(pool_new(4, 1, &p, NULL), 0);
    for (int k = 0; k < 400; k++) {
        int64_t end = clock_now_ns() + rand() % 200000;
        if (k % 50 == 0)
            sleep_ms(5);
        while (clock_now_ns() < end)
            ;
        run_job(p, j, 1 + rand() % 20);
    }
    pool_free(&p);
    free(j);
}
END_TEST

static void wait_for_others(void *arg, int i, int thread)
{
    _Atomic int *n = arg;
    (void)i;
    (void)thread;
    atomic_fetch_add(n, 1);
    int64_t end = clock_now_ns() + 20 * NS_PER_SEC;
    while (atomic_load(n) < 4 && clock_now_ns() < end)
        sched_yield();
}

/* Four items that need each other end only if four threads work at once. */
START_TEST(test_really_parallel)
{
    struct pool *p = NULL;
    ck_assert_int_eq(pool_new(4, 0, &p, NULL), 0);
    for (int k = 0; k < 20; k++) {
        _Atomic int n = 0;
        int64_t start = clock_now_ns();
        pool_run(p, 4, wait_for_others, &n);
        ck_assert_int_eq(atomic_load(&n), 4);
        ck_assert_int_lt(clock_now_ns() - start, 20 * NS_PER_SEC);
    }
    pool_free(&p);
}
END_TEST

/* Shares of any size, empty ones among them: every item once, on one thread or another. */
START_TEST(test_shares)
{
    struct pool *p = NULL;
    struct job *j = calloc(1, sizeof(*j));
    int n_threads = 1 + _i, first[MAX_THREADS + 1];
    ck_assert_int_eq(pool_new(n_threads, 0, &p, NULL), 0);
    for (int k = 0; k < 3000; k++) {
        first[0] = 0;
        for (int t = 0; t < n_threads; t++)
            first[t + 1] = first[t] + (rand() % 3 ? rand() % 9 : 0);
        j->n_threads = n_threads;
        j->n_items = first[n_threads];
        memset(j->count, 0, sizeof(j->count));
        if (k % 3 == 0) /* kinds of jobs alternate */
            run_job(p, j, k % 40);
        else
            pool_run_shares(p, first, any_item, j);
        for (int i = 0; i < j->n_items; i++)
            ck_assert_int_eq(j->count[i], 1);
        ck_assert_int_eq(atomic_load(&j->running), 0);
        ck_assert_int_eq(atomic_load(&j->bad), 0);
    }
    pool_free(&p);
    free(j);
}
END_TEST

struct meeting {
    _Atomic int n;
    int n_items, thread[64];
};

static void meet(void *arg, int i, int thread)
{
    struct meeting *m = arg;
    m->thread[i] = thread;
    atomic_fetch_add(&m->n, 1);
    int64_t end = clock_now_ns() + 20 * NS_PER_SEC;
    while (atomic_load(&m->n) < m->n_items && clock_now_ns() < end)
        sched_yield();
}

/* Each thread begins with its own share; when its share is stuck the others take the rest of it. */
START_TEST(test_shares_own_and_helped)
{
    struct pool *p = NULL;
    const int one_each[] = {0, 1, 2, 3, 4}, all_of_one[] = {0, 0, 4, 4, 4};
    ck_assert_int_eq(pool_new(4, 0, &p, NULL), 0);
    for (int k = 0; k < 200; k++) {
        struct meeting m = {.n_items = 4};
        pool_run_shares(p, one_each, meet, &m);
        ck_assert_int_eq(atomic_load(&m.n), 4);
        for (int i = 0; i < 4; i++)
            ck_assert_int_eq(m.thread[i], i);
        m = (struct meeting){.n_items = 4};
        pool_run_shares(p, all_of_one, meet, &m); /* ends only if four threads take one each */
        ck_assert_int_eq(atomic_load(&m.n), 4);
    }
    pool_free(&p);
}
END_TEST

static void *busy(void *arg)
{
    const _Atomic int *stop = arg;
    while (!atomic_load(stop))
        ;
    return NULL;
}

/* More threads than processors, and neighbours that take what they get: right, and soon over. Where every
 * job waited for every worker to have its turn this takes minutes. */
START_TEST(test_crowded)
{
    enum { NEIGHBOURS = 4, JOBS = 2000 };
    struct pool *p = NULL;
    struct job *j = calloc(1, sizeof(*j));
    pthread_t t[NEIGHBOURS];
    _Atomic int stop = 0;
    ck_assert_int_eq(pool_new(MAX_THREADS, 1, &p, NULL), 0);
    for (int i = 0; i < NEIGHBOURS; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, busy, &stop), 0);
    for (int k = 0; k < JOBS; k++)
        run_job(p, j, 2 + k % 30);
    atomic_store(&stop, 1);
    for (int i = 0; i < NEIGHBOURS; i++)
        pthread_join(t[i], NULL);
    pool_free(&p);
    free(j);
}
END_TEST

/* The caller may be bound like the others; afterwards it is as free as before. */
START_TEST(test_affinity_restored)
{
    struct pool *p = NULL;
    cpu_set_t before, after;
    ck_assert_int_eq(sched_getaffinity(0, sizeof(before), &before), 0);
    for (int n = 1; n <= 3; n++) {
        ck_assert_int_eq(pool_new(n, 1, &p, NULL), 0);
        pool_free(&p);
        ck_assert_int_eq(sched_getaffinity(0, sizeof(after), &after), 0);
        ck_assert(CPU_EQUAL(&before, &after));
    }
}
END_TEST

START_TEST(test_many_processors)
{
    int cpus[1600], quota = pool_quota("/proc/self/cgroup", "/sys/fs/cgroup");
    many_cpus = true;
    int n = place_cpus(cpus, 1600), threads = pool_default_threads();
    many_cpus = false;
    ck_assert_int_eq(n, 1500);
    ck_assert_int_eq(threads, quota > 0 && quota < POOL_MAX_THREADS ? quota : POOL_MAX_THREADS);
}
END_TEST

START_TEST(test_errors)
{
    struct pool *p = NULL;
    const int bad[] = {0, -1, 1025, 1 << 30};
    for (int i = 0; i < 4; i++) {
        struct err e = {0};
        ck_assert_int_eq(pool_new(bad[i], 0, &p, &e), ERR_INVAL);
        ck_assert_str_eq(e.param, "threads");
        ck_assert_ptr_null(p);
    }
    ck_assert_int_ge(pool_default_threads(), 1);
    /* made and freed without a job */
    for (int i = 1; i <= MAX_THREADS; i++) {
        ck_assert_int_eq(pool_new(i, i % 2, &p, NULL), 0);
        pool_free(&p);
    }
}
END_TEST

static char quota_root[64];

/* A file below quota_root, and the folders before it. */
static void put_file(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof(path), "%s%s", quota_root, name);
    for (char *at = strchr(path + strlen(quota_root) + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = 0;
        (void)mkdir(path, 0700);
        *at = '/';
    }
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

/* The quota of the unit that the process runs in, and of the slices above that; not only that of the root. */
START_TEST(test_quota)
{
    static const struct {
        const char *groups;
        int cpus;
    } cases[] = {
        {"0::/\n", 0},
        {"0::/system.slice/free.service\n", 0},
        {"0::/system.slice/latentd.service\n", 2},
        {"0::/tight.slice/latentd.service\n", 1}, /* a slice allows less than the unit */
        {"0::/tight.slice/more/deep\n", 1},
        {"0::/not/seen/from/here\n", 0},
        {"12:memory:/v1\n4:cpu,cpuacct:/v1/quota\n1:name=systemd:/v1\n0::/\n", 3},
        {"4:cpuset:/v1/quota\n", 0},
        {"4:cpu,cpuacct:/docker/1234\n", 8}, /* of a container that sees its own group as the root */
        {"nonsense\n", 0},
        {"", 0},
    };
    char groups[96], mount[80], command[96];
    snprintf(quota_root, sizeof(quota_root), "/tmp/t_pool.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(quota_root));
    put_file("/cgroup/system.slice/cpu.max", "max 100000\n");
    put_file("/cgroup/system.slice/free.service/cpu.max", "max 100000\n");
    put_file("/cgroup/system.slice/latentd.service/cpu.max", "150000 100000\n");
    put_file("/cgroup/tight.slice/cpu.max", "100000 100000\n");
    put_file("/cgroup/tight.slice/latentd.service/cpu.max", "400000 100000\n");
    put_file("/cgroup/cpu/cpu.cfs_quota_us", "800000\n");
    put_file("/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    put_file("/cgroup/cpu/v1/cpu.cfs_quota_us", "-1\n");
    put_file("/cgroup/cpu/v1/cpu.cfs_period_us", "100000\n");
    put_file("/cgroup/cpu/v1/quota/cpu.cfs_quota_us", "25001\n");
    put_file("/cgroup/cpu/v1/quota/cpu.cfs_period_us", "10000\n");
    snprintf(groups, sizeof(groups), "%s/groups", quota_root);
    snprintf(mount, sizeof(mount), "%s/cgroup", quota_root);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        put_file("/groups", cases[i].groups);
        ck_assert_msg(pool_quota(groups, mount) == cases[i].cpus, "%s: %d", cases[i].groups,
                      pool_quota(groups, mount));
    }
    put_file("/groups", "0::/system.slice/latentd.service\n");
    put_file("/cgroup/cpu.max", "90000 100000\n"); /* of a container: its own group is the root */
    ck_assert_int_eq(pool_quota(groups, mount), 1);
    ck_assert_int_eq(pool_quota("/nonexistent", mount), 0);
    snprintf(command, sizeof(command), "rm -rf %s", quota_root);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

/* An idle pool sleeps: after a moment it uses no processor time. */
START_TEST(test_idle_costs_nothing)
{
    struct pool *p = NULL;
    struct job *j = calloc(1, sizeof(*j));
    struct timespec a, b;
    ck_assert_int_eq(pool_new(4, 0, &p, NULL), 0);
    run_job(p, j, 100);
    sleep_ms(50);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    sleep_ms(300);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    int64_t used = (b.tv_sec - a.tv_sec) * NS_PER_SEC + (b.tv_nsec - a.tv_nsec);
    ck_assert_int_lt(used, 100 * NS_PER_MS);
    pool_free(&p);
    free(j);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pool");
    TCase *tc = tcase_create("pool");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, test_every_item_once, 0, 2 * MAX_THREADS);
    tcase_add_loop_test(tc, test_writes_visible, 0, 4);
    tcase_add_test(tc, test_sleep_and_wake);
    tcase_add_test(tc, test_really_parallel);
    tcase_add_loop_test(tc, test_shares, 0, MAX_THREADS);
    tcase_add_test(tc, test_shares_own_and_helped);
    tcase_add_test(tc, test_crowded);
    tcase_add_test(tc, test_affinity_restored);
    tcase_add_test(tc, test_many_processors);
    tcase_add_test(tc, test_errors);
    tcase_add_test(tc, test_quota);
    tcase_add_test(tc, test_idle_costs_nothing);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
