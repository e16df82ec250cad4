/* server/reload.c - SIGHUP: the configuration is read again, and what may change does, without a request
 * noticing.
 *
 * Everything is read first and put in force only when all of it is right: a mistake anywhere leaves
 * everything as it was. What is fixed for the life of the process (the model, its cache, the addresses) is
 * told in a warning. Requests under way keep the key and the TLS session that they began with. */
#include "config.h"

#include <string.h>

#include "base/log.h"
#include "server/internal.h"
#include "server/traces.h"

/* Keys of the configuration that hold from the next request or connection on. */
static const char *const changeable[] = {
    "api_keys_file", "api_key", "admin_key", "metrics_open", "model_aliases",
    "max_connections", "header_timeout", "body_timeout", "idle_timeout", "write_timeout", "drain_timeout",
    "step_stall_timeout", "ready_queue", "ready_queue_age", "write_high", "write_low", "max_body_memory",
    "max_prompts", "max_embedding_inputs", "max_n", "max_logprobs", "max_stop", "max_logit_bias",
    "max_prompt_size", "strict",
    "request_timeout", "max_queue_time", "keepalive",
    "stream_window", "stream_memory", "stream_absence", "stream_kept",
    "tls_cert", "tls_key", "tls_client_ca", "tls_min_version",
    "trusted_proxies", "cors_origins",
    "otlp_endpoint", "otlp_headers_file", "otlp_ca", "otlp_service_name", "otlp_sampling", "otlp_queue_size",
    "otlp_timeout",
    "log_level", "access_log", "access_log_file", "audit_log_file", "audit_prompts",
};

bool reload_may_change(const char *key)
{
    for (size_t i = 0; i < sizeof(changeable) / sizeof(*changeable); i++)
        if (!strcmp(changeable[i], key))
            return true;
    return false;
}

struct tally {
    int taken, fixed;
};

static void told(void *arg, const char *key, bool taken)
{
    struct tally *t = arg;
    if (taken)
        LOG_INFO("reload", "%s has changed", key);
    else
        LOG_WARN("reload",
                 "%s cannot change while the daemon runs: it needs a restart, the old value stays", key);
    *(taken ? &t->taken : &t->fixed) += 1;
}

/* A file that cannot be opened anew is no reason to lose lines. */
static void open_logs(struct server *s)
{
    struct err e = {0};
    if (access_log_open(s, &e) < 0)
        LOG_ERROR("reload", "%s; the old file stays in use", e.text);
    if (audit_open(s, &e) < 0)
        LOG_ERROR("reload", "%s; the old file stays in use", e.text);
}

/* What was right in the file beside settings that are fixed here. */
static int check_fixed(const struct server *s, const struct server_config *fresh, struct err *e)
{
    if (fresh->max_body_memory < s->cfg->max_body_size)
        return err_set_param(e, ERR_INVAL, "max_body_memory",
                             "max_body_memory must be at least the max_body_size that is in force, %lld",
                             s->cfg->max_body_size);
    return 0;
}

static int read_all(struct server *s, struct server_config *fresh, struct keyring **ring,
                    struct ssl_ctx_st **tls, struct nets *trusted, struct trace_settings **traces,
                    struct err *e)
{
    int r = s->reread(s->reread_arg, fresh, e);
    if (r == 0)
        r = check_fixed(s, fresh, e);
    if (r == 0)
        r = tls_context_read(fresh, listeners_have_tls(s), tls, e);
    if (r == 0)
        r = trusted_read(fresh, trusted, e);
    if (r == 0)
        r = traces_read(fresh, traces, e);
    if (r == 0)
        r = access_read(fresh, ring, e);
    return r;
}

void server_reload(struct server *s)
{
    struct server_config fresh;
    struct keyring *ring = NULL;
    struct ssl_ctx_st *tls = NULL;
    struct err e = {0};
    struct nets trusted;
    struct trace_settings *traces = NULL;
    struct tally t = {0, 0};
    int r = config_init(&fresh);
    if (r < 0) {
        LOG_ERROR("reload", "out of memory; everything stays as it is");
        return;
    }
    r = read_all(s, &fresh, &ring, &tls, &trusted, &traces, &e);
    if (r == 0)
        r = access_use(s, ring, &e);
    if (r < 0) {
        LOG_ERROR("reload", "%s; everything stays as it is", *e.text ? e.text : err_name(r));
        keyring_unref(&ring);
        tls_context_free(&tls);
        trace_settings_free(&traces);
        config_done(&fresh);
        open_logs(s); /* rotation does not depend on it */
        return;
    }
    tls_context_free(&s->tls);
    s->tls = tls;
    s->trusted = trusted;
    traces_use(s->traces, traces);
    config_take(s->cfg, &fresh, reload_may_change, told, &t);
    config_done(&fresh);
    log_set_level((enum log_level)log_level_parse(s->cfg->log_level));
    const struct api_config ac = server_api_config(s);
    api_set_limits(s->api, &ac);
    server_raise_descriptors(s);
    open_logs(s);
    LOG_INFO("reload",
             "done: %d settings have changed, %d need a restart; %d API keys; logs are opened anew",
             t.taken, t.fixed, s->keyring->n);
}
