/* tools/convert/commands.h - the subcommands that only read. Each prints to stdout, and its errors to
 * stderr; each returns the exit status: 0, 1 when something is wrong with the model or cannot be read. */
#ifndef LATENT_TOOLS_CONVERT_COMMANDS_H
#define LATENT_TOOLS_CONVERT_COMMANDS_H

#include <stdbool.h>
#include "base/err.h"

int convert_info(const char *path, bool json);
int convert_verify(const char *path);
int convert_compare(const char *a, const char *b);
/* "latent-convert: text" on stderr; 1. */
int convert_fail(const struct err *e);

#endif
