## latentd.conf is what `latentd --print-default-config` prints; a test keeps it so
dist_sysconf_DATA = %D%/latentd.conf
systemdsystemunitdir = $(prefix)/lib/systemd/system
nodist_systemdsystemunit_DATA = %D%/latentd.service
EXTRA_DIST += %D%/latentd.service.in
CLEANFILES += %D%/latentd.service
%D%/latentd.service: %D%/latentd.service.in Makefile
	$(AM_V_GEN)$(MKDIR_P) %D% && $(SED) -e 's,@bindir\@,$(bindir),g' \
	  -e 's,@sysconfdir\@,$(sysconfdir),g' $(srcdir)/%D%/latentd.service.in >$@
