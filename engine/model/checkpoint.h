/* engine/model/checkpoint.h - a model on disk, opened and understood, whatever its format.
 *
 * checkpoint_open maps a GGUF v3 file (named with or without .gguf; also the first part of a split
 * one) or a Hugging Face folder (config.json, model.safetensors or the shards of
 * model.safetensors.index.json, tokenizer.json, tokenizer_config.json, generation_config.json)
 * read-only, checks every length against the map, and hands out one description: sizes under the
 * names that papers and checkpoints use, and tensors by role. Each architecture is one file and
 * one row in arch.def: it reads the keys and binds the roles. Everything is owned by the
 * checkpoint and immutable; safe to read from any thread. */
#ifndef LATENT_ENGINE_MODEL_CHECKPOINT_H
#define LATENT_ENGINE_MODEL_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "engine/model/tensor.h"

enum gating_func { GATING_SOFTMAX = 1, GATING_SIGMOID = 2 }; /* GGUF expert_gating_func */

/* How good a group of experts is, where only the topk_group best groups compete. */
enum topk_method {
    TOPK_NOAUX_TC = 0,             /* its two best experts together (DeepSeek-V3) */
    TOPK_GROUP_LIMITED_GREEDY = 1, /* its best expert (DeepSeek-V2) */
    TOPK_GREEDY = 2,               /* there are no groups */
};

#define ROPE_MAX_FACTORS 256

struct rope_scaling {
    enum { ROPE_SCALING_NONE = 0, ROPE_SCALING_YARN, ROPE_SCALING_LONGROPE, ROPE_SCALING_LLAMA3 } type;
    float factor; /* longrope: max_position_embeddings over the original ones, unless said */
    int original_max_position_embeddings;
    float beta_fast, beta_slow;
    float low_freq_factor, high_freq_factor; /* llama3 */
    float mscale, mscale_all_dim; /* 0 when absent */
    /* longrope (arXiv 2402.13753): a divisor for each frequency, qk_rope_head_dim / 2 of them */
    float short_factor[ROPE_MAX_FACTORS], long_factor[ROPE_MAX_FACTORS];
    float attention_factor; /* of cosines and sines; 0: from factor */
};

/* Names as in Hugging Face config.json. */
struct model_config {
    char architecture[32]; /* row of arch.def: "deepseek_v3" */
    char name[128];        /* general.name, or the folder's or file's name */
    int vocab_size;
    int hidden_size;
    int num_hidden_layers; /* one attention each; without multi-token-prediction blocks */
    /* Layers that form one of the model's own: 0 and 1 say the same. The routed experts of the first
     * are computed beside the others and join the residual stream behind the last. */
    int attentions_per_layer;
    int num_nextn_predict_layers;
    int num_attention_heads;
    int q_lora_rank; /* 0: queries are one projection */
    int kv_lora_rank;
    int qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
    float mla_scale_q_lora, mla_scale_kv_lora; /* factors of the normalised latents; 0: none */
    int intermediate_size;
    int moe_intermediate_size;
    int n_routed_experts; /* 0: dense model */
    int zero_expert_num;  /* identity experts behind the routed ones: their output is their input, */
    bool zero_expert_skips; /* or nothing */
    int router_hidden_size; /* of routers that are networks; 0: the router is a matrix */
    int num_experts_per_tok;
    int n_shared_experts;
    int shared_intermediate_size; /* of all shared experts together; 0: moe_intermediate_size for each */
    int first_k_dense_replace;
    enum gating_func gating;
    enum topk_method topk_method;
    int n_group, topk_group;
    bool norm_topk_prob;
    float routed_scaling_factor;
    int index_n_heads, index_head_dim, index_topk; /* sparse attention; 0: none */
    float rms_norm_eps;
    float latent_norm_eps; /* of q_a_norm and kv_a_norm; 0: rms_norm_eps */
    /* Factors of the embeddings, of what each block adds to the residual stream, and of the logits;
     * 0: none */
    float scale_emb, residual_scale, logit_scale;
    float rope_theta;
    bool rope_interleave; /* true: pairs (x0,x1); false: halves (x_i, x_{i+d/2}) */
    struct rope_scaling rope_scaling;
    int max_position_embeddings;
    bool tie_word_embeddings;
};

static inline int model_shared_width(const struct model_config *c)
{
    return c->shared_intermediate_size ? c->shared_intermediate_size
                                       : c->n_shared_experts * c->moe_intermediate_size;
}

/* One feed-forward block; experts and dense alike. All 2-d: ne[0] inputs, ne[1] outputs. */
struct ffn_tensors {
    struct tensor gate, up, down;
};

/* How a block's output y joins the stream x: x = (y + out_bias) out_scale + (x + stream_bias) stream_scale;
 * all hidden_size. None: it is added. */
struct residual_tensors {
    struct tensor out_scale, out_bias, stream_scale, stream_bias;
};

/* A router that is a network before its last matrix (engine/router_mlp.h). */
struct router_mlp_tensors {
    struct tensor down, down_bias; /* hidden -> router_hidden_size */
    struct tensor state_scale;     /* of the layer before's; the first layer has none */
    struct tensor norm, fc1, fc1_bias, fc2, fc2_bias;
};

/* Tensors of a layer by role. A role that the layer lacks has data == NULL. Projections are 2-d with
 * ne[0] inputs and ne[1] outputs. */
struct family_layer;
struct layer_tensors {
    const char *attention;     /* name of its mechanism, a row of attention.def; NULL: "mla" */
    int rows_from;             /* 1 + the layer whose cache rows it attends to; 0: its own */
    uint64_t hash;             /* of what the configuration says of this layer alone; 0: nothing */
    struct family_layer *family; /* "family": its mechanism, numbers and tensors (attention/family.h) */
    struct tensor attn_norm;   /* hidden_size */
    struct tensor q_proj;      /* q_lora_rank == 0: hidden -> H * (nope + rope) */
    struct tensor q_a, q_a_norm, q_b; /* hidden -> q_lora, q_lora, q_lora -> H * (nope + rope) */
    struct tensor kv_a;        /* hidden -> kv_lora_rank + rope; output is [latent | rope key] */
    struct tensor kv_a_norm;   /* kv_lora_rank */
    struct tensor kv_b;        /* kv_lora -> H * (nope + v), per head nope rows first; or NULL and: */
    struct tensor k_b;         /* 3-d {nope, kv_lora, H}: W_UK transposed per head (GGUF) */
    struct tensor v_b;         /* 3-d {kv_lora, v, H} */
    struct tensor o;           /* H * v -> hidden */
    struct tensor index_q;     /* indexer: q_lora -> index_n_heads * index_head_dim */
    struct tensor index_k;     /* hidden -> index_head_dim */
    struct tensor index_k_norm, index_k_norm_bias; /* index_head_dim */
    struct tensor index_weights;                   /* hidden -> index_n_heads */
    struct tensor ffn_norm;    /* hidden_size */
    struct ffn_tensors dense;  /* layers below first_k_dense_replace, or beside the experts */
    struct tensor router;      /* hidden -> n_routed_experts + zero_expert_num */
    struct router_mlp_tensors router_mlp; /* in front of the router; optional */
    struct residual_tensors attn_residual, ffn_residual; /* optional */
    struct tensor router_bias; /* as many, added to the scores for choosing only; optional */
    struct ffn_tensors *experts; /* n_routed_experts of them, or NULL */
    struct ffn_tensors shared;   /* model_shared_width wide */
};

/* Multi-token-prediction block: read and kept. layer is an ordinary layer. */
struct mtp_tensors {
    struct layer_tensors layer;
    struct tensor eh_proj, enorm, hnorm, shared_head_norm; /* shared_head_norm optional */
    struct tensor embed_tokens, shared_head; /* optional: the trunk's own serve where they lack */
};

struct str_view {
    const char *data;
    size_t n_bytes;
};

/* What the tokenizer is made from; exactly one of the two forms. All strings are borrowed. */
struct tokenizer_source {
    /* From GGUF metadata: model == NULL when the file has no tokenizer. Strings are not
     * NUL-terminated: use the lengths. */
    const char *model; /* "gpt2", "llama" (NUL-terminated) */
    const char *pre;   /* "deepseek-v3" (NUL-terminated), "" when absent */
    int n_tokens;
    const struct str_view *tokens;
    const int32_t *token_types; /* n_tokens or NULL */
    const float *scores;        /* n_tokens or NULL */
    int n_merges;
    const struct str_view *merges; /* "left right" */
    /* From a folder: path of tokenizer.json, or NULL; else that of tiktoken.model, with the path of
     * tokenizer_config.json (NULL when absent). */
    const char *json_path;
    const char *tiktoken_path, *config_path;
    const char *bos_text, *eos_text; /* folders: tokenizer_config.json's names for them, or NULL */
    /* Both. -1 when absent. */
    int bos_token_id, eos_token_id, eot_token_id, eom_token_id, pad_token_id, unk_token_id;
    int add_bos_token, add_eos_token; /* 0, 1, -1 not said */
    int no_space_prefix;              /* GGUF: tokenizer.ggml.add_space_prefix is false */
    int n_eos_extra;                  /* generation_config.json and GGUF may list several */
    int32_t eos_extra[16];
};

struct checkpoint {
    struct model_config config;
    struct tensor token_embd;  /* {hidden, vocab} */
    struct tensor embd_scale, embd_bias; /* hidden: embeddings are (e + bias) scale; optional */
    struct tensor output_norm; /* hidden */
    struct tensor output;      /* {hidden, vocab}; equals token_embd when tied */
    struct layer_tensors *layers; /* num_hidden_layers */
    struct mtp_tensors *mtp;      /* num_nextn_predict_layers or NULL when the file lacks them */
    struct tokenizer_source tokenizer;
    const char *chat_template; /* NUL-terminated, or NULL */
    const char *tool_template; /* the one named tool_use, for requests with tools; or NULL */
    const char *format;        /* "GGUF v3", "Hugging Face folder" */
    uint64_t file_bytes;       /* all files mapped */
    int64_t n_params;          /* trunk parameters */
    char weight_types[160];    /* of the trunk, by share of its parameters: "Q4_K 62 %, Q6_K 38 %" */
    struct checkpoint_priv *priv;
};

/* Errors name the file and the key or tensor: ERR_IO, ERR_FORMAT (hostile or damaged file),
 * ERR_UNSUPPORTED (architecture, tensor type), ERR_NOMEM. Never aborts on any input. */
int checkpoint_open(const char *path, struct checkpoint **ret, struct err *e) LATENT_MUST_CHECK;
void checkpoint_close(struct checkpoint **c); /* unmaps; NULL-safe */
/* A hash of what the model computes with: configuration, tensors, and their data (of large checkpoints
 * samples, fingerprint.c). The same for the same weights under another name. ERR_NOMEM. */
int checkpoint_fingerprint(const struct checkpoint *c, uint64_t *ret) LATENT_MUST_CHECK;
/* Hints about a range of a tensor's data: it is about to be read from its start to its end; it has been
 * read, and its pages need not count as memory of this process any more (it can still be read, from the
 * system's cache or the disk). Ranges outside the mapped files are ignored. */
void checkpoint_expect(const struct checkpoint *c, const void *data, size_t n_bytes);
void checkpoint_let_go(const struct checkpoint *c, const void *data, size_t n_bytes);

#endif
