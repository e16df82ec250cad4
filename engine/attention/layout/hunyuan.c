/* engine/attention/layout/hunyuan.c - Tencent's Hunyuan: grouped queries whose keys and values serve several
 * layers (CLA, arXiv 2405.12981), norms of queries and keys after rotation, routed experts
 * beside a shared one, or dense.
 *
 * Every layer has the weights of both norms, also where its keys are another's: rows hold keys without
 * weights (gqa.c). The rotary base is stretched once for all positions, theta alpha^(d/(d-2)). Older folders
 * have queries, keys and values of a layer in one matrix, and up and gate of a block (in this order). Router:
 * softmax, weights of the chosen experts normalised where there are several; no token is ever dropped. */
#include "config.h"

#include "engine/attention/layout.h"
#include "engine/model/deepseek.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define NAME_BYTES 96

static const struct family_file tensors[] = {
    {"q_norm.weight", "query_layernorm.weight"},
    {"k_norm.weight", "key_layernorm.weight"},
    {NULL, NULL},
};
static const struct family_files files = {"model.layers.", "self_attn.", tensors};

static void refuse(struct keys *k)
{
    static const char *const absent[] = {"use_mla", "mamba", "group_limited_greedy",
                                         "position_embedding_xdrope", "add_classification_head"};
    layout__refuse_variants(k);
    for (size_t i = 0; i < sizeof(absent) / sizeof(absent[0]); i++)
        if (keys__bool_or(k, absent[i], false))
            keys__fail(k, ERR_UNSUPPORTED, absent[i], "must be false");
    if (!keys__bool_or(k, "use_rotary_pos_emb", true))
        keys__fail(k, ERR_UNSUPPORTED, "use_rotary_pos_emb", "must be true");
}

static int head_dim(struct keys *k)
{
    return layout__head_dim(k, keys__has(k, "head_dim") ? "head_dim" : "attention_head_dim");
}

/* theta of heads of d values. */
static double theta(struct keys *k, int d)
{
    const char *g = deepseek__rope_group(k);
    char type[32], path[64];
    double base = (double)layout__theta(k, 10000);
    snprintf(path, sizeof(path), "%s.rope_type", g);
    if (!keys__has(k, path))
        snprintf(path, sizeof(path), "%s.type", g);
    keys__string(k, path, type, sizeof(type), "default");
    if (k->r < 0 || !strcmp(type, "default"))
        return base;
    if (strcmp(type, "dynamic")) {
        keys__fail(k, ERR_UNSUPPORTED, path, "is %s; default and dynamic are served", type);
        return base;
    }
    snprintf(path, sizeof(path), "%s.alpha", g);
    if (!keys__has(k, path))
        keys__fail(k, ERR_UNSUPPORTED, path, "is missing: bases that change with the length are not served");
    double alpha = (double)keys__float(k, path, 1e-3, 1e9);
    return d > 2 ? base * pow(alpha, (double)d / (d - 2)) : base;
}

static void names_of(struct layout_names *n, bool norms)
{
    struct keys *k = n->k;
    if (n->layer < 0)
        refuse(k);
    int d = head_dim(k);
    int share = keys__bool_or(k, "use_cla", false) ? (int)keys__int(k, "cla_share_factor", 1, MAX_LAYERS) : 1;
    layout_word(n, "attention_mechanism", "gqa");
    layout_word(n, "qk_norm", keys__bool_or(k, "use_qk_norm", norms) ? "rotated" : "none");
    layout_number(n, "head_dim", d);
    layout_number(n, "rope_theta", theta(k, d));
    layout_number(n, "kv_share_factor", share);
    if (!keys__has(k, "rms_norm_eps"))
        layout_number(n, "rms_norm_eps", 1e-5);
}

static void names(struct layout_names *n)
{
    names_of(n, false);
}

static void names_v1(struct layout_names *n)
{
    names_of(n, true);
}

/* A number that may be listed for each layer, but must be the same in all that have experts. */
static int uniform(struct keys *k, const struct model_config *c, const char *key, int hi, double absent)
{
    int first = 0;
    for (int i = c->first_k_dense_replace; i < c->num_hidden_layers && k->r == 0; i++) {
        struct keys_layer at = {i, c->num_hidden_layers};
        int v = (int)keys__layer_number(k, key, at, true, 1, hi, absent);
        first = first ? first : v;
        if (v != first)
            keys__fail(k, ERR_UNSUPPORTED, key,
                       "is %d for layer %d and %d before; one number for all layers is served", v, i, first);
    }
    return first;
}

static void experts(struct keys *k, struct model_config *c)
{
    c->first_k_dense_replace = (int)keys__int_or(k, "moe_layer_num_skipped", 0, c->num_hidden_layers - 1, 0);
    int n = uniform(k, c, "num_experts", MAX_EXPERTS, 1);
    if (n <= 1) {
        c->first_k_dense_replace = c->num_hidden_layers;
        return;
    }
    c->n_routed_experts = n;
    c->num_experts_per_tok = uniform(k, c, "moe_topk", n, 1);
    c->moe_intermediate_size = uniform(k, c, "moe_intermediate_size", MAX_DIM, c->intermediate_size);
    if (keys__bool_or(k, "use_mixed_mlp_moe", false)) {
        int64_t shared = uniform(k, c, "num_shared_expert", 64, 1);
        c->n_shared_experts = (int)shared;
        if (shared * c->intermediate_size > MAX_DIM)
            keys__fail(k, ERR_FORMAT, "num_shared_expert", "times intermediate_size is more than %d",
                       MAX_DIM);
        c->shared_intermediate_size = (int)(shared * c->intermediate_size);
    }
    c->n_group = c->topk_group = 1;
    c->gating = GATING_SOFTMAX;
    c->topk_method = TOPK_GREEDY;
    c->norm_topk_prob = c->num_experts_per_tok > 1;
    c->routed_scaling_factor = 1.0f;
    if (keys__float_or(k, "routed_scaling_factor", 0, 1e6, 1) != 1.0f)
        keys__fail(k, ERR_UNSUPPORTED, "routed_scaling_factor", "must be 1");
}

static void config(struct keys *k, struct model_config *c)
{
    if (keys__has(k, "logit_scale"))
        c->logit_scale = keys__float(k, "logit_scale", 1e-6, 1e6);
    experts(k, c);
}

/* Of a folder of either age. */
static void bind_block(struct binder *b, struct ffn_tensors *f, int layer, const char *prefix, int64_t width)
{
    struct tensor both = {0};
    char name[NAME_BYTES];
    int64_t hidden = b->ck->config.hidden_size;
    snprintf(name, sizeof(name), "%sgate_and_up_proj.weight", prefix);
    if (!layout__has(b, layer, name)) {
        layout__need_block(b, f, layer, prefix, width);
        return;
    }
    layout__need(b, &both, layer, name, hidden, 2 * width);
    f->up = tensor_rows(&both, 0, width);
    f->gate = tensor_rows(&both, width, width);
    snprintf(name, sizeof(name), "%sdown_proj.weight", prefix);
    layout__need(b, &f->down, layer, name, width, hidden);
}

static void ffn(struct binder *b, int i, struct layer_tensors *l)
{
    const struct model_config *c = &b->ck->config;
    char prefix[NAME_BYTES];
    if (i < c->first_k_dense_replace) {
        bind_block(b, &l->dense, i, "mlp.", c->intermediate_size);
        return;
    }
    layout__need(b, &l->router, i, "mlp.gate.wg.weight", c->hidden_size, c->n_routed_experts);
    if (c->n_shared_experts)
        bind_block(b, &l->shared, i, "mlp.shared_mlp.", model_shared_width(c));
    l->experts = bind__alloc(b, (size_t)c->n_routed_experts, sizeof(*l->experts));
    for (int x = 0; l->experts && b->r == 0 && x < c->n_routed_experts; x++) {
        snprintf(prefix, sizeof(prefix), "mlp.experts.%d.", x);
        bind_block(b, &l->experts[x], i, prefix, c->moe_intermediate_size);
    }
}

static const struct family_layout first = {.files = &files, .names = names, .config = config, .ffn = ffn};
static const struct family_layout v1 = {.files = &files, .names = names_v1, .config = config, .ffn = ffn};

LAYOUT_ARCH(arch__hunyuan, "hunyuan", first);
LAYOUT_ARCH(arch__hunyuan_v1_moe, "hunyuan_v1_moe", v1);
LAYOUT_ARCH(arch__hunyuan_v1_dense, "hunyuan_v1_dense", v1);
