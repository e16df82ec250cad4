/* server/batch_file.c - see batch_file.h. */
#include "config.h"

#include "server/batch_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_BYTES 65536

static int fail(const char *name, const char *what, struct err *e)
{
    return err_set(e, ERR_IO, "%.250s: %s%s", name, what, strerror(errno));
}

/* --- input ---------------------------------------------------------------------------------------- */

static void in_init(struct batch_in *in, const char *name, int fd, size_t max_line)
{
    *in = (struct batch_in){.name = name, .fd = fd, .max_line = max_line};
    buf_init(&in->buf, max_line + READ_BYTES + 1);
}

int batch_in_open(struct batch_in *in, const char *path, size_t max_line, struct err *e)
{
    bool standard = !strcmp(path, "-");
    struct stat st;
    in_init(in, standard ? "standard input" : path,
            standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC), max_line);
    if (in->fd < 0 || fstat(in->fd, &st) < 0)
        return fail(in->name, "", e);
    if (S_ISDIR(st.st_mode))
        return err_set(e, ERR_INVAL, "%.250s is a folder", in->name);
    in->regular = S_ISREG(st.st_mode);
    in->size = in->regular ? (uint64_t)st.st_size : 0;
    return 0;
}

void batch_in_close(struct batch_in *in)
{
    if (in->fd > STDERR_FILENO)
        close(in->fd);
    in->fd = -1;
    buf_done(&in->buf);
}

/* What is there, behind what the buffer has. BATCH_LINE: something came, or the end. */
static int more(struct batch_in *in, struct err *e)
{
    struct pollfd p = {.fd = in->fd, .events = POLLIN};
    if (!in->regular && poll(&p, 1, 0) == 0)
        return BATCH_WAIT;
    buf_consume(&in->buf, in->at);
    in->at = 0;
    if (buf_reserve(&in->buf, READ_BYTES) < 0)
        return err_set(e, ERR_NOMEM, "%.250s: out of memory for line %lld", in->name, in->number + 1);
    ssize_t n;
    do
        n = read(in->fd, in->buf.data + in->buf.n_bytes, READ_BYTES);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return BATCH_WAIT;
    if (n < 0)
        return fail(in->name, "", e);
    in->buf.n_bytes += (size_t)n;
    in->eof = n == 0;
    return BATCH_LINE;
}

static bool is_blank(const char *s, size_t n)
{
    while (n > 0 && memchr(" \t\r\n", s[n - 1], 4))
        n--;
    return n == 0;
}

/* Gives the n bytes at the buffer's front as a line, of which `step` are to be passed over. */
static void take(struct batch_in *in, size_t step)
{
    in->at += step;
    in->offset += step;
    in->searched = 0;
}

int batch_in_next(struct batch_in *in, const char **ret, size_t *ret_bytes, struct err *e)
{
    for (;;) {
        size_t have = in->buf.n_bytes - in->at;
        const char *line = have ? in->buf.data + in->at : "";
        const char *end = memchr(line + in->searched, '\n', have - in->searched);
        if (end || (in->eof && (have || in->skipping))) {
            size_t n = end ? (size_t)(end - line) : have;
            bool too_long = in->skipping || n > in->max_line;
            take(in, n + (end != NULL));
            in->number++;
            in->skipping = false;
            in->ended = end != NULL;
            if (too_long)
                return BATCH_TOO_LONG;
            if (is_blank(line, n))
                continue;
            *ret = line;
            *ret_bytes = n - (line[n - 1] == '\r');
            return BATCH_LINE;
        }
        if (in->eof)
            return BATCH_END;
        in->searched = have;
        if (have > in->max_line) {
            in->skipping = true;
            take(in, have);
        }
        int r = more(in, e);
        if (r != BATCH_LINE)
            return r;
    }
}

/* --- output --------------------------------------------------------------------------------------- */

int batch_out_open(struct batch_out *out, const char *path, const struct batch_in *in, struct err *e)
{
    bool standard = !strcmp(path, "-");
    struct stat st, st_in;
    *out = (struct batch_out){
        .name = standard ? "standard output" : path,
        .fd = standard ? STDOUT_FILENO : open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666),
    };
    if (out->fd < 0 || fstat(out->fd, &st) < 0 || fstat(in->fd, &st_in) < 0)
        return fail(out->name, "", e);
    out->regular = S_ISREG(st.st_mode) && !standard;
    if (S_ISREG(st.st_mode) && st.st_dev == st_in.st_dev && st.st_ino == st_in.st_ino)
        return err_set(e, ERR_INVAL, "%.250s is the input, too: the output needs a file of its own",
                       out->name);
    if (out->regular && flock(out->fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK
                   ? err_set(e, ERR_INVAL, "%.250s is being written by another run", out->name)
                   : fail(out->name, "it cannot be locked: ", e);
    return 0;
}

void batch_out_read(const struct batch_out *out, size_t max_line, struct batch_in *ret)
{
    in_init(ret, out->name, dup(out->fd), max_line);
    ret->regular = true;
}

int batch_out_cut(struct batch_out *out, uint64_t bytes, struct err *e)
{
    return ftruncate(out->fd, (off_t)bytes) < 0 ? fail(out->name, "", e) : 0;
}

int batch_out_write(struct batch_out *out, const char *data, size_t n_bytes, struct err *e)
{
    size_t done = 0;
    out->dirty = true;
    while (done < n_bytes) {
        ssize_t n = write(out->fd, data + done, n_bytes - done);
        if (n >= 0) {
            done += (size_t)n;
        } else if (errno == EAGAIN) { /* a pipe that somebody has made so */
            struct pollfd p = {.fd = out->fd, .events = POLLOUT};
            (void)poll(&p, 1, -1);
        } else if (errno != EINTR) {
            int r = fail(out->name, "", e);
            off_t end = out->regular && done ? lseek(out->fd, 0, SEEK_END) : -1;
            if (end >= (off_t)done) /* else the next run does it */
                (void)!ftruncate(out->fd, end - (off_t)done);
            return r;
        }
    }
    return 0;
}

int batch_out_close(struct batch_out *out, struct err *e)
{
    int r = 0;
    if (out->regular && out->dirty && fsync(out->fd) < 0)
        r = fail(out->name, "it cannot be synced: ", e);
    if (out->fd > STDERR_FILENO && close(out->fd) < 0 && r == 0)
        r = fail(out->name, "", e);
    out->fd = -1;
    return r;
}
