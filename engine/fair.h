/* engine/fair.h - what each key has been served, in tokens: start-time fair queueing.
 *
 * The key that was served least goes first. One that comes back after a pause begins where the others are,
 * not with what it did not use. Bounded: when all places are taken by keys that have something to do, more
 * keys share places. Engine thread. */
#ifndef LATENT_ENGINE_FAIR_H
#define LATENT_ENGINE_FAIR_H

#include <stdint.h>

struct fair;

struct fair *fair_new(int max_keys); /* NULL: out of memory */
void fair_free(struct fair *f);      /* NULL-safe */
int fair_enter(struct fair *f, uint64_t key); /* a job of the key arrived; returns its place */
void fair_leave(struct fair *f, int place);   /* ... and ended */
void fair_charge(struct fair *f, int place, int tokens);
void fair_chosen(struct fair *f, int place);  /* it is its turn */
int64_t fair_served(const struct fair *f, int place);

#endif
