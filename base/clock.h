/* base/clock.h - time in nanoseconds. Thread safe. */
#ifndef LATENT_BASE_CLOCK_H
#define LATENT_BASE_CLOCK_H

#include <stdint.h>

int64_t clock_now_ns(void);   /* CLOCK_MONOTONIC */
int64_t clock_wall_ns(void);  /* CLOCK_REALTIME */

#define NS_PER_SEC 1000000000LL
#define NS_PER_MS 1000000LL

#endif
