## tests of engine
check_PROGRAMS += tests/t_sampler
TESTS += tests/t_sampler
tests_t_sampler_SOURCES = %D%/unit/t_sampler.c %D%/unit/shipped_tokenizer.h
tests_t_sampler_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_sampler_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)

check_PROGRAMS += tests/t_matrix
TESTS += tests/t_matrix
tests_t_matrix_SOURCES = %D%/unit/t_matrix.c
tests_t_matrix_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_matrix_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)

check_PROGRAMS += tests/t_router
TESTS += tests/t_router
tests_t_router_SOURCES = %D%/unit/t_router.c
tests_t_router_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_router_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)

check_PROGRAMS += tests/t_sched tests/t_sched_time
TESTS += tests/t_sched tests/t_sched_time
tests_t_sched_SOURCES = %D%/unit/t_sched.c %D%/unit/sched_rig.h
tests_t_sched_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_sched_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)
tests_t_sched_time_SOURCES = %D%/unit/t_sched_time.c %D%/unit/sched_rig.h
tests_t_sched_time_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_sched_time_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)

check_PROGRAMS += tests/t_samplers
TESTS += tests/t_samplers
tests_t_samplers_SOURCES = %D%/unit/t_samplers.c %D%/unit/shipped_tokenizer.h
tests_t_samplers_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_samplers_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)

check_PROGRAMS += tests/t_grammar
TESTS += tests/t_grammar
tests_t_grammar_SOURCES = %D%/unit/t_grammar.c %D%/unit/spm.h
tests_t_grammar_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_grammar_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)

## what masks cost at a large vocabulary
EXTRA_PROGRAMS += tests/bench_grammar
tests_bench_grammar_SOURCES = %D%/load/bench_grammar.c %D%/unit/spm.h
tests_bench_grammar_LDADD = $(LIBS_ENGINE)
CLEANFILES += tests/bench_grammar$(EXEEXT)
bench-grammar: tests/bench_grammar$(EXEEXT)
	tests/bench_grammar
.PHONY: bench-grammar
