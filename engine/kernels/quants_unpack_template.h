/* engine/kernels/quants_unpack_template.h - the integers of a packed block in vector registers, one
 * source for every x86 level. Included behind a level's integer part (quants_*.h), which names the
 * vectors. All static. */
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

/* Word q of a block: unsigned integers, or the signed ones of int8 and IQ4; p: behind its side scales. */
INLINE vi quant_word(const struct quant_layout l, const unsigned char *p, const int q)
{
    const unsigned char *b2 = p + l.n4 * QUANT_WORD, *b1 = b2 + l.b2 * QUANT_WORD;
    const int at2 = l.n4 ? 4 : 0, at1 = at2 + (l.b2 ? 2 : 0);
    if (l.b8)
        return vi_load(p + q * QUANT_WORD);
    vi w = vi_set1_8(0);
    if (l.n4)
        w = move_bits(vi_load(p + q % 4 * QUANT_WORD), q / 4 * 4, 0, 4);
    if (l.b2) {
        vi bits = move_bits(vi_load(b2 + q / 4 * QUANT_WORD), q % 4 * 2, at2, 2);
        w = l.n4 ? vi_or(w, bits) : bits;
    }
    if (l.b1)
        w = vi_or(w, move_bits(vi_load(b1), q, at1, 1));
    return l.table ? vi_lookup(vi_table16(quant_iq4_table), w) : w;
}

INLINE void quant_unpack(const struct quant_layout l, const unsigned char *p, vi w[8])
{
    UNROLL
    for (int q = 0; q < 8; q++)
        w[q] = quant_word(l, p, q);
}

#endif
