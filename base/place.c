/* base/place.c - processors and NUMA nodes; see place.h. */
#include "config.h"

#include "base/place.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of <linux/mempolicy.h>, which not every machine that builds this has. */
#define INTERLEAVE 3
#define MEMS_ALLOWED 4
#define MAX_NODES 1024
#define SETS_BYTES (PLACE_SETS * sizeof(cpu_set_t))
#define LONG_BITS ((int)(8 * sizeof(unsigned long)))

int place_list_has(const char *list, int n)
{
    while (*list >= '0' && *list <= '9') {
        char *end;
        long a = strtol(list, &end, 10), b = a;
        if (*end == '-')
            b = strtol(end + 1, &end, 10);
        if (n >= a && n <= b)
            return 1;
        list = *end == ',' ? end + 1 : end;
    }
    return 0;
}

/* No sibling of the same core with a lower number is in the set. */
static int leads_core(int cpu, const cpu_set_t *set)
{
    char path[96], list[256] = "";
    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *f = fopen(path, "re");
    if (!f)
        return 1;
    if (!fgets(list, sizeof(list), f))
        list[0] = 0;
    fclose(f);
    for (int i = 0; i < cpu; i++)
        if (CPU_ISSET_S((size_t)i, SETS_BYTES, set) && place_list_has(list, i))
            return 0;
    return 1;
}

int place_cpus(int *ret_cpus, int max)
{
    cpu_set_t set[PLACE_SETS], leads[PLACE_SETS];
    int n = 0;
    if (sched_getaffinity(0, sizeof(set), set))
        return 0;
    CPU_ZERO_S(sizeof(leads), leads);
    for (int i = 0; i < PLACE_SETS * CPU_SETSIZE; i++)
        if (CPU_ISSET_S((size_t)i, sizeof(set), set) && leads_core(i, set))
            CPU_SET_S((size_t)i, sizeof(leads), leads);
    for (int second = 0; second < 2; second++)
        for (int i = 0; i < PLACE_SETS * CPU_SETSIZE && n < max; i++)
            if (CPU_ISSET_S((size_t)i, sizeof(set), set) &&
                (CPU_ISSET_S((size_t)i, sizeof(leads), leads) == 0) == second)
                ret_cpus[n++] = i;
    return n;
}

int place_count(void)
{
    cpu_set_t set[PLACE_SETS];
    return sched_getaffinity(0, sizeof(set), set) ? 0 : CPU_COUNT_S(sizeof(set), set);
}

void place_interleave(void *p, size_t n_bytes)
{
    unsigned long nodes[MAX_NODES / LONG_BITS] = {0};
    int n = 0;
    if (syscall(SYS_get_mempolicy, NULL, nodes, (unsigned long)MAX_NODES, NULL, MEMS_ALLOWED) != 0)
        return;
    for (int i = 0; i < MAX_NODES; i++)
        n += (int)(nodes[i / LONG_BITS] >> i % LONG_BITS & 1);
    if (n > 1)
        (void)syscall(SYS_mbind, p, n_bytes, INTERLEAVE, nodes, (unsigned long)MAX_NODES, 0u);
}
