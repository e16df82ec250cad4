/* base/log.h - log lines. Thread safe. Only server/ and the programs log above LOG_DEBUG; libraries
 * below them return a struct err. */
#ifndef LATENT_BASE_LOG_H
#define LATENT_BASE_LOG_H

enum log_level { LOG_LVL_ERROR = 0, LOG_LVL_WARN, LOG_LVL_INFO, LOG_LVL_DEBUG };

/* Lines go to stderr. Where that is the journal (JOURNAL_STREAM names it) each line starts with <N> as
 * sd-daemon(3) says and has no time stamp of its own. */
void log_set_level(enum log_level level);
int log_level_parse(const char *s); /* level, or -1 */
void log_write(enum log_level level, const char *source, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Opens what of descriptors 0 to 2 is closed, on /dev/null. Programs do so first: else the next file that is
 * opened becomes standard error, and lines are written into it. */
void log_keep_standard(void);

#define LOG_ERROR(src, ...) log_write(LOG_LVL_ERROR, src, __VA_ARGS__)
#define LOG_WARN(src, ...) log_write(LOG_LVL_WARN, src, __VA_ARGS__)
#define LOG_INFO(src, ...) log_write(LOG_LVL_INFO, src, __VA_ARGS__)
#define LOG_DEBUG(src, ...) log_write(LOG_LVL_DEBUG, src, __VA_ARGS__)

#endif
