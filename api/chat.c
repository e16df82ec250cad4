/* api/chat.c - POST /v1/chat/completions, in OpenAI's shape. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"
#include "base/clock.h"

/* --- answers -------------------------------------------------------------------------------------- */

static void head(const struct api_exchange *x, const char *object, struct jw *w)
{
    jw_printf(w, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", x->id, object,
              (long long)x->created);
    jw_cstring(w, x->a->cfg.model_id ? x->a->cfg.model_id : engine_info(x->a->cfg.engine)->model_id);
}

static void write_one(const struct api_exchange *x, struct jw *w, int32_t id, float logprob)
{
    const struct tokenizer *t = engine_info(x->a->cfg.engine)->tokenizer;
    size_t n = 0;
    const char *s = t ? tokenizer_token_bytes(t, id, &n) : "";
    jw_raw(w, "{\"token\":");
    write_token(x, w, id);
    jw_raw(w, ",\"logprob\":");
    jw_float(w, logprob);
    jw_raw(w, ",\"bytes\":[");
    for (size_t i = 0; i < n; i++)
        jw_printf(w, "%s%d", i ? "," : "", (unsigned char)s[i]);
    jw_raw(w, "]");
}

static void logprob(struct api_exchange *x, struct jw lp[4], int n_lp, long offset,
                    const struct gen_token *t, bool first)
{
    (void)offset;
    (void)first;
    jw_raw(&lp[0], n_lp ? "," : "");
    write_one(x, &lp[0], t->id, t->logprob);
    jw_raw(&lp[0], ",\"top_logprobs\":[");
    for (int i = 0; i < t->n_top; i++) {
        jw_raw(&lp[0], i ? "," : "");
        write_one(x, &lp[0], t->top[i].token_id, t->top[i].logprob);
        jw_raw(&lp[0], "}");
    }
    jw_raw(&lp[0], "]}");
}

static void write_rest(const struct api_exchange *x, const struct choice *c, bool final, struct jw *w)
{
    jw_raw(w, ",\"logprobs\":");
    if (x->p.logprobs >= 0) {
        jw_raw(w, "{\"content\":[");
        jw_join(w, &c->lp[0]);
        jw_raw(w, "],\"refusal\":null}");
    } else {
        jw_raw(w, "null");
    }
    jw_raw(w, ",\"finish_reason\":");
    jw_cstring(w, final ? finish_name(c->finish) : NULL);
    if (final)
        write_stop_reason(c, w);
    write_choice_ids(x, c, !c->started, w);
    jw_raw(w, "}");
}

static void chunk(struct api_exchange *x, struct choice *c, bool final, struct jw *w)
{
    head(x, "chat.completion.chunk", w);
    jw_printf(w, ",\"choices\":[{\"index\":%d,\"delta\":{", c->index);
    if (!c->started)
        jw_raw(w, "\"role\":\"assistant\",");
    if (!c->started || c->text.b.n_bytes || !final) {
        jw_raw(w, "\"content\":\"");
        jw_join(w, &c->text);
        jw_raw(w, "\"");
    }
    jw_raw(w, "}");
    write_rest(x, c, final, w);
    jw_raw(w, "]");
    if (x->p.continuous_usage_stats)
        write_usage(x, w);
    else if (x->p.include_usage)
        jw_raw(w, ",\"usage\":null");
    jw_raw(w, "}");
}

static void usage_chunk(struct api_exchange *x, struct jw *w)
{
    head(x, "chat.completion.chunk", w);
    jw_raw(w, ",\"choices\":[]");
    write_usage(x, w);
    jw_raw(w, "}");
}

static void whole(struct api_exchange *x, struct jw *w)
{
    head(x, "chat.completion", w);
    jw_raw(w, ",\"choices\":[");
    for (int i = 0; i < x->n_choices; i++) {
        const struct choice *c = &x->choices[i];
        jw_printf(w, "%s{\"index\":%d,\"message\":{\"role\":\"assistant\",\"content\":\"", i ? "," : "",
                  c->index);
        jw_join(w, &c->text);
        jw_raw(w, "\",\"refusal\":null}");
        write_rest(x, c, true, w);
    }
    jw_raw(w, "]");
    write_usage(x, w);
    jw_raw(w, "}");
}

static const struct answer_ops chat_ops = {
    .id_prefix = "chatcmpl-",
    .chunk = chunk,
    .usage_chunk = usage_chunk,
    .whole = whole,
    .logprob = logprob,
};

/* --- prompts -------------------------------------------------------------------------------------- */

static const char *token_text(const struct tokenizer *t, int32_t id, char *dst, size_t dst_bytes)
{
    size_t n = 0;
    const char *s = id >= 0 ? tokenizer_token_bytes(t, id, &n) : "";
    if (n >= dst_bytes)
        n = 0;
    memcpy(dst, s, n);
    dst[n] = 0;
    return dst;
}

/* Cuts what the template puts after the last message's text. */
static int cut_after_last(const cJSON *messages, struct template_output *o, struct err *e)
{
    const cJSON *last = cJSON_GetArrayItem(messages, cJSON_GetArraySize(messages) - 1);
    const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(last, "content"));
    size_t n = s ? strlen(s) : 0, at = o->n_bytes;
    while (n && (s[n - 1] == ' ' || s[n - 1] == '\n')) /* templates may trim it */
        n--;
    while (at >= n && at > 0 && memcmp(o->text + at - n, s, n) != 0)
        at--;
    if (n == 0 || at < n)
        return err_set_param(e, ERR_INVAL, "continue_final_message",
                             "continue_final_message: the last message's text is not in the rendered chat");
    o->n_bytes = at;
    return 0;
}

int chat_prompt(struct api *a, struct api_exchange *x, struct err *e)
{
    const struct tokenizer *t = engine_info(a->cfg.engine)->tokenizer;
    struct template_output o;
    char bos[256], eos[256];
    int r = messages_check(x->p.messages, e);
    if (r == 0)
        r = tools_check(x->p.tools, e);
    if (r < 0)
        return r;
    if (!t)
        return err_set_param(e, ERR_UNSUPPORTED, "messages",
                             "this model has no tokenizer: it serves token ids at /v1/completions only");
    const cJSON *tools = x->p.no_tools ? NULL : x->p.tools;
    struct template *template = api_chat_template(a, tools != NULL, e);
    if (!template)
        return e->code;
    const struct template_text texts[] = {
        {"bos_token", token_text(t, tokenizer_bos(t), bos, sizeof(bos))},
        {"eos_token", token_text(t, tokenizer_eos(t), eos, sizeof(eos))},
    };
    struct template_input in = {
        .messages = x->p.messages,
        .add_generation_prompt = x->p.add_generation_prompt && !x->p.continue_final_message,
        .tools = tools,
        .documents = x->p.documents,
        .kwargs = x->p.template_kwargs,
        .adapt_messages = true,
        .texts = texts,
        .n_texts = sizeof(texts) / sizeof(*texts),
        .now = clock_wall_ns() / NS_PER_SEC,
    };
    r = template_render(template, &in, a->cfg.max_prompt_bytes, &o, e);
    if (r < 0)
        return r;
    x->prompts[0].owned = o.text;
    x->prompts[0].literal = o.literal;
    if (x->p.continue_final_message && (r = cut_after_last(x->p.messages, &o, e)) < 0)
        return r;
    x->prompts[0].text = o.text;
    x->prompts[0].text_bytes = o.n_bytes;
    /* The template writes BOS itself where the model wants one. */
    x->prompts[0].flags = TOKENIZE_PARSE_SPECIAL;
    return 0;
}

struct api_exchange *handle_chat(struct api *a, const struct api_request *req, const struct reply *r)
{
    struct params p;
    struct err e = {0};
    if (params_read(&a->cfg, IN_CHAT, req->body, req->body_bytes, &p, &e) < 0) {
        reply_error(r, a, &e);
        return NULL;
    }
    struct api_exchange *x = exchange_new(a, r, req, &p, 1, &chat_ops);
    if (!x)
        return NULL;
    if (check_model(a, &x->p, &e) < 0 || chat_prompt(a, x, &e) < 0) {
        exchange_fail(x, &e);
        exchange_free_if_over(x);
        return NULL;
    }
    return exchange_start(x);
}
