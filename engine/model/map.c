/* engine/model/map.c - files mapped read-only.
 *
 * Whoever shortens a mapped file while the daemon runs takes the pages away (SIGBUS): model files are
 * replaced by renaming, never rewritten in place. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/model/internal.h"

int map_open(const char *path, struct map *ret, struct err *e)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang the load */
    if (fd < 0)
        return err_set(e, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "%s: %s", path, strerror(errno));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(e, ERR_IO, "%s: not a regular file", path);
    }
    if (st.st_size == 0) {
        close(fd);
        return err_set(e, ERR_FORMAT, "%s: the file is empty", path);
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    int why = errno;
    close(fd);
    if (p == MAP_FAILED)
        return err_set(e, ERR_IO, "%s: cannot map: %s", path, strerror(why));
    char *copy = strdup(path);
    if (!copy) {
        munmap(p, (size_t)st.st_size);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    *ret = (struct map){copy, p, (size_t)st.st_size};
    return 0;
}

void map_close(struct map *m)
{
    if (m->data)
        munmap((void *)(uintptr_t)m->data, m->n_bytes);
    free(m->path);
    *m = (struct map){0};
}
