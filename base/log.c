/* base/log.c - log lines on stderr, one write each, so that lines of threads do not mix. */
#include "config.h"

#include "base/log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 2048

static _Atomic int current = LOG_LVL_INFO;
static const char *const names[] = {"error", "warn", "info", "debug"};
static const int journal_level[] = {3, 4, 6, 7};

void log_keep_standard(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

/* Is standard error the journal? Whoever is started from a service has the variable too, wherever its lines
 * go: it names the one file that is (systemd.exec(5)). */
static bool is_journal(void)
{
    const char *named = getenv("JOURNAL_STREAM");
    char own[64];
    struct stat st;
    if (!named || fstat(STDERR_FILENO, &st) < 0)
        return false;
    snprintf(own, sizeof(own), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    return !strcmp(named, own);
}

void log_set_level(enum log_level level)
{
    atomic_store(&current, (int)level);
}

int log_level_parse(const char *s)
{
    for (int i = 0; i < 4; i++)
        if (!strcmp(s, names[i]))
            return i;
    return -1;
}

void log_write(enum log_level level, const char *source, const char *fmt, ...)
{
    char line[LINE_BYTES];
    int n, room = LINE_BYTES - 1;
    if ((int)level > atomic_load(&current))
        return;
    if (is_journal()) {
        n = snprintf(line, (size_t)room, "<%d>%s: ", journal_level[level], source);
    } else {
        struct timespec t;
        struct tm tm;
        clock_gettime(CLOCK_REALTIME, &t);
        gmtime_r(&t.tv_sec, &tm);
        n = snprintf(line, (size_t)room, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ %-5s %s: ",
                     tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                     t.tv_nsec / 1000000, names[level], source);
    }
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, (size_t)(room - n), fmt, ap);
    va_end(ap);
    n = m < room - n ? n + m : room - 1;
    for (int i = 0; i < n; i++) /* nothing from outside may start a line of its own */
        if ((unsigned char)line[i] < 32)
            line[i] = ' ';
    line[n++] = '\n';
    ssize_t w = write(STDERR_FILENO, line, (size_t)n);
    (void)w;
}
