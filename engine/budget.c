/* engine/budget.c - see budget.h. */
#include "config.h"

#include "engine/budget.h"

#include <limits.h>
#include <math.h>

#define KEEP 0.95        /* of the past at each step */
#define SHARE 0.7        /* of the time of decoding that prompts may add */
#define LONGER 1.25      /* most that a stream waits longer for its tokens because of drafts */
/* A burst: short prompts that wait, at least so many and so many of those that run. */
#define BURST_LEAST 4
#define BURST_PART 8
#define LOOK_AGAIN 64    /* steps with prompts after which one goes without, to measure decoding */

static void line_add(struct budget_line *l, double x, double y, double weight)
{
    l->w = l->w * KEEP + weight;
    l->x = l->x * KEEP + weight * x;
    l->y = l->y * KEEP + weight * y;
    l->xx = l->xx * KEEP + weight * x * x;
    l->xy = l->xy * KEEP + weight * x * y;
}

static double line_var(const struct budget_line *l)
{
    double mx = l->x / l->w;
    return l->xx / l->w - mx * mx;
}

/* Not all its points have about the same x. */
static bool line_tells(const struct budget_line *l)
{
    double mx = l->x / l->w;
    return line_var(l) > 1e-4 * mx * mx + 1e-9;
}

/* Neither falls with x nor goes below 0 at 0: what is fitted does not, noise does. */
static double line_slope(const struct budget_line *l)
{
    double mx = l->x / l->w, my = l->y / l->w;
    double slope = line_tells(l) ? (l->xy / l->w - mx * my) / line_var(l) : 0;
    if (slope < 0)
        slope = 0;
    return mx > 0 && slope > my / mx ? my / mx : slope;
}

static double line_at(const struct budget_line *l, double x)
{
    return l->w > 0 ? l->y / l->w + line_slope(l) * (x - l->x / l->w) : 0;
}

double budget_row(const struct budget *b, int n_decode)
{
    double all = line_at(&b->decode, n_decode);
    return all > 0 ? line_slope(&b->decode) * n_decode / all : 0;
}

bool budget_blind(const struct budget *b, int n_decode)
{
    const struct budget_line *l = &b->decode;
    return !(l->w > 0) || (!line_tells(l) && l->x / l->w > n_decode + 0.5);
}

int budget_drafts(const struct budget *b, int n_decode, double tokens)
{
    double each = line_slope(&b->decode), alone = line_at(&b->decode, n_decode);
    double ns = (LONGER * tokens - 1) * alone;
    if (b->step_ns > 0)
        ns = fmin(ns, fmax((double)b->step_ns - alone, 0));
    return ns < each * INT_MAX ? (int)(ns / each) : INT_MAX;
}

double budget_time(const struct budget *b, int n_decode)
{
    if (n_decode == 0)
        return INFINITY;
    double alone = line_at(&b->decode, n_decode);
    if (!(alone > 0) || b->n_mixed >= LOOK_AGAIN)
        return -1;
    return b->step_ns > 0 ? fmax((double)b->step_ns - alone, 0) : SHARE * alone;
}

bool budget_burst(const struct budget *b, int n_decode, int n_short, int n_left)
{
    if (n_decode > 0 && (b->step_ns > 0 || budget_time(b, n_decode) < 0))
        return false;
    return n_left > 0 || n_short > n_decode || (n_short >= BURST_LEAST && n_short * BURST_PART >= n_decode);
}

double budget_group(const struct budget *b, int n_decode, double ns)
{
    if (!(b->group.w > 0) || line_slope(&b->group) <= 0) /* one size does not tell a step's price */
        return INFINITY;
    double beside = n_decode > 0 ? line_at(&b->decode, n_decode) : 0;
    return sqrt((line_at(&b->group, 0) + beside) * ns);
}

double budget_cost(const struct budget *b, int position, int n)
{
    return n * line_at(&b->prompt, position + n / 2.0);
}

double budget_added(const struct budget *b, int n, double mean_position, int64_t took_ns)
{
    double ns = n * line_at(&b->prompt, mean_position);
    return n == 0 || !(ns > 0) ? 0 : fmin(ns, (double)took_ns);
}

int budget_tokens(const struct budget *b, double ns, int position)
{
    double each = line_at(&b->prompt, position), n;
    if (isinf(ns))
        return INT_MAX;
    if (!(each > 0) || !(ns > 0))
        return 0;
    n = ns / each;
    n = ns / line_at(&b->prompt, position + n / 2);
    return n < 1e9 ? (int)n : INT_MAX;
}

void budget_observe(struct budget *b, int n_decode, int n_prompt, double mean_position, int64_t took_ns)
{
    if (n_prompt == 0) {
        line_add(&b->decode, n_decode, (double)took_ns, 1);
        b->n_mixed = 0;
        return;
    }
    double alone = n_decode ? line_at(&b->decode, n_decode) : 0;
    b->n_mixed += n_decode > 0;
    if (n_decode && !(alone > 0))
        return;
    double ns = fmax((double)took_ns - alone, (double)took_ns / 50);
    if (b->prompt.w > 0)
        line_add(&b->group, n_prompt * line_at(&b->prompt, mean_position), ns, 1);
    line_add(&b->prompt, mean_position, ns / n_prompt, n_prompt < 64 ? n_prompt / 64.0 : 1);
}
