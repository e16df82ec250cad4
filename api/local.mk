noinst_LIBRARIES += libapi.a
libapi_a_CPPFLAGS = $(AM_CPPFLAGS) $(CJSON_CFLAGS) $(SQLITE_CFLAGS)
libapi_a_SOURCES = \
	%D%/answer.c \
	%D%/anthropic.c %D%/anthropic_chat.c \
	%D%/assistant.c %D%/assistant.h \
	%D%/api.c %D%/api.h \
	%D%/batch.c \
	%D%/beam.c %D%/beam.h \
	%D%/build.c %D%/build.h \
	%D%/cache.c \
	%D%/calls.c %D%/calls.h %D%/calls_tagged.c %D%/calls_tagged.h \
	%D%/calls_deepseek.c %D%/calls_dsml.c %D%/calls_glm.c %D%/calls_hermes.c %D%/calls_json.c \
	%D%/calls_kimi.c %D%/calls_llama.c %D%/calls_longcat.c %D%/calls_marked.c %D%/calls_qwen_coder.c \
	%D%/chat.c \
	%D%/completions.c \
	%D%/deliver.c \
	%D%/embeddings.c \
	%D%/fields.def %D%/fields.h \
	%D%/generation.c \
	%D%/grant.c \
	%D%/internal.h \
	%D%/json_read.c %D%/json_read.h \
	%D%/json_write.c %D%/json_write.h \
	%D%/messages.c \
	%D%/infill.c %D%/native.c \
	%D%/ollama.c %D%/ollama_chat.c \
	%D%/openapi.c %D%/routes.h %D%/props.c %D%/page.c \
	%D%/params.c %D%/params.h %D%/prediction.c \
	%D%/parts.c %D%/parts.h \
	%D%/params_lists.c %D%/params_readers.h \
	%D%/responses.c %D%/responses.h %D%/responses_chat.c %D%/responses_kept.c \
	%D%/resume.c %D%/resume.h %D%/store.c %D%/store.h %D%/store_db.c %D%/store_db.h \
	%D%/structure.c %D%/tool_choice.c \
	%D%/pins.c \
	%D%/template.h %D%/template_ast.h %D%/template_builtin.h \
	%D%/template_lists.h %D%/template_text.h %D%/template_value.h \
	%D%/template_eval.c %D%/template_expr.c %D%/template_filters.c %D%/template_globals.c \
	%D%/template_lex.c %D%/template_lists.c %D%/template_methods.c %D%/template_parse.c \
	%D%/template_repr.c %D%/template_run.c %D%/template_tests.c %D%/template_text.c \
	%D%/template_value.c \
	%D%/tokenize.c

## the page as a C string
EXTRA_DIST += %D%/page.html
CLEANFILES += %D%/page_html.h
%D%/page_html.h: %D%/page.html
	$(AM_V_GEN)$(MKDIR_P) %D% && { echo 'static const char page_html[] ='; \
	$(AWK) '{ gsub(/\\/, "&&"); gsub(/"/, "\\\""); gsub(/\?\?/, "?\"\"?"); print "\"" $$0 "\\n\"" }' $(srcdir)/%D%/page.html; \
	echo ';'; } >$@.tmp && mv $@.tmp $@
%D%/libapi_a-page.$(OBJEXT): %D%/page_html.h
