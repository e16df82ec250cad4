/* engine/budget.h - how many prompt tokens a step may take, so that streams that run do not stall.
 *
 * Lines are fitted to the steps measured, old ones fading: the time of a step that only decodes over its
 * rows, the time that a prompt token adds over its position, and what prompts really took over what that
 * says, whose value at nothing is the price of a step. A step in which something decodes may last
 * `max_step_time`, or (0) 1.7 times what it would last without prompts.
 * But in a burst, where more prompts that one chunk would finish wait than streams run, or at least four and
 * an eighth of these, the first to arrive would so decode in small batches while the others wait. Then steps
 * take prompts whole, in groups. Where a step costs `f` beside its prompts and all that wait take `w`,
 * groups of sqrt(f w) make the mean prompt wait least: in smaller ones all pay f more often, in larger ones
 * each waits for more of the others. Streams go along only as often as keeps their gaps within one whole
 * step: what they miss comes in larger batches soon. It lasts until those that waited when it began have
 * gone.
 * Results never depend on it: chunks may be cut anywhere. */
#ifndef LATENT_ENGINE_BUDGET_H
#define LATENT_ENGINE_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#define BUDGET_LEAST 8 /* prompt tokens that a step takes in any case */

struct budget_line {
    double w, x, y, xx, xy; /* sums, faded */
};

struct budget {
    int64_t step_ns; /* 0: by what decoding takes */
    struct budget_line decode, prompt, group;
    int n_mixed; /* steps with both since one that only decoded */
};

/* What one row more adds to a step with n_decode rows that decode, in parts of what each of these takes: 1
 * where rows are all that a step costs, 0 where they cost nothing beside it, or nothing is known. */
double budget_row(const struct budget *b, int n_decode);
/* Do steps of late tell nothing of what a row costs, since all had equally many, more than n_decode? One
 * without drafts will. */
bool budget_blind(const struct budget *b, int n_decode);
/* Most rows of drafts that a step may take beside n_decode rows that decode, where each stream gets so many
 * tokens of it at least: then each has 0.8 of the pace that it has without, and the step its
 * max_step_time. */
int budget_drafts(const struct budget *b, int n_decode, double tokens);
/* Time for prompts in a step with n_decode rows that decode. Negative: none at all, so that decoding alone is
 * measured. */
double budget_time(const struct budget *b, int n_decode);
/* Are n_short short prompts a burst, while n_decode streams run, n_left of them left of one that began? */
bool budget_burst(const struct budget *b, int n_decode, int n_short, int n_left);
/* Time for a group of the short prompts that wait, which take `ns` all together, beside n_decode rows. */
double budget_group(const struct budget *b, int n_decode, double ns);
/* Time that n tokens of a prompt take from `position` on; 0 when nothing was measured yet. */
double budget_cost(const struct budget *b, int position, int n);
/* Of a step that took took_ns, the time for its n prompt tokens, whose mean position is given. */
double budget_added(const struct budget *b, int n, double mean_position, int64_t took_ns);
/* Tokens from `position` on that fit into `ns`. */
int budget_tokens(const struct budget *b, double ns, int position);
void budget_observe(struct budget *b, int n_decode, int n_prompt, double mean_position, int64_t took_ns);

#endif
