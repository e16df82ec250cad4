/* tests/kernels/check_gate.c - gated latents that are not multiplied out: deviations and pieces of the
 * context. Operands are such as all levels take exactly; what levels may round is bounded. */
#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/checker.h"

#define MAX_LANES (ATTN_MAX_GROUPS * KERN_LANES)
#define MAX_WIDTH 70
#define MAX_EMBED 20
#define MAX_ROW (MAX_WIDTH + 40)

static float exact(void)
{
    return (float)(values_below(255) - 127) / 64;
}

static float *exacts(int n)
{
    float *x = floats(n);
    for (int i = 0; i < n; i++)
        x[i] = exact();
    return x;
}

static struct gate_shape random_shape(void)
{
    struct gate_shape s = {8, 64, 32, 8, 16};
    if (values_below(3) == 0)
        return s;
    s.heads = values_below(4) ? 17 : 40;
    s.heads = 1 + values_below(s.heads);
    s.each = 1 + values_below(40);
    s.width = 1 + values_below(MAX_WIDTH);
    s.embed = 1 + values_below(MAX_EMBED);
    s.rope = 2 * values_below(20);
    return s;
}

/* n rows of some exact values, as their type has them, one behind the other; the last one guarded. */
static void random_rows(enum tensor_type type, int n, int values, const unsigned char **ret,
                        double ret_values[][MAX_ROW])
{
    float x[MAX_ROW];
    size_t bytes = (size_t)values * (type == TT_F32 ? 4 : 2);
    unsigned char *to = guard_new((size_t)n * bytes, 2);
    for (int i = 0; i < n; i++, to += bytes) {
        ret[i] = to;
        for (int k = 0; k < values; k++)
            ret_values[i][k] = (double)(x[k] = exact());
        if (type == TT_F32)
            memcpy(to, x, bytes);
        else
            generic->f32_to_bf16(x, values, to);
    }
}

static void random_embeddings(int n, int embed, const float **ret)
{
    float *e = exacts(n * embed);
    for (int i = 0; i < n; i++)
        ret[i] = e + i * embed;
}

/* What is checked is what factors are made of. */
void check_gate_pack(void)
{
    struct gate_shape s = random_shape();
    int rows = s.heads * s.each;
    void *dst = guard_new(kern_gate_bytes(&s), 64);
    level->gate_pack(&s, exacts(rows * s.width), exacts(rows * s.embed), dst);
    check_guards();
}

void check_gate_factors(void)
{
    enum { N = 40 };
    struct gate_shape s = random_shape();
    int n = 1 + values_below(N), rows = s.heads * s.each;
    const float *up = exacts(rows * s.width), *gate = exacts(rows * s.embed), *e[N];
    const unsigned char *x[N];
    static double in[N][MAX_ROW];
    size_t stride = kern_gate_stride(s.heads);
    float *got = floats(n * (int)stride), *def = floats(n * (int)stride);
    struct gate_factors g = {.shape = s, .n = n, .type = values_below(3) ? TT_BF16 : TT_F32, .x = x, .e = e,
                             .eps = values_below(2) ? 1e-3f : 1.0f};
    random_rows(g.type, n, s.width, x, in);
    random_embeddings(n, s.embed, e);
    g.scratch = guard_new(kern_gate_factor_floats(&s) * sizeof(float), 64);
    for (int k = 0; k < 2; k++) {
        const struct kernels *of = k ? generic : level;
        void *packed = guard_new(kern_gate_bytes(&s), 64);
        of->gate_pack(&s, up, gate, packed);
        g.weights = packed;
        g.factors = k ? def : got;
        of->gate_factors(&g);
        check_guards();
    }
    for (int i = 0; i < n; i++)
        for (int h = 0; h < s.heads; h++) {
            double sum = 0, square = 0, err = 0, want, bound;
            for (int d = 0; d < s.each; d++) {
                size_t row = (size_t)(h * s.each + d);
                double a = 0, b = 0, size_a = 0, size_b = 0, y;
                for (int k = 0; k < s.width; k++) {
                    y = in[i][k] * (double)up[row * (size_t)s.width + (size_t)k];
                    a += y, size_a += fabs(y);
                }
                for (int k = 0; k < s.embed; k++) {
                    y = (double)e[i][k] * (double)gate[row * (size_t)s.embed + (size_t)k];
                    b += y, size_b += fabs(y);
                }
                y = (size_a * fabs(b) + size_b * fabs(a)) * (s.width + s.embed + 4) * EPS;
                sum += a * b;
                square += a * b * a * b;
                err += 2 * fabs(a * b) * y + y * y;
            }
            double mean = sum / s.each, v = square / s.each - mean * mean;
            /* of the products; of both sums, whose difference may be small */
            err = err / s.each + (s.each + 8) * EPS * (square / s.each + mean * mean);
            v = fmax(v, 0) + (double)g.eps;
            want = 1 / sqrt(v);
            bound = err < v / 2 ? want * (err / v + 8 * EPS) : INFINITY;
            check_floats("factor", &got[(size_t)i * stride + (size_t)h], &def[(size_t)i * stride + (size_t)h],
                         &want, &bound, 1);
        }
    if (n > 1) { /* a row alone */
        int i = values_below(n);
        float *again = floats((int)stride);
        void *packed = guard_new(kern_gate_bytes(&s), 64);
        level->gate_pack(&s, up, gate, packed);
        g.weights = packed;
        g.n = 1;
        g.x = x + i;
        g.e = e + i;
        g.factors = again;
        level->gate_factors(&g);
        if (!same_floats(again, got + (size_t)i * stride, (size_t)s.heads))
            FAIL("row %d of %d alone differs", i, n);
    }
}

/* --- a piece --------------------------------------------------------------------------------------- */

static struct {
    struct gate_piece p;
    const float *q[MAX_LANES];
    int32_t limit[MAX_LANES];
    const unsigned char *x[ATTN_PIECE];
    const float *e[ATTN_PIECE];
    double rows[ATTN_PIECE][MAX_ROW];
    float scale;
} c;

static struct result run(const struct kernels *k, const struct gate_piece *p, const float *const *q,
                         float fill)
{
    struct gate_piece call = *p;
    int lanes = p->n_groups * KERN_LANES, dv = p->shape.embed * p->shape.width;
    size_t query = kern_gate_query_bytes(&p->shape);
    call.o_stride = (size_t)(dv + values_below(2) * 16);
    struct result r = result_new(lanes, call.o_stride, fill);
    unsigned char *packed = guard_new((size_t)p->n_groups * query, 64);
    for (int g = 0; g < p->n_groups; g++)
        k->gate_query(&p->shape, q + g * KERN_LANES, c.scale, packed + (size_t)g * query);
    call.q = packed;
    call.m = r.m;
    call.l = r.l;
    call.o = r.o;
    k->gate_piece(&call);
    result_close(&r, lanes, p->limit, dv, call.o_stride, fill);
    return r;
}

static void random_piece(void)
{
    struct gate_piece *p = &c.p;
    memset(p, 0, sizeof(*p));
    p->shape = random_shape();
    p->n_rows = values_below(12) == 0 ? ATTN_PIECE : 1 + values_below(100);
    p->n_groups = values_below(3) ? 2 : 4;
    p->n_groups = 1 + values_below(p->n_groups);
    p->type = values_below(3) ? TT_BF16 : TT_F32;
    p->x = c.x;
    p->e = c.e;
    p->limit = c.limit;
    p->first = values_below(p->shape.heads);
    size_t stride = kern_gate_stride(p->shape.heads);
    float *factors = floats(p->n_rows * (int)stride);
    random_rows(p->type, p->n_rows, p->shape.width + p->shape.rope, c.x, c.rows);
    random_embeddings(p->n_rows, p->shape.embed, c.e);
    for (int t = 0; t < p->n_rows; t++) {
        for (int h = 0; h < (int)stride; h++)
            factors[(size_t)t * stride + (size_t)h] =
                h < p->shape.heads ? 0.5f + fabsf(values_uniform()) : NAN;
    }
    p->factors = factors;
    int dk = p->shape.width * p->shape.embed + p->shape.rope;
    c.scale = (values_below(4) ? 0.2f : 1.0f) / sqrtf((float)dk);
    bool few = values_below(2);
    for (int i = 0; i < p->n_groups * KERN_LANES; i++) {
        c.limit[i] = values_below(3)   ? p->n_rows + values_below(3)
                     : values_below(4) ? 1 + values_below(p->n_rows)
                                       : 0;
        c.q[i] = NULL;
        if ((few && i % KERN_LANES >= KERN_LANES / 2) || values_below(12) == 0)
            c.limit[i] = -values_below(2);
        else {
            float *q = floats(dk);
            for (int d = 0; d < dk; d++)
                q[d] = values_uniform();
            c.q[i] = q;
        }
    }
    p->scratch = guard_new(kern_gate_scratch_bytes(&p->shape), 64);
}

/* Value d of row t's latent times its embedding. */
static double gated(int t, int d)
{
    int width = c.p.shape.width;
    return (double)c.e[t][d / width] * c.rows[t][d % width];
}

static void check_lane(int i, const struct result *got, const struct result *def)
{
    const struct gate_piece *p = &c.p;
    const struct gate_shape *s = &p->shape;
    int n = p->limit[i] < p->n_rows ? p->limit[i] : p->n_rows, dv = s->embed * s->width;
    size_t stride = kern_gate_stride(s->heads);
    const float *f = p->factors + (p->first + i) % s->heads, *q = c.q[i];
    static double score[ATTN_PIECE], o[MAX_WIDTH * MAX_EMBED], o_bound[MAX_WIDTH * MAX_EMBED];
    double m = -INFINITY, l = 0, err = 0, half = level->attn_bf16 ? ldexp(1.01, -8) : 0;
    for (int t = 0; t < n; t++) {
        double sum = 0, size = 0;
        for (int d = 0; d < dv + s->rope; d++) {
            double y = (double)q[d] * (double)c.scale *
                       (d < dv ? gated(t, d) * (double)f[(size_t)t * stride] : c.rows[t][s->width + d - dv]);
            sum += y;
            size += fabs(y);
        }
        score[t] = sum;
        m = fmax(m, sum);
        err = fmax(err, size * ((dv + s->rope + 6) * EPS + half));
    }
    memset(o, 0, sizeof(o));
    memset(o_bound, 0, sizeof(o_bound));
    for (int t = 0; t < n; t++) {
        double w = exp(score[t] - m);
        l += w;
        for (int d = 0; d < dv; d++) {
            double y = w * (double)f[(size_t)t * stride] * gated(t, d);
            o[d] += y;
            o_bound[d] += fabs(y);
        }
    }
    double w_err = expm1(2 * err) + (n + 24) * EPS + (half > 0 ? 1e-4 : 0), bound = err + EPS * fabs(m);
    check_floats("m", &got->m[i], &def->m[i], &m, &bound, 1);
    for (int k = 0; k < 2; k++) {
        const struct result *r = k ? def : got;
        double shift = exp(m - (double)r->m[i]), g = (double)r->l[i] / shift;
        if (!(fabs(g - l) <= l * w_err + 1e-30))
            FAIL("lane %d: l is %g, not %g", i, g, l);
        for (int d = 0; d < dv; d++) {
            g = (double)r->o[(size_t)(i * dv + d)] / shift;
            if (!(fabs(g - o[d]) <= o_bound[d] * (w_err + half) + 1e-30))
                FAIL("lane %d value %d of %d: %g, not %g", i, d, dv, g, o[d]);
        }
    }
}

/* A lane elsewhere among empty ones, with no more rows than it sees: the same bits. */
static void check_lane_alone(const struct result *got)
{
    struct gate_piece one = c.p;
    int lane = values_below(one.n_groups * KERN_LANES), to = values_below(KERN_LANES);
    int heads = one.shape.heads;
    int32_t limit[KERN_LANES] = {0};
    const float *q[KERN_LANES] = {0};
    size_t dv = (size_t)(one.shape.embed * one.shape.width);
    if (c.p.limit[lane] <= 0)
        return;
    limit[to] = c.p.limit[lane];
    q[to] = c.q[lane];
    one.first = ((one.first + lane - to) % heads + heads) % heads;
    one.n_groups = 1;
    one.limit = limit;
    one.n_rows = limit[to] < one.n_rows ? limit[to] : one.n_rows;
    struct result alone = run(level, &one, q, 777.0f);
    if (alone.m[to] != got->m[lane] || alone.l[to] != got->l[lane] ||
        !same_floats(alone.o + (size_t)to * dv, got->o + (size_t)lane * dv, dv))
        FAIL("lane %d alone, as lane %d, differs (%d rows, limit %d)", lane, to, c.p.n_rows, c.p.limit[lane]);
}

void check_gate_piece(void)
{
    random_piece();
    struct result got = run(level, &c.p, c.q, 12345.0f), def = run(generic, &c.p, c.q, 12345.0f);
    for (int i = 0; i < c.p.n_groups * KERN_LANES; i++) {
        if (c.p.limit[i] > 0)
            check_lane(i, &got, &def);
        else if (got.m[i] != -INFINITY || got.l[i] != 0.0f)
            FAIL("lane %d sees nothing, but has m %g, l %g", i, (double)got.m[i], (double)got.l[i]);
    }
    check_lane_alone(&got);
}

/* Queries are packed as each level likes; here: guards only. */
void check_gate_query(void)
{
    struct gate_shape s = random_shape();
    const float *q[KERN_LANES];
    for (int i = 0; i < KERN_LANES; i++)
        q[i] = values_below(3) && i < 8 + values_below(9) ? random_floats(s.embed * s.width + s.rope) : NULL;
    void *dst = guard_new(kern_gate_query_bytes(&s), 64);
    level->gate_query(&s, q, 0.5f, dst);
    check_guards();
}
