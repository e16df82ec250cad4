## tests of api
check_PROGRAMS += tests/t_template tests/t_template_limits
TESTS += tests/t_template tests/t_template_limits
EXTRA_DIST += %D%/data/template-cases.json
tests_t_template_SOURCES = %D%/unit/t_template.c %D%/unit/rendered.c %D%/unit/rendered.h
tests_t_template_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS)
tests_t_template_LDADD = $(LIBS_API) $(CHECK_LIBS)
tests_t_template_limits_SOURCES = \
	%D%/unit/t_template_limits.c %D%/unit/rendered.c %D%/unit/rendered.h
tests_t_template_limits_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS)
tests_t_template_limits_LDADD = $(LIBS_API) $(CHECK_LIBS)

check_PROGRAMS += tests/template/render
tests_template_render_SOURCES = %D%/template/render.c
tests_template_render_CPPFLAGS = $(AM_CPPFLAGS) $(CJSON_CFLAGS)
tests_template_render_LDADD = $(LIBS_API)

## chat templates against @huggingface/jinja and against Jinja2
TEMPLATE_TESTS = %D%/template/compare.mjs %D%/template/jinja2.sh
TESTS += $(TEMPLATE_TESTS)
EXTRA_DIST += $(TEMPLATE_TESTS) %D%/template/jinja2_diff.py %D%/template/models/README.md \
	%D%/template/models/deepseek-r1-distill-qwen.jinja %D%/template/models/deepseek-v2.jinja \
	%D%/template/models/deepseek-v3.1.jinja %D%/template/models/glm-4.6.jinja \
	%D%/template/models/glm-4.7-flash.jinja %D%/template/models/kimi-k2-instruct.jinja \
	%D%/template/models/kimi-k2-thinking.jinja %D%/template/models/kimi-k2.jinja \
	%D%/template/models/qwen2.5.jinja %D%/template/models/qwen3-coder.jinja \
	%D%/template/models/qwen3.jinja %D%/template/models/qwq.jinja

check_PROGRAMS += tests/t_assistant
TESTS += tests/t_assistant
tests_t_assistant_SOURCES = %D%/unit/t_assistant.c
tests_t_assistant_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS)
tests_t_assistant_LDADD = $(LIBS_API) $(CHECK_LIBS)

check_PROGRAMS += tests/t_tool_choice
TESTS += tests/t_tool_choice
tests_t_tool_choice_SOURCES = %D%/unit/t_tool_choice.c %D%/unit/spm.h
tests_t_tool_choice_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS)
tests_t_tool_choice_LDADD = $(LIBS_API) $(CHECK_LIBS)

check_PROGRAMS += tests/t_kept
TESTS += tests/t_kept
tests_t_kept_SOURCES = %D%/unit/t_kept.c
tests_t_kept_CPPFLAGS = $(TEST_CPPFLAGS) $(CJSON_CFLAGS) $(SQLITE_CFLAGS)
tests_t_kept_LDADD = $(LIBS_API) $(CHECK_LIBS)
