/* engine/job.c - a request's life inside the engine, and its output; see job.h. */
#include "config.h"

#include "engine/job.h"
#include "engine/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>


#define MAX_TOP 64 /* alternatives per token; the API allows fewer */
#define MAX_SHOWN ((size_t)1 << 20)
#define FIRST_RIGHT 0.5 /* of drafts, before anything was seen */

static int check_ids(const int32_t *ids, int n, int vocab, const char *field, struct err *e)
{
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return err_set_param(e, ERR_INVAL, field, "%s: token id %d is out of range 0..%d", field,
                                 ids[i], vocab - 1);
    return 0;
}

static int check_pooling(const struct sched_config *c, const struct gen_request *q, struct err *e)
{
    if (q->pooling && (!c->hidden || q->max_tokens != 0 || q->n != 1))
        return err_set_param(e, ERR_INVAL, "pooling", "an embedding is of one prompt without an answer");
    return 0;
}

static int check_request(const struct sched_config *c, const struct gen_request *q, int max_tokens,
                         struct err *e)
{
    int r;
    if (q->n_prompt < 1)
        return err_set_param(e, ERR_INVAL, "prompt", "the prompt has no tokens");
    if (q->n_prompt > max_tokens || (q->n_prompt == max_tokens && q->max_tokens > 0))
        return err_set_param(e, ERR_LIMIT, "prompt",
                             "the prompt has %d tokens; the context holds %d with at least one to generate",
                             q->n_prompt, max_tokens);
    if (q->n < 1 || q->n > c->max_num_seqs)
        return err_set_param(e, ERR_INVAL, "n", "n must be in 1..%d", c->max_num_seqs);
    if (q->max_tokens < 0 || q->logprobs > MAX_TOP || q->prompt_logprobs > MAX_TOP)
        return err_set_param(e, ERR_INVAL, "logprobs", "logprobs must be in 0..%d", MAX_TOP);
    for (int i = 0; i < q->n_stop; i++)
        if (q->stop[i].n_bytes < 1 || q->stop[i].n_bytes > 512)
            return err_set_param(e, ERR_INVAL, "stop", "stop strings must have 1..512 bytes");
    if ((r = check_ids(q->prompt, q->n_prompt, c->vocab_size, "prompt", e)) < 0 ||
        (r = check_ids(q->prediction, q->n_prediction, c->vocab_size, "prediction", e)) < 0 ||
        (r = check_ids(q->stop_token_ids, q->n_stop_token_ids, c->vocab_size, "stop_token_ids", e)) < 0)
        return r;
    if ((r = check_pooling(c, q, e)) < 0)
        return r;
    if ((r = check_ids(q->sampling.allowed, q->sampling.n_allowed, c->vocab_size, "allowed_token_ids", e)) <
        0)
        return r;
    for (int i = 0; i < q->sampling.n_bad_words; i++) {
        const struct token_word *w = &q->sampling.bad_words[i];
        if (w->n < 1 || (r = check_ids(w->ids, w->n, c->vocab_size, "bad_words", e)) < 0)
            return w->n < 1 ? err_set_param(e, ERR_INVAL, "bad_words", "bad_words: a word has no tokens") : r;
    }
    for (int i = 0; i < q->sampling.n_logit_bias; i++)
        if ((r = check_ids(&q->sampling.logit_bias[i].token_id, 1, c->vocab_size, "logit_bias", e)) < 0)
            return r;
    return 0;
}

/* Before min_tokens nothing that would end the choice may be drawn. */
static int collect_banned(struct job *j, const struct sched_config *c)
{
    const struct gen_request *q = j->req;
    int n = q->n_stop_token_ids;
    if (q->min_tokens <= 0)
        return 0;
    for (int id = 0; c->tokenizer && id < c->vocab_size; id++)
        n += tokenizer_is_eog(c->tokenizer, id);
    j->banned = malloc(((size_t)n + 1) * sizeof(*j->banned));
    if (!j->banned)
        return ERR_NOMEM;
    for (int i = 0; i < q->n_stop_token_ids; i++)
        j->banned[j->n_banned++] = q->stop_token_ids[i];
    for (int id = 0; c->tokenizer && id < c->vocab_size; id++)
        if (tokenizer_is_eog(c->tokenizer, id))
            j->banned[j->n_banned++] = id;
    return 0;
}

/* Nothing but control tokens: what is generated begins the text. */
static bool has_no_text(const struct tokenizer *t, const struct gen_request *req)
{
    for (int i = 0; t && i < req->n_prompt; i++)
        if (!tokenizer_is_special(t, req->prompt[i]))
            return false;
    return true;
}

static int seq_init(struct seq *q, struct job *j, int choice, const struct sched_config *c)
{
    const struct gen_request *req = j->req;
    size_t longest_stop = 0;
    int r;
    for (int i = 0; i < req->n_stop; i++)
        longest_stop = req->stop[i].n_bytes > longest_stop ? req->stop[i].n_bytes : longest_stop;
    q->job = j;
    q->choice = choice;
    q->cap_tokens = req->n_prompt + req->max_tokens;
    q->tokens = malloc((size_t)q->cap_tokens * sizeof(*q->tokens));
    buf_init(&q->shown, MAX_SHOWN);
    size_t vector = req->pooling ? (size_t)c->hidden_size * sizeof(float) : 0;
    q->last_event = events_get(c->events, longest_stop + 1 + vector, 0, 0);
    q->pooled = vector ? calloc((size_t)c->hidden_size, sizeof(*q->pooled)) : NULL;
    if (!q->tokens || !q->last_event || (vector && !q->pooled))
        return ERR_NOMEM;
    memcpy(q->tokens, req->prompt, (size_t)req->n_prompt * sizeof(*q->tokens));
    q->n_tokens = req->n_prompt;
    q->drafts_right = FIRST_RIGHT;
    if ((r = sampler_new(&req->sampling, choice, c->vocab_size, q->tokens, req->n_prompt,
                         req->max_tokens, c->tokenizer, &q->sampler)) < 0 ||
        (j->grammar && (r = matcher_new(j->grammar, &q->matcher)) < 0) ||
        (r = textout_init(&q->text, c->tokenizer, req->stop, req->n_stop,
                          req->skip_special_tokens, req->include_stop, has_no_text(c->tokenizer, req))) < 0)
        return r;
    return buf_reserve(&q->shown, 512);
}

int job_new(const struct sched *s, struct gen_request *req, uint64_t id, struct job **ret,
            struct err *e)
{
    const struct sched_config *c = sched__config(s);
    int max_tokens = sched_max_tokens(s);
    int r = check_request(c, req, max_tokens, e);
    if (r < 0)
        return r;
    struct job *j = calloc(1, sizeof(*j) + (size_t)req->n * sizeof(struct seq));
    if (!j)
        return err_set(e, ERR_NOMEM, "out of memory");
    if (req->max_tokens > max_tokens - req->n_prompt)
        req->max_tokens = max_tokens - req->n_prompt;
    j->id = id;
    j->req = req;
    j->events = c->events;
    j->submitted_ns = c->now();
    j->timeout_ns = req->timeout_ns > 0 ? j->submitted_ns + req->timeout_ns : INT64_MAX;
    j->queue_timeout_ns = req->max_queue_ns > 0 ? j->submitted_ns + req->max_queue_ns : INT64_MAX;
    j->n_seqs = j->n_live = req->n;
    j->grammar = req->grammar ? grammar_ref(req->grammar) : NULL;
    r = collect_banned(j, c);
    for (int i = 0; i < req->n && r == 0; i++)
        r = seq_init(&j->seqs[i], j, i, c);
    if (r < 0) {
        job_release(j);
        return err_set(e, r, "out of memory");
    }
    *ret = j;
    return 0;
}

void job_free(struct job *j)
{
    if (!j)
        return;
    for (int i = 0; i < j->n_seqs; i++) {
        struct seq *q = &j->seqs[i];
        free(q->tokens);
        free(q->pooled);
        kv_parked_free(&q->parked);
        sampler_free(&q->sampler);
        matcher_free(&q->matcher);
        textout_done(&q->text);
        buf_done(&q->shown);
        events_put(j->events, q->last_event);
    }
    free(j->banned);
    grammar_put(&j->grammar);
    if (j->req)
        arena_free(j->req->arena);
    free(j);
}

void job_release(struct job *j)
{
    j->req = NULL;
    job_free(j);
}

void job_size(const struct job *j, int *ret_n, int *ret_n_prompt)
{
    *ret_n = j->n_seqs;
    *ret_n_prompt = j->req->n_prompt;
}

static void fill_common(const struct seq *q, struct gen_event *ev, enum gen_event_type type)
{
    ev->type = type;
    ev->request_id = q->job->id;
    ev->user = q->job->req->user;
    ev->choice = q->choice;
}

/* Log-probability of `token` under a row of logits, with k alternatives. */
static void describe(const struct job_env *env, const float *logits, float lse, int32_t token, int k,
                     struct gen_token *out, struct token_logprob *top)
{
    out->id = token;
    out->logprob = logits[token] - lse;
    out->rank = logprobs_rank(env->scratch, logits, token);
    out->n_top = logprobs_top(env->scratch, logits, lse, k, top);
    out->top = top;
}

void seq_prompt_logprobs(struct seq *q, const struct job_env *env, const float *logits, int first,
                         int n_rows)
{
    const struct gen_request *req = q->job->req;
    int k = req->prompt_logprobs, n_prompt = req->n_prompt;
    /* The first prompt token has no prediction: it goes out with its id alone. */
    int begin = q->lp_done, lead = begin == 0;
    int end = first + n_rows < n_prompt ? first + n_rows : n_prompt - 1;
    int n = end - (begin ? begin : 1) + 1 + lead;
    if (n <= 0 || (begin > 0 && end < begin))
        return;
    struct gen_event *ev = events_get(env->events, 0, n, n * k);
    struct err e = {0};
    if (!ev) {
        err_set(&e, ERR_NOMEM, "out of memory for the log-probabilities of the prompt");
        seq_end(q, env, FINISH_ERROR, &e);
        return;
    }
    fill_common(q, ev, GEN_PROMPT);
    ev->prompt_position = begin;
    ev->n_tokens = n;
    struct gen_token *out = event_tokens(ev);
    struct token_logprob *top = event_top(ev);
    int at = 0;
    if (lead)
        out[at++] = (struct gen_token){.id = q->tokens[0]};
    for (int pos = begin ? begin : 1; pos <= end; pos++, at++, top += k) {
        const float *row = logits + (size_t)(pos - 1 - first) * (size_t)env->vocab_size;
        float max, lse;
        env->kern->max_logsumexp(row, env->vocab_size, &max, &lse);
        out[at] = (struct gen_token){0};
        describe(env, row, lse, q->tokens[pos], k, &out[at], top);
    }
    q->lp_done = end + 1;
    events_post(env->events, ev, env->stopping);
}

void seq_progress(struct seq *q, const struct job_env *env, int computed)
{
    struct gen_event *ev = q->job->req->progress && q->choice == 0 ? events_get(env->events, 0, 0, 0) : NULL;
    if (!ev)
        return;
    fill_common(q, ev, GEN_PROGRESS);
    ev->prompt_position = computed;
    ev->prompt_tokens = q->job->req->n_prompt;
    ev->cached_tokens = q->cached;
    events_post(env->events, ev, env->stopping);
}

int32_t seq_forced(const struct seq *q)
{
    const struct thought_limit *t = &q->job->req->thought;
    return t->budget > 0 && t->end >= 0 && !q->thought_over && q->n_output >= t->budget ? t->end : -1;
}

/* Did the thought end with this token, or never begin? */
static void follow_thought(struct seq *q, int32_t token)
{
    const struct thought_limit *t = &q->job->req->thought;
    q->thought_over |= token == t->end || (q->n_output == 1 && !t->begun && token != t->begin);
}

/* Does the grammar speak of the token that comes next? */
static bool under_grammar(const struct seq *q)
{
    const struct gen_request *req = q->job->req;
    return q->matcher && (!req->grammar_after_thought || q->thought_over ||
                          (q->n_output == 0 && !req->thought.begun));
}

int seq_mask(struct seq *q, uint32_t *bits)
{
    const struct gen_request *req = q->job->req;
    if (!under_grammar(q))
        return 0;
    int n = matcher_mask(q->matcher, !req->ignore_eos, bits);
    if (n >= 0 && !q->thought_over && req->grammar_after_thought && req->thought.begin >= 0) {
        bits[req->thought.begin / 32] |= 1u << (req->thought.begin % 32); /* it may think first */
        n++;
    }
    return n > 0 ? 1 : n < 0 ? n : ERR_LIMIT;
}

int seq_pick(struct seq *q, struct sampler_scratch *scratch, float *row, int32_t *ret)
{
    const struct job *job = q->job;
    int n_banned = q->n_output < job->req->min_tokens ? job->n_banned : 0;
    uint32_t *mask = sampler_scratch_mask(scratch);
    int r = seq_mask(q, mask);
    if (r < 0)
        return r;
    if (r == 0)
        return sampler_pick(q->sampler, scratch, row, job->banned, n_banned, q->n_output, ret);
    return sampler_pick_masked(q->sampler, scratch, row, mask, job->banned, n_banned, q->n_output, ret);
}

bool seq_wants_rows(const struct seq *q)
{
    const struct gen_request *req = q->job->req;
    return q->choice == 0 && ((req->prompt_logprobs >= 0 && q->lp_done < req->n_prompt) ||
                              (req->pooling == POOLING_MEAN && q->n_pooled < req->n_prompt));
}

void seq_pool(struct seq *q, const float *hidden, int hidden_size, int first, int n_rows)
{
    bool last = q->job->req->pooling == POOLING_LAST;
    for (int i = last ? n_rows - 1 : 0; i < n_rows; i++) {
        if (!last && first + i != q->n_pooled)
            continue; /* computed again, after preemption */
        const float *row = hidden + (size_t)i * (size_t)hidden_size;
        for (int k = 0; k < hidden_size; k++)
            q->pooled[k] += (double)row[k];
        q->n_pooled++;
    }
}

/* Of length 1; all zeros stay so. */
static void write_embedding(const struct seq *q, int hidden_size, struct gen_event *ev)
{
    float *out = (float *)(void *)event_text(ev);
    double squares = 0;
    for (int k = 0; k < hidden_size; k++)
        squares += q->pooled[k] * q->pooled[k];
    for (int k = 0; k < hidden_size; k++)
        out[k] = squares > 0 ? (float)(q->pooled[k] / sqrt(squares)) : 0.0f;
    ev->embedding = out;
}

static bool is_stop_id(const struct gen_request *req, int32_t token)
{
    for (int i = 0; i < req->n_stop_token_ids; i++)
        if (req->stop_token_ids[i] == token)
            return true;
    return false;
}

/* Sends one token with the text it released. */
static bool send_token(struct seq *q, const struct job_env *env, int32_t token, const float *raw, float lse)
{
    int k = q->job->req->logprobs;
    struct gen_event *ev = events_get(env->events, q->shown.n_bytes, 1, k > 0 ? k : 0);
    if (!ev)
        return false;
    fill_common(q, ev, GEN_TOKENS);
    ev->n_tokens = 1;
    struct gen_token *t = event_tokens(ev);
    *t = (struct gen_token){.id = token};
    if (raw)
        describe(env, raw, lse, token, k, t, event_top(ev));
    memcpy(event_text(ev), q->shown.data ? q->shown.data : "", q->shown.n_bytes);
    event_text(ev)[q->shown.n_bytes] = 0;
    ev->text_bytes = q->shown.n_bytes;
    events_post(env->events, ev, env->stopping);
    return true;
}

void seq_accept(struct seq *q, const struct job_env *env, int32_t token, const float *raw, float lse)
{
    const struct gen_request *req = q->job->req;
    int64_t now = env->now();
    struct err e = {0};
    if (q->n_output == 0) {
        q->first_token_ns = now;
        metric_observe(env->metrics->ttft, (double)(now - q->job->submitted_ns) / 1e9);
    } else {
        metric_observe(env->metrics->itl, (double)(now - q->last_token_ns) / 1e9);
        metric_observe(env->metrics->old_tpot, (double)(now - q->last_token_ns) / 1e9);
    }
    q->last_token_ns = now;
    bool structured = under_grammar(q); /* this token was */
    q->tokens[q->n_tokens++] = token;
    q->n_output++;
    metric_add(env->metrics->generation_tokens, 1);
    metric_add(env->metrics->lc_predicted, 1);
    sampler_accept(q->sampler, token);
    follow_thought(q, token);
    if (structured && req->grammar_after_thought && !q->thought_over)
        structured = false; /* a thought begins with it */
    int accepted = structured ? matcher_accept(q->matcher, token) : 0;
    if (accepted < 0) {
        err_set(&e, accepted == ERR_NOMEM ? ERR_NOMEM : ERR_LIMIT,
                accepted == ERR_NOMEM ? "out of memory for the grammar"
                                      : "the text is too deep or too ambiguous for its grammar");
        seq_end(q, env, FINISH_ERROR, &e);
        return;
    }

    bool may_stop = q->n_output > req->min_tokens;
    bool stop_id = is_stop_id(req, token);
    bool eog = !req->ignore_eos && env->tokenizer && tokenizer_is_eog(env->tokenizer, token);
    int hit = -1;
    buf_reset(&q->shown);
    if (!stop_id && !eog)
        hit = textout_push(&q->text, token, may_stop, &q->shown);
    bool circles = req->repetition.max_pattern_size > 0 && may_stop &&
                   repeats(&req->repetition, q->tokens + req->n_prompt, q->n_output);
    bool complete = structured && matcher_must_end(q->matcher);
    bool ends = stop_id || eog || hit >= 0 || circles || complete || q->n_output >= req->max_tokens;
    if (ends && hit == -1)
        hit = textout_finish(&q->text, may_stop, &q->shown);
    if (hit < -1 || !send_token(q, env, token, raw, lse)) {
        err_set(&e, ERR_NOMEM, "out of memory for the output");
        seq_end(q, env, FINISH_ERROR, &e);
        return;
    }
    if (!ends)
        return;
    if (hit >= 0) { /* copied: the request goes away before the event does */
        char *copy = event_text(q->last_event);
        memcpy(copy, req->stop[hit].data, req->stop[hit].n_bytes);
        copy[req->stop[hit].n_bytes] = 0;
        q->last_event->stop_string = copy;
    }
    q->last_event->stop_token_id = stop_id && hit < 0 ? token : -1;
    seq_end(q, env,
            hit >= 0 || stop_id || eog || complete ? FINISH_STOP
            : circles                              ? FINISH_REPETITION
                                                   : FINISH_LENGTH,
            NULL);
}

void seq_end(struct seq *q, const struct job_env *env, enum finish_reason why, const struct err *e)
{
    struct gen_event *ev = q->last_event;
    int64_t now = env->now(), submitted = q->job->submitted_ns;
    bool waits = q->state == SEQ_WAITING;
    if (q->state == SEQ_ENDED)
        return;
    q->state = SEQ_ENDED;
    q->last_event = NULL;
    fill_common(q, ev, why == FINISH_ERROR ? GEN_FAILED : GEN_DONE);
    ev->finish_reason = why;
    ev->prompt_tokens = q->job->req->n_prompt;
    ev->cached_tokens = q->cached;
    ev->completion_tokens = q->n_output;
    ev->drafted_tokens = q->n_drafted;
    ev->accepted_tokens = q->n_accepted;
    ev->rejected_prediction_tokens = q->n_foretold - q->n_foretold_right;
    ev->accepted_prediction_tokens = q->n_foretold_right;
    ev->queue_ns = (q->admitted_ns ? q->admitted_ns : now) - submitted;
    if (q->first_token_ns) {
        ev->prefill_ns = q->first_token_ns - q->admitted_ns;
        ev->decode_ns = now - q->first_token_ns;
        ev->ttft_ns = q->first_token_ns - submitted;
    } else if (q->admitted_ns) {
        ev->prefill_ns = now - q->admitted_ns;
    }
    ev->preemptions = q->n_preempted;
    ev->preempted_ns = q->preempted_ns + (q->n_preempted && waits ? now - q->queued_ns : 0);
    if (q->pooled && q->n_pooled > 0 && why == FINISH_LENGTH)
        write_embedding(q, env->hidden_size, ev);
    if (e)
        ev->error = *e;
    engine_metrics_done(env->metrics, ev, q->job->req->max_tokens, now - submitted);
    events_post(env->events, ev, env->stopping);
}
