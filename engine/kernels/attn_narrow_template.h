/* engine/kernels/attn_narrow_template.h - a piece of the context for few lanes: mechanisms with some heads
 * of a group of keys, where 16 lanes across a vector would be mostly empty. Included by avx512_attn.c; all
 * static.
 *
 * Here rows lie across a vector, 16 of them, and the pairs of a query or the weights of a lane are broadcast.
 * Each sum has the terms of attn_bf16_template.h in its order, so that a lane's result is the same to
 * the bit: scores and values one pair after the other by vdpbf16ps, weights in sixteen parts. */
#ifndef LATENT_ENGINE_KERNELS_ATTN_NARROW_TEMPLATE_H
#define LATENT_ENGINE_KERNELS_ATTN_NARROW_TEMPLATE_H

#include "engine/kernels/attn_bf16_template.h"

#define NARROW_LANES 8 /* beyond them the other way is as quick */
#define NARROW_ELEMS 384 /* of wider rows few are in the first-level cache, and more loads wait */
#define VALUE_BYTES (24 << 10) /* of values that stay there */

/* sum += the pair at left, broadcast, times the pairs of right. */
INLINE __m512 dot(__m512 sum, const unsigned char *left, __m512i right)
{
    int32_t pair;
    memcpy(&pair, left, sizeof(pair));
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)right);
}

struct narrow {
    const struct attn_piece *p;
    int n_lanes;             /* in hand: 1, 2, 4 or 8, the last one again where there are fewer */
    int lane[NARROW_LANES], limit[NARROW_LANES];
    int n, steps;            /* rows that any lane sees; blocks of them */
    int ahead;               /* rows of the next call fetched */
    int k_steps, v_steps;    /* of 32 elements */
    size_t key_stride, value_stride; /* bytes of copies */
    unsigned char *keys;     /* copies of a block's keys, and all values, of other formats than bfloat16 */
    unsigned char *values;
    float *scores;           /* [n_lanes][ATTN_PIECE], as attn_bf16_template.h has them */
    uint32_t *weights;       /* [n_lanes][ATTN_PIECE / 2]: of rows r and 16 + r of a block side by side */
    float *out;              /* [n_lanes][32 v_steps] */
    const unsigned char *row_values[ATTN_PIECE];
};

/* Elements 32 k .. of n. */
INLINE __mmask32 narrow_mask(int k, int n)
{
    int left = n - 32 * k;
    return left >= 32 ? 0xffffffffu : (1u << left) - 1u;
}

/* The rows of block b as keys, and as values for later. Beyond the last row it stands again: nobody looks at
 * its score, and its weight is zero. */
static void narrow_rows(struct narrow *w, int b, const unsigned char **key)
{
    const struct attn_piece *p = w->p;
    const struct row_format *f = &p->format;
    int u = p->first + b * BLOCK, page = u / p->page_tokens, at = u % p->page_tokens;
    for (int i = 0; i < BLOCK; i++) {
        int t = b * BLOCK + i;
        if (t >= w->n) {
            key[i] = key[i - 1];
            w->row_values[t] = w->row_values[t - 1];
            continue;
        }
        const unsigned char *row = p->pages[page] + p->offset + (size_t)at * f->row_bytes;
        if (++at == p->page_tokens) {
            at = 0;
            page++;
        }
        if (f->type == TT_BF16) {
            key[i] = row + 2 * (size_t)p->k_off;
            w->row_values[t] = row + 2 * (size_t)p->v_off;
            continue;
        }
        unsigned char *k = w->keys + (size_t)i * w->key_stride, *v = w->values + (size_t)t * w->value_stride;
        row_to_bf16(f, row, p->k_off, p->k_off + p->dk, (uint16_t *)(void *)k);
        row_to_bf16(f, row, p->v_off, p->v_off + p->dv, (uint16_t *)(void *)v);
        key[i] = k;
        w->row_values[t] = v;
    }
}

INLINE void narrow_scores(const int n, const struct narrow *w, int t0, const unsigned char *const *key)
{
    const unsigned char *q = w->p->q;
    __m512 sum[NARROW_LANES];
    UNROLL
    for (int i = 0; i < n; i++)
        sum[i] = _mm512_setzero_ps();
    for (int k = 0; k < w->k_steps; k++, q += TILE_BYTES) {
        __m512i r[KERN_LANES];
        __mmask32 mask = narrow_mask(k, w->p->dk);
        UNROLL
        for (int i = 0; i < KERN_LANES; i++)
            r[i] = _mm512_maskz_loadu_epi16(mask, key[i] + 64 * k);
        transpose_16x16(r);
        UNROLL
        for (int pair = 0; pair < KERN_LANES; pair++) {
            UNROLL
            for (int i = 0; i < n; i++)
                sum[i] = dot(sum[i], q + 64 * pair + 4 * w->lane[i], r[pair]);
        }
    }
    UNROLL
    for (int i = 0; i < n; i++)
        _mm512_storeu_ps(w->scores + i * ATTN_PIECE + t0, sum[i]);
}

/* m of lane i: of the first `rows` rows. */
static __m512 narrow_m(const struct narrow *w, int i, int rows)
{
    __m512 top = _mm512_set1_ps(-INFINITY);
    for (int t = 0; t < rows; t += KERN_LANES)
        top = _mm512_max_ps(_mm512_loadu_ps(w->scores + i * ATTN_PIECE + t), top);
    return weights_top(_mm512_set1_ps(_mm512_reduce_max_ps(top)));
}

/* Weights of lane i, and l; false: weights are too large. */
static bool narrow_weights(const struct narrow *w, int i, __m512 m)
{
    const float *s = w->scores + i * ATTN_PIECE;
    uint32_t *to = w->weights + i * (ATTN_PIECE / 2);
    __m512 shift = weights_shift(m), part = _mm512_setzero_ps();
    __m512i beyond = _mm512_setzero_si512();
    for (int b = 0; b < w->steps; b++, s += BLOCK, to += KERN_LANES) {
        __m512i pairs = weights_pair(_mm512_loadu_ps(s), _mm512_loadu_ps(s + 16), shift, &beyond);
        part = weights_part(part, pairs);
        _mm512_storeu_si512(to, pairs);
    }
    float l = weights_sum(part);
    w->p->m[w->lane[i]] = _mm_cvtss_f32(_mm512_castps512_ps128(weights_m(m)));
    w->p->l[w->lane[i]] = l;
    return !weights_beyond(beyond, _mm512_set1_ps(l));
}

/* Scores of rows that the lane does not see are gone afterwards. */
static void narrow_weigh(const struct narrow *w, int i)
{
    for (int t = w->limit[i]; t < w->steps * BLOCK; t++)
        w->scores[i * ATTN_PIECE + t] = -INFINITY;
    if (!narrow_weights(w, i, narrow_m(w, i, BLOCK)))
        narrow_weights(w, i, narrow_m(w, i, w->limit[i]));
}

/* Blocks b0 .. b0 + n_blocks of the results' elements 32 j .. */
INLINE void narrow_values(const int n, const struct narrow *w, int b0, int n_blocks, int j)
{
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    __mmask32 mask = narrow_mask(j, w->p->dv);
    size_t room = 32 * (size_t)w->v_steps;
    float *to = w->out + 32 * j;
    __m512 sum[NARROW_LANES][2];
    UNROLL
    for (int i = 0; i < n; i++) {
        sum[i][0] = b0 ? _mm512_loadu_ps(to + (size_t)i * room) : _mm512_setzero_ps();
        sum[i][1] = b0 ? _mm512_loadu_ps(to + (size_t)i * room + 16) : _mm512_setzero_ps();
    }
    for (int b = b0; b < b0 + n_blocks; b++) {
        const unsigned char *const *row = w->row_values + b * BLOCK;
        for (int r = 0; r < 16; r++) {
            __m512i u = _mm512_permutexvar_epi64(order, _mm512_maskz_loadu_epi16(mask, row[r] + 64 * j));
            __m512i v = _mm512_permutexvar_epi64(order, _mm512_maskz_loadu_epi16(mask, row[16 + r] + 64 * j));
            __m512i lo = _mm512_unpacklo_epi16(u, v), hi = _mm512_unpackhi_epi16(u, v);
            const unsigned char *pair = (const unsigned char *)(w->weights + 16 * b + r);
            UNROLL
            for (int i = 0; i < n; i++) {
                sum[i][0] = dot(sum[i][0], pair + i * (ATTN_PIECE * 2), lo);
                sum[i][1] = dot(sum[i][1], pair + i * (ATTN_PIECE * 2), hi);
            }
        }
    }
    UNROLL
    for (int i = 0; i < n; i++) {
        _mm512_storeu_ps(to + (size_t)i * room, sum[i][0]);
        _mm512_storeu_ps(to + (size_t)i * room + 16, sum[i][1]);
    }
}

/* All of them, in ranges of blocks that stay in the first-level cache. */
INLINE void narrow_results(const int n, const struct narrow *w)
{
    int range = VALUE_BYTES / (BLOCK * 64 * w->v_steps);
    range = range > 0 ? range : 1;
    for (int b = 0; b < w->steps; b += range)
        for (int j = 0; j < w->v_steps; j++)
            narrow_values(n, w, b, w->steps - b < range ? w->steps - b : range, j);
    for (int i = 0; i < n; i++)
        memcpy(w->p->o + (size_t)w->lane[i] * w->p->o_stride, w->out + (size_t)i * 32 * (size_t)w->v_steps,
               (size_t)w->p->dv * sizeof(float));
}

/* Lanes that see something, or more than NARROW_LANES. */
static int narrow_lanes(const struct attn_piece *p, struct narrow *w)
{
    int n = 0;
    for (int i = 0; i < KERN_LANES && n <= NARROW_LANES; i++) {
        int limit = p->limit[i] > p->n_rows ? p->n_rows : p->limit[i];
        if (limit > 0 && n < NARROW_LANES) {
            w->lane[n] = i;
            w->limit[n] = limit;
            w->n = limit > w->n ? limit : w->n;
        }
        n += limit > 0;
    }
    return n;
}

static void narrow_open(struct narrow *w, int n_lanes)
{
    const struct attn_piece *p = w->p;
    unsigned char *at = p->scratch;
    w->n_lanes = n_lanes <= 2 ? n_lanes : n_lanes <= 4 ? 4 : 8;
    for (int i = n_lanes; i < w->n_lanes; i++) {
        w->lane[i] = w->lane[n_lanes - 1];
        w->limit[i] = w->limit[n_lanes - 1];
    }
    w->steps = (w->n + BLOCK - 1) / BLOCK;
    w->k_steps = (p->dk + 31) / 32;
    w->v_steps = (p->dv + 31) / 32;
    w->key_stride = 64 * (size_t)w->k_steps;
    w->value_stride = 64 * (size_t)w->v_steps;
    w->scores = (float *)(void *)at; /* less than the other way takes of each */
    at += NARROW_LANES * ATTN_PIECE * sizeof(float);
    w->weights = (uint32_t *)(void *)at;
    at += NARROW_LANES * ATTN_PIECE * 2;
    w->out = (float *)(void *)at;
    at += NARROW_LANES * 32 * (size_t)w->v_steps * sizeof(float);
    w->values = at;
    at += ATTN_PIECE * w->value_stride;
    w->keys = at;
    for (int i = 0; i < KERN_LANES; i++)
        if (p->limit[i] <= 0) {
            p->m[i] = -INFINITY;
            p->l[i] = 0.0f;
        }
}

/* Rows that come soon: of this call where nobody fetched them, and of the next one at an even pace. */
static void narrow_fetch(struct narrow *w, int b)
{
    const struct attn_piece *p = w->p;
    int end = (int)((int64_t)p->n_ahead * (b + 1) / w->steps);
    if (!p->fetched) {
        int from = b == 0 ? 0 : (b + 2) * BLOCK, to = (b + 3) * BLOCK;
        fetch_rows(p, from < w->n ? from : w->n, to < w->n ? to : w->n);
    }
    fetch_rows(p, p->n_rows + w->ahead, p->n_rows + end);
    w->ahead = end;
}

INLINE void narrow_run(const int n, struct narrow *w)
{
    const unsigned char *key[BLOCK];
    for (int b = 0; b < w->steps; b++) {
        narrow_fetch(w, b);
        narrow_rows(w, b, key);
        narrow_scores(n, w, b * BLOCK, key);
        narrow_scores(n, w, b * BLOCK + 16, key + 16);
    }
    for (int i = 0; i < n; i++)
        narrow_weigh(w, i);
    narrow_results(n, w);
}

/* False: there are too many lanes, or rows are too wide; nothing was done. */
static bool attn_narrow(const struct attn_piece *p)
{
    struct narrow w = {.p = p};
    int n_lanes = p->n_groups == 1 && p->dk + p->dv <= NARROW_ELEMS ? narrow_lanes(p, &w) : 0;
    if (n_lanes == 0 || n_lanes > NARROW_LANES)
        return false;
    narrow_open(&w, n_lanes);
    if (w.n_lanes == 1)
        narrow_run(1, &w);
    else if (w.n_lanes == 2)
        narrow_run(2, &w);
    else if (w.n_lanes == 4)
        narrow_run(4, &w);
    else
        narrow_run(8, &w);
    return true;
}

#endif
