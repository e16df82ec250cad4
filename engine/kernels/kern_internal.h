/* engine/kernels/kern_internal.h - how the libraries of the instruction sets join the table. Each
 * function overrides the fields it has and leaves the others. */
#ifndef LATENT_ENGINE_KERNELS_KERN_INTERNAL_H
#define LATENT_ENGINE_KERNELS_KERN_INTERNAL_H

#include <string.h>

#include "engine/kernels/kern.h"

void kern__init_generic(struct kernels *t); /* sets every field */
void kern__init_avx2(struct kernels *t);
void kern__init_avx512(struct kernels *t);
void kern__init_avx512_attention(struct kernels *t); /* bfloat16 */
/* The AMX level in parts: products, attention, index keys. */
void kern__init_amx_products(struct kernels *t);
void kern__init_amx_attention(struct kernels *t);
void kern__init_amx_index(struct kernels *t);
void kern__init_neon(struct kernels *t);

/* Emulated levels (tests) do without, whose intrinsics are long: the compiler would take minutes a file. */
#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))
#endif

/* Before each loop over a tile: only when all of them are unrolled do the sums live in registers, and -O2
 * alone stops at small tiles. Emulated levels (tests) do without. */
#ifdef UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define Q8_BLOCK 32
#define Q8_GROUP_BLOCK 544 /* bytes of 32 values of a packed Q8_0 group: f16 d[16], int8 [8][16][4] */
#define ROW_NIBBLE_GROUP 32 /* values of a 4-bit cache row that share a scale */
#define ROW_SCALE_BLOCK 128 /* bytes of an 8-bit cache row that share a scale */
#define F8_BLOCK 128 /* k that share a scale */
#define F8_GROUP_BLOCK ((size_t)KERN_LANES * (sizeof(float) + F8_BLOCK)) /* bytes of a whole one */
/* Where a row of 8 or 4 bits keeps its bf16 tail and its scales. */
static inline size_t row_groups(int values)
{
    return ((size_t)values + ROW_NIBBLE_GROUP - 1) / ROW_NIBBLE_GROUP;
}
static inline size_t row_tail_at(const struct row_format *f)
{
    int values = f->elems - f->tail;
    return f->type == TT_I4 ? row_groups(values) * (ROW_NIBBLE_GROUP / 2) : (size_t)values;
}
static inline size_t row_scales_at(const struct row_format *f)
{
    return row_tail_at(f) + 2 * (size_t)f->tail;
}
static inline float row_bf16(const unsigned char *at)
{
    uint16_t h;
    float x;
    memcpy(&h, at, 2);
    uint32_t u = (uint32_t)h << 16;
    memcpy(&x, &u, 4);
    return x;
}
/* Of the group that element i of a 4-bit row is in: its scale, and its 16 bytes. */
static inline float row_nibble_scale(const struct row_format *f, const unsigned char *row, int i)
{
    return row_bf16(row + row_scales_at(f) + 2 * (size_t)(i / ROW_NIBBLE_GROUP));
}
static inline const unsigned char *row_nibbles(const unsigned char *row, int i)
{
    return row + (size_t)(i / ROW_NIBBLE_GROUP) * (ROW_NIBBLE_GROUP / 2);
}
static inline const unsigned char *attn_row(const struct attn_piece *p, int t)
{
    int u = p->first + t;
    return p->pages[u / p->page_tokens] + p->offset +
           (size_t)(u % p->page_tokens) * p->format.row_bytes;
}
static inline size_t f8_blocks(int n_in)
{
    return ((size_t)n_in + F8_BLOCK - 1) / F8_BLOCK;
}

/* Parts of prepared activations of n values (kern.h). */
static inline const float *act_scales(const void *act)
{
    return (const float *)act;
}
static inline const int32_t *act_sums(const void *act, int n)
{
    return (const int32_t *)act + n / Q8_BLOCK;
}
static inline const int8_t *act_values(const void *act, int n)
{
    return (const int8_t *)act + (size_t)(n / Q8_BLOCK) * 8;
}
static inline const int16_t *act_halves(const void *act, int n)
{
    return (const int16_t *)act + (size_t)(n / Q8_BLOCK) * 20;
}
static inline const float *act_totals(const void *act, int n)
{
    return (const float *)act + (size_t)(n / Q8_BLOCK) * 11;
}
#define ACT_BLOCK_BYTES 48 /* of all parts, for 32 values */

#endif
