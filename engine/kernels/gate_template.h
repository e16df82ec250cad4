/* engine/kernels/gate_template.h - gated_rows over vectors, one source for every level that has vec_*.h.
 * Included behind attn_template.h; all static. */

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
