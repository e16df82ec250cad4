/* engine/tokenizer/normal.h - changes to a text before it is split: Unicode normal forms,
 * replacements.
 *
 * The steps of a tokenizer.json's normalizer, in order. Texts are valid UTF-8. Immutable; any
 * thread. */
#ifndef LATENT_ENGINE_TOKENIZER_NORMAL_H
#define LATENT_ENGINE_TOKENIZER_NORMAL_H

#include <stdbool.h>
#include <stddef.h>
#include "base/buf.h"
#include "base/err.h"

enum normal_kind {
    NORMAL_NFC,
    NORMAL_NFD,
    NORMAL_NFKC,
    NORMAL_NFKD,
    NORMAL_LOWERCASE,
    NORMAL_PREPEND, /* content, before a text that is not empty */
    NORMAL_REPLACE, /* each match of pattern by content */
    NORMAL_STRIP_LEFT,
    NORMAL_STRIP_RIGHT,
};

struct normal_step {
    enum normal_kind kind;
    const char *content; /* NUL-terminated; copied by normal_new */
    const char *pattern; /* a text, or with is_regex a PCRE2 pattern */
    bool is_regex;
};

#define NORMAL_MAX_STEPS 16
/* No normal form makes a character more than 18 times as long; replacements are bounded by it too. */
#define NORMAL_MAX_GROWTH 32

struct normal;

int normal_new(const struct normal_step *steps, int n_steps, struct normal **ret,
               struct err *e) LATENT_MUST_CHECK;
void normal_free(struct normal **n);
/* No step at all. */
bool normal_is_identity(const struct normal *n);
/* Replaces what is in out. ERR_NOMEM; ERR_LIMIT: a pattern needed too much work, or the result is
 * too long. */
int normal_apply(const struct normal *n, const char *text, size_t n_bytes,
                 struct buf *out) LATENT_MUST_CHECK;

/* Characters of words (letters, marks, digits, connectors) and white space, next to a place in a
 * text. */
bool normal_word_before(const char *text, size_t at);
bool normal_word_after(const char *text, size_t n_bytes);
size_t normal_spaces_before(const char *text, size_t from,
                            size_t at);                       /* where the white space begins */
size_t normal_spaces_after(const char *text, size_t n_bytes); /* its bytes */

#endif
