/* engine/kernels/attn_few_template.h - scores of a piece for few lanes: keys are turned around in registers,
 * as a panel of them would hardly be read more often than it is written. Included by attn_template.h; all
 * static. Every sum has the terms of attn_template.h in its order, so that scores are the same to the bit. */

#define FEW_MOST 8    /* lanes: one register each */
#define FEW_COLUMNS 3 /* most vectors of rows of a tile */
#define FEW_STEP 4    /* float32 of the 16 bytes that are turned around at once */

/* Scores of `columns` vectors of rows, from row t of the block on, against all lanes. */
INLINE void few_tile(struct attn_work *w, int t0, int t, const bool bf16, const int lanes, const int columns)
{
    const unsigned char *const *from = w->from + t;
    const int dk = w->p->dk, some = bf16 ? 2 * FEW_STEP : FEW_STEP;
    /* Fetching as in attn_pack_keys: rows an element, after every few elements; one vector's rows at once. */
    const int pace = ((columns * VA) << 16) / dk + 1, turn = columns == 1 ? dk : 16;
    size_t at = (size_t)w->k_at * (bf16 ? 2 : 4);
    const float *q[FEW_MOST];
    va sum[FEW_MOST][FEW_COLUMNS];
    UNROLL
    for (int l = 0; l < lanes; l++) {
        q[l] = w->q[l];
        UNROLL
        for (int c = 0; c < columns; c++)
            sum[l][c] = va_set1(0.0f);
    }
    for (int d = 0; d < dk; d += some, at += 16) {
        va key[FEW_COLUMNS][FEW_STEP];
        if (d % turn == 0)
            attn_fetch(w, t0 + ATTN_ROWS + t + (pace * (d + turn) >> 16));
        UNROLL
        for (int c = 0; c < columns; c++)
            va_turn(from + c * VA, at, key[c]);
        UNROLL
        for (int k = 0; k < some; k++) {
            va x[FEW_COLUMNS];
            UNROLL
            for (int c = 0; c < columns; c++)
                x[c] = !bf16 ? key[c][k % FEW_STEP] : k % 2 ? va_odd(key[c][k / 2]) : va_even(key[c][k / 2]);
            UNROLL
            for (int l = 0; l < lanes; l++) {
                va s = va_set1(q[l][d + k]);
                UNROLL
                for (int c = 0; c < columns; c++)
                    sum[l][c] = va_fma(s, x[c], sum[l][c]);
            }
        }
    }
    UNROLL
    for (int l = 0; l < lanes; l++) {
        UNROLL
        for (int c = 0; c < columns; c++)
            va_store(w->score[l] + t + c * VA, sum[l][c]);
    }
}

INLINE void few_tiles(struct attn_work *w, int t0, int n, const bool bf16, const int lanes, const int columns)
{
    int t = 0;
    for (; t + (columns - 1) * VA < n; t += columns * VA) {
        few_tile(w, t0, t, bf16, lanes, columns);
    }
    for (; columns > 1 && t < n; t += VA) {
        few_tile(w, t0, t, bf16, lanes, 1);
    }
}

/* A function for each number of lanes. Columns: so many that the sums outlast a multiply-add's latency, and
 * that turned keys find registers beside them. */
#define FEW_LANES(lanes, columns)                                                               \
    static __attribute__((noinline)) void few_lanes_##lanes(struct attn_work *w, int t0, int n) \
    {                                                                                           \
        if (w->bf16)                                                                            \
            few_tiles(w, t0, n, true, lanes, columns);                                          \
        else                                                                                    \
            few_tiles(w, t0, n, false, lanes, columns);                                         \
    }
FEW_LANES(1, 3)
FEW_LANES(2, 3)
FEW_LANES(3, 3)
FEW_LANES(4, 2)
FEW_LANES(5, 2)
FEW_LANES(6, 2)
FEW_LANES(7, 1)
FEW_LANES(8, 1)

/* False: there are too many lanes, or keys end inside 16 bytes; nothing was done. */
static bool few_scores(struct attn_work *w, int t0, int n)
{
    if (w->n_live > FEW_MOST || (!w->bf16 && w->p->dk % FEW_STEP != 0))
        return false;
    switch (w->n_live) {
    case 1: few_lanes_1(w, t0, n); break;
    case 2: few_lanes_2(w, t0, n); break;
    case 3: few_lanes_3(w, t0, n); break;
    case 4: few_lanes_4(w, t0, n); break;
    case 5: few_lanes_5(w, t0, n); break;
    case 6: few_lanes_6(w, t0, n); break;
    case 7: few_lanes_7(w, t0, n); break;
    default: few_lanes_8(w, t0, n); break;
    }
    return true;
}
