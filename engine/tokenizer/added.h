/* engine/tokenizer/added.h - tokens that are found in the text itself, before it is split.
 *
 * At each place the longest one wins, from left to right. Kept sorted: a search narrows a range
 * byte by byte, so its time depends on what matches, not on how many there are. Immutable; any
 * thread. */
#ifndef LATENT_ENGINE_TOKENIZER_ADDED_H
#define LATENT_ENGINE_TOKENIZER_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum added_rule {
    ADDED_LSTRIP = 1,      /* takes the white space before it */
    ADDED_RSTRIP = 2,      /* and after it */
    ADDED_SINGLE_WORD = 4, /* not inside of a word */
    ADDED_NORMALIZED = 8,  /* looked for in the normalized text */
    ADDED_IN_MODEL = 16,   /* an ordinary token too: merges may make it */
};

struct added_token {
    const char *text; /* borrowed for the life of the set */
    uint32_t n_bytes;
    int32_t id;
    unsigned char rules;
    bool special; /* only when special tokens are parsed */
};

struct added_set;

/* The list is copied; empty texts are left out, of equal texts the first one counts. ERR_NOMEM. */
int added_new(const struct added_token *list, int n, struct added_set **ret) LATENT_MUST_CHECK;
void added_free(struct added_set **s);

/* The next token at or after `from`: its id and the bytes that it takes, or -1. `done` is where the
 * text that is still free begins (white space before it belongs to the token before). A token with
 * a byte that is set in literal (may be NULL) is none. */
int32_t added_next(const struct added_set *s, const char *text, const unsigned char *literal,
                   size_t n_bytes, size_t done, bool special, size_t *ret_begin, size_t *ret_end);

#endif
