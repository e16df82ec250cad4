/* tools/convert/recipe.c - names for --type: plain types, and mixtures that give more bits to the tensors
 * on which llama.cpp's mixtures of the same names spend them. */
#include "config.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "tools/convert/recipe.h"

/* Numbers of general.file_type as llama.cpp counts them. */
static const struct recipe recipes[] = {
    {"f32", TT_F32, 0, false},      {"f16", TT_F16, 1, false},      {"bf16", TT_BF16, 32, false},
    {"q8_0", TT_Q8_0, 7, false},    {"q4_0", TT_Q4_0, 2, false},    {"q4_1", TT_Q4_1, 3, false},
    {"q5_0", TT_Q5_0, 8, false},    {"q5_1", TT_Q5_1, 9, false},    {"q2_k", TT_Q2_K, 10, false},
    {"q3_k", TT_Q3_K, 11, false},   {"q4_k", TT_Q4_K, 14, false},   {"q5_k", TT_Q5_K, 16, false},
    {"q6_k", TT_Q6_K, 18, false},   {"iq4_nl", TT_IQ4_NL, 25, false}, {"iq4_xs", TT_IQ4_XS, 30, false},
    {"q3_k_m", TT_Q3_K, 12, true},  {"q4_k_m", TT_Q4_K, 15, true},  {"q5_k_m", TT_Q5_K, 17, true},
};
#define N_RECIPES (sizeof(recipes) / sizeof(recipes[0]))

const struct recipe *recipe_find(const char *name)
{
    for (size_t i = 0; i < N_RECIPES; i++)
        if (strcasecmp(recipes[i].name, name) == 0)
            return &recipes[i];
    return NULL;
}

bool recipe_is_quantised(const struct recipe *r)
{
    return tensor_type_info((uint32_t)r->base)->block_elems > 1;
}

const char *recipe_names(void)
{
    return "f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs "
           "q3_k_m q4_k_m q5_k_m";
}

/* The first and last eighth of the layers and every third between them. */
static bool more_bits(int layer, int n_layers)
{
    int eighth = n_layers / 8;
    return layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2;
}

static enum tensor_type mixed(enum tensor_type base, const char *name, int n_layers)
{
    static const char *const ends[] = {"output.weight", "token_embd.weight", "lm_head.weight",
                                       "model.embed_tokens.weight", "transformer.wte.weight"};
    int layer = 0;
    bool values = strstr(name, ".attn_v_b.") || strstr(name, ".attn_kv_b.");
    bool down = strstr(name, ".ffn_down");
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
        if (strcmp(name, ends[i]) == 0)
            return TT_Q6_K;
    if (sscanf(name, "blk.%d.", &layer) != 1)
        return base;
    if (base == TT_Q3_K) {
        if (values)
            return layer < 2 ? TT_Q5_K : TT_Q4_K;
        if (down)
            return layer < n_layers / 16 ? TT_Q5_K : TT_Q4_K;
        return strstr(name, ".attn_output.") ? TT_Q4_K : base;
    }
    return (values || down) && more_bits(layer, n_layers) ? TT_Q6_K : base;
}

enum tensor_type recipe_type(const struct recipe *r, const char *name, int n_layers)
{
    return r->mixed ? mixed(r->base, name, n_layers) : r->base;
}
