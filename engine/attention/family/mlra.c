/* engine/attention/family/mlra.c - multi-head low-rank attention (MLRA, arXiv 2603.02188): a latent in
 * blocks with norms of their own, and a softmax for each block that a head sees.
 *
 *     4 branches    o_h = 1/2 sum over all blocks
 *     2 branches    o_h = 1/sqrt(2) (block a + block b), the first half of the heads seeing blocks 0 and
 *     2, the
 *                   second half 1 and 3
 *
 * The factor sqrt(d / (r / blocks)) of a normed block, and sqrt(d / q_rank) of a query's latent, are in
 * their norms' weights; not so in the authors' own files (columns), where the shape of kv_b_proj tells the
 * number of branches. cache row = r + rope values. */
#include "config.h"

#include "engine/attention/family/latent.h"

#include <math.h>

enum { BLOCKS = LATENT_KEYS, BRANCHES, FORM };
enum { FORM_ROWS, FORM_COLUMNS };

static const struct family_key keys[] = {
    LATENT_KEY_ROWS,
    [BLOCKS] = {FAMILY_INT, "latent_blocks", 4, 4, 4, NULL},
    [BRANCHES] = {FAMILY_INT, "latent_branches", 2, 4, 4, NULL},
    [FORM] = {FAMILY_WORD, "mlra_layout", 0, 0, FORM_ROWS, "rows|columns"},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

static struct latent shape(const struct family_layer *l)
{
    struct latent s = latent_of(l);
    s.blocks = l->n[BLOCKS];
    s.width = l->n[LATENT_RANK] / l->n[BLOCKS];
    s.branches = l->n[BRANCHES];
    s.factor = 1.0f / sqrtf((float)s.branches);
    s.columns = l->n[FORM] == FORM_COLUMNS;
    if (s.columns) {
        s.q_factor = s.q_rank ? sqrtf((float)l->hidden / (float)s.q_rank) : 0.0f;
        s.kv_factor = sqrtf((float)l->hidden / (float)s.width);
    }
    return s;
}

static void check(struct keys *k, struct family_layer *l)
{
    const int *n = l->n;
    latent_check(k, l);
    if (n[BRANCHES] == 3)
        keys__fail(k, ERR_FORMAT, "latent_branches", "is 3; 2 and 4 are accepted");
    if (n[LATENT_RANK] % n[BLOCKS])
        keys__fail(k, ERR_FORMAT, "kv_lora_rank", "is %d; multiples of %d are accepted", n[LATENT_RANK],
                   n[BLOCKS]);
    if (n[BRANCHES] == 2 && n[LATENT_HEADS] % 2)
        keys__fail(k, ERR_FORMAT, "num_attention_heads", "is %d; even numbers are accepted", n[LATENT_HEADS]);
}

LATENT_PARTS(shape)

static void bind_either(struct family_bind *b)
{
    int *n = b->l->n, each = n[LATENT_NOPE] + n[LATENT_V];
    if (n[FORM] == FORM_COLUMNS && n[LATENT_HEADS] % 2 == 0 &&
        family_inputs(b, "kv_b_proj.weight") == (int64_t)n[LATENT_HEADS] / 2 * each)
        n[BRANCHES] = 2;
    bind(b);
}

const struct family_mechanism family_mlra = {
    .name = "mlra",
    .keys = keys,
    .check = check,
    .bind = bind_either,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
    .output = output,
};
