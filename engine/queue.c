/* engine/queue.c - see queue.h. A choice looks at all that wait: a few nanoseconds each. */
#include "config.h"

#include "engine/queue.h"

/* Who is paused waits for its reader. */
static int64_t waited(const struct seq *q, int64_t now)
{
    return q->waited_ns + (q->job->paused ? 0 : now - q->wait_began_ns);
}

void queue_insert(struct queue *w, struct seq *q, int64_t now)
{
    struct seq *before = w->tail; /* new arrivals go to the end; the preempted further up */
    while (before && before->order > q->order)
        before = before->prev;
    q->prev = before;
    q->next = before ? before->next : w->head;
    if (q->next)
        q->next->prev = q;
    else
        w->tail = q;
    if (before)
        before->next = q;
    else
        w->head = q;
    q->state = SEQ_WAITING;
    q->held = false;
    q->wait_began_ns = q->queued_ns = now;
    w->n++;
    w->tokens += q->n_tokens;
}

void queue_remove(struct queue *w, struct seq *q, int64_t now)
{
    if (q->prev)
        q->prev->next = q->next;
    else
        w->head = q->next;
    if (q->next)
        q->next->prev = q->prev;
    else
        w->tail = q->prev;
    q->prev = q->next = NULL;
    q->waited_ns = waited(q, now);
    if (q->n_preempted)
        q->preempted_ns += now - q->queued_ns;
    w->n--;
    w->tokens -= q->n_tokens;
}

void queue_age(struct queue *w, int64_t now, int64_t max_wait)
{
    for (struct seq *q = w->head; q; q = q->next) {
        q->held = false;
        if (waited(q, now) > max_wait)
            q->overdue = true;
    }
}

void queue_pause(struct job *j, bool paused, int64_t now)
{
    for (int i = 0; i < j->n_seqs && paused != j->paused; i++) {
        struct seq *q = &j->seqs[i];
        q->waited_ns = q->state == SEQ_WAITING ? waited(q, now) : q->waited_ns;
        q->wait_began_ns = now;
    }
    j->paused = paused;
}

/* Negative: a first; 0: arrival decides. */
static int compare(const struct seq *a, const struct seq *b)
{
    if (a->overdue != b->overdue)
        return a->overdue ? -1 : 1;
    if (a->overdue || a->job->req->priority == b->job->req->priority)
        return 0;
    return a->job->req->priority < b->job->req->priority ? -1 : 1;
}

bool seq_before(const struct seq *a, const struct seq *b)
{
    int c = compare(a, b);
    return c ? c < 0 : a->order < b->order;
}

struct queue_state queue_look(const struct queue *w, int64_t now)
{
    struct queue_state ret = {w->n, 0, 0};
    for (const struct seq *q = w->head; q; q = q->next) {
        int64_t ns = q->job->paused ? 0 : waited(q, now);
        ret.longest_ns = ns > ret.longest_ns ? ns : ret.longest_ns;
        ret.n_held += q->held;
    }
    return ret;
}

struct seq *queue_best(const struct queue *w, const struct fair *fair)
{
    struct seq *best = NULL;
    for (struct seq *q = w->head; q; q = q->next) {
        if (q->job->paused || q->held)
            continue;
        int c = best ? compare(q, best) : -1;
        if (c == 0 && !q->overdue && fair_served(fair, q->job->key) < fair_served(fair, best->job->key))
            c = -1;
        if (c < 0) /* the list is in order of arrival */
            best = q;
    }
    return best;
}
