/* tests/kernels/formats.c - the weight types a second time: one value, by the places of its bits in the
 * block, in float64. Nothing here is shared with the code under test. */
#include "config.h"

#include "tests/kernels/formats.h"

#include <math.h>
#include <stddef.h>

/* n bits that begin at bit `at` of the block, counted from bit 0 of byte 0 upward. */
static int bits(const unsigned char *block, int at, int n)
{
    int v = 0;
    for (int i = 0; i < n; i++)
        v |= (block[(at + i) / 8] >> (at + i) % 8 & 1) << i;
    return v;
}

static int signed8(const unsigned char *block, int byte)
{
    int v = bits(block, 8 * byte, 8);
    return v < 128 ? v : v - 256;
}

static double half(const unsigned char *block, int byte)
{
    int m = bits(block, 8 * byte, 10), e = bits(block, 8 * byte + 10, 5);
    double v = e == 31 ? (m ? (double)NAN : (double)INFINITY)
                       : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return bits(block, 8 * byte + 15, 1) ? -v : v;
}

/* Where the nibble of value i of 32 lies, from the byte that holds value 0. */
static int nibble32(int i)
{
    return i < 16 ? 8 * i : 8 * (i - 16) + 4;
}

static int iq4(int code)
{
    static const int level[] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                1,    13,   25,  38,  53,  69,  89,  113};
    return level[code];
}

static struct format_value q4_0(const unsigned char *b, int i)
{
    return (struct format_value){half(b, 0), bits(b, 16 + nibble32(i), 4) - 8, 0};
}

static struct format_value q4_1(const unsigned char *b, int i)
{
    return (struct format_value){half(b, 0), bits(b, 32 + nibble32(i), 4), -half(b, 2)};
}

static struct format_value q5_0(const unsigned char *b, int i)
{
    int v = bits(b, 48 + nibble32(i), 4) + 16 * bits(b, 16 + i, 1);
    return (struct format_value){half(b, 0), v - 16, 0};
}

static struct format_value q5_1(const unsigned char *b, int i)
{
    int v = bits(b, 64 + nibble32(i), 4) + 16 * bits(b, 32 + i, 1);
    return (struct format_value){half(b, 0), v, -half(b, 2)};
}

static struct format_value q8_0(const unsigned char *b, int i)
{
    return (struct format_value){half(b, 0), signed8(b, 2 + i), 0};
}

static struct format_value iq4_nl(const unsigned char *b, int i)
{
    return (struct format_value){half(b, 0), iq4(bits(b, 16 + nibble32(i), 4)), 0};
}

/* Value i of 256 with two bits each, of which byte 32 h + i % 32 of the half h holds four. */
static int pair(int i)
{
    return (i / 128 * 32 + i % 32) * 8 + i % 128 / 32 * 2;
}

static struct format_value q2_k(const unsigned char *b, int i)
{
    int scale = bits(b, i / 16 * 8, 4), min = bits(b, i / 16 * 8 + 4, 4);
    return (struct format_value){half(b, 80) * scale, bits(b, 16 * 8 + pair(i), 2), half(b, 82) * min};
}

static struct format_value q3_k(const unsigned char *b, int i)
{
    int s = i / 16, v = bits(b, 32 * 8 + pair(i), 2) + 4 * bits(b, i % 32 * 8 + i / 32, 1) - 4;
    /* scale s: four bits in nibble s / 8 of byte s % 8, two in pair s / 4 of byte 8 + s % 4 */
    int scale = bits(b, (96 + s % 8) * 8 + s / 8 * 4, 4) + 16 * bits(b, (104 + s % 4) * 8 + s / 4 * 2, 2);
    return (struct format_value){half(b, 108) * (scale - 32), v, 0};
}

/* Scale (what 0) or minimum (4) s of the twelve bytes that begin at byte 4. */
static int six(const unsigned char *b, int s, int what)
{
    if (s < 4)
        return bits(b, (4 + s + what) * 8, 6);
    return bits(b, (4 + s + 4) * 8 + what, 4) + 16 * bits(b, (4 + s - 4 + what) * 8 + 6, 2);
}

/* Value i of 256 with four bits each: byte 32 c + i % 32 holds values of the 64 that begin at 64 c. */
static int nibble256(int i)
{
    return (i / 64 * 32 + i % 32) * 8 + i % 64 / 32 * 4;
}

static struct format_value q4_k(const unsigned char *b, int i)
{
    return (struct format_value){half(b, 0) * six(b, i / 32, 0), bits(b, 16 * 8 + nibble256(i), 4),
                                 half(b, 2) * six(b, i / 32, 4)};
}

static struct format_value q5_k(const unsigned char *b, int i)
{
    int v = bits(b, 48 * 8 + nibble256(i), 4) + 16 * bits(b, (16 + i % 32) * 8 + i / 32, 1);
    return (struct format_value){half(b, 0) * six(b, i / 32, 0), v, half(b, 2) * six(b, i / 32, 4)};
}

static struct format_value q6_k(const unsigned char *b, int i)
{
    int low = bits(b, (i / 128 * 64 + i % 64) * 8 + i % 128 / 64 * 4, 4);
    int v = low + 16 * bits(b, 128 * 8 + pair(i), 2);
    return (struct format_value){half(b, 208) * signed8(b, 192 + i / 16), v - 32, 0};
}

static struct format_value iq4_xs(const unsigned char *b, int i)
{
    int s = i / 32, scale = bits(b, 4 * 8 + 4 * s, 4) + 16 * bits(b, 16 + 2 * s, 2);
    int v = iq4(bits(b, (8 + 16 * s) * 8 + nibble32(i % 32), 4));
    return (struct format_value){half(b, 0) * (scale - 32), v, 0};
}

static double float_value(const unsigned char *b)
{
    int e = bits(b, 23, 8), m = bits(b, 0, 23);
    double v = e == 255 ? (m ? (double)NAN : (double)INFINITY)
                        : e ? ldexp((1 << 23) + m, e - 150) : ldexp(m, -149);
    return bits(b, 31, 1) ? -v : v;
}

static struct format_value f32(const unsigned char *b, int i)
{
    (void)i;
    return (struct format_value){float_value(b), 1, 0};
}

static struct format_value f16(const unsigned char *b, int i)
{
    (void)i;
    return (struct format_value){half(b, 0), 1, 0};
}

static struct format_value bf16(const unsigned char *b, int i)
{
    unsigned char wide[4] = {0, 0, b[0], b[1]};
    (void)i;
    return (struct format_value){float_value(wide), 1, 0};
}

static struct format_value f8(const unsigned char *b, int i)
{
    int e = bits(b, 3, 4), m = bits(b, 0, 3);
    double v = e == 15 && m == 7 ? (double)NAN : e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
    (void)i;
    return (struct format_value){bits(b, 7, 1) ? -v : v, 1, 0};
}

const struct format formats[N_FORMATS] = {
    {TT_F32, "F32", 1, 4, {-1, -1}, f32},
    {TT_F16, "F16", 1, 2, {-1, -1}, f16},
    {TT_BF16, "BF16", 1, 2, {-1, -1}, bf16},
    {TT_F8_E4M3, "F8_E4M3", 1, 1, {-1, -1}, f8},
    {TT_Q8_0, "Q8_0", 32, 34, {0, -1}, q8_0},
    {TT_Q4_0, "Q4_0", 32, 18, {0, -1}, q4_0},
    {TT_Q4_1, "Q4_1", 32, 20, {0, 2}, q4_1},
    {TT_Q5_0, "Q5_0", 32, 22, {0, -1}, q5_0},
    {TT_Q5_1, "Q5_1", 32, 24, {0, 2}, q5_1},
    {TT_Q2_K, "Q2_K", 256, 84, {80, 82}, q2_k},
    {TT_Q3_K, "Q3_K", 256, 110, {108, -1}, q3_k},
    {TT_Q4_K, "Q4_K", 256, 144, {0, 2}, q4_k},
    {TT_Q5_K, "Q5_K", 256, 176, {0, 2}, q5_k},
    {TT_Q6_K, "Q6_K", 256, 210, {208, -1}, q6_k},
    {TT_IQ4_NL, "IQ4_NL", 32, 18, {0, -1}, iq4_nl},
    {TT_IQ4_XS, "IQ4_XS", 256, 136, {0, -1}, iq4_xs},
};

const struct format *format_of(enum tensor_type type)
{
    for (int i = 0; i < N_FORMATS; i++)
        if (formats[i].type == type)
            return &formats[i];
    return NULL;
}
