/* engine/tokenizer/vocab.h - what the two file formats say about a tokenizer, in one form.
 *
 * Filled by vocab_gguf.c or vocab_json.c, read once by tokenizer.c. Strings are borrowed from the
 * source or owned by `keep`. */
#ifndef LATENT_ENGINE_TOKENIZER_VOCAB_H
#define LATENT_ENGINE_TOKENIZER_VOCAB_H

#include <stdbool.h>
#include "base/err.h"
#include "engine/model/checkpoint.h"
#include "engine/tokenizer/normal.h"
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

enum vocab_kind {
    VOCAB_BYTES, /* symbols are bytes, written in the alphabet of GPT-2 */
    VOCAB_CHARS, /* symbols are characters, a space is written as U+2581; bytes without a token are
                    <0xHH> */
};

/* U+2581 before a text: SentencePiece's mark of a word's beginning. */
enum vocab_mark {
    MARK_NEVER,
    MARK_FIRST,  /* at the very beginning, unless it has one */
    MARK_ALWAYS, /* after added tokens too */
};

struct vocab {
    enum vocab_kind kind;
    int n_tokens;
    struct str_view *tokens;
    unsigned char *types;
    unsigned char *rules; /* enum added_rule of each token, or NULL */
    int n_merges;
    struct merge_text *merges;
    /* No list of merges: any two tokens merge whose text together is a token; the lowest rank
     * first. */
    bool derive_merges;
    const float *scores; /* the highest is the lowest rank; NULL: ids are ranks */
    const char *warning; /* static text, or NULL */
    int n_patterns;
    struct pretok_rule patterns[PRETOK_MAX_PATTERNS];
    int n_steps;
    struct normal_step steps[NORMAL_MAX_STEPS];
    bool whole_words;
    bool prefix_space; /* bytes: a space is put before text that has none */
    bool metaspace;    /* chars: spaces become marks after the normalizer, by `mark` */
    enum vocab_mark mark;
    bool fuse_unk, byte_fallback;
    int strip_left;    /* chars: spaces taken from the beginning of decoded text */
    int bos, eos, unk; /* -1: none */
    bool add_bos, add_eos;
    void *keep; /* freed by keep_free */
    void (*keep_free)(void *keep);
};

int vocab_from_gguf(const struct tokenizer_source *src, int vocab_size, struct vocab *ret,
                    struct err *e) LATENT_MUST_CHECK;
int vocab_from_json(const struct tokenizer_source *src, int vocab_size, struct vocab *ret,
                    struct err *e) LATENT_MUST_CHECK;
/* "left right" to its two halves; index is for the message. */
int vocab__split_merge(struct str_view m, int index, struct merge_text *ret,
                       struct err *e) LATENT_MUST_CHECK;
/* Beginning and end by their names in the source, where there are such tokens. */
void vocab__named_ends(const struct tokenizer_source *src, struct vocab *v);
/* A tiktoken.model file: "BASE64 RANK" a line, with tokenizer_config.json beside it. */
int vocab_from_tiktoken(const struct tokenizer_source *src, int vocab_size, struct vocab *ret,
                        struct err *e) LATENT_MUST_CHECK;
void vocab_done(struct vocab *v);

/* The name in tokenizer.ggml.pre of a tokenizer.json ("default" is never one): *ret is static, NULL
 * when llama.cpp has no name for its rules, and "" when it is of SentencePiece's kind
 * (tokenizer.ggml.model "llama"). */
int vocab_pre_name_for(const char *json_path, const char **ret, struct err *e) LATENT_MUST_CHECK;

#endif
