/* engine/model/arch_glm4_moe_lite.c - GLM-4.7-Flash: DeepSeek-V3's layers with values wider than the
 * un-rotated keys (256 against 192). GGUF: "deepseek2". */
#include "config.h"

#include "engine/model/deepseek.h"

static void config_hf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    deepseek_v3__config_hf(k, tix, c);
    if (k->r == 0 && !keys__has(k, "first_k_dense_replace") && !keys__has(k, "mlp_layer_types")) {
        c->first_k_dense_replace = 1;
        c->intermediate_size = (int)keys__int(k, "intermediate_size", 1, MAX_DIM);
    }
    if (!keys__has(k, "rms_norm_eps"))
        c->rms_norm_eps = 1e-5f;
}

/* declared by arch.c through arch.def */
extern const struct arch arch__glm4_moe_lite;
const struct arch arch__glm4_moe_lite = {
    .name = "glm4_moe_lite",
    .hf_model_type = "glm4_moe_lite",
    .config_hf = config_hf,
    .bind = deepseek__bind,
    .out = &deepseek2__out,
};
