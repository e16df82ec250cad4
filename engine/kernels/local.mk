## One library per instruction set, each with its own flags; libkern.a holds generic C and the table.
noinst_LIBRARIES += libkern.a
libkern_a_SOURCES = \
	%D%/attn_bf16_template.h \
	%D%/attn_few_template.h \
	%D%/attn_template.h \
	%D%/avx512_rotate.h \
	%D%/avx512_rows.h \
	%D%/act_template.h \
	%D%/gate.h \
	%D%/gate_template.h \
	%D%/generic.c \
	%D%/kern.c \
	%D%/kern.def \
	%D%/kern.h \
	%D%/kern_internal.h \
	%D%/lanes_template.h \
	%D%/avx512_operands.h \
	%D%/pack.c \
	%D%/pack.h \
	%D%/pack_quants.c \
	%D%/quant_layout.h \
	%D%/quants_avx2.h \
	%D%/quants_avx512.h \
	%D%/quants_neon.h \
	%D%/quants_template.h \
	%D%/quants_unpack_template.h \
	%D%/simd_template.h \
	%D%/small_template.h \
	%D%/vec_avx2.h \
	%D%/vec_avx512.h \
	%D%/vec_neon.h
libkern_a_CFLAGS = $(AM_CFLAGS) -ffp-contract=off

LIBS_KERN_SIMD =
if HAVE_SIMD_AVX2
noinst_LIBRARIES += libkern_avx2.a
libkern_avx2_a_SOURCES = %D%/avx2.c
libkern_avx2_a_CFLAGS = $(AM_CFLAGS) $(SIMD_AVX2_CFLAGS) $(KERN_CFLAGS) -ffp-contract=off
LIBS_KERN_SIMD += libkern_avx2.a
endif
if HAVE_SIMD_AVX512
noinst_LIBRARIES += libkern_avx512.a
libkern_avx512_a_SOURCES = %D%/avx512.c
libkern_avx512_a_CFLAGS = $(AM_CFLAGS) $(SIMD_AVX512_CFLAGS) $(KERN_CFLAGS) -ffp-contract=off
LIBS_KERN_SIMD += libkern_avx512.a
endif
if HAVE_SIMD_AVX512_BF16
noinst_LIBRARIES += libkern_avx512_bf16.a
libkern_avx512_bf16_a_SOURCES = %D%/avx512_attn.c %D%/attn_narrow_template.h
libkern_avx512_bf16_a_CFLAGS = $(AM_CFLAGS) $(SIMD_AVX512_BF16_CFLAGS) $(KERN_CFLAGS) -ffp-contract=off
LIBS_KERN_SIMD += libkern_avx512_bf16.a
endif
amx_sources = \
	%D%/amx.h \
	%D%/amx_dequant.h \
	%D%/amx_dequant_half.h \
	%D%/amx_attn.c \
	%D%/amx_gate.h \
	%D%/amx_gate_piece_template.h \
	%D%/amx_index.c \
	%D%/amx_mul.c \
	%D%/amx_mul.h \
	%D%/amx_mul_bf16.c \
	%D%/amx_mul_rounded.c \
	%D%/amx_narrow_template.h
if HAVE_SIMD_AMX
noinst_LIBRARIES += libkern_amx.a
libkern_amx_a_SOURCES = $(amx_sources)
libkern_amx_a_CFLAGS = $(AM_CFLAGS) $(SIMD_AMX_CFLAGS) $(KERN_CFLAGS) -ffp-contract=off
LIBS_KERN_SIMD += libkern_amx.a
endif
if HAVE_SIMD_NEON
noinst_LIBRARIES += libkern_neon.a
libkern_neon_a_SOURCES = %D%/neon.c
libkern_neon_a_CFLAGS = $(AM_CFLAGS) $(SIMD_NEON_CFLAGS) $(KERN_CFLAGS) -ffp-contract=off
LIBS_KERN_SIMD += libkern_neon.a
endif
EXTRA_DIST += $(amx_sources) %D%/avx2.c %D%/avx512.c %D%/avx512_attn.c %D%/neon.c

libengine_a_SOURCES += engine/pool.c engine/pool.h
