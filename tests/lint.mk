## the house rules: direction of includes, headers that stand alone, style
LINT_TESTS = %D%/lint/layering.sh %D%/lint/headers.sh %D%/lint/style.sh
dist_check_SCRIPTS += $(LINT_TESTS)
TESTS += $(LINT_TESTS)
AM_TESTS_ENVIRONMENT += \
	LINT_CPPFLAGS='$(UV_CFLAGS) $(CJSON_CFLAGS) $(PCRE2_CFLAGS) $(UTF8PROC_CFLAGS) $(XXHASH_CFLAGS) $(LLHTTP_CFLAGS) $(OPENSSL_CFLAGS) $(CHECK_CFLAGS)'; \
	export LINT_CPPFLAGS; \
	LINT_SIMD_AVX2='$(SIMD_AVX2_CFLAGS)'; export LINT_SIMD_AVX2; \
	LINT_SIMD_AMX='$(SIMD_AMX_CFLAGS)'; export LINT_SIMD_AMX; \
	LINT_SIMD_AVX512='$(SIMD_AVX512_BF16_CFLAGS)'; export LINT_SIMD_AVX512; \
	LINT_SIMD_NEON='$(SIMD_NEON_CFLAGS)'; export LINT_SIMD_NEON;

lint:
	$(MAKE) $(AM_MAKEFLAGS) check TESTS='$(LINT_TESTS)'
.PHONY: lint
