/* engine/budget.h - how many prompt tokens a step may take, so that streams that run do not stall.
 *
 * Two lines are fitted to the steps measured, old ones fading: the time of a step that only decodes over its
 * rows, and the time that a prompt token adds over its position. A step in which something decodes may then
 * last `max_step_time`, or (0) 1.7 times what it would last without prompts. Where more short prompts wait
 * than streams run, that many times longer; and in a burst of them (four, and an eighth of what runs) it
 * takes all that a step can: the first to arrive would else decode in small batches, and the others wait.
 * Results never depend on it: chunks may be cut anywhere. */
#ifndef LATENT_ENGINE_BUDGET_H
#define LATENT_ENGINE_BUDGET_H

#include <stdint.h>

#define BUDGET_LEAST 8 /* prompt tokens that a step takes in any case */

struct budget_line {
    double w, x, y, xx, xy; /* sums, faded */
};

struct budget {
    int64_t step_ns; /* 0: by what decoding takes */
    struct budget_line decode, prompt;
    int n_mixed; /* steps since one that only decoded */
};

/* Time for prompts in a step with n_decode rows that decode, while n_short short prompts wait. Negative: none
 * at all, so that decoding alone is measured. */
double budget_time(const struct budget *b, int n_decode, int n_short);
/* Time that n tokens of a prompt take from `position` on; 0 when nothing was measured yet. */
double budget_cost(const struct budget *b, int position, int n);
/* Of a step that took took_ns, the time for its n prompt tokens, whose mean position is given. */
double budget_added(const struct budget *b, int n, double mean_position, int64_t took_ns);
/* Tokens from `position` on that fit into `ns`. */
int budget_tokens(const struct budget *b, double ns, int position);
void budget_observe(struct budget *b, int n_decode, int n_prompt, double mean_position, int64_t took_ns);

#endif
