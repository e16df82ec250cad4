/* engine/model/arch.h - what a model family is to the readers, and the helpers it is written with.
 *
 * A family is one file with one const struct arch, and one row in arch.def. It reads sizes from the
 * keys of either format into a model_config, and binds tensors by role. Range checks are in the
 * reads (keys.h); bind__tensor checks presence, shape and type (bind.c). */
#ifndef LATENT_ENGINE_MODEL_ARCH_H
#define LATENT_ENGINE_MODEL_ARCH_H

#include <stdbool.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"
#include "engine/model/checkpoint.h"
#include "engine/model/keys.h"
#include "engine/model/tix.h"

/* Sizes beyond every published model, and small enough that no product of them overflows int64_t,
 * nor heads * head sizes an int. */
enum {
    MAX_LAYERS = 1024,
    MAX_HEADS = 1024,
    MAX_HEAD_DIM = 16384,
    MAX_DIM = 1 << 20,
    MAX_VOCAB = 4 << 20,
    MAX_EXPERTS = 8192,
    MAX_CONTEXT = 1 << 30,
};

#define BIND_MAX_TYPES 64

enum ckpt_format { FORMAT_GGUF, FORMAT_HF };

/* Tensors with which something is wrong, by what it is. */
enum bind_problem { BIND_MISSING, BIND_SHAPE, BIND_TYPE, BIND_EXTRA, N_BIND_PROBLEMS };
#define BIND_SHOWN 3

struct bind_problems {
    int n;
    const char *first;             /* name of the first one */
    char shown[BIND_SHOWN][300];   /* the first ones, each with what was found and wanted */
};

struct binder {
    struct checkpoint *ck;
    const struct tix *tix;
    struct arena *arena;
    enum ckpt_format format;
    const char *label; /* file or folder, for messages */
    bool counting;     /* bound tensors add to ck->n_params */
    int r;             /* sticky, as in keys.h */
    struct err *e;
    struct bind_problems problems[N_BIND_PROBLEMS];
    int64_t params[BIND_MAX_TYPES]; /* counted, by tensor_type_at */
};

struct gguf_writer;

/* The GGUF form of one or more families. */
struct arch_out {
    const char *gguf_name;
    bool split_kv_b; /* its files have attn_k_b and attn_v_b, not attn_kv_b */
    bool rope_pairs; /* its files have rotary pairs adjacent, whatever the folder has */
    /* Writes the keys that config_gguf reads. ERR_UNSUPPORTED names what a configuration has and the keys
     * cannot say. NULL: one key has the text of config.json, and tensors are as in the folder. */
    int (*keys)(const struct model_config *c, struct gguf_writer *w, struct err *e);
};

struct arch {
    const char *name;          /* model_config.architecture */
    const char *gguf_name;     /* general.architecture; NULL: none */
    const char *hf_model_type; /* model_type of config.json; NULL: none */
    /* Fill what the family knows of *c (zeroed); errors through k. tix tells what the file has. Without
     * config_gguf, a GGUF file has the text of a config.json in its key GGUF_NAME.config; its model_type may
     * be that of any row with layers_hf, whose tensors then have the names that they have in a folder. */
    void (*config_gguf)(struct keys *k, const struct tix *tix, struct model_config *c);
    void (*config_hf)(struct keys *k, const struct tix *tix, struct model_config *c);
    /* Makes c->layers with what the keys say of each; NULL: bind makes them. */
    void (*layers_hf)(struct keys *k, struct arena *arena, struct checkpoint *c);
    /* Fills the tensors of b->ck; errors through b. */
    void (*bind)(struct binder *b);
    const struct arch_out *out; /* how it is written as GGUF; NULL: not at all */
};

/* What a config.json says of the model and of each layer; errors through k. */
void arch__config_json(const struct arch *a, struct keys *k, struct arena *arena, const struct tix *tix,
                       struct checkpoint *c);
/* Most values of a config.json. */
#define ARCH_MAX_CONFIG_ITEMS ((size_t)200000)

const struct arch *arch__by_gguf_name(const char *name); /* NULL: none */
const struct arch *arch__by_hf_model_type(const char *type);
const struct arch *arch__by_name(const char *name); /* of model_config.architecture */
/* "deepseek2, ..." of the format, for messages. */
void arch__list(enum ckpt_format format, char *dst, size_t dst_bytes);

/* True when the file has the tensor. */
bool bind__has(const struct binder *b, const char *name);
/* Binds a tensor that must be there, with this shape (ne order; 1 for dimensions it lacks). When it is not,
 * dst gets the shape and no values, and binding goes on, so that one error can name all of them. */
void bind__tensor(struct binder *b, struct tensor *dst, int n_dims, const int64_t ne[3],
                  const char *name);
/* The same; dst stays as it is when the file lacks the tensor. */
void bind__optional(struct binder *b, struct tensor *dst, int n_dims, const int64_t ne[3],
                    const char *name);
/* After the family's bind: tensors that nothing has taken are problems too, unless they are known to mean
 * nothing for the result. Turns all problems into one error; fills ck->weight_types when there is none. */
void bind__finish(struct binder *b);
/* Memory that lives as long as the checkpoint; NULL sets the error. */
void *bind__alloc(struct binder *b, size_t n, size_t elem_bytes);

#endif
