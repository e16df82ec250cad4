/* engine/attention/layout/zaya.c - Zyphra's ZAYA (arXiv 2511.17127) as transformers has it: compressed
 * convolutional attention, one routed expert a token or none, chosen by a network that hands its state on
 * from layer to layer, and weights where blocks join the residual stream. The older form of these folders (a
 * layer for each attention and each block of experts) and sliding windows are refused. */
#include "config.h"

#include "engine/attention/layout.h"
#include "engine/model/deepseek.h"

#include <stdio.h>
#include <string.h>

#define NAME_BYTES 96

static const struct family_file tensors[] = {
    {"q_proj.weight", "qkv_proj.q_proj.weight"},
    {"k_proj.weight", "qkv_proj.k_proj.weight"},
    {"v_proj_current.weight", "qkv_proj.v_proj_current.weight"},
    {"v_proj_delayed.weight", "qkv_proj.v_proj_delayed.weight"},
    {"conv_qk_depthwise.weight", "qkv_proj.conv_qk_depthwise.weight"},
    {"conv_qk_depthwise.bias", "qkv_proj.conv_qk_depthwise.bias"},
    {"conv_qk_grouped.weight", "qkv_proj.conv_qk_grouped.weight"},
    {"conv_qk_grouped.bias", "qkv_proj.conv_qk_grouped.bias"},
    {"k_temp", "qk_norm.temp"},
    {NULL, NULL},
};
static const struct family_files files = {"model.layers.", "self_attn.", tensors};

#define ROPE "rope_parameters.hybrid."

static void must_be(struct keys *k, const char *key, int value)
{
    if (keys__int_or(k, key, 0, MAX_DIM, value) != value)
        keys__fail(k, ERR_UNSUPPORTED, key, "must be %d", value);
}

static void refuse(struct keys *k)
{
    char type[16];
    layout__refuse_variants(k);
    if (keys__has(k, "ffn_hidden_size"))
        keys__fail(k, ERR_UNSUPPORTED, "ffn_hidden_size", "is of the older form of these folders; that of "
                   "transformers is served");
    must_be(k, "cca_time0", 2);
    must_be(k, "cca_time1", 2);
    must_be(k, "num_experts_per_tok", 1);
    if (keys__bool_or(k, "lm_head_bias", false))
        keys__fail(k, ERR_UNSUPPORTED, "lm_head_bias", "must be false");
    keys__string(k, ROPE "rope_type", type, sizeof(type), "default");
    if (k->r == 0 && strcmp(type, "default"))
        keys__fail(k, ERR_UNSUPPORTED, ROPE "rope_type", "is %s; default is served", type);
}

static void names(struct layout_names *n)
{
    struct keys *k = n->k;
    if (n->layer < 0)
        refuse(k);
    int d = (int)keys__int(k, "head_dim", 4, MAX_HEAD_DIM);
    layout_word(n, "attention_mechanism", "cca");
    layout_word(n, "cca_value_halves", "all");
    layout_path(n, "intermediate_size", "moe_intermediate_size");
    float part = keys__float_or(k, ROPE "partial_rotary_factor", 0, 1, 0.5);
    layout_number(n, "rotary_dim", (int)((float)d * part));
    layout_number(n, "rope_theta", (double)keys__float_or(k, ROPE "rope_theta", 1, 1e12, 5e6));
    layout_or(n, "rms_norm_eps", "", 1e-5);
    if (!keys__has(k, "tie_word_embeddings"))
        layout_number(n, "tie_word_embeddings", 1);
}

static void config(struct keys *k, struct model_config *c)
{
    c->first_k_dense_replace = 0;
    c->n_routed_experts = (int)keys__int(k, "num_experts", 1, MAX_EXPERTS);
    c->moe_intermediate_size = c->intermediate_size;
    c->router_hidden_size = (int)keys__int_or(k, "router_hidden_size", 1, MAX_DIM, 256);
    c->zero_expert_num = 1;
    c->zero_expert_skips = true;
    c->num_experts_per_tok = c->n_group = c->topk_group = 1;
    c->gating = GATING_SOFTMAX;
    c->topk_method = TOPK_GREEDY;
    c->routed_scaling_factor = 1.0f;
}

static void layer(struct keys *k, struct arena *arena, const struct model_config *c, struct family_layer *l)
{
    char type[32];
    (void)arena;
    keys__layer_string(k, "layer_types", (struct keys_layer){l->index, c->num_hidden_layers}, type,
                       sizeof(type), "hybrid");
    if (k->r == 0 && strcmp(type, "hybrid"))
        keys__fail(k, ERR_UNSUPPORTED, "layer_types", "has %s for layer %d; hybrid is served", type,
                   l->index);
}

static void ends(struct binder *b)
{
    struct checkpoint *ck = b->ck;
    const int64_t ne[3] = {ck->config.hidden_size, 1, 1};
    deepseek__bind_ends(b);
    bind__tensor(b, &ck->embd_scale, 1, ne, "model.input_hidden_states_scale");
    bind__tensor(b, &ck->embd_bias, 1, ne, "model.input_hidden_states_bias");
}

static void bind_residual(struct binder *b, struct residual_tensors *t, int i, const char *prefix)
{
    const struct {
        const char *name;
        struct tensor *dst;
    } parts[4] = {{"hidden_states_scale", &t->out_scale},
                  {"hidden_states_bias", &t->out_bias},
                  {"residual_scale", &t->stream_scale},
                  {"residual_bias", &t->stream_bias}};
    for (int p = 0; p < 4; p++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof(name), "%s.%s", prefix, parts[p].name);
        layout__need(b, parts[p].dst, i, name, b->ck->config.hidden_size, 1);
    }
}

static void bind_router(struct binder *b, struct layer_tensors *l, int i)
{
    const struct model_config *c = &b->ck->config;
    struct router_mlp_tensors *r = &l->router_mlp;
    int64_t width = c->router_hidden_size, n = c->n_routed_experts + c->zero_expert_num;
    layout__need(b, &r->down, i, "mlp.gate.down_proj.weight", c->hidden_size, width);
    layout__need(b, &r->down_bias, i, "mlp.gate.down_proj.bias", width, 1);
    if (i > 0)
        layout__need(b, &r->state_scale, i, "mlp.gate.router_states_scale", width, 1);
    layout__need(b, &r->norm, i, "mlp.gate.router_mlp.norm.weight", width, 1);
    layout__need(b, &r->fc1, i, "mlp.gate.router_mlp.fc1.weight", width, width);
    layout__need(b, &r->fc1_bias, i, "mlp.gate.router_mlp.fc1.bias", width, 1);
    layout__need(b, &r->fc2, i, "mlp.gate.router_mlp.fc2.weight", width, width);
    layout__need(b, &r->fc2_bias, i, "mlp.gate.router_mlp.fc2.bias", width, 1);
    layout__need(b, &l->router, i, "mlp.gate.router_mlp.out_proj.weight", width, n);
    layout__need(b, &l->router_bias, i, "mlp.gate.balancing_biases", n, 1);
}

static void ffn(struct binder *b, int i, struct layer_tensors *l)
{
    const struct model_config *c = &b->ck->config;
    struct tensor both = {0}, down = {0};
    int64_t hidden = c->hidden_size, width = c->moe_intermediate_size, n = c->n_routed_experts;
    bind_residual(b, &l->attn_residual, i, "post_attention_residual_scale");
    bind_residual(b, &l->ffn_residual, i, "post_mlp_residual_scale");
    bind_router(b, l, i);
    layout__need_cube(b, &both, i, "mlp.experts.gate_up_proj", hidden, 2 * width, n);
    layout__need_cube(b, &down, i, "mlp.experts.down_proj", width, hidden, n);
    l->experts = bind__alloc(b, (size_t)n, sizeof(*l->experts));
    for (int64_t x = 0; l->experts && b->r == 0 && x < n; x++) {
        struct tensor one = tensor_slice(&both, x);
        l->experts[x] = (struct ffn_tensors){.gate = tensor_rows(&one, 0, width),
                                             .up = tensor_rows(&one, width, width),
                                             .down = tensor_slice(&down, x)};
    }
}

static const struct family_layout layout = {
    .files = &files, .names = names, .config = config, .layer = layer, .ends = ends, .ffn = ffn};

LAYOUT_ARCH(arch__zaya, "zaya", layout);
