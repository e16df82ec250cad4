/* api/completions.c - POST /v1/completions, in OpenAI's shape with vLLM's additions. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "api/internal.h"

enum { LP_TOKENS, LP_VALUES, LP_TOP, LP_OFFSETS };

static void head(const struct api_exchange *x, struct jw *w)
{
    jw_printf(w, "{\"id\":\"%s\",\"object\":\"text_completion\",\"created\":%lld,\"model\":", x->id,
              (long long)x->created);
    jw_cstring(w, api_model_name(x->a));
}

static void logprob(struct api_exchange *x, struct jw lp[4], int n_lp, long offset,
                    const struct gen_token *t, bool first)
{
    bool listed = false;
    for (int k = 0; k < 4; k++)
        jw_raw(&lp[k], n_lp ? "," : "");
    write_token(x, &lp[LP_TOKENS], t->id);
    jw_printf(&lp[LP_OFFSETS], "%ld", offset);
    if (first) { /* nothing predicts the first token */
        jw_raw(&lp[LP_VALUES], "null");
        jw_raw(&lp[LP_TOP], "null");
        return;
    }
    jw_float(&lp[LP_VALUES], t->logprob);
    jw_raw(&lp[LP_TOP], "{");
    for (int i = 0; i < t->n_top; i++) {
        jw_raw(&lp[LP_TOP], i ? "," : "");
        write_token(x, &lp[LP_TOP], t->top[i].token_id);
        jw_raw(&lp[LP_TOP], ":");
        jw_float(&lp[LP_TOP], t->top[i].logprob);
        listed |= t->top[i].token_id == t->id;
    }
    if (!listed) { /* the chosen token is always told */
        jw_raw(&lp[LP_TOP], t->n_top ? "," : "");
        write_token(x, &lp[LP_TOP], t->id);
        jw_raw(&lp[LP_TOP], ":");
        jw_float(&lp[LP_TOP], t->logprob);
    }
    jw_raw(&lp[LP_TOP], "}");
}

static void write_choice(const struct api_exchange *x, const struct choice *c, bool final, struct jw *w)
{
    static const char *const names[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    jw_printf(w, "{\"index\":%d,\"text\":\"", c->index);
    jw_join(w, &c->text);
    jw_raw(w, "\",\"logprobs\":");
    if (x->p.logprobs >= 0) {
        for (int k = 0; k < 4; k++) {
            jw_printf(w, "%s\"%s\":[", k ? "," : "{", names[k]);
            jw_join(w, &c->lp[k]);
            jw_raw(w, "]");
        }
        jw_raw(w, "}");
    } else {
        jw_raw(w, "null");
    }
    jw_raw(w, ",\"finish_reason\":");
    jw_cstring(w, final ? finish_name(c->finish) : NULL);
    if (final)
        write_stop_reason(c, w);
    write_choice_ids(x, c, !c->started, w);
    write_prompt_logprobs(x, c->prompt, w);
    jw_raw(w, "}");
}

static void chunk(struct api_exchange *x, struct choice *c, bool final, struct jw *w)
{
    jw_raw(w, "data: ");
    head(x, w);
    jw_raw(w, ",\"choices\":[");
    write_choice(x, c, final, w);
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
    head(x, w);
    jw_raw(w, ",\"choices\":[]");
    write_progress(x, ev, w);
    jw_raw(w, "}\n\n");
}

static void usage_chunk(struct api_exchange *x, struct jw *w)
{
    head(x, w);
    jw_raw(w, ",\"choices\":[]");
    write_usage(x, w);
    jw_raw(w, "}");
}

static void whole(struct api_exchange *x, struct jw *w)
{
    head(x, w);
    jw_raw(w, ",\"choices\":[");
    for (int i = 0, shown = order_choices(x); i < x->n_prompts * shown; i++) {
        jw_raw(w, i ? "," : "");
        write_choice(x, &x->choices[i / shown * x->p.n + i % shown], true, w);
    }
    jw_raw(w, "]");
    write_usage(x, w);
    jw_raw(w, "}");
}

static const struct answer_ops completion_ops = {
    .id_prefix = "cmpl-",
    .chunk = chunk,
    .closing = sse_closing,
    .progress = progress,
    .usage_chunk = usage_chunk,
    .whole = whole,
    .logprob = logprob,
};

/* --- the prompt ----------------------------------------------------------------------------------- */

static int bad_prompt(const struct params *p, struct err *e)
{
    return params_bad(e, params_asked(p),
                      "a string, a list of strings, a list of token ids or a list of such lists, and not "
                      "empty");
}

int count_prompts(const struct params *p, int max, int *ret, struct err *e)
{
    const cJSON *v = p->prompt, *first = cJSON_IsArray(v) ? v->child : NULL;
    int n = cJSON_IsString(v) || cJSON_IsNumber(first) ? 1 : cJSON_GetArraySize(v);
    if (!v)
        return err_set_param(e, ERR_INVAL, params_asked(p), "%s is missing", params_asked(p));
    if (!cJSON_IsString(v) && !cJSON_IsNumber(first) && !cJSON_IsString(first) && !cJSON_IsArray(first))
        return bad_prompt(p, e);
    if (n > max)
        return err_set_param(e, ERR_INVAL, params_asked(p), "%s may hold at most %d prompts", params_asked(p),
                             max);
    size_t most = n > 0 ? p->cfg->max_prompt_bytes / (size_t)n : 0; /* each prompt has a copy of it */
    if (p->suffix && n > 0 && strlen(p->suffix) > most)
        return err_set_param(e, ERR_LIMIT, "suffix",
                             "suffix has %zu bytes; at most %zu are accepted for %d prompts",
                             strlen(p->suffix), most, n);
    *ret = n;
    return 0;
}

static int set_text(struct api_exchange *x, struct prompt *pr, const cJSON *v, struct err *e)
{
    pr->text = v->valuestring;
    pr->text_bytes = strlen(pr->text);
    pr->flags = TOKENIZE_PARSE_SPECIAL | (x->p.add_special_tokens ? TOKENIZE_ADD_SPECIAL : 0);
    if (pr->text_bytes > x->a->cfg.max_prompt_bytes)
        return err_set_param(e, ERR_LIMIT, params_asked(&x->p),
                             "%s %d has %zu bytes; at most %zu are accepted", params_asked(&x->p),
                             pr->index, pr->text_bytes, x->a->cfg.max_prompt_bytes);
    if (x->p.suffix)
        return infill_prompt(pr, engine_info(x->a->cfg.engine)->tokenizer, x->p.suffix, e);
    return 0;
}

static int set_ids(struct api_exchange *x, struct prompt *pr, const cJSON *v, struct err *e)
{
    int32_t *ids;
    int n;
    if (x->p.suffix)
        return infill_prompt(pr, engine_info(x->a->cfg.engine)->tokenizer, x->p.suffix, e);
    /* A list that is too long is told later, with the model's limit. */
    int r = params_ids(&x->p, v, params_asked(&x->p), INT32_MAX, &ids, &n, e);
    if (r < 0)
        return r;
    pr->ids.ids = malloc(((size_t)n + 1) * sizeof(*ids));
    if (!pr->ids.ids)
        return err_set(e, ERR_NOMEM, "out of memory for the request");
    memcpy(pr->ids.ids, ids, (size_t)n * sizeof(*ids));
    pr->ids.n = pr->ids.cap = (size_t)n;
    return 0;
}

int set_prompts(struct api_exchange *x, struct err *e)
{
    const cJSON *v = x->p.prompt, *at;
    int i = 0, r;
    if (cJSON_IsString(v))
        return set_text(x, &x->prompts[0], v, e);
    if (cJSON_IsNumber(v->child))
        return set_ids(x, &x->prompts[0], v, e);
    cJSON_ArrayForEach(at, v)
    {
        if (cJSON_IsString(v->child) && cJSON_IsString(at))
            r = set_text(x, &x->prompts[i], at, e);
        else if (cJSON_IsArray(v->child) && cJSON_IsArray(at))
            r = set_ids(x, &x->prompts[i], at, e);
        else
            r = bad_prompt(&x->p, e);
        if (r < 0)
            return r;
        i++;
    }
    return 0;
}

struct api_exchange *handle_completions(struct api *a, const struct api_request *req,
                                        const struct reply *r)
{
    struct params p;
    struct err e = {0};
    int n = 0;
    if (params_read(&a->cfg, IN_COMPLETIONS, req->body, req->body_bytes, &p, &e) < 0) {
        reply_error(r, a, &e);
        return NULL;
    }
    if (check_model(a, &p, &e) < 0 || count_prompts(&p, a->cfg.max_prompts, &n, &e) < 0) {
        params_done(&p);
        reply_error(r, a, &e);
        return NULL;
    }
    struct api_exchange *x = exchange_new(a, r, req, &p, n, &completion_ops);
    if (!x)
        return NULL;
    n = set_prompts(x, &e);
    return exchange_start_if(x, n, &e);
}
