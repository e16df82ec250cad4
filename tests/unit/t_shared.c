/* tests/unit/t_shared.c - what base/ offers to several threads: mailbox and metrics. Also run under
 * the thread sanitizer. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mailbox.h"
#include "base/metrics.h"

#define THREADS 4

/* --- mailbox ----------------------------------------------------------------------------------- */

static void count_wake(void *arg)
{
    atomic_fetch_add((_Atomic int *)arg, 1);
}

START_TEST(test_mailbox)
{
    struct mailbox *mb = NULL;
    int v[4];
    _Atomic int wakes = 0;
    ck_assert_int_eq(mailbox_new(0, NULL, NULL, &mb), ERR_INVAL);
    ck_assert_ptr_null(mb);
    ck_assert_int_eq(mailbox_new(3, count_wake, &wakes, &mb), 0);
    ck_assert_ptr_null(mailbox_pop(mb));
    for (int round = 0; round < 5; round++) { /* the ring goes round */
        ck_assert_int_eq(mailbox_push(mb, &v[0]), 0);
        ck_assert_int_eq(mailbox_push(mb, &v[1]), 0);
        ck_assert_ptr_eq(mailbox_pop(mb), &v[0]);
        ck_assert_int_eq(mailbox_push(mb, &v[2]), 0);
        ck_assert_int_eq(mailbox_push(mb, &v[3]), 0);
        ck_assert_uint_eq(mailbox_count(mb), 3);
        ck_assert_int_eq(mailbox_push(mb, &v[0]), ERR_LIMIT);
        ck_assert_int_eq(atomic_load(&wakes), 4 * (round + 1)); /* a refusal wakes nobody */
        ck_assert_ptr_eq(mailbox_pop(mb), &v[1]);
        ck_assert_ptr_eq(mailbox_wait(mb, 0), &v[2]);
        ck_assert_ptr_eq(mailbox_wait(mb, -1), &v[3]);
        ck_assert_ptr_null(mailbox_pop(mb));
        ck_assert_uint_eq(mailbox_count(mb), 0);
    }
    mailbox_free(&mb);
    ck_assert_ptr_null(mb);
    mailbox_free(&mb);
}
END_TEST

static void *poke_later(void *arg)
{
    struct timespec t = {0, 20 * NS_PER_MS};
    nanosleep(&t, NULL);
    mailbox_poke(arg);
    return NULL;
}

START_TEST(test_mailbox_wait)
{
    struct mailbox *mb = NULL;
    pthread_t t;
    int v;
    ck_assert_int_eq(mailbox_new(2, NULL, NULL, &mb), 0);
    int64_t start = clock_now_ns();
    ck_assert_ptr_null(mailbox_wait(mb, 0));
    ck_assert_ptr_null(mailbox_wait(mb, 10 * NS_PER_MS));
    ck_assert_int_ge(clock_now_ns() - start, 10 * NS_PER_MS);
    mailbox_poke(mb); /* before the wait: not lost, and counts once */
    ck_assert_ptr_null(mailbox_wait(mb, -1));
    start = clock_now_ns();
    ck_assert_ptr_null(mailbox_wait(mb, 10 * NS_PER_MS));
    ck_assert_int_ge(clock_now_ns() - start, 10 * NS_PER_MS);
    const int64_t long_times[] = {-1, INT64_MIN, INT64_MAX, INT64_MAX - 1, 3600 * NS_PER_SEC};
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(pthread_create(&t, NULL, poke_later, mb), 0);
        ck_assert_ptr_null(mailbox_wait(mb, long_times[i]));
        pthread_join(t, NULL);
    }
    ck_assert_int_eq(mailbox_push(mb, &v), 0);
    mailbox_poke(mb);
    ck_assert_ptr_eq(mailbox_wait(mb, -1), &v); /* a message goes first */
    mailbox_free(&mb);
}
END_TEST

struct producer {
    struct mailbox *mb;
    int first, n;
    int *values; /* values[i] == i */
    uint64_t refused;
};

static void *produce(void *arg)
{
    struct producer *p = arg;
    for (int i = 0; i < p->n;) {
        p->values[p->first + i] = p->first + i; /* visible to who takes the message */
        if (mailbox_push(p->mb, &p->values[p->first + i]) == 0)
            i++;
        else {
            p->refused++;
            sched_yield();
        }
    }
    return NULL;
}

START_TEST(test_mailbox_threads)
{
    enum { EACH = 20000 };
    int *values = calloc((size_t)THREADS * EACH, sizeof(*values)), last[THREADS];
    char *seen = calloc((size_t)THREADS * EACH, 1);
    struct mailbox *mb = NULL;
    struct producer p[THREADS];
    pthread_t t[THREADS];
    _Atomic int wakes = 0;
    ck_assert_int_eq(mailbox_new(_i ? 1 : 64, count_wake, &wakes, &mb), 0);
    int each = _i ? EACH / 10 : EACH;
    for (int i = 0; i < THREADS; i++) {
        last[i] = -1;
        p[i] = (struct producer){mb, i * EACH, each, values, 0};
        ck_assert_int_eq(pthread_create(&t[i], NULL, produce, &p[i]), 0);
    }
    for (int n = 0; n < THREADS * each;) {
        int *v = n % 3 ? mailbox_wait(mb, NS_PER_SEC) : mailbox_pop(mb);
        if (!v)
            continue;
        int who = *v / EACH;
        if (*v != (int)(v - values) || seen[*v] || *v % EACH <= last[who])
            ck_abort_msg("message %d of %d: lost, twice or out of order", *v, who);
        seen[*v] = 1;
        last[who] = *v % EACH;
        n++;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    ck_assert_ptr_null(mailbox_pop(mb));
    ck_assert_int_eq(atomic_load(&wakes), THREADS * each);
    mailbox_free(&mb);
    free(values);
    free(seen);
}
END_TEST

/* --- metrics ----------------------------------------------------------------------------------- */

/* Numbers are written by hand where that is quick: as printf writes them. */
START_TEST(test_metrics_numbers)
{
    static const double values[] = {0, -0.0, 1, 9, 10, 11, 99, 100, 1234567890, 4294967295.0, 4294967296.0,
                                    9007199254740990.0, 9007199254740991.0, 9007199254740992.0, 1e17, 1e300,
                                    -1, -9007199254740991.0, 0.5, 1e-9, 123456.789, 1.0 / 3, -2.5e-300};
    struct metrics *m = metrics_new();
    struct metric *g = metrics_gauge(m, "g", "G.", NULL);
    char want[64];
    struct buf out;
    buf_init(&out, 1 << 16);
    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
        int whole = values[i] == floor(values[i]) && fabs(values[i]) < 9007199254740992.0;
        snprintf(want, sizeof(want), whole ? "\ng %.0f\n" : "\ng %.12g\n", values[i]);
        metric_set(g, values[i]);
        buf_reset(&out);
        ck_assert_int_eq(metrics_render(m, METRICS_TEXT, &out), 0);
        ck_assert_str_eq(strrchr(out.data, 'g') - 1, want);
    }
    buf_done(&out);
    metrics_free(&m);
}
END_TEST

START_TEST(test_metrics_render)
{
    static const double bounds[] = {0.1, 1, 10};
    struct metrics *m = metrics_new();
    struct buf out;
    buf_init(&out, 1 << 16);
    struct metric *a = metrics_counter(m, "a_total", "First.", "x=\"1\"");
    struct metric *g = metrics_gauge(m, "g", "Gauge.", NULL);
    struct metric *b = metrics_counter(m, "a_total", "Not shown.", "x=\"2\"");
    struct metric *h = metrics_histogram(m, "h_seconds", "Times.", "k=\"v\"", bounds, 3);
    struct metric *h2 = metrics_histogram(m, "bare", "No labels.", NULL, bounds, 1);
    metric_add(a, 3);
    metric_add(b, 9007199254740991.0);
    metric_set(g, -2.5);
    metric_observe(h, 0.1); /* a bound belongs to its bucket */
    metric_observe(h, 0.5);
    metric_observe(h, 100);
    metric_observe(h, NAN); /* counts nowhere */
    metric_observe(h2, 0.25);
    ck_assert_int_eq(metrics_render(m, METRICS_TEXT, &out), 0);
    ck_assert_str_eq(out.data,
                     "# HELP a_total First.\n# TYPE a_total counter\n"
                     "a_total{x=\"1\"} 3\na_total{x=\"2\"} 9007199254740991\n"
                     "# HELP g Gauge.\n# TYPE g gauge\ng -2.5\n"
                     "# HELP h_seconds Times.\n# TYPE h_seconds histogram\n"
                     "h_seconds_bucket{k=\"v\",le=\"0.1\"} 1\n"
                     "h_seconds_bucket{k=\"v\",le=\"1.0\"} 2\n"
                     "h_seconds_bucket{k=\"v\",le=\"10.0\"} 2\n"
                     "h_seconds_bucket{k=\"v\",le=\"+Inf\"} 3\n"
                     "h_seconds_sum{k=\"v\"} 100.6\n"
                     "h_seconds_count{k=\"v\"} 3\n"
                     "# HELP bare No labels.\n# TYPE bare histogram\n"
                     "bare_bucket{le=\"0.1\"} 0\nbare_bucket{le=\"+Inf\"} 1\n"
                     "bare_sum 0.25\nbare_count 1\n");
    buf_reset(&out);
    metric_add(metrics_counter(m, "n_max", "Not a counter there.", NULL), 7);
    ck_assert_int_eq(metrics_render(m, METRICS_OPENMETRICS, &out), 0);
    const char *head = "# HELP a First.\n# TYPE a counter\n"
                       "a_total{x=\"1\"} 3\na_total{x=\"2\"} 9007199254740991\n"
                       "# HELP g Gauge.\n# TYPE g gauge\ng -2.5\n# HELP h_seconds Times.\n";
    const char *tail = "bare_count 1\n# HELP n_max Not a counter there.\n# TYPE n_max unknown\n"
                       "n_max 7\n# EOF\n";
    ck_assert(!strncmp(out.data, head, strlen(head)));
    ck_assert_str_eq(out.data + out.n_bytes - strlen(tail), tail);
    ck_assert(metric_value(a) == 3 && metric_value(g) == -2.5 && metric_value(h) == 3);
    buf_reset(&out);
    metric_set(g, INFINITY);
    ck_assert_int_eq(metrics_render(m, METRICS_TEXT, &out), 0);
    ck_assert_ptr_nonnull(strstr(out.data, "\ng +Inf\n"));
    metric_set(g, NAN);
    buf_reset(&out);
    ck_assert_int_eq(metrics_render(m, METRICS_TEXT, &out), 0);
    ck_assert_ptr_nonnull(strstr(out.data, "\ng NaN\n"));
    buf_done(&out);
    buf_init(&out, 100); /* no room: said, not cut in silence */
    ck_assert_int_eq(metrics_render(m, METRICS_TEXT, &out), ERR_LIMIT);
    buf_done(&out);
    metrics_free(&m);
    ck_assert_ptr_null(m);
    metrics_free(&m);
}
END_TEST

START_TEST(test_metrics_null)
{
    metric_add(NULL, 1);
    metric_set(NULL, 1);
    metric_observe(NULL, 1);
    ck_assert(metric_value(NULL) == 0);
    ck_assert_ptr_null(metrics_counter(NULL, "a", "b", NULL));
    const double *sets[] = {metrics_buckets_ttft, metrics_buckets_itl, metrics_buckets_e2e};
    const int n[] = {metrics_n_buckets_ttft, metrics_n_buckets_itl, metrics_n_buckets_e2e};
    for (int i = 0; i < 3; i++)
        for (int k = 1; k < n[i]; k++)
            ck_assert(sets[i][k] > sets[i][k - 1]);
}
END_TEST

START_TEST(test_metrics_escape)
{
    char dst[32];
    metrics_escape_label("plain", dst, sizeof(dst));
    ck_assert_str_eq(dst, "plain");
    metrics_escape_label("a\"b\\c\nd", dst, sizeof(dst));
    ck_assert_str_eq(dst, "a\\\"b\\\\c\\nd");
    for (int room = 1; room < 12; room++) { /* cut, but never within an escape */
        memset(dst, 'Z', sizeof(dst));
        metrics_escape_label("\"\"\"\"\"\"", dst, room);
        size_t n = strlen(dst);
        ck_assert_uint_lt(n, (size_t)room);
        ck_assert_uint_eq(n % 2, 0);
        ck_assert_int_eq(dst[room], 'Z');
    }
}
END_TEST

struct updater {
    struct metrics *m;
    struct metric *c, *g, *h;
    int n;
};

static void *update(void *arg)
{
    struct updater *u = arg;
    for (int i = 0; i < u->n; i++) {
        metric_add(u->c, 1);
        metric_add(u->g, i % 2 ? -2 : 3);
        metric_observe(u->h, i % 3);
    }
    return NULL;
}

START_TEST(test_metrics_threads)
{
    enum { EACH = 50000 };
    static const double bounds[] = {0, 1};
    struct updater u = {metrics_new(), NULL, NULL, NULL, EACH};
    pthread_t t[THREADS];
    struct buf out;
    buf_init(&out, 1 << 16);
    u.c = metrics_counter(u.m, "c", "C.", NULL);
    u.g = metrics_gauge(u.m, "g", "G.", NULL);
    u.h = metrics_histogram(u.m, "h", "H.", NULL, bounds, 2);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, update, &u), 0);
    double last = 0;
    for (int i = 0; i < 50; i++) { /* rendered and extended meanwhile */
        char name[16];
        buf_reset(&out);
        snprintf(name, sizeof(name), "late%d", i);
        ck_assert_ptr_nonnull(metrics_gauge(u.m, name, "Late.", NULL));
        ck_assert_int_eq(metrics_render(u.m, METRICS_TEXT, &out), 0);
        double v = strtod(strstr(out.data, "\nc ") + 3, NULL);
        ck_assert(v >= last);
        last = v;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    ck_assert(metric_value(u.c) == THREADS * EACH);
    ck_assert(metric_value(u.g) == THREADS * EACH / 2);
    ck_assert(metric_value(u.h) == THREADS * EACH);
    buf_reset(&out);
    ck_assert_int_eq(metrics_render(u.m, METRICS_TEXT, &out), 0);
    ck_assert_ptr_nonnull(strstr(out.data, "h_sum 199996\n")); /* 4 * (16667 + 2 * 16666) */
    buf_done(&out);
    metrics_free(&u.m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("shared");
    TCase *tc = tcase_create("shared");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, test_mailbox);
    tcase_add_test(tc, test_mailbox_wait);
    tcase_add_loop_test(tc, test_mailbox_threads, 0, 2);
    tcase_add_test(tc, test_metrics_numbers);
    tcase_add_test(tc, test_metrics_render);
    tcase_add_test(tc, test_metrics_null);
    tcase_add_test(tc, test_metrics_escape);
    tcase_add_test(tc, test_metrics_threads);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
