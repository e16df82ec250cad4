/* engine/matrix.c - packing, and activations for it; see matrix.h. Engine thread. */
#include "config.h"

#include "engine/matrix.h"

#include <stdlib.h>
#include <string.h>

/* Packing is reported, and can be stopped, at this grain: one job of the pool, in pieces for its threads. */
#define REPORT_BYTES (32u << 20)
#define PIECE_BYTES (256u << 10)
#define MAX_PIECES 512

/* Groups of one matrix: what a thread packs at a time. */
struct pack_piece {
    struct kern_source src;
    struct matrix *m;
    int g0, g1, top; /* top: of these, once they are packed */
    const unsigned char *rows; /* where they lie in the file, and how many bytes */
    size_t n_bytes;
};

struct pack_job {
    struct pack_piece pieces[MAX_PIECES];
    int n;
    uint64_t n_bytes; /* packed */
};

static void pack_item(void *arg, int item, int thread)
{
    struct pack_piece *p = &((struct pack_job *)arg)->pieces[item];
    (void)thread;
    kern_pack(p->m->type, &p->src, p->m->n_out, p->m->n_in, p->g0, p->g1, p->m->packed);
    p->top = kern_weights_top(p->m->type, p->m->packed, p->m->n_in, p->g0, p->g1);
}

static int matrix_alloc(struct matrix *m, const char *name, enum tensor_type type, int64_t n_out,
                        int64_t n_in, struct slab *slab, struct err *e)
{
    if (n_out < 1 || n_in < 1 || n_out > INT32_MAX - KERN_LANES || n_in > INT32_MAX / 4)
        return err_set_param(e, ERR_FORMAT, name, "tensor %s: shape %lld x %lld is out of range",
                             name, (long long)n_in, (long long)n_out);
    if (!kern_weight_type_ok(type)) {
        const struct tensor_type_info *info = tensor_type_info(type);
        return err_set_param(e, ERR_UNSUPPORTED, name, "tensor %s: no kernels for weights of type %s",
                             name, info ? info->name : "unknown");
    }
    m->type = type;
    m->n_out = (int)n_out;
    m->n_in = (int)n_in;
    m->top = KERN_TOP_LEAST;
    m->n_bytes = kern_packed_bytes(type, m->n_out, m->n_in);
    m->in_slab = slab != NULL;
    m->packed = slab ? slab_alloc(slab, m->n_bytes)
                     : aligned_alloc(64, (m->n_bytes + 63) & ~(size_t)63);
    if (!m->packed)
        return err_set(e, ERR_NOMEM, "tensor %s: no memory for %zu bytes of packed weights", name,
                       m->n_bytes);
    return 0;
}

static void add_piece(struct pack_job *j, struct matrix *m, const struct tensor *t, int g0, int g1)
{
    size_t row_bytes = tensor_row_bytes(t->type, t->ne[0]);
    int rows = (g1 * KERN_LANES < m->n_out ? g1 * KERN_LANES : m->n_out) - g0 * KERN_LANES;
    j->pieces[j->n++] = (struct pack_piece){
        .src = {.rows = t->data, .row_bytes = row_bytes, .scale = t->scale,
                .scale_cols = t->scale_cols, .scale_row0 = t->scale_row0},
        .m = m,
        .g0 = g0,
        .g1 = g1,
        .rows = (const unsigned char *)t->data + (size_t)g0 * KERN_LANES * row_bytes,
        .n_bytes = (size_t)rows * row_bytes,
    };
    j->n_bytes += (uint64_t)(g1 - g0) * kern_group_bytes(m->type, m->n_in);
}

/* Tells the checkpoint about the job's parts of the file, neighbours as one. */
static void for_ranges(const struct pack_job *j, const struct checkpoint *ck,
                       void (*tell)(const struct checkpoint *, const void *, size_t))
{
    for (int i = 0, first = 0; i < j->n; i++) {
        const struct pack_piece *p = &j->pieces[i];
        if (i + 1 < j->n && j->pieces[i + 1].rows == p->rows + p->n_bytes)
            continue;
        const unsigned char *start = j->pieces[first].rows;
        tell(ck, start, (size_t)(p->rows + p->n_bytes - start));
        first = i + 1;
    }
}

/* Runs what has been collected; ERR_CANCELED without a text when the load is to stop. */
static int run_job(struct pack_job *j, struct pool *pool, const struct load_progress *lp)
{
    if (lp && lp->ck)
        for_ranges(j, lp->ck, checkpoint_expect);
    pool_run(pool, j->n, pack_item, j);
    for (int i = 0; i < j->n; i++) {
        struct matrix *m = j->pieces[i].m;
        m->top = m->top > j->pieces[i].top ? m->top : j->pieces[i].top;
    }
    if (lp && lp->ck)
        for_ranges(j, lp->ck, checkpoint_let_go);
    uint64_t n_bytes = j->n_bytes;
    j->n = 0;
    j->n_bytes = 0;
    return lp && lp->report && lp->report(lp->arg, n_bytes) ? ERR_CANCELED : 0;
}

int matrix_pack_list(const struct matrix_source *list, int n, struct pool *pool,
                     const struct load_progress *lp, struct err *e)
{
    int r = 0, made = 0;
    struct pack_job *j = malloc(sizeof(*j));
    if (!j)
        return err_set(e, ERR_NOMEM, "out of memory while loading weights");
    j->n = 0;
    j->n_bytes = 0;
    for (; made < n && r == 0; made++) {
        const struct tensor *t = list[made].t;
        struct matrix *m = list[made].m;
        r = matrix_alloc(m, t->name, t->type, t->ne[1], t->ne[0], lp ? lp->slab : NULL, e);
        if (r < 0)
            break;
        int step = (int)(PIECE_BYTES / kern_group_bytes(m->type, m->n_in)), groups = matrix_groups(m);
        step = step < 1 ? 1 : step;
        for (int g = 0; g < groups && r == 0; g += step) {
            add_piece(j, m, t, g, g + step < groups ? g + step : groups);
            if (j->n == MAX_PIECES || j->n_bytes >= REPORT_BYTES)
                r = run_job(j, pool, lp);
        }
        if (r == ERR_CANCELED)
            err_set(e, r, "loading was stopped");
    }
    if (r == 0 && j->n && (r = run_job(j, pool, lp)) < 0)
        err_set(e, r, "loading was stopped");
    for (int i = 0; r < 0 && i < made; i++)
        matrix_done(list[i].m);
    free(j);
    return r;
}

int matrix_pack(struct matrix *m, const struct tensor *t, struct pool *pool,
                const struct load_progress *lp, struct err *e)
{
    struct matrix out;
    struct matrix_source one = {&out, t};
    int r = matrix_pack_list(&one, 1, pool, lp, e);
    if (r == 0)
        *m = out;
    return r;
}

static uint16_t bf16_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

static uint16_t f16_of(float x)
{
    uint32_t u, sign;
    memcpy(&u, &x, sizeof(u));
    sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (u >= 0x477ff000) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (u < 0x38800000) { /* below 2^-14: a multiple of 2^-24 */
        float small;
        memcpy(&small, &u, sizeof(small));
        small += 0.5f; /* the sum's grid is 2^-24, so it rounds there, to even */
        memcpy(&u, &small, sizeof(u));
        return (uint16_t)(sign | (u - 0x3f000000));
    }
    return (uint16_t)(sign | ((u - (112u << 23) + 0xfff + (u >> 13 & 1)) >> 13));
}

int matrix_pack_f32(struct matrix *m, const char *name, const float *rows, int n_out, int n_in,
                    enum tensor_type type, struct err *e)
{
    struct matrix out;
    int r = matrix_alloc(&out, name, type, n_out, n_in, NULL, e);
    if (r < 0)
        return r;
    struct kern_source src = {.rows = rows, .row_bytes = (size_t)n_in * sizeof(float)};
    uint16_t *tmp = NULL;
    if (type != TT_F32) {
        size_t n = (size_t)n_out * (size_t)n_in;
        tmp = malloc(n * sizeof(*tmp));
        if (!tmp) {
            matrix_done(&out);
            return err_set(e, ERR_NOMEM, "tensor %s: out of memory", name);
        }
        for (size_t i = 0; i < n; i++)
            tmp[i] = type == TT_F16 ? f16_of(rows[i]) : bf16_of(rows[i]);
        src.rows = tmp;
        src.row_bytes = (size_t)n_in * sizeof(*tmp);
    }
    kern_pack(type, &src, n_out, n_in, 0, matrix_groups(&out), out.packed);
    free(tmp);
    *m = out;
    return 0;
}

enum tensor_type matrix_store_type(enum tensor_type from, const float *v, size_t n)
{
    if (from == TT_F32 || from == TT_F16 || from == TT_BF16)
        return from;
    for (size_t i = 0; i < n; i++)
        if (!(v[i] >= -65504.0f && v[i] <= 65504.0f))
            return TT_BF16;
    return TT_F16;
}

void matrix_done(struct matrix *m)
{
    if (!m->in_slab)
        free(m->packed);
    memset(m, 0, sizeof(*m));
}

void matrix_row_f32(const struct matrix *m, int r, float *dst)
{
    kern_unpack_row(m->type, m->packed, m->n_in, r, dst);
}

/* --- activations ------------------------------------------------------------------------------- */

size_t act_room(int n)
{
    size_t rounded = (size_t)n * sizeof(uint16_t);
    if (n <= 0 || n % 32 != 0)
        return 0;
    return kern_act_bytes(TT_Q8_0, n) > rounded ? kern_act_bytes(TT_Q8_0, n) : rounded;
}

void act_store(const struct kernels *k, bool rounded, const float *x, int n, void *dst)
{
    if (rounded)
        k->f32_to_bf16(x, n, dst);
    else
        k->act_q8(x, n, dst);
}

const void *act_prepare(const struct kernels *k, enum tensor_type type, bool rounded, const float *x, int n,
                        void *dst)
{
    if (!act_is_quantised(type))
        return x;
    act_store(k, rounded, x, n, dst);
    return dst;
}
