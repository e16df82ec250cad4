/* api/calls_glm.c - GLM-4.5 and later: <tool_call>NAME, then pairs of <arg_key> and <arg_value>,
 * </tool_call>. Values are text for strings and JSON for the rest; the tool's schema says which. */
#include "config.h"

#include <string.h>

#include "api/calls.h"

enum { AT_NAME, AT_ARGUMENT = 4 };

static size_t trimmed(const char *s, size_t n)
{
    while (n && strchr(" \t\r\n", s[n - 1]))
        n--;
    return n;
}

enum call_step call_pairs_step(struct call_text *t, const struct call_pairs *m, bool end)
{
    if (t->state == AT_NAME) {
        size_t from = strlen(m->call);
        long at = text_find(t, from, m->key), over = text_find(t, from, m->done);
        if (at < 0 || (over >= 0 && over < at))
            at = over;
        if (at < 0)
            return end ? text_is_plain(t) : CALL_MORE;
        while (from < (size_t)at && strchr(" \t\r\n", t->in.data[from]))
            from++;
        call_begin(t, t->in.data + from, trimmed(t->in.data + from, (size_t)at - from), NULL, 0);
        buf_consume(&t->in, (size_t)at);
        t->state = AT_ARGUMENT;
    }
    text_skip_space(t);
    if (text_begins(t, m->key)) {
        size_t k0 = strlen(m->key);
        long k = text_find(t, 0, m->key_end), v = k < 0 ? -1 : text_find(t, (size_t)k, m->value);
        size_t v0 = v < 0 ? 0 : (size_t)v + strlen(m->value);
        long over = v < 0 ? -1
                          : call_value_end(t, t->in.data + k0, (size_t)k - k0, v0, m->value_end, -1, end);
        if (over >= 0) {
            call_arg(t, t->in.data + k0, (size_t)k - k0, t->in.data + v0, (size_t)over - v0, -1);
            buf_consume(&t->in, (size_t)over + strlen(m->value_end));
            return CALL_AGAIN;
        }
    } else if (text_begins(t, m->done)) {
        buf_consume(&t->in, strlen(m->done));
        call_args_end(t);
        t->state = AT_NAME;
        return CALL_OUT;
    } else if (!text_may_begin(t, m->key) && !text_may_begin(t, m->done)) {
        call_args_end(t);
        return text_is_plain(t);
    }
    return call_args_wait(t, end);
}

static enum call_step step(struct call_text *t, bool end)
{
    static const struct call_pairs m = {"<tool_call>", "</tool_call>", "<arg_key>",
                                        "</arg_key>",  "<arg_value>",  "</arg_value>"};
    return call_pairs_step(t, &m, end);
}

static const struct call_syntax *syntax(const char *chat_template)
{
    static const struct call_syntax s = {
        .between = "\n",
        .open = "<tool_call>",
        .name_end = "\n",
        .close = "</tool_call>",
        .arg = "<arg_key>",
        .arg_text = "</arg_key>\n<arg_value>",
        .arg_json = "</arg_key>\n<arg_value>",
        .arg_end = "</arg_value>",
        .arg_after = "\n",
    };
    (void)chat_template;
    return &s;
}

static const char *const of_template[] = {"<tool_call>", "<arg_key>", NULL};
static const char *const begin[] = {"<tool_call>", NULL};
const struct call_format call_format_glm = {"glm", of_template, begin, false, step, syntax};
