/* api/params.h - what a request asks for: read from JSON by one table of fields (fields.def), every
 * value checked against its range, errors naming the field. Loop thread. */
#ifndef LATENT_API_PARAMS_H
#define LATENT_API_PARAMS_H

#include <cjson/cJSON.h>
#include <limits.h>
#include <stdbool.h>
#include "api/api.h"

enum field_where {
    IN_COMPLETIONS = 1, IN_CHAT = 2, IN_TOKENIZE = 4, IN_DETOKENIZE = 8, IN_CACHE = 16,
    IN_MESSAGES = 32, IN_COUNT = 64, /* Anthropic's: a message, its tokens */
    IN_RESPONSES = 128, IN_EMBEDDINGS = 256,
    IN_GENERATE = 512, IN_OLLAMA_CHAT = 1024, IN_SHOW = 2048, /* Ollama's */
    IN_OPTIONS = 4096,                                     /* ... its object `options` */
    IN_TEMPLATE = 8192, IN_EMBED = 16384, /* Ollama's embeddings */
    IN_NATIVE = 32768, IN_INFILL = 65536, /* llama-server's /completion and /infill */
    IN_OLD_EMBED = 131072, /* Ollama's embeddings as they were: /api/embeddings */
};

#define PRIORITY_NOT_SAID INT_MIN /* until apply_grant */

struct params {
    cJSON *root;         /* the request; strings below point into it */
    struct arena *arena; /* lists below */
    const struct api_config *cfg;
    int vocab_size;
    const cJSON *prompt, *messages, *tokens; /* not looked into yet */
    const char *asked;   /* the field of `prompt` where it has another name; NULL: it has not */
    const cJSON *system; /* Anthropic's; NULL: none */
    const cJSON *tools, *documents, *template_kwargs; /* the first two are checked by messages.c */
    const char *must_call, *must_call_name; /* the field that asks for a call (NULL: none), and for which */
    const cJSON *allowed_tools;       /* tool_choice: the only ones that may be called; NULL: all */
    bool no_tools;                                    /* tool_choice: "none" */
    const char *model;                       /* NULL: not said */
    double temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    int top_k, n, max_tokens, min_tokens, logprobs, top_logprobs;
    bool has_seed, chat_logprobs;
    uint64_t seed, cache_salt;
    int priority;
    int64_t timeout_ns, max_queue_ns; /* 0: none */
    bool stream, echo, ignore_eos, skip_special_tokens, return_token_ids, return_tokens_as_token_ids;
    bool include_usage, continuous_usage_stats;
    bool add_special_tokens, has_add_special_tokens, parse_special, return_token_strs, with_pieces;
    bool add_generation_prompt, continue_final_message;
    bool disk, compute;
    int pin_id; /* 0: not said */
    int n_stop, n_stop_token_ids, n_logit_bias;
    struct stop_string *stop;
    int32_t *stop_token_ids;
    struct logit_bias *logit_bias;
    int best_of, n_shown; /* n is how many are generated, n_shown how many are told */
    int prompt_logprobs;  /* -1: none */
    bool use_beam_search, early_stopping; /* n is the number of beams */
    double length_penalty;
    const char *suffix, *request_id; /* NULL: none */
    const char *prediction; /* of the answer; NULL: none */
    const char *input_prefix, *input_suffix; /* NULL: not said */
    const cJSON *input_extra; /* objects with a text and perhaps a filename; NULL: none */
    int truncate_prompt;  /* 0: no; -1: to what fits */
    bool include_stop, return_progress;
    bool include_reasoning, separate_reasoning, parallel_tool_calls;
    enum pooling pooling;
    bool base64;                /* embeddings as base64 */
    int dimensions;             /* 0: not said */
    bool truncate;              /* Ollama: what is too long is cut */
    bool raw;                   /* Ollama: no template */
    bool resumable;             /* the stream outlives its connection */
    bool background;            /* Responses: the same, in OpenAI's words */
    bool store;                 /* Responses: keep it */
    const char *instructions, *previous; /* NULL: none */
    int n_items_before;         /* of the responses before */
    const char *reasoning_effort; /* NULL: not said */
    int thought_budget;           /* 0: none */
    double top_n_sigma, typical_p, xtc_probability, xtc_threshold;
    int mirostat;
    double mirostat_tau, mirostat_eta;
    double dry_multiplier, dry_base;
    int dry_allowed_length, dry_penalty_last_n;
    int n_breakers, n_allowed, n_bad_words;
    struct stop_string *breakers;
    int32_t *allowed; /* ascending */
    struct token_word *bad_words;
    struct repetition_detection repetition;
    const char *structure_field,
        *structure; /* which field says what the answer is (NULL: none), its source */
    size_t n_structure;
    enum grammar_kind structure_kind;
};

#define MAX_REQUEST_ID 64

/* Reads body as a request of one endpoint; `ret` holds defaults where the request says nothing. ERR_INVAL
 * and ERR_LIMIT set param. On failure nothing is kept. */
int params_read(const struct api_config *cfg, enum field_where where, const char *body,
                size_t n_bytes, struct params *ret, struct err *e) LATENT_MUST_CHECK;
void params_done(struct params *p);

/* The field that holds what is asked: "prompt", "messages" or "input". */
const char *params_asked(const struct params *p);

/* Reads the fields of an object inside the request, as of `where`. */
int params_fields(struct params *p, const cJSON *object, enum field_where where,
                  struct err *e) LATENT_MUST_CHECK;

/* A list of token ids within the vocabulary; *ret_ids in the arena. `what` names it: "prompt". */
int params_ids(struct params *p, const cJSON *list, const char *what, int max, int32_t **ret_ids,
               int *ret_n, struct err *e) LATENT_MUST_CHECK;

#endif
