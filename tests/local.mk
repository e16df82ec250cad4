## libcheck programs write TAP; scripts too. See docs/design.md, "Tests".
LOG_DRIVER = env AM_TAP_AWK='$(AWK)' $(SHELL) $(top_srcdir)/build-aux/tap-driver.sh
TEST_EXTENSIONS = .sh
SH_LOG_DRIVER = $(LOG_DRIVER)
SH_LOG_COMPILER = $(SHELL)
AM_TESTS_ENVIRONMENT = \
	CK_TAP_LOG_FILE_NAME=-; export CK_TAP_LOG_FILE_NAME; \
	CK_VERBOSITY=silent; export CK_VERBOSITY; \
	CK_RUN_CASE=; unset CK_RUN_CASE; \
	top_srcdir='$(abs_top_srcdir)'; export top_srcdir; \
	top_builddir='$(abs_top_builddir)'; export top_builddir; \
	NODE='$(NODE)'; export NODE; PYTHON3='$(PYTHON3)'; export PYTHON3; CC='$(CC)'; export CC;

TEST_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)

include %D%/base.mk
include %D%/kvcache.mk
include %D%/model.mk
include %D%/tokenizer.mk
include %D%/kernels.mk
include %D%/engine.mk
include %D%/api.mk
include %D%/server.mk
include %D%/forward.mk
include %D%/convert.mk
include %D%/lint.mk
include %D%/integration.mk
include %D%/fuzz.mk
include %D%/peers.mk
include %D%/operations.mk
