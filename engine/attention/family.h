/* engine/attention/family.h - mechanisms of the attention family: what one declares, and the parts it is
 * made of.
 *
 * A mechanism is one file in engine/attention/family/ with one const struct family_mechanism and one row in
 * family.def. It names its keys of config.json and its tensors, plans sizes, and computes in three parts:
 *
 *     write    from the normalised rows of all new tokens to their cache rows
 *     query    from the normalised rows of some wanted tokens to a query for each head
 *     output   from what attention found for each head to the input of the output projection
 *
 * Everything else is common to all: norms, memory, attention over pages (paged.h), the output projection, the
 * residual stream. Each token has a record of floats while its cache row is made, and another one from query
 * to output; a mechanism says how long they are and lays them out as it likes. Keys and tensors have indices
 * of the mechanism's own (an enum in its file). Numbers of one layer are its own: each layer may differ.
 * Thread: the engine's; callbacks over rows run in the pool. */
#ifndef LATENT_ENGINE_ATTENTION_FAMILY_H
#define LATENT_ENGINE_ATTENTION_FAMILY_H

#include <math.h>
#include "base/hash.h"
#include "engine/attention/attention.h"
#include "engine/model/arch.h"

#define FAMILY_MAX_KEYS 16
#define FAMILY_MAX_TENSORS 24
#define FAMILY_MAX_LIST 65536
#define FAMILY_ROPES 2
#define FAMILY_MAX_SIZES 16

enum family_kind { FAMILY_END = 0, FAMILY_INT, FAMILY_NUMBER, FAMILY_WORD, FAMILY_LIST };

/* Of config.json; its value is a number or a list of one for each layer. */
struct family_key {
    enum family_kind kind;
    const char *name;
    double lo, hi;     /* range of numbers and of a list's items */
    double absent;     /* FAMILY_NEEDED: an error. Of words: the index */
    const char *words; /* "none|linear|mlp"; the number is the index */
};
#define FAMILY_NEEDED ((double)NAN)

/* Names of tensors where files have others than docs/family-format.md says. A family_file is one below a
 * layer's attention. */
struct family_file {
    const char *ours, *theirs;
};
struct family_files {
    const char *layer;     /* "model.layers."; a number and a dot follow */
    const char *attention; /* "self_attn." */
    const struct family_file *tensors; /* up to ours == NULL, or NULL */
};
extern const struct family_files family_own_files;

/* A layer as config.json and the files have it. */
struct family_layer {
    const struct family_mechanism *mechanism;
    int index, kv_layer; /* its own place, and that of the layer whose rows it sees */
    int hidden, vocab;
    float eps, rope_theta;
    bool interleave;
    const struct rope_scaling *scaling; /* NULL: none; in the checkpoint's arena */
    const struct family_files *files;   /* names of its tensors */
    bool routed;                        /* has experts where only some layers have */
    int n[FAMILY_MAX_KEYS]; /* by the mechanism's index */
    float f[FAMILY_MAX_KEYS];
    const int32_t *list; /* of its only key of kind FAMILY_LIST; in the checkpoint's arena */
    int n_list;
    struct tensor t[FAMILY_MAX_TENSORS];
};
static inline bool family_writes(const struct family_layer *l)
{
    return l->kv_layer == l->index;
}
/* A number of its mechanism by the key's name; 0: the mechanism has no such key. */
int family_number(const struct family_layer *l, const char *key);
uint64_t family_hash(const struct family_layer *l);

/* --- tensors ----------------------------------------------------------------------------------- */

struct family_bind {
    struct binder *b;
    struct family_layer *l;
};
/* Bind "model.layers.N.self_attn.NAME", or what the files call it, as tensor i. */
void family_matrix(struct family_bind *b, int i, const char *name, int64_t n_in, int64_t n_out);
void family_vector(struct family_bind *b, int i, const char *name, int64_t n);
void family_cube(struct family_bind *b, int i, const char *name, int64_t n0, int64_t n1, int64_t n2);
/* The same of another layer, as tensor i of this one. */
void family_cube_of(struct family_bind *b, int layer, int i, const char *name, int64_t n0, int64_t n1,
                    int64_t n2);
/* Inputs and outputs of a matrix of the file, for sizes that no key has; 0: it is missing. */
int64_t family_inputs(const struct family_bind *b, const char *name);
int64_t family_outputs(const struct family_bind *b, const char *name);
bool family_has(const struct family_bind *b, const char *name);

/* --- sizes ------------------------------------------------------------------------------------- */

struct family_plan {
    struct paged_shape shape; /* heads, groups, dk, dv, scale; format and make's format are filled in */
    struct paged_group *groups; /* [shape.n_groups], malloc'd; or NULL */
    struct paged_make make;   /* rows: NULL: none */
    struct paged_gate gate;   /* the same */
    int make_elems;           /* of a made row */
    double pair_macs;         /* multiply-adds of a query token and a row, zeros apart; 0: as shape says */
    double make_macs;         /* multiply-adds that making a token's row takes, all groups */
    int row_elems, row_tail;  /* of the cache row; its last values, which 8 bits would blur */
    int row_planes;           /* so many such rows a token, each a stream of its own; 0: one */
    int side_bytes;           /* beside each cache row, or 0 */
    int state_floats;         /* of a sequence, after its last token of each page, or 0 */
    int write_floats, query_floats;
    int out_at, n_out;        /* what the output projection reads: of the query record, or (-1) what attention
                                 found, as it lies */
    int n_vecs;               /* most vectors of a row in one family_project */
    size_t act_bytes;         /* for these, prepared; family_plan_vecs counts both */
    int max_matrices;         /* most matrices in one family_project */
    int make_floats;          /* for make, of each thread */
    int rope_dims[FAMILY_ROPES]; /* widths it rotates by; 0: none */
    int d[FAMILY_MAX_SIZES];  /* sizes that its parts need again, by an index of its own */
};
/* Counts one family_project: n vectors of a row of that width, by that many matrices. */
void family_plan_vecs(struct family_plan *p, int n, int width, int n_matrices);
/* Groups of equal size over all heads, each with a stream of its own whose rows are [key | value]. */
int family_plan_streams(struct family_plan *p, int n);
/* Groups of equal size over all heads, keys and values of group g at k_off + g * step and v_off + g *
 * step. */
int family_plan_groups(struct family_plan *p, int n, int k_off, int v_off, int step);

/* --- weights ----------------------------------------------------------------------------------- */

/* Packed weights of a slot: a matrix, one for each head, or floats. */
struct family_part {
    struct matrix *m;
    int n;
    float *v;
};

struct family_packed {
    struct family_layer l; /* without tensors */
    struct family_plan plan;
    struct family_part part[FAMILY_MAX_TENSORS];
    int rope[FAMILY_ROPES]; /* tables */
    float *residual;        /* residual.h; or NULL */
    uint64_t n_bytes;
};

struct family_pack {
    const struct family_layer *from;
    struct family_packed *to;
    const struct step_limits *lim;
    struct pool *pool;
    const struct load_progress *lp;
    struct err *e;
    int r; /* sticky */
};
/* Tensor i as slot i: as a matrix, or as floats (all of its values). */
void family_pack_matrix(struct family_pack *p, int i);
void family_pack_vector(struct family_pack *p, int i);
/* n matrices of slot i, set one by one. */
void family_pack_room(struct family_pack *p, int i, int n);
/* Rows of a 2-d or 3-d tensor as matrix k of slot i. */
void family_pack_rows(struct family_pack *p, int i, int k, const struct tensor *t, int64_t row0, int n);
/* [n_out][n_in] float32 as matrix k of slot i, stored like values of a file's type (matrix_store_type). */
void family_pack_floats(struct family_pack *p, int i, int k, const char *name, const float *rows, int n_out,
                        int n_in, enum tensor_type like);
/* The type for what was computed from a tensor: it is rounded to 16 bits where the file's was coarser, or
 * where that had 16 bits and the level rounds attention's operands to them. */
enum tensor_type family_folded_type(const struct family_pack *p, const struct tensor *from);
/* Such values as matrix 0. */
void family_pack_folded(struct family_pack *p, int i, const struct tensor *from, const float *rows, int n_out,
                        int n_in);
/* n rows from row0 on as the columns of matrix k of slot i. */
void family_pack_turned(struct family_pack *p, int i, int k, const struct tensor *t, int64_t row0, int n);
/* Slot i: cosines and sines of all positions, from which family_angles makes those of one, for rotations
 * of that width at reading, where a step has no table. */
void family_pack_angles(struct family_pack *p, int i, int dim);
/* All values of a tensor as float32, malloc'd; NULL: p->r says it. */
float *family_floats(struct family_pack *p, const struct tensor *t);
/* y[a][c] = sum over b of x[a][b] w[b][c]; malloc'd. */
float *family_multiply(struct family_pack *p, const float *x, const float *w, int n_a, int n_b, int n_c);
void family_pack_nomem(struct family_pack *p);

/* --- a call ------------------------------------------------------------------------------------ */

/* Vectors of rows: vector k of row i is at base + i * row + k * step. */
struct family_vecs {
    float *base;
    size_t row, step;
    const int32_t *index; /* row i is index[i]; or NULL */
    const int32_t *const *indirect; /* row i is *indirect[i]; or NULL */
    int wrap;             /* k counts modulo wrap; or 0 */
    /* Blocks of so many vectors, or 0: each lies block_step floats beyond the one before, but every
     * `blocks`-th, which lies where the first one does and row_step further for each time. */
    int block, blocks, block_step, row_step;
};

struct family_call {
    const struct family_packed *l;
    const struct step *st;
    const struct attention_args *a;
    struct family_work *w;
    const struct row_set *all;
    struct row_set part;     /* in query and output: wanted rows in hand */
    struct family_vecs norm; /* of all rows */
    struct family_vecs written; /* records of all rows; step 0 */
    struct family_vecs record;  /* of the part's; step 0 */
    float *q, *z;            /* [part][heads][dk], [part][heads][dv] */
    float *own;              /* [part][row_elems], with tokens_per_row */
    float *make_floats;      /* [threads][plan.make_floats] */
};

static inline float *family_at(const struct family_vecs *v, int i, int k)
{
    size_t row = v->indirect ? (size_t)*v->indirect[i] : (size_t)(v->index ? v->index[i] : i);
    float *at = v->base + row * v->row + (size_t)(v->wrap ? k % v->wrap : k) * v->step;
    if (v->block) {
        int b = k / v->block;
        at += b % v->blocks * v->block_step + b / v->blocks * v->row_step;
    }
    return at;
}
static inline float *family_written(const struct family_call *c, int i)
{
    return family_at(&c->written, i, 0);
}
static inline float *family_record(const struct family_call *c, int i)
{
    return family_at(&c->record, i, 0);
}
/* The part's normalised rows; and vectors of a kind of record, at an offset. */
struct family_vecs family_part_norm(const struct family_call *c);
static inline struct family_vecs family_vecs(struct family_vecs v, int at, int step)
{
    return (struct family_vecs){.base = v.base + at, .row = v.row, .step = (size_t)step, .index = v.index};
}
static inline struct family_vecs family_queries(const struct family_call *c, int at)
{
    size_t dk = (size_t)c->l->plan.shape.dk;
    return (struct family_vecs){.base = c->q + at, .row = (size_t)c->l->plan.shape.n_heads * dk, .step = dk};
}
static inline struct family_vecs family_found(const struct family_call *c, int at)
{
    size_t dv = (size_t)c->l->plan.shape.dv;
    return (struct family_vecs){.base = c->z + at, .row = (size_t)c->l->plan.shape.n_heads * dv, .step = dv};
}

/* Copies query h of the part's row i, dk values at h * dk of its record, to where attention takes it. */
float *family_lane(const struct family_call *c, int i, int h);
/* y = m x for n_vecs vectors of each row of the set, n_vecs / n_matrices of them in a row by each matrix of
 * slot `part`. */
void family_project(struct family_call *c, const struct row_set *set, int part, int n_vecs,
                    struct family_vecs x, struct family_vecs y);
/* fn for n rows (of all, of the part, ..), in parallel where each touches enough values. */
void family_rows(struct family_call *c, int n, int values, void (*fn)(struct family_call *c, int i));
/* Rotates x by the position of residual row i, table k of the plan's widths. */
void family_rotate(const struct family_call *c, int k, int i, float *x);
/* Cosines and sines of a position, dim / 2 each, from slot `part`. Whoever rotates keys by them rotates
 * queries by them, too. */
void family_angles(const struct family_packed *l, int part, int dim, int position, float *cos, float *sin);
/* The first dim elements of rows, rotated by these angles and then as they are, to dst, dst + stride, .. */
void family_rotate_rows(const struct family_call *c, int part, int dim, const struct paged_rows *from,
                        unsigned char *dst, size_t stride);
/* y = RMSNorm(x) of n values; y may be x. */
void family_rms(const struct family_call *c, const float *x, const float *w, int n, float *y);
/* The same for the first vector of each of the part's rows, in place. */
void family_rms_all(struct family_call *c, struct family_vecs x, const float *w, int n);
/* x = softmax(x + bias) of a few values: of gates and routers. */
void family_softmax(float *x, const float *bias, int n);
/* Stores a row [key | value] of stream `plane`, put together at `row`. */
void family_store_pair(const struct family_call *c, int i, int plane, const float *k, const float *v,
                       float *row);
/* Stores the cache row of row i of all; and where what lies beside it is. */
void family_store(const struct family_call *c, int i, const float *row);
/* The span of all that row i is in. */
const struct span *family_span(const struct family_call *c, int i);
unsigned char *family_side(const struct family_call *c, const struct span *sp, int position);
/* The state after a position of a span's sequence, kept for the last position of each page; NULL before the
 * first token. */
float *family_state(const struct family_call *c, const struct span *sp, int position);
/* The last position of a span whose page is that of position t: where a state is kept. */
static inline int family_page_end(const struct family_call *c, const struct span *sp, int t)
{
    int end = t / (int)c->st->page_tokens * (int)c->st->page_tokens + (int)c->st->page_tokens - 1;
    int last = sp->position + sp->n_tokens - 1;
    return end < last ? end : last;
}
/* fn for each span of all rows. */
void family_spans(struct family_call *c, void (*fn)(struct family_call *c, const struct span *sp));
/* Elements [at, at + n) of a float32 or bf16 row, and back. */
void family_row_read(const struct row_format *f, const unsigned char *row, int at, int n, float *dst);
void family_row_write(const struct kernels *k, const struct row_format *f, const float *x, int at, int n,
                      unsigned char *row);
/* y *= x; y = (y - mean) factor. */
void family_times(float *y, const float *x, int n);
void family_centre(float *y, float mean, float factor, int n);
static inline size_t family_row_size(const struct row_format *f) /* of an element, in such rows */
{
    return f->type == TT_F32 ? 4 : 2;
}

/* --- mechanisms -------------------------------------------------------------------------------- */

struct family_mechanism {
    const char *name;
    const struct family_key *keys; /* up to FAMILY_END */
    bool shares;                   /* a layer may see another's rows (kv_layer) */
    /* What holds between keys; may set numbers that follow from others. Errors through k. */
    void (*check)(struct keys *k, struct family_layer *l);
    void (*bind)(struct family_bind *b);
    int (*plan)(const struct family_layer *l, struct family_plan *p); /* ERR_NOMEM */
    void (*pack)(struct family_pack *p);
    void (*write)(struct family_call *c); /* for layers with rows of their own */
    void (*query)(struct family_call *c);
    void (*output)(struct family_call *c); /* NULL: what attention found is what is projected */
};
/* The output projection is slot FAMILY_OUT of every mechanism. */
#define FAMILY_OUT 0

/* Multiply-adds in float of attention itself: of a query token and a row it sees, all heads; and of a
 * row that is made when it is read. */
struct family_cost {
    double pair_macs, key_macs;
};
struct family_cost family_cost(const struct family_layer *l);

const struct family_mechanism *family_at_row(int i); /* NULL: there are no more */
const struct family_mechanism *family_find(const char *name);
void family_names(char *dst, size_t dst_bytes); /* "gqa, mfa, .." */

#define FAMILY(row) extern const struct family_mechanism row;
#include "engine/attention/family.def"
#undef FAMILY

#endif
