/* engine/sched.c - continuous batching; see sched.h.
 *
 * `running` is in the order of queue.h at every step. A preempted sequence goes back to its place in the
 * queue, not to the end. */
#include "config.h"

#include "engine/sched_internal.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_USED 0.5      /* of max_tokens, before anything was seen */
#define FIRST_COPY_NS 0.5   /* a byte, before anything was copied */
/* Least tokens of a slice that multiplies latents out. That costs what some hundred queries do, so with
 * fewer a part takes hardly less time, and there are many more of them. */
#define LEAST_DECOMPRESSED 128
#define FIRST_SHARE 0.7 /* of the time for prompts, that a part of a chunk in slices is meant to take */

int sched_new(const struct sched_config *cfg, struct sched **ret, struct err *e)
{
    struct sched *s = calloc(1, sizeof(*s));
    int n_threads = pool_threads(cfg->pool);
    bool ok = s != NULL;
    if (ok) {
        size_t n = (size_t)cfg->max_num_seqs, vocab = (size_t)cfg->vocab_size;
        s->c = *cfg;
        s->env = (struct job_env){.vocab_size = cfg->vocab_size,
                                  .hidden_size = cfg->hidden_size,
                                  .kern = cfg->kern,
                                  .tokenizer = cfg->tokenizer,
                                  .events = cfg->events,
                                  .metrics = cfg->metrics,
                                  .stopping = cfg->stopping,
                                  .now = cfg->now};
        s->budget.step_ns = cfg->max_step_ns;
        s->used = FIRST_USED;
        s->copy_ns = FIRST_COPY_NS;
        s->slice_share = FIRST_SHARE;
        s->fair = fair_new(cfg->max_fair_keys);
        s->running = calloc(n, sizeof(*s->running));
        s->giving = calloc(n, sizeof(*s->giving));
        s->plan = calloc(n, sizeof(*s->plan));
        s->batch = calloc(n, sizeof(*s->batch));
        s->picked = calloc(n, sizeof(*s->picked));
        s->pick_error = calloc(n, sizeof(*s->pick_error));
        s->logits = malloc((size_t)cfg->max_logit_rows * vocab * sizeof(float));
        s->lse = calloc(n, sizeof(*s->lse));
        s->who = calloc(n, sizeof(*s->who));
        s->scratch = calloc((size_t)n_threads, sizeof(*s->scratch));
        s->part_took = calloc((size_t)cfg->n_parts, sizeof(*s->part_took));
        s->part_weight = calloc((size_t)cfg->n_parts, sizeof(*s->part_weight));
        s->part_stops = calloc((size_t)cfg->n_parts, sizeof(*s->part_stops));
        ok = s->running && s->giving && s->plan && s->batch && s->picked && s->pick_error && s->logits &&
             s->lse && s->who && s->scratch && s->fair && s->part_took && s->part_weight && s->part_stops;
        for (int t = 0; ok && t < n_threads; t++)
            ok = (s->scratch[t] = sampler_scratch_new(cfg->kern, cfg->vocab_size)) != NULL;
        s->env.scratch = ok ? s->scratch[0] : NULL;
    }
    if (!ok) {
        sched_free(&s);
        return err_set(e, ERR_NOMEM, "out of memory for the scheduler");
    }
    *ret = s;
    return 0;
}

void sched_free(struct sched **sp)
{
    struct sched *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    for (int t = 0; s->scratch && t < pool_threads(s->c.pool); t++)
        sampler_scratch_free(s->scratch[t]);
    free(s->scratch);
    free(s->part_took);
    free(s->part_weight);
    free(s->part_stops);
    fair_free(s->fair);
    free(s->running);
    free(s->giving);
    free(s->plan);
    free(s->batch);
    free(s->picked);
    free(s->pick_error);
    free(s->logits);
    free(s->lse);
    free(s->who);
    free(s);
}

const struct sched_config *sched__config(const struct sched *s)
{
    return &s->c;
}

int sched_max_tokens(const struct sched *s)
{
    uint64_t pool = (uint64_t)(kv_n_pages(s->c.kv) - kv_max_pinned(s->c.kv)) * kv_page_tokens(s->c.kv);
    return pool < (uint64_t)s->c.max_model_len ? (int)pool : s->c.max_model_len;
}

/* --- lists ------------------------------------------------------------------------------------- */

void sched__run_insert(struct sched *s, struct seq *q)
{
    int i = s->n_running++;
    for (; i > 0 && seq_before(q, s->running[i - 1]); i--)
        s->running[i] = s->running[i - 1];
    s->running[i] = q;
    q->state = SEQ_RUNNING;
}

void sched__run_remove(struct sched *s, struct seq *q)
{
    int i = 0;
    while (s->running[i] != q)
        i++;
    s->n_running--;
    memmove(&s->running[i], &s->running[i + 1], (size_t)(s->n_running - i) * sizeof(*s->running));
}

/* Frees a job whose choices have all ended. */
static void drop_job(struct sched *s, struct job *j)
{
    if (j->prev)
        j->prev->next = j->next;
    else
        s->jobs = j->next;
    if (j->next)
        j->next->prev = j->prev;
    fair_leave(s->fair, j->key);
    job_free(j);
}

/* After seq_end: takes it out of its list; frees the job with its last choice. */
void sched__leave(struct sched *s, struct seq *q, enum seq_state was)
{
    struct job *j = q->job;
    if (s->slice.q == q)
        s->slice.q = NULL;
    if (was == SEQ_RUNNING) {
        int64_t took = s->c.now() - q->admitted_ns;
        int max = j->req->max_tokens;
        s->mean_service_ns += (took - s->mean_service_ns) / 8;
        if (max > 0)
            s->used += ((double)q->n_output / max - s->used) / 16;
        sched__run_remove(s, q);
    } else {
        queue_remove(&s->waiting, q, s->now);
        sched__unpark(s, q);
    }
    kv_seq_free(s->c.kv, &q->kv);
    if (--j->n_live > 0)
        return;
    int longest = 0;
    for (int i = 0; i < j->n_seqs; i++)
        longest = j->seqs[i].n_output > longest ? j->seqs[i].n_output : longest;
    engine_metrics_request(s->c.metrics, j->n_seqs, longest);
    drop_job(s, j);
}

void sched__end_seq(struct sched *s, struct seq *q, enum finish_reason why, const struct err *e)
{
    enum seq_state was = q->state;
    seq_end(q, &s->env, why, e);
    sched__leave(s, q, was);
}

/* --- commands ---------------------------------------------------------------------------------- */

void sched_add(struct sched *s, struct job *j)
{
    j->prev = NULL;
    j->next = s->jobs;
    if (s->jobs)
        s->jobs->prev = j;
    s->jobs = j;
    j->key = fair_enter(s->fair, j->req->fair_key);
    s->now = s->c.now();
    for (int i = 0; i < j->n_seqs; i++) {
        j->seqs[i].order = s->next_order++;
        queue_insert(&s->waiting, &j->seqs[i], s->now);
    }
}

static struct job *find_job(struct sched *s, uint64_t id)
{
    struct job *j = s->jobs;
    while (j && j->id != id)
        j = j->next;
    return j;
}

/* Ends all choices that have not ended. */
static void end_job(struct sched *s, struct job *j, enum finish_reason why, const struct err *e)
{
    int n = j->n_seqs;
    for (int i = 0; i < n; i++)
        if (j->seqs[i].state != SEQ_ENDED) {
            bool last = j->n_live == 1;
            sched__end_seq(s, &j->seqs[i], why, e);
            if (last)
                return; /* the job is gone */
        }
}

void sched_cancel(struct sched *s, uint64_t id)
{
    struct job *j = find_job(s, id);
    if (j)
        end_job(s, j, FINISH_ABORT, NULL);
}

void sched_cancel_all(struct sched *s)
{
    while (s->jobs)
        end_job(s, s->jobs, FINISH_ABORT, NULL);
}

void sched_pause(struct sched *s, uint64_t id, bool paused)
{
    struct job *j = find_job(s, id);
    if (j)
        queue_pause(j, paused, s->c.now());
}

/* Ends requests that ran out of their time. */
static void expire(struct sched *s)
{
    for (struct job *j = s->jobs, *next; j; j = next) {
        struct err e = {0};
        bool queued = true;
        next = j->next;
        for (int i = 0; i < j->n_seqs; i++)
            queued = queued && !j->seqs[i].admitted_before;
        if (s->now >= j->timeout_ns)
            err_set_param(&e, ERR_TIMEOUT, "timeout", "the request took longer than its timeout of %g s",
                          (double)j->req->timeout_ns / 1e9);
        else if (queued && s->now >= j->queue_timeout_ns)
            err_set_param(&e, ERR_TIMEOUT, "max_queue_time",
                          "the request waited longer than its max_queue_time of %g s",
                          (double)j->req->max_queue_ns / 1e9);
        else
            continue;
        metric_add(s->c.metrics->expired[s->now >= j->timeout_ns], 1);
        end_job(s, j, FINISH_ERROR, &e);
    }
}

bool sched_idle(const struct sched *s)
{
    return s->jobs == NULL;
}

void sched_counts_read(const struct sched *s, struct sched_counts *ret)
{
    *ret = (struct sched_counts){s->n_running, s->waiting.n, s->waiting.tokens, s->waits_since_ns};
}

int64_t sched_mean_service_ns(const struct sched *s)
{
    return s->mean_service_ns;
}

/* --- planning a step --------------------------------------------------------------------------- */

/* Positions of q from the beginning that are computed decompressed: a function of its prompt alone, also when
 * it is computed again after preemption with what it had generated. */
static int decompressed(const struct sched *s, const struct seq *q)
{
    return scheme_decompressed(s->c.decompress_block, q->job->req->n_prompt);
}

/* Positions from the beginning whose products are rounded, likewise. */
static int rounded(const struct sched *s, const struct seq *q)
{
    return s->c.rounded_prompts ? q->job->req->n_prompt : 0;
}

void sched_ways(const struct sched *s, int n_prompt, bool longer, uint32_t ends[KV_WAYS])
{
    int block = s->c.decompress_block, rest = block > 0 ? n_prompt % block : 0;
    memset(ends, 0, KV_WAYS * sizeof(*ends));
    ends[0] = (uint32_t)scheme_decompressed(block, longer && rest ? n_prompt + block - rest : n_prompt);
    ends[1] = s->c.rounded_prompts ? (uint32_t)n_prompt : 0;
}

void sched__unplan(struct sched *s, int i)
{
    struct planned *p = &s->plan[i];
    s->plan_tokens -= p->n_tokens;
    s->plan_rows -= p->n_logits;
    if (p->decodes) {
        s->plan_decodes -= p->n_tokens;
    } else {
        s->plan_prompt -= p->n_tokens;
        s->plan_positions -= p->n_tokens * (computed(p->q) + p->n_tokens / 2.0);
    }
    *p = s->plan[--s->n_plan];
}

static bool decodes(const struct seq *q)
{
    return q->n_output > 0 && to_go(q) == 1;
}

static int rows_of(const struct seq *q, int n)
{
    if (seq_wants_rows(q))
        return n;
    return n == to_go(q) && (q->n_output < q->job->req->max_tokens || q->pooled) ? 1 : 0;
}

/* One chunk finishes its prompt. */
static bool is_short(const struct sched *s, const struct seq *q)
{
    return to_go(q) <= s->c.prefill_chunk;
}

static void add_to_plan(struct sched *s, struct seq *q, int n)
{
    int rows = rows_of(q, n);
    s->plan[s->n_plan++] = (struct planned){.q = q, .n_tokens = n, .n_logits = rows, .decodes = decodes(q)};
    s->plan_tokens += n;
    s->plan_rows += rows;
    q->eats_step = true;
    if (decodes(q)) {
        s->plan_decodes++;
        return;
    }
    s->plan_prompt += n;
    s->plan_positions += n * (computed(q) + n / 2.0);
    s->plan_short |= is_short(s, q);
    if (!s->burst || is_short(s, q)) /* time is for short ones in a burst */
        s->prompt_ns -= budget_cost(&s->budget, computed(q), n);
}

/* Prompt tokens of q for which there is time. */
static int time_for(const struct sched *s, const struct seq *q)
{
    if (s->burst && is_short(s, q) && s->plan_short)
        return budget_cost(&s->budget, computed(q), to_go(q)) <= s->prompt_ns ? INT_MAX : 0;
    if (s->burst)
        return INT_MAX;
    int n = budget_tokens(&s->budget, s->prompt_ns, computed(q));
    return n < BUDGET_LEAST && s->plan_prompt == 0 && s->prompt_ns >= 0 ? BUDGET_LEAST : n;
}

/* Most rows of q that a call with room for so many rows, so many of them with logits, takes. */
static int chunk_within(const struct sched *s, const struct seq *q, int chunk, int room, int rows)
{
    int n = to_go(q), most = chunk, left = decompressed(s, q) - computed(q);
    if (left > 0) /* the more queries share a key, the better; and a chunk has one scheme */
        most = left;
    left = rounded(s, q) - computed(q);
    if (left > 0 && left < most) /* it has one kind of products, too */
        most = left;
    n = n < most ? n : most;
    n = n < room ? n : room;
    /* Decoding sequences that are not planned yet have a row each to themselves. */
    if (seq_wants_rows(q))
        n = n < rows ? n : rows;
    else if (rows < 1)
        n = n < to_go(q) ? n : to_go(q) - 1;
    return n;
}

/* Most rows of q that this step still takes. */
static int chunk_for(const struct sched *s, const struct seq *q)
{
    int room = s->c.max_num_batched_tokens - s->plan_tokens - (s->without ? s->undecoded : 0);
    int n = chunk_within(s, q, s->c.prefill_chunk, room, s->c.max_logit_rows - s->plan_rows);
    int timely = decodes(q) ? n : time_for(s, q);
    return n < timely ? n : timely;
}

/* Rows of q for a chunk whose parts are spread over steps, where this one has time for n of them only: a part
 * of the chunk takes what a step has. 0: it goes with the step. */
static int slice_for(const struct sched *s, const struct seq *q, int n)
{
    int parts = s->c.n_parts, most, timely;
    if (s->slice.q || s->burst || isinf(s->prompt_ns) || s->prompt_ns <= 0 || n < 1 || n >= to_go(q))
        return 0;
    most = chunk_within(s, q, s->c.max_num_batched_tokens, s->c.max_num_batched_tokens, s->c.max_logit_rows);
    timely = budget_tokens(&s->budget, s->slice_share * s->prompt_ns * parts, computed(q));
    if (computed(q) < decompressed(s, q) && timely < LEAST_DECOMPRESSED)
        timely = LEAST_DECOMPRESSED;
    most = most < timely ? most : timely;
    return most > n ? most : 0;
}

/* The next rows of q, for which there are pages: n of this step, or all of a chunk in slices (slice > 0). */
static void take_chunk(struct sched *s, struct seq *q, int n, int slice)
{
    struct slice *sl = &s->slice;
    if (slice == 0) {
        add_to_plan(s, q, n);
        return;
    }
    int position = computed(q);
    *sl = (struct slice){.q = q, .parts_left = s->c.n_parts, .ns = s->prompt_ns};
    sl->seq = (struct forward_seq){NULL, position, slice, q->tokens + position, rows_of(q, slice),
                                   position < decompressed(s, q), position < rounded(s, q)};
    sl->part_ns = budget_cost(&s->budget, position, slice) / s->c.n_parts;
    sl->batch = (struct forward_batch){1, &sl->seq, s->logits};
    q->eats_step = true;
    s->prompt_ns = -1; /* nothing else has time in this step */
}

/* Equal tokens before position `end` would not share pages. */
static bool made_differently(const struct sched *s, const struct seq *a, const struct seq *b, size_t end)
{
    size_t da = (size_t)decompressed(s, a), db = (size_t)decompressed(s, b);
    size_t ra = (size_t)rounded(s, a), rb = (size_t)rounded(s, b);
    return (da < end ? da : end) != (db < end ? db : end) || (ra < end ? ra : end) != (rb < end ? rb : end);
}

/* The block that q would compute next is being computed right now by another sequence, which is as far as
 * q or ends it in this step: then it will be in the index. Chunks may be shorter than a page. */
static bool others_compute_it(const struct sched *s, const struct seq *q)
{
    uint32_t p = kv_page_tokens(s->c.kv);
    size_t block = (size_t)computed(q) / p, upto = (block + 1) * p; /* rows of it may have been copied */
    if (!s->c.prefix_cache || (size_t)q->n_tokens <= upto)
        return false;
    for (int i = -1; i < s->n_plan; i++) {
        const struct seq *o = i < 0 ? s->slice.q : s->plan[i].q;
        if (!o || o == q)
            continue;
        size_t at = (size_t)computed(o);
        size_t reach = at + (size_t)(i < 0 ? s->slice.seq.n_tokens : s->plan[i].n_tokens);
        if (o->job->req->cache_salt != q->job->req->cache_salt || at / p > block ||
            (size_t)o->n_tokens < upto || made_differently(s, o, q, upto) ||
            (reach < upto && at < (size_t)computed(q)))
            continue;
        if (!memcmp(o->tokens, q->tokens, upto * sizeof(*q->tokens)))
            return true;
    }
    return false;
}

static void match(struct sched *s, struct seq *q)
{
    /* One token is left to compute, since its logits are wanted. */
    if (s->c.prefix_cache && !seq_wants_rows(q))
        kv_seq_match(s->c.kv, q->kv, q->tokens, (uint32_t)q->n_tokens, (uint32_t)q->n_tokens - 1);
}

static void plan_decode(struct sched *s)
{
    for (int i = 0; i < s->n_running; i++) {
        struct seq *q = s->running[i];
        if (q->eats_step || q->job->paused || !decodes(q))
            continue;
        if (s->plan_tokens >= s->c.max_num_batched_tokens || s->plan_rows >= s->c.max_logit_rows)
            return;
        if (sched__make_room(s, q, 1))
            add_to_plan(s, q, 1);
        i = -1; /* preemption moves places; planned ones are skipped quickly */
    }
}

static void plan_running(struct sched *s)
{
    plan_decode(s);
    sched__plan_drafts(s);
}

struct short_ones {
    int n, n_left; /* of these, of the burst that goes on */
    double ns;     /* time for all */
};

static void count_short(const struct sched *s, const struct seq *q, int position, struct short_ones *sh)
{
    int n = q->n_tokens - position;
    if (n > s->c.prefill_chunk)
        return;
    sh->n++;
    sh->n_left += q->order < s->burst_end;
    sh->ns += budget_cost(&s->budget, position, n);
}

/* Prompts that one chunk would finish: of those that run, and of those that wait and would find a place. */
static struct short_ones short_prompts(const struct sched *s)
{
    struct short_ones sh = {0};
    int seats = s->c.max_num_seqs - s->n_running;
    for (int i = 0; i < s->n_running; i++) {
        const struct seq *q = s->running[i];
        if (!q->eats_step && !q->job->paused && !decodes(q))
            count_short(s, q, computed(q), &sh);
    }
    for (const struct seq *q = s->stuck ? NULL : s->waiting.head; q && seats > 0; q = q->next) {
        uint32_t ends[KV_WAYS], there = 0;
        if (q->job->paused)
            continue;
        seats--;
        sched_ways(s, q->job->req->n_prompt, false, ends);
        if (q->n_tokens > s->c.prefill_chunk && s->c.prefix_cache)
            there = kv_probe(s->c.kv, q->job->req->cache_salt, ends, q->tokens, (uint32_t)q->n_tokens);
        count_short(s, q, (int)there, &sh);
    }
    return sh;
}

/* Streams that would decode in this step. */
static int running_streams(const struct sched *s)
{
    int n = 0;
    for (int i = 0; i < s->n_running; i++)
        n += !s->running[i]->eats_step && !s->running[i]->job->paused && decodes(s->running[i]);
    return n;
}

/* Those that decode go first, but in a burst not in every step, as long as their gaps stay within a whole
 * one; then there is time for prompts. */
static void plan_streams(struct sched *s)
{
    int streams = running_streams(s);
    struct short_ones sh = short_prompts(s);
    s->burst = budget_burst(&s->budget, streams, sh.n, sh.n_left);
    if (s->burst && sh.n_left == 0)
        s->burst_end = s->next_order;
    s->without = s->burst && streams > 0 && !s->slice.q && 2 * s->undecoded <= s->c.max_num_batched_tokens;
    if (!s->without)
        plan_running(s);
    s->prompt_ns = s->burst ? budget_group(&s->budget, s->plan_decodes, sh.ns) :
                              budget_time(&s->budget, s->plan_decodes);
    if (!s->slice.q)
        return;
    /* It has the time for prompts to itself, but where there is no end of it. */
    s->slice.ns = s->burst ? INFINITY : s->prompt_ns;
    if (isfinite(s->slice.ns))
        s->prompt_ns = -1;
}

static void plan_prefill(struct sched *s)
{
    for (int i = 0; i < s->n_running; i++) {
        struct seq *q = s->running[i];
        if (q->eats_step || q->job->paused || (s->without && decodes(q)))
            continue;
        match(s, q);
        int n = chunk_for(s, q);
        if (n < 1 || others_compute_it(s, q))
            continue;
        int slice = slice_for(s, q, n);
        bool fits = sched__make_room(s, q, slice ? slice : n);
        if (fits)
            take_chunk(s, q, n, slice);
        i = -1;
        if (!fits)
            return; /* memory is tight: the older ones go on first */
    }
}

/* Pages that memory lacks are on their way to it from the disk. */
static bool fetching(struct sched *s, const struct seq *q)
{
    uint32_t ends[KV_WAYS];
    if (!s->c.prefix_cache || seq_wants_rows(q))
        return false;
    sched_ways(s, q->job->req->n_prompt, false, ends);
    return kv_fetch(s->c.kv, q->job->req->cache_salt, ends, q->tokens, (uint32_t)q->n_tokens - 1, false);
}

/* The first in order of those that wait joins, if pages for what it will need are there. True: there may be
 * more. */
static bool admit_one(struct sched *s)
{
    struct seq *q = queue_best(&s->waiting, s->fair);
    if (!q || s->plan_tokens >= s->c.max_num_batched_tokens)
        return false;
    if (fetching(s, q)) /* the next one may go */
        return q->held = true;
    if (kv_seq_new(s->c.kv, q->job->req->cache_salt, &q->kv) < 0)
        return false;
    uint32_t ends[KV_WAYS];
    sched_ways(s, q->job->req->n_prompt, false, ends);
    kv_seq_set_ways(s->c.kv, q->kv, ends);
    kv_seq_trial(s->c.kv, q->kv, true); /* at every step that it does not fit */
    match(s, q);
    if (others_compute_it(s, q)) { /* the next one may go */
        kv_seq_free(s->c.kv, &q->kv);
        return q->held = true;
    }
    if (chunk_for(s, q) < 1 || !sched__make_way(s, q) || !sched__bring_back(s, q)) {
        kv_seq_free(s->c.kv, &q->kv);
        return false;
    }
    int n = chunk_for(s, q), slice = slice_for(s, q, n);
    if (n > 0 && kv_seq_reserve(s->c.kv, q->kv, (uint32_t)(slice ? slice : n)) < 0) {
        kv_seq_free(s->c.kv, &q->kv);
        return false;
    }
    kv_seq_trial(s->c.kv, q->kv, false);
    queue_remove(&s->waiting, q, s->now);
    fair_chosen(s->fair, q->job->key);
    sched__run_insert(s, q);
    if (!q->admitted_before) {
        q->admitted_before = true;
        q->admitted_ns = s->now;
        q->cached = computed(q);
        engine_metrics_admitted(s->c.metrics, q->job->req->n_prompt, q->cached);
        fair_charge(s->fair, q->job->key, to_go(q));
    }
    if (n > 0)
        take_chunk(s, q, n, slice);
    return true;
}

/* --- a step ------------------------------------------------------------------------------------ */

static int compute(struct sched *s)
{
    int row = 0, n = 0;
    for (int kind = 1; kind >= 0; kind--) /* rounded ones come first */
        for (int i = 0; i < s->n_plan; i++) {
            struct planned *p = &s->plan[i];
            int position = computed(p->q);
            if ((position < rounded(s, p->q)) != kind)
                continue;
            p->first_row = row;
            row += p->n_logits;
            s->batch[n++] = (struct forward_seq){kv_seq_pages(p->q->kv, NULL), position, p->n_tokens,
                                                 p->q->tokens + position, p->n_logits,
                                                 position < decompressed(s, p->q), kind};
        }
    struct forward_batch batch = {s->n_plan, s->batch, s->logits};
    return s->c.forward(s->c.model, &batch);
}

/* Who became overdue goes further up. */
static void sort_running(struct sched *s)
{
    int n = s->n_running;
    s->n_running = 0;
    for (int i = 0; i < n; i++) {
        s->running[i]->eats_step = false;
        sched__run_insert(s, s->running[i]);
    }
}

/* Computes what is planned; counts its time. */
static int64_t run_plan(struct sched *s)
{
    struct engine_metrics *em = s->c.metrics;
    int64_t began = s->c.now();
    engine_metrics_step(em, s->n_plan, s->plan_tokens);
    int r = compute(s);
    int64_t took = s->c.now() - began;
    kv_disk_computed(s->c.kv, (uint32_t)s->plan_tokens, took);
    double mean = s->plan_prompt ? s->plan_positions / s->plan_prompt : 0;
    if (s->plan_decodes)
        metric_add(em->stall, budget_added(&s->budget, s->plan_prompt, mean, took) / 1e9);
    else if (s->without)
        metric_add(em->stall, (double)took / 1e9);
    budget_observe(&s->budget, s->plan_decodes, s->plan_prompt, mean, took);
    if (r == 0)
        sched__finish(s);
    else
        for (int i = 0; i < s->n_plan; i++)
            sched__fail_seq(s, s->plan[i].q, r);
    return took;
}

int sched_step(struct sched *s)
{
    struct engine_metrics *em = s->c.metrics;
    s->now = s->c.now();
    expire(s);
    queue_age(&s->waiting, s->now, s->c.max_priority_wait_ns);
    sort_running(s);
    s->had_prompts = s->plan_prompt > 0 || s->slice.q;
    s->n_plan = s->plan_tokens = s->plan_rows = s->plan_decodes = s->plan_prompt = 0;
    s->plan_positions = 0;
    if (s->slice.q)
        s->slice.q->eats_step = true;
    s->plan_short = false;
    plan_streams(s);
    plan_prefill(s);
    while (admit_one(s))
        ;
    if (s->without && s->n_plan == 0) { /* no prompt could go: for want of pages, or others compute it */
        s->without = false;
        plan_running(s);
    }
    if (s->burst && !s->plan_short) /* there are no pages for what is left of it */
        s->burst_end = 0;
    s->undecoded = s->without ? s->undecoded + s->plan_tokens : 0;
    struct queue_state waiting = queue_look(&s->waiting, s->now);
    s->stuck = (s->burst || s->stuck) && !s->plan_short && waiting.n > 0;
    s->waits_since_ns = waiting.n ? s->now - waiting.longest_ns : 0;
    engine_metrics_counts(em, s->n_running, &waiting, s->parked_bytes);
    if (s->n_plan == 0 && !s->slice.q) {
        engine_metrics_cache(em, s->c.kv);
        return 0;
    }
    /* Pages given back while planning may be written by this step; from here on none may move. */
    kv_step_begin(s->c.kv);
    if (s->c.profile)
        *s->c.profile = (struct profile){0};
    int64_t took = s->n_plan ? run_plan(s) : 0;
    if (s->slice.q) {
        int64_t added = sched__run_slice(s);
        if (s->plan_decodes)
            metric_add(em->stall, (double)added / 1e9);
        took += added;
    }
    if (s->c.profile)
        engine_metrics_parts(em, s->c.profile, took);
    if (s->plan_decodes)
        metric_observe(em->step_time, (double)took / 1e9);
    kv_step_end(s->c.kv);
    engine_metrics_cache(em, s->c.kv);
    return 1;
}
