/* tests/forward/rig.c - see rig.h. */
#include "config.h"

#include "tests/forward/rig.h"

#include <check.h>
#include <stdlib.h>

void rig_open(struct rig *r, const char *path, const struct rig_options *o)
{
    struct err e = {0};
    struct checkpoint *ck = NULL;
    struct model_options mo = {.level = o->level, .cache_type = o->cache_type,
                               .page_tokens = o->page_tokens, .max_batch_tokens = RIG_MAX_ROWS,
                               .max_logit_rows = RIG_MAX_ROWS, .max_seqs = 4,
                               .max_position = o->max_len};
    ck_assert_msg(checkpoint_open(path, &ck, &e) == 0, "%s", e.text);
    ck_assert_msg(pool_new(2, 0, &r->pool, &e) == 0, "%s", e.text);
    ck_assert_msg(model_new(ck, &mo, r->pool, &r->model, &e) == 0, "%s", e.text);
    checkpoint_close(&ck);
    r->page_tokens = (int)model_page_tokens(r->model);
    struct kv_config kc = {.page_tokens = (uint32_t)r->page_tokens, .pool_bytes = o->pool_bytes,
                           .max_seqs = 4, .max_seq_tokens = (uint32_t)o->max_len};
    kc.planes = model_planes(r->model, &kc.n_planes);
    ck_assert_msg(kv_open(&kc, &r->kv, &e) == 0, "%s", e.text);
    ck_assert_msg(model_bind_cache(r->model, r->kv, &e) == 0, "%s", e.text);
    r->vocab = model_config(r->model)->vocab_size;
    r->logits = malloc((size_t)RIG_MAX_ROWS * (size_t)r->vocab * sizeof(float));
    ck_assert_ptr_nonnull(r->logits);
}

void rig_close(struct rig *r)
{
    model_free(&r->model);
    kv_close(&r->kv);
    pool_free(&r->pool);
    free(r->logits);
}

void rig_step(struct rig *r, struct kv_seq *seq, const int32_t *tokens, int n, int n_logits)
{
    ck_assert_int_eq(kv_seq_reserve(r->kv, seq, (uint32_t)n), 0);
    struct forward_seq s = {kv_seq_pages(seq, NULL), (int32_t)kv_seq_length(seq), n, tokens, n_logits,
                            false, false};
    struct forward_batch b = {1, &s, r->logits};
    kv_step_begin(r->kv);
    ck_assert_int_eq(model_forward(r->model, &b), 0);
    kv_seq_commit(r->kv, seq, tokens, (uint32_t)n);
    kv_step_end(r->kv);
}
