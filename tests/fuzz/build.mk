# tests/fuzz/build.mk - the harnesses with libFuzzer, called by `make fuzz` with top, pkg_cflags, pkg_libs
# and FUZZ_CC. Objects and programs are in fuzz/ of the build folder, apart from the ordinary ones.
obj = fuzz
harnesses = gguf safetensors tokenizer config template disk access http body grammar
san = address,undefined
flags = -std=gnu11 -g -O1 -fno-omit-frame-pointer -fno-strict-aliasing -fno-sanitize-recover=all \
	-I$(top) -I. $(pkg_cflags) -DTPL_MAX_WORK=200000u

# All there is; the archive gives what the harnesses need. Kernels of instruction sets come as they are, uninstrumented.
parts = base kvcache engine engine/model engine/tokenizer engine/grammar engine/attention engine/attention/family engine/attention/layout api server
sources = $(foreach p,$(parts),$(wildcard $(top)/$(p)/*.c)) \
	$(patsubst %,$(top)/engine/kernels/%.c,generic pack pack_quants kern)
# llhttp comes as source where the system has no library of it
llhttp_objects = $(if $(llhttp),$(obj)/llhttp/llhttp.o $(obj)/llhttp/api.o $(obj)/llhttp/http.o)
objects = $(patsubst $(top)/%.c,$(obj)/%.o,$(filter-out %/main.c %/page.c,$(sources))) $(llhttp_objects)
programs = $(harnesses:%=$(obj)/fuzz_%)

all: $(programs)

$(programs): $(obj)/fuzz_%: $(obj)/tests/fuzz/fuzz_%.o $(obj)/tests/fuzz/fuzz.o $(obj)/lib.a
	@echo "  FUZZLD   $@"
	@$(FUZZ_CC) -fsanitize=fuzzer,$(san) -o $@ $^ $(pkg_libs) -lm -lpthread

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
