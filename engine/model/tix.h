/* engine/model/tix.h - the tensors of all files of a checkpoint, found by name.
 *
 * A reader adds what a file's header lists (ranges already checked against the map), then the index
 * is sealed: sorted by name, duplicates and overlapping data refused. A tensor whose element type
 * this build does not know is kept: it is an error only when the model needs it. */
#ifndef LATENT_ENGINE_MODEL_TIX_H
#define LATENT_ENGINE_MODEL_TIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"
#include "engine/model/map.h"
#include "engine/model/tensor.h"

/* Tensors of one checkpoint: the largest published one has about 90,000. */
#define TIX_MAX_TENSORS 1000000
/* GGUF says 64; folders have longer ones. */
#define TIX_MAX_NAME_BYTES 255

struct tix_entry {
    struct tensor t;           /* data == NULL: type not served, see type_name */
    const char *type_name;     /* the file's own word for the type */
    const struct file_map *map;
    uint64_t offset; /* in the map, also when data is NULL */
    bool claimed;    /* some role of the model is this tensor */
    bool is_scale;   /* ... as the scales of another, which has them in its t */
};

struct tix {
    struct tix_entry *v; /* owned */
    size_t n, cap;
    struct arena *arena; /* borrowed: names */
};

void tix__init(struct tix *x, struct arena *arena);
void tix__done(struct tix *x);
/* Room for n more; the caller has checked n against the file's length. */
int tix__reserve(struct tix *x, size_t n, const struct file_map *m, struct err *e) LATENT_MUST_CHECK;
/* Appends an entry with a copy of the name; the caller fills the rest. Names with control bytes or
 * of a length out of range are ERR_FORMAT. */
int tix__add(struct tix *x, const char *name, size_t n_bytes, const struct file_map *m,
             struct tix_entry **ret, struct err *e) LATENT_MUST_CHECK;
/* Fills e->t.data and n_bytes from offset, type and ne, all checked against the map. */
int tix__place(struct tix_entry *entry, uint32_t type, uint64_t offset,
               struct err *e) LATENT_MUST_CHECK;
int tix__seal(struct tix *x, struct err *e) LATENT_MUST_CHECK;
const struct tix_entry *tix__find(const struct tix *x, const char *name); /* NULL when absent */
/* Forgets the tensors whose names do not begin with prefix, and the prefix of the others; after sealing. */
void tix__keep_part(struct tix *x, const char *prefix);
/* Forgets those whose names begin with prefix. */
void tix__drop_part(struct tix *x, const char *prefix);
void tix__claim(const struct tix *x, const struct tix_entry *entry);
/* The entry's values are multiplied by what `scale` holds; with: the tensor with these scales. */
void tix__scaled(const struct tix *x, const struct tix_entry *entry, const struct tix_entry *scale,
                 const struct tensor *with);

#endif
