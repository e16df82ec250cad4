/* tests/unit/held_engine.h - an engine for tests of what is above it: it takes prompts of token ids and holds
 * them until the test lets them end. One at a time; loop thread, but for held_release_soon. */
#ifndef LATENT_TESTS_HELD_ENGINE_H
#define LATENT_TESTS_HELD_ENGINE_H

#define HELD_MAX 64

struct held {
    /* what it shall do; the test sets it before it starts */
    int room;          /* requests held at most, more are refused with ERR_BUSY; 0: HELD_MAX; -1: none */
    int release_at;    /* all that is held ends when so many are; 0: never by itself */
    int fail;          /* a prompt that begins with this id is refused with ERR_INTERNAL; 0: none */
    void (*submitted)(int n); /* after the nth request was taken; may be NULL */
    /* what it has seen */
    int n_submitted, n_refused, n_cancelled;
    int first[HELD_MAX]; /* first id of the prompt of each that was taken */
};
extern struct held held;

/* From any thread: what is held ends, in the ascending order of their first ids, each with the text "n". */
void held_release(void);
/* The same from another thread in so many milliseconds. */
void held_release_soon(int ms);

#endif
