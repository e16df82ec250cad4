/* tests/forward/t_repeat.c - the same request gives the same bits, whatever else the engine does.
 *
 * Random requests are first run alone: one thread, no prefix cache, room for everything. What came back is
 * kept as bytes: every token, its log-probability with all alternatives, text and end of each choice. Then
 * other engines run the same requests twice each in random order beside requests that nobody asked about:
 * in batches of any size, with other chunks and pages, one to four threads, pools so small that sequences
 * give their pages back, prefixes found, prompts that go on from earlier answers, choices that fork,
 * pauses and cancels, rows that were parked, or that an engine before put on disk, masks of grammars kept or
 * made anew, tokens drafted. Each result must be those bytes.
 *
 * A failing run is repeated with LATENT_TEST_SEED and, to save time, CK_RUN_CASE; what the threads do in
 * which moment is not in the seed, so it may take more than one run. */
#include "config.h"

#include <check.h>
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/kernels/kern.h"
#include "tests/forward/gguf_file.h"
#include "tests/forward/tiny.h"

#define MAX_PROMPT 800
#define MAX_N 4
#define MAX_SPECS 32
#define BLOCK 512 /* of prompts that go decompressed */

static unsigned long long seed;
static char mini_path[4096];

static int below(int n)
{
    return rand() % n;
}

static bool one_in(int n)
{
    return below(n) == 0;
}

static float between(float lo, float hi)
{
    return lo + (hi - lo) * (float)below(1 << 20) / (float)(1 << 20);
}

/* --- requests ---------------------------------------------------------------------------------- */

/* What is asked, and what came back from an engine that did nothing else. */
struct spec {
    int32_t prompt[MAX_PROMPT];
    struct gen_request q; /* without arena, prompt, salt and user */
    struct logit_bias bias[2];
    struct stop_string stop;
    int32_t stop_id;
    int structure; /* of structures; -1: none */
    struct buf want[MAX_N];
    int32_t answer[MAX_PROMPT]; /* of choice 0 */
    int n_answer;
};

struct trial { /* a model and how it is served */
    const char *path;
    enum cpu_level level;
    enum engine_cache_type cache_type;
    enum mla_scheme scheme;
    int n_base, most_n, longest_prompt, longest_answer, runs;
    const char *disk; /* a folder for the cache, the same for all runs; or NULL */
    bool thorough; /* goes on until sequences gave way */

    int vocab, first_id; /* ids below first_id are the tokenizer's own */
    double bytes_per_token;
    int32_t stems[3][MAX_PROMPT];
    struct spec specs[MAX_SPECS];
    int n_specs, longest; /* tokens of a sequence */
    int max_len;          /* positions of the model in hand */
    /* what the runs came to */
    int64_t cached, choices, structured, preemptions, from_disk, drafted, accepted;
};

static struct trial t;

static int32_t random_id(void)
{
    return t.first_id + below(t.vocab - t.first_id);
}

static int prompt_length(void)
{
    int n = below(3) ? 1 + below(t.longest_prompt / 4) : 1 + below(t.longest_prompt);
    if (t.longest_prompt > BLOCK && one_in(3)) /* a block, or one that only the answer completes */
        n = one_in(2) ? BLOCK - below(24) : BLOCK + 1 + below(t.longest_prompt - BLOCK);
    return n;
}

/* Begins as others do, in most cases. */
static void random_prompt(struct spec *s)
{
    int n = prompt_length(), common = one_in(5) ? 0 : one_in(3) ? n : below(n + 1);
    memcpy(s->prompt, t.stems[below(3)], (size_t)common * sizeof(*s->prompt));
    for (int i = common; i < n; i++)
        s->prompt[i] = random_id();
    int back = one_in(3) ? 1 + below(n / 2 + 1) : n;
    for (int i = n / 2; i < n && back <= i; i++)
        s->prompt[i] = s->prompt[i - back]; /* as drafts like it */
    s->q.n_prompt = n;
}

static struct sampling_params random_sampling(struct spec *s)
{
    struct sampling_params p = {.top_p = 1, .repetition_penalty = 1, .seed = (uint64_t)below(1 << 20)};
    if (below(3))
        p.temperature = between(0.3f, 1.6f);
    if (one_in(3))
        p.top_p = between(0.5f, 1);
    if (one_in(3))
        p.top_k = 1 + below(60);
    if (one_in(4))
        p.min_p = between(0, 0.2f);
    if (one_in(4))
        p.repetition_penalty = between(0.8f, 1.4f);
    if (one_in(4))
        p.presence_penalty = between(-1, 1);
    if (one_in(4))
        p.frequency_penalty = between(-1, 1);
    if (one_in(8))
        p.top_n_sigma = between(0.5f, 3);
    if (one_in(8))
        p.typical_p = between(0.3f, 1);
    if (one_in(8)) {
        p.xtc_probability = between(0.2f, 1);
        p.xtc_threshold = between(0, 0.3f);
    }
    if (one_in(8)) {
        p.mirostat = 1 + below(2);
        p.mirostat_tau = between(1, 6);
        p.mirostat_eta = between(0.05f, 0.5f);
    }
    if (one_in(6)) {
        p.dry_multiplier = between(0.2f, 2);
        p.dry_base = between(1, 2);
        p.dry_allowed_length = below(4);
        p.dry_penalty_last_n = one_in(2) ? -1 : below(200);
    }
    if (one_in(5)) {
        p.n_logit_bias = 2;
        for (int i = 0; i < 2; i++)
            s->bias[i] = (struct logit_bias){random_id(), between(-5, 5)};
        p.logit_bias = s->bias;
    }
    return p;
}

static void random_wishes(struct spec *s)
{
    struct gen_request *q = &s->q;
    q->sampling = random_sampling(s);
    q->max_tokens = 1 + below(t.longest_answer);
    q->min_tokens = one_in(3) ? below(q->max_tokens + 1) : 0;
    q->ignore_eos = below(2);
    q->skip_special_tokens = below(2);
    q->n = one_in(3) ? 1 + below(t.most_n) : 1;
    q->logprobs = one_in(5) ? -1 : below(6);
    q->prompt_logprobs = one_in(6) ? below(4) : -1;
    if (q->prompt_logprobs >= 0 && one_in(2))
        q->max_tokens = q->min_tokens = 0; /* only scored */
    if (one_in(8))
        q->repetition = (struct repetition_detection){1 + below(4), 0, 2 + below(3)};
    if (one_in(6)) {
        q->include_stop = one_in(2);
        s->stop = (struct stop_string){"e", 1};
        q->stop = &s->stop;
        q->n_stop = 1;
    }
    if (one_in(6)) {
        s->stop_id = random_id();
        q->stop_token_ids = &s->stop_id;
        q->n_stop_token_ids = 1;
    }
}

/* Something may always follow in these, or they end: none is refused a token. */
static const struct {
    enum grammar_kind kind;
    const char *source;
} structures[] = {
    {GRAMMAR_REGEX, "([a-f]{1,3} ?)*"},
    {GRAMMAR_REGEX, "[^e]{0,40}"},
    {GRAMMAR_GBNF, "root ::= \"(\" root \")\" root | [a-z ]*"},
    {GRAMMAR_OBJECT, ""},
    {GRAMMAR_CHOICE, "[\"the sea\",\"the town\",\"then\"]"},
    {GRAMMAR_SCHEMA, "{\"type\":\"array\",\"items\":{\"anyOf\":[{\"type\":\"integer\",\"maximum\":99},"
                     "{\"type\":\"string\",\"maxLength\":9},{\"$ref\":\"#\"}]},\"minItems\":2}"},
    {GRAMMAR_TAG, "{\"structures\":[{\"begin\":\"a\",\"schema\":{\"enum\":[1,22]},\"end\":\";\"}],"
                  "\"triggers\":[\"a\"]}"},
};
#define N_STRUCTURES ((int)(sizeof(structures) / sizeof(*structures)))

static struct spec *new_spec(void)
{
    struct spec *s = &t.specs[t.n_specs++];
    memset(s, 0, sizeof(*s));
    s->structure = t.first_id > 0 && (t.n_specs == 1 || one_in(3)) ? below(N_STRUCTURES) : -1;
    for (int i = 0; i < MAX_N; i++)
        buf_init(&s->want[i], (size_t)1 << 24);
    return s;
}

/* The next turn of a conversation: an earlier prompt, its answer, and more. */
static void follow_up(const struct spec *before)
{
    int n = before->q.n_prompt;
    struct spec *s = new_spec();
    memcpy(s->prompt, before->prompt, (size_t)n * sizeof(*s->prompt));
    for (int i = 0; i < before->n_answer && n < t.longest_prompt; i++)
        s->prompt[n++] = before->answer[i];
    for (int i = below(20); i > 0 && n < t.longest_prompt; i--)
        s->prompt[n++] = random_id();
    s->q.n_prompt = n;
    random_wishes(s);
}

static struct gen_request *make_request(struct spec *s, void *user)
{
    struct arena *a = arena_new((size_t)1 << 22);
    struct gen_request *q = arena_memdup(a, &s->q, sizeof(s->q));
    ck_assert_ptr_nonnull(q);
    q->arena = a;
    q->user = user;
    q->cache_salt = one_in(3) ? 1 + (uint64_t)below(2) : 0; /* what may be shared: no matter */
    q->priority = below(3) - 1;
    q->fair_key = (uint64_t)below(4);
    q->prompt = arena_memdup(a, s->prompt, (size_t)q->n_prompt * sizeof(*q->prompt));
    if (q->sampling.n_logit_bias)
        q->sampling.logit_bias = arena_memdup(a, s->bias, sizeof(s->bias));
    if (q->n_stop)
        q->stop = arena_memdup(a, &s->stop, sizeof(s->stop));
    if (q->n_stop_token_ids)
        q->stop_token_ids = arena_memdup(a, &s->stop_id, sizeof(s->stop_id));
    return q;
}

/* --- an engine --------------------------------------------------------------------------------- */

struct way { /* how an engine is set up and asked */
    int threads, max_seqs, budget, chunk, page_tokens, window, drafts;
    uint64_t cache_bytes, park_bytes, grammar_bytes;
    int64_t max_step_ns;
    const char *disk;
    bool prefix_cache, noise;
};

struct rig {
    struct engine *eng;
    struct metrics *metrics;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool wake;
};

static void on_wake(void *arg)
{
    struct rig *r = arg;
    pthread_mutex_lock(&r->lock);
    r->wake = true;
    pthread_cond_signal(&r->woken);
    pthread_mutex_unlock(&r->lock);
}

/* Waits for a wake, some milliseconds at most. */
static void wait_a_little(struct rig *r)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 3 * NS_PER_MS;
    if (until.tv_nsec >= NS_PER_SEC) {
        until.tv_nsec -= NS_PER_SEC;
        until.tv_sec++;
    }
    pthread_mutex_lock(&r->lock);
    while (!r->wake && pthread_cond_timedwait(&r->woken, &r->lock, &until) == 0)
        ;
    r->wake = false;
    pthread_mutex_unlock(&r->lock);
}

static void rig_open(struct rig *r, const struct way *y)
{
    struct err e = {0};
    struct engine_config c = {.model_path = t.path, .level = t.level, .n_threads = y->threads,
                              .cache_type = t.cache_type, .mla_scheme = t.scheme, .mla_block = BLOCK,
                              .cache_bytes = y->cache_bytes, .page_tokens = (uint32_t)y->page_tokens,
                              .max_model_len = t.max_len, .max_num_seqs = y->max_seqs,
                              .max_num_batched_tokens = y->budget, .prefill_chunk = y->chunk,
                              .num_speculative_tokens = y->drafts,
                              .max_queue_requests = 1000, .max_queue_tokens = 1 << 30,
                              .max_priority_wait_ns = NS_PER_SEC, .max_fair_keys = 3,
                              .max_step_ns = y->max_step_ns, .park_bytes = y->park_bytes,
                              .disk_path = y->disk, .disk_bytes = 64u << 20, .disk_always = true,
                              .prefix_cache = y->prefix_cache,
                              .grammar = {65536, 200000, 60 * NS_PER_SEC, y->grammar_bytes},
                              .wake = on_wake, .wake_arg = r};
    memset(r, 0, sizeof(*r));
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->woken, NULL);
    c.metrics = r->metrics = metrics_new();
    ck_assert_msg(engine_start(&c, &r->eng, &e) == 0, "%s", e.text);
    while (engine_state(r->eng) == ENGINE_LOADING)
        wait_a_little(r);
    ck_assert_msg(engine_state(r->eng) == ENGINE_READY, "%s", engine_load_error(r->eng)->text);
}

static double counter(const struct rig *r, const char *name)
{
    struct buf text;
    buf_init(&text, (size_t)1 << 20);
    ck_assert_int_eq(metrics_render(r->metrics, METRICS_TEXT, &text), 0);
    const char *at = strstr(text.data, name);
    while (at && (at == text.data || at[-1] != '\n'))
        at = strstr(at + 1, name);
    ck_assert_msg(at != NULL, "no %s", name);
    double v = strtod(strchr(at, ' ') + 1, NULL);
    buf_done(&text);
    return v;
}

static void rig_close(struct rig *r)
{
    struct engine_counts n;
    int64_t until = clock_now_ns() + 30 * NS_PER_SEC;
    do { /* the last event comes before the step's counts */
        wait_a_little(r);
        engine_counts_read(r->eng, &n);
    } while (n.running + n.waiting > 0 && clock_now_ns() < until);
    ck_assert_int_eq(n.running + n.waiting, 0);
    ck_assert_uint_eq(n.pages_held, 0);
    t.preemptions += (int64_t)counter(r, "vllm:num_preemptions_total");
    t.drafted += (int64_t)counter(r, "vllm:spec_decode_num_draft_tokens_total");
    t.accepted += (int64_t)counter(r, "vllm:spec_decode_num_accepted_tokens_total");
    t.from_disk += (int64_t)counter(r, "latentd_disk_hit_tokens_total");
    engine_stop(&r->eng);
    metrics_free(&r->metrics);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->woken);
}

/* --- results ----------------------------------------------------------------------------------- */

/* A request in flight. */
struct flight {
    struct spec *spec; /* NULL: free */
    bool noise, paused;
    uint64_t id;
    int live;
    struct buf tokens[MAX_N], text[MAX_N];
};

static void put_token(struct buf *b, const struct gen_token *k)
{
    const struct {
        int32_t id, rank, n_top;
        float logprob;
    } head = {k->id, k->rank, k->n_top, k->logprob};
    ck_assert_int_eq(buf_append(b, &head, sizeof(head)), 0);
    for (int i = 0; i < k->n_top; i++) {
        const struct token_logprob *p = &k->top[i];
        ck_assert_int_eq(buf_append(b, &p->token_id, sizeof(p->token_id)), 0);
        ck_assert_int_eq(buf_append(b, &p->logprob, sizeof(p->logprob)), 0);
        ck_assert_int_eq(buf_append(b, &p->rank, sizeof(p->rank)), 0);
    }
}

static void put_end(struct buf *b, const struct gen_event *ev)
{
    const int32_t end[] = {(int32_t)ev->finish_reason, ev->stop_token_id, ev->prompt_tokens,
                           ev->completion_tokens, ev->stop_string != NULL};
    ck_assert_int_eq(buf_append(b, end, sizeof(end)), 0);
}

/* Keeps or compares what a choice came to. */
static void settle(struct flight *f, int choice, bool reference, const struct way *y)
{
    struct buf *got = &f->tokens[choice], *want = &f->spec->want[choice];
    ck_assert_int_eq(buf_append(got, f->text[choice].data, f->text[choice].n_bytes), 0);
    if (reference) {
        ck_assert_int_eq(buf_append(want, got->data, got->n_bytes), 0);
        return;
    }
    size_t n = got->n_bytes < want->n_bytes ? got->n_bytes : want->n_bytes, at = 0;
    while (at < n && got->data[at] == want->data[at])
        at++;
    ck_assert_msg(got->n_bytes == want->n_bytes && at == n,
                  "request %d (%d tokens, %d to come), choice %d: byte %zu of %zu and %zu differs; %s, "
                  "cache type %d, %d threads, %d sequences, %d tokens a step, chunks of %d, pages of %d, "
                  "%llu bytes of cache, %d at once (seed %llu)",
                  (int)(f->spec - t.specs), f->spec->q.n_prompt, f->spec->q.max_tokens, choice, at,
                  want->n_bytes, got->n_bytes, cpu_level_name(t.level), (int)t.cache_type, y->threads,
                  y->max_seqs, y->budget, y->chunk, y->page_tokens, (unsigned long long)y->cache_bytes,
                  y->window, seed);
}

static void take(struct flight *f, const struct gen_event *ev, bool reference, const struct way *y)
{
    ck_assert_msg(ev->type != GEN_FAILED, "%s (seed %llu)", ev->error.text, seed);
    for (int i = 0; i < ev->n_tokens && !f->noise; i++) {
        put_token(&f->tokens[ev->choice], &ev->tokens[i]);
        if (reference && ev->choice == 0 && ev->type != GEN_PROMPT)
            f->spec->answer[f->spec->n_answer++] = ev->tokens[i].id;
    }
    if (ev->text_bytes && !f->noise)
        ck_assert_int_eq(buf_append(&f->text[ev->choice], ev->text, ev->text_bytes), 0);
    if (ev->type != GEN_DONE)
        return;
    if (!f->noise) {
        put_end(&f->tokens[ev->choice], ev);
        settle(f, ev->choice, reference, y);
        t.cached += ev->cached_tokens;
        t.choices++;
    }
    if (--f->live > 0)
        return;
    for (int i = 0; i < MAX_N; i++) {
        buf_done(&f->tokens[i]);
        buf_done(&f->text[i]);
    }
    f->spec = NULL;
}

static void submit(struct rig *r, struct flight *f, struct spec *s, bool noise)
{
    struct err e = {0};
    struct gen_request *q = make_request(s, f);
    struct grammar *g = NULL;
    if (s->structure >= 0) {
        const char *source = structures[s->structure].source;
        int code = engine_grammar(r->eng, structures[s->structure].kind, source, strlen(source), &g, &e);
        ck_assert_msg(code == 0, "%s", e.text);
        t.structured++;
    }
    q->grammar = g;
    *f = (struct flight){.spec = s, .noise = noise, .live = q->n};
    for (int i = 0; i < MAX_N; i++) {
        buf_init(&f->tokens[i], (size_t)1 << 24);
        buf_init(&f->text[i], (size_t)1 << 24);
    }
    ck_assert_msg(engine_submit(r->eng, q, &f->id, &e) == 0, "%s (seed %llu)", e.text, seed);
    grammar_put(&g);
}

static void disturb(struct rig *r, struct flight *f, int n)
{
    struct flight *one = &f[below(n)];
    if (!one->spec)
        return;
    if (one->noise && one_in(2)) {
        engine_cancel(r->eng, one->id);
    } else {
        one->paused = !one->paused;
        engine_pause(r->eng, one->id, one->paused);
    }
}

static void resume_all(struct rig *r, struct flight *f, int n)
{
    for (int i = 0; i < n; i++)
        if (f[i].spec && f[i].paused) {
            f[i].paused = false;
            engine_pause(r->eng, f[i].id, false);
        }
}

/* Runs requests (their numbers in `order`), at most y->window at once. */
static void run_all(struct rig *r, const struct way *y, const int *order, int n, bool reference)
{
    struct flight f[24] = {0};
    int next = 0, busy = 0;
    while (next < n || busy > 0) {
        for (int i = 0; i < y->window && next < n; i++) {
            bool noise = y->noise && one_in(6);
            if (f[i].spec)
                continue;
            submit(r, &f[i], &t.specs[order[noise ? below(n) : next]], noise);
            next += !noise;
            busy++;
        }
        struct gen_event *ev = engine_next_event(r->eng);
        if (!ev) {
            wait_a_little(r);
            resume_all(r, f, y->window);
            continue;
        }
        take(ev->user, ev, reference, y);
        busy -= !((struct flight *)ev->user)->spec;
        engine_event_free(r->eng, ev);
        if (y->noise && one_in(20))
            disturb(r, f, y->window);
    }
}

/* --- trials ------------------------------------------------------------------------------------ */

static const struct way alone = {.threads = 1, .max_seqs = MAX_N, .budget = 512, .chunk = 256,
                                 .page_tokens = 32, .window = 1, .cache_bytes = 64u << 20,
                                 .grammar_bytes = 64u << 20};

/* Runs what is asked alone, keeping the results; then again as what comes next in the conversations. */
static void reference(void)
{
    struct rig r;
    int order[MAX_SPECS], n = 0;
    rig_open(&r, &alone);
    const struct engine_info *info = engine_info(r.eng);
    t.vocab = info->config.vocab_size;
    t.first_id = info->tokenizer ? 6 : 0;
    t.bytes_per_token = (double)info->page_bytes / info->page_tokens;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < MAX_PROMPT; k++)
            t.stems[i][k] = random_id();
    while (t.n_specs < t.n_base) {
        struct spec *s = new_spec();
        random_prompt(s);
        random_wishes(s);
    }
    for (; n < t.n_specs; n++)
        order[n] = n;
    run_all(&r, &alone, order, n, true);
    for (int i = 0; i < t.n_base && t.n_specs < MAX_SPECS; i += 2)
        follow_up(&t.specs[i]);
    run_all(&r, &alone, order, 0, true);
    for (n = 0; t.n_base + n < t.n_specs; n++)
        order[n] = t.n_base + n;
    run_all(&r, &alone, order, n, true);
    for (int i = 0; i < t.n_specs; i++) {
        int tokens = t.specs[i].q.n_prompt + t.specs[i].q.max_tokens;
        t.longest = tokens > t.longest ? tokens : t.longest;
    }
    rig_close(&r);
}

/* The first run of a trial has the smallest pool: sequences give way, but none is cut short. */
static struct way random_way(int run)
{
    struct way y = {.threads = 1 + below(4), .max_seqs = MAX_N + below(16), .chunk = 1 + below(300),
                    .page_tokens = 8 << below(4), .prefix_cache = run == 0 || below(5),
                    .window = 1 + below(20), .drafts = one_in(3) ? 0 : 1 + below(12), .noise = true};
    y.grammar_bytes = (uint64_t)1 << (one_in(2) ? 0 : 26); /* masks are made anew, or kept */
    y.park_bytes = one_in(2) ? 0 : (uint64_t)1 << (16 + below(10));
    y.max_step_ns = one_in(2) ? 0 : 1 + below(20 * (int)NS_PER_MS);
    y.budget = y.max_seqs + below(one_in(2) ? 60 : 500);
    if (run == 0) {
        y.window = 20;
        y.max_seqs = 8 + below(12);
        y.page_tokens = 8 << below(2);
        y.budget = 64 + below(200);
    }
    int tokens = (t.longest + 2 * y.page_tokens) * (run == 0 ? 1 : 1 + below(6));
    /* planes of a page begin on lines of 64 bytes */
    y.cache_bytes = (uint64_t)((double)tokens * t.bytes_per_token) +
                    (uint64_t)(tokens / y.page_tokens + 1) * 64 * 64;
    return y;
}

static void run_trial(void)
{
    int64_t began = clock_now_ns();
    reference();
    for (int run = 0; run < t.runs || (t.thorough && t.preemptions == 0 && run < t.runs + 5); run++) {
        struct rig r;
        struct way y = random_way(run < t.runs ? run : 0);
        y.disk = t.disk;
        int order[2 * MAX_SPECS], n = 0;
        for (; n < 2 * t.n_specs; n++) {
            int at = below(n + 1);
            order[n] = order[at];
            order[at] = n / 2;
        }
        rig_open(&r, &y);
        ck_assert_int_ge(engine_info(r.eng)->max_model_len, t.longest);
        run_all(&r, &y, order, n, false);
        rig_close(&r);
    }
    for (int i = 0; i < t.n_specs; i++)
        for (int k = 0; k < MAX_N; k++)
            buf_done(&t.specs[i].want[k]);
    printf("# %s, cache type %d: %d requests, %d engines: %lld choices, %lld requests with grammars, "
           "%lld tokens from the cache, %lld rows from disk, %lld preemptions, %lld of %lld tokens drafted, "
           "%.1f s\n",
           cpu_level_name(t.level), (int)t.cache_type, t.n_specs, t.runs, (long long)t.choices,
           (long long)t.structured, (long long)t.cached, (long long)t.from_disk, (long long)t.preemptions,
           (long long)t.accepted, (long long)t.drafted, (double)(clock_now_ns() - began) / 1e9);
    fflush(stdout);
    /* or nothing was put to the test */
    ck_assert(!t.thorough || (t.cached > 0 && t.preemptions > 0));
    ck_assert(!t.first_id || t.n_base < 7 || t.structured > 0);
}

static const enum engine_cache_type cache_types[] = {ENGINE_CACHE_BF16, ENGINE_CACHE_F32, ENGINE_CACHE_INT8,
                                                     ENGINE_CACHE_FP8, ENGINE_CACHE_INT4};
#define N_CACHE_TYPES ((int)(sizeof(cache_types) / sizeof(*cache_types)))

/* Half of the trials at the best level, half at the generic one. */
static void begin(int i, const char *path)
{
    memset(&t, 0, sizeof(t));
    srand((unsigned)seed + 7919u * (unsigned)i);
    t.path = path;
    t.most_n = MAX_N;
    t.max_len = 1024;
    t.level = i % 2 ? CPU_GENERIC : cpu_detect();
    t.scheme = below(3) ? MLA_DECOMPRESSED : MLA_ABSORBED;
    t.cache_type = cache_types[i / 2 % N_CACHE_TYPES];
}

static void remove_folder(const char *path)
{
    char file[4096];
    DIR *dir = opendir(path);
    ck_assert_ptr_nonnull(dir);
    for (struct dirent *f; (f = readdir(dir));) {
        snprintf(file, sizeof(file), "%s/%s", path, f->d_name);
        unlink(file);
    }
    closedir(dir);
    ck_assert_int_eq(rmdir(path), 0);
}

START_TEST(test_tiny)
{
    struct model_config c = {
        .architecture = "deepseek_v3", .vocab_size = 97, .hidden_size = 64, .num_hidden_layers = 3,
        .num_attention_heads = 3, .q_lora_rank = 32, .kv_lora_rank = 32, .qk_nope_head_dim = 32,
        .qk_rope_head_dim = 8, .v_head_dim = 32, .intermediate_size = 96, .moe_intermediate_size = 32,
        .n_group = 1, .topk_group = 1, .first_k_dense_replace = 1, .gating = GATING_SIGMOID,
        .norm_topk_prob = true, .routed_scaling_factor = 1.5f, .rms_norm_eps = 1e-6f,
        .rope_theta = 1000.0f, .rope_interleave = true, .max_position_embeddings = 1024,
    };
    struct checkpoint mixed;
    struct tiny tiny;
    char path[] = "/tmp/latentd-repeat-XXXXXX", folder[] = "/tmp/latentd-repeat-disk-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    begin(_i, path);
    bool fast = t.level != CPU_GENERIC, large = fast || _i == 1; /* with blocks to decompress */
    t.n_base = fast ? 20 : large ? 4 : 10;
    t.longest_prompt = large ? 700 : 90;
    t.longest_answer = fast ? 60 : 25;
    t.runs = getenv("LATENT_SLOW") || !fast ? 1 : 3;
    t.thorough = fast;
    if (one_in(2)) {
        c.n_routed_experts = 6;
        c.num_experts_per_tok = 2;
        c.n_shared_experts = 1;
    }
    tiny_new(&tiny, &c, 0, seed + (unsigned)_i);
    if (!c.n_routed_experts) /* whose matrices a file has in one piece, of one type */
        tiny_mix(&tiny, &mixed);
    gguf_file_model(c.n_routed_experts ? &tiny.ck : &mixed, "deepseek2", false, path);
    tiny_free(&tiny);
    if (fast && _i % 4 == 0)
        t.disk = mkdtemp(folder);
    run_trial();
    unlink(path);
    if (t.disk)
        remove_folder(t.disk);
}
END_TEST

/* Other kinds of layers: sparse attention, two attentions a layer. */
START_TEST(test_folders)
{
    static const char *const names[] = {"deepseek_v32", "longcat_flash"};
    const char *src = getenv("top_srcdir");
    char path[4096];
    begin(_i, path);
    t.cache_type = cache_types[below(N_CACHE_TYPES)];
    snprintf(path, sizeof(path), "%s/tests/data/hf/%s", src ? src : ".", names[_i / 2]);
    t.n_base = t.level == CPU_GENERIC ? 4 : 10;
    t.longest_prompt = t.level == CPU_GENERIC ? 120 : 250;
    t.longest_answer = 30;
    t.runs = 1;
    run_trial();
}
END_TEST

/* Mechanisms whose sequences have a state, whose rows stand for several tokens or are made anew when
 * read, or whose layers share rows. */
static const char *const family[] = {"cca",    "fast_mka", "mtla", "mtla_4", "eg_mla",   "eg_mla_absorbed",
                                     "cla",    "mla_vlm",  "mka",  "mtla_3", "mtla_cca", "mtla_5",
                                     "mtla_2_3"};

START_TEST(test_family)
{
    const char *src = getenv("top_srcdir");
    char path[4096], folder[] = "/tmp/latentd-repeat-disk-XXXXXX";
    begin(_i, path);
    t.cache_type = below(2) ? ENGINE_CACHE_BF16 : ENGINE_CACHE_F32; /* others not every mechanism takes */
    snprintf(path, sizeof(path), "%s/tests/data/family/%s", src ? src : ".", family[_i]);
    t.n_base = t.level == CPU_GENERIC ? 6 : 12;
    t.max_len = 128;
    t.longest_prompt = 60;
    t.longest_answer = 16;
    t.runs = 4;
    if (_i % 4 == 0) /* states go to disk with their pages */
        t.disk = mkdtemp(folder);
    run_trial();
    ck_assert_int_gt(t.cached, 0);
    if (t.disk)
        remove_folder(t.disk);
}
END_TEST

START_TEST(test_mini)
{
    begin(_i, mini_path);
    bool fast = t.level != CPU_GENERIC;
    t.cache_type = cache_types[below(N_CACHE_TYPES)];
    t.n_base = fast ? 7 : 2;
    t.most_n = fast ? MAX_N : 2;
    t.longest_prompt = fast ? 600 : 30;
    t.longest_answer = fast ? 30 : 5;
    t.runs = 1;
    if (!fast)
        t.scheme = MLA_ABSORBED; /* no prompt has a block */
    run_trial();
}
END_TEST

int main(void)
{
    const char *s = getenv("LATENT_TEST_SEED"), *src = getenv("top_srcdir");
    seed = s ? strtoull(s, NULL, 10) : (unsigned long long)time(NULL);
    printf("# seed %llu (LATENT_TEST_SEED)\n", seed);
    fflush(stdout);
    snprintf(mini_path, sizeof(mini_path), "%s/models/latent-mini.q8_0.gguf", src ? src : ".");
    Suite *suite = suite_create("repeat");
    static const char *const cases[] = {"tiny", "folders", "mini", "family"};
    for (int i = 0; i < 4; i++) {
        TCase *tc = tcase_create(cases[i]);
        tcase_set_timeout(tc, 900);
        if (i == 0)
            tcase_add_loop_test(tc, test_tiny, 0, 2 * N_CACHE_TYPES);
        else if (i == 1)
            tcase_add_loop_test(tc, test_folders, 0, 4);
        else if (i == 3)
            tcase_add_loop_test(tc, test_family, 0, (int)(sizeof(family) / sizeof(*family)));
        else /* with sanitizers the generic level takes very long; random tiny models still run it */
            tcase_add_loop_test(tc, test_mini, 0, getenv("LATENT_SLOW") ? 1 : 2);
        suite_add_tcase(suite, tc);
    }
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
