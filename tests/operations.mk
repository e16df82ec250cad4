## what an operator does, tested at length; each target says why where it cannot run
EXTRA_DIST += %D%/systemd/run %D%/systemd/guest.py

## the built package in a booted Debian: about three minutes, as root
check-systemd:
	top_srcdir='$(abs_top_srcdir)' python3 $(srcdir)/tests/systemd/run
.PHONY: check-systemd

## two daemons behind HAProxy and nginx, which are Debian packages; a minute
check-proxy: latentd$(EXEEXT)
	$(AM_TESTS_ENVIRONMENT) LATENT_TEST_TIMEOUT=900 $(SHELL) $(srcdir)/tests/integration/run.sh $(srcdir)/tests/load/proxy.mjs
.PHONY: check-proxy
EXTRA_DIST += %D%/load/proxy.mjs %D%/load/client.mjs

## what SECURITY.md says that the daemon stands, measured; four minutes
check-load: latentd$(EXEEXT)
	ulimit -n `ulimit -Hn`; $(AM_TESTS_ENVIRONMENT) LATENT_TEST_TIMEOUT=1800 \
	$(SHELL) $(srcdir)/tests/integration/run.sh $(srcdir)/tests/load/abuse.mjs
.PHONY: check-load
EXTRA_DIST += %D%/load/abuse.mjs %D%/load/abuser.mjs

## each allocation, thread, read, write and accept fails in turn; a part of it, another one each time, in `make check`
TESTS += %D%/faults/faults.mjs
check-faults: latentd$(EXEEXT)
	$(AM_TESTS_ENVIRONMENT) FAULTS=all LATENT_TEST_TIMEOUT=1800 \
	$(SHELL) $(srcdir)/tests/integration/run.sh $(srcdir)/tests/faults/faults.mjs
.PHONY: check-faults
EXTRA_DIST += %D%/faults/faults.mjs %D%/faults/preload.c

## two hours of kills, reloads, cancels and full disks at 80 % load, every answer compared
check-chaos: latentd$(EXEEXT)
	$(AM_TESTS_ENVIRONMENT) LATENT_TEST_TIMEOUT=$$(( $${CHAOS_SECONDS:-7200} + 900 )) \
	$(SHELL) $(srcdir)/tests/integration/run.sh $(srcdir)/tests/load/chaos.mjs
.PHONY: check-chaos
EXTRA_DIST += %D%/load/chaos.mjs

## `make check` of a build of its own, in sanitized/, with AddressSanitizer (leaks too) and UndefinedBehaviorSanitizer;
## an hour on two cores
check-sanitizers:
	$(MKDIR_P) sanitized
	cd sanitized && { test -f Makefile || '$(abs_top_srcdir)/configure' \
	--enable-sanitize=address,undefined CFLAGS='-O1 -g' CC='$(CC)'; }
	cd sanitized && $(MAKE) $(AM_MAKEFLAGS) check
.PHONY: check-sanitizers
