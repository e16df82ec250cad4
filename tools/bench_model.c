/* tools/bench_model.c - steps of the forward pass over the cache, without text, sampling or scheduler:
 * modes decode, batch, shared and prefill.
 *
 * A context is made quickly: its first REAL tokens are computed, and the pages of the rest are copies of
 * theirs. No speed depends on what rows hold, and every sequence has pages of its own, except for the
 * common prefix of mode shared. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/pool.h"
#include "engine/scheme.h"
#include "engine/step.h"
#include "tools/bench.h"

#define REAL 256 /* a multiple of any page */

static const char *const schemes[] = {
    [MLA_AUTO] = NULL,     [MLA_ABSORBED] = "absorbed",   [MLA_DECOMPRESSED] = "decompressed",
    [MLA_REUSE] = "reuse", [MLA_RECOMPUTE] = "recompute",
};

struct rig {
    const struct bench_options *o;
    const struct bench_machine *machine;
    const char *mode;
    struct checkpoint *ck;
    struct pool *pool;
    struct model *model;
    struct kv *kv;
    float *logits;
    struct profile profile;
    double token_bytes;
    int page_tokens, chunk, max_batch;
    bool rounded; /* products of prompts */
};

static int list_max(const struct bench_list *l)
{
    int max = l->v[0];
    for (int i = 1; i < l->n; i++)
        max = l->v[i] > max ? l->v[i] : max;
    return max;
}

static void rig_close(struct rig *r)
{
    free(r->logits);
    model_free(&r->model);
    if (r->kv)
        kv_close(&r->kv);
    pool_free(&r->pool);
    checkpoint_close(&r->ck);
}

static int rig_open(struct rig *r, int max_batch, int max_len, struct err *e)
{
    const struct bench_options *o = r->o;
    int rows = r->chunk > max_batch ? r->chunk : max_batch;
    int err = checkpoint_open(o->model, &r->ck, e);
    if (err < 0 || (err = pool_new(r->machine->threads, 1, &r->pool, e)) < 0)
        return err;
    r->max_batch = max_batch;
    r->page_tokens = bench_conf_int("page_tokens");
    r->rounded = scheme_rounded(PRODUCTS_AUTO, r->machine->level, r->ck);
    struct model_options mo = {.level = r->machine->level, .cache_type = (enum cache_type)o->cache_type,
                               .page_tokens = (uint32_t)r->page_tokens,
                               .max_batch_tokens = rows > REAL ? rows : REAL,
                               .max_logit_rows = max_batch, .max_seqs = max_batch,
                               .max_position = max_len, .decompressed = o->scheme == MLA_DECOMPRESSED,
                               .mla_product = o->scheme == MLA_REUSE       ? MLA_PRODUCT_KEPT
                                              : o->scheme == MLA_RECOMPUTE ? MLA_PRODUCT_MADE
                                                                           : MLA_FACTORS};
    if ((err = model_new(r->ck, &mo, r->pool, &r->model, e)) < 0)
        return err;
    struct kv_config kc = {.page_tokens = mo.page_tokens, .max_seqs = (uint32_t)max_batch + 2,
                           .max_seq_tokens = (uint32_t)max_len, .huge_pages = true};
    kc.planes = model_planes(r->model, &kc.n_planes);
    uint64_t page = 4096;
    for (uint32_t i = 0; i < kc.n_planes; i++) {
        page += (uint64_t)kc.planes[i].row_bytes * mo.page_tokens + kc.planes[i].align;
        r->token_bytes += (double)kc.planes[i].row_bytes / kc.planes[i].tokens_per_row;
    }
    kc.pool_bytes = page * (uint64_t)(max_batch + 1) * (uint64_t)(max_len / r->page_tokens + 2);
    if ((err = kv_open(&kc, &r->kv, e)) < 0 || (err = model_bind_cache(r->model, r->kv, e)) < 0)
        return err;
    r->logits = malloc((size_t)max_batch * (size_t)r->ck->config.vocab_size * sizeof(float));
    if (!r->logits)
        return err_set(e, ERR_NOMEM, "out of memory");
    if (o->profile)
        model_profile(r->model, &r->profile);
    bench_report_model(r->ck, r->token_bytes);
    return 0;
}

/* Limits were computed for what is asked: a refusal is a mistake of this program. */
static void must(int r, const char *what)
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
    must(tokens ? 0 : ERR_NOMEM, "tokens");
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
        must(kv_seq_reserve(r->kv, seq, (uint32_t)m), "cache");
        struct forward_seq s = {kv_seq_pages(seq, NULL), first + at, m, tokens + at,
                                logits && at + m == n, false, r->rounded};
        struct forward_batch b = {1, &s, r->logits};
        kv_step_begin(r->kv);
        must(model_forward(r->model, &b), "forward");
        kv_seq_commit(r->kv, seq, tokens + at, (uint32_t)m);
        kv_step_end(r->kv);
        at += m;
    }
    free(tokens);
}

/* Lengthens a sequence to `to` tokens. */
static void grow(struct rig *r, struct kv_seq *seq, int to, uint64_t salt)
{
    int from = (int)kv_seq_length(seq), real = to < REAL ? to : REAL, pt = r->page_tokens;
    if (from < real) {
        compute(r, seq, real - from, REAL, salt, false);
        from = real;
    }
    if (from >= to)
        return;
    int32_t *tokens = new_tokens(r, to - from, salt, from);
    must(kv_seq_reserve(r->kv, seq, (uint32_t)(to - from)), "cache");
    unsigned char *const *pages = kv_seq_pages(seq, NULL);
    for (int p = from / pt; p <= (to - 1) / pt; p++)
        memcpy(pages[p], pages[p % (REAL / pt)], kv_page_bytes(r->kv));
    kv_seq_commit(r->kv, seq, tokens, (uint32_t)(to - from));
    free(tokens);
}

/* --- decode ------------------------------------------------------------------------------------ */

struct group {
    struct kv_seq *root, **seq;
    struct forward_seq *fs;
    int32_t *tok;
};

static void decode_steps(struct rig *r, struct group *g, int n, int steps, int salt)
{
    for (int t = 0; t < steps; t++) {
        for (int i = 0; i < n; i++) {
            must(kv_seq_reserve(r->kv, g->seq[i], 1), "cache");
            g->tok[i] = token_of(r, (uint64_t)(i * 7919 + t + salt * 31));
            g->fs[i] = (struct forward_seq){kv_seq_pages(g->seq[i], NULL),
                                            (int32_t)kv_seq_length(g->seq[i]), 1, &g->tok[i], 1,
                                            r->o->scheme == MLA_DECOMPRESSED, false};
        }
        struct forward_batch b = {n, g->fs, r->logits};
        kv_step_begin(r->kv);
        must(model_forward(r->model, &b), "forward");
        for (int i = 0; i < n; i++)
            kv_seq_commit(r->kv, g->seq[i], &g->tok[i], 1);
        kv_step_end(r->kv);
    }
}

static void report(struct rig *r, struct bench_row *row, double *rate, double bound, const char *limit)
{
    bench_row_values(row, rate, r->o->repeat);
    row->mode = r->mode;
    row->unit = "tokens/s";
    row->bound = bound;
    row->limit = limit;
    row->profile = r->o->profile ? &r->profile : NULL;
    bench_report_row(row);
}

/* n sequences decode `tokens` each behind `context` tokens, of which `shared` are common. */
static void decode_row(struct rig *r, struct group *g, int n, int context, int shared, int tokens)
{
    double rate[BENCH_MAX_REPEAT], seconds = 0;
    const char *limit;
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
            must(kv_seq_truncate(r->kv, g->seq[i], (uint32_t)context), "cache");
    }
    struct bench_step s = {n, 1, context + tokens / 2, shared, 1, r->o->scheme};
    struct bench_cost c = bench_cost_of(r->ck, r->token_bytes, &s, r->machine);
    double bound = n / bench_cost_seconds(&c, r->machine, &limit);
    struct bench_row row = {
        .fields = {{"batch", NULL, n}, {"context", NULL, context}, {"shared", NULL, shared},
                   {"tokens", NULL, tokens},
                   {"cache_type", bench_cache_type_name(r->o->cache_type), 0},
                   {"cpu", cpu_level_name(r->machine->level), 0},
                   {"threads", NULL, r->machine->threads},
                   {r->o->scheme ? "scheme" : NULL, schemes[r->o->scheme], 0},
                   {r->o->scheme ? "mmacs" : NULL, NULL, (int64_t)((c.float_macs + c.integer_macs) / 1e6)},
                   {r->o->scheme ? "read_mb" : NULL, NULL, (int64_t)(c.bytes / 1e6)}},
        .profile_seconds = seconds};
    report(r, &row, rate, bound, limit);
}

/* All contexts, ascending, for one common prefix. */
static void decode_all(struct rig *r, int shared)
{
    const struct bench_options *o = r->o;
    size_t n = (size_t)r->max_batch;
    struct group g = {.seq = calloc(n, sizeof(*g.seq)), .fs = calloc(n, sizeof(*g.fs)),
                      .tok = calloc(n, sizeof(*g.tok))};
    must(g.seq && g.fs && g.tok ? 0 : ERR_NOMEM, "sequences");
    must(kv_seq_new(r->kv, 0, &g.root), "cache");
    grow(r, g.root, shared, 0);
    for (int i = 0; i < r->max_batch; i++)
        must(kv_seq_fork(r->kv, g.root, &g.seq[i]), "cache");
    for (int c = 0; c < o->context.n; c++) {
        int context = o->context.v[c] > shared ? o->context.v[c] : shared;
        for (int i = 0; i < r->max_batch; i++)
            grow(r, g.seq[i], context, (uint64_t)i + 1);
        for (int b = 0; b < o->batch.n; b++)
            decode_row(r, &g, o->batch.v[b], context, shared, o->tokens.v[0]);
    }
    for (int i = 0; i < r->max_batch; i++)
        kv_seq_free(r->kv, &g.seq[i]);
    kv_seq_free(r->kv, &g.root);
    kv_drop_cached(r->kv);
    free(g.seq);
    free(g.fs);
    free(g.tok);
}

/* --- prefill ----------------------------------------------------------------------------------- */

static void prefill_row(struct rig *r, int tokens, int context)
{
    double rate[BENCH_MAX_REPEAT], seconds = 0;
    const char *limit = "memory";
    struct kv_seq *root = NULL;
    must(kv_seq_new(r->kv, 0, &root), "cache");
    grow(r, root, context, 1);
    for (int rep = -1; rep < r->o->repeat; rep++) {
        struct kv_seq *seq = NULL;
        must(kv_seq_fork(r->kv, root, &seq), "cache");
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
    double least = bench_prefill_seconds(r->ck, r->token_bytes, tokens, context, r->chunk, r->machine,
                                         &limit);
    struct bench_row row = {
        .fields = {{"tokens", NULL, tokens}, {"context", NULL, context}, {"chunk", NULL, r->chunk},
                   {"work_bytes", NULL, (int64_t)model_workspace_bytes(r->model)},
                   {"cache_type", bench_cache_type_name(r->o->cache_type), 0},
                   {"cpu", cpu_level_name(r->machine->level), 0},
                   {"threads", NULL, r->machine->threads}},
        .profile_seconds = seconds};
    report(r, &row, rate, tokens / least, limit);
}

/* Decode steps in each of the four schemes of latent attention. */
int bench_schemes_run(const struct bench_options *o, const struct bench_machine *m, struct err *e)
{
    int r = 0;
    for (int scheme = MLA_ABSORBED; r == 0 && scheme <= MLA_RECOMPUTE; scheme++) {
        struct bench_options one = *o;
        one.scheme = scheme;
        r = bench_model_run(&one, MODE_DECODE, "schemes", m, e);
    }
    return r;
}

int bench_model_run(const struct bench_options *o, enum bench_mode mode, const char *name,
                    const struct bench_machine *m, struct err *e)
{
    struct rig r = {.o = o, .machine = m, .mode = name};
    int context = list_max(&o->context), shared = list_max(&o->shared);
    int max_len = (context > shared ? context : shared) + list_max(&o->tokens) + 1;
    r.chunk = o->chunk;
    int err = rig_open(&r, mode == MODE_PREFILL ? 1 : list_max(&o->batch), max_len, e);
    if (err == 0 && mode == MODE_PREFILL)
        for (int t = 0; t < o->tokens.n; t++)
            for (int c = 0; c < o->context.n; c++)
                prefill_row(&r, o->tokens.v[t], o->context.v[c]);
    else if (err == 0)
        for (int s = 0; s < o->shared.n; s++)
            decode_all(&r, o->shared.v[s]);
    rig_close(&r);
    return err;
}
