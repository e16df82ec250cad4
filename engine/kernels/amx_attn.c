/* engine/kernels/amx_attn.c - attention in bfloat16 with its products on AMX tiles.
 *
 * Tiles and vectors work at the same time only where their instructions alternate closely, since few tile
 * registers are free ahead: vector work is cut into bits of some thirty instructions, one a step. What
 * streams by is loaded by tileloaddt1, which leaves the nearest cache to the other side. */
#include "config.h"

#include "engine/kernels/amx_tiles.h"
#include "engine/kernels/attn_bf16_template.h"

#include "engine/kernels/amx_gate.h"
#include "engine/kernels/amx_narrow.h"
#include "engine/kernels/avx512_rotate.h"

/* Vector work behind products. */
static __attribute__((noinline)) void beside(struct call *c)
{
    if (c->weighing.left)
        weigh(c, &c->weighing);
    else if (c->turning.slice < c->turning.n_slices && ++c->turning.steps == TURN_STEPS)
        turn_slice(c);
}

#define BESIDE()                                                                                   \
    do {                                                                                           \
        tiles_fence();                                                                             \
        beside(c);                                                                                 \
        tiles_fence();                                                                             \
    } while (0)

/* `l` streams by. */
INLINE void scores_of_1(struct call *c, const struct operand *l, const struct operand *r, int steps)
{
    for (int k = 0; k < steps; k++) {
        _tile_loadd(6, operand_at(&r[0], k), 64);
        _tile_stream_loadd(4, operand_at(&l[0], k), l[0].stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(5, operand_at(&l[1], k), l[1].stride);
        _tile_dpbf16ps(1, 5, 6);
        BESIDE();
    }
}

INLINE void scores_of_2(struct call *c, const struct operand *l, const struct operand *r, int steps)
{
    for (int k = 0; k < steps; k++) {
        _tile_stream_loadd(4, operand_at(&l[0], k), l[0].stride);
        _tile_loadd(6, operand_at(&r[0], k), 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, operand_at(&r[1], k), 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_stream_loadd(5, operand_at(&l[1], k), l[1].stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        BESIDE();
    }
}

/* Six sums leave one tile for each side: the path goes forth and back over the right operands. */
INLINE void scores_of_3(struct call *c, const struct operand *l, const struct operand *r, int steps)
{
    for (int k = 0; k < steps; k++) {
        _tile_stream_loadd(6, operand_at(&l[0], k), l[0].stride);
        _tile_loadd(7, operand_at(&r[0], k), 64);
        _tile_dpbf16ps(0, 6, 7);
        _tile_loadd(7, operand_at(&r[1], k), 64);
        _tile_dpbf16ps(1, 6, 7);
        BESIDE();
        _tile_loadd(7, operand_at(&r[2], k), 64);
        _tile_dpbf16ps(2, 6, 7);
        _tile_stream_loadd(6, operand_at(&l[1], k), l[1].stride);
        _tile_dpbf16ps(5, 6, 7);
        BESIDE();
        _tile_loadd(7, operand_at(&r[1], k), 64);
        _tile_dpbf16ps(4, 6, 7);
        _tile_loadd(7, operand_at(&r[0], k), 64);
        _tile_dpbf16ps(3, 6, 7);
        BESIDE();
    }
}

/* `r` streams by: two columns. Sum of left i and column j: tile 2 i + j. */
INLINE void values_of_1(struct call *c, const unsigned char *l, const unsigned char *r, int steps)
{
    for (int k = 0; k < steps; k++, l += TILE_BYTES, r += c->block_bytes) {
        _tile_loadd(4, l, 64);
        _tile_stream_loadd(6, r, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(7, r + TILE_BYTES, 64);
        _tile_dpbf16ps(1, 4, 7);
        BESIDE();
    }
}

INLINE void values_of_2(struct call *c, const unsigned char *l, const unsigned char *r, int steps)
{
    for (int k = 0; k < steps; k++, l += TILE_BYTES, r += c->block_bytes) {
        _tile_stream_loadd(6, r, 64);
        _tile_loadd(4, l, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, l + GROUP_WEIGHTS, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_stream_loadd(7, r + TILE_BYTES, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
        BESIDE();
    }
}

INLINE void values_of_3(struct call *c, const unsigned char *l, const unsigned char *r, int steps)
{
    for (int k = 0; k < steps; k++, l += TILE_BYTES, r += c->block_bytes) {
        _tile_stream_loadd(7, r, 64);
        _tile_loadd(6, l, 64);
        _tile_dpbf16ps(0, 6, 7);
        _tile_loadd(6, l + GROUP_WEIGHTS, 64);
        _tile_dpbf16ps(2, 6, 7);
        BESIDE();
        _tile_loadd(6, l + 2 * GROUP_WEIGHTS, 64);
        _tile_dpbf16ps(4, 6, 7);
        _tile_stream_loadd(7, r + TILE_BYTES, 64);
        _tile_dpbf16ps(5, 6, 7);
        BESIDE();
        _tile_loadd(6, l + GROUP_WEIGHTS, 64);
        _tile_dpbf16ps(3, 6, 7);
        _tile_loadd(6, l, 64);
        _tile_dpbf16ps(1, 6, 7);
        BESIDE();
    }
}

static void products_begin(void)
{
    tiles_configure();
}

static void products_end(void)
{
    _tile_release();
}

static void score_products(struct call *c, int n, const struct operand *keys, const struct operand *q,
                           float *const *to)
{
    static const size_t stride[2 * UNIT] = {64, 64, 64, 64, 64, 64};
    tiles_fence();
    sums_clear(6);
    if (n == 1) {
        scores_of_1(c, keys, q, c->k_steps);
        sums_store(2, to, stride);
    } else if (n == 2) {
        scores_of_2(c, keys, q, c->k_steps);
        sums_store(4, to, stride);
    } else {
        scores_of_3(c, keys, q, c->k_steps);
        sums_store(6, to, stride);
    }
    tiles_fence();
}

static void value_products(struct call *c, int n, const unsigned char *weights, const unsigned char *values,
                           int steps, bool resume, float *const *to, const size_t *stride)
{
    tiles_fence();
    switch (n) {
    case 1:
        resume ? sums_load(2, to, stride) : sums_clear(2);
        values_of_1(c, weights, values, steps);
        sums_store(2, to, stride);
        break;
    case 2:
        resume ? sums_load(4, to, stride) : sums_clear(4);
        values_of_2(c, weights, values, steps);
        sums_store(4, to, stride);
        break;
    default:
        resume ? sums_load(6, to, stride) : sums_clear(6);
        values_of_3(c, weights, values, steps);
        sums_store(6, to, stride);
    }
    tiles_fence();
}

static void attn_piece_any(const struct attn_piece *p)
{
    if (!attn_narrow(p))
        attn_piece(p);
}

void kern__init_amx_attention(struct kernels *t)
{
    t->attn_pack = attn_pack;
    t->attn_piece = attn_piece_any;
    t->attn_bf16 = true;
    t->gated_rows = gated_rows;
    set_rotation(t);
}
