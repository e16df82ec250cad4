/* engine/router_mlp.h - a router that is a small network and hands its state on from layer to layer
 * (ZAYA, arXiv 2511.17127):
 *
 *     r = x W_d + b_d + s r_before      state: r      a = gelu(RMSNorm(r) W_1 + b_1)      gelu(a W_2 + b_2)
 *
 * is what the layer's router matrix then reads. GELU is exact. The state is a row's, not a sequence's: the
 * first layer writes it. */
#ifndef LATENT_ENGINE_ROUTER_MLP_H
#define LATENT_ENGINE_ROUTER_MLP_H

#include "engine/step.h"

struct router_mlp;

/* NULL *ret: the layer has none. Errors name the tensor. */
int router_mlp_new(const struct router_mlp_tensors *t, struct pool *pool, const struct load_progress *lp,
                   struct router_mlp **ret, struct err *e) LATENT_MUST_CHECK;
void router_mlp_free(struct router_mlp *m);
uint64_t router_mlp_bytes(const struct router_mlp *m);
/* Of what its input has to be prepared for. */
enum tensor_type router_mlp_input(const struct router_mlp *m);

/* Bytes of memory for one row. */
size_t router_mlp_room(const struct model_config *c);
/* px[i]: the prepared input of row i of the set; afterwards what a matrix of type `out` reads. py: [rows],
 * its own. room: as many bytes for each row. */
void router_mlp_run(const struct router_mlp *m, const struct step *st, const struct row_set *set,
                    enum tensor_type out, const void **px, float **py, unsigned char *room);

#endif
