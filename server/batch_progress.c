/* server/batch_progress.c - see batch_progress.h. */
#include "config.h"

#include "server/batch_progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define LOG_EVERY_NS (30 * NS_PER_SEC)

void batch_progress_begin(struct batch_progress *p, uint64_t total_bytes)
{
    p->total_bytes = total_bytes;
    p->begin_ns = p->told_ns = clock_now_ns();
    p->terminal = isatty(STDERR_FILENO);
}

/* How much of the input is done, and how long the rest takes at this run's rate. */
static void write_rest(const struct batch_progress *p, double seconds, char *dst, size_t n)
{
    uint64_t done = p->bytes + p->bytes_before;
    *dst = 0;
    if (p->total_bytes == 0)
        return;
    int at = snprintf(dst, n, " (%.1f %%)", 100.0 * (double)done / (double)p->total_bytes);
    if (p->bytes == 0 || done > p->total_bytes)
        return;
    double rest = seconds * (double)(p->total_bytes - done) / (double)p->bytes;
    long long s = rest < 3.6e8 ? (long long)rest : 360000000;
    snprintf(dst + at, n - (size_t)at, ", %lld:%02lld:%02lld left", s / 3600, s / 60 % 60, s % 60);
}

void batch_progress_tell(struct batch_progress *p)
{
    char rest[80], text[240];
    int64_t now = clock_now_ns();
    if (!p->terminal && now - p->told_ns < LOG_EVERY_NS)
        return;
    p->told_ns = now;
    double seconds = (double)(now - p->begin_ns) * 1e-9;
    write_rest(p, seconds, rest, sizeof(rest));
    snprintf(text, sizeof(text), "%lld lines%s, %.0f tokens/s, %lld failed",
             p->n_answered + p->n_before, rest,
             seconds > 0 ? (double)(p->prompt_tokens + p->completion_tokens) / seconds : 0, p->n_failed);
    if (p->terminal)
        fprintf(stderr, "\r%s\033[K", text);
    else
        LOG_INFO("batch", "%s", text);
}

void batch_progress_end(struct batch_progress *p, const char *state)
{
    double seconds = (double)(clock_now_ns() - p->begin_ns) * 1e-9;
    fprintf(stderr,
            "%sbatch %s: %lld lines in %.2f s, %lld of them failed; %lld prompt tokens, %lld of them cached, "
            "%lld generated",
            p->terminal ? "\r\033[K" : "", state, p->n_answered, seconds, p->n_failed - p->n_failed_before,
            p->prompt_tokens, p->cached_tokens, p->completion_tokens);
    if (p->n_before)
        fprintf(stderr, "; %lld lines were done before, %lld of them failed", p->n_before,
                p->n_failed_before);
    fputs("\n", stderr);
}
