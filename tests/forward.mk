## tests of the forward pass: random tiny models against a reference, and the shipped model
check_PROGRAMS += tests/t_forward tests/t_golden tests/t_fixtures
TESTS += tests/t_forward tests/t_golden tests/t_fixtures
tests_t_forward_SOURCES = %D%/forward/t_forward.c %D%/forward/tiny.c %D%/forward/tiny.h
tests_t_forward_CPPFLAGS = $(TEST_CPPFLAGS)
tests_t_forward_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)
tests_t_golden_SOURCES = %D%/forward/t_golden.c
tests_t_golden_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS)
tests_t_golden_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)
EXTRA_DIST += %D%/data/latent-mini-golden.json
tests_t_fixtures_SOURCES = %D%/forward/t_fixtures.c
tests_t_fixtures_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS)
tests_t_fixtures_LDADD = $(LIBS_ENGINE) $(CHECK_LIBS)
EXTRA_DIST += %D%/data/hf/deepseek_v2/config.json \
	%D%/data/hf/deepseek_v2/generation_config.json \
	%D%/data/hf/deepseek_v2/golden.json \
	%D%/data/hf/deepseek_v2/golden.safetensors \
	%D%/data/hf/deepseek_v2/model.safetensors \
	%D%/data/hf/deepseek_v2_group/config.json \
	%D%/data/hf/deepseek_v2_group/generation_config.json \
	%D%/data/hf/deepseek_v2_group/golden.json \
	%D%/data/hf/deepseek_v2_group/golden.safetensors \
	%D%/data/hf/deepseek_v2_group/model.safetensors \
	%D%/data/hf/deepseek_v3/config.json \
	%D%/data/hf/deepseek_v3/generation_config.json \
	%D%/data/hf/deepseek_v3/golden.json \
	%D%/data/hf/deepseek_v3/golden.safetensors \
	%D%/data/hf/deepseek_v3/model.safetensors \
	%D%/data/hf/deepseek_v32/config.json \
	%D%/data/hf/deepseek_v32/generation_config.json \
	%D%/data/hf/deepseek_v32/golden.json \
	%D%/data/hf/deepseek_v32/golden.safetensors \
	%D%/data/hf/deepseek_v32/model.safetensors \
	%D%/data/hf/glm4_moe_lite/config.json \
	%D%/data/hf/glm4_moe_lite/generation_config.json \
	%D%/data/hf/glm4_moe_lite/golden.json \
	%D%/data/hf/glm4_moe_lite/golden.safetensors \
	%D%/data/hf/glm4_moe_lite/model.safetensors \
	%D%/data/hf/longcat_flash/config.json \
	%D%/data/hf/longcat_flash/generation_config.json \
	%D%/data/hf/longcat_flash/golden.json \
	%D%/data/hf/longcat_flash/golden.safetensors \
	%D%/data/hf/longcat_flash/model.safetensors \
	%D%/data/hf/minicpm3/config.json \
	%D%/data/hf/minicpm3/generation_config.json \
	%D%/data/hf/minicpm3/golden.json \
	%D%/data/hf/minicpm3/golden.safetensors \
	%D%/data/hf/minicpm3/model.safetensors \
	%D%/data/hf/youtu/config.json \
	%D%/data/hf/youtu/generation_config.json \
	%D%/data/hf/youtu/golden.json \
	%D%/data/hf/youtu/golden.safetensors \
	%D%/data/hf/youtu/model.safetensors
