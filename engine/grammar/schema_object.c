/* engine/grammar/schema_object.c - objects and arrays under a schema.
 *
 * Properties come in the order of the schema. The states of an object are a table: how many properties were
 * passed, and how many of them are there, as far as a minimum or maximum asks. */
#include "config.h"

#include "engine/grammar/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_COUNTED 32 /* further properties under a maximum */

struct property {
    const char *name;
    const cJSON *schema;
    bool required;
};

struct object {
    struct schema *c;
    struct property *props;
    int n;
    const char **barred; /* names that nothing matches: none of further properties either */
    int n_barred;
    int min, max;          /* max -1: none */
    const cJSON *extra;    /* schema of further properties; NULL: none */
    const char *pattern;   /* that their names match; NULL: any name that is not listed */
};

const cJSON *schema_properties(struct schema *c, const cJSON *s)
{
    const cJSON *props = schema_get(s, "properties");
    if (!props || cJSON_IsObject(props))
        return props;
    schema_fail(c, ERR_INVAL, "properties", "must be an object of schemas");
    return NULL;
}

bool schema_requires(struct schema *c, const cJSON *s, const char *name)
{
    const cJSON *at;
    cJSON_ArrayForEach(at, schema_get(s, "required"))
        if (!rules_tick(c->b))
            return false;
        else if (cJSON_IsString(at) && !strcmp(at->valuestring, name))
            return true;
    return false;
}

/* Does the pattern match a name? */
static bool pattern_matches(struct schema *c, const char *pattern, const char *name)
{
    struct rules b;
    struct program *p = NULL;
    struct automaton a = {0};
    bool yes = false;
    if (rules_init(&b, c->b->lim) == 0) {
        struct expr *x = regex_read(&b, pattern, strlen(pattern), true);
        int32_t rule = rules_rule(&b, "name", 4);
        if (!b.failed) {
            b.rules[rule].defined = true;
            rules_join(&b, expr_write(&b, b.rules[rule].start, x, SPELL_PLAIN), b.rules[rule].end);
        }
        if (!b.failed && program_new(&b, rule, &p) == 0 && automaton_init(&a, p) == 0) {
            int32_t s = automaton_start(&a);
            for (; *name && s >= 0; name++)
                s = automaton_step(&a, s, p->class_of[(uint8_t)*name]);
            yes = s >= 0 && a.states[s].end;
            automaton_done(&a);
        }
        program_free(&p);
    }
    if (b.failed)
        schema_fail(c, b.failed, "patternProperties", "%.150s", b.err.text);
    rules_spend(c->b, b.work);
    rules_done(&b);
    return yes;
}

/* --- reading --------------------------------------------------------------------------------------- */

static void read_extra(struct object *o, const cJSON *s)
{
    struct schema *c = o->c;
    const cJSON *patterns = schema_get(s, "patternProperties"), *more = schema_get(s, "additionalProperties");
    if (more && !cJSON_IsBool(more) && !cJSON_IsObject(more))
        schema_fail(c, ERR_INVAL, "additionalProperties", "must be a schema");
    if (patterns && !cJSON_IsObject(patterns))
        schema_fail(c, ERR_INVAL, "patternProperties", "must be an object of schemas");
    if (patterns && patterns->child) {
        if (patterns->child->next)
            schema_fail(c, ERR_UNSUPPORTED, "patternProperties", "more than one pattern is not supported");
        o->extra = patterns->child;
        o->pattern = patterns->child->string;
    } else if (more) {
        o->extra = more;
    } else if (!schema_get(s, "properties") && !schema_get(s, "required")) {
        static const cJSON anything = {.type = cJSON_True};
        o->extra = &anything; /* nothing is said: anything. Otherwise what is said, and no more */
    }
    if (cJSON_IsFalse(o->extra))
        o->extra = NULL;
}

static void add_property(struct object *o, const char *name, const cJSON *schema, bool required)
{
    bool never = cJSON_IsFalse(schema);
    if (never && required)
        schema_fail(o->c, ERR_INVAL, "required", "\"%.60s\" is required and nothing matches it", name);
    if (o->pattern && !o->c->b->failed && pattern_matches(o->c, o->pattern, name))
        schema_fail(o->c, ERR_UNSUPPORTED, "patternProperties",
                    "the pattern also matches the property \"%.60s\", which is not supported", name);
    if (never) {
        o->barred[o->n_barred++] = name;
        return;
    }
    o->props[o->n++] = (struct property){name, schema, required};
}

static void read_properties(struct object *o, const cJSON *s)
{
    struct schema *c = o->c;
    const cJSON *props = schema_properties(c, s), *required = schema_get(s, "required"), *at;
    const cJSON *more = schema_get(s, "additionalProperties");
    static const cJSON anything = {.type = cJSON_True};
    if (required && !cJSON_IsArray(required))
        schema_fail(c, ERR_INVAL, "required", "must be a list of names");
    size_t most = (size_t)cJSON_GetArraySize(props) + (size_t)cJSON_GetArraySize(required);
    if (c->b->failed || !(o->props = rules_alloc(c->b, (most + 1) * sizeof(*o->props))) ||
        !(o->barred = rules_alloc(c->b, (most + 1) * sizeof(*o->barred))))
        return;
    cJSON_ArrayForEach(at, props)
        if (rules_tick(c->b))
            add_property(o, at->string, at, schema_requires(c, s, at->string));
    cJSON_ArrayForEach(at, required)
    {
        bool again = false;
        if (!rules_tick(c->b))
            return;
        if (!cJSON_IsString(at)) {
            schema_fail(c, ERR_INVAL, "required", "must be a list of names");
            return;
        }
        if (!rules_spend(c->b, o->n)) /* and the look-up */
            return;
        for (int i = 0; i < o->n; i++)
            again |= !strcmp(o->props[i].name, at->valuestring);
        if (again || schema_get(props, at->valuestring))
            continue;
        if (o->pattern)
            schema_fail(c, ERR_UNSUPPORTED, "required", "\"%.60s\" is not listed in properties",
                        at->valuestring);
        add_property(o, at->valuestring, more ? more : &anything, true);
    }
}

/* --- names of further properties ------------------------------------------------------------------- */

/* From inside a name of which `n_bytes` are written and which so far is the beginning of the names in
 * `list`: any name but those. */
static void other_names(struct object *o, int32_t from, int32_t free, int32_t end, const char **list, int n,
                        size_t n_bytes)
{
    struct rules *b = o->c->b;
    struct charset rest = {0};
    bool is_name = false;
    charset_add(b, &rest, 0, 0x1f); /* these would need escapes, and the same name has several */
    charset_add(b, &rest, '"', '"');
    charset_add(b, &rest, '\\', '\\');
    for (int i = 0; i < n && rules_tick(b); i++) {
        size_t len = strlen(list[i]), at = n_bytes, other;
        uint32_t ch, ch2;
        if (len == n_bytes) {
            is_name = true;
            continue;
        }
        if (!char_next(list[i], len, &at, &ch))
            continue;
        bool before = false; /* with one before it in the list? */
        for (int k = 0; k < i && !before; k++)
            before = (other = n_bytes, char_next(list[k], strlen(list[k]), &other, &ch2)) && ch2 == ch;
        if (before || ch < 0x20 || ch == '"' || ch == '\\')
            continue;
        const char **sub = rules_alloc(b, (size_t)n * sizeof(*sub));
        int n_sub = 0;
        for (int k = i; sub && k < n; k++)
            if ((other = n_bytes, char_next(list[k], strlen(list[k]), &other, &ch2)) && ch2 == ch)
                sub[n_sub++] = list[k];
        charset_add(b, &rest, ch, ch);
        if (sub && ++o->c->depth > RULES_MAX_NESTING + 100)
            schema_fail(o->c, ERR_LIMIT, "properties", "a name is too long beside further properties");
        else if (sub)
            other_names(o, rules_text(b, from, list[i] + n_bytes, at - n_bytes), free, end, sub, n_sub, at);
        o->c->depth--;
    }
    charset_close(b, &rest, true);
    rules_join(b, charset_write(b, from, &rest, SPELL_PLAIN), free);
    if (!is_name)
        rules_bytes(b, from, end, '"', '"');
}

static int32_t extra_name(struct object *o, int32_t from)
{
    struct schema *c = o->c;
    struct rules *b = c->b;
    int32_t at = rules_text(b, from, "\"", 1), end = rules_state(b), free = rules_state(b);
    if (o->pattern) {
        struct expr *x = regex_read(b, o->pattern, strlen(o->pattern), true);
        return b->failed ? 0 : rules_text(b, expr_write(b, at, x, SPELL_JSON), "\"", 1);
    }
    int n = o->n + o->n_barred;
    const char **names = rules_alloc(b, (size_t)(n + 1) * sizeof(*names));
    struct charset plain = {0};
    charset_add(b, &plain, 0, 0x1f);
    charset_add(b, &plain, '"', '"');
    charset_add(b, &plain, '\\', '\\');
    charset_close(b, &plain, true);
    rules_join(b, charset_write(b, free, &plain, SPELL_PLAIN), free);
    rules_bytes(b, free, end, '"', '"');
    for (int i = 0; names && i < n; i++)
        names[i] = i < o->n ? o->props[i].name : o->barred[i - o->n];
    if (names)
        other_names(o, at, free, end, names, n, 0);
    return end;
}

/* --- writing --------------------------------------------------------------------------------------- */

static int32_t comma(struct schema *c, int32_t from, bool first)
{
    return first ? from : rules_use(c->b, rules_text(c->b, from, ",", 1), schema_base(c, RULE_WS));
}

static int32_t member_value(struct schema *c, int32_t from, const cJSON *s, const char *part,
                            const char *name)
{
    struct rules *b = c->b;
    char path[120];
    snprintf(path, sizeof(path), "%s%s%.80s", part, *name ? "/" : "", name);
    size_t before = schema_enter(c, path);
    from = rules_use(b, rules_text(b, from, ":", 1), schema_base(c, RULE_WS));
    from = cJSON_IsObject(s) ? rules_use(b, from, schema_rule(c, s)) : schema_value(c, from, s);
    schema_leave(c, before);
    return from;
}

static int32_t listed(struct object *o, int32_t from, const struct property *p, bool first)
{
    cJSON *name = cJSON_CreateString(p->name);
    from = schema_json(o->c, comma(o->c, from, first), name);
    cJSON_Delete(name);
    return member_value(o->c, from, p->schema, "properties", p->name);
}

static int32_t further(struct object *o, int32_t from, bool first)
{
    from = extra_name(o, comma(o->c, from, first));
    return member_value(o->c, from, o->extra, o->pattern ? "patternProperties" : "additionalProperties", "");
}

static void write_object(struct object *o, int32_t from, int32_t end)
{
    struct schema *c = o->c;
    struct rules *b = c->b;
    int cap = o->min > o->max ? o->min : o->max;
    int most = o->n + (o->extra ? MAX_COUNTED : 1);
    cap = cap < 1 ? 1 : cap > most ? most : cap;
    int32_t *now = rules_alloc(b, 2 * (size_t)(cap + 1) * sizeof(*now));
    if (!now)
        return;
    int32_t *then = now + cap + 1, close = rules_state(b), first = rules_state(b);
    rules_join(b, rules_use(b, rules_text(b, from, "{", 1), schema_base(c, RULE_WS)), first);
    for (int k = 0; k <= cap; k++)
        now[k] = k == 0 ? first : rules_state(b);
    for (int i = 0; i < o->n && !b->failed; i++) {
        for (int k = 0; k <= cap; k++)
            then[k] = rules_state(b);
        for (int k = 0; k <= cap && k <= i && rules_tick(b); k++) {
            int more = k < cap ? k + 1 : cap;
            if (!o->props[i].required)
                rules_join(b, now[k], then[k]);
            if (o->max < 0 || k < o->max)
                rules_join(b, listed(o, now[k], &o->props[i], k == 0), then[more]);
        }
        int32_t *t = now;
        now = then;
        then = t;
    }
    for (int k = 0; k <= cap && !b->failed; k++) {
        bool enough = k >= o->min;
        if (enough)
            rules_join(b, now[k], close);
        if (!o->extra || (o->max >= 0 && k >= o->max))
            continue;
        /* Further ones may have the same name: one counts. */
        int32_t some = further(o, now[k], k == 0);
        if (k + 1 >= o->min)
            rules_join(b, some, close);
        if (o->max >= 0 && enough && k < cap)
            rules_join(b, some, now[k + 1]);
        else if (o->max < 0 && enough)
            rules_join(b, further(o, some, false), some);
    }
    int32_t space = rules_use(b, close, schema_base(c, RULE_WS));
    rules_join(b, rules_text(b, space, "}", 1), end);
}

int32_t schema_object(struct schema *c, int32_t from, const cJSON *s)
{
    struct object o = {.c = c, .max = -1};
    int32_t end = rules_state(c->b);
    schema_count(c, s, "minProperties", &o.min);
    schema_count(c, s, "maxProperties", &o.max);
    read_extra(&o, s);
    if (!c->b->failed)
        read_properties(&o, s);
    if (o.max >= 0 && o.max < o.min)
        schema_fail(c, ERR_INVAL, "maxProperties", "is below minProperties");
    if (!c->b->failed && o.min > o.n + (o.extra != NULL))
        schema_fail(c, ERR_UNSUPPORTED, "minProperties", "is more than the properties listed%s",
                    o.extra ? " and one more" : "");
    if (c->b->failed)
        return 0;
    bool plain =
        o.n + o.n_barred == 0 && o.min == 0 && o.max < 0 && !o.pattern && cJSON_IsTrue(o.extra);
    if (plain)
        return rules_use(c->b, from, schema_base(c, RULE_OBJECT));
    write_object(&o, from, end);
    return end;
}

/* --- arrays ---------------------------------------------------------------------------------------- */

static int32_t item(struct schema *c, int32_t from, const cJSON *s, const char *part)
{
    size_t before = schema_enter(c, part);
    from = cJSON_IsObject(s) ? rules_use(c->b, from, schema_rule(c, s)) : schema_value(c, from, s);
    schema_leave(c, before);
    return from;
}

int32_t schema_array(struct schema *c, int32_t from, const cJSON *s)
{
    static const cJSON anything = {.type = cJSON_True};
    struct rules *b = c->b;
    const cJSON *prefix = schema_get(s, "prefixItems"), *items = schema_get(s, "items");
    int min = 0, max = -1;
    schema_count(c, s, "minItems", &min);
    schema_count(c, s, "maxItems", &max);
    if (max >= 0 && max < min)
        schema_fail(c, ERR_INVAL, "maxItems", "is below minItems");
    if (prefix && (!cJSON_IsArray(prefix) || !prefix->child))
        schema_fail(c, ERR_INVAL, "prefixItems", "must be a list of schemas that is not empty");
    if (cJSON_IsArray(items))
        schema_fail(c, ERR_UNSUPPORTED, "items", "a list is of older drafts; use prefixItems");
    if (b->failed)
        return 0;
    int n_prefix = cJSON_GetArraySize(prefix);
    if (!items && (!prefix || min > n_prefix))
        items = &anything; /* beyond what is listed nothing comes unless it must */
    if ((!items || cJSON_IsFalse(items)) && (max < 0 || max > n_prefix))
        max = n_prefix;
    if (max >= 0 && max < min) {
        schema_fail(c, ERR_INVAL, "minItems", "is more than there can be");
        return 0;
    }
    int32_t close = rules_state(b), end = rules_state(b);
    int32_t at = rules_use(b, rules_text(b, from, "[", 1), schema_base(c, RULE_WS));
    int n = max >= 0 ? max : n_prefix > min ? n_prefix : min; /* written one by one */
    for (int i = 0; i < n && rules_tick(b); i++) {
        char part[32] = "items";
        const cJSON *one = i < n_prefix ? cJSON_GetArrayItem(prefix, i) : items;
        if (i < n_prefix)
            snprintf(part, sizeof(part), "prefixItems/%d", i);
        if (i >= min)
            rules_join(b, at, close);
        if (cJSON_IsFalse(one) && i >= min) {
            max = n; /* none that long */
            break;
        }
        at = item(c, comma(c, at, i == 0), one, part);
    }
    rules_join(b, at, close);
    if (max < 0) {
        int32_t loop = rules_state(b);
        rules_join(b, item(c, comma(c, at, n == 0), items, "items"), loop);
        rules_join(b, item(c, comma(c, loop, false), items, "items"), loop);
        rules_join(b, loop, close);
    }
    int32_t space = rules_use(b, close, schema_base(c, RULE_WS));
    rules_join(b, rules_text(b, space, "]", 1), end);
    return end;
}
