/* engine/attention/layout/mlra.c - multi-head low-rank attention as its authors' training saves it
 * (arXiv 2603.02188): a decoder in the manner of GPT-2 that keeps that model_type, with four blocks of
 * latents. Two or four branches: the shape of kv_b_proj tells. The authors save PyTorch's own format, which
 * has to be rewritten as safetensors first; then either of the two tied tensors may be there. */
#include "config.h"

#include "engine/attention/layout.h"

static const struct family_file tensors[] = {
    {"kv_b_proj.weight", "kv_b_proj"},
    {"o_proj.weight", "c_proj.weight"},
    {NULL, NULL},
};
static const struct family_files files = {"transformer.h.", "attn.", tensors};

static void names(struct layout_names *n)
{
    struct keys *k = n->k;
    if (n->layer < 0) {
        layout__refuse_variants(k);
        if (!keys__has(k, "kv_lora_rank"))
            keys__fail(k, ERR_UNSUPPORTED, "model_type", "is gpt2, which is served with latent blocks "
                       "(kv_lora_rank) only");
    }
    layout_word(n, "attention_mechanism", "mlra");
    layout_word(n, "mlra_layout", "columns");
    layout_path(n, "hidden_size", "n_embd");
    layout_path(n, "num_hidden_layers", "n_layer");
    layout_path(n, "num_attention_heads", "n_head");
    layout_path(n, "max_position_embeddings", "block_size");
    layout_path(n, "v_head_dim", "qk_nope_head_dim");
    layout_number(n, "rms_norm_eps", 1e-6);
    layout_number(n, "rope_theta", 10000);
    layout_number(n, "rope_interleave", 0);
    layout_number(n, "tie_word_embeddings", 1);
}

static void ends(struct binder *b)
{
    static const char *const tied[2] = {"transformer.wte.weight", "lm_head.weight"};
    struct checkpoint *ck = b->ck;
    const struct model_config *c = &ck->config;
    const int64_t embd_ne[3] = {c->hidden_size, c->vocab_size, 1}, norm_ne[3] = {c->hidden_size, 1, 1};
    bind__tensor(b, &ck->token_embd, 2, embd_ne, tied[!bind__has(b, tied[0])]);
    bind__tensor(b, &ck->output_norm, 1, norm_ne, "layernorm.weight");
    ck->output = ck->token_embd;
}

static void ffn(struct binder *b, int i, struct layer_tensors *l)
{
    int64_t hidden = b->ck->config.hidden_size, width = b->ck->config.intermediate_size;
    layout__need(b, &l->dense.gate, i, "mlp.c_fc1.weight", hidden, width);
    layout__need(b, &l->dense.up, i, "mlp.c_fc2.weight", hidden, width);
    layout__need(b, &l->dense.down, i, "mlp.c_proj.weight", width, hidden);
}

static const struct family_layout layout = {.files = &files, .names = names, .ends = ends, .ffn = ffn};

LAYOUT_ARCH(arch__mlra, "gpt2", layout);
