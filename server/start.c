/* server/start.c - see start.h. */
#include "config.h"

#include "server/start.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/conf.h"

#define TEMPLATE_MAX (1u << 20)
#define MIB(n) ((double)(n) / 1048576.0)

/* --- the engine ----------------------------------------------------------------------------------- */

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

static void wake(void *arg) /* from the threads of the engine and of the store of responses */
{
    uv_async_send(arg);
}

static int level_of(const struct server_config *cfg, struct err *e)
{
    int level = !strcmp(cfg->cpu, "auto") ? (int)cpu_detect() : cpu_level_parse(cfg->cpu);
    if (level < 0 || !cpu_level_available((enum cpu_level)level))
        return err_set_param(e, ERR_INVAL, "cpu", "cpu = %s: this machine has at most %s", cfg->cpu,
                             cpu_level_name(cpu_detect()));
    return level;
}

int start_check(const struct server_config *cfg, struct err *e)
{
    char *template = NULL, longer[4096];
    int r = level_of(cfg, e);
    if (r >= 0)
        r = start_template(cfg, &template, e);
    free(template);
    snprintf(longer, sizeof(longer), "%s.gguf", cfg->model);
    if (r == 0 && access(cfg->model, R_OK) < 0 && (errno != ENOENT || access(longer, R_OK) < 0))
        r = err_set_param(e, ERR_NOTFOUND, "model", "model %.200s: %s", cfg->model, strerror(errno));
    return r;
}

int start_engine(const struct server_config *cfg, struct metrics *metrics, uv_async_t *wake_up,
                 struct engine **ret, struct err *e)
{
    int level = level_of(cfg, e);
    if (level < 0)
        return level;
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
        .num_speculative_tokens = cfg->num_speculative_tokens,
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
        .metrics = metrics,
        .wake = wake,
        .wake_arg = wake_up,
    };
    return engine_start(&ec, ret, e);
}

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

void start_log_ready(const struct engine *eng)
{
    const struct engine_info *i = engine_info(eng);
    LOG_INFO("model", "%s: %s, %s, %.1f M parameters in %s; %.1f MiB on disk, %.1f MiB in memory",
             i->model_id, i->config.architecture, i->format, (double)i->n_params * 1e-6,
             i->weight_types, MIB(i->file_bytes), MIB(i->weight_bytes));
    LOG_INFO("model",
             "kernels %s, %d threads; up to %d of %d tokens a sequence; "
             "%llu in a cache of %.1f MiB, %.0f bytes each, in pages of %u",
             cpu_level_name(i->level), i->n_threads, i->max_model_len,
             i->config.max_position_embeddings, (unsigned long long)i->n_pages * i->page_tokens,
             MIB(i->cache_bytes), (double)i->page_bytes / (double)i->page_tokens, i->page_tokens);
    if (i->tokenizer_warning)
        LOG_WARN("model", "%s", i->tokenizer_warning);
    log_scheme(&i->scheme);
}

void start_log_loading(const struct engine *eng, int *shown)
{
    int quarter = (int)(engine_load_progress(eng) * 4);
    if (quarter > *shown && quarter < 4) {
        LOG_INFO("model", "loading: %d %%", quarter * 25);
        *shown = quarter;
    }
}

/* --- the API -------------------------------------------------------------------------------------- */

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
    struct offloaded *o = malloc(sizeof(*o));
    if (o) {
        *o = (struct offloaded){.work = work, .done = done, .arg = arg};
        o->req.data = o;
        if (uv_queue_work(uv_handle_get_loop(host), &o->req, run_offloaded, end_offloaded) == 0)
            return;
        free(o);
    }
    work(arg); /* slower for the others, but right */
    done(arg);
}

static void on_api_log(void *host, const char *text)
{
    (void)host;
    LOG_WARN("api", "%s", text);
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

void start_helpers(uv_loop_t *loop)
{
    static uv_work_t first;
    (void)uv_queue_work(loop, &first, do_nothing, did_nothing);
}

int start_template(const struct server_config *cfg, char **ret, struct err *e)
{
    const char *path = cfg->chat_template;
    struct buf text;
    char piece[4096];
    size_t n;
    if (!*path)
        return 0;
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

struct api_config start_api_config(const struct server_config *cfg, struct engine *eng,
                                   struct metrics *metrics, const char *chat_template, uv_async_t *wake_up)
{
    return (struct api_config){
        .engine = eng,
        .metrics = metrics,
        .model_id = *cfg->model_id ? cfg->model_id : NULL,
        .chat_template = chat_template,
        .max_seqs = (int)cfg->max_num_seqs,
        .max_prompts = (int)cfg->max_prompts,
        .max_embedding_inputs = (int)cfg->max_embedding_inputs,
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
        .stream_window = (size_t)cfg->stream_window,
        .stream_memory = (uint64_t)cfg->stream_memory,
        .stream_absence_ns = cfg->stream_absence * NS_PER_MS,
        .stream_kept_ns = cfg->stream_kept * NS_PER_MS,
        .keepalive_ns = cfg->keepalive * NS_PER_MS,
        .store_path = cfg->response_store_path,
        .store_entries = (int)cfg->response_store_entries,
        .store_bytes = (uint64_t)cfg->response_store_size,
        .store_waiting_bytes = (uint64_t)cfg->response_store_queue,
        .tool_parser = cfg->tool_parser,
        .cache_by_key = !strcmp(cfg->cache_scope, "key"),
        .strict = cfg->strict,
        .offload = offload,
        .wake = wake,
        .log = on_api_log,
        .host = wake_up,
    };
}
