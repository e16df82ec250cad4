/* tools/convert/recipe.h - what --type names; see recipe.c. Constant data, any thread. */
#ifndef LATENT_TOOLS_CONVERT_RECIPE_H
#define LATENT_TOOLS_CONVERT_RECIPE_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/model/tensor.h"

struct recipe {
    const char *name;
    enum tensor_type base;
    uint32_t file_type; /* general.file_type */
    bool mixed;
};

/* By name as in --type, any case; NULL when there is none. */
const struct recipe *recipe_find(const char *name);
bool recipe_is_quantised(const struct recipe *r);
/* "f32 f16 ...", for messages. */
const char *recipe_names(void);
/* The type for a matrix of this GGUF name, before its shape is looked at. */
enum tensor_type recipe_type(const struct recipe *r, const char *name, int n_layers);

#endif
