/* engine/sched.c - continuous batching; see sched.h.
 *
 * `running` is in the order of queue.h at every step. A preempted sequence goes back to its place in the
 * queue, not to the end. */
#include "config.h"

#include "engine/sched.h"

#include <stdlib.h>
#include <string.h>

#include "engine/budget.h"
#include "engine/job.h"
#include "engine/profile.h"
#include "engine/queue.h"
#include "engine/scheme.h"

#define FIRST_USED 0.5      /* of max_tokens, before anything was seen */
#define FIRST_COPY_NS 0.5   /* a byte, before anything was copied */

struct planned {
    struct seq *q;
    int n_tokens, n_logits;
    int first_row; /* of its logits */
    bool decodes;
};

struct sched {
    struct sched_config c;
    struct job_env env;
    struct job *jobs;          /* all, unordered */
    struct queue waiting;
    struct fair *fair;
    struct seq **running;      /* [max_num_seqs], first in order first */
    int n_running;
    int64_t now;               /* of the step */
    struct budget budget;
    double prompt_ns;          /* time that prompts may still take in the step being built */
    int plan_decodes, plan_prompt; /* rows that decode, prompt tokens in it */
    double plan_positions;     /* of those tokens, summed */
    double used;               /* part of max_tokens that choices use, smoothed */
    double copy_ns;            /* a byte, smoothed */
    uint64_t parked_bytes;
    uint64_t next_order;
    float *logits;             /* [max_logit_rows][vocab_size] */
    struct planned *plan;      /* [max_num_seqs] */
    struct forward_seq *batch;
    int n_plan, plan_tokens, plan_rows;
    int32_t *picked;           /* [max_num_seqs] */
    int *pick_error;
    float *lse;                /* log-sum-exp of the row, where log-probabilities are wanted */
    int *who;                  /* planned entries that sample */
    struct sampler_scratch **scratch; /* one per pool thread */
    int64_t mean_service_ns;
};

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
        s->fair = fair_new(cfg->max_fair_keys);
        s->running = calloc(n, sizeof(*s->running));
        s->plan = calloc(n, sizeof(*s->plan));
        s->batch = calloc(n, sizeof(*s->batch));
        s->picked = calloc(n, sizeof(*s->picked));
        s->pick_error = calloc(n, sizeof(*s->pick_error));
        s->logits = malloc((size_t)cfg->max_logit_rows * vocab * sizeof(float));
        s->lse = calloc(n, sizeof(*s->lse));
        s->who = calloc(n, sizeof(*s->who));
        s->scratch = calloc((size_t)n_threads, sizeof(*s->scratch));
        ok = s->running && s->plan && s->batch && s->picked && s->pick_error && s->logits && s->lse &&
             s->who && s->scratch && s->fair;
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
    fair_free(s->fair);
    free(s->running);
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

static void run_insert(struct sched *s, struct seq *q)
{
    int i = s->n_running++;
    for (; i > 0 && seq_before(q, s->running[i - 1]); i--)
        s->running[i] = s->running[i - 1];
    s->running[i] = q;
    q->state = SEQ_RUNNING;
}

static void run_remove(struct sched *s, struct seq *q)
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

/* Its parked rows are back, or not needed. */
static void unpark(struct sched *s, struct seq *q)
{
    kv_parked_free(&q->parked);
    s->parked_bytes -= q->parked_bytes;
    q->parked_bytes = 0;
}

/* After seq_end: takes it out of its list; frees the job with its last choice. */
static void leave(struct sched *s, struct seq *q, enum seq_state was)
{
    struct job *j = q->job;
    if (was == SEQ_RUNNING) {
        int64_t took = s->c.now() - q->admitted_ns;
        int max = j->req->max_tokens;
        s->mean_service_ns += (took - s->mean_service_ns) / 8;
        if (max > 0)
            s->used += ((double)q->n_output / max - s->used) / 16;
        run_remove(s, q);
    } else {
        queue_remove(&s->waiting, q, s->now);
        unpark(s, q);
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

static void end_seq(struct sched *s, struct seq *q, enum finish_reason why, const struct err *e)
{
    enum seq_state was = q->state;
    seq_end(q, &s->env, why, e);
    leave(s, q, was);
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
            end_seq(s, &j->seqs[i], why, e);
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
        j->paused = paused;
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
    *ret = (struct sched_counts){s->n_running, s->waiting.n, s->waiting.tokens};
}

int64_t sched_mean_service_ns(const struct sched *s)
{
    return s->mean_service_ns;
}

/* --- planning a step --------------------------------------------------------------------------- */

static int computed(const struct seq *q)
{
    return q->kv ? (int)kv_seq_length(q->kv) : 0;
}

static int to_go(const struct seq *q)
{
    return q->n_tokens - computed(q);
}

/* Positions of q from the beginning that are computed decompressed: a function of its prompt alone,
 * also when it
 * is computed again after preemption with what it had generated. */
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

static void take_from_plan(struct sched *s, int i)
{
    struct planned *p = &s->plan[i];
    s->plan_tokens -= p->n_tokens;
    s->plan_rows -= p->n_logits;
    if (p->decodes) {
        s->plan_decodes--;
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
            take_from_plan(s, i);
            break;
        }
    q->eats_step = false;
    bool parked = short_of_pages && park(s, q);
    kv_seq_free(s->c.kv, &q->kv);
    run_remove(s, q);
    queue_insert(&s->waiting, q, s->now);
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

/* Makes room for n more rows of q. False: q itself had to give way, or memory is out. */
static bool make_room(struct sched *s, struct seq *q, int n)
{
    for (;;) {
        int r = kv_seq_reserve(s->c.kv, q->kv, (uint32_t)n);
        if (r == 0)
            return true;
        if (r != ERR_NOSPACE)
            return false;
        struct seq *v = victim_for(s, q);
        if (v == q && s->n_running == 1)
            return false; /* cannot be: alone it fits, by sched_max_tokens */
        preempt(s, v, true);
        if (v == q)
            return false;
    }
}

static void add_to_plan(struct sched *s, struct seq *q, int n)
{
    int rows = n == to_go(q) && (q->n_output < q->job->req->max_tokens || q->pooled) ? 1 : 0;
    if (seq_wants_rows(q))
        rows = n;
    s->plan[s->n_plan++] = (struct planned){q, n, rows, 0, decodes(q)};
    s->plan_tokens += n;
    s->plan_rows += rows;
    q->eats_step = true;
    if (decodes(q)) {
        s->plan_decodes++;
        return;
    }
    s->plan_prompt += n;
    s->plan_positions += n * (computed(q) + n / 2.0);
    s->prompt_ns -= budget_cost(&s->budget, computed(q), n);
}

/* Prompt tokens of q for which there is time. */
static int time_for(const struct sched *s, const struct seq *q)
{
    int n = budget_tokens(&s->budget, s->prompt_ns, computed(q));
    return n < BUDGET_LEAST && s->plan_prompt == 0 && s->prompt_ns >= 0 ? BUDGET_LEAST : n;
}

/* Most rows of q that this step still takes. */
static int chunk_for(const struct sched *s, const struct seq *q)
{
    int n = to_go(q), room = s->c.max_num_batched_tokens - s->plan_tokens;
    int most = s->c.prefill_chunk, left = decompressed(s, q) - computed(q);
    if (left > 0) /* the more queries share a key, the better; and a chunk has one scheme */
        most = left;
    left = rounded(s, q) - computed(q);
    if (left > 0 && left < most) /* it has one kind of products, too */
        most = left;
    n = n < most ? n : most;
    n = n < room ? n : room;
    if (!decodes(q)) {
        int timely = time_for(s, q);
        n = n < timely ? n : timely;
    }
    int rows = s->c.max_logit_rows - s->plan_rows;
    /* Decoding sequences that are not planned yet have a row each to themselves. */
    if (seq_wants_rows(q))
        n = n < rows ? n : rows;
    else if (rows < 1)
        n = n < to_go(q) ? n : to_go(q) - 1;
    return n;
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
    for (int i = 0; i < s->n_plan; i++) {
        const struct seq *o = s->plan[i].q;
        size_t at = (size_t)computed(o), reach = at + (size_t)s->plan[i].n_tokens;
        if (o == q || o->job->req->cache_salt != q->job->req->cache_salt || at / p > block ||
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
        if (make_room(s, q, 1))
            add_to_plan(s, q, 1);
        i = -1; /* preemption moves places; planned ones are skipped quickly */
    }
}

/* Prompts that one chunk would finish: of those that run, and of those that wait and would find a place. */
static int short_prompts(const struct sched *s)
{
    int n = 0, seats = s->c.max_num_seqs - s->n_running;
    for (int i = 0; i < s->n_running; i++) {
        const struct seq *q = s->running[i];
        n += !q->eats_step && !q->job->paused && to_go(q) <= s->c.prefill_chunk;
    }
    for (const struct seq *q = s->waiting.head; q && seats > 0; q = q->next, seats--) {
        uint32_t ends[KV_WAYS] = {(uint32_t)decompressed(s, q)};
        int left = q->n_tokens;
        if (left > s->c.prefill_chunk && s->c.prefix_cache)
            left -= (int)kv_probe(s->c.kv, q->job->req->cache_salt, ends, q->tokens, (uint32_t)q->n_tokens);
        n += left <= s->c.prefill_chunk;
    }
    return n;
}

static void plan_prefill(struct sched *s)
{
    for (int i = 0; i < s->n_running; i++) {
        struct seq *q = s->running[i];
        if (q->eats_step || q->job->paused)
            continue;
        match(s, q);
        int n = chunk_for(s, q);
        if (n < 1 || others_compute_it(s, q))
            continue;
        bool fits = make_room(s, q, n);
        if (fits)
            add_to_plan(s, q, n);
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
    int n = 0;
    for (int i = 0; i < s->n_running; i++) {
        const struct seq *v = s->running[i];
        if (all_give_way && gives_way(v, q)) {
            pages += kv_seq_private_pages(s->c.kv, v->kv);
            continue;
        }
        need += v->job->paused ? 0 : growth(s, v);
        n++;
    }
    *ret_pages = n == 0 || need <= pages; /* alone it fits */
    return n < s->c.max_num_seqs && *ret_pages;
}

/* Makes place and pages for q: those that are paused, or of worse priority and not overdue, give way from the
 * last, if that is enough. */
static bool make_way(struct sched *s, struct seq *q)
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

/* The rows that q had when it gave its pages back. False: no pages for them now. */
static bool bring_back(struct sched *s, struct seq *q)
{
    if (!q->parked)
        return true;
    int r = kv_seq_unpark(s->c.kv, q->kv, q->parked, q->tokens);
    if (r < 0 && r != ERR_NOTFOUND)
        return false;
    unpark(s, q);
    return true;
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
    match(s, q);
    if (others_compute_it(s, q)) { /* the next one may go */
        kv_seq_free(s->c.kv, &q->kv);
        return q->held = true;
    }
    if (chunk_for(s, q) < 1 || !make_way(s, q) || !bring_back(s, q)) {
        kv_seq_free(s->c.kv, &q->kv);
        return false;
    }
    int n = chunk_for(s, q);
    if (n > 0 && kv_seq_reserve(s->c.kv, q->kv, (uint32_t)n) < 0) {
        kv_seq_free(s->c.kv, &q->kv);
        return false;
    }
    queue_remove(&s->waiting, q, s->now);
    fair_chosen(s->fair, q->job->key);
    run_insert(s, q);
    if (!q->admitted_before) {
        q->admitted_before = true;
        q->admitted_ns = s->now;
        q->cached = computed(q);
        engine_metrics_admitted(s->c.metrics, q->job->req->n_prompt, q->cached);
        fair_charge(s->fair, q->job->key, to_go(q));
    }
    if (n > 0)
        add_to_plan(s, q, n);
    return true;
}

/* --- after the forward call -------------------------------------------------------------------- */

/* The logits that the last of a planned entry's rows gave. */
static float *last_row(const struct sched *s, const struct planned *p)
{
    return s->logits + (size_t)(p->first_row + p->n_logits - 1) * (size_t)s->c.vocab_size;
}

static void pick_item(void *arg, int item, int thread)
{
    struct sched *s = arg;
    int i = s->who[item];
    const struct planned *p = &s->plan[i];
    const struct job *job = p->q->job;
    float *row = last_row(s, p), max;
    s->pick_error[i] = seq_pick(p->q, s->scratch[thread], row, &s->picked[i]);
    int32_t forced = seq_forced(p->q);
    if (forced >= 0)
        s->picked[i] = forced;
    if (job->req->logprobs >= 0)
        s->c.kern->max_logsumexp(row, s->c.vocab_size, &max, &s->lse[i]);
}

static void fail_seq(struct sched *s, struct seq *q, int code)
{
    struct err e = {0};
    err_set(&e, code,
            code == ERR_INTERNAL ? "the model gave logits that are not finite"
            : code == ERR_LIMIT  ? "no token is left that the grammar and the other fields allow"
                                 : "%s",
            err_name(code));
    end_seq(s, q, FINISH_ERROR, &e);
}

/* Takes the sampled token; the sequence may end with it. */
static void accept(struct sched *s, struct seq *q, int error, int32_t token, const float *raw, float lse)
{
    if (error < 0) {
        fail_seq(s, q, error);
        return;
    }
    fair_charge(s->fair, q->job->key, 1);
    seq_accept(q, &s->env, token, raw, lse);
    if (q->state == SEQ_ENDED) /* still in `running`: leave from there */
        leave(s, q, SEQ_RUNNING);
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
        run_insert(s, q);
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
    int before = computed(q), n_prompt = q->job->req->n_prompt;
    if (before < n_prompt) {
        int upto = before + p->n_tokens < n_prompt ? before + p->n_tokens : n_prompt;
        metric_add(s->c.metrics->prompt_computed, upto - before);
    }
    kv_seq_commit(s->c.kv, q->kv, q->tokens + before, (uint32_t)p->n_tokens);
    if (before < n_prompt)
        seq_progress(q, &s->env, before + p->n_tokens < n_prompt ? before + p->n_tokens : n_prompt);
    if (q->pooled && p->n_logits > 0)
        seq_pool(q, s->c.hidden(s->c.model) + (size_t)p->first_row * (size_t)s->c.hidden_size,
                 s->c.hidden_size, before, p->n_logits);
    else if (seq_wants_rows(q) && p->n_logits > 0)
        seq_prompt_logprobs(q, &s->env, s->logits + (size_t)p->first_row * (size_t)s->c.vocab_size,
                            before, p->n_logits);
}

static void finish_step(struct sched *s)
{
    int n_who = 0, n = s->n_plan;
    for (int i = 0; i < n; i++)
        commit(s, &s->plan[i]);
    for (int i = 0; i < n; i++) {
        struct seq *q = s->plan[i].q;
        if (q->state == SEQ_ENDED) /* by seq_prompt_logprobs */
            leave(s, q, SEQ_RUNNING);
        else if (to_go(q) == 0 && q->n_output >= q->job->req->max_tokens)
            end_seq(s, q, FINISH_LENGTH, NULL); /* only scored */
        else
            continue;
        s->plan[i].q = NULL;
    }
    for (int i = 0; i < n; i++)
        if (s->plan[i].q && samples(&s->plan[i]))
            s->who[n_who++] = i;
    pool_run(s->c.pool, n_who, pick_item, s);
    for (int k = 0; k < n_who; k++) {
        int i = s->who[k];
        struct seq *q = s->plan[i].q;
        float *row = last_row(s, &s->plan[i]);
        if (q->choice == 0 && q->n_output == 0 && q->job->n_seqs > 1)
            fork_choices(s, q, row, s->lse[i]); /* before the first may end and give its pages back */
        accept(s, q, s->pick_error[i], s->picked[i], q->job->req->logprobs >= 0 ? row : NULL, s->lse[i]);
    }
}

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
        run_insert(s, s->running[i]);
    }
}

int sched_step(struct sched *s)
{
    s->now = s->c.now();
    expire(s);
    queue_age(&s->waiting, s->now, s->c.max_priority_wait_ns);
    sort_running(s);
    s->n_plan = s->plan_tokens = s->plan_rows = s->plan_decodes = s->plan_prompt = 0;
    s->plan_positions = 0;
    plan_decode(s);
    s->prompt_ns = budget_time(&s->budget, s->plan_decodes, s->plan_decodes ? short_prompts(s) : 0);
    plan_prefill(s);
    while (admit_one(s))
        ;
    struct engine_metrics *em = s->c.metrics;
    struct queue_state waiting = queue_look(&s->waiting, s->now);
    engine_metrics_counts(em, s->n_running, &waiting, s->parked_bytes);
    if (s->n_plan == 0) {
        engine_metrics_cache(em, s->c.kv);
        return 0;
    }
    engine_metrics_step(em, s->n_plan, s->plan_tokens);
    /* Pages given back while planning may be written by this step; from here on none may move. */
    kv_step_begin(s->c.kv);
    int64_t began = s->c.now();
    if (s->c.profile)
        *s->c.profile = (struct profile){0};
    int r = compute(s);
    int64_t took = s->c.now() - began;
    if (s->c.profile)
        engine_metrics_parts(em, s->c.profile, took);
    kv_disk_computed(s->c.kv, (uint32_t)s->plan_tokens, took);
    double mean = s->plan_prompt ? s->plan_positions / s->plan_prompt : 0;
    if (s->plan_decodes)
        metric_add(em->stall, budget_added(&s->budget, s->plan_prompt, mean, took) / 1e9);
    budget_observe(&s->budget, s->plan_decodes, s->plan_prompt, mean, took);
    if (s->plan_decodes)
        metric_observe(em->step_time, (double)took / 1e9);
    if (r == 0)
        finish_step(s);
    else
        for (int i = 0; i < s->n_plan; i++)
            fail_seq(s, s->plan[i].q, r);
    kv_step_end(s->c.kv);
    engine_metrics_cache(em, s->c.kv);
    return 1;
}
