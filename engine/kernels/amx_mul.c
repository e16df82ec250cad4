/* engine/kernels/amx_mul.c - products of quantised weights on AMX tiles of int8.
 *
 * A block of 32 values of 16 packed rows is eight words of four k each (quant_layout.h): a right operand as
 * it lies, or once unpacked. Left operands are 16 activation rows, copied once a call into a panel where
 * their blocks are neighbours. One tile product gives the exact integers of 16 x 16 outputs for one
 * block; they are stored and scaled in vectors, in the order of kern.h: the answer is that of AVX-512, bit
 * for bit, and calls of few rows are left to it.
 *
 * Scaling costs more than the tiles: three operations for each 16 outputs and block against one cycle.
 * So the tile products of one item (CHUNK blocks, 16 rows, two groups) are issued before the scaling of
 * the one before, and run beside it. Two groups share the loads of activations and their scales. Weights
 * are unpacked once for all rows of the call. Q2_K and Q3_K have their integer scales multiplied into
 * the weights, which still fit eight bits; Q6_K takes two products of 16 k, whose scaled sum is exact in
 * float32. */
#include "config.h"

#include "engine/kernels/amx.h"
#include "engine/kernels/amx_mul.h"
#include "engine/kernels/quants_avx512.h"
#include "engine/kernels/quants_unpack_template.h"

#define MIN_ROWS 5    /* below, tiles are mostly empty and memory decides */
#define MAX_ROWS 128  /* of one pass: their sums and the unpacked weights stay in L1 */
#define CHUNK 4       /* blocks of an item */
#define HALF 8        /* rows whose sums are in registers: of two groups */
#define PANEL_BYTES (384 << 10)
#define PANEL_ROW_BYTES (Q8_BLOCK + 2 * sizeof(float)) /* of a row's block */
#define UNIT (KERN_LANES * KERN_LANES)                 /* sums of a tile */

/* Activations of `tiles` times 16 rows, `blocks` blocks each; rows that are not there are zeros. */
struct panel {
    int rows, tiles, blocks;
    int8_t *q;   /* [tiles][blocks][16][32] */
    float *d;    /* [tiles][blocks][16] */
    int32_t *th; /* the same: float totals, or pairs of int16 halves; for types with minima */
};

/* CHUNK blocks of weights of two groups. */
struct chunk {
    int8_t w[CHUNK][2][8 * QUANT_WORD];
    float d[CHUNK][2][KERN_LANES], m[CHUNK][2][KERN_LANES];
    float s[CHUNK][2][2][KERN_LANES];    /* QUANT_SUB16 in two products: scales of halves */
    int32_t mins[CHUNK][2][KERN_LANES];  /* QUANT_SUBMIN16: pairs of int16 */
    const void *tile[CHUNK][2];          /* the right operands */
};

struct item {
    int32_t sums[CHUNK][2][UNIT];
};

struct call {
    struct panel p;
    const unsigned char *w; /* packed: block b0 of group 0 */
    size_t group_bytes;
    int n_out;
    float *const *y;
    bool resume;   /* go on from the sums in y */
    float *acc;    /* [tiles][2][groups][HALF][16] */
    struct chunk *chunk; /* three: behind, in hand, ahead */
    struct item *item;   /* two */
};

static struct kernels below; /* the level that few rows go to */

/* Products of 16 k, scaled apart. */
INLINE int is_split(const struct quant_layout l)
{
    return l.form == QUANT_SUB16 && l.offset == 32;
}

/* Scales fit into the weights: Q2_K, and Q3_K with its scales negated. */
INLINE int is_folded(const struct quant_layout l)
{
    return l.form == QUANT_SUBMIN16 || (l.form == QUANT_SUB16 && !is_split(l));
}

/* Four k of 16 rows times their rows' scales (twice an int16), modulo 256. */
INLINE vi fold(vi w, vi s)
{
    vi low = _mm512_and_si512(_mm512_mullo_epi16(w, s), _mm512_set1_epi16(0xff));
    return _mm512_or_si512(low, _mm512_slli_epi16(_mm512_mullo_epi16(_mm512_srli_epi16(w, 8), s), 8));
}

/* The signed integers of a block, as a right operand. */
INLINE void unpack_block(const struct quant_layout l, const unsigned char *side, int8_t *dst)
{
    vi w[8], s[2];
    quant_unpack(l, side + l.side, w);
    if (is_folded(l)) {
        vi pair = vi_pairs(side);
        if (l.form == QUANT_SUBMIN16)
            pair = _mm512_and_si512(pair, _mm512_set1_epi16(15));
        else
            pair = _mm512_sub_epi16(_mm512_setzero_si512(), pair);
        s[0] = _mm512_or_si512(_mm512_slli_epi32(pair, 16), _mm512_and_si512(pair,
            _mm512_set1_epi32(0xffff)));
        s[1] = _mm512_or_si512(_mm512_srli_epi32(pair, 16),
                               _mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000)));
    }
    UNROLL
    for (int q = 0; q < 8; q++) {
        if (l.table)
            w[q] = _mm512_xor_si512(w[q], _mm512_set1_epi8((char)0x80));
        else if (l.offset)
            w[q] = _mm512_sub_epi8(w[q], _mm512_set1_epi8((char)l.offset));
        if (is_folded(l))
            w[q] = fold(w[q], s[q / 4]);
        _mm512_store_si512(dst + q * QUANT_WORD, w[q]);
    }
}

INLINE void unpack_scales(const struct quant_layout l, const unsigned char *head, const unsigned char *side,
                          struct chunk *c, int e, int j)
{
    vf d = vf_load_f16(head), m = l.head > 32 ? vf_load_f16(head + 32) : vf_set1(0.0f);
    if (l.form == QUANT_SUB32)
        d = vf_mul(d, vf_cvt(vi_i8(side)));
    if (l.form == QUANT_SUBMIN) {
        d = vf_mul(d, vf_cvt(vi_u8(side)));
        m = vf_mul(m, vf_cvt(vi_u8(side + KERN_LANES)));
    }
    if (is_split(l)) {
        struct subs s = subs_of(vi_pairs(side));
        _mm512_store_ps(c->s[e][j][0], vf_cvt(s.a));
        _mm512_store_ps(c->s[e][j][1], vf_cvt(s.b));
    }
    if (l.form == QUANT_SUBMIN16)
        _mm512_store_si512(c->mins[e][j], vi_and(vi_srl16(vi_pairs(side), 4), vi_set1_16(15)));
    _mm512_store_ps(c->d[e][j], d);
    if (l.head > 32)
        _mm512_store_ps(c->m[e][j], m);
}

/* Blocks [b, b + n) of `groups` neighbouring groups at wg. */
INLINE void unpack_chunk(const struct quant_layout l, const unsigned char *wg, size_t group_bytes, int b,
                         int n, const int groups, struct chunk *c)
{
    const size_t block_bytes = quant_block_bytes(l);
    UNROLL
    for (int j = 0; j < groups; j++)
        for (int e = 0; e < n; e++) {
            const unsigned char *head = wg + (size_t)j * group_bytes +
                                        (size_t)((b + e) / l.blocks) * quant_super_bytes(l);
            const unsigned char *side = head + l.head + (size_t)((b + e) % l.blocks) * block_bytes;
            for (size_t at = 0; at < block_bytes + (l.blocks == 1 ? (size_t)l.head : 0); at += 64)
                _mm_prefetch((const char *)side + at + QUANT_PREFETCH, _MM_HINT_T0);
            unpack_scales(l, head, side, c, e, j);
            c->tile[e][j] = l.b8 ? (const void *)(side + l.side) : c->w[e][j];
            if (!l.b8)
                unpack_block(l, side, c->w[e][j]);
        }
}

#define LEFT(t, e, h) _tile_loadd(t, a + (e) * KERN_LANES * Q8_BLOCK + (h) * 16, Q8_BLOCK)
#define RIGHT(t, e, j, h) _tile_loadd(t, (const int8_t *)c->tile[e][j] + (h) * 4 * QUANT_WORD, QUANT_WORD)
#define PRODUCT(t, left, right)                                                                    \
    do {                                                                                           \
        _tile_zero(t);                                                                             \
        _tile_dpbssd(t, left, right);                                                              \
    } while (0)
#define SUMS(t, e, j) _tile_stored(t, it->sums[e][j], KERN_LANES * sizeof(int32_t))

/* Sums of n blocks of 16 rows at a; of a split type those of the halves of a block are neighbours in e. */
INLINE void tile_products(const struct quant_layout l, const int8_t *a, const struct chunk *c, int n,
                          const int groups, struct item *it)
{
    int e = 0;
    tiles_fence();
    if (is_split(l)) {
        for (; e < n; e++) {
            LEFT(4, e, 0);
            RIGHT(6, e, 0, 0);
            PRODUCT(0, 4, 6);
            LEFT(5, e, 1);
            RIGHT(7, e, 0, 1);
            PRODUCT(1, 5, 7);
            if (groups == 2) {
                RIGHT(6, e, 1, 0);
                PRODUCT(2, 4, 6);
                RIGHT(7, e, 1, 1);
                PRODUCT(3, 5, 7);
                SUMS(2, 2 * e, 1);
                SUMS(3, 2 * e + 1, 1);
            }
            SUMS(0, 2 * e, 0);
            SUMS(1, 2 * e + 1, 0);
        }
        return;
    }
    for (; e + 2 <= n; e += 2) {
        LEFT(4, e, 0);
        RIGHT(6, e, 0, 0);
        PRODUCT(0, 4, 6);
        if (groups == 2) {
            RIGHT(7, e, 1, 0);
            PRODUCT(1, 4, 7);
        }
        LEFT(5, e + 1, 0);
        RIGHT(6, e + 1, 0, 0);
        PRODUCT(2, 5, 6);
        if (groups == 2) {
            RIGHT(7, e + 1, 1, 0);
            PRODUCT(3, 5, 7);
        }
        SUMS(0, e, 0);
        if (groups == 2)
            SUMS(1, e, 1);
        SUMS(2, e + 1, 0);
        if (groups == 2)
            SUMS(3, e + 1, 1);
    }
    if (e < n) {
        LEFT(4, e, 0);
        RIGHT(6, e, 0, 0);
        PRODUCT(0, 4, 6);
        if (groups == 2) {
            RIGHT(7, e, 1, 0);
            PRODUCT(1, 4, 7);
            SUMS(1, e, 1);
        }
        SUMS(0, e, 0);
    }
}

/* Adds the terms of n blocks to the sums of HALF rows; at: the first of them among the tile's 16, d and th of
 * its first block. */
INLINE void scale_half(const struct quant_layout l, const struct chunk *c, const struct item *it, int n,
                       const int groups, int at, const float *dx, const int32_t *th, float *acc)
{
    vf a[HALF][2];
    UNROLL
    for (int i = 0; i < HALF; i++)
        UNROLL
        for (int j = 0; j < groups; j++)
            a[i][j] = _mm512_load_ps(acc + (j * HALF + i) * KERN_LANES);
    for (int e = 0; e < n; e++, dx += KERN_LANES, th += KERN_LANES) {
        vf d[2], m[2], s0[2], s1[2];
        vi mins[2];
        UNROLL
        for (int j = 0; j < groups; j++) {
            d[j] = _mm512_load_ps(c->d[e][j]);
            m[j] = l.head > 32 ? _mm512_load_ps(c->m[e][j]) : d[j];
            mins[j] = l.form == QUANT_SUBMIN16 ? _mm512_load_si512(c->mins[e][j]) : _mm512_setzero_si512();
            s0[j] = is_split(l) ? _mm512_load_ps(c->s[e][j][0]) : d[j];
            s1[j] = is_split(l) ? _mm512_load_ps(c->s[e][j][1]) : d[j];
        }
        UNROLL
        for (int i = 0; i < HALF; i++) {
            vf x = vf_set1(dx[at + i]);
            UNROLL
            for (int j = 0; j < groups; j++) {
                const int row = (at + i) * KERN_LANES, b = is_split(l) ? 2 * e : e;
                vf dot = vf_cvt(_mm512_load_si512(it->sums[b][j] + row));
                if (is_split(l)) /* below 2^24: exact */
                    dot = vf_fma(s1[j], vf_cvt(_mm512_load_si512(it->sums[b + 1][j] + row)),
                                 vf_mul(s0[j], dot));
                if (l.form == QUANT_SUB16 && !is_split(l))
                    a[i][j] = vf_fnma(dot, vf_mul(d[j], x), a[i][j]);
                else
                    a[i][j] = vf_fma(dot, vf_mul(d[j], x), a[i][j]);
                if (l.form == QUANT_SUBMIN16)
                    a[i][j] = vf_fnma(vf_cvt(vi_madd16(mins[j], vi_set1_32(th[at + i]))), vf_mul(m[j], x),
                                      a[i][j]);
                vf t = l.head > 32 ? _mm512_castsi512_ps(vi_set1_32(th[at + i])) : x;
                if (l.form == QUANT_MIN)
                    a[i][j] = vf_fma(m[j], t, a[i][j]);
                if (l.form == QUANT_SUBMIN)
                    a[i][j] = vf_fnma(m[j], t, a[i][j]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < HALF; i++)
        UNROLL
        for (int j = 0; j < groups; j++)
            _mm512_store_ps(acc + (j * HALF + i) * KERN_LANES, a[i][j]);
}

/* Sums of a row and group: in call.acc, [tile][half][group][HALF][16], and in y. */
INLINE float *sums_at(const struct call *k, int row, int j, const int groups)
{
    return k->acc + (((row / HALF) * groups + j) * HALF + row % HALF) * KERN_LANES;
}

INLINE void sums_load(const struct call *k, int g, const int groups)
{
    int rows = (k->p.rows + HALF - 1) / HALF * HALF;
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < groups; j++)
            _mm512_store_ps(sums_at(k, i, j, groups),
                            k->resume && i < k->p.rows ? load_lanes(k->y[i], g + j, k->n_out)
                                : vf_set1(0.0f));
}

INLINE void sums_store(const struct call *k, int g, const int groups)
{
    for (int i = 0; i < k->p.rows; i++)
        UNROLL
        for (int j = 0; j < groups; j++)
            store_lanes(k->y[i], _mm512_load_ps(sums_at(k, i, j, groups)), g + j, k->n_out);
}

/* One or two groups against all rows of the panel. */
INLINE void run_groups(enum tensor_type type, const struct call *k, int g, const int groups)
{
    const struct quant_layout l = quant_layout(type);
    const int most = is_split(l) ? CHUNK / 2 : CHUNK, blocks = k->p.blocks;
    const unsigned char *wg = k->w + (size_t)g * k->group_bytes;
    struct {
        int b, n, tile;
    } last = {0, 0, 0};
    int items = 0;
    sums_load(k, g, groups);
    unpack_chunk(l, wg, k->group_bytes, 0, blocks < most ? blocks : most, groups, &k->chunk[0]);
    for (int b = 0, n; b <= blocks; b += n) {
        const struct chunk *c = &k->chunk[b / most % 3];
        int tiles = b < blocks ? k->p.tiles : 1; /* the last round scales what is left */
        n = blocks - b < most ? blocks - b : most;
        for (int t = 0; t < tiles; t++, items++) {
            if (b < blocks)
                tile_products(l, k->p.q + ((size_t)t * (size_t)blocks + (size_t)b) * KERN_LANES * Q8_BLOCK, c,
                              n, groups, &k->item[items % 2]);
            if (t == 0 && b + n < blocks)
                unpack_chunk(l, wg, k->group_bytes, b + n, blocks - b - n < most ? blocks - b - n : most,
                             groups, &k->chunk[(b / most + 1) % 3]);
            if (items) {
                size_t at = ((size_t)last.tile * (size_t)blocks + (size_t)last.b) * KERN_LANES;
                for (int i = last.tile * KERN_LANES; i < (last.tile + 1) * KERN_LANES
                    && i < k->p.rows; i += HALF)
                    scale_half(l, &k->chunk[last.b / most % 3], &k->item[(items - 1) % 2], last.n, groups,
                               i % KERN_LANES, k->p.d + at, k->p.th + at, sums_at(k, i, 0, groups));
            }
            last.b = b;
            last.n = n;
            last.tile = t;
        }
        if (b == blocks)
            break;
    }
    sums_store(k, g, groups);
}

/* Blocks [b0, b0 + p->blocks) of p->rows activation rows of n_in values. */
INLINE void fill_panel(const struct quant_layout l, const struct panel *p, const void *const *x, int n_in,
                       int b0)
{
    size_t blocks = (size_t)p->blocks;
    for (int i = 0; i < p->tiles * KERN_LANES; i++) {
        size_t at = (size_t)(i / KERN_LANES) * blocks * KERN_LANES + (size_t)(i % KERN_LANES);
        if (i >= p->rows) {
            for (size_t b = 0; b < blocks; b++) {
                memset(p->q + (at + b * KERN_LANES) * Q8_BLOCK, 0, Q8_BLOCK);
                p->d[at + b * KERN_LANES] = 0.0f;
                p->th[at + b * KERN_LANES] = 0;
            }
            continue;
        }
        const int8_t *q = act_values(x[i], n_in) + (size_t)b0 * Q8_BLOCK;
        const float *d = act_scales(x[i]) + b0;
        const void *th = l.form == QUANT_SUBMIN16 ? (const void *)(act_halves(x[i], n_in) + 2 * b0)
                                                  : (const void *)(act_totals(x[i], n_in) + b0);
        for (size_t b = 0; b < blocks; b++) {
            size_t to = at + b * KERN_LANES;
            _mm256_store_si256((__m256i *)(void *)(p->q + to * Q8_BLOCK),
                               _mm256_loadu_si256((const __m256i *)(const void *)(q + b * Q8_BLOCK)));
            p->d[to] = d[b];
            if (l.head > 32)
                memcpy(&p->th[to], (const char *)th + 4 * b, 4);
        }
    }
}

static void configure(const struct quant_layout l, int rows)
{
    struct tile_config c = {.palette = 1};
    int bytes = is_split(l) ? Q8_BLOCK / 2 : Q8_BLOCK;
    for (int t = 0; t < 8; t++) {
        c.rows[t] = (uint8_t)(t < 6 ? (rows <= HALF ? HALF : KERN_LANES) : bytes / 4);
        c.colsb[t] = (uint16_t)(t < 4 || t > 5 ? QUANT_WORD : bytes);
    }
    tiles_fence();
    _tile_loadconfig(&c);
}

INLINE void mul_tiles(enum tensor_type type, const void *w, int n_out, int n_in, int g0, int g1,
                      const void *const *x, float *const *y, int m)
{
    const struct quant_layout l = quant_layout(type);
    int8_t panel[PANEL_BYTES] ALIGN64;
    float acc[2 * MAX_ROWS * KERN_LANES] ALIGN64;
    struct chunk chunk[3] ALIGN64;
    struct item item[2] ALIGN64;
    for (int r = 0; r < m; r += MAX_ROWS) {
        struct call k = {.n_out = n_out, .y = y + r, .acc = acc, .chunk = chunk, .item = item,
                         .group_bytes = quant_group_bytes(type, n_in)};
        k.p.rows = m - r < MAX_ROWS ? m - r : MAX_ROWS;
        k.p.tiles = (k.p.rows + KERN_LANES - 1) / KERN_LANES;
        size_t lanes = (size_t)k.p.tiles * KERN_LANES;
        int step = (int)(PANEL_BYTES / (lanes * PANEL_ROW_BYTES)) & ~7; /* whole super-blocks */
        configure(l, k.p.rows);
        for (int b0 = 0; b0 < n_in / Q8_BLOCK; b0 += step) {
            k.p.blocks = n_in / Q8_BLOCK - b0 < step ? n_in / Q8_BLOCK - b0 : step;
            k.p.q = panel;
            k.p.d = (float *)(void *)(panel + lanes * (size_t)k.p.blocks * Q8_BLOCK);
            k.p.th = (int32_t *)(void *)(k.p.d + lanes * (size_t)k.p.blocks);
            k.w = (const unsigned char *)w + (size_t)(b0 / l.blocks) * quant_super_bytes(l);
            k.resume = b0 > 0;
            fill_panel(l, &k.p, x + r, n_in, b0);
            int g = g0;
            for (; g + 2 <= g1; g += 2)
                run_groups(type, &k, g, 2);
            if (g < g1)
                run_groups(type, &k, g, 1);
        }
        _tile_release();
    }
}

#define MUL_QUANTS(name, type)                                                                     \
    static void name(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,     \
                     float *const *y, int m)                                                       \
    {                                                                                              \
        if (m < MIN_ROWS)                                                                          \
            below.name(w, n_out, n_in, g0, g1, x, y, m);                                           \
        else                                                                                       \
            mul_tiles(type, w, n_out, n_in, g0, g1, x, y, m);                                      \
    }
MUL_QUANTS(mul_q8_0, TT_Q8_0)
MUL_QUANTS(mul_q4_0, TT_Q4_0)
MUL_QUANTS(mul_q4_1, TT_Q4_1)
MUL_QUANTS(mul_q5_0, TT_Q5_0)
MUL_QUANTS(mul_q5_1, TT_Q5_1)
MUL_QUANTS(mul_q2_k, TT_Q2_K)
MUL_QUANTS(mul_q3_k, TT_Q3_K)
MUL_QUANTS(mul_q4_k, TT_Q4_K)
MUL_QUANTS(mul_q5_k, TT_Q5_K)
MUL_QUANTS(mul_q6_k, TT_Q6_K)
MUL_QUANTS(mul_iq4_nl, TT_IQ4_NL)
MUL_QUANTS(mul_iq4_xs, TT_IQ4_XS)

void kern__init_amx_products(struct kernels *t)
{
    below = *t;
    kern__init_amx_halves(t);
    kern__init_amx_rounded(t);
    t->mul_q8_0 = mul_q8_0;
    t->mul_q4_0 = mul_q4_0;
    t->mul_q4_1 = mul_q4_1;
    t->mul_q5_0 = mul_q5_0;
    t->mul_q5_1 = mul_q5_1;
    t->mul_q2_k = mul_q2_k;
    t->mul_q3_k = mul_q3_k;
    t->mul_q4_k = mul_q4_k;
    t->mul_q5_k = mul_q5_k;
    t->mul_q6_k = mul_q6_k;
    t->mul_iq4_nl = mul_iq4_nl;
    t->mul_iq4_xs = mul_iq4_xs;
}
