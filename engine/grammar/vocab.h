/* engine/grammar/vocab.h - the texts of all tokens as one tree of bytes, in the order of a walk.
 * Immutable once made. */
#ifndef LATENT_ENGINE_GRAMMAR_VOCAB_H
#define LATENT_ENGINE_GRAMMAR_VOCAB_H

#include "engine/tokenizer/tokenizer.h"

/* No text has this byte: behind it stands the text of a control token, which is one step for grammars that
 * speak of it and can come in no other way. Tokens that have it otherwise are left out. */
#define VOCAB_CONTROL 0xff

struct trie_node {
    int32_t end;   /* the node after all below this one */
    int32_t token; /* the first with just this text, or -1 */
    uint16_t depth; /* bytes of the text: 1 at the top */
    uint8_t byte;
};

struct vocab {
    const struct tokenizer *tokenizer;
    int n_ids, n_words; /* words of a mask */
    int n_nodes, max_depth;
    struct trie_node *nodes;
    int32_t *same; /* the next token with the same text, or -1 */
    int n_longer;
    int32_t *longer; /* nodes with tokens of more than `most` bytes */
    int n_end;
    int32_t *end; /* tokens that end a text */
    int n_control;
    int32_t *control;      /* control tokens that end nothing, ascending */
    const char **control_text;
    char *control_bytes;   /* what control_text points into */
};

/* Tokens without text are left out. n_ids: of the model, which may have more than the
 * tokenizer. most: see `longer`. ERR_NOMEM, ERR_LIMIT (a token of more than 65535 bytes). */
int vocab_new(const struct tokenizer *t, int n_ids, int most, struct vocab **ret) LATENT_MUST_CHECK;
void vocab_free(struct vocab **v);
/* What a grammar sees of a token: its bytes, or those of a control token behind VOCAB_CONTROL; 0 bytes where
 * no text can have it. */
const char *vocab_text(const struct vocab *v, int32_t id, size_t *ret_n_bytes);

#endif
