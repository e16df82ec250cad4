/* engine/model/arch_youtu.c - Youtu-LLM: latent attention in dense layers, tied embeddings. GGUF:
 * "deepseek2". */
#include "config.h"

#include "engine/model/deepseek.h"

static void config_hf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    deepseek__config_hf(k, tix, c);
    if (k->r == 0 && c->n_routed_experts > 0)
        keys__fail(k, ERR_UNSUPPORTED, "n_routed_experts", "must be 0: this family is dense");
    if (keys__bool_or(k, "mlp_bias", false))
        keys__fail(k, ERR_UNSUPPORTED, "mlp_bias", "must be false");
    c->tie_word_embeddings = keys__bool_or(k, "tie_word_embeddings", true);
}

/* declared by arch.c through arch.def; the model's own folders and transformers spell it two ways */
extern const struct arch arch__youtu, arch__youtu_llm;
const struct arch arch__youtu = {
    .name = "youtu",
    .hf_model_type = "youtu",
    .config_hf = config_hf,
    .bind = deepseek__bind,
    .out = &deepseek2__out,
};
const struct arch arch__youtu_llm = {
    .name = "youtu",
    .hf_model_type = "youtu_llm",
    .config_hf = config_hf,
    .bind = deepseek__bind,
    .out = &deepseek2__out,
};
