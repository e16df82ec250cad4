/* engine/grammar/marks.c - see marks.h. Free text is followed by the automaton of Aho and Corasick over the
 * marks, whose letters are characters and control tokens. */
#include "config.h"

#include "engine/grammar/marks.h"

#include <string.h>

#include "engine/grammar/vocab.h"

/* A character, or a control token as the vocabulary's tree has it. */
struct unit {
    uint32_t code;
    int32_t control; /* its id, or -1 */
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

/* The next unit of s; *at moves behind it. */
static struct unit next_unit(struct rules *b, const char *s, size_t n_bytes, size_t *at, bool spelled)
{
    size_t n;
    struct unit u = {0, spelled ? -1 : control_at(b, s + *at, n_bytes - *at, &n)};
    if (u.control >= 0)
        *at += n;
    else if (!char_next(s, n_bytes, at, &u.code))
        rules_fail(b, ERR_INVAL, "a mark or name is not UTF-8");
    return u;
}

static int32_t write_unit(struct rules *b, int32_t from, struct unit u)
{
    if (u.control < 0) {
        struct charset one = {0};
        charset_add(b, &one, u.code, u.code);
        return charset_write(b, from, &one, SPELL_PLAIN);
    }
    size_t n;
    const char *s = tokenizer_token_bytes(b->tokenizer, u.control, &n);
    int32_t inside = rules_state(b);
    rules_bytes(b, from, inside, VOCAB_CONTROL, VOCAB_CONTROL);
    return rules_text(b, inside, s, n);
}

static bool is_mark(struct rules *b, size_t n_bytes)
{
    if (n_bytes > MARK_MAX_BYTES)
        rules_fail(b, ERR_LIMIT, "a mark or name has more than %d bytes", MARK_MAX_BYTES);
    return !b->failed;
}

int32_t mark_text(struct rules *b, int32_t from, const char *s)
{
    size_t n_bytes = strlen(s);
    for (size_t i = 0; is_mark(b, n_bytes) && i < n_bytes;)
        from = write_unit(b, from, next_unit(b, s, n_bytes, &i, false));
    return from;
}

/* --- free text -------------------------------------------------------------------------------------- */

enum { TO_BE_WRITTEN = -2, DEAD = -1 };

struct node {
    struct unit u;
    int parent, fail, depth;
    int32_t state, to; /* to: a mark ends here */
};

struct free_text {
    struct rules *b;
    struct node *t;
    int n;
    int32_t plain; /* marks do not count any more; or -1 */
};

static int child_of(const struct free_text *g, int node, struct unit u)
{
    for (int i = node + 1; i < g->n; i++)
        if (g->t[i].parent == node && g->t[i].u.code == u.code && g->t[i].u.control == u.control)
            return i;
    return -1;
}

/* Where a unit leads from a node: the longest end of the text that a mark may begin with. */
static int go(const struct free_text *g, int node, struct unit u)
{
    int next;
    while ((next = child_of(g, node, u)) < 0 && node > 0)
        node = g->t[node].fail;
    return next < 0 ? 0 : next;
}

/* Is a control token part of it? */
static bool add_mark(struct free_text *g, const char *s, int32_t to, bool spelled)
{
    size_t n_bytes = strlen(s);
    bool controls = false;
    int at = 0;
    for (size_t i = 0; i < n_bytes && rules_tick(g->b);) {
        struct unit u = next_unit(g->b, s, n_bytes, &i, spelled);
        int next = child_of(g, at, u);
        if (next < 0) {
            next = g->n++;
            g->t[next] = (struct node){u, at, 0, g->t[at].depth + 1, rules_state(g->b), TO_BE_WRITTEN};
        }
        controls |= u.control >= 0;
        at = next;
    }
    if (g->t[at].to == TO_BE_WRITTEN)
        g->t[at].to = to;
    return controls;
}

static void find_failures(struct free_text *g)
{
    for (int depth = 2, left = 1; left && rules_tick(g->b); depth++) { /* what is shorter comes first */
        left = 0;
        for (int i = 1; i < g->n; i++) {
            left += g->t[i].depth > depth;
            if (g->t[i].depth == depth)
                g->t[i].fail = go(g, g->t[g->t[i].parent].fail, g->t[i].u);
        }
    }
    for (int depth = 1, left = 1; left && rules_tick(g->b); depth++) { /* marks that end inside of others */
        left = 0;
        for (int i = 1; i < g->n; i++) {
            left += g->t[i].depth > depth;
            if (g->t[i].depth == depth && g->t[i].to == TO_BE_WRITTEN)
                g->t[i].to = g->t[g->t[i].fail].to;
        }
    }
}

/* The edge of one unit. */
static void write_step(struct free_text *g, int node, struct unit u)
{
    int next = g->plain < 0 ? go(g, node, u) : child_of(g, node, u);
    bool space = u.control < 0 && u.code < 0x80 && u.code && strchr(" \t\r\n", (char)u.code);
    int32_t to = next > 0 ? g->t[next].to : TO_BE_WRITTEN;
    if (to == DEAD)
        return;
    if (to == TO_BE_WRITTEN && next > 0)
        to = g->t[next].state;
    else if (to == TO_BE_WRITTEN)
        to = g->plain < 0 || (node == 0 && space) ? g->t[0].state : g->plain;
    if (u.control < 0 || next > 0) /* no other control token is part of a text */
        rules_join(g->b, write_unit(g->b, g->t[node].state, u), to);
}

static void write_node(struct free_text *g, int node, int32_t end)
{
    static const struct unit spaces[] = {{' ', -1}, {'\t', -1}, {'\r', -1}, {'\n', -1}};
    struct rules *b = g->b;
    struct charset others = {0};
    if (end >= 0)
        rules_join(b, g->t[node].state, end);
    charset_add(b, &others, 0, 0);
    for (int i = 1; i < g->n && rules_tick(b); i++) {
        bool again = false;
        for (int h = 1; h < i && !again; h++)
            again = g->t[h].u.code == g->t[i].u.code && g->t[h].u.control == g->t[i].u.control;
        if (again)
            continue;
        if (g->t[i].u.control < 0)
            charset_add(b, &others, g->t[i].u.code, g->t[i].u.code);
        write_step(g, node, g->t[i].u);
    }
    for (int i = 0; i < 4 && node == 0 && g->plain >= 0; i++) {
        charset_add(b, &others, spaces[i].code, spaces[i].code);
        write_step(g, node, spaces[i]);
    }
    charset_close(b, &others, true);
    rules_join(b, charset_write(b, g->t[node].state, &others, SPELL_PLAIN),
               g->plain < 0 ? g->t[0].state : g->plain);
}

void marks_free_text(struct rules *b, int32_t from, const struct mark_end *ends, int n, int32_t end,
                     bool first)
{
    struct free_text g = {.b = b, .n = 1, .plain = -1};
    size_t most = 1;
    for (int i = 0; i < n && is_mark(b, strlen(ends[i].mark)); i++)
        most += 2 * strlen(ends[i].mark);
    g.t = b->failed ? NULL : rules_alloc(b, most * sizeof(*g.t));
    if (!g.t)
        return;
    g.t[0] = (struct node){{0, -1}, -1, 0, 0, rules_state(b), TO_BE_WRITTEN};
    rules_join(b, from, g.t[0].state);
    for (int i = 0; i < n; i++)
        if (add_mark(&g, ends[i].mark, ends[i].to, false))
            add_mark(&g, ends[i].mark, DEAD, true);
    if (first) {
        struct charset any = {0};
        charset_add(b, &any, 0, 0);
        charset_close(b, &any, true);
        g.plain = rules_state(b);
        rules_join(b, charset_write(b, g.plain, &any, SPELL_PLAIN), g.plain);
        if (end >= 0)
            rules_join(b, g.plain, end);
    } else {
        find_failures(&g);
    }
    for (int i = 0; i < g.n && rules_tick(b); i++)
        if (g.t[i].to == TO_BE_WRITTEN)
            write_node(&g, i, end);
}
