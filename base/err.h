/* base/err.h - error codes and the human text that travels upward with them.
 *
 * Every function that can fail returns 0 or one of these negative codes. Where a person or a client
 * will read the reason, the function also takes a `struct err *` (last argument, may be NULL).
 * Output parameters named ret_x are untouched on failure. */
#ifndef LATENT_BASE_ERR_H
#define LATENT_BASE_ERR_H

#include <stdarg.h>

enum err_code {
    ERR_OK = 0,
    ERR_INVAL = -1000,       /* a value from a client, file or operator is out of range */
    ERR_NOMEM = -1001,       /* allocation failed */
    ERR_NOSPACE = -1002,     /* no free cache page; retry after others release theirs */
    ERR_IO = -1003,          /* open, read, map, write failed; text holds strerror */
    ERR_FORMAT = -1004,      /* a file is malformed */
    ERR_UNSUPPORTED = -1005, /* well formed, but a type or feature that this build does not serve */
    ERR_NOTFOUND = -1006,    /* no such file, tensor, route, model, id */
    ERR_LIMIT = -1007,       /* a configured maximum would be exceeded */
    ERR_BUSY = -1008,        /* queue full; retry later */
    ERR_STATE = -1009,       /* not loaded yet, draining, stopped */
    ERR_CANCELED = -1010,    /* the caller gave up */
    ERR_TIMEOUT = -1011,
    ERR_DENIED = -1013,      /* not allowed to whoever asks */
    ERR_INTERNAL = -1012,    /* our mistake */
};

struct err {
    int code;        /* enum err_code, 0 when nothing was set */
    char param[96];  /* field, config key or tensor at fault; "" when none */
    char text[416];  /* one sentence, no final newline */
};

/* Both set *e (when e is not NULL) and return `code`, so that callers can `return err_set(...)`. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int err_set_param(struct err *e, int code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Short constant text of a code, never NULL. */
const char *err_name(int code);

#define LATENT_MUST_CHECK __attribute__((warn_unused_result))

#endif
