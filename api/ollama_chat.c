/* api/ollama_chat.c - requests in Ollama's shape as chats or prompts, and its `options`. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/build.h"
#include "api/internal.h"
#include "api/json_read.h"

static int add_calls(struct build *b, cJSON *m, const cJSON *calls, int i, struct err *e)
{
    char field[64], id[32];
    const cJSON *at;
    int k = 0;
    cJSON_ArrayForEach(at, calls)
    {
        const cJSON *f = json_get(at, "function"), *args = json_get(f, "arguments");
        const char *name = json_text(f, "name");
        snprintf(field, sizeof(field), "messages[%d].tool_calls[%d]", i, k);
        if (!name || (args && !cJSON_IsObject(args)))
            return params_bad(e, field, "an object with function.name and function.arguments, an object");
        char *text = args ? cJSON_PrintUnformatted(args) : NULL;
        if (args && !text)
            b->err = ERR_NOMEM;
        snprintf(id, sizeof(id), "call_%d_%d", i, k++);
        build_call(b, m, id, name, text ? text : "{}");
        cJSON_free(text);
    }
    return 0;
}

int ollama_to_chat(struct params *p, struct err *e)
{
    const cJSON *given = p->messages, *at;
    struct build b;
    char field[64];
    int i = 0;
    if (!cJSON_IsArray(given) || !given->child)
        return params_bad(e, "messages", "a list of at least one message");
    build_init(&b, p);
    cJSON_ArrayForEach(at, given)
    {
        const char *role = json_text(at, "role"), *text = json_text(at, "content"),
                   *thought = json_text(at, "thinking");
        const cJSON *calls = json_get(at, "tool_calls"), *images = json_get(at, "images");
        snprintf(field, sizeof(field), "messages[%d]", i);
        if (!role || (json_get(at, "content") && !text))
            return params_bad(e, field, "an object with role and content, a string");
        if (images && images->child)
            return err_set_param(e, ERR_UNSUPPORTED, field, "%s: images are not supported by this server",
                                 field);
        cJSON *m = build_message(&b, role);
        build_text(&b, m, "content", text ? text : "");
        if (thought)
            build_text(&b, m, "reasoning_content", thought);
        if (json_text(at, "tool_name"))
            build_text(&b, m, "name", json_text(at, "tool_name"));
        int r = add_calls(&b, m, calls, i++, e);
        if (r < 0)
            return r;
    }
    p->messages = b.messages;
    return build_done(&b, e);
}

int ollama_prompt_to_chat(struct params *p, struct err *e)
{
    struct build b;
    build_init(&b, p);
    if (p->instructions && *p->instructions)
        build_text(&b, build_message(&b, "system"), "content", p->instructions);
    build_text(&b, build_message(&b, "user"), "content", p->prompt->valuestring);
    p->messages = b.messages;
    return build_done(&b, e);
}

/* --- fields --------------------------------------------------------------------------------------- */

int read_options(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsObject(v))
        return params_bad(e, name, "an object");
    return params_fields(p, v, IN_OPTIONS, e);
}

/* 0, -1 and -2: no bound */
int read_num_predict(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    int n, r = params_int(v, name, -2, INT32_MAX, &n, e);
    if (r == 0 && n > 0)
        p->max_tokens = n;
    return r;
}

int read_think(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (cJSON_IsBool(v)) {
        p->reasoning_effort = cJSON_IsTrue(v) ? "medium" : "none";
        return 0;
    }
    return read_reasoning_effort(p, v, name, e);
}

int read_text_prompt(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsString(v))
        return params_bad(e, name, "a string");
    p->prompt = v;
    return 0;
}

int read_images(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    (void)p;
    if (!cJSON_IsArray(v))
        return params_bad(e, name, "a list");
    return v->child ? err_set_param(e, ERR_UNSUPPORTED, name, "%s are not supported by this server", name)
                    : 0;
}
