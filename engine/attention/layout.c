/* engine/attention/layout.c - the reader of the family's checkpoints, ours and others'; see layout.h.
 *
 * Keys and tensors of a mechanism are its own (attention/family.h); here are the ones that all share, and how
 * layers come to see each other's rows. */
#include "config.h"

#include "engine/attention/layout.h"
#include "engine/model/deepseek.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_BYTES 128

/* --- names ------------------------------------------------------------------------------------- */

static void add_name(struct layout_names *n, struct keys_name name)
{
    if (n->n < LAYOUT_MAX_NAMES)
        n->v[n->n++] = name;
    else
        keys__fail(n->k, ERR_LIMIT, name.key, "is one name too many");
}

void layout_path(struct layout_names *n, const char *key, const char *path)
{
    add_name(n, (struct keys_name){.key = key, .path = path});
}

void layout_pathf(struct layout_names *n, const char *key, const char *fmt, ...)
{
    va_list ap;
    if (n->n_paths == LAYOUT_MAX_PATHS) {
        keys__fail(n->k, ERR_LIMIT, key, "is one name too many");
        return;
    }
    char *path = n->paths[n->n_paths++];
    va_start(ap, fmt);
    vsnprintf(path, sizeof(n->paths[0]), fmt, ap);
    va_end(ap);
    layout_path(n, key, path);
}

void layout_or(struct layout_names *n, const char *key, const char *prefix, double absent)
{
    char path[64];
    snprintf(path, sizeof(path), "%s%s", prefix, key);
    if (keys__has(n->k, path))
        layout_pathf(n, key, "%s", path);
    else
        layout_number(n, key, absent);
}

void layout_number(struct layout_names *n, const char *key, double number)
{
    add_name(n, (struct keys_name){.key = key, .number = number});
}

void layout_word(struct layout_names *n, const char *key, const char *word)
{
    add_name(n, (struct keys_name){.key = key, .word = word});
}

/* From here on keys are ours. */
static void use_names(const struct family_layout *of, struct layout_names *n, struct keys *k, int layer)
{
    *n = (struct layout_names){.k = k, .layer = layer};
    k->names = NULL;
    if (of->names)
        of->names(n);
    k->names = n->v;
}

/* --- the model --------------------------------------------------------------------------------- */

void layout__refuse_variants(struct keys *k)
{
    deepseek__refuse_quantised(k);
    deepseek__refuse_activation(k);
    static const char *const biases[] = {"attention_bias", "mlp_bias", "bias"};
    for (size_t i = 0; i < sizeof(biases) / sizeof(biases[0]); i++)
        if (keys__bool_or(k, biases[i], false))
            keys__fail(k, ERR_UNSUPPORTED, biases[i], "must be false");
}

void layout__config(const struct family_layout *of, struct keys *k, struct model_config *c)
{
    struct layout_names n;
    use_names(of, &n, k, -1);
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
    k->names = NULL;
    if (of->config && k->r == 0)
        of->config(k, c);
}

/* --- layers ------------------------------------------------------------------------------------ */

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
    bool there = keys__has(k, key->name);
    int32_t *list = there ? malloc(FAMILY_MAX_LIST * sizeof(*list)) : NULL;
    if (there && !list) /* or it would count as absent */
        keys__fail(k, ERR_NOMEM, key->name, "needs memory that is not there");
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

static void read_layer(const struct family_layout *of, struct keys *k, struct arena *arena,
                       const struct model_config *mc, struct family_layer *l)
{
    struct keys_layer at = {l->index, mc->num_hidden_layers};
    struct layout_names n;
    char name[64], names[256];
    use_names(of, &n, k, l->index);
    keys__layer_string(k, "attention_mechanism", at, name, sizeof(name), NULL);
    l->mechanism = k->r < 0 ? NULL : family_find(name);
    if (k->r == 0 && !l->mechanism) {
        family_names(names, sizeof(names));
        keys__fail(k, ERR_UNSUPPORTED, "attention_mechanism", "is %s for layer %d; served are %s", name,
                   l->index, names);
    }
    if (k->r == 0)
        read_keys(k, at, arena, l);
    if (k->r == 0 && l->mechanism->check)
        l->mechanism->check(k, l);
    k->names = NULL;
    if (k->r == 0 && of->layer)
        of->layer(k, arena, mc, l);
}

void layout__layers(const struct family_layout *of, struct keys *k, struct arena *arena,
                    struct checkpoint *c)
{
    const struct model_config *mc = &c->config;
    int n = mc->num_hidden_layers;
    c->layers = arena_alloc(arena, (size_t)n * sizeof(*c->layers));
    struct family_layer *layers = arena_alloc(arena, (size_t)n * sizeof(*layers));
    if (!c->layers || !layers) {
        keys__fail(k, ERR_NOMEM, "num_hidden_layers", "needs memory that is not there");
        return;
    }
    memset(c->layers, 0, (size_t)n * sizeof(*c->layers));
    memset(layers, 0, (size_t)n * sizeof(*layers));
    for (int i = 0; i < n && k->r == 0; i++) {
        layers[i] = (struct family_layer){.index = i,
                                          .kv_layer = i,
                                          .hidden = mc->hidden_size,
                                          .vocab = mc->vocab_size,
                                          .eps = mc->rms_norm_eps,
                                          .rope_theta = mc->rope_theta,
                                          .interleave = mc->rope_interleave,
                                          .files = of->files};
        c->layers[i].attention = "family";
        c->layers[i].family = &layers[i];
        read_layer(of, k, arena, mc, &layers[i]);
    }
    if (k->r == 0 && of->refuse)
        of->refuse(k, layers, n);
    struct layout_names names;
    use_names(of, &names, k, -1);
    if (k->r == 0)
        read_sharing(k, c, n);
    k->names = NULL;
    for (int i = 0; i < n && k->r == 0; i++)
        c->layers[i].hash = family_hash(&layers[i]);
}

/* --- keys of several layouts ------------------------------------------------------------------- */

float layout__theta(struct keys *k, double absent)
{
    float theta = keys__float_or(k, "rope_theta", 1, 1e12, absent);
    return keys__float_or(k, "rope_parameters.rope_theta", 1, 1e12, (double)theta);
}

static float scaling_number(struct keys *k, const char *group, const char *key, double lo, double hi,
                            double absent)
{
    char path[64];
    snprintf(path, sizeof(path), "%s.%s", group, key);
    return isnan(absent) ? keys__float(k, path, lo, hi) : keys__float_or(k, path, lo, hi, absent);
}

const struct rope_scaling *layout__scaling(struct keys *k, struct arena *arena, const struct model_config *c)
{
    struct rope_scaling s = {0};
    const char *g = deepseek__rope_group(k);
    char type[32], path[64];
    snprintf(path, sizeof(path), "%s.rope_type", g);
    if (!keys__has(k, path))
        snprintf(path, sizeof(path), "%s.type", g);
    keys__string(k, path, type, sizeof(type), "default");
    if (k->r < 0 || !strcmp(type, "default"))
        return NULL;
    if (strcmp(type, "llama3") && strcmp(type, "yarn")) {
        keys__fail(k, ERR_UNSUPPORTED, path, "is %s; default, llama3 and yarn are served", type);
        return NULL;
    }
    s.factor = scaling_number(k, g, "factor", 1, 1e6, FAMILY_NEEDED);
    s.original_max_position_embeddings = (int)scaling_number(k, g, "original_max_position_embeddings", 1,
                                                             MAX_CONTEXT, c->max_position_embeddings);
    if (!strcmp(type, "yarn")) {
        s.type = ROPE_SCALING_YARN;
        s.beta_fast = scaling_number(k, g, "beta_fast", 1e-3, 1e6, 32);
        s.beta_slow = scaling_number(k, g, "beta_slow", 1e-3, 1e6, 1);
        static const char *const others[] = {"mscale", "mscale_all_dim", "attention_factor", "truncate"};
        for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
            snprintf(path, sizeof(path), "%s.%s", g, others[i]);
            if (keys__has(k, path))
                keys__fail(k, ERR_UNSUPPORTED, path, "is not served");
        }
    } else {
        s.type = ROPE_SCALING_LLAMA3;
        s.low_freq_factor = scaling_number(k, g, "low_freq_factor", 1e-3, 1e6, FAMILY_NEEDED);
        s.high_freq_factor = scaling_number(k, g, "high_freq_factor", 1e-3, 1e6, FAMILY_NEEDED);
        snprintf(path, sizeof(path), "%s.high_freq_factor", g);
        if (k->r == 0 && s.high_freq_factor <= s.low_freq_factor)
            keys__fail(k, ERR_FORMAT, path, "must be more than low_freq_factor");
    }
    const struct rope_scaling *ret = k->r < 0 ? NULL : arena_memdup(arena, &s, sizeof(s));
    if (k->r == 0 && !ret)
        keys__fail(k, ERR_NOMEM, g, "needs memory that is not there");
    return ret;
}

int layout__head_dim(struct keys *k, const char *key)
{
    int heads = (int)keys__int(k, "num_attention_heads", 1, MAX_HEADS);
    int hidden = (int)keys__int(k, "hidden_size", 1, MAX_DIM);
    int dim = (int)keys__int_or(k, key, 1, MAX_HEAD_DIM, 0);
    return dim || k->r < 0 ? dim : hidden / heads;
}

/* --- tensors ----------------------------------------------------------------------------------- */

static const char *layer_name(const struct binder *b, int layer, const char *name, char dst[NAME_BYTES])
{
    snprintf(dst, NAME_BYTES, "%s%d.%s", b->ck->layers[layer].family->files->layer, layer, name);
    return dst;
}

void layout__need(struct binder *b, struct tensor *dst, int layer, const char *name, int64_t n_in,
                  int64_t n_out)
{
    char full[NAME_BYTES];
    const int64_t ne[3] = {n_in, n_out, 1};
    bind__tensor(b, dst, n_out > 1 ? 2 : 1, ne, layer_name(b, layer, name, full));
}

void layout__need_cube(struct binder *b, struct tensor *dst, int layer, const char *name, int64_t n0,
                       int64_t n1, int64_t n2)
{
    char full[NAME_BYTES];
    const int64_t ne[3] = {n0, n1, n2};
    bind__tensor(b, dst, 3, ne, layer_name(b, layer, name, full));
}

bool layout__has(const struct binder *b, int layer, const char *name)
{
    char full[NAME_BYTES];
    return bind__has(b, layer_name(b, layer, name, full));
}

void layout__need_block(struct binder *b, struct ffn_tensors *f, int layer, const char *prefix,
                        int64_t width)
{
    char name[NAME_BYTES];
    int64_t hidden = b->ck->config.hidden_size;
    snprintf(name, sizeof(name), "%sgate_proj.weight", prefix);
    layout__need(b, &f->gate, layer, name, hidden, width);
    snprintf(name, sizeof(name), "%sup_proj.weight", prefix);
    layout__need(b, &f->up, layer, name, hidden, width);
    snprintf(name, sizeof(name), "%sdown_proj.weight", prefix);
    layout__need(b, &f->down, layer, name, width, hidden);
}

void layout__bind(const struct family_layout *of, struct binder *b)
{
    struct checkpoint *ck = b->ck;
    int64_t hidden = ck->config.hidden_size;
    b->counting = true;
    if (of->check)
        of->check(b);
    if (of->ends)
        of->ends(b);
    else
        deepseek__bind_ends(b);
    for (int i = 0; b->r == 0 && i < ck->config.num_hidden_layers; i++) {
        struct layer_tensors *l = &ck->layers[i];
        struct family_bind fb = {b, l->family};
        layout__need(b, &l->attn_norm, i, "input_layernorm.weight", hidden, 1);
        l->family->mechanism->bind(&fb);
        l->o = l->family->t[FAMILY_OUT];
        layout__need(b, &l->ffn_norm, i, "post_attention_layernorm.weight", hidden, 1);
        if (of->ffn)
            of->ffn(b, i, l);
        else
            layout__need_block(b, &l->dense, i, "mlp.", ck->config.intermediate_size);
    }
    b->counting = false;
}
