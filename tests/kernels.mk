## tests of kernels; `tests/t_kernels --bench` prints a table of times
check_PROGRAMS += tests/t_kernels
TESTS += tests/t_kernels
tests_t_kernels_SOURCES = %D%/kernels/t_kernels.c %D%/kernels/bench.c \
	%D%/kernels/check_attention.c %D%/kernels/check_products.c %D%/kernels/checker.h \
	%D%/kernels/formats.c %D%/kernels/formats.h \
	%D%/kernels/guard.c %D%/kernels/guard.h %D%/kernels/values.c %D%/kernels/values.h
tests_t_kernels_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_kernels_LDADD = $(LIBS_KERN) $(LIBS_BASE) $(CHECK_LIBS)
