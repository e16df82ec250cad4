/* engine/attention/family/mfa.h - what both forms of multi-matrix factorization have: keys, a query of low
 * rank, one key for all heads. */
#ifndef LATENT_ENGINE_ATTENTION_FAMILY_MFA_H
#define LATENT_ENGINE_ATTENTION_FAMILY_MFA_H

#include "engine/attention/family/query.h"

enum { MFA_HEADS, MFA_DIM, MFA_RANK };
/* Slots; MFA_VALUE is the matrix that values are made with; a form's own begin at MFA_SLOTS. */
enum { MFA_O = FAMILY_OUT, MFA_K, MFA_VALUE, MFA_Q, MFA_SLOTS = MFA_Q + 4 };

extern const struct family_key mfa_keys[];
void mfa_check(struct keys *k, struct family_layer *l);
struct low_query mfa_queries(const struct family_layer *l);
/* All but the matrix of values. */
void mfa_bind(struct family_bind *b);
struct paged_shape mfa_shape(const struct family_layer *l);

#endif
