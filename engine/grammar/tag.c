/* engine/grammar/tag.c - structural tags: free text in which a trigger begins one of several structures (its
 * beginning, a value under a schema, its end), after which text is free again.
 *
 * Free text is followed by the automaton of Aho and Corasick over the triggers, byte by byte. marks.c has one
 * over characters and control tokens: with that, 8 triggers of 20 bytes took 620 ms to compile, not 72. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/grammar/schema.h"
#include "engine/grammar/vocab.h"

#define MAX_TRIGGERS 513 /* bytes of all together, and one */

struct trigger_node {
    int32_t state, parent, fail, depth;
    uint8_t byte;
    int trigger; /* that ends here, or -1 */
};

struct tag {
    struct schema *c;
    const cJSON *structures, *triggers;
    struct trigger_node *t;
    int n, max;
    int32_t free_text; /* the state between structures */
};

static int child_of(const struct tag *g, int node, uint8_t byte)
{
    for (int i = 1; i < g->n; i++)
        if (g->t[i].parent == node && g->t[i].byte == byte)
            return i;
    return -1;
}

/* Where a byte leads from a node: the longest end of the text that a trigger may begin with. */
static int go(const struct tag *g, int node, uint8_t byte)
{
    int next;
    while ((next = child_of(g, node, byte)) < 0 && node > 0)
        node = g->t[node].fail;
    return next < 0 ? 0 : next;
}

static void add_trigger(struct tag *g, const char *s, int trigger)
{
    int at = 0;
    for (; *s && rules_tick(g->c->b); s++) {
        int next = child_of(g, at, (uint8_t)*s);
        if (next < 0) {
            next = g->n++;
            g->t[next] =
                (struct trigger_node){rules_state(g->c->b), at, 0, g->t[at].depth + 1, (uint8_t)*s, -1};
        }
        at = next;
    }
    g->t[at].trigger = g->t[at].trigger < 0 ? trigger : g->t[at].trigger;
}

static const char *text_of(struct tag *g, const cJSON *s, const char *name, int i)
{
    const cJSON *v = schema_get(s, name);
    if (!cJSON_IsString(v)) {
        rules_fail(g->c->b, ERR_INVAL, "structures[%d].%s must be a string", i, name);
        return "";
    }
    return v->valuestring;
}

/* From the end of a trigger: the rest of each structure that begins with it. */
static void write_structures(struct tag *g, int32_t from, const char *trigger)
{
    struct rules *b = g->c->b;
    const cJSON *s;
    int i = 0, n = 0;
    cJSON_ArrayForEach(s, g->structures)
    {
        const char *open = text_of(g, s, "begin", i), *close = text_of(g, s, "end", i);
        const cJSON *schema = schema_get(s, "schema");
        char path[48];
        snprintf(path, sizeof(path), "structures[%d].schema#", i++);
        if (b->failed)
            return;
        if (strncmp(open, trigger, strlen(trigger)) != 0)
            continue;
        n++;
        g->c->n_path = (size_t)snprintf(g->c->path, sizeof(g->c->path), "%s", path);
        g->c->root = (cJSON *)schema;
        if (!schema) {
            rules_fail(b, ERR_INVAL, "%s is missing", path);
            return;
        }
        int32_t at = rules_text(b, from, open + strlen(trigger), strlen(open) - strlen(trigger));
        b->place = g->c->path;
        at = rules_use(b, at, schema_rule(g->c, schema));
        b->place = NULL;
        at = rules_text(b, at, close, strlen(close));
        rules_join(b, at, g->free_text);
    }
    if (n == 0)
        rules_fail(b, ERR_INVAL, "no structure begins with the trigger \"%.60s\"", trigger);
}

static void write_tag(struct tag *g, int32_t end)
{
    struct rules *b = g->c->b;
    for (int depth = 2, left = 1; left && rules_tick(b); depth++) { /* what is shorter comes first */
        left = 0;
        for (int i = 1; i < g->n; i++) {
            left += g->t[i].depth > depth;
            if (g->t[i].depth == depth)
                g->t[i].fail = go(g, g->t[g->t[i].parent].fail, g->t[i].byte);
        }
    }
    for (int i = 0; i < g->n && rules_tick(b); i++) {
        int whole = i;
        while (whole > 0 && g->t[whole].trigger < 0)
            whole = g->t[whole].fail;
        if (whole > 0) {
            write_structures(g, g->t[i].state,
                             cJSON_GetArrayItem(g->triggers, g->t[whole].trigger)->valuestring);
            continue;
        }
        rules_join(b, g->t[i].state, end);
        for (int from = 0, to; from < VOCAB_CONTROL && rules_tick(b); from = to) {
            int next = go(g, i, (uint8_t)from);
            for (to = from + 1; to < VOCAB_CONTROL && go(g, i, (uint8_t)to) == next;)
                to++;
            rules_bytes(b, g->t[i].state, g->t[next].state, (uint8_t)from, (uint8_t)(to - 1));
        }
    }
}

int32_t tag_read(struct rules *b, const char *s, size_t n_bytes)
{
    struct schema c;
    schema_begin(&c, b);
    cJSON *root = schema_parse(b, s, n_bytes, "structural tag");
    struct tag g = {
        .c = &c, .structures = schema_get(root, "structures"), .triggers = schema_get(root, "triggers")};
    const cJSON *at;
    int32_t rule = rules_rule(b, "structural_tag", 14);
    int i = 0;
    if (!b->failed)
        schema_check_names(&c, root);
    g.max = 1;
    if (root && schema_get(root, "format"))
        rules_fail(b, ERR_UNSUPPORTED,
                   "format: structural tags are written with structures and triggers here");
    if (root && (!cJSON_IsArray(g.structures) || !g.structures->child))
        rules_fail(b, ERR_INVAL, "structures must be a list that is not empty");
    if (root && (!cJSON_IsArray(g.triggers) || !g.triggers->child))
        rules_fail(b, ERR_INVAL, "triggers must be a list of strings that is not empty");
    cJSON_ArrayForEach(at, g.triggers)
    {
        if (!cJSON_IsString(at) || !*at->valuestring)
            rules_fail(b, ERR_INVAL, "triggers must be a list of strings that are not empty");
        else
            g.max += (int)strlen(at->valuestring);
    }
    if (g.max > MAX_TRIGGERS)
        rules_fail(b, ERR_LIMIT, "triggers have more than %d bytes together", MAX_TRIGGERS - 1);
    g.t = b->failed ? NULL : calloc((size_t)g.max, sizeof(*g.t));
    if (!g.t) {
        rules_fail(b, ERR_NOMEM, "out of memory for the structural tag");
    } else {
        g.free_text = b->rules[rule].start;
        g.t[0] = (struct trigger_node){g.free_text, 0, 0, 0, 0, -1};
        g.n = 1;
        cJSON_ArrayForEach(at, g.triggers)
            add_trigger(&g, at->valuestring, i++);
        if (!b->failed)
            write_tag(&g, b->rules[rule].end);
    }
    if (!b->failed)
        b->rules[rule].defined = true;
    free(g.t);
    c.root = root;
    schema_finish(&c);
    return rule;
}
