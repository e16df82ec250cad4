/* engine/grammar/automaton.h - the configurations in which a program may be after some text, as states that
 * are made when they are met.
 *
 * A configuration is a node and the nodes to which the calls around it return; a state is the set of those
 * that one text leads to. States, and what a byte makes of them, are kept: after a while a byte is a look-up.
 * Used under the grammar's lock. */
#ifndef LATENT_ENGINE_GRAMMAR_AUTOMATON_H
#define LATENT_ENGINE_GRAMMAR_AUTOMATON_H

#include "engine/grammar/program.h"

#define STATE_DEAD (-1)
#define STATE_NONE (-2) /* not looked for yet */

/* Calls that one text may be inside of, and configurations of a state: beyond, there is no way on. */
#define AUTOMATON_MAX_DEPTH 1000
#define AUTOMATON_MAX_CONFIGS 256

enum {
    STACK_EMPTY = 0,
    STACK_UNKNOWN = 1, /* whatever called this: for what does not depend on it */
};

struct stack {
    int32_t node, parent, depth;
};

struct config {
    int32_t node, stack;
};

struct state {
    int32_t at, n;   /* configurations in the pool: those that a byte may follow */
    int32_t *next;   /* [n_classes], or NULL: none looked for */
    int32_t alike;   /* the state of the nodes that these are alike to, or STATE_NONE: not looked for */
    bool end;        /* the text may end here */
    bool out;        /* ... or go on behind STACK_UNKNOWN */
};

struct automaton {
    const struct program *p;
    struct state *states;
    struct config *pool, *found;
    struct stack *stacks;
    int32_t *state_slots, *stack_slots;
    uint32_t n_state_slots, n_stack_slots;
    int n_states, cap_states, n_pool, cap_pool, n_stacks, cap_stacks;
    struct config *todo;
    uint64_t *seen;     /* configurations met in this step, by hash */
    uint32_t *seen_when, now;
    int n_found, n_todo, n_seen;
    bool found_end, found_out, overflow;
    size_t n_mem;
    int failed; /* ERR_NOMEM, once it happened */
};

int automaton_init(struct automaton *a, const struct program *p) LATENT_MUST_CHECK;
void automaton_done(struct automaton *a);

/* Where a text begins. A state, or an error below STATE_NONE. */
int32_t automaton_start(struct automaton *a);
/* The state of one configuration as it is, without what its calls and ends add. */
int32_t automaton_only(struct automaton *a, struct config c);
/* The state that the next PROGRAM_ALIKE bytes do not tell from this one, the same for all of its kind; or an
 * error below STATE_NONE. */
int32_t automaton_alike(struct automaton *a, int32_t state);
/* What a byte of the class makes of a state; STATE_DEAD; ERR_NOMEM. */
int32_t automaton_step(struct automaton *a, int32_t state, int class);
/* The same state in another automaton of this program; ERR_NOMEM. */
int32_t automaton_move(const struct automaton *from, int32_t state, struct automaton *to);

#endif
