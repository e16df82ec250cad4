## tests of base and of the compute pool
check_PROGRAMS += tests/t_base tests/t_shared tests/t_pool
TESTS += tests/t_base tests/t_shared tests/t_pool
tests_t_base_SOURCES = %D%/unit/t_base.c
tests_t_base_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_base_LDADD = $(LIBS_BASE) $(CHECK_LIBS)
tests_t_shared_SOURCES = %D%/unit/t_shared.c
tests_t_shared_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_shared_LDADD = $(LIBS_BASE) $(CHECK_LIBS)
tests_t_pool_SOURCES = %D%/unit/t_pool.c
tests_t_pool_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_pool_LDADD = libengine.a $(LIBS_BASE) $(CHECK_LIBS)
