/* api/api.h - the OpenAI-style JSON API over any transport.
 *
 * The server hands over complete requests and a reply object; the API answers through it, at once or
 * as the engine produces. The API touches no sockets and no event loop. Everything here runs on the
 * loop thread; only api_offload work functions run elsewhere. */
#ifndef LATENT_API_API_H
#define LATENT_API_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/metrics.h"
#include "engine/engine.h"

struct api;
struct api_exchange; /* one request being answered */

struct api_config {
    struct engine *engine;      /* not owned */
    struct metrics *metrics;    /* not owned; may be NULL */
    const char *model_id;       /* served name; NULL: the checkpoint's. Requests may also leave it out */
    const char *chat_template;  /* operator's override, NULL: the model's */
    int max_seqs;               /* that run at once, for /slots */
    int max_prompts;            /* prompts in one completions request */
    int max_embedding_inputs;   /* ... in one for embeddings */
    int max_n;                  /* choices */
    int max_logprobs;           /* 20 */
    int max_stop;               /* stop strings, 16 */
    int max_logit_bias;         /* 1024 */
    size_t max_prompt_bytes;    /* text of one prompt */
    size_t write_high_bytes;    /* queued output of a reply beyond which its request is paused */
    size_t write_low_bytes;     /* ... and resumed below */
    int64_t request_timeout_ns, max_queue_ns; /* for requests that ask for none, and the most; 0: none */
    const char *model_aliases;  /* further names of the model, separated by commas; NULL or "": none */
    size_t stream_window;       /* bytes of events kept of a resumable stream; 0: none can be resumed */
    uint64_t stream_memory;     /* ... of all of them */
    int64_t stream_absence_ns;  /* for which such a stream goes on without a client; 0: not at all */
    int64_t stream_kept_ns;     /* for which one that is over is kept */
    int64_t keepalive_ns;       /* silence of a stream after which it says that it lives; 0: never */
    const char *store_path;     /* SQLite file of finished responses; NULL or "": in memory */
    int store_entries;          /* responses kept */
    uint64_t store_bytes;       /* bytes of them */
    uint64_t store_waiting_bytes; /* of responses and questions that wait for its disk */
    const char *tool_parser;    /* "auto", "none", or a format's name (calls.h) */
    bool cache_by_key;          /* requests of different keys share no cached prefix */
    bool strict;                /* unknown request fields are an error */
    /* Runs work(arg) off the loop thread, then done(arg) on it. Used to tokenize long texts. */
    void (*offload)(void *host, void (*work)(void *arg), void (*done)(void *arg), void *arg);
    /* The prompts of a request have n_tokens together: 0 lets it go on, else it gets 429 with e's text and
     * may come again after so many seconds. `reply` as given to api_handle. NULL: all go on. */
    int (*admit)(void *reply, long long n_tokens, struct err *e);
    void (*wake)(void *host); /* from any thread, until api_stop: api_poll has something to do */
    void (*log)(void *host, const char *text); /* a line for the operator */
    void *host;
};

/* What the key of a request may ask for. */
struct api_grant {
    int priority;       /* of requests that ask for none */
    int best_priority;  /* the lowest number that may be asked for */
    const char *models; /* names, separated by commas; NULL: every model */
};

int api_new(const struct api_config *cfg, struct api **ret, struct err *e) LATENT_MUST_CHECK;
/* Limits, aliases and `strict` of cfg hold from the next request on; engine, model and template stay. */
void api_set_limits(struct api *a, const struct api_config *cfg);
/* Nothing is asked or polled any more, and `wake` is not called from here on: what was to be kept is written,
 * however long that takes. NULL-safe. */
void api_stop(struct api *a);
void api_free(struct api **a); /* after api_stop */

enum http_method { HTTP_M_GET, HTTP_M_HEAD, HTTP_M_POST, HTTP_M_DELETE, HTTP_M_OPTIONS, HTTP_M_OTHER };

struct api_request {
    enum http_method method;
    const char *path;   /* decoded, without query; NUL-terminated */
    const char *query;  /* "" when none */
    const char *content_type; /* "" when none */
    const char *last_event_id; /* of an event stream; "" when none */
    const char *body;   /* valid until api_handle returns */
    size_t body_bytes;
    uint64_t client;    /* whose it is, for fairness: a hash; 0: nobody's in particular */
    const struct api_grant *grant; /* NULL: no bounds; valid until api_handle returns */
    uint64_t key;       /* hash of its API key, for cache_by_key; 0: it has none */
    const char *request_id; /* "req-..." for headers and logs; copied if kept */
    int64_t received_ns;
};

struct api_header {
    const char *name, *value;
};

/* What logs, metrics and traces want to know; filled by the API before end(). */
struct api_log_facts {
    int prompt_tokens, cached_tokens, completion_tokens; /* -1: not a generation */
    int64_t ttft_ns;          /* -1: none */
    const char *finish;       /* static text, or NULL */
    struct api_asked {
        char model[64]; /* as the client names it; "": not at all */
        int n, max_tokens;
        double temperature, top_p;
    } asked;
    /* Where its time went, as far as choices have ended. */
    struct api_stages {
        int64_t submitted_ns; /* 0: it never was, and the rest is not known */
        /* from there until a choice ran, to the first token, to the last; -1: it never came to that */
        int64_t ran_ns, first_ns, last_ns;
        int preemptions;                   /* of all choices */
        int64_t preempted_ns;              /* that they waited after them, summed */
    } stages;
};

/* Of what generates nothing. */
#define API_NO_FACTS \
    {.prompt_tokens = -1, .cached_tokens = -1, .completion_tokens = -1, .ttft_ns = -1, .finish = NULL}

/* Reply side, implemented by the server. begin once, write any times, end once; none of them calls
 * back into the API. After api_exchange_gone none of them is called again. */
struct api_reply_ops {
    /* body_bytes: Content-Length, or -1 for a stream (chunked, or until close for HTTP/1.0). */
    void (*begin)(void *reply, int status, const struct api_header *headers, int n_headers,
                  int64_t body_bytes);
    void (*write)(void *reply, const char *data, size_t n_bytes); /* copies */
    void (*end)(void *reply, const struct api_log_facts *facts);
    size_t (*queued_bytes)(void *reply); /* not yet taken by the kernel */
};

/* The path as a pattern ("/v1/models/{id}"), of which there are few; NULL: none of the API's. */
const char *api_route(const char *path, enum http_method method);
/* Is this path the API's? Then api_handle answers it (also with 404/405 inside /v1/). */
bool api_owns_path(const char *path);
/* Answers a request. Returns NULL when the reply has already ended, else the exchange, which ends
 * itself with ops->end; the server keeps the pointer only to signal the two calls below. */
struct api_exchange *api_handle(struct api *a, const struct api_request *req,
                                const struct api_reply_ops *ops, void *reply);
void api_exchange_writable(struct api_exchange *x); /* queued output fell; may resume */
void api_exchange_gone(struct api_exchange *x);     /* client is gone: cancel, free; no more ops */
/* The client is gone. true: its stream can be resumed and goes on, with this reply in the place of the
 * client's; whatever is written there is lost, end comes once. false: api_exchange_gone must follow. */
bool api_exchange_leave(struct api_exchange *x, const struct api_reply_ops *ops, void *reply);
/* Whoever asks from now on gets 503; what was asked before goes on, but nobody can come back any more:
 * streams without client are cancelled. */
void api_drain(struct api *a);
/* What is known so far of a request that has not ended. */
void api_exchange_facts(const struct api_exchange *x, struct api_log_facts *facts);
/* Takes all waiting events of the engine, and what the store of responses tells. The server calls it when
 * either has woken it. */
void api_poll(struct api *a);
/* Once a second or so: keep-alive of silent streams. */
void api_tick(struct api *a);
/* A prefix that the operator wants kept: computed where it is not cached, and pinned, as /v1/cache/pin
 * does with `compute`. data: the text of a prompt, or (json) a body of that endpoint; without NUL bytes,
 * and a NUL after its end. `done` is called once, unless api_exchange_gone is; it must not call the API.
 * Returns NULL when it has been called already. */
struct api_pin_result {
    int prompt_tokens, pinned_tokens;
    const char *error; /* NULL: it is pinned. Valid during the call */
};
typedef void api_pinned(void *arg, const struct api_pin_result *r);
struct api_exchange *api_pin(struct api *a, const char *data, size_t n_bytes, bool json,
                             api_pinned *done, void *arg);
/* Exchanges not yet ended. */
int api_active(const struct api *a);

/* --- batch.c: requests in a file, one a line, in the format of OpenAI's Batch API ------------------- */

struct api_batch_line {
    char *custom_id, *url; /* owned; NULL where it has none */
    const char *body;      /* of the request, where it stands in the line */
    size_t body_bytes;
    const char *code;      /* what kind of mistake; NULL: none. Static */
};
/* What a line of input asks for. ERR_INVAL: it is no request, and `code` and custom_id are there all the
 * same; ERR_NOMEM. api_batch_line_done also after a failure. Any thread. */
int api_batch_read(const char *line, size_t n_bytes, struct api_batch_line *ret, struct err *e)
    LATENT_MUST_CHECK;
void api_batch_line_done(struct api_batch_line *l);

/* A line of output, with its end: what the endpoint has answered, or (status 0) why it was not asked: `code`
 * and a text. */
struct api_batch_answer {
    const char *id;         /* "batch_req_..." */
    const char *custom_id;  /* NULL: not known */
    const char *request_id;
    int status;
    const char *body;
    size_t body_bytes;
    const char *code, *message;
    long long line;         /* of the input, where it was not asked */
};
int api_batch_write(const struct api_batch_answer *a, struct buf *out) LATENT_MUST_CHECK;

/* What a line of output tells of a request. ERR_FORMAT: it is none. */
struct api_batch_told {
    char *custom_id; /* owned, or NULL */
    int status;      /* 0: the endpoint was not asked */
    long long line;
};
int api_batch_read_told(const char *line, size_t n_bytes, struct api_batch_told *ret) LATENT_MUST_CHECK;

/* An error body into `out`, in the shape that clients of `path` read (NULL: OpenAI's,
 * {"error":{"message","type","param","code"}}). For the server's own refusals: clients meet one shape. */
int api_error_body(int status, const char *path, const char *message, struct buf *out);

#endif
