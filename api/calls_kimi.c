/* api/calls_kimi.c - Kimi-K2: the head is an id, functions.NAME:NUMBER, which the next prompt repeats, so
 * it is the id that clients get. */
#include "config.h"

#include <string.h>

#include "api/calls.h"

static bool head(struct call_text *t, const char *s, size_t n)
{
    while (n && strchr(" \t\r\n", *s))
        s++, n--;
    while (n && strchr(" \t\r\n", s[n - 1]))
        n--;
    size_t from = n > 10 && !memcmp(s, "functions.", 10) ? 10 : 0, to = n;
    while (to > from && s[to - 1] != ':')
        to--;
    to = to > from ? to - 1 : n;
    call_begin(t, s + from, to - from, s, n);
    return false;
}

static const struct call_marks marks = {"<|tool_calls_section_begin|>", "<|tool_call_begin|>",
                                        "<|tool_call_argument_begin|>", "<|tool_call_end|>",
                                        "<|tool_calls_section_end|>", head};

static enum call_step step(struct call_text *t, bool end)
{
    return call_marked_step(t, &marks, end);
}

static const struct call_syntax *syntax(const char *chat_template)
{
    static const struct call_syntax s = {
        .section = "<|tool_calls_section_begin|>",
        .section_end = "<|tool_calls_section_end|>",
        .open = "<|tool_call_begin|>functions.",
        .numbered = true,
        .name_end = "<|tool_call_argument_begin|>",
        .close = "<|tool_call_end|>",
    };
    (void)chat_template;
    return &s;
}

static const char *const of_template[] = {"<|tool_calls_section_begin|>", NULL};
static const char *const begin[] = {"<|tool_calls_section_begin|>", "<|tool_call_begin|>", NULL};
const struct call_format call_format_kimi = {"kimi", of_template, begin, false, step, syntax};
