/* engine/kernels/attn_bf16_template.h - attention over a piece of the context in bfloat16, but for its
 * products: a file that includes this one makes them with tiles or with vectors, and exports attn_pack
 * and attn_piece. All static.
 *
 * Groups of lanes are taken in units of two (or one, or three). First come the scores of all units, block
 * by block: rows as they lie are the left operand, packed queries the right one. While they are in the
 * first-level cache they become weights exp(s - m), left operands. Then the results, 32 elements of the
 * values (a strip) of 256 rows at a time: these are turned into right operands, pairs of rows side by
 * side, which stay in that cache while the weights of all groups stream by. Queries of a unit stay there
 * too, while rows stream by.
 *
 * m cannot be the largest score, which nobody knows yet. It is that of the first block, which will do as
 * long as no weight is too large for sums in float32; else (l beyond MOST_SUM) scores are made again with
 * the largest.
 *
 * Vector work goes between the products where the file that has them can: with the scores of a block the
 * weights of the last but one, with the results of the last unit what is turned next, block by block into
 * the place of the one just used. Rows of the next call (n_ahead) are fetched at an even pace, a few
 * lines a step: a burst fills the buffers that operands from the second-level cache need.
 *
 * Scores are in units of log 2 / 128, in which weights are made as bfloat16 without a detour by float32
 * (weights_pair). A step of the value product takes 32 rows; pair r of it is rows r and 16 + r, which
 * spares a shuffle. What a lane does not see has weight 0 and adds 0 exactly, so that its sums are the
 * same whatever its unit. Rows beyond the last that any lane sees count as zeros among the values; as
 * keys they may be anything, as each score depends on its own row only. */
#ifndef LATENT_ENGINE_KERNELS_ATTN_BF16_TEMPLATE_H
#define LATENT_ENGINE_KERNELS_ATTN_BF16_TEMPLATE_H

#include <math.h>
#include <stdbool.h>

#include "engine/kernels/avx512_rows.h"

#define BLOCK 32                      /* rows of a block, and of a step of the value product */
#define MAX_STEPS (ATTN_PIECE / BLOCK)
#define STRIP 32                      /* elements of the values at a time: two columns */
#define PART 8                        /* blocks of a strip at a time: what is read pushes out more */
#define UNIT 3                        /* most groups of a unit */
#define QUADS 4                       /* four pairs of rows each, of a step */
#define BLOCK_SCORES ((size_t)BLOCK * KERN_LANES) /* of a group */
#define SCORE_BLOCKS 3                /* being made, being stored, becoming weights */
#define MOST_SUM 0x1p60f
#define GROUP_WEIGHTS ((size_t)MAX_STEPS * TILE_BYTES)
#define MAX_LINES 32                  /* fetched at a time */

struct group {
    int index;               /* of the call */
    int least, seen;         /* smallest and largest limit of its lanes, within 0 .. n */
    int direct;              /* results go straight to their place */
    int32_t limit[KERN_LANES];
    __m512 m;                /* whole numbers; 0 where nothing is seen */
    bool known;              /* m */
};

struct unit {
    int first, n, steps;     /* steps: blocks that any of its lanes sees */
};

/* A block of a unit whose scores became or become weights. */
struct weighing {
    int quad, quads;         /* the next one; of all its groups, QUADS each */
    const float *scores;     /* [groups][BLOCK][16] */
    unsigned char *to;       /* of the first group */
    const float *shift;      /* weights_shift of the lanes, [groups][16] */
    float *parts;            /* of their sums: [groups][QUADS][4][16] */
    __m512i *beyond;         /* [groups] bits of weights_pair */
};

/* Lines being fetched. */
struct fetching {
    const unsigned char *at, *end; /* what is left of the page in hand */
    int row, stop;           /* the next row that is not in it; where rows end */
    bool over;
    int lines;               /* at a time */
    int64_t pace, paces;     /* times so far, and in all */
    int64_t due, fetched;    /* lines: that do not wait for the pace, so far */
};

/* Where n sums go, their rows stride bytes apart. */
struct sums {
    int n;
    float *to[2 * UNIT];
    size_t stride[2 * UNIT];
};

/* Part of a strip: blocks [first, first + n). */
struct part {
    int strip, first, n;
};

struct call {
    const struct attn_piece *p;
    int n;                   /* rows that any lane sees */
    int n_blocks;
    int k_steps, strips;     /* steps of the score product; of 32 values */
    int n_groups, n_units;
    struct group groups[ATTN_MAX_GROUPS]; /* those that see something */
    struct unit units[ATTN_MAX_GROUPS];
    struct operand keys[ATTN_PIECE / KERN_LANES]; /* 16 rows each */
    const unsigned char *row_values[ATTN_PIECE]; /* of bfloat16, whole strips */
    size_t key_stride, value_stride; /* bytes of copied rows */
    unsigned char *key_copies, *value_copies, *zeros;
    unsigned char *strip;    /* right operands: [PART][2] */
    int turned;              /* blocks of the next part that are in their place */
    unsigned char *weights;  /* left operands: [n_groups][MAX_STEPS] */
    float *scores;           /* [SCORE_BLOCKS][UNIT][BLOCK][16] */
    float *parts, *shift;    /* of struct weighing, for all groups */
    __m512i beyond[ATTN_MAX_GROUPS];
    float *out;              /* results that have no place yet: [2][n_groups][16][STRIP] */
    struct weighing weighing;
    struct fetching fetching;
    struct sums sums[2], *to; /* of the run in hand and the one before; the former's */
    struct sums *waiting, none; /* of the file that makes the products */
    float *nowhere;          /* the same: room for a tile */
};

/* --- what the file has that includes this one ---------------------------------------------------- */

static void products_begin(struct call *c);
/* Sums are in their places only when the next products are made, or after this. */
static void products_wait(struct call *c);
static void products_end(void);
/* Scores of the 32 rows of keys[0] and keys[1] for n groups: to[i] of c->to gets those of the first 16 rows,
 * to[n + i] of the others, 16 lanes each. Between products weights may be made (c->weighing); fetch_some is
 * called twice a step. */
static void score_products(struct call *c, int n, const struct operand *keys, const struct operand *q);
/* Part of a strip of the results of n groups: weights of a group GROUP_WEIGHTS behind the one before, a step
 * TILE_BYTES on. to[2 i + j] of c->to gets the sums of group i and column j, which start from those so_far,
 * if any: [n][16][STRIP]. fetch_some as above; and blocks of the next part, if any, may take the place of
 * those that have been used (c->turned). */
static void value_products(struct call *c, int n, const unsigned char *weights, int steps,
                           const struct part *next, const float *so_far);

/* Two sets of sums take turns: copies of what was just written would wait for all stores before. */
static struct sums *sums_next(struct call *c, int n)
{
    c->to = c->to == c->sums ? c->sums + 1 : c->sums;
    c->to->n = n;
    return c->to;
}

/* --- queries ----------------------------------------------------------------------------------- */

static void attn_pack(const float *const *q, int dk, float scale, void *dst)
{
    __m512 factor = _mm512_set1_ps(scale * (128.0f * 1.44269504088896341f));
    for (int d0 = 0; d0 < dk; d0 += 32) {
        int lo = dk - d0 < 16 ? dk - d0 : 16, hi = dk - d0 - lo < 16 ? dk - d0 - lo : 16;
        __mmask16 lo_mask = (__mmask16)((1u << lo) - 1u), hi_mask = (__mmask16)((1u << hi) - 1u);
        __m512i r[KERN_LANES];
        UNROLL
        for (int i = 0; i < KERN_LANES; i++) {
            r[i] = _mm512_setzero_si512();
            if (q[i]) {
                __m512 a = _mm512_maskz_loadu_ps(lo_mask, q[i] + d0);
                __m512 b = _mm512_maskz_loadu_ps(hi_mask, q[i] + d0 + lo);
                r[i] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(b, factor), _mm512_mul_ps(a, factor));
            }
        }
        transpose_16x16(r);
        unsigned char *to = (unsigned char *)dst + (size_t)(d0 / 32) * TILE_BYTES;
        UNROLL
        for (int i = 0; i < KERN_LANES; i++)
            _mm512_storeu_si512(to + 64 * i, r[i]);
    }
}

/* --- rows -------------------------------------------------------------------------------------- */

/* Rows [lo, hi), run by run: those of a page lie one behind the other. */
static void fetch_rows(const struct attn_piece *p, int lo, int hi)
{
    size_t size = p->format.row_bytes;
    while (lo < hi) {
        int left = p->page_tokens - (p->first + lo) % p->page_tokens, n = hi - lo < left ? hi - lo : left;
        const unsigned char *row = attn_row(p, lo), *end = row + (size_t)n * size;
        for (row -= (uintptr_t)row & 127; row < end; row += 128) /* lines come in pairs */
            _mm_prefetch((const char *)row, _MM_HINT_T1);
        lo += n;
    }
}

static __attribute__((noinline)) void fetch_page(const struct attn_piece *p, struct fetching *f)
{
    if (f->row == f->stop) {
        *f = (struct fetching){.end = (const unsigned char *)UINTPTR_MAX, .row = f->row, .stop = f->stop,
                               .over = true};
        return;
    }
    int u = p->first + f->row, n = p->page_tokens - u % p->page_tokens;
    n = n < f->stop - f->row ? n : f->stop - f->row;
    f->at = attn_row(p, f->row);
    f->end = f->at + (size_t)n * p->format.row_bytes;
    f->at -= (uintptr_t)f->at & 63;
    f->row += n;
}

/* The next lines. */
INLINE void fetch_some(struct call *c)
{
    struct fetching *f = &c->fetching;
    for (int i = 0; i < f->lines; i++, f->at += 64)
        _mm_prefetch((const char *)f->at, _MM_HINT_T1);
    if (f->at >= f->end)
        fetch_page(c->p, f);
}

/* How many lines at a time, for n times. */
static void fetch_pace(struct call *c, int n)
{
    struct fetching *f = &c->fetching;
    int64_t ahead = (int64_t)c->p->n_ahead * (int64_t)c->p->format.row_bytes / 64;
    f->pace += n;
    if (f->over)
        return;
    int64_t left = f->due + ahead * f->pace / f->paces - f->fetched;
    int lines = left < 0 ? 0 : (int)(left + n / 2) / n;
    f->lines = lines < MAX_LINES ? lines : MAX_LINES;
    f->fetched += (int64_t)f->lines * n;
}

/* Row t as key and value, copied where it is no operand as it lies. */
static void take_row(struct call *c, int t, const unsigned char *row, bool copy_key)
{
    const struct attn_piece *p = c->p;
    const struct row_format *f = &p->format;
    bool inside = p->v_off >= p->k_off && p->v_off + p->dv <= p->k_off + p->dk;
    unsigned char *key = c->key_copies + (size_t)t * c->key_stride;
    if (copy_key)
        row_to_bf16(f, row, p->k_off, p->k_off + p->dk, (uint16_t *)(void *)key);
    if (f->type == TT_BF16 && p->dv % STRIP == 0) {
        c->row_values[t] = row + 2 * (size_t)p->v_off;
    } else if (f->type != TT_BF16 && inside && p->dv % STRIP == 0) {
        c->row_values[t] = key + 2 * (size_t)(p->v_off - p->k_off);
    } else {
        unsigned char *value = c->value_copies + (size_t)t * c->value_stride;
        row_to_bf16(f, row, p->v_off, p->v_off + p->dv, (uint16_t *)(void *)value);
        c->row_values[t] = value;
    }
}

/* Rows t0 .. t0 + 15. Of bfloat16 and on one page they are a left operand as they lie. */
static void take_rows(struct call *c, int t0)
{
    const struct attn_piece *p = c->p;
    const struct row_format *f = &p->format;
    int u = p->first + t0, page = u / p->page_tokens, at = u % p->page_tokens;
    int n = c->n - t0 < KERN_LANES ? c->n - t0 : KERN_LANES;
    struct operand *o = &c->keys[t0 / KERN_LANES];
    for (int i = n < 0 ? 0 : n; i < KERN_LANES; i++)
        c->row_values[t0 + i] = c->zeros;
    if (n <= 0) {
        *o = o[-1]; /* nobody looks at these scores */
        return;
    }
    const unsigned char *row = p->pages[page] + p->offset + (size_t)at * f->row_bytes;
    bool lie_well = f->type == TT_BF16 && p->dk % 32 == 0 && at + KERN_LANES <= p->page_tokens;
    *o = lie_well ? (struct operand){row + 2 * (size_t)p->k_off, f->row_bytes, 64}
                  : (struct operand){c->key_copies + (size_t)t0 * c->key_stride, c->key_stride, 64};
    if (lie_well && p->dv % STRIP == 0) {
        row += 2 * (size_t)p->v_off;
        for (int i = 0; i < n; i++, row += f->row_bytes)
            c->row_values[t0 + i] = row;
        return;
    }
    for (int i = 0; i < n; i++) {
        take_row(c, t0 + i, p->pages[page] + p->offset + (size_t)at * f->row_bytes, !lie_well);
        if (++at == p->page_tokens) {
            at = 0;
            page++;
        }
    }
}

/* Pairs [lo, hi) of block k of a part as rows of right operands. */
INLINE void turn_pairs(struct call *c, const struct part *part, int k, int lo, int hi)
{
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const unsigned char *const *rows = c->row_values + (part->first + k) * BLOCK;
    unsigned char *to = c->strip + (size_t)k * 2 * TILE_BYTES;
    size_t at = 2 * STRIP * (size_t)part->strip;
    UNROLL
    for (int r = lo; r < hi; r++) {
        __m512i u = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(rows[r] + at));
        __m512i v = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(rows[16 + r] + at));
        _mm512_store_si512(to + 64 * r, _mm512_unpacklo_epi16(u, v));
        _mm512_store_si512(to + TILE_BYTES + 64 * r, _mm512_unpackhi_epi16(u, v));
    }
}

/* What is missing of a part. */
static void turn_rest(struct call *c, const struct part *part)
{
    for (; c->turned < part->n; c->turned++)
        turn_pairs(c, part, c->turned, 0, 16);
    c->turned = 0;
}

/* --- weights ----------------------------------------------------------------------------------- */

/* What is added to scores for weights_pair: m, a whole number, is the score whose weight is 1. */
INLINE __m512 weights_shift(__m512 m)
{
    return _mm512_sub_ps(_mm512_set1_ps(0x1p23f + 0x3f80), m); /* 0x3f80: 1 as bfloat16 */
}

/* The scores' weights as bfloat16, x's and y's side by side: 2^(u / 128), where u is the score less m
 * rounded to a whole number. Added to 2^23, u is in the lowest bits of a float, and but for the
 * mantissa's curve it is the weight itself: seven bits of a linear mantissa below the exponent. What the
 * curve lies below the line comes from a table. Within 0.0073 of the weight and 0.0023 in the square
 * mean, of which rounding to bfloat16 alone is 0.0039 and 0.0017. Weights below 2^-126, and those of NaN,
 * count as 0 in products. Those of 2^129 and more are none: bits of *beyond tell (weights_beyond). */
INLINE __m512i weights_pair(__m512 x, __m512 y, __m512 shift, __m512i *beyond)
{
    const __m512 least = _mm512_set1_ps(0x1p23f);
    const __m512i below = _mm512_set_epi64(0x0101020303040505, 0x0606070708080809, 0x09090a0a0a0a0a0b,
                                           0x0b0b0b0b0b0b0b0b, 0x0b0b0b0b0b0a0a0a, 0x0a0a090909090808,
                                           0x0807070606050505, 0x0404030202010100);
    x = _mm512_max_ps(_mm512_add_ps(x, shift), least);
    y = _mm512_max_ps(_mm512_add_ps(y, shift), least);
    __m512i low = _mm512_castps_si512(x), high = _mm512_castps_si512(y);
    *beyond = _mm512_ternarylogic_epi32(*beyond, low, high, 0xfe); /* or */
    __m512i pair = _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16));
    __m512i curve = _mm512_maskz_permutexvar_epi8(0x5555555555555555, _mm512_srli_epi16(pair, 1), below);
    return _mm512_sub_epi16(pair, curve);
}

/* Where sums of weights are of no use: a weight was too large. */
INLINE __mmask16 weights_beyond(__m512i beyond, __m512 sum)
{
    const __m512i other = _mm512_set1_epi32(~(0x4b000000 | 0x7fff)); /* bits than those of 2^23 + u */
    return (__mmask16)(_mm512_test_epi32_mask(beyond, other) |
                       _mm512_cmp_ps_mask(sum, _mm512_set1_ps(MOST_SUM), _CMP_NLE_UQ));
}

/* part + both weights of each pair. A lane's sum has 16 parts, of pair r of all blocks each. */
INLINE __m512 weights_part(__m512 part, __m512i pairs)
{
    return _mm512_dpbf16_ps(part, (__m512bh)_mm512_set1_epi32(0x3f803f80), (__m512bh)pairs);
}

/* The sum of a lane's parts. */
INLINE float weights_sum(__m512 parts)
{
    __m128 a = _mm_add_ps(_mm512_castps512_ps128(parts), _mm512_extractf32x4_ps(parts, 1));
    a = _mm_add_ps(a, _mm_add_ps(_mm512_extractf32x4_ps(parts, 2), _mm512_extractf32x4_ps(parts, 3)));
    a = _mm_add_ps(a, _mm_movehdup_ps(a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehl_ps(a, a)));
}

/* Of sixteen lanes: parts[q][j] has those of pairs 4 q .. 4 q + 3, in 128 bits i of lane 4 i + j. */
INLINE __m512 weights_sums(const float *parts)
{
    __m512 a[4];
    UNROLL
    for (int j = 0; j < 4; j++) {
        const float *p = parts + j * KERN_LANES;
        a[j] = _mm512_add_ps(
            _mm512_add_ps(_mm512_load_ps(p), _mm512_load_ps(p + 4 * KERN_LANES)),
            _mm512_add_ps(_mm512_load_ps(p + 8 * KERN_LANES), _mm512_load_ps(p + 12 * KERN_LANES)));
    }
    __m512 x = _mm512_unpacklo_ps(a[0], a[1]), y = _mm512_unpackhi_ps(a[0], a[1]);
    __m512 z = _mm512_unpacklo_ps(a[2], a[3]), w = _mm512_unpackhi_ps(a[2], a[3]);
    __m512 first = _mm512_add_ps(_mm512_shuffle_ps(x, z, 0x44), _mm512_shuffle_ps(x, z, 0xee));
    return _mm512_add_ps(first, _mm512_add_ps(_mm512_shuffle_ps(y, w, 0x44), _mm512_shuffle_ps(y, w, 0xee)));
}

/* m of a call, in its own units. */
INLINE __m512 weights_m(__m512 m)
{
    return _mm512_mul_ps(m, _mm512_set1_ps(0.693147181f / 128.0f));
}

/* The nearest whole number that is not below. */
INLINE __m512 weights_top(__m512 score)
{
    return _mm512_roundscale_ps(score, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
}

/* Scores of rows that a lane does not see are gone afterwards. */
static void block_mask(const struct group *g, float *scores, int b)
{
    __m512i limit = _mm512_loadu_si512(g->limit);
    for (int t = g->least > b * BLOCK ? g->least - b * BLOCK : 0; t < BLOCK; t++) {
        __mmask16 sees = _mm512_cmpgt_epi32_mask(limit, _mm512_set1_epi32(b * BLOCK + t));
        __m512 x = _mm512_loadu_ps(scores + t * KERN_LANES);
        _mm512_storeu_ps(scores + t * KERN_LANES,
                         _mm512_mask_blend_ps(sees, _mm512_set1_ps(-INFINITY), x));
    }
}

static __m512 block_maximum(const float *scores)
{
    const __m512 none = _mm512_set1_ps(-INFINITY);
    __m512 top[4] = {none, none, none, none};
    UNROLL
    for (int t = 0; t < BLOCK; t++)
        top[t % 4] = _mm512_max_ps(_mm512_loadu_ps(scores + t * KERN_LANES), top[t % 4]);
    return _mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3]));
}

static __mmask16 group_lanes(const struct group *g)
{
    return _mm512_cmpgt_epi32_mask(_mm512_loadu_si512(g->limit), _mm512_setzero_si512());
}

/* Pair i of the quad in hand, rows r and 16 + r. */
INLINE void weigh_pair(struct weighing *w, int i, __m512i *pair, __m512i *beyond)
{
    const int group = w->quad / QUADS;
    const float *s = w->scores + group * (int)BLOCK_SCORES + (w->quad % QUADS * QUADS + i) * KERN_LANES;
    __m512 shift = _mm512_load_ps(w->shift + group * KERN_LANES);
    if (i == 0)
        *beyond = _mm512_load_si512(w->beyond + group);
    pair[i] = weights_pair(_mm512_loadu_ps(s), _mm512_loadu_ps(s + 16 * KERN_LANES), shift, beyond);
}

/* The pairs of a quad become a quarter of the rows of a left operand, a lane a row; on to the next one. */
INLINE void weigh_turn(struct weighing *w, const __m512i *pair, __m512i beyond)
{
    __m512i a = _mm512_unpacklo_epi32(pair[0], pair[1]), b = _mm512_unpackhi_epi32(pair[0], pair[1]);
    __m512i c = _mm512_unpacklo_epi32(pair[2], pair[3]), d = _mm512_unpackhi_epi32(pair[2], pair[3]);
    const __m512i r[4] = {_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c),
                          _mm512_unpacklo_epi64(b, d), _mm512_unpackhi_epi64(b, d)};
    const int group = w->quad / QUADS;
    float *part = w->parts + w->quad * 4 * KERN_LANES;
    unsigned char *quarter = w->to + (size_t)group * GROUP_WEIGHTS + w->quad % QUADS * 16;
    UNROLL
    for (int j = 0; j < 4; j++) { /* of r[j], 128 bits i: lane 4 i + j */
        _mm512_store_ps(part + j * KERN_LANES, weights_part(_mm512_load_ps(part + j * KERN_LANES), r[j]));
        __m128i *to = (__m128i *)(void *)(quarter + 64 * j);
        _mm_store_si128(to, _mm512_castsi512_si128(r[j]));
        _mm_store_si128(to + 16, _mm512_extracti32x4_epi32(r[j], 1));
        _mm_store_si128(to + 32, _mm512_extracti32x4_epi32(r[j], 2));
        _mm_store_si128(to + 48, _mm512_extracti32x4_epi32(r[j], 3));
    }
    _mm512_store_si512(w->beyond + group, beyond);
    w->quad++;
}

/* What is missing of a block's weights. */
static void weigh_rest(struct call *c)
{
    struct weighing w = c->weighing;
    while (w.quad < w.quads) {
        __m512i pair[QUADS], beyond;
        UNROLL
        for (int i = 0; i < QUADS; i++)
            weigh_pair(&w, i, pair, &beyond);
        weigh_turn(&w, pair, beyond);
    }
    c->weighing = w;
}

/* --- stages ---------------------------------------------------------------------------------- */

/* A block of a unit; unit NULL: none. */
struct job {
    const struct unit *unit;
    int block;
    float *scores; /* [UNIT][BLOCK][16] */
};

static void score_block(struct call *c, struct job j)
{
    const int n = j.unit->n;
    struct operand q[UNIT];
    struct sums *to = sums_next(c, 2 * n);
    size_t query = kern_attn_query_bytes(c->p->dk);
    for (int i = 0; i < n; i++) {
        const struct group *g = &c->groups[j.unit->first + i];
        q[i] = (struct operand){(const unsigned char *)c->p->q + (size_t)g->index * query, 64, TILE_BYTES};
        to->to[i] = j.scores + i * BLOCK_SCORES;
        to->to[n + i] = to->to[i] + 16 * KERN_LANES;
        to->stride[i] = to->stride[n + i] = 64;
    }
    fetch_pace(c, 2 * c->k_steps);
    score_products(c, n, &c->keys[2 * j.block], q);
}

/* Its scores are there: on to its weights. */
static void weigh_block(struct call *c, struct job j)
{
    c->weighing.quads = c->weighing.quad = 0;
    if (!j.unit)
        return;
    const int first = j.unit->first;
    for (int i = 0; i < j.unit->n; i++) {
        struct group *g = &c->groups[first + i];
        float *scores = j.scores + i * BLOCK_SCORES;
        if ((j.block + 1) * BLOCK > g->least)
            block_mask(g, scores, j.block);
        if (j.block > 0)
            continue;
        if (!g->known)
            g->m = _mm512_maskz_mov_ps(group_lanes(g), weights_top(block_maximum(scores)));
        _mm512_store_ps(c->shift + (first + i) * KERN_LANES, weights_shift(g->m));
        memset(c->parts + (size_t)(first + i) * KERN_LANES * KERN_LANES, 0, TILE_BYTES);
        c->beyond[first + i] = _mm512_setzero_si512();
    }
    c->weighing = (struct weighing){
        .quads = j.unit->n * QUADS, .scores = j.scores, .shift = c->shift + first * KERN_LANES,
        .to = c->weights + (size_t)first * GROUP_WEIGHTS + (size_t)j.block * TILE_BYTES,
        .parts = c->parts + (size_t)first * KERN_LANES * KERN_LANES, .beyond = c->beyond + first};
}

/* Rows of a block as operands. */
static void take_block(struct call *c, int b)
{
    struct fetching *f = &c->fetching;
    for (int h = 0; h < 2; h++)
        take_rows(c, b * BLOCK + KERN_LANES * h);
    if (!c->p->fetched) {
        int near = (b + 3) * BLOCK < c->p->n_rows ? (b + 3) * BLOCK : c->p->n_rows;
        f->due = (int64_t)near * (int64_t)c->p->format.row_bytes / 64;
    }
}

/* Weights of all units; with the first one rows are taken. A block's scores are stored with the products of
 * the next one, and weighed beside those behind. */
static void weigh_units(struct call *c, bool take)
{
    struct job last = {0}, last_but_one = {0};
    int slot = 0;
    for (int i = 0; i < c->n_units; i++) {
        const struct unit *u = &c->units[i];
        for (int b = 0; b < (i == 0 ? c->n_blocks : u->steps); b++) {
            if (take && i == 0)
                take_block(c, b);
            if (b >= u->steps)
                continue;
            struct job j = {u, b, c->scores + (size_t)slot * UNIT * BLOCK_SCORES};
            slot = (slot + 1) % SCORE_BLOCKS;
            weigh_block(c, last_but_one);
            score_block(c, j);
            weigh_rest(c);
            last_but_one = last;
            last = j;
        }
    }
    products_wait(c);
    weigh_block(c, last_but_one);
    weigh_rest(c);
    weigh_block(c, last);
    weigh_rest(c);
}

static __m512 group_sum(const struct call *c, int i)
{
    return weights_sums(c->parts + (size_t)i * KERN_LANES * KERN_LANES);
}

/* The largest scores of those lanes whose weights are too large become their m; false: there are none. */
static bool weights_fail(struct call *c)
{
    __mmask16 fail[ATTN_MAX_GROUPS], any = 0;
    __m512 top[ATTN_MAX_GROUPS];
    for (int i = 0; i < c->n_groups; i++) {
        fail[i] = weights_beyond(c->beyond[i], group_sum(c, i)) & group_lanes(&c->groups[i]);
        any |= fail[i];
        top[i] = _mm512_set1_ps(-INFINITY);
    }
    if (!any)
        return false;
    c->weighing.quads = c->weighing.quad = 0;
    for (int i = 0; i < c->n_units; i++) {
        const struct unit *u = &c->units[i];
        for (int b = 0; b < u->steps; b++) {
            score_block(c, (struct job){u, b, c->scores});
            products_wait(c);
            for (int k = 0; k < u->n; k++) {
                float *scores = c->scores + k * BLOCK_SCORES;
                block_mask(&c->groups[u->first + k], scores, b);
                top[u->first + k] = _mm512_max_ps(block_maximum(scores), top[u->first + k]);
            }
        }
    }
    for (int i = 0; i < c->n_groups; i++) {
        struct group *g = &c->groups[i];
        g->m = _mm512_mask_mov_ps(g->m, fail[i], weights_top(top[i]));
        g->known = true;
    }
    return true;
}

/* m and l of the call. */
static void groups_answer(const struct call *c)
{
    for (int i = 0; i < c->n_groups; i++) {
        const struct group *g = &c->groups[i];
        __m512 m = _mm512_mask_blend_ps(group_lanes(g), _mm512_set1_ps(-INFINITY), weights_m(g->m));
        _mm512_storeu_ps(c->p->m + g->index * KERN_LANES, m);
        _mm512_storeu_ps(c->p->l + g->index * KERN_LANES, group_sum(c, i));
    }
}

/* Results of a unit that have no place yet, [n][16][STRIP]. Strips take turns: those of one are placed when
 * the next one's are being made. */
static float *unit_out(const struct call *c, const struct unit *u, int strip)
{
    return c->out + (size_t)(strip % 2 * c->n_groups + u->first) * KERN_LANES * STRIP;
}

static void value_unit(struct call *c, const struct unit *u, const struct part *part, const struct part *next)
{
    const struct attn_piece *p = c->p;
    int steps = u->steps - part->first < PART ? u->steps - part->first : PART;
    bool last = part->first + steps == u->steps;
    struct sums *to = sums_next(c, 2 * u->n);
    for (int i = 0; i < u->n; i++) {
        const struct group *g = &c->groups[u->first + i];
        bool direct = last && g->direct;
        float *place = p->o + (size_t)g->index * KERN_LANES * p->o_stride + STRIP * part->strip;
        to->to[2 * i] = direct ? place : unit_out(c, u, part->strip) + i * KERN_LANES * STRIP;
        to->to[2 * i + 1] = to->to[2 * i] + KERN_LANES;
        to->stride[2 * i] = to->stride[2 * i + 1] = 4 * (direct ? p->o_stride : STRIP);
    }
    fetch_pace(c, 2 * steps);
    const unsigned char *weights = c->weights + (size_t)u->first * GROUP_WEIGHTS;
    value_products(c, u->n, weights + (size_t)part->first * TILE_BYTES, steps, next,
                   part->first > 0 ? unit_out(c, u, part->strip) : NULL);
}

/* Results that did not go to their place. */
static void place_results(const struct call *c, const struct unit *u, int strip)
{
    const struct attn_piece *p = c->p;
    int left = p->dv - STRIP * strip, n = left < STRIP ? left : STRIP;
    for (int i = 0; i < u->n; i++) {
        const struct group *g = &c->groups[u->first + i];
        const float *from = unit_out(c, u, strip) + i * KERN_LANES * STRIP;
        for (int lane = 0; lane < KERN_LANES && !g->direct; lane++)
            if (g->limit[lane] > 0)
                memcpy(p->o + (size_t)(g->index * KERN_LANES + lane) * p->o_stride + STRIP * strip,
                       from + lane * STRIP, (size_t)n * sizeof(float));
    }
}

/* The part behind this one. */
static struct part part_next(const struct call *c, struct part p)
{
    p.first += PART;
    if (p.first >= c->n_blocks) {
        p.first = 0;
        p.strip++;
    }
    p.n = c->n_blocks - p.first < PART ? c->n_blocks - p.first : PART;
    return p;
}

static void values(struct call *c)
{
    struct part part = {0, 0, c->n_blocks < PART ? c->n_blocks : PART};
    const struct unit *before = NULL; /* of the run before, where that ended its sums */
    int strip_before = 0;
    turn_rest(c, &part);
    while (part.strip < c->strips) {
        struct part next = part_next(c, part);
        int last = c->n_units - 1;
        while (c->units[last].steps <= part.first)
            last--;
        for (int i = 0; i <= last; i++) {
            const struct unit *u = &c->units[i];
            if (u->steps <= part.first)
                continue;
            value_unit(c, u, &part, i == last && next.strip < c->strips ? &next : NULL);
            if (before)
                place_results(c, before, strip_before);
            before = u->steps <= part.first + PART ? u : NULL;
            strip_before = part.strip;
        }
        if (next.strip < c->strips)
            turn_rest(c, &next);
        part = next;
    }
    products_wait(c);
    place_results(c, before, strip_before);
}

/* --- a call ------------------------------------------------------------------------------------ */

/* Groups that see something; the others get their empty result. */
static void open_groups(struct call *c)
{
    const struct attn_piece *p = c->p;
    for (int i = 0; i < p->n_groups; i++) {
        struct group *g = &c->groups[c->n_groups];
        *g = (struct group){.index = i, .least = p->n_rows, .direct = p->dv % STRIP == 0};
        for (int lane = 0; lane < KERN_LANES; lane++) {
            int n = p->limit[i * KERN_LANES + lane];
            n = n < 0 ? 0 : n > p->n_rows ? p->n_rows : n;
            g->limit[lane] = n;
            g->least = n < g->least ? n : g->least;
            g->seen = n > g->seen ? n : g->seen;
        }
        g->direct = g->direct && g->least > 0;
        c->n = g->seen > c->n ? g->seen : c->n;
        if (g->seen > 0) {
            c->n_groups++;
            continue;
        }
        for (int lane = 0; lane < KERN_LANES; lane++) {
            p->m[i * KERN_LANES + lane] = -INFINITY;
            p->l[i * KERN_LANES + lane] = 0.0f;
        }
    }
    c->n_blocks = (c->n + BLOCK - 1) / BLOCK;
}

/* Two groups each, as their products leave time for all weights of the two before, or the last three. */
static void open_units(struct call *c)
{
    for (int i = 0; i < c->n_groups;) {
        struct unit *u = &c->units[c->n_units++];
        int left = c->n_groups - i, most = left == UNIT ? UNIT : 2;
        *u = (struct unit){.first = i, .n = left < most ? left : most};
        for (int k = 0; k < u->n; k++) {
            int steps = (c->groups[i + k].seen + BLOCK - 1) / BLOCK;
            u->steps = steps > u->steps ? steps : u->steps;
        }
        i += u->n;
    }
}

static void open_fetching(struct call *c)
{
    const struct attn_piece *p = c->p;
    struct fetching *f = &c->fetching;
    f->row = p->n_rows;
    f->stop = p->n_rows + p->n_ahead;
    for (int i = 0; i < c->n_units; i++)
        f->paces += 2 * (int64_t)c->units[i].steps * (c->k_steps + c->strips);
    if (!p->fetched) {
        f->row = p->n_rows < 2 * BLOCK ? p->n_rows : 2 * BLOCK;
        f->fetched = (int64_t)f->row * (int64_t)p->format.row_bytes / 64;
        fetch_rows(p, 0, f->row);
    }
    fetch_page(p, f);
}

static void open_scratch(struct call *c)
{
    unsigned char *at = c->p->scratch;
    size_t rows = (size_t)c->n_blocks * BLOCK;
    c->k_steps = (c->p->dk + 31) / 32;
    c->strips = (c->p->dv + STRIP - 1) / STRIP;
    c->key_stride = (size_t)c->k_steps * 64;
    c->value_stride = (size_t)c->strips * 64;
    c->strip = at;
    at += PART * 2 * TILE_BYTES;
    c->out = (float *)(void *)at;
    at += (size_t)2 * (size_t)c->n_groups * KERN_LANES * STRIP * sizeof(float);
    c->nowhere = (float *)(void *)at;
    at += TILE_BYTES;
    c->zeros = at;
    at += c->value_stride;
    c->weights = at;
    at += (size_t)c->n_groups * GROUP_WEIGHTS;
    c->scores = (float *)(void *)at;
    at += SCORE_BLOCKS * UNIT * BLOCK_SCORES * sizeof(float);
    c->parts = (float *)(void *)at;
    at += (size_t)c->n_groups * TILE_BYTES;
    c->shift = (float *)(void *)at;
    at += (size_t)c->n_groups * KERN_LANES * sizeof(float);
    c->value_copies = at;
    at += ATTN_PIECE * c->value_stride;
    c->key_copies = at;
    memset(c->zeros, 0, c->value_stride);
    /* what lies beyond the elements of copied rows counts as zero */
    if (c->p->dk % 32)
        memset(c->key_copies, 0, rows * c->key_stride);
    if (c->p->dv % 32)
        memset(c->value_copies, 0, rows * c->value_stride);
}

static void attn_piece(const struct attn_piece *p)
{
    struct call c = {.p = p};
    open_groups(&c);
    if (c.n_groups == 0)
        return;
    open_scratch(&c);
    open_units(&c);
    open_fetching(&c);
    products_begin(&c);
    weigh_units(&c, true);
    if (weights_fail(&c))
        weigh_units(&c, false);
    groups_answer(&c);
    values(&c);
    products_end();
}

#endif
