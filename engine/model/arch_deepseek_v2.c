/* engine/model/arch_deepseek_v2.c - DeepSeek-V2, V2-Lite, V2.5 and Coder-V2 (arXiv 2405.04434): softmax
 * gates, all experts competing or only those of the best groups, with or without a latent for queries.
 * Its GGUF files are "deepseek2" (arch_deepseek_v3.c), told apart by their gate. */
#include "config.h"

#include "engine/model/deepseek.h"

#include <string.h>

static void config_hf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    char s[32];
    deepseek__config_hf(k, tix, c);
    if (c->n_routed_experts == 0)
        return;
    c->norm_topk_prob = keys__bool_or(k, "norm_topk_prob", false);
    if (c->norm_topk_prob)
        keys__fail(k, ERR_UNSUPPORTED, "norm_topk_prob",
                   "must be false: implementations of this family disagree on what true means");
    keys__string(k, "scoring_func", s, sizeof(s), "softmax");
    if (k->r == 0 && strcmp(s, "softmax"))
        keys__fail(k, ERR_UNSUPPORTED, "scoring_func", "is %s; softmax is served", s);
    keys__string(k, "topk_method", s, sizeof(s), "greedy");
    c->gating = GATING_SOFTMAX;
    if (strcmp(s, "group_limited_greedy") == 0) {
        c->topk_method = TOPK_GROUP_LIMITED_GREEDY;
        return;
    }
    if (k->r == 0 && strcmp(s, "greedy"))
        keys__fail(k, ERR_UNSUPPORTED, "topk_method",
                   "is %s; greedy and group_limited_greedy are served", s);
    c->topk_method = TOPK_GREEDY;
    c->n_group = c->topk_group = 1;
}

/* declared by arch.c through arch.def */
extern const struct arch arch__deepseek_v2;
const struct arch arch__deepseek_v2 = {
    .name = "deepseek_v2",
    .hf_model_type = "deepseek_v2",
    .config_hf = config_hf,
    .bind = deepseek__bind,
    .out = &deepseek2__out,
};
