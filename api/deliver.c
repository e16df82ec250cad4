/* api/deliver.c - what the engine tells of a request, turned into its answer: events of a stream as they
 * come, or everything at the end. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "api/beam.h"
#include "api/internal.h"
#include "api/resume.h"
#include "api/store.h"
#include "base/clock.h"

#define CHUNK_BYTES (4u << 20)

/* --- streams --------------------------------------------------------------------------------------- */

static void send_events(struct api_exchange *x, const char *data, size_t n_bytes)
{
    if (x->resumable)
        resumable_write(x, data, n_bytes);
    else
        x->reply.ops->write(x->reply.host, data, n_bytes);
}

void stream_write(struct api_exchange *x, struct jw *w)
{
    if (w->err)
        x->lost = w->err;
    else if (w->b.n_bytes && !x->lost) { /* nothing comes behind a gap */
        send_events(x, w->b.data, w->b.n_bytes);
        x->written_ns = clock_now_ns();
    }
    jw_reset(w);
}

static void headers(const struct reply *r, const char *type, const char *location)
{
    const struct api_header list[] = {
        {"Content-Type", type ? type : "text/event-stream; charset=utf-8"},
        {"Cache-Control", "no-cache"},
        {"X-Accel-Buffering", "no"},
        {"Content-Location", location},
    };
    r->ops->begin(r->host, 200, list, location ? 4 : 3, -1);
}

void stream_headers(const struct reply *r, const char *location)
{
    headers(r, NULL, location);
}

void stream_begin(struct api_exchange *x)
{
    x->begun = true;
    x->written_ns = clock_now_ns();
    headers(&x->reply, x->ops->stream_type, x->resumable ? resumable_path(x) : NULL);
    if (x->ops->opening) {
        jw_reset(&x->out);
        x->ops->opening(x, &x->out);
        stream_write(x, &x->out);
    }
}

/* When there is no memory for more. The first is that of Anthropic's and of OpenAI's events at once. */
static const char failed_event[] =
    "event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"out of memory\","
    "\"param\":null,\"error\":{\"type\":\"api_error\",\"message\":\"out of memory\"}}\n\n";
static const char failed_data[] =
    "data: {\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"param\":null,"
    "\"code\":null}}\n\ndata: [DONE]\n\n";

void stream_fail(struct api_exchange *x, const struct err *e)
{
    struct jw w;
    jw_init(&w, CHUNK_BYTES);
    if (x->ops->failed) {
        x->ops->failed(x, e, &w);
    } else {
        jw_raw(&w, "data: ");
        error_json(&w, x->reply.dialect, error_status(e), error_code(e), e->param, e->text);
        jw_raw(&w, "\n\ndata: [DONE]\n\n");
    }
    x->lost = 0;
    stream_write(x, &w);
    jw_done(&w);
    if (x->lost) {
        const char *text = x->ops->stream_type ? "{\"error\":\"out of memory\"}\n"
                           : x->ops->failed    ? failed_event
                                               : failed_data;
        send_events(x, text, strlen(text));
    }
    exchange_end(x);
}

static void send_chunk(struct api_exchange *x, struct choice *c, bool final)
{
    struct jw *w = &x->out;
    jw_reset(w);
    x->ops->chunk(x, c, final, w);
    int lost = c->text.err ? c->text.err : c->ids.err;
    for (int k = 0; k < 4; k++)
        lost = lost ? lost : c->lp[k].err;
    w->err = w->err ? w->err : lost;
    jw_reset(&c->text);
    parts_told(&c->parts, x->ops->keeps_parts);
    jw_reset(&c->ids);
    for (int k = 0; k < 4; k++)
        jw_reset(&c->lp[k]);
    c->n_lp = 0;
    c->started = true;
    stream_write(x, w);
}

/* Part of the answer could not be kept or written: the client is told, and gets no more of it. */
static bool fail_if_lost(struct api_exchange *x, int lost)
{
    struct err e = {0};
    lost = lost ? lost : x->lost;
    if (lost)
        exchange_fail(x, (err_set(&e, lost, "the answer does not fit into memory"), &e));
    return lost != 0;
}

static void send_end(struct api_exchange *x)
{
    jw_reset(&x->out);
    x->ops->closing(x, &x->out);
    stream_write(x, &x->out);
    if (!fail_if_lost(x, 0))
        exchange_end(x);
}

void sse_closing(struct api_exchange *x, struct jw *w)
{
    if (x->p.include_usage) {
        jw_raw(w, "data: ");
        x->ops->usage_chunk(x, w);
        jw_raw(w, "\n\n");
    }
    jw_raw(w, "data: [DONE]\n\n");
}

/* --- events ---------------------------------------------------------------------------------------- */

/* A request may ask for many copies of long prompts: together they are no larger than an answer. */
static bool too_large(struct api_exchange *x, size_t n_bytes)
{
    x->n_scored += n_bytes;
    return x->n_scored > API_MAX_ANSWER_BYTES;
}

static size_t lp_bytes(const struct jw lp[4])
{
    return lp[0].b.n_bytes + lp[1].b.n_bytes + lp[2].b.n_bytes + lp[3].b.n_bytes;
}

/* The prompt's part of a choice's answer, before its first own token. */
static void echo(struct api_exchange *x, struct choice *c)
{
    struct prompt *pr = c->prompt;
    c->echoed = true;
    if (too_large(x, pr->text_bytes + lp_bytes(pr->lp))) {
        c->parts.err = ERR_LIMIT;
        return;
    }
    const struct tokenizer *t = engine_info(x->a->cfg.engine)->tokenizer;
    if (pr->text && !pr->cut) {
        jw_escape(&c->text, pr->text, pr->text_bytes);
    } else if (t) {
        struct buf raw;
        buf_init(&raw, API_MAX_ANSWER_BYTES);
        if (tokenizer_decode(t, pr->ids.ids, pr->ids.n, x->p.skip_special_tokens, &raw) == 0)
            jw_escape(&c->text, raw.n_bytes ? raw.data : "", raw.n_bytes);
        else
            c->text.err = ERR_NOMEM;
        buf_done(&raw);
    }
    for (int k = 0; k < 4; k++)
        jw_join(&c->lp[k], &pr->lp[k]);
    c->n_lp = pr->n_lp;
    c->offset = pr->offset;
    int strip = strip_of(x);
    if (!pr->n_lp)
        for (size_t i = 0; i < pr->ids.n; i++)
            c->offset += token_chars(x, pr->ids.ids[i], &strip);
}

/* Behind a prompt of control tokens alone the answer begins the text. */
static int strip_behind(const struct api_exchange *x, const struct prompt *pr)
{
    const struct tokenizer *t = engine_info(x->a->cfg.engine)->tokenizer;
    for (size_t i = 0; t && i < pr->ids.n; i++)
        if (!tokenizer_is_special(t, pr->ids.ids[i]))
            return 0;
    return strip_of(x);
}

static void take_tokens(struct api_exchange *x, struct choice *c, const struct gen_event *ev)
{
    if (c->n_tokens == 0 && x->p.logprobs >= 0)
        c->strip = strip_behind(x, c->prompt);
    if (x->ops->assistant) {
        if (assistant_thinks(&c->assistant))
            x->reasoning_tokens += ev->n_tokens;
        assistant_feed(&c->assistant, ev->text ? ev->text : "", ev->text_bytes);
    } else {
        jw_escape(&c->text, ev->text ? ev->text : "", ev->text_bytes);
    }
    for (int i = 0; i < ev->n_tokens; i++) {
        const struct gen_token *t = &ev->tokens[i];
        if (x->p.return_token_ids)
            jw_printf(&c->ids, "%s%d", c->ids.b.n_bytes ? "," : "", t->id);
        if (x->p.logprobs >= 0) {
            x->ops->logprob(x, c->lp, c->n_lp++, c->offset, t, false);
            c->offset += token_chars(x, t->id, &c->strip);
        }
        c->n_tokens++;
        c->sum_logprob += (double)t->logprob;
    }
    x->completion_tokens += ev->n_tokens;
}

static int take_prompt(struct api_exchange *x, struct prompt *pr, const struct gen_event *ev)
{
    size_t before = lp_bytes(pr->lp) + pr->logprobs.b.n_bytes;
    for (int i = 0; i < ev->n_tokens; i++) {
        struct gen_token t = ev->tokens[i]; /* may have more alternatives than either asked for */
        bool first = ev->prompt_position + i == 0;
        if (x->p.prompt_logprobs >= 0) {
            t.n_top = t.n_top < x->p.prompt_logprobs ? t.n_top : x->p.prompt_logprobs;
            jw_raw(&pr->logprobs, first ? "" : ",");
            write_prompt_logprob(x, &pr->logprobs, &t, first);
        }
        if (!x->p.echo || x->p.logprobs < 0)
            continue;
        t.n_top = ev->tokens[i].n_top < x->p.logprobs ? ev->tokens[i].n_top : x->p.logprobs;
        x->ops->logprob(x, pr->lp, pr->n_lp++, pr->offset, &t, first);
        pr->strip = first ? strip_of(x) : pr->strip;
        pr->offset += token_chars(x, t.id, &pr->strip);
    }
    return too_large(x, lp_bytes(pr->lp) + pr->logprobs.b.n_bytes - before) ? ERR_LIMIT : 0;
}

static void take_end(struct api_exchange *x, struct choice *c, const struct gen_event *ev)
{
    c->done = true;
    if (x->ops->assistant)
        assistant_end(&c->assistant);
    c->finish = ev->finish_reason;
    c->stop_token_id = ev->stop_token_id;
    c->stop_string = ev->stop_string ? strdup(ev->stop_string) : NULL;
    if (ev->stop_string && !c->stop_string)
        c->parts.err = ERR_NOMEM;
    if (ev->embedding) {
        c->n_vector = engine_info(x->a->cfg.engine)->config.hidden_size;
        c->vector = malloc((size_t)c->n_vector * sizeof(*c->vector));
        if (c->vector)
            memcpy(c->vector, ev->embedding, (size_t)c->n_vector * sizeof(*c->vector));
        else
            c->parts.err = ERR_NOMEM;
    }
    c->prompt->cached_tokens = ev->cached_tokens;
    c->drafted_tokens = ev->drafted_tokens;
    c->accepted_tokens = ev->accepted_tokens;
    x->rejected_prediction_tokens += ev->rejected_prediction_tokens;
    x->accepted_prediction_tokens += ev->accepted_prediction_tokens;
    if (ev->choice == 0) {
        x->prompt_tokens += ev->prompt_tokens;
        x->cached_tokens += ev->cached_tokens;
    }
    if (ev->ttft_ns > 0 && (x->ttft_ns < 0 || ev->ttft_ns < x->ttft_ns))
        x->ttft_ns = ev->ttft_ns;
    x->n_done++;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < 0 || b < a ? b : a;
}

/* The times of a choice that ended, as the request's: the first that ran, the first token, the last. */
static void take_stages(struct api_stages *s, const struct gen_event *ev)
{
    s->preemptions += ev->preemptions;
    s->preempted_ns += ev->preempted_ns;
    if (ev->prefill_ns > 0)
        s->ran_ns = earlier(s->ran_ns, ev->queue_ns);
    if (ev->ttft_ns <= 0)
        return;
    s->first_ns = earlier(s->first_ns, ev->ttft_ns);
    if (ev->ttft_ns + ev->decode_ns > s->last_ns)
        s->last_ns = ev->ttft_ns + ev->decode_ns;
}

/* Of prompts that go in lots. */
static void send_more(struct api_exchange *x)
{
    struct err e = {0};
    if (x->n_sent < x->n_prompts && x->state == X_RUNNING && !x->gone && !x->beam && exchange_send(x, &e) < 0)
        exchange_fail(x, &e);
}

static void on_event(struct api_exchange *x, struct prompt *pr, const struct gen_event *ev)
{
    if (x->beam) {
        beam_event(x, pr, ev);
        return;
    }
    struct choice *c = &x->choices[pr->index * x->p.n + ev->choice];
    bool stream = x->p.stream;
    if (ev->type == GEN_DONE || ev->type == GEN_FAILED)
        take_stages(&x->stages, ev);
    if (ev->type == GEN_FAILED || (ev->type == GEN_CACHE && !ev->cache)) {
        exchange_fail(x, &ev->error);
        return;
    }
    if (ev->type == GEN_CACHE) {
        x->ops->cache(x, ev->cache);
        return;
    }
    if (ev->type == GEN_PROGRESS) {
        if (x->ops->progress) {
            jw_reset(&x->out);
            x->ops->progress(x, ev, &x->out);
            stream_write(x, &x->out);
        }
        return;
    }
    if (ev->type == GEN_PROMPT) {
        fail_if_lost(x, take_prompt(x, pr, ev));
        return;
    }
    if (x->p.echo && !c->echoed)
        echo(x, c);
    if (fail_if_lost(x, c->parts.err))
        return;
    if (ev->type == GEN_TOKENS)
        take_tokens(x, c, ev);
    else
        take_end(x, c, ev);
    if (stream && (c->done || c->text.b.n_bytes || parts_pending(&c->parts) || c->ids.b.n_bytes ||
                   c->n_lp || !c->started))
        send_chunk(x, c, c->done);
    if (fail_if_lost(x, c->parts.err))
        return;
    if (x->n_done < x->n_choices) {
        send_more(x);
        return;
    }
    if (x->ops->generated) {
        x->ops->generated(x);
    } else if (stream) {
        send_end(x);
    } else {
        jw_reset(&x->out);
        x->ops->whole(x, &x->out);
        exchange_finish(x, &x->out);
    }
}

static bool must_pause(const struct api_exchange *x)
{
    const struct api_config *cfg = &x->a->cfg;
    size_t low = cfg->write_low_bytes, high = cfg->write_high_bytes;
    if (resumable_absent(x))
        return resumable_crowded(x);
    if (x->resumable && high > cfg->stream_window / 4) /* the window must hold what is not read yet */
        high = cfg->stream_window / 4;
    return x->reply.ops->queued_bytes(x->reply.host) > (x->paused && low < high ? low : high);
}

void exchange_pressure(struct api_exchange *x)
{
    const struct api_config *cfg = &x->a->cfg;
    if (x->gone || x->state != X_RUNNING || !x->p.stream)
        return;
    bool pause = must_pause(x);
    if (pause == x->paused)
        return;
    x->paused = pause;
    for (int i = 0; i < x->n_prompts; i++)
        if (x->prompts[i].n_live > 0)
            engine_pause(cfg->engine, x->prompts[i].request_id, pause);
}

/* Searches and lots that the queue had no room for go on. */
static void poll_queue(struct api *a)
{
    for (struct api_exchange *x = a->exchanges, *next; x && a->n_searches + a->n_lots; x = next) {
        next = x->next;
        beam_poll(x);
        if (x->ops->lots)
            send_more(x);
        if (x->beam || x->ops->lots)
            exchange_free_if_over(x);
    }
}

void api_poll(struct api *a)
{
    struct gen_event *ev;
    while ((ev = engine_next_event(a->cfg.engine))) {
        struct prompt *pr = ev->user;
        struct api_exchange *x = pr->x;
        if (ev->type == GEN_DONE || ev->type == GEN_FAILED || ev->type == GEN_CACHE)
            pr->n_live--;
        if (!x->gone && x->state == X_RUNNING)
            on_event(x, pr, ev);
        engine_event_free(a->cfg.engine, ev);
        exchange_pressure(x);
        exchange_free_if_over(x);
    }
    poll_queue(a);
    store_poll(a->store);
}

void api_exchange_writable(struct api_exchange *x)
{
    exchange_pressure(x);
}

void api_tick(struct api *a)
{
    int64_t now = clock_now_ns();
    resume_tick(a, now);
    poll_queue(a);
    for (struct api_exchange *x = a->exchanges; x; x = x->next) {
        if (!x->begun || x->gone || x->state != X_RUNNING || now - x->written_ns < a->cfg.keepalive_ns ||
            a->cfg.keepalive_ns <= 0 || x->ops->stream_type ||
            x->reply.ops->queued_bytes(x->reply.host) > a->cfg.write_low_bytes) /* it has enough to read */
            continue;
        const char *text = x->ops->keepalive ? x->ops->keepalive : ": keep-alive\n\n";
        x->reply.ops->write(x->reply.host, text, strlen(text));
        x->written_ns = now;
    }
}
