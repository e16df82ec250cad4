/* engine/grammar/calls.c - calls of tools as a model's format writes them: marks, a name, arguments under
 * the tool's schema. The source is JSON that the API makes:
 *
 *     {"section", "between", "section_end": around and between calls,
 *      "open", "name_end", "close": of one call, around its name and its arguments,
 *      "numbered": true where ":" and a number follow the name,
 *      "argument": {"begin", "text", "json", "before", "end", "after"}, where each has a tag of its own:
 *          begin, name, text or json, value, before, end, after; strings stand there as they are,
 *      "lead": true where empty lines may come first, "many": true for several calls,
 *      "tools": [{"name", "schema", "path" (for messages), "free": true for any arguments}],
 *      "marks": where calls need not come, the marks at which the model's format begins them; one is the
 *          beginning of section or, without that, of open. Before it stands free text, which may be all.
 *      "first": true where marks count only at the beginning of the text}
 *
 * Where the vocabulary has a control token for a part of these texts, the part is that token. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "engine/grammar/marks.h"
#include "engine/grammar/schema.h"

#define MAX_MARKS 8

/* Any characters up to the mark, and the mark. */
static int32_t upto(struct rules *b, int32_t from, const char *s)
{
    const struct mark_end end = {s, rules_state(b)};
    marks_free_text(b, from, &end, 1, -1, false);
    return end.to;
}

/* --- arguments -------------------------------------------------------------------------------------- */

static const char *text(const cJSON *o, const char *name)
{
    const char *s = cJSON_GetStringValue(schema_get(o, name));
    return s ? s : "";
}

/* The value of a string, as it is: enum, const, any, or what a pattern or length says without '<'. */
static int32_t plain_string(struct schema *c, int32_t from, const cJSON *s, const cJSON *tag)
{
    struct rules *b = c->b;
    const cJSON *list = schema_get(s, "enum"), *one = schema_get(s, "const"), *at;
    int32_t end = rules_state(b);
    int n = 0;
    if (list || one) {
        for (at = one ? one : list->child; at; at = one ? NULL : at->next) {
            if (!cJSON_IsString(at) || (one && list && !schema_has(c, list, one)))
                continue;
            if (strstr(at->valuestring, text(tag, "end")))
                schema_fail(c, ERR_UNSUPPORTED, one ? "const" : "enum",
                            "a value has a mark of the format in it");
            int32_t to = rules_text(b, from, at->valuestring, strlen(at->valuestring));
            rules_join(b, mark_text(b, mark_text(b, to, text(tag, "before")), text(tag, "end")), end);
            n++;
        }
        if (n == 0)
            schema_fail(c, ERR_INVAL, one ? "const" : "enum", "no value is a string");
        return end;
    }
    struct expr *x = schema_string_expr(c, s);
    if (b->failed)
        return 0;
    if (!x)
        return upto(b, from, text(tag, "end"));
    expr_without(b, x, '<');
    int32_t to = expr_write(b, from, x, SPELL_PLAIN);
    return mark_text(b, mark_text(b, to, text(tag, "before")), text(tag, "end"));
}

/* Is it told by its type alone, where the reader looks, that the text is a string? */
static bool is_string(const cJSON *root, const char *name)
{
    const cJSON *p = schema_get(schema_get(root, "properties"), name);
    return !strcmp(text(p, "type"), "string");
}

static int32_t argument(struct schema *c, int32_t from, const char *name, const cJSON *s,
                        const cJSON *tag, bool string)
{
    struct rules *b = c->b;
    if (!*name || strpbrk(name, "<>\"\r\n"))
        schema_fail(c, ERR_UNSUPPORTED, name, "this format of calls cannot write the name");
    int32_t at = mark_text(b, from, text(tag, "begin"));
    at = rules_text(b, at, name, strlen(name));
    at = mark_text(b, at, text(tag, string ? "text" : "json"));
    if (string) {
        const cJSON *flat = schema_flat(c, s);
        if (cJSON_IsFalse(flat))
            schema_fail(c, ERR_INVAL, NULL, "nothing matches this schema");
        schema_check_keywords(c, flat);
        if (schema_get(flat, "anyOf") || schema_get(flat, "oneOf"))
            schema_fail(c, ERR_UNSUPPORTED, NULL,
                        "alternatives beside type string are not supported in this "
                        "format of calls");
        at = b->failed ? 0 : plain_string(c, at, flat, tag);
    } else {
        at = cJSON_IsObject(s) ? rules_use(b, at, schema_rule(c, s)) : schema_value(c, at, s);
        at = mark_text(b, mark_text(b, at, text(tag, "before")), text(tag, "end"));
    }
    return mark_text(b, at, text(tag, "after"));
}

/* Properties one by one, in the order of the schema; no further ones. */
static int32_t arguments(struct schema *c, int32_t at, const cJSON *root, const cJSON *tag)
{
    static const char *const no[] = {"anyOf", "oneOf", "enum", "const", "patternProperties"};
    static const cJSON anything = {.type = cJSON_True};
    struct rules *b = c->b;
    const cJSON *s = cJSON_IsObject(root) ? schema_flat(c, root) : NULL, *p, *more;
    int n = 0, n_required = 0, least = 0, most = -1;
    if (!s || b->failed)
        return at; /* no schema: no arguments */
    schema_check_keywords(c, s);
    if (!(schema_types(c, s) & TYPE_OBJECT))
        schema_fail(c, ERR_INVAL, "type", "arguments are an object");
    for (size_t i = 0; i < sizeof(no) / sizeof(*no); i++)
        if (schema_get(s, no[i]))
            schema_fail(c, ERR_UNSUPPORTED, no[i],
                        "is not supported for arguments in this format of calls");
    more = schema_get(s, "additionalProperties");
    cJSON_ArrayForEach(p, schema_properties(c, s))
    {
        bool required = schema_requires(c, s, p->string);
        if (!rules_tick(b) || (cJSON_IsFalse(p) && !required))
            continue;
        char part[100];
        snprintf(part, sizeof(part), "properties/%.80s", p->string);
        size_t before = schema_enter(c, part);
        int32_t next = rules_state(b);
        rules_join(b, argument(c, at, p->string, p, tag, is_string(root, p->string)), next);
        if (!required)
            rules_join(b, at, next);
        at = next;
        n++;
        n_required += required;
        schema_leave(c, before);
    }
    cJSON_ArrayForEach(p, schema_get(s, "required"))
    {
        const char *name = cJSON_GetStringValue(p);
        if (!name)
            schema_fail(c, ERR_INVAL, "required", "must be a list of names");
        if (b->failed || schema_get(schema_get(s, "properties"), name))
            continue;
        at = argument(c, at, name, more ? more : &anything, tag, false);
        n++;
        n_required++;
    }
    if ((schema_count(c, s, "minProperties", &least) && least > n_required) ||
        (schema_count(c, s, "maxProperties", &most) && most < n))
        schema_fail(c, ERR_UNSUPPORTED, "properties",
                    "their number is not supported in this format of calls");
    return at;
}

/* Of a tool that is not held to its schema. */
static int32_t any_arguments(struct schema *c, int32_t at, const cJSON *tag)
{
    static const char name[] = "[^<>\"\r\n]{1,64}";
    struct rules *b = c->b;
    const char *kinds[] = {text(tag, "text"), text(tag, "json")};
    int32_t begin = rules_state(b), named, valued;
    rules_join(b, at, begin);
    at = mark_text(b, begin, text(tag, "begin"));
    named = expr_write(b, at, regex_read(b, name, sizeof(name) - 1, false), SPELL_PLAIN);
    valued = rules_state(b);
    for (int i = 0; i < 2; i++)
        if (i == 0 || strcmp(kinds[0], kinds[1]) != 0)
            rules_join(b, mark_text(b, named, kinds[i]), valued);
    at = upto(b, valued, text(tag, "end"));
    rules_join(b, mark_text(b, at, text(tag, "after")), begin);
    return begin;
}

/* --- calls ------------------------------------------------------------------------------------------- */

/* The schema where it lets nothing but objects through; else joined with one that does not. */
static const cJSON *only_objects(struct schema *c, const cJSON *s)
{
    const cJSON *flat = schema_flat(c, s);
    bool branches = schema_get(flat, "anyOf") || schema_get(flat, "oneOf");
    if (c->b->failed || (schema_types(c, flat) == TYPE_OBJECT && (schema_get(flat, "type") || !branches)))
        return s;
    const cJSON *objects = schema_made(c, cJSON_Parse("{\"type\":\"object\"}"));
    return objects ? schema_merge(c, flat, objects) : s;
}

/* From the beginning of its opening mark, or where `open` is what is left of it. */
static int32_t one_call(struct schema *c, int32_t from, const char *open, const cJSON *root,
                        const cJSON *tool)
{
    struct rules *b = c->b;
    const cJSON *s = schema_get(tool, "schema"), *tag = schema_get(root, "argument");
    const char *name = text(tool, "name");
    bool any = cJSON_IsTrue(schema_get(tool, "free"));
    int32_t at = rules_text(b, mark_text(b, from, open), name, strlen(name));
    c->n_path = (size_t)snprintf(c->path, sizeof(c->path), "%.100s#", text(tool, "path"));
    c->root = (cJSON *)s;
    b->place = c->path;
    if (cJSON_IsTrue(schema_get(root, "numbered"))) {
        static const char number[] = ":(0|[1-9][0-9]{0,2})";
        at = expr_write(b, at, regex_read(b, number, sizeof(number) - 1, false), SPELL_PLAIN);
    }
    at = mark_text(b, at, text(root, "name_end"));
    if (tag)
        at = any ? any_arguments(c, at, tag) : arguments(c, at, s, tag);
    else if (any || !s || !s->child)
        at = rules_use(b, at, schema_base(c, RULE_OBJECT));
    else if (!(schema_types(c, schema_flat(c, s)) & TYPE_OBJECT))
        schema_fail(c, ERR_INVAL, "type", "arguments are an object");
    else
        at = rules_use(b, at, schema_rule(c, only_objects(c, s)));
    b->place = NULL;
    return mark_text(b, at, text(root, "close"));
}

/* Free text, and the mark that begins a call: the state behind it. The other marks cannot be written.
 * *ret_n: bytes of that mark. */
static int32_t free_text(struct rules *b, int32_t from, const cJSON *root, const char *begin, int32_t end,
                         size_t *ret_n)
{
    struct mark_end ends[MAX_MARKS];
    const cJSON *at;
    int32_t behind = rules_state(b);
    int n = 0;
    *ret_n = 0;
    cJSON_ArrayForEach(at, schema_get(root, "marks"))
    {
        const char *mark = cJSON_GetStringValue(at);
        if (n == MAX_MARKS || !mark || !*mark) {
            rules_fail(b, ERR_INVAL, "marks must be at most %d texts", MAX_MARKS);
            return behind;
        }
        bool right = *ret_n == 0 && !strncmp(begin, mark, strlen(mark));
        *ret_n = right ? strlen(mark) : *ret_n;
        ends[n++] = (struct mark_end){mark, right ? behind : -1};
    }
    marks_free_text(b, from, ends, n, end, cJSON_IsTrue(schema_get(root, "first")));
    return behind;
}

static void write_calls(struct schema *c, const cJSON *root, int32_t first, int32_t end)
{
    struct rules *b = c->b;
    const char *section = text(root, "section"), *open = text(root, "open");
    int32_t calls = rules_state(b), one = rules_state(b), done = rules_state(b), opened;
    const cJSON *at;
    size_t n = 0;
    rules_join(b, calls, one);
    opened = one;
    if (schema_get(root, "marks")) {
        int32_t behind = free_text(b, first, root, *section ? section : open, end, &n);
        if (*section)
            rules_join(b, mark_text(b, behind, section + n), calls);
        else if (n > 0) { /* the mark is the beginning of `open` for each call */
            char mark[MARK_MAX_BYTES + 1];
            snprintf(mark, sizeof(mark), "%.*s", (int)n, open);
            opened = behind;
            rules_join(b, mark_text(b, one, mark), opened);
            open += n;
        }
    } else {
        const char *lines = cJSON_IsTrue(schema_get(root, "lead")) ? "\n\n" : "";
        for (; lines; lines = *lines ? lines + 1 : NULL) /* templates differ */
            rules_join(b, mark_text(b, rules_text(b, first, lines, strlen(lines)), section), calls);
    }
    cJSON_ArrayForEach(at, schema_get(root, "tools")) if (!b->failed)
        rules_join(b, one_call(c, opened, open, root, at), done);
    if (cJSON_IsTrue(schema_get(root, "many")))
        rules_join(b, mark_text(b, done, text(root, "between")), one);
    rules_join(b, mark_text(b, done, text(root, "section_end")), end);
}

int32_t calls_read(struct rules *b, const char *s, size_t n_bytes)
{
    struct schema c;
    schema_begin(&c, b);
    cJSON *root = schema_parse(b, s, n_bytes, "list of tools");
    int32_t rule = rules_rule(b, "calls", 5);
    if (!b->failed) {
        schema_check_names(&c, root);
        write_calls(&c, root, b->rules[rule].start, b->rules[rule].end);
        b->rules[rule].defined = true;
    }
    c.root = root;
    schema_finish(&c);
    return rule;
}
