/* tests/integration/scripted.c - the daemon with an engine that says what it is told: everything above the
 * engine is the real thing, so that clients can be shown answers that the small model would never give.
 *
 * What is said: the last thing in the prompt after <|user|>; after <|tool|> it is "The tool said " and
 * that. It comes token by token, each an event, with stop strings as ever. Vocabulary and tokenizer are the
 * model file's. Loop thread. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/model/checkpoint.h"
#include "engine/textout.h"

struct told { /* an event with what it points to */
    struct gen_event event;
    struct gen_token token;
    char text[512];
    struct told *next;
};

struct engine {
    struct checkpoint *checkpoint;
    struct tokenizer *tokenizer;
    struct engine_info info;
    enum engine_state state;
    void (*wake)(void *arg);
    void *wake_arg;
    struct told *first, *last;
    uint64_t ids;
    struct err error;
};

int engine_start(const struct engine_config *cfg, struct engine **ret, struct err *e)
{
    struct engine *eng = calloc(1, sizeof(*eng));
    if (!eng || checkpoint_open(cfg->model_path, &eng->checkpoint, e) < 0 ||
        tokenizer_new(&eng->checkpoint->tokenizer, eng->checkpoint->config.vocab_size, &eng->tokenizer, e) <
            0)
        return e->code ? e->code : ERR_NOMEM;
    eng->info = (struct engine_info){.config = eng->checkpoint->config,
                                     .max_model_len = 4096,
                                     .model_id = "scripted",
                                     .tokenizer = eng->tokenizer,
                                     .format = "script",
                                     .weight_types = "none"};
    eng->wake = cfg->wake;
    eng->wake_arg = cfg->wake_arg;
    eng->state = ENGINE_READY;
    *ret = eng;
    eng->wake(eng->wake_arg);
    return 0;
}

int engine_grammar(struct engine *eng, enum grammar_kind kind, const char *source, size_t n_bytes,
                   struct grammar **ret, struct err *e)
{
    (void)eng, (void)kind, (void)source, (void)n_bytes, (void)ret;
    return err_set(e, ERR_UNSUPPORTED, "a script has no grammar");
}

static struct told *tell(struct engine *eng, const struct gen_request *g, enum gen_event_type type)
{
    struct told *t = calloc(1, sizeof(*t));
    if (!t)
        abort();
    t->event = (struct gen_event){.type = type,
                                  .request_id = eng->ids,
                                  .user = g->user,
                                  .text = t->text,
                                  .stop_token_id = -1,
                                  .tokens = &t->token,
                                  .prompt_tokens = g->n_prompt};
    *(eng->last ? &eng->last->next : &eng->first) = t;
    eng->last = t;
    return t;
}

/* What the prompt asks to be said; malloc'ed. */
static char *script(const struct engine *eng, const struct gen_request *g)
{
    struct buf text;
    const char *from = NULL, *tool = NULL;
    buf_init(&text, 1 << 20);
    if (tokenizer_decode(eng->tokenizer, g->prompt, (size_t)g->n_prompt, false, &text) < 0)
        abort();
    for (const char *s = text.data; s && (s = strstr(s, "<|user|>")); from = s += 8)
        ;
    for (const char *s = text.data; s && (s = strstr(s, "<|tool|>")); tool = s += 8)
        ;
    struct buf out;
    buf_init(&out, 1 << 20);
    if (tool > from)
        (void)buf_printf(&out, "The tool said %s", tool);
    else
        (void)buf_puts(&out, from ? from : "");
    char *end = out.data ? strstr(out.data, "<|assistant|>") : NULL;
    if (end)
        *end = 0;
    buf_done(&text);
    return buf_take(&out, NULL);
}

int engine_submit(struct engine *eng, struct gen_request *g, uint64_t *ret_id, struct err *e)
{
    struct token_list ids = {0};
    struct textout out;
    struct buf shown;
    char *text = script(eng, g);
    int hit = -1, n = 0;
    if (!text || tokenizer_encode(eng->tokenizer, text, strlen(text), 0, 100000, &ids, e) < 0 ||
        textout_init(&out, eng->tokenizer, g->stop, g->n_stop, false, g->include_stop, true) < 0)
        return err_set(e, ERR_NOMEM, "out of memory");
    *ret_id = ++eng->ids;
    buf_init(&shown, 500);
    for (; n < (int)ids.n && n < g->max_tokens && hit < 0; n++) {
        struct told *t = tell(eng, g, GEN_TOKENS);
        buf_reset(&shown);
        hit = textout_push(&out, ids.ids[n], true, &shown);
        if (hit == -1 && (n + 1 == (int)ids.n || n + 1 == g->max_tokens))
            hit = textout_finish(&out, true, &shown);
        if (hit < -1)
            abort();
        t->token.id = ids.ids[n];
        t->event.n_tokens = 1;
        t->event.text_bytes = shown.n_bytes;
        memcpy(t->text, shown.n_bytes ? shown.data : "", shown.n_bytes);
    }
    struct told *t = tell(eng, g, GEN_DONE);
    t->event.finish_reason = hit >= 0 || n == (int)ids.n ? FINISH_STOP : FINISH_LENGTH;
    t->event.completion_tokens = n;
    if (hit >= 0)
        t->event.stop_string = memcpy(t->text, g->stop[hit].data, g->stop[hit].n_bytes);
    textout_done(&out);
    buf_done(&shown);
    free(ids.ids);
    free(text);
    arena_free(g->arena);
    eng->wake(eng->wake_arg);
    return 0;
}

struct gen_event *engine_next_event(struct engine *eng)
{
    struct told *t = eng->first;
    if (!t)
        return NULL;
    eng->first = t->next;
    if (!eng->first)
        eng->last = NULL;
    return &t->event;
}

void engine_event_free(struct engine *eng, struct gen_event *ev)
{
    (void)eng;
    free(ev); /* the first member of struct told */
}

void engine_stop(struct engine **ep)
{
    struct engine *eng = *ep;
    *ep = NULL;
    if (!eng)
        return;
    for (struct gen_event *ev; (ev = engine_next_event(eng));)
        engine_event_free(eng, ev);
    tokenizer_free(&eng->tokenizer);
    checkpoint_close(&eng->checkpoint);
    free(eng);
}

void engine_drain(struct engine *eng)
{
    eng->state = ENGINE_STOPPED;
    eng->wake(eng->wake_arg);
}

enum engine_state engine_state(const struct engine *eng)
{
    return eng->state;
}

float engine_load_progress(const struct engine *eng)
{
    (void)eng;
    return 1;
}

const struct err *engine_load_error(const struct engine *eng)
{
    return &eng->error;
}

const struct engine_info *engine_info(const struct engine *eng)
{
    return &eng->info;
}

void engine_cancel(struct engine *eng, uint64_t id) /* its end is on its way already */
{
    (void)eng;
    (void)id;
}

void engine_pause(struct engine *eng, uint64_t id, bool paused)
{
    (void)eng;
    (void)id;
    (void)paused;
}

int engine_cache(struct engine *eng, const struct engine_cache_request *req, struct err *e)
{
    (void)eng;
    (void)req;
    return err_set(e, ERR_STATE, "there is no cache");
}

int engine_retry_after(const struct engine *eng)
{
    (void)eng;
    return 1;
}

int64_t engine_step_age_ns(const struct engine *eng)
{
    (void)eng;
    return 0;
}

void engine_counts_read(const struct engine *eng, struct engine_counts *ret)
{
    (void)eng;
    *ret = (struct engine_counts){0};
}
