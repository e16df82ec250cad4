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
#define BOOL(key, def, help) bool key;
#define CHOICE(key, def, choices, help) char *key;
#define INT(key, def, min, max, help) long long key;
#define SIZE(key, def, min, max, help) long long key;
#define TIME(key, def, min, max, help) long long key; /* milliseconds */
#include "server/conf.def"
#undef GROUP
#undef TEXT
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
/* As a file that config_read_file reads. with_help: each key with its help, range and default. */
void config_print(const struct server_config *c, bool with_help, FILE *f);

#endif
