/* engine/model/gguf_write.h - the header of a GGUF v3 file, built key by key and tensor by tensor.
 *
 * Keys are written in the order of the calls, tensors too; each tensor's data begins at the next multiple
 * of the alignment after the one before it. Data itself is the caller's: gguf_write_header gives the
 * bytes up to the first tensor, gguf_write_tensor each one's place. The error is sticky, so that a list
 * of calls needs one check at its end. Not thread safe. */
#ifndef LATENT_ENGINE_MODEL_GGUF_WRITE_H
#define LATENT_ENGINE_MODEL_GGUF_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "engine/model/checkpoint.h"
#include "engine/model/gguf.h"

struct gguf_writer {
    struct buf kv, infos;
    uint64_t n_kv, n_tensors;
    uint64_t data_bytes; /* of all tensors so far, padded */
    uint32_t alignment;
    const char *prefix;  /* put before keys that begin with a dot: "deepseek2" */
    int r;               /* 0 or the first error: ERR_NOMEM, ERR_LIMIT, ERR_INVAL */
};

void gguf_write_init(struct gguf_writer *w, const char *prefix);
void gguf_write_done(struct gguf_writer *w);

void gguf_write_u16(struct gguf_writer *w, const char *key, uint16_t v);
void gguf_write_u32(struct gguf_writer *w, const char *key, int64_t v); /* ERR_INVAL beyond uint32 */
void gguf_write_i32(struct gguf_writer *w, const char *key, int32_t v);
void gguf_write_u64(struct gguf_writer *w, const char *key, uint64_t v);
void gguf_write_f32(struct gguf_writer *w, const char *key, float v);
void gguf_write_bool(struct gguf_writer *w, const char *key, bool v);
void gguf_write_string(struct gguf_writer *w, const char *key, const char *s);
/* Elements of a fixed size, as they lie in memory. Returns where they begin in the header's keys, so
 * that a value that is known only later can be put there: see gguf_write_key_offset. */
size_t gguf_write_array(struct gguf_writer *w, const char *key, enum gguf_type type, const void *v,
                        size_t n, size_t elem_bytes);
void gguf_write_strings(struct gguf_writer *w, const char *key, const struct str_view *v, size_t n);
/* A key of another file with its value, unchanged. */
void gguf_write_copy(struct gguf_writer *w, const struct gguf_kv *kv);

/* Adds a tensor; returns its offset from the first byte of data. */
uint64_t gguf_write_tensor(struct gguf_writer *w, const char *name, int n_dims, const int64_t *ne,
                           enum tensor_type type);

/* The whole header, padded, appended to *ret. Everything must have been added. */
int gguf_write_header(const struct gguf_writer *w, struct buf *ret, struct err *e) LATENT_MUST_CHECK;
/* Place in the file of what gguf_write_array said. */
uint64_t gguf_write_key_offset(size_t at);
/* Bytes up to the next multiple of the alignment. */
uint64_t gguf_write_padded(const struct gguf_writer *w, uint64_t n_bytes);

#endif
