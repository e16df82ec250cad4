/* engine/grammar/compiled.h - a compiled grammar, and the front ends. Of the folder. */
#ifndef LATENT_ENGINE_GRAMMAR_COMPILED_H
#define LATENT_ENGINE_GRAMMAR_COMPILED_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/hash.h"
#include "engine/grammar/automaton.h"
#include "engine/grammar/vocab.h"

struct kept_mask {
    int n_set;   /* tokens */
    int n_ids;   /* ids of the tokens; -1: words of a mask */
    int n_doubt; /* nodes of the tree, behind them */
    int32_t data[];
};

struct grammar {
    _Atomic int refs;
    struct grammar *next, *prev; /* in the cache, the last used first */
    enum grammar_kind kind;
    struct hash128 hash;
    char *source;
    size_t n_source;
    const struct vocab *vocab;
    struct program *program;
    _Atomic size_t n_mem; /* of the automaton and masks */
    size_t most_mem;

    pthread_mutex_t lock; /* of what follows */
    struct automaton automaton;
    size_t least_mem; /* after they were forgotten last */
    struct kept_mask **node_masks, **state_masks;
    int n_state_masks, cap_state_masks;
    size_t n_masks_mem;
    uint32_t *scratch;
    int32_t *path; /* states by depth in the tree */
    bool *was_out;
    int32_t *doubt;
    int n_doubt;
    struct matcher *matchers;
};

int grammar__ready(struct grammar *g) LATENT_MUST_CHECK;
void grammar__done(struct grammar *g);

/* Front ends: the rule that the source comes to; mistakes fail the rules. */
int32_t gbnf_read(struct rules *b, const char *s, size_t n_bytes);
struct expr *regex_read(struct rules *b, const char *s, size_t n_bytes, bool anywhere);
int32_t schema_read(struct rules *b, const char *s, size_t n_bytes);
int32_t object_read(struct rules *b);
int32_t choice_read(struct rules *b, const char *s, size_t n_bytes);
int32_t calls_read(struct rules *b, const char *s, size_t n_bytes);
int32_t tag_read(struct rules *b, const char *s, size_t n_bytes);

#endif
