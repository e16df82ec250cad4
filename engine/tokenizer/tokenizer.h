/* engine/tokenizer/tokenizer.h - text to token ids and back.
 *
 * Byte-level BPE with PCRE2 pre-tokenizer patterns, or merges of characters with byte fallback
 * (SentencePiece), made from GGUF metadata, tokenizer.json or tiktoken.model. Immutable after
 * creation; every function may be called from any thread at once. */
#ifndef LATENT_ENGINE_TOKENIZER_TOKENIZER_H
#define LATENT_ENGINE_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "engine/model/checkpoint.h"

struct tokenizer;

/* ERR_UNSUPPORTED for an unknown model or pre-tokenizer (never guessed), ERR_FORMAT for a damaged
 * vocabulary, ERR_NOTFOUND when the source has no tokenizer at all (the model then serves ids
 * only). vocab_size bounds the ids. The source may be closed afterwards. */
int tokenizer_new(const struct tokenizer_source *src, int vocab_size, struct tokenizer **ret,
                  struct err *e) LATENT_MUST_CHECK;
void tokenizer_free(struct tokenizer **t);

enum {
    TOKENIZE_ADD_SPECIAL = 1, /* add BOS (and EOS) as the model asks */
    TOKENIZE_PARSE_SPECIAL =
        2, /* text of special tokens becomes their ids; otherwise it is plain text */
};

struct token_list { /* grows by realloc; free(ids) is the caller's */
    int32_t *ids;
    size_t n, cap;
};

/* Appends the ids of text to *out. text is any bytes: ill-formed UTF-8 is encoded byte by byte.
 * ERR_LIMIT when more than max_tokens would be in the list, ERR_NOMEM. Time is O(n log n) in the
 * length, also for a megabyte without a space. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n_bytes, unsigned flags,
                     size_t max_tokens, struct token_list *out, struct err *e) LATENT_MUST_CHECK;

/* The same for a rendered chat template: where literal[i] is not zero, byte i came from a message,
 * and no special token that has such a byte is recognised, whatever the flags. literal may be NULL. */
int tokenizer_encode_masked(const struct tokenizer *t, const char *text,
                            const unsigned char *literal, size_t n_bytes, unsigned flags,
                            size_t max_tokens, struct token_list *out,
                            struct err *e) LATENT_MUST_CHECK;

/* The text of ids, as the reference implementation decodes them: what no token writes is U+FFFD.
 * Appends valid UTF-8. skip_special leaves control tokens out. ERR_NOMEM, ERR_LIMIT by the buffer. */
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                     struct buf *out) LATENT_MUST_CHECK;

/* The same token by token. The bytes that come out may end inside a character, but joined they are
 * what tokenizer_decode makes valid. Byte tokens are held back until their run ends, for only a run
 * that is valid as a whole is text. */
struct detok {
    const struct tokenizer *t;
    int strip; /* spaces still to take from the beginning */
    int n_run;
    unsigned char run[252];
};
/* begins: nothing stands before the text, so that the mark of its first word is no space. */
void detok_init(struct detok *d, const struct tokenizer *t, bool begins);
int detok_push(struct detok *d, int32_t id, struct buf *out) LATENT_MUST_CHECK;
int detok_finish(struct detok *d, struct buf *out) LATENT_MUST_CHECK;

/* The bytes that a token stands for (special tokens: their text), not necessarily valid UTF-8.
 * Borrowed. An id out of range gives "" and 0 bytes. */
const char *tokenizer_token_bytes(const struct tokenizer *t, int32_t id, size_t *ret_n_bytes);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id); /* control and unknown */
bool tokenizer_is_eog(const struct tokenizer *t, int32_t id);     /* ends a generation */
int tokenizer_vocab_size(const struct tokenizer *t);
int32_t tokenizer_bos(const struct tokenizer *t); /* -1 when none */
int32_t tokenizer_eos(const struct tokenizer *t);
/* Id of the token whose text is exactly s (special or not), or -1. */
int32_t tokenizer_find(const struct tokenizer *t, const char *s, size_t n_bytes);
size_t tokenizer_max_token_bytes(const struct tokenizer *t);
/* What the operator should know (the file names no pre-tokenizer), or NULL. */
const char *tokenizer_warning(const struct tokenizer *t);

#endif
