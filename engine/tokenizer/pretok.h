/* engine/tokenizer/pretok.h - splitting text into the pieces that merges may not cross.
 *
 * A pre-tokenizer is a list of rules applied in order: each later one works inside the pieces that
 * the earlier ones left. Patterns are PCRE2 with Unicode properties (pattern.h). Immutable after
 * creation; any thread. */
#ifndef LATENT_ENGINE_TOKENIZER_PRETOK_H
#define LATENT_ENGINE_TOKENIZER_PRETOK_H

#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"

struct pretok;

#define PRETOK_MAX_PATTERNS 16

/* What becomes of a match; the gaps between matches are pieces in any case. */
enum pretok_behaviour {
    PRETOK_ISOLATED, /* a piece */
    PRETOK_REMOVED,
    PRETOK_WITH_PREVIOUS, /* the end of the piece before, unless that is a match too */
    PRETOK_WITH_NEXT,
    PRETOK_CONTIGUOUS, /* one piece with the matches next to it */
};

struct pretok_rule {
    const char *pattern;
    enum pretok_behaviour behaviour;
    bool invert; /* matches count as gaps and gaps as matches */
};

/* The patterns of a GGUF pre-tokenizer name (all isolated): NULL-terminated, or NULL when the name
 * is unknown. *ret_whole_words: a piece that is a token is taken as it is, without merging. */
const char *const *pretok_patterns(const char *name, int *ret_whole_words);
/* Space-separated names, for messages. */
const char *pretok_names(void);
/* The other way: the first name in the table with these rules, or NULL. */
const char *pretok_name_of(const struct pretok_rule *rules, int n_rules, int whole_words);

/* ERR_FORMAT: a pattern does not compile; ERR_UNSUPPORTED, ERR_NOMEM. Nothing is kept of the rules. */
int pretok_new(const struct pretok_rule *rules, int n_rules, struct pretok **ret,
               struct err *e) LATENT_MUST_CHECK;
void pretok_free(struct pretok **p);

/* Calls piece(arg, text, n) for each piece of text, which must be valid UTF-8, in order. Stops at
 * the first non-zero answer and returns it. ERR_LIMIT: a pattern needed too much work; ERR_NOMEM. */
int pretok_split(const struct pretok *p, const char *text, size_t n_bytes,
                 int (*piece)(void *arg, const char *text, size_t n_bytes), void *arg);

#endif
