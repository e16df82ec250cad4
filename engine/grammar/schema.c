/* engine/grammar/schema.c - see schema.h: what a schema is made of, and JSON itself. */
#include "config.h"

#include "engine/grammar/schema.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DIGITS "17" /* behind the first: numbers end */

/* --- where, and what is wrong ----------------------------------------------------------------------- */

void schema_fail(struct schema *c, int code, const char *keyword, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    const char *place = c->b->place;
    c->b->place = NULL;
    rules_fail(c->b, code, "%s%s%.60s: %s", c->path, keyword ? "/" : "", keyword ? keyword : "", text);
    c->b->place = place;
}

size_t schema_enter(struct schema *c, const char *part)
{
    size_t before = c->n_path;
    int n = snprintf(c->path + before, sizeof(c->path) - before, "/%s", part);
    c->n_path += n > 0 ? (size_t)n : 0;
    if (c->n_path >= sizeof(c->path))
        c->n_path = sizeof(c->path) - 1;
    return before;
}

void schema_leave(struct schema *c, size_t before)
{
    c->n_path = before;
    c->path[before] = 0;
}

const cJSON *schema_get(const cJSON *s, const char *keyword)
{
    return cJSON_GetObjectItemCaseSensitive(s, keyword);
}

bool schema_count(struct schema *c, const cJSON *s, const char *keyword, int *ret)
{
    const cJSON *v = schema_get(s, keyword);
    if (!v)
        return false;
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0) || v->valuedouble != floor(v->valuedouble)) {
        schema_fail(c, ERR_INVAL, keyword, "must be a whole number of at least 0");
        return false;
    }
    *ret = v->valuedouble < 1e9 ? (int)v->valuedouble : 1000000000;
    return !c->b->failed;
}

/* --- JSON ------------------------------------------------------------------------------------------ */

static void regex_rule(struct schema *c, int32_t rule, const char *regex)
{
    struct expr *x = regex_read(c->b, regex, strlen(regex), false);
    if (!c->b->failed)
        rules_join(c->b, expr_write(c->b, c->b->rules[rule].start, x, SPELL_PLAIN), c->b->rules[rule].end);
}

/* open (one (, one)*)? close, where one is written by `each`. */
static void list_rule(struct schema *c, int32_t rule, const char *open, const char *close, bool pairs)
{
    struct rules *b = c->b;
    int32_t ws = schema_base(c, RULE_WS), value = schema_base(c, RULE_VALUE);
    int32_t string = schema_base(c, RULE_STRING);
    if (b->failed)
        return;
    int32_t first = rules_use(b, rules_text(b, b->rules[rule].start, open, 1), ws);
    int32_t one = rules_state(b), done = rules_state(b);
    rules_join(b, first, one);
    int32_t at = pairs ? rules_use(b, rules_text(b, rules_use(b, one, string), ":", 1), ws) : one;
    at = rules_use(b, at, value);
    rules_join(b, rules_use(b, rules_text(b, at, ",", 1), ws), one);
    rules_join(b, rules_use(b, at, ws), done);
    rules_join(b, first, done);
    rules_join(b, rules_text(b, done, close, 1), b->rules[rule].end);
}

static void value_rule(struct schema *c, int32_t rule)
{
    static const char *const words[] = {"true", "false", "null"};
    static const enum base_rule parts[] = {RULE_STRING, RULE_NUMBER, RULE_OBJECT, RULE_ARRAY};
    int32_t start = c->b->rules[rule].start, end = c->b->rules[rule].end;
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
        rules_join(c->b, rules_text(c->b, start, words[i], strlen(words[i])), end);
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
        rules_call(c->b, start, end, schema_base(c, parts[i]));
}

int32_t schema_base(struct schema *c, enum base_rule r)
{
    static const char *const names[] = {"(space)",  "(string)", "(number)", "(integer)",
                                        "(object)", "(array)",  "(value)"};
    if (c->base[r] >= 0 || c->b->failed)
        return c->base[r] >= 0 ? c->base[r] : 0;
    int32_t rule = c->base[r] = rules_rule(c->b, names[r], strlen(names[r]));
    if (c->b->failed)
        return 0;
    c->b->rules[rule].defined = true;
    switch (r) {
    case RULE_WS: /* bounded: what is drawn at random must go on */
        regex_rule(c, rule, "( |\\n[ \\t]{0,20})?");
        break;
    case RULE_STRING:
        regex_rule(c, rule, "\"([^\"\\\\\\x00-\\x1f]|\\\\([\"\\\\/bfnrt]|u([0-9a-cA-CefEF][0-9a-fA-F]{3}|"
                            "[dD][0-7][0-9a-fA-F]{2})))*\"");
        break;
    case RULE_NUMBER:
        regex_rule(c, rule,
                   "-?(0|[1-9][0-9]{0," MAX_DIGITS "})(\\.[0-9]{1," MAX_DIGITS "})?([eE][+-]?[0-9]{1,2})?");
        break;
    case RULE_INTEGER:
        regex_rule(c, rule, "-?(0|[1-9][0-9]{0," MAX_DIGITS "})");
        break;
    case RULE_OBJECT:
        list_rule(c, rule, "{", "}", true);
        break;
    case RULE_ARRAY:
        list_rule(c, rule, "[", "]", false);
        break;
    case RULE_VALUE:
        value_rule(c, rule);
        break;
    case N_BASE:
        break;
    }
    return rule;
}

int32_t schema_json(struct schema *c, int32_t from, const cJSON *value)
{
    char *s = cJSON_PrintUnformatted(value);
    if (!s) {
        rules_fail(c->b, ERR_NOMEM, "out of memory for the schema");
        return 0;
    }
    from = rules_text(c->b, from, s, strlen(s));
    cJSON_free(s);
    return from;
}

/* --- keywords -------------------------------------------------------------------------------------- */

static const char *const known[] = {
    "type", "properties", "required", "additionalProperties", "patternProperties", "minProperties",
    "maxProperties", "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "enum", "const", "anyOf",
    "oneOf", "allOf", "$ref", "$defs", "definitions", "minLength", "maxLength", "pattern", "format",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
};

static bool in_list(const char *const *list, size_t n, const char *s)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(list[i], s))
            return true;
    return false;
}

bool schema_only_notes(const char *keyword)
{
    static const char *const notes[] = {
        "title",       "description",     "default",          "examples",     "example", "deprecated",
        "readOnly",    "writeOnly",       "$comment",         "$schema",      "$id",     "$defs",
        "definitions", "contentEncoding", "contentMediaType", "contentSchema"};
    return in_list(notes, sizeof(notes) / sizeof(*notes), keyword);
}

void schema_check_keywords(struct schema *c, const cJSON *s)
{
    const cJSON *at;
    cJSON_ArrayForEach(at, s)
    {
        if (!rules_tick(c->b))
            return;
        if (!strcmp(at->string, "$id") && s != c->root)
            schema_fail(c, ERR_UNSUPPORTED, "$id", "is supported at the root only");
        else if (!strcmp(at->string, "uniqueItems") && !cJSON_IsFalse(at))
            schema_fail(c, ERR_UNSUPPORTED, "uniqueItems", "is not supported");
        else if (!in_list(known, sizeof(known) / sizeof(*known), at->string) &&
                 !schema_only_notes(at->string))
            schema_fail(c, ERR_UNSUPPORTED, at->string, "this keyword is not supported");
    }
}

static unsigned type_of_name(struct schema *c, const cJSON *v)
{
    static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    for (unsigned i = 0; i < 7; i++)
        if (cJSON_IsString(v) && !strcmp(v->valuestring, names[i]))
            return 1u << i;
    schema_fail(c, ERR_INVAL, "type",
                "must be null, boolean, integer, number, string, array, object, or a list");
    return 0;
}

static unsigned type_of_value(const cJSON *v)
{
    if (cJSON_IsNumber(v))
        return v->valuedouble == floor(v->valuedouble) ? TYPE_INTEGER : TYPE_NUMBER;
    return cJSON_IsNull(v) ? TYPE_NULL
           : cJSON_IsBool(v) ? TYPE_BOOLEAN
           : cJSON_IsString(v) ? TYPE_STRING
           : cJSON_IsArray(v) ? TYPE_ARRAY
                              : TYPE_OBJECT;
}

/* Where no type is said, keywords of one type mean it: what is generated is of that type. */
static unsigned guess_types(const cJSON *s)
{
    static const struct {
        const char *keyword;
        unsigned type;
    } hints[] = {
        {"properties", TYPE_OBJECT},
        {"required", TYPE_OBJECT},
        {"additionalProperties", TYPE_OBJECT},
        {"patternProperties", TYPE_OBJECT},
        {"minProperties", TYPE_OBJECT},
        {"maxProperties", TYPE_OBJECT},
        {"items", TYPE_ARRAY},
        {"prefixItems", TYPE_ARRAY},
        {"minItems", TYPE_ARRAY},
        {"maxItems", TYPE_ARRAY},
        {"minLength", TYPE_STRING},
        {"maxLength", TYPE_STRING},
        {"pattern", TYPE_STRING},
        {"format", TYPE_STRING},
        {"minimum", TYPE_NUMBER},
        {"maximum", TYPE_NUMBER},
        {"exclusiveMinimum", TYPE_NUMBER},
        {"exclusiveMaximum", TYPE_NUMBER},
        {"multipleOf", TYPE_NUMBER},
    };
    unsigned types = 0;
    for (size_t i = 0; i < sizeof(hints) / sizeof(*hints); i++)
        if (schema_get(s, hints[i].keyword))
            types |= hints[i].type;
    return types ? types : TYPE_ALL;
}

unsigned schema_types(struct schema *c, const cJSON *s)
{
    const cJSON *t = schema_get(s, "type"), *at, *values = schema_get(s, "enum");
    unsigned types = 0;
    if (cJSON_IsArray(t)) {
        cJSON_ArrayForEach(at, t)
            types |= type_of_name(c, at);
        return types;
    }
    if (t)
        return type_of_name(c, t);
    if (schema_get(s, "const"))
        return type_of_value(schema_get(s, "const"));
    cJSON_ArrayForEach(at, values)
        types |= type_of_value(at);
    return types ? types : guess_types(s);
}

static bool type_allows(unsigned types, const cJSON *v)
{
    unsigned t = type_of_value(v);
    return (types & t) || (t == TYPE_INTEGER && (types & TYPE_NUMBER));
}

static int32_t one_value(struct schema *c, int32_t from, const cJSON *v, const char *keyword)
{
    if (!schema_exact(v))
        schema_fail(c, ERR_UNSUPPORTED, keyword,
                    "numbers beyond 2^53 are not supported: digits would be lost");
    return c->b->failed ? 0 : schema_json(c, from, v);
}

/* enum and const: the values, as far as the type allows them. */
static int32_t listed(struct schema *c, int32_t from, const cJSON *s)
{
    const cJSON *list = schema_get(s, "enum"), *one = schema_get(s, "const"), *at;
    unsigned types = schema_get(s, "type") ? schema_types(c, s) : TYPE_ALL;
    int32_t end = rules_state(c->b);
    int n = 0;
    if (list && (!cJSON_IsArray(list) || !list->child))
        schema_fail(c, ERR_INVAL, "enum", "must be a list that is not empty");
    cJSON_ArrayForEach(at, s)
        if (strcmp(at->string, "enum") != 0 && strcmp(at->string, "const") != 0 &&
            strcmp(at->string, "type") != 0 && !schema_only_notes(at->string))
            schema_fail(c, ERR_UNSUPPORTED, at->string, "is not supported beside enum or const");
    if (one && list) {
        bool in = false;
        cJSON_ArrayForEach(at, list)
            in |= schema_same(c, at, one);
        list = NULL;
        one = in ? one : NULL;
    }
    if (one && type_allows(types, one)) {
        rules_join(c->b, one_value(c, from, one, "const"), end);
        n++;
    }
    cJSON_ArrayForEach(at, list)
    {
        if (!rules_tick(c->b) || !type_allows(types, at))
            continue;
        rules_join(c->b, one_value(c, from, at, "enum"), end);
        n++;
    }
    if (n == 0)
        schema_fail(c, ERR_INVAL, list ? "enum" : "const", "no value is of the type");
    return end;
}

/* --- alternatives ---------------------------------------------------------------------------------- */

static const cJSON *without(struct schema *c, const cJSON *s, const char *keyword)
{
    cJSON *copy = cJSON_Duplicate(s, 1);
    if (copy)
        cJSON_DeleteItemFromObjectCaseSensitive(copy, keyword);
    return schema_made(c, copy);
}

static bool says_something(const cJSON *s)
{
    const cJSON *at;
    cJSON_ArrayForEach(at, s)
        if (!schema_only_notes(at->string))
            return true;
    return false;
}

static void check_exclusive(struct schema *c, const cJSON *list)
{
    int i = 0;
    for (const cJSON *x = list->child; x && rules_tick(c->b); x = x->next, i++) {
        int k = i + 1;
        const cJSON *flat = schema_flat(c, x);
        for (const cJSON *y = x->next; y && rules_tick(c->b); y = y->next, k++)
            if (!schema_apart(c, flat, schema_flat(c, y)))
                schema_fail(c, ERR_UNSUPPORTED, "oneOf",
                            "branches %d and %d may match the same value: they must differ in type or in a "
                            "required property with const or enum; or use anyOf", i, k);
    }
}

static int32_t branches(struct schema *c, int32_t from, const cJSON *s, const char *keyword)
{
    const cJSON *list = schema_get(s, keyword), *rest = without(c, s, keyword), *at;
    int32_t end = rules_state(c->b);
    int n = 0, i = 0;
    if (!cJSON_IsArray(list) || !list->child) {
        schema_fail(c, ERR_INVAL, keyword, "must be a list of schemas that is not empty");
        return 0;
    }
    if (!strcmp(keyword, "oneOf"))
        check_exclusive(c, list);
    cJSON_ArrayForEach(at, list)
    {
        char part[48];
        snprintf(part, sizeof(part), "%s/%d", keyword, i++);
        size_t before = schema_enter(c, part);
        const cJSON *one = rest && says_something(rest) ? schema_merge(c, schema_flat(c, at), rest) : at;
        if (c->b->failed)
            return 0;
        if (!cJSON_IsFalse(one)) {
            int32_t begin = rules_state(c->b);
            rules_join(c->b, from, begin);
            rules_join(c->b, schema_value(c, begin, one), end);
            n++;
        }
        schema_leave(c, before);
    }
    if (n == 0)
        schema_fail(c, ERR_INVAL, keyword, "no branch agrees with what is said beside it");
    return end;
}

static int32_t typed(struct schema *c, int32_t from, const cJSON *s)
{
    struct rules *b = c->b;
    unsigned types = schema_types(c, s);
    int32_t end = rules_state(b);
    if (types & TYPE_NULL)
        rules_join(b, rules_text(b, from, "null", 4), end);
    if (types & TYPE_BOOLEAN) {
        rules_join(b, rules_text(b, from, "true", 4), end);
        rules_join(b, rules_text(b, from, "false", 5), end);
    }
    if (types & TYPE_NUMBER)
        rules_join(b, schema_number(c, from, s, false), end);
    else if (types & TYPE_INTEGER)
        rules_join(b, schema_number(c, from, s, true), end);
    if (types & TYPE_STRING)
        rules_join(b, schema_string(c, from, s), end);
    if (types & TYPE_ARRAY)
        rules_join(b, schema_array(c, from, s), end);
    if (types & TYPE_OBJECT)
        rules_join(b, schema_object(c, from, s), end);
    return end;
}

/* --- the walk -------------------------------------------------------------------------------------- */

static int32_t value(struct schema *c, int32_t from, const cJSON *s)
{
    if (cJSON_IsTrue(s))
        return rules_use(c->b, from, schema_base(c, RULE_VALUE));
    if (cJSON_IsFalse(s)) {
        schema_fail(c, ERR_INVAL, NULL, "nothing matches this schema");
        return 0;
    }
    if (!cJSON_IsObject(s)) {
        schema_fail(c, ERR_INVAL, NULL, "a schema must be an object or a boolean");
        return 0;
    }
    schema_check_keywords(c, s);
    if (c->b->failed)
        return 0;
    if (schema_get(s, "$ref") || schema_get(s, "allOf")) {
        const cJSON *flat = schema_flat(c, s);
        return c->b->failed ? 0 : rules_use(c->b, from, schema_rule(c, flat));
    }
    if (schema_get(s, "anyOf"))
        return branches(c, from, s, "anyOf");
    if (schema_get(s, "oneOf"))
        return branches(c, from, s, "oneOf");
    if (schema_get(s, "enum") || schema_get(s, "const"))
        return listed(c, from, s);
    if (schema_types(c, s) == TYPE_ALL && guess_types(s) == TYPE_ALL)
        return rules_use(c->b, from, schema_base(c, RULE_VALUE));
    return typed(c, from, s);
}

int32_t schema_value(struct schema *c, int32_t from, const cJSON *s)
{
    if (!rules_tick(c->b))
        return 0;
    if (++c->depth > RULES_MAX_NESTING)
        schema_fail(c, ERR_LIMIT, NULL, "schemas nest deeper than %d", RULES_MAX_NESTING);
    int32_t end = c->b->failed ? 0 : value(c, from, s);
    c->depth--;
    return end;
}

int32_t schema_rule(struct schema *c, const cJSON *s)
{
    for (int i = 0; i < c->n_rules; i++)
        if (c->rules[i].schema == s)
            return c->rules[i].rule;
    int32_t rule = rules_rule(c->b, c->path, c->n_path);
    if (c->b->failed)
        return 0;
    if (c->n_rules == c->cap_rules) {
        int cap = c->cap_rules ? 2 * c->cap_rules : 32;
        void *p = realloc(c->rules, (size_t)cap * sizeof(*c->rules));
        if (!p) {
            rules_fail(c->b, ERR_NOMEM, "out of memory for the schema");
            return 0;
        }
        c->rules = p;
        c->cap_rules = cap;
    }
    c->rules[c->n_rules++] = (struct schema_rule){s, rule};
    c->b->rules[rule].defined = true;
    int32_t end = schema_value(c, c->b->rules[rule].start, s);
    if (!c->b->failed)
        rules_join(c->b, end, c->b->rules[rule].end);
    return rule;
}

void schema_begin(struct schema *c, struct rules *b)
{
    *c = (struct schema){.b = b, .path = "#", .n_path = 1};
    for (int i = 0; i < N_BASE; i++)
        c->base[i] = -1;
}

void schema_finish(struct schema *c)
{
    for (int i = 0; i < c->n_made; i++)
        cJSON_Delete(c->made[i]);
    free(c->made);
    free(c->rules);
    free(c->flats);
    cJSON_Delete(c->root);
    c->b->place = NULL;
}

/* cJSON's strings end at the first NUL: what stands behind it would be lost without a word. */
static bool has_nul(const char *s, size_t n_bytes)
{
    bool in_string = false;
    for (size_t i = 0; i < n_bytes; i++) {
        if (in_string && s[i] == '\\') {
            if (n_bytes - i > 5 && !memcmp(s + i + 1, "u0000", 5))
                return true;
            i++;
        } else if (s[i] == '"') {
            in_string = !in_string;
        }
    }
    return false;
}

/* A number beyond a double is read as infinity, and written as null. Depth: cJSON's limit. */
static bool all_finite(const cJSON *j)
{
    if (cJSON_IsNumber(j) && !isfinite(j->valuedouble))
        return false;
    for (const cJSON *at = j->child; at; at = at->next)
        if (!all_finite(at))
            return false;
    return true;
}

/* JSON text that may hold NUL bytes nowhere and nothing behind it. */
cJSON *schema_parse(struct rules *b, const char *s, size_t n_bytes, const char *what)
{
    const char *end = NULL;
    errno = 0; /* the parser does not tell a mistake from a lack of memory; malloc does */
    cJSON *j = memchr(s, 0, n_bytes) ? NULL : cJSON_ParseWithLengthOpts(s, n_bytes, &end, 0);
    bool no_memory = !j && errno == ENOMEM;
    while (j && end < s + n_bytes && strchr(" \t\r\n", *end))
        end++;
    if (j && end < s + n_bytes) {
        cJSON_Delete(j);
        j = NULL;
    }
    if (no_memory)
        rules_fail(b, ERR_NOMEM, "out of memory for the grammar");
    else if (!j)
        rules_fail(b, ERR_INVAL, "the %s is not JSON", what);
    else if (has_nul(s, n_bytes))
        rules_fail(b, ERR_UNSUPPORTED, "the %s has the character \\u0000, which is not supported", what);
    else if (!all_finite(j))
        rules_fail(b, ERR_INVAL, "the %s has a number that is not within +-1.8e308", what);
    return j;
}

int32_t schema_read(struct rules *b, const char *s, size_t n_bytes)
{
    struct schema c;
    schema_begin(&c, b);
    c.root = schema_parse(b, s, n_bytes, "schema");
    b->place = c.path;
    if (!b->failed)
        schema_check_names(&c, c.root);
    int32_t rule = b->failed ? 0 : schema_rule(&c, c.root);
    schema_finish(&c);
    return rule;
}

int32_t object_read(struct rules *b)
{
    struct schema c;
    schema_begin(&c, b);
    int32_t rule = schema_base(&c, RULE_OBJECT);
    schema_finish(&c);
    return rule;
}

int32_t choice_read(struct rules *b, const char *s, size_t n_bytes)
{
    cJSON *list = schema_parse(b, s, n_bytes, "choice");
    int32_t rule = rules_rule(b, "choice", 6);
    const cJSON *at;
    if (list && (!cJSON_IsArray(list) || !list->child))
        rules_fail(b, ERR_INVAL, "the choice must be a list of strings that is not empty");
    cJSON_ArrayForEach(at, list)
    {
        if (!cJSON_IsString(at) || !*at->valuestring)
            rules_fail(b, ERR_INVAL, "the choice must be a list of strings that are not empty");
        if (b->failed)
            break;
        rules_join(b, rules_text(b, b->rules[rule].start, at->valuestring, strlen(at->valuestring)),
                   b->rules[rule].end);
    }
    if (!b->failed)
        b->rules[rule].defined = true;
    cJSON_Delete(list);
    return rule;
}
