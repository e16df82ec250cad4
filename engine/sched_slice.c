/* engine/sched_slice.c - runs a chunk whose layers are spread over steps; see struct slice. */
#include "config.h"

#include "engine/sched_internal.h"

#include <math.h>
#include <stdlib.h>

#define STEP_UP 1.25 /* most that slice_part changes by at a chunk */
#define PART_LEAST 0.1
#define PART_MOST 4

/* One layer of the chunk in slices. */
static int run_layer(struct sched *s)
{
    struct slice *sl = &s->slice;
    int all = s->c.n_layers, layer = all - sl->layers_left, left = 0;
    int64_t began = s->c.now();
    if (layer == 0)
        left = s->c.begin(s->c.model, &sl->batch);
    if (left >= 0)
        left = s->c.go_on(s->c.model, 1);
    if (left < 0)
        return left;
    int64_t took = s->c.now() - began;
    s->layer_took[layer] = (double)took;
    sl->took_ns += took;
    sl->weights += s->layer_weight[layer];
    sl->layer_ns = (double)sl->took_ns / fmax(sl->weights, 0.01);
    sl->layers_left = left;
    return left;
}

/* Time of the layer that comes next: of the first such chunk one layer a step, until layers are known. */
static double next_layer(const struct sched *s)
{
    const struct slice *sl = &s->slice;
    return s->layers_known ? sl->layer_ns * s->layer_weight[s->c.n_layers - sl->layers_left] : sl->ns;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* All layers are done: what did each take beside the others? Returns the time of the longest as it usually
 * is: once in a while one is disturbed. */
static double learn(struct sched *s)
{
    int n = s->c.n_layers;
    double *w = s->layer_weight, *took = s->layer_took, largest = 0;
    double mean = fmax((double)s->slice.took_ns / n, 1);
    for (int i = 0; i < n; i++) {
        double now = took[i] / mean;
        w[i] = s->layers_known ? w[i] + (fmin(now, 2 * w[i]) - w[i]) / 4 : now;
        largest = fmax(largest, w[i]);
        took[i] /= fmax(w[i], 0.01);
    }
    s->layers_known = true;
    qsort(took, (size_t)n, sizeof(*took), by_size);
    return took[n / 2] * largest;
}

int64_t sched__run_slice(struct sched *s)
{
    struct slice *sl = &s->slice;
    int64_t before = sl->took_ns, took = 0;
    int left;
    sl->seq.pages = kv_seq_pages(sl->q->kv, NULL);
    do {
        left = run_layer(s);
        took = sl->took_ns - before;
    } while (left > 0 && (double)took + next_layer(s) <= sl->ns);
    if (left < 0) {
        sched__fail_seq(s, sl->q, left);
        return took;
    }
    if (left > 0)
        return took;
    double longest = learn(s);
    /* What a layer costs whatever the chunk, as reading its experts, the estimate by tokens does not know. */
    if (isfinite(sl->ns) && sl->ns > 0)
        s->slice_part *= fmin(STEP_UP, fmax(1 / STEP_UP, 0.9 * sl->ns / longest));
    s->slice_part = fmin(PART_MOST, fmax(PART_LEAST, s->slice_part));
    struct seq *q = sl->q;
    const struct forward_seq *f = &sl->seq;
    sl->q = NULL;
    kv_disk_computed(s->c.kv, (uint32_t)f->n_tokens, sl->took_ns);
    budget_observe(&s->budget, 0, f->n_tokens, f->position + f->n_tokens / 2.0, sl->took_ns);
    engine_metrics_step(s->c.metrics, 1, f->n_tokens);
    s->plan[0] = (struct planned){q, f->n_tokens, f->n_logits, 0, false};
    s->n_plan = 1;
    sched__finish(s);
    return took;
}
