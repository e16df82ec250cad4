/* tests/unit/t_tensor.c - every weight type's dequantisation, bit for bit, against a second formulation
 * (tests/kernels/formats.c): one value at a time, in float64, rounded once.
 *
 * The blocks are random bytes, so scales are also denormal, infinite and NaN. All products that occur
 * are exact in float64: half precision has 11 bits and a grid of 2^-24, scales at most 8 bits, values
 * at most 8, so one rounding to float32 at the end is what the plain C must give as well. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/model/tensor.h"
#include "tests/kernels/formats.h"

static uint64_t state;

static uint32_t random_bits(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state * 0x2545f4914f6cdd1dull) >> 32);
}

START_TEST(test_values)
{
    const struct format *row = &formats[_i];
    const struct tensor_type_info *info = tensor_type_info((uint32_t)row->type);
    unsigned char bytes[3 * 256 + 1];
    float got[2 * 256];
    int special = 0;
    ck_assert_ptr_nonnull(info);
    ck_assert_str_eq(info->name, row->name);
    ck_assert_int_eq(info->block_elems, row->elems);
    ck_assert_int_eq(info->block_bytes, row->n_bytes);
    ck_assert(info->weight);
    for (int pass = 0; pass < 2000; pass++) {
        unsigned char *block = bytes + pass % 2; /* files put them at odd addresses */
        int n_blocks = 1 + pass % 2;
        for (size_t i = 0; i < sizeof(bytes); i++)
            bytes[i] = (unsigned char)(pass == 0 ? 0 : pass == 1 ? 0xff : random_bits());
        if (row->elems == 1) /* all bits of the small ones */
            block[0] = (unsigned char)pass, block[1] = (unsigned char)(block[1] ^ pass >> 8);
        info->to_f32(block, got, n_blocks * row->elems);
        for (int i = 0; i < n_blocks * row->elems; i++) {
            struct format_value v = row->value(block + i / row->elems * row->n_bytes, i % row->elems);
            double want = v.scale * v.q - v.min;
            float rounded = (float)want;
            special += !isfinite(rounded) || fabsf(rounded) < 0x1p-14f;
            if (isnan(want) ? !isnan(got[i]) : memcmp(&got[i], &rounded, 4) && (got[i] != 0 || rounded != 0))
                ck_abort_msg("%s value %d of pass %d is %a, not %a", row->name, i, pass, (double)got[i],
                             want);
        }
    }
    ck_assert_int_gt(special, 0);
}
END_TEST

START_TEST(test_table)
{
    char text[200], small[10];
    int n = 0;
    for (const struct tensor_type_info *t; (t = tensor_type_at(n)); n++) {
        ck_assert_ptr_eq(tensor_type_info((uint32_t)t->type), t);
        ck_assert_uint_eq(tensor_row_bytes(t->type, 2 * t->block_elems), 2 * (size_t)t->block_bytes);
        ck_assert_uint_eq(tensor_row_bytes(t->type, 0), 0);
        if (t->block_elems > 1)
            ck_assert_uint_eq(tensor_row_bytes(t->type, t->block_elems + 1), 0);
    }
    ck_assert_int_eq(n, N_FORMATS + 1); /* and I32 */
    ck_assert_ptr_null(tensor_type_at(-1));
    ck_assert_ptr_null(tensor_type_info(4));
    ck_assert_uint_eq(tensor_row_bytes((enum tensor_type)4, 32), 0);
    tensor_weight_types(text, sizeof(text));
    ck_assert_ptr_eq(strstr(text, "F32, F16, BF16, F8_E4M3, Q8_0"), text);
    ck_assert_ptr_nonnull(strstr(text, ", IQ4_XS"));
    ck_assert_ptr_null(strstr(text, "I32"));
    tensor_weight_types(small, sizeof(small));
    ck_assert_uint_lt(strlen(small), sizeof(small));
}
END_TEST

/* Scales of 128 x 128 blocks follow rows and slices. */
START_TEST(test_scale)
{
    enum { COLS = 300, ROWS = 200, N = 3, SCALE_COLS = 3 };
    static unsigned char data[N * ROWS * COLS];
    const struct format *f8 = format_of(TT_F8_E4M3);
    static float scale[(N * ROWS + 127) / 128 * SCALE_COLS], got[COLS];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)(random_bits() % 0x7f);
    for (size_t i = 0; i < sizeof(scale) / sizeof(scale[0]); i++)
        scale[i] = (float)(1 + i) / 64;
    struct tensor t = {.name = "t", .type = TT_F8_E4M3, .n_dims = 3, .ne = {COLS, ROWS, N, 1},
                       .data = data, .n_bytes = sizeof(data), .scale = scale,
                       .scale_cols = SCALE_COLS};
    for (int e = 0; e < N; e++) {
        struct tensor one = tensor_slice(&t, e), part = tensor_rows(&one, 77, 100);
        for (int r = 0; r < 100; r += 3) {
            int row = e * ROWS + 77 + r;
            tensor_row_f32(&part, r, got);
            for (int k = 0; k < COLS; k++) {
                double want = f8->value(data + row * COLS + k, 0).scale *
                              (double)scale[row / 128 * SCALE_COLS + k / 128];
                ck_assert_float_eq(got[k], (float)want);
            }
        }
        struct tensor row = tensor_slice(&one, 131);
        tensor_row_f32(&row, 0, got);
        ck_assert_float_eq(got[299], (float)(f8->value(data + (e * ROWS + 131) * COLS + 299, 0).scale *
                                             (double)scale[(e * ROWS + 131) / 128 * SCALE_COLS + 2]));
    }
}
END_TEST

int main(void)
{
    const char *s = getenv("LATENT_TEST_SEED");
    unsigned long long seed = s ? strtoull(s, NULL, 10) : (unsigned long long)time(NULL);
    printf("# seed %llu (LATENT_TEST_SEED)\n", seed);
    fflush(stdout);
    state = seed * 0x9e3779b97f4a7c15ull + 1;
    Suite *suite = suite_create("tensor");
    TCase *tc = tcase_create("tensor");
    tcase_add_loop_test(tc, test_values, 0, N_FORMATS);
    tcase_add_test(tc, test_table);
    tcase_add_test(tc, test_scale);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
