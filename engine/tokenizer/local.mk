libengine_a_SOURCES += %D%/tokenizer.h
