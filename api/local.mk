noinst_LIBRARIES += libapi.a
libapi_a_CPPFLAGS = $(AM_CPPFLAGS) $(CJSON_CFLAGS)
libapi_a_SOURCES = \
	%D%/answer.c \
	%D%/api.c %D%/api.h \
	%D%/chat.c \
	%D%/completions.c \
	%D%/fields.def \
	%D%/generation.c \
	%D%/internal.h \
	%D%/json_read.c %D%/json_read.h \
	%D%/json_write.c %D%/json_write.h \
	%D%/params.c %D%/params.h \
	%D%/template.h %D%/template_ast.h %D%/template_parse.c %D%/template_render.c \
	%D%/tokenize.c
