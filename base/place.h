/* base/place.h - where threads and memory go: processors in order of use, and memory over NUMA nodes.
 *
 * Read from the affinity mask and from sysfs; no library is needed. Everything here is a wish: where the
 * system does not grant it, things are slower and still right. Any thread. */
#ifndef LATENT_BASE_PLACE_H
#define LATENT_BASE_PLACE_H

#include <stddef.h>

/* Sets of 1,024 processors each that make up an affinity mask: the most that Linux can be built for. One
 * alone is refused (EINVAL) where there may be more. */
#define PLACE_SETS 8

/* Processors that the calling thread may use, at most max of them: first one of each core, in ascending
 * order, then their siblings (hyperthreads). Returns how many were written; 0: not known. */
int place_cpus(int *ret_cpus, int max);
int place_count(void); /* how many these are; 0: not known */
/* Reads a list like "0-3,8" as sysfs has it. 1 when n is in it. */
int place_list_has(const char *list, int n);
/* Pages of [p, p + n_bytes) that come when they are first touched will lie on all nodes in turn. p is a
 * multiple of the page size. Nothing happens on a machine with one node. */
void place_interleave(void *p, size_t n_bytes);

#endif
