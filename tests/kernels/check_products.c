/* tests/kernels/check_products.c - products of every weight type: random and hostile rows in the file's
 * layout are packed, read back, and multiplied; the float64 answer comes from formats.c.
 *
 * The bound is what the arithmetic of kern.h implies. Quantised types: activations are taken as prepared
 * (their own rounding is act_q8's business), integers are exact, so each block of 32 gives one term, or
 * two with a minimum, each rounded twice, and as many additions; every one of these errs by at most half
 * an EPS of the sum of the terms' sizes. Float types: one term and one addition per value; FP8 adds up
 * blocks of 128 first. The level amx keeps 16 bits of an activation and takes subnormal parts as zero.
 *
 * Then the rows are multiplied again in other company and the groups in other pieces: bits must be the
 * same. */
#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/checker.h"
#include "tests/kernels/formats.h"

#define MAX_M 150
#define MAX_OUT 200
#define MAX_IN 2560

struct product {
    const struct format *format;
    bool rounded; /* mul_rounded */
    int n_out, n_in, m, g0, g1, top;
    unsigned char *rows; /* as in a file */
    struct kern_source src;
    unsigned char *packed;
    float *xf[MAX_M];
    const void *x[MAX_M]; /* as the kernel wants them */
    float *got[MAX_M], *def[MAX_M];
};

static bool quantised(const struct product *p)
{
    return p->format->elems > 1;
}

static void random_rows(struct product *p)
{
    enum tensor_type type = p->format->type;
    int total = p->n_out * p->n_in / p->format->elems;
    size_t n_bytes = (size_t)total * (size_t)p->format->n_bytes;
    if (type == TT_F32) {
        p->rows = guard_new(n_bytes, 4);
        values_fill((float *)(void *)p->rows, total);
    } else if (type == TT_F16 || type == TT_BF16) {
        p->rows = guard_new(n_bytes, 2);
        values_half(p->rows, total, type == TT_BF16);
    } else {
        p->rows = guard_new(n_bytes, 1); /* at any address */
        values_blocks(p->rows, p->format, total);
    }
    p->src = (struct kern_source){.rows = p->rows, .row_bytes = n_bytes / (size_t)p->n_out};
    if (type == TT_F8_E4M3 && values_below(4)) {
        int row0 = values_below(300), blocks = (p->n_in + 127) / 128;
        int n = ((row0 + p->n_out - 1) / 128 + 1) * blocks;
        float *scale = floats(n);
        for (int i = 0; i < n; i++) {
            int size = values_below(20) - 15;
            scale[i] = ldexpf(values_uniform(), size);
        }
        p->src.scale = scale;
        p->src.scale_cols = blocks;
        p->src.scale_row0 = row0;
    }
}

static void random_product(struct product *p, enum tensor_type type, bool rounded)
{
    memset(p, 0, sizeof(*p));
    p->rounded = rounded;
    p->format = format_of(type);
    int elems = p->format->elems;
    p->n_out = 1 + values_below(values_below(4) ? 70 : elems > 32 ? 100 : MAX_OUT);
    p->n_in = elems > 32   ? elems * (1 + values_below(3))
              : elems > 1  ? elems * (1 + values_below(9))
              : type == TT_F8_E4M3 ? 1 + values_below(300)
                           : 1 + values_below(130);
    p->m = 1 + values_below(values_below(2) ? 9 : values_below(3) ? 20 : MAX_M);
    if (values_below(40) == 0) { /* beyond what a kernel keeps at a time */
        p->m = 1 + values_below(MAX_M);
        p->n_out = 1 + values_below(40);
        p->n_in = elems > 1 ? MAX_IN / 256 * 256 - elems * values_below(512 / elems)
                            : 900 + values_below(MAX_IN - 900);
    }
    int groups = (p->n_out + KERN_LANES - 1) / KERN_LANES;
    p->g0 = values_below(3) ? 0 : values_below(groups);
    p->g1 = values_below(3) ? groups : p->g0 + values_below(groups - p->g0 + 1);
    random_rows(p);
    p->packed = guard_new(kern_packed_bytes(type, p->n_out, p->n_in), 64);
    int cut = values_below(groups + 1);
    kern_pack(type, &p->src, p->n_out, p->n_in, 0, cut, p->packed);
    kern_pack(type, &p->src, p->n_out, p->n_in, cut, groups, p->packed);
    p->top = kern_weights_top(type, p->packed, p->n_in, 0, groups);
    for (int i = 0; i < p->m; i++) {
        p->xf[i] = random_floats(p->n_in);
        p->x[i] = p->xf[i];
        if (elems > 1) {
            void *a = guard_new(rounded ? 2 * (size_t)p->n_in : kern_act_bytes(type, p->n_in), 64);
            if (rounded)
                generic->f32_to_bf16(p->xf[i], p->n_in, a);
            else
                generic->act_q8(p->xf[i], p->n_in, a);
            p->x[i] = a;
        }
        p->got[i] = floats(p->n_out);
        p->def[i] = floats(p->n_out);
        for (int k = 0; k < p->n_out; k++)
            p->got[i][k] = p->def[i][k] = 12345.0f;
    }
}

/* Row r of the file; FP8 with its scale in .min's place, which it does not use. */
static void row_values(const struct product *p, int r, struct format_value *v)
{
    const struct format *f = p->format;
    const unsigned char *row = p->rows + (size_t)r * p->src.row_bytes;
    for (int k = 0; k < p->n_in; k++) {
        v[k] = f->value(row + k / f->elems * f->n_bytes, k % f->elems);
        if (f->type == TT_F8_E4M3)
            v[k].min = p->src.scale ? (double)p->src.scale[(p->src.scale_row0 + r) / 128 *
                                                               p->src.scale_cols + k / 128]
                                    : 1.0;
    }
}

/* What was packed reads back as the file's values; a NaN fills its block of FP8. */
static void check_unpack(const struct product *p, int r, const struct format_value *v)
{
    float *got = floats(p->n_in);
    kern_unpack_row(p->format->type, p->packed, p->n_in, r, got);
    for (int k = 0; k < p->n_in; k++) {
        double want = v[k].scale * v[k].q - v[k].min;
        if (p->format->type == TT_F8_E4M3) {
            want = v[k].scale * v[k].min;
            for (int i = k / 128 * 128; i < k / 128 * 128 + 128 && i < p->n_in; i++)
                want = isnan(v[i].scale) ? (double)NAN : want;
        }
        if (isnan(want) ? !isnan(got[k]) : got[k] != (float)want)
            FAIL("row %d value %d reads back as %a, not %a", r, k, (double)got[k], want);
    }
}

/* A row times x[i]: the answer, and how far a kernel may be from it. */
static double quant_answer(const struct product *p, const struct format_value *v, int r, int i,
                           double *ret_bound)
{
    const struct format *f = p->format;
    int blocks = p->n_in / 32;
    const float *d = p->x[i];
    const int8_t *q = (const int8_t *)p->x[i] + (size_t)blocks * 8;
    double sum = 0, size = 0;
    for (int b = 0; b < blocks; b++) {
        double main = 0, low = 0, dx = (double)d[b];
        const unsigned char *block =
            p->rows + (size_t)r * p->src.row_bytes + 32 * b / f->elems * f->n_bytes;
        int sum_x = 0;
        for (int half = 0; half < 2; half++) {
            const struct format_value *w = &v[32 * b + 16 * half];
            int dot = 0, total = 0;
            for (int k = 0; k < 16; k++) {
                dot += w[k].q * q[32 * b + 16 * half + k];
                total += q[32 * b + 16 * half + k];
            }
            main += dot * (w->scale * dx);
            low += total * (w->min * dx);
            sum_x += total;
            if (fabs(w->scale * dx) > 1e38)
                size = INFINITY;
        }
        /* no float32: infinite, also times 0 */
        for (int h = 0; h < 2; h++)
            if (f->half_at[h] >= 0 && fabs(values_f16(block + f->half_at[h]) * dx) > 1e38)
                size = INFINITY;
        if (fabs(sum_x * dx) > 1e38)
            size = INFINITY;
        sum += main - low;
        size += fabs(main) + fabs(low);
    }
    /* scales that are denormal err by an absolute amount, times the integer */
    *ret_bound = size > 1e38 ? (double)INFINITY : (blocks + 4) * EPS * size + p->n_in * 2e-39;
    return sum;
}

static double float_answer(const struct product *p, const struct format_value *v, int i,
                           double *ret_bound)
{
    bool f8 = p->format->type == TT_F8_E4M3;
    bool flush = level->level == CPU_AMX && p->format->type != TT_F32;
    double sum = 0, size = 0, inner = 0, top = 1, lost = 0;
    for (int k = 0; k < p->n_in; k++) {
        double scale = f8 ? v[k].min : 1.0, term = v[k].scale * (double)p->xf[i][k];
        sum += scale * term;
        size += isnan(term) ? 0 : fabs(scale * term);
        inner += isnan(term) ? 0 : fabs(term);
        if (flush && !isnan(term))
            lost += fabs(scale) * 1.2e-38 * (2 + fabs(v[k].scale) + fabs((double)p->xf[i][k]));
        top = fmax(top, fabs(scale));
    }
    int additions = f8 ? (p->n_in < 128 ? p->n_in : 128) + p->n_in / 128 + 1 : p->n_in;
    *ret_bound = (additions + 4) * EPS * size + (flush ? 0x1p-16 * size : 0) +
                 p->n_in * (f8 ? 1e-42 * top : 3e-45) + lost;
    if (size > 1e38 || inner > 1e38)
        *ret_bound = INFINITY;
    return sum;
}

/* Of types that have no minima, where the level goes by half precision. */
static bool by_half(enum tensor_type type)
{
    bool minima = type == TT_Q4_1 || type == TT_Q5_1 || type == TT_Q2_K || type == TT_Q4_K || type == TT_Q5_K;
    return level->level == CPU_AMX && !minima;
}

/* mul_rounded: w rounded is within 2^-8, cut off and enlarged within (1 - 0.7213 / 2) 2^-7 of a
 * float32 that errs by a few EPS of its parts. By way of half precision w is rounded twice to 11 bits, of
 * which at most 7/8 of a unit are cut off, and what is less than 2^(top - 29) may be lost. */
#define OFF_ROUNDED (0.6400 * 0x1p-7)
#define OFF_HALF (0.6850 * 0x1p-7)

static double rounded_answer(const struct product *p, const struct format_value *v, int i, double *ret_bound)
{
    bool half = by_half(p->format->type);
    double sum = 0, size = 0, lost = 0, off = half ? OFF_HALF : OFF_ROUNDED;
    double least = half ? ldexp(1, p->top - 29) : 0, most = half ? ldexp(1, 31 - p->top) : (double)INFINITY;
    for (int k = 0; k < p->n_in; k++) {
        double x = values_bf16((const unsigned char *)p->x[i] + 2 * k), w = v[k].scale * v[k].q - v[k].min;
        double parts = fabs(v[k].scale) * (512 + abs(v[k].q)) + fabs(v[k].min); /* 512: offset and base */
        bool beyond = p->top == KERN_TOP_NAN || fabs(x) >= most;
        if (isnan(x) || fabs(x) > 1e38 || beyond || isnan(w) || fabs(w * x) > 1e37 || parts > 1e37) {
            *ret_bound = INFINITY;
            return 0;
        }
        sum += w * x;
        size += fabs(w * x);
        lost += fabs(x) * (fabs(w) * off + parts * 5 * EPS + least) + 1.2e-38 * (2 + fabs(w) + fabs(x));
    }
    *ret_bound = lost + (p->n_in + 4) * EPS * size;
    return sum;
}

static void multiply(const struct kernels *k, const struct product *p, int g0, int g1, const void *const *x,
                     float *const *y, int m)
{
    if (p->rounded)
        k->mul_rounded(p->format->type, p->packed, p->top, p->n_out, p->n_in, g0, g1, x, y, m);
    else
        kern_mul(k, p->format->type)(p->packed, p->n_out, p->n_in, g0, g1, x, y, m);
}

void check_product(enum tensor_type type, bool rounded)
{
    static double want[MAX_M][MAX_OUT], bound[MAX_M][MAX_OUT];
    static struct format_value v[MAX_IN];
    struct product p;
    random_product(&p, type, rounded);
    multiply(generic, &p, p.g0, p.g1, p.x, p.def, p.m);
    multiply(level, &p, p.g0, p.g1, p.x, p.got, p.m);
    check_guards();
    int first = p.g0 * KERN_LANES, end = p.g1 * KERN_LANES;
    end = end < p.n_out ? end : p.n_out;
    for (int r = 0; r < p.n_out; r++) {
        bool within = r >= first && r < end;
        if (within || r == p.n_out - 1)
            row_values(&p, r, v);
        if (r == p.n_out - 1 || (within && r == first + case_now % 16))
            check_unpack(&p, r, v);
        for (int i = 0; i < p.m; i++) {
            want[i][r] = 12345.0; /* untouched */
            bound[i][r] = 0;
            if (within)
                want[i][r] = rounded          ? rounded_answer(&p, v, i, &bound[i][r])
                             : quantised(&p) ? quant_answer(&p, v, r, i, &bound[i][r])
                                             : float_answer(&p, v, i, &bound[i][r]);
        }
    }
    for (int i = 0; i < p.m; i++)
        check_floats("y", p.got[i], p.def[i], want[i], bound[i], p.n_out);
    /* one row or some and some groups at a time, from the back */
    for (int i = p.m, rows; i > 0; i -= rows) {
        rows = values_below(2) ? 1 : 1 + values_below(i);
        float *y[MAX_M];
        for (int r = 0; r < rows; r++)
            y[r] = floats(p.n_out);
        for (int g = p.g1; g > p.g0;) {
            int n = 1 + values_below(g - p.g0);
            multiply(level, &p, g - n, g, &p.x[i - rows], y, rows);
            g -= n;
        }
        for (int r = 0; r < rows && end > first; r++)
            if (!same_floats(y[r] + first, p.got[i - rows + r] + first, (size_t)(end - first)))
                FAIL("row %d of %d differs among %d", i - rows + r, p.m, rows);
    }
    check_guards();
}

/* Rows that are zero but for a one: the products are mul_rounded's weights. Each is within its bound, and
 * their errors even out, for no sum may err in one direction. */
void check_rounded_weights(enum tensor_type type)
{
    enum { N_OUT = 16, N_IN = 256 };
    static uint16_t x[N_IN][N_IN];
    static float y[N_IN][N_OUT];
    static struct format_value v[N_IN];
    const void *px[N_IN];
    float *py[N_IN];
    struct product p = {.format = format_of(type), .n_out = N_OUT, .n_in = N_IN};
    int blocks = N_IN / p.format->elems, n = 0;
    size_t row_bytes = (size_t)blocks * (size_t)p.format->n_bytes;
    double off = by_half(type) ? OFF_HALF : OFF_ROUNDED, error = 0;
    p.rows = guard_new(N_OUT * row_bytes, 1);
    p.src = (struct kern_source){.rows = p.rows, .row_bytes = row_bytes};
    for (size_t i = 0; i < N_OUT * row_bytes; i++)
        p.rows[i] = (unsigned char)values_bits();
    for (int b = 0; b < N_OUT * blocks; b++)
        for (int h = 0; h < 2; h++) { /* mantissas of scales evenly on a logarithmic scale, in effect */
            uint16_t half = (uint16_t)(0x1c00 + values_below(0x1000));
            if (p.format->half_at[h] >= 0)
                memcpy(p.rows + b * p.format->n_bytes + p.format->half_at[h], &half, sizeof(half));
        }
    p.packed = guard_new(kern_packed_bytes(type, N_OUT, N_IN), 64);
    kern_pack(type, &p.src, N_OUT, N_IN, 0, 1, p.packed);
    for (int i = 0; i < N_IN; i++) {
        memset(x[i], 0, sizeof(x[i]));
        x[i][i] = 0x3f80;
        px[i] = x[i];
        py[i] = y[i];
    }
    p.top = kern_weights_top(type, p.packed, N_IN, 0, 1);
    level->mul_rounded(type, p.packed, p.top, N_OUT, N_IN, 0, 1, px, py, N_IN);
    for (int r = 0; r < N_OUT; r++) {
        row_values(&p, r, v);
        for (int k = 0; k < N_IN; k++) {
            double w = v[k].scale * v[k].q - v[k].min;
            double parts = fabs(v[k].scale) * (512 + abs(v[k].q)) + fabs(v[k].min);
            if (fabs((double)y[k][r] - w) > fabs(w) * off + parts * 5 * EPS)
                FAIL("weight %d of row %d is %a, not %a", k, r, (double)y[k][r], w);
            if (fabs(w) > parts * 0x1p-12) {
                error += ((double)y[k][r] - w) / w;
                n++;
            }
        }
    }
    if (fabs(error) > n * 0x1p-11)
        FAIL("%d weights are %g of themselves too large in the mean", n, error / n);
    check_guards();
}
