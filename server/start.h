/* server/start.h - from a configuration to an engine and an API over a loop: what the daemon and a batch
 * share. Loop thread. */
#ifndef LATENT_SERVER_START_H
#define LATENT_SERVER_START_H

#include <uv.h>
#include "api/api.h"

struct server_config;

/* libuv makes its threads with the first work, and ends the process when it cannot: that shall be at the
 * start, not when the first long text comes. */
void start_helpers(uv_loop_t *loop);
/* The engine begins to load. `wake_up` is sent whenever it has something to tell, until engine_stop. */
int start_engine(const struct server_config *cfg, struct metrics *metrics, uv_async_t *wake_up,
                 struct engine **ret, struct err *e) LATENT_MUST_CHECK;
/* Are model, template and instruction set there? For who only asks: nothing is loaded. */
int start_check(const struct server_config *cfg, struct err *e) LATENT_MUST_CHECK;
/* One line for each quarter of the load; *shown begins with 0. */
void start_log_loading(const struct engine *eng, int *shown);
/* What was loaded, once it is. */
void start_log_ready(const struct engine *eng);
/* The template that the operator has given. *ret: to be freed; NULL: the model's own is used. */
int start_template(const struct server_config *cfg, char **ret, struct err *e) LATENT_MUST_CHECK;
/* `admit` is the caller's. The texts of cfg and the template are not copied. `wake_up`, of the API's loop, is
 * sent whenever there is something to poll, until api_stop. */
struct api_config start_api_config(const struct server_config *cfg, struct engine *eng,
                                   struct metrics *metrics, const char *chat_template, uv_async_t *wake_up);

#endif
