/* tests/fuzz/fuzz_config.c - the JSON files of a folder, divided: config.json, generation_config.json,
 * tokenizer_config.json, chat_template.jinja.
 *
 * Beside them lie weights that fit a known small model of the family that config.json names first:
 * shapes from tests/fuzz/weights, over a file without contents. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

static const char *const families[] = {
    "deepseek_v3", "deepseek_v2",    "deepseek_v32",     "glm4_moe_lite", "longcat_flash", "minicpm3",
    "youtu",       "hunyuan",        "hunyuan_v1_moe",   "hunyuan_v1_dense", "step3_text", "llama-mtla",
    "llama",       "gpt2",           "zaya",
};
#define N_FAMILIES (sizeof(families) / sizeof(families[0]))

/* A line "name dtype dim dim .." to its entry of the header; returns the data's end. */
static uint64_t entry(char *line, FILE *out, const char *comma, uint64_t at)
{
    char *save = NULL, *name = strtok_r(line, " ", &save), *dtype = strtok_r(NULL, " ", &save), *dim;
    uint64_t n = dtype && !strcmp(dtype, "F32") ? 4 : 2;
    FUZZ_CHECK(name && dtype);
    fprintf(out, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", comma, name, dtype);
    for (const char *sep = ""; (dim = strtok_r(NULL, " ", &save)); sep = ",") {
        n *= strtoull(dim, NULL, 10);
        fprintf(out, "%s%s", sep, dim);
    }
    fprintf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)(at + n));
    return at + n;
}

static void make_weights(const char *family)
{
    char name[64], *header = NULL, *save = NULL;
    size_t n = 0;
    uint64_t at = 0;
    snprintf(name, sizeof(name), "weights/%s.txt", family);
    char *list = fuzz_data(name, &n);
    FILE *out = open_memstream(&header, &n);
    FUZZ_CHECK(out);
    fwrite("\0\0\0\0\0\0\0\0{", 1, 9, out);
    const char *comma = "";
    for (char *s = strtok_r(list, "\n", &save); s; s = strtok_r(NULL, "\n", &save)) {
        at = entry(s, out, comma, at);
        comma = ",";
    }
    fputc('}', out);
    fclose(out);
    uint64_t n_header = n - 8;
    memcpy(header, &n_header, 8);
    snprintf(name, sizeof(name), "%s.weights", family);
    fuzz_put_sparse(name, header, n, n + at);
    free(header);
    free(list);
}

static size_t family_of(const uint8_t *data, size_t n_bytes)
{
    size_t best = 0;
    const uint8_t *first = NULL;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        char quoted[64];
        int n = snprintf(quoted, sizeof(quoted), "\"%s\"", families[i]);
        const uint8_t *s = n_bytes ? memmem(data, n_bytes, quoted, (size_t)n) : NULL;
        if (s && (!first || s < first)) {
            first = s;
            best = i;
        }
    }
    return best;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer_config.json",
                                        "chat_template.jinja"};
    static bool made;
    for (size_t i = 0; !made && i < N_FAMILIES; i++)
        make_weights(families[i]);
    made = true;
    char weights[64];
    snprintf(weights, sizeof(weights), "%s.weights", families[family_of(data, n_bytes)]);
    fuzz_alias("model.safetensors", weights);
    for (int i = 0; i < 4; i++) {
        size_t n = 0;
        const uint8_t *part = fuzz_part(&data, &n_bytes, &n);
        if (part && (n || i == 0))
            fuzz_put(names[i], part, n);
        else
            fuzz_drop(names[i]);
    }
    fuzz_open(fuzz_path("."));
    return 0;
}
