libengine_a_SOURCES += %D%/tensor.c %D%/tensor.h %D%/checkpoint.h
