/* engine/kernels/gate_template.h - gated rows over vectors, made or met as they lie: one source for every
 * level that has vec_*.h. Included behind attn_template.h; all static. */
#include "engine/kernels/gate.h"

#define GATE_ROWS (VA == KERN_LANES ? 4 : 2) /* whose sums are in registers */
#define GATE_VECS 2

/* Sums of some rows' x times the weights of 32 outputs, all in registers. */
INLINE void gate_sums(const float *const *x, const float *w, int n, size_t stride, v16 sum[][GATE_VECS],
                      const int rows, const int vecs)
{
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int v = 0; v < vecs; v++)
            sum[i][v] = v16_set1(0.0f);
    }
    for (int k = 0; k < n; k++, w += stride) {
        UNROLL
        for (int v = 0; v < vecs; v++) {
            v16 wk = v16_load(w + v * KERN_LANES);
            UNROLL
            for (int i = 0; i < rows; i++)
                sum[i][v] = v16_fma(v16_set1(x[i][k]), wk, sum[i][v]);
        }
    }
}

INLINE void gate_products(const struct gated_rows *g, const float *const *x, const float *const *e,
                          size_t stride, size_t at, float *const *y, const int rows, const int vecs)
{
    v16 a[GATE_ROWS][GATE_VECS], b[GATE_ROWS][GATE_VECS];
    gate_sums(x, g->up + at, g->width, stride, a, rows, vecs);
    gate_sums(e, g->gate + at, g->embed, stride, b, rows, vecs);
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int v = 0; v < vecs; v++)
            v16_store(y[i] + at + v * KERN_LANES, v16_mul(a[i][v], b[i][v]));
    }
}

/* y less its mean over its deviation, or what stands for them. */
static void gate_normalise(const struct gated_rows *g, int i, float *y)
{
    static const float index[KERN_LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    int n = g->each;
    v16 sum = v16_set1(0.0f), zero = sum;
    for (int d = 0; d < n && !g->mean; d += KERN_LANES) /* zeros fill up the last */
        sum = v16_add(sum, v16_load(y + d));
    v16 mean = v16_set1(g->mean ? g->mean[i] : sum_lanes(sum) / (float)n);
    sum = zero;
    for (int d = 0; d < n; d += KERN_LANES) {
        v16 v = v16_sub(v16_load(y + d), mean);
        if (n - d < KERN_LANES)
            v = v16_select_lt(v16_load(index), v16_set1((float)(n - d)), v, zero);
        v16_store(y + d, v);
        sum = v16_fma(v, v, sum);
    }
    v16 factor = v16_set1(g->inverse ? g->inverse[i] : 1.0f / sqrtf(sum_lanes(sum) / (float)n + g->eps));
    for (int d = 0; d < n; d += KERN_LANES)
        v16_store(y + d, v16_mul(v16_load(y + d), factor));
}

static void gate_store(const struct gated_rows *g, int i, const float *y)
{
    size_t size = g->type == TT_F32 ? 4 : 2;
    unsigned char *dst = g->dst + (size_t)i * g->dst_bytes, *rest = dst + (size_t)g->rest_at * size;
    if (g->type == TT_F32) {
        memcpy(dst, y, (size_t)g->first * size);
        memcpy(rest, y + g->first, (size_t)(g->each - g->first) * size);
    } else {
        f32_to_bf16(y, g->first, dst);
        f32_to_bf16(y + g->first, g->each - g->first, rest);
    }
}

static void gated_rows(const struct gated_rows *g)
{
    const struct row_format f = {.type = g->type, .elems = g->width};
    size_t stride = kern_gated_stride(g->each), wide = kern_gated_stride(g->width);
    float *x[GATE_ROWS], *y[GATE_ROWS];
    for (int i = 0; i < GATE_ROWS; i++) {
        y[i] = g->scratch + (size_t)i * (stride + wide);
        x[i] = y[i] + stride;
    }
    for (int i = 0; i < g->n; i += GATE_ROWS) {
        const float *e[GATE_ROWS];
        int n = g->n - i < GATE_ROWS ? g->n - i : GATE_ROWS;
        for (int r = 0; r < GATE_ROWS; r++) { /* the last one again beyond it */
            int from = i + (r < n ? r : n - 1);
            e[r] = g->e[from];
            attn_row_f32(&f, g->x[from], 0, g->width, x[r]);
        }
        size_t at = 0;
        for (; at + GATE_VECS * KERN_LANES <= stride; at += GATE_VECS * KERN_LANES)
            gate_products(g, (const float *const *)x, e, stride, at, y, GATE_ROWS, GATE_VECS);
        if (at < stride)
            gate_products(g, (const float *const *)x, e, stride, at, y, GATE_ROWS, 1);
        for (int r = 0; r < n; r++) {
            gate_normalise(g, i + r, y[r]);
            gate_store(g, i + r, y[r]);
        }
    }
}

/* --- latents that are not multiplied out ------------------------------------------------------------ */

#define FACTOR_ROWS (VA == KERN_LANES ? 8 : 4)
#define SOME_ROWS 16 /* rows times their embeddings, at a time */

/* Products of FACTOR_ROWS rows with a column, and its sums so far. */
INLINE void gate_column(const struct gate_shape *s, const float *const *x, const float *const *e,
                        const float *w, v16 *sum, v16 *square)
{
    v16 a[FACTOR_ROWS], b[FACTOR_ROWS];
    UNROLL
    for (int i = 0; i < FACTOR_ROWS; i++)
        a[i] = b[i] = v16_set1(0.0f);
    for (int k = 0; k < s->width; k++, w += KERN_LANES) {
        v16 wk = v16_load(w);
        UNROLL
        for (int i = 0; i < FACTOR_ROWS; i++)
            a[i] = v16_fma(v16_set1(x[i][k]), wk, a[i]);
    }
    for (int k = 0; k < s->embed; k++, w += KERN_LANES) {
        v16 wk = v16_load(w);
        UNROLL
        for (int i = 0; i < FACTOR_ROWS; i++)
            b[i] = v16_fma(v16_set1(e[i][k]), wk, b[i]);
    }
    UNROLL
    for (int i = 0; i < FACTOR_ROWS; i++) {
        a[i] = v16_mul(a[i], b[i]);
        sum[i] = v16_add(sum[i], a[i]);
        square[i] = v16_fma(a[i], a[i], square[i]);
    }
}

/* Factors from the sums of a block's outputs, which are [some outputs][head]. */
static void gate_finish(const struct gate_factors *g, v16 sum, v16 square, float *to)
{
    int heads = gate_heads(&g->shape);
    float a[KERN_LANES], b[KERN_LANES], n = (float)g->shape.each;
    v16_store(a, sum);
    v16_store(b, square);
    for (int i = heads; i < KERN_LANES; i++) {
        a[i % heads] += a[i];
        b[i % heads] += b[i];
    }
    for (int h = 0; h < heads; h++) {
        float mean = a[h] / n, v = b[h] / n - mean * mean;
        to[h] = 1.0f / sqrtf((v > 0 ? v : 0.0f) + g->eps);
    }
}

static void gate_factors(const struct gate_factors *g)
{
    const struct gate_shape *s = &g->shape;
    const struct row_format f = {.type = g->type, .elems = s->width};
    int columns = gate_columns(s), blocks = gate_blocks(s);
    size_t column = (size_t)(s->width + s->embed) * KERN_LANES, wide = gate_query_width(s);
    for (int i = 0; i < g->n; i += FACTOR_ROWS) {
        const float *x[FACTOR_ROWS], *e[FACTOR_ROWS];
        const float *w = g->weights;
        int n = g->n - i < FACTOR_ROWS ? g->n - i : FACTOR_ROWS;
        for (int r = 0; r < FACTOR_ROWS; r++) { /* the last one again beyond it */
            int from = i + (r < n ? r : n - 1);
            float *to = g->scratch + (size_t)r * wide;
            attn_row_f32(&f, g->x[from], 0, s->width, to);
            x[r] = to;
            e[r] = g->e[from];
        }
        for (int b = 0; b < blocks; b++) {
            v16 sum[FACTOR_ROWS], square[FACTOR_ROWS];
            UNROLL
            for (int r = 0; r < FACTOR_ROWS; r++)
                sum[r] = square[r] = v16_set1(0.0f);
            for (int j = 0; j < columns; j++, w += column)
                gate_column(s, x, e, w, sum, square);
            for (int r = 0; r < n; r++)
                gate_finish(g, sum[r], square[r],
                            g->factors + (size_t)(i + r) * kern_gate_stride(s->heads) + b * KERN_LANES);
        }
    }
}

/* [16][as gate.h has queries] */
static void gate_query(const struct gate_shape *s, const float *const *q, float scale, void *dst)
{
    float *to = dst;
    size_t wide = gate_query_width(s), n = gate_query_floats(s);
    for (int i = 0; i < KERN_LANES; i++, to += n) {
        memset(to, 0, n * sizeof(*to));
        for (int b = 0; b <= s->embed && q[i]; b++) {
            int values = b < s->embed ? s->width : s->rope;
            for (int k = 0; k < values; k++)
                to[(size_t)b * wide + (size_t)k] = scale * q[i][b * s->width + k];
        }
    }
}

struct gate_work {
    const struct gate_piece *p;
    int vecs, all;    /* of 16 values: gated, and with the rotary ones */
    float *scores;    /* [lanes][ATTN_PIECE]; then weights */
    float *rows;      /* [SOME_ROWS][16 all] */
    float *out;       /* [lanes][16 vecs] */
};

/* Rows [t0, t0 + n), n up to SOME_ROWS, times their embeddings; behind them their rotary values. */
static void gate_rows(const struct gate_work *w, int t0, int n)
{
    const struct gate_piece *p = w->p;
    const struct gate_shape *s = &p->shape;
    const struct row_format f = {.type = p->type, .elems = s->width + s->rope};
    size_t wide = gate_query_width(s);
    float *row = w->rows + (size_t)SOME_ROWS * KERN_LANES * (size_t)w->all, *to = w->rows;
    memset(row + s->width + s->rope, 0, KERN_LANES * sizeof(*row));
    for (int t = t0; t < t0 + n; t++, to += w->all * KERN_LANES) {
        attn_row_f32(&f, p->x[t], 0, s->width + s->rope, row);
        memset(to + w->vecs * KERN_LANES, 0, (size_t)(w->all - w->vecs) * KERN_LANES * sizeof(*to));
        memcpy(to + w->vecs * KERN_LANES, row + s->width, (size_t)s->rope * sizeof(*to));
        for (int b = 0; b < s->embed; b++) {
            v16 e = v16_set1(p->e[t][b]);
            for (int k = 0; k < s->width; k += KERN_LANES) {
                float *at = to + (size_t)b * wide + (size_t)k;
                int left = s->width - k;
                v16_store(at, v16_mul(left < KERN_LANES ? v16_load_n(row + k, left) : v16_load(row + k), e));
            }
        }
    }
}

INLINE float gate_dot(const float *a, const float *b, int vecs)
{
    v16 sum = v16_set1(0.0f), other = sum;
    int i = 0;
    for (; i + 2 <= vecs; i += 2) {
        sum = v16_fma(v16_load(a + i * KERN_LANES), v16_load(b + i * KERN_LANES), sum);
        other = v16_fma(v16_load(a + (i + 1) * KERN_LANES), v16_load(b + (i + 1) * KERN_LANES), other);
    }
    if (i < vecs)
        sum = v16_fma(v16_load(a + i * KERN_LANES), v16_load(b + i * KERN_LANES), sum);
    return sum_lanes(v16_add(sum, other));
}

static int gate_limit(const struct gate_piece *p, int lane)
{
    return p->limit[lane] < p->n_rows ? p->limit[lane] : p->n_rows;
}

static float gate_factor(const struct gate_piece *p, int lane, int t)
{
    int heads = p->shape.heads;
    return p->factors[(size_t)t * kern_gate_stride(heads) + (size_t)((p->first + lane) % heads)];
}

/* Scores of some rows. */
static void gate_scores(const struct gate_work *w, int lane, int t0, int n)
{
    const struct gate_piece *p = w->p;
    size_t query = kern_gate_query_bytes(&p->shape);
    const float *q = (const float *)(const void *)((const unsigned char *)p->q +
                                                   (size_t)(lane / KERN_LANES) * query);
    size_t gated = (size_t)w->vecs * KERN_LANES;
    q += (size_t)(lane % KERN_LANES) * gate_query_floats(&p->shape);
    n = gate_limit(p, lane) - t0 < n ? gate_limit(p, lane) - t0 : n;
    for (int r = 0; r < n; r++) {
        const float *row = w->rows + (size_t)r * (size_t)w->all * KERN_LANES;
        float s = gate_dot(q, row, w->vecs), rope = gate_dot(q + gated, row + gated, w->all - w->vecs);
        w->scores[lane * ATTN_PIECE + t0 + r] = s * gate_factor(p, lane, t0 + r) + rope;
    }
}

/* m and l of a lane; its weights, times the factors of their rows, in place of its scores. */
static void gate_weigh(const struct gate_work *w, int lane)
{
    const struct gate_piece *p = w->p;
    float *s = w->scores + lane * ATTN_PIECE, max;
    int n = gate_limit(p, lane), t = n;
    v16 top = v16_set1(-INFINITY), sum = v16_set1(0.0f);
    for (; t % KERN_LANES; t++)
        s[t] = -INFINITY;
    for (int i = 0; i < n; i += KERN_LANES)
        top = v16_max(v16_load(s + i), top);
    max = v16_hmax(top);
    top = v16_set1(max);
    for (int i = 0; i < n; i += KERN_LANES) {
        v16 x = v16_exp(v16_sub(v16_load(s + i), top));
        v16_store(s + i, x);
        sum = v16_add(sum, x);
    }
    for (int i = 0; i < n; i++)
        s[i] *= gate_factor(p, lane, i);
    p->m[lane] = max;
    p->l[lane] = sum_lanes(sum);
}

/* Some vectors of a lane's results, with some rows more. */
INLINE void gate_sum_up(const struct gate_work *w, int lane, int t0, int n, int at, const int vecs)
{
    const float *weight = w->scores + lane * ATTN_PIECE + t0, *row = w->rows + at * KERN_LANES;
    float *to = w->out + ((size_t)lane * (size_t)w->vecs + (size_t)at) * KERN_LANES;
    v16 sum[4];
    UNROLL
    for (int v = 0; v < vecs; v++)
        sum[v] = t0 ? v16_load(to + v * KERN_LANES) : v16_set1(0.0f);
    for (int r = 0; r < n; r++, row += w->all * KERN_LANES) {
        v16 x = v16_set1(weight[r]);
        UNROLL
        for (int v = 0; v < vecs; v++)
            sum[v] = v16_fma(x, v16_load(row + v * KERN_LANES), sum[v]);
    }
    UNROLL
    for (int v = 0; v < vecs; v++)
        v16_store(to + v * KERN_LANES, sum[v]);
}

static void gate_values(const struct gate_work *w, int lane, int t0, int n)
{
    int at = 0;
    n = gate_limit(w->p, lane) - t0 < n ? gate_limit(w->p, lane) - t0 : n;
    if (n <= 0)
        return;
    for (; at + 4 <= w->vecs; at += 4)
        gate_sum_up(w, lane, t0, n, at, 4);
    for (; at < w->vecs; at++)
        gate_sum_up(w, lane, t0, n, at, 1);
}

static void gate_piece(const struct gate_piece *p)
{
    const struct gate_shape *s = &p->shape;
    struct gate_work w = {.p = p, .vecs = s->embed * (int)gate_query_width(s) / KERN_LANES,
                          .all = (int)gate_query_floats(s) / KERN_LANES, .scores = p->scratch};
    int lanes = p->n_groups * KERN_LANES, most = 0;
    w.out = w.scores + (size_t)lanes * ATTN_PIECE;
    w.rows = w.out + (size_t)(lanes * w.vecs) * KERN_LANES;
    for (int i = 0; i < lanes; i++)
        most = gate_limit(p, i) > most ? gate_limit(p, i) : most;
    for (int values = 0; values < 2; values++) {
        for (int t = 0; t < most; t += SOME_ROWS) {
            int n = most - t < SOME_ROWS ? most - t : SOME_ROWS;
            gate_rows(&w, t, n);
            for (int i = 0; i < lanes; i++) {
                if (values)
                    gate_values(&w, i, t, n);
                else
                    gate_scores(&w, i, t, n);
            }
        }
        for (int i = 0; i < lanes && !values; i++) {
            p->m[i] = -INFINITY;
            p->l[i] = 0.0f;
            if (p->limit[i] > 0)
                gate_weigh(&w, i);
        }
    }
    for (int i = 0; i < lanes; i++)
        for (int b = 0; b < s->embed && p->limit[i] > 0; b++)
            memcpy(p->o + (size_t)i * p->o_stride + (size_t)(b * s->width),
                   w.out + (size_t)i * (size_t)w.vecs * KERN_LANES + (size_t)b * gate_query_width(s),
                   (size_t)s->width * sizeof(float));
}

static void set_gate_kernels(struct kernels *t)
{
    t->gated_rows = gated_rows;
    t->gate_factors = gate_factors;
    t->gate_query = gate_query;
    t->gate_piece = gate_piece;
}
