/* engine/kernels/amx_mul_rounded.c - products of quantised weights on AMX tiles of bfloat16:
 * mul_rounded, for the many rows of prompts.
 *
 * Tiles of int8 (amx_mul.c) give exact sums, but must be emptied after every 32 k, because each
 * block has a scale of its own: that takes longer than the products. Here weights become bfloat16
 * with their scales in, and sums stay in the tiles. A step is a block of 32 k: a right operand of 1
 * KB for each of two groups. Left operands are pairs of 16 rows, copied once a call into a panel
 * that the second-level cache holds.
 *
 * Making a right operand takes the vectors as long as five products take the tiles. Both work at the
 * same time only where their instructions alternate closely, since few tile registers are free
 * ahead: each step of tile instructions therefore has the making of later operands woven in, a word
 * of four k at a time. One pair of rows makes its own operands two steps ahead. More pairs share
 * them: while the pairs go through a range of steps, the first two make the next range for all. */
#include "config.h"

#include "engine/kernels/amx.h"
#include "engine/kernels/amx_dequant.h"
#include "engine/kernels/amx_mul.h"

#define GROUPS 2
#define PAIR (2 * KERN_LANES) /* rows */
#define MAX_ROWS 128
#define STEP_BYTES 2048       /* operands of a step: of both groups, or of a pair of rows */
#define RANGE 8               /* steps made together for all pairs */
#define PANEL_BYTES (512 << 10)
#define UNIT (KERN_LANES * KERN_LANES)

struct call {
    unsigned char *panel; /* [pairs][steps][2][16 rows][64 bytes] */
    unsigned char *ring;  /* [2 RANGE] steps of right operands */
    float *acc;           /* [pairs][2][groups][16][16] */
    int rows, pairs;
    int s0, s1, n_steps;  /* the panel's, of all */
    const unsigned char *w;
    size_t group_bytes;
    int n_out, g_end;
    float *const *y;
};

/* The weights of a group; of the last one again where the second of two is missing. */
INLINE const unsigned char *group_at(const struct call *c, int g)
{
    return c->w + (size_t)(g < c->g_end ? g : c->g_end - 1) * c->group_bytes;
}

INLINE unsigned char *ring_at(const struct call *c, int slot)
{
    return c->ring + (size_t)slot * STEP_BYTES;
}

#define LEFT(t, i)                                                                                 \
    do {                                                                                           \
        if (shared)                                                                                \
            _tile_stream_loadd(t, a + (i) * TILE_BYTES, 64); /* leaves the first level to the ring */ \
        else                                                                                       \
            _tile_loadd(t, a + (i) * TILE_BYTES, 64);                                              \
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
        for (int q = from; q < end; q++)                                                           \
            dequant_word(type, block, q);                                                          \
        tiles_fence();                                                                             \
    } while (0)

/* A pair of rows against two groups, sums in tiles 0 to 3, without or with one or two blocks made
 * meanwhile. */
INLINE void step_alone(const unsigned char *a, const unsigned char *b, const int shared)
{
    tiles_fence();
    LEFT(4, 0);
    RIGHT(6, 0);
    PRODUCT(0, 4, 6);
    RIGHT(7, 1);
    PRODUCT(1, 4, 7);
    LEFT(5, 1);
    PRODUCT(2, 5, 6);
    PRODUCT(3, 5, 7);
}

INLINE void step_with_one(enum tensor_type type, const unsigned char *a, const unsigned char *b,
                          const struct dequant_block *m, const int shared)
{
    tiles_fence();
    LEFT(4, 0);
    RIGHT(6, 0);
    WORDS(m, 0, 1);
    PRODUCT(0, 4, 6);
    WORDS(m, 1, 2);
    RIGHT(7, 1);
    WORDS(m, 2, 3);
    PRODUCT(1, 4, 7);
    WORDS(m, 3, 4);
    LEFT(5, 1);
    WORDS(m, 4, 5);
    PRODUCT(2, 5, 6);
    WORDS(m, 5, 7);
    PRODUCT(3, 5, 7);
    WORDS(m, 7, 8);
}

INLINE void step_with_two(enum tensor_type type, const unsigned char *a, const unsigned char *b,
                          const struct dequant_block *m, const struct dequant_block *n, const int shared)
{
    tiles_fence();
    WORDS(m, 0, 1);
    LEFT(4, 0);
    WORDS(m, 1, 2);
    RIGHT(6, 0);
    WORDS(m, 2, 3);
    PRODUCT(0, 4, 6);
    WORDS(m, 3, 4);
    RIGHT(7, 1);
    WORDS(m, 4, 6);
    PRODUCT(1, 4, 7);
    WORDS(m, 6, 8);
    WORDS(n, 0, 1);
    LEFT(5, 1);
    WORDS(n, 1, 3);
    PRODUCT(2, 5, 6);
    WORDS(n, 3, 6);
    PRODUCT(3, 5, 7);
    WORDS(n, 6, 8);
}

INLINE void make_step(enum tensor_type type, const struct call *c, int g, int s, unsigned char *dst)
{
    for (int j = 0; j < GROUPS; j++) {
        struct dequant_block m = dequant_begin(type, group_at(c, g + j), s, dst + j * TILE_BYTES);
        WORDS(&m, 0, 8);
    }
}

INLINE void sums_zero(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

INLINE void sums_read(const float *at)
{
    tiles_fence();
    _tile_loadd(0, at, 64);
    _tile_loadd(1, at + UNIT, 64);
    _tile_loadd(2, at + 2 * UNIT, 64);
    _tile_loadd(3, at + 3 * UNIT, 64);
}

INLINE void sums_write(float *at)
{
    _tile_stored(0, at, 64);
    _tile_stored(1, at + UNIT, 64);
    _tile_stored(2, at + 2 * UNIT, 64);
    _tile_stored(3, at + 3 * UNIT, 64);
    tiles_fence();
}

/* Sums of row i and group j. */
INLINE float *sums_at(const struct call *c, int i, int j)
{
    return c->acc + (i / KERN_LANES * GROUPS + j) * UNIT + i % KERN_LANES * KERN_LANES;
}

/* Goes on from the sums in y. */
static void sums_resume(const struct call *c, int g)
{
    for (int i = 0; i < c->rows; i++)
        for (int j = 0; j < GROUPS && g + j < c->g_end; j++)
            v16_store(sums_at(c, i, j), load_lanes(c->y[i], g + j, c->n_out));
}

static void sums_answer(const struct call *c, int g)
{
    for (int i = 0; i < c->rows; i++)
        for (int j = 0; j < GROUPS && g + j < c->g_end; j++)
            store_lanes(c->y[i], v16_load(sums_at(c, i, j)), g + j, c->n_out);
}

/* One pair of rows. */
INLINE void run_pair(enum tensor_type type, const struct call *c, int g)
{
    const unsigned char *a = c->panel;
    const unsigned char *w0 = group_at(c, g), *w1 = group_at(c, g + 1);
    int s = c->s0;
    if (c->s0 > 0) {
        sums_resume(c, g);
        sums_read(c->acc);
    } else {
        sums_zero();
    }
    for (int i = s; i < s + 2 && i < c->s1; i++)
        make_step(type, c, g, i, ring_at(c, i % 4));
    for (; s + 2 < c->s1; s++, a += STEP_BYTES) {
        unsigned char *to = ring_at(c, (s + 2) % 4);
        struct dequant_block m = dequant_begin(type, w0, s + 2, to);
        struct dequant_block n = dequant_begin(type, w1, s + 2, to + TILE_BYTES);
        step_with_two(type, a, ring_at(c, s % 4), &m, &n, 0);
    }
    for (; s < c->s1; s++, a += STEP_BYTES)
        step_alone(a, ring_at(c, s % 4), 0);
    sums_write(c->acc);
    sums_answer(c, g);
}

/* A range of steps: its number among those of all groups decides on the half of the ring. */
struct range {
    int g, s0, s1, half;
};

INLINE struct range range_after(const struct call *c, const struct range *r)
{
    struct range n = {r->g, r->s1, 0, !r->half};
    if (n.s0 == c->s1) {
        n.g += GROUPS;
        n.s0 = c->s0;
    }
    n.s1 = c->s1 - n.s0 < RANGE ? c->s1 : n.s0 + RANGE;
    return n;
}

/* A pair of rows through a range, while group j of the next one is made; j < 0: none. */
INLINE void run_range(enum tensor_type type, const struct call *c, int pair, const struct range *r,
                      const struct range *next, const int j)
{
    const unsigned char *a = c->panel + ((size_t)pair * (size_t)(c->s1 - c->s0) + (size_t)(r->s0 - c->s0)) *
                                            STEP_BYTES;
    const unsigned char *b = ring_at(c, r->half * RANGE);
    float *acc = c->acc + pair * 2 * GROUPS * UNIT;
    int n = r->s1 - r->s0, making = j < 0 ? 0 : next->s1 - next->s0, i = 0;
    if (r->s0 == 0)
        sums_zero();
    else
        sums_read(acc);
    for (; i < n && i < making; i++, a += STEP_BYTES, b += STEP_BYTES) {
        struct dequant_block m = dequant_begin(type, group_at(c, next->g + j), next->s0 + i,
                                               ring_at(c, next->half * RANGE + i) + j * TILE_BYTES);
        step_with_one(type, a, b, &m, 1);
    }
    for (int k = i; k < making; k++) { /* the next range is longer */
        struct dequant_block m = dequant_begin(type, group_at(c, next->g + j), next->s0 + k,
                                               ring_at(c, next->half * RANGE + k) + j * TILE_BYTES);
        WORDS(&m, 0, 8);
    }
    for (; i < n; i++, a += STEP_BYTES, b += STEP_BYTES)
        step_alone(a, b, 1);
    sums_write(acc);
}

/* Two pairs of rows or more, all groups from g on. */
INLINE void run_pairs(enum tensor_type type, const struct call *c, int g)
{
    struct range r = {g, c->s0, c->s1 - c->s0 < RANGE ? c->s1 : c->s0 + RANGE, 0};
    for (int s = r.s0; s < r.s1; s++)
        make_step(type, c, g, s, ring_at(c, s - r.s0));
    while (r.g < c->g_end) {
        struct range next = range_after(c, &r);
        if (r.s0 == c->s0 && c->s0 > 0)
            sums_resume(c, r.g);
        if (next.g >= c->g_end) { /* nothing to make */
            for (int p = 0; p < c->pairs; p++)
                run_range(type, c, p, &r, &next, -1);
        } else {
            run_range(type, c, 0, &r, &next, 0);
            run_range(type, c, 1, &r, &next, 1);
            for (int p = 2; p < c->pairs; p++)
                run_range(type, c, p, &r, &next, -1);
        }
        if (r.s1 == c->s1)
            sums_answer(c, r.g);
        r = next;
    }
}

/* Zeros where there is no row. */
static void fill_panel(const struct call *c, const void *const *x)
{
    for (int i = 0; i < c->pairs * PAIR; i++) {
        unsigned char *to = c->panel + (size_t)(i / PAIR) * (size_t)(c->s1 - c->s0) * STEP_BYTES +
                            (size_t)(i % PAIR) * 64;
        for (int s = c->s0; s < c->s1; s++, to += STEP_BYTES)
            _mm512_store_si512(to, i < c->rows ? _mm512_loadu_si512((const char *)x[i] + (size_t)s * 64)
                                               : _mm512_setzero_si512());
    }
}

INLINE void mul_tiles(enum tensor_type type, const void *w, int n_out, int n_in, int g0, int g1,
                      const void *const *x, float *const *y, int m)
{
    unsigned char panel[PANEL_BYTES] ALIGN64, ring[2 * RANGE * STEP_BYTES] ALIGN64;
    float acc[MAX_ROWS * GROUPS * KERN_LANES] ALIGN64;
    if (g0 >= g1)
        return;
    tiles_configure();
    for (int r = 0; r < m; r += MAX_ROWS) {
        struct call c = {.panel = panel, .ring = ring, .acc = acc, .w = w, .n_out = n_out, .g_end = g1,
                         .group_bytes = quant_group_bytes(type, n_in), .y = y + r,
                         .n_steps = n_in / Q8_BLOCK};
        c.rows = m - r < MAX_ROWS ? m - r : MAX_ROWS;
        c.pairs = (c.rows + PAIR - 1) / PAIR;
        int most = PANEL_BYTES / STEP_BYTES / c.pairs;
        for (c.s0 = 0; c.s0 < c.n_steps; c.s0 = c.s1) {
            c.s1 = c.n_steps - c.s0 < most ? c.n_steps : c.s0 + most;
            fill_panel(&c, x + r);
            if (c.pairs > 1)
                run_pairs(type, &c, g0);
            for (int g = g0; c.pairs == 1 && g < g1; g += GROUPS)
                run_pair(type, &c, g);
        }
    }
    _tile_release();
}

static void mul_rounded(enum tensor_type type, const void *w, int n_out, int n_in, int g0, int g1,
                        const void *const *x, float *const *y, int m)
{
    switch ((int)type) { /* one copy of the code for each type, with its layout in constants */
#define CASE(t)                                                                                    \
    case t: mul_tiles(t, w, n_out, n_in, g0, g1, x, y, m); break
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
