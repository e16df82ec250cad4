/* tools/bench.h - what the modes of latent-bench share: options, the machine's bounds, the model under
 * test, what its steps cost at least, and the report. */
#ifndef LATENT_TOOLS_BENCH_H
#define LATENT_TOOLS_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/forward.h"
#include "engine/kernels/kern.h"
#include "engine/model/checkpoint.h"
#include "engine/profile.h"
#include "tools/peak.h"

#define BENCH_MAX_REPEAT 64
#define BENCH_MAX_LIST 16
#define BENCH_MAX_FIELDS 12

struct bench_list {
    int n;
    int v[BENCH_MAX_LIST];
};

/* What the command line asks for. Every combination of the lists is measured. */
struct bench_options {
    const char *model;
    struct bench_list levels, threads, batch, context, tokens, shared;
    int repeat, chunk;
    int cache_type; /* index into the choices of cache_type (server/conf.def) */
    const char *text;   /* mode family: a file; NULL: no perplexity */
    const char *kernel; /* mode kernels: only this kernel or weight type; NULL: all */
    bool json, profile;
    int scheme; /* mode schemes: enum mla_scheme in hand */
};

/* --- the machine ------------------------------------------------------------------------------- */

/* Measured with all threads of a pool at one level. 0: not known. */
struct bench_machine {
    enum cpu_level level;
    int threads;
    double read;              /* bytes a second from memory */
    double peak[PEAK_UNITS];  /* multiply-adds a second */
};

int bench_machine_measure(int threads, enum cpu_level level, struct bench_machine *ret,
                          struct err *e) LATENT_MUST_CHECK;
/* The best rate for weights made of integers, and for floating-point operands. */
double bench_integer_peak(const struct bench_machine *m);
double bench_float_peak(const struct bench_machine *m);

/* --- what work costs at least ------------------------------------------------------------------ */

/* A step of n_seqs sequences with n_tokens new tokens each behind `context` others, of which the first
 * `shared` are common to all; n_logits of the new tokens of each are answered. */
struct bench_step {
    int n_seqs, n_tokens, context, shared, n_logits;
    int scheme; /* enum mla_scheme of latent attention; MLA_AUTO: the cheaper of absorbed and decompressed */
};

struct bench_cost {
    double bytes;                     /* touched weights and cache rows, each once */
    double integer_macs, float_macs;  /* multiply-adds */
};

/* token_bytes: of the cache, one token, all layers. */
struct bench_cost bench_cost_of(const struct checkpoint *ck, double token_bytes,
                                const struct bench_step *s, const struct bench_machine *m);
/* Seconds: bytes over bandwidth or operations over peak, the larger; *ret_limit says which. */
double bench_cost_seconds(const struct bench_cost *c, const struct bench_machine *m,
                          const char **ret_limit);
/* Seconds that n_tokens of a prompt need, `chunk` of them a step. */
double bench_prefill_seconds(const struct checkpoint *ck, double token_bytes, int n_tokens,
                             int context, int chunk, const struct bench_machine *m,
                             const char **ret_limit);

/* --- the report -------------------------------------------------------------------------------- */

struct bench_field {
    const char *key;
    const char *text; /* NULL: the number */
    double number;
};

struct bench_row {
    const char *mode;
    struct bench_field fields[BENCH_MAX_FIELDS]; /* up to the first without a key */
    const char *unit;
    double value, min, max; /* min == max == 0: one measurement */
    double bound;        /* in the same unit; 0: none is known */
    const char *limit;   /* what the bound is: "memory" or "arithmetic" */
    bool less_is_better; /* a time: the ratio is bound / value */
    const struct profile *profile; /* NULL: not asked for */
    double profile_seconds;        /* all of it */
};

void bench_report_begin(const struct bench_options *o);
/* Once for each combination of level and threads, before its rows. */
void bench_report_machine(const struct bench_machine *m);
void bench_report_model(const struct checkpoint *ck, double token_bytes);
int bench_report_rows(void); /* so many so far */
void bench_report_row(const struct bench_row *row);
void bench_report_end(void);
/* Fills value, min and max of a row from n measurements, which it sorts. */
void bench_row_values(struct bench_row *row, double *v, int n);

/* --- modes ------------------------------------------------------------------------------------- */

enum bench_mode {
    MODE_KERNELS,
    MODE_DECODE,
    MODE_BATCH,
    MODE_SHARED,
    MODE_PREFILL,
    MODE_SERVE,
    MODE_SCHEMES,
    MODE_FAMILY
};

/* Each reports its rows; errors through e. */
int bench_model_run(const struct bench_options *o, enum bench_mode mode, const char *name,
                    const struct bench_machine *m, struct err *e) LATENT_MUST_CHECK;
int bench_schemes_run(const struct bench_options *o, const struct bench_machine *m,
                      struct err *e) LATENT_MUST_CHECK;
int bench_family_run(const struct bench_options *o, const struct bench_machine *m,
                     struct err *e) LATENT_MUST_CHECK;
int bench_serve_run(const struct bench_options *o, const struct bench_machine *m,
                    struct err *e) LATENT_MUST_CHECK;
int bench_kernels_run(const struct bench_options *o, const struct bench_machine *m,
                      struct err *e) LATENT_MUST_CHECK;

/* Defaults of the scheduler, from server/conf.def. */
int bench_conf_int(const char *key);
/* The i-th choice of cache_type, NULL beyond the last. */
const char *bench_cache_type_name(int i);

#endif
