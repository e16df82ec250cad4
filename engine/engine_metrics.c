/* engine/engine_metrics.c - see engine_metrics.h. */
#include "config.h"

#include "engine/engine_metrics.h"

#include <stdio.h>

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

static struct metric *pages(struct metrics *m, const char *labels, const char *state)
{
    char with[384];
    snprintf(with, sizeof(with), "%s,state=\"%s\"", labels, state);
    return metrics_gauge(m, "latentd_kv_pages",
                         "Cache pages: free, held by sequences, cached (findable, unreferenced), shared "
                         "(held by two sequences or more), pinned (never evicted).", with);
}

void engine_metrics_register(struct engine_metrics *em, struct metrics *m, const char *model_id,
                             int max_model_len)
{
    static const char *const reasons[] = {NULL, "stop", "length", "abort", "error", "repetition"};
    static const double iteration[] = {1,   8,   16,   32,   64,   128,  256,
                                       512, 1024, 2048, 4096, 8192, 16384};
    char id[256], l[320], with[384];
    double sizes[32];
    int n = one_two_five(sizes, 32, max_model_len);
    *em = (struct engine_metrics){0};
    if (!m)
        return;
    metrics_escape_label(model_id, id, sizeof(id));
    snprintf(l, sizeof(l), "model_name=\"%s\",engine=\"0\"", id);
#define GAUGE(f, name, help) em->f = metrics_gauge(m, name, help, l)
#define COUNTER(f, name, help) em->f = metrics_counter(m, name, help, l)
#define TIMES(f, name, help, set) \
    em->f = metrics_histogram(m, name, help, l, metrics_buckets_##set, metrics_n_buckets_##set)
    GAUGE(running, "vllm:num_requests_running", "Sequences in execution.");
    GAUGE(waiting, "vllm:num_requests_waiting", "Sequences waiting to be scheduled.");
    GAUGE(cache_usage, "vllm:kv_cache_usage_perc",
            "Share of cache pages held by sequences, 0 to 1.");
    COUNTER(prefix_queries, "vllm:prefix_cache_queries_total",
            "Prompt tokens looked up in the prefix cache.");
    COUNTER(prefix_hits, "vllm:prefix_cache_hits_total",
            "Prompt tokens found in the prefix cache.");
    COUNTER(all_preemptions, "vllm:num_preemptions_total", "Sequences that gave their pages back.");
    COUNTER(prompt_tokens, "vllm:prompt_tokens_total", "Prompt tokens of admitted requests.");
    COUNTER(prompt_cached, "vllm:prompt_tokens_cached_total",
            "Prompt tokens taken from the cache.");
    COUNTER(generation_tokens, "vllm:generation_tokens_total", "Tokens generated.");
    for (int i = FINISH_STOP; i <= FINISH_REPETITION; i++) {
        snprintf(with, sizeof(with), "%s,finished_reason=\"%s\"", l, reasons[i]);
        em->success[i] = metrics_counter(m, "vllm:request_success_total",
                                         "Ended choices by finish reason.", with);
    }
    TIMES(ttft, "vllm:time_to_first_token_seconds", "Submission to first token.", ttft);
    TIMES(itl, "vllm:inter_token_latency_seconds", "Time between two tokens of a choice.", itl);
    TIMES(tpot, "vllm:request_time_per_output_token_seconds",
            "Mean time per output token of a choice.", itl);
    TIMES(e2e, "vllm:e2e_request_latency_seconds", "Submission to end.", e2e);
    TIMES(queue_time, "vllm:request_queue_time_seconds", "Submission to admission.", e2e);
    TIMES(prefill_time, "vllm:request_prefill_time_seconds", "Admission to first token.", e2e);
    TIMES(decode_time, "vllm:request_decode_time_seconds", "First token to end.", e2e);
    TIMES(inference_time, "vllm:request_inference_time_seconds", "Admission to end.", e2e);
    em->req_prompt = metrics_histogram(m, "vllm:request_prompt_tokens",
            "Prompt tokens of a choice.", l, sizes, n);
    em->req_generation = metrics_histogram(m, "vllm:request_generation_tokens",
            "Tokens generated for a choice.", l, sizes, n);
    em->iteration_tokens = metrics_histogram(m, "vllm:iteration_tokens_total",
            "Tokens of a step.", l,
                                             iteration, sizeof(iteration) / sizeof(iteration[0]));
    em->pages_free = pages(m, l, "free");
    em->pages_held = pages(m, l, "held");
    em->pages_cached = pages(m, l, "cached");
    em->pages_shared = pages(m, l, "shared");
    em->pages_pinned = pages(m, l, "pinned");
    COUNTER(prefix_copied, "latentd_kv_copied_tokens_total",
            "Prompt tokens found in the prefix cache whose rows were copied from inside a page.");
    for (int i = 0; i < 2; i++) {
        snprintf(with, sizeof(with), "%s,kind=\"%s\"", l, i ? "park" : "recompute");
        em->preemptions[i] = metrics_counter(m, "latentd_preemptions_total",
                "Sequences that gave their pages back, by what becomes of their rows.", with);
        snprintf(with, sizeof(with), "%s,limit=\"%s\"", l, i ? "timeout" : "max_queue_time");
        em->expired[i] = metrics_counter(m, "latentd_expired_total",
                "Requests that ran out of their time.", with);
    }
    GAUGE(parked_bytes, "latentd_parked_bytes", "Rows of preempted sequences outside the cache.");
    TIMES(step_time, "latentd_decode_step_seconds",
            "Time of steps in which a running sequence got its next token.", itl);
    static const char *const evicted[] = {"age", "probation", "drop"};
    for (int i = 0; i < 3; i++) {
        snprintf(with, sizeof(with), "%s,reason=\"%s\"", l, evicted[i]);
        em->evictions[i] = metrics_counter(m, "latentd_kv_evictions_total",
                "Cache pages evicted: the oldest, those that came once, and by command.", with);
    }
    GAUGE(page_bytes, "latentd_kv_page_bytes", "Bytes of a cache page.");
    GAUGE(disk_up, "latentd_disk_up",
            "1 when the cache's disk tier can be read, 0 when there is none or it is down.");
    GAUGE(disk_writing, "latentd_disk_writing", "1 when the disk tier can be written.");
    GAUGE(disk_bytes, "latentd_disk_bytes", "Bytes of all files of the disk tier.");
    GAUGE(disk_pages, "latentd_disk_pages", "Cache pages that can be found on disk.");
    GAUGE(disk_queue, "latentd_disk_queue_pages", "Cache pages that wait to be written to disk.");
    COUNTER(disk_writes, "latentd_disk_writes_total", "Cache pages written to disk.");
    COUNTER(disk_reads, "latentd_disk_reads_total", "Cache pages read from disk.");
    COUNTER(disk_hits, "latentd_disk_hit_tokens_total", "Tokens whose rows were put into memory from disk.");
    COUNTER(disk_dropped, "latentd_disk_dropped_total",
            "Cache pages that were evicted from memory before they could be written to disk.");
    COUNTER(disk_errors, "latentd_disk_errors_total",
            "Failures of the disk tier: pages and files that were not used, writes and opens that failed.");
    COUNTER(disk_evictions, "latentd_disk_evicted_files_total", "Files deleted to stay within the budget.");
    GAUGE(bytes_per_token, "latentd_cache_bytes_per_token",
            "Bytes of cache rows of one token over all layers.");
    GAUGE(load_seconds, "latentd_load_seconds", "Time the model took to load.");
    GAUGE(mla_block, "latentd_mla_block_tokens",
            "Positions of a prompt's block that goes decompressed; 0: all absorbed.");
    for (int i = 0; i < 4; i++) {
        snprintf(with, sizeof(with), "%s,from=\"%s\",scheme=\"%s\"", l, i / 2 ? "measured" : "expected",
                 i % 2 ? "decompressed" : "absorbed");
        em->mla_cost[i / 2][i % 2] = metrics_gauge(m, "latentd_mla_cost_seconds",
                "Attention over a prompt: time of a query, key and head on one thread.", with);
    }
    COUNTER(prompt_computed, "latentd_prompt_tokens_computed_total",
            "Prompt tokens that went through the model.");
#undef GAUGE
#undef COUNTER
#undef TIMES
    em->lc_prompt = metrics_counter(m, "llamacpp:prompt_tokens_total",
            "Prompt tokens processed.", NULL);
    em->lc_prompt_seconds = metrics_counter(m, "llamacpp:prompt_seconds_total",
            "Time from admission to first token, summed.", NULL);
    em->lc_predicted = metrics_counter(m, "llamacpp:tokens_predicted_total",
            "Tokens generated.", NULL);
    em->lc_predicted_seconds = metrics_counter(m, "llamacpp:tokens_predicted_seconds_total",
            "Time from first token to end, summed.", NULL);
    em->lc_decode = metrics_counter(m, "llamacpp:n_decode_total", "Steps of the model.", NULL);
    em->lc_processing = metrics_gauge(m, "llamacpp:requests_processing",
            "Sequences in execution.", NULL);
    em->lc_deferred = metrics_gauge(m, "llamacpp:requests_deferred", "Sequences waiting.", NULL);
}

void engine_metrics_scheme(struct engine_metrics *em, const struct scheme *s)
{
    metric_set(em->mla_block, s->block);
    metric_set(em->mla_cost[0][0], s->expected.absorbed_ns / 1e9);
    metric_set(em->mla_cost[0][1], s->expected.decompressed_ns / 1e9);
    metric_set(em->mla_cost[1][0], s->measured.absorbed_ns / 1e9);
    metric_set(em->mla_cost[1][1], s->measured.decompressed_ns / 1e9);
}

void engine_metrics_cache(struct engine_metrics *em, const struct kv *kv)
{
    struct kv_stats st;
    kv_stats_read(kv, &st);
    metric_set(em->cache_usage, (double)st.pages_held / (double)st.n_pages);
    metric_set(em->pages_free, (double)st.pages_free);
    metric_set(em->pages_held, (double)st.pages_held);
    metric_set(em->pages_cached, (double)st.pages_cached);
    metric_set(em->pages_shared, (double)st.pages_shared);
    metric_set(em->pages_pinned, (double)st.pages_pinned);
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

void engine_metrics_done(struct engine_metrics *em, const struct gen_event *ev, int64_t e2e_ns)
{
    metric_add(em->success[ev->finish_reason], 1);
    metric_observe(em->e2e, SECONDS(e2e_ns));
    metric_observe(em->queue_time, SECONDS(ev->queue_ns));
    if (ev->ttft_ns <= 0)
        return;
    metric_observe(em->prefill_time, SECONDS(ev->prefill_ns));
    metric_observe(em->decode_time, SECONDS(ev->decode_ns));
    metric_observe(em->inference_time, SECONDS(ev->prefill_ns + ev->decode_ns));
    metric_observe(em->req_prompt, ev->prompt_tokens);
    metric_observe(em->req_generation, ev->completion_tokens);
    metric_add(em->lc_prompt_seconds, SECONDS(ev->prefill_ns));
    metric_add(em->lc_predicted_seconds, SECONDS(ev->decode_ns));
    if (ev->completion_tokens > 1)
        metric_observe(em->tpot, SECONDS(ev->decode_ns) / (ev->completion_tokens - 1));
}
