/* tests/kernels/check_attention.c - attention over a piece of the context, its folding, and cache rows.
 *
 * The float64 answer uses the cache rows as they decode. Bounds: what the roundings of float32 imply, and
 * at levels that round operands to bfloat16 (kern.h) half a unit of that for each of them. */
#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/checker.h"

#define MAX_LANES (ATTN_MAX_GROUPS * KERN_LANES)
#define MAX_ELEMS 640
#define MAX_PAGES 64

struct piece {
    struct attn_piece p;
    unsigned char *pages[MAX_PAGES];
    float *q[MAX_LANES]; /* guarded; NULL: no query */
    float scale;
    int32_t limit[MAX_LANES];
    double rows[ATTN_PIECE][MAX_ELEMS];
};
static struct piece c;

static double decode(const struct row_format *f, const unsigned char *row, int i)
{
    int bytes = f->elems - f->tail;
    float v;
    if (f->type == TT_F32) {
        memcpy(&v, row + 4 * i, 4);
        return (double)v;
    }
    if (f->type == TT_BF16)
        return values_bf16(row + 2 * i);
    if (f->type == TT_I4) {
        static const int levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                       1,    13,   25,  38,  53,  69,  89,  113};
        int groups = (bytes + 31) / 32;
        if (i >= bytes)
            return values_bf16(row + 16 * groups + 2 * (i - bytes));
        int pair = row[i / 32 * 16 + i % 16];
        return levels[i % 32 < 16 ? pair & 15 : pair >> 4] *
               values_bf16(row + 16 * groups + 2 * f->tail + 2 * (i / 32));
    }
    if (i >= bytes)
        return values_bf16(row + bytes + 2 * (i - bytes));
    memcpy(&v, row + bytes + 2 * f->tail + 4 * (i / 128), 4);
    if (f->type == TT_I8)
        return (double)(int8_t)row[i] * (double)v;
    int e = row[i] >> 3 & 15, m = row[i] & 7;
    double x = e ? ldexp(1 + m / 8.0, e - 7) : ldexp(m, -9);
    return (row[i] & 0x80 ? -x : x) * (double)v;
}

static const unsigned char *row_at(const struct attn_piece *p, int t)
{
    int u = p->first + t;
    return p->pages[u / p->page_tokens] + p->offset + (size_t)(u % p->page_tokens) * p->format.row_bytes;
}

static enum tensor_type random_type(void)
{
    static const enum tensor_type types[] = {TT_BF16, TT_BF16, TT_F32, TT_I8, TT_F8_E4M3, TT_I4};
    return types[values_below(6)];
}

/* Shapes that models have, and odd ones. */
static void random_shape(struct attn_piece *p)
{
    /* dk, dv, k_off, v_off: latent rows, keys beside values in both orders, half a head shared */
    static const int shapes[][4] = {{576, 512, 0, 0},   {288, 256, 0, 0},   {320, 256, 0, 0},
                                    {192, 128, 0, 192}, {48, 32, 0, 0},     {80, 64, 0, 0},
                                    {128, 128, 128, 0}, {128, 128, 64, 0},  {96, 64, 32, 0},
                                    {64, 64, 0, 64},    {256, 256, 256, 0}, {320, 256, 256, 0},
                                    {48, 34, 0, 48},    {48, 66, 0, 48}}; /* a little over a power of two */
    if (values_below(3)) {
        const int *s = shapes[values_below(14)];
        p->dk = s[0], p->dv = s[1], p->k_off = s[2], p->v_off = s[3];
    } else {
        p->dk = 1 + values_below(100), p->dv = 1 + values_below(100);
        p->k_off = values_below(20), p->v_off = values_below(20);
    }
    int k_end = p->k_off + p->dk, v_end = p->v_off + p->dv;
    p->format.elems = (k_end > v_end ? k_end : v_end) + values_below(3);
    p->format.type = random_type();
    p->format.elems += p->format.elems & 1;
    p->format.tail = p->format.elems > 64 ? 64 : p->format.elems / 4 * 2;
    p->format.row_bytes = kern_row_bytes(p->format.type, p->format.elems, p->format.tail) +
                          (size_t)values_below(2) * 64;
}

/* Rows of one kind: any values; all equal, so all scores; growing, so that the largest score keeps moving;
 * large, so that scores are far apart and most weights vanish. */
static void random_rows(struct attn_piece *p)
{
    float row[MAX_ELEMS], base = values_below(4) ? 1.0f : 30.0f;
    int kind = values_below(6);
    for (int t = 0; t < p->n_rows; t++) {
        float size = kind == 1 ? base * (float)(t + 1) / (float)p->n_rows : kind == 2 ? 3000.0f : base;
        unsigned char *at = (unsigned char *)(uintptr_t)row_at(p, t);
        for (int i = 0; i < p->format.elems && (kind || t == 0); i++)
            row[i] = values_uniform() * size;
        generic->row_store(&p->format, row, at);
        for (int i = 0; i < p->format.elems; i++)
            c.rows[t][i] = decode(&p->format, at, i);
    }
}

/* Pages of p's rows, cut some way. */
static void random_pages(struct attn_piece *p, unsigned char **pages)
{
    static const int page_sizes[] = {16, 32, 64, 256, 7, ATTN_PIECE};
    p->page_tokens = page_sizes[values_below(6)];
    if (p->page_tokens == 7 && p->n_rows > 300)
        p->page_tokens = 16;
    p->first = values_below(3) ? 0 : values_below(p->page_tokens);
    p->offset = (size_t)values_below(3) * 64;
    int n_pages = (p->first + p->n_rows - 1) / p->page_tokens + 1;
    for (int i = 0; i < n_pages; i++) {
        size_t bytes = p->offset + (size_t)p->page_tokens * p->format.row_bytes;
        pages[i] = guard_new(bytes, 64);
        memset(pages[i], 0xff, bytes); /* what nobody may see: NaN */
    }
    p->pages = (const unsigned char *const *)pages;
}

static void random_piece(void)
{
    struct attn_piece *p = &c.p;
    memset(p, 0, sizeof(*p));
    random_shape(p);
    p->n_rows = values_below(12) == 0 ? ATTN_PIECE
                                      : 1 + values_below(values_below(8) ? 150 : ATTN_PIECE);
    p->n_groups = 1 + values_below(values_below(3) ? 2 : 5);
    if (p->dk + p->dv < 100 && values_below(8) == 0)
        p->n_groups = ATTN_MAX_GROUPS;
    random_pages(p, c.pages);
    random_rows(p);
    c.scale = 1.0f / sqrtf((float)p->dk) * (values_below(4) ? 1.0f : 8.0f);
    int lanes = p->n_groups * KERN_LANES;
    for (int i = 0; i < lanes; i++) {
        c.limit[i] = values_below(3)   ? p->n_rows + values_below(3)
                     : values_below(4) ? 1 + values_below(p->n_rows)
                                       : -values_below(3);
        c.q[i] = NULL;
        if (values_below(12)) {
            c.q[i] = floats(p->dk);
            for (int d = 0; d < p->dk; d++)
                c.q[i][d] = values_uniform();
        }
    }
    p->limit = c.limit;
    p->scratch = guard_new(kern_attn_scratch_bytes(p->format.elems, p->dk, p->dv), 64);
}

static struct result run(const struct kernels *k, const struct attn_piece *p, float *const *q, float fill)
{
    struct attn_piece call = *p;
    int lanes = p->n_groups * KERN_LANES;
    size_t query = kern_attn_query_bytes(p->dk);
    call.o_stride = (size_t)p->dv + (size_t)values_below(2) * 16;
    struct result r = result_new(lanes, call.o_stride, fill);
    unsigned char *packed = guard_new((size_t)p->n_groups * query, 64);
    for (int g = 0; g < p->n_groups; g++)
        k->attn_pack((const float *const *)q + g * KERN_LANES, p->dk, c.scale, packed + (size_t)g * query);
    call.q = packed;
    call.m = r.m;
    call.l = r.l;
    call.o = r.o;
    k->attn_piece(&call);
    result_close(&r, lanes, p->limit, p->dv, call.o_stride, fill);
    return r;
}

static bool rounds_operands(void)
{
    return level->attn_bf16;
}

/* The float64 answer of a lane and how far from it a level may be. */
static void lane_answer(int lane, double *ret_m, double *ret_l, double *o, double *m_bound,
                        double *l_bound, double *o_bound)
{
    const struct attn_piece *p = &c.p;
    int n = p->limit[lane] < p->n_rows ? p->limit[lane] : p->n_rows;
    static double s[ATTN_PIECE];
    double m = -INFINITY, l = 0, err = 0, half = 0;
    if (rounds_operands()) /* of queries or weights; of rows that are not bfloat16 as they lie */
        half = p->format.type == TT_BF16 ? ldexp(1, -8) : ldexp(1.01, -7);
    for (int t = 0; t < n; t++) {
        double sum = 0, size = 0;
        for (int d = 0; d < p->dk && c.q[lane]; d++) {
            double x = (double)c.q[lane][d] * (double)c.scale * c.rows[t][p->k_off + d];
            sum += x;
            size += fabs(x);
        }
        s[t] = sum;
        m = fmax(m, sum);
        err = fmax(err, size * ((p->dk + 3) * EPS + half));
    }
    for (int r = 0; r < p->dv; r++)
        o[r] = o_bound[r] = 0;
    for (int t = 0; t < n; t++) {
        double w = exp(s[t] - m);
        l += w;
        for (int r = 0; r < p->dv; r++) {
            o[r] += w * c.rows[t][p->v_off + r];
            o_bound[r] += w * fabs(c.rows[t][p->v_off + r]);
        }
    }
    double exp_err = rounds_operands() ? 0.0073 : 0; /* as kern.h has it */
    double w_err = expm1(2 * (err + EPS * fabs(m))) + (n + 20) * EPS + exp_err; /* m in nats is rounded */
    *ret_m = m;
    *ret_l = l;
    *m_bound = err + EPS * fabs(m);
    *l_bound = l * w_err + 1e-30;
    for (int r = 0; r < p->dv; r++)
        o_bound[r] = o_bound[r] * (w_err + half) + 1e-30;
}

/* m of a level that rounds: as near the largest score that all that counts has a weight, and l is no larger
 * than kern.h says. */
static void check_reference(int lane, double m, double m_bound, float got, float l)
{
    if (isfinite(m_bound) && !(got <= m + m_bound + log(2) / 128 && l > 0 && l <= 0x1p60f))
        FAIL("lane %d: m is %g, l %g where the largest score is %g +- %g", lane, (double)got, (double)l, m,
             m_bound);
}

static void check_same_lane(const struct result *a, int i, const struct result *b, int j, const char *what)
{
    size_t dv = (size_t)c.p.dv;
    if (a->m[i] != b->m[j] || a->l[i] != b->l[j] ||
        !same_floats(a->o + (size_t)i * dv, b->o + (size_t)j * dv, dv))
        FAIL("lane %d %s, as lane %d, differs (%d rows, limit %d)", j, what, i, c.p.n_rows, c.p.limit[j]);
}

/* A lane alone, elsewhere among empty ones, with no more rows than it sees: the same bits. */
static void check_lane_alone(const struct result *got)
{
    struct attn_piece one = c.p;
    int lane = values_below(one.n_groups * KERN_LANES), to = values_below(KERN_LANES);
    int32_t limit[KERN_LANES] = {0};
    float *q[KERN_LANES] = {0};
    if (c.p.limit[lane] <= 0)
        return;
    limit[to] = c.p.limit[lane];
    q[to] = c.q[lane];
    one.n_groups = 1;
    one.limit = limit;
    one.n_rows = limit[to] < one.n_rows ? limit[to] : one.n_rows;
    struct result alone = run(level, &one, q, 777.0f);
    check_same_lane(&alone, to, got, lane, "alone");
}

/* The same rows, cut into other pages, with other bytes around them. */
static void check_other_pages(const struct result *got)
{
    static unsigned char *pages[MAX_PAGES];
    struct attn_piece other = c.p;
    if (values_below(4))
        return;
    random_pages(&other, pages);
    for (int t = 0; t < other.n_rows; t++)
        memcpy((unsigned char *)(uintptr_t)row_at(&other, t), row_at(&c.p, t), other.format.row_bytes);
    struct result again = run(level, &other, c.q, 3.0f);
    for (int i = 0; i < other.n_groups * KERN_LANES; i++)
        if (other.limit[i] > 0)
            check_same_lane(&again, i, got, i, "in other pages");
}

void check_attn_piece(void)
{
    random_piece();
    struct attn_piece *p = &c.p;
    int lanes = p->n_groups * KERN_LANES;
    double *o = malloc((size_t)p->dv * 16), *o_bound = o + p->dv;
    struct result got = run(level, p, c.q, 12345.0f), def = run(generic, p, c.q, 12345.0f);
    ck_assert_ptr_nonnull(o);
    for (int i = 0; i < lanes; i++) {
        double m, l, m_bound, l_bound;
        if (p->limit[i] <= 0) {
            if (got.m[i] != -INFINITY || got.l[i] != 0.0f)
                FAIL("lane %d sees nothing, but has m %g, l %g", i, (double)got.m[i], (double)got.l[i]);
            continue;
        }
        lane_answer(i, &m, &l, o, &m_bound, &l_bound, o_bound);
        if (rounds_operands())
            check_reference(i, m, m_bound, got.m[i], got.l[i]);
        else
            check_floats("m", &got.m[i], &def.m[i], &m, &m_bound, 1);
        /* sums relative to a largest score that may itself be off */
        double shift = exp(m - (double)got.m[i]), g = (double)got.l[i] / shift;
        if (isfinite(l_bound) && !(fabs(g - l) <= l_bound))
            FAIL("lane %d: l is %g, not %g +- %g", i, g, l, l_bound);
        for (int r = 0; r < p->dv; r++) {
            g = (double)got.o[(size_t)i * (size_t)p->dv + (size_t)r] / shift;
            if (isfinite(o_bound[r]) && !(fabs(g - o[r]) <= o_bound[r]))
                FAIL("lane %d value %d of %d (dk %d, %d rows): %g, not %g +- %g", i, r, p->dv, p->dk,
                     p->n_rows, g, o[r], o_bound[r]);
        }
    }
    free(o);

    check_lane_alone(&got);
    check_other_pages(&got);
}

/* Queries are packed as each level likes; what counts is checked with the piece. Here: guards only. */
void check_attn_pack(void)
{
    int dk = 1 + values_below(600);
    float *q[KERN_LANES];
    for (int i = 0; i < KERN_LANES; i++)
        q[i] = values_below(5) ? random_floats(dk) : NULL;
    void *dst = guard_new(kern_attn_query_bytes(dk), 64);
    level->attn_pack((const float *const *)q, dk, 0.5f, dst);
    check_guards();
}

/* One lane of many against exact values. */
static void check_folded(int dv, const float *m, const float *l, const float *before, const float *o2,
                         const float *gm, const float *gl, const float *go, const float *dm, const float *dl,
                         const float *generic_o)
{
    double want[300], bound[300];
    double top = l[0] == 0.0f ? (double)m[1] : l[1] == 0.0f ? (double)m[0] : fmax((double)m[0], (double)m[1]);
    double c1 = l[0] == 0.0f ? 0 : exp((double)m[0] - top), c2 = l[1] == 0.0f ? 0 : exp((double)m[1] - top);
    for (int r = 0; r < dv; r++) {
        want[r] = (double)before[r] * c1 + (double)o2[r] * c2;
        /* the difference of two large m is rounded; factors below 1e-38 become 0 */
        bound[r] = 500 * EPS * (fabs((double)before[r]) * c1 + fabs((double)o2[r]) * c2) +
                   3e-38 * (1 + fabs((double)before[r]) + fabs((double)o2[r]));
        if (l[0] == 0.0f || l[1] == 0.0f) {
            want[r] = l[1] == 0.0f ? (double)before[r] : (double)o2[r];
            bound[r] = 0;
        }
    }
    check_floats("o", go, generic_o, want, bound, dv);
    double wl = (double)l[0] * c1 + (double)l[1] * c2, bl = 500 * EPS * wl;
    check_floats("l", gl, dl, &wl, &bl, 1);
    bl = 0;
    check_floats("m", gm, dm, &top, &bl, 1);
}

/* n lanes together: each as exact values have it, and to the bit as alone. */
void check_attn_fold(void)
{
    enum { MOST = 2 * KERN_LANES + 3 };
    int n = 1 + values_below(MOST), dv = 1 + values_below(300);
    float *m = floats(n), *l = floats(n), *m2 = floats(n), *l2 = floats(n), *o2 = random_floats(n * dv);
    float *dm = floats(n), *dl = floats(n), *o[MOST], *d[MOST], *alone[MOST], was[MOST][2][2];
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < 2; k++) {
            float sum = values_below(4) ? 1.0f + fabsf(values_uniform()) * 300.0f : 0.0f;
            was[i][1][k] = sum;
            was[i][0][k] = sum == 0.0f ? -INFINITY : values_uniform() * (values_below(2) ? 5.0f : 200.0f);
        }
        m[i] = dm[i] = was[i][0][0];
        l[i] = dl[i] = was[i][1][0];
        m2[i] = was[i][0][1];
        l2[i] = was[i][1][1];
        o[i] = random_floats(dv);
        d[i] = floats(dv);
        alone[i] = floats(dv);
        memcpy(d[i], o[i], (size_t)dv * 4);
        memcpy(alone[i], o[i], (size_t)dv * 4);
    }
    float *before = floats(n * dv);
    for (int i = 0; i < n; i++)
        memcpy(before + i * dv, o[i], (size_t)dv * 4);
    level->attn_fold(n, dv, m, l, o, m2, l2, o2);
    generic->attn_fold(n, dv, dm, dl, d, m2, l2, o2);
    check_guards();
    for (int i = 0; i < n; i++) {
        float am = was[i][0][0], al = was[i][1][0];
        check_folded(dv, was[i][0], was[i][1], before + i * dv, o2 + i * dv, m + i, l + i, o[i], dm + i,
                     dl + i, d[i]);
        level->attn_fold(1, dv, &am, &al, alone + i, m2 + i, l2 + i, o2 + i * dv);
        if (memcmp(&am, m + i, 4) || memcmp(&al, l + i, 4) || memcmp(alone[i], o[i], (size_t)dv * 4))
            FAIL("lane %d of %d is another one alone", i, n);
    }
}

void check_row_store(void)
{
    struct row_format f = {.type = random_type(), .elems = 2 * (1 + values_below(300))};
    f.tail = values_below(f.elems / 2 + 1) * 2;
    f.tail = f.tail > f.elems ? f.elems : f.tail;
    f.row_bytes = kern_row_bytes(f.type, f.elems, f.tail);
    float *x = random_floats(f.elems);
    values_spoil(x, f.elems, values_below(6));
    unsigned char *got = guard_new(f.row_bytes, 16), *def = guard_new(f.row_bytes, 16);
    memset(got, 0, f.row_bytes);
    memset(def, 0, f.row_bytes);
    level->row_store(&f, x, got);
    generic->row_store(&f, x, def);
    check_guards();
    if (memcmp(got, def, f.row_bytes))
        FAIL("type %d, %d values: the rows differ", (int)f.type, f.elems);
    int block = f.type == TT_I4 ? 32 : 128;
    double max = 0;
    for (int i = 0; i < f.elems; i++) {
        double v = (double)x[i], near = decode(&f, def, i);
        if (f.type == TT_F32 || f.type == TT_BF16 || i >= f.elems - f.tail)
            continue; /* as f32_to_bf16 */
        if (i % block == 0) {
            max = 0;
            for (int j = i; j < i + block && j < f.elems - f.tail; j++)
                max = fabs((double)x[j]) > max ? fabs((double)x[j]) : max;
        }
        if (!(max < 1e38) || max < 1e-30 || v != v)
            continue;
        if (f.type == TT_I4) { /* levels are at most 24 of 127 apart, and the scale is a fitted one */
            if (fabs(near - v) > 0.2 * max)
                FAIL("plain C: value %d, %g of %g, becomes %g", i, v, max, near);
            continue;
        }
        double step = f.type == TT_I8 ? max / 127 / 2 : fmax(fabs(v) / 16, max / 448 / 1024);
        if (fabs(near - v) > step * 1.0001)
            FAIL("plain C: value %d, %g, becomes %g", i, v, near);
    }
}
