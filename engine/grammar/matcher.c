/* engine/grammar/matcher.c - answers as they grow, and masks; see grammar.h.
 *
 * The mask of a state is that of its configurations together. What a configuration allows depends mostly on
 * its node alone: the tree of tokens is walked from the node with unknown callers, and the only tokens in
 * doubt are those that leave the rule on their way. They are few, and tried with the callers that are there.
 * So a string in a new place costs what its closing quotes do. States that are alike for the length of a
 * token (program.h) share their mask: in a string of bounded length all but the last. Both kinds of masks
 * are kept; when all that is kept becomes too much, everything but the states of living matchers is
 * forgotten. No answer depends on what is kept: limits are on the work of one walk, counted the same whether
 * its steps were known or not. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "engine/grammar/compiled.h"

#define MAX_WALK_WORK (8 << 20) /* configurations looked at in one walk */
#define FEW_CONFIGS 4           /* more are walked together */

struct matcher {
    struct grammar *g;
    int32_t state;
    bool may_end, must_end;
    struct matcher *next, *prev;
};

/* --- masks ----------------------------------------------------------------------------------------- */

static int set_tokens(const struct vocab *v, int32_t node, uint32_t *bits)
{
    int n = 0;
    for (int32_t id = v->nodes[node].token; id >= 0; id = v->same[id], n++)
        bits[id / 32] |= 1u << (id % 32);
    return n;
}

static int32_t alive(int32_t state)
{
    return state == STATE_DEAD ? 0 : state < 0 ? state : 1;
}

/* Walks the tree from a state, sets the tokens that lead somewhere, and lists those in doubt (where
 * doubt): nodes of the tree. */
static int walk(struct grammar *g, int32_t state, uint32_t *bits, bool doubt)
{
    const struct vocab *v = g->vocab;
    const struct program *p = g->program;
    struct automaton *a = &g->automaton;
    int64_t work = 0;
    g->n_doubt = 0;
    g->path[0] = state;
    g->was_out[0] = false;
    for (int32_t i = 0; i < v->n_nodes;) {
        const struct trie_node *n = &v->nodes[i];
        int32_t before = g->path[n->depth - 1];
        work += 1 + a->states[before].n;
        if (work > MAX_WALK_WORK)
            return ERR_LIMIT;
        if (n->depth > PROGRAM_ALIKE) { /* for settle_doubts */
            i = n->end;
            continue;
        }
        int32_t s = automaton_step(a, before, p->class_of[n->byte]);
        if (s >= 0) {
            if (n->token >= 0)
                (void)set_tokens(v, i, bits);
            g->path[n->depth] = s;
            g->was_out[n->depth] = g->was_out[n->depth - 1] || a->states[s].out;
            i++;
            continue;
        }
        if (s < STATE_DEAD)
            return s;
        for (int32_t k = i; doubt && g->was_out[n->depth - 1] && k < n->end; k++)
            if (v->nodes[k].token >= 0 && v->nodes[k].depth <= PROGRAM_ALIKE)
                g->doubt[g->n_doubt++] = k;
        i = n->end;
    }
    return 0;
}

static struct kept_mask *keep(struct grammar *g, const uint32_t *bits, bool doubt)
{
    const struct vocab *v = g->vocab;
    int n = 0, n_doubt = doubt ? g->n_doubt : 0;
    for (int i = 0; i < v->n_words; i++)
        n += __builtin_popcount(bits[i]);
    bool list = n <= v->n_words / 2;
    size_t size = ((size_t)(list ? n : v->n_words) + (size_t)n_doubt) * 4;
    struct kept_mask *m = malloc(sizeof(*m) + size);
    if (!m)
        return NULL;
    g->n_masks_mem += sizeof(*m) + size;
    *m = (struct kept_mask){.n_set = n, .n_ids = list ? n : -1, .n_doubt = n_doubt};
    int32_t *at = m->data;
    if (list) {
        for (int i = 0; i < v->n_words; i++)
            for (uint32_t w = bits[i]; w; w &= w - 1)
                *at++ = i * 32 + __builtin_ctz(w);
    } else {
        memcpy(at, bits, (size_t)v->n_words * 4);
        at += v->n_words;
    }
    if (n_doubt)
        memcpy(at, g->doubt, (size_t)n_doubt * 4);
    return m;
}

static const int32_t *doubts(const struct grammar *g, const struct kept_mask *m)
{
    return m->data + (m->n_ids >= 0 ? m->n_ids : g->vocab->n_words);
}

static void add_mask(const struct grammar *g, const struct kept_mask *m, uint32_t *bits)
{
    const uint32_t *words = (const uint32_t *)m->data;
    if (m->n_ids < 0) {
        for (int i = 0; i < g->vocab->n_words; i++)
            bits[i] |= words[i];
        return;
    }
    for (int i = 0; i < m->n_ids; i++)
        bits[m->data[i] / 32] |= 1u << (m->data[i] % 32);
}

static int node_mask(struct grammar *g, int32_t node, const struct kept_mask **ret)
{
    if (!g->node_masks[node]) {
        int32_t s = automaton_only(&g->automaton, (struct config){node, STACK_UNKNOWN});
        if (s < 0)
            return s;
        memset(g->scratch, 0, (size_t)g->vocab->n_words * 4);
        int r = walk(g, s, g->scratch, true);
        if (r < 0)
            return r;
        if (!(g->node_masks[node] = keep(g, g->scratch, true)))
            return ERR_NOMEM;
    }
    *ret = g->node_masks[node];
    return 0;
}

/* Tries the tokens in doubt from a state; neighbours share the steps of their beginnings. Returns how many
 * tokens were set, or an error. */
static int settle_doubts(struct grammar *g, int32_t state, const int32_t *list, int n, uint32_t *bits)
{
    const struct vocab *v = g->vocab;
    struct automaton *a = &g->automaton;
    const char *before = "";
    size_t n_before = 0, known = 0; /* bytes of `before` whose steps are in path */
    int64_t work = 0;
    int n_set = 0;
    g->path[0] = state;
    for (int i = 0; i < n; i++) {
        size_t n_bytes, k = 0;
        const char *s = vocab_text(v, v->nodes[list[i]].token, &n_bytes);
        while (k < n_before && k < n_bytes && k < known && s[k] == before[k])
            k++;
        int32_t q = g->path[k];
        /* the byte after the last known step of the one before led nowhere: so it does here */
        bool lost = k == known && known < n_before && k < n_bytes && s[k] == before[k];
        for (; !lost && k < n_bytes; k++) {
            work += 1 + a->states[q].n;
            if (work > MAX_WALK_WORK)
                return ERR_LIMIT;
            int32_t to = automaton_step(a, q, g->program->class_of[(uint8_t)s[k]]);
            if (alive(to) < 0)
                return to;
            if (!alive(to))
                break;
            g->path[k + 1] = q = to;
        }
        if (!lost && k == n_bytes)
            n_set += set_tokens(v, list[i], bits);
        before = s;
        n_before = n_bytes;
        known = k;
    }
    return n_set;
}

static int make_mask(struct grammar *g, int32_t state, uint32_t *bits)
{
    int n = g->automaton.states[state].n;
    if (n > FEW_CONFIGS)
        return walk(g, state, bits, false);
    for (int i = 0; i < n; i++) {
        struct config c = g->automaton.pool[g->automaton.states[state].at + i];
        const struct kept_mask *m;
        int r = node_mask(g, c.node, &m);
        if (r < 0)
            return r;
        add_mask(g, m, bits);
        int32_t only = m->n_doubt ? automaton_only(&g->automaton, c) : 0;
        r = only < 0 ? only : m->n_doubt ? settle_doubts(g, only, doubts(g, m), m->n_doubt, bits) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- what is kept ---------------------------------------------------------------------------------- */

static void forget_masks(struct grammar *g)
{
    for (int i = 0; i < g->program->n_nodes; i++) {
        free(g->node_masks[i]);
        g->node_masks[i] = NULL;
    }
    for (int i = 0; i < g->n_state_masks; i++)
        free(g->state_masks[i]);
    g->n_state_masks = 0;
    g->n_masks_mem = 0;
}

/* Begins again with the states that matchers are in. */
static int forget(struct grammar *g)
{
    struct automaton fresh;
    int r = automaton_init(&fresh, g->program);
    for (struct matcher *m = g->matchers; m && r == 0; m = m->next)
        if (automaton_move(&g->automaton, m->state, &fresh) < 0)
            r = ERR_NOMEM;
    if (r < 0) {
        automaton_done(&fresh);
        return r;
    }
    for (struct matcher *m = g->matchers; m; m = m->next)
        m->state = automaton_move(&g->automaton, m->state, &fresh); /* made above */
    automaton_done(&g->automaton);
    g->automaton = fresh;
    forget_masks(g);
    return 0;
}

static size_t memory(const struct grammar *g)
{
    return g->automaton.n_mem + g->n_masks_mem;
}

static int make_room(struct grammar *g)
{
    size_t now = memory(g);
    /* where living states alone are much, not at every token */
    if (now <= g->most_mem || now < 2 * g->least_mem)
        return 0;
    int r = forget(g);
    g->least_mem = memory(g);
    return r;
}

static struct kept_mask **state_mask(struct grammar *g, int32_t state)
{
    if (state >= g->n_state_masks) {
        if (g->automaton.n_states > g->cap_state_masks) {
            int cap = 2 * g->automaton.n_states;
            void *p = realloc(g->state_masks, (size_t)cap * sizeof(*g->state_masks));
            if (!p)
                return NULL;
            g->state_masks = p;
            g->cap_state_masks = cap;
        }
        memset(g->state_masks + g->n_state_masks, 0,
               (size_t)(g->automaton.n_states - g->n_state_masks) * sizeof(*g->state_masks));
        g->n_state_masks = g->automaton.n_states;
    }
    return &g->state_masks[state];
}

/* The mask of tokens that PROGRAM_ALIKE bytes hold is that of all states alike; those of more are tried.
 * Returns how many are set. */
static int text_mask(struct grammar *g, int32_t state, uint32_t *bits)
{
    const struct vocab *v = g->vocab;
    int32_t alike = automaton_alike(&g->automaton, state);
    struct kept_mask **kept = alike < 0 ? NULL : state_mask(g, alike);
    if (!kept)
        return ERR_NOMEM;
    memset(bits, 0, (size_t)v->n_words * 4);
    if (!*kept) {
        int r = make_mask(g, alike, bits);
        struct kept_mask *m = r < 0 ? NULL : keep(g, bits, false);
        if (!m)
            return r < 0 ? r : ERR_NOMEM;
        g->state_masks[alike] = m; /* kept may have moved */
    } else {
        add_mask(g, *kept, bits);
    }
    int n_set = g->state_masks[alike]->n_set;
    int r = settle_doubts(g, state, v->longer, v->n_longer, bits);
    return r < 0 ? r : n_set + r;
}

/* --- matchers -------------------------------------------------------------------------------------- */

static void enter(struct matcher *m, int32_t state)
{
    const struct state *q = &m->g->automaton.states[state];
    m->state = state;
    m->may_end = q->end;
    m->must_end = q->end && q->n == 0;
}

int matcher_new(struct grammar *g, struct matcher **ret)
{
    struct matcher *m = calloc(1, sizeof(*m));
    if (!m)
        return ERR_NOMEM;
    pthread_mutex_lock(&g->lock);
    int32_t s = automaton_start(&g->automaton);
    if (s >= 0) {
        m->g = grammar_ref(g);
        enter(m, s);
        m->next = g->matchers;
        if (m->next)
            m->next->prev = m;
        g->matchers = m;
    }
    pthread_mutex_unlock(&g->lock);
    if (s < 0) {
        free(m);
        return s == STATE_DEAD ? ERR_LIMIT : ERR_NOMEM;
    }
    *ret = m;
    return 0;
}

void matcher_free(struct matcher **mp)
{
    struct matcher *m = *mp;
    *mp = NULL;
    if (!m)
        return;
    pthread_mutex_lock(&m->g->lock);
    if (m->prev)
        m->prev->next = m->next;
    else
        m->g->matchers = m->next;
    if (m->next)
        m->next->prev = m->prev;
    pthread_mutex_unlock(&m->g->lock);
    grammar_put(&m->g);
    free(m);
}

int matcher_mask(struct matcher *m, bool with_end, uint32_t *bits)
{
    struct grammar *g = m->g;
    const struct vocab *v = g->vocab;
    pthread_mutex_lock(&g->lock);
    int n = make_room(g);
    if (n == 0)
        n = text_mask(g, m->state, bits);
    atomic_store_explicit(&g->n_mem, memory(g), memory_order_relaxed);
    pthread_mutex_unlock(&g->lock);
    for (int i = 0; n >= 0 && with_end && m->may_end && i < v->n_end; i++, n++)
        bits[v->end[i] / 32] |= 1u << (v->end[i] % 32);
    return n;
}

int matcher_bytes(struct matcher *m, const char *s, size_t n_bytes)
{
    struct grammar *g = m->g;
    pthread_mutex_lock(&g->lock);
    int32_t at = m->state;
    for (size_t i = 0; i < n_bytes && at >= 0; i++)
        at = automaton_step(&g->automaton, at, g->program->class_of[(uint8_t)s[i]]);
    if (at >= 0)
        enter(m, at);
    pthread_mutex_unlock(&g->lock);
    return at >= 0 ? 0 : at == STATE_DEAD ? ERR_INVAL : ERR_NOMEM;
}

int matcher_accept(struct matcher *m, int32_t token)
{
    size_t n;
    const struct tokenizer *t = m->g->vocab->tokenizer;
    if (tokenizer_is_eog(t, token))
        return m->may_end ? 0 : ERR_INVAL;
    const char *s = vocab_text(m->g->vocab, token, &n);
    if (n == 0)
        return ERR_INVAL;
    return matcher_bytes(m, s, n);
}

bool matcher_may_end(const struct matcher *m)
{
    return m->may_end;
}

bool matcher_must_end(const struct matcher *m)
{
    return m->must_end;
}

/* --- a grammar's part of all this ------------------------------------------------------------------ */

int grammar__ready(struct grammar *g)
{
    const struct vocab *v = g->vocab;
    int r = automaton_init(&g->automaton, g->program);
    if (r < 0)
        return r;
    g->node_masks = calloc((size_t)g->program->n_nodes + 1, sizeof(*g->node_masks));
    g->scratch = malloc((size_t)v->n_words * 4 + 4);
    g->path = malloc(((size_t)v->max_depth + 1) * sizeof(*g->path));
    g->was_out = malloc((size_t)v->max_depth + 1);
    g->doubt = malloc(((size_t)v->n_ids + 1) * sizeof(*g->doubt));
    if (!g->node_masks || !g->scratch || !g->path || !g->was_out || !g->doubt)
        return ERR_NOMEM;
    return 0;
}

void grammar__done(struct grammar *g)
{
    if (g->node_masks)
        forget_masks(g);
    automaton_done(&g->automaton);
    free(g->node_masks);
    free(g->state_masks);
    free(g->scratch);
    free(g->path);
    free(g->was_out);
    free(g->doubt);
}
