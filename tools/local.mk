bin_PROGRAMS += latent-bench
latent_bench_SOURCES = %D%/latent_bench.c %D%/bench.h %D%/bench_around.c %D%/bench_around.h \
	%D%/bench_attention.c %D%/bench_cost.c %D%/bench_kernels.c %D%/bench_machine.c %D%/bench_model.c %D%/bench_rig.c %D%/bench_rig.h %D%/bench_family.c \
	%D%/bench_report.c %D%/bench_serve.c \
	%D%/bench_time.c %D%/bench_time.h %D%/peak.c %D%/peak.h
latent_bench_LDADD = $(LIBS_ENGINE)

## latent-convert: a library, so that the tests can have its parts
noinst_LIBRARIES += libconvert.a
libconvert_a_SOURCES = %D%/convert/commands.h \
	%D%/convert/emit.c %D%/convert/emit.h %D%/convert/plan.c %D%/convert/plan.h \
	%D%/convert/quantize.c %D%/convert/quantize.h \
	%D%/convert/quantize_fit.c %D%/convert/quantize_fit.h \
	%D%/convert/recipe.c %D%/convert/recipe.h \
	%D%/convert/source.c %D%/convert/source.h %D%/convert/tokenizer_keys.c
bin_PROGRAMS += latent-convert
latent_convert_SOURCES = %D%/convert/latent_convert.c %D%/convert/info.c %D%/convert/verify.c
latent_convert_LDADD = libconvert.a $(LIBS_ENGINE)
EXTRA_DIST += %D%/measure.sh %D%/plot.mjs %D%/family_table.mjs %D%/train/family.py %D%/train/models.py %D%/train/zoo.sh %D%/train/gguf.py
