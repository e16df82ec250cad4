/* engine/grammar/program.c - see program.h.
 *
 * Each rule is made deterministic over bytes and calls, where that does not make it much larger; otherwise
 * it stays as it was written and the automaton over configurations does it as it goes. Rules without a way
 * to an end, and edges into such nodes, are taken out: no answer can begin what it cannot finish. */
#include "config.h"

#include "engine/grammar/program.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

#define FIRST_SLOTS 1024

struct ints {
    int32_t *v;
    int n, cap;
};

struct set {
    int32_t at, n; /* in pool */
};

struct maker {
    struct rules *b;
    struct ints pool, stack, gather, closure;
    struct set *sets; /* of the nodes */
    int cap_sets, cap_nodes, cap_bytes, cap_calls;
    int32_t *slots; /* open addressing: nodes of the rule in hand by their sets */
    uint32_t n_slots;
    uint32_t *mark; /* of states, by the number of the closure that saw them */
    uint32_t n_marks, *node_mark; /* the same of nodes, while a message is made */
    int32_t *first; /* of rules; -1: not made */
    int32_t *from_call; /* of calls: the rule, until all are made */
    int cap_from;
    struct program *p;
};

static bool room(struct rules *b, void *list, int n, int *cap, size_t elem_bytes)
{
    void **at = list;
    if (n < *cap)
        return true;
    int more = 2 * n + 64;
    void *p = realloc(*at, (size_t)more * elem_bytes);
    if (!p) {
        rules_fail(b, ERR_NOMEM, "out of memory for the grammar");
        return false;
    }
    *at = p;
    *cap = more;
    return true;
}

static void push(struct maker *m, struct ints *l, int32_t v)
{
    if (room(m->b, &l->v, l->n, &l->cap, sizeof(*l->v)))
        l->v[l->n++] = v;
}

static int by_value(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? -1 : x > y;
}

/* m->closure: the states that `states` reach without a byte, ascending. */
static void close_over(struct maker *m, const int32_t *states, int n)
{
    m->closure.n = m->stack.n = 0;
    m->n_marks++;
    for (int i = 0; i < n; i++)
        push(m, &m->stack, states[i]);
    while (m->stack.n > 0 && rules_tick(m->b)) {
        int32_t s = m->stack.v[--m->stack.n];
        if (m->mark[s] == m->n_marks)
            continue;
        m->mark[s] = m->n_marks;
        push(m, &m->closure, s);
        for (int32_t e = m->b->head[s]; e >= 0; e = m->b->edges[e].next)
            if (m->b->edges[e].call == EDGE_NOTHING)
                push(m, &m->stack, m->b->edges[e].to);
    }
    if (m->closure.n > 1)
        qsort(m->closure.v, (size_t)m->closure.n, sizeof(int32_t), by_value);
}

static void put_slot(struct maker *m, int32_t node)
{
    struct set s = m->sets[node];
    uint32_t i = (uint32_t)hash64_bytes(m->pool.v + s.at, (size_t)s.n * 4, 0) & (m->n_slots - 1);
    while (m->slots[i] >= 0)
        i = (i + 1) & (m->n_slots - 1);
    m->slots[i] = node;
}

static bool grow_slots(struct maker *m, int32_t rule_first)
{
    uint32_t n = m->n_slots ? 2 * m->n_slots : FIRST_SLOTS;
    int32_t *s = malloc(n * sizeof(*s));
    if (!s) {
        rules_fail(m->b, ERR_NOMEM, "out of memory for the grammar");
        return false;
    }
    free(m->slots);
    m->slots = s;
    m->n_slots = n;
    memset(s, 0xff, n * sizeof(*s));
    for (int32_t i = rule_first; i < m->p->n_nodes; i++)
        put_slot(m, i);
    return true;
}

/* The node of m->closure, made where the rule has none. */
static int32_t intern(struct maker *m, int32_t rule_first, int32_t end)
{
    struct program *p = m->p;
    size_t n = (size_t)m->closure.n * 4;
    if (m->b->failed)
        return -1;
    uint32_t i = (uint32_t)hash64_bytes(m->closure.v, n, 0) & (m->n_slots - 1);
    for (; m->slots[i] >= 0; i = (i + 1) & (m->n_slots - 1)) {
        struct set s = m->sets[m->slots[i]];
        if (s.n == m->closure.n && !memcmp(m->pool.v + s.at, m->closure.v, n))
            return m->slots[i];
    }
    if (p->n_nodes >= m->b->lim->max_states) {
        rules_fail(m->b, ERR_LIMIT, "the grammar is too large: more than %d states", m->b->lim->max_states);
        return -1;
    }
    if (!room(m->b, &p->nodes, p->n_nodes, &m->cap_nodes, sizeof(*p->nodes)) ||
        !room(m->b, &m->sets, p->n_nodes, &m->cap_sets, sizeof(*m->sets)))
        return -1;
    struct set s = {m->pool.n, m->closure.n};
    bool final = false;
    for (int k = 0; k < m->closure.n; k++) {
        push(m, &m->pool, m->closure.v[k]);
        final |= m->closure.v[k] == end;
    }
    if (m->b->failed)
        return -1;
    m->sets[p->n_nodes] = s;
    p->nodes[p->n_nodes] = (struct node){.final = final};
    m->slots[i] = p->n_nodes++;
    if ((uint32_t)(p->n_nodes - rule_first) * 2 > m->n_slots && !grow_slots(m, rule_first))
        return -1;
    return p->n_nodes - 1;
}

static void add_bytes(struct maker *m, int32_t to, int lo, int hi)
{
    struct program *p = m->p;
    if (to < 0 || !room(m->b, &p->bytes, p->n_edges, &m->cap_bytes, sizeof(*p->bytes)))
        return;
    p->bytes[p->n_edges++] = (struct node_bytes){to, (uint8_t)lo, (uint8_t)hi};
}

static void add_call(struct maker *m, int32_t to, int32_t rule)
{
    struct program *p = m->p;
    if (to < 0 || !room(m->b, &p->calls, p->n_node_calls, &m->cap_calls, sizeof(*p->calls)))
        return;
    p->calls[p->n_node_calls++] = (struct node_call){to, rule}; /* the rule's node: when all are made */
}

/* m->gather: edges of the set of a node. */
static void gather_edges(struct maker *m, int32_t node)
{
    struct set s = m->sets[node];
    m->gather.n = 0;
    for (int i = 0; i < s.n && rules_tick(m->b); i++)
        for (int32_t e = m->b->head[m->pool.v[s.at + i]]; e >= 0; e = m->b->edges[e].next)
            if (m->b->edges[e].call != EDGE_NOTHING)
                push(m, &m->gather, e);
}

static void edges_as_written(struct maker *m, int32_t rule_first, int32_t end)
{
    for (int i = 0; i < m->gather.n && rules_tick(m->b); i++) {
        const struct edge *e = &m->b->edges[m->gather.v[i]];
        close_over(m, &e->to, 1);
        int32_t to = intern(m, rule_first, end);
        if (e->call == EDGE_BYTES)
            add_bytes(m, to, e->lo, e->hi);
        else
            add_call(m, to, e->call);
    }
}

static void calls_of_set(struct maker *m, int32_t rule_first, int32_t end, struct ints *to)
{
    for (int i = 0; i < m->gather.n && rules_tick(m->b); i++) {
        int32_t rule = m->b->edges[m->gather.v[i]].call;
        bool seen = rule < 0;
        for (int k = 0; k < i && !seen; k++)
            seen = m->b->edges[m->gather.v[k]].call == rule;
        if (seen)
            continue;
        to->n = 0;
        for (int k = i; k < m->gather.n; k++)
            if (m->b->edges[m->gather.v[k]].call == rule)
                push(m, to, m->b->edges[m->gather.v[k]].to);
        close_over(m, to->v, to->n);
        add_call(m, intern(m, rule_first, end), rule);
    }
}

static void edges_of_set(struct maker *m, int32_t rule_first, int32_t end, struct ints *to)
{
    bool cut[257] = {true};
    for (int i = 0; i < m->gather.n; i++) {
        const struct edge *e = &m->b->edges[m->gather.v[i]];
        if (e->call == EDGE_BYTES)
            cut[e->lo] = cut[e->hi + 1] = true;
    }
    cut[256] = true;
    int32_t last = -1;
    for (int lo = 0, hi; lo < 256 && rules_tick(m->b); lo = hi) {
        for (hi = lo + 1; !cut[hi];)
            hi++;
        to->n = 0;
        for (int i = 0; i < m->gather.n; i++) {
            const struct edge *e = &m->b->edges[m->gather.v[i]];
            if (e->call == EDGE_BYTES && e->lo <= lo && e->hi >= lo)
                push(m, to, e->to);
        }
        if (to->n == 0) {
            last = -1;
            continue;
        }
        rules_spend(m->b, m->gather.n / 16);
        close_over(m, to->v, to->n);
        int32_t t = intern(m, rule_first, end);
        if (t >= 0 && t == last)
            m->p->bytes[m->p->n_edges - 1].hi = (uint8_t)(hi - 1);
        else
            add_bytes(m, t, lo, hi - 1);
        last = t;
    }
    calls_of_set(m, rule_first, end, to);
}

/* How many states the rule has as written. */
static int count_states(struct maker *m, int32_t start)
{
    struct ints *l = &m->closure;
    l->n = 0;
    m->n_marks++;
    push(m, l, start);
    m->mark[start] = m->n_marks;
    for (int i = 0; i < l->n && rules_tick(m->b); i++)
        for (int32_t e = m->b->head[l->v[i]]; e >= 0; e = m->b->edges[e].next) {
            int32_t to = m->b->edges[e].to;
            if (m->mark[to] != m->n_marks) {
                m->mark[to] = m->n_marks;
                push(m, l, to);
            }
        }
    return l->n;
}

/* One rule's nodes. most: give up when there are more (false). */
static bool make_rule(struct maker *m, int32_t rule, bool as_written, int most)
{
    struct program *p = m->p;
    int32_t first = p->n_nodes, end = m->b->rules[rule].end;
    struct ints to = {0};
    m->first[rule] = first;
    m->n_slots = FIRST_SLOTS; /* of what it grew to for others */
    memset(m->slots, 0xff, m->n_slots * sizeof(*m->slots));
    close_over(m, &m->b->rules[rule].start, 1);
    intern(m, first, end);
    for (int32_t i = first; i < p->n_nodes && !m->b->failed && p->n_nodes - first <= most; i++) {
        int32_t byte = p->n_edges, call = p->n_node_calls;
        gather_edges(m, i);
        if (as_written)
            edges_as_written(m, first, end);
        else
            edges_of_set(m, first, end, &to);
        p->nodes[i].byte = byte;
        p->nodes[i].call = call;
        p->nodes[i].n_bytes = p->n_edges - byte;
        p->nodes[i].n_calls = p->n_node_calls - call;
    }
    free(to.v);
    return m->b->failed || p->n_nodes - first <= most;
}

static void make_rules(struct maker *m, int32_t root)
{
    struct ints todo = {0};
    push(m, &todo, root);
    m->first[root] = 0;
    for (int i = 0; i < todo.n && !m->b->failed; i++) {
        int32_t rule = todo.v[i], calls = m->p->n_node_calls, nodes = m->p->n_nodes, edges = m->p->n_edges;
        int pool = m->pool.n, most = 2 * count_states(m, m->b->rules[rule].start) + 256;
        m->b->place = m->b->rules[rule].name;
        if (!make_rule(m, rule, false, most)) {
            m->p->n_node_calls = calls;
            m->p->n_nodes = nodes;
            m->p->n_edges = edges;
            m->pool.n = pool;
            make_rule(m, rule, true, INT32_MAX);
        }
        for (int k = calls; k < m->p->n_node_calls; k++) {
            int32_t called = m->p->calls[k].start;
            if (m->first[called] < 0) {
                m->first[called] = 0;
                push(m, &todo, called);
            }
        }
    }
    m->b->place = m->b->rules[root].name;
    if (!m->b->failed)
        room(m->b, &m->from_call, m->p->n_node_calls, &m->cap_from, sizeof(*m->from_call));
    for (int k = 0; k < m->p->n_node_calls && !m->b->failed; k++) {
        m->from_call[k] = m->p->calls[k].start;
        m->p->calls[k].start = m->first[m->from_call[k]];
    }
    free(todo.v);
}

/* --- what leads to an end -------------------------------------------------------------------------- */

static bool leads_on(const struct program *p, const struct node *n, const bool *good)
{
    if (n->final)
        return true;
    for (int i = 0; i < n->n_bytes; i++)
        if (good[p->bytes[n->byte + i].to])
            return true;
    for (int i = 0; i < n->n_calls; i++)
        if (good[p->calls[n->call + i].to] && good[p->calls[n->call + i].start])
            return true;
    return false;
}

/* The call without which nothing of a rule matches, as far as one can be named: one that leads on where it
 * could match, else any. -1: none. */
static int32_t blocking_call(struct maker *m, int32_t rule, const bool *good)
{
    const struct program *p = m->p;
    struct ints *l = &m->closure;
    int32_t any = -1;
    l->n = 0;
    m->n_marks++;
    push(m, l, m->first[rule]);
    for (int i = 0; i < l->n && rules_tick(m->b); i++) {
        const struct node *n = &p->nodes[l->v[i]];
        for (int k = 0; k < n->n_bytes + n->n_calls; k++) {
            const struct node_call *c = k < n->n_bytes ? NULL : &p->calls[n->call + k - n->n_bytes];
            int32_t to = c ? c->to : p->bytes[n->byte + k].to;
            if (c && !good[c->start]) {
                any = n->call + k - n->n_bytes;
                if (good[to])
                    return any;
            } else if (m->node_mark[to] != m->n_marks) {
                m->node_mark[to] = m->n_marks;
                push(m, l, to);
            }
        }
    }
    return any;
}

/* Names the rule in which every way goes in circles. */
static void fail_nothing(struct maker *m, int32_t rule, const bool *good)
{
    char *seen = calloc((size_t)m->b->n_rules + 1, 1);
    int32_t call;
    m->node_mark = calloc((size_t)m->p->n_nodes + 1, sizeof(*m->node_mark));
    while (seen && m->node_mark && !seen[rule] && (call = blocking_call(m, rule, good)) >= 0) {
        seen[rule] = 1;
        if (seen[m->from_call[call]])
            break;
        rule = m->from_call[call];
    }
    m->b->place = m->b->rules[rule].name;
    rules_fail(m->b, ERR_INVAL, "nothing matches it");
    free(seen);
    free(m->node_mark);
}

/* Takes out what leads to no end. */
static void trim(struct maker *m, int32_t root)
{
    struct program *p = m->p;
    bool *good = calloc((size_t)p->n_nodes + 1, sizeof(*good)), changed = true;
    if (!good) {
        rules_fail(m->b, ERR_NOMEM, "out of memory for the grammar");
        return;
    }
    while (changed && rules_tick(m->b)) {
        changed = false;
        for (int i = p->n_nodes - 1; i >= 0; i--)
            if (!good[i] && leads_on(p, &p->nodes[i], good))
                changed = good[i] = true;
        rules_spend(m->b, p->n_nodes / 8);
    }
    if (!m->b->failed && !good[p->start])
        fail_nothing(m, root, good);
    for (int i = 0; i < p->n_nodes && !m->b->failed; i++) {
        struct node *n = &p->nodes[i];
        int bytes = n->n_bytes, calls = n->n_calls;
        n->n_bytes = n->n_calls = 0;
        for (int k = 0; k < bytes; k++)
            if (good[p->bytes[n->byte + k].to])
                p->bytes[n->byte + n->n_bytes++] = p->bytes[n->byte + k];
        for (int k = 0; k < calls; k++)
            if (good[p->calls[n->call + k].to] && good[p->calls[n->call + k].start]) {
                m->from_call[n->call + n->n_calls] = m->from_call[n->call + k];
                p->calls[n->call + n->n_calls++] = p->calls[n->call + k];
            }
    }
    free(good);
}

/* --- rules that call themselves before any byte ---------------------------------------------------- */

/* Marks which nodes reach the end of their rule without a byte. */
static void find_empty(struct maker *m, bool *empty)
{
    const struct program *p = m->p;
    bool changed = true;
    for (int i = 0; i < p->n_nodes; i++)
        empty[i] = p->nodes[i].final;
    while (changed && rules_tick(m->b)) {
        changed = false;
        for (int i = p->n_nodes - 1; i >= 0; i--)
            for (int k = 0; k < p->nodes[i].n_calls && !empty[i]; k++) {
                const struct node_call *c = &p->calls[p->nodes[i].call + k];
                if (empty[c->start] && empty[c->to])
                    changed = empty[i] = true;
            }
        rules_spend(m->b, p->n_nodes / 8);
    }
}

bool program_returns(const struct program *p, int32_t node)
{
    const struct node *n = &p->nodes[node];
    return n->final && n->n_bytes == 0 && n->n_calls == 0;
}

/* Where a node leads before any byte, by edge: the starts of what it calls, and past calls that may be empty.
 * -1: nowhere; false: no more edges. */
static bool before_bytes(const struct program *p, const bool *empty, int32_t node, int32_t edge, int32_t *ret)
{
    if (edge >= 2 * p->nodes[node].n_calls)
        return false;
    const struct node_call *c = &p->calls[p->nodes[node].call + edge / 2];
    *ret = edge % 2 == 0 ? c->start : empty[c->start] ? c->to : -1;
    return true;
}

/* Numbers the circles among nodes that lead to each other before any byte (Tarjan, without recursion). */
static void find_circles(struct maker *m, const bool *empty, int32_t *order, int32_t *low, int32_t *circle)
{
    const struct program *p = m->p;
    struct ints at = {0}, edge = {0}, open = {0};
    int32_t count = 0, n_circles = 0, next;
    for (int i = 0; i < p->n_nodes && !m->b->failed; i++) {
        if (order[i])
            continue;
        push(m, &at, i);
        push(m, &edge, 0);
        while (at.n > 0 && rules_tick(m->b)) {
            int32_t n = at.v[at.n - 1];
            if (edge.v[edge.n - 1] == 0) {
                order[n] = low[n] = ++count;
                push(m, &open, n);
                if (m->b->failed)
                    break;
            }
            if (before_bytes(p, empty, n, edge.v[edge.n - 1]++, &next)) {
                if (next >= 0 && !order[next]) {
                    push(m, &at, next);
                    push(m, &edge, 0);
                } else if (next >= 0 && !circle[next] && order[next] < low[n]) {
                    low[n] = order[next];
                }
                continue;
            }
            at.n--;
            edge.n--;
            if (at.n > 0 && low[n] < low[at.v[at.n - 1]])
                low[at.v[at.n - 1]] = low[n];
            if (low[n] != order[n])
                continue;
            n_circles++;
            do
                circle[open.v[--open.n]] = n_circles;
            while (open.v[open.n] != n);
        }
    }
    free(at.v);
    free(edge.v);
    free(open.v);
}

/* A circle in which some call is returned to would nest without end. One of calls that only return is
 * none: who goes round it is where he was. */
static void find_left_recursion(struct maker *m)
{
    const struct program *p = m->p;
    size_t n = (size_t)p->n_nodes + 1;
    bool *empty = calloc(n, sizeof(*empty));
    int32_t *list = calloc(3 * n, sizeof(*list)), *circle = list + 2 * n;
    if (!empty || !list) {
        rules_fail(m->b, ERR_NOMEM, "out of memory for the grammar");
    } else {
        find_empty(m, empty);
        find_circles(m, empty, list, list + n, circle);
    }
    for (int i = 0; i < p->n_nodes && !m->b->failed; i++)
        for (int k = p->nodes[i].call; k < p->nodes[i].call + p->nodes[i].n_calls; k++)
            if (circle[i] == circle[p->calls[k].start] && !program_returns(p, p->calls[k].to))
                rules_fail(m->b, ERR_UNSUPPORTED,
                           "rule \"%s\" begins with itself (left recursion); write it with repetition",
                           m->b->rules[m->from_call[k]].name);
    free(empty);
    free(list);
}

static void find_classes(struct program *p)
{
    bool cut[257] = {true};
    for (int i = 0; i < p->n_nodes; i++)
        for (int k = 0; k < p->nodes[i].n_bytes; k++) {
            const struct node_bytes *e = &p->bytes[p->nodes[i].byte + k];
            cut[e->lo] = cut[e->hi + 1] = true;
        }
    for (int c = 0; c < 256; c++) {
        if (cut[c])
            p->byte_of[p->n_classes++] = (uint8_t)c;
        p->class_of[c] = (uint8_t)(p->n_classes - 1);
    }
}

static uint64_t stir(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 29;
}

/* What a node leads to within one byte more than `before` tells. Calls are what they are: only their own
 * equals. */
static uint64_t look(const struct program *p, const struct node *n, const uint64_t *before)
{
    uint64_t h = stir(1, (uint64_t)n->final);
    for (int i = 0; i < n->n_bytes; i++) {
        const struct node_bytes *e = &p->bytes[n->byte + i];
        h = stir(stir(h, (uint64_t)e->lo << 8 | e->hi), before[e->to]);
    }
    for (int i = 0; i < n->n_calls; i++) {
        const struct node_call *c = &p->calls[n->call + i];
        h = stir(stir(h, 7), (uint64_t)(uint32_t)c->start << 32 | (uint32_t)c->to);
    }
    return h;
}

/* Should two that differ have the same hash of 64 bits, a mask would be wrong and its token not accepted. */
static void find_alike(struct rules *b, struct program *p)
{
    size_t n = (size_t)p->n_nodes, n_slots = 16;
    while (n_slots < 2 * n)
        n_slots *= 2;
    uint64_t *now = calloc(n + 1, sizeof(*now)), *then = calloc(n + 1, sizeof(*then));
    int32_t *slots = malloc(n_slots * sizeof(*slots));
    p->alike = malloc((n + 1) * sizeof(*p->alike));
    if (!now || !then || !slots || !p->alike)
        rules_fail(b, ERR_NOMEM, "out of memory for the grammar");
    for (int k = 0; k < PROGRAM_ALIKE && rules_tick(b); k++) {
        for (size_t i = 0; i < n; i++)
            then[i] = look(p, &p->nodes[i], now);
        uint64_t *t = now;
        now = then;
        then = t;
    }
    if (!b->failed)
        memset(slots, 0xff, n_slots * sizeof(*slots));
    for (size_t i = 0; i < n && !b->failed; i++) {
        size_t k = (size_t)stir(3, now[i]) & (n_slots - 1);
        while (slots[k] >= 0 && now[slots[k]] != now[i])
            k = (k + 1) & (n_slots - 1);
        if (slots[k] < 0)
            slots[k] = (int32_t)i;
        p->alike[i] = slots[k];
    }
    free(now);
    free(then);
    free(slots);
}

int program_new(struct rules *b, int32_t root, struct program **ret)
{
    struct maker m = {.b = b, .p = calloc(1, sizeof(struct program))};
    if (b->failed || !m.p) {
        free(m.p);
        return rules_fail(b, ERR_NOMEM, "out of memory for the grammar");
    }
    for (int i = 0; i < b->n_rules; i++)
        if (!b->rules[i].defined)
            rules_fail(b, ERR_INVAL, "rule \"%s\" is used and never defined", b->rules[i].name);
    m.mark = calloc((size_t)b->n_states + 1, sizeof(*m.mark));
    m.first = malloc((size_t)(b->n_rules + 1) * sizeof(*m.first));
    if (!m.mark || !m.first)
        rules_fail(b, ERR_NOMEM, "out of memory for the grammar");
    else
        memset(m.first, 0xff, (size_t)b->n_rules * sizeof(*m.first));
    if (!b->failed && grow_slots(&m, 0))
        make_rules(&m, root);
    if (!b->failed) {
        m.p->start = m.first[root];
        trim(&m, root);
    }
    if (!b->failed)
        find_left_recursion(&m);
    if (!b->failed)
        find_classes(m.p);
    if (!b->failed)
        find_alike(b, m.p);
    m.p->n_mem = (size_t)m.p->n_nodes * sizeof(*m.p->nodes) + (size_t)m.p->n_edges * sizeof(*m.p->bytes) +
                 (size_t)m.p->n_node_calls * sizeof(*m.p->calls) + (size_t)m.p->n_nodes * 4 + sizeof(*m.p);
    free(m.pool.v);
    free(m.stack.v);
    free(m.gather.v);
    free(m.closure.v);
    free(m.sets);
    free(m.slots);
    free(m.mark);
    free(m.first);
    free(m.from_call);
    b->place = NULL;
    if (b->failed)
        program_free(&m.p);
    else
        *ret = m.p;
    return b->failed;
}

void program_free(struct program **pp)
{
    struct program *p = *pp;
    *pp = NULL;
    if (!p)
        return;
    free(p->nodes);
    free(p->bytes);
    free(p->calls);
    free(p->alike);
    free(p);
}
