/* server/pins.c - cache_pin_files: prefixes that are computed and pinned once the model is loaded, one
 * file after the other, while requests are served already.
 *
 * Which files there are is settled at the start, where a mistake is told before a model is read; each is read
 * when its turn comes. What then goes wrong with one is logged, and the next is taken. */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "server/internal.h"

#define MAX_PIN_FILES 256

struct pins {
    char *paths[MAX_PIN_FILES];
    int n, at, n_pinned;
    uv_timer_t next; /* the API must not be called from where it answers */
    struct api_exchange *running;
};

static int fail(const char *path, const char *why, struct err *e)
{
    return err_set_param(e, ERR_IO, "cache_pin_files", "cache_pin_files: %.200s: %s", path, why);
}

static int add_file(struct pins *p, const char *path, struct err *e)
{
    if (p->n == MAX_PIN_FILES)
        return fail(path, "more than 256 files", e);
    if (access(path, R_OK) < 0)
        return fail(path, strerror(errno), e);
    p->paths[p->n] = strdup(path);
    return p->paths[p->n++] ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

static int visible(const struct dirent *d)
{
    return *d->d_name != '.';
}

/* In the order of their names, so that which come first, where there is not room for all, can be chosen. */
static int add_folder(struct pins *p, const char *path, struct err *e)
{
    struct dirent **names;
    int n = scandir(path, &names, visible, alphasort), r = 0;
    if (n < 0)
        return fail(path, strerror(errno), e);
    for (int i = 0; i < n; i++) {
        char file[4352];
        struct stat st;
        snprintf(file, sizeof(file), "%.4000s/%s", path, names[i]->d_name);
        if (r == 0 && stat(file, &st) == 0 && S_ISREG(st.st_mode))
            r = add_file(p, file, e);
        free(names[i]);
    }
    free(names);
    return r;
}

static int add_all(struct pins *p, char *list, struct err *e)
{
    char *save, *path;
    int r = 0;
    for (path = strtok_r(list, ",", &save); path && r == 0; path = strtok_r(NULL, ",", &save)) {
        struct stat st;
        path += strspn(path, " \t");
        for (size_t k = strlen(path); k && strchr(" \t", path[k - 1]); k--)
            path[k - 1] = 0;
        if (*path)
            r = stat(path, &st) < 0       ? fail(path, strerror(errno), e)
                : S_ISDIR(st.st_mode) ? add_folder(p, path, e)
                                      : add_file(p, path, e);
    }
    return r;
}

int pins_open(struct server *s, struct err *e)
{
    if (!*s->cfg->cache_pin_files)
        return 0;
    s->pins = calloc(1, sizeof(*s->pins));
    char *list = strdup(s->cfg->cache_pin_files);
    int r = s->pins && list ? add_all(s->pins, list, e) : err_set(e, ERR_NOMEM, "out of memory");
    free(list);
    if (s->pins) {
        uv_timer_init(&s->loop, &s->pins->next);
        s->pins->next.data = s;
    }
    return r;
}

static void on_next(uv_timer_t *t);

static void later(struct server *s)
{
    if (!s->stopping)
        uv_timer_start(&s->pins->next, on_next, 0, 0);
}

static void on_pinned(void *arg, const struct api_pin_result *r)
{
    struct server *s = arg;
    struct pins *p = s->pins;
    const char *path = p->paths[p->at++];
    p->running = NULL;
    if (r->error) {
        LOG_WARN("cache", "%s is not pinned: %s", path, r->error);
    } else {
        p->n_pinned++;
        LOG_INFO("cache", "pinned %d of %d: %s, %d of %d tokens", p->at, p->n, path, r->pinned_tokens,
                 r->prompt_tokens);
    }
    later(s);
}

static int read_file(const char *path, struct buf *ret)
{
    char piece[16384];
    size_t n;
    FILE *f = fopen(path, "re");
    int r = f ? 0 : -1;
    while (r == 0 && (n = fread(piece, 1, sizeof(piece), f)) > 0)
        r = buf_append(ret, piece, n);
    if (r == 0 && ferror(f))
        r = -1;
    if (r < 0)
        LOG_WARN("cache", "%s is not pinned: %s", path,
                 r == ERR_LIMIT ? "it is larger than max_body_size" : strerror(errno));
    if (r == 0 && ret->n_bytes && memchr(ret->data, 0, ret->n_bytes)) {
        LOG_WARN("cache", "%s is not pinned: it has NUL bytes", path);
        r = -1;
    }
    if (f)
        fclose(f);
    return r;
}

static void on_next(uv_timer_t *t)
{
    struct server *s = t->data;
    struct pins *p = s->pins;
    struct buf text;
    if (p->at == p->n || s->draining) {
        if (p->n_pinned < p->n)
            LOG_WARN("cache", "%d of %d files of cache_pin_files are pinned", p->n_pinned, p->n);
        return;
    }
    const char *path = p->paths[p->at];
    size_t n = strlen(path);
    buf_init(&text, (size_t)s->cfg->max_body_size);
    if (read_file(path, &text) < 0) {
        p->at++;
        later(s);
    } else {
        int at = p->at;
        struct api_exchange *x = api_pin(s->api, text.data ? text.data : "", text.n_bytes,
                                         n > 5 && !strcmp(path + n - 5, ".json"), on_pinned, s);
        if (p->at == at) /* else it has ended already */
            p->running = x;
    }
    buf_done(&text);
}

void pins_start(struct server *s)
{
    if (s->pins && s->pins->n)
        later(s);
}

void pins_close(struct server *s)
{
    if (!s->pins)
        return;
    if (s->pins->running)
        api_exchange_gone(s->pins->running);
    uv_close((uv_handle_t *)&s->pins->next, NULL);
}

void pins_free(struct server *s)
{
    for (int i = 0; s->pins && i < s->pins->n; i++)
        free(s->pins->paths[i]);
    free(s->pins);
    s->pins = NULL;
}
