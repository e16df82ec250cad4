/* api/answer.c - the parts that completions and chats write alike. */
#include "config.h"

#include "api/internal.h"

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

void write_usage(const struct api_exchange *x, struct jw *w)
{
    jw_printf(w, ",\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,",
              x->prompt_tokens, x->completion_tokens, x->prompt_tokens + x->completion_tokens);
    jw_printf(w, "\"prompt_tokens_details\":{\"cached_tokens\":%d}}", x->cached_tokens);
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

long token_chars(const struct api_exchange *x, int32_t id)
{
    const struct tokenizer *t = engine_info(x->a->cfg.engine)->tokenizer;
    long chars = 0;
    size_t n = 0;
    const char *s = t ? tokenizer_token_bytes(t, id, &n) : "";
    if (t && x->p.skip_special_tokens && tokenizer_is_special(t, id))
        return 0;
    for (size_t i = 0; i < n; i++)
        chars += ((unsigned char)s[i] & 0xc0) != 0x80;
    return chars;
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
