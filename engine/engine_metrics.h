/* engine/engine_metrics.h - the engine's series, under vLLM's and llama-server's names where they mean
 * the same, and latentd_* for what only we have. */
#ifndef LATENT_ENGINE_ENGINE_METRICS_H
#define LATENT_ENGINE_ENGINE_METRICS_H

#include "engine/engine.h"
#include "kvcache/kvcache.h"

/* Handles, by the table. */
struct engine_metrics {
#define ONE(field, kind, name, help) struct metric *field;
#define EACH(field, n, kind, name, help, ...) struct metric *field[n];
#include "engine/metrics.def"
#undef ONE
#undef EACH
    /* what counters were set from last */
    struct kv_disk_stats last_disk;
    double last_queries, last_hits, last_copied, last_evictions[3];
    double longest, busy_slots; /* llama-server's */
};

/* m NULL: every handle stays NULL, and updates do nothing. */
void engine_metrics_register(struct engine_metrics *em, struct metrics *m, const char *model_id,
                             int max_model_len);
/* The cache as it was configured: an info series that vLLM has under this name. */
void engine_metrics_cache_info(struct metrics *m, uint32_t page_tokens, uint32_t n_pages, const char *type,
                               bool prefix_cache);
/* How prompts and attention are computed here, as chosen when the model was loaded. */
void engine_metrics_scheme_info(struct metrics *m, const struct scheme *s, const char *level);
void engine_metrics_scheme(struct engine_metrics *em, const struct scheme *s);
void engine_metrics_cache(struct engine_metrics *em, const struct kv *kv);
void engine_metrics_disk(struct engine_metrics *em, struct kv *kv);
struct profile;
struct queue_state;
void engine_metrics_counts(struct engine_metrics *em, int n_running, const struct queue_state *waiting,
                           uint64_t parked_bytes);
/* A step that computed n_tokens of n_seqs sequences; its parts in products and attention, of took_ns. */
void engine_metrics_step(struct engine_metrics *em, int n_seqs, int n_tokens);
void engine_metrics_parts(struct engine_metrics *em, const struct profile *parts, int64_t took_ns);
/* A choice when first admitted: its prompt, and what of it the cache had. */
void engine_metrics_admitted(struct engine_metrics *em, int n_prompt, int n_cached);
/* One ended choice, and the request whose last choice that was. */
void engine_metrics_done(struct engine_metrics *em, const struct gen_event *ev, int max_tokens,
                         int64_t e2e_ns);
void engine_metrics_request(struct engine_metrics *em, int n, int longest);

#endif
