/* engine/kernels/gate.h - how weights and queries of gated latents lie, for the levels that have them in
 * float32; and what all levels number alike.
 *
 * Outputs stand 16 side by side as [output][head], with as many heads as are a power of two up to 16 (those
 * that are missing are zeros): sums over a head's outputs then need no sums over lanes. More than 16 heads
 * are several blocks. */
#ifndef LATENT_ENGINE_KERNELS_GATE_H
#define LATENT_ENGINE_KERNELS_GATE_H

#include "engine/kernels/kern_internal.h"

/* Of a block: heads side by side, outputs of each in 16 columns, columns of 16. */
static inline int gate_heads(const struct gate_shape *s)
{
    int n = 1;
    while (n < s->heads && n < KERN_LANES)
        n *= 2;
    return n;
}
static inline int gate_blocks(const struct gate_shape *s)
{
    return (s->heads + KERN_LANES - 1) / KERN_LANES;
}
static inline int gate_columns(const struct gate_shape *s)
{
    int per = KERN_LANES / gate_heads(s);
    return (s->each + per - 1) / per;
}
/* The row of the weights that is lane i of a column; -1: none. */
static inline int gate_output(const struct gate_shape *s, int block, int column, int i)
{
    int n = gate_heads(s), head = block * KERN_LANES + i % n, d = column * (KERN_LANES / n) + i / n;
    return head < s->heads && d < s->each ? head * s->each + d : -1;
}

static inline int gate_filled(int n, int to)
{
    return (n + to - 1) / to * to;
}

/* Queries in float32, lane by lane: [embed][width] and `rope` values, both filled up to 16. */
static inline size_t gate_query_width(const struct gate_shape *s)
{
    return (size_t)gate_filled(s->width, KERN_LANES);
}
static inline size_t gate_query_floats(const struct gate_shape *s)
{
    return (size_t)s->embed * gate_query_width(s) + (size_t)gate_filled(s->rope, KERN_LANES);
}

#endif
