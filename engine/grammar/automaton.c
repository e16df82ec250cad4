/* engine/grammar/automaton.c - see automaton.h. */
#include "config.h"

#include "engine/grammar/automaton.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

#define N_SEEN 4096 /* a power of two, more than twice MAX_SEEN */
#define MAX_SEEN 1024

static bool room(struct automaton *a, void *list, int n, int more, int *cap, size_t elem_bytes)
{
    void **at = list;
    if (n + more <= *cap)
        return true;
    int to = 2 * (n + more) + 16;
    void *p = realloc(*at, (size_t)to * elem_bytes);
    if (!p) {
        a->failed = ERR_NOMEM;
        return false;
    }
    a->n_mem += (size_t)(to - *cap) * elem_bytes;
    *at = p;
    *cap = to;
    return true;
}

int automaton_init(struct automaton *a, const struct program *p)
{
    *a = (struct automaton){.p = p, .n_state_slots = 256, .n_stack_slots = 256};
    a->found = malloc((MAX_SEEN + 1) * sizeof(*a->found));
    a->todo = malloc((MAX_SEEN + 1) * sizeof(*a->todo));
    a->seen = malloc(N_SEEN * sizeof(*a->seen));
    a->seen_when = calloc(N_SEEN, sizeof(*a->seen_when));
    a->state_slots = malloc(a->n_state_slots * sizeof(*a->state_slots));
    a->stack_slots = malloc(a->n_stack_slots * sizeof(*a->stack_slots));
    if (!a->found || !a->todo || !a->seen || !a->seen_when || !a->state_slots || !a->stack_slots ||
        !room(a, &a->stacks, 0, 2, &a->cap_stacks, sizeof(*a->stacks)) ||
        !room(a, &a->pool, 0, 1, &a->cap_pool, sizeof(*a->pool))) {
        automaton_done(a);
        return ERR_NOMEM;
    }
    memset(a->state_slots, 0xff, a->n_state_slots * sizeof(*a->state_slots));
    memset(a->stack_slots, 0xff, a->n_stack_slots * sizeof(*a->stack_slots));
    a->stacks[STACK_EMPTY] = a->stacks[STACK_UNKNOWN] = (struct stack){-1, -1, 0};
    a->n_stacks = 2;
    a->n_mem += N_SEEN * 12 + 2 * MAX_SEEN * sizeof(struct config);
    return 0;
}

void automaton_done(struct automaton *a)
{
    for (int i = 0; i < a->n_states; i++)
        free(a->states[i].next);
    free(a->states);
    free(a->pool);
    free(a->stacks);
    free(a->state_slots);
    free(a->stack_slots);
    free(a->found);
    free(a->todo);
    free(a->seen);
    free(a->seen_when);
    memset(a, 0, sizeof(*a));
}

static uint32_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9e3779b97f4a7c15ull;
    return (uint32_t)(x >> 32);
}

static uint64_t key_of(int32_t a, int32_t b)
{
    return (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
}

/* --- stacks ---------------------------------------------------------------------------------------- */

static bool grow_stack_slots(struct automaton *a)
{
    uint32_t n = 2 * a->n_stack_slots;
    int32_t *s = malloc(n * sizeof(*s));
    if (!s) {
        a->failed = ERR_NOMEM;
        return false;
    }
    memset(s, 0xff, n * sizeof(*s));
    for (int32_t i = 2; i < a->n_stacks; i++) {
        uint32_t k = mix(key_of(a->stacks[i].node, a->stacks[i].parent)) & (n - 1);
        while (s[k] >= 0)
            k = (k + 1) & (n - 1);
        s[k] = i;
    }
    free(a->stack_slots);
    a->n_mem += (n - a->n_stack_slots) * sizeof(*s);
    a->stack_slots = s;
    a->n_stack_slots = n;
    return true;
}

/* Equal stacks are one: -1 when it is too deep, or memory is out. */
static int32_t push_stack(struct automaton *a, int32_t node, int32_t parent)
{
    uint32_t k = mix(key_of(node, parent)) & (a->n_stack_slots - 1);
    int32_t i;
    for (; (i = a->stack_slots[k]) >= 0; k = (k + 1) & (a->n_stack_slots - 1))
        if (a->stacks[i].node == node && a->stacks[i].parent == parent)
            return i;
    int32_t depth = a->stacks[parent].depth + 1;
    if (depth > AUTOMATON_MAX_DEPTH) {
        a->overflow = true;
        return -1;
    }
    if (!room(a, &a->stacks, a->n_stacks, 1, &a->cap_stacks, sizeof(*a->stacks)))
        return -1;
    a->stacks[a->n_stacks] = (struct stack){node, parent, depth};
    a->stack_slots[k] = a->n_stacks++;
    if ((uint32_t)a->n_stacks * 2 > a->n_stack_slots && !grow_stack_slots(a))
        return -1;
    return a->n_stacks - 1;
}

/* --- states ---------------------------------------------------------------------------------------- */

static uint32_t hash_state(const struct config *c, int n, bool end, bool out)
{
    return (uint32_t)hash64_bytes(c, (size_t)n * sizeof(*c), (uint64_t)end | (uint64_t)out << 1);
}

static bool grow_state_slots(struct automaton *a)
{
    uint32_t n = 2 * a->n_state_slots;
    int32_t *s = malloc(n * sizeof(*s));
    if (!s) {
        a->failed = ERR_NOMEM;
        return false;
    }
    memset(s, 0xff, n * sizeof(*s));
    for (int32_t i = 0; i < a->n_states; i++) {
        const struct state *q = &a->states[i];
        uint32_t k = hash_state(a->pool + q->at, q->n, q->end, q->out) & (n - 1);
        while (s[k] >= 0)
            k = (k + 1) & (n - 1);
        s[k] = i;
    }
    free(a->state_slots);
    a->n_mem += (n - a->n_state_slots) * sizeof(*s);
    a->state_slots = s;
    a->n_state_slots = n;
    return true;
}

static int32_t intern(struct automaton *a, const struct config *c, int n, bool end, bool out)
{
    uint32_t k = hash_state(c, n, end, out) & (a->n_state_slots - 1);
    int32_t i;
    for (; (i = a->state_slots[k]) >= 0; k = (k + 1) & (a->n_state_slots - 1)) {
        const struct state *q = &a->states[i];
        if (q->n == n && q->end == end && q->out == out &&
            !memcmp(a->pool + q->at, c, (size_t)n * sizeof(*c)))
            return i;
    }
    if (!room(a, &a->states, a->n_states, 1, &a->cap_states, sizeof(*a->states)) ||
        !room(a, &a->pool, a->n_pool, n, &a->cap_pool, sizeof(*a->pool)))
        return ERR_NOMEM;
    if (n)
        memcpy(a->pool + a->n_pool, c, (size_t)n * sizeof(*c));
    a->states[a->n_states] = (struct state){a->n_pool, n, NULL, STATE_NONE, end, out};
    a->n_pool += n;
    a->state_slots[k] = a->n_states++;
    if ((uint32_t)a->n_states * 2 > a->n_state_slots && !grow_state_slots(a))
        return ERR_NOMEM;
    return a->n_states - 1;
}

/* --- steps ----------------------------------------------------------------------------------------- */

static void begin(struct automaton *a)
{
    a->n_found = a->n_todo = a->n_seen = 0;
    a->found_end = a->found_out = a->overflow = false;
    if (++a->now == 0) {
        memset(a->seen_when, 0, N_SEEN * sizeof(*a->seen_when));
        a->now = 1;
    }
}

/* Is to be looked into, unless it was. */
static void reach(struct automaton *a, int32_t node, int32_t stack)
{
    uint64_t key = key_of(node, stack);
    uint32_t k = mix(key) & (N_SEEN - 1);
    for (; a->seen_when[k] == a->now; k = (k + 1) & (N_SEEN - 1))
        if (a->seen[k] == key)
            return;
    if (a->n_seen == MAX_SEEN) {
        a->overflow = true;
        return;
    }
    a->seen[k] = key;
    a->seen_when[k] = a->now;
    a->n_seen++;
    a->todo[a->n_todo++] = (struct config){node, stack};
}

static void leave(struct automaton *a, int32_t stack)
{
    if (stack == STACK_EMPTY)
        a->found_end = true;
    else if (stack == STACK_UNKNOWN)
        a->found_out = true;
    else
        reach(a, a->stacks[stack].node, a->stacks[stack].parent);
}

static int by_config(const void *a, const void *b)
{
    const struct config *x = a, *y = b;
    if (x->node != y->node)
        return x->node < y->node ? -1 : 1;
    return x->stack < y->stack ? -1 : x->stack > y->stack;
}

/* All that what was reached leads to without a byte. */
static int32_t settle(struct automaton *a)
{
    const struct program *p = a->p;
    while (a->n_todo > 0 && !a->overflow && !a->failed) {
        struct config c = a->todo[--a->n_todo];
        const struct node *n = &p->nodes[c.node];
        if (n->n_bytes > 0)
            a->found[a->n_found++] = c;
        if (n->final)
            leave(a, c.stack);
        for (int i = 0; i < n->n_calls && !a->failed; i++) {
            const struct node_call *call = &p->calls[n->call + i];
            /* what only returns needs no return */
            int32_t stack =
                program_returns(p, call->to) ? c.stack : push_stack(a, call->to, c.stack);
            if (stack >= 0)
                reach(a, call->start, stack);
        }
    }
    if (a->failed)
        return a->failed;
    if (a->overflow || a->n_found > AUTOMATON_MAX_CONFIGS ||
        (a->n_found == 0 && !a->found_end && !a->found_out))
        return STATE_DEAD;
    if (a->n_found > 1)
        qsort(a->found, (size_t)a->n_found, sizeof(*a->found), by_config);
    return intern(a, a->found, a->n_found, a->found_end, a->found_out);
}

int32_t automaton_start(struct automaton *a)
{
    begin(a);
    reach(a, a->p->start, STACK_EMPTY);
    return settle(a);
}

int32_t automaton_only(struct automaton *a, struct config c)
{
    return intern(a, &c, 1, false, false);
}

int32_t automaton_alike(struct automaton *a, int32_t state)
{
    if (a->states[state].alike != STATE_NONE)
        return a->states[state].alike;
    int n = a->states[state].n, kept = 0;
    for (int i = 0; i < n; i++) {
        a->found[i] = a->pool[a->states[state].at + i];
        a->found[i].node = a->p->alike[a->found[i].node];
    }
    if (n > 1)
        qsort(a->found, (size_t)n, sizeof(*a->found), by_config);
    for (int i = 0; i < n; i++)
        if (kept == 0 || by_config(&a->found[kept - 1], &a->found[i]) != 0)
            a->found[kept++] = a->found[i];
    int32_t to = intern(a, a->found, kept, a->states[state].end, a->states[state].out);
    if (to >= 0)
        a->states[state].alike = to;
    return to;
}

static int32_t make_step(struct automaton *a, int32_t state, int class)
{
    const struct program *p = a->p;
    uint8_t byte = p->byte_of[class];
    begin(a);
    for (int i = 0; i < a->states[state].n; i++) {
        struct config c = a->pool[a->states[state].at + i];
        const struct node *n = &p->nodes[c.node];
        for (int k = 0; k < n->n_bytes; k++) {
            const struct node_bytes *e = &p->bytes[n->byte + k];
            if (e->lo <= byte && byte <= e->hi)
                reach(a, e->to, c.stack);
        }
    }
    return a->overflow ? STATE_DEAD : settle(a);
}

int32_t automaton_step(struct automaton *a, int32_t state, int class)
{
    struct state *q = &a->states[state];
    if (!q->next) {
        size_t n = (size_t)a->p->n_classes;
        if (!(q->next = malloc(n * sizeof(*q->next))))
            return a->failed = ERR_NOMEM;
        for (size_t i = 0; i < n; i++)
            q->next[i] = STATE_NONE;
        a->n_mem += n * sizeof(*q->next);
    }
    if (q->next[class] != STATE_NONE)
        return q->next[class];
    int32_t to = make_step(a, state, class);
    if (to >= STATE_DEAD)
        a->states[state].next[class] = to; /* q may have moved */
    return to;
}

static int32_t move_stack(const struct automaton *from, int32_t stack, struct automaton *to)
{
    int32_t chain[AUTOMATON_MAX_DEPTH + 1], n = 0, out;
    for (; stack > STACK_UNKNOWN; stack = from->stacks[stack].parent)
        chain[n++] = from->stacks[stack].node;
    for (out = stack; n > 0 && out >= 0;)
        out = push_stack(to, chain[--n], out);
    return out;
}

int32_t automaton_move(const struct automaton *from, int32_t state, struct automaton *to)
{
    const struct state *q = &from->states[state];
    begin(to);
    for (int i = 0; i < q->n; i++) {
        struct config c = from->pool[q->at + i];
        c.stack = move_stack(from, c.stack, to);
        if (c.stack < 0)
            return ERR_NOMEM;
        to->found[i] = c;
    }
    if (q->n > 1)
        qsort(to->found, (size_t)q->n, sizeof(*to->found), by_config);
    return intern(to, to->found, q->n, q->end, q->out);
}
