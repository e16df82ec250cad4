/* engine/kernels/kern.h - the kernel table: what the framework may call, and what each computes.
 *
 * kern.def is the only list. Generic C (plain loops, -ffp-contract=off) is the definition; each
 * instruction set is one library that overrides what it has, and a level inherits the rest from the
 * level below. Kernels do not allocate, thread or log.
 *
 * Bit-for-bit rule. At a given level the value of one output depends only on its own inputs: not on
 * how many rows (m) or lane groups share a call, not on how work is split. Every kernel therefore
 * fixes the order of its floating-point additions per output: one lane per output, in sequence over
 * the reduction index.
 *
 * Packed weights ("x16"). Output rows are taken 16 at a time (a group); the last group is padded
 * with zeros. Group g of an [n_out, n_in] matrix lies at packed + g * kern_group_bytes(type, n_in).
 * Inside a group, in order of k:
 *     F32, F16, BF16:  w[k][16]                                 (k = 0 .. n_in-1)
 *     F8_E4M3:         per 128 k: float scale[16], then w[k][16] (the last block may be shorter); a NaN
 *                      among a row's values makes that block's scale NaN
 *     others:          per 32 or 256 k the scales of 16 rows, then their integers, four k of each row
 *                      side by side; quant_layout.h describes it. About the file's size (kern_group_bytes).
 *
 * Activations. Float types take float32 rows as they are. All others take rows prepared by act_q8:
 *     float d[n/32]; int32_t s[n/32]; int8_t q[n]; int16_t h[n/16]; float t[n/32]
 *     with d = max|x| / 127, q = round to nearest even of x (1/d) in [-127, 127], h = sum of q over each
 *     16, s = -128 times the sum over each 32 (what an unsigned weight w + 128 adds too much),
 *     t = d * sum over each 32. kern_act_bytes gives the size; 64-aligned.
 *
 * What a product computes. dot, sum are exact integers over the 32 (or 16) values of a block; b counts
 * blocks of 32, ascending; every float32 operation is rounded, in this order:
 *     F32, F16, BF16               y += w_k * x_k for each k
 *     F8_E4M3                      a = 0; a += w_k * x_k for each k of a block of 128; y += scale * a
 *     Q4_0, Q5_0, Q8_0, IQ4_NL     y += dot * (d * dx)
 *     Q4_1, Q5_1                   y += dot * (d * dx);  y += m * tx
 *     Q4_K, Q5_K                   y += dot * (d s * dx);  y -= (dmin min) * tx
 *     IQ4_XS                       y += dot * (d s * dx)
 *     Q3_K, Q6_K                   y += (s0 dot0 + s1 dot1) * (d * dx)           dot0, dot1: halves of 16
 *     Q2_K                         y += (s0 dot0 + s1 dot1) * (d * dx);
 *                                  y -= (min0 h0 + min1 h1) * (dmin * dx)
 * where s, min are the integer scales of the file, and d s, dmin min are exact in float32. At the
 * level amx, for F16, BF16 and F8_E4M3: x is two bfloat16, x1 its upper half cut off and x2 the rest
 * rounded, together within 2^-16 of it; a weight is one, or two for F16, exactly. For each 32 k and
 * each pair of parts: a = sum over k, even and odd ones apart, each in sequence, and then both
 * added; y += a, for F8_E4M3 after each 128 k: y += scale * (sum of a). Subnormal parts and float32
 * count as zero.
 *
 * mul_rounded: w_k is the file's value (the integer times its scale, plus or minus the minimum, in
 * float32, rounded three times at most) rounded to bfloat16, to nearest; x_k is bfloat16; y += w_k *
 * x_k. At the level amx in the order just said, subnormals as zero; and w_k is enlarged by 1.4427
 * 2^-9 of itself and then cut off. There types without minima go by half precision: the scale, enlarged by
 * 1.2624 2^-9 of itself, is rounded to 11 bits, its product with the integer too, which is then cut
 * off; below 2^(top - 29) it may count as zero; each four k come in the order 0, 2, 1, 3; and an x_k of
 * 2^(31 - top) or more gives sums that are not finite, as does a scale that is not. */
#ifndef LATENT_ENGINE_KERNELS_KERN_H
#define LATENT_ENGINE_KERNELS_KERN_H

#include <stddef.h>
#include <stdint.h>
#include "base/cpu.h"
#include "engine/model/tensor.h" /* enum tensor_type only; plain data */

#define KERN_LANES 16 /* outputs per group, and query lanes per attention group, at every level */

/* One block of index keys against the heads of one query: the lightning indexer (DeepSeek-V3.2). For row
 * t, with lanes i over heads 16 g + i:
 *     lane_i = sum over g ascending of w[g][i] max(0, sum over d ascending of q[g][d][i] * row_t[d])
 *     scores[t] = sum over i ascending of lane_i                                    (all float32)
 * Lanes without a head have w = 0 and q = 0. A NaN product counts as 0. Subnormal operands and sums of
 * the inner product may count as 0. */
struct index_block {
    const void *rows;      /* row 0 of the block; rows row_bytes apart */
    size_t row_bytes;
    enum tensor_type row_type; /* TT_BF16 or TT_F32 */
    int n_rows, dim, n_groups;
    const float *q;        /* [n_groups][dim][16] */
    const float *w;        /* [n_groups][16] */
    float *scores;         /* [n_rows] */
    float *scratch;        /* kern_index_scratch_floats(dim, n_rows) */
};

/* How a cache row lies in memory. TT_F32, TT_BF16: elems values, nothing else. TT_I8, TT_F8_E4M3
 * (8-bit rows): elems - tail values of one byte, then `tail` bf16 values (rope keys, which 8 bits would
 * blur), then one float32 scale for each 128 of the bytes (the last block may be shorter);
 * element = byte value * scale.
 * TT_I4 (4-bit rows): elems - tail values in groups of 32, 16 bytes each: byte i has value i of the group
 * in its low half and value 16 + i in its high one, the last group filled up with zeros; then `tail` bf16
 * values, then a bf16 scale for each group; element = level * scale, the levels being those of IQ4_NL:
 * -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.
 * Both counts are even; row_bytes comes from kern_row_bytes: a multiple of 16 for rows of 8 or 4 bits. */
struct row_format {
    enum tensor_type type;
    int elems, tail;
    size_t row_bytes;
};

#define KERN_MAX_ROTATION 512

/* The first dim values of n rows, rotated as by `rotate`: row i by the sum of the angles of near + i * dim
 * and those of far, of each of which there are the cosines of dim / 2 pairs and then the sines. Rounded to
 * the type of the rows; behind them the values as they were. */
struct row_rotation {
    const unsigned char *rows;
    size_t row_bytes;
    unsigned char *dst;
    size_t dst_bytes;
    enum tensor_type type; /* TT_BF16 or TT_F32 */
    int n, dim;            /* dim: even, at most KERN_MAX_ROTATION */
    int interleaved;
    const float *near, *far;
};

/* The products of n rows x with `up` and of n embeddings with `gate`, multiplied with each other and
 * normalised: y_d = (sum over k of x_k up_kd) (sum over k of e_k gate_kd), less its mean over all d, times
 * 1 / sqrt(mean of its square + eps), each sum in float32. Rounded to the type of the rows. A row depends on
 * its own x and e only. Levels may round operands to bfloat16 (attn_bf16). */
struct gated_rows {
    int n, width, embed, each; /* each: outputs */
    enum tensor_type type;     /* of x and dst: TT_BF16 or TT_F32 */
    const unsigned char *const *x; /* [n] */
    const float *const *e;         /* [n] */
    /* [width][stride], [embed][stride], stride kern_gated_stride(each): zeros beyond the outputs */
    const float *up, *gate;
    float eps;
    const float *mean, *inverse; /* [n], to be taken for a row's own; or NULL */
    /* Rows dst_bytes apart: `first` values, and the others from element rest_at on. */
    unsigned char *dst;
    size_t dst_bytes;
    int first, rest_at;
    float *scratch; /* kern_gated_floats, 64-aligned */
};

#define ATTN_PIECE 512     /* most rows of one attn_piece call */
#define ATTN_MAX_GROUPS 16 /* most lane groups of one call */

/* Gated latents that are not multiplied out. A row has a latent c of `width` values, behind it `rope` values
 * r, and an embedding e of its token; a head has `each` outputs y_d = (up_d c) (gate_d e). */
struct gate_shape {
    int heads, each, width, embed, rope;
};

/* Of n rows and all heads: 1 / sqrt(mean over d of y_d^2, less the square of the mean of y_d, + eps), each
 * sum in float32. A row depends on its own c and e only. Levels may round operands (attn_bf16). */
struct gate_factors {
    struct gate_shape shape;
    int n;
    enum tensor_type type;         /* of x: TT_BF16 or TT_F32 */
    const unsigned char *const *x; /* [n] */
    const float *const *e;         /* [n] */
    const void *weights;           /* gate_pack's */
    float eps;
    float *factors; /* [n][kern_gate_stride(heads)]: of each head, and anything beyond */
    float *scratch; /* kern_gate_factor_floats, 64-aligned */
};

/* A piece as attn_piece has it, of a row's latent times each value of its embedding, and a factor of the row
 * and the head:
 *     s_t = f_t,h sum over b, k of q[b][k] e_t[b] c_t[k] + sum over k of q[embed][k] r_t[k]
 *     m = max_t s_t;  l = sum_t exp(s_t - m);  o[b][k] = sum_t exp(s_t - m) f_t,h e_t[b] c_t[k]
 * with the same promises: a lane's result depends on its query, its limit and the rows below it. A lane
 * without a query has a limit of 0 or less. */
struct gate_piece {
    struct gate_shape shape;
    int n_rows, n_groups;          /* 1 .. ATTN_PIECE, 1 .. ATTN_MAX_GROUPS */
    enum tensor_type type;         /* of rows: TT_BF16 or TT_F32 */
    const unsigned char *const *x; /* [n_rows]: [c | r], finite */
    const float *const *e;         /* [n_rows] */
    const float *factors;          /* as gate_factors leaves them */
    int first;                     /* head of lane 0: lane i is of head (first + i) % heads */
    const void *q;                 /* gate_query's, groups kern_gate_query_bytes apart */
    const int32_t *limit;          /* these as struct attn_piece has them */
    float *m, *l, *o;
    size_t o_stride;
    void *scratch;                 /* kern_gate_scratch_bytes, 64-aligned */
};

/* A piece of the context, from scratch, against some groups of 16 query lanes; the core of nearly every
 * attention mechanism. A lane is one (query token, head). For lane i and rows t < min(limit[i], n_rows):
 *     s_t = scale * sum over d of q_i[d] key_t[d]     (scale and q as given to attn_pack)
 *     m[i] = max_t s_t;  l[i] = sum_t exp(s_t - m[i]);  o_i[r] = sum_t exp(s_t - m[i]) value_t[r]
 * key_t = row[k_off .. k_off + dk), value_t = row[v_off .. v_off + dv), in elements; the two may overlap.
 * A lane with limit <= 0 gets m = -INFINITY, l = 0, and o_i is left alone.
 * A lane's result depends on its query, its limit and the rows below it, bit for bit: not on n_rows, the
 * other lanes, its place among them, or how pages cut the rows. Levels may round queries, keys and values
 * to bfloat16 (attn_bf16), and sum in their own fixed order, in float32 or better. Then m need not be the
 * largest s: l is 2^60 at most, and s_t counts as none below m - 87; and exp(s - m), in l as in o, is within
 * 0.0073 of itself. */
struct attn_piece {
    const unsigned char *const *pages; /* row t is row u = first + t of the pages: page u / page_tokens, at
                                          offset + (u % page_tokens) * row_bytes */
    size_t offset;         /* 64-aligned, as pages are */
    int page_tokens, first;
    int n_rows;            /* 1 .. ATTN_PIECE; all initialised and finite where a lane sees them */
    int n_ahead;           /* a hint: rows after these, on the same pages, of the next call; or 0 */
    int fetched;           /* a hint: these were the rows ahead of the call before */
    struct row_format format;
    int dk, dv, k_off, v_off;
    int n_groups;          /* 1 .. ATTN_MAX_GROUPS */
    const void *q;         /* attn_pack's, groups kern_attn_query_bytes(dk) apart */
    const int32_t *limit;  /* [n_groups * 16] */
    float *m, *l;          /* [n_groups * 16] */
    float *o;              /* lane i's dv values at o + i * o_stride */
    size_t o_stride;       /* floats, >= dv */
    void *scratch;         /* kern_attn_scratch_bytes, 64-aligned */
};

/* One field per row of kern.def, named as there. */
struct kernels {
    enum cpu_level level; /* what was asked for, after lowering to what exists */
    bool attn_bf16;       /* attn_piece rounds queries, keys, values and exp(s - m) to bfloat16, see there */
#define KERN(name, ret, args, check_class) ret (*name) args;
#include "engine/kernels/kern.def"
#undef KERN
};

/* The table of a level (lowered to the best one this build and machine have). Static, never fails. */
const struct kernels *kern_table(enum cpu_level level);
/* 1 when this build contains code of its own for the level and the machine can run it. */
int kern_level_built(enum cpu_level level);

typedef void kern_mul_fn(const void *w, int n_out, int n_in, int g0, int g1, const void *const *x,
                         float *const *y, int m);
/* The product kernel for weights of a type; NULL when it has none. */
kern_mul_fn *kern_mul(const struct kernels *k, enum tensor_type type);

/* 1 when weights of this type have product kernels. */
int kern_weight_type_ok(enum tensor_type type);
/* 1 when the product takes rows prepared by act_q8; 0: float32 rows. */
int kern_act_is_q8(enum tensor_type type);
size_t kern_group_bytes(enum tensor_type type, int n_in);
/* Bytes of a packed [n_out, n_in] matrix. */
size_t kern_packed_bytes(enum tensor_type type, int n_out, int n_in);
/* Rows as they lie in a file, at any address. scale: struct tensor's, with its meaning; FP8 only. */
struct kern_source {
    const void *rows;
    size_t row_bytes;
    const float *scale;
    int64_t scale_cols, scale_row0;
};
/* Packs groups [g0, g1). dst is the base of the whole packed matrix, 64-aligned. n_in is a multiple of
 * the type's block. */
void kern_pack(enum tensor_type type, const struct kern_source *src, int n_out, int n_in, int g0,
               int g1, void *dst);
/* Above all weights of packed groups [g0, g1) of a type without minima: |w| < 2^top. Other types: 0.
 * KERN_TOP_NAN: a scale is not finite. Of several parts of a matrix the largest counts. */
#define KERN_TOP_LEAST (-64)
#define KERN_TOP_NAN 128
int kern_weights_top(enum tensor_type type, const void *packed, int n_in, int g0, int g1);
/* Row r of a packed matrix as float32: the values of the file's row, but for FP8 blocks that hold a NaN,
 * which are NaN altogether. */
void kern_unpack_row(enum tensor_type type, const void *packed, int n_in, int r, float *dst);
/* Bytes of one prepared activation row of n_in values for weights of this type (64-multiple). */
size_t kern_act_bytes(enum tensor_type type, int n_in);
size_t kern_index_scratch_floats(int dim, int n_rows);
/* Values that lane_max takes together: 64 of each lane. */
#define KERN_STRETCH 1024
static inline int kern_stretches(int n)
{
    return (n + KERN_STRETCH - 1) / KERN_STRETCH;
}
#define KERN_SOFT_NATS 30.0f /* soft_weights: what is so much less likely than the best has weight 0 */
size_t kern_row_bytes(enum tensor_type type, int elems, int tail);
/* Byte of a row at which its last `tail` elements begin, in a format that may have such. */
size_t kern_row_tail_at(const struct row_format *f, int tail);
/* The first n elements of a cache row as float32, exact; n <= elems - tail. */
void kern_row_read(const struct row_format *f, const void *row, int n, float *dst);
/* For the piece above, enough at every level; multiples of 64. */
size_t kern_attn_query_bytes(int dk);
size_t kern_attn_scratch_bytes(int row_elems, int dk, int dv);
static inline size_t kern_gated_stride(int each)
{
    return ((size_t)each + KERN_LANES - 1) / KERN_LANES * KERN_LANES;
}
size_t kern_gated_floats(int width, int embed, int each);
/* For the gated latents above. Factors of a row lie kern_gate_stride apart; packed weights, 64-aligned, take
 * kern_gate_bytes. */
static inline size_t kern_gate_stride(int heads)
{
    return kern_gated_stride(heads);
}
size_t kern_gate_bytes(const struct gate_shape *s);
size_t kern_gate_factor_floats(const struct gate_shape *s);
size_t kern_gate_query_bytes(const struct gate_shape *s);
size_t kern_gate_scratch_bytes(const struct gate_shape *s);

#endif
