/* server/openssl.h - OpenSSL's headers beside ours: both have a name ERR_STATE, and ours is the constant. */
#ifndef LATENT_SERVER_OPENSSL_H
#define LATENT_SERVER_OPENSSL_H

#define ERR_STATE openssl_err_state
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#undef ERR_STATE

#endif
