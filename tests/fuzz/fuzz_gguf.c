/* tests/fuzz/fuzz_gguf.c - a GGUF file: header, tensors, configuration, tokenizer.
 *
 * Where the bytes of a second header occur inside the input, they and what follows are also the second
 * part of a split file. */
#include "config.h"

#include <string.h>

#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const char part1[] = "m-00001-of-00002.gguf", part2[] = "m-00002-of-00002.gguf";
    const uint8_t *second = n_bytes > 8 ? memmem(data + 8, n_bytes - 8, "GGUF\3\0\0\0", 8) : NULL;
    fuzz_put(part1, data, n_bytes);
    if (second)
        fuzz_put(part2, second, n_bytes - (size_t)(second - data));
    else
        fuzz_drop(part2);
    fuzz_open(fuzz_path(part1));
    return 0;
}
