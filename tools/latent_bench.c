/* tools/latent_bench.c - measures kernels, steps and requests, each figure beside the machine's bound
 * taken in the same run. This file reads the command line. See docs/performance.md for the method. */
#include "config.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/pool.h"
#include "tools/bench.h"

#define MAX_BATCH 1024
#define MAX_TOKENS (1 << 20)

static const struct {
    const char *name, *help;
} modes[] = {
    [MODE_KERNELS] = {"kernels", "each kernel on one core; needs no model"},
    [MODE_DECODE] = {"decode", "--batch sequences decode --tokens behind --context tokens each"},
    [MODE_BATCH] = {"batch", "the same for 1, 2, 4 ... --batch sequences"},
    [MODE_SHARED] = {"shared", "--batch sequences decode behind a common prefix of --shared tokens"},
    [MODE_PREFILL] = {"prefill", "--tokens prompt tokens behind --context tokens"},
    [MODE_SERVE] = {"serve", "--batch requests at once through scheduler and sampling: --context\n"
                             "            prompt tokens and --tokens out each"},
    [MODE_SCHEMES] = {"schemes", "decode in each scheme of latent attention (mla_scheme), with the\n"
                                 "            multiply-adds and bytes that each should take a step"},
    [MODE_FAMILY] = {"family", "the models in the folder that --model names, in one table: cache bytes of a\n"
                               "            token, perplexity on --text, decode behind --context, prefill"},
};
enum { N_MODES = sizeof(modes) / sizeof(modes[0]) };

static const struct {
    const char *key, *value;
} conf[] = {
#define SECRET(key, help)
#define TEXT(key, def, help)
#define BOOL(key, def, help)
#define CHOICE(key, def, choices, help)
#define INT(key, def, min, max, help) {#key, def},
#define SIZE(key, def, min, max, help)
#define TIME(key, def, min, max, help)
#define GROUP(title)
#include "server/conf.def"
#undef CHOICE
#undef INT
};

static const struct {
    const char *key, *choices;
} choices[] = {
#define CHOICE(key, def, list, help) {#key, list},
#define INT(key, def, min, max, help)
#include "server/conf.def"
};

static const char *cache_types(void)
{
    for (size_t i = 0; i < sizeof(choices) / sizeof(choices[0]); i++)
        if (!strcmp(choices[i].key, "cache_type"))
            return choices[i].choices;
    return "";
}

int bench_conf_int(const char *key)
{
    for (size_t i = 0; i < sizeof(conf) / sizeof(conf[0]); i++)
        if (!strcmp(conf[i].key, key))
            return atoi(conf[i].value);
    return 0;
}

const char *bench_cache_type_name(int i)
{
    static char name[32];
    const char *s = cache_types();
    for (; i > 0 && s; i--)
        s = strchr(s, ' ') ? strchr(s, ' ') + 1 : NULL;
    if (!s)
        return NULL;
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(s, " "), s);
    return name;
}

static void usage(FILE *f)
{
    fprintf(f, "usage: latent-bench MODE [--model PATH] [options]\n\n");
    for (int i = 0; i < N_MODES; i++)
        fprintf(f, "  %-8s  %s\n", modes[i].name, modes[i].help);
    fprintf(f,
            "\nLists, as 1,4,16; every combination is measured after one load of the model:\n"
            "  --batch N (1; batch: 16; serve: 1,32)   --context N (0; serve: 256; kernels: 16384)\n"
            "  --tokens N (32; prefill: 512; serve: 64)   --shared N (0; shared: 1024)\n"
            "and with a load for each:\n"
            "  --cpu LEVEL (the best here)   --threads N (all that this process may use)\n\n"
            "  --cache-type %s (the first)   --chunk N (%d) prompt tokens of a step\n"
            "  --repeat N (5) measurements after a warm-up   --kernel NAME (all) kernel or weight type\n"
            "  --text FILE for the perplexity of mode family\n"
            "  --profile   shares of products, attention and the rest of a step's time\n"
            "  --json      one object: machine, model, rows\n\n"
            "A row is the median, with least and most, beside its bound: the bytes that must be read once\n"
            "(touched weights, cache rows, those of a common prefix once) over the read bandwidth, or\n"
            "multiply-adds over the peak of the level's unit, whichever takes longer. Integer weights count\n"
            "against the int8 peak, float weights and attention against the better of float32 and bfloat16;\n"
            "attention counts as absorbed or decompressed, whichever is less. Bandwidth and peaks are\n"
            "measured at the start with the same threads: huge pages read in order, and loops of\n"
            "nothing but the unit's instruction on registers. The ratio is value over bound, for a time\n"
            "bound over value.\n",
            cache_types(), bench_conf_int("prefill_chunk"));
}

static bool parse_number(const char *s, const char *end, int min, int max, int *ret)
{
    char *stop;
    long v = strtol(s, &stop, 10);
    if (stop == s || stop != end || v < min || v > max)
        return false;
    *ret = (int)v;
    return true;
}

/* Ends the program with a message when it is wrong. */
static void parse_list(const char *name, const char *s, int min, int max, struct bench_list *ret)
{
    for (ret->n = 0;; s++) {
        const char *end = s + strcspn(s, ",");
        if (ret->n == BENCH_MAX_LIST || !parse_number(s, end, min, max, &ret->v[ret->n])) {
            fprintf(stderr, "latent-bench: --%s takes at most %d integers in %d..%d, not \"%s\"\n", name,
                    BENCH_MAX_LIST, min, max, s);
            exit(1);
        }
        ret->n++;
        s = end;
        if (!*s)
            return;
    }
}

static int parse_one(const char *name, const char *s, int min, int max)
{
    int v;
    if (!parse_number(s, s + strlen(s), min, max, &v)) {
        fprintf(stderr, "latent-bench: --%s takes one integer in %d..%d, not \"%s\"\n", name, min, max, s);
        exit(1);
    }
    return v;
}

static void parse_levels(const char *s, struct bench_list *ret)
{
    for (ret->n = 0;; s++) {
        char name[16] = "";
        size_t n = strcspn(s, ",");
        snprintf(name, sizeof(name), "%.*s", (int)n, s);
        int level = cpu_level_parse(name);
        if (level < 0 || ret->n == BENCH_MAX_LIST) {
            fprintf(stderr, "latent-bench: --cpu is generic, avx2, avx512, amx or neon, not \"%s\"\n", name);
            exit(1);
        }
        if (!kern_level_built((enum cpu_level)level)) {
            fprintf(stderr, "latent-bench: --cpu %s: this machine, or this build, has at most %s\n", name,
                    cpu_level_name(kern_table(cpu_detect())->level));
            exit(1);
        }
        ret->v[ret->n++] = level;
        s += n;
        if (!*s)
            return;
    }
}

static int parse_cache_type(const char *s)
{
    for (int i = 0; bench_cache_type_name(i); i++)
        if (!strcmp(bench_cache_type_name(i), s))
            return i;
    fprintf(stderr, "latent-bench: --cache-type is one of %s\n", cache_types());
    exit(1);
}

static void sort_list(struct bench_list *l)
{
    for (int i = 1; i < l->n; i++)
        for (int j = i; j > 0 && l->v[j - 1] > l->v[j]; j--) {
            int t = l->v[j];
            l->v[j] = l->v[j - 1];
            l->v[j - 1] = t;
        }
}

static void default_to(struct bench_list *l, int a, int b)
{
    if (l->n == 0) {
        l->v[l->n++] = a;
        if (b)
            l->v[l->n++] = b;
    }
}

static void fill_in(struct bench_options *o, enum bench_mode mode)
{
    if (mode == MODE_FAMILY && o->context.n == 0)
        parse_list("context", "0,2048,8192", 0, MAX_TOKENS, &o->context);
    default_to(&o->context, mode == MODE_SERVE ? 256 : mode == MODE_KERNELS ? 16384 : 0, 0);
    default_to(&o->tokens, mode == MODE_PREFILL ? 512 : mode == MODE_SERVE ? 64 : 32, 0);
    default_to(&o->shared, mode == MODE_SHARED ? 1024 : 0, 0);
    default_to(&o->batch, mode == MODE_BATCH || mode == MODE_SHARED ? 16 : 1, mode == MODE_SERVE ? 32 : 0);
    default_to(&o->threads, mode == MODE_KERNELS ? 1 : pool_default_threads(), 0);
    if (mode == MODE_BATCH && o->batch.n == 1) {
        int most = o->batch.v[0];
        o->batch.n = 0;
        for (int n = 1; n < most && o->batch.n < BENCH_MAX_LIST - 1; n *= 2)
            o->batch.v[o->batch.n++] = n;
        o->batch.v[o->batch.n++] = most;
    }
    if (o->levels.n == 0 && mode == MODE_KERNELS) {
        for (int l = CPU_GENERIC + 1; l < CPU_LEVEL_MAX; l++)
            if (kern_level_built((enum cpu_level)l))
                o->levels.v[o->levels.n++] = l;
    }
    if (o->levels.n == 0)
        o->levels.v[o->levels.n++] = (int)kern_table(cpu_detect())->level;
    sort_list(&o->context); /* longer contexts grow out of shorter ones */
    if (!o->chunk)
        o->chunk = bench_conf_int("prefill_chunk");
}

static int run_all(const struct bench_options *o, enum bench_mode mode, struct err *e)
{
    int r = 0;
    for (int l = 0; r == 0 && l < o->levels.n; l++)
        for (int t = 0; r == 0 && t < o->threads.n; t++) {
            struct bench_machine m;
            if ((r = bench_machine_measure(o->threads.v[t], (enum cpu_level)o->levels.v[l], &m, e)) < 0)
                return r;
            bench_report_machine(&m);
            r = mode == MODE_KERNELS ? bench_kernels_run(o, &m, e)
                : mode == MODE_SERVE ? bench_serve_run(o, &m, e)
                : mode == MODE_SCHEMES ? bench_schemes_run(o, &m, e)
                : mode == MODE_FAMILY ? bench_family_run(o, &m, e)
                                     : bench_model_run(o, mode, modes[mode].name, &m, e);
        }
    if (r == 0 && o->kernel && bench_report_rows() == 0)
        return err_set_param(e, ERR_NOTFOUND, "--kernel",
                             "--kernel: no kernel or weight type is called \"%.60s\"", o->kernel);
    return r;
}

int main(int argc, char **argv)
{
    struct bench_options o = {.repeat = 5};
    static const struct option longs[] = {
        {"model", 1, 0, 'm'},   {"batch", 1, 0, 'b'},      {"context", 1, 0, 'c'},
        {"tokens", 1, 0, 't'},  {"shared", 1, 0, 's'},     {"repeat", 1, 0, 'r'},
        {"threads", 1, 0, 'n'}, {"cache-type", 1, 0, 'y'}, {"cpu", 1, 0, 'u'},
        {"chunk", 1, 0, 'k'},   {"kernel", 1, 0, 'e'},     {"profile", 0, 0, 'p'},
        {"text", 1, 0, 'x'},
        {"json", 0, 0, 'j'},    {"help", 0, 0, 'h'},       {"version", 0, 0, 'V'},
        {0, 0, 0, 0},
    };
    int opt;
    while ((opt = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        switch (opt) {
        case 'm': o.model = optarg; break;
        case 'b': parse_list("batch", optarg, 1, MAX_BATCH, &o.batch); break;
        case 'c': parse_list("context", optarg, 0, MAX_TOKENS, &o.context); break;
        case 't': parse_list("tokens", optarg, 1, MAX_TOKENS, &o.tokens); break;
        case 's': parse_list("shared", optarg, 0, MAX_TOKENS, &o.shared); break;
        case 'n': parse_list("threads", optarg, 1, 1024, &o.threads); break;
        case 'r': o.repeat = parse_one("repeat", optarg, 1, BENCH_MAX_REPEAT); break;
        case 'k': o.chunk = parse_one("chunk", optarg, 1, 65536); break;
        case 'e': o.kernel = optarg; break;
        case 'x': o.text = optarg; break;
        case 'p': o.profile = true; break;
        case 'j': o.json = true; break;
        case 'y': o.cache_type = parse_cache_type(optarg); break;
        case 'u': parse_levels(optarg, &o.levels); break;
        case 'h': usage(stdout); return 0;
        case 'V': return puts("latent-bench " PACKAGE_VERSION) < 0 || fflush(stdout) != 0;
        default: usage(stderr); return 1;
        }
    }
    int mode = 0;
    while (optind < argc && mode < N_MODES && strcmp(modes[mode].name, argv[optind]))
        mode++;
    if (optind + 1 != argc || mode == N_MODES || (!o.model && mode != MODE_KERNELS)) {
        usage(stderr);
        return 1;
    }
    if (mode != MODE_SHARED && o.shared.n > 0) {
        fprintf(stderr, "latent-bench: --shared belongs to mode shared\n");
        return 1;
    }
    if (mode != MODE_KERNELS && o.kernel) {
        fprintf(stderr, "latent-bench: --kernel belongs to mode kernels\n");
        return 1;
    }
    if (mode != MODE_FAMILY && o.text) {
        fprintf(stderr, "latent-bench: --text belongs to mode family\n");
        return 1;
    }
    fill_in(&o, (enum bench_mode)mode);
    for (int i = 0; mode == MODE_SERVE && i < o.context.n; i++)
        if (o.context.v[i] < 1) {
            fprintf(stderr, "latent-bench: serve needs prompts: --context of at least 1\n");
            return 1;
        }
    struct err e = {0};
    bench_report_begin(&o);
    if (run_all(&o, (enum bench_mode)mode, &e) < 0) {
        fprintf(stderr, "latent-bench: %s\n", e.text);
        return 1;
    }
    bench_report_end();
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "latent-bench: cannot write standard output\n");
        return 1;
    }
    return 0;
}
