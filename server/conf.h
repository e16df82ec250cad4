/* server/conf.h - the daemon's configuration: one field a row of conf.def, filled from defaults, file,
 * environment and command line, in this order. Owns its strings. */
#ifndef LATENT_SERVER_CONF_H
#define LATENT_SERVER_CONF_H

#include <stdbool.h>
#include <stdio.h>
#include "base/err.h"

struct server_config {
#define GROUP(title)
#define TEXT(key, def, help) char *key;
#define SECRET(key, help) char *key;
#define BOOL(key, def, help) bool key;
#define CHOICE(key, def, choices, help) char *key;
#define INT(key, def, min, max, help) long long key;
#define SIZE(key, def, min, max, help) long long key;
#define TIME(key, def, min, max, help) long long key; /* milliseconds */
#include "server/conf.def"
#undef GROUP
#undef TEXT
#undef SECRET
#undef BOOL
#undef CHOICE
#undef INT
#undef SIZE
#undef TIME
};

int config_init(struct server_config *c) LATENT_MUST_CHECK; /* all defaults */
void config_done(struct server_config *c);
/* ERR_NOTFOUND: no such key, the text names the nearest; ERR_INVAL: the accepted range is told. */
int config_set(struct server_config *c, const char *key, const char *value, struct err *e)
    LATENT_MUST_CHECK;
/* Lines `key = value`, `#` comments, values may be in double quotes. Stops at the first error, which tells
 * file and line. */
int config_read_file(struct server_config *c, const char *path, struct err *e) LATENT_MUST_CHECK;
/* LATENTD_KEY for every key; a LATENTD_ name that is no key is an error. */
int config_read_env(struct server_config *c, char *const *environ_list, struct err *e)
    LATENT_MUST_CHECK;
/* What no single key can tell. */
int config_check(const struct server_config *c, struct err *e) LATENT_MUST_CHECK;
/* The path that a key names: itself, or for "credential:NAME" that file among the credentials that the
 * service manager hands over. ERR_NOTFOUND: there are none. */
int config_path(const char *name, const char *key, char *dst, size_t n, struct err *e) LATENT_MUST_CHECK;
/* What differs in `from` and may change is taken over into `to` (`from` gets the old texts, and stays to be
 * freed). `told` hears of every key that differs. */
void config_take(struct server_config *to, struct server_config *from, bool (*may)(const char *key),
                 void (*told)(void *arg, const char *key, bool taken), void *arg);
/* As a file that config_read_file reads; of a secret only whether it is set. with_help: each key with its
 * help, range and default. */
void config_print(const struct server_config *c, bool with_help, FILE *f);

#endif
