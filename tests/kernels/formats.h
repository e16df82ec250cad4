/* tests/kernels/formats.h - what each weight type's bytes mean, one value at a time. */
#ifndef LATENT_TESTS_KERNELS_FORMATS_H
#define LATENT_TESTS_KERNELS_FORMATS_H

#include "engine/model/tensor.h"

/* A value is scale * q - min, all exact in float64. */
struct format_value {
    double scale;
    int q;
    double min;
};

struct format {
    enum tensor_type type;
    const char *name;
    int elems, n_bytes; /* of a block */
    int half_at[2];     /* bytes where half-precision scales lie, -1: none */
    struct format_value (*value)(const unsigned char *block, int i);
};

#define N_FORMATS 16
extern const struct format formats[N_FORMATS];
const struct format *format_of(enum tensor_type type);

#endif
