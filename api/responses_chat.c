/* api/responses_chat.c - a request of the Responses API as a chat: items of input, and of the response
 * before it, become messages. Errors name the field as the client wrote it. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/build.h"
#include "api/internal.h"

#define MAX_ITEMS 8192

static const cJSON *get(const cJSON *o, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsNull(v) ? NULL : v;
}

static const char *string_of(const cJSON *o, const char *name)
{
    return cJSON_GetStringValue(get(o, name));
}

static int bad(struct err *e, const char *field, const char *expected)
{
    return err_set_param(e, ERR_INVAL, field, "%s must be %s", field, expected);
}

/* A string, or parts that have a text, joined. *ret is malloc'ed. */
static int text_of(const cJSON *v, const char *field, char **ret, struct err *e)
{
    static const char *const types[] = {"input_text", "output_text",    "text",
                                        "refusal",    "reasoning_text", "summary_text"};
    const cJSON *at;
    struct buf all;
    buf_init(&all, (size_t)1 << 30);
    int r = buf_puts(&all, cJSON_IsString(v) ? v->valuestring : "");
    bool ok = cJSON_IsString(v) || cJSON_IsArray(v);
    if (cJSON_IsArray(v))
        cJSON_ArrayForEach(at, v)
        {
            const char *type = string_of(at, "type"), *text = string_of(at, "text");
            bool known = false;
            for (size_t i = 0; type && i < sizeof(types) / sizeof(*types); i++)
                known |= !strcmp(type, types[i]);
            if (type && !strcmp(type, "refusal"))
                text = string_of(at, "refusal");
            ok = ok && known && text;
            if (ok && r == 0)
                r = buf_puts(&all, text);
        }
    if (!ok || r < 0) {
        buf_done(&all);
        return !ok ? bad(e, field, "a string or a list of {\"type\":\"input_text\",\"text\":...}")
                   : err_set(e, r, "out of memory for the request");
    }
    *ret = buf_take(&all, NULL);
    return 0;
}

/* The assistant's message that items of one turn share. */
static cJSON *turn(struct build *b)
{
    const cJSON *last = b->err ? NULL : cJSON_GetArrayItem(b->messages, cJSON_GetArraySize(b->messages) - 1);
    const char *role = string_of(last, "role");
    if (role && !strcmp(role, "assistant"))
        return cJSON_GetArrayItem(b->messages, cJSON_GetArraySize(b->messages) - 1);
    return build_message(b, "assistant");
}

static int add_message(struct build *b, const cJSON *v, const char *field, struct err *e)
{
    static const char *const roles[] = {"user", "assistant", "system", "developer"};
    const char *role = string_of(v, "role");
    char *text = NULL, name[96];
    bool known = false;
    for (size_t i = 0; role && i < sizeof(roles) / sizeof(*roles); i++)
        known |= !strcmp(role, roles[i]);
    snprintf(name, sizeof(name), "%s.role", field);
    if (!known)
        return bad(e, name, "user, assistant, system or developer");
    snprintf(name, sizeof(name), "%s.content", field);
    int r = text_of(get(v, "content"), name, &text, e);
    if (r < 0)
        return r;
    cJSON *m = !strcmp(role, "assistant") ? turn(b) : build_message(b, role);
    build_more(b, m, "content", text);
    free(text);
    return 0;
}

static int add_item(struct build *b, const cJSON *v, const char *field, struct err *e)
{
    const char *type = string_of(v, "type"), *id = string_of(v, "call_id");
    char *text = NULL, name[96];
    int r;
    if (!cJSON_IsObject(v))
        return bad(e, field, "an item: an object");
    if (!type || !strcmp(type, "message"))
        return add_message(b, v, field, e);
    if (!strcmp(type, "reasoning")) {
        snprintf(name, sizeof(name), "%s.content", field);
        if (get(v, "content") && (r = text_of(get(v, "content"), name, &text, e)) < 0)
            return r;
        if (text && *text)
            build_more(b, turn(b), "reasoning_content", text);
        free(text);
        return 0;
    }
    if (!strcmp(type, "function_call")) {
        const char *f = string_of(v, "name"), *args = string_of(v, "arguments");
        if (!id || !f || !args)
            return bad(e, field, "a function_call with call_id, name and arguments");
        build_call(b, turn(b), id, f, args);
        return 0;
    }
    if (!strcmp(type, "function_call_output")) {
        snprintf(name, sizeof(name), "%s.output", field);
        if (!id)
            return bad(e, field, "a function_call_output with call_id and output");
        if ((r = text_of(get(v, "output"), name, &text, e)) < 0)
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
        const char *type = string_of(at, "type"), *name = string_of(at, "name");
        snprintf(field, sizeof(field), "tools[%d]", i++);
        if (type && strcmp(type, "function") != 0)
            return err_set_param(e, ERR_UNSUPPORTED, field,
                                 "%s: tools of the server (\"%.40s\") are not supported", field, type);
        if (!type || !name)
            return bad(e, field, "an object with type, name and parameters");
        build_tool(b, tools, name, string_of(at, "description"), get(at, "parameters"));
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
    if ((r = add_tools(&b, p, e)) < 0 || (r = build_done(&b, e)) < 0)
        return r;
    p->messages = b.messages;
    return 0;
}

/* --- fields --------------------------------------------------------------------------------------- */

int read_input(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsString(v) && !(cJSON_IsArray(v) && v->child))
        return bad(e, name, "a string or a list of items, and not empty");
    p->prompt = v;
    return 0;
}

int read_instructions(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsString(v))
        return bad(e, name, "a string");
    p->instructions = v->valuestring;
    return 0;
}

int read_previous(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsString(v) || !*v->valuestring)
        return bad(e, name, "the id of a response");
    p->previous = v->valuestring;
    return 0;
}

int read_reasoning(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const cJSON *effort = get(v, "effort");
    if (!cJSON_IsObject(v))
        return bad(e, name, "an object");
    return effort ? read_reasoning_effort(p, effort, "reasoning.effort", e) : 0;
}

int read_text(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const cJSON *format = get(v, "format");
    const char *type = string_of(format, "type");
    if (!cJSON_IsObject(v) || (format && !type))
        return bad(e, name, "an object with format");
    return type ? read_response_format(p, format, "text.format", e) : 0;
}

int read_truncation(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const char *s = cJSON_IsString(v) ? v->valuestring : "";
    (void)p;
    if (!strcmp(s, "auto"))
        return err_set_param(e, ERR_UNSUPPORTED, name, "%s can be \"disabled\" on this server", name);
    return strcmp(s, "disabled") ? bad(e, name, "\"disabled\"") : 0;
}
