/* engine/model/arch_deepseek_v3.c - DeepSeek-V3, R1 and what is built like them: sigmoid gates with a
 * correction bias, groups, adjacent rotary pairs. */
#include "config.h"

#include "engine/model/deepseek.h"

#include <string.h>

void deepseek_v3__config_hf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    char s[32];
    static const char *const needed[] = {"n_group", "topk_group", "n_shared_experts",
                                         "routed_scaling_factor"};
    deepseek__config_hf(k, tix, c);
    if (c->n_routed_experts == 0)
        return;
    /* left out they would mean the defaults of one model: a guess that changes the text in silence */
    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
        if (k->r == 0 && !keys__has(k, needed[i]) &&
            !(keys__null(k, needed[i]) && !strcmp(needed[i], "n_shared_experts"))) /* null: none */
            keys__fail(k, ERR_FORMAT, needed[i], "is missing");
    keys__string(k, "scoring_func", s, sizeof(s), "sigmoid");
    if (k->r == 0 && strcmp(s, "sigmoid"))
        keys__fail(k, ERR_UNSUPPORTED, "scoring_func", "is %s; sigmoid is served", s);
    keys__string(k, "topk_method", s, sizeof(s), "noaux_tc");
    if (k->r == 0 && strcmp(s, "noaux_tc"))
        keys__fail(k, ERR_UNSUPPORTED, "topk_method", "is %s; noaux_tc is served", s);
    c->gating = GATING_SIGMOID;
}

/* declared by arch.c through arch.def */
extern const struct arch arch__deepseek_v3;
const struct arch arch__deepseek_v3 = {
    .name = "deepseek_v3",
    .gguf_name = "deepseek2",
    .hf_model_type = "deepseek_v3",
    .config_gguf = deepseek__config_gguf,
    .config_hf = deepseek_v3__config_hf,
    .bind = deepseek__bind,
    .out = &deepseek2__out,
};
