/* engine/model/map.h - a file mapped read-only, and ranges of it checked against its size. */
#ifndef LATENT_ENGINE_MODEL_MAP_H
#define LATENT_ENGINE_MODEL_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

struct file_map {
    const unsigned char *data; /* never NULL once open, also for an empty file */
    size_t n_bytes;
    bool owned;     /* to be unmapped */
    char label[96]; /* last part of the path, printable, for messages */
};

/* Maps a regular file. max_bytes > 0: a longer file is ERR_LIMIT. ERR_NOTFOUND when there is no such
 * file, ERR_IO for every other reason. *ret is untouched on failure. */
int map__open(const char *path, size_t max_bytes, struct file_map *ret,
              struct err *e) LATENT_MUST_CHECK;
void map__close(struct file_map *m); /* a zeroed or closed one is fine */

/* True when [offset, offset + n_bytes) lies in the file. */
static inline bool map__has(const struct file_map *m, uint64_t offset, uint64_t n_bytes)
{
    return offset <= m->n_bytes && n_bytes <= m->n_bytes - offset;
}

/* For checkpoint_expect and checkpoint_let_go; false when the range does not lie in an owned map. */
bool map__expect(const struct file_map *m, const void *data, size_t n_bytes);
bool map__let_go(const struct file_map *m, const void *data, size_t n_bytes);

/* Copies n bytes to dst (dst_bytes with the NUL), printable ASCII only: names from files go into
 * messages and logs. Longer names end in "...". */
void map__printable(const char *s, size_t n_bytes, char *dst, size_t dst_bytes);

#endif
