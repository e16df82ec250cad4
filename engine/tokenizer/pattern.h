/* engine/tokenizer/pattern.h - regular expressions of tokenizers, run by PCRE2 under limits.
 *
 * tokenizer.json's patterns are written for Oniguruma, tiktoken's for Rust. What differs and occurs
 * in real files is rewritten: white space without U+180E, scripts by script (not by its
 * extensions), class intersection, line anchors. Immutable; any thread, each with its own run. */
#ifndef LATENT_ENGINE_TOKENIZER_PATTERN_H
#define LATENT_ENGINE_TOKENIZER_PATTERN_H

#include <stddef.h>
#include "base/err.h"

struct pattern;

/* ERR_FORMAT when it does not compile, ERR_UNSUPPORTED for syntax that means something else here;
 * `what` names it in messages. */
int pattern_new(const char *regex, const char *what, struct pattern **ret,
                struct err *e) LATENT_MUST_CHECK;
void pattern_free(struct pattern **p);
/* The rewritten pattern, malloc'ed; for comparing two of them. */
int pattern_rewrite(const char *regex, const char *what, char **ret,
                    struct err *e) LATENT_MUST_CHECK;

struct pattern_run {
    void *match, *context;
    size_t at; /* where the next search begins */
};

int pattern_begin(struct pattern_run *run)
    LATENT_MUST_CHECK; /* ERR_NOMEM; pattern_end is owed either way */
void pattern_end(struct pattern_run *run);
/* 1 and the next match from run->at on (it may be empty, then the search goes on one character
 * later), 0 when there is none, ERR_LIMIT when it took too much work. */
int pattern_next(const struct pattern *p, struct pattern_run *run, const char *text, size_t n_bytes,
                 size_t *ret_begin, size_t *ret_end);

#endif
