/* api/tokenize.c - POST /tokenize and /detokenize, in the dialects of vLLM (prompt, messages) and
 * llama-server (content). */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "api/internal.h"
#include "base/utf8.h"

static void write_strings(const struct token_list *ids, const struct tokenizer *t, struct jw *w)
{
    jw_raw(w, ",\"token_strs\":[");
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *s = tokenizer_token_bytes(t, ids->ids[i], &n);
        jw_raw(w, i ? "," : "");
        jw_token_text(w, s, n);
    }
    jw_raw(w, "]");
}

static void write_piece(int32_t id, const struct tokenizer *t, struct jw *w)
{
    size_t n;
    const char *s = tokenizer_token_bytes(t, id, &n);
    jw_printf(w, "{\"id\":%d,\"piece\":", id);
    if (utf8_valid(s, n)) {
        jw_string(w, s, n);
    } else { /* as llama-server: a list of bytes */
        for (size_t i = 0; i < n; i++)
            jw_printf(w, "%s%d", i ? "," : "[", (unsigned char)s[i]);
        jw_raw(w, "]");
    }
    jw_raw(w, "}");
}

static void write_tokens(struct api_exchange *x)
{
    const struct engine_info *info = engine_info(x->a->engine);
    const struct token_list *ids = &x->prompts[0].ids;
    struct jw *w = &x->out;
    jw_reset(w);
    jw_printf(w, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":[", ids->n, info->max_model_len);
    for (size_t i = 0; i < ids->n; i++) {
        jw_raw(w, i ? "," : "");
        if (x->p.with_pieces)
            write_piece(ids->ids[i], info->tokenizer, w);
        else
            jw_printf(w, "%d", ids->ids[i]);
    }
    jw_raw(w, "]");
    if (x->p.return_token_strs)
        write_strings(ids, info->tokenizer, w);
    jw_raw(w, "}");
}

static void send(struct api_exchange *x)
{
    x->prompt_tokens = x->cached_tokens = x->completion_tokens = -1; /* no generation, for the log */
    exchange_finish(x, &x->out);
}

static const struct answer_ops tokenize_ops = {
    .id_prefix = "tok-",
    .write_tokens = write_tokens,
    .tokenized = send,
};

static int set_text(struct api_exchange *x, const cJSON *v, struct err *e)
{
    struct prompt *pr = &x->prompts[0];
    if (!cJSON_IsString(v))
        return err_set_param(e, ERR_INVAL, "prompt", "prompt (or content) must be a string");
    pr->text = v->valuestring;
    pr->text_bytes = strlen(pr->text);
    if (pr->text_bytes > x->a->cfg.max_prompt_bytes)
        return err_set_param(e, ERR_LIMIT, "prompt", "prompt has %zu bytes; at most %zu are accepted",
                             pr->text_bytes, x->a->cfg.max_prompt_bytes);
    /* llama-server's `content` adds nothing unless asked, vLLM's `prompt` does. */
    bool add = x->p.has_add_special_tokens ? x->p.add_special_tokens : strcmp(v->string, "content") != 0;
    pr->flags = (add ? TOKENIZE_ADD_SPECIAL : 0) | (x->p.parse_special ? TOKENIZE_PARSE_SPECIAL : 0);
    return 0;
}

struct api_exchange *handle_tokenize(struct api *a, const struct api_request *req,
                                     const struct reply *r)
{
    struct params p;
    struct err e = {0};
    if (params_read(&a->cfg, IN_TOKENIZE, req->body, req->body_bytes, &p, &e) < 0) {
        reply_error(r, a, &e);
        return NULL;
    }
    struct api_exchange *x = exchange_new(a, r, req, &p, 1, &tokenize_ops);
    if (!x)
        return NULL;
    int n = check_model(a, &x->p, &e);
    if (n == 0)
        n = x->p.messages ? chat_prompt(a, x, &e) : set_text(x, x->p.prompt, &e);
    return exchange_start_if(x, n, &e);
}

static void write_text(struct api_exchange *x)
{
    const struct tokenizer *t = engine_info(x->a->engine)->tokenizer;
    const struct token_list *ids = &x->prompts[0].ids;
    struct jw *w = &x->out;
    struct buf text;
    buf_init(&text, API_MAX_ANSWER_BYTES);
    int r = tokenizer_decode(t, ids->ids, ids->n, false, &text);
    if (r == 0) {
        jw_raw(w, "{\"prompt\":");
        jw_string(w, text.n_bytes ? text.data : "", text.n_bytes);
        jw_raw(w, ",\"content\":");
        jw_string(w, text.n_bytes ? text.data : "", text.n_bytes);
        jw_raw(w, "}");
        r = w->err;
    }
    buf_done(&text);
    if (r < 0)
        err_set(&x->tokenize_error, ERR_NOMEM, "out of memory for the text");
}

static const struct answer_ops detokenize_ops = {
    .id_prefix = "detok-",
    .write_tokens = write_text,
    .tokenized = send,
};

static int set_tokens(struct api_exchange *x, struct err *e)
{
    struct token_list *list = &x->prompts[0].ids;
    int32_t *ids;
    int n, r;
    if (!engine_info(x->a->cfg.engine)->tokenizer)
        return err_set_param(e, ERR_UNSUPPORTED, "tokens", "this model has no tokenizer");
    if (!x->p.tokens)
        return err_set_param(e, ERR_INVAL, "tokens", "tokens is missing");
    if ((r = params_ids(&x->p, x->p.tokens, "tokens", INT32_MAX, &ids, &n, e)) < 0)
        return r;
    list->ids = malloc(((size_t)n + 1) * sizeof(*ids));
    if (!list->ids)
        return err_set(e, ERR_NOMEM, "out of memory for the request");
    memcpy(list->ids, ids, (size_t)n * sizeof(*ids));
    list->n = list->cap = (size_t)n;
    return 0;
}

struct api_exchange *handle_detokenize(struct api *a, const struct api_request *req,
                                       const struct reply *r)
{
    struct params p;
    struct err e = {0};
    if (params_read(&a->cfg, IN_DETOKENIZE, req->body, req->body_bytes, &p, &e) < 0) {
        reply_error(r, a, &e);
        return NULL;
    }
    struct api_exchange *x = exchange_new(a, r, req, &p, 1, &detokenize_ops);
    if (!x)
        return NULL;
    int n = check_model(a, &x->p, &e);
    if (n == 0)
        n = set_tokens(x, &e);
    return exchange_start_if(x, n, &e);
}
