noinst_LIBRARIES += libkvcache.a
libkvcache_a_SOURCES = %D%/kvcache.c %D%/kvcache.h
