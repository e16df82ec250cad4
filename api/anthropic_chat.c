/* api/anthropic_chat.c - a request in Anthropic's shape as a chat: blocks become text, tool calls and
 * answers of tools; errors name the field as the client wrote it. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/build.h"
#include "api/internal.h"
#include "api/json_read.h"

static int text_of(const cJSON *v, const char *field, char **ret, struct err *e)
{
    static const char *const types[] = {"text", NULL};
    return build_joined(v, types, field, "a string or a list of text blocks", ret, e);
}

static int add_result(struct build *b, const cJSON *block, const char *field, struct err *e)
{
    const char *id = json_text(block, "tool_use_id");
    char *text = NULL, name[128];
    if (!id) {
        snprintf(name, sizeof(name), "%s.tool_use_id", field);
        return params_bad(e, name, "a string");
    }
    snprintf(name, sizeof(name), "%s.content", field);
    int r = json_get(block, "content") ? text_of(json_get(block, "content"), name, &text, e) : 0;
    if (r < 0)
        return r;
    cJSON *m = build_message(b, "tool");
    build_text(b, m, "tool_call_id", id);
    build_text(b, m, "content", text ? text : "");
    free(text);
    return 0;
}

static int add_use(struct build *b, cJSON *m, const cJSON *block, const char *field, struct err *e)
{
    const char *id = json_text(block, "id"), *name = json_text(block, "name");
    const cJSON *input = json_get(block, "input");
    if (!id || !name || !cJSON_IsObject(input))
        return params_bad(e, field, "a tool_use block with id, name and input");
    char *args = cJSON_PrintUnformatted(input);
    if (!args)
        b->err = ERR_NOMEM;
    build_call(b, m, id, name, args ? args : "{}");
    cJSON_free(args);
    return 0;
}

/* One block of a message. *m: the message that text goes to, made at need. */
static int add_block(struct build *b, cJSON **m, const char *role, const cJSON *block, const char *field,
                     struct err *e)
{
    const char *type = json_text(block, "type");
    bool assistant = !strcmp(role, "assistant");
    if (type && !strcmp(type, "tool_result") && !assistant)
        return add_result(b, block, field, e);
    bool text = type && !strcmp(type, "text") && json_text(block, "text");
    bool thought = type && !strcmp(type, "thinking") && json_text(block, "thinking") && assistant;
    bool use = type && !strcmp(type, "tool_use") && assistant;
    if (type && !strcmp(type, "redacted_thinking") && assistant)
        return 0; /* nobody here can read it */
    if (!text && !thought && !use)
        return params_bad(e, field,
                   assistant ? "a text, thinking or tool_use block" : "a text or tool_result block");
    if (!*m)
        *m = build_message(b, role);
    if (use)
        return add_use(b, *m, block, field, e);
    if (thought)
        build_more(b, *m, "reasoning_content", json_text(block, "thinking"));
    else
        build_more(b, *m, "content", json_text(block, "text"));
    return 0;
}

static int add_message(struct build *b, const cJSON *v, int i, struct err *e)
{
    const char *role = json_text(v, "role");
    const cJSON *content = json_get(v, "content"), *at;
    char field[96];
    int k = 0;
    snprintf(field, sizeof(field), "messages[%d].role", i);
    if (!role || (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0))
        return params_bad(e, field, "user or assistant");
    snprintf(field, sizeof(field), "messages[%d].content", i);
    if (cJSON_IsString(content)) {
        build_text(b, build_message(b, role), "content", content->valuestring);
        return 0;
    }
    if (!cJSON_IsArray(content) || !content->child)
        return params_bad(e, field, "a string or a list of blocks");
    cJSON *m = NULL;
    cJSON_ArrayForEach(at, content)
    {
        snprintf(field, sizeof(field), "messages[%d].content[%d]", i, k++);
        int r = add_block(b, &m, role, at, field, e);
        if (r < 0)
            return r;
    }
    if (m && !cJSON_HasObjectItem(m, "content") && !cJSON_HasObjectItem(m, "tool_calls"))
        build_text(b, m, "content", "");
    return 0;
}

static int add_tools(struct build *b, struct params *p, struct err *e)
{
    const cJSON *at, *given = p->tools;
    cJSON *tools = given ? build_list(b, p, "\1tools") : NULL;
    char field[64];
    int i = 0;
    cJSON_ArrayForEach(at, given)
    {
        const char *name = json_text(at, "name"), *type = json_text(at, "type");
        const cJSON *schema = json_get(at, "input_schema");
        snprintf(field, sizeof(field), "tools[%d]", i++);
        if (type && strcmp(type, "custom") != 0)
            return err_set_param(e, ERR_UNSUPPORTED, field,
                                 "%s: tools of the server (\"%.40s\") are not supported", field, type);
        if (!name || !cJSON_IsObject(schema))
            return params_bad(e, field, "an object with name and input_schema");
        build_tool(b, tools, name, json_text(at, "description"), schema,
                   cJSON_IsTrue(json_get(at, "strict")));
    }
    p->tools = tools;
    return 0;
}

int anthropic_to_chat(struct params *p, struct err *e)
{
    const cJSON *given = p->messages, *at;
    struct build b;
    char *system = NULL;
    int i = 0, r = 0;
    if (!cJSON_IsArray(given) || !given->child)
        return params_bad(e, "messages", "a list of at least one message");
    build_init(&b, p);
    if (p->system && (r = text_of(p->system, "system", &system, e)) < 0)
        return r;
    if (system && *system)
        build_text(&b, build_message(&b, "system"), "content", system);
    free(system);
    cJSON_ArrayForEach(at, given)
    {
        if ((r = add_message(&b, at, i++, e)) < 0)
            return r;
    }
    if ((r = add_tools(&b, p, e)) < 0 || (r = build_done(&b, e)) < 0)
        return r;
    /* an answer that the client began is gone on with */
    const cJSON *last = cJSON_GetArrayItem(b.messages, cJSON_GetArraySize(b.messages) - 1);
    const char *role = json_text(last, "role");
    bool begun = role && !strcmp(role, "assistant") && !cJSON_HasObjectItem(last, "tool_calls");
    const char *text = begun ? json_text(last, "content") : NULL;
    if (text && !text[strspn(text, " \n")] && !cJSON_HasObjectItem(last, "reasoning_content")) {
        cJSON_DeleteItemFromArray(b.messages, cJSON_GetArraySize(b.messages) - 1); /* began with nothing */
    } else if (begun) {
        p->continue_final_message = true;
        p->add_generation_prompt = false;
    }
    p->messages = b.messages;
    return 0;
}

int read_thinking(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const char *type = json_text(v, "type");
    const cJSON *budget = json_get(v, "budget_tokens");
    bool on = type && (!strcmp(type, "enabled") || !strcmp(type, "adaptive"));
    if (!on && !(type && !strcmp(type, "disabled")))
        return params_bad(e, name, "{\"type\":\"enabled\",\"budget_tokens\":N} or {\"type\":\"disabled\"}");
    p->include_reasoning = on;
    p->reasoning_effort = on ? "medium" : "none";
    return on && budget ? params_int(budget, "thinking.budget_tokens", 1, INT32_MAX, &p->thought_budget, e)
                        : 0;
}

/* Its effort has no effect: whether there are thoughts is said by thinking. */
int read_output_config(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const cJSON *format = json_get(v, "format");
    if (!cJSON_IsObject(v))
        return params_bad(e, name, "an object with format");
    return format ? read_response_format(p, format, "output_config.format", e) : 0;
}

/* What of earlier thoughts is read again the model's template decides. Edits that take more away are refused:
 * clients count on them. */
int read_context_management(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    static const char thoughts[] = "clear_thinking_";
    const cJSON *edits = json_get(v, "edits"), *at;
    (void)p;
    if (!cJSON_IsObject(v) || (edits && !cJSON_IsArray(edits)))
        return params_bad(e, name, "an object with a list of edits");
    cJSON_ArrayForEach(at, edits)
    {
        const char *type = json_text(at, "type");
        if (!type)
            return params_bad(e, name, "an object with edits that have a type");
        if (strncmp(type, thoughts, sizeof(thoughts) - 1) != 0)
            return err_set_param(e, ERR_UNSUPPORTED, name, "%s: the edit \"%.40s\" is not supported", name,
                                 type);
    }
    return 0;
}

int read_system(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsString(v) && !cJSON_IsArray(v))
        return params_bad(e, name, "a string or a list of text blocks");
    p->system = v;
    return 0;
}
