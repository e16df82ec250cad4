/* engine/engine.h - text in, text out: models, scheduling, sampling, behind one thread.
 *
 * The engine thread owns scheduler and cache. Callers (the loop thread) talk to it by messages:
 * engine_submit, engine_cancel, engine_pause go down through a bounded mailbox, events come up
 * through another and are taken with engine_next_event after `wake`. Every submitted choice ends
 * with exactly one GEN_DONE or GEN_FAILED event; a cancelled one too, within one engine step. */
#ifndef LATENT_ENGINE_ENGINE_H
#define LATENT_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/cpu.h"
#include "base/err.h"
#include "base/metrics.h"
#include "engine/grammar/grammar.h"
#include "engine/model/checkpoint.h"
#include "engine/scheme.h"
#include "engine/tokenizer/tokenizer.h"

struct engine;

enum engine_cache_type {
    ENGINE_CACHE_BF16 = 0,
    ENGINE_CACHE_F32,
    ENGINE_CACHE_INT8,
    ENGINE_CACHE_FP8,
    ENGINE_CACHE_INT4
};

struct engine_config {
    const char *model_path;     /* GGUF file, first part of a split one, or folder */
    const char *model_id;       /* label of metrics; NULL: the checkpoint's name */
    enum cpu_level level;
    int n_threads;              /* 0: pool_default_threads() */
    bool pin_threads;
    enum engine_cache_type cache_type;
    enum mla_scheme mla_scheme; /* how latent attention over prompts is computed (scheme.h) */
    int mla_block;              /* positions of a block that goes decompressed: a power of two, 512 or more */
    enum prompt_products prompt_products; /* PRODUCTS_BF16 needs CPU_AMX */
    uint64_t cache_bytes;       /* page pool; 0: 256 MiB or what max_seqs full contexts need, the less */
    int cache_pinned;           /* percent of the pool that pinned prefixes may keep, 0 .. 90 */
    uint32_t page_tokens;       /* power of two, 8 .. 256; the model may need more (model_page_tokens) */
    int max_model_len;          /* positions per sequence; 0: the model's max_position_embeddings */
    int max_num_seqs;           /* sequences running at once */
    int max_num_batched_tokens; /* token budget of a step */
    int prefill_chunk;          /* most prompt tokens of one sequence in a step */
    int num_speculative_tokens; /* most tokens drafted for a sequence in a step; 0: no speculative decoding */
    int max_queue_requests;     /* waiting beyond the running ones; then ERR_BUSY */
    int64_t max_queue_tokens;   /* prompt tokens waiting; then ERR_BUSY */
    bool prefix_cache;          /* share prefixes (default true) */
    const char *disk_path;      /* folder of the cache's disk tier; NULL: none */
    uint64_t disk_bytes;        /* of it at most */
    uint64_t disk_rate;         /* bytes written a second; 0: no limit */
    bool disk_always;           /* read back whatever it costs, not only where computing takes longer */
    int64_t max_step_ns;        /* of a step in which something decodes; 0: see engine/budget.h */
    int64_t max_priority_wait_ns; /* after it priority and key count no more: arrival does */
    uint64_t park_bytes;        /* rows of preempted sequences kept outside the pool; 0: none */
    int max_fair_keys;          /* keys told apart by fairness */
    struct grammar_limits grammar;
    struct metrics *metrics;    /* not owned; NULL: none */
    /* Called from the engine thread whenever events wait or the state changed. */
    void (*wake)(void *arg);
    void *wake_arg;
    /* What the operator should know of the disk tier; level: enum log_level. From any thread; may be
     * NULL. */
    void (*log)(void *arg, int level, const char *text);
    void *log_arg;
};

enum engine_state {
    ENGINE_LOADING = 0, /* submit answers ERR_STATE */
    ENGINE_READY,
    ENGINE_FAILED,      /* load failed: engine_load_error tells why */
    ENGINE_DRAINING,    /* no new requests; running and queued ones finish */
    ENGINE_STOPPED,
};

/* Starts the engine thread, which opens and packs the model. Returns at once: ERR_INVAL (config),
 * ERR_NOMEM, ERR_IO (thread). cfg and its strings are copied. */
int engine_start(const struct engine_config *cfg, struct engine **ret, struct err *e)
    LATENT_MUST_CHECK;
enum engine_state engine_state(const struct engine *eng); /* any thread */
float engine_load_progress(const struct engine *eng);     /* 0..1, any thread */
/* What the load failed with; valid once the state is ENGINE_FAILED. */
const struct err *engine_load_error(const struct engine *eng);
/* Stops admitting; the state becomes DRAINING, then STOPPED when nothing is left. A load is given up:
 * nothing was admitted yet. */
void engine_drain(struct engine *eng);
/* Cancels everything (each choice gets its final event), joins the thread, frees. NULL-safe. Events
 * not yet taken are freed. */
void engine_stop(struct engine **eng);

/* Facts of the loaded model; NULL before READY. Immutable afterwards, any thread. */
struct engine_info {
    struct model_config config;
    int max_model_len;
    int max_choices;                    /* that run and wait at a time; 0: not known */
    const char *model_id;
    const char *chat_template;          /* NULL when the model has none */
    const char *tool_template;          /* a second one for requests with tools, or NULL */
    const struct tokenizer *tokenizer;  /* NULL: ids only */
    const char *tokenizer_warning;      /* what the operator should know of it, or NULL */
    const char *format;
    enum cpu_level level;
    int n_threads;
    uint64_t weight_bytes, cache_bytes, page_bytes, file_bytes;
    uint32_t n_pages, page_tokens;
    struct scheme scheme;
    double load_seconds;
    int64_t n_params;
    const char *weight_types; /* for reports: "Q4_K 62 %, Q6_K 38 %" of the parameters */
};
const struct engine_info *engine_info(const struct engine *eng);

struct logit_bias {
    int32_t token_id;
    float bias; /* -100 .. 100, added to the logit */
};

struct stop_string {
    const char *data;
    size_t n_bytes; /* 1 .. 512 */
};

struct token_word {
    const int32_t *ids;
    int n; /* at least 1 */
};

/* Ends a choice whose last min_count patterns are equal, of min_pattern_size (0 as 1) to max_pattern_size
 * tokens. max_pattern_size 0: off. */
struct repetition_detection {
    int max_pattern_size, min_pattern_size, min_count;
};

/* A thought of at most `budget` tokens, ended by force with the token `end`. It begins with the answer
 * (begun), or where the first token is `begin`. budget 0 or end < 0: no limit. */
struct thought_limit {
    int budget;
    bool begun;
    int32_t begin, end;
};

/* The prompt as one vector of length 1 instead of an answer: of its last token, or the mean of all. */
enum pooling { POOLING_NONE = 0, POOLING_LAST, POOLING_MEAN };

/* Neutral values in brackets. Ranges were checked by the API; the engine checks ids and lengths. */
struct sampling_params {
    float temperature;        /* [1] 0: greedy */
    float top_p;              /* [1] (0, 1] */
    int top_k;                /* [0] 0 or -1: off */
    float min_p;              /* [0] 0 .. 1 */
    float repetition_penalty; /* [1] > 0; over prompt and output, as in CTRL */
    float presence_penalty;   /* [0] over output */
    float frequency_penalty;  /* [0] over output */
    uint64_t seed;            /* fixes the choice; choice i of n uses seed + i */
    int n_logit_bias;
    const struct logit_bias *logit_bias;
    int n_allowed;            /* [0] of allowed: only these may be chosen, ascending */
    const int32_t *allowed;
    int n_bad_words;          /* [0] sequences of tokens that must not be completed */
    const struct token_word *bad_words;
    /* sample.h; off where 0 */
    float top_n_sigma, typical_p; /* [0] typical_p: 1 is off too */
    float xtc_probability, xtc_threshold;
    int mirostat;             /* [0] 1, 2: in place of every other truncation */
    float mirostat_tau, mirostat_eta;
    float dry_multiplier, dry_base;
    int dry_allowed_length, dry_penalty_last_n; /* last_n -1: all tokens */
    int n_dry_breakers;
    const struct stop_string *dry_breakers;
};

/* One prompt and its n choices. Everything, this struct included, lies in `arena`. */
struct gen_request {
    struct arena *arena;
    const int32_t *prompt;
    int n_prompt;             /* 1 .. max_model_len */
    int n_prediction;         /* [0] tokens of an answer that this one may be like, to be quicker then */
    const int32_t *prediction;
    int max_tokens;           /* 0: only score the prompt; otherwise clipped to what fits */
    int min_tokens;           /* EOS and stop ids are banned, stop strings ignored, before it */
    int n;                    /* choices, 1 .. max_num_seqs */
    bool ignore_eos;
    bool skip_special_tokens; /* leave control tokens out of the text */
    bool include_stop;        /* the text ends with the stop string, not before it */
    struct repetition_detection repetition;
    struct thought_limit thought;
    struct grammar *grammar;  /* what the text may be, or NULL; borrowed until engine_submit returns */
    bool grammar_after_thought; /* ... behind thought.end only, where the answer begins with a thought */
    bool progress;            /* GEN_PROGRESS after each chunk of the prompt */
    struct sampling_params sampling;
    int n_stop;
    const struct stop_string *stop;
    int n_stop_token_ids;
    const int32_t *stop_token_ids;
    int logprobs;             /* -1 none; k: log-probability of each token and the k best */
    int prompt_logprobs;      /* -1 none; k: the same for prompt tokens (such prompts are not taken
                               * from the cache, since every position needs its logits) */
    enum pooling pooling;     /* other than none: max_tokens must be 0 and n 1 */
    uint64_t cache_salt;      /* 0: the common pool */
    int priority;             /* lower goes first; [0] */
    uint64_t fair_key;        /* whose request it is: keys that wait are served alike */
    int64_t timeout_ns;       /* from submission to end; then GEN_FAILED with ERR_TIMEOUT; 0: none */
    int64_t max_queue_ns;     /* the same, from submission to admission */
    void *user;               /* comes back in every event */
};

struct token_logprob {
    int32_t token_id;
    float logprob;
    int rank; /* 1: the likeliest */
};

/* One generated (or prompt) token with what was asked about it. */
struct gen_token {
    int32_t id;
    float logprob;                   /* of the model's own distribution, before grammar, penalties and
                                      * temperature; 0 when not asked, and for the first prompt token */
    int rank;
    int n_top;
    const struct token_logprob *top; /* n_top likeliest, best first */
};

enum gen_event_type {
    GEN_PROMPT = 0, /* prompt_logprobs for tokens[0 .. n_tokens) starting at prompt_position */
    GEN_TOKENS,     /* text and/or tokens were produced */
    GEN_DONE,       /* the choice ended; may carry the last text and tokens */
    GEN_FAILED,     /* the choice ended with `error` */
    GEN_PROGRESS,   /* prompt_position of prompt_tokens are computed, cached_tokens of them found */
    GEN_CACHE,      /* the answer to engine_cache: `cache`, or `error` */
};

enum finish_reason {
    FINISH_NONE = 0,
    FINISH_STOP,
    FINISH_LENGTH,
    FINISH_ABORT,
    FINISH_ERROR,
    FINISH_REPETITION
};

/* Owned by the receiver: engine_event_free. */
struct gen_event {
    enum gen_event_type type;
    uint64_t request_id;
    void *user;
    int choice;          /* 0 .. n-1 */
    const char *text;    /* whole UTF-8 characters; never holds the beginning of a stop string that
                          * may still complete */
    size_t text_bytes;
    int n_tokens;
    const struct gen_token *tokens; /* includes the stop token that ended the choice, without text */
    int prompt_position;
    /* DONE and FAILED */
    enum finish_reason finish_reason;
    const char *stop_string;  /* the one that matched, or NULL */
    int32_t stop_token_id;    /* the one that matched, or -1 */
    int prompt_tokens, cached_tokens, completion_tokens;
    int drafted_tokens, accepted_tokens; /* computed ahead of the completion, and of these those that came */
    int accepted_prediction_tokens, rejected_prediction_tokens; /* of these those of the answer predicted */
    /* From submission to admission, from there to the first token, from there to the end; ttft is the first
     * two together, 0 where there was no token: then prefill lasts to the end. */
    int64_t queue_ns, prefill_ns, decode_ns, ttft_ns;
    int preemptions;
    int64_t preempted_ns; /* that it waited after them */
    const float *embedding;   /* DONE with pooling: hidden_size numbers; or NULL */
    const struct engine_cache_report *cache;
    struct err error;
};

/* Queues a request; its arena passes to the engine on success only. *ret_id is never 0.
 * ERR_STATE (not ready, draining), ERR_BUSY (queue full), ERR_INVAL (param names the field),
 * ERR_LIMIT (prompt beyond max_model_len or beyond the whole cache). */
int engine_submit(struct engine *eng, struct gen_request *req, uint64_t *ret_id, struct err *e)
    LATENT_MUST_CHECK;
/* Compiles a grammar for gen_request.grammar, or finds it compiled; takes up to grammar.max_compile_ns. Any
 * thread once the engine is ready; grammar_put gives it back, before engine_stop. Errors: grammars_get. */
int engine_grammar(struct engine *eng, enum grammar_kind kind, const char *source, size_t n_bytes,
                   struct grammar **ret, struct err *e) LATENT_MUST_CHECK;
/* Ends all choices of a request with FINISH_ABORT within one step. Unknown ids are fine. */
void engine_cancel(struct engine *eng, uint64_t request_id);
/* Back-pressure: a paused request is not decoded until resumed (its pages may be preempted). */
void engine_pause(struct engine *eng, uint64_t request_id, bool paused);
/* --- the cache, by hand ------------------------------------------------------------------------- */

enum engine_cache_command {
    ENGINE_CACHE_STATS = 0,
    ENGINE_CACHE_SAVE,    /* to disk, at once: all that is cached, or the prefix */
    ENGINE_CACHE_RESTORE, /* of the prefix what is on disk, to memory */
    ENGINE_CACHE_PIN,     /* keeps what of the prefix is in memory from eviction */
    ENGINE_CACHE_UNPIN,   /* `pin` */
    ENGINE_CACHE_DROP,    /* from memory what nobody holds and no pin keeps; where `disk`, all of that too */
};

struct engine_cache_request {
    enum engine_cache_command command;
    const int32_t *tokens; /* prefix; NULL: none. Copied */
    int n_tokens;
    uint64_t salt;
    bool own_pins; /* STATS, UNPIN: other salts' pins are not told of */
    bool disk;
    uint64_t pin;
    void *user; /* comes back in the event */
};

#define ENGINE_CACHE_PINS_TOLD 256

struct engine_cache_report {
    enum engine_cache_command command;
    uint64_t pin;        /* PIN, UNPIN */
    int cached_tokens;   /* RESTORE: of the prefix in memory now; PIN: of it kept */
    int restored_tokens; /* ... of them from disk */
    uint64_t pages;      /* SAVE: on disk now; DROP: forgotten */
    uint64_t evicted;    /* SAVE: left memory before they were written */
    /* STATS. Pages: all, free, held by sequences, cached (findable, unreferenced), shared by several */
    uint64_t page_bytes, n_pages, pages_free, pages_held, pages_cached, pages_shared, pages_pinned;
    uint32_t page_tokens, max_pinned;
    uint64_t queries_tokens, hits_tokens, copied_tokens, evictions;
    int n_pins; /* told: the oldest */
    struct {
        uint64_t id;
        int n_tokens;
    } pins[ENGINE_CACHE_PINS_TOLD];
    const char *disk_state; /* "off", "starting", "on", "reading" (it cannot write), "down" */
    char disk_trouble[200];
    uint64_t disk_max_bytes, disk_bytes, disk_pages, disk_files, disk_queue;
    uint64_t disk_writes, disk_reads, disk_hits_tokens, disk_dropped, disk_errors;
};

/* Asks for it; one GEN_CACHE event answers. ERR_STATE (not ready, draining), ERR_BUSY (too many), ERR_INVAL
 * (token ids), ERR_NOMEM. In the event: ERR_STATE (no disk tier, or it is in trouble), ERR_NOTFOUND (nothing
 * of the prefix is in memory to be pinned, no such pin), ERR_LIMIT (too much would be pinned). */
int engine_cache(struct engine *eng, const struct engine_cache_request *req, struct err *e)
    LATENT_MUST_CHECK;

/* Next event or NULL. Loop thread. */
struct gen_event *engine_next_event(struct engine *eng);
void engine_event_free(struct engine *eng, struct gen_event *ev);
/* Seconds after which a refused request may sensibly come back: 1 .. 60. Any thread. */
int engine_retry_after(const struct engine *eng);

/* Any thread. Age of the step now running (0 when idle), for the watchdog and livez. */
int64_t engine_step_age_ns(const struct engine *eng);
struct engine_counts {
    int running, waiting;
    int64_t waiting_tokens;
    int64_t longest_wait_ns; /* of those that waited at the last step; 0: none did */
    uint64_t pages_held, pages_cached, pages_free, n_pages;
};
void engine_counts_read(const struct engine *eng, struct engine_counts *ret);

#endif
