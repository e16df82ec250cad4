/* tests/fuzz/fuzz_http.c - bytes of a client through a real connection: sockets, loop, parser, keys, CORS,
 * answers. The API behind it is a stand-in that answers by the path, whole or as a stream.
 *
 * The first byte sets the connection: bit 0 a key is needed, bit 1 the PROXY protocol, bit 2 CORS for all.
 * The second says in how large pieces the rest is sent. An input is served when all got 2xx. */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/internal.h"
#include "server/limits.h"
#include "tests/fuzz/fuzz.h"

#define OUTPUT_MAX (1u << 20)

static struct server server;
static int n_requests; /* that reached the API */

/* --- what lies behind the connection -------------------------------------------------------------- */

bool api_owns_path(const char *path)
{
    return !strncmp(path, "/v1/", 4);
}

const char *api_route(const char *path, enum http_method method)
{
    (void)method;
    return api_owns_path(path) ? "/v1/{anything}" : NULL;
}

struct api_exchange *api_handle(struct api *a, const struct api_request *req, const struct api_reply_ops *ops,
                                void *reply)
{
    static const struct api_log_facts facts = {
        .prompt_tokens = 3, .cached_tokens = 1, .completion_tokens = 2, .ttft_ns = 1000, .finish = "stop"};
    const struct api_header type = {"Content-Type", "text/plain"};
    struct err e = {0};
    (void)a;
    n_requests++;
    FUZZ_CHECK(strlen(req->path) > 0 && req->query && req->request_id[0]);
    FUZZ_CHECK(req->body[req->body_bytes] == 0 || req->body_bytes == 0);
    bool stream = strstr(req->path, "stream") != NULL;
    int status = access_admit(reply, (long long)req->body_bytes, &e) ? 429 : 200;
    ops->begin(reply, status, &type, 1, stream ? -1 : (int64_t)req->body_bytes);
    for (size_t at = 0; at < req->body_bytes; at += 100)
        ops->write(reply, req->body + at, req->body_bytes - at < 100 ? req->body_bytes - at : 100);
    ops->end(reply, &facts);
    return NULL;
}

int api_error_body(int status, const char *path, const char *message, struct buf *out)
{
    (void)path;
    return buf_printf(out, "{\"error\":%d,\"message\":\"%.100s\"}", status, message);
}

void api_exchange_writable(struct api_exchange *x)
{
    (void)x;
}

void api_exchange_gone(struct api_exchange *x)
{
    (void)x;
}

bool api_exchange_leave(struct api_exchange *x, const struct api_reply_ops *ops, void *reply)
{
    (void)x, (void)ops, (void)reply;
    return false;
}

void api_exchange_facts(const struct api_exchange *x, struct api_log_facts *facts)
{
    (void)x;
    (void)facts;
}

enum engine_state engine_state(const struct engine *e)
{
    (void)e;
    return ENGINE_READY;
}

float engine_load_progress(const struct engine *e)
{
    (void)e;
    return 1;
}

int64_t engine_step_age_ns(const struct engine *e)
{
    (void)e;
    return 0;
}

void engine_counts_read(const struct engine *e, struct engine_counts *ret)
{
    (void)e;
    *ret = (struct engine_counts){0};
}

const struct engine_info *engine_info(const struct engine *e)
{
    static const struct engine_info info = {.model_id = "m"};
    (void)e;
    return &info;
}

void server_let_tokens_through(struct server *s)
{
    (void)s;
}

void server_check_drained(struct server *s)
{
    (void)s;
}

/* --- one connection ------------------------------------------------------------------------------- */

static void start(void)
{
    static struct server_config cfg;
    struct err e = {0};
    if (server.cfg)
        return;
    server.cfg = &cfg;
    FUZZ_CHECK(config_init(&cfg) == 0 && config_set(&cfg, "access_log", "false", &e) == 0);
    FUZZ_CHECK(config_set(&cfg, "max_header_size", "1K", &e) == 0 &&
               config_set(&cfg, "max_uri_size", "200", &e) == 0);
    FUZZ_CHECK(config_set(&cfg, "max_body_size", "2K", &e) == 0 &&
               config_set(&cfg, "max_body_memory", "3K", &e) == 0);
    server.most_connections = cfg.max_connections;
    FUZZ_CHECK(uv_loop_init(&server.loop) == 0);
    server.metrics = metrics_new();
    server.limits = limits_new(server.metrics);
    FUZZ_CHECK(access_log_open(&server, &e) == 0 && audit_open(&server, &e) == 0);
    FUZZ_CHECK(nets_read("unix", &server.trusted, &e) == 0);
}

static void set_up(unsigned how)
{
    struct keyring *ring = NULL;
    struct err e = {0};
    const struct key_sources src = {"", how & 1 ? "0123456789abcdef" : "", ""};
    FUZZ_CHECK(keyring_read(&src, &ring, &e) == 0 && access_use(&server, ring, &e) == 0);
    FUZZ_CHECK(config_set(server.cfg, "cors_origins", how & 4 ? "*" : "", &e) == 0);
}

static size_t drain(int fd, char *out, size_t n)
{
    for (int i = 0; i < 3; i++) {
        uv_run(&server.loop, UV_RUN_NOWAIT);
        ssize_t got = recv(fd, out + n, OUTPUT_MAX - n, MSG_DONTWAIT);
        n += got > 0 ? (size_t)got : 0;
    }
    return n;
}

/* Answers begin after each other; the rest of an answer is not looked into. */
static int count_answers(const char *out, size_t n, int *ret_refused)
{
    int count = 0;
    *ret_refused = 0;
    for (const char *at = out; (at = memmem(at, (size_t)(out + n - at), "HTTP/1.1 ", 9)); at += 9) {
        int status = atoi(at + 9);
        count += status >= 200;
        *ret_refused += status >= 300;
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static char out[OUTPUT_MAX + 1];
    struct err e = {0};
    int fds[2], refused;
    size_t n = 0;
    if (n_bytes < 3)
        return 0;
    start();
    set_up(data[0]);
    size_t piece = data[1] ? data[1] : n_bytes;
    const struct listener l = {.s = &server, .proxy = (data[0] & 2) != 0};
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    struct conn *c = conn_new(&server, UV_NAMED_PIPE);
    FUZZ_CHECK(c && uv_pipe_open(&c->u.pipe, fds[0]) == 0);
    snprintf(c->peer, sizeof(c->peer), "unix");
    conn_start(c, &l);
    for (size_t at = 2; at < n_bytes; at += piece) {
        size_t now = n_bytes - at < piece ? n_bytes - at : piece;
        if (send(fds[1], data + at, now, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)now)
            break; /* it has been closed */
        n = drain(fds[1], out, n);
    }
    n = drain(fds[1], out, n);
    FUZZ_CHECK(n == 0 || !strncmp(out, "HTTP/1.1 ", 9));
    out[n] = 0;
    int answers = count_answers(out, n, &refused);
    FUZZ_CHECK(server.n_conns <= 1 && server.body_bytes <= 3072);
    close(fds[1]);
    for (int i = 0; i < 100 && server.n_conns > 0; i++)
        uv_run(&server.loop, UV_RUN_NOWAIT);
    /* the end of input closes every state: nothing waits for a timer, nothing is left */
    FUZZ_CHECK(server.n_conns == 0 && server.body_bytes == 0);
    if (answers == 0 || refused)
        err_set(&e, ERR_INVAL, "%d answers, %d refused", answers, refused);
    fuzz_result(e.code, &e);
    return 0;
}
