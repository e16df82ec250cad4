/* api/tool_choice.c - answers that must be calls: tool_choice "required", a named function and Anthropic's
 * "any" and "tool"; and those that may be, of tools that are `strict`. The tools, and how the model's format
 * writes them, become a grammar (engine/grammar/calls.c). */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "api/internal.h"
#include "api/json_read.h"
#include "api/params_readers.h"

static int named(struct params *p, const char *function, const char *name, struct err *e)
{
    if (!function || !*function)
        return params_bad(e, name, "\"auto\", \"none\", \"required\" or a function by its name");
    p->must_call_name = function;
    p->must_call = name;
    return 0;
}

static const char *name_of(const cJSON *tool)
{
    const cJSON *f = json_get(tool, "function"); /* chats have it inside, Responses beside the type */
    return json_text(f ? f : tool, "name");
}

/* Some of the tools only: all are told to the model, so that the prompt stays the same. */
static int read_allowed(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const cJSON *inside = json_get(v, "allowed_tools"), *at;
    const char *mode = json_text(inside ? inside : v, "mode");
    const cJSON *list = json_get(inside ? inside : v, "tools");
    bool required = mode && !strcmp(mode, "required");
    if (!required && (!mode || strcmp(mode, "auto") != 0))
        return err_set_param(e, ERR_INVAL, name, "%s: mode must be \"auto\" or \"required\"", name);
    bool named = cJSON_IsArray(list) && list->child;
    cJSON_ArrayForEach(at, list) named = named && name_of(at);
    if (!named)
        return err_set_param(e, ERR_INVAL, name, "%s: tools must be a list of functions by their names",
                             name);
    p->allowed_tools = list;
    p->must_call = required ? name : NULL;
    return 0;
}

int read_tool_choice(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const char *s = cJSON_IsString(v) ? v->valuestring : "", *type = json_text(v, "type");
    if (type && !strcmp(type, "function"))
        return named(p, name_of(v), name, e);
    if (type && !strcmp(type, "allowed_tools"))
        return read_allowed(p, v, name, e);
    if (type)
        return err_set_param(e, ERR_UNSUPPORTED, name, "%s of the type \"%.40s\" is not supported", name,
                             type);
    if (strcmp(s, "auto") != 0 && strcmp(s, "none") != 0 && strcmp(s, "required") != 0)
        return named(p, NULL, name, e);
    p->no_tools = !strcmp(s, "none");
    p->must_call = !strcmp(s, "required") ? name : NULL;
    return 0;
}

int read_anthropic_tool_choice(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const char *type = json_text(v, "type");
    const cJSON *one = json_get(v, "disable_parallel_tool_use");
    bool known = type && (!strcmp(type, "auto") || !strcmp(type, "none") || !strcmp(type, "any") ||
                          !strcmp(type, "tool"));
    if (!known || (one && !cJSON_IsBool(one)))
        return params_bad(e, name, "{\"type\":\"auto\"}, \"none\", \"any\" or \"tool\" with a name");
    p->no_tools = !strcmp(type, "none");
    p->parallel_tool_calls = !cJSON_IsTrue(one);
    if (!strcmp(type, "tool"))
        return named(p, json_text(v, "name"), name, e);
    p->must_call = !strcmp(type, "any") ? name : NULL;
    return 0;
}

static void member(struct jw *w, const char *name, const char *s)
{
    jw_printf(w, ",\"%s\":", name);
    jw_cstring(w, s ? s : "");
}

static bool may_call(const struct params *p, const char *tool)
{
    const cJSON *at;
    cJSON_ArrayForEach(at, p->allowed_tools) if (!strcmp(name_of(at), tool)) return true;
    return !p->allowed_tools;
}

static int write_tools(const struct params *p, const cJSON *tools, struct jw *w)
{
    const cJSON *at;
    int i = 0, n = 0;
    jw_raw(w, ",\"tools\":[");
    cJSON_ArrayForEach(at, tools)
    {
        const cJSON *f = json_get(at, "function"), *schema = json_get(f, "parameters");
        const char *name = json_text(f, "name");
        int index = i++;
        if ((p->must_call_name && strcmp(name, p->must_call_name) != 0) || !may_call(p, name))
            continue;
        jw_raw(w, n++ ? ",{\"name\":" : "{\"name\":");
        jw_cstring(w, name);
        jw_printf(w, ",\"path\":\"tools[%d].function.parameters\"", index);
        bool held = p->must_call || cJSON_IsTrue(json_get(f, "strict"));
        char *text = schema && held ? cJSON_PrintUnformatted(schema) : NULL;
        if (!held)
            jw_raw(w, ",\"free\":true");
        if (schema && held && !text)
            w->err = ERR_NOMEM;
        if (text) {
            jw_raw(w, ",\"schema\":");
            jw_raw(w, text);
        }
        cJSON_free(text);
        jw_raw(w, "}");
    }
    jw_raw(w, "]}");
    return n;
}

int call_source(const struct call_format *format, const char *template, const cJSON *tools,
                const struct params *p, struct jw *w)
{
    const struct call_syntax *s = format->syntax(template);
    jw_printf(w, "{\"many\":%s,\"numbered\":%s,\"lead\":%s",
              p->parallel_tool_calls && !p->must_call_name ? "true" : "false",
              s->numbered ? "true" : "false", format->at_beginning ? "false" : "true");
    member(w, "section", s->section);
    member(w, "section_end", s->section_end);
    member(w, "between", s->between);
    member(w, "open", s->open);
    member(w, "name_end", s->name_end);
    member(w, "close", s->close);
    for (const char *const *mark = format->begin; !p->must_call && *mark; mark++) {
        jw_raw(w, mark == format->begin ? ",\"marks\":[" : ",");
        jw_cstring(w, *mark);
        jw_raw(w, mark[1] ? "" : "]");
    }
    jw_printf(w, ",\"first\":%s", format->at_beginning ? "true" : "false");
    if (s->arg_end) {
        jw_raw(w, ",\"argument\":{\"is\":\"tag\"");
        member(w, "begin", s->arg);
        member(w, "text", s->arg_text);
        member(w, "json", s->arg_json);
        member(w, "before", s->arg_before);
        member(w, "end", s->arg_end);
        member(w, "after", s->arg_after);
        jw_raw(w, "}");
    }
    return write_tools(p, tools, w);
}

static bool any_strict(const cJSON *tools)
{
    const cJSON *at;
    cJSON_ArrayForEach(at, tools) if (cJSON_IsTrue(json_get(json_get(at, "function"), "strict"))) return true;
    return false;
}

/* The tools that may be called must be there. */
static int check_allowed(const struct params *p, const cJSON *tools, struct err *e)
{
    const cJSON *at, *tool;
    cJSON_ArrayForEach(at, p->allowed_tools)
    {
        bool there = false;
        cJSON_ArrayForEach(tool, tools) there |= !strcmp(name_of(tool), name_of(at));
        if (!there)
            return err_set_param(e, ERR_INVAL, "tool_choice", "tool_choice: there is no tool \"%.60s\"",
                                 name_of(at));
    }
    return 0;
}

/* What can be said against a call that must come. */
static int check_choice(const struct api_exchange *x, const cJSON *tools, bool read, struct err *e)
{
    const char *field = x->p.must_call;
    if (!tools || !tools->child)
        return err_set_param(e, ERR_INVAL, field, "%s asks for a call, and tools is empty", field);
    if (!read)
        return err_set_param(e, ERR_UNSUPPORTED, field,
                             "%s cannot ask for a call: this server reads none (tool_parser = none)",
                             field);
    if (x->p.structure_field)
        return err_set_param(e, ERR_INVAL, field,
                             "%s cannot be combined with %s: one of them says what the answer is", field,
                             x->p.structure_field);
    return 0;
}

int tool_choice_set(struct api_exchange *x, const cJSON *tools, const char *template, bool read,
                    struct err *e)
{
    struct params *p = &x->p;
    const char *field = p->must_call;
    struct jw w;
    if (!x->ops->assistant)
        return 0;
    int r = field ? check_choice(x, tools, read, e) : 0;
    if (r == 0)
        r = check_allowed(p, tools, e);
    /* where no call is read, and where the answer has another form, there is nothing to hold to */
    bool held = any_strict(tools) || p->allowed_tools;
    if (r < 0 || (!field && (!x->calls || p->structure_field || !held)))
        return r;
    if (p->use_beam_search) /* knows no grammar */
        return err_set_param(e, ERR_INVAL, "use_beam_search", "use_beam_search cannot be combined with %s",
                             field              ? field
                             : p->allowed_tools ? "allowed_tools"
                                                : "tools that are strict");
    if (!x->calls) /* what the grammar makes it write is read, whatever it was trained for */
        x->calls = call_format_find("hermes");
    jw_init(&w, API_MAX_ANSWER_BYTES);
    int n = call_source(x->calls, template, tools, p, &w);
    r = w.err;
    if (r == 0 && n == 0)
        r = err_set_param(e, ERR_INVAL, field, "%s: there is no tool \"%.60s\"", field,
                          p->must_call_name);
    if (r == 0) {
        p->n_structure = w.b.n_bytes;
        p->structure = arena_strndup(p->arena, w.b.data, w.b.n_bytes);
        p->structure_kind = GRAMMAR_CALLS;
        p->structure_field = field ? field : p->allowed_tools ? "tool_choice" : "tools";
        r = p->structure ? 0 : ERR_NOMEM;
    }
    jw_done(&w);
    return r < 0 && !e->code ? err_set(e, r, "out of memory for the request") : r;
}
