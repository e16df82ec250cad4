/* server/batch.h - `latentd batch`: the requests of a file answered into another, without a socket. */
#ifndef LATENT_SERVER_BATCH_H
#define LATENT_SERVER_BATCH_H

struct server_config; /* server/conf.h */

enum batch_exit {
    BATCH_EXIT_OK = 0,          /* every line is answered with 200 */
    BATCH_EXIT_TROUBLE = 1,     /* could not start, read or write; what is written stays */
    BATCH_EXIT_INTERRUPTED = 2, /* by a signal: run again, it goes on */
    BATCH_EXIT_FAILURES = 3,    /* all is done, but not every line got 200 */
};

/* "-" is standard input or output. Returns the process's exit status. */
int batch_run(const struct server_config *cfg, const char *in, const char *out);

#endif
