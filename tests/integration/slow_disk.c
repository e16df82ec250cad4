/* tests/integration/slow_disk.c - loaded before the daemon (LD_PRELOAD): while the file SLOW_DISK_FLAG is
 * there, each read, write and sync of an SQLite file takes SLOW_DISK_MS milliseconds, as on a disk with a
 * full queue; while its name with ".full" behind it is there, writes find no space. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static int is_store(int fd)
{
    char link[40], path[512];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = 0;
    return strstr(path, ".sqlite") != NULL;
}

/* Is there no space, either? */
static int wait_for_disk(int fd)
{
    static const char *flag, *ms;
    char full[512];
    flag = flag ? flag : getenv("SLOW_DISK_FLAG");
    ms = ms ? ms : getenv("SLOW_DISK_MS");
    if (!flag || !ms || !is_store(fd))
        return 0;
    if (access(flag, F_OK) == 0) {
        struct timespec t = {atoi(ms) / 1000, atoi(ms) % 1000 * 1000000L};
        nanosleep(&t, NULL);
    }
    snprintf(full, sizeof(full), "%s.full", flag);
    return access(full, F_OK) == 0;
}

#define CALL(type, name, args, passed, writes)                        \
    type name args                                                    \
    {                                                                 \
        static __typeof__(&name) next;                                \
        if (!next)                                                    \
            next = (__typeof__(&name))dlsym(RTLD_NEXT, #name);        \
        if (wait_for_disk(fd) && (writes)) {                          \
            errno = ENOSPC;                                           \
            return -1;                                                \
        }                                                             \
        return next passed;                                           \
    }

CALL(ssize_t, pread, (int fd, void *dst, size_t n, off_t at), (fd, dst, n, at), 0)
CALL(ssize_t, pread64, (int fd, void *dst, size_t n, off64_t at), (fd, dst, n, at), 0)
CALL(ssize_t, pwrite, (int fd, const void *src, size_t n, off_t at), (fd, src, n, at), 1)
CALL(ssize_t, pwrite64, (int fd, const void *src, size_t n, off64_t at), (fd, src, n, at), 1)
CALL(int, fsync, (int fd), (fd), 1)
CALL(int, fdatasync, (int fd), (fd), 1)
CALL(int, ftruncate, (int fd, off_t n), (fd, n), 1)
CALL(int, ftruncate64, (int fd, off64_t n), (fd, n), 1)
