/* server/listener.c - where clients connect: addresses to sockets, and sockets to connections. */
#include "config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libgen.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/internal.h"

#define BACKLOG 511
#define HOST_BYTES 128
#define UNIX_BYTES sizeof(((struct sockaddr_un *)NULL)->sun_path)

static void name_of(const struct sockaddr *sa, char *dst, size_t n)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;
        uv_ip6_name(in6, host, sizeof(host));
        snprintf(dst, n, "[%s]:%d", host, ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;
        uv_ip4_name(in, host, sizeof(host));
        snprintf(dst, n, "%s:%d", host, ntohs(in->sin_port));
    }
}

static bool is_loopback(const struct sockaddr *sa)
{
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;
    const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;
    if (sa->sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
    return sa->sa_family == AF_INET && ntohl(in->sin_addr.s_addr) >> 24 == 127;
}

static void on_connection(uv_stream_t *st, int status);

/* libuv asks again at once, and does nothing else before the queue is empty: so descriptors must be found. */
static void refused(struct listener *l, int status)
{
    int64_t now = clock_now_ns();
    if (status == UV_EMFILE || status == UV_ENFILE)
        (void)crowd_make_room(l->s);
    metric_add(l->s->m_rejected, 1);
    if (now - l->told_ns < NS_PER_SEC)
        return;
    l->told_ns = now;
    LOG_WARN("http", "accept: %s", uv_strerror(status));
}

static void on_spare_closed(uv_handle_t *h)
{
    struct listener *l = h->data;
    bool asked = l->spare_asked;
    l->spare_used = l->spare_asked = false;
    if (asked && l->open)
        on_connection(&l->u.stream, 0);
}

/* libuv accepts nothing more before this one is taken. */
static void turn_away(struct listener *l)
{
    if (l->spare_used) {
        l->spare_asked = true;
        return;
    }
    l->spare_used = true;
    if (l->u.handle.type == UV_TCP)
        uv_tcp_init(&l->s->loop, &l->spare.tcp);
    else
        uv_pipe_init(&l->s->loop, &l->spare.pipe, 0);
    l->spare.handle.data = l;
    if (uv_accept(&l->u.stream, &l->spare.stream) == 0)
        metric_add(l->s->m_rejected, 1);
    uv_close(&l->spare.handle, on_spare_closed);
}

static void on_connection(uv_stream_t *st, int status)
{
    struct listener *l = st->data;
    if (status < 0) {
        refused(l, status);
        return;
    }
    struct conn *c = conn_new(l->s, st->type);
    if (!c) {
        turn_away(l);
        return;
    }
    if (uv_accept(st, &c->u.stream) < 0) {
        conn_close(c);
        return;
    }
    if (st->type == UV_TCP) {
        struct sockaddr_storage sa;
        int n = sizeof(sa);
        uv_tcp_nodelay(&c->u.tcp, 1);
        if (uv_tcp_getpeername(&c->u.tcp, (struct sockaddr *)&sa, &n) == 0)
            name_of((struct sockaddr *)&sa, c->peer, sizeof(c->peer));
    } else {
        snprintf(c->peer, sizeof(c->peer), "unix");
    }
    conn_start(c, l);
    server_let_tokens_through(l->s);
}

/* One more, which is spoken to as `like` says. NULL: there are too many. */
static struct listener *add(const struct listener *like, struct err *e)
{
    struct server *s = like->s;
    if (s->n_listeners == MAX_LISTENERS) {
        err_set_param(e, ERR_LIMIT, "listen", "listen: at most %d addresses", MAX_LISTENERS);
        return NULL;
    }
    struct listener *l = &s->listeners[s->n_listeners++];
    *l = *like;
    l->u.handle.data = l;
    return l;
}

static void announce(const struct listener *l, const char *kind, const char *name)
{
    LOG_INFO("http", "listening on %s%s%s%s", kind, name, l->tls ? " with TLS" : "",
             l->proxy ? " behind a proxy" : "");
}

static void announce_tcp(struct listener *l)
{
    struct sockaddr_storage sa;
    int bytes = sizeof(sa);
    char name[80] = "?";
    if (uv_tcp_getsockname(&l->u.tcp, (struct sockaddr *)&sa, &bytes) == 0)
        name_of((struct sockaddr *)&sa, name, sizeof(name));
    announce(l, "", name);
    if (!l->s->keyring->required && !is_loopback((struct sockaddr *)&sa))
        LOG_WARN("access",
                 "%s is reached from other machines, and no key is needed: set api_keys_file or api_key",
                 name);
}

static bool is_repeated(const struct addrinfo *all, const struct addrinfo *a)
{
    for (; all != a; all = all->ai_next)
        if (all->ai_addrlen == a->ai_addrlen && !memcmp(all->ai_addr, a->ai_addr, a->ai_addrlen))
            return true;
    return false;
}

/* This machine has no such address. */
static bool is_elsewhere(int r)
{
    return r == UV_EADDRNOTAVAIL || r == UV_EAFNOSUPPORT;
}

/* The addresses of a name, all of them: clients take one or the other. Those that this machine has not are
 * passed over where it has another; port 0 is a port of the first only. */
static int open_found(const struct listener *like, const struct addrinfo *all, bool any_port,
                      const char *name, struct err *e)
{
    bool several = all->ai_next, opened = false;
    int r = 0;
    for (const struct addrinfo *a = all; a; a = a->ai_next) {
        const struct sockaddr *sa = a->ai_addr;
        if (is_repeated(all, a))
            continue;
        struct listener *l = add(like, e);
        if (!l)
            return ERR_LIMIT;
        uv_tcp_init(&l->s->loop, &l->u.tcp);
        l->open = true;
        r = uv_tcp_bind(&l->u.tcp, sa, several && sa->sa_family == AF_INET6 ? UV_TCP_IPV6ONLY : 0);
        if (r == 0)
            r = uv_listen(&l->u.stream, BACKLOG, on_connection);
        if (r < 0 && !is_elsewhere(r))
            break;
        if (r < 0)
            continue;
        announce_tcp(l);
        if (any_port)
            return 0;
        opened = true;
    }
    if (r == 0 || (opened && is_elsewhere(r)))
        return 0;
    return err_set_param(e, ERR_IO, "listen", "listen: %.100s: %s", name, uv_strerror(r));
}

/* ADDR:PORT or [ADDR]:PORT in its parts. */
static int split_tcp(const char *address, char host[HOST_BYTES], const char **ret_port, struct err *e)
{
    const char *colon = strrchr(address, ':');
    char *end = NULL;
    long port = colon ? strtol(colon + 1, &end, 10) : -1;
    size_t n = colon ? (size_t)(colon - address) : 0;
    const char *at = address;
    if (!colon || !colon[1] || *end || port < 0 || port > 65535 || n >= HOST_BYTES)
        return err_set_param(e, ERR_INVAL, "listen",
                             "listen: \"%.100s\" is not ADDR:PORT, [ADDR]:PORT or unix:PATH, with tls: or "
                             "proxy: before it or not",
                             address);
    if (n >= 2 && at[0] == '[' && at[n - 1] == ']') {
        at++;
        n -= 2;
    }
    memcpy(host, at, n);
    host[n] = 0;
    *ret_port = colon + 1;
    return 0;
}

static int open_tcp(const struct listener *like, const char *address, struct err *e)
{
    char host[HOST_BYTES];
    const char *port;
    int r = split_tcp(address, host, &port, e);
    if (r < 0)
        return r;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    r = getaddrinfo(*host && strcmp(host, "*") != 0 ? host : NULL, port, &hints, &found);
    if (r)
        return err_set_param(e, ERR_INVAL, "listen", "listen: %.100s: %s", address, gai_strerror(r));
    r = open_found(like, found, atoi(port) == 0, address, e);
    freeaddrinfo(found);
    return r;
}

/* A socket that a killed daemon left behind is removed; one that somebody answers on is not. */
static int remove_stale(const char *path, struct err *e)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct stat st;
    if (lstat(path, &st) < 0)
        return 0; /* bind tells what is wrong */
    if (!S_ISSOCK(st.st_mode))
        return err_set_param(e, ERR_INVAL, "listen", "listen: %.100s exists and is no socket", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set_param(e, ERR_IO, "listen", "listen: socket: %s", strerror(errno));
    memcpy(sa.sun_path, path, strlen(path) + 1);
    /* only a refusal proves that nobody is there: EACCES, for one, does not */
    int r = connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 ? 0 : errno;
    close(fd);
    if (r == 0 || r == EAGAIN)
        return err_set_param(e, ERR_IO, "listen", "listen: %.100s: another process serves there", path);
    if (r != ECONNREFUSED && r != ENOENT)
        return err_set_param(e, ERR_IO, "listen", "listen: %.100s: %s", path, strerror(r));
    unlink(path);
    return 0;
}

static int check_unix(const char *path, struct err *e)
{
    if (!*path || strlen(path) >= UNIX_BYTES)
        return err_set_param(e, ERR_INVAL, "listen",
                             "listen: the path of a Unix socket has 1 to %zu bytes", UNIX_BYTES - 1);
    return 0;
}

/* libuv calls it a matter of permissions when the folder is not there. */
static int bind_unix(uv_pipe_t *pipe, const char *path)
{
    char copy[UNIX_BYTES];
    int r = uv_pipe_bind(pipe, path);
    snprintf(copy, sizeof(copy), "%s", path);
    return r == UV_EACCES && access(dirname(copy), F_OK) < 0 && errno == ENOENT ? UV_ENOENT : r;
}

static int open_unix(const struct listener *like, const char *path, struct err *e)
{
    struct listener *l = add(like, e);
    int r = l ? check_unix(path, e) : ERR_LIMIT;
    if (r == 0)
        r = remove_stale(path, e);
    if (r < 0)
        return r;
    uv_pipe_init(&l->s->loop, &l->u.pipe, 0);
    l->open = true;
    /* narrow from the start: nobody may slip in between bind and chmod */
    mode_t mask = umask(0777 & ~(mode_t)l->s->cfg->socket_mode);
    r = bind_unix(&l->u.pipe, path);
    umask(mask);
    if (r == 0)
        snprintf(l->path, sizeof(l->path), "%s", path);
    if (r == 0)
        r = uv_listen(&l->u.stream, BACKLOG, on_connection);
    if (r < 0)
        return err_set_param(e, ERR_IO, "listen", "listen: %.100s: %s", path, uv_strerror(r));
    announce(l, "unix:", path);
    return 0;
}

/* What stands before an address says how it is spoken to. */
static char *take_marks(char *address, struct listener *l)
{
    for (;;) {
        if (!strncmp(address, "tls:", 4) && !l->tls) {
            l->tls = true;
            address += 4;
        } else if (!strncmp(address, "proxy:", 6) && !l->proxy) {
            l->proxy = true;
            address += 6;
        } else {
            return address;
        }
    }
}

bool listen_has_tls(const char *list)
{
    for (const char *at = strstr(list, "tls:"); at; at = strstr(at + 1, "tls:"))
        if (at == list || strchr(", \t:", at[-1]))
            return true;
    return false;
}

bool listeners_have_tls(const struct server *s)
{
    for (int i = 0; i < s->n_listeners; i++)
        if (s->listeners[i].tls)
            return true;
    return false;
}

/* The service manager keeps the socket, and its queue of connections, when we end; so they wait there, too,
 * until the model is loaded. */
static int adopt(struct listener *l, const struct passed_socket *p, struct err *e)
{
    if (l->tls && !l->s->tls) {
        close(p->fd);
        return err_set_param(e, ERR_INVAL, "tls_cert",
                             "tls_cert: a socket of the service manager is named tls");
    }
    int r = p->is_unix ? uv_pipe_init(&l->s->loop, &l->u.pipe, 0) : uv_tcp_init(&l->s->loop, &l->u.tcp);
    l->open = r == 0;
    if (r == 0)
        r = p->is_unix ? uv_pipe_open(&l->u.pipe, p->fd) : uv_tcp_open(&l->u.tcp, p->fd);
    if (r < 0) {
        close(p->fd);
        return err_set(e, ERR_IO, "a socket of the service manager: %s", uv_strerror(r));
    }
    l->waits = true;
    if (p->is_unix)
        LOG_INFO("http", "listening on a Unix socket of the service manager");
    else
        announce_tcp(l);
    return 0;
}

static int adopt_all(struct server *s, struct err *e)
{
    struct passed_socket passed[MAX_LISTENERS];
    int n = systemd_sockets(passed, MAX_LISTENERS, e), r = 0;
    for (int i = 0; i < n; i++) {
        struct listener like = {.s = s, .tls = passed[i].tls, .proxy = passed[i].proxy};
        if (r < 0)
            close(passed[i].fd);
        else
            r = adopt(add(&like, e), &passed[i], e);
    }
    return n < 0 ? n : r < 0 ? r : n;
}

/* The addresses of a list, one after the other, without their marks, which are in `like`. */
static int each_address(const char *addresses, struct server *s,
                        int (*fn)(const struct listener *like, const char *address, struct err *e),
                        struct err *e)
{
    char *list = strdup(addresses), *save = NULL;
    int n = 0, r = list ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    char *a = list ? strtok_r(list, ", \t", &save) : NULL;
    for (; a && r == 0; a = strtok_r(NULL, ", \t", &save), n++) {
        struct listener like = {.s = s};
        a = take_marks(a, &like);
        r = fn(&like, a, e);
    }
    free(list);
    return r == 0 && n == 0 ? err_set_param(e, ERR_INVAL, "listen", "listen: no address is given") : r;
}

static int check_address(const struct listener *like, const char *address, struct err *e)
{
    char host[HOST_BYTES];
    const char *port;
    (void)like;
    return !strncmp(address, "unix:", 5) ? check_unix(address + 5, e) : split_tcp(address, host, &port, e);
}

static int open_address(const struct listener *like, const char *address, struct err *e)
{
    return !strncmp(address, "unix:", 5) ? open_unix(like, address + 5, e) : open_tcp(like, address, e);
}

int listen_check(const char *addresses, struct err *e)
{
    return each_address(addresses, NULL, check_address, e);
}

int listeners_open(struct server *s, struct err *e)
{
    int adopted = adopt_all(s, e);
    if (adopted != 0)
        return adopted < 0 ? adopted : 0;
    return each_address(s->cfg->listen, s, open_address, e);
}

void listeners_start(struct server *s)
{
    for (int i = 0; i < s->n_listeners; i++) {
        struct listener *l = &s->listeners[i];
        int r = l->waits && l->open ? uv_listen(&l->u.stream, BACKLOG, on_connection) : 0;
        l->waits = false;
        if (r < 0)
            LOG_ERROR("http", "a socket of the service manager: %s", uv_strerror(r));
    }
}

void listeners_close(struct server *s)
{
    for (int i = 0; i < s->n_listeners; i++) {
        struct listener *l = &s->listeners[i];
        if (!l->open)
            continue;
        l->open = false;
        if (l->path[0])
            unlink(l->path);
        uv_close(&l->u.handle, NULL);
    }
}
