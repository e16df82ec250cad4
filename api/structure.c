/* api/structure.c - what the answer must look like: the fields of OpenAI, vLLM, llama.cpp and Ollama that say
 * so, each brought to one kind of grammar and its source. docs/structured.md lists them. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "api/json_read.h"
#include "api/params_readers.h"

/* The name of a field inside another, in the arena; errors of the grammar are told by it. */
static const char *inside(struct params *p, const char *name, const char *member)
{
    char text[96];
    int n = snprintf(text, sizeof(text), "%s.%s", name, member);
    const char *s = arena_strndup(p->arena, text, n < (int)sizeof(text) ? (size_t)n : sizeof(text) - 1);
    return s ? s : name;
}

static int set(struct params *p, const char *name, enum grammar_kind kind, const char *source, struct err *e)
{
    if (p->structure_field)
        return err_set_param(e, ERR_INVAL, name,
                             "%s cannot be combined with %s: one of them says what the answer is", name,
                             p->structure_field);
    p->n_structure = strlen(source);
    p->structure = arena_strndup(p->arena, source, p->n_structure);
    p->structure_kind = kind;
    if (!p->structure)
        return err_set(e, ERR_NOMEM, "out of memory for the request");
    p->structure_field = name;
    return 0;
}

static int set_json(struct params *p, const char *name, enum grammar_kind kind, const cJSON *v, struct err *e)
{
    char *s = cJSON_PrintUnformatted(v);
    int r = s ? set(p, name, kind, s, e) : err_set(e, ERR_NOMEM, "out of memory for the request");
    cJSON_free(s);
    return r;
}

int read_structure_json(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (cJSON_IsString(v) && *v->valuestring)
        return set(p, name, GRAMMAR_SCHEMA, v->valuestring, e);
    if (!cJSON_IsObject(v) && !cJSON_IsBool(v))
        return params_bad(e, name, "a JSON schema, as an object or as text");
    return set_json(p, name, GRAMMAR_SCHEMA, v, e);
}

int read_structure_regex(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsString(v))
        return params_bad(e, name, "a regular expression");
    return *v->valuestring ? set(p, name, GRAMMAR_REGEX, v->valuestring, e) : 0;
}

int read_structure_choice(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsArray(v))
        return params_bad(e, name, "a list of strings");
    return set_json(p, name, GRAMMAR_CHOICE, v, e);
}

int read_structure_grammar(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsString(v))
        return params_bad(e, name, "a grammar as text");
    return *v->valuestring ? set(p, name, GRAMMAR_GBNF, v->valuestring, e) : 0; /* llama.cpp: "" is none */
}

static int read_json_object(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsBool(v))
        return params_bad(e, name, "true or false");
    return cJSON_IsTrue(v) ? set(p, name, GRAMMAR_OBJECT, "", e) : 0;
}

static int read_tag(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (cJSON_IsString(v) && *v->valuestring)
        return set(p, name, GRAMMAR_TAG, v->valuestring, e);
    if (!cJSON_IsObject(v))
        return params_bad(e, name, "an object, or one as text");
    return set_json(p, name, GRAMMAR_TAG, v, e);
}

int read_structured_outputs(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    static const struct {
        const char *name;
        int (*read)(struct params *p, const cJSON *v, const char *name, struct err *e);
    } members[] = {
        {"json", read_structure_json},
        {"regex", read_structure_regex},
        {"choice", read_structure_choice},
        {"grammar", read_structure_grammar},
        {"json_object", read_json_object},
        {"structural_tag", read_tag},
    };
    const size_t n = sizeof(members) / sizeof(*members);
    const cJSON *at;
    if (!cJSON_IsObject(v))
        return params_bad(e, name, "an object");
    cJSON_ArrayForEach(at, v)
    {
        size_t i = 0;
        while (i < n && strcmp(at->string, members[i].name) != 0)
            i++;
        if (cJSON_IsNull(at))
            continue;
        if (i == n)
            return err_set_param(e, ERR_UNSUPPORTED, name,
                                 "%s may hold json, regex, choice, grammar, json_object or structural_tag, "
                                 "not %.40s", name, at->string);
        int r = members[i].read(p, at, inside(p, name, members[i].name), e);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The schema of {"type": "json_schema"}: in json_schema, as in completions, or beside the type. */
static int read_format_schema(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const cJSON *holder = json_get(v, "json_schema");
    const char *path = inside(p, name, holder ? "json_schema.schema" : "schema");
    const cJSON *schema = json_get(holder ? holder : v, "schema");
    const cJSON *strict = json_get(holder ? holder : v, "strict");
    if (strict && !cJSON_IsBool(strict))
        return params_bad(e, inside(p, name, holder ? "json_schema.strict" : "strict"), "true or false");
    if (!cJSON_IsObject(schema) && !cJSON_IsBool(schema))
        return params_bad(e, path, "a JSON schema");
    return set_json(p, path, GRAMMAR_SCHEMA, schema, e);
}

int read_response_format(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(v, "type");
    const char *s = cJSON_IsString(type) ? type->valuestring : "";
    if (!strcmp(s, "text"))
        return 0;
    if (!strcmp(s, "json_object")) /* some servers take a schema here too */
        return json_get(v, "schema") ? read_format_schema(p, v, name, e)
                                                             : set(p, name, GRAMMAR_OBJECT, "", e);
    if (!strcmp(s, "json_schema"))
        return read_format_schema(p, v, name, e);
    if (!strcmp(s, "structural_tag"))
        return set_json(p, name, GRAMMAR_TAG, v, e);
    return params_bad(e, name, "an object whose type is text, json_object, json_schema or structural_tag");
}

int read_ollama_format(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (cJSON_IsString(v))
        return !*v->valuestring                   ? 0
               : !strcmp(v->valuestring, "json") ? set(p, name, GRAMMAR_OBJECT, "", e)
                                                  : params_bad(e, name, "\"json\" or a JSON schema");
    return cJSON_IsObject(v) ? set_json(p, name, GRAMMAR_SCHEMA, v, e)
                             : params_bad(e, name, "\"json\" or a JSON schema");
}
