## tests of server
check_PROGRAMS += tests/t_conf
TESTS += tests/t_conf
tests_t_conf_SOURCES = %D%/unit/t_conf.c
tests_t_conf_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_conf_LDADD = libserver.a $(LIBS_BASE) $(CHECK_LIBS)
check_PROGRAMS += tests/t_keys
TESTS += tests/t_keys
tests_t_keys_SOURCES = %D%/unit/t_keys.c
tests_t_keys_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_keys_LDADD = libserver.a $(LIBS_BASE) $(OPENSSL_LIBS) $(CHECK_LIBS) -lm
check_PROGRAMS += tests/t_peer
TESTS += tests/t_peer
tests_t_peer_SOURCES = %D%/unit/t_peer.c
tests_t_peer_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_peer_LDADD = libserver.a $(LIBS_BASE) $(CHECK_LIBS)
