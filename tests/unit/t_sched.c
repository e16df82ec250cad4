/* tests/unit/t_sched.c - the scheduler over a model that is none: a row holds a hash of its token and of
 * the row before, read from the cache as attention would, and the token that follows is drawn from the
 * last row. So a row that is wrong, missing or another sequence's changes what comes out, and what comes
 * out of a sequence alone is known without a scheduler. Time is counted, not taken. Runs are reproduced
 * by LATENT_TEST_SEED. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <math.h>
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

static int64_t now(void)
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
    const struct forward_batch *slices; /* begun */
    int parts_left, n_sliced;      /* of it; calls of go_on */
    int light;                      /* the first parts take a tenth of what the others do */
    int heavy;                      /* the second takes so many times what the others do, and can stop */
    int64_t heavy_done;             /* of its time */
    uint64_t kept;                  /* the row before the slices, where they begin inside a row */
    bool broken;                    /* logits are not finite */
};

static uint32_t below(struct rig *rig, uint32_t n)
{
    rig->rng ^= rig->rng << 13;
    rig->rng ^= rig->rng >> 7;
    rig->rng ^= rig->rng << 17;
    return (uint32_t)((rig->rng * 0x2545f4914f6cdd1dull) >> 32) % n;
}

static uint64_t mix(uint64_t before, int32_t token)
{
    uint64_t h = (before ^ (uint64_t)(uint32_t)token) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 29;
}

static int32_t follows(uint64_t row)
{
    return (int32_t)(row * 0xbf58476d1ce4e5b9ull >> 40) % VOCAB;
}

static uint64_t *row_at(const struct forward_seq *q, int at)
{
    return (uint64_t *)(void *)(q->pages[at / shape.page] +
                                (size_t)(at % shape.page / shape.row) * sizeof(uint64_t));
}

static int forward(void *model, const struct forward_batch *b)
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
                logits[t] = rig->broken ? NAN : t == follows(row);
            logits += VOCAB;
        }
        rows += q->n_tokens;
        rig->n_computed += q->n_tokens;
        if (q->n_tokens == 1)
            rig->last_decodes++;
        else
            rig->last_prompts += q->n_tokens;
        took += q->n_tokens == 1 ? rig->decode_cost : q->n_tokens * rig->prompt_cost;
    }
    REQUIRE(rows <= rig->c.max_num_batched_tokens);
    REQUIRE(b->n_seqs <= rig->c.max_num_seqs);
    clock_ns += took;
    rig->last_took += took;
    return 0;
}

#define POISON 0x0123456789abcdefull

/* The rows of the chunk, and of its rows only: nobody else writes there while it is under way. */
static void each_row(struct rig *rig, bool check)
{
    const struct forward_seq *q = rig->slices->seqs;
    for (int k = 0; k < q->n_tokens; k++) {
        uint64_t *row = row_at(q, q->position + k);
        REQUIRE(!check || *row == POISON);
        *row = POISON;
    }
}

static int begin_slices(void *model, const struct forward_batch *b)
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

static bool stops(void *model, int part)
{
    const struct rig *rig = model;
    return rig->heavy > 0 && part == 1;
}

/* A part takes its share of the time; rows come with the last one. */
static int go_on(void *model, int64_t until_ns)
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

static void begin(struct rig *rig, int n_pages, int seqs, uint64_t park_bytes)
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

static void finish(struct rig *rig)
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

static void take_events(struct rig *rig)
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
static int step(struct rig *rig)
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
static void check_outputs(struct rig *rig, const struct want *w)
{
    uint64_t row = 0;
    for (int i = 0; i < w->n_prompt; i++)
        row = mix(row, w->prompt[i]);
    for (int c = 0; c < w->n; c++) {
        uint64_t at = row;
        const struct thought_limit *t = &w->thought;
        bool thinks = t->budget > 0;
        for (int i = 0; i < w->n_out[c]; i++) {
            int32_t token = w->out[c][i];
            REQUIRE(token == (thinks && i >= t->budget ? t->end : follows(at)));
            thinks = thinks && token != t->end && (i > 0 || t->begun || token == t->begin);
            at = mix(at, token);
        }
    }
}

static void check_end(struct rig *rig, const struct want *w)
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

static void random_ask(struct rig *rig, struct ask *a)
{
    *a = (struct ask){.n_prompt = 1 + (int)below(rig, 90), .max_tokens = 1 + (int)below(rig, 60), .n = 1,
                      .key = below(rig, 9), .family = (int)below(rig, 6) - 3};
    if (below(rig, 3) == 0)
        a->priority = (int)below(rig, 5) - 2;
    if (below(rig, 8) == 0)
        a->n = 2;
    if (below(rig, 3) == 0) {
        a->budget = 1 + (int)below(rig, 30);
        a->begun = below(rig, 3) > 0;
        a->think = (int32_t)below(rig, VOCAB);
        a->unthink = (int32_t)below(rig, VOCAB);
    }
    if (below(rig, 12) == 0)
        a->timeout_ns = (1 + below(rig, 80)) * NS_PER_MS;
    if (below(rig, 12) == 0)
        a->max_queue_ns = (1 + below(rig, 40)) * NS_PER_MS;
}

static const struct shape shapes[] = {{8, 1}, {12, 3}, {15, 5}, {9, 1}, {24, 24}};
#define N_SHAPES ((int)(sizeof(shapes) / sizeof(*shapes)))

/* Pool, places and parking vary; jobs come, are cancelled, paused, and run out of time. */
START_TEST(test_random)
{
    struct rig rig_, *rig = &rig_;
    static const int pools[] = {20, 24, 40, 200}, places[] = {2, 5, 12};
    int n_sliced = 0;
    shape = shapes[_i];
    for (int round = 0; round < 12; round++) {
        struct err e = {0};
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        begin(rig, pools[round % 4], places[round % 3], round % 2 ? 1 << 20 : 0);
        rig->c.n_parts = 1 + (int)below(rig, 8);
        sched_free(&rig->s);
        ck_assert_int_eq(sched_new(&rig->c, &rig->s, &e), 0);
        for (int idle = 0; rig->n_jobs < MAX_JOBS || !sched_idle(rig->s);) {
            struct ask a;
            while (rig->n_jobs < MAX_JOBS && below(rig, 5) == 0) {
                random_ask(rig, &a);
                submit(rig, &a);
            }
            struct want *w = rig->n_jobs ? &rig->jobs[below(rig, (uint32_t)rig->n_jobs)] : NULL;
            if (w && below(rig, 60) == 0) {
                w->cancelled = true;
                sched_cancel(rig->s, w->id);
            } else if (w && below(rig, 20) == 0) {
                w->paused = !w->paused;
                sched_pause(rig->s, w->id, w->paused);
            }
            if (rig->n_jobs == MAX_JOBS) /* let all go on, so that there is an end */
                for (int i = 0; i < MAX_JOBS; i++)
                    sched_pause(rig->s, rig->jobs[i].id, rig->jobs[i].paused = false);
            idle = step(rig) ? 0 : idle + 1;
            REQUIRE(idle < 1000);
            for (int i = 0; i < rig->n_jobs; i++) /* out of time: ended by this step */
                REQUIRE(rig->jobs[i].n_ends[0] ||
                        clock_ns - rig->last_took - 3 * NS_PER_MS < rig->jobs[i].deadline);
            if (rig->n_steps % 64 == 0)
                kv_check(rig->kv);
        }
        for (int i = 0; i < rig->n_jobs; i++)
            check_end(rig, &rig->jobs[i]);
        n_sliced += rig->n_sliced;
        finish(rig);
    }
    ck_assert_int_gt(n_sliced, 100); /* else nothing was seen of chunks in slices */
}
END_TEST

/* One place: who goes first is who waits with the lowest number, then who came first. */
START_TEST(test_priority_order)
{
    struct rig rig_, *rig = &rig_;
    static const int priorities[] = {0, 5, -3, 0, -3, 7, 0};
    static const int order[] = {2, 4, 0, 3, 6, 1, 5};
    begin(rig, 200, 1, 0);
    for (int i = 0; i < 7; i++)
        submit(rig, &(struct ask){.n_prompt = 8, .max_tokens = 4, .n = 1, .priority = priorities[i],
                                  .family = -1});
    while (!sched_idle(rig->s))
        step(rig);
    for (int i = 0; i < 6; i++)
        REQUIRE(rig->jobs[order[i]].first_ns[0] < rig->jobs[order[i + 1]].first_ns[0]);
    finish(rig);
}
END_TEST

/* A better one takes the place of a worse one that runs, and both give what they would alone. */
START_TEST(test_priority_takes_place)
{
    struct rig rig_, *rig = &rig_;
    begin(rig, 200, 1, 0);
    struct want *low = submit(rig, &(struct ask){.n_prompt = 20, .max_tokens = 60, .n = 1, .priority = 1,
                                                 .family = -1});
    for (int i = 0; i < 10; i++)
        step(rig);
    struct want *high = submit(rig, &(struct ask){.n_prompt = 20, .max_tokens = 10, .n = 1, .family = -1});
    while (!high->n_ends[0])
        step(rig);
    REQUIRE(!low->n_ends[0] && low->n_out[0] > 0);
    while (!sched_idle(rig->s))
        step(rig);
    check_end(rig, low);
    check_end(rig, high);
    REQUIRE(metric_value(rig->metrics.all_preemptions) == 1);
    finish(rig);
}
END_TEST

/* So it does where those of worse priority hold pages together: none of them alone could give them back. */
START_TEST(test_priority_takes_shared)
{
    struct rig rig_, *rig = &rig_;
    begin(rig, 40, 6, 0);
    struct want *low = submit(rig, &(struct ask){.n_prompt = 120, .max_tokens = 38, .n = 2, .priority = 1,
                                                 .family = -1});
    struct want *other = submit(rig, &(struct ask){.n_prompt = 20, .max_tokens = 100, .n = 1, .family = -1});
    while (low->n_out[1] < 3 || other->n_out[0] < 3)
        step(rig);
    struct want *high = submit(rig, &(struct ask){.n_prompt = 150, .max_tokens = 5, .n = 1, .family = -1});
    while (!high->n_ends[0])
        step(rig);
    REQUIRE(!low->n_ends[0] && !low->n_ends[1] && !other->n_ends[0]);
    while (!sched_idle(rig->s))
        step(rig);
    for (int i = 0; i < rig->n_jobs; i++)
        check_end(rig, &rig->jobs[i]);
    finish(rig);
}
END_TEST

/* Better ones arrive for ever; the worst runs all the same, once it has waited max_priority_wait and those
 * that ran then have ended. */
START_TEST(test_no_starvation)
{
    struct rig rig_, *rig = &rig_;
    begin(rig, 40, 2, 0);
    struct ask better = {.n_prompt = 30, .max_tokens = 20, .n = 1, .priority = -9, .family = -1};
    submit(rig, &better);
    submit(rig, &better);
    step(rig);
    struct want *worst = submit(rig, &(struct ask){.n_prompt = 30, .max_tokens = 5, .n = 1, .priority = 9,
                                                   .family = -1});
    int64_t began = clock_ns;
    while (!worst->n_ends[0]) {
        struct sched_counts n;
        sched_counts_read(rig->s, &n);
        REQUIRE(rig->n_jobs < MAX_JOBS);
        for (int i = n.waiting; i < 3; i++)
            submit(rig, &better);
        step(rig);
    }
    REQUIRE(worst->first_ns[0] - began > rig->c.max_priority_wait_ns / 2);   /* priorities did count ... */
    REQUIRE(worst->first_ns[0] - began < rig->c.max_priority_wait_ns + 20 * NS_PER_MS); /* ... for so long */
    sched_cancel_all(rig->s);
    take_events(rig);
    finish(rig);
}
END_TEST

/* One key asks for a hundred at once, the other one by one: it does not wait for the hundred. */
START_TEST(test_keys_share)
{
    struct rig rig_, *rig = &rig_;
    begin(rig, 200, 2, 0);
    struct ask many = {.n_prompt = 24, .max_tokens = 8, .n = 1, .key = 1, .family = -1}, one = many;
    one.key = 2;
    for (int i = 0; i < 100; i++)
        submit(rig, &many);
    for (int k = 0; k < 10; k++) {
        struct want *w = submit(rig, &one);
        int ended = 0;
        for (int i = 0; i < 100; i++)
            ended += rig->jobs[i].n_ends[0];
        while (!w->n_ends[0])
            step(rig);
        for (int i = 0; i < 100; i++)
            ended -= rig->jobs[i].n_ends[0];
        REQUIRE(-ended <= 6); /* those that ran, and its own time in the other place */
    }
    while (!sched_idle(rig->s))
        step(rig);
    finish(rig);
}
END_TEST

/* Those that arrive together and begin alike wait for the one that computes the beginning, in whatever
 * chunks; another salt's compute their own. In the end all run beside each other. */
START_TEST(test_sharers)
{
    struct rig rig_, *rig = &rig_;
    for (int chunk = 5; chunk <= 64; chunk += 9) {
        struct err e = {0};
        begin(rig, 200, 16, 0);
        rig->c.prefill_chunk = chunk;
        sched_free(&rig->s);
        ck_assert_int_eq(sched_new(&rig->c, &rig->s, &e), 0);
        struct ask ask = {.n_prompt = 46, .max_tokens = 20, .n = 1, .family = 0};
        for (int i = 0; i < 16; i++) {
            ask.salt = i % 4 == 3 ? 77 : 0;
            submit(rig, &ask);
        }
        int most = 0;
        while (!sched_idle(rig->s)) {
            step(rig);
            most = rig->last_decodes > most ? rig->last_decodes : most;
        }
        /* forty rows twice, six of each (less where two tails begin with the same tokens by chance), and each
         * token fed back but the last one */
        REQUIRE(rig->n_computed <= 2 * 40 + 16 * 6 + 16 * 19);
        REQUIRE(rig->n_computed >= 2 * 40 + 16 + 16 * 19);
        REQUIRE(most == 16);
        for (int i = 0; i < rig->n_jobs; i++)
            check_end(rig, &rig->jobs[i]);
        finish(rig);
    }
}
END_TEST

/* Eight streams, far enough to do nothing but decode. */
static void decode_eight(struct rig *rig)
{
    for (int i = 0; i < 8; i++)
        submit(rig, &(struct ask){.n_prompt = 10, .max_tokens = 140, .n = 1, .family = -1});
    for (int i = 0; i < 12; i++)
        step(rig);
}

/* While streams run a step with prompts takes at most twice what it takes without, and prompts go on; also
 * where parts of layers differ, and where one takes longer than a step may but can stop. */
START_TEST(test_budget)
{
    struct rig rig_, *rig = &rig_;
    begin(rig, 400, 12, 0);
    decode_eight(rig);
    int64_t alone = rig->last_took, worst = 0;
    rig->light = _i % 4;
    rig->heavy = _i / 4 * 12;
    REQUIRE(rig->last_decodes == 8 && rig->last_prompts == 0);
    struct want *w = NULL;
    for (int i = 0; i < 60; i++) {
        if (i % 10 == 0)
            w = submit(rig, &(struct ask){.n_prompt = 150, .max_tokens = 1, .n = 1, .family = -1});
        step(rig);
        if (rig->last_decodes == 8)
            worst = rig->last_took > worst ? rig->last_took : worst;
    }
    REQUIRE(worst <= 2 * alone);
    REQUIRE(worst > alone + 8 * rig->prompt_cost); /* and no less than there is time for */
    while (!sched_idle(rig->s))
        step(rig);
    REQUIRE(w->why[0] == FINISH_LENGTH);
    REQUIRE(rig->n_sliced > 30);
    finish(rig);
}
END_TEST

/* Who is cancelled, or gives way, in the middle of a chunk in slices leaves nothing of it behind. */
START_TEST(test_slice_given_up)
{
    struct rig rig_, *rig = &rig_;
    struct kv_stats st;
    shape = shapes[_i];
    begin(rig, 400, 12, 0);
    decode_eight(rig);
    struct want *w = submit(rig, &(struct ask){.n_prompt = 150, .max_tokens = 1, .n = 1, .family = -1});
    int before = rig->n_sliced;
    while (rig->n_sliced < before + 4 || rig->parts_left == 0)
        step(rig);
    kv_stats_read(rig->kv, &st);
    uint64_t held = st.pages_held;
    w->cancelled = true;
    sched_cancel(rig->s, w->id);
    before = rig->n_sliced;
    step(rig);
    kv_stats_read(rig->kv, &st);
    REQUIRE(_i > 0 || st.pages_held < held); /* in other shapes those that decode take pages in this step */
    REQUIRE(rig->n_sliced == before);
    w = submit(rig, &(struct ask){.n_prompt = 150, .max_tokens = 9, .n = 1, .family = -1});
    while (!sched_idle(rig->s))
        step(rig);
    for (int i = 0; i < rig->n_jobs; i++)
        check_end(rig, &rig->jobs[i]);
    finish(rig);
}
END_TEST

/* Nor who is parked there, in a pool that streams outgrow: the row that slices have begun to write is not
 * kept. */
START_TEST(test_slice_parked)
{
    struct rig rig_, *rig = &rig_;
    int n_parked = 0;
    shape = shapes[_i];
    for (int pool = 60; pool < 130; pool += 2) {
        begin(rig, pool, 12, 1 << 20);
        for (int i = 0; i < 8; i++) /* so it looks as if little of max_tokens were used */
            submit(rig, &(struct ask){.n_prompt = 10, .max_tokens = 60, .n = 1, .family = -1});
        while (!sched_idle(rig->s)) {
            step(rig);
            for (int i = 0; i < 8; i++)
                if (rig->jobs[i].n_out[0] > 1 && (rig->jobs[i].cancelled = true))
                    sched_cancel(rig->s, rig->jobs[i].id);
        }
        decode_eight(rig);
        while (!sched_idle(rig->s)) {
            struct sched_counts n;
            sched_counts_read(rig->s, &n);
            if (n.waiting == 0 && rig->n_jobs < 40)
                submit(rig, &(struct ask){.n_prompt = 100, .max_tokens = 9, .n = 1, .family = -1});
            double before = metric_value(rig->metrics.preemptions[1]);
            bool inside = rig->parts_left > 0 && rig->slices->seqs[0].position % shape.row > 0;
            step(rig);
            n_parked += inside && metric_value(rig->metrics.preemptions[1]) > before;
        }
        for (int i = 0; i < rig->n_jobs; i++)
            check_end(rig, &rig->jobs[i]);
        finish(rig);
    }
    ck_assert(shape.row % 3 || n_parked > 0); /* chunks of other shapes happen to end with rows */
}
END_TEST

static int by_time(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Twelve that begin alike arrive together. Once the beginning is there their first tokens come one after the
 * other, the middle one's after half of what all take; those that have theirs go on meanwhile, with gaps of a
 * whole step at most. So it is too where rows of prompts are made differently from later ones, and where the
 * beginning is known already, or some streams run before. */
START_TEST(test_burst)
{
    enum { N = 12 };
    struct rig rig_, *rig = &rig_;
    for (int kind = 0; kind < 8; kind++) {
        struct err e = {0};
        bool known = kind & 1, rounded = kind & 2;
        int running = kind & 4 ? 3 : 0;
        begin(rig, 400, 32, 0);
        rig->c.rounded_prompts = rounded;
        sched_free(&rig->s);
        ck_assert_int_eq(sched_new(&rig->c, &rig->s, &e), 0);
        rig->decode_cost = 10000;
        rig->step_cost = 50000;
        for (int i = 0; i < 12; i++) { /* so that it knows what a step costs */
            submit(rig, &(struct ask){.n_prompt = 5 + 7 * i, .max_tokens = 9, .n = 1, .family = -1});
            while (!sched_idle(rig->s))
                step(rig);
        }
        struct ask ask = {.n_prompt = 46, .max_tokens = 60, .n = 1, .family = 0};
        if (known) {
            submit(rig, &ask);
            while (!sched_idle(rig->s))
                step(rig);
        }
        for (int i = 0; i < running; i++)
            submit(rig, &(struct ask){.n_prompt = 6, .max_tokens = 120, .n = 1, .family = -1});
        while (running && rig->last_decodes < running)
            step(rig);
        int first = rig->n_jobs, without = 0;
        int64_t begun = clock_ns, came[N];
        for (int i = 0; i < N; i++)
            submit(rig, &ask);
        while (rig->jobs[first + N - 1].n_out[0] == 0) {
            bool streams = running;
            for (int i = first; i < first + N; i++)
                streams = streams || rig->jobs[i].n_out[0] > 0;
            step(rig);
            without = streams && rig->last_decodes == 0 ? without + rig->last_prompts : 0;
            REQUIRE(without <= rig->c.max_num_batched_tokens);
        }
        for (int i = 0; i < N; i++)
            came[i] = rig->jobs[first + i].first_ns[0] - begun;
        qsort(came, N, sizeof(*came), by_time);
        int64_t prefix = known ? 0 : 40 * rig->prompt_cost + 2 * rig->step_cost, tail = 6 * rig->prompt_cost;
        if (known || !running) /* else the beginning must leave the streams their time */
            REQUIRE(came[0] <= prefix + 3 * tail);
        REQUIRE(came[N / 2 - 1] - came[0] <= N / 2 * tail * 3 / 2);
        REQUIRE(came[N - 1] - came[0] <= N * tail * 7 / 4);
        while (!sched_idle(rig->s))
            step(rig);
        for (int i = 0; i < rig->n_jobs; i++)
            check_end(rig, &rig->jobs[i]);
        finish(rig);
    }
}
END_TEST

/* Those that come later, one by one, do not make a burst last. */
START_TEST(test_burst_ends)
{
    struct rig rig_, *rig = &rig_;
    struct ask ask = {.n_prompt = 20, .max_tokens = 1, .n = 1, .family = -1};
    begin(rig, 400, 16, 0);
    decode_eight(rig);
    int64_t alone = rig->last_took, worst = 0;
    int first = rig->n_jobs, ended = 0;
    for (int i = 0; i < 5; i++)
        submit(rig, &ask);
    for (int i = 0; i < 60; i++) {
        if (rig->n_jobs - ended < first + 2)
            submit(rig, &ask);
        step(rig);
        ended = 0;
        for (int k = first; k < rig->n_jobs; k++)
            ended += rig->jobs[k].n_ends[0];
        if (ended < 5)
            REQUIRE(i < 5);
        else if (i >= 8)
            worst = rig->last_took > worst ? rig->last_took : worst;
    }
    REQUIRE(worst <= 2 * alone);
    REQUIRE(ended > 10);
    while (!sched_idle(rig->s))
        step(rig);
    finish(rig);
}
END_TEST

/* Streams that nobody reads from and that gave way are no short prompts that wait for a place: with four of them in
 * the queue those that run do not stall for longer than without. */
START_TEST(test_paused_no_burst)
{
    struct rig rig_, *rig = &rig_;
    begin(rig, 400, 12, 0);
    decode_eight(rig);
    for (int i = 0; i < 4; i++)
        sched_pause(rig->s, rig->jobs[i].id, true);
    for (int i = 0; i < 8; i++)
        submit(rig, &(struct ask){.n_prompt = 10, .max_tokens = 9, .n = 1, .family = -1});
    while (!rig->jobs[15].n_ends[0])
        step(rig);
    REQUIRE(metric_value(rig->metrics.all_preemptions) == 4);
    step(rig);
    REQUIRE(rig->last_decodes == 4 && rig->last_prompts == 0);
    int64_t alone = rig->last_took, worst = 0, gap = 0;
    for (int i = 0; i < 60; i++) {
        if (i % 10 == 0)
            submit(rig, &(struct ask){.n_prompt = 150, .max_tokens = 1, .n = 1, .family = -1});
        step(rig);
        gap += rig->last_took;
        if (rig->last_decodes < 4)
            continue;
        worst = gap > worst ? gap : worst;
        gap = 0;
    }
    REQUIRE(worst <= 2 * alone);
    for (int i = 0; i < 4; i++)
        sched_pause(rig->s, rig->jobs[i].id, false);
    while (!sched_idle(rig->s))
        step(rig);
    for (int i = 0; i < rig->n_jobs; i++)
        check_end(rig, &rig->jobs[i]);
    finish(rig);
}
END_TEST

/* Nor do short prompts that there are no pages for. */
START_TEST(test_no_pages_no_burst)
{
    struct rig rig_, *rig = &rig_;
    struct err e = {0};
    begin(rig, 60, 16, 0);
    rig->c.prefill_chunk = 16;
    sched_free(&rig->s);
    ck_assert_int_eq(sched_new(&rig->c, &rig->s, &e), 0);
    for (int i = 0; i < 4; i++)
        submit(rig, &(struct ask){.n_prompt = 10, .max_tokens = 140, .n = 1, .family = -1});
    for (int i = 0; i < 12; i++)
        step(rig);
    REQUIRE(rig->last_decodes == 4 && rig->last_prompts == 0);
    int64_t alone = rig->last_took, worst = 0, gap = 0;
    struct want *w = submit(rig, &(struct ask){.n_prompt = 150, .max_tokens = 1, .n = 1, .family = -1});
    for (int i = 0; i < 6; i++)
        submit(rig, &(struct ask){.n_prompt = 15, .max_tokens = 130, .n = 1, .family = -1});
    for (int i = 0; !w->n_ends[0]; i++) {
        step(rig);
        gap += rig->last_took;
        if (rig->last_decodes < 4)
            continue;
        worst = i > 2 && gap > worst ? gap : worst; /* that there are none shows in the first steps */
        gap = 0;
    }
    REQUIRE(worst <= 2 * alone);
    while (!sched_idle(rig->s))
        step(rig);
    for (int i = 0; i < rig->n_jobs; i++)
        check_end(rig, &rig->jobs[i]);
    finish(rig);
}
END_TEST

/* Rows that are dear to compute are parked, and come back; those that are cheap are not. */
START_TEST(test_park)
{
    struct rig rig_, *rig = &rig_;
    shape = shapes[_i];
    for (int kind = 0; kind < 3; kind++) {
        begin(rig, 20, 4, kind == 1 ? 0 : 1 << 20);
        if (kind == 2)
            rig->prompt_cost = rig->decode_cost = rig->step_cost = 0;
        for (int i = 0; i < 30; i++)
            submit(rig, &(struct ask){.n_prompt = 20, .max_tokens = 60, .n = 1, .family = -1});
        while (!sched_idle(rig->s)) {
            step(rig);
            for (int i = 0; i < 10; i++) /* so it looks as if little of max_tokens were used */
                if (rig->jobs[i].n_out[0] > 1 && (rig->jobs[i].cancelled = true))
                    sched_cancel(rig->s, rig->jobs[i].id);
        }
        for (int i = 0; i < rig->n_jobs; i++)
            check_end(rig, &rig->jobs[i]);
        REQUIRE(metric_value(rig->metrics.all_preemptions) > 0);
        REQUIRE((metric_value(rig->metrics.preemptions[1]) > 0) == (kind == 0));
        finish(rig);
    }
}
END_TEST

/* A choice that was parked before its first token, and then goes on from the prompt that another one of its
 * request computed, keeps nothing parked. */
START_TEST(test_fork_parked)
{
    struct rig rig_, *rig = &rig_;
    struct err e = {0};
    begin(rig, 26, 4, 1 << 20);
    rig->c.prefix_cache = false; /* so that choices compute their prompt side by side */
    rig->c.prefill_chunk = 20; /* no whole pages, or all were shared */
    sched_free(&rig->s);
    ck_assert_int_eq(sched_new(&rig->c, &rig->s, &e), 0);
    submit(rig, &(struct ask){.n_prompt = 90, .max_tokens = 4, .n = 2, .family = -1});
    step(rig);
    submit(rig, &(struct ask){.n_prompt = 40, .max_tokens = 60, .n = 1, .family = -1, .priority = -1});
    while (!sched_idle(rig->s))
        step(rig);
    REQUIRE(metric_value(rig->metrics.preemptions[1]) > 0);
    for (int i = 0; i < rig->n_jobs; i++)
        check_end(rig, &rig->jobs[i]);
    step(rig); /* counts */
    finish(rig);
}
END_TEST

/* What is found of a request's prompt counts once, however often it was looked at whether it can join. */
START_TEST(test_counted_once)
{
    struct rig rig_, *rig = &rig_;
    struct kv_stats st;
    const struct ask ask = {.n_prompt = 45, .max_tokens = 60, .n = 1, .family = 0};
    begin(rig, 100, 1, 0);
    for (int i = 0; i < 3; i++)
        submit(rig, &ask);
    while (!sched_idle(rig->s))
        step(rig);
    kv_stats_read(rig->kv, &st);
    ck_assert_uint_eq(st.queries_tokens, 3 * 44);
    ck_assert_uint_eq(st.hits_tokens, 2 * 40);
    for (int i = 0; i < rig->n_jobs; i++)
        check_end(rig, &rig->jobs[i]);
    finish(rig);
}
END_TEST

/* Who gave way because nobody reads from it waits for its reader, not for a place: that is no age of the queue,
 * and gives it no right of way when it is read from again. */
START_TEST(test_paused_waits)
{
    struct rig rig_, *rig = &rig_;
    struct sched_counts n;
    begin(rig, 100, 1, 0);
    struct want *slow = submit(rig, &(struct ask){.n_prompt = 20, .max_tokens = 60, .n = 1, .family = -1});
    while (slow->n_out[0] < 3)
        step(rig);
    sched_pause(rig->s, slow->id, true);
    struct want *next = submit(rig, &(struct ask){.n_prompt = 20, .max_tokens = 9, .n = 1, .family = -1});
    while (!next->n_ends[0])
        step(rig);
    for (int64_t end = clock_ns + 2 * rig->c.max_priority_wait_ns; clock_ns < end;) {
        step(rig);
        sched_counts_read(rig->s, &n);
        REQUIRE(n.waiting == 1 && metric_value(rig->metrics.queue_age) == 0);
        REQUIRE(clock_ns - n.waits_since_ns <= 2 * NS_PER_MS);
    }
    next = submit(rig, &(struct ask){.n_prompt = 20, .max_tokens = 60, .n = 1, .priority = -1, .family = -1});
    while (next->n_out[0] < 3)
        step(rig);
    sched_pause(rig->s, slow->id, false);
    struct want *better = submit(rig, &(struct ask){.n_prompt = 20, .max_tokens = 9, .n = 1, .priority = -1,
                                                    .family = -1});
    while (!better->n_ends[0]) {
        step(rig);
        REQUIRE(metric_value(rig->metrics.queue_age) * 1e9 <= rig->c.max_priority_wait_ns / 2);
        REQUIRE(slow->n_out[0] == 3);
    }
    while (!sched_idle(rig->s))
        step(rig);
    for (int i = 0; i < rig->n_jobs; i++)
        check_end(rig, &rig->jobs[i]);
    finish(rig);
}
END_TEST

/* A request's time is over while it waits, or while it runs; its pages are free at once. */
START_TEST(test_deadlines)
{
    struct rig rig_, *rig = &rig_;
    struct kv_stats st;
    begin(rig, 100, 2, 0);
    struct want *runs = submit(rig, &(struct ask){.n_prompt = 20, .max_tokens = 100, .n = 2, .family = -1,
                                                  .timeout_ns = 8 * NS_PER_MS});
    step(rig);
    step(rig);
    struct want *waits = submit(rig, &(struct ask){.n_prompt = 20, .max_tokens = 100, .n = 2, .family = -1,
                                                   .max_queue_ns = 4 * NS_PER_MS});
    while (!waits->n_ends[0])
        step(rig);
    REQUIRE(!runs->n_ends[0] && waits->n_ends[1] == 1 && waits->code[0] == ERR_TIMEOUT);
    REQUIRE(clock_ns < waits->queue_deadline + NS_PER_MS);
    while (!runs->n_ends[0])
        step(rig);
    REQUIRE(runs->code[0] == ERR_TIMEOUT && runs->n_out[0] > 0 && clock_ns < runs->deadline + 2 * NS_PER_MS);
    kv_stats_read(rig->kv, &st);
    REQUIRE(st.pages_held == 0);
    finish(rig);
}
END_TEST

/* Who cannot have a page for another reason than that others have them fails, and holds nobody up. */
START_TEST(test_no_memory)
{
    struct rig rig_, *rig = &rig_;
    most_rows = 60; /* in place of memory that is out */
    begin(rig, 100, 4, 0);
    struct want *decodes = submit(rig, &(struct ask){.n_prompt = 20, .max_tokens = 100, .n = 1, .family = -1});
    struct want *computes = submit(rig, &(struct ask){.n_prompt = 70, .max_tokens = 5, .n = 1, .family = -1});
    struct want *fits = submit(rig, &(struct ask){.n_prompt = 10, .max_tokens = 50, .n = 1, .family = -1});
    while (!sched_idle(rig->s)) {
        step(rig);
        REQUIRE(rig->n_steps < 200);
    }
    REQUIRE(decodes->code[0] == ERR_LIMIT && decodes->n_out[0] == 41);
    REQUIRE(computes->code[0] == ERR_LIMIT && computes->n_out[0] == 0);
    REQUIRE(fits->code[0] == 0 && fits->n_out[0] == 50);
    most_rows = MAX_LEN;
    finish(rig);
}
END_TEST

/* A model that gives no numbers ends what runs, counted, and nothing else. */
START_TEST(test_corrupted)
{
    struct rig rig_, *rig = &rig_;
    struct kv_stats st;
    begin(rig, 100, 2, 0);
    struct want *w = submit(rig, &(struct ask){.n_prompt = 20, .max_tokens = 100, .n = 1, .family = -1});
    step(rig);
    step(rig);
    REQUIRE(metric_value(rig->metrics.corrupted) == 0 && w->n_out[0] > 0);
    rig->broken = true;
    while (!w->n_ends[0])
        step(rig);
    REQUIRE(w->code[0] == ERR_INTERNAL && metric_value(rig->metrics.corrupted) == 1);
    rig->broken = false;
    w = submit(rig, &(struct ask){.n_prompt = 20, .max_tokens = 5, .n = 1, .family = -1});
    while (!w->n_ends[0])
        step(rig);
    REQUIRE(w->code[0] == 0 && w->n_out[0] == 5 && metric_value(rig->metrics.corrupted) == 1);
    kv_stats_read(rig->kv, &st);
    REQUIRE(st.pages_held == 0);
    finish(rig);
}
END_TEST

int main(void)
{
    const char *given = getenv("LATENT_TEST_SEED");
    seed = given ? strtoull(given, NULL, 10) : (unsigned long long)time(NULL);
    printf("# seed %llu\n", seed);
    fflush(stdout);
    Suite *s = suite_create("sched");
    TCase *t = tcase_create("sched");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, test_random, 0, N_SHAPES);
    tcase_add_test(t, test_corrupted);
    tcase_add_test(t, test_no_memory);
    tcase_add_test(t, test_priority_order);
    tcase_add_test(t, test_priority_takes_place);
    tcase_add_test(t, test_priority_takes_shared);
    tcase_add_test(t, test_no_starvation);
    tcase_add_test(t, test_keys_share);
    tcase_add_test(t, test_sharers);
    tcase_add_loop_test(t, test_budget, 0, 8);
    tcase_add_test(t, test_burst);
    tcase_add_test(t, test_burst_ends);
    tcase_add_test(t, test_paused_no_burst);
    tcase_add_test(t, test_no_pages_no_burst);
    tcase_add_loop_test(t, test_slice_given_up, 0, N_SHAPES);
    tcase_add_loop_test(t, test_slice_parked, 0, N_SHAPES);
    tcase_add_loop_test(t, test_park, 0, N_SHAPES);
    tcase_add_test(t, test_fork_parked);
    tcase_add_test(t, test_counted_once);
    tcase_add_test(t, test_paused_waits);
    tcase_add_test(t, test_deadlines);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
