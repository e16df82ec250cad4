/* engine/model/arch_kimi_k2.c - Kimi-K2: DeepSeek-V3 with other sizes (64 heads, 384 experts, one group).
 * GGUF: "deepseek2". */
#include "config.h"

#include "engine/model/deepseek.h"

/* declared by arch.c through arch.def */
extern const struct arch arch__kimi_k2;
const struct arch arch__kimi_k2 = {
    .name = "kimi_k2",
    .hf_model_type = "kimi_k2",
    .config_hf = deepseek_v3__config_hf,
    .bind = deepseek__bind,
    .out = &deepseek2__out,
};
