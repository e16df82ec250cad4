/* api/calls_qwen_coder.c - Qwen3-Coder: <function=NAME>, <parameter=KEY>, values on lines of their own. */
#include "config.h"

#include "api/calls_tagged.h"

static const struct call_tags tags = {"<tool_call>", "</tool_call>", "<function=", "</function>",
                                      "<parameter=", "</parameter>", ">", true, NULL};

static enum call_step step(struct call_text *t, bool end)
{
    return call_tagged_step(t, &tags, end);
}

static const struct call_syntax *syntax(const char *chat_template)
{
    static const struct call_syntax s = {
        .between = "\n",
        .open = "<tool_call>\n<function=",
        .name_end = ">\n",
        .close = "</function>\n</tool_call>",
        .arg = "<parameter=",
        .arg_text = ">\n",
        .arg_json = ">\n",
        .arg_before = "\n",
        .arg_end = "</parameter>",
        .arg_after = "\n",
    };
    (void)chat_template;
    return &s;
}

static const char *const of_template[] = {"<tool_call>", "<function=", NULL};
static const char *const begin[] = {"<tool_call>", "<function=", NULL};
const struct call_format call_format_qwen_coder = {"qwen_coder", of_template, begin, false, step, syntax};
