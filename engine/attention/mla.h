/* engine/attention/mla.h - latent attention in parts, for mechanisms that choose which rows it sees.
 * layer and work are those of attention_mla's layer_new and work_new. The parts are called in this
 * order; the last three only when some row is active, and mla__attend once per layer. */
#ifndef LATENT_ENGINE_ATTENTION_MLA_H
#define LATENT_ENGINE_ATTENTION_MLA_H

#include "engine/attention/attention.h"

/* Norms the residual rows, stores all cache rows, projects the active rows' query latents. */
void mla__rows(const void *layer, void *work, const struct attention_args *a);
/* Norms the query latents; queries, rotated and absorbed. */
void mla__queries(void *work);
/* set: the active rows, perhaps in other spans; choices as for paged_attention. */
void mla__attend(void *work, const struct row_set *set, const struct paged_choice *choices);
/* Outputs of the heads, added to the residual stream. */
void mla__outputs(void *work);

/* [all rows][hidden_size] normalised residual rows, after mla__rows. */
const float *mla__normed(const void *work);
/* [active rows][q_lora_rank] normalised query latents, after mla__queries. */
const float *mla__query_latents(const void *work);

#endif
