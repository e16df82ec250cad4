/* engine/pool.c - fork-join over persistent threads; see pool.h.
 *
 * A job is published by raising `generation`; workers take items by fetch-add on `next` and count
 * themselves out in `working`. The caller takes items too and then waits for `working` to reach
 * zero. Waiting spins first, since jobs follow each other within microseconds, then yields, since
 * cores may be shared, then sleeps on a futex (workers only: the caller's wait is bounded by an item). */
#include "config.h"

#include "engine/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* About 30 us of spinning: longer than the gap between two jobs of a step, shorter than a time slice
 * of the loop thread would notice. */
#define SPIN_TURNS 2000

struct worker {
    struct pool *pool;
    pthread_t thread;
    int index;
    int cpu; /* -1: not bound */
};

struct pool {
    int n_threads;
    struct worker *workers; /* n_threads - 1 */
    int n_started;
    _Atomic unsigned generation;
    _Atomic int sleepers;
    _Atomic int stop;
    /* the job in hand; written before generation is raised */
    void (*fn)(void *arg, int item, int thread);
    void *arg;
    int n_items;
    _Alignas(64) _Atomic int next;
    _Alignas(64) _Atomic int working;
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

static void take_items(struct pool *p, int thread)
{
    for (;;) {
        int item = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (item >= p->n_items)
            return;
        p->fn(p->arg, item, thread);
    }
}

static unsigned wait_for_job(struct pool *p, unsigned seen)
{
    for (int i = 0; i < SPIN_TURNS; i++) {
        unsigned g = atomic_load_explicit(&p->generation, memory_order_acquire);
        if (g != seen)
            return g;
        relax();
    }
    for (;;) {
        atomic_fetch_add(&p->sleepers, 1);
        unsigned g = atomic_load(&p->generation);
        if (g == seen)
            futex_wait(&p->generation, seen);
        atomic_fetch_sub(&p->sleepers, 1);
        g = atomic_load_explicit(&p->generation, memory_order_acquire);
        if (g != seen)
            return g;
    }
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    unsigned seen = 0;
    if (w->cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(w->cpu, &set);
        pthread_setaffinity_np(pthread_self(), sizeof(set), &set); /* a wish: failure costs speed only */
    }
    for (;;) {
        seen = wait_for_job(p, seen);
        if (atomic_load(&p->stop))
            return NULL;
        take_items(p, w->index);
        atomic_fetch_sub_explicit(&p->working, 1, memory_order_release);
    }
}

static void publish(struct pool *p)
{
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->sleepers) > 0)
        futex_wake_all(&p->generation);
}

/* CPUs of the affinity mask in order; the first is left to the caller. */
static int nth_cpu(const cpu_set_t *set, int n)
{
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, set) && n-- == 0)
            return i;
    return -1;
}

int pool_new(int n_threads, int pin, struct pool **ret, struct err *e)
{
    cpu_set_t set;
    if (n_threads < 1 || n_threads > 1024)
        return err_set_param(e, ERR_INVAL, "threads", "threads must be in 1..1024, not %d", n_threads);
    struct pool *p = aligned_alloc(64, (sizeof(*p) + 63) & ~(size_t)63);
    struct worker *workers = calloc((size_t)n_threads, sizeof(*workers));
    if (!p || !workers) {
        free(p);
        free(workers);
        return err_set(e, ERR_NOMEM, "no memory for %d threads", n_threads);
    }
    memset(p, 0, sizeof(*p));
    p->n_threads = n_threads;
    p->workers = workers;
    if (sched_getaffinity(0, sizeof(set), &set) || CPU_COUNT(&set) < n_threads)
        pin = 0; /* more threads than CPUs: binding would only hurt */
    for (int i = 1; i < n_threads; i++) {
        struct worker *w = &p->workers[i - 1];
        *w = (struct worker){.pool = p, .index = i, .cpu = pin ? nth_cpu(&set, i) : -1};
        int r = pthread_create(&w->thread, NULL, worker_main, w);
        if (r) {
            pool_free(&p);
            return err_set(e, ERR_IO, "cannot start compute thread %d: %s", i, strerror(r));
        }
        p->n_started++;
    }
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
    for (int i = 0; i < p->n_started; i++)
        pthread_join(p->workers[i].thread, NULL);
    free(p->workers);
    free(p);
}

int pool_threads(const struct pool *p)
{
    return p->n_threads;
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
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->working, p->n_threads - 1, memory_order_relaxed);
    publish(p);
    take_items(p, 0);
    for (int i = 0; atomic_load_explicit(&p->working, memory_order_acquire) > 0; i++) {
        if (i < SPIN_TURNS)
            relax();
        else
            sched_yield();
    }
}

/* --- how many ---------------------------------------------------------------------------------- */

/* CPUs that a cgroup quota allows, rounded up; 0 when there is none. */
static int cgroup_cpus(void)
{
    char quota[32];
    long long q = 0, period = 0;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (f) {
        if (fscanf(f, "%31s %lld", quota, &period) == 2 && strcmp(quota, "max"))
            q = strtoll(quota, NULL, 10);
        fclose(f);
    } else {
        f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r");
        if (f && fscanf(f, "%lld", &q) != 1)
            q = 0;
        if (f)
            fclose(f);
        f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r");
        if (f && fscanf(f, "%lld", &period) != 1)
            period = 0;
        if (f)
            fclose(f);
    }
    return q > 0 && period > 0 ? (int)((q + period - 1) / period) : 0;
}

int pool_default_threads(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set), quota = cgroup_cpus();
    if (quota > 0 && quota < n)
        n = quota;
    return n < 1 ? 1 : n;
}
