/* engine/profile.h - where the time of steps goes: weight products, attention, and what is left. A
 * model gets a profile by model_profile, from a benchmark or from the metrics: it costs two readings of the
 * clock for each job of the pool; without one, a test of a pointer. Engine thread only. */
#ifndef LATENT_ENGINE_PROFILE_H
#define LATENT_ENGINE_PROFILE_H

#include <stddef.h>
#include <stdint.h>
#include "base/clock.h"

enum profile_part { PROFILE_PRODUCTS = 0, PROFILE_ATTENTION, PROFILE_PARTS };

struct profile {
    int64_t ns[PROFILE_PARTS];
};

static inline int64_t profile_start(const struct profile *p)
{
    return p ? clock_now_ns() : 0;
}

static inline void profile_stop(struct profile *p, enum profile_part part, int64_t start)
{
    if (p)
        p->ns[part] += clock_now_ns() - start;
}

#endif
