/* engine/identity.c - see identity.h. A new build or library is another identity even where it would compute
 * the same: a cold cache is cheap, a wrong row is not. */
#define _GNU_SOURCE
#include "config.h"

#include "engine/identity.h"

#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cpu.h"
#include "base/hash.h"

#define ROWS_VERSION 1 /* of the meaning of the fields below */

static int add_program(struct hash64_stream *h, struct err *e)
{
    char part[65536];
    size_t n;
    FILE *f = fopen("/proc/self/exe", "rb");
    if (!f)
        return err_set(e, ERR_IO, "cannot read /proc/self/exe: %s", strerror(errno));
    while ((n = fread(part, 1, sizeof(part), f)) > 0)
        hash64_stream_add(h, part, n);
    bool bad = ferror(f) != 0;
    fclose(f);
    return bad ? err_set(e, ERR_IO, "cannot read /proc/self/exe") : 0;
}

static int add_library(struct dl_phdr_info *info, size_t size, void *arg)
{
    struct stat st;
    (void)size;
    if (!*info->dlpi_name || stat(info->dlpi_name, &st) < 0) /* the program itself, the kernel's page */
        return 0;
    const int64_t facts[3] = {st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
    hash64_stream_add(arg, info->dlpi_name, strlen(info->dlpi_name) + 1);
    hash64_stream_add(arg, facts, sizeof(facts));
    return 0;
}

/* The first processor's lines; without the file the brand must do. */
static void add_processor(struct hash64_stream *h)
{
    static const char *const keys[] = {"vendor_id", "cpu family", "model", "stepping", "flags", "Features",
                                       "CPU implementer", "CPU architecture", "CPU variant", "CPU part"};
    char line[8192];
    FILE *f = fopen("/proc/cpuinfo", "r");
    hash64_stream_add(h, cpu_brand(), strlen(cpu_brand()));
    while (f && fgets(line, sizeof(line), f) && *line != '\n')
        for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
            size_t n = strlen(keys[i]);
            if (!strncmp(line, keys[i], n) && (line[n] == '\t' || line[n] == ' ' || line[n] == ':'))
                hash64_stream_add(h, line, strlen(line));
        }
    if (f)
        fclose(f);
}

int engine_identity(const struct checkpoint *ck, const struct engine_config *cfg, const struct scheme *scheme,
                    uint64_t ret[2], struct err *e)
{
    uint64_t model;
    struct hash64_stream *h = NULL;
    int r = checkpoint_fingerprint(ck, &model);
    if (r < 0 || !(h = hash64_stream_new()))
        return err_set(e, ERR_NOMEM, "out of memory");
    /* Long contexts may turn positions differently (longrope). */
    int positions = ck->config.rope_scaling.type == ROPE_SCALING_LONGROPE ? cfg->max_model_len : 0;
    const int64_t facts[] = {ROWS_VERSION, cfg->level, cfg->cache_type, scheme->block, positions,
                             scheme->product};
    hash64_stream_add(h, facts, sizeof(facts));
    r = add_program(h, e);
    if (r == 0) {
        dl_iterate_phdr(add_library, h);
        add_processor(h);
        ret[0] = model;
        ret[1] = hash64_stream_value(h);
    }
    hash64_stream_free(&h);
    return r;
}
