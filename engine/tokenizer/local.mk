libengine_a_SOURCES += \
	%D%/bpe.c %D%/bpe.h \
	%D%/pretok.c %D%/pretok.def %D%/pretok.h \
	%D%/tokenizer.c %D%/tokenizer.h \
	%D%/vocab.h %D%/vocab_gguf.c %D%/vocab_json.c
