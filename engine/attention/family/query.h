/* engine/attention/family/query.h - queries of one projection, or through a low rank with a norm
 * between. Slots Q .. Q + 3 of a mechanism: q_proj, or q_a_proj, q_a_layernorm and q_b_proj. Its record
 * holds the queries at `at`, and behind them their low-rank form. */
#ifndef LATENT_ENGINE_ATTENTION_FAMILY_QUERY_H
#define LATENT_ENGINE_ATTENTION_FAMILY_QUERY_H

#include "engine/attention/family.h"

/* rank 0: one projection. */
struct low_query {
    int slot, rank, width;
    bool norm;
    float factor; /* of the normalised query latent; 0: none */
};
void low_query_bind(struct family_bind *b, const struct low_query *q);
/* Floats of the record that it takes. */
int low_query_plan(struct family_plan *p, const struct low_query *q);
void low_query_pack(struct family_pack *p, const struct low_query *q);
void low_query_run(struct family_call *c, const struct low_query *q, int at);
/* The same at 0, and then fn for each of the part's rows, which brings its queries to where they belong. */
void low_query_rows(struct family_call *c, const struct low_query *q,
                    void (*fn)(struct family_call *c, int i));

#endif
