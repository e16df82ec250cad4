## latentd.conf is what `latentd --print-default-config` prints; a test keeps it so
dist_sysconf_DATA = %D%/latentd.conf
systemdsystemunitdir = $(prefix)/lib/systemd/system
dist_systemdsystemunit_DATA = %D%/latentd.socket
nodist_systemdsystemunit_DATA = %D%/latentd.service %D%/latentd@.service
EXTRA_DIST += %D%/latentd.service.in
CLEANFILES += %D%/latentd.service %D%/latentd@.service
LATENTD_UNIT = $(AM_V_GEN)$(MKDIR_P) %D% && $(SED) -e 's,@bindir\@,$(bindir),g' -e 's,@sysconfdir\@,$(sysconfdir),g'
%D%/latentd.service: %D%/latentd.service.in Makefile
	$(LATENTD_UNIT) -e 's,@of\@,,' -e 's,@dir\@,,' -e 's,@own\@,,' $(srcdir)/%D%/latentd.service.in >$@
%D%/latentd@.service: %D%/latentd.service.in Makefile
	$(LATENTD_UNIT) -e 's,@of\@,: %i,' -e 's,@dir\@,/%i,' -e 's,@own\@,-%i,' $(srcdir)/%D%/latentd.service.in >$@

## for Prometheus and Grafana
monitoringdir = $(pkgdatadir)/monitoring
dist_monitoring_DATA = %D%/grafana-dashboard.json %D%/prometheus-rules.yml

## for several daemons
proxydir = $(pkgdatadir)/proxy
dist_proxy_DATA = %D%/haproxy.cfg %D%/nginx.conf
