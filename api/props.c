/* api/props.c - /props and /slots as llama-server tells them, read only, and /apply-template. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "api/internal.h"

static void write_token_text(const struct tokenizer *t, int32_t id, struct jw *w)
{
    size_t n = 0;
    const char *s = t && id >= 0 ? tokenizer_token_bytes(t, id, &n) : "";
    jw_token_text(w, s, n);
}

struct api_exchange *handle_props(struct api *a, const struct api_request *req, const struct reply *r)
{
    const struct engine_info *info = engine_info(a->cfg.engine);
    const struct tokenizer *t = info->tokenizer;
    const char *tools = api_chat_template_text(a, true), *chat = api_chat_template_text(a, false);
    const struct call_format *calls = call_format_of(tools);
    struct engine_counts n;
    struct jw w;
    (void)req;
    engine_counts_read(a->cfg.engine, &n);
    jw_init(&w, API_MAX_ANSWER_BYTES);
    jw_printf(&w,
              "{\"default_generation_settings\":{\"n_ctx\":%d,\"params\":{\"temperature\":1,\"top_k\":0,"
              "\"top_p\":1,\"min_p\":0}},",
              info->max_model_len);
    jw_printf(&w, "\"total_slots\":%d,\"model_alias\":", a->cfg.max_seqs);
    jw_cstring(&w, api_model_name(a));
    jw_raw(&w, ",\"chat_template\":");
    jw_cstring(&w, chat ? chat : "");
    jw_raw(&w, ",\"bos_token\":");
    write_token_text(t, t ? tokenizer_bos(t) : -1, &w);
    jw_raw(&w, ",\"eos_token\":");
    write_token_text(t, t ? tokenizer_eos(t) : -1, &w);
    jw_raw(&w, ",\"modalities\":{\"vision\":false,\"audio\":false},\"tool_parser\":");
    jw_cstring(&w, calls ? calls->name : NULL);
    jw_printf(&w, ",\"thinks\":%s,\"infill\":%s,\"build_info\":\"latentd " PACKAGE_VERSION "\",",
              thought_marks_of(chat) ? "true" : "false", infill_possible(t) ? "true" : "false");
    jw_printf(&w, "\"n_threads\":%d,\"load_seconds\":%.3f,\"n_params\":%lld,", info->n_threads,
              info->load_seconds, (long long)info->n_params);
    jw_printf(&w, "\"queue\":{\"running\":%d,\"waiting\":%d,\"waiting_tokens\":%lld},", n.running, n.waiting,
              (long long)n.waiting_tokens);
    jw_printf(&w,
              "\"cache\":{\"page_tokens\":%u,\"pages\":%llu,\"held\":%llu,\"cached\":%llu,\"free\":%llu}}",
              info->page_tokens, (unsigned long long)n.n_pages, (unsigned long long)n.pages_held,
              (unsigned long long)n.pages_cached, (unsigned long long)n.pages_free);
    reply_json(r, 200, &w, NULL);
    jw_done(&w);
    return NULL;
}

static void write_slot(struct jw *w, int id, int n_ctx, const struct api_exchange *x, const struct choice *c)
{
    jw_printf(w, "%s{\"id\":%d,\"n_ctx\":%d,\"is_processing\":%s", id ? "," : "", id, n_ctx,
              x ? "true" : "false");
    if (x) {
        jw_raw(w, ",\"id_task\":");
        jw_cstring(w, x->id);
        jw_printf(w, ",\"n_prompt_tokens\":%zu,\"next_token\":{\"has_next_token\":true,\"n_decoded\":%d}",
                  c->prompt->ids.n, c->n_tokens);
    }
    jw_raw(w, "}");
}

/* A slot for each choice that was submitted, and those that are free. What is asked and said is not told. */
struct api_exchange *handle_slots(struct api *a, const struct api_request *req, const struct reply *r)
{
    int n_ctx = engine_info(a->cfg.engine)->max_model_len, n = 0;
    struct jw w;
    jw_init(&w, API_MAX_ANSWER_BYTES);
    jw_raw(&w, "[");
    for (const struct api_exchange *x = a->exchanges; x; x = x->next)
        for (int i = 0; i < x->n_choices && x->state == X_RUNNING && n < a->cfg.max_seqs; i++)
            if (!x->choices[i].done && x->choices[i].prompt->request_id)
                write_slot(&w, n++, n_ctx, x, &x->choices[i]);
    if (n >= a->cfg.max_seqs && req->query && strstr(req->query, "fail_on_no_slot=1")) {
        reply_error_full(r, 503, "no_slot", NULL, "no slot is free", engine_retry_after(a->cfg.engine), NULL);
        jw_done(&w);
        return NULL;
    }
    while (n < a->cfg.max_seqs)
        write_slot(&w, n++, n_ctx, NULL, NULL);
    jw_raw(&w, "]");
    reply_json(r, 200, &w, NULL);
    jw_done(&w);
    return NULL;
}

static const struct answer_ops template_ops = {.id_prefix = "tpl-"};

struct api_exchange *handle_apply_template(struct api *a, const struct api_request *req,
                                           const struct reply *r)
{
    struct params p;
    struct err e = {0};
    if (params_read(&a->cfg, IN_TEMPLATE, req->body, req->body_bytes, &p, &e) < 0) {
        reply_error(r, a, &e);
        return NULL;
    }
    struct api_exchange *x = exchange_new(a, r, req, &p, 1, &template_ops);
    if (!x)
        return NULL;
    if (check_model(a, &x->p, &e) < 0 || chat_prompt(a, x, &e) < 0) {
        exchange_fail(x, &e);
    } else {
        jw_reset(&x->out);
        jw_raw(&x->out, "{\"prompt\":");
        jw_string(&x->out, x->prompts[0].text, x->prompts[0].text_bytes);
        jw_raw(&x->out, "}");
        x->prompt_tokens = x->cached_tokens = x->completion_tokens = -1; /* no generation, for the log */
        exchange_finish(x, &x->out);
    }
    exchange_free_if_over(x);
    return NULL;
}
