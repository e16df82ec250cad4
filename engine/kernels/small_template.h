/* engine/kernels/small_template.h - kernels around the products over sixteen lanes: sampling over a large
 * vocabulary, and rotation. One source for every level that has vec_*.h; included behind simd_template.h,
 * whose v16_exp and sum_lanes it uses. Everything is static. */

static int lane_max(const float *x, int n, float *ret)
{
    v16 odd = v16_set1(0.0f), zero = odd, none = v16_set1(-INFINITY);
    float tail[KERN_LANES];
    for (int s = 0; s < n; s += KERN_STRETCH, ret += KERN_LANES) {
        int m = n - s < KERN_STRETCH ? n - s : KERN_STRETCH, i = 0;
        v16 max = none;
        for (; i + KERN_LANES <= m; i += KERN_LANES) {
            v16 v = v16_load(x + s + i);
            max = v16_max(v, max); /* NaN leaves max as it is */
            odd = v16_fma(v, zero, odd); /* NaN from the first value that is not finite on */
        }
        if (i < m) {
            for (int j = 0; j < KERN_LANES; j++)
                tail[j] = i + j < m ? x[s + i + j] : -INFINITY;
            max = v16_max(v16_load(tail), max);
            odd = v16_fma(v16_load_n(x + s + i, m - i), zero, odd);
        }
        v16_store(ret, max);
    }
    return v16_all_eq(odd, odd);
}

static int collect(const float *x, int n, float least, float below, int32_t *ret)
{
    v16 lo = v16_set1(least), hi = v16_set1(below);
    int count = 0, i = 0;
    for (; i + KERN_LANES <= n; i += KERN_LANES) {
        v16 v = v16_load(x + i);
        unsigned in = v16_mask_ge(v, lo) & v16_mask_lt(v, hi);
        for (; in; in &= in - 1)
            ret[count++] = i + __builtin_ctz(in);
    }
    for (; i < n; i++)
        if (x[i] >= least && x[i] < below)
            ret[count++] = i;
    return count;
}

INLINE v16 soft_weight(v16 x, v16 top, v16 scale)
{
    v16 l = v16_mul(v16_sub(x, top), scale);
    return v16_select_lt(v16_set1(-KERN_SOFT_NATS), l, v16_exp(l), v16_set1(0.0f));
}

static void soft_weights(const float *x, int n, float top, float scale, float *y)
{
    v16 t = v16_set1(top), s = v16_set1(scale);
    int i = 0;
    for (; i + KERN_LANES <= n; i += KERN_LANES)
        v16_store(y + i, soft_weight(v16_load(x + i), t, s));
    if (i < n)
        v16_store_n(y + i, soft_weight(v16_load_n(x + i, n - i), t, s), n - i);
}

static float sum_from(const float *x, int n, float least, int *ret_count)
{
    v16 lo = v16_set1(least), zero = v16_set1(0.0f), sum = zero;
    float lane[KERN_LANES], all = 0.0f;
    int count = 0, i = 0;
    for (; i + KERN_LANES <= n; i += KERN_LANES) {
        v16 v = v16_load(x + i);
        sum = v16_add(sum, v16_select_lt(v, lo, zero, v));
        count += __builtin_popcount(v16_mask_ge(v, lo));
    }
    v16_store(lane, sum);
    for (; i < n; i++) {
        lane[i % KERN_LANES] += x[i] >= least ? x[i] : 0.0f;
        count += x[i] >= least;
    }
    for (int j = 0; j < KERN_LANES; j++)
        all += lane[j];
    *ret_count = count;
    return all;
}

static void rotate(const float *cos, const float *sin, int half, int interleaved, float *x)
{
    int i = 0;
    if (interleaved) {
        for (; i + KERN_LANES / 2 <= half; i += KERN_LANES / 2) {
            v16 v = v16_load(x + 2 * i);
            v16_store(x + 2 * i, v16_fmaddsub(v, v16_load_twice(cos + i),
                                              v16_mul(v16_swap(v), v16_load_twice(sin + i))));
        }
    } else {
        for (; i + KERN_LANES <= half; i += KERN_LANES) {
            v16 a = v16_load(x + i), b = v16_load(x + half + i), zero = v16_set1(0.0f);
            v16 c = v16_load(cos + i), s = v16_load(sin + i);
            v16_store(x + i, v16_fma(a, c, v16_sub(zero, v16_mul(b, s))));
            v16_store(x + half + i, v16_fma(b, c, v16_mul(a, s)));
        }
    }
    int step = interleaved ? 2 : 1, other = interleaved ? 1 : half;
    for (; i < half; i++) {
        float a = x[i * step], b = x[i * step + other];
        x[i * step] = fmaf(a, cos[i], -(b * sin[i]));
        x[i * step + other] = fmaf(b, cos[i], a * sin[i]);
    }
}

/* Cosines and sines of angles a + b, a vector from pair i on; each side has those of half pairs. */
INLINE void angle_sums(const float *a, const float *b, int half, int i, v16 *cos, v16 *sin)
{
    v16 ac = v16_load(a + i), as = v16_load(a + half + i);
    v16 bc = v16_load(b + i), bs = v16_load(b + half + i);
    *cos = v16_fma(ac, bc, v16_sub(v16_set1(0.0f), v16_mul(as, bs)));
    *sin = v16_fma(as, bc, v16_mul(ac, bs));
}

INLINE void add_angles(const float *a, const float *b, int half, float *cos, float *sin)
{
    int i = 0;
    for (; i + KERN_LANES <= half; i += KERN_LANES) {
        v16 c, s;
        angle_sums(a, b, half, i, &c, &s);
        v16_store(cos + i, c);
        v16_store(sin + i, s);
    }
    for (; i < half; i++) {
        cos[i] = fmaf(a[i], b[i], -(a[half + i] * b[half + i]));
        sin[i] = fmaf(a[half + i], b[i], a[i] * b[half + i]);
    }
}

/* Halves of whole vectors, bfloat16. */
INLINE void rotate_halves(const float *a, const float *b, int half, const unsigned char *from, uint16_t *to)
{
    v16 zero = v16_set1(0.0f);
    for (int i = 0; i < half; i += KERN_LANES) {
        v16 c, s;
        angle_sums(a, b, half, i, &c, &s);
        v16 x = v16_load_bf16(from + 2 * i), y = v16_load_bf16(from + 2 * (half + i));
        v16_store_bf16(to + i, v16_fma(x, c, v16_sub(zero, v16_mul(y, s))));
        v16_store_bf16(to + half + i, v16_fma(y, c, v16_mul(x, s)));
    }
}

static void rotate_rows(const struct row_rotation *r)
{
    int half = r->dim / 2;
    bool bf16 = r->type == TT_BF16, halves = bf16 && !r->interleaved && half % KERN_LANES == 0;
    size_t row = (size_t)r->dim * (bf16 ? 2 : 4);
    const float *near = r->near;
    const unsigned char *from = r->rows;
    unsigned char *dst = r->dst;
    float x[KERN_MAX_ROTATION], cos[KERN_MAX_ROTATION / 2], sin[KERN_MAX_ROTATION / 2];
    for (int i = 0; i < r->n; i++, near += r->dim, from += r->row_bytes, dst += r->dst_bytes) {
        memcpy(dst + row, from, row);
        if (halves) {
            rotate_halves(near, r->far, half, from, (uint16_t *)(void *)dst);
            continue;
        }
        add_angles(near, r->far, half, cos, sin);
        if (!bf16)
            memcpy(x, from, row);
        for (int d = 0; bf16 && d < r->dim; d += KERN_LANES) {
            uint16_t some[KERN_LANES] = {0};
            int n = r->dim - d < KERN_LANES ? r->dim - d : KERN_LANES;
            memcpy(some, from + 2 * d, 2 * (size_t)n);
            v16_store_n(x + d, v16_load_bf16(some), n);
        }
        rotate(cos, sin, half, r->interleaved, x);
        if (bf16)
            f32_to_bf16(x, r->dim, dst);
        else
            memcpy(dst, x, row);
    }
}

INLINE void set_small_kernels(struct kernels *t)
{
    t->lane_max = lane_max;
    t->collect = collect;
    t->soft_weights = soft_weights;
    t->sum_from = sum_from;
    t->rotate = rotate;
    t->rotate_rows = rotate_rows;
}
