/* tools/convert/latent_convert.c - the program latent-convert: its options and subcommands. */
#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "engine/pool.h"
#include "tools/convert/commands.h"
#include "tools/convert/emit.h"
#include "tools/convert/quantize.h"

#define MAX_THREADS 1024
#define MIN_SPLIT_BYTES 1000000.0
#define EXIT_INTERRUPTED 130

static const char usage_text[] =
    "usage: latent-convert COMMAND ...\n\n"
    "  info PATH [--json]            what a model holds: sizes, types, tensors\n"
    "  to-gguf PATH OUT.gguf         writes a GGUF file from a folder or another GGUF file\n"
    "  quantize IN.gguf OUT.gguf     the same; --type is then required\n"
    "  verify PATH                   checksums (of files from latent-convert) and finite values\n"
    "  verify A B                    the values of two models' tensors side by side\n\n"
    "PATH is a GGUF file, the first part of a split one, or a Hugging Face folder.\n\n"
    "  --type TYPE              f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k q4_k q5_k q6_k\n"
    "                           iq4_nl iq4_xs: all matrices (to-gguf without it: f16)\n"
    "                           q3_k_m q4_k_m q5_k_m: mixtures; embeddings, output, and some\n"
    "                           values and down-projections get more bits\n"
    "  --tensor-type PAT=TYPE   another type for matrices whose GGUF name matches PAT, as in\n"
    "                           'blk.*.attn_output*=q8_0'; the first that matches counts\n"
    "  --split-size SIZE        parts of at most SIZE (20G, 500M) each, if a tensor fits\n"
    "  --threads N              (CPUs that this process may use)\n"
    "  --dry-run                prints the plan and stops\n"
    "  --force                  replaces files that are there\n"
    "  --quiet                  neither plan nor progress\n";

struct options {
    struct plan_options plan;
    struct emit_options emit;
    bool json, dry_run;
};

int convert_fail(const struct err *e)
{
    fprintf(stderr, "latent-convert: %s\n", e->text);
    return e->code == ERR_CANCELED ? EXIT_INTERRUPTED : 1;
}

static int wrong(const char *fmt, const char *what)
{
    fprintf(stderr, "latent-convert: ");
    fprintf(stderr, fmt, what);
    fputc('\n', stderr);
    return -1;
}

static int parse_override(struct plan_options *o, char *s)
{
    char *type = strrchr(s, '=');
    if (!type || type == s)
        return wrong("--tensor-type is PATTERN=TYPE, not \"%s\"", s);
    *type++ = 0;
    const struct recipe *r = recipe_find(type);
    if (!r || r->mixed)
        return wrong("--tensor-type: \"%s\" is no type; see --help", type);
    if (o->n_overrides == PLAN_MAX_OVERRIDES)
        return wrong("--tensor-type may be given at most %s times", "64");
    o->overrides[o->n_overrides++] = (struct plan_override){s, r->base};
    return 0;
}

static int parse_size(const char *s, uint64_t *ret)
{
    char *end;
    double v = strtod(s, &end);
    double unit = *end == 'G' || *end == 'g' ? 1e9 : *end == 'M' || *end == 'm' ? 1e6 : 1;
    if (unit > 1)
        end++;
    if (end == s || *end || !(v * unit >= MIN_SPLIT_BYTES && v * unit < 1e15))
        return wrong("--split-size is a size of 1M or more, like 20G, not \"%s\"", s);
    *ret = (uint64_t)(v * unit);
    return 0;
}

static int parse_threads(const char *s, int *ret)
{
    char *end;
    long v = strtol(s, &end, 10);
    if (end == s || *end || v < 1 || v > MAX_THREADS)
        return wrong("--threads is an integer in 1..1024, not \"%s\"", s);
    *ret = (int)v;
    return 0;
}

/* 0; -1 said what is wrong; 1: help was asked for. */
static int parse(int argc, char **argv, struct options *o)
{
    enum { TYPE = 256, TENSOR_TYPE, SPLIT_SIZE, THREADS, DRY_RUN, FORCE, QUIET, JSON };
    static const struct option longs[] = {
        {"type", 1, 0, TYPE},       {"tensor-type", 1, 0, TENSOR_TYPE}, {"split-size", 1, 0, SPLIT_SIZE},
        {"threads", 1, 0, THREADS}, {"dry-run", 0, 0, DRY_RUN},         {"force", 0, 0, FORCE},
        {"quiet", 0, 0, QUIET},     {"json", 0, 0, JSON},               {"help", 0, 0, 'h'},
        {"version", 0, 0, 'V'},     {0, 0, 0, 0},
    };
    int opt, r = 0;
    while (r == 0 && (opt = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        switch (opt) {
        case TYPE:
            o->plan.recipe = recipe_find(optarg);
            if (!o->plan.recipe) {
                fprintf(stderr, "latent-convert: --type is one of %s, not \"%s\"\n", recipe_names(),
                        optarg);
                r = -1;
            }
            break;
        case TENSOR_TYPE: r = parse_override(&o->plan, optarg); break;
        case SPLIT_SIZE: r = parse_size(optarg, &o->plan.split_bytes); break;
        case THREADS: r = parse_threads(optarg, &o->emit.n_threads); break;
        case DRY_RUN: o->dry_run = true; break;
        case FORCE: o->emit.force = true; break;
        case QUIET: o->emit.quiet = true; break;
        case JSON: o->json = true; break;
        case 'V': printf("latent-convert %s\n", PACKAGE_VERSION); return 1;
        case 'h': fputs(usage_text, stdout); return 1;
        default: r = -1;
        }
    }
    return r;
}

static int convert(const char *in, struct options *o)
{
    struct source s = {0};
    struct plan p = {0};
    struct err e = {0};
    char need[32], have[32];
    int r = source_open(in, &s, &e);
    if (r == 0)
        r = plan_make(&s, &o->plan, &p, &e);
    if (r == 0 && !o->emit.quiet) {
        uint64_t free_bytes;
        bool known = emit_free_bytes(o->emit.path, &free_bytes);
        plan_print(&p, stdout);
        printf("needs %s on disk, %s are free\n", plan_size(p.n_bytes, need),
               known ? plan_size(free_bytes, have) : "an unknown number of bytes");
        fflush(stdout);
    }
    if (r == 0)
        r = o->dry_run ? emit_check(&p, &o->emit, &e) : emit_run(&p, &o->emit, &e);
    plan_done(&p);
    source_close(&s);
    return r < 0 ? convert_fail(&e) : 0;
}

static int usage_error(void)
{
    fprintf(stderr, "latent-convert: what is asked for is not clear; see latent-convert --help\n");
    return 1;
}

static int run(int argc, char **argv)
{
    struct options o = {.emit = {.n_threads = pool_default_threads()}};
    int r = parse(argc, argv, &o);
    if (r)
        return r < 0;
    char **arg = argv + optind;
    int n = argc - optind - 1; /* arguments of the command */
    if (n >= 1 && !strcmp(arg[0], "info") && n == 1)
        return convert_info(arg[1], o.json);
    if (n >= 1 && !strcmp(arg[0], "verify") && n <= 2)
        return n == 1 ? convert_verify(arg[1]) : convert_compare(arg[1], arg[2]);
    bool quantize = n >= 0 && !strcmp(arg[0], "quantize");
    if (n != 2 || !(quantize || !strcmp(arg[0], "to-gguf")))
        return usage_error();
    if (quantize && !o.plan.recipe) {
        fprintf(stderr, "latent-convert: quantize needs --type: one of %s\n", recipe_names());
        return 1;
    }
    if (!o.plan.recipe)
        o.plan.recipe = recipe_find("f16");
    o.emit.path = arg[2];
    return convert(arg[1], &o);
}

int main(int argc, char **argv)
{
    log_keep_standard();
    int status = run(argc, argv);
    if ((fflush(stdout) || ferror(stdout)) && status == 0) {
        fprintf(stderr, "latent-convert: cannot write standard output: %s\n", strerror(errno));
        status = 1;
    }
    return status;
}
