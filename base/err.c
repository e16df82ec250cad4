/* base/err.c - error codes and texts. Thread safe: no state. */
#include "config.h"

#include "base/err.h"

#include <stdio.h>

static void fill(struct err *e, int code, const char *param, const char *fmt, va_list ap)
{
    if (!e)
        return;
    e->code = code;
    snprintf(e->param, sizeof(e->param), "%s", param);
    vsnprintf(e->text, sizeof(e->text), fmt, ap);
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(e, code, "", fmt, ap);
    va_end(ap);
    return code;
}

int err_set_param(struct err *e, int code, const char *param, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(e, code, param, fmt, ap);
    va_end(ap);
    return code;
}

const char *err_name(int code)
{
    switch (code) {
    case ERR_OK: return "no error";
    case ERR_INVAL: return "invalid value";
    case ERR_NOMEM: return "out of memory";
    case ERR_NOSPACE: return "no free cache page";
    case ERR_IO: return "input/output error";
    case ERR_FORMAT: return "malformed file";
    case ERR_UNSUPPORTED: return "not supported";
    case ERR_NOTFOUND: return "not found";
    case ERR_LIMIT: return "limit exceeded";
    case ERR_BUSY: return "busy";
    case ERR_STATE: return "not ready";
    case ERR_CANCELED: return "canceled";
    case ERR_TIMEOUT: return "timed out";
    case ERR_DENIED: return "not allowed";
    case ERR_INTERNAL: return "internal error";
    default: return "unknown error";
    }
}
