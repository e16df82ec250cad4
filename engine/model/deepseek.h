/* engine/model/deepseek.h - what checkpoints shaped like DeepSeek's share: the GGUF architecture
 * "deepseek2" and the tensor names of its folders. Families differ in keys and defaults. */
#ifndef LATENT_ENGINE_MODEL_DEEPSEEK_H
#define LATENT_ENGINE_MODEL_DEEPSEEK_H

#include "engine/model/arch.h"

/* The norms of the latents keep the default of their class in transformers, whatever rms_norm_eps says. */
#define DEEPSEEK_LATENT_EPS 1e-6f

/* Sizes from the keys of a "deepseek2" file, whichever family was converted to it. */
void deepseek__config_gguf(struct keys *k, const struct tix *tix, struct model_config *c);
/* Sizes that every folder of the family spells alike; leaves gating and its defaults to the row. */
void deepseek__config_hf(struct keys *k, const struct tix *tix, struct model_config *c);
/* deepseek_v3's: the same, and its gates. */
void deepseek_v3__config_hf(struct keys *k, const struct tix *tix, struct model_config *c);
/* Newer transformers put everything into rope_parameters, older ones rope_theta beside rope_scaling, which
 * is taken where both are there; the type is rope_type or type. */
const char *deepseek__rope_group(struct keys *k);
/* Parts of it: rotary embedding; keys whose values ask for what is not served. */
void deepseek__rope_hf(struct keys *k, struct model_config *c);
void deepseek__refuse_variants(struct keys *k);
void deepseek__refuse_activation(struct keys *k);
void deepseek__refuse_quantised(struct keys *k);
/* Checks that hold between sizes; names of the keys differ by format. */
void deepseek__check_routing(struct keys *k, const struct model_config *c);
/* Token embeddings, last norm and output, from either format. */
void deepseek__bind_ends(struct binder *b);
/* Trunk and multi-token-prediction blocks, from either format. */
void deepseek__bind(struct binder *b);
/* What config_gguf reads, written. */
int deepseek__keys_out(const struct model_config *c, struct gguf_writer *w, struct err *e);
extern const struct arch_out deepseek2__out;
/* Ours: other readers use layer_norm_rms_epsilon for all norms. */
#define DEEPSEEK_KEY_LATENT_EPS "attention.latent_layer_norm_rms_epsilon"

#endif
