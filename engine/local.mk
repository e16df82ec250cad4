noinst_LIBRARIES += libengine.a
libengine_a_CPPFLAGS = $(AM_CPPFLAGS) $(PCRE2_CFLAGS) $(UTF8PROC_CFLAGS) $(CJSON_CFLAGS)
libengine_a_SOURCES = %D%/engine.h %D%/profile.h

include %D%/core.mk
include %D%/model/local.mk
include %D%/tokenizer/local.mk
include %D%/grammar/local.mk
include %D%/kernels/local.mk
include %D%/attention/local.mk
