/* server/batch_progress.h - what a batch tells of itself on standard error: a line that is written over on a
 * terminal, a line of the log every half minute elsewhere, and a summary at the end. Loop thread. */
#ifndef LATENT_SERVER_BATCH_PROGRESS_H
#define LATENT_SERVER_BATCH_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct batch_progress {
    long long n_answered, n_failed;       /* in this run; failed: of all, not with 200 */
    long long n_before, n_failed_before;  /* done by earlier runs */
    long long prompt_tokens, cached_tokens, completion_tokens;
    uint64_t bytes, bytes_before;         /* of the input: done in this run, and by earlier ones */
    uint64_t total_bytes;                 /* 0: not known */
    int64_t begin_ns, told_ns;
    bool terminal;
};

void batch_progress_begin(struct batch_progress *p, uint64_t total_bytes);
/* Several times a second. */
void batch_progress_tell(struct batch_progress *p);
void batch_progress_end(struct batch_progress *p, const char *state);

#endif
