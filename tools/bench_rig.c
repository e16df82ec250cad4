/* tools/bench_rig.c - see bench_rig.h.
 *
 * A context is made quickly: its first tokens, as many whole pages as REAL has, are computed, and the pages
 * of the rest are copies of theirs. No speed depends on what rows hold, and every sequence has pages of its
 * own, except for a common beginning. */
#include "config.h"

#include "tools/bench_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/scheme.h"
#include "engine/step.h"

#define REAL 256

void rig_close(struct rig *r)
{
    free(r->logits);
    model_free(&r->model);
    if (r->kv)
        kv_close(&r->kv);
    pool_free(&r->pool);
    checkpoint_close(&r->ck);
}

int rig_open(struct rig *r, const char *path, int max_batch, int max_len, int max_logits, struct err *e)
{
    const struct bench_options *o = r->o;
    int rows = r->chunk > max_batch ? r->chunk : max_batch;
    rows = rows > max_logits ? rows : max_logits;
    int err = checkpoint_open(path, &r->ck, e);
    if (err < 0 || (err = pool_new(r->machine->threads, 1, &r->pool, e)) < 0)
        return err;
    r->max_batch = max_batch;
    r->rounded = scheme_rounded(PRODUCTS_AUTO, r->machine->level, r->ck);
    struct model_options mo = {.level = r->machine->level, .cache_type = (enum cache_type)o->cache_type,
                               .page_tokens = (uint32_t)bench_conf_int("page_tokens"),
                               .max_batch_tokens = rows > REAL ? rows : REAL,
                               .max_logit_rows = max_logits, .max_seqs = max_batch,
                               .max_position = max_len, .decompressed = o->scheme == MLA_DECOMPRESSED,
                               .mla_product = o->scheme == MLA_REUSE       ? MLA_PRODUCT_KEPT
                                              : o->scheme == MLA_RECOMPUTE ? MLA_PRODUCT_MADE
                                                                           : MLA_FACTORS};
    if ((err = model_new(r->ck, &mo, r->pool, &r->model, e)) < 0)
        return err;
    r->page_tokens = (int)model_page_tokens(r->model);
    r->real = r->page_tokens * (r->page_tokens < REAL ? REAL / r->page_tokens : 1);
    struct kv_config kc = {.page_tokens = (uint32_t)r->page_tokens, .max_seqs = (uint32_t)max_batch + 2,
                           .max_seq_tokens = (uint32_t)max_len, .huge_pages = true};
    kc.planes = model_planes(r->model, &kc.n_planes);
    uint64_t page = 4096;
    for (uint32_t i = 0; i < kc.n_planes; i++) {
        page += (uint64_t)kc.planes[i].row_bytes * kc.page_tokens + kc.planes[i].align;
        r->token_bytes += (double)kc.planes[i].row_bytes / kc.planes[i].tokens_per_row;
    }
    kc.pool_bytes = page * (uint64_t)(max_batch + 1) * (uint64_t)(max_len / r->page_tokens + 2);
    if ((err = kv_open(&kc, &r->kv, e)) < 0 || (err = model_bind_cache(r->model, r->kv, e)) < 0)
        return err;
    r->logits = malloc((size_t)max_logits * (size_t)r->ck->config.vocab_size * sizeof(float));
    if (!r->logits)
        return err_set(e, ERR_NOMEM, "out of memory");
    if (o->profile)
        model_profile(r->model, &r->profile);
    return 0;
}

void rig_must(int r, const char *what)
{
    if (r < 0) {
        fprintf(stderr, "latent-bench: %s: %s\n", what, err_name(r));
        exit(1);
    }
}

static int32_t token_of(const struct rig *r, uint64_t n)
{
    n = (n + 1) * 0x9e3779b97f4a7c15ull;
    return (int32_t)((n >> 33) % (uint64_t)r->ck->config.vocab_size);
}

static int32_t *new_tokens(const struct rig *r, int n, uint64_t salt, int position)
{
    int32_t *tokens = malloc((size_t)n * sizeof(*tokens));
    rig_must(tokens ? 0 : ERR_NOMEM, "tokens");
    for (int i = 0; i < n; i++)
        tokens[i] = token_of(r, salt * 1000003u + (uint64_t)(position + i));
    return tokens;
}

/* Computes n more tokens, `chunk` of them a step; logits for the last one when wanted. */
static void compute(struct rig *r, struct kv_seq *seq, int n, int chunk, uint64_t salt, bool logits)
{
    int first = (int)kv_seq_length(seq);
    int32_t *tokens = new_tokens(r, n, salt, first);
    for (int at = 0; at < n;) {
        int m = n - at < chunk ? n - at : chunk;
        rig_must(kv_seq_reserve(r->kv, seq, (uint32_t)m), "cache");
        struct forward_seq s = {kv_seq_pages(seq, NULL), first + at, m, tokens + at,
                                logits && at + m == n, false, r->rounded};
        struct forward_batch b = {1, &s, r->logits};
        kv_step_begin(r->kv);
        rig_must(model_forward(r->model, &b), "forward");
        kv_seq_commit(r->kv, seq, tokens + at, (uint32_t)m);
        kv_step_end(r->kv);
        at += m;
    }
    free(tokens);
}

/* Lengthens a sequence to `to` tokens. */
static void grow(struct rig *r, struct kv_seq *seq, int to, uint64_t salt)
{
    int from = (int)kv_seq_length(seq), real = to < r->real ? to : r->real, pt = r->page_tokens;
    if (from < real) {
        compute(r, seq, real - from, REAL, salt, false);
        from = real;
    }
    if (from >= to)
        return;
    int32_t *tokens = new_tokens(r, to - from, salt, from);
    rig_must(kv_seq_reserve(r->kv, seq, (uint32_t)(to - from)), "cache");
    unsigned char *const *pages = kv_seq_pages(seq, NULL);
    for (int p = from / pt; p <= (to - 1) / pt; p++)
        memcpy(pages[p], pages[p % (r->real / pt)], kv_page_bytes(r->kv));
    kv_seq_commit(r->kv, seq, tokens, (uint32_t)(to - from));
    free(tokens);
}

void rig_score(struct rig *r, const int32_t *tokens, int n)
{
    struct kv_seq *seq = NULL;
    rig_must(kv_seq_new(r->kv, 0, &seq), "cache");
    rig_must(kv_seq_reserve(r->kv, seq, (uint32_t)n), "cache");
    struct forward_seq s = {kv_seq_pages(seq, NULL), 0, n, tokens, n, false, r->rounded};
    struct forward_batch b = {1, &s, r->logits};
    kv_step_begin(r->kv);
    rig_must(model_forward(r->model, &b), "forward");
    kv_step_end(r->kv);
    kv_seq_free(r->kv, &seq);
}

/* --- decode ------------------------------------------------------------------------------------ */

void rig_group_begin(struct rig *r, struct rig_group *g, int shared)
{
    size_t n = (size_t)r->max_batch;
    *g = (struct rig_group){
        .seq = calloc(n, sizeof(*g->seq)),
        .fs = calloc(n, sizeof(*g->fs)),
        .tok = calloc(n, sizeof(*g->tok))};
    rig_must(g->seq && g->fs && g->tok ? 0 : ERR_NOMEM, "sequences");
    rig_must(kv_seq_new(r->kv, 0, &g->root), "cache");
    grow(r, g->root, shared, 0);
    for (int i = 0; i < r->max_batch; i++)
        rig_must(kv_seq_fork(r->kv, g->root, &g->seq[i]), "cache");
}

void rig_group_end(struct rig *r, struct rig_group *g)
{
    for (int i = 0; i < r->max_batch; i++)
        kv_seq_free(r->kv, &g->seq[i]);
    kv_seq_free(r->kv, &g->root);
    kv_drop_cached(r->kv);
    free(g->seq);
    free(g->fs);
    free(g->tok);
}

void rig_group_grow(struct rig *r, struct rig_group *g, int context)
{
    for (int i = 0; i < r->max_batch; i++)
        grow(r, g->seq[i], context, (uint64_t)i + 1);
}

static void decode_steps(struct rig *r, struct rig_group *g, int n, int steps, int salt)
{
    for (int t = 0; t < steps; t++) {
        for (int i = 0; i < n; i++) {
            rig_must(kv_seq_reserve(r->kv, g->seq[i], 1), "cache");
            g->tok[i] = token_of(r, (uint64_t)(i * 7919 + t + salt * 31));
            g->fs[i] = (struct forward_seq){kv_seq_pages(g->seq[i], NULL),
                                            (int32_t)kv_seq_length(g->seq[i]), 1, &g->tok[i], 1,
                                            r->o->scheme == MLA_DECOMPRESSED, false};
        }
        struct forward_batch b = {n, g->fs, r->logits};
        kv_step_begin(r->kv);
        rig_must(model_forward(r->model, &b), "forward");
        for (int i = 0; i < n; i++)
            kv_seq_commit(r->kv, g->seq[i], &g->tok[i], 1);
        kv_step_end(r->kv);
    }
}

double rig_decode(struct rig *r, struct rig_group *g, int n, int context, int tokens, double *rate)
{
    double seconds = 0;
    for (int rep = -1; rep < r->o->repeat; rep++) { /* the first is a warm-up */
        if (rep == 0)
            memset(&r->profile, 0, sizeof(r->profile));
        int64_t t0 = clock_now_ns();
        decode_steps(r, g, n, tokens, rep);
        double t = (double)(clock_now_ns() - t0) / 1e9;
        if (rep >= 0) {
            rate[rep] = (double)n * tokens / t;
            seconds += t;
        }
        for (int i = 0; i < n; i++)
            rig_must(kv_seq_truncate(r->kv, g->seq[i], (uint32_t)context), "cache");
    }
    return seconds;
}

/* --- prefill ----------------------------------------------------------------------------------- */

double rig_prefill(struct rig *r, int tokens, int context, double *rate)
{
    double seconds = 0;
    struct kv_seq *root = NULL;
    rig_must(kv_seq_new(r->kv, 0, &root), "cache");
    grow(r, root, context, 1);
    for (int rep = -1; rep < r->o->repeat; rep++) {
        struct kv_seq *seq = NULL;
        rig_must(kv_seq_fork(r->kv, root, &seq), "cache");
        if (rep == 0)
            memset(&r->profile, 0, sizeof(r->profile));
        int64_t t0 = clock_now_ns();
        compute(r, seq, tokens, r->chunk, (uint64_t)(rep + 78), true);
        double t = (double)(clock_now_ns() - t0) / 1e9;
        if (rep >= 0) {
            rate[rep] = tokens / t;
            seconds += t;
        }
        kv_seq_free(r->kv, &seq);
        kv_drop_cached(r->kv);
    }
    kv_seq_free(r->kv, &root);
    kv_drop_cached(r->kv);
    return seconds;
}
