/* engine/tokenizer/vocab.h - what the two file formats say about a tokenizer, in one form.
 *
 * Filled by vocab_gguf.c or vocab_json.c, read once by tokenizer.c. Strings are borrowed from the
 * source or owned by `keep`. */
#ifndef LATENT_ENGINE_TOKENIZER_VOCAB_H
#define LATENT_ENGINE_TOKENIZER_VOCAB_H

#include <stdbool.h>
#include "base/err.h"
#include "engine/model/checkpoint.h"
#include "engine/tokenizer/pretok.h"

/* tokenizer.ggml.token_type */
enum token_type {
    TOKEN_HOLE = 0, /* no token has this id */
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4, /* text that always becomes this token */
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6,
};

struct merge_text {
    struct str_view left, right;
};

struct vocab {
    int n_tokens;
    struct str_view *tokens; /* normal ones in the byte alphabet of GPT-2 */
    unsigned char *types;
    int n_merges;
    struct merge_text *merges;
    const char *pre_name;
    int n_patterns;
    const char *patterns[PRETOK_MAX_PATTERNS];
    bool whole_words;
    bool prefix_space;       /* a space is put before text that has none */
    int bos, eos;            /* -1: none */
    bool add_bos, add_eos;
    void *keep;              /* freed by keep_free */
    void (*keep_free)(void *keep);
};

int vocab_from_gguf(const struct tokenizer_source *src, int vocab_size, struct vocab *ret,
                    struct err *e) LATENT_MUST_CHECK;
int vocab_from_json(const struct tokenizer_source *src, int vocab_size, struct vocab *ret,
                    struct err *e) LATENT_MUST_CHECK;
/* "left right" to its two halves; index is for the message. */
int vocab__split_merge(struct str_view m, int index, struct merge_text *ret, struct err *e)
    LATENT_MUST_CHECK;
void vocab_done(struct vocab *v);

#endif
