/* engine/grammar/program.h - rules as automata: nodes whose edges are bytes or calls, every one of them on a
 * way to an end. Immutable once made. */
#ifndef LATENT_ENGINE_GRAMMAR_PROGRAM_H
#define LATENT_ENGINE_GRAMMAR_PROGRAM_H

#include "engine/grammar/rules.h"

/* Two nodes are alike when the same texts of so many bytes lead on from them: of a thousand characters in a
 * row all but the last few are. */
#define PROGRAM_ALIKE 32

struct node_bytes {
    int32_t to;
    uint8_t lo, hi;
};

struct node_call {
    int32_t to, start; /* where it goes on; the first node of the rule */
};

struct node {
    int32_t byte, call; /* the first of its edges */
    int32_t n_bytes, n_calls;
    bool final;
};

struct program {
    struct node *nodes;
    struct node_bytes *bytes;
    struct node_call *calls;
    int n_nodes, n_edges, n_node_calls;
    int32_t start;
    int32_t *alike;        /* of a node: the first that PROGRAM_ALIKE bytes do not tell from it */
    int n_classes;         /* bytes that no edge tells apart are one class */
    uint8_t class_of[256]; /* of a byte */
    uint8_t byte_of[256];  /* one of a class */
    size_t n_mem;          /* bytes of all this */
};

/* The rules that `root` needs. Fails (rules_fail) where a rule calls itself before any byte, where nothing
 * matches, and at the limits. */
int program_new(struct rules *b, int32_t root, struct program **ret) LATENT_MUST_CHECK;
void program_free(struct program **p);
/* Nothing is left to do at the node but to return. */
bool program_returns(const struct program *p, int32_t node);

#endif
