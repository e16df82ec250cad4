## the built daemon with real clients; each .mjs file is one test, run by run.sh under Node.js
TEST_EXTENSIONS += .mjs
MJS_LOG_DRIVER = $(LOG_DRIVER)
MJS_LOG_COMPILER = $(SHELL) $(top_srcdir)/tests/integration/run.sh

INTEGRATION_TESTS = \
	%D%/integration/api.mjs %D%/integration/metrics.mjs \
	%D%/integration/http.mjs %D%/integration/family.mjs %D%/integration/ready.mjs %D%/integration/keys.mjs %D%/integration/reload.mjs %D%/integration/tls.mjs %D%/integration/edge.mjs %D%/integration/traces.mjs \
	%D%/integration/golden.mjs %D%/integration/zoo.mjs \
	%D%/integration/concurrency.mjs %D%/integration/batch.mjs \
	%D%/integration/prefix.mjs %D%/integration/pins.mjs %D%/integration/scope.mjs %D%/integration/scheme.mjs %D%/integration/drafts.mjs \
	%D%/integration/disk.mjs %D%/integration/stride.mjs %D%/integration/kill.mjs \
	%D%/integration/cancel.mjs \
	%D%/integration/bench.mjs \
	%D%/integration/readme.mjs \
	%D%/integration/openai.mjs %D%/integration/clients.mjs \
	%D%/integration/structured.mjs %D%/integration/tool_choice.mjs %D%/integration/openapi.mjs %D%/integration/page.mjs %D%/integration/streams.mjs %D%/integration/resume.mjs %D%/integration/store.mjs %D%/integration/infill.mjs \
	%D%/integration/templates.mjs
TESTS += $(INTEGRATION_TESTS)

## a service manager in Python's standard library: Node.js has no datagram sockets of the file system
TEST_EXTENSIONS += .py
PY_LOG_DRIVER = $(LOG_DRIVER)
PY_LOG_COMPILER = $(PYTHON3)
TESTS += %D%/integration/man.sh
EXTRA_DIST += %D%/integration/man.sh
if HAVE_SYSTEMD
TESTS += %D%/integration/systemd.py
endif
EXTRA_DIST += %D%/integration/systemd.py
EXTRA_DIST += $(INTEGRATION_TESTS) \
	%D%/integration/run.sh %D%/integration/slow_disk.c %D%/integration/harness.mjs %D%/integration/npm.mjs %D%/integration/examples.mjs \
	%D%/load/bench_http.mjs %D%/load/sharers.mjs %D%/load/loop_cost.mjs %D%/load/stall.mjs %D%/load/soak.mjs %D%/load/README.md

## an hour with many clients; see tests/load/README.md
soak: all
	LATENT_TEST_TIMEOUT=$$(( $${SOAK_SECONDS:-3600} + 600 )) top_srcdir='$(abs_top_srcdir)' \
	top_builddir='$(abs_top_builddir)' $(SHELL) $(top_srcdir)/tests/integration/run.sh $(top_srcdir)/tests/load/soak.mjs
.PHONY: soak

## streams that share a prefix, beside the goal
bench-sharers: latentd$(EXEEXT)
	top_srcdir='$(abs_top_srcdir)' top_builddir='$(abs_top_builddir)' \
	$(SHELL) $(top_srcdir)/tests/integration/run.sh $(top_srcdir)/tests/load/sharers.mjs
.PHONY: bench-sharers

## what a streamed token costs the loop
bench-loop: latentd$(EXEEXT)
	top_srcdir='$(abs_top_srcdir)' top_builddir='$(abs_top_builddir)' LATENT_TEST_TIMEOUT=1800 \
	$(SHELL) $(top_srcdir)/tests/integration/run.sh $(top_srcdir)/tests/load/loop_cost.mjs
.PHONY: bench-loop

## kill -9 during writes of the disk tier, fifty times instead of three
check-kill: latentd$(EXEEXT)
	$(AM_TESTS_ENVIRONMENT) LATENT_KILLS=50 LATENT_TEST_TIMEOUT=3000 \
	$(SHELL) $(srcdir)/tests/integration/run.sh $(srcdir)/tests/integration/kill.mjs
.PHONY: check-kill

if SANITIZE
AM_TESTS_ENVIRONMENT += LATENT_SLOW=1; export LATENT_SLOW;
endif

clean-local: clean-integration
clean-integration:
	-rm -rf tests/integration/run
.PHONY: clean-integration

## the daemon over an engine that says what it is told
check_PROGRAMS += tests/scripted
tests_scripted_SOURCES = %D%/integration/scripted.c server/main.c
tests_scripted_CPPFLAGS = $(AM_CPPFLAGS) -DPKGDATADIR='"$(pkgdatadir)"'
tests_scripted_LDADD = $(LIBS_SERVER)
EXTRA_DIST += %D%/data/scripted.jinja %D%/data/prometheus-rules-test.yml
