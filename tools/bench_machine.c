/* tools/bench_machine.c - the two bounds of the machine, measured beside every benchmark: how fast
 * memory can be read, and how fast the level multiplies when nothing has to be fetched. */
#include "config.h"

#include "tools/bench.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/kernels/kern.h"

#define STREAM_BYTES ((size_t)512 << 20) /* several times any last-level cache */
#define STREAM_CHUNK ((size_t)1 << 20)
#define TRIES 5

struct stream {
    const uint64_t *data;
    uint64_t *sums;
};

static void stream_item(void *arg, int item, int thread)
{
    const struct stream *s = arg;
    const uint64_t *p = s->data + (size_t)item * (STREAM_CHUNK / 8);
    uint64_t a[16] = {0}; /* enough independent sums to keep loads in flight */
    for (size_t i = 0; i < STREAM_CHUNK / 8; i += 16)
        for (int j = 0; j < 16; j++)
            a[j] += p[i + (size_t)j];
    for (int j = 1; j < 16; j++)
        a[0] += a[j];
    s->sums[thread * 8] += a[0];
}

double bench_read_bandwidth(struct pool *pool)
{
    double best = 0;
    struct stream s = {0};
    uint64_t *data = aligned_alloc(4096, STREAM_BYTES);
    s.sums = calloc((size_t)pool_threads(pool) * 8, sizeof(uint64_t));
    if (data && s.sums) {
        memset(data, 1, STREAM_BYTES);
        s.data = data;
        for (int t = 0; t < TRIES; t++) {
            int64_t t0 = clock_now_ns();
            pool_run(pool, (int)(STREAM_BYTES / STREAM_CHUNK), stream_item, &s);
            double rate = (double)STREAM_BYTES * 1e9 / (double)(clock_now_ns() - t0);
            best = rate > best ? rate : best;
        }
    }
    free(data);
    free(s.sums);
    return best;
}

enum { PEAK_OUT = 16, PEAK_IN = 512, PEAK_ROWS = 64, PEAK_TIMES = 400 };

struct peak {
    const struct kernels *k;
    unsigned char *w, *x;
    size_t act_bytes;
};

static void peak_item(void *arg, int item, int thread)
{
    const struct peak *p = arg;
    const void *x[PEAK_ROWS];
    float out[PEAK_ROWS][PEAK_OUT], *y[PEAK_ROWS];
    (void)item;
    (void)thread;
    for (int i = 0; i < PEAK_ROWS; i++) {
        x[i] = p->x + (size_t)(i % 8) * p->act_bytes;
        y[i] = out[i];
    }
    for (int t = 0; t < PEAK_TIMES; t++)
        p->k->mul_q8_0(p->w, PEAK_OUT, PEAK_IN, 0, 1, x, y, PEAK_ROWS);
}

double bench_product_peak(struct pool *pool, const struct kernels *k)
{
    struct peak p = {.k = k, .act_bytes = kern_act_bytes(TT_Q8_0, PEAK_IN)};
    size_t w_bytes = kern_packed_bytes(TT_Q8_0, PEAK_OUT, PEAK_IN);
    double best = 0;
    float row[PEAK_IN];
    p.w = aligned_alloc(64, (w_bytes + 63) & ~(size_t)63);
    p.x = aligned_alloc(64, 8 * p.act_bytes);
    if (p.w && p.x) {
        memset(p.w, 1, w_bytes);
        for (int r = 0; r < 8; r++) {
            for (int i = 0; i < PEAK_IN; i++)
                row[i] = (float)((i * 7 + r) % 13 - 6);
            k->act_q8(row, PEAK_IN, p.x + (size_t)r * p.act_bytes);
        }
        for (int t = 0; t < TRIES; t++) {
            int items = 4 * pool_threads(pool);
            int64_t t0 = clock_now_ns();
            pool_run(pool, items, peak_item, &p);
            double macs = (double)items * PEAK_TIMES * PEAK_ROWS * PEAK_OUT * PEAK_IN;
            double rate = macs * 1e9 / (double)(clock_now_ns() - t0);
            best = rate > best ? rate : best;
        }
    }
    free(p.w);
    free(p.x);
    return best;
}
