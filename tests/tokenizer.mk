## tests of tokenizer
TOKENIZER_TESTS = %D%/tokenizer/compare.mjs
TESTS += $(TOKENIZER_TESTS)
EXTRA_DIST += $(TOKENIZER_TESTS) %D%/tokenizer/gguf.mjs
