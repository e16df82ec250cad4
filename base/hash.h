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

/* The same hash (seed 0) of bytes that come in pieces. NULL when out of memory. */
struct hash64_stream;
struct hash64_stream *hash64_stream_new(void);
void hash64_stream_free(struct hash64_stream **s); /* NULL-safe */
void hash64_stream_reset(struct hash64_stream *s);
void hash64_stream_add(struct hash64_stream *s, const void *p, size_t n_bytes);
uint64_t hash64_stream_value(const struct hash64_stream *s);

#endif
