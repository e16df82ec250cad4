/* engine/grammar/schema.h - JSON schema (draft 2020-12) to rules. Of the schema_*.c files.
 *
 * What is generated always validates; it need not be all that does. A keyword that cannot be kept fails with
 * its path; one that says nothing about validity has no effect. */
#ifndef LATENT_ENGINE_GRAMMAR_SCHEMA_H
#define LATENT_ENGINE_GRAMMAR_SCHEMA_H

#include <cjson/cJSON.h>

#include "engine/grammar/compiled.h"

enum base_rule {
    RULE_WS,
    RULE_STRING,
    RULE_NUMBER,
    RULE_INTEGER,
    RULE_OBJECT,
    RULE_ARRAY,
    RULE_VALUE,
    N_BASE
};

enum json_type {
    TYPE_NULL = 1, TYPE_BOOLEAN = 2, TYPE_INTEGER = 4, TYPE_NUMBER = 8, TYPE_STRING = 16, TYPE_ARRAY = 32,
    TYPE_OBJECT = 64, TYPE_ALL = 127 - TYPE_INTEGER,
};

struct schema_rule {
    const cJSON *schema;
    int32_t rule;
};

struct flat {
    const cJSON *from, *flat;
};

struct schema {
    struct rules *b;
    cJSON *root;
    int32_t base[N_BASE]; /* -1: not made */
    struct schema_rule *rules; /* of what is referred to */
    int n_rules, cap_rules;
    struct flat *flats; /* what allOf and $ref came to */
    int n_flats, cap_flats;
    cJSON **made; /* by merging; freed at the end */
    int n_made, cap_made, n_made_items;
    char path[200]; /* of the schema in hand: "#/properties/name" */
    size_t n_path;
    int depth;
};

/* --- schema.c */
void schema_begin(struct schema *c, struct rules *b);
void schema_finish(struct schema *c); /* frees root too */
/* JSON and nothing else, or a failure that names `what`. */
cJSON *schema_parse(struct rules *b, const char *s, size_t n_bytes, const char *what);
/* Fails with the path of a keyword (NULL: of the schema itself). */
void schema_fail(struct schema *c, int code, const char *keyword, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
size_t schema_enter(struct schema *c, const char *part); /* returns what schema_leave takes */
void schema_leave(struct schema *c, size_t before);
const cJSON *schema_get(const cJSON *s, const char *keyword); /* NULL: absent */
/* A value under the schema, written from a state on. */
int32_t schema_value(struct schema *c, int32_t from, const cJSON *s);
/* The rule of a schema, shared by all who use the same; its name is the path. */
int32_t schema_rule(struct schema *c, const cJSON *s);
int32_t schema_base(struct schema *c, enum base_rule r);
int32_t schema_json(struct schema *c, int32_t from, const cJSON *value); /* as compact text */
/* A whole number of at least 0 under a keyword. False: absent, or failed. */
bool schema_count(struct schema *c, const cJSON *s, const char *keyword, int *ret);
void schema_check_keywords(struct schema *c, const cJSON *s); /* those that are not known fail */
unsigned schema_types(struct schema *c, const cJSON *s); /* bits of json_type */

/* --- schema_values.c */
/* The same JSON value; false too once something failed. */
bool schema_same(struct schema *c, const cJSON *a, const cJSON *b);
bool schema_has(struct schema *c, const cJSON *list, const cJSON *v);
/* Without whole numbers so large that their last digits were lost when they were read. */
bool schema_exact(const cJSON *v);
/* Fails with the path of a name that an object has twice. */
void schema_check_names(struct schema *c, const cJSON *v);

/* --- schema_merge.c */
/* Without $ref and allOf at its top; cJSON_False where nothing matches. */
const cJSON *schema_flat(struct schema *c, const cJSON *s);
const cJSON *schema_merge(struct schema *c, const cJSON *a, const cJSON *b);
cJSON *schema_made(struct schema *c, cJSON *item); /* keeps it until the end; NULL: failed */
bool schema_only_notes(const char *keyword);
/* Can no value be under both? */
bool schema_apart(struct schema *c, const cJSON *a, const cJSON *b);

/* --- schema_object.c, schema_scalar.c */
int32_t schema_object(struct schema *c, int32_t from, const cJSON *s);
/* Its properties; NULL: none, or a failure because they are no object. */
const cJSON *schema_properties(struct schema *c, const cJSON *s);
bool schema_requires(struct schema *c, const cJSON *s, const char *name);
int32_t schema_array(struct schema *c, int32_t from, const cJSON *s);
/* What pattern, format and lengths say of the characters; NULL: nothing, or a failure. */
struct expr *schema_string_expr(struct schema *c, const cJSON *s);
int32_t schema_string(struct schema *c, int32_t from, const cJSON *s);
int32_t schema_number(struct schema *c, int32_t from, const cJSON *s, bool whole);

#endif
