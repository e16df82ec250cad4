## latentd.conf is what `latentd --print-default-config` prints; a test keeps it so
dist_sysconf_DATA = %D%/latentd.conf
systemdsystemunitdir = $(prefix)/lib/systemd/system
dist_systemdsystemunit_DATA = %D%/latentd.service
