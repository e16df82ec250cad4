/* tools/convert/emit.c - see emit.h. */
#include "config.h"

#include "tools/convert/emit.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "engine/pool.h"
#include "tools/convert/quantize.h"

#define MAX_PATH_BYTES 4096
/* Values that one work item converts. */
#define ITEM_VALUES ((int64_t)1 << 16)
#define MAX_HEADER_BYTES ((size_t)1 << 30)
#define QUANTIZATION_VERSION 2 /* general.quantization_version */

static volatile sig_atomic_t stopped;

struct emit {
    const struct plan *p;
    const struct emit_options *o;
    struct pool *pool;
    struct hash64_stream *sum;
    unsigned char *out;   /* one batch */
    float **values, **tmp; /* [threads] */
    int n_threads;
    /* the batch */
    const struct source_tensor *t;
    enum tensor_type type;
    int64_t first, n_rows, item_rows;
    size_t row_bytes;
    int64_t bad_row; /* of the batch's tensor; -1: none */
    /* the file */
    int fd;
    int lock; /* the first part's file, held to the end, or -1 */
    uint64_t at;
    /* progress */
    uint64_t done_bytes;
    int64_t start_ns, shown_ns;
    bool terminal;
};

static void on_signal(int sig)
{
    (void)sig;
    stopped = 1;
}

void emit_part_path(const char *path, int i, int n, char *dst, size_t dst_bytes)
{
    size_t len = strlen(path);
    if (n <= 1) {
        snprintf(dst, dst_bytes, "%s", path);
        return;
    }
    if (len > 5 && strcmp(path + len - 5, ".gguf") == 0)
        len -= 5;
    snprintf(dst, dst_bytes, "%.*s-%05d-of-%05d.gguf", (int)len, path, i + 1, n);
}

/* The same for every run: what a killed one has left the next takes over. */
static void temporary_path(const char *path, int i, int n, char *dst, size_t dst_bytes)
{
    char part[MAX_PATH_BYTES];
    emit_part_path(path, i, n, part, sizeof(part));
    snprintf(dst, dst_bytes, "%.4000s.tmp", part);
}

static void folder_of(const char *path, char dst[MAX_PATH_BYTES])
{
    char copy[MAX_PATH_BYTES];
    snprintf(copy, sizeof(copy), "%s", path);
    snprintf(dst, MAX_PATH_BYTES, "%s", dirname(copy));
}

bool emit_free_bytes(const char *path, uint64_t *ret)
{
    char folder[MAX_PATH_BYTES];
    struct statvfs fs;
    folder_of(path, folder);
    if (statvfs(folder, &fs) < 0 || fs.f_blocks == 0) /* some file systems do not tell */
        return false;
    *ret = (uint64_t)fs.f_bavail * fs.f_frsize;
    return true;
}

int emit_check(const struct plan *p, const struct emit_options *o, struct err *e)
{
    char path[MAX_PATH_BYTES], folder[MAX_PATH_BYTES], need[32], have[32];
    struct stat st;
    if (strlen(o->path) > MAX_PATH_BYTES - 100)
        return err_set(e, ERR_LIMIT, "the output's path is longer than %d bytes", MAX_PATH_BYTES - 100);
    folder_of(o->path, folder);
    if (stat(folder, &st) < 0 || !S_ISDIR(st.st_mode))
        return err_set(e, ERR_NOTFOUND, "%.300s is not a folder", folder);
    for (int i = 0; i < p->n_parts; i++) {
        emit_part_path(o->path, i, p->n_parts, path, sizeof(path));
        if (stat(path, &st) < 0)
            continue;
        if (!S_ISREG(st.st_mode))
            return err_set(e, ERR_INVAL, "%.300s is there and is no file", path);
        if (!o->force)
            return err_set(e, ERR_INVAL, "%.300s is there already; --force replaces it", path);
    }
    uint64_t free_bytes;
    if (emit_free_bytes(o->path, &free_bytes) && free_bytes < p->n_bytes)
        return err_set(e, ERR_INVAL, "%.200s has %s free; %s are needed", folder,
                       plan_size(free_bytes, have), plan_size(p->n_bytes, need));
    return 0;
}

/* --- progress ---------------------------------------------------------------------------------- */

static void show(struct emit *m, bool last)
{
    int64_t now = clock_now_ns(), every = m->terminal ? NS_PER_SEC / 5 : 5 * NS_PER_SEC;
    if (m->o->quiet || (!last && now - m->shown_ns < every))
        return;
    m->shown_ns = now;
    double seconds = (double)(now - m->start_ns) / 1e9;
    double rate = seconds > 0 ? (double)m->done_bytes / seconds : 0;
    double left = rate > 0 ? (double)(m->p->n_bytes - m->done_bytes) / rate : 0;
    char done[32], all[32], per_s[32];
    fprintf(stderr, "%s%5.1f %%  %s of %s  %s/s  %02d:%02d left%s", m->terminal ? "\r" : "",
            m->p->n_bytes ? 100.0 * (double)m->done_bytes / (double)m->p->n_bytes : 100.0,
            plan_size(m->done_bytes, done), plan_size(m->p->n_bytes, all),
            plan_size((uint64_t)rate, per_s), (int)(left / 60), (int)left % 60,
            m->terminal ? "   " : "\n");
    if (last && m->terminal)
        fputc('\n', stderr);
}

/* --- writing ----------------------------------------------------------------------------------- */

static int put_at(struct emit *m, const void *data, size_t n_bytes, uint64_t at, struct err *e)
{
    const char *p = data;
    while (n_bytes > 0) {
        ssize_t n = pwrite(m->fd, p, n_bytes, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set(e, ERR_IO, "writing %.200s: %s", m->o->path, strerror(n < 0 ? errno : ENOSPC));
        p += n;
        n_bytes -= (size_t)n;
        at += (uint64_t)n;
    }
    return 0;
}

static int append(struct emit *m, const void *data, size_t n_bytes, struct err *e)
{
    int r = put_at(m, data, n_bytes, m->at, e);
    if (r == 0)
        m->at += n_bytes;
    return r;
}

/* Rows of the batch that work item i converts. */
static void convert_item(void *arg, int item, int thread)
{
    struct emit *m = arg;
    int64_t row = item * m->item_rows, n = m->n_rows - row, n_in = m->t->ne[0];
    if (n > m->item_rows)
        n = m->item_rows;
    unsigned char *dst = m->out + (size_t)row * m->row_bytes;
    if (source_copies(m->t, m->type)) {
        for (int64_t i = 0; i < n; i++)
            memcpy(dst + (size_t)i * m->row_bytes, source_row_bytes(m->p->source, m->t, m->first + row + i),
                   m->row_bytes);
        return;
    }
    source_rows(m->p->source, m->t, m->first + row, n, m->values[thread], m->tmp[thread]);
    for (int64_t i = 0; i < n; i++)
        if (!quantize_row(m->type, m->values[thread] + i * n_in, dst + (size_t)i * m->row_bytes, n_in))
            __atomic_store_n(&m->bad_row, m->first + row + i, __ATOMIC_RELAXED);
}

static int write_tensor(struct emit *m, int index, uint64_t *ret_sum, struct err *e)
{
    static const char zeros[GGUF_DEFAULT_ALIGNMENT];
    const struct source_tensor *t = &m->p->source->tensors[index];
    int64_t unit = source_unit(t), batch_rows;
    int r = 0;
    m->t = t;
    m->type = m->p->tensors[index].type;
    m->row_bytes = tensor_row_bytes(m->type, t->ne[0]);
    m->item_rows = ITEM_VALUES / t->ne[0] / unit * unit;
    if (m->item_rows < unit)
        m->item_rows = unit;
    batch_rows = (int64_t)(EMIT_BATCH_BYTES / m->row_bytes) / m->item_rows * m->item_rows;
    if (batch_rows < m->item_rows)
        batch_rows = m->item_rows;
    m->bad_row = -1;
    hash64_stream_reset(m->sum);
    for (m->first = 0; m->first < t->n_rows && r == 0; m->first += batch_rows) {
        m->n_rows = t->n_rows - m->first < batch_rows ? t->n_rows - m->first : batch_rows;
        if (stopped)
            return err_set(e, ERR_CANCELED, "interrupted; nothing was written");
        pool_run(m->pool, (int)((m->n_rows + m->item_rows - 1) / m->item_rows), convert_item, m);
        if (m->bad_row >= 0)
            return err_set_param(e, ERR_FORMAT, t->name,
                                 "tensor %s, row %lld has a value that is not finite or beyond the range "
                                 "of %s (%g)", t->name, (long long)m->bad_row,
                                 tensor_type_info((uint32_t)m->type)->name, (double)quantize_max(m->type));
        size_t n_bytes = (size_t)m->n_rows * m->row_bytes;
        hash64_stream_add(m->sum, m->out, n_bytes);
        r = append(m, m->out, n_bytes, e);
        m->done_bytes += n_bytes;
        show(m, false);
    }
    *ret_sum = hash64_stream_value(m->sum);
    size_t padding = (size_t)(-m->at & (GGUF_DEFAULT_ALIGNMENT - 1));
    return r < 0 ? r : append(m, zeros, padding, e);
}

void emit_layout_add(struct hash64_stream *h, const char *name, uint32_t type, const int64_t ne[4])
{
    hash64_stream_add(h, name, strlen(name) + 1);
    hash64_stream_add(h, &type, sizeof(type));
    hash64_stream_add(h, ne, 4 * sizeof(*ne));
}

/* The header of part i; *ret_sums says where the checksums go. */
static int make_header(struct emit *m, int i, struct gguf_writer *w, size_t *ret_sums, struct err *e)
{
    const struct plan *p = m->p;
    int first = p->first[i], n = p->first[i + 1] - first, r = 0;
    uint64_t *sums = calloc((size_t)n + 1, sizeof(*sums));
    if (!sums)
        return err_set(e, ERR_NOMEM, "out of memory");
    if (i == 0) {
        r = source_keys(p->source, w, e);
        gguf_write_u32(w, "general.file_type", p->recipe->file_type);
        if (recipe_is_quantised(p->recipe))
            gguf_write_u32(w, "general.quantization_version", QUANTIZATION_VERSION);
    }
    if (p->n_parts > 1) {
        gguf_write_u16(w, "split.no", (uint16_t)i);
        gguf_write_u16(w, "split.count", (uint16_t)p->n_parts);
        gguf_write_i32(w, "split.tensors.count", p->source->n_tensors);
    }
    hash64_stream_reset(m->sum);
    for (int k = 0; k < n; k++)
        emit_layout_add(m->sum, p->source->tensors[first + k].name,
                        (uint32_t)p->tensors[first + k].type, p->source->tensors[first + k].ne);
    gguf_write_u64(w, EMIT_KEY_LAYOUT, hash64_stream_value(m->sum));
    *ret_sums = gguf_write_array(w, EMIT_KEY_SUMS, GGUF_U64, sums, (size_t)n, sizeof(*sums));
    for (int k = 0; k < n; k++) {
        const struct source_tensor *t = &p->source->tensors[first + k];
        gguf_write_tensor(w, t->name, t->n_dims, t->ne, p->tensors[first + k].type);
    }
    free(sums);
    return r;
}

static int write_part(struct emit *m, int i, struct err *e)
{
    const struct plan *p = m->p;
    int first = p->first[i], n = p->first[i + 1] - first;
    size_t sums_at = 0;
    struct gguf_writer w;
    struct buf header;
    uint64_t *sums = calloc((size_t)n + 1, sizeof(*sums));
    gguf_write_init(&w, p->source->gguf_arch);
    buf_init(&header, MAX_HEADER_BYTES);
    int r = sums ? make_header(m, i, &w, &sums_at, e) : err_set(e, ERR_NOMEM, "out of memory");
    if (r == 0)
        r = gguf_write_header(&w, &header, e);
    m->at = 0;
    if (r == 0)
        r = append(m, header.data, header.n_bytes, e);
    for (int k = 0; k < n && r == 0; k++)
        r = write_tensor(m, first + k, &sums[k], e);
    if (r == 0 && n)
        r = put_at(m, sums, (size_t)n * sizeof(*sums), gguf_write_key_offset(sums_at), e);
    if (r == 0 && fsync(m->fd) < 0)
        r = err_set(e, ERR_IO, "writing %.200s: %s", m->o->path, strerror(errno));
    buf_done(&header);
    gguf_write_done(&w);
    free(sums);
    return r;
}

/* --- files ------------------------------------------------------------------------------------- */

/* Two runs at once are kept apart by a lock on the first part. */
static int take_lock(struct emit *m, const char *path, int fd, bool *ret_gone, struct err *e)
{
    struct stat mine, there;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return err_set(e, ERR_INVAL, "another run is writing %.200s", path);
    /* who had the lock may have given the file its name in between */
    *ret_gone = fstat(fd, &mine) < 0 || stat(path, &there) < 0 || mine.st_ino != there.st_ino ||
                mine.st_dev != there.st_dev;
    if (!*ret_gone && (m->lock = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0)
        return err_set(e, ERR_IO, "cannot write %.200s: %s", path, strerror(errno));
    return 0;
}

static int open_file(struct emit *m, int i, const char *path, struct err *e)
{
    bool gone;
    int r;
    do {
        gone = false;
        m->fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
        if (m->fd < 0)
            return err_set(e, ERR_IO, "cannot write %.200s: %s", path, strerror(errno));
        r = i == 0 ? take_lock(m, path, m->fd, &gone, e) : 0;
        if (r == 0 && !gone && ftruncate(m->fd, 0) < 0)
            r = err_set(e, ERR_IO, "cannot write %.200s: %s", path, strerror(errno));
        if (r < 0 || gone)
            close(m->fd);
    } while (r == 0 && gone);
    return r;
}

static int write_file(struct emit *m, int i, struct err *e)
{
    char path[MAX_PATH_BYTES];
    temporary_path(m->o->path, i, m->p->n_parts, path, sizeof(path));
    int r = open_file(m, i, path, e);
    if (r < 0)
        return r;
    r = write_part(m, i, e);
    if (close(m->fd) < 0 && r == 0)
        r = err_set(e, ERR_IO, "writing %.200s: %s", path, strerror(errno));
    return r;
}

static int rename_all(struct emit *m, struct err *e)
{
    char from[MAX_PATH_BYTES], to[MAX_PATH_BYTES], folder[MAX_PATH_BYTES];
    for (int i = 0; i < m->p->n_parts; i++) {
        temporary_path(m->o->path, i, m->p->n_parts, from, sizeof(from));
        emit_part_path(m->o->path, i, m->p->n_parts, to, sizeof(to));
        if (rename(from, to) < 0)
            return err_set(e, ERR_IO, "cannot rename to %.200s: %s", to, strerror(errno));
    }
    folder_of(m->o->path, folder);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd); /* names; the data is on disk */
        close(fd);
    }
    return 0;
}

static void remove_all(struct emit *m)
{
    char path[MAX_PATH_BYTES];
    for (int i = 0; i < m->p->n_parts && m->lock >= 0; i++) { /* without it they are another run's */
        temporary_path(m->o->path, i, m->p->n_parts, path, sizeof(path));
        unlink(path);
    }
}

/* Space for the largest batch and, per thread, for the largest item. */
static int alloc_work(struct emit *m, struct err *e)
{
    size_t batch = EMIT_BATCH_BYTES, item = (size_t)ITEM_VALUES;
    const struct source *s = m->p->source;
    for (int i = 0; i < s->n_tensors; i++) {
        const struct source_tensor *t = &s->tensors[i];
        size_t values = (size_t)(source_unit(t) * t->ne[0]);
        size_t bytes = (size_t)source_unit(t) * tensor_row_bytes(m->p->tensors[i].type, t->ne[0]);
        item = values > item ? values : item;
        batch = bytes > batch ? bytes : batch;
    }
    m->sum = hash64_stream_new();
    m->out = malloc(batch);
    m->values = calloc((size_t)m->n_threads, sizeof(*m->values));
    m->tmp = calloc((size_t)m->n_threads, sizeof(*m->tmp));
    bool ok = m->sum && m->out && m->values && m->tmp;
    for (int i = 0; ok && i < m->n_threads; i++) {
        m->values[i] = malloc(item * sizeof(float));
        m->tmp[i] = malloc((size_t)source_tmp(s) * sizeof(float));
        ok = m->values[i] && m->tmp[i];
    }
    return ok ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

static void free_work(struct emit *m)
{
    for (int i = 0; i < m->n_threads; i++) {
        if (m->values)
            free(m->values[i]);
        if (m->tmp)
            free(m->tmp[i]);
    }
    free(m->values);
    free(m->tmp);
    free(m->out);
    hash64_stream_free(&m->sum);
    if (m->pool)
        pool_free(&m->pool);
}

int emit_run(const struct plan *p, const struct emit_options *o, struct err *e)
{
    struct emit m = {.p = p, .o = o, .n_threads = o->n_threads, .lock = -1,
                     .terminal = isatty(STDERR_FILENO)};
    struct sigaction act = {.sa_handler = on_signal}, old[3];
    static const int signals[3] = {SIGINT, SIGTERM, SIGHUP};
    int r = emit_check(p, o, e);
    if (r < 0)
        return r;
    stopped = 0;
    for (int i = 0; i < 3; i++)
        sigaction(signals[i], &act, &old[i]);
    r = pool_new(o->n_threads, 0, &m.pool, e);
    if (r == 0)
        r = alloc_work(&m, e);
    m.start_ns = m.shown_ns = clock_now_ns();
    for (int i = 0; i < p->n_parts && r == 0; i++)
        r = write_file(&m, i, e);
    if (r == 0)
        r = rename_all(&m, e);
    if (r < 0)
        remove_all(&m);
    else
        show(&m, true);
    if (m.lock >= 0)
        close(m.lock);
    free_work(&m);
    for (int i = 0; i < 3; i++)
        sigaction(signals[i], &old[i], NULL);
    return r;
}
