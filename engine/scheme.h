/* engine/scheme.h - in which of two ways the latent attention of prompts is computed, and in which
 * of two their products.
 *
 * Absorbed, every query meets the latents themselves: 2 rank + rope multiply-adds a key and head.
 * Decompressed (engine/attention/mla_decompressed.h), it meets keys and values of its head: nope +
 * rope + v, and the rank (nope + v) that making these takes are shared by the queries of a chunk.
 * The two differ in rounding, so the choice may depend on nothing but the request, the model and the
 * instruction set: whole blocks of `block` positions inside a prompt go decompressed, the rest of it
 * and all that is generated absorbed.
 *
 * `auto` decides by a table of costs for each instruction set, measured once and written down in
 * scheme.c, not by what the machine does today: two daemons with the same model and level agree.
 * What the machine does is measured when it starts, and told.
 *
 * Products with quantised weights take activations as int8, or both sides rounded to bfloat16
 * (kern.h, mul_rounded). The second way is several times as fast for many rows where tiles of
 * bfloat16 exist (amx), the first one for few rows. So there all positions of a prompt go the second
 * way and all that is generated the first. The price: what was generated is computed again when it
 * comes back in a longer prompt. */
#ifndef LATENT_ENGINE_SCHEME_H
#define LATENT_ENGINE_SCHEME_H

#include <stdbool.h>
#include "base/cpu.h"
#include "engine/model/checkpoint.h"

enum prompt_products { PRODUCTS_AUTO = 0, PRODUCTS_INT8, PRODUCTS_BF16 };
/* reuse and recompute are absorbed, with the product of the two matrices of a query (mla_product in
 * step.h). */
enum mla_scheme { MLA_AUTO = 0, MLA_ABSORBED, MLA_DECOMPRESSED, MLA_REUSE, MLA_RECOMPUTE };

/* Of a query, a key and a head, on one thread. */
struct scheme_cost {
    double absorbed_ns, decompressed_ns;
};

struct scheme_shape {
    int rank, nope, rope, v;
    enum tensor_type k_type, v_type; /* of the matrices that make keys and values */
    enum tensor_type row_type;       /* of the cache */
};

struct scheme {
    int block;                   /* positions; 0: all prompts go absorbed */
    struct scheme_cost expected; /* by the table; both 0: the model has no such attention */
    struct scheme_cost measured; /* by scheme_measure; both 0: it was not */
    int product;                 /* enum mla_product_kind */
    bool rounded;                /* products of prompts go by mul_rounded */
};

/* block: as configured. */
struct scheme scheme_choose(enum mla_scheme wanted, int block, enum cpu_level level,
                            const struct checkpoint *ck);
/* Whether prompts' products are rounded. */
bool scheme_rounded(enum prompt_products wanted, enum cpu_level level, const struct checkpoint *ck);
/* The table's answer. */
struct scheme_cost scheme_expected(enum cpu_level level, const struct scheme_shape *s);
bool scheme_favours_decompressed(const struct scheme_cost *c);
/* Runs both ways for some milliseconds, with chunks as large as the table assumes. Nothing at the generic
 * level, where they would be many, nor without memory. */
void scheme_measure(struct scheme *s, enum cpu_level level, const struct checkpoint *ck,
                    enum tensor_type row_type);
/* Positions from the beginning of a prompt that go decompressed: whole blocks. */
static inline int scheme_decompressed(int block, int n_prompt)
{
    return block > 0 ? n_prompt / block * block : 0;
}

#endif
