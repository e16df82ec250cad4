/* tools/bench_machine.c - the bounds of the machine, measured beside every benchmark: how fast memory is
 * read, and how fast the level's units multiply when nothing has to be fetched. */
#include "config.h"

#include "tools/bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "engine/pool.h"

#define STREAM_BYTES ((size_t)1 << 30) /* several times any last-level cache */
#define STREAM_CHUNK ((size_t)1 << 20)
#define HUGE_PAGE ((size_t)2 << 20)
#define TRIES 2 /* of each way to read */
#define PEAK_NS (10 * NS_PER_MS) /* of one measurement */

/* Prefetching by hand helps some machines and hinders others: the best counts. */
static const size_t aheads[] = {0, 1024, 4096};
enum { N_AHEADS = sizeof(aheads) / sizeof(aheads[0]) };

struct stream {
    peak_read_fn *read;
    size_t ahead;
    char *data;
    uint64_t *sums; /* a cache line for each thread */
};

static void touch_item(void *arg, int item, int thread)
{
    const struct stream *s = arg;
    (void)thread;
    memset(s->data + (size_t)item * STREAM_CHUNK, 1, STREAM_CHUNK);
}

static void stream_item(void *arg, int item, int thread)
{
    const struct stream *s = arg;
    s->sums[thread * 8] |= s->read(s->data + (size_t)item * STREAM_CHUNK, STREAM_CHUNK, s->ahead);
}

/* In huge pages, as the engine's weights are. */
static double read_rate(struct pool *pool, enum cpu_level level)
{
    double best = 0;
    int items = (int)(STREAM_BYTES / STREAM_CHUNK);
    struct stream s = {.read = peak_read(level)};
    char *map = mmap(NULL, STREAM_BYTES + HUGE_PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    s.sums = calloc((size_t)pool_threads(pool) * 8, sizeof(uint64_t));
    if (map != MAP_FAILED && s.sums) {
        s.data = map + -(uintptr_t)map % HUGE_PAGE;
#ifdef MADV_HUGEPAGE
        madvise(s.data, STREAM_BYTES, MADV_HUGEPAGE);
#endif
        pool_run(pool, items, touch_item, &s);
        for (int t = 0; t < TRIES * N_AHEADS; t++) {
            s.ahead = aheads[t % N_AHEADS];
            int64_t t0 = clock_now_ns();
            pool_run(pool, items, stream_item, &s);
            double rate = (double)STREAM_BYTES * 1e9 / (double)(clock_now_ns() - t0);
            best = rate > best ? rate : best;
        }
    }
    if (map != MAP_FAILED)
        munmap(map, STREAM_BYTES + HUGE_PAGE);
    free(s.sums);
    return best;
}

struct peak {
    peak_mul_fn *mul;
    int64_t turns;
};

static void peak_item(void *arg, int item, int thread)
{
    const struct peak *p = arg;
    (void)item;
    (void)thread;
    p->mul(p->turns);
}

static double peak_rate(struct pool *pool, peak_mul_fn *mul)
{
    struct peak p = {mul, 1000};
    int items = 4 * pool_threads(pool);
    double best = 0;
    if (!mul)
        return 0;
    double macs_a_turn = (double)mul(p.turns) / (double)p.turns;
    for (int t = 0; t < 4 * TRIES; t++) {
        int64_t t0 = clock_now_ns();
        pool_run(pool, items, peak_item, &p);
        int64_t ns = clock_now_ns() - t0;
        double rate = items * macs_a_turn * (double)p.turns * 1e9 / (double)ns;
        best = rate > best ? rate : best;
        while (ns < PEAK_NS) {
            ns *= 2;
            p.turns *= 2;
        }
    }
    return best;
}

int bench_machine_measure(int threads, enum cpu_level level, struct bench_machine *ret, struct err *e)
{
    struct pool *pool;
    int r = pool_new(threads, 1, &pool, e);
    if (r < 0)
        return r;
    *ret = (struct bench_machine){.level = level, .threads = threads};
    ret->read = read_rate(pool, level);
    for (int u = 0; u < PEAK_UNITS; u++)
        ret->peak[u] = peak_rate(pool, peak_mul(level, (enum peak_unit)u));
    pool_free(&pool);
    return 0;
}

double bench_integer_peak(const struct bench_machine *m)
{
    return m->peak[PEAK_I8];
}

double bench_float_peak(const struct bench_machine *m)
{
    return m->peak[PEAK_BF16] > m->peak[PEAK_F32] ? m->peak[PEAK_BF16] : m->peak[PEAK_F32];
}
