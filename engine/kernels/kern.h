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
 *     Q8_0:            per block of 32 k: f16 d[16], then int8 q[8][16][4]: q[j][row][i] is
 *                      k = 32 b + 4 j + i   (544 bytes, as many as 16 Q8_0 blocks)
 *
 * Activations. Float types take float32 rows as they are. Q8_0 takes rows prepared by act_q8:
 *     float d[n/32]; int32_t s[n/32]; int8_t q[n]   with d = max|x| / 127, q = round to nearest even
 *     of x (1/d) in [-127, 127], s = -128 times the sum of the block's q (what an unsigned weight
 *     w + 128 adds too much). kern_act_bytes gives the size; 64-aligned.
 * y = sum over blocks b, ascending: (float)(integer dot of block b) * (d_w * d_x), added in float32.
 */
#ifndef LATENT_ENGINE_KERNELS_KERN_H
#define LATENT_ENGINE_KERNELS_KERN_H

#include <stddef.h>
#include <stdint.h>
#include "base/cpu.h"
#include "engine/model/tensor.h" /* enum tensor_type only; plain data */

#define KERN_LANES 16 /* outputs per group, and query lanes per attention group, at every level */

/* One block of cache rows against some groups of 16 query lanes; the core of nearly every attention
 * mechanism. A lane is one (query token, head). For lane i of group g and row t of the block, with
 * t < limit[16 g + i]:
 *     s = sum over d ascending, float32: q[g][d][i] * key_t[d]        (q is pre-scaled)
 * then, with m' = max(m, max_t s) and c = exp(m - m') (0 when m is -inf):
 *     l = l c + sum_t exp(s_t - m');  acc[r] = acc[r] c + sum_t exp(s_t - m') value_t[r]
 * in order of t. Lanes with limit <= 0 keep m, l, acc bit for bit. key = row[k_off .. k_off + dk),
 * value = row[v_off .. v_off + dv), in elements. */
struct attn_block {
    const void *rows;      /* row 0 of the block; 64-byte aligned pages, rows row_bytes apart */
    size_t row_bytes;
    enum tensor_type row_type; /* TT_BF16 or TT_F32 */
    int n_rows;            /* 1 .. 1024; all initialised */
    int dk, dv, k_off, v_off;
    int n_groups;
    const float *q;        /* [n_groups][dk][16] */
    const int32_t *limit;  /* [n_groups * 16]: rows of this block that the lane may see */
    float *m, *l;          /* [n_groups][16]; start: -INFINITY, 0 */
    float *acc;            /* [n_groups][dv][16]; start: 0 */
    float *scratch;        /* kern_attn_scratch_floats(row elements, n_rows) */
};

/* One block of index keys against the heads of one query: the lightning indexer (DeepSeek-V3.2). For row
 * t, with lanes i over heads 16 g + i:
 *     lane_i = sum over g ascending of w[g][i] max(0, sum over d ascending of q[g][d][i] * row_t[d])
 *     scores[t] = sum over i ascending of lane_i                                    (all float32)
 * Lanes without a head have w = 0 and q = 0. A NaN product counts as 0. */
struct index_block {
    const void *rows;      /* row 0 of the block; rows row_bytes apart */
    size_t row_bytes;
    enum tensor_type row_type; /* TT_BF16 or TT_F32 */
    int n_rows, dim, n_groups;
    const float *q;        /* [n_groups][dim][16] */
    const float *w;        /* [n_groups][16] */
    float *scores;         /* [n_rows] */
    float *scratch;        /* kern_attn_scratch_floats(dim, n_rows) */
};

/* One field per row of kern.def, named as there. */
struct kernels {
    enum cpu_level level; /* what was asked for, after lowering to what exists */
#define KERN(name, ret, args, check_class) ret (*name) args;
#include "engine/kernels/kern.def"
#undef KERN
};

/* The table of a level (lowered to the best one this build and machine have). Static, never fails. */
const struct kernels *kern_table(enum cpu_level level);
/* 1 when this build contains code of its own for the level and the machine can run it. */
int kern_level_built(enum cpu_level level);

/* 1 when weights of this type have product kernels. */
int kern_weight_type_ok(enum tensor_type type);
size_t kern_group_bytes(enum tensor_type type, int n_in);
/* Bytes of a packed [n_out, n_in] matrix. */
size_t kern_packed_bytes(enum tensor_type type, int n_out, int n_in);
/* Packs groups [g0, g1) from row-major rows of the file's own layout (row stride src_row_bytes).
 * dst is the base of the whole packed matrix, 64-aligned. */
void kern_pack(enum tensor_type type, const void *src, size_t src_row_bytes, int n_out, int n_in,
               int g0, int g1, void *dst);
/* Bytes of one prepared activation row of n_in values for weights of this type (64-multiple). */
size_t kern_act_bytes(enum tensor_type type, int n_in);
size_t kern_attn_scratch_floats(int row_elems, int n_rows);

#endif
