/* engine/ffn.c - feed-forward layers; see ffn.h.
 *
 * Routed tokens are sorted by expert once, and every touched expert takes part in one list of
 * products together with the shared expert, so that the pool sees one job for gate and up and one
 * for down. Large steps go through the middle in lots: ranges of that order, so that no expert is read by
 * more lots than its rows fill. A token's sum begins with its identity experts, whose output is their
 * input, and runs over the others in the order of the router, the shared one last. */
#include "config.h"

#include "engine/ffn.h"

#include <stdlib.h>
#include <string.h>

#include "engine/residual.h"
#include "engine/router.h"
#include "engine/router_mlp.h"

struct ffn_block {
    struct matrix gate, up, down;
};

struct ffn_layer {
    bool dense;
    bool prepared_in;          /* some matrix reads the input prepared; others may read float32 */
    struct ffn_block main;     /* dense, or the shared expert (no matrices when there is none) */
    struct ffn_block *experts; /* [n_routed_experts] */
    int n_experts;
    uint64_t *expert_tokens;   /* [n_experts] since the start; counted by ffn_run */
    struct matrix router;
    struct router_mlp *router_mlp; /* in front of it, or NULL */
    float *router_bias, *norm, *residual;
};

struct ffn_work {
    const struct model_config *config;
    const struct scratch *scratch;
    int max_rows, top_k;
    size_t lot_floats[2];    /* what the middle has room for: of experts, of a dense block */
    uint64_t n_bytes;
    int32_t *experts;        /* [rows][top_k] */
    float *weights;
    int32_t *slots;          /* (row, k) pairs, row * top_k + k, sorted by expert */
    int32_t *first;          /* [router_experts + 1] into slots: identity experts come last */
    const void **px, **px_up; /* px_up: only where up may read another form than gate */
    float **py_gate, **py_up;
    struct product *list;
    /* in the step's scratch */
    float *norm;             /* [rows][hidden] */
    unsigned char *norm_act;
    float *logits;           /* [rows][router_experts] */
    unsigned char *router;   /* [rows] of a router's network */
    float *gate, *up;        /* the middle of the lot in hand: experts' rows, then the main block's */
    unsigned char *mid_act;  /* the same rows, prepared for down */
    float *down;             /* [slots + rows][hidden]: slots, then the main block */
    /* the call in hand */
    const struct ffn_layer *layer;
    const struct step *step;
    const struct row_set *set;
    float *out;
    int lot, lot_end;        /* rows in the order of the products */
};

/* The middle goes in lots of about so many bytes, or of so many rows: enough that a weight which two lots
 * read costs no more than their arithmetic. */
#define LOT_BYTES ((size_t)7 << 20)
#define LOT_ROWS 192

/* --- weights ----------------------------------------------------------------------------------- */

static int block_pack(struct ffn_block *b, const struct ffn_tensors *t, struct pool *pool,
                      const struct load_progress *lp, struct err *e)
{
    int r;
    if ((r = matrix_pack(&b->gate, &t->gate, pool, lp, e)) < 0 ||
        (r = matrix_pack(&b->up, &t->up, pool, lp, e)) < 0)
        return r;
    return matrix_pack(&b->down, &t->down, pool, lp, e);
}

/* Some matrix of the block that reads the layer's input takes it prepared. */
static bool reads_prepared(const struct ffn_block *b)
{
    return b->gate.packed && (act_is_quantised(b->gate.type) || act_is_quantised(b->up.type));
}

/* All gates, then all others of a kind: as they lie in GGUF files. */
static int experts_pack(struct ffn_layer *l, const struct ffn_tensors *t, struct pool *pool,
                        const struct load_progress *lp, struct err *e)
{
    int n = l->n_experts;
    struct matrix_source *list = malloc(3 * (size_t)n * sizeof(*list));
    if (!list)
        return err_set(e, ERR_NOMEM, "out of memory while loading a feed-forward layer");
    for (int i = 0; i < n; i++) {
        list[i] = (struct matrix_source){&l->experts[i].gate, &t[i].gate};
        list[n + i] = (struct matrix_source){&l->experts[i].up, &t[i].up};
        list[2 * n + i] = (struct matrix_source){&l->experts[i].down, &t[i].down};
    }
    int r = matrix_pack_list(list, 3 * n, pool, lp, e);
    free(list);
    for (int i = 0; r == 0 && i < n; i++)
        l->prepared_in |= reads_prepared(&l->experts[i]);
    return r;
}

static void block_done(struct ffn_block *b)
{
    matrix_done(&b->gate);
    matrix_done(&b->up);
    matrix_done(&b->down);
}

static uint64_t block_bytes(const struct ffn_block *b)
{
    return b->gate.n_bytes + b->up.n_bytes + b->down.n_bytes;
}

/* What the layer's input is prepared for on its way to the router. */
static enum tensor_type router_input(const struct ffn_layer *l)
{
    return l->router_mlp ? router_mlp_input(l->router_mlp) : l->router.type;
}

int ffn_layer_new(const struct model_config *c, const struct layer_tensors *t, bool dense,
                  struct pool *pool, const struct load_progress *lp, struct ffn_layer **ret,
                  struct err *e)
{
    int r = ERR_NOMEM;
    struct ffn_layer *l = calloc(1, sizeof(*l));
    if (!l)
        return err_set(e, r, "out of memory while loading a feed-forward layer");
    l->dense = dense;
    l->norm = tensor_vector_f32(&t->ffn_norm);
    if (!l->norm || residual_new(&t->ffn_residual, c->hidden_size, &l->residual) < 0)
        goto nomem;
    if (dense) {
        if ((r = block_pack(&l->main, &t->dense, pool, lp, e)) < 0)
            goto fail;
        l->prepared_in = reads_prepared(&l->main);
        *ret = l;
        return 0;
    }
    l->n_experts = c->n_routed_experts;
    l->experts = calloc((size_t)l->n_experts, sizeof(*l->experts));
    l->expert_tokens = calloc((size_t)l->n_experts, sizeof(*l->expert_tokens));
    if (!l->experts || !l->expert_tokens)
        goto nomem;
    if (t->router_bias.data && !(l->router_bias = tensor_vector_f32(&t->router_bias)))
        goto nomem;
    if ((r = matrix_pack(&l->router, &t->router, pool, lp, e)) < 0)
        goto fail;
    if (c->n_shared_experts > 0 && (r = block_pack(&l->main, &t->shared, pool, lp, e)) < 0)
        goto fail;
    if ((r = router_mlp_new(&t->router_mlp, pool, lp, &l->router_mlp, e)) < 0)
        goto fail;
    l->prepared_in = act_is_quantised(router_input(l)) || reads_prepared(&l->main);
    if ((r = experts_pack(l, t->experts, pool, lp, e)) < 0)
        goto fail;
    *ret = l;
    return 0;
nomem:
    err_set(e, r, "out of memory while loading a feed-forward layer");
fail:
    ffn_layer_free(l);
    return r;
}

void ffn_layer_free(struct ffn_layer *l)
{
    if (!l)
        return;
    block_done(&l->main);
    for (int i = 0; l->experts && i < l->n_experts; i++)
        block_done(&l->experts[i]);
    free(l->experts);
    free(l->expert_tokens);
    matrix_done(&l->router);
    router_mlp_free(l->router_mlp);
    free(l->router_bias);
    free(l->residual);
    free(l->norm);
    free(l);
}

const uint64_t *ffn_layer_expert_tokens(const struct ffn_layer *l, int *ret_n)
{
    *ret_n = l->n_experts;
    return l->expert_tokens;
}

uint64_t ffn_layer_bytes(const struct ffn_layer *l)
{
    uint64_t n = block_bytes(&l->main) + l->router.n_bytes + router_mlp_bytes(l->router_mlp);
    for (int i = 0; l->experts && i < l->n_experts; i++)
        n += block_bytes(&l->experts[i]);
    return n;
}

/* --- work space -------------------------------------------------------------------------------- */

static void *bytes_new(struct ffn_work *w, size_t n_bytes)
{
    n_bytes = (n_bytes + 64) & ~(size_t)63;
    w->n_bytes += n_bytes;
    return aligned_alloc(64, n_bytes);
}

/* Takes n_bytes of the scratch; without a base only counts. */
static void *take(unsigned char *base, size_t *used, size_t n_bytes)
{
    void *at = base ? base + *used : NULL;
    *used += (n_bytes + 63) & ~(size_t)63;
    return at;
}

/* Where everything lies for a layer with or without experts; returns how much that is. */
static size_t place(struct ffn_work *w, bool dense, unsigned char *base)
{
    const struct model_config *c = w->config;
    size_t rows = (size_t)w->max_rows, hidden = (size_t)c->hidden_size, f = sizeof(float), used = 0;
    size_t n = rows * (size_t)(dense ? 1 : w->top_k + 1), lot = w->lot_floats[dense];
    w->norm = take(base, &used, rows * hidden * f);
    w->norm_act = take(base, &used, rows * act_room(c->hidden_size));
    w->logits = take(base, &used, rows * (size_t)router_experts(c) * f);
    w->router = take(base, &used, rows * router_mlp_room(c));
    w->gate = take(base, &used, lot * f);
    w->up = take(base, &used, lot * f);
    /* An int8 row needs less than the float row it comes from, but for its alignment. */
    w->mid_act = take(base, &used, lot * 2 + n * 128);
    w->down = take(base, &used, n * hidden * f);
    return used;
}

/* Rows of the middle that are `wide` at most, `all` floats together. */
static size_t lot_room(size_t wide, size_t all)
{
    size_t n = LOT_BYTES / (2 * sizeof(float) + 2);
    n = n < LOT_ROWS * wide ? LOT_ROWS * wide : n;
    return n < all ? n : all;
}

int ffn_work_new(const struct model_config *c, const struct step_limits *lim, struct ffn_work **ret)
{
    struct ffn_work *w = calloc(1, sizeof(*w));
    if (!w)
        return ERR_NOMEM;
    size_t rows = (size_t)lim->max_rows, f = sizeof(float);
    w->config = c;
    w->scratch = lim->scratch;
    w->max_rows = lim->max_rows;
    w->top_k = c->n_routed_experts > 0 ? c->num_experts_per_tok : 0;
    size_t slots = rows * (size_t)w->top_k, n = rows + slots;
    if (w->top_k > 0) {
        size_t expert = (size_t)c->moe_intermediate_size, shared = (size_t)model_shared_width(c);
        w->lot_floats[0] = lot_room(shared > expert ? shared : expert, rows * shared + slots * expert);
        scratch_need(lim->scratch, place(w, false, NULL));
    }
    if (c->first_k_dense_replace > 0 || w->top_k == 0 || c->attentions_per_layer > 1) {
        size_t wide = (size_t)c->intermediate_size;
        w->lot_floats[1] = lot_room(wide, rows * wide);
        scratch_need(lim->scratch, place(w, true, NULL));
    }
    w->experts = bytes_new(w, slots * sizeof(int32_t));
    w->weights = bytes_new(w, slots * f);
    w->slots = bytes_new(w, slots * sizeof(int32_t));
    w->first = bytes_new(w, ((size_t)router_experts(c) + 1) * sizeof(int32_t));
    w->px = calloc(n + 1, sizeof(*w->px));
    w->px_up = calloc(n + 1, sizeof(*w->px_up));
    w->py_gate = calloc(n + 1, sizeof(*w->py_gate));
    w->py_up = calloc(n + 1, sizeof(*w->py_up));
    w->list = calloc((size_t)ffn_max_products(c), sizeof(*w->list));
    if (!w->experts || !w->weights || !w->slots || !w->first || !w->px || !w->px_up || !w->py_gate ||
        !w->py_up || !w->list) {
        ffn_work_free(w);
        return ERR_NOMEM;
    }
    *ret = w;
    return 0;
}

void ffn_work_free(struct ffn_work *w)
{
    if (!w)
        return;
    free(w->experts);
    free(w->weights);
    free(w->slots);
    free(w->first);
    free(w->px);
    free(w->px_up);
    free(w->py_gate);
    free(w->py_up);
    free(w->list);
    free(w);
}

uint64_t ffn_work_bytes(const struct ffn_work *w)
{
    return w->n_bytes;
}

int ffn_max_products(const struct model_config *c)
{
    return 2 * (c->n_routed_experts + 1);
}

/* --- a layer ----------------------------------------------------------------------------------- */

static int main_width(const struct ffn_work *w)
{
    return w->layer->main.gate.n_out;
}

static int expert_width(const struct ffn_work *w)
{
    return w->layer->n_experts ? w->layer->experts[0].gate.n_out : 0;
}

/* Middles are numbered: slots first (0 .. n_rows * top_k), then the main block's rows. */
static int n_slots_of(const struct ffn_work *w)
{
    return w->layer->dense ? 0 : w->set->n_rows * w->top_k;
}

static void norm_rows(void *arg, int r0, int r1, int thread)
{
    struct ffn_work *w = arg;
    const struct step *st = w->step;
    const struct model_config *c = st->config;
    const struct ffn_layer *l = w->layer;
    size_t hidden = (size_t)c->hidden_size;
    (void)thread;
    for (int i = r0; i < r1; i++) {
        float *n = w->norm + (size_t)i * hidden;
        st->kern->rms_norm(st->x + (size_t)w->set->rows[i] * hidden, l->norm, c->hidden_size,
                           c->rms_norm_eps, n);
        if (l->prepared_in)
            act_store(st->kern, i < w->set->n_rounded, n, c->hidden_size,
                      w->norm_act + (size_t)i * act_room(c->hidden_size));
        if (!l->dense) {
            w->px[i] = act_view(router_input(l), n,
                                w->norm_act + (size_t)i * act_room(c->hidden_size));
            w->py_gate[i] = w->logits + (size_t)i * (size_t)router_experts(c);
        }
    }
}

static void choose_rows(void *arg, int r0, int r1, int thread)
{
    struct ffn_work *w = arg;
    const struct model_config *c = w->step->config;
    (void)thread;
    for (int i = r0; i < r1; i++)
        router_choose(c, w->logits + (size_t)i * (size_t)router_experts(c),
                      w->layer->router_bias, w->experts + i * w->top_k, w->weights + i * w->top_k);
}

/* Counting sort of the slots by expert; stable, so rows of an expert stay in order. */
static void sort_slots(struct ffn_work *w, int n_slots)
{
    int n_experts = router_experts(w->step->config);
    memset(w->first, 0, ((size_t)n_experts + 1) * sizeof(*w->first));
    for (int s = 0; s < n_slots; s++)
        w->first[w->experts[s] + 1]++;
    for (int e = 0; e < n_experts; e++)
        w->first[e + 1] += w->first[e];
    for (int s = 0; s < n_slots; s++)
        w->slots[w->first[w->experts[s]]++] = s;
    for (int e = n_experts; e > 0; e--)
        w->first[e] = w->first[e - 1];
    w->first[0] = 0;
}

/* Rows in the order of the products are counted: sorted slots of experts with weights, then rows of the
 * main block. */
static int n_routed_slots(const struct ffn_work *w)
{
    return n_slots_of(w) ? w->first[w->layer->n_experts] : 0;
}

/* The middle's number of the i-th row in that order. */
static int mid_of(const struct ffn_work *w, int i, int n_routed)
{
    return i < n_routed ? w->slots[i] : n_slots_of(w) + (i - n_routed);
}

/* The token that it belongs to. */
static int row_of(const struct ffn_work *w, int i, int n_routed)
{
    return i < n_routed ? w->slots[i] / w->top_k : i - n_routed;
}

/* Where row i of that order begins in the lot, whose rows take `expert` and `main` each. */
static size_t lot_offset(const struct ffn_work *w, int i, size_t expert, size_t main)
{
    int n_routed = n_routed_slots(w);
    if (i < n_routed)
        return (size_t)(i - w->lot) * expert;
    int routed = n_routed > w->lot ? n_routed - w->lot : 0;
    return (size_t)routed * expert + (size_t)(i - w->lot - routed) * main;
}

static size_t mid_offset(const struct ffn_work *w, int i)
{
    return lot_offset(w, i, (size_t)expert_width(w), (size_t)main_width(w));
}

static size_t mid_act_offset(const struct ffn_work *w, int i)
{
    return lot_offset(w, i, act_room(expert_width(w)), act_room(main_width(w)));
}

/* End of a lot that begins at row i of n. */
static int lot_end(const struct ffn_work *w, int i, int n)
{
    size_t used = 0;
    int n_routed = n_routed_slots(w);
    for (; i < n; i++) {
        used += (size_t)(i < n_routed ? expert_width(w) : main_width(w));
        if (used > w->lot_floats[w->layer->dense])
            break;
    }
    return i;
}

static void silu_rows(void *arg, int r0, int r1, int thread)
{
    struct ffn_work *w = arg;
    const struct step *st = w->step;
    const struct ffn_layer *l = w->layer;
    int n_routed = n_routed_slots(w);
    (void)thread;
    for (int i = w->lot + r0; i < w->lot + r1; i++) {
        int mid = mid_of(w, i, n_routed);
        bool routed = i < n_routed;
        int width = routed ? expert_width(w) : main_width(w);
        enum tensor_type type = routed ? l->experts[w->experts[mid]].down.type : l->main.down.type;
        float *g = w->gate + mid_offset(w, i);
        st->kern->silu_mul(g, w->up + mid_offset(w, i), width, g);
        w->px[i] = act_prepare(st->kern, type, row_of(w, i, n_routed) < w->set->n_rounded, g, width,
                               w->mid_act + mid_act_offset(w, i));
        w->py_gate[i] = w->down + (size_t)mid * (size_t)st->config->hidden_size;
    }
}

/* The sum of a token's identity experts, in place of their input. */
static void sum_identity(const struct ffn_work *w, int row, float *y)
{
    int hidden = w->step->config->hidden_size;
    float weight = 0.0f;
    bool any = false;
    for (int j = 0; j < w->top_k; j++) {
        int s = row * w->top_k + j;
        if (w->experts[s] < w->layer->n_experts)
            continue;
        weight += w->weights[s];
        any = true;
    }
    if (!any || w->step->config->zero_expert_skips) {
        memset(y, 0, (size_t)hidden * sizeof(float));
        return;
    }
    for (int i = 0; i < hidden; i++)
        y[i] *= weight;
}

static void sum_rows(void *arg, int r0, int r1, int thread)
{
    struct ffn_work *w = arg;
    const struct step *st = w->step;
    const struct kernels *k = st->kern;
    int hidden = st->config->hidden_size, n_slots = n_slots_of(w);
    float scale = model_residual_scale(st->config);
    (void)thread;
    for (int i = r0; i < r1; i++) {
        float *x = w->out + (size_t)w->set->rows[i] * (size_t)hidden;
        const float *main_out = w->down + (size_t)(n_slots + i) * (size_t)hidden;
        if (w->layer->dense) {
            residual_add(k, w->layer->residual, scale, main_out, hidden, x);
            continue;
        }
        float *y = w->norm + (size_t)i * (size_t)hidden; /* no longer needed: the sum's place */
        sum_identity(w, i, y);
        for (int j = 0; j < w->top_k; j++) {
            size_t s = (size_t)i * (size_t)w->top_k + (size_t)j;
            if (w->experts[s] < w->layer->n_experts)
                k->axpy(w->weights[s], w->down + s * (size_t)hidden, hidden, y);
        }
        if (w->layer->main.gate.packed)
            k->axpy(1.0f, main_out, hidden, y);
        residual_add(k, w->layer->residual, scale, y, hidden, x);
    }
}

/* Gate and up, or down, of block b over those of rows [i0, i1) that are in the lot. */
static int add_products(struct ffn_work *w, int n, const struct ffn_block *b, int i0, int i1, bool down)
{
    i0 = i0 > w->lot ? i0 : w->lot;
    i1 = i1 < w->lot_end ? i1 : w->lot_end;
    if (i0 >= i1)
        return n;
    int n_routed = n_routed_slots(w), rounded = 0;
    while (rounded < i1 - i0 && row_of(w, i0 + rounded, n_routed) < w->set->n_rounded)
        rounded++;
    w->list[n++] =
        (struct product){down ? &b->down : &b->gate, w->px + i0, w->py_gate + i0, i1 - i0, rounded};
    if (!down)
        w->list[n++] = (struct product){&b->up, w->px_up + i0, w->py_up + i0, i1 - i0, rounded};
    return n;
}

static void lot_products(struct ffn_work *w, bool down)
{
    const struct ffn_layer *l = w->layer;
    int n = 0, n_routed = n_routed_slots(w);
    for (int e = 0; n_routed && e < l->n_experts; e++)
        n = add_products(w, n, &l->experts[e], w->first[e], w->first[e + 1], down);
    if (l->main.gate.packed)
        n = add_products(w, n, &l->main, n_routed, n_routed + w->set->n_rows, down);
    products_run(w->step->products, w->list, n);
}

static void run_lot(struct ffn_work *w)
{
    const struct ffn_layer *l = w->layer;
    int n_routed = n_routed_slots(w), hidden = w->config->hidden_size;
    for (int i = w->lot; i < w->lot_end; i++) {
        int mid = mid_of(w, i, n_routed);
        size_t row = (size_t)row_of(w, i, n_routed);
        const struct ffn_block *b = i < n_routed ? &l->experts[w->experts[mid]] : &l->main;
        const float *x = w->norm + row * (size_t)hidden;
        const void *prepared = w->norm_act + row * act_room(hidden);
        w->px[i] = act_view(b->gate.type, x, prepared);
        w->px_up[i] = act_view(b->up.type, x, prepared);
        w->py_gate[i] = w->gate + mid_offset(w, i);
        w->py_up[i] = w->up + mid_offset(w, i);
    }
    lot_products(w, false);
    rows_run(w->step->pool, w->lot_end - w->lot, silu_rows, w);
    lot_products(w, true);
}

void ffn_run(const struct ffn_layer *l, struct ffn_work *w, const struct step *step,
             const struct row_set *set, float *out)
{
    const struct model_config *c = step->config;
    int rows = set->n_rows;
    w->layer = l;
    w->step = step;
    w->set = set;
    w->out = out;
    place(w, l->dense, w->scratch->base);
    rows_run_light(step->pool, rows, 3 * c->hidden_size, norm_rows, w);
    if (!l->dense) {
        if (l->router_mlp)
            router_mlp_run(l->router_mlp, step, set, l->router.type, w->px, w->py_up, w->router);
        w->list[0] = (struct product){&l->router, w->px, w->py_gate, rows, set->n_rounded};
        products_run(step->products, w->list, 1);
        rows_run_light(step->pool, rows, router_experts(c) * w->top_k, choose_rows, w);
        sort_slots(w, n_slots_of(w));
        for (int i = 0; i < l->n_experts; i++)
            l->expert_tokens[i] += (uint64_t)(w->first[i + 1] - w->first[i]);
    }
    int n_mid = n_routed_slots(w) + (l->main.gate.packed ? rows : 0);
    for (w->lot = 0; w->lot < n_mid; w->lot = w->lot_end) {
        w->lot_end = lot_end(w, w->lot, n_mid);
        run_lot(w);
    }
    rows_run_light(step->pool, rows, (w->top_k + 3) * c->hidden_size, sum_rows, w);
}
