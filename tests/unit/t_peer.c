/* tests/unit/t_peer.c - networks, the PROXY protocol in every cut, and forwarding headers that lie. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "server/peer.h"

static struct nets nets;
static struct err e;

START_TEST(test_nets)
{
    static const struct {
        const char *list, *peer;
        bool have;
    } rows[] = {
        {"10.0.0.0/8", "10.255.0.1:80", true},     {"10.0.0.0/8", "11.0.0.1:80", false},
        {"10.0.0.1", "10.0.0.1", true},            {"10.0.0.1", "10.0.0.2", false},
        {"10.0.0.0/31", "10.0.0.1:1", true},       {"10.0.0.0/31", "10.0.0.2:1", false},
        {"0.0.0.0/0", "1.2.3.4:1", true},          {"0.0.0.0/0", "[2001:db8::1]:1", false},
        {"::/0", "1.2.3.4:1", true},               {"fd00::/8 ,::1", "[fd12::1]:443", true},
        {"fd00::/8 ,::1", "[::1]:443", true},      {"fd00::/8 ,::1", "[::2]:443", false},
        {"10.0.0.0/8", "[::ffff:10.1.1.1]:1", true}, {"unix", "unix", true},
        {"10.0.0.0/8", "unix", false},             {"", "10.0.0.1:1", false},
        {"10.0.0.0/8", "rubbish", false},          {"10.0.0.0/8", "", false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        ck_assert_msg(nets_read(rows[i].list, &nets, &e) == 0, "%s: %s", rows[i].list, e.text);
        ck_assert_msg(nets_have(&nets, rows[i].peer) == rows[i].have, "%s in %s", rows[i].peer, rows[i].list);
    }
    static const char *const bad[] = {"10.0.0.0/33", "::/129",      "10.0.0/8",    "host.example",
                                      "10.0.0.0/",   "10.0.0.0/-1", "10.0.0.0/8x", "/8",
                                      "1.2.3.4:80",  "10.0.0.0/+8"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        ck_assert_msg(nets_read(bad[i], &nets, &e) == ERR_INVAL, "%s was taken", bad[i]);
    char many[NETS_MAX * 4 + 10] = "";
    for (int i = 0; i <= NETS_MAX; i++)
        strcat(many, "::1,");
    ck_assert_int_eq(nets_read(many, &nets, &e), ERR_LIMIT);
}
END_TEST

/* Every shorter piece asks for more, and nothing behind it matters. */
static void proxied(const char *data, size_t n, const char *want)
{
    char peer[PEER_TEXT], longer[1024];
    for (size_t i = 1; i < n; i++) {
        strcpy(peer, "before");
        ck_assert_msg(proxy_read(data, i, peer) == 0, "%zu of %zu bytes", i, n);
        ck_assert_str_eq(peer, "before");
    }
    memcpy(longer, data, n);
    memset(longer + n, 'G', 100);
    ck_assert_int_eq(proxy_read(longer, n + 100, peer), (int)n);
    ck_assert_str_eq(peer, want);
}

START_TEST(test_proxy)
{
    static const char *const v1 = "PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n";
    proxied(v1, strlen(v1), "192.0.2.7:4711");
    static const char *const v1_6 = "PROXY TCP6 2001:db8::7 ::1 4711 443\r\n";
    proxied(v1_6, strlen(v1_6), "[2001:db8::7]:4711");
    proxied("PROXY UNKNOWN\r\n", 15, "before");
    proxied("PROXY UNKNOWN ffff::1 x\r\n", 25, "before");
    static const char v2[] = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\2\7\x0a\0\0\1\x12\x67\1\xbb\3\0\0";
    proxied(v2, 31, "192.0.2.7:4711");
    static const char v2_local[] = "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    proxied(v2_local, 16, "before");
    static const char v2_6[] = "\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\x20\1\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\7"
                               "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\x12\x67\1\xbb";
    proxied(v2_6, 52, "[2001:db8::7]:4711");
    static const char v2_unix[] = "\r\n\r\n\0\r\nQUIT\n\x21\x31\0\4abcd";
    proxied(v2_unix, 20, "before");
}
END_TEST

START_TEST(test_not_proxy)
{
    static const struct {
        const char *data;
        size_t n;
    } rows[] = {
#define ROW(s) {s, sizeof(s) - 1}
        ROW("GET / HTTP/1.1\r\n\r\n"),
        ROW("PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n"),
        ROW("PROXY TCP4 192.0.2.7 10.0.0.1 4711 443 1\r\n"),
        ROW("PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\n"),
        ROW("PROXY TCP4 192.0.2.7 10.0.0.1 99999 443\r\n"),
        ROW("PROXY TCP6 192.0.2.7 10.0.0.1 4711 443\r\n"),
        ROW("PROXY TCP4 2001:db8::7 ::1 4711 443\r\n"),
        ROW("PROXY TCP4 host ::1 4711 443\r\n"),
        ROW("PROXY UNKNOWNX\r\n"),
        ROW("PROXY TCP4 192.0.2.7\0 10.0.0.1 4711 443\r\n"),
        ROW("PROXY UNKNOWN "
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
            "aaaaaaaaaaaa\r\n"),
        ROW("\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c............"),
        ROW("\r\n\r\n\0\r\nQUIT\n\x22\x11\0\x0c............"),
        ROW("\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0b..........."),
        ROW("\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x0c............"),
        ROW("\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff............"),
    };
    char peer[PEER_TEXT];
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
        ck_assert_msg(proxy_read(rows[i].data, rows[i].n, peer) < 0, "row %zu was taken", i);
}
END_TEST

START_TEST(test_forwarded)
{
    static const struct {
        const char *value;
        bool standard;
        const char *want; /* NULL: nothing can be read */
    } rows[] = {
        {"192.0.2.1", false, "192.0.2.1"},
        {"6.6.6.6, 192.0.2.1", false, "192.0.2.1"}, /* what a client has put before does not count */
        {"6.6.6.6, 192.0.2.1, 10.0.0.9", false, "192.0.2.1"},
        {"10.0.0.8, 10.0.0.9", false, "10.0.0.8"}, /* a client inside */
        {"rubbish, 10.0.0.9", false, "10.0.0.9"},
        {"rubbish", false, NULL},
        {"", false, NULL},
        {",", false, NULL},
        {"192.0.2.1:8080", false, "192.0.2.1"},
        {"[2001:db8::1]:8080", false, "2001:db8::1"},
        {"2001:db8::1", false, "2001:db8::1"},
        {"for=192.0.2.1", true, "192.0.2.1"},
        {"For=6.6.6.6, by=10.0.0.1; FOR=\"[2001:db8::1]:4711\";proto=https, for=10.0.0.2", true,
         "2001:db8::1"},
        {"for=_hidden", true, NULL},
        {"by=10.0.0.1", true, NULL},
        {"192.0.2.1", true, NULL},
    };
    ck_assert_int_eq(nets_read("10.0.0.0/8", &nets, &e), 0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char client[PEER_TEXT] = "none";
        bool found = forwarded_client(rows[i].value, rows[i].standard, &nets, client);
        ck_assert_msg(found == (rows[i].want != NULL), "\"%s\"", rows[i].value);
        ck_assert_str_eq(client, rows[i].want ? rows[i].want : "none");
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("peer");
    TCase *t = tcase_create("peer");
    tcase_add_test(t, test_nets);
    tcase_add_test(t, test_proxy);
    tcase_add_test(t, test_not_proxy);
    tcase_add_test(t, test_forwarded);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
