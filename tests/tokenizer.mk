## tests of tokenizer
TOKENIZER_TESTS = %D%/tokenizer/compare.mjs %D%/tokenizer/reference.mjs
TESTS += $(TOKENIZER_TESTS)
EXTRA_DIST += $(TOKENIZER_TESTS) %D%/tokenizer/gguf.mjs %D%/tokenizer/texts.mjs

check_PROGRAMS += %D%/tokenizer/tok
%C%_tokenizer_tok_SOURCES = %D%/tokenizer/tok.c
%C%_tokenizer_tok_CPPFLAGS = $(AM_CPPFLAGS) $(CJSON_CFLAGS)
%C%_tokenizer_tok_LDADD = $(LIBS_ENGINE)

check_PROGRAMS += %D%/t_tokenizer
TESTS += %D%/t_tokenizer
%C%_t_tokenizer_SOURCES = %D%/unit/t_tokenizer.c %D%/unit/spm.h
%C%_t_tokenizer_CPPFLAGS = $(TEST_CPPFLAGS)
%C%_t_tokenizer_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)

## 20,000 lines for each published tokenizer
check-tokenizers: %D%/tokenizer/tok
	$(AM_TESTS_ENVIRONMENT) LATENT_LINES=20000 LATENT_TEST_TIMEOUT=7200 '$(NODE)' $(srcdir)/%D%/tokenizer/reference.mjs
.PHONY: check-tokenizers
