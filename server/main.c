/* server/main.c - the command line of latentd. */
#include "config.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/log.h"
#include "server/batch.h"
#include "server/conf.h"
#include "server/keys.h"
#include "server/server.h"

#define DEFAULT_MODEL "latent-mini.q8_0.gguf"

extern char **environ;

static const char usage[] =
    "Usage: latentd [OPTION]...\n"
    "       latentd batch [OPTION]... IN OUT\n"
    "Serves a language model with a compressed latent cache over HTTP.\n"
    "\n"
    "  --model PATH            GGUF file (.gguf may be left out), first part of a split one, or\n"
    "                          Hugging Face folder; without it, the model that is shipped\n"
    "  --listen ADDRESS        ADDR:PORT, [ADDR]:PORT or unix:PATH; may be given several times\n"
    "                          (default 127.0.0.1:8080)\n"
    "  --config FILE           read FILE: lines of key = value\n"
    "  --threads N             compute threads (default: one a core)\n"
    "  --cpu LEVEL             auto, generic, avx2, avx512, amx, neon\n"
    "  --set KEY=VALUE         any key of the configuration\n"
    "  --check-config          print the configuration that results, and end\n"
    "  --print-default-config  print every key with its meaning, range and default, and end\n"
    "  --hash-key              read a key from standard input, print what a keys file holds of it, and end\n"
    "  --version, --help\n"
    "\n"
    "Later settings win: defaults, FILE, the environment (LATENTD_KEY), then the command line.\n"
    "SIGTERM finishes what runs and ends; SIGHUP reads the configuration again.\n"
    "Exit status: 0 clean end, 1 could not start, 2 requests were cut off at drain_timeout.\n"
    "latentd batch answers the requests of a file instead: latentd batch --help.\n";

static const char batch_usage[] =
    "Usage: latentd batch [OPTION]... IN OUT\n"
    "Answers the requests in IN, one JSON object a line, into OUT, without a socket. Both have the\n"
    "format of OpenAI's Batch API; - is standard input or output. What OUT answers already is not asked\n"
    "again: a run that was ended goes on where it was.\n"
    "\n"
    "  --model PATH            GGUF file (.gguf may be left out), first part of a split one, or\n"
    "                          Hugging Face folder; without it, the model that is shipped\n"
    "  --config FILE           read FILE: lines of key = value\n"
    "  --threads N             compute threads (default: one a core)\n"
    "  --cpu LEVEL             auto, generic, avx2, avx512, amx, neon\n"
    "  --set KEY=VALUE         any key of the configuration\n"
    "  --help\n"
    "\n"
    "SIGINT or SIGTERM lets the lines that run finish, at most drain_timeout; a second one ends at once.\n"
    "Exit status: 0 every line is answered with 200, 1 could not start, read or write, 2 interrupted:\n"
    "run it again, 3 all is done, but some lines were not answered with 200.\n";

enum { OPT_MODEL = 256, OPT_LISTEN, OPT_CONFIG, OPT_THREADS, OPT_CPU, OPT_SET, OPT_CHECK, OPT_DEFAULTS,
       OPT_HASH, OPT_VERSION, OPT_HELP };

static const struct option options[] = {
    {"model", required_argument, NULL, OPT_MODEL},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"config", required_argument, NULL, OPT_CONFIG},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"cpu", required_argument, NULL, OPT_CPU},
    {"set", required_argument, NULL, OPT_SET},
    {"check-config", no_argument, NULL, OPT_CHECK},
    {"print-default-config", no_argument, NULL, OPT_DEFAULTS},
    {"hash-key", no_argument, NULL, OPT_HASH},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

struct command {
    const char *config_file;
    bool batch;
    const char *in, *out; /* of a batch */
    bool check, defaults, hash;
    int n_set;
    struct {
        const char *key;
        char *value;
    } *set;
    struct buf listen;
};

static int usage_error(const char *text, const char *what)
{
    fprintf(stderr, "latentd: %s%s (--help tells the options)\n", text, what);
    return -1;
}

static void add(struct command *cmd, const char *key, char *value)
{
    cmd->set[cmd->n_set].key = key;
    cmd->set[cmd->n_set++].value = value;
}

/* What stands behind the options of a batch. */
static int read_files(int n, char **files, struct command *cmd)
{
    if (cmd->listen.n_bytes || cmd->check || cmd->defaults || cmd->hash)
        return usage_error("not for batch: --listen, --check-config, --print-default-config, --hash-key", "");
    if (n != 2)
        return usage_error("batch wants two files, IN and OUT", "");
    cmd->in = files[0];
    cmd->out = files[1];
    return 1;
}

/* 1: go on; 0: done; -1: wrong. */
static int read_command(int argc, char **argv, struct command *cmd)
{
    int o;
    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        char *value;
        switch (o) {
        case OPT_MODEL:
            add(cmd, "model", optarg);
            break;
        case OPT_LISTEN:
            if (buf_printf(&cmd->listen, "%s%s", cmd->listen.n_bytes ? "," : "", optarg) < 0)
                return usage_error("too many addresses, or no memory for them", "");
            break;
        case OPT_CONFIG:
            cmd->config_file = optarg;
            break;
        case OPT_THREADS:
            add(cmd, "threads", optarg);
            break;
        case OPT_CPU:
            add(cmd, "cpu", optarg);
            break;
        case OPT_SET:
            value = strchr(optarg, '=');
            if (!value)
                return usage_error("--set wants KEY=VALUE, not ", optarg);
            *value = 0;
            add(cmd, optarg, value + 1);
            break;
        case OPT_CHECK:
            cmd->check = true;
            break;
        case OPT_DEFAULTS:
            cmd->defaults = true;
            break;
        case OPT_HASH:
            cmd->hash = true;
            break;
        case OPT_VERSION:
            puts("latentd " PACKAGE_VERSION);
            return 0;
        case OPT_HELP:
            fputs(cmd->batch ? batch_usage : usage, stdout);
            return 0;
        default: /* getopt_long has told what is wrong */
            return usage_error("wrong options", "");
        }
    }
    if (cmd->batch)
        return read_files(argc - optind, argv + optind, cmd);
    return optind < argc ? usage_error("unexpected argument ", argv[optind]) : 1;
}

/* Beside a build tree, then where `make install` puts it. */
static int find_model(struct server_config *cfg, struct err *e)
{
    char exe[4096], path[4200];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    exe[n > 0 ? n : 0] = 0;
    char *slash = strrchr(exe, '/');
    if (slash)
        *slash = 0;
    snprintf(path, sizeof(path), "%s/../models/" DEFAULT_MODEL, exe);
    if (access(path, R_OK) != 0)
        snprintf(path, sizeof(path), "%s/models/" DEFAULT_MODEL, PKGDATADIR);
    if (access(path, R_OK) != 0)
        return err_set_param(e, ERR_NOTFOUND, "model",
                             "no model is given, and the default is neither in %.150s/../models nor "
                             "in " PKGDATADIR "/models: use --model PATH",
                             exe);
    return config_set(cfg, "model", path, e);
}

static int configure(struct server_config *cfg, struct command *cmd, struct err *e)
{
    int r = 0;
    if (cmd->config_file)
        r = config_read_file(cfg, cmd->config_file, e);
    if (r == 0)
        r = config_read_env(cfg, environ, e);
    for (int i = 0; i < cmd->n_set && r == 0; i++)
        r = config_set(cfg, cmd->set[i].key, cmd->set[i].value, e);
    if (r == 0 && cmd->listen.n_bytes)
        r = config_set(cfg, "listen", cmd->listen.data, e);
    if (r == 0)
        r = config_check(cfg, e);
    if (r == 0 && !*cfg->model)
        r = find_model(cfg, e);
    return r;
}

/* From standard input: arguments are seen by everybody on the machine. */
static int hash_key(void)
{
    char line[KEY_MAX_BYTES + 3], text[KEY_HASH_TEXT];
    struct err e = {0};
    if (!fgets(line, sizeof(line), stdin))
        line[0] = 0;
    if (key_hash_text(line, strcspn(line, "\r\n"), text, &e) < 0) {
        fprintf(stderr, "latentd: --hash-key: %s\n", e.text);
        return 1;
    }
    puts(text);
    return fflush(stdout) == 0 ? 0 : 1;
}

/* What was given on the command line stays given. */
static int reread(void *arg, struct server_config *cfg, struct err *e)
{
    return configure(cfg, arg, e);
}

static int run(struct server_config *cfg, struct command *cmd)
{
    struct err e = {0};
    if (cmd->hash)
        return hash_key();
    if (cmd->defaults) {
        config_print(cfg, true, stdout);
        return fflush(stdout) == 0 ? 0 : 1;
    }
    if (configure(cfg, cmd, &e) < 0) {
        fprintf(stderr, "latentd: %s\n", *e.text ? e.text : "out of memory");
        return 1;
    }
    if (cmd->check && server_check(cfg, &e) < 0) {
        fprintf(stderr, "latentd: %s\n", *e.text ? e.text : "out of memory");
        return 1;
    }
    if (cmd->check) {
        config_print(cfg, false, stdout);
        return fflush(stdout) == 0 ? 0 : 1;
    }
    log_set_level((enum log_level)log_level_parse(cfg->log_level));
    return cmd->batch ? batch_run(cfg, cmd->in, cmd->out) : server_run(cfg, reread, cmd);
}

int main(int argc, char **argv)
{
    struct server_config cfg;
    struct command cmd = {.set = calloc((size_t)argc, sizeof(*cmd.set))};
    int status = 1;
    log_keep_standard();
    if (!cmd.set || config_init(&cfg) < 0) {
        fputs("latentd: out of memory\n", stderr);
        return 1;
    }
    buf_init(&cmd.listen, 65536);
    cmd.batch = argc > 1 && !strcmp(argv[1], "batch");
    int go = read_command(argc - cmd.batch, argv + cmd.batch, &cmd);
    if (go >= 0)
        status = go ? run(&cfg, &cmd) : 0;
    config_done(&cfg);
    buf_done(&cmd.listen);
    free(cmd.set);
    if (fflush(stdout) != 0 || ferror(stdout)) { /* --version, --help */
        fputs("latentd: cannot write to the standard output\n", stderr);
        return status ? status : 1;
    }
    return status;
}
