/* engine/grammar/grammar.h - what an answer may look like: grammars from several languages, compiled once,
 * and which tokens may come next.
 *
 * Every front end (gbnf.c, regex.c, schema.c, tag.c) ends in the same rules over bytes (rules.h); rules
 * become automata whose edges are bytes or calls of other rules (program.h); a lazy automaton over sets of
 * their configurations answers which tokens may follow (automaton.h). docs/structured.md says what is
 * understood. */
#ifndef LATENT_ENGINE_GRAMMAR_GRAMMAR_H
#define LATENT_ENGINE_GRAMMAR_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "engine/tokenizer/tokenizer.h"

struct grammar;  /* compiled; counted references */
struct grammars; /* those of one vocabulary, the least recently used forgotten */
struct matcher;  /* how far one answer has come */

enum grammar_kind {
    GRAMMAR_GBNF = 0, /* llama.cpp's dialect, or Lark's where it begins with `start` */
    GRAMMAR_REGEX,    /* the whole answer matches */
    GRAMMAR_CHOICE,   /* a JSON list of strings */
    GRAMMAR_SCHEMA,   /* JSON schema; {} is any value */
    GRAMMAR_OBJECT,   /* any JSON object; the source is empty */
    GRAMMAR_TAG,      /* free text with structures after triggers, as JSON */
    GRAMMAR_CALLS,    /* calls of tools in a model's format (calls.c): control tokens may be part of it */
};

struct grammar_limits {
    size_t max_source_bytes; /* of one grammar */
    int max_states;          /* of its automata */
    int64_t max_compile_ns;
    uint64_t cache_bytes;    /* of all that nobody uses; and a quarter of it for the sets of one */
};

/* tokenizer is borrowed, n_vocab ids; NULL without a tokenizer: every grammar is refused then. ERR_NOMEM. */
int grammars_new(const struct tokenizer *tokenizer, int n_vocab, const struct grammar_limits *lim,
                 struct grammars **ret) LATENT_MUST_CHECK;
void grammars_free(struct grammars **g); /* after all matchers; NULL-safe */

/* Compiles, or finds what was compiled. Any thread. ERR_INVAL, ERR_UNSUPPORTED (a keyword or construct that
 * is not served) and ERR_LIMIT say where in the source; ERR_NOMEM. grammar_put gives the reference back. */
int grammars_get(struct grammars *g, enum grammar_kind kind, const char *source, size_t n_bytes,
                 struct grammar **ret, struct err *e) LATENT_MUST_CHECK;
struct grammar *grammar_ref(struct grammar *g);
void grammar_put(struct grammar **g); /* NULL-safe */

/* A matcher at the beginning; it holds a reference. Matchers of one grammar may be used by several threads,
 * each of them by one. ERR_NOMEM. */
int matcher_new(struct grammar *g, struct matcher **ret) LATENT_MUST_CHECK;
void matcher_free(struct matcher **m); /* NULL-safe */
/* A bit for each token that may come next (id i: bit i % 32 of word i / 32), and, where the text may end here
 * and with_end, for the tokens that end it. Never for other control tokens. Returns how many bits are set;
 * ERR_NOMEM; ERR_LIMIT when the mask of this grammar takes too long. */
int matcher_mask(struct matcher *m, bool with_end, uint32_t *bits) LATENT_MUST_CHECK;
/* Takes a token that the mask allowed. ERR_INVAL: it did not; ERR_NOMEM. */
int matcher_accept(struct matcher *m, int32_t token) LATENT_MUST_CHECK;
/* The same byte by byte. */
int matcher_bytes(struct matcher *m, const char *s, size_t n_bytes) LATENT_MUST_CHECK;
bool matcher_may_end(const struct matcher *m);  /* the text is complete */
bool matcher_must_end(const struct matcher *m); /* ... and nothing may follow */

#endif
