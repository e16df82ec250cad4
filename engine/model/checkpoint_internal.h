/* engine/model/checkpoint_internal.h - what stands behind a checkpoint, and the two readers. */
#ifndef LATENT_ENGINE_MODEL_CHECKPOINT_INTERNAL_H
#define LATENT_ENGINE_MODEL_CHECKPOINT_INTERNAL_H

#include "base/arena.h"
#include "engine/model/arch.h"
#include "engine/model/checkpoint.h"
#include "engine/model/map.h"
#include "engine/model/tix.h"

/* The largest published checkpoint comes in 163 shards. */
#define CHECKPOINT_MAX_FILES 4096

struct checkpoint_priv {
    struct arena *arena;
    struct tix tix;
    struct file_map **maps; /* each allocated by itself: entries of tix point at it */
    int n_maps;
    /* config.json of a folder whose family reads layer by layer (arch.h: layers_hf); NULL otherwise */
    const char *config_text;
};

/* Maps one more file of the checkpoint; it stays until checkpoint_close. */
int checkpoint__map(struct checkpoint *c, const char *path, struct file_map **ret,
                    struct err *e) LATENT_MUST_CHECK;
/* A path in the arena. NULL: out of memory. */
char *checkpoint__path(struct checkpoint *c, const char *folder, const char *name);
/* Runs the family's bind over the sealed index. */
int checkpoint__bind(struct checkpoint *c, const struct arch *a, enum ckpt_format format,
                     const char *label, struct err *e) LATENT_MUST_CHECK;

/* Fill an empty checkpoint; on failure the caller closes it. */
int gguf__open(struct checkpoint *c, const char *path, struct err *e) LATENT_MUST_CHECK;
int hf__open(struct checkpoint *c, const char *path, struct err *e) LATENT_MUST_CHECK;

#endif
