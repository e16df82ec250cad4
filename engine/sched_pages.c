/* engine/sched_pages.c - who has pages and a place among the running: whom a sequence that needs them takes
 * them from, what becomes of the rows of that one, and whether one that waits fits beside the others. */
#include "config.h"

#include "engine/sched_internal.h"

void sched__unpark(struct sched *s, struct seq *q)
{
    kv_parked_free(&q->parked);
    s->parked_bytes -= q->parked_bytes;
    q->parked_bytes = 0;
}

/* Copies the rows of q out of the pool, if there is room and computing them again would take longer. What
 * only q holds counts as lost: pages are short, so it will be evicted. */
static bool park(struct sched *s, struct seq *q)
{
    uint32_t n_rows;
    uint64_t bytes = kv_park_bytes(s->c.kv, q->kv, &n_rows);
    double again = budget_cost(&s->budget, computed(q) - (int)n_rows, (int)n_rows);
    if (n_rows == 0 || bytes > s->c.park_bytes - s->parked_bytes || 2 * s->copy_ns * (double)bytes >= again)
        return false;
    int64_t began = s->c.now();
    if (kv_seq_park(s->c.kv, q->kv, &q->parked) < 0)
        return false;
    s->copy_ns += ((double)(s->c.now() - began) / (double)bytes - s->copy_ns) / 8;
    s->parked_bytes += q->parked_bytes = bytes;
    return true;
}

/* Gives pages and place back. What was computed is found again through the prefix index, unless the pages
 * are used meanwhile (short_of_pages: they will be). */
static void preempt(struct sched *s, struct seq *q, bool short_of_pages)
{
    for (int i = 0; i < s->n_plan; i++) /* it may be in the step being built */
        if (s->plan[i].q == q) {
            sched__unplan(s, i);
            break;
        }
    if (s->slice.q == q) { /* some parts have written rows that nobody will finish */
        s->slice.q = NULL;
        (void)!kv_seq_truncate(s->c.kv, q->kv, kv_seq_length(q->kv)); /* takes no page for that */
    }
    q->eats_step = false;
    bool parked = short_of_pages && park(s, q);
    kv_seq_free(s->c.kv, &q->kv);
    sched__run_remove(s, q);
    queue_insert(&s->waiting, q, s->now);
    q->n_preempted++;
    metric_add(s->c.metrics->all_preemptions, 1);
    metric_add(s->c.metrics->preemptions[parked], 1);
}

/* Whom to preempt for q: a paused one first, then the last in order, q itself included. */
static struct seq *victim_for(const struct sched *s, const struct seq *q)
{
    for (int i = s->n_running - 1; i >= 0; i--)
        if (s->running[i]->job->paused && s->running[i] != q)
            return s->running[i];
    return s->running[s->n_running - 1];
}

bool sched__make_room(struct sched *s, struct seq *q, int n)
{
    for (;;) {
        int r = kv_seq_reserve(s->c.kv, q->kv, (uint32_t)n);
        if (r == 0)
            return true;
        if (r != ERR_NOSPACE) { /* asking again in this step would not help, and who asks would not stop */
            sched__fail_seq(s, q, r);
            return false;
        }
        struct seq *v = victim_for(s, q);
        if (v == q && s->n_running == 1)
            return false; /* cannot be: alone it fits, by sched_max_tokens */
        preempt(s, v, true);
        if (v == q)
            return false;
    }
}

/* --- places for those that wait ----------------------------------------------------------------------- */

/* Pages that q will probably need in all: what it has, and its part of max_tokens as others use theirs. */
static uint32_t expected_pages(const struct sched *s, const struct seq *q)
{
    const struct gen_request *req = q->job->req;
    int all = req->n_prompt + req->max_tokens, n = req->n_prompt + (int)(s->used * req->max_tokens);
    if (n < q->n_tokens + 1)
        n = q->n_tokens + 1;
    return kv_pages_for(s->c.kv, (uint32_t)(n < all ? n : all));
}

static uint32_t held_pages(const struct seq *q)
{
    uint32_t n = 0;
    if (q->kv)
        (void)kv_seq_pages(q->kv, &n);
    return n;
}

/* Pages that q will still take. */
static uint32_t growth(const struct sched *s, const struct seq *q)
{
    uint32_t all = expected_pages(s, q), now = held_pages(q);
    return all > now ? all - now : 0;
}

/* May v be preempted so that q can join? */
static bool gives_way(const struct seq *v, const struct seq *q)
{
    return v->job->paused || (!v->overdue && v->job->req->priority > q->job->req->priority);
}

/* Is there place for q beside the others, all_give_way: beside those that would not give way? */
static bool fits(const struct sched *s, const struct seq *q, bool all_give_way, bool *ret_pages)
{
    int64_t need = growth(s, q), pages = kv_pages_available(s->c.kv);
    int n = 0, n_give = 0;
    for (int i = 0; i < s->n_running; i++) {
        const struct seq *v = s->running[i];
        if (all_give_way && gives_way(v, q)) {
            s->giving[n_give++] = v->kv;
            continue;
        }
        need += v->job->paused ? 0 : growth(s, v);
        n++;
    }
    pages += kv_seqs_keep(s->c.kv, s->giving, (uint32_t)n_give); /* of what they share all together */
    *ret_pages = n == 0 || need <= pages; /* alone it fits */
    return n < s->c.max_num_seqs && *ret_pages;
}

bool sched__make_way(struct sched *s, struct seq *q)
{
    bool pages;
    if (!fits(s, q, true, &pages))
        return false;
    while (!fits(s, q, false, &pages)) {
        struct seq *v = NULL;
        for (int i = 0; i < s->n_running; i++)
            if (gives_way(s->running[i], q) && (!v || s->running[i]->job->paused || !v->job->paused))
                v = s->running[i];
        if (!v)
            return false;
        preempt(s, v, !pages);
    }
    return true;
}

bool sched__bring_back(struct sched *s, struct seq *q)
{
    if (!q->parked)
        return true;
    int r = kv_seq_unpark(s->c.kv, q->kv, q->parked, q->tokens);
    if (r < 0 && r != ERR_NOTFOUND)
        return false;
    sched__unpark(s, q);
    return true;
}
