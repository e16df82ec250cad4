/* tests/forward/t_paged.c - attention over pages: random trees of shared prefixes, page sizes, row formats,
 * spans and chosen rows against softmax in float64, and bit for bit against each span alone; what is shared
 * is read once; what does not fit the store of partial sums. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/attention/paged.h"
#include "kvcache/kvcache.h"

#define MAX_SPANS 24
#define MAX_ROWS 64
#define MAX_CONTEXT 1700
#define PLANE_OFFSET 64

static unsigned long long seed;

static int below(int n)
{
    return rand() % n;
}

static float real(void)
{
    return ((float)rand() / (float)RAND_MAX - 0.5f) * 3.4f;
}

/* --- a step made by hand ----------------------------------------------------------------------- */

struct world {
    struct paged_shape shape;
    struct step step;
    struct span spans[MAX_SPANS];
    struct paged_choice choices[MAX_SPANS];
    unsigned char **tables[MAX_SPANS];
    int length[MAX_SPANS]; /* rows, with the new ones */
    int n_spans, n_rows, page_tokens;
    float *q, *out;
    unsigned char **pages; /* all there are */
    int n_pages;
};

static unsigned char *page_new(struct world *w)
{
    const struct row_format *f = &w->shape.format;
    size_t bytes = PLANE_OFFSET + (size_t)w->page_tokens * f->row_bytes;
    unsigned char *page = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    float *row = malloc((size_t)f->elems * sizeof(*row));
    for (int t = 0; t < w->page_tokens; t++) {
        for (int i = 0; i < f->elems; i++)
            row[i] = real();
        w->step.kern->row_store(f, row, page + PLANE_OFFSET + (size_t)t * f->row_bytes);
    }
    free(row);
    w->pages = realloc(w->pages, (size_t)(w->n_pages + 1) * sizeof(*w->pages));
    return w->pages[w->n_pages++] = page;
}

/* Span i: some whole pages of an earlier one, then its own. */
static void span_new(struct world *w, int i, int length, int n_tokens, bool share)
{
    int p = w->page_tokens, n = (length + p - 1) / p, shared = 0;
    w->tables[i] = calloc((size_t)n, sizeof(*w->tables[i]));
    if (share && i > 0) {
        int from = below(i);
        int whole = (length < w->length[from] ? length - n_tokens : w->length[from] - 1) / p;
        shared = below(3) ? whole : below(whole + 1);
        memcpy(w->tables[i], w->tables[from], (size_t)shared * sizeof(*w->tables[i]));
    }
    for (int k = shared; k < n; k++)
        w->tables[i][k] = page_new(w);
    w->length[i] = length;
    w->spans[i] = (struct span){w->tables[i], length - n_tokens, n_tokens, w->n_rows, false};
    w->n_rows += n_tokens;
}

static void choose(struct world *w, int i)
{
    int n = 0, keep = 1 + below(4);
    int32_t *list = malloc((size_t)w->length[i] * sizeof(*list));
    for (int t = 0; t < w->length[i]; t++)
        if (below(keep) == 0 || t == w->length[i] - 1)
            list[n++] = t;
    w->choices[i] = (struct paged_choice){list, n};
}

static void world_new(struct world *w, enum cpu_level level, enum tensor_type type)
{
    static const int heads[] = {1, 3, 5, 16, 20, 21}, pages[] = {8, 16, 32, 64, 256, 1024};
    memset(w, 0, sizeof(*w));
    int dv = 2 * (4 + below(6)), tail = 2 * (1 + below(4)), elems = dv + tail;
    int k_off = below(3) ? 0 : 2 * below(elems / 4);
    w->page_tokens = pages[below(6)];
    w->shape = (struct paged_shape){.n_heads = heads[below(6)], .dk = elems - k_off, .dv = dv,
                                    .k_off = k_off, .v_off = below(2) ? 0 : tail, .scale = 0.3f};
    w->shape.format = paged_format(type, elems, tail);
    w->step.kern = kern_table(level);
    w->step.page_tokens = (uint32_t)w->page_tokens;
    w->step.row_type = type;
    w->n_spans = 1 + below(MAX_SPANS);
    for (int i = 0; i < w->n_spans; i++) {
        int n_tokens = below(3) ? 1 : 1 + below((MAX_ROWS - w->n_rows) / (w->n_spans - i));
        int length = below(3) ? 1 + below(MAX_CONTEXT) : 512 * (1 + below(3)) + below(3) - 1;
        bool chosen = below(6) == 0;
        n_tokens = chosen ? 1 : n_tokens < length ? n_tokens : length;
        span_new(w, i, length, n_tokens, below(5) > 0);
        if (chosen)
            choose(w, i);
    }
    size_t lanes = (size_t)w->n_rows * (size_t)w->shape.n_heads;
    w->q = malloc(lanes * (size_t)w->shape.dk * sizeof(*w->q));
    w->out = malloc(lanes * (size_t)w->shape.dv * sizeof(*w->out));
    for (size_t i = 0; i < lanes * (size_t)w->shape.dk; i++)
        w->q[i] = real();
}

static void world_free(struct world *w)
{
    for (int i = 0; i < w->n_spans; i++) {
        free(w->tables[i]);
        free((void *)(uintptr_t)w->choices[i].positions);
    }
    for (int i = 0; i < w->n_pages; i++)
        free(w->pages[i]);
    free(w->pages);
    free(w->q);
    free(w->out);
}

/* Runs some of the spans, their rows of q as they are numbered in the set, with so many threads. */
static void attend(const struct world *w, const struct span *spans, const struct paged_choice *choices,
                   int n, int n_rows, int threads, const float *q, float *out)
{
    struct step_limits lim = {.max_rows = MAX_ROWS, .max_seqs = MAX_SPANS, .n_threads = threads,
                              .max_position = 1 << 20, .page_tokens = (uint32_t)w->page_tokens,
                              .row_type = w->shape.format.type};
    struct row_set set = {.n_rows = n_rows, .n_spans = n, .spans = spans};
    struct step step = w->step;
    struct paged_work *work = NULL;
    struct err e = {0};
    ck_assert_int_eq(pool_new(threads, 0, &step.pool, &e), 0);
    ck_assert_int_eq(paged_work_new(&w->shape, &lim, &work), 0);
    paged_attention(work, &step, &set, PLANE_OFFSET, choices, q, out);
    paged_work_free(work);
    pool_free(&step.pool);
}

/* --- what it should be, of some lanes -------------------------------------------------------------- */

static double bf16(const unsigned char *at)
{
    uint32_t u = (uint32_t)(at[0] | at[1] << 8) << 16;
    float v;
    memcpy(&v, &u, 4);
    return v;
}

static double fp8(unsigned char b)
{
    int e = b >> 3 & 15, m = b & 7;
    double v = e ? ldexp(1.0 + m / 8.0, e - 7) : ldexp(m / 8.0, -6);
    return b & 128 ? -v : v;
}

static double element(const struct row_format *f, const unsigned char *row, int i)
{
    int bytes = f->elems - f->tail;
    float v;
    if (f->type == TT_BF16)
        return bf16(row + 2 * (size_t)i);
    if (f->type == TT_F32) {
        memcpy(&v, row + 4 * (size_t)i, 4);
        return v;
    }
    if (f->type == TT_I4) {
        static const int levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                       1,    13,   25,  38,  53,  69,  89,  113};
        int groups = (bytes + 31) / 32, pair = row[i / 32 * 16 + i % 16];
        if (i >= bytes)
            return bf16(row + 16 * groups + 2 * (i - bytes));
        return levels[i % 32 < 16 ? pair & 15 : pair >> 4] *
               bf16(row + 16 * groups + 2 * f->tail + 2 * (i / 32));
    }
    if (i >= bytes)
        return bf16(row + bytes + 2 * (size_t)(i - bytes));
    memcpy(&v, row + bytes + 2 * (size_t)f->tail + 4 * (size_t)(i / 128), 4);
    return (f->type == TT_I8 ? (double)(signed char)row[i] : fp8(row[i])) * v;
}

static double worst_error(const struct world *w, int span)
{
    const struct paged_shape *s = &w->shape;
    const struct span *sp = &w->spans[span];
    const struct paged_choice *c = &w->choices[span];
    double worst = 0, score[MAX_CONTEXT], want[64];
    for (int lane = below(4); lane < sp->n_tokens * s->n_heads; lane += 1 + below(8)) {
        size_t at = (size_t)sp->first * (size_t)s->n_heads + (size_t)lane;
        int n = c->positions ? c->n : sp->position + lane / s->n_heads + 1;
        double max = -1e300, sum = 0;
        for (int pass = 0; pass < 2; pass++) {
            for (int k = 0; k < n; k++) {
                int t = c->positions ? c->positions[k] : k;
                const unsigned char *row = sp->pages[t / w->page_tokens] + PLANE_OFFSET +
                                           (size_t)(t % w->page_tokens) * s->format.row_bytes;
                if (pass == 0) {
                    score[k] = 0;
                    for (int d = 0; d < s->dk; d++)
                        score[k] += (double)w->q[at * (size_t)s->dk + (size_t)d] * (double)s->scale *
                                    element(&s->format, row, s->k_off + d);
                    max = fmax(max, score[k]);
                    continue;
                }
                double weight = exp(score[k] - max);
                sum += weight;
                for (int r = 0; r < s->dv; r++)
                    want[r] += weight * element(&s->format, row, s->v_off + r);
            }
            if (pass == 0)
                memset(want, 0, sizeof(want));
        }
        for (int r = 0; r < s->dv; r++)
            worst = fmax(worst, fabs(want[r] / sum - (double)w->out[at * (size_t)s->dv + (size_t)r]));
    }
    return worst;
}

START_TEST(test_random)
{
    static const enum tensor_type types[] = {TT_F32, TT_BF16, TT_I8, TT_F8_E4M3, TT_I4};
    enum cpu_level level = (enum cpu_level)(_i / 5);
    if (!kern_level_built(level))
        return;
    srand((unsigned)seed + (unsigned)_i);
    double tolerance = kern_table(level)->attn_bf16 ? 0.06 : 2e-5; /* bfloat16 operands */
    for (int round = 0; round < 5; round++) {
        struct world w;
        world_new(&w, level, types[_i % 5]);
        size_t in = (size_t)w.shape.n_heads * (size_t)w.shape.dk;
        size_t of = (size_t)w.shape.n_heads * (size_t)w.shape.dv;
        float *alone = malloc((size_t)MAX_ROWS * of * sizeof(*alone));
        float *again = malloc((size_t)MAX_ROWS * of * sizeof(*again));
        int threads = 1 + below(4);
        attend(&w, w.spans, w.choices, w.n_spans, w.n_rows, threads, w.q, w.out);
        for (int i = 0; i < w.n_spans; i++) {
            struct span one = w.spans[i];
            one.first = 0;
            attend(&w, &one, &w.choices[i], 1, one.n_tokens, 1, w.q + (size_t)w.spans[i].first * in, alone);
            ck_assert_msg(!memcmp(alone, w.out + (size_t)w.spans[i].first * of,
                                  (size_t)one.n_tokens * of * sizeof(*alone)),
                          "span %d of %d alone differs (seed %llu)", i, w.n_spans, seed);
            double worst = worst_error(&w, i);
            ck_assert_msg(worst < tolerance, "span %d of %d: error %g (seed %llu)", i, w.n_spans, worst,
                          seed);
        }
        attend(&w, w.spans, w.choices, w.n_spans, w.n_rows, 5 - threads, w.q, again);
        ck_assert_msg(!memcmp(again, w.out, (size_t)w.n_rows * of * sizeof(*again)),
                      "%d threads and %d differ (seed %llu)", threads, 5 - threads, seed);
        free(alone);
        free(again);
        world_free(&w);
    }
}
END_TEST

/* --- what is read ------------------------------------------------------------------------------ */

static const struct kernels *inner;
static atomic_int calls[64], rows_read;

static void counting_piece(const struct attn_piece *p)
{
    atomic_fetch_add(&calls[p->first / ATTN_PIECE], 1);
    atomic_fetch_add(&rows_read, p->n_rows);
    inner->attn_piece(p);
}

/* Sixteen sequences made by forking: their common prefix is read once, their own tails by each. */
START_TEST(test_forks_read_one_copy)
{
    enum { SEQS = 16, PREFIX = 5 * ATTN_PIECE + 70, P = 32, MORE = 3 };
    struct world w = {.n_spans = SEQS, .n_rows = SEQS, .page_tokens = P};
    w.shape = (struct paged_shape){.n_heads = 16, .dk = 16, .dv = 12, .scale = 0.2f};
    w.shape.format = paged_format(TT_BF16, 16, 4);
    struct kv_plane planes[] = {{64, 1, 64}, {(uint32_t)w.shape.format.row_bytes, 1, 64}};
    struct kv_config kc = {.page_tokens = P, .n_planes = 2, .planes = planes, .pool_bytes = 8u << 20,
                           .max_seqs = SEQS, .max_seq_tokens = 4096};
    struct kernels counting = *(inner = kern_table(cpu_detect()));
    struct err e = {0};
    struct kv *kv = NULL;
    struct kv_seq *seq[SEQS] = {NULL};
    int32_t tokens[PREFIX] = {0};
    float q[SEQS * 16 * 16], out[SEQS * 16 * 12], alone[16 * 12];
    counting.attn_piece = counting_piece;
    w.step = (struct step){.kern = &counting, .page_tokens = P, .row_type = TT_BF16};
    ck_assert_msg(kv_open(&kc, &kv, &e) == 0, "%s", e.text);
    ck_assert_int_eq((int)kv_plane_offset(kv, 1) % 64, 0);
    for (int i = 0; i < SEQS * 16 * 16; i++)
        q[i] = real();
    for (int i = 0; i < SEQS; i++) {
        int n = i ? MORE : PREFIX;
        if (i == 0)
            ck_assert_int_eq(kv_seq_new(kv, 0, &seq[0]), 0);
        else
            ck_assert_int_eq(kv_seq_fork(kv, seq[0], &seq[i]), 0);
        ck_assert_int_eq(kv_seq_reserve(kv, seq[i], (uint32_t)n), 0);
        for (int t = (int)kv_seq_length(seq[i]), end = t + n; t < end; t++) {
            float row[16];
            for (int d = 0; d < 16; d++)
                row[d] = real();
            counting.row_store(&w.shape.format, row,
                               kv_seq_pages(seq[i], NULL)[t / P] + kv_plane_offset(kv, 1) +
                                   (size_t)(t % P) * w.shape.format.row_bytes);
        }
        kv_seq_commit(kv, seq[i], tokens, (uint32_t)n);
    }
    for (int i = 0; i < SEQS; i++)
        w.spans[i] = (struct span){kv_seq_pages(seq[i], NULL), (int32_t)kv_seq_length(seq[i]) - 1,
            1, i, false};
    struct step_limits lim = {.max_rows = SEQS, .max_seqs = SEQS, .n_threads = 1, .page_tokens = P};
    struct paged_work *work = NULL;
    struct row_set set = {.n_rows = SEQS, .n_spans = SEQS, .spans = w.spans};
    ck_assert_int_eq(pool_new(1, 0, &w.step.pool, &e), 0);
    ck_assert_int_eq(paged_work_new(&w.shape, &lim, &work), 0);
    paged_attention(work, &w.step, &set, kv_plane_offset(kv, 1), NULL, q, out);
    for (int p = 0; p < 5; p++)
        ck_assert_int_eq(calls[p], 1);
    ck_assert_int_eq(calls[5], SEQS);
    ck_assert_int_eq(rows_read, 5 * ATTN_PIECE + SEQS * 70 + (SEQS - 1) * MORE);
    for (int i = 0; i < SEQS; i++) {
        struct span one = w.spans[i];
        one.first = 0;
        set = (struct row_set){.n_rows = 1, .n_spans = 1, .spans = &one};
        paged_attention(work, &w.step, &set, kv_plane_offset(kv, 1), NULL, q + i * 16 * 16, alone);
        ck_assert_msg(!memcmp(alone, out + i * 16 * 12, sizeof(alone)), "fork %d differs alone", i);
    }
    paged_work_free(work);
    pool_free(&w.step.pool);
    for (int i = 0; i < SEQS; i++)
        kv_seq_free(kv, &seq[i]);
    kv_close(&kv);
}
END_TEST

/* More pieces of one sequence than the store of partial sums holds. All pages are one and the same, so that
 * the answer is that of a context of one page. */
START_TEST(test_waves)
{
    enum { PIECES = 263, P = 512, DV = 512 };
    struct world w = {.n_spans = 1, .page_tokens = P};
    w.shape = (struct paged_shape){.n_heads = 16, .dk = 2, .dv = DV, .scale = 1.0f};
    w.shape.format = paged_format(TT_F32, DV, 0);
    w.step = (struct step){.kern = kern_table(cpu_detect()), .page_tokens = P, .row_type = TT_F32};
    float q[16 * 2], *got = malloc(16 * DV * sizeof(*got)), *one = malloc(16 * DV * sizeof(*one));
    unsigned char *table[PIECES], *page = page_new(&w);
    for (int i = 0; i < PIECES; i++)
        table[i] = page;
    for (int i = 0; i < 16 * 2; i++)
        q[i] = real();
    struct span sp = {table, P * PIECES - 1, 1, 0, false};
    attend(&w, &sp, NULL, 1, 1, 2, q, got);
    sp.position = P - 1;
    attend(&w, &sp, NULL, 1, 1, 1, q, one);
    for (int i = 0; i < 16 * DV; i++)
        ck_assert_msg(fabsf(got[i] - one[i]) < 1e-4f, "value %d: %g, one page %g", i, (double)got[i],
                      (double)one[i]);
    free(got);
    free(one);
    free(page);
    free(w.pages);
}
END_TEST

/* Some sequences with long contexts on a machine of many threads: more pieces than a job has items, so that a
 * job ends in the middle of a lane's. Nobody folds into a lane's sums while another does. */
enum { MANY = 32, STREAMS = 97, LONG = 191, WIDE = 16 }; /* threads, heads, pieces, values */
static const float *watched; /* the results */
static atomic_int folding[STREAMS], clashes;

static void watching_fold(int n, int dv, float *m1, float *l1, float *const *o1, const float *m2,
                          const float *l2, const float *o2)
{
    atomic_int *at = &folding[(o1[0] - watched) / WIDE];
    if (atomic_fetch_add(at, 1))
        atomic_fetch_add(&clashes, 1);
    nanosleep(&(struct timespec){0, 20000}, NULL);
    inner->attn_fold(n, dv, m1, l1, o1, m2, l2, o2);
    atomic_fetch_sub(at, 1);
}

START_TEST(test_full_jobs)
{
    enum { P = ATTN_PIECE };
    static struct paged_group groups[STREAMS];
    static size_t offsets[STREAMS];
    static float q[STREAMS * 2], got[STREAMS * WIDE], want[STREAMS * WIDE];
    struct world w = {.n_spans = 1, .page_tokens = P};
    struct kernels watching = *(inner = kern_table(cpu_detect()));
    unsigned char *table[LONG];
    struct span sp = {table, P * LONG - 1, 1, 0, false};
    struct row_set set = {.n_rows = 1, .n_spans = 1, .spans = &sp};
    struct err e = {0};
    watching.attn_fold = watching_fold;
    w.shape = (struct paged_shape){.n_heads = STREAMS, .dk = 2, .dv = WIDE, .scale = 1.0f,
                                   .n_groups = STREAMS, .groups = groups};
    w.shape.format = paged_format(TT_F32, WIDE, 0);
    w.step = (struct step){.kern = &watching, .page_tokens = P, .row_type = TT_F32};
    for (int i = 0; i < 4; i++)
        page_new(&w);
    for (int i = 0; i < LONG; i++)
        table[i] = w.pages[below(4)];
    for (int i = 0; i < STREAMS; i++) {
        groups[i] = (struct paged_group){.first = i, .n = 1, .plane = i};
        offsets[i] = PLANE_OFFSET;
        q[2 * i] = real();
        q[2 * i + 1] = real();
    }
    for (int many = 0; many < 2; many++) {
        struct step_limits lim = {.max_rows = 1, .max_seqs = 1, .n_threads = many ? MANY : 1,
                                  .page_tokens = P};
        struct paged_work *work = NULL;
        struct paged_call call = {&w.shape, &set, offsets, NULL, q, many ? got : want, NULL, NULL};
        watched = call.out;
        ck_assert_int_eq(pool_new(many ? 4 : 1, 0, &w.step.pool, &e), 0);
        ck_assert_int_eq(paged_work_new(&w.shape, &lim, &work), 0);
        paged_attend(work, &w.step, &call);
        paged_work_free(work);
        pool_free(&w.step.pool);
    }
    ck_assert_int_eq(clashes, 0);
    ck_assert(!memcmp(got, want, sizeof(got)));
    for (int i = 0; i < w.n_pages; i++)
        free(w.pages[i]);
    free(w.pages);
}
END_TEST

/* The work space of a model of 20 heads and rows of 576 with 512 tokens a step. */
START_TEST(test_memory)
{
    struct paged_shape s = {.n_heads = 20, .dk = 576, .dv = 512, .scale = 1.0f};
    struct step_limits lim = {.max_rows = 512, .max_seqs = 64, .n_threads = 2, .page_tokens = 32};
    struct paged_work *work = NULL;
    s.format = paged_format(TT_F32, 576, 64);
    ck_assert_int_eq(paged_work_new(&s, &lim, &work), 0);
    ck_assert_msg(paged_work_bytes(work) < 64u << 20, "%llu bytes",
                  (unsigned long long)paged_work_bytes(work));
    paged_work_free(work);
}
END_TEST

int main(void)
{
    const char *s = getenv("LATENT_TEST_SEED");
    seed = s ? strtoull(s, NULL, 10) : (unsigned long long)time(NULL);
    srand((unsigned)seed);
    printf("# seed %llu (LATENT_TEST_SEED)\n", seed);
    fflush(stdout);
    Suite *suite = suite_create("paged");
    TCase *tc = tcase_create("paged");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, test_random, 0, 5 * CPU_LEVEL_MAX);
    tcase_add_test(tc, test_forks_read_one_copy);
    tcase_add_test(tc, test_waves);
    tcase_add_test(tc, test_full_jobs);
    tcase_add_test(tc, test_memory);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
