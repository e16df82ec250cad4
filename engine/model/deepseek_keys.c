/* engine/model/deepseek_keys.c - GGUF keys of the DeepSeek family from a configuration; the counterpart of
 * deepseek__config_gguf. Names and meanings are those of "deepseek2" files with attn_k_b and attn_v_b. */
#include "config.h"

#include "engine/model/deepseek.h"
#include "engine/model/gguf_write.h"

static void routing_out(const struct model_config *c, struct gguf_writer *w)
{
    gguf_write_u32(w, ".expert_feed_forward_length", c->moe_intermediate_size);
    gguf_write_u32(w, ".expert_count", c->n_routed_experts);
    gguf_write_u32(w, ".expert_used_count", c->num_experts_per_tok);
    gguf_write_u32(w, ".expert_shared_count", c->n_shared_experts);
    gguf_write_f32(w, ".expert_weights_scale", c->routed_scaling_factor);
    gguf_write_bool(w, ".expert_weights_norm", c->norm_topk_prob);
    gguf_write_u32(w, ".expert_gating_func", c->gating);
    if (c->n_group > 1) {
        gguf_write_u32(w, ".expert_group_count", c->n_group);
        gguf_write_u32(w, ".expert_group_used_count", c->topk_group);
    }
}

static int yarn_out(const struct rope_scaling *s, struct gguf_writer *w, struct err *e)
{
    if (s->type == ROPE_SCALING_NONE) {
        gguf_write_string(w, ".rope.scaling.type", "none");
        return 0;
    }
    if (s->type != ROPE_SCALING_YARN)
        return err_set_param(e, ERR_UNSUPPORTED, "rope_scaling",
                             "GGUF files of this architecture can say yarn, not longrope");
    if (s->mscale_all_dim != 0.0f && s->mscale != s->mscale_all_dim)
        return err_set_param(e, ERR_UNSUPPORTED, "mscale",
                             "mscale is %g and mscale_all_dim %g: GGUF can say equal ones only",
                             (double)s->mscale, (double)s->mscale_all_dim);
    gguf_write_string(w, ".rope.scaling.type", "yarn");
    gguf_write_f32(w, ".rope.scaling.factor", s->factor);
    gguf_write_u32(w, ".rope.scaling.original_context_length", s->original_max_position_embeddings);
    gguf_write_f32(w, ".rope.scaling.yarn_beta_fast", s->beta_fast);
    gguf_write_f32(w, ".rope.scaling.yarn_beta_slow", s->beta_slow);
    if (s->mscale_all_dim != 0.0f)
        gguf_write_f32(w, ".rope.scaling.yarn_log_multiplier", 0.1f * s->mscale_all_dim);
    return 0;
}

int deepseek__keys_out(const struct model_config *c, struct gguf_writer *w, struct err *e)
{
    gguf_write_u32(w, ".vocab_size", c->vocab_size);
    gguf_write_u32(w, ".block_count", c->num_hidden_layers + c->num_nextn_predict_layers);
    gguf_write_u32(w, ".context_length", c->max_position_embeddings);
    gguf_write_u32(w, ".embedding_length", c->hidden_size);
    /* other readers want the lengths of both kinds of blocks, whether or not there are such */
    gguf_write_u32(w, ".feed_forward_length",
                   c->intermediate_size ? c->intermediate_size : c->moe_intermediate_size);
    gguf_write_u32(w, ".leading_dense_block_count", c->first_k_dense_replace);
    if (c->num_nextn_predict_layers)
        gguf_write_u32(w, ".nextn_predict_layers", c->num_nextn_predict_layers);
    gguf_write_u32(w, ".attention.head_count", c->num_attention_heads);
    gguf_write_u32(w, ".attention.head_count_kv", 1); /* the latent is the one key of all heads */
    /* also 0: llama.cpp wants the key, but for V2-Lite's number of layers */
    gguf_write_u32(w, ".attention.q_lora_rank", c->q_lora_rank);
    gguf_write_u32(w, ".attention.kv_lora_rank", c->kv_lora_rank);
    gguf_write_u32(w, ".attention.key_length", c->kv_lora_rank + c->qk_rope_head_dim);
    gguf_write_u32(w, ".attention.value_length", c->kv_lora_rank);
    gguf_write_u32(w, ".attention.key_length_mla", c->qk_nope_head_dim + c->qk_rope_head_dim);
    gguf_write_u32(w, ".attention.value_length_mla", c->v_head_dim);
    gguf_write_f32(w, ".attention.layer_norm_rms_epsilon", c->rms_norm_eps);
    if (c->latent_norm_eps != 0.0f && c->latent_norm_eps != c->rms_norm_eps)
        gguf_write_f32(w, "." DEEPSEEK_KEY_LATENT_EPS, c->latent_norm_eps);
    gguf_write_u32(w, ".rope.dimension_count", c->qk_rope_head_dim);
    gguf_write_f32(w, ".rope.freq_base", c->rope_theta);
    if (c->n_routed_experts) {
        routing_out(c, w);
    } else {
        gguf_write_u32(w, ".expert_feed_forward_length", c->intermediate_size);
        gguf_write_u32(w, ".expert_shared_count", 0);
    }
    return yarn_out(&c->rope_scaling, w, e);
}

const struct arch_out deepseek2__out = {"deepseek2", true, true, deepseek__keys_out};
