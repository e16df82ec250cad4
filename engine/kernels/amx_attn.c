/* engine/kernels/amx_attn.c - attention over a piece of the context on AMX tiles, in bfloat16.
 *
 * Groups of lanes are taken in units of two (or one, or three, when their number is odd). First all
 * scores, a block of 32 rows after the other: the rows as they lie are the left operand, the packed
 * queries the right one; the block's values are put away as right operands (pairs of rows side by
 * side) while its rows are in the nearest cache. Then, unit by unit: weights exp(s - m) as left
 * operands, and their product with the values. Vector work is cut into slices between runs of tile
 * products, so that the processor does both at a time: the values of a block and the copies of the
 * next one beside scores, one unit's weights beside the products of the unit before. Rows are fetched
 * ahead all the while, those of the next call (n_ahead) too.
 *
 * Scores are in units of log 2. A step of the value product takes 32 rows; pair r of it is rows r and
 * 16 + r, which spares a shuffle. What a lane does not see has weight 0 and adds 0 exactly, so that its
 * sums are the same whatever its unit. Rows beyond the last that any lane sees count as zeros among
 * the values; as keys they may be anything, as each score depends on its own row only. */
#include "config.h"

#include <math.h>

#include "engine/kernels/amx_rows.h"
#include "engine/kernels/amx_tiles.h"

#define BLOCK 32                      /* rows of a block, and of a step of the value product */
#define MAX_STEPS (ATTN_PIECE / BLOCK)
#define UNIT 3                        /* most groups of a unit */
#define GROUP_SCORES ((size_t)ATTN_PIECE * KERN_LANES)
#define GROUP_WEIGHTS ((size_t)MAX_STEPS * TILE_BYTES)
/* One column of value tiles; a line more, for columns would else meet in the same sets of the caches. */
#define VALUE_COLUMN ((size_t)MAX_STEPS * TILE_BYTES + 64)
#define SCORE_STEPS 6                 /* of a run of score products */
/* Steps of a run of value products: what it takes from the weights stays in the nearest cache. */
#define VALUE_STEPS 8

struct group {
    int index;               /* of the call */
    int least, seen;         /* smallest and largest limit of its lanes, within 0 .. n */
    int direct;              /* results go straight to their place */
    int32_t limit[KERN_LANES];
    float m[KERN_LANES];     /* of log 2; 0 where nothing is seen */
};

struct unit {
    int first, n, seen, steps;
};

struct call {
    const struct attn_piece *p;
    int n;                   /* rows that any lane sees */
    int k_steps, v_columns;  /* steps of the score product; columns of 16 values, even */
    int n_groups, n_units;
    struct group groups[ATTN_MAX_GROUPS]; /* those that see something */
    struct unit units[ATTN_MAX_GROUPS];
    size_t key_stride, value_stride; /* bytes of the copies of a block's rows */
    unsigned char *keys, *values; /* of two blocks */
    unsigned char *columns;  /* [v_columns], VALUE_COLUMN apart */
    unsigned char *weights;  /* of two units */
    float *scores;           /* [n_groups][ATTN_PIECE][16] */
    float *out;              /* [UNIT][16][16 v_columns] */
    int ahead;               /* next row to fetch for the next call */
};

/* --- queries ----------------------------------------------------------------------------------- */

static void attn_pack(const float *const *q, int dk, float scale, void *dst)
{
    __m512 factor = _mm512_set1_ps(scale * 1.44269504088896341f);
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

static void fetch_rows(const struct attn_piece *p, int lo, int hi)
{
    for (int t = lo; t < hi; t++) {
        const unsigned char *row = attn_row(p, t);
        const unsigned char *end = row + p->format.row_bytes;
        for (row -= (uintptr_t)row & 63; row < end; row += 64)
            _mm_prefetch((const char *)row, _MM_HINT_T1);
    }
}

/* One block of rows: where its keys and values are. */
struct block {
    struct operand keys[2];                /* 16 rows each */
    const unsigned char *values[BLOCK];    /* v_columns * 16 of bfloat16 each; NULL: zeros */
    unsigned char *to;                     /* its step in column 0 */
};

/* Where 16 rows from t0 are left operands as they lie. */
static int keys_lie_well(const struct call *c, int t0)
{
    const struct attn_piece *p = c->p;
    return p->format.type == TT_BF16 && p->dk % 32 == 0 &&
           (p->first + t0) % p->page_tokens + 16 <= p->page_tokens;
}

/* Rows [lo, hi) of block b, copied where they are not operands as they lie. */
static void block_rows(const struct call *c, int b, struct block *blk, int lo, int hi)
{
    const struct attn_piece *p = c->p;
    const struct row_format *f = &p->format;
    int inside = p->v_off >= p->k_off && p->v_off + p->dv <= p->k_off + p->dk;
    unsigned char *keys = c->keys + (size_t)(b % 2) * BLOCK * c->key_stride;
    unsigned char *values = c->values + (size_t)(b % 2) * BLOCK * c->value_stride;
    blk->to = c->columns + (size_t)b * TILE_BYTES;
    for (int i = lo; i < hi; i++) {
        int t = b * BLOCK + i, t0 = t - i % 16, well = keys_lie_well(c, t0);
        struct operand *o = &blk->keys[i / 16];
        if (t0 >= c->n) {
            *o = blk->keys[0]; /* nobody looks at these scores */
        } else if (i % 16 == 0) {
            *o = (struct operand){keys + (size_t)i * c->key_stride, c->key_stride, 64};
            if (well)
                *o = (struct operand){attn_row(p, t0) + 2 * (size_t)p->k_off, f->row_bytes, 64};
        }
        blk->values[i] = NULL;
        if (t >= c->n)
            continue;
        const unsigned char *row = attn_row(p, t);
        unsigned char *key = keys + (size_t)i * c->key_stride;
        if (!well)
            row_to_bf16(f, row, p->k_off, p->k_off + p->dk, (uint16_t *)(void *)key);
        if (f->type == TT_BF16 && p->dv % 32 == 0) {
            blk->values[i] = row + 2 * (size_t)p->v_off;
        } else if (f->type != TT_BF16 && inside && p->dv % 32 == 0) {
            blk->values[i] = key + 2 * (size_t)(p->v_off - p->k_off);
        } else {
            unsigned char *value = values + (size_t)i * c->value_stride;
            row_to_bf16(f, row, p->v_off, p->v_off + p->dv, (uint16_t *)(void *)value);
            blk->values[i] = value;
        }
    }
}

/* Pairs [lo, hi) of a block into the columns. */
static void block_values(const struct call *c, const struct block *blk, int lo, int hi)
{
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), zero = _mm512_setzero_si512();
    for (int r = lo; r < hi; r++) {
        const unsigned char *a = blk->values[r], *b = blk->values[16 + r];
        unsigned char *to = blk->to + 64 * r;
        for (int j = 0; j < c->v_columns; j += 2, to += 2 * VALUE_COLUMN) {
            __m512i x = zero, y = zero;
            if (a)
                x = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(a + 32 * j));
            if (b)
                y = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(b + 32 * j));
            _mm512_store_si512(to, _mm512_unpacklo_epi16(x, y));
            _mm512_store_si512(to + VALUE_COLUMN, _mm512_unpackhi_epi16(x, y));
        }
    }
}

/* --- scores ------------------------------------------------------------------------------------ */

/* Vector work and fetching beside the scores of a block, cut into slices. */
struct beside {
    int b, n_blocks;
    struct block *now, *next;
    int near, near_n, far, far_n; /* rows to fetch */
    int done, slice, n_slices;
};

static void beside_slice(const struct call *c, struct beside *s)
{
    int i = s->done, j = ++s->slice, n = s->n_slices;
    s->done = j;
    fetch_rows(c->p, s->near + s->near_n * i / n, s->near + s->near_n * j / n);
    fetch_rows(c->p, s->far + s->far_n * i / n, s->far + s->far_n * j / n);
    block_values(c, s->now, 16 * i / n, 16 * j / n);
    if (s->b + 1 < s->n_blocks)
        block_rows(c, s->b + 1, s->next, BLOCK * i / n, BLOCK * j / n);
}

/* Scores of one block for a unit. */
static void score_unit(const struct call *c, const struct unit *u, struct beside *s)
{
    struct operand q[UNIT];
    const struct operand *keys = s->now->keys;
    float *to[2 * UNIT];
    static const size_t stride[2 * UNIT] = {64, 64, 64, 64, 64, 64};
    size_t query = kern_attn_query_bytes(c->p->dk);
    for (int i = 0; i < u->n; i++) {
        const struct group *g = &c->groups[u->first + i];
        q[i] = (struct operand){(const unsigned char *)c->p->q + (size_t)g->index * query, 64, TILE_BYTES};
        to[i] = c->scores + (size_t)(u->first + i) * GROUP_SCORES + (size_t)s->b * BLOCK * KERN_LANES;
        to[u->n + i] = to[i] + 16 * KERN_LANES;
    }
    tiles_fence();
    sums_clear(6);
    for (int k = 0; k < c->k_steps; k += SCORE_STEPS) {
        int n = c->k_steps - k < SCORE_STEPS ? c->k_steps - k : SCORE_STEPS;
        if (u->n == 1)
            multiply_2x1(keys, q, k, n);
        else if (u->n == 2)
            multiply_2x2(keys, q, k, n);
        else
            multiply_2x3(keys, q, k, n);
        beside_slice(c, s);
    }
    if (u->n == 1)
        sums_store(2, to, stride);
    else if (u->n == 2)
        sums_store(4, to, stride);
    else
        sums_store(6, to, stride);
    tiles_fence();
}

static void score_all(struct call *c)
{
    int n_blocks = (c->n + BLOCK - 1) / BLOCK, half = c->n / 2, far = half;
    int runs = (c->k_steps + SCORE_STEPS - 1) / SCORE_STEPS;
    struct block blocks[2];
    fetch_rows(c->p, 0, 2 * BLOCK < half ? 2 * BLOCK : half);
    block_rows(c, 0, &blocks[0], 0, BLOCK);
    for (int b = 0; b < n_blocks; b++) {
        struct beside s = {.b = b, .n_blocks = n_blocks, .now = &blocks[b % 2], .next = &blocks[(b + 1) % 2],
                           .n_slices = c->n_units * runs};
        /* Rows of the first half soon enough, if the call before has not; those of the second early, at an
         * even pace. */
        int near = (b + 2) * BLOCK, near_end = near + BLOCK < half ? near + BLOCK : half;
        int far_end = half + (b + 1) * (c->n - half) / (n_blocks > 4 ? n_blocks - 2 : n_blocks);
        far_end = far_end < c->n ? far_end : c->n;
        s.near = near, s.near_n = near_end > near ? near_end - near : 0;
        s.far = far, s.far_n = far_end - far;
        for (int u = 0; u < c->n_units; u++) {
            if (b * BLOCK < c->units[u].seen)
                score_unit(c, &c->units[u], &s);
            s.slice = (u + 1) * runs;
        }
        if (s.done < s.n_slices) {
            s.slice = s.n_slices - 1;
            beside_slice(c, &s);
        }
        far = far_end;
    }
}

/* --- weights ----------------------------------------------------------------------------------- */

/* The weights of a unit in the making, a slice at a time: one step of one group. */
struct weighing {
    const struct unit *u;
    unsigned char *to;     /* [u->n][MAX_STEPS] tiles */
    int next, end;
    __m512 l[2];           /* of rows r and 16 + r */
};

/* 2^x for x <= 0, exactly 1 at 0, within 5 ulp, 0 below -126; NaN gives 0. */
INLINE __m512 exp2_negative(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(12582912.0f); /* 1.5 * 2^23: rounds, n in the low bits */
    __m512 n = _mm512_add_ps(x, magic), r = _mm512_sub_ps(x, _mm512_sub_ps(n, magic));
    __m512 e = _mm512_set1_ps(0.00133813021f);
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.00966636837f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.0555038117f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.240223497f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.693147182f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f));
    __mmask16 some = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_GE_OQ);
    return _mm512_castsi512_ps(_mm512_maskz_add_epi32(
        some, _mm512_castps_si512(e), _mm512_slli_epi32(_mm512_castps_si512(n), 23)));
}

/* The largest score of each lane, and m of the call. */
static void group_maximum(const struct call *c, struct group *g, const float *s)
{
    __m512 none = _mm512_set1_ps(-INFINITY), a = none, b = none;
    __m512i limit = _mm512_loadu_si512(g->limit);
    int t = 0;
    for (; t + 2 <= g->least; t += 2, s += 2 * KERN_LANES) {
        a = _mm512_max_ps(_mm512_loadu_ps(s), a);
        b = _mm512_max_ps(_mm512_loadu_ps(s + KERN_LANES), b);
    }
    for (; t < g->seen; t++, s += KERN_LANES) {
        __mmask16 sees = _mm512_cmpgt_epi32_mask(limit, _mm512_set1_epi32(t));
        a = _mm512_mask_max_ps(a, sees, _mm512_loadu_ps(s), a);
    }
    a = _mm512_max_ps(a, b);
    __mmask16 any = _mm512_cmpgt_epi32_mask(limit, _mm512_setzero_si512());
    _mm512_storeu_ps(g->m, _mm512_maskz_mov_ps(any, a));
    _mm512_storeu_ps(c->p->m + g->index * KERN_LANES,
                     _mm512_mask_blend_ps(any, none, _mm512_mul_ps(a, _mm512_set1_ps(0.693147181f))));
}

/* One step of one group: 32 rows of scores become a left operand, pair r of a lane being bfloat16 of the
 * weights of rows r and 16 + r. */
INLINE void group_weights(const struct group *g, const float *s, int t0, const int masked, __m512 *l,
                          unsigned char *to)
{
    __m512 m = _mm512_loadu_ps(g->m), sum[2] = {l[0], l[1]};
    __m512i limit = _mm512_loadu_si512(g->limit), r[16];
    const __m512i half = _mm512_set1_epi32(0x8000);
    s += (size_t)t0 * KERN_LANES;
    UNROLL
    for (int i = 0; i < 16; i++) {
        __m512 e[2];
        UNROLL
        for (int h = 0; h < 2; h++) {
            e[h] = exp2_negative(_mm512_sub_ps(_mm512_loadu_ps(s + (16 * h + i) * KERN_LANES), m));
            if (masked)
                e[h] = _mm512_maskz_mov_ps(
                    _mm512_cmpgt_epi32_mask(limit, _mm512_set1_epi32(t0 + 16 * h + i)), e[h]);
            sum[h] = _mm512_add_ps(sum[h], e[h]);
        }
        /* rounded to nearest, ties up: weights are not negative */
        __m512i a = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(e[0]), half), 16);
        r[i] = _mm512_mask_blend_epi16(0xaaaaaaaa, a, _mm512_add_epi32(_mm512_castps_si512(e[1]), half));
    }
    transpose_16x16(r);
    UNROLL
    for (int i = 0; i < 16; i++)
        _mm512_store_si512(to + 64 * i, r[i]);
    l[0] = sum[0];
    l[1] = sum[1];
}

static void weigh(struct call *c, struct weighing *w, int n)
{
    for (; n > 0 && w->next < w->end; n--, w->next++) {
        int i = w->next / w->u->steps, step = w->next % w->u->steps;
        struct group *g = &c->groups[w->u->first + i];
        const float *s = c->scores + (size_t)(w->u->first + i) * GROUP_SCORES;
        unsigned char *to = w->to + (size_t)i * GROUP_WEIGHTS + (size_t)step * TILE_BYTES;
        if (step == 0) {
            group_maximum(c, g, s);
            w->l[0] = w->l[1] = _mm512_setzero_ps();
        }
        if ((step + 1) * BLOCK <= g->least)
            group_weights(g, s, step * BLOCK, 0, w->l, to);
        else
            group_weights(g, s, step * BLOCK, 1, w->l, to);
        if (step == w->u->steps - 1)
            _mm512_storeu_ps(c->p->l + g->index * KERN_LANES, _mm512_add_ps(w->l[0], w->l[1]));
    }
}

/* --- values ------------------------------------------------------------------------------------ */

/* Columns j and j + 1 of the result of a unit, steps k0 .. k0 + n; `out` is where column 0 goes. */
static void value_run(const struct call *c, const struct unit *u, const unsigned char *weights, int j,
                      int k0, int n, float *const *out, const size_t *stride)
{
    struct operand left[UNIT], right[2];
    float *to[2 * UNIT];
    size_t to_stride[2 * UNIT];
    for (int i = 0; i < u->n; i++) {
        left[i] = (struct operand){weights + (size_t)i * GROUP_WEIGHTS, 64, TILE_BYTES};
        for (int h = 0; h < 2; h++) {
            to[2 * i + h] = out[i] + (j + h) * KERN_LANES;
            to_stride[2 * i + h] = stride[i];
        }
    }
    for (int h = 0; h < 2; h++)
        right[h] = (struct operand){c->columns + (size_t)(j + h) * VALUE_COLUMN, 64, TILE_BYTES};
    tiles_fence();
    switch (u->n) {
    case 1:
        k0 ? sums_load(2, to, to_stride) : sums_clear(2);
        multiply_1x2(left, right, k0, n);
        sums_store(2, to, to_stride);
        break;
    case 2:
        k0 ? sums_load(4, to, to_stride) : sums_clear(4);
        multiply_2x2(left, right, k0, n);
        sums_store(4, to, to_stride);
        break;
    default:
        k0 ? sums_load(6, to, to_stride) : sums_clear(6);
        multiply_3x2(left, right, k0, n);
        sums_store(6, to, to_stride);
    }
    tiles_fence();
}

/* The first half of the next call's rows is fetched at an even pace beside the weights of the first
 * unit (stage 0) and the results of each: `stage` is at `run` of `runs`. */
static void fetch_ahead(struct call *c, int stage, int run, int runs)
{
    int end = c->p->n_ahead / 2 * (stage * runs + run) / ((c->n_units + 1) * runs);
    fetch_rows(c->p, c->p->n_rows + c->ahead, c->p->n_rows + end);
    c->ahead = end;
}

/* The results of a unit, the weights of the next one on the way. */
static void value_unit(struct call *c, int index, struct weighing *next)
{
    const struct attn_piece *p = c->p;
    const struct unit *u = &c->units[index];
    size_t room = (size_t)c->v_columns * KERN_LANES;
    const unsigned char *weights = c->weights + (size_t)(index % 2) * UNIT * GROUP_WEIGHTS;
    float *out[UNIT];
    size_t stride[UNIT];
    for (int i = 0; i < u->n; i++) {
        const struct group *g = &c->groups[u->first + i];
        out[i] = g->direct ? p->o + (size_t)g->index * KERN_LANES * p->o_stride
                           : c->out + (size_t)i * KERN_LANES * room;
        stride[i] = 4 * (g->direct ? p->o_stride : room);
    }
    int runs = (u->steps + VALUE_STEPS - 1) / VALUE_STEPS * c->v_columns / 2;
    int slice = (next->end - next->next + runs - 1) / runs, run = 0;
    for (int k = 0; k < u->steps; k += VALUE_STEPS) {
        int n = u->steps - k < VALUE_STEPS ? u->steps - k : VALUE_STEPS;
        for (int j = 0; j < c->v_columns; j += 2) {
            fetch_ahead(c, index + 1, ++run, runs);
            value_run(c, u, weights, j, k, n, out, stride);
            weigh(c, next, slice);
        }
    }
    for (int i = 0; i < u->n; i++) {
        const struct group *g = &c->groups[u->first + i];
        for (int lane = 0; lane < KERN_LANES && !g->direct; lane++)
            if (g->limit[lane] > 0)
                memcpy(p->o + (size_t)(g->index * KERN_LANES + lane) * p->o_stride,
                       out[i] + (size_t)lane * room, (size_t)p->dv * sizeof(float));
    }
}

static void value_all(struct call *c)
{
    struct weighing w = {.end = 0};
    for (int u = 0; u <= c->n_units; u++) {
        if (u < c->n_units) {
            w.u = &c->units[u];
            w.to = c->weights + (size_t)(u % 2) * UNIT * GROUP_WEIGHTS;
            w.next = 0;
            w.end = w.u->n * w.u->steps;
        }
        if (u > 0) {
            value_unit(c, u - 1, &w);
            continue;
        }
        while (w.next < w.end) { /* nothing to do it beside */
            fetch_ahead(c, 0, w.next + 1, w.end);
            weigh(c, &w, 1);
        }
    }
}

/* --- a call ------------------------------------------------------------------------------------ */

/* Groups that see something, in units; the others get their empty result. */
static void open_groups(struct call *c)
{
    const struct attn_piece *p = c->p;
    for (int i = 0; i < p->n_groups; i++) {
        struct group *g = &c->groups[c->n_groups];
        *g = (struct group){.index = i, .least = p->n_rows, .direct = p->dv % 32 == 0};
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
    for (int i = 0; i < c->n_groups;) {
        struct unit *u = &c->units[c->n_units++];
        int left = c->n_groups - i;
        *u = (struct unit){.first = i, .n = left == 1 ? 1 : left % 2 ? 3 : 2};
        for (int k = 0; k < u->n; k++)
            u->seen = c->groups[i + k].seen > u->seen ? c->groups[i + k].seen : u->seen;
        u->steps = (u->seen + BLOCK - 1) / BLOCK;
        i += u->n;
    }
}

static void open_scratch(struct call *c)
{
    unsigned char *at = c->p->scratch;
    c->k_steps = (c->p->dk + 31) / 32;
    c->v_columns = (c->p->dv + 31) / 32 * 2;
    c->key_stride = (size_t)c->k_steps * 64;
    c->value_stride = (size_t)c->v_columns * 32;
    c->columns = at;
    at += (size_t)c->v_columns * VALUE_COLUMN;
    c->weights = at;
    at += 2 * UNIT * GROUP_WEIGHTS;
    c->scores = (float *)(void *)at;
    at += (size_t)c->n_groups * GROUP_SCORES * sizeof(float);
    c->out = (float *)(void *)at;
    at += (size_t)UNIT * KERN_LANES * (size_t)c->v_columns * KERN_LANES * sizeof(float);
    c->keys = at;
    at += 2 * BLOCK * c->key_stride;
    c->values = at;
    /* what lies beyond the elements of copied rows counts as zero */
    if (c->p->dk % 32)
        memset(c->keys, 0, 2 * BLOCK * c->key_stride);
    if (c->p->dv % 32)
        memset(c->values, 0, 2 * BLOCK * c->value_stride);
}

static void attn_piece(const struct attn_piece *p)
{
    struct call c = {.p = p};
    open_groups(&c);
    if (c.n_groups == 0)
        return;
    open_scratch(&c);
    tiles_configure();
    score_all(&c);
    value_all(&c);
    _tile_release();
}

void kern__init_amx_attention(struct kernels *t)
{
    t->attn_pack = attn_pack;
    t->attn_piece = attn_piece;
}
