/* server/server.c - the daemon's life: start, loading, serving, drain, end.
 *
 * The loop thread owns everything here. A drain ends when no request is left; then every handle is
 * closed, the loop runs out, and only after that the engine goes, since work on other threads may use
 * its tokenizer until then. */
#include "config.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/internal.h"
#include "server/limits.h"
#include "server/server.h"
#include "server/start.h"
#include "server/traces.h"

#define TICK_MS 250
#define POLL_NS (2 * NS_PER_MS)
#define END_MS 15000 /* for the end itself, behind a drain: as etc/latentd.service.in has it */
#define OTHER_FILES 128 /* descriptors that are no client's, and connections that are refused */
#define GRACE_NS NS_PER_SEC /* for requests whose connection stood when the drain began */

/* --- the end -------------------------------------------------------------------------------------- */

static void close_all(struct server *s, int exit_status)
{
    if (s->stopping)
        return;
    s->stopping = true;
    s->exit_status = exit_status;
    listeners_close(s);
    for (struct conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        conn_close(c);
    }
    pins_close(s);
    traces_end(s->traces, s->deliver_traces);
    uv_close((uv_handle_t *)&s->tick, NULL);
    uv_close((uv_handle_t *)&s->drain_timer, NULL);
    uv_close((uv_handle_t *)&s->sigterm, NULL);
    uv_close((uv_handle_t *)&s->sigint, NULL);
    uv_close((uv_handle_t *)&s->sighup, NULL);
    signal(SIGHUP, SIG_IGN); /* what is left to deliver and to keep outlives who rotates logs */
    uv_unref((uv_handle_t *)&s->wake); /* closed when the engine, which uses it, has gone */
}

/* Ends the grace: when nobody is left who may ask, or by its time. */
static void check_grace(struct server *s)
{
    bool over = clock_now_ns() >= s->grace_until_ns;
    for (const struct conn *c = s->conns; c && !over; c = c->next)
        if (conn_may_ask(c))
            return;
    s->grace_until_ns = 0;
    api_drain(s->api); /* not the engine: requests that run may ask it for more */
    if (engine_state(s->engine) == ENGINE_LOADING)
        engine_drain(s->engine);
    for (struct conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        conn_drain(c, false);
    }
}

void server_check_drained(struct server *s)
{
    if (s->draining && !s->stopping && s->grace_until_ns)
        check_grace(s);
    if (!s->draining || s->stopping || s->grace_until_ns || api_active(s->api) > 0)
        return;
    for (const struct conn *c = s->conns; c; c = c->next)
        if (c->state != CONN_LINGERING && c->state != CONN_CLOSED)
            return;
    LOG_INFO("server", "everything is answered: ending");
    s->deliver_traces = true;
    close_all(s, 0);
}

static void on_drain_deadline(uv_timer_t *t)
{
    struct server *s = t->data;
    LOG_WARN("server", "drain_timeout has passed: %d requests are cut off", api_active(s->api));
    s->deliver_traces = true;
    close_all(s, 2);
}

static void on_signal(uv_signal_t *h, int number)
{
    struct server *s = h->data;
    if (s->draining) {
        LOG_WARN("server", "second signal: ending at once, %d requests are cut off", api_active(s->api));
        close_all(s, 2);
        return;
    }
    LOG_INFO("server", "%s: no new connections, %d requests finish", number == SIGINT ? "SIGINT" : "SIGTERM",
             api_active(s->api));
    s->draining = true;
    systemd_stopping(s->cfg->drain_timeout + s->cfg->otlp_timeout + END_MS);
    listeners_close(s);
    s->grace_until_ns = clock_now_ns() + GRACE_NS;
    for (struct conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        conn_drain(c, true);
    }
    uv_timer_start(&s->drain_timer, on_drain_deadline, (uint64_t)s->cfg->drain_timeout, 0);
    server_check_drained(s);
}

static void on_sighup(uv_signal_t *h, int number)
{
    struct server *s = h->data;
    (void)number;
    systemd_reloading();
    server_reload(s);
    if (engine_state(s->engine) == ENGINE_READY && !s->draining)
        systemd_ready();
}

/* --- loading -------------------------------------------------------------------------------------- */

static void watch_load(struct server *s)
{
    if (s->loaded || s->stopping || s->draining)
        return;
    enum engine_state st = engine_state(s->engine);
    if (st == ENGINE_FAILED) {
        s->loaded = true;
        LOG_ERROR("model", "%s", engine_load_error(s->engine)->text);
        close_all(s, 1);
    } else if (st == ENGINE_READY) {
        s->loaded = true;
        start_log_ready(s->engine);
        LOG_INFO("server", "ready after %.2f s", engine_info(s->engine)->load_seconds);
        listeners_start(s);
        systemd_ready();
        pins_start(s);
    } else {
        start_log_loading(s->engine, &s->load_shown);
        systemd_loading((int)(engine_load_progress(s->engine) * 100));
    }
}

static void on_tick(uv_timer_t *t)
{
    struct server *s = t->data;
    watch_load(s);
    if (s->api && !s->stopping) {
        api_tick(s->api);
        watchdog_tick(s);
        server_check_drained(s);
    }
}

void server_let_tokens_through(struct server *s)
{
    int64_t now = clock_now_ns();
    if (!s->loaded || s->stopping || now - s->polled_ns < POLL_NS)
        return;
    s->polled_ns = now;
    api_poll(s->api);
}

static void on_wake(uv_async_t *h)
{
    struct server *s = h->data;
    watch_load(s);
    if (!s->stopping) {
        s->polled_ns = clock_now_ns();
        api_poll(s->api);
        server_check_drained(s);
    }
}

/* --- the start ------------------------------------------------------------------------------------ */

/* Every connection is a descriptor; the usual soft limit of 1024 is too few for max_connections. Without any
 * left libuv accepts connections only to close them, and tells nobody: so there are never that many. */
void server_raise_descriptors(struct server *s)
{
    struct rlimit l, was;
    long long most = s->cfg->max_connections;
    rlim_t need = (rlim_t)most + OTHER_FILES;
    s->most_connections = most;
    if (getrlimit(RLIMIT_NOFILE, &l) < 0 || l.rlim_cur >= need)
        return;
    was = l;
    l.rlim_cur = l.rlim_max == RLIM_INFINITY || l.rlim_max > need ? need : l.rlim_max;
    rlim_t have = setrlimit(RLIMIT_NOFILE, &l) < 0 ? was.rlim_cur : l.rlim_cur;
    if (have >= need)
        return;
    s->most_connections = (long long)(have >= 2 * OTHER_FILES ? have - OTHER_FILES : (have + 1) / 2);
    LOG_WARN("server", "max_connections = %lld, but the limit of open files is %llu: at most %lld are kept",
             most, (unsigned long long)have, s->most_connections);
}

struct api_config server_api_config(const struct server *s)
{
    struct api_config ac =
        start_api_config(s->cfg, s->engine, s->metrics, s->chat_template, (uv_async_t *)(uintptr_t)&s->wake);
    ac.admit = access_admit;
    return ac;
}

static int start_api(struct server *s, struct err *e)
{
    int r = start_template(s->cfg, &s->chat_template, e);
    const struct api_config ac = server_api_config(s);
    return r < 0 ? r : api_new(&ac, &s->api, e);
}

int trusted_read(const struct server_config *cfg, struct nets *ret, struct err *e)
{
    struct err inner = {0};
    int r = nets_read(cfg->trusted_proxies, ret, &inner);
    return r < 0 ? err_set_param(e, r, "trusted_proxies", "trusted_proxies: %s", inner.text) : 0;
}

static int start_traces(struct server *s, struct err *e)
{
    struct trace_settings *t = NULL;
    int r = traces_new(&s->loop, s->metrics, &s->traces, e);
    if (r == 0)
        r = traces_read(s->cfg, &t, e);
    if (r == 0)
        traces_use(s->traces, t);
    return r;
}

static int start_access(struct server *s, struct err *e)
{
    struct keyring *ring = NULL;
    s->limits = limits_new(s->metrics);
    int r = s->limits ? access_read(s->cfg, &ring, e) : err_set(e, ERR_NOMEM, "out of memory");
    if (r == 0)
        r = access_use(s, ring, e);
    if (r < 0)
        keyring_unref(&ring);
    return r;
}

static void start_handles(struct server *s)
{
    uv_async_init(&s->loop, &s->wake, on_wake);
    uv_timer_init(&s->loop, &s->tick);
    uv_timer_init(&s->loop, &s->drain_timer);
    uv_signal_init(&s->loop, &s->sigterm);
    uv_signal_init(&s->loop, &s->sigint);
    uv_signal_init(&s->loop, &s->sighup);
    s->wake.data = s->tick.data = s->drain_timer.data = s;
    s->sigterm.data = s->sigint.data = s->sighup.data = s;
    uv_signal_start(&s->sigterm, on_signal, SIGTERM);
    uv_signal_start(&s->sigint, on_signal, SIGINT);
    uv_signal_start(&s->sighup, on_sighup, SIGHUP);
    uv_timer_start(&s->tick, on_tick, TICK_MS, TICK_MS);
}

int server_check(const struct server_config *cfg, struct err *e)
{
    struct keyring *ring = NULL;
    struct ssl_ctx_st *tls = NULL;
    struct nets trusted;
    struct trace_settings *traces = NULL;
    int r = listen_check(cfg->listen, e);
    if (r == 0)
        r = start_check(cfg, e);
    if (r == 0)
        r = access_read(cfg, &ring, e);
    keyring_unref(&ring);
    if (r == 0)
        r = tls_context_read(cfg, listen_has_tls(cfg->listen), &tls, e);
    tls_context_free(&tls);
    if (r == 0)
        r = trusted_read(cfg, &trusted, e);
    if (r == 0)
        r = traces_read(cfg, &traces, e);
    trace_settings_free(&traces);
    return r;
}

int server_run(struct server_config *cfg, reread_fn reread, void *reread_arg)
{
    struct server *s = calloc(1, sizeof(*s));
    struct err e = {0};
    if (!s || uv_loop_init(&s->loop) < 0) {
        LOG_ERROR("server", "out of memory");
        free(s);
        return 1;
    }
    start_helpers(&s->loop);
    s->cfg = cfg;
    s->reread = reread;
    s->reread_arg = reread_arg;
    s->watchdog_ns = systemd_watchdog_ns();
    signal(SIGPIPE, SIG_IGN);
    server_raise_descriptors(s);
    if (uv_random(NULL, NULL, s->id_seed, sizeof(s->id_seed), 0, NULL) < 0)
        s->id_seed[0] = uv_hrtime();
    start_handles(s);
    int r = metrics_start(s, &e);
    if (r == 0)
        r = start_access(s, &e);
    if (r == 0)
        r = trusted_read(cfg, &s->trusted, &e);
    if (r == 0)
        r = tls_context_read(cfg, listen_has_tls(cfg->listen), &s->tls, &e);
    if (r == 0)
        r = access_log_open(s, &e);
    if (r == 0)
        r = audit_open(s, &e);
    if (r == 0)
        r = start_traces(s, &e);
    /* Addresses first: a port that is taken is told before a large model is read. */
    if (r == 0)
        r = listeners_open(s, &e);
    if (r == 0)
        r = pins_open(s, &e);
    if (r == 0)
        r = start_engine(cfg, s->metrics, &s->wake, &s->engine, &e);
    if (r == 0)
        r = start_api(s, &e);
    if (r < 0) {
        LOG_ERROR("server", "%s", *e.text ? e.text : err_name(r));
        close_all(s, 1);
    } else {
        LOG_INFO("model", "loading %s", cfg->model);
    }
    uv_run(&s->loop, UV_RUN_DEFAULT);

    engine_stop(&s->engine);
    api_stop(s->api); /* with the engine it is what wakes the loop */
    uv_close((uv_handle_t *)&s->wake, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_loop_close(&s->loop);
    api_free(&s->api);
    pins_free(s);
    access_log_close(s);
    audit_close(s);
    traces_free(&s->traces);
    keyring_unref(&s->keyring);
    limits_free(&s->limits);
    tls_context_free(&s->tls);
    metrics_free(&s->metrics);
    free(s->chat_template);
    r = s->exit_status;
    free(s);
    return r;
}
