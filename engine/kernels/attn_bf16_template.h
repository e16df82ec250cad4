/* engine/kernels/attn_bf16_template.h - attention over a piece of the context in bfloat16, but for its
 * products: a file that includes this one makes them with tiles or with vectors, and exports attn_pack
 * and attn_piece. All static.
 *
 * Groups of lanes are taken in units of two (or one, or three), which go through three stages: scores
 * (the rows as they lie are the left operand, packed queries the right one), weights exp(s - m) as left
 * operands, and their product with the values, which are kept as right operands (pairs of rows side by
 * side). Stages of following units overlap: while the scores of a unit are made and the results of the one
 * before the last, the weights of the unit in between can be made, bit by bit (beside), and with the scores
 * of the first unit rows become operands.
 *
 * Operands come from the second-level cache at most half as fast as products would take them, so one side
 * of each stays in the first one: a unit's queries, or its weights; the other streams by. Rows of the next
 * call (n_ahead) are fetched at an even pace.
 *
 * Scores are in units of log 2. A step of the value product takes 32 rows; pair r of it is rows r and
 * 16 + r, which spares a shuffle. What a lane does not see has weight 0 and adds 0 exactly, so that its
 * sums are the same whatever its unit. Rows beyond the last that any lane sees count as zeros among
 * the values; as keys they may be anything, as each score depends on its own row only. */
#ifndef LATENT_ENGINE_KERNELS_ATTN_BF16_TEMPLATE_H
#define LATENT_ENGINE_KERNELS_ATTN_BF16_TEMPLATE_H

#include <math.h>

#include "engine/kernels/avx512_rows.h"

#define BLOCK 32                      /* rows of a block, and of a step of the value product */
#define MAX_STEPS (ATTN_PIECE / BLOCK)
#define UNIT 3                        /* most groups of a unit */
#define GROUP_SCORES ((size_t)ATTN_PIECE * KERN_LANES)
#define GROUP_WEIGHTS ((size_t)MAX_STEPS * TILE_BYTES)
/* What stays in the first-level cache: queries of three groups, or steps of their weights. */
#define QUERY_BYTES (42 << 10)
#define WEIGHT_STEPS 8
/* Steps of the score product between two slices of rows that become operands: their stores wait for the
 * second-level cache. */
#define TURN_STEPS 3
/* Units in whose time the next call's rows come: spread further they would be gone before their use. */
#define AHEAD_UNITS 4

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

/* The weights of a unit in the making. */
struct weighing {
    int left;                /* groups, with the one in hand */
    struct group *g;
    float *scores;           /* of the group */
    unsigned char *to;
    int steps, step, pair;   /* step < 0: largest scores are looked for, step + steps is a block */
    __m512 top, l[2];        /* l: of rows r and 16 + r */
    __m512i pairs[KERN_LANES]; /* of the step in hand, lanes across */
};

/* Rows becoming operands: of block b its values, of the next one its keys. */
struct turning {
    int b, slice, n_slices;  /* slice < n_slices: there is something to do */
    int steps;               /* of the score product since the last slice */
};

struct call {
    const struct attn_piece *p;
    int n;                   /* rows that any lane sees */
    int n_blocks;
    int k_steps, v_columns;  /* steps of the score product; columns of 16 values, even */
    int n_groups, n_units;
    struct group groups[ATTN_MAX_GROUPS]; /* those that see something */
    struct unit units[ATTN_MAX_GROUPS];
    struct operand keys[ATTN_PIECE / KERN_LANES]; /* 16 rows each */
    /* v_columns * 16 of bfloat16 each, of two blocks; NULL: zeros */
    const unsigned char *row_values[2 * BLOCK];
    size_t key_stride, value_stride; /* bytes of copied rows */
    unsigned char *key_copies;   /* of all rows */
    unsigned char *value_copies; /* of two blocks */
    unsigned char *columns;  /* [n_blocks][v_columns] tiles */
    size_t block_bytes;      /* of it: a tile more, or blocks would meet in the same sets of the caches */
    unsigned char *weights;  /* of two units */
    float *scores;           /* of two units: [UNIT][ATTN_PIECE][16] */
    float *out;              /* [UNIT][16][16 v_columns] */
    struct weighing weighing;
    struct turning turning;
    int run, runs, ahead;    /* runs of products, done and in all; rows of the next call fetched */
};

/* --- what the file has that includes this one ---------------------------------------------------- */

static void products_begin(void);
static void products_end(void);
/* Scores of the 32 rows of keys[0] and keys[1] for n groups: to[i] has those of the first 16 rows,
 * to[n + i] of the others, 16 lanes each. Between products weigh may be called while c->weighing.left,
 * or else turn_slice while c->turning.slice < c->turning.n_slices. */
static void score_products(struct call *c, int n, const struct operand *keys, const struct operand *q,
                           float *const *to);
/* Two columns of results of n groups: weights of a group GROUP_WEIGHTS behind the one before, a step
 * TILE_BYTES on; values of the second column TILE_BYTES behind the first, a step block_bytes on.
 * to[2 i + j] gets the sums of group i and column j, rows stride[2 i + j] bytes apart; resume: it has them
 * so far. */
static void value_products(struct call *c, int n, const unsigned char *weights, const unsigned char *values,
                           int steps, bool resume, float *const *to, const size_t *stride);

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
        for (row -= (uintptr_t)row & 63; row < end; row += 128) /* lines come in pairs */
            _mm_prefetch((const char *)row, _MM_HINT_T1);
    }
}

/* Where 16 rows from t0 are left operands as they lie. */
static int keys_lie_well(const struct call *c, int t0)
{
    const struct attn_piece *p = c->p;
    return p->format.type == TT_BF16 && p->dk % 32 == 0 &&
           (p->first + t0) % p->page_tokens + 16 <= p->page_tokens;
}

/* Row i of block b as key and value, copied where it is no operand as it lies. */
static void take_row(struct call *c, int b, int i)
{
    const struct attn_piece *p = c->p;
    const struct row_format *f = &p->format;
    int inside = p->v_off >= p->k_off && p->v_off + p->dv <= p->k_off + p->dk;
    int t = b * BLOCK + i, t0 = t - i % 16, well = keys_lie_well(c, t0), slot = b % 2 * BLOCK + i;
    unsigned char *key = c->key_copies + (size_t)t * c->key_stride;
    struct operand *o = &c->keys[t / 16];
    if (t0 >= c->n)
        *o = c->keys[t0 / 16 - 1]; /* nobody looks at these scores */
    else if (i % 16 == 0 && well)
        *o = (struct operand){attn_row(p, t0) + 2 * (size_t)p->k_off, f->row_bytes, 64};
    else if (i % 16 == 0)
        *o = (struct operand){key, c->key_stride, 64};
    c->row_values[slot] = NULL;
    if (t >= c->n)
        return;
    const unsigned char *row = attn_row(p, t);
    if (!well)
        row_to_bf16(f, row, p->k_off, p->k_off + p->dk, (uint16_t *)(void *)key);
    if (f->type == TT_BF16 && p->dv % 32 == 0) {
        c->row_values[slot] = row + 2 * (size_t)p->v_off;
    } else if (f->type != TT_BF16 && inside && p->dv % 32 == 0) {
        c->row_values[slot] = key + 2 * (size_t)(p->v_off - p->k_off);
    } else {
        unsigned char *value = c->value_copies + (size_t)slot * c->value_stride;
        row_to_bf16(f, row, p->v_off, p->v_off + p->dv, (uint16_t *)(void *)value);
        c->row_values[slot] = value;
    }
}

/* Pairs [lo, hi) of a block's values as rows of right operands. */
static void turn_values(const struct call *c, int b, int lo, int hi)
{
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), zero = _mm512_setzero_si512();
    for (int r = lo; r < hi; r++) {
        const unsigned char *x = c->row_values[b % 2 * BLOCK + r], *y = c->row_values[b % 2 * BLOCK + 16 + r];
        unsigned char *to = c->columns + (size_t)b * c->block_bytes + 64 * r;
        for (int j = 0; j < c->v_columns; j += 2, to += 2 * TILE_BYTES) {
            __m512i u = x ? _mm512_permutexvar_epi64(order, _mm512_loadu_si512(x + 32 * j)) : zero;
            __m512i v = y ? _mm512_permutexvar_epi64(order, _mm512_loadu_si512(y + 32 * j)) : zero;
            _mm512_store_si512(to, _mm512_unpacklo_epi16(u, v));
            _mm512_store_si512(to + TILE_BYTES, _mm512_unpackhi_epi16(u, v));
        }
    }
}

static void turn_slice(struct call *c)
{
    struct turning *t = &c->turning;
    int lo = 16 * t->slice / t->n_slices, hi = 16 * ++t->slice / t->n_slices;
    t->steps = 0;
    turn_values(c, t->b, lo, hi);
    for (int i = 2 * lo; t->b + 1 < c->n_blocks && i < 2 * hi; i++)
        take_row(c, t->b + 1, i);
}

/* --- weights ----------------------------------------------------------------------------------- */

/* 2^x for x <= 0, exactly 1 at 0, within 1.1e-4 of itself: a twentieth of what bfloat16 makes of it. 0 below
 * -127 and for NaN. From -127 to -126 it is no normal number, which products take for 0. */
INLINE __m512 exp2_negative(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(12582912.0f); /* 1.5 * 2^23: rounds, n in the low bits */
    x = _mm512_max_ps(x, _mm512_set1_ps(-127.0f));
    __m512 n = _mm512_add_ps(x, magic), r = _mm512_sub_ps(x, _mm512_sub_ps(n, magic));
    __m512 e = _mm512_set1_ps(0.0550088564f);
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.242210983f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.693282942f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f));
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(e), _mm512_slli_epi32(_mm512_castps_si512(n), 23)));
}

static void weigh_group(struct weighing *w)
{
    const __m512 none = _mm512_set1_ps(-INFINITY);
    w->step = -w->steps;
    w->pair = 0;
    w->top = none;
    w->l[0] = w->l[1] = _mm512_setzero_ps();
}

/* The largest scores of a block; those of rows that a lane does not see are gone afterwards. */
static void block_maximum(struct weighing *w)
{
    const __m512 none = _mm512_set1_ps(-INFINITY);
    int t = (w->step + w->steps) * BLOCK;
    float *s = w->scores + (size_t)t * KERN_LANES;
    __m512 a = w->top, b = none;
    if (t + BLOCK <= w->g->least) {
        for (int i = 0; i < BLOCK; i += 2) {
            a = _mm512_max_ps(_mm512_loadu_ps(s + i * KERN_LANES), a);
            b = _mm512_max_ps(_mm512_loadu_ps(s + (i + 1) * KERN_LANES), b);
        }
    } else {
        __m512i limit = _mm512_loadu_si512(w->g->limit);
        for (int i = 0; i < BLOCK; i++) {
            __mmask16 sees = _mm512_cmpgt_epi32_mask(limit, _mm512_set1_epi32(t + i));
            __m512 x = _mm512_mask_blend_ps(sees, none, _mm512_loadu_ps(s + i * KERN_LANES));
            a = _mm512_max_ps(x, a);
            _mm512_storeu_ps(s + i * KERN_LANES, x);
        }
    }
    w->top = _mm512_max_ps(a, b);
}

/* m of a group, for its weights and for the call. */
static void group_maximum(const struct call *c, struct weighing *w)
{
    struct group *g = w->g;
    __mmask16 any = _mm512_cmpgt_epi32_mask(_mm512_loadu_si512(g->limit), _mm512_setzero_si512());
    _mm512_storeu_ps(g->m, _mm512_maskz_mov_ps(any, w->top));
    _mm512_storeu_ps(c->p->m + g->index * KERN_LANES,
                     _mm512_mask_blend_ps(any, _mm512_set1_ps(-INFINITY),
                                          _mm512_mul_ps(w->top, _mm512_set1_ps(0.693147181f))));
}

/* Rows `pair` and 16 + `pair` of a step: bfloat16 of their weights side by side, for each lane. */
static void pair_weights(struct weighing *w)
{
    const __m512i half = _mm512_set1_epi32(0x8000);
    const float *s = w->scores + (size_t)(w->step * BLOCK + w->pair) * KERN_LANES;
    __m512 m = _mm512_loadu_ps(w->g->m);
    __m512 x = exp2_negative(_mm512_sub_ps(_mm512_loadu_ps(s), m));
    __m512 y = exp2_negative(_mm512_sub_ps(_mm512_loadu_ps(s + 16 * KERN_LANES), m));
    w->l[0] = _mm512_add_ps(w->l[0], x);
    w->l[1] = _mm512_add_ps(w->l[1], y);
    /* rounded to nearest, ties up: weights are not negative */
    __m512i a = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(x), half), 16);
    __m512i b = _mm512_add_epi32(_mm512_castps_si512(y), half);
    w->pairs[w->pair] = _mm512_mask_blend_epi16(0xaaaaaaaa, a, b);
}

/* The pairs of a step become a left operand: a lane a row. */
static void step_weights(const struct weighing *w)
{
    unsigned char *to = w->to + (size_t)w->step * TILE_BYTES;
    __m512i r[KERN_LANES];
    UNROLL
    for (int i = 0; i < KERN_LANES; i++)
        r[i] = w->pairs[i];
    transpose_16x16(r);
    UNROLL
    for (int i = 0; i < KERN_LANES; i++)
        _mm512_store_si512(to + 64 * i, r[i]);
}

/* The next bit of the weights. */
static void weigh(const struct call *c, struct weighing *w)
{
    if (w->step < 0) {
        block_maximum(w);
        if (++w->step == 0)
            group_maximum(c, w);
        return;
    }
    pair_weights(w);
    if (++w->pair < KERN_LANES)
        return;
    step_weights(w);
    w->pair = 0;
    if (++w->step < w->steps)
        return;
    _mm512_storeu_ps(c->p->l + w->g->index * KERN_LANES, _mm512_add_ps(w->l[0], w->l[1]));
    w->left--;
    w->g++;
    w->scores += GROUP_SCORES;
    w->to += GROUP_WEIGHTS;
    weigh_group(w);
}

/* --- stages ---------------------------------------------------------------------------------- */

/* Rows of the next call, at an even pace over the last units of this one. */
static void fetch_ahead(struct call *c)
{
    int few = c->n_units < AHEAD_UNITS ? c->n_units : AHEAD_UNITS, last = c->runs * few / c->n_units;
    int done = ++c->run - (c->runs - last);
    int end = done <= 0 ? 0 : (int)((int64_t)c->p->n_ahead * done / last);
    fetch_rows(c->p, c->p->n_rows + c->ahead, c->p->n_rows + end);
    c->ahead = end;
}

/* Scores of one block for a unit. */
static void score_block(struct call *c, int index, int b)
{
    const struct unit *u = &c->units[index];
    const struct operand *keys = &c->keys[2 * b];
    struct operand q[UNIT];
    float *to[2 * UNIT];
    size_t query = kern_attn_query_bytes(c->p->dk);
    for (int i = 0; i < u->n; i++) {
        const struct group *g = &c->groups[u->first + i];
        q[i] = (struct operand){(const unsigned char *)c->p->q + (size_t)g->index * query, 64, TILE_BYTES};
        to[i] = c->scores + (size_t)(index % 2 * UNIT + i) * GROUP_SCORES + (size_t)b * BLOCK * KERN_LANES;
        to[u->n + i] = to[i] + 16 * KERN_LANES;
    }
    score_products(c, u->n, keys, q, to);
}

/* The first unit's scores, and all rows as operands: in slices beside the products where they need no
 * conversion, which is quicker in one go. */
static void score_first(struct call *c)
{
    int fetch = !c->p->fetched, in_slices = c->p->format.type == TT_BF16;
    if (fetch)
        fetch_rows(c->p, 0, c->n < 2 * BLOCK ? c->n : 2 * BLOCK);
    for (int b = 0; b < c->n_blocks; b++) {
        int near = (b + 2) * BLOCK, end = near + BLOCK < c->n ? near + BLOCK : c->n;
        if (fetch)
            fetch_rows(c->p, near, end);
        for (int i = 0; i < BLOCK && (b == 0 || !in_slices); i++)
            take_row(c, b, i);
        if (in_slices)
            c->turning = (struct turning){b, 0, (c->k_steps + TURN_STEPS - 1) / TURN_STEPS, 0};
        if (b * BLOCK < c->units[0].seen)
            score_block(c, 0, b);
        while (c->turning.slice < c->turning.n_slices)
            turn_slice(c);
        if (!in_slices)
            turn_values(c, b, 0, 16);
        fetch_ahead(c);
    }
}

static void score_unit(struct call *c, int index)
{
    for (int b = 0; b < c->n_blocks; b++) {
        if (b * BLOCK < c->units[index].seen)
            score_block(c, index, b);
        fetch_ahead(c);
    }
}

/* Columns j and j + 1 of the result of a unit, steps k0 .. k0 + n; `out` is where column 0 goes. */
static void value_run(struct call *c, const struct unit *u, const unsigned char *weights, int j, int k0,
                      int n, float *const *out, const size_t *stride)
{
    const unsigned char *left = weights + (size_t)k0 * TILE_BYTES;
    const unsigned char *right = c->columns + (size_t)k0 * c->block_bytes + (size_t)j * TILE_BYTES;
    float *to[2 * UNIT];
    size_t to_stride[2 * UNIT];
    for (int i = 0; i < u->n; i++)
        for (int h = 0; h < 2; h++) {
            to[2 * i + h] = out[i] + (j + h) * KERN_LANES;
            to_stride[2 * i + h] = stride[i];
        }
    value_products(c, u->n, left, right, n, k0 > 0, to, to_stride);
}

/* The results of a unit. */
static void value_unit(struct call *c, int index)
{
    const struct attn_piece *p = c->p;
    const struct unit *u = &c->units[index];
    size_t room = (size_t)c->v_columns * KERN_LANES;
    const unsigned char *weights = c->weights + (size_t)(index % 2) * UNIT * GROUP_WEIGHTS;
    float *out[UNIT];
    size_t stride[UNIT];
    int range = u->n == UNIT ? WEIGHT_STEPS : MAX_STEPS;
    for (int i = 0; i < u->n; i++) {
        const struct group *g = &c->groups[u->first + i];
        out[i] = g->direct ? p->o + (size_t)g->index * KERN_LANES * p->o_stride
                           : c->out + (size_t)i * KERN_LANES * room;
        stride[i] = 4 * (g->direct ? p->o_stride : room);
    }
    for (int k = 0; k < u->steps; k += range) {
        int n = u->steps - k < range ? u->steps - k : range;
        for (int j = 0; j < c->v_columns; j += 2) {
            value_run(c, u, weights, j, k, n, out, stride);
            fetch_ahead(c);
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

/* --- a call ------------------------------------------------------------------------------------ */

/* Groups that see something; the others get their empty result. */
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
}

/* Three groups where their queries stay in the first-level cache, or where one would be left. */
static void open_units(struct call *c)
{
    int stay = UNIT * c->k_steps * TILE_BYTES <= QUERY_BYTES;
    for (int i = 0; i < c->n_groups;) {
        struct unit *u = &c->units[c->n_units++];
        int left = c->n_groups - i, most = left == UNIT || (stay && left > 4) ? UNIT : 2;
        *u = (struct unit){.first = i, .n = left < most ? left : most};
        for (int k = 0; k < u->n; k++)
            u->seen = c->groups[i + k].seen > u->seen ? c->groups[i + k].seen : u->seen;
        u->steps = (u->seen + BLOCK - 1) / BLOCK;
        i += u->n;
    }
    c->n_blocks = (c->n + BLOCK - 1) / BLOCK;
    for (int i = 0; i < c->n_units; i++) {
        const struct unit *u = &c->units[i];
        int ranges = u->n == UNIT ? (u->steps + WEIGHT_STEPS - 1) / WEIGHT_STEPS : 1;
        c->runs += c->n_blocks + ranges * c->v_columns / 2;
    }
}

static void open_scratch(struct call *c)
{
    unsigned char *at = c->p->scratch;
    c->k_steps = (c->p->dk + 31) / 32;
    c->v_columns = (c->p->dv + 31) / 32 * 2;
    c->key_stride = (size_t)c->k_steps * 64;
    c->value_stride = (size_t)c->v_columns * 32;
    c->block_bytes = (size_t)(c->v_columns + 1) * TILE_BYTES;
    c->columns = at;
    at += MAX_STEPS * c->block_bytes;
    c->weights = at;
    at += 2 * UNIT * GROUP_WEIGHTS;
    c->scores = (float *)(void *)at;
    at += 2 * UNIT * GROUP_SCORES * sizeof(float);
    c->out = (float *)(void *)at;
    at += (size_t)UNIT * KERN_LANES * (size_t)c->v_columns * KERN_LANES * sizeof(float);
    c->value_copies = at;
    at += 2 * BLOCK * c->value_stride;
    c->key_copies = at;
    /* what lies beyond the elements of copied rows counts as zero */
    if (c->p->dk % 32)
        memset(c->key_copies, 0, (size_t)((c->n + BLOCK - 1) / BLOCK) * BLOCK * c->key_stride);
    if (c->p->dv % 32)
        memset(c->value_copies, 0, 2 * BLOCK * c->value_stride);
}

static void weigh_unit(struct call *c, int index)
{
    const struct unit *u = &c->units[index];
    c->weighing.left = u->n;
    c->weighing.g = &c->groups[u->first];
    c->weighing.scores = c->scores + (size_t)(index % 2 * UNIT) * GROUP_SCORES;
    c->weighing.to = c->weights + (size_t)(index % 2) * UNIT * GROUP_WEIGHTS;
    c->weighing.steps = u->steps;
    weigh_group(&c->weighing);
}

static void attn_piece(const struct attn_piece *p)
{
    struct call c = {.p = p};
    open_groups(&c);
    if (c.n_groups == 0)
        return;
    open_scratch(&c);
    open_units(&c);
    products_begin();
    score_first(&c);
    for (int stage = 1; stage < c.n_units + 2; stage++) {
        if (stage <= c.n_units)
            weigh_unit(&c, stage - 1);
        if (stage < c.n_units)
            score_unit(&c, stage);
        if (stage > 1)
            value_unit(&c, stage - 2);
        while (c.weighing.left)
            weigh(&c, &c.weighing);
    }
    products_end();
}

#endif
