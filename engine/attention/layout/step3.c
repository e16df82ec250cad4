/* engine/attention/layout/step3.c - StepFun's Step-3 (arXiv 2507.19427): multi-matrix factorization attention
 * and, in listed layers, routed experts (one 3-d tensor for all) beside a shared one; the text part of its
 * vision model. Router: softmax over all, weights normalised if the configuration says so. */
#include "config.h"

#include "engine/attention/layout.h"

#include <stdio.h>
#include <string.h>

static const struct family_file tensors[] = {
    {"q_a_proj.weight", "q_proj.weight"},
    {"q_a_layernorm.weight", "inter_norm.weight"},
    {"q_b_proj.weight", "wq.weight"},
    {NULL, NULL},
};
static const struct family_files files = {"model.layers.", "self_attn.", tensors};

static void names(struct layout_names *n)
{
    struct keys *k = n->k;
    if (n->layer < 0) {
        layout__refuse_variants(k);
        if (keys__int_or(k, "num_attention_groups", 1, MAX_HEADS, 1) != 1)
            keys__fail(k, ERR_UNSUPPORTED, "num_attention_groups", "must be 1");
    }
    layout_word(n, "attention_mechanism", "mfa");
    layout_number(n, "rope_theta", (double)layout__theta(k, 500000));
    if (keys__has(k, "max_position_embedding"))
        layout_path(n, "max_position_embeddings", "max_position_embedding");
    if (!keys__has(k, "rms_norm_eps"))
        layout_number(n, "rms_norm_eps", 1e-5);
}

/* Which layers have experts. */
static int routed_layers(struct keys *k, const struct model_config *c, bool ret[MAX_LAYERS])
{
    int32_t list[MAX_LAYERS];
    int n = keys__int_list(k, "moe_layers_enum", 0, c->num_hidden_layers - 1, MAX_LAYERS, list), routed = 0;
    if (!keys__has(k, "moe_layers_enum"))
        keys__fail(k, ERR_FORMAT, "moe_layers_enum", "is missing");
    memset(ret, 0, MAX_LAYERS * sizeof(*ret));
    for (int i = 0; i < n && k->r == 0; i++) {
        routed += !ret[list[i]];
        ret[list[i]] = true;
    }
    return routed;
}

static void config(struct keys *k, struct model_config *c)
{
    bool routed[MAX_LAYERS];
    int n = routed_layers(k, c, routed);
    c->first_k_dense_replace = c->num_hidden_layers - n; /* where they are, layers know */
    if (n == 0)
        return;
    c->n_routed_experts = (int)keys__int(k, "moe_num_experts", 1, MAX_EXPERTS);
    c->num_experts_per_tok = (int)keys__int(k, "moe_top_k", 1, c->n_routed_experts);
    c->moe_intermediate_size = (int)keys__int(k, "moe_intermediate_size", 1, MAX_DIM);
    c->n_shared_experts = 1;
    c->shared_intermediate_size = (int)keys__int(k, "share_expert_dim", 1, MAX_DIM);
    c->n_group = c->topk_group = 1;
    c->gating = GATING_SOFTMAX;
    c->topk_method = TOPK_GREEDY;
    c->norm_topk_prob = keys__bool_or(k, "norm_expert_weight", false);
    c->routed_scaling_factor = 1.0f;
}

static void layer(struct keys *k, struct arena *arena, const struct model_config *c, struct family_layer *l)
{
    bool routed[MAX_LAYERS];
    routed_layers(k, c, routed);
    l->routed = routed[l->index];
    l->scaling = layout__scaling(k, arena, c);
}

static void ffn(struct binder *b, int i, struct layer_tensors *l)
{
    const struct model_config *c = &b->ck->config;
    struct tensor gate = {0}, up = {0}, down = {0};
    int64_t hidden = c->hidden_size, width = c->moe_intermediate_size, n = c->n_routed_experts;
    if (!l->family->routed) {
        layout__need_block(b, &l->dense, i, "mlp.", c->intermediate_size);
        return;
    }
    layout__need(b, &l->router, i, "moe.gate.weight", hidden, n);
    layout__need_cube(b, &gate, i, "moe.gate_proj.weight", hidden, width, n);
    layout__need_cube(b, &up, i, "moe.up_proj.weight", hidden, width, n);
    layout__need_cube(b, &down, i, "moe.down_proj.weight", width, hidden, n);
    layout__need_block(b, &l->shared, i, "share_expert.", model_shared_width(c));
    l->experts = bind__alloc(b, (size_t)n, sizeof(*l->experts));
    for (int64_t x = 0; l->experts && b->r == 0 && x < n; x++)
        l->experts[x] = (struct ffn_tensors){.gate = tensor_slice(&gate, x),
                                             .up = tensor_slice(&up, x),
                                             .down = tensor_slice(&down, x)};
}

static const struct family_layout layout = {
    .files = &files, .names = names, .config = config, .layer = layer, .ffn = ffn};

LAYOUT_ARCH(arch__step3, "step3_text", layout);
