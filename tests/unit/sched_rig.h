/* tests/unit/sched_rig.h - the scheduler over a model that is none: a row holds a hash of its token and of
 * the row before, read from the cache as attention would, and the token that follows is drawn from the
 * last row. So a row that is wrong, missing or another sequence's changes what comes out, and what comes
 * out of a sequence alone is known without a scheduler. Time is counted, not taken. Runs are reproduced
 * by LATENT_TEST_SEED. */
#ifndef LATENT_TESTS_SCHED_RIG_H
#define LATENT_TESTS_SCHED_RIG_H

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "engine/sched.h"

#define VOCAB 64
#define POOL_PAGE 8 /* pools are told in so many tokens */
#define MAX_JOBS 400
#define MAX_LEN 160

static unsigned long long seed;
static int64_t clock_ns;
/* Tokens of a page, and of a row: that is rewritten by each of its tokens and tells of the latest. */
static struct shape {
    int page, row;
} shape = {8, 1};

static uint32_t most_rows = MAX_LEN; /* that the cache grants a sequence */
static int dull; /* all rows but one in so many are followed by a token that its own one foretells; 0: none */
static bool lively; /* but behind tokens of the upper half one of these comes that nothing foretells */

static inline int64_t now(void)
{
    return ++clock_ns;
}

#define REQUIRE(cond)                                                                  \
    do {                                                                               \
        if (!(cond))                                                                   \
            ck_abort_msg("%s, step %d, seed %llu", #cond, rig->n_steps, seed);         \
    } while (0)

struct want { /* what is known of a job */
    int n_prompt, max_tokens, n, priority;
    uint64_t id, key;
    int32_t prompt[MAX_LEN];
    int n_out[2], n_ends[2];
    int32_t out[2][MAX_LEN];
    enum finish_reason why[2];
    int code[2];
    int64_t submitted, first_ns[2], deadline, queue_deadline;
    bool cancelled, paused;
    struct thought_limit thought;
};

struct rig {
    struct sched_config c;
    struct sched *s;
    struct kv *kv;
    struct events *events;
    struct pool *pool;
    struct engine_metrics metrics;
    struct metrics *registry;
    _Atomic int stopping;
    uint64_t rng;
    int n_steps, n_jobs;
    struct want *jobs; /* [MAX_JOBS] */
    int64_t step_cost, decode_cost, prompt_cost; /* of a step, a row, a token */
    int64_t last_took;
    int last_decodes, last_prompts; /* rows of the last step */
    int n_computed;                 /* rows of all */
    int n_drafted;                  /* of these those of drafts: no prompt has logits of two rows */
    const struct forward_batch *slices; /* begun */
    int parts_left, n_sliced;      /* of it; calls of go_on */
    int light;                      /* the first parts take a tenth of what the others do */
    int heavy;                      /* the second takes so many times what the others do, and can stop */
    int64_t heavy_done;             /* of its time */
    uint64_t kept;                  /* the row before the slices, where they begin inside a row */
    bool broken;                    /* logits are not finite */
};

static inline uint32_t below(struct rig *rig, uint32_t n)
{
    rig->rng ^= rig->rng << 13;
    rig->rng ^= rig->rng >> 7;
    rig->rng ^= rig->rng << 17;
    return (uint32_t)((rig->rng * 0x2545f4914f6cdd1dull) >> 32) % n;
}

static inline uint64_t mix(uint64_t before, int32_t token)
{
    uint64_t h = (before ^ (uint64_t)(uint32_t)token) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 29;
}

static inline int32_t follows(uint64_t row)
{
    return (int32_t)(row * 0xbf58476d1ce4e5b9ull >> 40) % VOCAB;
}

/* What follows the row of a token. */
static inline int32_t next_token(uint64_t row, int32_t token)
{
    if (lively && token >= VOCAB / 2)
        return VOCAB / 2 + follows(row) % (VOCAB / 2);
    return dull && row % (uint64_t)dull ? (token + 1) % 5 : follows(row);
}

static inline uint64_t *row_at(const struct forward_seq *q, int at)
{
    return (uint64_t *)(void *)(q->pages[at / shape.page] +
                                (size_t)(at % shape.page / shape.row) * sizeof(uint64_t));
}

static inline int forward(void *model, const struct forward_batch *b)
{
    struct rig *rig = model;
    float *logits = b->logits;
    int64_t took = rig->step_cost;
    int rows = 0;
    for (int i = 0; i < b->n_seqs; i++) {
        const struct forward_seq *q = &b->seqs[i];
        for (int k = 0; k < q->n_tokens; k++) {
            int at = q->position + k;
            uint64_t row = mix(at ? *row_at(q, at - 1) : 0, q->tokens[k]);
            *row_at(q, at) = row;
            if (k < q->n_tokens - q->n_logits)
                continue;
            for (int t = 0; t < VOCAB; t++)
                logits[t] = rig->broken ? NAN : t == next_token(row, q->tokens[k]);
            logits += VOCAB;
        }
        bool decodes = q->n_tokens == 1 || q->n_logits == q->n_tokens; /* with a draft */
        rows += q->n_tokens;
        rig->n_computed += q->n_tokens;
        rig->n_drafted += q->n_logits > 1 ? q->n_logits - 1 : 0;
        if (decodes)
            rig->last_decodes++;
        else
            rig->last_prompts += q->n_tokens;
        took += q->n_tokens * (decodes ? rig->decode_cost : rig->prompt_cost);
    }
    REQUIRE(rows <= rig->c.max_num_batched_tokens);
    REQUIRE(b->n_seqs <= rig->c.max_num_seqs);
    clock_ns += took;
    rig->last_took += took;
    return 0;
}

#define POISON 0x0123456789abcdefull

/* The rows of the chunk, and of its rows only: nobody else writes there while it is under way. */
static inline void each_row(struct rig *rig, bool check)
{
    const struct forward_seq *q = rig->slices->seqs;
    for (int k = 0; k < q->n_tokens; k++) {
        uint64_t *row = row_at(q, q->position + k);
        REQUIRE(!check || *row == POISON);
        *row = POISON;
    }
}

static inline int begin_slices(void *model, const struct forward_batch *b)
{
    struct rig *rig = model;
    REQUIRE(b->n_seqs == 1 && b->seqs[0].n_tokens > 1);
    rig->slices = b;
    rig->parts_left = rig->c.n_parts;
    rig->heavy_done = 0;
    rig->kept = b->seqs[0].position ? *row_at(b->seqs, b->seqs[0].position - 1) : 0;
    each_row(rig, false);
    return 0;
}

static inline bool stops(void *model, int part)
{
    const struct rig *rig = model;
    return rig->heavy > 0 && part == 1;
}

/* A part takes its share of the time; rows come with the last one. */
static inline int go_on(void *model, int64_t until_ns)
{
    struct rig *rig = model;
    int prompts = rig->last_prompts, part = rig->c.n_parts - rig->parts_left;
    int64_t all = rig->step_cost + rig->slices->seqs[0].n_tokens * rig->prompt_cost;
    int64_t took = all / rig->c.n_parts / (part < rig->light ? 10 : 1);
    REQUIRE(rig->parts_left > 0);
    each_row(rig, true);
    rig->n_sliced++;
    if (stops(rig, part)) {
        int64_t whole = rig->heavy * took, left = whole - rig->heavy_done, time = until_ns - clock_ns;
        took = left < time ? left : time > 1 ? time : 1;
        rig->heavy_done = took < left ? rig->heavy_done + took : 0;
    }
    rig->parts_left -= rig->heavy_done == 0;
    if (rig->parts_left == 0) {
        int64_t at = clock_ns, before = rig->last_took;
        if (rig->slices->seqs[0].position % shape.row) /* its row was poisoned as well */
            *row_at(rig->slices->seqs, rig->slices->seqs[0].position - 1) = rig->kept;
        REQUIRE(forward(rig, rig->slices) == 0);
        clock_ns = at;
        rig->last_took = before;
    }
    clock_ns += took;
    rig->last_took += took;
    rig->last_prompts = prompts + 1;
    return rig->parts_left;
}

static inline void begin(struct rig *rig, int n_pages, int seqs, uint64_t park_bytes)
{
    const struct kv_plane plane = {sizeof(uint64_t), (uint32_t)shape.row, 64};
    uint64_t page_bytes = ((uint64_t)(shape.page / shape.row) * sizeof(uint64_t) + 63) / 64 * 64;
    struct err e = {0};
    n_pages = (n_pages * POOL_PAGE + shape.page - 1) / shape.page;
    *rig = (struct rig){.rng = seed, .step_cost = 1000, .decode_cost = 100000, .prompt_cost = 20000};
    rig->jobs = calloc(MAX_JOBS, sizeof(*rig->jobs));
    clock_ns = 1;
    struct kv_config kc = {.page_tokens = (uint32_t)shape.page, .n_planes = 1, .planes = &plane,
                           .pool_bytes = (uint64_t)n_pages * page_bytes,
                           .max_seqs = (uint32_t)seqs + 1, .max_seq_tokens = most_rows};
    ck_assert_int_eq(kv_open(&kc, &rig->kv, &e), 0);
    ck_assert_int_eq(pool_new(1, 0, &rig->pool, &e), 0);
    ck_assert_int_eq(events_new(16384, NULL, NULL, &rig->events), 0);
    rig->registry = metrics_new();
    engine_metrics_register(&rig->metrics, rig->registry, "x", MAX_LEN);
    rig->c = (struct sched_config){
        .vocab_size = VOCAB, .max_model_len = MAX_LEN, .max_num_seqs = seqs, .max_num_batched_tokens = 64,
        .prefill_chunk = 32, .max_logit_rows = 32, .prefix_cache = true, .max_fair_keys = 4,
        .max_priority_wait_ns = 50 * NS_PER_MS, .park_bytes = park_bytes, .now = now, .forward = forward,
        .begin = begin_slices, .go_on = go_on, .stops = stops, .n_parts = 6,
        .model = rig, .kv = rig->kv, .pool = rig->pool, .kern = kern_table(CPU_GENERIC),
        .events = rig->events, .metrics = &rig->metrics, .stopping = &rig->stopping};
    ck_assert_int_eq(sched_new(&rig->c, &rig->s, &e), 0);
}

static inline void finish(struct rig *rig)
{
    struct kv_stats st;
    REQUIRE(sched_idle(rig->s));
    kv_check(rig->kv);
    kv_stats_read(rig->kv, &st);
    REQUIRE(st.pages_held == 0);
    REQUIRE(metric_value(rig->metrics.parked_bytes) == 0);
    sched_free(&rig->s);
    kv_close(&rig->kv);
    events_free(&rig->events);
    pool_free(&rig->pool);
    metrics_free(&rig->registry);
    free(rig->jobs);
}

struct ask {
    int n_prompt, max_tokens, n, priority;
    uint64_t key, salt;
    int64_t timeout_ns, max_queue_ns;
    int family; /* prompts of a family begin alike; negative: of its own */
    int budget; /* of a thought; 0: none */
    bool begun;
    int32_t think, unthink;
    const int32_t *prediction; /* stays where it is */
    int n_prediction;
};

static struct want *submit(struct rig *rig, const struct ask *ask)
{
    struct want *w = &rig->jobs[rig->n_jobs];
    struct arena *a = arena_new(1 << 16);
    struct gen_request *g = arena_alloc(a, sizeof(*g));
    int32_t *ids = arena_array(a, (size_t)ask->n_prompt, sizeof(*ids));
    struct job *j;
    struct err e = {0};
    for (int i = 0; i < ask->n_prompt; i++) {
        bool shared = ask->family >= 0 && i < 40;
        ids[i] = shared ? (i * 7 + ask->family) % VOCAB : (int32_t)below(rig, VOCAB);
    }
    *g = (struct gen_request){
        .arena = a, .prompt = ids, .n_prompt = ask->n_prompt, .max_tokens = ask->max_tokens, .n = ask->n,
        .logprobs = -1, .prompt_logprobs = -1, .ignore_eos = true, .priority = ask->priority,
        .thought = {ask->budget, ask->begun, ask->think, ask->unthink},
        .prediction = ask->prediction, .n_prediction = ask->n_prediction,
        .fair_key = ask->key, .cache_salt = ask->salt,
        .timeout_ns = ask->timeout_ns, .max_queue_ns = ask->max_queue_ns, .user = w,
        .sampling = {.top_p = 1, .repetition_penalty = 1}};
    *w = (struct want){.n_prompt = ask->n_prompt, .max_tokens = ask->max_tokens, .n = ask->n, .key = ask->key,
                       .priority = ask->priority, .id = (uint64_t)++rig->n_jobs, .submitted = clock_ns,
                       .deadline = ask->timeout_ns ? clock_ns + ask->timeout_ns : INT64_MAX,
                       .queue_deadline = ask->max_queue_ns ? clock_ns + ask->max_queue_ns : INT64_MAX};
    w->thought = g->thought;
    memcpy(w->prompt, ids, (size_t)ask->n_prompt * sizeof(*ids));
    ck_assert_int_eq(job_new(rig->s, g, w->id, &j, &e), 0);
    sched_add(rig->s, j);
    return w;
}

static inline void take_events(struct rig *rig)
{
    struct gen_event *ev;
    while ((ev = events_next(rig->events))) {
        struct want *w = ev->user;
        int c = ev->choice;
        REQUIRE(w->n_ends[c] == 0);
        if (ev->type == GEN_TOKENS) {
            REQUIRE(ev->n_tokens == 1);
            if (w->n_out[c] == 0)
                w->first_ns[c] = clock_ns;
            w->out[c][w->n_out[c]++] = ev->tokens[0].id;
        } else {
            w->n_ends[c]++;
            w->why[c] = ev->finish_reason;
            w->code[c] = ev->type == GEN_FAILED ? ev->error.code : 0;
        }
        events_put(rig->events, ev);
    }
}

/* Nothing is held up for ever: a step that finds nothing to do means that all are paused or none is there. */
static inline int step(struct rig *rig)
{
    rig->last_decodes = rig->last_prompts = 0;
    rig->last_took = 0;
    int worked = sched_step(rig->s);
    rig->n_steps++;
    if (!worked)
        clock_ns += NS_PER_MS;
    take_events(rig);
    return worked;
}

/* Every token is what the sequence alone would have given. */
static inline void check_outputs(struct rig *rig, const struct want *w)
{
    uint64_t row = 0;
    for (int i = 0; i < w->n_prompt; i++)
        row = mix(row, w->prompt[i]);
    for (int c = 0; c < w->n; c++) {
        uint64_t at = row;
        int32_t before = w->prompt[w->n_prompt - 1];
        const struct thought_limit *t = &w->thought;
        bool thinks = t->budget > 0;
        for (int i = 0; i < w->n_out[c]; i++) {
            int32_t token = w->out[c][i];
            REQUIRE(token == (thinks && i >= t->budget ? t->end : next_token(at, before)));
            thinks = thinks && token != t->end && (i > 0 || t->begun || token == t->begin);
            at = mix(at, token);
            before = token;
        }
    }
}

static inline void check_end(struct rig *rig, const struct want *w)
{
    check_outputs(rig, w);
    for (int c = 0; c < w->n; c++) {
        REQUIRE(w->n_ends[c] == 1);
        if (w->why[c] == FINISH_LENGTH)
            REQUIRE(w->n_out[c] == w->max_tokens);
        else if (w->why[c] == FINISH_ABORT)
            REQUIRE(w->cancelled);
        else /* for want of time, never for want of pages */
            REQUIRE(w->code[c] == ERR_TIMEOUT && clock_ns >= (w->deadline < w->queue_deadline
                                                                  ? w->deadline : w->queue_deadline));
    }
}

static const struct shape shapes[] = {{8, 1}, {12, 3}, {15, 5}, {9, 1}, {24, 24}};
#define N_SHAPES ((int)(sizeof(shapes) / sizeof(*shapes)))

static inline int run_suite(const char *name, void (*add)(TCase *t))
{
    const char *given = getenv("LATENT_TEST_SEED");
    seed = given ? strtoull(given, NULL, 10) : (unsigned long long)time(NULL);
    printf("# seed %llu\n", seed);
    fflush(stdout);
    Suite *s = suite_create(name);
    TCase *t = tcase_create(name);
    tcase_set_timeout(t, 120);
    add(t);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

#endif
