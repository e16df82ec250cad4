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

struct hash64_stream *hash64_stream_new(void)
{
    XXH3_state_t *s = XXH3_createState();
    if (s)
        XXH3_64bits_reset(s);
    return (struct hash64_stream *)s;
}

void hash64_stream_free(struct hash64_stream **s)
{
    XXH3_freeState((XXH3_state_t *)*s);
    *s = NULL;
}

void hash64_stream_reset(struct hash64_stream *s)
{
    XXH3_64bits_reset((XXH3_state_t *)s);
}

void hash64_stream_add(struct hash64_stream *s, const void *p, size_t n_bytes)
{
    XXH3_64bits_update((XXH3_state_t *)s, p, n_bytes);
}

uint64_t hash64_stream_value(const struct hash64_stream *s)
{
    return XXH3_64bits_digest((const XXH3_state_t *)s);
}
