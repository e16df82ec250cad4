/* api/calls_llama.c - Llama 3: an answer that is JSON from its beginning on, with or without
 * <|python_tag|>, and more objects after semicolons. */
#include "config.h"

#include <string.h>

#include "api/calls.h"

#define BEHIND 3 /* an object; states below are call_json_object's */

static enum call_step step(struct call_text *t, bool end)
{
    static const char tag[] = "<|python_tag|>";
    bool plain;
    if (t->state < BEHIND) {
        size_t mark = t->state == 0 && text_begins(t, tag) ? sizeof(tag) - 1 : 0;
        if (call_json_object(t, mark, end, &plain) == CALL_MORE)
            return CALL_MORE;
        if (plain)
            return text_is_plain(t);
        t->state = BEHIND;
    }
    text_skip_space(t);
    if (t->in.n_bytes && t->in.data[0] == ';') {
        buf_consume(&t->in, 1);
        text_skip_space(t);
    }
    if (t->in.n_bytes == 0)
        return end ? CALL_OUT : CALL_MORE;
    t->state = 0;
    return t->in.data[0] == '{' ? CALL_AGAIN : text_is_plain(t);
}

static const struct call_syntax *syntax(const char *chat_template)
{
    static const struct call_syntax s = {
        .between = "; ",
        .open = "{\"name\": \"",
        .name_end = "\", \"parameters\": ",
        .close = "}",
    };
    (void)chat_template;
    return &s;
}

static const char *const of_template[] = {"<|python_tag|>", NULL};
static const char *const begin[] = {"<|python_tag|>", "{", NULL};
const struct call_format call_format_llama = {"llama", of_template, begin, true, step, syntax};
