## what an operator does, tested at length; each target says why where it cannot run
EXTRA_DIST += %D%/systemd/run %D%/systemd/guest.py

## the built package in a booted Debian: about three minutes, as root
check-systemd:
	top_srcdir='$(abs_top_srcdir)' python3 $(srcdir)/tests/systemd/run
.PHONY: check-systemd
