/* engine/queue.h - who goes first: the order of sequences, and the list of those that wait.
 *
 * A sequence that has waited longer than `max_priority_wait`, all its waits together, is overdue. What it is
 * paused for is no wait: nobody reads from it.
 * Overdue ones go by arrival, before all others. The others go by priority (lower first), then by what
 * their key has been served (fair.h), then by arrival. So nobody waits for ever: once overdue, only
 * those that arrived before and those that run already are before it, whatever arrives later. */
#ifndef LATENT_ENGINE_QUEUE_H
#define LATENT_ENGINE_QUEUE_H

#include "engine/fair.h"
#include "engine/job.h"

struct queue {
    struct seq *head, *tail; /* in order of arrival; the preempted go back to their place */
    int n;
    int64_t tokens;
};

void queue_insert(struct queue *w, struct seq *q, int64_t now);
void queue_remove(struct queue *w, struct seq *q, int64_t now);
/* Marks those that became overdue. */
void queue_age(struct queue *w, int64_t now, int64_t max_wait);
/* A job is paused, or goes on; wherever its choices are. */
void queue_pause(struct job *j, bool paused, int64_t now);
struct queue_state {
    int n, n_held;
    int64_t longest_ns; /* all its waits together; of those that are not paused */
};
struct queue_state queue_look(const struct queue *w, int64_t now);
/* The first of those that may run: neither paused nor held. NULL: none. */
struct seq *queue_best(const struct queue *w, const struct fair *fair);
/* Goes a before b among those that run? Service counts in the queue only, so that this stays as it is. */
bool seq_before(const struct seq *a, const struct seq *b);

#endif
