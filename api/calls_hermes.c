/* api/calls_hermes.c - Hermes, Qwen2.5 and Qwen3: JSON between <tool_call> and </tool_call>. */
#include "config.h"

#include "api/calls.h"

#define BEHIND 3 /* the object; states below are call_json_object's */

static enum call_step step(struct call_text *t, bool end)
{
    static const char call[] = "<tool_call>", done[] = "</tool_call>";
    bool plain;
    if (t->state < BEHIND) {
        if (call_json_object(t, sizeof(call) - 1, end, &plain) == CALL_MORE)
            return CALL_MORE;
        if (plain)
            return text_is_plain(t);
        t->state = BEHIND;
    }
    text_skip_space(t);
    if (!end && text_may_begin(t, done))
        return CALL_MORE;
    if (text_begins(t, done))
        buf_consume(&t->in, sizeof(done) - 1);
    t->state = 0;
    return CALL_OUT;
}

static const struct call_syntax *syntax(const char *chat_template)
{
    static const struct call_syntax s = {
        .between = "\n",
        .open = "<tool_call>\n{\"name\": \"",
        .name_end = "\", \"arguments\": ",
        .close = "}\n</tool_call>",
    };
    (void)chat_template;
    return &s;
}

static const char *const of_template[] = {"<tool_call>", NULL};
static const char *const begin[] = {"<tool_call>", NULL};
const struct call_format call_format_hermes = {"hermes", of_template, begin, false, step, syntax};
