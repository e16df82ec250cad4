/* engine/attention/family/query.c - see query.h. */
#include "config.h"

#include "engine/attention/family/query.h"

enum { WHOLE, A, A_NORM, B };

void low_query_bind(struct family_bind *b, const struct low_query *q)
{
    if (q->rank == 0) {
        family_matrix(b, q->slot + WHOLE, "q_proj.weight", b->l->hidden, q->width);
        return;
    }
    family_matrix(b, q->slot + A, "q_a_proj.weight", b->l->hidden, q->rank);
    if (q->norm)
        family_vector(b, q->slot + A_NORM, "q_a_layernorm.weight", q->rank);
    family_matrix(b, q->slot + B, "q_b_proj.weight", q->rank, q->width);
}

int low_query_plan(struct family_plan *p, const struct low_query *q)
{
    if (q->rank > 0)
        family_plan_vecs(p, 1, q->rank, 1);
    return q->width + q->rank;
}

void low_query_pack(struct family_pack *p, const struct low_query *q)
{
    if (q->rank == 0) {
        family_pack_matrix(p, q->slot + WHOLE);
        return;
    }
    family_pack_matrix(p, q->slot + A);
    if (q->norm)
        family_pack_vector(p, q->slot + A_NORM);
    for (int d = 0; d < q->rank && q->norm && q->factor != 0.0f && p->r == 0; d++)
        p->to->part[q->slot + A_NORM].v[d] *= q->factor;
    family_pack_matrix(p, q->slot + B);
}

void low_query_run(struct family_call *c, const struct low_query *q, int at)
{
    struct family_vecs x = family_part_norm(c), y = family_vecs(c->record, at, 0);
    if (q->rank == 0) {
        family_project(c, &c->part, q->slot + WHOLE, 1, x, y);
        return;
    }
    struct family_vecs a = family_vecs(c->record, at + q->width, 0);
    family_project(c, &c->part, q->slot + A, 1, x, a);
    if (q->norm)
        family_rms_all(c, a, c->l->part[q->slot + A_NORM].v, q->rank);
    family_project(c, &c->part, q->slot + B, 1, a, y);
}

void low_query_rows(struct family_call *c, const struct low_query *q,
                    void (*fn)(struct family_call *c, int i))
{
    low_query_run(c, q, 0);
    family_rows(c, c->part.n_rows, 4 * q->width, fn);
}
