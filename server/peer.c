/* server/peer.c - see peer.h. */
#include "config.h"

#include "server/peer.h"

#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* --- addresses ------------------------------------------------------------------------------------ */

static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool read_address(const char *s, size_t n, unsigned char address[16], bool *ret_v4)
{
    char text[INET6_ADDRSTRLEN];
    if (n == 0 || n >= sizeof(text))
        return false;
    memcpy(text, s, n);
    text[n] = 0;
    *ret_v4 = inet_pton(AF_INET, text, address + 12) == 1;
    if (*ret_v4)
        memcpy(address, mapped, sizeof(mapped));
    return *ret_v4 || inet_pton(AF_INET6, text, address) == 1;
}

/* With a port or without: "1.2.3.4:5", "[::1]:5", "::1". */
static bool read_peer(const char *s, size_t n, unsigned char address[16])
{
    bool v4;
    const char *close = n > 2 && s[0] == '[' ? memchr(s, ']', n) : NULL;
    if (close)
        return (close == s + n - 1 || close[1] == ':') &&
               read_address(s + 1, (size_t)(close - s - 1), address, &v4);
    if (read_address(s, n, address, &v4))
        return true;
    const char *colon = memchr(s, ':', n);
    return colon && read_address(s, (size_t)(colon - s), address, &v4) && v4;
}

static void show_address(const unsigned char address[16], char *dst, size_t n)
{
    if (!memcmp(address, mapped, sizeof(mapped)))
        inet_ntop(AF_INET, address + 12, dst, (socklen_t)n);
    else
        inet_ntop(AF_INET6, address, dst, (socklen_t)n);
}

int nets_read(const char *list, struct nets *ret, struct err *e)
{
    static const char separators[] = ", \t";
    struct nets l = {.n = 0};
    for (list += strspn(list, separators); *list; list += strspn(list, separators)) {
        size_t n = strcspn(list, separators);
        const char *slash = memchr(list, '/', n);
        size_t address = slash ? (size_t)(slash - list) : n;
        char *end = NULL;
        bool v4;
        if (n == 4 && !memcmp(list, "unix", 4)) {
            l.local = true;
            list += n;
            continue;
        }
        if (l.n == NETS_MAX)
            return err_set(e, ERR_LIMIT, "at most %d networks", NETS_MAX);
        bool ok = read_address(list, address, l.net[l.n].address, &v4);
        long bits = slash && slash[1] >= '0' && slash[1] <= '9' ? strtol(slash + 1, &end, 10) : -1;
        long most = ok && v4 ? 32 : 128;
        if (!ok || (slash && (bits < 0 || bits > most || end != list + n)))
            return err_set(e, ERR_INVAL, "\"%.*s\" is not ADDR, ADDR/BITS or unix", (int)(n < 60 ? n : 60),
                           list);
        l.net[l.n++].bits = (int)((slash ? bits : most) + (v4 ? 96 : 0));
        list += n;
    }
    *ret = l;
    return 0;
}

static bool has_address(const struct nets *l, const unsigned char address[16])
{
    for (int i = 0; i < l->n; i++) {
        int bytes = l->net[i].bits / 8, rest = l->net[i].bits % 8;
        const unsigned char *net = l->net[i].address;
        if (!memcmp(net, address, (size_t)bytes) &&
            (rest == 0 || (net[bytes] ^ address[bytes]) >> (8 - rest) == 0))
            return true;
    }
    return false;
}

bool nets_have(const struct nets *l, const char *peer)
{
    unsigned char address[16];
    return strcmp(peer, "unix") ? read_peer(peer, strlen(peer), address) && has_address(l, address)
                                : l->local;
}

/* --- the PROXY protocol --------------------------------------------------------------------------- */

static void show_peer(const unsigned char address[16], unsigned port, char peer[PEER_TEXT])
{
    char text[INET6_ADDRSTRLEN];
    show_address(address, text, sizeof(text));
    snprintf(peer, PEER_TEXT, strchr(text, ':') ? "[%s]:%u" : "%s:%u", text, port);
}

static int read_v1(const char *data, size_t n_bytes, char peer[PEER_TEXT])
{
    enum { LINE_MAX_BYTES = 107 };
    char line[LINE_MAX_BYTES + 1], family[8], from[64], to[64], rest;
    unsigned from_port, to_port;
    unsigned char address[16];
    bool v4;
    const char *end = memchr(data, '\n', n_bytes < LINE_MAX_BYTES ? n_bytes : LINE_MAX_BYTES);
    if (!end)
        return n_bytes < LINE_MAX_BYTES ? 0 : ERR_FORMAT;
    size_t n = (size_t)(end - data);
    if (n == 0 || data[n - 1] != '\r' || memchr(data, 0, n))
        return ERR_FORMAT;
    memcpy(line, data, n - 1);
    line[n - 1] = 0;
    if (!strncmp(line, "PROXY UNKNOWN", 13) && (line[13] == 0 || line[13] == ' '))
        return (int)n + 1;
    if (sscanf(line, "PROXY %7s %63s %63s %5u %5u%c", family, from, to, &from_port, &to_port, &rest) != 5 ||
        from_port > 65535 || !read_address(from, strlen(from), address, &v4) ||
        strcmp(family, v4 ? "TCP4" : "TCP6") != 0)
        return ERR_FORMAT;
    show_peer(address, from_port, peer);
    return (int)n + 1;
}

static const char signature[12] = {'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n'};

static int read_v2(const char *data, size_t n_bytes, char peer[PEER_TEXT])
{
    const unsigned char *d = (const unsigned char *)data;
    unsigned char address[16];
    if (n_bytes < 16)
        return 0;
    size_t n = (size_t)d[14] << 8 | d[15];
    unsigned command = d[12], family = d[13];
    size_t need = family == 0x11 ? 12 : family == 0x21 ? 36 : 0;
    if ((command != 0x20 && command != 0x21) || n + 16 > PROXY_MAX_BYTES)
        return ERR_FORMAT;
    if (n_bytes < n + 16)
        return 0;
    if (command == 0x20) /* a health check of the proxy itself */
        return (int)n + 16;
    if (n < need)
        return ERR_FORMAT;
    if (family == 0x11) {
        memcpy(address, mapped, sizeof(mapped));
        memcpy(address + 12, d + 16, 4);
        show_peer(address, (unsigned)d[24] << 8 | d[25], peer);
    } else if (family == 0x21) {
        memcpy(address, d + 16, 16);
        show_peer(address, (unsigned)d[48] << 8 | d[49], peer);
    } /* other families say nothing that a log could tell */
    return (int)n + 16;
}

int proxy_read(const char *data, size_t n_bytes, char peer[PEER_TEXT])
{
    size_t n = n_bytes < sizeof(signature) ? n_bytes : sizeof(signature);
    if (n > 0 && !memcmp(data, signature, n))
        return read_v2(data, n_bytes, peer);
    n = n_bytes < 6 ? n_bytes : 6;
    return memcmp(data, "PROXY ", n) ? ERR_FORMAT : read_v1(data, n_bytes, peer);
}

/* --- headers -------------------------------------------------------------------------------------- */

/* The address of one element; of Forwarded that of its for=. */
static bool read_element(const char *s, size_t n, bool standard, unsigned char address[16])
{
    while (standard && n >= 4 && strncasecmp(s, "for=", 4) != 0) {
        const char *next = memchr(s, ';', n);
        if (!next)
            return false;
        n -= (size_t)(next + 1 - s);
        s = next + 1;
        for (; n > 0 && *s == ' '; s++)
            n--;
    }
    if (standard) {
        if (n < 4)
            return false;
        s += 4;
        n -= 4;
        const char *end = memchr(s, ';', n);
        n = end ? (size_t)(end - s) : n;
    }
    for (; n > 0 && strchr(" \t", s[n - 1]); n--)
        ;
    if (n >= 2 && s[0] == '"' && s[n - 1] == '"') {
        s++;
        n -= 2;
    }
    return read_peer(s, n, address);
}

bool forwarded_client(const char *value, bool standard, const struct nets *trusted, char client[PEER_TEXT])
{
    unsigned char address[16];
    bool found = false;
    size_t end = strlen(value);
    for (;;) { /* from the right: each proxy adds the one that it has seen */
        size_t begin = end;
        while (begin > 0 && value[begin - 1] != ',')
            begin--;
        size_t at = begin + strspn(value + begin, " \t");
        if (at >= end || !read_element(value + at, end - at, standard, address))
            return found;
        show_address(address, client, PEER_TEXT);
        found = true;
        if (!has_address(trusted, address) || begin == 0)
            return true;
        end = begin - 1;
    }
}
