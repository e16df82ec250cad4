noinst_LIBRARIES += libkvcache.a
libkvcache_a_SOURCES = \
	%D%/check.c \
	%D%/disk.h %D%/disk_format.c %D%/disk_index.c %D%/disk_store.c %D%/disk_thread.c %D%/disk_kv.c \
	%D%/disk_save.c \
	%D%/evict.c \
	%D%/index.c \
	%D%/internal.h \
	%D%/kvcache.c %D%/kvcache.h \
	%D%/match.c \
	%D%/pages.c \
	%D%/park.c \
	%D%/pin.c \
	%D%/seq.c
EXTRA_DIST += %D%/README.md
