/* server/server.c - the daemon's life: start, loading, serving, drain, end.
 *
 * The loop thread owns everything here. A drain ends when no request is left; then every handle is
 * closed, the loop runs out, and only after that the engine goes, since work on other threads may use
 * its tokenizer until then. */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/internal.h"
#include "server/limits.h"
#include "server/server.h"
#include "server/traces.h"

#define TICK_MS 250
#define POLL_NS (2 * NS_PER_MS)
#define GRACE_NS NS_PER_SEC /* for requests whose connection stood when the drain began */
#define TEMPLATE_MAX (1u << 20)
#define MIB(n) ((double)(n) / 1048576.0)

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
    systemd_stopping();
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

/* What was chosen, and whether the machine agrees with the table: that is told, never followed. */
static void log_scheme(const struct scheme *c)
{
    if (c->expected.absorbed_ns <= 0)
        return;
    char what[64] = "absorbed";
    if (c->block)
        snprintf(what, sizeof(what), "decompressed in blocks of %d", c->block);
    LOG_INFO("model",
             "attention of prompts: %s; a query and key absorbed %.2f ns expected, %.2f "
             "measured; decompressed "
             "%.2f expected, %.2f measured",
             what, c->expected.absorbed_ns, c->measured.absorbed_ns, c->expected.decompressed_ns,
             c->measured.decompressed_ns);
    if (c->measured.absorbed_ns > 0 &&
        scheme_favours_decompressed(&c->measured) != scheme_favours_decompressed(&c->expected))
        LOG_WARN("model", "this machine would do better with mla_scheme = %s",
                 scheme_favours_decompressed(&c->measured) ? "decompressed" : "absorbed");
}

static void log_ready(const struct server *s)
{
    const struct engine_info *i = engine_info(s->engine);
    LOG_INFO("model", "%s: %s, %s, %.1f M parameters in %s; %.1f MiB on disk, %.1f MiB in memory",
             i->model_id, i->config.architecture, i->format, (double)i->n_params * 1e-6,
             i->weight_types, MIB(i->file_bytes), MIB(i->weight_bytes));
    LOG_INFO("model",
             "kernels %s, %d threads; up to %d of %d tokens a sequence; "
             "%llu in a cache of %.1f MiB, %.0f bytes each",
             cpu_level_name(i->level), i->n_threads, i->max_model_len,
             i->config.max_position_embeddings, (unsigned long long)i->n_pages * i->page_tokens,
             MIB(i->cache_bytes), (double)i->page_bytes / (double)i->page_tokens);
    if (i->tokenizer_warning)
        LOG_WARN("model", "%s", i->tokenizer_warning);
    log_scheme(&i->scheme);
    LOG_INFO("server", "ready after %.2f s", i->load_seconds);
}

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
        log_ready(s);
        listeners_start(s);
        systemd_ready();
        pins_start(s);
    } else {
        int quarter = (int)(engine_load_progress(s->engine) * 4);
        if (quarter > s->load_shown && quarter < 4) {
            LOG_INFO("model", "loading: %d %%", quarter * 25);
            s->load_shown = quarter;
        }
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

static void wake(void *arg) /* engine thread */
{
    struct server *s = arg;
    uv_async_send(&s->wake);
}

/* --- work off the loop ---------------------------------------------------------------------------- */

struct offloaded {
    uv_work_t req;
    void (*work)(void *arg), (*done)(void *arg);
    void *arg;
};

static void run_offloaded(uv_work_t *req)
{
    struct offloaded *o = req->data;
    o->work(o->arg);
}

static void end_offloaded(uv_work_t *req, int status)
{
    struct offloaded *o = req->data;
    (void)status; /* never cancelled */
    o->done(o->arg);
    free(o);
}

static void offload(void *host, void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
    struct server *s = host;
    struct offloaded *o = malloc(sizeof(*o));
    if (o) {
        *o = (struct offloaded){.work = work, .done = done, .arg = arg};
        o->req.data = o;
        if (uv_queue_work(&s->loop, &o->req, run_offloaded, end_offloaded) == 0)
            return;
        free(o);
    }
    work(arg); /* slower for the others, but right */
    done(arg);
}

static void do_nothing(uv_work_t *req)
{
    (void)req;
}

static void did_nothing(uv_work_t *req, int status)
{
    (void)req;
    (void)status;
}

/* libuv makes its threads with the first work, and ends the process when it cannot: that shall be now, not
 * when the first long text comes. */
static void start_helpers(struct server *s)
{
    static uv_work_t first;
    (void)uv_queue_work(&s->loop, &first, do_nothing, did_nothing);
}

/* --- the start ------------------------------------------------------------------------------------ */

/* Every connection is a descriptor; the usual soft limit of 1024 is too few for max_connections. */
void server_raise_descriptors(const struct server_config *cfg)
{
    struct rlimit l;
    rlim_t need = (rlim_t)cfg->max_connections + 128;
    if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < need) {
        l.rlim_cur = l.rlim_max == RLIM_INFINITY || l.rlim_max > need ? need : l.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &l) < 0 || l.rlim_cur < need)
            LOG_WARN("server", "max_connections = %lld, but the limit of open files is %llu",
                     cfg->max_connections, (unsigned long long)l.rlim_cur);
    }
}

static int read_template(const char *path, char **ret, struct err *e)
{
    struct buf text;
    char piece[4096];
    size_t n;
    FILE *f = fopen(path, "re");
    if (!f)
        return err_set_param(e, ERR_IO, "chat_template", "chat_template %s: %s", path, strerror(errno));
    buf_init(&text, TEMPLATE_MAX);
    int r = 0;
    while (r == 0 && (n = fread(piece, 1, sizeof(piece), f)) > 0)
        r = buf_append(&text, piece, n);
    if (r == 0 && ferror(f))
        r = ERR_IO;
    fclose(f);
    if (r < 0) {
        buf_done(&text);
        return err_set_param(e, r, "chat_template", "chat_template %s: %s", path,
                             r == ERR_LIMIT ? "more than 1 MiB" : err_name(r));
    }
    *ret = buf_take(&text, NULL);
    if (!*ret && !(*ret = strdup("")))
        return err_set(e, ERR_NOMEM, "out of memory");
    return 0;
}

static enum mla_scheme mla_scheme(const char *name)
{
    return !strcmp(name, "absorbed")       ? MLA_ABSORBED
           : !strcmp(name, "decompressed") ? MLA_DECOMPRESSED
           : !strcmp(name, "reuse")        ? MLA_REUSE
           : !strcmp(name, "recompute")    ? MLA_RECOMPUTE
                                           : MLA_AUTO;
}

static enum prompt_products prompt_products(const char *name)
{
    return !strcmp(name, "int8") ? PRODUCTS_INT8 : !strcmp(name, "bf16") ? PRODUCTS_BF16 : PRODUCTS_AUTO;
}

static enum engine_cache_type cache_type(const char *name)
{
    return !strcmp(name, "f32")    ? ENGINE_CACHE_F32
           : !strcmp(name, "int8") ? ENGINE_CACHE_INT8
           : !strcmp(name, "fp8")  ? ENGINE_CACHE_FP8
           : !strcmp(name, "int4") ? ENGINE_CACHE_INT4
                                   : ENGINE_CACHE_BF16;
}

/* From any thread. */
static void on_cache_log(void *arg, int level, const char *text)
{
    (void)arg;
    log_write((enum log_level)level, "cache", "%s", text);
}

static int start_engine(struct server *s, struct err *e)
{
    const struct server_config *cfg = s->cfg;
    int level = !strcmp(cfg->cpu, "auto") ? (int)cpu_detect() : cpu_level_parse(cfg->cpu);
    if (level < 0 || !cpu_level_available((enum cpu_level)level))
        return err_set_param(e, ERR_INVAL, "cpu", "cpu = %s: this machine has at most %s", cfg->cpu,
                             cpu_level_name(cpu_detect()));
    const struct engine_config ec = {
        .model_path = cfg->model,
        .model_id = *cfg->model_id ? cfg->model_id : NULL,
        .level = (enum cpu_level)level,
        .n_threads = (int)cfg->threads,
        .pin_threads = cfg->pin_threads,
        .cache_type = cache_type(cfg->cache_type),
        .mla_scheme = mla_scheme(cfg->mla_scheme),
        .mla_block = (int)cfg->mla_block,
        .prompt_products = prompt_products(cfg->prompt_products),
        .cache_bytes = (uint64_t)cfg->cache_size,
        .cache_pinned = (int)cfg->cache_pinned,
        .page_tokens = (uint32_t)cfg->page_tokens,
        .max_model_len = (int)cfg->max_model_len,
        .max_num_seqs = (int)cfg->max_num_seqs,
        .max_num_batched_tokens = (int)cfg->max_num_batched_tokens,
        .prefill_chunk = (int)cfg->prefill_chunk,
        .max_queue_requests = (int)cfg->max_queue_requests,
        .max_queue_tokens = cfg->max_queue_tokens,
        .prefix_cache = cfg->prefix_cache,
        .disk_path = *cfg->cache_disk_path ? cfg->cache_disk_path : NULL,
        .disk_bytes = (uint64_t)cfg->cache_disk_size,
        .disk_rate = (uint64_t)cfg->cache_disk_rate,
        .disk_always = !strcmp(cfg->cache_disk_read, "always"),
        .log = on_cache_log,
        .max_step_ns = cfg->max_step_time * NS_PER_MS,
        .max_priority_wait_ns = cfg->max_priority_wait * NS_PER_MS,
        .park_bytes = (uint64_t)cfg->park_size,
        .max_fair_keys = (int)cfg->max_fair_keys,
        .grammar = {(size_t)cfg->grammar_max_size, (int)cfg->grammar_max_states,
                    cfg->grammar_max_time * NS_PER_MS, (uint64_t)cfg->grammar_cache_size},
        .metrics = s->metrics,
        .wake = wake,
        .wake_arg = s,
    };
    return engine_start(&ec, &s->engine, e);
}

struct api_config server_api_config(const struct server *s)
{
    const struct server_config *cfg = s->cfg;
    return (struct api_config){
        .engine = s->engine,
        .metrics = s->metrics,
        .model_id = *cfg->model_id ? cfg->model_id : NULL,
        .chat_template = s->chat_template,
        .max_seqs = (int)cfg->max_num_seqs,
        .max_prompts = (int)cfg->max_prompts,
        .max_n = (int)cfg->max_n,
        .max_logprobs = (int)cfg->max_logprobs,
        .max_stop = (int)cfg->max_stop,
        .max_logit_bias = (int)cfg->max_logit_bias,
        .max_prompt_bytes = (size_t)cfg->max_prompt_size,
        .write_high_bytes = (size_t)cfg->write_high,
        .write_low_bytes = (size_t)cfg->write_low,
        .request_timeout_ns = cfg->request_timeout * NS_PER_MS,
        .max_queue_ns = cfg->max_queue_time * NS_PER_MS,
        .model_aliases = cfg->model_aliases,
        .keepalive_ns = cfg->keepalive * NS_PER_MS,
        .store_path = cfg->response_store_path,
        .store_entries = (int)cfg->response_store_entries,
        .store_bytes = (uint64_t)cfg->response_store_size,
        .tool_parser = cfg->tool_parser,
        .cache_by_key = !strcmp(cfg->cache_scope, "key"),
        .strict = cfg->strict,
        .admit = access_admit,
        .offload = offload,
        .host = (void *)(uintptr_t)s,
    };
}

static int start_api(struct server *s, struct err *e)
{
    const char *path = s->cfg->chat_template;
    int r = *path ? read_template(path, &s->chat_template, e) : 0;
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
    int r = access_read(cfg, &ring, e);
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
    start_helpers(s);
    s->cfg = cfg;
    s->reread = reread;
    s->reread_arg = reread_arg;
    s->watchdog_ns = systemd_watchdog_ns();
    signal(SIGPIPE, SIG_IGN);
    server_raise_descriptors(cfg);
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
        r = start_engine(s, &e);
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
