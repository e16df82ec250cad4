/* engine/kernels/pack_quants.c - quantised rows of a file into the layout of quant_layout.h, and one
 * block of it back. Plain C on words of 32 bits: this runs over every byte of a model once.
 *
 * Where the file keeps bits of several blocks in one byte, a few words are transposed as matrices of
 * bits, by exchanging ever smaller squares (swap_bits), so that each block gets words of its own. */
#include "config.h"

#include <string.h>

#include "engine/kernels/pack.h"

typedef unsigned char byte;

static inline uint32_t word_at(const byte *p, int i)
{
    uint32_t w;
    memcpy(&w, p + 4 * i, 4);
    return w;
}

/* Word i of a row whose words are 64 bytes apart. */
static inline void put_word(byte *dst, int i, uint32_t w)
{
    memcpy(dst + (size_t)i * QUANT_WORD, &w, 4);
}

/* Exchanges the bits of a that lie `shift` above the mask with those of b under it. */
static inline void swap_bits(uint32_t *a, uint32_t *b, int shift, uint32_t mask)
{
    uint32_t t = ((*a >> shift) ^ *b) & mask;
    *b ^= t;
    *a ^= t << shift;
}

/* In each byte lane: bit s of word q goes to bit q of word s. */
static inline void transpose_bits(uint32_t w[8])
{
    UNROLL
    for (int q = 0; q < 4; q++)
        swap_bits(&w[q], &w[q + 4], 4, 0x0f0f0f0f);
    UNROLL
    for (int q = 0; q < 8; q += q % 2 ? 3 : 1)
        swap_bits(&w[q], &w[q + 2], 2, 0x33333333);
    UNROLL
    for (int q = 0; q < 8; q += 2)
        swap_bits(&w[q], &w[q + 1], 1, 0x55555555);
}

/* The same for four words of four pairs of bits. */
static inline void transpose_pairs(uint32_t w[4])
{
    swap_bits(&w[0], &w[2], 4, 0x0f0f0f0f);
    swap_bits(&w[1], &w[3], 4, 0x0f0f0f0f);
    swap_bits(&w[0], &w[1], 2, 0x33333333);
    swap_bits(&w[2], &w[3], 2, 0x33333333);
}

/* Bit 4 q + i goes to bit 8 i + q: four exchanges of two bits of the index. */
static inline uint32_t spread_bits(uint32_t x)
{
    uint32_t t = ((x >> 14) ^ x) & 0x0000cccc;
    x ^= t ^ t << 14;
    t = ((x >> 7) ^ x) & 0x00aa00aa;
    x ^= t ^ t << 7;
    t = ((x >> 2) ^ x) & 0x0c0c0c0c;
    x ^= t ^ t << 2;
    t = ((x >> 1) ^ x) & 0x22222222;
    return x ^ t ^ t << 1;
}

/* 32 bytes whose low nibbles are one block and whose high ones are another. */
static inline void pack_two_nibbles(const byte *src, byte *low, byte *high)
{
    UNROLL
    for (int j = 0; j < 4; j++) {
        uint32_t a = word_at(src, j), b = word_at(src, j + 4);
        put_word(low, j, (a & 0x0f0f0f0f) | (b & 0x0f0f0f0f) << 4);
        put_word(high, j, (a >> 4 & 0x0f0f0f0f) | (b & 0xf0f0f0f0));
    }
}

/* 64 bytes of pairs of bits, as Q2_K, Q3_K and Q6_K have them; dst: b2 of block 0. */
static inline void pack_pairs(const byte *src, byte *dst, size_t block_bytes)
{
    UNROLL
    for (int part = 0; part < 4; part++) { /* of a half of 128 values: words 0..3, then 4..7 */
        uint32_t w[4];
        UNROLL
        for (int q = 0; q < 4; q++)
            w[q] = word_at(src, 4 * part + q);
        transpose_pairs(w);
        UNROLL
        for (int p = 0; p < 4; p++)
            put_word(dst + (size_t)(part / 2 * 4 + p) * block_bytes, part % 2, w[p]);
    }
}

/* 32 bytes whose bit s belongs to block s; dst: b1 of block 0. */
static inline void pack_bits(const byte *src, byte *dst, size_t block_bytes)
{
    uint32_t w[8];
    UNROLL
    for (int q = 0; q < 8; q++)
        w[q] = word_at(src, q);
    transpose_bits(w);
    UNROLL
    for (int s = 0; s < 8; s++)
        put_word(dst + (size_t)s * block_bytes, 0, w[s]);
}

/* The twelve bytes of Q4_K and Q5_K: scales and minima of six bits, four words at once. */
static inline void unpack_six(const byte *src, byte scale[8], byte min[8])
{
    uint32_t a = word_at(src, 0), b = word_at(src, 1), c = word_at(src, 2);
    uint32_t out[4] = {a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030), b & 0x3f3f3f3f,
                       (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030)};
    memcpy(scale, out, 8);
    memcpy(min, out + 2, 8);
}

/* The twelve bytes of Q3_K: sixteen scales of six bits, 32 too large. */
static inline void unpack_six16(const byte *src, int8_t scale[16])
{
    uint32_t a = word_at(src, 0), b = word_at(src, 1), c = word_at(src, 2);
    uint32_t out[4] = {(a & 0x0f0f0f0f) | (c << 4 & 0x30303030),
                       (b & 0x0f0f0f0f) | (c << 2 & 0x30303030),
                       (a >> 4 & 0x0f0f0f0f) | (c & 0x30303030),
                       (b >> 4 & 0x0f0f0f0f) | (c >> 2 & 0x30303030)};
    memcpy(scale, out, 16);
    UNROLL
    for (int s = 0; s < 16; s++)
        scale[s] = (int8_t)(scale[s] - 32);
}

/* One super-block of one row; dst is the super-block, r the row's lane. */
INLINE void pack_super(enum tensor_type type, const byte *src, byte *dst, int r)
{
    struct quant_layout l = quant_layout(type);
    size_t bytes = quant_block_bytes(l);
    byte *first = dst + l.head;                        /* side of block 0 */
    byte *lanes = first + l.side + 4 * r;              /* words of block 0 */
    byte *b2 = lanes + l.n4 * QUANT_WORD, *b1 = b2 + l.b2 * QUANT_WORD;
    int d_at = 0;
    switch ((int)type) {
    case TT_Q4_0:
    case TT_IQ4_NL:
        UNROLL
        for (int j = 0; j < 4; j++)
            put_word(lanes, j, word_at(src + 2, j));
        break;
    case TT_Q4_1:
        UNROLL
        for (int j = 0; j < 4; j++)
            put_word(lanes, j, word_at(src + 4, j));
        break;
    case TT_Q5_0:
        UNROLL
        for (int j = 0; j < 4; j++)
            put_word(lanes, j, word_at(src + 6, j));
        put_word(b1, 0, spread_bits(word_at(src + 2, 0)));
        break;
    case TT_Q5_1:
        UNROLL
        for (int j = 0; j < 4; j++)
            put_word(lanes, j, word_at(src + 8, j));
        put_word(b1, 0, spread_bits(word_at(src + 4, 0)));
        break;
    case TT_Q8_0:
        UNROLL
        for (int j = 0; j < 8; j++)
            put_word(lanes, j, word_at(src + 2, j));
        break;
    case TT_Q2_K:
        UNROLL
        for (int b = 0; b < 8; b++)
            memcpy(first + (size_t)b * bytes + 2 * r, src + 2 * b, 2);
        pack_pairs(src + 16, b2, bytes);
        d_at = 80;
        break;
    case TT_Q3_K: {
        int8_t s[16];
        unpack_six16(src + 96, s);
        UNROLL
        for (int b = 0; b < 8; b++)
            memcpy(first + (size_t)b * bytes + 2 * r, s + 2 * b, 2);
        pack_pairs(src + 32, b2, bytes);
        pack_bits(src, b1, bytes);
        d_at = 108;
        break;
    }
    case TT_Q4_K:
    case TT_Q5_K: {
        byte s[8], min[8];
        unpack_six(src + 4, s, min);
        UNROLL
        for (int b = 0; b < 8; b++) {
            first[(size_t)b * bytes + (size_t)r] = s[b];
            first[(size_t)b * bytes + 16 + (size_t)r] = min[b];
        }
        UNROLL
        for (int b = 0; b < 8; b += 2)
            pack_two_nibbles(src + (type == TT_Q4_K ? 16 : 48) + 16 * b, lanes + (size_t)b * bytes,
                             lanes + (size_t)(b + 1) * bytes);
        if (type == TT_Q5_K)
            pack_bits(src + 16, b1, bytes);
        break;
    }
    case TT_Q6_K:
        UNROLL
        for (int b = 0; b < 8; b++)
            memcpy(first + (size_t)b * bytes + 2 * r, src + 192 + 2 * b, 2);
        UNROLL
        for (int b = 0; b < 8; b += b % 4 ? 3 : 1) /* blocks 0, 1, 4, 5: low nibbles; b + 2: high */
            pack_two_nibbles(src + b / 4 * 64 + b % 4 * 32, lanes + (size_t)b * bytes,
                             lanes + (size_t)(b + 2) * bytes);
        pack_pairs(src + 128, b2, bytes);
        d_at = 208;
        break;
    case TT_IQ4_XS: {
        int high = src[2] | src[3] << 8;
        UNROLL
        for (int b = 0; b < 8; b++) {
            int six = (src[4 + b / 2] >> b % 2 * 4 & 15) | (high >> 2 * b & 3) << 4;
            first[(size_t)b * bytes + (size_t)r] = (byte)(six - 32);
            UNROLL
            for (int j = 0; j < 4; j++)
                put_word(lanes + (size_t)b * bytes, j, word_at(src + 8 + 16 * b, j));
        }
        break;
    }
    default:
        break;
    }
    memcpy(dst + 2 * r, src + d_at, 2);
    if (l.head > 32)
        memcpy(dst + 32 + 2 * r, src + d_at + 2, 2);
}

INLINE void pack_group(enum tensor_type type, const byte *src, size_t row_bytes, int rows, int n_in,
                       size_t src_bytes, byte *dst)
{
    struct quant_layout l = quant_layout(type);
    for (int s = 0; s < n_in / (l.blocks * Q8_BLOCK); s++, src += src_bytes, dst += quant_super_bytes(l)) {
        if (rows < KERN_LANES)
            memset(dst, 0, quant_super_bytes(l));
        for (int r = 0; r < rows; r++) {
            const byte *at = src + (size_t)r * row_bytes;
            for (size_t i = 0; i < src_bytes; i += 64)
                __builtin_prefetch(at + PACK_PREFETCH + i);
            pack_super(type, at, dst, r);
        }
    }
}

void kern__pack_quants(enum tensor_type type, const byte *src, size_t row_bytes, int rows, int n_in,
                       byte *dst)
{
#define PACK(type, src_bytes) \
    case type: pack_group(type, src, row_bytes, rows, n_in, src_bytes, dst); break;
    switch ((int)type) {
        PACK(TT_Q4_0, 18)
        PACK(TT_Q4_1, 20)
        PACK(TT_Q5_0, 22)
        PACK(TT_Q5_1, 24)
        PACK(TT_Q8_0, 34)
        PACK(TT_Q2_K, 84)
        PACK(TT_Q3_K, 110)
        PACK(TT_Q4_K, 144)
        PACK(TT_Q5_K, 176)
        PACK(TT_Q6_K, 210)
        PACK(TT_IQ4_NL, 18)
        PACK(TT_IQ4_XS, 136)
    default: break;
    }
#undef PACK
}
