/* engine/tokenizer/bpe.h - byte-pair merges over token ids.
 *
 * Every one-byte token starts as a symbol; the adjacent pair with the lowest rank (leftmost among
 * equals) merges until none can. Short pieces scan, long ones keep pairs in a heap: O(n log n).
 * Immutable after bpe_new; any thread. */
#ifndef LATENT_ENGINE_TOKENIZER_BPE_H
#define LATENT_ENGINE_TOKENIZER_BPE_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

struct bpe;

struct bpe_merge {
    int32_t left, right, result;
    int32_t rank; /* the lowest merges first; equal ranks from left to right */
};

/* Of equal pairs the later one counts, as in the reference implementation.
 * byte_ids[b]: the token of byte b, or -1. ERR_NOMEM. */
int bpe_new(const struct bpe_merge *merges, int n_merges, const int32_t byte_ids[256],
            struct bpe **ret) LATENT_MUST_CHECK;
void bpe_free(struct bpe **b);

/* Encodes one piece: writes at most n_bytes ids to ret and returns how many; bytes without a token
 * are left out. ERR_NOMEM. */
int bpe_encode(const struct bpe *b, const unsigned char *piece, size_t n_bytes, int32_t *ret);
/* The same from symbols that are tokens already: ids[n] is replaced in place. */
int bpe_merge_ids(const struct bpe *b, int32_t *ids, int n);

#endif
