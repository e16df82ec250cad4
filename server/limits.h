/* server/limits.h - what each key has used and may still use: requests and tokens a minute, requests at the
 * same time, and their metrics.
 *
 * Rates are token buckets: full at the beginning, filled evenly, at most a minute's worth. A use outlives
 * the keyring that names it, so that neither a reload nor taking a key out and in again resets it. Loop
 * thread. */
#ifndef LATENT_SERVER_LIMITS_H
#define LATENT_SERVER_LIMITS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/metrics.h"
#include "server/keys.h"

struct bucket {
    double level; /* below 0 after a long answer: then nothing is let in until it is filled again */
    int64_t at_ns;
    bool used;
};

/* What is in it now, where `per_minute` is its size. */
double bucket_level(struct bucket *b, long long per_minute, int64_t now_ns);
/* Seconds until it holds `want`, at least 1. */
int bucket_wait_s(struct bucket *b, long long per_minute, double want, int64_t now_ns);

struct key_use {
    char name[KEY_NAME_MAX + 1];
    struct bucket requests, tokens;
    int running;
    struct metric *m_requests, *m_prompt, *m_completion, *m_refused, *m_running;
    struct key_use *next;
};

struct limits;
struct limits *limits_new(struct metrics *m); /* NULL: out of memory */
void limits_free(struct limits **l);
/* Gives every key of the ring its use. */
int limits_bind(struct limits *l, struct keyring *r, struct err *e) LATENT_MUST_CHECK;

/* A request begins: 0, or the seconds after which it may be tried again, with the reason in e. After 0
 * limits_end must follow. generates: it may; others are let in also when the key's requests at the same time,
 * or its tokens, are used up: so that what runs can be looked at, come back to and ended. */
int limits_begin(const struct api_key *k, bool generates, int64_t now_ns, struct err *e);
/* Takes a prompt's tokens: 0, or seconds as above. A prompt larger than a minute's worth waits for a full
 * bucket. */
int limits_take_prompt(const struct api_key *k, long long n_tokens, int64_t now_ns, struct err *e);
/* The request is over; what it generated counts now. prompt_tokens: what was taken for it; given back when
 * it was refused in the end (a full queue). */
void limits_end(const struct api_key *k, long long prompt_tokens, long long completion_tokens, bool refused,
                int64_t now_ns);

#endif
