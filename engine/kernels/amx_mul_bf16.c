/* engine/kernels/amx_mul_bf16.c - products of F16, BF16 and FP8 weights on AMX tiles of bfloat16, for any
 * number of rows: what an output's sum is does not depend on it (kern.h).
 *
 * Activations stay float32 to within 2^-16: each is two bfloat16, both multiplied, which the tiles do
 * faster than vectors multiply one float32. A step is 32 k: one right operand of 1 KB for each group, in
 * which two k of an output lie side by side. Packed weights lie k by k, so each step is shuffled into a
 * buffer in L1, two steps ahead of its use, while the tiles work; with few rows this runs at the speed
 * of memory. FP8 becomes bfloat16 there, exactly, and F16 two of them. Up to 16 rows: four groups at a
 * time, to have four sums in flight. More: tiles in pairs against two groups; all pairs of the call
 * share what was shuffled for a range of k. Sums of float32 stay in the tiles within such a range; FP8's
 * are scaled and added in vectors after each block of 128. */
#include "config.h"

#include "engine/kernels/amx.h"
#include "engine/kernels/amx_mul.h"

#define STEP 32             /* k */
#define HALVES 2            /* of an activation */
#define PART 1024           /* bytes of a right operand */
#define AHEAD 2             /* steps */
#define RING_BYTES 32768    /* shuffled weights */
#define MAX_ROWS 128
#define PANEL_BYTES (256 << 10)
#define UNIT (KERN_LANES * KERN_LANES)
#define F8_STEPS (F8_BLOCK / STEP)
#define FETCH_BYTES 3072

struct call {
    const unsigned char *a; /* left operands: [tiles][steps][halves][lanes][64 bytes] */
    int rows, lanes, tiles; /* lanes: rows of a tile */
    int s0, s1, steps;      /* the panel's, of all */
    bool resume;            /* go on from the sums in y */
    const unsigned char *w;
    size_t group_bytes;
    int n_out, n_in;
    float *const *y;
    float *acc;             /* [tiles][groups][16][16] */
    float *tmp;             /* [4][16][16] */
    unsigned char *ring;    /* [steps % ring][groups][parts][PART] */
};

INLINE int parts_of(enum tensor_type type)
{
    return type == TT_F16 ? 2 : 1;
}

INLINE int ring_steps(enum tensor_type type, const int groups)
{
    return RING_BYTES / PART / parts_of(type) / groups;
}

/* Words of two rows of 16, side by side. */
INLINE __m512i pair_up(__m512i two)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9,
        24, 8, 23, 7, 22,
                                           6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, two);
}

/* 32 values as bfloat16. A NaN becomes a number: its block's scale is NaN (kern.h). */
INLINE __m512i bf16_of_f8(__m256i v)
{
    const __m512i small = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0,
                                           0x3c60, 0x3c40, 0x3c20, 0x3c00, 0x3bc0, 0x3b80, 0x3b00, 0);
    __m512i w = _mm512_cvtepi8_epi16(v), sign = _mm512_set1_epi16((short)0x8000);
    __m512i big = _mm512_add_epi16(_mm512_and_si512(_mm512_slli_epi16(w, 4),
        _mm512_set1_epi16((short)0x87f0)),
                                   _mm512_set1_epi16(120 << 7));
    __m512i low = _mm512_or_si512(_mm512_permutexvar_epi16(w, small), _mm512_and_si512(w, sign));
    return _mm512_mask_blend_epi16(_mm512_test_epi16_mask(w, _mm512_set1_epi16(0x78)), low, big);
}

/* Two rows of 16 as float32: as bfloat16 side by side, cut off. */
INLINE __m512i pair_of_f32(__m512 even, __m512 odd)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(_mm512_castps_si512(even), 16),
                                   _mm512_castps_si512(odd));
}

/* The upper halves of a, then those of b, as 32 bfloat16. */
INLINE __m512i halves_of(__m512i a, __m512i b)
{
    const __m512i order = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37,
        35, 33, 31, 29, 27,
                                           25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_epi16(a, order, b);
}

INLINE __m512 cut_off(__m512 v)
{
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32((int)0xffff0000)));
}

/* Step s of a group, as right operands. */
INLINE void shuffle_step(enum tensor_type type, const unsigned char *wg, int n_in, int s, unsigned char *dst)
{
    const size_t row = type == TT_F8_E4M3 ? KERN_LANES : 2 * KERN_LANES;
    unsigned char pad[STEP * 2 * KERN_LANES];
    const unsigned char *src = wg + (size_t)s * STEP * row;
    if (type == TT_F8_E4M3)
        src += (size_t)(s / F8_STEPS + 1) * KERN_LANES * sizeof(float);
    if (n_in - s * STEP < STEP) { /* zeros behind the end */
        memset(pad, 0, sizeof(pad));
        memcpy(pad, src, (size_t)(n_in - s * STEP) * row);
        src = pad;
    }
    UNROLL
    for (int i = 0; i < STEP / 2; i++, src += 2 * row, dst += 64) {
        if (type != TT_F8_E4M3 || i % 2 == 0)
            _mm_prefetch((const char *)src + FETCH_BYTES, _MM_HINT_T0);
        if (type == TT_BF16) {
            _mm512_store_si512(dst, pair_up(_mm512_loadu_si512(src)));
        } else if (type == TT_F8_E4M3) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)src);
            _mm512_store_si512(dst, pair_up(bf16_of_f8(v)));
        } else {
            v16 even = v16_load_f16(src), odd = v16_load_f16(src + row);
            v16 a = v16_sub(even, cut_off(even)), b = v16_sub(odd, cut_off(odd));
            _mm512_store_si512(dst, pair_of_f32(even, odd));
            _mm512_store_si512(dst + PART, pair_of_f32(a, b));
        }
    }
}

INLINE unsigned char *ring_at(enum tensor_type type, const struct call *c, int s, const int groups)
{
    return c->ring + (size_t)(s % ring_steps(type, groups)) * (size_t)(groups * parts_of(type) * PART);
}

INLINE void shuffle_groups(enum tensor_type type, const struct call *c, int g, int s, const int groups)
{
    unsigned char *dst = ring_at(type, c, s, groups);
    for (int j = 0; j < groups; j++)
        shuffle_step(type, c->w + (size_t)(g + j) * c->group_bytes, c->n_in, s,
                     dst + j * parts_of(type) * PART);
}

/* Sums of one or two tiles of rows (tiles 0, 1 and 2, 3) and two groups, or of one tile and four; second: how
 * far behind the first halves of the rows the second ones are. */
INLINE void step_products(enum tensor_type type, const unsigned char *a0, const unsigned char *a1,
    size_t second,
                          const unsigned char *b, const int pair, const int groups)
{
    const int parts = parts_of(type);
    tiles_fence();
    UNROLL
    for (int p = 0; p < parts; p++, b += PART) {
        _tile_loadd(6, b, 64);
        if (groups >= 2)
            _tile_loadd(7, b + parts * PART, 64);
        UNROLL
        for (int h = 0; h < 2; h++) {
            _tile_loadd(4, a0 + (size_t)h * second, 64);
            if (pair)
                _tile_loadd(5, a1 + (size_t)h * second, 64);
            _tile_dpbf16ps(0, 4, 6);
            if (groups >= 2)
                _tile_dpbf16ps(1, 4, 7);
            if (pair)
                _tile_dpbf16ps(2, 5, 6);
            if (pair && groups >= 2)
                _tile_dpbf16ps(3, 5, 7);
        }
        if (groups == 4) {
            _tile_loadd(6, b + 2 * parts * PART, 64);
            _tile_loadd(7, b + 3 * parts * PART, 64);
            UNROLL
            for (int h = 0; h < 2; h++) {
                _tile_loadd(5, a0 + (size_t)h * second, 64);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    tiles_fence();
}

/* The sums in tiles: of tile t and group j at at + (t * groups + j) * UNIT. */
#define EACH_SUM(pair, groups, op)                                                                 \
    do {                                                                                           \
        op(0, 0);                                                                                  \
        if (groups >= 2)                                                                           \
            op(1, 1);                                                                              \
        if (groups == 4) {                                                                         \
            op(2, 2);                                                                              \
            op(3, 3);                                                                              \
        } else if (pair) {                                                                         \
            op(2, groups);                                                                         \
            if (groups == 2)                                                                       \
                op(3, 3);                                                                          \
        }                                                                                          \
    } while (0)

INLINE void sums_zero(const int pair, const int groups)
{
#define ZERO(t, i) _tile_zero(t)
    EACH_SUM(pair, groups, ZERO);
}

INLINE void sums_read(const float *at, const int pair, const int groups)
{
    tiles_fence();
#define READ(t, i) _tile_loadd(t, at + (i) * UNIT, 64)
    EACH_SUM(pair, groups, READ);
}

INLINE void sums_write(float *at, const int pair, const int groups)
{
#define WRITE(t, i) _tile_stored(t, at + (i) * UNIT, 64)
    EACH_SUM(pair, groups, WRITE);
}

/* A block of FP8: acc += scale * sums, and the sums are zero again. */
INLINE void f8_scale(const struct call *c, float *acc, int g, int block, const int pair, const int groups)
{
    sums_write(c->tmp, pair, groups);
    sums_zero(pair, groups);
    UNROLL
    for (int j = 0; j < groups; j++) {
        const unsigned char *at = c->w + (size_t)(g + j) * c->group_bytes + (size_t)block * F8_GROUP_BLOCK;
        v16 scale = v16_load((const float *)(const void *)at);
        for (int t = 0; t <= pair; t++) {
            int unit = (t * groups + j) * UNIT;
            for (int i = 0; i < c->lanes; i++) {
                float *to = acc + unit + i * KERN_LANES;
                v16_store(to, v16_fma(scale, v16_load(c->tmp + unit + i * KERN_LANES), v16_load(to)));
            }
        }
    }
}

/* Steps [s0, s1) of a tile of rows or two; fresh: weights are not in the ring yet. */
INLINE void run_steps(enum tensor_type type, const struct call *c, int g, int tile, int s0, int s1,
    bool fresh,
                      const int pair, const int groups)
{
    const size_t second = (size_t)c->lanes * 64, step_bytes = HALVES * second,
        tile_bytes = step_bytes * (size_t)(c->s1 - c->s0);
    const unsigned char *a = c->a + (size_t)tile * tile_bytes + (size_t)(s0 - c->s0) * step_bytes;
    float *acc = c->acc + tile * groups * UNIT;
    if (type == TT_F8_E4M3 || (s0 == 0 && !c->resume))
        sums_zero(pair, groups);
    else
        sums_read(acc, pair, groups);
    for (int s = s0; fresh && s < s0 + AHEAD && s < s1; s++)
        shuffle_groups(type, c, g, s, groups);
    for (int s = s0; s < s1; s++, a += step_bytes) {
        if (fresh && s + AHEAD < s1)
            shuffle_groups(type, c, g, s + AHEAD, groups);
        step_products(type, a, a + tile_bytes, second, ring_at(type, c, s, groups), pair, groups);
        if (type == TT_F8_E4M3 && ((s + 1) % F8_STEPS == 0 || s + 1 == c->steps))
            f8_scale(c, acc, g, s / F8_STEPS, pair, groups);
    }
    if (type != TT_F8_E4M3)
        sums_write(acc, pair, groups);
}

/* Some neighbouring groups against all rows of the panel. */
INLINE void run_groups(enum tensor_type type, const struct call *c, int g, const int groups)
{
    int range = c->tiles > 2 ? ring_steps(type, groups) : c->s1 - c->s0;
    if (type == TT_F8_E4M3 || c->resume)
        for (int i = 0; i < c->tiles * c->lanes; i++)
            for (int j = 0; j < groups; j++)
                v16_store(c->acc + (i / KERN_LANES * groups + j) * UNIT + i % KERN_LANES * KERN_LANES,
                          c->resume && i < c->rows ? load_lanes(c->y[i], g + j, c->n_out) : v16_set1(0.0f));
    for (int s = c->s0; s < c->s1; s += range) {
        int end = c->s1 - s < range ? c->s1 : s + range, t = 0;
        for (; groups < 4 && t + 2 <= c->tiles; t += 2)
            run_steps(type, c, g, t, s, end, t == 0, 1, groups);
        if (t < c->tiles)
            run_steps(type, c, g, t, s, end, t == 0, 0, groups);
    }
    for (int i = 0; i < c->rows; i++)
        for (int j = 0; j < groups; j++)
            store_lanes(c->y[i],
                        v16_load(c->acc + (i / KERN_LANES * groups + j) * UNIT + i % KERN_LANES * KERN_LANES),
                        g + j, c->n_out);
}

/* Sixteen values as two bfloat16 each, in the upper halves of the results; infinities and NaN have no
 * rest. */
INLINE void split_row(__m512 x, __m512i *first, __m512i *rest)
{
    const __m512i top = _mm512_set1_epi32((int)0xffff0000), all = _mm512_set1_epi32(0x7f800000);
    __m512i bits = _mm512_castps_si512(x);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    __mmask16 some = _mm512_cmpgt_epi32_mask(all, _mm512_and_si512(bits, all));
    *first = _mm512_and_si512(_mm512_mask_or_epi32(bits, nan, bits, _mm512_set1_epi32(0x400000)), top);
    __m512i r = _mm512_castps_si512(_mm512_sub_ps(x, _mm512_castsi512_ps(*first)));
    /* to nearest: the rest is below 2^-7 of a finite value, so rounding up cannot overflow */
    *rest = _mm512_maskz_and_epi32(some, _mm512_add_epi32(r, _mm512_set1_epi32(0x8000)), top);
}

/* The rows' values in two halves; zeros behind the last value and where there is no row. */
static void fill_panel(const struct call *c, const void *const *x, unsigned char *panel)
{
    const size_t second = (size_t)c->lanes * 64;
    for (int i = 0; i < c->tiles * c->lanes; i++) {
        unsigned char *to = panel + (size_t)(i / c->lanes) * (size_t)(c->s1 - c->s0) * HALVES * second +
                            (size_t)(i % c->lanes) * 64;
        for (int s = c->s0; s < c->s1; s++, to += HALVES * second) {
            int left = i < c->rows ? c->n_in - s * STEP : 0;
            const float *from = (const float *)x[i < c->rows ? i : 0] + s * STEP;
            __m512i a[2], b[2];
            UNROLL
            for (int h = 0; h < 2; h++) {
                int n = left - 16 * h;
                __mmask16 m = (__mmask16)(n >= 16 ? 0xffff : n > 0 ? (1u << n) - 1u : 0);
                split_row(_mm512_maskz_loadu_ps(m, m ? from + 16 * h : from), &a[h], &b[h]);
            }
            _mm512_store_si512(to, halves_of(a[0], a[1]));
            _mm512_store_si512(to + second, halves_of(b[0], b[1]));
        }
    }
}

static void configure(int lanes)
{
    struct tile_config c = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        c.rows[t] = (uint8_t)(t < 6 ? lanes : KERN_LANES);
        c.colsb[t] = 64;
    }
    tiles_fence();
    _tile_loadconfig(&c);
}

INLINE void mul_tiles(enum tensor_type type, size_t group_bytes, const void *w, int n_out, int n_in, int g0,
                      int g1, const void *const *x, float *const *y, int m)
{
    unsigned char panel[PANEL_BYTES] ALIGN64, ring[RING_BYTES] ALIGN64;
    float acc[2 * MAX_ROWS * KERN_LANES] ALIGN64, tmp[4 * UNIT] ALIGN64;
    for (int r = 0; r < m; r += MAX_ROWS) {
        struct call c = {.a = panel, .w = w, .group_bytes = group_bytes, .n_out = n_out,
            .n_in = n_in, .y = y + r,
                         .acc = acc, .tmp = tmp, .ring = ring, .steps = (n_in + STEP - 1) / STEP};
        c.rows = m - r < MAX_ROWS ? m - r : MAX_ROWS;
        c.lanes = c.rows < KERN_LANES ? c.rows : KERN_LANES;
        c.tiles = (c.rows + KERN_LANES - 1) / KERN_LANES;
        int range = PANEL_BYTES / (c.tiles * c.lanes * 64 * HALVES) / F8_STEPS * F8_STEPS;
        configure(c.lanes);
        for (c.s0 = 0; c.s0 < c.steps; c.s0 = c.s1) {
            c.s1 = c.steps - c.s0 < range ? c.steps : c.s0 + range;
            c.resume = c.s0 > 0;
            fill_panel(&c, x + r, panel);
            int g = g0;
            for (; c.tiles == 1 && g + 4 <= g1; g += 4)
                run_groups(type, &c, g, 4);
            for (; g + 2 <= g1; g += 2)
                run_groups(type, &c, g, 2);
            if (g < g1)
                run_groups(type, &c, g, 1);
        }
        _tile_release();
    }
}

static void mul_f16(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
    float *const *y, int m)
{
    mul_tiles(TT_F16, (size_t)n_in * KERN_LANES * 2, w, n_out, n_in, g0, g1, x, y, m);
}

static void mul_bf16(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
    float *const *y, int m)
{
    mul_tiles(TT_BF16, (size_t)n_in * KERN_LANES * 2, w, n_out, n_in, g0, g1, x, y, m);
}

static void mul_f8_e4m3(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
    float *const *y,
                        int m)
{
    size_t bytes = (size_t)n_in * KERN_LANES + f8_blocks(n_in) * KERN_LANES * sizeof(float);
    mul_tiles(TT_F8_E4M3, bytes, w, n_out, n_in, g0, g1, x, y, m);
}

void kern__init_amx_halves(struct kernels *t)
{
    t->mul_f16 = mul_f16;
    t->mul_bf16 = mul_bf16;
    t->mul_f8_e4m3 = mul_f8_e4m3;
}
