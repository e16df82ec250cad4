/* tests/kernels/shim/check.h - the part of libcheck that the checker of the kernels uses, for a machine type
 * that the library is not installed for: every test runs in a process of its own, results are TAP. */
#ifndef LATENT_TESTS_KERNELS_SHIM_CHECK_H
#define LATENT_TESTS_KERNELS_SHIM_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    const char *name;
    void (*run)(int i);
} TTest;

typedef struct TCase {
    struct TCase *next;
    unsigned timeout; /* seconds a test may take */
    int n;
    struct {
        const TTest *test;
        int from, to;
    } tests[64];
} TCase;

typedef struct {
    TCase *cases;
    int n_failed;
} Suite;
typedef Suite SRunner;

#define START_TEST(test_name)                                                                      \
    static void test_name##_run(int _i);                                                           \
    static const TTest test_name##_test = {#test_name, test_name##_run};                           \
    static const TTest *const test_name = &test_name##_test;                                       \
    static void test_name##_run(int _i)                                                            \
    {                                                                                              \
        (void)_i;
#define END_TEST }

#define ck_abort_msg(...)                                                                          \
    (printf("# %s:%d: ", __FILE__, __LINE__), printf(__VA_ARGS__), printf("\n"), fflush(stdout), _exit(1))
#define ck_assert_msg(is_true, ...) ((is_true) ? (void)0 : (void)(ck_abort_msg(__VA_ARGS__)))
#define ck_assert(is_true) ck_assert_msg(is_true, "not true: %s", #is_true)
#define CK__COMPARE(type, a, op, b)                                                                \
    ck_assert_msg((type)(a)op(type)(b), "not true: %s %s %s: %lld and %lld", #a, #op, #b, (long long)(a), \
                  (long long)(b))
#define ck_assert_int_eq(a, b) CK__COMPARE(intmax_t, a, ==, b)
#define ck_assert_int_ne(a, b) CK__COMPARE(intmax_t, a, !=, b)
#define ck_assert_int_lt(a, b) CK__COMPARE(intmax_t, a, <, b)
#define ck_assert_int_le(a, b) CK__COMPARE(intmax_t, a, <=, b)
#define ck_assert_int_gt(a, b) CK__COMPARE(intmax_t, a, >, b)
#define ck_assert_int_ge(a, b) CK__COMPARE(intmax_t, a, >=, b)
#define ck_assert_uint_eq(a, b) CK__COMPARE(uintmax_t, a, ==, b)
#define ck_assert_uint_ne(a, b) CK__COMPARE(uintmax_t, a, !=, b)
#define ck_assert_uint_lt(a, b) CK__COMPARE(uintmax_t, a, <, b)
#define ck_assert_uint_le(a, b) CK__COMPARE(uintmax_t, a, <=, b)
#define ck_assert_uint_gt(a, b) CK__COMPARE(uintmax_t, a, >, b)
#define ck_assert_uint_ge(a, b) CK__COMPARE(uintmax_t, a, >=, b)
#define ck_assert_ptr_nonnull(p) ck_assert_msg((p) != NULL, "null: %s", #p)
#define ck_assert_ptr_eq(a, b) ck_assert_msg((a) == (b), "not true: %s == %s", #a, #b)

static inline void *ck__new(size_t n_bytes)
{
    void *p = calloc(1, n_bytes);
    if (!p)
        abort();
    return p;
}

static inline Suite *suite_create(const char *name)
{
    (void)name;
    return ck__new(sizeof(Suite));
}

static inline TCase *tcase_create(const char *name)
{
    (void)name;
    TCase *tc = ck__new(sizeof(*tc));
    tc->timeout = 4;
    return tc;
}

static inline void tcase_set_timeout(TCase *tc, double seconds)
{
    tc->timeout = (unsigned)seconds;
}

static inline void tcase_add_loop_test(TCase *tc, const TTest *test, int from, int to)
{
    if (tc->n == (int)(sizeof(tc->tests) / sizeof(tc->tests[0])))
        abort();
    tc->tests[tc->n].test = test;
    tc->tests[tc->n].from = from;
    tc->tests[tc->n++].to = to;
}

static inline void tcase_add_test(TCase *tc, const TTest *test)
{
    tcase_add_loop_test(tc, test, 0, 1);
}

static inline void suite_add_tcase(Suite *s, TCase *tc)
{
    tc->next = s->cases;
    s->cases = tc;
}

static inline SRunner *srunner_create(Suite *s)
{
    return s;
}

/* 1 when the test ended well. */
static inline int ck__run_one(const TTest *test, int i, unsigned timeout)
{
    int status = 0;
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0)
        abort();
    if (pid == 0) {
        alarm(timeout);
        test->run(i);
        fflush(stdout);
        _exit(0);
    }
    if (waitpid(pid, &status, 0) != pid)
        abort();
    if (WIFSIGNALED(status))
        printf("# ended by signal %d\n", WTERMSIG(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

enum { CK_ENV };

static inline void srunner_run_all(SRunner *s, int verbosity)
{
    int n = 0;
    (void)verbosity;
    for (const TCase *tc = s->cases; tc; tc = tc->next)
        for (int k = 0; k < tc->n; k++)
            for (int i = tc->tests[k].from; i < tc->tests[k].to; i++) {
                const TTest *test = tc->tests[k].test;
                int ok = ck__run_one(test, i, tc->timeout);
                s->n_failed += !ok;
                printf("%sok %d - %s %d\n", ok ? "" : "not ", ++n, test->name, i);
            }
    printf("1..%d\n", n);
}

static inline int srunner_ntests_failed(const SRunner *s)
{
    return s->n_failed;
}

static inline void srunner_free(SRunner *s)
{
    for (TCase *tc = s->cases, *next; tc; tc = next) {
        next = tc->next;
        free(tc);
    }
    free(s);
}

#endif
