/* engine/tokenizer/pretok.h - splitting text into the pieces that merges may not cross.
 *
 * A pre-tokenizer is a list of patterns applied in order: each later one works inside the pieces that
 * the earlier ones left; matches and the gaps between them are pieces. Patterns are PCRE2 with Unicode
 * properties. Immutable after creation; any thread. */
#ifndef LATENT_ENGINE_TOKENIZER_PRETOK_H
#define LATENT_ENGINE_TOKENIZER_PRETOK_H

#include <stddef.h>
#include "base/err.h"

struct pretok;

#define PRETOK_MAX_PATTERNS 16

/* The patterns of a GGUF pre-tokenizer name: NULL-terminated, or NULL when the name is unknown.
 * *ret_whole_words: a piece that is a token is taken as it is, without merging. */
const char *const *pretok_patterns(const char *name, int *ret_whole_words);
/* Space-separated names, for messages. */
const char *pretok_names(void);

/* ERR_FORMAT: a pattern does not compile; ERR_NOMEM. */
int pretok_new(const char *const *patterns, int n_patterns, struct pretok **ret, struct err *e)
    LATENT_MUST_CHECK;
void pretok_free(struct pretok **p);

/* Calls piece(arg, text, n) for each piece of text, which must be valid UTF-8, in order. Stops at the
 * first non-zero answer and returns it. ERR_LIMIT: a pattern needed too much work; ERR_NOMEM. */
int pretok_split(const struct pretok *p, const char *text, size_t n_bytes,
                 int (*piece)(void *arg, const char *text, size_t n_bytes), void *arg);

#endif
