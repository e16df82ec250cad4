/* tools/bench_model.c - steps of the forward pass over the cache, without text, sampling or scheduler:
 * modes decode, batch, shared, prefill and schemes. */
#include "config.h"

#include <math.h>

#include "engine/scheme.h"
#include "tools/bench_rig.h"

static const char *const schemes[] = {
    [MLA_AUTO] = NULL,     [MLA_ABSORBED] = "absorbed",   [MLA_DECOMPRESSED] = "decompressed",
    [MLA_REUSE] = "reuse", [MLA_RECOMPUTE] = "recompute",
};

static int list_max(const struct bench_list *l)
{
    int max = l->v[0];
    for (int i = 1; i < l->n; i++)
        max = l->v[i] > max ? l->v[i] : max;
    return max;
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
static void decode_row(struct rig *r, struct rig_group *g, int n, int context, int shared, int tokens)
{
    double rate[BENCH_MAX_REPEAT], seconds = rig_decode(r, g, n, context, tokens, rate);
    const char *limit;
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
                   {r->o->scheme ? "mmacs" : NULL, NULL, floor((c.float_macs + c.integer_macs) / 1e6)},
                   {r->o->scheme ? "read_mb" : NULL, NULL, floor(c.bytes / 1e6)}},
        .profile_seconds = seconds};
    report(r, &row, rate, bound, limit);
}

/* All contexts, ascending, for one common prefix. */
static void decode_all(struct rig *r, int shared)
{
    const struct bench_options *o = r->o;
    struct rig_group g;
    rig_group_begin(r, &g, shared);
    for (int c = 0; c < o->context.n; c++) {
        int context = o->context.v[c] > shared ? o->context.v[c] : shared;
        rig_group_grow(r, &g, context);
        for (int b = 0; b < o->batch.n; b++)
            decode_row(r, &g, o->batch.v[b], context, shared, o->tokens.v[0]);
    }
    rig_group_end(r, &g);
}

/* --- prefill ----------------------------------------------------------------------------------- */

static void prefill_row(struct rig *r, int tokens, int context)
{
    double rate[BENCH_MAX_REPEAT], seconds = rig_prefill(r, tokens, context, rate);
    const char *limit = "memory";
    double least = bench_prefill_seconds(r->ck, r->token_bytes, tokens, context, r->chunk, r->machine,
                                         &limit);
    struct bench_row row = {
        .fields = {{"tokens", NULL, tokens}, {"context", NULL, context}, {"chunk", NULL, r->chunk},
                   {"work_bytes", NULL, (double)model_workspace_bytes(r->model)},
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
    int batch = mode == MODE_PREFILL ? 1 : list_max(&o->batch);
    int err = rig_open(&r, o->model, batch, max_len, batch, e);
    if (err == 0)
        bench_report_model(r.ck, r.token_bytes);
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
