/* tests/load/chat_trace.h - a made-up day of a chat server, as requests in order: the replay of t_kv_replay.
 *
 * Conversations share a few system prompts and come in sittings: some turns close together, perhaps a long
 * pause, some more. Each turn's prompt is all that was said before, answers included; now and then an answer
 * is asked for again, a document is pasted, or the client drops the oldest turns because the window is full.
 * Between them come long prompts that nobody ever asks about again. Everything follows from the seed. */
#ifndef LATENT_TESTS_CHAT_TRACE_H
#define LATENT_TESTS_CHAT_TRACE_H

#include <stdint.h>

struct chat_shape {
    uint64_t seed;
    int n_requests, n_conversations, n_systems;
    int n_one_off;  /* of the requests: long prompts that come once */
    double sitting; /* mean length of a sitting as a share of the day: how many talk at once */
};
#define CHAT_SHAPE_DEFAULT {.seed = 1, .n_requests = 2000, .n_conversations = 40, .n_systems = 6, \
                            .n_one_off = 100, .sitting = 0.5}

struct chat_request {
    double at;       /* time of the day, 0 to about 2; requests are in its order */
    int conversation; /* -1: one-off */
    uint32_t n_prompt, n_tokens; /* tokens[n_prompt..n_tokens): the answer */
    int32_t *tokens;
};

struct chat_trace {
    int n;
    struct chat_request *requests;
};

/* Aborts when out of memory. */
void chat_trace_make(struct chat_trace *ret, const struct chat_shape *shape);
void chat_trace_free(struct chat_trace *t);

#endif
