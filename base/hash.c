/* base/hash.c - XXH3. */
#include "config.h"

#include "base/hash.h"

#include <xxhash.h>

struct hash128 hash128_bytes(const void *p, size_t n_bytes, uint64_t seed)
{
    XXH128_hash_t h = XXH3_128bits_withSeed(p, n_bytes, seed);
    return (struct hash128){h.low64, h.high64};
}

struct hash128 hash128_chain(struct hash128 parent, const int32_t *tokens, size_t n_tokens)
{
    struct hash128 h = hash128_bytes(tokens, n_tokens * sizeof(*tokens), parent.lo);
    uint64_t both[3] = {parent.hi, h.lo, h.hi};
    return hash128_bytes(both, sizeof(both), parent.lo);
}

uint64_t hash64_bytes(const void *p, size_t n_bytes, uint64_t seed)
{
    return XXH3_64bits_withSeed(p, n_bytes, seed);
}
