/* api/responses_chat.c - a request of the Responses API as a chat: items of input, and of the response
 * before it, become messages. Errors name the field as the client wrote it. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/build.h"
#include "api/internal.h"
#include "api/json_read.h"

#define MAX_ITEMS 8192

static int text_of(const cJSON *v, const char *field, char **ret, struct err *e)
{
    static const char *const types[] = {"input_text", "output_text",    "text",
                                        "refusal",    "reasoning_text", "summary_text", NULL};
    return build_joined(v, types, field, "a string or a list of {\"type\":\"input_text\",\"text\":...}", ret,
                        e);
}

/* The assistant's message that items of one turn share. */
static cJSON *turn(struct build *b)
{
    cJSON *first = b->err ? NULL : b->messages->child, *last = first ? first->prev : NULL;
    const char *role = json_text(last, "role");
    return role && !strcmp(role, "assistant") ? last : build_message(b, "assistant");
}

static int add_message(struct build *b, const cJSON *v, const char *field, struct err *e)
{
    static const char *const roles[] = {"user", "assistant", "system", "developer"};
    const char *role = json_text(v, "role");
    char *text = NULL, name[96];
    bool known = false;
    for (size_t i = 0; role && i < sizeof(roles) / sizeof(*roles); i++)
        known |= !strcmp(role, roles[i]);
    snprintf(name, sizeof(name), "%s.role", field);
    if (!known)
        return params_bad(e, name, "user, assistant, system or developer");
    snprintf(name, sizeof(name), "%s.content", field);
    int r = text_of(json_get(v, "content"), name, &text, e);
    if (r < 0)
        return r;
    cJSON *m = !strcmp(role, "assistant") ? turn(b) : build_message(b, role);
    build_more(b, m, "content", text);
    free(text);
    return 0;
}

static int add_item(struct build *b, const cJSON *v, const char *field, struct err *e)
{
    const char *type = json_text(v, "type"), *id = json_text(v, "call_id");
    char *text = NULL, name[96];
    int r;
    if (!cJSON_IsObject(v))
        return params_bad(e, field, "an item: an object");
    if (!type || !strcmp(type, "message"))
        return add_message(b, v, field, e);
    if (!strcmp(type, "reasoning")) {
        snprintf(name, sizeof(name), "%s.content", field);
        if (json_get(v, "content") && (r = text_of(json_get(v, "content"), name, &text, e)) < 0)
            return r;
        if (text && *text)
            build_more(b, turn(b), "reasoning_content", text);
        free(text);
        return 0;
    }
    if (!strcmp(type, "function_call")) {
        const char *f = json_text(v, "name"), *args = json_text(v, "arguments");
        if (!id || !f || !*f || !args)
            return params_bad(e, field, "a function_call with call_id, name and arguments");
        build_call(b, turn(b), id, f, args);
        return 0;
    }
    if (!strcmp(type, "function_call_output")) {
        snprintf(name, sizeof(name), "%s.output", field);
        if (!id)
            return params_bad(e, field, "a function_call_output with call_id and output");
        if ((r = text_of(json_get(v, "output"), name, &text, e)) < 0)
            return r;
        cJSON *m = build_message(b, "tool");
        build_text(b, m, "tool_call_id", id);
        build_text(b, m, "content", text);
        free(text);
        return 0;
    }
    return err_set_param(e, ERR_UNSUPPORTED, field,
                         "%s: items of type \"%.40s\" are not supported by this server", field, type);
}

static int add_tools(struct build *b, struct params *p, struct err *e)
{
    const cJSON *at, *given = p->tools;
    cJSON *tools = given ? build_list(b, p, "\1tools") : NULL;
    char field[64];
    int i = 0;
    cJSON_ArrayForEach(at, given)
    {
        const char *type = json_text(at, "type"), *name = json_text(at, "name");
        snprintf(field, sizeof(field), "tools[%d]", i++);
        if (type && strcmp(type, "function") != 0)
            return err_set_param(e, ERR_UNSUPPORTED, field,
                                 "%s: tools of the server (\"%.40s\") are not supported", field, type);
        if (!type || !name || !*name)
            return params_bad(e, field, "an object with type, name and parameters");
        build_tool(b, tools, name, json_text(at, "description"), json_get(at, "parameters"),
                   cJSON_IsTrue(json_get(at, "strict")));
    }
    p->tools = tools;
    return 0;
}

/* A message without text and calls is none for templates. */
static void complete(struct build *b)
{
    cJSON *at;
    cJSON_ArrayForEach(at, b->messages)
    {
        if (!cJSON_HasObjectItem(at, "content") && !cJSON_HasObjectItem(at, "tool_calls"))
            build_text(b, at, "content", "");
    }
}

int responses_to_chat(struct params *p, const cJSON *items, struct err *e)
{
    struct build b;
    char field[48];
    const cJSON *at;
    int i = 0, n_before = p->n_items_before, r = 0;
    build_init(&b, p);
    if (p->instructions && *p->instructions)
        build_text(&b, build_message(&b, "system"), "content", p->instructions);
    cJSON_ArrayForEach(at, items)
    {
        if (i >= MAX_ITEMS)
            return err_set_param(e, ERR_LIMIT, "input", "input may hold at most %d items", MAX_ITEMS);
        snprintf(field, sizeof(field), "input[%d]", i++ - n_before);
        if ((r = add_item(&b, at, field, e)) < 0)
            return r;
    }
    complete(&b);
    if (!b.err && !b.messages->child)
        return params_bad(e, "input", "items of which at least one is a message or a call");
    if ((r = add_tools(&b, p, e)) < 0 || (r = build_done(&b, e)) < 0)
        return r;
    p->messages = b.messages;
    return 0;
}

/* --- fields --------------------------------------------------------------------------------------- */

int read_input(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsString(v) && !(cJSON_IsArray(v) && v->child))
        return params_bad(e, name, "a string or a list of items, and not empty");
    p->prompt = v;
    p->asked = name;
    return 0;
}

int read_instructions(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    return params_text(v, name, &p->instructions, e);
}

int read_previous(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsString(v) || !*v->valuestring)
        return params_bad(e, name, "the id of a response");
    p->previous = v->valuestring;
    return 0;
}

int read_reasoning(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const cJSON *effort = json_get(v, "effort");
    if (!cJSON_IsObject(v))
        return params_bad(e, name, "an object");
    return effort ? read_reasoning_effort(p, effort, "reasoning.effort", e) : 0;
}

int read_text(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const cJSON *format = json_get(v, "format");
    const char *type = json_text(format, "type");
    if (!cJSON_IsObject(v) || (format && !type))
        return params_bad(e, name, "an object with format");
    return type ? read_response_format(p, format, "text.format", e) : 0;
}

int read_truncation(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const char *s = cJSON_IsString(v) ? v->valuestring : "";
    (void)p;
    if (!strcmp(s, "auto"))
        return err_set_param(e, ERR_UNSUPPORTED, name, "%s can be \"disabled\" on this server", name);
    return strcmp(s, "disabled") ? params_bad(e, name, "\"disabled\"") : 0;
}
