## tests of tokenizer
TOKENIZER_TESTS = %D%/tokenizer/compare.mjs %D%/tokenizer/reference.mjs
TESTS += $(TOKENIZER_TESTS)
EXTRA_DIST += $(TOKENIZER_TESTS) %D%/tokenizer/gguf.mjs %D%/tokenizer/texts.mjs

check_PROGRAMS += %D%/tokenizer/tok
%C%_tokenizer_tok_SOURCES = %D%/tokenizer/tok.c
%C%_tokenizer_tok_CPPFLAGS = $(AM_CPPFLAGS) $(CJSON_CFLAGS)
%C%_tokenizer_tok_LDADD = $(LIBS_ENGINE)
