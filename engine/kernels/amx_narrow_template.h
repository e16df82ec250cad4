/* engine/kernels/amx_narrow_template.h - a piece of the context for few lanes on tiles: one group of at
 * most 16 lanes whose rows are not wide, where the way of attn_bf16_template.h spends its time around the
 * products. Included by amx_attn.c; all static.
 *
 * A tile has as many columns as there are lanes (1, 2, 4, 8 or 16), so that scores lie close together,
 * [row][lane], and each vector of weights is full. Rows are operands where they lie: the last elements of a
 * key that are no whole step go through tiles of their own size. Each sum has the terms of
 * attn_bf16_template.h in its order, so that a lane's result is the same to the bit. */
#ifndef LATENT_ENGINE_KERNELS_AMX_NARROW_TEMPLATE_H
#define LATENT_ENGINE_KERNELS_AMX_NARROW_TEMPLATE_H

#include "engine/kernels/amx.h"
#include "engine/kernels/attn_bf16_template.h"

#define NARROW_ELEMS 512  /* wider rows go the other way */
#define NARROW_COLUMNS 4  /* of 16 values, whose sums are in tiles at a time */
#define NARROW_AHEAD 4    /* blocks from the fetch of a row to its use */
#define HALVES (ATTN_PIECE / 16)

struct narrow {
    const struct attn_piece *p;
    int n, steps;            /* rows that any lane sees; blocks of them */
    int lanes;               /* with those that only fill up */
    int32_t limit[KERN_LANES];
    int ahead;               /* rows of the next call fetched */
    int k_steps, k_rest;     /* whole steps of 32 elements; elements beyond */
    size_t key_stride, value_stride; /* bytes of copies */
    unsigned char *keys, *values; /* copies of rows that are no operands as they lie */
    float *scores;           /* [rows][lanes], as attn_bf16_template.h has them */
    unsigned char *weights;  /* [steps][lanes][64]: left operands */
    unsigned char *operands; /* twice 32 columns of a block */
    float *out;              /* [NARROW_COLUMNS][lanes][16] */
    const unsigned char *key_at[HALVES], *value_at[HALVES]; /* of 16 rows, stride bytes apart */
    size_t key_step[HALVES], value_step[HALVES];
};

static void narrow_shape(struct tile_config *c, int tile, int rows, int bytes)
{
    c->rows[tile] = (uint8_t)rows;
    c->colsb[tile] = (uint16_t)bytes;
}

/* --- rows ------------------------------------------------------------------------------------------ */

/* Rows that come soon: of this call where nobody fetched them, and of the next one at an even pace. */
static void narrow_fetch(struct narrow *w, int b)
{
    const struct attn_piece *p = w->p;
    int end = (int)((int64_t)p->n_ahead * (b + 1) / w->steps);
    if (!p->fetched) {
        int from = b == 0 ? 0 : (b + NARROW_AHEAD - 1) * BLOCK, to = (b + NARROW_AHEAD) * BLOCK;
        fetch_rows(p, from, to < w->n ? to : w->n);
    }
    fetch_rows(p, p->n_rows + w->ahead, p->n_rows + end);
    w->ahead = end;
}

/* Sixteen rows from t0 on as keys and values. */
static void narrow_rows(struct narrow *w, int t0)
{
    const struct attn_piece *p = w->p;
    const struct row_format *f = &p->format;
    int h = t0 / 16, inside = p->v_off >= p->k_off && p->v_off + p->dv <= p->k_off + p->dk;
    if (f->type == TT_BF16 && (p->first + t0) % p->page_tokens + 16 <= p->page_tokens) {
        const unsigned char *row = attn_row(p, t0);
        w->key_at[h] = row + 2 * (size_t)p->k_off;
        w->value_at[h] = row + 2 * (size_t)p->v_off;
        w->key_step[h] = w->value_step[h] = f->row_bytes;
        return;
    }
    unsigned char *key = w->keys + (size_t)t0 * w->key_stride;
    unsigned char *value = w->values + (size_t)t0 * w->value_stride;
    w->key_at[h] = key;
    w->key_step[h] = w->key_stride;
    w->value_at[h] = inside ? key + 2 * (size_t)(p->v_off - p->k_off) : value;
    w->value_step[h] = inside ? w->key_stride : w->value_stride;
    for (int t = t0; t < t0 + 16 && t < w->n; t++, key += w->key_stride, value += w->value_stride) {
        const unsigned char *row = attn_row(p, t);
        row_to_bf16(f, row, p->k_off, p->k_off + p->dk, (uint16_t *)(void *)key);
        if (!inside)
            row_to_bf16(f, row, p->v_off, p->v_off + p->dv, (uint16_t *)(void *)value);
    }
}

/* --- scores ---------------------------------------------------------------------------------------- */

/* Tiles: 0 and 1 the sums of 16 rows each, 2 and 3 their keys, 4 the queries; 5 to 7 those of the rest. */
static void narrow_score_tiles(const struct narrow *w)
{
    struct tile_config c = {.palette = 1};
    for (int h = 0; h < 2; h++) {
        narrow_shape(&c, h, 16, 4 * w->lanes);
        narrow_shape(&c, 2 + h, 16, 64);
        if (w->k_rest)
            narrow_shape(&c, 5 + h, 16, 2 * w->k_rest);
    }
    narrow_shape(&c, 4, 16, 4 * w->lanes);
    if (w->k_rest)
        narrow_shape(&c, 7, w->k_rest / 2, 4 * w->lanes);
    _tile_loadconfig(&c);
}

/* Of the rows of block b; where there are no 16 more, the first ones stand for them. */
static void narrow_scores(const struct narrow *w, int b)
{
    const unsigned char *q = w->p->q;
    int h = 2 * b, g = (2 * b + 1) * 16 < w->n ? h + 1 : h;
    const unsigned char *x = w->key_at[h], *y = w->key_at[g];
    size_t xs = w->key_step[h], ys = w->key_step[g], row = 4 * (size_t)w->lanes;
    float *to = w->scores + (size_t)b * BLOCK * (size_t)w->lanes;
    tiles_fence();
    _tile_zero(0);
    _tile_zero(1);
    for (int k = 0; k < w->k_steps; k++, x += 64, y += 64, q += TILE_BYTES) {
        _tile_loadd(4, q, 64);
        _tile_loadd(2, x, xs);
        _tile_dpbf16ps(0, 2, 4);
        _tile_loadd(3, y, ys);
        _tile_dpbf16ps(1, 3, 4);
    }
    if (w->k_rest) {
        _tile_loadd(7, q, 64);
        _tile_loadd(5, x, xs);
        _tile_dpbf16ps(0, 5, 7);
        _tile_loadd(6, y, ys);
        _tile_dpbf16ps(1, 6, 7);
    }
    _tile_stored(0, to, row);
    _tile_stored(1, to + 16 * (size_t)w->lanes, row);
    tiles_fence();
}

/* --- weights --------------------------------------------------------------------------------------- */

/* Scores of rows that a lane does not see are gone afterwards. */
static void narrow_mask(const struct narrow *w)
{
    for (int i = 0; i < w->lanes; i++)
        for (int t = w->limit[i]; t < w->steps * BLOCK && w->limit[i] > 0; t++)
            w->scores[t * w->lanes + i] = -INFINITY;
}

/* The largest of a lane's places, in all of them. */
INLINE __m512 narrow_across(const int n, __m512 top)
{
    const __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    UNROLL
    for (int k = 8; k >= n; k /= 2)
        top = _mm512_max_ps(top, _mm512_permutexvar_ps(_mm512_add_epi32(index, _mm512_set1_epi32(k)), top));
    return top;
}

/* m of each lane, in all its places: of so many blocks. */
INLINE __m512 narrow_m(const int n, const struct narrow *w, int blocks)
{
    __m512 top = _mm512_set1_ps(-INFINITY), other = top;
    for (int i = 0; i < 2 * n * blocks; i += 2) {
        top = _mm512_max_ps(_mm512_loadu_ps(w->scores + 16 * i), top);
        other = _mm512_max_ps(_mm512_loadu_ps(w->scores + 16 * i + 16), other);
    }
    return weights_top(narrow_across(n, _mm512_max_ps(top, other)));
}

/* Places [row][lane] of n vectors become [lane][row]: each round takes the lowest bit of a place's number to
 * the front. */
INLINE void narrow_turn(const int n, __m512i *r)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    UNROLL
    for (int k = n; k > 1; k /= 2) {
        __m512i t[KERN_LANES];
        UNROLL
        for (int i = 0; i < n / 2; i++) {
            t[i] = _mm512_permutex2var_epi32(r[2 * i], even, r[2 * i + 1]);
            t[n / 2 + i] = _mm512_permutex2var_epi32(r[2 * i], odd, r[2 * i + 1]);
        }
        UNROLL
        for (int i = 0; i < n; i++)
            r[i] = t[i];
    }
}

/* Weights and l; the answer: places of lanes whose weights are too large. */
INLINE __mmask16 narrow_weights(const int n, const struct narrow *w, __m512 m)
{
    const float *s = w->scores;
    unsigned char *to = w->weights;
    __m512 shift = weights_shift(m), part[KERN_LANES];
    __m512i beyond = _mm512_setzero_si512();
    float sum[KERN_LANES] = {0};
    UNROLL
    for (int i = 0; i < n; i++)
        part[i] = _mm512_setzero_ps();
    for (int b = 0; b < w->steps; b++, s += BLOCK * n, to += 64 * n) {
        __m512i r[KERN_LANES];
        UNROLL
        for (int i = 0; i < n; i++)
            r[i] = weights_pair(_mm512_loadu_ps(s + 16 * i), _mm512_loadu_ps(s + 16 * (n + i)), shift,
                                &beyond);
        narrow_turn(n, r);
        UNROLL
        for (int i = 0; i < n; i++) {
            part[i] = weights_part(part[i], r[i]);
            _mm512_storeu_si512(to + 64 * i, r[i]);
        }
    }
    UNROLL
    for (int i = 0; i < n; i++)
        sum[i] = w->limit[i] > 0 ? weights_sum(part[i]) : 0.0f;
    __m512 l = _mm512_loadu_ps(sum);
    __mmask16 any = _mm512_cmpgt_epi32_mask(_mm512_loadu_si512(w->limit), _mm512_setzero_si512());
    _mm512_mask_storeu_ps(w->p->l, any, l);
    _mm512_mask_storeu_ps(w->p->m, any, weights_m(m));
    /* a place of those of its lane is enough */
    __m512 fail = _mm512_maskz_mov_ps(weights_beyond(beyond, l), _mm512_set1_ps(1.0f));
    return _mm512_cmp_ps_mask(narrow_across(n, fail), _mm512_set1_ps(0.5f), _CMP_GT_OQ);
}

INLINE void narrow_weigh_lanes(const int n, const struct narrow *w)
{
    __m512 m = narrow_m(n, w, 1);
    __mmask16 fail = narrow_weights(n, w, m);
    if (fail)
        narrow_weights(n, w, _mm512_mask_mov_ps(m, fail, narrow_m(n, w, w->steps)));
}

static void narrow_weigh(const struct narrow *w)
{
    narrow_mask(w);
    switch (w->lanes) {
    case 1: narrow_weigh_lanes(1, w); break;
    case 2: narrow_weigh_lanes(2, w); break;
    case 4: narrow_weigh_lanes(4, w); break;
    case 8: narrow_weigh_lanes(8, w); break;
    default: narrow_weigh_lanes(16, w);
    }
}

/* --- results --------------------------------------------------------------------------------------- */

/* Tiles: 0 to 3 sums of 16 values, 4 weights, 5 and 6 values. */
static void narrow_value_tiles(const struct narrow *w)
{
    struct tile_config c = {.palette = 1};
    for (int i = 0; i <= NARROW_COLUMNS; i++)
        narrow_shape(&c, i, w->lanes, 64);
    narrow_shape(&c, 5, 16, 64);
    narrow_shape(&c, 6, 16, 64);
    _tile_loadconfig(&c);
}

/* Pairs of rows of 32 values. Of each 8, the first 4 go to one operand and the rest to the next. */
INLINE void narrow_pair(unsigned char *to, __m512i u, __m512i v)
{
    _mm512_store_si512(to, _mm512_unpacklo_epi16(u, v));
    _mm512_store_si512(to + TILE_BYTES, _mm512_unpackhi_epi16(u, v));
}

/* Values 32 j .. of block b as two right operands. */
static void narrow_values(const struct narrow *w, int b, int j, unsigned char *to)
{
    int left = w->p->dv - 32 * j, n = w->n - b * BLOCK;
    __mmask32 mask = left >= 32 ? 0xffffffffu : (1u << left) - 1u;
    const unsigned char *x = w->value_at[2 * b] + 64 * j;
    size_t xs = w->value_step[2 * b];
    if (n <= 16) {
        for (int r = 0; r < 16; r++, x += xs)
            narrow_pair(to + 64 * r, _mm512_maskz_loadu_epi16(r < n ? mask : 0, x), _mm512_setzero_si512());
        return;
    }
    const unsigned char *y = w->value_at[2 * b + 1] + 64 * j;
    size_t ys = w->value_step[2 * b + 1];
    if (n >= BLOCK && left >= 32) {
        for (int r = 0; r < 16; r++, x += xs, y += ys)
            narrow_pair(to + 64 * r, _mm512_loadu_si512(x), _mm512_loadu_si512(y));
        return;
    }
    for (int r = 0; r < 16; r++, x += xs, y += ys)
        narrow_pair(to + 64 * r, _mm512_maskz_loadu_epi16(mask, x),
                    _mm512_maskz_loadu_epi16(16 + r < n ? mask : 0, y));
}

/* Products of block b with 32 columns, sums in tiles 0 and 1 or in 2 and 3. */
INLINE void narrow_products(const struct narrow *w, int b, const unsigned char *from, const bool second)
{
    tiles_fence();
    _tile_loadd(4, w->weights + (size_t)b * 64 * (size_t)w->lanes, 64);
    _tile_loadd(5, from, 64);
    _tile_loadd(6, from + TILE_BYTES, 64);
    if (second) {
        _tile_dpbf16ps(2, 4, 5);
        _tile_dpbf16ps(3, 4, 6);
    } else {
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 6);
    }
    tiles_fence();
}

/* 32 results of each lane, from two tiles. */
static void narrow_store(const struct narrow *w, int j, const float *from)
{
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    int left = w->p->dv - 32 * j;
    __mmask32 mask = left >= 32 ? 0xffffffffu : (1u << left) - 1u;
    for (int i = 0; i < w->lanes; i++, from += 16) {
        float *to = w->p->o + (size_t)i * w->p->o_stride + 32 * j;
        __m512 x = _mm512_loadu_ps(from), y = _mm512_loadu_ps(from + 16 * w->lanes);
        if (w->limit[i] <= 0)
            continue;
        _mm512_mask_storeu_ps(to, (__mmask16)mask, _mm512_permutex2var_ps(x, first, y));
        if (mask >> 16)
            _mm512_mask_storeu_ps(to + 16, (__mmask16)(mask >> 16), _mm512_permutex2var_ps(x, second, y));
    }
}

/* Columns j and j + 1, or j alone. What becomes an operand next lies in the other half of 4 KB: loads wait
 * for stores that look as if they went to the same place. */
INLINE void narrow_columns(const struct narrow *w, int j, const bool two)
{
    size_t tile = 16 * (size_t)w->lanes;
    unsigned char *x = w->operands, *y = x + 2 * TILE_BYTES;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    narrow_values(w, 0, j, x);
    for (int b = 0; b < w->steps; b++) {
        if (two) {
            narrow_values(w, b, j + 1, y);
            narrow_products(w, b, x, false);
            if (b + 1 < w->steps)
                narrow_values(w, b + 1, j, x);
            narrow_products(w, b, y, true);
        } else {
            if (b + 1 < w->steps)
                narrow_values(w, b + 1, j, b % 2 ? x : y);
            narrow_products(w, b, b % 2 ? y : x, false);
        }
    }
    _tile_stored(0, w->out, 64);
    _tile_stored(1, w->out + tile, 64);
    _tile_stored(2, w->out + 2 * tile, 64);
    _tile_stored(3, w->out + 3 * tile, 64);
    tiles_fence();
    narrow_store(w, j, w->out);
    if (two)
        narrow_store(w, j + 1, w->out + 2 * tile);
}

/* --- a call ---------------------------------------------------------------------------------------- */

/* Lanes up to the last one that sees something. */
static void narrow_lanes(const struct attn_piece *p, struct narrow *w)
{
    int last = 0;
    for (int i = 0; i < KERN_LANES; i++) {
        int limit = p->limit[i] < 0 ? 0 : p->limit[i] > p->n_rows ? p->n_rows : p->limit[i];
        w->limit[i] = limit;
        last = limit > 0 ? i + 1 : last;
        w->n = limit > w->n ? limit : w->n;
        p->m[i] = -INFINITY;
        p->l[i] = 0.0f;
    }
    for (w->lanes = 1; w->lanes < last;)
        w->lanes *= 2;
    w->steps = (w->n + BLOCK - 1) / BLOCK;
}

static void narrow_open(struct narrow *w)
{
    const struct attn_piece *p = w->p;
    size_t lanes = (size_t)w->lanes;
    unsigned char *at = p->scratch;
    w->k_steps = p->dk / 32;
    w->k_rest = p->dk % 32;
    w->key_stride = 64 * (((size_t)p->dk + 31) / 32);
    w->value_stride = 64 * (((size_t)p->dv + 31) / 32);
    w->operands = at;
    at += 4 * TILE_BYTES;
    w->out = (float *)(void *)at;
    at += NARROW_COLUMNS * lanes * 64;
    w->weights = at;
    at += (size_t)w->steps * lanes * 64;
    w->scores = (float *)(void *)at;
    at += (size_t)w->steps * BLOCK * lanes * sizeof(float);
    w->keys = at;
    at += ATTN_PIECE * w->key_stride;
    w->values = at;
}

/* False: there are too many lanes, or rows are too wide; nothing was done. */
static bool attn_narrow(const struct attn_piece *p)
{
    struct narrow w;
    if (p->n_groups > 1 || p->dk + p->dv > NARROW_ELEMS || p->dk % 2)
        return false;
    w.p = p;
    w.n = w.ahead = 0;
    narrow_lanes(p, &w);
    if (w.n == 0)
        return true;
    narrow_open(&w);
    narrow_score_tiles(&w);
    for (int b = 0; b < w.steps; b++) {
        narrow_fetch(&w, b);
        narrow_rows(&w, b * BLOCK);
        if (b * BLOCK + 16 < w.n)
            narrow_rows(&w, b * BLOCK + 16);
        narrow_scores(&w, b);
    }
    narrow_weigh(&w);
    narrow_value_tiles(&w);
    for (int j = 0; 32 * j < p->dv; j += 2) {
        if (32 * (j + 1) < p->dv)
            narrow_columns(&w, j, true);
        else
            narrow_columns(&w, j, false);
    }
    _tile_release();
    return true;
}

#endif
