## grammars: what an answer may look like
libengine_a_SOURCES += %D%/grammar.h %D%/grammars.c %D%/compiled.h \
	%D%/rules.c %D%/rules.h %D%/expr.c %D%/program.c %D%/program.h \
	%D%/automaton.c %D%/automaton.h %D%/vocab.c %D%/vocab.h %D%/matcher.c \
	%D%/gbnf.c %D%/regex.c %D%/tag.c %D%/calls.c %D%/marks.c %D%/marks.h \
	%D%/schema.c %D%/schema.h %D%/schema_merge.c %D%/schema_values.c %D%/schema_object.c %D%/schema_scalar.c
