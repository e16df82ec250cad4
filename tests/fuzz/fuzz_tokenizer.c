/* tests/fuzz/fuzz_tokenizer.c - tokenizer.json, and after a divider a text to encode with it. */
#include "config.h"

#include "tests/fuzz/fuzz.h"

#define VOCAB_SIZE 1024

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct tokenizer_source src = {.pre = "", .bos_token_id = -1, .eos_token_id = -1, .eot_token_id = -1,
                                   .eom_token_id = -1, .pad_token_id = -1, .unk_token_id = -1,
                                   .add_bos_token = -1, .add_eos_token = -1};
    struct tokenizer *t = NULL;
    struct err e = {0};
    size_t n = 0, n_text = 0;
    const uint8_t *json = fuzz_part(&data, &n_bytes, &n), *text = fuzz_part(&data, &n_bytes, &n_text);
    fuzz_put("tokenizer.json", json, n);
    src.json_path = fuzz_path("tokenizer.json");
    if (fuzz_result(tokenizer_new(&src, VOCAB_SIZE, &t, &e), &e) == 0)
        fuzz_use_tokenizer(t, text ? (const char *)text : "", n_text);
    FUZZ_CHECK(fuzz_verdict == 0 || !t);
    tokenizer_free(&t);
    return 0;
}
