## tests of kvcache
check_PROGRAMS += tests/t_kvcache tests/t_kv_model
TESTS += tests/t_kvcache tests/t_kv_model
tests_t_kvcache_SOURCES = %D%/unit/t_kvcache.c
tests_t_kvcache_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_kvcache_LDADD = $(LIBS_KV) $(CHECK_LIBS)
tests_t_kv_model_SOURCES = %D%/unit/t_kv_model.c
tests_t_kv_model_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_kv_model_LDADD = $(LIBS_KV) $(CHECK_LIBS)
check_PROGRAMS += tests/t_kv_replay
TESTS += tests/t_kv_replay
tests_t_kv_replay_SOURCES = %D%/unit/t_kv_replay.c %D%/load/chat_trace.c %D%/load/chat_trace.h
tests_t_kv_replay_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_kv_replay_LDADD = $(LIBS_KV) $(CHECK_LIBS) -lm

## The replay at length: more days, and what the pool serves of busier ones.
replay: tests/t_kv_replay$(EXEEXT)
	LATENT_REPLAY=1 CK_TAP_LOG_FILE_NAME=- CK_VERBOSITY=silent tests/t_kv_replay$(EXEEXT)
.PHONY: replay

## The model test at length: every operation checked, 1,000,000 of them.
check-kv-model: tests/t_kv_model$(EXEEXT)
	LATENT_MODEL_OPS=1000000 CK_TAP_LOG_FILE_NAME=- CK_VERBOSITY=silent tests/t_kv_model$(EXEEXT)
.PHONY: check-kv-model
check_PROGRAMS += tests/t_disk tests/t_disk_use
TESTS += tests/t_disk tests/t_disk_use
tests_t_disk_SOURCES = %D%/unit/t_disk.c %D%/unit/disk_rig.h
tests_t_disk_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_disk_LDADD = $(LIBS_KV) $(CHECK_LIBS)
tests_t_disk_use_SOURCES = %D%/unit/t_disk_use.c %D%/unit/disk_rig.h
tests_t_disk_use_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_disk_use_LDADD = $(LIBS_KV) $(CHECK_LIBS)
