/* server/tls.c - see tls.h. */
#include "config.h"

#include "server/tls.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "server/conf.h"
#include "server/openssl.h"

/* What is encrypted ahead of the socket: enough to fill its buffer, little beside a large answer. */
#define SLICE_BYTES (256u << 10)

struct tls {
    SSL *ssl;
    BIO *from_net, *to_net; /* owned by ssl */
    struct buf plain;       /* being encrypted, from plain_at on */
    size_t plain_at;
    bool met_http;
    char error[128];
};

/* --- the context ---------------------------------------------------------------------------------- */

/* Never asks a terminal: a key with a passphrase is refused. */
static int no_passphrase(char *dst, int n, int writing, void *arg)
{
    (void)dst;
    (void)n;
    (void)writing;
    (void)arg;
    return 0;
}

/* Only HTTP/1.1 is spoken: who offers other protocols alone is told so by the alert of RFC 7301. */
static int choose_protocol(SSL *ssl, const unsigned char **ret, unsigned char *ret_n,
                           const unsigned char *offered, unsigned n_bytes, void *arg)
{
    static const unsigned char ours[] = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};
    (void)ssl;
    (void)arg;
    return SSL_select_next_proto((unsigned char **)(uintptr_t)ret, ret_n, ours, sizeof(ours), offered,
                                 n_bytes) == OPENSSL_NPN_NEGOTIATED
               ? SSL_TLSEXT_ERR_OK
               : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int openssl_error(struct err *e, const char *key, const char *path)
{
    char text[160];
    unsigned long code = ERR_peek_last_error(), first = ERR_peek_error();
    ERR_error_string_n(code, text, sizeof(text));
    /* of a file that cannot be read the last one says no more than "system lib" */
    const char *reason = ERR_GET_LIB(first) == ERR_LIB_SYS ? strerror(ERR_GET_REASON(first))
                                                           : ERR_reason_error_string(code);
    ERR_clear_error();
    return err_set_param(e, ERR_FORMAT, key, "%s %.200s: %s", key, path, reason ? reason : text);
}

static int use_files(SSL_CTX *ctx, const struct server_config *cfg, struct err *e)
{
    char path[4096];
    struct stat st;
    int r = config_path(cfg->tls_cert, "tls_cert", path, sizeof(path), e);
    if (r < 0)
        return r;
    if (SSL_CTX_use_certificate_chain_file(ctx, path) != 1)
        return openssl_error(e, "tls_cert", path);
    r = config_path(cfg->tls_key, "tls_key", path, sizeof(path), e);
    if (r < 0)
        return r;
    if (SSL_CTX_use_PrivateKey_file(ctx, path, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(ctx) != 1)
        return openssl_error(e, "tls_key", path);
    if (stat(path, &st) == 0 && (st.st_mode & 077) && strncmp(cfg->tls_key, "credential:", 11) != 0)
        LOG_WARN("tls", "%s can be read by others than its owner", path);
    if (!*cfg->tls_client_ca)
        return 0;
    r = config_path(cfg->tls_client_ca, "tls_client_ca", path, sizeof(path), e);
    if (r < 0)
        return r;
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(path);
    if (!names || SSL_CTX_load_verify_file(ctx, path) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return openssl_error(e, "tls_client_ca", path);
    }
    SSL_CTX_set_client_CA_list(ctx, names);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return 0;
}

int tls_context_read(const struct server_config *cfg, bool needed, SSL_CTX **ret, struct err *e)
{
    *ret = NULL;
    if (!*cfg->tls_cert != !*cfg->tls_key)
        return err_set_param(e, ERR_INVAL, *cfg->tls_cert ? "tls_key" : "tls_cert",
                             "tls_cert and tls_key go together");
    if (!*cfg->tls_cert)
        return needed ? err_set_param(e, ERR_INVAL, "tls_cert", "listen: tls: needs tls_cert and tls_key")
                      : 0;
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (!ctx)
        return err_set(e, ERR_NOMEM, "out of memory");
    bool only_13 = !strcmp(cfg->tls_min_version, "1.3");
    SSL_CTX_set_min_proto_version(ctx, only_13 ? TLS1_3_VERSION : TLS1_2_VERSION);
    SSL_CTX_set_options(ctx,
                        SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS); /* an idle connection costs no record buffers */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); /* tickets do, and cost no memory here */
    SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"latentd", 7);
    SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
    SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, NULL);
    int r = use_files(ctx, cfg, e);
    if (r < 0) {
        SSL_CTX_free(ctx);
        return r;
    }
    *ret = ctx;
    return 0;
}

int tls_client_context(const char *ca, SSL_CTX **ret, struct err *e)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (!ctx)
        return err_set(e, ERR_NOMEM, "out of memory");
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    if ((*ca ? SSL_CTX_load_verify_file(ctx, ca) : SSL_CTX_set_default_verify_paths(ctx)) != 1) {
        SSL_CTX_free(ctx);
        return openssl_error(e, "", *ca ? ca : "the system's authorities");
    }
    *ret = ctx;
    return 0;
}

void tls_context_free(SSL_CTX **ctx)
{
    SSL_CTX_free(*ctx);
    *ctx = NULL;
}

/* --- a session ------------------------------------------------------------------------------------ */

static struct tls *session(SSL_CTX *ctx)
{
    struct tls *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    buf_init(&t->plain, 1u << 30);
    t->ssl = SSL_new(ctx);
    t->from_net = BIO_new(BIO_s_mem());
    t->to_net = BIO_new(BIO_s_mem());
    if (!t->ssl || !t->from_net || !t->to_net) {
        BIO_free(t->from_net);
        BIO_free(t->to_net);
        SSL_free(t->ssl);
        free(t);
        ERR_clear_error();
        return NULL;
    }
    SSL_set_bio(t->ssl, t->from_net, t->to_net);
    return t;
}

struct tls *tls_new(SSL_CTX *ctx)
{
    struct tls *t = session(ctx);
    if (t)
        SSL_set_accept_state(t->ssl);
    return t;
}

struct tls *tls_new_client(SSL_CTX *ctx, const char *host)
{
    struct tls *t = session(ctx);
    if (!t)
        return NULL;
    SSL_set_connect_state(t->ssl);
    bool address = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(t->ssl), host) == 1;
    if (!address && (SSL_set1_host(t->ssl, host) != 1 || SSL_set_tlsext_host_name(t->ssl, host) != 1)) {
        tls_free(&t);
        return NULL;
    }
    (void)SSL_do_handshake(t->ssl); /* its first message, for the next seal */
    ERR_clear_error();
    return t;
}

void tls_free(struct tls **tp)
{
    struct tls *t = *tp;
    *tp = NULL;
    if (!t)
        return;
    SSL_free(t->ssl);
    buf_done(&t->plain);
    free(t);
}

bool tls_established(const struct tls *t)
{
    return SSL_is_init_finished(t->ssl);
}

bool tls_met_http(const struct tls *t)
{
    return t->met_http;
}

const char *tls_error(const struct tls *t)
{
    return t->error;
}

/* What an operation on memory ended with: 0 when it only wants more bytes. */
static int result(struct tls *t, int r, bool *ret_closed)
{
    int code = SSL_get_error(t->ssl, r);
    if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE || code == SSL_ERROR_ZERO_RETURN) {
        if (ret_closed)
            *ret_closed |= code == SSL_ERROR_ZERO_RETURN;
        return 0;
    }
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    t->met_http = ERR_GET_LIB(ERR_peek_error()) == ERR_LIB_SSL &&
                  ERR_GET_REASON(ERR_peek_error()) == SSL_R_HTTP_REQUEST;
    long verdict = SSL_get_verify_result(t->ssl);
    snprintf(t->error, sizeof(t->error), "%s%s%s", reason ? reason : "protocol error",
             verdict == X509_V_OK ? "" : ": ",
             verdict == X509_V_OK ? "" : X509_verify_cert_error_string(verdict));
    ERR_clear_error();
    return ERR_FORMAT;
}

int tls_receive(struct tls *t, const char *data, size_t n_bytes, struct buf *in, bool *ret_closed)
{
    char piece[16384];
    int n;
    *ret_closed = false;
    ERR_clear_error();
    if (n_bytes > INT_MAX || BIO_write(t->from_net, data, (int)n_bytes) != (int)n_bytes)
        return ERR_NOMEM;
    while ((n = SSL_read(t->ssl, piece, sizeof(piece))) > 0) {
        int r = buf_append(in, piece, (size_t)n);
        if (r < 0)
            return r;
    }
    OPENSSL_cleanse(piece, sizeof(piece));
    return result(t, n, ret_closed);
}

static int take_output(struct tls *t, struct buf *out)
{
    char piece[16384];
    int n, r = 0;
    while (r == 0 && (n = BIO_read(t->to_net, piece, sizeof(piece))) > 0)
        r = buf_append(out, piece, (size_t)n);
    return r;
}

int tls_seal(struct tls *t, struct buf *plain, struct buf *out)
{
    size_t slice = SLICE_BYTES;
    ERR_clear_error();
    if (t->plain_at == t->plain.n_bytes) {
        struct buf empty = t->plain;
        t->plain = *plain;
        *plain = empty;
        buf_reset(plain);
        t->plain_at = 0;
    }
    while (tls_established(t) && slice > 0 && t->plain_at < t->plain.n_bytes) {
        size_t n = t->plain.n_bytes - t->plain_at;
        n = n < slice ? n : slice;
        int written = SSL_write(t->ssl, t->plain.data + t->plain_at, (int)n);
        if (written <= 0) {
            int r = result(t, written, NULL);
            return r < 0 ? r : take_output(t, out);
        }
        t->plain_at += (size_t)written;
        slice -= (size_t)written;
    }
    return take_output(t, out);
}

size_t tls_unsealed(const struct tls *t)
{
    return t->plain.n_bytes - t->plain_at;
}

/* A fresh BIO in the place of one that has become large; NULL: it stays. */
static BIO *shed(BIO *b, size_t keep_bytes)
{
    BUF_MEM *m = NULL;
    BIO_get_mem_ptr(b, &m);
    return BIO_pending(b) == 0 && m && m->max > keep_bytes ? BIO_new(BIO_s_mem()) : NULL;
}

void tls_shed(struct tls *t, size_t keep_bytes)
{
    BIO *from = shed(t->from_net, keep_bytes), *to = shed(t->to_net, keep_bytes);
    if (from)
        SSL_set0_rbio(t->ssl, t->from_net = from);
    if (to)
        SSL_set0_wbio(t->ssl, t->to_net = to);
    ERR_clear_error();
    if (t->plain_at == t->plain.n_bytes) {
        buf_reset(&t->plain);
        t->plain_at = 0;
        buf_shed(&t->plain, keep_bytes);
    }
}

void tls_close(struct tls *t)
{
    if (tls_established(t) && !(SSL_get_shutdown(t->ssl) & SSL_SENT_SHUTDOWN))
        (void)SSL_shutdown(t->ssl); /* of an already broken session: nothing goes out */
    ERR_clear_error();
}
