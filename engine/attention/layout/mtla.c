/* engine/attention/layout/mtla.c - a Llama whose attention is multi-head temporal latent attention, as its
 * authors' classes for transformers save it (arXiv 2505.13544). Queries are one projection; the rotary width
 * is what the base class makes of partial_rotary_factor, and right only where heads are as wide as their
 * part without rotation. */
#include "config.h"

#include "engine/attention/layout.h"

static const struct family_file tensors[] = {
    {"q_proj.weight", "wq.weight"},
    {"kv_a_proj_with_mqa.weight", "wkv_a.weight"},
    {"kv_a_layernorm.weight", "kv_norm.weight"},
    {"kv_a_layernorm.bias", "kv_norm.bias"},
    {"kv_b_proj.weight", "wkv_b.weight"},
    {"o_proj.weight", "wo.weight"},
    {"temporal_pe_proj.weight", "hypernet_down.fc_c.weight"},
    {"temporal_pe_proj.bias", "hypernet_down.fc_c.bias"},
    {"temporal_c_proj.weight", "hypernet_down.fc_p.weight"},
    {"temporal_c_proj.bias", "hypernet_down.fc_p.bias"},
    {NULL, NULL},
};
static const struct family_files files = {"model.layers.", "self_attn.", tensors};

static void refuse(struct keys *k)
{
    layout__refuse_variants(k);
    if (keys__int_or(k, "q_lora_rank", 0, MAX_DIM, 0))
        keys__fail(k, ERR_UNSUPPORTED, "q_lora_rank", "must be 0");
    if (!keys__bool_or(k, "recompute_prompt_attn", true))
        keys__fail(k, ERR_UNSUPPORTED, "recompute_prompt_attn", "must be true");
    int d = layout__head_dim(k, "head_dim");
    if (keys__int_or(k, "qk_nope_head_dim", 1, MAX_HEAD_DIM, 64) != d)
        keys__fail(k, ERR_UNSUPPORTED, "qk_nope_head_dim", "must be the size of a head, %d", d);
}

static void names(struct layout_names *n)
{
    if (n->layer < 0)
        refuse(n->k);
    layout_word(n, "attention_mechanism", "mtla");
    layout_number(n, "rope_theta", (double)layout__theta(n->k, 10000));
    layout_or(n, "q_lora_rank", "", 0);
    layout_or(n, "kv_lora_rank", "", 256);
    layout_or(n, "qk_nope_head_dim", "", 64);
    layout_or(n, "qk_rope_head_dim", "", 32);
    layout_or(n, "v_head_dim", "", 64);
    if (keys__has(n->k, "down_rate"))
        layout_path(n, "temporal_stride", "down_rate");
}

static void layer(struct keys *k, struct arena *arena, const struct model_config *c, struct family_layer *l)
{
    l->scaling = layout__scaling(k, arena, c);
}

static const struct family_layout layout = {.files = &files, .names = names, .layer = layer};

LAYOUT_ARCH(arch__llama_mtla, "llama-mtla", layout);
