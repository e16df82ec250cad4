dist_doc_DATA = %D%/design.md %D%/api.md %D%/performance.md %D%/adding.md %D%/cache.md %D%/layers.md %D%/templates.md \
	%D%/fuzzing.md %D%/convert.md %D%/access.md %D%/structured.md %D%/metrics.md %D%/operating.md %D%/attention.md \
	%D%/family-format.md %D%/batch.md etc/latentd.keys.example

## man pages; latentd.conf(5) is made of etc/latentd.conf, and that of server/conf.def
dist_man_MANS = %D%/man/latentd.8 %D%/man/latentd-batch.1 %D%/man/latent-convert.1 %D%/man/latent-bench.1
nodist_man_MANS = %D%/man/latentd.conf.5
EXTRA_DIST += %D%/man/conf.awk
CLEANFILES += $(nodist_man_MANS)
%D%/man/latentd.conf.5: %D%/man/conf.awk etc/latentd.conf
	$(AM_V_GEN)$(MKDIR_P) %D%/man && LC_ALL=C $(AWK) -f $(srcdir)/%D%/man/conf.awk $(srcdir)/etc/latentd.conf >$@.tmp && mv $@.tmp $@
EXTRA_DIST += %D%/plots
