/* engine/attention/family_arch.c - "latent_family" folders (docs/family-format.md): a plain decoder
 * whose layers each name a mechanism of the attention family.
 *
 * Keys and tensors of a mechanism are its own (attention/family.h); here are the ones that all share, and how
 * layers come to see each other's rows. */
#include "config.h"

#include "engine/attention/family.h"
#include "engine/model/deepseek.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void config_hf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    (void)tix;
    deepseek__refuse_variants(k);
    c->vocab_size = (int)keys__int(k, "vocab_size", 1, MAX_VOCAB);
    c->hidden_size = (int)keys__int(k, "hidden_size", 1, MAX_DIM);
    c->num_hidden_layers = (int)keys__int(k, "num_hidden_layers", 1, MAX_LAYERS);
    c->first_k_dense_replace = c->num_hidden_layers;
    c->intermediate_size = (int)keys__int(k, "intermediate_size", 1, MAX_DIM);
    c->rms_norm_eps = keys__float_or(k, "rms_norm_eps", 0, 1, 1e-6);
    c->rope_theta = keys__float_or(k, "rope_theta", 1, 1e12, 10000);
    c->rope_interleave = keys__bool_or(k, "rope_interleave", false);
    c->max_position_embeddings = (int)keys__int(k, "max_position_embeddings", 1, MAX_CONTEXT);
    c->tie_word_embeddings = keys__bool_or(k, "tie_word_embeddings", false);
    if (keys__has(k, "rope_scaling"))
        keys__fail(k, ERR_UNSUPPORTED, "rope_scaling", "must be null");
}

/* Index of a word in "a|b|c", or -1. */
static int word_index(const char *words, const char *word)
{
    size_t n = strlen(word);
    for (int i = 0; *words; i++) {
        size_t m = strcspn(words, "|");
        if (m == n && !strncmp(words, word, n))
            return i;
        words += m + (words[m] == '|');
    }
    return -1;
}

static void read_word(struct keys *k, const struct family_key *key, struct keys_layer at, float *ret)
{
    char word[32];
    *ret = (float)key->absent;
    if (!keys__layer_has(k, key->name, at) || k->r < 0)
        return;
    keys__layer_string(k, key->name, at, word, sizeof(word), NULL);
    int i = k->r < 0 ? 0 : word_index(key->words, word);
    if (i < 0)
        keys__fail(k, ERR_UNSUPPORTED, key->name, "is %s; %s is accepted (layer %d)", word, key->words, at.i);
    *ret = (float)i;
}

static void read_list(struct keys *k, const struct family_key *key, struct keys_layer at, struct arena *arena,
                      struct family_layer *l)
{
    int32_t *list = keys__has(k, key->name) ? malloc(FAMILY_MAX_LIST * sizeof(*list)) : NULL;
    int n = list ? keys__layer_list(k, key->name, at, key->lo, key->hi, FAMILY_MAX_LIST, list) : 0;
    if (n > 0 && !(l->list = arena_memdup(arena, list, (size_t)n * sizeof(*list))))
        keys__fail(k, ERR_NOMEM, key->name, "needs memory that is not there");
    l->n_list = l->list ? n : 0;
    free(list);
}

static void read_keys(struct keys *k, struct keys_layer at, struct arena *arena, struct family_layer *l)
{
    for (int i = 0; l->mechanism->keys[i].kind && k->r == 0; i++) {
        const struct family_key *key = &l->mechanism->keys[i];
        if (key->kind == FAMILY_WORD)
            read_word(k, key, at, &l->f[i]);
        else if (key->kind == FAMILY_LIST)
            read_list(k, key, at, arena, l);
        else
            l->f[i] = (float)keys__layer_number(k, key->name, at, key->kind == FAMILY_INT, key->lo, key->hi,
                                                key->absent);
        l->n[i] = (int)l->f[i];
    }
}

/* Which layer's rows each sees: kv_layer, or the first of each kv_share_factor. */
static void read_sharing(struct keys *k, struct checkpoint *c, int n)
{
    int factor = (int)keys__int_or(k, "kv_share_factor", 1, MAX_LAYERS, 1);
    for (int i = 0; i < n && k->r == 0; i++) {
        struct family_layer *l = c->layers[i].family;
        l->kv_layer = i / factor * factor;
        if (keys__has(k, "kv_layer"))
            l->kv_layer =
                (int)keys__layer_number(k, "kv_layer", (struct keys_layer){i, n}, true, 0, i, FAMILY_NEEDED);
        if (k->r < 0 || family_writes(l))
            continue;
        const struct family_layer *from = c->layers[l->kv_layer].family;
        const char *key = keys__has(k, "kv_layer") ? "kv_layer" : "kv_share_factor";
        if (!family_writes(from))
            keys__fail(k, ERR_FORMAT, key, "sends layer %d to layer %d, which has no rows of its own", i,
                       l->kv_layer);
        else if (!l->mechanism->shares)
            keys__fail(k, ERR_UNSUPPORTED, key, "cannot share rows of %s attention (layer %d)",
                       l->mechanism->name, i);
        else if (from->mechanism != l->mechanism || memcmp(from->f, l->f, sizeof(l->f)))
            keys__fail(k, ERR_FORMAT, key, "makes layers %d and %d share rows, but their mechanisms or sizes "
                       "differ", l->kv_layer, i);
        c->layers[i].rows_from = 1 + l->kv_layer;
    }
}

static bool has_key(const struct family_mechanism *m, const char *name)
{
    for (int i = 0; m->keys[i].kind; i++)
        if (!strcmp(m->keys[i].name, name))
            return true;
    return false;
}

/* A key that only mechanisms have which no layer has would be left out in silence. */
static void refuse_strangers(struct keys *k, const struct family_layer *layers, int n)
{
    static const char *const known[] = {"attention_mechanism", "attention_bias", "attention_dropout", NULL};
    keys__refuse_others(k, "attention_", known);
    for (int m = 0; family_at_row(m) && k->r == 0; m++) {
        for (int i = 0; family_at_row(m)->keys[i].kind && k->r == 0; i++) {
            const char *name = family_at_row(m)->keys[i].name;
            /* these two stand in configurations of every kind */
            bool used = !keys__has(k, name) || !strcmp(name, "head_dim") ||
                        !strcmp(name, "num_key_value_heads");
            for (int l = 0; l < n && !used; l++)
                used = has_key(layers[l].mechanism, name);
            if (!used)
                keys__fail(k, ERR_FORMAT, name, "is a key of %s attention, which no layer has",
                           family_at_row(m)->name);
        }
    }
}

static void layers_hf(struct keys *k, struct arena *arena, struct checkpoint *c)
{
    const struct model_config *mc = &c->config;
    int n = mc->num_hidden_layers;
    char name[64], names[256];
    c->layers = arena_alloc(arena, (size_t)n * sizeof(*c->layers));
    struct family_layer *layers = arena_alloc(arena, (size_t)n * sizeof(*layers));
    if (!c->layers || !layers) {
        keys__fail(k, ERR_NOMEM, "num_hidden_layers", "needs memory that is not there");
        return;
    }
    memset(c->layers, 0, (size_t)n * sizeof(*c->layers));
    memset(layers, 0, (size_t)n * sizeof(*layers));
    for (int i = 0; i < n && k->r == 0; i++) {
        struct family_layer *l = &layers[i];
        struct keys_layer at = {i, n};
        *l = (struct family_layer){.index = i,
                                   .kv_layer = i,
                                   .hidden = mc->hidden_size,
                                   .vocab = mc->vocab_size,
                                   .eps = mc->rms_norm_eps,
                                   .rope_theta = mc->rope_theta,
                                   .interleave = mc->rope_interleave};
        c->layers[i].attention = "family";
        c->layers[i].family = l;
        keys__layer_string(k, "attention_mechanism", at, name, sizeof(name), NULL);
        l->mechanism = k->r < 0 ? NULL : family_find(name);
        if (k->r == 0 && !l->mechanism) {
            family_names(names, sizeof(names));
            keys__fail(k, ERR_UNSUPPORTED, "attention_mechanism", "is %s for layer %d; served are %s",
                       name, i, names);
        }
        if (k->r == 0)
            read_keys(k, at, arena, l);
        if (k->r == 0 && l->mechanism->check)
            l->mechanism->check(k, l);
    }
    if (k->r == 0)
        refuse_strangers(k, layers, n);
    if (k->r == 0)
        read_sharing(k, c, n);
    for (int i = 0; i < n && k->r == 0; i++)
        c->layers[i].hash = family_hash(&layers[i]);
}

static void need(struct binder *b, struct tensor *dst, int layer, const char *name, int64_t n_in,
                 int64_t n_out)
{
    char full[96];
    const int64_t ne[3] = {n_in, n_out, 1};
    snprintf(full, sizeof(full), "model.layers.%d.%s", layer, name);
    bind__tensor(b, dst, n_out > 1 ? 2 : 1, ne, full);
}

static void bind(struct binder *b)
{
    struct checkpoint *ck = b->ck;
    const struct model_config *c = &ck->config;
    int64_t hidden = c->hidden_size, width = c->intermediate_size;
    b->counting = true;
    deepseek__bind_ends(b);
    for (int i = 0; b->r == 0 && i < c->num_hidden_layers; i++) {
        struct layer_tensors *l = &ck->layers[i];
        struct family_bind fb = {b, l->family};
        need(b, &l->attn_norm, i, "input_layernorm.weight", hidden, 1);
        l->family->mechanism->bind(&fb);
        l->o = l->family->t[FAMILY_OUT];
        need(b, &l->ffn_norm, i, "post_attention_layernorm.weight", hidden, 1);
        need(b, &l->dense.gate, i, "mlp.gate_proj.weight", hidden, width);
        need(b, &l->dense.up, i, "mlp.up_proj.weight", hidden, width);
        need(b, &l->dense.down, i, "mlp.down_proj.weight", width, hidden);
    }
    b->counting = false;
}

/* declared by arch.c through arch.def */
extern const struct arch arch__latent_family;
const struct arch arch__latent_family = {
    .name = "latent_family",
    .gguf_name = "latent-family",
    .hf_model_type = "latent_family",
    .config_hf = config_hf,
    .layers_hf = layers_hf,
    .bind = bind,
};
