## forward pass and attention mechanisms
libengine_a_SOURCES += \
	%D%/attention.c %D%/attention.def %D%/attention.h \
	%D%/balance.c %D%/balance.h \
	%D%/family.c %D%/family_arch.c %D%/layout.c %D%/layout.h \
	%D%/layout/hunyuan.c %D%/layout/llama.c %D%/layout/mlra.c %D%/layout/mtla.c %D%/layout/step3.c %D%/layout/zaya.c %D%/family.def %D%/family.h %D%/family_parts.c %D%/family_work.h \
	%D%/family/gqa.c %D%/family/gta.c %D%/family/mfa.c %D%/family/mfa.h %D%/family/mfa_kr.c \
	%D%/family/query.c %D%/family/query.h %D%/family/latent.c %D%/family/latent.h \
	%D%/family/gla.c %D%/family/mla.c %D%/family/mla_kvr.c %D%/family/mla_vlm.c %D%/family/mlra.c \
	%D%/family/cca.c %D%/family/eg_mla.c %D%/family/mtla.c %D%/family/lrkv.c %D%/family/mka.c %D%/family/moas.c %D%/family/tpa.c %D%/family/tucker.c \
	%D%/dsa.c %D%/topk.c %D%/topk.h \
	%D%/mla.c %D%/mla.h %D%/mla_product.c %D%/mla_product.h \
	%D%/mla_decompressed.c %D%/mla_decompressed.h \
	%D%/paged.c %D%/paged.h \
	%D%/stack.c %D%/stack.h \
	engine/ffn.c engine/ffn.h \
	engine/forward.c engine/forward.h \
	engine/matrix.c engine/matrix.h engine/products.c engine/slab.c engine/slab.h \
	engine/rope.c engine/rope.h \
	engine/residual.c engine/residual.h \
	engine/router.c engine/router.h engine/router_mlp.c engine/router_mlp.h \
	engine/scheme.c engine/scheme.h \
	engine/step.h
