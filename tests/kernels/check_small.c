/* tests/kernels/check_small.c - kernels around the products: choosing among many logits, and rotation. */
#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/checker.h"

#define MOST 5000 /* several stretches */

/* Lengths of one lane, one stretch and one beyond come often. */
static int some_length(void)
{
    static const int edges[] = {1, 15, 16, 17, KERN_STRETCH - 1, KERN_STRETCH, KERN_STRETCH + 1,
                                2 * KERN_STRETCH};
    if (values_below(3) == 0)
        return edges[values_below((int)(sizeof(edges) / sizeof(edges[0])))];
    return 1 + values_below(values_below(2) ? 100 : MOST);
}

static float *few_values(int n) /* so that many are equal */
{
    float *x = floats(n);
    for (int i = 0; i < n; i++)
        x[i] = (float)values_below(9) - 4.0f;
    return x;
}

void check_lane_max(void)
{
    int n = some_length(), m = kern_stretches(n) * KERN_LANES;
    float *x = values_below(2) ? random_floats(n) : few_values(n);
    values_spoil(x, n, values_below(4) ? 0 : 1 + values_below(5));
    float *got = floats(m), *def = floats(m);
    int finite = level->lane_max(x, n, got), want = generic->lane_max(x, n, def);
    check_guards();
    if (finite != want)
        FAIL("%d values: finite is %d, not %d", n, finite, want);
    if (memcmp(got, def, (size_t)m * sizeof(*got)))
        FAIL("%d values: maxima differ", n);
    for (int i = 0; i < n; i++) {
        want &= isfinite(x[i]) ? 1 : 2;
        if (x[i] > def[i / KERN_STRETCH * KERN_LANES + i % KERN_LANES])
            FAIL("plain C: %d is above its lane", i);
    }
    if (want == 2 || (want == 0 && finite))
        FAIL("plain C: finite is %d", finite);
    for (int j = 0; j < m; j++) {
        bool found = def[j] == -INFINITY;
        for (int i = j / KERN_LANES * KERN_STRETCH + j % KERN_LANES;
             i < n && i < (j / KERN_LANES + 1) * KERN_STRETCH; i += KERN_LANES)
            found |= x[i] == def[j];
        if (!found)
            FAIL("plain C: lane %d has a maximum of nowhere", j);
    }
}

void check_collect(void)
{
    int n = some_length();
    float *x = values_below(2) ? random_floats(n) : few_values(n);
    values_spoil(x, n, values_below(3));
    float least = values_below(8) ? x[values_below(n)] : -INFINITY;
    float below = values_below(2) ? INFINITY : x[values_below(n)];
    int32_t *got = guard_new((size_t)n * 4, 4), *def = guard_new((size_t)n * 4, 4);
    int count = level->collect(x, n, least, below, got), want = generic->collect(x, n, least, below, def);
    check_guards();
    if (count != want || memcmp(got, def, (size_t)count * sizeof(*got)))
        FAIL("%d of %d values, not %d, or others", count, n, want);
    for (int i = 0, k = 0; i < n; i++)
        if ((x[i] >= least && x[i] < below) != (k < want && def[k] == i && ++k))
            FAIL("plain C: value %d", i);
}

void check_soft_weights(void)
{
    int n = 1 + values_below(values_below(2) ? 40 : 300);
    float *x = random_floats(n), *got = floats(n), *def = floats(n), top = -INFINITY;
    float scale = 1.0f / (0.1f + fabsf(values_uniform()));
    static double want[300], bound[300];
    if (values_below(2))
        for (int i = 0; i < n; i++)
            x[i] = values_uniform() * 20.0f;
    if (values_below(4) == 0)
        x[values_below(n)] = -INFINITY;
    for (int i = 0; i < n; i++)
        top = x[i] > top ? x[i] : top;
    if (values_below(8) == 0)
        scale = INFINITY; /* a temperature of next to nothing: 0 times it is NaN, which counts as 0 */
    level->soft_weights(x, n, top, scale, got);
    generic->soft_weights(x, n, top, scale, def);
    check_guards();
    for (int i = 0; i < n; i++) {
        double l = ((double)x[i] - (double)top) * (double)scale;
        want[i] = l > -(double)KERN_SOFT_NATS ? exp(l) : 0.0;
        bound[i] = 16 * EPS * want[i] + 4 * EPS * fabs(l) * want[i];
        if (!(fabs(l + (double)KERN_SOFT_NATS) > 1e-4)) /* on the edge it may be in or out */
            bound[i] += 1e-13;
        if (l != l || fabs((double)x[i]) > 1e30 || fabs((double)top) > 1e30)
            want[i] = bound[i] = got[i] = def[i] = 0;
        if (!(got[i] >= 0.0f && got[i] <= 1.0001f))
            FAIL("weight %d is %a", i, (double)got[i]);
    }
    check_floats("y", got, def, want, bound, n);
}

void check_sum_from(void)
{
    int n = some_length(), count = -1, want_count = -1, true_count = 0;
    float *x = values_below(2) ? random_floats(n) : few_values(n);
    float least = values_below(4) ? x[values_below(n)] : values_below(2) ? 0.0f : -INFINITY;
    double sum = 0, size = 0, bound;
    float got = level->sum_from(x, n, least, &count), def = generic->sum_from(x, n, least, &want_count);
    check_guards();
    for (int i = 0; i < n; i++)
        if (x[i] >= least) {
            sum += (double)x[i];
            size += fabs((double)x[i]);
            true_count++;
        }
    bound = size > 3e37 ? INFINITY : (n / 16 + 18) * EPS * size;
    if (count != want_count || count != true_count)
        FAIL("%d values of %d, plain C %d, want %d", count, n, want_count, true_count);
    if (got != got && def != def)
        return; /* an overflow of both signs */
    check_floats("sum", &got, &def, &sum, &bound, 1);
}

void check_rotate(void)
{
    int half = 1 + values_below(70), interleaved = values_below(2);
    float *x = random_floats(2 * half), *def = floats(2 * half), *c = floats(half), *s = floats(half);
    static double want[140], bound[140];
    for (int i = 0; i < half; i++) {
        double angle = (double)values_uniform() * 100;
        c[i] = (float)cos(angle);
        s[i] = (float)sin(angle);
    }
    memcpy(def, x, 2 * (size_t)half * sizeof(*x));
    for (int i = 0; i < half; i++) {
        int at = interleaved ? 2 * i : i, other = interleaved ? at + 1 : half + i;
        double a = (double)x[at], b = (double)x[other], ci = (double)c[i], si = (double)s[i];
        want[at] = a * ci - b * si;
        want[other] = b * ci + a * si;
        bound[at] = bound[other] = 2 * EPS * (fabs(a) + fabs(b)) + 3e-45;
    }
    level->rotate(c, s, half, interleaved, x);
    generic->rotate(c, s, half, interleaved, def);
    check_guards();
    check_floats("x", x, def, want, bound, 2 * half);
}

static void row_floats(enum tensor_type type, const unsigned char *row, int n, float *dst)
{
    const struct row_format f = {.type = type, .elems = n};
    kern_row_read(&f, row, n, dst);
}

/* Angles of which one is the same for all rows. */
static float *random_angles(int n, int half, double *angles)
{
    float *a = floats(n * 2 * half);
    for (int i = 0; i < n; i++)
        for (int d = 0; d < half; d++) {
            double angle = angles[i * half + d] = (double)values_uniform() * 100;
            a[(2 * i) * half + d] = (float)cos(angle);
            a[(2 * i + 1) * half + d] = (float)sin(angle);
        }
    return a;
}

void check_rotate_rows(void)
{
    static double near[8 * 70], far[70];
    int half = 1 + values_below(70), n = 1 + values_below(8), dim = 2 * half, wide = values_below(3);
    struct row_rotation r = {.type = values_below(3) ? TT_BF16 : TT_F32, .n = n, .dim = dim,
                             .interleaved = values_below(2)};
    size_t size = r.type == TT_F32 ? 4 : 2, row = (size_t)dim * size;
    r.row_bytes = row + (size_t)wide * 2 * size;
    r.dst_bytes = 2 * row + (size_t)values_below(3) * size;
    r.near = random_angles(n, half, near);
    r.far = random_angles(1, half, far);
    unsigned char *rows = guard_new((size_t)(n - 1) * r.row_bytes + row, size);
    unsigned char *got = guard_new((size_t)(n - 1) * r.dst_bytes + 2 * row, size);
    unsigned char *def = guard_new((size_t)(n - 1) * r.dst_bytes + 2 * row, size);
    for (int i = 0; i < n; i++) {
        float *x = random_floats(dim);
        if (r.type == TT_F32)
            memcpy(rows + (size_t)i * r.row_bytes, x, row);
        else
            generic->f32_to_bf16(x, dim, rows + (size_t)i * r.row_bytes);
    }
    r.rows = rows;
    r.dst = got;
    level->rotate_rows(&r);
    r.dst = def;
    generic->rotate_rows(&r);
    check_guards();
    for (int i = 0; i < n; i++) {
        static float x[140], y[140], z[140];
        static double want[140], bound[140];
        if (memcmp(got + (size_t)i * r.dst_bytes + row, rows + (size_t)i * r.row_bytes, row))
            FAIL("row %d is not behind its rotated form", i);
        row_floats(r.type, rows + (size_t)i * r.row_bytes, dim, x);
        row_floats(r.type, got + (size_t)i * r.dst_bytes, dim, y);
        row_floats(r.type, def + (size_t)i * r.dst_bytes, dim, z);
        for (int d = 0; d < half; d++) {
            int at = r.interleaved ? 2 * d : d, other = r.interleaved ? at + 1 : half + d;
            double a = (double)x[at], b = (double)x[other], angle = near[i * half + d] + far[d];
            double err = 8 * EPS * (fabs(a) + fabs(b)) + 3e-45;
            want[at] = a * cos(angle) - b * sin(angle);
            want[other] = b * cos(angle) + a * sin(angle);
            bound[at] = err + (r.type == TT_F32 ? 0 : fabs(want[at]) / 256 + 0x1p-126);
            bound[other] = err + (r.type == TT_F32 ? 0 : fabs(want[other]) / 256 + 0x1p-126);
        }
        check_floats("x", y, z, want, bound, dim);
    }
}

/* [n][stride] with zeros beyond `each`, such as all levels take exactly. */
static float *random_weights(int n, int each)
{
    size_t stride = kern_gated_stride(each);
    float *w = floats((int)((size_t)n * stride));
    memset(w, 0, (size_t)n * stride * sizeof(*w));
    for (int k = 0; k < n; k++)
        for (int d = 0; d < each; d++)
            w[(size_t)k * stride + (size_t)d] = (float)(values_below(255) - 127) / 64;
    return w;
}

void check_gated_rows(void)
{
    enum { N = 40, OUTS = 80 };
    int n = 1 + values_below(N), width = 1 + values_below(70), embed = 1 + values_below(40);
    int each = 2 + values_below(OUTS - 2), first = 1 + values_below(each - 1), gap = values_below(9);
    size_t stride = kern_gated_stride(each);
    struct gated_rows g = {.n = n, .width = width, .embed = embed, .each = each, .eps = 1e-3f,
                           .type = values_below(3) ? TT_BF16 : TT_F32, .first = first,
                           .rest_at = first + gap};
    size_t size = g.type == TT_F32 ? 4 : 2, row = (size_t)(each + gap) * size;
    const unsigned char *x[N];
    const float *e[N];
    float *mean = floats(n), *inverse = floats(n);
    g.up = random_weights(width, each);
    g.gate = random_weights(embed, each);
    for (int i = 0; i < n; i++) {
        float *values = random_weights(1, width), *to = guard_new((size_t)width * size, size);
        memcpy(to, values, g.type == TT_F32 ? (size_t)width * size : 0);
        if (g.type == TT_BF16)
            generic->f32_to_bf16(values, width, to);
        x[i] = (const unsigned char *)to;
        e[i] = random_weights(1, embed);
        mean[i] = values_uniform();
        inverse[i] = values_uniform() + 2;
    }
    g.x = x;
    g.e = e;
    if (values_below(3) == 0) {
        g.mean = mean;
        g.inverse = inverse;
    }
    g.dst_bytes = row + (size_t)values_below(3) * size;
    unsigned char *got = guard_new((size_t)(n - 1) * g.dst_bytes + row, size);
    unsigned char *def = guard_new((size_t)(n - 1) * g.dst_bytes + row, size);
    memset(got, 0, (size_t)(n - 1) * g.dst_bytes + row);
    memset(def, 0, (size_t)(n - 1) * g.dst_bytes + row);
    g.scratch = guard_new(kern_gated_floats(width, embed, each) * sizeof(float), 64);
    g.dst = got;
    level->gated_rows(&g);
    g.dst = def;
    generic->gated_rows(&g);
    check_guards();
    for (int i = 0; i < n; i++) {
        static float y[OUTS + 9], z[OUTS + 9];
        static double want[OUTS + 9], bound[OUTS + 9], raw[OUTS];
        double sum = 0, square = 0, err = 0;
        float in[70];
        row_floats(g.type, x[i], width, in);
        for (int d = 0; d < each; d++) {
            double a = 0, b = 0, size_a = 0, size_b = 0;
            for (int k = 0; k < width; k++) {
                a += (double)in[k] * (double)g.up[(size_t)k * stride + (size_t)d];
                size_a += fabs((double)in[k] * (double)g.up[(size_t)k * stride + (size_t)d]);
            }
            for (int k = 0; k < embed; k++) {
                b += (double)e[i][k] * (double)g.gate[(size_t)k * stride + (size_t)d];
                size_b += fabs((double)e[i][k] * (double)g.gate[(size_t)k * stride + (size_t)d]);
            }
            raw[d] = a * b;
            sum += raw[d];
            err = fmax(err, (size_a * fabs(b) + size_b * fabs(a)) * (width + embed + 4) * EPS);
        }
        double middle = g.mean ? (double)mean[i] : sum / each;
        for (int d = 0; d < each; d++)
            square += (raw[d] - middle) * (raw[d] - middle);
        double factor = g.inverse ? (double)inverse[i] : 1 / sqrt(square / each + (double)g.eps);
        row_floats(g.type, got + (size_t)i * g.dst_bytes, each + gap, y);
        row_floats(g.type, def + (size_t)i * g.dst_bytes, each + gap, z);
        memset(want, 0, sizeof(want));
        memset(bound, 0, sizeof(bound));
        for (int d = 0; d < each; d++) {
            int at = d < first ? d : d + gap;
            want[at] = (raw[d] - middle) * factor;
            /* of its own value, of mean and deviation */
            bound[at] = err + fabs(raw[d]) * 4 * EPS + fabs(middle) * each * EPS;
            bound[at] *= 4 * factor * (1 + fabs(want[at]));
            bound[at] += fabs(want[at]) * each * EPS + (g.type == TT_F32 ? 0 : fabs(want[at]) / 250) + 1e-6;
        }
        check_floats("y", y, z, want, bound, each + gap);
    }
}
