/* engine/grammar/schema_merge.c - schemas that hold together: references, allOf, and what may not both
 * match. */
#include "config.h"

#include "engine/grammar/schema.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MADE_ITEMS 200000
#define MAX_CROSS 64 /* branches of two lists of alternatives, each with each */

static int count_items(const cJSON *s)
{
    int n = 1;
    for (const cJSON *at = s->child; at; at = at->next)
        n += count_items(at);
    return n;
}

cJSON *schema_made(struct schema *c, cJSON *item)
{
    if (!item || c->b->failed) {
        cJSON_Delete(item);
        rules_fail(c->b, ERR_NOMEM, "out of memory for the schema");
        return NULL;
    }
    c->n_made_items += count_items(item);
    if (c->n_made_items > MAX_MADE_ITEMS)
        schema_fail(c, ERR_LIMIT, NULL, "references and allOf make the schema too large");
    if (c->n_made == c->cap_made) {
        int cap = c->cap_made ? 2 * c->cap_made : 32;
        void *p = realloc(c->made, (size_t)cap * sizeof(*c->made));
        if (!p) {
            cJSON_Delete(item);
            rules_fail(c->b, ERR_NOMEM, "out of memory for the schema");
            return NULL;
        }
        c->made = p;
        c->cap_made = cap;
    }
    c->made[c->n_made++] = item;
    return item;
}

static const cJSON *nothing(struct schema *c)
{
    return schema_made(c, cJSON_CreateFalse());
}

/* --- $ref ------------------------------------------------------------------------------------------ */

/* One part of a pointer, decoded; *at moves behind it. */
static bool pointer_part(const char **at, char *dst, size_t cap)
{
    size_t n = 0;
    const char *s = *at;
    for (; *s && *s != '/'; s++) {
        uint32_t v = (unsigned char)*s;
        size_t k = 1;
        if (*s == '%') {
            if (!hex_next(s, strlen(s), &k, 2, &v))
                return false;
            s += 2;
        } else if (*s == '~') {
            if (s[1] != '0' && s[1] != '1')
                return false;
            v = *++s == '0' ? '~' : '/';
        }
        if (n + 1 >= cap || v == 0)
            return false;
        dst[n++] = (char)v;
    }
    dst[n] = 0;
    *at = s;
    return true;
}

static const cJSON *target(struct schema *c, const cJSON *ref)
{
    const char *s = cJSON_IsString(ref) ? ref->valuestring : "";
    const cJSON *at = c->root;
    char part[256];
    if (*s != '#' || (s[1] && s[1] != '/')) {
        schema_fail(c, ERR_UNSUPPORTED, "$ref", "must be \"#\" or begin with \"#/\"");
        return NULL;
    }
    for (s++; *s && at;) {
        s++;
        if (!pointer_part(&s, part, sizeof(part))) {
            schema_fail(c, ERR_INVAL, "$ref", "\"%.80s\" is malformed", ref->valuestring);
            return NULL;
        }
        at = cJSON_IsArray(at) && *part >= '0' && *part <= '9' ? cJSON_GetArrayItem(at, atoi(part))
                                                                : schema_get(at, part);
    }
    if (!at)
        schema_fail(c, ERR_INVAL, "$ref", "\"%.80s\" leads nowhere", ref->valuestring);
    return at;
}

/* What leads back to itself through properties finds the same schema again. */
static void keep_flat(struct schema *c, const cJSON *s, const cJSON *flat)
{
    if (c->n_flats == c->cap_flats) {
        int cap = c->cap_flats ? 2 * c->cap_flats : 32;
        void *p = realloc(c->flats, (size_t)cap * sizeof(*c->flats));
        if (!p) {
            rules_fail(c->b, ERR_NOMEM, "out of memory for the schema");
            return;
        }
        c->flats = p;
        c->cap_flats = cap;
    }
    c->flats[c->n_flats++] = (struct flat){s, flat};
}

const cJSON *schema_flat(struct schema *c, const cJSON *s)
{
    const cJSON *ref = schema_get(s, "$ref"), *all = schema_get(s, "allOf"), *at, *rest = s;
    if (!rules_tick(c->b) || (!ref && !all))
        return s;
    for (int i = 0; i < c->n_flats; i++)
        if (c->flats[i].from == s)
            return c->flats[i].flat;
    if (++c->depth > RULES_MAX_NESTING) {
        schema_fail(c, ERR_UNSUPPORTED, ref ? "$ref" : "allOf", "leads back to itself");
        c->depth--;
        return s;
    }
    bool alone = ref && !all;
    cJSON_ArrayForEach(at, s)
        alone &= !strcmp(at->string, "$ref") || schema_only_notes(at->string);
    if (all && (!cJSON_IsArray(all) || !all->child))
        schema_fail(c, ERR_INVAL, "allOf", "must be a list of schemas that is not empty");
    if (alone) {
        rest = target(c, ref);
        rest = rest ? schema_flat(c, rest) : s;
    } else {
        cJSON *copy = cJSON_Duplicate(s, 1);
        if (copy) {
            cJSON_DeleteItemFromObjectCaseSensitive(copy, "$ref");
            cJSON_DeleteItemFromObjectCaseSensitive(copy, "allOf");
        }
        rest = schema_made(c, copy);
        if (ref && !c->b->failed) {
            const cJSON *to = target(c, ref);
            rest = to ? schema_merge(c, rest, schema_flat(c, to)) : s;
        }
        cJSON_ArrayForEach(at, all)
            if (!c->b->failed)
                rest = schema_merge(c, rest, schema_flat(c, at));
        keep_flat(c, s, rest);
    }
    c->depth--;
    return rest;
}

/* --- two schemas as one ---------------------------------------------------------------------------- */

/* Takes ownership of value. */
static void put(cJSON *o, const char *key, cJSON *value)
{
    cJSON_DeleteItemFromObjectCaseSensitive(o, key);
    if (!cJSON_AddItemToObject(o, key, value))
        cJSON_Delete(value);
}

/* Counted: what is copied at each of many merges may be much. */
static void put_copy(struct schema *c, cJSON *o, const char *key, const cJSON *value)
{
    if (rules_spend(c->b, count_items(value)))
        put(o, key, cJSON_Duplicate(value, 1));
}

static cJSON *type_list(unsigned types)
{
    static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    cJSON *list = cJSON_CreateArray();
    for (unsigned i = 0; i < 7; i++)
        if (types & 1u << i)
            cJSON_AddItemToArray(list, cJSON_CreateString(names[i]));
    return list;
}

static unsigned types_together(unsigned a, unsigned b)
{
    unsigned both = a & b;
    if ((a & TYPE_NUMBER && b & TYPE_INTEGER) || (b & TYPE_NUMBER && a & TYPE_INTEGER))
        both |= TYPE_INTEGER;
    return both & TYPE_NUMBER ? both & ~(unsigned)TYPE_INTEGER : both;
}

/* Both, where either may be a boolean or an object. */
static const cJSON *merge_any(struct schema *c, const cJSON *a, const cJSON *b)
{
    if (cJSON_IsFalse(a) || cJSON_IsTrue(b))
        return a;
    if (cJSON_IsFalse(b) || cJSON_IsTrue(a))
        return b;
    return schema_merge(c, schema_flat(c, a), schema_flat(c, b));
}

/* Properties that only `one` names, under what the other says of further ones. */
static void limit_properties(struct schema *c, cJSON *out, const cJSON *one, const cJSON *other)
{
    const cJSON *more = schema_get(other, "additionalProperties"), *named = schema_get(other, "properties"),
                *at;
    cJSON *props = cJSON_GetObjectItemCaseSensitive(out, "properties");
    if (!more || cJSON_IsTrue(more))
        return;
    int n_named = 1 + cJSON_GetArraySize(named) + cJSON_GetArraySize(props); /* looked through */
    cJSON_ArrayForEach(at, schema_get(one, "properties"))
    {
        if (!rules_spend(c->b, n_named) || schema_get(named, at->string))
            continue;
        const cJSON *both = merge_any(c, at, more);
        if (!c->b->failed)
            put_copy(c, props, at->string, both);
    }
}

static void merge_properties(struct schema *c, cJSON *out, const cJSON *a, const cJSON *b)
{
    const cJSON *pa = schema_properties(c, a), *pb = schema_properties(c, b), *at;
    if ((!pa && !pb) || c->b->failed)
        return;
    cJSON *props = pa ? cJSON_Duplicate(pa, 1) : cJSON_CreateObject();
    put(out, "properties", props);
    int n = 1 + cJSON_GetArraySize(pa) + cJSON_GetArraySize(pb); /* looked through for each */
    cJSON_ArrayForEach(at, pb)
    {
        if (!rules_spend(c->b, n))
            return;
        const cJSON *mine = schema_get(pa, at->string);
        const cJSON *both = mine && !c->b->failed ? merge_any(c, mine, at) : at;
        if (!c->b->failed)
            put_copy(c, props, at->string, both);
    }
    limit_properties(c, out, a, b);
    limit_properties(c, out, b, a);
}

static cJSON *merge_required(struct schema *c, const cJSON *a, const cJSON *b)
{
    cJSON *out = cJSON_Duplicate(a, 1);
    const cJSON *x;
    cJSON_ArrayForEach(x, b)
        if (!c->b->failed && !schema_has(c, a, x))
            cJSON_AddItemToArray(out, cJSON_Duplicate(x, 1));
    return out;
}

static cJSON *merge_values(struct schema *c, const cJSON *a, const cJSON *b)
{
    cJSON *out = cJSON_CreateArray();
    const cJSON *x;
    cJSON_ArrayForEach(x, a)
        if (!c->b->failed && schema_has(c, b, x))
            cJSON_AddItemToArray(out, cJSON_Duplicate(x, 1));
    return out;
}

/* Alternatives of both: each with each. NULL: none agree, or a failure. */
static const cJSON *merge_branches(struct schema *c, const cJSON *a, const cJSON *b)
{
    cJSON *out = cJSON_CreateArray();
    const cJSON *x, *y;
    if (cJSON_GetArraySize(a) * cJSON_GetArraySize(b) > MAX_CROSS)
        schema_fail(c, ERR_LIMIT, "anyOf", "more than %d pairs of alternatives", MAX_CROSS);
    cJSON_ArrayForEach(x, a)
        cJSON_ArrayForEach(y, b)
            if (!c->b->failed) {
                const cJSON *both = merge_any(c, x, y);
                if (!c->b->failed && !cJSON_IsFalse(both))
                    cJSON_AddItemToArray(out, cJSON_Duplicate(both, 1));
            }
    if (!out || !out->child) {
        cJSON_Delete(out);
        return NULL;
    }
    return schema_made(c, out);
}

/* const as a list of one. */
static const cJSON *values_of(struct schema *c, const cJSON *s)
{
    const cJSON *one = schema_get(s, "const");
    if (!one)
        return schema_get(s, "enum");
    cJSON *list = cJSON_CreateArray();
    cJSON_AddItemToArray(list, cJSON_Duplicate(one, 1));
    return schema_made(c, list);
}

/* A keyword that both have with different values. False: nothing can match. */
static bool merge_keyword(struct schema *c, cJSON *out, const cJSON *x, const cJSON *y)
{
    static const char *const larger[] = {"minimum", "exclusiveMinimum", "minLength", "minItems",
                                         "minProperties"};
    static const char *const smaller[] = {"maximum", "exclusiveMaximum", "maxLength", "maxItems",
                                          "maxProperties"};
    const char *k = y->string;
    for (size_t i = 0; i < 5; i++)
        if ((!strcmp(k, larger[i]) || !strcmp(k, smaller[i])) && cJSON_IsNumber(x) && cJSON_IsNumber(y)) {
            bool take =
                !strcmp(k, larger[i]) ? y->valuedouble > x->valuedouble : y->valuedouble < x->valuedouble;
            if (take)
                put_copy(c, out, k, y);
            return true;
        }
    if (!strcmp(k, "required")) {
        put(out, k, merge_required(c, x, y));
    } else if (!strcmp(k, "items") || !strcmp(k, "additionalProperties")) {
        const cJSON *both = merge_any(c, x, y);
        if (!c->b->failed)
            put_copy(c, out, k, both);
    } else if (!strcmp(k, "anyOf") || !strcmp(k, "oneOf")) {
        if (!strcmp(k, "oneOf"))
            schema_fail(c, ERR_UNSUPPORTED, k, "cannot be joined with another; use anyOf");
        const cJSON *list = c->b->failed ? NULL : merge_branches(c, x, y);
        if (!list)
            return false;
        put_copy(c, out, k, list);
    } else {
        schema_fail(c, ERR_UNSUPPORTED, k, "cannot be joined with another");
    }
    return true;
}

/* Keywords that speak of what others leave, in one schema, cannot be joined with those others in another. */
static void check_rest(struct schema *c, const cJSON *a, const cJSON *b)
{
    const cJSON *mine = schema_get(a, "patternProperties"), *other = schema_get(b, "patternProperties");
    if (mine && !(other && schema_same(c, mine, other)) &&
        (other || schema_get(b, "properties") || schema_get(b, "additionalProperties")))
        schema_fail(c, ERR_UNSUPPORTED, "patternProperties", "cannot be joined with other properties");
    mine = schema_get(a, "prefixItems");
    other = schema_get(b, "prefixItems");
    if (mine && !other && schema_get(b, "items"))
        schema_fail(c, ERR_UNSUPPORTED, "prefixItems", "cannot be joined with items");
}

const cJSON *schema_merge(struct schema *c, const cJSON *a, const cJSON *b)
{
    const cJSON *at;
    if (c->b->failed)
        return a;
    if (!cJSON_IsObject(a) || !cJSON_IsObject(b)) {
        if ((!cJSON_IsBool(a) && !cJSON_IsObject(a)) || (!cJSON_IsBool(b) && !cJSON_IsObject(b)))
            schema_fail(c, ERR_INVAL, NULL, "a schema must be an object or a boolean");
        return cJSON_IsFalse(a) || cJSON_IsTrue(b) ? a : b;
    }
    if (++c->depth > RULES_MAX_NESTING) {
        schema_fail(c, ERR_LIMIT, NULL, "schemas nest deeper than %d", RULES_MAX_NESTING);
        c->depth--;
        return a;
    }
    cJSON *out = cJSON_Duplicate(a, 1);
    const cJSON *kept = schema_made(c, out);
    bool possible = true;
    check_rest(c, a, b);
    check_rest(c, b, a);
    if (c->b->failed) {
        c->depth--;
        return a;
    }
    const cJSON *va = values_of(c, a), *vb = values_of(c, b);
    if (va && vb && !c->b->failed) {
        cJSON *both = merge_values(c, va, vb);
        possible = both && both->child;
        cJSON_DeleteItemFromObjectCaseSensitive(out, "const");
        put(out, "enum", both);
    } else if (vb && !c->b->failed) {
        put_copy(c, out, "enum", vb);
    }
    cJSON_ArrayForEach(at, b)
    {
        const cJSON *mine = schema_get(a, at->string);
        if (c->b->failed || !possible || schema_only_notes(at->string) || !strcmp(at->string, "properties") ||
            !strcmp(at->string, "enum") || !strcmp(at->string, "const"))
            continue;
        if (!strcmp(at->string, "type") && mine) {
            unsigned types = types_together(schema_types(c, a), schema_types(c, b));
            possible = types != 0;
            put(out, "type", type_list(types));
        } else if (!mine) {
            put_copy(c, out, at->string, at);
        } else if (!schema_same(c, mine, at) && !c->b->failed) {
            possible = merge_keyword(c, out, mine, at);
        }
    }
    merge_properties(c, out, a, b);
    c->depth--;
    return c->b->failed ? a : possible ? kept : nothing(c);
}

/* --- apart ----------------------------------------------------------------------------------------- */

static bool values_apart(struct schema *c, const cJSON *a, const cJSON *b)
{
    const cJSON *x;
    cJSON_ArrayForEach(x, a)
        if (schema_has(c, b, x) || c->b->failed)
            return false;
    return true;
}

bool schema_apart(struct schema *c, const cJSON *a, const cJSON *b)
{
    const cJSON *p;
    if (cJSON_IsFalse(a) || cJSON_IsFalse(b))
        return true;
    if (!cJSON_IsObject(a) || !cJSON_IsObject(b) || c->b->failed)
        return false;
    const cJSON *va = values_of(c, a), *vb = values_of(c, b);
    if (va && vb)
        return values_apart(c, va, vb);
    bool typed = (va || schema_get(a, "type")) && (vb || schema_get(b, "type"));
    unsigned types = types_together(schema_types(c, a), schema_types(c, b));
    if (types == 0 && typed)
        return true;
    if (types != TYPE_OBJECT || !typed)
        return false;
    cJSON_ArrayForEach(p, schema_get(a, "properties"))
    {
        const cJSON *q = schema_get(schema_get(b, "properties"), p->string);
        if (!q || !schema_requires(c, a, p->string) || !schema_requires(c, b, p->string))
            continue;
        const cJSON *x = schema_flat(c, p), *y = schema_flat(c, q);
        const cJSON *vx = values_of(c, x), *vy = values_of(c, y);
        if (vx && vy && values_apart(c, vx, vy))
            return true;
    }
    return false;
}
