## tests of the forward pass: random tiny models against a reference, checkpoints of every family against
## transformers, and the shipped model
check_PROGRAMS += tests/t_forward tests/t_golden tests/t_fixtures tests/t_sparse tests/t_paged tests/t_scheme \
	tests/t_repeat tests/t_row_bytes tests/t_family
TESTS += tests/t_forward tests/t_golden tests/t_fixtures tests/t_sparse tests/t_paged tests/t_scheme \
	tests/t_repeat tests/t_row_bytes tests/t_family
tests_t_forward_SOURCES = %D%/forward/t_forward.c %D%/forward/tiny.c %D%/forward/tiny.h
tests_t_forward_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_forward_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)
tests_t_golden_SOURCES = %D%/forward/t_golden.c %D%/forward/rig.c %D%/forward/rig.h
tests_t_golden_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS)
tests_t_golden_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)
tests_t_fixtures_SOURCES = %D%/forward/t_fixtures.c %D%/forward/rig.c %D%/forward/rig.h
tests_t_fixtures_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS)
tests_t_fixtures_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)
tests_t_sparse_SOURCES = %D%/forward/t_sparse.c %D%/forward/tiny.c %D%/forward/tiny.h \
	%D%/forward/gguf_file.c %D%/forward/gguf_file.h
tests_t_sparse_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS)
tests_t_sparse_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)
tests_t_paged_SOURCES = %D%/forward/t_paged.c
tests_t_paged_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_paged_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)
tests_t_scheme_SOURCES = %D%/forward/t_scheme.c %D%/forward/tiny.c %D%/forward/tiny.h
tests_t_scheme_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_scheme_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)
tests_t_repeat_SOURCES = %D%/forward/t_repeat.c %D%/forward/tiny.c %D%/forward/tiny.h \
	%D%/forward/gguf_file.c %D%/forward/gguf_file.h
tests_t_repeat_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_repeat_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)
tests_t_row_bytes_SOURCES = %D%/forward/t_row_bytes.c
tests_t_row_bytes_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS)
tests_t_row_bytes_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)
tests_t_family_SOURCES = %D%/forward/t_family.c %D%/forward/rig.c %D%/forward/rig.h
tests_t_family_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS)
tests_t_family_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)
## The same at emulated levels (kernels.mk): what a machine without tiles or vdpbf16ps never runs.
if EMULATE_SIMD
check_PROGRAMS += tests/t_paged_emulated tests/t_family_emulated
TESTS += tests/t_paged_emulated tests/t_family_emulated
EMULATED_ENGINE = libengine.a libkern.a libkern_emulated.a libkern_avx2.a $(LIBS_KV) $(PCRE2_LIBS) $(UTF8PROC_LIBS) \
	$(CJSON_LIBS)
tests_t_paged_emulated_SOURCES = $(tests_t_paged_SOURCES) %D%/kernels/emulate/cpu.c
tests_t_paged_emulated_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_paged_emulated_LDADD = $(EMULATED_ENGINE) $(CHECK_LIBS)
tests_t_family_emulated_SOURCES = $(tests_t_family_SOURCES) %D%/kernels/emulate/cpu.c
tests_t_family_emulated_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS)
tests_t_family_emulated_LDADD = $(EMULATED_ENGINE) $(CHECK_LIBS)
endif
## the reference in NumPy against itself and the committed goldens
TESTS += %D%/reference/check.py
EXTRA_DIST += %D%/reference/family.py %D%/reference/make.py %D%/reference/check.py %D%/reference/embedding.py %D%/reference/layouts.py %D%/reference/zoo.py
EXTRA_DIST += %D%/data/family %D%/data/layout %D%/data/checkpoints.json %D%/data/latent-mini-golden.json %D%/data/zoo.json %D%/data/hf
