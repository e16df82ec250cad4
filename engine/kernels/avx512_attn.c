/* engine/kernels/avx512_attn.c - attention in bfloat16 with its products by vdpbf16ps, for processors
 * that have it: on some (Zen 4 and later) twice as many products as in float32, on none fewer.
 *
 * A vector has a pair of elements of 16 columns: a row of a right operand as it lies. The pair of a left row
 * is broadcast. Eight left rows by up to three right operands are in registers. Calls with few lanes go
 * another way, attn_narrow_template.h. */
#include "config.h"

#include "engine/kernels/attn_narrow_template.h"
#include "engine/kernels/avx512_rotate.h"

#define ROWS 8 /* of a left operand at a time */

/* sum[i][j] += left row i times right operand j, one step. */
INLINE void step_products(const int n, const unsigned char *left, size_t left_stride,
                          const unsigned char *const *right, __m512 (*sum)[UNIT])
{
    for (int p = 0; p < KERN_LANES; p++, left += 4) {
        __m512i r[UNIT];
        UNROLL
        for (int j = 0; j < n; j++)
            r[j] = _mm512_loadu_si512(right[j] + 64 * p);
        UNROLL
        for (int i = 0; i < ROWS; i++) {
            UNROLL
            for (int j = 0; j < n; j++)
                sum[i][j] = dot(sum[i][j], left + (size_t)i * left_stride, r[j]);
        }
    }
}

INLINE void scores_of(const int n, const struct call *c, const struct operand *key, const struct operand *q,
                      int row, float *const *to)
{
    __m512 sum[ROWS][UNIT];
    UNROLL
    for (int i = 0; i < ROWS; i++) {
        UNROLL
        for (int j = 0; j < n; j++)
            sum[i][j] = _mm512_setzero_ps();
    }
    for (int k = 0; k < c->k_steps; k++) {
        const unsigned char *right[UNIT];
        UNROLL
        for (int j = 0; j < n; j++)
            right[j] = operand_at(&q[j], k);
        step_products(n, operand_at(key, k) + (size_t)row * key->stride, key->stride, right, sum);
    }
    UNROLL
    for (int i = 0; i < ROWS; i++) {
        UNROLL
        for (int j = 0; j < n; j++)
            _mm512_storeu_ps(to[j] + (row + i) * KERN_LANES, sum[i][j]);
    }
}

static void products_begin(struct call *c)
{
    (void)c;
}

static void products_wait(struct call *c)
{
    (void)c;
}

static void products_end(void)
{
}

static void score_products(struct call *c, int n, const struct operand *keys, const struct operand *q)
{
    const struct sums *to = c->to;
    for (int k = 0; k < 2 * c->k_steps; k++)
        fetch_some(c);
    for (int h = 0; h < 2; h++)
        for (int row = 0; row < KERN_LANES; row += ROWS) {
            if (n == 1)
                scores_of(1, c, &keys[h], q, row, to->to + h);
            else if (n == 2)
                scores_of(2, c, &keys[h], q, row, to->to + 2 * h);
            else
                scores_of(3, c, &keys[h], q, row, to->to + 3 * h);
        }
}

/* ROWS lanes from `lane` of group i. */
static void values_of(const struct call *c, const unsigned char *weights, int steps, const float *so_far,
                      int i, int lane)
{
    const unsigned char *values = c->strip;
    float *const *to = c->to->to + 2 * i;
    const size_t *stride = c->to->stride + 2 * i;
    const float *from = so_far ? so_far + (i * KERN_LANES + lane) * STRIP : NULL;
    __m512 sum[ROWS][UNIT];
    UNROLL
    for (int k = 0; k < ROWS; k++) {
        UNROLL
        for (int j = 0; j < 2; j++)
            sum[k][j] = from ? _mm512_loadu_ps(from + k * STRIP + j * KERN_LANES) : _mm512_setzero_ps();
    }
    weights += (size_t)i * GROUP_WEIGHTS + (size_t)lane * 64;
    for (int k = 0; k < steps; k++, weights += TILE_BYTES, values += 2 * TILE_BYTES) {
        const unsigned char *right[UNIT] = {values, values + TILE_BYTES, NULL};
        step_products(2, weights, 64, right, sum);
    }
    UNROLL
    for (int k = 0; k < ROWS; k++) {
        UNROLL
        for (int j = 0; j < 2; j++)
            _mm512_storeu_ps(to[j] + (size_t)(lane + k) * stride[j] / 4, sum[k][j]);
    }
}

static void value_products(struct call *c, int n, const unsigned char *weights, int steps,
                           const struct part *next, const float *so_far)
{
    (void)next;
    for (int k = 0; k < 2 * steps; k++)
        fetch_some(c);
    for (int i = 0; i < n; i++)
        for (int lane = 0; lane < KERN_LANES; lane += ROWS)
            values_of(c, weights, steps, so_far, i, lane);
}

static void attn_piece_any(const struct attn_piece *p)
{
    if (!attn_narrow(p))
        attn_piece(p);
}

void kern__init_avx512_attention(struct kernels *t)
{
    t->attn_pack = attn_pack;
    t->attn_piece = attn_piece_any;
    t->attn_bf16 = true;
    set_rotation(t);
}
