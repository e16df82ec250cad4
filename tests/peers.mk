## the same files in other engines; not part of `make check`
EXTRA_DIST += %D%/peers/llama_cpp.mjs %D%/peers/llama_logits.c

check-llama-cpp: all
	LLAMA_CPP='$(LLAMA_CPP)' LLAMA_CPP_BUILD='$(LLAMA_CPP_BUILD)' LATENT_TEST_TIMEOUT=3600 \
	top_srcdir='$(abs_top_srcdir)' top_builddir='$(abs_top_builddir)' CC='$(CC)' \
	'$(NODE)' $(top_srcdir)/tests/peers/llama_cpp.mjs
.PHONY: check-llama-cpp
