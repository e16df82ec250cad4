/* engine/kernels/attn_template.h - attention over a piece of the context, one source for every
 * level with vectors. Included after vec_*.h and simd_template.h; everything is static.
 *
 * The piece is taken ATTN_ROWS rows at a time. Of such a block some keys at a time are turned around
 * into a panel ([element][row]) of float32, small enough for the first-level cache, which then meets all
 * lanes. Values are read from their rows, some elements at a time that stay in that cache: float32, or
 * pairs of bfloat16, which are parted in registers. In both products lanes are rows of scalars, and
 * vectors run along tokens (scores) or along value elements. So a lane costs the same whether one or two
 * hundred share the call, and none is ever computed for nothing. Between blocks the largest score so far
 * is kept for each lane, and its sums are scaled when that grows.
 *
 * Order of sums of a lane, fixed: scores over elements, values over rows, each in sequence;
 * the weights' sum in 16 parts (row t to part t % 16). Blocks start at row 0 of the piece, so
 * that nothing depends on others.
 *
 * Beside v16_*, a level's vec_*.h gives v16_hmax, v16_load_i8, v16_load_nibbles, v16_store_i8,
 * v16_store_f8, and `va`, the vector of the products, one register: VA (its lanes) with va_*,
 * va_transpose (VA values of VA rows turned around), va_transpose_bf16 (the same of 2 VA bfloat16),
 * va_even and va_odd (of VA pairs of bfloat16), va_zip_low and va_zip_high (lanes of two vectors in
 * turn), and the size of a tile of scores, ATTN_LANES x ATTN_VECS, sums that fit the registers. */
#include <stdbool.h>

#include "engine/kernels/kern_internal.h"
#include "engine/kernels/quant_layout.h"

#define ATTN_PANEL (ATTN_VECS * VA) /* columns of a tile */
/* Steps of the score product over one panel of keys, which then stays in the first-level cache
 * for all lanes */
#define ATTN_STEPS (4608 / ATTN_PANEL)
#define ATTN_VALUES 4 /* vectors of a strip of values; one or two lanes take them all at a time, others two */
#define ATTN_SCORES ((ATTN_ROWS + KERN_LANES - 1) / KERN_LANES * KERN_LANES) /* of a lane */
#define ATTN_MAX_LANES (ATTN_MAX_GROUPS * KERN_LANES)

INLINE void attn_step(const float *const *x, int k, const float *b, va sum[][ATTN_VECS], const int lanes,
                      const int vecs)
{
    va y[ATTN_VECS];
    UNROLL
    for (int v = 0; v < vecs; v++)
        y[v] = va_load(b + v * VA);
    UNROLL
    for (int l = 0; l < lanes; l++) {
        va s = va_set1(x[l][k]);
        UNROLL
        for (int v = 0; v < vecs; v++)
            sum[l][v] = va_fma(s, y[v], sum[l][v]);
    }
}

/* c[l] (+)= sum over k of a[l][k] b[k]: `lanes` rows of scalars against `vecs` vectors, all sums
 * in registers. */
INLINE void attn_tile(const float *const *a, const float *b, int n, float *const *c, size_t c_at, bool add,
                      const int lanes, const int vecs)
{
    va sum[ATTN_LANES][ATTN_VECS];
    const float *x[ATTN_LANES];
    UNROLL
    for (int l = 0; l < lanes; l++) {
        x[l] = a[l];
        UNROLL
        for (int v = 0; v < vecs; v++)
            sum[l][v] = va_set1(0.0f);
    }
    if (add) {
        UNROLL
        for (int l = 0; l < lanes; l++) {
            UNROLL
            for (int v = 0; v < vecs; v++)
                sum[l][v] = va_load(c[l] + c_at + v * VA);
        }
    }
    int k = 0;
    for (; k + 4 <= n; k += 4, b += 4 * ATTN_PANEL) {
        UNROLL
        for (int i = 0; i < 4; i++)
            attn_step(x, k + i, b + i * ATTN_PANEL, sum, lanes, vecs);
    }
    for (; k < n; k++, b += ATTN_PANEL)
        attn_step(x, k, b, sum, lanes, vecs);
    UNROLL
    for (int l = 0; l < lanes; l++) {
        UNROLL
        for (int v = 0; v < vecs; v++)
            va_store(c[l] + c_at + v * VA, sum[l][v]);
    }
}

INLINE void attn_tile_vecs(const float *const *a, const float *b, int n, float *const *c, size_t c_at,
                           bool add, int lanes, const int vecs)
{
    if (lanes == ATTN_LANES)
        attn_tile(a, b, n, c, c_at, add, ATTN_LANES, vecs);
    else if (ATTN_LANES > 4 && lanes == 4)
        attn_tile(a, b, n, c, c_at, add, ATTN_LANES > 4 ? 4 : 1, vecs);
    else if (lanes == 2)
        attn_tile(a, b, n, c, c_at, add, 2, vecs);
    else
        attn_tile(a, b, n, c, c_at, add, 1, vecs);
}

/* vecs: 1 .. ATTN_VECS, which is 3 at every level */
static void attn_tile_any(const float *const *a, const float *b, int n, float *const *c, size_t c_at,
                          bool add, int lanes, int vecs)
{
    if (vecs == ATTN_VECS)
        attn_tile_vecs(a, b, n, c, c_at, add, lanes, ATTN_VECS);
    else if (vecs == 2)
        attn_tile_vecs(a, b, n, c, c_at, add, lanes, 2);
    else
        attn_tile_vecs(a, b, n, c, c_at, add, lanes, 1);
}

/* --- rows as float32 -------------------------------------------------------------------------- */

/* Sixteen values of `size` bytes each, the first n of them read; `rest` is for the others. */
INLINE const void *attn_some(const unsigned char *p, int n, size_t size, unsigned char *rest)
{
    if (n >= KERN_LANES)
        return p;
    memcpy(rest, p, (size_t)n * size);
    return rest;
}

/* Elements [lo, hi) of a row to dst, up to 15 more are written. lo: a multiple of 16. */
INLINE void attn_row_f32(const struct row_format *f, const unsigned char *row, int lo, int hi, float *dst)
{
    unsigned char rest[64] = {0};
    int bytes = f->elems - f->tail, i = lo;
    if (f->type == TT_F32) {
        memcpy(dst, row + 4 * (size_t)lo, (size_t)(hi - lo) * 4);
        return;
    }
    if (f->type == TT_BF16) {
        for (; i < hi; i += KERN_LANES)
            v16_store(dst + (i - lo), v16_load_bf16(attn_some(row + 2 * (size_t)i, hi - i, 2, rest)));
        return;
    }
    int end = hi < bytes ? hi : bytes;
    for (; f->type == TT_I4 && i < end; i += KERN_LANES) {
        v16 levels = v16_load_nibbles(row_nibbles(row, i), i % ROW_NIBBLE_GROUP, quant_iq4_table);
        v16_store(dst + (i - lo), v16_mul(levels, v16_set1(row_nibble_scale(f, row, i))));
    }
    for (; i < end; i += KERN_LANES) {
        const void *p = attn_some(row + i, end - i, 1, rest);
        float scale;
        memcpy(&scale, row + row_scales_at(f) + 4 * (size_t)(i / ROW_SCALE_BLOCK), 4);
        if (f->type == TT_I8)
            v16_store(dst + (i - lo), v16_mul(v16_load_i8(p), v16_set1(scale)));
        else
            v16_store(dst + (i - lo), v16_mul(v16_load_f8(p), v16_set1(scale * 256.0f)));
    }
    for (i = lo > bytes ? lo : bytes; i < hi; i += KERN_LANES) {
        const unsigned char *p = row + row_tail_at(f) + 2 * (size_t)(i - bytes);
        v16_store(dst + (i - lo), v16_load_bf16(attn_some(p, hi - i, 2, rest)));
    }
}

/* --- a piece ---------------------------------------------------------------------------------- */

/* Some live lanes that share tiles; their numbers among the live ones are first, first + 1, ... */
struct attn_lanes {
    int first, n, most; /* most: rows that any of them sees */
};

struct attn_cursor {
    int t, page, at; /* row t of the piece is row `at` of a page */
};

struct attn_work {
    const struct attn_piece *p;
    struct attn_cursor rows_at, ahead; /* the next block's rows; those to be fetched next */
    bool bf16;            /* rows are read as they lie, in bfloat16; else float32 */
    bool direct;          /* rows are read from the cache; else all that counts is first made float32 */
    int lo, hi;           /* if not: those elements, lo being the first of `rows` */
    size_t stride;
    float *rows;          /* [ATTN_ROWS][stride] */
    float *panel;         /* [steps][ATTN_PANEL] */
    int k_at, v_at;       /* where keys and values begin in what is read, in elements */
    /* the block's rows; then its last, to fill a vector */
    const unsigned char *from[ATTN_ROWS + VA];
    int n_live, n_tiles;
    int lane[ATTN_MAX_LANES], limit[ATTN_MAX_LANES];
    struct attn_lanes tiles[ATTN_MAX_LANES];
    const struct attn_lanes *tile_of[ATTN_MAX_LANES];
    const float *q[ATTN_MAX_LANES];
    float *score[ATTN_MAX_LANES]; /* ATTN_SCORES each: scores, then weights */
    float *sums[ATTN_MAX_LANES];  /* 16 parts of l */
    float *o[ATTN_MAX_LANES];
    float *o_tail[ATTN_MAX_LANES]; /* the values of a last vector that is not full */
    float m[ATTN_MAX_LANES], scale[ATTN_MAX_LANES];
};

/* A place among the rows of a piece and those ahead of it. */
static struct attn_cursor attn_cursor_at(const struct attn_piece *p, int t)
{
    int u = p->first + t;
    return (struct attn_cursor){t, u / p->page_tokens, u % p->page_tokens};
}

/* Rows up to `end` that lie one behind the other, from *ret_row on; moves behind them. */
INLINE int attn_run(const struct attn_piece *p, struct attn_cursor *c, int end, const unsigned char **ret_row)
{
    int left = p->page_tokens - c->at, n = end - c->t < left ? end - c->t : left;
    *ret_row = p->pages[c->page] + p->offset + (size_t)c->at * p->format.row_bytes;
    c->t += n;
    c->at += n;
    if (n == left) {
        c->at = 0;
        c->page++;
    }
    return n;
}

/* Asks for rows before `end`, of this call or the next. */
INLINE void attn_fetch(struct attn_work *w, int end)
{
    const struct attn_piece *p = w->p;
    const unsigned char *row;
    end = end < p->n_rows + p->n_ahead ? end : p->n_rows + p->n_ahead;
    while (w->ahead.t < end) {
        int n = attn_run(p, &w->ahead, end, &row);
        const unsigned char *stop = row + (size_t)n * p->format.row_bytes;
        for (row -= (uintptr_t)row & 63; row < stop; row += 64)
            __builtin_prefetch(row, 0, 2);
    }
}

/* Finds the block's n rows, or makes them float32. */
static void attn_rows(struct attn_work *w, int t0, int n)
{
    const struct attn_piece *p = w->p;
    const size_t row_bytes = p->format.row_bytes;
    const bool direct = w->direct;
    const unsigned char **from = w->from, *row;
    for (int t = 0; t < n;) {
        int end = t + attn_run(p, &w->rows_at, t0 + n, &row);
        for (; direct && t < end; t++, row += row_bytes)
            from[t] = row;
        for (; t < end; t++, row += row_bytes) {
            float *to = w->rows + (size_t)t * w->stride;
            attn_row_f32(&p->format, row, w->lo, w->hi, to);
            from[t] = (const unsigned char *)to;
        }
    }
    for (int t = n; t % VA; t++)
        from[t] = from[n - 1];
}

/* Elements [d, d + steps) of the keys of `columns` rows from t on, turned around. Rows beyond the block's are
 * its last again: nobody sees their scores. Meanwhile those of the next block are fetched, at an even pace: a
 * burst of them would hold up the loads behind it. */
static void attn_pack_keys(struct attn_work *w, int t0, int t, int d, int steps, int columns)
{
    const int vecs = (columns + VA - 1) / VA, some = w->bf16 ? 2 * VA : VA;
    const int pace = (columns << 16) / w->p->dk + 1; /* of fetching, rows an element */
    const unsigned char *const *from = w->from + t;
    for (int i = 0; i < steps; i += some) {
        float *to = w->panel + (size_t)i * ATTN_PANEL;
        attn_fetch(w, t0 + ATTN_ROWS + t + (pace * (d + i + some) >> 16));
        for (int v = 0; v < vecs; v++, to += VA)
            if (w->bf16)
                va_transpose_bf16(from + v * VA, 2 * (size_t)(w->k_at + d + i), to, ATTN_PANEL);
            else
                va_transpose(from + v * VA, 4 * (size_t)(w->k_at + d + i), to, ATTN_PANEL);
    }
}

static void attn_scores(struct attn_work *w, int t0, int n)
{
    const int dk = w->p->dk;
    for (int t = 0; t < n; t += ATTN_PANEL) {
        int columns = n - t < ATTN_PANEL ? n - t : ATTN_PANEL;
        for (int d = 0; d < dk; d += ATTN_STEPS) {
            int steps = dk - d < ATTN_STEPS ? dk - d : ATTN_STEPS;
            attn_pack_keys(w, t0, t, d, steps, columns);
            for (int i = 0; i < w->n_tiles; i++) {
                const struct attn_lanes *l = &w->tiles[i];
                int vecs = (l->most - t0 - t + VA - 1) / VA;
                if (vecs <= 0)
                    continue;
                const float *q[ATTN_LANES] = {0};
                for (int j = 0; j < l->n; j++)
                    q[j] = w->q[l->first + j] + d;
                attn_tile_any(q, w->panel, steps, w->score + l->first, (size_t)t, d > 0, l->n,
                              vecs < ATTN_VECS ? vecs : ATTN_VECS);
            }
        }
    }
}

#ifdef ATTN_FEW
#include "engine/kernels/attn_few_template.h"
#endif

/* Rows of the block that the lane's tile works on. */
INLINE int attn_columns(const struct attn_work *w, int lane, int t0, int n)
{
    int most = w->tile_of[lane]->most - t0;
    return most < n ? most : n;
}

/* v16_exp of what is not above 0, to the bit: no upper bound, and as no result is subnormal, its exponent is
 * added to that of the series. */
INLINE v16 attn_exp(v16 x)
{
    v16 low = v16_set1(EXP_LOW), n;
    v16 p = v16_exp_series(v16_max(x, low), &n);
    return v16_unless_lt(v16_raise(p, n), x, low);
}

/* Scores of the block's rows become weights. Largest scores first, so that no lane waits for another's. */
static void attn_weights(struct attn_work *w, int t0, int n)
{
    static const float index[KERN_LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const v16 none = v16_set1(-INFINITY);
    const int live = w->n_live;
    float old[ATTN_MAX_LANES];
    for (int i = 0; i < live; i++) {
        int seen = w->limit[i] - t0 < n ? w->limit[i] - t0 : n, t = 0;
        const int columns = attn_columns(w, i, t0, n);
        float *score = w->score[i], top;
        v16 max = none;
        for (; t + KERN_LANES <= seen; t += KERN_LANES)
            max = v16_max(v16_load(score + t), max);
        for (; t < columns; t += KERN_LANES) {
            v16 x = v16_select_lt(v16_load(index), v16_set1((float)(seen - t)), v16_load(score + t), none);
            v16_store(score + t, x);
            max = v16_max(x, max);
        }
        top = v16_hmax(max);
        old[i] = w->m[i];
        w->m[i] = top > old[i] ? top : old[i]; /* -inf at first, and when a lane saw nothing but that */
    }
    for (int i = live; i % KERN_LANES; i++)
        old[i] = w->m[i] = 0.0f;
    for (int i = 0; i < live; i += KERN_LANES) {
        v16 before = v16_load(old + i), m = v16_load(w->m + i);
        v16_store(w->scale + i, v16_select_eq(before, m, v16_set1(1.0f), attn_exp(v16_sub(before, m))));
    }
    for (int i = 0; i < live; i++) {
        const int columns = attn_columns(w, i, t0, n);
        float *score = w->score[i], *sums = w->sums[i];
        v16 m = v16_set1(w->m[i]), l = v16_mul(v16_load(sums), v16_set1(w->scale[i]));
        for (int t = 0; t < columns; t += KERN_LANES) {
            v16 x = attn_exp(v16_sub(v16_load(score + t), m));
            v16_store(score + t, x);
            l = v16_add(l, x);
        }
        v16_store(sums, l);
    }
}

/* o[l] = scale[l] o[l] (or 0) + sum over n rows of their weight times their values, for `lanes` lanes and
 * `vecs` vectors from element r on. Of bfloat16 they come in twos, the even elements of 2 VA and the odd
 * ones; results have that order until attn_in_order. */
INLINE void attn_value(const struct attn_work *w, const struct attn_lanes *l, int n, int r, bool add,
                       float *const *o, int o_at, const bool bf16, const int lanes, const int vecs)
{
    const size_t at = (size_t)(w->v_at + r) * (bf16 ? 2 : 4);
    const float *x[ATTN_LANES];
    va sum[ATTN_LANES][ATTN_VALUES];
    UNROLL
    for (int i = 0; i < lanes; i++) {
        x[i] = w->score[l->first + i];
        UNROLL
        for (int v = 0; v < vecs; v++)
            sum[i][v] = add ? va_mul(va_load(o[i] + o_at + v * VA), va_set1(w->scale[l->first + i]))
                            : va_set1(0.0f);
    }
    for (int t = 0; t < n; t++) {
        const float *row = (const float *)(const void *)(w->from[t] + at);
        va y[ATTN_VALUES];
        UNROLL
        for (int v = 0; v < vecs; v++) {
            y[v] = va_load(row + (bf16 ? v / 2 : v) * VA);
            y[v] = !bf16 ? y[v] : v % 2 ? va_odd(y[v]) : va_even(y[v]);
        }
        UNROLL
        for (int i = 0; i < lanes; i++) {
            va s = va_set1(x[i][t]);
            UNROLL
            for (int v = 0; v < vecs; v++)
                sum[i][v] = va_fma(s, y[v], sum[i][v]);
        }
    }
    UNROLL
    for (int i = 0; i < lanes; i++) {
        UNROLL
        for (int v = 0; v < vecs; v++)
            va_store(o[i] + o_at + v * VA, sum[i][v]);
    }
}

/* A strip: `count` whole vectors from element r on, and the part of one with which the values may end. */
INLINE void attn_strip(const struct attn_work *w, const struct attn_lanes *l, int n, int r, int count,
                       bool add, const bool bf16, const int lanes)
{
    const int most = lanes <= 2 ? ATTN_VALUES : 2, least = bf16 ? 2 : 1;
    const bool ends = count < ATTN_VALUES; /* else the next strip has the rest, if there is any */
    float *const *o = w->o + l->first;
    for (; count >= most; count -= most, r += most * VA)
        attn_value(w, l, n, r, add, o, r, bf16, lanes, most);
    for (; count > 0; count -= least, r += least * VA)
        attn_value(w, l, n, r, add, o, r, bf16, lanes, least);
    if (!bf16 && ends && r < w->p->dv)
        attn_value(w, l, n, r, add, w->o_tail + l->first, 0, false, lanes, 1);
}

INLINE void attn_strip_lanes(const struct attn_work *w, const struct attn_lanes *l, int n, int r, int count,
                             bool add, const bool bf16)
{
    if (l->n == ATTN_LANES)
        attn_strip(w, l, n, r, count, add, bf16, ATTN_LANES);
    else if (ATTN_LANES > 4 && l->n == 4)
        attn_strip(w, l, n, r, count, add, bf16, ATTN_LANES > 4 ? 4 : 1);
    else if (l->n == 2)
        attn_strip(w, l, n, r, count, add, bf16, 2);
    else
        attn_strip(w, l, n, r, count, add, bf16, 1);
}

static void attn_values(struct attn_work *w, int t0, int n)
{
    const int strip = ATTN_VALUES * VA, vecs = w->p->dv / VA;
    for (int r = 0; r < w->p->dv; r += strip) {
        int count = vecs - r / VA < ATTN_VALUES ? vecs - r / VA : ATTN_VALUES;
        for (int i = 0; i < w->n_tiles; i++) {
            const struct attn_lanes *l = &w->tiles[i];
            int rows = l->most - t0 < n ? l->most - t0 : n;
            if (rows > 0 && w->bf16)
                attn_strip_lanes(w, l, rows, r, count, t0 > 0, true);
            else if (rows > 0)
                attn_strip_lanes(w, l, rows, r, count, t0 > 0, false);
        }
    }
}

/* Results in the order of their elements. */
static void attn_in_order(const struct attn_work *w)
{
    for (int i = 0; i < w->n_live; i++)
        for (float *o = w->o[i]; o < w->o[i] + w->p->dv; o += 2 * VA) {
            va even = va_load(o), odd = va_load(o + VA);
            va_store(o, va_zip_low(even, odd));
            va_store(o + VA, va_zip_high(even, odd));
        }
}

/* Lists the lanes that see anything, and cuts the list into tiles. */
static void attn_lanes_list(struct attn_work *w)
{
    const struct attn_piece *p = w->p;
    w->n_live = w->n_tiles = 0;
    for (int i = 0; i < p->n_groups * KERN_LANES; i++) {
        p->m[i] = -INFINITY;
        p->l[i] = 0.0f;
        if (p->limit[i] <= 0)
            continue;
        w->lane[w->n_live] = i;
        w->limit[w->n_live++] = p->limit[i] < p->n_rows ? p->limit[i] : p->n_rows;
    }
    for (int i = 0; i < w->n_live;) {
        struct attn_lanes *l = &w->tiles[w->n_tiles++];
        int left = w->n_live - i;
        l->first = i;
        l->n = left >= ATTN_LANES ? ATTN_LANES : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        l->most = 0;
        for (; i < l->first + l->n; w->tile_of[i++] = l)
            l->most = w->limit[i] > l->most ? w->limit[i] : l->most;
    }
}

static void attn_piece(const struct attn_piece *p)
{
    struct attn_work w; /* 20 KB of it: cleared as far as it is used */
    int k_end = p->k_off + p->dk, v_end = p->v_off + p->dv, most = 0;
    w.p = p;
    w.rows_at = attn_cursor_at(p, 0);
    w.ahead = attn_cursor_at(p, ATTN_ROWS);
    attn_lanes_list(&w);
    /* Whole vectors can be read from the cache as they lie. */
    w.bf16 = p->format.type == TT_BF16 && p->dk % (2 * VA) == 0 && p->dv % (2 * VA) == 0;
    w.direct = w.bf16 || (p->format.type == TT_F32 && p->dk % VA == 0 && p->dv % VA == 0);
    w.lo = w.direct ? 0 : (p->v_off < p->k_off ? p->v_off : p->k_off) & ~(KERN_LANES - 1);
    w.hi = v_end > k_end ? v_end : k_end;
    w.k_at = p->k_off - w.lo;
    w.v_at = p->v_off - w.lo;
    /* Room for a vector beyond the end; an odd number of cache lines, so that columns spread
     * over the sets. */
    w.stride = (((size_t)(w.hi - w.lo) + 2 * KERN_LANES - 2) / KERN_LANES | 1) * KERN_LANES;
    w.panel = p->scratch;
    float *per_lane = w.panel + (ATTN_STEPS + VA) * ATTN_PANEL;
    w.rows = per_lane + (size_t)w.n_live * (ATTN_SCORES + 2 * KERN_LANES);
    for (int i = 0; i < w.n_live; i++, per_lane += ATTN_SCORES + 2 * KERN_LANES) {
        const int lane = w.lane[i];
        w.q[i] = (const float *)(const void *)((const unsigned char *)p->q +
                                               (size_t)(lane / KERN_LANES) * kern_attn_query_bytes(p->dk)) +
                 (size_t)(lane % KERN_LANES) * (size_t)p->dk;
        w.o[i] = p->o + (size_t)lane * p->o_stride;
        w.score[i] = per_lane;
        w.sums[i] = per_lane + ATTN_SCORES;
        w.o_tail[i] = w.sums[i] + KERN_LANES;
        w.m[i] = -INFINITY;
        v16_store(w.sums[i], v16_set1(0.0f));
        most = w.limit[i] > most ? w.limit[i] : most;
    }
    for (int t0 = 0; t0 < most; t0 += ATTN_ROWS) {
        int n = most - t0 < ATTN_ROWS ? most - t0 : ATTN_ROWS;
        attn_rows(&w, t0, n);
#ifdef ATTN_FEW
        if (!few_scores(&w, t0, n))
#endif
            attn_scores(&w, t0, n);
        attn_weights(&w, t0, n);
        attn_values(&w, t0, n);
    }
    if (w.bf16)
        attn_in_order(&w);
    int tail = p->dv % VA;
    for (int i = 0; i < w.n_live; i++) {
        p->m[w.lane[i]] = w.m[i];
        p->l[w.lane[i]] = sum_lanes(v16_load(w.sums[i]));
        memcpy(w.o[i] + (p->dv - tail), w.o_tail[i], (size_t)tail * sizeof(float));
    }
}

/* Lane by lane, [16][dk]. */
static void attn_pack(const float *const *q, int dk, float scale, void *dst)
{
    float *to = dst;
    v16 s = v16_set1(scale);
    for (int i = 0; i < KERN_LANES; i++, to += dk) {
        int d = 0;
        if (!q[i]) {
            memset(to, 0, (size_t)dk * sizeof(*to));
            continue;
        }
        for (; d + KERN_LANES <= dk; d += KERN_LANES)
            v16_store(to + d, v16_mul(v16_load(q[i] + d), s));
        if (d < dk)
            v16_store_n(to + d, v16_mul(v16_load_n(q[i] + d, dk - d), s), dk - d);
    }
}

/* Factors of both sides are one vector, so lanes go eight at a time. */
#define FOLD_LANES (KERN_LANES / 2)

INLINE void fold_values(int dv, float *o1, float by1, const float *o2, float by2)
{
    v16 c1 = v16_set1(by1), c2 = v16_set1(by2);
    int r = 0;
    for (; r + KERN_LANES <= dv; r += KERN_LANES)
        v16_store(o1 + r, v16_fma(v16_load(o2 + r), c2, v16_mul(v16_load(o1 + r), c1)));
    if (r < dv)
        v16_store_n(
            o1 + r,
            v16_fma(v16_load_n(o2 + r, dv - r), c2, v16_mul(v16_load_n(o1 + r, dv - r), c1)), dv - r);
}

INLINE void fold_lanes(int n, int dv, float *m1, float *l1, float *const *o1, const float *m2,
                       const float *l2, const float *o2)
{
    float by[KERN_LANES] = {0}, m[FOLD_LANES];
    for (int i = 0; i < n; i++) {
        m[i] = l1[i] != 0.0f && m1[i] > m2[i] ? m1[i] : m2[i];
        by[i] = m1[i] - m[i];
        by[FOLD_LANES + i] = m2[i] - m[i];
    }
    v16_store(by, v16_exp(v16_load(by)));
    for (int i = 0; i < n; i++, o2 += dv) {
        if (l2[i] == 0.0f)
            continue;
        m1[i] = m[i];
        if (l1[i] == 0.0f) {
            l1[i] = l2[i];
            memcpy(o1[i], o2, (size_t)dv * sizeof(*o2));
            continue;
        }
        l1[i] *= by[i];
        l1[i] += l2[i] * by[FOLD_LANES + i];
        fold_values(dv, o1[i], by[i], o2, by[FOLD_LANES + i]);
    }
}

static void attn_fold(int n, int dv, float *m1, float *l1, float *const *o1, const float *m2, const float *l2,
                      const float *o2)
{
    for (int i = 0; i < n; i += FOLD_LANES)
        fold_lanes(n - i < FOLD_LANES ? n - i : FOLD_LANES, dv, m1 + i, l1 + i, o1 + i, m2 + i, l2 + i,
                   o2 + (size_t)i * (size_t)dv);
}

/* --- storing rows ----------------------------------------------------------------------------- */

INLINE v16 attn_load_some(const float *x, int n)
{
    return n >= KERN_LANES ? v16_load(x) : v16_load_n(x, n);
}

/* One block of up to ROW_SCALE_BLOCK values as bytes; returns their scale. */
INLINE float row_bytes_store(enum tensor_type type, const float *x, int n, unsigned char *dst)
{
    const float top = type == TT_I8 ? 127.0f : 448.0f;
    unsigned char rest[KERN_LANES];
    v16 zero = v16_set1(0.0f), max = zero;
    for (int i = 0; i < n; i += KERN_LANES) {
        v16 v = attn_load_some(x + i, n - i), size = v16_select_lt(v, zero, v16_sub(zero, v), v);
        max = v16_select_lt(max, size, size, max); /* false for NaN */
    }
    float most = v16_hmax(max);
    most = most > 3.0e38f ? 3.0e38f : most;
    float scale = most / top, inv = scale > 0.0f ? 1.0f / scale : 0.0f;
    if (inv > 3.0e38f)
        scale = inv = 0.0f;
    for (int i = 0; i < n; i += KERN_LANES) {
        v16 v = v16_mul(attn_load_some(x + i, n - i), v16_set1(inv));
        v = v16_select_eq(v, v, v, zero);
        v = v16_max(v16_min(v, v16_set1(top)), v16_set1(-top));
        unsigned char *to = n - i >= KERN_LANES ? dst + i : rest;
        if (type == TT_I8)
            v16_store_i8(to, v);
        else
            v16_store_f8(to, v);
        if (to == rest)
            memcpy(dst + i, rest, (size_t)(n - i));
    }
    return scale;
}

/* The nearest levels of a group's values, counted in scales; returns by what factor the scale fits these
 * levels better. */
INLINE float row_levels(const v16 x[2], float inv, v16 code[2])
{
    v16 zero = v16_set1(0.0f), one = v16_set1(1.0f), products = zero, squares = zero;
    for (int h = 0; h < 2; h++) {
        v16 v = v16_mul(x[h], v16_set1(inv)), level = v16_set1((float)quant_iq4_table[0]);
        v = v16_max(v16_min(v, v16_set1(127.0f)), v16_set1(-127.0f));
        code[h] = zero;
        for (int k = 0; k < 15; k++) {
            float below = (float)quant_iq4_table[k], above = (float)quant_iq4_table[k + 1];
            v16 middle = v16_set1(0.5f * (below + above));
            code[h] = v16_add(code[h], v16_select_lt(middle, v, one, zero));
            level = v16_select_lt(middle, v, v16_set1(above), level);
        }
        v16 p = v16_mul(v, level), s = v16_mul(level, level);
        products = h ? v16_add(products, p) : p;
        squares = h ? v16_add(squares, s) : s;
    }
    return sum_lanes(products) / sum_lanes(squares);
}

/* 1 / scale; a scale that has none becomes 0. */
INLINE float row_inverse(float *scale)
{
    float inv = *scale != 0.0f ? 1.0f / *scale : 0.0f;
    if (fabsf(inv) > 3.0e38f)
        inv = 0.0f;
    if (inv == 0.0f)
        *scale = 0.0f;
    return inv;
}

/* One group of up to ROW_NIBBLE_GROUP values. */
INLINE void row_nibbles_store(const float *x, int n, unsigned char *dst, unsigned char *dst_scale)
{
    v16 zero = v16_set1(0.0f), v[2], code[2];
    for (int h = 0; h < 2; h++, n -= KERN_LANES) {
        v[h] = n > 0 ? attn_load_some(x + h * KERN_LANES, n) : zero;
        v[h] = v16_select_eq(v[h], v[h], v[h], zero);
    }
    float top = v16_hmax(v16_max(v[0], v[1]));
    float bottom = v16_hmax(v16_max(v16_sub(zero, v[0]), v16_sub(zero, v[1])));
    float most = top > bottom ? top : bottom;
    most = most > 3.0e38f ? 3.0e38f : most;
    float scale = (top > bottom ? most : -most) / -127.0f, inv = row_inverse(&scale);
    scale *= row_levels(v, inv, code);
    f32_to_bf16(&scale, 1, dst_scale);
    scale = row_bf16(dst_scale);
    inv = row_inverse(&scale);
    row_levels(v, inv, code);
    f32_to_bf16(&scale, 1, dst_scale);
    v16_store_i8(dst, v16_add(code[0], v16_mul(code[1], v16_set1(16.0f))));
}

static void row_store(const struct row_format *f, const float *x, void *dst)
{
    unsigned char *row = dst;
    int bytes = f->elems - f->tail;
    if (f->type == TT_F32) {
        memcpy(row, x, (size_t)f->elems * sizeof(*x));
        return;
    }
    if (f->type == TT_BF16) {
        f32_to_bf16(x, f->elems, row);
        return;
    }
    f32_to_bf16(x + bytes, f->tail, row + row_tail_at(f));
    for (int i = 0; f->type == TT_I4 && i < bytes; i += ROW_NIBBLE_GROUP)
        row_nibbles_store(x + i, bytes - i, row + i / 2,
                          row + row_scales_at(f) + 2 * (size_t)(i / ROW_NIBBLE_GROUP));
    if (f->type == TT_I4)
        return;
    for (int i = 0; i < bytes; i += ROW_SCALE_BLOCK) {
        int n = bytes - i < ROW_SCALE_BLOCK ? bytes - i : ROW_SCALE_BLOCK;
        float scale = row_bytes_store(f->type, x + i, n, row + i);
        memcpy(row + row_scales_at(f) + 4 * (size_t)(i / ROW_SCALE_BLOCK), &scale, 4);
    }
}

INLINE void set_attention_kernels(struct kernels *t)
{
    t->attn_pack = attn_pack;
    t->attn_piece = attn_piece;
    t->attn_fold = attn_fold;
    t->row_store = row_store;
}
