/* tests/kernels/checker.h - what the checks of t_kernels.c share: the kernels under test, guarded floats,
 * comparison within a bound. One thread; each check runs in a process of its own. */
#ifndef LATENT_TESTS_KERNELS_CHECKER_H
#define LATENT_TESTS_KERNELS_CHECKER_H

#include <check.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/cpu.h"
#include "engine/kernels/kern.h"
#include "tests/kernels/guard.h"
#include "tests/kernels/values.h"

#define EPS 0x1p-23  /* twice the rounding error: two ways of rounding are compared */

enum check_class { EXACT, FMA, ATTN };

extern unsigned long long checker_seed;
extern const struct kernels *generic; /* the definition */
extern const struct kernels *level;   /* under test; may be the definition itself */
extern enum check_class class_now;
extern const char *name_now;
extern int case_now;

#define FAIL(...)                                                                                  \
    do {                                                                                           \
        char why[160];                                                                             \
        snprintf(why, sizeof(why), __VA_ARGS__);                                                   \
        ck_abort_msg("%s at %s: %s (case %d, seed %llu)", name_now, cpu_level_name(level->level),  \
                     why, case_now, checker_seed);                                                 \
    } while (0)

void check_guards(void);
/* got and def (plain C) against the float64 answer. A bound that is not finite says nothing; an answer
 * that is NaN must be met. */
void check_floats(const char *what, const float *got, const float *def, const double *want,
                  const double *bound, int n);
/* Equal bits, but for the sign of a zero. NaN equals NaN. */
bool same_floats(const float *a, const float *b, size_t n);
float *floats(int n); /* guarded */
float *random_floats(int n);

/* What a piece of attention answers for some lanes; o: their values, `stride` apart. */
struct result {
    float *m, *l, *o;
};
/* o is filled with `fill`. */
struct result result_new(int lanes, size_t stride, float fill);
/* After the call: nothing but dv values of the lanes whose limit is above 0 was written to o; then the lanes'
 * values lie side by side. */
void result_close(const struct result *r, int lanes, const int32_t *limit, int dv, size_t stride, float fill);

/* check_attention.c */
void check_attn_pack(void);
void check_attn_piece(void);
void check_attn_fold(void);
void check_row_store(void);
/* check_gate.c */
void check_gate_pack(void);
void check_gate_factors(void);
void check_gate_query(void);
void check_gate_piece(void);
/* check_products.c */
void check_product(enum tensor_type type, bool rounded);
void check_rounded_weights(enum tensor_type type);

/* check_small.c */
void check_lane_max(void);
void check_collect(void);
void check_soft_weights(void);
void check_sum_from(void);
void check_rotate(void);
void check_rotate_rows(void);
void check_gated_rows(void);

#endif
