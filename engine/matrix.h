/* engine/matrix.h - a weight matrix packed for the kernels, and products over several of them.
 *
 * Packing is done once at load (kern_pack); the file's bytes are not needed afterwards. products_run
 * takes a list of products that do not depend on each other and runs them as one pool job, cut into
 * pieces of about equal work; how it is cut never changes a result (kern.h, bit-for-bit rule). */
#ifndef LATENT_ENGINE_MATRIX_H
#define LATENT_ENGINE_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "engine/kernels/kern.h"
#include "engine/model/checkpoint.h"
#include "engine/model/tensor.h"
#include "engine/pool.h"
#include "engine/profile.h"
#include "engine/slab.h"

struct matrix {
    enum tensor_type type;
    int n_out, n_in;
    int top;               /* kern_weights_top */
    unsigned char *packed; /* 64-aligned; NULL: no such matrix */
    size_t n_bytes;
    bool in_slab; /* of load_progress; else owned */
};

/* Called after about every 32 MiB packed with the bytes done since the last call; non-zero stops the
 * load with ERR_CANCELED. */
struct load_progress {
    int (*report)(void *arg, uint64_t n_bytes);
    void *arg;
    struct slab *slab;           /* where packed weights go, and who owns them; NULL: each matrix its own */
    const struct checkpoint *ck; /* its pages are let go once they have been packed; may be NULL */
};

/* Packs a 2-d tensor (ne[0] inputs, ne[1] outputs). ERR_UNSUPPORTED names the tensor when its type
 * has no product kernel; ERR_NOMEM; ERR_CANCELED. m is untouched on failure. */
int matrix_pack(struct matrix *m, const struct tensor *t, struct pool *pool,
                const struct load_progress *lp, struct err *e) LATENT_MUST_CHECK;
/* The same for a list of matrices, as few jobs for the pool; on failure none of them is left. */
struct matrix_source {
    struct matrix *m;
    const struct tensor *t;
};
int matrix_pack_list(const struct matrix_source *list, int n, struct pool *pool,
                     const struct load_progress *lp, struct err *e) LATENT_MUST_CHECK;
/* The same from n_out float32 rows of n_in values, stored as `type` (TT_F32, TT_F16 or TT_BF16), rounded
 * to nearest even. */
int matrix_pack_f32(struct matrix *m, const char *name, const float *rows, int n_out, int n_in,
                    enum tensor_type type, struct err *e) LATENT_MUST_CHECK;
/* As what to store n values again that were read from a tensor of type `from` (matrix_pack_f32): F32, F16 and
 * BF16 as they were; quantised ones as F16, whose rounding is far below theirs, or BF16 when one of them
 * is too large for it. */
enum tensor_type matrix_store_type(enum tensor_type from, const float *v, size_t n);
void matrix_done(struct matrix *m);
/* Row r (one output's weights) as float32: token embeddings are read this way. */
void matrix_row_f32(const struct matrix *m, int r, float *dst);

static inline int matrix_groups(const struct matrix *m)
{
    return (m->n_out + KERN_LANES - 1) / KERN_LANES;
}

/* y[i] = w x[i] for m rows; x[i] in the activation form of w->type (act_prepare), the first
 * n_rounded of them in the rounded one. */
struct product {
    const struct matrix *w;
    const void *const *x;
    float *const *y;
    int m, n_rounded;
};

/* Rows [r0, r1) of a product by groups [g0, g1) of its weights. */
struct product_piece {
    int32_t product, g0, g1, r0, r1;
};

struct products {
    const struct kernels *kern;
    struct pool *pool;
    struct product_piece *pieces; /* owned; so is first */
    int max_pieces;
    int *first;                   /* [threads + 1] into pieces: each thread's share */
    struct profile *profile; /* NULL: none */
};

/* max_products: the longest list that products_run will get. */
int products_init(struct products *p, const struct kernels *kern, struct pool *pool,
                  int max_products) LATENT_MUST_CHECK;
void products_done(struct products *p);
void products_run(struct products *p, const struct product *list, int n);
/* How products_run divides a list: fills pieces and first, returns the number of pieces. */
int products_cut(struct products *p, const struct product *list, int n);

/* Activations come in three forms: float32 as they are; for weights of quantised types int8
 * (act_q8), or rounded to bfloat16, which mul_rounded reads. Which of these two is the caller's
 * choice for each row; what it computes differs. */
static inline bool act_is_quantised(enum tensor_type type)
{
    return kern_act_is_q8(type);
}
/* The form of a row that weights of `type` read, given both: what goes into product.x. */
static inline const void *act_view(enum tensor_type type, const float *x, const void *prepared)
{
    return act_is_quantised(type) ? prepared : (const void *)x;
}
/* Room for a prepared row of n values, 64-aligned; 0 when n has no such form. */
size_t act_room(int n);
/* Prepares one float32 row for weights of quantised types into dst (act_room(n) bytes). */
void act_store(const struct kernels *k, bool rounded, const float *x, int n, void *dst);
/* The same for weights of `type`, or answers x itself. Returns what goes into product.x. */
const void *act_prepare(const struct kernels *k, enum tensor_type type, bool rounded, const float *x, int n,
                        void *dst);

/* Runs fn(arg, r0, r1, thread) over rows [0, n), in parallel when there are enough of them. */
void rows_run(struct pool *pool, int n, void (*fn)(void *arg, int r0, int r1, int thread), void *arg);
/* The same where a row is little work: about `values` floats are read or written for each. What takes less
 * time than handing it out runs where it is. */
void rows_run_light(struct pool *pool, int n, int values,
                    void (*fn)(void *arg, int r0, int r1, int thread), void *arg);

#endif
