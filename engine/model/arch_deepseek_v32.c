/* engine/model/arch_deepseek_v32.c - DeepSeek-V3.2: DeepSeek-V3 whose layers attend to the rows that an
 * indexer chooses (engine/attention/dsa.c). GGUF: "deepseek32". */
#include "config.h"

#include "engine/model/deepseek.h"
#include "engine/model/gguf_write.h"

static void check(struct keys *k, const char *rope_key, const char *head_key,
                  const struct model_config *c)
{
    if (k->r == 0 && c->q_lora_rank == 0)
        keys__fail(k, ERR_FORMAT, k->gguf ? "attention.q_lora_rank" : "q_lora_rank",
                   "is missing; the indexer reads the queries' latent");
    if (k->r == 0 && c->index_head_dim < c->qk_rope_head_dim)
        keys__fail(k, ERR_FORMAT, head_key, "is %d, less than %s (%d)", c->index_head_dim, rope_key,
                   c->qk_rope_head_dim);
}

static void config_gguf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    deepseek__config_gguf(k, tix, c);
    c->index_n_heads = (int)keys__int(k, "attention.indexer.head_count", 1, MAX_HEADS);
    c->index_head_dim = (int)keys__int(k, "attention.indexer.key_length", 2, MAX_HEAD_DIM);
    c->index_topk = (int)keys__int(k, "attention.indexer.top_k", 1, MAX_CONTEXT);
    check(k, "rope.dimension_count", "attention.indexer.key_length", c);
}

static void config_hf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    static const char *const sparse = "deepseek_sparse_attention";
    deepseek_v3__config_hf(k, tix, c);
    keys__layer_kinds(k, "layer_types", c->num_hidden_layers, sparse, sparse, 0);
    c->index_n_heads = (int)keys__int(k, "index_n_heads", 1, MAX_HEADS);
    c->index_head_dim = (int)keys__int(k, "index_head_dim", 2, MAX_HEAD_DIM);
    c->index_topk = (int)keys__int(k, "index_topk", 1, MAX_CONTEXT);
    check(k, "qk_rope_head_dim", "index_head_dim", c);
}

static int keys_out(const struct model_config *c, struct gguf_writer *w, struct err *e)
{
    gguf_write_u32(w, ".attention.indexer.head_count", c->index_n_heads);
    gguf_write_u32(w, ".attention.indexer.key_length", c->index_head_dim);
    gguf_write_u32(w, ".attention.indexer.top_k", c->index_topk);
    return deepseek__keys_out(c, w, e);
}

static const struct arch_out gguf_out = {"deepseek32", true, true, keys_out};

/* declared by arch.c through arch.def */
extern const struct arch arch__deepseek_v32;
const struct arch arch__deepseek_v32 = {
    .name = "deepseek_v32",
    .gguf_name = "deepseek32",
    .hf_model_type = "deepseek_v32",
    .config_gguf = config_gguf,
    .config_hf = config_hf,
    .bind = deepseek__bind,
    .out = &gguf_out,
};
