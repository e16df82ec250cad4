/* api/chat.c - POST /v1/chat/completions, in OpenAI's shape. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"
#include "api/template_text.h"
#include "base/clock.h"

/* --- answers -------------------------------------------------------------------------------------- */

static void head(const struct api_exchange *x, const char *object, struct jw *w)
{
    jw_printf(w, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", x->id, object,
              (long long)x->created);
    jw_cstring(w, api_model_name(x->a));
}

static void logprob(struct api_exchange *x, struct jw lp[4], int n_lp, long offset,
                    const struct gen_token *t, bool first)
{
    (void)offset;
    (void)first;
    jw_raw(&lp[0], n_lp ? "," : "");
    write_token_logprobs(x, &lp[0], t, false);
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
    jw_cstring(w, !final ? NULL : chat_finish_name(c));
    if (final)
        write_stop_reason(c, w);
    write_choice_ids(x, c, !c->started, w);
    jw_raw(w, "}");
}

/* "name":" and what is pending of the kind, escaped. */
static void write_text(const struct choice *c, enum part_kind kind, const char *name, struct jw *w)
{
    jw_printf(w, "\"%s\":\"", name);
    parts_join(&c->parts, kind, w);
    jw_raw(w, "\"");
}

/* Thoughts under both names that clients know; without separate_reasoning they were never taken apart. */
static void write_reasoning(const struct api_exchange *x, const struct choice *c, struct jw *w)
{
    if (!x->p.include_reasoning || !parts_has(&c->parts, PART_REASONING))
        return;
    write_text(c, PART_REASONING, "reasoning_content", w);
    jw_raw(w, ",");
    write_text(c, PART_REASONING, "reasoning", w);
    jw_raw(w, ",");
}

/* Pending beginnings and arguments of calls; whole: as in a message, without "index". */
static void write_calls(const struct choice *c, bool whole, struct jw *w)
{
    bool any = false;
    for (int i = 0; i < c->parts.n; i++) {
        const struct part *p = &c->parts.list[i];
        if (p->kind != PART_CALL || (p->opened && p->text.b.n_bytes == p->told))
            continue;
        jw_raw(w, any ? "," : "\"tool_calls\":[");
        any = true;
        jw_raw(w, "{");
        if (!whole)
            jw_printf(w, "\"index\":%d,", p->call);
        if (!p->opened) {
            jw_raw(w, "\"id\":");
            jw_cstring(w, p->id);
            jw_raw(w, ",\"type\":\"function\",");
        }
        jw_raw(w, "\"function\":{");
        if (!p->opened) {
            jw_raw(w, "\"name\":");
            jw_cstring(w, p->name);
            jw_raw(w, ",");
        }
        jw_raw(w, "\"arguments\":\"");
        if (p->text.b.n_bytes > p->told)
            jw_bytes(w, p->text.b.data + p->told, p->text.b.n_bytes - p->told);
        jw_raw(w, "\"}}");
    }
    if (any)
        jw_raw(w, "],");
}

static void chunk(struct api_exchange *x, struct choice *c, bool final, struct jw *w)
{
    bool text = parts_has(&c->parts, PART_TEXT), other = c->parts.n_calls > 0 || x->thinks;
    jw_raw(w, "data: ");
    head(x, "chat.completion.chunk", w);
    jw_printf(w, ",\"choices\":[{\"index\":%d,\"delta\":{", c->index);
    if (!c->started)
        jw_raw(w, "\"role\":\"assistant\",");
    write_reasoning(x, c, w);
    write_calls(c, false, w);
    if (text || (!c->started && !other) || (!final && !other))
        write_text(c, PART_TEXT, "content", w);
    if (w->err == 0 && w->b.data[w->b.n_bytes - 1] == ',')
        w->b.n_bytes--;
    jw_raw(w, "}");
    write_rest(x, c, final, w);
    jw_raw(w, "]");
    if (x->p.continuous_usage_stats)
        write_usage(x, w);
    else if (x->p.include_usage)
        jw_raw(w, ",\"usage\":null");
    jw_raw(w, "}\n\n");
}

static void progress(struct api_exchange *x, const struct gen_event *ev, struct jw *w)
{
    jw_raw(w, "data: ");
    head(x, "chat.completion.chunk", w);
    jw_raw(w, ",\"choices\":[]");
    write_progress(x, ev, w);
    jw_raw(w, "}\n\n");
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
        jw_printf(w, "%s{\"index\":%d,\"message\":{\"role\":\"assistant\",", i ? "," : "", c->index);
        write_reasoning(x, c, w);
        write_calls(c, true, w);
        if (c->parts.n_calls && !parts_has(&c->parts, PART_TEXT))
            jw_raw(w, "\"content\":null");
        else
            write_text(c, PART_TEXT, "content", w);
        jw_raw(w, ",\"refusal\":null}");
        write_rest(x, c, true, w);
    }
    jw_raw(w, "]");
    write_prompt_logprobs(x, &x->prompts[0], w);
    write_usage(x, w);
    jw_raw(w, "}");
}

static const struct answer_ops chat_ops = {
    .id_prefix = "chatcmpl-",
    .assistant = true,
    .chunk = chunk,
    .closing = sse_closing,
    .progress = progress,
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

/* Where `s` occurs last in the text: the offset behind it, or 0. In time that grows with both only, so it is
 * searched for from behind, in copies that run backwards. What the template has written itself, as the end of
 * the message, is passed over: it may hold the same characters. ERR_NOMEM. */
static int find_last(const struct template_output *o, const char *s, size_t n, size_t *ret)
{
    size_t n_text = o->n_bytes;
    while (n_text && o->literal && !o->literal[n_text - 1])
        n_text--;
    char *text_back = malloc(n_text + 1), *s_back = malloc(n + 1);
    int r = text_back && s_back ? 0 : ERR_NOMEM;
    for (size_t i = 0; i < n_text && r == 0; i++)
        text_back[i] = o->text[n_text - 1 - i];
    for (size_t i = 0; i < n && r == 0; i++)
        s_back[i] = s[n - 1 - i];
    const char *at = r == 0 ? memmem(text_back, n_text, s_back, n) : NULL;
    *ret = at ? n_text - (size_t)(at - text_back) : 0;
    free(text_back);
    free(s_back);
    return r;
}

/* Cuts what the template puts after the last message's text. Templates may trim that: what is searched for is
 * the text without the blanks around it, and those behind it stay where the template has kept them. */
static int cut_after_last(const cJSON *messages, struct template_output *o, struct err *e)
{
    const cJSON *last = cJSON_GetArrayItem(messages, cJSON_GetArraySize(messages) - 1);
    const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(last, "content"));
    s = s ? s : "";
    size_t all = strlen(s), end = text_rstrip(s, all), begin = text_lstrip(s, end);
    size_t n = end - begin, blanks = all - end, at = 0;
    if (n && find_last(o, s + begin, n, &at) < 0)
        return err_set(e, ERR_NOMEM, "out of memory for the request");
    if (at == 0)
        return err_set_param(e, ERR_INVAL, "continue_final_message",
                             "continue_final_message: the last message's text is not in the rendered chat");
    bool kept = o->n_bytes - at >= blanks && !memcmp(o->text + at, s + end, blanks);
    o->n_bytes = at + (kept ? blanks : 0);
    return 0;
}

/* Templates know it as their own variable, or as a switch. What the request says itself goes before. */
static int add_effort(struct api_exchange *x, struct err *e)
{
    bool thinks = strcmp(x->p.reasoning_effort, "none") != 0;
    cJSON *kwargs = (cJSON *)(uintptr_t)x->p.template_kwargs;
    bool ok = true;
    if (!kwargs)
        x->p.template_kwargs = kwargs =
            cJSON_AddObjectToObject(x->p.root, "\1kwargs"); /* freed with the request */
    if (kwargs && !cJSON_HasObjectItem(kwargs, "reasoning_effort") && thinks)
        ok = cJSON_AddStringToObject(kwargs, "reasoning_effort", x->p.reasoning_effort) != NULL;
    for (int i = 0; i < 2 && kwargs && ok; i++) {
        const char *name = i ? "enable_thinking" : "thinking";
        if (!cJSON_HasObjectItem(kwargs, name))
            ok = cJSON_AddBoolToObject(kwargs, name, thinks) != NULL;
    }
    return kwargs && ok ? 0 : err_set(e, ERR_NOMEM, "out of memory for the request");
}

static bool ends_with(const struct template_output *o, const char *mark)
{
    size_t n = o->n_bytes, k = strlen(mark);
    while (n && strchr(" \t\r\n", o->text[n - 1]))
        n--;
    return n >= k && !memcmp(o->text + n - k, mark, k) && !(o->literal && o->literal[n - 1]);
}

/* How the answer will be taken apart. */
static int set_assistant(struct api *a, struct api_exchange *x, const char *template,
                         const struct template_output *o, const cJSON *tools, struct err *e)
{
    const struct tokenizer *t = engine_info(a->cfg.engine)->tokenizer;
    const char *name = a->cfg.tool_parser ? a->cfg.tool_parser : "auto";
    const struct thought_marks *marks = thought_marks_of(template);
    x->thinks = x->p.separate_reasoning && marks && !x->p.continue_final_message;
    x->thought_begun = x->thinks && ends_with(o, marks->begin);
    x->think_id = marks ? tokenizer_find(t, marks->begin, strlen(marks->begin)) : -1;
    x->unthink_id = marks ? tokenizer_find(t, marks->end, strlen(marks->end)) : -1;
    if (x->p.thought_budget > 0 && x->thinks && x->unthink_id < 0)
        return err_set_param(e, ERR_UNSUPPORTED, "thinking_token_budget",
                             "thinking_token_budget is not supported: %s is no token of this model",
                             marks->end);
    /* under a grammar what looks like a call is the answer, but in structural tags */
    bool grammar = x->p.structure_field && x->p.structure_kind != GRAMMAR_TAG;
    if (tools && strcmp(name, "none") != 0 && !grammar)
        x->calls = strcmp(name, "auto") ? call_format_find(name) : call_format_of(template);
    int r = tool_choice_set(x, tools, template, strcmp(name, "none") != 0, e);
    for (int i = 0; r == 0 && i < x->n_choices && x->ops->assistant; i++) {
        struct choice *c = &x->choices[i];
        assistant_init(&c->assistant, &c->parts, x->thinks ? marks : NULL, x->thought_begun, x->calls, tools,
                       !x->p.parallel_tool_calls, API_MAX_ANSWER_BYTES);
    }
    return r;
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
    if (x->p.reasoning_effort && add_effort(x, e) < 0)
        return e->code;
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
    if ((r = set_assistant(a, x, api_chat_template_text(a, tools != NULL), &o, tools, e)) < 0)
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
    int n = check_model(a, &x->p, &e);
    if (n == 0)
        n = chat_prompt(a, x, &e);
    return exchange_start_if(x, n, &e);
}
