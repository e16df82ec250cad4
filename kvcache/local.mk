noinst_LIBRARIES += libkvcache.a
libkvcache_a_SOURCES = \
	%D%/check.c \
	%D%/index.c \
	%D%/internal.h \
	%D%/kvcache.c %D%/kvcache.h \
	%D%/match.c \
	%D%/pages.c \
	%D%/pin.c \
	%D%/seq.c
EXTRA_DIST += %D%/README.md
