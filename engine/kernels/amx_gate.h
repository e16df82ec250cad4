/* engine/kernels/amx_gate.h - gated_rows on tiles: sixteen rows of latents and of embeddings against weights
 * as pairs of bfloat16, both products of sixteen outputs side by side. All static. */
#ifndef LATENT_ENGINE_KERNELS_AMX_GATE_H
#define LATENT_ENGINE_KERNELS_AMX_GATE_H

#include "engine/kernels/amx.h"
#include "engine/kernels/avx512_rows.h"

struct gate {
    const struct gated_rows *g;
    int columns;             /* of 16 outputs */
    int x_steps, e_steps;    /* of 32 inputs */
    unsigned char *x, *e;    /* left operands, of each step */
    unsigned char *up, *gate; /* right operands, of each column and step */
    float *y, *z;            /* products of 16 rows, columns * 16 each */
};

/* Inputs [0, n) of a column of weights as right operands. */
static void gate_weights(const float *w, int n, size_t stride, unsigned char *to)
{
    const __m512i pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23,
                                           7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int k = 0; k < (n + 31) / 32 * 32; k += 2, to += 64) {
        __m512 a = k < n ? _mm512_loadu_ps(w + (size_t)k * stride) : _mm512_setzero_ps();
        __m512 b = k + 1 < n ? _mm512_loadu_ps(w + (size_t)(k + 1) * stride) : _mm512_setzero_ps();
        _mm512_store_si512(to, _mm512_permutexvar_epi16(pairs, (__m512i)_mm512_cvtne2ps_pbh(b, a)));
    }
}

static __mmask16 gate_mask(int n)
{
    return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1u);
}

/* n values of a row, filled up with zeros, as row r of left operands. */
static void gate_row(enum tensor_type type, const void *row, int n, int r, unsigned char *to)
{
    for (int k = 0; k < n; k += 32, to += TILE_BYTES) {
        __m512i v;
        if (type == TT_BF16) {
            __mmask32 mask = n - k >= 32 ? 0xffffffffu : (1u << (n - k)) - 1u;
            v = _mm512_maskz_loadu_epi16(mask, (const uint16_t *)row + k);
        } else {
            const float *x = (const float *)row + k;
            v = (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(gate_mask(n - k - 16), x + 16),
                                             _mm512_maskz_loadu_ps(gate_mask(n - k), x));
        }
        _mm512_store_si512(to + 64 * r, v);
    }
}

/* Both products of sixteen rows; the inputs of one step each stay in tiles. */
static void gate_products(const struct gate *w)
{
    size_t stride = (size_t)w->columns * 64;
    const unsigned char *up = w->up, *gate = w->gate;
    tiles_fence();
    _tile_loadd(2, w->x, 64);
    _tile_loadd(3, w->e, 64);
    for (int j = 0; j < w->columns; j++) {
        _tile_zero(0);
        _tile_zero(1);
        for (int k = 0; k < w->x_steps; k++, up += TILE_BYTES) {
            if (w->x_steps > 1)
                _tile_loadd(2, w->x + (size_t)k * TILE_BYTES, 64);
            _tile_loadd(4, up, 64);
            _tile_dpbf16ps(0, 2, 4);
        }
        for (int k = 0; k < w->e_steps; k++, gate += TILE_BYTES) {
            if (w->e_steps > 1)
                _tile_loadd(3, w->e + (size_t)k * TILE_BYTES, 64);
            _tile_loadd(5, gate, 64);
            _tile_dpbf16ps(1, 3, 5);
        }
        _tile_stored(0, w->y + 16 * j, stride);
        _tile_stored(1, w->z + 16 * j, stride);
    }
    tiles_fence();
}

/* Lane i: the sum of vector i. */
INLINE __m512 gate_sums(__m512i *r)
{
    transpose_16x16(r);
    __m512 sum = _mm512_castsi512_ps(r[0]);
    UNROLL
    for (int i = 1; i < 16; i++)
        sum = _mm512_add_ps(sum, _mm512_castsi512_ps(r[i]));
    return sum;
}

/* Values [lo, hi) of a normalised row. */
INLINE void gate_store(const struct gated_rows *g, const float *y, int lo, int hi, __m512 mean, __m512 factor,
                       unsigned char *to)
{
    for (int d = lo; d < hi; d += 16) {
        __m512 v = _mm512_maskz_loadu_ps(gate_mask(hi - d), y + d);
        v = _mm512_mul_ps(_mm512_sub_ps(v, mean), factor);
        if (g->type == TT_F32)
            _mm512_mask_storeu_ps(to + 4 * (size_t)(d - lo), gate_mask(hi - d), v);
        else
            bf16_store((uint16_t *)(void *)(to + 2 * (size_t)(d - lo)), v, hi - d);
    }
}

/* The gated values of sixteen rows in place of y, and their means. */
INLINE __m512 gate_means(const struct gate *w, size_t stride)
{
    __m512i sums[16];
    for (int r = 0; r < 16; r++) {
        float *y = w->y + (size_t)r * stride;
        const float *z = w->z + (size_t)r * stride;
        __m512 sum = _mm512_setzero_ps();
        for (size_t d = 0; d < stride; d += 16) { /* zeros fill up the last */
            __m512 v = _mm512_mul_ps(_mm512_loadu_ps(y + d), _mm512_loadu_ps(z + d));
            _mm512_storeu_ps(y + d, v);
            sum = _mm512_add_ps(sum, v);
        }
        sums[r] = _mm512_castps_si512(sum);
    }
    return _mm512_div_ps(gate_sums(sums), _mm512_set1_ps((float)w->g->each));
}

/* One over their deviations. */
INLINE __m512 gate_inverses(const struct gate *w, size_t stride, const float *mean)
{
    __m512i sums[16];
    __m512 n = _mm512_set1_ps((float)w->g->each);
    for (int r = 0; r < 16; r++) {
        const float *y = w->y + (size_t)r * stride;
        __m512 sum = _mm512_setzero_ps(), m = _mm512_set1_ps(mean[r]);
        for (int d = 0; d < w->g->each; d += 16) {
            __m512 v = _mm512_maskz_sub_ps(gate_mask(w->g->each - d), _mm512_loadu_ps(y + d), m);
            sum = _mm512_fmadd_ps(v, v, sum);
        }
        sums[r] = _mm512_castps_si512(sum);
    }
    __m512 square = _mm512_add_ps(_mm512_div_ps(gate_sums(sums), n), _mm512_set1_ps(w->g->eps));
    return _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(square));
}

/* Rows i .. i + n from their products. */
static void gate_finish(const struct gate *w, int i, int n)
{
    const struct gated_rows *g = w->g;
    size_t stride = (size_t)w->columns * 16, size = g->type == TT_F32 ? 4 : 2;
    float mean[16], factor[16];
    _mm512_storeu_ps(mean, gate_means(w, stride));
    if (g->mean) {
        _mm512_storeu_ps(mean, _mm512_maskz_loadu_ps(gate_mask(n), g->mean + i));
        _mm512_storeu_ps(factor, _mm512_maskz_loadu_ps(gate_mask(n), g->inverse + i));
    } else {
        _mm512_storeu_ps(factor, gate_inverses(w, stride, mean));
    }
    for (int r = 0; r < n; r++) {
        const float *y = w->y + (size_t)r * stride;
        unsigned char *dst = g->dst + (size_t)(i + r) * g->dst_bytes;
        __m512 m = _mm512_set1_ps(mean[r]), f = _mm512_set1_ps(factor[r]);
        gate_store(g, y, 0, g->first, m, f, dst);
        gate_store(g, y, g->first, g->each, m, f, dst + (size_t)g->rest_at * size);
    }
}

static void gated_rows(const struct gated_rows *g)
{
    size_t stride = kern_gated_stride(g->each);
    struct gate w = {.g = g, .columns = (int)stride / 16, .x_steps = (g->width + 31) / 32,
                     .e_steps = (g->embed + 31) / 32};
    unsigned char *at = (unsigned char *)g->scratch;
    w.x = at;
    w.e = at += (size_t)w.x_steps * TILE_BYTES;
    w.up = at += (size_t)w.e_steps * TILE_BYTES;
    w.gate = at += (size_t)(w.columns * w.x_steps) * TILE_BYTES;
    w.y = (float *)(void *)(at += (size_t)(w.columns * w.e_steps) * TILE_BYTES);
    w.z = w.y + 16 * stride;
    for (int j = 0; j < w.columns; j++) {
        gate_weights(g->up + 16 * j, g->width, stride, w.up + (size_t)(j * w.x_steps) * TILE_BYTES);
        gate_weights(g->gate + 16 * j, g->embed, stride, w.gate + (size_t)(j * w.e_steps) * TILE_BYTES);
    }
    tiles_configure();
    for (int i = 0; i < g->n; i += 16) {
        int n = g->n - i < 16 ? g->n - i : 16;
        for (int r = 0; r < 16; r++) { /* the last one again beyond it */
            int from = i + (r < n ? r : n - 1);
            gate_row(g->type, g->x[from], g->width, r, w.x);
            gate_row(TT_F32, g->e[from], g->embed, r, w.e);
        }
        gate_products(&w);
        gate_finish(&w, i, n);
    }
    _tile_release();
}

#endif
