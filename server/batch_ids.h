/* server/batch_ids.h - which requests of a batch are known: texts and numbers with a mark each.
 *
 * Kept as 128-bit hashes: a batch of a million requests takes 48 MiB, whatever its ids are. Two different
 * ones that hash alike are not to be expected in the life of the machine. Loop thread. */
#ifndef LATENT_SERVER_BATCH_IDS_H
#define LATENT_SERVER_BATCH_IDS_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/hash.h"

enum batch_mark {
    BATCH_SEEN = 1,   /* in this run's input */
    BATCH_DONE = 2,   /* answered, in the output */
    BATCH_FAILED = 4, /* ... not with 200 */
    BATCH_TOLD = 8,   /* a line by its number: why it is no request stands in the output */
};

struct batch_ids {
    struct batch_id {
        struct hash128 hash;
        uint8_t marks; /* 0: free */
    } *ids;
    size_t n, n_slots, max;
};

void batch_ids_init(struct batch_ids *s, size_t max);
void batch_ids_done(struct batch_ids *s);
/* The marks of a custom_id, or (NULL) of a line by its number. */
unsigned batch_ids_marks(const struct batch_ids *s, const char *custom_id, long long line);
/* Sets some of `clear` off and `set` on; `set` is not 0. ERR_NOMEM; ERR_LIMIT: more than max. */
int batch_ids_mark(struct batch_ids *s, const char *custom_id, long long line, unsigned clear, unsigned set)
    LATENT_MUST_CHECK;

#endif
