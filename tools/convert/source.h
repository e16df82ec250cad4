/* tools/convert/source.h - what a model on disk has to give to a GGUF file: tensors under GGUF's names, in
 * the order in which they are written, and keys.
 *
 * A GGUF file gives its own tensors and keys unchanged. A folder gives the tensors that its family binds,
 * by role: experts of a layer stacked in one, the up-projection of the latent split per head (attn_k_b,
 * transposed, and attn_v_b) where the architecture's files have it so, rotary halves as pairs. Values are
 * read a few rows at a time; nothing is kept. Immutable once open; rows may be read by any thread. */
#ifndef LATENT_TOOLS_CONVERT_SOURCE_H
#define LATENT_TOOLS_CONVERT_SOURCE_H

#include "base/arena.h"
#include "engine/model/checkpoint_internal.h"
#include "engine/model/gguf.h"
#include "engine/model/gguf_write.h"

/* How a row of the output lies in the parts. */
enum source_form {
    SOURCE_ROWS,    /* parts one after the other */
    SOURCE_K_B,     /* head's rows of kv_b, transposed */
    SOURCE_V_B,     /* the rows behind them */
    SOURCE_ROPE_Q,  /* last rows of each head, halves to pairs */
    SOURCE_ROPE_KV, /* last rows of all, halves to pairs */
};

struct source_tensor {
    const char *name;
    int n_dims;
    int64_t ne[TENSOR_MAX_DIMS];
    int64_t n_rows; /* product of all but ne[0] */
    enum source_form form;
    int n_parts;
    const struct tensor *parts; /* equal shapes and types */
    const char *type_name;
    bool readable;              /* false: an element type that this build does not know */
};

struct source {
    struct checkpoint *ck;
    struct arena *arena;
    bool is_gguf;
    const char *gguf_arch;
    struct gguf gguf; /* of the first part; is_gguf only */
    struct source_tensor *tensors;
    int n_tensors;
    uint64_t n_bytes; /* of all tensors as they are on disk */
};

int source_open(const char *path, struct source *ret, struct err *e) LATENT_MUST_CHECK;
void source_close(struct source *s); /* a zeroed one is fine */

/* Rows that source_rows should be asked for at once: of attn_k_b a whole head, else any number. */
int64_t source_unit(const struct source_tensor *t);
/* Rows [first, first + n) as float32. For attn_k_b first is a multiple of source_unit. tmp has
 * source_tmp floats. */
void source_rows(const struct source *s, const struct source_tensor *t, int64_t first, int64_t n,
                 float *dst, float *tmp);
int64_t source_tmp(const struct source *s);
/* True when rows of the output are rows of the file in this type: they can be copied. */
bool source_copies(const struct source_tensor *t, enum tensor_type type);
/* Bytes of row r where source_copies. */
const void *source_row_bytes(const struct source *s, const struct source_tensor *t, int64_t r);

/* All keys but the ones about the file itself: types, checksums, parts. */
int source_keys(const struct source *s, struct gguf_writer *w, struct err *e) LATENT_MUST_CHECK;
/* tools/convert/tokenizer_keys.c: tokenizer.* of a folder. */
int source__tokenizer_keys(const struct source *s, struct gguf_writer *w, struct err *e)
    LATENT_MUST_CHECK;

#endif
