/* engine/tokenizer/tokenizer_internal.h - the tokenizer's fields, for tokenizer.c (making),
 * encode.c and detok.c. */
#ifndef LATENT_ENGINE_TOKENIZER_TOKENIZER_INTERNAL_H
#define LATENT_ENGINE_TOKENIZER_TOKENIZER_INTERNAL_H

#include "engine/tokenizer/added.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/normal.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocab.h"

struct entry {
    uint32_t at, n_bytes;         /* what is searched in text */
    uint32_t out_at, n_out_bytes; /* what it stands for; the same unless symbols are characters */
    unsigned char type;
    bool eog;
    bool ordinary; /* may come out of plain text by merging */
};

struct tokenizer {
    enum vocab_kind kind;
    int n;
    struct entry *entries;
    char *bytes;
    int32_t *table; /* by bytes; -1 empty */
    uint32_t mask;
    struct added_set *added, *added_normal; /* found in the text as it is; in the normalized text */
    char *normalized;                       /* texts of added_normal */
    struct added_set *added_all;            /* both: where a mask must still fit */
    struct bpe *bpe;
    struct pretok *pretok;
    struct normal *normal;
    bool whole_words, prefix_space, metaspace, add_bos, add_eos, fuse_unk;
    enum vocab_mark mark;
    int strip_left;
    int32_t byte_ids[256]; /* of single bytes, or <0xHH>; -1: none */
    int32_t bos, eos, unk;
    size_t max_token_bytes;
    const char *warning;
};

/* Id of the token that is searched by these bytes, or -1. */
int32_t tokenizer__lookup(const struct tokenizer *t, const char *s, size_t n_bytes);

#endif
