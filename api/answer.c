/* api/answer.c - the parts that completions and chats write alike. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"
#include "base/clock.h"

const char *finish_name(enum finish_reason f)
{
    switch (f) {
    case FINISH_STOP:
        return "stop";
    case FINISH_LENGTH:
        return "length";
    case FINISH_REPETITION:
        return "repetition";
    case FINISH_ABORT:
        return "abort";
    case FINISH_ERROR:
        return "error";
    case FINISH_NONE:
        break;
    }
    return NULL;
}

const char *chat_finish_name(const struct choice *c)
{
    return c->finish == FINISH_STOP && c->parts.n_calls > 0 ? "tool_calls" : finish_name(c->finish);
}

void write_arguments(const struct part *p, struct jw *w)
{
    struct jw quoted;
    jw_init(&quoted, p->text.b.max_bytes + 2);
    jw_raw(&quoted, "\"");
    jw_join(&quoted, &p->text);
    jw_raw(&quoted, "\"");
    errno = 0;
    cJSON *string = quoted.err ? NULL : cJSON_Parse(quoted.b.data);
    const char *text = cJSON_GetStringValue(string);
    cJSON *value = text ? cJSON_Parse(text) : NULL;
    if (!value && !w->err) /* what the model wrote may be no JSON; that is not this */
        w->err = quoted.err ? quoted.err : errno == ENOMEM ? ERR_NOMEM : 0;
    jw_raw(w, cJSON_IsObject(value) ? text : "{}");
    cJSON_Delete(value);
    cJSON_Delete(string);
    jw_done(&quoted);
}

void write_usage(const struct api_exchange *x, struct jw *w)
{
    int n_prompt = 0; /* in chunks too, while the choices have not ended that x->prompt_tokens counts */
    for (int i = 0; i < x->n_prompts; i++)
        n_prompt += (int)x->prompts[i].ids.n;
    jw_printf(w, ",\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,",
              n_prompt, x->completion_tokens, n_prompt + x->completion_tokens);
    jw_printf(w, "\"prompt_tokens_details\":{\"cached_tokens\":%d}", x->cached_tokens);
    if (x->thinks || x->p.prediction)
        jw_printf(w, ",\"completion_tokens_details\":{\"reasoning_tokens\":%d", x->reasoning_tokens);
    if (x->p.prediction)
        jw_printf(w, ",\"accepted_prediction_tokens\":%d,\"rejected_prediction_tokens\":%d",
                  x->accepted_prediction_tokens, x->rejected_prediction_tokens);
    jw_raw(w, x->thinks || x->p.prediction ? "}}" : "}");
}

void write_token(const struct api_exchange *x, struct jw *w, int32_t id)
{
    const struct tokenizer *t = engine_info(x->a->cfg.engine)->tokenizer;
    size_t n;
    if (x->p.return_tokens_as_token_ids || !t) {
        jw_printf(w, "\"token_id:%d\"", id);
        return;
    }
    const char *s = tokenizer_token_bytes(t, id, &n);
    jw_token_text(w, s, n);
}

static void write_one(const struct api_exchange *x, struct jw *w, int32_t id, float logprob, bool by_id)
{
    const struct tokenizer *t = engine_info(x->a->cfg.engine)->tokenizer;
    size_t n = 0;
    const char *s = t ? tokenizer_token_bytes(t, id, &n) : "";
    jw_raw(w, "{");
    if (by_id)
        jw_printf(w, "\"id\":%d,", id);
    jw_raw(w, "\"token\":");
    write_token(x, w, id);
    jw_raw(w, ",\"logprob\":");
    jw_float(w, logprob);
    jw_raw(w, ",\"bytes\":[");
    for (size_t i = 0; i < n; i++)
        jw_printf(w, "%s%d", i ? "," : "", (unsigned char)s[i]);
    jw_raw(w, "]");
}

void write_token_logprobs(const struct api_exchange *x, struct jw *w, const struct gen_token *t, bool by_id)
{
    write_one(x, w, t->id, t->logprob, by_id);
    jw_raw(w, ",\"top_logprobs\":[");
    for (int i = 0; i < t->n_top; i++) {
        jw_raw(w, i ? "," : "");
        write_one(x, w, t->top[i].token_id, t->top[i].logprob, by_id);
        jw_raw(w, "}");
    }
    jw_raw(w, "]}");
}

int strip_of(const struct api_exchange *x)
{
    struct detok d;
    detok_init(&d, engine_info(x->a->cfg.engine)->tokenizer, true);
    return d.strip;
}

long token_chars(const struct api_exchange *x, int32_t id, int *strip)
{
    const struct tokenizer *t = engine_info(x->a->cfg.engine)->tokenizer;
    long chars = 0;
    size_t n = 0;
    const char *s = t ? tokenizer_token_bytes(t, id, &n) : "";
    if (t && x->p.skip_special_tokens && tokenizer_is_special(t, id))
        return 0;
    for (; n > 0 && *strip > 0 && *s == ' '; s++, n--)
        --*strip;
    *strip = n > 0 ? 0 : *strip;
    for (size_t i = 0; i < n; i++)
        chars += ((unsigned char)s[i] & 0xc0) != 0x80;
    return chars;
}

void write_progress(const struct api_exchange *x, const struct gen_event *ev, struct jw *w)
{
    jw_printf(w, ",\"prompt_progress\":{\"total\":%d,\"cache\":%d,\"processed\":%d,\"time_ms\":%lld}",
              ev->prompt_tokens, ev->cached_tokens, ev->prompt_position,
              (long long)((clock_now_ns() - x->received_ns) / 1000000));
}

static void write_by_id(const struct api_exchange *x, struct jw *w, int32_t id, float logprob, int rank)
{
    const struct tokenizer *t = engine_info(x->a->cfg.engine)->tokenizer;
    size_t n = 0;
    const char *s = t ? tokenizer_token_bytes(t, id, &n) : "";
    jw_printf(w, "\"%d\":{\"logprob\":", id);
    jw_float(w, logprob);
    jw_printf(w, ",\"rank\":%d,\"decoded_token\":", rank);
    jw_token_text(w, s, n);
    jw_raw(w, "}");
}

void write_prompt_logprob(const struct api_exchange *x, struct jw *w, const struct gen_token *t, bool first)
{
    bool listed = false;
    if (first) { /* nothing predicts it */
        jw_raw(w, "null");
        return;
    }
    jw_raw(w, "{");
    for (int i = 0; i < t->n_top; i++) {
        jw_raw(w, i ? "," : "");
        write_by_id(x, w, t->top[i].token_id, t->top[i].logprob, t->top[i].rank);
        listed |= t->top[i].token_id == t->id;
    }
    if (!listed) {
        jw_raw(w, t->n_top ? "," : "");
        write_by_id(x, w, t->id, t->logprob, t->rank);
    }
    jw_raw(w, "}");
}

void write_prompt_logprobs(const struct api_exchange *x, const struct prompt *pr, struct jw *w)
{
    if (x->p.prompt_logprobs < 0)
        return;
    jw_raw(w, ",\"prompt_logprobs\":[");
    jw_join(w, &pr->logprobs);
    jw_raw(w, "]");
}

static int likelier_first(const void *a, const void *b)
{
    const struct choice *x = a, *y = b;
    double p = x->sum_logprob / (x->n_tokens ? x->n_tokens : 1),
           q = y->sum_logprob / (y->n_tokens ? y->n_tokens : 1);
    return p > q ? -1 : p < q ? 1 : x->index - y->index;
}

int order_choices(struct api_exchange *x)
{
    int n = x->p.n, shown = x->p.n_shown;
    for (int i = 0; i < x->n_prompts && shown < n; i++) {
        struct choice *c = &x->choices[i * n];
        qsort(c, (size_t)n, sizeof(*c), likelier_first);
        for (int k = 0; k < shown; k++)
            c[k].index = i * shown + k;
    }
    return shown;
}

void write_stop_reason(const struct choice *c, struct jw *w)
{
    jw_raw(w, ",\"stop_reason\":");
    if (c->stop_token_id >= 0)
        jw_printf(w, "%d", c->stop_token_id);
    else
        jw_cstring(w, c->stop_string);
}

void write_choice_ids(const struct api_exchange *x, const struct choice *c, bool with_prompt,
                      struct jw *w)
{
    if (!x->p.return_token_ids)
        return;
    if (with_prompt) {
        const struct token_list *ids = &c->prompt->ids;
        jw_raw(w, ",\"prompt_token_ids\":[");
        for (size_t i = 0; i < ids->n; i++)
            jw_printf(w, "%s%d", i ? "," : "", ids->ids[i]);
        jw_raw(w, "]");
    }
    jw_raw(w, ",\"token_ids\":[");
    jw_join(w, &c->ids);
    jw_raw(w, "]");
}
