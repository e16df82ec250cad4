/* api/calls_longcat.c - LongCat-Flash: <longcat_tool_call>, an object as Hermes has it (Chat, Thinking) or
 * a name and pairs of keys and values as GLM has them (Thinking-2601, Lite), </longcat_tool_call>. */
#include "config.h"

#include <string.h>

#include "api/calls.h"

#define CALL "<longcat_tool_call>"
#define DONE "</longcat_tool_call>"
#define IN_PAIRS 4 /* from this state on it is a call with pairs */

static enum call_step step(struct call_text *t, bool end)
{
    static const struct call_pairs m = {CALL,
                                        DONE,
                                        "<longcat_arg_key>",
                                        "</longcat_arg_key>",
                                        "<longcat_arg_value>",
                                        "</longcat_arg_value>"};
    size_t i = sizeof(CALL) - 1;
    if (t->state == 0) {
        while (i < t->in.n_bytes && strchr(" \t\r\n", t->in.data[i]))
            i++;
        if (i >= t->in.n_bytes)
            return end ? text_is_plain(t) : CALL_MORE;
    }
    if (t->state >= IN_PAIRS || (t->state == 0 && t->in.data[i] != '{'))
        return call_pairs_step(t, &m, end);
    return call_object_step(t, CALL, DONE, end);
}

static const struct call_syntax *syntax(const char *chat_template)
{
    static const struct call_syntax object = {
        .between = "\n",
        .open = CALL "\n{\"name\": \"",
        .name_end = "\", \"arguments\": ",
        .close = "}\n" DONE,
    };
    static const struct call_syntax pairs = {
        .between = "\n",
        .open = CALL,
        .name_end = "\n",
        .close = DONE,
        .arg = "<longcat_arg_key>",
        .arg_text = "</longcat_arg_key>\n<longcat_arg_value>",
        .arg_json = "</longcat_arg_key>\n<longcat_arg_value>",
        .arg_end = "</longcat_arg_value>",
        .arg_after = "\n",
    };
    return chat_template && strstr(chat_template, "<longcat_arg_key>") ? &pairs : &object;
}

static const char *const of_template[] = {CALL, NULL};
static const char *const begin[] = {CALL, NULL};
const struct call_format call_format_longcat = {"longcat", of_template, begin, false, step, syntax};
