/* tests/unit/t_sched.c - the scheduler: everything at random, order and priorities, pages and parking, how
 * requests end. See sched_rig.h; how long steps take is t_sched_time.c's. */
#include "config.h"

#include "engine/draft.h"
#include "sched_rig.h"

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

/* Pool, places and parking vary; jobs come, are cancelled, paused, and run out of time. */
START_TEST(test_random)
{
    struct rig rig_, *rig = &rig_;
    static const int pools[] = {20, 24, 40, 200}, places[] = {2, 5, 12};
    int n_sliced = 0;
    double accepted = 0, refused = 0;
    shape = shapes[_i];
    for (int round = 0; round < 12; round++) {
        struct err e = {0};
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        begin(rig, pools[round % 4], places[round % 3], round % 2 ? 1 << 20 : 0);
        rig->c.n_parts = 1 + (int)below(rig, 8);
        rig->c.num_speculative_tokens = shape.row == 1 ? (int)below(rig, 9) : 0;
        if (round % 3) { /* steps that rows cost little beside */
            rig->step_cost = 100000;
            rig->decode_cost = 1000;
            dull = 6;
        }
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
        dull = 0;
        REQUIRE(metric_value(rig->metrics.draft_tokens) == rig->n_drafted);
        accepted += metric_value(rig->metrics.draft_accepted);
        refused += metric_value(rig->metrics.draft_tokens) - metric_value(rig->metrics.draft_accepted);
        finish(rig);
    }
    ck_assert(shape.row > 1 || (accepted > 100 && refused > 100));
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
    const struct ask ask = {.n_prompt = 41, .max_tokens = 60, .n = 1, .family = 0};
    begin(rig, 100, 1, 0);
    for (int i = 0; i < 3; i++)
        submit(rig, &ask);
    while (!sched_idle(rig->s))
        step(rig);
    kv_stats_read(rig->kv, &st);
    ck_assert_uint_eq(st.queries_tokens, 3 * 40);
    ck_assert_uint_eq(st.hits_tokens, 2 * 40);
    for (int i = 0; i < rig->n_jobs; i++)
        check_end(rig, &rig->jobs[i]);
    finish(rig);
}
END_TEST

/* Who gave way because nobody reads from it waits for its reader, not for a place: that is no age of the
 * queue, and gives it no right of way when it is read from again. */
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
    struct want *decodes = submit(rig, &(struct ask){.n_prompt = 20, .max_tokens = 100, .n = 1,
                                                     .family = -1});
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

/* Steps that a stream of 100 tokens takes with drafts, where a step costs so much beside its rows. */
static int steps_with_drafts(struct rig *rig, int one_in, int64_t step_cost, int64_t decode_cost)
{
    struct err e = {0};
    begin(rig, 100, 2, 0);
    dull = one_in;
    rig->step_cost = step_cost;
    rig->decode_cost = decode_cost;
    rig->c.num_speculative_tokens = 8;
    sched_free(&rig->s);
    ck_assert_int_eq(sched_new(&rig->c, &rig->s, &e), 0);
    struct want *w = submit(rig, &(struct ask){.n_prompt = 50, .max_tokens = 100, .n = 1, .family = -1});
    while (!w->n_ends[0])
        step(rig);
    check_end(rig, w);
    dull = 0;
    return rig->n_steps;
}

/* Tokens that the text foretells come several a step where a row costs little beside it; where rows are all
 * that a step costs, hardly any is tried, once that is known. What comes out is the same. */
START_TEST(test_drafts)
{
    struct rig rig_, *rig = &rig_;
    int n = steps_with_drafts(rig, 40, 1000000, 1000);
    REQUIRE(n < 60 && metric_value(rig->metrics.draft_accepted) > 40);
    REQUIRE(metric_value(rig->metrics.drafts) > 10);
    REQUIRE(metric_value(rig->metrics.generation_tokens) == 100);
    finish(rig);
    n = steps_with_drafts(rig, 4, 1000, 1000000);
    REQUIRE(n > 80 && metric_value(rig->metrics.draft_tokens) < 20);
    finish(rig);
}
END_TEST

/* Drafts take no room from others: rows of logits, tokens of a step, pages. */
START_TEST(test_drafts_room)
{
    struct rig rig_, *rig = &rig_;
    struct err e = {0};
    begin(rig, 19, 8, 0); /* pages for one of them */
    dull = 12;
    rig->step_cost = 1000000;
    rig->decode_cost = 1000;
    rig->c.num_speculative_tokens = 8;
    rig->c.max_logit_rows = rig->c.max_num_batched_tokens = 9;
    sched_free(&rig->s);
    ck_assert_int_eq(sched_new(&rig->c, &rig->s, &e), 0);
    for (int i = 0; i < 8; i++)
        submit(rig, &(struct ask){.n_prompt = 20 + i, .max_tokens = 30 + 12 * i, .n = 1, .family = -1});
    while (!sched_idle(rig->s)) {
        step(rig);
        kv_check(rig->kv);
    }
    REQUIRE(metric_value(rig->metrics.draft_accepted) > 40);
    for (int i = 0; i < rig->n_jobs; i++)
        check_end(rig, &rig->jobs[i]);
    dull = 0;
    finish(rig);
}
END_TEST

/* Nor do they keep a prompt waiting: beside a stream whose drafts are all right, and would take all that a
 * step has, it goes on, and its first token comes. */
START_TEST(test_drafts_beside_prompt)
{
    static const int rows[] = {9, 32, 32, 2}, tokens[] = {64, 9, 8, 2};
    static const int prompts[] = {1, 8, 8, 8};
    struct rig rig_, *rig = &rig_;
    struct err e = {0};
    begin(rig, 100, 4, 0);
    dull = 1 << 30;
    rig->step_cost = 1000000;
    rig->decode_cost = 1000;
    rig->c.num_speculative_tokens = 8;
    rig->c.max_logit_rows = rows[_i];
    rig->c.max_num_batched_tokens = tokens[_i];
    sched_free(&rig->s);
    ck_assert_int_eq(sched_new(&rig->c, &rig->s, &e), 0);
    struct want *w = submit(rig, &(struct ask){.n_prompt = 10, .max_tokens = 140, .n = 1, .family = -1});
    while (w->n_out[0] < 20)
        step(rig);
    struct want *q = submit(rig, &(struct ask){.n_prompt = prompts[_i], .max_tokens = 4, .n = 1,
                                               .family = -1});
    while (q->n_out[0] == 0)
        step(rig);
    REQUIRE(w->n_out[0] < 130);
    while (!sched_idle(rig->s))
        step(rig);
    REQUIRE(metric_value(rig->metrics.draft_accepted) > 20);
    check_end(rig, w);
    check_end(rig, q);
    dull = 0;
    finish(rig);
}
END_TEST

/* Two words of the answer that stand at the end of the text predicted as well do not lead away from what
 * comes before these. */
START_TEST(test_prediction_place)
{
    struct rig rig_, *rig = &rig_;
    struct ask ask = {.n_prompt = 2, .max_tokens = 140, .n = 1, .family = 0};
    struct err e = {0};
    begin(rig, 100, 1, 0);
    rig->step_cost = 1000000;
    rig->decode_cost = 1000;
    rig->c.num_speculative_tokens = 8;
    sched_free(&rig->s);
    ck_assert_int_eq(sched_new(&rig->c, &rig->s, &e), 0);
    struct want *w = submit(rig, &ask);
    while (!sched_idle(rig->s))
        step(rig);
    int32_t text[103];
    memcpy(text, w->out[0] + 20, 100 * sizeof(*text));
    memcpy(text + 100, w->out[0] + 5, 2 * sizeof(*text));
    text[102] = 0;
    double before = metric_value(rig->metrics.draft_accepted);
    ask.prediction = text;
    ask.n_prediction = 103;
    w = submit(rig, &ask);
    while (!sched_idle(rig->s))
        step(rig);
    REQUIRE(metric_value(rig->metrics.draft_accepted) - before > 60);
    check_end(rig, w);
    finish(rig);
}
END_TEST

/* What stood before is found by its longest end, the last of equal ones, and goes on into itself; in another
 * text the first of equal ones, from a place on. */
START_TEST(test_draft_lookup)
{
    const int32_t text[] = {1, 2, 3, 9, 1, 2, 4, 1, 2};
    const int32_t ends[][3] = {{7, 1, 2}, {9, 1, 2}, {2, 3, 9}, {5, 5, 9}, {4, 1, 2}};
    ck_assert_int_eq(draft_place(text, 0, 9, ends[0], 3), 2);
    ck_assert_int_eq(draft_place(text, 0, 9, ends[1], 3), 6);
    ck_assert_int_eq(draft_place(text, 3, 9, ends[0], 3), 6);
    ck_assert_int_eq(draft_place(text, 0, 9, ends[2], 3), 4);
    ck_assert_int_eq(draft_place(text, 0, 9, ends[3], 3), -1);
    ck_assert_int_eq(draft_place(text, 0, 9, ends[4], 3), 2); /* nothing follows the longer one */
    ck_assert_int_eq(draft_place(text, 7, 9, ends[0], 3), 2); /* then from the beginning */
    ck_assert_int_eq(draft_place(text, 9, 9, ends[0], 3), 2);
    ck_assert_int_eq(draft_place(text, 7, 9, ends[3], 3), -1);
    ck_assert_int_eq(draft_place(text, 0, 0, ends[0], 3), -1);
    int32_t once[16] = {5, 1, 2, 3, 9, 4, 2, 3, 8, 1, 2, 3};
    ck_assert_int_eq(draft_lookup(once, 12, 4), 4);
    ck_assert_int_eq(once[12], 9); /* 1 2 3, not 2 3 behind it */
    ck_assert_int_eq(once[15], 3);
    int32_t latest[8] = {1, 2, 7, 1, 2, 8, 1, 2};
    ck_assert_int_eq(draft_lookup(latest, 8, 0), 0);
    int32_t last[9] = {1, 2, 7, 1, 2, 8, 1, 2};
    ck_assert_int_eq(draft_lookup(last, 8, 1), 1);
    ck_assert_int_eq(last[8], 8);
    int32_t circle[12] = {4, 6, 7, 6, 7, 6, 7};
    ck_assert_int_eq(draft_lookup(circle, 7, 5), 5);
    ck_assert_int_eq(circle[7], 6);
    ck_assert_int_eq(circle[11], 6);
    int32_t new[4] = {1, 2, 3};
    ck_assert_int_eq(draft_lookup(new, 3, 1), 0);
    ck_assert_int_eq(draft_lookup(new, 1, 1), 0);
    int32_t single[5] = {1, 2, 3, 2}; /* an end of one token is not enough */
    ck_assert_int_eq(draft_lookup(single, 4, 1), 0);
}
END_TEST

static void add(TCase *t)
{
    tcase_add_loop_test(t, test_random, 0, N_SHAPES);
    tcase_add_test(t, test_drafts);
    tcase_add_test(t, test_drafts_room);
    tcase_add_loop_test(t, test_drafts_beside_prompt, 0, 4);
    tcase_add_test(t, test_draft_lookup);
    tcase_add_test(t, test_prediction_place);
    tcase_add_test(t, test_corrupted);
    tcase_add_test(t, test_no_memory);
    tcase_add_test(t, test_priority_order);
    tcase_add_test(t, test_priority_takes_place);
    tcase_add_test(t, test_priority_takes_shared);
    tcase_add_test(t, test_no_starvation);
    tcase_add_test(t, test_keys_share);
    tcase_add_test(t, test_sharers);
    tcase_add_loop_test(t, test_park, 0, N_SHAPES);
    tcase_add_test(t, test_fork_parked);
    tcase_add_test(t, test_counted_once);
    tcase_add_test(t, test_paused_waits);
    tcase_add_test(t, test_deadlines);
}

int main(void)
{
    return run_suite("sched", add);
}
