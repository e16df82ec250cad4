/* engine/sched_draft.c - speculative decoding (arXiv 2211.17192) with drafts from the sequence's own tokens,
 * or from the answer that the request predicts (draft.h): rows of tokens that are likely to come are
 * computed with the row that is due. Engine thread.
 *
 * sched_finish.c then samples from one row after the other, as long as what comes out is what the next row
 * was computed for. A token is sampled from the same logits, to the bit, and by the same draw as without a
 * draft, so that drafts change nothing but the time. Whether one would be right shows for nothing, also
 * where its row is not computed; so each sequence knows how often its drafts are, and a row is taken along
 * where it is likelier to be needed than it costs of what a token costs (budget.h): in large batches, where
 * rows are what a step costs, hardly ever. All streams wait for the rows of one, so they may be no more than
 * lets the slowest keep its pace nearly. */
#include "config.h"

#include <math.h>
#include <string.h>

#include "engine/draft.h"
#include "engine/sched_internal.h"

#define SMOOTH 8
/* Where more streams run there are no drafts. What a row costs is a line fitted, where kernels and jobs have
 * steps: with four streams and more the shipped model lost as often as it gained. */
#define MOST_STREAMS 2
/* Part of a token's cost that a row is taken to have at least: costs are known from steps of different sizes
 * only. */
#define LEAST_COST 0.0625

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Where the answer is in the one predicted. Behind a token of its own it is where its last ones are found. */
static void follow(struct seq *q)
{
    const struct gen_request *req = q->job->req;
    const int32_t *answer = q->tokens + req->n_prompt, *text = req->prediction;
    while (q->n_followed < q->n_output) {
        int32_t token = answer[q->n_followed++];
        q->follows = q->predicted < req->n_prediction && text[q->predicted] == token;
        q->predicted += q->follows;
    }
    int at = q->follows ? -1 : draft_place(text, q->predicted, req->n_prediction, answer, q->n_output);
    if (at >= 0) {
        q->predicted = at;
        q->follows = true;
    }
}

/* Writes a draft behind the tokens of p's sequence. Returns how many tokens, at most `most`. */
static int find_draft(struct planned *p, int most)
{
    struct seq *q = p->q;
    const struct gen_request *req = q->job->req;
    if (req->n_prediction > 0)
        follow(q);
    int left = q->follows ? least(most, req->n_prediction - q->predicted) : 0;
    if (left <= 0)
        return draft_lookup(q->tokens, q->n_tokens, most);
    p->predicted = true;
    memcpy(q->tokens + q->n_tokens, req->prediction + q->predicted, (size_t)left * sizeof(*q->tokens));
    return left;
}

/* Rows of drafts that this step takes at most: what streams leave, and where there are prompts half of it,
 * since these come later and would wait as long as drafts are right. */
static int room_for_drafts(const struct sched *s)
{
    int left = least(s->c.max_num_batched_tokens - s->plan_tokens, s->c.max_logit_rows - s->plan_rows);
    bool prompts = s->n_running > s->n_plan || s->waiting.n > 0;
    return prompts ? left / 2 : left;
}

/* Finds a draft for p, and as many rows of it as are worth their cost. Returns the tokens that its stream
 * then probably gets. */
static double want_draft(struct sched *s, struct planned *p, double cost)
{
    struct seq *q = p->q;
    int most = least(s->c.num_speculative_tokens, q->job->req->max_tokens - q->n_output - 1);
    int n = find_draft(p, most);
    double tokens = 1, likely = q->drafts_right;
    p->guessed = n > 0;
    for (; p->n_drafts < n && likely > cost; p->n_drafts++) {
        tokens += likely;
        likely *= q->drafts_right;
    }
    return tokens;
}

static int want_more_than(const struct sched *s, int n)
{
    int count = 0;
    for (int i = 0; i < s->n_plan; i++)
        count += s->plan[i].n_drafts > n;
    return count;
}

/* First rows first, which are the likeliest. */
static void share(struct sched *s, int room)
{
    int each = 0;
    for (int n; (n = want_more_than(s, each)) > 0 && n <= room; each++)
        room -= n;
    for (int i = 0; i < s->n_plan; i++) {
        struct planned *p = &s->plan[i];
        if (p->n_drafts > each)
            p->n_drafts = room-- > 0 ? each + 1 : each;
    }
}

static void take_draft(struct sched *s, struct planned *p)
{
    int n = p->n_drafts;
    if (n == 0 || kv_seq_reserve(s->c.kv, p->q->kv, (uint32_t)(1 + n)) < 0) {
        p->n_drafts = 0;
        return;
    }
    p->n_tokens += n;
    p->n_logits += n;
    s->plan_tokens += n;
    s->plan_rows += n;
    s->plan_decodes += n;
}

void sched__plan_drafts(struct sched *s)
{
    double cost = fmax(budget_row(&s->budget, s->n_plan), LEAST_COST), tokens = INFINITY;
    if (s->c.num_speculative_tokens == 0 || s->n_plan == 0 || s->n_plan > MOST_STREAMS || s->had_prompts ||
        budget_blind(&s->budget, s->n_plan))
        return;
    for (int i = 0; i < s->n_plan; i++)
        tokens = fmin(tokens, want_draft(s, &s->plan[i], cost));
    share(s, least(room_for_drafts(s), budget_drafts(&s->budget, s->n_plan, tokens)));
    for (int i = 0; i < s->n_plan; i++)
        take_draft(s, &s->plan[i]);
}

bool sched__draft_right(struct sched *s, struct planned *p, int32_t token)
{
    struct seq *q = p->q;
    bool drafted = p->n_right < p->n_drafts;
    if (!drafted && !(p->guessed && p->n_right == 0))
        return false;
    bool right = q->tokens[q->n_tokens] == token;
    q->drafts_right += ((right ? 1.0 : 0.0) - q->drafts_right) / SMOOTH;
    if (!right || !drafted)
        return false;
    q->n_accepted++;
    q->n_foretold_right += p->predicted;
    metric_add(s->c.metrics->draft_accepted, 1);
    return true;
}
