/* base/hash.h - 128-bit non-cryptographic hashes (XXH3, from libxxhash). Thread safe. */
#ifndef LATENT_BASE_HASH_H
#define LATENT_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash128 {
    uint64_t lo, hi;
};

struct hash128 hash128_bytes(const void *p, size_t n_bytes, uint64_t seed);
/* Chain: the hash of a block of n tokens that follows a prefix hashed to `parent`. */
struct hash128 hash128_chain(struct hash128 parent, const int32_t *tokens, size_t n_tokens);
uint64_t hash64_bytes(const void *p, size_t n_bytes, uint64_t seed);

#endif
