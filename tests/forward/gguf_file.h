/* tests/forward/gguf_file.h - writes small GGUF v3 files for tests; shares no code with the readers.
 * Anything that fails fails the test. */
#ifndef LATENT_TESTS_FORWARD_GGUF_FILE_H
#define LATENT_TESTS_FORWARD_GGUF_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/model/checkpoint.h"

struct gguf_file;

struct gguf_file *gguf_file_new(const char *architecture);
/* Keys; the architecture and a dot are put before the name. */
void gguf_file_u32(struct gguf_file *g, const char *key, int64_t value);
void gguf_file_bool(struct gguf_file *g, const char *key, int value);
void gguf_file_f32(struct gguf_file *g, const char *key, float value);
/* The same without architecture and dot. */
void gguf_file_plain_u32(struct gguf_file *g, const char *key, int64_t value);
void gguf_file_plain_string(struct gguf_file *g, const char *key, const char *value);
/* A tensor with its own bytes, under another name; n_dims and ne as in t. */
void gguf_file_tensor(struct gguf_file *g, const char *name, const struct tensor *t);
/* Several of one shape stacked along a new last dimension. */
void gguf_file_stack(struct gguf_file *g, const char *name, const struct tensor *const *t, int n);
/* Writes the file and frees g. */
void gguf_file_write(struct gguf_file *g, const char *path);
/* A whole model without tokenizer. split: k_b and v_b apart, as made from a bfloat16 kv_b. */
void gguf_file_model(const struct checkpoint *ck, const char *arch, bool split, const char *path);

#endif
