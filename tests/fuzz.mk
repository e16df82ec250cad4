## fuzzers: the harnesses over their committed inputs in `make check`; `make fuzz`, `make fuzz-run` with clang
FUZZ_HARNESSES = gguf safetensors tokenizer config template disk access http body grammar
FUZZ_CC = clang
FUZZ_SECONDS = 60

check_LIBRARIES += tests/libfuzz.a
tests_libfuzz_a_SOURCES = %D%/fuzz/fuzz.c %D%/fuzz/fuzz.h %D%/fuzz/replay.c
tests_libfuzz_a_CPPFLAGS = $(AM_CPPFLAGS) $(CJSON_CFLAGS)

FUZZ_REPLAYS = tests/replay_gguf tests/replay_safetensors tests/replay_tokenizer tests/replay_config \
	tests/replay_template tests/replay_disk tests/replay_access tests/replay_http \
	tests/replay_body tests/replay_grammar
FUZZ_CPPFLAGS = $(AM_CPPFLAGS) $(CJSON_CFLAGS)
FUZZ_LDADD = tests/libfuzz.a $(LIBS_API)
check_PROGRAMS += $(FUZZ_REPLAYS)
TESTS += $(FUZZ_REPLAYS)
tests_replay_gguf_SOURCES = %D%/fuzz/fuzz_gguf.c
tests_replay_gguf_CPPFLAGS = $(FUZZ_CPPFLAGS)
tests_replay_gguf_LDADD = $(FUZZ_LDADD)
tests_replay_safetensors_SOURCES = %D%/fuzz/fuzz_safetensors.c
tests_replay_safetensors_CPPFLAGS = $(FUZZ_CPPFLAGS)
tests_replay_safetensors_LDADD = $(FUZZ_LDADD)
tests_replay_tokenizer_SOURCES = %D%/fuzz/fuzz_tokenizer.c
tests_replay_tokenizer_CPPFLAGS = $(FUZZ_CPPFLAGS)
tests_replay_tokenizer_LDADD = $(FUZZ_LDADD)
tests_replay_config_SOURCES = %D%/fuzz/fuzz_config.c
tests_replay_config_CPPFLAGS = $(FUZZ_CPPFLAGS)
tests_replay_config_LDADD = $(FUZZ_LDADD)
tests_replay_template_SOURCES = %D%/fuzz/fuzz_template.c
tests_replay_template_CPPFLAGS = $(FUZZ_CPPFLAGS)
tests_replay_template_LDADD = $(FUZZ_LDADD)
tests_replay_disk_SOURCES = %D%/fuzz/fuzz_disk.c
tests_replay_disk_CPPFLAGS = $(FUZZ_CPPFLAGS)
tests_replay_disk_LDADD = $(FUZZ_LDADD)
tests_replay_access_SOURCES = %D%/fuzz/fuzz_access.c
tests_replay_access_CPPFLAGS = $(FUZZ_CPPFLAGS)
tests_replay_access_LDADD = tests/libfuzz.a libserver.a $(LIBS_API) $(OPENSSL_LIBS)
tests_replay_http_SOURCES = %D%/fuzz/fuzz_http.c
tests_replay_http_CPPFLAGS = $(FUZZ_CPPFLAGS) $(UV_CFLAGS) $(LLHTTP_CFLAGS)
tests_replay_http_LDADD = tests/libfuzz.a $(LIBS_SERVER)
tests_replay_body_SOURCES = %D%/fuzz/fuzz_body.c
tests_replay_body_CPPFLAGS = $(FUZZ_CPPFLAGS)
tests_replay_body_LDADD = $(FUZZ_LDADD)
tests_replay_grammar_SOURCES = %D%/fuzz/fuzz_grammar.c %D%/unit/spm.h
tests_replay_grammar_CPPFLAGS = $(FUZZ_CPPFLAGS)
tests_replay_grammar_LDADD = $(FUZZ_LDADD)

EXTRA_DIST += %D%/fuzz/build.mk %D%/fuzz/run.sh %D%/fuzz/merge.sh %D%/fuzz/seeds.py %D%/fuzz/seeds_models.py %D%/fuzz/seeds_packs.py \
	%D%/fuzz/seeds %D%/fuzz/corpus %D%/fuzz/crashes %D%/fuzz/weights \
	%D%/fuzz/gguf.dict %D%/fuzz/safetensors.dict %D%/fuzz/tokenizer.dict %D%/fuzz/config.dict \
	%D%/fuzz/template.dict %D%/fuzz/disk.dict %D%/fuzz/access.dict %D%/fuzz/http.dict %D%/fuzz/body.dict %D%/fuzz/grammar.dict

fuzz: config.h $(LIBS_KERN)
	$(MAKE) -f $(srcdir)/tests/fuzz/build.mk top='$(srcdir)' FUZZ_CC='$(FUZZ_CC)' \
	pkg_cflags='$(CJSON_CFLAGS) $(PCRE2_CFLAGS) $(UTF8PROC_CFLAGS) $(XXHASH_CFLAGS) $(UV_CFLAGS) $(LLHTTP_CFLAGS) $(OPENSSL_CFLAGS)' \
	llhttp='$(LLHTTP_SRC)' kern_libs='$(LIBS_KERN)' \
	pkg_libs='$(CJSON_LIBS) $(PCRE2_LIBS) $(UTF8PROC_LIBS) $(XXHASH_LIBS) $(UV_LIBS) $(LLHTTP_LIBS) $(OPENSSL_LIBS)'
fuzz-run: fuzz $(FUZZ_REPLAYS)
	top_srcdir='$(abs_top_srcdir)' $(SHELL) $(srcdir)/tests/fuzz/run.sh $(FUZZ_SECONDS) $(FUZZ_NAMES)
fuzz-merge: fuzz $(FUZZ_REPLAYS)
	top_srcdir='$(abs_top_srcdir)' $(SHELL) $(srcdir)/tests/fuzz/merge.sh $(FUZZ_NAMES)
clean-local: clean-fuzz
clean-fuzz:
	-rm -rf fuzz
.PHONY: fuzz fuzz-run fuzz-merge clean-fuzz
