libengine_a_SOURCES += \
	%D%/arch.def \
	%D%/arch_deepseek_v3.c \
	%D%/checkpoint.c %D%/checkpoint.h \
	%D%/gguf.c \
	%D%/hf.c \
	%D%/internal.h \
	%D%/map.c \
	%D%/safetensors.c \
	%D%/tensor.c %D%/tensor.h \
	%D%/tensors.c
