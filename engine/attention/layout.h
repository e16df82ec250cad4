/* engine/attention/layout.h - checkpoints of the attention family as others publish them: what a layout says
 * of itself, and the reader that all share with our own (docs/family-format.md).
 *
 * A layout is one file in engine/attention/layout/ with one const struct family_layout and one const struct
 * arch. It says where its config.json has each key of the family (struct keys_name), what its files call the
 * tensors, and binds its feed-forward blocks where they are not dense. */
#ifndef LATENT_ENGINE_ATTENTION_LAYOUT_H
#define LATENT_ENGINE_ATTENTION_LAYOUT_H

#include "engine/attention/family.h"

#define LAYOUT_MAX_NAMES 32
#define LAYOUT_MAX_PATHS 8

/* Names being made: of the whole model, or of a layer. */
struct layout_names {
    struct keys *k; /* without names: keys are those of config.json */
    int layer;      /* -1: of the model */
    int n;
    struct keys_name v[LAYOUT_MAX_NAMES + 1];
    int n_paths;
    char paths[LAYOUT_MAX_PATHS][64];
};
void layout_path(struct layout_names *n, const char *key, const char *path);
/* A path that is made; kept with the names. */
void layout_pathf(struct layout_names *n, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* PREFIX + key, or a number where that is not there. */
void layout_or(struct layout_names *n, const char *key, const char *prefix, double absent);
void layout_number(struct layout_names *n, const char *key, double number);
void layout_word(struct layout_names *n, const char *key, const char *word);

struct family_layout {
    const struct family_files *files; /* of layers, unless `layer` says otherwise */
    /* What config.json has elsewhere or not at all; keys that are not named are where our own format has
     * them. Also refuses what is not served. Errors through n->k. */
    void (*names)(struct layout_names *n);
    void (*config)(struct keys *k, struct model_config *c); /* what else it says of the model, or NULL */
    /* What else it says of a layer whose keys are read, or NULL. */
    void (*layer)(struct keys *k, struct arena *arena, const struct model_config *c, struct family_layer *l);
    /* Refuses what all layers together do not explain, or NULL. */
    void (*refuse)(struct keys *k, const struct family_layer *layers, int n);
    void (*check)(struct binder *b); /* before tensors are bound, or NULL */
    void (*ends)(struct binder *b);  /* NULL: those of transformers */
    void (*ffn)(struct binder *b, int i, struct layer_tensors *l);   /* NULL: dense */
};

/* Parts of an arch: keys of the model, of its layers, tensors. */
void layout__config(const struct family_layout *of, struct keys *k, struct model_config *c);
void layout__layers(const struct family_layout *of, struct keys *k, struct arena *arena,
                    struct checkpoint *c);
void layout__bind(const struct family_layout *of, struct binder *b);

/* Refuses activations, biases and quantisations that no layer of the family has. */
void layout__refuse_variants(struct keys *k);
/* rope_scaling (or rope_parameters) with type default, llama3 or yarn; NULL: none. */
const struct rope_scaling *layout__scaling(struct keys *k, struct arena *arena, const struct model_config *c);
/* rope_theta, also from rope_parameters. */
float layout__theta(struct keys *k, double absent);
/* head_dim, or hidden_size over the heads. */
int layout__head_dim(struct keys *k, const char *key);

/* "model.layers.N.NAME": a matrix or (n_out 1) a vector; a 3-d tensor. */
void layout__need(struct binder *b, struct tensor *dst, int layer, const char *name, int64_t n_in,
                  int64_t n_out);
void layout__need_cube(struct binder *b, struct tensor *dst, int layer, const char *name, int64_t n0,
                       int64_t n1, int64_t n2);
bool layout__has(const struct binder *b, int layer, const char *name);
/* PREFIX{gate,up,down}_proj.weight. */
void layout__need_block(struct binder *b, struct ffn_tensors *f, int layer, const char *prefix,
                        int64_t width);

/* How each is written as GGUF (family_arch.c). */
extern const struct arch_out family_gguf_out;

/* The const struct arch of a layout. */
#define LAYOUT_ARCH(symbol, type, layout)                                                              \
    static void symbol##_config(struct keys *k, const struct tix *tix, struct model_config *c)         \
    {                                                                                                  \
        (void)tix;                                                                                     \
        layout__config(&layout, k, c);                                                                 \
    }                                                                                                  \
    static void symbol##_layers(struct keys *k, struct arena *arena, struct checkpoint *c)             \
    {                                                                                                  \
        layout__layers(&layout, k, arena, c);                                                          \
    }                                                                                                  \
    static void symbol##_bind(struct binder *b)                                                        \
    {                                                                                                  \
        layout__bind(&layout, b);                                                                      \
    }                                                                                                  \
    extern const struct arch symbol; /* declared by arch.c through arch.def */                         \
    const struct arch symbol = {.name = type,                                                          \
                                .hf_model_type = type,                                                 \
                                .config_hf = symbol##_config,                                          \
                                .layers_hf = symbol##_layers,                                          \
                                .bind = symbol##_bind,                                                 \
                                .out = &family_gguf_out}

#endif
