/* engine/products.c - a list of products, or rows, divided among the threads of the pool; see matrix.h.
 *
 * The list is laid out in one line: product after product, and of each the groups of its weights in
 * order. Every thread gets a stretch of that line of equal cost, whatever the list is made of: one large
 * matrix, or a few rows for each of many experts. So it reads ahead in memory, and much the same part of the
 * same matrices in every step. A stretch is cut into pieces, each half of what is left, which the others can
 * take over when they are through with theirs: what anybody waits for at the end is small.
 *
 * The cost of a group is what its weights cost to stream plus its arithmetic, counted in multiply-adds. Where
 * one group with all rows is more than a fraction of a stretch, the rows are cut too, at multiples of 32
 * (tile kernels take 16 or 32 at a time). */
#include "config.h"

#include "engine/matrix.h"

#include <stdlib.h>

/* Multiply-adds a level does in the time that it takes to read a byte of weights: about what one core of
 * current machines does, with operands at hand, over its 15 GB/s. */
static const int macs_per_byte[CPU_LEVEL_MAX] = {
    [CPU_GENERIC] = 1, [CPU_AVX2] = 4, [CPU_AVX512] = 12, [CPU_AMX] = 100, [CPU_NEON] = 6,
};
/* Bytes below which a piece is not cut further: about 1 us to read them. Twice as much is worth a job. */
#define MIN_PIECE_BYTES 16384
#define SHARE_PARTS 8 /* nor below this part of a share */
#define ROW_STEP 32
/* Rows that share one pass over a group, so that their activations stay in the second-level cache, and
 * weights that stay there while the rows take turns. */
#define PASS_ROWS 128
#define PASS_BYTES ((size_t)256 << 10)
/* Tile kernels copy the activations of a call: more groups share that, in the caches of machines with
 * tiles. */
#define TILE_PASS_BYTES ((size_t)1 << 20)
#define ROWS_PER_JOB_MIN 4
/* Floats that row jobs go through in a few microseconds, several times what a job costs. */
#define LIGHT_VALUES 16384

int products_init(struct products *p, const struct kernels *kern, struct pool *pool,
                  int max_products)
{
    p->kern = kern;
    p->pool = pool;
    p->profile = NULL;
    p->max_pieces = 4 * max_products + 4 * SHARE_PARTS * pool_threads(pool) + 16;
    p->pieces = calloc((size_t)p->max_pieces, sizeof(*p->pieces));
    p->first = calloc((size_t)pool_threads(pool) + 1, sizeof(*p->first));
    if (p->pieces && p->first)
        return 0;
    products_done(p);
    return ERR_NOMEM;
}

void products_done(struct products *p)
{
    free(p->pieces);
    free(p->first);
    p->pieces = NULL;
    p->first = NULL;
}

/* --- cutting ----------------------------------------------------------------------------------- */

/* Counts that decide how pieces lie; they never change a result. */
struct cutting {
    double stream;      /* cost of a byte of weights */
    double total, done; /* cost of the list, and of what has been cut */
    double row_limit;   /* cost of a group above which its rows are cut */
    double min_piece;
    int n_shares, share, n_pieces, blocks_left;
};

static double group_cost(const struct cutting *c, const struct matrix *w, int rows)
{
    return (double)w->n_bytes / matrix_groups(w) * c->stream + (double)KERN_LANES * w->n_in * rows;
}

/* Rows of one pass down the groups of a product, of m. */
static int block_rows(const struct cutting *c, const struct matrix *w, int m)
{
    double arithmetic = (double)KERN_LANES * w->n_in;
    if (m <= ROW_STEP || group_cost(c, w, m) <= c->row_limit)
        return m;
    int rows = (int)(c->row_limit / arithmetic) / ROW_STEP * ROW_STEP;
    return rows < ROW_STEP ? ROW_STEP : rows < m ? rows : m;
}

/* Rows of the two kinds that a product can have are never in one piece: [first, end) of kind 0 or 1. */
static int rows_of_kind(const struct product *pr, int kind, int *ret_first)
{
    int rounded = act_is_quantised(pr->w->type) ? pr->n_rounded : 0;
    *ret_first = kind ? rounded : 0;
    return kind ? pr->m : rounded;
}

/* Groups of a piece of about this cost: whole fours or twos, as kernels take them. */
static int piece_groups(double cost, double per_group, int left)
{
    double n = cost / per_group;
    int k = n < 1.5 ? 1 : n < 4 ? 2 : n < left ? ((int)n + 2) / 4 * 4 : left;
    return k < left ? k : left;
}

static void cut_block(struct products *p, struct cutting *c, int product, const struct product *pr, int r0,
                      int r1)
{
    int groups = matrix_groups(pr->w);
    double per_group = group_cost(c, pr->w, r1 - r0);
    c->blocks_left--;
    for (int g = 0; g < groups;) {
        double left = c->total * (c->share + 1) / c->n_shares - c->done;
        double want = left < 2 * c->min_piece ? left : left / 2;
        int k = piece_groups(want, per_group, groups - g);
        if (c->n_pieces + c->blocks_left + 1 >= p->max_pieces)
            k = groups - g; /* cannot be, unless the estimate of max_pieces is wrong */
        p->pieces[c->n_pieces++] = (struct product_piece){
            .product = product, .g0 = g, .g1 = g + k, .r0 = r0, .r1 = r1};
        g += k;
        c->done += k * per_group;
        while (c->share + 1 < c->n_shares &&
               c->done + per_group / 2 >= c->total * (c->share + 1) / c->n_shares)
            p->first[++c->share] = c->n_pieces;
    }
}

int products_cut(struct products *p, const struct product *list, int n)
{
    int n_threads = pool_threads(p->pool);
    struct cutting c = {.stream = macs_per_byte[p->kern->level]};
    for (int i = 0; i < n; i++)
        if (list[i].m > 0)
            c.total += matrix_groups(list[i].w) * group_cost(&c, list[i].w, list[i].m);
    double shares = c.total / (2 * MIN_PIECE_BYTES * c.stream);
    c.n_shares = shares < 1 ? 1 : shares < n_threads ? (int)shares : n_threads;
    double share = c.total / c.n_shares;
    c.row_limit = c.n_shares > 1 ? share / 4 : c.total;
    c.min_piece = c.n_shares > 1 ? share / SHARE_PARTS : c.total;
    if (c.min_piece < MIN_PIECE_BYTES * c.stream)
        c.min_piece = MIN_PIECE_BYTES * c.stream;
    for (int i = 0; i < 2 * n; i++) {
        const struct product *pr = &list[i / 2];
        int first, end = rows_of_kind(pr, i % 2, &first);
        if (first >= end)
            continue;
        int blocks = (end - first - 1) / block_rows(&c, pr->w, end - first) + 1;
        c.blocks_left += blocks;
        c.total += (blocks - (i % 2 && first ? 0 : 1)) * (double)pr->w->n_bytes * c.stream; /* read again */
    }
    p->first[0] = 0;
    for (int i = 0; i < 2 * n; i++) {
        int first, end = rows_of_kind(&list[i / 2], i % 2, &first);
        if (first >= end)
            continue;
        int step = block_rows(&c, list[i / 2].w, end - first);
        for (int r = first; r < end; r += step)
            cut_block(p, &c, i / 2, &list[i / 2], r, r + step < end ? r + step : end);
    }
    while (c.share < n_threads)
        p->first[++c.share] = c.n_pieces;
    return c.n_pieces;
}

/* --- running ----------------------------------------------------------------------------------- */

struct products_job {
    const struct products *p;
    const struct product *list;
};

static void product_item(void *arg, int item, int thread)
{
    const struct products_job *j = arg;
    const struct product_piece *pc = &j->p->pieces[item];
    const struct product *pr = &j->list[pc->product];
    const struct matrix *w = pr->w;
    (void)thread;
    if (act_is_quantised(w->type) && pc->r0 < pr->n_rounded) { /* tiles: the kernel divides the rows */
        j->p->kern->mul_rounded(w->type, w->packed, w->top, w->n_out, w->n_in, pc->g0, pc->g1, pr->x + pc->r0,
                                pr->y + pc->r0, pc->r1 - pc->r0);
        return;
    }
    kern_mul_fn *mul = kern_mul(j->p->kern, w->type);
    int step = pc->g1 - pc->g0;
    if (pc->r1 - pc->r0 > PASS_ROWS) {
        size_t bytes = j->p->kern->level == CPU_AMX ? TILE_PASS_BYTES : PASS_BYTES;
        int some = (int)(bytes / (w->n_bytes / (size_t)matrix_groups(w))) & ~1;
        step = some < 2 ? 2 : some;
    }
    for (int g = pc->g0; g < pc->g1; g += step) {
        int g1 = g + step < pc->g1 ? g + step : pc->g1;
        for (int r = pc->r0; r < pc->r1; r += PASS_ROWS) {
            int m = pc->r1 - r < PASS_ROWS ? pc->r1 - r : PASS_ROWS;
            mul(w->packed, w->n_out, w->n_in, g, g1, pr->x + r, pr->y + r, m);
        }
    }
}

void products_run(struct products *p, const struct product *list, int n)
{
    struct products_job job = {p, list};
    int64_t start = profile_start(p->profile);
    int n_pieces = products_cut(p, list, n);
    if (p->first[1] == n_pieces) { /* too little to share */
        for (int i = 0; i < n_pieces; i++)
            product_item(&job, i, 0);
    } else {
        pool_run_shares(p->pool, p->first, product_item, &job);
    }
    profile_stop(p->profile, PROFILE_PRODUCTS, start);
}

/* --- rows -------------------------------------------------------------------------------------- */

struct rows_job {
    void (*fn)(void *arg, int r0, int r1, int thread);
    void *arg;
    int n, n_items;
};

static void rows_item(void *arg, int item, int thread)
{
    const struct rows_job *j = arg;
    int r0 = (int)((int64_t)j->n * item / j->n_items), r1 = (int)((int64_t)j->n * (item + 1) / j->n_items);
    j->fn(j->arg, r0, r1, thread);
}

void rows_run(struct pool *pool, int n, void (*fn)(void *arg, int r0, int r1, int thread), void *arg)
{
    int n_threads = pool_threads(pool), first[POOL_MAX_THREADS + 1];
    if (n <= 0)
        return;
    if (n < ROWS_PER_JOB_MIN || n_threads == 1) {
        fn(arg, 0, n, 0);
        return;
    }
    struct rows_job j = {fn, arg, n, 2 * n_threads < n ? 2 * n_threads : n};
    for (int t = 0; t <= n_threads; t++)
        first[t] = (int)((int64_t)j.n_items * t / n_threads);
    pool_run_shares(pool, first, rows_item, &j);
}

void rows_run_light(struct pool *pool, int n, int values,
                    void (*fn)(void *arg, int r0, int r1, int thread), void *arg)
{
    if (n > 0 && (int64_t)n * values < LIGHT_VALUES)
        fn(arg, 0, n, 0);
    else
        rows_run(pool, n, fn, arg);
}
