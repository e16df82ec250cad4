/* engine/model/arch_minicpm3.c - MiniCPM3 (arXiv 2404.06395 for its scaling rules): latent attention in
 * dense layers, rotary halves, longrope factors, and three constants:
 *
 *     x = scale_emb * embedding      x += scale_depth / sqrt(layers) * block(x)
 *     logits = W (norm(x) * dim_model_base / hidden_size)
 *
 * The cache row is the latent, kv_lora_rank + qk_rope_head_dim values (288), as for the others here.
 * GGUF files ("minicpm3") leave the constants to the reader; ours may say embedding_scale,
 * residual_scale and logit_scale (a divisor), the keys that "minicpm" files have. */
#include "config.h"

#include "engine/model/deepseek.h"
#include "engine/model/gguf_write.h"

#include <math.h>
#include <string.h>

#define SCALE_EMB 12
#define SCALE_DEPTH 1.4
#define DIM_MODEL_BASE 256

static void scales(struct model_config *c, double scale_depth, double dim_model_base)
{
    c->residual_scale = (float)(scale_depth / sqrt((double)c->num_hidden_layers));
    c->logit_scale = (float)(dim_model_base / (double)c->hidden_size);
}

static void config_hf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    (void)tix;
    deepseek__refuse_variants(k);
    if (keys__bool_or(k, "mlp_bias", false))
        keys__fail(k, ERR_UNSUPPORTED, "mlp_bias", "must be false");
    c->vocab_size = (int)keys__int(k, "vocab_size", 1, MAX_VOCAB);
    c->hidden_size = (int)keys__int(k, "hidden_size", 1, MAX_DIM);
    c->num_hidden_layers = (int)keys__int(k, "num_hidden_layers", 1, MAX_LAYERS);
    c->first_k_dense_replace = c->num_hidden_layers;
    c->num_attention_heads = (int)keys__int(k, "num_attention_heads", 1, MAX_HEADS);
    c->q_lora_rank = (int)keys__int_or(k, "q_lora_rank", 0, MAX_DIM, 0);
    c->kv_lora_rank = (int)keys__int(k, "kv_lora_rank", 1, MAX_DIM);
    c->qk_nope_head_dim = (int)keys__int(k, "qk_nope_head_dim", 1, MAX_HEAD_DIM);
    c->qk_rope_head_dim = (int)keys__int(k, "qk_rope_head_dim", 2, MAX_HEAD_DIM);
    if (k->r < 0)
        return;
    c->v_head_dim = (int)keys__int_or(k, "v_head_dim", 1, MAX_HEAD_DIM,
                                      c->hidden_size / c->num_attention_heads);
    c->intermediate_size = (int)keys__int(k, "intermediate_size", 1, MAX_DIM);
    c->max_position_embeddings = (int)keys__int(k, "max_position_embeddings", 1, MAX_CONTEXT);
    c->rms_norm_eps = keys__float_or(k, "rms_norm_eps", 0, 1, 1e-5);
    c->latent_norm_eps = DEEPSEEK_LATENT_EPS;
    c->tie_word_embeddings = keys__bool_or(k, "tie_word_embeddings", true);
    c->scale_emb = keys__float_or(k, "scale_emb", 1e-6, 1e6, SCALE_EMB);
    /* null is not the default here, but that nothing is scaled */
    double depth = keys__null(k, "scale_depth") ? sqrt((double)c->num_hidden_layers) : SCALE_DEPTH;
    double base = keys__null(k, "dim_model_base") ? (double)c->hidden_size : DIM_MODEL_BASE;
    scales(c, (double)keys__float_or(k, "scale_depth", 1e-6, 1e6, depth),
           (double)keys__float_or(k, "dim_model_base", 1e-6, 1e6, base));
    deepseek__rope_hf(k, c);
    c->rope_interleave = false;
}

/* Both or neither of the two lists of factors. */
static void factors_gguf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    static const char *const names[2] = {"rope_factors_short.weight", "rope_factors_long.weight"};
    struct rope_scaling *s = &c->rope_scaling;
    int n = c->qk_rope_head_dim / 2;
    float *const dst[2] = {s->short_factor, s->long_factor};
    const struct tix_entry *t[2] = {tix__find(tix, names[0]), tix__find(tix, names[1])};
    if (k->r < 0 || (!t[0] && !t[1]))
        return;
    for (int i = 0; i < 2; i++) {
        if (!t[i] || !t[i]->t.data || t[i]->t.type != TT_F32 || t[i]->t.ne[0] != n ||
            t[i]->t.n_bytes != (size_t)n * sizeof(float) || n > ROPE_MAX_FACTORS) {
            k->r = err_set_param(k->e, ERR_FORMAT, names[i],
                                 "%s: tensor %s must have %d (at most %d) values of type F32", k->label,
                                 names[i], n, ROPE_MAX_FACTORS);
            return;
        }
        tensor_row_f32(&t[i]->t, 0, dst[i]);
        for (int j = 0; j < n; j++)
            if (!(dst[i][j] >= 1e-6f && dst[i][j] <= 1e6f)) {
                k->r = err_set_param(k->e, ERR_FORMAT, names[i],
                                     "%s: tensor %s has a value out of range 1e-6..1e6", k->label,
                                     names[i]);
                return;
            }
    }
    s->type = ROPE_SCALING_LONGROPE;
    s->original_max_position_embeddings =
        (int)keys__int_or(k, "rope.scaling.original_context_length", 2, MAX_CONTEXT,
                          c->max_position_embeddings);
    s->factor = (float)c->max_position_embeddings / (float)s->original_max_position_embeddings;
    s->attention_factor = keys__float_or(k, "rope.scaling.attn_factor", 1e-3, 1e3, 0);
}

static void config_gguf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    const struct tix_entry *embd = tix__find(tix, "token_embd.weight");
    int64_t rows = embd && embd->t.ne[1] <= MAX_VOCAB ? embd->t.ne[1] : 0;
    c->vocab_size = (int)keys__int_or(k, "vocab_size", 1, MAX_VOCAB, rows);
    if (c->vocab_size == 0)
        keys__fail(k, ERR_FORMAT, "vocab_size", "is missing");
    c->hidden_size = (int)keys__int(k, "embedding_length", 1, MAX_DIM);
    c->num_hidden_layers = (int)keys__int(k, "block_count", 1, MAX_LAYERS);
    c->first_k_dense_replace = c->num_hidden_layers;
    c->max_position_embeddings = (int)keys__int(k, "context_length", 1, MAX_CONTEXT);
    c->num_attention_heads = (int)keys__int(k, "attention.head_count", 1, MAX_HEADS);
    c->q_lora_rank = (int)keys__int(k, "attention.q_lora_rank", 1, MAX_DIM);
    c->kv_lora_rank = (int)keys__int(k, "attention.kv_lora_rank", 1, MAX_DIM);
    c->qk_rope_head_dim = (int)keys__int(k, "rope.dimension_count", 2, MAX_HEAD_DIM);
    c->qk_nope_head_dim = (int)keys__int(k, "attention.key_length", c->qk_rope_head_dim + 1,
                                         MAX_HEAD_DIM) - c->qk_rope_head_dim;
    if (k->r < 0)
        return;
    c->v_head_dim = (int)keys__int_or(k, "attention.value_length", 1, MAX_HEAD_DIM,
                                      c->hidden_size / c->num_attention_heads);
    c->intermediate_size = (int)keys__int(k, "feed_forward_length", 1, MAX_DIM);
    c->rms_norm_eps = keys__float(k, "attention.layer_norm_rms_epsilon", 0, 1);
    c->latent_norm_eps = keys__float_or(k, DEEPSEEK_KEY_LATENT_EPS, 0, 1, 0);
    c->rope_theta = keys__float_or(k, "rope.freq_base", 1, 1e12, 10000);
    c->rope_interleave = false;
    factors_gguf(k, tix, c);
    scales(c, SCALE_DEPTH, DIM_MODEL_BASE);
    c->scale_emb = keys__float_or(k, "embedding_scale", 1e-6, 1e6, SCALE_EMB);
    c->residual_scale = keys__float_or(k, "residual_scale", 1e-6, 1e6, (double)c->residual_scale);
    if (keys__has(k, "logit_scale"))
        c->logit_scale = 1.0f / keys__float(k, "logit_scale", 1e-6, 1e6);
    c->tie_word_embeddings = !tix__find(tix, "output.weight");
}

/* What llama.cpp takes for granted is written all the same, for models that differ. */
static int keys_out(const struct model_config *c, struct gguf_writer *w, struct err *e)
{
    const struct rope_scaling *s = &c->rope_scaling;
    if (c->q_lora_rank == 0)
        return err_set_param(e, ERR_UNSUPPORTED, "q_lora_rank", "minicpm3 files have a query latent");
    if (s->type == ROPE_SCALING_YARN)
        return err_set_param(e, ERR_UNSUPPORTED, "rope_scaling", "minicpm3 files cannot say yarn");
    gguf_write_u32(w, ".vocab_size", c->vocab_size);
    gguf_write_u32(w, ".block_count", c->num_hidden_layers);
    gguf_write_u32(w, ".context_length", c->max_position_embeddings);
    gguf_write_u32(w, ".embedding_length", c->hidden_size);
    gguf_write_u32(w, ".feed_forward_length", c->intermediate_size);
    gguf_write_u32(w, ".attention.head_count", c->num_attention_heads);
    gguf_write_u32(w, ".attention.head_count_kv", c->num_attention_heads); /* kept whole elsewhere */
    gguf_write_u32(w, ".attention.q_lora_rank", c->q_lora_rank);
    gguf_write_u32(w, ".attention.kv_lora_rank", c->kv_lora_rank);
    gguf_write_u32(w, ".attention.key_length", c->qk_nope_head_dim + c->qk_rope_head_dim);
    gguf_write_u32(w, ".attention.value_length", c->v_head_dim);
    gguf_write_f32(w, ".attention.layer_norm_rms_epsilon", c->rms_norm_eps);
    if (c->latent_norm_eps != 0.0f && c->latent_norm_eps != c->rms_norm_eps)
        gguf_write_f32(w, "." DEEPSEEK_KEY_LATENT_EPS, c->latent_norm_eps);
    gguf_write_u32(w, ".rope.dimension_count", c->qk_rope_head_dim);
    gguf_write_f32(w, ".rope.freq_base", c->rope_theta);
    if (s->type == ROPE_SCALING_LONGROPE) {
        float original = (float)s->original_max_position_embeddings, by = s->attention_factor;
        if (by == 0.0f)
            by = s->factor <= 1.0f ? 1.0f : sqrtf(1.0f + logf(s->factor) / logf(original));
        gguf_write_u32(w, ".rope.scaling.original_context_length", s->original_max_position_embeddings);
        gguf_write_f32(w, ".rope.scaling.attn_factor", by);
    }
    gguf_write_f32(w, ".embedding_scale", c->scale_emb);
    gguf_write_f32(w, ".residual_scale", c->residual_scale);
    gguf_write_f32(w, ".logit_scale", 1.0f / c->logit_scale);
    return 0;
}

static const struct arch_out gguf_out = {"minicpm3", false, false, keys_out};

/* declared by arch.c through arch.def */
extern const struct arch arch__minicpm3;
const struct arch arch__minicpm3 = {
    .name = "minicpm3",
    .gguf_name = "minicpm3",
    .hf_model_type = "minicpm3",
    .config_gguf = config_gguf,
    .config_hf = config_hf,
    .bind = deepseek__bind,
    .out = &gguf_out,
};
