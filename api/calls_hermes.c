/* api/calls_hermes.c - Hermes, Qwen2.5 and Qwen3: JSON between <tool_call> and </tool_call>. */
#include "config.h"

#include <string.h>

#include "api/calls.h"

#define BEHIND 3 /* the object; states below are call_json_object's */

enum call_step call_object_step(struct call_text *t, const char *call, const char *done, bool end)
{
    bool plain;
    if (t->state < BEHIND) {
        if (call_json_object(t, strlen(call), end, &plain) == CALL_MORE)
            return CALL_MORE;
        if (plain)
            return text_is_plain(t);
        t->state = BEHIND;
    }
    text_skip_space(t);
    if (!end && text_may_begin(t, done))
        return CALL_MORE;
    if (text_begins(t, done))
        buf_consume(&t->in, strlen(done));
    t->state = 0;
    return CALL_OUT;
}

static enum call_step step(struct call_text *t, bool end)
{
    return call_object_step(t, "<tool_call>", "</tool_call>", end);
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
