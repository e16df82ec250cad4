/* engine/attention/family/latent.h - absorbed attention over latents, for the mechanisms that keep some:
 * one latent or several blocks of them, rotary keys for all heads or for groups, heads that meet one
 * block or the sum of some.
 *
 *     c_b = norm(x W_kva,b)     r_g = rope(x W_kr,g)      q'_h,b = q_nope_h W_UK,h,b^T
 *     z_h,b = softmax((q'_h,b c_b + rope(q_pe_h) r_g(h)) scale) c_b     o_h = factor sum over its b of
 *     z_h,b W_UV,h,b
 *
 * A lane of attention is one (block, head of it): lane v is head v mod heads, of block v / per_block.
 * Rows:  one block    [c | r_0 .. ]        key the whole row; queries are zero where r is another group's
 *        two          [c_0 | r | c_1]      keys [c_0 | r] and [r | c_1]
 *        more         [c_0 .. | r]         made anew when read: [c_b | r] */
#ifndef LATENT_ENGINE_ATTENTION_FAMILY_LATENT_H
#define LATENT_ENGINE_ATTENTION_FAMILY_LATENT_H

#include "engine/attention/family/query.h"

#define LATENT_MAX_NORMS 4

/* Slots; a mechanism's own begin at LATENT_SLOTS. */
enum {
    LATENT_O = FAMILY_OUT,
    LATENT_Q,
    LATENT_KV = LATENT_Q + 4,
    LATENT_NORM,
    LATENT_ROPE_K,
    LATENT_KV_B,
    LATENT_UK,
    LATENT_UV,
    LATENT_FREQS,
    LATENT_V_B,
    LATENT_BLOCK_NORMS,
    LATENT_SLOTS = LATENT_BLOCK_NORMS + LATENT_MAX_NORMS
};

struct latent {
    int heads, nope, rope, v, q_rank;
    int blocks, width;   /* latents and the values of each */
    int branches;        /* blocks that a head sums over: lanes are branches * heads */
    int rope_keys;       /* one for each so many groups of heads; 1: one for all */
    bool rope_apart;     /* their projection is a tensor of its own */
    bool norm, q_norm;
    float scale, factor; /* of scores, of the sum */
    /* Forms of files: */
    bool apart;   /* queries are [rotary parts of all heads | others]; keys and values of groups have
                     up-projections of their own */
    bool columns; /* kv_b_proj is [block][latent][outputs], a norm is a tensor for each block */
    float q_factor, kv_factor; /* of normalised latents, not in the norms' weights; 0: none */
    /* Rotary frequencies are every freq_step-th of those of freq_dim values, from freq_first on; 0: all
     * of its own width */
    int freq_dim, freq_first, freq_step;
};

void latent_bind(struct family_bind *b, const struct latent *s);
int latent_plan(const struct family_layer *l, const struct latent *s, struct family_plan *p);
void latent_pack(struct family_pack *p, const struct latent *s);
/* In all three, s is what the layer was planned with. */
void latent_write(struct family_call *c, const struct latent *s);
void latent_query(struct family_call *c, const struct latent *s);
void latent_output(struct family_call *c, const struct latent *s);

/* Rotates x as group g's rotary vectors are, by the position of residual row i. */
void latent_rotate(const struct family_call *c, const struct latent *s, int g, int i, float *x);
/* Parts of latent_write for mechanisms that store rows themselves: the projections, as records [c_0 .. |
 * r]. */
void latent_project(struct family_call *c, const struct latent *s);
static inline int latent_raw(const struct latent *s)
{
    return s->blocks * s->width + s->rope_keys * s->rope;
}

/* The three parts of a mechanism whose shape is a function of the layer. */
#define LATENT_PARTS(shape_of)                                                                         \
    static void bind(struct family_bind *b)                                                            \
    {                                                                                                  \
        struct latent s = shape_of(b->l);                                                              \
        latent_bind(b, &s);                                                                            \
    }                                                                                                  \
    static int plan(const struct family_layer *l, struct family_plan *p)                               \
    {                                                                                                  \
        struct latent s = shape_of(l);                                                                 \
        return latent_plan(l, &s, p);                                                                  \
    }                                                                                                  \
    static void pack(struct family_pack *p)                                                            \
    {                                                                                                  \
        struct latent s = shape_of(p->from);                                                           \
        latent_pack(p, &s);                                                                            \
    }                                                                                                  \
    static void write_rows(struct family_call *c)                                                      \
    {                                                                                                  \
        struct latent s = shape_of(&c->l->l);                                                          \
        latent_write(c, &s);                                                                           \
    }                                                                                                  \
    static void query(struct family_call *c)                                                           \
    {                                                                                                  \
        struct latent s = shape_of(&c->l->l);                                                          \
        latent_query(c, &s);                                                                           \
    }                                                                                                  \
    static void output(struct family_call *c)                                                          \
    {                                                                                                  \
        struct latent s = shape_of(&c->l->l);                                                          \
        latent_output(c, &s);                                                                          \
    }

/* Keys that all of them have, in this order. */
enum { LATENT_HEADS, LATENT_Q_RANK, LATENT_RANK, LATENT_NOPE, LATENT_ROPE, LATENT_V, LATENT_KEYS };
#define LATENT_KEY_ROWS                                                                                \
    [LATENT_HEADS] = {FAMILY_INT, "num_attention_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},           \
    [LATENT_Q_RANK] = {FAMILY_INT, "q_lora_rank", 0, MAX_DIM, 0, NULL},                                \
    [LATENT_RANK] = {FAMILY_INT, "kv_lora_rank", 1, MAX_HEAD_DIM, FAMILY_NEEDED, NULL},                \
    [LATENT_NOPE] = {FAMILY_INT, "qk_nope_head_dim", 1, MAX_HEAD_DIM, FAMILY_NEEDED, NULL},            \
    [LATENT_ROPE] = {FAMILY_INT, "qk_rope_head_dim", 2, ROPE_MAX_DIM, FAMILY_NEEDED, NULL},            \
    [LATENT_V] = {FAMILY_INT, "v_head_dim", 1, MAX_HEAD_DIM, FAMILY_NEEDED, NULL}
/* As the keys say, one block for all heads. */
struct latent latent_of(const struct family_layer *l);
void latent_check(struct keys *k, const struct family_layer *l);

#endif
