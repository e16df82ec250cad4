/* api/calls_deepseek.c - DeepSeek-V3 and R1 (a type, the name, JSON in a fence) and V3.1 (name and JSON). */
#include "config.h"

#include <string.h>

#include "api/calls.h"

static bool head(struct call_text *t, const char *s, size_t n)
{
    if (n == 8 && !memcmp(s, "function", 8))
        return true;
    call_begin(t, s, n, NULL, 0);
    return false;
}

static const struct call_marks marks = {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
                                        "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", head};

static enum call_step step(struct call_text *t, bool end)
{
    return call_marked_step(t, &marks, end);
}

static const struct call_syntax *syntax(const char *chat_template)
{
    static const struct call_syntax fenced = {
        .section = "<｜tool▁calls▁begin｜>",
        .section_end = "<｜tool▁calls▁end｜>",
        .between = "\n",
        .open = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        .name_end = "\n```json\n",
        .close = "\n```<｜tool▁call▁end｜>",
    };
    static const struct call_syntax plain = {
        .section = "<｜tool▁calls▁begin｜>",
        .section_end = "<｜tool▁calls▁end｜>",
        .open = "<｜tool▁call▁begin｜>",
        .name_end = "<｜tool▁sep｜>",
        .close = "<｜tool▁call▁end｜>",
    };
    return chat_template && strstr(chat_template, "```json") ? &fenced : &plain;
}

static const char *const of_template[] = {"<｜tool▁calls▁begin｜>", NULL};
static const char *const begin[] = {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", NULL};
const struct call_format call_format_deepseek = {"deepseek", of_template, begin, false, step, syntax};
