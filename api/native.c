/* api/native.c - POST /completion and /infill, in llama-server's own shape. Its events have no [DONE]: the
 * last of a choice says "stop": true. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "api/internal.h"
#include "base/clock.h"

static double rate(double n, double ms)
{
    return ms > 0 ? n * 1e3 / ms : 0;
}

static void write_timings(const struct api_exchange *x, const struct choice *c, struct jw *w)
{
    double total = (double)(clock_now_ns() - x->received_ns) * 1e-6;
    double prompt = x->ttft_ns > 0 ? (double)x->ttft_ns * 1e-6 : total, rest = total - prompt;
    int cached = c->prompt->cached_tokens, n = (int)c->prompt->ids.n - cached;
    jw_printf(w, ",\"timings\":{\"cache_n\":%d,\"prompt_n\":%d,\"prompt_ms\":%.3f,", cached, n, prompt);
    jw_printf(w, "\"prompt_per_token_ms\":%.3f,\"prompt_per_second\":%.3f,", n > 0 ? prompt / n : 0,
              rate(n, prompt));
    jw_printf(w, "\"predicted_n\":%d,\"predicted_ms\":%.3f,\"predicted_per_token_ms\":%.3f,", c->n_tokens,
              rest, c->n_tokens ? rest / c->n_tokens : 0);
    jw_printf(w, "\"predicted_per_second\":%.3f", rate(c->n_tokens, rest));
    if (c->drafted_tokens)
        jw_printf(w, ",\"draft_n\":%d,\"draft_n_accepted\":%d", c->drafted_tokens, c->accepted_tokens);
    jw_raw(w, "}");
}

static const char *stop_type(const struct choice *c)
{
    return c->finish == FINISH_LENGTH                     ? "limit"
           : c->finish == FINISH_STOP && c->stop_string ? "word"
           : c->finish == FINISH_STOP                     ? "eos"
                                                          : "none";
}

static void write_end(const struct api_exchange *x, const struct choice *c, struct jw *w)
{
    const struct params *p = &x->p;
    jw_raw(w, ",\"model\":");
    jw_cstring(w, api_model_name(x->a));
    jw_printf(w, ",\"stop_type\":\"%s\",\"stopping_word\":", stop_type(c));
    jw_cstring(w, c->stop_string ? c->stop_string : "");
    jw_printf(w, ",\"truncated\":false,\"tokens_cached\":%zu,\"prompt\":",
              c->prompt->ids.n + (size_t)c->n_tokens);
    jw_string(w, c->prompt->text ? c->prompt->text : "", c->prompt->text ? c->prompt->text_bytes : 0);
    jw_printf(w, ",\"generation_settings\":{\"temperature\":%g,\"top_k\":%d,\"top_p\":%g,\"min_p\":%g,",
              p->temperature, p->top_k, p->top_p, p->min_p);
    jw_printf(w, "\"seed\":%llu,\"n_predict\":%d,\"stream\":%s}", (unsigned long long)p->seed,
              p->max_tokens == INT_MAX ? -1 : p->max_tokens, p->stream ? "true" : "false");
    write_timings(x, c, w);
}

static void write_result(const struct api_exchange *x, const struct choice *c, bool final, struct jw *w)
{
    jw_printf(w, "{\"index\":%d,\"content\":\"", c->index);
    jw_join(w, &c->text);
    jw_raw(w, "\",\"tokens\":[");
    jw_join(w, &c->ids);
    jw_printf(w, "],\"stop\":%s,\"id_slot\":-1,\"tokens_predicted\":%d,\"tokens_evaluated\":%zu",
              final ? "true" : "false", c->n_tokens, c->prompt->ids.n);
    if (x->p.logprobs >= 0) {
        jw_raw(w, ",\"completion_probabilities\":[");
        jw_join(w, &c->lp[0]);
        jw_raw(w, "]");
    }
    if (final)
        write_end(x, c, w);
    jw_raw(w, "}");
}

static void logprob(struct api_exchange *x, struct jw lp[4], int n_lp, long offset,
                    const struct gen_token *t, bool first)
{
    (void)offset;
    (void)first;
    jw_raw(&lp[0], n_lp ? "," : "");
    write_token_logprobs(x, &lp[0], t, true);
}

static void chunk(struct api_exchange *x, struct choice *c, bool final, struct jw *w)
{
    jw_raw(w, "data: ");
    write_result(x, c, final, w);
    jw_raw(w, "\n\n");
}

static void progress(struct api_exchange *x, const struct gen_event *ev, struct jw *w)
{
    jw_raw(w, "data: {\"index\":0,\"content\":\"\",\"tokens\":[],\"stop\":false,\"id_slot\":-1,");
    jw_printf(w, "\"tokens_predicted\":0,\"tokens_evaluated\":%d", ev->prompt_tokens);
    write_progress(x, ev, w);
    jw_raw(w, "}\n\n");
}

static void closing(struct api_exchange *x, struct jw *w)
{
    (void)x; /* each choice has said that it stops */
    (void)w;
}

static void failed(struct api_exchange *x, const struct err *e, struct jw *w)
{
    jw_raw(w, "data: ");
    error_json(w, x->reply.dialect, error_status(e), error_code(e), e->param, e->text);
    jw_raw(w, "\n\n");
}

static void whole(struct api_exchange *x, struct jw *w)
{
    jw_raw(w, x->n_choices > 1 ? "[" : "");
    for (int i = 0; i < x->n_choices; i++) {
        jw_raw(w, i ? "," : "");
        write_result(x, &x->choices[i], true, w);
    }
    jw_raw(w, x->n_choices > 1 ? "]" : "");
}

static const struct answer_ops native_ops = {
    .id_prefix = "cmpl-",
    .chunk = chunk,
    .closing = closing,
    .progress = progress,
    .failed = failed,
    .whole = whole,
    .logprob = logprob,
};

/* --- requests --------------------------------------------------------------------------------------- */

static int read_request(struct api *a, const struct api_request *req, enum field_where where,
                        struct params *p, int *n_prompts, struct err *e)
{
    int r = params_read(&a->cfg, where, req->body, req->body_bytes, p, e);
    if (r < 0)
        return r;
    p->return_token_ids |= p->stream; /* events always tell them */
    r = check_model(a, p, e);
    if (r == 0 && where == IN_NATIVE)
        r = count_prompts(p, p->cfg->max_prompts, n_prompts, e);
    if (r == 0 && where == IN_INFILL && (!p->input_prefix || !p->input_suffix)) {
        const char *name = p->input_prefix ? "input_suffix" : "input_prefix";
        r = err_set_param(e, ERR_INVAL, name, "%s is missing", name);
    }
    if (r < 0)
        params_done(p);
    return r;
}

static struct api_exchange *handle(struct api *a, const struct api_request *req, const struct reply *r,
                                   enum field_where where)
{
    struct params p;
    struct err e = {0};
    int n = 1;
    if (read_request(a, req, where, &p, &n, &e) < 0) {
        reply_error(r, a, &e);
        return NULL;
    }
    struct api_exchange *x = exchange_new(a, r, req, &p, n, &native_ops);
    if (!x)
        return NULL;
    if (where == IN_NATIVE) {
        n = set_prompts(x, &e);
    } else {
        struct prompt *pr = &x->prompts[0];
        n = infill_files(pr, engine_info(a->cfg.engine)->tokenizer, &x->p, a->cfg.max_prompt_bytes, &e);
        pr->flags = TOKENIZE_PARSE_SPECIAL | (x->p.add_special_tokens ? TOKENIZE_ADD_SPECIAL : 0);
    }
    return exchange_start_if(x, n, &e);
}

struct api_exchange *handle_native(struct api *a, const struct api_request *req, const struct reply *r)
{
    return handle(a, req, r, IN_NATIVE);
}

struct api_exchange *handle_infill(struct api *a, const struct api_request *req, const struct reply *r)
{
    return handle(a, req, r, IN_INFILL);
}
