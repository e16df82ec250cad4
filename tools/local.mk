noinst_PROGRAMS += latent-bench
latent_bench_SOURCES = %D%/latent_bench.c %D%/bench_machine.c %D%/bench.h
latent_bench_LDADD = $(LIBS_ENGINE)
