/* engine/ffn.h - the feed-forward half of a layer: dense SwiGLU, or routed experts plus a shared one
 * (DeepSeekMoE, arXiv 2401.06066; gate of DeepSeek-V3, arXiv 2412.19437 section 2.1.2). */
#ifndef LATENT_ENGINE_FFN_H
#define LATENT_ENGINE_FFN_H

#include "engine/step.h"

struct ffn_layer;
struct ffn_work;

/* dense says which of the two forms the tensors hold. Errors name the tensor. */
int ffn_layer_new(const struct model_config *c, const struct layer_tensors *t, bool dense,
                  struct pool *pool, const struct load_progress *lp, struct ffn_layer **ret,
                  struct err *e) LATENT_MUST_CHECK;
void ffn_layer_free(struct ffn_layer *l);
/* Tokens that each routed expert has had since the start, [*ret_n]; NULL: the layer is dense. */
const uint64_t *ffn_layer_expert_tokens(const struct ffn_layer *l, int *ret_n);
uint64_t ffn_layer_bytes(const struct ffn_layer *l);

int ffn_work_new(const struct model_config *c, const struct step_limits *lim,
                 struct ffn_work **ret) LATENT_MUST_CHECK;
void ffn_work_free(struct ffn_work *w);
uint64_t ffn_work_bytes(const struct ffn_work *w);
int ffn_max_products(const struct model_config *c);

/* out[row] += ffn(RMSNorm(x[row])) for the rows of the set; out is step->x or another [rows][hidden]. */
void ffn_run(const struct ffn_layer *l, struct ffn_work *w, const struct step *step,
             const struct row_set *set, float *out);

#endif
