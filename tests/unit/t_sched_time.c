/* tests/unit/t_sched_time.c - the scheduler: what time prompts have beside those that decode, chunks in
 * slices, bursts. See sched_rig.h. */
#include "config.h"

#include "sched_rig.h"

/* What the last 100 tokens of a stream that nothing foretells take beside another, whose drafts are all
 * right, where three rows cost what a step does beside them; and the longest step. */
static int64_t beside_drafts(int n_drafts, int64_t max_step_ns, int64_t *ret_longest, double *ret_accepted)
{
    struct rig rig_, *rig = &rig_;
    const struct ask other = {.n_prompt = 2, .max_tokens = 150, .n = 1, .family = 0};
    struct err e = {0};
    begin(rig, 400, 2, 0);
    dull = 1 << 30;
    lively = true;
    rig->step_cost = 3 * NS_PER_MS;
    rig->decode_cost = NS_PER_MS;
    rig->prompt_cost = 1000;
    rig->c.num_speculative_tokens = n_drafts;
    rig->c.max_step_ns = max_step_ns;
    sched_free(&rig->s);
    ck_assert_int_eq(sched_new(&rig->c, &rig->s, &e), 0);
    struct want *w = submit(rig, &(struct ask){.n_prompt = 2, .max_tokens = 140, .n = 1, .family = 40});
    struct want *o = submit(rig, &other);
    int64_t began = 0, longest = 0;
    while (!w->n_ends[0]) {
        step(rig);
        if (w->n_out[0] <= 40) /* by then it is known what rows cost */
            began = clock_ns;
        else if (rig->last_took > longest)
            longest = rig->last_took;
        if (o->n_ends[0])
            o = submit(rig, &other);
    }
    *ret_longest = longest;
    *ret_accepted = metric_value(rig->metrics.draft_accepted);
    int64_t took = clock_ns - began;
    sched_cancel_all(rig->s);
    take_events(rig);
    dull = 0;
    lively = false;
    finish(rig);
    return took;
}

/* Drafts of one stream do not take the pace from another, and leave a step the time that it may last; yet
 * there are some. */
START_TEST(test_drafts_beside_stream)
{
    int64_t longest;
    double accepted;
    int64_t without = beside_drafts(0, 0, &longest, &accepted);
    int64_t with = beside_drafts(8, 0, &longest, &accepted);
    ck_assert(with < without * 4 / 3 && accepted > 40);
    beside_drafts(8, 8 * NS_PER_MS, &longest, &accepted);
    ck_assert(longest < 9 * NS_PER_MS && accepted > 40);
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

/* Streams that nobody reads from and that gave way are no short prompts that wait for a place: with four of
 * them in the queue those that run do not stall for longer than without. */
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

static void add(TCase *t)
{
    tcase_add_test(t, test_drafts_beside_stream);
    tcase_add_loop_test(t, test_budget, 0, 8);
    tcase_add_test(t, test_burst);
    tcase_add_test(t, test_burst_ends);
    tcase_add_test(t, test_paused_no_burst);
    tcase_add_test(t, test_no_pages_no_burst);
    tcase_add_loop_test(t, test_slice_given_up, 0, N_SHAPES);
    tcase_add_loop_test(t, test_slice_parked, 0, N_SHAPES);
}

int main(void)
{
    return run_suite("sched_time", add);
}
