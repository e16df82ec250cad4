/* engine/router_mlp.c - see router_mlp.h. */
#include "config.h"

#include "engine/router_mlp.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct router_mlp {
    struct matrix down, fc1, fc2;
    float *down_bias, *state_scale, *norm, *fc1_bias, *fc2_bias; /* state_scale NULL: the first layer */
};

int router_mlp_new(const struct router_mlp_tensors *t, struct pool *pool, const struct load_progress *lp,
                   struct router_mlp **ret, struct err *e)
{
    int r;
    *ret = NULL;
    if (!t->down.data)
        return 0;
    struct router_mlp *m = calloc(1, sizeof(*m));
    if (!m)
        return err_set(e, ERR_NOMEM, "out of memory while loading a router");
    m->down_bias = tensor_vector_f32(&t->down_bias);
    m->norm = tensor_vector_f32(&t->norm);
    m->fc1_bias = tensor_vector_f32(&t->fc1_bias);
    m->fc2_bias = tensor_vector_f32(&t->fc2_bias);
    m->state_scale = t->state_scale.data ? tensor_vector_f32(&t->state_scale) : NULL;
    if (!m->down_bias || !m->norm || !m->fc1_bias || !m->fc2_bias || (t->state_scale.data && !m->state_scale))
        r = err_set(e, ERR_NOMEM, "out of memory while loading a router");
    else if ((r = matrix_pack(&m->down, &t->down, pool, lp, e)) == 0 &&
             (r = matrix_pack(&m->fc1, &t->fc1, pool, lp, e)) == 0)
        r = matrix_pack(&m->fc2, &t->fc2, pool, lp, e);
    if (r < 0)
        router_mlp_free(m);
    else
        *ret = m;
    return r;
}

void router_mlp_free(struct router_mlp *m)
{
    if (!m)
        return;
    matrix_done(&m->down);
    matrix_done(&m->fc1);
    matrix_done(&m->fc2);
    free(m->down_bias);
    free(m->state_scale);
    free(m->norm);
    free(m->fc1_bias);
    free(m->fc2_bias);
    free(m);
}

uint64_t router_mlp_bytes(const struct router_mlp *m)
{
    return m ? m->down.n_bytes + m->fc1.n_bytes + m->fc2.n_bytes : 0;
}

enum tensor_type router_mlp_input(const struct router_mlp *m)
{
    return m->down.type;
}

/* --- a call ------------------------------------------------------------------------------------ */

struct router_job {
    const struct router_mlp *m;
    const struct step *st;
    const struct row_set *set;
    enum tensor_type out;
    const void **px;
    float **py;
    unsigned char *room;
};

static size_t vector_bytes(int width)
{
    return ((size_t)width * sizeof(float) + 63) & ~(size_t)63;
}

size_t router_mlp_room(const struct model_config *c)
{
    int n = c->router_hidden_size;
    return n ? 2 * vector_bytes(n) + act_room(n) : 0;
}

/* Of row i: two vectors, and one prepared. */
static float *vector_of(const struct router_job *j, int i, int which)
{
    unsigned char *row = j->room + (size_t)i * router_mlp_room(j->st->config);
    return (float *)(void *)(row + (size_t)which * vector_bytes(j->m->down.n_out));
}

static void prepare(const struct router_job *j, int i, const float *x, enum tensor_type type)
{
    unsigned char *act = (unsigned char *)vector_of(j, i, 2);
    j->px[i] = act_prepare(j->st->kern, type, i < j->set->n_rounded, x, j->m->down.n_out, act);
}

static void multiply(const struct router_job *j, const struct matrix *w, int to)
{
    for (int i = 0; i < j->set->n_rows; i++)
        j->py[i] = vector_of(j, i, to);
    struct product p = {w, j->px, j->py, j->set->n_rows, j->set->n_rounded};
    products_run(j->st->products, &p, 1);
}

static void state_rows(void *arg, int r0, int r1, int thread)
{
    const struct router_job *j = arg;
    const struct router_mlp *m = j->m;
    int n = m->down.n_out;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        float *x = vector_of(j, i, 0), *state = j->st->router_state + (size_t)j->set->rows[i] * (size_t)n;
        for (int d = 0; d < n; d++)
            x[d] += m->down_bias[d] + (m->state_scale ? state[d] * m->state_scale[d] : 0.0f);
        memcpy(state, x, (size_t)n * sizeof(float));
        j->st->kern->rms_norm(x, m->norm, n, j->st->config->rms_norm_eps, x);
        prepare(j, i, x, m->fc1.type);
    }
}

static void gelu(float *x, const float *bias, int n)
{
    for (int d = 0; d < n; d++) {
        float v = x[d] + bias[d];
        x[d] = 0.5f * v * (1.0f + erff(v * (float)M_SQRT1_2));
    }
}

static void first_rows(void *arg, int r0, int r1, int thread)
{
    const struct router_job *j = arg;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        gelu(vector_of(j, i, 1), j->m->fc1_bias, j->m->down.n_out);
        prepare(j, i, vector_of(j, i, 1), j->m->fc2.type);
    }
}

static void second_rows(void *arg, int r0, int r1, int thread)
{
    const struct router_job *j = arg;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        gelu(vector_of(j, i, 0), j->m->fc2_bias, j->m->down.n_out);
        prepare(j, i, vector_of(j, i, 0), j->out);
    }
}

void router_mlp_run(const struct router_mlp *m, const struct step *st, const struct row_set *set,
                    enum tensor_type out, const void **px, float **py, unsigned char *room)
{
    struct router_job j = {m, st, set, out, px, py, room};
    int n = set->n_rows, values = 8 * m->down.n_out;
    multiply(&j, &m->down, 0);
    rows_run_light(st->pool, n, values, state_rows, &j);
    multiply(&j, &m->fc1, 1);
    rows_run_light(st->pool, n, 8 * values, first_rows, &j);
    multiply(&j, &m->fc2, 0);
    rows_run_light(st->pool, n, 8 * values, second_rows, &j);
}
