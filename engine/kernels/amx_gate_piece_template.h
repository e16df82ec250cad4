/* engine/kernels/amx_gate_piece_template.h - gated latents that are not multiplied out, on tiles. Included by
 * amx_attn.c behind amx_gate.h; all static.
 *
 * Factors: sixteen rows of latents and of embeddings against both weights, columns of outputs as gate.h has
 * them. Squares are summed by vectors, a run of columns behind the tiles.
 *
 * A piece: of the values of an embedding, those with even and with odd numbers have sums of their own, which
 * are added at the end. So with at most eight lanes two of them lie side by side in a tile, and with sixteen
 * one, and a lane's score is the same to the bit. Results are [value][lane], latents the left operand, turned
 * around; weights go in as they lie, rows r and 16 + r of a block side by side. */
#ifndef LATENT_ENGINE_KERNELS_AMX_GATE_PIECE_TEMPLATE_H
#define LATENT_ENGINE_KERNELS_AMX_GATE_PIECE_TEMPLATE_H

#include "engine/kernels/amx_gate.h"
#include "engine/kernels/attn_bf16_template.h"
#include "engine/kernels/gate.h"

#define GATE_RUN 4 /* columns whose products are stored before they are summed: more are not near then */

/* --- weights --------------------------------------------------------------------------------------- */

/* A column's rows of n values as right operands. */
static void gate_pack_column(const struct gate_shape *s, const float *w, int n, int block, int column,
                             uint16_t *to)
{
    for (int k = 0; k < gate_filled(n, 32); k += 2, to += 2 * KERN_LANES) {
        float pair[2 * KERN_LANES] = {0};
        for (int i = 0; i < KERN_LANES; i++) {
            int row = gate_output(s, block, column, i);
            for (int j = 0; j < 2 && row >= 0; j++)
                pair[2 * i + j] = k + j < n ? w[(size_t)row * (size_t)n + (size_t)(k + j)] : 0.0f;
        }
        bf16_store(to, _mm512_loadu_ps(pair), KERN_LANES);
        bf16_store(to + KERN_LANES, _mm512_loadu_ps(pair + KERN_LANES), KERN_LANES);
    }
}

static void gate_pack(const struct gate_shape *s, const float *up, const float *gate, void *dst)
{
    uint16_t *to = dst;
    size_t x = (size_t)gate_filled(s->width, 32) * KERN_LANES;
    size_t e = (size_t)gate_filled(s->embed, 32) * KERN_LANES;
    for (int b = 0; b < gate_blocks(s); b++)
        for (int j = 0; j < gate_columns(s); j++, to += x + e) {
            gate_pack_column(s, up, s->width, b, j, to);
            gate_pack_column(s, gate, s->embed, b, j, to + x);
        }
}

/* --- factors --------------------------------------------------------------------------------------- */

#define GATE_GROUPS 4 /* sixteen rows each, that meet a run of columns while its weights are near */
#define RUN_STRIDE (2 * GATE_RUN * KERN_LANES) /* floats of a row */

struct deviation {
    const struct gate_factors *g;
    int columns, x_steps, e_steps;
    struct operand x[GATE_GROUPS]; /* left operands */
    unsigned char *e;
    unsigned char *copies;      /* of x that is none as it lies */
    float *products[2];         /* of a run and a group, in turn: [row][column][both][16] */
    const float *before;        /* those of the one before; or NULL */
    int before_group, before_columns;
    __m512 sum[GATE_GROUPS * KERN_LANES], square[GATE_GROUPS * KERN_LANES];
};

/* What row r of those before has in n columns. */
INLINE void gate_row_sums(struct deviation *d, int r, const int n)
{
    const float *from = d->before + r * RUN_STRIDE;
    r += d->before_group * KERN_LANES;
    __m512 sum = d->sum[r], square = d->square[r], other = _mm512_setzero_ps(), more = other;
    UNROLL
    for (int j = 0; j < n; j++) {
        __m512 y = _mm512_mul_ps(_mm512_loadu_ps(from + 2 * j * KERN_LANES),
                                 _mm512_loadu_ps(from + (2 * j + 1) * KERN_LANES));
        if (j % 2) {
            other = _mm512_add_ps(other, y);
            more = _mm512_fmadd_ps(y, y, more);
        } else {
            sum = _mm512_add_ps(sum, y);
            square = _mm512_fmadd_ps(y, y, square);
        }
    }
    d->sum[r] = _mm512_add_ps(sum, other);
    d->square[r] = _mm512_add_ps(square, more);
}

/* Beside products: some rows of the run before. */
INLINE void gate_beside(struct deviation *d, int k)
{
    tiles_fence();
    if (d->before_columns == GATE_RUN) {
        UNROLL
        for (int r = 0; r < KERN_LANES / GATE_RUN; r++)
            gate_row_sums(d, k * (KERN_LANES / GATE_RUN) + r, GATE_RUN);
    }
    tiles_fence();
}

static void gate_sums_left(struct deviation *d)
{
    int n = d->before_columns, row = 0;
    const float *from = d->before;
    for (; row < KERN_LANES && n > 0 && n < GATE_RUN; row++)
        for (int j = 0; j < n; j++) {
            d->before = from + 2 * j * KERN_LANES;
            gate_row_sums(d, row, 1);
        }
    for (; row < KERN_LANES && n == GATE_RUN; row++)
        gate_row_sums(d, row, GATE_RUN);
    d->before_columns = 0;
}

#define GATE_STORE(tile, to) _tile_stored(tile, to, RUN_STRIDE * sizeof(float))

/* A whole run of columns of one step each; sums of a column are stored behind the products of the next. */
static void gate_run_of_one(struct deviation *d, const unsigned char *w, float *to)
{
    for (int k = 0; k < GATE_RUN; k += 2, w += 4 * TILE_BYTES, to += 4 * KERN_LANES) {
        _tile_zero(0);
        _tile_loadd(6, w, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (k)
            GATE_STORE(2, to - 2 * KERN_LANES);
        _tile_zero(1);
        _tile_loadd(7, w + TILE_BYTES, 64);
        _tile_dpbf16ps(1, 5, 7);
        if (k)
            GATE_STORE(3, to - KERN_LANES);
        gate_beside(d, k);
        _tile_zero(2);
        _tile_loadd(6, w + 2 * TILE_BYTES, 64);
        _tile_dpbf16ps(2, 4, 6);
        GATE_STORE(0, to);
        _tile_zero(3);
        _tile_loadd(7, w + 3 * TILE_BYTES, 64);
        _tile_dpbf16ps(3, 5, 7);
        GATE_STORE(1, to + KERN_LANES);
        gate_beside(d, k + 1);
    }
    GATE_STORE(2, to - 2 * KERN_LANES);
    GATE_STORE(3, to - KERN_LANES);
}

/* n columns of any number of steps. */
static void gate_run_of_more(const struct deviation *d, const struct operand *x, const unsigned char *e,
                             const unsigned char *w, int n, float *to)
{
    for (int j = 0; j < n; j++, to += 2 * KERN_LANES) {
        _tile_zero(0);
        _tile_zero(1);
        for (int k = 0; k < d->x_steps; k++, w += TILE_BYTES) {
            _tile_loadd(4, operand_at(x, k), x->stride);
            _tile_loadd(6, w, 64);
            _tile_dpbf16ps(0, 4, 6);
        }
        for (int k = 0; k < d->e_steps; k++, w += TILE_BYTES) {
            _tile_loadd(5, e + (size_t)k * TILE_BYTES, 64);
            _tile_loadd(7, w, 64);
            _tile_dpbf16ps(1, 5, 7);
        }
        GATE_STORE(0, to);
        GATE_STORE(1, to + KERN_LANES);
    }
}

/* Sums of all columns of a block for n_groups groups; w: the block's weights. */
static void gate_block_sums(struct deviation *d, const unsigned char *w, int n_groups)
{
    size_t column = (size_t)(d->x_steps + d->e_steps) * TILE_BYTES;
    int turn = 0;
    for (int r = 0; r < n_groups * KERN_LANES; r++)
        d->sum[r] = d->square[r] = _mm512_setzero_ps();
    d->before_columns = 0;
    for (int j = 0; j < d->columns; j += GATE_RUN, w += GATE_RUN * column) {
        int n = d->columns - j < GATE_RUN ? d->columns - j : GATE_RUN;
        for (int g = 0; g < n_groups; g++, turn = !turn) {
            const struct operand *x = &d->x[g];
            const unsigned char *e = d->e + (size_t)(g * d->e_steps) * TILE_BYTES;
            tiles_fence();
            if (n == GATE_RUN && d->x_steps == 1 && d->e_steps == 1) {
                _tile_loadd(4, x->at, x->stride);
                _tile_loadd(5, e, 64);
                gate_run_of_one(d, w, d->products[turn]);
            } else {
                gate_sums_left(d);
                gate_run_of_more(d, x, e, w, n, d->products[turn]);
            }
            tiles_fence();
            if (d->before_columns && d->before_columns < GATE_RUN)
                gate_sums_left(d);
            d->before = d->products[turn];
            d->before_group = g;
            d->before_columns = n;
        }
    }
    gate_sums_left(d);
}

/* v plus itself, lanes i and i + n .. of each group of 2 n. */
INLINE __m512 gate_across(__m512 v, int n)
{
    const __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_add_ps(v, _mm512_permutexvar_ps(_mm512_xor_si512(index, _mm512_set1_epi32(n)), v));
}

/* Mean square less squared mean, plus eps, of row r; each in all places of its head. */
INLINE __m512 gate_variance(const struct deviation *d, int r)
{
    const struct gate_factors *g = d->g;
    __m512 each = _mm512_set1_ps(1.0f / (float)g->shape.each);
    __m512 sum = d->sum[r], square = d->square[r];
    for (int k = gate_heads(&g->shape); k < KERN_LANES; k *= 2) {
        sum = gate_across(sum, k);
        square = gate_across(square, k);
    }
    __m512 mean = _mm512_mul_ps(sum, each);
    __m512 v = _mm512_fnmadd_ps(mean, mean, _mm512_mul_ps(square, each));
    return _mm512_add_ps(_mm512_max_ps(v, _mm512_setzero_ps()), _mm512_set1_ps(g->eps));
}

INLINE __m512 gate_inverse(__m512 v)
{
    return _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(v));
}

/* Of few heads two rows share a vector: roots and divisions take long. */
static void gate_store_factors(struct deviation *d, int n, float *to)
{
    size_t stride = kern_gate_stride(d->g->shape.heads);
    int r = 0;
    for (; r + 2 <= n && d->g->shape.heads <= KERN_LANES / 2; r += 2, to += 2 * stride) {
        __m512 f = gate_inverse(_mm512_mask_mov_ps(gate_variance(d, r), 0xff00, gate_variance(d, r + 1)));
        _mm512_storeu_ps(to, f);
        _mm512_mask_storeu_ps(to + stride - KERN_LANES / 2, 0xff00, f);
    }
    for (; r < n; r++, to += stride)
        _mm512_storeu_ps(to, gate_inverse(gate_variance(d, r)));
}

/* Rows i .. of n as left operands; beyond the last it stands again. Whole steps of bfloat16 at equal
 * distances are one as they lie. */
static void gate_operands(struct deviation *d, int group, int i, int n)
{
    const struct gate_factors *g = d->g;
    const struct gate_shape *s = &g->shape;
    const unsigned char *const *x = g->x + i;
    unsigned char *copy = d->copies + (size_t)(group * d->x_steps) * TILE_BYTES;
    unsigned char *e = d->e + (size_t)(group * d->e_steps) * TILE_BYTES;
    ptrdiff_t step = n > 1 ? x[1] - x[0] : 0;
    bool lies_well = n >= KERN_LANES && g->type == TT_BF16 && s->width % 32 == 0;
    for (int r = 2; r < KERN_LANES && lies_well; r++)
        lies_well = x[r] - x[r - 1] == step;
    d->x[group] = (struct operand){copy, 64, TILE_BYTES};
    if (lies_well)
        d->x[group] = (struct operand){x[0], (size_t)step, 64};
    for (int r = 0; r < KERN_LANES; r++) {
        int from = r < n ? r : n - 1;
        if (!lies_well)
            gate_row(g->type, x[from], s->width, r, copy);
        gate_row(TT_F32, g->e[i + from], s->embed, r, e);
    }
}

/* Tiles 5 and 7 are as short as embeddings are. */
static void gate_configure(const struct deviation *d)
{
    struct tile_config c = {.palette = 1};
    int pairs = d->e_steps == 1 ? (d->g->shape.embed + 1) / 2 : 16;
    for (int i = 0; i < 8; i++) {
        c.rows[i] = (uint8_t)(i == 7 ? pairs : 16);
        c.colsb[i] = (uint16_t)(i == 5 ? 4 * pairs : 64);
    }
    _tile_loadconfig(&c);
}

static void gate_factors(const struct gate_factors *g)
{
    const struct gate_shape *s = &g->shape;
    struct deviation d;
    d.g = g;
    d.columns = gate_columns(s);
    d.x_steps = gate_filled(s->width, 32) / 32;
    d.e_steps = gate_filled(s->embed, 32) / 32;
    d.copies = (unsigned char *)g->scratch;
    d.e = d.copies + (size_t)(GATE_GROUPS * d.x_steps) * TILE_BYTES;
    d.products[0] = (float *)(void *)(d.e + (size_t)(GATE_GROUPS * d.e_steps) * TILE_BYTES);
    d.products[1] = d.products[0] + KERN_LANES * RUN_STRIDE;
    size_t block = (size_t)(d.columns * (d.x_steps + d.e_steps)) * TILE_BYTES;
    gate_configure(&d);
    for (int i = 0; i < g->n; i += GATE_GROUPS * KERN_LANES) {
        int n = g->n - i < GATE_GROUPS * KERN_LANES ? g->n - i : GATE_GROUPS * KERN_LANES;
        int groups = (n + KERN_LANES - 1) / KERN_LANES;
        for (int k = 0; k < groups; k++)
            gate_operands(&d, k, i + k * KERN_LANES, n - k * KERN_LANES);
        for (int b = 0; b < gate_blocks(s); b++) {
            gate_block_sums(&d, (const unsigned char *)g->weights + (size_t)b * block, groups);
            gate_store_factors(&d, n, g->factors + (size_t)i * kern_gate_stride(s->heads) + b * KERN_LANES);
        }
    }
    _tile_release();
}

/* --- queries --------------------------------------------------------------------------------------- */

/* Right operands: of each pair of embeddings' values (few lanes) or each value, the steps of a latent; then
 * those of the rotary values. In front a word: few. */
static bool gate_few(const float *const *q)
{
    for (int i = KERN_LANES / 2; i < KERN_LANES; i++)
        if (q[i])
            return false;
    return true;
}

/* Values [k, k + 32) of n behind q[i]. */
static void gate_pack_step(const float *const *q, int k, int n, float scale, unsigned char *to)
{
    const float *at[KERN_LANES];
    for (int i = 0; i < KERN_LANES; i++)
        at[i] = q[i] ? q[i] + k : NULL;
    attn_pack(at, n - k < 32 ? n - k : 32, scale / 128.0f, to);
}

static void gate_query(const struct gate_shape *s, const float *const *q, float scale, void *dst)
{
    unsigned char *to = (unsigned char *)dst + 64;
    int few = gate_few(q), at_once = few ? 2 : 1;
    const float *at[KERN_LANES];
    memcpy(dst, &few, sizeof(few));
    for (int b = 0; b < s->embed; b += at_once) {
        for (int i = 0; i < KERN_LANES; i++) {
            const float *from = few ? q[i % 8] : q[i];
            int of = b + (few ? i / 8 : 0);
            at[i] = from && of < s->embed ? from + of * s->width : NULL;
        }
        for (int k = 0; k < s->width; k += 32, to += TILE_BYTES)
            gate_pack_step(at, k, s->width, scale, to);
    }
    for (int i = 0; i < KERN_LANES; i++) {
        const float *from = few ? q[i % 8] : q[i];
        at[i] = from ? from + s->embed * s->width : NULL;
    }
    for (int k = 0; k < s->rope; k += 32, to += TILE_BYTES)
        gate_pack_step(at, k, s->rope, scale, to);
}

/* --- a piece --------------------------------------------------------------------------------------- */

struct gated {
    const struct gate_piece *p;
    int n, blocks;            /* rows that any lane sees; blocks of them */
    int steps, rope_steps;    /* of 32 */
    unsigned char *x;         /* left operands of 16 rows each: latents, then rotary values */
    unsigned char *turned;    /* left operands of a block: 16 values of its rows */
    float *out;               /* products of sixteen rows; [4][16][16] */
    unsigned char *weights;   /* right operands of a block, two columns */
    float *scores;            /* [ATTN_PIECE][16]; then weights */
    /* of the group in hand */
    bool few;
    int group, columns;
    const unsigned char *q;
    int32_t head[KERN_LANES];
    __m512i limit;
    __m512 top;
};

static void gated_left_row(const struct gated *w, int t, int r, unsigned char *to)
{
    const struct gate_piece *p = w->p;
    size_t size = p->type == TT_F32 ? 4 : 2;
    gate_row(p->type, p->x[t], p->shape.width, r, to);
    gate_row(p->type, p->x[t] + (size_t)p->shape.width * size, p->shape.rope, r, to + w->steps * TILE_BYTES);
}

/* Of block b and one step: 32 rows of left operands as two turned ones, each of which has 16 values. */
static void gated_turn(const struct gated *w, int b, int step)
{
    size_t half = (size_t)(w->steps + w->rope_steps) * TILE_BYTES;
    const unsigned char *from = w->x + (size_t)(2 * b) * half + (size_t)step * TILE_BYTES;
    unsigned char *to = w->turned + (size_t)(b * w->steps + step) * 2 * TILE_BYTES;
    const __m512i low = _mm512_set1_epi32(0xffff);
    __m512i x[KERN_LANES], y[KERN_LANES];
    for (int r = 0; r < KERN_LANES; r++) {
        int t = b * BLOCK + r;
        x[r] = t < w->n ? _mm512_load_si512(from + 64 * r) : _mm512_setzero_si512();
        y[r] = t + 16 < w->n ? _mm512_load_si512(from + half + 64 * r) : _mm512_setzero_si512();
    }
    transpose_16x16(x);
    transpose_16x16(y);
    UNROLL
    for (int k = 0; k < KERN_LANES; k++) {
        __m512i even = _mm512_or_si512(_mm512_and_si512(x[k], low), _mm512_slli_epi32(y[k], 16));
        __m512i odd = _mm512_or_si512(_mm512_srli_epi32(x[k], 16), _mm512_andnot_si512(low, y[k]));
        _mm512_store_si512(to + 128 * k, even);
        _mm512_store_si512(to + 128 * k + 64, odd);
    }
}

static void gated_rows_of_piece(const struct gated *w)
{
    size_t half = (size_t)(w->steps + w->rope_steps) * TILE_BYTES;
    for (int t = 0; t < w->blocks * BLOCK; t++) /* the last one again beyond it */
        gated_left_row(w, t < w->n ? t : w->n - 1, t % 16, w->x + (size_t)(t / 16) * half);
    for (int b = 0; b < w->blocks; b++)
        for (int k = 0; k < w->steps; k++)
            gated_turn(w, b, k);
}

/* Values of row t's embedding that belong to column j, each beside its lanes. */
INLINE __m512 gated_embedding(const float *e, int j, const bool few, __m512i second)
{
    if (!few)
        return _mm512_set1_ps(e[j]);
    return _mm512_mask_mov_ps(_mm512_set1_ps(e[2 * j]), 0xff00, _mm512_castsi512_ps(second));
}

/* Its second value, where there is one. */
INLINE __m512i gated_second(const struct gated *w, const float *e, int j, const bool few)
{
    int b = 2 * j + 1;
    return few && b < w->p->shape.embed ? _mm512_castps_si512(_mm512_set1_ps(e[b])) : _mm512_setzero_si512();
}

INLINE __m512 gated_factor(const struct gated *w, int t)
{
    const float *f = w->p->factors + (size_t)t * kern_gate_stride(w->p->shape.heads);
    float lanes[KERN_LANES];
    if (w->p->shape.heads <= KERN_LANES)
        return _mm512_permutexvar_ps(_mm512_loadu_si512(w->head), _mm512_loadu_ps(f));
    for (int i = 0; i < KERN_LANES; i++)
        lanes[i] = f[w->head[i]];
    return _mm512_loadu_ps(lanes);
}

/* Products of sixteen rows and up to four columns, from j on. */
static void gated_score_products(const struct gated *w, const unsigned char *x, int j, int n)
{
    const unsigned char *q = w->q + (size_t)(j * w->steps) * TILE_BYTES;
    size_t step = (size_t)w->steps * TILE_BYTES;
    tiles_fence();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < w->steps; k++, x += TILE_BYTES, q += TILE_BYTES) {
        _tile_loadd(4, x, 64);
        _tile_loadd(5, q, 64);
        _tile_dpbf16ps(0, 4, 5);
        if (n > 1) {
            _tile_loadd(6, q + step, 64);
            _tile_dpbf16ps(1, 4, 6);
        }
        if (n > 2) {
            _tile_loadd(7, q + 2 * step, 64);
            _tile_dpbf16ps(2, 4, 7);
        }
        if (n > 3) {
            _tile_loadd(5, q + 3 * step, 64);
            _tile_dpbf16ps(3, 4, 5);
        }
    }
    _tile_stored(0, w->out, 64);
    _tile_stored(1, w->out + 256, 64);
    _tile_stored(2, w->out + 512, 64);
    _tile_stored(3, w->out + 768, 64);
    tiles_fence();
}

static void gated_rope_products(const struct gated *w, const unsigned char *x, float *to)
{
    const unsigned char *q = w->q + (size_t)(w->columns * w->steps) * TILE_BYTES;
    tiles_fence();
    _tile_zero(0);
    for (int k = 0; k < w->rope_steps; k++, x += TILE_BYTES, q += TILE_BYTES) {
        _tile_loadd(4, x, 64);
        _tile_loadd(5, q, 64);
        _tile_dpbf16ps(0, 4, 5);
    }
    _tile_stored(0, to, 64);
    tiles_fence();
}

/* Scores of sixteen rows. Even and odd values of embeddings have sums in lanes or vectors of their own. */
INLINE void gated_scores(struct gated *w, int t0, const bool few)
{
    const struct gate_piece *p = w->p;
    const unsigned char *x = w->x + (size_t)(t0 / 16) * (size_t)(w->steps + w->rope_steps) * TILE_BYTES;
    const __m512 none = _mm512_set1_ps(-INFINITY);
    float *to = w->scores + t0 * KERN_LANES, *rope = w->out + 4 * 256;
    __m512 even[KERN_LANES], odd[KERN_LANES];
    int rows = w->n - t0 < KERN_LANES ? w->n - t0 : KERN_LANES;
    for (int r = 0; r < KERN_LANES; r++)
        even[r] = odd[r] = _mm512_setzero_ps();
    gated_rope_products(w, x + w->steps * TILE_BYTES, rope);
    for (int j = 0; j < w->columns; j += 4) {
        int n = w->columns - j < 4 ? w->columns - j : 4;
        gated_score_products(w, x, j, n);
        for (int r = 0; r < rows; r++) {
            const float *e = p->e[t0 + r], *s = w->out + 16 * r;
            __m512 a = even[r], b = odd[r];
            for (int k = 0; k < n; k++, s += 256) {
                __m512 y = gated_embedding(e, j + k, few, gated_second(w, e, j + k, few));
                if (few || k % 2 == 0)
                    a = _mm512_fmadd_ps(_mm512_loadu_ps(s), y, a);
                else
                    b = _mm512_fmadd_ps(_mm512_loadu_ps(s), y, b);
            }
            even[r] = a;
            odd[r] = b;
        }
    }
    for (int r = 0; r < KERN_LANES; r++) {
        __m512 s = none;
        if (r < rows) {
            s = few ? gate_across(even[r], 8) : _mm512_add_ps(even[r], odd[r]);
            s = _mm512_fmadd_ps(s, gated_factor(w, t0 + r), _mm512_loadu_ps(rope + 16 * r));
            s = _mm512_mask_mov_ps(none, _mm512_cmpgt_epi32_mask(w->limit, _mm512_set1_epi32(t0 + r)), s);
        }
        w->top = _mm512_max_ps(s, w->top);
        _mm512_storeu_ps(to + 16 * r, s);
    }
}

/* 2^x for x <= 0, exactly 1 at 0, within 8.6e-5 of itself: a twentieth of what bfloat16 makes of it. 0 below
 * -126, where numbers are no longer normal, and for NaN. */
INLINE __m512 exp2_negative(__m512 x)
{
    __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_GE_OQ);
    __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); /* x - floor(x) */
    __m512 e = _mm512_set1_ps(0.0770672f);
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.22764482f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.6951168f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(normal, e, x);
}

/* Weights, times the factors of their rows; and m and l. */
static void gated_weigh(struct gated *w)
{
    const struct gate_piece *p = w->p;
    __mmask16 any = _mm512_cmpgt_epi32_mask(w->limit, _mm512_setzero_si512());
    __mmask16 lanes = w->few ? 0xff : 0xffff;
    __m512 top = _mm512_maskz_mov_ps(any, w->top), sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    float *s = w->scores;
    for (int t = 0; t < w->blocks * BLOCK; t++, s += KERN_LANES) {
        __m512 x = exp2_negative(_mm512_sub_ps(_mm512_loadu_ps(s), top));
        int half = t / 16 % 2;
        sum[half] = _mm512_add_ps(sum[half], x);
        _mm512_storeu_ps(s, t < w->n ? _mm512_mul_ps(x, gated_factor(w, t)) : x);
    }
    _mm512_mask_storeu_ps(p->l + w->group * KERN_LANES, lanes,
                          _mm512_maskz_mov_ps(any, _mm512_add_ps(sum[0], sum[1])));
    top = _mm512_mul_ps(top, _mm512_set1_ps(0.693147181f));
    _mm512_mask_storeu_ps(p->m + w->group * KERN_LANES, lanes,
                          _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), any, top));
}

/* Weights of block b times the values of column j: a right operand. */
INLINE void gated_weights(const struct gated *w, int b, int j, unsigned char *to, const bool few)
{
    const __m512i half = _mm512_set1_epi32(0x8000);
    const float *s = w->scores + b * BLOCK * KERN_LANES;
    int last = w->n - 1;
    for (int r = 0; r < 16; r++, s += KERN_LANES, to += 64) {
        int t = b * BLOCK + r;
        const float *e = w->p->e[t < last ? t : last], *f = w->p->e[t + 16 < last ? t + 16 : last];
        __m512 x = _mm512_mul_ps(_mm512_loadu_ps(s), gated_embedding(e, j, few, gated_second(w, e, j, few)));
        __m512 y = _mm512_mul_ps(_mm512_loadu_ps(s + 16 * KERN_LANES),
                                 gated_embedding(f, j, few, gated_second(w, f, j, few)));
        __m512i lo = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(x), half), 16);
        __m512i hi = _mm512_add_epi32(_mm512_castps_si512(y), half);
        _mm512_store_si512(to, _mm512_mask_blend_epi16(0xaaaaaaaa, lo, hi));
    }
}

/* Results of sixteen values k .. and a column: [value][lane] in out. */
static void gated_store(const struct gated *w, int j, int k, const float *out)
{
    const struct gate_piece *p = w->p;
    int left = p->shape.width - k;
    __m512i r[KERN_LANES];
    if (left <= 0)
        return;
    UNROLL
    for (int i = 0; i < KERN_LANES; i++)
        r[i] = _mm512_loadu_si512(out + 16 * i);
    transpose_16x16(r);
    for (int i = 0; i < KERN_LANES; i++) {
        int lane = w->group * KERN_LANES + (w->few ? i % 8 : i), b = w->few ? 2 * j + i / 8 : j;
        if (p->limit[lane] > 0 && b < p->shape.embed)
            _mm512_mask_storeu_ps(p->o + (size_t)lane * p->o_stride + (size_t)(b * p->shape.width + k),
                                  gate_mask(left), _mm512_castsi512_ps(r[i]));
    }
}

/* Values [32 step, 32 step + 32) of columns j and, if two, j + 1. */
INLINE void gated_values(const struct gated *w, int step, int j, const bool two, const bool few)
{
    const unsigned char *from = w->turned + (size_t)step * 2 * TILE_BYTES;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int b = 0; b < w->blocks; b++, from += (size_t)w->steps * 2 * TILE_BYTES) {
        unsigned char *to = w->weights + (b % 2) * 2 * TILE_BYTES;
        gated_weights(w, b, j, to, few);
        if (two)
            gated_weights(w, b, j + 1, to + TILE_BYTES, few);
        tiles_fence();
        _tile_loadd(4, from, 64);
        _tile_loadd(5, from + TILE_BYTES, 64);
        _tile_loadd(6, to, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        if (two) {
            _tile_loadd(7, to + TILE_BYTES, 64);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        tiles_fence();
    }
    _tile_stored(0, w->out, 64);
    _tile_stored(1, w->out + 256, 64);
    _tile_stored(2, w->out + 512, 64);
    _tile_stored(3, w->out + 768, 64);
    tiles_fence();
    gated_store(w, j, 32 * step, w->out);
    gated_store(w, j, 32 * step + 16, w->out + 256);
    if (two) {
        gated_store(w, j + 1, 32 * step, w->out + 512);
        gated_store(w, j + 1, 32 * step + 16, w->out + 768);
    }
}

INLINE void gated_group(struct gated *w, const bool few)
{
    for (int t = 0; t < w->blocks * BLOCK; t += 16)
        gated_scores(w, t, few);
    gated_weigh(w);
    for (int k = 0; k < w->steps; k++)
        for (int j = 0; j < w->columns; j += 2) {
            if (j + 1 < w->columns)
                gated_values(w, k, j, true, few);
            else
                gated_values(w, k, j, false, few);
        }
}

static void gated_open(struct gated *w, int group)
{
    const struct gate_piece *p = w->p;
    const unsigned char *q = (const unsigned char *)p->q + (size_t)group * kern_gate_query_bytes(&p->shape);
    int few;
    int32_t limit[KERN_LANES];
    memcpy(&few, q, sizeof(few));
    w->group = group;
    w->few = few;
    w->columns = few ? (p->shape.embed + 1) / 2 : p->shape.embed;
    w->q = q + 64;
    for (int i = 0; i < KERN_LANES; i++) {
        int lane = group * KERN_LANES + (few ? i % 8 : i);
        w->head[i] = (p->first + lane) % p->shape.heads;
        limit[i] = p->limit[lane] < p->n_rows ? p->limit[lane] : p->n_rows;
    }
    w->limit = _mm512_loadu_si512(limit);
    w->top = _mm512_set1_ps(-INFINITY);
}

static void gate_piece(const struct gate_piece *p)
{
    struct gated w = {.p = p, .steps = gate_filled(p->shape.width, 32) / 32,
                      .rope_steps = gate_filled(p->shape.rope, 32) / 32};
    unsigned char *at = p->scratch;
    for (int i = 0; i < p->n_groups * KERN_LANES; i++) {
        int limit = p->limit[i] < p->n_rows ? p->limit[i] : p->n_rows;
        w.n = limit > w.n ? limit : w.n;
        p->m[i] = -INFINITY;
        p->l[i] = 0.0f;
    }
    if (w.n == 0)
        return;
    w.blocks = (w.n + BLOCK - 1) / BLOCK;
    w.weights = at;
    w.out = (float *)(void *)(at += 4 * TILE_BYTES);
    w.scores = (float *)(void *)(at += 5 * TILE_BYTES);
    w.x = at += ATTN_PIECE * KERN_LANES * sizeof(float);
    w.turned = at + (size_t)(ATTN_PIECE / 16) * (size_t)(w.steps + w.rope_steps) * TILE_BYTES;
    gated_rows_of_piece(&w);
    tiles_configure();
    for (int g = 0; g < p->n_groups; g++) {
        gated_open(&w, g);
        if (_mm512_cmpgt_epi32_mask(w.limit, _mm512_setzero_si512()) == 0)
            continue;
        if (w.few)
            gated_group(&w, true);
        else
            gated_group(&w, false);
    }
    _tile_release();
}

#endif
