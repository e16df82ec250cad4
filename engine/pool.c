/* engine/pool.c - fork-join over persistent threads; see pool.h.
 *
 * A job is published by raising `generation`, on one cache line with all that a worker must know of it.
 * Every thread has lines of its own for the rest: whether it takes part (`state`), and how many items of
 * its share are gone (`taken`).
 *
 * state is 2 g + 1 while a worker takes part in job g and 2 g when it is through with it. A worker joins by
 * a compare-and-swap from an older state. When no items are left the caller goes over the workers: those
 * that joined are waited for, each for one item at most; the others get state 2 g in the same way, which
 * keeps them out. After that nobody reads the job, and the next one may be written over it.
 *
 * taken is g << 32 | items. A share whose g is an older job's counts as untouched, so that nobody has to
 * reset them. */
#include "config.h"

#include "engine/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/place.h"

/* Longer than the gap between two jobs of a step. With fewer processors than threads spinning only takes
 * from others what they need to end the job. */
#define SPIN_NS 10000
#define SPIN_SHARED_NS 500
/* Then others may run between two looks, for about the gap between two steps; then sleep. */
#define YIELD_NS 150000
#define LOOKS 16 /* between two looks at the clock */
#define QUOTA_PATH 4352 /* a path of a control group is one of the file system, and the mount before it */

struct member {
    _Alignas(64) _Atomic uint64_t state; /* not of thread 0: the caller */
    _Alignas(64) _Atomic uint64_t taken;
    _Alignas(64) struct pool *pool;
    pthread_t thread;
    int index;
    int cpu; /* -1: not bound */
};

struct pool {
    int n_threads, n_started;
    int64_t spin_ns;
    struct member *members; /* [n_threads] */
    cpu_set_t caller_set[PLACE_SETS]; /* as it was before the caller was bound */
    pid_t caller;           /* 0: it was not */
    /* the job in hand; written before generation is raised */
    _Alignas(64) _Atomic unsigned generation;
    int n_items;
    const int *first; /* of shares, or NULL: items come from `next` */
    void (*fn)(void *arg, int item, int thread);
    void *arg;
    _Atomic int stop;
    _Alignas(64) _Atomic int next;
    _Alignas(64) _Atomic int sleepers;
};

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic unsigned *at, unsigned value)
{
    syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic unsigned *at)
{
    syscall(SYS_futex, at, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* --- items ------------------------------------------------------------------------------------- */

/* The next item of share s that nobody has, or -1. */
static int claim(struct pool *p, int s, unsigned g)
{
    unsigned size = (unsigned)(p->first[s + 1] - p->first[s]);
    _Atomic uint64_t *at = &p->members[s].taken;
    uint64_t v = atomic_load_explicit(at, memory_order_relaxed);
    for (;;) {
        unsigned n = (unsigned)(v >> 32) == g ? (unsigned)v : 0;
        if (n >= size)
            return -1;
        if (atomic_compare_exchange_weak_explicit(at, &v, (uint64_t)g << 32 | (n + 1),
                                                  memory_order_relaxed, memory_order_relaxed))
            return p->first[s] + (int)n;
    }
}

static void take_items(struct pool *p, int thread, unsigned g)
{
    int item;
    if (!p->first) {
        while ((item = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed)) < p->n_items)
            p->fn(p->arg, item, thread);
        return;
    }
    for (int i = 0, s = thread; i < p->n_threads; i++, s = s + 1 < p->n_threads ? s + 1 : 0)
        while ((item = claim(p, s, g)) >= 0)
            p->fn(p->arg, item, thread);
}

/* --- workers ----------------------------------------------------------------------------------- */

static unsigned wait_for_job(struct pool *p, unsigned seen)
{
    int64_t begin = clock_now_ns(), waited = 0;
    unsigned g;
    while (waited < YIELD_NS) {
        for (int i = 0; i < LOOKS; i++) {
            g = atomic_load_explicit(&p->generation, memory_order_acquire);
            if (g != seen)
                return g;
            if (waited < p->spin_ns)
                relax();
            else
                sched_yield();
        }
        waited = clock_now_ns() - begin;
    }
    for (;;) {
        atomic_fetch_add(&p->sleepers, 1);
        g = atomic_load(&p->generation);
        if (g == seen)
            futex_wait(&p->generation, seen);
        atomic_fetch_sub(&p->sleepers, 1);
        g = atomic_load_explicit(&p->generation, memory_order_acquire);
        if (g != seen)
            return g;
    }
}

/* False: the job is over already. */
static bool join(struct pool *p, struct member *m, unsigned g)
{
    uint64_t v = atomic_load_explicit(&m->state, memory_order_acquire);
    /* Of the job in hand no state can be newer; an older one than g's says that it is open. */
    if (atomic_load_explicit(&p->generation, memory_order_acquire) != g || v == 2 * (uint64_t)g)
        return false;
    return atomic_compare_exchange_strong_explicit(&m->state, &v, 2 * (uint64_t)g + 1,
                                                   memory_order_acquire, memory_order_relaxed);
}

static void bind_to(int cpu)
{
    cpu_set_t set[PLACE_SETS];
    CPU_ZERO_S(sizeof(set), set);
    CPU_SET_S((size_t)cpu, sizeof(set), set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), set); /* a wish: failure costs speed only */
}

static void *worker_main(void *arg)
{
    struct member *m = arg;
    struct pool *p = m->pool;
    unsigned seen = 0;
    pthread_setname_np(pthread_self(), "compute"); /* for those who look with top or perf */
    if (m->cpu >= 0)
        bind_to(m->cpu);
    for (;;) {
        seen = wait_for_job(p, seen);
        if (atomic_load_explicit(&p->stop, memory_order_relaxed))
            return NULL;
        if (!join(p, m, seen))
            continue;
        take_items(p, m->index, seen);
        atomic_store_explicit(&m->state, 2 * (uint64_t)seen, memory_order_release);
    }
}

/* --- the caller -------------------------------------------------------------------------------- */

static unsigned publish(struct pool *p)
{
    unsigned g = atomic_load_explicit(&p->generation, memory_order_relaxed) + 1;
    for (int i = 0; g == 0 && i < p->n_threads; i++) /* numbers begin again: forget who had them */
        atomic_store_explicit(&p->members[i].taken, 0, memory_order_relaxed);
    atomic_store(&p->generation, g);
    if (atomic_load(&p->sleepers) > 0)
        futex_wake_all(&p->generation);
    return g;
}

/* Waits until the worker is through with job g, or keeps it out. */
static void close_job(struct pool *p, struct member *m, unsigned g)
{
    uint64_t over = 2 * (uint64_t)g, v = atomic_load_explicit(&m->state, memory_order_acquire);
    if (v == over || (v != over + 1 &&
                      atomic_compare_exchange_strong_explicit(&m->state, &v, over, memory_order_acq_rel,
                                                              memory_order_acquire)))
        return;
    int64_t begin = 0;
    for (int i = 1; atomic_load_explicit(&m->state, memory_order_acquire) != over; i++) {
        if (begin >= 0)
            relax();
        else
            sched_yield();
        if (begin >= 0 && i % LOOKS == 0) {
            int64_t now = clock_now_ns();
            begin = begin == 0 ? now : now - begin > p->spin_ns ? -1 : begin;
        }
    }
}

static void run_job(struct pool *p)
{
    unsigned g = publish(p);
    take_items(p, 0, g);
    for (int i = 1; i < p->n_threads; i++)
        close_job(p, &p->members[i], g);
}

void pool_run(struct pool *p, int n_items, void (*fn)(void *arg, int item, int thread), void *arg)
{
    if (p->n_threads == 1 || n_items <= 1) {
        for (int i = 0; i < n_items; i++)
            fn(arg, i, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->n_items = n_items;
    p->first = NULL;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    run_job(p);
}

void pool_run_shares(struct pool *p, const int *first, void (*fn)(void *arg, int item, int thread),
                     void *arg)
{
    int n_items = first[p->n_threads];
    if (p->n_threads == 1 || n_items <= 1) {
        for (int i = 0; i < n_items; i++)
            fn(arg, i, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->n_items = n_items;
    p->first = first;
    run_job(p);
}

/* --- life -------------------------------------------------------------------------------------- */

static void bind_caller(struct pool *p, int cpu)
{
    if (pthread_getaffinity_np(pthread_self(), sizeof(p->caller_set), p->caller_set))
        return;
    p->caller = gettid();
    bind_to(cpu);
}

int pool_new(int n_threads, int pin, struct pool **ret, struct err *e)
{
    int cpus[POOL_MAX_THREADS];
    if (n_threads < 1 || n_threads > POOL_MAX_THREADS)
        return err_set_param(e, ERR_INVAL, "threads", "threads must be in 1..%d, not %d",
                             POOL_MAX_THREADS, n_threads);
    struct pool *p = aligned_alloc(64, sizeof(*p));
    struct member *members = aligned_alloc(64, (size_t)n_threads * sizeof(*members));
    if (!p || !members) {
        free(p);
        free(members);
        return err_set(e, ERR_NOMEM, "no memory for %d threads", n_threads);
    }
    memset(p, 0, sizeof(*p));
    memset(members, 0, (size_t)n_threads * sizeof(*members));
    p->n_threads = n_threads;
    p->members = members;
    int n_cpus = place_cpus(cpus, POOL_MAX_THREADS);
    bool crowded = n_cpus < n_threads;
    p->spin_ns = crowded ? SPIN_SHARED_NS : SPIN_NS;
    pin = pin && !crowded; /* more threads than processors: binding would only hurt */
    for (int i = 1; i < n_threads; i++) {
        struct member *m = &p->members[i];
        m->pool = p;
        m->index = i;
        m->cpu = pin ? cpus[i] : -1;
        int r = pthread_create(&m->thread, NULL, worker_main, m);
        if (r) {
            pool_free(&p);
            return err_set(e, ERR_IO, "cannot start compute thread %d: %s", i, strerror(r));
        }
        p->n_started++;
    }
    if (pin)
        bind_caller(p, cpus[0]);
    *ret = p;
    return 0;
}

void pool_free(struct pool **pp)
{
    struct pool *p = *pp;
    *pp = NULL;
    if (!p)
        return;
    atomic_store(&p->stop, 1);
    publish(p);
    for (int i = 1; i <= p->n_started; i++)
        pthread_join(p->members[i].thread, NULL);
    if (p->caller == gettid())
        pthread_setaffinity_np(pthread_self(), sizeof(p->caller_set), p->caller_set);
    free(p->members);
    free(p);
}

int pool_threads(const struct pool *p)
{
    return p->n_threads;
}

/* --- how many ---------------------------------------------------------------------------------- */

static long long read_number(const char *folder, const char *name)
{
    char path[QUOTA_PATH + 32];
    long long n = 0;
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%lld", &n) != 1)
        n = 0;
    if (f)
        fclose(f);
    return n;
}

/* CPUs that the quota of one group allows, rounded up; 0: it has none. */
static int group_cpus(const char *folder)
{
    char path[QUOTA_PATH + 32];
    long long quota = 0, period = 0;
    snprintf(path, sizeof(path), "%s/cpu.max", folder);
    FILE *f = fopen(path, "re");
    if (f) {
        if (fscanf(f, "%lld %lld", &quota, &period) != 2) /* "max" */
            quota = 0;
        fclose(f);
    } else { /* version 1 */
        quota = read_number(folder, "cpu.cfs_quota_us");
        period = read_number(folder, "cpu.cfs_period_us");
    }
    long long cpus = quota > 0 && period > 0 ? (quota - 1) / period + 1 : 0;
    return cpus < POOL_MAX_THREADS ? (int)cpus : POOL_MAX_THREADS;
}

/* The same for the group `path` below `base` and all above it: each holds for those in it. */
static int least_cpus(const char *base, const char *path)
{
    char folder[QUOTA_PATH];
    int least = 0, n = snprintf(folder, sizeof(folder), "%s%s", base, path);
    if (n >= (int)sizeof(folder))
        return 0;
    for (char *end = folder + n; end; end = strrchr(folder + strlen(base), '/')) {
        *end = 0;
        int cpus = group_cpus(folder);
        if (cpus > 0 && (!least || cpus < least))
            least = cpus;
    }
    return least;
}

int pool_quota(const char *groups, const char *mount)
{
    char line[QUOTA_PATH], base[QUOTA_PATH];
    int least = 0;
    FILE *f = fopen(groups, "re");
    while (f && fgets(line, sizeof(line), f)) { /* ID:CONTROLLERS:PATH */
        char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *controllers++ = *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        bool cpu = false;
        for (char *save, *c = strtok_r(controllers, ",", &save); c; c = strtok_r(NULL, ",", &save))
            cpu |= !strcmp(c, "cpu");
        if (!cpu && strcmp(line, "0") != 0) /* 0: version 2 */
            continue;
        snprintf(base, sizeof(base), "%.1000s%s", mount, cpu ? "/cpu" : "");
        int cpus = least_cpus(base, path);
        if (cpus > 0 && (!least || cpus < least))
            least = cpus;
    }
    if (f)
        fclose(f);
    return least;
}

int pool_default_threads(void)
{
    int n = place_count();
    int quota = pool_quota("/proc/self/cgroup", "/sys/fs/cgroup");
    if (quota > 0 && quota < n)
        n = quota;
    return n < 1 ? 1 : n > POOL_MAX_THREADS ? POOL_MAX_THREADS : n;
}
