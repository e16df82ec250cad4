/* server/peer.h - who is at the other end of a connection when proxies stand between: the PROXY protocol,
 * forwarding headers, and whom they are believed from. Pure functions; addresses are 16 bytes, IPv4 mapped
 * into IPv6. */
#ifndef LATENT_SERVER_PEER_H
#define LATENT_SERVER_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"

#define PEER_TEXT 64
#define NETS_MAX 64
#define PROXY_MAX_BYTES 2048 /* of a PROXY header, with what a balancer adds to it */

struct nets {
    int n;
    bool local; /* Unix sockets */
    struct {
        unsigned char address[16];
        int bits;
    } net[NETS_MAX];
};

/* "10.0.0.0/8, ::1, unix". ERR_INVAL names the word. */
int nets_read(const char *list, struct nets *ret, struct err *e) LATENT_MUST_CHECK;
/* peer: "1.2.3.4:5", "[::1]:5", an address alone, or "unix". */
bool nets_have(const struct nets *l, const char *peer);

/* The header of the PROXY protocol, versions 1 and 2, at the beginning of data. Returns its length; 0: more
 * bytes are needed; negative: it is none, or wrong. `peer` becomes "ADDR:PORT", and stays where the proxy
 * speaks for itself. */
int proxy_read(const char *data, size_t n_bytes, char peer[PEER_TEXT]);

/* The client that the value of X-Forwarded-For (or Forwarded, where standard) tells of: the last address
 * that is not a trusted proxy's. False: none can be read, `client` is unchanged. */
bool forwarded_client(const char *value, bool standard, const struct nets *trusted, char client[PEER_TEXT]);

#endif
