/* engine/attention/balance.c - see balance.h.
 *
 * An item costs what loading its pieces costs (as much as LOAD lanes) and what its lanes cost. Wide items
 * load less in all, narrow ones are easier to share out; spreading pieces costs another pass over the
 * results. Some widths and thresholds for spreading are tried, and the one is taken whose time would be
 * shortest if threads took the longest items first. */
#include "config.h"

#include "engine/attention/balance.h"

#include <stdlib.h>
#include <string.h>

#include "engine/attention/stack.h"

/* Costs of a piece: of loading it, of a lane group, of storing and folding a group's result. */
#define LOAD 8
#define GROUP 4
#define FOLD 1

/* Widths tried, in lane groups. */
static const int widths[] = {16, 14, 12, 10, 8, 6, 4, 2, 1};
#define N_WIDTHS (int)(sizeof(widths) / sizeof(widths[0]))

int balance__init(struct balance *b, int max_jobs, int n_threads)
{
    memset(b, 0, sizeof(*b));
    b->n_threads = n_threads;
    b->jobs = calloc((size_t)max_jobs, sizeof(*b->jobs));
    b->order = calloc((size_t)max_jobs, sizeof(*b->order));
    return b->jobs && b->order ? 0 : ERR_NOMEM;
}

void balance__done(struct balance *b)
{
    free(b->jobs);
    free(b->order);
}

void balance__add(struct balance *b, int id, int n_groups, int n_pieces)
{
    b->order[b->n_jobs] = b->n_jobs;
    b->jobs[b->n_jobs++] = (struct balance_job){id, n_groups, n_pieces, {1, false}};
}

static int parts_of(const struct balance_job *j, int width)
{
    return (j->n_groups + width - 1) / width;
}

/* Of an item with all pieces of the widest part. */
static int64_t item_cost(const struct balance_job *j, int n_parts)
{
    return (int64_t)j->n_pieces * (LOAD + GROUP * ((j->n_groups + n_parts - 1) / n_parts));
}

static bool longer(const void *arg, int32_t a, int32_t b)
{
    const struct balance *bl = arg;
    int64_t x = item_cost(&bl->jobs[a], parts_of(&bl->jobs[a], ATTN_MAX_GROUPS));
    int64_t y = item_cost(&bl->jobs[b], parts_of(&bl->jobs[b], ATTN_MAX_GROUPS));
    return x != y ? x > y : a < b;
}

static bool spreads(const struct balance_job *j, int n_parts, int64_t threshold)
{
    return j->n_pieces > 1 && item_cost(j, n_parts) > threshold;
}

/* A lower bound of the time, which longest-first comes near: all the work shared out evenly, and for each
 * item the rounds that those no shorter than it take. */
static int64_t time_of(const struct balance *b, int width, int64_t threshold)
{
    int64_t total = 0, worst = 0, shortest = INT64_MAX, n_items = 0;
    for (int i = 0; i < b->n_jobs; i++) {
        const struct balance_job *j = &b->jobs[b->order[i]];
        int n_parts = parts_of(j, width);
        int64_t cost = item_cost(j, n_parts), n = n_parts;
        total += (int64_t)j->n_pieces * (LOAD * n_parts + GROUP * j->n_groups);
        if (spreads(j, n_parts, threshold)) {
            total += (int64_t)FOLD * j->n_pieces * j->n_groups;
            n *= j->n_pieces;
            cost /= j->n_pieces;
        }
        n_items += n;
        shortest = cost < shortest ? cost : shortest;
        int64_t t = (n_items + b->n_threads - 1) / b->n_threads * shortest;
        worst = t > worst ? t : worst;
    }
    total = (total + b->n_threads - 1) / b->n_threads;
    return total > worst ? total : worst;
}

void balance__plan(struct balance *b)
{
    int best_width = widths[0];
    int64_t best_threshold = INT64_MAX;
    stack__sort(b->order, b->n_jobs, longer, b);
    if (b->n_threads > 1) {
        int64_t share = 0, best = INT64_MAX;
        for (int i = 0; i < b->n_jobs; i++)
            share += item_cost(&b->jobs[i], 1) / b->n_threads;
        int64_t thresholds[] = {INT64_MAX, share, share / 2, share / 4};
        for (int i = 0; i < N_WIDTHS * 4; i++) {
            int64_t t = time_of(b, widths[i / 4], thresholds[i % 4]);
            if (t < best) {
                best = t;
                best_width = widths[i / 4];
                best_threshold = thresholds[i % 4];
            }
        }
    }
    for (int i = 0; i < b->n_jobs; i++) {
        struct balance_job *j = &b->jobs[i];
        j->plan.n_parts = parts_of(j, best_width);
        j->plan.spread = spreads(j, j->plan.n_parts, best_threshold);
    }
}
