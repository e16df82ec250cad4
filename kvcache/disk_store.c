/* kvcache/disk_store.c - the folder of the disk tier: its lock, what a start finds in it, appending,
 * reading, and which file goes when the budget is used up. See disk.h.
 *
 * Only files called pages-NUMBER.kv (and .tmp of them) are ours to count and to delete. The newest one
 * is appended to until it has its size, a 32nd of the budget; the others do not change. A file's time is
 * when one of its pages was last used, and the least recently used file goes first: those of other models
 * in the same folder too, which are counted but not read. */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "kvcache/disk.h"

#define FILES_IN_BUDGET 32
#define MAX_FILES 65536
#define SCAN_RECORDS 256           /* heads read before others get a turn */
#define SCAN_TELL_NS (5 * NS_PER_SEC)
#define TOUCH_NS (60 * NS_PER_SEC) /* a file's time is this exact */
#define PATH_ROOM 4352

static int sys_open(void *arg, const char *path, int flags, mode_t mode)
{
    (void)arg;
    return open(path, flags | O_CLOEXEC, mode);
}

static ssize_t sys_pread(void *arg, int fd, void *p, size_t n, off_t at)
{
    (void)arg;
    return pread(fd, p, n, at);
}

static ssize_t sys_pwrite(void *arg, int fd, const void *p, size_t n, off_t at)
{
    (void)arg;
    return pwrite(fd, p, n, at);
}

static int sys_sync(void *arg, int fd)
{
    (void)arg;
    return fsync(fd);
}

static int sys_rename(void *arg, const char *from, const char *to)
{
    (void)arg;
    return rename(from, to);
}

const struct disk_io disk__system_io = {sys_open, sys_pread, sys_pwrite, sys_sync, sys_rename, NULL};

void disk__log(struct kv_disk *d, int level, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&d->tell);
    if (d->log && !d->left)
        d->log(d->log_arg, level, text);
    pthread_mutex_unlock(&d->tell);
}

static const char *path_of(const struct kv_disk *d, uint64_t number, const char *end, char *out)
{
    snprintf(out, PATH_ROOM, "%.4096s/pages-%016" PRIx64 ".%s", d->path, number, end);
    return out;
}

static int io_error(struct err *e, const char *what, const char *path)
{
    return err_set(e, ERR_IO, "cannot %s %.250s: %s", what, path, strerror(errno));
}

static ssize_t read_all(const struct kv_disk *d, int fd, void *to, size_t n, uint64_t at)
{
    size_t got = 0;
    while (got < n) {
        ssize_t r = d->io.pread(d->io.arg, fd, (char *)to + got, n - got, (off_t)(at + got));
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -1;
        if (r == 0)
            break;
        got += (size_t)r;
    }
    return (ssize_t)got;
}

static int write_all(const struct kv_disk *d, int fd, const void *from, size_t n, uint64_t at)
{
    size_t put = 0;
    while (put < n) {
        ssize_t r = d->io.pwrite(d->io.arg, fd, (const char *)from + put, n - put, (off_t)(at + put));
        if (r < 0 && errno == EINTR)
            continue;
        if (r == 0)
            errno = EIO;
        if (r <= 0)
            return -1;
        put += (size_t)r;
    }
    return 0;
}

/* --- segments: the array is guarded, fields that only the thread uses are not -------------------------- */

static uint64_t slot_at(const struct kv_disk *d, uint64_t slot)
{
    return DISK_FILE_HEADER + slot * d->layout.record_bytes;
}

static uint32_t segment_new(struct kv_disk *d, const struct disk_segment *s)
{
    uint32_t i = 0;
    while (i < d->n_segments && d->segments[i].live)
        i++;
    if (i == d->cap_segments) {
        uint32_t cap = i ? i * 2 : 64;
        struct disk_segment *more = i < MAX_FILES ? realloc(d->segments, cap * sizeof(*more)) : NULL;
        if (!more)
            return DISK_NONE;
        d->segments = more;
        d->cap_segments = cap;
    }
    d->n_segments += i == d->n_segments;
    d->segments[i] = *s;
    d->segments[i].live = true;
    d->segments[i].first_entry = DISK_NONE;
    d->stats.files++;
    d->stats.bytes += s->bytes;
    return i;
}

static void forget_entry(struct kv_disk *d, uint32_t entry)
{
    uint32_t *at = &d->segments[d->index.entries[entry].segment].first_entry;
    while (*at != entry)
        at = &d->index.entries[*at].next_in_segment;
    *at = d->index.entries[entry].next_in_segment;
    disk__index_remove(&d->index, entry);
}

static void segment_forget(struct kv_disk *d, uint32_t i)
{
    struct disk_segment *s = &d->segments[i];
    for (uint32_t e = s->first_entry, next; e != DISK_NONE; e = next) {
        next = d->index.entries[e].next_in_segment;
        disk__index_remove(&d->index, e);
    }
    d->stats.files--;
    d->stats.bytes -= s->bytes;
    d->stats.pages = d->index.n;
    s->live = false;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void close_active(struct kv_disk *d)
{
    close_fd(&d->active_fd);
    d->active = DISK_NONE;
    d->active_dirty = false;
}

static void stop_reading(struct kv_disk *d)
{
    close_fd(&d->read_fd);
    d->reading = DISK_NONE;
}

static bool file_delete(const struct kv_disk *d, uint32_t i)
{
    char path[PATH_ROOM];
    return unlink(path_of(d, d->segments[i].number, "kv", path)) == 0 || errno == ENOENT;
}

/* Its file is gone. */
static void segment_gone(struct kv_disk *d, uint32_t i)
{
    if (i == d->active)
        close_active(d);
    if (i == d->reading)
        stop_reading(d);
    pthread_mutex_lock(&d->lock);
    segment_forget(d, i);
    pthread_mutex_unlock(&d->lock);
}

/* False: its file stays, and counts. */
static bool segment_delete(struct kv_disk *d, uint32_t i)
{
    if (!file_delete(d, i))
        return false;
    segment_gone(d, i);
    return true;
}

/* The entry of a page in the index, unless there is one. Under the lock. */
static bool learn(struct kv_disk *d, struct hash128 hash, uint32_t segment, uint32_t slot)
{
    if (disk__index_find(&d->index, hash) != DISK_NONE)
        return true;
    uint32_t e = disk__index_add(&d->index, hash, segment, slot);
    if (e == DISK_NONE)
        return false;
    d->index.entries[e].next_in_segment = d->segments[segment].first_entry;
    d->segments[segment].first_entry = e;
    d->stats.pages = d->index.n;
    return true;
}

/* --- opening ---------------------------------------------------------------------------------------- */

static const char *lock_path(const struct kv_disk *d, char *out)
{
    snprintf(out, PATH_ROOM, "%.4096s/lock", d->path);
    return out;
}

bool disk__store_locked(const struct kv_disk *d)
{
    char path[PATH_ROOM];
    struct stat ours, there;
    return fstat(d->lock_fd, &ours) == 0 && stat(lock_path(d, path), &there) == 0 &&
           ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
}

static int lock_folder(struct kv_disk *d, struct err *e)
{
    char path[PATH_ROOM];
    if (mkdir(d->path, 0700) < 0 && errno != EEXIST)
        return io_error(e, "make the folder", d->path);
    lock_path(d, path);
    d->lock_fd = d->io.open(d->io.arg, path, O_RDWR | O_CREAT, 0600);
    if (d->lock_fd < 0)
        return io_error(e, "open", path);
    if (flock(d->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    int r = errno == EWOULDBLOCK
                ? err_set(e, ERR_BUSY, "%.250s belongs to another daemon that runs", d->path)
                : io_error(e, "lock", path);
    close_fd(&d->lock_fd);
    return r;
}

/* pages-NUMBER.END with 16 digits. */
static bool parse_name(const char *name, const char *end, uint64_t *ret)
{
    char back[64];
    uint64_t number;
    if (sscanf(name, "pages-%16" SCNx64, &number) != 1)
        return false;
    snprintf(back, sizeof(back), "pages-%016" PRIx64 ".%s", number, end);
    *ret = number;
    return !strcmp(name, back);
}

static int by_use(const void *a, const void *b, void *arg)
{
    const struct disk_segment *s = arg, *x = &s[*(const uint32_t *)a], *y = &s[*(const uint32_t *)b];
    if (x->used_ns != y->used_ns)
        return x->used_ns > y->used_ns ? -1 : 1;
    return x->number > y->number ? -1 : x->number < y->number;
}

static int list_folder(struct kv_disk *d, struct err *e)
{
    char path[PATH_ROOM];
    int64_t now = clock_wall_ns();
    struct dirent *f;
    DIR *dir = opendir(d->path);
    if (!dir)
        return io_error(e, "list", d->path);
    while ((f = readdir(dir))) {
        struct disk_segment s = {0};
        struct stat st;
        if (parse_name(f->d_name, "tmp", &s.number)) {
            unlink(path_of(d, s.number, "tmp", path)); /* of a start that came to its end too early */
            continue;
        }
        if (!parse_name(f->d_name, "kv", &s.number) ||
            stat(path_of(d, s.number, "kv", path), &st) < 0 || !S_ISREG(st.st_mode))
            continue;
        s.bytes = (uint64_t)st.st_size;
        /* of a clock that was ahead: it would outlast all that is used from now on */
        s.used_ns = st.st_mtim.tv_sec < now / NS_PER_SEC
                        ? st.st_mtim.tv_sec * NS_PER_SEC + st.st_mtim.tv_nsec : now;
        s.told_ns = s.used_ns;
        pthread_mutex_lock(&d->lock);
        uint32_t i = segment_new(d, &s);
        pthread_mutex_unlock(&d->lock);
        if (i == DISK_NONE) {
            closedir(dir);
            return err_set(e, ERR_LIMIT, "%.250s has more than %d files", d->path, MAX_FILES);
        }
        if (s.number >= d->next_number)
            d->next_number = s.number + 1;
    }
    closedir(dir);
    d->order = calloc(d->n_segments + 1, sizeof(*d->order));
    if (!d->order)
        return err_set(e, ERR_NOMEM, "out of memory for the index of the disk cache");
    for (d->n_order = 0; d->n_order < d->n_segments; d->n_order++)
        d->order[d->n_order] = d->n_order;
    qsort_r(d->order, d->n_order, sizeof(*d->order), by_use, d->segments);
    return 0;
}

int disk__store_open(struct kv_disk *d, struct err *e)
{
    d->next_number = 1;
    d->scan_at = d->scan_slot = 0;
    int r = lock_folder(d, e);
    if (r == 0)
        r = list_folder(d, e);
    if (r < 0)
        disk__store_close(d);
    d->scan_told_at = clock_now_ns() + SCAN_TELL_NS;
    return r;
}

void disk__store_close(struct kv_disk *d)
{
    close_active(d);
    stop_reading(d);
    close_fd(&d->lock_fd); /* and with it the lock */
    pthread_mutex_lock(&d->lock);
    for (uint32_t i = 0; i < d->n_segments; i++)
        if (d->segments[i].live)
            segment_forget(d, i);
    d->n_segments = 0;
    pthread_mutex_unlock(&d->lock);
    free(d->order);
    d->order = NULL;
    d->n_order = 0;
}

/* --- recovery --------------------------------------------------------------------------------------- */

/* Forgets what a file holds; it only waits for its eviction then. */
static void distrust(struct kv_disk *d, uint32_t i, bool error)
{
    struct disk_segment *s = &d->segments[i];
    if (i == d->active)
        close_active(d);
    if (i == d->reading)
        stop_reading(d);
    pthread_mutex_lock(&d->lock);
    d->stats.errors += error;
    s->ours = false;
    for (uint32_t e = s->first_entry, next; e != DISK_NONE; e = next) {
        next = d->index.entries[e].next_in_segment;
        disk__index_remove(&d->index, e);
    }
    s->first_entry = DISK_NONE;
    d->stats.pages = d->index.n;
    pthread_mutex_unlock(&d->lock);
}

/* Opens the file for reading and looks at its header, once for each time it becomes the one that is read. */
static int open_to_read(struct kv_disk *d, uint32_t i)
{
    unsigned char header[DISK_FILE_HEADER];
    struct disk_segment *s = &d->segments[i];
    char path[PATH_ROOM];
    const char *why = "it cannot be read";
    if (d->reading == i)
        return 0;
    stop_reading(d);
    d->read_fd = d->io.open(d->io.arg, path_of(d, s->number, "kv", path), O_RDONLY, 0);
    ssize_t n = d->read_fd < 0 ? -1 : read_all(d, d->read_fd, header, sizeof(header), 0);
    int r = n < 0 ? ERR_IO : disk__check_header(header, (size_t)n, &d->layout, s->number, &why);
    if (r == 0) {
        d->reading = i;
        return 0;
    }
    if (n < 0)
        why = strerror(errno);
    close_fd(&d->read_fd);
    disk__log(d, r == ERR_UNSUPPORTED ? LOG_LVL_INFO : LOG_LVL_WARN, "%s is not used: %s", path, why);
    distrust(d, i, r != ERR_UNSUPPORTED);
    return r;
}

/* One line for a file; what else is bad in it only counts. */
static void complain(struct kv_disk *d, uint32_t i, uint64_t slot, const char *why)
{
    char path[PATH_ROOM];
    struct disk_segment *s = &d->segments[i];
    pthread_mutex_lock(&d->lock);
    d->stats.errors++;
    pthread_mutex_unlock(&d->lock);
    if (!s->complained)
        disk__log(d, LOG_LVL_WARN, "page %" PRIu64 " of %s is not used: %s", slot,
                  path_of(d, s->number, "kv", path), why);
    s->complained = true;
}

static void tell_scan(struct kv_disk *d)
{
    if (clock_now_ns() < d->scan_told_at)
        return;
    d->scan_told_at = clock_now_ns() + SCAN_TELL_NS;
    disk__log(d, LOG_LVL_INFO, "looking through %s: %u of %u files, %llu pages so far", d->path, d->scan_at,
              d->n_order, (unsigned long long)d->stats.pages);
}

bool disk__store_scan(struct kv_disk *d)
{
    for (int n = 0; n < SCAN_RECORDS && d->scan_at < d->n_order; n++) {
        uint32_t i = d->order[d->scan_at];
        struct disk_segment *s = &d->segments[i];
        uint64_t slots = s->bytes < DISK_FILE_HEADER ? 0
                         : (s->bytes - DISK_FILE_HEADER) / d->layout.record_bytes;
        if (d->scan_slot == 0)
            s->ours = s->live;
        if (!s->live || open_to_read(d, i) < 0 || d->scan_slot >= slots) {
            d->scan_at++;
            d->scan_slot = 0;
            tell_scan(d);
            continue;
        }
        struct disk_key key;
        const char *why = "it cannot be read";
        uint64_t at = slot_at(d, d->scan_slot);
        ssize_t got = read_all(d, d->read_fd, d->record, d->layout.head_bytes, at);
        int r = got < (ssize_t)d->layout.head_bytes
                    ? ERR_IO
                    : disk__check_head(d->record, &d->layout, s->number, d->scan_slot, &key, &why);
        if (r < 0)
            complain(d, i, d->scan_slot, got < 0 ? strerror(errno) : why);
        pthread_mutex_lock(&d->lock);
        bool ok = r < 0 || learn(d, key.hash, i, d->scan_slot);
        pthread_mutex_unlock(&d->lock);
        s->n_slots = ++d->scan_slot;
        if (!ok) /* no memory for more: what is known serves */
            d->scan_at = d->n_order;
    }
    if (d->scan_at < d->n_order)
        return true;
    for (uint32_t i = 0; i < d->n_segments; i++) /* of ours, what holds nothing */
        if (d->segments[i].live && d->segments[i].ours && d->segments[i].first_entry == DISK_NONE)
            (void)segment_delete(d, i);
    free(d->order);
    d->order = NULL;
    d->n_order = 0;
    return false;
}

/* --- appending -------------------------------------------------------------------------------------- */

static uint32_t slots_of_file(const struct kv_disk *d)
{
    uint64_t n = d->max_bytes / FILES_IN_BUDGET / d->layout.record_bytes;
    return n < 1 ? 1 : n > UINT32_MAX - 1 ? UINT32_MAX - 1 : (uint32_t)n;
}

static uint32_t least_used(const struct kv_disk *d)
{
    uint32_t least = DISK_NONE;
    for (uint32_t i = 0; i < d->n_segments; i++)
        if (d->segments[i].live && i != d->active && !d->segments[i].stuck &&
            (least == DISK_NONE || d->segments[i].used_ns < d->segments[least].used_ns))
            least = i;
    return least;
}

static bool evict_file(struct kv_disk *d)
{
    char path[PATH_ROOM];
    for (;;) {
        pthread_mutex_lock(&d->lock);
        uint32_t least = least_used(d);
        pthread_mutex_unlock(&d->lock);
        if (least == DISK_NONE)
            return false;
        bool gone = segment_delete(d, least);
        int reason = errno;
        struct disk_segment *s = &d->segments[least];
        pthread_mutex_lock(&d->lock);
        d->stats.evicted_files += gone;
        d->stats.errors += !gone;
        pthread_mutex_unlock(&d->lock);
        if (gone)
            return true;
        s->stuck = true;
        if (!s->complained)
            disk__log(d, LOG_LVL_WARN, "%s cannot be deleted: %s", path_of(d, s->number, "kv", path),
                      strerror(reason));
        s->complained = true;
    }
}

/* The most recently used file of ours that is not full, to go on with it; what a crash left behind its last
 * whole record is cut off. */
static bool reopen_file(struct kv_disk *d)
{
    uint32_t best = DISK_NONE;
    char path[PATH_ROOM];
    for (uint32_t i = 0; i < d->n_segments; i++) {
        const struct disk_segment *s = &d->segments[i];
        if (s->live && s->ours && s->n_slots < slots_of_file(d) &&
            (best == DISK_NONE || s->number > d->segments[best].number))
            best = i;
    }
    if (best == DISK_NONE)
        return false;
    struct disk_segment *s = &d->segments[best];
    d->active_fd = d->io.open(d->io.arg, path_of(d, s->number, "kv", path), O_RDWR, 0);
    uint64_t end = slot_at(d, s->n_slots);
    if (d->active_fd < 0 || ftruncate(d->active_fd, (off_t)end) < 0) {
        close_fd(&d->active_fd);
        return false;
    }
    pthread_mutex_lock(&d->lock);
    d->stats.bytes -= s->bytes - end;
    s->bytes = end;
    pthread_mutex_unlock(&d->lock);
    d->active = best;
    return true;
}

static int new_file(struct kv_disk *d, struct err *e)
{
    unsigned char header[DISK_FILE_HEADER];
    char tmp[PATH_ROOM], path[PATH_ROOM];
    struct disk_segment s = {.number = d->next_number, .bytes = DISK_FILE_HEADER, .ours = true,
                             .used_ns = clock_wall_ns()};
    path_of(d, s.number, "tmp", tmp);
    path_of(d, s.number, "kv", path);
    disk__put_header(header, &d->layout, s.number);
    int fd = d->io.open(d->io.arg, tmp, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        return io_error(e, "make", tmp);
    if (write_all(d, fd, header, sizeof(header), 0) < 0 || d->io.sync(d->io.arg, fd) < 0 ||
        d->io.rename(d->io.arg, tmp, path) < 0) {
        io_error(e, "write", tmp);
        close(fd);
        unlink(tmp);
        return ERR_IO;
    }
    int dir = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) { /* the name; should it be lost, so is the file, and nothing worse */
        (void)fsync(dir);
        close(dir);
    }
    pthread_mutex_lock(&d->lock);
    uint32_t i = segment_new(d, &s);
    pthread_mutex_unlock(&d->lock);
    if (i == DISK_NONE) {
        close(fd);
        unlink(path);
        return err_set(e, ERR_NOMEM, "out of memory for the index of the disk cache");
    }
    d->next_number++;
    d->active = i;
    d->active_fd = fd;
    return 0;
}

int disk__store_write(struct kv_disk *d, unsigned char *record, struct hash128 hash, struct err *e)
{
    size_t n = d->layout.record_bytes;
    char path[PATH_ROOM];
    if (d->active != DISK_NONE && d->segments[d->active].n_slots >= slots_of_file(d)) {
        int r = disk__store_sync(d, e);
        close_active(d);
        if (r < 0)
            return r;
    }
    while (d->stats.bytes + n + DISK_FILE_HEADER > d->max_bytes)
        if (!evict_file(d)) {
            if (d->active == DISK_NONE)
                return d->stats.files ? err_set(e, ERR_IO, "no file in %.250s can be deleted", d->path)
                                      : err_set(e, ERR_LIMIT, "a page does not fit into cache_disk_size");
            close_active(d); /* and evict that */
        }
    if (d->active == DISK_NONE && !reopen_file(d)) {
        int r = new_file(d, e);
        if (r < 0)
            return r;
    }
    uint32_t slot = d->segments[d->active].n_slots;
    disk__finish_record(record, &d->layout, d->segments[d->active].number, slot);
    if (write_all(d, d->active_fd, record, n, slot_at(d, slot)) < 0) {
        io_error(e, "write", path_of(d, d->segments[d->active].number, "kv", path));
        if (ftruncate(d->active_fd, (off_t)slot_at(d, slot)) < 0)
            close_active(d); /* its end is not known any more, but each record stands alone */
        return ERR_IO;
    }
    d->active_dirty = true;
    pthread_mutex_lock(&d->lock);
    struct disk_segment *s = &d->segments[d->active];
    s->n_slots++;
    s->bytes += n;
    s->used_ns = s->told_ns = clock_wall_ns();
    d->stats.bytes += n;
    d->stats.writes++;
    bool ok = learn(d, hash, d->active, slot);
    pthread_mutex_unlock(&d->lock);
    return ok ? 0 : err_set(e, ERR_NOMEM, "out of memory for the index of the disk cache");
}

int disk__store_sync(struct kv_disk *d, struct err *e)
{
    char path[PATH_ROOM];
    if (!d->active_dirty)
        return 0;
    d->active_dirty = d->io.sync(d->io.arg, d->active_fd) < 0;
    if (!d->active_dirty)
        return 0;
    int r = io_error(e, "sync", path_of(d, d->segments[d->active].number, "kv", path));
    pthread_mutex_lock(&d->lock);
    d->sync_failures++; /* that the next one succeeds says nothing of what this one was for */
    pthread_mutex_unlock(&d->lock);
    return r;
}

/* --- reading ---------------------------------------------------------------------------------------- */

int disk__store_read(struct kv_disk *d, const struct disk_key *want, unsigned char *record)
{
    const char *why = "it is short";
    int64_t began = clock_now_ns();
    pthread_mutex_lock(&d->lock);
    uint32_t entry = disk__index_find(&d->index, want->hash);
    struct disk_entry at = entry == DISK_NONE ? (struct disk_entry){0} : d->index.entries[entry];
    pthread_mutex_unlock(&d->lock);
    if (entry == DISK_NONE || open_to_read(d, at.segment) < 0)
        return ERR_NOTFOUND;
    struct disk_segment *s = &d->segments[at.segment];
    ssize_t n = read_all(d, d->read_fd, record, d->layout.record_bytes, slot_at(d, at.slot));
    int r = n < (ssize_t)d->layout.record_bytes
                ? ERR_FORMAT
                : disk__check_record(record, &d->layout, s->number, at.slot, want, &why);
    if (n < (ssize_t)d->layout.record_bytes) { /* what else would be read from it? */
        complain(d, at.segment, at.slot, n < 0 ? strerror(errno) : why);
        distrust(d, at.segment, false);
        return ERR_NOTFOUND;
    }
    if (r < 0) {
        complain(d, at.segment, at.slot, why);
        pthread_mutex_lock(&d->lock);
        forget_entry(d, entry);
        d->stats.pages = d->index.n;
        pthread_mutex_unlock(&d->lock);
        return ERR_NOTFOUND;
    }
    int64_t took = clock_now_ns() - began;
    pthread_mutex_lock(&d->lock);
    s->used_ns = clock_wall_ns();
    d->stats.reads++;
    d->block_read_ns = d->block_read_ns ? d->block_read_ns + (took - d->block_read_ns) / 8 : took;
    pthread_mutex_unlock(&d->lock);
    return 0;
}

void disk__store_touch(struct kv_disk *d)
{
    char path[PATH_ROOM];
    for (uint32_t i = 0; i < d->n_segments; i++) {
        pthread_mutex_lock(&d->lock);
        struct disk_segment *s = &d->segments[i];
        s->stuck = false;
        int64_t used = s->live && s->used_ns - s->told_ns > TOUCH_NS ? s->used_ns : 0;
        if (used)
            s->told_ns = used;
        pthread_mutex_unlock(&d->lock);
        const struct timespec t = {used / NS_PER_SEC, used % NS_PER_SEC};
        if (used) /* only the order of eviction after the next start depends on it */
            (void)utimensat(AT_FDCWD, path_of(d, s->number, "kv", path), (struct timespec[]){t, t}, 0);
    }
}

bool disk__store_drop(struct kv_disk *d)
{
    bool gone = true;
    for (uint32_t i = 0; i < d->n_segments; i++) {
        if (d->segments[i].live && !file_delete(d, i)) { /* it counts still, and the next drop tries again */
            distrust(d, i, true);
            gone = false;
        } else if (d->segments[i].live) {
            segment_gone(d, i);
        }
    }
    d->scan_at = d->n_order;
    return gone;
}
