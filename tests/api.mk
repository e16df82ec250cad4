## tests of api
check_PROGRAMS += tests/t_template
TESTS += tests/t_template
tests_t_template_SOURCES = %D%/unit/t_template.c
tests_t_template_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS)
tests_t_template_LDADD = $(LIBS_API) $(CHECK_LIBS)
