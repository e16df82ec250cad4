/* api/internal.h - what the files of api/ share: the API object, replies, errors, and the answer to a
 * generation request (an exchange). Loop thread. */
#ifndef LATENT_API_INTERNAL_H
#define LATENT_API_INTERNAL_H

#include "api/api.h"
#include "api/assistant.h"
#include "api/json_write.h"
#include "api/params.h"
#include "api/params_readers.h"
#include "api/template.h"

#define API_MAX_ANSWER_BYTES (256u << 20) /* text of one answer that is not streamed */

struct resumables;
struct resumable;
struct store;

struct api {
    struct api_config cfg;
    struct engine *engine; /* cfg's, for helpers: cfg is written over by a reload while they work */
    struct api_exchange *exchanges; /* all that are not freed */
    int n_exchanges, n_searches; /* beam searches among them */
    int n_lots; /* of them that hand their prompts over in lots */
    struct template *chat[2]; /* made at the first use; the second for requests with tools */
    struct err chat_error[2]; /* why there is none */
    uint64_t id_seed, id_count;
    struct store *store; /* of responses */
    struct resumables *resumables;
    int64_t started_s;   /* wall clock */
    bool draining;       /* no more requests */
};

enum dialect { DIALECT_OPENAI, DIALECT_ANTHROPIC, DIALECT_OLLAMA };

/* The reply side of a request; `gone` once the client is. */
struct reply {
    const struct api_reply_ops *ops;
    void *host;
    enum dialect dialect; /* of its errors */
};

/* A whole JSON answer. Frees nothing. */
void reply_json(const struct reply *r, int status, const struct jw *body,
                const struct api_log_facts *facts);
/* The same of another media type, with more headers (at most 3). */
void reply_typed(const struct reply *r, const char *type, const struct api_header *more, int n_more,
                 const char *body, size_t n_bytes);
/* An error in the dialect's shape; the status and type follow from e->code. */
void reply_error(const struct reply *r, const struct api *a, const struct err *e);
/* The same with everything given. code: NULL or a name; retry_after: seconds, 0 none; allow: for 405. */
void reply_error_full(const struct reply *r, int status, const char *code, const char *param,
                      const char *message, int retry_after, const char *allow);
/* The error's body alone. */
void error_json(struct jw *w, enum dialect dialect, int status, const char *code, const char *param,
                const char *message);
int error_status(const struct err *e);
const char *error_code(const struct err *e);

/* Is the engine ready? Otherwise answers 503 and returns NULL. */
const struct engine_info *ready_or_reply(struct api *a, const struct reply *r);

/* --- grant.c: names of models, and what a key may ask for ------------------------------------------ */

/* Words of a list are separated by commas or blanks. list: NULL is empty. */
bool name_in_list(const char *list, const char *name);
const char *api_model_name(const struct api *a); /* the one that is served */
/* ERR_NOTFOUND when the request names another model, by none of its aliases. */
int check_model(const struct api *a, const struct params *p, struct err *e) LATENT_MUST_CHECK;
bool grant_has_model(const struct api_grant *g, const char *name);
/* Fills in the priority of requests that ask for none. ERR_DENIED: the model, or a priority that is too
 * good. */
int apply_grant(const struct api *a, const struct api_grant *g, struct params *p,
                struct err *e) LATENT_MUST_CHECK;

/* The chat template of operator or model, or NULL with *e set. A model may have another for requests
 * with tools. */
const char *api_chat_template_text(const struct api *a, bool tools);
struct template *api_chat_template(struct api *a, bool tools, struct err *e);

/* --- generation.c --------------------------------------------------------------------------------- */

struct prompt {
    struct api_exchange *x;
    int index;
    const char *text;       /* NULL: came as ids. In the request or in `owned` */
    size_t text_bytes;
    char *owned;            /* freed with the prompt */
    unsigned char *literal; /* of text_bytes, or NULL: bytes in which no special token is looked for */
    unsigned flags;         /* TOKENIZE_* */
    struct token_list ids;
    bool cut;               /* ids are the last of the text's only */
    struct jw lp[4];        /* log-probabilities of the prompt, as in a choice */
    int n_lp;
    struct jw logprobs;     /* prompt_logprobs: what is in the list */
    long offset;            /* characters of the prompt told so far */
    int strip;              /* as in token_chars */
    uint64_t request_id;
    int cached_tokens;      /* as its last choice that ended found it */
    int n_live;             /* choices without their final event */
};

/* What one choice has ready to be told: everything when not streamed, one event's worth otherwise. */
struct choice {
    struct prompt *prompt;
    int index;
    bool echoed, started; /* its prompt is in, its first chunk is out */
    struct jw text;  /* escaped; completions */
    struct parts parts;         /* chats */
    struct assistant assistant;
    struct jw ids;   /* "1,2,3" */
    struct jw lp[4]; /* completions: tokens, token_logprobs, top_logprobs, text_offset; chat: content */
    int n_lp;
    long offset;     /* characters told so far */
    int strip;       /* as in token_chars */
    int n_tokens;
    int drafted_tokens, accepted_tokens; /* as in a gen_event */
    float *vector; /* embeddings; owned */
    int n_vector;
    double sum_logprob;
    enum finish_reason finish;
    bool done;
    char *stop_string; /* owned */
    int32_t stop_token_id;
};

enum exchange_state { X_TOKENIZING, X_RUNNING, X_ENDED };

/* How an endpoint writes what the exchange has. */
struct answer_ops {
    const char *id_prefix;   /* "cmpl-" */
    const char *call_prefix; /* of ids of tool calls; NULL: "call_" */
    const char *stream_type; /* NULL: an event stream; others get no keep-alive */
    const char *keepalive;   /* NULL: a comment */
    bool lots;               /* prompts may be more than the queue takes: one choice each, no stream */
    bool assistant;          /* text goes into parts, taken apart */
    bool keeps_parts;        /* ... which stay after they were told */
    /* Streams. Each writes whole frames. opening: when the request was accepted; may be NULL */
    void (*opening)(struct api_exchange *x, struct jw *w);
    /* What the choice has pending (final: with its finish reason). */
    void (*chunk)(struct api_exchange *x, struct choice *c, bool final, struct jw *w);
    /* After the last chunk. */
    void (*closing)(struct api_exchange *x, struct jw *w);
    /* sse_closing: the chunk with usage only. */
    void (*usage_chunk)(struct api_exchange *x, struct jw *w);
    /* So many prompt tokens are computed; NULL: not told. */
    void (*progress)(struct api_exchange *x, const struct gen_event *ev, struct jw *w);
    /* An error after the beginning; NULL: OpenAI's. */
    void (*failed)(struct api_exchange *x, const struct err *e, struct jw *w);
    /* The whole answer. */
    void (*whole)(struct api_exchange *x, struct jw *w);
    /* One token's log-probability into lp[]. */
    void (*logprob)(struct api_exchange *x, struct jw lp[4], int n_lp, long offset,
                    const struct gen_token *t, bool first);
    /* Writes an answer of the prompts' tokens alone into x->out, beside the tokenizing: where there is
     * much of it, off the loop thread. `tokenized` sends it. May be NULL. */
    void (*write_tokens)(struct api_exchange *x);
    /* Called once the prompts are tokenized, instead of generating; NULL: generate. */
    void (*tokenized)(struct api_exchange *x);
    /* Called when all choices have ended, instead of answering; NULL: answer. */
    void (*generated)(struct api_exchange *x);
    /* The answer to what was asked of the cache. */
    void (*cache)(struct api_exchange *x, const struct engine_cache_report *report);
    /* The exchange is over, whatever came of it; frees x->extra. May be NULL. */
    void (*freed)(struct api_exchange *x);
};

struct api_exchange {
    struct api *a;
    struct reply reply;
    const struct answer_ops *ops;
    enum exchange_state state;
    bool gone, paused, begun;
    bool offloaded; /* a helper or the store works for it, and comes back to it: not freed before */
    int lost; /* a piece of the stream could not be written: ERR_NOMEM, ERR_LIMIT */
    struct params p;
    struct prompt *prompts;
    int n_prompts, n_sent; /* n_sent of them have been handed to the engine */
    struct choice *choices;
    int n_choices, n_done;
    char id[24 + MAX_REQUEST_ID];
    int64_t created, received_ns;
    uint64_t client, salt; /* whose it is; what its cached prefixes are kept apart by */
    struct token_list prediction; /* of the answer */
    int prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens;
    int accepted_prediction_tokens, rejected_prediction_tokens; /* as in a gen_event */
    size_t n_scored; /* bytes of prompts and of what their tokens are worth, all copies together */
    int told_tokens; /* of the completion, in the facts of replies before this one */
    struct resumable *resumable; /* NULL: the stream ends with its connection */
    int64_t ttft_ns, written_ns;
    struct api_stages stages;
    bool thinks, thought_begun; /* chats: thoughts are looked for; the prompt begins one */
    int32_t think_id, unthink_id; /* -1: no such token */
    const struct call_format *calls; /* NULL: not looked for */
    void *extra; /* the endpoint's */
    struct beam_search *beam; /* NULL: none (beam.h) */
    struct grammar *grammar; /* of the answer, or NULL */
    struct err tokenize_error;
    struct jw out;
    struct api_exchange *next, *prev;
};

/* A new exchange over a read request; takes p over (also on failure). NULL: answered already. */
struct api_exchange *exchange_new(struct api *a, const struct reply *r, const struct api_request *req,
                                  struct params *p, int n_prompts, const struct answer_ops *ops);
/* The same of one that reads or changes what is kept and generates nothing: it waits to be answered. */
struct api_exchange *exchange_new_plain(struct api *a, const struct reply *r, const struct api_request *req,
                                        const struct answer_ops *ops);
/* Tokenizes the prompts that have text (off the loop thread when long) and goes on. Returns x, or NULL
 * when the reply has ended already. */
struct api_exchange *exchange_start(struct api_exchange *x);
/* The same where what came before went well (r >= 0); else answers e and returns NULL. */
struct api_exchange *exchange_start_if(struct api_exchange *x, int r, const struct err *e);
/* Generates: checks the prompts and hands them to the engine; the events follow. */
int exchange_submit(struct api_exchange *x, struct err *e) LATENT_MUST_CHECK;
/* Hands over the prompts that the engine should have by now, where they go in lots. */
int exchange_send(struct api_exchange *x, struct err *e) LATENT_MUST_CHECK;
/* Answers an error and ends. */
void exchange_fail(struct api_exchange *x, const struct err *e);
/* Ends with a whole JSON answer. */
void exchange_finish(struct api_exchange *x, const struct jw *body);
void exchange_free_if_over(struct api_exchange *x);
void exchange_end(struct api_exchange *x);
/* Ends what is generated, within a step; the events of its end still come. */
void exchange_cancel(struct api_exchange *x);
/* An id of this start: prefix and 24 digits. */
void make_id(struct api *a, const char *prefix, char *dst, size_t n);

/* --- deliver.c ------------------------------------------------------------------------------------ */

void stream_begin(struct api_exchange *x);
/* Begins an event stream. location: where it can be resumed, or NULL. */
void stream_headers(const struct reply *r, const char *location);
/* Pauses what is generated faster than it is read, and lets it go on. */
void exchange_pressure(struct api_exchange *x);
/* Sends what is in w and empties it. */
void stream_write(struct api_exchange *x, struct jw *w);
/* Ends with an error after the beginning. */
void stream_fail(struct api_exchange *x, const struct err *e);
/* OpenAI's end: usage where asked for, [DONE]. */
void sse_closing(struct api_exchange *x, struct jw *w);

/* ,"usage":{...} */
void write_usage(const struct api_exchange *x, struct jw *w);
/* Text of a token in log-probabilities: "token_id:N" or its bytes. */
void write_token(const struct api_exchange *x, struct jw *w, int32_t id);
/* {"token":...,"logprob":...,"bytes":[...],"top_logprobs":[...]}, the last the same of each alternative.
 * by_id: "id" comes first in each. */
void write_token_logprobs(const struct api_exchange *x, struct jw *w, const struct gen_token *t, bool by_id);
/* Characters that a token adds to a text, from whose beginning *strip spaces are still taken (strip_of). */
long token_chars(const struct api_exchange *x, int32_t id, int *strip);
/* Spaces at the beginning of a text that only mark its first word. */
int strip_of(const struct api_exchange *x);
const char *finish_name(enum finish_reason f);
/* The same of a chat: "tool_calls" where there are any. */
const char *chat_finish_name(const struct choice *c);
/* One entry of prompt_logprobs: null for the first token, else alternatives and the token, by id. */
void write_prompt_logprob(const struct api_exchange *x, struct jw *w, const struct gen_token *t, bool first);
/* ,"prompt_logprobs":[...], where asked for */
void write_prompt_logprobs(const struct api_exchange *x, const struct prompt *pr, struct jw *w);
/* Chooses for best_of: the n_shown choices of each prompt whose tokens are likeliest on average go first.
 * Returns how many are told of a prompt. */
int order_choices(struct api_exchange *x);
/* ,"prompt_progress":{...}, as llama-server has it */
void write_progress(const struct api_exchange *x, const struct gen_event *ev, struct jw *w);
/* ,"stop_reason":... */
void write_stop_reason(const struct choice *c, struct jw *w);
/* ,"prompt_token_ids":[...] and ,"token_ids":[...] */
void write_choice_ids(const struct api_exchange *x, const struct choice *c, bool with_prompt,
                      struct jw *w);

/* x->p.prediction as x->prediction; any thread. ERR_LIMIT, ERR_NOMEM. */
int tokenize_prediction(struct api_exchange *x, struct err *e) LATENT_MUST_CHECK;

void api__free_exchanges(struct api *a);

/* The arguments of a call as the JSON value that they are; {} where the model wrote none. */
void write_arguments(const struct part *p, struct jw *w);

/* --- endpoints ------------------------------------------------------------------------------------ */

/* ?name=value of the query, or NULL; static. */
const char *query_value(const struct api_request *req, const char *name);

struct api_exchange *handle_stream_get(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_stream_delete(struct api *a, const struct api_request *req,
                                          const struct reply *r);

struct api_exchange *handle_completions(struct api *a, const struct api_request *req,
                                        const struct reply *r);
struct api_exchange *handle_native(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_infill(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_chat(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_responses(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_input_tokens(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_response_get(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_response_delete(struct api *a, const struct api_request *req,
                                            const struct reply *r);
struct api_exchange *handle_response_cancel(struct api *a, const struct api_request *req,
                                            const struct reply *r);
struct api_exchange *handle_ollama_generate(struct api *a, const struct api_request *req,
                                            const struct reply *r);
struct api_exchange *handle_ollama_chat(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_ollama_tags(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_ollama_ps(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_ollama_version(struct api *a, const struct api_request *req,
                                           const struct reply *r);
struct api_exchange *handle_ollama_show(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_apply_template(struct api *a, const struct api_request *req,
                                           const struct reply *r);
struct api_exchange *handle_props(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_slots(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_openapi(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_page(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_embeddings(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_ollama_embed(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_ollama_embedding(struct api *a, const struct api_request *req,
                                             const struct reply *r);
struct api_exchange *handle_messages(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_count_tokens(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_models(struct api *a, const struct api_request *req,
                                   const struct reply *r);
struct api_exchange *handle_model(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_tokenize(struct api *a, const struct api_request *req,
                                     const struct reply *r);
struct api_exchange *handle_detokenize(struct api *a, const struct api_request *req,
                                       const struct reply *r);

struct api_exchange *handle_cache_stats(struct api *a, const struct api_request *req,
                                        const struct reply *r);
struct api_exchange *handle_cache_save(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_cache_restore(struct api *a, const struct api_request *req,
                                          const struct reply *r);
struct api_exchange *handle_cache_pin(struct api *a, const struct api_request *req, const struct reply *r);
struct api_exchange *handle_cache_unpin(struct api *a, const struct api_request *req,
                                        const struct reply *r);
struct api_exchange *handle_cache_drop(struct api *a, const struct api_request *req, const struct reply *r);

/* completions.c: how many prompts `prompt` holds (at most max), and that many into x->prompts. */
int count_prompts(const struct params *p, int max, int *ret, struct err *e) LATENT_MUST_CHECK;
int set_prompts(struct api_exchange *x, struct err *e) LATENT_MUST_CHECK;
/* infill.c: are there tokens for it; pr->text becomes prefix and suffix in the model's form. */
bool infill_possible(const struct tokenizer *t);
int infill_prompt(struct prompt *pr, const struct tokenizer *t, const char *suffix,
                  struct err *e) LATENT_MUST_CHECK;
/* The same from input_prefix, prompt, input_suffix and input_extra: other files, where the model has tokens
 * for them in its form, else as plain text before all. At most max_bytes together. */
int infill_files(struct prompt *pr, const struct tokenizer *t, const struct params *p, size_t max_bytes,
                 struct err *e) LATENT_MUST_CHECK;
/* Checks messages and brings them into the form of templates, in place. ERR_INVAL and ERR_LIMIT name the
 * field: "messages[2].role". */
int messages_check(const cJSON *messages, struct err *e) LATENT_MUST_CHECK;
/* tools: a list, or NULL. */
int tools_check(const cJSON *tools, struct err *e) LATENT_MUST_CHECK;
/* anthropic_chat.c: messages, system and tools become those of a chat. */
int anthropic_to_chat(struct params *p, struct err *e) LATENT_MUST_CHECK;
/* responses_chat.c: items (p->n_items_before of them not the request's own), instructions and tools become
 * those of a chat. */
int responses_to_chat(struct params *p, const cJSON *items, struct err *e) LATENT_MUST_CHECK;
/* ollama_chat.c: messages, or prompt and system, become those of a chat. */
int ollama_to_chat(struct params *p, struct err *e) LATENT_MUST_CHECK;
int ollama_prompt_to_chat(struct params *p, struct err *e) LATENT_MUST_CHECK;
/* The grammar of calls that the request's tool_choice asks for, or tools that are strict; x->calls reads them
 * then. read: calls are read out of answers at all. ERR_INVAL, ERR_UNSUPPORTED, ERR_NOMEM. */
int tool_choice_set(struct api_exchange *x, const cJSON *tools, const char *template, bool read,
                    struct err *e) LATENT_MUST_CHECK;
/* Its source: calls of `tools` (OpenAI's list, checked) in the format; returns how many tools there are.
 * Errors stay in w. */
int call_source(const struct call_format *format, const char *template, const cJSON *tools,
                const struct params *p, struct jw *w);
/* chat.c: renders messages into x->prompts[0]. */
int chat_prompt(struct api *a, struct api_exchange *x, struct err *e) LATENT_MUST_CHECK;

#endif
