/* engine/kernels/quants_unpack_template.h - the integers of a packed block in vector registers, one
 * source for every
 * x86 level. Included behind a level's integer part (quants_*.h), which names the vectors. All static. */
#ifndef LATENT_ENGINE_KERNELS_QUANTS_UNPACK_H
#define LATENT_ENGINE_KERNELS_QUANTS_UNPACK_H

#include "engine/kernels/quant_layout.h"

/* Bits [from, from + n) of each byte to [to, to + n), others 0. */
INLINE vi move_bits(vi v, const int from, const int to, const int n)
{
    vi mask = vi_set1_8(((1 << n) - 1) << to);
    if (from > to)
        v = vi_srl16(v, from - to);
    else if (from < to)
        v = vi_sll16(v, to - from);
    return vi_and(v, mask);
}

/* The unsigned integers of a block, or the signed ones of int8 and IQ4; p: behind its side scales. */
INLINE void quant_unpack(const struct quant_layout l, const unsigned char *p, vi w[8])
{
    const unsigned char *b2 = p + l.n4 * QUANT_WORD, *b1 = b2 + l.b2 * QUANT_WORD;
    const int at2 = l.n4 ? 4 : 0, at1 = at2 + (l.b2 ? 2 : 0);
    if (l.b8) {
        UNROLL
        for (int q = 0; q < 8; q++)
            w[q] = vi_load(p + q * QUANT_WORD);
        return;
    }
    if (l.n4) {
        UNROLL
        for (int j = 0; j < 4; j++) {
            vi v = vi_load(p + j * QUANT_WORD);
            w[j] = move_bits(v, 0, 0, 4);
            w[j + 4] = move_bits(v, 4, 0, 4);
        }
    }
    if (l.b2) {
        UNROLL
        for (int j = 0; j < 2; j++) {
            vi v = vi_load(b2 + j * QUANT_WORD);
            UNROLL
            for (int q = 0; q < 4; q++) {
                vi bits = move_bits(v, 2 * q, at2, 2);
                w[4 * j + q] = l.n4 ? vi_or(w[4 * j + q], bits) : bits;
            }
        }
    }
    if (l.b1) {
        vi v = vi_load(b1);
        UNROLL
        for (int q = 0; q < 8; q++)
            w[q] = vi_or(w[q], move_bits(v, q, at1, 1));
    }
    if (l.table) {
        vi table = vi_table16(quant_iq4_table);
        UNROLL
        for (int q = 0; q < 8; q++)
            w[q] = vi_lookup(table, w[q]);
    }
}

#endif
