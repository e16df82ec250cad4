/* tests/fuzz/fuzz.h - what the harnesses share: a folder for the files of one input, the uses that an
 * accepted model is put to, and the verdict that the replay compares with a seed's name.
 *
 * A harness is one file with LLVMFuzzerTestOneInput. libFuzzer drives it (build.mk), or replay.c over
 * committed files. A harness keeps nothing from one input to the next. */
#ifndef LATENT_TESTS_FUZZ_H
#define LATENT_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "engine/model/checkpoint.h"
#include "engine/tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

/* Files that belong together in one input are divided by this byte, which no text file here has. */
#define FUZZ_DIVIDER 0x1e

/* What became of the last input: 0 it was served, or the code that refused it. */
extern int fuzz_verdict;
extern char fuzz_text[sizeof(((struct err *)0)->text)]; /* and why it was refused */

/* Ends the process when a promise is broken. */
#define FUZZ_CHECK(cond) ((cond) ? (void)0 : fuzz__broken(__FILE__, __LINE__, #cond))
void fuzz__broken(const char *file, int line, const char *what) __attribute__((noreturn));

/* Takes a result and its error: a failure must have a text, a code of ours, and no byte that a terminal
 * or a log would take for something else. Sets fuzz_verdict; returns r. */
int fuzz_result(int r, const struct err *e);

/* Files in a folder of this process, in memory where the system has such a place. */
const char *fuzz_path(const char *name); /* good until the next call */
void fuzz_put(const char *name, const void *data, size_t n_bytes);
void fuzz_put_sparse(const char *name, const void *head, size_t n_bytes, uint64_t total_bytes);
void fuzz_drop(const char *name);
/* name becomes another name for the file target of the same folder. */
void fuzz_alias(const char *name, const char *target);

/* The next of the divided parts of an input; NULL after the last. */
const uint8_t *fuzz_part(const uint8_t **data, size_t *n_bytes, size_t *ret_bytes);

/* A file of the source folder tests/fuzz, NUL-terminated; free is the caller's. */
char *fuzz_data(const char *name, size_t *ret_bytes);

/* Opens the path as a server would, reads the first and last byte of every tensor, makes the tokenizer
 * and uses it. */
void fuzz_open(const char *path);
/* Encodes, decodes, asks for tokens. */
void fuzz_use_tokenizer(const struct tokenizer *t, const char *text, size_t n_bytes);

#endif
