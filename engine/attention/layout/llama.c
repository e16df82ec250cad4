/* engine/attention/layout/llama.c - Llamas whose attention was made over: model_type stays "llama".
 *
 * MHA2MLA (arXiv 2502.14837; key mha2mla_args): rotation keeps some frequencies of each head, the rest of
 * keys and the values become one latent. q_proj has [rotary parts of all heads | the rest], k_r_proj and the
 * up-projections are by group. Which frequencies are kept is a rule, or (2-norm) a file of ranks that is not
 * part of the folder.
 * X-EcoMLA (arXiv 2503.11132; files MLA_config.json and mla_layer_config.json, which the reader puts into
 * config.json): latent attention of DeepSeek's form, rotary pairs adjacent, in all layers but those listed as
 * plain ones. Ranks may be a layer's own. */
#include "config.h"

#include "engine/attention/layout.h"

#include <stdio.h>
#include <string.h>

static const struct family_file kvr_tensors[] = {
    {"k_rope_proj.weight", "k_r_proj.weight"},
    {"kv_a_proj.weight", "kv_proj.down_kv.weight"},
    {"k_up_proj.weight", "kv_proj.up_k.weight"},
    {"v_up_proj.weight", "kv_proj.up_v.weight"},
    {NULL, NULL},
};
static const struct family_files kvr_files = {"model.layers.", "self_attn.", kvr_tensors};

static const struct family_file mla_tensors[] = {
    {"o_proj.weight", "out_proj.weight"},
    {NULL, NULL},
};
static const struct family_files mla_files = {"model.layers.", "mla.", mla_tensors};

static void must_be_false(struct keys *k, const char *key)
{
    if (keys__bool_or(k, key, false))
        keys__fail(k, ERR_UNSUPPORTED, key, "must be false");
}

/* --- MHA2MLA ----------------------------------------------------------------------------------- */

#define ARGS "mha2mla_args."

/* Frequencies that are kept: n of those of a head of d values. */
static void kept_frequencies(struct layout_names *n, int d, int rope)
{
    struct keys *k = n->k;
    char version[16];
    int first = 0, step = 1, half = d / 2;
    keys__string(k, ARGS "partial_rope_version", version, sizeof(version), "high");
    if (!strcmp(version, "low")) {
        first = half - rope / 2;
    } else if (!strcmp(version, "uniform")) {
        step = d / rope;
        first = (int)keys__int_or(k, ARGS "uniform_start_point", 0, step - 1, 0);
        if (half % step)
            keys__fail(k, ERR_FORMAT, ARGS "rope_dim_for_mla", "is %d and does not divide a head of %d", rope,
                       d);
    } else if (!strcmp(version, "2-norm")) {
        return; /* of each group, in tensors of our own: rope_freqs */
    } else if (strcmp(version, "high")) {
        keys__fail(k, ERR_UNSUPPORTED, ARGS "partial_rope_version",
                   "is %s; high, low, uniform and 2-norm are served", version);
    }
    layout_number(n, "rope_freq_dim", d);
    layout_number(n, "rope_freq_first", first);
    layout_number(n, "rope_freq_step", step);
}

static void mha2mla_names(struct layout_names *n)
{
    struct keys *k = n->k;
    char method[16];
    int heads = (int)keys__int(k, "num_attention_heads", 1, MAX_HEADS);
    int groups = (int)keys__int_or(k, "num_key_value_heads", 1, MAX_HEADS, heads);
    int hidden = (int)keys__int(k, "hidden_size", 1, MAX_DIM);
    int d = k->r < 0 ? 4 : hidden / heads;
    if (d < 4 || hidden % heads)
        keys__fail(k, ERR_FORMAT, "num_attention_heads", "is %d for hidden_size %d", heads, hidden);
    int rope = (int)keys__int(k, ARGS "rope_dim_for_mla", 2, d > 2 ? d - 1 : 2);
    int rank = (int)keys__int(k, ARGS "low_rank", 1, MAX_HEAD_DIM / groups);
    if (k->r == 0 && rope % 2)
        keys__fail(k, ERR_FORMAT, ARGS "rope_dim_for_mla", "is %d; even numbers are accepted", rope);
    must_be_false(k, ARGS "is_baseline");
    must_be_false(k, ARGS "is_gqa2mha2mla");
    keys__string(k, ARGS "svd_init_method", method, sizeof(method), "none");
    if (k->r == 0 && strcmp(method, "joint"))
        keys__fail(k, ERR_UNSUPPORTED, ARGS "svd_init_method", "is %s; joint is served", method);
    if (k->r < 0)
        return;
    layout_word(n, "attention_mechanism", "mla_kvr");
    layout_word(n, "kvr_layout", "apart");
    layout_number(n, "num_key_value_heads", groups);
    layout_number(n, "qk_rope_head_dim", rope);
    layout_number(n, "qk_nope_head_dim", d - rope);
    layout_number(n, "v_head_dim", d);
    layout_number(n, "kv_lora_rank", rank * groups);
    kept_frequencies(n, d, rope);
}

static void mha2mla_layer(struct keys *k, struct arena *arena, const struct model_config *c,
                          struct family_layer *l)
{
    l->files = &kvr_files;
    if (layout__scaling(k, arena, c))
        keys__fail(k, ERR_UNSUPPORTED, "rope_scaling", "must be null beside mha2mla_args");
}

/* Ranks of frequencies are in a file of the authors' repository; here the frequencies themselves have to be
 * in the folder. */
static void mha2mla_check(struct binder *b)
{
    const struct family_layer *l = b->ck->layers[0].family;
    if (l->files == &kvr_files && !layout__has(b, 0, "self_attn.rope_freqs") &&
        !family_number(l, "rope_freq_dim"))
        b->r = err_set_param(b->e, ERR_UNSUPPORTED, ARGS "partial_rope_version",
                             "config.json: " ARGS "partial_rope_version is 2-norm, and the folder does not "
                             "say which frequencies that are: tensors self_attn.rope_freqs "
                             "[num_key_value_heads, rope_dim_for_mla / 2] are needed");
}

/* --- X-EcoMLA ---------------------------------------------------------------------------------- */

#define MLA "mla_layer_config."

static bool is_plain(struct keys *k, int layer)
{
    int32_t list[MAX_LAYERS];
    int n = keys__int_list(k, "MLA_config.attn_layers", 0, MAX_LAYERS - 1, MAX_LAYERS, list);
    for (int i = 0; i < n; i++)
        if (list[i] == layer)
            return true;
    return false;
}

/* The rank of a layer where it has one of its own. */
static void rank_name(struct layout_names *n, const char *key, const char *own, double absent)
{
    char path[64];
    snprintf(path, sizeof(path), MLA "layer_rank_list.%d.%s", n->layer, own);
    if (keys__has(n->k, path))
        layout_pathf(n, key, "%s", path);
    else
        layout_or(n, key, MLA, absent);
}

static void ecomla_refuse(struct keys *k)
{
    must_be_false(k, MLA "attention_bias");
    if (keys__has(k, MLA "hidden_size") && keys__has(k, "hidden_size") &&
        keys__int(k, MLA "hidden_size", 1, MAX_DIM) != keys__int(k, "hidden_size", 1, MAX_DIM))
        keys__fail(k, ERR_UNSUPPORTED, MLA "hidden_size", "must be hidden_size");
}

static void ecomla_names(struct layout_names *n)
{
    struct keys *k = n->k;
    if (n->layer < 0) {
        ecomla_refuse(k);
        return;
    }
    if (is_plain(k, n->layer)) {
        layout_word(n, "attention_mechanism", "gqa");
        layout_number(n, "head_dim", layout__head_dim(k, "head_dim"));
        return;
    }
    bool norms = keys__bool_or(k, MLA "use_lora_layer_norm", false);
    layout_word(n, "attention_mechanism", "mla");
    layout_word(n, "latent_norm", norms ? "rms" : "none");
    layout_word(n, "q_latent_norm", norms ? "rms" : "none");
    rank_name(n, "kv_lora_rank", "kv_rank", 512);
    rank_name(n, "q_lora_rank", "q_rank", 1536);
    layout_or(n, "num_attention_heads", MLA, 128);
    layout_or(n, "qk_nope_head_dim", MLA, 128);
    layout_or(n, "qk_rope_head_dim", MLA, 64);
    layout_or(n, "v_head_dim", MLA, 128);
}

/* YaRN by the numbers of a Llama's rope_scaling, whatever type they were meant for: what the authors' layers
 * make of them, unless rope_type says another. */
static const struct rope_scaling *ecomla_scaling(struct keys *k, struct arena *arena)
{
    char type[16];
    struct rope_scaling s = {.type = ROPE_SCALING_YARN};
    keys__string(k, MLA "rope_type", type, sizeof(type), "yarn");
    if (!keys__has(k, MLA "rope_scaling.factor"))
        return NULL;
    if (strcmp(type, "yarn"))
        keys__fail(k, ERR_UNSUPPORTED, MLA "rope_type", "is %s; yarn is served", type);
    if (keys__float_or(k, MLA "rope_scaling.mscale_all_dim", 0, 100, 0) != 0.0f)
        keys__fail(k, ERR_UNSUPPORTED, MLA "rope_scaling.mscale_all_dim", "must be 0");
    if (keys__float_or(k, MLA "rope_scaling.mscale", 0, 100, 1) != 1.0f)
        keys__fail(k, ERR_UNSUPPORTED, MLA "rope_scaling.mscale", "must be 1");
    s.factor = keys__float(k, MLA "rope_scaling.factor", 1, 1e6);
    s.original_max_position_embeddings =
        (int)keys__int_or(k, MLA "rope_scaling.original_max_position_embeddings", 1, MAX_CONTEXT, 4096);
    s.beta_fast = keys__float_or(k, MLA "rope_scaling.beta_fast", 1e-3, 1e6, 32);
    s.beta_slow = keys__float_or(k, MLA "rope_scaling.beta_slow", 1e-3, 1e6, 1);
    const struct rope_scaling *ret = k->r < 0 ? NULL : arena_memdup(arena, &s, sizeof(s));
    if (k->r == 0 && !ret)
        keys__fail(k, ERR_NOMEM, MLA "rope_scaling", "needs memory that is not there");
    return ret;
}

static void ecomla_layer(struct keys *k, struct arena *arena, const struct model_config *c,
                         struct family_layer *l)
{
    if (is_plain(k, l->index)) {
        l->scaling = layout__scaling(k, arena, c);
        return;
    }
    l->files = &mla_files;
    l->interleave = true;
    l->eps = 1e-6f; /* its class's default */
    l->rope_theta = keys__float_or(k, MLA "rope_theta", 1, 1e12, 10000);
    l->scaling = ecomla_scaling(k, arena);
}

/* --- either ------------------------------------------------------------------------------------ */

static void names(struct layout_names *n)
{
    struct keys *k = n->k;
    bool mha2mla = keys__has(k, "mha2mla_args"), ecomla = keys__has(k, "mla_layer_config");
    if (n->layer < 0) {
        layout__refuse_variants(k);
        if (mha2mla == ecomla)
            keys__fail(k, ERR_UNSUPPORTED, "model_type",
                       "is llama, which is served with mha2mla_args or with a file mla_layer_config.json "
                       "beside it");
    }
    if (k->r < 0)
        return;
    layout_number(n, "rope_theta", (double)layout__theta(k, 10000));
    if (mha2mla)
        mha2mla_names(n);
    else
        ecomla_names(n);
}

static void layer(struct keys *k, struct arena *arena, const struct model_config *c, struct family_layer *l)
{
    if (keys__has(k, "mha2mla_args"))
        mha2mla_layer(k, arena, c, l);
    else
        ecomla_layer(k, arena, c, l);
}

static const struct family_layout layout = {
    .files = &family_own_files, .names = names, .layer = layer, .check = mha2mla_check};

LAYOUT_ARCH(arch__llama, "llama", layout);
