/* engine/kernels/amx_index.c - scores of index keys on AMX tiles.
 *
 * Scores choose rows, so nothing is rounded: keys are bfloat16, and a query value is the sum of three
 * bfloat16 exactly (its leading 8 bits, the next 8, the rest), each a right operand of its own. Sums
 * are float32 in the order of the tiles. Keys of another type, and very long ones, go the way of the
 * level below. */
#include "config.h"

#include "engine/kernels/amx.h"

#define ROWS 64      /* of a block: four tiles of sums */
#define MAX_STEPS 8  /* of 32 elements */
#define PARTS 3      /* of a query value */

static void (*inherited)(const struct index_block *b);

/* One group's queries, [dim][16], as right operands. */
static void split_queries(const float *q, int dim, int n_steps, unsigned char (*to)[MAX_STEPS][TILE_BYTES])
{
    const __m512i top = _mm512_set1_epi32((int)0xffff0000);
    for (int d = 0; d < 32 * n_steps; d += 2) {
        __m512 x[2];
        for (int h = 0; h < 2; h++)
            x[h] = d + h < dim ? _mm512_loadu_ps(q + (d + h) * KERN_LANES) : _mm512_setzero_ps();
        UNROLL
        for (int part = 0; part < PARTS; part++) {
            __m512i u[2];
            UNROLL
            for (int h = 0; h < 2; h++) {
                u[h] = _mm512_and_si512(_mm512_castps_si512(x[h]), top);
                x[h] = _mm512_sub_ps(x[h], _mm512_castsi512_ps(u[h]));
            }
            _mm512_store_si512(to[part][d / 32] + d % 32 * 32,
                               _mm512_or_si512(_mm512_srli_epi32(u[0], 16), u[1]));
        }
    }
}

/* Scores of 64 rows for 16 heads, the smallest parts first. */
static void block_products(const struct operand *keys, unsigned char (*q)[MAX_STEPS][TILE_BYTES],
                           int n_steps, float *to)
{
    tiles_fence();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int part = PARTS - 1; part >= 0; part--)
        for (int k = 0; k < n_steps; k++) {
            _tile_loadd(6, q[part][k], 64);
            _tile_loadd(4, operand_at(&keys[0], k), keys[0].stride);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, operand_at(&keys[1], k), keys[1].stride);
            _tile_dpbf16ps(1, 5, 6);
            _tile_loadd(4, operand_at(&keys[2], k), keys[2].stride);
            _tile_dpbf16ps(2, 4, 6);
            _tile_loadd(5, operand_at(&keys[3], k), keys[3].stride);
            _tile_dpbf16ps(3, 5, 6);
        }
    _tile_stored(0, to, 64);
    _tile_stored(1, to + 16 * KERN_LANES, 64);
    _tile_stored(2, to + 32 * KERN_LANES, 64);
    _tile_stored(3, to + 48 * KERN_LANES, 64);
    tiles_fence();
}

/* Rows [t0, t0 + n) as left operands; those that do not fill a tile, or a step, are copied. */
static void open_keys(const struct index_block *b, int t0, int n, int n_steps, unsigned char *copies,
                      struct operand *keys)
{
    const unsigned char *rows = (const unsigned char *)b->rows + (size_t)t0 * b->row_bytes;
    size_t stride = (size_t)n_steps * 64;
    for (int i = 0; i < ROWS / 16; i++, rows += 16 * b->row_bytes, copies += 16 * stride) {
        int m = n - 16 * i < 16 ? n - 16 * i : 16;
        if (m <= 0) {
            keys[i] = keys[0]; /* nobody looks at these */
        } else if (m == 16 && b->dim % 32 == 0) {
            keys[i] = (struct operand){rows, b->row_bytes, 64};
        } else {
            keys[i] = (struct operand){copies, stride, 64};
            memset(copies, 0, 16 * stride);
            for (int r = 0; r < m; r++)
                memcpy(copies + (size_t)r * stride, rows + (size_t)r * b->row_bytes, 2 * (size_t)b->dim);
        }
    }
}

static void index_scores(const struct index_block *b)
{
    int n_steps = (b->dim + 31) / 32;
    if (b->row_type != TT_BF16 || n_steps > MAX_STEPS) {
        inherited(b);
        return;
    }
    _Alignas(64) unsigned char q[PARTS][MAX_STEPS][TILE_BYTES];
    _Alignas(64) unsigned char copies[ROWS * MAX_STEPS * 64];
    _Alignas(64) float products[ROWS * KERN_LANES];
    __m512 lane[ROWS];
    struct operand keys[ROWS / 16];
    tiles_configure();
    for (int t0 = 0; t0 < b->n_rows; t0 += ROWS) {
        int n = b->n_rows - t0 < ROWS ? b->n_rows - t0 : ROWS;
        open_keys(b, t0, n, n_steps, copies, keys);
        for (int t = 0; t < ROWS; t++)
            lane[t] = _mm512_setzero_ps();
        for (int g = 0; g < b->n_groups; g++) {
            __m512 w = _mm512_loadu_ps(b->w + g * KERN_LANES);
            split_queries(b->q + (size_t)g * (size_t)b->dim * KERN_LANES, b->dim, n_steps, q);
            block_products(keys, q, n_steps, products);
            for (int t = 0; t < n; t++) {
                __m512 s = _mm512_max_ps(_mm512_load_ps(products + t * KERN_LANES), _mm512_setzero_ps());
                lane[t] = _mm512_fmadd_ps(w, s, lane[t]);
            }
        }
        for (int t = 0; t < n; t += 16) {
            __m512i r[16];
            for (int i = 0; i < 16; i++)
                r[i] = _mm512_castps_si512(lane[t + i]);
            transpose_16x16(r);
            __m512 sum = _mm512_setzero_ps();
            for (int i = 0; i < 16; i++)
                sum = _mm512_add_ps(sum, _mm512_castsi512_ps(r[i]));
            int m = n - t < 16 ? n - t : 16;
            _mm512_mask_storeu_ps(b->scores + t0 + t, (__mmask16)((1u << m) - 1u), sum);
        }
    }
    _tile_release();
}

void kern__init_amx_index(struct kernels *t)
{
    inherited = t->index_scores;
    t->index_scores = index_scores;
}
