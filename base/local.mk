noinst_LIBRARIES += libbase.a
libbase_a_CPPFLAGS = $(AM_CPPFLAGS) $(XXHASH_CFLAGS)
libbase_a_SOURCES = \
	%D%/arena.c %D%/arena.h \
	%D%/buf.c %D%/buf.h \
	%D%/clock.c %D%/clock.h \
	%D%/cpu.c %D%/cpu.h \
	%D%/err.c %D%/err.h \
	%D%/hash.c %D%/hash.h %D%/hex.h \
	%D%/log.c %D%/log.h \
	%D%/mailbox.c %D%/mailbox.h \
	%D%/metrics.c %D%/metrics.h \
	%D%/place.c %D%/place.h \
	%D%/utf8.c %D%/utf8.h
