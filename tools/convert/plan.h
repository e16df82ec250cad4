/* tools/convert/plan.h - what will be written, decided before anything is: the type of every tensor, its
 * place, the parts, the bytes. */
#ifndef LATENT_TOOLS_CONVERT_PLAN_H
#define LATENT_TOOLS_CONVERT_PLAN_H

#include <stdio.h>
#include "tools/convert/recipe.h"
#include "tools/convert/source.h"

#define PLAN_MAX_OVERRIDES 64

struct plan_override {
    const char *pattern; /* as for fnmatch, over the tensor's GGUF name */
    enum tensor_type type;
};

struct plan_options {
    const struct recipe *recipe;
    uint64_t split_bytes; /* 0: one file */
    int n_overrides;
    struct plan_override overrides[PLAN_MAX_OVERRIDES];
};

struct plan_tensor {
    enum tensor_type type;
    enum tensor_type wanted; /* differs from type where the rows do not fit its blocks */
    int part;
    uint64_t n_bytes;
};

struct plan {
    const struct source *source;
    const struct recipe *recipe;
    struct plan_tensor *tensors; /* as many as the source has */
    int n_parts;
    int *first;                  /* tensors of part p: first[p] .. first[p + 1] */
    uint64_t n_bytes;            /* of all tensors */
};

int plan_make(const struct source *s, const struct plan_options *o, struct plan *ret,
              struct err *e) LATENT_MUST_CHECK;
void plan_done(struct plan *p);
/* A line for each kind of tensor, blocks taken together. */
void plan_print(const struct plan *p, FILE *f);
/* "12.3 GB" in dst. */
const char *plan_size(uint64_t n_bytes, char dst[32]);

#endif
