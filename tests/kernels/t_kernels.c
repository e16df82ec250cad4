/* tests/kernels/t_kernels.c - every kernel of kern.def at every level of this machine, against plain
 * C and against float64, on random and on hostile values: zeros, denormals, huge ones, equal ones.
 *
 * A check makes one random case, computes its float64 answer with a bound for each output, and runs
 * plain C and the level on the same guarded inputs. EXACT rows must agree bit for bit, FMA rows stay
 * within the bound, which follows from the number of roundings and the sum of the terms' sizes. The
 * products and attention are also run in pieces: a level's answer may not depend on the cutting.
 * A kernel added to kern.def without a check here does not compile.
 * LATENT_TEST_CASES=N makes exactly N cases of each kernel at each level. Plain C's lines then hold a
 * digest wherever no function of libm takes part: of the same seed it is the same on every machine. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "tests/kernels/checker.h"
#include "tests/kernels/formats.h"

#define SECONDS 0.2 /* of each kernel at each level */
#define MIN_CASES 40

unsigned long long checker_seed;
const struct kernels *generic, *level;
enum check_class class_now;
const char *name_now;
int case_now;
static int fixed_cases; /* 0: as many as fit in SECONDS */

void check_guards(void)
{
    if (guard_damaged())
        FAIL("wrote beside its output");
}

void check_floats(const char *what, const float *got, const float *def, const double *want,
                         const double *bound, int n)
{
    for (int i = 0; i < n; i++) {
        if (class_now == EXACT) {
            if (memcmp(&got[i], &def[i], sizeof(*got)) != 0)
                FAIL("%s[%d] is %a, not %a", what, i, (double)got[i], (double)def[i]);
            continue;
        }
        if (isnan(want[i]) && isfinite(bound[i])) {
            if (!isnan(def[i]) || !isnan(got[i]))
                FAIL("%s[%d] of %d is %a, plain C: %a; want NaN", what, i, n, (double)got[i],
                     (double)def[i]);
            continue;
        }
        if (!isfinite(bound[i]) || fabs(want[i]) + bound[i] > 3.3e38)
            continue;
        if (!(fabs((double)def[i] - want[i]) <= bound[i]))
            FAIL("plain C: %s[%d] of %d is %a, want %a within %g", what, i, n, (double)def[i], want[i],
                 bound[i]);
        if (!(fabs((double)got[i] - want[i]) <= bound[i]))
            FAIL("%s[%d] of %d is %a, want %a within %g", what, i, n, (double)got[i], want[i], bound[i]);
    }
}

bool same_floats(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i] && !(a[i] != a[i] && b[i] != b[i]))
            return false;
    return true;
}

float *floats(int n)
{
    return guard_new((size_t)n * sizeof(float), sizeof(float));
}

float *random_floats(int n)
{
    float *p = floats(n);
    values_fill(p, n);
    return p;
}

struct result result_new(int lanes, size_t stride, float fill)
{
    struct result r = {floats(lanes), floats(lanes), floats(lanes * (int)stride)};
    for (int i = 0; i < lanes * (int)stride; i++)
        r.o[i] = fill;
    return r;
}

void result_close(const struct result *r, int lanes, const int32_t *limit, int dv, size_t stride, float fill)
{
    check_guards();
    for (int i = 0; i < lanes; i++)
        for (int d = limit[i] > 0 ? dv : 0; d < (int)stride; d++)
            if (r->o[(size_t)i * stride + (size_t)d] != fill)
                FAIL("lane %d: value %d of %d was written", i, d, dv);
    for (int i = 0; i < lanes; i++)
        memmove(r->o + (size_t)i * (size_t)dv, r->o + (size_t)i * stride, (size_t)dv * 4);
}

/* --- products (check_products.c) --------------------------------------------------------------- */

#define KERN(name, ret, args, check_class)
#define KERN_MUL(name, type)                                                                       \
    static void check_##name(void)                                                                 \
    {                                                                                              \
        check_product(type, false);                                                                \
    }
#include "engine/kernels/kern.def"
#undef KERN

static void check_mul_rounded(void)
{
    static const enum tensor_type types[] = {TT_Q8_0, TT_Q4_0, TT_Q4_1, TT_Q5_0, TT_Q5_1, TT_Q2_K,
                                             TT_Q3_K, TT_Q4_K, TT_Q5_K, TT_Q6_K, TT_IQ4_NL, TT_IQ4_XS};
    enum tensor_type type = types[values_below((int)(sizeof(types) / sizeof(types[0])))];
    check_product(type, true);
    if (case_now % 8 == 0)
        check_rounded_weights(type);
}

/* --- index keys -------------------------------------------------------------------------------- */

static double row_value(const struct index_block *b, int t, int i)
{
    const unsigned char *row = (const unsigned char *)b->rows + (size_t)t * b->row_bytes;
    float f;
    if (b->row_type == TT_BF16)
        return values_bf16(row + 2 * (size_t)i);
    memcpy(&f, row + 4 * (size_t)i, 4);
    return (double)f;
}

static void check_index_scores(void)
{
    struct index_block b = {.n_rows = 1 + values_below(70), .dim = 1 + values_below(150)};
    b.row_type = values_below(2) ? TT_BF16 : TT_F32;
    size_t size = b.row_type == TT_BF16 ? 2 : 4, elems = (size_t)(b.dim + values_below(3));
    int heads = 1 + values_below(5 * KERN_LANES - 1);
    b.n_groups = (heads + KERN_LANES - 1) / KERN_LANES;
    b.row_bytes = elems * size;
    unsigned char *rows = guard_new(b.row_bytes * (size_t)b.n_rows, 64);
    float *q = guard_new((size_t)b.n_groups * KERN_LANES * (size_t)b.dim * sizeof(float), 64);
    float *w = guard_new((size_t)b.n_groups * KERN_LANES * sizeof(float), 64);
    if (b.row_type == TT_BF16)
        values_half(rows, (int)elems * b.n_rows, true);
    else
        values_fill((float *)(void *)rows, (int)elems * b.n_rows);
    values_fill(q, b.n_groups * KERN_LANES * b.dim);
    values_fill(w, b.n_groups * KERN_LANES);
    for (int h = heads; h < b.n_groups * KERN_LANES; h++) {
        w[h] = 0.0f;
        for (int d = 0; d < b.dim; d++)
            q[((size_t)(h / KERN_LANES) * (size_t)b.dim + (size_t)d) * KERN_LANES + h % KERN_LANES] = 0.0f;
    }
    b.rows = rows;
    b.q = q;
    b.w = w;
    b.scratch = guard_new(kern_index_scratch_floats(b.dim, b.n_rows) * sizeof(float), 64);
    float *got = floats(b.n_rows), *def = floats(b.n_rows), *alone = floats(b.n_rows);
    struct index_block bg = b, bd = b;
    bg.scores = got;
    bd.scores = def;
    level->index_scores(&bg);
    generic->index_scores(&bd);
    check_guards();
    double tiny = level->level == CPU_AMX ? 2.5e-38 : 0; /* tiles take subnormals as zero */
    for (int t = 0; t < b.n_rows; t++) {
        double want = 0, bound = 0, biggest = 0, lost = 0;
        for (int h = 0; h < heads; h++) {
            double s = 0, sum = 0, weight = (double)w[h];
            for (int d = 0; d < b.dim; d++) {
                double key = row_value(&b, t, d);
                double x = (double)q[(h / KERN_LANES * b.dim + d) * KERN_LANES + h % KERN_LANES];
                s += key * x;
                sum += fabs(key * x);
                lost += fabs(weight) * tiny * (fabs(key) + fabs(x) + 1);
            }
            biggest = fmax(biggest, sum);
            want += weight * fmax(s, 0.0);
            bound += fabs(weight) * ((b.dim + b.n_groups + KERN_LANES + 2) * EPS * sum + b.dim * 3e-45);
        }
        biggest = fmax(biggest, bound / EPS);
        bound = biggest > 3e37 ? INFINITY : bound + lost + heads * 3e-45;
        check_floats("scores", &got[t], &def[t], &want, &bound, 1);
    }
    for (int t = 0; t < b.n_rows; t++) { /* one row at a time is the same */
        struct index_block one = b;
        one.rows = rows + (size_t)t * b.row_bytes;
        one.n_rows = 1;
        one.scores = alone + t;
        level->index_scores(&one);
    }
    if (!same_floats(alone, got, (size_t)b.n_rows))
        FAIL("rows one by one differ");
}

/* --- rows -------------------------------------------------------------------------------------- */

static void check_act_q8(void)
{
    int n = 32 * (1 + values_below(20));
    size_t bytes = kern_act_bytes(TT_Q8_0, n);
    float *x = random_floats(n);
    values_spoil(x, n, values_below(8)); /* what a broken model may produce */
    if (values_below(4) == 0) /* halves: the rounding to even shows */
        for (int i = 0; i < n; i++)
            x[i] = i % 32 ? (float)(values_below(508) - 254) * 0.5f : 127.0f;
    unsigned char *got = guard_new(bytes, 64), *def = guard_new(bytes, 64);
    level->act_q8(x, n, got);
    generic->act_q8(x, n, def);
    check_guards();
    size_t used = (size_t)(n / 32) * 48;
    for (size_t i = 0; i < used; i++)
        if (got[i] != def[i])
            FAIL("byte %zu of %zu (%d values) is %d, not %d", i, used, n, got[i], def[i]);
    const float *d = (const float *)(const void *)def;
    const int32_t *s = (const int32_t *)(const void *)def + n / 32;
    const int8_t *q = (const int8_t *)def + (size_t)(n / 32) * 8;
    const int16_t *h = (const int16_t *)(const void *)(q + n);
    const float *t = (const float *)(const void *)(h + n / 16);
    for (int b = 0; b < n / 32; b++) {
        int sum = 0, half = 0;
        for (int i = 0; i < 32; i++) {
            float v = x[32 * b + i];
            sum += q[32 * b + i];
            half += i < 16 ? q[32 * b + i] : 0;
            if (q[32 * b + i] == -128)
                FAIL("plain C: value %d is -128", 32 * b + i);
            if (v != v && q[32 * b + i] != 0)
                FAIL("plain C: NaN is %d", q[32 * b + i]);
            if (isfinite(v) && d[b] > 1e-30f && d[b] < 2e36f &&
                fabs((double)q[32 * b + i] * (double)d[b] - (double)v) > 0.5001 * (double)d[b])
                FAIL("plain C: value %d is not the nearest", 32 * b + i);
        }
        if (s[b] != -128 * sum)
            FAIL("plain C: sum of block %d", b);
        if (h[2 * b] != half || h[2 * b + 1] != sum - half || t[b] != d[b] * (float)sum)
            FAIL("plain C: sums of halves or total of block %d", b);
    }
}

static void check_rms_norm(void)
{
    int n = 1 + values_below(200), in_place = values_below(2);
    float *x = random_floats(n), *w = random_floats(n), *y = floats(n), *def = floats(n);
    float eps = values_below(2) ? 1e-6f : 1e-5f;
    double want[200], bound[200], sum = 0, scale;
    for (int i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    scale = 1.0 / sqrt(sum / n + (double)eps);
    for (int i = 0; i < n; i++) {
        want[i] = (double)x[i] * scale * (double)w[i];
        bound[i] = (n / 16 + 24) * EPS * fabs(want[i]) + 3e-45 * (1 + fabs((double)w[i]) + scale);
        if (sum > 3e38)
            bound[i] = INFINITY;
    }
    generic->rms_norm(x, w, n, eps, def);
    if (in_place)
        memcpy(y, x, (size_t)n * sizeof(*y));
    level->rms_norm(in_place ? y : x, w, n, eps, y);
    check_guards();
    check_floats("y", y, def, want, bound, n);
}

static void check_silu_mul(void)
{
    int n = 1 + values_below(200);
    float *g = random_floats(n), *u = random_floats(n), *y = floats(n), *def = floats(n);
    double want[200], bound[200];
    if (values_below(3) == 0)
        for (int i = 0; i < n; i++)
            g[i] = values_uniform() * 120.0f; /* both ends of exp */
    for (int i = 0; i < n; i++) {
        double x = (double)g[i], up = (double)u[i], s = x / (1.0 + exp(-x));
        want[i] = s * up;
        /* beyond the end of exp the answer is next to nothing, not nothing */
        bound[i] = 16 * EPS * fabs(want[i]) + fabs(up) * (x < -80 ? fmin(-x, 200) * 1e-35 : 3e-45) + 3e-45;
    }
    generic->silu_mul(g, u, n, def);
    bool in_place = values_below(2);
    float *out = in_place ? g : y;
    level->silu_mul(g, u, n, out);
    check_guards();
    check_floats("out", out, def, want, bound, n);
}

static void check_axpy(void)
{
    int n = 1 + values_below(200);
    float *x = random_floats(n), *y = random_floats(n), *def = floats(n), a;
    double want[200], bound[200];
    values_fill(&a, 1);
    memcpy(def, y, (size_t)n * sizeof(*y));
    for (int i = 0; i < n; i++) {
        want[i] = (double)y[i] + (double)a * (double)x[i];
        bound[i] = 2 * EPS * (fabs((double)y[i]) + fabs((double)a * (double)x[i])) + 3e-45;
        if (fabs((double)a * (double)x[i]) > 3e38)
            bound[i] = INFINITY;
    }
    level->axpy(a, x, n, y);
    generic->axpy(a, x, n, def);
    check_guards();
    check_floats("y", y, def, want, bound, n);
}

static void check_f32_to_bf16(void)
{
    int n = 1 + values_below(200);
    float *x = random_floats(n);
    values_spoil(x, n, values_below(20));
    if (values_below(2)) {
        uint32_t *bits = (uint32_t *)(void *)x; /* any bits at all, ties among them */
        for (int i = 0; i < n; i++) {
            bits[i] = values_bits();
            if (values_below(3) == 0)
                bits[i] = (bits[i] & 0xffff0000u) | 0x8000u;
        }
    }
    uint16_t *got = guard_new((size_t)n * 2, 2), *def = guard_new((size_t)n * 2, 2);
    level->f32_to_bf16(x, n, got);
    generic->f32_to_bf16(x, n, def);
    check_guards();
    for (int i = 0; i < n; i++) {
        double v = (double)x[i], near = values_bf16(&def[i]);
        if (got[i] != def[i])
            FAIL("%a becomes %04x, not %04x", v, got[i], def[i]);
        if ((v != v) != (near != near))
            FAIL("plain C: %a becomes %04x", v, def[i]);
        if (isfinite(v) && isfinite(near) && fabs(near - v) > ldexp(fabs(v), -8) + 1e-40)
            FAIL("plain C: %a becomes %a", v, near);
    }
}

static void check_max_logsumexp(void)
{
    int n = 1 + values_below(300);
    float *x = random_floats(n), max = 1.0f, lse = 1.0f, def_max = 2.0f, def_lse = 2.0f;
    double top = -INFINITY, sum = 0, bound = 0, want;
    if (values_below(3) == 0)
        for (int i = 0; i < n; i++)
            x[i] = values_uniform() * 100.0f;
    if (n > 1 && values_below(3) == 0) /* tokens that may not be chosen */
        for (int k = values_below(n - 1); k > 0; k--)
            x[1 + values_below(n - 1)] = -INFINITY;
    for (int i = 0; i < n; i++)
        top = fmax(top, (double)x[i]);
    for (int i = 0; i < n; i++)
        sum += exp((double)x[i] - top);
    level->max_logsumexp(x, n, &max, &lse);
    generic->max_logsumexp(x, n, &def_max, &def_lse);
    check_guards();
    check_floats("max", &max, &def_max, &top, &bound, 1);
    want = top + log(sum);
    bound = 2 * EPS * (fabs(want) + fabs(top)) + (n / 16 + 32) * EPS + 200 * EPS;
    check_floats("logsumexp", &lse, &def_lse, &want, &bound, 1);
}

/* --- running ----------------------------------------------------------------------------------- */

static const struct row {
    const char *name;
    enum check_class check_class;
    void (*check)(void);
} rows[] = {
#define KERN(name, ret, args, check_class) {#name, check_class, check_##name},
#include "engine/kernels/kern.def"
#undef KERN
};
#define N_ROWS ((int)(sizeof(rows) / sizeof(rows[0])))

/* Item i: level i / N_ROWS, kernel i % N_ROWS. */
START_TEST(test_kernel)
{
    enum cpu_level l = (enum cpu_level)(_i / N_ROWS);
    const struct row *row = &rows[_i % N_ROWS];
    if (!kern_level_built(l))
        return;
#ifdef EMULATED
    if (l < CPU_AVX512) /* t_kernels does these */
        return;
#endif
    generic = kern_table(CPU_GENERIC);
    level = kern_table(l);
    ck_assert_int_eq((int)level->level, (int)l);
    class_now = row->check_class;
    name_now = row->name;
    values_seed(checker_seed + (unsigned long long)_i * 1000003u);
    int64_t end = clock_now_ns() + (int64_t)(SECONDS * (double)NS_PER_SEC);
    bool digests = fixed_cases && l == CPU_GENERIC &&
                   (class_now == EXACT || strncmp(name_now, "mul_", 4) == 0);
    uint64_t digest = 0;
    for (case_now = 0; fixed_cases ? case_now < fixed_cases : case_now < MIN_CASES || clock_now_ns() < end;
         case_now++) {
        guard_reset();
        row->check();
        if (digests)
            digest = guard_digest(digest);
    }
    printf("# %-8s %-14s %d cases", cpu_level_name(l), row->name, case_now);
    if (digests)
        printf(", digest %016llx", (unsigned long long)digest);
    printf("\n");
    fflush(stdout);
}
END_TEST

/* A level that is not there is lowered to one that is; levels only add. */
START_TEST(test_tables)
{
    ck_assert_int_eq(kern_level_built(CPU_GENERIC), 1);
    for (int l = 0; l <= CPU_LEVEL_MAX; l++) {
        const struct kernels *t = kern_table((enum cpu_level)l);
        ck_assert_ptr_nonnull(t);
        ck_assert_int_eq(kern_level_built(t->level), 1);
        ck_assert_int_eq(cpu_level_available(t->level), 1);
#define KERN(name, ret, args, check_class) ck_assert(t->name != NULL);
#include "engine/kernels/kern.def"
#undef KERN
    }
    ck_assert_int_eq(kern_level_built(CPU_LEVEL_MAX), 0);
}
END_TEST

START_TEST(test_sizes)
{
    for (int i = 0; i < N_FORMATS; i++) {
        const struct format *f = &formats[i];
        int n = 3 * f->elems;
        ck_assert(kern_weight_type_ok(f->type));
        ck_assert_ptr_nonnull(kern_mul(kern_table(CPU_GENERIC), f->type));
        ck_assert_int_eq(kern_act_is_q8(f->type), f->elems > 1);
        /* the packed size is the file's, but for scales that became bytes: at most 4 % more */
        size_t packed = kern_group_bytes(f->type, n), file = 16 * 3 * (size_t)f->n_bytes;
        ck_assert_uint_ge(packed, file);
        if (f->type != TT_F8_E4M3)
            ck_assert_uint_le(packed, file + file * 4 / 100);
    }
    ck_assert(!kern_weight_type_ok(TT_I32) && !kern_weight_type_ok((enum tensor_type)4));
    ck_assert_uint_eq(kern_group_bytes(TT_F32, 7), 7 * 64);
    ck_assert_uint_eq(kern_group_bytes(TT_BF16, 7), 7 * 32);
    ck_assert_uint_eq(kern_group_bytes(TT_F8_E4M3, 130), 130 * 16 + 2 * 64);
    ck_assert_uint_eq(kern_group_bytes(TT_Q8_0, 64), 2 * 544);
    ck_assert_uint_eq(kern_group_bytes(TT_Q6_K, 512), 2 * 16 * 210);
    ck_assert_uint_eq(kern_packed_bytes(TT_F16, 17, 3), 2 * 3 * 32);
    ck_assert_uint_eq(kern_packed_bytes(TT_F32, 1 << 20, 1 << 16), (size_t)1 << 38);
    for (int n = 32; n < 1000; n += 32) {
        ck_assert_uint_eq(kern_act_bytes(TT_F32, n) % 64, 0);
        ck_assert_uint_ge(kern_act_bytes(TT_F32, n), 4 * (size_t)n);
        ck_assert_uint_eq(kern_act_bytes(TT_Q8_0, n) % 64, 0);
        ck_assert_uint_ge(kern_act_bytes(TT_Q8_0, n), (size_t)n + (size_t)n / 2);
        ck_assert_uint_eq(kern_act_bytes(TT_Q2_K, n), kern_act_bytes(TT_Q8_0, n));
    }
}
END_TEST

int main(void)
{
    const char *s = getenv("LATENT_TEST_SEED");
    checker_seed = s ? strtoull(s, NULL, 10) : (unsigned long long)time(NULL);
    const char *n = getenv("LATENT_TEST_CASES");
    fixed_cases = n ? atoi(n) : 0;
#ifdef EMULATED
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        printf("1..0 # SKIP the emulation is compiled for AVX2\n");
        return 0;
    }
#endif
    printf("# seed %llu (LATENT_TEST_SEED)\n", checker_seed);
    fflush(stdout);
    Suite *suite = suite_create("kernels");
    TCase *tc = tcase_create("kernels");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, test_tables);
    tcase_add_test(tc, test_sizes);
    tcase_add_loop_test(tc, test_kernel, 0, CPU_LEVEL_MAX * N_ROWS);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
