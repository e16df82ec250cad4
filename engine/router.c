/* engine/router.c - the gates of DeepSeek and its relatives: softmax or sigmoid scores, correction bias,
 * limited groups. Only the topk_group best groups compete; topk_method says what a group is worth. */
#include "config.h"

#include "engine/router.h"

#include <math.h>

static int argmax(const float *v, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (v[i] > v[best])
            best = i;
    return best;
}

static void drop_groups(const struct model_config *c, float *choice)
{
    int per = c->n_routed_experts / c->n_group;
    float score[ROUTER_MAX_EXPERTS];
    bool keep[ROUTER_MAX_EXPERTS] = {false};
    for (int g = 0; g < c->n_group; g++) {
        const float *v = choice + g * per;
        float a = -INFINITY, b = -INFINITY;
        for (int i = 0; i < per; i++) {
            if (v[i] > a) {
                b = a;
                a = v[i];
            } else if (v[i] > b) {
                b = v[i];
            }
        }
        score[g] = per > 1 && c->topk_method == TOPK_NOAUX_TC ? a + b : a;
    }
    for (int k = 0; k < c->topk_group; k++) {
        int g = argmax(score, c->n_group);
        keep[g] = true;
        score[g] = -INFINITY;
    }
    for (int i = 0; i < c->n_routed_experts; i++)
        if (!keep[i / per])
            choice[i] = -INFINITY;
}

/* Scores out of logits, in place. */
static void score(const struct model_config *c, float *logits, int n)
{
    if (c->gating == GATING_SIGMOID) {
        for (int i = 0; i < n; i++)
            logits[i] = 1.0f / (1.0f + expf(-logits[i]));
        return;
    }
    float max = logits[argmax(logits, n)], sum = 0.0f;
    for (int i = 0; i < n; i++) {
        logits[i] = expf(logits[i] - max);
        sum += logits[i];
    }
    for (int i = 0; i < n; i++)
        logits[i] /= sum;
}

void router_choose(const struct model_config *c, float *logits, const float *bias,
                   int32_t *ret_experts, float *ret_weights)
{
    int n = router_experts(c);
    float choice[ROUTER_MAX_EXPERTS];
    score(c, logits, n);
    for (int i = 0; i < n; i++)
        choice[i] = logits[i] + (bias ? bias[i] : 0.0f);
    if (c->n_group > 1 && c->topk_group < c->n_group)
        drop_groups(c, choice);
    float sum = 0.0f;
    for (int k = 0; k < c->num_experts_per_tok; k++) {
        int e = argmax(choice, n);
        choice[e] = -INFINITY;
        ret_experts[k] = e;
        ret_weights[k] = logits[e];
        sum += logits[e];
    }
    for (int k = 0; k < c->num_experts_per_tok; k++) {
        if (c->norm_topk_prob)
            ret_weights[k] /= sum + 1e-20f;
        ret_weights[k] *= c->routed_scaling_factor;
    }
}
