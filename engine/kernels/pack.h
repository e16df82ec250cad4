/* engine/kernels/pack.h - packed quantised weights, for pack.c and for the definition in generic.c. All
 * static but the packing. */
#ifndef LATENT_ENGINE_KERNELS_PACK_H
#define LATENT_ENGINE_KERNELS_PACK_H

#include <string.h>

#include "engine/kernels/quant_layout.h"

/* Sixteen rows are read in turns, more streams than the hardware follows: each row is fetched this far
 * ahead of where it is read. */
#define PACK_PREFETCH 512

/* One group: `rows` rows of the file (1..16), row_bytes apart, to dst. The other rows become zeros. */
void kern__pack_quants(enum tensor_type type, const unsigned char *src, size_t row_bytes, int rows,
                       int n_in, unsigned char *dst);

static inline float f32_of_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023, u;
    float f;
    if (e == 31)
        u = sign | 0x7f800000 | m << 13;
    else if (e)
        u = sign | (e + 112) << 23 | m << 13;
    else {
        f = (float)m * 0x1p-24f;
        return sign ? -f : f;
    }
    memcpy(&f, &u, sizeof(f));
    return f;
}

static inline float f32_of_f8(uint8_t v)
{
    uint32_t sign = (uint32_t)(v & 0x80) << 24, e = v >> 3 & 15, m = v & 7, u;
    float f;
    if ((v & 0x7f) == 0x7f)
        u = sign | 0x7fc00000;
    else if (e)
        u = sign | (e + 120) << 23 | m << 20;
    else {
        f = (float)m * 0x1p-9f;
        return sign ? -f : f;
    }
    memcpy(&f, &u, sizeof(f));
    return f;
}

/* Of a value in [-448, 448], to nearest even. */
static inline uint8_t f8_of_f32(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    uint8_t sign = (uint8_t)(u >> 24 & 0x80);
    u &= 0x7fffffff;
    if (u < 0x3c800000) { /* below 2^-6: a multiple of 2^-9 */
        float small;
        memcpy(&small, &u, sizeof(small));
        small += 16384.0f; /* the sum's grid is 2^-9, so it rounds there, to even */
        memcpy(&u, &small, sizeof(u));
        return (uint8_t)(sign | (u - 0x46800000));
    }
    return (uint8_t)(sign | ((u - (120u << 23) + 0x7ffff + (u >> 20 & 1)) >> 20));
}

static inline float half_at(const unsigned char *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return f32_of_f16(h);
}

struct quant_block {
    float d, m;         /* m: also dmin */
    int s[2], min[2];   /* of both halves; 1 and 0 where the type has none */
    int8_t q[Q8_BLOCK]; /* offset taken, table applied */
};

/* Scales and the 32 integers of block b of row r (0..15) in the super-block at `super`. */
INLINE void quant_block_read(enum tensor_type type, const unsigned char *super, int b, int r,
                             struct quant_block *ret)
{
    struct quant_layout l = quant_layout(type);
    const unsigned char *side = super + l.head + (size_t)b * quant_block_bytes(l);
    const unsigned char *n4 = side + l.side + 4 * r, *b2 = n4 + l.n4 * QUANT_WORD;
    const unsigned char *b1 = b2 + l.b2 * QUANT_WORD, *b8 = b1 + l.b1 * QUANT_WORD;
    ret->d = half_at(super + 2 * r);
    ret->m = l.head > 32 ? half_at(super + 32 + 2 * r) : 0.0f;
    ret->s[0] = ret->s[1] = 1;
    ret->min[0] = ret->min[1] = 0;
    for (int h = 0; h < 2; h++) {
        if (l.form == QUANT_SUBMIN) {
            ret->s[h] = side[r];
            ret->min[h] = side[16 + r];
        } else if (l.form == QUANT_SUB32) {
            ret->s[h] = (int8_t)side[r];
        } else if (l.form == QUANT_SUB16) {
            ret->s[h] = (int8_t)side[2 * r + h];
        } else if (l.form == QUANT_SUBMIN16) {
            ret->s[h] = side[2 * r + h] & 15;
            ret->min[h] = side[2 * r + h] >> 4;
        }
    }
    for (int k = 0; k < Q8_BLOCK; k++) {
        int q = k / 4, i = k % 4, v = 0, at = 0;
        if (l.b8) {
            ret->q[k] = (int8_t)b8[q * QUANT_WORD + i];
            continue;
        }
        if (l.n4) {
            v = n4[q % 4 * QUANT_WORD + i] >> q / 4 * 4 & 15;
            at = 4;
        }
        if (l.b2) {
            v |= (b2[q / 4 * QUANT_WORD + i] >> q % 4 * 2 & 3) << at;
            at += 2;
        }
        if (l.b1)
            v |= (b1[i] >> q & 1) << at;
        ret->q[k] = (int8_t)(l.table ? quant_iq4_table[v] : v - l.offset);
    }
}

/* Value k of a block, as the file means it. */
INLINE float quant_block_value(enum tensor_type type, const struct quant_block *b, int k)
{
    enum quant_form form = quant_layout(type).form;
    float v = b->d * (float)b->s[k / 16] * (float)b->q[k];
    if (form == QUANT_MIN)
        return v + b->m;
    if (form == QUANT_SUBMIN || form == QUANT_SUBMIN16)
        return v - b->m * (float)b->min[k / 16];
    return v;
}

#endif
