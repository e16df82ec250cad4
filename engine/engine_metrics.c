/* engine/engine_metrics.c - see engine_metrics.h. */
#include "config.h"

#include "engine/engine_metrics.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "engine/profile.h"
#include "engine/queue.h"
#include "engine/step.h"

#define SECONDS(ns) ((double)(ns) / 1e9)

/* 1, 2, 5, 10 ... up to the first at or above max. */
static int one_two_five(double *out, int room, int max)
{
    static const int step[] = {1, 2, 5};
    int n = 0;
    for (int64_t scale = 1; n < room; scale *= 10)
        for (int i = 0; i < 3 && n < room; i++) {
            out[n++] = (double)(step[i] * scale);
            if (step[i] * scale >= max)
                return n;
        }
    return n;
}

enum kind { COUNTER, GAUGE, TTFT, ITL, E2E, TOKENS, STEP_TOKENS, CHOICES };

#define LABEL(key, value) key "=\"" value "\""
#define ONE(field, kind, name, help)
#define EACH(field, n, kind, name, help, ...) \
    static const char *const labels_##field[n] = {__VA_ARGS__};
#include "engine/metrics.def"
#undef ONE
#undef EACH

static const struct row {
    enum kind kind;
    int n;
    size_t at; /* of the first handle in struct engine_metrics */
    const char *name, *help;
    const char *const *labels; /* NULL: one series, without labels of its own */
} rows[] = {
#define ONE(field, kind, name, help) {kind, 1, offsetof(struct engine_metrics, field), name, help, NULL},
#define EACH(field, n, kind, name, help, ...) \
    {kind, n, offsetof(struct engine_metrics, field), name, help, labels_##field},
#include "engine/metrics.def"
#undef ONE
#undef EACH
};

#define BOUNDS(set) metrics_buckets_##set, metrics_n_buckets_##set

static struct metric *series(struct metrics *m, const struct row *r, const char *labels, int max_model_len)
{
    static const double step_tokens[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
    static const double choices[] = {1, 2, 5, 10, 20};
    double tokens[32];
    switch (r->kind) {
    case COUNTER:
        return metrics_counter(m, r->name, r->help, labels);
    case GAUGE:
        return metrics_gauge(m, r->name, r->help, labels);
    case TTFT:
        return metrics_histogram(m, r->name, r->help, labels, BOUNDS(ttft));
    case ITL:
        return metrics_histogram(m, r->name, r->help, labels, BOUNDS(itl));
    case E2E:
        return metrics_histogram(m, r->name, r->help, labels, BOUNDS(e2e));
    case TOKENS:
        return metrics_histogram(m, r->name, r->help, labels, tokens,
                                 one_two_five(tokens, 32, max_model_len));
    case STEP_TOKENS:
        return metrics_histogram(m, r->name, r->help, labels, step_tokens,
                                 sizeof(step_tokens) / sizeof(double));
    case CHOICES:
        return metrics_histogram(m, r->name, r->help, labels, choices,
                                 sizeof(choices) / sizeof(double));
    }
    return NULL;
}

void engine_metrics_register(struct engine_metrics *em, struct metrics *m, const char *model_id,
                             int max_model_len)
{
    char id[256], l[320], with[512];
    *em = (struct engine_metrics){0};
    if (!m)
        return;
    metrics_escape_label(model_id, id, sizeof(id));
    snprintf(l, sizeof(l), "model_name=\"%s\",engine=\"0\"", id);
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        const struct row *r = &rows[i];
        bool bare = !strncmp(r->name, "llamacpp:", 9);
        for (int k = 0; k < r->n; k++) {
            snprintf(with, sizeof(with), "%s%s%s", l, r->labels ? "," : "", r->labels ? r->labels[k] : "");
            struct metric *s = series(m, r, bare ? NULL : with, max_model_len);
            memcpy((char *)em + r->at + (size_t)k * sizeof(s), &s, sizeof(s));
        }
    }
}

void engine_metrics_cache_info(struct metrics *m, uint32_t page_tokens, uint32_t n_pages, const char *type,
                               bool prefix_cache)
{
    char labels[256];
    snprintf(labels, sizeof(labels),
             "engine=\"0\",block_size=\"%u\",num_gpu_blocks=\"%u\",cache_dtype=\"%s\","
             "enable_prefix_caching=\"%s\"",
             page_tokens, n_pages, type, prefix_cache ? "True" : "False");
    metric_set(metrics_gauge(m, "vllm:cache_config_info",
                             "The cache: tokens of a page, pages, type of rows; always 1.", labels), 1);
}

void engine_metrics_scheme_info(struct metrics *m, const struct scheme *s, const char *level)
{
    char labels[128];
    const char *mla = s->expected.absorbed_ns <= 0          ? "none"
                      : s->block                            ? "decompressed"
                      : s->product == MLA_PRODUCT_KEPT      ? "reuse"
                      : s->product == MLA_PRODUCT_MADE      ? "recompute"
                                                            : "absorbed";
    snprintf(labels, sizeof(labels), "mla=\"%s\",prompt_products=\"%s\",kernels=\"%s\"", mla,
             s->rounded ? "bf16" : "int8", level);
    metric_set(metrics_gauge(m, "latentd_scheme_info",
                             "The schemes chosen for latent attention and for products of prompts, and the "
                             "kernels' level; always 1.", labels), 1);
}

void engine_metrics_scheme(struct engine_metrics *em, const struct scheme *s)
{
    metric_set(em->mla_block, s->block);
    metric_set(em->mla_cost[0], s->expected.absorbed_ns / 1e9);
    metric_set(em->mla_cost[1], s->expected.decompressed_ns / 1e9);
    metric_set(em->mla_cost[2], s->measured.absorbed_ns / 1e9);
    metric_set(em->mla_cost[3], s->measured.decompressed_ns / 1e9);
}

void engine_metrics_cache(struct engine_metrics *em, const struct kv *kv)
{
    struct kv_stats st;
    kv_stats_read(kv, &st);
    metric_set(em->cache_usage, (double)st.pages_held / (double)st.n_pages);
    const uint64_t by_state[] = {st.pages_free, st.pages_held, st.pages_cached, st.pages_shared,
                                 st.pages_pinned};
    for (int i = 0; i < 5; i++)
        metric_set(em->pages[i], (double)by_state[i]);
    metric_set(em->latent_bytes, (double)((st.pages_held + st.pages_cached) * st.page_bytes));
    metric_set(em->shared_ratio, st.pages_held ? (double)st.pages_shared / (double)st.pages_held : 0);
    metric_add(em->prefix_copied, (double)st.copied_tokens - em->last_copied);
    metric_add(em->prefix_queries, (double)st.queries_tokens - em->last_queries);
    metric_add(em->prefix_hits, (double)st.hits_tokens - em->last_hits);
    const double evicted[] = {(double)(st.evictions - st.evicted_probation), (double)st.evicted_probation,
                              (double)st.dropped};
    for (int i = 0; i < 3; i++) {
        metric_add(em->evictions[i], evicted[i] - em->last_evictions[i]);
        em->last_evictions[i] = evicted[i];
    }
    metric_set(em->page_bytes, (double)st.page_bytes);
    em->last_queries = (double)st.queries_tokens;
    em->last_copied = (double)st.copied_tokens;
    em->last_hits = (double)st.hits_tokens;
}

void engine_metrics_disk(struct engine_metrics *em, struct kv *kv)
{
    struct kv_disk_stats d, *last = &em->last_disk;
    kv_disk_stats_read(kv, &d);
    if (d.state == KV_DISK_NONE)
        return;
    metric_set(em->disk_up, d.state == KV_DISK_ON || d.state == KV_DISK_READING);
    metric_set(em->disk_writing, d.state == KV_DISK_ON);
    metric_set(em->disk_bytes, (double)d.bytes);
    metric_set(em->disk_pages, (double)d.pages);
    metric_set(em->disk_queue, d.queue);
    metric_add(em->disk_writes, (double)(d.writes - last->writes));
    metric_add(em->disk_reads, (double)(d.reads - last->reads));
    metric_add(em->disk_hits, (double)(d.hits_tokens - last->hits_tokens));
    metric_add(em->disk_dropped, (double)(d.dropped - last->dropped));
    metric_add(em->disk_errors, (double)(d.errors - last->errors));
    metric_add(em->disk_evictions, d.evicted_files - last->evicted_files);
    *last = d;
}

void engine_metrics_counts(struct engine_metrics *em, int n_running, const struct queue_state *waiting,
                           uint64_t parked_bytes)
{
    metric_set(em->running, n_running);
    metric_set(em->waiting, waiting->n);
    metric_set(em->waiting_by[0], waiting->n - waiting->n_held);
    metric_set(em->waiting_by[1], waiting->n_held);
    metric_set(em->queue_age, SECONDS(waiting->longest_ns));
    metric_set(em->lc_processing, n_running);
    metric_set(em->lc_deferred, waiting->n);
    metric_set(em->parked_bytes, (double)parked_bytes);
}

void engine_metrics_step(struct engine_metrics *em, int n_seqs, int n_tokens)
{
    metric_observe(em->iteration_tokens, n_tokens);
    metric_add(em->lc_decode, 1);
    em->busy_slots += n_seqs;
    metric_set(em->lc_busy, em->busy_slots / fmax(metric_value(em->lc_decode), 1));
}

void engine_metrics_parts(struct engine_metrics *em, const struct profile *p, int64_t took_ns)
{
    int64_t products = p->ns[PROFILE_PRODUCTS], attention = p->ns[PROFILE_ATTENTION];
    int64_t rest = took_ns - products - attention;
    metric_add(em->part_time[0], SECONDS(products));
    metric_add(em->part_time[1], SECONDS(attention));
    metric_add(em->part_time[2], SECONDS(rest > 0 ? rest : 0));
}

void engine_metrics_admitted(struct engine_metrics *em, int n_prompt, int n_cached)
{
    metric_add(em->prompt_tokens, n_prompt);
    metric_add(em->prompt_cached, n_cached);
    metric_add(em->lc_prompt, n_prompt - n_cached);
    metric_add(em->prompt_source[0], n_prompt - n_cached);
    metric_add(em->prompt_source[1], n_cached);
}

static void set_rate(struct metric *rate, const struct metric *n, const struct metric *seconds)
{
    double t = metric_value(seconds);
    metric_set(rate, t > 0 ? metric_value(n) / t : 0);
}

void engine_metrics_done(struct engine_metrics *em, const struct gen_event *ev, int max_tokens,
                         int64_t e2e_ns)
{
    metric_add(em->success[ev->finish_reason - FINISH_STOP], 1);
    metric_observe(em->e2e, SECONDS(e2e_ns));
    metric_observe(em->queue_time, SECONDS(ev->queue_ns));
    if (ev->ttft_ns <= 0)
        return;
    int n_tokens = ev->prompt_tokens + ev->completion_tokens;
    metric_observe(em->prefill_time, SECONDS(ev->prefill_ns));
    metric_observe(em->decode_time, SECONDS(ev->decode_ns));
    metric_observe(em->inference_time, SECONDS(ev->prefill_ns + ev->decode_ns));
    metric_observe(em->req_prompt, ev->prompt_tokens);
    metric_observe(em->req_generation, ev->completion_tokens);
    metric_observe(em->req_max_tokens, max_tokens);
    metric_observe(em->req_computed, ev->prompt_tokens - ev->cached_tokens);
    metric_add(em->lc_prompt_seconds, SECONDS(ev->prefill_ns));
    metric_add(em->lc_predicted_seconds, SECONDS(ev->decode_ns));
    set_rate(em->lc_prompt_rate, em->lc_prompt, em->lc_prompt_seconds);
    set_rate(em->lc_predicted_rate, em->lc_predicted, em->lc_predicted_seconds);
    if (n_tokens > em->longest) {
        metric_add(em->lc_longest, n_tokens - em->longest);
        em->longest = n_tokens;
    }
    if (ev->completion_tokens > 1)
        metric_observe(em->tpot, SECONDS(ev->decode_ns) / (ev->completion_tokens - 1));
}

void engine_metrics_request(struct engine_metrics *em, int n, int longest)
{
    metric_observe(em->req_n, n);
    metric_observe(em->req_longest, longest);
}
