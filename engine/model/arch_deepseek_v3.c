/* engine/model/arch_deepseek_v3.c - DeepSeek-V3 (arXiv 2412.19437): latent attention, dense layers
 * first, then routed experts behind a sigmoid gate with correction bias. GGUF calls it deepseek2, in
 * two forms: attn_k_b and attn_v_b split, or one attn_kv_b. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "engine/model/internal.h"

#define MAX_DIM (1 << 20)
#define MAX_VOCAB (1 << 22)
#define MAX_CONTEXT (1 << 24)

/* --- configuration ----------------------------------------------------------------------------- */

enum { REQUIRED = -1 };

struct int_field {
    const char *key;
    int *dst;
    int64_t min, max, def; /* def REQUIRED: no default */
};

static int read_gguf(struct checkpoint *c, struct err *e)
{
    struct model_config *m = &c->config;
    int kv_heads = 0, key_length = 0, value_length = 0, key_mla = 0, value_mla = 0, blocks = 0;
    int leading = 0, gating = 0;
    const struct int_field fields[] = {
        {"block_count", &blocks, 1, 1025, REQUIRED},
        {"nextn_predict_layers", &m->num_nextn_predict_layers, 0, 16, 0},
        {"context_length", &m->max_position_embeddings, 1, MAX_CONTEXT, REQUIRED},
        {"embedding_length", &m->hidden_size, 1, MAX_DIM, REQUIRED},
        {"feed_forward_length", &m->intermediate_size, 1, MAX_DIM, REQUIRED},
        {"attention.head_count", &m->num_attention_heads, 1, 1024, REQUIRED},
        {"attention.head_count_kv", &kv_heads, 1, 1024, 1},
        {"attention.q_lora_rank", &m->q_lora_rank, 0, MAX_DIM, 0},
        {"attention.kv_lora_rank", &m->kv_lora_rank, 1, MAX_DIM, REQUIRED},
        {"attention.key_length", &key_length, 1, MAX_DIM, REQUIRED},
        {"attention.value_length", &value_length, 1, MAX_DIM, REQUIRED},
        {"attention.key_length_mla", &key_mla, 0, MAX_DIM, 0},
        {"attention.value_length_mla", &value_mla, 0, MAX_DIM, 0},
        {"rope.dimension_count", &m->qk_rope_head_dim, 2, 512, REQUIRED},
        {"leading_dense_block_count", &leading, 0, 1024, 0},
        {"expert_feed_forward_length", &m->moe_intermediate_size, 0, MAX_DIM, 0},
        {"expert_count", &m->n_routed_experts, 0, 1024, 0},
        {"expert_used_count", &m->num_experts_per_tok, 0, 1024, 0},
        {"expert_shared_count", &m->n_shared_experts, 0, 64, 0},
        {"expert_gating_func", &gating, 0, 4, 1},
        {"expert_group_count", &m->n_group, 0, 1024, 1},
        {"expert_group_used_count", &m->topk_group, 0, 1024, 1},
        {"rope.scaling.original_context_length", &m->rope_scaling.original_max_position_embeddings, 0,
         MAX_CONTEXT, 0},
    };
    char key[128];
    int r;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        const struct int_field *f = &fields[i];
        int64_t v = 0;
        snprintf(key, sizeof(key), "deepseek2.%s", f->key);
        if ((r = gguf_int(c, key, f->min, f->max, f->def == REQUIRED ? NULL : &f->def, &v, e)) < 0)
            return r;
        *f->dst = (int)v;
    }
    const float one = 1.0f, zero = 0.0f, ten_k = 10000.0f, fast = 32.0f;
    float log_mul = 0.0f;
    if ((r = gguf_float(c, "deepseek2.attention.layer_norm_rms_epsilon", NULL, &m->rms_norm_eps, e)) < 0 ||
        (r = gguf_float(c, "deepseek2.rope.freq_base", &ten_k, &m->rope_theta, e)) < 0 ||
        (r = gguf_float(c, "deepseek2.expert_weights_scale", &one, &m->routed_scaling_factor, e)) < 0 ||
        (r = gguf_bool(c, "deepseek2.expert_weights_norm", false, &m->norm_topk_prob, e)) < 0 ||
        (r = gguf_float(c, "deepseek2.rope.scaling.factor", &one, &m->rope_scaling.factor, e)) < 0 ||
        (r = gguf_float(c, "deepseek2.rope.scaling.yarn_beta_fast", &fast, &m->rope_scaling.beta_fast, e)) < 0 ||
        (r = gguf_float(c, "deepseek2.rope.scaling.yarn_beta_slow", &one, &m->rope_scaling.beta_slow, e)) < 0 ||
        (r = gguf_float(c, "deepseek2.rope.scaling.yarn_log_multiplier", &zero, &log_mul, e)) < 0)
        return r;
    const char *scaling = gguf_string(c, "deepseek2.rope.scaling.type");
    if (scaling && !strcmp(scaling, "yarn") && m->rope_scaling.factor > 1.0f) {
        m->rope_scaling.type = ROPE_SCALING_YARN;
        /* The file holds 0.1 * mscale_all_dim; cos and sin keep amplitude 1. */
        m->rope_scaling.mscale = m->rope_scaling.mscale_all_dim = log_mul * 10.0f;
    } else if (scaling && strcmp(scaling, "none") && strcmp(scaling, "yarn")) {
        return err_set_param(e, ERR_UNSUPPORTED, "deepseek2.rope.scaling.type",
                             "key deepseek2.rope.scaling.type: %s is not served", scaling);
    }
    snprintf(m->architecture, sizeof(m->architecture), "deepseek_v3");
    m->num_hidden_layers = blocks - m->num_nextn_predict_layers;
    if (m->num_hidden_layers < 1)
        return err_set_param(e, ERR_FORMAT, "deepseek2.block_count",
                             "key deepseek2.block_count %d leaves no layer beside %d for prediction",
                             blocks, m->num_nextn_predict_layers);
    m->first_k_dense_replace = m->n_routed_experts ? leading : m->num_hidden_layers;
    m->gating = (enum gating_func)gating;
    m->n_group = m->n_group ? m->n_group : 1;
    m->topk_group = m->topk_group ? m->topk_group : 1;
    m->rope_interleave = true;
    if (!key_mla != !value_mla)
        return err_set_param(e, ERR_FORMAT, "deepseek2.attention.key_length_mla",
                             "keys attention.key_length_mla and attention.value_length_mla go together");
    /* Without the mla keys the file is of the old form: lengths are those of one head. */
    int head = key_mla ? key_mla : key_length;
    m->v_head_dim = value_mla ? value_mla : value_length;
    m->qk_nope_head_dim = head - m->qk_rope_head_dim;
    if (m->qk_nope_head_dim < 1)
        return err_set_param(e, ERR_FORMAT, "deepseek2.rope.dimension_count",
                             "key deepseek2.rope.dimension_count %d must be below the head's %d",
                             m->qk_rope_head_dim, head);
    const struct tensor *embd = tensor_set_find(&c->priv->tensors, "token_embd.weight");
    if (!embd || embd->ne[1] < 1 || embd->ne[1] > MAX_VOCAB)
        return err_set_param(e, ERR_FORMAT, "token_embd.weight",
                             "tensor token_embd.weight is missing or has no vocabulary of 1..%d",
                             MAX_VOCAB);
    m->vocab_size = (int)embd->ne[1];
    m->tie_word_embeddings = !tensor_set_find(&c->priv->tensors, "output.weight");
    return 0;
}

static int read_hf_rope(struct checkpoint *c, struct err *e)
{
    struct model_config *m = &c->config;
    const cJSON *cfg = c->priv->config;
    const cJSON *p = cJSON_GetObjectItemCaseSensitive(cfg, "rope_parameters");
    const cJSON *s = cJSON_GetObjectItemCaseSensitive(cfg, "rope_scaling");
    struct rope_scaling *rs = &m->rope_scaling;
    const float zero = 0.0f, one = 1.0f, fast = 32.0f, theta = 10000.0f;
    const int64_t ctx = m->max_position_embeddings;
    int64_t original;
    int r;
    if (!cJSON_IsObject(p))
        p = NULL;
    if (!cJSON_IsObject(s))
        s = p;
    if ((r = hf_float(p && cJSON_HasObjectItem(p, "rope_theta") ? p : cfg, "rope_theta", &theta,
                      &m->rope_theta, e)) < 0)
        return r;
    const char *type = s ? hf_string(s, "rope_type") : NULL;
    if (s && !type)
        type = hf_string(s, "type");
    if (!type || !strcmp(type, "default"))
        return 0;
    if (strcmp(type, "yarn"))
        return err_set_param(e, ERR_UNSUPPORTED, "rope_scaling", "config.json: rope type %s is not served",
                             type);
    rs->type = ROPE_SCALING_YARN;
    if ((r = hf_float(s, "factor", NULL, &rs->factor, e)) < 0 ||
        (r = hf_float(s, "beta_fast", &fast, &rs->beta_fast, e)) < 0 ||
        (r = hf_float(s, "beta_slow", &one, &rs->beta_slow, e)) < 0 ||
        (r = hf_float(s, "mscale", &zero, &rs->mscale, e)) < 0 ||
        (r = hf_float(s, "mscale_all_dim", &zero, &rs->mscale_all_dim, e)) < 0 ||
        (r = hf_int(s, "original_max_position_embeddings", 1, MAX_CONTEXT, &ctx, &original, e)) < 0)
        return r;
    rs->original_max_position_embeddings = (int)original;
    return 0;
}

static int read_hf(struct checkpoint *c, struct err *e)
{
    struct model_config *m = &c->config;
    const cJSON *cfg = c->priv->config;
    const struct int_field fields[] = {
        {"vocab_size", &m->vocab_size, 1, MAX_VOCAB, REQUIRED},
        {"hidden_size", &m->hidden_size, 1, MAX_DIM, REQUIRED},
        {"num_hidden_layers", &m->num_hidden_layers, 1, 1024, REQUIRED},
        {"num_nextn_predict_layers", &m->num_nextn_predict_layers, 0, 16, 0},
        {"num_attention_heads", &m->num_attention_heads, 1, 1024, REQUIRED},
        {"q_lora_rank", &m->q_lora_rank, 0, MAX_DIM, 0},
        {"kv_lora_rank", &m->kv_lora_rank, 1, MAX_DIM, REQUIRED},
        {"qk_nope_head_dim", &m->qk_nope_head_dim, 1, MAX_DIM, REQUIRED},
        {"qk_rope_head_dim", &m->qk_rope_head_dim, 2, 512, REQUIRED},
        {"v_head_dim", &m->v_head_dim, 1, MAX_DIM, REQUIRED},
        {"intermediate_size", &m->intermediate_size, 1, MAX_DIM, REQUIRED},
        {"moe_intermediate_size", &m->moe_intermediate_size, 0, MAX_DIM, 0},
        {"n_routed_experts", &m->n_routed_experts, 0, 1024, 0},
        {"num_experts_per_tok", &m->num_experts_per_tok, 0, 1024, 0},
        {"n_shared_experts", &m->n_shared_experts, 0, 64, 0},
        {"first_k_dense_replace", &m->first_k_dense_replace, 0, 1024, 0},
        {"n_group", &m->n_group, 1, 1024, 1},
        {"topk_group", &m->topk_group, 1, 1024, 1},
        {"max_position_embeddings", &m->max_position_embeddings, 1, MAX_CONTEXT, REQUIRED},
    };
    const float one = 1.0f, eps = 1e-6f;
    int r;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        const struct int_field *f = &fields[i];
        int64_t v = 0;
        if ((r = hf_int(cfg, f->key, f->min, f->max, f->def == REQUIRED ? NULL : &f->def, &v, e)) < 0)
            return r;
        *f->dst = (int)v;
    }
    if ((r = hf_bool(cfg, "norm_topk_prob", true, &m->norm_topk_prob, e)) < 0 ||
        (r = hf_bool(cfg, "tie_word_embeddings", false, &m->tie_word_embeddings, e)) < 0 ||
        (r = hf_bool(cfg, "rope_interleave", true, &m->rope_interleave, e)) < 0 ||
        (r = hf_float(cfg, "routed_scaling_factor", &one, &m->routed_scaling_factor, e)) < 0 ||
        (r = hf_float(cfg, "rms_norm_eps", &eps, &m->rms_norm_eps, e)) < 0 ||
        (r = read_hf_rope(c, e)) < 0)
        return r;
    const char *act = hf_string(cfg, "hidden_act");
    if (act && strcmp(act, "silu"))
        return err_set_param(e, ERR_UNSUPPORTED, "hidden_act", "config.json: hidden_act %s is not served",
                             act);
    if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(cfg, "attention_bias")))
        return err_set_param(e, ERR_UNSUPPORTED, "attention_bias",
                             "config.json: attention_bias is not served");
    m->gating = GATING_SIGMOID;
    if (m->n_routed_experts == 0)
        m->first_k_dense_replace = m->num_hidden_layers;
    snprintf(m->architecture, sizeof(m->architecture), "deepseek_v3");
    return 0;
}

/* --- tensors ----------------------------------------------------------------------------------- */

/* Names of one layer: prefix and the format's own words. */
struct names {
    const char *attn_norm, *q, *q_a, *q_a_norm, *q_b, *kv_a, *kv_a_norm, *kv_b, *o, *ffn_norm;
    const char *gate, *up, *down, *router, *router_bias, *sh_gate, *sh_up, *sh_down;
};

static const struct names gguf_names = {
    "attn_norm.weight", "attn_q.weight", "attn_q_a.weight", "attn_q_a_norm.weight",
    "attn_q_b.weight", "attn_kv_a_mqa.weight", "attn_kv_a_norm.weight", "attn_kv_b.weight",
    "attn_output.weight", "ffn_norm.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight",
    "ffn_gate_inp.weight", "exp_probs_b.bias", "ffn_gate_shexp.weight", "ffn_up_shexp.weight",
    "ffn_down_shexp.weight",
};

static const struct names hf_names = {
    "input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.q_a_proj.weight",
    "self_attn.q_a_layernorm.weight", "self_attn.q_b_proj.weight",
    "self_attn.kv_a_proj_with_mqa.weight", "self_attn.kv_a_layernorm.weight",
    "self_attn.kv_b_proj.weight", "self_attn.o_proj.weight", "post_attention_layernorm.weight",
    "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight", "mlp.gate.weight",
    "mlp.gate.e_score_correction_bias", "mlp.shared_experts.gate_proj.weight",
    "mlp.shared_experts.up_proj.weight", "mlp.shared_experts.down_proj.weight",
};

struct binder {
    const struct checkpoint *c;
    struct err *e;
    char prefix[64];
    int r; /* the first failure stays */
};

static void bind(struct binder *b, const char *name, int64_t n0, int64_t n1, int64_t n2,
                 bool optional, struct tensor *ret)
{
    char full[256];
    if (b->r < 0)
        return;
    snprintf(full, sizeof(full), "%s%s", b->prefix, name);
    b->r = bind_tensor(b->c, full, n0, n1, n2, optional, ret, b->e);
}

static bool present(const struct binder *b, const char *name)
{
    char full[256];
    snprintf(full, sizeof(full), "%s%s", b->prefix, name);
    return tensor_set_find(&b->c->priv->tensors, full) != NULL;
}

static void bind_attention(struct binder *b, const struct names *n, struct layer_tensors *l)
{
    const struct model_config *m = &b->c->config;
    int64_t hidden = m->hidden_size, heads = m->num_attention_heads, rank = m->kv_lora_rank;
    int64_t qk = heads * (m->qk_nope_head_dim + m->qk_rope_head_dim);
    bind(b, n->attn_norm, hidden, 0, 0, false, &l->attn_norm);
    if (m->q_lora_rank > 0) {
        bind(b, n->q_a, hidden, m->q_lora_rank, 0, false, &l->q_a);
        bind(b, n->q_a_norm, m->q_lora_rank, 0, 0, false, &l->q_a_norm);
        bind(b, n->q_b, m->q_lora_rank, qk, 0, false, &l->q_b);
    } else {
        bind(b, n->q, hidden, qk, 0, false, &l->q_proj);
    }
    bind(b, n->kv_a, hidden, rank + m->qk_rope_head_dim, 0, false, &l->kv_a);
    bind(b, n->kv_a_norm, rank, 0, 0, false, &l->kv_a_norm);
    if (n == &gguf_names && present(b, "attn_k_b.weight")) {
        bind(b, "attn_k_b.weight", m->qk_nope_head_dim, rank, heads, false, &l->k_b);
        bind(b, "attn_v_b.weight", rank, m->v_head_dim, heads, false, &l->v_b);
    } else {
        bind(b, n->kv_b, rank, heads * (m->qk_nope_head_dim + m->v_head_dim), 0, false, &l->kv_b);
    }
    bind(b, n->o, heads * m->v_head_dim, hidden, 0, false, &l->o);
}

static void bind_block(struct binder *b, const char *gate, const char *up, const char *down,
                       int64_t width, struct ffn_tensors *f)
{
    int64_t hidden = b->c->config.hidden_size;
    bind(b, gate, hidden, width, 0, false, &f->gate);
    bind(b, up, hidden, width, 0, false, &f->up);
    bind(b, down, width, hidden, 0, false, &f->down);
}

static void bind_experts_gguf(struct binder *b, struct layer_tensors *l)
{
    const struct model_config *m = &b->c->config;
    struct tensor gate = {0}, up = {0}, down = {0};
    int64_t hidden = m->hidden_size, width = m->moe_intermediate_size, n = m->n_routed_experts;
    bind(b, "ffn_gate_exps.weight", hidden, width, n, false, &gate);
    bind(b, "ffn_up_exps.weight", hidden, width, n, false, &up);
    bind(b, "ffn_down_exps.weight", width, hidden, n, false, &down);
    for (int i = 0; b->r == 0 && i < n; i++)
        l->experts[i] = (struct ffn_tensors){tensor_slice(&gate, i), tensor_slice(&up, i),
                                             tensor_slice(&down, i)};
}

static void bind_experts_hf(struct binder *b, struct layer_tensors *l)
{
    const struct model_config *m = &b->c->config;
    for (int i = 0; b->r == 0 && i < m->n_routed_experts; i++) {
        char gate[64], up[64], down[64];
        snprintf(gate, sizeof(gate), "mlp.experts.%d.gate_proj.weight", i);
        snprintf(up, sizeof(up), "mlp.experts.%d.up_proj.weight", i);
        snprintf(down, sizeof(down), "mlp.experts.%d.down_proj.weight", i);
        bind_block(b, gate, up, down, m->moe_intermediate_size, &l->experts[i]);
    }
}

static void bind_layer(struct binder *b, const struct names *n, int index, struct layer_tensors *l)
{
    const struct model_config *m = &b->c->config;
    snprintf(b->prefix, sizeof(b->prefix), n == &gguf_names ? "blk.%d." : "model.layers.%d.", index);
    bind_attention(b, n, l);
    bind(b, n->ffn_norm, m->hidden_size, 0, 0, false, &l->ffn_norm);
    if (index < m->first_k_dense_replace) {
        bind_block(b, n->gate, n->up, n->down, m->intermediate_size, &l->dense);
        return;
    }
    bind(b, n->router, m->hidden_size, m->n_routed_experts, 0, false, &l->router);
    bind(b, n->router_bias, m->n_routed_experts, 0, 0, true, &l->router_bias);
    l->experts = arena_array(b->c->priv->arena, (size_t)m->n_routed_experts, sizeof(*l->experts));
    if (!l->experts && b->r == 0)
        b->r = err_set(b->e, ERR_NOMEM, "out of memory");
    if (b->r < 0)
        return;
    if (n == &gguf_names)
        bind_experts_gguf(b, l);
    else
        bind_experts_hf(b, l);
    if (m->n_shared_experts > 0)
        bind_block(b, n->sh_gate, n->sh_up, n->sh_down,
                   (int64_t)m->n_shared_experts * m->moe_intermediate_size, &l->shared);
}

/* Prediction blocks stand behind the last layer; a file may declare them and leave them out. */
static void bind_mtp(struct binder *b, const struct names *n, struct checkpoint *c)
{
    const struct model_config *m = &c->config;
    bool gguf = n == &gguf_names;
    int64_t hidden = m->hidden_size;
    if (m->num_nextn_predict_layers == 0)
        return;
    snprintf(b->prefix, sizeof(b->prefix), gguf ? "blk.%d." : "model.layers.%d.",
             m->num_hidden_layers);
    if (!present(b, gguf ? "nextn.eh_proj.weight" : "eh_proj.weight"))
        return;
    struct mtp_tensors *mtp =
        arena_array(c->priv->arena, (size_t)m->num_nextn_predict_layers, sizeof(*mtp));
    if (!mtp) {
        b->r = err_set(b->e, ERR_NOMEM, "out of memory");
        return;
    }
    for (int i = 0; b->r == 0 && i < m->num_nextn_predict_layers; i++) {
        bind_layer(b, n, m->num_hidden_layers + i, &mtp[i].layer);
        bind(b, gguf ? "nextn.eh_proj.weight" : "eh_proj.weight", 2 * hidden, hidden, 0, false,
             &mtp[i].eh_proj);
        bind(b, gguf ? "nextn.enorm.weight" : "enorm.weight", hidden, 0, 0, false, &mtp[i].enorm);
        bind(b, gguf ? "nextn.hnorm.weight" : "hnorm.weight", hidden, 0, 0, false, &mtp[i].hnorm);
        bind(b, gguf ? "nextn.shared_head_norm.weight" : "shared_head.norm.weight", hidden, 0, 0, true,
             &mtp[i].shared_head_norm);
    }
    c->mtp = mtp;
}

static int bind_all(struct checkpoint *c, const struct names *n, struct err *e)
{
    struct binder b = {.c = c, .e = e};
    const struct model_config *m = &c->config;
    bool gguf = n == &gguf_names;
    bind(&b, gguf ? "token_embd.weight" : "model.embed_tokens.weight", m->hidden_size, m->vocab_size, 0,
         false, &c->token_embd);
    bind(&b, gguf ? "output_norm.weight" : "model.norm.weight", m->hidden_size, 0, 0, false,
         &c->output_norm);
    if (m->tie_word_embeddings)
        c->output = c->token_embd;
    else
        bind(&b, gguf ? "output.weight" : "lm_head.weight", m->hidden_size, m->vocab_size, 0, false,
             &c->output);
    c->layers = arena_array(c->priv->arena, (size_t)m->num_hidden_layers, sizeof(*c->layers));
    if (!c->layers)
        return err_set(e, ERR_NOMEM, "out of memory");
    for (int i = 0; b.r == 0 && i < m->num_hidden_layers; i++)
        bind_layer(&b, n, i, &c->layers[i]);
    if (b.r == 0)
        bind_mtp(&b, n, c);
    return b.r;
}

static int bind_gguf(struct checkpoint *c, struct err *e)
{
    return bind_all(c, &gguf_names, e);
}

static int bind_hf(struct checkpoint *c, struct err *e)
{
    return bind_all(c, &hf_names, e);
}

const struct model_arch arch_deepseek_v3 = {
    .name = "deepseek_v3",
    .gguf_name = "deepseek2",
    .hf_model_type = "deepseek_v3",
    .read_gguf = read_gguf,
    .read_hf = read_hf,
    .bind_gguf = bind_gguf,
    .bind_hf = bind_hf,
};
