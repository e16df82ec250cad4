/* tools/convert/emit.h - a plan carried out: GGUF files written, whole or not at all.
 *
 * Each part is written under a temporary name beside its final one, a few rows of one tensor at a time
 * (EMIT_BATCH_BYTES of output in memory), then synchronised; when all parts are there they get their names.
 * On an error, SIGINT, SIGTERM or SIGHUP the temporary files are removed. */
#ifndef LATENT_TOOLS_CONVERT_EMIT_H
#define LATENT_TOOLS_CONVERT_EMIT_H

#include "tools/convert/plan.h"

#define EMIT_BATCH_BYTES ((size_t)8 << 20)
/* Keys of the checksums: XXH3-64 of each tensor's bytes in the file's order, and of what the list of
 * tensors says, so that a file that another program has rewritten is not called damaged. */
#define EMIT_KEY_SUMS "latentd.tensor_xxh3"
#define EMIT_KEY_LAYOUT "latentd.layout_xxh3"

struct emit_options {
    const char *path;
    int n_threads;
    bool force; /* replace files that are there */
    bool quiet; /* no progress */
};

/* ERR_INVAL when a file is there already or there is too little room on the disk. */
int emit_check(const struct plan *p, const struct emit_options *o, struct err *e) LATENT_MUST_CHECK;
/* ERR_CANCELED after a signal. */
int emit_run(const struct plan *p, const struct emit_options *o, struct err *e) LATENT_MUST_CHECK;
/* Part i of the plan's n: path itself, or NAME-00001-of-0000N.gguf. */
void emit_part_path(const char *path, int i, int n, char *dst, size_t dst_bytes);
/* Free bytes where the path lies, for people; false: unknown. */
bool emit_free_bytes(const char *path, uint64_t *ret);
/* Adds one tensor to the hash behind EMIT_KEY_LAYOUT. */
struct hash64_stream;
void emit_layout_add(struct hash64_stream *h, const char *name, uint32_t type, const int64_t ne[4]);

#endif
