/* tools/bench_report.c - what latent-bench prints: a table line by line, or one JSON object at the end. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cpu.h"
#include "tools/bench.h"

/* The object's parts, collected in memory: bounds are measured between rows. */
static struct {
    bool json;
    FILE *machine, *model, *rows;
    char *machine_text, *model_text, *rows_text;
    size_t n_bytes[3];
    int n_machines, n_rows;
    bool has_model;
} out;

static void put_string(FILE *f, const char *s)
{
    fputc('"', f);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            fputc('\\', f);
        if (c < 0x20)
            fprintf(f, "\\u%04x", c);
        else
            fputc(c, f);
    }
    fputc('"', f);
}

static void put_number(FILE *f, const char *key, double v)
{
    if (v > 0)
        fprintf(f, ",\"%s\":%.6g", key, v);
    else
        fprintf(f, ",\"%s\":null", key);
}

void bench_report_begin(const struct bench_options *o)
{
    out.json = o->json;
    if (!o->json)
        return;
    out.machine = open_memstream(&out.machine_text, &out.n_bytes[0]);
    out.model = open_memstream(&out.model_text, &out.n_bytes[1]);
    out.rows = open_memstream(&out.rows_text, &out.n_bytes[2]);
    if (!out.machine || !out.model || !out.rows) {
        fprintf(stderr, "latent-bench: out of memory\n");
        exit(1);
    }
}

void bench_report_machine(const struct bench_machine *m)
{
    if (!out.json) {
        printf("%s%s, %s, %d thread%s: reads %.1f GB/s", out.n_machines++ ? "\n" : "", cpu_brand(),
               cpu_level_name(m->level), m->threads, m->threads > 1 ? "s" : "", m->read / 1e9);
        static const char *const names[PEAK_UNITS] = {"int8", "float32", "bfloat16"};
        for (int u = 0; u < PEAK_UNITS; u++)
            if (m->peak[u] > 0)
                printf(", %s %.1f GMAC/s", names[u], m->peak[u] / 1e9);
        printf("\n");
        fflush(stdout);
        return;
    }
    fprintf(out.machine, "%s{\"cpu\":\"%s\",\"threads\":%d", out.n_machines++ ? "," : "",
            cpu_level_name(m->level), m->threads);
    put_number(out.machine, "read_gb_s", m->read / 1e9);
    put_number(out.machine, "int8_gmac_s", m->peak[PEAK_I8] / 1e9);
    put_number(out.machine, "float32_gmac_s", m->peak[PEAK_F32] / 1e9);
    put_number(out.machine, "bfloat16_gmac_s", m->peak[PEAK_BF16] / 1e9);
    fprintf(out.machine, "}");
}

void bench_report_model(const struct checkpoint *ck, double token_bytes)
{
    struct bench_machine none = {0};
    struct bench_step one = {1, 1, 0, 0, 1, 0};
    double active = bench_cost_of(ck, 0, &one, &none).bytes;
    if (out.has_model)
        return;
    out.has_model = true;
    if (!out.json) {
        printf("%s: %.1f MB of weights for one token, %.0f bytes of cache a token\n", ck->config.name,
               active / 1e6, token_bytes);
        return;
    }
    fprintf(out.model, "{\"name\":");
    put_string(out.model, ck->config.name);
    fprintf(out.model, ",\"weights\":");
    put_string(out.model, ck->weight_types);
    fprintf(out.model, ",\"parameters\":%lld,\"active_bytes\":%.0f,\"cache_bytes_a_token\":%.0f}",
            (long long)ck->n_params, active, token_bytes);
}

static double ratio_of(const struct bench_row *r)
{
    return r->less_is_better ? r->bound / r->value : r->value / r->bound;
}

static void shares(const struct bench_row *r, double ret[3])
{
    ret[0] = (double)r->profile->ns[PROFILE_PRODUCTS] / 1e9 / r->profile_seconds;
    ret[1] = (double)r->profile->ns[PROFILE_ATTENTION] / 1e9 / r->profile_seconds;
    ret[2] = 1 - ret[0] - ret[1];
}

static void row_text(const struct bench_row *r)
{
    char what[160] = "";
    for (int i = 0; i < BENCH_MAX_FIELDS && r->fields[i].key; i++) {
        const struct bench_field *f = &r->fields[i];
        size_t at = strlen(what);
        if (f->text)
            snprintf(what + at, sizeof(what) - at, "%s ", f->text);
        else
            snprintf(what + at, sizeof(what) - at, "%s %.6g ", f->key, f->number);
    }
    printf("%-8s %-54s %10.5g %s", r->mode, what, r->value, r->unit);
    if (r->max > 0)
        printf(" (%.5g .. %.5g)", r->min, r->max);
    if (r->bound > 0)
        printf("  bound %.5g (%s)  ratio %.2f", r->bound, r->limit, ratio_of(r));
    if (r->profile) {
        double s[3];
        shares(r, s);
        printf("\n%-8s products %.1f %%, attention %.1f %%, the rest %.1f %%", "", 100 * s[0], 100 * s[1],
               100 * s[2]);
    }
    printf("\n");
    fflush(stdout);
}

int bench_report_rows(void)
{
    return out.n_rows;
}

void bench_report_row(const struct bench_row *r)
{
    out.n_rows++;
    if (!out.json) {
        row_text(r);
        return;
    }
    FILE *f = out.rows;
    fprintf(f, "%s\n{\"mode\":\"%s\"", out.n_rows > 1 ? "," : "", r->mode);
    for (int i = 0; i < BENCH_MAX_FIELDS && r->fields[i].key; i++) {
        fprintf(f, ",\"%s\":", r->fields[i].key);
        if (r->fields[i].text)
            put_string(f, r->fields[i].text);
        else
            fprintf(f, "%.9g", r->fields[i].number);
    }
    put_number(f, "value", r->value);
    if (r->max > 0) {
        put_number(f, "min", r->min);
        put_number(f, "max", r->max);
    }
    fprintf(f, ",\"unit\":\"%s\"", r->unit);
    put_number(f, "bound", r->bound);
    put_number(f, "ratio", r->bound > 0 ? ratio_of(r) : 0);
    if (r->bound > 0)
        fprintf(f, ",\"limit\":\"%s\"", r->limit);
    if (r->profile) {
        double s[3];
        shares(r, s);
        fprintf(f, ",\"profile\":{\"products\":%.4f,\"attention\":%.4f,\"rest\":%.4f}", s[0], s[1], s[2]);
    }
    fprintf(f, "}");
}

void bench_report_end(void)
{
    if (!out.json)
        return;
    fclose(out.machine);
    fclose(out.model);
    fclose(out.rows);
    printf("{\"machine\":{\"name\":");
    put_string(stdout, cpu_brand());
    printf(",\"cores\":%ld,\"version\":\"%s\",\"bounds\":[%s]},\n\"model\":%s,\n\"rows\":[%s\n]}\n",
           sysconf(_SC_NPROCESSORS_ONLN), PACKAGE_VERSION, out.machine_text,
           out.n_bytes[1] ? out.model_text : "null", out.rows_text);
    free(out.machine_text);
    free(out.model_text);
    free(out.rows_text);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void bench_row_values(struct bench_row *row, double *v, int n)
{
    qsort(v, (size_t)n, sizeof(*v), by_value);
    row->value = n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
    row->min = v[0];
    row->max = v[n - 1];
}
