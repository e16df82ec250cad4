## tests of latent-convert
check_PROGRAMS += tests/t_quantize tests/t_convert
TESTS += tests/t_quantize tests/t_convert
tests_t_quantize_SOURCES = %D%/convert/t_quantize.c
tests_t_quantize_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_quantize_LDADD = libconvert.a $(LIBS_ENGINE) $(CHECK_LIBS)
tests_t_convert_SOURCES = %D%/convert/t_convert.c %D%/forward/rig.c %D%/forward/rig.h
tests_t_convert_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS)
tests_t_convert_LDADD = libconvert.a $(LIBS_ENGINE) $(CHECK_LIBS)
dist_check_SCRIPTS += %D%/convert/cli.sh
TESTS += %D%/convert/cli.sh
