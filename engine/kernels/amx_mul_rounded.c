/* engine/kernels/amx_mul_rounded.c - products of quantised weights on AMX tiles of bfloat16:
 * mul_rounded, for the many rows of prompts.
 *
 * Tiles of int8 (amx_mul.c) give exact sums, but must be emptied after every 32 k, because each
 * block has a scale of its own: that takes longer than the products. Here weights become bfloat16
 * with their scales in, and sums stay in the tiles. A step is a block of 32 k: a right operand of
 * 1 KB for a group of 16 outputs. Left operands are up to six tiles of 16 rows, copied once a call
 * into a panel that the second-level cache holds.
 *
 * Making a right operand takes the vectors as long as three to five products take the tiles. Both work at
 * the same time where their instructions alternate closely, since few tile registers are free ahead: so
 * each step has the making of the operands two steps ahead woven in, some words of four k behind
 * every product, on and on from group to group. Up to three tiles of rows take two groups at a time, which
 * share what is loaded of the rows; more have their sums of one group in the tiles. Sums go straight to
 * rows of outputs that lie evenly. */
#include "config.h"

#include "engine/kernels/amx.h"
#include "engine/kernels/amx_dequant.h"
#include "engine/kernels/amx_mul.h"

#define MAX_TILES 6 /* of rows: their sums, and two operands */
#define MAX_SUMS 6  /* tiles */
#define AHEAD 2     /* steps */
#define RING (2 * AHEAD)
#define PANEL_BYTES (512 << 10)
#define UNIT (KERN_LANES * KERN_LANES)
#define FILL_STEPS 4

struct call {
    unsigned char *panel; /* [steps][tiles][16 rows][64 bytes] */
    unsigned char *ring;  /* [RING] steps of right operands of one group or two */
    float *sums;          /* [tiles][groups][16][16] */
    int rows, tiles;
    int s0, s1, n_steps;  /* the panel's, of all */
    float enlarged;       /* half_enlarged */
    const unsigned char *w;
    size_t group_bytes;
    int n_out, g_end;
    float *const *y;
    size_t y_stride;      /* bytes between its rows; 0: they do not lie evenly */
};

/* A block of weights, the next to be made; at: how many came before. */
struct making {
    int g, s, at;
};

/* The weights of a group; of the last one again where the second of two is missing. */
INLINE const unsigned char *group_at(const struct call *c, int g)
{
    return c->w + (size_t)(g < c->g_end ? g : c->g_end - 1) * c->group_bytes;
}

INLINE unsigned char *ring_at(const struct call *c, int at, const int groups)
{
    return c->ring + (size_t)(at % RING) * (size_t)(groups * TILE_BYTES);
}

INLINE void making_next(const struct call *c, struct making *k, const int groups)
{
    k->at++;
    if (++k->s == c->s1) {
        k->s = c->s0;
        k->g += groups;
    }
}

/* Left operands pass the first level by: it is the ring's. Those that come a second time stay. */
#define LEFT(t, i)                                                                                 \
    do {                                                                                           \
        _tile_stream_loadd(t, a + (i) * TILE_BYTES, 64);                                           \
        tiles_fence();                                                                             \
    } while (0)
#define LEFT_STAYS(t, i)                                                                           \
    do {                                                                                           \
        _tile_loadd(t, a + (i) * TILE_BYTES, 64);                                                  \
        tiles_fence();                                                                             \
    } while (0)
#define RIGHT(t, j)                                                                                \
    do {                                                                                           \
        _tile_loadd(t, b + (j) * TILE_BYTES, 64);                                                  \
        tiles_fence();                                                                             \
    } while (0)
#define PRODUCT(t, left, right)                                                                    \
    do {                                                                                           \
        _tile_dpbf16ps(t, left, right);                                                            \
        tiles_fence();                                                                             \
    } while (0)
#define WORDS(block, from, end)                                                                    \
    do {                                                                                           \
        UNROLL                                                                                     \
        for (int word = from; word < (end); word++)                                                \
            dequant_word(type, block, word);                                                       \
        tiles_fence();                                                                             \
    } while (0)

/* One or two tiles of rows against two groups, sums in tiles 0 to 3; with blocks m and n made
 * meanwhile, or not. */
INLINE void step_of_two(enum tensor_type type, const unsigned char *a, const unsigned char *b,
                        const struct dequant_block *m, const struct dequant_block *n, const int tiles,
                        const int making)
{
#define MAKE(block, from, end)                                                                     \
    if (making)                                                                                    \
    WORDS(block, from, end)
    tiles_fence();
    MAKE(m, 0, 1);
    LEFT(4, 0);
    MAKE(m, 1, 2);
    RIGHT(6, 0);
    MAKE(m, 2, 3);
    PRODUCT(0, 4, 6);
    MAKE(m, 3, 4);
    RIGHT(7, 1);
    MAKE(m, 4, 6);
    PRODUCT(1, 4, 7);
    MAKE(m, 6, 8);
    MAKE(n, 0, 1);
    if (tiles == 2)
        LEFT(5, 1);
    MAKE(n, 1, 3);
    if (tiles == 2)
        PRODUCT(2, 5, 6);
    MAKE(n, 3, 6);
    if (tiles == 2)
        PRODUCT(3, 5, 7);
    MAKE(n, 6, 8);
}

/* Three tiles of rows against two groups, one after the other, sums in tiles 0 to 5. */
INLINE void step_of_three(enum tensor_type type, const unsigned char *a, const unsigned char *b,
                          const struct dequant_block *m, const struct dequant_block *n, const int making)
{
#define TILE(t, left, load, block, from)                                                           \
    load(6, left);                                                                                 \
    MAKE(block, from, from + 1);                                                                   \
    PRODUCT(t, 6, 7);                                                                              \
    MAKE(block, from + 1, from + 2 + (left == 2))
    tiles_fence();
    RIGHT(7, 0);
    MAKE(m, 0, 1);
    TILE(0, 0, LEFT_STAYS, m, 1);
    TILE(2, 1, LEFT_STAYS, m, 3);
    TILE(4, 2, LEFT_STAYS, m, 5);
    RIGHT(7, 1);
    MAKE(n, 0, 1);
    TILE(1, 0, LEFT, n, 1);
    TILE(3, 1, LEFT, n, 3);
    TILE(5, 2, LEFT, n, 5);
#undef TILE
}

/* Four tiles of rows or more against one group, sums in tiles from 0 on. */
INLINE void step_of_one(enum tensor_type type, const unsigned char *a, const unsigned char *b,
                        const struct dequant_block *m, const int tiles, const int making)
{
#define TILE(t, left)                                                                              \
    if (t < tiles) {                                                                               \
        LEFT(left, t);                                                                             \
        PRODUCT(t, left, 7);                                                                       \
        MAKE(m, t * 8 / tiles, (t + 1) * 8 / tiles);                                               \
    }
    tiles_fence();
    RIGHT(7, 0);
    TILE(0, 6);
    if (tiles <= 5)
        TILE(1, 5);
    if (tiles == 6)
        TILE(1, 6);
    TILE(2, 6);
    if (tiles <= 5)
        TILE(3, 5);
    if (tiles == 6)
        TILE(3, 6);
    TILE(4, 6);
    TILE(5, 6);
#undef TILE
}

/* For each of n tiles of sums; numbers of tiles are constants of instructions. */
#define EACH_SUM(n, op)                                                                            \
    do {                                                                                           \
        op(0, n);                                                                                  \
        op(1, n);                                                                                  \
        op(2, n);                                                                                  \
        op(3, n);                                                                                  \
        op(4, n);                                                                                  \
        op(5, n);                                                                                  \
    } while (0)

INLINE void sums_zero(const int n)
{
#define ZERO(t, n)                                                                                 \
    if (t < n)                                                                                     \
    _tile_zero(t)
    EACH_SUM(n, ZERO);
}

INLINE void sums_read(const float *at, const int n)
{
#define READ(t, n)                                                                                 \
    if (t < n)                                                                                     \
    _tile_loadd(t, at + (t)*UNIT, 64)
    tiles_fence();
    EACH_SUM(n, READ);
}

/* Sums of row i and group j. */
INLINE float *sums_at(const struct call *c, int i, int j, const int groups)
{
    return c->sums + (i / KERN_LANES * groups + j) * UNIT + i % KERN_LANES * KERN_LANES;
}

/* Goes on from the sums in y. */
INLINE void sums_resume(const struct call *c, int g, const int groups)
{
    for (int i = 0; i < c->rows; i++)
        for (int j = 0; j < groups && g + j < c->g_end; j++)
            v16_store(sums_at(c, i, j, groups), load_lanes(c->y[i], g + j, c->n_out));
}

/* Sums of tile t and group g + j lie in the rows of y that they belong to, all sixteen. */
INLINE bool sums_direct(const struct call *c, int t, int g)
{
    return c->y_stride && (t + 1) * KERN_LANES <= c->rows && g < c->g_end && (g + 1) * KERN_LANES <= c->n_out;
}

INLINE void sums_write(const struct call *c, int g, const int tiles, const int groups)
{
#define WRITE(t, n)                                                                                \
    if (t < n) {                                                                                   \
        const int row = t / groups, of = g + t % groups;                                           \
        if (sums_direct(c, row, of))                                                               \
            _tile_stored(t, c->y[row * KERN_LANES] + of * KERN_LANES, c->y_stride);                \
        else                                                                                       \
            _tile_stored(t, c->sums + (t)*UNIT, 64);                                               \
    }
    EACH_SUM(tiles * groups, WRITE);
    tiles_fence();
}

/* What did not go straight to y. */
INLINE void sums_answer(const struct call *c, int g, const int groups)
{
    for (int j = 0; j < groups && g + j < c->g_end; j++) {
        int i = !sums_direct(c, 0, g + j) ? 0 : c->rows / KERN_LANES * KERN_LANES;
        for (; i < c->rows; i++)
            store_lanes(c->y[i], v16_load(sums_at(c, i, j, groups)), g + j, c->n_out);
    }
}

/* A step of one or two groups, with the next blocks made meanwhile where there are any. */
INLINE void run_step(enum tensor_type type, const struct call *c, const unsigned char *a,
                     const unsigned char *b, struct making *k, const int tiles, const int groups)
{
    if (k->g >= c->g_end) {
        if (tiles <= 2)
            step_of_two(type, a, b, NULL, NULL, tiles, 0);
        else if (tiles == 3)
            step_of_three(type, a, b, NULL, NULL, 0);
        else
            step_of_one(type, a, b, NULL, tiles, 0);
        return;
    }
    unsigned char *to = ring_at(c, k->at, groups);
    struct dequant_block m = dequant_begin(type, group_at(c, k->g), k->s, c->enlarged, to);
    if (groups == 2) {
        struct dequant_block n =
            dequant_begin(type, group_at(c, k->g + 1), k->s, c->enlarged, to + TILE_BYTES);
        if (tiles <= 2)
            step_of_two(type, a, b, &m, &n, tiles, 1);
        else
            step_of_three(type, a, b, &m, &n, 1);
    } else {
        step_of_one(type, a, b, &m, tiles, 1);
    }
    making_next(c, k, groups);
}

/* All rows of the panel against all groups. */
INLINE void run_panel(enum tensor_type type, const struct call *c, int g, const int tiles, const int groups)
{
    const size_t step_bytes = (size_t)(tiles * TILE_BYTES);
    struct making k = {g, c->s0, 0};
    for (; k.at < AHEAD && k.g < c->g_end; making_next(c, &k, groups))
        for (int j = 0; j < groups; j++) {
            struct dequant_block m = dequant_begin(type, group_at(c, k.g + j), k.s, c->enlarged,
                                                   ring_at(c, k.at, groups) + j * TILE_BYTES);
            WORDS(&m, 0, 8);
        }
    for (int at = 0; g < c->g_end; g += groups) {
        const unsigned char *a = c->panel;
        if (c->s0 > 0) {
            sums_resume(c, g, groups);
            sums_read(c->sums, tiles * groups);
        } else {
            sums_zero(tiles * groups);
        }
        for (int s = c->s0; s < c->s1; s++, at++, a += step_bytes)
            run_step(type, c, a, ring_at(c, at, groups), &k, tiles, groups);
        sums_write(c, g, tiles, groups);
        sums_answer(c, g, groups);
    }
}

/* Bytes between rows that lie evenly; else 0. */
static size_t rows_stride(float *const *y, int n)
{
    if (n < KERN_LANES)
        return 0;
    uintptr_t stride = (uintptr_t)y[1] - (uintptr_t)y[0];
    for (int i = 2; i < n; i++)
        if ((uintptr_t)y[i] - (uintptr_t)y[i - 1] != stride)
            return 0;
    return stride;
}

/* Zeros where there is no row. Some steps of a row at a time: each has a line of its own in the panel, but
 * rows are read in stretches. */
INLINE void fill_panel(enum tensor_type type, const struct call *c, int top, const void *const *x)
{
    const bool half = quant_is_scaled(quant_layout(type));
    const __m512i raise = half_raise(top), zero = _mm512_setzero_si512();
    const size_t step_bytes = (size_t)(c->tiles * TILE_BYTES);
    int n = c->s1 - c->s0;
    for (int s = 0; s < n; s += FILL_STEPS)
        for (int i = 0; i < c->tiles * KERN_LANES; i++) {
            unsigned char *to = c->panel + (size_t)s * step_bytes + (size_t)i * 64;
            const char *from = i < c->rows ? (const char *)x[i] + (size_t)(c->s0 + s) * 64 : NULL;
            for (int k = 0; k < FILL_STEPS && s + k < n; k++, to += step_bytes) {
                __m512i v = from ? _mm512_loadu_si512(from + k * 64) : zero;
                _mm512_store_si512(to, half ? half_left(v, raise) : v);
            }
        }
}

INLINE void mul_tiles(enum tensor_type type, const void *w, int top, int n_out, int n_in, int g0, int g1,
                      const void *const *x, float *const *y, int m)
{
    unsigned char panel[PANEL_BYTES] ALIGN64, ring[RING * 2 * TILE_BYTES] ALIGN64;
    float sums[MAX_SUMS * UNIT] ALIGN64;
    if (g0 >= g1)
        return;
    tiles_configure();
    int left = (m + KERN_LANES - 1) / KERN_LANES; /* tiles, in calls of much the same number */
    for (int r = 0, calls = (left + MAX_TILES - 1) / MAX_TILES; calls > 0; calls--) {
        struct call c = {.panel = panel, .ring = ring, .sums = sums, .w = w, .n_out = n_out, .g_end = g1,
                         .group_bytes = quant_group_bytes(type, n_in), .y = y + r,
                         .n_steps = n_in / Q8_BLOCK, .enlarged = half_enlarged(top),
                         .tiles = (left + calls - 1) / calls};
        c.rows = m - r < c.tiles * KERN_LANES ? m - r : c.tiles * KERN_LANES;
        c.y_stride = rows_stride(c.y, c.rows);
        int most = PANEL_BYTES / (c.tiles * TILE_BYTES);
        for (c.s0 = 0; c.s0 < c.n_steps; c.s0 = c.s1) {
            c.s1 = c.n_steps - c.s0 < most ? c.n_steps : c.s0 + most;
            fill_panel(type, &c, top, x + r);
            switch (c.tiles) {
            case 1: run_panel(type, &c, g0, 1, 2); break;
            case 2: run_panel(type, &c, g0, 2, 2); break;
            case 3: run_panel(type, &c, g0, 3, 2); break;
            case 4: run_panel(type, &c, g0, 4, 1); break;
            case 5: run_panel(type, &c, g0, 5, 1); break;
            case 6: run_panel(type, &c, g0, 6, 1); break;
            }
        }
        r += c.rows;
        left -= c.tiles;
    }
    _tile_release();
}

static void mul_rounded(enum tensor_type type, const void *w, int top, int n_out, int n_in, int g0, int g1,
                        const void *const *x, float *const *y, int m)
{
    switch ((int)type) { /* one copy of the code for each type, with its layout in constants */
#define CASE(t)                                                                                    \
    case t: mul_tiles(t, w, top, n_out, n_in, g0, g1, x, y, m); break
        CASE(TT_Q8_0);
        CASE(TT_Q4_0);
        CASE(TT_Q4_1);
        CASE(TT_Q5_0);
        CASE(TT_Q5_1);
        CASE(TT_Q2_K);
        CASE(TT_Q3_K);
        CASE(TT_Q4_K);
        CASE(TT_Q5_K);
        CASE(TT_Q6_K);
        CASE(TT_IQ4_NL);
        CASE(TT_IQ4_XS);
#undef CASE
    }
}

void kern__init_amx_rounded(struct kernels *t)
{
    t->mul_rounded = mul_rounded;
}
