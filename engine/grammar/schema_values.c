/* engine/grammar/schema_values.c - JSON values in schemas: whether two are the same, and what cannot be told
 * from the tree that cJSON makes of them. */
#include "config.h"

#include "engine/grammar/schema.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_EXACT 9007199254740991.0 /* 2^53 - 1: whole numbers up to it are all doubles */

static int n_children(const cJSON *v)
{
    int n = 0;
    for (const cJSON *at = v->child; at; at = at->next)
        n++;
    return n;
}

/* Not cJSON_Compare: that takes numbers for equal that are nearly so, and looks at no limit. */
bool schema_same(struct schema *c, const cJSON *a, const cJSON *b)
{
    if (!a || !b || !rules_tick(c->b))
        return false;
    int type = a->type & 0xff;
    if (type != (b->type & 0xff))
        return false;
    if (type == cJSON_Number)
        return a->valuedouble == b->valuedouble;
    if (type == cJSON_String)
        return !strcmp(a->valuestring, b->valuestring);
    if (type != cJSON_Array && type != cJSON_Object)
        return true;
    int n = n_children(a);
    if (!rules_spend(c->b, n) || n != n_children(b))
        return false;
    const cJSON *x = a->child, *y = b->child;
    for (; x; x = x->next, y = y ? y->next : NULL) {
        const cJSON *other = y;
        if (type == cJSON_Object && strcmp(x->string, y->string) != 0) { /* in another order */
            if (!rules_spend(c->b, n))
                return false;
            other = schema_get(b, x->string);
        }
        if (!schema_same(c, x, other))
            return false;
    }
    return true;
}

bool schema_has(struct schema *c, const cJSON *list, const cJSON *v)
{
    const cJSON *at;
    cJSON_ArrayForEach(at, list)
        if (schema_same(c, v, at))
            return true;
    return false;
}

bool schema_exact(const cJSON *v)
{
    if (cJSON_IsNumber(v) && fabs(v->valuedouble) > MAX_EXACT)
        return false;
    for (const cJSON *at = v->child; at; at = at->next)
        if (!schema_exact(at))
            return false;
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void names_once(struct schema *c, const cJSON *o)
{
    int n = n_children(o), i = 0;
    if (n < 2 || !rules_spend(c->b, n))
        return;
    const char **names = malloc((size_t)n * sizeof(*names));
    if (!names) {
        rules_fail(c->b, ERR_NOMEM, "out of memory for the schema");
        return;
    }
    for (const cJSON *at = o->child; at; at = at->next)
        names[i++] = at->string;
    qsort(names, (size_t)n, sizeof(*names), by_name);
    for (i = 1; i < n; i++)
        if (!strcmp(names[i - 1], names[i]))
            schema_fail(c, ERR_INVAL, names[i], "stands twice in its object");
    free(names);
}

/* Depth: cJSON's limit. */
void schema_check_names(struct schema *c, const cJSON *v)
{
    char part[80];
    int i = 0;
    if (cJSON_IsObject(v))
        names_once(c, v);
    for (const cJSON *at = v->child; at && rules_tick(c->b); at = at->next, i++) {
        if (!at->child)
            continue;
        if (cJSON_IsObject(v))
            snprintf(part, sizeof(part), "%.70s", at->string);
        else
            snprintf(part, sizeof(part), "%d", i);
        size_t before = schema_enter(c, part);
        schema_check_names(c, at);
        schema_leave(c, before);
    }
}
