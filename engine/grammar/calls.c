/* engine/grammar/calls.c - calls of tools as a model's format writes them: marks, a name, arguments under
 * the tool's schema. The source is JSON that the API makes:
 *
 *     {"section", "between", "section_end": around and between calls,
 *      "open", "name_end", "close": of one call, around its name and its arguments,
 *      "numbered": true where ":" and a number follow the name,
 *      "argument": {"begin", "text", "json", "before", "end", "after"}, where each has a tag of its own:
 *          begin, name, text or json, value, before, end, after; strings stand there as they are,
 *      "lead": true where empty lines may come first, "many": true for several calls,
 *      "tools": [{"name", "schema", "path" (for messages)}]}
 *
 * Where the vocabulary has a control token for a part of these texts, the part is that token. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "engine/grammar/schema.h"
#include "engine/grammar/vocab.h"

#define MAX_MARK 256

/* --- texts with control tokens ---------------------------------------------------------------------- */

/* A character, or a control token as the vocabulary's tree has it. */
struct unit {
    uint32_t code;
    int32_t control; /* its id, or -1 */
};

struct mark {
    int n;
    struct unit u[MAX_MARK];
};

static int32_t control_at(const struct rules *b, const char *s, size_t n_bytes, size_t *ret_n)
{
    size_t most = tokenizer_max_token_bytes(b->tokenizer);
    for (size_t n = n_bytes < most ? n_bytes : most; n > 0; n--) {
        int32_t id = tokenizer_find(b->tokenizer, s, n);
        *ret_n = n;
        if (id >= 0 && tokenizer_is_special(b->tokenizer, id) && !tokenizer_is_eog(b->tokenizer, id))
            return id;
    }
    return -1;
}

static void take_apart(struct rules *b, const char *s, struct mark *m)
{
    size_t n_bytes = strlen(s), n;
    m->n = 0;
    if (n_bytes > MAX_MARK)
        rules_fail(b, ERR_LIMIT, "a mark or name has more than %d bytes", MAX_MARK);
    for (size_t i = 0; i < n_bytes && !b->failed;) {
        struct unit *u = &m->u[m->n++];
        *u = (struct unit){0, control_at(b, s + i, n_bytes - i, &n)};
        if (u->control >= 0)
            i += n;
        else if (!char_next(s, n_bytes, &i, &u->code))
            rules_fail(b, ERR_INVAL, "a mark or name is not UTF-8");
    }
}

static int32_t write_unit(struct rules *b, int32_t from, const struct unit *u)
{
    if (u->control < 0) {
        struct charset one = {0};
        charset_add(b, &one, u->code, u->code);
        return charset_write(b, from, &one, SPELL_PLAIN);
    }
    size_t n;
    const char *s = tokenizer_token_bytes(b->tokenizer, u->control, &n);
    int32_t inside = rules_state(b);
    rules_bytes(b, from, inside, VOCAB_CONTROL, VOCAB_CONTROL);
    return rules_text(b, inside, s, n);
}

static int32_t mark_text(struct rules *b, int32_t from, const char *s)
{
    struct mark m;
    take_apart(b, s, &m);
    for (int i = 0; i < m.n && !b->failed; i++)
        from = write_unit(b, from, &m.u[i]);
    return from;
}

/* After k units of the mark and a character: how many units of it the text now ends with. */
static int matched(const struct mark *m, int k, uint32_t code)
{
    for (int n = k + 1; n > 0; n--)
        if (m->u[n - 1].control < 0 && m->u[n - 1].code == code &&
            !memcmp(m->u, m->u + k - (n - 1), (size_t)(n - 1) * sizeof(*m->u)))
            return n;
    return 0;
}

/* Any characters but NUL up to the first mark, and the mark. */
static int32_t upto(struct rules *b, int32_t from, const char *s)
{
    struct mark m;
    int32_t at[MAX_MARK + 1];
    struct charset others = {0};
    take_apart(b, s, &m);
    at[0] = rules_state(b);
    rules_join(b, from, at[0]);
    for (int k = 1; k <= m.n; k++)
        at[k] = rules_state(b);
    charset_add(b, &others, 0, 0);
    for (int k = 0; k < m.n; k++)
        if (m.u[k].control < 0)
            charset_add(b, &others, m.u[k].code, m.u[k].code);
    charset_close(b, &others, true);
    for (int k = 0; k < m.n && !b->failed; k++) {
        rules_join(b, charset_write(b, at[k], &others, SPELL_PLAIN), at[0]);
        if (m.u[k].control >= 0)
            rules_join(b, write_unit(b, at[k], &m.u[k]), at[k + 1]);
        for (int i = 0; i < m.n; i++) {
            bool again = m.u[i].control >= 0;
            for (int h = 0; h < i && !again; h++)
                again = m.u[h].control < 0 && m.u[h].code == m.u[i].code;
            if (!again)
                rules_join(b, write_unit(b, at[k], &m.u[i]), at[matched(&m, k, m.u[i].code)]);
        }
    }
    return b->failed ? 0 : at[m.n];
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
    cJSON_ArrayForEach(p, schema_get(s, "properties"))
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

/* --- calls ------------------------------------------------------------------------------------------- */

static int32_t one_call(struct schema *c, int32_t from, const cJSON *root, const cJSON *tool)
{
    struct rules *b = c->b;
    const cJSON *s = schema_get(tool, "schema"), *tag = schema_get(root, "argument");
    const char *name = text(tool, "name");
    int32_t at = rules_text(b, mark_text(b, from, text(root, "open")), name, strlen(name));
    c->n_path = (size_t)snprintf(c->path, sizeof(c->path), "%.100s#", text(tool, "path"));
    c->root = (cJSON *)s;
    b->place = c->path;
    if (cJSON_IsTrue(schema_get(root, "numbered"))) {
        static const char number[] = ":(0|[1-9][0-9]{0,2})";
        at = expr_write(b, at, regex_read(b, number, sizeof(number) - 1, false), SPELL_PLAIN);
    }
    at = mark_text(b, at, text(root, "name_end"));
    if (tag)
        at = arguments(c, at, s, tag);
    else if (!s || !s->child)
        at = rules_use(b, at, schema_base(c, RULE_OBJECT));
    else if (!(schema_types(c, schema_flat(c, s)) & TYPE_OBJECT))
        schema_fail(c, ERR_INVAL, "type", "arguments are an object");
    else
        at = rules_use(b, at, schema_rule(c, s));
    b->place = NULL;
    return mark_text(b, at, text(root, "close"));
}

int32_t calls_read(struct rules *b, const char *s, size_t n_bytes)
{
    struct schema c;
    schema_begin(&c, b);
    cJSON *root = schema_parse(b, s, n_bytes, "list of tools");
    int32_t rule = rules_rule(b, "calls", 5);
    const cJSON *at;
    if (!b->failed) {
        schema_check_names(&c, root);
        int32_t first = b->rules[rule].start, calls = rules_state(b), one = rules_state(b),
                end = rules_state(b);
        const char *lines = cJSON_IsTrue(schema_get(root, "lead")) ? "\n\n" : "";
        for (; lines; lines = *lines ? lines + 1 : NULL) /* templates differ */
            rules_join(b,
                       mark_text(b, rules_text(b, first, lines, strlen(lines)), text(root, "section")),
                       calls);
        rules_join(b, calls, one);
        cJSON_ArrayForEach(at, schema_get(root, "tools")) if (!b->failed)
            rules_join(b, one_call(&c, one, root, at), end);
        if (cJSON_IsTrue(schema_get(root, "many")))
            rules_join(b, mark_text(b, end, text(root, "between")), one);
        rules_join(b, mark_text(b, end, text(root, "section_end")), b->rules[rule].end);
        b->rules[rule].defined = true;
    }
    c.root = root;
    schema_finish(&c);
    return rule;
}
