noinst_LIBRARIES += libserver.a
libserver_a_CPPFLAGS = $(AM_CPPFLAGS) $(UV_CFLAGS) $(LLHTTP_CFLAGS) $(OPENSSL_CFLAGS) $(SYSTEMD_CFLAGS)
libserver_a_SOURCES = \
	%D%/absent.c \
	%D%/access.c %D%/access.h \
	%D%/access_log.c \
	%D%/audit.c \
	%D%/batch.c %D%/batch.h \
	%D%/batch_file.c %D%/batch_file.h \
	%D%/batch_ids.c %D%/batch_ids.h \
	%D%/batch_progress.c %D%/batch_progress.h \
	%D%/conf.c %D%/conf.def %D%/conf.h \
	%D%/conn.c \
	%D%/cors.c \
	%D%/crowd.c \
	%D%/internal.h \
	%D%/json.c %D%/json.h \
	%D%/keys.c %D%/keys.h \
	%D%/limits.c %D%/limits.h \
	%D%/listener.c \
	%D%/openssl.h \
	%D%/peer.c %D%/peer.h \
	%D%/pins.c \
	%D%/post.c %D%/post.h \
	%D%/reload.c \
	%D%/reply.c %D%/request.c \
	%D%/metrics.c %D%/routes.c \
	%D%/server.c %D%/server.h \
	%D%/spans.c \
	%D%/start.c %D%/start.h \
	%D%/systemd.c \
	%D%/trace.c %D%/trace.h \
	%D%/traces.c %D%/traces.h \
	%D%/watchdog.c \
	%D%/tls.c %D%/tls.h

bin_PROGRAMS += latentd
latentd_CPPFLAGS = $(AM_CPPFLAGS) -DPKGDATADIR='"$(pkgdatadir)"'
latentd_SOURCES = %D%/main.c
latentd_LDADD = $(LIBS_SERVER)

if LLHTTP_FROM_SOURCE
## Debian installs llhttp as source: each file is compiled through a one-line file in the build tree.
noinst_LIBRARIES += libllhttp.a
LIBS_LLHTTP = libllhttp.a
LLHTTP_WRAPPERS = %D%/llhttp-llhttp.c %D%/llhttp-api.c %D%/llhttp-http.c
nodist_libllhttp_a_SOURCES = $(LLHTTP_WRAPPERS)
libllhttp_a_SOURCES =
libllhttp_a_CPPFLAGS = $(LLHTTP_CFLAGS)
libllhttp_a_CFLAGS = -w $(SAN_CFLAGS)
$(LLHTTP_WRAPPERS): Makefile
	$(AM_V_GEN)$(MKDIR_P) server && name=`basename $@` && \
	  echo "#include \"$(LLHTTP_SRC)/$${name#llhttp-}\"" >$@
CLEANFILES += $(LLHTTP_WRAPPERS)
else
LIBS_LLHTTP = $(LLHTTP_LIBS)
endif
