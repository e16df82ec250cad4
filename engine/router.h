/* engine/router.h - which experts a token goes to, and with what weight. Pure functions. */
#ifndef LATENT_ENGINE_ROUTER_H
#define LATENT_ENGINE_ROUTER_H

#include "engine/model/checkpoint.h"

#define ROUTER_MAX_EXPERTS 1024

/* Experts that it chooses among: routed ones, then identity ones. */
static inline int router_experts(const struct model_config *c)
{
    return c->n_routed_experts + c->zero_expert_num;
}

/* logits: [router_experts] of one token, overwritten. bias (may be NULL) is added to the scores for
 * choosing only. Writes num_experts_per_tok experts, best first (ties: the lower index), and their
 * weights: the unbiased scores, normalised if norm_topk_prob, times routed_scaling_factor. */
void router_choose(const struct model_config *c, float *logits, const float *bias,
                   int32_t *ret_experts, float *ret_weights);

#endif
