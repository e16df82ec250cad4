/* engine/identity.h - what decides about the bits of a cache row besides its tokens. */
#ifndef LATENT_ENGINE_IDENTITY_H
#define LATENT_ENGINE_IDENTITY_H

#include "engine/engine.h"

/* A fingerprint for files of cache rows: two daemons have the same only if they would compute the same rows.
 * It covers the model (checkpoint_fingerprint), what the configuration says of rows and schemes, the
 * instruction set, this program's own bytes, the shared libraries it runs with (name, length, time) and the
 * processor's model and features, since libraries choose their code by them. ERR_IO, ERR_NOMEM. */
int engine_identity(const struct checkpoint *ck, const struct engine_config *cfg, const struct scheme *scheme,
                    uint64_t ret[2], struct err *e) LATENT_MUST_CHECK;

#endif
