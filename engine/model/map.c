/* engine/model/map.c - read-only maps; see map.h. Any thread.
 *
 * Whoever shortens a mapped file while the daemon runs takes the pages away (SIGBUS): model files are
 * replaced by renaming, never rewritten in place. */
#include "config.h"

#include "engine/model/map.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define AHEAD_BYTES ((size_t)32 << 20)
#define FAULT_AROUND ((size_t)64 << 10)

void map__printable(const char *s, size_t n_bytes, char *dst, size_t dst_bytes)
{
    size_t n = n_bytes < dst_bytes - 1 ? n_bytes : dst_bytes - 1;
    for (size_t i = 0; i < n; i++)
        dst[i] = (unsigned char)s[i] < 0x20 || (unsigned char)s[i] > 0x7e ? '?' : s[i];
    dst[n] = 0;
    if (n < n_bytes && dst_bytes > 4)
        memcpy(dst + n - 3, "...", 3);
}

static void set_label(struct file_map *m, const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *base = slash && slash[1] ? slash + 1 : path;
    map__printable(base, strlen(base), m->label, sizeof(m->label));
}

int map__open(const char *path, size_t max_bytes, struct file_map *ret, struct err *e)
{
    struct file_map m = {.data = (const unsigned char *)""};
    struct stat st;
    int r = 0;
    set_label(&m, path);
    /* O_NONBLOCK: a FIFO must not hang the start */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(e, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "cannot open %.200s: %s", path,
                       strerror(errno));
    if (fstat(fd, &st) < 0) {
        r = err_set(e, ERR_IO, "cannot read %.200s: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        r = err_set(e, ERR_IO, "%.200s is not a regular file", path);
    } else if (max_bytes > 0 && (uint64_t)st.st_size > max_bytes) {
        r = err_set(e, ERR_LIMIT, "%s has %lld bytes; at most %zu are accepted", m.label,
                    (long long)st.st_size, max_bytes);
    } else if (st.st_size > 0) {
        m.n_bytes = (size_t)st.st_size;
        void *p = mmap(NULL, m.n_bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            r = err_set(e, ERR_IO, "cannot map %.200s: %s", path, strerror(errno));
        } else {
            m.data = p;
            m.owned = true;
        }
    }
    close(fd);
    if (r == 0)
        *ret = m;
    return r;
}

void map__close(struct file_map *m)
{
    if (m->owned)
        munmap((void *)(uintptr_t)m->data, m->n_bytes);
    *m = (struct file_map){0};
}

/* [*ret_from, *ret_to) in whole pages around the range. */
static bool pages(const struct file_map *m, const void *data, size_t n_bytes, size_t *ret_from,
                  size_t *ret_to)
{
    uintptr_t base = (uintptr_t)m->data, at = (uintptr_t)data;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (!m->owned || at < base || at - base >= m->n_bytes || n_bytes > m->n_bytes - (at - base))
        return false;
    *ret_from = (at - base) & ~(page - 1);
    *ret_to = (at - base + n_bytes + page - 1) & ~(page - 1);
    return true;
}

static void advise(const struct file_map *m, size_t from, size_t to, int what)
{
    if (from < to)
        (void)madvise((void *)((uintptr_t)m->data + from), to - from, what); /* a hint: may fail */
}

bool map__expect(const struct file_map *m, const void *data, size_t n_bytes)
{
    size_t from, to, n = m->n_bytes;
    if (!pages(m, data, n_bytes, &from, &to))
        return false;
    /* what comes after that far is read from the disk meanwhile */
    size_t ahead = to + AHEAD_BYTES - (to - from < AHEAD_BYTES ? to - from : AHEAD_BYTES);
    size_t end = to + AHEAD_BYTES < n ? to + AHEAD_BYTES : n;
    advise(m, ahead, end, MADV_WILLNEED);
#ifdef MADV_POPULATE_READ
    advise(m, from, to, MADV_POPULATE_READ); /* one call instead of many page faults */
#endif
    return true;
}

bool map__let_go(const struct file_map *m, const void *data, size_t n_bytes)
{
    size_t from, to;
    if (!pages(m, data, n_bytes, &from, &to))
        return false;
    /* a page fault maps its neighbours too, also those that were let go with the range before */
    from &= ~(FAULT_AROUND - 1);
    to = (to + FAULT_AROUND - 1) & ~(FAULT_AROUND - 1);
    advise(m, from, to < m->n_bytes ? to : m->n_bytes, MADV_DONTNEED);
    return true;
}
