/* tests/kernels/values.c - random and hostile numbers for the checker of the kernels. */
#include "config.h"

#include "tests/kernels/values.h"

#include <math.h>
#include <string.h>

static uint64_t state = 1;

void values_seed(unsigned long long seed)
{
    state = seed * 0x9e3779b97f4a7c15ull + 0x1234567;
    state = state ? state : 1;
    for (int i = 0; i < 8; i++)
        values_bits();
}

uint32_t values_bits(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state * 0x2545f4914f6cdd1dull) >> 32);
}

int values_below(int n)
{
    return (int)(values_bits() % (uint32_t)n);
}

float values_uniform(void)
{
    return (float)((double)values_bits() / 2147483648.0 - 1.0);
}

float values_special(void)
{
    switch (values_below(10)) {
    case 0:
        return NAN;
    case 1:
        return -NAN;
    case 2:
        return INFINITY;
    case 3:
        return -INFINITY;
    case 4:
        return -0.0f;
    case 5:
        return 0x1p-149f;
    case 6:
        return -0x1.fffffep127f;
    case 7:
        return 0x1.fffffep127f;
    case 8:
        return 0x1p-126f;
    default:
        return 0.0f;
    }
}

void values_spoil(float *x, int n, int times)
{
    for (int k = 0; k < times; k++) {
        float *at = &x[values_below(n)];
        *at = values_special();
    }
}

static float one_of_kind(int kind, float same)
{
    int size;
    switch (kind) {
    case 0:
        return values_below(2) ? 0.0f : -0.0f;
    case 1:
        return values_uniform() * 0x1p-130f;
    case 2:
        return values_uniform() * 1e18f;
    case 3:
        return values_uniform() * 3e38f;
    case 4:
        return same;
    case 5:
        size = values_below(60) - 50;
        return ldexpf(values_uniform(), size);
    case 6:
        return (float)(values_below(9) - 4);
    default:
        return values_uniform();
    }
}

void values_fill(float *x, int n)
{
    int kind = values_below(14);
    float same = values_uniform();
    for (int i = 0; i < n; i++)
        x[i] = one_of_kind(kind, same);
    if (values_below(8) == 0) /* one that is far larger than all others */
        x[values_below(n)] *= 1000.0f;
    for (int i = 0; i < n; i++)
        if (!isfinite(x[i]))
            x[i] = 1.0f;
}

void values_half(void *dst, int n, bool bf16)
{
    int kind = values_below(10), most = bf16 ? 255 : 31, bits = bf16 ? 7 : 10;
    uint16_t *d = dst, same = (uint16_t)values_bits();
    int middle = most / 2;
    for (int i = 0; i < n; i++) {
        int e = kind == 0   ? 0 /* denormals and zeros */
                : kind == 1 ? values_below(most)
                : kind == 2 ? most - 1 - values_below(3)
                            : middle - values_below(6);
        uint32_t random = values_bits();
        d[i] = (uint16_t)((random & ((1u << bits) - 1)) | (uint32_t)e << bits | (random >> 31) << 15);
        if (kind == 3)
            d[i] = (uint16_t)((same & 0x87ff & ((1u << bits) - 1)) | (uint32_t)middle << bits);
        if (kind == 4)
            d[i] = (uint16_t)(d[i] & 0x8000);
    }
}

void values_blocks(void *dst, const struct format *f, int n_blocks)
{
    int kind = values_below(8);
    unsigned char *p = dst;
    for (int b = 0; b < n_blocks; b++, p += f->n_bytes) {
        for (int i = 0; i < f->n_bytes; i++) {
            int v = (int)(values_bits() & 255);
            if (kind == 0)
                v = 0xff;
            if (kind == 1)
                v = 0x80;
            if (kind == 2)
                v = values_below(2) ? 0x7f : 0x80;
            if (kind == 3)
                v = 0;
            if (f->elems == 1 && (v & 0x7f) == 0x7f && values_below(500))
                v &= 0x8f; /* few NaN */
            p[i] = (unsigned char)v;
        }
        for (int h = 0; h < 2; h++) {
            uint16_t half;
            values_half(&half, 1, false);
            if (f->half_at[h] >= 0)
                memcpy(p + f->half_at[h], &half, sizeof(half));
        }
    }
}

double values_f16(const void *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    int e = h >> 10 & 31, m = h & 1023;
    double v = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    if (e == 31)
        v = m ? (double)NAN : (double)INFINITY;
    return h & 0x8000 ? -v : v;
}

double values_bf16(const void *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    int e = h >> 7 & 255, m = h & 127;
    double v = e ? ldexp(128 + m, e - 134) : ldexp(m, -133);
    if (e == 255)
        v = m ? (double)NAN : (double)INFINITY;
    return h & 0x8000 ? -v : v;
}
