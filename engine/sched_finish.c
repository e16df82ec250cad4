/* engine/sched_finish.c - what becomes of computed rows: they are committed to the cache, tokens are
 * sampled side by side on the pool, choices fork, sequences end; see sched.h. Engine thread. */
#include "config.h"

#include "engine/sched_internal.h"

#include <string.h>

/* The logits of what comes next for a planned entry: its last row's, or of a draft those as far as it was
 * right. */
static float *next_row(const struct sched *s, const struct planned *p)
{
    int row = p->first_row + p->n_logits - 1 - p->n_drafts + p->n_right;
    return s->logits + (size_t)row * (size_t)s->c.vocab_size;
}

static void pick_item(void *arg, int item, int thread)
{
    struct sched *s = arg;
    int i = s->who[item];
    const struct planned *p = &s->plan[i];
    const struct job *job = p->q->job;
    float *row = next_row(s, p), max;
    s->pick_error[i] = seq_pick(p->q, s->scratch[thread], row, &s->picked[i]);
    int32_t forced = seq_forced(p->q);
    if (forced >= 0)
        s->picked[i] = forced;
    if (job->req->logprobs >= 0)
        s->c.kern->max_logsumexp(row, s->c.vocab_size, &max, &s->lse[i]);
}

void sched__fail_seq(struct sched *s, struct seq *q, int code)
{
    struct err e = {0};
    if (code == ERR_INTERNAL)
        metric_add(s->c.metrics->corrupted, 1);
    err_set(&e, code,
            code == ERR_INTERNAL ? "the model gave logits that are not finite"
            : code == ERR_LIMIT  ? "no token is left that the grammar and the other fields allow"
                                 : "%s",
            err_name(code));
    sched__end_seq(s, q, FINISH_ERROR, &e);
}

/* Takes the sampled token. False: the sequence has ended with it. */
static bool accept(struct sched *s, struct seq *q, int error, int32_t token, const float *raw, float lse)
{
    if (error < 0) {
        sched__fail_seq(s, q, error);
        return false;
    }
    fair_charge(s->fair, q->job->key, 1);
    seq_accept(q, &s->env, token, raw, lse);
    bool lives = q->state != SEQ_ENDED;
    if (!lives) /* still in `running`: leave from there */
        sched__leave(s, q, SEQ_RUNNING);
    return lives;
}

/* The other choices of a request start from the prompt that the first one just computed; those that
 * find no room stay waiting and find the prompt in the cache later. */
static void fork_choices(struct sched *s, struct seq *first, float *row, float lse)
{
    struct job *j = first->job;
    for (int i = 1; i < j->n_seqs; i++) {
        struct seq *q = &j->seqs[i];
        int32_t token;
        if (q->state != SEQ_WAITING || q->n_output > 0 || s->n_running >= s->c.max_num_seqs)
            continue;
        if (kv_seq_fork(s->c.kv, first->kv, &q->kv) < 0)
            return;
        queue_remove(&s->waiting, q, s->now);
        sched__unpark(s, q); /* it may have begun to compute the prompt itself */
        sched__run_insert(s, q);
        q->eats_step = true; /* its row was in this step */
        if (!q->admitted_before) {
            q->admitted_before = true;
            q->admitted_ns = first->admitted_ns;
            q->cached = j->req->n_prompt;
            engine_metrics_admitted(s->c.metrics, j->req->n_prompt, q->cached);
        }
        int r = seq_pick(q, s->scratch[0], row, &token);
        accept(s, q, r, token, j->req->logprobs >= 0 ? row : NULL, lse);
    }
}

static bool samples(const struct planned *p)
{
    return p->n_logits > 0 && to_go(p->q) == 0 && p->q->n_output < p->q->job->req->max_tokens;
}

/* One planned sequence whose rows are in the cache now. */
static void commit(struct sched *s, const struct planned *p)
{
    struct seq *q = p->q;
    int before = computed(q), upto = before + p->n_tokens, n_prompt = q->job->req->n_prompt;
    kv_seq_commit(s->c.kv, q->kv, q->tokens + before, (uint32_t)(p->n_tokens - p->n_drafts));
    if (before < n_prompt) {
        upto = upto < n_prompt ? upto : n_prompt;
        metric_add(s->c.metrics->prompt_computed, upto - before);
        seq_progress(q, &s->env, upto);
    }
    if (p->n_drafts > 0) { /* of planned ones some give way */
        q->n_drafted += p->n_drafts;
        q->n_foretold += p->predicted ? p->n_drafts : 0;
        metric_add(s->c.metrics->drafts, 1);
        metric_add(s->c.metrics->draft_tokens, p->n_drafts);
    }
    if (q->pooled && p->n_logits > 0)
        seq_pool(q, s->c.hidden(s->c.model) + (size_t)p->first_row * (size_t)s->c.hidden_size,
                 s->c.hidden_size, before, p->n_logits);
    else if (seq_wants_rows(q) && p->n_logits > 0)
        seq_prompt_logprobs(q, &s->env, s->logits + (size_t)p->first_row * (size_t)s->c.vocab_size,
                            before, p->n_logits);
}

/* Samples a token of each of n_who entries. Returns how many go on: the token was drafted, and its row, which
 * is committed now, has the next one's logits. */
static int sample(struct sched *s, int n_who)
{
    int n_on = 0;
    pool_run(s->c.pool, n_who, pick_item, s);
    for (int k = 0; k < n_who; k++) {
        int i = s->who[k];
        struct planned *p = &s->plan[i];
        struct seq *q = p->q;
        float *row = next_row(s, p);
        if (q->choice == 0 && q->n_output == 0 && q->job->n_seqs > 1)
            fork_choices(s, q, row, s->lse[i]); /* before the first may end and give its pages back */
        bool right = s->pick_error[i] == 0 && sched__draft_right(s, p, s->picked[i]);
        row = q->job->req->logprobs >= 0 ? row : NULL;
        if (!accept(s, q, s->pick_error[i], s->picked[i], row, s->lse[i]) || !right)
            continue;
        kv_seq_commit(s->c.kv, q->kv, &s->picked[i], 1);
        p->n_right++;
        s->who[n_on++] = i;
    }
    return n_on;
}

void sched__finish(struct sched *s)
{
    int n_who = 0, n = s->n_plan;
    for (int i = 0; i < n; i++)
        commit(s, &s->plan[i]);
    for (int i = 0; i < n; i++) {
        struct seq *q = s->plan[i].q;
        if (q->state == SEQ_ENDED) /* by seq_prompt_logprobs */
            sched__leave(s, q, SEQ_RUNNING);
        else if (to_go(q) == 0 && q->n_output >= q->job->req->max_tokens)
            sched__end_seq(s, q, FINISH_LENGTH, NULL); /* only scored */
        else
            continue;
        s->plan[i].q = NULL;
    }
    for (int i = 0; i < n; i++)
        if (s->plan[i].q && samples(&s->plan[i]))
            s->who[n_who++] = i;
    while (n_who > 0)
        n_who = sample(s, n_who);
}
