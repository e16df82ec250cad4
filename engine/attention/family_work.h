/* engine/attention/family_work.h - work space of the attention family, shared by family.c and
 * family_parts.c. */
#ifndef LATENT_ENGINE_ATTENTION_FAMILY_WORK_H
#define LATENT_ENGINE_ATTENTION_FAMILY_WORK_H

#include "engine/attention/family.h"

struct family_work {
    struct paged_work *paged;
    const struct scratch *scratch;
    int max_rows;
    uint64_t n_bytes;
    struct span *spans; /* of a part */
    const void **px;    /* of the products in hand */
    float **py;
    struct product *list;
    float *make_floats;
    /* in the step's scratch: */
    unsigned char *acts; /* prepared vectors */
    float *y;            /* [part][hidden] */
};

#endif
