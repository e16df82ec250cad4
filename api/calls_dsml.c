/* api/calls_dsml.c - DeepSeek-V3.2: tags with attributes; each argument says whether it is a string. */
#include "config.h"

#include "api/calls_tagged.h"

static const struct call_tags tags = {"<｜DSML｜function_calls>", "</｜DSML｜function_calls>",
                                      "<｜DSML｜invoke name=\"", "</｜DSML｜invoke>",
                                      "<｜DSML｜parameter name=\"", "</｜DSML｜parameter>",
                                      "\">", false, "string=\"true\""};

static enum call_step step(struct call_text *t, bool end)
{
    return call_tagged_step(t, &tags, end);
}

static const struct call_syntax *syntax(const char *chat_template)
{
    static const struct call_syntax s = {
        .section = "<｜DSML｜function_calls>\n",
        .section_end = "\n</｜DSML｜function_calls>",
        .between = "\n",
        .open = "<｜DSML｜invoke name=\"",
        .name_end = "\">\n",
        .close = "</｜DSML｜invoke>",
        .arg = "<｜DSML｜parameter name=\"",
        .arg_text = "\" string=\"true\">",
        .arg_json = "\" string=\"false\">",
        .arg_end = "</｜DSML｜parameter>",
        .arg_after = "\n",
    };
    (void)chat_template;
    return &s;
}

static const char *const of_template[] = {"DSML", NULL};
static const char *const begin[] = {"<｜DSML｜function_calls>", NULL};
const struct call_format call_format_dsml = {"dsml", of_template, begin, false, step, syntax};
