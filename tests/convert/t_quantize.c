/* tests/convert/t_quantize.c - the encoders of latent-convert: error on normal values below a bound for
 * each type, values at the edges, values that no type can hold.
 *
 * The bounds are 1.05 times what llama.cpp's encoders reach without importances on the same distribution;
 * it was measured with its library on 102,400 values. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/convert/quantize.h"

#define N 16384
#define MAX_BYTES (N * 4)

static const struct {
    enum tensor_type type;
    double peer; /* relative rms error on normal values */
} types[] = {
    {TT_F32, 0},        {TT_F16, 2.1e-4},    {TT_BF16, 1.7e-3},  {TT_Q8_0, 0.00526}, {TT_Q4_0, 0.08449},
    {TT_Q4_1, 0.07748}, {TT_Q5_0, 0.04203},  {TT_Q5_1, 0.03739}, {TT_Q2_K, 0.29340}, {TT_Q3_K, 0.14948},
    {TT_Q4_K, 0.07068}, {TT_Q5_K, 0.03577},  {TT_Q6_K, 0.01756}, {TT_IQ4_NL, 0.07532},
    {TT_IQ4_XS, 0.07590},
};
#define N_TYPES ((int)(sizeof(types) / sizeof(types[0])))

static float x[N], y[N];
static unsigned char bytes[MAX_BYTES + 1];

static double uniform(void)
{
    static uint64_t s = 88172645463325252ull;
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    return ((double)(s >> 11) + 0.5) * 0x1p-53;
}

static double normal(void)
{
    return sqrt(-2 * log(uniform())) * cos(2 * M_PI * uniform());
}

/* Encodes x to an odd address, decodes to y; returns the relative rms error. */
static double trip(enum tensor_type type)
{
    double error = 0, sum = 0;
    const struct tensor_type_info *info = tensor_type_info((uint32_t)type);
    size_t n_bytes = tensor_row_bytes(type, N);
    memset(bytes, 0xa5, sizeof(bytes));
    ck_assert(quantize_row(type, x, bytes + 1, N));
    if (1 + n_bytes < sizeof(bytes))
        ck_assert_msg(bytes[1 + n_bytes] == 0xa5, "%s writes behind its end", info->name);
    info->to_f32(bytes + 1, y, N);
    for (int i = 0; i < N; i++) {
        ck_assert_msg(isfinite(y[i]), "%s: value %d is not finite", info->name, i);
        error += ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
        sum += (double)x[i] * x[i];
    }
    return sum > 0 ? sqrt(error / sum) : sqrt(error / N);
}

START_TEST(error_bounds)
{
    const char *name = tensor_type_info((uint32_t)types[_i].type)->name;
    for (int i = 0; i < N; i++)
        x[i] = (float)(0.02 * normal());
    double e = trip(types[_i].type);
    printf("# %s: relative rms error %.5f, llama.cpp %.5f\n", name, e, types[_i].peer);
    fflush(stdout);
    ck_assert_msg(e <= 1.05 * types[_i].peer, "%s: error %.5f", name, e);
}
END_TEST

/* Whole blocks of one value, of zeros, of one large value among small ones. */
START_TEST(edges)
{
    enum tensor_type type = types[_i].type;
    const char *name = tensor_type_info((uint32_t)type)->name;
    memset(x, 0, sizeof(x));
    ck_assert_msg(trip(type) == 0, "%s: zeros", name);
    for (int sign = -1; sign <= 1; sign += 2) {
        for (int i = 0; i < N; i++)
            x[i] = (float)sign * 0.3f;
        double e = trip(type);
        ck_assert_msg(e < 0.04, "%s: a constant, error %.4f", name, e);
    }
    for (int i = 0; i < N; i++)
        x[i] = i % 256 == 77 ? -4.0f : (float)(0.01 * normal());
    double e = trip(type);
    ck_assert_msg(e < 0.06, "%s: one large value, error %.4f", name, e);
    ck_assert_msg(fabsf(y[77] + 4.0f) < 0.3f, "%s: the large value became %g", name, (double)y[77]);
}
END_TEST

/* From what vanishes in half-precision scales up to the largest value that is accepted. */
START_TEST(magnitudes)
{
    enum tensor_type type = types[_i].type;
    const char *name = tensor_type_info((uint32_t)type)->name;
    double max = quantize_max(type), bound = fmax(0.35, 0);
    static const double sizes[] = {1e-44, 1e-30, 1e-12, 1e-7, 1e-4, 1, 1e3};
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        for (int i = 0; i < N; i++)
            x[i] = (float)(sizes[k] * (2 * uniform() - 1));
        double e = trip(type);
        ck_assert_msg(e < (sizes[k] < 1e-3 ? 1.2 : bound), "%s: values of %g, error %.3f", name, sizes[k],
                      e);
    }
    for (int i = 0; i < N; i++)
        x[i] = (float)(0.999 * max * (2 * uniform() - 1));
    const struct tensor_type_info *info = tensor_type_info((uint32_t)type);
    ck_assert(quantize_row(type, x, bytes, N));
    info->to_f32(bytes, y, N);
    for (int i = 0; i < N; i++)
        ck_assert_msg(isfinite(y[i]), "%s: %g became %g", name, (double)x[i], (double)y[i]);
}
END_TEST

START_TEST(refused)
{
    enum tensor_type type = types[_i].type;
    const char *name = tensor_type_info((uint32_t)type)->name;
    float bad[] = {NAN, -NAN, INFINITY, -INFINITY, quantize_max(type) * 1.01f};
    for (size_t k = 0; k < sizeof(bad) / sizeof(bad[0]); k++) {
        memset(x, 0, sizeof(x));
        x[N - 1] = bad[k];
        ck_assert_msg(!quantize_row(type, x, bytes, N), "%s takes %g", name, (double)bad[k]);
    }
    ck_assert(!quantize_row(TT_I32, x, bytes, N));
}
END_TEST

/* Every half-precision number is its own nearest; half-way points go to the even one. */
START_TEST(halves)
{
    const struct tensor_type_info *info = tensor_type_info(TT_F16);
    for (unsigned h = 0; h < 0x7c00; h++) {
        uint16_t bits = (uint16_t)h, next = (uint16_t)(h + 1);
        float a, b;
        info->to_f32(&bits, &a, 1);
        info->to_f32(&next, &b, 1);
        ck_assert_uint_eq(quantize__half(a), h);
        ck_assert_uint_eq(quantize__half(-a), h | 0x8000u);
        if (h + 1 == 0x7c00)
            break;
        float middle = (a + b) / 2;
        ck_assert_uint_eq(quantize__half(middle), h % 2 ? h + 1 : h);
        ck_assert_uint_eq(quantize__half(nextafterf(middle, 0)), h);
        ck_assert_uint_eq(quantize__half(nextafterf(middle, INFINITY)), h + 1);
    }
    ck_assert_uint_eq(quantize__half(65519.996f), 0x7bff);
    ck_assert_uint_eq(quantize__half(65520.0f), 0x7c00);
    ck_assert_uint_eq(quantize__half(INFINITY), 0x7c00);
    ck_assert_uint_eq(quantize__half(0x1p-25f), 0);
    ck_assert_uint_eq(quantize__half(nextafterf(0x1p-25f, 1)), 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("quantize");
    TCase *tc = tcase_create("types");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, error_bounds, 0, N_TYPES);
    tcase_add_loop_test(tc, edges, 0, N_TYPES);
    tcase_add_loop_test(tc, magnitudes, 0, N_TYPES);
    tcase_add_loop_test(tc, refused, 0, N_TYPES);
    tcase_add_test(tc, halves);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
