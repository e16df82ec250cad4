# tests/fuzz/build.mk - the harnesses with libFuzzer, called by `make fuzz` with top, pkg_cflags, pkg_libs,
# kern_libs (kernels as the build has them, which readers of mechanisms name and harnesses never run) and FUZZ_CC. Objects and programs are in fuzz/ of the build folder, apart from the ordinary ones.
obj = fuzz
harnesses = gguf safetensors tokenizer config template disk access http body grammar
san = address,undefined
flags = -std=gnu11 -g -O1 -fno-omit-frame-pointer -fno-strict-aliasing -fno-sanitize-recover=all \
	-I$(top) -I. $(pkg_cflags) -DTPL_MAX_WORK=200000u

# Whatever the readers, the tokenizer and the templates may need; the archive gives what they do.
parts = base/ kvcache/ engine/model/ engine/attention/ engine/attention/family/ engine/attention/layout/ engine/tokenizer/ engine/grammar/ api/template api/json_ api/params api/structure api/messages api/anthropic_chat api/build \
	api/ollama_chat api/responses_chat api/tool_choice api/calls api/parts server/
sources = $(foreach p,$(parts),$(wildcard $(top)/$(p)*.c)) \
	$(foreach f,matrix pool products residual rope slab,$(top)/engine/$(f).c)
# llhttp comes as source where the system has no library of it
llhttp_objects = $(if $(llhttp),$(obj)/llhttp/llhttp.o $(obj)/llhttp/api.o $(obj)/llhttp/http.o)
objects = $(patsubst $(top)/%.c,$(obj)/%.o,$(filter-out %/main.c,$(sources))) $(llhttp_objects)
programs = $(harnesses:%=$(obj)/fuzz_%)

all: $(programs)

$(programs): $(obj)/fuzz_%: $(obj)/tests/fuzz/fuzz_%.o $(obj)/tests/fuzz/fuzz.o $(obj)/lib.a
	@echo "  FUZZLD   $@"
	@$(FUZZ_CC) -fsanitize=fuzzer,$(san) -o $@ $^ $(kern_libs) $(obj)/lib.a $(pkg_libs) -lm -lpthread

# again when this file changes: .SECONDARY does not miss an object of a new source
$(obj)/lib.a: $(objects) $(top)/tests/fuzz/build.mk
	@rm -f $@
	@ar rc $@ $(objects)

$(obj)/%.o: $(top)/%.c
	@mkdir -p $(@D)
	@echo "  FUZZCC   $@"
	@$(FUZZ_CC) $(flags) -fsanitize=fuzzer-no-link,$(san) -MMD -c -o $@ $<

$(obj)/llhttp/%.o: $(llhttp)/%.c
	@mkdir -p $(@D)
	@echo "  FUZZCC   $@"
	@$(FUZZ_CC) $(flags) -w -fsanitize=fuzzer-no-link,$(san) -c -o $@ $<

-include $(objects:.o=.d) $(harnesses:%=$(obj)/tests/fuzz/fuzz_%.d)
.SECONDARY:
.PHONY: all
