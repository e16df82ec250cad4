/* engine/model/internal.h - what the readers and the architectures share. */
#ifndef LATENT_ENGINE_MODEL_INTERNAL_H
#define LATENT_ENGINE_MODEL_INTERNAL_H

#include <cjson/cJSON.h>

#include "base/arena.h"
#include "engine/model/checkpoint.h"

#define MAX_FILES 1024           /* parts of a split file, shards of a folder */
#define MAX_TENSORS (1u << 20)
#define MAX_JSON_BYTES ((size_t)64 << 20)

/* A whole file, mapped read-only. */
struct map {
    char *path;
    const unsigned char *data;
    size_t n_bytes;
};

int map_open(const char *path, struct map *ret, struct err *e) LATENT_MUST_CHECK;
void map_close(struct map *m);

/* Tensors of all files by name. */
struct tensor_set {
    struct tensor *v;
    uint32_t n, cap;
    uint32_t *table; /* open addressing into v, made by tensor_set_index */
    uint32_t n_table;
};

struct gguf_value;

struct gguf_meta {
    struct gguf_value *v;
    uint32_t n;
};

struct checkpoint_priv {
    struct arena *arena; /* strings and arrays of the checkpoint */
    struct map maps[MAX_FILES];
    int n_maps;
    struct tensor_set tensors;
    struct gguf_meta meta;       /* GGUF */
    cJSON *config, *tok_config, *gen_config; /* folder */
};

/* tensors.c */
int tensor_set_add(struct tensor_set *s, const struct tensor *t, struct err *e) LATENT_MUST_CHECK;
/* Builds the lookup and refuses names that occur twice. */
int tensor_set_index(struct tensor_set *s, struct err *e) LATENT_MUST_CHECK;
const struct tensor *tensor_set_find(const struct tensor_set *s, const char *name);
void tensor_set_done(struct tensor_set *s);
/* Fills type, dims and data of a tensor after checking that it lies inside the file. */
int tensor_place(struct tensor *t, const struct map *m, uint64_t offset, struct err *e)
    LATENT_MUST_CHECK;

/* Takes the tensor of that name with that shape (n1 == 0: one dimension; n2 == 0: two). optional: a
 * missing one leaves ret->data NULL. */
int bind_tensor(const struct checkpoint *c, const char *name, int64_t n0, int64_t n1, int64_t n2,
                bool optional, struct tensor *ret, struct err *e) LATENT_MUST_CHECK;

/* gguf.c: opens the file(s), reads metadata and tensors. */
int gguf_open(const char *path, struct checkpoint *c, struct err *e) LATENT_MUST_CHECK;
void gguf_close(struct checkpoint_priv *p);
bool gguf_has(const struct checkpoint *c, const char *key);
/* Required when `def` is NULL, else the default. Range-checked; the error names key and range. */
int gguf_int(const struct checkpoint *c, const char *key, int64_t min, int64_t max,
             const int64_t *def, int64_t *ret, struct err *e) LATENT_MUST_CHECK;
int gguf_float(const struct checkpoint *c, const char *key, const float *def, float *ret,
               struct err *e) LATENT_MUST_CHECK;
int gguf_bool(const struct checkpoint *c, const char *key, bool def, bool *ret, struct err *e)
    LATENT_MUST_CHECK;
const char *gguf_string(const struct checkpoint *c, const char *key); /* NULL when absent */
int gguf_tokenizer(struct checkpoint *c, struct err *e) LATENT_MUST_CHECK;

/* safetensors.c: adds the tensors of one mapped file. */
int safetensors_read(struct checkpoint_priv *p, const struct map *m, struct err *e)
    LATENT_MUST_CHECK;

/* hf.c */
int hf_open(const char *path, struct checkpoint *c, struct err *e) LATENT_MUST_CHECK;
int hf_int(const cJSON *o, const char *key, int64_t min, int64_t max, const int64_t *def,
           int64_t *ret, struct err *e) LATENT_MUST_CHECK;
int hf_float(const cJSON *o, const char *key, const float *def, float *ret, struct err *e)
    LATENT_MUST_CHECK;
int hf_bool(const cJSON *o, const char *key, bool def, bool *ret, struct err *e) LATENT_MUST_CHECK;
const char *hf_string(const cJSON *o, const char *key);

/* An architecture: how its configuration is read and its tensors are bound, in both formats. */
struct model_arch {
    const char *name;            /* model_config.architecture */
    const char *gguf_name;       /* general.architecture, or NULL */
    const char *hf_model_type;   /* config.json model_type, or NULL */
    int (*read_gguf)(struct checkpoint *c, struct err *e);
    int (*read_hf)(struct checkpoint *c, struct err *e);
    int (*bind_gguf)(struct checkpoint *c, struct err *e);
    int (*bind_hf)(struct checkpoint *c, struct err *e);
};

#define ARCH(x) extern const struct model_arch x;
#include "engine/model/arch.def"
#undef ARCH

/* checkpoint.c */
const struct model_arch *arch_find_gguf(const char *name);
const struct model_arch *arch_find_hf(const char *model_type);
/* Ranges that hold for every architecture, and relations between sizes. */
int config_check(const struct model_config *c, struct err *e) LATENT_MUST_CHECK;
char *ckpt_printf(struct checkpoint *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
