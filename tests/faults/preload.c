/* tests/faults/preload.c - loaded before the daemon (LD_PRELOAD): the nth allocation, thread, read or write
 * fails.
 *
 * The test arms it through a file that both have mapped (FAULT_CONTROL): `countdown` n lets n - 1 calls of
 * the kinds in `kinds` pass and fails the nth, and `sticky` more after it. Calls are counted on all threads.
 * It also counts the blocks that live, so that a leak shows. Allocations of the C library by its own names;
 * nothing of this is in the product. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum kind {
    KIND_ALLOC = 1,
    KIND_THREAD = 2,
    KIND_READ = 4,
    KIND_WRITE = 8,
    KIND_OPEN = 16,
    KIND_ACCEPT = 32,
};

struct control {
    _Atomic int64_t countdown; /* 0: nothing fails */
    _Atomic int64_t kinds, sticky;
    _Atomic int64_t seen, failed; /* calls of these kinds since the test set it to 0, and those that failed */
    _Atomic int64_t blocks;       /* allocated and not freed */
};

static struct control none, *control = &none;

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);
extern void __libc_free(void *p);

__attribute__((constructor)) static void map_control(void)
{
    const char *path = getenv("FAULT_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *p = MAP_FAILED;
    if (fd >= 0)
        p = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (p != MAP_FAILED)
        control = p;
}

static int fails(enum kind kind)
{
    if (!(atomic_load_explicit(&control->kinds, memory_order_relaxed) & kind))
        return 0;
    atomic_fetch_add(&control->seen, 1);
    if (atomic_load(&control->countdown) <= 0)
        return 0;
    int64_t left = atomic_fetch_sub(&control->countdown, 1);
    if (left > 1 || left < 1)
        return 0;
    if (atomic_load(&control->sticky) > 0) {
        atomic_fetch_sub(&control->sticky, 1);
        atomic_store(&control->countdown, 1);
    }
    atomic_fetch_add(&control->failed, 1);
    return 1;
}

static void *counted(void *p)
{
    if (p)
        atomic_fetch_add_explicit(&control->blocks, 1, memory_order_relaxed);
    else
        errno = ENOMEM;
    return p;
}

/* --- memory ---------------------------------------------------------------------------------------- */

void *malloc(size_t n)
{
    return counted(fails(KIND_ALLOC) ? NULL : __libc_malloc(n));
}

void *calloc(size_t n, size_t size)
{
    return counted(fails(KIND_ALLOC) ? NULL : __libc_calloc(n, size));
}

void *realloc(void *p, size_t n)
{
    if (!p)
        return malloc(n);
    if (n && fails(KIND_ALLOC)) {
        errno = ENOMEM;
        return NULL;
    }
    void *q = __libc_realloc(p, n);
    if (!q && n == 0)
        atomic_fetch_sub_explicit(&control->blocks, 1, memory_order_relaxed);
    return q;
}

int posix_memalign(void **ret, size_t align, size_t n)
{
    void *p = counted(fails(KIND_ALLOC) ? NULL : __libc_memalign(align, n));
    if (!p)
        return ENOMEM;
    *ret = p;
    return 0;
}

void *aligned_alloc(size_t align, size_t n)
{
    return counted(fails(KIND_ALLOC) ? NULL : __libc_memalign(align, n));
}

void *memalign(size_t align, size_t n)
{
    return aligned_alloc(align, n);
}

void free(void *p)
{
    if (p)
        atomic_fetch_sub_explicit(&control->blocks, 1, memory_order_relaxed);
    __libc_free(p);
}

/* --- what the system may refuse ------------------------------------------------------------------------ */

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    static __typeof__(&mmap) next;
    if (!next)
        next = NEXT(mmap);
    if ((flags & MAP_ANONYMOUS) && fails(KIND_ALLOC)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return next(at, n, prot, flags, fd, offset);
}

int pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    static __typeof__(&pthread_create) next;
    if (!next)
        next = NEXT(pthread_create);
    return fails(KIND_THREAD) ? EAGAIN : next(t, attr, run, arg);
}

static int is_file(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

#define FILE_CALL(kind, code, fd, call) \
    do { \
        if (is_file(fd) && fails(kind)) { \
            errno = code; \
            return -1; \
        } \
        return call; \
    } while (0)

ssize_t read(int fd, void *dst, size_t n)
{
    static __typeof__(&read) next;
    if (!next)
        next = NEXT(read);
    FILE_CALL(KIND_READ, EIO, fd, next(fd, dst, n));
}

ssize_t pread(int fd, void *dst, size_t n, off_t at)
{
    static __typeof__(&pread) next;
    if (!next)
        next = NEXT(pread);
    FILE_CALL(KIND_READ, EIO, fd, next(fd, dst, n, at));
}

ssize_t pread64(int fd, void *dst, size_t n, off_t at)
{
    return pread(fd, dst, n, at);
}

ssize_t write(int fd, const void *src, size_t n)
{
    static __typeof__(&write) next;
    if (!next)
        next = NEXT(write);
    FILE_CALL(KIND_WRITE, ENOSPC, fd, next(fd, src, n));
}

ssize_t pwrite(int fd, const void *src, size_t n, off_t at)
{
    static __typeof__(&pwrite) next;
    if (!next)
        next = NEXT(pwrite);
    FILE_CALL(KIND_WRITE, ENOSPC, fd, next(fd, src, n, at));
}

ssize_t pwrite64(int fd, const void *src, size_t n, off_t at)
{
    return pwrite(fd, src, n, at);
}

int fsync(int fd)
{
    static __typeof__(&fsync) next;
    if (!next)
        next = NEXT(fsync);
    FILE_CALL(KIND_WRITE, EIO, fd, next(fd));
}

int fdatasync(int fd)
{
    static __typeof__(&fdatasync) next;
    if (!next)
        next = NEXT(fdatasync);
    FILE_CALL(KIND_WRITE, EIO, fd, next(fd));
}

int ftruncate(int fd, off_t n)
{
    static __typeof__(&ftruncate) next;
    if (!next)
        next = NEXT(ftruncate);
    FILE_CALL(KIND_WRITE, ENOSPC, fd, next(fd, n));
}

int accept4(int fd, struct sockaddr *sa, socklen_t *n, int flags)
{
    static __typeof__(&accept4) next;
    if (!next)
        next = NEXT(accept4);
    if (fails(KIND_ACCEPT)) {
        errno = EMFILE;
        return -1;
    }
    return next(fd, sa, n, flags);
}

int openat(int dir, const char *path, int flags, ...)
{
    static int (*next)(int, const char *, int, ...);
    __builtin_va_list ap;
    __builtin_va_start(ap, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? __builtin_va_arg(ap, mode_t) : 0;
    __builtin_va_end(ap);
    if (!next)
        next = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat");
    if (fails(KIND_OPEN)) {
        errno = ENFILE;
        return -1;
    }
    return next(dir, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    static int (*next)(const char *, int, ...);
    __builtin_va_list ap;
    __builtin_va_start(ap, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? __builtin_va_arg(ap, mode_t) : 0;
    __builtin_va_end(ap);
    if (!next)
        next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    if (fails(KIND_OPEN)) {
        errno = ENFILE;
        return -1;
    }
    return next(path, flags, mode);
}
