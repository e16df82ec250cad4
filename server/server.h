/* server/server.h - the daemon: loop, listeners, HTTP, configuration, health and metrics. */
#ifndef LATENT_SERVER_SERVER_H
#define LATENT_SERVER_SERVER_H

#include "base/err.h"

struct server_config; /* server/conf.h: one field per row of conf.def */

/* Reads what the configuration names: the files of keys and certificates. */
int server_check(const struct server_config *cfg, struct err *e) LATENT_MUST_CHECK;
/* Makes the configuration once more, from all its sources, out of the defaults in c. */
typedef int (*reread_fn)(void *arg, struct server_config *c, struct err *e);
/* Runs until a drain has finished: opens listeners, starts engine and API, serves. SIGHUP reads the
 * configuration again and changes cfg. Returns the process's exit status: 0 clean stop, 1 start failed
 * (logged), 2 drain deadline passed. */
int server_run(struct server_config *cfg, reread_fn reread, void *reread_arg);

#endif
