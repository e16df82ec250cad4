## readers of model files
libengine_a_SOURCES += %D%/checkpoint.h %D%/tensor.h %D%/tensor.c \
	%D%/tensor_quants.c %D%/tensor_quants.h \
	%D%/arch.c %D%/arch.h %D%/arch.def %D%/arch_deepseek_v3.c %D%/arch_deepseek_v32.c %D%/arch_longcat.c %D%/arch_deepseek_v2.c \
	%D%/arch_glm4_moe_lite.c %D%/arch_kimi_k2.c %D%/arch_minicpm3.c %D%/arch_youtu.c \
	%D%/bind.c %D%/checkpoint.c %D%/checkpoint_internal.h \
	%D%/deepseek.c %D%/deepseek.h %D%/deepseek_bind.c %D%/deepseek_keys.c \
	%D%/fingerprint.c %D%/gguf.c %D%/gguf.h %D%/gguf_checkpoint.c %D%/gguf_tokenizer.c \
	%D%/gguf_write.c %D%/gguf_write.h \
	%D%/hf.c %D%/json.c %D%/json.h %D%/keys.c %D%/keys.h %D%/map.c %D%/map.h \
	%D%/safetensors.c %D%/safetensors.h %D%/tix.c %D%/tix.h
