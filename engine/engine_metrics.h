/* engine/engine_metrics.h - the engine's series, under vLLM's and llama-server's names where they mean
 * the same, and latentd_* for what only we have. */
#ifndef LATENT_ENGINE_ENGINE_METRICS_H
#define LATENT_ENGINE_ENGINE_METRICS_H

#include "engine/engine.h"
#include "kvcache/kvcache.h"

struct engine_metrics {
    struct metric *running, *waiting, *cache_usage, *prefix_queries, *prefix_hits;
    struct metric *all_preemptions, *preemptions[2]; /* all; by recomputing, by parking */
    struct metric *parked_bytes, *step_time, *expired[2]; /* by max_queue_time, by timeout */
    struct metric *prompt_tokens, *prompt_cached, *prompt_computed, *generation_tokens;
    struct metric *success[6]; /* by finish_reason; FINISH_NONE unused */
    struct metric *ttft, *itl, *tpot, *e2e, *queue_time, *prefill_time, *decode_time, *inference_time;
    struct metric *req_prompt, *req_generation, *iteration_tokens;
    struct metric *lc_prompt, *lc_predicted, *lc_prompt_seconds, *lc_predicted_seconds, *lc_decode;
    struct metric *lc_processing, *lc_deferred;
    struct metric *pages_free, *pages_held, *pages_cached, *pages_shared, *pages_pinned, *page_bytes;
    struct metric *evictions[3]; /* for age, on probation, dropped */
    struct metric *prefix_copied, *bytes_per_token, *load_seconds;
    struct metric *mla_block, *mla_cost[2][2]; /* [expected, measured][absorbed, decompressed] */
    struct metric *disk_up, *disk_writing, *disk_bytes, *disk_pages, *disk_queue;
    struct metric *disk_writes, *disk_reads, *disk_hits, *disk_dropped, *disk_errors, *disk_evictions;
    struct kv_disk_stats last_disk;
    double last_queries, last_hits, last_copied, last_evictions[3];
};

/* m NULL: every handle stays NULL, and updates do nothing. */
void engine_metrics_register(struct engine_metrics *em, struct metrics *m, const char *model_id,
                             int max_model_len);
void engine_metrics_scheme(struct engine_metrics *em, const struct scheme *s);
void engine_metrics_cache(struct engine_metrics *em, const struct kv *kv);
void engine_metrics_disk(struct engine_metrics *em, struct kv *kv);
/* One ended choice. */
void engine_metrics_done(struct engine_metrics *em, const struct gen_event *ev, int64_t e2e_ns);

#endif
