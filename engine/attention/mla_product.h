/* engine/attention/mla_product.h - absorbed queries of latent attention by one matrix a head, the
 * product of the query's up-projection and W_UK (arXiv 2506.02523): q'_h = cq (W_UQ,h W_UK,h^T). Without
 * a latent for queries it starts from the hidden row.
 *
 * "reuse": the product is kept as weights, rq r of them a head instead of nope (rq + r). "recompute":
 * only the factors are kept, and each step makes the product of a head anew, by the kernels of products,
 * in float32. Both are here to be measured: the factors one after the other do with less of everything
 * on these machines. */
#ifndef LATENT_ENGINE_ATTENTION_MLA_PRODUCT_H
#define LATENT_ENGINE_ATTENTION_MLA_PRODUCT_H

#include "engine/step.h"

struct mla_product;
struct mla_product_work; /* for products that are made */

/* Errors as matrix_pack's. */
int mla_product__new(const struct model_config *c, const struct layer_tensors *t, enum mla_product_kind kind,
                     struct mla_product **ret, struct err *e);
void mla_product__free(struct mla_product *l); /* NULL-safe, as are the ones below */
uint64_t mla_product__bytes(const struct mla_product *l);

int mla_product__work_new(const struct model_config *c, const struct step_limits *lim,
                          struct mla_product_work **ret) LATENT_MUST_CHECK;
void mla_product__work_free(struct mla_product_work *w);
uint64_t mla_product__work_bytes(const struct mla_product_work *w);

/* Whether all heads' products are there at once; else mla_product__of makes one that lasts until the next. */
bool mla_product__kept(const struct mla_product *l);
/* The rotary part of all heads' queries, [heads * rope] outputs. */
const struct matrix *mla_product__rope(const struct mla_product *l);
/* Of a head: from the query's latent, or the hidden row, to kv_lora_rank. */
const struct matrix *mla_product__of(const struct mla_product *l, struct mla_product_work *w,
                                     const struct step *st, int head);

#endif
