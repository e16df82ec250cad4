/* engine/model/deepseek.c - keys of the DeepSeek family in both formats; see deepseek.h. Tensors are
 * bound in deepseek_bind.c. */
#include "config.h"

#include "engine/model/deepseek.h"

#include <stdio.h>
#include <string.h>

#define MAX_SHARED_EXPERTS 64
#define MAX_NEXTN 16

/* --- rotary embedding -------------------------------------------------------------------------- */

static void yarn_gguf(struct keys *k, struct model_config *c)
{
    struct rope_scaling *s = &c->rope_scaling;
    char type[32];
    keys__string(k, "rope.scaling.type", type, sizeof(type), "none");
    if (strcmp(type, "none") == 0)
        return;
    s->factor = keys__float(k, "rope.scaling.factor", 1, 1e6);
    if (strcmp(type, "linear") == 0 && s->factor == 1.0f)
        return;
    if (strcmp(type, "yarn")) {
        keys__fail(k, ERR_UNSUPPORTED, "rope.scaling.type", "is %s; none and yarn are served", type);
        return;
    }
    s->type = ROPE_SCALING_YARN;
    s->original_max_position_embeddings =
        (int)keys__int_or(k, "rope.scaling.original_context_length", 1, MAX_CONTEXT,
                          c->max_position_embeddings);
    s->beta_fast = keys__float_or(k, "rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32);
    s->beta_slow = keys__float_or(k, "rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1);
    /* Converters write a tenth of mscale_all_dim. The amplitude of cosines and sines stays 1, which
     * equal mscale and mscale_all_dim say. */
    s->mscale_all_dim = 10 * keys__float_or(k, "rope.scaling.yarn_log_multiplier", 0, 10, 0);
    s->mscale = s->mscale_all_dim;
    static const char *const fixed[] = {"rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor",
                                        "rope.scaling.yarn_ext_factor"};
    for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++) {
        float v = keys__float_or(k, fixed[i], -1e6, 1e6, 1);
        if (v != 1.0f)
            keys__fail(k, ERR_UNSUPPORTED, fixed[i], "is %g; only 1 is served", (double)v);
    }
}

const char *deepseek__rope_group(struct keys *k)
{
    bool older = keys__has(k, "rope_scaling.rope_type") || keys__has(k, "rope_scaling.type");
    return older || !keys__has(k, "rope_parameters") ? "rope_scaling" : "rope_parameters";
}

static const char *rope_path(char *dst, size_t dst_bytes, const char *group, const char *key)
{
    snprintf(dst, dst_bytes, "%s.%s", group, key);
    return dst;
}

/* Unless it is said, the factor is the ratio of the two lengths. */
static void longrope_hf(struct keys *k, const char *group, struct model_config *c)
{
    struct rope_scaling *s = &c->rope_scaling;
    char p[64];
    int n = c->qk_rope_head_dim / 2;
    s->type = ROPE_SCALING_LONGROPE;
    if (n > ROPE_MAX_FACTORS) {
        keys__fail(k, ERR_UNSUPPORTED, "qk_rope_head_dim", "is %d; at most %d is accepted",
                   c->qk_rope_head_dim, 2 * ROPE_MAX_FACTORS);
        return;
    }
    keys__floats(k, rope_path(p, sizeof(p), group, "short_factor"), n, 1e-6, 1e6, s->short_factor);
    keys__floats(k, rope_path(p, sizeof(p), group, "long_factor"), n, 1e-6, 1e6, s->long_factor);
    s->original_max_position_embeddings = (int)keys__int_or(
        k, rope_path(p, sizeof(p), group, "original_max_position_embeddings"), 2, MAX_CONTEXT, 0);
    if (s->original_max_position_embeddings == 0)
        s->original_max_position_embeddings = (int)keys__int_or(
            k, "original_max_position_embeddings", 2, MAX_CONTEXT, c->max_position_embeddings);
    s->factor = keys__float_or(k, rope_path(p, sizeof(p), group, "factor"), 1e-3, 1e6,
                               (double)c->max_position_embeddings /
                                   (double)s->original_max_position_embeddings);
    s->attention_factor =
        keys__float_or(k, rope_path(p, sizeof(p), group, "attention_factor"), 1e-3, 1e3, 0);
}

void deepseek__rope_hf(struct keys *k, struct model_config *c)
{
    struct rope_scaling *s = &c->rope_scaling;
    const char *g = deepseek__rope_group(k);
    char type[32], p[64];
    c->rope_interleave = keys__bool_or(k, "rope_interleave", true);
    c->rope_theta = keys__float_or(k, "rope_theta", 1, 1e12, 10000);
    c->rope_theta = keys__float_or(k, "rope_parameters.rope_theta", 1, 1e12, (double)c->rope_theta);
    c->rope_theta = keys__float_or(k, "rope_scaling.rope_theta", 1, 1e12, (double)c->rope_theta);
    if (keys__has(k, rope_path(p, sizeof(p), g, "rope_type")))
        keys__string(k, p, type, sizeof(type), NULL);
    else
        keys__string(k, rope_path(p, sizeof(p), g, "type"), type, sizeof(type), "default");
    if (strcmp(type, "default") == 0 || k->r < 0)
        return;
    if (strcmp(type, "longrope") == 0) {
        longrope_hf(k, g, c);
        return;
    }
    if (strcmp(type, "yarn")) {
        keys__fail(k, ERR_UNSUPPORTED, p, "is %s; default, yarn and longrope are served", type);
        return;
    }
    s->type = ROPE_SCALING_YARN;
    s->factor = keys__float(k, rope_path(p, sizeof(p), g, "factor"), 1, 1e6);
    s->original_max_position_embeddings =
        (int)keys__int_or(k, rope_path(p, sizeof(p), g, "original_max_position_embeddings"), 1,
                          MAX_CONTEXT, c->max_position_embeddings);
    s->beta_fast = keys__float_or(k, rope_path(p, sizeof(p), g, "beta_fast"), 1e-3, 1e6, 32);
    s->beta_slow = keys__float_or(k, rope_path(p, sizeof(p), g, "beta_slow"), 1e-3, 1e6, 1);
    s->mscale = keys__float_or(k, rope_path(p, sizeof(p), g, "mscale"), 0, 100, 0);
    s->mscale_all_dim = keys__float_or(k, rope_path(p, sizeof(p), g, "mscale_all_dim"), 0, 100, 0);
    if (keys__has(k, rope_path(p, sizeof(p), g, "attention_factor")))
        keys__fail(k, ERR_UNSUPPORTED, p, "is not served: leave it out, mscale says the same");
    if (!keys__bool_or(k, rope_path(p, sizeof(p), g, "truncate"), true))
        keys__fail(k, ERR_UNSUPPORTED, p, "must be true");
}

/* --- routing ----------------------------------------------------------------------------------- */

void deepseek__check_routing(struct keys *k, const struct model_config *c)
{
    bool gguf = k->gguf != NULL;
    const char *groups = gguf ? "expert_group_count" : "n_group";
    const char *used_groups = gguf ? "expert_group_used_count" : "topk_group";
    const char *used = gguf ? "expert_used_count" : "num_experts_per_tok";
    if (k->r < 0 || c->n_routed_experts == 0)
        return;
    int per_group = c->n_routed_experts / c->n_group;
    if (c->n_routed_experts % c->n_group)
        keys__fail(k, ERR_FORMAT, groups, "is %d and does not divide %d experts", c->n_group,
                   c->n_routed_experts);
    if (c->topk_group > c->n_group)
        keys__fail(k, ERR_FORMAT, used_groups, "is %d; 1..%d is accepted (the groups)",
                   c->topk_group, c->n_group);
    if (c->num_experts_per_tok > c->topk_group * per_group)
        keys__fail(k, ERR_FORMAT, used, "is %d; 1..%d is accepted (experts of the groups in use)",
                   c->num_experts_per_tok, c->topk_group * per_group);
}

/* Gate functions by GGUF number. Files from before the key had softmax gates, but for one model. */
static enum gating_func gating_gguf(struct keys *k, const struct model_config *c)
{
    bool glm_flash = c->vocab_size == 154880 &&
                     (c->num_hidden_layers == 47 || c->num_hidden_layers == 48);
    int v = (int)keys__int_or(k, "expert_gating_func", 0, 1000, 0);
    if (v == 0)
        return glm_flash ? GATING_SIGMOID : GATING_SOFTMAX;
    if (v != GATING_SOFTMAX && v != GATING_SIGMOID)
        keys__fail(k, ERR_UNSUPPORTED, "expert_gating_func",
                   "is %d; 1 (softmax) and 2 (sigmoid) are served", v);
    return (enum gating_func)v;
}

/* Queries that grow with their position (Mistral-Large-3, which is converted to this architecture). */
static void refuse_tempered(struct keys *k, const char *key)
{
    if (keys__float_or(k, key, -1e6, 1e6, 0) != 0.0f)
        keys__fail(k, ERR_UNSUPPORTED, key, "must be 0: queries scaled by position are not served");
}

/* --- the two configurations -------------------------------------------------------------------- */

void deepseek__config_gguf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    const struct tix_entry *embd = tix__find(tix, "token_embd.weight");
    int64_t rows = embd && embd->t.ne[1] <= MAX_VOCAB ? embd->t.ne[1] : 0;
    c->vocab_size = (int)keys__int_or(k, "vocab_size", 1, MAX_VOCAB, rows);
    if (c->vocab_size == 0)
        keys__fail(k, ERR_FORMAT, "vocab_size", "is missing");
    c->hidden_size = (int)keys__int(k, "embedding_length", 1, MAX_DIM);
    c->num_nextn_predict_layers = (int)keys__int_or(k, "nextn_predict_layers", 0, MAX_NEXTN, 0);
    int nextn = c->num_nextn_predict_layers;
    c->num_hidden_layers = (int)keys__int(k, "block_count", nextn + 1, MAX_LAYERS) - nextn;
    c->max_position_embeddings = (int)keys__int(k, "context_length", 1, MAX_CONTEXT);
    c->num_attention_heads = (int)keys__int(k, "attention.head_count", 1, MAX_HEADS);
    c->kv_lora_rank = (int)keys__int(k, "attention.kv_lora_rank", 1, MAX_DIM);
    c->qk_rope_head_dim = (int)keys__int(k, "rope.dimension_count", 2, MAX_HEAD_DIM);
    /* The key of the queries' rank is in files without it, too: what counts is the tensor. */
    if (!tix__find(tix, "blk.0.attn_q.weight"))
        c->q_lora_rank = (int)keys__int(k, "attention.q_lora_rank", 1, MAX_DIM);
    /* Files whose up-projection is split per head count both head sizes under *_mla, and those of
     * the cache row under the plain names; older ones know only the former, under the plain names. */
    bool split = keys__int_or(k, "attention.key_length_mla", 0, MAX_HEAD_DIM, 0) > 0 &&
                 keys__int_or(k, "attention.value_length_mla", 0, MAX_HEAD_DIM, 0) > 0;
    int key_length = (int)keys__int(k, split ? "attention.key_length_mla" : "attention.key_length",
                                    c->qk_rope_head_dim + 1, MAX_HEAD_DIM);
    c->qk_nope_head_dim = key_length - c->qk_rope_head_dim;
    c->v_head_dim = (int)keys__int(
        k, split ? "attention.value_length_mla" : "attention.value_length", 1, MAX_HEAD_DIM);
    c->n_routed_experts = (int)keys__int_or(k, "expert_count", 0, MAX_EXPERTS, 0);
    int64_t dense = c->n_routed_experts ? 0 : c->num_hidden_layers;
    c->first_k_dense_replace =
        (int)keys__int_or(k, "leading_dense_block_count", 0, MAX_LAYERS, dense);
    if (c->n_routed_experts == 0 || c->first_k_dense_replace > 0)
        c->intermediate_size = (int)keys__int(k, "feed_forward_length", 1, MAX_DIM);
    if (c->n_routed_experts > 0) {
        c->moe_intermediate_size = (int)keys__int(k, "expert_feed_forward_length", 1, MAX_DIM);
        c->num_experts_per_tok = (int)keys__int(k, "expert_used_count", 1, c->n_routed_experts);
        c->n_shared_experts =
            (int)keys__int_or(k, "expert_shared_count", 0, MAX_SHARED_EXPERTS, 0);
        c->n_group = (int)keys__int_or(k, "expert_group_count", 1, c->n_routed_experts, 1);
        c->topk_group = (int)keys__int_or(k, "expert_group_used_count", 1, c->n_routed_experts,
                                          c->n_group);
        c->norm_topk_prob = keys__bool_or(k, "expert_weights_norm", false);
        c->routed_scaling_factor = keys__float_or(k, "expert_weights_scale", 0, 1e6, 0);
        if (c->routed_scaling_factor == 0.0f) /* converters' way to say: not scaled */
            c->routed_scaling_factor = 1.0f;
        c->gating = gating_gguf(k, c);
        /* softmax gates with groups are DeepSeek-V2's */
        if (c->gating == GATING_SOFTMAX)
            c->topk_method = TOPK_GROUP_LIMITED_GREEDY;
        deepseek__check_routing(k, c);
    }
    refuse_tempered(k, "attention.temperature_scale");
    c->rms_norm_eps = keys__float(k, "attention.layer_norm_rms_epsilon", 0, 1);
    c->latent_norm_eps = keys__float_or(k, DEEPSEEK_KEY_LATENT_EPS, 0, 1, 0);
    c->rope_theta = keys__float_or(k, "rope.freq_base", 1, 1e12, 10000);
    c->rope_interleave = true; /* converters keep pairs adjacent for this architecture */
    yarn_gguf(k, c);
    c->tie_word_embeddings = !tix__find(tix, "output.weight");
}

void deepseek__refuse_activation(struct keys *k)
{
    char s[64];
    keys__string(k, "hidden_act", s, sizeof(s), "silu");
    if (k->r == 0 && strcmp(s, "silu"))
        keys__fail(k, ERR_UNSUPPORTED, "hidden_act", "is %s; silu is served", s);
}

void deepseek__refuse_quantised(struct keys *k)
{
    char s[64];
    keys__string(k, "quantization_config.quant_method", s, sizeof(s), "");
    /* fp8 tensors say so themselves, by name and dtype */
    if (s[0] && strcmp(s, "fp8"))
        keys__fail(k, ERR_UNSUPPORTED, "quantization_config.quant_method",
                   "is %s; folders with F32, F16, BF16 or fp8 weights are served", s);
}

void deepseek__refuse_variants(struct keys *k)
{
    deepseek__refuse_activation(k);
    static const char *const partial[] = {"partial_rotary_factor", "rope_parameters.partial_rotary_factor"};
    for (size_t i = 0; i < sizeof(partial) / sizeof(partial[0]); i++)
        if (keys__float_or(k, partial[i], 0, 1e6, 1) != 1.0f)
            keys__fail(k, ERR_UNSUPPORTED, partial[i], "must be 1");
    if (keys__bool_or(k, "attention_bias", false))
        keys__fail(k, ERR_UNSUPPORTED, "attention_bias", "must be false");
    if (keys__int_or(k, "moe_layer_freq", 1, MAX_LAYERS, 1) != 1)
        keys__fail(k, ERR_UNSUPPORTED, "moe_layer_freq", "must be 1");
    refuse_tempered(k, "llama_4_scaling.beta");
    refuse_tempered(k, "rope_parameters.llama_4_scaling_beta");
    deepseek__refuse_quantised(k);
}

void deepseek__config_hf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    (void)tix;
    deepseek__refuse_variants(k);
    c->vocab_size = (int)keys__int(k, "vocab_size", 1, MAX_VOCAB);
    c->hidden_size = (int)keys__int(k, "hidden_size", 1, MAX_DIM);
    c->num_hidden_layers = (int)keys__int(k, "num_hidden_layers", 1, MAX_LAYERS);
    c->num_nextn_predict_layers =
        (int)keys__int_or(k, "num_nextn_predict_layers", 0, MAX_NEXTN, 0);
    c->num_attention_heads = (int)keys__int(k, "num_attention_heads", 1, MAX_HEADS);
    c->q_lora_rank = (int)keys__int_or(k, "q_lora_rank", 0, MAX_DIM, 0);
    c->kv_lora_rank = (int)keys__int(k, "kv_lora_rank", 1, MAX_DIM);
    c->qk_nope_head_dim = (int)keys__int(k, "qk_nope_head_dim", 1, MAX_HEAD_DIM);
    c->qk_rope_head_dim = (int)keys__int(k, "qk_rope_head_dim", 2, MAX_HEAD_DIM);
    c->v_head_dim = (int)keys__int(k, "v_head_dim", 1, MAX_HEAD_DIM);
    c->max_position_embeddings = (int)keys__int(k, "max_position_embeddings", 1, MAX_CONTEXT);
    c->rms_norm_eps = keys__float_or(k, "rms_norm_eps", 0, 1, 1e-6);
    c->tie_word_embeddings = keys__bool_or(k, "tie_word_embeddings", false);
    c->n_routed_experts = (int)keys__int_or(k, "n_routed_experts", 0, MAX_EXPERTS, 0);
    int64_t dense = c->n_routed_experts ? 0 : c->num_hidden_layers;
    c->first_k_dense_replace = (int)keys__int_or(k, "first_k_dense_replace", 0, MAX_LAYERS, dense);
    if (c->n_routed_experts > 0) /* newer configurations list the kinds of layers; the list wins */
        c->first_k_dense_replace =
            keys__layer_kinds(k, "mlp_layer_types", c->num_hidden_layers, "dense", "sparse",
                              c->first_k_dense_replace);
    if (c->n_routed_experts == 0 || c->first_k_dense_replace > 0)
        c->intermediate_size = (int)keys__int(k, "intermediate_size", 1, MAX_DIM);
    if (c->n_routed_experts > 0) {
        c->moe_intermediate_size = (int)keys__int(k, "moe_intermediate_size", 1, MAX_DIM);
        c->num_experts_per_tok = (int)keys__int(k, "num_experts_per_tok", 1, c->n_routed_experts);
        c->n_shared_experts = (int)keys__int_or(k, "n_shared_experts", 0, MAX_SHARED_EXPERTS, 0);
        c->n_group = (int)keys__int_or(k, "n_group", 1, c->n_routed_experts, 1);
        c->topk_group = (int)keys__int_or(k, "topk_group", 1, c->n_routed_experts, c->n_group);
        c->norm_topk_prob = keys__bool_or(k, "norm_topk_prob", true);
        c->routed_scaling_factor = keys__float_or(k, "routed_scaling_factor", 0, 1e6, 1);
        deepseek__check_routing(k, c);
    }
    c->latent_norm_eps = DEEPSEEK_LATENT_EPS;
    deepseek__rope_hf(k, c);
}
