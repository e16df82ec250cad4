/* tests/unit/t_tensor.c - every weight type's dequantisation, bit for bit, against a second formulation:
 * one value at a time, by the places of its bits in the block, in float64, rounded once.
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

static uint64_t state;

static uint32_t random_bits(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state * 0x2545f4914f6cdd1dull) >> 32);
}

/* n bits that begin at bit `at` of the block, counted from bit 0 of byte 0 upward. */
static int bits(const unsigned char *block, int at, int n)
{
    int v = 0;
    for (int i = 0; i < n; i++)
        v |= (block[(at + i) / 8] >> (at + i) % 8 & 1) << i;
    return v;
}

static double half(const unsigned char *block, int byte)
{
    int m = bits(block, 8 * byte, 10), e = bits(block, 8 * byte + 10, 5);
    double v = e == 31 ? (m ? (double)NAN : (double)INFINITY)
                       : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return bits(block, 8 * byte + 15, 1) ? -v : v;
}

/* Where the nibble of value i of 32 lies, from the byte that holds value 0. */
static int nibble32(int i)
{
    return i < 16 ? 8 * i : 8 * (i - 16) + 4;
}

static double iq4(int code)
{
    static const double level[] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};
    return level[code];
}

static double q4_0(const unsigned char *b, int i)
{
    return half(b, 0) * (bits(b, 16 + nibble32(i), 4) - 8);
}

static double q4_1(const unsigned char *b, int i)
{
    return half(b, 0) * bits(b, 32 + nibble32(i), 4) + half(b, 2);
}

static double q5_0(const unsigned char *b, int i)
{
    return half(b, 0) * (bits(b, 48 + nibble32(i), 4) + 16 * bits(b, 16 + i, 1) - 16);
}

static double q5_1(const unsigned char *b, int i)
{
    return half(b, 0) * (bits(b, 64 + nibble32(i), 4) + 16 * bits(b, 32 + i, 1)) + half(b, 2);
}

static double q8_0(const unsigned char *b, int i)
{
    int v = bits(b, 16 + 8 * i, 8);
    return half(b, 0) * (v < 128 ? v : v - 256);
}

static double iq4_nl(const unsigned char *b, int i)
{
    return half(b, 0) * iq4(bits(b, 16 + nibble32(i), 4));
}

/* Value i of 256 with two bits each, of which byte 32 h + i % 32 of the half h holds four. */
static int pair(int i)
{
    return (i / 128 * 32 + i % 32) * 8 + i % 128 / 32 * 2;
}

static double q2_k(const unsigned char *b, int i)
{
    int scale = bits(b, i / 16 * 8, 4), min = bits(b, i / 16 * 8 + 4, 4);
    return half(b, 80) * scale * bits(b, 16 * 8 + pair(i), 2) - half(b, 82) * min;
}

static double q3_k(const unsigned char *b, int i)
{
    int s = i / 16, v = bits(b, 32 * 8 + pair(i), 2) + 4 * bits(b, i % 32 * 8 + i / 32, 1) - 4;
    /* scale s: four bits in nibble s / 8 of byte s % 8, two in pair s / 4 of byte 8 + s % 4 */
    int scale = bits(b, (96 + s % 8) * 8 + s / 8 * 4, 4) + 16 * bits(b, (104 + s % 4) * 8 + s / 4 * 2, 2);
    return half(b, 108) * (scale - 32) * v;
}

/* Scale (what 0) or minimum (4) s of the twelve bytes that begin at byte 4. */
static int six(const unsigned char *b, int s, int what)
{
    if (s < 4)
        return bits(b, (4 + s + what) * 8, 6);
    return bits(b, (4 + s + 4) * 8 + what, 4) + 16 * bits(b, (4 + s - 4 + what) * 8 + 6, 2);
}

/* Value i of 256 with four bits each: byte 32 c + i % 32 holds values of the 64 that begin at 64 c. */
static int nibble256(int i)
{
    return (i / 64 * 32 + i % 32) * 8 + i % 64 / 32 * 4;
}

static double q4_k(const unsigned char *b, int i)
{
    return half(b, 0) * six(b, i / 32, 0) * bits(b, 16 * 8 + nibble256(i), 4) -
           half(b, 2) * six(b, i / 32, 4);
}

static double q5_k(const unsigned char *b, int i)
{
    int v = bits(b, 48 * 8 + nibble256(i), 4) + 16 * bits(b, (16 + i % 32) * 8 + i / 32, 1);
    return half(b, 0) * six(b, i / 32, 0) * v - half(b, 2) * six(b, i / 32, 4);
}

static double q6_k(const unsigned char *b, int i)
{
    int low = bits(b, (i / 128 * 64 + i % 64) * 8 + i % 128 / 64 * 4, 4);
    int v = low + 16 * bits(b, 128 * 8 + pair(i), 2), s = bits(b, (192 + i / 16) * 8, 8);
    return half(b, 208) * (s < 128 ? s : s - 256) * (v - 32);
}

static double iq4_xs(const unsigned char *b, int i)
{
    int s = i / 32, scale = bits(b, 4 * 8 + 4 * s, 4) + 16 * bits(b, 16 + 2 * s, 2);
    return half(b, 0) * (scale - 32) * iq4(bits(b, (8 + 16 * s) * 8 + nibble32(i % 32), 4));
}

static double f32(const unsigned char *b, int i)
{
    int e = bits(b, 23, 8), m = bits(b, 0, 23);
    double v = e == 255 ? (m ? (double)NAN : (double)INFINITY)
                        : e ? ldexp((1 << 23) + m, e - 150) : ldexp(m, -149);
    (void)i;
    return bits(b, 31, 1) ? -v : v;
}

static double f16(const unsigned char *b, int i)
{
    (void)i;
    return half(b, 0);
}

static double bf16(const unsigned char *b, int i)
{
    unsigned char wide[4] = {0, 0, b[0], b[1]};
    return f32(wide, i);
}

static double f8(const unsigned char *b, int i)
{
    int e = bits(b, 3, 4), m = bits(b, 0, 3);
    double v = e == 15 && m == 7 ? (double)NAN : e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
    (void)i;
    return bits(b, 7, 1) ? -v : v;
}

static const struct row {
    enum tensor_type type;
    const char *name;
    int elems, n_bytes;
    double (*value)(const unsigned char *block, int i);
} rows[] = {
    {TT_F32, "F32", 1, 4, f32},         {TT_F16, "F16", 1, 2, f16},
    {TT_BF16, "BF16", 1, 2, bf16},      {TT_F8_E4M3, "F8_E4M3", 1, 1, f8},
    {TT_Q8_0, "Q8_0", 32, 34, q8_0},    {TT_Q4_0, "Q4_0", 32, 18, q4_0},
    {TT_Q4_1, "Q4_1", 32, 20, q4_1},    {TT_Q5_0, "Q5_0", 32, 22, q5_0},
    {TT_Q5_1, "Q5_1", 32, 24, q5_1},    {TT_Q2_K, "Q2_K", 256, 84, q2_k},
    {TT_Q3_K, "Q3_K", 256, 110, q3_k},  {TT_Q4_K, "Q4_K", 256, 144, q4_k},
    {TT_Q5_K, "Q5_K", 256, 176, q5_k},  {TT_Q6_K, "Q6_K", 256, 210, q6_k},
    {TT_IQ4_NL, "IQ4_NL", 32, 18, iq4_nl}, {TT_IQ4_XS, "IQ4_XS", 256, 136, iq4_xs},
};
#define N_ROWS ((int)(sizeof(rows) / sizeof(rows[0])))

START_TEST(test_values)
{
    const struct row *row = &rows[_i];
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
            double want = row->value(block + i / row->elems * row->n_bytes, i % row->elems);
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
    ck_assert_int_eq(n, N_ROWS + 1); /* and I32 */
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
                double want = f8(data + row * COLS + k, 0) * (double)scale[row / 128 * SCALE_COLS + k / 128];
                ck_assert_float_eq(got[k], (float)want);
            }
        }
        struct tensor row = tensor_slice(&one, 131);
        tensor_row_f32(&row, 0, got);
        ck_assert_float_eq(got[299], (float)(f8(data + (e * ROWS + 131) * COLS + 299, 0) *
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
    tcase_add_loop_test(tc, test_values, 0, N_ROWS);
    tcase_add_test(tc, test_table);
    tcase_add_test(tc, test_scale);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
