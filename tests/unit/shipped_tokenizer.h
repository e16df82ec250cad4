/* tests/unit/shipped_tokenizer.h - the shipped model's tokenizer as a checked fixture. All static. */
#ifndef LATENT_TESTS_SHIPPED_TOKENIZER_H
#define LATENT_TESTS_SHIPPED_TOKENIZER_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/model/checkpoint.h"
#include "engine/tokenizer/tokenizer.h"

static struct tokenizer *tok;

static void open_tokenizer(void)
{
    const char *src = getenv("top_srcdir");
    char path[4096];
    struct err e = {0};
    struct checkpoint *c = NULL;
    snprintf(path, sizeof(path), "%s/models/latent-mini.q8_0.gguf", src ? src : ".");
    ck_assert_msg(checkpoint_open(path, &c, &e) == 0, "%s", e.text);
    ck_assert_msg(tokenizer_new(&c->tokenizer, c->config.vocab_size, &tok, &e) == 0, "%s", e.text);
    checkpoint_close(&c);
}

static void close_tokenizer(void)
{
    tokenizer_free(&tok);
}

#endif
