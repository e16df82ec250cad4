/* engine/attention/mla.h - latent attention in two parts, for mechanisms that choose which rows it sees.
 * layer and work are those of attention_mla's layer_new and work_new. mla__rows comes first; mla__attend once
 * per layer, if some row is active. */
#ifndef LATENT_ENGINE_ATTENTION_MLA_H
#define LATENT_ENGINE_ATTENTION_MLA_H

#include "engine/attention/attention.h"

/* Norms the residual rows, stores all cache rows, makes the active rows' query latents. */
void mla__rows(const void *layer, void *work, const struct attention_args *a);
/* Queries, attention and outputs, added to the residual stream. set: the active rows, perhaps in other spans;
 * choices as for paged_attention (absorbed spans only). */
void mla__attend(void *work, const struct row_set *set, const struct paged_choice *choices);

/* [all rows][hidden_size] normalised residual rows, after mla__rows. */
const float *mla__normed(const void *work);
/* [active rows][q_lora_rank] normalised query latents, after mla__rows. */
const float *mla__query_latents(const void *work);

#endif
