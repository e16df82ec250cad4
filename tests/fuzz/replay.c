/* tests/fuzz/replay.c - runs one harness over its committed inputs, without a fuzzer. TAP.
 *
 * Beside the sources: seeds/NAME (made by seeds.py; "ok-.." must be served, "bad-.." refused, others
 * either) and corpus/NAME (found by coverage), each a pack of many inputs; and crashes/NAME, a folder
 * with every input that once broke something. NAME is the program's name after "replay_".
 *
 *     replay_NAME FILE..              runs files and folders of inputs instead
 *     replay_NAME --unpack DIR PACK.. writes the inputs of packs into a folder
 *
 * A pack is a row of: name, space, number of bytes, line end, the bytes, line end. */
#include "config.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

#define MAX_SECONDS 300 /* a hang, not a measurement */

static int n_run, n_wrong;

static const char *unpack_to; /* not NULL: inputs are written, not run */

static void run_input(const char *name, const uint8_t *bytes, size_t n_bytes)
{
    /* made to measure, so that a read behind the end is seen */
    uint8_t *data = malloc(n_bytes ? n_bytes : 1);
    FUZZ_CHECK(data);
    memcpy(data, bytes, n_bytes);
    printf("# %s\n", name);
    fflush(stdout);
    alarm(MAX_SECONDS);
    fuzz_verdict = 0;
    LLVMFuzzerTestOneInput(data, n_bytes);
    alarm(0);
    free(data);
    n_run++;
    if ((!strncmp(name, "ok-", 3) && fuzz_verdict < 0) || (!strncmp(name, "bad-", 4) && fuzz_verdict == 0)) {
        printf("# wrong: %s: %s\n", name, fuzz_verdict < 0 ? fuzz_text : "served");
        n_wrong++;
    }
}

static void write_input(const char *name, const uint8_t *bytes, size_t n_bytes)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", unpack_to, name);
    FILE *f = fopen(path, "wb");
    FUZZ_CHECK(f && fwrite(bytes, 1, n_bytes, f) == n_bytes && fclose(f) == 0);
}

static uint8_t *read_all(const char *path, size_t *ret_bytes)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    FUZZ_CHECK(f && fstat(fileno(f), &st) == 0);
    uint8_t *data = malloc((size_t)st.st_size + 1);
    FUZZ_CHECK(data && fread(data, 1, (size_t)st.st_size, f) == (size_t)st.st_size);
    data[st.st_size] = 0;
    fclose(f);
    *ret_bytes = (size_t)st.st_size;
    return data;
}

static void run_file(const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t n = 0;
    uint8_t *data = read_all(path, &n);
    run_input(slash ? slash + 1 : path, data, n);
    free(data);
}

static void run_pack(const char *path)
{
    size_t n = 0;
    if (access(path, R_OK) < 0)
        return;
    uint8_t *data = read_all(path, &n);
    for (size_t at = 0; at < n;) {
        char name[128];
        size_t n_bytes = 0;
        int used = 0;
        FUZZ_CHECK(sscanf((const char *)data + at, "%127s %zu%n", name, &n_bytes, &used) == 2);
        at += (size_t)used + 1;
        FUZZ_CHECK(at < n && n_bytes < n - at && data[at + n_bytes] == '\n' && !strchr(name, '/'));
        (unpack_to ? write_input : run_input)(name, data + at, n_bytes);
        at += n_bytes + 1;
    }
    free(data);
}

static int visible(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

static void run(const char *path)
{
    struct stat st;
    struct dirent **list = NULL;
    char inner[4096];
    if (stat(path, &st) < 0)
        return;
    if (!S_ISDIR(st.st_mode)) {
        run_file(path);
        return;
    }
    int n = scandir(path, &list, visible, alphasort);
    for (int i = 0; i < n; i++) {
        snprintf(inner, sizeof(inner), "%s/%s", path, list[i]->d_name);
        run(inner);
        free(list[i]);
    }
    free(list);
}

int main(int argc, char **argv)
{
    static const char *const kinds[] = {"seeds", "corpus", "crashes"};
    const char *top = getenv("top_srcdir"), *slash = strrchr(argv[0], '/');
    const char *name = strstr(slash ? slash : argv[0], "replay_");
    char path[4096];
    if (argc > 3 && !strcmp(argv[1], "--unpack")) {
        unpack_to = argv[2];
        for (int i = 3; i < argc; i++)
            run_pack(argv[i]);
        return 0;
    }
    if (argc > 1) {
        for (int i = 1; i < argc; i++)
            run(argv[i]);
        printf("1..1\n%sok 1 - %d inputs\n", n_wrong ? "not " : "", n_run);
        return n_wrong ? 1 : 0;
    }
    FUZZ_CHECK(name);
    printf("1..3\n");
    int failed = 0;
    for (int i = 0; i < 3; i++) {
        n_run = n_wrong = 0;
        snprintf(path, sizeof(path), "%s/tests/fuzz/%s/%s", top ? top : "..", kinds[i], name + 7);
        (i < 2 ? run_pack : run)(path);
        bool ok = n_wrong == 0 && (n_run > 0 || i == 2); /* a harness may have found nothing */
        printf("%sok %d - %s: %d inputs, %d with the wrong outcome\n", ok ? "" : "not ", i + 1, kinds[i],
               n_run, n_wrong);
        failed |= !ok;
    }
    return failed;
}
