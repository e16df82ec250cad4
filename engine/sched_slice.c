/* engine/sched_slice.c - runs a chunk whose parts are spread over steps; see struct slice. */
#include "config.h"

#include "engine/sched_internal.h"

#include <math.h>
#include <stdlib.h>

#define STEP_UP 1.25 /* most that slice_share changes by at a chunk */
#define SHARE_LEAST 0.1
#define SHARE_MOST 4
/* A part that can stop begins where so much of a step's time for the chunk is left: each call makes its rows
 * and queries again. */
#define BEGIN_STOPPING 0.25

static int next(const struct sched *s)
{
    return s->c.n_parts - s->slice.parts_left;
}

/* The next part of the chunk in slices, or what there is time for of it. */
static int run_part(struct sched *s, int64_t until_ns)
{
    struct slice *sl = &s->slice;
    int part = next(s), left = 0;
    int64_t began = s->c.now();
    if (part == 0 && !sl->stopped)
        left = s->c.begin(s->c.model, &sl->batch);
    if (left >= 0) {
        s->part_took[part] = sl->stopped ? s->part_took[part] : 0;
        s->part_stops[part] = s->c.stops(s->c.model, part);
        left = s->c.go_on(s->c.model, until_ns);
    }
    if (left < 0)
        return left;
    int64_t took = s->c.now() - began;
    s->part_took[part] += (double)took;
    sl->took_ns += took;
    sl->stopped = left == sl->parts_left;
    sl->parts_left = left;
    if (!sl->stopped) {
        sl->weights += s->part_weight[part];
        sl->part_ns = (double)sl->took_ns / fmax(sl->weights, 0.01);
    }
    return left;
}

/* Time of the part that comes next: of the first such chunk one part a step, until parts are known. */
static double next_part(const struct sched *s)
{
    const struct slice *sl = &s->slice;
    double all = sl->part_ns * s->part_weight[next(s)];
    if (!s->parts_known)
        return sl->ns;
    return s->c.stops(s->c.model, next(s)) ? fmin(all, BEGIN_STOPPING * sl->ns) : all;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* All parts are done: what did each take beside the others? Returns the time of the longest of those that
 * cannot stop, as it usually is: once in a while one is disturbed. */
static double learn(struct sched *s)
{
    int n = s->c.n_parts;
    double *w = s->part_weight, *took = s->part_took, largest = 0;
    double mean = fmax((double)s->slice.took_ns / n, 1);
    for (int i = 0; i < n; i++) {
        double now = took[i] / mean;
        w[i] = s->parts_known ? w[i] + (fmin(now, 2 * w[i]) - w[i]) / 4 : now;
        if (!s->part_stops[i])
            largest = fmax(largest, w[i]);
        took[i] /= fmax(w[i], 0.01);
    }
    s->parts_known = true;
    qsort(took, (size_t)n, sizeof(*took), by_size);
    return took[n / 2] * largest;
}

int64_t sched__run_slice(struct sched *s)
{
    struct slice *sl = &s->slice;
    int64_t before = sl->took_ns, took = 0;
    int64_t until_ns = isfinite(sl->ns) ? s->c.now() + (int64_t)sl->ns : INT64_MAX;
    int left;
    sl->seq.pages = kv_seq_pages(sl->q->kv, NULL);
    do {
        left = run_part(s, until_ns);
        took = sl->took_ns - before;
    } while (left > 0 && !sl->stopped && (double)took + next_part(s) <= sl->ns);
    if (left < 0) {
        sched__fail_seq(s, sl->q, left);
        return took;
    }
    if (left > 0)
        return took;
    double longest = learn(s);
    /* What a part costs whatever the chunk, as reading its experts, the estimate by tokens does not know. */
    if (isfinite(sl->ns) && sl->ns > 0)
        s->slice_share *= fmin(STEP_UP, fmax(1 / STEP_UP, 0.9 * sl->ns / longest));
    s->slice_share = fmin(SHARE_MOST, fmax(SHARE_LEAST, s->slice_share));
    struct seq *q = sl->q;
    const struct forward_seq *f = &sl->seq;
    sl->q = NULL;
    kv_disk_computed(s->c.kv, (uint32_t)f->n_tokens, sl->took_ns);
    budget_observe(&s->budget, 0, f->n_tokens, f->position + f->n_tokens / 2.0, sl->took_ns);
    engine_metrics_step(s->c.metrics, 1, f->n_tokens);
    s->plan[0] = (struct planned){.q = q, .n_tokens = f->n_tokens, .n_logits = f->n_logits};
    s->n_plan = 1;
    sched__finish(s);
    return took;
}
