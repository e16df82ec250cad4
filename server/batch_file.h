/* server/batch_file.h - the two files of a batch: lines in, of bounded length and never all of them in
 * memory; lines out, each appended with one write. Loop thread. */
#ifndef LATENT_SERVER_BATCH_FILE_H
#define LATENT_SERVER_BATCH_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"

struct batch_in {
    const char *name; /* for errors */
    int fd;
    bool regular;     /* else a pipe or a terminal */
    uint64_t size;    /* bytes of a regular file when it was opened; 0: not known */
    size_t max_line;
    struct buf buf;
    size_t at, searched; /* in buf: behind the line given last; of what follows, without a line's end */
    bool eof, skipping;  /* skipping: a line that is too long */
    bool ended;          /* the line given last had its end */
    long long number;    /* of that line, from 1 */
    uint64_t offset;     /* behind it */
};

/* path: "-" is standard input. */
int batch_in_open(struct batch_in *in, const char *path, size_t max_line, struct err *e) LATENT_MUST_CHECK;
void batch_in_close(struct batch_in *in);

enum batch_next {
    BATCH_LINE,     /* valid until the next call; without its end, never blank */
    BATCH_TOO_LONG, /* a line with more than max_line bytes was passed over */
    BATCH_WAIT,     /* nothing has come yet */
    BATCH_END,
};
/* enum batch_next, or an error. Does not block. */
int batch_in_next(struct batch_in *in, const char **ret, size_t *ret_bytes, struct err *e) LATENT_MUST_CHECK;

struct batch_out {
    const char *name;
    int fd;
    bool regular; /* else nothing is read back, locked or synced */
    bool dirty;   /* written since it was synced last */
};

/* path: "-" is standard output. The file is made where there is none, and locked. ERR_INVAL: it is the input,
 * or in use by another run. */
int batch_out_open(struct batch_out *out, const char *path, const struct batch_in *in, struct err *e)
    LATENT_MUST_CHECK;
/* What it holds already, from its beginning; closed by batch_in_close, which leaves the file open. */
void batch_out_read(const struct batch_out *out, size_t max_line, struct batch_in *ret);
/* Cuts off what stands behind `bytes`. */
int batch_out_cut(struct batch_out *out, uint64_t bytes, struct err *e) LATENT_MUST_CHECK;
/* All of it, or nothing where the file can be cut. */
int batch_out_write(struct batch_out *out, const char *data, size_t n_bytes, struct err *e) LATENT_MUST_CHECK;
/* Syncs, closes; the error tells what may be lost. */
int batch_out_close(struct batch_out *out, struct err *e) LATENT_MUST_CHECK;

#endif
