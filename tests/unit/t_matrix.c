/* tests/unit/t_matrix.c - packed matrices of every weight type: a row reads back as the tensor's, views of
 * tensors pack as what they show, products do not depend on threads or on how many rows share a call. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/matrix.h"

enum { N_OUT = 150, N_IN = 512, ROWS = 21, SCALE_COLS = N_IN / 128 };

static uint64_t state;
static unsigned char *data;
static float scale[3 * SCALE_COLS];

static uint32_t random_bits(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state * 0x2545f4914f6cdd1dull) >> 32);
}

static float random_float(void)
{
    return (float)((double)random_bits() / 2147483648.0 - 1.0);
}

static struct tensor tensor_of(const struct tensor_type_info *info)
{
    size_t row = tensor_row_bytes(info->type, N_IN);
    for (size_t i = 0; i < row * N_OUT; i++)
        data[i] = (unsigned char)random_bits();
    struct tensor t = {.name = "test", .type = info->type, .n_dims = 2, .ne = {N_IN, N_OUT, 1, 1},
                       .data = data, .n_bytes = row * N_OUT};
    if (info->type == TT_F8_E4M3) { /* no NaN: its block would be NaN altogether */
        for (size_t i = 0; i < row * N_OUT; i++)
            data[i] = (unsigned char)(data[i] & 0x7f) == 0x7f ? 0 : data[i];
        for (int i = 0; i < 3 * SCALE_COLS; i++)
            scale[i] = random_float();
        t.scale = scale;
        t.scale_cols = SCALE_COLS;
        t.scale_row0 = 100;
    }
    return t;
}

static bool same(const float *a, const float *b, int n)
{
    for (int i = 0; i < n; i++)
        if (a[i] != b[i] && !(isnan(a[i]) && isnan(b[i])))
            return false;
    return true;
}

/* Item i: type i of the table. */
START_TEST(test_rows)
{
    const struct tensor_type_info *info = tensor_type_at(_i);
    float got[N_IN], want[N_IN];
    struct matrix m, part;
    struct pool *pool = NULL;
    struct err e = {0};
    ck_assert_int_eq(pool_new(3, 0, &pool, &e), 0);
    struct tensor t = tensor_of(info);
    if (!info->weight) {
        memset(&m, 0x55, sizeof(m));
        part = m;
        ck_assert_int_eq(matrix_pack(&m, &t, pool, NULL, &e), ERR_UNSUPPORTED);
        ck_assert_str_eq(e.param, "test");
        ck_assert_ptr_nonnull(strstr(e.text, info->name));
        ck_assert_int_eq(memcmp(&m, &part, sizeof(m)), 0);
        pool_free(&pool);
        return;
    }
    struct tensor view = tensor_rows(&t, 37, 60);
    ck_assert_int_eq(matrix_pack(&m, &t, pool, NULL, &e), 0);
    ck_assert_int_eq(matrix_pack(&part, &view, pool, NULL, &e), 0);
    for (int r = 0; r < N_OUT; r++) {
        tensor_row_f32(&t, r, want);
        matrix_row_f32(&m, r, got);
        if (!same(got, want, N_IN))
            ck_abort_msg("%s: row %d differs", info->name, r);
        if (r >= 37 && r < 97) {
            matrix_row_f32(&part, r - 37, got);
            if (!same(got, want, N_IN))
                ck_abort_msg("%s: row %d of the view differs", info->name, r);
        }
    }
    matrix_done(&m);
    matrix_done(&part);
    pool_free(&pool);
}
END_TEST

START_TEST(test_products)
{
    static float x[ROWS][N_IN], y[3][ROWS][N_OUT];
    static const int threads[] = {1, 4, 4};
    const struct tensor_type_info *info = tensor_type_at(_i);
    if (!info->weight)
        return;
    struct tensor t = tensor_of(info);
    const struct kernels *k = kern_table(CPU_LEVEL_MAX - 1);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < N_IN; j++)
            x[i][j] = random_float();
    for (int pass = 0; pass < 3; pass++) {
        struct pool *pool = NULL;
        struct products p;
        struct matrix m;
        struct err e = {0};
        struct product list[ROWS];
        const void *px[ROWS];
        float *py[ROWS];
        void *act = aligned_alloc(64, ROWS * act_room(N_IN));
        ck_assert_int_eq(pool_new(threads[pass], 0, &pool, &e), 0);
        ck_assert_int_eq(matrix_pack(&m, &t, pool, NULL, &e), 0);
        ck_assert_int_eq(products_init(&p, k, pool, ROWS), 0);
        for (int i = 0; i < ROWS; i++) {
            px[i] = act_prepare(k, m.type, false, x[i], N_IN, (char *)act + (size_t)i * act_room(N_IN));
            ck_assert_int_eq(px[i] == (const void *)x[i], !act_is_quantised(m.type));
            py[i] = y[pass][i];
            list[i] = (struct product){&m, px + i, py + i, 1, 0};
        }
        if (pass == 2) { /* one by one */
            products_run(&p, list, ROWS);
        } else {
            list[0].m = ROWS;
            products_run(&p, list, 1);
        }
        products_done(&p);
        matrix_done(&m);
        pool_free(&pool);
        free(act);
    }
    for (int i = 0; i < ROWS; i++)
        if (!same(y[0][i], y[1][i], N_OUT) || !same(y[0][i], y[2][i], N_OUT))
            ck_abort_msg("%s: row %d depends on threads or on its company", info->name, i);
}
END_TEST

/* What a piece costs at the generic level: a byte of weights as much as a multiply-add. */
static double piece_cost(const struct product *list, const struct product_piece *pc)
{
    const struct matrix *w = list[pc->product].w;
    return (pc->g1 - pc->g0) * ((double)w->n_bytes / matrix_groups(w) + 16.0 * w->n_in * (pc->r1 - pc->r0));
}

/* However the rows fall on the matrices: every group of every row once, shares that are about even,
 * pieces in order, rows of each kind apart and cut at multiples of 32. Matrices without weights do:
 * nothing is multiplied. */
START_TEST(test_cut)
{
    enum { N = 130 };
    static unsigned char seen[700 * 512];
    struct matrix w[N];
    struct product list[N];
    struct pool *pool = NULL;
    struct products p;
    int threads = 1 + (int)(random_bits() % 16), n = 1 + (int)(random_bits() % N);
    ck_assert_int_eq(pool_new(threads, 0, &pool, NULL), 0);
    ck_assert_int_eq(products_init(&p, kern_table(_i % 2 ? CPU_AVX2 : CPU_GENERIC), pool, N), 0);
    for (int round = 0; round < 40; round++) {
        double cost = 0, most = 0, unit = 0;
        bool once = true;
        for (int i = 0; i < n; i++) {
            w[i] = (struct matrix){.type = TT_Q8_0, .n_out = 16 * (1 + (int)(random_bits() % 128)) - 3,
                                   .n_in = 256 << (random_bits() % 4)};
            w[i].n_bytes = kern_packed_bytes(TT_Q8_0, w[i].n_out, w[i].n_in);
            int kind = (int)(random_bits() % 4); /* untouched, few rows, many */
            list[i] = (struct product){&w[i], NULL, NULL, 0, 0};
            list[i].m = kind == 0 ? 0 : kind < 3 ? 1 + (int)(random_bits() % 8) : (int)(random_bits() % 700);
            list[i].n_rounded = random_bits() % 2 ? (int)(random_bits() % (unsigned)(list[i].m + 1)) : 0;
        }
        int n_pieces = products_cut(&p, list, n);
        ck_assert_int_le(n_pieces, p.max_pieces);
        ck_assert_int_eq(p.first[0], 0);
        ck_assert_int_eq(p.first[threads], n_pieces);
        for (int i = 0, at = 0; i < n; i++) {
            int groups = matrix_groups(&w[i]), area = 0;
            memset(seen, 0, sizeof(seen));
            for (; at < n_pieces && p.pieces[at].product == i; at++) {
                const struct product_piece *pc = &p.pieces[at];
                ck_assert(pc->g0 >= 0 && pc->g0 < pc->g1 && pc->g1 <= groups);
                ck_assert(pc->r0 >= 0 && pc->r0 < pc->r1 && pc->r1 <= list[i].m);
                int rounded = list[i].n_rounded;
                ck_assert(pc->r1 <= rounded || pc->r0 >= rounded);
                ck_assert((pc->r0 < rounded ? pc->r0 : pc->r0 - rounded) % 32 == 0);
                area += (pc->g1 - pc->g0) * (pc->r1 - pc->r0);
                for (int r = pc->r0; r < pc->r1; r++)
                    for (int g = pc->g0; g < pc->g1; g++)
                        once &= seen[r * 128 + g]++ == 0;
                cost += piece_cost(list, pc);
                unit = fmax(unit, piece_cost(list, pc) / (pc->g1 - pc->g0));
            }
            ck_assert_int_eq(area, groups * list[i].m);
        }
        ck_assert(once);
        for (int t = 0; t < threads; t++) {
            double mine = 0;
            ck_assert_int_le(p.first[t], p.first[t + 1]);
            for (int k = p.first[t]; k < p.first[t + 1]; k++)
                mine += piece_cost(list, &p.pieces[k]);
            most = fmax(most, mine);
        }
        if (_i % 2 == 0 && cost > 1e6 * threads)
            ck_assert_msg(most <= cost / threads + 3 * unit, "%g of %g on %d threads, groups of up to %g",
                          most, cost, threads, unit);
    }
    products_done(&p);
    pool_free(&pool);
}
END_TEST

/* Values stored again: exact where the type allows, nearest even where not. */
START_TEST(test_stored)
{
    static const float v[] = {1.0f, -2.5f, 0.0f, 0x1p-24f, -0x1.8p-24f, 0x1p-25f, 0x1.8p-25f, 0x1.ffap-15f,
                              0x1.ffffp-15f, 65504.0f, 65519.9f, 0x1.002p0f, 0x1.006p0f, 0x1.0021p0f,
                              -0x1p-14f, 0x1.4p-20f};
    static const float f16[] = {1.0f, -2.5f, 0.0f, 0x1p-24f, -0x1p-23f, 0.0f, 0x1p-24f, 0x1.ff8p-15f,
                                0x1p-14f, 65504.0f, 65504.0f, 0x1p0f, 0x1.008p0f, 0x1.004p0f,
                                -0x1p-14f, 0x1.4p-20f};
    enum { N = sizeof(v) / sizeof(v[0]) };
    float got[N];
    struct matrix m;
    struct err e = {0};
    ck_assert_int_eq(matrix_pack_f32(&m, "f16", v, 1, N, TT_F16, &e), 0);
    matrix_row_f32(&m, 0, got);
    for (int i = 0; i < N; i++)
        if (got[i] != f16[i])
            ck_abort_msg("%a becomes %a, not %a", (double)v[i], (double)got[i], (double)f16[i]);
    matrix_done(&m);
    ck_assert_int_eq(matrix_pack_f32(&m, "f32", v, 1, N, TT_F32, &e), 0);
    matrix_row_f32(&m, 0, got);
    ck_assert_int_eq(memcmp(got, v, sizeof(v)), 0);
    matrix_done(&m);
    ck_assert_int_eq((int)matrix_store_type(TT_BF16, v, N), TT_BF16);
    ck_assert_int_eq((int)matrix_store_type(TT_F32, v, N), TT_F32);
    ck_assert_int_eq((int)matrix_store_type(TT_Q4_K, v, 10), TT_F16);
    ck_assert_int_eq((int)matrix_store_type(TT_F8_E4M3, v, N), TT_BF16);
}
END_TEST

int main(void)
{
    const char *s = getenv("LATENT_TEST_SEED");
    unsigned long long seed = s ? strtoull(s, NULL, 10) : (unsigned long long)time(NULL);
    int n = 0;
    printf("# seed %llu (LATENT_TEST_SEED)\n", seed);
    fflush(stdout);
    state = seed * 0x9e3779b97f4a7c15ull + 1;
    data = malloc((size_t)N_OUT * N_IN * 4);
    if (!data)
        return 1;
    while (tensor_type_at(n))
        n++;
    Suite *suite = suite_create("matrix");
    TCase *tc = tcase_create("matrix");
    tcase_add_loop_test(tc, test_rows, 0, n);
    tcase_add_loop_test(tc, test_products, 0, n);
    tcase_add_loop_test(tc, test_cut, 0, 20);
    tcase_add_test(tc, test_stored);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    free(data);
    return failed ? 1 : 0;
}
