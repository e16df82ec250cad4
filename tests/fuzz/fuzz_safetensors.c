/* tests/fuzz/fuzz_safetensors.c - a safetensors file in a folder whose config.json is a small model's.
 *
 * Divided inputs are model.safetensors.index.json and two shards; others are the file alone. */
#include "config.h"

#include "tests/fuzz/fuzz.h"

static const char config[] =
    "{\"model_type\":\"deepseek_v3\",\"vocab_size\":8,\"hidden_size\":4,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":1,\"q_lora_rank\":null,\"kv_lora_rank\":4,\"qk_nope_head_dim\":2,"
    "\"qk_rope_head_dim\":2,\"v_head_dim\":2,\"max_position_embeddings\":64,\"intermediate_size\":4,"
    "\"n_routed_experts\":0,\"first_k_dense_replace\":1,\"tie_word_embeddings\":true}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const char *const names[] = {"model.safetensors.index.json", "a.safetensors",
                                        "b.safetensors", "model.safetensors"};
    const uint8_t *part;
    size_t n = 0;
    fuzz_put("config.json", config, sizeof(config) - 1);
    for (int i = 0; i < 4; i++)
        fuzz_drop(names[i]);
    if (n_bytes && data[0] == FUZZ_DIVIDER) {
        data++;
        n_bytes--;
        for (int i = 0; i < 3 && (part = fuzz_part(&data, &n_bytes, &n)); i++)
            fuzz_put(names[i], part, n);
    } else {
        fuzz_put(names[3], data, n_bytes);
    }
    fuzz_open(fuzz_path("."));
    return 0;
}
