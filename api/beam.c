/* api/beam.c - see beam.h. A beam that chooses an end token is finished; as many finished ones as there are
 * beams are kept. The search ends at max_tokens, when no beam is left, or when none that is left can get
 * better than those finished (early_stopping: as soon as enough are finished). Scores are sums of
 * log-probabilities divided by length^length_penalty. Equal sums go by beam, then by the order of the
 * engine, so that the result is always the same. */
#include "config.h"

#include "api/beam.h"
#include "base/clock.h"
#include "base/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct beam {
    int32_t *tokens; /* behind the prompt; owned */
    int n;
    double sum;
};

struct candidate {
    int from, order; /* beam, and place in it */
    int32_t token;
    double sum;
};

struct beam_search {
    int width, max_tokens, n_prompt;
    struct beam *beams, *next, *done; /* [width] each */
    int n_beams, n_done, n_sent;      /* n_sent beams of this step have been handed to the engine */
    bool begun;                       /* the engine has taken the search on */
    struct prompt *slots;             /* [width]: whose events come */
    struct candidate *candidates;     /* [width * 2 width] */
    int n_candidates, waiting;        /* answers of this step still to come */
};

static double score(const struct api_exchange *x, const struct beam *b)
{
    return b->sum / pow(b->n > 0 ? b->n : 1, x->p.length_penalty);
}

int beam_live(const struct beam_search *b)
{
    int n = 0;
    for (int i = 0; b && i < b->width; i++)
        n += b->slots[i].n_live;
    return n;
}

void beam_free(struct api_exchange *x)
{
    struct beam_search *b = x->beam;
    x->beam = NULL;
    if (!b)
        return;
    x->a->n_searches--;
    for (int i = 0; b->beams && b->next && b->done && i < b->width; i++) {
        free(b->beams[i].tokens);
        free(b->next[i].tokens);
        free(b->done[i].tokens);
    }
    free(b->beams);
    free(b->next);
    free(b->done);
    free(b->slots);
    free(b->candidates);
    free(b);
}

void beam_cancel(struct api_exchange *x)
{
    for (int i = 0; x->beam && i < x->beam->width; i++)
        if (x->beam->slots[i].n_live > 0)
            engine_cancel(x->a->cfg.engine, x->beam->slots[i].request_id);
}

/* One token of a beam, with the likeliest. */
static int submit(struct api_exchange *x, int i, struct err *e)
{
    struct beam_search *b = x->beam;
    const struct beam *beam = &b->beams[i];
    const struct params *p = &x->p;
    size_t n = (size_t)(b->n_prompt + beam->n), bytes = n * sizeof(int32_t);
    int64_t left =
        p->timeout_ns ? x->received_ns + p->timeout_ns - clock_now_ns() : 0; /* of all steps together */
    if (p->timeout_ns && left <= 0)
        return err_set_param(e, ERR_TIMEOUT, "timeout", "the request did not end within its timeout");
    struct arena *arena = arena_new(bytes + sizeof(struct gen_request) + 4096);
    struct gen_request *g = arena ? arena_alloc(arena, sizeof(*g)) : NULL;
    int32_t *ids = g ? arena_alloc(arena, bytes) : NULL;
    if (!ids) {
        arena_free(arena);
        return err_set(e, ERR_NOMEM, "out of memory for the request");
    }
    memcpy(ids, x->prompts[0].ids.ids, (size_t)b->n_prompt * sizeof(*ids));
    if (beam->n)
        memcpy(ids + b->n_prompt, beam->tokens, (size_t)beam->n * sizeof(*ids));
    *g = (struct gen_request){
        .arena = arena, .prompt = ids, .n_prompt = (int)n, .max_tokens = 1, .n = 1, .ignore_eos = true,
        .sampling = {.top_p = 1, .repetition_penalty = 1}, .logprobs = 2 * b->width, .prompt_logprobs = -1,
        .cache_salt = x->salt, .priority = p->priority, .fair_key = x->client, .timeout_ns = left,
        .max_queue_ns = beam->n ? 0 : p->max_queue_ns, .user = &b->slots[i],
    };
    int r = engine_submit(x->a->cfg.engine, g, &b->slots[i].request_id, e);
    if (r < 0) {
        arena_free(arena);
        return r;
    }
    b->slots[i].n_live = 1;
    b->waiting++;
    return 0;
}

/* Hands over as many beams as the queue has room for; what a search has computed is not lost because others
 * fill it. The rest follows when answers of this step, or of others, have come. */
static int send(struct api_exchange *x, struct err *e)
{
    struct beam_search *b = x->beam;
    int r = 0;
    while (b->n_sent < b->n_beams && (r = submit(x, b->n_sent, e)) == 0) {
        b->n_sent++;
        b->begun = true;
    }
    return r == ERR_BUSY && b->begun ? 0 : r;
}

static int step(struct api_exchange *x, struct err *e)
{
    x->beam->n_candidates = x->beam->n_sent = 0;
    return send(x, e);
}

void beam_poll(struct api_exchange *x)
{
    struct beam_search *b = x->beam;
    struct err e = {0};
    if (b && b->n_sent < b->n_beams && x->state == X_RUNNING && !x->gone && send(x, &e) < 0)
        exchange_fail(x, &e);
}

int beam_start(struct api_exchange *x, struct err *e)
{
    struct beam_search *b = x->beam = calloc(1, sizeof(*b));
    int w = x->p.n, room = engine_info(x->a->cfg.engine)->max_model_len - (int)x->prompts[0].ids.n;
    if (b) {
        x->a->n_searches++;
        b->width = w;
        b->n_prompt = (int)x->prompts[0].ids.n;
        b->max_tokens = x->p.max_tokens < room ? x->p.max_tokens : room;
        b->beams = calloc((size_t)w, sizeof(*b->beams));
        b->next = calloc((size_t)w, sizeof(*b->next));
        b->done = calloc((size_t)w, sizeof(*b->done));
        b->slots = calloc((size_t)w, sizeof(*b->slots));
        b->candidates = calloc((size_t)w * 2 * (size_t)w, sizeof(*b->candidates));
    }
    if (!b || !b->beams || !b->next || !b->done || !b->slots || !b->candidates) {
        beam_free(x);
        return err_set(e, ERR_NOMEM, "out of memory for the request");
    }
    for (int i = 0; i < w; i++)
        b->slots[i] = (struct prompt){.x = x, .index = i};
    b->n_beams = 1;
    return step(x, e);
}

static bool is_end(const struct api_exchange *x, int32_t token)
{
    const struct tokenizer *t = engine_info(x->a->cfg.engine)->tokenizer;
    for (int i = 0; i < x->p.n_stop_token_ids; i++)
        if (x->p.stop_token_ids[i] == token)
            return true;
    return !x->p.ignore_eos && t && tokenizer_is_eog(t, token);
}

static int better(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->sum != y->sum)
        return x->sum > y->sum ? -1 : 1;
    return x->from != y->from ? x->from - y->from : x->order - y->order;
}

static int copy_beam(struct beam *to, const struct beam *from, const int32_t *more, double sum)
{
    size_t n = (size_t)from->n + (more ? 1 : 0);
    int32_t *tokens = realloc(to->tokens, (n ? n : 1) * sizeof(*tokens));
    if (!tokens)
        return ERR_NOMEM;
    if (from->n)
        memcpy(tokens, from->tokens, (size_t)from->n * sizeof(*tokens));
    if (more)
        tokens[from->n] = *more;
    to->tokens = tokens;
    to->n = (int)n;
    to->sum = sum;
    return 0;
}

/* Keeps a finished beam, where it is among the best. */
static int finish(struct api_exchange *x, const struct beam *from, double sum)
{
    struct beam_search *b = x->beam;
    struct beam as = *from;
    int at = b->n_done;
    as.sum = sum;
    if (b->n_done == b->width) {
        at = 0;
        for (int i = 1; i < b->width; i++)
            if (score(x, &b->done[i]) < score(x, &b->done[at]))
                at = i;
        if (score(x, &as) <= score(x, &b->done[at]))
            return 0;
    }
    int r = copy_beam(&b->done[at], from, NULL, sum);
    b->n_done += r == 0 && at == b->n_done;
    return r;
}

/* From the candidates of a step to the beams of the next. */
static int choose(struct api_exchange *x)
{
    struct beam_search *b = x->beam;
    int n = 0, r = 0;
    qsort(b->candidates, (size_t)b->n_candidates, sizeof(*b->candidates), better);
    for (int i = 0; i < b->n_candidates && n < b->width && r == 0; i++) {
        const struct candidate *c = &b->candidates[i];
        if (is_end(x, c->token))
            r = finish(x, &b->beams[c->from], c->sum);
        else
            r = copy_beam(&b->next[n++], &b->beams[c->from], &c->token, c->sum);
    }
    struct beam *beams = b->beams;
    b->beams = b->next;
    b->next = beams;
    b->n_beams = n;
    return r;
}

static bool is_over(const struct api_exchange *x)
{
    const struct beam_search *b = x->beam;
    if (b->n_beams == 0 || b->beams[0].n >= b->max_tokens)
        return true;
    if (b->n_done < b->width)
        return false;
    if (x->p.early_stopping)
        return true;
    double worst = INFINITY;
    for (int i = 0; i < b->width; i++)
        worst = fmin(worst, score(x, &b->done[i]));
    /* sums only fall; the most that a beam can come to is its sum over the longest length that helps it */
    double n = x->p.length_penalty > 0 ? b->max_tokens : b->beams[0].n;
    return b->beams[0].sum / pow(n, x->p.length_penalty) <= worst;
}

struct ranked {
    const struct beam *beam;
    double score;
    int order;
    bool ended;
};

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    return x->score > y->score ? -1 : x->score < y->score ? 1 : x->order - y->order;
}

/* The text that a beam adds to the prompt: where that has any, a space before the first word is one. */
static int decode(const struct api_exchange *x, const struct beam *beam, struct buf *out)
{
    const struct tokenizer *t = engine_info(x->a->cfg.engine)->tokenizer;
    const struct token_list *prompt = &x->prompts[0].ids;
    bool skip = x->p.skip_special_tokens && !x->thinks && !x->calls, begins = true;
    struct detok d;
    struct buf raw;
    int r = 0;
    for (size_t i = 0; t && i < prompt->n && begins; i++)
        begins = tokenizer_is_special(t, prompt->ids[i]);
    detok_init(&d, t, begins);
    buf_init(&raw, API_MAX_ANSWER_BYTES);
    for (int i = 0; t && i < beam->n && r == 0; i++)
        if (!skip || !tokenizer_is_special(t, beam->tokens[i]))
            r = detok_push(&d, beam->tokens[i], &raw);
    if (t && r == 0)
        r = detok_finish(&d, &raw);
    if (r == 0 && (r = buf_reserve(out, 3 * raw.n_bytes)) == 0 && raw.n_bytes)
        out->n_bytes = utf8_sanitize(raw.data, raw.n_bytes, out->data);
    buf_done(&raw);
    return r;
}

static int tell(struct api_exchange *x, struct choice *c, const struct ranked *from)
{
    const struct beam *beam = from->beam;
    struct buf text;
    buf_init(&text, API_MAX_ANSWER_BYTES);
    int r = decode(x, beam, &text);
    if (r == 0 && x->ops->assistant) {
        assistant_feed(&c->assistant, text.n_bytes ? text.data : "", text.n_bytes);
        assistant_end(&c->assistant);
    } else if (r == 0) {
        jw_escape(&c->text, text.n_bytes ? text.data : "", text.n_bytes);
    }
    for (int i = 0; i < beam->n && x->p.return_token_ids; i++)
        jw_printf(&c->ids, "%s%d", i ? "," : "", beam->tokens[i]);
    buf_done(&text);
    c->finish = from->ended ? FINISH_STOP : FINISH_LENGTH;
    c->n_tokens = beam->n;
    c->done = true;
    x->n_done++;
    x->completion_tokens += beam->n;
    return r;
}

static int answer(struct api_exchange *x)
{
    struct beam_search *b = x->beam;
    struct ranked *all = calloc(2 * (size_t)b->width, sizeof(*all));
    int n = 0, r = all ? 0 : ERR_NOMEM;
    for (int i = 0; all && i < b->n_done; i++, n++)
        all[n] = (struct ranked){&b->done[i], score(x, &b->done[i]), n, true};
    for (int i = 0; all && i < b->n_beams; i++, n++)
        all[n] = (struct ranked){&b->beams[i], score(x, &b->beams[i]), n, false};
    if (all)
        qsort(all, (size_t)n, sizeof(*all), by_score);
    for (int i = 0; i < x->n_choices && r == 0; i++) /* a vocabulary of one token has fewer: the last again */
        r = tell(x, &x->choices[i], &all[i < n ? i : n - 1]);
    free(all);
    return r;
}

void beam_event(struct api_exchange *x, struct prompt *slot, const struct gen_event *ev)
{
    struct beam_search *b = x->beam;
    struct err e = {0};
    if (ev->type == GEN_FAILED) {
        exchange_fail(x, &ev->error);
        return;
    }
    if (ev->type == GEN_TOKENS && ev->n_tokens > 0)
        for (int i = 0; i < ev->tokens[0].n_top; i++)
            b->candidates[b->n_candidates++] = (struct candidate){
                slot->index, i, ev->tokens[0].top[i].token_id,
                b->beams[slot->index].sum + (double)ev->tokens[0].top[i].logprob};
    if (ev->type != GEN_DONE)
        return;
    if (x->prompt_tokens == 0) {
        x->prompt_tokens = ev->prompt_tokens;
        x->cached_tokens = ev->cached_tokens;
        x->ttft_ns = ev->ttft_ns;
    }
    b->waiting--;
    if (b->n_sent < b->n_beams)
        beam_poll(x);
    if (b->waiting > 0 || b->n_sent < b->n_beams)
        return;
    int r = choose(x);
    if (r == 0 && !is_over(x)) {
        if (step(x, &e) < 0)
            exchange_fail(x, &e);
        return;
    }
    if (r == 0)
        r = answer(x);
    if (r < 0) {
        err_set(&e, r, "out of memory for the answer");
        exchange_fail(x, &e);
        return;
    }
    jw_reset(&x->out);
    x->ops->whole(x, &x->out);
    exchange_finish(x, &x->out);
}
