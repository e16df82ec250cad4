## tests of kernels; `latent-bench kernels` times them
check_PROGRAMS += tests/t_kernels
TESTS += tests/t_kernels
kernel_checks = %D%/kernels/t_kernels.c \
	%D%/kernels/check_attention.c %D%/kernels/check_gate.c %D%/kernels/check_products.c %D%/kernels/check_small.c \
	%D%/kernels/checker.h \
	%D%/kernels/formats.c %D%/kernels/formats.h \
	%D%/kernels/guard.c %D%/kernels/guard.h %D%/kernels/values.c %D%/kernels/values.h
tests_t_kernels_SOURCES = $(kernel_checks)
tests_t_kernels_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_kernels_LDADD = $(LIBS_KERN) $(LIBS_BASE) $(CHECK_LIBS)

## The levels above AVX2 once more, their instructions in plain C: wrong answers show on any x86 machine.
EXTRA_DIST += %D%/kernels/emulate/avx512.h %D%/kernels/emulate/cpu.c
## SIMDe's own headers shift a 1 into the sign, which the sanitizer would end the test for
if EMULATE_SIMD
check_LIBRARIES += libkern_emulated.a
libkern_emulated_a_SOURCES = engine/kernels/amx_attn.c engine/kernels/amx_index.c engine/kernels/amx_mul.c \
	engine/kernels/amx_mul_bf16.c engine/kernels/amx_mul_rounded.c engine/kernels/avx512.c \
	engine/kernels/avx512_attn.c
libkern_emulated_a_CFLAGS = $(AM_CFLAGS) $(SIMD_AVX2_CFLAGS) -ffp-contract=off -fno-sanitize=shift -Wno-psabi -DUNROLL= \
	-DINLINE='static inline __attribute__((unused))' \
	-include $(top_srcdir)/tests/kernels/emulate/avx512.h
check_PROGRAMS += tests/t_kernels_emulated
TESTS += tests/t_kernels_emulated
tests_t_kernels_emulated_SOURCES = $(kernel_checks) %D%/kernels/emulate/cpu.c
tests_t_kernels_emulated_CPPFLAGS = $(TEST_CPPFLAGS) -DEMULATED
tests_t_kernels_emulated_LDADD = libkern.a libkern_emulated.a libkern_avx2.a $(LIBS_BASE) $(CHECK_LIBS)
endif
EXTRA_DIST += %D%/kernels/shim/check.h

## the NEON level under qemu-aarch64; skipped without the cross compiler and the emulator
dist_check_SCRIPTS += %D%/kernels/neon.sh
TESTS += %D%/kernels/neon.sh
AM_TESTS_ENVIRONMENT += \
	NEON_SOURCES='base/clock.c base/cpu.c $(libkern_a_SOURCES) $(tests_t_kernels_SOURCES)'; export NEON_SOURCES; \
	NEON_FLAGS='$(NEON_LEVEL_CFLAGS)'; export NEON_FLAGS; \
	NEON_CASES='$(NEON_CASES)'; export NEON_CASES;

NEON_CASES = 20
check-neon:
	$(MAKE) $(AM_MAKEFLAGS) check TESTS='%D%/kernels/neon.sh' NEON_CASES=60
.PHONY: check-neon
