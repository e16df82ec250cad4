/* engine/model/deepseek_bind.c - tensors of the DeepSeek family by role, from GGUF and from folders.
 *
 * Both formats have the same matrices under two names, listed once below. Three things differ: GGUF
 * stacks the experts of a layer in one 3-d tensor, may hold the up-projection of the latent split
 * per head (k_b, v_b), and may hold gate and up of all experts in one. */
#include "config.h"

#include "engine/model/deepseek.h"

#include <stdio.h>

enum role {
    ATTN_NORM, Q_PROJ, Q_A, Q_A_NORM, Q_B, KV_A, KV_A_NORM, KV_B, K_B, V_B, O, FFN_NORM,
    INDEX_Q, INDEX_K, INDEX_K_NORM, INDEX_K_NORM_BIAS, INDEX_WEIGHTS,
    GATE, UP, DOWN, ROUTER, ROUTER_BIAS, SHARED_GATE, SHARED_UP, SHARED_DOWN,
    EXPERTS_GATE, EXPERTS_UP, EXPERTS_DOWN, EXPERTS_GATE_UP,
    EH_PROJ, ENORM, HNORM, SHARED_HEAD_NORM, SHARED_HEAD, MTP_EMBED, N_ROLES,
};

/* By role: after "blk.N." and after "model.layers.N." */
static const char *const names[N_ROLES][2] = {
    [ATTN_NORM] = {"attn_norm.weight", "input_layernorm.weight"},
    [Q_PROJ] = {"attn_q.weight", "self_attn.q_proj.weight"},
    [Q_A] = {"attn_q_a.weight", "self_attn.q_a_proj.weight"},
    [Q_A_NORM] = {"attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight"},
    [Q_B] = {"attn_q_b.weight", "self_attn.q_b_proj.weight"},
    [KV_A] = {"attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight"},
    [KV_A_NORM] = {"attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight"},
    [KV_B] = {"attn_kv_b.weight", "self_attn.kv_b_proj.weight"},
    [K_B] = {"attn_k_b.weight", NULL},
    [V_B] = {"attn_v_b.weight", NULL},
    [O] = {"attn_output.weight", "self_attn.o_proj.weight"},
    [FFN_NORM] = {"ffn_norm.weight", "post_attention_layernorm.weight"},
    [INDEX_Q] = {"indexer.attn_q_b.weight", "self_attn.indexer.wq_b.weight"},
    [INDEX_K] = {"indexer.attn_k.weight", "self_attn.indexer.wk.weight"},
    [INDEX_K_NORM] = {"indexer.k_norm.weight", "self_attn.indexer.k_norm.weight"},
    [INDEX_K_NORM_BIAS] = {"indexer.k_norm.bias", "self_attn.indexer.k_norm.bias"},
    [INDEX_WEIGHTS] = {"indexer.proj.weight", "self_attn.indexer.weights_proj.weight"},
    [GATE] = {"ffn_gate.weight", "mlp.gate_proj.weight"},
    [UP] = {"ffn_up.weight", "mlp.up_proj.weight"},
    [DOWN] = {"ffn_down.weight", "mlp.down_proj.weight"},
    [ROUTER] = {"ffn_gate_inp.weight", "mlp.gate.weight"},
    [ROUTER_BIAS] = {"exp_probs_b.bias", "mlp.gate.e_score_correction_bias"},
    [SHARED_GATE] = {"ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight"},
    [SHARED_UP] = {"ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight"},
    [SHARED_DOWN] = {"ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight"},
    [EXPERTS_GATE] = {"ffn_gate_exps.weight", "gate_proj.weight"}, /* folders: mlp.experts.E. */
    [EXPERTS_UP] = {"ffn_up_exps.weight", "up_proj.weight"},
    [EXPERTS_DOWN] = {"ffn_down_exps.weight", "down_proj.weight"},
    [EXPERTS_GATE_UP] = {"ffn_gate_up_exps.weight", NULL},
    [EH_PROJ] = {"nextn.eh_proj.weight", "eh_proj.weight"},
    [ENORM] = {"nextn.enorm.weight", "enorm.weight"},
    [HNORM] = {"nextn.hnorm.weight", "hnorm.weight"},
    [SHARED_HEAD_NORM] = {"nextn.shared_head_norm.weight", "shared_head.norm.weight"},
    [SHARED_HEAD] = {"nextn.shared_head_head.weight", "shared_head.head.weight"},
    [MTP_EMBED] = {"nextn.embed_tokens.weight", "embed_tokens.weight"},
};

#define NAME_BYTES 128

static const char *layer_name(const struct binder *b, int layer, enum role role,
                              char dst[NAME_BYTES])
{
    snprintf(dst, NAME_BYTES, b->format == FORMAT_GGUF ? "blk.%d.%s" : "model.layers.%d.%s", layer,
             names[role][b->format]);
    return dst;
}

static void need(struct binder *b, struct tensor *dst, int layer, enum role role, int n_dims,
                 int64_t ne0, int64_t ne1, int64_t ne2)
{
    char name[NAME_BYTES];
    const int64_t ne[3] = {ne0, ne1, ne2};
    bind__tensor(b, dst, n_dims, ne, layer_name(b, layer, role, name));
}

static void need_vector(struct binder *b, struct tensor *dst, int layer, enum role role, int64_t n)
{
    need(b, dst, layer, role, 1, n, 1, 1);
}

static void need_matrix(struct binder *b, struct tensor *dst, int layer, enum role role, int64_t n_in,
                        int64_t n_out)
{
    need(b, dst, layer, role, 2, n_in, n_out, 1);
}

static bool has(const struct binder *b, int layer, enum role role)
{
    char name[NAME_BYTES];
    return names[role][b->format] && bind__has(b, layer_name(b, layer, role, name));
}

static void bind_attention(struct binder *b, const struct model_config *c, int i,
                           struct layer_tensors *l)
{
    int64_t hidden = c->hidden_size, heads = c->num_attention_heads, latent = c->kv_lora_rank;
    int64_t nope = c->qk_nope_head_dim, rope = c->qk_rope_head_dim, v = c->v_head_dim;
    need_vector(b, &l->attn_norm, i, ATTN_NORM, hidden);
    if (c->q_lora_rank > 0) {
        need_matrix(b, &l->q_a, i, Q_A, hidden, c->q_lora_rank);
        need_vector(b, &l->q_a_norm, i, Q_A_NORM, c->q_lora_rank);
        need_matrix(b, &l->q_b, i, Q_B, c->q_lora_rank, heads * (nope + rope));
    } else {
        need_matrix(b, &l->q_proj, i, Q_PROJ, hidden, heads * (nope + rope));
    }
    need_matrix(b, &l->kv_a, i, KV_A, hidden, latent + rope);
    need_vector(b, &l->kv_a_norm, i, KV_A_NORM, latent);
    /* A file with both forms (some tools keep them) is read in the split one. One with neither is
     * told the name that today's files have. */
    bool whole = has(b, i, KV_B) && !(has(b, i, K_B) && has(b, i, V_B));
    if (whole || b->format == FORMAT_HF) {
        need_matrix(b, &l->kv_b, i, KV_B, latent, heads * (nope + v));
    } else {
        need(b, &l->k_b, i, K_B, 3, nope, latent, heads);
        need(b, &l->v_b, i, V_B, 3, latent, v, heads);
    }
    need_matrix(b, &l->o, i, O, heads * v, hidden);
    need_vector(b, &l->ffn_norm, i, FFN_NORM, hidden);
}

static void bind_ffn(struct binder *b, int layer, const enum role roles[3], int64_t hidden,
                     int64_t width, struct ffn_tensors *f)
{
    need_matrix(b, &f->gate, layer, roles[0], hidden, width);
    need_matrix(b, &f->up, layer, roles[1], hidden, width);
    need_matrix(b, &f->down, layer, roles[2], width, hidden);
}

static void bind_expert_hf(struct binder *b, const struct model_config *c, int layer, int expert,
                           struct ffn_tensors *f)
{
    const struct {
        enum role role;
        struct tensor *dst;
        int64_t ne[3];
    } parts[3] = {{EXPERTS_GATE, &f->gate, {c->hidden_size, c->moe_intermediate_size, 1}},
                  {EXPERTS_UP, &f->up, {c->hidden_size, c->moe_intermediate_size, 1}},
                  {EXPERTS_DOWN, &f->down, {c->moe_intermediate_size, c->hidden_size, 1}}};
    for (int i = 0; i < 3; i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof(name), "model.layers.%d.mlp.experts.%d.%s", layer, expert,
                 names[parts[i].role][FORMAT_HF]);
        bind__tensor(b, parts[i].dst, 2, parts[i].ne, name);
    }
}

static void bind_experts_gguf(struct binder *b, const struct model_config *c, int layer,
                              struct ffn_tensors *experts)
{
    struct tensor gate = {0}, up = {0}, both = {0}, down = {0};
    int64_t hidden = c->hidden_size, width = c->moe_intermediate_size, n = c->n_routed_experts;
    bool fused = has(b, layer, EXPERTS_GATE_UP);
    if (fused) {
        need(b, &both, layer, EXPERTS_GATE_UP, 3, hidden, 2 * width, n);
    } else {
        need(b, &gate, layer, EXPERTS_GATE, 3, hidden, width, n);
        need(b, &up, layer, EXPERTS_UP, 3, hidden, width, n);
    }
    need(b, &down, layer, EXPERTS_DOWN, 3, width, hidden, n);
    for (int64_t i = 0; b->r == 0 && i < n; i++) {
        if (fused) {
            struct tensor one = tensor_slice(&both, i);
            experts[i].gate = tensor_rows(&one, 0, width);
            experts[i].up = tensor_rows(&one, width, width);
        } else {
            experts[i].gate = tensor_slice(&gate, i);
            experts[i].up = tensor_slice(&up, i);
        }
        experts[i].down = tensor_slice(&down, i);
    }
}

static void bind_routed(struct binder *b, const struct model_config *c, int i,
                        struct layer_tensors *l)
{
    static const enum role shared[3] = {SHARED_GATE, SHARED_UP, SHARED_DOWN};
    char name[NAME_BYTES];
    const int64_t bias_ne[3] = {c->n_routed_experts, 1, 1};
    need_matrix(b, &l->router, i, ROUTER, c->hidden_size, c->n_routed_experts);
    layer_name(b, i, ROUTER_BIAS, name);
    /* Folders of sigmoid gates always have the bias: one without it is incomplete, and would route
     * to other experts in silence. */
    if (b->format == FORMAT_HF && c->gating == GATING_SIGMOID)
        bind__tensor(b, &l->router_bias, 1, bias_ne, name);
    else
        bind__optional(b, &l->router_bias, 1, bias_ne, name);
    if (c->n_shared_experts > 0)
        bind_ffn(b, i, shared, c->hidden_size,
                 (int64_t)c->n_shared_experts * c->moe_intermediate_size, &l->shared);
    /* the router's rows are in the file by now, so the number of experts is bounded by it */
    l->experts = bind__alloc(b, (size_t)c->n_routed_experts, sizeof(*l->experts));
    if (!l->experts)
        return;
    if (b->format == FORMAT_GGUF)
        bind_experts_gguf(b, c, i, l->experts);
    else
        for (int x = 0; b->r == 0 && x < c->n_routed_experts; x++)
            bind_expert_hf(b, c, i, x, &l->experts[x]);
}

static void bind_indexer(struct binder *b, const struct model_config *c, int i,
                         struct layer_tensors *l)
{
    int64_t dim = c->index_head_dim, heads = c->index_n_heads;
    l->attention = "dsa";
    need_matrix(b, &l->index_q, i, INDEX_Q, c->q_lora_rank, heads * dim);
    need_matrix(b, &l->index_k, i, INDEX_K, c->hidden_size, dim);
    need_vector(b, &l->index_k_norm, i, INDEX_K_NORM, dim);
    need_vector(b, &l->index_k_norm_bias, i, INDEX_K_NORM_BIAS, dim);
    need_matrix(b, &l->index_weights, i, INDEX_WEIGHTS, c->hidden_size, heads);
}

static void bind_layer(struct binder *b, const struct model_config *c, int i,
                       struct layer_tensors *l)
{
    static const enum role dense[3] = {GATE, UP, DOWN};
    bind_attention(b, c, i, l);
    if (c->index_topk > 0 && (i < c->num_hidden_layers || has(b, i, INDEX_Q)))
        bind_indexer(b, c, i, l);
    if (c->n_routed_experts == 0 || i < c->first_k_dense_replace)
        bind_ffn(b, i, dense, c->hidden_size, c->intermediate_size, &l->dense);
    else
        bind_routed(b, c, i, l);
}

/* Files may declare blocks whose tensors they leave out: then there are none. */
static void bind_mtp(struct binder *b, const struct model_config *c)
{
    int n = c->num_nextn_predict_layers, first = c->num_hidden_layers;
    if (n == 0 || b->r < 0)
        return;
    for (int i = 0; i < n; i++)
        if (!has(b, first + i, EH_PROJ))
            return;
    struct mtp_tensors *m = bind__alloc(b, (size_t)n, sizeof(*m));
    for (int i = 0; m && i < n; i++) {
        int at = first + i;
        char name[NAME_BYTES];
        const int64_t norm_ne[3] = {c->hidden_size, 1, 1};
        const int64_t embd_ne[3] = {c->hidden_size, c->vocab_size, 1};
        bind_layer(b, c, at, &m[i].layer);
        need_matrix(b, &m[i].eh_proj, at, EH_PROJ, 2 * (int64_t)c->hidden_size, c->hidden_size);
        need_vector(b, &m[i].enorm, at, ENORM, c->hidden_size);
        need_vector(b, &m[i].hnorm, at, HNORM, c->hidden_size);
        bind__optional(b, &m[i].shared_head_norm, 1, norm_ne,
                       layer_name(b, at, SHARED_HEAD_NORM, name));
        bind__optional(b, &m[i].shared_head, 2, embd_ne, layer_name(b, at, SHARED_HEAD, name));
        bind__optional(b, &m[i].embed_tokens, 2, embd_ne, layer_name(b, at, MTP_EMBED, name));
    }
    b->ck->mtp = m;
}

void deepseek__bind_ends(struct binder *b)
{
    struct checkpoint *ck = b->ck;
    const struct model_config *c = &ck->config;
    bool gguf = b->format == FORMAT_GGUF;
    const int64_t embd_ne[3] = {c->hidden_size, c->vocab_size, 1}, norm_ne[3] = {c->hidden_size, 1, 1};
    bind__tensor(b, &ck->token_embd, 2, embd_ne, gguf ? "token_embd.weight" : "model.embed_tokens.weight");
    bind__tensor(b, &ck->output_norm, 1, norm_ne, gguf ? "output_norm.weight" : "model.norm.weight");
    if (c->tie_word_embeddings)
        ck->output = ck->token_embd;
    else
        bind__tensor(b, &ck->output, 2, embd_ne, gguf ? "output.weight" : "lm_head.weight");
}

void deepseek__bind(struct binder *b)
{
    struct checkpoint *ck = b->ck;
    const struct model_config *c = &ck->config;
    b->counting = true;
    deepseek__bind_ends(b);
    ck->layers = bind__alloc(b, (size_t)c->num_hidden_layers, sizeof(*ck->layers));
    for (int i = 0; b->r == 0 && i < c->num_hidden_layers; i++)
        bind_layer(b, c, i, &ck->layers[i]);
    b->counting = false;
    bind_mtp(b, c);
}
