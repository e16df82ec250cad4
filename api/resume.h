/* api/resume.h - streams that outlive their connection. Their events are numbered and the last of them kept;
 * who comes back gets those after the last that it has, byte for byte, and then the rest as it is made.
 *
 * At most `stream_window` bytes of events are kept of a stream, `stream_memory` of all. While a client reads,
 * half of the window is what it was sent last; without one, the rest takes what is generated, and when three
 * quarters are full generation pauses: nothing is dropped that nobody has seen. Loop thread. */
#ifndef LATENT_API_RESUME_H
#define LATENT_API_RESUME_H

#include "api/internal.h"

struct resumables; /* all of an API object */
struct resumable;  /* one; of its exchange while that runs */

int resumables_new(struct api *a, struct err *e) LATENT_MUST_CHECK;
void resumables_free(struct api *a);

/* The stream of x can be resumed from now on; false: it cannot, and x has been answered. */
bool resumable_begin(struct api_exchange *x);
/* Numbers the whole events in data, keeps and sends them. */
void resumable_write(struct api_exchange *x, const char *data, size_t n_bytes);
/* The stream is over: what is kept of it stays for a while. */
void resumable_end(struct api_exchange *x);
/* Nobody may resume it any more. */
void resumable_forget(struct api_exchange *x);
/* Has it no client, and no room for more events? */
bool resumable_absent(const struct api_exchange *x);
bool resumable_crowded(const struct api_exchange *x);
/* "/v1/streams/ID", valid as long as the stream. */
const char *resumable_path(const struct api_exchange *x);

/* Answers with the events after number `after` (NULL or "": from the first) of the client's stream `id`, and
 * gives it to this client if it still runs. false: the client has no such stream, nothing is answered. */
bool resume(struct api *a, const char *id, const char *after, const struct api_request *req,
            const struct reply *r, struct api_exchange **ret);
/* Ends the stream and forgets it. false: there is none. */
bool resume_delete(struct api *a, const char *id, uint64_t client);
void resume_tick(struct api *a, int64_t now_ns);

#endif
