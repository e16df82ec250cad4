/* api/messages.c - the messages and tools of a chat request: what they may be, and how they are
 * brought into the form that templates expect. Fields that are not named here pass to the template as
 * they are. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "api/internal.h"

#define MAX_MESSAGES 4096
#define MAX_TOOLS 1024
#define MAX_TOOL_CALLS 256
#define MAX_NAME_BYTES 256

static int bad_field(struct err *e, const char *list, int i, const char *field, const char *expected)
{
    char param[96];
    snprintf(param, sizeof(param), "%s[%d]%s%s", list, i, *field ? "." : "", field);
    return err_set_param(e, ERR_INVAL, param, "%s must be %s", param, expected);
}

static int bad_message(struct err *e, int i, const char *field, const char *expected)
{
    return bad_field(e, "messages", i, field, expected);
}

static cJSON *get(const cJSON *o, const char *name)
{
    cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsNull(v) ? NULL : v;
}

static bool is_name(const cJSON *v)
{
    size_t n = cJSON_IsString(v) ? strlen(v->valuestring) : 0;
    return n > 0 && n <= MAX_NAME_BYTES;
}

/* --- messages ------------------------------------------------------------------------------------- */

/* A list of text parts becomes one string, in place: templates expect strings. */
static int join_parts(cJSON *message, const cJSON *parts, int index, struct err *e)
{
    const cJSON *at;
    struct buf text;
    buf_init(&text, 1u << 30);
    int r = buf_puts(&text, "");
    cJSON_ArrayForEach(at, parts)
    {
        const cJSON *type = get(at, "type"), *value = get(at, "text");
        if (!cJSON_IsString(type) || strcmp(type->valuestring, "text") != 0 ||
            !cJSON_IsString(value)) {
            buf_done(&text);
            return bad_message(e, index, "content",
                               "a string or a list of {\"type\":\"text\",\"text\":...}");
        }
        if (r == 0)
            r = buf_puts(&text, value->valuestring);
    }
    cJSON *joined = r == 0 ? cJSON_CreateString(text.data) : NULL;
    buf_done(&text);
    if (!joined)
        return err_set(e, ERR_NOMEM, "out of memory for the request");
    if (!cJSON_ReplaceItemInObjectCaseSensitive(message, "content", joined)) {
        cJSON_Delete(joined);
        return err_set(e, ERR_INTERNAL, "a message could not be rewritten");
    }
    return 0;
}

static int check_tool_calls(const cJSON *calls, int i, struct err *e)
{
    const cJSON *at;
    char field[64];
    int k = 0;
    if (!cJSON_IsArray(calls))
        return bad_message(e, i, "tool_calls", "a list of tool calls");
    cJSON_ArrayForEach(at, calls)
    {
        const cJSON *f = get(at, "function"), *type = get(at, "type"), *id = get(at, "id");
        const cJSON *args = get(f, "arguments");
        const char *wrong = NULL, *expected = "a string";
        if (k >= MAX_TOOL_CALLS)
            return err_set_param(e, ERR_LIMIT, "messages",
                                 "messages[%d] may hold at most %d tool calls", i, MAX_TOOL_CALLS);
        if (type && (!cJSON_IsString(type) || strcmp(type->valuestring, "function") != 0)) {
            wrong = ".type";
            expected = "\"function\"";
        } else if (!cJSON_IsObject(f)) {
            wrong = ".function";
            expected = "an object with name and arguments";
        } else if (!is_name(get(f, "name"))) {
            wrong = ".function.name";
            expected = "a string of 1 to 256 bytes";
        } else if (args && !cJSON_IsString(args) && !cJSON_IsObject(args)) {
            wrong = ".function.arguments";
            expected = "a string that holds a JSON object";
        } else if (id && !cJSON_IsString(id)) {
            wrong = ".id";
        }
        snprintf(field, sizeof(field), "tool_calls[%d]%s", k++, wrong ? wrong : "");
        if (wrong)
            return bad_message(e, i, field, expected);
    }
    return 0;
}

static int check_content(cJSON *m, const char *role, int i, struct err *e)
{
    cJSON *content = get(m, "content");
    const cJSON *calls = get(m, "tool_calls");
    bool may_lack = !strcmp(role, "assistant") && calls && calls->child;
    if (cJSON_IsArray(content))
        return join_parts(m, content, i, e);
    if (cJSON_IsString(content) || (!content && may_lack))
        return 0;
    return bad_message(e, i, "content", "a string or a list of text parts");
}

static int check_message(cJSON *m, int i, struct err *e)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    static const char *const strings[] = {"name", "tool_call_id", "reasoning_content", "reasoning"};
    cJSON *role = cJSON_GetObjectItemCaseSensitive(m, "role");
    const cJSON *calls = get(m, "tool_calls");
    bool known = false;
    if (!cJSON_IsObject(m))
        return bad_message(e, i, "", "an object with role and content");
    for (size_t k = 0; k < sizeof(roles) / sizeof(*roles) && cJSON_IsString(role); k++)
        known |= !strcmp(role->valuestring, roles[k]);
    if (!known)
        return bad_message(e, i, "role", "system, developer, user, assistant or tool");
    if (!strcmp(role->valuestring, "developer") && !cJSON_SetValuestring(role, "system"))
        return err_set(e, ERR_NOMEM, "out of memory for the request");
    for (size_t k = 0; k < sizeof(strings) / sizeof(*strings); k++) {
        const cJSON *v = get(m, strings[k]);
        if (v && !cJSON_IsString(v))
            return bad_message(e, i, strings[k], "a string");
    }
    if (calls && strcmp(role->valuestring, "assistant") != 0)
        return bad_message(e, i, "tool_calls", "in a message of the assistant");
    int r = calls ? check_tool_calls(calls, i, e) : 0;
    if (r == 0)
        r = check_content(m, role->valuestring, i, e);
    if (r < 0)
        return r;
    /* none is the same as absent: templates ask only whether there is a list, or a name */
    if (!calls || !calls->child)
        cJSON_DeleteItemFromObjectCaseSensitive(m, "tool_calls");
    for (size_t k = 0; k < sizeof(strings) / sizeof(*strings); k++)
        if (!get(m, strings[k]))
            cJSON_DeleteItemFromObjectCaseSensitive(m, strings[k]);
    return 0;
}

int messages_check(const cJSON *messages, struct err *e)
{
    cJSON *at;
    int i = 0, r = 0;
    if (!cJSON_IsArray(messages) || !messages->child)
        return err_set_param(e, ERR_INVAL, "messages",
                             "messages must be a list of at least one message");
    cJSON_ArrayForEach(at, messages)
    {
        if (i >= MAX_MESSAGES)
            return err_set_param(e, ERR_LIMIT, "messages", "messages may hold at most %d",
                                 MAX_MESSAGES);
        if ((r = check_message(at, i++, e)) < 0)
            return r;
    }
    return 0;
}

/* --- tools ---------------------------------------------------------------------------------------- */

int tools_check(const cJSON *tools, struct err *e)
{
    const cJSON *at;
    int i = 0;
    cJSON_ArrayForEach(at, tools)
    {
        const cJSON *type = get(at, "type"), *f = get(at, "function");
        const cJSON *parameters = get(f, "parameters"), *description = get(f, "description");
        const cJSON *strict = get(f, "strict");
        if (i >= MAX_TOOLS)
            return err_set_param(e, ERR_LIMIT, "tools", "tools may hold at most %d", MAX_TOOLS);
        if (!cJSON_IsObject(at))
            return bad_field(e, "tools", i, "", "an object with type and function");
        if (!cJSON_IsString(type) || strcmp(type->valuestring, "function") != 0)
            return bad_field(e, "tools", i, "type", "\"function\"");
        if (!cJSON_IsObject(f))
            return bad_field(e, "tools", i, "function", "an object with name and parameters");
        if (!is_name(get(f, "name")))
            return bad_field(e, "tools", i, "function.name", "a string of 1 to 256 bytes");
        if (description && !cJSON_IsString(description))
            return bad_field(e, "tools", i, "function.description", "a string");
        if (parameters && !cJSON_IsObject(parameters))
            return bad_field(e, "tools", i, "function.parameters", "an object: a JSON schema");
        if (strict && !cJSON_IsBool(strict) && !cJSON_IsNull(strict))
            return bad_field(e, "tools", i, "function.strict", "true or false");
        i++;
    }
    return 0;
}
