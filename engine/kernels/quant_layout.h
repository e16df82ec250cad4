/* engine/kernels/quant_layout.h - how a group of 16 rows of a quantised type is packed. All static.
 *
 * A group is a row of super-blocks, each of 32 or 256 values of 16 rows, each as many bytes as the 16
 * blocks of the file, but for the scales of Q3_K, Q4_K, Q5_K and IQ4_XS, which become whole bytes (2 to 4 %
 * more). In a super-block:
 *     head     f16 d[16]; then f16 m[16] or dmin[16] for the types that have one
 *     per 32:  side  Q4_K, Q5_K: uint8 s[16], min[16];  IQ4_XS: int8 s[16]
 *                    Q3_K, Q6_K: int8 s[16][2], of both halves;  Q2_K: the same, s | min << 4
 *              n4    [4][16][4]: byte i of row r, word j has k = 4 j + i in its low nibble, k + 16 in
 *                    the high one
 *              b2    [2][16][4]: two bits each; word j has k = 16 j + 4 q + i at bit 2 q of byte i
 *              b1    [1][16][4]: one bit each; k = 4 q + i at bit q of byte i
 *              b8    [8][16][4]: int8, k = 4 j + i
 * A value is made of the parts that its type has, the largest (n4, else b2) in the low bits, minus the
 * type's offset; IQ4's codes go through a table. Words are the unit, so packing moves whole words where
 * the file's order allows, and a kernel finds four k of every row in its lanes of 32 bits. */
#ifndef LATENT_ENGINE_KERNELS_QUANT_LAYOUT_H
#define LATENT_ENGINE_KERNELS_QUANT_LAYOUT_H

#include <stdint.h>
#include "engine/kernels/kern_internal.h"

#define QUANT_WORD 64 /* bytes of one word of 16 rows */

/* How the terms of 32 values are scaled (kern.h). */
enum quant_form {
    QUANT_PLAIN,  /* d */
    QUANT_MIN,    /* d, + m */
    QUANT_SUB32,  /* d s */
    QUANT_SUBMIN, /* d s, - dmin min */
    QUANT_SUB16,  /* d, integer scales of halves */
    QUANT_SUBMIN16,
};

struct quant_layout {
    enum quant_form form;
    int blocks;        /* of 32 values, in a super-block */
    int head, side;    /* bytes */
    int n4, b2, b1, b8; /* words */
    int offset;        /* taken from the unsigned value */
    int table;         /* codes of IQ4 */
};

static const int8_t quant_iq4_table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                           1,    13,   25,  38,  53,  69,  89,  113};

/* A switch, so that a kernel for one type sees constants. */
INLINE struct quant_layout quant_layout(enum tensor_type type)
{
    switch ((int)type) {
    case TT_Q4_0: return (struct quant_layout){QUANT_PLAIN, 1, 32, 0, 4, 0, 0, 0, 8, 0};
    case TT_Q4_1: return (struct quant_layout){QUANT_MIN, 1, 64, 0, 4, 0, 0, 0, 0, 0};
    case TT_Q5_0: return (struct quant_layout){QUANT_PLAIN, 1, 32, 0, 4, 0, 1, 0, 16, 0};
    case TT_Q5_1: return (struct quant_layout){QUANT_MIN, 1, 64, 0, 4, 0, 1, 0, 0, 0};
    case TT_Q8_0: return (struct quant_layout){QUANT_PLAIN, 1, 32, 0, 0, 0, 0, 8, 0, 0};
    case TT_Q2_K: return (struct quant_layout){QUANT_SUBMIN16, 8, 64, 32, 0, 2, 0, 0, 0, 0};
    case TT_Q3_K: return (struct quant_layout){QUANT_SUB16, 8, 32, 32, 0, 2, 1, 0, 4, 0};
    case TT_Q4_K: return (struct quant_layout){QUANT_SUBMIN, 8, 64, 32, 4, 0, 0, 0, 0, 0};
    case TT_Q5_K: return (struct quant_layout){QUANT_SUBMIN, 8, 64, 32, 4, 0, 1, 0, 0, 0};
    case TT_Q6_K: return (struct quant_layout){QUANT_SUB16, 8, 32, 32, 4, 2, 0, 0, 32, 0};
    case TT_IQ4_NL: return (struct quant_layout){QUANT_PLAIN, 1, 32, 0, 4, 0, 0, 0, 0, 1};
    case TT_IQ4_XS: return (struct quant_layout){QUANT_SUB32, 8, 32, 16, 4, 0, 0, 0, 0, 1};
    default: return (struct quant_layout){0};
    }
}

/* Values are an integer times a scale, without a minimum. */
INLINE int quant_is_scaled(struct quant_layout l)
{
    return l.form == QUANT_PLAIN || l.form == QUANT_SUB32 || l.form == QUANT_SUB16;
}

INLINE size_t quant_block_bytes(struct quant_layout l)
{
    return (size_t)l.side + (size_t)(l.n4 + l.b2 + l.b1 + l.b8) * QUANT_WORD;
}

INLINE size_t quant_super_bytes(struct quant_layout l)
{
    return (size_t)l.head + (size_t)l.blocks * quant_block_bytes(l);
}

INLINE size_t quant_group_bytes(enum tensor_type type, int n_in)
{
    struct quant_layout l = quant_layout(type);
    return (size_t)(n_in / (l.blocks * Q8_BLOCK)) * quant_super_bytes(l);
}

#endif
