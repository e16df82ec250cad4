/* engine/model/arch_longcat.c - LongCat-Flash (arXiv 2509.01322): two latent attentions and two dense
 * feed-forward blocks in a layer, and experts beside them on a shortcut, some of which are identity.
 *
 * Each of its layers becomes two here (attentions_per_layer), each with an attention and a dense block;
 * the first holds the experts too. Identity ("zero") experts come last and have no tensors: folders may
 * list some for them, which nothing reads. Router: softmax over all, correction bias for choosing.
 *
 * GGUF has no architecture of this name elsewhere; ours is "longcat-flash", with the keys and tensors of
 * "deepseek2" where there is one. block_count counts the attentions. Blocks have ffn_gate, ffn_up and
 * ffn_down; even ones also ffn_gate_inp, exp_probs_b and ffn_*_exps. Further keys: expert_zero_count,
 * attention.q_lora_scale and attention.kv_lora_scale. */
#include "config.h"

#include "engine/model/deepseek.h"
#include "engine/model/gguf_write.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum role {
    ATTN_NORM, Q_A, Q_A_NORM, Q_B, KV_A, KV_A_NORM, KV_B, K_B, V_B, O, FFN_NORM, GATE, UP, DOWN,
    ROUTER, ROUTER_BIAS, EXPERTS_GATE, EXPERTS_UP, EXPERTS_DOWN, N_ROLES,
};

/* By role: after "blk.N."; in folders before and after the attention's number in its layer, or the
 * expert's. */
static const struct {
    const char *gguf, *before, *after;
} names[N_ROLES] = {
    [ATTN_NORM] = {"attn_norm.weight", "input_layernorm", "weight"},
    [Q_A] = {"attn_q_a.weight", "self_attn", "q_a_proj.weight"},
    [Q_A_NORM] = {"attn_q_a_norm.weight", "self_attn", "q_a_layernorm.weight"},
    [Q_B] = {"attn_q_b.weight", "self_attn", "q_b_proj.weight"},
    [KV_A] = {"attn_kv_a_mqa.weight", "self_attn", "kv_a_proj_with_mqa.weight"},
    [KV_A_NORM] = {"attn_kv_a_norm.weight", "self_attn", "kv_a_layernorm.weight"},
    [KV_B] = {"attn_kv_b.weight", "self_attn", "kv_b_proj.weight"},
    [K_B] = {"attn_k_b.weight", NULL, NULL},
    [V_B] = {"attn_v_b.weight", NULL, NULL},
    [O] = {"attn_output.weight", "self_attn", "o_proj.weight"},
    [FFN_NORM] = {"ffn_norm.weight", "post_attention_layernorm", "weight"},
    [GATE] = {"ffn_gate.weight", "mlps", "gate_proj.weight"},
    [UP] = {"ffn_up.weight", "mlps", "up_proj.weight"},
    [DOWN] = {"ffn_down.weight", "mlps", "down_proj.weight"},
    [ROUTER] = {"ffn_gate_inp.weight", "mlp.router.classifier.weight", NULL},
    [ROUTER_BIAS] = {"exp_probs_b.bias", "mlp.router.e_score_correction_bias", NULL},
    [EXPERTS_GATE] = {"ffn_gate_exps.weight", "mlp.experts", "gate_proj.weight"},
    [EXPERTS_UP] = {"ffn_up_exps.weight", "mlp.experts", "up_proj.weight"},
    [EXPERTS_DOWN] = {"ffn_down_exps.weight", "mlp.experts", "down_proj.weight"},
};

#define NAME_BYTES 128

/* --- sizes ------------------------------------------------------------------------------------- */

static void finish(struct keys *k, const char *blocks, struct model_config *c)
{
    c->attentions_per_layer = 2;
    c->first_k_dense_replace = 0;
    c->n_shared_experts = 0;
    c->n_group = c->topk_group = 1;
    c->norm_topk_prob = false;
    c->gating = GATING_SOFTMAX;
    c->latent_norm_eps = DEEPSEEK_LATENT_EPS;
    c->rope_interleave = true;
    if (c->num_hidden_layers % 2)
        keys__fail(k, ERR_FORMAT, blocks, "is %d; two attentions a layer make an even number",
                   c->num_hidden_layers);
}

static void config_gguf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    deepseek__config_gguf(k, tix, c);
    if (keys__int_or(k, "nextn_predict_layers", 0, MAX_LAYERS, 0))
        keys__fail(k, ERR_UNSUPPORTED, "nextn_predict_layers", "must be 0");
    if (k->r == 0 && c->n_routed_experts == 0)
        keys__fail(k, ERR_FORMAT, "expert_count", "must be at least 1");
    c->intermediate_size = (int)keys__int(k, "feed_forward_length", 1, MAX_DIM);
    c->zero_expert_num = (int)keys__int_or(k, "expert_zero_count", 0, MAX_EXPERTS, 0);
    c->mla_scale_q_lora = keys__float_or(k, "attention.q_lora_scale", 1e-6, 1e6, 1);
    c->mla_scale_kv_lora = keys__float_or(k, "attention.kv_lora_scale", 1e-6, 1e6, 1);
    if (k->r == 0 && c->q_lora_rank == 0)
        keys__fail(k, ERR_FORMAT, "attention.q_lora_rank", "must be at least 1");
    if (k->r == 0 && c->gating != GATING_SOFTMAX)
        keys__fail(k, ERR_UNSUPPORTED, "expert_gating_func", "is %d; 1 (softmax) is served",
                   c->gating);
    finish(k, "block_count", c);
}

static void config_hf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    char s[32];
    (void)tix;
    deepseek__refuse_variants(k);
    c->vocab_size = (int)keys__int(k, "vocab_size", 1, MAX_VOCAB);
    c->hidden_size = (int)keys__int(k, "hidden_size", 1, MAX_DIM);
    c->num_hidden_layers = 2 * (int)keys__int(k, "num_layers", 1, MAX_LAYERS / 2);
    c->num_attention_heads = (int)keys__int(k, "num_attention_heads", 1, MAX_HEADS);
    c->q_lora_rank = (int)keys__int(k, "q_lora_rank", 1, MAX_DIM);
    c->kv_lora_rank = (int)keys__int(k, "kv_lora_rank", 1, MAX_DIM);
    c->qk_nope_head_dim = (int)keys__int(k, "qk_nope_head_dim", 1, MAX_HEAD_DIM);
    c->qk_rope_head_dim = (int)keys__int(k, "qk_rope_head_dim", 2, MAX_HEAD_DIM);
    c->v_head_dim = (int)keys__int(k, "v_head_dim", 1, MAX_HEAD_DIM);
    c->max_position_embeddings = (int)keys__int(k, "max_position_embeddings", 1, MAX_CONTEXT);
    c->rms_norm_eps = keys__float_or(k, "rms_norm_eps", 0, 1, 1e-5);
    c->tie_word_embeddings = keys__bool_or(k, "tie_word_embeddings", false);
    c->intermediate_size = (int)keys__int(k, "ffn_hidden_size", 1, MAX_DIM);
    c->moe_intermediate_size = (int)keys__int(k, "expert_ffn_hidden_size", 1, MAX_DIM);
    c->n_routed_experts = (int)keys__int(k, "n_routed_experts", 1, MAX_EXPERTS);
    c->zero_expert_num = (int)keys__int_or(k, "zero_expert_num", 0, MAX_EXPERTS, 0);
    c->num_experts_per_tok = (int)keys__int(k, "moe_topk", 1, c->n_routed_experts);
    c->routed_scaling_factor = keys__float_or(k, "routed_scaling_factor", 0, 1e6, 6);
    keys__string(k, "zero_expert_type", s, sizeof(s), "identity");
    if (k->r == 0 && strcmp(s, "identity"))
        keys__fail(k, ERR_UNSUPPORTED, "zero_expert_type", "is %s; identity is served", s);
    if (keys__bool_or(k, "router_bias", false))
        keys__fail(k, ERR_UNSUPPORTED, "router_bias", "must be false");
    deepseek__rope_hf(k, c);
    if (!keys__has(k, "rope_theta") && !keys__has(k, "rope_parameters.rope_theta"))
        c->rope_theta = 1e7f;
    c->mla_scale_q_lora = c->mla_scale_kv_lora = 1.0f;
    if (k->r == 0 && keys__bool_or(k, "mla_scale_q_lora", true))
        c->mla_scale_q_lora = sqrtf((float)c->hidden_size / (float)c->q_lora_rank);
    if (k->r == 0 && keys__bool_or(k, "mla_scale_kv_lora", true))
        c->mla_scale_kv_lora = sqrtf((float)c->hidden_size / (float)c->kv_lora_rank);
    finish(k, "num_layers", c);
}

/* --- tensors ----------------------------------------------------------------------------------- */

/* number: of the attention in its layer, or of the expert. */
static const char *name_of(const struct binder *b, int i, enum role role, int number,
                           char dst[NAME_BYTES])
{
    if (b->format == FORMAT_GGUF)
        snprintf(dst, NAME_BYTES, "blk.%d.%s", i, names[role].gguf);
    else if (names[role].after)
        snprintf(dst, NAME_BYTES, "model.layers.%d.%s.%d.%s", i / 2, names[role].before, number,
                 names[role].after);
    else
        snprintf(dst, NAME_BYTES, "model.layers.%d.%s", i / 2, names[role].before);
    return dst;
}

static void need(struct binder *b, struct tensor *dst, int i, enum role role, int n_dims, int64_t ne0,
                 int64_t ne1, int64_t ne2)
{
    char name[NAME_BYTES];
    const int64_t ne[3] = {ne0, ne1, ne2};
    bind__tensor(b, dst, n_dims, ne, name_of(b, i, role, i % 2, name));
}

static bool has(const struct binder *b, int i, enum role role)
{
    char name[NAME_BYTES];
    return bind__has(b, name_of(b, i, role, i % 2, name));
}

static void bind_attention(struct binder *b, const struct model_config *c, int i,
                           struct layer_tensors *l)
{
    int64_t hidden = c->hidden_size, heads = c->num_attention_heads, latent = c->kv_lora_rank;
    int64_t nope = c->qk_nope_head_dim, rope = c->qk_rope_head_dim, v = c->v_head_dim;
    need(b, &l->attn_norm, i, ATTN_NORM, 1, hidden, 1, 1);
    need(b, &l->q_a, i, Q_A, 2, hidden, c->q_lora_rank, 1);
    need(b, &l->q_a_norm, i, Q_A_NORM, 1, c->q_lora_rank, 1, 1);
    need(b, &l->q_b, i, Q_B, 2, c->q_lora_rank, heads * (nope + rope), 1);
    need(b, &l->kv_a, i, KV_A, 2, hidden, latent + rope, 1);
    need(b, &l->kv_a_norm, i, KV_A_NORM, 1, latent, 1, 1);
    if (b->format == FORMAT_HF || (has(b, i, KV_B) && !has(b, i, K_B))) {
        need(b, &l->kv_b, i, KV_B, 2, latent, heads * (nope + v), 1);
    } else {
        need(b, &l->k_b, i, K_B, 3, nope, latent, heads);
        need(b, &l->v_b, i, V_B, 3, latent, v, heads);
    }
    need(b, &l->o, i, O, 2, heads * v, hidden, 1);
}

static void bind_expert(struct binder *b, struct tensor *dst, int i, enum role role, int expert,
                        int64_t n_in, int64_t n_out)
{
    char name[NAME_BYTES];
    const int64_t ne[3] = {n_in, n_out, 1};
    bind__tensor(b, dst, 2, ne, name_of(b, i, role, expert, name));
}

static void bind_experts(struct binder *b, const struct model_config *c, int i,
                         struct layer_tensors *l)
{
    int64_t hidden = c->hidden_size, width = c->moe_intermediate_size, n = c->n_routed_experts;
    struct tensor gate = {0}, up = {0}, down = {0};
    need(b, &l->router, i, ROUTER, 2, hidden, n + c->zero_expert_num, 1);
    need(b, &l->router_bias, i, ROUTER_BIAS, 1, n + c->zero_expert_num, 1, 1);
    l->experts = bind__alloc(b, (size_t)n, sizeof(*l->experts));
    if (!l->experts)
        return;
    if (b->format == FORMAT_GGUF) {
        need(b, &gate, i, EXPERTS_GATE, 3, hidden, width, n);
        need(b, &up, i, EXPERTS_UP, 3, hidden, width, n);
        need(b, &down, i, EXPERTS_DOWN, 3, width, hidden, n);
    }
    for (int x = 0; b->r == 0 && x < n; x++) {
        struct ffn_tensors *f = &l->experts[x];
        if (b->format == FORMAT_GGUF) {
            *f = (struct ffn_tensors){tensor_slice(&gate, x), tensor_slice(&up, x),
                                      tensor_slice(&down, x)};
            continue;
        }
        bind_expert(b, &f->gate, i, EXPERTS_GATE, x, hidden, width);
        bind_expert(b, &f->up, i, EXPERTS_UP, x, hidden, width);
        bind_expert(b, &f->down, i, EXPERTS_DOWN, x, width, hidden);
    }
}

static void bind(struct binder *b)
{
    struct checkpoint *ck = b->ck;
    const struct model_config *c = &ck->config;
    b->counting = true;
    deepseek__bind_ends(b);
    ck->layers = bind__alloc(b, (size_t)c->num_hidden_layers, sizeof(*ck->layers));
    for (int i = 0; b->r == 0 && i < c->num_hidden_layers; i++) {
        struct layer_tensors *l = &ck->layers[i];
        l->attention = "mla";
        bind_attention(b, c, i, l);
        need(b, &l->ffn_norm, i, FFN_NORM, 1, c->hidden_size, 1, 1);
        need(b, &l->dense.gate, i, GATE, 2, c->hidden_size, c->intermediate_size, 1);
        need(b, &l->dense.up, i, UP, 2, c->hidden_size, c->intermediate_size, 1);
        need(b, &l->dense.down, i, DOWN, 2, c->intermediate_size, c->hidden_size, 1);
        if (i % 2 == 0)
            bind_experts(b, c, i, l);
    }
    b->counting = false;
}

static int keys_out(const struct model_config *c, struct gguf_writer *w, struct err *e)
{
    gguf_write_u32(w, ".expert_zero_count", c->zero_expert_num);
    gguf_write_f32(w, ".attention.q_lora_scale", c->mla_scale_q_lora);
    gguf_write_f32(w, ".attention.kv_lora_scale", c->mla_scale_kv_lora);
    return deepseek__keys_out(c, w, e);
}

static const struct arch_out gguf_out = {"longcat-flash", true, true, keys_out};

/* declared by arch.c through arch.def */
extern const struct arch arch__longcat;
const struct arch arch__longcat = {
    .name = "longcat_flash",
    .gguf_name = "longcat-flash",
    .hf_model_type = "longcat_flash",
    .config_gguf = config_gguf,
    .config_hf = config_hf,
    .bind = bind,
    .out = &gguf_out,
};
