/* tests/unit/t_batch.c - batches: the lines of both files (api/batch.c), the files (server/batch_file.c),
 * what is known of requests (server/batch_ids.c), and runs over an engine that ends what it is told to. */
#include "config.h"

#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "base/log.h"
#include "held_engine.h"
#include "server/batch.h"
#include "server/batch_file.h"
#include "server/batch_ids.h"
#include "server/conf.h"

/* --- lines of input --------------------------------------------------------------------------------- */

#define GOOD "{\"custom_id\":\"q\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":"

static void check_good(const char *line, const char *url, const char *body)
{
    struct api_batch_line l;
    struct err e = {0};
    const size_t n = strlen(line);
    ck_assert_msg(api_batch_read(line, n, &l, &e) == 0, "%s: %s", line, e.text);
    ck_assert_str_eq(l.custom_id, "q");
    ck_assert_str_eq(l.url, url);
    ck_assert_ptr_null(l.code);
    ck_assert_msg(l.body_bytes == strlen(body) && !memcmp(l.body, body, l.body_bytes), "%s: %.*s", line,
                  (int)l.body_bytes, l.body);
    ck_assert(l.body >= line && l.body + l.body_bytes <= line + n);
    api_batch_line_done(&l);
    api_batch_line_done(&l); /* twice does no harm */
}

START_TEST(test_good)
{
    static const char *const urls[] = {
        "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages",
        "/v1/messages/count_tokens", "/v1/tokenize", "/v1/detokenize",
    };
    char line[300];
    for (size_t i = 0; i < sizeof(urls) / sizeof(*urls); i++) {
        snprintf(line, sizeof(line),
                 "{\"custom_id\":\"q\",\"method\":\"POST\",\"url\":\"%s\",\"body\":{}}", urls[i]);
        check_good(line, urls[i], "{}");
    }
#define C "/v1/completions"
    /* the body goes on as it stands: blanks, numbers, escapes, what looks like an end in a text */
    check_good(GOOD " { \"a\" : 1.10 } }", C, "{ \"a\" : 1.10 }");
    check_good(GOOD "{\"seed\":9007199254740993,\"x\":[0.30000000000000004,1e400,-0]}}", C,
               "{\"seed\":9007199254740993,\"x\":[0.30000000000000004,1e400,-0]}");
    check_good(GOOD "{\"prompt\":\"}\\\"}{\\\\\",\"a\":[{\"b\":[]}]}}", C,
               "{\"prompt\":\"}\\\"}{\\\\\",\"a\":[{\"b\":[]}]}");
    check_good(GOOD "{\"stream\":false}}", C, "{\"stream\":false}");
    check_good(GOOD "{\"stream\":\"true\"}}", C, "{\"stream\":\"true\"}"); /* its endpoint refuses that */
    check_good(GOOD "{\"a\":\"\xc3\xa4 \xf0\x9f\x98\x80\"}}", C, "{\"a\":\"\xc3\xa4 \xf0\x9f\x98\x80\"}");
    /* the order of members, members of ours, a byte order mark, blanks on both ends */
    check_good("{\"body\":{\"a\":1},\"more\":{\"body\":{}},\"url\":\"" C "\",\"method\":\"POST\","
               "\"custom_id\":\"q\"}", C, "{\"a\":1}");
    check_good("\xef\xbb\xbf" GOOD "{\"a\":2}}", C, "{\"a\":2}");
    check_good(" \t" GOOD "{\"a\":3}} \t\r", C, "{\"a\":3}");
    /* names with escapes; of two members with a name the first counts, for the tree and the scan */
    check_good("{\"custom\\u005fid\":\"\\u0071\",\"method\":\"POST\",\"url\":\"\\/v1\\/completions\","
               "\"bod\\u0079\":{\"a\":4}}", C, "{\"a\":4}");
    check_good(GOOD "{\"a\":5},\"body\":{\"a\":6},\"custom_id\":\"r\"}", C, "{\"a\":5}");
#undef C
}
END_TEST

static void check_bad(const char *line, size_t n, const char *custom_id, const char *code, const char *named)
{
    struct api_batch_line l;
    struct err e = {0};
    ck_assert_msg(api_batch_read(line, n, &l, &e) == ERR_INVAL, "%.*s", (int)n, line);
    ck_assert_str_eq(l.code, code);
    ck_assert_msg(strstr(e.text, named) != NULL, "%s without %s", e.text, named);
    ck_assert_msg(custom_id ? l.custom_id && !strcmp(l.custom_id, custom_id) : !l.custom_id, "%.*s", (int)n,
                  line);
    ck_assert_uint_eq(l.body_bytes, 0);
    api_batch_line_done(&l);
    ck_assert_ptr_null(l.custom_id);
    ck_assert_ptr_null(l.url);
}

START_TEST(test_bad)
{
#define BAD(line, id, code, named) check_bad(line, strlen(line), id, code, named)
#define ID "{\"custom_id\":\"q\","
    /* no JSON object: nothing is known of it */
    BAD("", NULL, "invalid_json_line", "empty");
    BAD("   ", NULL, "invalid_json_line", "not valid JSON");
    BAD("hello", NULL, "invalid_json_line", "not valid JSON");
    BAD("[]", NULL, "invalid_json_line", "not a JSON object");
    BAD("null", NULL, "invalid_json_line", "not a JSON object");
    BAD("\"text\"", NULL, "invalid_json_line", "not a JSON object");
    BAD(GOOD "{}", NULL, "invalid_json_line", "not valid JSON"); /* torn */
    BAD(GOOD "{}}}", NULL, "invalid_json_line", "text after");
    BAD(GOOD "{}} {}", NULL, "invalid_json_line", "text after");
    BAD(GOOD "{\"a\":\"\xff\"}}", NULL, "invalid_json_line", "UTF-8");
    BAD(GOOD "{\"a\":\"\\u0000\"}}", NULL, "invalid_json_line", "NUL");
    check_bad("{}\0{}", 5, NULL, "invalid_json_line", "NUL");
    /* each member */
    BAD("{}", NULL, "invalid_custom_id", "custom_id");
    BAD("{\"custom_id\":\"\"}", NULL, "invalid_custom_id", "custom_id");
    BAD("{\"custom_id\":7}", NULL, "invalid_custom_id", "custom_id");
    BAD("{\"custom_id\":null}", NULL, "invalid_custom_id", "custom_id");
    BAD(ID "\"url\":\"/v1/completions\",\"body\":{}}", "q", "invalid_method", "method");
    BAD(ID "\"method\":\"post\",\"url\":\"/v1/completions\",\"body\":{}}", "q", "invalid_method", "method");
    BAD(ID "\"method\":[\"POST\"]}", "q", "invalid_method", "method");
    BAD(ID "\"method\":\"POST\"}", "q", "invalid_url", "url must be one of /v1/chat/completions");
    BAD(ID "\"method\":\"POST\",\"url\":\"/v1/completions/\"}", "q", "invalid_url", "/v1/detokenize");
    BAD(ID "\"method\":\"POST\",\"url\":\"/v1/models\"}", "q", "invalid_url", "url");
    BAD(ID "\"method\":\"POST\",\"url\":\"/v1/completions\"}", "q", "invalid_body", "body");
    BAD(GOOD "[]}", "q", "invalid_body", "body");
    BAD(GOOD "\"{}\"}", "q", "invalid_body", "body");
    BAD(GOOD "null}", "q", "invalid_body", "body");
    BAD(GOOD "{\"stream\":true}}", "q", "stream_unsupported", "stream");
    /* several: the endpoint takes the last that is not null */
    BAD(GOOD "{\"stream\":false,\"stream\":true}}", "q", "stream_unsupported", "stream");
    BAD(GOOD "{\"stream\":null,\"stream\":true,\"stream\":null}}", "q", "stream_unsupported", "stream");
#undef ID
#undef BAD
}
END_TEST

/* The text so many times. */
static void put(struct buf *b, const char *text, size_t n)
{
    int r = 0;
    for (size_t i = 0; i < n; i++)
        r |= buf_puts(b, text);
    ck_assert_int_eq(r, 0);
}

/* As deep and as long as the parser allows, and more. */
START_TEST(test_limits)
{
    struct buf b;
    struct api_batch_line l;
    struct err e = {0};
    buf_init(&b, 16u << 20);
    for (int deep = 0; deep < 2; deep++) {
        const size_t n = deep ? 100000 : 500;
        buf_reset(&b);
        put(&b, GOOD "{\"a\":", 1);
        put(&b, "[", n);
        put(&b, "]", n);
        put(&b, "}}", 1);
        ck_assert_int_eq(api_batch_read(b.data, b.n_bytes, &l, &e), deep ? ERR_INVAL : 0);
        ck_assert_int_eq(deep, l.code && !strcmp(l.code, "invalid_json_line"));
        ck_assert(deep || l.body_bytes == 2 * n + 6);
        api_batch_line_done(&l);
    }
    buf_reset(&b); /* more values than a tree may have */
    put(&b, GOOD "{\"a\":[0", 1);
    put(&b, ",0", 1000001);
    put(&b, "]}}", 1);
    ck_assert_int_eq(api_batch_read(b.data, b.n_bytes, &l, &e), ERR_INVAL);
    ck_assert_str_eq(l.code, "invalid_json_line");
    ck_assert_ptr_nonnull(strstr(e.text, "1000000 values"));
    api_batch_line_done(&l);
    buf_done(&b);
}
END_TEST

/* A line cut anywhere is a mistake, or the same request; whatever follows it in memory is not read. */
START_TEST(test_cut)
{
    static const char line[] = "\xef\xbb\xbf" GOOD " {\"a\":\"\\u00e4\\\\\",\"b\":[1,{}]} } ";
    const size_t whole = sizeof(line) - 2; /* without the blank at the end */
    for (size_t n = 0; n <= whole; n++) {
        struct api_batch_line l;
        struct err e = {0};
        char *copy = malloc(n ? n : 1);
        ck_assert_ptr_nonnull(copy);
        memcpy(copy, line, n);
        ck_assert_int_eq(api_batch_read(copy, n, &l, &e), n == whole ? 0 : ERR_INVAL);
        ck_assert_int_eq(l.code == NULL, n == whole);
        api_batch_line_done(&l);
        free(copy);
    }
}
END_TEST

/* --- lines of output -------------------------------------------------------------------------------- */

static void check_line(const struct api_batch_answer *a, const char *want, const char *id, int status,
                       long long number)
{
    struct buf out;
    struct api_batch_told t;
    buf_init(&out, 1u << 20);
    ck_assert_int_eq(buf_puts(&out, "before\n"), 0); /* what is there stays */
    ck_assert_int_eq(api_batch_write(a, &out), 0);
    ck_assert_str_eq(out.data, want);
    const char *line = out.data + strlen("before\n");
    size_t n = out.n_bytes - strlen("before\n");
    for (int i = 0; i < 2; i++, n--) { /* with its end and without */
        ck_assert_int_eq(api_batch_read_told(line, n, &t), 0);
        ck_assert_msg(id ? t.custom_id && !strcmp(t.custom_id, id) : !t.custom_id, "%s", line);
        ck_assert_int_eq(t.status, status);
        ck_assert_int_eq(t.line, number);
        free(t.custom_id);
    }
    for (; n > 0; n--) /* torn anywhere it is none */
        ck_assert_int_eq(api_batch_read_told(line, n, &t), ERR_FORMAT);
    buf_done(&out);
}

START_TEST(test_output)
{
    const char body[] = "{\"n\":1.10,\"s\":\"}\\\"\\n\"}";
    const struct api_batch_answer answered = {.id = "batch_req_1",
                                              .custom_id = "q\"\n\xc3\xa4",
                                              .request_id = "req-1",
                                              .status = 200,
                                              .body = body,
                                              .body_bytes = strlen(body)};
    check_line(&answered,
               "before\n{\"id\":\"batch_req_1\",\"custom_id\":\"q\\\"\\n\xc3\xa4\",\"response\":"
               "{\"status_code\":200,\"request_id\":\"req-1\",\"body\":{\"n\":1.10,\"s\":\"}\\\"\\n\"}},"
               "\"error\":null}\n",
               "q\"\n\xc3\xa4", 200, 0);
    const struct api_batch_answer refused = {.id = "batch_req_2",
                                             .custom_id = "q",
                                             .request_id = "req-2",
                                             .status = 404,
                                             .body = "null",
                                             .body_bytes = 4};
    check_line(&refused,
               "before\n{\"id\":\"batch_req_2\",\"custom_id\":\"q\",\"response\":{\"status_code\":404,"
               "\"request_id\":\"req-2\",\"body\":null},\"error\":null}\n",
               "q", 404, 0);
    const struct api_batch_answer none = {
        .id = "batch_req_3", .code = "invalid_json_line", .message = "line 7: \"no\"", .line = 7};
    check_line(&none,
               "before\n{\"id\":\"batch_req_3\",\"custom_id\":null,\"response\":null,\"error\":{\"code\":"
               "\"invalid_json_line\",\"message\":\"line 7: \\\"no\\\"\",\"line\":7}}\n",
               NULL, 0, 7);
    const struct api_batch_answer wrong = {.id = "batch_req_4",
                                           .custom_id = "x",
                                           .code = "invalid_url",
                                           .message = "no",
                                           .line = 12345678901};
    check_line(&wrong,
               "before\n{\"id\":\"batch_req_4\",\"custom_id\":\"x\",\"response\":null,\"error\":{\"code\":"
               "\"invalid_url\",\"message\":\"no\",\"line\":12345678901}}\n",
               "x", 0, 12345678901);
    /* no room: said, and what is there is still there */
    struct buf small;
    buf_init(&small, 40);
    ck_assert_int_eq(buf_puts(&small, "before\n"), 0);
    ck_assert_int_eq(api_batch_write(&answered, &small), ERR_LIMIT);
    ck_assert_int_eq(strncmp(small.data, "before\n", 7), 0);
    buf_done(&small);
}
END_TEST

START_TEST(test_told)
{
    struct api_batch_told t = {.status = 77};
#define NONE(line) ck_assert_int_eq(api_batch_read_told(line, strlen(line), &t), ERR_FORMAT)
    NONE("");
    NONE("hello");
    NONE("[]");
    NONE("{}");
    NONE(GOOD "{}}"); /* of an input */
    NONE("{\"custom_id\":\"q\",\"response\":null}");
    NONE("{\"custom_id\":\"q\",\"error\":null}");
    NONE("{\"response\":null,\"error\":null}");
    NONE("{\"custom_id\":7,\"response\":null,\"error\":null}");
    NONE("{\"custom_id\":\"q\\\",\"response\":null,\"error\":null}");
    NONE("{\"custom_id\":\"q\",\"response\":null,\"error\":null} x");
    NONE("{\"custom_id\":\"q\",\"response\":{]},\"error\":null}}");
    ck_assert_int_eq(t.status, 77); /* untouched */
    ck_assert_ptr_null(t.custom_id);
    /* as others write it: another order, blanks, members beside them, another's error */
    const char line[] = "\xef\xbb\xbf { \"error\" : null , \"x\" : [ ] , \"response\" : { \"body\" : "
                        "{ \"status_code\": 500 } , \"status_code\" : 201 } , "
                        "\"custom_id\" : \"\\u0071\" } \r";
    ck_assert_int_eq(api_batch_read_told(line, strlen(line), &t), 0);
    ck_assert_str_eq(t.custom_id, "q");
    ck_assert_int_eq(t.status, 201);
    free(t.custom_id);
#undef NONE
}
END_TEST

/* --- files ------------------------------------------------------------------------------------------ */

static const char *name_of(const char *end)
{
    static char names[4][64];
    static int at;
    char *name = names[at++ % 4];
    snprintf(name, sizeof(names[0]), "t_batch.%d.%s", (int)getpid(), end);
    return name;
}

static void write_file(const char *name, const char *text, size_t n)
{
    FILE *f = fopen(name, "w");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(text, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

/* The file gives these lines: "NUMBER:TEXT" or "NUMBER!" for one that is too long, with blanks between. */
static void check_lines(const char *text, size_t n_bytes, size_t max, const char *want)
{
    const char *name = name_of("in"), *line;
    char got[400] = "";
    struct batch_in in;
    struct err e = {0};
    size_t n, at = 0;
    int r;
    write_file(name, text, n_bytes);
    ck_assert_int_eq(batch_in_open(&in, name, max, &e), 0);
    ck_assert_uint_eq(in.size, n_bytes);
    while ((r = batch_in_next(&in, &line, &n, &e)) != BATCH_END) {
        ck_assert(r == BATCH_LINE || r == BATCH_TOO_LONG);
        at += (size_t)snprintf(got + at, sizeof(got) - at, "%s%lld", at ? " " : "", in.number);
        at += (size_t)(r == BATCH_LINE ? snprintf(got + at, sizeof(got) - at, ":%.*s", (int)n, line)
                                       : snprintf(got + at, sizeof(got) - at, "!"));
    }
    ck_assert_str_eq(got, want);
    ck_assert_uint_eq(in.offset, n_bytes);
    ck_assert_int_eq(batch_in_next(&in, &line, &n, &e), BATCH_END); /* and stays there */
    batch_in_close(&in);
    unlink(name);
}

START_TEST(test_endings)
{
#define LINES(text, max, want) check_lines(text, sizeof(text) - 1, max, want)
    LINES("", 10, "");
    LINES("\n", 10, "");
    LINES("\r\n \t\n\n", 10, "");
    LINES("a", 10, "1:a");
    LINES("a\n", 10, "1:a");
    LINES("a\r\nb\r", 10, "1:a 2:b");
    LINES("a\n\n \r\nb", 10, "1:a 4:b");
    LINES("a\rb\n", 10, "1:a\rb"); /* CR alone ends nothing */
    LINES(" a \n", 10, "1: a ");
    LINES("\0\n", 10, "1:"); /* no blank: its reader tells what is wrong with it */
    /* as long as allowed, and one more; what is too long is passed over whole, and counted once */
    LINES("1234567890\n12345678901\nb\n", 10, "1:1234567890 2! 3:b");
    LINES("12345678901", 10, "1!");
    LINES("a\n12345678901", 10, "1:a 2!");
#undef LINES
    size_t n = 300000;
    char *text = malloc(n);
    ck_assert_ptr_nonnull(text);
    memset(text, 'x', n);
    text[200000] = '\n';
    text[299998] = '\n';
    check_lines(text, n, 100, "1! 2! 3:x");
    memset(text, ' ', n); /* too long to be known as blank */
    check_lines(text, n, 100, "1!");
    free(text);
}
END_TEST

/* What comes in pieces: nothing is given before it is whole, and nothing blocks. */
START_TEST(test_pipe)
{
    struct batch_in in;
    struct err e = {0};
    const char *line;
    size_t n;
    int fds[2], saved = dup(STDIN_FILENO);
    ck_assert_int_eq(pipe(fds), 0);
    dup2(fds[0], STDIN_FILENO);
    ck_assert_int_eq(batch_in_open(&in, "-", 100, &e), 0);
    ck_assert(!in.regular);
    ck_assert_int_eq(batch_in_next(&in, &line, &n, &e), BATCH_WAIT);
    ck_assert_int_eq((int)write(fds[1], "ab", 2), 2);
    ck_assert_int_eq(batch_in_next(&in, &line, &n, &e), BATCH_WAIT);
    ck_assert_int_eq((int)write(fds[1], "c\nd", 3), 3);
    ck_assert_int_eq(batch_in_next(&in, &line, &n, &e), BATCH_LINE);
    ck_assert(n == 3 && !memcmp(line, "abc", 3) && in.ended);
    ck_assert_int_eq(batch_in_next(&in, &line, &n, &e), BATCH_WAIT);
    close(fds[1]);
    ck_assert_int_eq(batch_in_next(&in, &line, &n, &e), BATCH_LINE);
    ck_assert(n == 1 && *line == 'd' && !in.ended);
    ck_assert_int_eq(batch_in_next(&in, &line, &n, &e), BATCH_END);
    batch_in_close(&in);
    dup2(saved, STDIN_FILENO);
    close(saved);
    close(fds[0]);
}
END_TEST

START_TEST(test_files)
{
    const char *in_name = name_of("in"), *out_name = name_of("out");
    struct batch_in in, old;
    struct batch_out out, again;
    struct err e = {0};
    const char *line;
    size_t n;
    ck_assert_int_eq(batch_in_open(&in, "no/such/file", 10, &e), ERR_IO);
    ck_assert_ptr_nonnull(strstr(e.text, "no/such/file"));
    batch_in_close(&in);
    ck_assert_int_eq(batch_in_open(&in, ".", 10, &e), ERR_INVAL);
    batch_in_close(&in);
    write_file(in_name, "a\n", 2);
    ck_assert_int_eq(batch_in_open(&in, in_name, 10, &e), 0);
    ck_assert_int_eq(batch_out_open(&out, in_name, &in, &e), ERR_INVAL); /* would grow for ever */
    close(out.fd);
    ck_assert_int_eq(batch_out_open(&out, "no/such/file", &in, &e), ERR_IO);
    ck_assert_int_eq(batch_out_open(&out, out_name, &in, &e), 0);
    ck_assert_int_eq(batch_out_open(&again, out_name, &in, &e), ERR_INVAL); /* another run has it */
    ck_assert_ptr_nonnull(strstr(e.text, "another run"));
    close(again.fd);
    ck_assert_int_eq(batch_out_write(&out, "one\ntwo\nto", 10, &e), 0);
    ck_assert(out.dirty);
    batch_out_read(&out, 10, &old);
    ck_assert_int_eq(lseek(old.fd, 0, SEEK_SET), 0);
    ck_assert_int_eq(batch_in_next(&old, &line, &n, &e), BATCH_LINE);
    ck_assert_int_eq(batch_in_next(&old, &line, &n, &e), BATCH_LINE);
    ck_assert(old.ended && old.offset == 8);
    ck_assert_int_eq(batch_in_next(&old, &line, &n, &e), BATCH_LINE);
    ck_assert(!old.ended && n == 2);
    batch_in_close(&old);
    ck_assert_int_eq(batch_out_cut(&out, 8, &e), 0);
    ck_assert_int_eq(batch_out_write(&out, "three\n", 6, &e), 0); /* behind the cut */
    ck_assert_int_eq(batch_out_close(&out, &e), 0);
    batch_in_close(&in);
    char text[32] = "";
    FILE *f = fopen(out_name, "r");
    ck_assert_uint_eq(fread(text, 1, sizeof(text) - 1, f), 14);
    fclose(f);
    ck_assert_str_eq(text, "one\ntwo\nthree\n");
    unlink(in_name);
    unlink(out_name);
}
END_TEST

START_TEST(test_ids)
{
    struct batch_ids s;
    char id[32];
    batch_ids_init(&s, 5000);
    ck_assert_uint_eq(batch_ids_marks(&s, "a", 0), 0);
    for (int i = 0; i < 2500; i++) { /* texts and numbers do not meet; the table grows under them */
        snprintf(id, sizeof(id), "%d", i);
        ck_assert_int_eq(batch_ids_mark(&s, id, 0, 0, BATCH_SEEN), 0);
        ck_assert_int_eq(batch_ids_mark(&s, NULL, i, 0, BATCH_TOLD), 0);
    }
    for (int i = 0; i < 2500; i++) {
        snprintf(id, sizeof(id), "%d", i);
        ck_assert_uint_eq(batch_ids_marks(&s, id, 0), BATCH_SEEN);
        ck_assert_uint_eq(batch_ids_marks(&s, NULL, i), BATCH_TOLD);
    }
    ck_assert_int_eq(batch_ids_mark(&s, "7", 0, BATCH_SEEN, BATCH_DONE | BATCH_FAILED), 0);
    ck_assert_uint_eq(batch_ids_marks(&s, "7", 0), BATCH_DONE | BATCH_FAILED);
    ck_assert_int_eq(batch_ids_mark(&s, "7", 0, BATCH_FAILED, BATCH_DONE), 0);
    ck_assert_uint_eq(batch_ids_marks(&s, "7", 0), BATCH_DONE);
    ck_assert_int_eq(batch_ids_mark(&s, "one more", 0, 0, BATCH_SEEN), ERR_LIMIT);
    ck_assert_uint_eq(batch_ids_marks(&s, "one more", 0), 0);
    ck_assert_int_eq(batch_ids_mark(&s, "8", 0, 0, BATCH_DONE), 0); /* known ones may change */
    batch_ids_done(&s);
    ck_assert_uint_eq(batch_ids_marks(&s, "7", 0), 0);
}
END_TEST

/* --- runs ------------------------------------------------------------------------------------------- */

#define ASK(id, token)                                                             \
    "{\"custom_id\":\"" id "\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":" \
    "{\"prompt\":[" #token "],\"max_tokens\":4}}\n"

/* Runs the text as IN, up to `seqs` at once; the held engine's counts begin anew. */
static int run(const char *in, int seqs)
{
    struct server_config cfg;
    struct err e = {0};
    char n[16];
    const char *name = name_of("in"), *out = name_of("out");
    const struct held plan = held;
    held = (struct held){.room = plan.room, .release_at = plan.release_at, .fail = plan.fail,
                         .submitted = plan.submitted};
    write_file(name, in, strlen(in));
    snprintf(n, sizeof(n), "%d", seqs);
    ck_assert_int_eq(config_init(&cfg), 0);
    ck_assert_int_eq(config_set(&cfg, "model", "none", &e), 0);
    ck_assert_int_eq(config_set(&cfg, "max_num_seqs", n, &e), 0);
    log_set_level(LOG_LVL_ERROR);
    int status = batch_run(&cfg, name, out);
    config_done(&cfg);
    unlink(name);
    return status;
}

/* OUT tells of these requests in this order: "ID=STATUS" with blanks between; of a line that is no request
 * "#NUMBER". */
static void check_out(const char *want)
{
    struct batch_in old;
    struct err e = {0};
    const char *line;
    char got[400] = "";
    size_t n, at = 0;
    ck_assert_int_eq(batch_in_open(&old, name_of("out"), 1u << 20, &e), 0);
    while (batch_in_next(&old, &line, &n, &e) == BATCH_LINE) {
        struct api_batch_told t;
        ck_assert_int_eq(api_batch_read_told(line, n, &t), 0);
        const char *gap = at ? " " : "";
        if (t.status)
            at += (size_t)snprintf(got + at, sizeof(got) - at, "%s%s=%d", gap, t.custom_id, t.status);
        else
            at += (size_t)snprintf(got + at, sizeof(got) - at, "%s#%lld", gap, t.line);
        free(t.custom_id);
    }
    batch_in_close(&old);
    ck_assert_str_eq(got, want);
}

/* Answers stand in the order in which they are complete. */
START_TEST(test_order)
{
    held = (struct held){.release_at = 4};
    ck_assert_int_eq(run(ASK("a", 4) ASK("b", 2) "\n" ASK("c", 3) ASK("d", 1), 4), BATCH_EXIT_OK);
    ck_assert_int_eq(held.n_submitted, 4);
    ck_assert_int_eq(held.first[0], 4); /* asked in the order of the input */
    ck_assert_int_eq(held.first[3], 1);
    check_out("d=200 b=200 c=200 a=200");
    unlink(name_of("out"));
}
END_TEST

/* What is no request, twice there, refused by its endpoint, or fails in the server. */
START_TEST(test_mistakes)
{
    static const char in[] = ASK("a", 1) "nonsense\n" ASK("a", 2) ASK("b", 2000) ASK("c", 7) ASK("d", 8);
    held = (struct held){.release_at = 2, .fail = 7};
    ck_assert_int_eq(run(in, 4), BATCH_EXIT_FAILURES);
    check_out("#2 #3 b=400 c=500 a=200 d=200");
    held.release_at = 1; /* again: only what has failed in the server is asked */
    held.fail = 0;
    ck_assert_int_eq(run(in, 4), BATCH_EXIT_FAILURES);
    ck_assert_int_eq(held.n_submitted, 1);
    ck_assert_int_eq(held.first[0], 7);
    check_out("#2 #3 b=400 c=500 a=200 d=200 c=200");
    ck_assert_int_eq(run("nonsense\n", 4), BATCH_EXIT_FAILURES); /* another number of a line */
    check_out("#2 #3 b=400 c=500 a=200 d=200 c=200 #1");
    unlink(name_of("out"));
}
END_TEST

/* A full queue is no answer while something else runs; to a line alone it is. */
START_TEST(test_full)
{
    held = (struct held){.room = 1, .release_at = 1};
    ck_assert_int_eq(run(ASK("a", 1) ASK("b", 2) ASK("c", 3) ASK("d", 4), 4), BATCH_EXIT_OK);
    ck_assert_int_eq(held.n_submitted, 4);
    ck_assert_int_gt(held.n_refused, 0);
    check_out("a=200 b=200 c=200 d=200");
    unlink(name_of("out"));
    held = (struct held){.room = -1};
    ck_assert_int_eq(run(ASK("a", 1) ASK("b", 2), 4), BATCH_EXIT_FAILURES);
    ck_assert_int_eq(held.n_submitted, 0);
    check_out("a=429 b=429");
    unlink(name_of("out"));
}
END_TEST

static void end_at_fourth(int n)
{
    if (n == 4) {
        kill(getpid(), SIGTERM);
        held_release_soon(100);
    }
}

static void *signal_again(void *arg)
{
    (void)arg;
    usleep(100000);
    kill(getpid(), SIGINT);
    return NULL;
}

static void end_at_fourth_twice(int n)
{
    pthread_t t;
    if (n == 4) {
        kill(getpid(), SIGTERM);
        ck_assert_int_eq(pthread_create(&t, NULL, signal_again, NULL), 0);
        pthread_detach(t);
    }
}

#define SIX ASK("a", 1) ASK("b", 2) ASK("c", 3) ASK("d", 4) ASK("e", 5) ASK("f", 6)

/* A signal: what runs finishes, no more is begun; the next run does the rest. */
START_TEST(test_signal)
{
    held = (struct held){.submitted = end_at_fourth};
    ck_assert_int_eq(run(SIX, 2), BATCH_EXIT_INTERRUPTED); /* two run, and as many wait */
    ck_assert_int_eq(held.n_submitted, 4);
    ck_assert_int_eq(held.n_cancelled, 0);
    check_out("a=200 b=200 c=200 d=200");
    held = (struct held){.release_at = 2};
    ck_assert_int_eq(run(SIX, 2), BATCH_EXIT_OK);
    ck_assert_int_eq(held.n_submitted, 2);
    check_out("a=200 b=200 c=200 d=200 e=200 f=200");
    ck_assert_int_eq(run(SIX, 2), BATCH_EXIT_OK); /* nothing is left */
    ck_assert_int_eq(held.n_submitted, 0);
    unlink(name_of("out"));
}
END_TEST

/* A second one: what runs is cancelled and not answered. */
START_TEST(test_signals)
{
    held = (struct held){.submitted = end_at_fourth_twice};
    ck_assert_int_eq(run(SIX, 2), BATCH_EXIT_INTERRUPTED);
    ck_assert_int_eq(held.n_submitted, 4);
    ck_assert_int_eq(held.n_cancelled, 4);
    check_out("");
    unlink(name_of("out"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("batch");
    TCase *tc = tcase_create("lines");
    tcase_add_test(tc, test_good);
    tcase_add_test(tc, test_bad);
    tcase_add_test(tc, test_limits);
    tcase_add_test(tc, test_cut);
    tcase_add_test(tc, test_output);
    tcase_add_test(tc, test_told);
    suite_add_tcase(suite, tc);
    tc = tcase_create("files");
    tcase_add_test(tc, test_endings);
    tcase_add_test(tc, test_pipe);
    tcase_add_test(tc, test_files);
    tcase_add_test(tc, test_ids);
    suite_add_tcase(suite, tc);
    tc = tcase_create("runs");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_order);
    tcase_add_test(tc, test_mistakes);
    tcase_add_test(tc, test_full);
    tcase_add_test(tc, test_signal);
    tcase_add_test(tc, test_signals);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
