libengine_a_SOURCES += \
	%D%/added.c %D%/added.h \
	%D%/bpe.c %D%/bpe.h \
	%D%/detok.c %D%/encode.c \
	%D%/normal.c %D%/normal.h \
	%D%/later.def %D%/newer.def \
	%D%/pattern.c %D%/pattern.h \
	%D%/pretok.c %D%/pretok.def %D%/pretok.h \
	%D%/tokenizer.c %D%/tokenizer.h %D%/tokenizer_internal.h \
	%D%/vocab.h %D%/vocab_gguf.c %D%/vocab_json.c %D%/vocab_json_steps.c %D%/vocab_json.h \
	%D%/vocab_tiktoken.c
