## tests of model
check_PROGRAMS += tests/t_readers
TESTS += tests/t_readers
tests_t_readers_SOURCES = %D%/unit/t_readers.c
tests_t_readers_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_readers_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)

check_PROGRAMS += tests/t_tensor
TESTS += tests/t_tensor
tests_t_tensor_SOURCES = %D%/unit/t_tensor.c %D%/kernels/formats.c %D%/kernels/formats.h
tests_t_tensor_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_tensor_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)

check_PROGRAMS += tests/t_tensors
TESTS += tests/t_tensors
tests_t_tensors_SOURCES = %D%/unit/t_tensors.c %D%/forward/gguf_file.c %D%/forward/gguf_file.h
tests_t_tensors_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_tensors_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)
