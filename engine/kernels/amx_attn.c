/* engine/kernels/amx_attn.c - attention in bfloat16 with its products on AMX tiles.
 *
 * Tiles and vectors work at the same time only where their instructions alternate closely, since few tile
 * registers are free ahead and instructions retire in order: behind each product comes a bit of vector work,
 * some thirty instructions, all of it in line. What streams by is loaded by tileloaddt1, which leaves the
 * nearest cache to the other side. The sums of a run are stored one by one between the first products of
 * the next one, which then do not wait for them. */
#include "config.h"

#include "engine/kernels/amx.h"
#include "engine/kernels/attn_bf16_template.h"

#include "engine/kernels/amx_gate.h"
#include "engine/kernels/amx_gate_piece_template.h"
#include "engine/kernels/amx_narrow_template.h"
#include "engine/kernels/avx512_rotate.h"

enum work { NOTHING, WEIGH, WEIGH_TWO, TURN };
enum start { GO_ON, ZERO, LOAD }; /* of a step's sums */

/* A run of products: some left operands, which stream by, times some right ones. */
struct run {
    struct call *c;
    const unsigned char *l[UNIT], *r[UNIT];
    size_t l_stride[UNIT], l_step, r_step; /* r: rows of 64 bytes side by side */
    int steps, worked;       /* the first so many have work beside them */
    const struct part *next; /* in the making */
    const float *so_far;
    struct weighing w;
    __m512i pair[QUADS], beyond;
};

/* Vector work behind product i of n of step k: a quad in each step, or two; or a block of values in each but
 * the first. */
INLINE void beside(const enum work work, const int i, const int n, struct run *r, int k)
{
    tiles_fence();
    if (work == WEIGH) {
        const int skip = n > QUADS && i > 2; /* of six the third one has none, and the last the turning */
        if (i - skip < QUADS && (n == QUADS || i % 3 < 2))
            weigh_pair(&r->w, i - skip, r->pair, &r->beyond);
        if (i == n - 1)
            weigh_turn(&r->w, r->pair, r->beyond);
    }
    if (work == WEIGH_TWO) { /* a half, a half, and of six the turning on its own */
        const int part = i % (n / 2);
        if (part < 2) {
            weigh_pair(&r->w, 2 * part, r->pair, &r->beyond);
            weigh_pair(&r->w, 2 * part + 1, r->pair, &r->beyond);
        }
        if (part == n / 2 - 1)
            weigh_turn(&r->w, r->pair, r->beyond);
    }
    if (work == TURN)
        turn_pairs(r->c, r->next, k - 1, 16 * i / n, 16 * (i + 1) / n);
    tiles_fence();
}

#define LEFT(tile, i) _tile_stream_loadd(tile, r->l[i] + (size_t)k * r->l_step, r->l_stride[i])
#define RIGHT(tile, j) _tile_loadd(tile, r->r[j] + (size_t)k * r->r_step, 64)
/* In the first step the tile has a sum of the run before. */
#define PRODUCT(sum, left, right)                                                                  \
    do {                                                                                           \
        if (start != GO_ON)                                                                        \
            _tile_stored(sum, r->c->waiting->to[sum], r->c->waiting->stride[sum]);                         \
        if (start == ZERO)                                                                         \
            _tile_zero(sum);                                                                       \
        if (start == LOAD)                                                                         \
            _tile_loadd(sum, r->so_far + (sum / 2 * STRIP + sum % 2) * KERN_LANES, 4 * STRIP);              \
        _tile_dpbf16ps(sum, left, right);                                                          \
    } while (0)

INLINE void step_2_by_1(const enum start start, const enum work work, struct run *r, int k)
{
    LEFT(4, 0);
    RIGHT(6, 0);
    PRODUCT(0, 4, 6);
    beside(work, 0, 2, r, k);
    fetch_some(r->c);
    LEFT(5, 1);
    PRODUCT(1, 5, 6);
    beside(work, 1, 2, r, k);
    fetch_some(r->c);
}

INLINE void step_1_by_2(const enum start start, const enum work work, struct run *r, int k)
{
    LEFT(4, 0);
    RIGHT(6, 0);
    PRODUCT(0, 4, 6);
    beside(work, 0, 2, r, k);
    fetch_some(r->c);
    RIGHT(7, 1);
    PRODUCT(1, 4, 7);
    beside(work, 1, 2, r, k);
    fetch_some(r->c);
}

INLINE void step_2_by_2(const enum start start, const enum work work, struct run *r, int k)
{
    LEFT(4, 0);
    RIGHT(6, 0);
    PRODUCT(0, 4, 6);
    beside(work, 0, 4, r, k);
    fetch_some(r->c);
    LEFT(5, 1);
    RIGHT(7, 1);
    PRODUCT(1, 4, 7);
    beside(work, 1, 4, r, k);
    PRODUCT(2, 5, 6);
    beside(work, 2, 4, r, k);
    fetch_some(r->c);
    PRODUCT(3, 5, 7);
    beside(work, 3, 4, r, k);
}

/* Six sums leave one tile for each side: the path goes forth and back over the right operands. */
INLINE void step_2_by_3(const enum start start, const enum work work, struct run *r, int k)
{
    LEFT(6, 0);
    RIGHT(7, 0);
    PRODUCT(0, 6, 7);
    beside(work, 0, 6, r, k);
    RIGHT(7, 1);
    PRODUCT(1, 6, 7);
    beside(work, 1, 6, r, k);
    fetch_some(r->c);
    RIGHT(7, 2);
    PRODUCT(2, 6, 7);
    beside(work, 2, 6, r, k);
    LEFT(6, 1);
    PRODUCT(5, 6, 7);
    beside(work, 3, 6, r, k);
    fetch_some(r->c);
    RIGHT(7, 1);
    PRODUCT(4, 6, 7);
    beside(work, 4, 6, r, k);
    RIGHT(7, 0);
    PRODUCT(3, 6, 7);
    beside(work, 5, 6, r, k);
}

INLINE void step_3_by_2(const enum start start, const enum work work, struct run *r, int k)
{
    LEFT(6, 0);
    RIGHT(7, 0);
    PRODUCT(0, 6, 7);
    beside(work, 0, 6, r, k);
    RIGHT(7, 1);
    PRODUCT(1, 6, 7);
    beside(work, 1, 6, r, k);
    fetch_some(r->c);
    LEFT(6, 1);
    PRODUCT(3, 6, 7);
    beside(work, 2, 6, r, k);
    RIGHT(7, 0);
    PRODUCT(2, 6, 7);
    beside(work, 3, 6, r, k);
    fetch_some(r->c);
    LEFT(6, 2);
    PRODUCT(4, 6, 7);
    beside(work, 4, 6, r, k);
    RIGHT(7, 1);
    PRODUCT(5, 6, 7);
    beside(work, 5, 6, r, k);
}

/* The steps of a run, m left operands by n right ones. */
INLINE void run_steps(const int m, const int n, const enum start start, const enum work work, struct run *r,
                      int k, int end)
{
    for (; k < end; k++) {
        if (m == 2 && n == 1)
            step_2_by_1(start, work, r, k);
        else if (m == 1)
            step_1_by_2(start, work, r, k);
        else if (m == 2 && n == 2)
            step_2_by_2(start, work, r, k);
        else if (m == 2)
            step_2_by_3(start, work, r, k);
        else
            step_3_by_2(start, work, r, k);
    }
}

static void sums_end(const struct sums *s)
{
    if (s->n > 0) {
        _tile_stored(0, s->to[0], s->stride[0]);
        _tile_stored(1, s->to[1], s->stride[1]);
    }
    if (s->n > 2) {
        _tile_stored(2, s->to[2], s->stride[2]);
        _tile_stored(3, s->to[3], s->stride[3]);
    }
    if (s->n > 4) {
        _tile_stored(4, s->to[4], s->stride[4]);
        _tile_stored(5, s->to[5], s->stride[5]);
    }
}

static void products_wait(struct call *c)
{
    tiles_fence();
    sums_end(c->waiting);
    tiles_fence();
    c->waiting = &c->none;
}

static void products_begin(struct call *c)
{
    tiles_configure();
    for (int i = 0; i < 2 * UNIT; i++) {
        c->none.to[i] = c->nowhere;
        c->none.stride[i] = 64;
    }
    c->waiting = &c->none;
}

static void products_end(void)
{
    _tile_release();
}

INLINE void run_products(const int m, const int n, const enum work work, struct run *r)
{
    const enum work first = work == TURN ? NOTHING : work;
    tiles_fence();
    if (!r->so_far)
        run_steps(m, n, ZERO, first, r, 0, 1);
    else if (r->so_far == r->c->waiting->to[0]) /* the tiles have them */
        run_steps(m, n, GO_ON, first, r, 0, 1);
    else
        run_steps(m, n, LOAD, first, r, 0, 1);
    run_steps(m, n, GO_ON, work, r, 1, r->worked);
    run_steps(m, n, GO_ON, NOTHING, r, r->worked > 1 ? r->worked : 1, r->steps);
    tiles_fence();
}

/* Tiles that have sums of the run before, and that this one does not use, are stored. */
static void run_begin(struct call *c)
{
    if (c->waiting->n > 0 && c->waiting->n != c->to->n)
        products_wait(c);
}

static void score_products(struct call *c, int n, const struct operand *keys, const struct operand *q)
{
    struct run r;
    r.c = c;
    r.l_step = 64;
    r.r_step = TILE_BYTES;
    r.so_far = NULL;
    r.steps = c->k_steps;
    r.worked = 0;
    for (int i = 0; i < 2; i++) {
        r.l[i] = keys[i].at;
        r.l_stride[i] = keys[i].stride;
    }
    for (int j = 0; j < n; j++)
        r.r[j] = q[j].at;
    const int left = c->weighing.quads, at_once = left > c->k_steps ? 2 : 1;
    const bool weigh = left > 0 && n > 1;
    if (weigh) {
        r.w = c->weighing;
        r.worked = left / at_once < r.steps ? left / at_once : r.steps;
    }
    run_begin(c);
    if (n == 1)
        run_products(2, 1, NOTHING, &r);
    else if (n == 2 && weigh && at_once == 2)
        run_products(2, 2, WEIGH_TWO, &r);
    else if (n == 2 && weigh)
        run_products(2, 2, WEIGH, &r);
    else if (n == 2)
        run_products(2, 2, NOTHING, &r);
    else if (weigh && at_once == 2)
        run_products(2, 3, WEIGH_TWO, &r);
    else if (weigh)
        run_products(2, 3, WEIGH, &r);
    else
        run_products(2, 3, NOTHING, &r);
    c->waiting = c->to;
    if (weigh)
        c->weighing = r.w;
}

static void value_products(struct call *c, int n, const unsigned char *weights, int steps,
                           const struct part *next, const float *so_far)
{
    struct run r;
    r.c = c;
    r.l_step = TILE_BYTES;
    r.r_step = 2 * TILE_BYTES;
    r.so_far = so_far;
    r.steps = steps;
    r.worked = 0;
    for (int i = 0; i < n; i++) {
        r.l[i] = weights + (size_t)i * GROUP_WEIGHTS;
        r.l_stride[i] = 64;
    }
    r.r[0] = c->strip;
    r.r[1] = c->strip + TILE_BYTES;
    r.next = next;
    if (next) {
        r.worked = next->n + 1 < steps ? next->n + 1 : steps;
        c->turned = r.worked - 1;
    }
    run_begin(c);
    if (n == 1 && next)
        run_products(1, 2, TURN, &r);
    else if (n == 1)
        run_products(1, 2, NOTHING, &r);
    else if (n == 2 && next)
        run_products(2, 2, TURN, &r);
    else if (n == 2)
        run_products(2, 2, NOTHING, &r);
    else if (next)
        run_products(3, 2, TURN, &r);
    else
        run_products(3, 2, NOTHING, &r);
    c->waiting = c->to;
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
    t->gate_pack = gate_pack;
    t->gate_factors = gate_factors;
    t->gate_query = gate_query;
    t->gate_piece = gate_piece;
    set_rotation(t);
}
