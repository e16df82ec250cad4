/* engine/model/gguf.h - the header of one GGUF file, parsed over its map.
 *
 * Everything that the header says is checked against the file before it is used: counts against the
 * bytes that are left, strings and arrays against the end, dimensions and their products, type ids,
 * alignment, and the place of every tensor. Values stay in the map; getters read them by key. */
#ifndef LATENT_ENGINE_MODEL_GGUF_H
#define LATENT_ENGINE_MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"
#include "engine/model/checkpoint.h"
#include "engine/model/map.h"
#include "engine/model/tix.h"

/* Value types, numbers of the GGUF specification. */
enum gguf_type {
    GGUF_U8 = 0,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STR,
    GGUF_ARR,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_MAX,
};

/* Files in use have 30 to 80 keys. */
#define GGUF_MAX_KEYS 65536
#define GGUF_MAX_KEY_BYTES 1024
#define GGUF_DEFAULT_ALIGNMENT 32
#define GGUF_MAX_ALIGNMENT (1 << 20)

struct gguf_kv {
    const char *key; /* NUL-terminated, in the arena */
    uint32_t type;
    uint32_t elem_type;        /* of an array */
    uint64_t n;                /* elements of an array, bytes of a string */
    const unsigned char *data; /* scalar, bytes of a string, first element of an array */
};

struct gguf {
    const struct file_map *map;
    uint32_t version;
    struct gguf_kv *kv; /* sorted by key; in the arena */
    size_t n_kv;
    uint64_t n_tensors;
};

/* Parses the header, appends its tensors to x (tix__seal is the caller's, after the last file).
 * The map must stay. */
int gguf__parse(const struct file_map *map, struct arena *arena, struct tix *x, struct gguf *ret,
                struct err *e) LATENT_MUST_CHECK;

const struct gguf_kv *gguf__find(const struct gguf *g, const char *key); /* NULL when absent */
const char *gguf__type_name(uint32_t type);
/* Bytes of the value: of an array all elements, of a string its text. */
size_t gguf__value_bytes(const struct gguf_kv *kv);
/* Numbers of any integer type (BOOL counts as 0 or 1) or any float type; false: another type. */
bool gguf__as_int(const struct gguf_kv *kv, int64_t *ret); /* false also beyond int64_t */
bool gguf__as_float(const struct gguf_kv *kv, double *ret);
bool gguf__is_int_type(uint32_t type);

/* The tokenizer keys and the chat template. Arrays are copied into the arena when their elements are
 * wider than a byte (they lie unaligned in the file), strings are views. vocab_size bounds token
 * ids. A file without a tokenizer leaves ret->model NULL. */
int gguf__tokenizer(const struct gguf *g, int vocab_size, struct arena *arena,
                    struct tokenizer_source *ret, const char **ret_chat_template,
                    struct err *e) LATENT_MUST_CHECK;
/* The second chat template, named tool_use; NULL when there is none. */
int gguf__tool_template(const struct gguf *g, struct arena *arena, const char **ret,
                        struct err *e) LATENT_MUST_CHECK;

#endif
